/** Training in precision f16: the loss's scale, steps that are left out, checkpoints, and what is as it was in f32. */
import assert from 'node:assert/strict'
import {
  adamSteps,
  add,
  type Device,
  type HostArray,
  keep,
  mul,
  muonSteps,
  parameter,
  scope,
  setDevice,
  sqrt,
  square,
  sum,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import {
  Adam,
  AdamW,
  constant,
  Module,
  Muon,
  modelOf,
  readCheckpoint,
  readSafetensors,
  restoreOptimizer,
  type StepResult,
  Trainer,
  Transformer,
  writeCheckpoint,
  writeSafetensors,
} from '../../nn/index.ts'
import { assertSameBits, builds, gpus, halfDevices, halfReference, reference, uniforms, wasm } from '../helpers.ts'
import { architectures, randomBatch } from './models.ts'

interface Learner {
  model: Transformer
  optimizer: Muon
  trainer: Trainer
  dispose(): void
}

function learner(device: Device, restored?: { model: Transformer; optimizer?: Muon }, capture?: boolean): Learner {
  setDevice(device)
  const model = restored?.model ?? new Transformer({ ...architectures.default, layers: 1 })
  const optimizer = restored?.optimizer ?? new Muon(model.namedParameters(), { lr: 1e-3 })
  const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1, capture })
  return {
    model,
    optimizer,
    trainer,
    dispose() {
      trainer.dispose()
      optimizer.dispose()
      model.dispose()
    },
  }
}

const steps = async ({ trainer }: Learner, from: number, to: number): Promise<StepResult[]> => {
  const results: StepResult[] = []
  for (let step = from; step <= to; step++) results.push(await trainer.step(randomBatch(step, 2, 6)))
  return results
}

const valuesOf = (tensors: Iterable<Tensor>): Promise<HostArray[]> => Promise.all([...tensors].map((t) => t.read()))
const stateOf = ({ model, optimizer }: Learner): Promise<HostArray[]> =>
  valuesOf([...model.namedParameters().values(), ...optimizer.moments().values()])

/** A weight whose gradient is NaN. */
class Slope extends Module {
  weight: Tensor
  constructor(device: Device) {
    super()
    this.weight = parameter(tensor(uniforms(1, 32 * 20), { shape: [32, 20], device }))
  }
  loss(_: { targets: Int32Array }): Tensor {
    return sum(sqrt(mul(this.weight, 0)))
  }
}

describe('training in precision f16', () => {
  afterEach(() => setDevice(reference))

  it('an update that is guarded changes nothing where its scale is 0, NaN or below, and is the usual one above', async () => {
    const devices = [reference, ...(await Promise.all(builds.map(({ relaxed }) => wasm(2, relaxed)))), ...(await gpus())]
    for (const device of devices)
      for (const kind of ['adam', 'muon'] as const) {
        const run = (scale: number, guarded: boolean): Promise<HostArray[]> => {
          const made = (seed: number): Tensor[] =>
            [
              [20, 33],
              [33, 20],
            ].map((shape, i) => tensor(uniforms(seed + i, 660, 0, 1), { shape, device }))
          const [ps, gs, ms, vs] = [1, 3, 5, 7].map(made)
          const factor = tensor([scale], { device })
          const common = { lr: 0.1, weightDecay: 0.1, guarded }
          const adam = { ...common, beta1: 0.9, beta2: 0.99, eps: 1e-8, decoupled: true, correction1: 0.1, correction2: 0.01 }
          const slots = ps.map((p, i) => ({ p, g: gs[i], m: ms[i], v: vs[i] }))
          if (kind === 'adam') adamSteps(slots, adam, factor)
          else
            muonSteps(
              slots.map(({ v: _, ...slot }) => slot),
              { ...common, momentum: 0.9 },
              factor,
            )
          const all = [...ps, ...ms, ...vs]
          return valuesOf(all).finally(() => {
            for (const t of [...all, ...gs, factor]) t.dispose()
          })
        }
        const usual = await run(0.5, false)
        for (const [i, x] of (await run(0.5, true)).entries()) assertSameBits(x, usual[i], `${device.description}, ${kind}`)
        const before = [1, 2, 5, 6, 7, 8].map((seed) => Float64Array.from(uniforms(seed, 660, 0, 1)))
        for (const scale of [0, Number.NaN, -1])
          for (const [i, x] of (await run(scale, true)).entries())
            assertSameBits(Float64Array.from(x), before[i], `${device.description}, ${kind}, scale ${scale}`)
      }
  })

  it('a step whose gradients overflow is left out, and the scale halved; after 2,000 others it is doubled', async function () {
    for (const device of [halfReference, ...(await halfDevices(this))]) {
      const model = new Slope(device)
      const { weight } = model
      const optimizer = new AdamW(model.namedParameters(), { lr: 0.1 })
      const stateOf = async (): Promise<number[]> => Array.from(await optimizer.lossScale!.state.read())
      /** With a loss whose gradient, scaled, is overwritten. */
      const step = async (gradient: number): Promise<{ norm: number; state: number[] }> => {
        const norm = scope(() => {
          const loss = sum(square(weight))
          loss.backward(optimizer.seed(loss))
          weight.grad!.write(new Float32Array(weight.size).fill(gradient))
          return optimizer.step({ clipNorm: 1 })
        })
        const value = await norm.item()
        norm.dispose()
        optimizer.zeroGrad()
        return { norm: value, state: await stateOf() }
      }
      assert.deepEqual(await stateOf(), [65536, 2 ** -16, 0])
      const before = await weight.read()
      for (const [gradient, scale] of [
        [Infinity, 2 ** 15],
        [Number.NaN, 2 ** 14],
      ]) {
        const { norm, state } = await step(gradient)
        assert.ok(!Number.isFinite(norm))
        assert.deepEqual(state, [scale, 1 / scale, 0])
        assertSameBits(await weight.read(), before, 'the weight after a step that was left out')
      }
      const { norm, state } = await step(2 ** 13)
      assert.deepEqual(state, [2 ** 14, 2 ** -14, 1])
      // Unscaled, each is a half.
      assert.ok(Math.abs(norm - 0.5 * Math.sqrt(weight.size)) < 1e-3, `${norm}`)
      assert.notDeepEqual(await weight.read(), before)
      optimizer.lossScale!.restore('16384 1999')
      assert.deepEqual((await step(2 ** 13)).state, [2 ** 15, 2 ** -15, 0])
      optimizer.dispose()
      weight.dispose()
    }
  })

  it('the scale stays between 1 and 2^126, so that it never becomes 0 or infinite', async function () {
    for (const device of [halfReference, ...(await halfDevices(this))]) {
      const { weight } = new Slope(device)
      const optimizer = new Adam(new Map([['weight', weight]]), { lr: 0.1 })
      for (const [before, gradient, after] of [
        ['1 3', Number.NaN, [1, 1, 0]],
        [`${2 ** 126} 1999`, 0, [2 ** 126, 2 ** -126, 0]],
        [`${2 ** 126} 5`, 0, [2 ** 126, 2 ** -126, 6]],
      ] as const) {
        optimizer.lossScale!.restore(before)
        scope(() => {
          const loss = sum(square(weight))
          loss.backward(optimizer.seed(loss))
          weight.grad!.write(new Float32Array(weight.size).fill(gradient))
          optimizer.step()
        })
        optimizer.zeroGrad()
        assert.deepEqual(Array.from(await optimizer.lossScale!.state.read()), after, `${device.name}, ${before}`)
      }
      optimizer.dispose()
      weight.dispose()
    }
  })

  it('where no product is rounded, steps have the bits of f32: micro-batches, groups, bounded norms, gradients of 0', async function () {
    const plain = [reference, await wasm(2, builds.at(-1)!.relaxed), ...(await gpus())]
    const half = [halfReference, ...(await halfDevices(this))]
    const run = async (device: Device, Kind: typeof AdamW | typeof Muon): Promise<HostArray[]> => {
      const weights = ['first', 'second'].map((name, i): [string, Tensor] => [
        name,
        parameter(tensor(uniforms(i, 12 * 8), { shape: [12, 8], device })),
      ])
      const optimizer = new Kind(new Map(weights), { lr: 0.1, weightDecay: 0.1, decays: (name) => name === 'first' })
      const norms: Tensor[] = []
      for (const [factor, clipNorm] of [
        [1, 0.5],
        [3, undefined],
        [0, 0.5],
        [1, 100],
      ]) {
        scope(() => {
          // Of two, gradients add up.
          for (const part of [factor, 2 * factor!]) {
            const loss = weights.map(([, w]) => sum(square(mul(w, part!)))).reduce((a, b) => add(a, b))
            loss.backward(optimizer.seed(loss))
          }
          norms.push(keep(optimizer.step({ clipNorm })))
        })
        optimizer.zeroGrad()
      }
      const all = [...weights.map(([, w]) => w), ...optimizer.moments().values(), ...norms]
      return valuesOf(all).finally(() => {
        optimizer.dispose()
        for (const t of [...weights.map(([, w]) => w), ...norms]) t.dispose()
      })
    }
    for (const [i, device] of half.entries())
      for (const Kind of [AdamW, Muon]) {
        const expected = await run(plain[i], Kind)
        for (const [j, x] of (await run(device, Kind)).entries()) assertSameBits(x, expected[j], `${device.name}, ${Kind.name}: ${j}`)
      }
  })

  it('a run resumes from its checkpoint to the bit, the scale and its count included', async function () {
    for (const device of [halfReference, ...(await halfDevices(this))]) {
      const whole = learner(device)
      assert.equal((await steps(whole, 1, 3))[0].lossScale, 65536)
      whole.optimizer.lossScale!.restore('256 1998')
      const bytes = await writeCheckpoint(whole.model, whole.optimizer)
      const checkpoint = readCheckpoint(bytes)
      assert.deepEqual([checkpoint.lossScale, checkpoint.extra], ['256 1998', {}])
      const expected = await steps(whole, 4, 7)
      assert.deepEqual(
        expected.map(({ lossScale }) => lossScale),
        [256, 256, 512, 512],
      )
      setDevice(device)
      const model = modelOf(checkpoint)
      const optimizer = new Muon(model.namedParameters(), { lr: 1e-3 })
      restoreOptimizer(optimizer, checkpoint)
      const resumed = learner(device, { model, optimizer })
      assert.deepEqual(await steps(resumed, 4, 7), expected)
      const [ours, theirs] = [await stateOf(resumed), await stateOf(whole)]
      for (const [i, x] of ours.entries()) assertSameBits(x, theirs[i], `${i}`)
      whole.dispose()
      resumed.dispose()
    }
  })

  it('a captured step is the step, to the bit, also where one is left out', async function () {
    for (const device of [halfReference, ...(await halfDevices(this))]) {
      const runs = await Promise.all(
        [false, true].map(async (capture) => {
          const one = learner(device, undefined, capture)
          const results = await steps(one, 1, 4)
          // Of a scale that no gradient of float32 survives.
          one.optimizer.lossScale!.restore(`${2 ** 126} 7`)
          results.push(...(await steps(one, 5, 8)))
          const state = await stateOf(one)
          one.dispose()
          return { results, state }
        }),
      )
      assert.deepEqual(runs[1].results, runs[0].results)
      assert.deepEqual(
        runs[0].results.slice(4, 6).map(({ gradNorm, lossScale }) => [Number.isFinite(gradNorm), lossScale]),
        [
          [false, 2 ** 126],
          [false, 2 ** 125],
        ],
      )
      for (const [i, x] of runs[0].state.entries()) assertSameBits(runs[1].state[i], x, `${i}`)
    }
  })

  it('diverges where a gradient overflows without a scale, too', async () => {
    const model = new Slope(halfReference)
    const optimizer = new Adam(model.namedParameters(), { lr: 0.1 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(0.1), clipNorm: Infinity })
    const batch = { targets: new Int32Array(1) }
    const scales: (number | undefined)[] = []
    for (let i = 0; i < 16; i++) scales.push((await trainer.step(batch)).lossScale)
    assert.deepEqual(
      scales,
      Array.from({ length: 16 }, (_, i) => 2 ** (16 - i)),
    )
    await assert.rejects(trainer.step(batch), /^DivergenceError: training diverged at step 17: the gradient's norm is NaN/)
    optimizer.dispose()
    model.dispose()
  })

  it('is as it was in f32: no scale, and checkpoints without a word of it', async () => {
    const one = learner(reference)
    const results = await steps(one, 1, 2)
    assert.equal(one.optimizer.lossScale, null)
    assert.ok(results.every((result) => !('lossScale' in result)))
    const checkpoint = readCheckpoint(await writeCheckpoint(one.model, one.optimizer))
    assert.ok(!('lossScale' in checkpoint))
    // A run in f16 goes on in f32, and the other way round.
    const half = learner(halfReference)
    await steps(half, 1, 1)
    const bytesOfHalf = await writeCheckpoint(half.model, half.optimizer)
    const { tensors, metadata } = readSafetensors(bytesOfHalf)
    const saved = readCheckpoint(bytesOfHalf)
    setDevice(reference)
    const model = modelOf(saved)
    const optimizer = new Muon(model.namedParameters(), { lr: 1e-3 })
    restoreOptimizer(optimizer, saved)
    restoreOptimizer(half.optimizer, checkpoint)
    assert.match(await half.optimizer.lossScale!.saved(), /^(65536 1|32768 0)$/)
    for (const text of ['3 0', '65536', '65536 2000', 'x 1', '-2 0', '0 0', '0.5 0', 'Infinity 0']) {
      const problem = /the loss scale must be a power of two from 1 to 2\^126 and a number of steps below 2000, not "/
      assert.throws(() => half.optimizer.lossScale!.restore(text), problem)
      const wrong = writeSafetensors(tensors, { ...metadata, lossScale: text })
      assert.throws(() => readCheckpoint(wrong), problem)
    }
    const bytes = halfReference.bytesInUse()
    const adam = new Adam(half.model.namedParameters(), { lr: 1 })
    adam.dispose()
    assert.equal(halfReference.bytesInUse(), bytes)
    one.dispose()
    half.dispose()
    optimizer.dispose()
    model.dispose()
  })

  it('learns as in f32: losses of 30 steps are within a hundredth', async function () {
    for (const device of [halfReference, ...(await halfDevices(this))]) {
      const [half, whole] = [learner(device), learner(reference)]
      // What so few tokens need: with more none of these steps is left out.
      half.optimizer.lossScale!.restore('256 0')
      const [ours, theirs] = [await steps(half, 1, 30), await steps(whole, 1, 30)]
      let differs = false
      for (const [i, { loss }] of theirs.entries()) {
        assert.ok(Math.abs(ours[i].loss - loss) < 0.01, `${device.name}, step ${i + 1}: ${ours[i].loss}, in f32 ${loss}`)
        differs ||= Math.abs(ours[i].loss - loss) > 1e-6
      }
      assert.ok(differs, 'nothing was rounded')
      half.dispose()
      whole.dispose()
    }
  })
})
