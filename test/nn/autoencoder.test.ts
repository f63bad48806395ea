/** The autoencoder: gradients are those of finite differences, devices agree with the reference, and nothing but the last output is known. */
import assert from 'node:assert/strict'
import { type Device, gradCheck, noGrad, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import { AdamW, Autoencoder, modelOf, readCheckpoint, type TransformerConfig, writeCheckpoint } from '../../nn/index.ts'
import { assertClose, gpus, readAndFree, reference, uniforms, wasm } from '../helpers.ts'
import { put } from './layers.ts'

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
      const parameters = model.parameters().map((p) => ({
        p,
        paths: [...model.namedParameters()].filter(([, other]) => other === p).map(([path]) => path),
      }))
      for (const [i, { p }] of parameters.entries()) {
        const noise = uniforms(50 + i, p.size, -0.3, 0.3)
        p.write((await p.read()).map((x, j) => x + noise[j]))
      }
      const values = await Promise.all(parameters.map(async ({ p }) => tensor(await p.read(), { shape: p.shape })))
      await gradCheck((...inputs) => {
        for (const [i, { paths }] of parameters.entries()) for (const path of paths) put(model, path, inputs[i])
        return model.loss(batch)
      }, values)
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
    const [one, other] = [await logitsOf(model, row.slice(0, 4)), await logitsOf(model, [2, ...row.slice(1, 4)])]
    assert.equal(one.length, 4 * 5)
    for (let t = 0; t < 4; t++) {
      const at = (all: number[]): number[] => all.slice(5 * t, 5 * t + 5)
      assert.notDeepEqual(at(one), at(other), `place ${t}`)
      if (t > 0) assert.notDeepEqual(at(one), at(one.slice(0, 5)), `place ${t} is as place 0`)
    }
    // With an encoder that gives nothing.
    const { norm } = model.encoder.transformer
    for (const p of norm.parameters()) p.write(new Float32Array(p.size))
    assert.deepEqual(await logitsOf(model, row.slice(0, 4)), await logitsOf(model, row.slice(4)))
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
