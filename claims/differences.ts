/** Gradients by finite differences, in float64, of a whole rule in few calls: each perturbation is one more sequence of a batch. */
import { add, concat, matmul, mul, type Rule, reshape, slice, sum, type Tensor } from '../engine/index.ts'
import type { Case, Side } from './claim.ts'
import { type Context, stream } from './context.ts'
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

/** d(sum of all outputs times their cotangents)/d(x) of one sequence, for some elements of every input and of the state. */
export function differences(rule: Pick<Rule, 'inputs' | 'state'>, c: Case, context: Context, run: Runner): Side {
  const one = { ...c, B: 1 } as unknown as Case
  const inputs = inputNumbers(rule, one, context)
  const state = stateNumbers(rule, one, context)
  const isBatched = (name: string): boolean => !(name in inputs) || rule.inputs[name].shape[0] === 'B'
  const leaves = Object.entries({ ...inputs, ...state }).map(([name, { values }]) => {
    const gradient = `d${name}${name in inputs ? '' : '0'}`
    const points = chosen(c, gradient, values.length).flatMap((element) => stencil.map(([m]) => ({ name, element, step: m * h })))
    return { name, gradient, points }
  })

  /** The contracted outputs of one sequence for each point, which differs from the case in one number: [points, 1]. */
  const totals = (points: readonly { name: string; element: number; step: number }[]): Tensor => {
    const P = points.length
    const make = (all: Record<string, Numbers>): Record<string, Tensor> =>
      Object.fromEntries(
        Object.entries(all).map(([name, { values, shape }]) => {
          const batched = isBatched(name)
          const copies = new Float64Array(values.length * (batched ? P : 1))
          for (let at = 0; at < copies.length; at += values.length) copies.set(values, at)
          for (const [p, point] of points.entries())
            if (point.name === name) copies[(batched ? p * values.length : 0) + point.element] += point.step
          return [name, context.from(copies, batched ? [P, ...shape.slice(1)] : shape)]
        }),
      )
    const { y, state: last } = run(make(inputs), state && (make(state) as never))
    return Object.entries({ y, ...last } as Record<string, Tensor>)
      .map(([name, output]) => {
        const cotangent = context.tensor(`d${name}`, [1, ...output.shape.slice(1)])
        return sum(reshape(mul(output, cotangent), [P, -1]), { axis: 1, keepDim: true })
      })
      .reduce((a, b) => add(a, b))
  }

  const together = leaves.filter(({ name }) => isBatched(name))
  const all = totals(together.flatMap(({ points }) => points))
  const coefficients = context.from(
    stencil.map(([, w]) => w / h),
    [stencil.length, 1],
  )
  let from = 0
  return Object.fromEntries(
    leaves.map(({ name, gradient, points }) => {
      // An input that all sequences share changes for one at a time.
      const values = isBatched(name)
        ? slice(all, 0, from, (from += points.length))
        : concat(
            points.map((point) => totals([point])),
            0,
          )
      return [gradient, matmul(reshape(values, [points.length / stencil.length, stencil.length]), coefficients)]
    }),
  )
}

/** How many elements of each tensor a case looks at. */
export const sampled = 3

/** All of n elements, or `sampled` different ones that depend on the case. */
function chosen({ seed }: Case, name: string, n: number): number[] {
  const next = stream(seed, `elements of ${name}`)
  const order = Array.from({ length: n }, (_, element) => ({ element, at: next() })).sort((a, b) => a.at - b.at)
  return order.slice(0, sampled).map(({ element }) => element)
}

/** The elements of gradients that `differences` looks at. */
export function sample(c: Case, context: Context, gradients: Side): Side {
  return Object.fromEntries(
    Object.entries(gradients as Record<string, Tensor>).map(([name, gradient]) => {
      const elements = chosen(c, name, gradient.size)
      const pick = new Float64Array(elements.length * gradient.size)
      for (const [row, element] of elements.entries()) pick[row * gradient.size + element] = 1
      return [name, matmul(context.from(pick, [elements.length, gradient.size]), reshape(gradient, [gradient.size, 1]))]
    }),
  )
}
