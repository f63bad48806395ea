/**
 * Characters of a text, learnt by different memories with as many parameters in the same processor time: each memory as its preset has it, the
 * feed-forward layers as wide as the other parameters leave room for. Tests: test/experiments.
 */
import type { LayerState } from '../nn/mixer.ts'
import type { LanguageModel, Trainable } from '../nn/model.ts'
import type { Optimizer } from '../nn/optimizers.ts'
import { newPretrained } from '../nn/pretrained/open.ts'
import { DivergenceError, Trainer } from '../nn/trainer.ts'
import { Transformer, type TransformerConfig } from '../nn/transformer.ts'
import { optimizerOf, type PresetName, packagePresets, presets, scheduleOf, type TrainingConfig } from '../tasks/presets.ts'
import { charVocabulary, randomBatches, splitText } from '../tasks/text.ts'
import { perplexity } from '../tasks/words.ts'
import { type Cell, type Figure, type Files, fileName, type Outcome, processorSeconds, search, type Watch } from './figure.ts'

type Reader = LanguageModel<LayerState> & Trainable

/** The presets that are compared, by what they are called in the table. */
const memories: Readonly<Record<string, PresetName | 'rwkv7'>> = {
  softmax: 'softmax',
  'linear attention': 'linear-transformer',
  'delta, DPFP': 'schlag-delta',
  'gated delta': 'gated-deltanet',
  KDA: 'kda',
  'RWKV-7': 'rwkv7',
  'AFT-local': 'aft-local',
  'Delta RNN': 'delta-rnn',
  'recurrent delta': 'recurrent-delta',
  LSTM: 'lstm',
}

/** What is the same in all cells; a test makes it small. */
export interface CharacterSizes {
  /** About as many as a model has. */
  parameters: number
  /** Of the processor, for all steps. */
  seconds: number
  /** Where models differ from their presets. */
  model: Partial<TransformerConfig>
  training: Partial<TrainingConfig>
}

const sizes: CharacterSizes = { parameters: 880_000, seconds: 600, model: {}, training: {} }
/** The parts of the time after which it is tested. */
const parts = 5
/** The part of the time that a model may take beforehand, to find its pace; the first steps, in which code is still compiled, don't count. */
const trial = 0.05
const firstSteps = 5

/** A model of a preset with feed-forward layers so wide, and its recipe. */
function readerOf(preset: PresetName | 'rwkv7', symbols: number, dFf: number, seed: number, { model, training }: CharacterSizes) {
  if (preset !== 'rwkv7') {
    const recipe = presets[preset]
    const reader: Reader = new Transformer({ ...recipe.model, ...model, dFf, symbols }, seed)
    return { reader, training: { ...recipe.training, ...training } }
  }
  const recipe = packagePresets.rwkv7
  const reader: Reader = newPretrained({ ...recipe.config, intermediate_size: dFf, vocab_size: symbols }, recipe.package, seed).model
  return { reader, training: { ...recipe.training, ...training } }
}

/** The width that makes about as many parameters, whose number grows by the same for each unit. */
export function widthFor(parameters: number, count: (dFf: number) => number): number {
  const [few, more] = [count(8), count(16)]
  const width = Math.round(8 + (8 * (parameters - few)) / (more - few))
  if (width < 1) throw new Error(`no layer is narrow enough for ${parameters} parameters: without any there are ${2 * few - more}`)
  return width
}

/** Trains a memory of the table on the first nine tenths of a text, and measures it on the rest. */
export async function readCharacters(memory: string, files: Files, seed: number, watch: Watch, given = sizes): Promise<Outcome> {
  const preset = memories[memory]
  const vocabulary = charVocabulary(files.train)
  const open = (dFf: number) => readerOf(preset, vocabulary.size, dFf, seed, given)
  const dFf = widthFor(given.parameters, (width) => {
    const { reader } = open(width)
    const count = reader.parameterCount()
    reader.dispose()
    return count
  })
  const { seqLen: T, batch: B } = { ...presets.default.training, ...given.training }
  const [train, valid] = Object.values(splitText(files.train, 0.9, T)).map((text) => vocabulary.encode(text))
  const sampler = randomBatches(train, { B, T, seed })
  /** A new model that learns for so many steps. */
  const begin = (steps: number): { reader: Reader; optimizer: Optimizer; step(): Promise<unknown>; dispose(): void } => {
    const { reader, training } = open(dFf)
    const plan = { ...training, steps }
    const optimizer = optimizerOf(reader, plan)
    const trainer = new Trainer<Trainable>(reader, optimizer, {
      schedule: scheduleOf(plan, presets.default.model.dModel),
      clipNorm: plan.clip || Infinity,
    })
    const dispose = () => {
      for (const part of [trainer, optimizer, reader]) part.dispose()
    }
    return { reader, optimizer, step: () => trainer.step(sampler.batch(optimizer.steps)), dispose }
  }
  const pupils = [begin(1_000_000)]
  try {
    const fit = await stepsThatFit(given.seconds, pupils[0].step)
    pupils.push(begin(fit))
    const { reader, step } = pupils[1]
    const { best: _, ...outcome } = await search(
      { limit: fit, every: fit / parts, goal: 0, patience: Infinity },
      step,
      async () => (await perplexity(reader, valid, { T, B })).nats,
      watch,
    )
    return { values: outcome.curve.map(([, nats]) => nats), ...outcome }
  } catch (error) {
    if (!(error instanceof DivergenceError)) throw error
    return { values: Array(parts).fill(Number.NaN), steps: error.step, end: 'diverged', curve: [] }
  } finally {
    for (const pupil of pupils) pupil.dispose()
  }
}

/** How many steps fit into so many seconds, from some that are thrown away: a multiple of the parts. */
async function stepsThatFit(seconds: number, step: () => Promise<unknown>): Promise<number> {
  for (let n = 0; n < firstSteps; n++) await step()
  const began = processorSeconds()
  let steps = 0
  let taken = 0
  for (; taken < trial * seconds; steps++) {
    await step()
    taken = processorSeconds() - began
  }
  return parts * Math.max(1, Math.floor((seconds * steps) / taken / parts))
}

const columns = Array.from({ length: parts }, (_, i) => ((i + 1) * sizes.seconds) / parts)

export const characters: Record<string, Figure> = {
  'tiny-shakespeare': {
    title: 'Characters of a text, in the same time with as many parameters',
    source: 'none: no paper compares these at this size',
    measure: 'loss of the last tenth of the text, in nats a character; lower is better',
    axes: ['memory', 'seconds of one core'],
    scaled: `about ${sizes.parameters.toLocaleString('en')} parameters, steps of 8 x 256 characters for ${sizes.seconds / 60} minutes of one core, as many as its own pace allows; tests are not counted. Muon trains all but RWKV-7, which has AdamW.`,
    files: { train: 'text to learn from, whose last tenth is kept for the measure' },
    cells: (seeds) =>
      Object.keys(memories).flatMap((row) =>
        seeds.map(
          (seed): Cell => ({
            ...{ name: `${fileName(row)}_seed${seed}`, row, columns, seed, seconds: 1.2 * sizes.seconds },
            run: (watch, files) => readCharacters(row, files, seed, watch),
          }),
        ),
      ),
    official: () => undefined,
  },
}
