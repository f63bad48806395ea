/**
 * labml's own PyTorch modules, reproduced: outputs, every gradient, the loss, and a training run. The figures are in this folder;
 * what each file holds is in its metadata. labml's layout is [T,B,...], ours [B,T,...].
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { crossEntropy, type Device, generator, permute, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import { FastWeightsAttention, loadOutside, readSafetensors, type StateDict, Transformer } from '../../nn/index.ts'
import { builds, reference, wasm, webgpu } from '../helpers.ts'

const root = new URL('../../../', import.meta.url)
const load = (name: string) => readSafetensors(readFileSync(new URL(`test/golden/${name}.safetensors`, root)))
const under = (tensors: StateDict, prefix: string): StateDict =>
  new Map([...tensors].filter(([name]) => name.startsWith(prefix)).map(([name, entry]) => [name.slice(prefix.length), entry]))

/** The largest error relative to the largest entry, and the root of the mean square error relative to that of the entries. */
function errorsOf(actual: ArrayLike<number>, expected: ArrayLike<number | bigint>): { largest: number; rms: number } {
  assert.equal(actual.length, expected.length)
  const of = Array.from(expected, Number)
  const errors = of.map((e, i) => Math.abs(actual[i] - e))
  const squares = (x: number[]): number => x.reduce((total, value) => total + value * value, 0)
  const most = (x: number[]): number => x.reduce((a, value) => Math.max(a, Math.abs(value)), 0)
  return { largest: most(errors) / most(of), rms: Math.sqrt(squares(errors) / squares(of)) }
}

/** `bound` holds for both measures. */
const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device>; bound: number }[] = [
  { name: 'reference', open: async () => reference, bound: 1e-6 },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(1, relaxed), bound: 1e-5 })),
  { name: 'webgpu', open: webgpu, bound: 1e-5 },
]

for (const { name, open, bound } of devices)
  describe(`labml's figures on ${name}`, () => {
    const worst = { output: { largest: 0, rms: 0 }, gradient: { largest: 0, rms: 0 } }
    before(async function () {
      setDevice(await open(this))
    })
    after(() => {
      setDevice(reference)
      for (const [kind, { largest, rms }] of Object.entries(worst))
        console.log(`      ${name}: ${kind}s differ by ${largest.toExponential(1)} of the largest entry, ${rms.toExponential(1)} in rms`)
    })

    function matches(kind: 'output' | 'gradient', what: string, actual: ArrayLike<number>, expected: ArrayLike<number | bigint>): void {
      const errors = errorsOf(actual, expected)
      for (const measure of ['largest', 'rms'] as const) {
        worst[kind][measure] = Math.max(worst[kind][measure], errors[measure])
        assert.ok(errors[measure] <= bound, `${kind} ${what}: ${measure} ${errors[measure]} > ${bound}`)
      }
    }

    async function gradientsMatch(parameters: ReadonlyMap<string, Tensor>, expected: StateDict): Promise<void> {
      const without = [...parameters].filter(([name]) => !expected.has(name)).map(([name]) => name)
      // The norm that labml constructs and never uses has no gradient, AFT's key bias one of 0.
      assert.ok(
        without.every((name) => name.includes('norm_self_attn') || name === 'key.bias'),
        `no expected gradient for ${without}`,
      )
      assert.ok(expected.size > 0)
      for (const [name, { data, shape }] of expected) {
        const { grad } = parameters.get(name)!
        assert.deepEqual(grad!.shape, shape, name)
        matches('gradient', name, await grad!.read(), data)
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
        matches('output', 'y', await y.read(), get('y').data)
        matches('gradient', 'x', await x.grad!.read(), get('dx').data)
        await gradientsMatch(model.namedParameters(), under(tensors, 'grad.'))
      })

    it('aft_local', async () => {
      const { tensors, metadata: m } = load('aft_local')
      const layer = loadOutside({ repository: 'labml', class: 'AFTLocal' }, under(tensors, 'param.'))
      const { form, dModel, tableLength, window } = layer.config
      assert.deepEqual([form, dModel, tableLength, window], ['local', Number(m.d_model), Number(m.seq_len), Number(m.local_window_size)])
      const get = (name: string) => tensors.get(name) as { shape: number[]; data: Float32Array }
      const x = tensor(get('x').data, { shape: get('x').shape, requiresGrad: true })
      const y = permute(layer.forward(permute(x, [1, 0, 2])).y, [1, 0, 2])
      y.backward(tensor(get('dy').data, { shape: y.shape }))
      matches('output', 'y', await y.read(), get('y').data)
      matches('gradient', 'x', await x.grad!.read(), get('dx').data)
      // A number added to all keys changes nothing: the gradient of their bias is 0, PyTorch has its rounding, and the weights' have its scale.
      const { weight, bias } = layer.key
      const gradient = async (p: Tensor | null) => Array.from(await p!.grad!.read(), Math.abs)
      assert.ok(Math.max(...(await gradient(bias))) <= bound * Math.max(...(await gradient(weight))), 'gradient key.bias')
      await gradientsMatch(layer.namedParameters(), new Map([...under(tensors, 'grad.')].filter(([name]) => name !== 'key.bias')))
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
      matches('output', 'logits', await permute(logits, [1, 0, 2]).read(), tensors.get('logits')!.data)
      matches('output', 'loss', [await loss.item()], tensors.get('loss')!.data)
      await gradientsMatch(model.namedParameters(), under(tensors, 'grad.'))
    })
  })
