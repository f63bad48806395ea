/** What is claimed of the attention free transformer: how its forms contain each other, that it is softmax attention, and what it can't see. */
import {
  type AftBias,
  type AftOptions,
  type AftState,
  add,
  aft,
  concat,
  expand,
  gather,
  matmul,
  permute,
  reshape,
  slice,
  softmax,
  type Tensor,
  tensor,
  where,
  zeros,
} from '../engine/index.ts'
import { type Claim, defineClaim } from './claim.ts'
import type { Context } from './context.ts'
import { int, oneOf } from './fields.ts'
import { filled } from './parts.ts'
import { type Tensors, withGradients } from './sides.ts'

const section = 'Attention free transformers'
const zhai = 'Zhai 2021 (arXiv 2105.14103)'
/** D channels; s: the window. */
const small = { B: int(1, 2), T: int(1, 14), D: int(1, 6), s: int(1, 8) }
type Sizes = { B: number; T: number; D: number; s: number }

const keysAndValues = ({ B, T, D }: Sizes, x: Context): Tensors => ({ k: x.tensor('k', [B, T, D]), v: x.tensor('v', [B, T, D]) })
const tableOf = ({ T }: Sizes, x: Context): Tensor => x.tensor('w', [T, T])
/** y of the whole sequence. */
const whole = (k: Tensor, v: Tensor, bias?: AftBias, options: AftOptions = {}): Tensors => ({ y: aft(k, v, bias, undefined, options).y })

/** AFT-local, with the gradients of keys, values and biases. */
export const local = (c: Sizes, x: Context, window: number) =>
  withGradients({ ...keysAndValues(c, x), w: tableOf(c, x) }, x, ({ k, v, w }) => whole(k, v, { table: w }, { window }))

const integers = (x: Context, values: readonly number[], shape: number[]): Tensor =>
  tensor(Int32Array.from(values), { shape, device: x.device })

/** 1 where the places are less than s apart, int32 [T,T]. */
const near = ({ T, s }: Sizes, x: Context): Tensor =>
  integers(
    x,
    Array.from({ length: T * T }, (_, i) => Number(Math.abs(Math.floor(i / T) - (i % T)) < s)),
    [T, T],
  )

/** w_tj = taps_{t-j} [T,T], 0 outside their reach, of taps [s]. */
function toeplitz(taps: Tensor, { T, s }: Sizes, x: Context): Tensor {
  const padded = concat([zeros([1, 1], taps.device), reshape(taps, [s, 1])], 0)
  const index = Array.from({ length: T * T }, (_, i) => Math.floor(i / T) - (i % T)).map((back) => (back >= 0 && back < s ? back + 1 : 0))
  return reshape(gather(padded, integers(x, index, [T * T])), [T, T])
}

/** One after the other, each piece from the state that the one before left. */
function inPieces(k: Tensor, v: Tensor, cuts: readonly number[], bias?: AftBias, options: AftOptions = {}): Tensors {
  let state: AftState | undefined
  const ys = cuts.slice(0, -1).map((begin, i) => {
    const piece = (x: Tensor): Tensor => slice(x, 1, begin, cuts[i + 1])
    const result = aft(piece(k), piece(v), bias, state, options)
    state = result.state
    return result.y
  })
  return { y: concat(ys, 1) }
}

const kind = oneOf('none' as const, 'table' as const, 'taps' as const)
/** The bias of a kind, from one input w [T,T] or [1,s]. */
const biasOf = (kind: 'none' | 'table' | 'taps', w: Tensor): AftBias | undefined =>
  kind === 'none' ? undefined : kind === 'table' ? { table: w } : { taps: w }
const drawn = (c: Sizes & { kind: 'none' | 'table' | 'taps' }, x: Context): Tensor =>
  c.kind === 'taps' ? x.tensor('w', [1, c.s]) : tableOf(c, x)
const windowOf = (c: Sizes & { kind: string }): AftOptions => (c.kind === 'table' ? { window: c.s } : {})

export const aftClaims: readonly Claim[] = [
  defineClaim({
    name: 'aft: simple is local with a window of 0',
    section,
    statement: 'Without a window no pair of tokens has a bias, whatever the table holds: AFT-local is AFT-simple.',
    equation: 's = 0 \\;\\Rightarrow\\; y_t = \\frac{\\sum_{j \\le t} e^{k_j} v_j}{\\sum_{j \\le t} e^{k_j}}',
    source: `${zhai}, section 3.2`,
    fields: small,
    left: (c, x) => withGradients(keysAndValues(c, x), x, ({ k, v }) => whole(k, v)),
    right: (c, x) => withGradients(keysAndValues(c, x), x, ({ k, v }) => whole(k, v, { table: tableOf(c, x) }, { window: 0 })),
  }),
  defineClaim({
    name: 'aft: simple is full with w = 0',
    section,
    statement: 'A table of zeros says nothing: AFT-full is AFT-simple.',
    equation: 'w = 0 \\;\\Rightarrow\\; \\text{AFT-full} = \\text{AFT-simple}',
    source: `${zhai}, section 3.2, eq. 3`,
    fields: small,
    left: (c, x) => withGradients(keysAndValues(c, x), x, ({ k, v }) => whole(k, v)),
    right: (c, x) => withGradients(keysAndValues(c, x), x, ({ k, v }) => whole(k, v, { table: zeros([c.T, c.T], x.device) })),
  }),
  defineClaim({
    name: 'aft: local is full with zeros outside its window',
    section,
    statement:
      'Outside the window a key counts as much as its exponential: the bias there is 0, not minus infinity. The gradients agree as well.',
    equation: "w'_{tj} = w_{tj} \\text{ if } |t - j| < s, \\text{ else } 0",
    source: `${zhai}, eq. 4`,
    fields: small,
    left: (c, x) => local(c, x, c.s),
    right: (c, x) =>
      withGradients({ ...keysAndValues(c, x), w: tableOf(c, x) }, x, ({ k, v, w }) => whole(k, v, { table: where(near(c, x), w, 0) })),
  }),
  defineClaim({
    name: 'aft: conv is full with a Toeplitz table',
    section,
    statement: 'Biases by distance, one filter for the channels of a head, are a table for each head whose diagonals are constant.',
    equation: 'w^{(h)}_{tj} = w^{(h)}_{t-j}',
    source: `${zhai}, section 3.3, eq. 5`,
    fields: { ...small, H: int(1, 3) },
    left: (c, x) => {
      const wide = { ...c, D: c.H * c.D }
      return withGradients({ ...keysAndValues(wide, x), w: x.tensor('w', [c.H, c.s]) }, x, ({ k, v, w }) => whole(k, v, { taps: w }))
    },
    right: (c, x) => {
      const wide = { ...c, D: c.H * c.D }
      return withGradients({ ...keysAndValues(wide, x), w: x.tensor('w', [c.H, c.s]) }, x, ({ k, v, w }) => {
        const heads = Array.from({ length: c.H }, (_, h) => {
          const own = (t: Tensor): Tensor => slice(t, 2, h * c.D, (h + 1) * c.D)
          return whole(own(k), own(v), { table: toeplitz(slice(w, 0, h, h + 1), c, x) }).y
        })
        return { y: concat(heads, 2) }
      })
    },
  }),
  defineClaim({
    name: 'aft: each channel is softmax attention to keys and places',
    section,
    statement:
      'A channel of AFT-full is causal softmax attention whose score is the key, the same for every query, plus the bias of the two places.',
    equation: 'y_{t,c} = \\sum_{j \\le t} \\mathrm{softmax}_j(k_{j,c} + w_{tj})\\, v_{j,c}',
    source: `${zhai}, section 3.1, eq. 2`,
    fields: small,
    left: (c, x) => local(c, x, c.T),
    right: (c, x) =>
      withGradients({ ...keysAndValues(c, x), w: tableOf(c, x) }, x, ({ k, v, w }) => {
        const { B, T, D } = c
        const [K, V] = [k, v].map((t) => permute(t, [0, 2, 1]))
        const scores = add(expand(reshape(K, [B, D, 1, T]), [B, D, T, T]), w)
        const read = matmul(softmax(scores, { causal: true }), reshape(V, [B, D, T, 1]))
        return { y: permute(reshape(read, [B, D, T]), [0, 2, 1]) }
      }),
  }),
  defineClaim({
    name: 'aft: state carried over a cut',
    section,
    statement: 'In pieces or token by token, a state of the window and one token for all before it gives what the whole sequence gives.',
    equation: 'y_{1..T}(S_0) = \\bigl[y_{1..t}(S_0),\\; y_{t+1..T}(S_t)\\bigr]',
    source: 'a running softmax; the state holds s keys and values',
    fields: { ...small, kind, cuts: oneOf('one' as const, 'all' as const), at: int(0, 13) },
    left: (c, x) =>
      withGradients({ ...keysAndValues(c, x), w: drawn(c, x) }, x, ({ k, v, w }) => {
        const every = Array.from({ length: c.T + 1 }, (_, t) => t)
        return inPieces(k, v, c.cuts === 'all' ? every : [...new Set([0, c.at % c.T, c.T])], biasOf(c.kind, w), windowOf(c))
      }),
    right: (c, x) =>
      withGradients({ ...keysAndValues(c, x), w: drawn(c, x) }, x, ({ k, v, w }) => whole(k, v, biasOf(c.kind, w), windowOf(c))),
  }),
  defineClaim({
    name: 'aft: causal, to the bit',
    section,
    statement: 'No later key or value, however large, changes a bit of what an earlier token reads.',
    equation: "(k, v)_{1..t} = (k', v')_{1..t} \\;\\Rightarrow\\; y_{1..t} = y'_{1..t}",
    source:
      "the sum over j up to t; labml's takes the largest key of the whole sequence, and a key of 1e4 that is yet to come makes it 0 / 0",
    relation: 'same bits',
    fields: { ...small, T: int(2, 14), kind, at: int(0, 12) },
    left: (c, x) => early(c, x, 0),
    right: (c, x) => early(c, x, 1e4),
  }),
  defineClaim({
    name: 'aft: one key may be as large as it likes',
    section,
    statement:
      'From a token whose key is 1e4 on, its value is all that is read: exponents are taken from the largest key so far, so nothing overflows.',
    equation: 'k_i = 10^4 \\;\\Rightarrow\\; y_t = v_i \\quad (t \\ge i)',
    source: 'e^x in float32 overflows from 89 on',
    fields: { ...small, kind, at: int(0, 13) },
    left: (c, x) => {
      const { k, v } = keysAndValues(c, x)
      const at = c.at % c.T
      return { y: slice(whole(raised(k, at, at + 1, c, x, 1e4), v, biasOf(c.kind, drawn(c, x)), windowOf(c)).y, 1, at, c.T) }
    },
    right: (c, x) => {
      const at = c.at % c.T
      return { y: expand(slice(keysAndValues(c, x).v, 1, at, at + 1), [c.B, c.T - at, c.D]) }
    },
  }),
]

/** Keys of the tokens [begin, end) higher by this. */
function raised(k: Tensor, begin: number, end: number, { B, T, D }: Sizes, x: Context, by: number): Tensor {
  const part = (from: number, to: number): Tensor[] => (to > from ? [slice(k, 1, from, to)] : [])
  const more = add(slice(k, 1, begin, end), filled(x, [B, end - begin, D], by))
  return concat([...part(0, begin), more, ...part(end, T)], 1)
}

/** What tokens before one read, with later keys and values higher by this. */
function early(c: Sizes & { kind: 'none' | 'table' | 'taps'; at: number }, x: Context, by: number): Tensors {
  const { k, v } = keysAndValues(c, x)
  const from = 1 + (c.at % (c.T - 1))
  const [keys, values] = [k, v].map((t) => raised(t, from, c.T, c, x, by))
  return { y: slice(whole(keys, values, biasOf(c.kind, drawn(c, x)), windowOf(c)).y, 1, 0, from) }
}
