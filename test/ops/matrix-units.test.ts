/**
 * Products on matrix units, which no adapter of the tests has: the kernels as Dawn's compiler takes them, their places by WGSL that stands in for the units
 * (shaders.ts), when they are used, and that a device on which they go wrong is opened without. A driver on a CPU takes a second or so for each emulated
 * entry, and so they are compiled as seldom as can be: with all faults of chunks in one text, and few cases on them.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { create } from 'webgpu'
import { openAdapter } from '../../engine/devices/webgpu/adapter.ts'
import { fastWeightKernels, wrongChunks } from '../../engine/devices/webgpu/fast-weights.ts'
import { deviceOn, webgpuKernels, withRightUnits } from '../../engine/devices/webgpu/index.ts'
import { matmulKernels, tiles64, wrongUnits } from '../../engine/devices/webgpu/matmul.ts'
import { createGpu, type Gpu, type Shader, sourceOf } from '../../engine/devices/webgpu/runtime.ts'
import {
  type HostArray,
  matmul,
  type Precision,
  precisions,
  scope,
  selfCheck,
  setDevice,
  sumRule,
  tensor,
  type WebgpuDevice,
} from '../../engine/index.ts'
import { matmulUnits } from '../../kernels-wgsl/generated/wgsl.ts'
import { assertClose, assertSameBits, halfGpus, halfReference, noted, reference, runsOn, uniforms, webgpu } from '../helpers.ts'
import { cases } from './cases.ts'
import { checkLikeReference, epsilon } from './compare.ts'
import { emulated, multiplying } from './shaders.ts'

/** Something in the file of either kind of product that isn't so. */
interface Fault {
  file: string
  what: string
  by: string
}
const spoilt = (shader: Shader, { file, what, by }: Fault): Shader => ({
  ...shader,
  name: `${shader.name}, ${what} ${by}`,
  files: (shader.unitFiles ?? shader.files).map(({ name, source }) => {
    if (name !== file) return { name, source }
    assert.ok(source.includes(what), what)
    return { name, source: source.replace(what, by) }
  }),
  unitFiles: undefined,
})

/** That compiles what stands in for matrix units where these are asked for. */
function emulating(gpu: Gpu, fault?: Fault): Gpu {
  const made = new Map<Shader, Shader>()
  const madeOf = (shader: Shader): Shader => {
    if (!made.has(shader)) made.set(shader, fault ? spoilt(emulated(shader), fault) : emulated(shader))
    return made.get(shader)!
  }
  const run: Gpu['run'] = (shader, ...rest) => gpu.run(madeOf(shader), ...rest)
  return { ...gpu, units: { ...gpu, run } }
}

/** The same with all faults of the chunk form in one text, of which the parameter eps, that the check has no use for, chooses one: 0 is none. */
function emulatingFaults(gpu: Gpu, chosen: () => number): Gpu {
  const faulty = new Map(
    multiplying.map((shader) => [
      shader,
      places.chunks.reduce(
        (text, [what, by], i) => spoilt(text, { file: 'fast-weights-units', what, by: `select(${what}, ${by}, p.eps == ${i + 1}.0)` }),
        emulated(shader),
      ),
    ]),
  )
  const run: Gpu['run'] = (shader, entry, bindings, params, groups) => {
    assert.ok(typeof params === 'object' && params.eps === 0)
    gpu.run(faulty.get(shader)!, entry, bindings, { ...params, eps: chosen() }, groups)
  }
  return { ...gpu, units: { ...gpu, run } }
}

const faultsOf =
  (file: string) =>
  ([what, by]: readonly [string, string]): Fault => ({ file, what, by })
const places = {
  products: (
    [
      ['column + 4u, 16u', 'column, 16u'],
      ['(subgroup & 1u)', '(subgroup & 3u)'],
      ['(tx & 4u) != 0u', '(tx & 4u) == 0u'],
    ] as const
  ).map(faultsOf('matmul-units')),
  chunks: [
    ['l * 8u + half * 4u', 'l * 8u'],
    ['l * 8u + 4u', 'l * 8u'],
    ['half * 512u + 16u', 'half * 512u'],
    ['l < count', 'l < min(count, 16u)'],
    ['pairsM[at + 3u]', 'pairsM[at + 2u]'],
  ] as const,
}

/** In either precision that there is: what stands in for the units has numbers of both. */
async function opened(test: Mocha.Context): Promise<{ gpu: Gpu; precision: Precision }[]> {
  await webgpu(test)
  const have = (await halfGpus(test)).length > 0 ? precisions : (['f32'] as const)
  return Promise.all(have.map(async (precision) => ({ gpu: createGpu(await openAdapter({ precision })), precision })))
}

describe('matrix units @long', () => {
  let gpus: { gpu: Gpu; precision: Precision }[] = []
  let devices: WebgpuDevice[] = []
  before(async function () {
    gpus = await opened(this)
    devices = gpus.map(({ gpu, precision }) => deviceOn(emulating(gpu), precision))
  })
  after(() => {
    setDevice(reference)
    for (const { gpu } of gpus) gpu.close()
  })

  it("the kernel is what Dawn's compiler takes, and refuses where its matrices don't fit", async () => {
    const adapter = await create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']).requestAdapter()
    const requiredFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'] as GPUFeatureName[]
    const device = await adapter!.requestDevice({ requiredFeatures })
    const refused = async (shader: Shader, entry: string = 'matmulUnits'): Promise<string> => {
      device.pushErrorScope('validation')
      // The subgroups of this adapter may have 128 threads, and a workgroup takes a multiple of that.
      const code = sourceOf(shader, 'units').replace('const THREADS = 64u', 'const THREADS = 128u')
      const module = device.createShaderModule({ code })
      const { messages } = await module.getCompilationInfo()
      device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: entry } })
      return [(await device.popErrorScope())?.message, ...messages.map(({ message }) => message)].filter(Boolean).join('\n')
    }
    assert.equal(await refused(matmulUnits), '')
    const withFault = (shader: Shader, file: string, ...faults: (readonly [what: string, by: string])[]): Shader =>
      faults.map(faultsOf(file)).reduce(spoilt, shader)
    for (const [what, by, why] of [
      ['Load<Right', 'Load<Left', /no matching call to 'subgroupMatrixMultiplyAccumulate\(subgroup_matrix_left/],
      ['result<f32, 16, 16>', 'result<f32, 16, 8>', /no matching call to 'subgroupMatrixMultiplyAccumulate/],
      ['col_major', 'no_major', /no_major/],
      ['= (subgroup >> 1u) * 4u', '= g.thread', /to be uniform/],
      ['array<vec4<f32>, 512>', 'array<vec4<f32>, 1024>', /workgroup storage/],
    ] as const)
      assert.match(await refused(withFault(matmulUnits, 'matmul-units', [what, by])), why, by)
    // All but the place of a subgroup is found to be the same for its threads.
    const file = 'fast-weights-units'
    const analysed = [
      ['@diagnostic(off, chromium.subgroup_matrix_uniformity)', ''],
      ['subgroupBroadcastFirst(thread) / 32u', '0u'],
    ] as const
    for (const shader of multiplying)
      for (const entry of shader.entries) {
        assert.equal(await refused(shader, entry), '', entry)
        assert.equal(await refused(withFault(shader, file, ...analysed), entry), '', entry)
      }
    for (const [what, by, why] of [
      ['Load<Right', 'Load<Left', /no matching call to 'subgroupMatrixMultiplyAccumulate\(subgroup_matrix_left/],
      ['workgroupUniformLoad', 'atomicLoad', /must only be called from subgroup uniform control flow/],
    ] as const)
      assert.match(await refused(withFault(multiplying[0], file, ...analysed, [what, by]), 'scan'), why, by)
    device.destroy()
  })

  const shapes = fc.record({
    batch: fc.constantFrom(1, 1, 3),
    M: fc.integer({ min: 1, max: 140 }),
    N: fc.integer({ min: 1, max: 140 }),
    K: fc.integer({ min: 1, max: 70 }),
    transposeA: fc.boolean(),
    transposeB: fc.boolean(),
    oneB: fc.boolean(),
    bias: fc.boolean(),
    accumulate: fc.boolean(),
    activation: fc.constantFrom(undefined, 'gelu' as const, 'relu' as const),
    seed: fc.nat(1e6),
  })
  const product = (on: WebgpuDevice | typeof reference, o: typeof shapes extends fc.Arbitrary<infer T> ? T : never) => {
    const { batch, M, N, K, transposeA, transposeB, activation } = o
    const made = (i: number, shape: number[]) =>
      tensor(
        uniforms(
          o.seed + i,
          shape.reduce((n, d) => n * d, 1),
        ),
        { shape, device: on },
      )
    const y = scope(() =>
      matmul(
        made(0, [batch, ...(transposeA ? [K, M] : [M, K])]),
        made(1, [...(o.oneB ? [] : [batch]), ...(transposeB ? [N, K] : [K, N])]),
        {
          transposeA,
          transposeB,
          bias: o.bias ? made(2, [N]) : undefined,
          accumulate: o.accumulate ? made(3, [batch, M, N]) : undefined,
          activation,
        },
      ),
    )
    return y.read().finally(() => y.dispose())
  }

  it('make of every shape what the reference makes, and to the bit what tiles of 64 without them make, where those are emulated', async function () {
    this.timeout(120_000)
    for (const [i, device] of devices.entries()) {
      const without = deviceOn(gpus[i].gpu, device.precision)
      const plain = { ...without, kernels: { ...without.kernels, ...matmulKernels(gpus[i].gpu, [tiles64]) } }
      const oracle = device.precision === 'f16' ? halfReference : reference
      await fc.assert(
        fc.asyncProperty(shapes, async (o) => {
          const [actual, expected] = [await product(device, o), await product(oracle, o)]
          assertClose(actual, expected, (8 + 4 * Math.sqrt(o.K)) * epsilon, 1, device.precision)
          assertSameBits(actual, await product(plain, o), device.precision)
        }),
        { numRuns: runsOn(device, 100) },
      )
      for await (const { kernel, ok, message, error, bound } of selfCheck(device, ['matmul', 'products']))
        assert.ok(ok, message ?? `${kernel}: ${error} of ${bound}`)
    }
  })

  it('make of the chunk form of a rule what the reference makes, forward and backward, where they are emulated', async function () {
    this.timeout(300_000)
    for (const device of devices) {
      for (const c of cases.filter(({ name }) => name.startsWith('fastWeights'))) await checkLikeReference(c, device, runsOn(device, 24))
      // Normalised, transposed, along, packed: where there is time.
      if (process.env.EMULATED !== 'all') continue
      for await (const { kernel, ok, message, error, bound } of selfCheck(device, ['fastWeights', 'fastWeightsBackward']))
        assert.ok(ok, message ?? `${kernel}: ${error} of ${bound}`)
    }
  })

  for (const [what, where] of [
    ['beyond a triangle', undefined],
    ['from one sequence to the next', 20],
  ] as const)
    it(`make of a NaN in the chunk form, which reaches nothing ${what}, and of numbers to the bit what kernels without them make`, async function () {
      this.timeout(120_000)
      const [T, K, V] = [31, 40, 20]
      const run = async (device: WebgpuDevice): Promise<HostArray[]> => {
        const results = scope(() => {
          const made = (seed: number, width: number) =>
            tensor(uniforms(seed, T * width), { shape: [1, T, 1, width], device, requiresGrad: seed < 4 })
          const [q, k] = [made(1, K), made(2, K)]
          const values = uniforms(3, T * V)
          values[17 * V + 3] = Number.NaN
          const v = tensor(values, { shape: [1, T, 1, V], device, requiresGrad: true })
          const begins = Array.from({ length: T }, (_, t) => Number(t === where))
          const reset = where === undefined ? undefined : tensor(begins, { shape: [1, T], dtype: 'int32', device })
          const { y } = sumRule(q, k, v, undefined, { form: 'chunk', chunk: 32, reset })
          y.backward(made(4, V))
          return [y, q.grad!, k.grad!, v.grad!]
        })
        return Promise.all(results.map((x) => x.read().finally(() => x.dispose())))
      }
      for (const [i, device] of devices.entries()) {
        // With flags those have to be of the same form; a workgroup a head, of ten arrays, adds up in another order.
        const without = deviceOn(gpus[i].gpu, device.precision)
        const limits = { maxStorageBuffersPerShaderStage: where === undefined ? 10 : 8 }
        const kernels = { ...without.kernels, ...fastWeightKernels({ ...gpus[i].gpu, device: { limits } as GPUDevice }) }
        const [actual, expected] = [await run(device), await run({ ...without, kernels })]
        for (const [j, e] of expected.entries()) assertSameBits(actual[j], e, `result ${j}`)
        const reached = expected.map((e) => e.filter((x) => Number.isNaN(x)).length)
        assert.deepEqual(reached.slice(0, 1), [(where ?? T) - 17], 'y')
        assert.equal(reached[3], 0)
      }
    })

  it('multiply integers exactly, and a wrong place anywhere is found', async function () {
    this.timeout(300_000)
    const { gpu } = gpus[0]
    assert.equal(await wrongUnits(emulating(gpu)), null)
    for (const fault of places.products)
      assert.match(String(await wrongUnits(emulating(gpu, fault))), /^a product of integers has -?\d+ in the place of -?\d+$/, fault.by)
    // What the check has compiled, and found right, is all that multiplies: later there is nothing on units that a driver could refuse.
    const all = multiplying.flatMap(({ files }) =>
      files.flatMap(({ source }) =>
        [...`${source}\nfn`.matchAll(/^@compute [^{]*fn (\w+)\([^{]*\{\n([\s\S]*?)(?=^(?:@|fn\b))/gm)].flatMap(([, entry, body]) =>
          /\bmultiply(All|Chain)?\(/.test(body) ? [entry] : [],
        ),
      ),
    )
    assert.ok(all.length > 0)
    for (const { gpu } of gpus) {
      const emulated = emulating(gpu)
      const [units, ran] = noted(emulated.units!)
      assert.equal(await wrongChunks({ ...emulated, units }), null)
      assert.deepEqual(
        [...new Set(all)].filter((entry) => !ran.includes(entry)),
        [],
      )
    }
    let chosen = 0
    const faulty = emulatingFaults(gpu, () => chosen)
    for (const [i, [what]] of places.chunks.entries()) {
      chosen = i + 1
      assert.match(String(await wrongChunks(faulty)), /^of integers the chunk form has -?\d+ in the place of -?\d+ \(\w+\)$/, what)
    }
  })

  it('where they go wrong, a device is opened without, and says why', async function () {
    this.timeout(300_000)
    const { precision } = gpus[gpus.length - 1]
    const closed: Gpu[] = []
    for (const [fault, why] of [
      [places.products[0], /^a product of integers has /],
      ...['matmul-units', 'fast-weights-units'].map(
        (file) =>
          [{ file, what: 'Sums()', by: 'Sum()' }, new RegExp(`^webgpu: ${file}\\.wgsl:\\d+:\\d+: unresolved call target 'Sum'`)] as const,
      ),
    ] as const) {
      const reasons: (string | undefined)[] = []
      const gpu = await withRightUnits(async (without) => {
        reasons.push(without)
        const made = createGpu(await openAdapter({ precision }, without))
        if (without !== undefined) return made
        closed.push(made)
        return emulating(made, fault)
      })
      assert.equal(reasons.length, 2)
      assert.match(String(reasons[1]), why)
      assert.equal(gpu.units, undefined)
      if (precision === 'f16') assert.equal(gpu.capabilities.noMatrixUnits, reasons[1])
      assert.throws(() => closed.at(-1)!.allocate(4), /the device has been closed/)
      gpu.close()
    }
  })
})

describe('the choice of matrix units', () => {
  const plain = {
    batch: 1,
    strideA: 0,
    strideB: 0,
    transposeA: false,
    transposeB: false,
    sparse: false,
    accumulate: false,
    activation: null,
  }

  it('is theirs for tiles without zeros that count, and large products of several; a device says why it has none', async () => {
    const gpu = createGpu(await openAdapter({ backend: 'null', precision: 'f16' }))
    assert.match(
      gpu.capabilities.noMatrixUnits!,
      /^(the adapter lacks (subgroups|chromium-\S+)|subgroups have \d+ to \d+ threads, not 32)$/,
    )
    assert.equal(gpu.units, undefined)
    let ran: string[] = []
    const noting =
      (kind: string): Gpu['run'] =>
      (_, entry) =>
        void ran.push(`${kind} ${entry}`)
    const kernels = webgpuKernels({ ...gpu, run: noting('plain'), units: { ...gpu, run: noting('units') } })
    const x = gpu.allocate(4 * 2048 * 512)
    const took = (body: () => void): string[] => {
      ran = []
      body()
      return ran
    }
    assert.deepEqual(
      took(() => kernels.matmul(x, x, null, x, { ...plain, M: 64, N: 64, K: 64 })),
      ['units matmulUnits'],
    )
    assert.deepEqual(
      took(() => kernels.matmul(x, x, null, x, { ...plain, M: 64, N: 64, K: 2048 })),
      ['units matmulUnits', 'plain matmulJoin'],
    )
    assert.deepEqual(
      took(() => kernels.matmul(x, x, null, x, { ...plain, M: 64, N: 64, K: 64, sparse: true })),
      ['plain matmul'],
    )
    assert.deepEqual(
      took(() => kernels.matmul(x, x, null, x, { ...plain, M: 8, N: 8, K: 64 })),
      ['plain matmulEach'],
    )
    const of = (M: number, K: number) => ({ c: x, M, N: 512, terms: [{ a: x, b: x, K, transposeA: false, transposeB: false }] })
    assert.deepEqual(
      took(() => kernels.products([of(2048, 512), of(64, 64), of(128, 64)])),
      ['plain products', 'units matmulUnits'],
    )
    gpu.close()
  })
})
