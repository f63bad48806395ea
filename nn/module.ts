import { checkList, checkOptions, told } from '../engine/arguments.ts'
import { type Shape, sameShape, show } from '../engine/shape.ts'
import { empty, parameter, Tensor } from '../engine/tensor.ts'
import type { SafetensorsEntry } from './safetensors.ts'

/** What a state dict is loaded from: anything with a shape and numbers, such as readSafetensors(...).tensors. */
export type StateDict = ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }>

/** Values as they are on a device: float32, float64 on the reference. */
export type FloatEntry = Extract<SafetensorsEntry, { dtype: 'F32' | 'F64' }>

/**
 * A part of a model. Its parameters are what `parameter()` made among its properties and those of the modules (and arrays of
 * modules) it holds; a parameter's name is the path to it, as in PyTorch ('layers.0.attn.query.linear.weight').
 */
export abstract class Module {
  /** Whether dropout drops; set by train() and eval() for the whole tree. */
  training = true

  /** A parameter that two modules share has two names, in state dicts too. */
  namedParameters(): Map<string, Tensor> {
    const found = new Map<string, Tensor>()
    walk(this, '', (path, value) => {
      if (value instanceof Tensor && value.isParameter) found.set(path, value)
    })
    return found
  }

  /** Each once. */
  parameters(): Tensor[] {
    return [...new Set(this.namedParameters().values())]
  }

  parameterCount(): number {
    return this.parameters().reduce((n, p) => n + p.size, 0)
  }

  train(on = true): this {
    walk(this, '', (_, value) => {
      if (value instanceof Module) value.training = on
    })
    return this
  }

  eval(): this {
    return this.train(false)
  }

  /** The values of all parameters at the time of the call, by name: what writeSafetensors takes. */
  stateDict(): Promise<Map<string, FloatEntry>> {
    return entriesOf(this.namedParameters())
  }

  /**
   * Overwrites every parameter. Nothing is changed unless all names and shapes match, and the values of a parameter with two names are the same
   * under both; `strict: false` allows names the model lacks.
   */
  loadStateDict(dict: StateDict, options: { strict?: boolean } = {}): void {
    checkOptions('loadStateDict', options, ['strict'])
    const words = { where: 'loadStateDict', saved: 'the state dict', owner: 'the model', part: 'parameter' }
    writeAll(this.namedParameters(), dict, words, options.strict)
  }

  /** Frees every parameter and its gradient. */
  dispose(): void {
    for (const p of this.parameters()) {
      p.grad?.dispose()
      p.dispose()
    }
  }
}

/** A parameter whose first values are computed on the host, unless the device has no memory: a model is made there for its shapes alone. */
export function hostParameter(shape: Shape, values: () => ArrayLike<number>): Tensor {
  const p = parameter(empty(shape))
  if (p.storage !== null) p.device.write(p.storage, values())
  return p
}

/** A module may point back to one that holds it: what the path has come through already is no part of it. */
function walk(value: unknown, path: string, visit: (path: string, value: unknown) => void, holders: readonly unknown[] = []): void {
  if (holders.includes(value)) return
  visit(path, value)
  if (!(value instanceof Module) && !Array.isArray(value)) return
  for (const [name, inner] of Object.entries(value))
    if (typeof inner === 'object' && inner !== null) walk(inner, path ? `${path}.${name}` : name, visit, [...holders, value])
}

/** Reads all tensors as they are now. */
export async function entriesOf(tensors: ReadonlyMap<string, Tensor>): Promise<Map<string, FloatEntry>> {
  const entries = [...tensors].map(async ([name, { shape }]): Promise<[string, FloatEntry]> => {
    const data = await tensors.get(name)!.read()
    if (data instanceof Float64Array) return [name, { dtype: 'F64', shape: [...shape], data }]
    if (data instanceof Float32Array) return [name, { dtype: 'F32', shape: [...shape], data }]
    throw new Error(`${name} holds integers, not floating-point numbers`)
  })
  return new Map(await Promise.all(entries))
}

/** Throws if what was saved of one tensor under its two names isn't the same. */
function contradiction(
  where: string,
  part: string,
  [a, b]: [string, string],
  [x, y]: [ArrayLike<number | bigint>, ArrayLike<number | bigint>],
): void {
  for (let i = 0; i < x.length; i++)
    if (x[i] !== y[i] && !(Number.isNaN(x[i]) && Number.isNaN(y[i])))
      throw new Error(`${where}: ${a} and ${b} are one ${part}, but what was saved of them differs: ${x[i]} and ${y[i]} at ${i}`)
}

/** Overwrites all tensors with what was saved; nothing is changed unless all names, shapes and kinds of numbers match. */
export function writeAll(
  tensors: ReadonlyMap<string, Tensor>,
  dict: StateDict,
  { where, saved, owner, part }: { where: string; saved: string; owner: string; part: string },
  strict = true,
): void {
  if (!(dict instanceof Map))
    throw new Error(`${where}: needs a Map from names to { shape, data }, such as readSafetensors(bytes).tensors, not ${told(dict)}`)
  const few = (names: string[]): string => names.slice(0, 3).join(', ') + (names.length > 3 ? `, ... (${names.length})` : '')
  const missing = [...tensors.keys()].filter((name) => !dict.has(name))
  if (missing.length > 0) throw new Error(`${where}: ${saved} lacks ${few(missing)}`)
  const extra = [...dict.keys()].filter((name) => !tensors.has(name))
  if (extra.length > 0 && strict) throw new Error(`${where}: ${owner} has no ${part} ${few(extra)}`)
  const first = new Map<unknown, string>()
  for (const [name, t] of tensors) {
    const { shape, data } = dict.get(name)!
    if (!sameShape(shape, t.shape)) throw new Error(`${where}: ${name} has shape ${show(shape)}, ${owner} expects ${show(t.shape)}`)
    if (data.length !== t.size) throw new Error(`${where}: ${name} has ${data.length} values for shape ${show(shape)}`)
    if (ArrayBuffer.isView(data) && !(data instanceof Float32Array || data instanceof Float64Array))
      throw new Error(`${where}: ${name} is a ${data.constructor.name}, not floating-point numbers`)
    if (!ArrayBuffer.isView(data)) checkList(`${where}: the data of ${name}`, Array.from(data), '[0.5, 1]')
    const other = first.get(t.storage)
    if (other === undefined) first.set(t.storage, name)
    else contradiction(where, part, [other, name], [dict.get(other)!.data, data])
  }
  for (const [name, t] of tensors) t.write(dict.get(name)!.data as ArrayLike<number>)
}
