/** The process of the WebGPU benchmark: one adapter, our kernels and the plain ones of baselines.wgsl, side by side. */
import { readFileSync } from 'node:fs'
import { webgpuDevice } from '../dist/engine/index.js'
import { serve } from './child.mjs'
import { casesMemory } from './memory.mjs'
import { time } from './timing.mjs'
import { webgpuCases } from './webgpu-cases.mjs'

const source = readFileSync(new URL('./baselines.wgsl', import.meta.url), 'utf8')
const bindings = Object.fromEntries(
  [...source.matchAll(/@binding\((\d+)\) var<storage, \w+> (\w+)/g)].map(([, at, name]) => [name, Number(at)]),
)
const [, members] = source.match(/struct Params \{([^}]*)\}/)
const params = [...members.replace(/\/\/.*/g, '').matchAll(/(\w+): (\w+),/g)].map(([, name, type]) => ({ name, type }))

/** A sample lasts this long, or one call. */
const seconds = 0.1
/** RMS of the difference to RMS of the values: sums of up to 1,024 terms in another order, and WGSL's own exp. */
const bound = 1e-4

let device
let memory
let shader
let pipelines
let uniforms = []
/** By contender: run(count). */
let contenders = {}

function pipelineOf(entry) {
  pipelines[entry] ??= device.gpu.createComputePipeline({ layout: 'auto', compute: { module: shader, entryPoint: entry } })
  return pipelines[entry]
}

function uniform(values) {
  const unknown = Object.keys(values).find((name) => !params.some((p) => p.name === name))
  if (unknown) throw new Error(`baselines.wgsl has no parameter ${unknown}`)
  const data = new DataView(new ArrayBuffer(16 * Math.ceil(params.length / 4)))
  for (const [i, { name, type }] of params.entries())
    if (type === 'f32') data.setFloat32(4 * i, values[name] ?? 0, true)
    else data.setUint32(4 * i, values[name] ?? 0, true)
  const buffer = device.gpu.createBuffer({ size: data.byteLength, usage: 64 | 8 }) // UNIFORM, COPY_DST
  device.gpu.queue.writeBuffer(buffer, 0, data.buffer)
  uniforms.push(buffer)
  return buffer
}

/** Records the dispatches `count` times and submits them at once. */
function recorded(dispatches) {
  const ready = dispatches.map(({ entry, bind, params, groups }) => {
    const pipeline = pipelineOf(entry)
    const buffers = Object.entries(bind).map(([name, { memory }]) => ({ binding: bindings[name], resource: { buffer: memory.buffer } }))
    const group = device.gpu.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: uniform(params) } }, ...buffers],
    })
    return { pipeline, group, groups }
  })
  return (count) => {
    const encoder = device.gpu.createCommandEncoder()
    const pass = encoder.beginComputePass()
    for (let i = 0; i < count; i++)
      for (const { pipeline, group, groups } of ready) {
        pass.setPipeline(pipeline)
        pass.setBindGroup(0, group)
        pass.dispatchWorkgroups(...groups)
      }
    pass.end()
    device.gpu.queue.submit([encoder.finish()])
  }
}

/** The largest ratio of RMS, of the results one by one. */
async function compare(results) {
  let worst = 0
  for (const { name, ours, plain, from = 0, size } of results) {
    const x = await device.read(ours, size)
    const y = (await device.read(plain, from + size)).subarray(from)
    const sum = (f) => x.reduce((total, value, i) => total + f(value, y[i]) ** 2, 0)
    const ratio = Math.sqrt(sum((a, b) => a - b) / sum((a) => a))
    if (!(ratio <= bound)) throw new Error(`${name} differs from what the plain kernel gives: ratio of RMS ${ratio}, bound ${bound}`)
    worst = Math.max(worst, ratio)
  }
  return worst
}

serve({
  async open() {
    device = await webgpuDevice()
    memory = casesMemory(device)
    shader = device.gpu.createShaderModule({ code: source })
    pipelines = {}
    return { description: device.description, software: device.capabilities.software }
  },
  async prepare({ index }) {
    memory.freeAll()
    for (const buffer of uniforms) buffer.destroy()
    uniforms = []
    const { make, plain, sizes } = webgpuCases[index]
    const { shape, flops, elements, run, operands } = make(device.kernels, memory, sizes)
    const { dispatches, results } = plain(operands, memory)
    const once = recorded(dispatches)
    /** Both are waited for by the same read, of one value of a result. */
    const waited = (work) => async (count) => {
      work(count)
      await device.read(results[0].ours, 1)
    }
    const ours = waited((count) => {
      for (let i = 0; i < count; i++) run()
    })
    const theirs = waited(once)
    // The first call compiles, and is compared: what accumulates has done so once.
    await ours(1)
    await theirs(1)
    const difference = await compare(results)
    contenders = {}
    for (const [name, work] of Object.entries({ plain: theirs, ours })) {
      const repeats = Math.max(1, Math.ceil(seconds / (await time(work, 1))))
      contenders[name] = () => time(work, repeats)
    }
    return { shape, flops, elements, difference }
  },
  /** One sample of a contender, in seconds a call. */
  sample: (name) => contenders[name](),
})
