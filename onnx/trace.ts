/**
 * What a model asks a device for, noted and not computed: a device whose kernels write down that they were called. Calls at several sizes of batch,
 * tokens and past, laid one on the other, say how every number in them depends on these.
 */
import type { Device } from '../engine/devices/device.ts'
import type { KernelName, Kernels } from '../engine/devices/kernels.ts'
import { OnnxError } from './proto.ts'

/** A piece of memory: its number in order of allocation, and what was copied into it. */
export class Block {
  readonly id: number
  readonly size: number
  data: ArrayLike<number> | null = null
  constructor(id: number, size: number) {
    this.id = id
    this.size = size
  }
}

/** A kernel that is called, or all of a layer's mixer. */
export interface Call {
  name: KernelName | 'mixer'
  args: readonly unknown[]
}

export interface Recorder {
  device: Device<Block>
  /** Runs `body`: the calls in it. Blocks are numbered as if it were the first since `settle`. */
  record<R>(body: () => R): { calls: Call[]; result: R }
  note(name: Call['name'], args: readonly unknown[]): void
  /** What is allocated by now is there in every trace. */
  settle(): void
}

export function recorder(): Recorder {
  let [next, first] = [0, 0]
  let calls: Call[] = []
  const note: Recorder['note'] = (name, args) => void calls.push({ name, args })
  const kernels = new Proxy({} as Kernels<Block>, {
    get:
      (_, name) =>
      (...args: unknown[]) =>
        note(name as Call['name'], args),
  })
  const device: Device<Block> = {
    name: 'reference',
    description: 'a recorder of kernels',
    double: true,
    precision: 'f32',
    defers: false,
    kernels,
    allocate: (_, size) => new Block(next++, size),
    free() {},
    write(block, data) {
      block.data = data
    },
    read: () => Promise.reject(new Error('what is only noted has no values')),
    bytesInUse: () => 0,
    bytesReserved: () => 0,
    close() {},
  }
  return {
    device,
    note,
    record(body) {
      next = first
      calls = []
      const result = body()
      return { calls, result }
    },
    settle() {
      first = next
    },
  }
}

/** A number in every trace. */
export type Num = readonly number[]
/** A block in every trace. */
export interface Blocks {
  id: number
  size: Num
  data: readonly (ArrayLike<number> | null)[]
}

/** Sizes that vary, by letter, with two values each; a third one checks what the two say. */
export type Varying = Readonly<Record<string, readonly [number, number, number]>>

/** The points at which traces are taken: all pairs of values, and the third ones. */
export function pointsOf(varying: Varying): Record<string, number>[] {
  const letters = Object.keys(varying)
  const corners = Array.from({ length: 2 ** letters.length }, (_, bits) =>
    Object.fromEntries(letters.map((letter, i) => [letter, varying[letter][(bits >> i) & 1]])),
  )
  return [...corners, Object.fromEntries(letters.map((letter) => [letter, varying[letter][2]]))]
}

/** Traces that differ in more than numbers. */
export class DependsError extends OnnxError {
  constructor() {
    super('what is computed depends on the number of tokens')
  }
}

/** Values that traces have at the same place, as one: numbers as a Num, blocks as Blocks. */
export function merge(values: readonly unknown[]): unknown {
  const [first] = values
  const fail = (): never => {
    throw new DependsError()
  }
  if (typeof first === 'number') return values.every((x) => typeof x === 'number') ? values : fail()
  if (first instanceof Block) {
    const blocks = values as readonly Block[]
    if (!blocks.every((b) => b instanceof Block && b.id === first.id)) return fail()
    return { id: first.id, size: blocks.map(({ size }) => size), data: blocks.map(({ data }) => data) } satisfies Blocks
  }
  if (Array.isArray(first)) {
    if (!values.every((x) => Array.isArray(x) && x.length === first.length)) return fail()
    return first.map((_, i) => merge(values.map((x) => (x as unknown[])[i])))
  }
  if (typeof first === 'object' && first !== null) {
    if (!values.every((x) => typeof x === 'object' && x !== null)) return fail()
    return Object.fromEntries(Object.keys(first).map((key) => [key, merge(values.map((x) => (x as Record<string, unknown>)[key]))]))
  }
  return values.every((x) => x === first) ? first : fail()
}

/** The calls of several traces, as one. */
export function mergeCalls(traces: readonly (readonly Call[])[]): Call[] {
  const [first] = traces
  if (traces.some((calls) => calls.length !== first.length)) throw new DependsError()
  return first.map(({ name }, i) => {
    if (traces.some((calls) => calls[i].name !== name)) throw new DependsError()
    return { name, args: merge(traces.map((calls) => calls[i].args)) as unknown[] }
  })
}

/** A number as a sum of products of varying sizes: coefficients by the letters of each product, '' for the constant. */
export function formula(n: Num, varying: Varying): Map<string, number> {
  const letters = Object.keys(varying)
  // Coefficients from the corners, one letter after the other: the slope between its two values, and what is left at 0.
  let terms: { product: string; values: number[] }[] = [{ product: '', values: n.slice(0, 2 ** letters.length) }]
  for (const letter of [...letters].reverse()) {
    const [low, high] = varying[letter]
    terms = terms.flatMap(({ product, values }) => {
      const half = values.length / 2
      const slopes = Array.from({ length: half }, (_, i) => (values[half + i] - values[i]) / (high - low))
      return [
        { product, values: slopes.map((slope, i) => values[i] - slope * low) },
        { product: letter + product, values: slopes },
      ]
    })
  }
  const found = new Map(terms.flatMap(({ product, values: [value] }) => (value === 0 ? [] : [[product, value] as const])))
  let check = 0
  for (const [product, factor] of found) check += [...product].reduce((x, letter) => x * varying[letter][2], factor)
  if (check !== n.at(-1) || [...found.values()].some((x) => !Number.isInteger(x))) throw new DependsError()
  return found
}

// ---- arithmetic, trace by trace

export const num = (x: number, like: Num): Num => like.map(() => x)
const both =
  (f: (a: number, b: number) => number) =>
  (a: Num, b: Num): Num =>
    a.map((x, i) => f(x, b[i]))
export const times = both((a, b) => a * b)
export const plus = both((a, b) => a + b)
export const minus = both((a, b) => a - b)
export const remainder = both((a, b) => a % b)
export const quotient = both((a, b) => Math.floor(a / b))
export const same = (a: Num, b: Num): boolean => a.every((x, i) => x === b[i])
export const is = (a: Num, x: number): boolean => a.every((y) => y === x)
export const product = (dims: readonly Num[], like: Num): Num => dims.reduce(times, num(1, like))
export const isConstant = (a: Num): boolean => a.every((x) => x === a[0])
