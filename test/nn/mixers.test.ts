/**
 * Every mixer of the table: token by token is all at once, gradients are those of finite differences, nothing looks ahead, padding leaves no trace;
 * and how a model says which of its layers has which.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { trainCommand } from '../../cli/options.ts'
import { type Device, generator, gradCheck, noGrad, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import {
  disposeState,
  initialState,
  type LayerState,
  type MixerName,
  readCheckpoint,
  readSafetensors,
  type SequenceLayer,
  Transformer,
  type TransformerConfig,
  writeCheckpoint,
  writeSafetensors,
} from '../../nn/index.ts'
import { mixerNames, rowOf } from '../../nn/mixers.ts'
import { recurrentNetNames } from '../../nn/recurrent-net.ts'
import { assertRms, assertSameBits, gpus, reference, runsOn, uniforms, wasm } from '../helpers.ts'
import { layoutOf, put, rowsOf } from './layers.ts'

/** Settings that differ from the defaults, where these are too large for small cases. */
const small: Partial<Record<MixerName, object>> = {
  'fast-weights': { featureMap: 'silu', featureNorm: 'l2', conv: 3, chunk: 4 },
  'aft-full': { tableLength: 12 },
  'aft-local': { tableLength: 7, window: 3 },
  'aft-conv': { window: 4 },
}

interface Case {
  name: string
  kind: MixerName
  settings?: object
}
/** Every mixer as it is by default, on all devices; and every recurrent net, whose kernels have tests of their own, on the reference. */
const cases: readonly Case[] = [
  ...mixerNames.map((kind) => ({ name: kind, kind })),
  ...recurrentNetNames.map(
    (net): Case => ({ name: net, kind: 'recurrent-net', settings: { net, ...(net === 'delta-mlp' && { netDepth: 2 }) } }),
  ),
  ...(['lstm', 'delta-rnn', 'delta-mlp'] as const).map(
    (net): Case => ({ name: `${net} of a width of its own`, kind: 'recurrent-net', settings: { net, netWidth: 5 } }),
  ),
]

function make({ kind, settings: own }: Case, D: number, heads: number, seed = 1): SequenceLayer {
  const { fields, check, make } = rowOf(kind)
  const settings = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.default]))
  const all = { ...settings, ...('heads' in fields && { heads }), ...small[kind], ...own, dModel: D }
  check(all)
  return make(all, generator(seed), { layer: 0, layers: 1 })
}

/** Parameters that are 0 at first would show nothing: small numbers are added to all. */
async function stir(layer: SequenceLayer): Promise<void> {
  for (const [i, p] of layer.parameters().entries()) {
    const noise = uniforms(50 + i, p.size, -0.5, 0.5)
    p.write((await p.read()).map((x, j) => x + noise[j]))
  }
}

interface Flags {
  mask?: Int32Array
  reset?: Int32Array
}
type Sizes = [B: number, T: number, D: number]

/** y of tokens [from, to) of x [B,T,D], and the state after them. */
function run(layer: SequenceLayer, x: Float32Array, [B, T, D]: Sizes, from: number, to: number, state?: LayerState, flags: Flags = {}) {
  const cut = (values: ArrayLike<number>, width: number): number[] =>
    Array.from({ length: B }, (_, b) => Array.from(values).slice((b * T + from) * width, (b * T + to) * width)).flat()
  const ints = (values?: Int32Array) => values && tensor(cut(values, 1), { shape: [B, to - from], dtype: 'int32' })
  const run = () =>
    layer.forward(tensor(cut(x, D), { shape: [B, to - from, D] }), state, { mask: ints(flags.mask), reset: ints(flags.reset) })
  return scope(() => noGrad(run))
}

const read = async (y: Tensor): Promise<number[]> => {
  const values = Array.from(await y.read())
  y.dispose()
  return values
}

const sizes = fc.record({
  B: fc.integer({ min: 1, max: 3 }),
  T: fc.integer({ min: 1, max: 14 }),
  H: fc.integer({ min: 1, max: 3 }),
  K: fc.integer({ min: 2, max: 5 }),
  seed: fc.nat(1000),
})

describe('mixers', () => {
  let all: [Device, number][]
  before(async () => {
    all = [[reference, 1e-10], [await wasm(), 1e-5], ...(await gpus()).map((device): [Device, number] => [device, 1e-5])]
  })
  afterEach(() => setDevice(reference))

  for (const each of cases) {
    const { name, settings } = each
    const devices = (): [Device, number][] => (settings ? all.slice(0, 1) : all)

    it(`give all at once what they give in pieces and token by token, and free what they take: ${name}`, async () => {
      for (const [device, bound] of devices()) {
        setDevice(device)
        const property = fc.asyncProperty(sizes, fc.nat(), async ({ B, T, H, K, seed }, cut) => {
          const D = H * K
          const x = uniforms(seed, B * T * D)
          const before = device.bytesInUse()
          const layer = make(each, D, H, seed)
          await stir(layer)
          const whole = run(layer, x, [B, T, D], 0, T)
          const expected = rowsOf(await read(whole.y), D)
          for (const lengths of [new Array<number>(T).fill(1), T > 1 ? [1 + (cut % (T - 1)), T] : [1]]) {
            let state = initialState(layer, B)
            for (let t = 0, i = 0; t < T; i++) {
              const to = Math.min(T, t + lengths[i])
              const next = run(layer, x, [B, T, D], t, to, state)
              disposeState(state)
              state = next.state
              const rows = Array.from({ length: B }, (_, b) => expected.slice(b * T + t, b * T + to).flat())
              assertRms(await read(next.y), rows.flat(), bound, `${device.name}, tokens ${t} to ${to}`)
              t = to
            }
            disposeState(state)
          }
          disposeState(whole.state)
          layer.dispose()
          assert.equal(device.bytesInUse(), before)
        })
        await fc.assert(property, { numRuns: runsOn(device, 12) })
      }
    })

    it(`have the gradients of finite differences, through their states too: ${name}`, async () => {
      const D = 4
      const layer = make(each, D, 2, 5)
      const parameters = [...layer.namedParameters()].filter(([, p]) => p.requiresGrad)
      await stir(layer)
      const values = await Promise.all(parameters.map(async ([, p]) => tensor(await p.read(), { shape: p.shape })))
      const pieces = [3, 2].map((T, i) => tensor(uniforms(i + 1, 2 * T * D), { shape: [2, T, D] }))
      await gradCheck(
        (first, second, ...inputs) => {
          for (const [i, [path]] of parameters.entries()) put(layer, path, inputs[i])
          const before = layer.forward(first)
          return [before.y, layer.forward(second, before.state).y]
        },
        [...pieces, ...values],
      )
    })

    it(`let nothing later change a bit of an earlier token: ${name}`, async () => {
      const [B, T, D] = [2, 9, 6]
      const x = uniforms(1, B * T * D)
      for (const [device] of devices()) {
        setDevice(device)
        const layer = make(each, D, 2)
        await stir(layer)
        const expected = await read(run(layer, x, [B, T, D], 0, T).y)
        for (const bad of [1e4, -1e4, Number.NaN])
          for (const from of [1, 6]) {
            // A gate that isn't a number is an error, but no mixer's default has one.
            const other = x.map((value, i) => (Math.floor(i / D) % T >= from ? bad : value))
            const actual = await read(run(layer, other, [B, T, D], 0, T).y)
            const early = (y: number[]): Float64Array<ArrayBuffer> => Float64Array.from(y.filter((_, i) => Math.floor(i / D) % T < from))
            assertSameBits(early(actual), early(expected), `${device.name}, ${bad} from ${from}`)
          }
      }
    })

    it(`pass over padding without a trace, and keep packed sequences apart: ${name}`, async () => {
      for (const [device, bound] of devices()) {
        setDevice(device)
        const lengths = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 3 })
        const property = fc.asyncProperty(sizes, lengths, async (s, lengths) => {
          const D = s.H * s.K
          const layout = layoutOf(lengths, s.seed)
          const T = layout.mask.length
          const clean = uniforms(s.seed, T * D)
          const x = clean.map((value, i) => (layout.mask[Math.floor(i / D)] ? value : Number.NaN))
          const layer = make(each, D, s.H, s.seed)
          await stir(layer)
          const y = rowsOf(await read(run(layer, x, [1, T, D], 0, T, undefined, layout).y), D)
          const cut = s.seed % T
          if (cut > 0) {
            const first = run(layer, x, [1, T, D], 0, cut, undefined, layout)
            const second = run(layer, x, [1, T, D], cut, T, first.state, layout)
            assertRms([...(await read(first.y)), ...(await read(second.y))], y.flat(), bound, 'in pieces')
          }
          for (const places of layout.sequences) {
            const own = Float32Array.from(places.flatMap((t) => Array.from(clean.subarray(t * D, (t + 1) * D))))
            const alone = await read(run(layer, own, [1, places.length, D], 0, places.length).y)
            assertRms(
              places.flatMap((t) => y[t]),
              alone,
              bound,
              `${places.length} in ${T}`,
            )
          }
          for (const [t, row] of y.entries()) if (!layout.mask[t]) assert.deepEqual(row, new Array(D).fill(0))
        })
        await fc.assert(property, { numRuns: runsOn(device, 8) })
      }
    })
  }

  it('say what is right for the docs, the command and checkpoints: a title, a source, a line for each setting', () => {
    for (const kind of mixerNames) {
      const row = rowOf(kind)
      for (const text of [row.title, row.description, row.source]) assert.ok(text.length > 3, kind)
      for (const [name, field] of Object.entries(row.fields)) {
        assert.ok(field.description.length > 3 && !field.description.includes('\n'), `${kind}: ${name}`)
        if (field.type === 'string') assert.ok(field.choices.includes(field.default), `${kind}: ${name}`)
      }
    }
  })
})

describe('settings of mixers', () => {
  it('that have the same name are the same, and none is called as an option of the command is', () => {
    const known = new Map<string, string>()
    for (const kind of mixerNames)
      for (const [name, field] of Object.entries(rowOf(kind).fields)) {
        const said = JSON.stringify(field)
        assert.equal(known.get(name) ?? said, said, `${kind}: ${name} is something else in another mixer`)
        known.set(name, said)
      }
    const names = trainCommand.options.map(({ name }) => name)
    assert.deepEqual([...new Set(names)], names)
  })
})

describe('the mixers of a model', () => {
  const sizes = { symbols: 5, dModel: 12, heads: 2, layers: 4, dFf: 8 }
  const kinds = (change: Partial<TransformerConfig>): string[] => {
    const model = new Transformer({ ...sizes, ...change })
    const names = model.transformer.layers.map(({ attn }) => {
      const { config } = attn as { config?: { rule?: string; form?: string; net?: string } }
      return config?.rule ?? config?.form ?? config?.net ?? 'softmax'
    })
    model.dispose()
    return names
  }

  it('are one for all, or a list that is repeated; a name, a rule, or settings', () => {
    assert.deepEqual(kinds({}), ['delta', 'delta', 'delta', 'delta'])
    assert.deepEqual(kinds({ attention: 'softmax' }), ['softmax', 'softmax', 'softmax', 'softmax'])
    assert.deepEqual(kinds({ mixer: 'aft-simple' }), ['simple', 'simple', 'simple', 'simple'])
    assert.deepEqual(kinds({ mixer: { kind: 'aft-local', window: 3 } }), ['local', 'local', 'local', 'local'])
    assert.deepEqual(kinds({ mixer: ['delta-rnn', { kind: 'recurrent-net', net: 'gru' }] }), ['delta-rnn', 'gru', 'delta-rnn', 'gru'])
    assert.deepEqual(kinds({ mixer: ['kda', 'kda', 'softmax'] }), ['kda', 'kda', 'softmax', 'kda'])
    assert.deepEqual(kinds({ mixer: ['fast-weights', 'aft-conv'], rule: 'gated-delta' }), ['gated-delta', 'conv', 'gated-delta', 'conv'])
    assert.deepEqual(kinds({ mixer: ['fast-weights', { kind: 'fast-weights', rule: 'sum' }], rule: 'kda' }), ['kda', 'sum', 'kda', 'sum'])
  })

  it('take what they leave open from the model', () => {
    const model = new Transformer({ ...sizes, positions: 'rotary', conv: 3, mixer: ['fast-weights', { kind: 'softmax', heads: 3 }] })
    const [first, second] = model.transformer.layers.map(({ attn }) => attn as unknown as Record<string, any>)
    assert.deepEqual([first.config.conv, first.config.positions, first.config.heads], [3, 'rotary', 2])
    assert.deepEqual([second.positions, second.heads], ['rotary', 3])
  })

  it('are the same model as the flat settings, to the bit', async () => {
    const flat = { rule: 'gated-delta', conv: 3, featureMap: 'silu', featureNorm: 'l2' } as const
    const tokens = tensor([1, 2, 3, 4, 0, 1], { shape: [1, 6], dtype: 'int32' })
    const logits = async (config: Partial<TransformerConfig>): Promise<Float64Array<ArrayBuffer>> => {
      const model = new Transformer({ ...sizes, ...config }, 3)
      return Float64Array.from(await scope(() => noGrad(() => model.forward(tokens).logits)).read())
    }
    const expected = await logits(flat)
    assertSameBits(await logits({ mixer: { kind: 'fast-weights', ...flat } }), expected)
    assertSameBits(await logits({ mixer: 'fast-weights', ...flat }), expected)
    assertSameBits(await logits({ mixer: ['softmax'] }), await logits({ attention: 'softmax' }))
  })

  it('are kept by checkpoints, complete, without what says nothing of them', async () => {
    const model = new Transformer({ ...sizes, mixer: ['delta', { kind: 'aft-local', window: 3 }, 'softmax'], conv: 2 })
    const bytes = await writeCheckpoint(model, null)
    assert.deepEqual(readCheckpoint(bytes).config, model.config)
    assert.deepEqual(model.config.mixer, [
      { kind: 'fast-weights', rule: 'delta' },
      { kind: 'aft-local', tableLength: 256, window: 3, projectionBias: true },
      { kind: 'softmax' },
    ])
    const { tensors, metadata } = readSafetensors(await writeCheckpoint(new Transformer({ ...sizes, mixer: 'aft-conv' }), null))
    const config = JSON.parse(metadata.config)
    assert.ok(!('rule' in config) && !('featureMap' in config) && config.heads === 2, metadata.config)
    const refused = (change: object, message: RegExp) =>
      assert.throws(() => readCheckpoint(writeSafetensors(tensors, { ...metadata, config: JSON.stringify({ ...config, ...change }) })), {
        name: 'SafetensorsError',
        message,
      })
    refused({ mixer: 'aft-simple' }, /is no part of its model$/)
    refused({ mixer: { kind: 'aft-full', tableLength: 1e7 } }, /it lacks transformer\.layers\.0\.attn\.pos_bias$/)
    refused({ mixer: { kind: 'aft-conv', window: 5 } }, /taps has shape \[2,32\], its configuration says \[2,5\]$/)
    refused({ mixer: { kind: 'aft-conv', window: 'wide' } }, /window must be a number, not the text 'wide'$/)
    for (const mixer of [null, 1, [], [[]], '__proto__', { kind: 'constructor' }, {}, { kind: 'aft-conv', toString: 1 }])
      refused({ mixer }, /the configuration in the metadata can't be used: /)
    refused({ mixer: undefined }, /the configuration in the metadata can't be used: featureMap isn't a string$/)
  })

  it('are refused in one line that says where a setting belongs', () => {
    const before = reference.bytesInUse()
    const refused = (change: object, message: string | RegExp) => assert.throws(() => new Transformer({ ...sizes, ...change }), { message })
    refused(
      { mixer: 'aft' },
      /^unknown mixer 'aft' \(fast-weights, softmax, aft-full, aft-local, aft-simple, aft-conv, recurrent-net; or the name of a rule, 35 of them, or of a recurrent net\)$/,
    )
    refused({ mixer: { kind: 'gru' } }, /^unknown mixer 'gru' /)
    refused({ mixer: 3 }, "a mixer must be a name or an object such as { kind: 'softmax' }, not 3")
    refused({ mixer: [] }, 'mixer: a list of 0 for 4 layers: give from one to as many as there are layers')
    refused({ mixer: ['delta', 'sum', 'delta', 'sum', 'delta'] }, /^mixer: a list of 5 for 4 layers: /)
    refused({ mixer: { kind: 'softmax', window: 3 } }, 'window = 3 means nothing here: it belongs to aft-local, aft-conv')
    refused({ mixer: { kind: 'aft-full', rule: 'sum' } }, 'rule = sum means nothing here: it belongs to fast-weights attention')
    refused({ mixer: 'aft-full', rule: 'sum' }, 'rule = sum means nothing here: it belongs to fast-weights attention')
    refused({ mixer: { kind: 'aft-full', causal: false } }, /^unknown option 'causal' \(tableLength, projectionBias\)$/)
    refused(
      { mixer: 'aft-simple', positions: 'rotary' },
      /^positions = rotary means nothing here: it belongs to fast-weights attention, softmax/,
    )
    refused({ mixer: 'softmax', attention: 'softmax' }, 'attention = softmax means nothing beside a mixer: give the mixer alone')
    for (const window of [-1, 1.5, Number.NaN])
      refused({ mixer: { kind: 'aft-local', window } }, `window must be an integer, 0 or more, not ${window}`)
    refused({ mixer: { kind: 'aft-conv', window: 0 } }, 'window must be a positive integer for the form conv, not 0')
    refused({ mixer: { kind: 'aft-local', tableLength: '9' } }, "tableLength must be a number, not the text '9'")
    refused({ mixer: { kind: 'aft-conv', heads: 5 } }, "5 heads don't divide dModel = 12")
    refused({ mixer: { kind: 'aft-conv', projectionBias: 1 } }, 'projectionBias must be true or false, not 1')
    refused({ mixer: ['softmax', { kind: 'fast-weights', nu: 99 }] }, /^nu must be an integer from 1 to 2 K - 1 = 11 for/)
    refused(
      { mixer: { kind: 'recurrent-net', net: 'lstm', netDepth: 2 } },
      'netDepth = 2 means nothing here: it belongs to the net delta-mlp',
    )
    refused(
      { mixer: { kind: 'recurrent-net', net: 'srwm', netWidth: 8 } },
      'netWidth = 8 means nothing here: it belongs to nets with a projection: all but srwm and smfwp',
    )
    refused({ mixer: { kind: 'recurrent-net', net: 'lstm', netWidth: -1 } }, 'netWidth must be an integer, 0 or more, not -1')
    refused({ mixer: { kind: 'recurrent-net', net: 'elman' } }, /^unknown net 'elman' \(delta-rnn, /)
    refused({ embeddingScale: 2 }, "unknown embeddingScale '2' (none, sqrt)")
    assert.equal(reference.bytesInUse(), before)
  })
})
