/**
 * Threads that share one memory and run kernels together.
 *
 * A job is written to a control block in shared memory and opened by making its epoch odd; whoever is there takes pieces of it, the
 * calling thread among them: an atomic counter for each thread's share. When no piece is left the caller closes the job (epoch even) and waits only
 * for the workers that had entered it: one that was still asleep costs nothing. Workers watch the epoch for a while after a job, so
 * that a series of kernels finds them awake, then sleep. Tested in test/ops/wasm-pool.test.ts.
 */
import { relaxed as relaxedBytes, simd as simdBytes } from '../../../kernels-wasm/generated/bytes.ts'
import { inNode } from '../../platform.ts'
import { type Capture, type CaptureOptions, createNotes, type Notes } from '../capture.ts'
import { type Precision, precisionOf } from '../device.ts'
import { GateError } from '../kernels.ts'
import { compileLaunches, type Launch } from './launches.ts'
import { type Block, createMemory, type Memory } from './memory.ts'
import { plan, unplaced } from './plan.ts'
import {
  ACTIVE,
  ARITY,
  argsLimit,
  COUNT,
  closed,
  controlBytes,
  controlViews,
  EPOCH,
  FAILED,
  firstPiece,
  GRAIN,
  instantiate,
  KERNEL,
  line,
  NEXT,
  REFUSED,
  Refusal,
  SCRATCH,
  SCRATCH_STRIDE,
  SLEEPING,
  TEXT,
  THREADS,
  type WorkerSetup,
  work,
} from './thread.ts'

/** Options of `wasmDevice`. */
export interface PoolOptions {
  /**
   * 1 to 64. If not given, as many as the machine has cores; 1 in a page that isn't cross-origin isolated, which can have no more, and, as
   * the device's description then says, where threads don't start (a bundler may have left worker.js behind).
   */
  threads?: number
  /** Relaxed SIMD (fused multiply-add); used where there is such a thing if not given. */
  relaxed?: boolean
  /** Vectors of 256 bits, as enableWideSimd has them; used where that has been called and helps if not given. */
  wide?: boolean
  /** Cap on the memory in pages of 64 kB; 65536 (4 GiB) if not given. */
  maximumPages?: number
  /** `f32` by default; `f16` shows what a device of that precision computes, and is slower here. */
  precision?: Precision
}

export interface Pool {
  readonly memory: Memory
  readonly threads: number
  /** Why there is one thread where there should be more; undefined where that isn't so. */
  readonly alone: string | undefined
  readonly relaxed: boolean
  readonly wide: boolean
  /** Precision f16. */
  readonly half: boolean
  /**
   * Calls the kernel for all tasks [0, n), `grain` at a time, on all threads (on the calling one alone when n <= grain), and returns when
   * all is done. args: see `Launch`. scratchBytes: private memory a thread, at `scratch` of kernels-wasm/scratch.ts.
   */
  run(kernel: string, n: number, grain: number, args: Launch['args'], scratchBytes?: number): void
  /** While a step is captured `run` only notes, and the memory gives what stays. */
  readonly notes: Notes<Block, Launch>
  /** A block that holds these int32 or addresses; `memory.free` gives it back, except to a step that is captured. */
  table(words: readonly number[]): Block
  capture(body: () => void, options: CaptureOptions<Block>): Promise<Capture<Block>>
  /** Bytes of the memory's blocks that are the pool's own. */
  scratchBytes(): number
  close(): void
}

declare global {
  // For programs without the library `dom`, which has them.
  namespace WebAssembly {
    interface Memory {}
    interface Module {}
  }
}

/** What kernels refuse to work with, by that code: an error for the user as it stands. */
const refusals: readonly ((value: number) => Error)[] = [(gate) => new GateError(gate)]

function refused(text: string): Error {
  const [code, value] = text.split(' ').map(Number)
  return refusals[code](value)
}

/** What a kernel that failed on this thread has thrown, as an error for the user. */
function failure(error: unknown, what: string): Error {
  if (error instanceof Refusal) return refused(error.message)
  if (error instanceof GateError || (error instanceof Error && error.message.startsWith('wasm: '))) return error
  return new Error(`wasm: ${what} failed: ${error instanceof Error ? error.message : error}`)
}

/** Whether two launches are the same but for blocks in the place of others. */
function sameLaunch(first: Launch, second: Launch, instead: ReadonlyMap<Block, Block>): boolean {
  const within = (address: number, { pointer, extent }: Block): boolean => address >= pointer && address < pointer + extent
  const exchanged = (a: number, b: number): boolean =>
    [...instead].some(([x, y]) =>
      [
        [x, y],
        [y, x],
      ].some(([p, q]) => a - p.pointer === b - q.pointer && within(a, p)),
    )
  const alike = (a: readonly number[], b: readonly number[]): boolean =>
    a.length === b.length && a.every((arg, i) => Object.is(arg, b[i]) || exchanged(arg, b[i]))
  return (
    first.kernel === second.kernel &&
    first.n === second.n &&
    first.grain === second.grain &&
    // What is asked for anew each time needn't be compared.
    (typeof first.args === 'function' || typeof second.args === 'function'
      ? typeof first.args === typeof second.args
      : alike(first.args, second.args))
  )
}

interface Thread {
  ready: Promise<void>
  stop(): void
}

async function startThread(setup: WorkerSetup): Promise<Thread> {
  if (inNode) {
    const { Worker } = await import('node:worker_threads')
    // Without the program's own Node options: some (--input-type) do not suit a file.
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: setup, execArgv: [] })
    const ready = new Promise<void>((resolve, reject) => {
      worker.once('message', () => resolve())
      worker.once('error', reject)
    })
    // Threads must not keep the process alive; until they have started, the caller waits for them.
    return { ready: ready.finally(() => worker.unref()), stop: () => void worker.terminate() }
  }
  // Written out, as bundlers look for it.
  const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
  const ready = new Promise<void>((resolve, reject) => {
    worker.onmessage = () => resolve()
    worker.onerror = ({ message }) => reject(message ?? `worker.js isn't there, or not a script, beside ${import.meta.url}`)
  })
  worker.postMessage(setup)
  return { ready, stop: () => worker.terminate() }
}

/** Threads 1 to `count`, ready to work; where one doesn't start, none stays. */
async function startThreads(count: number, setup: Omit<WorkerSetup, 'thread'>): Promise<Thread[]> {
  const threads: Thread[] = []
  const start = async (thread: number): Promise<void> => {
    try {
      const started = await startThread({ ...setup, thread })
      threads.push(started)
      await started.ready
    } catch (error) {
      throw new Error(`wasm: thread ${thread} did not start: ${error instanceof Error ? error.message : error}`)
    }
  }
  const results = await Promise.allSettled(Array.from({ length: count }, (_, i) => start(i + 1)))
  const failed = results.find((result) => result.status === 'rejected')
  if (!failed) return threads
  for (const { stop } of threads) stop()
  throw failed.reason
}

/** (module (func (result v128) (f32x4.relaxed_madd of three zeros))): valid only where relaxed SIMD is. */
const relaxedProbe = () => {
  const zero = [0xfd, 0x0c, ...new Array<number>(16).fill(0)]
  const body = [0x00, ...zero, ...zero, ...zero, 0xfd, 0x85, 0x02, 0x0b]
  const code = [0x01, body.length, ...body]
  return new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, 10, code.length, ...code])
}

/** Whether WebAssembly has fused multiply-add here. */
export function relaxedAvailable(): boolean {
  return typeof WebAssembly === 'object' && WebAssembly.validate(relaxedProbe())
}

/** Whether memory can be shared with other threads: in a page, whether it is cross-origin isolated. */
export function threadsAvailable(): boolean {
  return typeof SharedArrayBuffer !== 'undefined'
}

/** Whether enableWideSimd has been called, and helped. */
let wideReady = false

export const setWide = (): void => {
  wideReady = true
}

/** V8 keeps compiled code by a module's bytes. An empty section, named `wide`, makes them others: both widths live side by side. */
const mark = [0, 5, 4, ...new TextEncoder().encode('wide')]

function marked(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(bytes.length + mark.length)
  all.set(bytes)
  all.set(mark, bytes.length)
  return all
}

const modules = new Map<string, Promise<WebAssembly.Module>>()

function compiled(relaxed: boolean, shared: boolean, wide: boolean): Promise<WebAssembly.Module> {
  const key = `${relaxed} ${shared} ${wide}`
  const compile = async () => {
    // A page's bundler may have put a promise there, of a file of its own.
    const bytes = await (relaxed ? relaxedBytes : simdBytes)(shared)
    try {
      return await WebAssembly.compile(wide ? marked(bytes) : bytes)
    } catch (error) {
      throw new Error(
        `wasm: the kernels don't compile: ${(error as Error).message} (they need WebAssembly SIMD: Chrome 91, Firefox 89, Safari 16.4)`,
      )
    }
  }
  const module =
    modules.get(key) ??
    compile().catch((error: Error) => {
      modules.delete(key)
      throw error
    })
  modules.set(key, module)
  return module
}

/**
 * What is to be called after wide kernels. They leave the upper halves of the processor's vectors in use, which V8 never clears, and until somebody does, an
 * Intel processor merges them into the result of each instruction of the older kind, SSE, that Node's own code consists of: `Math.exp` takes 24 times as long.
 * Node looks for UTF-8 with instructions of 256 bits, and its compiler has cleared them where such a function ends.
 */
async function cleaner(wide: boolean): Promise<() => void> {
  if (!wide || !inNode) return () => {}
  const { isUtf8 } = await import('node:buffer')
  const some = new Uint8Array(64)
  return () => void isUtf8(some)
}

async function defaultThreads(): Promise<number> {
  if (!threadsAvailable()) return 1
  const cores = inNode ? (await import('node:os')).availableParallelism() : navigator.hardwareConcurrency
  return Math.min(Math.max(cores || 1, 1), 64)
}

/** A browser's main thread may not sleep: it watches instead. */
function maySleep(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1)
    return true
  } catch {
    return false
  }
}

/** trial: wide, whether that helps or not. */
export async function createPool(options: PoolOptions & { trial?: boolean } = {}): Promise<Pool> {
  const wanted = options.threads ?? (await defaultThreads())
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > 64) {
    throw new Error(`wasm: threads must be an integer from 1 to 64, got ${wanted}`)
  }
  const relaxed = options.relaxed ?? relaxedAvailable()
  if (relaxed && !relaxedAvailable()) {
    throw new Error('wasm: relaxed SIMD is not available here (Node 20 has it behind --experimental-wasm-relaxed-simd)')
  }
  const shared = threadsAvailable()
  if (wanted > 1 && !shared) {
    throw new Error(
      `wasm: ${wanted} threads need a cross-origin isolated page (headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp); without them there can be 1`,
    )
  }
  const half = precisionOf('wasm', options.precision) === 'f16'
  const wide = options.wide ?? wideReady
  if (wide && !wideReady && !options.trial) {
    throw new Error("wasm: vectors of 256 bits aren't to be had: call enableWideSimd first; it says whether they help, and why not")
  }
  const module = await compiled(relaxed, shared, wide)
  const clean = await cleaner(wide)
  const blocks = createMemory(options.maximumPages, shared)
  const notes = createNotes<Block, Launch>(sameLaunch, (block) => void (block.part || blocks.free(block)), false)
  const memory: Memory = {
    ...blocks,
    allocate: (bytes, lasting = false) =>
      notes.on()
        ? notes.take(`${bytes}`, lasting, (place) => (lasting ? blocks.allocate(bytes) : unplaced(bytes, place)))
        : blocks.allocate(bytes),
    free(block) {
      if (notes.freed(block)) blocks.free(block)
    },
  }
  const { functions, names, kernels, setScratch } = instantiate({ module, memory: memory.wasm, wide, half })
  const ids = new Map(names.map((name, id) => [name, id]))

  const control = controlViews(shared ? new SharedArrayBuffer(controlBytes) : new ArrayBuffer(controlBytes))
  const { words, args: sharedArgs, message } = control
  const canSleep = maySleep()
  let alone: string | undefined
  const setup = { module, memory: memory.wasm, control: words.buffer as SharedArrayBuffer, wide, half }
  const started = await startThreads(wanted - 1, setup).catch((error: Error) => {
    if (options.threads !== undefined) throw error
    alone = error.message
    return []
  })
  const threads = 1 + started.length

  let epoch = 0
  let scratch: Block | null = null
  let scratchStride = 0
  let open = true

  function reserveScratch(bytes: number): void {
    if (bytes <= scratchStride) return
    if (scratch) blocks.free(scratch)
    scratch = null
    scratchStride = 0
    const stride = Math.ceil(bytes / 64) * 64
    scratch = blocks.allocate(stride * threads)
    scratchStride = stride
    setScratch(scratch.pointer)
  }

  /** Until every worker that entered the job has left it. */
  function join(): void {
    for (let spins = 0; ; spins++) {
      const active = Atomics.load(words, ACTIVE)
      if (active === 0) return
      if (canSleep && spins > 20000) Atomics.wait(words, ACTIVE, active)
    }
  }

  function run(kernel: string, n: number, grain: number, given: Launch['args'], scratchBytes = 0): void {
    launch(kernel, n, grain, given, scratchBytes)
    clean()
  }

  function launch(kernel: string, n: number, grain: number, given: Launch['args'], scratchBytes = 0): void {
    if (!open) throw new Error('wasm: the device has been closed')
    if (n <= 0) return
    const id = ids.get(kernel)
    if (id === undefined) throw new Error(`wasm: no kernel named ${kernel}`)
    if (notes.on()) {
      notes.note({ kernel, n, grain, args: given, scratchBytes })
      return
    }
    const args = typeof given === 'function' ? given() : given
    if (scratchBytes > 0) reserveScratch(scratchBytes)
    if (threads === 1 || n <= grain) {
      try {
        kernels[id](0, n, ...args)
      } catch (error) {
        throw failure(error, `kernel ${kernel}`)
      }
      return
    }
    if (args.length > argsLimit) throw new Error(`wasm: kernel ${kernel} has ${args.length} arguments, ${argsLimit} at most`)
    words[KERNEL] = id
    words[COUNT] = n
    words[GRAIN] = grain
    words[ARITY] = args.length
    words[THREADS] = threads
    words[SCRATCH] = scratch?.pointer ?? 0
    words[SCRATCH_STRIDE] = scratchStride
    sharedArgs.set(args)
    for (let share = 0; share < threads; share++)
      Atomics.store(words, NEXT + line * share, firstPiece(share, Math.ceil(n / grain), threads))
    epoch = (epoch + 1) & 0x3fffffff
    Atomics.store(words, EPOCH, epoch)
    if (Atomics.load(words, SLEEPING) > 0) Atomics.notify(words, EPOCH)
    work(control, kernels, args, 0)
    epoch = (epoch + 1) & 0x3fffffff
    Atomics.store(words, EPOCH, epoch)
    join()
    const failed = Atomics.exchange(words, FAILED, 0)
    if (failed !== 0) {
      const text = new TextDecoder().decode(message.slice(0, words[TEXT]))
      throw failed === REFUSED ? refused(text) : new Error(`wasm: kernel ${kernel} failed: ${text}`)
    }
  }

  return {
    memory,
    threads,
    alone,
    relaxed,
    wide,
    half,
    run,
    notes,
    table(words) {
      const make = (): Block => blocks.allocate(4 * words.length)
      const block = notes.on() ? notes.table({ kernel: '', n: 0, grain: 0, args: words, scratchBytes: 0 }, make) : make()
      blocks.int32(block, words.length).set(words)
      return block
    },
    async capture(body, options) {
      const { first, launches: noted, freed, free: release, ...rest } = notes.capture(body, options)
      let held: Block[] = []
      const free = (): void => {
        release()
        held.splice(0).forEach(blocks.free)
      }
      let launches: readonly Launch[] = noted
      let all: () => void
      try {
        if (!options.again) ({ launches, held } = plan(rest.blocks, freed, noted, rest.tables, options.becomes(), blocks))
        all = await compileLaunches(
          launches,
          functions,
          ({ n, grain }) => threads > 1 && n > grain,
          (place) => {
            const { kernel, n, grain, args } = launches[place]
            launch(kernel, n, grain, args)
          },
        )
      } catch (error) {
        free()
        throw failure(error, 'the compilation of a captured step')
      }
      const scratchBytes = launches.reduce((most, launch) => Math.max(most, launch.scratchBytes), 0)
      const replay = (): void => {
        if (!open) throw new Error('wasm: the device has been closed')
        reserveScratch(scratchBytes)
        try {
          all()
          clean()
        } catch (error) {
          throw failure(error, 'a kernel of a captured step')
        }
      }
      const prepare = (): void => {
        for (const { kernel, n, grain, args } of first) run(kernel, n, grain, args)
      }
      if (!options.again) prepare()
      return { ...rest, launches, replay, prepare, free }
    },
    scratchBytes: () => scratch?.bytes ?? 0,
    close() {
      if (!open) return
      open = false
      Atomics.store(words, EPOCH, closed)
      Atomics.notify(words, EPOCH)
      for (const thread of started) thread.stop()
    },
  }
}
