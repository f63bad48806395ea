/** The random stream: known answers, the same numbers on every device, and what they look like. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { threefry } from '../../engine/devices/reference/random.ts'
import { type Device, dropout, generator, normal, ones, scope, tensor, uniform } from '../../engine/index.ts'
import { assertClose, assertSameBits, builds, readAndFree, reference, wasm, webgpu } from '../helpers.ts'

const others: readonly { name: string; open: (test: Mocha.Context) => Promise<Device> }[] = [
  ...builds.flatMap(({ name, relaxed }) =>
    [1, 3].map((threads) => ({ name: `wasm ${name}, ${threads} threads`, open: () => wasm(threads, relaxed) })),
  ),
  { name: 'webgpu', open: webgpu },
]

const moments = (x: readonly number[]) => {
  const mean = x.reduce((a, b) => a + b, 0) / x.length
  const about = (power: number): number => x.reduce((a, b) => a + (b - mean) ** power, 0) / x.length
  return { mean, variance: about(2), skewness: about(3) / about(2) ** 1.5, kurtosis: about(4) / about(2) ** 2 }
}

describe('random numbers', () => {
  it('threefry2x32-20 gives the known answers of Random123', () => {
    const hex = (words: number[]): string => words.map((w) => w.toString(16).padStart(8, '0')).join(' ')
    assert.equal(hex(threefry(0, 0, 0, 0)), '6b200159 99ba4efe')
    assert.equal(hex(threefry(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff)), '1cb996fc bb002be7')
    assert.equal(hex(threefry(0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3)), 'c4923a9c 483df7a0')
  })

  for (const { name, open } of others)
    it(`${name}: uniform bits and dropout masks are the reference's, normal numbers close to them`, async function () {
      const device = await open(this)
      await fc.assert(
        fc.asyncProperty(fc.nat({ max: 0xffffffff }), fc.nat({ max: 5 }), fc.integer({ min: 1, max: 40_000 }), async (seed, stream, n) => {
          const draw = async (d: Device) => {
            const g = () => ({ seed, stream })
            const results = scope(() => ({
              uniform: uniform(g(), [n], 0, 1, d),
              normal: normal(g(), [n], 0, 1, d),
              masks: [0.1, 0.3, 0.5, 0.9].map((p) => dropout(ones([n], d), p, g())),
            }))
            return {
              uniform: await readAndFree(results.uniform),
              normal: await readAndFree(results.normal),
              masks: await Promise.all(results.masks.map(readAndFree)),
            }
          }
          const [actual, expected] = await Promise.all([device, reference].map(draw))
          assertSameBits(Float64Array.from(actual.uniform), Float64Array.from(expected.uniform), 'uniform')
          // sqrt(-2 log u) cos(2 pi u'): a few roundings of numbers up to 6.
          assertClose(actual.normal, expected.normal, 1e-6, 1, 'normal')
          const dropped = ({ masks }: typeof actual): boolean[][] => masks.map((mask) => mask.map((x) => x === 0))
          assert.deepEqual(dropped(actual), dropped(expected))
        }),
        { numRuns: 10 },
      )
    })

  it('each draw is another stream, and the same seed the same numbers', async () => {
    const g = generator(3)
    const [a, b] = [await readAndFree(uniform(g, [50])), await readAndFree(uniform(g, [50]))]
    assert.deepEqual(g, { seed: 3, stream: 2 })
    assert.notDeepEqual(a, b)
    assert.deepEqual(await readAndFree(uniform({ seed: 3, stream: 1 }, [50])), b)
    assert.notDeepEqual(await readAndFree(uniform(generator(4), [50])), a)
    // A longer draw begins with the shorter one.
    assert.deepEqual((await readAndFree(uniform(generator(3), [80]))).slice(0, 50), a)
  })

  it('has the moments it should', async () => {
    const n = 100_000
    // Standard errors at this n: mean 0.003, variance 0.005, skewness 0.008, kurtosis 0.016; five of each.
    const u = moments(await readAndFree(uniform(generator(1), [n], -1, 3)))
    assertClose([u.mean, u.variance / (4 / 3), u.skewness, u.kurtosis], [1, 1, 0, 1.8], 0.01)
    const x = moments(await readAndFree(normal(generator(2), [n], 2, 3)))
    assertClose([(x.mean - 2) / 3, x.variance / 9], [0, 1], 0.015)
    assertClose([x.skewness, x.kurtosis], [0, 3], 0.02)
    const kept = await readAndFree(dropout(ones([n]), 0.3, generator(5)))
    assertClose([kept.filter((y) => y === 0).length / n, moments(kept).mean], [0.3, 1], 0.005)
  })

  it('stays within its range, and normal numbers finite', async () => {
    const u = await readAndFree(uniform(generator(9), [100_000], 0, 1))
    assert.ok(u.every((x) => x >= 0 && x < 1))
    assert.ok((await readAndFree(normal(generator(9), [100_000]))).every(Number.isFinite))
  })

  it('dropout gives its input back at p = 0, and drops the same in the backward', async () => {
    const x = tensor(new Float32Array(1000).fill(2), { requiresGrad: true })
    const same = dropout(x, 0, generator(1))
    assert.notEqual(same, x)
    same.backward(ones([1000]))
    assert.deepEqual(await readAndFree(same), Array(1000).fill(2))
    assert.deepEqual(await readAndFree(x.grad!), Array(1000).fill(1))
    x.grad = null
    const y = dropout(x, 0.5, generator(1))
    const seed = ones([1000])
    y.backward(seed)
    const values = await readAndFree(y)
    const grad = await readAndFree(x.grad!)
    assert.deepEqual(
      grad,
      values.map((v) => v / 2),
    )
    for (const t of [x, seed]) t.dispose()
  })
})
