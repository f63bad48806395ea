import { muon } from '../../../kernels-wgsl/generated/wgsl.ts'
import { type Kernels, type MatmulSizes, quintic } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import { matmulKernels } from './matmul.ts'
import type { Block } from './memory.ts'
import { reduceRows } from './reduce.ts'
import { type Gpu, perGroup } from './runtime.ts'

export function muonKernels(gpu: Gpu): Pick<Kernels<Block>, 'muon'> {
  const { affine } = elementwiseKernels(gpu)
  const { matmul } = matmulKernels(gpu)
  const { faults } = gpu

  return {
    muon(slots, R, C, gradScale, options) {
      const { momentum } = options()
      const count = slots.length
      const [size, square] = [R * C, R * R]
      const [all, squares] = [count * size, count * square]
      if (all === 0) return
      const plain = { batch: count, M: R, transposeA: false, transposeB: false, sparse: false, accumulate: true, activation: null }
      const groups = Math.ceil(size / perGroup)
      gpu.scratch(all, (x) =>
        gpu.scratch(all, (y) =>
          gpu.scratch(squares, (gram) =>
            gpu.scratch(squares, (polynomial) => {
              for (const [i, { g, m, tall }] of slots.entries()) {
                const params = { n: size, R, C, tall: Number(tall), offset: i * size, scaled: Number(gradScale !== null), momentum }
                gpu.run(muon, 'muonMomentum', { gradient: g, m, y, gradScale, faults }, params, groups)
              }
              gpu.scratch(count, (norms) => {
                reduceRows(gpu, 'squares', y, norms, count, size)
                gpu.run(muon, 'muonNormalise', { y, norms }, { n: all, size, eps: quintic.eps }, Math.ceil(all / perGroup))
              })
              // c is taken out, so that the products do the sums.
              const { a, b, c, iterations } = quintic
              const ofGram: MatmulSizes = { ...plain, N: R, K: C, strideA: size, strideB: size, transposeB: true, accumulate: false }
              const ofPolynomial: MatmulSizes = { ...plain, N: R, K: R, strideA: square, strideB: square }
              const ofNext: MatmulSizes = { ...plain, N: C, K: R, strideA: square, strideB: size }
              for (let i = 0; i < iterations; i++) {
                matmul(y, y, null, gram, ofGram)
                affine(gram, polynomial, squares, b / c, 0)
                matmul(gram, gram, null, polynomial, ofPolynomial)
                affine(y, x, all, a / c, 0)
                matmul(polynomial, y, null, x, ofNext)
                affine(x, y, all, c, 0)
              }
              for (const [i, { p, tall }] of slots.entries()) {
                const params = () => {
                  const { lr, weightDecay } = options()
                  const step = lr * (tall ? Math.sqrt(C / R) : 1)
                  return { n: size, R, C, tall: Number(tall), offset: i * size, step, kept: 1 - lr * weightDecay }
                }
                gpu.run(muon, 'muonUpdate', { parameter: p, direction: y, faults }, params, groups)
              }
            }),
          ),
        ),
      )
    },
  }
}
