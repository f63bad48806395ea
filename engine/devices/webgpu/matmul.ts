import { matmul, matmulUnits, products } from '../../../kernels-wgsl/generated/wgsl.ts'
import { halfNumber } from '../../half.ts'
import { type Kernels, type MatmulSizes, type Product, unaryOps } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { Block } from './memory.ts'
import { whole, wordOf } from './optimizer.ts'
import { reduceColumns } from './reduce.ts'
import { type Gpu, perGroup } from './runtime.ts'

const none = 99

/**
 * How a product is made: by which entry of kernels-wgsl/matmul.wgsl, and of products.wgsl, in tiles of how many rows and columns, and what it takes a workgroup. `each`: of a
 * multiplication, in those that a processor makes at its best, as words are read from workgroup memory for it: a quarter, three eighths, a half; a half by way of
 * the cache. `cut`: K may be cut into ranges.
 */
export const forms = [
  { entry: 'matmulWide', together: 'productsWide', rows: 128, columns: 128, each: 1, cut: true },
  { entry: 'matmulTall', together: null, rows: 128, columns: 64, each: 1.5, cut: true },
  { entry: 'matmul', together: 'products', rows: 64, columns: 64, each: 2, cut: true },
  { entry: 'matmulSliced', together: null, rows: 32, columns: 32, each: 3, cut: false },
  { entry: 'matmulSliced', together: null, rows: 16, columns: 16, each: 3, cut: false },
  { entry: 'matmulSliced', together: null, rows: 4, columns: 16, each: 3, cut: false },
] as const

/**
 * WebGPU tells nothing of processors: as many as an H100 has, nearly. The rest is in multiplications of one of these, too, from its published rates: a word
 * from the cache that all share, at 5 TB/s; a workgroup, to begin and to end; and a dispatch more, for the GPU that waits and the host that records it, at 38 us:
 * for the host alone 25 to 50 were measured.
 */
const card = { processors: 128, dispatch: 2 ** 23 }
const ofWord = 20
const ofGroup = 2 ** 14

/** A GPU that is computed by a CPU has few, and waits for nothing. */
const software = { processors: 4, dispatch: 2 ** 18 }

/** The least of K that is worth a workgroup of its own. */
const leastLength = 256

/** Elements of a product up to which a thread makes one, and of K that it adds up by itself. */
const few = 256
const shortLength = 256

type Form = (typeof forms)[number]
const tilesOf = ({ rows, columns }: Pick<Form, 'rows' | 'columns'>, M: number, N: number): number =>
  Math.ceil(M / rows) * Math.ceil(N / columns)
/** Of a tile, with K of the depth. */
const costOf = ({ rows, columns, each }: Form, K: number): number =>
  K * Math.max(rows * columns * each, (rows + columns) * ofWord) + ofGroup

const least = <C extends { cost: number }>(choices: readonly C[]): C =>
  choices.reduce((best, choice) => (choice.cost < best.cost ? choice : best))

/** The form, and the ranges of K, that take least by that. */
export const formOf = (
  { batch, M, N, K }: Pick<MatmulSizes, 'batch' | 'M' | 'N' | 'K'>,
  among: readonly Form[] = forms,
  { processors, dispatch } = card,
) =>
  least(
    among.flatMap((form) => {
      const tiles = batch * tilesOf(form, M, N)
      const most = form.cut ? Math.min(Math.floor(K / leastLength), Math.floor(processors / tiles)) : 1
      return [...new Set([1, Math.max(1, most)])].map((wanted) => {
        const length = Math.ceil(K / wanted / 16) * 16
        const splits = Math.max(1, Math.ceil(K / Math.max(length, 1)))
        const join = splits === 1 ? 0 : dispatch + (batch * M * N * (2 * splits + 1) * ofWord) / processors
        return {
          form,
          groups: tiles * splits,
          splits,
          length,
          cost: Math.ceil((tiles * splits) / processors) * costOf(form, length) + join,
        }
      })
    }),
  )

const depthOf = ({ terms }: Product<Block>): number => terms.reduce((sum, { K }) => sum + K, 0)

/** Of several products, in tiles of one size: as long as the longest takes, and as all take on all processors. */
export const formOfList = (list: List, among: readonly Form[] = forms, { processors } = card) =>
  least(
    among.flatMap((form) => {
      if (!form.together) return []
      const tiles = list.map(({ M, N }) => tilesOf(form, M, N))
      const costs = list.map((product) => costOf(form, depthOf(product)))
      const all = tiles.reduce((sum, n, i) => sum + n * costs[i], 0)
      return [{ entry: form.together, groups: tiles.reduce((sum, n) => sum + n, 0), cost: Math.max(...costs, all / processors) }]
    }),
  )

/**
 * That of matrix units, where a zero hides what it is multiplied with, and of a GPU that is computed by a CPU: there the others gain nothing that their
 * compiling, half a second each and more, doesn't take.
 */
export const [, , tiles64] = forms

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

export function matmulKernels(gpu: Gpu, among: readonly Form[] = gpu.capabilities.software ? [tiles64] : forms) {
  const machine = gpu.capabilities.software ? software : card
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
    const { entry, groups } = formOfList(list, among, machine)
    gpu.run(products, entry, { s0, s1, s2, s3, s4, s5, s6, s7 }, { count: list.length, products: rows, terms }, groups)
  }

  const kernels = {
    matmul(a: Block, b: Block, bias: Block | null, c: Block, sizes: MatmulSizes, start?: Block, scales: Scales = { before: 1, after: 1 }) {
      const { batch, strideA, strideB, M, N, K, transposeA, transposeB, sparse, accumulate, activation, halfB } = sizes
      if (batch * M * N === 0) return
      const onUnits = gpu.units && !sparse
      const { form, groups, splits, length } = formOf(sizes, onUnits || sparse ? [tiles64] : among, machine)
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
        vectorsB: Number(!halfB && (transposeB ? K : N) % 4 === 0 && strideB % 4 === 0),
        vectorsC: Number(N % 4 === 0),
        splits,
        length,
        down: form.rows / 4,
        across: form.columns / 4,
        sparse: Number(sparse),
        accumulate: accumulate ? (start ? 2 : 1) : 0,
        ...scales,
        biased: Number(bias !== null),
        activation: activation === null ? none : unaryOps.indexOf(activation),
        halfB: halfNumber(halfB),
      }
      const product = (c: Block): void => {
        const bindings = { a, b, pairsB: b, bias, start, ...(params.vectorsC ? { c: null, c4: c } : { c, c4: null }) }
        if (onUnits) gpu.units?.run(matmulUnits, 'matmulUnits', bindings, params, groups)
        else gpu.run(matmul, form.entry, bindings, params, groups)
      }
      const scalars = { ...params, vectorsC: 0 }
      if (M * N <= few && K <= shortLength)
        gpu.run(matmul, 'matmulEach', { a, b, pairsB: b, bias, start, c, c4: null }, scalars, Math.ceil((batch * M * N) / perGroup))
      else if (splits === 1) product(c)
      else
        gpu.scratch(splits * batch * M * N, (partial) => {
          product(partial)
          gpu.run(matmul, 'matmulJoin', { partial, bias, start, c, c4: null }, scalars, Math.ceil((batch * M * N) / perGroup))
        })
    },
    products(list: List): void {
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
    [65, 40, 2050, false],
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
