/** States of layers and models: tensors, and counts in int32 arrays, in plain objects and arrays, which the caller owns. */
import { checkNumber, told } from '../engine/arguments.ts'
import { concat, detach, gather, reshape, slice } from '../engine/ops/movement.ts'
import { scope } from '../engine/scope.ts'
import { sameShape, show, sizeOf } from '../engine/shape.ts'
import { full, getDevice, Tensor, tensor, zeros } from '../engine/tensor.ts'
import { printable } from './foreign.ts'
import type { LayerState } from './mixer.ts'
import { type FloatEntry, isFloat, type Module } from './module.ts'
import { freshOf, outside, type Part, type Parts } from './parts.ts'
import { readSafetensors, type SafetensorsEntry, SafetensorsError, writeSafetensors } from './safetensors.ts'
import { otherVersion, versionMetadata } from './version.ts'

/** Of a layer or a model. */
export type State = LayerState

/** A layer or a model with a state of type S, whose parts it tells for B rows. */
export interface Stateful<S extends State> extends Module {
  /** The parts of its state for B rows. */
  stateParts(B: number): Parts
  forward(...given: never[]): { state: S }
}

/** The state before the first token of B sequences, zeros but for a few parts (`freshOf`), on the owner's device. The same as leaving the state out. */
export function initialState<S extends State>(owner: Stateful<S>, B: number): S {
  const device = owner.parameters()[0]?.device ?? getDevice()
  checkNumber('initialState: the number of rows', B, 'a positive integer')
  return walkParts(owner.stateParts(B), '', (name, { dtype, shape }) => {
    const sizes = shape.map((d) => Math.max(d, 0))
    return dtype === 'int32' ? new Int32Array(sizeOf(sizes)) : full(sizes, freshOf(name), device)
  }) as S
}

/** How many numbers the state of one sequence holds; those apart that grow with its tokens, or its source's. */
export const stateSize = (owner: Pick<Stateful<State>, 'stateParts'>): number =>
  sizeOfParts(owner, (shape) => (shape.some((d) => d < 0) ? 0 : sizeOf(shape)))

/** How many numbers each token adds to the state of a sequence: 0 but for softmax attention. */
export const stateGrowth = (owner: Pick<Stateful<State>, 'stateParts'>): number =>
  sizeOfParts(owner, (shape, dtype) => (shape.includes(-1) && dtype === 'float32' ? -sizeOf(shape) : 0))

function sizeOfParts(owner: Pick<Stateful<State>, 'stateParts'>, size: (shape: readonly number[], dtype: string) => number): number {
  let total = 0
  walkParts(owner.stateParts(1), '', (_, { shape, dtype }) => (total += size(shape, dtype)))
  return total
}

/**
 * The same values without their history: what is computed from it sends no gradients further back (truncated back-propagation through
 * time). The tensors are new ones, over the same memory: the old state may go with its scope, and so may everything behind it.
 */
export const detachState = <S extends State>(state: S): S => mapState(state, detach) as S

/** Frees the tensors of a state. */
export function disposeState(state: State | undefined): void {
  mapState(state, (t) => t.dispose())
}

/** The state of a layer or model with some of its rows, those where `rows` [B] is 1 or true, as before the first token; the others keep their values to the bit. */
export function resetRows<S extends State>(state: S, rows: ArrayLike<number | boolean>): S {
  if (typeof rows !== 'object' || rows === null || typeof rows.length !== 'number')
    throw new Error(`resetRows: the rows must be an array of flags, such as [0, 1], not ${told(rows)}`)
  const B = rows.length
  const check = (rowsFound: number, what: string): void => {
    if (rowsFound !== B) throw new Error(`resetRows: ${what} has ${rowsFound} rows, the flags are for ${B}`)
  }
  /** [begin, end) of rows that are alike, in order. */
  const runs: [begin: number, end: number][] = []
  for (let b = 0; b < B; b++) {
    if (b > 0 && !rows[b] === !rows[b - 1]) runs[runs.length - 1][1] = b + 1
    else runs.push([b, b + 1])
  }
  const reset = (t: Tensor, name: string): Tensor => {
    check(t.shape[0], `the state's part ${show(t.shape)}`)
    return concat(
      runs.map(([begin, end]) =>
        rows[begin] ? full([end - begin, ...t.shape.slice(1)], freshOf(name), t.device) : slice(t, 0, begin, end),
      ),
      0,
    )
  }
  const resetCounts = (counts: Int32Array): Int32Array => {
    const width = counts.length / B
    if (!Number.isInteger(width)) check(counts.length, "the state's positions")
    return counts.map((x, i) => (rows[Math.floor(i / width)] ? 0 : x))
  }
  return scope(() => mapState(state, reset, resetCounts) as S)
}

/** Rows of a state, in this order: some may be left out, others be there several times, as the beams of a search that go on. New tensors. */
export function takeRows<S extends State>(state: S, rows: readonly number[]): S {
  let R: number | undefined
  mapState(state, (t) => (R ??= t.shape[0]))
  checkRows(rows, R)
  const index = Int32Array.from(rows)
  const take = (t: Tensor): Tensor => {
    const [R, ...rest] = t.shape
    if (t.size === 0 || index.length === 0) return zeros([index.length, ...rest], t.device)
    const table = reshape(t, [R, t.size / R])
    return reshape(gather(table, tensor(index, { shape: [index.length], device: t.device })), [index.length, ...rest])
  }
  const takeCounts = (counts: Int32Array): Int32Array => {
    const width = counts.length / (R ?? counts.length)
    return Int32Array.from({ length: index.length * width }, (_, i) => counts[index[Math.floor(i / width)] * width + (i % width)])
  }
  return scope(() => mapState(state, take, takeCounts) as S)
}

/** States of the same layer or model as one of all their rows, in order. New tensors. */
export function joinRows<S extends State>(states: readonly S[]): S {
  const tensors = new Map<string, Tensor[]>()
  const counts = new Map<string, number[]>()
  const add = <T>(to: Map<string, T[]>, name: string, more: readonly T[]): void => {
    const held = to.get(name)
    if (held) held.push(...more)
    else to.set(name, [...more])
  }
  for (const state of states)
    mapState(
      state,
      (t, name) => add(tensors, name, [t]),
      (c, name) => add(counts, name, Array.from(c)),
    )
  const join = (_: Tensor, name: string): Tensor => concat(tensors.get(name)!, 0)
  return scope(() => mapState(states[0], join, (_, name) => Int32Array.from(counts.get(name)!)) as S)
}

function checkRows(rows: unknown, R = Infinity): asserts rows is readonly number[] {
  if (!Array.isArray(rows) && !(ArrayBuffer.isView(rows) && 'length' in rows))
    throw new Error(`takeRows: the rows must be an array of their places, such as [0, 0, 2], not ${told(rows)}`)
  const places = Array.from(rows as ArrayLike<unknown>)
  const bad = places.findIndex((row) => !(typeof row === 'number' && Number.isInteger(row) && row >= 0 && row < R))
  if (bad < 0) return
  const range = R === Infinity ? 'an integer, 0 or more' : `an integer from 0 to ${R - 1}: the state has ${R} rows`
  throw new Error(`takeRows: rows[${bad}] is ${told(places[bad])}, where it must be ${range}`)
}

const version = { fastweights: 'state 2', before: 'fastweights-state-1' }

/** The state as a safetensors file, in the device's precision. */
export async function saveState(state: State): Promise<Uint8Array> {
  const waiting: Promise<[string, SafetensorsEntry]>[] = []
  let B = 0
  mapState(
    state,
    (t, name) => {
      B = t.shape[0]
      waiting.push(
        t.read().then((data) => [name, { dtype: data instanceof Float64Array ? 'F64' : 'F32', shape: [...t.shape], data } as FloatEntry]),
      )
    },
    (counts, name) => {
      waiting.push(Promise.resolve([name, { dtype: 'I32', shape: [counts.length], data: Int32Array.from(counts) }]))
    },
  )
  return writeSafetensors(await Promise.all(waiting), { ...versionMetadata(version), rows: `${B}` })
}

/** The state in a file of `saveState`, on the owner's device. Throws a SafetensorsError unless it is one of that layer or model. */
export function loadState<S extends State>(bytes: Uint8Array, owner: Stateful<S>): S {
  const { metadata, tensors } = readSafetensors(bytes)
  const fail = (problem: string): never => {
    throw new SafetensorsError(`state: ${problem}`)
  }
  const says = otherVersion(metadata, version)
  if (says !== undefined) fail(`the file isn't a state (its metadata says ${says})`)
  if (!/^[1-9]\d{0,9}$/.test(metadata.rows ?? '')) fail("its metadata doesn't say how many rows it has")
  const B = Number(metadata.rows)
  const parts = owner.stateParts(B)
  const left = new Set(tensors.keys())
  /** The sizes that grow, -1 and -2, each the same in all parts of a file. */
  const sizes = new Map<number, number>()
  walkParts(parts, '', (name, part) => {
    const { dtype, shape } = part
    const entry = tensors.get(name)
    if (!entry) return fail(`it lacks ${name}`)
    left.delete(name)
    shape.forEach((d, i) => {
      if (d < 0 && !sizes.has(d)) sizes.set(d, entry.shape[i] ?? 0)
    })
    const grown = shape.map((d) => sizes.get(d) ?? d)
    const expected = dtype === 'int32' ? [sizeOf(grown)] : grown
    if (!sameShape(entry.shape, expected)) fail(`${name} has shape ${show(entry.shape)}, expected ${show(expected)}`)
    if (dtype === 'int32' ? entry.dtype !== 'I32' : !isFloat(entry)) fail(`${name} is ${entry.dtype}, not ${dtype}`)
    const bad = dtype === 'int32' ? outside(entry.data as Int32Array, part) : undefined
    if (bad !== undefined) fail(`${name} holds ${bad}`)
  })
  for (const name of left) fail(`${printable(JSON.stringify(name.slice(0, 80)))} is no part of it`)
  const device = owner.parameters()[0]?.device ?? getDevice()
  return walkParts(parts, '', (name, { dtype }) => {
    const { data, shape } = tensors.get(name)!
    return dtype === 'int32' ? Int32Array.from(data as Int32Array) : tensor(data as Float32Array, { shape, device })
  }) as S
}

/** A state's structure with what f makes of each part. */
function walkParts(parts: Parts, path: string, f: (name: string, part: Part) => unknown): Record<string, unknown> {
  const named = (name: string): string => (path ? `${path}.${name}` : name)
  return Object.fromEntries(
    Object.entries(parts).map(([name, inner]) => [
      name,
      Array.isArray(inner) ? inner.map((p: Parts, i) => walkParts(p, `${named(name)}.${i}`, f)) : f(named(name), inner as Part),
    ]),
  )
}

/** A copy of the objects and arrays, with f of each tensor and g of each array of counts; names are paths. */
export function mapState(
  value: unknown,
  f: (t: Tensor, name: string) => unknown,
  g: (counts: Int32Array, name: string) => unknown = (counts) => counts,
  path = '',
): unknown {
  const named = (name: string | number): string => (path ? `${path}.${name}` : `${name}`)
  if (value instanceof Tensor) return f(value, path)
  if (value instanceof Int32Array) return g(value, path)
  if (Array.isArray(value)) return value.map((inner, i) => mapState(inner, f, g, named(i)))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, mapState(inner, f, g, named(name))]))
}
