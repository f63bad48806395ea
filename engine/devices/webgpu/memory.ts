/**
 * GPU buffers, pooled: sizes are rounded up to classes, eight between a power of two and the next (waste at most 1/8), and a freed buffer waits
 * in the list of its class for the next block. Where one has to be created, waiting ones make room: beyond `leastKept` bytes, the pool never
 * takes more than was in use at some time, so that nothing is refused because of what waits. A buffer may hold several blocks, side by side, and
 * waits once all of them are free.
 */

/** A buffer of the pool. `submission`: the number of the last submission that reads or writes it. */
export interface Pooled {
  readonly buffer: GPUBuffer
  readonly id: number
  readonly bytes: number
  submission: number
  /** Captured steps that use it. */
  captures: number
  /** Where several blocks share it: how many there still are, and all of it as one. */
  shared: { blocks: number; readonly whole: Block } | null
}

/**
 * The device's storage: a whole buffer, or where it's shared a part of one, from byte `offset` on. `bytes` is what was asked for, 0 perhaps; the buffer
 * is never empty, because no binding may be.
 */
export interface Block {
  readonly memory: Pooled
  readonly offset: number
  readonly bytes: number
  readonly integer: boolean
}

export interface Memory {
  allocate(bytes: number, integer?: boolean): Block
  /** Float blocks side by side, in as few buffers as hold them; one that would be alone has a buffer of its own. All of them, or it throws and takes nothing. */
  allocateTogether(bytes: readonly number[]): Block[]
  free(block: Block): void
  /** Of the blocks that aren't freed: what is free in a buffer that others share is reserved and not in use. */
  bytesInUse(): number
  bytesReserved(): number
  /** Destroys all that waits, and says how many bytes that was. */
  release(): number
  destroy(): void
}

export interface MemoryHooks {
  /** The largest buffer that can be bound, in bytes. */
  limit: number
  create(bytes: number): GPUBuffer
  /** Called before a buffer is destroyed: what was recorded may use it. */
  beforeDestroy(memory: Pooled): void
}

const leastKept = 2 ** 26
const least = 256
/** Where a block may begin: the largest alignment that WebGPU asks for. */
const align = 256
/** What a block takes up among others: no binding may be empty. */
const taken = (bytes: number): number => Math.ceil(Math.max(bytes, 1) / align) * align

export function classSize(bytes: number, limit: number): number {
  const step = Math.max(least, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3))
  return Math.min(Math.max(1, Math.ceil(bytes / step)) * step, limit)
}

export function show(bytes: number): string {
  const [unit, power] = bytes >= 2 ** 30 ? ['GB', 30] : bytes >= 2 ** 20 ? ['MB', 20] : ['kB', 10]
  return `${Number((bytes / 2 ** power).toFixed(1))} ${unit}`
}

export function createMemory({ limit, create, beforeDestroy }: MemoryHooks): Memory {
  /** By class, the one last freed to at the end. */
  const waiting = new Map<number, Pooled[]>()
  const live = new Set<Block>()
  let [inUse, reserved, idle, most, ids] = [0, 0, 0, 0, 0]

  function destroy(memory: Pooled): void {
    beforeDestroy(memory)
    memory.buffer.destroy()
    reserved -= memory.bytes
  }

  /** Destroys waiting buffers, of the classes longest not freed to first, until no more than `bytes` wait. */
  function trim(bytes: number): void {
    for (const [size, list] of waiting) {
      while (idle > bytes && list.length > 0) {
        idle -= size
        destroy(list.pop()!)
      }
      if (list.length === 0) waiting.delete(size)
    }
  }

  function allocate(bytes: number, integer = false): Block {
    if (bytes > limit)
      throw new Error(
        `webgpu: out of memory: asked for ${show(bytes)} in one block, this adapter binds at most ${show(limit)} (use a smaller batch)`,
      )
    const size = classSize(bytes, limit)
    let memory = waiting.get(size)?.pop()
    if (memory) idle -= size
    else {
      const needed = reserved - idle + size
      most = Math.max(most, needed)
      trim(Math.max(leastKept, most) - needed)
      memory = { buffer: create(size), id: ids++, bytes: size, submission: 0, captures: 0, shared: null }
      reserved += size
    }
    const block = { memory, offset: 0, bytes, integer }
    live.add(block)
    inUse += bytes
    return block
  }

  function free(block: Block): void {
    if (!live.delete(block)) throw new Error('webgpu: a block was freed twice, or is not of this device')
    inUse -= block.bytes
    const { memory } = block
    if (memory.shared && --memory.shared.blocks > 0) return
    memory.shared = null
    const list = waiting.get(memory.bytes) ?? []
    list.push(memory)
    waiting.delete(memory.bytes)
    waiting.set(memory.bytes, list)
    idle += memory.bytes
  }

  return {
    allocate,
    allocateTogether(all) {
      const blocks: Block[] = []
      try {
        for (let first = 0; first < all.length; ) {
          let [end, total] = [first + 1, taken(all[first])]
          while (end < all.length && total + taken(all[end]) <= limit) total += taken(all[end++])
          if (end === first + 1) {
            // Alone it may be as large as the limit, whatever the alignment.
            blocks.push(allocate(all[first++]))
            continue
          }
          const whole = allocate(total)
          live.delete(whole)
          inUse -= total
          whole.memory.shared = { blocks: end - first, whole }
          for (let offset = 0; first < end; offset += taken(all[first++])) {
            const block = { memory: whole.memory, offset, bytes: all[first], integer: false }
            live.add(block)
            inUse += block.bytes
            blocks.push(block)
          }
        }
      } catch (error) {
        for (const block of blocks) free(block)
        throw error
      }
      return blocks
    },
    free,
    bytesInUse: () => inUse,
    bytesReserved: () => reserved,
    release() {
      const bytes = idle
      trim(0)
      return bytes
    },
    destroy() {
      for (const memory of new Set([...live].map(({ memory }) => memory))) destroy(memory)
      live.clear()
      trim(0)
      inUse = 0
    },
  }
}
