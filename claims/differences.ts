/** Gradients by finite differences, in float64, of a whole rule in few calls: each perturbation is one more sequence of a batch. */
import { add, concat, matmul, mul, type Rule, reshape, sum, type Tensor } from '../engine/index.ts'
import type { Case, Side } from './claim.ts'
import type { Context } from './context.ts'
import { inputNumbers, type Numbers, type Runner, stateNumbers } from './sides.ts'

/**
 * f'(x) = sum_m c_m (f(x + m h) - f(x - m h)) / h, m = 1..3. The error is h^6 f^(7) / 140 = 3e-17 f^(7); what rounding adds is about
 * 1.5 |f| 1.1e-16 / h = 4e-14 |f|.
 */
const h = 1 / 256
const weights = [3 / 4, -3 / 20, 1 / 60]
const stencil = weights.flatMap((c, m) => [
  [m + 1, c],
  [-m - 1, -c],
])

/** d(sum of all outputs times their cotangents)/d(every element of every input and of the state), for one sequence. */
export function differences(rule: Pick<Rule, 'inputs' | 'state'>, c: Case, context: Context, run: Runner): Side {
  const one = { ...c, B: 1 } as unknown as Case
  const inputs = inputNumbers(rule, one, context)
  const state = stateNumbers(rule, one, context)
  const axes: Record<string, readonly string[]> = Object.fromEntries(Object.entries(rule.inputs).map(([name, { shape }]) => [name, shape]))
  const leaves = [
    ...Object.entries(inputs).map(([name, numbers]) => ({ name, of: 'inputs' as const, numbers, batched: axes[name][0] === 'B' })),
    ...Object.entries(state ?? {}).map(([name, numbers]) => ({ name, of: 'state' as const, numbers, batched: true })),
  ]

  /** The contracted outputs [P, 1] of P sequences; `change` alters the numbers of one leaf, given P copies of them. */
  const totals = (P: number, leaf: (typeof leaves)[number], change: (copies: Float64Array) => void): Tensor => {
    const make = (of: 'inputs' | 'state', all: Record<string, Numbers>): Record<string, Tensor> =>
      Object.fromEntries(
        Object.entries(all).map(([name, { values, shape }]) => {
          const batched = of === 'state' || axes[name][0] === 'B'
          const copies = new Float64Array(values.length * (batched ? P : 1))
          for (let at = 0; at < copies.length; at += values.length) copies.set(values, at)
          if (of === leaf.of && name === leaf.name) change(copies)
          return [name, context.from(copies, batched ? [P, ...shape.slice(1)] : shape)]
        }),
      )
    const { y, state: last } = run(make('inputs', inputs), state && (make('state', state) as never))
    return Object.entries({ y, ...last } as Record<string, Tensor>)
      .map(([name, output]) => {
        const cotangent = context.tensor(`d${name}`, [1, ...output.shape.slice(1)])
        return sum(reshape(mul(output, cotangent), [P, -1]), { axis: 1, keepDim: true })
      })
      .reduce((a, b) => add(a, b))
  }

  const coefficients = context.from(
    stencil.map(([, w]) => w / h),
    [stencil.length, 1],
  )
  return Object.fromEntries(
    leaves.map((leaf) => {
      const n = leaf.numbers.values.length
      const rows = leaf.batched
        ? totals(n * stencil.length, leaf, (copies) => {
            for (let i = 0; i < n; i++) for (const [s, [m]] of stencil.entries()) copies[(i * stencil.length + s) * n + i] += m * h
          })
        : concat(
            Array.from({ length: n }, (_, i) => stencil.map(([m]) => totals(1, leaf, (copies) => void (copies[i] += m * h)))).flat(),
            0,
          )
      return [`d${leaf.name}${leaf.of === 'state' ? '0' : ''}`, matmul(reshape(rows, [n, stencil.length]), coefficients)]
    }),
  )
}
