/**
 * What each thread of a pool has and does (pool.ts says how they work together): its instance of the kernels, its pieces of the open job. A worker loads this and no
 * more of the device, since each has a heap of its own.
 */
/** Words of the control block, those that threads contend for on cache lines of their own. */
export const EPOCH = 0,
  ACTIVE = 32,
  SLEEPING = 48,
  FAILED = 49,
  TEXT = 50
const JOB = 64
export const KERNEL = JOB,
  COUNT = JOB + 1,
  GRAIN = JOB + 2,
  ARITY = JOB + 3,
  SCRATCH = JOB + 4,
  SCRATCH_STRIDE = JOB + 5,
  THREADS = JOB + 6
export const argsLimit = 40,
  threadsLimit = 64
const ARGS = 80,
  MESSAGE = ARGS + 2 * argsLimit,
  messageBytes = 512
/** A thread's next piece, a cache line each. */
export const NEXT = MESSAGE + messageBytes / 4,
  line = 16
/** Values of FAILED. */
const CRASHED = 1
export const REFUSED = 2
export const controlBytes = 4 * (NEXT + line * threadsLimit)

/** Epoch of a pool that has been closed: workers return. */
export const closed = -1
const awakeMilliseconds = 0.2

export interface WorkerSetup {
  module: WebAssembly.Module
  memory: WebAssembly.Memory
  control: SharedArrayBuffer
  wide: boolean
  half: boolean
  /** 1, 2, ...: the caller is thread 0. */
  thread: number
}

export interface Control {
  words: Int32Array
  args: Float64Array
  message: Uint8Array
}

type Kernel = (begin: number, end: number, ...args: number[]) => void

export function controlViews(buffer: ArrayBufferLike): Control {
  return {
    words: new Int32Array(buffer),
    args: new Float64Array(buffer, 4 * ARGS, argsLimit),
    message: new Uint8Array(buffer, 4 * MESSAGE, messageBytes),
  }
}

/** What is wrong with the input of a kernel: the code that it gave to env.refuse and the value, as a text that goes from thread to thread. */
export class Refusal extends Error {}

/** A thread's own instance of the module: its kernels, in the order in which the module exports them. */
export function instantiate({ module, memory, wide, half }: Pick<WorkerSetup, 'module' | 'memory' | 'wide' | 'half'>) {
  const { exports } = new WebAssembly.Instance(module, {
    env: {
      memory,
      wide: +wide,
      half: +half,
      abort: () => {
        throw new Error('abort')
      },
      // float32, printed as the shortest number that it could have come from.
      refuse: (code: number, value: number) => {
        throw new Refusal(`${code} ${Number(value.toPrecision(7))}`)
      },
    },
  })
  const names = WebAssembly.Module.exports(module)
    .filter((entry) => entry.kind === 'function')
    .map((entry) => entry.name)
  return {
    functions: exports,
    names,
    kernels: names.map((name) => exports[name] as Kernel),
    setScratch: exports.setScratch as (pointer: number) => void,
  }
}

/**
 * Takes pieces of the open job until none is left, those of its own share first: what a thread has computed lies in its cache, and the next
 * kernel's share is of the same place as a rule. Then it helps the others. A failure ends the job for all, its text kept for the caller.
 */
export function work(
  { words, args, message }: Control,
  kernels: readonly Kernel[],
  jobArgs: readonly number[] | null,
  thread: number,
): void {
  const n = words[COUNT],
    grain = words[GRAIN]
  const kernel = kernels[words[KERNEL]]
  const given = jobArgs ?? Array.from(args.subarray(0, words[ARITY]))
  const threads = words[THREADS]
  const pieces = Math.ceil(n / grain)
  try {
    for (let i = 0; i < threads; i++) {
      const share = (thread + i) % threads
      const end = firstPiece(share + 1, pieces, threads)
      for (;;) {
        const piece = Atomics.add(words, NEXT + line * share, 1)
        if (piece >= end) break
        kernel(piece * grain, Math.min((piece + 1) * grain, n), ...given)
      }
    }
  } catch (error) {
    for (let share = 0; share < threads; share++) Atomics.store(words, NEXT + line * share, pieces)
    if (Atomics.compareExchange(words, FAILED, 0, error instanceof Refusal ? REFUSED : CRASHED) !== 0) return
    const said = error instanceof Error ? error.message : error
    const text = new TextEncoder().encode(error instanceof Refusal ? error.message : `${said} (thread ${thread})`).subarray(0, messageBytes)
    message.set(text)
    Atomics.store(words, TEXT, text.length)
  }
}

/** Where a thread's share of the pieces of a job begins, and the share of the one before ends. */
export const firstPiece = (thread: number, pieces: number, threads: number): number => Math.floor((thread * pieces) / threads)

/** A worker's life: watch, work, sleep, until the pool closes. `ready` is called once the kernels are there. */
export function serve(setup: WorkerSetup, ready: () => void): void {
  const control = controlViews(setup.control)
  const { words } = control
  const { kernels, setScratch } = instantiate(setup)
  ready()
  let done = 0
  let idleSince = performance.now()
  for (let spins = 0; ; spins++) {
    const epoch = Atomics.load(words, EPOCH)
    if (epoch === closed) return
    if ((epoch & 1) === 1 && epoch !== done) {
      Atomics.add(words, ACTIVE, 1)
      // Entered; but the job may have been closed in between, and even the next one opened.
      const current = Atomics.load(words, EPOCH)
      if (current !== closed && (current & 1) === 1) {
        setScratch(words[SCRATCH] + setup.thread * words[SCRATCH_STRIDE])
        work(control, kernels, null, setup.thread)
        done = current
      }
      if (Atomics.sub(words, ACTIVE, 1) === 1) Atomics.notify(words, ACTIVE)
      idleSince = performance.now()
    } else if ((spins & 63) === 0 && performance.now() - idleSince > awakeMilliseconds) {
      Atomics.add(words, SLEEPING, 1)
      Atomics.wait(words, EPOCH, epoch)
      Atomics.sub(words, SLEEPING, 1)
      idleSince = performance.now()
    }
  }
}
