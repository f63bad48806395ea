/**
 * What the engine's kernels read and write, as values of a graph. To a kernel memory is flat blocks; here a block is a value with the sizes that it last
 * had, and strides become Reshape, Slice, Transpose and Expand.
 */
import type { Graph, Value } from './nodes.ts'
import { OnnxError } from './proto.ts'
import { type Blocks, is, isConstant, type Num, num, plus, product, quotient, remainder, same, times } from './trace.ts'

export type Domain = 'ai.onnx' | 'com.microsoft'

/** What a block holds: a value; one number everywhere; or pieces that are written one after the other. */
type Held = Value | { fill: number } | { parts: Piece[] }
interface Piece {
  value: Value
  strides: readonly Num[]
  offset: Num
}

/** What blocks are that no kernel writes. */
export interface Known {
  /** The graph's inputs, by block. */
  inputs: ReadonlyMap<number, Value>
  /** Parameters by block. */
  parameters: ReadonlyMap<number, { name: string; dims: readonly number[] }>
  /** Rows by a token's place in its sequence, as a value [B,T,width]; undefined where these data aren't such. */
  table(block: Blocks, g: Graph, known: Known): Value | undefined
  /** What places of `aft` are: those of all tokens, or of those that are put together. */
  placed(block: Blocks): 'all' | 'older' | undefined
  /** Tokens of each row before these, int64 [B]. */
  position(): string
  /** The mixer of a layer as a Scan: y and the parts of its state after, by name. */
  mixer(m: Memory, layer: number, x: Blocks, before: Readonly<Record<string, Blocks>>): Record<string, Value>
  B: Num
  T: Num
  domain: Domain
}

export class Memory {
  readonly g: Graph
  readonly known: Known
  private readonly held = new Map<number, Held>()

  constructor(g: Graph, known: Known) {
    this.g = g
    this.known = known
  }

  set(block: Blocks, value: Value): void {
    this.held.set(block.id, value)
  }

  fill(block: Blocks, value: number): void {
    this.held.set(block.id, { fill: value })
  }

  private look(block: Blocks): Value | { fill: number } {
    const held = this.held.get(block.id)
    if (held !== undefined && !('parts' in held)) return held
    if (is(block.size, 0)) return { fill: 0 }
    const made = held === undefined ? this.given(block) : this.assembled(block, held.parts)
    this.held.set(block.id, made)
    return made
  }

  /** What was there before any kernel. */
  private given(block: Blocks): Value | { fill: number } {
    const { g, known } = this
    const { id, size, data } = block
    const input = known.inputs.get(id)
    if (input) return input
    const [first] = data
    if (!data.every((d) => d !== null) || first === null) throw new OnnxError('a kernel reads what nothing has written')
    const parameter = known.parameters.get(id)
    if (parameter) {
      const { name, dims } = parameter
      return { name: g.parameter(name, dims, first), dims: dims.map((d) => num(d, size)) }
    }
    const all = data as readonly ArrayLike<number>[]
    if (all.every((d) => Array.from(d).every((x) => x === first[0]))) return { fill: first[0] }
    if (isConstant(size) && all.every((d) => Array.from(d).every((x, i) => x === first[i])))
      return { name: g.array([size[0]], first), dims: [size] }
    const table = known.table(block, g, known)
    if (table === undefined) throw new OnnxError('numbers that the host computes for each token')
    return table
  }

  /** Pieces along one axis, put together. */
  private assembled(block: Blocks, parts: readonly Piece[]): Value {
    const { strides } = parts[0]
    const full = strides.map((s, i) => quotient(i === 0 ? block.size : strides[i - 1], s))
    const fail = (): never => {
      throw new OnnxError('memory that is written in pieces which are no pieces of one axis')
    }
    if (!parts.every((part) => part.strides.length === strides.length && part.strides.every((s, i) => same(s, strides[i])))) return fail()
    const axis = full.findIndex((d, i) => parts.some(({ value }) => !same(value.dims[i], d)))
    if (axis < 0) return fail()
    const sorted = [...parts].sort((a, b) => a.offset[0] - b.offset[0])
    let at = num(0, block.size)
    for (const { value, offset } of sorted) {
      if (!same(offset, times(at, strides[axis])) || !value.dims.every((d, i) => i === axis || same(d, full[i]))) return fail()
      at = plus(at, value.dims[axis])
    }
    if (!same(at, full[axis])) return fail()
    return this.g.concat(
      sorted.map(({ value }) => value),
      axis,
    )
  }

  /** The block with these sizes. */
  as(block: Blocks, dims: readonly Num[]): Value {
    const held = this.look(block)
    return 'fill' in held ? this.g.filled(held.fill, dims) : this.g.reshape(held, dims)
  }

  /** The block with whatever sizes it has. */
  any(block: Blocks): Value {
    const held = this.look(block)
    return 'fill' in held ? this.g.filled(held.fill, [block.size]) : held
  }

  /** Indices: an input's, constant ones, or numbers one after the other. */
  index(block: Blocks): Value {
    const { g, known } = this
    const { id, size, data } = block
    const input = known.inputs.get(id)
    if (input) return input
    const first = data[0]?.[0]
    const all = data.map((d) => Array.from(d ?? []))
    if (first !== undefined && all.every((d) => d.every((x, i) => x === first + i))) {
      const end = g.sizeNumber(plus(size, num(first, size)))
      return { name: g.op('Range', [g.integer(first), end, g.integer(1)]), dims: [size] }
    }
    if (all[0].length > 0 && isConstant(size) && all.every((d) => d.every((x, i) => x === all[0][i])))
      return { name: g.integers(all[0]), dims: [size] }
    throw new OnnxError('rows that the host chooses for each token')
  }

  /** The block as rows of n, with whatever sizes come before. */
  rows(block: Blocks, n: Num): Value {
    const value = this.any(block)
    return same(value.dims.at(-1) ?? num(1, n), n) ? value : this.g.reshape(value, [quotient(block.size, n), n])
  }

  /** The block cut into [outer, n, inner], or with more axes in place of outer and inner: the value, and which axis n is. */
  middle(block: Blocks, outer: Num, n: Num, inner: Num): { value: Value; axis: number } {
    const value = this.any(block)
    for (let axis = 0, before = num(1, n); axis < value.dims.length; before = times(before, value.dims[axis++]))
      if (same(before, outer) && same(value.dims[axis], n) && same(product(value.dims.slice(axis + 1), n), inner)) return { value, axis }
    return { value: this.g.reshape(value, [outer, n, inner]), axis: 1 }
  }

  /** The number that fills a block. */
  filling(block: Blocks): number | undefined {
    const held = this.look(block)
    return 'fill' in held ? held.fill : undefined
  }

  /** Elements offset + i . strides over `shape`; where a stride is 0 the size is 1, which broadcasts. */
  strided(block: Blocks, shape: readonly Num[], strides: readonly Num[], offset: Num): Value {
    const { g } = this
    const held = this.look(block)
    const one = num(1, offset)
    const dims = shape.map((d, i) => (is(strides[i], 0) ? one : d))
    if ('fill' in held) return { name: g.scalar(held.fill), dims: shape.map(() => one) }
    const axes = shape.flatMap((d, i) => (is(d, 1) || is(strides[i], 0) ? [] : [i])).sort((a, b) => strides[b][0] - strides[a][0])
    // The axes that memory has: each as long as the stride before it is a multiple of its own.
    const steps = [...axes.map((i) => strides[i]), one]
    const full = steps.map((s, j) => quotient(j === 0 ? block.size : steps[j - 1], s))
    let left = offset
    const cuts = steps.map((s, axis) => {
      const begin = quotient(left, s)
      left = remainder(left, s)
      return { axis, begin, count: axis < axes.length ? shape[axes[axis]] : one }
    })
    const fits = cuts.every(({ begin, count }, j) => begin.every((b, i) => b >= 0 && b + count[i] <= full[j][i]))
    const whole = steps.every((s, j) => same(times(full[j], s), j === 0 ? block.size : steps[j - 1]))
    if (!fits || !whole) throw new OnnxError('memory that is read in steps which no Slice takes')
    const view = is(full.at(-1)!, 1) ? full.slice(0, -1) : full
    const cut = g.slice(this.as(block, view), cuts.slice(0, view.length))
    const order = axes.map((_, i) => axes.indexOf([...axes].sort((a, b) => a - b)[i]))
    const turned = g.transpose(cut, cut.dims.length > order.length ? [...order, order.length] : order)
    return g.reshape(turned, dims)
  }

  /** The same, stretched. */
  stretched(block: Blocks, shape: readonly Num[], strides: readonly Num[], offset: Num): Value {
    const { g } = this
    const value = this.strided(block, shape, strides, offset)
    if (this.filling(block) !== undefined) return g.filled(this.filling(block)!, shape)
    return g.expand(value, shape)
  }

  /** Writes a value to part of a block, or to all of it. */
  write(block: Blocks, value: Value, strides: readonly Num[], offset: Num): void {
    const written = product(value.dims, offset)
    if (is(written, 0)) return
    if (same(written, block.size)) {
      this.set(block, value)
      return
    }
    const held = this.held.get(block.id)
    if (held !== undefined && 'parts' in held) held.parts.push({ value, strides, offset })
    else this.held.set(block.id, { parts: [{ value, strides, offset }] })
  }
}
