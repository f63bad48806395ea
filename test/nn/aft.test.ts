/** The layer of the attention free transformer: its equation in plain loops, causal and not, and labml's state dicts. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type Device, generator, noGrad, scope, setDevice, tensor } from '../../engine/index.ts'
import { Aft, type AftConfig, type AftForm } from '../../nn/index.ts'
import { assertRms, gpus, reference, runsOn, uniforms, wasm } from '../helpers.ts'
import { aftByHand } from './formulas.ts'

const forms: readonly AftForm[] = ['full', 'local', 'simple', 'conv']
const own = (form: AftForm, N: number, s: number, H: number): Partial<AftConfig> =>
  ({ full: { tableLength: N }, local: { tableLength: N, window: s }, simple: {}, conv: { window: Math.max(s, 1), heads: H } })[form]

describe('the attention free layer', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [[reference, 1e-10], [await wasm(), 1e-5], ...(await gpus()).map((device): [Device, number] => [device, 1e-5])]
  })
  afterEach(() => setDevice(reference))

  const cases = fc.record({
    B: fc.integer({ min: 1, max: 2 }),
    T: fc.integer({ min: 1, max: 14 }),
    H: fc.integer({ min: 1, max: 3 }),
    K: fc.integer({ min: 1, max: 4 }),
    N: fc.integer({ min: 1, max: 14 }),
    s: fc.integer({ min: 0, max: 6 }),
    causal: fc.boolean(),
    projectionBias: fc.boolean(),
    seed: fc.nat(1000),
  })
  for (const form of forms)
    it(`is its equation, beyond its table too: ${form}`, async () => {
      for (const [device, bound] of devices) {
        setDevice(device)
        const property = fc.asyncProperty(cases, async ({ B, T, H, K, N, s, causal, projectionBias, seed }) => {
          const D = H * K
          // Without causality a table ends where it ends.
          const length = causal ? N : Math.max(N, T)
          const layer = new Aft({ dModel: D, form, causal, projectionBias, ...own(form, length, s, H) }, generator(seed))
          const parameters: Record<string, number[]> = {}
          for (const [i, [name, p]] of [...layer.namedParameters()].entries()) {
            p.write(uniforms(seed + i, p.size))
            parameters[name] = Array.from(await p.read())
          }
          const x = uniforms(seed, B * T * D)
          const { y } = scope(() => noGrad(() => layer.forward(tensor(x, { shape: [B, T, D] }))))
          const rows = Array.from({ length: B * T }, (_, i) => Array.from(x.subarray(i * D, (i + 1) * D)))
          const expected = Array.from({ length: B }, (_, b) => aftByHand(layer.config, parameters, rows.slice(b * T, (b + 1) * T)))
          assertRms(await y.read(), expected.flat(2), bound)
          layer.dispose()
        })
        await fc.assert(property, { numRuns: runsOn(device, 40) })
      }
    })

  it('has the names of labml, and takes its mask where it is that of the window', async () => {
    const [N, D] = [6, 4]
    const layer = new Aft({ dModel: D, form: 'local', tableLength: N, window: 3 }, generator(1))
    const names = ['query', 'key', 'value'].flatMap((name) => [`${name}.weight`, `${name}.bias`])
    assert.deepEqual([...layer.namedParameters().keys()], [...names, 'pos_bias', 'output.weight', 'output.bias'])
    const dict = await layer.stateDict()
    const mask = (window: number, side = N) => ({
      shape: [side, side],
      data: Uint8Array.from({ length: side * side }, (_, i) => Number(Math.abs(Math.floor(i / side) - (i % side)) < window)),
    })
    const load = (entry: object) => layer.loadStateDict(new Map([...dict, ['local_mask', entry as never]]))
    load(mask(3))
    const refused = (entry: object, message: string) =>
      assert.throws(() => load(entry), { message: `loadStateDict: local_mask ${message}` })
    refused(mask(2), "isn't that of the window 3: it has 0 at [0,2]")
    refused(mask(4), "isn't that of the window 3: it has 1 at [0,3]")
    refused(mask(3, 5), 'has shape [5,5], its table [6,6]')
    const full = new Aft({ dModel: D, form: 'full', tableLength: N }, generator(1))
    full.loadStateDict(new Map([...dict, ['local_mask', mask(N) as never]]))
    const simple = new Aft({ dModel: D, form: 'simple' }, generator(1))
    assert.throws(() => simple.loadStateDict(new Map([...dict, ['local_mask', mask(3) as never]])), /no parameter pos_bias, local_mask$/)
    for (const made of [layer, full, simple]) made.dispose()
  })

  it('refuses what its form does not have, and what does not fit', () => {
    const before = reference.bytesInUse()
    const refused = (config: object, message: string | RegExp) => assert.throws(() => new Aft(config as never, generator(1)), { message })
    refused({ dModel: 4, form: 'global' }, "unknown form 'global' (full, local, simple, conv)")
    refused({ dModel: 4, form: 'simple', window: 3 }, "unknown option 'window' (projectionBias)")
    refused({ dModel: 4, form: 'full', tableLength: 0 }, 'tableLength must be a positive integer, not 0')
    refused({ dModel: 4, form: 'conv', heads: 3 }, "3 heads don't divide dModel = 4")
    refused({ dModel: 4, form: 'conv', heads: 2, causal: 1 }, 'causal must be true or false, not 1')
    refused({ dModel: 0, form: 'simple' }, 'dModel must be a positive integer, not 0')
    const layer = new Aft({ dModel: 4, form: 'full', tableLength: 3, causal: false }, generator(1))
    const x = tensor(uniforms(1, 16), { shape: [1, 4, 4] })
    assert.throws(() => scope(() => layer.forward(x)), { message: /^aft: a sequence has 4 tokens so far, and the table has biases for 3 / })
    assert.throws(() => layer.forward(x, { position: Int32Array.of(1) }), {
      message: "aft: the state has a position, which this layer's lacks",
    })
    assert.throws(() => scope(() => layer.forward(tensor(uniforms(1, 15), { shape: [1, 5, 3] }))), {
      message: /^aft: x has shape \[1,5,3\]/,
    })
    layer.dispose()
    x.dispose()
    assert.equal(reference.bytesInUse(), before)
  })
})
