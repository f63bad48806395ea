/** For playground.test.mjs: models of the playground's settings, in Node. */
import { setDevice, wasmDevice } from 'fastweights'
import { learnersOf, lessonOf } from '../playground/learner.ts'
import type { Memory, Racer } from '../playground/messages.ts'
import type { Settings } from '../playground/settings.ts'
import { traced } from '../playground/traced.ts'

setDevice(await wasmDevice({ threads: 1 }))

/** The losses of some first steps, and then what the memory does. */
export async function learn(settings: Settings, steps: number): Promise<{ losses: number[]; racer: Racer; memory: Memory }> {
  const lesson = lessonOf({ name: 'own', own: null }, settings)
  const [learner] = learnersOf(settings, lesson)
  const losses: number[] = []
  for (let step = 0; step < steps; step++) losses.push((await learner.trainer.step(lesson.sampler.batch(step))).loss)
  const { racer } = learner
  const memory = await traced(learner, lesson, { prompt: 'Mara keeps a lamp.', racer: 0, layer: 0, head: 1, rule: 'own' })
  learner.dispose()
  return { losses, racer, memory }
}
