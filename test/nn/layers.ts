/** What the tests of layers share. */
import { gradCheck, type Tensor, tensor } from '../../engine/index.ts'
import type { Module } from '../../nn/index.ts'
import { uniforms } from '../helpers.ts'

/** Sets what a path of property names leads to. */
export function put(module: Module, path: string, value: Tensor): void {
  const names = path.split('.')
  const last = names.pop()!
  const holder = names.reduce((inner, name) => inner[name] as Record<string, unknown>, module as unknown as Record<string, unknown>)
  holder[last] = value
}

/** Every parameter of a model, moved a little from where it begins, has the gradients of finite differences of its loss. */
export async function checkGradients(model: Module, loss: () => Tensor): Promise<void> {
  // One parameter may have several names.
  const parameters = model.parameters().map((p) => ({
    p,
    paths: [...model.namedParameters()].filter(([, other]) => other === p).map(([path]) => path),
  }))
  for (const [i, { p }] of parameters.entries()) {
    const noise = uniforms(50 + i, p.size, -0.3, 0.3)
    p.write((await p.read()).map((x, j) => x + noise[j]))
  }
  const values = await Promise.all(parameters.map(async ({ p }) => tensor(await p.read(), { shape: p.shape })))
  await gradCheck((...inputs) => {
    for (const [i, { paths }] of parameters.entries()) for (const path of paths) put(model, path, inputs[i])
    return loss()
  }, values)
}

export const rowsOf = (values: ArrayLike<number>, D: number): number[][] =>
  Array.from({ length: values.length / D }, (_, t) => Array.from({ length: D }, (_, d) => values[t * D + d]))

/** Sequences of these lengths one after the other, with padding before, between, inside and after, as the seed has it. */
export function layoutOf(lengths: number[], seed: number): { mask: Int32Array; reset: Int32Array; sequences: number[][] } {
  const mask: number[] = []
  const reset: number[] = []
  const pads = uniforms(seed, 100, 0, 1)
  const pad = (): void => {
    while (pads[mask.length] < 0.3) {
      mask.push(0)
      reset.push(0)
    }
  }
  const sequences = lengths.map((length, i) =>
    Array.from({ length }, (_, j) => {
      pad()
      mask.push(1)
      reset.push(i > 0 && j === 0 ? 1 : 0)
      return mask.length - 1
    }),
  )
  pad()
  return { mask: Int32Array.from(mask), reset: Int32Array.from(reset), sequences }
}
