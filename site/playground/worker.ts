/**
 * Everything that the playground computes. Requests wait in a line and are served between steps, one at a time, so that nothing happens to a model
 * while something else uses it.
 */
import { type Device, type DeviceChoice, openDevice, setDevice, webgpuDevice } from 'fastweights'
import { DivergenceError, generate } from 'fastweights/nn'
import { working } from '../../dist/engine/devices/open.js'
import { capacityOf } from './capacity.ts'
import { examined, type Learner, type Lesson, learnersOf, lessonOf, moved, opened, revived, saved, snapshot } from './learner.ts'
import type { FromWorker, Source, ToWorker } from './messages.ts'
import type { Settings } from './settings.ts'
import { traced } from './traced.ts'

const say = (message: FromWorker): void => self.postMessage(message)

// --- The line -------------------------------------------------------------------------------------------------------------------------

const line: ToWorker[] = []
let wake = (): void => {}
self.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  // What a later request makes needless isn't done.
  const last = line.at(-1)
  if (last && last.kind === data.kind && ['trace', 'capacity', 'configure'].includes(data.kind)) {
    if (data.kind === 'configure' && last.kind === 'configure') data.source ??= last.source
    line.pop()
  }
  line.push(data)
  wake()
}

/** Lets messages in. */
const turns = new MessageChannel()
const turn = (): Promise<void> =>
  new Promise((resolve) => {
    turns.port1.onmessage = () => resolve()
    turns.port2.postMessage(0)
  })
/** Until a message comes, or for so many milliseconds. */
const pause = (milliseconds?: number): Promise<void> =>
  new Promise((resolve) => {
    const timer = milliseconds === undefined ? undefined : setTimeout(resolve, milliseconds)
    wake = () => {
      clearTimeout(timer)
      resolve()
    }
    if (line.length > 0) wake()
  })

// --- What there is --------------------------------------------------------------------------------------------------------------------

let settings: Settings | undefined
let id = 0
let source: Source = { name: 'the page’s own text', own: null }
let lesson: Lesson | undefined
let learners: Learner[] = []
let device: Device | undefined
let [running, visible, pace] = [true, true, 0]
/** Set where the model can't learn: a file's, with a text that doesn't fit. */
let still = false
let losses: [step: number, loss: number][][] = []
let [reported, sampled, due] = [0, 0, 0]
/** Of the last while: steps and when it began. */
let rate = { steps: 0, since: 0, perSecond: 0 }
/** Of a while that begins now: what lay before was a pause. */
const clock = (): void => {
  rate = { ...rate, steps: 0, since: performance.now() }
}

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error))
const steps = (): number => learners[0]?.optimizer.steps ?? 0

function dropLearners(): void {
  for (const learner of learners) learner.dispose()
  learners = []
}

/** What is new begins its curves and clocks anew. */
function begun(notes: readonly string[], file: string): void {
  losses = learners.map(() => [])
  rate = { steps: 0, since: performance.now(), perSecond: 0 }
  sampled = performance.now()
  kept = undefined
  trial = settings?.device === 'auto' ? { at: steps() + 30 } : undefined
  say({
    kind: 'configured',
    id,
    racers: learners.map(({ racer }) => racer),
    file,
    source: lesson!.name,
    symbols: lesson!.symbols,
    preview: (lesson!.text ?? '').slice(0, 1200),
    device: device!.description,
    notes,
    unit: lesson!.task ? 'nats an answer' : 'nats a character',
    prompt: lesson!.prompt,
  })
}

/** New models of these settings. All that can be wrong is found before what there is goes. */
async function configure({ id: wantedId, settings: wanted, source: given }: Extract<ToWorker, { kind: 'configure' }>): Promise<void> {
  const next = given ?? source
  const nextLesson = lessonOf(next, wanted)
  const opening = await otherDevice(wanted.device)
  let made: Learner[]
  try {
    if (opening) setDevice(opening)
    made = learnersOf(wanted, nextLesson)
  } catch (error) {
    if (opening && device) setDevice(device)
    opening?.close()
    throw error
  }
  dropLearners()
  if (opening) replaceDevice(opening, wanted.device)
  ;[learners, lesson, settings, source, still, id] = [made, nextLesson, wanted, next, false, wantedId]
  begun([], '')
}

// --- Devices --------------------------------------------------------------------------------------------------------------------------

/** The device of a choice, where it isn't the one there is. `auto` begins at once, on wasm; a GPU may take over, from each model anew. */
async function otherDevice(choice: string): Promise<Device | undefined> {
  if (choice === settings?.device && !(choice === 'auto' && device?.name === 'webgpu')) return undefined
  return openDevice((choice === 'auto' ? 'wasm' : choice) as DeviceChoice)
}

function replaceDevice(next: Device, choice: string): void {
  if (choice === 'auto' && device?.name === 'webgpu' && settings?.device === 'auto') gpu = device
  else device?.close()
  device = next
  if (choice === 'auto') void findGpu()
}

/** All models move there; where that fails they stay where they are. */
async function moveTo(next: Device): Promise<void> {
  setDevice(next)
  let there: Learner[]
  try {
    there = await Promise.all(learners.map((learner) => moved(learner, lesson!)))
  } catch (error) {
    setDevice(device!)
    throw error
  }
  dropLearners()
  learners = there
  device = next
}

let gpu: Device | undefined
/** When the model is tried on the GPU. */
let trial: { at: number } | undefined

let finding: Promise<void> | undefined

/** A GPU whose kernels are right, if there is one: found while wasm trains, once at a time. Without one, wasm is what `auto` means. */
async function findGpu(): Promise<void> {
  if (gpu) return
  finding ??= webgpuDevice({ software: false })
    .then(working)
    .then(
      (found) => {
        gpu = found
      },
      () => {},
    )
    .finally(() => {
      finding = undefined
    })
  return finding
}

const trialSteps = 20
const trialLimit = 2000

/** The same model on the GPU for some steps; it stays where they are faster. */
async function tryGpu(): Promise<void> {
  trial = undefined
  const candidate = gpu
  if (!candidate || !device || device.name === 'webgpu') return
  const wasm = device
  const before = await timed(trialSteps)
  await keepModels()
  try {
    await moveTo(candidate)
    await timed(trialSteps) // shaders are compiled, the step is captured
    const after = await timed(trialSteps)
    const told = `${before.toFixed(1)} ms a step on wasm, ${after.toFixed(1)} ms on the GPU`
    if (after < before) {
      wasm.close()
      gpu = undefined
      say({ kind: 'device', device: candidate.description, note: `auto chose the GPU: ${told}` })
    } else {
      await moveTo(wasm)
      say({ kind: 'device', device: wasm.description, note: `auto stays on wasm: ${told}` })
    }
  } catch (error) {
    revive(wasm)
    gpu = undefined
    candidate.close()
    say({ kind: 'device', device: wasm.description, note: `auto stays on wasm: ${message(error)}` })
  }
}

/** Milliseconds a step, of so many; of fewer where they take longer than a reader waits. */
async function timed(count: number): Promise<number> {
  const began = performance.now()
  let done = 0
  while (done < count && performance.now() - began < trialLimit) {
    await step()
    done++
  }
  return (performance.now() - began) / done
}

/** What a GPU's models were a while ago: a GPU may be lost. */
let kept: { at: number; files: Uint8Array[] } | undefined
const keepEvery = 2000

async function keepModels(): Promise<void> {
  const files = await Promise.all(learners.map(snapshot))
  kept = { at: performance.now(), files }
}

/** On this device, what was kept; where nothing was yet, the models begin anew. */
function revive(next: Device): void {
  const racers = learners.map(({ racer }) => racer)
  setDevice(next)
  dropLearners()
  device = next
  const { files } = kept ?? { files: [] }
  learners = files.length > 0 ? files.map((bytes, i) => revived(bytes, racers[i], lesson!)) : learnersOf(settings!, lesson!)
  kept = undefined
}

/** Goes on with wasm. */
async function recover(error: unknown): Promise<void> {
  const lost = device!
  try {
    revive(await openDevice('wasm'))
    lost.close()
    if (gpu === lost) gpu = undefined
    trial = undefined
    // Who asks for WebGPU again gets a new one.
    settings = { ...settings!, device: 'wasm' }
    const note = `The GPU is lost (${message(error)}). Training goes on with wasm from step ${steps()}.`
    say({ kind: 'device', device: device!.description, note })
  } catch (second) {
    running = false
    say({ kind: 'refused', what: 'train', message: message(second) })
  }
}

// --- Training -------------------------------------------------------------------------------------------------------------------------

async function step(): Promise<void> {
  const batch = lesson!.sampler.batch(steps())
  for (const [i, learner] of learners.entries()) {
    const { step, loss } = await learner.trainer.step(batch)
    losses[i].push([step, loss])
  }
  rate.steps++
}

/** Milliseconds between reports, and between samples. */
const reportEvery = 80
const sampleEvery = 1500

function report(): void {
  const now = performance.now()
  if (now - reported < reportEvery) return
  reported = now
  if (now - rate.since > 700) rate = { steps: 0, since: now, perSecond: (1000 * rate.steps) / (now - rate.since) }
  const { seqLen, batch } = lesson!.training
  say({
    kind: 'progress',
    step: steps(),
    losses,
    stepsPerSecond: rate.perSecond,
    tokensPerSecond: rate.perSecond * seqLen * batch,
    bytes: device!.bytesInUse(),
  })
  losses = learners.map(() => [])
}

/** What each racer has learnt: a text that it goes on with, or an exam. A request that comes meanwhile ends it. */
async function show(): Promise<void> {
  for (const [racer, learner] of learners.entries()) {
    if (lesson!.task) {
      const { share, places } = await examined(learner, lesson!, device!)
      const { row, settings: own } = lesson!.task
      say({ kind: 'exam', racer, share, chance: row.chance(own), metric: row.metric, places })
    } else await sample(racer, learner)
    if (line.length > 0) break
  }
  sampled = performance.now()
}

async function sample(racer: number, { model, optimizer }: Learner): Promise<void> {
  const vocabulary = lesson!.vocabulary!
  const start = vocabulary.symbols.includes('\n') ? '\n' : vocabulary.symbols[0]
  let [text, shown] = ['', performance.now()]
  const options = { length: 140, temperature: 0.8, seed: 1 + (optimizer.steps % 1000) }
  for await (const token of generate(model, vocabulary.encode(start), options)) {
    text += vocabulary.decode([token])
    const now = performance.now()
    if (now - shown < 40) continue
    shown = now
    say({ kind: 'sample', racer, text, done: false })
    await turn()
    if (line.length > 0) return
  }
  say({ kind: 'sample', racer, text, done: true })
}

// --- Requests -------------------------------------------------------------------------------------------------------------------------

async function serve(request: ToWorker): Promise<void> {
  try {
    if (request.kind === 'configure') await configure(request)
    else if (request.kind === 'run') {
      running = request.running
      clock()
    } else if (request.kind === 'visible') {
      visible = request.visible
      clock()
    } else if (request.kind === 'pace') pace = request.pace
    else if (request.kind === 'capacity') say({ kind: 'capacity', capacity: await capacityOf(request.request) })
    else if (!lesson || learners.length === 0) throw new Error('there is no model yet')
    else if (request.kind === 'step') {
      if (still) throw new Error('the model can’t learn from the text that is open')
      clock()
      await step()
      reported = 0
      report()
      await show()
    } else if (request.kind === 'trace') {
      const memory = await traced(learners[Math.min(request.request.racer, learners.length - 1)], lesson, request.request)
      say({ kind: 'memory', memory })
    } else if (request.kind === 'save') say({ kind: 'saved', bytes: await saved(learners[0], lesson) })
    else if (request.kind === 'load') {
      const { learner, lesson: own, still: why } = opened(request.bytes, request.name, source, settings!)
      dropLearners()
      ;[learners, lesson, still] = [[learner], own, why !== undefined]
      begun(why === undefined ? [] : [why], request.described ? '' : request.name)
      await show()
    }
  } catch (error) {
    if (device?.name === 'webgpu' && request.kind !== 'configure' && /lost/.test(message(error))) await recover(error)
    say({ kind: 'refused', what: request.kind, message: message(error), ...('id' in request && { id: request.id }) })
  }
}

async function train(): Promise<void> {
  try {
    await step()
    report()
    if (device?.name === 'webgpu' && !(kept && performance.now() < kept.at + keepEvery)) await keepModels()
    if (trial && gpu && steps() >= trial.at) await tryGpu()
    if (steps() === 3 || performance.now() - sampled > sampleEvery) await show()
  } catch (error) {
    // A loss that isn't finite is no fault of the GPU.
    if (device?.name === 'webgpu' && !(error instanceof DivergenceError)) return recover(error)
    running = false
    say({ kind: 'refused', what: 'train', message: message(error) })
  }
}

for (;;) {
  const request = line.shift()
  if (request) await serve(request)
  else if (running && visible && !still && learners.length > 0) {
    const now = performance.now()
    if (pace > 0 && now < due) await pause(due - now)
    else {
      due = now + 1000 / Math.max(pace, 1e-9)
      await train()
      await turn()
    }
  } else await pause()
}
