import { checkNumber, checkObject, told } from '../engine/arguments.ts'
// The sampler draws on the host, where the reference device has the numbers that all devices share.
import { threefry } from '../engine/devices/reference/random.ts'
import { slice } from '../engine/ops/movement.ts'
import { span } from '../engine/profile.ts'
import { checkSeed } from '../engine/random.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { tensor } from '../engine/tensor.ts'
import { EncoderDecoder } from './encoder-decoder.ts'
import type { LanguageModel } from './model.ts'
import { Module } from './module.ts'
import { disposeState, mapState, type State } from './state.ts'

/** The last of a seed's streams: generators count up from 0, so that no tensor holds the sampler's numbers. */
const samplerStream = 0xffffffff

const notFinite = "generate: the model's output isn't finite"

export interface GenerateOptions {
  /** Tokens to make. */
  length: number
  /** 0 always takes the likeliest token; below 1 sharpens, above 1 flattens. 1 by default. */
  temperature?: number
  /** Only the k likeliest tokens are candidates; 0 (the default) means all. */
  topK?: number
  seed?: number
}

/**
 * Continues a prompt, one token at a time. The prompt runs through the model at once (chunkwise); after that each token costs the
 * same time and the state keeps its size, however long the text (softmax attention apart, whose state grows).
 */
export async function* generate(model: LanguageModel, prompt: Int32Array, options: GenerateOptions): AsyncGenerator<number> {
  if (!(model instanceof Module) || model instanceof EncoderDecoder)
    throw new Error(
      `generate: needs a language model, such as a Transformer, not ${told(model)}; an encoder-decoder has greedy and beamSearch`,
    )
  checkObject('generate', options, 'length')
  const { length, temperature = 1, topK = 0, seed = 1 } = options
  if (!(prompt instanceof Int32Array)) throw new Error(`generate: the prompt must be an Int32Array of tokens, not ${told(prompt)}`)
  if (prompt.length === 0) throw new Error('generate: the prompt is empty; give at least one token')
  checkNumber('generate: length', length, 'an integer, 0 or more')
  checkNumber('generate: temperature', temperature, '0 or more')
  checkNumber('generate: topK', topK, 'an integer, 0 or more')
  checkSeed('generate: the seed', seed)
  const { device } = model.parameters()[0]
  const wasTraining = model.training
  let state: State | undefined
  try {
    let input = prompt
    for (let i = 0; i < length; i++) {
      const before = state
      model.eval()
      const run = () =>
        noGrad(() => {
          try {
            const result = model.forward(tensor(input, { shape: [1, input.length], device }), before)
            const logits = slice(result.logits, 1, input.length - 1, input.length)
            mapState(result.state, keep)
            return { logits: keep(logits), state: result.state }
          } finally {
            model.train(wasTraining)
          }
        })
      const next = span(i === 0 ? 'prompt' : 'decoding', () => scope(run))
      state = next.state
      disposeState(before)
      const logits = await next.logits.read().finally(() => next.logits.dispose())
      const token = sample(logits, temperature, topK, threefry(seed, samplerStream, i, 0)[0] / 2 ** 32)
      yield token
      input = Int32Array.of(token)
    }
  } finally {
    disposeState(state)
  }
}

/** Draws an index in proportion to softmax(logits / temperature) among the topK largest; u in [0, 1) decides. */
export function sample(logits: ArrayLike<number>, temperature: number, topK: number, u: number): number {
  checkNumber('sample: temperature', temperature, '0 or more')
  checkNumber('sample: topK', topK, 'an integer, 0 or more')
  checkNumber('sample: u', u, 'in [0, 1)')
  const order = Array.from(logits, (_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b)
  if (!Number.isFinite(logits[order[0]]) || order.some((i) => Number.isNaN(logits[i]))) throw new Error(notFinite)
  if (temperature === 0) return order[0]
  const candidates = topK > 0 ? order.slice(0, topK) : order
  const weights = candidates.map((i) => Math.exp((logits[i] - logits[order[0]]) / temperature))
  let left = u * weights.reduce((a, b) => a + b, 0)
  for (let i = 0; i < candidates.length; i++) if ((left -= weights[i]) < 0) return candidates[i]
  return candidates[0]
}
