/** Whether ops are recorded, for a backward pass to come. */
import { checkSynchronous } from './scope.ts'

let on = true

export const recording = (): boolean => on

/** Runs `body` without recording: for inference, initialisers and optimisers. */
export function noGrad<R>(body: () => R): R {
  const before = on
  on = false
  try {
    const result = body()
    checkSynchronous('noGrad', result)
    return result
  } finally {
    on = before
  }
}
