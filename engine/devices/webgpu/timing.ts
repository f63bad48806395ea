/**
 * How long the GPU takes: two timestamps around each dispatch, each in a pass of its own, read back after the batch without anybody waiting;
 * where the adapter has none, the time from a submission, or the end of the one before, to its end.
 */

export interface Timing {
  /** Whether each dispatch needs a pass of its own. */
  readonly each: boolean
  /** What the pass of the next dispatch is begun with; undefined where it isn't timed. */
  pass(): GPUComputePassDescriptor | undefined
  /** Before the commands of a batch are finished. */
  finish(encoder: GPUCommandEncoder): void
  /** After they were submitted. */
  submitted(): void
  settled(): Promise<void>
  /** Once what was submitted is reported, its memory is given back. */
  close(): void
}

/** The standard's numbers: the names are globals in browsers only. */
const usage = { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, QUERY_RESOLVE: 512 }
const mapRead = 1

/** `mark` and `report` as in Device.timeDispatches; capacity: dispatches in a batch. */
export function createTiming<M>(
  device: GPUDevice,
  each: boolean,
  capacity: number,
  mark: () => M | undefined,
  report: (milliseconds: number, mark: M | undefined) => void,
): Timing {
  const pending = new Set<Promise<void>>()
  /** A device that is lost says so elsewhere. */
  const wait = (promise: Promise<void>): void => {
    const ended: Promise<void> = promise.catch(() => {}).finally(() => pending.delete(ended))
    pending.add(ended)
  }
  const settled = async (): Promise<void> => void (await Promise.all(pending))

  if (!each) {
    let before = 0
    return {
      each,
      pass: () => undefined,
      finish() {},
      submitted() {
        const start = performance.now()
        wait(
          device.queue.onSubmittedWorkDone().then(() => {
            const end = performance.now()
            report(end - Math.max(start, before), undefined)
            before = end
          }),
        )
      },
      settled,
      close() {},
    }
  }

  const queries = device.createQuerySet({ type: 'timestamp', count: 2 * capacity })
  const resolved = device.createBuffer({ size: 16 * capacity, usage: usage.QUERY_RESOLVE | usage.COPY_SRC })
  let marks: M[] = []
  let staging: GPUBuffer | null = null
  return {
    each,
    pass() {
      const marked = mark()
      if (marked === undefined) return undefined
      const first = 2 * marks.length
      marks.push(marked)
      return { timestampWrites: { querySet: queries, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 } }
    },
    finish(encoder) {
      if (marks.length === 0) return
      const bytes = 16 * marks.length
      staging = device.createBuffer({ size: bytes, usage: usage.MAP_READ | usage.COPY_DST })
      encoder.resolveQuerySet(queries, 0, 2 * marks.length, resolved, 0)
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, bytes)
    },
    submitted() {
      if (!staging) return
      const [buffer, marked] = [staging, marks]
      staging = null
      marks = []
      wait(
        buffer.mapAsync(mapRead).then(() => {
          const times = new BigUint64Array(buffer.getMappedRange())
          // The standard lets a counter be reset between the two.
          for (const [i, mark] of marked.entries()) report(Math.max(0, Number(times[2 * i + 1] - times[2 * i])) / 1e6, mark)
          buffer.destroy()
        }),
      )
    },
    settled,
    close() {
      void settled().then(() => {
        queries.destroy()
        resolved.destroy()
      })
    },
  }
}
