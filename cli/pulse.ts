/**
 * How a process that may be caught in a loop, or die at any moment, is watched: it writes what it begins to a pipe, and waits until the
 * system has it (a message would wait for the loop to end); the watcher sees whether anything comes.
 */
import { writeSync } from 'node:fs'
import type { Readable } from 'node:stream'

/** The pipe's number in the watched process: its `stdio[4]`. */
export const pulseFd = 4

/** In the watched process: something begins. `runs`: how far it has come. */
export const beat = (what: string, runs: number): void => void writeSync(pulseFd, `${JSON.stringify([what, runs])}\n`)

/** Ends a process that leads a group, and whatever it has started. */
export function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // It leads none, or there are no groups here.
    process.kill(pid, 'SIGKILL')
  }
}

/** In the watcher. */
export class Pulse {
  /** What has begun last, and the runs before it. */
  what = ''
  runs = 0
  /** Grows as something comes. */
  beats = 0

  constructor(pipe: Readable) {
    let rest = ''
    pipe.setEncoding('utf8').on('data', (text: string) => {
      this.beats++
      const lines = (rest + text).split('\n')
      rest = lines.pop()!
      const last = lines.at(-1)
      if (last !== undefined) [this.what, this.runs] = JSON.parse(last) as [string, number]
    })
  }
}
