/** How answers are counted, over any number of batches. Tests: test/tasks/. */
import { ignoredTarget } from '../nn/model.ts'
import type { MetricName } from './task.ts'

/** Counts what is right, batch by batch. */
export interface Metric {
  /** Predictions and targets of B rows [B,T]; places whose target is `ignoredTarget` don't count. */
  add(predictions: ArrayLike<number>, targets: ArrayLike<number>, B: number): void
  /** The share that is right, from 0 to 1; NaN where nothing was asked. */
  value(): number
}

/** A metric that adds up a part of each row, which has `right` right ones of `asked`; a row where nothing is asked isn't one. */
function ofRows(part: (right: number, asked: number) => readonly [gained: number, possible: number]): Metric {
  let [gained, possible] = [0, 0]
  return {
    add(predictions, targets, B) {
      const T = rowLength(predictions, targets, B)
      for (let row = 0; row < B; row++) {
        let [right, asked] = [0, 0]
        for (let i = row * T; i < (row + 1) * T; i++) {
          if (targets[i] === ignoredTarget) continue
          asked++
          if (predictions[i] === targets[i]) right++
        }
        if (asked === 0) continue
        const [more, most] = part(right, asked)
        gained += more
        possible += most
      }
    },
    value: () => gained / possible,
  }
}

/**
 * The mean over classes of the share of their places that is right. As torchmetrics 1 does, a class that is predicted somewhere and is nowhere a
 * target counts as one with none right.
 */
function ofClasses(): Metric {
  const classes = new Map<number, { right: number; asked: number }>()
  const counts = (symbol: number): { right: number; asked: number } => {
    if (!classes.has(symbol)) classes.set(symbol, { right: 0, asked: 0 })
    return classes.get(symbol)!
  }
  return {
    add(predictions, targets, B) {
      rowLength(predictions, targets, B)
      for (let i = 0; i < targets.length; i++) {
        if (targets[i] === ignoredTarget) continue
        const count = counts(targets[i])
        count.asked++
        if (predictions[i] === targets[i]) count.right++
        else counts(predictions[i])
      }
    },
    value() {
      let sum = 0
      for (const { right, asked } of classes.values()) sum += asked === 0 ? 0 : right / asked
      return sum / classes.size
    },
  }
}

function rowLength(predictions: ArrayLike<number>, targets: ArrayLike<number>, B: number): number {
  const T = targets.length / B
  if (predictions.length !== targets.length || !Number.isInteger(T))
    throw new Error(`metric: ${predictions.length} predictions and ${targets.length} targets aren't ${B} rows of both`)
  return T
}

/** A new count by each metric's name. */
export const metrics: Readonly<Record<MetricName, () => Metric>> = {
  places: () => ofRows((right, asked) => [right, asked]),
  sequences: () => ofRows((right, asked) => [right === asked ? 1 : 0, 1]),
  classes: ofClasses,
  'share of each sequence': () => ofRows((right, asked) => [right / asked, 1]),
}
