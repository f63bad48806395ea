/** What every rule of the family must fulfil, made from its table: the same claims for the rules of this package and for anybody's own. */
import fc from 'fast-check'
import {
  add,
  affine,
  concat,
  type FastWeightState,
  type Form,
  minimum,
  type Rule,
  type RuleResult,
  reshape,
  rules,
  slice,
  type Tensor,
  tensor,
  zeros,
} from '../engine/index.ts'
import { type Case, type Claim, defineClaim, type Fields, forward, nothing, type Side } from './claim.ts'
import type { Context } from './context.ts'
import { differences, sample, sampled } from './differences.ts'
import { flag, int, oneOf, sizes } from './fields.ts'
import type { FamilyRule } from './rule.ts'
import {
  cut,
  cutState,
  drawInputs,
  drawState,
  everything,
  floorOf,
  gradients,
  inPieces,
  join,
  outputs,
  type Runner,
  runner,
  type Tensors,
} from './sides.ts'

type AnyForm = Form | 'step'
type FamilyCase = Case & Record<string, any>

/** What every rule must fulfil, for this one: forms, gradients, causality, states, padding. */
export function familyClaims(rule: FamilyRule): Claim[] {
  const { name, forms } = rule
  const runs: readonly AnyForm[] = [...forms, 'step']
  const gates = Object.entries(rule.inputs).filter(([, { values, shape }]) => values === 'gate' && shape.includes('T'))
  const gated = Object.values(rule.inputs).some(({ values }) => values === 'gate')
  const own = !rule.flags
  const common: Fields = {
    initial: flag,
    ...(own ? {} : { scale: oneOf(1, 0.5) }),
    ...(gated ? { decay: oneOf(1, 0.02, 30) } : {}),
    ...(forms.includes('chunk') ? { C: int(1, 16) } : {}),
  }
  const options = (c: FamilyCase) => ({
    scale: c.scale ?? 1,
    ...(c.C !== undefined && { chunk: c.C }),
    // Near 0, a logarithm or a quotient has derivatives that leave no room for differences; a norm of nearly equal numbers, none for rounding.
    ...((c.interior || rule.wide) && !own && rule.eps !== undefined && { eps: rule.wide ? 16 : 1.5 }),
  })
  const run = (form: AnyForm, c: FamilyCase): Runner => runner(rule, form, options(c))

  const claim = (
    what: string,
    rest: Pick<Claim, 'statement' | 'equation' | 'fields'> &
      Partial<Claim> & { left(c: FamilyCase, x: Context): Side; right(c: FamilyCase, x: Context): Side },
  ): Claim =>
    defineClaim({
      name: `${name}: ${what}`,
      section: rule.title,
      source: rule.source,
      floor: floorOf(rule),
      ...(name in rules && { rules: [name] }),
      ...rest,
    })

  const claims: Claim[] = []

  for (const form of forms) {
    claims.push(
      claim(`${form} = step`, {
        statement: `The ${form} form gives the outputs and the last state of the step, repeated.`,
        equation: rule.equation,
        fields: { ...sizes(rule), ...common },
        left: (c, x) => outputs(rule, c, x, run(form, c)),
        right: (c, x) => outputs(rule, c, x, run('step', c)),
      }),
      claim(`gradients of ${form} = autograd of step`, {
        statement: `The backward pass of the ${form} form gives what automatic differentiation of the step gives, for every input and the initial state, from cotangents of the outputs and the last state.`,
        equation:
          '\\frac{\\partial L}{\\partial x}\\Big|_{\\mathrm{' +
          form +
          '}} = \\frac{\\partial L}{\\partial x}\\Big|_{\\mathrm{step}},\\quad x \\in \\{' +
          texNames(rule) +
          '\\}',
        fields: { ...sizes(rule, { T: 7, width: 4 }), ...common },
        left: (c, x) => gradients(rule, c, x, run(form, c)),
        right: (c, x) => gradients(rule, c, x, run('step', c)),
      }),
    )
  }

  const small = sizes(rule, { T: 3, H: 1, width: 3 })
  claims.push(
    claim('gradients of step = differences', {
      statement: `Automatic differentiation of the step agrees with finite differences of sixth order in float64, for ${sampled} elements of each input and of the initial state, chosen anew for each case.`,
      equation:
        '\\frac{\\partial L}{\\partial x_i} = \\frac{1}{h}\\sum_{m=1}^{3} c_m\\,\\bigl(L(x + m h e_i) - L(x - m h e_i)\\bigr) + O(h^6)',
      bounds: {
        ...forward,
        reason:
          'the differences are taken in float64: about 4e-14 |L| of rounding and 3e-17 of the seventh derivative; the largest seen among 1,000 cases of each rule is 4.5e-12',
      },
      fields: { ...without(small, 'B'), initial: flag },
      // The step is ours, whatever stands in for the rule.
      rules: [],
      left: (c, x) => sample(c, x, gradients(rule, { ...c, B: 1, interior: true }, x, run('step', { ...c, interior: true }))),
      right: (c, x) =>
        x.on('reference', (x) =>
          differences(rule, { ...c, interior: true }, x, run(forms.includes('recurrent') ? 'recurrent' : 'step', { ...c, interior: true })),
        ),
    }),
  )

  if (forms.includes('chunk')) {
    claims.push(
      claim('any chunk length', {
        statement: 'The length of the chunks changes neither the outputs nor the last state nor any gradient.',
        equation: "\\mathrm{chunk}_{C}(x) = \\mathrm{chunk}_{C'}(x)",
        fields: { ...sizes(rule, { B: 1, T: 12, width: 4 }), ...common, C2: int(1, 16) },
        left: (c, x) => {
          x.need('chunk')
          return everything(rule, c, x, run('chunk', c))
        },
        right: (c, x) => everything(rule, c, x, run('chunk', { ...c, C: c.C2 })),
      }),
    )
  }

  claims.push(
    claim('state carried over a cut', {
      statement:
        'A sequence may be cut anywhere: the second piece, from the state that the first left, goes on as if there were no cut; each piece in any form, forward and backward.',
      equation: 'f(x_{1..T}, S_0) = f\\bigl(x_{t+1..T},\\, f(x_{1..t}, S_0)\\bigr)',
      fields: {
        ...sizes(rule, { B: 1, width: 4 }),
        ...common,
        T: int(2, 8),
        cut: int(0, 7),
        first: oneOf(...runs),
        second: oneOf(...runs),
      },
      left: (c, x) =>
        everything(
          rule,
          c,
          x,
          inPieces(rule, cutsOf(c), (i) => run(i === 0 ? c.first : c.second, c)),
        ),
      right: (c, x) => everything(rule, c, x, run(c.first, c)),
    }),
    claim('causal, to the bit', {
      statement: 'What follows a token has no influence on its output: not one bit changes when the later tokens do.',
      equation: "x_{1..t} = x'_{1..t} \\;\\Rightarrow\\; y_{1..t} = y'_{1..t}",
      relation: 'same bits',
      fields: { ...sizes(rule, { width: 5 }), ...common, T: int(2, 8), cut: int(0, 7), form: oneOf(...runs) },
      left: (c, x) => ({ y: past(c, run(c.form, c)(drawInputs(rule, c, x), drawState(rule, c, x))) }),
      right: (c, x) => {
        const [before, after] = [drawInputs(rule, c, x), drawInputs(rule, c, x, "'")]
        const t = cutOf(c)
        const mixed = Object.fromEntries(
          Object.entries(before).map(([input, b]) => {
            const axis = axisOf(rule, input, 'T')
            return [input, axis < 0 ? b : concat([slice(b, axis, 0, t), slice(after[input], axis, t, c.T)], axis)]
          }),
        )
        return { y: past(c, run(c.form, c)(mixed, drawState(rule, c, x))) }
      },
    }),
    claim('no gradient from the future', {
      statement: 'The gradient of the outputs up to a token is exactly zero for every later token.',
      equation: '\\frac{\\partial y_{t}}{\\partial x_s} = 0 \\quad (s > t)',
      bounds: nothing,
      fields: { ...sizes(rule, { width: 4 }), ...common, T: int(2, 7), cut: int(0, 11), form: oneOf(...runs) },
      left: (c, x) => futureGradients(rule, c, x, run(c.form, c)),
      right: (c, x) => Object.fromEntries(Object.entries(futureShapes(rule, c)).map(([input, shape]) => [input, zeros(shape, x.device)])),
    }),
    claim('sequences of a batch are independent', {
      statement: 'Two sequences in one batch give exactly what each gives alone.',
      equation: 'f(x^{(1)} \\oplus_B x^{(2)}) = f(x^{(1)}) \\oplus_B f(x^{(2)})',
      relation: 'same bits',
      fields: { ...without(sizes(rule, { T: 8, width: 5 }), 'B'), ...common, form: oneOf(...runs) },
      left: (c, x) => outputs(rule, { ...c, B: 2 }, x, run(c.form, c)),
      right: (c, x) => outputs(rule, { ...c, B: 2 }, x, apart(rule, 'B', run(c.form, c))),
    }),
    claim('heads are independent', {
      statement: 'Two heads give exactly what each gives alone.',
      equation: 'f(x^{(1)} \\oplus_H x^{(2)}) = f(x^{(1)}) \\oplus_H f(x^{(2)})',
      relation: 'same bits',
      fields: { ...without(sizes(rule, { T: 8, width: 5 }), 'H'), ...common, form: oneOf(...runs) },
      left: (c, x) => outputs(rule, { ...c, H: 2 }, x, run(c.form, c)),
      right: (c, x) => outputs(rule, { ...c, H: 2 }, x, apart(rule, 'H', run(c.form, c))),
    }),
    claim('device = reference', {
      statement: 'The device gives what the float64 reference gives: outputs, last state and every gradient, in every form.',
      equation: 'f_{\\mathrm{device}}(x) = f_{\\mathrm{reference}}(x)',
      needs: ['reference'],
      fields: { ...sizes(rule, { T: 20, width: 10 }), ...common, form: oneOf(...(forms.length > 0 ? forms : runs)) },
      left: (c, x) => everything(rule, c, x, run(c.form, c)),
      right: (c, x) => x.on('reference', (x) => everything(rule, c, x, run(c.form, c))),
    }),
  )

  if (forms.length > 0) {
    claims.push(
      claim('threads change nothing', {
        statement: 'One thread and several give the same bits: outputs, last state and every gradient.',
        equation: 'f_{1\\,\\mathrm{thread}}(x) = f_{N\\,\\mathrm{threads}}(x)',
        relation: 'same bits',
        needs: ['threads'],
        fields: { ...sizes(rule, { T: 36, H: 3, width: 28 }), ...common, form: oneOf(...forms) },
        left: (c, x) => everything(rule, c, x, run(c.form, c)),
        right: (c, x) => x.on('threads', (x) => everything(rule, c, x, run(c.form, c))),
      }),
      claim('fused multiply-add = plain', {
        statement: 'The build with fused multiply-add differs from the plain one by rounding alone.',
        equation: 'f_{\\mathrm{relaxed}}(x) = f_{\\mathrm{plain}}(x)',
        needs: ['plain', 'relaxed'],
        fields: { ...sizes(rule, { T: 20, width: 10 }), ...common, form: oneOf(...forms) },
        left: (c, x) => x.on('relaxed', (x) => everything(rule, c, x, run(c.form, c))),
        right: (c, x) => x.on('plain', (x) => everything(rule, c, x, run(c.form, c))),
      }),
    )
  }

  if (!own) {
    const padded: Fields = { ...sizes(rule, { T: 7, width: 4 }), ...common, form: oneOf(...runs), spoilt: flag }
    claims.push(
      claim('padding is skipped', {
        statement:
          'Tokens that the mask marks as padding change nothing, whatever they hold, NaN included: the others read, leave and receive what they would without them, and the padding receives no gradient.',
        equation: 'f(x, m) = f(x_{m_t = 1})',
        fields: padded,
        left: (c, x) =>
          everything(
            rule,
            c,
            x,
            realTokens(rule, c, x, (mask) => runner(rule, c.form, { ...options(c), mask })),
          ),
        right: (c, x) => everything(rule, c, x, perRow(rule, c, x, 'skip', run(c.form, c))),
      }),
      claim('packed sequences stay apart', {
        statement:
          'Where a reset begins a new sequence, all that came before is forgotten, a state of NaN included, as if each sequence ran alone.',
        equation: 'f(x^{(1)} \\oplus_T x^{(2)}, \\mathrm{reset}) = f(x^{(1)}, S_0) \\oplus_T f(x^{(2)}, 0)',
        fields: padded,
        left: (c, x) =>
          everything(rule, c, x, (inputs, state) => {
            const reset = flags(c, x, 'reset')
            const before = spoilt(c, x, state, (b) => reset.indices![b * c.T] === 1)
            return runner(rule, c.form, { ...options(c), reset })(inputs, before)
          }),
        right: (c, x) => everything(rule, c, x, perRow(rule, c, x, 'reset', run(c.form, c))),
      }),
    )
  }

  if (gates.length > 0) {
    /** The inputs with gates of minus infinity at one token. */
    const shut = (c: FamilyCase, x: Context, inputs: Tensors): Tensors => {
      const limit = Float64Array.from({ length: c.T }, (_, t) => (t === cutOf(c) - 1 ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY))
      const low = gates.map(([name, { shape }]) => [name, minimum(inputs[name], x.from(limit, [1, c.T, ...shape.slice(2).map(() => 1)]))])
      return { ...inputs, ...Object.fromEntries(low) }
    }
    claims.push(
      claim('a gate of -Infinity is exact', {
        statement: rule.forgets
          ? 'A gate whose logarithm is minus infinity at one token: everything before it is forgotten, a state of NaN included; nothing is NaN, forward or backward.'
          : 'A gate whose logarithm is minus infinity at one token: every form agrees with the step; nothing is NaN, forward or backward.',
        equation: rule.forgets
          ? '\\alpha_t = 0 \\;\\Rightarrow\\; f(x, S_0)_{\\ge t} = f(x_{\\ge t}, 0)'
          : '\\alpha_t = 0 \\;\\Rightarrow\\; f_{\\mathrm{form}}(x) = f_{\\mathrm{step}}(x)',
        fields: {
          ...sizes(rule, { T: 7, width: 4 }),
          ...common,
          cut: int(0, 11),
          form: oneOf(...runs),
          ...(rule.forgets && !own && { spoilt: flag }),
        },
        left: (c, x) =>
          everything(rule, c, x, (inputs, state) => {
            const before = spoilt(c, x, state, () => cutOf(c) === 1)
            return run(c.form, c)(shut(c, x, inputs), before)
          }),
        right: (c, x) =>
          everything(rule, c, x, (inputs, state) => {
            if (!rule.forgets) return run('step', c)(shut(c, x, inputs), state)
            const t = cutOf(c) - 1
            // The gate may do more than forget: HGRN-2 makes its keys of it.
            const shutOne = shut(c, x, inputs)
            const after = run(c.form, c)(cut(rule, shutOne, 'T', t, c.T), undefined)
            return t === 0 ? after : { y: concat([run(c.form, c)(cut(rule, shutOne, 'T', 0, t), state).y, after.y], 1), state: after.state }
          }),
      }),
    )
  }

  const linear = rule.linear
  if (linear !== undefined) {
    claims.push(
      claim(`linear in ${linear}`, {
        statement: `From a zero state, the outputs are linear in ${linear}.`,
        equation: `f(a\\,${linear} + b\\,${linear}') = a\\,f(${linear}) + b\\,f(${linear}')`,
        fields: { ...sizes(rule, { T: 8, width: 5 }), ...common, initial: fc.constant(false), form: oneOf(...runs) },
        left: (c, x) => {
          const inputs = drawInputs(rule, c, x)
          return { y: run(c.form, c)({ ...inputs, [linear]: mix(inputs[linear], drawInputs(rule, c, x, "'")[linear]) }, undefined).y }
        },
        right: (c, x) => {
          const inputs = drawInputs(rule, c, x)
          const [one, other] = [inputs[linear], drawInputs(rule, c, x, "'")[linear]]
          const y = (v: Tensor): Tensor => run(c.form, c)({ ...inputs, [linear]: v }, undefined).y
          return { y: mix(y(one), y(other)) }
        },
      }),
    )
  }

  if (rule.equals) {
    const { rule: other, inputs: mapped } = rule.equals
    const target: Rule = rules[other]
    for (const form of target.forms) {
      claims.push(
        claim(`= ${other}, ${form}`, {
          statement: `The step equals the ${form} form of ${other}: outputs, last state and every gradient.`,
          equation: target.equation,
          source: target.source,
          fields: { ...sizes(rule, { B: 1, T: 8, width: 4 }), ...common },
          left: (c, x) => everything(rule, c, x, run('step', c)),
          right: (c, x) => everything(rule, c, x, (inputs, state) => runner(target, form, options(c))(mapped(inputs), state)),
        }),
      )
    }
  }
  return claims
}

/** Of the rules that learn through a layer norm, its gain and bias. */
const innerNorm = ({ inputs }: Rule): boolean => 'w' in inputs && 'b' in inputs

/** The rules of this package as the family sees them. */
export const builtIn: readonly FamilyRule[] = Object.entries(rules as Record<string, Rule>).map(([name, rule]) => ({
  ...rule,
  name,
  flags: true,
  // These read the memory before it decays, or remember how long the sequence is.
  forgets: !['a', 'kappa', 'p', 'bonus', 'levels'].some((reader) => reader in rule.inputs),
  wide: innerNorm(rule),
  // Oja's rule reads its memory with v.
  linear: 'v' in rule.inputs && !name.endsWith('oja') && !innerNorm(rule) ? 'v' : undefined,
}))

const texNames = (rule: FamilyRule): string =>
  [...Object.keys(rule.inputs), ...Object.keys(rule.state).map((part) => `${part}_0`)]
    .map((input) =>
      input.replace(/^([a-z]{2,})([A-Z]?)/, (_, word, of) => (greek.has(word) ? `\\${word}` : `\\mathrm{${word}}`) + (of && `_{${of}}`)),
    )
    .join(', ')
const greek = new Set(['beta', 'kappa', 'lambda', 'alpha', 'gamma', 'eta', 'theta'])

const without = (fields: Fields, letter: string): Fields => Object.fromEntries(Object.entries(fields).filter(([name]) => name !== letter))

/** Where a case is cut: after so many tokens, from 1 to T - 1 (or T = 1). */
const cutOf = (c: FamilyCase): number => (c.T === 1 ? 1 : 1 + (c.cut % (c.T - 1)))
const cutsOf = (c: FamilyCase): number[] => [0, cutOf(c), c.T]
const past = (c: FamilyCase, { y }: RuleResult): Tensor => slice(y, 1, 0, cutOf(c))

const axisOf = (rule: FamilyRule, input: string, letter: string): number => (rule.inputs[input].shape as readonly string[]).indexOf(letter)

const mix = (a: Tensor, b: Tensor): Tensor => add(affine(a, 0.7), affine(b, -1.3))

function futureShapes(rule: FamilyRule, c: FamilyCase): Record<string, number[]> {
  const timed = Object.entries(rule.inputs).filter(([, { shape }]) => shape.includes('T'))
  return Object.fromEntries(
    timed.map(([input, { shape }]) => [input, shape.map((letter) => (letter === 'T' ? c.T - cutOf(c) : c[letter]))]),
  )
}

function futureGradients(rule: FamilyRule, c: FamilyCase, x: Context, run: Runner): Side {
  x.need('backward')
  const inputs = drawInputs(rule, c, x)
  for (const input of Object.values(inputs)) input.requiresGrad = true
  const y = past(c, run(inputs, drawState(rule, c, x)))
  y.backward(x.tensor('dy', y.shape))
  return Object.fromEntries(
    Object.keys(futureShapes(rule, c)).map((input) => {
      const { grad, shape, device } = inputs[input]
      return [input, slice(grad ?? zeros(shape, device), axisOf(rule, input, 'T'), cutOf(c), c.T)]
    }),
  )
}

/** Each of two sequences or heads alone, then put together. */
function apart(rule: FamilyRule, letter: 'B' | 'H', run: Runner): Runner {
  return (inputs, state) => {
    const each = [0, 1].map((i) => run(cut(rule, inputs, letter, i, i + 1), cutState(rule, state, letter, i, i + 1)))
    return letter === 'B' ? join(each, 0, 0) : join(each, 2, 1)
  }
}

/** Zeros and ones over [B, T], some of each; a mask has a one in every row. */
function flags(c: FamilyCase, x: Context, name: 'mask' | 'reset'): Tensor {
  const drawn = x.values(name, [c.B, c.T], 'rate')
  const values = Int32Array.from(drawn, (value, i) => Number(name === 'mask' ? value > 0.4 || i % c.T === c.seed % c.T : value > 0.7))
  return tensor(values, { shape: [c.B, c.T], device: x.device })
}

/** Without the tokens that the mask skips, or in pieces that begin where a reset says: row by row. */
function perRow(rule: FamilyRule, c: FamilyCase, x: Context, how: 'skip' | 'reset', run: Runner): Runner {
  const on = flags(c, x, how === 'skip' ? 'mask' : 'reset').indices!
  return (inputs, state) => {
    const rows = Array.from({ length: c.B as number }, (_, b) => {
      const [row, before] = [cut(rule, inputs, 'B', b, b + 1), cutState(rule, state, 'B', b, b + 1)]
      if (how === 'skip') {
        const parts = stretches(on.subarray(b * c.T, (b + 1) * c.T))
        const kept = Object.entries(row).map(([input, values]) => {
          const axis = axisOf(rule, input, 'T')
          return [input, axis < 0 ? values : pieces(values, axis, parts)]
        })
        return run(Object.fromEntries(kept), before)
      }
      const marked = Array.from({ length: c.T as number }, (_, t) => t).filter((t) => on[b * c.T + t] === 1)
      const cuts = [...new Set([0, ...marked, c.T as number])]
      return inPieces(rule, cuts, (i) => (piece, carried) => run(piece, on[b * c.T + cuts[i]] === 1 ? undefined : carried))(row, before)
    })
    // Rows without their padding have different lengths: their outputs follow one another.
    return join(rows, how === 'skip' ? 1 : 0, 0)
  }
}

/** The state, with NaN in the rows of the batch that `where` names, if the case says so; gradients pass. */
function spoilt(c: FamilyCase, x: Context, state: FastWeightState | undefined, where: (b: number) => boolean): FastWeightState | undefined {
  if (!c.spoilt || !state) return state
  const nothing = Float64Array.from({ length: c.B }, (_, b) => (where(b) ? NaN : 0))
  const parts = Object.entries(state).map(([part, values]) => [
    part,
    add(values, x.from(nothing, [c.B, ...values.shape.slice(1).map(() => 1)])),
  ])
  return Object.fromEntries(parts) as unknown as FastWeightState
}

/** The outputs of the tokens that aren't padding, row after row: [1, all of them, H, V]. */
function realTokens(rule: FamilyRule, c: FamilyCase, x: Context, run: (mask: Tensor) => Runner): Runner {
  const mask = flags(c, x, 'mask')
  const hold = (input: string, values: Tensor): Tensor => {
    if (!c.spoilt || axisOf(rule, input, 'T') < 0) return values
    const nothing = Float64Array.from(mask.indices!, (real) => (real === 1 ? 0 : NaN))
    return add(values, x.from(nothing, [c.B, c.T, ...values.shape.slice(2).map(() => 1)]))
  }
  return (inputs, state) => {
    const held = Object.fromEntries(Object.entries(inputs).map(([input, values]) => [input, hold(input, values)]))
    const { y, state: last } = run(mask)(held, state)
    const [, , H, V] = y.shape
    return { y: pieces(reshape(y, [1, c.B * c.T, H, V]), 1, stretches(mask.indices!)), state: last }
  }
}

/** Where runs of ones begin and end. */
function stretches(on: Int32Array): [begin: number, end: number][] {
  const found: [number, number][] = []
  for (const [i, value] of on.entries()) {
    if (value === 1 && on[i - 1] !== 1) found.push([i, i])
    if (value === 1) found[found.length - 1][1] = i + 1
  }
  return found
}

const pieces = (x: Tensor, axis: number, parts: readonly (readonly [number, number])[]): Tensor =>
  concat(
    parts.map(([begin, end]) => slice(x, axis, begin, end)),
    axis,
  )
