import { checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { type CapturedStep, type CaptureResult, type CarriedState, capture } from '../engine/capture.ts'
import type { Device, HostArray } from '../engine/devices/device.ts'
// The sampler draws on the host, where the reference device has the numbers that all devices share.
import { threefry } from '../engine/devices/reference/random.ts'
import { slice } from '../engine/ops/movement.ts'
import { span } from '../engine/profile.ts'
import { checkSeed } from '../engine/random.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { show } from '../engine/shape.ts'
import { type Stoppable, stopper } from '../engine/signal.ts'
import { getDevice, Tensor, tensor } from '../engine/tensor.ts'
import { EncoderDecoder } from './encoder-decoder.ts'
import type { LanguageModel } from './model.ts'
import { Module } from './module.ts'
import { apartFrom, leastRoom, roomFor, roomIn, sizeOfToken, tokensIn, withRoom, writtenInPlace } from './room.ts'
import { disposeState, joinRows, mapState, type State, takeRows } from './state.ts'

/** The last of a seed's streams: generators count up from 0, so that no tensor holds the sampler's numbers. */
const samplerStream = 0xffffffff

const notFinite = "generate: the model's output isn't finite"

/** Options of `generate`. */
export interface GenerateOptions extends Stoppable {
  /** Tokens to make. */
  length: number
  /** 0 always takes the likeliest token; below 1 sharpens, above 1 flattens. 1 by default. */
  temperature?: number
  /** Only the k likeliest tokens are candidates; 0 (the default) means all. */
  topK?: number
  /** Of these, only the fewest likeliest whose probabilities together reach p, at least one; 1 (the default) means all. Holtzman et al. 2020, section 3.1. */
  topP?: number
  /** Of what is drawn; 1 by default. Temperature 0 draws nothing. */
  seed?: number
}

/**
 * Continues a prompt, one token at a time. The prompt runs through the model at once (chunkwise); after that each token costs the
 * same time and the state keeps its size, however long the text (softmax attention apart, whose state grows). Where the model is `replayable` and
 * the device has captured steps (all but one that is profiled), the step of a token is captured once and replayed: the same tokens, sooner. Keys and values of softmax attention
 * have room for tokens to come then, and are copied to more room, and the step captured anew, when it's full.
 */
export async function* generate(model: LanguageModel, prompt: Int32Array, options: GenerateOptions): AsyncGenerator<number> {
  checkModel(model)
  checkPrompt('the prompt', prompt)
  for await (const [token] of continued(model, [prompt], options)) yield token
}

/**
 * Continues several prompts side by side, of any lengths: yields their next tokens, [B], `length` times. Sequence i is what `generate` makes of its prompt
 * with the seed `seed` + i (modulo 2^32), token for token. All have one step together or, where lengths of prompts differ much, several. Models that aren't `replayable` run one sequence after the other.
 */
export async function* generateBatch(
  model: LanguageModel,
  prompts: readonly Int32Array[],
  options: GenerateOptions,
): AsyncGenerator<Int32Array> {
  checkModel(model)
  if (!Array.isArray(prompts)) throw new Error(`generate: the prompts must be an array of Int32Arrays, not ${told(prompts)}`)
  for (const [i, prompt] of prompts.entries()) checkPrompt(`prompt ${i}`, prompt)
  yield* continued(model, prompts, options)
}

function checkModel(model: LanguageModel): void {
  if (!(model instanceof Module) || model instanceof EncoderDecoder)
    throw new Error(
      `generate: needs a language model, such as a Transformer, not ${told(model)}; an encoder-decoder has greedy and beamSearch`,
    )
}

function checkPrompt(what: string, prompt: Int32Array): void {
  if (!(prompt instanceof Int32Array)) throw new Error(`generate: ${what} must be an Int32Array of tokens, not ${told(prompt)}`)
  if (prompt.length === 0) throw new Error(`generate: ${what} is empty; give at least one token`)
}

async function* continued(model: LanguageModel, prompts: readonly Int32Array[], options: GenerateOptions): AsyncGenerator<Int32Array> {
  checkOptions('generate', options, ['length', 'temperature', 'topK', 'topP', 'seed', 'signal'])
  const mayGoOn = stopper('generate', options)
  const { length, temperature = 1, topK = 0, topP = 1, seed = 1 } = options
  checkNumber('generate: length', length, 'an integer, 0 or more')
  checkNumber('generate: temperature', temperature, '0 or more')
  checkNumber('generate: topK', topK, 'an integer, 0 or more')
  checkNumber('generate: topP', topP, 'in [0, 1]')
  checkSeed('generate: the seed', seed)
  await mayGoOn()
  if (length === 0 || prompts.length === 0) return
  const device = deviceOf(model)
  const captures = length > 1 && model.replayable === true && device.capture !== undefined
  const B = prompts.length
  // A prompt that is there several times is read once, where the states of the sequences are to be one anyway.
  const names = prompts.map((prompt, b) => (captures ? prompt.join() : `${b}`))
  const rows = new Map<string, Row>()
  /** The captured step of each group of sequences. */
  const steps = new Map<number[], Decoder>()
  try {
    for (const [b, name] of names.entries()) {
      if (rows.has(name)) continue
      await mayGoOn()
      rows.set(name, await run(model, prompts[b]))
    }
    const sequences = names.map((name) => rows.get(name)!)
    const logits = sequences.map((row) => row.logits)
    const tokens = new Int32Array(B)
    for (let i = 0; i < length; i++) {
      await mayGoOn()
      if (i === 1 && captures)
        for (const group of groupsOf(model, sequences)) {
          const its = group.map((b) => sequences[b])
          steps.set(group, await decoder(model, its))
        }
      for (const [group, step] of steps) {
        const its = await step.next(Int32Array.from(group, (b) => tokens[b]))
        for (const [j, b] of group.entries()) logits[b] = its[j]
      }
      if (i > 0 && !captures)
        for (const [b, row] of sequences.entries()) {
          if (model.replayable === true) row.state = noGrad(() => withRoom(row.state))
          const { state } = row
          Object.assign(row, await run(model, tokens.subarray(b, b + 1), state))
          disposeState(state)
          logits[b] = row.logits
        }
      for (let b = 0; b < B; b++) {
        const u = threefry((seed + b) % 2 ** 32, samplerStream, i, 0)[0] / 2 ** 32
        tokens[b] = sample(logits[b], temperature, topK, u, topP)
      }
      yield tokens.slice()
    }
  } finally {
    for (const step of steps.values()) step.dispose()
    for (const { state } of rows.values()) disposeState(state)
  }
}

/** Where a model's tokens belong. */
const deviceOf = (model: Module): Device => model.parameters()[0]?.device ?? getDevice()

/** What a sequence is at: the state, and the logits of its next token. */
interface Row {
  logits: HostArray
  state: State
}

/** Tokens of one sequence through the model, as it is when it doesn't train. */
async function run(model: LanguageModel, tokens: Int32Array, before?: State): Promise<Row> {
  const device = deviceOf(model)
  const forward = () =>
    evaluated(model, () => {
      const result = model.forward(tensor(tokens, { shape: [1, tokens.length], device }), before, { last: true })
      const { logits, state } = result ?? {}
      const must = "generate: the model's forward must return { logits, state }"
      if (!(logits instanceof Tensor)) throw new Error(`${must}, not ${told(logits ?? result)}`)
      if (logits.shape.length !== 3) throw new Error(`${must}, logits [B,T,symbols], not ${show(logits.shape)}`)
      if (typeof state !== 'object' || state === null) throw new Error(`${must}, a state that may be {}, not ${told(state)}`)
      const given = logits.shape[1]
      mapState(state, keep)
      return { logits: keep(slice(logits, 1, given - 1, given)), state }
    })
  const { logits, state } = span(before ? 'decoding' : 'prompt', () => scope(forward))
  try {
    return { logits: await logits.read(), state }
  } catch (error) {
    disposeState(state)
    throw error
  } finally {
    logits.dispose()
  }
}

function evaluated<R>(model: Module, body: () => R): R {
  const wasTraining = model.training
  model.eval()
  try {
    return noGrad(body)
  } finally {
    model.train(wasTraining)
  }
}

interface Decoder {
  /** The logits of each sequence after its next token. */
  next(tokens: Int32Array): Promise<HostArray[]>
  dispose(): void
}

/**
 * Which sequences share a step: all, but where the shorter ones would have, beside the longer ones, more room to read past than there are weights, which a step
 * of their own reads once more (and on wasm may copy).
 */
function groupsOf(model: LanguageModel, rows: readonly Row[]): number[][] {
  const weights = model.parameters().reduce((bytes, p) => bytes + (p.half ? 2 : 4) * p.size, 0)
  const held = rows.map(({ state }) => tokensIn(state))
  const roomOf = (b: number): number => roomFor(held[b] + leastRoom)
  const bytes = 4 * sizeOfToken(rows[0].state)
  const groups: number[][] = []
  for (const b of [...rows.keys()].sort((a, b) => held[a] - held[b])) {
    const last = groups.at(-1)
    if (last && last.reduce((tokens, a) => tokens + roomOf(b) - roomOf(a), 0) * bytes <= weights) last.push(b)
    else groups.push([b])
  }
  return groups
}

/** The step of a token, captured, of sequences that go on from these rows, some of which may be the same. Takes the rows' states, and leaves none. */
async function decoder(model: LanguageModel, sequences: readonly Row[]): Promise<Decoder> {
  const device = deviceOf(model)
  const B = sequences.length
  const rows = [...new Set(sequences)]
  const places = sequences.map((row) => rows.indexOf(row))
  const tokens = Math.max(...rows.map((row) => tokensIn(row.state)))
  const states = rows.map((row) => noGrad(() => withRoom(row.state, tokens)))
  for (const row of rows) row.state = {}
  let state = B === 1 ? states[0] : scope(() => mapState(takeRows(joinRows(states), places), keep) as State)
  if (B > 1) for (const each of states) disposeState(each)
  const token = tensor(new Int32Array(B), { shape: [B, 1], device })
  let written = new Map<string, Tensor>()
  const step = (carried: CarriedState): CaptureResult =>
    evaluated(model, () => {
      const result = model.forward(token, filled(state, carried, written))
      return { outputs: [result.logits], ...flat(result.state, written) }
    })
  let captured!: CapturedStep
  let room = 0
  const dispose = (): void => {
    captured?.dispose()
    for (const t of [...written.values(), token]) t.dispose()
  }
  /** Captures the step from this state on, which it takes. */
  const begin = async (from: State): Promise<void> => {
    state = noGrad(() => withRoom(from))
    written = writtenInPlace(state)
    room = roomIn(state)
    try {
      captured = await capture([token], flat(state, written), step, [...written.values()])
    } catch (error) {
      dispose()
      throw error
    }
  }
  await begin(state)
  return {
    async next(tokens) {
      if (room === 0) {
        const now = noGrad(() => scope(() => apartFrom(filled(state, captured.state(), written), written)))
        // Its memory goes before more is taken.
        captured.dispose()
        await begin(now)
      }
      room--
      token.write(tokens)
      captured.replay()
      const logits = await captured.outputs[0].read()
      return tokens.length === 1
        ? [logits]
        : Array.from(tokens, (_, b) => logits.subarray((b * logits.length) / B, ((b + 1) * logits.length) / B))
    },
    dispose,
  }
}

/** The tensors and the counts of a state, in order, but for those of these names. */
function flat(state: State, but: ReadonlyMap<string, Tensor>): CarriedState {
  const tensors: Tensor[] = []
  const counts: Int32Array[] = []
  mapState(
    state,
    (t, name) => void (but.has(name) || tensors.push(t)),
    (c) => void counts.push(c),
  )
  return { tensors, counts }
}

/** A state like this one, of these tensors and counts, and of those by their names. */
function filled(like: State, { tensors, counts }: CarriedState, named: ReadonlyMap<string, Tensor>): State {
  let [t, c] = [0, 0]
  return mapState(
    like,
    (_, name) => named.get(name) ?? tensors[t++],
    () => counts[c++],
  ) as State
}

/** Logits go into buckets by how far below the largest they are: so many a temperature; the last one takes all that are less likely than e^-31 of it. */
const perTemperature = 8,
  buckets = 256
/** Of each bucket, how many logits it has and the sum of their weights, and of each logit its bucket: made once, since `sample` is called for each token. */
const counts = new Int32Array(buckets)
const weights = new Float64Array(buckets)
let places = new Uint8Array(0)

/**
 * Draws an index in proportion to softmax(logits / temperature) among the topK largest, and of these among the likeliest whose probabilities reach topP; u in [0, 1) decides: from the likeliest down, of equal ones the first first, it is
 * where the sum of probabilities passes u. Only the bucket where it does is sorted, since all of a large vocabulary would take longer than many a model's step.
 */
export function sample(logits: ArrayLike<number>, temperature: number, topK: number, u: number, topP = 1): number {
  checkNumber('sample: temperature', temperature, '0 or more')
  checkNumber('sample: topK', topK, 'an integer, 0 or more')
  checkNumber('sample: topP', topP, 'in [0, 1]')
  checkNumber('sample: u', u, 'in [0, 1)')
  const best = likeliest(logits)
  if (temperature === 0) return best
  const largest = logits[best]
  const n = logits.length
  if (places.length < n) places = new Uint8Array(n)
  counts.fill(0)
  weights.fill(0)
  for (let i = 0; i < n; i++) {
    const x = (logits[i] - largest) / temperature
    const b = Math.min(-perTemperature * x, buckets - 1) | 0
    places[i] = b
    counts[b]++
    weights[b] += Math.exp(x)
  }
  const weight = (logit: number): number => Math.exp((logit - largest) / temperature)
  /** Those of a bucket, the largest last. */
  const sorted = (b: number): Float64Array => {
    const members = new Float64Array(counts[b])
    for (let i = 0, at = 0; at < members.length; i++) if (places[i] === b) members[at++] = logits[i]
    return members.sort()
  }
  /** Candidates of the last bucket that has any; undefined where it's all of them. */
  let some: Float64Array | undefined
  let end = 0
  let total = 0
  for (let rest = topK || n; end < buckets && rest > 0; rest -= counts[end++]) {
    if (rest < counts[end]) {
      some = sorted(end).subarray(-rest)
      weights[end] = some.reduce((sum, logit) => sum + weight(logit), 0)
    }
    total += weights[end]
  }
  const reach = topP * total
  for (let b = 0, sum = 0; topP < 1 && b < end; sum += weights[b++]) {
    if (sum + weights[b] < reach) continue
    const members = (b === end - 1 && some) || sorted(b)
    let first = members.length
    total = sum
    do total += weight(members[--first])
    while (first > 0 && total < reach)
    some = members.subarray(first)
    weights[b] = total - sum
    end = b + 1
  }
  let left = u * total
  for (let b = 0; b < end; b++) {
    if (left >= weights[b]) left -= weights[b]
    else {
      const members = (b === end - 1 && some) || sorted(b)
      for (let i = members.length - 1; i >= 0; i--) if ((left -= weight(members[i])) < 0) return place(logits, members, i)
    }
  }
  return best
}

/** Where the largest logit stands, the first one of equal ones. */
function likeliest(logits: ArrayLike<number>): number {
  let best = 0
  for (let i = 0; i < logits.length; i++) {
    if (Number.isNaN(logits[i])) throw new Error(notFinite)
    if (logits[i] > logits[best]) best = i
  }
  if (!Number.isFinite(logits[best])) throw new Error(notFinite)
  return best
}

/** Where the logit stands that is sorted to place i; of equal ones the first comes first, from the end. */
function place(logits: ArrayLike<number>, sorted: Float64Array, i: number): number {
  let equals = i
  while (equals < sorted.length - 1 && sorted[equals + 1] === sorted[i]) equals++
  for (let at = 0, left = equals - i; ; at++) if (logits[at] === sorted[i] && left-- === 0) return at
}
