/**
 * Words of WikiText (Schlag 2021, section 6.3): perplexity of softmax attention, the sum rule and the delta rule, and of a model without a memory; with texts
 * cut into segments (table 2), and with a memory that goes on through all of the text, in training, too (table 4). Tests: test/experiments.
 */
import { detach } from '../engine/ops/movement.ts'
import { crossEntropy } from '../engine/ops/norm.ts'
import { keep } from '../engine/scope.ts'
import { type Tensor, tensor } from '../engine/tensor.ts'
import type { LayerState } from '../nn/mixer.ts'
import { ignoredTarget, type TokenBatch, type Trainable } from '../nn/model.ts'
import { Module } from '../nn/module.ts'
import { disposeState, mapState } from '../nn/state.ts'
import { DivergenceError, Trainer } from '../nn/trainer.ts'
import { Transformer, type TransformerConfig } from '../nn/transformer.ts'
import { optimizerOf, scheduleOf } from '../tasks/presets.ts'
import { TextError } from '../tasks/text.ts'
import { perplexity, streamBatches, wordVocabulary } from '../tasks/words.ts'
import { type Cell, type Figure, type Files, fileName, type Outcome, search, type Watch } from './figure.ts'
import type { Lesson } from './learn.ts'

const cut = 'in segments'
const whole = 'carried on'

interface Memory {
  readonly model: Partial<TransformerConfig>
  /** A memory of a fixed size can go through all of a text. */
  readonly columns: readonly string[]
  /** Tokens of a segment, where they are others than the figure's: with 1 each word is predicted from the one before it alone. */
  readonly T?: number
  readonly seconds: number
}

const memories: Readonly<Record<string, Memory>> = {
  softmax: { model: { mixer: 'softmax', positions: 'rotary' }, columns: [cut], seconds: 600 },
  'linear attention': {
    model: { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' },
    columns: [cut, whole],
    seconds: 600,
  },
  delta: { model: { mixer: 'delta', featureMap: 'dpfp', featureNorm: 'sum' }, columns: [cut, whole], seconds: 600 },
  'no memory': { model: { mixer: 'softmax' }, columns: [cut], T: 1, seconds: 600 },
}

/** By how many words the window moves on that the text is measured through in the end. */
const windowStride = 32

/** What is the same in all cells; a test makes it small. */
export interface WikitextSizes {
  vocabulary: number
  model: Partial<TransformerConfig>
  /** Rows, tokens of a segment, steps. */
  B: number
  T: number
  steps: number
}

const sizes: WikitextSizes = {
  vocabulary: 8000,
  model: {
    ...{ dModel: 128, heads: 8, layers: 4, dFf: 256, activation: 'relu', norm: 'layer', attentionNorm: true, embeddingStd: 0.1 },
    ...{ tie: true, dropout: 0.2 },
  },
  B: 8,
  T: 256,
  steps: 960,
}

const training: Omit<Lesson['training'], 'batch' | 'clip'> = {
  ...{ optimizer: 'adamw', schedule: 'cosine', lr: 2e-3, matrixLr: 0, warmup: 100, lrFloor: 0.05, beta2: 0.98, weightDecay: 0.1 },
}

/** A model that goes on in each batch from where it was after the one before; no gradient goes back to that. */
export class Continued extends Module implements Trainable {
  private state: LayerState | undefined
  private next: LayerState | undefined

  constructor(readonly model: Transformer) {
    super()
  }

  loss({ tokens, targets, B, T }: TokenBatch): Tensor {
    const { device } = this.model.src_embed.weight
    const of = (values: Int32Array): Tensor => tensor(values, { shape: [B, T], device })
    const { logits, state } = this.model.forward(of(tokens), this.state as never)
    this.next = mapState(state, (x) => keep(detach(x))) as LayerState
    return crossEntropy(logits, of(targets), { ignore: ignoredTarget })
  }

  /** After a step: what the next batch begins with. */
  goOn(): void {
    disposeState(this.state)
    this.state = this.next
    this.next = undefined
  }

  /** Begins without a memory. */
  forget(): void {
    this.goOn()
    this.goOn()
  }
}

/** Trains a memory of the table on one text and measures it on the other. */
export async function readWords(
  memory: string,
  column: string,
  files: Files,
  seed: number,
  watch: Watch,
  { vocabulary: most, model, steps, ...given }: WikitextSizes = sizes,
): Promise<Outcome> {
  const { T = given.T } = memories[memory]
  // As many words a step.
  const B = (given.B * given.T) / T
  const vocabulary = wordVocabulary(files.train, most)
  const [train, valid] = [files.train, files.valid].map((text) => vocabulary.encode(text))
  if (valid.length < 2) throw new TextError(`the text to be measured on is too short: of its ${valid.length} tokens none follows another`)
  const reader = new Transformer({ ...model, ...memories[memory].model, symbols: vocabulary.size }, seed)
  const plan = { ...training, steps }
  const optimizer = optimizerOf(reader, plan)
  const continued = new Continued(reader)
  const carry = column === whole
  const trainer = new Trainer<Trainable>(carry ? continued : reader, optimizer, {
    schedule: scheduleOf(plan, reader.config.dModel),
    clipNorm: 1,
  })
  let batches = streamBatches(train, T, B)
  const step = async (): Promise<void> => {
    let next = batches.next()
    if (next.done) {
      // Each row goes on at its own beginning, and its memory isn't emptied: it is to become as old as that which is measured.
      batches = streamBatches(train, T, B)
      next = batches.next()
    }
    await trainer.step(next.value!)
    continued.goOn()
  }
  // One memory goes through all of a text, as published.
  const through = carry ? { T: T * B, B: 1, carry } : { T, B }
  const ask = async (tokens: Int32Array, stride = through.T): Promise<number> =>
    (await perplexity(reader, tokens, { ...through, stride })).perplexity
  try {
    const part = valid.subarray(0, Math.max(2, Math.ceil(valid.length / 8)))
    const { best: _, ...outcome } = await search(
      { limit: steps, every: Math.ceil(steps / 8), goal: 0, patience: Infinity },
      step,
      () => ask(part),
      watch,
    )
    return { values: [await ask(valid, carry ? through.T : Math.min(T, windowStride))], ...outcome }
  } catch (error) {
    if (!(error instanceof DivergenceError)) throw error
    return { values: [Number.NaN], steps: error.step, end: 'diverged', curve: [] }
  } finally {
    continued.forget()
    trainer.dispose()
    optimizer.dispose()
    reader.dispose()
  }
}

export const wikitext: Record<string, Figure> = {
  'wikitext-2': {
    title: 'Words of WikiText-2, cut into segments and not',
    source:
      'Schlag 2021, tables 2 and 4, whose figures are of WikiText-103 (small: softmax 33.0, sum 37.1, delta 34.1; without cuts sum > 260, delta 27.8)',
    measure: 'perplexity of the validation text, a word; lower is better',
    axes: ['memory', 'context'],
    scaled: `models 128 wide with four layers, the ${sizes.vocabulary.toLocaleString('en')} commonest words, ${sizes.steps} steps of ${sizes.B} x ${sizes.T} words (published: 16 layers, 500,000 steps of 96 x 256, all words); in segments, measured through a window of ${sizes.T} words that moves on by ${windowStride}. Carried on: a memory is never emptied in training, and goes through the whole text that it is measured on. 'no memory': segments of one word.`,
    files: { train: 'text to learn from, words between blanks', valid: 'text to be measured on' },
    cells: (seeds) =>
      Object.entries(memories).flatMap(([row, { columns, seconds }]) =>
        columns.flatMap((column) =>
          seeds.map(
            (seed): Cell => ({
              ...{ name: `${fileName(row)}_${fileName(column)}_seed${seed}`, row, columns: [column], seed, seconds },
              run: (watch, files) => readWords(row, column, files, seed, watch),
            }),
          ),
        ),
      ),
    official: () => undefined,
  },
}
