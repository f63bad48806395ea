/** The wasm device against the float64 reference, with any number of threads, for every op of the table. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { normKinds } from '../../engine/devices/kernels.ts'
import {
  binaryOps,
  crossEntropy,
  cumsum,
  type Device,
  type HostArray,
  layerNorm,
  logSoftmax,
  matmul,
  max,
  maximum,
  minimum,
  scope,
  softmax,
  sum,
  tensor,
  unary,
  unaryOps,
} from '../../engine/index.ts'
import { assertClose, assertRms, assertSameBits, builds, readAndFree, reference, uniforms, wasm } from '../helpers.ts'
import { type Case, cases, type Evaluation, evaluate, large, medium, tiny } from './cases.ts'

const epsilon = 2 ** -23

function compare(c: Case, o: unknown, actual: Evaluation, expected: Evaluation): void {
  // Each result carries a few roundings, and those of its sum, which grow like the root of its length (Higham & Mary 2019).
  const bound = (8 + 4 * Math.sqrt(c.terms?.(o) ?? 1)) * epsilon
  const both = (what: string, a: HostArray | null, e: HostArray | null): void => {
    if (a === null || e === null) assert.equal(a, e, what)
    // Few tokens may cancel by chance: what is left of numbers of about 1 is held to 2e-7, two roundings of 1.
    else if (c.sequence) assertRms(a, e, 1e-5, what, 0.02)
    else assertClose(a, e, bound, 1, what)
  }
  for (const [i, e] of expected.outputs.entries()) both(`output ${i}`, actual.outputs[i], e)
  for (const [i, e] of expected.grads.entries()) both(`gradient of input ${i}`, actual.grads[i], e)
}

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

for (const { name, relaxed } of builds)
  describe(`wasm, ${name} build`, () => {
    for (const c of cases) {
      it(`${c.name}: like the reference`, async () => {
        const device = await wasm(1, relaxed)
        const before = device.bytesInUse()
        await fc.assert(
          fc.asyncProperty(fc.oneof(c.options(tiny), c.options(medium)), fc.nat(), async (o, seed) => {
            compare(c, o, await evaluate(c, o, seed, device), await evaluate(c, o, seed, reference))
          }),
          { numRuns: 30 },
        )
        assert.equal(device.bytesInUse(), before, 'bytes left over')
      })

      it(`${c.name}: the same bits with 1, 2 and 3 threads`, async () => {
        const alone = await wasm(1, relaxed)
        // The relaxed build differs in the multiply-add only, not in how work is shared: one count will do.
        const others = await Promise.all((relaxed ? [3] : [2, 3]).map((threads) => wasm(threads, relaxed)))
        await fc.assert(
          fc.asyncProperty(c.options(large), fc.nat(), async (o, seed) => {
            const expected = await evaluate(c, o, seed, alone)
            for (const device of others) {
              const actual = await evaluate(c, o, seed, device)
              const what = device.description
              for (const [i, e] of expected.outputs.entries()) assertSameBits(actual.outputs[i], e, `${what}: output ${i}`)
              for (const [i, e] of expected.grads.entries()) if (e) assertSameBits(actual.grads[i]!, e, `${what}: gradient of input ${i}`)
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
          for (const threads of [2, 3])
            assertSameBits(Float64Array.from(await product(await wasm(threads, relaxed))), Float64Array.from(alone))
        })

    it('rows with huge, infinite and NaN entries come out as on the reference', async () => {
      const rows = [
        [1000, 999, -1000, 998, 0],
        [-1000, -1001, -999, -1000, -1000],
        [-Infinity, 0, 1, -Infinity, 2],
        [0, 1, 2, 3, NaN],
        [0, 1, 2, 3, Infinity],
        [1e15, -1e15, 1e15, 0, 1],
        [-Infinity, -Infinity, -Infinity, -Infinity, -Infinity],
      ]
      const targets = Int32Array.of(0, 1, 2, 0, 0, 0, 0)
      const results = async (device: Device): Promise<number[][]> => {
        const ys = scope(() => {
          const x = tensor(rows, { device })
          const t = tensor(targets, { device })
          const loss = crossEntropy(x, t, { reduction: 'none' })
          return [
            softmax(x),
            logSoftmax(x),
            loss,
            max(x, { axis: 1 }),
            max(x, { axis: 0 }),
            sum(x, { axis: 1 }),
            cumsum(x, 1),
            layerNorm(x),
            maximum(x, 0),
            minimum(x, 0),
          ]
        })
        return Promise.all(ys.map(readAndFree))
      }
      const [actual, expected] = await Promise.all([await wasm(1, relaxed), reference].map(results))
      for (const [i, es] of expected.entries())
        for (const [j, e] of es.entries()) {
          const a = actual[i][j]
          assert.ok(
            Number.isFinite(e) ? Math.abs(a - e) <= 1e-6 * Math.max(1, Math.abs(e)) : Object.is(a, e),
            `result ${i}, element ${j}: ${a}, expected ${e}`,
          )
        }
    })

    for (const op of unaryOps)
      it(`${op}: special values, and the relative error over the whole range`, async () => {
        const device = await wasm(1, relaxed)
        const magnitudes = [
          0,
          1e-40,
          1e-30,
          1e-10,
          1e-5,
          1e-3,
          0.01,
          0.1,
          0.3,
          0.7,
          1,
          1.5,
          3,
          7,
          9.5,
          16,
          30,
          60,
          80,
          87,
          95,
          110,
          1e3,
          1e5,
          1e10,
          1e30,
          Infinity,
        ]
        // Angles beyond 1e3 lose their meaning in float32.
        const angle = op === 'sin' || op === 'cos'
        const kept = angle ? magnitudes.filter((x) => x <= 1e3 || x === Infinity) : magnitudes
        const values = Float32Array.from([...kept.flatMap((x) => [x, -x]), NaN])
        const [actual, expected] = await Promise.all(
          [device, reference].map(async (d) => {
            const { y, dx } = scope(() => {
              const x = tensor(values, { device: d, requiresGrad: true })
              const y = unary(op, x)
              y.backward(
                tensor(
                  values.map(() => 1),
                  { device: d },
                ),
              )
              return { y, dx: x.grad! }
            })
            return { y: await readAndFree(y), dx: await readAndFree(dx) }
          }),
        )
        // A few roundings; for gelu also that of the exponent, of up to 87, which e^x makes a relative error. Angles: those of 1 at their zeros.
        const relative = op === 'gelu' ? 87 * 2 ** -24 : 1e-6
        // Below 2e-38 a result may be flushed to 0. Derivatives come from 1 - y, 1 - y^2 and the like: a rounding of 1 stays;
        // beyond 1e5 it may be multiplied by x, and at NaN they mean nothing.
        const absolute = { y: angle ? 1e-6 : 2e-38, dx: 1e-6 }
        for (const name of ['y', 'dx'] as const)
          values.forEach((x, i) => {
            const a = actual[name][i]
            const e = Math.fround(expected[name][i])
            const ok = Number.isFinite(e) ? Math.abs(a - e) <= relative * Math.abs(e) + absolute[name] : Object.is(a, e)
            assert.ok(ok || (name === 'dx' && !(Math.abs(x) <= 1e5)), `${op}, ${name} at ${x}: ${a}, expected ${e}`)
          })
      })
  })
