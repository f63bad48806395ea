/** The recurrence of any rule by its step alone. */
import type { Device } from '../devices/device.ts'
import { where } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, type RuleOptions } from '../ops/fast-weights.ts'
import { scan } from '../scan.ts'
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
 * specification of `run`. inputs by name, as rule.inputs says; options as for the fused forms, but that form means nothing, and of what the steps
 * make for the backward pass everything is kept, or with chunk C the state before each C tokens alone: see `scan`.
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
  /** The flags of token t, [B]; undefined where all are `usual`. */
  const flagsAt = (flags: Tensor | undefined, t: number, usual: number): Tensor | undefined => {
    const values = flags && Int32Array.from({ length: B }, (_, b) => flags.indices![b * T + t])
    return values?.some((x) => x !== usual) ? tensor(values, { shape: [B], device }) : undefined
  }
  const isShared = (name: string): boolean => !rule.inputs[name].shape.includes('T')
  const shared = Object.fromEntries(Object.entries(inputs).filter(([name]) => isShared(name)))
  const perToken = Object.fromEntries(Object.entries(inputs).filter(([name]) => !isShared(name)))
  const before = (state ?? initialState(rule, sizes, device)) as unknown as StateParts
  // A part that is there but undefined is absent.
  const begin = mapValues(rule.state, (_, part) => before[part])
  return scan(
    (last: StateParts, token, t) => {
      const begins = flagsAt(reset, t, 0)
      const current = begins ? mapValues(last, (x, part) => where(stretch(begins, x.shape.length), emptyOf(rule, part), x)) : last
      // A step on padding is one on zeros, from a state of zeros.
      const real = flagsAt(mask, t, 1)
      const seen = mapValues(token, (x, name) => (isShared(name) ? x : unpadded(x, real)))
      const before = mapValues(current, (x) => unpadded(x, real)) as unknown as FastWeightState
      const next = rule.step(before, seen, { scale, eps, normalise: rule.normalise ?? false })
      const after = next.state as unknown as StateParts
      return {
        y: unpadded(next.y, real),
        state: real ? mapValues(after, (x, name) => where(stretch(real, x.shape.length), x, current[name])) : after,
      }
    },
    perToken,
    begin,
    { chunk: options.chunk ?? T, shared },
  ) as unknown as RuleResult
}

type StateParts = Record<string, Tensor>

const mapValues = <X, Y>(record: Readonly<Record<string, X>>, f: (x: X, name: string) => Y): Record<string, Y> =>
  Object.fromEntries(Object.entries(record).map(([name, x]) => [name, f(x, name)]))
