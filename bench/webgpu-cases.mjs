/**
 * What the benchmark of the WebGPU kernels measures: a case of kernel-cases.mjs at sizes that a software adapter gets through, and the plain kernel
 * of baselines.wgsl that does the same. `plain` gets the case's operands and gives dispatches: entry, storages by the names of their bindings,
 * parameters, workgroups, and at last which of its storages holds, from which element on, what the case leaves where.
 *
 * @typedef {{ float(size: number, from?: number): any, empty(size: number): any }} Memory
 * @typedef {{ entry: string, bind: object, params: object, groups: number[] }} Dispatch
 * @typedef {{ dispatches: Dispatch[], results: { name: string, ours: any, plain: any, from?: number, size: number }[] }} Plain
 */
import { cases, fastWeights, matmul, sizesOf } from './kernel-cases.mjs'

const blocks = (n) => [Math.ceil(n / 64)]

const plainMatmul = ({ a, b, c, sizes }, m) => {
  const { M, N, K, transposeA, transposeB, accumulate } = sizes
  const out = m.float(M * N)
  const [rowA, columnA] = transposeA ? [1, M] : [K, 1]
  const [rowB, columnB] = transposeB ? [1, K] : [N, 1]
  const params = { M, N, K, rowA, columnA, rowB, columnB, accumulate: Number(accumulate) }
  return {
    dispatches: [{ entry: 'matmul', bind: { a, b, c: out }, params, groups: [Math.ceil(N / 8), Math.ceil(M / 8)] }],
    results: [{ name: 'c', ours: c, plain: out, size: M * N }],
  }
}

/** One dispatch, whose result is y. */
const single = (entry, bind, params, threads, m, name, ours, size) => {
  const y = m.empty(size)
  return {
    dispatches: [{ entry, bind: { ...bind, y }, params, groups: blocks(threads) }],
    results: [{ name, ours, plain: y, size }],
  }
}

const plainFastWeights = (backward) => (o, m) => {
  const { inputs, outputs, cotangents, gradients, gateWidth } = o
  const { B, T, H, K, V, scale } = o.sizes
  const [tokens, heads] = [B * T * H, B * H]
  const slots = backward ? T + 2 : 1
  const states = m.empty(heads * slots * K * V)
  const [y, decay] = [m.empty(tokens * V), m.empty(Math.max(1, tokens * gateWidth))]
  const corrects = Number(inputs.beta !== null)
  const params = { T, H, K, V, heads, gateWidth, corrects, slots, scale }
  // What a rule doesn't have is bound to something that it does have, and not read.
  const bind = { q: inputs.q, k: inputs.k, v: inputs.v, beta: inputs.beta ?? inputs.q, decay, states }
  const dispatches = [{ entry: 'recurrence', bind: { ...bind, y }, params, groups: blocks(heads * V) }]
  if (gateWidth) {
    const n = tokens * gateWidth
    dispatches.unshift({ entry: 'decays', bind: { x: inputs.gate, y: decay }, params: { n }, groups: blocks(n) })
  }
  const results = [{ name: 'y', ours: outputs.y, plain: y, size: tokens * V }]
  if (backward) {
    const all = m.empty(tokens * (2 * K + V + 1 + gateWidth))
    const { q, k, v, beta } = bind
    dispatches.push({
      entry: 'recurrenceBackward',
      bind: { q, k, v, beta, decay, states, dy: cotangents.dy, gradients: all },
      params,
      groups: [heads],
    })
    let from = 0
    for (const [name, size] of Object.entries({ dq: K, dk: K, dv: V, dbeta: 1, dgate: gateWidth })) {
      if (gradients[name]) results.push({ name, ours: gradients[name], plain: all, from, size: tokens * size })
      from += tokens * size
    }
  }
  return { dispatches, results }
}

const plain = {
  'sum over rows (bias gradient)': ({ x, y, R, n }, m) => single('sumColumns', { x }, { R, n }, n, m, 'y', y, n),
  'sum over columns': ({ x, y, R, n }, m) => single('sumRows', { x }, { R, n }, R, m, 'y', y, R),
  'layer norm': ({ x, gain, bias, y, R, n }, m) => single('layerNorm', { x, gain, bias }, { R, n, eps: 1e-5 }, R, m, 'y', y, R * n),
  'layer norm backward': ({ x, gain, stats, dy, dx, R, n }, m) =>
    single('layerNormBackward', { x, gain, stats, dy }, { R, n }, R, m, 'dx', dx, R * n),
  'layer norm gain, bias backward': ({ x, stats, dy, dgain, dbias, R, n }, m) => {
    const bias = m.empty(n)
    const { dispatches, results } = single('layerNormGainBackward', { x, stats, dy, dbias: bias }, { R, n }, n, m, 'dgain', dgain, n)
    return { dispatches, results: [...results, { name: 'dbias', ours: dbias, plain: bias, size: n }] }
  },
  'causal softmax': ({ x, y, R, n }, m) => single('softmax', { x }, { R, n, causal: 1 }, R, m, 'y', y, R * n),
  'softmax backward': ({ y, dy, dx, R, n }, m) => single('softmaxBackward', { x: y, dy }, { R, n }, R, m, 'dx', dx, R * n),
  'cross-entropy': ({ logits, target, loss, R, n }, m) =>
    single('crossEntropy', { x: logits, index: target }, { R, n }, R, m, 'loss', loss, R),
  'embedding backward': ({ dy, index, dtable, R, N, D }, m) =>
    single('gatherBackward', { dy, index }, { R, N, n: D }, N * D, m, 'dtable', dtable, N * D),
}

/** The model of the benchmark of a training step called small, 4 of its sequences. */
const small = sizesOf({ B: 4, D: 128, H: 4, F: 512 })
const rules = {
  'sum rule': [null, 0],
  'delta rule': ['beta', 0],
  'scalar-gated delta rule': ['beta', 1],
  'vector-gated delta rule': ['beta', 'K'],
}
const lengths = [256, 512]

const matmuls = {
  ...Object.fromEntries([128, 256, 512].map((n) => [`matmul ${n}`, matmul('', n, n, n)])),
  'matmul x W^T': matmul('b', 512, 512, 128),
  'matmul dW += dy^T x': matmul('a', 512, 128, 1024, { accumulate: true }),
}

/** Forward, then backward. */
const both = (make) => (k, m, sizes) => {
  const facts = make(k, m, sizes)
  const { run, operands } = facts
  return {
    ...facts,
    flops: 1.5 * facts.flops,
    run() {
      operands.forward()
      run()
    },
  }
}

const recurrences = Object.entries(rules).flatMap(([name, [programmed, gates]]) =>
  lengths
    .filter((T) => T === lengths[0] || name === 'delta rule')
    .flatMap((T) => [
      { name: `${name}, recurrent`, T, make: fastWeights(programmed, gates, 'recurrent', false), plain: plainFastWeights(false) },
      { name: `${name}, chunk`, T, make: fastWeights(programmed, gates, 'chunk', false), plain: plainFastWeights(false) },
      {
        name: `${name} and backward, chunk`,
        T,
        make: both(fastWeights(programmed, gates, 'chunk', true)),
        plain: plainFastWeights(true),
      },
    ]),
)

/** @type {{ name: string, sizes: object, make: (k: any, m: Memory, sizes: object) => any, plain: (operands: any, m: Memory) => Plain }[]} */
export const webgpuCases = [
  ...Object.entries(matmuls).map(([name, make]) => ({ name, sizes: small, make, plain: plainMatmul })),
  ...Object.entries(plain).map(([name, plain]) => ({ name, sizes: small, make: cases[name], plain })),
  ...recurrences.map(({ T, ...rest }) => ({ ...rest, sizes: sizesOf({ B: 1, T, H: 8, K: 64, V: 64 }) })),
]
