/** The wasm device against the float64 reference, with any number of threads, for every op of the table. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { normKinds, quintic } from '../../engine/devices/kernels.ts'
import {
  add,
  affine,
  binaryOps,
  type Device,
  div,
  gradNorm,
  type MuonTensors,
  matmul,
  max,
  mul,
  muonStep,
  muonSteps,
  noGrad,
  scope,
  sum,
  type Tensor,
  tensor,
  unaryOps,
  wasmDevice,
} from '../../engine/index.ts'
import { assertClose, assertSameBits, builds, canBeWide, readAndFree, reference, uniforms, wasm, withoutSharedMemory } from '../helpers.ts'
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
        if (canBeWide) others.push(await wasm(2, relaxed, true))
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

    // More columns than go through the rows together, more rows than are summed at once.
    for (const op of ['sum', 'max'] as const)
      it(`the ${op} over the rows of 2 x 300 x 2100 and of 2 x 270 x 37`, async () => {
        for (const shape of [
          [2, 300, 2100],
          [2, 270, 37],
        ]) {
          const total = (device: Device) =>
            readAndFree(
              scope(() => ({ sum, max })[op](tensor(uniforms(3, shape[0] * shape[1] * shape[2]), { shape, device }), { axis: 1 })),
            )
          const [expected, alone, shared] = [
            await total(reference),
            await total(await wasm(1, relaxed)),
            await total(await wasm(3, relaxed)),
          ]
          // Two sums of up to 256 terms below 1 each, and their sum.
          assertClose(alone, expected, 2 * 256 * 6e-8)
          assert.deepEqual(shared, alone)
        }
      })

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
          const others = [wasm(2, relaxed), wasm(3, relaxed), ...(canBeWide ? [wasm(2, relaxed, true)] : [])]
          for (const device of await Promise.all(others))
            assertSameBits(Float64Array.from(await product(device)), Float64Array.from(alone), device.description)
        })

    it('matrices of a Muon step together, alone, with 1, 2 and 3 threads, and by its formula in ops: the same bits', async () => {
      // Among them more columns than a product adds up at once, a symmetric product of several blocks, and sizes that aren't multiples of 4.
      const shapes = ['20 601', '601 20', '20 601', '77 130', '130 77', '64 64', '1 9'].map((shape) => shape.split(' ').map(Number))
      const options = { lr: 0.1, momentum: 0.9, weightDecay: 0.1 }
      const stepped = async (
        threads: number,
        step: (slots: MuonTensors[], scale: Tensor) => void,
      ): Promise<Float64Array<ArrayBuffer>[]> => {
        const device = await wasm(threads, relaxed)
        const made = (seed: number, shape: number[]): Tensor => tensor(uniforms(seed, shape[0] * shape[1]), { shape, device })
        const slots = shapes.map((shape, i) => ({ p: made(3 * i, shape), g: made(3 * i + 1, shape), m: made(3 * i + 2, shape) }))
        const scale = tensor([0.7], { device })
        scope(() => noGrad(() => step(slots, scale)))
        for (const t of [scale, ...slots.map(({ g }) => g)]) t.dispose()
        return Promise.all(slots.flatMap(({ p, m }) => [p, m]).map(async (t) => Float64Array.from(await readAndFree(t))))
      }
      const expected = await stepped(1, (slots, scale) => {
        for (const { p, g, m } of slots) {
          const gradient = mul(g, scale)
          const momentum = add(affine(m, options.momentum), gradient)
          const x = add(gradient, affine(momentum, options.momentum))
          const tall = x.shape[0] > x.shape[1]
          const { a, b, c, iterations, eps } = quintic
          let y = div(x, affine(gradNorm([x]), 1, eps))
          for (let i = 0; i < iterations; i++) {
            const gram = matmul(y, y, { transposeA: tall, transposeB: !tall })
            const polynomial = matmul(gram, gram, { accumulate: affine(gram, b / c) })
            const accumulate = affine(y, a / c)
            y = affine(tall ? matmul(y, polynomial, { accumulate }) : matmul(polynomial, y, { accumulate }), c)
          }
          const update = affine(y, -options.lr * Math.sqrt(Math.max(1, x.shape[0] / x.shape[1])))
          const next = add(affine(p, 1 - options.lr * options.weightDecay), update)
          const { kernels } = p.device
          kernels.affine(next.storage, p.storage, p.size, 1, 0)
          kernels.affine(momentum.storage, m.storage, m.size, 1, 0)
        }
      })
      const alone = await stepped(1, (slots, scale) => {
        for (const { p, g, m } of slots) muonStep(p, g, m, options, scale)
      })
      for (const [i, e] of expected.entries()) assertSameBits(alone[i], e, `alone: ${i}`)
      for (const threads of [1, 2, 3]) {
        const together = await stepped(threads, (slots, scale) => muonSteps(slots, options, scale))
        for (const [i, e] of expected.entries()) assertSameBits(together[i], e, `${threads} threads: ${i}`)
      }
    })

    it('rows with huge, infinite and NaN entries come out as on the reference', async () => {
      await checkSpecialRows(await wasm(1, relaxed))
    })
  })

describe('the kernels in AssemblyScript', () => {
  it('take no square root of one float32 but sqrtOf: in V8 that is of SSE, which stalls where vectors have 256 bits', () => {
    const folder = fileURLToPath(new URL('../../../kernels-wasm/', import.meta.url))
    for (const name of readdirSync(folder).filter((name) => name.endsWith('.ts'))) {
      const code = readFileSync(folder + name, 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
      assert.doesNotMatch(code, /\b(Mathf|f32)\.sqrt\b|(?<![.\w])sqrt\s*(<(?!f64>)|\()/, name)
    }
  })
})
