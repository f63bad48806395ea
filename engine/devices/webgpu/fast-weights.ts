/**
 * The fast-weight recurrences: kernels-wgsl/fast-weights.wgsl, which has the equations, and the files of each form beside it. What multiplies two tiles is in a
 * file of its own, another one on matrix units, which no GPU has run yet.
 *
 * In chunks, without a normaliser, along and transposed reads, a workgroup has a head, forward 32 columns of it, and takes its pieces one after the other: it
 * reads the inputs as they lie, and between pieces only the state passes (`byHeads`; fast-weights-heads.wgsl). Else, or where an adapter or a GPU has too little for that, all pieces of all
 * heads are prepared at once, then one dispatch carries the states from piece to piece, then all outputs are computed at once; likewise backward. The recurrent
 * form is one dispatch over the tokens, for decoding (with along, chunks of one token); its backward is the chunk form's, since it needs no more than the
 * snapshots, and a token at a time would leave a GPU idle. The result is the same up to rounding.
 *
 * A chunk may be of any length: it's computed in pieces of at most `rowsLimit` tokens, each with a state of its own in scratch memory. Heads
 * are taken as many at a time as `scratchFloats` holds, and where it doesn't hold one, a head's tokens part by part, in the order of time or against
 * it: from the state that the part before has left in the memory of the final state, or the cotangent in that of the initial state's.
 */
import {
  fastWeightsChunkBackward as backward,
  fastWeightsChunk as chunk,
  fastWeightsHeadsBackward as headsBackward,
  fastWeightsHeadsBackwardChannels as headsBackwardChannels,
  fastWeightsHeadsBackwardFading as headsBackwardFading,
  fastWeightsHeadsForward as headsForward,
  fastWeightsHeadsForwardChannels as headsForwardChannels,
  fastWeightsHeadsForwardFading as headsForwardFading,
  fastWeightsProducts as products,
  fastWeightsRecurrent as recurrent,
  fastWeights as shared,
} from '../../../kernels-wgsl/generated/wgsl.ts'
import {
  type FastWeightCotangents,
  type FastWeightGradients,
  type FastWeightInputs,
  type FastWeightOutputs,
  type FastWeightSaved,
  type FastWeightSizes,
  GateError,
  type Kernels,
} from '../kernels.ts'
import { fastWeightKernels as specification } from '../reference/fast-weights.ts'
import type { RefStorage } from '../reference/storage.ts'
import { type Block, show } from './memory.ts'
import { movementKernels } from './movement.ts'
import { type Gpu, perGroup, threads } from './runtime.ts'

/** ROWS of fast-weights.wgsl and SIDE of fast-weights-products.wgsl. */
const rowsLimit = 32
const side = 32
/** PER_GROUP_ROWS of fast-weights.wgsl. */
const perGroupRows = 4
const scratchFloats = 2 ** 26
/** What `headsBackward` binds, and `headsForward` with decays of heads and of channels: more than every adapter does. */
const boundArrays = 10
const boundForward = { heads: 9, channels: 10 }
/** FACTORS of fast-weights.wgsl. */
const factors = 10
/** Below that many workgroups a GPU is idle where each has all tokens of a head: forward, pieces are then computed side by side as far as they can be. */
const fewestGroups = 64
/** Backward, a head's pieces are cut into segments, of all heads that many at most, where none gets too short. */
const segmentsWanted = 256
const shortestSegment = 4

/** Short chunks share a piece. Longer ones begin one of their own, since the backward starts from a snapshot there. */
const chunksOfSpan = ({ C }: FastWeightSizes): number => Math.max(1, Math.floor(rowsLimit / C))

type Regions = Record<string, number>

const gateFault = (bits: number): Error => new GateError(new Float32Array(Int32Array.of(bits).buffer)[0])

type FastWeightKernels = Pick<Kernels<Block>, 'fastWeights' | 'fastWeightsBackward'>

/** Only products of the chunk form are rounded, and on matrix units. */
export function fastWeightKernels(gpu: Gpu): FastWeightKernels {
  const chunk = kernelsOn(gpu.units ?? gpu, gpu.units !== undefined)
  const forms = { chunk, recurrent: gpu.exact ? kernelsOn(gpu.exact) : chunk }
  return {
    fastWeights: (form, ...given) => forms[form].fastWeights(form, ...given),
    fastWeightsBackward: (form, ...given) => forms[form].fastWeightsBackward(form, ...given),
  }
}

/** What is wrong with the chunk form on matrix units; null if of integers, ragged and in several pieces, all comes out as specified, with flags and without. */
export async function wrongChunks(gpu: Gpu): Promise<string | null> {
  const [T, K, V, C] = [70, 37, 21, 48]
  const sizes = { B: 1, T, H: 1, K, V, C, scale: 1, gateWidth: 1, eps: 0, transposed: false }
  const given = { q: T * K, k: T * K, v: T * V, s0: K * V, dy: T * V, dsT: K * V, tokens: T }
  const lengths = { ...given, states: 2 * K * V, y: T * V, sT: K * V, dq: T * K, dk: T * K, dv: T * V, ds0: K * V }
  type Name = keyof typeof lengths
  type Of<S> = Pick<Kernels<S>, keyof FastWeightKernels>
  const inputsOf = <S>(at: Record<Name, S>, flagged: boolean) => ({
    ...at,
    ...{ beta: null, gate: null, erase: null, along: null, tokens: flagged ? at.tokens : null, z0: null },
  })
  const forward = <S>(kernels: Of<S>, at: Record<Name, S>, flagged: boolean): void =>
    kernels.fastWeights('chunk', inputsOf(at, flagged), { ...at, zT: null, den: null, zs: null }, sizes)
  const backward = <S>(kernels: Of<S>, at: Record<Name, S>, flagged: boolean): void => {
    const gradients = { ...at, dbeta: null, dgate: null, derase: null, dalong: null, dz0: null }
    const saved = { y: null, den: null, states: at.states, zs: null }
    kernels.fastWeightsBackward('chunk', inputsOf(at, flagged), saved, { ...at, dzT: null }, gradients, sizes)
  }
  for (const flagged of [false, true]) {
    const blocks = {} as Record<Name, Block>
    const expected = {} as Record<Name, RefStorage>
    for (const [at, [name, n]] of (Object.entries(lengths) as [Name, number][]).entries()) {
      const tokens = name === 'tokens'
      // Flags of tokens but of padding and a beginning; and from -2 to 2: an operand is exact in float16, at most 2 + 4 T = 282 (a state), and a sum
      // in float32, at most 2 K 282 = 20,868.
      const data = Float64Array.from({ length: n }, (_, i) =>
        tokens ? ([1, 1, 1, 0, 1, 3][i % 13] ?? 1) : (((i * i + at * i) % 11) % 5) - 2,
      )
      expected[name] = { data: tokens ? Int32Array.from(data) : data }
      blocks[name] = gpu.allocate(4 * n, tokens)
      gpu.write(blocks[name], data)
    }
    for (const [run, results] of [
      [forward, ['y', 'sT']],
      [backward, ['dq', 'dk', 'dv', 'ds0']],
    ] as const) {
      run(specification(), expected, flagged)
      run(fastWeightKernels(gpu), blocks, flagged)
      for (const name of results) {
        const [found, { data }] = [await gpu.read(blocks[name], lengths[name]), expected[name]]
        const i = data.findIndex((x, i) => x !== found[i])
        if (i >= 0) return `of integers the chunk form has ${found[i]} in the place of ${data[i]} (${name})`
      }
    }
    for (const block of Object.values(blocks)) gpu.free(block)
  }
  return null
}

function kernelsOn(gpu: Gpu, onUnits = false): FastWeightKernels {
  const { copy } = movementKernels(gpu)
  const blocks = (n: number): number => Math.ceil(n / threads)

  /** What a call's dispatches have in common. limit: the most tokens of a piece. */
  function planOf(sizes: FastWeightSizes, inputs: FastWeightInputs<Block>, normalised: boolean, chunksOfSpan: number, limit = rowsLimit) {
    const { beta, gate, erase, along, tokens } = inputs
    const { B, T, H, K, V, C, gateWidth, scale, eps, logits = false } = sizes
    const span = C * chunksOfSpan
    const spans = Math.ceil(T / span)
    const rows = Math.min(span, T, limit)
    const perSpan = Math.ceil(Math.min(span, T) / rows)
    const pieces = (spans - 1) * perSpan + Math.ceil((T - (spans - 1) * span) / rows)
    const columns = V + Number(normalised)
    const reads = beta ? 1 : erase ? 2 : 0
    const forgets = gate !== null || tokens !== null
    return {
      gated: gate !== null,
      forgets,
      extra: beta ?? erase,
      along,
      spans,
      chunksOfSpan,
      heads: B * H,
      params: {
        ...{ T, H, K, V, C, columns, span, perSpan, pieces, first: 0, rows, reads, scale, eps },
        gateWidth: gate ? gateWidth : 0,
        flagged: Number(tokens !== null),
        forgets: Number(forgets),
        logits: Number(logits),
      },
      rowsOfInputs: B * T * H,
      /** Floats of what a head has, for a number of pieces. */
      floats: (pieces: number) => ({
        keys: pieces * rows * K,
        values: pieces * rows * columns,
        pairs: pieces * rows * rows,
        gammas: pieces * K,
        states: (pieces + 1) * K * columns,
      }),
    }
  }
  type Plan = ReturnType<typeof planOf>

  /** Which regions of the work there are, and their floats for each head. */
  type Layout = (floats: ReturnType<Plan['floats']>) => Regions

  /** A part of the heads and of the spans, with scratch memory for them: `at` has the regions' offsets. */
  interface Part {
    work: Block
    at: Regions
    params: Plan['params'] & Regions
    heads: number
    batches: number
    spans: number
    /** Places of the states at the beginning of each span, outside and in the work. */
    snapshots: { segments: number; outside: number; begin: number; stride: number; step: number }
    /** Whether its tokens are the first, the last ones. */
    begins: boolean
    ends: boolean
  }

  /** How many heads at a time, and how many spans of them. */
  function partsOf({ heads, spans, params, floats }: Plan, layout: Layout): { heads: number; spans: number } {
    const { C, K, columns, perSpan, pieces } = params
    const needs = (pieces: number): number => Object.values(layout(floats(pieces))).reduce((total, n) => total + n, 0)
    const most = gpu.capabilities.bindingBytes / 4
    const limit = Math.min(scratchFloats, most)
    if (needs(pieces) <= limit) return { heads: Math.min(heads, Math.floor(limit / needs(pieces))), spans }
    const perPiece = needs(1) - needs(0)
    const held = Math.max(1, Math.floor((limit - needs(0)) / perPiece / perSpan))
    if (needs(Math.min(pieces, perSpan)) > most) {
      const sizes = `for a chunk of ${C} tokens and a state of ${K} x ${columns}`
      throw new Error(
        `webgpu: out of memory: fastWeights needs ${show(4 * needs(Math.min(pieces, perSpan)))} at once ${sizes}, this adapter binds at most ${show(4 * most)} (use ${perSpan > 1 ? 'shorter chunks' : 'more heads of fewer channels'})`,
      )
    }
    return { heads: 1, spans: Math.min(spans, held) }
  }

  function forEachPart(plan: Plan, layout: Layout, body: (part: Part) => void, reverse = false): void {
    const { params, spans, chunksOfSpan } = plan
    const { T, C, span, perSpan } = params
    const most = partsOf(plan, layout)
    const count = Math.ceil(spans / most.spans)
    for (let head = 0; head < plan.heads; head += most.heads)
      for (let i = 0; i < count; i++) {
        const heads = Math.min(most.heads, plan.heads - head)
        const from = (reverse ? count - 1 - i : i) * most.spans
        const to = Math.min(from + most.spans, spans)
        const pieces = to === spans ? params.pieces - from * perSpan : (to - from) * perSpan
        const regions = layout(plan.floats(pieces))
        let total = 0
        const at: Regions = {}
        for (const [name, floats] of Object.entries(regions)) {
          at[name] = total
          total += heads * floats
        }
        const snapshots = {
          segments: to - from,
          outside: Math.ceil(T / C),
          begin: from * chunksOfSpan,
          stride: chunksOfSpan,
          step: perSpan,
        }
        gpu.scratch(total, (work) =>
          body({
            work,
            at,
            params: { ...params, ...at, head, heads, pieces, first: from * span },
            heads,
            batches: heads * pieces,
            spans: to - from,
            snapshots,
            begins: from === 0,
            ends: to === spans,
          }),
        )
      }
  }

  function checkGate({ gate, tokens }: FastWeightInputs<Block>, { params, rowsOfInputs }: Plan): void {
    if (!gate) return
    const n = rowsOfInputs * params.gateWidth
    gpu.run(
      shared,
      'checkGate',
      { gate, tokens, faults: gpu.faults },
      { ...params, n, fault: gpu.fault(gateFault) },
      Math.ceil(n / perGroup),
    )
  }

  /** A state and its normaliser. */
  type States = readonly [Block | null, Block | null]

  /** For the recurrent form: states between arrays [B,H,outside,K,V] and [B,H,outside,K] and region S of the work: the names are those of Params. */
  function move(
    entry: 'load' | 'store',
    { work, params }: Pick<Part, 'work' | 'params'>,
    [state, normaliser]: States,
    { S = params.S, slots = params.pieces + 1, slot = 0, segments = 1, outside = 1, begin = 0, stride = 1, step = 1 } = {},
  ): void {
    gpu.run(
      shared,
      entry,
      { work, ...(entry === 'load' ? { stateIn: state, normaliserIn: normaliser } : { state, normaliser }) },
      {
        ...params,
        S,
        slots,
        slot,
        segments,
        outside,
        begin,
        stride,
        step,
        present: Number(state !== null) + 2 * Number(normaliser !== null),
      },
      Math.ceil((params.heads * segments * params.K * params.columns) / perGroup),
    )
  }

  // ---- products: [rows, K], [rows, columns] and [rows, rows] matrices of each piece -------------------------------------------

  interface Factor {
    at: number
    row: number
    column: number
    piece: number
    head?: number
  }
  interface ProductOptions {
    /** C = -A B. */
    negative?: boolean
    /** To what C holds. */
    add?: boolean
    triangleA?: 0 | 1 | 2
    lowerC?: 0 | 1 | 2
    /** A's are weights, as fast-weights.wgsl calls them. */
    weights?: boolean
    /** It needs those before it. */
    after?: boolean
  }
  interface Product {
    c: string
    N: number
    /** As the kernel reads them. */
    words(follows: boolean): number[]
  }
  const turned = (x: Factor): Factor => ({ ...x, row: x.column, column: x.row })

  function matrices({ work, at, params, batches }: Part) {
    const { rows, K, columns } = params
    const tokens =
      (width: number) =>
      (name: string): Factor => ({ at: at[name], row: width, column: 1, piece: rows * width })
    /** The state before each piece, or after it. */
    const states = (name: string, after = 0): Factor => ({
      at: at[name] + after * K * columns,
      row: columns,
      column: 1,
      piece: K * columns,
      head: K * columns,
    })
    /** C = A B: what `multiply` takes. */
    const product = (c: string, [a, b]: readonly [Factor, Factor], N: number, inner: number, options: ProductOptions = {}): Product => {
      const { negative = false, add = false, triangleA = 0, lowerC = 0, weights = false, after = false } = options
      const bits = (follows: boolean): number =>
        Number(negative) +
        2 * Number(add) +
        4 * Number(follows) +
        8 * triangleA +
        32 * lowerC +
        128 * Number(weights && params.forgets !== 0) +
        256 * Number(after)
      return {
        c,
        N,
        words: (follows) => [
          N,
          inner,
          a.at,
          a.row,
          a.column,
          a.piece,
          b.at,
          b.row,
          b.column,
          b.piece,
          b.head ?? 0,
          at[c],
          bits(follows),
          0,
          0,
          0,
        ],
      }
    }
    const follows = (list: readonly Product[], i: number): boolean => list[i].c === list[i - 1]?.c
    /** Products as the parameters of a kernel, with the others. */
    const withProducts = (...list: readonly Product[]) => ({
      ...params,
      count: list.length,
      products: list.flatMap(({ words }, i) => words(follows(list, i))),
    })
    /** Computes products that don't need each other, but for those that are added to the C of the one before. */
    const multiply = (...list: readonly Product[]): void => {
      const groups = list.reduce((sum, { N }, i) => sum + (follows(list, i) ? 0 : batches * Math.ceil(N / side)), 0)
      gpu.run(products, 'product', { work }, withProducts(...list), groups)
    }
    return { keys: tokens(K), values: tokens(columns), pairs: tokens(rows), states, product, multiply, withProducts }
  }

  // ---- what forward and backward begin with: Q~ K~ A~ Gamma P M W U0 ---------------------------------------------------------------

  function prepare(part: Part, { forgets, extra, along }: Plan, { q, k, v, gate, tokens }: FastWeightInputs<Block>): void {
    const { work, batches } = part
    const { K, columns, rows, reads } = part.params
    const { keys, values, pairs, product, multiply, withProducts } = matrices(part)
    const ofPairs = (Kt: string, P: string, M: string): Product[] => [
      product(P, [keys('Q'), turned(keys(Kt))], rows, K, { lowerC: 2 }),
      ...(reads ? [product(M, [keys('A'), turned(keys(Kt))], rows, K, { lowerC: 1 })] : []),
    ]
    if (!along) {
      const bindings = { work, q, k, v, extra, gate, tokens }
      if (forgets) gpu.run(chunk, 'beginFading', bindings, part.params, batches)
      else gpu.run(chunk, 'begin', bindings, withProducts(...ofPairs('Kt', 'P', 'M')), batches)
      return
    }
    /** What has to do with keys of one kind. */
    const prepareKeys = (k: Block, params: Part['params'], [Kt, P, M]: readonly [string, string, string]): void => {
      gpu.run(chunk, 'prepare', { work, q, k, v, extra, gate, tokens }, params, batches * (blocks(K) + blocks(columns)))
      if (forgets) gpu.run(chunk, 'pairs', { work, q, k, extra, tokens }, params, batches)
      else multiply(...ofPairs(Kt, P, M))
    }
    const { X, Kb, Pb, Mb } = part.params
    prepareKeys(k, { ...part.params, U: X }, ['Kt', 'P', 'M'])
    prepareKeys(along, { ...part.params, U: X, Kt: Kb, P: Pb, M: Mb }, ['Kb', 'Pb', 'Mb'])
    multiply(product('U', [pairs('M'), values('X')], columns, rows, { negative: true, triangleA: 1, weights: true }))
    if (reads) gpu.run(chunk, 'solve', { work }, { ...part.params, M: Mb }, batches * blocks(K + columns))
  }

  /** Regions of what along has beside them. */
  const ofAlong: Layout = ({ keys, values, pairs }) => ({ Kb: keys, Pb: pairs, Mb: pairs, X: values })

  /** Snapshots at the chunks that begin inside a piece. */
  function innerSnapshots(
    { work, params, batches, snapshots: { outside, begin, stride } }: Part,
    { extra, along }: Plan,
    { k, tokens }: FastWeightInputs<Block>,
    state: Block,
    normaliser: Block | null,
  ): void {
    const n = batches * params.K * params.columns
    gpu.run(
      chunk,
      'snapshots',
      { work, k, extra, tokens, along, state, normaliser },
      { ...params, outside, begin, hasAlong: Number(along !== null) },
      stride === 1 ? 0 : Math.ceil(n / perGroup),
    )
  }

  const rowGroups = ({ batches, params }: Part): number => Math.ceil((batches * params.rows) / perGroupRows)

  /** What a scan begins with; where it's the first of a head's parts, or the one before left it in the arrays of the last state. */
  interface Ends {
    begun: States
    carried?: boolean
    /** The last state, and those before spans. */
    ended?: States
    kept?: States
  }

  /** The arrays of a scan's states, and which there are. `snapshots`: a segment begins with a snapshot. */
  function ends({ begun, carried = false, ended = [null, null], kept = [null, null] }: Ends, { snapshots }: Part, fromSnapshots = false) {
    const [stateIn, normaliserIn] = carried ? [null, null] : begun
    const [state, normaliser] = ended
    const [states, normalisers] = kept
    const { outside, begin, stride } = snapshots
    const present = ([S, z]: States): number => Number(S !== null) + 2 * Number(z !== null)
    return {
      bindings: { stateIn, normaliserIn, state, normaliser, states, normalisers },
      params: {
        begun: present(begun),
        carried: Number(carried),
        firstOutside: fromSnapshots ? begin : 0,
        fromOutside: fromSnapshots ? outside : 1,
        ended: present(ended),
        kept: present(kept),
        outside,
        begin,
        stride,
      },
    }
  }

  /** U and the states: of all pieces, or, backward, of spans that each begin with a snapshot. */
  function scanForward(part: Part, { along }: Plan, segments: number, perSegment: number, backward: boolean, given: Ends): void {
    const { work, params, heads } = part
    const outside = ends(given, part, backward)
    gpu.run(
      products,
      'scan',
      { work, ...outside.bindings },
      {
        ...params,
        ...outside.params,
        segments,
        perSegment,
        keepLast: Number(!backward),
        states: params.S,
        values: params.U,
        gamma: params.gamma,
        readsTerm: Number(params.reads !== 0),
        readsWith: params.W,
        readsTimes: -1,
        writes: 1,
        writesWith: along ? params.Kb : params.Kt,
        writesTimes: 1,
        ...(along && { adds: 1, addsWith: params.Kt, addsValues: params.X }),
      },
      heads * segments * Math.ceil(params.columns / side),
    )
  }

  /** dU and the cotangents of the states, from that of the last one back. */
  function scanBackward(part: Part, { along }: Plan, given: Ends): void {
    const { work, params, heads } = part
    const outside = ends(given, part)
    gpu.run(
      products,
      'scan',
      { work, ...outside.bindings },
      {
        ...params,
        ...outside.params,
        reverse: 1,
        segments: 1,
        perSegment: params.pieces,
        keepLast: 1,
        states: params.dS,
        values: params.dU,
        gamma: params.gamma,
        readsTerm: 1,
        readsWith: along ? params.Kb : params.Kt,
        readsTimes: 1,
        writes: Number(params.reads !== 0),
        writesWith: params.W,
        writesTimes: -1,
        adds: 1,
        addsWith: params.Q,
        addsValues: params.G,
      },
      heads * Math.ceil(params.columns / side),
    )
  }

  /** O = Q~ S + P U, and y of it. */
  function readStates(part: Part, { along }: Plan, tokens: Block | null, y: Block, den: Block | null): void {
    const { K, columns, rows } = part.params
    const m = matrices(part)
    const added = { add: true, triangleA: 1, weights: true } as const
    const params = m.withProducts(
      m.product('O', [m.keys('Q'), m.states('S')], columns, K, { weights: true }),
      m.product('O', [m.pairs(along ? 'Pb' : 'P'), m.values('U')], columns, rows, added),
      ...(along ? [m.product('O', [m.pairs('P'), m.values('X')], columns, rows, added)] : []),
    )
    gpu.run(chunk, 'readOut', { work: part.work, tokens, y, den }, params, part.batches)
  }

  /** y = scale S_t q_t as the gradient of queries whose reads have the cotangents q; a token alone is read from the state after it. */
  function readTransposed(part: Part, { forgets, extra }: Plan, { q, k, tokens }: FastWeightInputs<Block>, y: Block, alone: boolean): void {
    const { work, params, batches } = part
    const { K, columns, rows } = params
    const m = matrices(part)
    gpu.run(backward, 'cotangents', { work, dy: q, yIn: null, denIn: null, tokens }, params, rowGroups(part))
    const fromStates = m.product('dQ', [m.values('G'), turned(m.states('S', Number(alone)))], K, columns)
    if (alone) m.multiply(fromStates)
    else {
      m.multiply(fromStates, m.product('dP', [m.values('G'), turned(m.values('U'))], rows, columns, { lowerC: 2 }))
      if (!forgets) m.multiply(m.product('dQ', [m.pairs('dP'), m.keys('Kt')], K, rows, { add: true, triangleA: 1 }))
      // Of what it gives only dQ counts, so that the rest may take the place of what has been used.
      else
        gpu.run(
          backward,
          'fadeBackward',
          { work, q: k, k, extra, tokens },
          { ...params, dS: params.S, dK: params.Kt, dA: params.A, dM: params.M, dW: params.w },
          batches * blocks(K),
        )
    }
    gpu.run(chunk, 'keyOutputs', { work, tokens, y }, params, rowGroups(part))
  }

  // ---- a workgroup a head ----------------------------------------------------------------------------------------------------

  /**
   * Whether there is neither a normaliser nor along nor a transposed read, and the adapter binds that many arrays. Where products are rounded, those that a decay
   * may lie between aren't: that is for `pairs`.
   */
  const byHeads = ({ forgets, along }: Plan, normaliser: Block | null, { transposed }: FastWeightSizes, bound: number): boolean =>
    !(along || normaliser || transposed || onUnits || (forgets && gpu.exact)) && gpu.device.limits.maxStorageBuffersPerShaderStage >= bound

  /** Its decays, at `w` in the work, up to the ends of chunks of C tokens in each piece; those of channels, where each has its own, in `channelDecays`. */
  function fade(
    { params, heads, extra }: Plan,
    { gate, tokens }: FastWeightInputs<Block>,
    { work, channelDecays, w, C, checked }: { work: Block; channelDecays: Block | null; w: number; C: number; checked: boolean },
  ): void {
    const n = Number(checked && gate !== null)
    const own = { head: 0, heads, w, C, n, fault: n && gpu.fault(gateFault) }
    gpu.run(
      shared,
      'decays',
      { work, channelDecays, extra, gate, tokens, faults: gpu.faults },
      { ...params, ...own },
      heads * params.pieces,
    )
  }

  /** The floats of `fade` in the work. */
  const fadeFloats = ({ forgets, heads, params }: Plan): number => (forgets ? heads * params.pieces * params.rows * factors : 0)
  /** Whether channels have decays of their own. */
  const ofChannels = ({ params }: Plan): boolean => params.gateWidth > 1

  /** Whether it has been computed so. Pieces are the same with snapshots and without: so neither these nor tokens that follow change a bit. */
  function forwardOfHeads(
    inputs: FastWeightInputs<Block>,
    { y, sT, zT, states }: FastWeightOutputs<Block>,
    sizes: FastWeightSizes,
  ): boolean {
    const plan = planOf(sizes, inputs, false, chunksOfSpan(sizes))
    const { forgets, heads, params, extra, rowsOfInputs } = plan
    const channels = ofChannels(plan)
    const groups = heads * Math.ceil(sizes.V / side)
    if (!byHeads(plan, zT, sizes, channels ? boundForward.channels : forgets ? boundForward.heads : 0)) return false
    if (!gpu.capabilities.software && groups < fewestGroups) return false
    if (4 * fadeFloats(plan) > gpu.capabilities.bindingBytes) return false
    const { q, k, v, s0 } = inputs
    const given = { begun: Number(s0 !== null), kept: Number(states !== null), outside: Math.ceil(sizes.T / sizes.C) }
    const all = { ...params, ...given, stride: plan.chunksOfSpan, head: 0, heads }
    const arrays = { q, k, v, extra, y, state: sT, stateIn: s0, states }
    if (!forgets) gpu.run(headsForward, 'headsForward', arrays, all, groups)
    else
      gpu.scratch(fadeFloats(plan), (work) => {
        const run = (channelDecays: Block | null): void => {
          fade(plan, inputs, { work, channelDecays, w: 0, C: sizes.C, checked: true })
          if (channels) gpu.run(headsForwardChannels, 'headsForward', { ...arrays, work, channelDecays }, { ...all, w: 0 }, groups)
          else gpu.run(headsForwardFading, 'headsForward', { ...arrays, work }, { ...all, w: 0 }, groups)
        }
        if (channels) gpu.scratch(rowsOfInputs * sizes.K, run)
        else run(null)
      })
    return true
  }

  /** Where each piece begins with a snapshot, and the adapter binds as many arrays. */
  function backwardOfHeads(
    inputs: FastWeightInputs<Block>,
    { den, states }: FastWeightSaved<Block>,
    { dy, dsT }: FastWeightCotangents<Block>,
    { dq, dk, dv, dbeta, derase, dgate, ds0 }: FastWeightGradients<Block>,
    sizes: FastWeightSizes,
  ): boolean {
    const plan = planOf(sizes, inputs, false, chunksOfSpan(sizes))
    const { K, V, C, T, span, perSpan, rows, pieces } = plan.params
    if (!byHeads(plan, den, sizes, boundArrays) || perSpan > 1) return false
    const { q, k, v } = inputs
    const { extra } = plan
    const dextra = dbeta ?? derase
    const channels = ofChannels(plan)
    const wanted = gpu.capabilities.software ? 1 : Math.floor(segmentsWanted / plan.heads)
    const perSegment = Math.max(shortestSegment, Math.ceil(pieces / Math.max(1, wanted)))
    const segments = Math.ceil(pieces / perSegment)
    const [groups, gradient] = [plan.heads * segments, plan.rowsOfInputs * (dbeta ? 1 : derase ? K : 0)]
    const ofGate = dgate && !channels ? plan.rowsOfInputs : 0
    const dA = groups * (K + rows) * V
    const at = { dS: 0, U: groups * K * V, dA, dW: dA + gradient, w: dA + gradient + ofGate }
    const floats = at.w + fadeFloats(plan)
    if (4 * floats > gpu.capabilities.bindingBytes) return false
    gpu.scratch(floats, (work) => {
      const own = { segments, perSegment, begun: Number(dsT !== null), outside: Math.ceil(T / C), stride: plan.chunksOfSpan }
      const params = { ...plan.params, ...at, head: 0, heads: plan.heads }
      const arrays = { work, q, k, v, dy, stateIn: states, dq, dk, dv }
      const ofSegment = (slot: number) => ({ S: at.dS, slots: segments, slot })
      /** Decays of channels lie where their gradients will be, and so does what belongs to a, since no more arrays are bound. */
      const channelDecays = channels ? dgate : null
      if (channels && extra) copy(extra, work, [gradient], [1], 0, [1], at.dA)
      if (plan.forgets) fade(plan, inputs, { work, channelDecays, w: at.w, C: span, checked: false })
      if (dsT) move('load', { work, params }, [dsT, null], ofSegment(segments - 1))
      const run = (entry: 'headsCarry' | 'headsBackward', groups: number): void => {
        const all = { ...params, ...own }
        if (channels) gpu.run(headsBackwardChannels, entry, { ...arrays, channelDecays }, all, groups)
        else gpu.run(plan.forgets ? headsBackwardFading : headsBackward, entry, { ...arrays, extra }, all, groups)
      }
      if (segments > 1) run('headsCarry', plan.heads * Math.ceil(V / side))
      run('headsBackward', groups)
      if (ds0) move('store', { work, params }, [ds0, null], ofSegment(0))
      if (dextra) copy(work, dextra, [gradient], [1], at.dA, [1], 0)
      if (dgate && !channels) copy(work, dgate, [plan.rowsOfInputs], [1], at.dW, [1], 0)
    })
    return true
  }

  return {
    fastWeights(form, inputs, outputs, sizes) {
      const { y, sT, zT, den, states, zs } = outputs
      const { transposed } = sizes
      if (form === 'chunk' && forwardOfHeads(inputs, outputs, sizes)) return
      // With along the recurrent form is the chunk form, a token at a time: `recurrent` binds as many arrays as a GPU need let it.
      const chunked = form === 'chunk' || inputs.along !== null
      const alone = form === 'recurrent' && (transposed || chunked)
      const plan = planOf(sizes, inputs, zT !== null, form === 'chunk' ? chunksOfSpan(sizes) : 1, alone ? 1 : rowsLimit)
      const { forgets, extra } = plan
      const { k, v, gate, tokens, s0, z0 } = inputs
      // A transposed read has no queries of the width of keys: what a kernel makes of these is not used.
      const q = transposed ? k : inputs.q
      checkGate(inputs, plan)
      const begin = (part: Part): void => move('load', part, part.begins ? [s0, z0] : [sT, zT])
      const putOut = (part: Part): void => gpu.run(chunk, 'outputs', { work: part.work, tokens, y, den }, part.params, rowGroups(part))
      const keep = (part: Part): void => {
        move('store', part, [sT, zT], { slot: part.params.pieces })
        if (states) move('store', part, [states, zs], part.snapshots)
      }
      if (!chunked) {
        const run = (part: Pick<Part, 'work' | 'params' | 'heads'>, inPlace: boolean): void => {
          const { work, params, heads } = part
          const groups = heads * blocks(params.columns)
          gpu.run(
            recurrent,
            'recurrent',
            { work, q, k, v, extra, gate, tokens, y },
            { ...params, inPlace: Number(inPlace), transposed: Number(transposed) },
            groups,
          )
        }
        // Where nothing is kept, the final state's own memory holds the state.
        if (!zT && !states && !transposed) {
          const whole = { work: sT, params: { ...plan.params, S: 0, head: 0, heads: plan.heads }, heads: plan.heads }
          move('load', whole, [s0, z0], { slots: 1 })
          run(whole, true)
        } else
          forEachPart(
            plan,
            ({ states, values, keys }) => ({ S: states, ...(zT && { O: values }), ...(transposed && { G: values, dQ: keys }) }),
            (part) => {
              begin(part)
              run(part, false)
              if (zT) putOut(part)
              if (transposed) readTransposed(part, plan, inputs, y, true)
              keep(part)
            },
          )
        return
      }
      const { reads } = plan.params
      const layout: Layout = (floats) => {
        const { keys, values, pairs, gammas, states } = floats
        return {
          Q: keys,
          Kt: keys,
          U: values,
          P: pairs,
          gamma: gammas,
          S: states,
          ...(transposed ? { G: values, dQ: keys, dP: pairs } : { O: values }),
          ...(reads && { W: keys, M: pairs }),
          ...(forgets && { w: keys }),
          ...(plan.along && ofAlong(floats)),
        }
      }
      forEachPart(plan, layout, (part) => {
        // W takes the place of A~.
        part.at.A = part.params.A = part.at.W
        prepare(part, plan, { ...inputs, q })
        const [begun, ended] = [part.begins ? ([s0, z0] as const) : ([sT, zT] as const), [sT, zT] as const]
        scanForward(part, plan, 1, part.params.pieces, false, { begun, carried: !part.begins, ended, kept: [states, zs] })
        if (states) innerSnapshots(part, plan, inputs, states, zs)
        if (transposed) readTransposed(part, plan, inputs, y, false)
        else readStates(part, plan, tokens, y, den)
      })
    },

    fastWeightsBackward(_form, given, saved, cotangents, gradients, sizes) {
      if (backwardOfHeads(given, saved, cotangents, gradients, sizes)) return
      const { y, den, states, zs } = saved
      const { dy: cotangent, dsT, dzT } = cotangents
      const { transposed } = sizes
      const inputs = transposed ? { ...given, q: cotangent } : given
      const dy = transposed ? given.q : cotangent
      const plan = planOf(sizes, inputs, den !== null, chunksOfSpan(sizes))
      const { gated, forgets, extra, along } = plan
      const { q, k, tokens } = inputs
      const { dq, dk, dv, dbeta, derase, dalong, dgate, ds0, dz0 } = gradients
      const { K, columns, perSpan, rows, reads } = plan.params
      const layout: Layout = (floats) => {
        const { keys, values, pairs, gammas, states } = floats
        return {
          Q: keys,
          Kt: keys,
          U: values,
          P: pairs,
          gamma: gammas,
          S: states,
          G: values,
          dU: values,
          dS: states,
          dQ: keys,
          dK: keys,
          dP: pairs,
          ...(transposed && { O: values }),
          ...(reads && { A: keys, W: keys, M: pairs, dA: keys, dM: pairs }),
          ...(along && { ...ofAlong(floats), dKb: keys, dPb: pairs, dMb: pairs, dX: values }),
          ...(forgets && { w: keys }),
          ...(gated && { dW: keys }),
        }
      }
      const partBackward = (part: Part, dS: Block | null, dz: Block | null): void => {
        const { work, at, params, batches } = part
        prepare(part, plan, inputs)
        scanForward(part, plan, part.spans, perSpan, true, { begun: [states, zs] })
        const m = matrices(part)
        if (transposed) readStates(part, plan, tokens, dq, null)
        const toValues = m.withProducts(
          m.product('dU', [turned(m.pairs(along ? 'Pb' : 'P')), m.values('G')], columns, rows, { triangleA: 2, weights: true }),
        )
        gpu.run(backward, 'cotangentsWith', { work, dy, yIn: y, denIn: den, tokens }, toValues, batches)
        scanBackward(part, plan, { begun: part.ends ? [dsT, dzT] : [dS, dz], carried: !part.ends, ended: [dS, dz] })
        const finished = !forgets && !along
        if (reads && !finished)
          gpu.run(chunk, 'solve', { work }, { ...params, ...(along && { M: params.Mb }), turned: 1 }, batches * blocks(columns))
        type Names = readonly [Kt: string, dK: string, dP: string, dM: string]
        /** What goes back to keys of one kind, after what comes from the states, `first`, or from another kind. */
        const toKeys = (values: string, [, dK, dP, dM]: Names, first: readonly Product[]): Product[] => [
          ...first,
          m.product(dK, [m.values(values), turned(m.states('dS', 1))], K, columns),
          m.product(dP, [m.values('G'), turned(m.values(values))], rows, columns, { lowerC: 2 }),
          ...(reads ? [m.product(dM, [m.values('dU'), turned(m.values(values))], rows, columns, { negative: true, lowerC: 1 })] : []),
        ]
        /** And from them to q and a. Without decays the pairs are plain products. */
        const throughPairs = ([Kt, dK, dP, dM]: Names): Product[] => {
          const [lower, upper] = [1, 2].map((triangleA) => ({ add: true, triangleA: triangleA as 1 | 2 }))
          return [
            m.product('dQ', [m.pairs(dP), m.keys(Kt)], K, rows, { ...lower, after: true }),
            m.product(dK, [turned(m.pairs(dP)), m.keys('Q')], K, rows, upper),
            ...(reads
              ? [
                  m.product(dK, [turned(m.pairs(dM)), m.keys('A')], K, rows, upper),
                  m.product('dA', [m.pairs(dM), m.keys(Kt)], K, rows, lower),
                ]
              : []),
          ]
        }
        const backToKeys = (k: Block, values: string, names: Names, first: readonly Product[]): void => {
          const [, dK, dP, dM] = names
          m.multiply(...toKeys(values, names, first))
          if (forgets) {
            const regions = { dK: at[dK], dP: at[dP], dM: at[dM], more: Number(first.length === 0) }
            gpu.run(backward, 'fadeBackward', { work, q, k, extra, tokens }, { ...params, ...regions }, batches * blocks(K))
            return
          }
          m.multiply(...throughPairs(names))
        }
        const own = ['Kt', 'dK', 'dP', 'dM'] as const
        const fromStates = [
          m.product('dQ', [m.values('G'), turned(m.states('S'))], K, columns),
          ...(reads ? [m.product('dA', [m.values('dU'), turned(m.states('S'))], K, columns, { negative: true })] : []),
        ]
        if (along) {
          m.multiply(
            m.product('dX', [turned(m.pairs('P')), m.values('G')], columns, rows, { triangleA: 2, weights: true }),
            m.product('dX', [m.keys('Kt'), m.states('dS', 1)], columns, K, { add: true, weights: true }),
            m.product('dX', [turned(m.pairs('M')), m.values('dU')], columns, rows, {
              negative: true,
              add: true,
              triangleA: 2,
              weights: true,
            }),
          )
          backToKeys(along, 'U', ['Kb', 'dKb', 'dPb', 'dMb'], fromStates)
          backToKeys(k, 'X', own, [])
          gpu.run(chunk, 'keyOutputs', { work, tokens, y: dalong }, { ...params, dQ: at.dKb }, rowGroups(part))
        } else if (!finished) backToKeys(k, 'U', own, fromStates)
        const bindings = { work, k, extra, tokens, dq: transposed ? null : dq, dk, dv, dextra: dbeta ?? derase }
        const last = { transposed: Number(transposed), ...(along && { dU: at.dX }) }
        if (finished) {
          const all = m.withProducts(...toKeys('U', own, fromStates), ...throughPairs(own))
          gpu.run(backward, 'finish', bindings, { ...all, ...last, turned: 1 }, batches)
        } else gpu.run(backward, 'gradients', bindings, { ...params, ...last }, rowGroups(part))
        if (gated) gpu.run(backward, 'gateGradient', { work, tokens, dgate }, params, rowGroups(part))
      }
      // Between parts of a head, too, there has to be memory for the cotangents of the state.
      const cut = partsOf(plan, layout).spans < plan.spans
      const carried = (given: Block | null, floats: number, body: (block: Block | null) => void): void =>
        !given && cut && floats > 0 ? gpu.scratch(floats, body) : body(given)
      carried(ds0, plan.heads * K * sizes.V, (dS) =>
        carried(dz0, den ? plan.heads * K : 0, (dz) => forEachPart(plan, layout, (part) => partBackward(part, dS, dz), true)),
      )
    },
  }
}
