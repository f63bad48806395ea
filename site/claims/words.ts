/** Numbers and counterexamples as people read them. */

const digits = '⁰¹²³⁴⁵⁶⁷⁸⁹'
const raised = (n: number): string => (n < 0 ? '⁻' : '') + [...String(Math.abs(n))].map((digit) => digits[Number(digit)]).join('')

/** 2.1 × 10⁻⁷ */
export function power(x: number): string {
  if (x === 0) return '0'
  if (Number.isNaN(x)) return 'not a number'
  if (!Number.isFinite(x)) return 'infinite'
  if (x >= 0.01 && x < 1000) return String(Number(x.toPrecision(2)))
  const [mantissa, exponent] = x.toExponential(1).split('e')
  return `${mantissa === '1.0' ? '' : `${mantissa} × `}10${raised(Number(exponent))}`
}

export const counted = (n: number, what: string): string => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`

/** A tensor in a line of a counterexample. */
export interface Tensor {
  readonly name: string
  /** Undefined for a side's result, of which the line doesn't say it. */
  readonly shape: readonly number[] | undefined
  readonly values: readonly number[]
}

/** The tensor that a line of a counterexample has, `q [1,1,1,2] = 1 0` or `left y = 1 0`; undefined for other lines, and where it was too long for one. */
export function tensorIn(line: string): Tensor | undefined {
  const [, name, axes, list] = /^(.+?)(?: \[([\d,]*)\])? = (.+)$/.exec(line) ?? []
  const texts = list?.split(' ') ?? []
  if (texts.length === 0 || texts.some((text) => text !== 'NaN' && Number.isNaN(Number(text)))) return
  return { name, shape: axes?.split(',').filter(Boolean).map(Number), values: texts.map(Number) }
}
