/** Optimisers against their formulas in float64, schedules, the trainer, and memory that stays flat. */
import assert from 'node:assert/strict'
import {
  type Device,
  detach,
  full,
  GateError,
  generator,
  keep,
  mul,
  parameter,
  profile,
  scope,
  setDevice,
  square,
  sum,
  type Tensor,
  tensor,
  wasmDevice,
} from '../../engine/index.ts'
import {
  Adam,
  AdamW,
  Autoencoder,
  BlockModel,
  type BlockModelConfig,
  constant,
  cosine,
  DivergenceError,
  Dropout,
  Embedding,
  EncoderDecoder,
  type FastWeightsAttention,
  FeedForward,
  frozen,
  generate,
  ignoredTarget,
  LayerNorm,
  Linear,
  Module,
  Muon,
  modelOf,
  noam,
  RMSNorm,
  readCheckpoint,
  restoreOptimizer,
  Trainer,
  Transformer,
  type TransformerConfig,
  writeCheckpoint,
} from '../../nn/index.ts'
import { evaluationBatches, presets } from '../../tasks/index.ts'
import { assertClose, gpus, reference, unheard, uniforms, wasm } from '../helpers.ts'
import { architectures, randomBatch, randomTokens, stateful } from './models.ts'

/** Adam with torch's clip_grad_norm_, straight from the papers. */
function adamByHand(
  p: number[][],
  gradients: (p: number[][]) => number[][],
  steps: number,
  o: { lr: number; beta1: number; beta2: number; eps: number; decay: number[]; decoupled: boolean; clip: number },
): number[] {
  const m = p.map((x) => x.map(() => 0))
  const v = p.map((x) => x.map(() => 0))
  const norms: number[] = []
  for (let t = 1; t <= steps; t++) {
    const g = gradients(p)
    const norm = Math.sqrt(g.flat().reduce((a, x) => a + x * x, 0))
    norms.push(norm)
    const scale = Math.min(1, o.clip / (norm + 1e-6))
    for (let i = 0; i < p.length; i++)
      for (let j = 0; j < p[i].length; j++) {
        let grad = g[i][j] * scale
        if (o.decoupled) p[i][j] *= 1 - o.lr * o.decay[i]
        else grad += o.decay[i] * p[i][j]
        m[i][j] = o.beta1 * m[i][j] + (1 - o.beta1) * grad
        v[i][j] = o.beta2 * v[i][j] + (1 - o.beta2) * grad ** 2
        p[i][j] -= (o.lr * (m[i][j] / (1 - o.beta1 ** t))) / (Math.sqrt(v[i][j] / (1 - o.beta2 ** t)) + o.eps)
      }
  }
  return norms
}

describe('training', () => {
  afterEach(() => setDevice(reference))

  for (const [name, Optimizer, weightDecay] of [
    ['Adam', Adam, 0],
    ['Adam with decay', Adam, 0.1],
    ['AdamW', AdamW, 0.1],
  ] as const)
    for (const clip of [Infinity, 0.5])
      it(`${name} follows its formula, clipped at ${clip}`, async () => {
        // loss = sum of c x^2 over a matrix, which decays here, and a vector, which doesn't; another parameter has no gradient.
        const c = [Array.from(uniforms(1, 6, 0.1, 3)), Array.from(uniforms(2, 4, 0.1, 3))]
        const start = [Array.from(uniforms(3, 6)), Array.from(uniforms(4, 4))]
        const steps = 12
        const expected = start.map((x) => [...x])
        const decoupled = Optimizer === AdamW
        const norms = adamByHand(expected, (p) => p.map((x, i) => x.map((value, j) => 2 * c[i][j] * value)), steps, {
          lr: 0.05,
          beta1: 0.8,
          beta2: 0.95,
          eps: 1e-6,
          decay: [weightDecay, 0],
          decoupled,
          clip,
        })
        for (const [device, bound] of [[reference, 1e-12], [await wasm(), 1e-5], ...(await gpus()).map((gpu) => [gpu, 1e-5])] as [
          Device,
          number,
        ][]) {
          const parameters = [[2, 3], [4]].map((shape, i) => parameter(tensor(start[i], { shape, device })))
          const idle = parameter(tensor([1, 2], { device }))
          const optimizer = new Optimizer(new Map([...parameters, idle].map((p, i) => [`p${i}`, p])), {
            lr: 0.05,
            betas: [0.8, 0.95],
            eps: 1e-6,
            weightDecay,
            decays: (_, p) => p.shape.length >= 2,
          })
          for (let step = 0; step < steps; step++) {
            const norm = scope(() => {
              for (const [i, p] of parameters.entries()) sum(mul(square(p), tensor(c[i], { shape: p.shape, device }))).backward()
              const norm = optimizer.step({ clipNorm: clip === Infinity ? undefined : clip })
              optimizer.zeroGrad()
              return norm
            })
            assertClose([await norm.item()], [norms[step]], bound, 0, `norm of step ${step + 1}`)
            norm.dispose()
          }
          for (const [i, p] of parameters.entries()) assertClose(await p.read(), expected[i], bound, 0, `parameter ${i}`)
          assert.deepEqual(Array.from(await idle.read()), [1, 2])
          optimizer.dispose()
          for (const p of [...parameters, idle]) p.dispose()
        }
      })

  for (const Optimizer of [AdamW, Muon])
    it(`${Optimizer.name}: parameters over the same memory take their steps one after the other, on every device`, async () => {
      const ends: number[][] = []
      for (const device of [reference, await wasm(1), await wasm(2), ...(await gpus())]) {
        setDevice(device)
        const before = device.bytesInUse()
        const of = (seed: number): Tensor => tensor(uniforms(seed, 400), { shape: [20, 20] })
        const a = parameter(of(1))
        const named = new Map(Object.entries({ a, b: parameter(detach(a)), c: parameter(of(2)), d: parameter(detach(a)) }))
        const optimizer = new Optimizer(named, { lr: 0.1 })
        for (let i = 0; i < 2; i++) {
          for (const [j, p] of [...named.values()].entries()) scope(() => sum(mul(p, of(10 * i + j))).backward())
          optimizer.step().dispose()
          optimizer.zeroGrad()
        }
        const [first, ...others] = await Promise.all([...named.values()].map(async (p) => [...(await p.read())]))
        assert.deepEqual([others[0], others[2]], [first, first])
        ends.push([...first, ...others[1]])
        for (const one of [optimizer, ...named.values()]) one.dispose()
        assert.equal(device.bytesInUse(), before)
      }
      for (const end of ends.slice(1)) assertClose(end, ends[0], 1e-4)
    })

  it('AdamW decays everything by 0.01 and Adam by nothing, unless told', async () => {
    const stepped = async (make: (p: Map<string, ReturnType<typeof parameter>>) => Adam): Promise<number[]> => {
      const parameters = [[1, 1], [1]].map((shape) => parameter(tensor([2], { shape })))
      const optimizer = make(new Map(parameters.map((p, i) => [`p${i}`, p])))
      for (const p of parameters) scope(() => sum(mul(p, 0)).backward())
      optimizer.step().dispose()
      const values = await Promise.all(parameters.map((p) => p.item()))
      optimizer.dispose()
      for (const p of parameters) p.dispose()
      return values
    }
    assert.deepEqual(await stepped((p) => new Adam(p, { lr: 0.1 })), [2, 2])
    assertClose(await stepped((p) => new AdamW(p, { lr: 0.1 })), [2 - 0.1 * 0.01 * 2, 2 - 0.1 * 0.01 * 2], 1e-14)
    for (const Decoupled of [AdamW, Muon])
      assertClose(
        await stepped((p) => new Decoupled(p, { lr: 0.1, weightDecay: undefined })),
        [2 - 0.1 * 0.01 * 2, 2 - 0.1 * 0.01 * 2],
        1e-14,
      )
    assertClose(
      await stepped((p) => new AdamW(p, { lr: 0.1, weightDecay: 0.5, decays: (name) => name === 'p1' })),
      [2, 2 - 0.1 * 0.5 * 2],
      1e-14,
    )
    assert.throws(() => new Adam([] as never, { lr: 1 }), /^Error: Adam: parameters must be a Map from names to tensors; pass model\.named/)
    assert.throws(() => new Adam(new Map(), { lr: NaN }), /^Error: Adam: lr can't be NaN$/)
    assert.throws(() => new Adam(new Map(), { lr: 1, betas: [0.9, 1] }), /^Error: Adam: beta2 can't be 1$/)
  })

  it('refuses numbers that are none, and options that nobody reads', async () => {
    const p = new Map<string, Tensor>()
    const refused = (call: () => unknown, message: RegExp) => assert.throws(call, { message })
    for (const [name, make] of [
      ['Adam', (c: object) => new Adam(p, { lr: 1, ...c })],
      ['AdamW', (c: object) => new AdamW(p, { lr: 1, ...c })],
      ['Muon', (c: object) => new Muon(p, { lr: 1, ...c })],
    ] as const) {
      for (const lr of [Infinity, -Infinity, NaN, -1]) refused(() => make({ lr }), new RegExp(`^${name}: lr can't be ${lr}$`))
      for (const lr of ['0.1', null, undefined, 1n, [1], { lr: 1 }])
        refused(() => make({ lr }), new RegExp(`^${name}: lr must be a number, not `))
      refused(() => make({ weight_decay: 1 }), new RegExp(`^${name}: unknown option 'weight_decay' \\(lr, betas, eps, weightDecay, decays`))
      for (const key of ['eps', 'weightDecay'])
        for (const value of [-1, NaN, Infinity, '0'])
          refused(() => make({ [key]: value }), new RegExp(`^${name}: ${key} (can't be|must be a number)`))
      refused(() => make({ eps: 0 }), new RegExp(`^${name}: eps must be above 0: a parameter whose gradient is 0 would move by 0 / 0$`))
      refused(() => make({ eps: 1e-46 }), new RegExp(`^${name}: eps must be above 0 in float32`))
      for (const betas of [0.9, '0.9', null, [0.9], ['0.9', 0.99], [0.9, 1], [-0.1, 0.9], [NaN, 0.9]])
        refused(() => make({ betas }), new RegExp(`^${name}: beta`))
    }
    refused(() => new Muon(p, { lr: 0 }), /^Muon: lr can't be 0$/)
    for (const value of ['0.02', NaN, -1, Infinity]) refused(() => new Muon(p, { lr: 1, matrixLr: value as number }), /^Muon: matrixLr /)
    for (const value of ['0.9', NaN, -1, 1]) refused(() => new Muon(p, { lr: 1, momentum: value as number }), /^Muon: momentum /)

    const optimizer = new Adam(p, { lr: 1 })
    for (const lr of ['1', NaN, -1, Infinity]) refused(() => optimizer.step({ lr: lr as number }), /^Adam: lr /)
    for (const clipNorm of ['1', NaN, -1, 0]) refused(() => optimizer.step({ clipNorm: clipNorm as number }), /^step: clipNorm must be /)
    refused(() => optimizer.step({ clip: 1 } as never), /^step: unknown option 'clip' \(lr, clipNorm\)$/)
    assert.equal(optimizer.steps, 0)

    for (const bad of ['1', NaN, -1, Infinity, undefined] as number[]) {
      refused(() => constant(bad), /^constant: lr must be /)
      refused(() => noam(bad), /^noam: dModel must be /)
      if (bad !== undefined) refused(() => noam(8, bad), /^noam: warmup must be /)
      if (bad !== undefined) refused(() => noam(8, 10, bad), /^noam: factor must be /)
      refused(() => cosine(bad, 1, 2), /^cosine: peak must be /)
      refused(() => cosine(1, bad, 2), /^cosine: warmup must be /)
      refused(() => cosine(1, 1, bad), /^cosine: total must be /)
      if (bad !== undefined) refused(() => cosine(1, 1, 2, bad), /^cosine: floor must be /)
    }
    const model = new Transformer({ symbols: 3, dModel: 2, heads: 1, layers: 1, dFf: 2 })
    refused(
      () => new Trainer(model, optimizer, { schedule: 0.1 as never, clipNorm: 1 }),
      /^Trainer: the schedule must be a function of the step, /,
    )
    for (const clipNorm of ['1', NaN, 0, -1, undefined] as number[])
      refused(() => new Trainer(model, optimizer, { schedule: constant(1), clipNorm }), /^Trainer: clipNorm must be /)
    refused(
      () => new Trainer({} as Transformer, optimizer, { schedule: constant(1), clipNorm: 1 }),
      /^Trainer: needs a model, not an object$/,
    )
    refused(
      () => new Trainer(model, optimizer, { schedule: constant(1), clipNorm: 1, capture: 'no' as never }),
      /^Trainer: capture must be true or false, not the text 'no'$/,
    )
    refused(
      () => new Trainer(model, optimizer, { schedule: constant(1), clipNorm: 1, captured: true } as never),
      /^Trainer: unknown option 'captured' \(schedule, clipNorm, capture\)$/,
    )
    for (const Decoupled of [AdamW, Muon])
      refused(
        () => new Decoupled(model.namedParameters(), { lr: 1, weightDecay: null as never }),
        new RegExp(`^${Decoupled.name}: weightDecay must be a number, not null$`),
      )
    refused(() => new Trainer(model, null as never, { schedule: constant(1), clipNorm: 1 }), /^Trainer: needs an optimiser, .* not null$/)
    const trainer = new Trainer(model, new Adam(model.namedParameters(), { lr: 1 }), { schedule: constant(1), clipNorm: 1 })
    for (const none of [undefined, null, 3])
      await assert.rejects(trainer.step(none as never), { message: `Trainer: a step needs a batch of the model's data, not ${none}` })
    refused(
      () => frozen(model as never, () => null as never),
      /^frozen: needs a function that makes the model, such as .*, not a Transformer$/,
    )
    refused(
      () => frozen(() => model, new Map() as never),
      /^frozen: needs a function from the name of a parameter to its values, not a Map$/,
    )
    trainer.dispose()
    trainer.optimizer.dispose()
    model.dispose()
    for (const [make, message] of [
      [() => new LayerNorm(4, 0), /^LayerNorm: eps must be above 0: a row of equal numbers would be 0 \/ 0$/],
      [() => new RMSNorm(4, 0), /^RMSNorm: eps must be above 0: a row of zeros would be 0 \/ 0$/],
      [() => new RMSNorm(4, 1e-42), /^RMSNorm: eps must be above 0 in float32/],
      [() => new LayerNorm(4, '1' as never), /^LayerNorm: eps must be a number, not the text '1'$/],
      [() => new LayerNorm(0), /^LayerNorm: the width must be a positive integer, not 0$/],
      [() => new Linear(0, 1, generator(1)), /^Linear: the number of inputs must be a positive integer, not 0$/],
      [() => new Linear(1, '2' as never, generator(1)), /^Linear: the number of outputs must be a number, not the text '2'$/],
      [() => new Embedding(2, 2, generator(1), NaN), /^Embedding: std must be 0 or more, not NaN$/],
      [
        () => new FeedForward(2, 2, generator(1), { activation: 'swish' as never }),
        /^FeedForward: there's no function the text 'swish' \(neg, /,
      ],
      [() => new Dropout('0.5' as never, generator(1)), /^Dropout: the probability must be a number, not the text '0.5'$/],
    ] as const)
      refused(make, message)
  })

  it('schedules pass through their known points', () => {
    assert.equal(constant(0.3)(12345), 0.3)
    const schedule = cosine(2, 10, 110, 0.5)
    assertClose([1, 5, 10, 60, 110, 500].map(schedule), [0.2, 1, 2, 1.25, 0.5, 0.5], 1e-15)
    assertClose([1, 2].map(cosine(2, 0, 2)), [1, 0], 1e-15)
    // Vaswani 2017, section 5.3: it peaks at the warm-up's end, at (d warmup)^-0.5.
    const rate = noam(512, 2000)
    assertClose(
      [1, 1000, 2000, 8000].map(rate),
      [512 ** -0.5 * 2000 ** -1.5, (512 * 2000) ** -0.5 / 2, (512 * 2000) ** -0.5, (512 * 8000) ** -0.5],
      1e-15,
    )
    assertClose([noam(512, 2000, 3)(7)], [3 * rate(7)], 1e-15)
  })

  for (const [name, config] of Object.entries(architectures))
    it(`memory is as much after step 40 as after step 10, in training and out of it: ${name}`, async () => {
      for (const device of [reference, await wasm()]) {
        setDevice(device)
        const before = device.bytesInUse()
        const model = new Transformer({ ...config, dropout: 0.1, layers: Array.isArray(config.mixer) ? config.mixer.length : 1 })
        const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
        const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
        let at10 = 0
        let first = 0
        for (let step = 1; step <= 40; step++) {
          const { loss } = await trainer.step(randomBatch(step % 5, 2, 6))
          if (step % 7 === 0) assert.ok(Number.isFinite(await trainer.evaluate([randomBatch(1, 1, 5), randomBatch(2, 2, 3)])))
          assert.equal(model.training, true)
          if (step === 1) first = loss
          if (step === 10) at10 = device.bytesInUse()
        }
        assert.equal(device.bytesInUse(), at10)
        assert.ok((await trainer.step(randomBatch(1, 2, 6))).loss < first)
        optimizer.dispose()
        model.dispose()
        assert.equal(device.bytesInUse(), before)
      }
    })

  /** Seven steps with dropout, a schedule, another shape and an evaluation in between, the fifth from a checkpoint: all that comes of them. */
  async function sevenSteps(device: Device, config: TransformerConfig, muon: boolean, capture: boolean): Promise<unknown> {
    setDevice(device)
    const make = (model: Transformer) => {
      const optimizer = new (muon ? Muon : AdamW)(model.namedParameters(), { lr: 1e-3, weightDecay: 0.1 })
      const trainer = new Trainer(model, optimizer, { schedule: (t) => 1e-2 / t, clipNorm: 0.5, capture })
      return { model, optimizer, trainer }
    }
    let one = make(new Transformer({ ...config, dropout: 0.1, layers: Array.isArray(config.mixer) ? config.mixer.length : 1 }))
    const results: unknown[] = []
    for (let step = 1; step <= 7; step++) {
      results.push(await one.trainer.step(randomBatch(step, 2, step === 4 ? 5 : 6)))
      if (step === 3) results.push(await one.trainer.evaluate([randomBatch(9, 2, 6)]))
      if (step !== 4) continue
      const checkpoint = readCheckpoint(await writeCheckpoint(one.model, one.optimizer))
      for (const part of [one.trainer, one.optimizer, one.model]) part.dispose()
      one = make(modelOf(checkpoint) as Transformer)
      restoreOptimizer(one.optimizer, checkpoint)
    }
    results.push(one.model.random.stream, one.optimizer.steps)
    for (const p of one.model.parameters()) results.push(Array.from(await p.read()))
    for (const part of [one.trainer, one.optimizer, one.model]) part.dispose()
    return results
  }

  for (const [name, config] of Object.entries(stateful))
    it(`is the same, bit for bit, from steps that are captured: ${name}`, async () => {
      const others = name === 'default' ? [reference, await wasm(2), ...(await gpus())] : []
      for (const device of [await wasm(), ...others])
        for (const muon of device.name === 'reference' ? [false, true] : [device.name === 'webgpu']) {
          const before = device.bytesInUse()
          assert.deepEqual(await sevenSteps(device, config, muon, true), await sevenSteps(device, config, muon, false), device.description)
          assert.equal(device.bytesInUse(), before)
        }
    })

  it('captures a step once two batches of a shape have come, and anew where that changes or a parameter is frozen', async () => {
    setDevice(reference)
    const model = new Transformer({ ...architectures.default, layers: 1 })
    const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1, capture: true })
    let runs = 0
    const { loss } = model
    model.loss = (batch) => {
      runs++
      return loss.call(model, batch)
    }
    const took = async (T: number, expected: number): Promise<void> => {
      await trainer.step(randomBatch(runs, 2, T))
      assert.equal(runs, expected)
    }
    await took(6, 1)
    await took(6, 4)
    await took(6, 4)
    await took(5, 5)
    await took(6, 5)
    await took(5, 6)
    await took(5, 9)
    await took(5, 9)
    model.generator.bias!.requiresGrad = false
    await took(5, 10)
    await took(5, 13)
    await took(5, 13)
    await took(5, 13)
    // Several at once, one of which captures.
    const steps = await Promise.all([6, 6, 6].map((T, i) => trainer.step(randomBatch(i, 2, T))))
    assert.deepEqual(
      steps.map(({ step }) => step),
      [13, 14, 15],
    )
    // The third is captured: a step before was noted twice and replayed once.
    assert.equal(runs, 18)
    await assert.rejects(trainer.step({ ...randomBatch(1, 2, 6), tokens: new Int32Array(12).fill(99) }), /index 99 at 0 is outside 0\.\.12/)
    await assert.rejects(trainer.step({ ...randomBatch(1, 2, 6), targets: new Int32Array(12).fill(-1) }), /every target is ignored/)
    assert.equal(optimizer.steps, 15)
    assert.equal((await trainer.step(randomBatch(1, 2, 6))).step, 16)
    assert.equal(runs, 18)
    // A part that no longer trains is another step.
    model.transformer.layers[0].eval()
    await took(6, 19)
    await took(6, 22)
    await took(6, 22)
    trainer.dispose()
    optimizer.dispose()
    model.dispose()
  })

  it('stops capturing what an evaluation gives up before it is worth it, at whatever interval', async () => {
    const device = await wasm()
    setDevice(device)
    for (const [every, captures, passes] of [
      [1, 1, 24 + 2],
      [2, 2, 24 + 2 * 2],
      [3, 2, 24 + 2 * 2 - 2],
      // Noted at step 2, and from then on at each first step: six times, for 2 + 5 * 3 replays.
      [4, 6, 24 + 6 * 2 - 17],
      [12, 2, 24 + 2 * 2 - 21],
    ]) {
      const model = new Transformer({ ...architectures.default, layers: 1 })
      const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
      const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1, capture: true })
      let noted = 0
      let runs = 0
      const { loss } = model
      model.loss = (batch) => {
        if (model.training) runs++
        return loss.call(model, batch)
      }
      const { capture } = device
      device.capture = (...given) => {
        noted++
        return capture!.call(device, ...given)
      }
      for (let step = 1; step <= 24; step++) {
        await trainer.step(randomBatch(step, 2, 6))
        if (step % every > 0) continue
        trainer.dispose()
        await trainer.evaluate([randomBatch(step, 2, 6)])
      }
      device.capture = capture
      assert.deepEqual([noted / 2, runs], [captures, passes], `evaluated every ${every} steps`)
      for (const each of [trainer, optimizer, model]) each.dispose()
    }
    setDevice(reference)
  })

  it('captures no step that leaves gradients to the caller, and needs parameters', async () => {
    setDevice(reference)
    const before = reference.bytesInUse()
    const model = new Transformer({ ...architectures.default, layers: 1 })
    const some = [...model.namedParameters()].slice(2)
    const optimizer = new AdamW(new Map(some), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1, capture: true })
    const used: number[] = []
    for (let step = 1; step <= 4; step++) {
      assert.equal((await trainer.step(randomBatch(step))).step, step)
      for (const p of model.parameters()) {
        assert.equal(p.grad !== null, !some.some(([, one]) => one === p))
        p.grad?.dispose()
        p.grad = null
      }
      used.push(reference.bytesInUse())
    }
    assert.deepEqual(used, used.slice(0, 1).concat(used.slice(0, 3)))
    for (const part of [trainer, optimizer, model]) part.dispose()
    assert.equal(reference.bytesInUse(), before)
    class Bare extends Module {
      loss = (): Tensor => tensor([0])
    }
    const nothing = new Trainer(new Bare(), new AdamW(new Map(), { lr: 1 }), { schedule: constant(1), clipNorm: 1, capture: true })
    await assert.rejects(nothing.step({} as never), /^Error: backward: the tensor depends on no tensor with requiresGrad$/)
  })

  it('what is done while a step is being captured is as if nothing were', async () => {
    const run = async (device: Device, capture: boolean): Promise<unknown> => {
      setDevice(device)
      const before = device.bytesInUse()
      const model = new Transformer({ ...architectures.default, layers: 1, dropout: 0.1 })
      const optimizer = new AdamW(model.namedParameters(), { lr: 1e-2 })
      const trainer = new Trainer(model, optimizer, { schedule: constant(1e-2), clipNorm: 1, capture })
      const batch = randomBatch(1, 2, 6)
      /** Begins a step; the arrays are filled anew before its result is there. */
      const begin = (seed: number) => {
        const { tokens, targets } = randomBatch(seed, 2, 6)
        batch.tokens.set(tokens)
        batch.targets.set(targets)
        const result = trainer.step(batch)
        for (const values of [batch.tokens, batch.targets]) values.fill(0)
        return result
      }
      const results: unknown[] = [await begin(1)]
      const second = begin(2)
      const [file, loss] = await Promise.all([writeCheckpoint(model, optimizer), trainer.evaluate([randomBatch(9, 2, 6)])])
      results.push(await second, readCheckpoint(file).steps, file, loss)
      results.push(await Promise.all([3, 4, 5].map(begin)))
      // Put into another mode meanwhile.
      trainer.dispose()
      const third = begin(7)
      model.eval()
      results.push(await third)
      model.train()
      // Dropped while it is under way, with all that it is made of.
      trainer.dispose()
      const last = begin(6)
      for (const part of [trainer, optimizer, model]) part.dispose()
      results.push(await last)
      assert.equal(device.bytesInUse(), before)
      return results
    }
    for (const device of [reference, await wasm(), ...(await gpus())])
      assert.deepEqual(await run(device, true), await run(device, false), device.description)
  })

  it('a step that fails while nobody waits for it ends nothing', async () => {
    const model = new Transformer({ ...architectures.default, layers: 1 })
    const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
    const failed = { ...randomBatch(1, 2, 6), tokens: new Int32Array(12).fill(99) }
    assert.deepEqual(await unheard(async () => void trainer.step(failed)), [])
    assert.equal((await trainer.step(randomBatch(1, 2, 6))).step, 1)
    for (const part of [trainer, optimizer, model]) part.dispose()
  })

  it('steps are the same, bit for bit, wherever in the 4 GiB their tensors are', async () => {
    const runs: unknown[] = []
    for (const below of [0, 2 ** 31 - 2 ** 20, 2 ** 32 - 2 ** 26]) {
      const device = await wasmDevice({ threads: 2 })
      setDevice(device)
      if (below > 0) device.allocate('float32', below / 4) // never touched, so it costs nothing
      const model = new Transformer({ ...architectures.default, dropout: 0.1, symbols: 13, dModel: 64, dFf: 256 })
      const trainer = new Trainer(model, new AdamW(model.namedParameters(), { lr: 1e-3 }), { schedule: constant(1e-3), clipNorm: 1 })
      const results = []
      for (let step = 0; step < 4; step++) results.push(await trainer.step(randomBatch(step, 8, 32)))
      runs.push(results)
      device.close()
    }
    assert.deepEqual(runs[1], runs[0])
    assert.deepEqual(runs[2], runs[0])
  })

  it('evaluate counts every target once, whatever the batches, without dropout, and leaves the mode as it was', async () => {
    const model = new Transformer({ ...architectures.default, dropout: 0.5 })
    const optimizer = new Adam(model.namedParameters(), { lr: 1 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1), clipNorm: Infinity })
    const tokens = randomTokens(9, 30)
    // Rows of 7 targets: the mean over the text is that of -log p of each target, from the row's own tokens.
    let total = 0
    for (let start = 0; start < 29; start += 7) {
      const T = Math.min(7, 29 - start)
      model.eval()
      const { logits } = model.forward(tensor(tokens.slice(start, start + T), { shape: [1, T] }))
      const values = Array.from(await logits.read())
      for (let t = 0; t < T; t++) {
        const row = values.slice(13 * t, 13 * t + 13)
        total += Math.log(row.reduce((a, x) => a + Math.exp(x), 0)) - row[tokens[start + t + 1]]
      }
    }
    for (const B of [1, 2, 3, 8]) {
      model.train(B !== 2)
      assertClose([await trainer.evaluate(evaluationBatches(tokens, 7, B))], [total / 29], 1e-12)
      assert.equal(model.training, B !== 2)
    }
    const none = { tokens: new Int32Array(3), targets: new Int32Array(3).fill(ignoredTarget), B: 1, T: 3 }
    await assert.rejects(trainer.evaluate([none]), /there is no target that counts/)
    await assert.rejects(trainer.evaluate([{ ...none, targets: Int32Array.of(0, 13, 0) }]), /index 13/)
    optimizer.dispose()
    model.dispose()
  })

  it('a step that fails leaves no gradients: taken again, it is right', async () => {
    const before = reference.bytesInUse()
    const takeStep = async (fail: boolean) => {
      const model = new Transformer(architectures.default)
      const optimizer = new Adam(model.namedParameters(), { lr: 1e-3 })
      const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: Infinity })
      if (fail) {
        const { step } = optimizer
        optimizer.step = () => {
          throw new Error('no room')
        }
        await assert.rejects(trainer.step(randomBatch(1)), /^Error: no room$/)
        assert.ok(model.parameters().every((p) => p.grad === null))
        optimizer.step = step
      }
      const result = await trainer.step(randomBatch(1))
      optimizer.dispose()
      model.dispose()
      return result
    }
    assert.deepEqual(await takeStep(true), await takeStep(false))
    assert.equal(reference.bytesInUse(), before)
  })

  it('a loss that is not finite stops, and says at which step', async () => {
    setDevice(await wasm())
    const model = new Transformer(architectures.labml)
    const optimizer = new Adam(model.namedParameters(), { lr: 1 })
    const trainer = new Trainer(model, optimizer, { schedule: (t) => (t === 3 ? 1e38 : 1e-4), clipNorm: Infinity })
    for (let step = 1; step <= 3; step++) assert.equal((await trainer.step(randomBatch(step))).step, step)
    await assert.rejects(trainer.step(randomBatch(4)), (error) => {
      assert.ok(error instanceof DivergenceError)
      assert.match(error.message, /^training diverged at step 4: the loss is (NaN|Infinity) /)
      return error.step === 4
    })
    optimizer.dispose()
    model.dispose()
  })

  it('Muon takes the matrices of the layers of every kind of model, and neither embeddings nor the map to logits', () => {
    const sizes = { symbols: 16, dModel: 16, heads: 2, dFf: 16 }
    const norm = { kind: 'rms', eps: 1e-6 } as const
    const layers: BlockModelConfig['layers'] = [[{ kind: 'gated-feed-forward', inner: 16, norm }]]
    const models: [Module, string[]][] = [
      [new Transformer({ ...sizes, layers: 1 }), ['generator', 'src_embed']],
      [new Autoencoder({ ...sizes, layers: 1 }), ['encoder.generator', 'encoder.src_embed']],
      [new EncoderDecoder({ ...sizes, encoderLayers: 1, decoderLayers: 1 }), ['generator', 'src_embed', 'tgt_embed']],
      [new BlockModel({ symbols: 16, dModel: 16, norm, tie: false, layers }), ['embedding', 'head']],
    ]
    for (const [model, others] of models) {
      const parameters = model.namedParameters()
      // Muon keeps no second moment.
      const adam = [...new Muon(parameters, { lr: 1e-3 }).moments().keys()]
        .filter((name) => name.startsWith('v.'))
        .map((name) => name.slice(2))
      const matrices = [...parameters].filter(([, p]) => p.shape.length === 2 && Math.min(...p.shape) >= 16).map(([name]) => name)
      assert.deepEqual(
        adam.filter((name) => matrices.includes(name)).sort(),
        others.map((name) => `${name}.weight`),
      )
      assert.ok(matrices.length > others.length, `${matrices}`)
    }
  })

  it('a step asks for as many kernels whatever the number of layers: one of Muon a shape of matrices, one of Adam', async () => {
    const profiling = profile(await wasm())
    setDevice(profiling.device)
    const seen = new Map<string, number>()
    for (const layers of [1, 3]) {
      const model = new Transformer({ ...presets.default.model, symbols: 65, layers })
      const optimizer = new Muon(model.namedParameters(), { lr: 0.01 })
      for (const p of model.namedParameters().values()) p.grad = keep(full(p.shape, 0.1))
      const before = await profiling.entries()
      optimizer.step({ clipNorm: 1 }).dispose()
      for (const { spans, kernel, detail, calls } of await profiling.entries()) {
        const more = calls - (before.find((e) => e.spans[0] === spans[0] && e.kernel === kernel && e.detail === detail)?.calls ?? 0)
        if (spans[0] === 'optimizer' && more > 0) seen.set(`${layers} ${kernel} ${detail}`.trim(), more)
      }
      optimizer.dispose()
      model.dispose()
    }
    profiling.stop()
    for (const layers of [1, 3]) {
      const called = [...seen].filter(([name]) => name.startsWith(`${layers} `))
      assert.ok(called.reduce((sum, [, calls]) => sum + calls, 0) <= 12, called.join())
      const own = called.filter(([name]) => / (muon|adam|gradNorm)/.test(name)).sort()
      const expected = ['adam', 'gradNorm', `muon ${2 * layers} of 128×512`, `muon ${5 * layers} of 128×128`]
      assert.deepEqual(own, expected.map((name) => [`${layers} ${name}`, 1] as [string, number]).sort())
    }
  })

  for (const Optimizer of [Adam, Muon])
    it(`numbers that are lost before a gate are divergence, on every device: ${Optimizer.name}`, async () => {
      for (const device of [reference, await wasm(), await wasm(2), ...(await gpus())]) {
        setDevice(device)
        const model = new Transformer({ ...architectures['gated-deltanet'], dModel: 32, dropout: 0 })
        const optimizer = new Optimizer(model.namedParameters(), { lr: 0.01 })
        const trainer = new Trainer(model, optimizer, { schedule: constant(0.01), clipNorm: 1 })
        await trainer.step(randomBatch(1))
        const bytes = device.bytesInUse()
        const good = await model.stateDict()
        const gate = model.namedParameters().get('transformer.layers.1.attn.gate.A_log')!
        gate.write(new Float32Array(gate.size).fill(Number.NaN))
        await assert.rejects(trainer.step(randomBatch(2)), (error) => {
          assert.ok(error instanceof DivergenceError)
          assert.equal(error.message, 'training diverged at step 2: the loss is NaN (try a lower learning rate)')
          return error.step === 2
        })
        assert.ok(Number.isNaN(await trainer.evaluate([randomBatch(3)])))
        await assert.rejects(generate(model, randomTokens(1, 4), { length: 2 }).next(), {
          message: "generate: the model's output isn't finite",
        })
        model.loadStateDict(good)
        trainer.dispose()
        assert.equal(device.bytesInUse(), bytes)
        // A gate above 0 isn't what a layer makes: it stays an error of the op's.
        const { attn } = model.transformer.layers[0] as { attn: FastWeightsAttention }
        attn.gate!.forward = (x) => full([...x.shape.slice(0, 2), 2], 0.5)
        for (const attempt of [() => trainer.step(randomBatch(2)), () => trainer.evaluate([randomBatch(2)])])
          await assert.rejects(attempt, (error) => error instanceof GateError && /^fastWeights: the gate holds 0\.5; /.test(error.message))
        for (const part of [trainer, optimizer, model]) part.dispose()
      }
    })

  it('a first loss, and a first gradient, that are not finite are said to be those of the model as it begins', async () => {
    setDevice(await wasm())
    const model = new Transformer({ ...architectures.labml, embeddingStd: 1e38 })
    const optimizer = new Adam(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: Infinity })
    await assert.rejects(trainer.step(randomBatch(1)), {
      name: 'DivergenceError',
      step: 1,
      message: /^the initial (loss|gradient's norm) is (NaN|Infinity): nothing has been learnt yet, .*embeddingStd.*featureEps/,
    })
    optimizer.dispose()
    model.dispose()
  })
})
