import { generate, modelOf } from '../nn/index.ts'
import { latestRun, openRun } from './runs.ts'
import { say } from './terminal.ts'

export interface GenerateCommandOptions {
  run: string | undefined
  prompt: string | undefined
  length: number
  temperature: number
  topK: number
  seed: number
}

/** Writes the prompt and its continuation to standard output as they come. */
export async function generateText({ run, prompt, ...options }: GenerateCommandOptions): Promise<number> {
  const { checkpoint, vocabulary, training } = openRun(run ?? latestRun())
  const start = prompt ?? training.prompt
  const tokens = vocabulary.encode(start)
  const model = modelOf(checkpoint)
  process.stdout.write(start)
  for await (const token of generate(model, tokens, options)) {
    process.stdout.write(vocabulary.decode([token]))
    await new Promise(setImmediate) // lets the end of a reader show
  }
  say('')
  return 0
}
