/** What tasks say of an example's targets. Tests: those of the tasks, test/tasks/. */
import { ignoredTarget } from '../nn/model.ts'
import type { Example } from './task.ts'

/** Where the targets first differ from what a rule asks for, [T]; undefined where they don't. */
export function wrongTargets({ inputs, targets }: Example, asked: ArrayLike<number>): string | undefined {
  if (targets.length !== inputs.length) return `there are ${targets.length} targets for ${inputs.length} symbols`
  const t = targets.findIndex((target, t) => target !== asked[t])
  if (t < 0) return undefined
  if (asked[t] === ignoredTarget) return `the target at ${t} is ${targets[t]}, where nothing is asked`
  return targets[t] === ignoredTarget
    ? `there is no target at ${t}, where ${asked[t]} is right`
    : `the target at ${t} is ${targets[t]}, not ${asked[t]}`
}

/** Targets of T places that ask for one thing, at the last. */
export function lastTarget(T: number, target: number): Int32Array {
  const targets = new Int32Array(T).fill(ignoredTarget)
  targets[T - 1] = target
  return targets
}
