/** Whether ops are recorded, for a backward pass to come. */
import { checkSynchronous } from './scope.ts'

let on = true

export const recording = (): boolean => on

/** Runs `body` without recording: for inference, initialisers and optimisers. */
export const noGrad = <R>(body: () => R): R => switched('noGrad', false, body)

/** Runs `body` with recording, also inside `noGrad`. */
export const withGrad = <R>(body: () => R): R => switched('withGrad', true, body)

function switched<R>(op: string, recorded: boolean, body: () => R): R {
  const before = on
  on = recorded
  try {
    const result = body()
    checkSynchronous(op, result)
    return result
  } finally {
    on = before
  }
}
