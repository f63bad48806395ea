/** Feature maps against their formulas on plain numbers, their gradients, FAVOR+'s directions and when they are drawn. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type Device, detach, dpfp, generator, gradCheck, ones, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import { checkFeatures } from '../../nn/features.ts'
import {
  type FeatureConfig,
  type FeatureMap,
  Features,
  favor,
  featureDefaults,
  featureMaps,
  orthogonalRows,
  Transformer,
} from '../../nn/index.ts'
import { assertClose, assertSameBits, gpus, random, readAndFree, reference, runsOn, uniforms, wasm } from '../helpers.ts'
import { dot, formulas, norms, rows, sum } from './formulas.ts'
import { architectures, randomTokens } from './models.ts'

const names = Object.keys(featureMaps) as FeatureMap[]

/** A map's own settings that differ from the defaults. */
const settings = (featureMap: FeatureMap, K: number, pick: number): Partial<FeatureConfig> => {
  if (featureMap === 'dpfp') return { nu: 1 + (pick % (2 * K - 1)) }
  if (featureMap === 'favor') return { favorFeatures: pick % (2 * K + 2), favorSeed: pick }
  if (featureMap === 'hedgehog') return { hedgehogShared: pick % 2 === 1 }
  return {}
}

describe('feature maps', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [[reference, 1e-13], [await wasm(), 1e-6], ...(await gpus()).map((device): [Device, number] => [device, 1e-6])]
  })
  afterEach(() => setDevice(reference))

  for (const featureMap of names)
    it(`follow their formulas, whatever the norm: ${featureMap}`, async () => {
      const sizes = fc.record({ B: fc.nat(1), T: fc.nat(4), H: fc.nat(2), K: fc.nat(8), seed: fc.nat(), pick: fc.nat(100) })
      const norm = fc.constantFrom(...(Object.keys(norms) as (keyof typeof norms)[]))
      for (const [device, bound] of devices) {
        setDevice(device)
        await fc.assert(
          fc.asyncProperty(sizes, norm, async (s, featureNorm) => {
            const [B, T, H, K] = [s.B + 1, s.T + 1, s.H + 1, featureMap === 'dpfp' ? s.K + 2 : s.K + 1]
            if (featureNorm === 'sum' && featureMaps[featureMap].sign !== 'non-negative') return
            const featureEps = featureNorm === 'none' ? 1e-6 : 1e-3
            const config = { ...featureDefaults, ...settings(featureMap, K, s.pick), featureMap, featureNorm, featureEps }
            const x = uniforms(s.seed, B * T * H * K, -2, 2)
            const before = device.bytesInUse()
            const features = new Features(config, H, K, generator(3))
            const weight = features.weight
            if (weight && featureMap === 'hedgehog') weight.write(uniforms(s.seed + 1, weight.size))
            const W = Array.from((await weight?.read()) ?? [])
            const given = tensor(x, { shape: [B, T, H, K] })
            const [y] = features.forward(given)
            const expected = Array.from({ length: B * T * H }, (_, r) => {
              const own = config.hedgehogShared || featureMap === 'favor' ? W : W.slice((r % H) * K * K, ((r % H) + 1) * K * K)
              return norms[featureNorm](formulas[featureMap](Array.from(x.slice(r * K, (r + 1) * K)), config, own), featureEps)
            })
            assert.deepEqual(y.shape, [B, T, H, features.width])
            assertClose(await y.read(), expected.flat(), bound, 0.1, `${featureMap}, ${featureNorm}, K ${K}`)
            if (y !== given) y.dispose()
            given.dispose()
            features.dispose()
            if (featureMap === 'identity') assert.equal(device.bytesInUse(), before)
          }),
          { numRuns: runsOn(device, 30) },
        )
      }
    })

  for (const featureMap of names)
    it(`have the gradients of finite differences: ${featureMap}`, async () => {
      for (const featureNorm of Object.keys(norms) as (keyof typeof norms)[])
        for (const [K, pick] of [
          [1, 1],
          [3, 2],
          [4, 5],
        ]) {
          if (featureNorm === 'sum' && featureMaps[featureMap].sign !== 'non-negative') continue
          const H = 2
          const config = { ...featureDefaults, ...settings(featureMap, K, pick), featureMap, featureNorm }
          // Features that are all zero have a kink in their norm.
          if (K === 1 && featureMap === 'dpfp') continue
          const features = new Features(config, H, K, generator(1))
          const { weight } = features
          const inputs = [tensor(uniforms(pick, 2 * H * K, 0.2, 1.5), { shape: [1, 2, H, K] })]
          if (featureMap === 'hedgehog') inputs.push(tensor(uniforms(pick + 1, weight!.size), { shape: weight!.shape }))
          const f = (x: Tensor, W?: Tensor): Tensor => {
            features.weight = W ?? weight
            return features.forward(x)[0]
          }
          await gradCheck(f, inputs)
        }
    })

  it('stay finite and leave zero keys zero, however long or short the key', async () => {
    for (const [device] of devices) {
      setDevice(device)
      for (const featureMap of names)
        for (const featureNorm of Object.keys(norms) as (keyof typeof norms)[])
          for (const size of [0, 1e-20, 1e3, 1e9]) {
            if (featureNorm === 'sum' && featureMaps[featureMap].sign !== 'non-negative') continue
            const x = tensor(
              uniforms(1, 100).map((a) => a * size),
              { shape: [1, 1, 1, 100] },
            )
            const features = new Features({ ...featureDefaults, featureMap, featureNorm }, 1, 100, generator(1))
            const [y] = features.forward(x)
            const values = Array.from(await y.read())
            assert.ok(values.every(Number.isFinite), `${featureMap}, ${featureNorm}, ${size}`)
            if (size === 0 && ['identity', 'silu', 'relu', 'relu2', 'dpfp'].includes(featureMap)) assert.ok(values.every((a) => a === 0))
            for (const t of [x, y]) t.dispose()
            features.dispose()
          }
    }
  })

  // Schlag 2021, eq. 37, has r_j r_(j+i); its authors' code and labml's roll the other way, and so does ours.
  it('of DPFP have the same inner products whichever way they are rolled', async () => {
    const [K, nu] = [5, 3]
    const [x, y] = [1, 2].map((seed) => Array.from(uniforms(seed, K)))
    const other = (x: number[]): number[] => {
      const r = [...x, ...x.map((a) => -a)].map((a) => Math.max(a, 0))
      return Array.from({ length: nu }, (_, i) => r.map((a, j) => a * r[(j + i + 1) % (2 * K)])).flat()
    }
    const [a, b] = rows(await dpfp(tensor([...x, ...y], { shape: [2, K] }), nu).read(), 2 * K * nu)
    assert.notDeepEqual(a, other(x))
    assertClose([dot(a, b)], [dot(other(x), other(y))], 1e-13)
  })

  it('end the exponents of favor at 40', async () => {
    const omega = tensor([20, 0], { shape: [1, 2] })
    const [top, low] = await favor(tensor([20, 0], { shape: [1, 2] }), omega, 0).read()
    assertClose([top, low], [Math.exp(40) / Math.sqrt(2), 0], 1e-12, 0)
    assertClose(
      await favor(tensor([1, 0], { shape: [1, 2] }), omega, 0).read(),
      [Math.exp(19.5), Math.exp(-20.5)].map((a) => a / Math.sqrt(2)),
      1e-12,
      0,
    )
  })

  it('refuse what makes no sense, and options that mean nothing', () => {
    const before = reference.bytesInUse()
    const refused = (change: object, message: string) =>
      assert.throws(() => new Features({ ...featureDefaults, ...change } as FeatureConfig, 2, 4, generator(1)), { message })
    const list = names.join(', ')
    refused({ featureMap: 'constructor' }, `unknown feature map 'constructor' (${list})`)
    refused({ featureNorm: 'l1' }, "unknown feature norm 'l1' (none, sum, l2)")
    refused({ nu: 8 }, 'nu must be an integer from 1 to 2 K - 1 = 7 for heads of width K, not 8')
    refused({ featureMap: 'relu', nu: 2 }, 'nu = 2 means nothing here: it belongs to the feature map dpfp')
    refused({ favorFeatures: 3 }, 'favorFeatures = 3 means nothing here: it belongs to the feature map favor')
    refused({ favorSeed: 3 }, 'favorSeed = 3 means nothing here: it belongs to the feature map favor')
    refused({ favorRedraw: 'step' }, 'favorRedraw = step means nothing here: it belongs to the feature map favor')
    refused({ hedgehogShared: true }, 'hedgehogShared = true means nothing here: it belongs to the feature map hedgehog')
    refused({ featureNorm: 'none', featureEps: 1 }, 'featureEps = 1 means nothing here: it belongs to the feature norms sum and l2')
    refused({ featureEps: -1 }, 'featureEps must be 0 or more, not -1')
    refused({ featureEps: '1' }, "featureEps must be a number, not the text '1'")
    refused({ featureEps: Infinity }, 'featureEps must be 0 or more, not Infinity')
    // Every map whose features can all be 0, with every norm that divides by them.
    const why = (map: string, norm: string) =>
      `the features of ${map} can all be 0, and the feature norm ${norm} divides by ${norm === 'sum' ? 'theirs' : 'the root of their squares'}`
    for (const [featureMap, norms] of Object.entries({
      ...{ relu: ['sum', 'l2'], relu2: ['sum', 'l2'], dpfp: ['sum', 'l2'], elu1: ['sum', 'l2'] },
      ...{ identity: ['l2'], silu: ['l2'] },
    }))
      for (const featureNorm of norms) {
        refused({ featureMap, featureNorm, featureEps: 0 }, `featureEps must be above 0: ${why(featureMap, featureNorm)}`)
        refused(
          { featureMap, featureNorm, featureEps: 1e-50 },
          `featureEps must be above 0 in float32 (at least 2^-126): ${why(featureMap, featureNorm)}`,
        )
      }
    refused({ featureMap: 'favor', favorFeatures: 1.5 }, 'favorFeatures must be a number of directions, or 0 for K, not 1.5')
    refused({ featureMap: 'favor', favorSeed: -1 }, 'favorSeed must be an integer from 0 to 4294967295, not -1')
    refused({ featureMap: 'favor', favorRedraw: 'always' }, "unknown favorRedraw 'always' (never, epoch, step)")
    for (const featureMap of ['identity', 'silu', 'taylor2'])
      refused({ featureMap }, `the feature norm sum divides by a sum that ${featureMap} can make zero or negative; use l2 or none`)
    assert.equal(reference.bytesInUse(), before)
  })
})

describe('feature maps with a feature norm, of zeros and of what makes them vanish', () => {
  let devices: Device[]
  before(async () => {
    devices = [reference, await wasm(), ...(await gpus())]
  })
  afterEach(() => setDevice(reference))

  for (const featureMap of names)
    for (const featureNorm of ['sum', 'l2'] as const)
      for (const featureEps of [0, 2 ** -126]) {
        const config = { ...featureDefaults, featureMap, featureNorm, featureEps }
        const allowed = ((): boolean => {
          try {
            checkFeatures(config, 4)
            return true
          } catch {
            return false
          }
        })()
        // What is refused is never 0 / 0; nor is anything else.
        if (allowed)
          it(`are numbers, and so are their gradients: ${featureMap}, ${featureNorm}, eps ${featureEps}`, async () => {
            for (const device of devices) {
              setDevice(device)
              const grads = scope(() => {
                const features = new Features(config, 1, 4, generator(1))
                const x = tensor([0, 0, 0, 0, -200, -200, -200, -200, 30, -30, 30, -30, 1, 0, 0, 0], {
                  shape: [1, 4, 1, 4],
                  requiresGrad: true,
                })
                const [y] = features.forward(x)
                y.backward(ones(y.shape))
                const result = [detach(y), x.grad!]
                features.dispose()
                return result
              })
              for (const t of grads) assert.ok((await readAndFree(t)).every(Number.isFinite), device.name)
            }
          })
      }
})

describe("FAVOR+'s directions", () => {
  afterEach(() => setDevice(reference))

  it('are orthogonal within a block, and as long as normal rows', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 9 }), fc.nat(), (m, K, seed) => {
        const omega = rows(orthogonalRows(m, K, seed, 0), K)
        for (let r = 0; r < m; r++)
          for (let s = r - (r % K); s < r; s++) {
            const cosine = dot(omega[r], omega[s]) / Math.sqrt(dot(omega[r], omega[r]) * dot(omega[s], omega[s]))
            assert.ok(Math.abs(cosine) < 1e-12, `rows ${r} and ${s}: ${cosine}`)
          }
      }),
    )
    // |omega|^2 is chi-squared with K degrees of freedom: mean K, variance 2 K; the mean of n is within 5 standard deviations.
    const [m, K] = [3000, 6]
    const mean = sum(rows(orthogonalRows(m, K, 1, 0), K).map((w) => dot(w, w))) / m
    assert.ok(Math.abs(mean - K) < 5 * Math.sqrt((2 * K) / m), `${mean}`)
  })

  it('make phi(x) . phi(y) an unbiased estimate of exp(x . y)', async () => {
    const next = random(4)
    const [K, draws] = [4, 2000]
    const [x, y] = [0, 1].map(() => Array.from({ length: K }, () => next() - 0.5))
    const estimates: number[] = []
    for (let seed = 0; seed < draws; seed++) {
      const omega = tensor(orthogonalRows(K, K, seed, 0), { shape: [K, K] })
      const [a, b] = rows(await favor(tensor([...x, ...y], { shape: [2, K] }), omega, 0).read(), 2 * K)
      estimates.push(dot(a, b))
    }
    const mean = sum(estimates) / draws
    const deviation = Math.sqrt(sum(estimates.map((e) => (e - mean) ** 2)) / (draws - 1) / draws)
    assert.ok(Math.abs(mean - Math.exp(dot(x, y))) < 4 * deviation, `${mean}, expected ${Math.exp(dot(x, y))} +- ${deviation}`)
  })

  const performer = { ...architectures.performer, layers: 2 }
  const weightsOf = async (model: Transformer) =>
    Promise.all(model.transformer.layers.map(async ({ attn }) => (attn as { features: Features }).features.weight!.read()))

  it('are those of their seed and place, whatever the seed of the model', async () => {
    const [a, b, c] = await Promise.all(
      [new Transformer(performer, 1), new Transformer(performer, 2), new Transformer({ ...performer, favorSeed: 1 }, 1)].map(weightsOf),
    )
    assertSameBits(a[0], b[0])
    assertSameBits(a[1], b[1])
    assert.notDeepEqual(a[0], a[1])
    assert.notDeepEqual(a[0], c[0])
  })

  for (const [policy, training] of [
    ['never', false],
    ['epoch', false],
    ['step', true],
  ] as const)
    it(`are redrawn by training forward passes: ${policy}`, async () => {
      const model = new Transformer({ ...performer, favorRedraw: policy })
      const forward = () => model.forward(tensor(randomTokens(1, 10), { shape: [2, 5] })).logits
      const first = await weightsOf(model)
      forward()
      const second = await weightsOf(model)
      assert.equal(String(first[0]) !== String(second[0]), training)
      assert.equal(String(first[1]) !== String(second[1]), training)
      model.eval()
      const [y, z] = [await forward().read(), await forward().read()]
      assertSameBits(y, z)
      assert.deepEqual(await weightsOf(model), second)
      if (policy === 'never') assert.throws(() => model.redraw(), /^Error: redraw: this layer's features are fixed/)
      else {
        model.redraw()
        assert.notDeepEqual(await weightsOf(model), second)
      }
    })

  it('are redrawn where a layer draws them, beside layers of fixed ones', async () => {
    const epoch = { kind: 'fast-weights', featureMap: 'favor', favorRedraw: 'epoch' } as const
    const model = new Transformer({ ...performer, mixer: [epoch, { ...epoch, favorRedraw: 'never' }] })
    const before = await weightsOf(model)
    model.redraw()
    const after = await weightsOf(model)
    assert.notDeepEqual(after[0], before[0])
    assertSameBits(after[1], before[1])
  })

  it('may be redrawn between a forward pass and its backward', async () => {
    const model = new Transformer({ ...performer, favorRedraw: 'step' })
    const loss = () => model.forward(tensor(randomTokens(1, 10), { shape: [2, 5] })).logits
    const stream = model.random.stream
    const [a, b] = [loss(), loss()]
    a.backward(tensor(uniforms(1, a.size), { shape: a.shape }))
    b.backward(tensor(uniforms(2, b.size), { shape: b.shape }))
    const together = await Promise.all(model.parameters().map(async (p) => p.grad?.read()))
    for (const p of model.parameters()) p.grad = null
    model.random.stream = stream
    for (const seed of [1, 2]) {
      const y = loss()
      y.backward(tensor(uniforms(seed, y.size), { shape: y.shape }))
    }
    const apart = await Promise.all(model.parameters().map(async (p) => p.grad?.read()))
    for (const [i, gradient] of together.entries()) if (gradient) assertClose(gradient, apart[i]!, 1e-12)
  })
})
