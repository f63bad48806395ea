/**
 * The 128-bit SIMD limit of one core: independent chains x_i = x_i * a + a that never leave the registers, eight times over in each turn
 * of the loop. `mul` then `add` in the plain build, one `f32x4.relaxed_madd` in the relaxed one. Fourteen chains cover the latency
 * of a mul and an add; with a they fill the fifteen registers that V8 gives out.
 */
const chains = 14
const unroll = 8
const op = {
  get: 0x20,
  set: 0x21,
  const: 0x41,
  splat: [0xfd, 0x13],
  mul: [0xfd, 0xe6, 0x01],
  add: [0xfd, 0xe4, 0x01],
  madd: [0xfd, 0x85, 0x02],
}
const i32 = 0x7f
const f32 = 0x7d
const v128 = 0x7b
const section = (id, bytes) => [id, ...unsigned(bytes.length), ...bytes]

function unsigned(n) {
  const bytes = []
  do {
    bytes.push((n & 127) | (n > 127 ? 128 : 0))
    n >>>= 7
  } while (n)
  return bytes
}

/** (turns: i32, a: f32) -> f32, the sum of the chains, so that none of them can be left out. */
function assemble(relaxed) {
  const [turns, a, va, x0] = [0, 1, 2, 3]
  const body = [op.get, a, ...op.splat, op.set, va]
  for (let i = 0; i < chains; i++) body.push(op.get, va, op.set, x0 + i)
  body.push(0x03, 0x40) // loop
  for (let u = 0; u < unroll; u++) {
    for (let i = 0; i < chains; i++) {
      body.push(op.get, x0 + i, op.get, va)
      if (relaxed) body.push(op.get, va, ...op.madd)
      else body.push(...op.mul, op.get, va, ...op.add)
      body.push(op.set, x0 + i)
    }
  }
  body.push(op.get, turns, op.const, 1, 0x6b, 0x22, turns, 0x0d, 0, 0x0b) // turns -= 1; br_if 0; end
  body.push(op.get, x0)
  for (let i = 1; i < chains; i++) body.push(op.get, x0 + i, ...op.add)
  body.push(0xfd, 0x1f, 0, 0x0b) // f32x4.extract_lane 0
  const code = [1, ...unsigned(1 + chains), v128, ...body]
  return new Uint8Array([
    ...Buffer.from('\0asm\x01\0\0\0'),
    ...section(1, [1, 0x60, 2, i32, f32, 1, f32]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 'f'.charCodeAt(0), 0, 0]),
    ...section(10, [1, ...unsigned(code.length), ...code]),
  ])
}

export async function open({ relaxed }) {
  const { instance } = await WebAssembly.instantiate(assemble(relaxed))
  const turns = 4096
  return {
    threads: 1,
    version: '',
    prepare: () => ({
      flops: turns * unroll * chains * 8,
      // x settles at a / (1 - a) = 1: no overflow, no denormals.
      work: (repeats) => {
        for (let i = 0; i < repeats; i++) instance.exports.f(turns, 0.5)
      },
    }),
  }
}
