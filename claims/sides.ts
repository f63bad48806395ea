/** What the sides of claims about rules are made of: inputs drawn by a rule's table, results and gradients by name. */
import {
  add,
  concat,
  type FastWeightState,
  type Form,
  mul,
  type Rule,
  type RuleName,
  type RuleOptions,
  type RuleResult,
  rules,
  runSteps,
  slice,
  sum,
  type Tensor,
  zeros,
} from '../engine/index.ts'
import type { Case, Side } from './claim.ts'
import type { Context, Values } from './context.ts'
import { standIn } from './implementation.ts'

export type Tensors = Record<string, Tensor>
/** What turns inputs and a state (undefined: zero) into outputs. */
export type Runner = (inputs: Tensors, state: FastWeightState | undefined) => RuleResult

/** `stateValues`: what an initial state is drawn as, by name, 'any' where it doesn't say; the rules of this package have `knownStates`. */
type RuleTable = Pick<Rule, 'inputs' | 'state'> & { readonly stateValues?: Readonly<Record<string, Values>> }

const knownStates: Record<string, Values> = { z: 'feature', A: 'matrix', a: 'positive', held: 'rate' }
const stateKind = ({ stateValues = knownStates }: RuleTable, name: string): Values => stateValues[name] ?? 'any'

const sizeOf = (c: Case, letters: readonly string[]): number[] => letters.map((letter) => c[letter] as unknown as number)

export interface Numbers {
  readonly values: Float64Array
  readonly shape: readonly number[]
}

/**
 * The numbers of the rule's inputs for the sizes of the case. `c.decay`, where there is one, multiplies the logarithms of gates; `c.interior`
 * keeps rates and gates away from the ends of their ranges, so that there is room for differences.
 */
export function inputNumbers(rule: RuleTable, c: Case, context: Context, suffix = ''): Record<string, Numbers> {
  const { decay = 1, interior = false } = c as { decay?: number; interior?: boolean }
  const adapt: Partial<Record<Values, (x: number) => number>> = {
    gate: (x) => x * decay - (interior ? 0.05 : 0),
    ...(interior && { rate: (x) => 0.05 + 0.9 * x }),
  }
  return Object.fromEntries(
    Object.entries(rule.inputs).map(([name, { shape, values: kind }]) => {
      const values = context.values(`${name}${suffix}`, sizeOf(c, shape), kind)
      const change = adapt[kind]
      return [name, { values: change ? values.map(change) : values, shape: sizeOf(c, shape) }]
    }),
  )
}

/** The numbers of an initial state, where the case has `initial`. */
export function stateNumbers(rule: RuleTable, c: Case, context: Context): Record<string, Numbers> | undefined {
  if (!c.initial) return undefined
  return Object.fromEntries(
    Object.entries(rule.state).map(([name, axes]) => {
      const shape = sizeOf(c, axes)
      return [name, { values: context.values(`${name}0`, shape, stateKind(rule, name)), shape }]
    }),
  )
}

const tensors = (numbers: Record<string, Numbers>, context: Context): Tensors =>
  Object.fromEntries(Object.entries(numbers).map(([name, { values, shape }]) => [name, context.from(values, shape)]))

export const drawInputs = (rule: RuleTable, c: Case, context: Context, suffix = ''): Tensors =>
  tensors(inputNumbers(rule, c, context, suffix), context)

export function drawState(rule: RuleTable, c: Case, context: Context): FastWeightState | undefined {
  const numbers = stateNumbers(rule, c, context)
  return numbers && (tensors(numbers, context) as unknown as FastWeightState)
}

/**
 * Claim.floor: 1 where a result is a sum of terms that are much larger than any result. A normalised output doesn't change with the length of
 * its query, so that gradients of queries cancel; a decay that all tokens share gets the sum of all their gradients; keys of any length
 * multiply terms by the square of it.
 */
export const floorOf = (rule: RuleTable): number =>
  Object.keys(rule.state).some((name) => stateKind(rule, name) === 'feature') ||
  Object.values(rule.inputs).some(({ shape }) => !shape.includes('T')) ||
  rule.inputs.k?.values === 'any'
    ? 1
    : 0.1

/** Sides run rules through here alone: another implementation may stand in for one. */
const whole = (rule: Rule, inputs: Tensors, state: FastWeightState | undefined, options: RuleOptions): RuleResult =>
  (standIn(rule, inputs) ?? rule.run)(inputs, state, options)

/** The rule in one of its forms, or by its `step`. */
export const runner =
  (rule: Rule, form: Form | 'step', options: RuleOptions = {}): Runner =>
  (inputs, state) =>
    form === 'step' ? runSteps(rule, inputs, state, { ...options, chunk: undefined }) : whole(rule, inputs, state, { ...options, form })

/** A rule of this package. */
export const call = (
  name: RuleName,
  inputs: Tensors,
  state?: FastWeightState,
  options: RuleOptions & { eps?: number; minibatch?: number } = {},
): RuleResult => whole(rules[name], inputs, state, options)

const resultsOf = ({ y, state }: RuleResult, context: Context): Tensors => ({ y, ...(context.has('final') && state) })

/** y and the last state. */
export const outputs = (rule: RuleTable, c: Case, context: Context, run: Runner): Side =>
  resultsOf(run(drawInputs(rule, c, context), drawState(rule, c, context)), context)

/**
 * y and the last state, and the gradients of every input and of the initial state from drawn cotangents of them; of an output that isn't
 * there (a state that no input reaches) none. Without gradients where what is checked has no backward pass.
 */
export function everything(rule: RuleTable, c: Case, context: Context, run: Runner): Side {
  if (!context.has('backward')) return outputs(rule, c, context, run)
  const state = drawState(rule, c, context)
  const initial = Object.fromEntries(Object.entries<Tensor>((state ?? {}) as never).map(([name, t]) => [`${name}0`, t]))
  const inputs = drawInputs(rule, c, context)
  return withGradients({ ...inputs, ...initial }, context, () => resultsOf(run(inputs, state), context))
}

/** What `run` makes of the leaves, and their gradients from drawn cotangents of it. */
export function withGradients(leaves: Tensors, context: Context, run: (leaves: Tensors) => Tensors): Side {
  for (const leaf of Object.values(leaves)) leaf.requiresGrad = true
  const results = run(leaves)
  const reached = Object.entries(results).filter(([, output]) => output.requiresGrad)
  reached
    .map(([name, output]) => sum(mul(output, context.tensor(`d${name}`, output.shape))))
    .reduce((a, b) => add(a, b))
    .backward()
  const gradients = Object.entries(leaves).map(([name, leaf]) => [`d${name}`, leaf.grad ?? zeros(leaf.shape, leaf.device)])
  return { ...results, ...Object.fromEntries(gradients) }
}

/** Of `everything` the gradients. */
export function gradients(rule: RuleTable, c: Case, context: Context, run: Runner): Side {
  context.need('backward')
  return Object.fromEntries(Object.entries(everything(rule, c, context, run)).filter(([name]) => name.startsWith('d')))
}

/** Elements [begin, end) along the axis of a letter, of the inputs that have it. */
export const cut = (rule: RuleTable, inputs: Tensors, letter: 'B' | 'T' | 'H', begin: number, end: number): Tensors =>
  Object.fromEntries(
    Object.entries(inputs).map(([name, x]) => {
      const axis = (rule.inputs[name].shape as readonly string[]).indexOf(letter)
      return [name, axis < 0 ? x : slice(x, axis, begin, end)]
    }),
  )

export const cutState = (rule: RuleTable, state: FastWeightState | undefined, letter: 'B' | 'H', begin: number, end: number) =>
  state &&
  (Object.fromEntries(
    Object.entries(state).map(([name, x]) => [
      name,
      slice(x as Tensor, (rule.state as Record<string, readonly string[]>)[name].indexOf(letter), begin, end),
    ]),
  ) as unknown as FastWeightState)

/** Results put together along an axis of y and of the state. */
export function join(results: readonly RuleResult[], axis: number, stateAxis: number): RuleResult {
  if (results.length === 1) return results[0]
  const names = Object.keys(results[0].state) as (keyof FastWeightState)[]
  return {
    y: concat(
      results.map(({ y }) => y),
      axis,
    ),
    state: Object.fromEntries(
      names.map((name) => [
        name,
        concat(
          results.map(({ state }) => state[name]!),
          stateAxis,
        ),
      ]),
    ) as unknown as FastWeightState,
  }
}

/** One piece after the other, each from the state that the one before left. */
export function inPieces(rule: RuleTable, cuts: readonly number[], run: (piece: number) => Runner): Runner {
  return (inputs, state) => {
    const ys: Tensor[] = []
    let current = state
    for (let i = 0; i + 1 < cuts.length; i++) {
      const { y, state: next } = run(i)(cut(rule, inputs, 'T', cuts[i], cuts[i + 1]), current)
      ys.push(y)
      current = next
    }
    return { y: concat(ys, 1), state: current! }
  }
}
