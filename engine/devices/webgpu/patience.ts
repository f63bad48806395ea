/**
 * While the GPU works. In Node, Dawn asks for its answers in every turn of the event loop, one turn right after the other: that keeps a core
 * busy, which a GPU computed by the CPU needs for itself, and a third of that core collects garbage. So between these turns the thread sleeps,
 * for a part of how long it has waited by then, so that no answer is late by more than that part. Pages have no need of it.
 */
import { inNode } from '../../platform.ts'

/** 3%: late by half of that on average. An answer that comes within 2 ms is slept for not at all, since a shorter sleep isn't to be had. */
const part = 1 / 32
const shortest = 0.05
/** What else the event loop is there for waits no longer than this. */
const longest = 1

const never = inNode ? new Int32Array(new SharedArrayBuffer(4)) : null
/** Answers that are out, and since when the thread waits for the next of them. */
let out = 0
let since = 0
let turning = false

function turn(): void {
  turning = out > 0
  if (!turning) return
  const milliseconds = Math.min(longest, (performance.now() - since) * part)
  if (milliseconds >= shortest) Atomics.wait(never!, 0, 0, milliseconds)
  setImmediate(turn).unref()
}

/** The answer of the GPU, waited for without haste. */
export async function patiently<R>(answer: Promise<R>): Promise<R> {
  if (!never) return answer
  out++
  since = performance.now()
  if (!turning) {
    turning = true
    setImmediate(turn).unref()
  }
  try {
    return await answer
  } finally {
    out--
    since = performance.now()
  }
}
