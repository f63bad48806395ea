/** `--minutes`, with a clock that the work itself moves on. */
import assert from 'node:assert/strict'
import { chooseSteps, leastSteps, measurePace, type Pace, stepsThatFit, type Work } from '../../cli/pace.ts'

/** Work that takes these milliseconds: a step by its number, from 0; an evaluation reads 100 characters. */
function workOf(step: (n: number) => number, evaluation = 50, sample = 7) {
  let now = 12_345
  const done = { step: 0, evaluate: 0, sample: 0 }
  const work: Work = {
    async step() {
      now += step(done.step++)
    },
    async evaluate() {
      now += evaluation
      done.evaluate++
      return 100
    },
    async sample() {
      now += sample
      done.sample++
    },
  }
  return { work, done, clock: () => now }
}

describe('--minutes', () => {
  it('measures the speed after the first steps, which are slow', async () => {
    // 2.5 seconds of steps ten times as slow as the others.
    const { work, clock } = workOf((n) => (n < 5 ? 500 : 50))
    assert.deepEqual(await measurePace(work, 180_000, clock), { step: 50, evaluate: 0.5, sample: 7 })
  })

  it('takes at most an eighth of the time, and what is under way then, but times one of each', async () => {
    for (const milliseconds of [0.01, 1, 40, 300, 2000, 9000])
      for (const minutes of [1e-4, 0.05, 3, 60, 1e5]) {
        const { work, done, clock } = workOf(() => milliseconds, milliseconds / 3, milliseconds / 10)
        const began = clock()
        const pace = await measurePace(work, minutes * 60_000, clock)
        assert.ok(Math.abs(pace.step / milliseconds - 1) < 1e-6 && Math.abs(pace.evaluate / (milliseconds / 300) - 1) < 1e-6)
        // What is under way when a window ends is finished; the first evaluation and the first two samples aren't timed.
        const more = 2 * milliseconds + 2 * (milliseconds / 3) + 3 * (milliseconds / 10)
        const least = 1.001 * more // rounding
        const taken = clock() - began
        assert.ok(taken <= (minutes * 60_000) / 8 + least && taken <= 7200 + least, `${milliseconds} ms, ${minutes} min: ${taken} ms`)
        assert.deepEqual([done.step >= 2, done.evaluate >= 2, done.sample >= 2], [true, true, true])
      }
  })

  it('times no more of each than a short run has, and one of each at least', async () => {
    for (const most of [
      { step: 4, evaluate: 250, sample: 3 },
      { step: 0, evaluate: 0, sample: 0 },
    ]) {
      const { work, done, clock } = workOf(() => 10)
      assert.deepEqual(await measurePace(work, Infinity, clock, most), { step: 10, evaluate: 0.5, sample: 7 })
      const [step, evaluate, sample] = [most.step, Math.ceil(most.evaluate / 100), most.sample].map((n) => Math.max(1, n))
      assert.deepEqual(done, { step: 2 * step, evaluate: 1 + evaluate, sample: 2 + sample })
    }
  })

  it('fits steps with all that belongs to them', () => {
    const pace: Pace = { step: 100, evaluate: 0.05, sample: 10 }
    assert.equal(stepsThatFit(60_000, pace, { perStep: 0, atEnd: 0, sample: 0 }), 600)
    // 500 ms of each 25 s and 10 s at the end, 4 s for a sample.
    assert.equal(stepsThatFit(60_000, pace, { perStep: 400, atEnd: 200_000, sample: 400 }), Math.floor((60_000 - 10_000 - 4000) / 120))
    assert.equal(stepsThatFit(13_000, pace, { perStep: 400, atEnd: 200_000, sample: 400 }), 0)
    assert.equal(stepsThatFit(-1, pace, { perStep: 0, atEnd: 0, sample: 0 }), 0)
    assert.ok(
      Number.isSafeInteger(stepsThatFit(525_600 * 60_000, { step: 1e-9, evaluate: 0, sample: 0 }, { perStep: 0, atEnd: 0, sample: 0 })),
    )
  })

  it('takes some steps at least and --steps at most, and says so', () => {
    const pace: Pace = { step: 320, evaluate: 0, sample: 0 }
    const choose = (fit: number, most = Infinity, minutes = 3) => chooseSteps(fit, most, pace, minutes)
    assert.deepEqual(choose(540), { steps: 540, line: 'speed 3.1 steps/s: 540 steps fit into 3 minutes' })
    assert.deepEqual(choose(5400, Infinity, 1), { steps: 5400, line: 'speed 3.1 steps/s: 5,400 steps fit into 1 minute' })
    assert.deepEqual(choose(540, 50), { steps: 50, line: 'speed 3.1 steps/s: the 50 steps of --steps fit into 3 minutes' })
    const least = { steps: leastSteps, line: 'speed 3.1 steps/s: 0.01 minutes are too short: 10 steps, the least, all the same' }
    for (const fit of [0, 3, 9]) assert.deepEqual(choose(fit, Infinity, 0.01), least)
    assert.equal(choose(leastSteps).steps, leastSteps)
    assert.equal(choose(0, 4).steps, 4)
    assert.match(chooseSteps(9, 9, { ...pace, step: 0.5 }, 2).line, /^speed 2,000 steps\/s: 9 steps fit into 2 minutes$/)
  })
})
