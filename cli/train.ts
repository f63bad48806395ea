/**
 * Training with everything around it: text, progress, metrics, checkpoints, resuming, interruption, and what is shown at the end.
 * In the output folder: checkpoint.safetensors (replaced atomically), metrics.jsonl, loss.svg, sample.txt.
 */
import { existsSync, statSync } from 'node:fs'
import os from 'node:os'
import { join, resolve } from 'node:path'
import type { Device } from '../engine/index.ts'
import { printable } from '../nn/foreign.ts'
import {
  checkpointParts,
  DivergenceError,
  generate,
  layerMixers,
  modelOf,
  newPretrained,
  type Optimizer,
  type PretrainedSource,
  restoreOptimizer,
  type StepResult,
  Trainer,
  Transformer,
  type TransformerConfig,
} from '../nn/index.ts'
import { blind } from '../nn/mixers.ts'
import {
  isPackagePreset,
  optimizerOf,
  type PackagePresetName,
  packagePresets,
  type Recipe,
  scheduleOf,
  type TrainingConfig,
} from '../tasks/presets.ts'
import {
  type Batch,
  charVocabulary,
  evaluationBatches,
  randomBatches,
  type Sampler,
  sequentialBatches,
  splitText,
  type Vocabulary,
} from '../tasks/text.ts'
import { UsageError } from './arguments.ts'
import { type Chart, svgChart, terminalChart } from './chart.ts'
import {
  appendMetrics,
  claimFolder,
  FileError,
  freeBytes,
  type Metrics,
  type Replacement,
  readMetrics,
  replacement,
  truncateMetrics,
  writeAtomic,
} from './files.ts'
import { checkPackagePreset } from './options.ts'
import { type Beside, chooseSteps, measurePace, millisecondsOf, stepsThatFit, type Work } from './pace.ts'
import {
  checkVacant,
  claimFreeFolder,
  findText,
  loadText,
  openImported,
  openRun,
  type RunRecord,
  runMetadata,
  sourceKey,
  textPlaces,
} from './runs.ts'
import { bytes, duration, onInterrupt, progress, quoted, say, visible } from './terminal.ts'
import { evaluateAlone, openTrial, statesOf, type TextModel, type Trial } from './trial.ts'

export interface TrainOptions extends Omit<Recipe, 'description'> {
  preset: string
  text: string | undefined
  out: string | undefined
  resume: string | undefined
  seed: number
  minutes: number | undefined
  /** Says what the run would take, and writes nothing. */
  dryRun: boolean
  evalEvery: number
  /** 0: none. */
  evalLimit: number
  saveEvery: number
  sampleLength: number
  /** See `arithmeticOf`. */
  arithmetic: string
  /** Options given by hand, by name. */
  given: ReadonlySet<string>
}

interface Run extends Omit<RunRecord, 'symbols'> {
  model: TextModel
  /** Of a model of another package: what its files say. */
  source: PretrainedSource | null
  /** One like it, from its first values. */
  again(): TextModel
  optimizer: Optimizer
  vocabulary: Vocabulary
  /** Where its text is, null for a default one: not kept, since a checkpoint may go elsewhere. */
  textPath: string | null
  train: Int32Array
  valid: Int32Array
}

/** Sequences of the validation text that an evaluation on the way reads at most. */
const evalSequences = 128
/** An evaluation that takes longer says how far it has come. */
const quietMilliseconds = 1000

/** Returns the exit code. */
export async function train(options: TrainOptions, device: Device): Promise<number> {
  const { resume, out, preset, dryRun } = options
  if (resume !== undefined) checkResumable(resume, options)
  if (dryRun) {
    const run = await (resume === undefined ? newRun(options, device) : resumeRun(resume, options, device))
    return interruptible((_, poll) => plan(run, options, device, poll))
  }
  if (resume !== undefined) {
    // Before the checkpoint is read, so that nobody else can write a newer one meanwhile.
    const release = existsSync(resume) ? claimFolder(resume) : () => {}
    try {
      const run = await resumeRun(resume, options, device)
      return await interruptible((line, poll) => trainUntil(resume, run, options, device, line, poll))
    } finally {
      release()
    }
  }
  const run = await newRun(options, device)
  const { folder, release } = out === undefined ? claimFreeFolder(preset) : { folder: out, release: claimFolder(out) }
  try {
    checkVacant(folder) // again: from now on nobody else can fill it
    return await interruptible((line, poll) => trainUntil(folder, run, options, device, line, poll))
  } finally {
    release()
  }
}

/** Somebody has asked the run to stop. */
class Interrupted extends Error {}

/** `body` is given a line to show its progress in, and `poll`, which throws where somebody has asked to stop. */
async function interruptible(body: (line: ReturnType<typeof progress>, poll: () => void) => Promise<number>): Promise<number> {
  const interrupt = onInterrupt()
  const line = progress()
  try {
    return await body(line, () => {
      if (interrupt.signal.aborted) throw new Interrupted()
    })
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error
    line.end()
    say('stopped before the first step')
    return 130
  } finally {
    line.end()
    interrupt.stop()
  }
}

/** `poll` throws Interrupted, which is thrown on where no step has been taken. */
async function trainUntil(
  folder: string,
  run: Run,
  options: TrainOptions,
  device: Device,
  line: ReturnType<typeof progress>,
  poll: () => void,
): Promise<number> {
  const { model, optimizer, training } = run
  const { seqLen: T, batch: B } = training
  const { evalEvery, saveEvery, sampleLength } = options
  const checkpointPath = join(folder, 'checkpoint.safetensors')
  const metricsPath = join(folder, 'metrics.jsonl')
  const first = optimizer.steps
  const sampler = samplerOf(run)
  const { whole, atEnd, onTheWay } = evaluationsOf(run, options)
  /** Lets a Ctrl-C in. */
  const pause = async (): Promise<void> => {
    await new Promise(setImmediate)
    poll()
  }
  await introduce(run, options, device, pause)
  const { steps } = training
  say(`${device.description}; steps ${first} to ${count(steps)} of ${B} x ${T} characters; output in ${folder}`)

  const trainer = new Trainer<TextModel>(model, optimizer, {
    schedule: scheduleOf(training, model.config.dModel),
    clipNorm: training.clip || Infinity,
    capture: true,
  })
  /** Of the first `targets` characters after the first. */
  const evaluate = (targets: number) => evaluationBatches(run.valid.subarray(0, targets + 1), T, B)
  const checked = (loss: number): number => {
    if (!Number.isFinite(loss)) throw new DivergenceError(optimizer.steps, 'validation loss', loss)
    return loss
  }
  /** Says how far it has come where that takes long. */
  async function* watched(targets: number): AsyncGenerator<Batch> {
    const began = performance.now()
    let done = 0
    for (const batch of evaluate(targets)) {
      yield batch
      done += batch.count
      const elapsed = performance.now() - began
      if (elapsed > quietMilliseconds)
        line.show(`evaluating  ${count(done)}/${count(targets)} characters  ETA ${duration(((targets - done) * elapsed) / done)}`, false)
      if (done < targets) await pause()
    }
  }
  const isDue = (step: number): boolean => step % evalEvery === 0 || step === steps
  /** Where something is to be done with the model after a step, and nothing may have begun. */
  const interrupts = (step: number): boolean => isDue(step) || step % saveEvery === 0 || step % sampler.stepsPerEpoch === 0
  let ahead: Promise<StepResult> | null = null
  const validate = async (): Promise<number> =>
    checked(await evaluateAlone(device, trainer, watched(optimizer.steps === steps ? atEnd : onTheWay)))
  const probe = () => evaluateAlone(device, trainer, evaluate(Math.min(whole, B * T)))
  /** A state that has just diverged must not replace a good one: its loss shows only in a step that is yet to come. */
  const checkpoint = async (): Promise<Replacement> => {
    checked(await probe())
    const { preset, vocabulary, text, arithmetic } = run
    const record = runMetadata({ preset, training, symbols: vocabulary.symbols, text, arithmetic })
    const texts = { ...record, ...(run.source && { [sourceKey]: JSON.stringify(run.source) }) }
    const file = replacement(checkpointPath)
    try {
      for await (const part of checkpointParts(model, optimizer, texts)) {
        file.write(part)
        freeBytes(part)
      }
    } catch (error) {
      file.discard()
      throw error
    }
    return file
  }

  // In its place once a step has been taken: settings that can't even do that leave nothing behind.
  let initial: Replacement | null = null
  let validLoss = Number.NaN
  let started = performance.now()
  const elapsed = (): number => performance.now() - started
  /** Of the last step, until it is written. */
  let record: Metrics | null = null
  const writeRecord = (): void => {
    if (record) appendMetrics(metricsPath, { ...record, seconds: elapsed() / 1000 })
    record = null
  }
  const explained = (error: unknown): unknown => {
    const saved = !initial && Math.max(first, optimizer.steps) > 0
    if (!(error instanceof DivergenceError && saved)) return error
    return new FileError(`${error.message}; the last good state is in ${checkpointPath}`)
  }
  try {
    if (first === 0) initial = await checkpoint()
    else if (!Number.isFinite(await probe()))
      throw new FileError(`training can't go on from ${checkpointPath}: the loss of its model isn't finite`)
    truncateMetrics(metricsPath, first)
    const last = readMetrics(metricsPath).at(-1)
    if (last?.step === first && isDue(first) && !('validLoss' in last)) {
      // It was stopped while it was evaluated.
      validLoss = await validate()
      truncateMetrics(metricsPath, first - 1)
      appendMetrics(metricsPath, { ...last, validLoss })
    }
    started = performance.now()
    for (let step = first + 1; step <= steps; step++) {
      poll()
      if (step > 1 && (step - 1) % sampler.stepsPerEpoch === 0 && model instanceof Transformer) model.endEpoch()
      const taken = ahead ?? trainer.step(sampler.batch(step - 1))
      ahead = null
      if (device.defers && !initial && !interrupts(step)) ahead = trainer.step(sampler.batch(step))
      const result = await taken
      initial?.replace()
      initial = null
      record = { ...result }
      if (isDue(step)) record.validLoss = validLoss = await validate()
      writeRecord()
      if (step % saveEvery === 0 || step === steps) (await checkpoint()).replace()
      const fields = [
        `step ${step}/${steps}`,
        `loss ${result.loss.toFixed(3)}`,
        Number.isNaN(validLoss) ? '' : `validation ${validLoss.toFixed(3)}`,
        `${count(Math.round(((step - first) * B * T * 1000) / elapsed()))} characters/s`,
        `ETA ${duration(((steps - step) * elapsed()) / (step - first))}`,
        `memory ${bytes(device.bytesReserved())}`,
        scaleOf(result),
      ]
      line.show(fields.filter(Boolean).join('  '), isDue(step))
      await new Promise(setImmediate)
    }
    const taken = elapsed()
    if (Number.isNaN(validLoss)) validLoss = await validate()
    line.end()
    const part =
      atEnd === whole
        ? 'whole validation text'
        : `the first ${count(atEnd)} of the ${count(run.valid.length)} characters of the validation text; --eval-limit 0 reads all`
    say(`trained ${steps - first} steps in ${duration(taken)}; validation loss ${validLoss.toFixed(4)} (${part})\n`)
    const chart = chartOf(metricsPath, `${run.preset} on ${visible(run.text.name)}`)
    const text = await sampleText(run, sampleLength, pause)
    const curvePath = join(folder, 'loss.svg')
    const samplePath = join(folder, 'sample.txt')
    writeAtomic(curvePath, svgChart(chart))
    writeAtomic(samplePath, `${text}\n`)
    process.stdout.write(`${terminalChart(chart)}\n\n`) // which may have colours
    say(`${text}\n`)
    for (const path of [checkpointPath, metricsPath, curvePath, samplePath]) say(`wrote ${path}`)
    return 0
  } catch (error) {
    line.end()
    const told = explained(error)
    initial?.discard()
    if (!(error instanceof Interrupted) || optimizer.steps === 0) throw told
    try {
      if (ahead) record = { ...(await ahead) }
    } catch (error) {
      throw explained(error)
    }
    writeRecord()
    const state = await checkpoint().catch((error) => {
      throw explained(error)
    })
    state.replace()
    const { text, textPath } = run
    const found = textPath === null || textPlaces(folder, text.name).includes(resolve(textPath))
    say(`stopped at step ${optimizer.steps}; go on with --resume ${quoted(folder)}${found ? '' : ` --text ${quoted(textPath)}`}`)
    return 130
  }
}

const samplerOf = ({ training, train, model }: Run): Sampler =>
  (training.sampling === 'epoch' ? sequentialBatches : randomBatches)(train, {
    B: training.batch,
    T: training.seqLen,
    seed: model.random.seed,
  })

/** Characters of the validation text: all of them, and those that an evaluation at the end and one on the way read. */
function evaluationsOf({ valid, training }: Run, { evalLimit }: TrainOptions): { whole: number; atEnd: number; onTheWay: number } {
  const whole = valid.length - 1
  const atEnd = Math.min(whole, evalLimit || whole)
  return { whole, atEnd, onTheWay: Math.min(atEnd, evalSequences * training.seqLen) }
}

/** Says what is trained on what; chooses the number of steps where minutes are given. */
async function introduce(run: Run, options: TrainOptions, device: Device, pause: () => Promise<void>): Promise<void> {
  const { model, training } = run
  say(
    `${count(model.parameterCount())} parameters; ${run.vocabulary.size} symbols; ${count(run.train.length)} characters to train on, ${count(run.valid.length)} to validate`,
  )
  say(stateLine(model))
  if (run.optimizer.steps === 0 && model instanceof Transformer && model.config.positions === 'none' && blind(layerMixers(model.config)))
    say('note: no layer knows the order of the characters before; --positions sinusoidal tells it')
  if (options.minutes === undefined) return
  if (options.resume !== undefined) say('note: --minutes changes nothing here: a resumed run keeps its number of steps')
  else training.steps = await fittingSteps(run, options, device, pause)
}

const count = (n: number): string => n.toLocaleString('en')

/** What the loss of a step was multiplied by, where that is so. */
const scaleOf = ({ lossScale, gradNorm }: StepResult): string =>
  lossScale === undefined ? '' : `loss scale ${count(lossScale)}${Number.isFinite(gradNorm) ? '' : ', left out: a gradient overflowed'}`

/** Runs `body` with the pieces of a run, done by a model of their own, which is then thrown away. */
async function tryOut<R>(run: Run, device: Device, pause: () => Promise<void>, body: (work: Work, trial: Trial) => Promise<R>): Promise<R> {
  const { training } = run
  const { seqLen: T, batch: B } = training
  const trial = openTrial(device, run.again, training, samplerOf(run), training.steps - run.optimizer.steps)
  const tokens = generate(trial.model, run.vocabulary.encode(training.prompt), { length: Number.MAX_SAFE_INTEGER })
  const work: Work = {
    async step() {
      await pause()
      await trial.step()
    },
    async evaluate() {
      await pause()
      const [batch] = evaluationBatches(run.valid, T, B)
      await evaluateAlone(device, trial.trainer, [batch])
      return batch.count
    },
    async sample() {
      await pause()
      await tokens.next()
    },
  }
  try {
    return await body(work, trial)
  } finally {
    await tokens.return(undefined)
    trial.close()
  }
}

/** `--dry-run`: what the run takes, from a trial of all that it does. Returns the exit code. */
async function plan(run: Run, options: TrainOptions, device: Device, poll: () => void): Promise<number> {
  const pause = async (): Promise<void> => {
    await new Promise(setImmediate)
    poll()
  }
  await introduce(run, options, device, pause)
  const { model, optimizer, training } = run
  const first = optimizer.steps
  const { seqLen: T, batch: B, steps } = training
  const { whole, atEnd, onTheWay } = evaluationsOf(run, options)
  const { evalEvery, saveEvery, sampleLength: sample } = options
  // The trial's take their place, so that what the device reports is what it will report of one run.
  optimizer.dispose()
  model.dispose()
  const row = (name: string, text: string): void => say(`  ${name.padEnd(15)}${text}`)
  /** Between the first step and the last. */
  const every = (n: number): number => Math.max(0, Math.floor((steps - 1) / n) - Math.floor(first / n))
  const saves = every(saveEvery) + 2
  const evaluated = every(evalEvery) * onTheWay + saves * Math.min(whole, B * T) + atEnd
  await tryOut(run, device, pause, async (work, trial) => {
    /** The first are slower than the others. */
    const timed: number[] = []
    const pace = await measurePace(
      {
        ...work,
        async step() {
          await pause()
          timed.push(await trial.step())
        },
      },
      Infinity,
      () => performance.now(),
      { step: steps - first, evaluate: evaluated, sample },
    )
    const { parameters, optimizer: moments, inUse, reserved } = trial.memory()
    const total = millisecondsOf({ steps: steps - first, evaluated, sample }, pace, timed)
    const states = statesOf(trial.model).reduce((n, { size, growth }) => n + size + growth * T, 0)
    const width = device.double ? 8 : 4
    say(`plan on ${device.description}; nothing is written`)
    row('parameters', `${bytes(parameters)}, their gradients as much`)
    row('optimizer', `${bytes(moments)} (${training.optimizer})`)
    row(
      'activations',
      `${bytes(Math.max(0, inUse - 2 * parameters - moments))}: the most of all else that a step, an evaluation or a sample holds`,
    )
    row('states', `${bytes(width * states)} a sequence, ${bytes(width * B * states)} a batch: part of these`)
    row('memory', `${bytes(inUse)} in use at most; ${bytes(reserved)} taken from the system`)
    row(
      'a step',
      `${Number(pace.step.toPrecision(3))} ms, ${B} x ${T} characters: ${count(Math.round((1000 * B * T) / pace.step))} a second`,
    )
    row('the whole run', `${duration(total)}: steps ${first} to ${count(steps)}, evaluations, a sample of ${count(sample)} characters`)
  })
  return 0
}

/** See pace.ts. */
async function fittingSteps(run: Run, options: TrainOptions, device: Device, pause: () => Promise<void>): Promise<number> {
  const { training } = run
  const { evalEvery, saveEvery, sampleLength: sample } = options
  const { atEnd, onTheWay } = evaluationsOf(run, options)
  const beside: Beside = { perStep: onTheWay / evalEvery + (training.batch * training.seqLen) / saveEvery, atEnd, sample }
  const minutes = options.minutes!
  const budget = minutes * 60_000
  const began = performance.now()
  return tryOut(run, device, pause, async (work) => {
    const pace = await measurePace(work, budget, () => performance.now())
    const fit = stepsThatFit(budget - (performance.now() - began), pace, beside)
    const { steps, line } = chooseSteps(fit, options.given.has('steps') ? training.steps : Infinity, pace, minutes)
    say(line)
    return steps
  })
}

async function newRun(options: TrainOptions, device: Device): Promise<Run> {
  const { preset, seed, arithmetic } = options
  checkPackagePreset(preset, options.given)
  const { content, path: textPath, ...text } = await loadText(options.text ?? null)
  const { train, valid } = splitText(content, 0.9, options.training.seqLen)
  const vocabulary = charVocabulary(content)
  const training = { ...options.training, prompt: promptFor(content, vocabulary, options) }
  if (options.out !== undefined) checkVacant(options.out)
  const made = isPackagePreset(preset) ? packageModel(preset, vocabulary, seed) : ownModel(options, vocabulary, training, device)
  const optimizer = optimizerOf(made.model, training)
  return {
    preset,
    ...made,
    optimizer,
    training,
    vocabulary,
    text,
    textPath,
    arithmetic,
    train: vocabulary.encode(train),
    valid: vocabulary.encode(valid),
  }
}

function ownModel(
  { model, seed }: TrainOptions,
  { size: symbols }: Vocabulary,
  training: TrainingConfig,
  device: Device,
): Pick<Run, 'model' | 'source' | 'again'> {
  const config = { ...model, symbols }
  checkMemory(config, training, device)
  const again = () => new Transformer(config, seed)
  return { model: again(), source: null, again }
}

function packageModel(preset: PackagePresetName, { size }: Vocabulary, seed: number): Pick<Run, 'model' | 'source' | 'again'> {
  const { package: of, config } = packagePresets[preset]
  const make = () => newPretrained({ ...config, vocab_size: size }, of, seed)
  return { ...make(), again: () => make().model }
}

/** How much the layers remember of a sequence. */
function stateLine(model: TextModel): string {
  const layers = statesOf(model)
  const alike = layers.every(({ size, growth }) => size === layers[0].size && growth === layers[0].growth)
  const total = (of: 'size' | 'growth'): string =>
    (alike ? layers[0][of] : layers.reduce((n, layer) => n + layer[of], 0)).toLocaleString('en')
  const where = alike ? 'in each layer' : 'in all layers'
  if (layers.every(({ growth }) => growth === 0)) return `state of a sequence: ${total('size')} numbers ${where}, whatever its length`
  const fixed = layers.every(({ growth }) => growth > 0) ? '' : `${total('size')} numbers, and `
  return `state of a sequence: ${fixed}${total('growth')} numbers a character ${where}`
}

/** What the checkpoint fixed can't be changed; how long to train can. */
const resumable = new Set([
  'resume',
  'text',
  'steps',
  'minutes',
  'dry-run',
  'device',
  'precision',
  'threads',
  'relaxed',
  'simd',
  'profile',
  'eval-every',
  'eval-limit',
  'save-every',
  'sample-length',
])

function checkResumable(folder: string, options: TrainOptions): void {
  const fixed = [...options.given].find((name) => !resumable.has(name))
  if (fixed)
    throw new UsageError(
      `--${fixed}: a resumed run keeps its settings (only ${[...resumable].filter((name) => name !== 'resume').join(', ')} can be given)`,
    )
  if (existsSync(folder) && statSync(folder).isFile()) throw new UsageError(`--resume: ${folder} is a file; give the folder of the run`)
}

async function resumeRun(folder: string, options: TrainOptions, device: Device): Promise<Run> {
  const { checkpoint, vocabulary, training: saved, preset, text: trainedOn, arithmetic } = openRun(folder)
  const training = options.given.has('steps') ? { ...saved, steps: options.training.steps } : saved
  if (training.steps < checkpoint.steps) throw new UsageError(`--steps: the run has taken ${checkpoint.steps} steps already`)
  const { content, path: textPath, ...text } = await (options.text === undefined ? findText(folder, trainedOn) : loadText(options.text))
  if (text.hash !== trainedOn.hash)
    throw new FileError(`${text.name} isn't the text that the run was trained on (${trainedOn.name}): give that one with --text`)
  const { train, valid } = splitText(content, 0.9, training.seqLen)
  if (arithmetic !== options.arithmetic)
    say(
      `note: the run was trained in ${printable(arithmetic)} and goes on in ${options.arithmetic}, so it won't repeat an unbroken run exactly`,
    )
  if (training.schedule === 'cosine' && training.steps !== saved.steps)
    say(`note: the learning rate falls until step ${training.steps} from now on; so far it fell until step ${saved.steps}`)
  if (checkpoint.kind === 'transformer') checkMemory(checkpoint.config as TransformerConfig, training, device)
  const again = () => modelOf<'transformer' | 'blocks'>(checkpoint)
  const model = again()
  const optimizer = optimizerOf(model, training)
  restoreOptimizer(optimizer, checkpoint)
  return {
    preset,
    model,
    source: checkpoint.kind === 'blocks' ? openImported(folder).source : null,
    again,
    optimizer,
    training,
    vocabulary,
    text,
    textPath,
    arithmetic: options.arithmetic,
    train: vocabulary.encode(train),
    valid: vocabulary.encode(valid),
  }
}

/** The prompt must be in the vocabulary. A preset's, which nobody chose, gives way to the first word of the text. */
function promptFor(text: string, vocabulary: Vocabulary, { given, training: { prompt } }: TrainOptions): string {
  const known = new Set(vocabulary.symbols)
  if (given.has('prompt') || [...prompt].every((character) => known.has(character))) {
    vocabulary.encode(prompt)
    return prompt
  }
  const word = /\S{1,20}/u.exec(text)?.[0] ?? text[0]
  const quote = (what: string): string => printable(JSON.stringify(what))
  say(`note: the text lacks a character of ${quote(prompt)}; the sample will continue ${quote(word)}`)
  return word
}

/** Refuses at once what can't fit: a lower bound of a step's memory (values, gradients, a moment; what the layers keep for the backward). */
function checkMemory(
  { symbols, dModel: D, heads, dFf, layers, featureMap, favorFeatures, recompute }: TransformerConfig,
  { batch: B, seqLen: T }: TrainingConfig,
  device: Device,
): void {
  const parameters = layers * (4 * D * D + 2 * D * dFf) + 2 * symbols * D
  // Queries and keys, 2 m features each.
  const features = featureMap === 'favor' ? 4 * heads * favorFeatures : 0
  const recomputed = typeof recompute === 'boolean' ? Number(recompute) * layers : new Set(recompute).size
  const kept = B * T * (recomputed * D + (layers - recomputed) * (4 * D + features + dFf) + symbols)
  // How much a GPU has isn't known: this much none has.
  const limit = { reference: os.totalmem(), wasm: 2 ** 32, webgpu: 2 ** 40 }[device.name]
  const needed = (device.double ? 8 : 4) * (3 * parameters + kept)
  if (needed > limit) {
    const favor = features > 0 ? `--favor-features ${favorFeatures}, ` : ''
    const sizes = `--d-model ${D}, --d-ff ${dFf}, --layers ${layers}, ${favor}--batch ${B} and --seq-len ${T}`
    throw new UsageError(`${sizes} need at least ${bytes(needed)} of memory, the ${device.name} device has at most ${bytes(limit)}`)
  }
}

async function sampleText({ model, vocabulary, training }: Run, length: number, pause: () => Promise<void>): Promise<string> {
  let text = training.prompt
  for await (const token of generate(model, vocabulary.encode(training.prompt), { length, temperature: 0.8 })) {
    text += vocabulary.decode([token])
    await pause()
  }
  return text
}

function chartOf(metricsPath: string, title: string): Chart {
  const records = readMetrics(metricsPath) as { step: number; loss: number; validLoss?: number }[]
  return {
    title,
    unit: 'nats a character',
    series: [
      { name: 'training', points: records.map(({ step, loss }) => [step, loss] as const) },
      {
        name: 'validation',
        points: records.flatMap(({ step, validLoss }) => (validLoss === undefined ? [] : [[step, validLoss] as const])),
      },
    ],
  }
}
