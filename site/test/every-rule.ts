/** For playground.test.mjs: models of the playground's settings, in Node. */
import { setDevice, wasmDevice } from 'fastweights'
import { learnersOf, lessonOf } from '../playground/learner.ts'
import type { Racer } from '../playground/messages.ts'
import type { Settings } from '../playground/settings.ts'

setDevice(await wasmDevice({ threads: 1 }))

/** The losses of some first steps. */
export async function learn(settings: Settings, steps: number): Promise<{ losses: number[]; racer: Racer }> {
  const lesson = lessonOf({ name: 'own', own: null }, settings)
  const [learner] = learnersOf(settings, lesson)
  const losses: number[] = []
  for (let step = 0; step < steps; step++) losses.push((await learner.trainer.step(lesson.sampler.batch(step))).loss)
  const { racer } = learner
  learner.dispose()
  return { losses, racer }
}
