/** What takes long stops where its signal says so: with the signal's reason, at once or on the way, and without a trace. */
import assert from 'node:assert/strict'
import { check, claims, Devices } from '../../claims/index.ts'
import { type Device, type Stoppable, setDevice, tensor } from '../../engine/index.ts'
import { stopper } from '../../engine/signal.ts'
import { AdamW, beamSearch, constant, EncoderDecoder, generate, generateBatch, greedy, Trainer, Transformer } from '../../nn/index.ts'
import { answers, perplexity } from '../../tasks/index.ts'
import { reference, wasm } from '../helpers.ts'
import { architectures, randomBatch, randomTokens } from './models.ts'

const forever = 1_000_000
const symbols = 5

/** What goes on for far longer than a test may, each with a model of its own on the default device. */
const calls: Record<string, () => { run(stoppable: Stoppable): Promise<unknown>; dispose(): void }> = {
  ...Object.fromEntries(
    ['default', 'softmax, rotary'].map((name) => [
      `generate, ${name}`,
      () => {
        const model = new Transformer(architectures[name])
        const run = async (stoppable: Stoppable) => {
          for await (const token of generate(model, randomTokens(1, 5), { length: forever, ...stoppable })) assert.ok(token < forever)
        }
        return { run, dispose: () => model.dispose() }
      },
    ]),
  ),
  generateBatch: () => {
    const model = new Transformer(architectures.default)
    const prompts = [3, 5].map((length) => randomTokens(length, length))
    const run = async (stoppable: Stoppable) => {
      for await (const tokens of generateBatch(model, prompts, { length: forever, ...stoppable })) assert.equal(tokens.length, 2)
    }
    return { run, dispose: () => model.dispose() }
  },
  'greedy and answers': () => {
    const model = new EncoderDecoder({ symbols: symbols + 2, dModel: 8, heads: 2, encoderLayers: 1, decoderLayers: 1, dFf: 8 })
    const [begin, end] = [symbols, symbols + 1]
    // None of its targets ends.
    const weight = model.generator.weight
    const bias = model.generator.bias!
    bias.write(Float32Array.from({ length: symbols + 2 }, (_, i) => (i === end ? -1e6 : 0)))
    assert.equal(weight.shape[0], symbols + 2)
    const source = tensor([1, 2, 3], { shape: [1, 3], dtype: 'int32' })
    const vocabulary = { size: symbols, symbols: 'abcde', encode: () => Int32Array.of(1, 2), decode: () => '' }
    const run = async (stoppable: Stoppable) => {
      const options = { length: forever, ...stoppable }
      await assert.rejects(greedy(model, source, { begin, end, ...options }), (error) => error === reason)
      return answers(model, ['ab'], { source: vocabulary, target: vocabulary, begin, end } as never, options)
    }
    return {
      run,
      dispose() {
        source.dispose()
        model.dispose()
      },
    }
  },
  perplexity: () => {
    const model = new Transformer(architectures.default)
    const tokens = randomTokens(1, forever)
    return { run: (stoppable) => perplexity(model, tokens, { T: 8, carry: true, ...stoppable }), dispose: () => model.dispose() }
  },
  evaluate: () => {
    const model = new Transformer(architectures.default)
    const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
    const batches = function* () {
      for (let i = 0; i < forever; i++) yield { ...randomBatch(i), count: 27 }
    }
    return {
      run: (stoppable) => trainer.evaluate(batches(), stoppable),
      dispose() {
        optimizer.dispose()
        model.dispose()
      },
    }
  },
}

const reason = new Error('enough')

describe('a signal', () => {
  let devices: Device[]
  before(async () => {
    devices = [reference, await wasm(), await wasm(2)]
  })
  afterEach(() => setDevice(reference))

  for (const [name, make] of Object.entries(calls))
    it(`stops ${name} on the way, and before it begins`, async () => {
      for (const device of devices) {
        setDevice(device)
        const { run, dispose } = make()
        const before = device.bytesInUse()
        for (const wait of [100, undefined]) {
          const controller = new AbortController()
          const abort = () => controller.abort(reason)
          // Nothing in these calls waits for anything but the device.
          if (wait === undefined) abort()
          else setTimeout(abort, wait)
          await assert.rejects(run({ signal: controller.signal }), (error) => error === reason, device.description)
          assert.equal(device.bytesInUse(), before, device.description)
        }
        dispose()
      }
    })

  it('stops the check of a claim', async () => {
    const devices = await Devices.open('reference')
    const controller = new AbortController()
    let cases = 0
    const onCase = () => {
      if (++cases === 3) controller.abort(reason)
    }
    // To make so many cases alone, and compare none, would take minutes.
    await assert.rejects(check(claims[0], devices, { runs: 1e8, onCase, signal: controller.signal }), (error) => error === reason)
    assert.equal(cases, 3)
  })

  it('has no source encoded where it is aborted before', async () => {
    const model = new EncoderDecoder({ symbols, dModel: 8, heads: 2, encoderLayers: 1, decoderLayers: 1, dFf: 8 })
    model.encode = () => assert.fail('it was')
    const source = tensor([1, 2], { shape: [1, 2], dtype: 'int32' })
    const options = { begin: 0, end: 1, length: 3, signal: AbortSignal.abort(reason) }
    await assert.rejects(greedy(model, source, options), (error) => error === reason)
    await assert.rejects(beamSearch(model, source, { ...options, beams: 2 }), (error) => error === reason)
    source.dispose()
    model.dispose()
  })

  it('comes before a generation of no tokens, and before an evaluation asks for a batch', async () => {
    const model = new Transformer(architectures.default)
    const signal = AbortSignal.abort(reason)
    const none = generate(model, randomTokens(1, 5), { length: 0, signal })
    await assert.rejects(none.next(), (error) => error === reason)
    const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
    const batches = {
      *[Symbol.iterator]() {
        yield assert.fail('it was asked')
      },
    }
    await assert.rejects(trainer.evaluate(batches, { signal }), (error) => error === reason)
    optimizer.dispose()
    model.dispose()
  })

  it('lets those tokens through that are there, and none after it', async () => {
    const model = new Transformer(architectures.default)
    const controller = new AbortController()
    const seen: number[] = []
    const generating = async () => {
      for await (const token of generate(model, randomTokens(1, 5), { length: 9, temperature: 0, signal: controller.signal }))
        if (seen.push(token) === 4) controller.abort(reason)
    }
    await assert.rejects(generating(), (error) => error === reason)
    assert.equal(seen.length, 4)
    model.dispose()
  })

  it('must be one', () => {
    for (const [signal, what] of [
      [new AbortController(), 'an AbortController'],
      [null, 'null'],
      [true, 'true'],
    ] as const)
      assert.throws(() => stopper('generate', { signal } as never), {
        message: `generate: the signal must be an AbortSignal, such as that of an AbortController, not ${what}`,
      })
  })
})
