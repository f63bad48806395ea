/** Names and initial values as in PyTorch and labml, state dicts, dropout. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import {
  crossEntropy,
  detach,
  type Generator,
  generator,
  mul,
  noGrad,
  normal,
  parameter,
  scope,
  setDevice,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import {
  Adam,
  AdamW,
  Aft,
  CrossAttention,
  constant,
  Dropout,
  Embedding,
  EncoderDecoder,
  Experts,
  FastWeightsAttention,
  FeedForward,
  favor,
  HeadNorm,
  hedgehog,
  initialState,
  LatentAttention,
  LayerNorm,
  Linear,
  Mamba2Layer,
  MambaLayer,
  MemoryLayer,
  Module,
  modelOf,
  orthogonalRows,
  PackedEntry,
  RecurrentNet,
  RMSNorm,
  RwkvTimeMix,
  readCheckpoint,
  readSafetensors,
  resetRows,
  restoreOptimizer,
  retention,
  rotary,
  type SafetensorsEntry,
  SoftmaxAttention,
  sample,
  Trainer,
  Transformer,
  taylor2,
  writeCheckpoint,
  writeSafetensors,
} from '../../nn/index.ts'
import { presets } from '../../tasks/index.ts'
import { assertClose, assertSameBits, gpus, reference, wasm } from '../helpers.ts'
import { architectures, few, randomTokens } from './models.ts'

const root = new URL('../../../', import.meta.url)
const labml = { ...presets.labml.model, symbols: 65, dModel: 32, heads: 4, layers: 2, dFf: 64 }

async function logitsOf(model: Transformer): Promise<ArrayLike<number>> {
  const { device } = model.src_embed.weight
  const logits = scope(() => noGrad(() => model.forward(tensor(randomTokens(1, 20), { shape: [2, 10], device })).logits))
  const values = await logits.read()
  logits.dispose()
  return values
}

describe('modules', () => {
  afterEach(() => setDevice(reference))

  it("have the names and shapes of labml's state dict", () => {
    const before = reference.bytesInUse()
    const { tensors } = readSafetensors(readFileSync(new URL('test/golden/fast_weights_transformer.safetensors', root)))
    const expected = [...tensors]
      .filter(([name]) => name.startsWith('param.'))
      .map(([name, { shape }]) => [name.slice('param.'.length), shape])
    const model = new Transformer(labml)
    const actual = [...model.namedParameters()].map(([name, { shape }]) => [name, shape])
    assert.deepEqual(Object.fromEntries(actual), Object.fromEntries(expected))
    assert.equal(
      model.parameterCount(),
      model.parameters().reduce((n, p) => n + p.size, 0),
    )
    model.dispose()
    assert.equal(reference.bytesInUse(), before)
  })

  it("have initial values within PyTorch's bounds, and fill them", async () => {
    const model = new Transformer({ ...labml, conv: 4, headNorm: true })
    const dict = await model.stateDict()
    for (const [name, { shape, data: values }] of dict) {
      const data = Array.from(values)
      const mean = data.reduce((a, b) => a + b, 0) / data.length
      const std = Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / data.length)
      if (name === 'src_embed.weight') assert.ok(Math.abs(std - 1) < 0.1 && Math.abs(mean) < 0.1, `${name}: ${mean} +- ${std}`)
      else if (name.includes('norm'))
        assert.ok(
          data.every((x) => x === (name.endsWith('weight') ? 1 : 0)),
          name,
        )
      else {
        // Linear layers and convolutions: U(-1/sqrt(n), 1/sqrt(n)), n inputs each; a bias has its weight's bound.
        const inputs = (dict.get(name.replace(/bias$/, 'weight')) ?? { shape }).shape[1]
        const bound = 1 / Math.sqrt(inputs)
        const largest = Math.max(...data.map(Math.abs))
        assert.ok(largest <= bound && largest > 0.8 * bound, `${name}: ${largest}, bound ${bound}`)
        if (data.length >= 128) assert.ok(Math.abs(std / (bound / Math.sqrt(3)) - 1) < 0.15, `${name}: std ${std}, bound ${bound}`)
      }
    }
    model.dispose()
  })

  it('start alike from a seed on every device, and differently from another', async () => {
    const a = new Transformer(labml, 5)
    const b = new Transformer(labml, 6)
    const [x, y] = await Promise.all([a, b].map((model) => model.src_embed.weight.read()))
    assert.notDeepEqual(x, y)
    for (const device of [await wasm(), ...(await gpus())]) {
      setDevice(device)
      const c = new Transformer(labml, 5)
      assertClose(await c.src_embed.weight.read(), x, 1e-6)
      c.dispose()
    }
    for (const model of [a, b]) model.dispose()
  })

  it('draw other numbers than a generator of the same seed', async () => {
    const model = new Transformer(labml, 5)
    const first = await model.src_embed.weight.read()
    const g = generator(5)
    for (let stream = 0; stream < 100; stream++) {
      const own = normal(g, model.src_embed.weight.shape)
      assert.notDeepEqual(await own.read(), first)
      own.dispose()
    }
    assert.ok(model.random.stream > 2 ** 20 && model.random.stream < 2 ** 31)
    model.dispose()
  })

  for (const [name, config] of Object.entries(architectures))
    it(`come back from safetensors bit for bit: ${name}`, async () => {
      for (const device of [reference, await wasm(), ...(few.has(name) ? await gpus() : [])]) {
        setDevice(device)
        const before = device.bytesInUse()
        const model = new Transformer(config, 1)
        const dict = await model.stateDict()
        const file = writeSafetensors(dict)
        assert.equal(dict.get('generator.bias')?.dtype, device.double ? 'F64' : 'F32')
        const other = new Transformer(config, 2)
        other.loadStateDict(readSafetensors(file).tensors)
        for (const [key, { data }] of await other.stateDict()) assertSameBits(data, dict.get(key)!.data, key)
        assert.deepEqual(await logitsOf(other), await logitsOf(model))
        model.dispose()
        other.dispose()
        assert.equal(device.bytesInUse(), before)
      }
    })

  it('refuse a state dict that does not fit, and are not changed by it', async () => {
    const model = new Transformer(labml)
    const dict = await model.stateDict()
    const data = dict.get('generator.bias')!.data
    const wrong = (change: (dict: Map<string, unknown>) => void, message: RegExp, options?: { strict: boolean }) => {
      const changed = new Map<string, unknown>([...dict].map(([name, entry]) => [name, { ...entry, data: entry.data.map(() => 7) }]))
      change(changed)
      assert.throws(() => model.loadStateDict(changed as never, options), { message })
    }
    wrong((d) => d.delete('generator.bias'), /^loadStateDict: the state dict lacks generator\.bias$/)
    wrong((d) => d.clear(), /lacks src_embed\.weight, .*, \.\.\. \(\d+\)$/)
    wrong((d) => d.set('more', { shape: [1], data: [1] }), /^loadStateDict: the model has no parameter more$/)
    wrong(
      (d) => d.set('generator.bias', { shape: [64], data: new Float32Array(64) }),
      /generator\.bias has shape \[64\], the model expects \[65\]$/,
    )
    wrong((d) => d.set('generator.bias', { shape: [65], data: new Float32Array(64) }), /generator\.bias has 64 values for shape \[65\]$/)
    wrong(
      (d) => d.set('generator.bias', { shape: [65], data: new BigInt64Array(65) }),
      /generator\.bias is a BigInt64Array, not floating-point numbers$/,
    )
    wrong(
      (d) => d.set('generator.bias', { shape: [65], data: new Uint8Array(65) }),
      /generator\.bias is a Uint8Array, not floating-point numbers$/,
    )
    wrong((d) => d.delete('generator.bias'), /lacks/, { strict: false })
    for (const [name, entry] of await model.stateDict()) assertSameBits(entry.data, dict.get(name)!.data, name)
    const more = new Map<string, { shape: readonly number[]; data: ArrayLike<number> }>(dict)
    more.set('more', { shape: [1], data: [1] }).set('generator.bias', { shape: [65], data: Array.from(data, (x) => x + 1) })
    model.loadStateDict(more, { strict: false })
    assert.deepEqual(
      Array.from(await model.generator.bias!.read()),
      Array.from(data, (x) => x + 1),
    )
    model.dispose()
  })

  it('say which prefix the names of a state dict have, and take it off or put it on', async () => {
    const model = new Transformer(labml)
    const dict = await model.stateDict()
    const n = dict.size
    const sevens = new Map([...dict].map(([name, entry]) => [name, { ...entry, data: entry.data.map(() => 7) }]))
    type Saved = typeof sevens
    const renamed = (...prefixes: string[]): Saved =>
      new Map([...sevens].flatMap(([name, entry]) => prefixes.map((prefix) => [prefix + name, entry] as const)))
    const refuses = (saved: Saved, begin: string, end: string, options = {}, owner: Module = model) =>
      assert.throws(
        () => owner.loadStateDict(saved, options),
        ({ message }: Error) => {
          assert.ok(message.startsWith(`loadStateDict: the state dict ${begin}`) && message.endsWith(end), message)
          return true
        },
      )
    const loads = async (saved: Saved, options: object, owner: Module = model) => {
      owner.loadStateDict(saved, options)
      for (const [name, { data }] of await model.stateDict())
        assert.ok(
          data.every((x) => x === 7),
          name,
        )
      model.loadStateDict(dict)
    }
    const lacks = `lacks ${[...dict.keys()].slice(0, 3).join(', ')}, ... (${n})`

    for (const prefix of ['_orig_mod.', 'module.', 'model.', 'module._orig_mod.', 'net.0.inner.', '__proto__.']) {
      const saved = renamed(prefix)
      const advice = `; with '${prefix}' taken off its names, ${n} of the model's ${n} are there: give { prefix: '${prefix}' }`
      refuses(saved, lacks, `(${n})${advice}`)
      refuses(saved, lacks, advice, { strict: false })
      refuses(saved, lacks, advice, { prefix: 'x.' })
      refuses(saved, lacks.slice(0, 6), advice, { prefix: prefix.slice(0, -1) })
      await loads(saved, { prefix })
    }

    // All but few.
    const most = renamed('module.')
    most.delete('module.generator.bias')
    most.set('generator.bias', sevens.get('generator.bias')!)
    const advice = `; with 'module.' taken off its names, ${n} of the model's ${n} are there: give { prefix: 'module.' }`
    refuses(most, lacks.slice(0, 40), advice)
    await loads(most, { prefix: 'module.' })
    most.delete('generator.bias')
    const less = advice.replace(`${n}`, `${n - 1}`)
    refuses(most, lacks.slice(0, 40), less)
    refuses(most, 'lacks generator.bias', less, { prefix: 'module.' })
    const more = renamed('model.').set('head.weight', sevens.get('generator.bias')!)
    refuses(more, lacks, `${n} of the model's ${n} are there: give { prefix: 'model.', strict: false }`)
    await loads(more, { prefix: 'model.', strict: false })

    // The model has the prefix, and the state dict hasn't.
    const inner: Saved = new Map(
      [...sevens].flatMap(([name, e]) => (name.startsWith('transformer.') ? [[name.slice(12), e] as const] : [])),
    )
    refuses(
      inner,
      'lacks',
      `; with 'transformer.' put before its names, ${inner.size} of the model's ${n} are there: give { addPrefix: 'transformer.' }`,
    )
    const wrapped = new (class extends Module {
      model = model
    })()
    refuses(
      sevens,
      'lacks model.',
      `; with 'model.' put before its names, ${n} of the model's ${n} are there: give { addPrefix: 'model.' }`,
      {},
      wrapped,
    )
    await loads(sevens, { addPrefix: 'model.' }, wrapped)
    await loads(renamed('module.'), { prefix: 'module.', addPrefix: 'model.' }, wrapped)

    // Where the names fit but for one, or two prefixes fit as well, none is told.
    const moments = renamed('', 'optimizer.m.', 'optimizer.v.')
    moments.delete('generator.bias')
    refuses(moments, 'lacks generator.bias', 'lacks generator.bias')
    const twice = renamed('param.', 'grad.')
    refuses(twice, lacks, lacks)
    await loads(twice, { prefix: 'param.', strict: false })
    const averaged = renamed('ema.')
    for (const [name, entry] of dict) averaged.set(name, entry)
    const both = `has ${[...dict.keys()].slice(0, 3).join(', ')}, ... (${n}) with and without the prefix 'ema.'`
    refuses(averaged, both, both, { prefix: 'ema.' })
    await loads(averaged, { prefix: 'ema.', strict: false })
    refuses(renamed('module.', 'module.optimizer.m.'), lacks, "give { prefix: 'module.', strict: false }")

    for (const [name, entry] of await model.stateDict()) assertSameBits(entry.data, dict.get(name)!.data, name)
    model.dispose()
  })

  it('show the names of a stranger without their control codes, and take no time for long ones', () => {
    const model = new Linear(2, 3, generator(1))
    const entry = { shape: [1], data: [1] }
    const dict = new Map<string, { shape: readonly number[]; data: ArrayLike<number> }>([
      ['weight', { shape: [3, 2], data: [1, 2, 3, 4, 5, 6] }],
      ['bias', { shape: [3], data: [1, 2, 3] }],
      ['a\n\u001b[31m\u009b', entry],
      ['.'.repeat(1e6), entry],
      ['b'.repeat(1e6), entry],
    ])
    assert.throws(
      () => model.loadStateDict(dict, { prefix: '' }),
      ({ message }: Error) => {
        assert.match(message, /^loadStateDict: the model has no parameter a\\n\\u001b\[31m\\u009b, \.+…, b+…$/)
        return true
      },
    )
    assert.throws(() => model.loadStateDict(new Map([...dict].slice(2))), { message: 'loadStateDict: the state dict lacks weight, bias' })
    model.dispose()
  })

  it('load a file in which a tensor they lack is of a dtype that is not read, and refuse one of theirs', async () => {
    const model = new Linear(2, 3, generator(1))
    const dict = await model.stateDict()
    const float8 = new PackedEntry('scales', 'F8_E4M3', [3, 2], new Uint8Array(6))
    const file = readSafetensors(writeSafetensors([...dict, ['scales', float8]]))
    model.loadStateDict(file.tensors, { strict: false })
    const quantised = readSafetensors(writeSafetensors(new Map<string, SafetensorsEntry>(dict).set('weight', float8)))
    assert.throws(() => model.loadStateDict(quantised.tensors), { message: /^safetensors: tensor 'weight': F8_E4M3 isn't read as numbers/ })
    assertSameBits((await model.stateDict()).get('weight')!.data, dict.get('weight')!.data, 'weight')
    model.dispose()
  })

  it('keep what is frozen, leave out what is no parameter, and count what is shared once', async () => {
    const before = reference.bytesInUse()
    class Part extends Module {
      weight = parameter(tensor([1, 2, 3]))
      parent: Module | null = null
      seen: Tensor | null = null
    }
    class Whole extends Module {
      first = new Part()
      second = new Part()
      again = this.second
      tied = this.first.weight
    }
    const whole = new Whole()
    whole.first.parent = whole
    whole.second.parent = whole
    const names = ['first.weight', 'second.weight', 'again.weight', 'tied']
    assert.deepEqual([...whole.namedParameters().keys()], names)
    whole.first.seen = mul(whole.first.weight, 2)
    whole.second.seen = tensor([1], { requiresGrad: true })
    whole.first.weight.requiresGrad = false
    assert.deepEqual([...whole.namedParameters().keys()], names)
    assert.deepEqual(whole.parameters(), [whole.first.weight, whole.second.weight])
    assert.equal(whole.parameterCount(), 6)
    assert.deepEqual([...(await whole.stateDict()).keys()], names)
    whole.eval()
    assert.deepEqual([whole.training, whole.first.training, whole.second.training], [false, false, false])
    for (const part of [whole.first, whole.second]) part.seen?.dispose()
    whole.dispose()
    assert.equal(reference.bytesInUse(), before)
  })

  it('take a state dict in which both names of a shared parameter say the same, and change nothing if they do not', async () => {
    class Tied extends Module {
      embed = new Embedding(3, 2, generator(1))
      head = new Linear(2, 3, generator(2), { bias: false })
      // The same memory by another tensor.
      view = parameter(detach(this.embed.weight))
      constructor() {
        super()
        this.head.weight.dispose()
        this.head.weight = this.embed.weight
      }
    }
    const tied = new Tied()
    const names = ['embed.weight', 'head.weight', 'view']
    assert.deepEqual([...tied.namedParameters().keys()], names)
    const dict = (...values: number[][]) => new Map(values.map((data, i) => [names[i], { shape: [3, 2], data: Float64Array.from(data) }]))
    const good = [1, -0, NaN, 4, Infinity, 6]
    tied.loadStateDict(
      dict(
        good,
        good.map((x) => x + 0),
        good,
      ),
    )
    assert.deepEqual(Array.from(await tied.head.weight.read()), good)
    for (const [at, name] of [
      [1, 'head.weight'],
      [2, 'view'],
    ] as const) {
      const values = [good, good, good].map((data) => [...data])
      values[at][3] = 5
      assert.throws(() => tied.loadStateDict(dict(...values)), {
        message: `loadStateDict: embed.weight and ${name} are one parameter, but what was saved of them differs: 4 and 5 at 3`,
      })
      values[at][3] = NaN
      assert.throws(() => tied.loadStateDict(dict(...values)), /are one parameter, .* differs: 4 and NaN at 3$/)
    }
    assert.deepEqual(Array.from(await tied.embed.weight.read()), good)
    // What an optimiser keeps of it goes by the first name.
    const optimizer = new Adam(new Map([...tied.namedParameters()].slice(0, 2)), { lr: 1 })
    assert.deepEqual([...optimizer.moments().keys()], ['m.embed.weight', 'v.embed.weight'])
    optimizer.dispose()
    assert.throws(
      () => tied.loadStateDict({} as never),
      /^Error: loadStateDict: needs a Map from names to \{ shape, data \}, .* not an object$/,
    )
    assert.throws(
      () => tied.loadStateDict(dict(good, good, good), { Strict: false } as never),
      /^Error: loadStateDict: unknown option 'Strict' \(strict, prefix, addPrefix\)$/,
    )
    tied.dispose()
  })

  it('drop in training only, another mask each time, and count the streams', async () => {
    const model = new Transformer({ ...labml, dropout: 0.5, layers: 1 })
    const stream = model.random.stream
    model.eval()
    const quiet = await logitsOf(model)
    assert.deepEqual(await logitsOf(model), quiet)
    assert.equal(model.random.stream, stream)
    model.train()
    const first = await logitsOf(model)
    const taken = model.random.stream - stream
    assert.equal(taken, 3) // after attention, inside and after the feed-forward layers
    assert.notDeepEqual(first, quiet)
    assert.notDeepEqual(await logitsOf(model), first)
    model.random.stream = stream
    assert.deepEqual(await logitsOf(model), first)
    assert.deepEqual(await logitsOf(model.eval()), quiet)
    model.dispose()
  })

  it('may give logits by the embedding, which is one parameter then, with the gradients of both', async () => {
    const sizes = { ...labml, layers: 1, tie: true }
    const [tied, free] = [new Transformer(sizes), new Transformer({ ...sizes, tie: false })]
    assert.equal(tied.parameterCount(), free.parameterCount() - 65 * 32)
    assert.equal(tied.parameters().length, free.parameters().length - 1)
    free.loadStateDict(await tied.stateDict())
    assert.deepEqual(await logitsOf(tied), await logitsOf(free))
    const tokens = tensor([1, 2, 64, 2, 5, 7], { shape: [2, 3], dtype: 'int32' })
    for (const model of [tied, free]) scope(() => crossEntropy(model.forward(tokens).logits, tokens).backward())
    const [a, b] = await Promise.all([free.src_embed.weight, free.generator.weight].map(async ({ grad }) => Array.from(await grad!.read())))
    assertClose(
      await tied.src_embed.weight.grad!.read(),
      a.map((x, i) => x + b[i]),
      1e-12,
    )
    const trainer = new Trainer(tied, new AdamW(tied.namedParameters(), { lr: 1e-2 }), { schedule: constant(1e-2), clipNorm: 1 })
    const batch = { tokens: Int32Array.of(1, 2, 3, 4), targets: Int32Array.of(2, 3, 4, 5), B: 1, T: 4 }
    trainer.optimizer.zeroGrad()
    await trainer.step(batch)
    const checkpoint = readCheckpoint(await writeCheckpoint(tied, trainer.optimizer))
    const again = modelOf(checkpoint)
    const resumed = new Trainer(again, new AdamW(again.namedParameters(), { lr: 1e-2 }), { schedule: constant(1e-2), clipNorm: 1 })
    restoreOptimizer(resumed.optimizer, checkpoint)
    assert.deepEqual(await resumed.step(batch), await trainer.step(batch))
    assert.equal(again.generator.weight, again.src_embed.weight)
  })

  it('refuse configurations that make no sense', () => {
    const before = reference.bytesInUse()
    const refused = (change: object, message: RegExp) => assert.throws(() => new Transformer({ ...labml, ...change }), { message })
    refused({ heads: 5 }, /^5 heads don't divide dModel = 32$/)
    for (const value of [0, -1, 1.5, NaN])
      for (const name of ['symbols', 'layers', 'dFf', 'dModel', 'heads']) refused({ [name]: value }, /must be a positive integer/)
    for (const nu of [0, 1.5, 16, NaN]) refused({ nu }, /^nu must be an integer from 1 to 2 K - 1 = 15 for/)
    for (const chunk of [0, 1.5, NaN]) refused({ chunk }, /^chunk must be a positive integer/)
    for (const embeddingStd of [-1, NaN, Infinity]) refused({ embeddingStd }, /^embeddingStd must be 0 or more/)
    refused({ attention: 'softmax', heads: 5 }, /^5 heads don't divide dModel = 32$/)
    refused({ conv: -1 }, /^conv must be a number of taps/)
    refused({ dropout: 1 }, /^Dropout: the probability must be in \[0, 1\), not 1$/)
    refused({ normalise: true }, /^unknown option 'normalise' \(symbols, featureMap, /)
    refused({ dropout: '0.1' }, /^Dropout: the probability must be a number, not the text '0.1'$/)
    refused({ embeddingStd: '1' }, /^embeddingStd must be a number, not the text '1'$/)
    refused({ layers: '2' }, /^layers must be a number, not the text '2'$/)
    for (const name of ['attentionNorm', 'headNorm', 'hedgehogShared', 'tie'])
      refused({ featureMap: 'hedgehog', [name]: 'false' }, new RegExp(`^${name} must be true or false, not the text 'false'$`))
    refused({ attention: 'softmax', rule: 'sum' }, /^rule = sum means nothing here: it belongs to fast-weights attention$/)
    for (const [name, message] of [
      ['featureMap', /^unknown feature map/],
      ['featureNorm', /^unknown feature norm/],
      ['norm', /^unknown norm/],
      ['activation', /^unknown activation/],
      ['attention', /^unknown attention/],
      ['positions', /^unknown positions/],
      ['rule', /^unknown rule/],
      ['valueMap', /^unknown value map/],
    ] as const)
      for (const value of ['nonsense', 'constructor', '__proto__']) refused({ [name]: value }, message)
    assert.throws(() => new Transformer(labml, -1), /seed/)
    assert.equal(reference.bytesInUse(), before)
  })

  it('take a setting that is undefined for one that is left out', () => {
    const sizes = { dModel: 8, heads: 2 }
    const { config } = new Transformer({ symbols: 3, layers: 1, dFf: 8, ...sizes, dropout: undefined, rule: undefined, mixer: undefined })
    assert.deepEqual(config, new Transformer({ symbols: 3, layers: 1, dFf: 8, ...sizes }).config)
    const mixed = new Transformer({ symbols: 3, layers: 1, dFf: 8, ...sizes, mixer: { kind: 'recurrent-net', net: undefined } })
    assert.deepEqual(mixed.config.mixer, new Transformer({ symbols: 3, layers: 1, dFf: 8, ...sizes, mixer: 'recurrent-net' }).config.mixer)
    const pairs = { symbols: 3, encoderLayers: 1, decoderLayers: 1, dFf: 8, ...sizes }
    assert.deepEqual(new EncoderDecoder({ ...pairs, sourceSymbols: undefined }).config, new EncoderDecoder(pairs).config)
    const layers: [make: new (config: never, g: Generator) => Module, config: object, undefined: string][] = [
      [FastWeightsAttention, sizes, 'featureMap'],
      [Aft, { dModel: 8, form: 'simple' }, 'projectionBias'],
      [RecurrentNet, sizes, 'net'],
      [SoftmaxAttention, sizes, 'window'],
      [CrossAttention, sizes, 'rule'],
      [MemoryLayer, { dModel: 8, heads: 2, keyWidth: 4, valueWidth: 4 }, 'rule'],
      [LatentAttention, { dModel: 8 }, 'rank'],
      [MambaLayer, { dModel: 8 }, 'conv'],
      [Mamba2Layer, { dModel: 8 }, 'groups'],
      [RwkvTimeMix, { dModel: 64, version: 7 }, 'heads'],
      [Experts, { dModel: 8 }, 'experts'],
    ]
    for (const [Layer, config, name] of layers) {
      const [left, said] = [config, { ...config, [name]: undefined }].map((c) => {
        const { config, options } = new Layer(c as never, generator(1)) as unknown as Record<string, Record<string, unknown>>
        return config ?? options
      })
      assert.notEqual(left[name], undefined, `${Layer.name}: ${name}`)
      assert.deepEqual(said, left, `${Layer.name}: ${name}`)
    }
  })

  it('refuse arguments of no use in one line', () => {
    const model = new Transformer({ ...labml, layers: 1 })
    const { attn } = model.transformer.layers[0]
    const tokens = tensor([1, 2], { shape: [1, 2], dtype: 'int32' })
    const x = tensor(new Float32Array(64), { shape: [1, 2, 32] })
    const q = tensor([1, 2, 3, 4], { shape: [1, 2, 1, 2] })
    const calls: [call: (bad: never) => unknown, message: RegExp][] = [
      [(bad) => model.forward(bad), /^forward: needs int32 indices \(.*\), not /],
      [(bad) => model.forward(tokens, bad), /^forward: the state must be what forward or initialState returned, not /],
      [(bad) => model.forward(tokens, undefined, bad), /^the options must be an object, not /],
      [(bad) => attn.forward(bad), /^attention: needs a float32 tensor, not /],
      [(bad) => attn.forward(x, bad), /^attention: the options must be an object|^attention: the state /],
      [(bad) => attn.forward(x, undefined, bad), /^the options must be an object, not /],
      [(bad) => model.generator.forward(bad), /^matmul: needs a float32 tensor, not /],
      [(bad) => model.generator.forward(x, bad), /^Linear: the options must be an object such as \{ activation: \.\.\. \}, not /],
      [(bad) => model.src_embed.forward(bad), /^gather: needs int32 indices/],
      [(bad) => model.loadStateDict(bad), /^loadStateDict: needs a Map from names/],
      [(bad) => new Linear(1, 1, bad), /^uniform: needs a generator, such as generator\(1\), not /],
      [(bad) => new Linear(1, 1, generator(1), bad), /^Linear: the options must be an object/],
      [(bad) => new Linear(1, 1, generator(1), { Bias: bad } as never), /^Linear: unknown option 'Bias' \(bias\)$/],
      [(bad) => new RMSNorm(2, 1e-6, { bias: bad } as never), /^RMSNorm: unknown option 'bias' \(centered\)$/],
      [(bad) => new LayerNorm(2, 1e-6, { centered: bad } as never), /^LayerNorm: unknown option 'centered' \(bias\)$/],
      [(bad) => new HeadNorm(2, 2, { bias: bad } as never), /^HeadNorm: unknown option 'bias' \(eps, all, gain, centered\)$/],
      [
        (bad) => new FeedForward(1, 1, generator(1), { drop: bad } as never),
        /^FeedForward: unknown option 'drop' \(activation, dropout, bias\)$/,
      ],
      [(bad) => model.generator.forward(x, { bias: bad } as never), /^Linear: unknown option 'bias' \(activation, accumulate\)$/],
      [(bad) => new Dropout(0.5, bad), /^Dropout: needs a generator/],
      [(bad) => new FeedForward(1, 1, generator(1), bad), /^FeedForward: the options must be an object/],
      [(bad) => rotary(bad, Int32Array.of(0, 1)), /^rotary: needs a float32 tensor, not /],
      [(bad) => rotary(q, bad), /^rotary: the positions must be an Int32Array of 1 x 2, not /],
      [(bad) => retention(bad, q), /^retention: heads must be a /],
      [(bad) => retention(2, bad), /^retention: needs a tensor, not /],
      [(bad) => hedgehog(q, bad), /^hedgehog: needs a float32 tensor/],
      [(bad) => taylor2(bad), /^taylor2: needs a float32 tensor/],
      [(bad) => favor(q, q, bad), /^favor: eps must be a number, not /],
      [(bad) => orthogonalRows(bad, 2, 1, 1), /^orthogonalRows: m must be a number, not /],
      [(bad) => sample([1, 2], bad, 0, 0.5), /^sample: temperature must be a number, not /],
      [(bad) => resetRows(initialState(model, 1), bad), /^resetRows: the rows must be an array of flags|^resetRows: .* flags are for/],
      [(bad) => initialState(model, bad), /^initialState: the number of rows must be a number, not /],
    ]
    for (const [call, message] of calls)
      for (const bad of ['2', null, 2n, true, Symbol('s')]) {
        // Where nothing may be given, null may be, too.
        if (bad === null && /the state must/.test(message.source)) continue
        assert.throws(() => scope(() => call(bad as never)), { name: 'Error', message }, `${String(bad)}: ${message}`)
      }
    assert.throws(() => attn.forward(tensor(new Float32Array(64), { shape: [2, 32] })), {
      message: 'attention: x has shape [2,32], expected [B,T,32]',
    })
    assert.throws(() => attn.forward(tensor(new Float32Array(8), { shape: [1, 2, 4] })), {
      message: 'attention: x has shape [1,2,4], expected [B=1,T=2,32]',
    })
    assert.throws(() => rotary(q, new Int32Array(3)), { message: 'rotary: the positions must be an Int32Array of 1 x 2, not 3' })
    model.dispose()
  })

  it('hold an attention whose parts can be used alone', async () => {
    const model = new Transformer(labml)
    const { attn } = model.transformer.layers[0]
    assert.equal((attn as FastWeightsAttention).config.heads, 4)
    const x = tensor(
      Array.from({ length: 2 * 3 * 32 }, (_, i) => Math.sin(i)),
      { shape: [2, 3, 32] },
    )
    const { y } = scope(() => noGrad(() => attn.forward(x)))
    assert.deepEqual(y.shape, [2, 3, 32])
    y.dispose()
    x.dispose()
    model.dispose()
  })
})
