/** The wasm device against the float64 reference, with any number of threads, for every op of the table. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { normKinds } from '../../engine/devices/kernels.ts'
import { binaryOps, type Device, matmul, scope, tensor, unaryOps, wasmDevice } from '../../engine/index.ts'
import { assertClose, assertSameBits, builds, readAndFree, reference, uniforms, wasm, wideSimd, withoutSharedMemory } from '../helpers.ts'
import { cases, evaluate, large, tiny } from './cases.ts'
import { checkLikeReference, epsilon } from './compare.ts'
import { checkSpecialRows } from './special.ts'

/** The device, with a count of its kernels' calls, by name and by the op they're asked for. */
function counting(device: Device): { device: Device; calls: Map<string, number> } {
  const calls = new Map<string, number>()
  const count = (key: string): void => void calls.set(key, (calls.get(key) ?? 0) + 1)
  const kernels = Object.fromEntries(
    Object.entries(device.kernels).map(([name, kernel]) => [
      name,
      (...args: unknown[]) => {
        count(name)
        if (typeof args[0] === 'string') count(`${name} ${args[0]}`)
        return (kernel as (...args: unknown[]) => void)(...args)
      },
    ]),
  ) as unknown as Device['kernels']
  return { device: { ...device, kernels }, calls }
}

describe('the table of cases', () => {
  it('calls every kernel, with every op it knows', async () => {
    const { device, calls } = counting(reference)
    for (const c of cases)
      for (const [i, o] of fc.sample(c.options(tiny), { seed: 1, numRuns: 40 }).entries()) await evaluate(c, o, i, device)
    const names = [
      ...Object.keys(reference.kernels),
      ...unaryOps.flatMap((op) => [`unary ${op}`, `unaryBackward ${op}`]),
      ...binaryOps.map((op) => `binary ${op}`),
      ...normKinds.flatMap((kind) => [`norm ${kind}`, `normBackward ${kind}`]),
      ...['fastWeights', 'fastWeightsBackward'].flatMap((name) => [`${name} recurrent`, `${name} chunk`]),
      'reduce sum',
      'reduce max',
      'random uniform',
      'random normal',
    ]
    assert.deepEqual(
      names.filter((name) => !calls.has(name)),
      [],
    )
  })
})

let unshared: Promise<Device> | undefined

for (const { name, relaxed } of builds)
  describe(`wasm, ${name} build`, () => {
    for (const c of cases) {
      it(`${c.name}: like the reference`, async () => checkLikeReference(c, await wasm(1, relaxed), 30))

      it(`${c.name}: the same bits with 1, 2 and 3 threads, with wide vectors, and without shared memory`, async () => {
        const alone = await wasm(1, relaxed)
        // The relaxed build differs in the multiply-add only, not in how work is shared: one count will do.
        const others = await Promise.all((relaxed ? [3] : [2, 3]).map((threads) => wasm(threads, relaxed)))
        if (!relaxed) others.push(await (unshared ??= withoutSharedMemory(() => wasmDevice({ relaxed: false }))))
        if (wideSimd.wide) others.push(await wasm(2, relaxed, true))
        await fc.assert(
          fc.asyncProperty(c.options(large), fc.nat(), async (o, seed) => {
            const expected = await evaluate(c, o, seed, alone)
            for (const device of others) {
              const actual = await evaluate(c, o, seed, device)
              const what = device.description
              const [all, others] = [expected, actual].map(({ outputs, grads }) => [...outputs, ...grads])
              assert.deepEqual(
                others.map((x) => x?.length),
                all.map((x) => x?.length),
                what,
              )
              assert.ok(all.some((x) => x && x.length > 0))
              for (const [i, e] of all.entries())
                if (e && e.length > 0) assertSameBits(others[i]!, e, `${what}: ${i}, outputs and then gradients`)
            }
          }),
          { numRuns: 3 },
        )
      })
    }

    // Large enough that the second operand is packed beforehand, by all threads.
    for (const transposeA of [false, true])
      for (const transposeB of [false, true])
        it(`matmul of 300 x 600 x 600, transposed ${transposeA}, ${transposeB}`, async () => {
          const [M, N, K] = [300, 600, 600]
          const product = (device: Device): Promise<number[]> =>
            readAndFree(
              scope(() => {
                const a = tensor(uniforms(1, M * K), { shape: transposeA ? [K, M] : [M, K], device })
                const b = tensor(uniforms(2, N * K), { shape: transposeB ? [N, K] : [K, N], device })
                return matmul(a, b, { transposeA, transposeB })
              }),
            )
          const alone = await product(await wasm(1, relaxed))
          assertClose(alone, await product(reference), (8 + 4 * Math.sqrt(K)) * epsilon)
          const others = [wasm(2, relaxed), wasm(3, relaxed), ...(wideSimd.wide ? [wasm(2, relaxed, true)] : [])]
          for (const device of await Promise.all(others))
            assertSameBits(Float64Array.from(await product(device)), Float64Array.from(alone), device.description)
        })

    it('rows with huge, infinite and NaN entries come out as on the reference', async () => {
      await checkSpecialRows(await wasm(1, relaxed))
    })
  })
