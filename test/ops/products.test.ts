/**
 * Products on webgpu in every form, whichever the sizes would take: tiles of 128 and 64, shares of K in a workgroup. A GPU computed by the CPU has no time
 * for sizes that take the large ones by themselves.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { openAdapter } from '../../engine/devices/webgpu/adapter.ts'
import { deviceOn, webgpuKernels } from '../../engine/devices/webgpu/index.ts'
import { formOf, formOfList, forms, matmulKernels } from '../../engine/devices/webgpu/matmul.ts'
import { createGpu, type Gpu } from '../../engine/devices/webgpu/runtime.ts'
import { type Device, type HostArray, matmul, type Precision, precisions, scope, selfCheck, setDevice, tensor } from '../../engine/index.ts'
import { products } from '../../kernels-wgsl/generated/wgsl.ts'
import { assertClose, assertSameBits, halfGpus, halfReference, noted, reference, runsOn, sizeOf, uniforms, webgpu } from '../helpers.ts'
import { cases } from './cases.ts'
import { checkLikeReference, epsilon } from './compare.ts'

const nameOf = ({ entry, rows, columns }: (typeof forms)[number]): string => `${entry}, ${rows} x ${columns}`

/** That makes products in one form, on a GPU that may be noted. */
function deviceOf(gpu: Gpu, precision: Precision, form: (typeof forms)[number], products = gpu) {
  return { ...deviceOn(gpu, precision), kernels: { ...webgpuKernels(gpu), ...matmulKernels(products, [form]) } }
}

const shapes = fc.record({
  batch: fc.constantFrom(1, 1, 3),
  M: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(1, 64, 128, 129, 256)),
  N: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(1, 64, 128, 132, 256)),
  K: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(1, 8, 16, 32, 600)),
  transposeA: fc.boolean(),
  transposeB: fc.boolean(),
  oneB: fc.boolean(),
  bias: fc.boolean(),
  accumulate: fc.boolean(),
  activation: fc.constantFrom(undefined, 'gelu' as const, 'relu' as const),
  seed: fc.nat(1e6),
})
type Shape = typeof shapes extends fc.Arbitrary<infer T> ? T : never

const product = (on: Device, o: Shape): Promise<HostArray> => {
  const { batch, M, N, K, transposeA, transposeB, activation } = o
  const made = (i: number, shape: number[]) => tensor(uniforms(o.seed + i, sizeOf(shape)), { shape, device: on })
  const y = scope(() =>
    matmul(made(0, [batch, ...(transposeA ? [K, M] : [M, K])]), made(1, [...(o.oneB ? [] : [batch]), ...(transposeB ? [N, K] : [K, N])]), {
      ...{ transposeA, transposeB, activation },
      bias: o.bias ? made(2, [N]) : undefined,
      accumulate: o.accumulate ? made(3, [batch, M, N]) : undefined,
    }),
  )
  return y.read().finally(() => y.dispose())
}

describe('products on webgpu', () => {
  const gpus: { gpu: Gpu; precision: Precision }[] = []
  before(async function () {
    await webgpu(this)
    const have = (await halfGpus(this)).length > 0 ? precisions : (['f32'] as const)
    for (const precision of have) gpus.push({ gpu: createGpu(await openAdapter({ precision, minimal: true })), precision })
  })
  after(() => {
    setDevice(reference)
    for (const { gpu } of gpus) gpu.close()
  })

  for (const form of forms)
    it(`${nameOf(form)}: what the reference makes of every shape, within the limits that every adapter has`, async function () {
      this.timeout(120_000)
      for (const { gpu, precision } of gpus) {
        const [watched, ran] = noted(gpu)
        const device = deviceOf(gpu, precision, form, watched)
        await fc.assert(
          fc.asyncProperty(shapes, async (o) => {
            const expected = await product(precision === 'f16' ? halfReference : reference, o)
            assertClose(await product(device, o), expected, (8 + 4 * Math.sqrt(o.K)) * epsilon, 1, precision)
          }),
          { numRuns: runsOn(device, 120) },
        )
        if (precision === 'f32')
          for (const c of cases.filter(({ name }) => name.startsWith('matmul'))) await checkLikeReference(c, device, 4)
        // In ranges of K, too.
        const long = { batch: 1 as const, M: 50, K: 2000, oneB: false, bias: true, accumulate: true, activation: undefined, seed: 1 }
        for (const transposed of form.cut ? [false, true] : []) {
          const o = { ...long, N: transposed ? 60 : 62, transposeA: transposed, transposeB: !transposed }
          const expected = await product(precision === 'f16' ? halfReference : reference, o)
          assertClose(await product(device, o), expected, (8 + 4 * Math.sqrt(o.K)) * epsilon, 1, precision)
        }
        assert.equal(ran.includes('matmulJoin'), form.cut)
        if (form.together)
          for await (const { kernel, ok, message, error, bound } of selfCheck(device, ['products']))
            assert.ok(ok, message ?? `${kernel}: ${error} of ${bound}`)
        assert.ok(ran.includes(form.entry) && (!form.together || ran.includes(form.together)), ran.join())
      }
    })

  it('tiles of 128 add in the order of tiles of 64', async function () {
    this.timeout(120_000)
    for (const { gpu, precision } of gpus) {
      const [wide, tall, other] = forms.map((form) => deviceOf(gpu, precision, form))
      await fc.assert(
        fc.asyncProperty(
          shapes.filter(({ K }) => K < 100),
          async (o) => {
            const expected = await product(other, o)
            for (const device of [wide, tall]) assertSameBits(await product(device, o), expected, precision)
          },
        ),
        { numRuns: runsOn(wide, 60) },
      )
    }
  })

  it('take the form that has work for all processors, and reads little', () => {
    const chosen = (M: number, N: number, K: number, batch = 1): string => {
      const { form, splits, groups } = formOf({ batch, M, N, K })
      return `${nameOf(form)}, ${splits}, ${groups}`
    }
    assert.deepEqual(
      [512, 1024, 2048, 4096].map((n) => chosen(n, n, n)),
      ['matmulSliced, 32 x 32, 1, 256', 'matmulTall, 128 x 64, 1, 128', 'matmulWide, 128 x 128, 1, 256', 'matmulWide, 128 x 128, 1, 1024'],
    )
    // Cut where one dispatch would leave most of a GPU idle for long.
    assert.equal(chosen(512, 512, 32768), 'matmulWide, 128 x 128, 8, 128')
    assert.equal(chosen(512, 512, 2048), 'matmulSliced, 32 x 32, 1, 256')
    assert.equal(chosen(128, 128, 128), 'matmulSliced, 16 x 16, 1, 64')
    assert.equal(chosen(1, 512, 512), 'matmulSliced, 4 x 16, 1, 32')
    assert.equal(chosen(128, 128, 64, 128), 'matmulWide, 128 x 128, 1, 128')
    const list = (M: number, N: number, K: number) => [{ M, N, terms: [{ K }] }] as unknown as Parameters<typeof formOfList>[0]
    assert.deepEqual(
      [formOfList(list(2048, 2048, 512)), formOfList(list(2048, 128, 128))].map(({ entry, groups }) => [entry, groups]),
      [
        ['productsWide', 256],
        ['products', 64],
      ],
    )
  })

  it('are made in plain tiles on a GPU that is computed by the CPU, and cut for few processors', () => {
    const made = (software: boolean, [M, N, K]: number[]): string => {
      let ran = ''
      const run = (_shader: unknown, entry: string, _bindings: unknown, { splits }: { splits?: number }) =>
        void (ran ||= `${entry} ${splits}`)
      const gpu = { capabilities: { software }, run, scratch: (_: number, body: (block: unknown) => void) => body({}) }
      const sizes = { batch: 1, strideA: 0, strideB: 0, M, N, K, transposeA: false, transposeB: false, sparse: false, accumulate: false }
      matmulKernels(gpu as never).matmul({} as never, {} as never, null, {} as never, { ...sizes, activation: null })
      return ran
    }
    const sizes = [
      [256, 256, 256],
      [2048, 2048, 64],
      [1, 512, 2048],
      [64, 128, 2048],
    ]
    assert.deepEqual(
      sizes.map((sizes) => made(true, sizes)),
      ['matmul 1', 'matmul 1', 'matmul 1', 'matmul 2'],
    )
    assert.deepEqual(
      sizes.map((sizes) => made(false, sizes)),
      ['matmulSliced 1', 'matmulWide 1', 'matmulSliced 1', 'matmulSliced 1'],
    )
  })

  it('of tiles in workgroup memory each is read where it was put, and eight threads beside each other meet in no bank', () => {
    const { source } = products.files.find(({ name }) => name === 'tiles')!
    // The places as the shader computes them; all divisions come out even.
    const placeOf = (pattern: RegExp, ...names: string[]): ((...values: unknown[]) => number) =>
      new Function(...names, `return ${source.match(pattern)![1].replace(/\b(\d+)u\b/g, '$1')}`) as never
    const put = placeOf(/let first = (.*);/, 'slice', 'thread', 'at', 'fours', 'depth')
    const taken = placeOf(/tiles\[(slice \+ k \* fours.*)\]\);/, 'slice', 'k', 'row', 'fours', 'depth')
    const block = (own: number, fours: number, depth: number, turned: boolean) => {
      const blocks = depth / 4
      const [x, y] = turned ? [Math.floor(own / blocks), own % blocks] : [own % fours, Math.floor(own / fours)]
      return { x: 4 * x, y: 4 * y }
    }
    /** Banks, of eight of which each holds a vector, that eight threads meet in at different places. */
    const meetings = (places: number[]): number => new Set(places).size - new Set([...new Set(places)].map((place) => place % 8)).size
    const eights = (threads: number): number[][] =>
      Array.from({ length: threads / 8 }, (_, i) => Array.from({ length: 8 }, (_, j) => 8 * i + j))
    for (const [fours, depth] of [
      [16, 16],
      [32, 8],
      [16, 8],
    ]) {
      const blocks = (fours * depth) / 4
      for (const turned of [false, true]) {
        const found = new Map<number, string>()
        for (let thread = 0; thread < blocks; thread++) {
          const at = block(thread, fours, depth, turned)
          for (let i = 0; i < 4; i++) found.set(put(0, thread, at, fours, depth) + i * fours, `${at.x / 4} ${at.y + i}`)
        }
        assert.equal(found.size, 4 * blocks)
        for (let k = 0; k < depth; k++)
          for (let row = 0; row < fours; row++) assert.equal(found.get(taken(0, k, row, fours, depth)), `${row} ${k}`)
        for (const threads of eights(blocks))
          assert.equal(
            meetings(threads.map((thread) => put(0, thread, block(thread, fours, depth, turned), fours, depth))),
            0,
            `${fours} ${turned}`,
          )
      }
      for (let k = 0; k < depth; k++)
        for (const threads of eights(256))
          for (const more of fours === 32 ? [0, 16] : [0]) {
            assert.equal(meetings(threads.map((thread) => taken(256, k, (thread & 15) + more, fours, depth))), 0)
            assert.equal(meetings(threads.map((thread) => taken(0, k, (thread >> 4) + more, fours, depth))), 0)
          }
    }
  })
})
