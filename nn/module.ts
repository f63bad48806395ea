import { noGrad } from '../engine/autograd.ts'
import type { HostArray } from '../engine/devices/device.ts'
import { sameShape, show } from '../engine/shape.ts'
import { Tensor } from '../engine/tensor.ts'

/** What a state dict is loaded from: anything with a shape and numbers, such as readSafetensors(...).tensors. */
export type StateDict = ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }>

/**
 * A part of a model. Its parameters are the tensors with requiresGrad among its properties and those of the modules (and arrays
 * of modules) it holds; a parameter's name is the path to it, as in PyTorch ('layers.0.attn.query.linear.weight').
 */
export abstract class Module {
  /** Whether dropout drops; set by train() and eval() for the whole tree. */
  training = true

  namedParameters(): Map<string, Tensor> {
    const found = new Map<string, Tensor>()
    walk(this, '', (path, value) => {
      if (value instanceof Tensor && value.requiresGrad) found.set(path, value)
    })
    return found
  }

  parameters(): Tensor[] {
    return [...this.namedParameters().values()]
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

  /** The values of all parameters, by name. */
  async stateDict(): Promise<Map<string, { shape: readonly number[]; data: HostArray }>> {
    const entries = [...this.namedParameters()].map(async ([name, p]) => [name, { shape: p.shape, data: await p.read() }] as const)
    return new Map(await Promise.all(entries))
  }

  /** Overwrites every parameter. Nothing is changed unless all names and shapes match; `strict: false` allows names the model lacks. */
  loadStateDict(dict: StateDict, options: { strict?: boolean } = {}): void {
    const parameters = this.namedParameters()
    const few = (names: string[]): string => names.slice(0, 3).join(', ') + (names.length > 3 ? `, ... (${names.length})` : '')
    const missing = [...parameters.keys()].filter((name) => !dict.has(name))
    if (missing.length > 0) throw new Error(`loadStateDict: the state dict lacks ${few(missing)}`)
    const extra = [...dict.keys()].filter((name) => !parameters.has(name))
    if (extra.length > 0 && options.strict !== false) throw new Error(`loadStateDict: the model has no parameter ${few(extra)}`)
    for (const [name, p] of parameters) {
      const { shape, data } = dict.get(name)!
      if (!sameShape(shape, p.shape)) throw new Error(`loadStateDict: ${name} has shape ${show(shape)}, the model expects ${show(p.shape)}`)
      if (data.length !== p.size) throw new Error(`loadStateDict: ${name} has ${data.length} values for shape ${show(shape)}`)
      if (ArrayBuffer.isView(data) && !(data instanceof Float32Array || data instanceof Float64Array))
        throw new Error(`loadStateDict: ${name} is a ${data.constructor.name}, not floating-point numbers`)
    }
    noGrad(() => {
      for (const [name, p] of parameters) p.write(dict.get(name)!.data as ArrayLike<number>)
    })
  }

  /** Frees every parameter and its gradient. */
  dispose(): void {
    for (const p of this.parameters()) {
      p.grad?.dispose()
      p.dispose()
    }
  }
}

function walk(value: unknown, path: string, visit: (path: string, value: unknown) => void): void {
  visit(path, value)
  if (!(value instanceof Module) && !Array.isArray(value)) return
  for (const [name, inner] of Object.entries(value))
    if (typeof inner === 'object' && inner !== null) walk(inner, path ? `${path}.${name}` : name, visit)
}
