/** The attention free transformer: its equation in plain loops, pieces, packing, padding, and that nothing looks ahead; on every device. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  type AftBias,
  type AftState,
  aft,
  concat,
  type Device,
  gather,
  reshape,
  scope,
  slice,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import { assertClose, assertSameBits, builds, gpus, reference, runsOn, uniforms, wasm } from '../helpers.ts'

type Kind = 'none' | 'table' | 'taps'
const kinds: readonly Kind[] = ['none', 'table', 'taps']

interface Call {
  B: number
  T: number
  D: number
  kind: Kind
  /** Places that a bias reaches; `taps` have two heads. */
  window: number
  causal: boolean
  k: Float32Array
  v: Float32Array
  w: Float32Array
  mask?: Int32Array
  reset?: Int32Array
}
const N = 40

const call = (o: Omit<Call, 'k' | 'v' | 'w'>, seed: number): Call => ({
  ...o,
  k: uniforms(seed, o.B * o.T * o.D, -3, 3),
  v: uniforms(seed + 1, o.B * o.T * o.D),
  w: uniforms(seed + 2, { none: 0, table: N * N, taps: 2 * (o.causal ? o.window : 2 * o.window - 1) }[o.kind], -2, 2),
})

const calls = fc
  .record({
    B: fc.integer({ min: 1, max: 3 }),
    T: fc.integer({ min: 1, max: 30 }),
    D: fc.constantFrom(2, 4, 6, 10),
    kind: fc.constantFrom(...kinds),
    window: fc.constantFrom(0, 1, 2, 3, 7, 30),
    causal: fc.boolean(),
    seed: fc.nat({ max: 1e6 }),
    packed: fc.boolean(),
  })
  .map(({ seed, packed, ...o }) => {
    const flags = (salt: number, share: number): Int32Array =>
      Int32Array.from(uniforms(seed + salt, o.B * o.T, 0, 1), (u) => Number(u < share))
    // Taps reach at least the query's own key.
    const window = o.kind === 'taps' ? Math.max(o.window, 1) : o.window
    return { ...call({ ...o, window }, seed), ...(packed && { mask: flags(7, 0.8), reset: flags(8, 0.15) }) }
  })

/** y as the equation says it. */
function expected({ B, T, D, kind, window, causal, k, v, w, mask, reset }: Call): Float64Array {
  const y = new Float64Array(B * T * D)
  for (let b = 0; b < B; b++) {
    let sequence = 0
    let next = 0
    const tokens = Array.from({ length: T }, (_, t) => {
      if (reset?.[b * T + t]) [sequence, next] = [sequence + 1, 0]
      return mask?.[b * T + t] === 0 ? null : { t, sequence, place: next++ }
    }).filter((token) => token !== null)
    for (const query of tokens)
      for (let c = 0; c < D; c++) {
        let [num, den] = [0, 0]
        for (const key of tokens) {
          const ahead = query.place - key.place
          if (key.sequence !== query.sequence || (causal && ahead < 0)) continue
          const tap = (c < D / 2 ? 0 : w.length / 2) + ahead + (causal ? 0 : window - 1)
          const bias = kind === 'none' || Math.abs(ahead) >= window ? 0 : kind === 'table' ? w[query.place * N + key.place] : w[tap]
          const e = Math.exp(k[(b * T + key.t) * D + c] + bias)
          num += e * v[(b * T + key.t) * D + c]
          den += e
        }
        y[(b * T + query.t) * D + c] = num / den
      }
  }
  return y
}

const biasOf = ({ kind, w }: Call, device: Device): AftBias | undefined =>
  kind === 'none'
    ? undefined
    : kind === 'table'
      ? { table: tensor(w, { shape: [N, N], device, requiresGrad: true }) }
      : { taps: tensor(w, { shape: [2, w.length / 2], device, requiresGrad: true }) }

/** Where there is no bias, it has no gradient. */
const gradientsOf = ({ kind }: Call) => (kind === 'none' ? (['dk', 'dv'] as const) : (['dk', 'dv', 'dw'] as const))

interface Result {
  y: Float64Array<ArrayBuffer>
  dk: Float64Array<ArrayBuffer>
  dv: Float64Array<ArrayBuffer>
  dw: Float64Array<ArrayBuffer>
}

/** The whole sequence, or cut before the tokens `cuts`, the gradients flowing back over all pieces. */
async function run(c: Call, device: Device, dy: Float32Array, cuts: readonly number[] = []): Promise<Result> {
  const { B, T, D, causal, kind, window } = c
  const begins = [0, ...cuts, T]
  const reads = scope(() => {
    const bias = biasOf(c, device)
    const part = (x: ArrayLike<number>, from: number, to: number, D: number): number[] =>
      Array.from({ length: B }, (_, b) => Array.from(x).slice((b * T + from) * D, (b * T + to) * D)).flat()
    let state: AftState | undefined
    const pieces = begins.slice(0, -1).map((from, i) => {
      const to = begins[i + 1]
      const input = (x: Float32Array) => tensor(part(x, from, to, D), { shape: [B, to - from, D], device, requiresGrad: true })
      const flags = (x?: Int32Array) => x && tensor(Int32Array.from(part(x, from, to, 1)), { shape: [B, to - from], device })
      const [k, v] = [input(c.k), input(c.v)]
      const result = aft(k, v, bias, state, { causal, mask: flags(c.mask), reset: flags(c.reset), ...(kind === 'table' && { window }) })
      state = result.state
      return { k, v, y: result.y, dy: tensor(part(dy, from, to, D), { shape: [B, to - from, D], device }) }
    })
    // Newest first: what the state carries back is added to what the pieces before have of their own.
    for (const { y, dy } of pieces.toReversed()) y.backward(dy)
    const w = bias && ('table' in bias ? bias.table : bias.taps)
    return {
      pieces: pieces.map(({ k, v, y }) => Promise.all([y.read(), k.grad!.read(), v.grad!.read()])),
      dw: w ? w.grad!.read() : Promise.resolve([]),
    }
  })
  const read = await Promise.all(reads.pieces)
  const joined = (at: number): Float64Array<ArrayBuffer> => {
    const whole = new Float64Array(B * T * D)
    for (const [i, arrays] of read.entries())
      for (let b = 0; b < B; b++)
        for (let t = begins[i]; t < begins[i + 1]; t++)
          for (let d = 0; d < D; d++) whole[(b * T + t) * D + d] = arrays[at][(b * (begins[i + 1] - begins[i]) + t - begins[i]) * D + d]
    return whole
  }
  return { y: joined(0), dk: joined(1), dv: joined(2), dw: Float64Array.from(await reads.dw) }
}

const devices = async (): Promise<[Device, number][]> => [
  [reference, 1e-12],
  ...(await Promise.all(builds.map(async ({ relaxed }): Promise<[Device, number]> => [await wasm(1, relaxed), 2e-6]))),
  ...(await gpus()).map((device): [Device, number] => [device, 2e-6]),
]

describe('aft', () => {
  it('is its equation, with every bias, causal or not, packed, padded', async () => {
    for (const [device, bound] of await devices())
      await fc.assert(
        fc.asyncProperty(calls, async (c) => {
          const { y } = await run(c, device, c.v)
          assertClose(y, expected(c), bound, 1, device.name)
        }),
        { numRuns: runsOn(device, 120) },
      )
  })

  it('has the gradients of the reference, for keys, values and biases', async () => {
    for (const [device, bound] of (await devices()).slice(1))
      await fc.assert(
        fc.asyncProperty(calls, async (c) => {
          const dy = uniforms(3, c.v.length)
          const [found, right] = [await run(c, device, dy), await run(c, reference, dy)]
          for (const name of gradientsOf(c)) assertClose(found[name], right[name], 3 * bound, 1, `${device.name} ${name}`)
        }),
        { numRuns: runsOn(device, 120) },
      )
  })

  it('goes on from a state as if there had been no cut, forward and backward', async () => {
    const cut = fc.tuple(
      calls.filter(({ causal, T }) => causal && T > 2),
      fc.nat(),
      fc.nat(),
    )
    for (const [device, bound] of await devices())
      await fc.assert(
        fc.asyncProperty(cut, async ([c, a, b]) => {
          const cuts = [...new Set([1 + (a % (c.T - 1)), 1 + (b % (c.T - 1))])].sort((x, y) => x - y)
          const dy = uniforms(4, c.v.length)
          const [pieces, whole] = [await run(c, device, dy, cuts), await run(c, device, dy)]
          for (const name of ['y', ...gradientsOf(c)] as const)
            assertClose(pieces[name], whole[name], 10 * bound, 1, `${device.name} ${name}`)
        }),
        { numRuns: runsOn(device, 80) },
      )
  })

  it('gives queries beyond an extended table the biases of its last row, by how far the key lies back', async () => {
    const sizes = fc.record({
      side: fc.integer({ min: 1, max: 6 }),
      window: fc.integer({ min: 1, max: 6 }),
      T: fc.integer({ min: 1, max: 14 }),
      cut: fc.nat({ max: 13 }),
      seed: fc.nat({ max: 1e6 }),
    })
    for (const [device, bound] of await devices())
      await fc.assert(
        fc.asyncProperty(sizes, async ({ side, window, T, cut, seed }) => {
          const [B, D, reach] = [2, 6, Math.min(window, side)]
          // Row by row what the extended table says, of which the gradients flow back to the small one.
          const from = Int32Array.from({ length: T * T }, (_, i) => {
            const [t, j] = [Math.floor(i / T), i % T]
            const beyond = Math.max(t - (side - 1), 0)
            return j <= t && t - j < reach ? (t - beyond) * side + j - beyond : 0
          })
          const trial = async (extended: boolean) => {
            const input = (salt: number, shape: number[]) =>
              tensor(
                uniforms(
                  seed + salt,
                  shape.reduce((n, d) => n * d, 1),
                ),
                { shape, device, requiresGrad: true },
              )
            const reads = scope(() => {
              const [k, v, w] = [input(1, [B, T, D]), input(2, [B, T, D]), input(3, [side, side])]
              const large = (): Tensor => reshape(gather(reshape(w, [side * side, 1]), tensor(from, { shape: [T * T], device })), [T, T])
              const bias = extended ? { table: w, extended } : { table: large() }
              const part = (x: Tensor, a: number, b: number): Tensor => slice(x, 1, a, b)
              const at = extended && cut < T ? cut : 0
              const first = at > 0 ? aft(part(k, 0, at), part(v, 0, at), bias, undefined, { window: reach }) : undefined
              const rest = aft(part(k, at, T), part(v, at, T), bias, first?.state, { window: reach })
              const y = first ? concat([first.y, rest.y], 1) : rest.y
              y.backward(tensor(uniforms(seed + 4, B * T * D), { shape: [B, T, D], device }))
              return [y, k.grad!, v.grad!, w.grad!].map((x) => x.read())
            })
            return Promise.all(reads)
          }
          const [found, right] = [await trial(true), await trial(false)]
          for (const [i, name] of ['y', 'dk', 'dv', 'dw'].entries())
            assertClose(found[i], right[i], 10 * bound, 1, `${device.name} ${name}`)
        }),
        { numRuns: runsOn(device, 60) },
      )
  })

  it('is right where keys are far apart and some biases are large, of which nothing may underflow', async () => {
    // Rounding an exponent of a hundred is 4e-6 of its power.
    const property = fc.asyncProperty(
      calls,
      fc.constantFrom(1, 8, 30),
      fc.constantFrom(1, 5, 15.1, 60),
      fc.nat(),
      async (c, far, large, cut) => {
        const k = c.k.map((x, i) => x * far + (i % 3 === 0 ? far * Math.floor(i / c.D) * 0.3 : 0))
        const one = { ...c, k, w: c.w.map((x, i) => (i % 7 === 0 ? x * large : x)) }
        const dy = uniforms(5, c.B * c.T * c.D)
        const cuts = c.causal && c.T > 1 ? [1 + (cut % (c.T - 1))] : []
        const right = await run(one, reference, dy)
        for (const { relaxed } of builds) {
          const device = await wasm(1, relaxed)
          const found = await run(one, device, dy, cuts)
          for (const name of ['y', ...gradientsOf(c)] as const) assertClose(found[name], right[name], 1e-4, 1, `${device.name} ${name}`)
        }
      },
    )
    await fc.assert(property, { numRuns: 300 })
  })

  it('goes token by token', async () => {
    for (const [device, bound] of await devices())
      for (const kind of kinds) {
        const c = call({ B: 2, T: 9, D: 6, kind, window: 3, causal: true }, 11)
        const tokens = await run(c, device, c.v, [1, 2, 3, 4, 5, 6, 7, 8])
        assertClose(tokens.y, expected(c), 2 * bound, 1, `${device.name} ${kind}`)
      }
  })

  it('lets no later key, however large, and no NaN change a bit of an earlier token', async () => {
    for (const [device] of await devices())
      for (const kind of kinds)
        for (const last of [1e4, Number.NaN, Number.POSITIVE_INFINITY]) {
          const c = call({ B: 1, T: 12, D: 4, kind, window: 3, causal: true }, 5)
          const other = { ...c, k: c.k.map((x, i) => (i >= 10 * 4 ? last : x)), v: c.v.map((x, i) => (i >= 10 * 4 ? last : x)) }
          const early = (x: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> => x.slice(0, 10 * 4)
          assertSameBits(early((await run(c, device, c.v)).y), early((await run(other, device, c.v)).y), `${device.name} ${kind} ${last}`)
        }
  })

  it('stays finite with keys of 1e4 and -1e4, the largest first or last', async () => {
    for (const [device, bound] of await devices())
      for (const kind of kinds)
        for (const at of [0, 11]) {
          const c = call({ B: 1, T: 12, D: 4, kind, window: 3, causal: true }, 6)
          c.k = c.k.map((x, i) => (Math.floor(i / 4) === at ? 1e4 : i % 2 ? -1e4 : x))
          const { y, dk, dv, dw } = await run(c, device, c.v)
          for (const x of [...y, ...dk, ...dv, ...dw]) assert.ok(Number.isFinite(x), `${device.name} ${kind} ${at}`)
          if (at === 0) assertClose(y.slice(-4), [...c.v.slice(0, 4)], bound)
        }
  })

  it('forgets a sequence of NaN and Infinity at a reset, forward and backward, and looks at no padding', async () => {
    for (const [device] of await devices())
      for (const kind of kinds)
        for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
          const [first, second] = [5, 7]
          const alone = call({ B: 1, T: second, D: 4, kind, window: 3, causal: true }, 8)
          const dy = uniforms(9, second * 4)
          const padded = 2
          const T = first + second + padded
          const fill = (x: Float32Array): Float32Array =>
            Float32Array.from([...new Array(first * 4).fill(bad), ...x, ...new Array(padded * 4).fill(bad)])
          const c: Call = {
            ...alone,
            T,
            k: fill(alone.k),
            v: fill(alone.v),
            reset: Int32Array.from({ length: T }, (_, t) => Number(t === first)),
            mask: Int32Array.from({ length: T }, (_, t) => Number(t < first + second)),
          }
          const [packed, right] = [await run(c, device, fill(dy)), await run(alone, device, dy)]
          for (const name of ['y', 'dk', 'dv'] as const) {
            assertSameBits(packed[name].slice(first * 4, (first + second) * 4), right[name], `${device.name} ${kind} ${name}`)
            assert.deepEqual(packed[name].slice(-padded * 4), new Float64Array(padded * 4), `${device.name} ${kind} ${name} at padding`)
          }
        }
  })

  it('is the same on any number of threads', async () => {
    for (const kind of kinds) {
      const c = call({ B: 3, T: 30, D: 10, kind, window: 7, causal: true }, 12)
      const [one, three] = [await run(c, await wasm(1), c.v), await run(c, await wasm(3), c.v)]
      for (const name of ['y', ...gradientsOf(c)] as const) assertSameBits(three[name], one[name], `${kind} ${name}`)
    }
  })

  it('says what is wrong', () => {
    const x = (...shape: number[]) => tensor(new Float32Array(shape.reduce((n, d) => n * d, 1)), { shape, device: reference })
    const k = x(2, 5, 4)
    const fails = (message: RegExp, ...args: Parameters<typeof aft>) => assert.throws(() => aft(...args), message)
    fails(/v has shape \[2,4,4\], expected \[B=2,T=5,D=4\]/, k, x(2, 4, 4))
    fails(/a sequence has 5 tokens so far, and the table has biases for 4/, k, k, { table: x(4, 4) })
    fails(/table has shape \[4,5\]/, k, k, { table: x(4, 5) })
    fails(/taps of 3 heads can't be shared by 4 channels/, k, k, { taps: x(3, 2) })
    fails(/2 taps; where it isn't causal there are 2 s - 1/, k, k, { taps: x(1, 2) }, undefined, { causal: false })
    fails(/the window must be a number of places, 0 or more, not -1/, k, k, { table: x(9, 9) }, undefined, { window: -1 })
    fails(/a table is extended for causal sequences only/, k, k, { table: x(9, 9), extended: true }, undefined, { causal: false })
    fails(/a window of 3 means nothing without a bias/, k, k, undefined, undefined, { window: 3 })
    fails(/the window is 4/, k, k, { taps: x(1, 3) }, undefined, { window: 4 })
    const state = { key: x(2, 1, 4), value: x(2, 1, 4), position: Int32Array.of(0, 0) }
    fails(/a state belongs to causal sequences/, k, k, undefined, state, { causal: false })
    fails(/the key of the state has shape \[2,1,4\], expected \[2,3,4\]/, k, k, { taps: x(1, 3) }, state)
    fails(/positions for 1 rows, k has 2/, k, k, undefined, { ...state, position: Int32Array.of(0) })
  })
})
