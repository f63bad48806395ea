/**
 * The fast-weight recurrences: kernels-wgsl/fast-weights.wgsl, which has the equations, and fast-weights-products.wgsl.
 *
 * In chunks, all pieces of all heads are prepared at once, then one dispatch carries the states from piece to piece, then all outputs are
 * computed at once; likewise backward. The recurrent form is one dispatch over the tokens, for decoding; its backward is the chunk form's, since it
 * needs no more than the snapshots, and a token at a time would leave a GPU idle. The result is the same up to rounding.
 *
 * A chunk may be of any length: it's computed in pieces of at most `rowsLimit` tokens, each with a state of its own in scratch memory. Heads
 * are taken as many at a time as `scratchFloats` holds.
 */
import { fastWeights as kernels, fastWeightsProducts as products } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { FastWeightInputs, FastWeightSizes, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup, threads } from './runtime.ts'

/** ROWS of fast-weights.wgsl and SIDE of fast-weights-products.wgsl. */
const rowsLimit = 32
const side = 32
/** PER_GROUP_ROWS of fast-weights.wgsl. */
const perGroupRows = 4
const scratchFloats = 2 ** 26

/** Short chunks share a piece. Longer ones begin one of their own, since the backward starts from a snapshot there. */
const chunksOfSpan = ({ C }: FastWeightSizes): number => Math.max(1, Math.floor(rowsLimit / C))

type Regions = Record<string, number>

const gateFault = (bits: number): string =>
  `fastWeights: the gate holds ${new Float32Array(Int32Array.of(bits).buffer)[0]}; gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)`

export function fastWeightKernels(gpu: Gpu): Pick<Kernels<Block>, 'fastWeights' | 'fastWeightsBackward'> {
  const blocks = (n: number): number => Math.ceil(n / threads)

  /** What a call's dispatches have in common. */
  function planOf(sizes: FastWeightSizes, { beta, gate, erase }: FastWeightInputs<Block>, normalised: boolean, chunksOfSpan: number) {
    const { B, T, H, K, V, C, gateWidth, scale, eps } = sizes
    const span = C * chunksOfSpan
    const spans = Math.ceil(T / span)
    const rows = Math.min(span, T, rowsLimit)
    const perSpan = Math.ceil(Math.min(span, T) / rows)
    const pieces = (spans - 1) * perSpan + Math.ceil((T - (spans - 1) * span) / rows)
    const columns = V + Number(normalised)
    const reads = beta ? 1 : erase ? 2 : 0
    return {
      gated: gate !== null,
      extra: beta ?? erase,
      spans,
      /** Places of the states at the beginning of each span, outside and in the work. */
      snapshots: { segments: spans, outside: Math.ceil(T / C), stride: chunksOfSpan, step: perSpan },
      heads: B * H,
      params: { T, H, K, V, C, columns, span, perSpan, pieces, rows, reads, gateWidth: gate ? gateWidth : 0, scale, eps },
      tokens: B * T * H,
      /** Floats of a head. */
      keys: pieces * rows * K,
      values: pieces * rows * columns,
      pairs: pieces * rows * rows,
      states: (pieces + 1) * K * columns,
    }
  }
  type Plan = ReturnType<typeof planOf>

  /** A part of the heads, with scratch memory for them: `at` has the regions' offsets. */
  type Part = { work: Block; at: Regions; params: Plan['params'] & Regions; heads: number; batches: number }

  function forEachPart({ heads, params }: Plan, regions: Regions, body: (part: Part) => void): void {
    const each = Object.values(regions).reduce((total, floats) => total + floats, 0)
    const most = Math.max(1, Math.floor(Math.min(scratchFloats, gpu.capabilities.bindingBytes / 4) / each))
    for (let head = 0; head < heads; head += most) {
      const n = Math.min(most, heads - head)
      let total = 0
      const at: Regions = {}
      for (const [name, floats] of Object.entries(regions)) {
        at[name] = total
        total += n * floats
      }
      gpu.scratch(total, (work) => body({ work, at, params: { ...params, ...at, head, heads: n }, heads: n, batches: n * params.pieces }))
    }
  }

  function checkGate(gate: Block | null, n: number): void {
    if (gate) gpu.run(kernels, 'checkGate', { gate, faults: gpu.faults }, { n, fault: gpu.fault(gateFault) }, Math.ceil(n / perGroup))
  }

  /** States between arrays [B,H,outside,K,V] and [B,H,outside,K] and region S of the work: the names are those of Params. */
  function move(
    entry: 'load' | 'store',
    { work, params }: Pick<Part, 'work' | 'params'>,
    [state, normaliser]: readonly [Block | null, Block | null],
    { S = params.S, slots = params.pieces + 1, slot = 0, segments = 1, outside = 1, stride = 1, step = 1 } = {},
  ): void {
    gpu.run(
      kernels,
      entry,
      { work, ...(entry === 'load' ? { stateIn: state, normaliserIn: normaliser } : { state, normaliser }) },
      { ...params, S, slots, slot, segments, outside, stride, step, present: Number(state !== null) + 2 * Number(normaliser !== null) },
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
    /** C = alpha A B, or added to what C holds. */
    const multiply = (
      c: string,
      [a, b]: readonly [Factor, Factor],
      N: number,
      inner: number,
      options: { alpha?: number; accumulate?: 0 | 1; triangleA?: 0 | 1 | 2; lowerC?: 0 | 1 | 2 } = {},
    ): void =>
      gpu.run(
        products,
        'product',
        { work },
        {
          ...pick(params),
          M: rows,
          N,
          inner,
          a: a.at,
          aRow: a.row,
          aColumn: a.column,
          aPiece: a.piece,
          b: b.at,
          bRow: b.row,
          bColumn: b.column,
          bPiece: b.piece,
          bHead: b.head,
          c: at[c],
          alpha: 1,
          ...options,
        },
        batches * Math.ceil(N / side),
      )
    return { keys: tokens(K), values: tokens(columns), pairs: tokens(rows), states, multiply }
  }
  const pick = ({ K, columns, heads, pieces, rows }: Part['params']) => ({ K, columns, heads, pieces, rows })

  // ---- what forward and backward begin with: Q~ K~ A~ Gamma P M W U0 ---------------------------------------------------------------

  function prepare(part: Part, { gated, extra }: Plan, { q, k, v, gate }: FastWeightInputs<Block>): void {
    const { work, params, batches } = part
    const { K, columns, reads } = params
    gpu.run(kernels, 'prepare', { work, q, k, v, extra, gate }, params, batches * (blocks(K) + blocks(columns)))
    if (gated) gpu.run(kernels, 'pairs', { work, q, k, extra }, params, batches)
    else {
      const { keys, multiply } = matrices(part)
      multiply('P', [keys('Q'), turned(keys('Kt'))], params.rows, K, { lowerC: 2 })
      if (reads) multiply('M', [keys('A'), turned(keys('Kt'))], params.rows, K, { lowerC: 1 })
    }
    if (reads) gpu.run(kernels, 'solve', { work }, params, batches * blocks(K + columns))
  }

  /** Snapshots at the chunks that begin inside a piece. */
  function innerSnapshots(
    { work, params, batches }: Part,
    { extra, snapshots: { outside, stride } }: Plan,
    { k }: FastWeightInputs<Block>,
    state: Block,
    normaliser: Block | null,
  ): void {
    const n = batches * params.K * params.columns
    gpu.run(kernels, 'snapshots', { work, k, extra, state, normaliser }, { ...params, outside }, stride === 1 ? 0 : Math.ceil(n / perGroup))
  }

  const rowGroups = ({ batches, params }: Part): number => Math.ceil((batches * params.rows) / perGroupRows)

  /** U and the states, from the one in the first slot of each segment on. */
  function scanForward({ work, params, heads }: Part, segments: number, perSegment: number, keepLast: boolean): void {
    gpu.run(
      products,
      'scan',
      { work },
      {
        ...pick(params),
        segments,
        perSegment,
        keepLast: Number(keepLast),
        states: params.S,
        values: params.U,
        gamma: params.gamma,
        reads: Number(params.reads !== 0),
        readsWith: params.W,
        readsTimes: -1,
        writes: 1,
        writesWith: params.Kt,
        writesTimes: 1,
      },
      heads * segments * Math.ceil(params.columns / side),
    )
  }

  /** dU and the cotangents of the states, from that of the last one back. */
  function scanBackward({ work, params, heads }: Part): void {
    gpu.run(
      products,
      'scan',
      { work },
      {
        ...pick(params),
        reverse: 1,
        segments: 1,
        perSegment: params.pieces,
        keepLast: 1,
        states: params.dS,
        values: params.dU,
        gamma: params.gamma,
        reads: 1,
        readsWith: params.Kt,
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

  return {
    fastWeights(form, inputs, { y, sT, zT, den, states, zs }, sizes) {
      const plan = planOf(sizes, inputs, zT !== null, form === 'chunk' ? chunksOfSpan(sizes) : 1)
      const { gated, extra, keys, values, pairs } = plan
      const { q, k, v, gate, s0, z0 } = inputs
      checkGate(gate, plan.tokens * sizes.gateWidth)
      const keep = (part: Part): void => {
        move('store', part, [sT, zT], { slot: plan.params.pieces })
        if (states) move('store', part, [states, zs], plan.snapshots)
      }
      if (form === 'recurrent') {
        const run = (part: Pick<Part, 'work' | 'params' | 'heads'>, inPlace: boolean): void => {
          move('load', part, [s0, z0], inPlace ? { slots: 1 } : {})
          const { work, params, heads } = part
          const groups = heads * blocks(params.columns)
          gpu.run(kernels, 'recurrent', { work, q, k, v, extra, gate, y, den }, { ...params, inPlace: Number(inPlace) }, groups)
        }
        // Where nothing is kept, the final state's own memory holds the state.
        if (!zT && !states) run({ work: sT, params: { ...plan.params, S: 0, head: 0, heads: plan.heads }, heads: plan.heads }, true)
        else
          forEachPart(plan, { S: plan.states }, (part) => {
            run(part, false)
            keep(part)
          })
        if (zT) {
          const n = plan.tokens * sizes.V
          gpu.run(kernels, 'normalise', { y, den }, { V: sizes.V, n }, Math.ceil(n / perGroup))
        }
        return
      }
      const { K, columns, pieces, rows, reads } = plan.params
      const regions = { Q: keys, Kt: keys, U: values, P: pairs, gamma: pieces * K, S: plan.states, O: values }
      forEachPart(plan, { ...regions, ...(reads && { W: keys, M: pairs }), ...(gated && { w: keys }) }, (part) => {
        // W takes the place of A~.
        part.at.A = part.params.A = part.at.W
        prepare(part, plan, inputs)
        move('load', part, [s0, z0])
        scanForward(part, 1, pieces, true)
        const m = matrices(part)
        m.multiply('O', [m.keys('Q'), m.states('S')], columns, K)
        m.multiply('O', [m.pairs('P'), m.values('U')], columns, rows, { accumulate: 1, triangleA: 1 })
        gpu.run(kernels, 'outputs', { work: part.work, y, den }, part.params, rowGroups(part))
        keep(part)
        if (states) innerSnapshots(part, plan, inputs, states, zs)
      })
    },

    fastWeightsBackward(_form, inputs, { y, den, states, zs }, { dy, dsT, dzT }, gradients, sizes) {
      const plan = planOf(sizes, inputs, den !== null, chunksOfSpan(sizes))
      const { gated, extra, spans, keys, values, pairs } = plan
      const { q, k } = inputs
      const { dq, dk, dv, dbeta, derase, dgate, ds0, dz0 } = gradients
      const { K, columns, pieces, perSpan, rows, reads } = plan.params
      const forward = { Q: keys, Kt: keys, U: values, P: pairs, gamma: pieces * K, S: plan.states }
      const backward = { G: values, dU: values, dS: plan.states, dQ: keys, dK: keys, dP: pairs }
      const reading = { A: keys, W: keys, M: pairs, dA: keys, dM: pairs }
      forEachPart(plan, { ...forward, ...backward, ...(reads && reading), ...(gated && { w: keys, dW: keys }) }, (part) => {
        const { work, params, batches } = part
        prepare(part, plan, inputs)
        move('load', part, [states, zs], plan.snapshots)
        scanForward(part, spans, perSpan, false)
        const m = matrices(part)
        gpu.run(kernels, 'cotangents', { work, dy, yIn: y, denIn: den }, params, rowGroups(part))
        m.multiply('dU', [turned(m.pairs('P')), m.values('G')], columns, rows, { triangleA: 2 })
        move('load', part, [dsT, dzT], { S: params.dS, slot: pieces })
        scanBackward(part)
        if (reads) gpu.run(kernels, 'solve', { work }, { ...params, transposed: 1 }, batches * blocks(columns))
        m.multiply('dQ', [m.values('G'), turned(m.states('S'))], K, columns)
        m.multiply('dK', [m.values('U'), turned(m.states('dS', 1))], K, columns)
        m.multiply('dP', [m.values('G'), turned(m.values('U'))], rows, columns, { lowerC: 2 })
        if (reads) {
          m.multiply('dA', [m.values('dU'), turned(m.states('S'))], K, columns, { alpha: -1 })
          m.multiply('dM', [m.values('dU'), turned(m.values('U'))], rows, columns, { alpha: -1, lowerC: 1 })
        }
        if (gated) gpu.run(kernels, 'fadeBackward', { work, q, k, extra }, params, batches * blocks(K))
        else {
          // Without decays the pairs are plain products.
          m.multiply('dQ', [m.pairs('dP'), m.keys('Kt')], K, rows, { accumulate: 1, triangleA: 1 })
          m.multiply('dK', [turned(m.pairs('dP')), m.keys('Q')], K, rows, { accumulate: 1, triangleA: 2 })
          if (reads) {
            m.multiply('dK', [turned(m.pairs('dM')), m.keys('A')], K, rows, { accumulate: 1, triangleA: 2 })
            m.multiply('dA', [m.pairs('dM'), m.keys('Kt')], K, rows, { accumulate: 1, triangleA: 1 })
          }
        }
        gpu.run(kernels, 'gradients', { work, k, extra, dq, dk, dv, dextra: dbeta ?? derase }, params, rowGroups(part))
        if (gated) gpu.run(kernels, 'gateGradient', { work, dgate }, params, rowGroups(part))
        if (ds0 || dz0) move('store', part, [ds0, dz0], { S: params.dS })
      })
    },
  }
}
