/**
 * Fast-weight attention, in the configuration of every paper and with every rule: chunkwise is token by token, gradients are those of finite
 * differences, padding leaves no trace, packed sequences don't see each other, states are what they say.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  add,
  type Device,
  detach,
  initialState as emptyState,
  generator,
  gradCheck,
  type Letter,
  mean,
  mul,
  noGrad,
  type Rule,
  type RuleName,
  rules,
  runSteps,
  scope,
  setDevice,
  slice,
  square,
  sub,
  sum,
  Tensor,
  tensor,
} from '../../engine/index.ts'
import {
  Adam,
  type AttentionState,
  attentionPresets,
  disposeState,
  FastWeightsAttention,
  type FastWeightsAttentionConfig,
  fastWeightsAttentionDefaults,
  gates,
  initialState,
  layerRules,
  loadState,
  retention,
  rotary,
  SoftmaxAttention,
  saveState,
  stateSize,
  Transformer,
} from '../../nn/index.ts'
import { adopt } from '../../nn/ingredients.ts'
import { Linear } from '../../nn/layers.ts'
import { freshOf } from '../../nn/parts.ts'
import { assertClose, assertRms, assertSameBits, gpus, readAndFree, reference, runsOn, uniforms, wasm } from '../helpers.ts'
import { attentionByHand, dot, ingredientsByHand, linear, rotated, softplus } from './formulas.ts'
import { layoutOf, put, rowsOf } from './layers.ts'

const keyKind = (rule: RuleName): string | undefined => (rules[rule] as Rule).inputs.k?.values

/** Keys of length 1 keep every rule stable; Oja's needs values like that. */
const ofRule = (rule: RuleName): Partial<FastWeightsAttentionConfig> => ({
  rule,
  featureMap: keyKind(rule) === 'feature' ? 'elu1' : 'silu',
  featureNorm: keyKind(rule) === 'feature' ? 'sum' : 'l2',
  valueNorm: rule.includes('oja') ? 'l2' : 'none',
  conv: 3,
  ...(rule === 'abc' && { slots: 3 }),
})

/** Settings of presets that are too large to show what they are for in small cases. */
const small: Record<string, Partial<FastWeightsAttentionConfig>> = {
  gsa: { slots: 3 },
  'log-linear': { levels: 3 },
  'ttt-linear': { minibatch: 3, positions: 'rotary' },
  titans: { minibatch: 2 },
}
const ofPresets: Record<string, Partial<FastWeightsAttentionConfig>> = Object.fromEntries(
  Object.entries(attentionPresets).map(([name, { config }]) => [name, { ...config, ...small[name] }]),
)
const preset = new Set(Object.values(ofPresets).map(({ rule = 'delta' }) => rule))

/** Every preset, every rule that none has, and what neither has. */
const configs: Record<string, Partial<FastWeightsAttentionConfig>> = {
  ...ofPresets,
  ...Object.fromEntries(layerRules.filter((rule) => !preset.has(rule)).map((rule) => [`rule ${rule}`, ofRule(rule)])),
  'two value heads a key head, gated delta': { ...ofRule('gated-delta'), keyHeads: 1, positions: 'rotary' },
  'two value heads a key head, two steps': { ...ofRule('delta-product'), keyHeads: 1, stepsPerToken: 2 },
  'two steps, turning, rotary': { ...ofRule('delta-product'), stepsPerToken: 2, betaRange: 2, positions: 'rotary', conv: 2 },
  'hedgehog, gla, logsigmoid': { ...ofRule('gla'), gate: 'logsigmoid', featureMap: 'hedgehog', featureNorm: 'none', conv: 1 },
  'shared hedgehog, kda by logsigmoid': { ...ofRule('kda'), gate: 'logsigmoid', featureMap: 'hedgehog', hedgehogShared: true },
  'TTT, a token at a time': { ...ofRule('ttt'), minibatch: 1 },
  'Titans, a token at a time': { ...ofRule('titans'), minibatch: 1 },
  'taylor2, normalised': { rule: 'linear-attention', featureMap: 'taylor2', featureNorm: 'none' },
}

/**
 * Rules with kernels of their own, or that compose what the others don't. A GPU computed by the CPU compiles slowly: the layers with other rules run on
 * it once.
 */
const often = new Set<RuleName>(['linear-attention', 'retnet', 'gla', 'delta', 'gated-delta', 'kda', 'delta-product', 'rwkv7', 'mesa'])
const devicesFor = (devices: [Device, number][], { rule = 'delta' }: Partial<FastWeightsAttentionConfig>) =>
  devices.filter(([device]) => device.name !== 'webgpu' || often.has(rule))

const make = (config: Partial<FastWeightsAttentionConfig>, D: number, H: number, seed = 1, chunk = 4): FastWeightsAttention =>
  new FastWeightsAttention({ ...config, dModel: D, heads: H, chunk }, generator(seed))

interface Flags {
  mask?: Int32Array
  reset?: Int32Array
}

/** y of tokens [from, to) of x [B,T,D], and the state after them. */
function run(
  layer: FastWeightsAttention | SoftmaxAttention,
  x: Float32Array,
  [B, T, D]: number[],
  from: number,
  to: number,
  state?: never,
  flags: Flags = {},
): { y: Tensor; state: never } {
  const cut = <A extends Float32Array | Int32Array>(values: A, width: number): number[] =>
    Array.from({ length: B }, (_, b) => Array.from(values.subarray((b * T + from) * width, (b * T + to) * width))).flat()
  const ints = (values: Int32Array | undefined) => values && tensor(cut(values, 1), { shape: [B, to - from], dtype: 'int32' })
  return scope(() =>
    noGrad(() => {
      const given = tensor(cut(x, D), { shape: [B, to - from, D] })
      return layer.forward(given, state, { mask: ints(flags.mask), reset: ints(flags.reset) }) as { y: Tensor; state: never }
    }),
  )
}

/** [B,T,D] from the [B,1,D] of each token. */
async function joined(parts: Tensor[], B: number): Promise<number[]> {
  const values = await Promise.all(parts.map(async (part) => Array.from(await part.read())))
  for (const part of parts) part.dispose()
  return Array.from({ length: B }, (_, b) => values.flatMap((v) => v.slice((b * v.length) / B, ((b + 1) * v.length) / B))).flat()
}

async function valuesOf(state: object): Promise<Record<string, number[]>> {
  const values: Record<string, number[]> = {}
  for (const [name, part] of Object.entries(state))
    if (part !== undefined) values[name] = Array.from(part instanceof Tensor ? await part.read() : (part as Int32Array))
  return values
}

const sizesFrom = (K: number) =>
  fc.record({
    B: fc.integer({ min: 1, max: 3 }),
    T: fc.integer({ min: 1, max: 11 }),
    H: fc.integer({ min: 1, max: 3 }),
    K: fc.integer({ min: K, max: K + 3 }),
    seed: fc.nat(1000),
  })
const sizes = sizesFrom(2)

/**
 * Memories that learn have a layer norm inside. Of two channels it is little more than a sign, whose gradients grow without bound where both are nearly
 * equal: in float32 (errors up to 1e-1 of the value, in float64 1e-12) these have more, where 1,500 cases differ by 2e-6 at most.
 */
const sizesFor = ({ name }: Device, { rule = 'delta' }: Partial<FastWeightsAttentionConfig>) =>
  name !== 'reference' && (rule === 'ttt' || rule === 'titans') ? sizesFrom(4) : sizes

/** Both states have the same parts; a convolution of width 1 keeps none of its tokens, and something is compared all the same. */
function eachPart(
  actual: Record<string, number[]>,
  expected: Record<string, number[]>,
  compare: (actual: number[], expected: number[], part: string) => void,
): void {
  const lengths = (state: Record<string, number[]>) => Object.fromEntries(Object.entries(state).map(([part, x]) => [part, x.length]))
  assert.deepEqual(lengths(actual), lengths(expected))
  const parts = Object.keys(expected).filter((part) => expected[part].length > 0)
  assert.ok(parts.length > 0, 'no state to compare')
  for (const part of parts) compare(actual[part], expected[part], part)
}

describe('fast-weight attention', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [[reference, 1e-10], [await wasm(), 1e-5], ...(await gpus()).map((device): [Device, number] => [device, 1e-5])]
  })
  afterEach(() => setDevice(reference))

  for (const [name, config] of Object.entries(configs)) {
    it(`gives chunkwise what it gives token by token, and frees what it takes: ${name}`, async () => {
      for (const [device, bound] of devices) {
        setDevice(device)
        await fc.assert(
          fc.asyncProperty(sizesFor(device, config), async ({ B, T, H, K, seed }) => {
            const D = H * K
            const x = uniforms(seed, B * T * D)
            const before = device.bytesInUse()
            const layer = make(config, D, H, seed)
            const whole = run(layer, x, [B, T, D], 0, T)
            const ys: Tensor[] = []
            let state = initialState(layer, B) as never
            for (let t = 0; t < T; t++) {
              const next = run(layer, x, [B, T, D], t, t + 1, state)
              disposeState(state)
              state = next.state
              ys.push(next.y)
            }
            assertRms(await joined(ys, B), await whole.y.read(), bound, 'y')
            const [expected, actual] = [await valuesOf(whole.state), await valuesOf(state)]
            assert.deepEqual(Object.keys(actual), Object.keys(expected))
            eachPart(actual, expected, (a, e, part) => assertRms(a, e, bound, part, 1e-3))
            whole.y.dispose()
            for (const s of [whole.state, state]) disposeState(s)
            layer.dispose()
            assert.equal(device.bytesInUse(), before)
          }),
          { numRuns: runsOn(device, 8) },
        )
      }
    })

    it(`has the gradients of finite differences: ${name}`, async () => {
      for (const [D, H, T] of [
        [4, 2, 3],
        [3, 1, 1],
      ]) {
        const layer = make(config, D, H, 5, 2)
        const parameters = [...layer.namedParameters()].filter(([, p]) => p.requiresGrad)
        // Away from the initial values, some of which are special.
        const inputs = [
          tensor(uniforms(1, T * D), { shape: [1, T, D] }),
          ...(await Promise.all(
            parameters.map(async ([, p], i) => {
              const noise = uniforms(i + 2, p.size, -0.3, 0.3)
              return tensor(
                (await p.read()).map((value, j) => value + noise[j]),
                { shape: p.shape },
              )
            }),
          )),
        ]
        const first = run(layer, uniforms(9, 2 * D), [1, 2, D], 0, 2).state
        await gradCheck((x, ...values) => {
          for (const [i, [path]] of parameters.entries()) put(layer, path, values[i])
          const { y, state } = layer.forward(x, first)
          return [y, ...Object.values(state).filter((part) => part instanceof Tensor)]
        }, inputs)
      }
    })

    it(`passes over padding without a trace, and keeps packed sequences apart: ${name}`, async () => {
      for (const [device, bound] of devicesFor(devices, config)) {
        setDevice(device)
        await fc.assert(
          fc.asyncProperty(
            sizesFor(device, config),
            fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 3 }),
            async (s, lengths) => {
              const [H, D] = [s.H, s.H * s.K]
              const layout = layoutOf(lengths, s.seed)
              const T = layout.mask.length
              const x = uniforms(s.seed, T * D)
              const layer = make(config, D, H, s.seed)
              const packed = run(layer, x, [1, T, D], 0, T, undefined, layout)
              const y = rowsOf(await packed.y.read(), D)
              // In two pieces, wherever they're cut.
              const cut = s.seed % T
              if (cut > 0) {
                const first = run(layer, x, [1, T, D], 0, cut, undefined, layout)
                const second = run(layer, x, [1, T, D], cut, T, first.state, layout)
                const pieces = [...rowsOf(await first.y.read(), D), ...rowsOf(await second.y.read(), D)]
                const real = (rows: number[][]): number[] => rows.filter((_, t) => layout.mask[t]).flat()
                assertRms(real(pieces), real(y), bound, 'in pieces')
              }
              let last: Record<string, number[]> = {}
              for (const places of layout.sequences) {
                const own = Float32Array.from(places.flatMap((t) => Array.from(x.subarray(t * D, (t + 1) * D))))
                const alone = run(layer, own, [1, places.length, D], 0, places.length)
                assertRms(
                  places.flatMap((t) => y[t]),
                  await alone.y.read(),
                  bound,
                  `a sequence of ${places.length} in ${T}`,
                )
                last = await valuesOf(alone.state)
              }
              const state = await valuesOf(packed.state)
              eachPart(state, last, (a, e, part) => assertRms(a, e, bound, part, 1e-3))
            },
          ),
          { numRuns: runsOn(device, 8) },
        )
      }
    })

    it(`is left as it is by a piece that is all padding: ${name}`, async () => {
      for (const [device] of devicesFor(devices, config)) {
        setDevice(device)
        const layer = make(config, 6, 2)
        const x = uniforms(1, 2 * 5 * 6)
        const { state } = run(layer, x, [2, 5, 6], 0, 5)
        for (const T of [1, 4]) {
          const { state: after } = run(layer, uniforms(2, 2 * T * 6), [2, T, 6], 0, T, state, { mask: new Int32Array(2 * T) })
          const [a, b] = [await valuesOf(state), await valuesOf(after)]
          eachPart(b, a, (actual, expected, part) => assertSameBits(Float64Array.from(actual), Float64Array.from(expected), part))
        }
      }
    })

    if (often.has(config.rule ?? 'delta'))
      it(`learns to repeat the token before: ${name}`, async () => {
        const layer = make(config, 8, 2)
        const optimizer = new Adam(layer.namedParameters(), { lr: 1e-2 })
        const x = tensor(uniforms(1, 2 * 8 * 8), { shape: [2, 8, 8] })
        const target = tensor(
          uniforms(1, 2 * 8 * 8).map((_, i, a) => (i % 64 < 8 ? 0 : a[i - 8])),
          { shape: [2, 8, 8] },
        )
        const losses: number[] = []
        for (let step = 0; step < 30; step++) {
          const loss = scope(() => {
            const loss = mean(square(sub(layer.forward(x).y, target)))
            loss.backward()
            optimizer.step()
            optimizer.zeroGrad()
            return loss
          })
          losses.push(await loss.item())
        }
        assert.ok(losses[29] < 0.8 * losses[0], `${losses[0]} to ${losses[29]}`)
      })
  }

  const handWritten = new Set<RuleName>(['linear-attention', 'retnet', 'mamba2', 'gla', 'delta', 'gated-delta', 'kda'])
  const byHand: typeof configs = {
    ...Object.fromEntries(Object.entries(ofPresets).filter(([, { rule = 'delta' }]) => handWritten.has(rule))),
    'delta, turning': { ...ofRule('delta'), betaRange: 2 },
    'gated delta by logsigmoid': { ...ofRule('gated-delta'), gate: 'logsigmoid', positions: 'rotary' },
    'linear attention, another eps': { ...ofRule('linear-attention'), normaliserEps: 0.3, featureEps: 0.2, featureMap: 'relu2' },
  }
  for (const [name, config] of Object.entries(byHand))
    it(`is its formula: ${name}`, async () => {
      for (const [device, bound] of devices) {
        setDevice(device)
        await fc.assert(
          fc.asyncProperty(sizes, async ({ B, T, H, K, seed }) => {
            const D = H * K
            const x = uniforms(seed, B * T * D)
            const layer = make(config, D, H, seed)
            const parameters: Record<string, number[]> = {}
            for (const [path, p] of layer.namedParameters()) parameters[path] = Array.from(await p.read())
            const { y, state } = run(layer, x, [B, T, D], 0, T)
            const expected = Array.from({ length: B }, (_, b) =>
              attentionByHand(layer.config, parameters, rowsOf(x, D).slice(b * T, (b + 1) * T)),
            )
            assertRms(await y.read(), expected.flat(2), bound)
            y.dispose()
            disposeState(state)
            layer.dispose()
          }),
          { numRuns: runsOn(device, 10) },
        )
      }
    })

  for (const rule of layerRules)
    it(`feeds its rule what the source says: ${rule}`, async () => {
      const [T, D, H] = [4, 6, 2]
      const steps = rule === 'delta-product' ? 2 : 1
      const slots = ['gsa', 'abc'].includes(rule) ? 3 : 16
      const levels = rule === 'log-linear' ? 3 : 12
      const minibatch = ['ttt', 'titans'].includes(rule) ? 1 : 16
      const layer = make({ ...ofRule(rule), valueNorm: 'none', conv: 0, stepsPerToken: steps, slots, levels, minibatch }, D, H, 2)
      const parameters: Record<string, number[]> = {}
      for (const [i, [path, parameter]] of [...layer.namedParameters()].entries()) {
        const noise = uniforms(30 + i, parameter.size, -0.5, 0.5)
        // Slots of ABC are written by numbers that end somewhere.
        const factor = path === 'slot.weight' ? 60 : 1
        parameters[path] = Array.from(await parameter.read(), (value, j) => factor * (value + noise[j]))
        parameter.write(parameters[path])
      }
      const x = uniforms(4, T * D)
      const values = ingredientsByHand(layer.config, parameters, rowsOf(x, D))
      const sizes: Record<Letter, number> = {
        B: 1,
        T,
        H,
        K: layer.features.width,
        V: D / H,
        N: steps,
        M: rule === 'log-linear' ? levels : slots,
      }
      const inputs = Object.fromEntries(
        Object.entries((rules[rule] as Rule).inputs).map(([name, { shape }]) => {
          const dims = shape.map((letter) => sizes[letter])
          const numbers = Array.from({ length: dims.reduce((n, d) => n * d, 1) }, (_, flat) => {
            const at = { T: 0, N: 0, H: 0, i: 0 }
            for (let axis = dims.length - 1, rest = flat; axis >= 0; rest = Math.floor(rest / dims[axis--]))
              Object.assign(at, { [shape[axis] in at ? shape[axis] : shape[axis] === 'B' ? 'B' : 'i']: rest % dims[axis] })
            return values[name](at)
          })
          return [name, tensor(numbers, { shape: dims })]
        }),
      )
      const eps = 'z' in rules[rule].state ? { eps: layer.config.normaliserEps } : {}
      const { inner_start: start } = parameters
      const begun = start && { ...emptyState(rules[rule], sizes), S: tensor(start, { shape: [1, H, D / H, D / H] }) }
      const read = rowsOf(await runSteps(rules[rule], inputs, begun, eps).y.read(), D)
      const expected = read.flatMap((row) => linear(row, parameters['output.weight'], parameters['output.bias']))
      assertClose(await run(layer, x, [1, T, D], 0, T).y.read(), expected, 1e-9)
    })

  it('asks once for each of the products of its input that it has computed together', () => {
    const { foresee, forward } = Linear.prototype
    const [ahead, asked]: [Linear[], Linear[]] = [[], []]
    Linear.prototype.foresee = function (...given) {
      ahead.push(this)
      foresee.apply(this, given)
    }
    Linear.prototype.forward = function (x, options) {
      const { ahead: known } = this as unknown as { ahead: { y: Tensor } | null }
      const y = forward.call(this, x, options)
      if (known && known.y === y) asked.push(this)
      return y
    }
    try {
      for (const [name, config] of Object.entries(configs)) {
        const layer = make(config, 8, 2, 1)
        scope(() => layer.forward(tensor(uniforms(2, 24), { shape: [1, 3, 8] })))
        assert.ok(ahead.length > 0, name)
        assert.deepEqual(new Set(asked.splice(0)), new Set(ahead.splice(0)), name)
        layer.dispose()
      }
    } finally {
      Object.assign(Linear.prototype, { foresee, forward })
    }
  })

  it('has decays of lightning attention that grow longer towards the last layer', async () => {
    const model = new Transformer({ symbols: 5, dModel: 8, heads: 2, layers: 2, dFf: 8, rule: 'retnet', headDecay: 'lightning' })
    const x = tensor(uniforms(1, 16), { shape: [1, 2, 8] })
    // The second head of the first layer keeps e^-4, of the second e^-2.
    for (const [i, kept] of [Math.exp(-4), Math.exp(-2)].entries()) {
      const { attn } = model.transformer.layers[i] as { attn: FastWeightsAttention }
      const [whole, last] = [x, slice(x, 1, 1, 2)].map((given) => attn.forward(given).state.S!)
      const first = attn.forward(slice(x, 1, 0, 1)).state.S!
      const [w, l, f] = await Promise.all([whole, last, first].map(async (S) => Array.from(await S.read())))
      assertClose(
        w.map((value, j) => value - l[j]),
        f.map((value, j) => value * (j < f.length / 2 ? 1 : kept)),
        1e-12,
      )
    }
  })

  it('learns by minibatches as its rule does, counted from the first token of each sequence', async () => {
    const [T, D, H, m] = [11, 6, 2, 3]
    for (const rule of ['ttt', 'titans'] as const) {
      const layer = make({ ...ofRule(rule), conv: 0, minibatch: m }, D, H, 2)
      const x = uniforms(4, T * D)
      const whole = await run(layer, x, [1, T, D], 0, T).y.read()
      // The state ends at the last complete minibatch; the rest is done again.
      const { state } = run(layer, x, [1, T, D], 0, 10)
      const { S, waiting, phase } = state as AttentionState
      assert.deepEqual(phase, Int32Array.of(1))
      assert.deepEqual(waiting!.shape, [1, m - 1, 2 * D + (rule === 'ttt' ? 1 : 3) * H])
      const nine = run(layer, x, [1, T, D], 0, 9).state as AttentionState
      assertSameBits(await S!.read(), await nine.S!.read())
      assert.deepEqual(nine.phase, Int32Array.of(0))
      // Token by token it is another function, but for a sequence's first.
      const single = make({ ...ofRule(rule), conv: 0, minibatch: 1 }, D, H, 2)
      const other = await run(single, x, [1, T, D], 0, T).y.read()
      assertClose(whole.subarray(0, D), other.subarray(0, D), 1e-12)
      assert.ok(whole.some((y, i) => Math.abs(y - other[i]) > 1e-3))
    }
    const tokens = new Transformer({
      symbols: 3,
      dModel: 4,
      heads: 2,
      layers: 1,
      dFf: 4,
      rule: 'ttt',
      featureMap: 'silu',
      featureNorm: 'l2',
    })
    assert.equal(stateSize(tokens), 2 * (2 * 2 + 2) + 15 * (2 * 4 + 2) + 2)
  })

  for (const name of ['ttt-linear', 'titans'] as const)
    it(`remembers each minibatch about as well as the first: ${name}`, async () => {
      const [T, D, H, m] = [64, 64, 2, 16]
      for (const seed of [1, 2, 3]) {
        const layer = make(attentionPresets[name].config, D, H, seed)
        const x = uniforms(seed, T * D, -2, 2)
        const last = async (values: Float32Array) => Array.from(await readAndFree(run(layer, values, [1, T, D], 0, T).y)).slice(-D)
        const expected = await last(x)
        // How far the last token's output moves when the tokens of a minibatch are others.
        const moved: number[] = []
        for (let n = 0; n < T / m - 1; n++) {
          const other = uniforms(seed + 10, T * D, -2, 2)
          const there = (i: number): boolean => Math.floor(i / D / m) === n
          const y = await last(x.map((value, i) => (there(i) ? other[i] : value)))
          moved.push(Math.sqrt(y.reduce((sum, value, i) => sum + (value - expected[i]) ** 2, 0) / dot(expected, expected)))
        }
        // From a memory of zeros later ones count 1e-4 times as much.
        assert.ok(Math.min(...moved) > 0.02 && Math.min(...moved) > Math.max(...moved) / 8, moved.join(', '))
      }
    })

  it('begins at a matrix of its own, of which a state holds the distance', async () => {
    const [T, D, H, m] = [7, 6, 2, 3]
    for (const rule of ['ttt', 'titans'] as const) {
      const layer = make({ ...ofRule(rule), conv: 0, minibatch: m }, D, H, 2)
      assert.deepEqual(layer.inner_start!.shape, [H, D / H, D / H])
      const start = Array.from(await layer.inner_start!.read())
      const x = uniforms(4, T * D)
      const expected = Array.from(await run(layer, x, [1, T, D], 0, T).y.read())
      // No minibatch is complete: nothing has moved.
      const early = run(layer, x, [1, T, D], 0, m - 1).state as AttentionState
      assert.ok((await early.S!.read()).every((s) => s === 0))
      // With the matrix in the state in place of the parameter it is the same.
      layer.inner_start!.write(new Float64Array(start.length))
      const state = { ...initialState(layer, 1), S: tensor(start, { shape: [1, H, D / H, D / H] }) }
      assertClose(await run(layer, x, [1, T, D], 0, T, state as never).y.read(), expected, 1e-12)
    }
    const spread = async (rule: 'ttt' | 'titans') => {
      const values = await make({ ...ofRule(rule) }, 64, 2).inner_start!.read()
      return Math.sqrt(dot(values, values) / values.length)
    }
    assertClose([await spread('ttt'), await spread('titans')], [0.2, 0.1], 0.05, 0)
  })

  it('refuses a state in which more tokens wait than there can be', async () => {
    const [T, D, H, m] = [2, 6, 2, 3]
    const layer = make({ ...ofRule('ttt'), minibatch: m }, D, H)
    const one = tensor(uniforms(1, 2 * D), { shape: [2, 1, D] })
    for (const [phase, message] of [
      [[3, 0], "attention: the state's phase holds 3, which must be below 3"],
      [[-1, 0], "attention: the state's phase holds a number below 0"],
    ] as const) {
      const state = { ...(run(layer, uniforms(1, 2 * T * D), [2, T, D], 0, T).state as AttentionState), phase: Int32Array.from(phase) }
      assert.throws(() => layer.forward(one, state), { message })
      const file = await saveState(state)
      const told = message.replace("attention: the state's", 'safetensors: state:')
      assert.throws(() => loadState(file, layer as never), { name: 'SafetensorsError', message: told })
    }
  })

  it('lets no ingredient take the place of another, or of a property of the layer', () => {
    const layer = make({}, 4, 2)
    const message = (name: string) => ({ message: `an ingredient can't be called ${name}: there is a property of that name` })
    for (const name of ['output', 'norm', 'config', 'forward', 'training', 'gate'])
      assert.throws(() => adopt(layer, { [name]: null }), message(name))
    adopt(layer, { gate: null, own: 1 }, ['gate'])
    assert.throws(() => adopt(layer, { own: 2 }, ['gate']), message('own'))
  })

  it('reads the slots of GSA by a softmax of scores as they are', async () => {
    const [T, D, H, M, V] = [3, 8, 2, 3, 4]
    const layer = make({ ...attentionPresets.gsa.config, slots: M, headNorm: false }, D, H, 4)
    const p: Record<string, number[]> = {}
    for (const [name, t] of layer.namedParameters()) p[name] = Array.from(await t.read())
    const x = uniforms(4, T * D, -3, 3)
    const silu = (y: number[]): number[] => y.map((a) => a / (1 + Math.exp(-a)))
    const nothing = (rows: number, columns: number): number[][] => Array.from({ length: rows }, () => new Array<number>(columns).fill(0))
    const [P, S] = [Array.from({ length: H }, () => nothing(V, M)), Array.from({ length: H }, () => nothing(M, V))]
    const expected = rowsOf(x, D).map((row) => {
      const mapped = ['query', 'key', 'value'].map((name) => silu(linear(row, p[`${name}.linear.weight`])))
      const gate = linear(row, p['gate.projection.weight'], p['gate.projection.bias']).map((a) => Math.exp(-softplus(-a) / 8))
      const read = Array.from({ length: H }, (_, h) => {
        const [q, k, v] = mapped.map((y) => y.slice(h * V, (h + 1) * V))
        const kept = gate.slice(h * M, (h + 1) * M)
        P[h] = P[h].map((of, i) => of.map((s, m) => kept[m] * s + k[i] * (1 - kept[m])))
        S[h] = S[h].map((of, m) => of.map((s, j) => kept[m] * s + (1 - kept[m]) * v[j]))
        const scores = kept.map((_, m) =>
          Math.exp(
            dot(
              q,
              P[h].map((of) => of[m]),
            ),
          ),
        )
        const all = scores.reduce((a, b) => a + b)
        return v.map(
          (_, j) =>
            dot(
              scores,
              S[h].map((of) => of[j]),
            ) / all,
        )
      })
      return linear(read.flat(), p['output.weight'], p['output.bias'])
    })
    assertClose(await run(layer, x, [1, T, D], 0, T).y.read(), expected.flat(), 1e-12)
  })

  it('shares queries and keys among value heads as if each had a copy of them', async () => {
    const [T, D, H] = [5, 8, 4]
    const shared = make({ ...ofRule('comba'), conv: 0, keyHeads: 2 }, D, H, 3)
    const copied = make({ ...ofRule('comba'), conv: 0 }, D, H, 3)
    const entries = await shared.stateDict()
    for (const name of ['query.linear.weight', 'key.linear.weight']) {
      const { data } = entries.get(name)!
      const rows = Array.from({ length: D }, (_, o) => data.subarray(((o >> 2) * 2 + (o & 1)) * D, ((o >> 2) * 2 + (o & 1) + 1) * D))
      entries.set(name, { dtype: 'F64', shape: [D, D], data: Float64Array.from(rows.flatMap((row) => Array.from(row))) })
    }
    copied.loadStateDict(entries)
    const x = uniforms(5, T * D)
    assertClose(await run(shared, x, [1, T, D], 0, T).y.read(), await run(copied, x, [1, T, D], 0, T).y.read(), 1e-12)
    assert.deepEqual(shared.query!.linear.weight.shape, [4, 8])
  })

  it('knows what every part of a state is at first, by its name', () => {
    for (const rule of layerRules) {
      const { state, empty = {} } = rules[rule] as Rule
      for (const part of Object.keys(state))
        assert.equal(freshOf(`layers.0.${part}`), empty[part as keyof typeof empty] ?? 0, `${rule}: ${part}`)
    }
  })

  it('refuses what makes no sense, and options that mean nothing', () => {
    const before = reference.bytesInUse()
    const refused = (change: object, message: RegExp) => assert.throws(() => make(change, 8, 2), { message })
    refused({ Rule: 'sum' }, /^unknown option 'Rule' \(dModel, heads, featureMap, /)
    refused({ rule: 'hebb' }, /^unknown rule 'hebb' \(sum, linear-attention, /)
    refused({ rule: 'kda', gate: 'open' }, /^unknown gate 'open' \(softplus, logsigmoid, exp\)$/)
    refused({ gate: 'logsigmoid' }, /^gate = logsigmoid means nothing here: it belongs to rules with a gate$/)
    refused({ normaliserEps: 1 }, /^normaliserEps = 1 means nothing here: it belongs to rules with a normaliser/)
    refused({ rule: 'sum', betaRange: 2 }, /^betaRange = 2 means nothing here: it belongs to the rules delta, gated-delta, /)
    refused({ betaRange: 1.5 }, /^betaRange must be 1 or 2, not 1.5$/)
    refused({ stepsPerToken: 2 }, /^stepsPerToken = 2 means nothing here: it belongs to the rule delta-product$/)
    refused({ rule: 'delta-product', stepsPerToken: 0 }, /^stepsPerToken must be a positive integer, not 0$/)
    refused({ rule: 'delta', slots: 3 }, /^slots = 3 means nothing here: it belongs to the rules gsa, abc$/)
    refused({ rule: 'gsa', slots: 0 }, /^slots must be a positive integer, not 0$/)
    refused(
      { rule: 'kda', gateDivisor: 2 },
      /^gateDivisor = 2 means nothing here: it belongs to rules with a gate, and the gate logsigmoid$/,
    )
    refused({ rule: 'mamba2', gateRank: 'full' }, /^gateRank = full means nothing here: it belongs to rules with a gate for each channel$/)
    refused({ headDecay: 'lightning' }, /^headDecay = lightning means nothing here: it belongs to the rule retnet$/)
    refused({ innerRate: 2 }, /^innerRate = 2 means nothing here: it belongs to the rules ttt, titans$/)
    refused({ rule: 'delta', minibatch: 2 }, /^minibatch = 2 means nothing here: it belongs to the rules ttt, titans$/)
    refused({ keyHeads: 3 }, /^keyHeads must be 0 or a divisor of the 2 heads, not 3$/)
    for (const rule of ['hgrn', 'rwkv4'])
      for (const [name, value] of [
        ['featureMap', 'elu1'],
        ['nu', 2],
        ['favorFeatures', 3],
        ['favorSeed', 3],
        ['favorRedraw', 'epoch'],
        ['hedgehogShared', true],
        ['featureEps', 0],
      ])
        refused({ rule, [`${name}`]: value }, new RegExp(`^${name} = ${value} means nothing here: it belongs to rules with queries$`))
    refused({ rule: 'hgrn', featureMap: 'sine' }, /^featureMap = sine means nothing here/)
    refused({ rule: 'hgrn', featureNorm: 'max' }, /^unknown feature norm 'max' \(none, sum, l2\)$/)
    // What a recipe says for all layers.
    for (const features of [
      { featureMap: 'silu' },
      { featureMap: 'silu', featureNorm: 'l2' },
      { featureMap: 'identity', featureNorm: 'none' },
    ] as const)
      make({ rule: 'hgrn', ...features }, 8, 2).dispose()
    refused({ rule: 'hgrn2', keyHeads: 1 }, /^keyHeads = 1 means nothing here: it belongs to rules with queries and keys$/)
    refused({ rule: 'ttt' }, /^the rule ttt needs queries as wide as values: take another feature map than dpfp$/)
    refused({ rule: 'lightnet' }, /^the rule lightnet needs queries as wide as keys: take another feature map than dpfp$/)
    refused(
      { rule: 'rwkv4', positions: 'rotary' },
      /^positions = rotary means nothing here: the rule rwkv4 has no queries and keys to turn$/,
    )
    refused({ scale: 1 }, /^unknown scale '1' \(none, sqrt\)$/)
    refused({ positions: 'sinusoidal' }, /^unknown positions 'sinusoidal' \(none, rotary\)$/)
    refused({ valueNorm: 'sum' }, /^unknown value norm 'sum' \(none, l2\)$/)
    refused({ outputGate: 'relu' }, /^unknown output gate 'relu' \(none, silu, sigmoid\)$/)
    const signed = { featureMap: 'silu', featureNorm: 'l2' }
    refused({ rule: 'linear-attention', ...signed }, /^the rule linear-attention divides by z \. q, which silu can make zero or negative/)
    refused({ rule: 'attention-delta', ...signed }, /^the rule attention-delta divides by z \. q, which silu/)
    refused({ rule: 'linear-attention', positions: 'rotary' }, /^the rule linear-attention divides by z \. q, which rotary positions/)
    refused({ rule: 'linear-attention', normaliserEps: -1 }, /^normaliserEps must be 0 or more, not -1$/)
    refused(
      { rule: 'linear-attention', featureMap: 'relu', normaliserEps: 0 },
      /^normaliserEps must be above 0: the features of relu can all be 0/,
    )
    for (const featureMap of ['relu2', 'dpfp', 'elu1'])
      refused(
        { rule: 'attention-delta', featureMap, normaliserEps: 0 },
        new RegExp(`^normaliserEps must be above 0: the features of ${featureMap} can all`),
      )
    for (const featureMap of ['softmax', 'hedgehog'])
      refused(
        { rule: 'linear-attention', featureMap, normaliserEps: 0 },
        /^normaliserEps must be above 0: z \. q can be 0 with the features of/,
      )
    refused(
      { rule: 'linear-attention', normaliserEps: 1e-45 },
      /^normaliserEps must be above 0 in float32 \(at least 2\^-126\): the features of/,
    )
    for (const featureMap of ['favor', 'taylor2'])
      make({ rule: 'linear-attention', featureMap, featureNorm: 'none', normaliserEps: 0 } as never, 8, 2).dispose()
    refused({ featureMap: 'relu', featureNorm: 'l2', featureEps: 0 }, /^featureEps must be above 0: the features of relu can all be 0/)
    refused({ featureMap: 'relu', featureNorm: 'sum', featureEps: 0 }, /^featureEps must be above 0: the features of relu can all be 0/)
    assert.throws(() => make({ featureMap: 'dpfp' }, 2, 2), /^Error: dpfp needs heads of width 2 or more/)
    assert.equal(reference.bytesInUse(), before)
  })

  it('refuses masks, resets and states that do not fit', () => {
    const layer = make({ positions: 'rotary' }, 4, 2)
    const x = tensor(uniforms(1, 2 * 3 * 4), { shape: [2, 3, 4] })
    const ints = (values: number[], shape: number[]) => tensor(values, { shape, dtype: 'int32' })
    assert.throws(
      () => layer.forward(x, {}, { mask: ints([1, 1, 1], [1, 3]) }),
      /^Error: attention: mask has shape \[1,3\], expected \[2,3\]$/,
    )
    assert.throws(() => layer.forward(x, {}, { reset: ints([0, 0, 0, 0, 0, 2], [2, 3]) }), /^Error: attention: reset holds 2 at 5/)
    assert.throws(
      () => layer.forward(x, {}, { mask: tensor(uniforms(1, 6), { shape: [2, 3] }) }),
      /^Error: attention: mask must be an int32 tensor/,
    )
    const { position: _, ...state } = layer.forward(x).state as AttentionState
    assert.throws(() => layer.forward(x, state), /^Error: attention: the state lacks position$/)
    assert.throws(
      () => layer.forward(x, { ...state, position: new Int32Array(3) }),
      /^Error: attention: the state has 3 rows of position, the input has 2$/,
    )
    assert.throws(() => layer.forward(x, { ...state, z: state.S }), /^Error: attention: the state has a z, which this layer's lacks$/)
    const softmax = new SoftmaxAttention({ dModel: 4, heads: 1 }, generator(1))
    const one = tensor(uniforms(1, 8), { shape: [1, 2, 4] })
    assert.deepEqual(softmax.forward(one, {}).y.shape, [1, 2, 4])
    const two = softmax.forward(tensor(uniforms(1, 16), { shape: [2, 2, 4] })).state
    assert.throws(() => softmax.forward(one, two), /^Error: attention: the state has 2 rows of keys, the input has 1$/)
    assert.throws(() => softmax.forward(one, { keys: two.keys }), /^Error: attention: the state lacks values$/)
  })

  it('is labml by default', () => {
    assert.deepEqual(
      { ...fastWeightsAttentionDefaults, ...attentionPresets['labml-fast-weights'].config },
      { ...fastWeightsAttentionDefaults, rule: 'delta', featureMap: 'dpfp', nu: 1, featureNorm: 'sum' },
    )
    assert.deepEqual(
      [...make({}, 4, 2).namedParameters().keys()],
      ['query', 'key', 'value', 'interpolation_weight.0'].map((name) => `${name}.linear.weight`).concat('output.weight', 'output.bias'),
    )
  })
})

describe('attention, beside what is no number', () => {
  let devices: Device[]
  before(async () => {
    devices = [reference, await wasm(), ...(await gpus())]
  })
  afterEach(() => setDevice(reference))

  const softmax = (positions: 'none' | 'rotary') => () => new SoftmaxAttention({ dModel: 6, heads: 2, positions }, generator(3))
  const layers: Record<string, () => FastWeightsAttention | SoftmaxAttention> = {
    ...Object.fromEntries(Object.entries(configs).map(([name, config]) => [name, () => make(config, 6, 2, 3)])),
    softmax: softmax('none'),
    'softmax, rotary': softmax('rotary'),
  }
  const onWebgpu = new Set(['labml-fast-weights', 'gated-deltanet', 'linear-transformer', 'rule rwkv7', 'softmax'])
  const devicesFor = (name: string) => devices.filter((device) => device.name !== 'webgpu' || onWebgpu.has(name))

  const [B, T, D] = [2, 11, 6]
  const rowsWith = (values: ArrayLike<number>, spoil: (b: number, t: number) => number | null, width = D): number[] =>
    Array.from(values, (x, i) => spoil(Math.floor(i / (T * width)), Math.floor(i / width) % T) ?? x)
  const flagged = (at: readonly (readonly number[])[], others = 0): Int32Array =>
    Int32Array.from({ length: B * T }, (_, i) => (at[Math.floor(i / T)].includes(i % T) ? 1 - others : others))

  /** Three tokens that lead to a state, of which row b is filled with bad[b]. */
  async function spoiltState(layer: FastWeightsAttention | SoftmaxAttention, bad: readonly (number | null)[]): Promise<object> {
    const { state } = run(layer, uniforms(7, B * 3 * D), [B, 3, D], 0, 3)
    const parts = Object.entries(state as object).map(async ([name, part]) => {
      if (!(part instanceof Tensor)) return [name, part]
      const values = Array.from(await part.read(), (x, i) => bad[Math.floor((i * B) / part.size)] ?? x)
      const { shape } = part
      part.dispose()
      return [name, tensor(values, { shape, requiresGrad: true })]
    })
    return Object.fromEntries(await Promise.all(parts))
  }

  /** A convolution of one tap has nothing to carry. */
  const heldBy = async (state: object): Promise<Record<string, number[]>> =>
    Object.fromEntries(Object.entries(await valuesOf(state)).filter(([, part]) => part.length > 0))

  /** y, the state, and the gradients of x, the parameters and the state, for cotangents dy of y and fixed ones of the state. */
  async function trial(
    layer: FastWeightsAttention | SoftmaxAttention,
    x: ArrayLike<number>,
    dy: ArrayLike<number>,
    flags: Flags,
    bad: readonly (number | null)[] | null,
  ) {
    const state = bad && (await spoiltState(layer, bad))
    const input = tensor(Float32Array.from(x), { shape: [B, T, D], requiresGrad: true })
    const ints = (values?: Int32Array) => values && tensor(values, { shape: [B, T] })
    const result = scope(() => {
      const { y, state: after } = layer.forward(input, (state ?? undefined) as never, { mask: ints(flags.mask), reset: ints(flags.reset) })
      const outputs: [Tensor, Tensor][] = [
        [y, tensor(Float32Array.from(dy), { shape: [B, T, D] })],
        ...Object.values(after)
          .filter((part) => part instanceof Tensor)
          .map((part, i): [Tensor, Tensor] => [part, tensor(uniforms(20 + i, part.size), { shape: part.shape })]),
      ]
      outputs
        .map(([t, cotangent]) => sum(mul(t, cotangent)))
        .reduce((a, b) => add(a, b))
        .backward()
      return {
        y: detach(y),
        state: Object.fromEntries(Object.entries(after).map(([name, t]) => [name, t instanceof Tensor ? detach(t) : t])),
      }
    })
    const gradients: Record<string, number[]> = {}
    for (const [name, p] of layer.namedParameters()) {
      if (p.grad) gradients[name] = await readAndFree(p.grad)
      p.grad = null
    }
    const values = {
      y: Array.from(await result.y.read()),
      state: await heldBy(result.state),
      dx: await readAndFree(input.grad!),
      gradients,
    }
    const dstate: Record<string, number[]> = {}
    for (const [name, part] of Object.entries(state ?? {}))
      if (part instanceof Tensor && part.grad && part.size > 0) dstate[name] = await readAndFree(part.grad)
    result.y.dispose()
    input.dispose()
    for (const held of [result.state, state]) for (const part of Object.values(held ?? {})) if (part instanceof Tensor) part.dispose()
    return { ...values, dstate }
  }

  const sameAt = (a: ArrayLike<number>, b: ArrayLike<number>, keep: (b: number, t: number) => boolean, what: string): void => {
    for (let i = 0; i < a.length; i++)
      if (keep(Math.floor(i / (T * D)), Math.floor(i / D) % T) && !Object.is(a[i], b[i]))
        assert.fail(`${what}: row ${Math.floor(i / (T * D))}, token ${Math.floor(i / D) % T}: ${a[i]}, expected exactly ${b[i]}`)
  }
  const sameParts = (a: Record<string, number[]>, b: Record<string, number[]>, what: string): void => {
    assert.deepEqual(Object.keys(a), Object.keys(b))
    for (const [name, values] of Object.entries(a))
      assertSameBits(Float64Array.from(values), Float64Array.from(b[name]), `${what}: ${name}`)
  }

  for (const [name, build] of Object.entries(layers)) {
    it(`recovers at a beginning, and sends nothing back over it: ${name}`, async () => {
      // Sequences of 5 and 6 tokens in the first row, of 8 and 3 in the second, where nothing is to be left of the state either.
      const reset = flagged([[5], [0, 8]])
      const good = (b: number, t: number): boolean => t >= (b === 0 ? 5 : 8)
      const x = uniforms(1, B * T * D)
      const dy = uniforms(2, B * T * D)
      for (const device of devicesFor(name)) {
        setDevice(device)
        const layer = build()
        const bad = [NaN, Infinity]
        const badAt = (b: number, t: number): number | null => (b === 0 && t === 1 ? bad[0] : !good(b, t) && t === 3 ? bad[1] : null)
        const clean = await trial(layer, x, dy, { reset }, [null, null])
        const spoilt = await trial(
          layer,
          rowsWith(x, badAt),
          rowsWith(dy, (b, t) => (good(b, t) ? null : t % 2 ? NaN : -Infinity)),
          { reset },
          [NaN, Infinity],
        )
        sameAt(spoilt.y, clean.y, good, `${device.name}: y`)
        sameAt(spoilt.dx, clean.dx, good, `${device.name}: dx`)
        for (const [part, values] of Object.entries(spoilt.state))
          if (part !== 'keys' && part !== 'values')
            assertSameBits(Float64Array.from(values), Float64Array.from(clean.state[part]), `${device.name}: ${part}`)
        for (const [part, values] of Object.entries(spoilt.dstate))
          assert.ok(
            values.slice(values.length / 2).every((d) => part === 'keys' || part === 'values' || d === 0),
            `${device.name}: d${part}`,
          )

        // Token by token, with both states spoilt before the beginning.
        const steps = async (spoil: boolean): Promise<{ y: number[][]; state: Record<string, number[]> }> => {
          let state = (await spoiltState(layer, spoil ? [NaN, Infinity] : [null, null])) as never
          const y: number[][] = []
          for (let t = 0; t < T; t++) {
            const next = run(layer, spoil ? Float32Array.from(rowsWith(x, badAt)) : x, [B, T, D], t, t + 1, state, { reset })
            disposeState(state)
            state = next.state
            y.push(await readAndFree(next.y))
          }
          const values = await heldBy(state)
          disposeState(state)
          return { y, state: values }
        }
        const [a, b] = [await steps(true), await steps(false)]
        for (const [t, row] of a.y.entries())
          for (const r of [0, 1])
            if (good(r, t))
              assertSameBits(
                Float64Array.from(row.slice(r * D, (r + 1) * D)),
                Float64Array.from(b.y[t].slice(r * D, (r + 1) * D)),
                `token ${t}`,
              )
        for (const [part, values] of Object.entries(a.state))
          if (part !== 'keys' && part !== 'values')
            assertSameBits(Float64Array.from(values), Float64Array.from(b.state[part]), `${device.name}: ${part}`)
        layer.dispose()
      }
    })

    it(`looks at nothing that padding holds: ${name}`, async () => {
      const mask = flagged(
        [
          [0, 4, 5, 10],
          [2, 3, 9, 10],
        ],
        1,
      )
      const padding = (b: number, t: number): boolean => mask[b * T + t] === 0
      const x = uniforms(1, B * T * D)
      const dy = uniforms(2, B * T * D)
      for (const device of devicesFor(name)) {
        setDevice(device)
        const layer = build()
        const clean = await trial(layer, x, dy, { mask }, [null, null])
        for (const bad of [NaN, Infinity, -Infinity]) {
          const spoil = (values: ArrayLike<number>) => rowsWith(values, (b, t) => (padding(b, t) ? bad : null))
          const spoilt = await trial(layer, spoil(x), spoil(dy), { mask }, [null, null])
          const what = `${device.name}, ${bad}`
          for (const key of ['y', 'dx'] as const) {
            sameAt(spoilt[key], clean[key], () => true, `${what}: ${key}`)
            sameAt(spoilt[key], new Float64Array(B * T * D), padding, `${what}: ${key} at padding`)
          }
          for (const key of ['state', 'gradients', 'dstate'] as const) sameParts(spoilt[key], clean[key], `${what}: ${key}`)
          assert.ok(Object.values(spoilt.gradients).every((g) => g.every(Number.isFinite)))
        }
        // A state that isn't finite stays as it is over padding.
        const { state } = await trial(
          layer,
          rowsWith(x, () => NaN),
          dy,
          { mask: new Int32Array(B * T) },
          [NaN, Infinity],
        )
        for (const [part, values] of Object.entries(state))
          if (layer instanceof FastWeightsAttention && !['position', 'phase'].includes(part))
            assert.deepEqual(
              values,
              values.map((_, i) => (i < values.length / 2 ? NaN : Infinity)),
              part,
            )
        layer.dispose()
      }
    })
  }
})

describe('gates', () => {
  for (const gate of Object.keys(gates) as (keyof typeof gates)[])
    for (const width of [null, 5])
      it(`are what their formula says, and at first as their paper draws them: ${gate}, ${width ?? 'one a head'}`, async () => {
        const [D, H, B, T] = [6, 3, 2, 4]
        const own = new gates[gate]({ dModel: D, heads: H, width }, generator(2))
        const x = tensor(uniforms(1, B * T * D), { shape: [B, T, D] })
        const y = own.forward(x)
        assert.deepEqual(y.shape, width === null ? [B, T, H] : [B, T, H, width])
        const a = Array.from(await own.projection.forward(x).read())
        const parameters = Object.fromEntries(
          await Promise.all([...own.namedParameters()].map(async ([name, p]) => [name, Array.from(await p.read())] as const)),
        )
        const W = width ?? 1
        const expected = a.map((z, i) =>
          gate === 'exp'
            ? -Math.exp(z + parameters.base[i % (H * W)])
            : gate === 'logsigmoid'
              ? -softplus(-z) / 16
              : -Math.exp(parameters.A_log[Math.floor(i / W) % H]) * softplus(z + parameters.dt_bias[i % (H * W)]),
        )
        assertClose(await y.read(), expected, 1e-12)
        if (gate === 'exp') {
          const base = await own.namedParameters().get('base')!.read()
          assert.ok(base[0] === -6 && Math.abs(base.at(-1)! + 1) < 1e-12)
        }
        if (gate !== 'softplus') return
        // The range of many draws, and that their spread is even: the middle of log dt, and of A.
        const many = new gates[gate]({ dModel: 100, heads: 100, width }, generator(3))
        const of = async (name: string) => Array.from(await many.namedParameters().get(name)!.read()).sort((a, b) => a - b)
        const dt = (await of('dt_bias')).map(softplus)
        assert.ok(dt[0] >= 0.000999 && dt[0] < 0.0013 && dt.at(-1)! > 0.08 && dt.at(-1)! <= 0.1001)
        assert.ok(Math.abs(Math.log10(dt[dt.length / 2]) + 2) < 0.2)
        const A = (await of('A_log')).map(Math.exp)
        assert.ok(A[0] >= 2 ** -10 && A[0] < 1 && A.at(-1)! > 15 && A.at(-1)! <= 16 && Math.abs(A[50] - 8) < 2)
      })

  it('are fixed for RetNet', async () => {
    const decay = retention(3, tensor([1]))
    assertClose(
      await decay.read(),
      [1 / 32, 1 / 64, 1 / 128].map((x) => Math.log(1 - x)),
      1e-12,
      0,
    )
  })
})

describe('rotary positions', () => {
  // By mpmath to 13 digits: channels 0 and 2 turn by the position, 1 and 3 by a hundredth of it.
  it('are right far out', async () => {
    const table: [position: number, ...turned: number[]][] = [
      [100000, -0.9993608074382, 0.5623790762907, 0.03574879797202, 0.826879540532],
      [131071, -0.8179834993879, -0.7863836902573, -0.5752416837548, -0.6177383683222],
      [1000000, 0.9367521275331, -0.952155368259, -0.3499935021713, -0.3056143888883],
      [123456789, 0.1402596815339, -0.869327881817, 0.990114751802, -0.494235807986],
      [2147483647, -0.6888366918779, -0.7128174920613, -0.7249165551446, 0.701349572618],
    ]
    for (const device of [reference, await wasm()])
      for (const [position, ...turned] of table) {
        const y = scope(() => rotary(tensor([1, 1, 0, 0], { shape: [1, 1, 1, 4], device }), Int32Array.of(position)))
        // The angle is a product of float64: off by 2e7 2^-53 at most.
        assertClose(await readAndFree(y), turned, device === reference ? 1e-8 : 2 ** -22, 0, `at ${position}`)
      }
  })

  it('turn pairs of channels: lengths stay, and inner products depend on distances alone', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 9 }), fc.nat(1000), fc.nat(1000), fc.nat(), async (K, p, distance, seed) => {
        const [q, k] = [0, 1].map((i) => Array.from(uniforms(seed + i, K)))
        const at = async (x: number[], position: number) =>
          Array.from(await rotary(tensor(x, { shape: [1, 1, 1, K] }), Int32Array.of(position)).read())
        assertClose(await at(q, p), rotated(q, p), 1e-12)
        assertClose([dot(await at(q, p), await at(q, p))], [dot(q, q)], 1e-12)
        assertClose([dot(await at(q, p + distance), await at(k, p))], [dot(await at(q, distance), k)], 1e-12)
      }),
    )
  })
})
