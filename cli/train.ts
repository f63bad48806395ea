/**
 * Training with everything around it: text, progress, metrics, checkpoints, resuming, interruption, and what is shown at the end.
 * In the output folder: checkpoint.safetensors (replaced atomically), metrics.jsonl, loss.svg, sample.txt.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Device } from '../engine/index.ts'
import { Adam, AdamW, DivergenceError, generate, modelOf, restoreOptimizer, Trainer, Transformer, writeCheckpoint } from '../nn/index.ts'
import { defaultText, readText } from '../tasks/download.ts'
import { type Recipe, scheduleOf, type TrainingConfig } from '../tasks/presets.ts'
import { charVocabulary, evaluationBatches, randomBatches, sequentialBatches, splitText, type Vocabulary } from '../tasks/text.ts'
import { UsageError } from './arguments.ts'
import { type Chart, svgChart, terminalChart } from './chart.ts'
import { appendMetrics, FileError, prepareOutputFolder, readMetrics, truncateMetrics, writeAtomic } from './files.ts'
import { freeFolder, openRun, runMetadata, textHash } from './runs.ts'
import { bytes, duration, onInterrupt, progress, say } from './terminal.ts'

export interface TrainOptions extends Recipe {
  preset: string
  text: string | undefined
  out: string | undefined
  resume: string | undefined
  seed: number
  evalEvery: number
  saveEvery: number
  sampleLength: number
  /** Options given by hand, by name. */
  given: ReadonlySet<string>
}

interface Run {
  folder: string
  preset: string
  model: Transformer
  optimizer: Adam
  training: TrainingConfig
  seed: number
  vocabulary: Vocabulary
  text: { source: string; hash: string }
  train: Int32Array
  valid: Int32Array
}

/** Sequences of the validation text that an evaluation on the way reads; the one at the end reads all. */
const evalSequences = 128

/** Returns the exit code. */
export async function train(options: TrainOptions, device: Device): Promise<number> {
  const run = options.resume === undefined ? await newRun(options) : await resumeRun(options.resume, options)
  const { folder, model, optimizer, training } = run
  const { seqLen: T, batch: B, steps } = training
  const checkpointPath = join(folder, 'checkpoint.safetensors')
  const metricsPath = join(folder, 'metrics.jsonl')

  const trainer = new Trainer(model, optimizer, { schedule: scheduleOf(training, model.config.dModel), clipNorm: training.clip || Infinity })
  const sampler = (training.sampling === 'epoch' ? sequentialBatches : randomBatches)(run.train, { B, T, seed: run.seed })
  const save = async (): Promise<void> => {
    const { preset, seed, vocabulary, text } = run
    writeAtomic(checkpointPath, await writeCheckpoint(model, optimizer, runMetadata({ preset, training, seed, symbols: vocabulary.symbols, text })))
  }
  const validate = (whole: boolean): Promise<number> =>
    trainer.evaluate(evaluationBatches(whole ? run.valid : run.valid.subarray(0, evalSequences * T + 1), T, B))

  const count = (n: number): string => n.toLocaleString('en')
  say(`${count(model.parameterCount())} parameters; ${run.vocabulary.size} symbols; ${count(run.train.length)} characters to train on, ${count(run.valid.length)} to validate`)
  say(`${device.description}; steps ${optimizer.steps} to ${count(steps)} of ${B} x ${T} characters; output in ${folder}`)
  truncateMetrics(metricsPath, optimizer.steps)
  if (optimizer.steps === 0) await save()

  const interrupt = onInterrupt()
  const line = progress()
  const first = optimizer.steps
  const started = performance.now()
  let validLoss = Number.NaN
  try {
    while (optimizer.steps < steps && !interrupt.asked()) {
      const result = await trainer.step(sampler.batch(optimizer.steps))
      const { step } = result
      const evaluated = step % options.evalEvery === 0 || step === steps
      if (evaluated) validLoss = await validate(step === steps)
      const elapsed = performance.now() - started
      appendMetrics(metricsPath, { ...result, ...(evaluated && { validLoss }), seconds: elapsed / 1000 })
      if (step % options.saveEvery === 0 || step === steps) await save()
      const fields = [
        `step ${step}/${steps}`, `loss ${result.loss.toFixed(3)}`, Number.isNaN(validLoss) ? '' : `validation ${validLoss.toFixed(3)}`,
        `${count(Math.round(((step - first) * B * T * 1000) / elapsed))} characters/s`, `ETA ${duration(((steps - step) * elapsed) / (step - first))}`,
        bytes(device.bytesInUse()),
      ]
      line.show(fields.filter(Boolean).join('  '), evaluated)
      await new Promise(setImmediate) // lets a Ctrl-C in
    }
  } catch (error) {
    line.end()
    if (error instanceof DivergenceError) throw new FileError(`${error.message}; the last good state is in ${checkpointPath}`)
    throw error
  } finally {
    interrupt.stop()
  }
  line.end()
  if (interrupt.asked() && optimizer.steps < steps) {
    await save()
    say(`stopped at step ${optimizer.steps}; go on with --resume ${folder}`)
    return 130
  }

  const elapsed = performance.now() - started
  if (optimizer.steps === first) validLoss = await validate(true)
  say(`trained ${steps - first} steps in ${duration(elapsed)}; validation loss ${validLoss.toFixed(4)} nats a character over the whole validation text\n`)
  const chart = chartOf(metricsPath, `${run.preset} on ${run.text.source}`)
  const text = await sampleText(run, options.sampleLength)
  const curvePath = join(folder, 'loss.svg')
  const samplePath = join(folder, 'sample.txt')
  writeAtomic(curvePath, svgChart(chart))
  writeAtomic(samplePath, `${text}\n`)
  say(`${terminalChart(chart)}\n\n${text}\n`)
  for (const path of [checkpointPath, metricsPath, curvePath, samplePath]) say(`wrote ${path}`)
  return 0
}

async function newRun(options: TrainOptions): Promise<Run> {
  const { training, preset, seed } = options
  const { source, text } = await loadText(options.text)
  const { train, valid } = splitText(text, 0.9, training.seqLen)
  const vocabulary = charVocabulary(text)
  vocabulary.encode(training.prompt)
  const folder = options.out ?? freeFolder(options.preset)
  if (existsSync(join(folder, 'checkpoint.safetensors'))) throw new FileError(`${folder} holds a run already: go on with --resume ${folder}, or name another --out`)
  const model = new Transformer({ ...options.model, symbols: vocabulary.size }, seed)
  const optimizer = optimizerOf(model, training)
  prepareOutputFolder(folder)
  const encoded = { train: vocabulary.encode(train), valid: vocabulary.encode(valid) }
  return { folder, preset, model, optimizer, training, seed, vocabulary, text: { source, hash: textHash(text) }, ...encoded }
}

/** What the checkpoint fixed can't be changed; how long to train can. */
const resumable = new Set(['resume', 'text', 'steps', 'device', 'threads', 'relaxed', 'eval-every', 'save-every', 'sample-length'])

async function resumeRun(folder: string, options: TrainOptions): Promise<Run> {
  const fixed = [...options.given].find((name) => !resumable.has(name))
  if (fixed) throw new UsageError(`--${fixed}: a resumed run keeps its settings (only ${[...resumable].filter((name) => name !== 'resume').join(', ')} can be given)`)
  const { checkpoint, vocabulary, training: saved, preset, seed, text: trainedOn } = openRun(folder)
  const training = options.given.has('steps') ? { ...saved, steps: options.training.steps } : saved
  if (training.steps < checkpoint.steps) throw new UsageError(`--steps: the run has taken ${checkpoint.steps} steps already`)
  const { source, text } = await loadText(options.text ?? (existsSync(trainedOn.source) ? trainedOn.source : undefined))
  if (textHash(text) !== trainedOn.hash) throw new FileError(`${source} isn't the text that the run was trained on (${trainedOn.source}): give that one with --text`)
  const { train, valid } = splitText(text, 0.9, training.seqLen)
  prepareOutputFolder(folder)
  const model = modelOf(checkpoint)
  const optimizer = optimizerOf(model, training)
  restoreOptimizer(optimizer, checkpoint)
  return { folder, preset, model, optimizer, training, seed, vocabulary, text: trainedOn, train: vocabulary.encode(train), valid: vocabulary.encode(valid) }
}

function optimizerOf(model: Transformer, { optimizer, lr, beta2, weightDecay }: TrainingConfig): Adam {
  return new (optimizer === 'adamw' ? AdamW : Adam)(model.namedParameters(), { lr, betas: [0.9, beta2], weightDecay })
}

async function loadText(path: string | undefined): Promise<{ source: string; text: string }> {
  if (path !== undefined) return { source: path, text: await readText(path) }
  const { name, text } = await defaultText({ log: say })
  return { source: name, text }
}

async function sampleText({ model, vocabulary, training }: Run, length: number): Promise<string> {
  let text = training.prompt
  for await (const token of generate(model, vocabulary.encode(training.prompt), { length, temperature: 0.8 })) text += vocabulary.decode([token])
  return text
}

function chartOf(metricsPath: string, title: string): Chart {
  const records = readMetrics(metricsPath) as { step: number; loss: number; validLoss?: number }[]
  return {
    title, unit: 'nats a character',
    series: [
      { name: 'training', points: records.map(({ step, loss }) => [step, loss] as const) },
      { name: 'validation', points: records.flatMap(({ step, validLoss }) => (validLoss === undefined ? [] : [[step, validLoss] as const])) },
    ],
  }
}
