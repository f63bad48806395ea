/** Rules of a user's own: what a file exports, checked. */
import {
  type FastWeightState,
  type Form,
  forms,
  type Letter,
  type Rule,
  type RuleName,
  type RuleResult,
  rules,
  Tensor,
} from '../engine/index.ts'
import { show } from '../engine/shape.ts'
import { ClaimError } from './claim.ts'
import { type Values, valueKinds } from './context.ts'

/** A rule of one's own, as `defineRule` takes it: with it come the claims that all rules have. */
export interface OwnRule extends Partial<Pick<Rule, 'title' | 'source' | 'equation' | 'forms' | 'run' | 'eps' | 'normalise'>> {
  /** Short, unique: 'my-rule'. */
  readonly name: string
  /** Each input's axes by letter (B batch, T time, H heads, K key width, V value width, N and M small numbers) and kind of values. */
  readonly inputs: Rule['inputs']
  /** Each part of the state and its axes. It is zero at first. */
  readonly state: Readonly<Record<string, readonly Letter[]>>
  /** What an initial state is drawn as, where that isn't 'any': { z: 'feature' }. */
  readonly stateValues?: Readonly<Record<string, Values>>
  /** One token, by composed ops of the engine: the specification. */
  step(
    state: Record<string, Tensor>,
    token: Record<string, Tensor>,
    options: Parameters<Rule['step']>[2],
  ): { y: Tensor; state: Record<string, Tensor> }
  /** An input in which y is linear from a zero state, if there is one. */
  readonly linear?: string
  /** A rule of this package that this one equals; with all of its inputs, computed from these, where they aren't the same. */
  readonly equals?: RuleName | { readonly rule: RuleName; inputs(inputs: Record<string, Tensor>): Record<string, Tensor> }
}

/** What the claims of the family are made of. */
export interface FamilyRule extends Rule {
  readonly name: string
  readonly stateValues?: Readonly<Record<string, Values>>
  readonly linear?: string
  readonly equals?: { readonly rule: RuleName; inputs(inputs: Record<string, Tensor>): Record<string, Tensor> }
  /** Whether `run` knows mask and reset, as the rules of this package do. */
  readonly flags: boolean
  /** Whether claims take a large eps instead of the rule's own. */
  readonly wide?: boolean
  /** Whether a gate of minus infinity forgets everything. */
  readonly forgets: boolean
}

/** Types a rule; throws a ClaimError where something is missing or of the wrong kind. */
export function defineRule(rule: OwnRule): OwnRule {
  checkRule(rule, `rule '${rule?.name}'`)
  return rule
}

const known = [
  ...['name', 'title', 'source', 'equation', 'inputs', 'state', 'stateValues', 'step', 'run', 'forms'],
  ...['eps', 'normalise', 'linear', 'equals'],
]
const letters = 'BTHKVNM'

/** The rule as the family's claims need it, with a step and a run whose results are checked. `where` begins the message of an error. */
export function checkRule(rule: OwnRule, where: string): FamilyRule {
  const fail = (what: string): never => {
    throw new ClaimError(`${where}: ${what}`)
  }
  if (typeof rule !== 'object' || rule === null) fail(`expected an object, got ${rule === null ? 'null' : typeof rule}`)
  for (const key of Object.keys(rule)) if (!known.includes(key)) fail(`unknown property '${key}' (a rule has ${known.join(', ')})`)
  if (typeof rule.name !== 'string' || !/^[\w-]+$/.test(rule.name)) fail("'name' must be a word of letters, digits, - and _")
  if (rule.name in rules) fail(`the name '${rule.name}' is taken by a rule of this package`)
  if (typeof rule.step !== 'function') fail("'step' must be a function (state, token, options) => { y, state }")
  if (rule.run !== undefined && typeof rule.run !== 'function') fail("'run' must be a function (inputs, state, options) => { y, state }")
  const axes = (what: string, shape: unknown): void => {
    if (!Array.isArray(shape) || shape.some((letter) => !letters.includes(letter) || letter.length !== 1))
      fail(`${what} must be a list of axes out of ${[...letters].join(' ')}, like ['B', 'T', 'H', 'K']`)
  }
  const kind = (what: string, values: unknown, shape: readonly string[]): void => {
    if (!valueKinds.includes(values as Values)) fail(`the values of ${what} must be one of ${valueKinds.join(', ')}, not '${values}'`)
    if (values === 'matrix' && (shape.length < 2 || shape.at(-1) !== shape.at(-2)))
      fail(`${what} holds matrices and has axes [${shape}]: the last two must be the same`)
  }
  if (typeof rule.inputs !== 'object' || rule.inputs === null) fail("'inputs' must be { name: { shape, values } }")
  for (const [name, input] of Object.entries(rule.inputs)) {
    axes(`the shape of input '${name}'`, input?.shape)
    kind(`input '${name}'`, input.values, input.shape)
    const [B, T] = [input.shape.indexOf('B'), input.shape.indexOf('T')]
    if (B > 0 || (T >= 0 && (T !== 1 || B !== 0))) fail(`input '${name}' has axes [${input.shape}]: B comes first, T second`)
  }
  const timed = Object.values(rule.inputs).find(({ shape }) => shape.includes('T'))
  if (!timed) fail("no input has the axes 'B', 'T'")
  if (typeof rule.state !== 'object' || rule.state === null) fail("'state' must be { name: axes }")
  for (const [name, shape] of Object.entries(rule.state)) {
    axes(`the shape of '${name}' in the state`, shape)
    if (shape[0] !== 'B' || shape.includes('T')) fail(`'${name}' in the state has axes [${shape}]: B comes first, and there is no T`)
    if (name in rule.inputs) fail(`'${name}' is both an input and a part of the state`)
  }
  const { stateValues = {} } = rule
  for (const [name, values] of Object.entries(stateValues)) {
    if (!(name in rule.state)) fail(`'stateValues' names '${name}', which 'state' doesn't list`)
    kind(`'${name}' in the state`, values, rule.state[name])
  }
  if (rule.forms !== undefined && rule.run === undefined) fail("has 'forms' but no 'run'")
  if (rule.forms?.length === 0) fail(`'forms' is empty: 'run' would never be checked (${forms.join(', ')})`)
  for (const form of rule.forms ?? []) if (!forms.includes(form)) fail(`unknown form '${form}' (${forms.join(', ')})`)
  if (rule.linear !== undefined && !(rule.linear in rule.inputs)) fail(`'linear' names '${rule.linear}', which isn't an input`)
  const { equals } = rule
  const equal = typeof equals === 'string' ? { rule: equals, inputs: (inputs: Record<string, Tensor>) => inputs } : equals
  if (equal && !(equal.rule in rules)) fail(`'equals' names '${equal.rule}'; the rules are ${Object.keys(rules).join(', ')}`)
  if (equal && typeof equal.inputs !== 'function') fail("'equals' must be a rule's name, or { rule, inputs: (inputs) => its inputs }")
  /** An input that is left out would have a default, and the comparison be one with another rule. */
  const complete = (inputs: object): void => {
    const [got, wanted] = [Object.keys(inputs), Object.keys(rules[equal!.rule].inputs)]
    if (got.length !== wanted.length || wanted.some((name) => !got.includes(name)))
      fail(`'equals' gives ${equal!.rule} the inputs ${got.join(', ')}, and it has ${wanted.join(', ')}`)
  }
  if (typeof equals === 'string') complete(rule.inputs)
  const mapped = (inputs: Record<string, Tensor>): Record<string, Tensor> => {
    const result: unknown = equal!.inputs(inputs)
    if (typeof result !== 'object' || result === null || !Object.values(result).every((value) => value instanceof Tensor))
      fail("the 'inputs' of 'equals' must return { name: tensor }")
    complete(result as object)
    return result as Record<string, Tensor>
  }

  /** y and the state must have the axes of the rule, with the sizes of what went in. */
  const checked = (what: string, result: unknown, sizes: Record<string, number>): RuleResult => {
    const { y, state } = (typeof result === 'object' && result !== null ? result : {}) as { y?: unknown; state?: Record<string, unknown> }
    if (!(y instanceof Tensor) || typeof state !== 'object' || state === null) return fail(`${what} must return { y, state }, y a tensor`)
    const wanted = what === 'run' ? ['B', 'T', 'H', 'V'] : ['B', 'H', 'V']
    const expect = (name: string, t: unknown, axes: readonly string[]): void => {
      if (!(t instanceof Tensor)) fail(`${what} returns a state without '${name}'`)
      else if (t.shape.length !== axes.length || axes.some((letter, i) => letter in sizes && t.shape[i] !== sizes[letter]))
        fail(
          `${what} returns ${name} ${show(t.shape)}, expected [${axes.map((letter) => (letter in sizes ? `${letter}=${sizes[letter]}` : letter))}]`,
        )
    }
    expect('y', y, wanted)
    for (const [name, axes] of Object.entries(rule.state)) expect(name, state[name], axes)
    for (const name of Object.keys(state))
      if (!(name in rule.state)) fail(`${what} returns a state with '${name}', which 'state' doesn't list`)
    return result as RuleResult
  }
  const sizesOf = (inputs: Record<string, Tensor>, step: boolean): Record<string, number> =>
    Object.fromEntries(
      Object.entries(rule.inputs).flatMap(([name, { shape }]) => {
        const axes = step ? shape.filter((letter) => letter !== 'T') : shape
        return axes.map((letter, i) => [letter, inputs[name].shape[i]])
      }),
    )
  const { step, run, eps, normalise, linear } = rule
  return {
    name: rule.name,
    title: rule.title ?? rule.name,
    source: rule.source ?? where,
    equation: rule.equation ?? '(S_{t-1}, x_t) \\mapsto (y_t, S_t)',
    inputs: rule.inputs,
    state: rule.state as Rule['state'],
    forms: run ? (rule.forms ?? (['recurrent'] satisfies Form[])) : [],
    eps,
    normalise,
    linear,
    stateValues,
    equals: equal && { rule: equal.rule, inputs: mapped },
    flags: false,
    forgets: false,
    step: (state, token, options) => checked('step', step(state as never, token, options), sizesOf(token, true)),
    run: (inputs, state: FastWeightState | undefined, options) => checked('run', run!(inputs, state, options), sizesOf(inputs, false)),
  }
}
