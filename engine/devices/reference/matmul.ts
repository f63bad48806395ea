/** C = activation([C +] A B [+ bias]) over a batch; a transpose is a pair of strides. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { Kernels } from '../kernels.ts'
import { unaryTable } from './elementwise.ts'
import { numbersOf, type RefStorage } from './storage.ts'

type Round = ((x: number) => number) | undefined
const operand = (x: Float32Array | RefStorage['data'], round: Round): ArrayLike<number> => (round ? x.map((value) => round(value)) : x)

/** `round`: what operands are rounded by, if by anything. */
export const matmulKernels = (round: Round): Pick<Kernels<RefStorage>, 'matmul' | 'products'> => ({
  matmul(a, b, bias, c, { batch, strideA, strideB, M, N, K, transposeA, transposeB, sparse, accumulate, activation, halfB }, start) {
    const [rowA, colA] = transposeA ? [1, M] : [K, 1]
    const [rowB, colB] = transposeB ? [1, K] : [N, 1]
    const [A, B] = [a.data, halfB ? numbersOf(b, halfB) : b.data].map((x) => operand(x, round))
    const C = c.data
    // Added to a sum of its own, as on the other devices: the sum of nothing but -0 is +0.
    const begun = accumulate && (start ?? c).data.slice(0, batch * M * N)
    C.fill(0, 0, batch * M * N)
    for (let s = 0; s < batch; s++)
      for (let m = 0; m < M; m++) {
        const row = (s * M + m) * N
        for (let k = 0; k < K; k++) {
          const value = A[s * strideA + m * rowA + k * colA]
          if (sparse && value === 0) continue
          const from = s * strideB + k * rowB
          for (let n = 0; n < N; n++) C[row + n] += value * B[from + n * colB]
        }
        for (let n = 0; n < N; n++) {
          if (begun) C[row + n] += begun[row + n]
          if (bias) C[row + n] += bias.data[n]
          if (activation) C[row + n] = unaryTable[activation].f(C[row + n])
        }
      }
  },
  products(list) {
    for (const { c, M, N, terms, accumulate, bias, activation, sums, gate } of list) {
      const C = c.data
      const operands = terms.map(({ a, b, K, transposeA, transposeB }) => {
        const [rowA, colA] = transposeA ? [1, M] : [K, 1]
        const [rowB, colB] = transposeB ? [1, K] : [N, 1]
        return { A: operand(a.data, round), B: operand(b.data, round), K, rowA, colA, rowB, colB }
      })
      for (let m = 0; m < M; m++)
        for (let n = 0; n < N; n++) {
          let x = 0
          for (const { A, B, K, rowA, colA, rowB, colB } of operands)
            for (let k = 0; k < K; k++) x += A[m * rowA + k * colA] * B[k * rowB + n * colB]
          if (accumulate) x += C[m * N + n]
          if (bias) x += bias.data[n]
          if (gate) x *= unaryTable[gate.op].df(gate.y.data[m * N + n], gate.y.data[m * N + n])
          C[m * N + n] = activation ? unaryTable[activation].f(x) : x
        }
      const [{ a, K }] = terms
      for (let m = 0; sums && m < M; m++) {
        let total = 0
        for (let k = 0; k < K; k++) total += a.data[k * M + m]
        sums.data[m] = total
      }
    }
  },
})
