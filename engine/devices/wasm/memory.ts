/**
 * The allocator of the wasm device: one WebAssembly.Memory, shared where threads are, blocks aligned to 64 bytes. The first page belongs to the
 * module (its constants; it declares one page, so more do not link), and pointer 0 stays free to mean null.
 *
 * Sizes are rounded up to classes, eight between a power of two and the next (waste at most 1/8), and a freed block goes to the
 * free list of its class. What no list has is cut from spans: the memory not handed out yet, and, when that doesn't suffice, free
 * neighbours merged; only then does the memory grow. Where a class doesn't fit any more, the bytes alone may. Blocks don't move, so what
 * is free may be in pieces too small. Tested in test/ops/wasm-pool.test.ts.
 */

/** A piece of the memory: the device's storage. `bytes` is what was asked for. */
export interface Block {
  pointer: number
  /** Of a captured step, which holds the memory that it lies in; its pointer is set once more (plan.ts). */
  readonly part?: true
  readonly bytes: number
  /** What it takes up, `bytes` rounded up. */
  readonly extent: number
}

/** [from, to). */
type Span = [from: number, to: number]

export interface Memory {
  readonly wasm: WebAssembly.Memory
  /** `lasting`: see `Device.allocate`. */
  allocate(bytes: number, lasting?: boolean): Block
  free(block: Block): void
  /** Memory that isn't free, ascending; what lies behind the last is free, or may be had. */
  taken(): Span[]
  /** Takes what these cover, all of it free, and gives it as blocks. */
  claim(ranges: readonly Span[]): Block[]
  bytesInUse(): number
  bytesReserved(): number
  /** Views of the memory as it is now: take them anew after an allocation, which may grow it. */
  float32(block: Block, size: number): Float32Array
  int32(block: Block, size: number): Int32Array
}

const pageBytes = 65536
export const pageLimit = 65536
const align = 64
/** The memory grows by at least this much, or by 1/32 of its size: all of it is used before what is free is merged, so what is too much stays resident. */
const growPages = 256

const roundUp = (bytes: number, step: number): number => Math.max(1, Math.ceil(bytes / step)) * step

/** Bytes of the size class: the next multiple of an eighth of the power of two below, of 64 bytes at least and 1 MB at most. */
function classSize(bytes: number): number {
  const step = Math.min(Math.max(align, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3)), 2 ** 20)
  return roundUp(bytes, step)
}

export const extentOf = (bytes: number): number => roundUp(bytes, align)

function size(bytes: number): string {
  if (bytes >= 2 ** 30) return `${Number((bytes / 2 ** 30).toFixed(1))} GB`
  if (bytes >= 2 ** 20) return `${Number((bytes / 2 ** 20).toFixed(1))} MB`
  return `${Number((bytes / 2 ** 10).toFixed(1))} kB`
}

export function createMemory(maximumPages: number = pageLimit, shared = true): Memory {
  if (!Number.isInteger(maximumPages) || maximumPages < 1 || maximumPages > pageLimit) {
    throw new Error(`wasm: maximumPages must be an integer from 1 to ${pageLimit}, got ${maximumPages}`)
  }
  const wasm = new WebAssembly.Memory({ initial: 1, maximum: maximumPages, shared })
  const freeLists = new Map<number, number[]>()
  /** Not a Map by pointer: pointers come back again and again, and each deletion of a key makes its bucket longer until the next rehash. */
  const live = new Set<Block>()
  /** Free memory outside the lists, ascending. */
  let spans: Span[] = []
  let end = pageBytes
  let freeBytes = 0
  let inUse = 0

  /** What `ranges` cover, ascending. */
  function union(ranges: readonly Span[]): Span[] {
    const joined: Span[] = []
    for (const [from, to] of [...ranges].sort((x, y) => x[0] - y[0])) {
      const last = joined.at(-1)
      if (last && last[1] >= from) last[1] = Math.max(last[1], to)
      else joined.push([from, to])
    }
    return joined
  }

  function cut(bytes: number): number | undefined {
    const span = spans.find(([from, to]) => to - from >= bytes)
    if (!span) return undefined
    const pointer = span[0]
    span[0] += bytes
    if (span[0] === span[1]) spans.splice(spans.indexOf(span), 1)
    return pointer
  }

  /** Empties the free lists into the spans, neighbours merged. */
  function merge(): void {
    for (const [bytes, pointers] of freeLists) for (const pointer of pointers) spans.push([pointer, pointer + bytes])
    freeLists.clear()
    freeBytes = 0
    spans = union(spans)
  }

  /** Grows until the last span has room for `bytes`; false when the limit or the system forbids it. */
  function grow(bytes: number): boolean {
    const last = spans.at(-1)
    const room = last && last[1] === end ? last[1] - last[0] : 0
    const pages = end / pageBytes
    const needed = Math.ceil((bytes - room) / pageBytes)
    const wanted = Math.min(Math.max(needed, growPages, pages >> 5), maximumPages - pages)
    for (const step of [wanted, needed]) {
      if (step < needed) continue
      try {
        wasm.grow(step)
      } catch {
        continue
      }
      const grown = end + step * pageBytes
      // The last bytes below 4 GiB are not handed out: the address behind a block must not wrap to 0.
      const usable = Math.min(grown, 2 ** 32 - align)
      if (room > 0) last![1] = usable
      else spans.push([end, usable])
      end = grown
      return true
    }
    return false
  }

  function take(bytes: number): number | undefined {
    const pointer = freeLists.get(bytes)?.pop()
    if (pointer !== undefined) {
      freeBytes -= bytes
      return pointer
    }
    const fresh = cut(bytes)
    if (fresh !== undefined) return fresh
    if (freeBytes > 0) {
      merge()
      const joined = cut(bytes)
      if (joined !== undefined) return joined
    }
    return grow(bytes) ? cut(bytes) : undefined
  }

  /** Why there are no `bytes` more, and what to do. */
  function shortage(bytes: number): string {
    const blocks = `${live.size.toLocaleString('en-US')} block${live.size === 1 ? '' : 's'}`
    const used = `asked for ${size(bytes)}, ${size(inUse)} of ${size(maximumPages * pageBytes)} in use in ${blocks}`
    const advice = 'run each step inside scope(), or use a smaller batch'
    merge()
    const rest = maximumPages * pageBytes - end
    const last = spans.at(-1)
    const tail = rest + (last && last[1] === end ? last[1] - last[0] : 0)
    if (tail >= bytes && rest > 0) return `${used}, and the system gives no more than ${size(end)} (${advice})`
    const pieces = [tail, ...spans.map(([from, to]) => to - from)]
    const free = pieces.slice(1).reduce((sum, piece) => sum + piece, rest)
    if (free < bytes) return `${used} (${advice})`
    const largest = pieces.reduce((x, y) => Math.max(x, y))
    return `${used}; ${size(free)} are free, but the largest free piece has ${size(largest)}: blocks in use lie between the free pieces, which is fragmentation (make what is large before what stays, ${advice})`
  }

  function made(pointer: number, bytes: number, extent: number): Block {
    const block = { pointer, bytes, extent }
    live.add(block)
    inUse += bytes
    return block
  }

  function free(block: Block): void {
    if (!live.delete(block)) throw new Error(`wasm: block at ${block.pointer} freed twice, or not of this device`)
    inUse -= block.bytes
    const { extent } = block
    const list = freeLists.get(extent)
    if (list) list.push(block.pointer)
    else freeLists.set(extent, [block.pointer])
    freeBytes += extent
  }

  return {
    wasm,
    allocate(bytes) {
      let extent = classSize(bytes)
      let pointer = take(extent)
      if (pointer === undefined) {
        extent = extentOf(bytes)
        pointer = take(extent)
      }
      if (pointer === undefined) throw new Error(`wasm: out of memory: ${shortage(bytes)}`)
      return made(pointer, bytes, extent)
    },
    free,
    taken() {
      merge()
      const taken = [...spans, [end]].map(([to], i): Span => [spans[i - 1]?.[1] ?? 0, to])
      return taken.filter(([from, to]) => from < to)
    },
    claim(ranges) {
      const blocks: Block[] = []
      for (const [from, to] of union(ranges)) {
        const last = spans.at(-1)
        if (to > end) grow(to - (last?.[1] === end ? last[0] : end))
        const i = spans.findIndex((span) => span[1] >= to)
        if (i < 0) {
          blocks.forEach(free)
          throw new Error(`wasm: out of memory: ${shortage(to - from)}`)
        }
        const [begin, until] = spans[i]
        spans.splice(i, 1, ...[[begin, from] as Span, [to, until] as Span].filter(([x, y]) => x < y))
        blocks.push(made(from, to - from, to - from))
      }
      return blocks
    },
    bytesInUse: () => inUse,
    bytesReserved: () => wasm.buffer.byteLength,
    float32: (block, size) => new Float32Array(wasm.buffer, block.pointer, size),
    int32: (block, size) => new Int32Array(wasm.buffer, block.pointer, size),
  }
}
