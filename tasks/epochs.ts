/**
 * The order in which examples of a set are learnt from, what sizes batches have, and the numbers of the splits. Tests: test/tasks/pairs.test.ts,
 * test/nn/text.test.ts.
 */
import { checkNumber, told } from '../engine/arguments.ts'
import { checkChoice } from '../nn/fields.ts'
import { mersenne } from './mersenne.ts'

export interface Rows {
  readonly stepsPerEpoch: number
  /** Which examples make up the batch of step 0, 1, ...: the same whenever it is asked for. */
  rows(step: number): number[]
}

/** Each of n examples once an epoch, B at a time, in an order of the epoch's own; its last batch may have fewer. */
export function shuffledRows(n: number, { B, seed = 1 }: { B: number; seed?: number }): Rows {
  checkNumber('examples', n, 'a positive integer')
  checkNumber('B', B, 'a positive integer')
  checkNumber('seed', seed, 'an integer')
  const stepsPerEpoch = Math.ceil(n / B)
  let order: number[] = []
  let orderEpoch = -1
  return {
    stepsPerEpoch,
    rows(step) {
      const epoch = Math.floor(step / stepsPerEpoch)
      if (epoch !== orderEpoch) order = mersenne([seed >>> 0, epoch]).sample(n, n)
      orderEpoch = epoch
      const first = (step - epoch * stepsPerEpoch) * B
      return order.slice(first, first + B)
    },
  }
}

/** Throws unless there can be batches of B rows of T tokens. */
export function checkRows(op: string, tokens: Int32Array, T: number, B: number): void {
  if (!(tokens instanceof Int32Array)) throw new Error(`${op}: the text must be an Int32Array of tokens, not ${told(tokens)}`)
  checkNumber(`${op}: T`, T, 'a positive integer')
  checkNumber(`${op}: B`, B, 'a positive integer')
}

/** Throws unless windows of T tokens that begin `stride` tokens apart leave none out. */
export function checkStride(op: string, stride: number, T: number): void {
  checkNumber(`${op}: stride`, stride, 'a positive integer')
  if (stride > T) throw new Error(`${op}: stride must be at most T, ${T}, not ${stride}: what lies between would be left out`)
}

export const splitNumbers = { train: 0, valid: 1, test: 2 } as const

/** The number of a split, which its random numbers begin with; throws where there is no such split. */
export function splitNumber(split: keyof typeof splitNumbers): number {
  checkChoice('split', split, splitNumbers)
  return splitNumbers[split]
}
