/**
 * What devices have in common when a step is captured (engine/capture.ts): kernels that are called are noted instead of run, and the memory that is
 * taken meanwhile stays. What the step frees it may take again, but for memory that lasts: what the host writes there once is there whenever the
 * step is replayed.
 */

/** A step that was noted on a device. */
export interface Capture<S = any> {
  /** Does all that was noted, in order, on the same memory. */
  replay(): void
  /** The kernels that were noted, as the device notes them, and the blocks taken meanwhile, in order; one that was taken again is there again. */
  readonly launches: readonly unknown[]
  readonly blocks: readonly S[]
  /** What the host writes at once for a kernel, such as a table of addresses, with its contents as the arguments of a launch would be. */
  readonly tables: readonly { readonly block: S; readonly contents: unknown }[]
  /** Does again what the step has prepared from blocks that were there before and don't change: to be called when they have. */
  prepare(): void
  /** Gives back what was taken; of a capture `again` the tables alone, since its blocks belong to the first. */
  free(): void
}

export interface CaptureOptions<S> {
  /** Of the blocks that were there before, those that hold something else at each replay. */
  changing: ReadonlySet<S>
  /** What comes of each block of the state, which nobody reads any more then; to be called when the step has been noted. */
  becomes(): ReadonlyMap<S, S>
  again?: Again<S>
}

/** Where a step is noted for the second time: it takes the blocks of the first time, others `instead` of some. */
export interface Again<S> {
  first: Capture<S>
  instead: ReadonlyMap<S, S>
}

export interface Notes<S, Launch> {
  /** Whether a step is being captured. */
  on(): boolean
  note(launch: Launch): void
  /** Whether a block was there before and holds the same at each replay, so that something may be prepared from it. */
  stays(block: S): boolean
  /** What is prepared from blocks, for all replays. */
  noteFirst(launch: Launch): void
  /**
   * Memory for the step: what it has freed of the same kind and size, `kind`, or else made, after so many others; `lasting`: see `Device.allocate`.
   */
  take(kind: string, lasting: boolean, make: (place: number) => S): S
  /** Memory for a table: another one the second time, when its addresses are others. */
  table(contents: Launch, make: () => S): S
  /** To be called when a block is freed. Returns whether to free it: one that belongs to a capture stays. */
  freed(block: S): boolean
  /** To be called when the host writes a block; `differs` tells whether it holds something else by now. Returns whether to write. */
  written(block: S, differs: () => boolean): boolean
  /** To be called when the host reads. */
  read(): void
  capture(
    body: () => void,
    options: CaptureOptions<S>,
  ): {
    first: readonly Launch[]
    launches: readonly Launch[]
    blocks: readonly S[]
    /** Those of them that the step has freed for good. */
    freed: ReadonlySet<S>
    tables: { block: S; contents: Launch }[]
    free(): void
  }
}

const unlike =
  "capture: the step does something else the second time, so it can't be replayed: it depends on numbers of the host, such as a count of tokens"
const reads = 'capture: the step reads values, which are computed only when it is replayed; return the tensors and read them then'

/**
 * `same`: whether two launches differ in nothing but blocks that take the place of others. `reuses`: whether what a step frees is taken again, as it is; false
 * where the device finds places for all blocks of a step itself.
 */
export function createNotes<S extends object, Launch>(
  same: (first: Launch, second: Launch, instead: ReadonlyMap<S, S>) => boolean,
  release: (block: S) => void,
  reuses = true,
): Notes<S, Launch> {
  const owned = new WeakSet<S>()
  const kinds = new WeakMap<S, { kind: string; lasting: boolean }>()
  type Current = CaptureOptions<S> & {
    first: Launch[]
    launches: Launch[]
    blocks: S[]
    taken: Set<S>
    /** What the step has freed, by kind. */
    waiting: Map<string, S[]>
    freed: Set<S>
    tables: { block: S; contents: Launch }[]
    wasRead: boolean
  }
  let current: Current | null = null
  return {
    on: () => current !== null,
    note: (launch) => void current!.launches.push(launch),
    stays: (block) => current !== null && !owned.has(block) && !current.taken.has(block) && !current.changing.has(block),
    noteFirst: (launch) => void current!.first.push(launch),
    take(kind, lasting, make) {
      const { blocks, taken, waiting, again } = current!
      let block: S
      if (again) {
        const before = again.first.blocks[blocks.length]
        const known = before && kinds.get(before)
        if (known?.kind !== kind || known.lasting !== lasting) throw new Error(unlike)
        block = again.instead.get(before) ?? before
      } else {
        block = (lasting ? undefined : waiting.get(kind)?.pop()) ?? make(blocks.length)
        owned.add(block)
        kinds.set(block, { kind, lasting })
      }
      blocks.push(block)
      taken.add(block)
      return block
    },
    table(contents, make) {
      const block = make()
      owned.add(block)
      current!.tables.push({ block, contents })
      return block
    },
    freed(block) {
      if (!current?.taken.has(block)) return !owned.has(block)
      const { waiting, freed, again } = current
      if (again) return false
      const { kind, lasting } = kinds.get(block)!
      const list = waiting.get(kind)
      if (lasting) return false
      if (!reuses) freed.add(block)
      else if (list) list.push(block)
      else waiting.set(kind, [block])
      return false
    },
    written(block, differs) {
      if (current === null) return true
      if (!current.taken.has(block)) throw new Error('capture: the step writes a tensor from outside of it')
      if (kinds.get(block)?.lasting === false) throw new Error('capture: the step writes over what it has computed')
      if (!current.again) return true
      if (differs()) throw new Error(unlike)
      return false
    },
    read() {
      if (current === null) return
      current.wasRead = true
      throw new Error(reads)
    },
    capture(body, options) {
      if (current) throw new Error('capture: a step is being captured already')
      const mine: Current = {
        ...options,
        first: [],
        launches: [],
        blocks: [],
        taken: new Set(),
        waiting: new Map(),
        freed: new Set(),
        tables: [],
        wasRead: false,
      }
      const { again } = options
      const free = (): void => {
        const blocks = again ? [] : new Set(mine.blocks.splice(0))
        for (const block of [...blocks, ...mine.tables.splice(0).map((table) => table.block)]) {
          owned.delete(block)
          release(block)
        }
      }
      current = mine
      try {
        body()
        // A read is asynchronous: its error reaches nobody who doesn't wait.
        if (mine.wasRead) throw new Error(reads)
        const before = again?.first.launches as readonly Launch[] | undefined
        if (again && before) {
          const tables = again.first.tables as Current['tables']
          const instead = new Map([...again.instead, ...tables.map(({ block }, i): [S, S] => [block, mine.tables[i]?.block ?? block])])
          const alike = (first: readonly Launch[], second: readonly Launch[]): boolean =>
            first.length === second.length && first.every((launch, i) => same(launch, second[i], instead))
          const contents = (of: Current['tables']): Launch[] => of.map((table) => table.contents)
          if (!alike(contents(tables), contents(mine.tables)) || !alike(before, mine.launches)) throw new Error(unlike)
        }
      } catch (error) {
        free()
        throw error
      } finally {
        current = null
      }
      const { first, launches, blocks, freed, tables } = mine
      return { first, launches, blocks, freed, tables, free }
    },
  }
}
