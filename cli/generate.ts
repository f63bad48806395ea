import { generate, modelOf } from '../nn/index.ts'
import { latestRun, openRun } from './runs.ts'
import { visible } from './terminal.ts'

export interface GenerateCommandOptions {
  run: string | undefined
  prompt: string | undefined
  length: number
  temperature: number
  topK: number
  seed: number
  raw: boolean
}

/** Writes the prompt and its continuation to standard output as they come. */
export async function generateText({ run, prompt, raw, ...options }: GenerateCommandOptions): Promise<number> {
  const { checkpoint, vocabulary, training } = openRun(run ?? latestRun())
  const start = prompt ?? training.prompt
  const tokens = vocabulary.encode(start)
  const model = modelOf(checkpoint)
  const write = (text: string): void => void process.stdout.write(raw ? text : visible(text))
  write(start)
  for await (const token of generate(model, tokens, options)) {
    write(vocabulary.decode([token]))
    await new Promise(setImmediate) // lets the end of a reader show
  }
  write('\n')
  return 0
}
