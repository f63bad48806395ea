/**
 * Sequence to sequence (Schlag 2021, section 6.2): an encoder-decoder whose attention is softmax, the sum rule or the delta rule. Theirs translate; ours read
 * dates as people write them, and write them in ISO 8601. Tests: test/experiments.
 */
import { EncoderDecoder, type EncoderDecoderConfig } from '../nn/encoder-decoder.ts'
import { DivergenceError, Trainer } from '../nn/trainer.ts'
import { corpusBleu } from '../tasks/bleu.ts'
import { answers, datePairs, dateVocabularies, pairBatches } from '../tasks/pairs.ts'
import { optimizerOf, scheduleOf } from '../tasks/presets.ts'
import { type Cell, type Figure, fileName, type Outcome, search, type Watch } from './figure.ts'
import type { Lesson } from './learn.ts'

const memories: Readonly<Record<string, Partial<EncoderDecoderConfig>>> = {
  softmax: { mixer: 'softmax' },
  'linear attention': { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' },
  delta: { mixer: 'delta', featureMap: 'silu', featureNorm: 'l2' },
}

const model = {
  ...{
    dModel: 64,
    heads: 4,
    encoderLayers: 2,
    decoderLayers: 2,
    dFf: 128,
    activation: 'relu',
    norm: 'layer',
    embeddingStd: 0.3,
    chunk: 16,
  },
} as const satisfies Partial<EncoderDecoderConfig>

const training: Omit<Lesson['training'], 'batch' | 'clip'> = {
  ...{ optimizer: 'adamw', schedule: 'cosine', lr: 3e-3, matrixLr: 0, warmup: 100, lrFloor: 0.01, beta2: 0.98, weightDecay: 0 },
}
const batch = 64
const stepLimit = 4000
/** Pairs. */
const asked = { train: 20_000, valid: 100, test: 400 }
/** Characters of an answer with its end. */
const length = 12

/** What it makes of the sources of a split, as BLEU. */
async function bleu(model: EncoderDecoder, split: 'valid' | 'test', seed: number): Promise<number> {
  const pairs = datePairs(asked[split], split, seed)
  const given = await answers(
    model,
    pairs.map(([source]) => source),
    dateVocabularies(),
    { length, B: 100 },
  )
  return corpusBleu(
    given,
    pairs.map(([, target]) => [target]),
  ).score
}

/** Trains an encoder-decoder with a memory of the table for so many steps at most, on the default device. */
export async function translate(memory: string, seed: number, limit: number, watch: Watch): Promise<Outcome> {
  const { sourceSymbols, symbols } = dateVocabularies()
  const pupil = new EncoderDecoder({ ...model, ...memories[memory], sourceSymbols, symbols }, seed)
  const whole = { ...training, steps: limit }
  const optimizer = optimizerOf(pupil, whole)
  const trainer = new Trainer(pupil, optimizer, { schedule: scheduleOf(whole, model.dModel), clipNorm: 1 })
  const sampler = pairBatches(datePairs(asked.train, 'train', seed), dateVocabularies(), { B: batch, seed })
  const step = async (): Promise<void> => {
    const given = sampler.batch(optimizer.steps)
    await trainer.step(given).finally(() => {
      for (const tensor of Object.values(given)) tensor.dispose()
    })
  }
  try {
    const plan = { limit, every: 250, goal: 100, higher: true, patience: Infinity }
    const { best: _, ...outcome } = await search(plan, step, () => bleu(pupil, 'valid', seed), watch)
    return { values: [await bleu(pupil, 'test', seed)], ...outcome }
  } catch (error) {
    if (!(error instanceof DivergenceError)) throw error
    return { values: [Number.NaN], steps: error.step, end: 'diverged', curve: [] }
  } finally {
    trainer.dispose()
    optimizer.dispose()
    pupil.dispose()
  }
}

export const sequenceToSequence: Record<string, Figure> = {
  'sequence-to-sequence': {
    title: 'Dates as people write them, in ISO 8601',
    source: 'Schlag 2021, section 6.2, whose figures are of translation from English into German',
    measure: 'BLEU of the likeliest answers, from 0 to 100; higher is better',
    axes: ['memory', 'task'],
    scaled: `an encoder-decoder 64 wide with two layers each, ${asked.train.toLocaleString('en')} dates in 19 formats instead of translation, at most ${stepLimit.toLocaleString('en')} steps of ${batch}, fewer where ${asked.valid} dates of other days are all right; ${asked.test} of yet other days are asked.`,
    cells: (seeds) =>
      Object.keys(memories).flatMap((row) =>
        seeds.map(
          (seed): Cell => ({
            ...{ name: `${fileName(row)}_seed${seed}`, row, columns: ['dates'], seed, seconds: 120 },
            run: (watch) => translate(row, seed, stepLimit, watch),
          }),
        ),
      ),
    official: () => undefined,
  },
}
