import { matmul } from '../../../kernels-wgsl/generated/wgsl.ts'
import { halfNumber } from '../../half.ts'
import { type Kernels, type MatmulSizes, unaryOps } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Of kernels-wgsl/matmul.wgsl. */
const tile = 64
const depth = 16
const none = 99

/** Workgroups that keep a GPU busy, and the least of K that is worth a workgroup of its own. */
const enough = 128
const leastLength = 256

/** Elements of a product, a sixteenth of a tile, up to which a thread makes one, and of K that it adds up by itself. */
const few = 256
const shortLength = 256

function splitsOf({ batch, M, N, K }: MatmulSizes): { tiles: number; splits: number; length: number } {
  const tiles = batch * Math.ceil(M / tile) * Math.ceil(N / tile)
  const wanted = Math.max(1, Math.min(Math.floor(K / leastLength), Math.floor(enough / tiles)))
  const length = Math.ceil(K / wanted / depth) * depth
  return { tiles, splits: Math.max(1, Math.ceil(K / Math.max(length, 1))), length }
}

/** Factors of what the product is added to, and of the sum. */
interface Scales {
  before: number
  after: number
}

export function matmulKernels(gpu: Gpu) {
  return {
    matmul(a: Block, b: Block, bias: Block | null, c: Block, sizes: MatmulSizes, start?: Block, scales: Scales = { before: 1, after: 1 }) {
      const { batch, strideA, strideB, M, N, K, transposeA, transposeB, sparse, accumulate, activation, halfB } = sizes
      if (batch * M * N === 0) return
      const { tiles, splits, length } = splitsOf(sizes)
      const params = {
        M,
        N,
        K,
        batch,
        strideA,
        strideB,
        transposeA: Number(transposeA),
        transposeB: Number(transposeB),
        vectorsA: Number((transposeA ? M : K) % 4 === 0 && strideA % 4 === 0),
        vectorsB: Number((transposeB ? K : N) % 4 === 0 && strideB % 4 === 0),
        splits,
        length,
        sparse: Number(sparse),
        accumulate: accumulate ? (start ? 2 : 1) : 0,
        ...scales,
        biased: Number(bias !== null),
        activation: activation === null ? none : unaryOps.indexOf(activation),
        halfB: halfNumber(halfB),
      }
      const product = (c: Block): void =>
        gpu.run(matmul, 'matmul', { a, a4: a, b, b4: b, pairsB: b, bias, start, c }, params, tiles * splits)
      if (M * N <= few && K <= shortLength)
        gpu.run(matmul, 'matmulEach', { a, b, pairsB: b, bias, start, c }, params, Math.ceil((batch * M * N) / perGroup))
      else if (splits === 1) product(c)
      else
        gpu.scratch(splits * batch * M * N, (partial) => {
          product(partial)
          gpu.run(matmul, 'matmulJoin', { partial, bias, start, c }, params, Math.ceil((batch * M * N) / perGroup))
        })
    },
  } satisfies Pick<Kernels<Block>, 'matmul'>
}
