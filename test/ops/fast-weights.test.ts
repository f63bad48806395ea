/**
 * The fast-weight recurrences: their forms agree, states carry over, and nothing looks ahead.
 * Written against the equation of engine/devices/kernels.ts in plain loops, on every device.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { fastWeightKernels } from '../../engine/devices/wasm/fast-weights.ts'
import { createMemory } from '../../engine/devices/wasm/memory.ts'
import type { Pool } from '../../engine/devices/wasm/pool.ts'
import { type Device, fastWeights, type HostArray, noGrad, scope, type Tensor, tensor } from '../../engine/index.ts'
import { like } from '../../engine/tensor.ts'
import { simd } from '../../kernels-wasm/generated/bytes.ts'
import { assertRms, assertSameBits, builds, reference, uniforms, wasm, webgpu } from '../helpers.ts'

interface Variant {
  beta?: true
  gate?: 'head' | 'channel'
  erase?: true
  normalised?: true
  transposed?: true
  along?: true
}
const variants = {
  sum: {},
  normalised: { normalised: true },
  'sum, a gate a head': { gate: 'head' },
  'sum, a gate a channel': { gate: 'channel' },
  'normalised, a gate a channel': { gate: 'channel', normalised: true },
  delta: { beta: true },
  'delta, a gate a head': { beta: true, gate: 'head' },
  'delta, a gate a channel': { beta: true, gate: 'channel' },
  erase: { erase: true },
  'erase, a gate a channel': { erase: true, gate: 'channel' },
  'sum, a gate a channel, transposed': { gate: 'channel', transposed: true },
  'delta, transposed': { beta: true, transposed: true },
  'delta, a gate a head, transposed': { beta: true, gate: 'head', transposed: true },
  'delta, a gate a channel, transposed': { beta: true, gate: 'channel', transposed: true },
  'erase, transposed': { erase: true, transposed: true },
  'erase along': { erase: true, along: true },
  'erase along, a gate a head': { erase: true, along: true, gate: 'head' },
  'erase along, a gate a channel': { erase: true, along: true, gate: 'channel' },
} as const satisfies Record<string, Variant>
type Rule = keyof typeof variants
const rules = Object.keys(variants) as Rule[]
const variantOf = (rule: Rule): Variant => variants[rule]
/** The gradients of what comes with the tokens. */
const tokenGradients = (rule: Rule) => {
  return inputsOf(rule).map((name) => `d${name}`) as (keyof Result)[]
}
type KernelForms = 'recurrent' | 'chunk'
const forms: readonly KernelForms[] = ['recurrent', 'chunk']

interface Sizes {
  B: number
  T: number
  H: number
  K: number
  V: number
}
type Names = 'q' | 'k' | 'v' | 'beta' | 'gate' | 'erase' | 'along' | 'S' | 'z' | 'dy' | 'dS' | 'dz'
/** The inputs and the cotangents of the outputs; q, k [B,T,H,K]; v, dy [B,T,H,V] (transposed: q [B,T,H,V], dy [B,T,H,K]); beta [B,T,H]; gate [B,T,H] or, like erase and along, [B,T,H,K]; S, dS [B,H,K,V]; z, dz [B,H,K]. */
type Data = Record<Names, Float32Array>

const shapeOf = (rule: Rule, { B, T, H, K, V }: Sizes): Record<Names, number[]> => ({
  q: [B, T, H, variantOf(rule).transposed ? V : K],
  k: [B, T, H, K],
  v: [B, T, H, V],
  beta: [B, T, H],
  gate: variantOf(rule).gate === 'channel' ? [B, T, H, K] : [B, T, H],
  erase: [B, T, H, K],
  along: [B, T, H, K],
  S: [B, H, K, V],
  z: [B, H, K],
  dy: [B, T, H, variantOf(rule).transposed ? K : V],
  dS: [B, H, K, V],
  dz: [B, H, K],
})

function data(rule: Rule, sizes: Sizes, seed: number): Data {
  const names = Object.entries(shapeOf(rule, sizes)) as [Names, number[]][]
  const all = Object.fromEntries(
    names.map(([name, shape], i) => [
      name,
      uniforms(
        seed + i,
        shape.reduce((n, d) => n * d, 1),
      ),
    ]),
  ) as Data
  all.beta = all.beta.map((x) => (x + 1) / 2)
  all.z = all.z.map(Math.abs)
  // Decays from all but nothing to none at all, and now and then a token that forgets everything.
  all.gate = all.gate.map((x, i) => (i % 29 === 13 ? -Infinity : 6 * Math.min(0, x)))
  // Features are positive where a normaliser divides by their products.
  const { beta, erase, along, normalised } = variantOf(rule)
  if (normalised) for (const name of ['q', 'k'] as const) all[name] = all[name].map((x) => Math.abs(x) + 0.1)
  // What the state is read with is about a unit vector, and what is taken from it lies along that, not against it: else it grows from token
  // to token, and float32 has no answer.
  if (beta || erase) for (const name of ['k', 'erase', 'along'] as const) all[name] = all[name].map((x) => x * Math.sqrt(2 / sizes.K))
  if (erase) {
    const taken = along ? all.along : all.k
    all.erase = all.erase.map((x, i) => Math.abs(x) * Math.sign(taken[i]))
  }
  return all
}

interface Options {
  form: KernelForms
  C: number
  scale?: number
  state?: boolean
  eps?: number
  /** False: outputs alone are of interest. */
  gradients?: boolean
}
type Result = Partial<Record<'y' | 'S' | 'z' | 'dq' | 'dk' | 'dv' | 'dbeta' | 'dgate' | 'derase' | 'dalong' | 'dS0' | 'dz0', HostArray>>

function call(rule: Rule, t: Partial<Record<Names, Tensor>>, { form, C, scale, eps }: Options): { y: Tensor; S: Tensor; z?: Tensor } {
  const options = { form, chunk: C, scale }
  const { q, k, v, beta, gate, erase, along, S, z } = t as Record<Names, Tensor>
  const { normalised: normalise = false, transposed, ...has } = variantOf(rule)
  const gates = { ...(has.beta && { beta }), ...(has.gate && { gate }), ...(has.erase && { erase }), ...(has.along && { along }) }
  const { y, state } = fastWeights(q, k, v, gates, S && { S, ...(normalise && { z }) }, {
    ...options,
    normalise,
    transposed,
    ...(normalise && { eps }),
  })
  return { y, ...state }
}

/** The inputs of a rule, in the op's order. */
const inputsOf = (rule: Rule): Names[] => [
  'q',
  'k',
  'v',
  ...(['beta', 'gate', 'erase', 'along'] as const).filter((name) => variantOf(rule)[name]),
]

/** Gradients of the initial state have names of their own: dS and dz are cotangents of the final one. */
const gradName = (name: string): string => (name === 'S' || name === 'z' ? `d${name}0` : `d${name}`)

async function run(rule: Rule, sizes: Sizes, d: Data, options: Options, device: Device): Promise<Result> {
  const shape = shapeOf(rule, sizes)
  const { normalised } = variantOf(rule)
  const inputs = inputsOf(rule)
  if (options.state ?? true) inputs.push('S', ...(normalised ? ['z' as const] : []))
  const tensors = scope(() => {
    const t = Object.fromEntries(inputs.map((name) => [name, tensor(d[name], { shape: shape[name], device, requiresGrad: true })]))
    const { y, S, z } = call(rule, t, options)
    if (options.gradients === false) return { y, S, z }
    // The node's own backward, so that it gets the cotangents of the output and of the final state together.
    const cotangent = (name: Names): Tensor => tensor(d[name], { shape: shape[name], device })
    const { node } = y
    const grads = node!.backward(
      [cotangent('dy'), cotangent('dS'), ...(z ? [cotangent('dz')] : [])],
      () => null,
      (i) => like(node!.inputs[i]),
    )
    return { y, S, z, ...Object.fromEntries(inputs.map((name, i) => [gradName(name), grads[i]])) }
  })
  return readAll(tensors)
}

/** Token by token, in plain loops over one head's matrices: y and the final states. */
function naive(rule: Rule, { B, T, H, K, V }: Sizes, d: Data, scale: number): Result {
  const { beta, gate, erase, along, normalised, transposed } = variantOf(rule)
  const y = new Float64Array(B * T * H * (transposed ? K : V))
  const S = Float64Array.from(d.S)
  const z = Float64Array.from(d.z)
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let t = 0; t < T; t++) {
        const row = (b * T + t) * H + h
        const state = (b * H + h) * K
        const w = (i: number): number => (gate ? Math.exp(d.gate[gate === 'head' ? row : row * K + i]) : 1)
        // What the state holds, before it decays, for the vector that it is read with.
        const reader = (i: number): number => (erase ? d.erase[row * K + i] : beta ? w(i) * d.k[row * K + i] : 0)
        const written = Array.from({ length: V }, (_, j) => {
          let u = along ? 0 : d.v[row * V + j]
          for (let i = 0; i < K; i++) u -= reader(i) * S[(state + i) * V + j]
          return beta ? d.beta[row] * u : u
        })
        let denominator = 1e-6
        for (let i = 0; i < K; i++) {
          z[state + i] = w(i) * z[state + i] + d.k[row * K + i]
          denominator += z[state + i] * d.q[row * K + i]
        }
        // Of a transposed read, y is as wide as keys.
        for (let i = 0; transposed && i < K; i++)
          for (let j = 0; j < V; j++) {
            const at = (state + i) * V + j
            S[at] = w(i) * S[at] + d.k[row * K + i] * written[j]
            y[row * K + i] += scale * S[at] * d.q[row * V + j]
          }
        if (transposed) continue
        for (let j = 0; j < V; j++) {
          let total = 0
          for (let i = 0; i < K; i++) {
            const at = (state + i) * V + j
            S[at] = w(i) * S[at] + d[along ? 'along' : 'k'][row * K + i] * written[j]
            if (along) S[at] += d.k[row * K + i] * d.v[row * V + j]
            total += S[at] * d.q[row * K + i]
          }
          y[row * V + j] = (scale * total) / (normalised ? denominator : 1)
        }
      }
  return { y, S, ...(normalised && { z }) }
}

/** Tokens [from, to) of each sequence. */
function tokens(d: Data, sizes: Sizes, from: number, to: number): { d: Data; sizes: Sizes } {
  const cut = (x: Float32Array): Float32Array => {
    return Float32Array.from(cutTokens(x, sizes, from, to))
  }
  const cuts = Object.fromEntries((['q', 'k', 'v', 'beta', 'gate', 'erase', 'along', 'dy'] as const).map((name) => [name, cut(d[name])]))
  return { d: { ...d, ...cuts }, sizes: { ...sizes, T: to - from } }
}

function assertAll(actual: Result, expected: Result, bound: number, what: string, sizes: Sizes): void {
  for (const [name, e] of Object.entries(expected))
    assertRms(actual[name as keyof Result]!, e, bound, `${what}: ${name}`, floorOf(sizes, e))
}

/**
 * Few tokens may cancel by chance: what is left of numbers of about 1 is then held to 0.02 of the bound, two roundings of 1. So may each of
 * a few sums over all tokens (the state at K = V = 1, and its gradient): with fewer than 16 of them, to 0.1, the roundings of such a sum.
 */
const floorOf = ({ B, T, H }: Sizes, values: HostArray): number => (B * T * H < 16 ? 0.02 : values.length < 16 ? 0.1 : 1e-8)

const axis = fc.constantFrom(1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17)
const anySizes = (min: number) =>
  fc.record({ B: fc.constantFrom(1, 2), T: fc.integer({ min, max: 24 }), H: fc.constantFrom(1, 2, 3), K: axis, V: axis })
/** C from 1 to T + 3: ragged last chunks, one chunk, and chunks longer than the sequence. */
const casesFrom = (min: number) =>
  anySizes(min).chain((sizes) =>
    fc.record({
      sizes: fc.constant(sizes),
      C: fc.integer({ min: 1, max: sizes.T + 3 }),
      scale: fc.constantFrom(1, 0.3),
      state: fc.boolean(),
      seed: fc.nat(),
    }),
  )
const anyCase = casesFrom(1)
/** Of two tokens at least, so that there is a cut with something on both sides. */
const cutCase = casesFrom(2)
const cutOf = ({ T }: Sizes, seed: number): number => 1 + (seed % (T - 1))

/** rms(err) / (rms(ref) + 1e-8): in float32 errors of 2^-24 a step add up over tokens and widths, in float64 those of 2^-53. */
const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device>; bound: number; few?: true; finite?: true }[] = [
  { name: 'reference', open: async () => reference, bound: 1e-10 },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(1, relaxed), bound: 1e-5 })),
  // A GPU computed by the CPU takes few runs. WGSL promises nothing of infinities and NaN.
  { name: 'webgpu', open: webgpu, bound: 1e-5, few: true, finite: true },
]

const expectations = new Map<string, Result | Promise<Result>>()
/** What every device is compared with, computed once: all of them draw the same cases (test/seed.mjs), whose numbers follow from what `of` names. */
function once<R extends Result | Promise<Result>>(of: object, compute: () => R): R {
  const key = JSON.stringify(of)
  if (!expectations.has(key)) expectations.set(key, compute())
  return expectations.get(key) as R
}

for (const { name, open, bound, few, finite } of devices)
  describe(`fast weights, ${name}`, () => {
    let device: Device
    before(async function () {
      device = await open(this)
    })
    const runs = (n: number): number => (few ? Math.ceil(n / 12) : n)

    for (const rule of rules) {
      const check = (
        title: string,
        property: (o: { sizes: Sizes; C: number; scale: number; state: boolean; seed: number }) => Promise<void>,
        numRuns = 25,
        generated = anyCase,
      ): void => {
        it(`${rule}: ${title}`, () => fc.assert(fc.asyncProperty(generated, property), { numRuns: runs(numRuns) }))
      }

      check('both forms are the loop over tokens', async ({ sizes, C, scale, seed }) => {
        const d = data(rule, sizes, seed)
        const loop = once({ naive: rule, sizes, scale, seed }, () => naive(rule, sizes, d, scale))
        for (const form of forms)
          assertAll(await run(rule, sizes, d, { form, C, scale, gradients: false }, device), loop, bound, form, sizes)
      })

      check(
        'recurrent = chunk: outputs, final state, every gradient',
        async ({ sizes, C, scale, state, seed }) => {
          const d = data(rule, sizes, seed)
          // One key (T = 1, or K = 1) cancels from the normalised read-out but for eps: with a tiny one its gradients are nothing but rounding.
          const options = { scale, state, eps: 0.5 }
          const recurrent = await run(rule, sizes, d, { form: 'recurrent', C: 1 + (seed % 7), ...options }, device)
          const chunk = await run(rule, sizes, d, { form: 'chunk', C, ...options }, device)
          assertAll(chunk, recurrent, bound, 'chunk against recurrent', sizes)
          const oracle = await once({ rule, sizes, C, options, seed }, () =>
            run(rule, sizes, d, { form: 'recurrent', C, ...options }, reference),
          )
          assertAll(recurrent, oracle, bound, 'recurrent against the reference', sizes)
          assertAll(chunk, oracle, bound, 'chunk against the reference', sizes)
        },
        40,
      )

      it(`${rule}: recurrent = chunk over 200 tokens`, async () => {
        const sizes = { B: 1, T: 200, H: 2, K: 32, V: 24 }
        const d = data(rule, sizes, 7)
        const recurrent = await run(rule, sizes, d, { form: 'recurrent', C: 64 }, device)
        // A GPU takes 32 tokens at a time: two chunks of 16 are cut as one of 32.
        for (const C of few ? [16, 64, 256] : [16, 32, 64, 256])
          assertAll(await run(rule, sizes, d, { form: 'chunk', C }, device), recurrent, bound, `C = ${C}`, sizes)
      })

      check(
        'a sequence in two calls is the sequence in one',
        async ({ sizes, C, scale, seed }) => {
          const cut = cutOf(sizes, seed)
          const d = data(rule, sizes, seed)
          for (const form of forms) {
            const whole = await run(rule, sizes, d, { form, C, scale }, device)
            const { one, two } = await inTwo(rule, tokens(d, sizes, 0, cut), tokens(d, sizes, cut, sizes.T), { form, C, scale }, device)
            const y = tokensOf(whole.y!, sizes, cut)
            const compare = (a: HostArray, e: HostArray, what: string): void =>
              form === 'recurrent' ? assertSameBits(a, e, what) : assertRms(a, e, bound, what, floorOf(sizes, e))
            compare(one.y!, y.before, `${form}: y before the cut`)
            compare(two.y!, y.after, `${form}: y after the cut`)
            compare(two.S!, whole.S!, `${form}: S`)
            if (whole.z) compare(two.z!, whole.z, `${form}: z`)
          }
        },
        25,
        cutCase,
      )

      check(
        'gradients flow through a carried state',
        async ({ sizes, C, scale, seed }) => {
          const cut = cutOf(sizes, seed)
          const d = data(rule, sizes, seed)
          const rest = tokens(d, sizes, cut, sizes.T)
          const first = tokens(d, sizes, 0, cut)
          for (const form of forms) {
            const options = { form, C, scale, eps: 0.5 }
            const whole = await run(rule, sizes, d, options, device)
            const chained = await chain(rule, first, rest, options, device)
            for (const name of tokenGradients(rule)) {
              const { before: b, after: a } = tokensOf(whole[name]!, sizes, cut)
              assertRms(chained.first[name]!, b, bound, `${form}: ${name} before the cut`, floorOf(sizes, b))
              assertRms(chained.rest[name]!, a, bound, `${form}: ${name} after the cut`, floorOf(sizes, a))
            }
            assertRms(chained.first.dS0!, whole.dS0!, bound, `${form}: dS0`, floorOf(sizes, whole.dS0!))
            if (whole.dz0) assertRms(chained.first.dz0!, whole.dz0, bound, `${form}: dz0`, floorOf(sizes, whole.dz0))
          }
        },
        15,
        cutCase,
      )

      check(
        `causal to the bit: no output knows of later tokens${finite ? '' : ', Infinity and NaN among them'}`,
        async ({ sizes, C, scale, seed }) => {
          const t = cutOf(sizes, seed)
          const d = data(rule, sizes, seed)
          for (const form of forms) {
            const { y } = await run(rule, sizes, d, { form, C, scale, gradients: false }, device)
            const { before } = tokensOf(y!, sizes, t)
            for (const value of [0.5, -1e30, ...(finite ? [] : [Infinity, NaN])]) {
              const changed = { ...d }
              for (const name of inputsOf(rule)) if (name !== 'gate') changed[name] = setToken(d[name], sizes, t, value)
              const other = await run(rule, sizes, changed, { form, C, scale, gradients: false }, device)
              assertSameBits(tokensOf(other.y!, sizes, t).before, before, `${form}: y before a token of ${value}`)
            }
          }
        },
        25,
        cutCase,
      )

      check('causal gradients: outputs before t send exactly 0 to token t and later', async ({ sizes, C, scale, seed }) => {
        const t = seed % sizes.T
        const d = data(rule, sizes, seed)
        d.dS = d.dS.map(() => 0)
        d.dz = d.dz.map(() => 0)
        for (let from = t; from < sizes.T; from++) d.dy = setToken(d.dy, sizes, from, 0)
        for (const form of forms) {
          const result = await run(rule, sizes, d, { form, C, scale }, device)
          for (const name of tokenGradients(rule))
            assert.ok(
              tokensOf(result[name]!, sizes, t).after.every((x) => x === 0),
              `${form}: ${name} from token ${t} on`,
            )
        }
      })

      check('padding tokens (k, beta, erase and gate 0) change nothing', async ({ sizes, C, scale, seed }) => {
        const d = data(rule, sizes, seed)
        const n = 1 + (seed % 5)
        const padded = { ...d }
        for (const name of [...inputsOf(rule), 'dy' as const])
          padded[name] = pad(d[name], sizes, n, name === 'q' || name === 'v' || name === 'dy' ? 0.7 : 0)
        for (const form of forms) {
          const short = await run(rule, sizes, d, { form, C, scale, gradients: false }, device)
          const long = await run(rule, { ...sizes, T: sizes.T + n }, padded, { form, C, scale, gradients: false }, device)
          assertSameBits(tokensOf(long.y!, { ...sizes, T: sizes.T + n }, sizes.T).before, short.y!, `${form}: y`)
          assertSameBits(long.S!, short.S!, `${form}: S`)
          if (short.z) assertSameBits(long.z!, short.z, `${form}: z`)
        }
      })

      check('sequences and heads are independent', async ({ sizes, C, scale, seed }) => {
        const d = data(rule, sizes, seed)
        const b = seed % sizes.B
        const h = seed % sizes.H
        const { B, T, H } = sizes
        const pick = (x: ArrayLike<number>, perToken: boolean): Float64Array => {
          const width = x.length / (B * H * (perToken ? T : 1))
          const rows = perToken ? Array.from({ length: T }, (_, t) => (b * T + t) * H + h) : [b * H + h]
          const picked = new Float64Array(rows.length * width)
          for (const [at, row] of rows.entries()) for (let i = 0; i < width; i++) picked[at * width + i] = x[row * width + i]
          return picked
        }
        const perToken = (name: string): boolean => !/^d?[Sz]/.test(name)
        const one = Object.fromEntries(Object.entries(d).map(([name, x]) => [name, Float32Array.from(pick(x, perToken(name)))])) as Data
        for (const form of forms) {
          const all = await run(rule, sizes, d, { form, C, scale }, device)
          const alone = await run(rule, { ...sizes, B: 1, H: 1 }, one, { form, C, scale }, device)
          for (const [name, x] of Object.entries(all))
            assertSameBits(alone[name as keyof Result]!, pick(x, perToken(name)) as HostArray, `${form}: ${name}`)
        }
      })
    }

    // At beta |k|^2 = 2 the state along k changes its sign with each token and keeps its length: no error fades, and where keys come again, an
    // error of k . k of one rounding, 2^-24, comes T times, doubled by beta: 5e-4. Chunks on wasm are held to what the recurrent form reaches.
    for (const rule of [
      'delta',
      'delta, a gate a head',
      'delta, a gate a channel',
      'erase',
      'erase, a gate a channel',
      'erase along',
      'erase along, a gate a channel',
    ] as const)
      for (const keys of [1, 3])
        it(`${rule}: ${keys === 1 ? 'one key' : `${keys} keys`} over and over, each token a reflection`, async () => {
          // In float64, where errors are far from the limit's, a quarter of the tokens shows as much: a quarter of the limit.
          const sizes = { B: 1, T: few ? 256 : device.double ? 1024 : 4096, H: 1, K: 24, V: 8 }
          const { T, K } = sizes
          const d = data(rule, sizes, 3)
          const units = Array.from({ length: keys }, (_, i) => {
            const x = Array.from(uniforms(50 + i, K))
            return x.map((value) => value / Math.hypot(...x))
          })
          d.k = Float32Array.from(Array.from({ length: T }, (_, t) => units[t % keys]).flat())
          d.erase = d.k.map((x) => 2 * x)
          d.along = d.k.slice()
          d.beta.fill(2)
          d.gate.fill(0)
          const oracle = await once({ rule, keys, T }, () => run(rule, sizes, d, { form: 'recurrent', C: 64 }, reference))
          // T roundings that don't follow one another, a few of them a token; on a GPU T that do, twice 2^-24 each, times beta.
          const limit = few ? T * 2 ** -22 : device.double ? 2.5e-11 : 8 * Math.sqrt(T) * 2 ** -24
          for (const C of few ? [32] : [4, 32, 64])
            assertAll(await run(rule, sizes, d, { form: 'chunk', C }, device), oracle, limit, `C = ${C}`, sizes)
        })

    for (const rule of ['delta', 'delta, a gate a head'] as const)
      it(`${rule}: a chunk with a reflection among other tokens, or a value that is lost before it`, async () => {
        // 24 values: a pair of strips and one more.
        const sizes = { B: 1, T: 24, H: 1, K: 8, V: 24 }
        const d = data(rule, sizes, 4)
        d.gate.fill(-0.1)
        for (const t of [5, 6, 17]) {
          d.beta[t] = 2
          const k = d.k.subarray(t * 8, t * 8 + 8)
          const length = Math.hypot(...k)
          for (let i = 0; i < 8; i++) k[i] /= length
        }
        const expected = await run(rule, sizes, d, { form: 'recurrent', C: 24 }, reference)
        assertAll(await run(rule, sizes, d, { form: 'chunk', C: 24 }, device), expected, bound, 'mixed', sizes)
        if (finite) return
        // What comes before a token is the same bits whether it reflects or not.
        d.v = setToken(d.v, sizes, 2, Infinity)
        const upTo17 = async (): Promise<HostArray> =>
          tokensOf((await run(rule, sizes, d, { form: 'chunk', C: 24 }, device)).y!, sizes, 17).before
        const reflecting = await upTo17()
        d.beta[17] = 0.5
        assertSameBits(await upTo17(), reflecting)
      })

    it('a state of 1e38 decays before it is read: what is read of it is finite', async () => {
      const sizes = { B: 1, T: 3, H: 1, K: 8, V: 24 }
      for (const rule of rules) {
        const { gate, erase, normalised, transposed } = variantOf(rule)
        // Erase reads before the decay; of a transposed read the sums decay.
        if (!gate || erase || normalised || transposed) continue
        const d = data(rule, sizes, 5)
        d.q.fill(1)
        d.S.fill(1e38)
        d.gate.fill(-60)
        const expected = await run(rule, sizes, d, { form: 'recurrent', C: 3, gradients: false }, reference)
        const { y } = await run(rule, sizes, d, { form: 'chunk', C: 3, gradients: false }, device)
        for (let t = 0; t < sizes.T; t++)
          assertRms(cutTokens(y!, sizes, t, t + 1), cutTokens(expected.y!, sizes, t, t + 1), bound, `${rule}: y of token ${t}`)
      }
    })

    it('NaN in the first token comes out where the reference says, where no state is given, too', async () => {
      const sizes = { B: 1, T: 5, H: 1, K: 3, V: 2 }
      const where = (x: HostArray): string => Array.from(x, (value) => (Number.isNaN(value) ? 'N' : '.')).join('')
      for (const rule of rules)
        for (const name of inputsOf(rule)) {
          const d = data(rule, sizes, 7)
          d[name] = d[name].with(0, NaN)
          const options = { C: 4, gradients: false, state: false }
          const expected = await run(rule, sizes, d, { ...options, form: 'recurrent' }, reference)
          assert.match(where(expected.y!), /N/, `${rule}: y, NaN in ${name}`)
          for (const form of forms) {
            const { y, S } = await run(rule, sizes, d, { ...options, form }, device)
            assert.equal(where(y!), where(expected.y!), `${rule}, ${form}: y, NaN in ${name}`)
            assert.equal(where(S!), where(expected.S!), `${rule}, ${form}: S, NaN in ${name}`)
          }
        }
    })

    it('delta: beta = 0 leaves the state alone, to the bit', () =>
      fc.assert(
        fc.asyncProperty(anyCase, async ({ sizes, C, seed }) => {
          const d = data('delta', sizes, seed)
          d.beta = d.beta.map(() => 0)
          for (const form of forms)
            assertSameBits((await run('delta', sizes, d, { form, C, gradients: false }, device)).S!, Float64Array.from(d.S), form)
        }),
        { numRuns: runs(20) },
      ))

    it('the delta rule overwrites what a key held, the sum rule adds to it', async () => {
      // Three tokens with the keys e1, e2, e1, each queried at once; values of one number.
      const sizes = { B: 1, T: 3, H: 1, K: 2, V: 1 }
      const k = Float32Array.of(1, 0, 0, 1, 1, 0)
      const d = { ...data('sum', sizes, 1), q: k, k, v: Float32Array.of(2, 5, 7), beta: Float32Array.of(1, 1, 1) }
      for (const form of forms)
        for (const [rule, y, S] of [
          ['delta', [2, 5, 7], [7, 5]],
          ['sum', [2, 5, 9], [9, 5]],
        ] as const) {
          const result = await run(rule, sizes, d, { form, C: 2, state: false }, device)
          assert.deepEqual([...result.y!], y)
          assert.deepEqual([...result.S!], S)
        }
    })
  })

describe('fast weights on wasm, heads side by side', () => {
  it('a token alone, where no backward pass follows and the state is brought forward where it lies: the same bits', async () => {
    const device = await wasm()
    // More heads than are done together; one of them forgets a channel, which isn't done in place.
    const sizes = { B: 2, T: 1, H: 9, K: 12, V: 16 }
    for (const rule of rules) {
      const d = data(rule, sizes, 5)
      d.gate[variantOf(rule).gate === 'head' ? 4 : 4 * sizes.K + 3] = -Infinity
      for (const form of forms) {
        const options = { form, C: 1 }
        const alone = async (): Promise<Result> => {
          const shape = shapeOf(rule, sizes)
          const names = [...inputsOf(rule), 'S' as const, 'z' as const]
          const tensors = scope(() =>
            noGrad(() =>
              call(rule, Object.fromEntries(names.map((name) => [name, tensor(d[name], { shape: shape[name], device })])), options),
            ),
          )
          return readAll(tensors)
        }
        const expected = await run(rule, sizes, d, { ...options, gradients: false }, device)
        for (const [name, value] of Object.entries(await alone()))
          assertSameBits(value, expected[name as keyof Result]!, `${rule}: ${name}`)
      }
    }
  })

  for (const half of [false, true])
    it(`no more scratch memory is written than what a thread is given${half ? ', in f16' : ''}`, async () => {
      const memory = createMemory(undefined, false)
      const env = { memory: memory.wasm, wide: 0, half: Number(half), abort: assert.fail, refuse: assert.fail }
      const { exports } = new WebAssembly.Instance(await WebAssembly.compile(await simd(false)), { env })
      const kernels = exports as Record<string, (...args: number[]) => void>
      const beyond = 1 << 18,
        mark = 0x7a7a7a7a
      let what = ''
      const pool = {
        half,
        threads: 1,
        run(kernel: string, n: number, _grain: number, args: number[], bytes: number) {
          const scratch = memory.allocate(bytes + beyond)
          kernels.setScratch(scratch.pointer)
          const rest = memory.int32(scratch, (bytes + beyond) / 4).subarray(bytes / 4)
          rest.fill(mark)
          kernels[kernel](0, n, ...args)
          assert.ok(
            rest.every((word) => word === mark),
            `${kernel}, ${what}: ${bytes} bytes aren't enough`,
          )
          memory.free(scratch)
        },
      }
      const { fastWeights, fastWeightsBackward } = fastWeightKernels(pool as unknown as Pool)
      const zeros = (n: number) => {
        const block = memory.allocate(4 * n)
        memory.int32(block, n).fill(0)
        return block
      }
      // Two states of 256 x 256 are as much as stays in the cache, with a column more that isn't there it would be one.
      // In long chunks of small rows it's pairs of tokens that take most; then keys; then values.
      for (const [K, V, H, T, C] of [
        [256, 256, 2, 5, 3],
        [9, 7, 9, 5, 3],
        [16, 16, 8, 5, 3],
        [8, 7, 1, 96, 96],
        [256, 1, 8, 64, 64],
        [1, 255, 8, 64, 64],
      ])
        for (const rule of rules)
          for (const form of forms) {
            what = `${rule}, ${form}, K = ${K}, V = ${V}`
            const { beta, gate, erase, along, normalised, transposed = false } = variantOf(rule)
            const [keys, values] = [zeros(T * H * K), zeros(T * H * V)]
            const given = { q: transposed ? values : keys, k: keys, v: values, tokens: null, s0: null, z0: null }
            const [b, g, e, a] = [beta && values, gate && keys, erase && keys, along && keys].map((block) => block ?? null)
            const inputs = { ...given, beta: b, gate: g, erase: e, along: a }
            const [y, sT, states] = [zeros(T * H * Math.max(K, V)), zeros(H * K * V), zeros(Math.ceil(T / C) * H * K * V)]
            const [den, zT, zs] = normalised ? [zeros(T * H), zeros(H * K), zeros(Math.ceil(T / C) * H * K)] : [null, null, null]
            const sizes = { B: 1, T, H, K, V, C, scale: 1, eps: 1, gateWidth: gate === 'channel' ? K : 1, transposed }
            fastWeights(form, inputs, { y, sT, zT, den, states, zs }, sizes)
            const gradient = () => zeros(T * H * Math.max(K, V))
            const [dq, dk, dv, dbeta, dgate, derase, dalong, dy] = Array.from({ length: 8 }, gradient)
            const gradients = {
              dq,
              dk,
              dv,
              dbeta: b && dbeta,
              dgate: g && dgate,
              derase: e && derase,
              dalong: a && dalong,
              ds0: null,
              dz0: null,
            }
            fastWeightsBackward(form, inputs, { y, den, states, zs }, { dy, dsT: null, dzT: null }, gradients, sizes)
            const others = [den, zT, zs].filter((block) => block !== null)
            for (const block of [keys, values, y, sT, states, dq, dk, dv, dbeta, dgate, derase, dalong, dy, ...others]) memory.free(block)
          }
    })
})

/** What lies before token t of each sequence, and from it on. */
function tokensOf(x: HostArray, { B, T }: Sizes, t: number): { before: HostArray; after: HostArray } {
  return { before: cutTokens(x, { B, T }, 0, t), after: cutTokens(x, { B, T }, t, T) }
}

/** Tokens [from, to) of each sequence. */
function cutTokens(
  x: Float32Array | Float64Array | Int32Array,
  { B, T }: Pick<Sizes, 'B' | 'T'>,
  from: number,
  to: number,
): Float64Array<ArrayBuffer> {
  const width = x.length / (B * T)
  const y = new Float64Array(B * (to - from) * width)
  for (let b = 0; b < B; b++) y.set(x.subarray((b * T + from) * width, (b * T + to) * width), b * (to - from) * width)
  return y
}

/** A copy with one value all over token t of the last sequence. */
function setToken(x: Float32Array, { B, T }: Sizes, t: number, value: number): Float32Array {
  const width = x.length / (B * T)
  const y = x.slice()
  for (let b = 0; b < B; b++) y.fill(value, (b * T + t) * width, (b * T + t + 1) * width)
  return y
}

/** n more tokens of one value at the end of each sequence. */
function pad(x: Float32Array, { B, T }: Sizes, n: number, value: number): Float32Array {
  const width = x.length / (B * T)
  const y = new Float32Array(B * (T + n) * width).fill(value)
  for (let b = 0; b < B; b++) y.set(x.subarray(b * T * width, (b + 1) * T * width), b * (T + n) * width)
  return y
}

type Part = { d: Data; sizes: Sizes }

/** Two calls, the second from the state tensors of the first. */
function twoCalls(rule: Rule, first: Part, rest: Part, options: Options, device: Device) {
  const part = ({ d, sizes }: Part, names: Names[]): Partial<Record<Names, Tensor>> =>
    Object.fromEntries(names.map((name) => [name, tensor(d[name], { shape: shapeOf(rule, sizes)[name], device, requiresGrad: true })]))
  const a = part(first, [...inputsOf(rule), 'S', 'z'])
  const b = part(rest, inputsOf(rule))
  const one = call(rule, a, options)
  const two = call(rule, { ...b, S: one.S, ...(one.z && { z: one.z }) }, options)
  return { a, b, one, two }
}

async function inTwo(rule: Rule, first: Part, rest: Part, options: Options, device: Device): Promise<{ one: Result; two: Result }> {
  const { one, two } = scope(() => {
    const { one, two } = twoCalls(rule, first, rest, options, device)
    return { one, two }
  })
  return { one: await readAll(one), two: await readAll(two) }
}

/** Reads tensors and frees them. */
async function readAll(tensors: Record<string, Tensor | null | undefined>): Promise<Result> {
  const result: Result = {}
  for (const [name, t] of Object.entries(tensors))
    if (t) {
      result[name as keyof Result] = await t.read()
      t.dispose()
    }
  return result
}

/** Gradients of both halves, from the cotangents of all outputs and of the last state. */
async function chain(rule: Rule, first: Part, rest: Part, options: Options, device: Device): Promise<{ first: Result; rest: Result }> {
  const grads = scope(() => {
    const { a, b, one, two } = twoCalls(rule, first, rest, options, device)
    const pairs: [Tensor, Float32Array][] = [
      [one.y, first.d.dy],
      [two.y, rest.d.dy],
      [two.S, rest.d.dS],
      ...(two.z ? [[two.z, rest.d.dz] as [Tensor, Float32Array]] : []),
    ]
    for (const [y, cotangent] of pairs) y.backward(tensor(cotangent, { shape: y.shape, device }))
    const of = (t: Partial<Record<Names, Tensor>>) => Object.fromEntries(Object.entries(t).map(([name, x]) => [gradName(name), x.grad]))
    return { first: of(a), rest: of(b) }
  })
  return { first: await readAll(grads.first), rest: await readAll(grads.rest) }
}
