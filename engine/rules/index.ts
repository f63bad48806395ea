/** The table of rules, and the recurrence of any rule by its step alone. */
import type { Device } from '../devices/device.ts'
import { add, affine, mul } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, type RuleOptions, tokenFlags } from '../ops/fast-weights.ts'
import { concat, reshape, slice } from '../ops/movement.ts'
import type { Shape } from '../shape.ts'
import { getDevice, type Tensor, tensor, zeros } from '../tensor.ts'
import { deltaRules } from './delta.ts'
import { dplrRules } from './dplr.ts'
import { mesaRules } from './mesa.ts'
import { ojaRules } from './oja.ts'
import { type Letter, type Rule, type RuleResult, stretch } from './rule.ts'
import { sumRules } from './sum.ts'

/** Every rule, by name. */
export const rules = { ...sumRules, ...deltaRules, ...ojaRules, ...dplrRules, ...mesaRules } as const satisfies Record<string, Rule>
export type RuleName = keyof typeof rules

/** The state before the first token: zeros. */
export function initialState(
  rule: Pick<Rule, 'state'>,
  sizes: Readonly<Partial<Record<Letter, number>>>,
  device: Device = getDevice(),
): FastWeightState {
  const shape = (letters: readonly Letter[]): Shape => letters.map((letter) => sizes[letter]!)
  return Object.fromEntries(Object.entries(rule.state).map(([name, letters]) => [name, zeros(shape(letters), device)])) as never
}

/**
 * A rule by its step alone: the loop over tokens, in composed ops on any device, with gradients through all of it. Slow, and the
 * specification of `run`. inputs by name, as rule.inputs says; options as for the fused forms (form and chunk mean nothing here).
 */
export function runSteps(
  rule: Pick<Rule, 'inputs' | 'state' | 'step' | 'eps' | 'normalise'>,
  inputs: Record<string, Tensor>,
  state?: FastWeightState,
  options: RuleOptions & { eps?: number } = {},
): RuleResult {
  const { scale = 1, eps = rule.eps ?? 0, mask, reset } = options
  const extra = Object.keys(inputs).find((name) => !(name in rule.inputs))
  if (extra !== undefined) throw new Error(`runSteps: the rule has no input '${extra}' (it has ${Object.keys(rule.inputs).join(', ')})`)
  const sizes = checkCall(
    'runSteps',
    mapValues(rule.inputs, ({ shape }, name) => [inputs[name], shape] as const),
    options,
    ['eps'],
  )
  const { B, T } = sizes
  const beside = Object.values(inputs)[0]
  const { device } = beside
  if (state)
    checkState(
      'runSteps',
      state,
      mapValues(rule.state, (letters) => letters.map((letter) => sizes[letter])),
      beside,
    )
  let current = state ?? initialState(rule, sizes, device)
  const perRow = (name: string, flags: Tensor, t: number): { all: boolean; none: boolean; on: Tensor; off: Tensor } => {
    const values = Array.from({ length: B }, (_, b) => tokenFlags('runSteps', name, flags, B, T)[b * T + t])
    const on = tensor(Float32Array.from(values), { shape: [B], device })
    return { all: values.every((x) => x === 1), none: values.every((x) => x === 0), on, off: affine(on, -1, 1) }
  }
  const ys: Tensor[] = []
  for (let t = 0; t < T; t++) {
    const token = mapValues(inputs, (x, name) => {
      const axis = rule.inputs[name].shape.indexOf('T')
      return axis < 0
        ? x
        : reshape(
            slice(x, axis, t, t + 1),
            x.shape.filter((_, i) => i !== axis),
          )
    })
    const begins = reset && perRow('reset', reset, t)
    if (begins && !begins.none) current = mapState(current, (x) => mul(x, stretch(begins.off, x.shape.length)))
    const next = rule.step(current, token, { scale, eps, normalise: rule.normalise ?? false })
    const real = mask && perRow('mask', mask, t)
    const before = current
    current =
      real && !real.all
        ? mapState(next.state, (x, name) =>
            add(mul(x, stretch(real.on, x.shape.length)), mul(before[name]!, stretch(real.off, x.shape.length))),
          )
        : next.state
    ys.push(reshape(next.y, [B, 1, ...next.y.shape.slice(1)]))
  }
  return { y: concat(ys, 1), state: current }
}

const mapValues = <X, Y>(record: Readonly<Record<string, X>>, f: (x: X, name: string) => Y): Record<string, Y> =>
  Object.fromEntries(Object.entries(record).map(([name, x]) => [name, f(x, name)]))

const mapState = (state: FastWeightState, f: (x: Tensor, name: keyof FastWeightState) => Tensor): FastWeightState =>
  mapValues(state as unknown as Record<string, Tensor>, (x, name) => f(x, name as keyof FastWeightState)) as unknown as FastWeightState
