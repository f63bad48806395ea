/** Our own rules on a device as an implementation: what a call should have been answered, and an adapter that is right. */
import {
  add,
  type Device,
  type FastWeightState,
  mul,
  noGrad,
  type Rule,
  rules,
  scope,
  spreadHeads,
  sum,
  type Tensor,
  tensor,
} from '../engine/index.ts'
import { withDevice } from './context.ts'
import { type Ability, type Adapter, type Arrays, abilities, type CallOptions } from './implementation.ts'

/** Every rule in all of its forms, with all options, on a device that is open. */
export function adapterOf(device: Device): Adapter {
  const options = Object.keys(abilities) as Ability[]
  const answer = async (body: () => Record<string, Tensor>): Promise<Arrays> => {
    const results = Object.entries(withDevice(device, () => scope(body)))
    const arrays = await Promise.all(results.map(async ([name, x]) => [name, { shape: x.shape, data: await x.read() }] as const))
    for (const [, x] of results) x.dispose()
    return Object.fromEntries(arrays)
  }
  return {
    name: `fastweights, ${device.description}`,
    dtype: device.double ? 'float64' : 'float32',
    rules: Object.fromEntries(Object.entries<Rule>(rules).map(([name, { forms }]) => [name, { forms, options }])),
    forward: (name, inputs, options) => answer(() => noGrad(() => outputsOf(name, tensorsOf(inputs, device), options))),
    backward: (name, inputs, options) =>
      answer(() => {
        const tensors = tensorsOf(inputs, device)
        const { inputs: table, state } = rules[name as 'sum'] as Rule
        const leaves = [...Object.keys(table), ...Object.keys(state).map((part) => `${part}0`)].filter((leaf) => tensors[leaf])
        for (const leaf of leaves) tensors[leaf].requiresGrad = true
        Object.entries(outputsOf(name, tensors, options))
          .filter(([output, y]) => y.requiresGrad && tensors[`d${output}`])
          .map(([output, y]) => sum(mul(y, tensors[`d${output}`])))
          .reduce((a, b) => add(a, b))
          .backward()
        return Object.fromEntries(leaves.map((leaf) => [`d${leaf}`, tensors[leaf].grad!]))
      }),
  }
}

/** Flags are int32. */
const tensorsOf = (arrays: Arrays, device: Device): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(arrays).map(([name, { shape, data }]) => [name, tensor(data, { shape: [...shape], device })]))

function outputsOf(name: string, tensors: Record<string, Tensor>, options: CallOptions): Record<string, Tensor> {
  const rule: Rule = rules[name as keyof typeof rules]
  const { mask, reset } = tensors
  const withHeads = Object.keys(rule.inputs).filter((input) => rule.inputs[input].shape[2] === 'H')
  // Heads of queries and keys may be shared by values.
  const H = Math.max(...withHeads.map((input) => tensors[input].shape[2]))
  const inputs = Object.fromEntries(
    Object.keys(rule.inputs).map((input) => [input, withHeads.includes(input) ? spreadHeads(tensors[input], H) : tensors[input]]),
  )
  const parts = Object.keys(rule.state)
  const initial = Object.fromEntries(parts.flatMap((part) => (tensors[`${part}0`] ? [[part, tensors[`${part}0`]]] : [])))
  const { y, state } = rule.run(inputs, Object.keys(initial).length > 0 ? (initial as unknown as FastWeightState) : undefined, {
    ...options,
    mask,
    reset,
  })
  return { y, ...state }
}
