/** What is claimed of an implementation by others beside the claims of this package, whose cases are shorter than its blocks may be. */
import { type Form, spreadHeads } from '../engine/index.ts'
import { type Bounds, type Case, type Claim, defineClaim } from './claim.ts'
import { builtIn } from './family.ts'
import { flag, int, oneOf, sizes } from './fields.ts'
import type { Implementation } from './implementation.ts'
import { everything, floorOf, runner } from './sides.ts'

const longest = 160

/** Gates forget at least a twentieth a token, so that gradients aren't differences of what all tokens add. */
const fading = (c: Case): Case & any => ({ ...c, interior: true })

const longBounds: Bounds = {
  float32: 3e-4,
  float64: 3e-9,
  reason:
    'a system of equations over as many tokens, as the parallel form of correcting rules solves it, loses digits; the largest seen among 40 cases of each rule is 5.5e-5',
}

/**
 * Claims about the rules that an implementation offers: sequences longer than the blocks that kernels work in, of rules without an erase vector of their
 * own; and values with more heads than queries and keys, where the option `heads` is offered.
 */
export function conformanceClaims(implementation: Implementation): Claim[] {
  return [...implementation.offers].flatMap(([name, { forms, options }]) => {
    const rule = builtIn.find((rule) => rule.name === name)!
    const common = {
      section: `${rule.title}, by others`,
      source: rule.source,
      floor: floorOf(rule),
      rules: [name],
    }
    const fields = { initial: flag, scale: oneOf(1, 0.5), decay: oneOf(1, 0.02), form: oneOf<Form>(...forms) }
    // As the family has it, a norm of nearly equal numbers would leave no room for rounding.
    const optionsOf = (c: Case & Record<string, any>) => ({ scale: c.scale, ...(rule.wide && { eps: 16 }) })
    const long = defineClaim({
      ...common,
      name: `${name}: long sequences = reference`,
      statement: `Sequences of up to ${longest} tokens, longer than the blocks that kernels work in, give what the float64 reference gives.`,
      equation: rule.equation,
      bounds: longBounds,
      fields: { ...sizes(rule, { B: 1, T: longest, width: 8 }), ...fields },
      left: (c: Case & any, x) => everything(rule, fading(c), x, runner(rule, c.form, optionsOf(c))),
      right: (c: Case & any, x) => x.on('reference', (x) => everything(rule, fading(c), x, runner(rule, 'recurrent', optionsOf(c)))),
    })
    const { q, k } = rule.inputs
    // What finds a stored value again may add to it: with an erase vector of its own the memory doubles with every token.
    const lengths = 'a' in rule.inputs ? [] : [long]
    if (!options.includes('heads') || [q, k].some((input) => input?.shape.join() !== 'B,T,H,K')) return lengths
    // N heads of queries and keys, M times as many of values.
    const shared = ['B', 'T', 'N', 'K'] as const
    const table = { ...rule, inputs: { ...rule.inputs, q: { ...q, shape: shared }, k: { ...k, shape: shared } } }
    const withHeads = (c: Case & any): Case & any => ({ ...c, H: c.N * c.M })
    return [
      ...lengths,
      defineClaim({
        ...common,
        name: `${name}: value heads share queries and keys`,
        statement: 'Head h of the values takes queries and keys of the head floor(h / M), where there are M times as many heads of values.',
        equation: 'f(q, k, v)_h = f\\bigl(q_{\\lfloor h / M \\rfloor}, k_{\\lfloor h / M \\rfloor}, v_h\\bigr)',
        fields: { ...sizes(rule, { T: 8, width: 5 }), H: int(1, 1), N: int(1, 2), M: int(1, 3), ...fields },
        left: (c: Case & any, x) => everything(table, withHeads(c), x, runner(rule, c.form, optionsOf(c))),
        right: (c: Case & any, x) =>
          x.on('reference', (x) =>
            everything(table, withHeads(c), x, ({ q, k, ...inputs }, state) => {
              const [queries, keys] = [q, k].map((heads) => spreadHeads(heads, c.N * c.M))
              return runner(rule, 'recurrent', optionsOf(c))({ q: queries, k: keys, ...inputs }, state)
            }),
          ),
      }),
    ]
  })
}
