import { told } from '../arguments.ts'
import type { Capture, CaptureOptions } from './capture.ts'
import type { Kernels } from './kernels.ts'

/** The type of a tensor's numbers: floats, or the integers of tokens, targets and masks. The reference device keeps float32 in float64. */
export type DType = 'float32' | 'int32'
/** What a read gives: Float64Array on the reference device, Float32Array elsewhere, Int32Array for int32. */
export type HostArray = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer> | Int32Array<ArrayBuffer>
/** The devices: `reference`, float64 in plain JavaScript; `wasm`, WebAssembly SIMD on the CPU; `webgpu`, the GPU. */
export type DeviceName = 'reference' | 'wasm' | 'webgpu'

/** What a device can round the operands of products of matrices to: see `Precision`. */
export const precisions = ['f32', 'f16'] as const
/**
 * `f16`: operands of products (`matmul`, those of the chunk form of `fastWeights`) are rounded to float16 as they are read; `f32`: they aren't. Sums, and all
 * that is kept, are in the device's own numbers.
 */
export type Precision = (typeof precisions)[number]

/** What is given, `f32` if nothing is. */
export function precisionOf(device: string, given: Precision = 'f32'): Precision {
  if (!precisions.includes(given)) throw new Error(`${device}: precision must be ${precisions.join(' or ')}, not ${told(given)}`)
  return given
}

/** What times a device whose kernels run later than they are called. */
export interface DispatchTiming {
  /** Whether each dispatch is timed, or only a submission of many. */
  readonly each: boolean
  /** Resolves once all that was called before is reported. */
  settled(): Promise<void>
  /** Nothing called from now on is timed. */
  stop(): void
}

/** Matrices of numbers of 16 bits in an order that is the device's own (`halfMatrices`). */
export interface HalfMatrices<S = any> {
  /** Contents undefined; it lasts (see `Device.allocate`). */
  allocate(rows: number, columns: number): S
  /** Writes whole rows from the row `first` on, a multiple of `rowsTogether` (halves.ts); as many as that, too, unless they are the last. */
  write(storage: S, rows: number, columns: number, first: number, bits: Uint16Array): void
  read(storage: S, rows: number, columns: number): Promise<Uint16Array<ArrayBuffer>>
}

/**
 * A device owns memory and runs kernels on it. S is its own handle to a block of memory (a typed array, a pointer, a GPU buffer).
 * Kernels may run later than they are called (WebGPU records them): only `read` waits.
 */
export interface Device<S = any> {
  readonly name: DeviceName
  /** One line for people: build, threads, adapter. */
  readonly description: string
  /** Whether float32 tensors really hold float64 values (the oracle). */
  readonly double: boolean
  /** See `Precision`. */
  readonly precision: Precision
  /** Whether kernels run later than they are called: a next step may be begun before the last is read, so that the device never idles. */
  readonly defers: boolean
  /** What the device computes with. */
  readonly kernels: Kernels<S>
  /**
   * `size` elements, 4 bytes each (8 on the reference device), contents undefined. Throws an Error that says how much is in use when there's no more.
   * `lasting`: the host is going to write it once, so that a step that is captured may use it for nothing else.
   */
  allocate(dtype: DType, size: number, lasting?: boolean): S
  /** Gives a block back. It isn't used afterwards. */
  free(storage: S): void
  /**
   * Only where kernels reach many blocks at once if these lie side by side: new blocks that do, of the sizes of these float ones. Null where those have
   * to stay where they are, because a captured step uses them. They share a buffer, so no kernel may read one of them and write another.
   */
  gather?(storages: readonly S[]): readonly S[] | null
  /** Copies `data` in, from the element `begin` on (0 if not given). */
  write(storage: S, data: ArrayLike<number>, begin?: number): void
  /** Copies the first `size` elements out, after every kernel called before has run. */
  read(storage: S, size: number): Promise<HostArray>
  /** Only where matrices of 16-bit numbers lie in an order of their own: see `halfMatrices`. */
  readonly halves?: HalfMatrices<S>
  /** Bytes of the blocks allocated and not yet freed, as requested; flat from step to step when nothing leaks. */
  bytesInUse(): number
  /**
   * Bytes taken from the system: never shrinks on wasm; on the reference device what is in use. Of blocks side by side (`gather`) those that are freed
   * stay taken until all are.
   */
  bytesReserved(): number
  /**
   * Only where kernels run later than they are called: from now on `report` is told how long each dispatch has taken, with what `mark` gave
   * when it was recorded (undefined: it isn't timed), or else how long each submission has. One at a time. See engine/profile.ts.
   */
  timeDispatches?<M>(mark: () => M | undefined, report: (milliseconds: number, mark: M | undefined) => void): DispatchTiming
  /**
   * Only where steps can be captured (see engine/capture.ts): runs `body`, in which kernels are noted instead of run and what is allocated stays,
   * until the capture is freed. `again`: the same step once more. Throws where that isn't the same, or where the step reads values.
   */
  capture?(body: () => void, options: CaptureOptions<S>): Promise<Capture<S>>
  /** Stops threads, releases memory. Using the device afterwards throws; only freeing what was on it doesn't. */
  close(): void
}
