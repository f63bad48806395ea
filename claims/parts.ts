/** Pieces that several claims are made of. */
import { affine, concat, type RuleName, reshape, rules, slice, sqrt, square, sum, type Tensor, zeros } from '../engine/index.ts'
import type { Case } from './claim.ts'
import { type Context, gaussian, stream } from './context.ts'
import { int, oneOf } from './fields.ts'
import { call, drawInputs, runner } from './sides.ts'

export const widths = { H: int(1, 2), K: int(1, 8), V: int(1, 8) }
export const sequence = { B: int(1, 2), T: int(1, 16), ...widths }
const forms = oneOf('recurrent' as const, 'parallel' as const, 'chunk' as const)
export const runs = { C: int(1, 16), form: forms }
export const optionsOf = (c: { C: number; form: 'recurrent' | 'parallel' | 'chunk' }) => ({ form: c.form, chunk: c.C })

/** n rows of width K >= n, orthogonal and of length 1: Gram-Schmidt on the host, twice over; the axes, unless the case looks normal. */
export function orthonormal(x: Context, name: string, c: Case, n: number, K: number): Tensor {
  if (c.look !== 'normal')
    return x.from(
      Float64Array.from({ length: n * K }, (_, i) => Number(i % (K + 1) === 0)),
      [n, K],
    )
  const next = stream(c.seed, name)
  const rows: number[][] = []
  for (let r = 0; r < n; r++) {
    let row = Array.from({ length: K }, () => gaussian(next))
    for (let pass = 0; pass < 2; pass++) {
      for (const other of rows) {
        const overlap = row.reduce((total, value, i) => total + value * other[i], 0)
        row = row.map((value, i) => value - overlap * other[i])
      }
      const length = Math.hypot(...row)
      row = row.map((value) => value / length)
    }
    rows.push(row)
  }
  return x.from(rows.flat(), [n, K])
}

/** [T,K] for every sequence and head: [B,T,H,K] with B = H = 1. */
export const alone = (rows: Tensor): Tensor => reshape(rows, [1, rows.shape[0], 1, rows.shape[1]])
export const column = (x: Tensor): Tensor => reshape(x, [...x.shape, 1])
export const filled = (x: Context, shape: number[], value: number): Tensor =>
  x.from(new Float64Array(shape.reduce((n, d) => n * d, 1)).fill(value), shape)
export const norms = (S: Tensor): Tensor => sqrt(sum(square(S), { axis: [2, 3] }))
/** Row `at` of the axis T, without the axis. */
export const token = (x: Tensor, at: number): Tensor =>
  reshape(
    slice(x, 1, at, at + 1),
    x.shape.filter((_, i) => i !== 1),
  )

/** The state that the delta rule leaves of S0 when it writes zeros at rates up to `top`. */
export function shrunk(
  c: { B: number; T: number; H: number; K: number; V: number } & Parameters<typeof optionsOf>[0],
  x: Context,
  k: Tensor,
  top: number,
): Tensor {
  const beta = affine(x.tensor('beta', [c.B, c.T, c.H], 'rate'), top)
  const v = zeros([c.B, c.T, c.H, c.V], x.device)
  return call('delta', { q: k, k, v, beta }, { S: x.tensor('S0', [c.B, c.H, c.K, c.V]) }, optionsOf(c)).state.S
}

/** The last state and output of a rule, its tokens as they come or shuffled; the last query is the same. */
export function memoryOf(name: RuleName, c: Case & Record<string, any>, x: Context, shuffled: boolean) {
  const inputs = drawInputs(rules[name], c, x)
  const next = stream(c.seed, 'order')
  const order = Array.from({ length: c.T as number }, (_, t) => ({ t, at: next() }))
  if (shuffled) order.sort((a, b) => a.at - b.at)
  const arranged = Object.fromEntries(
    Object.entries(inputs).map(([input, value]) => [
      input,
      input === 'q'
        ? value
        : concat(
            order.map(({ t }) => slice(value, 1, t, t + 1)),
            1,
          ),
    ]),
  )
  const { y, state } = runner(rules[name], c.form, optionsOf(c as never))(arranged, undefined)
  return { y: token(y, c.T - 1), ...state }
}
