/** Seconds, of the clock or, with `--clock processor`, of this process on the processor. */
function now() {
  // A page has no process.
  if (globalThis.process?.env.BENCH_CLOCK !== 'processor') return performance.now() / 1000
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Runs `work(repeats)` (which may be asynchronous) and gives seconds a repetition. */
export async function time(work, repeats) {
  const start = now()
  await work(repeats)
  return (now() - start) / repeats
}

/**
 * Warms up for `warmUp` seconds and at least four calls (V8 first runs quickly compiled code, and changes to optimised code from one call to
 * a later one), then gives the number of repetitions that make one sample last `target` seconds or a little more.
 */
export async function calibrate(work, target = 0.025, warmUp = 0.25) {
  const end = performance.now() + warmUp * 1000
  let repeats = 1
  let seconds = Infinity
  for (let call = 0; call < 4 || performance.now() < end; call++) {
    seconds = Math.min(seconds, await time(work, repeats))
    if (seconds * repeats < target) repeats = Math.max(repeats + 1, Math.min(repeats * 4, Math.ceil((1.1 * target) / seconds)))
  }
  return Math.max(1, Math.ceil((1.1 * target) / seconds))
}

/** @returns {{ median: number, min: number, max: number }} */
export function summary(samples) {
  const sorted = [...samples].sort((x, y) => x - y)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  return { median, min: sorted[0], max: sorted[sorted.length - 1] }
}

/**
 * Calls `step` with its number, twice at least and for so many seconds: V8 compiles a kernel anew when it has run for a while, with vectors of 256 bits only
 * then; until all are done a step of the training benchmarks takes up to half as much again.
 */
export async function warmUp(step, seconds = 3) {
  const end = performance.now() + 1000 * seconds
  for (let i = 0; i < 2 || performance.now() < end; i++) await step(i)
}
