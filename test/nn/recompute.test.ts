/** Activations that are released, made again, or recomputed by layers: the same gradients to the bit, in less memory. */
import assert from 'node:assert/strict'
import {
  add,
  crossEntropy,
  customOp,
  type Device,
  deltaRule,
  dropout,
  generator,
  type HostArray,
  keep,
  matmul,
  mul,
  noGrad,
  parameter,
  recompute,
  rmsNorm,
  scope,
  setDevice,
  square,
  sum,
  type Tensor,
  tanh,
  tensor,
} from '../../engine/index.ts'
import { Adam, BlockModel, constant, ignoredTarget, Trainer, Transformer, type TransformerConfig } from '../../nn/index.ts'
import { assertClose, assertSameBits, gpus, reference, runsOn, uniforms, wasm } from '../helpers.ts'
import { architectures, few, randomBatch } from './models.ts'

/** The most bytes in use at once within `body`, beyond those before it. */
async function peakOf<R>(device: Device, body: () => R): Promise<{ result: Awaited<R>; peak: number }> {
  const { allocate } = device
  const before = device.bytesInUse()
  let peak = 0
  device.allocate = (dtype, size) => {
    const block = allocate(dtype, size)
    peak = Math.max(peak, device.bytesInUse() - before)
    return block
  }
  try {
    return { result: await body(), peak }
  } finally {
    device.allocate = allocate
  }
}

const valuesOf = (tensors: Iterable<Tensor>) => Promise.all([...tensors].map((t) => t.read()))

/** Loss, gradients by name, and how many streams were drawn, of one batch. */
async function gradientsOf(config: TransformerConfig, options?: { release: boolean }) {
  const model = new Transformer(config, 3)
  const { result: loss, peak } = await peakOf(model.src_embed.weight.device, () =>
    scope(() => {
      const loss = model.loss(randomBatch(5, 2, 9))
      loss.backward(undefined, options)
      return keep(loss)
    }),
  )
  const grads = new Map([...model.namedParameters()].filter(([, p]) => p.grad).map(([name, p]) => [name, p.grad!]))
  const values = [await loss.read(), ...(await valuesOf(grads.values()))]
  for (const t of [loss, ...grads.values()]) t.dispose()
  model.dispose()
  return { names: [...grads.keys()], values, peak, streams: model.random.stream }
}

describe('memory for activations', () => {
  afterEach(() => setDevice(reference))

  const rms = { kind: 'rms', eps: 1e-6 } as const
  const models: Record<string, (layers: number) => Transformer | BlockModel> = {
    Transformer: (layers) => new Transformer({ ...architectures.default, layers }, 3),
    BlockModel: (layers) =>
      new BlockModel({
        symbols: 13,
        dModel: 12,
        layers: Array.from({ length: layers }, () => [
          { kind: 'memory', norm: rms, heads: 2, keyWidth: 6, valueWidth: 6 },
          { kind: 'gated-feed-forward', norm: rms, inner: 20 },
        ]),
        norm: rms,
        tie: false,
      }),
  }
  for (const [name, make] of Object.entries(models))
    it(`doesn't grow with the layers where no backward pass is to come: ${name}`, async () => {
      setDevice(await wasm())
      const T = 64
      const peaks: number[] = []
      for (const layers of [2, 6]) {
        const model = make(layers)
        const { device } = model.parameters()[0]
        const tokens = tensor(randomBatch(1, 1, T).tokens, { shape: [1, T], device })
        peaks.push((await peakOf(device, () => scope(() => noGrad(() => void model.forward(tokens))))).peak)
        for (const one of [tokens, model]) one.dispose()
      }
      // Four layers' states are a third of what one layer reads.
      assert.ok(peaks[1] - peaks[0] < 4 * T * 12, `${peaks}`)
    })

  it("a layer's input that somebody keeps stays, without a backward pass too", async () => {
    setDevice(await wasm())
    const model = models.Transformer(3)
    const seen: Tensor[] = []
    for (const layer of (model as Transformer).transformer.layers) {
      const { forward } = layer
      layer.forward = (x, ...rest) => {
        seen.push(keep(x))
        return forward.call(layer, x, ...rest)
      }
    }
    scope(() => noGrad(() => void model.forward(tensor(randomBatch(1, 1, 5).tokens, { shape: [1, 5] }))))
    for (const values of await valuesOf(seen)) assert.ok(values.every(Number.isFinite) && values.some((v) => v !== 0))
    for (const one of [...seen, model]) one.dispose()
  })

  it('layers that are recomputed have the gradients of layers that are kept, to the bit', async function () {
    this.timeout(120_000)
    for (const device of [await wasm(2), reference, ...(await gpus())]) {
      setDevice(device)
      const inUse = device.bytesInUse()
      const names = Object.keys(architectures).filter((name) => device.name !== 'webgpu' || few.has(name))
      for (const name of names.slice(0, runsOn(device, 12 * names.length)))
        for (const dropout of device.name === 'webgpu' ? [0.2] : [0, 0.2]) {
          const config = { ...architectures[name], dropout }
          const plain = await gradientsOf(config)
          for (const which of [true, [1]]) {
            const { names, values, streams } = await gradientsOf({ ...config, recompute: which }, { release: true })
            assert.deepEqual([names, streams], [plain.names, plain.streams])
            for (const [i, value] of values.entries()) assertSameBits(value, plain.values[i], `${name}, ${['loss', ...names][i]}`)
          }
        }
      assert.equal(device.bytesInUse(), inUse)
    }
  })

  it('takes less memory the more is released and recomputed', async () => {
    setDevice(await wasm())
    const config = { ...architectures.labml, layers: 6 }
    const peaks: number[] = []
    for (const [recompute, release] of [
      [false, false],
      [false, true],
      [true, true],
    ] as const)
      peaks.push((await gradientsOf({ ...config, recompute }, { release })).peak)
    for (const [i, peak] of peaks.slice(1).entries()) assert.ok(peak < 0.7 * peaks[i], peaks.join(' '))
  })

  it('frees the last state before the backward pass, and one that a next piece has read only after', async () => {
    for (const device of [reference, await wasm(), ...(await gpus())]) {
      setDevice(device)
      const inUse = device.bytesInUse()
      const x = parameter(tensor(uniforms(1, 24), { shape: [1, 3, 2, 4] }))
      const beta = tensor(uniforms(2, 6, 0, 1), { shape: [1, 3, 2] })
      const { allocate } = device
      const freed: boolean[][] = []
      const loss = scope(() => {
        const { y, state } = deltaRule(x, x, x, beta)
        const next = deltaRule(x, x, x, beta, state)
        const loss = sum(add(y, next.y))
        device.allocate = (...given) => {
          freed.push([state.S.disposed, next.state.S.disposed])
          return allocate(...given)
        }
        try {
          loss.backward(undefined, { release: true })
        } finally {
          device.allocate = allocate
        }
        return loss
      })
      // Once the seed is made.
      assert.deepEqual(freed.slice(0, 2), [
        [false, false],
        [false, true],
      ])
      for (const t of [loss, x.grad!, x, beta]) t.dispose()
      assert.equal(device.bytesInUse(), inUse)
    }
  })

  it('keeps a last state that an op has read which it is no input of', async () => {
    for (const device of [reference, await wasm(), ...(await gpus())]) {
      setDevice(device)
      const x = parameter(tensor(uniforms(1, 12), { shape: [1, 3, 1, 4] }))
      const beta = tensor(uniforms(2, 3, 0, 1), { shape: [1, 3, 1] })
      const grads: HostArray[] = []
      for (const release of [false, true]) {
        const loss = scope(() => {
          const { y, state } = deltaRule(x, x, x, beta)
          const by = (t: Tensor): Tensor => noGrad(() => mul(t, sum(state.S)))
          const own = customOp(
            'own',
            [y],
            () => by(y),
            (dy) => [by(dy)],
          )
          const again = recompute([y], (y) =>
            mul(
              y,
              noGrad(() => sum(state.S)),
            ),
          )
          const loss = sum(add(own, again))
          loss.backward(undefined, { release })
          return loss
        })
        grads.push(await x.grad!.read())
        for (const t of [loss, x.grad!]) t.dispose()
        x.grad = null
      }
      assertSameBits(grads[1], grads[0], device.description)
      for (const t of [x, beta]) t.dispose()
    }
  })

  it('without gradients holds one layer at a time', async () => {
    const device = await wasm()
    setDevice(device)
    const peaks: number[] = []
    for (const layers of [2, 8]) {
      const model = new Transformer({ ...architectures.labml, layers })
      const tokens = tensor(randomBatch(1, 8, 64).tokens, { shape: [8, 64] })
      const { result, peak } = await peakOf(device, () => scope(() => noGrad(() => keep(model.forward(tokens).logits))))
      peaks.push(peak)
      for (const t of [result, tokens]) t.dispose()
      model.dispose()
    }
    // Six more layers leave their states [B,H,K,V], of 8 x 2 x 12 x 6 numbers, and what each gives to the next, 8 x 64 x 12.
    assert.ok(peaks[1] - peaks[0] <= 6 * 4 * (8 * 2 * 12 * 6 + 8 * 64 * 12), `${peaks}`)
  })

  it('a training step is the same with either, and states go on from recomputed layers', async () => {
    setDevice(await wasm())
    const run = async (recompute: boolean) => {
      const model = new Transformer({ ...architectures.default, recompute }, 1)
      const trainer = new Trainer(model, new Adam(model.namedParameters(), { lr: 0.01 }), { schedule: constant(0.01), clipNorm: 1 })
      const losses = []
      for (let i = 0; i < 3; i++) losses.push((await trainer.step(randomBatch(i))).loss)
      const tokens = tensor(randomBatch(9, 2, 6).tokens, { shape: [2, 6] })
      // Through the state, too: the second piece's loss reaches the parameters by way of the first.
      const loss = scope(() => {
        const { state } = model.forward(tokens)
        const total = sum(square(model.forward(tokens, state).logits))
        total.backward()
        return total
      })
      const values = await valuesOf([loss, ...[...model.namedParameters().values()].map((p) => p.grad!)])
      for (const t of [loss, tokens]) t.dispose()
      trainer.optimizer.dispose()
      model.dispose()
      return { losses, values }
    }
    const [plain, recomputed] = [await run(false), await run(true)]
    assert.deepEqual(recomputed.losses, plain.losses)
    for (const [i, value] of recomputed.values.entries()) assertSameBits(value, plain.values[i])
  })

  it('recompute draws the same random numbers, and gives gradients to what it makes several of', async () => {
    for (const device of [reference, await wasm()]) {
      setDevice(device)
      const inUse = device.bytesInUse()
      const g = generator(7)
      const run = async (again: boolean) => {
        g.stream = 0
        const [w, x] = [1, 2].map((seed) => parameter(tensor(uniforms(seed, 36), { shape: [6, 6] })))
        let calls = 0
        const body = (x: Tensor) => {
          calls++
          const h = dropout(rmsNorm(matmul(x, w)), 0.5, g)
          return { h, parts: [tanh(h), mul(h, x)], unused: square(x), count: 3, x }
        }
        const loss = scope(() => {
          const { h, parts, count, x: same } = again ? recompute([x], body, { parameters: [w], generator: g }) : body(x)
          assert.ok(count === 3 && same === x)
          const loss = sum(add(add(mul(parts[0], parts[1]), h), dropout(h, 0.5, g)))
          loss.backward(undefined, { release: true })
          return keep(loss)
        })
        assert.deepEqual([calls, g.stream], [again ? 2 : 1, 2])
        const kept = [loss, w.grad!, x.grad!]
        const values = await valuesOf(kept)
        for (const t of [...kept, w, x]) t.dispose()
        return values
      }
      const [plain, recomputed] = [await run(false), await run(true)]
      for (const [i, value] of recomputed.entries()) assertSameBits(value, plain[i])
      assert.equal(device.bytesInUse(), inUse)
    }
  })

  it('a large vocabulary has the loss and gradients of its logits, without holding them all', async () => {
    const device = await wasm()
    setDevice(device)
    const symbols = 100_000
    const model = new Transformer({ ...architectures.labml, symbols, layers: 1 })
    const batch = {
      ...randomBatch(5, 4, 16),
      targets: randomBatch(6, 4, 16).tokens.map((id, i) => (i % 9 === 0 ? ignoredTarget : id * 7001)),
    }
    const run = async (loss: () => Tensor) => {
      const { result, peak } = await peakOf(device, () =>
        scope(() => {
          const l = loss()
          l.backward(undefined, { release: true })
          return keep(l)
        }),
      )
      const grads = [...model.namedParameters().values()].flatMap((p) => p.grad ?? [])
      const values = await valuesOf([result, ...grads])
      for (const t of [result, ...grads]) t.dispose()
      return { values, peak }
    }
    const whole = await run(() => {
      const [tokens, targets] = [batch.tokens, batch.targets].map((ids) => tensor(ids, { shape: [4, 16] }))
      return crossEntropy(model.forward(tokens).logits, targets, { ignore: ignoredTarget })
    })
    const blocks = await run(() => model.loss(batch))
    for (const [i, value] of blocks.values.entries()) assertClose(value, whole.values[i], 1e-5, 1e-3)
    // Logits and their gradients, 2 x 4 B T N bytes, against two blocks of at most 2^22.
    assert.ok(whole.peak - blocks.peak > 8 * (4 * 16 * symbols - 2 ** 22), `${whole.peak} ${blocks.peak}`)
    model.dispose()
  })

  it('release spares the loss, the seed, what is kept, and leaves', () => {
    scope(() => {
      const x = tensor([1, 2], { requiresGrad: true })
      const a = square(x)
      const b = keep(square(a))
      const y = mul(a, b)
      const seed = tensor([1, 1])
      y.backward(seed, { release: true })
      assert.deepEqual(
        [x, a, b, y, seed, x.grad!].map((t) => t.disposed),
        [false, true, false, false, false, false],
      )
      assert.throws(() => y.backward(seed), /backward needs what was freed/)
      b.dispose()
    })
  })

  it('says what is wrong in one line', () => {
    const x = parameter(tensor([1, 2]))
    const refused = (run: () => unknown, message: string) => assert.throws(run, { message })
    refused(() => x.backward(tensor([1, 1]), { release: 1 as never }), 'backward: release must be true or false, not 1')
    refused(() => recompute(x as never, () => x), 'recompute: the inputs must be an array of tensors, not a Tensor')
    refused(() => recompute([x], null as never), 'recompute: needs a function of the inputs, not null')
    refused(() => recompute([x, 1 as never], () => x), 'recompute: needs tensors, not 1')
    let calls = 0
    const y = scope(() => recompute([x], (x) => (calls++ === 0 ? [square(x)] : [square(x), square(x)])))
    refused(() => y[0].backward(tensor([1, 1])), 'recompute: the body makes 2 tensors in the backward pass, and 1 in the forward pass')
    const model = new Transformer({ ...architectures.labml, recompute: true })
    const switched = () =>
      scope(() => {
        const loss = model.loss(randomBatch(1))
        model.eval()
        loss.backward()
      })
    refused(switched, 'recompute: the model went from training to evaluation, or back, before its backward pass')
    refused(() => new Transformer({ ...architectures.labml, recompute: [2] }), 'recompute: there is no layer 2; they are 0 to 1')
    refused(
      () => new Transformer({ ...architectures.labml, recompute: 1 as never }),
      'recompute must be true, false, or a list of layers, not 1',
    )
    // What isn't recorded isn't run again.
    noGrad(() => recompute([x], (x) => square(x))).dispose()
    for (const t of [x, ...y]) t.dispose()
    model.dispose()
  })
})
