/** Who checks claims for a page, one after another; ended where a case doesn't end. */
import type { Job, Message, Shown } from './protocol.ts'

/** Another place where code runs: it is told of jobs, and heard until a verdict or a failure. */
export interface Place {
  send(job: Job): void
  /** Called with each message. */
  hear: (message: Message) => void
  close(): void
}

/** Why there is no verdict, in words for the reader. */
export class Stopped extends Error {}

/**
 * Resolves to the verdict. Where nothing has been heard for `limit` milliseconds, the place is closed and the verdict says at which case; rejects with
 * Stopped, too, where `signal` says so.
 */
export function checked(place: Place, job: Job, limit: number, signal: AbortSignal, hear: (message: Message) => void): Promise<Shown> {
  return new Promise((resolve, reject) => {
    let last: { case: string; runs: number } | undefined
    let timer: ReturnType<typeof setTimeout>
    const end = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
    const stop = (): void => {
      end()
      place.close()
      reject(new Stopped('stopped'))
    }
    const late = (): void => {
      end()
      place.close()
      const where = last ? `case ${last.runs + 1} (${last.case})` : 'the first case'
      resolve({
        status: 'stuck',
        ok: false,
        runs: last?.runs ?? 0,
        error: 'NaN',
        bound: 0,
        milliseconds: limit,
        message: `${where} took longer than ${limit / 1000} s, and was ended`,
      })
    }
    place.hear = (message) => {
      clearTimeout(timer)
      timer = setTimeout(late, limit)
      if (message.kind === 'case') last = message
      if (message.kind !== 'verdict' && message.kind !== 'failure') return hear(message)
      end()
      if (message.kind === 'verdict') resolve(message.verdict)
      else reject(new Error(message.message))
    }
    timer = setTimeout(late, limit)
    if (signal.aborted) return stop()
    signal.addEventListener('abort', stop)
    place.send(job)
  })
}
