/** The WebGPU device against the float64 reference, for every op of the table. Runs on a GPU computed by the CPU (test/run.mjs): few and small. */
import assert from 'node:assert/strict'
import { type Device, gather, matmul, scope, sum, tensor } from '../../engine/index.ts'
import { assertClose, assertSameBits, readAndFree, reference, uniforms, webgpu } from '../helpers.ts'
import { cases } from './cases.ts'
import { checkLikeReference, epsilon } from './compare.ts'
import { checkSpecialRows } from './special.ts'

describe('webgpu', () => {
  for (const c of cases)
    it(`${c.name}: like the reference`, async function () {
      // A product is one of two kernels', by its size.
      await checkLikeReference(c, await webgpu(this), c.name.startsWith('matmul') ? 20 : 10)
    })

  // More than a tile each way, the inner size cut into ranges, and rows that can't be read four at a time.
  for (const transposeA of [false, true])
    for (const transposeB of [false, true])
      it(`matmul with a long inner size, transposed ${transposeA}, ${transposeB}`, async function () {
        const device = await webgpu(this)
        for (const [M, N, K] of [
          [68, 132, 1000],
          [65, 66, 777],
          [3, 5, 4099],
        ]) {
          const product = (device: Device, fused: boolean): Promise<number[]> =>
            readAndFree(
              scope(() => {
                const a = tensor(uniforms(1, M * K), { shape: transposeA ? [K, M] : [M, K], device })
                const b = tensor(uniforms(2, N * K), { shape: transposeB ? [N, K] : [K, N], device })
                const bias = tensor(uniforms(3, N, -9, 9), { device })
                const accumulate = tensor(uniforms(4, M * N, -9, 9), { shape: [M, N], device })
                return matmul(a, b, { transposeA, transposeB, ...(fused && { bias, accumulate, activation: 'relu' }) })
              }),
            )
          for (const fused of [false, true])
            assertClose(await product(device, fused), await product(reference, fused), (8 + 4 * Math.sqrt(K)) * epsilon)
        }
      })

  it('the gradient of a table has the same bits where each row looks through all indices, and where there are too many rows for that', async function () {
    const device = await webgpu(this)
    // Of 300 rows some come once, some often, and row 0 in more than half; the last indices are those of the first workgroup, too.
    const [R, D] = [700, 300]
    const rows = Array.from({ length: R }, (_, r) => (r % 5 < 3 ? 0 : (r * r) % 311))
    const gradient = (device: Device, N: number): Promise<number[]> =>
      readAndFree(
        scope(() => {
          const table = tensor(uniforms(1, N * D), { shape: [N, D], device, requiresGrad: true })
          gather(table, tensor(rows, { dtype: 'int32', device })).backward(tensor(uniforms(2, R * D), { shape: [R, D], device }))
          return table.grad!
        }),
      )
    const [searched, ordered] = [await gradient(device, 512), await gradient(device, 513)]
    assertClose(searched, await gradient(reference, 512), 1e-5)
    assertSameBits(Float32Array.from(ordered.slice(0, 512 * D)), Float32Array.from(searched))
    assert.ok(ordered.slice(512 * D).every((x) => Object.is(x, 0)))
  })

  it('sums over long axes, cut into parts', async function () {
    const device = await webgpu(this)
    for (const shape of [
      [1, 200_000],
      [3, 40_001],
      [1, 5000, 7],
    ]) {
      const total = (device: Device): Promise<number[]> =>
        readAndFree(
          scope(() =>
            sum(
              tensor(
                uniforms(
                  3,
                  shape.reduce((a, b) => a * b),
                ),
                { shape, device },
              ),
              { axis: 1 },
            ),
          ),
        )
      assertClose(await total(device), await total(reference), (8 + 4 * Math.sqrt(shape[1])) * epsilon)
    }
  })

  it('rows with huge, infinite and NaN entries come out as on the reference', async function () {
    await checkSpecialRows(await webgpu(this))
  })
})
