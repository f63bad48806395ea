/**
 * What the WGSL kernels would need on named GPUs at their peaks, on paper: nothing here runs on one. The WebGPU table of kernels is called
 * with a runtime that only writes down the dispatches; each counts its operations and the bytes that it reads and writes, and takes as long
 * as the slower of the two takes at the GPU's peak (Williams, Waterman & Patterson 2009). Dispatches follow one another, so times add up.
 *
 * Operations: a sum, a product, a comparison count 1 each, a fused multiply-add 2, exp, log and their like 20 (kernels-wgsl/math.wgsl). What
 * a kernel computes and throws away, as the upper half of a triangle, counts. Bytes: each array that a dispatch touches crosses the bus
 * once, and once more if it's both read and written; work arrays too, since the next dispatch has to read them again.
 */

import { binaryOps, unaryOps } from '../dist/engine/devices/kernels.js'
import { webgpuKernels } from '../dist/engine/devices/webgpu/index.js'
import { getDevice, scope, setDevice } from '../dist/engine/index.js'
import { Adam, Muon } from '../dist/nn/index.js'
import { modelOf, works } from './card-work.mjs'
import { cases, sizesOf } from './kernel-cases.mjs'
import { ofReplay } from './replay.mjs'
import { digits, printTable } from './report.mjs'

/** Peaks of float32 without matrix units, and of the memory, as published. */
export const gpus = [
  { name: 'RTX 4090', tflops: 82.6, gbs: 1008, source: "NVIDIA's figures for boost clock, as reviews print them" },
  { name: 'A100 40 GB', tflops: 19.5, gbs: 1555, source: "NVIDIA's data sheet, as computing centres print it; CUDA cores, not TF32" },
  {
    name: 'RX 7900 XTX',
    tflops: 61.4,
    gbs: 960,
    source: "AMD's figures for boost clock, as databases print them; half of it without dual issue",
  },
  { name: 'Arc A770', tflops: 17.2, gbs: 560, source: "4,096 lanes x 2 x 2.1 GHz from Intel's specification (16 GB)" },
  {
    name: 'M3 Max 40',
    tflops: 14.3,
    gbs: 400,
    source: 'bandwidth: Apple; operations: databases, 5,120 lanes x 2 x 1.4 GHz, Apple prints none',
  },
]

// ---- operations and bytes of a dispatch ------------------------------------------------------------------------------------

const transcendental = 20
const costly = ['exp', 'log', 'sin', 'cos', 'sigmoid', 'tanh', 'elu', 'silu', 'gelu', 'softplus']
const unary = (op) => (costly.includes(op) ? transcendental + 4 : 1)
const products = ({ M, N, K, batch }) => 2 * batch * M * N * K
const epilogue = ({ M, N, batch, accumulate, biased, activation }) =>
  batch * M * N * (accumulate + biased + (unaryOps[activation] ? unary(unaryOps[activation]) : 0))

/** Of the parameters of a dispatch, eight words each, the first of which counts. */
const elementsOf = (parts) => parts.reduce((sum, n, i) => sum + (i % 8 === 0 ? n : 0), 0)
/** Of the gradients of a dispatch, in each of its buffers: which buffer is the second of such words, in Muon's tables, which have as many elements each, the fifth. */
const gradientParts = (elements, which) =>
  Object.fromEntries(
    ['gradient', 'gradient1', 'gradient2', 'gradient3'].map((name, buffer) => [
      name,
      (params) => params.parts.reduce((sum, n, i) => sum + (i % 8 === which && n === buffer ? elements(params, i - which) : 0), 0),
    ]),
  )
/** Rows and columns of a workgroup's tile, and of a thread's part of it. */
const tilesOf = {
  matmul: [64, 64, 4, 4],
  matmulTall: [128, 64, 8, 4],
  matmulWide: [128, 128, 8, 8],
  products: [64, 64, 4, 4],
  productsWide: [128, 128, 8, 8],
}
/** Words that the products of a dispatch read: threads from workgroup memory, and workgroups from buffers, what lies outside of C counted as if it were inside. */
function wordsRead(entry, params, groups) {
  const given = { matmulSliced: [4 * params.down, 4 * params.across], matmulEach: [1, 1] }[entry] ?? tilesOf[entry]
  if (!given) return { shared: 0, buffers: 0 }
  const [rows, columns, ...part] = given
  const multiplications =
    entry === 'matmulEach'
      ? params.batch * params.M * params.N * params.K
      : params.count
        ? productsOf(params).reduce(
            (sum, { M, N, inner }) => sum + Math.ceil(M / rows) * Math.ceil(N / columns) * rows * columns * inner,
            0,
          )
        : groups * rows * columns * (entry === 'matmulSliced' ? params.K : params.length)
  const each = ([m, n] = []) => (m ? multiplications * (1 / m + 1 / n) : 0)
  return { shared: each(part), buffers: each(given) }
}

/** Of the products of a dispatch, sixteen words each, and eight a term: sizes, the inner axes of all terms, what there is besides (kernels-wgsl/products.wgsl). */
const productsOf = ({ count, products, terms }) =>
  Array.from({ length: count }, (_, i) => {
    const [M, N, , , first, length, what, activation] = products.slice(16 * i)
    const inner = Array.from({ length }, (_, term) => terms[8 * (first + term) + 4]).reduce((sum, K) => sum + K, 0)
    return { M, N, inner, what, activation }
  })
const ofTable = gradientParts(({ parts }, at) => parts[at], 1)

/**
 * Of the entries whose bindings are arrays used whole: operations, from the parameters. `again`: bindings both read and written; `part`: the
 * words used of an array that isn't used whole; `words`: those of all arrays together.
 */
const whole = {
  elementwise: {
    fill: { operations: () => 0 },
    affine: { operations: ({ n }) => 2 * n },
    affineInPlace: { operations: ({ n }) => 2 * n, again: ['y'] },
    accumulate: { operations: ({ n }) => n, again: ['y'] },
    unary: { operations: ({ n, op }) => n * unary(unaryOps[op]) },
    unaryBackward: { operations: ({ n, op }) => n * (unary(unaryOps[op]) + 1) },
    scaleBackward: { operations: ({ R, columns, wanted }) => R * columns * ((wanted & 1) + (wanted & 2)) },
    binary: { operations: ({ n, op }) => n * (binaryOps[op] ? 1 : 0), part: { a: ({ n }) => n, b: ({ n }) => n, y: ({ n }) => n } },
  },
  movement: {
    copy: { operations: () => 0, part: { x: ({ n }) => n, y: ({ n }) => n } },
    gather: { operations: () => 0, part: { table: ({ n }) => n } },
    gatherBackward: { operations: ({ R, D }) => R * D },
    orderRows: { operations: ({ R }) => 3 * R * R },
    gatherBackwardOrdered: { operations: ({ R, D }) => R * D, part: { dtable: ({ R, D }) => R * D } },
  },
  reduce: {
    reduceRows: { operations: ({ outer, n, op }) => outer * n * (op === 2 ? 2 : 1), part: { y: ({ outer, parts }) => outer * parts } },
    reduceColumnsAtOnce: { operations: ({ outer, n, inner }) => outer * n * inner },
    reduceColumns: { operations: ({ outer, n, inner }) => outer * n * inner },
    cumsumColumns: { operations: ({ outer, n, inner }) => 4 * outer * n * inner },
    cumsumRows: { operations: ({ outer, n }) => 7 * outer * n },
  },
  matmul: {
    ...Object.fromEntries(
      ['matmul', 'matmulTall', 'matmulWide', 'matmulSliced'].map((entry) => [
        entry,
        {
          operations: (p) => products(p) + (p.splits === 1 ? epilogue(p) : 0),
          again: ({ accumulate, splits }) => (accumulate && splits === 1 ? ['c', 'c4'] : []),
        },
      ]),
    ),
    matmulEach: { operations: (p) => products(p) + epilogue(p), again: ({ accumulate }) => (accumulate ? ['c'] : []) },
    matmulJoin: { operations: (p) => p.batch * p.M * p.N * p.splits + epilogue(p), again: ({ accumulate }) => (accumulate ? ['c'] : []) },
  },
  products: Object.fromEntries(
    ['products', 'productsWide'].map((entry) => [
      entry,
      {
        operations: (p) =>
          productsOf(p).reduce(
            (sum, { M, N, inner, what, activation }) =>
              sum + M * N * (2 * inner + (what ? 1 : 0) + (unaryOps[activation] ? unary(unaryOps[activation]) : 0)),
            0,
          ),
        words: (p) =>
          productsOf(p).reduce((sum, { M, N, inner, what }) => sum + M * N * (1 + (what & 1) + (what & 8 ? 1 : 0)) + (M + N) * inner, 0),
      },
    ]),
  ),
  norm: {
    norm: { operations: ({ R, n }) => 8 * R * n },
    normBackward: { operations: ({ R, n, rowGroups, ofGain, ofBias }) => ((rowGroups && 12) + (ofGain || ofBias ? 5 : 0)) * R * n },
    softmax: { operations: ({ R, n, causal }) => (causal ? n - (causal - 1) / 2 : n) * (2 * transcendental + 5) * R },
    softmaxBackward: { operations: ({ R, n }) => 4 * R * n },
    crossEntropy: { operations: ({ R, n }) => (transcendental + 3) * R * n },
    crossEntropyBackward: { operations: ({ R, n }) => (transcendental + 3) * R * n },
  },
  sequence: {
    conv: { operations: ({ R, width, W, silu, normed }) => R * width * (2 * W + silu * unary('silu') + normed * 8) },
    convBackwardSums: { operations: ({ R, width, silu, normed }) => R * width * (silu * (unary('silu') + 1) + normed * 5) },
    convBackward: { operations: ({ B, T, D, W }) => 4 * B * T * D * W },
    dpfp: { operations: ({ n }) => 3 * n },
    dpfpBackward: { operations: ({ n, nu }) => 6 * nu * n },
    dpfpSum: { operations: ({ R, D, nu, count }) => 12 * count * R * 2 * D * nu },
    dpfpSumBackward: { operations: ({ R, D, nu, count }) => 10 * count * R * 2 * D * nu },
  },
  decay: {
    decay: { operations: ({ R, n }) => R * n * (unary('softplus') + 2) },
    decayBackward: { operations: ({ R, n }) => R * n * (3 * unary('softplus') + 8) },
  },
  // Twenty rounds of an addition, a rotation (3) and an exclusive or.
  random: {
    uniformNumbers: { operations: ({ n }) => 120 * n },
    normalNumbers: { operations: ({ n }) => (120 + 2 * transcendental) * n },
    dropout: { operations: ({ n }) => 122 * n },
  },
  muon: {
    muonMomentum: {
      operations: ({ size, count }) => 4 * size * count,
      again: ['m'],
      part: { m: ({ size, count }) => size * count, y: ({ size, count }) => size * count, ...gradientParts(({ size }) => size, 4) },
    },
    muonNormalise: { operations: ({ n }) => 2 * n, again: ['y'] },
    muonUpdate: {
      operations: ({ size, count }) => 3 * size * count,
      again: ['parameter'],
      part: { parameter: ({ size, count }) => size * count, direction: ({ size, count }) => size * count },
    },
  },
  optimizer: {
    adam: { operations: ({ n }) => 18 * n, again: ['parameter', 'm', 'v'] },
    adamTogether: {
      operations: ({ parts }) => 18 * elementsOf(parts),
      again: ['parameter', 'm'],
      part: { parameter: ({ parts }) => elementsOf(parts), m: ({ parts }) => 2 * elementsOf(parts), ...ofTable },
    },
    squares: { operations: ({ parts }) => 2 * elementsOf(parts), part: ofTable },
    rootOfSums: { operations: ({ n }) => n },
  },
  linear: { solveSpd: { operations: ({ N, K }) => N * (K ** 3 / 3 + 2 * K * K), again: ['L', 'x'] } },
}

/** Of products of pieces, sixteen words each: N and the inner size first, whether it's added to C in bit 1 of the thirteenth. */
const productCost = ({ heads, pieces, rows, count, products }) =>
  Array.from({ length: count || 0 }, (_, i) => products.slice(16 * i, 16 * (i + 1))).reduce(
    ([operations, words], [N, inner, ...rest]) => [
      operations + 2 * heads * pieces * rows * N * inner,
      words + heads * pieces * (rows * inner + inner * N + (rest[10] & 2 ? 2 : 1) * rows * N),
    ],
    [0, 0],
  )

/** Of the recurrences, which use parts of one work array: operations, and words read and written. */
const inWork = {
  'fast-weights': (p) => {
    const { K, V, columns, rows, reads, gateWidth, heads, T } = p
    const batches = heads * p.pieces
    const [keys, values, pairs, states] = [batches * rows * K, batches * rows * columns, batches * rows * rows, batches * K * columns]
    const tokens = heads * T
    const extra = reads === 1 ? tokens : reads === 2 ? tokens * K : 0
    const [w, gate] = gateWidth ? [keys, tokens * gateWidth] : [0, 0]
    const moved = heads * p.segments * K * columns
    const [read, gated] = [reads ? 1 : 0, gateWidth ? 1 : 0]
    // Levels of pairs of tokens: at each, every channel of every token is faded once.
    const levels = Math.ceil(Math.log2(rows))
    // Ten factors of each token of a head that a workgroup has.
    const factors = p.forgets ? 10 * batches * rows : 0
    // Decays of channels, each as an array of its own.
    const channels = gateWidth > 1 ? tokens * K : 0
    const of = {
      checkGate: [0, p.n],
      decays: [
        tokens * gateWidth * transcendental + 2 * batches * rows * rows,
        gate + channels + (reads === 1 ? extra : 0) + (p.flagged ? tokens / p.H : 0) + factors,
      ],
      load: [0, 2 * moved],
      store: [0, 2 * moved],
      // The state lives in the cache from token to token; what is kept of it is written.
      recurrent: [
        tokens * columns * K * (read ? 6 : 4) + tokens * K * gated * (2 * transcendental + 1),
        tokens * (2 * K + V) + extra + gate + tokens * columns + (p.inPlace ? 2 * heads * K * columns : states),
      ],
      normalise: [p.n, 2 * p.n + p.n / V],
      prepare: [
        keys * (2 + 2 * read + gated * (transcendental + 2)),
        tokens * (2 * K + V) + extra + gate + (2 + read) * keys + 2 * w + values + batches * K,
      ],
      pairs: [keys * (2 * (rows - 1) + 2 + 2 * levels), tokens * 2 * K + extra + w + (1 + read) * pairs],
      solve: [batches * rows * (rows - 1) * ((p.turned ? 0 : K) + columns), pairs + 2 * ((p.turned ? 0 : keys) + values)],
      snapshots: [4 * keys * columns, states + tokens * K + extra + w + values + heads * p.outside * K * columns],
      outputs: [tokens * V * 2, values + tokens * columns],
      cotangents: [values * 3, values + tokens * V * (columns > V ? 2 : 1)],
      // A pair meets once, in a channel: its cotangents go to q, k', a and, through the decay, to w.
      fadeBackward: [
        keys * ((rows - 1) / 2) * (4 + 5 * read + 4) + 2 * states + keys * levels * 8,
        (1 + read) * pairs + (1 + read) * 2 * keys + 3 * w + tokens * 2 * K + extra + 2 * states + keys * 2,
      ],
      gradients: [tokens * K * 4, (2 + read) * keys + tokens * K + extra + values + tokens * (2 * K + V) + extra],
      gateGradient: [gateWidth === 1 ? keys : 0, keys + gate],
    }
    // Of a workgroup a head, as its loops go: what is fetched for several products at once counts once, and once more wherever it's fetched again; each block of
    // columns computes its pairs anew. A state that stays in its place lives in the cache, as the recurrent form's does.
    const full = 2 * batches * rows * K * V
    const pair = (width) => 2 * batches * rows * rows * width
    const solved = (batches * rows * (rows - 1) * V) / 2
    const [both, erased, whole] = [1 + read, reads === 2 ? keys : 0, heads * K * V]
    /** What decays do to pairs, twice backward, and to rows; backward the sums for the gate, too: a third of the cube of a piece's tokens, halved. */
    const fadePairs = p.forgets ? batches * rows * rows * (1 + both) : 0
    const fadeBackward = 2 * fadePairs + (p.forgets ? 4 * keys * (1 + read) : 0) + gated * ((batches * rows ** 3) / 6 + 2 * batches * K * V)
    /** With decays of channels: a pair's key goes on by one, in each of them; backward also what crosses the blocks of four tokens between, and goes along to each block. */
    const onward = channels && (pair(K) / 2) * both
    const goBack = channels && keys * (rows + 1.5 * rows) * both
    /** Keys that have decayed are fetched again: forward for what they read, backward for what was written. */
    const fetched = channels && 2 * channels + (reads === 1 ? keys : 0)
    const headsForward = [
      Math.ceil(V / 32) * (pair(K) * both + fadePairs + onward) + full * (2 + read) + pair(V) + 2 * solved * read,
      3 * keys +
        2 * erased +
        2 * tokens * V +
        extra * (reads === 1) +
        (2 + (p.begun ? 1 : 0)) * whole +
        (p.kept ? p.outside * whole : 0) +
        factors +
        fetched,
    ]
    const headsBackward = [
      pair(K) * 3 * both + full * (4 + 3 * read) + pair(V) * (2 + read) + 4 * solved * read + fadeBackward + onward + goBack,
      4 * keys +
        2 * erased +
        both * states +
        2 * p.segments * whole +
        tokens * V * (5 + 2 + 1 + 2 * read) +
        2 * tokens * K +
        2 * extra -
        erased +
        factors +
        gate +
        (channels && 2 * channels + keys),
    ]
    // All pieces but those of the first segment.
    const carried = (heads * (p.pieces - p.perSegment)) / batches
    const headsCarry = [
      carried * (Math.ceil(V / 32) * (pair(K) * both + onward) + full * (2 + read) + pair(V) + 2 * solved * read),
      carried *
        ((3 + read) * keys +
          erased +
          2 * tokens * V +
          extra * (reads === 1) +
          factors +
          (channels && 2 * channels + keys + 2 * tokens * V)) +
        2 * p.segments * whole,
    ]
    const product = productCost(p)
    const add = (...costs) => costs.reduce(([x, y], [operations, words]) => [x + operations, y + words], [0, 0])
    const solve = reads ? of.solve : [0, 0]
    return {
      ...of,
      headsForward,
      headsBackward,
      headsCarry,
      begin: add(of.prepare, product, solve),
      beginFading: add(of.prepare, of.pairs, solve),
      readOut: add(product, of.outputs),
      cotangentsWith: add(of.cotangents, product),
      finish: add(reads ? [batches * rows * (rows - 1) * columns, pairs + 2 * values] : [0, 0], product, of.gradients),
    }
  },
  'fast-weights-products': (p) => {
    const { K, columns, rows } = p
    const batches = p.heads * p.pieces
    const terms = p.readsTerm + p.writes + (p.adds ?? 0)
    // Of each piece: the matrices, the values that they meet, the state before and after, gamma.
    const perPiece = terms * rows * K + (1 + p.readsTerm + (p.adds ?? 0)) * rows * columns + 2 * K * columns + K
    return {
      product: productCost(p),
      // States come from outside and go there, whole ones.
      scan: [
        batches * (terms * 2 * rows * K * columns + 2 * K * columns),
        batches * perPiece +
          K * columns * p.heads * ((p.begun ? 2 : 1) * p.segments + (p.ended ? 2 : 0) + (p.kept ? 2 * Math.ceil(p.pieces / p.perSpan) : 0)),
      ],
    }
  },
}

function costOf({ shader, entry, bindings, params }) {
  const given = new Proxy(params, { get: (target, name) => target[name] ?? 0 })
  // The kernels of a recurrence are in several files.
  const family = shader.replace(/-(chunk-backward|chunk|recurrent|heads-(forward|backward)(-fading|-channels)?)$/, '')
  if (inWork[family]) {
    const cost = inWork[family](given)[entry]
    if (!cost) throw new Error(`no count for ${shader}, ${entry}`)
    return { operations: cost[0], bytes: 4 * cost[1] }
  }
  const rule = whole[shader]?.[entry]
  if (!rule) throw new Error(`no count for ${shader}, ${entry}`)
  if (rule.words) return { operations: rule.operations(given), bytes: 4 * rule.words(given) }
  const again = typeof rule.again === 'function' ? rule.again(given) : (rule.again ?? [])
  const seen = new Set()
  let bytes = 0
  for (const [name, block] of Object.entries(bindings)) {
    if (!block || seen.has(block)) continue
    seen.add(block)
    const own = Math.min(block.bytes, 4 * (rule.part?.[name]?.(given) ?? Infinity))
    bytes += own * (again.includes(name) ? 2 : 1)
  }
  return { operations: rule.operations(given), bytes }
}

// ---- a runtime that only writes down -----------------------------------------------------------------------------------------

function paper() {
  const dispatches = []
  let made = 0
  const block = (bytes, integer = false, offset = 0, memory = { id: made++, shared: null }) => ({ bytes, integer, offset, memory })
  /** As on the device, in one buffer whatever its size. */
  const gather = (blocks) => {
    const whole = block(blocks.reduce((sum, { bytes }) => sum + bytes, 0))
    whole.memory.shared = { blocks: blocks.length, whole }
    let end = 0
    return blocks.map(({ bytes }) => block(bytes, false, (end += bytes) - bytes, whole.memory))
  }
  const gpu = {
    capabilities: { bindingBytes: 2 ** 30, software: false },
    device: { limits: { maxStorageBuffersPerShaderStage: 10 } },
    faults: block(64, true),
    run({ name, paramBytes }, entry, bindings, given, groups) {
      const params = typeof given === 'function' ? given() : given
      const again = typeof given === 'function'
      if (groups > 0)
        dispatches.push({
          shader: name,
          entry,
          groups,
          ...wordsRead(entry, params, groups),
          again: again ? Math.ceil(paramBytes / parameterBytes) * parameterBytes : 0,
          ...costOf({ shader: name, entry, bindings, params }),
        })
    },
    scratch: (floats, body) => body(block(4 * floats)),
    fault: () => 0,
  }
  const device = {
    name: 'webgpu',
    description: 'paper',
    double: false,
    defers: true,
    kernels: webgpuKernels(gpu),
    allocate: (dtype, size) => block(4 * size, dtype === 'int32'),
    free() {},
    gather,
    write() {},
    read: async (block, size) => (block.integer ? new Int32Array(size) : new Float32Array(size)),
    bytesInUse: () => 0,
    bytesReserved: () => 0,
    close() {},
  }
  return { device, take: () => dispatches.splice(0) }
}

const labml = sizesOf({ B: 16 })

function ofCases() {
  const { device, take } = paper()
  const empty = (size) => device.allocate('float32', size)
  const memory = { float: empty, int: empty, empty }
  // On WebGPU the recurrent form's backward is that of chunks.
  const names = Object.keys(cases).filter((name) => !name.endsWith('backward, recurrent'))
  const recurrences = names.filter((name) => name.includes('rule'))
  const rows = (names, sizes) =>
    names.map((name) => {
      const { shape, floats, run } = cases[name](device.kernels, memory, sizes)
      take()
      run()
      return { name, shape, operands: 4 * floats, dispatches: take() }
    })
  return [...rows(names, labml), ...rows(recurrences, { ...labml, T: 2048 })]
}

/** Models of card-work.mjs: 16 x 128 tokens. */
const settings = [
  { name: 'labml, Adam', of: 'labml', Optimizer: Adam },
  { name: 'small, Muon', of: 'small', Optimizer: Muon },
  { name: 'default preset, Muon', of: 'default', Optimizer: Muon },
]

/** One training step: the dispatches of forward, backward, clipping and optimiser. */
function ofTraining({ of, Optimizer }) {
  const { device, take } = paper()
  const before = getDevice()
  setDevice(device)
  try {
    const { B, T } = labml
    const { model, optimizer } = modelOf(of, Optimizer)
    const [tokens, targets] = [1, 2].map(() => new Int32Array(B * T))
    take()
    return scope(() => {
      const loss = model.loss({ tokens, targets, B, T })
      const forward = take()
      loss.backward()
      const backward = take()
      optimizer.step({ clipNorm: 1 })
      optimizer.zeroGrad()
      return { forward, backward, optimizer: take() }
    })
  } finally {
    setDevice(before)
  }
}

// ---- tables ------------------------------------------------------------------------------------------------------------------

const total = (dispatches, of) => dispatches.reduce((sum, d) => sum + of(d), 0)
const atPeak = (dispatches, { tflops, gbs }) => {
  const compute = total(dispatches, (d) => d.operations / tflops / 1e12)
  const memory = total(dispatches, (d) => d.bytes / gbs / 1e9)
  return {
    seconds: total(dispatches, (d) => Math.max(d.operations / tflops / 1e12, d.bytes / gbs / 1e9)),
    limit: compute > memory ? 'c' : 'm',
  }
}

function count(dispatches) {
  const [operations, bytes] = [total(dispatches, (d) => d.operations), total(dispatches, (d) => d.bytes)]
  return { dispatches: dispatches.length, operations, bytes, times: gpus.map((gpu) => ({ gpu: gpu.name, ...atPeak(dispatches, gpu) })) }
}

/** Dispatches, operations and bytes of a work of card-work.mjs, done once after it was done before. */
export async function counted(what, given) {
  const { device, take } = paper()
  const before = getDevice()
  setDevice(device)
  try {
    const { begin, run } = works[what](given)
    await begin?.()
    await run(1)
    take()
    await run(1)
    const { dispatches, operations, bytes } = count(take())
    return { dispatches, operations, bytes }
  } finally {
    setDevice(before)
  }
}

const size = (x, unit) => `${digits(x / unit)}`
const cells = ({ dispatches, operations, bytes, times }, unit) => [
  dispatches,
  size(operations, 1e9),
  size(bytes, 1e6),
  bytes ? digits(operations / bytes) : '-',
  ...times.map(({ seconds, limit }) => `${digits(seconds / unit)} ${limit}`),
]

/** What bytes that parameters of a dispatch take among others are a multiple of, and those that a step is given: tokens, targets and how many of them count. */
const parameterBytes = 256
const givenBytes = 2 * 4 * 16 * 128 + 4

/** Prints how many dispatches a training step takes and what they move, and what a replay of it makes and writes; gives both. */
export async function counts() {
  const steps = settings.map((setting) => ofTraining(setting))
  const all = steps.map((step) => Object.values(step).flat())
  const named = ({ shader, entry }) => `${shader}: ${entry}`
  const names = [...new Set(all.flat().map(named))]
  const rows = names.map((name) => [name, ...all.map((step) => step.filter((dispatch) => named(dispatch) === name).length)])
  rows.sort((a, b) => b.slice(1).reduce((x, y) => x + y) - a.slice(1).reduce((x, y) => x + y))
  const parts = Object.keys(steps[0])
  const totals = [
    ...parts.map((part) => [part, ...steps.map((step) => step[part].length)]),
    ['the step', ...all.map((step) => step.length)],
  ]
  const megabytes = (dispatches) => Math.round(total(dispatches, ({ bytes }) => bytes) / 1e6)
  const moved = [
    ...parts.map((part) => [`${part}: MB moved`, ...steps.map((step) => megabytes(step[part]))]),
    ['the step: MB moved', ...all.map(megabytes)],
  ]
  const read = (kind) => all.map((step) => Math.round(total(step, (dispatch) => dispatch[kind]) / 1e6))
  const words = [
    ['products: million words read from workgroup memory', ...read('shared')],
    ['products: million words read from buffers', ...read('buffers')],
  ]
  const made = []
  for (const { of, Optimizer } of settings) made.push(await ofReplay({ name: of, Optimizer }))
  const replay = [
    ['a replay: bytes written', ...all.map((step) => total(step, ({ again }) => again) + givenBytes)],
    ...Object.keys(made[0]).map((what) => [`a replay: ${what}`, ...made.map((one) => one[what])]),
  ]
  console.log(
    '\nA training step on webgpu, 16 x 128 tokens: dispatches of forward, backward, clipping and optimiser, by kernel; what they move; a replay\n',
  )
  printTable(['', ...settings.map(({ name }) => name)], [...rows, null, ...totals, null, ...moved, null, ...words, null, ...replay])
  return { settings: settings.map(({ name }) => name), rows, totals, moved, words, replay }
}

/** Prints both tables and gives what is in them. */
export function roofline() {
  const kernels = ofCases().map(({ dispatches, ...facts }) => ({ ...facts, ...count(dispatches) }))
  const step = Object.values(ofTraining(settings[0])).flat()
  const byEntry = {}
  for (const dispatch of step) {
    const name = `${dispatch.shader}: ${dispatch.entry}`
    byEntry[name] ??= []
    byEntry[name].push(dispatch)
  }
  const training = Object.entries(byEntry)
    .map(([name, dispatches]) => ({ name, ...count(dispatches) }))
    .sort((a, b) => b.times[0].seconds - a.times[0].seconds)
  const sum = count(step)

  console.log(
    '\nESTIMATE ON PAPER, no GPU measured: the time at the peaks of named GPUs, in microseconds; m: memory is the limit, c: operations\nare. Peaks as published, float32 without matrix units:',
  )
  for (const { name, tflops, gbs, source } of gpus) console.log(`  ${name}: ${tflops} TFLOP/s, ${gbs} GB/s (${source})`)
  console.log(
    `\nKernels at the sizes of labml's step, batch 16; the recurrences also with 2,048 tokens.\noperands: MB if every operand crosses the bus once; moved: MB that our dispatches read and write\n`,
  )
  const names = gpus.map(({ name }) => name)
  printTable(
    ['kernel', 'shape', 'operands', 'dispatches', 'Gop', 'moved', 'op/byte', ...names],
    kernels.map((row) => [row.name, row.shape, size(row.operands, 1e6), ...cells(row, 1e-6)]),
  )
  console.log("\nOne training step of labml's model, 16 x 128 tokens, forward, backward, clipping and Adam, by kernel; microseconds\n")
  printTable(
    ['kernel', 'dispatches', 'Gop', 'moved', 'op/byte', ...names],
    [...training.map((row) => [row.name, ...cells(row, 1e-6)]), null, ['the step', ...cells(sum, 1e-6)]],
  )
  console.log(
    `\nNot a forecast: it knows nothing of launches (${sum.dispatches} dispatches a step), of workgroups too few to fill a GPU, of steps that wait for one another, as the tokens of\nthe recurrent form do and the pieces of the chunk form's scan; nor of what a kernel reads twice, or finds in a cache of tens of MB (which makes\nless of a bound of the smaller rows). Figures of a real GPU are open.`,
  )
  return { gpus, kernels, training, step: sum }
}
