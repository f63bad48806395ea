/** What callers pass beside tensors, numbers and options, and how an error says what was passed instead. Nothing is imported, so that everything may. */

/** A value in an error: a number as it is, anything else with what it is. */
export function told(value: unknown): string {
  if (typeof value === 'string') return `the text '${value.length > 40 ? `${value.slice(0, 40)}…` : value}'`
  if (typeof value === 'bigint') return `the BigInt ${value}n`
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  const name = value.constructor?.name ?? 'Object'
  return name === 'Object' ? 'an object' : `${/^[AEIOU]/.test(name) ? 'an' : 'a'} ${name}`
}

const ranges = {
  'a number': () => true,
  'a finite number': Number.isFinite,
  '0 or more': (x: number) => x >= 0 && x < Infinity,
  positive: (x: number) => x > 0,
  'above 0': (x: number) => x > 0 && x < Infinity,
  'in [0, 1]': (x: number) => x >= 0 && x <= 1,
  'in [0, 1)': (x: number) => x >= 0 && x < 1,
  'an integer': Number.isInteger,
  'an integer, 0 or more': (x: number) => Number.isInteger(x) && x >= 0,
  'a positive integer': (x: number) => Number.isInteger(x) && x > 0,
} satisfies Record<string, (x: number) => boolean>

export type NumberRange = keyof typeof ranges
export const fits = (value: number, range: NumberRange): boolean => ranges[range](value)

/** Throws unless value is a number of that range; `what` says whose it is, such as 'Adam: lr'. */
export function checkNumber(what: string, value: unknown, range: NumberRange): asserts value is number {
  if (typeof value !== 'number') throw new Error(`${what} must be a number, not ${told(value)}`)
  if (!fits(value, range)) throw new Error(`${what} must be ${range}, not ${value}`)
}

/** Throws unless eps, already a number from 0 on, is above 0 in float32 on every device: `why` says what it would leave to divide by. */
export function checkDivisor(what: string, eps: number, why: string): void {
  if (eps < 2 ** -126) throw new Error(`${what} must be above 0${eps > 0 ? ' in float32 (at least 2^-126)' : ''}: ${why}`)
}

export function checkFlag(what: string, value: unknown): asserts value is boolean {
  if (typeof value !== 'boolean') throw new Error(`${what} must be true or false, not ${told(value)}`)
}

/** Throws unless value is a list of numbers; `what` says whose it is, and `example` what one looks like. */
export function checkList(what: string, value: unknown, example: string): asserts value is readonly number[] {
  if (!Array.isArray(value) || value.some((x) => typeof x !== 'number')) {
    const given = Array.isArray(value) ? `an array with ${told(value.find((x) => typeof x !== 'number'))}` : told(value)
    throw new Error(`${what} must be an array of numbers, such as ${example}, not ${given}`)
  }
}

export function checkObject(op: string, options: unknown, example: string): asserts options is object {
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw new Error(`${op}: the options must be an object such as { ${example}: ... }, not ${told(options)}`)
}

/** Throws if options aren't an object, or hold what nobody reads. */
export function checkOptions(op: string, options: unknown, known: readonly string[]): void {
  checkObject(op, options, known[0])
  const unknown = Object.keys(options).find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Error(`${op}: unknown option '${unknown}' (${known.join(', ')})`)
}

/** Throws unless it is a device that can be used now: what opens one gives a promise. */
export function checkDevice(op: string, device: unknown): void {
  if (typeof (device as { allocate?: unknown } | null | undefined)?.allocate !== 'function')
    throw new Error(`${op}: the device must be one that openDevice gave (await it), not ${told(device)}`)
}
