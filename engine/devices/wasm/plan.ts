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

/** The block that was taken as number `place` of a step. */
export const unplaced = (bytes: number, place: number): Block => ({
  pointer: (place + 1) * room,
  bytes,
  extent: extentOf(bytes),
  part: true,
})

const placeOf = (address: number): number => Math.floor(address / room) - 1

/** Addresses in use, ascending: from the first up to the second, from the third up to the fourth, and so on; none touch. */
type Runs = number[]

/** The place in `runs` of the first that ends at `address` or above. */
function endingFrom(runs: Runs, address: number): number {
  let [low, high] = [0, runs.length / 2]
  while (low < high) {
    const middle = (low + high) >> 1
    if (runs[2 * middle + 1] < address) low = middle + 1
    else high = middle
  }
  return 2 * low
}

function cover(runs: Runs, at: number, end: number): void {
  const first = endingFrom(runs, at)
  let past = first
  while (past < runs.length && runs[past] <= end) past += 2
  const joined = past > first ? [Math.min(at, runs[first]), Math.max(end, runs[past - 1])] : [at, end]
  runs.splice(first, past - first, ...joined)
}

/** The lowest address from which on `size` bytes lie in none of the runs. */
function lowestFree(all: readonly Runs[], size: number): number {
  const next = all.map(() => 0)
  let at = 0
  for (let moved = true; moved; ) {
    moved = false
    for (const [i, runs] of all.entries())
      for (; next[i] < runs.length && runs[next[i]] < at + size; next[i] += 2)
        if (runs[next[i] + 1] > at) {
          at = runs[next[i] + 1]
          moved = true
        }
  }
  return at
}

/**
 * Sets `at` and `end` of all `stays`, which have sizes; none over what is `taken`, [at, end), ascending.
 *
 * Which addresses are in use when is kept in a tree over time, each node a half of the one above, as a heap: node i is above 2 i and 2 i + 1. So a stay
 * looks at some dozens of nodes, in which what lies side by side is one run, and not at all the others that were placed.
 */
export function place(stays: readonly (Stay & { size: number })[], taken: readonly [at: number, end: number][]): void {
  const times = [...new Set(stays.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b)
  const leaf = new Map(times.map((time, i) => [time, times.length + i]))
  /** Of a node: what is there in all of its time, and what is there in some of it. */
  const [always, sometimes] = [0, 1].map(() => Array.from({ length: 2 * times.length }, (): Runs => []))
  const before = taken.flat()
  for (const stay of [...stays].sort((a, b) => b.size - a.size)) {
    /** The largest nodes within its time, and all above them. */
    const within: number[] = []
    const around = new Set<number>()
    for (let [from, to] = [leaf.get(stay.from)!, leaf.get(stay.to)!]; from < to; from >>= 1, to >>= 1) {
      if (from & 1) within.push(from++)
      if (to & 1) within.push(--to)
    }
    for (const node of within) for (let above = node >> 1; above > 0; above >>= 1) around.add(above)
    const there = [...within.map((node) => sometimes[node]), ...Array.from(around, (node) => always[node])]
    stay.at = lowestFree([before, ...there], stay.size)
    stay.end = stay.at + stay.size
    for (const node of within) cover(always[node], stay.at, stay.end)
    for (const node of [...within, ...around]) cover(sometimes[node], stay.at, stay.end)
  }
}

/**
 * Gives the blocks of a step their places, and launches and tables the addresses. `freed`: those that the step has freed, which hold nothing from one
 * replay to the next. Returns the launches, and the memory that is now taken.
 */
export function plan(
  blocks: readonly Block[],
  freed: ReadonlySet<Block>,
  noted: readonly Launch[],
  tables: readonly { block: Block; contents: Launch }[],
  memory: Memory,
): { launches: Launch[]; held: Block[] } {
  const stays = blocks.map((block) => {
    const [from, to] = freed.has(block) ? [Infinity, 0] : [0, Infinity]
    return { block, size: block.extent, at: 0, end: 0, from, to }
  })
  // A kernel gets a table by its first address, and what stands in it with that.
  const written = new Map(tables.map(({ block, contents }) => [block.pointer, contents.args as readonly number[]]))
  for (const [i, { kernel, args }] of noted.entries())
    for (const [j, arg] of (typeof args === 'function' ? args() : args).entries())
      for (const address of signatures[kernel][j + 2] === 'i' ? [arg, ...(written.get(arg) ?? [])] : []) {
        const stay = stays[placeOf(address)]
        if (!stay) continue
        stay.from = Math.min(stay.from, i)
        stay.to = Math.max(stay.to, i + 1)
      }

  // One that no kernel touches needs no place, and what lasts has one.
  const mine = stays.filter(({ block, from, to }) => block.part && from < to)
  place(mine, memory.taken())
  const held = memory.claim(mine.map(({ at, end }) => [at, end]))
  for (const { block, at } of mine) block.pointer = at

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
