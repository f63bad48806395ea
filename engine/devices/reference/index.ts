/** The oracle: every kernel in plain TypeScript and float64. Small and readable; speed is the other devices' business. */
import { checkOptions } from '../../arguments.ts'
import { toFloat16 } from '../../half.ts'
import { createNotes } from '../capture.ts'
import { type Device, type Precision, precisionOf } from '../device.ts'
import type { Kernels } from '../kernels.ts'
import { aftKernels } from './aft.ts'
import { decayKernels } from './decay.ts'
import { elementwiseKernels } from './elementwise.ts'
import { fastWeightKernels } from './fast-weights.ts'
import { linearKernels } from './linear.ts'
import { matmulKernels } from './matmul.ts'
import { movementKernels } from './movement.ts'
import { netKernels } from './net.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { randomKernels } from './random.ts'
import { reduceKernels } from './reduce.ts'
import { sequenceKernels } from './sequence.ts'
import type { RefStorage } from './storage.ts'

const kernelsOf = (round?: (x: number) => number): Kernels<RefStorage> => ({
  ...elementwiseKernels,
  ...movementKernels,
  ...reduceKernels,
  ...matmulKernels(round),
  ...normKernels,
  ...sequenceKernels,
  ...decayKernels,
  ...randomKernels,
  ...optimizerKernels,
  ...fastWeightKernels(round),
  ...aftKernels,
  ...netKernels,
  ...linearKernels,
})

/** Bytes of freed memory that are kept, at most. */
const waitingLimit = 2 ** 24

/** Options of `referenceDevice`. */
export interface ReferenceOptions {
  /** `f32` by default; `f16` is what a device of that precision is held to. */
  precision?: Precision
}

/** What `referenceDevice` opens. */
export interface ReferenceDevice extends Device<RefStorage> {
  /** How many operands were too large for float16 so far, from 65520 on; in f32 none. */
  overflows(): number
}

/** Plain TypeScript in float64: slow, and what every other device is held to. */
export function referenceDevice(options: ReferenceOptions = {}): ReferenceDevice {
  checkOptions('reference', options, ['precision'])
  const precision = precisionOf('reference', options.precision)
  let overflows = 0
  const round = (x: number): number => {
    const rounded = toFloat16(x)
    if (Number.isFinite(x) && !Number.isFinite(rounded)) overflows++
    return rounded
  }
  const live = new Set<RefStorage>()
  let bytes = 0
  let open = true
  /** Freed memory by its size, for the next block: new memory takes longer than most kernels do, and collecting it longer still. */
  const waiting = new Map<number, Float64Array[]>()
  let waitingBytes = 0
  const take = (size: number): Float64Array => {
    const data = waiting.get(size)?.pop()
    if (!data) return new Float64Array(size)
    waitingBytes -= data.byteLength
    return data.fill(0)
  }
  const drop = (storage: RefStorage) => {
    if (!live.delete(storage)) throw new Error('reference: a block was freed twice')
    const { data } = storage
    bytes -= data.byteLength
    if (data instanceof Int32Array || waitingBytes + data.byteLength > waitingLimit) return
    waitingBytes += data.byteLength
    const list = waiting.get(data.length)
    if (list) list.push(data)
    else waiting.set(data.length, [data])
  }
  interface Launch {
    name: string
    args: readonly unknown[]
  }
  /** A launch but for which blocks it is about. */
  const kindOf = ({ name, args }: Launch): string => JSON.stringify([name, args], (_, x) => (live.has(x) ? x.data.length : x))
  const notes = createNotes<RefStorage, Launch>(
    (first, second) => kindOf(first) === kindOf(second),
    (storage) => open && drop(storage),
  )
  type Kernel = (...args: unknown[]) => void
  const table = kernelsOf(precision === 'f16' ? round : undefined) as unknown as Record<string, Kernel>
  const kernels = Object.fromEntries(
    Object.entries(table).map(([name, kernel]): [string, Kernel] => [
      name,
      (...args) => (notes.on() ? notes.note({ name, args }) : kernel(...args)),
    ]),
  ) as unknown as Kernels<RefStorage>
  const use = () => {
    if (!open) throw new Error('reference: the device has been closed')
  }
  return {
    name: 'reference',
    description: `reference (plain TypeScript, float64${precision === 'f16' ? ', operands of products in float16' : ''})`,
    double: true,
    precision,
    overflows: () => overflows,
    defers: false,
    get kernels() {
      use()
      return kernels
    },
    allocate(dtype, size, lasting = false) {
      use()
      const make = () => {
        const storage = { data: dtype === 'int32' ? new Int32Array(size) : take(size) }
        live.add(storage)
        bytes += storage.data.byteLength
        return storage
      }
      return notes.on() ? notes.take(`${dtype} ${size}`, lasting, make) : make()
    },
    free(storage) {
      if (notes.freed(storage) && open) drop(storage)
    },
    write(storage, data, begin = 0) {
      use()
      const held = storage.data
      if (notes.written(storage, () => Array.from(data).some((x, i) => !Object.is(x, held[begin + i])))) held.set(data, begin)
    },
    async read(storage, size) {
      use()
      notes.read()
      return storage.data.slice(0, size)
    },
    bytesInUse: () => bytes,
    // What waits isn't counted, as garbage isn't: it is little, and how much of it there is depends on all that was done before.
    bytesReserved: () => bytes,
    async capture(body, options) {
      use()
      const { launches, ...rest } = notes.capture(body, options)
      const replay = () => {
        use()
        for (const { name, args } of launches) table[name](...args)
      }
      return { ...rest, launches, replay, prepare() {} }
    },
    close() {
      open = false
      live.clear()
      waiting.clear()
      bytes = waitingBytes = 0
    },
  }
}
