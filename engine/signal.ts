/** Calls that take long, and can be stopped on the way. Tests: test/nn/signal.test.ts. */
import { told } from './arguments.ts'

declare global {
  // For programs without the library `dom`, which has it.
  interface AbortSignal {}
}

/** Of a call that takes long. */
export interface Stoppable {
  /** Once it is aborted the call stops, between two steps of its work, and throws the signal's reason. */
  signal?: AbortSignal
}

/** Milliseconds of a call's steps after which the rest of the program has a turn. */
const patience = 20

/**
 * What a call awaits between its steps: throws where its signal is aborted. The rest of the program has a turn now and then, since it may be what aborts it; a
 * device that computes at once never waits.
 */
export function stopper(op: string, { signal }: Stoppable): () => Promise<void> {
  if (signal === undefined) return async () => {}
  if (typeof (signal as Partial<AbortSignal> | null)?.throwIfAborted !== 'function')
    throw new Error(`${op}: the signal must be an AbortSignal, such as that of an AbortController, not ${told(signal)}`)
  let begun = performance.now()
  return async () => {
    signal.throwIfAborted()
    if (performance.now() - begun < patience) return
    // No timer: pages round those up.
    const { port1, port2 } = new MessageChannel()
    await new Promise((resolve) => {
      port1.onmessage = resolve
      port2.postMessage(null)
    })
    port1.close()
    begun = performance.now()
    signal.throwIfAborted()
  }
}
