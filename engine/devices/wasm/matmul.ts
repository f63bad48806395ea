/**
 * Matrix products: how they are cut into tasks for kernels-wasm/matmul.ts. The cut never shows in the result.
 */
import { halfNumber } from '../../half.ts'
import { type Kernels, type MatmulSizes, type Product, unaryOps } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'
import { reduceKernels } from './reduce.ts'

/** Of kernels-wasm/matmul.ts. */
const MR = 6,
  KC = 512
export const NR = 16

/** Rows of a task when B is packed beforehand; up to `fewRows` of them a task takes all, and packs its own part of B. */
const blockRows = 72,
  fewRows = 128,
  // Of a transposed A, as many as a thread packs at once.
  manyRows = 2048
const blockColumns = 256
/** NR of kernels-wasm/matvec.ts. */
const panelColumns = 32
/** Operations that are worth waking another thread for. */
const worthWaking = 2 ** 20
/** Operations, and bytes read by a product of a few rows, that are worth handing to another thread. */
export const worthSharing = 2 ** 18,
  worthReading = 2 ** 17

const up = (x: number, multiple: number) => Math.ceil(x / multiple) * multiple

/** Bytes that a task of kernels-wasm/matmul.ts needs, for a block of rows and columns, of which it packs one or both sides. */
export const scratchFor = (rows: number, columns: number, K: number, packsA: boolean, packsB: boolean): number =>
  4 *
  (MR * NR +
    (packsA ? rows * 16 * (Math.ceil(Math.min(K, KC) / 16) | 1) : 0) +
    (packsB ? Math.min(K, KC) * Math.min(columns, blockColumns) : 0))

export function matmulKernels(pool: Pool): Pick<Kernels<Block>, 'matmul' | 'products'> {
  const { affine, unaryBackward } = elementwiseKernels(pool)
  const { reduce } = reduceKernels(pool)

  /** B as the kernel takes it. */
  function packedFrom(b: Block, { batch, strideB, N, K, transposeB, halfB }: MatmulSizes, alone: boolean, kept: boolean): Block {
    const panels = (strideB === 0 ? 1 : batch) * Math.ceil(N / NR)
    const packed = pool.memory.allocate(4 * panels * NR * K, kept)
    const args = [b.pointer, packed.pointer, strideB, N, K, +transposeB, halfNumber(halfB)]
    // Four side by side are read at once.
    const together = Math.min(4, Math.floor(panels / pool.threads))
    const pack = { kernel: 'matmulPack', n: panels, grain: alone ? panels : Math.max(together, Math.ceil(1024 / K)), args }
    if (kept) pool.notes.noteFirst({ ...pack, scratchBytes: 0 })
    else pool.run(pack.kernel, pack.n, pack.grain, pack.args)
    return packed
  }

  /** What is packed for several products that take place one after the other, by its B. */
  type Packed = Map<Block, { sizes: MatmulSizes; block: Block }>
  const alike = (x: MatmulSizes, y: MatmulSizes): boolean => x.N === y.N && x.K === y.K && x.transposeB === y.transposeB

  function multiply(a: Block, b: Block, bias: Block | null, c: Block, sizes: MatmulSizes, start?: Block, shared?: Packed): void {
    const { batch, strideA, strideB, M, N, K, transposeA, transposeB, sparse, accumulate } = sizes
    if (batch * M * N === 0) return
    if (accumulate && start) affine(start, c, batch * M * N, 1, 0)
    const activation = sizes.activation === null ? -1 : unaryOps.indexOf(sizes.activation)
    const biasPointer = bias?.pointer ?? 0
    const half = halfNumber(sizes.halfB)

    /**
     * In a captured step, a B that stays: it is packed once, before the first step, and what it is packed into belongs to the capture. Halves are packed already.
     */
    const kept = !half && !sparse && !transposeA && batch === 1 && M <= fewRows && pool.notes.stays(b)
    if ((kept || half) && M < MR) {
      const panels = Math.ceil(N / panelColumns)
      const packed = half ? b : pool.memory.allocate(4 * panels * panelColumns * K, true)
      if (!half)
        pool.notes.noteFirst({
          kernel: 'matvecPack',
          n: panels,
          grain: Math.ceil(4096 / (K + 1)),
          args: [b.pointer, packed.pointer, N, K, +transposeB],
          scratchBytes: 0,
        })
      pool.run(
        'matvec',
        panels,
        Math.ceil(Math.min(worthReading / ((half ? 2 : 4) * panelColumns * (K + 1)), worthSharing / (2 * M * panelColumns * (K + 1)))),
        [a.pointer, packed.pointer, biasPointer, c.pointer, M, N, K, +accumulate, activation, half],
        4 * panelColumns,
      )
      return
    }

    if (!sparse && (M === 1 || (M <= 3 && !transposeA))) {
      const blockN = Math.min(up(N, 16), transposeB ? 64 : 256)
      const tasks = batch * Math.ceil(N / blockN)
      pool.run(
        'matmulRows',
        tasks,
        Math.ceil(worthReading / (4 * blockN * (K + 1))),
        [a.pointer, b.pointer, biasPointer, c.pointer, strideA, strideB, M, N, K, +transposeB, +accumulate, activation, blockN],
        4 * blockN,
      )
      return
    }

    const operations = 2 * batch * M * N * (K + 1)
    const alone = pool.threads === 1 || operations <= worthWaking
    // A thread alone, or each with enough tasks that cover all rows, packs its own part of B; otherwise B is packed beforehand, by all threads.
    const whole = M <= fewRows || ((alone || batch * Math.ceil(N / blockColumns) >= 4 * pool.threads) && !(transposeA && M > manyRows))
    // Each thread gets as many blocks of rows as the others.
    const turns = Math.ceil(M / (blockRows * pool.threads))
    const blockM = whole ? M : up(Math.ceil(M / (turns * pool.threads)), MR)
    // A transposed A is packed once for all columns of a task.
    let blockN = transposeA ? up(N, NR) : Math.min(up(N, NR), blockColumns)
    // Several for each thread, so that none waits long for another; but each packs a transposed A anew.
    const wanted = transposeA ? pool.threads : 4 * pool.threads
    if (whole && !alone) while (blockN > 32 && batch * Math.ceil(N / blockN) < wanted) blockN = up(blockN / 2, NR)
    const tasks = batch * Math.ceil(M / blockM) * Math.ceil(N / blockN)
    const grain = alone ? tasks : Math.ceil((worthSharing / operations) * tasks)

    const known = shared?.get(b)
    let packed: Block | null = null
    if ((!whole || kept) && K > 0) packed = known && alike(known.sizes, sizes) ? known.block : packedFrom(b, sizes, alone, kept)
    if (packed && !kept && !known) shared?.set(b, { sizes, block: packed })
    const scratch = scratchFor(blockM, blockN, K, transposeA, !packed)
    pool.run(
      'matmul',
      tasks,
      grain,
      [
        a.pointer,
        b.pointer,
        biasPointer,
        c.pointer,
        packed?.pointer ?? 0,
        strideA,
        strideB,
        M,
        N,
        K,
        +transposeA,
        +transposeB,
        +sparse,
        +accumulate,
        activation,
        blockM,
        blockN,
        half,
      ],
      scratch,
    )
    if (packed && !kept && shared?.get(b)?.block !== packed) pool.memory.free(packed)
  }

  const termSizes = ({ M, N, terms }: Product<Block>, i: number): MatmulSizes => ({
    ...{ batch: 1, strideA: 0, strideB: 0, M, N, K: terms[i].K, sparse: false, accumulate: false, activation: null },
    ...{ transposeA: terms[i].transposeA, transposeB: terms[i].transposeB },
  })

  /** In precision f16 of copies that are rounded, so that there's one place for all ways that a product may go. */
  function multiplyRounded(a: Block, b: Block, bias: Block | null, c: Block, sizes: MatmulSizes, start?: Block): void {
    const copies: Block[] = []
    const rounded = (x: Block, pairs = false): Block => {
      const copy = pool.memory.allocate(x.bytes)
      copies.push(copy)
      pool.run('roundToFloat16', Math.ceil(x.bytes / 16), 8192, [x.pointer, copy.pointer, +pairs])
      return copy
    }
    const { halfB } = sizes
    try {
      multiply(rounded(a), halfB === 'float16' ? b : rounded(b, halfB === 'bfloat16'), bias, c, sizes, start)
    } finally {
      for (const copy of copies) pool.memory.free(copy)
    }
  }

  const matmul: typeof multiply = pool.half ? multiplyRounded : multiply

  return {
    matmul: (a, b, bias, c, sizes, start) => matmul(a, b, bias, c, sizes, start),
    products(list) {
      const packed: Packed = new Map()
      try {
        for (const product of list) {
          const { c, M, N, terms, accumulate = false, bias = null, activation = null, sums, gate } = product
          for (const [i, { a, b }] of terms.entries()) {
            const last = i === terms.length - 1
            const sizes = { ...termSizes(product, i), accumulate: accumulate || i > 0, activation: last ? activation : null }
            matmul(a, b, last ? bias : null, c, sizes, undefined, packed)
          }
          if (gate) unaryBackward(gate.op, gate.y, gate.y, c, c, M * N)
          if (sums) reduce('sum', terms[0].a, sums, 1, terms[0].K, M)
        }
      } finally {
        for (const { block } of packed.values()) pool.memory.free(block)
      }
    },
  }
}
