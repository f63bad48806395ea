/** A model of the playground that learns: from settings, or from a file. Runs in the worker. */
import { type Device, noGrad, rules, scope, tensor } from 'fastweights'
import {
  type Checkpoint,
  kindOfCheckpoint,
  modelOf,
  type Optimizer,
  readCheckpoint,
  restoreOptimizer,
  Trainer,
  Transformer,
  type TransformerConfig,
  writeCheckpoint,
} from 'fastweights/nn'
import {
  type AnyTask,
  batchOf,
  charVocabulary,
  type Example,
  examplesOf,
  metrics,
  optimizerOf,
  presets,
  randomBatches,
  type Sampler,
  scheduleOf,
  settingsOf,
  splitText,
  type TaskName,
  type TrainingConfig,
  taskBatches,
  tasks,
  type Vocabulary,
  vocabularyOf,
} from 'fastweights/tasks'
import { layerMixers } from '../../dist/nn/index.js'
import { blind } from '../../dist/nn/mixers.js'
import { decodeText } from '../../dist/tasks/decode.js'
import type { Place, Racer, Source } from './messages.ts'
import { racersOf, type Settings } from './settings.ts'
import { ownPrompt, ownText } from './text.ts'

// --- What is learnt -------------------------------------------------------------------------------------------------------------------

/** What racers learn, all of them the same. */
export interface Lesson {
  /** Its name, for people. */
  name: string
  sampler: Sampler
  symbols: number
  training: TrainingConfig
  /** Of a text. */
  vocabulary?: Vocabulary
  text?: string
  prompt: string
  /** Of a task. */
  task?: { name: TaskName; row: AnyTask; settings: object; tests: readonly Example[] }
}

const seqLen = 64
const batch = 8
/** Sequences that a model is examined with. */
const tests = 32

/** Sizes that a page learns within a minute or two. */
const taskSettings: Record<string, { name: TaskName; settings: object }> = {
  retrieval: { name: 'retrieval-2', settings: { keys: 6, pairs: 12 } },
  parity: { name: 'parity', settings: { minLength: 2, maxLength: 24, testMin: 25, testMax: 40 } },
  copy: { name: 'copy', settings: { length: 10 } },
}

/** Muon at a constant rate: a run in a page has no end. */
function trainingOf(settings: Settings, more: Partial<TrainingConfig>): TrainingConfig {
  const { lr, matrixLr, ...rest } = presets.default.training
  const rate = Number(settings.rate)
  return { ...rest, lr: lr * rate, matrixLr: (matrixLr * rate) / 2, schedule: 'constant', warmup: 0, steps: 1, ...more }
}

/** A text as the command reads it; a text that was pasted may begin with a mark of byte order, too. */
const textOf = ({ own, name }: Source): string =>
  own === null ? ownText() : typeof own === 'string' ? own.replace(/^\ufeff/, '') : decodeText(own, name)

function textLesson(source: Source, settings: Settings, vocabulary?: Vocabulary): Lesson {
  const text = textOf(source)
  const own = vocabulary ?? charVocabulary(text)
  // Of a short text shorter sequences, as long as there is one to learn from.
  const count = text.length > 20 * seqLen ? seqLen : Math.max(1, Math.min(seqLen, Math.floor(0.9 * [...text].length) - 1))
  const { train } = splitText(text, 0.9, count)
  const training = trainingOf(settings, { seqLen: count, batch, prompt: promptOf(source, text) })
  const sampler = randomBatches(own.encode(train), { B: batch, T: count, seed: Number(settings.seed) })
  return { name: source.name, sampler, symbols: own.size, training, vocabulary: own, text, prompt: training.prompt }
}

/** What the memory is shown first: the page's own text has a story for it. */
const promptOf = ({ own }: Source, text: string): string => (own === null ? ownPrompt : [...text.slice(0, 200)].slice(0, 100).join(''))

function taskLesson(settings: Settings): Lesson {
  const { name, settings: given } = taskSettings[settings.task]
  const row: AnyTask = tasks[name]
  const own = settingsOf(row, given)
  const seed = Number(settings.seed)
  const B = settings.task === 'copy' ? 16 : 24
  const drawn = examplesOf(row, own, 'valid', seed, tests)
  const training = trainingOf(settings, { seqLen: drawn[0].inputs.length, batch: B, prompt: '' })
  return {
    name: row.title,
    sampler: taskBatches(row, own, { B, seed }),
    symbols: row.symbols(own),
    training,
    prompt: '',
    task: { name, row, settings: own, tests: drawn },
  }
}

export const lessonOf = (source: Source, settings: Settings): Lesson =>
  settings.task === 'text' ? textLesson(source, settings) : taskLesson(settings)

// --- What learns ----------------------------------------------------------------------------------------------------------------------

const isRule = (name: string): name is keyof typeof rules => Object.hasOwn(rules, name)

/** The recipe of a rule, or of what else a layer may do: the preset of its name, else of its paper, else the delta rule's with another rule. */
function recipeOf(name: string): Omit<TransformerConfig, 'symbols'> {
  const all: Readonly<Record<string, { model: Omit<TransformerConfig, 'symbols'> }>> = presets
  const own = all[name] ?? Object.values(all).find(({ model }) => model.rule === name && !model.mixer && name !== 'delta')
  if (own) return own.model
  if (!isRule(name)) return { ...presets.softmax.model, attention: 'fast-weights', mixer: name as never }
  // What divides by z . q needs features that keep it above 0.
  const positive = 'z' in rules[name].state ? ({ featureMap: 'elu1', featureNorm: 'none' } as const) : {}
  return { ...presets.delta.model, ...positive, rule: name as never }
}

/** The model of a racer, and the settings that mean nothing to it. */
function modelConfig(name: string, settings: Settings, symbols: number): { config: TransformerConfig; ignored: string[] } {
  const base = recipeOf(name)
  const [dModel, heads, layers] = ['width', 'heads', 'layers'].map((field) => Number(settings[field]))
  const inputs = isRule(name) ? rules[name].inputs : {}
  const ignored: string[] = []
  const chosen = (field: string, means: boolean): boolean => {
    if (settings[field] !== 'auto' && !means) ignored.push(field)
    return settings[field] !== 'auto' && means
  }
  const keys = 'q' in inputs
  const config = {
    ...base,
    symbols,
    dModel,
    heads,
    layers,
    dFf: 2 * dModel,
    ...(chosen('map', keys) && { featureMap: settings.map }),
    ...(chosen('norm', keys) && { featureNorm: settings.norm }),
    ...(chosen('gate', 'gate' in inputs) && { gate: settings.gate }),
  } as TransformerConfig
  // A recurrent net has one head of the whole width where its recipe says so.
  if (base.mixer !== undefined && base.heads === 1) config.heads = 1
  if (config.positions === 'none' && blind(layerMixers(config) as never)) config.positions = 'sinusoidal'
  return { config, ignored }
}

export interface Learner {
  readonly racer: Racer
  readonly model: Transformer
  readonly optimizer: Optimizer
  readonly trainer: Trainer<Transformer>
  dispose(): void
}

function learnerOf(racer: Omit<Racer, 'parameters'>, model: Transformer, lesson: Lesson, checkpoint?: Checkpoint): Learner {
  const { training } = lesson
  const optimizer = optimizerOf(model, training)
  const trainer = new Trainer(model, optimizer, {
    schedule: scheduleOf(training, model.config.dModel),
    clipNorm: training.clip || Infinity,
  })
  const learner: Learner = {
    racer: { ...racer, parameters: model.parameterCount() },
    model,
    optimizer,
    trainer,
    dispose() {
      trainer.dispose()
      optimizer.dispose()
      model.dispose()
    },
  }
  try {
    if (checkpoint) restoreOptimizer(optimizer, checkpoint)
  } catch (error) {
    learner.dispose()
    throw error
  }
  return learner
}

/** All of them, or an error and none. */
export function learnersOf(settings: Settings, lesson: Lesson): Learner[] {
  const learners: Learner[] = []
  try {
    for (const name of racersOf(settings)) {
      const { config, ignored } = modelConfig(name, settings, lesson.symbols)
      learners.push(learnerOf({ name, ignored }, new Transformer(config, Number(settings.seed)), lesson))
    }
  } catch (error) {
    for (const learner of learners) learner.dispose()
    throw error
  }
  return learners
}

/** The same learner on the default device: its weights, and what its optimiser knows. */
export async function moved(learner: Learner, lesson: Lesson): Promise<Learner> {
  return revived(await snapshot(learner), learner.racer, lesson)
}

export const snapshot = ({ model, optimizer }: Learner): Promise<Uint8Array> => writeCheckpoint(model, optimizer)

export function revived(bytes: Uint8Array, racer: Racer, lesson: Lesson): Learner {
  const checkpoint = readCheckpoint(bytes)
  return learnerOf(racer, modelOf(checkpoint), lesson, checkpoint)
}

// --- Examining ------------------------------------------------------------------------------------------------------------------------

/** The task's metric on sequences that weren't learnt, and the first of them as people read it. */
export async function examined({ model }: Learner, { task }: Lesson, device: Device): Promise<{ share: number; places: Place[] }> {
  const { row, settings, tests } = task!
  const { tokens, targets, B, T } = batchOf(tests, row.pad(settings))
  const wasTraining = model.training
  model.eval()
  const logits = scope(() => noGrad(() => model.forward(tensor(tokens, { shape: [B, T], device })).logits))
  model.train(wasTraining)
  const values = await logits.read().finally(() => logits.dispose())
  const N = values.length / (B * T)
  const answer = (place: number): number => {
    let best = 0
    for (let n = 1; n < N; n++) if (values[place * N + n] > values[place * N + best]) best = n
    return best
  }
  const metric = metrics[row.metric]()
  metric.add(
    targets.map((target, place) => (target < 0 ? 0 : answer(place))),
    targets,
    B,
  )
  const places = Array.from(tests[0].inputs, (input, t) => ({
    input: `${input}`,
    ...(tests[0].targets[t] >= 0 && { target: `${tests[0].targets[t]}`, answer: `${answer(t)}` }),
  }))
  return { share: metric.value(), places }
}

// --- Files ----------------------------------------------------------------------------------------------------------------------------

/** As `train` and `task` of the command write it, so that `generate` and `inspect` read it; `train --resume` asks for the text, too, which isn't in it. */
export async function saved({ model, optimizer }: Learner, { vocabulary, text, training, task, name }: Lesson): Promise<Uint8Array> {
  const whole = { ...training, steps: Math.max(1, optimizer.steps) }
  if (task)
    return writeCheckpoint(model, optimizer, { task: JSON.stringify({ name: task.name, settings: task.settings, training: whole }) })
  const hash = await hashOf(text!)
  const run = { preset: 'playground', training: whole, symbols: vocabulary!.symbols, text: { name, hash }, arithmetic: 'float32' }
  return writeCheckpoint(model, optimizer, { run: JSON.stringify(run) })
}

/** SHA-256, as the command has it, by which it knows the text again. Only a secure page can make one. */
async function hashOf(text: string): Promise<string> {
  if (!crypto.subtle) return ''
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

export interface Opened {
  learner: Learner
  lesson: Lesson
  /** Why it can't go on learning; undefined where it can. */
  still?: string
}

/** A model that was trained here, or by the command. Its text isn't in the file: it goes on with the one that is open, if it has no other characters. */
export function opened(bytes: Uint8Array, name: string, source: Source, settings: Settings): Opened {
  try {
    return open(bytes, name, source, settings)
  } catch (error) {
    throw new Error(`${name} can’t be used: ${(error as Error).message}`)
  }
}

function open(bytes: Uint8Array, name: string, source: Source, settings: Settings): Opened {
  const kind = kindOfCheckpoint(bytes)
  if (kind !== 'transformer') throw new Error(`it holds a model of the kind ${kind}: the page opens what npm start and this page write`)
  const checkpoint = readCheckpoint(bytes)
  const { run, task } = checkpoint.extra
  if (run === undefined && task === undefined)
    throw new Error(`it doesn’t say what its model has learnt: the page opens what npm start and this page write`)
  let lesson: Lesson
  let still: string | undefined
  if (task !== undefined) {
    const at = parsed(task) as { name?: string }
    const known = Object.keys(taskSettings).find((one) => taskSettings[one].name === at.name)
    if (known === undefined) throw new Error(`its model has learnt ${String(at.name)}, which this page doesn’t have`)
    lesson = taskLesson({ ...settings, task: known })
    if (lesson.symbols !== checkpoint.config.symbols)
      throw new Error(`it has ${checkpoint.config.symbols} symbols, the page’s task ${known} has ${lesson.symbols}`)
  } else {
    const { symbols } = parsed(run!) as { symbols?: unknown }
    if (!Array.isArray(symbols) || symbols.length !== checkpoint.config.symbols || !symbols.every((symbol) => typeof symbol === 'string'))
      throw new Error('what it says of its characters doesn’t fit its model')
    const vocabulary = vocabularyOf(symbols)
    try {
      lesson = textLesson(source, { ...settings, task: 'text' }, vocabulary)
    } catch (error) {
      still = `It can’t learn from the text that is open: ${(error as Error).message}. It reads and writes all the same.`
      const prompt = symbols.includes(' ') ? ' ' : symbols[0]
      const training = trainingOf(settings, { seqLen, batch, prompt })
      const none: Sampler = {
        stepsPerEpoch: 1,
        batch: () => {
          throw new Error(still)
        },
      }
      lesson = { name: source.name, sampler: none, symbols: vocabulary.size, training, vocabulary, text: '', prompt }
    }
  }
  const { rule, mixer } = checkpoint.config
  const what =
    mixer === undefined
      ? rule
      : [mixer]
          .flat()
          .map((one) => (typeof one === 'string' ? one : 'rule' in one ? one.rule : 'net' in one ? one.net : one.kind))
          .join(', ')
  const learner = learnerOf({ name: `${what} of ${name}`, ignored: [] }, modelOf(checkpoint), lesson)
  try {
    restoreOptimizer(learner.optimizer, checkpoint)
  } catch {
    // Of another optimiser, or without its state: it begins anew.
  }
  return { learner, lesson, ...(still !== undefined && { still }) }
}

function parsed(json: string): object {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch {
    // Told below.
  }
  if (typeof value !== 'object' || value === null) throw new Error('what its metadata says about its run isn’t JSON')
  return value
}
