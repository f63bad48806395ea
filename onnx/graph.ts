/** Runs a graph of an ONNX model whose nodes are operators of the table, on the default device. Tests: test/onnx/compare.test.ts. */
import { noGrad } from '../engine/recording.ts'
import { scope } from '../engine/scope.ts'
import { show } from '../engine/shape.ts'
import { getDevice, type Tensor, tensor } from '../engine/tensor.ts'
import { clip, printable } from '../nn/foreign.ts'
import { decode } from '../nn/safetensors.ts'
import { type Attribute, type Operator, operators, type TypeLetter, typeLetters } from './operators.ts'
import { attributeTypes, type DataType, dataTypeOf, OnnxError, type Proto } from './proto.ts'

/** An array with the type that it has in ONNX; 16-bit floats are computed in float32. */
export interface Value {
  type: DataType
  tensor: Tensor
}

/** The bytes of a file beside the model, for data that stands outside; throws where it may not be read. */
export type ReadBeside = (location: string) => Uint8Array

const quoted = (name: string): string => `'${clip(printable(name))}'`

/** What goes wrong inside is told with where it was. */
function within<R>(where: string, body: () => R): R {
  try {
    return body()
  } catch (error) {
    throw new OnnxError(`${where}: ${(error as Error).message}`)
  }
}

const nodeName = ({ name, opType }: Proto<'NodeProto'>, i: number): string =>
  `node ${name === '' ? `${i + 1}` : quoted(name)} (${clip(printable(opType))})`

/** Outputs by name, in the graph's order. `inputs` by name; what they lack may be an initialiser. */
export function runGraph(
  { graph, opsetImport }: Proto<'ModelProto'> & { graph: Proto<'GraphProto'> },
  inputs: ReadonlyMap<string, Value>,
  readBeside: ReadBeside,
): Map<string, Value> {
  const opsets = new Map(opsetImport.map(({ domain, version }) => [domain || 'ai.onnx', Number(version)]))
  const plans = graph.node.map((node, i) => within(nodeName(node, i), () => planOf(node, opsets)))
  const maker = new Map(graph.node.flatMap((node, i) => node.output.map((name) => [name, i] as const)))
  if (graph.node.length === 0) throw new OnnxError('the graph has no node')
  if (graph.output.length === 0) throw new OnnxError('the graph has no output')
  /** Each file once. */
  const files = new Map<string, Uint8Array>()
  const readOnce: ReadBeside = (location) => {
    if (!files.has(location)) files.set(location, readBeside(location))
    return files.get(location)!
  }
  return scope(() =>
    noGrad(() => {
      const values = new Map<string, Value>()
      for (const init of graph.initializer)
        within(`initialiser ${quoted(init.name)}`, () => void values.set(init.name, constant(init, readOnce)))
      for (const input of graph.input)
        within(`input ${quoted(input.name)}`, () => {
          const value = inputs.get(input.name) ?? values.get(input.name)
          if (value === undefined) throw new Error('it is neither given nor an initialiser')
          checkDeclared(input, value)
          values.set(input.name, value)
        })
      for (const [i, node] of graph.node.entries())
        within(nodeName(node, i), () => {
          const given = node.input.map((name) => {
            if (name === '') return undefined
            const value = values.get(name)
            if (value !== undefined) return value
            const later = maker.get(name)
            if (later === undefined) throw new Error(`its input ${quoted(name)} is no input, initialiser or output of a node`)
            throw new Error(`its input ${quoted(name)} comes from ${nodeName(graph.node[later], later)}, which isn't before it (a cycle?)`)
          })
          const made = run(plans[i], given)
          node.output.forEach((name, at) => {
            if (name === '') return
            if (values.has(name)) throw new Error(`its output ${quoted(name)} is there already`)
            if (!made[at]) throw new Error(`its output ${quoted(name)} goes with an input that is left out`)
            values.set(name, made[at])
          })
        })
      return new Map(
        graph.output.map((output) =>
          within(`output ${quoted(output.name)}`, () => {
            const value = values.get(output.name)
            if (value === undefined) throw new Error('no node makes it')
            if (output.type !== undefined) checkDeclared(output, value)
            return [output.name, value]
          }),
        ),
      )
    }),
  )
}

interface Plan {
  operator: Operator
  attributes: Record<string, number | string>
}

/** The operator of a node with its attributes, defaults included. */
function planOf(node: Proto<'NodeProto'>, opsets: ReadonlyMap<string, number>): Plan {
  const domain = node.domain || 'ai.onnx'
  const family = Object.hasOwn(operators, domain) ? operators[domain] : undefined
  const operator = family && Object.hasOwn(family.table, node.opType) ? family.table[node.opType] : undefined
  if (family === undefined || operator === undefined) {
    const known = Object.entries(operators).map(([domain, { table }]) => `${Object.keys(table).join(', ')} of ${domain}`)
    throw new Error(`the domain ${quoted(domain)} has no such operator here: there are ${known.join('; ')}`)
  }
  const opset = opsets.get(domain)
  if (opset === undefined) throw new Error(`the model imports no opset of ${domain}`)
  if (opset < family.since) throw new Error(`${domain} has it since opset ${family.since}, the model imports ${opset}`)
  const [slots, results] = [Object.entries(operator.inputs), Object.entries(operator.outputs)]
  if (node.input.length > slots.length) throw new Error(`it has ${node.input.length} inputs, ${slots.length} at most`)
  if (node.output.length > results.length) throw new Error(`it has ${node.output.length} outputs, ${results.length} at most`)
  for (const [names, kind, given] of [[slots, 'input', node.input] as const, [results, 'output', node.output] as const])
    names.forEach(([name, letter], i) => {
      if (!letter.endsWith('?') && !given[i]) throw new Error(`its ${kind} ${name} is left out`)
    })
  const given = new Map(node.attribute.map((attribute) => [attribute.name, attribute]))
  if (given.size < node.attribute.length) throw new Error('an attribute is given twice')
  for (const name of given.keys())
    if (!Object.hasOwn(operator.attributes, name))
      throw new Error(`it has no attribute ${quoted(name)} (there are ${Object.keys(operator.attributes).join(', ') || 'none'})`)
  const attributes = Object.entries(operator.attributes).map(([name, row]) => [name, attributeOf(name, row, given.get(name))])
  return { operator, attributes: Object.fromEntries(attributes) }
}

function attributeOf(name: string, row: Attribute, given: Proto<'AttributeProto'> | undefined): number | string {
  if (given === undefined) {
    if (row.default === undefined) throw new Error(`its attribute ${name} is missing`)
    return row.default
  }
  if (given.type !== attributeTypes[row.type]) throw new Error(`its attribute ${name} isn't of the type ${row.type}`)
  if (row.type === 'string') {
    const text = new TextDecoder().decode(given.s)
    if (!row.choices!.includes(text)) throw new Error(`its attribute ${name} is ${quoted(text)}, expected ${row.choices!.join(', ')}`)
    return text
  }
  const value = row.type === 'int' ? Number(given.i) : given.f
  if (row.only && value !== row.only[0]) throw new Error(`its attribute ${name} is ${value}: ${row.only[1]}`)
  if (!Number.isFinite(value) || value < (row.min ?? -Infinity) || value > (row.max ?? Infinity)) {
    const range = row.max === undefined ? `${row.min} or more` : `${row.min} to ${row.max}`
    throw new Error(`its attribute ${name} is ${value}, expected ${row.min === undefined ? 'a number' : range}`)
  }
  return value
}

/** The outputs by their places; undefined where one goes with an input that is left out. */
function run({ operator, attributes }: Plan, given: readonly (Value | undefined)[]): (Value | undefined)[] {
  const inputs: Record<string, Tensor> = {}
  const types: Partial<Record<TypeLetter, DataType>> = {}
  Object.entries(operator.inputs).forEach(([name, slot], i) => {
    const value = given[i]
    if (value === undefined) return
    const letter = slot[0] as TypeLetter
    const allowed: readonly DataType[] = types[letter] ? [types[letter]] : letter === 'G' ? [types.T!, 'F32'] : typeLetters[letter]
    if (!allowed.includes(value.type)) throw new Error(`its input ${name} is ${value.type}, expected ${[...new Set(allowed)].join(' or ')}`)
    types[letter] = value.type
    inputs[name] = value.tensor
  })
  const outputs = operator.run(inputs, attributes)
  const typeOf = (slot: string): DataType => (slot[0] === 'F' ? 'F32' : (types[slot[0] as TypeLetter] ?? types.T!))
  return Object.entries(operator.outputs).map(([name, slot]) => outputs[name] && { type: typeOf(slot), tensor: outputs[name] })
}

/** A value must be what the graph says of it; sizes with a name, or none, are any. */
function checkDeclared({ type }: Proto<'ValueInfoProto'>, value: Value): void {
  const { elemType, shape } = type?.tensorType ?? {}
  if (elemType === undefined) throw new Error('the graph says no type of it')
  const declared = dataTypeOf(elemType)
  if (declared !== value.type) throw new Error(`it is ${value.type}, the graph says ${declared ?? `the type ${elemType}`}`)
  if (shape === undefined) return
  const fits =
    shape.dim.length === value.tensor.shape.length &&
    shape.dim.every(({ dimValue, dimParam }, i) => dimParam !== '' || dimValue === 0n || Number(dimValue) === value.tensor.shape[i])
  const dims = shape.dim.map(({ dimValue, dimParam }) => clip(printable(dimParam), 20) || (dimValue === 0n ? '?' : `${dimValue}`))
  if (!fits) throw new Error(`it has shape ${show(value.tensor.shape)}, the graph says [${dims.join(',')}]`)
}

const widths = { F32: 4, F16: 2, BF16: 2, I32: 4 } as const

function constant(t: Proto<'TensorProto'>, readBeside: ReadBeside): Value {
  const type = dataTypeOf(t.dataType)
  if (type === undefined || type === 'I64') throw new Error(`its type ${t.dataType} isn't one of float32, float16, bfloat16 and int32`)
  const shape = t.dims.map(Number)
  const size = shape.reduce((n, d) => n * d, 1)
  if (!shape.every((d) => Number.isSafeInteger(d) && d >= 0)) throw new Error(`its sizes are [${t.dims.slice(0, 8).join(',')}]`)
  const check = (found: number): void => {
    if (found !== size) throw new Error(`it holds ${found} numbers, its sizes [${shape.join(',')}] are of ${size}`)
  }
  const data = (): ArrayLike<number> => {
    const bytes = t.dataLocation === 1 ? outside(t, size * widths[type], readBeside) : t.rawData
    if (bytes.length > 0 || size === 0) {
      check(bytes.length / widths[type])
      return decode(type, bytes) as ArrayLike<number>
    }
    check(type === 'F32' ? t.floatData.length : t.int32Data.length)
    if (type === 'F32') return t.floatData
    return type === 'I32' ? t.int32Data : (decode(type, new Uint8Array(Uint16Array.from(t.int32Data).buffer)) as ArrayLike<number>)
  }
  return { type, tensor: tensorOf(type, data(), shape) }
}

/** An array as a tensor of the default device. */
export const tensorOf = (type: DataType, data: ArrayLike<number>, shape: number[]): Tensor =>
  tensor(type === 'I32' ? Int32Array.from(data) : Float32Array.from(data), {
    shape,
    device: getDevice(),
    dtype: type === 'I32' ? 'int32' : 'float32',
  })

/** The bytes of a constant that stands in another file. */
function outside(t: Proto<'TensorProto'>, length: number, readBeside: ReadBeside): Uint8Array {
  const said = new Map(t.externalData.map(({ key, value }) => [key, value]))
  const file = readBeside(said.get('location') ?? '')
  const offset = Number(said.get('offset') ?? 0)
  const end = offset + Number(said.get('length') ?? length)
  if (!(Number.isSafeInteger(offset) && offset >= 0 && end <= file.length && end >= offset))
    throw new Error(`its bytes ${offset} to ${end} aren't within ${quoted(said.get('location') ?? '')}, which has ${file.length}`)
  return file.subarray(offset, end)
}
