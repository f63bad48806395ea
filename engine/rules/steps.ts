/** The recurrence of any rule by its step alone. */
import type { Device } from '../devices/device.ts'
import { where } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, type RuleOptions } from '../ops/fast-weights.ts'
import { concat, reshape, slice } from '../ops/movement.ts'
import type { Shape } from '../shape.ts'
import { full, getDevice, type Tensor, tensor } from '../tensor.ts'
import { type Letter, type Rule, type RuleResult, stretch, unpadded } from './rule.ts'

/** The state before the first token: zeros, or what the rule says is empty. */
export function initialState(
  rule: Pick<Rule, 'state' | 'empty'>,
  sizes: Readonly<Partial<Record<Letter, number>>>,
  device: Device = getDevice(),
): FastWeightState {
  const shape = (letters: readonly Letter[]): Shape => letters.map((letter) => sizes[letter]!)
  return Object.fromEntries(
    Object.entries(rule.state).map(([name, letters]) => [name, full(shape(letters), emptyOf(rule, name), device)]),
  ) as never
}

/** What a part of the state holds where nothing has been. */
const emptyOf = ({ empty }: Pick<Rule, 'empty'>, part: string): number => empty?.[part as keyof FastWeightState] ?? 0

/**
 * A rule by its step alone: the loop over tokens, in composed ops on any device, with gradients through all of it. Slow, and the
 * specification of `run`. inputs by name, as rule.inputs says; options as for the fused forms (form and chunk mean nothing here).
 */
export function runSteps(
  rule: Pick<Rule, 'inputs' | 'state' | 'empty' | 'step' | 'eps' | 'normalise'>,
  inputs: Record<string, Tensor>,
  state?: FastWeightState,
  options: RuleOptions & { eps?: number } = {},
  op = 'runSteps',
): RuleResult {
  const { scale = 1, eps = rule.eps ?? 0, mask, reset } = options
  const extra = Object.keys(inputs).find((name) => !(name in rule.inputs))
  if (extra !== undefined) throw new Error(`${op}: the rule has no input '${extra}' (it has ${Object.keys(rule.inputs).join(', ')})`)
  const sizes = checkCall(
    op,
    mapValues(rule.inputs, ({ shape }, name) => [inputs[name], shape] as const),
    options,
    ['eps'],
  )
  const { B, T } = sizes
  const beside = Object.values(inputs)[0]
  const { device } = beside
  if (state)
    checkState(
      op,
      state,
      mapValues(rule.state, (letters) => letters.map((letter) => sizes[letter])),
      beside,
    )
  let current = state ?? initialState(rule, sizes, device)
  /** The flags of token t, [B]; undefined where all are `usual`. */
  const flagsAt = (flags: Tensor | undefined, t: number, usual: number): Tensor | undefined => {
    const values = flags && Int32Array.from({ length: B }, (_, b) => flags.indices![b * T + t])
    return values?.some((x) => x !== usual) ? tensor(values, { shape: [B], device }) : undefined
  }
  const ys: Tensor[] = []
  for (let t = 0; t < T; t++) {
    const begins = flagsAt(reset, t, 0)
    if (begins) current = mapState(current, (x, part) => where(stretch(begins, x.shape.length), emptyOf(rule, part), x))
    // A step on padding is one on zeros, from a state of zeros.
    const real = flagsAt(mask, t, 1)
    const token = mapValues(inputs, (x, name) => {
      const axis = rule.inputs[name].shape.indexOf('T')
      if (axis < 0) return x
      const shape = x.shape.filter((_, i) => i !== axis)
      return unpadded(reshape(slice(x, axis, t, t + 1), shape), real)
    })
    const before = current
    const next = rule.step(
      mapState(before, (x) => unpadded(x, real)),
      token,
      { scale, eps, normalise: rule.normalise ?? false },
    )
    current = real ? mapState(next.state, (x, name) => where(stretch(real, x.shape.length), x, before[name]!)) : next.state
    ys.push(reshape(unpadded(next.y, real), [B, 1, ...next.y.shape.slice(1)]))
  }
  return { y: concat(ys, 1), state: current }
}

const mapValues = <X, Y>(record: Readonly<Record<string, X>>, f: (x: X, name: string) => Y): Record<string, Y> =>
  Object.fromEntries(Object.entries(record).map(([name, x]) => [name, f(x, name)]))

const mapState = (state: FastWeightState, f: (x: Tensor, name: keyof FastWeightState) => Tensor): FastWeightState =>
  mapValues(state as unknown as Record<string, Tensor>, (x, name) => f(x, name as keyof FastWeightState)) as unknown as FastWeightState
