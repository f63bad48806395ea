/**
 * Where the blocks of a captured step lie. Nothing is computed while it is noted, so until then they have addresses that no memory has; then it is known
 * which kernel touches each first and which last. They are placed one after the other, the largest first, each at the lowest address where none lies
 * that is needed at the same time (greedy by size: Pisarchyk & Lee 2020, https://arxiv.org/abs/2001.03288), in what is free, piece by piece: so the
 * step takes hardly more than it needs at once. Tests: test/ops/capture.test.ts, test/ops/wasm-pool.test.ts.
 */
import { signatures } from '../../../kernels-wasm/generated/bytes.ts'
import type { Launch } from './launches.ts'
import { type Block, extentOf, type Memory } from './memory.ts'

/** What lies at [at, end) and is needed by launches [from, to). */
export interface Stay {
  at: number
  end: number
  from: number
  to: number
}

/** Addresses of 32 bits for each block. */
const room = 2 ** 32

/** Kernels that may write what comes of a state over it: where the addresses of both stand among their arguments. */
const inPlace: Readonly<Record<string, readonly (readonly [before: number, after: number])[]>> = {
  fastWeights: [
    [9, 12],
    [10, 13],
  ],
  convNext: [[1, 2]],
}

/** The block that was taken as number `place` of a step. */
export const unplaced = (bytes: number, place: number): Block => ({
  pointer: (place + 1) * room,
  bytes,
  extent: extentOf(bytes),
  part: true,
})

const placeOf = (address: number): number => Math.floor(address / room) - 1

/** Sets `at` and `end` of all `stays`, which have sizes; none over what is `taken`, [at, end), ascending. */
export function place(stays: readonly (Stay & { size: number })[], taken: readonly [at: number, end: number][]): void {
  const there: Stay[] = taken.map(([at, end]) => ({ at, end, from: 0, to: Infinity }))
  for (const stay of [...stays].sort((a, b) => b.size - a.size)) {
    let at = 0
    let next = 0
    for (; next < there.length; next++) {
      const other = there[next]
      if (other.to <= stay.from || stay.to <= other.from) continue
      if (other.at - at >= stay.size) break
      if (other.end > at) at = other.end
    }
    stay.at = at
    stay.end = at + stay.size
    // By address; what is between may lie above, at other times.
    while (next > 0 && there[next - 1].at > at) next--
    there.splice(next, 0, stay)
  }
}

/**
 * Gives the blocks of a step their places, and launches and tables the addresses. `freed`: those that the step has freed, which hold nothing from one
 * replay to the next; `becomes`: what comes of each block of the state, which lies in the same place where the kernel that writes it allows that and nobody
 * reads what was there afterwards. Returns the launches, and the memory that is now taken.
 */
export function plan(
  blocks: readonly Block[],
  freed: ReadonlySet<Block>,
  noted: readonly Launch[],
  tables: readonly { block: Block; contents: Launch }[],
  becomes: ReadonlyMap<Block, Block>,
  memory: Memory,
): { launches: Launch[]; held: Block[] } {
  const stays = blocks.map((block) => {
    const [from, to] = freed.has(block) ? [Infinity, 0] : [0, Infinity]
    return { block, size: block.extent, at: 0, end: 0, from, to }
  })
  // A kernel gets a table by its first address, and what stands in it with that.
  const written = new Map(tables.map(({ block, contents }) => [block.pointer, contents.args as readonly number[]]))
  /** The last launch that touches each block of the state, and how often it does. */
  const states = [...becomes].map(([before, after]) => ({ before, after, last: -1, times: 0 }))
  /** The first that touches each block of the step. */
  const firsts = new Map<Block, number>()
  for (const [i, { kernel, args }] of noted.entries())
    for (const [j, arg] of (typeof args === 'function' ? args() : args).entries())
      for (const address of signatures[kernel][j + 2] === 'i' ? [arg, ...(written.get(arg) ?? [])] : []) {
        for (const state of states)
          if (address >= state.before.pointer && address < state.before.pointer + state.before.extent) {
            state.times = state.last === i ? state.times + 1 : 1
            state.last = i
          }
        const stay = stays[placeOf(address)]
        if (!stay) continue
        if (!firsts.has(stay.block)) firsts.set(stay.block, i)
        stay.from = Math.min(stay.from, i)
        stay.to = Math.max(stay.to, i + 1)
      }
  const over = states.filter(({ before, after, last, times }) => {
    const { kernel = '', args = [] } = noted[last] ?? {}
    const pairs = typeof args === 'function' ? [] : (inPlace[kernel] ?? [])
    const writes = pairs.some(
      ([x, y]) => (args as readonly number[])[x] === before.pointer && (args as readonly number[])[y] === after.pointer,
    )
    return writes && times === 1 && firsts.get(after) === last
  })
  const placed = new Set(over.map(({ after }) => after))

  // One that no kernel touches needs no place, and what lasts has one.
  const mine = stays.filter(({ block, from, to }) => block.part && !placed.has(block) && from < to)
  place(mine, memory.taken())
  const held = memory.claim(mine.map(({ at, end }) => [at, end]))
  for (const { block, at } of mine) block.pointer = at
  for (const { before, after } of over) after.pointer = before.pointer

  const moved = (kernel: string, args: readonly number[]): number[] =>
    args.map((arg, i) => (arg >= room && signatures[kernel]?.[i + 2] !== 'f' ? blocks[placeOf(arg)].pointer + (arg % room) : arg))
  const launches = noted.map((launch) => {
    const { kernel, args } = launch
    return { ...launch, args: typeof args === 'function' ? () => moved(kernel, args()) : moved(kernel, args) }
  })
  for (const table of tables) {
    const words = moved('', table.contents.args as readonly number[])
    table.contents = { ...table.contents, args: words }
    memory.int32(table.block, words.length).set(words)
  }
  return { launches, held }
}
