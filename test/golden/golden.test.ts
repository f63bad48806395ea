/**
 * labml's own PyTorch modules, reproduced: outputs, every gradient, the loss, and a training run. The figures are in this folder;
 * what each file holds is in its metadata. labml's layout is [T,B,...], ours [B,T,...].
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import {
  crossEntropy,
  type Device,
  generator,
  permute,
  referenceDevice,
  setDevice,
  type Tensor,
  tensor,
  wasmDevice,
} from '../../engine/index.ts'
import { FastWeightsAttention, readSafetensors, type StateDict, Transformer } from '../../nn/index.ts'

const root = new URL('../../../', import.meta.url)
const load = (name: string) => readSafetensors(readFileSync(new URL(`test/golden/${name}.safetensors`, root)))
const under = (tensors: StateDict, prefix: string): StateDict =>
  new Map([...tensors].filter(([name]) => name.startsWith(prefix)).map(([name, entry]) => [name.slice(prefix.length), entry]))

/** max |actual - expected| relative to max |expected|. */
function relative(actual: ArrayLike<number>, expected: ArrayLike<number | bigint>): number {
  let error = 0
  let largest = 0
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs(actual[i] - Number(expected[i])))
    largest = Math.max(largest, Math.abs(Number(expected[i])))
  }
  assert.equal(actual.length, expected.length)
  return error / largest
}

const devices: [name: string, make: () => Device | Promise<Device>, bound: number][] = [
  ['reference', () => referenceDevice(), 1e-6],
  ['wasm, plain', () => wasmDevice({ relaxed: false }), 1e-5],
  ['wasm', () => wasmDevice(), 1e-5],
]

for (const [name, make, bound] of devices)
  describe(`labml's figures on ${name}`, () => {
    let device: Device
    before(async () => setDevice((device = await make())))
    after(() => {
      setDevice(referenceDevice())
      device.close()
    })

    async function gradientsMatch(parameters: ReadonlyMap<string, Tensor>, expected: StateDict): Promise<void> {
      const without = [...parameters].filter(([name]) => !expected.has(name)).map(([name]) => name)
      // The norm that labml constructs and never uses is the only parameter without a gradient.
      assert.ok(
        without.every((name) => name.includes('norm_self_attn')),
        `no expected gradient for ${without}`,
      )
      for (const [name, { data }] of expected) {
        const error = relative(await parameters.get(name)!.grad!.read(), data)
        assert.ok(error <= bound, `gradient of ${name}: ${error} > ${bound}`)
      }
    }

    for (const file of ['fast_weights_attention', 'fast_weights_attention_nu3'])
      it(file, async () => {
        const { tensors, metadata } = load(file)
        const config = { dModel: Number(metadata.d_model), heads: Number(metadata.heads), nu: Number(metadata.nu) }
        const model = new FastWeightsAttention(config, generator(1))
        model.loadStateDict(under(tensors, 'param.'))
        const get = (name: string) => tensors.get(name) as { shape: number[]; data: Float32Array }
        const x = tensor(get('x').data, { shape: get('x').shape, requiresGrad: true })
        const y = permute(model.forward(permute(x, [1, 0, 2])).y, [1, 0, 2])
        y.backward(tensor(get('dy').data, { shape: y.shape }))
        for (const [what, error] of [
          ['y', relative(await y.read(), get('y').data)],
          ['dx', relative(await x.grad!.read(), get('dx').data)],
        ] as const)
          assert.ok(error <= bound, `${what}: ${error} > ${bound}`)
        await gradientsMatch(model.namedParameters(), under(tensors, 'grad.'))
      })

    it('fast_weights_transformer', async () => {
      const { tensors, metadata: m } = load('fast_weights_transformer')
      const model = new Transformer({
        symbols: Number(m.vocab),
        dModel: Number(m.d_model),
        heads: Number(m.heads),
        layers: Number(m.layers),
        dFf: Number(m.d_ff),
        nu: Number(m.nu),
      })
      model.loadStateDict(under(tensors, 'param.'))
      const batchFirst = (name: string): Tensor => {
        const {
          shape: [T, B],
          data,
        } = tensors.get(name)!
        return tensor(
          Int32Array.from({ length: B * T }, (_, i) => Number(data[(i % T) * B + Math.floor(i / T)])),
          { shape: [B, T] },
        )
      }
      const { logits } = model.forward(batchFirst('tokens'))
      const loss = crossEntropy(logits, batchFirst('targets'))
      loss.backward()
      const error = relative(await permute(logits, [1, 0, 2]).read(), tensors.get('logits')!.data)
      assert.ok(error <= bound, `logits: ${error} > ${bound}`)
      const lossError = relative([await loss.item()], tensors.get('loss')!.data)
      assert.ok(lossError <= bound, `loss: ${lossError} > ${bound}`)
      await gradientsMatch(model.namedParameters(), under(tensors, 'grad.'))
    })
  })
