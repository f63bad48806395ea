/** How claims are checked, as both pages ask for it; on WebGPU, too, where `gpu`. */
export function controls(gpu) {
  const webgpu = gpu ? '<option value="webgpu">WebGPU, float32</option>' : ''
  return `<label>Device <select id="device"><option value="wasm">wasm, float32</option><option value="reference">reference, float64</option>${webgpu}</select></label>
<label>Cases <input type="number" id="runs" min="1" max="100000" value="100"></label>
<label>Seed <input type="number" id="seed" min="0" max="2147483647" value="1"></label>`
}
