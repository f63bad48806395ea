import { checkList, checkOptions, told } from '../engine/arguments.ts'
import type { Device } from '../engine/devices/device.ts'
import { type Shape, sameShape, show } from '../engine/shape.ts'
import { empty, getDevice, parameter, setDevice, Tensor } from '../engine/tensor.ts'
import { clip, printable } from './foreign.ts'
import { entryOf, partOf, type SafetensorsEntry } from './safetensors.ts'

/** What a state dict is loaded from: anything with a shape and numbers, such as readSafetensors(...).tensors. */
export type StateDict = ReadonlyMap<string, StateDictEntry>
/** One array of a `StateDict`: its shape, and its numbers one after the other. */
export interface StateDictEntry {
  readonly shape: readonly number[]
  readonly data: ArrayLike<number | bigint>
}

/** Values as they are on a device: float32, float64 on the reference; or of 16 bits. */
export type FloatEntry = Extract<SafetensorsEntry, { dtype: 'F64' | 'F32' | 'F16' | 'BF16' }>

/** Whether an entry's numbers are floating-point ones that can be read. */
export const isFloat = ({ dtype }: SafetensorsEntry): boolean => ['F64', 'F32', 'F16', 'BF16'].includes(dtype)

/** What is wrong with what a state dict holds under the name of a buffer, if anything is. */
export type BufferCheck = (entry: StateDictEntry) => string | undefined

/**
 * A part of a model. Its parameters are what `parameter()` made among its properties and those of the modules (and arrays of
 * modules) it holds, not in Maps, plain objects or #private fields; a parameter's name is the path to it, as in PyTorch ('layers.0.attn.query.linear.weight').
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

  /** How many numbers all parameters have together. */
  parameterCount(): number {
    return this.parameters().reduce((n, p) => n + p.size, 0)
  }

  /** Switches the module, and those within, to training (dropout drops) or, with false, to evaluation. */
  train(on = true): this {
    walk(this, '', (_, value) => {
      if (value instanceof Module) value.training = on
    })
    return this
  }

  /** The same as train(false). */
  eval(): this {
    return this.train(false)
  }

  /** The values of all parameters at the time of the call, by name: what writeSafetensors takes. */
  stateDict(): Promise<Map<string, FloatEntry>> {
    return entriesOf(this.namedParameters())
  }

  /**
   * Overwrites every parameter. Nothing is changed unless all names and shapes match, and the values of a parameter with two names are the same
   * under both; `strict: false` allows names the model lacks. First `prefix` is taken off the names that have it ('_orig_mod.', which
   * torch.compile puts there), and then `addPrefix` put before all.
   */
  loadStateDict(dict: StateDict, options: { strict?: boolean; prefix?: string; addPrefix?: string } = {}): void {
    checkOptions('loadStateDict', options, ['strict', 'prefix', 'addPrefix'])
    checkDict('loadStateDict', dict)
    const { strict = true, prefix = '', addPrefix = '' } = options
    for (const [name, text] of Object.entries({ prefix, addPrefix }))
      if (typeof text !== 'string') throw new Error(`loadStateDict: ${name} must be a text such as '_orig_mod.', not ${told(text)}`)
    const parameters = this.namedParameters()
    const words = { where: 'loadStateDict', saved: 'the state dict', owner: 'the model', part: 'parameter' }
    const advice = (): string => prefixAdvice([...parameters.keys()], [...dict.keys()])
    // Where a name is there with and without the prefix, the one with it is meant.
    const twice = [...dict.keys()].filter((name) => !name.startsWith(prefix) && dict.has(prefix + name))
    if (strict && twice.length > 0)
      throw new Error(`loadStateDict: the state dict has ${few(twice)} with and without the prefix ${quote(prefix)}`)
    const rename = (name: string): string => addPrefix + (name.startsWith(prefix) ? name.slice(prefix.length) : name)
    const meant = new Map(dict)
    for (const name of twice) meant.delete(name)
    const renamed = new Map([...meant].map(([name, entry]) => [rename(name), entry]))
    takeBuffers(this, renamed)
    writeAll(parameters, renamed, { ...words, advice }, strict)
  }

  /** What PyTorch keeps beside this module's parameters, by name: a state dict may hold it, and if it does it must be right. */
  buffers(): Record<string, BufferCheck> {
    return {}
  }

  /** Frees every parameter and its gradient, and the other tensors that it computes with. */
  dispose(): void {
    const held = new Set<Tensor>()
    walk(this, '', (_, value) => {
      if (value instanceof Tensor) held.add(value)
    })
    for (const t of held) {
      t.grad?.dispose()
      t.dispose()
    }
  }
}

/** Makes a module on a device that has no memory and computes nothing, for the names and shapes of its parameters. */
export const shapesOf = (make: () => Module): Map<string, Shape> => new Map([...outlineOf(make)].map(([name, { shape }]) => [name, shape]))

/** The same, as tensors without values: one with two names is the same under both. */
export const outlineOf = (make: () => Module): Map<string, Tensor> => outline(make).namedParameters()

/** The module itself. */
export function outline<M extends Module>(make: () => M): M {
  const before = getDevice()
  const kernels = new Proxy({} as Device['kernels'], { get: () => () => {} })
  setDevice({ ...before, kernels, allocate: () => null, free: () => {}, write: () => {} })
  try {
    return make()
  } finally {
    setDevice(before)
  }
}

/** A parameter whose first values are computed on the host, unless the device has no memory: a model is made there for its shapes alone. */
export function hostParameter(shape: Shape, values: () => ArrayLike<number>): Tensor {
  const p = parameter(empty(shape))
  if (p.storage !== null) p.device.write(p.storage, values())
  return p
}

/** A module may point back to one that holds it: what the path has come through already is no part of it. */
export function walk(value: unknown, path: string, visit: (path: string, value: unknown) => void, holders: readonly unknown[] = []): void {
  if (holders.includes(value)) return
  visit(path, value)
  if (!(value instanceof Module) && !Array.isArray(value)) return
  const within = [...holders, value]
  for (const name of Object.keys(value)) {
    const inner = (value as unknown as Record<string, unknown>)[name]
    if (typeof inner === 'object' && inner !== null) walk(inner, path ? `${path}.${name}` : name, visit, within)
  }
}

/** Checks the buffers of a module and its parts in a state dict, and takes them out of it. */
function takeBuffers(module: Module, dict: Map<string, StateDictEntry>): void {
  walk(module, '', (path, part) => {
    if (!(part instanceof Module)) return
    for (const [name, check] of Object.entries(part.buffers())) {
      const full = path ? `${path}.${name}` : name
      const entry = dict.get(full)
      const problem = entry && check(entry)
      if (problem) throw new Error(`loadStateDict: ${full} ${problem}`)
      dict.delete(full)
    }
  })
}

/** Reads all tensors as they are now. */
export async function entriesOf(tensors: ReadonlyMap<string, Tensor>): Promise<Map<string, FloatEntry>> {
  return new Map(await Promise.all([...tensors].map(async ([name, t]) => [name, await readEntry(name, t)] as const)))
}

/** Reads a tensor as it is now. */
export async function readEntry(name: string, t: Tensor): Promise<FloatEntry> {
  const shape = [...t.shape]
  if (t.half !== undefined) {
    const bytes = new Uint8Array((await t.readHalves()).buffer)
    return entryOf(t.half === 'float16' ? 'F16' : 'BF16', shape, partOf(bytes, 0, bytes.length), false) as FloatEntry
  }
  const data = await t.read()
  if (data instanceof Float64Array) return { dtype: 'F64', shape, data }
  if (data instanceof Float32Array) return { dtype: 'F32', shape, data }
  throw new Error(`${name} holds integers, not floating-point numbers`)
}

const few = (names: readonly string[]): string => {
  const shown = names.slice(0, 3).map((name) => clip(printable(name)))
  return shown.join(', ') + (names.length > 3 ? `, ... (${names.length})` : '')
}

const quote = (name: string): string => `'${clip(printable(name))}'`

/** What stands before most of the wanted names, up to a dot, where they are found; undefined if there is nothing such. */
export function prefixOf(wanted: readonly string[], found: readonly string[]): string | undefined {
  const names = new Set(wanted)
  const longest = wanted.reduce((length, name) => Math.max(length, name.length), 0)
  const counts = new Map<string, number>()
  for (const name of found) {
    const tail = Math.max(0, name.length - longest - 1)
    for (const start of [0, ...[...name.slice(tail).matchAll(/\./g)].map(({ index }) => tail + index + 1)])
      if (names.has(name.slice(start))) counts.set(name.slice(0, start), (counts.get(name.slice(0, start)) ?? 0) + 1)
  }
  const most = Math.min(wanted.length, found.length) / 2
  const [best, ...others] = [...counts].sort(([a, x], [b, y]) => y - x || a.length - b.length)
  // Of two that are as good neither is told, unless one has the other in it ('module.' and 'module.optimizer.m.').
  const rival = others.some(([prefix, count]) => count === best[1] && !prefix.includes(best[0]))
  if (best === undefined || best[1] <= most || (counts.get('') ?? 0) > most || rival) return undefined
  return best[0]
}

/** The option of loadStateDict with which most names fit, if they do. */
function prefixAdvice(parameters: readonly string[], saved: readonly string[]): string {
  const off = prefixOf(parameters, saved)
  const on = prefixOf(saved, parameters)
  const prefix = off ?? on
  if (prefix === undefined) return ''
  const names = new Set(parameters)
  const rename = (name: string): string => (off === undefined ? prefix + name : name.startsWith(prefix) ? name.slice(prefix.length) : name)
  const fitting = new Set(saved.map(rename).filter((name) => names.has(name))).size
  const more = fitting === parameters.length && saved.length > fitting ? ', strict: false' : ''
  const [option, how] = off === undefined ? ['addPrefix', 'put before'] : ['prefix', 'taken off']
  return `; with ${quote(prefix)} ${how} its names, ${fitting} of the model's ${parameters.length} are there: give { ${option}: ${quote(prefix)}${more} }`
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

export function checkDict(where: string, dict: unknown): void {
  if (!(dict instanceof Map))
    throw new Error(`${where}: needs a Map from names to { shape, data }, such as readSafetensors(bytes).tensors, not ${told(dict)}`)
}

/** Overwrites all tensors with what was saved; nothing is changed unless all names, shapes and kinds of numbers match. */
export function writeAll(
  tensors: ReadonlyMap<string, Tensor>,
  dict: StateDict,
  { where, saved, owner, part, advice }: { where: string; saved: string; owner: string; part: string; advice?: () => string },
  strict = true,
): void {
  checkDict(where, dict)
  const missing = [...tensors.keys()].filter((name) => !dict.has(name))
  if (missing.length > 0) throw new Error(`${where}: ${saved} lacks ${few(missing)}${advice?.() ?? ''}`)
  const extra = [...dict.keys()].filter((name) => !tensors.has(name))
  if (extra.length > 0 && strict) throw new Error(`${where}: ${owner} has no ${part} ${few(extra)}`)
  const first = new Map<unknown, string>()
  for (const [name, t] of tensors) {
    const { shape, data } = dict.get(name)!
    if (!sameShape(shape, t.shape)) throw new Error(`${where}: ${name} has shape ${show(shape)}, ${owner} expects ${show(t.shape)}`)
    if (t.half !== undefined)
      throw new Error(
        `${where}: ${name} is a matrix of ${t.dtype}, which is made once; open the model without \`frozen\` to load others into it`,
      )
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
