/** The autoencoder: gradients are those of finite differences, devices agree with the reference, and nothing but the last output is known. */
import assert from 'node:assert/strict'
import { type Device, noGrad, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import {
  AdamW,
  Autoencoder,
  constant,
  generate,
  modelOf,
  readCheckpoint,
  Trainer,
  type TransformerConfig,
  writeCheckpoint,
} from '../../nn/index.ts'
import { assertClose, gpus, readAndFree, reference, wasm } from '../helpers.ts'
import { checkGradients } from './layers.ts'

const small = { symbols: 5, dModel: 4, heads: 2, layers: 1, dFf: 6, attentionNorm: true } as const
const encoders: Record<string, Partial<TransformerConfig>> = {
  delta: { mixer: 'delta', featureMap: 'elu1', norm: 'rms', tie: true },
  softmax: { mixer: 'softmax', positions: 'sinusoidal' },
}
const row = [1, 4, 2, 0, 3, 3, 1, 2]
const batch = { tokens: Int32Array.from(row), targets: Int32Array.from(row).fill(-1, 5, 6), B: 2, T: 4 }
const ints = (values: readonly number[], T: number): Tensor => tensor(values, { shape: [values.length / T, T], dtype: 'int32' })
const logitsOf = (model: Autoencoder, tokens: readonly number[], T = 4): Promise<number[]> =>
  readAndFree(scope(() => noGrad(() => model.forward(ints(tokens, T)).logits)))

describe('autoencoder', () => {
  afterEach(() => setDevice(reference))

  for (const [name, config] of Object.entries(encoders)) {
    it(`has the gradients of finite differences, of every parameter: ${name}`, async () => {
      const model = new Autoencoder({ ...small, ...config }, 3)
      await checkGradients(model, () => model.loss(batch))
    })

    it(`computes on each device what the reference does, gradients included: ${name}`, async () => {
      const devices: [Device, number][] = [[reference, 0], [await wasm(), 1e-5], ...(await gpus()).map((d): [Device, number] => [d, 1e-5])]
      const results: number[][] = []
      for (const [device, bound] of devices) {
        setDevice(device)
        const model = new Autoencoder({ ...small, ...config }, 2)
        model.loss(batch).backward()
        const found = await logitsOf(model, row)
        for (const p of model.parameters()) found.push(...(p.grad ? await p.grad.read() : assert.fail('no gradient')))
        results.push(found)
        assertClose(found, results[0], bound, 1, device.name)
        model.dispose()
      }
    })
  }

  it('knows of a sequence what the encoder gives after its last token, and nothing else', async () => {
    const model = new Autoencoder({ ...small, ...encoders.softmax }, 4)
    const places = async (...tokens: number[]): Promise<number[][]> => {
      const logits = await logitsOf(model, tokens)
      return tokens.map((_, t) => logits.slice(5 * t, 5 * t + 5))
    }
    const [one, other] = [await places(1, 4, 2, 0), await places(2, 4, 2, 0)]
    for (const [t, logits] of one.entries()) {
      assert.notDeepEqual(logits, other[t], `place ${t}`)
      if (t > 0) assert.notDeepEqual(logits, one[0], `place ${t} is as place 0`)
    }
    // Layers that read nothing from before: what comes after the last token is of this one alone.
    for (const p of model.encoder.transformer.layers[0].attn.parameters()) p.write(new Float32Array(p.size))
    const same = await places(1, 4, 2, 0)
    assert.deepEqual(await places(3, 1, 3, 0), same)
    for (const [t, logits] of (await places(1, 4, 2, 3)).entries()) assert.notDeepEqual(logits, same[t], `place ${t}`)
  })

  it('learns the same, bit for bit, from steps that are captured, of batches of several shapes', async () => {
    const learnt = async (capture: boolean): Promise<number[]> => {
      setDevice(await wasm())
      const model = new Autoencoder({ ...small, ...encoders.delta, dropout: 0.1 }, 6)
      const optimizer = new AdamW(model.namedParameters(), { lr: 0.01 })
      const trainer = new Trainer(model, optimizer, { schedule: constant(0.01), clipNorm: 1, capture })
      let passes = 0
      const { loss } = model
      model.loss = (given) => {
        passes++
        return loss.call(model, given)
      }
      const losses: number[] = []
      const lengths = [4, 4, 4, 4, 4, 4, 4, 2, 4, 8, 8, 8, 8, 8, 8]
      for (const [i, T] of lengths.entries()) {
        const tokens = Int32Array.from(row, (token) => (token + i) % 5)
        losses.push((await trainer.step({ tokens, targets: tokens, B: 8 / T, T })).loss)
      }
      // Two passes note a step.
      assert.equal(passes, capture ? 4 + 1 + 4 : lengths.length)
      losses.push(...(await logitsOf(model, row)))
      for (const part of [trainer, optimizer, model]) part.dispose()
      return losses
    }
    assert.deepEqual(await learnt(true), await learnt(false))
  })

  it('is no language model', async () => {
    const model = new Autoencoder({ ...small, ...encoders.delta })
    await assert.rejects(generate(model as never, Int32Array.from(row), { length: 2 }).next(), /must return \{ logits, state \}/)
  })

  it('is kept in checkpoints', async () => {
    const model = new Autoencoder({ ...small, ...encoders.delta }, 5)
    const optimizer = new AdamW(model.namedParameters(), { lr: 0.01 })
    const bytes = await writeCheckpoint(model, optimizer)
    const again = modelOf(readCheckpoint(bytes, 'autoencoder'))
    assert.deepEqual(again.config, model.config)
    assert.deepEqual(await logitsOf(again, row), await logitsOf(model, row))
    assert.throws(
      () => readCheckpoint(bytes),
      /holds a model of the kind "autoencoder", not "transformer": readCheckpoint\(bytes, 'autoencoder'\)/,
    )
  })
})
