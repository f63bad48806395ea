import { generate, generateBatch, generationOf, type LanguageModel, modelOf } from '../nn/index.ts'
import { readText } from '../tasks/download.ts'
import { TextError } from '../tasks/text.ts'
import { type Codec, telling } from '../tasks/tokenizer.ts'
import { UsageError } from './arguments.ts'
import { codecOf, isImported, latestRun, openedModel, openImported, openRun, tokenNumbers, tokensIn } from './runs.ts'
import { visible } from './terminal.ts'

interface Choices {
  length: number
  temperature: number
  topK: number
  topP: number
  seed: number
}

export interface GenerateCommandOptions extends Choices {
  run: string | undefined
  prompt: string | undefined
  /** In place of a prompt, for runs without a vocabulary. */
  tokens: readonly string[]
  prompts: string | undefined
  batch: number | undefined
  raw: boolean
  /** Options given by hand, by name. */
  given: ReadonlySet<string>
}

/** Prompts of a file that are continued at a time, where nothing else is said. */
const usualBatch = 32
/** Milliseconds between pieces of a text: often enough to read along, and no call of the system for every character. */
const often = 20

/** A model that goes on with texts. */
interface Speaker {
  model: LanguageModel
  codec: Codec
  /** Of a text, checked to be the model's. */
  encode(text: string): Int32Array
  /** Tokens that end a text. */
  ends: ReadonlySet<number>
  choices: Choices
}

/** Writes the prompt and its continuation to standard output as they come; several of them as records, a line of JSON each. */
export async function generateText({ run, prompt, tokens, prompts, batch, raw, given, ...more }: GenerateCommandOptions): Promise<number> {
  if (prompt !== undefined && prompts !== undefined) throw new UsageError('--prompt and --prompts exclude each other: give one of them')
  const { length, temperature, topK, topP, seed } = more
  const said: Choices = { length, temperature, topK, topP, seed }
  const path = run ?? latestRun()
  if (!isImported(path)) {
    if (tokens.length > 0) throw new UsageError(`--tokens: ${path} has characters of its own: give a --prompt`)
    const { checkpoint, vocabulary, training } = openRun(path)
    const model = modelOf<'transformer' | 'blocks'>(checkpoint)
    const speaker = { model, codec: vocabulary, encode: vocabulary.encode, ends: new Set<number>(), choices: said }
    return speak(speaker, prompt ?? training.prompt, prompts, batch, raw)
  }
  const imported = openImported(path)
  const { symbols } = imported.checkpoint.config
  const { ends, ...asked } = generationOf(imported.source)
  const choices = {
    ...said,
    ...(asked.temperature !== undefined && !given.has('temperature') && { temperature: asked.temperature }),
    ...(asked.topK !== undefined && !given.has('top-k') && { topK: asked.topK }),
    ...(asked.topP !== undefined && !given.has('top-p') && { topP: asked.topP }),
  }
  if (prompt === undefined && prompts === undefined)
    return speakTokens(openedModel(path, imported), tokenNumbers(path, tokens, symbols), batch, new Set(ends), choices)
  const codec = await codecOf(path)
  if (codec === undefined)
    throw new UsageError(
      `--${prompt === undefined ? 'prompts' : 'prompt'}: ${path} has no tokenizer: give --tokens, such as --tokens 1,2,3`,
    )
  if (tokens.length > 0) throw new UsageError('--tokens: a prompt is given already: give one of them')
  const encode = (text: string): Int32Array => tokensIn(codec, text, symbols)
  return speak({ model: openedModel(path, imported), codec, encode, ends: new Set(ends), choices }, prompt ?? '', prompts, batch, raw)
}

async function speak(
  { model, codec, encode, ends, choices }: Speaker,
  start: string,
  prompts: string | undefined,
  batch: number | undefined,
  raw: boolean,
): Promise<number> {
  const write = (text: string): void => void process.stdout.write(raw ? text : visible(text))
  const starts = prompts === undefined ? new Array<string>(batch ?? 1).fill(start) : await readPrompts(prompts, encode)
  const encoded = starts.map(encode)

  if (prompts === undefined && batch === undefined) {
    const teller = telling(codec, encoded[0])
    let waiting = start
    let written = Number.NEGATIVE_INFINITY
    for await (const token of generate(model, encoded[0], choices)) {
      if (ends.has(token)) break
      waiting += teller.add(token)
      if (performance.now() - written < often) continue
      write(waiting)
      waiting = ''
      await new Promise(setImmediate) // lets the end of a reader show
      written = performance.now()
    }
    write(`${waiting}${teller.end()}\n`)
    return 0
  }

  const atOnce = batch ?? usualBatch
  for (let first = 0; first < encoded.length; first += atOnce) {
    const some = encoded.slice(first, first + atOnce)
    const seeds = some.map((_, i) => (choices.seed + first + i) % 2 ** 32)
    const tellers = some.map((tokens) => telling(codec, tokens))
    const texts = some.map(() => '')
    for await (const tokens of untilEnds(model, some, { ...choices, seed: seeds[0] }, ends)) {
      for (const [i, token] of tokens.entries()) if (token !== null && !ends.has(token)) texts[i] += tellers[i].add(token)
      await new Promise(setImmediate)
    }
    for (const [i, text] of texts.entries())
      write(`${JSON.stringify({ prompt: starts[first + i], seed: seeds[i], text: text + tellers[i].end() })}\n`)
  }
  return 0
}

/** The next tokens of several sequences; null for one that has come to its end. */
async function* untilEnds(
  model: LanguageModel,
  prompts: readonly Int32Array[],
  choices: Choices,
  ends: ReadonlySet<number>,
): AsyncGenerator<(number | null)[]> {
  const done = prompts.map(() => false)
  for await (const tokens of generateBatch(model, prompts, choices)) {
    yield Array.from(tokens, (token, i) => (done[i] ? null : token))
    for (const [i, token] of tokens.entries()) done[i] ||= ends.has(token)
    if (done.every(Boolean)) return
  }
}

/** The tokens and their continuation, as numbers on a line; of several, as lines of JSON. The token that ends a text is the last one of it. */
async function speakTokens(
  model: LanguageModel,
  prompt: Int32Array,
  batch: number | undefined,
  ends: ReadonlySet<number>,
  choices: Choices,
): Promise<number> {
  const rows = Array.from({ length: batch ?? 1 }, (): number[] => [])
  const prompts = rows.map(() => prompt)
  for await (const next of untilEnds(model, prompts, choices, ends))
    for (const [i, token] of next.entries()) if (token !== null) rows[i].push(token)
  const lines =
    batch === undefined
      ? [[...prompt, ...rows[0]].join()]
      : rows.map((tokens, i) => JSON.stringify({ prompt: [...prompt], seed: (choices.seed + i) % 2 ** 32, tokens }))
  for (const line of lines) process.stdout.write(`${line}\n`)
  return 0
}

/** The lines of a file, each a text that the model has tokens for; an empty one has nothing to continue. */
async function readPrompts(file: string, encode: (text: string) => Int32Array): Promise<string[]> {
  const lines = (await readText(file)).split(/\r?\n/)
  if (lines.at(-1) === '') lines.pop()
  for (const [i, line] of lines.entries()) {
    if (line === '') throw new TextError(`${file}: line ${i + 1} is empty: each line is a prompt`)
    try {
      encode(line)
    } catch (error) {
      throw error instanceof TextError ? new TextError(`${file}: line ${i + 1}: ${error.message}`) : error
    }
  }
  return lines
}
