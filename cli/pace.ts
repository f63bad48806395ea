/**
 * How many steps fit into a time, for `train --minutes`: from the speed of some steps, evaluations and samples that are thrown away. The run that
 * follows is the one that `--steps` with this number would have made, from its first step on.
 * Tests: test/cli/pace.test.ts.
 */

/** What a run does, a piece at a time. */
export interface Work {
  step(): Promise<void>
  /** Gives how many characters it has read. */
  evaluate(): Promise<number>
  /** One more character of a sample. */
  sample(): Promise<void>
}

/** Milliseconds a step, a character evaluated, a character sampled. */
export type Pace = Readonly<Record<keyof Work, number>>
/** How many of each. */
export type Counts = Readonly<Record<keyof Work, number>>

/** What a run does beside its steps: characters that it evaluates for each step, and at the end; characters of the sample. */
export interface Beside {
  readonly perStep: number
  readonly atEnd: number
  readonly sample: number
}

/** The first steps are slow: code is compiled as it is used, in tiers, and memory grows. So long, and each of the steps that are timed, in milliseconds. */
const stepWindow = 3000
const otherWindow = 600
/** Of the whole time, the most that one of four may take: warm-up, steps, evaluation, sampling. */
const share = 0.025

/** With fewer, nothing could be seen of the training. */
export const leastSteps = 10
const mostSteps = 1e9

/**
 * `clock` gives milliseconds. Takes a tenth of the budget at most, unless single steps are longer: one of each is timed. `most`: how many steps,
 * and characters, the run itself has: no more are timed, nor taken before to warm up.
 */
export async function measurePace(work: Work, budget: number, clock: () => number, most?: Counts): Promise<Pace> {
  /** Until the window is over; milliseconds for one of what `once` counts. */
  const timed = async (window: number, once: () => Promise<number>, enough = Infinity): Promise<number> => {
    const limit = Math.min(window, share * budget)
    const began = clock()
    let count = 0
    do count += await once()
    while (clock() - began < limit && count < enough)
    return (clock() - began) / count
  }
  const one = (body: () => Promise<void>) => async (): Promise<number> => {
    await body()
    return 1
  }
  await timed(stepWindow, one(work.step), most?.step)
  const step = await timed(stepWindow, one(work.step), most?.step)
  await work.evaluate()
  const evaluate = await timed(otherWindow, work.evaluate, most?.evaluate)
  for (let i = 0; i < 2; i++) await work.sample() // with the prompt, and a step that is captured
  const sample = await timed(otherWindow, one(work.sample), most?.sample)
  return { step, evaluate, sample }
}

/** Steps that are over, with all that belongs to them, in `left` milliseconds. */
export function stepsThatFit(left: number, pace: Pace, beside: Beside): number {
  const each = pace.step + beside.perStep * pace.evaluate
  const once = beside.atEnd * pace.evaluate + beside.sample * pace.sample
  return Math.min(Math.max(0, Math.floor((left - once) / each)), mostSteps)
}

/**
 * Milliseconds that so many steps take, with so many characters evaluated and sampled. `timed`: steps from the first on, which are slow; of as many
 * as there are each takes what it took.
 */
export function millisecondsOf(
  { steps, evaluated, sample }: { steps: number; evaluated: number; sample: number },
  pace: Pace,
  timed: readonly number[],
): number {
  const first = timed.slice(0, steps)
  const begun = first.reduce((sum, each) => sum + each, 0)
  return begun + (steps - first.length) * pace.step + evaluated * pace.evaluate + sample * pace.sample
}

/** The steps to take, `most` at most, and a line that says why. */
export function chooseSteps(fit: number, most: number, { step }: Pace, minutes: number): { steps: number; line: string } {
  const steps = Math.min(Math.max(fit, leastSteps), most)
  const speed = 1000 / step
  const number = steps.toLocaleString('en')
  const time = `${minutes} minute${minutes === 1 ? '' : 's'}`
  const found = `speed ${speed >= 100 ? Math.round(speed).toLocaleString('en') : Number(speed.toPrecision(2))} steps/s`
  if (fit < steps) return { steps, line: `${found}: ${time} are too short: ${number} steps, the least, all the same` }
  if (fit > steps) return { steps, line: `${found}: the ${number} steps of --steps fit into ${time}` }
  return { steps, line: `${found}: ${number} steps fit into ${time}` }
}
