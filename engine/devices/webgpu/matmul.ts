import { matmul, matmulUnits, products } from '../../../kernels-wgsl/generated/wgsl.ts'
import { halfNumber } from '../../half.ts'
import { type Kernels, type MatmulSizes, type Product, unaryOps } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { Block } from './memory.ts'
import { whole, wordOf } from './optimizer.ts'
import { reduceColumns } from './reduce.ts'
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

const one = { batch: 1, strideA: 0, strideB: 0, sparse: false }

/** Factors of what the product is added to, and of the sum. */
interface Scales {
  before: number
  after: number
}

/** Of kernels-wgsl/products.wgsl: buffers of a dispatch, of which the first few may be written; products, terms; and what a product may have. */
const buffersAtOnce = 8
const writtenAtOnce = 4
const productsAtOnce = 16
const termsAtOnce = 16
const flags = { accumulate: 1, biased: 2, sums: 4, gated: 8 }

type List = readonly Product<Block>[]

/** The buffers of some products: those that they write, and those that they only read; null where they are too many, or too much, for a dispatch. */
function buffersOf(list: List): { written: Block[]; read: Block[] } | null {
  const distinct = (blocks: (Block | null | undefined)[], known: Block[] = []): Block[] => {
    const found: Block[] = []
    for (const block of blocks) if (block && ![...known, ...found].some(({ memory }) => memory === block.memory)) found.push(whole(block))
    return found
  }
  const written = distinct(list.flatMap(({ c, sums }) => [c, sums]))
  const read = distinct(
    list.flatMap(({ bias, gate, terms }) => [bias, gate?.y, ...terms.flatMap(({ a, b }) => [a, b])]),
    written,
  )
  const terms = list.reduce((sum, product) => sum + product.terms.length, 0)
  const fits = written.length <= writtenAtOnce && written.length + read.length <= buffersAtOnce
  return fits && list.length <= productsAtOnce && terms <= termsAtOnce ? { written, read } : null
}

/** Whether the kernel of several products takes one: it reads and writes four numbers at a time. */
const inFours = ({ c, M, N, terms, bias, sums, gate }: Product<Block>): boolean =>
  [M, N, ...terms.map(({ K }) => K)].every((n) => n > 0 && n % 4 === 0) &&
  // What isn't in the buffer of C can't be written beside it.
  (!sums || sums.memory === c.memory) &&
  [c, bias, sums, gate?.y, ...terms.flatMap(({ a, b }) => [a, b])].every((block) => !block || block.offset % 16 === 0)

/**
 * Multiplications from which on matrix units are worth dispatches of a product's own: without them an H100, at the 17 TFLOP/s measured there, takes 30 us, and a
 * dispatch 8. An estimate: no unit has been measured.
 */
const large = 2 ** 28

export function matmulKernels(gpu: Gpu) {
  const elementwise = elementwiseKernels(gpu)

  function together(list: List, { written, read }: { written: Block[]; read: Block[] }): void {
    // Those that are only read come last, where they may be so many.
    const free = writtenAtOnce - written.length
    const fromFirst = Math.max(0, read.length - (buffersAtOnce - writtenAtOnce))
    const places: (Block | null)[] = [
      ...written,
      ...read.slice(0, fromFirst),
      ...new Array(free - fromFirst).fill(null),
      ...read.slice(fromFirst),
    ]
    const bufferOf = (block: Block): number => places.findIndex((other) => other?.memory === block.memory)
    const placeOf = (block?: Block | null): number[] => (block ? [bufferOf(block), wordOf(block)] : [0, 0])
    const [s0, s1, s2, s3, s4, s5, s6, s7] = Array.from({ length: buffersAtOnce }, (_, i) => places[i] ?? null)
    let first = 0
    const rows = list.flatMap(({ c, M, N, terms, accumulate, bias, activation, sums, gate }) => {
      const what = (accumulate ? flags.accumulate : 0) + (bias ? flags.biased : 0) + (sums ? flags.sums : 0) + (gate ? flags.gated : 0)
      const row = [M, N, ...placeOf(c), first, terms.length, what, activation ? unaryOps.indexOf(activation) : none]
      first += terms.length
      const [gateBuffer, gatePlace] = placeOf(gate?.y)
      return [...row, ...placeOf(bias), sums ? wordOf(sums) : 0, gateBuffer, gatePlace, gate ? unaryOps.indexOf(gate.op) : 0, 0, 0]
    })
    const terms = list.flatMap((product) =>
      product.terms.flatMap(({ a, b, K, transposeA, transposeB }) => [
        ...placeOf(a),
        ...placeOf(b),
        K,
        Number(transposeA),
        Number(transposeB),
        0,
      ]),
    )
    const groups = list.reduce((sum, { M, N }) => sum + Math.ceil(M / tile) * Math.ceil(N / tile), 0)
    gpu.run(products, 'products', { s0, s1, s2, s3, s4, s5, s6, s7 }, { count: list.length, products: rows, terms }, groups)
  }

  const kernels = {
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
      const product = (c: Block): void => {
        const bindings = { a, a4: a, b, b4: b, pairsB: b, bias, start, c }
        if (gpu.units && !sparse) gpu.units.run(matmulUnits, 'matmulUnits', bindings, params, tiles * splits)
        else gpu.run(matmul, 'matmul', bindings, params, tiles * splits)
      }
      if (M * N <= few && K <= shortLength)
        gpu.run(matmul, 'matmulEach', { a, b, pairsB: b, bias, start, c }, params, Math.ceil((batch * M * N) / perGroup))
      else if (splits === 1) product(c)
      else
        gpu.scratch(splits * batch * M * N, (partial) => {
          product(partial)
          gpu.run(matmul, 'matmulJoin', { partial, bias, start, c }, params, Math.ceil((batch * M * N) / perGroup))
        })
    },
    products(list: List): void {
      const depthOf = ({ terms }: Product<Block>): number => terms.reduce((sum, { K }) => sum + K, 0)
      const taken = (product: Product<Block>): boolean =>
        inFours(product) && !(gpu.units && product.M * product.N * depthOf(product) >= large)
      const alone = list.filter((product) => !taken(product))
      // Those with the longest sums begin first.
      const rest = list.filter(taken).sort((x, y) => depthOf(y) - depthOf(x))
      while (rest.length > 0) {
        const some: Product<Block>[] = []
        let buffers: ReturnType<typeof buffersOf> = null
        for (const product of rest) {
          const more = buffersOf([...some, product])
          if (!more) continue
          some.push(product)
          buffers = more
        }
        if (!buffers) {
          // Not even one fits, for all that it reads.
          alone.push(...rest)
          break
        }
        together(some, buffers)
        for (const product of some) rest.splice(rest.indexOf(product), 1)
      }
      for (const { c, M, N, terms, accumulate = false, bias = null, activation = null, sums, gate } of alone) {
        for (const [i, { a, b, K, transposeA, transposeB }] of terms.entries()) {
          const last = i === terms.length - 1
          const own = { M, N, K, transposeA, transposeB, accumulate: accumulate || i > 0, activation: last ? activation : null }
          kernels.matmul(a, b, last ? bias : null, c, { ...one, ...own })
        }
        if (gate)
          gpu.scratch(M * N, (sum) => {
            elementwise.unaryBackward(gate.op, gate.y, gate.y, c, sum, M * N)
            elementwise.affine(sum, c, M * N, 1, 0)
          })
        if (sums) reduceColumns(gpu, 'sum', terms[0].a, sums, 1, terms[0].K, M)
      }
    },
  } satisfies Pick<Kernels<Block>, 'matmul' | 'products'>
  return kernels
}

/** What is wrong with products on matrix units; null if integers, ragged and in ranges of K, come out exactly. */
export async function wrongUnits(gpu: Gpu): Promise<string | null> {
  const given = (n: number, step: number): Float32Array => Float32Array.from({ length: n }, (_, i) => ((i * step) % 17) - 8)
  for (const [M, N, K, transposed] of [
    [70, 67, 45, true],
    [65, 130, 1030, false],
  ] as const) {
    const [x, y] = [given(M * K, 5), given(K * N, 7)]
    const [a, b, c] = [M * K, K * N, M * N].map((n) => gpu.allocate(4 * n))
    gpu.write(a, x)
    gpu.write(b, y)
    const sizes = { M, N, K, transposeA: transposed, transposeB: transposed, accumulate: false, activation: null }
    matmulKernels(gpu).matmul(a, b, null, c, { ...one, ...sizes })
    const sums = await gpu.read(c, M * N)
    for (const block of [a, b, c]) gpu.free(block)
    for (let i = 0; i < M * N; i++) {
      const [m, n] = [Math.floor(i / N), i % N]
      let sum = 0
      for (let k = 0; k < K; k++) sum += transposed ? x[k * M + m] * y[n * K + k] : x[m * K + k] * y[k * N + n]
      if (sums[i] !== sum) return `a product of integers has ${sums[i]} in the place of ${sum}`
    }
  }
  return null
}
