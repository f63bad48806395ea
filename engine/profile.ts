/**
 * Where the time of a program goes, kernel by kernel.
 *
 *     const profiling = profile(await wasmDevice())
 *     setDevice(profiling.device)              // tensors made on it are measured
 *     span('my part', () => ...)
 *     for (const { spans, kernel, detail, calls, milliseconds } of await profiling.entries()) ...
 *     profiling.stop()
 *
 * Where kernels run when they are called (wasm, reference), a clock around the call measures them. A GPU measures each dispatch itself, by
 * timestamp queries; where it has none, only whole submissions can be timed, and are. What isn't profiled pays nothing: the measuring
 * device is another object, on which no step can be captured: `generate` and `Trainer` run each. (A submission holds what was called on either.)
 * Tests: test/ops/profile.test.ts.
 */
import { checkDevice } from './arguments.ts'
import type { Device } from './devices/device.ts'
import type { KernelName, Kernels, MatmulSizes, Product } from './devices/kernels.ts'

/** Time spent in one kernel, of one detail, within the same spans. */
export interface ProfileEntry {
  /** The names given to `span` around the call, the outermost first. */
  readonly spans: readonly string[]
  /** `submission`: a batch of kernels, where the adapter can't time each. */
  readonly kernel: KernelName | 'submission'
  /** What the kernel was asked for: an op, a kind, a form, the sizes M×N×K of a product; empty where there is no choice. */
  readonly detail: string
  /** How often it ran. */
  calls: number
  /** Over all of these calls. */
  milliseconds: number
}

/** A device that measures its kernels, as `profile` makes it. */
export interface Profile {
  /** Does what the device does, on the same memory, and measures. Closing it closes that, and stops. */
  readonly device: Device
  /** How the times come about. */
  readonly measure: 'clock' | 'timestamps' | 'submissions'
  /** What has been measured so far, in the order of the first call. Waits for the device. */
  entries(): Promise<ProfileEntry[]>
  /** From now on nothing is measured, spans cost nothing, and the device can be profiled anew. What was measured stays. */
  stop(): void
}

const open: string[] = []
/** The kernels being measured, and those that measure them. */
const profiled = new Set<Kernels<unknown>>()

/** Names what `body` does, for profiles; spans may be nested. `body` must not be asynchronous. */
export function span<R>(name: string, body: () => R): R {
  if (profiled.size === 0) return body()
  open.push(name)
  try {
    return body()
  } finally {
    open.pop()
  }
}

function detailOf(name: string, args: readonly unknown[]): string {
  if (typeof args[0] === 'string') return args[0]
  if (name === 'muon') return `${(args[0] as unknown[]).length} of ${args[1]}×${args[2]}`
  if (name === 'products') {
    const list = args[0] as readonly Product<unknown>[]
    const sizes = list.map(({ M, N, terms }) => [M, N, terms.reduce((sum, { K }) => sum + K, 0)])
    const [largest] = sizes.sort((x, y) => y[0] * y[1] * y[2] - x[0] * x[1] * x[2])
    return `${list.length}, up to ${largest.join('×')}`
  }
  if (name !== 'matmul') return ''
  const { batch, M, N, K } = args[4] as MatmulSizes
  return `${batch > 1 ? `${batch} of ` : ''}${M}×${N}×${K}`
}

/** Begins to measure. Throws where the device is being profiled already. */
export function profile(device: Device): Profile {
  checkDevice('profile', device)
  if (profiled.has(device.kernels)) throw new Error(`profile: ${device.description} is being profiled already: stop() that first`)
  const found = new Map<string, ProfileEntry>()
  const entryOf = (spans: readonly string[], kernel: ProfileEntry['kernel'], detail: string): ProfileEntry => {
    const key = [...spans, kernel, detail].join('\n')
    let entry = found.get(key)
    if (!entry) {
      entry = { spans: [...spans], kernel, detail, calls: 0, milliseconds: 0 }
      found.set(key, entry)
    }
    return entry
  }

  let stopped = false
  /** Of the kernel being called: what is dispatched outside of one is none of this profile's. */
  let current: ProfileEntry | undefined
  const later = device.timeDispatches?.(
    () => current,
    (milliseconds, entry) => {
      entry ??= entryOf([], 'submission', '')
      entry.milliseconds += milliseconds
      if (entry.kernel === 'submission') entry.calls++
    },
  )
  const each = later?.each !== false
  const timed = (name: KernelName, kernel: (...args: unknown[]) => void): ((...args: unknown[]) => void) => {
    if (!each) return kernel
    return (...args) => {
      if (stopped) return kernel(...args)
      const entry = entryOf(open, name, detailOf(name, args))
      entry.calls++
      current = entry
      const start = later ? 0 : performance.now()
      try {
        kernel(...args)
      } finally {
        if (!later) entry.milliseconds += performance.now() - start
        current = undefined
      }
    }
  }
  const table = Object.entries(device.kernels) as [KernelName, (...args: unknown[]) => void][]
  const kernels = Object.fromEntries(table.map(([name, kernel]) => [name, timed(name, kernel)])) as unknown as Kernels<unknown>
  const both = [device.kernels, kernels]
  for (const one of both) profiled.add(one)
  const stop = (): void => {
    if (stopped) return
    stopped = true
    later?.stop()
    for (const one of both) profiled.delete(one)
  }
  return {
    device: {
      ...device,
      kernels,
      // A captured step calls no kernel of the table.
      capture: undefined,
      close() {
        stop()
        device.close()
      },
    },
    measure: !later ? 'clock' : each ? 'timestamps' : 'submissions',
    async entries() {
      await later?.settled()
      return [...found.values()].map((entry) => ({ ...entry }))
    },
    stop,
  }
}
