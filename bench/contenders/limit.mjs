/**
 * The 128-bit SIMD limit of one core: independent chains x_i = x_i * a + a that never leave the registers, eight times over in each turn
 * of the loop. `mul` then `add` in the plain build, one `f32x4.relaxed_madd` in the relaxed one. Fourteen chains cover the latency
 * of a mul and an add; with a they fill the fifteen registers that V8 gives out. At 256 bits V8 merges the chains two by two, since the two are
 * read from neighbouring places before the loop and written there after it.
 */
const pairs = 14
const unroll = 8
const op = {
  get: 0x20,
  set: 0x21,
  const: 0x41,
  splat: [0xfd, 0x13],
  load: (offset) => [0x41, 0, 0xfd, 0x00, 4, ...unsigned(offset)],
  store: (offset, value) => [0x41, 0, ...value, 0xfd, 0x0b, 4, ...unsigned(offset)],
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

/** (turns: i32, a: f32), on a memory whose numbers are 1; the chains are written to it, so that none of them can be left out. */
function assemble(relaxed, chains) {
  const [turns, a, va, x0] = [0, 1, 2, 3]
  const body = [op.get, a, ...op.splat, op.set, va]
  for (let i = 0; i < chains; i++) body.push(...op.load(16 * i), op.set, x0 + i)
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
  for (let i = 0; i < chains; i++) body.push(...op.store(16 * i, [op.get, x0 + i]))
  body.push(0x0b)
  const code = [1, ...unsigned(1 + chains), v128, ...body]
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // \0asm, version 1
    ...section(1, [1, 0x60, 2, i32, f32, 0]),
    ...section(3, [1, 0]),
    ...section(5, [1, 0, 1]),
    ...section(7, [2, 1, 'f'.charCodeAt(0), 0, 0, 1, 'm'.charCodeAt(0), 2, 0]),
    ...section(10, [1, ...unsigned(code.length), ...code]),
  ])
}

export async function open({ relaxed, wide = false }) {
  const chains = wide ? 2 * pairs : pairs
  const { instance } = await WebAssembly.instantiate(assemble(relaxed, chains))
  new Float32Array(instance.exports.m.buffer).fill(1)
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
