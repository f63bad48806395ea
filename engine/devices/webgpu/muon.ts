import { muon } from '../../../kernels-wgsl/generated/wgsl.ts'
import { type Kernels, type MatmulSizes, quintic } from '../kernels.ts'
import { matmulKernels } from './matmul.ts'
import type { Block } from './memory.ts'
import { reduceRows } from './reduce.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Matrices of a dispatch, of the 8 buffers that it may bind: a gradient and a momentum each beside three, a parameter each beside two. */
const momentaAtOnce = 2
const updatesAtOnce = 6

export function muonKernels(gpu: Gpu): Pick<Kernels<Block>, 'muon'> {
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
      /** Calls `run` with `most` slots at a time, and where they stand. */
      const together = (
        most: number,
        run: (some: typeof slots, params: { R: number; C: number; size: number; count: number; tall: number; offset: number }) => void,
      ): void => {
        for (let i = 0; i < count; i += most) {
          const some = slots.slice(i, i + most)
          const tall = some.reduce((bits, slot, j) => bits + Number(slot.tall) * 2 ** j, 0)
          run(some, { R, C, size, count: some.length, tall, offset: i * size })
        }
      }
      gpu.scratch(all, (x) =>
        gpu.scratch(all, (y) =>
          gpu.scratch(squares, (gram) =>
            gpu.scratch(squares, (polynomial) => {
              together(momentaAtOnce, ([first, second], params) => {
                const bindings = {
                  gradient: first.g,
                  m: first.m,
                  gradient1: second?.g ?? null,
                  m1: second?.m ?? null,
                  y,
                  gradScale,
                  faults,
                }
                gpu.run(muon, 'muonMomentum', bindings, { ...params, scaled: Number(gradScale !== null), momentum }, params.count * groups)
              })
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
              together(updatesAtOnce, (some, params) => {
                const update = () => {
                  const { lr, weightDecay } = options()
                  return { ...params, step: lr, stepTall: lr * Math.sqrt(C / R), kept: 1 - lr * weightDecay }
                }
                const [parameter, parameter1, parameter2, parameter3, parameter4, parameter5] = Array.from(
                  { length: updatesAtOnce },
                  (_, i) => some[i]?.p ?? null,
                )
                const parameters = { parameter, parameter1, parameter2, parameter3, parameter4, parameter5 }
                gpu.run(muon, 'muonUpdate', { ...parameters, direction: from, faults }, update, params.count * groups)
              })
            }),
          ),
        ),
      )
    },
  }
}
