import { muon } from '../../../kernels-wgsl/generated/wgsl.ts'
import { type Kernels, type MatmulSizes, quintic } from '../kernels.ts'
import { matmulKernels } from './matmul.ts'
import type { Block } from './memory.ts'
import { bufferOf, gradientsOf, together, whole, wordOf } from './optimizer.ts'
import { reduceRows } from './reduce.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Matrices of a dispatch: their places are parameters of it. */
const matricesAtOnce = 32

export function muonKernels(gpu: Gpu): Pick<Kernels<Block>, 'muon'> {
  // An optimiser's products aren't rounded.
  const { matmul } = matmulKernels(gpu.exact ?? gpu)
  const { faults } = gpu

  return {
    muon(slots, R, C, gradScale, options) {
      const { momentum, guarded } = options()
      const scaled = gradScale === null ? 0 : guarded ? 2 : 1
      const count = slots.length
      const [size, square] = [R * C, R * R]
      const [all, squares] = [count * size, count * square]
      if (all === 0) return
      const plain = { batch: count, M: R, transposeA: false, transposeB: false, sparse: false, accumulate: true, activation: null }
      const groups = Math.ceil(size / perGroup)
      const indexOf = new Map(slots.map((slot, i) => [slot, i]))
      /** Of each matrix of a dispatch: where it begins in what `of` gives, which one it is in y, whether it's tall, and where its gradient lies. */
      const partsOf = (some: typeof slots, of: (slot: (typeof slots)[number]) => Block, buffers: readonly Block[]) => ({
        R,
        C,
        size,
        count: some.length,
        parts: some.flatMap((slot) => {
          const gradient = [bufferOf(buffers, slot.g), wordOf(slot.g), 0, 0]
          return [wordOf(of(slot)), indexOf.get(slot)!, Number(slot.tall), 0, ...gradient]
        }),
      })
      gpu.scratch(all, (x) =>
        gpu.scratch(all, (y) =>
          gpu.scratch(squares, (gram) =>
            gpu.scratch(squares, (polynomial) => {
              for (const { some, buffers } of together(
                slots,
                matricesAtOnce,
                ({ m }) => [[m]],
                ({ g }) => g,
              )) {
                const bindings = { ...gradientsOf(buffers), m: whole(some[0].m), y, gradScale, faults }
                const params = { ...partsOf(some, ({ m }) => m, buffers), scaled, momentum }
                gpu.run(muon, 'muonMomentum', bindings, params, some.length * groups)
              }
              gpu.scratch(count, (norms) => {
                reduceRows(gpu, 'squares', y, norms, count, size)
                gpu.run(muon, 'muonNormalise', { y, norms }, { n: all, size, eps: quintic.eps }, Math.ceil(all / perGroup))
              })
              let [from, to] = [y, x]
              // c is taken out, so that the products do the sums.
              const { a, b, c, iterations } = quintic
              const ofGram: MatmulSizes = { ...plain, N: R, K: C, strideA: size, strideB: size, transposeB: true, accumulate: false }
              const ofPolynomial: MatmulSizes = { ...plain, N: R, K: R, strideA: square, strideB: square }
              const ofNext: MatmulSizes = { ...plain, N: C, K: R, strideA: square, strideB: size }
              for (let i = 0; i < iterations; i++) {
                matmul(from, from, null, gram, ofGram)
                matmul(gram, gram, null, polynomial, ofPolynomial, gram, { before: b / c, after: 1 })
                matmul(polynomial, from, null, to, ofNext, from, { before: a / c, after: c })
                ;[from, to] = [to, from]
              }
              for (const { some } of together(
                slots,
                matricesAtOnce,
                ({ p }) => [[p]],
                () => null,
              )) {
                const params = partsOf(some, ({ p }) => p, [])
                const update = () => {
                  const { lr, weightDecay } = options()
                  return { ...params, scaled, step: lr, stepTall: lr * Math.sqrt(C / R), kept: 1 - lr * weightDecay }
                }
                gpu.run(
                  muon,
                  'muonUpdate',
                  { parameter: whole(some[0].p), direction: from, gradScale, faults },
                  update,
                  some.length * groups,
                )
              }
            }),
          ),
        ),
      )
    },
  }
}
