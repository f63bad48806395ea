/**
 * Padding, beginnings of sequences and decays of 0, in every rule and form: what they hide leaves no trace, Infinity and NaN included,
 * neither in what follows nor, by way of a cotangent, in what came before. Expected is what the sequence gives alone.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  type Device,
  deltaRule,
  type FastWeightState,
  type Form,
  gatedSumRule,
  type HostArray,
  type Rule,
  type RuleOptions,
  rules,
  runSteps,
  scope,
  type Tensor,
  tensor,
  type ValueKind,
  zeros,
} from '../../engine/index.ts'
import { assertRms, builds, reference, sizeOf, uniforms, wasm, webgpu } from '../helpers.ts'

const table = rules as Record<string, Rule>

interface Sizes {
  K: number
  V: number
}
/** One sequence, two heads, two steps a token; L: levels enough for 150 tokens. */
const axes = (T: number, { K, V }: Sizes): Record<string, number> => ({ B: 1, T, H: 2, N: 2, M: 3, L: 9, K, V })
const shapeOf = (letters: readonly string[], T: number, sizes: Sizes): number[] => letters.map((letter) => axes(T, sizes)[letter])

type Values = Record<string, Float32Array>

const ranges: Record<ValueKind, [number, number]> = {
  any: [-1, 1],
  key: [-1, 1],
  'unit key': [-1, 1],
  feature: [0.1, 1.1],
  rate: [0.1, 0.9],
  gate: [-2, 0],
  positive: [0.5, 1.5],
}

/** Inputs of a rule for T tokens; keys short enough for corrections to be stable. */
function draw({ inputs }: Rule, T: number, sizes: Sizes, seed: number): Values {
  const entries = Object.entries(inputs).map(([name, { shape, values }], i) => {
    const x = uniforms(seed + 101 * i, sizeOf(shapeOf(shape, T, sizes)), ...ranges[values])
    const short = name === 'k' || name === 'v' || name === 'a' || name === 'b' || name === 'p' || values === 'unit key'
    return [name, short ? x.map((value) => value / Math.sqrt(shape.includes('V') ? sizes.V : sizes.K)) : x]
  })
  return Object.fromEntries(entries)
}

function drawState({ state }: Rule, sizes: Sizes, seed: number): Values {
  return Object.fromEntries(
    Object.entries(state).map(([part, shape], i) => {
      const values = uniforms(
        seed + 7 * i,
        sizeOf(shapeOf(shape, 1, sizes)),
        ...(part === 'z' || part === 'a' ? ([0.1, 1.1] as const) : []),
      )
      if (part === 'A') {
        // Symmetric, positive definite.
        for (let m = 0; m < values.length; m++) {
          const [row, col] = [Math.floor(m / sizes.K) % sizes.K, m % sizes.K]
          values[m] = row === col ? 1 : 0.1
        }
      }
      return [part, values]
    }),
  )
}

/** `step`: the rule by its step. */
type Options = RuleOptions & { step?: true }

interface Call {
  rule: Rule
  device: Device
  sizes: Sizes
  T: number
  inputs: Values
  /** Undefined: none. */
  state?: Values
  dy: Float32Array
  dState?: Values
  options: Options
  mask?: Int32Array
  reset?: Int32Array
}
type Result = Record<string, HostArray>

/** y, the state's parts, and the gradients of all inputs (dq, ...) and of the initial state (dS0, ...). */
async function run({ rule, device, sizes, T, inputs, state, dy, dState, options, mask, reset }: Call): Promise<Result> {
  const results = scope(() => {
    const make = (values: Float32Array, shape: readonly number[], requiresGrad = true): Tensor =>
      tensor(values, { shape, device, requiresGrad })
    const given = Object.fromEntries(
      Object.entries(rule.inputs).map(([name, { shape }]) => [name, make(inputs[name], shapeOf(shape, T, sizes))]),
    )
    const parts = Object.entries(rule.state) as [keyof FastWeightState, readonly string[]][]
    const before =
      state &&
      (Object.fromEntries(parts.map(([part, shape]) => [part, make(state[part], shapeOf(shape, T, sizes))])) as unknown as FastWeightState)
    const flags = Object.fromEntries(
      Object.entries({ mask, reset }).map(([name, bits]) => [name, bits && tensor(bits, { shape: [1, T], device })]),
    )
    const { step, ...rest } = options
    const { y, state: after } = step ? runSteps(rule, given, before, flags) : rule.run(given, before, { ...rest, ...flags })
    y.backward(make(dy, y.shape, false))
    for (const [part] of dState ? parts : [])
      if (after[part]!.requiresGrad) after[part]!.backward(make(dState![part], after[part]!.shape, false))
    const gradients = [...Object.entries(given), ...Object.entries(before ?? {}).map(([part, x]) => [`${part}0`, x as Tensor] as const)]
    return { y, ...after, ...Object.fromEntries(gradients.map(([name, x]) => [`d${name}`, x.grad ?? zeros(x.shape, device)])) } as Record<
      string,
      Tensor | null
    >
  })
  const read: Result = {}
  for (const [name, x] of Object.entries(results))
    if (x) {
      read[name] = await x.read()
      x.dispose()
    }
  return read
}

/** What stands at each place of a row: a token of the sequence that counts, one of a bad sequence before or after it, or padding. */
interface Place {
  what: 'good' | 'bad' | 'padding'
  begins: boolean
}

/** One row for each token of `places`, of `width` numbers: those of x in turn for the good ones. */
function packed(x: Float32Array, places: readonly Place[], bad: number, padding: number): Float32Array {
  const width = x.length / places.filter(({ what }) => what === 'good').length
  const y = new Float32Array(width * places.length)
  let at = 0
  for (const [t, { what }] of places.entries())
    if (what === 'good') y.set(x.subarray(width * at, width * ++at), width * t)
    else y.fill(what === 'bad' ? bad : padding, width * t, width * (t + 1))
  return y
}

const rowsOf = (x: HostArray, places: readonly Place[], which: Place['what']): HostArray => {
  const width = x.length / places.length
  return Float64Array.from(places.flatMap(({ what }, t) => (what === which ? Array.from(x.subarray(width * t, width * (t + 1))) : [])))
}

/** Rules that do arithmetic before the fused op add up the gradients of an input in another order where padding is left out of it. */
const composed = [
  'peng',
  'attention-delta',
  'longhorn',
  'oja',
  'gated-oja',
  'rwkv7',
  'mesa',
  'channel-delta',
  'hgrn2',
  'comba',
  'gdn2',
  'precond-delta',
  'precond-kda',
  'rwkv5',
  'rwkv6',
  'hgrn',
  'rwkv4',
  'gsa',
  'abc',
  'lightnet',
  'delta-momentum',
  'ttt',
  'titans',
]

/** What these add up by doubling, or level by level, is added in another order where other tokens stand before it. */
const doubled = ['rwkv4', 'abc', 'lightnet', 'log-linear']

const timed = ({ inputs }: Rule): string[] => Object.keys(inputs).filter((name) => inputs[name].shape[1] === 'T')

/** The same numbers; 0 and -0 are. */
function assertSame(actual: HostArray, expected: HostArray, what: string): void {
  assert.equal(actual.length, expected.length, what)
  assert.ok(expected.length > 0, `${what}: nothing to compare`)
  for (const [i, x] of expected.entries())
    if (!(actual[i] === x || Object.is(actual[i], x))) assert.fail(`${what}: element ${i} is ${actual[i]}, expected exactly ${x}`)
}

/** Forms, and chunks that begin before, at and after what is marked. The recurrent form gives the same to the bit. */
const forms: readonly Options[] = [
  { form: 'recurrent' },
  ...[1, 2, 3, 4, 5, 8, 16].map((chunk) => ({ form: 'chunk' as Form, chunk })),
  { form: 'parallel' },
]
const steps: Options = { step: true }
const optionsOf = (rule: Rule, at: number): Options => {
  const all = [...(rule.forms.length === 1 ? [forms[0]] : forms), steps]
  return all[at % all.length]
}

const axis = fc.constantFrom(1, 3, 4, 6, 9)
const anySizes = fc.record({ K: axis, V: axis })
const numbers = fc.record({ seed: fc.nat(1e6), form: fc.nat(forms.length), sizes: anySizes })

/** Marks padding in between. */
function withPadding(places: readonly Place[], paddings: readonly number[]): Place[] {
  const all = [...places]
  for (const at of paddings) all.splice(at % (all.length + 1), 0, { what: 'padding', begins: false })
  return all
}

const stretch = (what: Place['what'], n: number): Place[] => Array.from({ length: n }, (_, t) => ({ what, begins: t === 0 }))
const marks = (places: readonly Place[]) => ({
  mask: Int32Array.from(places, ({ what }) => Number(what !== 'padding')),
  reset: Int32Array.from(places, ({ begins }) => Number(begins)),
})

/** Bad sequences: what of them isn't finite, in inputs that may be anything, rates and gates. */
const kinds = ['state', 'overflow', 'NaN', 'Infinity'] as const
function badValue(kind: (typeof kinds)[number], values: ValueKind, rule: Rule, device: Device): number {
  if (values === 'gate') return kind === 'Infinity' ? -Infinity : -0.1
  // Peng's rate makes a gate, which has to be one.
  if (kind === 'state' || (values === 'rate' && (kind !== 'NaN' || rule === rules.peng))) return 0.5
  return { overflow: device.double ? 1e200 : 1e30, NaN: NaN, Infinity }[kind]
}

const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device>; bound: number; runs: number }[] = [
  { name: 'reference', open: async () => reference, bound: 1e-10, runs: 8 },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(1, relaxed), bound: 1e-5, runs: 8 })),
  { name: 'webgpu', open: webgpu, bound: 1e-5, runs: 1 },
]

for (const { name: deviceName, open, bound, runs } of devices)
  describe(`forgetting, ${deviceName}`, () => {
    let device: Device
    before(async function () {
      device = await open(this)
    })

    // On webgpu the backward of the recurrent form is that of chunks.
    const isExact = ({ form }: Options, result: string): boolean =>
      form === 'recurrent' && !(deviceName === 'webgpu' && result.startsWith('d'))
    const compare = (exact: boolean, actual: HostArray, expected: HostArray, what: string): void =>
      // Few numbers may cancel by chance: what is left of numbers of about 1 is held to 0.1 of the bound.
      exact ? assertSame(actual, expected, what) : assertRms(actual, expected, bound, what, 0.1)

    for (const [name, rule] of Object.entries(table)) {
      it(`${name}: a sequence packed among bad ones, and padding that holds NaN`, () =>
        fc.assert(
          fc.asyncProperty(
            numbers,
            fc.record({
              kind: fc.constantFrom(...kinds),
              before: fc.integer({ min: 0, max: 6 }),
              good: fc.integer({ min: 1, max: 9 }),
              after: fc.integer({ min: 0, max: 4 }),
              paddings: fc.array(fc.nat(20), { maxLength: 6 }),
              early: fc.boolean(),
            }),
            async ({ seed, form, sizes }, { kind, before, good, after, paddings, early }) => {
              const inputs = draw(rule, good, sizes, seed)
              const dy = uniforms(seed + 5, sizeOf(shapeOf(['B', 'T', 'H', 'V'], good, sizes)))
              const places = withPadding([...stretch('bad', before), ...stretch('good', good), ...stretch('bad', after)], paddings)
              // The beginning may be marked on padding before the first token.
              const first = places.findIndex(({ what }) => what === 'good')
              if (early && places[first - 1]?.what === 'padding') {
                places[first] = { what: 'good', begins: false }
                places[first - 1] = { what: 'padding', begins: true }
              }
              const state = drawState(rule, sizes, seed)
              for (const x of Object.values(state)) x.fill(kind === 'state' || kind === 'NaN' ? NaN : Infinity)
              const call = { rule, device, sizes, options: optionsOf(rule, form) }
              const alone = await run({ ...call, T: good, inputs, dy })
              const all = await run({
                ...call,
                T: places.length,
                inputs: Object.fromEntries(
                  Object.entries(inputs).map(([input, x]) => {
                    const { values, shape } = rule.inputs[input]
                    return [
                      input,
                      shape[1] === 'T' ? packed(x, places, badValue(kind, values, rule, device), seed % 2 ? NaN : Infinity) : x,
                    ]
                  }),
                ),
                state,
                dy: packed(dy, places, NaN, NaN),
                dState: after > 0 ? Object.fromEntries(Object.entries(state).map(([part, x]) => [part, x.map(() => NaN)])) : undefined,
                ...marks(places),
              })
              for (const result of ['y', ...timed(rule).map((input) => `d${input}`)]) {
                const what = `${JSON.stringify(call.options)}: ${result}`
                const exact = isExact(call.options, result) && !doubled.includes(name) && (result === 'y' || !composed.includes(name))
                compare(exact, rowsOf(all[result], places, 'good'), alone[result], what)
                assert.ok(
                  rowsOf(all[result], places, 'padding').every((x) => x === 0),
                  `${what} of padding isn't 0`,
                )
              }
              if (places.findIndex(({ begins }) => begins) < places.findIndex(({ what }) => what !== 'padding') || before === 0)
                for (const part of Object.keys(rule.state))
                  assert.ok(
                    all[`d${part}0`].every((x) => x === 0),
                    `d${part}0`,
                  )
              if (after === 0 && !places.slice(first + 1).some(({ begins }) => begins))
                for (const part of Object.keys(rule.state))
                  compare(isExact(call.options, part) && !doubled.includes(name), all[part], alone[part], part)
            },
          ),
          { numRuns: runs },
        ))

      it(`${name}: padding that holds NaN leaves no trace in the state and its gradient`, () =>
        fc.assert(
          fc.asyncProperty(
            numbers,
            fc.record({ good: fc.integer({ min: 1, max: 9 }), paddings: fc.array(fc.nat(20), { minLength: 1, maxLength: 8 }) }),
            async ({ seed, form, sizes }, { good, paddings }) => {
              const inputs = draw(rule, good, sizes, seed)
              const dy = uniforms(seed + 5, sizeOf(shapeOf(['B', 'T', 'H', 'V'], good, sizes)))
              const places = withPadding(stretch('good', good), paddings)
              const { mask } = marks(places)
              const call = {
                rule,
                device,
                sizes,
                options: optionsOf(rule, form),
                state: drawState(rule, sizes, seed),
                dState: drawState(rule, sizes, seed + 1),
              }
              const alone = await run({ ...call, T: good, inputs, dy })
              const all = await run({
                ...call,
                T: places.length,
                inputs: Object.fromEntries(
                  Object.entries(inputs).map(([input, x]) => [
                    input,
                    rule.inputs[input].shape[1] === 'T' ? packed(x, places, 0, rule.inputs[input].values === 'gate' ? 0.7 : NaN) : x,
                  ]),
                ),
                dy: packed(dy, places, 0, NaN),
                mask,
              })
              for (const [result, expected] of Object.entries(alone)) {
                const rows = result === 'y' || timed(rule).includes(result.slice(1)) ? rowsOf(all[result], places, 'good') : all[result]
                // What all tokens share gets a sum of gradients, over more of them.
                const exact =
                  isExact(call.options, result) &&
                  !doubled.includes(name) &&
                  (result in rule.state || (rows !== all[result] && !composed.includes(name)) || result === 'y')
                compare(exact, rows, expected, `${JSON.stringify(call.options)}: ${result}`)
              }
            },
          ),
          { numRuns: runs },
        ))

      it(`${name}: padding alone leaves the state as it is, to the bit`, async () => {
        const sizes = { K: 3, V: 2 }
        const special = [Infinity, NaN, -Infinity, -0, 1, -2.5]
        const state = Object.fromEntries(
          Object.entries(drawState(rule, sizes, 1)).map(([part, x]) => [part, x.map((_, i) => special[i % special.length])]),
        )
        const dState = drawState(rule, sizes, 2)
        const inputs = draw(rule, 6, sizes, 3)
        for (const input of timed(rule)) inputs[input].fill(NaN)
        for (const options of [forms[0], ...(rule.forms.length === 1 ? [] : [forms[4]]), steps]) {
          const all = await run({
            ...{ rule, device, sizes, T: 6, inputs, state, dy: new Float32Array(6 * 2 * sizes.V).fill(NaN), dState, options },
            mask: new Int32Array(6),
          })
          for (const part of Object.keys(rule.state)) {
            assertSame(all[part], Float64Array.from(state[part]), `${JSON.stringify(options)}: ${part}`)
            assertSame(all[`d${part}0`], Float64Array.from(dState[part]), `${JSON.stringify(options)}: d${part}0`)
          }
          for (const result of ['y', ...Object.keys(inputs).map((input) => `d${input}`)])
            assert.ok(
              all[result].every((x) => x === 0),
              `${JSON.stringify(options)}: ${result} isn't 0`,
            )
        }
      })
    }

    // ---- decays of 0

    const forgetful = {
      head: ['peng', 'retnet', 'mamba2', 'gated-delta', 'delta-product', 'mesa'],
      channel: ['gla', 'kda', 'gated-oja', 'dplr', 'rwkv7'],
    }

    for (const name of forgetful.head) {
      const rule = table[name]
      it(`${name}: a decay of 0 forgets NaN and Infinity`, () =>
        fc.assert(
          fc.asyncProperty(
            numbers,
            fc.record({ kind: fc.constantFrom(...kinds), before: fc.integer({ min: 0, max: 6 }), good: fc.integer({ min: 1, max: 9 }) }),
            async ({ seed, form, sizes }, { kind, before, good }) => {
              const inputs = draw(rule, good, sizes, seed)
              // Retention forgets at every token. Where Peng's rate is 1, the decay is 0.
              if (name === 'retnet') inputs.decay.fill(-Infinity)
              const [forgets, value] = name === 'peng' ? ['beta', 1] : ['gate', -Infinity]
              inputs[forgets]?.fill(value, 0, 2)
              const dy = uniforms(seed + 5, sizeOf(shapeOf(['B', 'T', 'H', 'V'], good, sizes)))
              const places = [...stretch('bad', before), ...stretch('good', good)]
              const state = drawState(rule, sizes, seed)
              for (const x of Object.values(state)) x.fill(kind === 'state' || kind === 'NaN' ? NaN : Infinity)
              const call = { rule, device, sizes, options: optionsOf(rule, form) }
              const alone = await run({ ...call, T: good, inputs, dy })
              const all = await run({
                ...call,
                T: places.length,
                inputs: Object.fromEntries(
                  Object.entries(inputs).map(([input, x]) => {
                    const { values, shape } = rule.inputs[input]
                    return [input, shape[1] === 'T' ? packed(x, places, badValue(kind, values, rule, device), NaN) : x]
                  }),
                ),
                state,
                dy: packed(dy, places, NaN, NaN),
              })
              for (const result of ['y', ...timed(rule).map((input) => `d${input}`)])
                compare(
                  isExact(call.options, result),
                  rowsOf(all[result], places, 'good'),
                  alone[result],
                  `${JSON.stringify(call.options)}: ${result}`,
                )
              for (const part of Object.keys(rule.state)) {
                compare(isExact(call.options, part), all[part], alone[part], part)
                if (before === 0)
                  assert.ok(
                    all[`d${part}0`].every((x) => x === 0),
                    `d${part}0`,
                  )
              }
            },
          ),
          { numRuns: runs },
        ))
    }

    for (const name of forgetful.channel) {
      const rule = table[name]
      // Gated Oja's channels are those of the values.
      const column = name === 'gated-oja'
      it(`${name}: a decay of 0 in one channel forgets that channel, and no other`, () =>
        fc.assert(
          fc.asyncProperty(
            numbers,
            fc.record({ T: fc.integer({ min: 1, max: 9 }), channel: fc.nat(8), value: fc.constantFrom(NaN, Infinity, 1) }),
            async ({ seed, form, sizes }, { T, channel, value }) => {
              const { K, V } = sizes
              const width = column ? V : K
              const c = channel % width
              const inputs = draw(rule, T, sizes, seed)
              // What reads the memory before it decays doesn't read this channel.
              for (const place of [c, width + c]) {
                inputs.gate[place] = -Infinity
                for (const reader of ['a', 'kappa']) if (reader in inputs) inputs[reader][place] = 0
              }
              const inChannel = (i: number): boolean => (column ? i % V : Math.floor(i / V) % K) === c
              const { S } = drawState(rule, sizes, seed)
              // A step reads what is forgotten with a product.
              const options = form === forms.length && (name === 'dplr' || name === 'rwkv7') ? forms[0] : optionsOf(rule, form)
              const call = { rule, device, sizes, T, inputs, options, dState: drawState(rule, sizes, seed + 1) }
              const dy = uniforms(seed + 5, T * 2 * V)
              const [all, expected] = [
                await run({ ...call, dy, state: { S: S.map((x, i) => (inChannel(i) ? value : x)) } }),
                await run({ ...call, dy, state: { S: S.map((x, i) => (inChannel(i) ? 0 : x)) } }),
              ]
              for (const [result, x] of Object.entries(all)) {
                // The derivative by what would have read the channel is what stands there.
                if (result === 'da' || result === 'dkappa') for (const place of [c, width + c]) x[place] = expected[result][place]
                assertSame(x, expected[result], `${JSON.stringify(call.options)}: ${result}`)
              }
              assert.ok(
                all.dS0.every((x, i) => x === 0 || !inChannel(i)),
                'the gradient of what is forgotten',
              )
              assert.ok(
                [c, width + c].every((place) => all.dgate[place] === 0),
                'the gradient of the gate that forgets',
              )
            },
          ),
          { numRuns: runs },
        ))
    }

    for (const name of [...forgetful.head, ...forgetful.channel].filter((name) => name !== 'retnet'))
      it(`${name}: a decay of 0 changes no bit of what came before it`, async () => {
        const rule = table[name]
        const [T, at, sizes] = [11, 7, { K: 5, V: 3 }]
        const [forgets, value] = name === 'peng' ? ['beta', 1] : ['gate', -Infinity]
        const inputs = draw(rule, T, sizes, 3)
        const width = inputs[forgets].length / T
        const other = { ...inputs, [forgets]: inputs[forgets].map((x, i) => (i === at * width ? value : x)) }
        const dy = uniforms(4, sizeOf(shapeOf(['B', 'T', 'H', 'V'], T, sizes)))
        for (const form of rule.forms) {
          const call = { rule, device, sizes, T, dy, options: { form } }
          const [with0, without] = [await run({ ...call, inputs: other }), await run({ ...call, inputs })]
          const early = (y: HostArray): HostArray => y.slice(0, (at * y.length) / T)
          assertSame(early(with0.y), early(without.y), form)
          assert.notDeepEqual(with0.y, without.y, form)
        }
      })

    it('gla: a channel that forgets in the middle of a chunk', async () => {
      const sizes = { K: 5, V: 3 }
      const [T, t, c] = [9, 4, 2]
      const inputs = draw(table.gla, T, sizes, 1)
      for (const h of [0, 1]) inputs.gate[(2 * t + h) * sizes.K + c] = -Infinity
      const { S } = drawState(table.gla, sizes, 2)
      const held = (value: number): Values => ({ S: S.map((x, i) => (Math.floor(i / sizes.V) % sizes.K === c ? value : x)) })
      const dy = uniforms(3, T * 2 * sizes.V)
      const from = (x: HostArray): HostArray => x.slice((x.length / T) * t)
      for (const options of [...forms, steps])
        for (const value of [NaN, Infinity]) {
          const call = { rule: table.gla, device, sizes, T, inputs, dy, options, dState: drawState(table.gla, sizes, 3) }
          const [all, expected] = [await run({ ...call, state: held(value) }), await run({ ...call, state: held(1) })]
          for (const result of ['y', 'dq', 'dgate'])
            assertSame(from(all[result]), from(expected[result]), `${JSON.stringify(options)}: ${result}`)
          for (const result of ['S', 'dk', 'dv', 'dS0']) assertSame(all[result], expected[result], `${JSON.stringify(options)}: ${result}`)
        }
    })

    it('gla: channels that forget one after the other', async () => {
      const sizes = { K: 5, V: 3 }
      const T = 9
      const inputs = draw(table.gla, T, sizes, 1)
      for (const h of [0, 1]) for (let c = 0; c < sizes.K; c++) inputs.gate[(2 * (c + 1) + h) * sizes.K + c] = -Infinity
      const dy = uniforms(3, T * 2 * sizes.V)
      for (const options of [...forms, steps])
        for (const value of [NaN, Infinity]) {
          const call = { rule: table.gla, device, sizes, T, dy, options }
          const v = inputs.v.map((x, i) => (i < 2 * sizes.V ? value : x))
          const [all, expected] = [await run({ ...call, inputs: { ...inputs, v } }), await run({ ...call, inputs })]
          const last = (x: HostArray): HostArray => x.slice((x.length / T) * sizes.K)
          for (const result of ['y', 'dq']) assertSame(last(all[result]), last(expected[result]), `${JSON.stringify(options)}: ${result}`)
          assertSame(all.S, expected.S, `${JSON.stringify(options)}: S`)
        }
    })

    it('delta-momentum: momentum that the first token forgets leaves no trace in chunks', async () => {
      const sizes = { K: 5, V: 3 }
      const rule = table['delta-momentum']
      const inputs = draw(rule, 9, sizes, 1)
      inputs.gateM.fill(-Infinity, 0, 2)
      const { S } = drawState(rule, sizes, 2)
      const dy = uniforms(3, 9 * 2 * sizes.V)
      const call = { rule, device, sizes, T: 9, inputs, dy, options: forms[4], dState: drawState(rule, sizes, 3) }
      const [expected, ...others] = await Promise.all(
        [1, NaN, Infinity].map((value) => run({ ...call, state: { S, M: S.map(() => value) } })),
      )
      for (const all of others) for (const [result, x] of Object.entries(all)) assertSame(x, expected[result], result)
    })

    for (const [name, options] of [
      ['delta-momentum', { form: 'chunk', chunk: 4 }],
      ['titans', { minibatch: 4 }],
    ] as const)
      it(`${name}: NaN and Infinity stay out of what came before them in their chunk`, async () => {
        const sizes = { K: 5, V: 3 }
        const [T, at] = [7, 6]
        const rule = table[name]
        const inputs = draw(rule, T, sizes, 1)
        const dy = uniforms(3, T * 2 * sizes.V)
        const late = (value: number): Values =>
          Object.fromEntries(
            Object.entries(inputs).map(([input, x]) => {
              const stays = rule.inputs[input].values === 'gate' || !timed(rule).includes(input)
              return [input, x.map((given, i) => (stays || i < (at * x.length) / T ? given : value))]
            }),
          )
        const call = { rule, device, sizes, T, state: drawState(rule, sizes, 2), dy, options }
        const [expected, ...others] = await Promise.all([0.5, NaN, Infinity].map((value) => run({ ...call, inputs: late(value) })))
        const early = (x: HostArray): HostArray => x.slice(0, (at * x.length) / T)
        for (const all of others) for (const result of ['y', 'dq']) assertSame(early(all[result]), early(expected[result]), result)
      })

    it('log-linear: a decay of 0 forgets in whole sequences, near and far', async () => {
      const sizes = { K: 3, V: 2 }
      const [T, at] = [150, 70]
      const rule = {
        ...table['log-linear'],
        inputs: { ...table['log-linear'].inputs, levels: { shape: ['B', 'T', 'H', 'L'], values: 'positive' } },
      }
      const inputs = draw(rule as unknown as Rule, T, sizes, 1)
      inputs.gate.fill(-Infinity, 2 * at, 2 * (at + 1))
      const dy = uniforms(3, T * 2 * sizes.V)
      const early = (value: number): Values => ({
        ...inputs,
        ...Object.fromEntries(
          ['q', 'k', 'v'].map((name) => [name, inputs[name].map((x, i) => (i < (at * inputs[name].length) / T ? value : x))]),
        ),
      })
      const call = { rule: rule as unknown as Rule, device, sizes, T, dy, options: {} }
      const [expected, ...others] = await Promise.all([1, NaN, Infinity].map((value) => run({ ...call, inputs: early(value) })))
      const late = (x: HostArray): HostArray => x.slice((at * x.length) / T)
      for (const all of others)
        for (const result of ['y', 'dq', 'dk', 'dv', 'dgate', 'dlevels']) assertSame(late(all[result]), late(expected[result]), result)
    })

    it('peng: at a rate of 1 the gradient is still that of finite differences', async () => {
      const sizes = { K: 3, V: 2 }
      const T = 5
      const inputs = draw(rules.peng, T, sizes, 1)
      for (const i of [2, 5, 8]) inputs.beta[i] = 1
      const state = drawState(rules.peng, sizes, 2)
      const dy = uniforms(3, T * 2 * sizes.V)
      const { dbeta } = await run({ rule: rules.peng, device, sizes, T, inputs, state, dy, options: {} })
      // y is a polynomial of each rate; from below, where it is one.
      const at = async (i: number, rate: number): Promise<number> => {
        const beta = inputs.beta.map((x, j) => (i === j ? rate : x))
        const { y } = await run({ rule: rules.peng, device: reference, sizes, T, inputs: { ...inputs, beta }, state, dy, options: {} })
        return Array.from(y).reduce((total, x, j) => total + x * dy[j], 0)
      }
      for (const i of [2, 5, 8, 3]) {
        const h = 2 ** -10
        const x = inputs.beta[i] === 1 ? [1, 1 - h] : [inputs.beta[i] + h, inputs.beta[i] - h]
        const slope = ((await at(i, x[0])) - (await at(i, x[1]))) / (Math.fround(x[0]) - Math.fround(x[1]))
        assert.ok(Math.abs(dbeta[i] - slope) < 1e-5, `token ${i}: ${dbeta[i]}, not ${slope}`)
      }
    })

    it('Infinity that is written leaves the gradient of the state before as it is', async () => {
      const sizes = { K: 1, V: 2 }
      for (const [rule, input] of [
        [table.hgrn, 'x'],
        [table.rwkv4, 'v'],
      ] as const)
        for (const T of [1, 5]) {
          const inputs = draw(rule, T, sizes, 1)
          inputs[input][0] = Infinity
          const dy = new Float32Array(T * 4).fill(1)
          const call = { rule, device, sizes, T, inputs, state: drawState(rule, sizes, 2), dy, dState: drawState(rule, sizes, 3) }
          const [expected, ...others] = await Promise.all([steps, ...forms].map((options) => run({ ...call, options })))
          assert.ok(expected.dS0.every(Number.isFinite))
          for (const { dS0 } of others) compare(false, dS0, expected.dS0, `${rule.title}, ${T} tokens: dS`)
        }
    })

    it('keeps what these three forget out of what follows', async () => {
      const ones = (shape: readonly number[]): Tensor => tensor(new Float32Array(sizeOf(shape)).fill(1), { shape, device })
      const flags = (...values: number[]): Tensor => tensor(Int32Array.from(values), { shape: [1, values.length], device })
      const one = (n: number): Tensor => ones([1, n, 1, 1])
      const state = { S: tensor([Infinity], { shape: [1, 1, 1, 1], device }) }
      const read = async ({ y }: { y: Tensor }): Promise<number[]> => [...(await y.read())]
      for (const options of forms) {
        assert.deepEqual(await read(deltaRule(one(2), one(2), one(2), ones([1, 2, 1]), state, { ...options, reset: flags(1, 0) })), [1, 1])
        const gate = tensor([-Infinity, 0], { shape: [1, 2, 1], device })
        assert.deepEqual(await read(gatedSumRule(one(2), one(2), one(2), gate, state, options)), [1, 2])
        const T = 63
        const k = tensor(
          Float32Array.from({ length: T }, (_, t) => (t < 60 ? 4 : 1)),
          { shape: [1, T, 1, 1], device },
        )
        const v = tensor(
          Float32Array.from({ length: T }, (_, t) => t % 3),
          { shape: [1, T, 1, 1], device },
        )
        const reset = flags(...Array.from({ length: T }, (_, t) => Number(t === 0 || t === 60)))
        assert.deepEqual((await read(deltaRule(one(T), k, v, ones([1, T, 1]), undefined, { ...options, reset }))).slice(-3), [0, 1, 2])
      }
    })
  })
