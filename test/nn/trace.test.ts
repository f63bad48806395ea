/** What `trace` says of a model's memories, against plain loops over what it was made from. */
import assert from 'node:assert/strict'
import { type Device, generator, normal, reshape, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import {
  type AttentionOptions,
  type AttentionState,
  disposeTrace,
  EncoderDecoder,
  FastWeightsAttention,
  type LayerTrace,
  Module,
  Transformer,
  trace,
} from '../../nn/index.ts'
import { assertClose, gpus, reference, wasm } from '../helpers.ts'

const B = 2,
  T = 7,
  heads = 2,
  D = 8,
  W = D / heads

const tokensOn = (device: Device): Tensor =>
  tensor(
    Int32Array.from({ length: B * T }, (_, i) => (i * i + 3 * i) % 11),
    { shape: [B, T], device },
  )

const model = (mixer: string, more: object = {}): Transformer =>
  new Transformer({ symbols: 11, dModel: D, heads, layers: 2, dFf: 8, attentionNorm: true, mixer: mixer as 'softmax', ...more }, 5)

const traced = (m: Transformer, device: Device): LayerTrace[] => scope(() => trace(m, () => m.forward(tokensOn(device))))

/** Numbers of a tensor by their places. */
async function at(x: Tensor): Promise<(...place: number[]) => number> {
  const values = await x.read()
  return (...place) => values[place.reduce((index, i, axis) => index * x.shape[axis] + i, 0)]
}
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

/** Mixers by whether what they read is linear in the values, and whether keys write fast weights S. */
const kinds: [mixer: string, attention: boolean, recall: boolean, more?: object][] = [
  ['sum', true, true, { featureMap: 'elu1', featureNorm: 'none' }],
  ['linear-attention', true, true, { featureMap: 'elu1', featureNorm: 'none' }],
  ['delta', true, true],
  ['gated-delta', true, true],
  ['kda', true, true],
  ['mesa', true, true],
  ['hgrn2', true, false, { featureMap: 'silu', featureNorm: 'none' }],
  ['softmax', true, false],
  ['aft-simple', true, false],
  ['aft-local', true, false],
  ['aft-conv', true, false],
  ['delta-product', false, false, { stepsPerToken: 2 }],
  ['gsa', true, false, { slots: W, featureMap: 'silu', featureNorm: 'none' }],
  ['ttt', false, false, { minibatch: 1, featureMap: 'identity', featureNorm: 'l2' }],
  ['delta-rnn', false, false],
  ['lstm', false, false],
]

const devices = [reference, await wasm(), ...(await gpus())]

for (const device of devices)
  describe(`trace, ${device.name}`, () => {
    const bound = device.double ? 1e-10 : 2e-5
    before(() => setDevice(device))
    after(() => setDevice(reference))

    for (const [mixer, linear, writes, more] of kinds)
      it(`${mixer}: states, retrieval and weights by their definitions`, async () => {
        const m = model(mixer, more)
        const layers = traced(m, device)
        assert.deepEqual(
          layers.map(({ name }) => name),
          ['transformer.layers.0.attn', 'transformer.layers.1.attn'],
        )
        const { state } = scope(() => m.forward(tokensOn(device)))
        for (const [i, layer] of layers.entries()) {
          const parts = Object.entries(layer.states)
          assert.equal(parts.length > 0, mixer !== 'softmax')
          for (const [name, states] of parts) {
            const [all, last] = [await at(states), await (state.layers[i] as Record<string, Tensor>)[name].read()]
            const size = last.length / B
            const flat = reshape(states, [B, T, size])
            const value = await at(flat)
            assertClose(
              range(B * size).map((n) => value(Math.floor(n / size), T - 1, n % size)),
              last,
              bound,
              1,
              `${name} after the last token`,
            )
            if (states.shape.length !== 5) continue
            const [, , H, K, V] = states.shape
            const [norm, rank] = [await at(layer.norms[name]), await at(layer.ranks[name])]
            for (const t of range(T)) {
              const S = range(K).map((k) => range(V).map((v) => all(1, t, H - 1, k, v)))
              const squares = S.flat().reduce((n, x) => n + x * x, 0)
              const fourth = range(V).flatMap((a) => range(V).map((b) => range(K).reduce((n, k) => n + S[k][a] * S[k][b], 0) ** 2))
              assertClose([norm(1, t, H - 1)], [Math.sqrt(squares)], bound, 1, `norm of ${name}`)
              const expected = squares === 0 ? 0 : squares ** 2 / fourth.reduce((n, x) => n + x, 0)
              assertClose([rank(1, t, H - 1)], [expected], 10 * bound, 1, `rank of ${name}`)
              assert.ok(expected <= Math.min(K, V) + 1e-6)
            }
          }
          assert.equal(layer.attention !== undefined, linear)
          assert.equal(layer.recall !== undefined, writes)
          if (layer.attention) {
            const { v } = layer.inputs
            const H = layer.attention.shape[1]
            const [weight, values] = [await at(layer.attention), await at(v)]
            const read = await at(scope(() => layer.layer.look!(layer.x).read!(v)))
            for (const t of range(T)) for (const s of range(T)) if (s > t) assert.equal(weight(0, 0, t, s), 0)
            if (v.shape.length === 4)
              for (const t of range(T))
                for (const c of range(W))
                  assertClose(
                    [range(T).reduce((n, s) => n + weight(1, H - 1, t, s) * values(1, s, H - 1, c), 0)],
                    [read(1, t, H - 1, c)],
                    bound,
                    1,
                    'weights times values',
                  )
            if (/softmax|aft/.test(mixer))
              for (const t of range(T)) assertClose([range(T).reduce((n, s) => n + weight(0, 0, t, s), 0)], [1], bound)
          }
          if (layer.recall) {
            const { k, v } = layer.inputs
            const [S, key, value] = [await at(layer.states.S), await at(k), await at(v)]
            const [recall, found, left, similarity] = await Promise.all(
              [layer.recall, layer.before!, layer.after!, layer.similarity!].map(at),
            )
            const K = k.shape[3]
            const h = heads - 1
            const reads = (t: number, s: number, c: number): number =>
              t < 0 ? 0 : range(K).reduce((n, i) => n + S(1, t, h, i, c) * key(1, s, h, i), 0)
            const cosine = (a: number[], b: number[]): number =>
              a.reduce((n, x, i) => n + x * b[i], 0) / (Math.hypot(...a) * Math.hypot(...b) || 1)
            for (const s of range(T)) {
              assertClose(
                range(W).map((c) => found(1, s, h, c)),
                range(W).map((c) => reads(s - 1, s, c)),
                bound,
                1,
                'before',
              )
              assertClose(
                range(W).map((c) => left(1, s, h, c)),
                range(W).map((c) => reads(s, s, c)),
                bound,
                1,
                'after',
              )
              for (const t of range(T)) {
                const expected = cosine(
                  range(W).map((c) => reads(t, s, c)),
                  range(W).map((c) => value(1, s, h, c)),
                )
                assertClose([recall(1, h, t, s)], [expected], 50 * bound, 1, `recall of ${s} after ${t}`)
                const alike = cosine(
                  range(K).map((i) => key(1, t, h, i)),
                  range(K).map((i) => key(1, s, h, i)),
                )
                assertClose([similarity(1, h, t, s)], [alike], 10 * bound, 1, 'similarity')
              }
            }
          }
        }
        disposeTrace(layers)
      })

    it('frees everything but its result', () => {
      const m = model('delta')
      const bytes = device.bytesInUse()
      const layers = traced(m, device)
      assert.ok(device.bytesInUse() > bytes)
      disposeTrace(layers)
      assert.equal(device.bytesInUse(), bytes)
    })

    it('leaves the model what it had: parameters are among the inputs of some rules', async () => {
      const m = model('precond-delta')
      const read = async (): Promise<ArrayLike<number>> => {
        const logits = scope(() => m.forward(tokensOn(device)).logits)
        return logits.read().finally(() => logits.dispose())
      }
      const before = await read()
      disposeTrace(traced(m, device))
      assert.deepEqual(await read(), before)
      m.dispose()
    })
  })

describe('trace', () => {
  before(() => setDevice(reference))

  it('the delta rule finds more of what it lacked each time that a key comes again', async () => {
    const layer = new FastWeightsAttention({ dModel: 4, heads: 1, featureMap: 'identity', featureNorm: 'l2' }, { seed: 1, stream: 0 })
    // beta is 1/2: each time half of what was missing is there.
    layer.interpolation_weight[0].linear.weight.write(new Float64Array(4))
    const x = tensor(
      Float64Array.from({ length: 24 }, (_, i) => [1, -2, 0.5, 3][i % 4]),
      { shape: [1, 6, 4], device: reference },
    )
    const [{ recall, before: found, after: left, inputs }] = scope(() => trace(layer, () => layer.forward(x)))
    const [held, read, then, v] = await Promise.all([recall!, found!, left!, inputs.v].map(at))
    for (const t of range(6))
      for (const c of range(4)) {
        assertClose([read(0, t, 0, c)], [v(0, t, 0, c) * (1 - 2 ** -t)], 1e-6)
        assertClose([then(0, t, 0, c)], [v(0, t, 0, c) * (1 - 2 ** -(t + 1))], 1e-6)
      }
    assertClose([held(0, 0, 5, 5)], [1], 1e-6)
  })

  it('of an encoder and decoder, the layers of the decoder', () => {
    const m = new EncoderDecoder({ symbols: 9, dModel: 8, heads: 2, encoderLayers: 1, decoderLayers: 2, dFf: 8, mixer: 'delta' })
    const ids = (n: number): Tensor =>
      tensor(
        Int32Array.from({ length: n }, (_, i) => i % 9),
        { shape: [1, n], device: reference },
      )
    const layers = scope(() => trace(m, () => m.forward(ids(5), ids(4))))
    assert.deepEqual(
      layers.map(({ name, attention }) => [name, attention!.shape.join()]),
      [
        ['decoder.layers.0.self_attn', '1,2,4,4'],
        ['decoder.layers.1.self_attn', '1,2,4,4'],
      ],
    )
  })

  it('leaves a layer as it was, also where its forward is a field of its own', () => {
    setDevice(reference)
    class Own extends Module {
      inner = new FastWeightsAttention({ dModel: D, heads }, generator(1))
      stateParts = (rows: number) => this.inner.stateParts(rows)
      forward = (x: Tensor, ...more: [AttentionState?, AttentionOptions?]) => this.inner.forward(x, ...more)
    }
    const layer = new Own()
    const { forward } = layer
    const x = normal(generator(2), [B, T, D])
    const traces = trace(layer, () => layer.forward(x))
    assert.deepEqual(
      traces.map(({ name }) => name),
      ['', 'inner'],
    )
    assert.equal(layer.forward, forward)
    assert.ok(!Object.hasOwn(layer.inner, 'forward'))
    disposeTrace(traces)
    for (const one of [layer, x]) one.dispose()
  })

  it('says what is wrong', () => {
    const m = model('delta')
    const tokens = tokensOn(reference)
    assert.throws(() => trace({} as never, () => {}), /trace: needs a model, not an object/)
    assert.throws(() => trace(m, tokens as never), /trace: the second argument must run the model/)
    assert.throws(() => trace(m, () => {}), /trace: run hasn't come through any layer of the model/)
    const { state } = m.forward(tokens)
    assert.throws(() => trace(m, () => m.forward(tokens, state)), /trace: sequences must begin with the call/)
    const twice = (): void => {
      m.forward(tokens)
      m.forward(tokens)
    }
    assert.throws(() => trace(m, twice), /trace: the model must be run once/)
    assert.equal(m.training, true)
    m.forward(tokens)
  })
})
