import { generate, generateBatch, modelOf } from '../nn/index.ts'
import { readText } from '../tasks/download.ts'
import { TextError, type Vocabulary } from '../tasks/text.ts'
import { UsageError } from './arguments.ts'
import { isImported, latestRun, openImported, openRun, tokenNumbers } from './runs.ts'
import { visible } from './terminal.ts'

export interface GenerateCommandOptions {
  run: string | undefined
  prompt: string | undefined
  /** In place of a prompt, for runs without a vocabulary. */
  tokens: readonly string[]
  prompts: string | undefined
  batch: number | undefined
  length: number
  temperature: number
  topK: number
  seed: number
  raw: boolean
}

/** Prompts of a file that are continued at a time, where nothing else is said. */
const usualBatch = 32
/** Milliseconds between pieces of a text: often enough to read along, and no call of the system for every character. */
const often = 20

/** Writes the prompt and its continuation to standard output as they come; several of them as records, a line of JSON each. */
export async function generateText({ run, prompt, tokens, prompts, batch, raw, ...options }: GenerateCommandOptions): Promise<number> {
  if (prompt !== undefined && prompts !== undefined) throw new UsageError('--prompt and --prompts exclude each other: give one of them')
  const path = run ?? latestRun()
  if (isImported(path)) {
    if (prompt !== undefined || prompts !== undefined)
      throw new UsageError(
        `--${prompt === undefined ? 'prompts' : 'prompt'}: ${path} has no tokenizer: give --tokens, such as --tokens 1,2,3`,
      )
    return generateTokens(path, tokens, batch, options)
  }
  if (tokens.length > 0) throw new UsageError(`--tokens: ${path} has characters of its own: give a --prompt`)
  const { checkpoint, vocabulary, training } = openRun(path)
  const write = (text: string): void => void process.stdout.write(raw ? text : visible(text))
  const start = prompt ?? training.prompt
  const starts = prompts === undefined ? new Array<string>(batch ?? 1).fill(start) : await readPrompts(prompts, vocabulary)
  const encoded = starts.map((text) => vocabulary.encode(text))
  const model = modelOf(checkpoint)

  if (prompts === undefined && batch === undefined) {
    let waiting = start
    let written = Number.NEGATIVE_INFINITY
    for await (const token of generate(model, encoded[0], options)) {
      waiting += vocabulary.decode([token])
      if (performance.now() - written < often) continue
      write(waiting)
      waiting = ''
      await new Promise(setImmediate) // lets the end of a reader show
      written = performance.now()
    }
    write(`${waiting}\n`)
    return 0
  }

  const atOnce = batch ?? usualBatch
  for (let first = 0; first < encoded.length; first += atOnce) {
    const some = encoded.slice(first, first + atOnce)
    const seeds = some.map((_, i) => (options.seed + first + i) % 2 ** 32)
    const texts = some.map(() => '')
    for await (const tokens of generateBatch(model, some, { ...options, seed: seeds[0] })) {
      for (const [i, token] of tokens.entries()) texts[i] += vocabulary.decode([token])
      await new Promise(setImmediate)
    }
    for (const [i, text] of texts.entries()) write(`${JSON.stringify({ prompt: starts[first + i], seed: seeds[i], text })}\n`)
  }
  return 0
}

/** The tokens and their continuation, as numbers on a line; of several, as lines of JSON. */
async function generateTokens(
  path: string,
  given: readonly string[],
  batch: number | undefined,
  options: { length: number; temperature: number; topK: number; seed: number },
): Promise<number> {
  const { checkpoint } = openImported(path)
  const prompt = tokenNumbers(path, given, checkpoint.config.symbols)
  const model = modelOf(checkpoint)
  const rows = Array.from({ length: batch ?? 1 }, (): number[] => [])
  for await (const next of generateBatch(
    model,
    rows.map(() => prompt),
    options,
  ))
    for (const [i, token] of next.entries()) rows[i].push(token)
  const lines =
    batch === undefined
      ? [[...prompt, ...rows[0]].join()]
      : rows.map((tokens, i) => JSON.stringify({ prompt: [...prompt], seed: (options.seed + i) % 2 ** 32, tokens }))
  for (const line of lines) process.stdout.write(`${line}\n`)
  return 0
}

/** The lines of a file, each a text that the vocabulary has; an empty one has nothing to continue. */
async function readPrompts(file: string, vocabulary: Vocabulary): Promise<string[]> {
  const lines = (await readText(file)).split(/\r?\n/)
  if (lines.at(-1) === '') lines.pop()
  for (const [i, line] of lines.entries()) {
    if (line === '') throw new TextError(`${file}: line ${i + 1} is empty: each line is a prompt`)
    try {
      vocabulary.encode(line)
    } catch (error) {
      throw error instanceof TextError ? new TextError(`${file}: line ${i + 1}: ${error.message}`) : error
    }
  }
  return lines
}
