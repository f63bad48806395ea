/** Graphs as they grow: nodes, what they have in common (constants, sizes), and how values are reshaped between them. */
import { encode } from '../nn/safetensors.ts'
import { attributeTypes, dataTypes, OnnxError, type ProtoInit } from './proto.ts'
import { formula, is, isConstant, type Num, same, type Varying } from './trace.ts'

/** A value of a graph and its sizes. */
export interface Value {
  name: string
  dims: readonly Num[]
}

type Attribute = ProtoInit<'AttributeProto'>
export const int = (x: number): Attribute => ({ i: BigInt(x), type: attributeTypes.int })
export const float = (x: number): Attribute => ({ f: x, type: attributeTypes.float })
export const text = (x: string): Attribute => ({ s: new TextEncoder().encode(x), type: attributeTypes.string })
export const ints = (xs: readonly number[]): Attribute => ({ ints: xs.map(BigInt), type: attributeTypes.ints })
const graphAttribute = (g: ProtoInit<'GraphProto'>): Attribute => ({ g, type: attributeTypes.graph })

export type ElementType = 'F32' | 'I64'

/** An input or output of a graph. Sizes are numbers, or words for those that vary; without, they follow from the graph. */
export const declared = (name: string, type: ElementType, dims?: readonly (number | string)[]): ProtoInit<'ValueInfoProto'> => ({
  name,
  type: {
    tensorType: {
      elemType: dataTypes[type],
      ...(dims && { shape: { dim: dims.map((d) => (typeof d === 'string' ? { dimParam: d } : { dimValue: BigInt(d) })) } }),
    },
  },
})

/** What all graphs of a model share. */
export interface Common {
  varying: Varying
  /** Parameters in float16, computed with in float32. */
  half: boolean
  initializers: ProtoInit<'TensorProto'>[]
  arrays: { name: string; dims: readonly number[]; values: Float32Array }[]
  /** Names of constants by what they hold, and of sizes by their formulas. */
  known: Map<string, string>
  /** Where sizes are made: in the outermost graph, which every other one sees. */
  main: Graph
  /** How a letter's size is found. */
  sizes: Record<string, () => string>
  count: number
}

/** Of float16. */
const largestHalf = 65504

export class Graph {
  readonly nodes: ProtoInit<'NodeProto'>[] = []
  readonly common: Common

  /** The outermost graph of a model; or, of what is common to all, one inside. */
  constructor(varying: Varying, half: boolean, common?: Common) {
    const own = { initializers: [], arrays: [], known: new Map(), main: this, sizes: {}, count: 0 }
    this.common = common ?? { ...own, varying, half }
  }

  fresh(stem: string): string {
    return `${stem}_${this.common.count++}`
  }

  /** A node with these inputs ('' for one that is left out); the names of its outputs. */
  ops(opType: string, inputs: readonly string[], outputs: number, attributes: Record<string, Attribute> = {}, domain = ''): string[] {
    const names = Array.from({ length: outputs }, () => this.fresh(opType.toLowerCase()))
    const attribute = Object.entries(attributes).map(([name, value]) => ({ name, ...value }))
    const given = [...inputs]
    while (given.at(-1) === '') given.pop()
    this.nodes.push({ name: this.fresh('node'), opType, input: given, output: names, attribute, domain })
    return names
  }

  op(opType: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}): string {
    return this.ops(opType, inputs, 1, attributes)[0]
  }

  // ---- constants and sizes

  private constant(key: string, make: () => ProtoInit<'TensorProto'>, stem: string): string {
    const { known, initializers } = this.common
    if (!known.has(key)) {
      const name = this.fresh(stem)
      initializers.push({ ...make(), name })
      known.set(key, name)
    }
    return known.get(key)!
  }

  /** A float32 number. */
  scalar(x: number): string {
    return this.constant(`scalar ${x} ${Object.is(x, -0)}`, () => floats([], Float32Array.of(x)), 'number')
  }

  /** A constant float32 array; equal ones are one. */
  array(dims: readonly number[], data: ArrayLike<number>): string {
    const values = Float32Array.from(data)
    const { arrays, initializers } = this.common
    const found = arrays.find((array) => array.dims.join() === dims.join() && array.values.every((x, i) => Object.is(x, values[i])))
    if (found) return found.name
    const name = this.fresh('array')
    initializers.push({ ...floats(dims, values), name })
    arrays.push({ name, dims, values })
    return name
  }

  /** A constant vector of int64. */
  integers(xs: readonly number[]): string {
    return this.constant(`integers ${xs.join()}`, () => integerTensor([xs.length], xs), 'integers')
  }

  /** A constant int64 number. */
  integer(x: number): string {
    return this.constant(`integer ${x}`, () => integerTensor([], [x]), 'integer')
  }

  /** A parameter, by its own name. */
  parameter(name: string, dims: readonly number[], data: ArrayLike<number>): string {
    const { known, initializers, half } = this.common
    const key = `parameter ${name}`
    if (!known.has(key)) {
      const values = Float32Array.from(data)
      if (half) {
        const beyond = values.find((x) => Math.abs(x) > largestHalf)
        if (beyond !== undefined) throw new OnnxError(`${name} holds ${beyond}, and float16 ends at ${largestHalf}: write it in float32`)
        const bytes = encode(name, { dtype: 'F16', shape: [...dims], data: values })
        initializers.push({ name: `${name}.f16`, dims: dims.map(BigInt), dataType: dataTypes.F16, rawData: bytes })
        known.set(key, this.common.main.op('Cast', [`${name}.f16`], { to: int(dataTypes.F32) }))
      } else {
        initializers.push({ ...floats(dims, values), name })
        known.set(key, name)
      }
    }
    return known.get(key)!
  }

  /** A size as a vector of one int64. */
  size(n: Num): string {
    const { varying, known, main, sizes } = this.common
    const terms = [...formula(n, varying)].sort(([a], [b]) => (a < b ? -1 : 1))
    const key = `size ${terms.join(' ')}`
    if (!known.has(key)) {
      const letter = (x: string): string => {
        if (!known.has(`letter ${x}`)) known.set(`letter ${x}`, sizes[x]())
        return known.get(`letter ${x}`)!
      }
      const factors = terms.map(([product, factor]) => [
        ...[...product].map(letter),
        ...(factor === 1 && product !== '' ? [] : [main.integers([factor])]),
      ])
      const times = (names: string[]): string => names.reduce((a, b) => main.op('Mul', [a, b]))
      const products = factors.map(times)
      known.set(key, products.length === 0 ? main.integers([0]) : products.reduce((a, b) => main.op('Add', [a, b])))
    }
    return known.get(key)!
  }

  /** A size as an int64 number. */
  sizeNumber(n: Num): string {
    const { known, main } = this.common
    if (isConstant(n)) return this.integer(n[0])
    const name = this.size(n)
    const key = `number ${name}`
    if (!known.has(key)) known.set(key, main.op('Squeeze', [name, main.integers([0])]))
    return known.get(key)!
  }

  /** Sizes as a vector. */
  sizes(dims: readonly Num[]): string {
    if (dims.every(isConstant)) return this.integers(dims.map(([d]) => d))
    const { known, main } = this.common
    const names = dims.map((d) => this.size(d))
    const key = `sizes ${names.join()}`
    if (!known.has(key)) known.set(key, names.length === 1 ? names[0] : main.op('Concat', names, { axis: int(0) }))
    return known.get(key)!
  }

  // ---- shapes

  reshape(x: Value, dims: readonly Num[]): Value {
    if (dims.length === x.dims.length && dims.every((d, i) => same(d, x.dims[i]))) return x
    // 0 stands for the size that is there already, -1 for what is left.
    let left = 0
    const plain = dims.map((d, i) => {
      if (isConstant(d)) return d[0]
      if (i < x.dims.length && same(d, x.dims[i])) return 0
      left++
      return -1
    })
    const target = left > 1 || dims.some((d) => is(d, 0)) ? this.sizes(dims) : this.integers(plain)
    return { name: this.op('Reshape', [x.name, target]), dims }
  }

  transpose({ name, dims }: Value, order: readonly number[]): Value {
    if (order.every((axis, i) => axis === i)) return { name, dims }
    return { name: this.op('Transpose', [name], { perm: ints(order) }), dims: order.map((axis) => dims[axis]) }
  }

  expand(x: Value, dims: readonly Num[]): Value {
    if (dims.every((d, i) => same(d, x.dims[i]))) return x
    return { name: this.op('Expand', [x.name, this.sizes(dims)]), dims }
  }

  /** Elements from `begin` on, `count` of them, along some axes. */
  slice(x: Value, cuts: readonly { axis: number; begin: Num; count: Num }[]): Value {
    const real = cuts.filter(({ axis, begin, count }) => !(is(begin, 0) && same(count, x.dims[axis])))
    if (real.length === 0) return x
    const ends = real.map(({ begin, count }) => begin.map((b, i) => b + count[i]))
    const inputs = [this.sizes(real.map(({ begin }) => begin)), this.sizes(ends), this.integers(real.map(({ axis }) => axis))]
    const dims = x.dims.map((d, axis) => real.find((cut) => cut.axis === axis)?.count ?? d)
    return { name: this.op('Slice', [x.name, ...inputs]), dims }
  }

  concat(parts: readonly Value[], axis: number): Value {
    if (parts.length === 1) return parts[0]
    const total = parts.map(({ dims }) => dims[axis]).reduce((a, b) => a.map((x, i) => x + b[i]))
    const dims = parts[0].dims.map((d, i) => (i === axis ? total : d))
    return {
      name: this.op(
        'Concat',
        parts.map(({ name }) => name),
        { axis: int(axis) },
      ),
      dims,
    }
  }

  /** All of one value. */
  filled(value: number, dims: readonly Num[]): Value {
    const like: Attribute = { t: floats([1], Float32Array.of(value)), type: attributeTypes.tensor }
    return { name: this.op('ConstantOfShape', [this.sizes(dims)], { value: like }), dims }
  }

  /**
   * A Scan over axis 1 of `tokens`, [B,T,...], which is axis 0 to the node, as some evaluators know no other. `body` gets a token's values without that axis and the states before it, and gives the states after it
   * and what goes out, without that axis. Returns the last states, and the outputs with the axis T.
   */
  scan(
    states: readonly { value: Value; type?: ElementType }[],
    tokens: readonly { value: Value; type?: ElementType }[],
    body: (graph: Graph, states: Value[], token: Value[]) => { states: Value[]; outputs: Value[] },
  ): { states: Value[]; outputs: Value[] } {
    const inner = new Graph(this.common.varying, this.common.half, this.common)
    const taken = (given: readonly { value: Value }[], stem: string, drop: boolean): Value[] =>
      given.map(({ value }) => ({ name: this.fresh(stem), dims: drop ? [value.dims[0], ...value.dims.slice(2)] : value.dims }))
    const [before, token] = [taken(states, 'before', false), taken(tokens, 'token', true)]
    const made = body(inner, before, token)
    // What goes out of a body must be its own.
    const own = ({ name, dims }: Value): Value => ({ name: inner.op('Identity', [name]), dims })
    const after = made.states.map(own)
    const out = made.outputs.map(own)
    const typed = (values: readonly Value[], of: readonly { type?: ElementType }[]) =>
      values.map(({ name }, i) => declared(name, of[i]?.type ?? 'F32'))
    const graph = {
      name: this.fresh('body'),
      node: inner.nodes,
      input: [...typed(before, states), ...typed(token, tokens)],
      output: [...typed(after, states), ...typed(out, [])],
    }
    const swapped = (rank: number): number[] => Array.from({ length: rank }, (_, i) => (i < 2 ? 1 - i : i))
    const given = [...states.map(({ value }) => value), ...tokens.map(({ value }) => this.transpose(value, swapped(value.dims.length)))]
    const attributes = { body: graphAttribute(graph), num_scan_inputs: int(tokens.length) }
    const names = this.ops(
      'Scan',
      given.map(({ name }) => name),
      after.length + out.length,
      attributes,
    )
    const [, T] = tokens[0].value.dims
    return {
      states: after.map(({ dims }, i) => ({ name: names[i], dims })),
      outputs: out.map(({ dims: [B, ...rest] }, i) =>
        this.transpose({ name: names[after.length + i], dims: [T, B, ...rest] }, swapped(rest.length + 2)),
      ),
    }
  }
}

const floats = (dims: readonly number[], data: Float32Array<ArrayBuffer>): ProtoInit<'TensorProto'> => ({
  dims: dims.map(BigInt),
  dataType: dataTypes.F32,
  rawData: new Uint8Array(data.buffer),
})

const integerTensor = (dims: readonly number[], data: readonly number[]): ProtoInit<'TensorProto'> => ({
  dims: dims.map(BigInt),
  dataType: dataTypes.I64,
  rawData: new Uint8Array(BigInt64Array.from(data.map(BigInt)).buffer),
})

/** What values a node reads: its own, and what graphs inside it take from outside. */
const reads = ({ input = [], attribute = [] }: ProtoInit<'NodeProto'>): string[] => [
  ...input,
  ...attribute.flatMap(({ g }) => (g ? [...(g.node ?? []).flatMap(reads), ...(g.output ?? []).map(({ name }) => name!)] : [])),
]

/** The nodes and constants that these outputs need. */
export function needed(
  nodes: readonly ProtoInit<'NodeProto'>[],
  initializers: readonly ProtoInit<'TensorProto'>[],
  outputs: readonly string[],
): { node: ProtoInit<'NodeProto'>[]; initializer: ProtoInit<'TensorProto'>[] } {
  const wanted = new Set(outputs)
  const kept = [...nodes].reverse().filter((node) => {
    const used = node.output!.some((name) => wanted.has(name))
    if (used) for (const name of reads(node)) wanted.add(name)
    return used
  })
  return { node: kept.reverse(), initializer: initializers.filter(({ name }) => wanted.has(name!)) }
}
