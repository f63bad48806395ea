/** Cross-entropy by blocks of logits, against the two ops that it is. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { crossEntropy, type Device, gradCheck, linearCrossEntropy, matmul, noGrad, scope, type Tensor, tensor } from '../../engine/index.ts'
import { manyLogits } from '../../engine/ops/linear-cross-entropy.ts'
import { assertClose, assertSameBits, builds, random, reference, runsOn, uniforms, wasm, webgpu } from '../helpers.ts'

const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device> }[] = [
  { name: 'reference', open: async () => reference },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(2, relaxed) })),
  { name: 'webgpu', open: webgpu },
]

interface Case {
  B: number
  T: number
  D: number
  N: number
  rows: number
  reduction: 'mean' | 'sum'
  biased: boolean
  seed: number
}
const cases: fc.Arbitrary<Case> = fc.record({
  B: fc.integer({ min: 1, max: 3 }),
  T: fc.integer({ min: 1, max: 9 }),
  D: fc.integer({ min: 1, max: 19 }),
  N: fc.integer({ min: 1, max: 37 }),
  rows: fc.integer({ min: 1, max: 30 }),
  reduction: fc.constantFrom('mean', 'sum'),
  biased: fc.boolean(),
  seed: fc.integer({ min: 1, max: 2 ** 20 }),
})

/** The loss and the gradients of x, weight and bias, by blocks or by the two ops. */
async function run(device: Device, { B, T, D, N, rows, reduction, biased, seed }: Case, blocks: boolean) {
  const next = random(seed)
  const ids = Int32Array.from({ length: B * T }, (_, i) => (i > 0 && next() < 0.2 ? -100 : Math.floor(next() * N)))
  const tensors = scope(() => {
    const leaf = (k: number, shape: number[]): Tensor =>
      tensor(
        uniforms(
          seed + k,
          shape.reduce((n, d) => n * d, 1),
        ),
        { shape, device, requiresGrad: true },
      )
    const [x, w, b] = [leaf(1, [B, T, D]), leaf(2, [N, D]), biased ? leaf(3, [N]) : null]
    const targets = tensor(ids, { shape: [B, T], device })
    const loss = blocks
      ? linearCrossEntropy(x, w, b, targets, { reduction, rows })
      : crossEntropy(matmul(x, w, { transposeB: true, ...(b && { bias: b }) }), targets, { reduction })
    loss.backward(tensor([1.5], { shape: [], device }))
    return [loss, ...[x, w, b].flatMap((t) => (t ? [t.grad!] : []))]
  })
  const values = await Promise.all(tensors.map((t) => t.read()))
  for (const t of tensors) t.dispose()
  return values
}

for (const { name, open } of devices)
  describe(`linearCrossEntropy, ${name}`, () => {
    it('is crossEntropy of the product, with its gradients, of any sizes and blocks', async function () {
      const device = await open(this)
      const inUse = device.bytesInUse()
      await fc.assert(
        fc.asyncProperty(cases, async (c) => {
          const [expected, actual] = [await run(reference, c, false), await run(device, c, true)]
          // Sums of up to N or B T terms of size 1; float32 has 6e-8.
          const bound = device.double ? 1e-14 : 60 * 6e-8
          for (const [i, value] of actual.entries()) assertClose(value, expected[i], bound, 1, ['loss', 'dx', 'dweight', 'dbias'][i])
          assert.equal(device.bytesInUse(), inUse)
        }),
        { numRuns: runsOn(device, 60) },
      )
    })
  })

describe('linearCrossEntropy', () => {
  it('has the same bits for any number of threads', async () => {
    for (const rows of [7, 64]) {
      const c: Case = { B: 2, T: 40, D: 48, N: 300, rows, reduction: 'mean', biased: true, seed: 4 }
      const [one, three] = [await run(await wasm(1), c, true), await run(await wasm(3), c, true)]
      for (const [i, value] of one.entries()) assertSameBits(three[i], value)
    }
  })

  it('has gradients that agree with finite differences', async () => {
    const targets = tensor(Int32Array.of(2, 0, -100, 4, 1), { shape: [5], device: reference })
    const make = (seed: number, shape: number[]) =>
      tensor(
        uniforms(
          seed,
          shape.reduce((n, d) => n * d),
        ),
        { shape, device: reference },
      )
    const inputs = [make(1, [5, 3]), make(2, [6, 3]), make(3, [6])]
    for (const reduction of ['mean', 'sum'] as const)
      await gradCheck((x, w, b) => linearCrossEntropy(x, w, b, targets, { reduction, rows: 2 }), inputs)
    for (const t of [targets, ...inputs]) t.dispose()
  })

  it('holds a block of logits, and none of their gradients where none is wanted', async () => {
    const device = await wasm()
    const [R, D, N] = [600, 8, 10_000]
    assert.deepEqual([manyLogits(R, N), manyLogits(2048, 65), manyLogits(16, 2 ** 22)], [true, false, false])
    const [x, w] = [tensor(uniforms(1, R * D), { shape: [R, D], device }), tensor(uniforms(2, N * D), { shape: [N, D], device })]
    const targets = tensor(
      Int32Array.from({ length: R }, (_, i) => i),
      { device },
    )
    const { allocate } = device
    const before = device.bytesInUse()
    for (const [wanted, blocks] of [
      [false, 1.3],
      [true, 2.3],
    ] as const) {
      x.requiresGrad = wanted
      let peak = 0
      device.allocate = (dtype, size) => {
        const block = allocate(dtype, size)
        peak = Math.max(peak, device.bytesInUse() - before)
        return block
      }
      scope(() => linearCrossEntropy(x, w, null, targets).disposed)
      if (!wanted) scope(() => noGrad(() => linearCrossEntropy(x, w, null, targets).disposed))
      device.allocate = allocate
      assert.ok(peak < blocks * 4 * 2 ** 22, `${peak}`)
    }
    for (const t of [x, w, targets]) t.dispose()
  })

  it('says what is wrong in one line', async () => {
    const of = (shape: number[]) =>
      tensor(
        uniforms(
          1,
          shape.reduce((n, d) => n * d),
        ),
        { shape, device: reference },
      )
    const [x, w, b] = [of([2, 3]), of([4, 3]), of([4])]
    const targets = tensor(Int32Array.of(0, 3), { device: reference })
    const refused = (body: () => unknown, message: string) => assert.throws(body, { message: `linearCrossEntropy: ${message}` })
    refused(() => linearCrossEntropy(x, b, null, targets), 'weight has shape [4], expected [N,D]')
    refused(() => linearCrossEntropy(x, w, x, targets), 'bias has shape [2,3], expected [N=4]')
    refused(() => linearCrossEntropy(b, w, b, targets), 'x has shape [4], the weight [4,3]')
    refused(() => linearCrossEntropy(x, w, b, x), "needs int32 indices (tensor(..., { dtype: 'int32' })), not float32")
    refused(() => linearCrossEntropy(x, w, b, targets, { rows: 0 }), 'rows must be a positive integer, not 0')
    refused(
      () => linearCrossEntropy(x, w, b, targets, { reduction: 'none' as 'sum' }),
      "the reduction must be mean or sum, not the text 'none'",
    )
    refused(() => linearCrossEntropy(w, w, b, targets), 'targets have shape [2], x [4,3]')
    const [four, none] = [tensor(Int32Array.of(0, 4), { device: reference }), tensor(Int32Array.of(-100, -100), { device: reference })]
    refused(() => linearCrossEntropy(x, w, b, four), "index 4 at 1 is outside 0..3 (if it marks what doesn't count, say { ignore: 4 })")
    refused(() => linearCrossEntropy(x, w, b, none), 'every target is ignored, so there is no mean')
    // Their sum is one of nothing, as that of crossEntropy.
    const nothing = linearCrossEntropy(x, w, b, none, { reduction: 'sum' })
    assert.equal(await nothing.item(), 0)
    nothing.dispose()
    for (const t of [x, w, b, targets, four, none]) t.dispose()
  })
})
