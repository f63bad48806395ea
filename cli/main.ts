#!/usr/bin/env node
/** The `fastweights` command: chooses a command, and turns what goes wrong for known reasons into one line and an exit code. */
import { readFileSync } from 'node:fs'
import { SafetensorsError } from '../nn/index.ts'
import { TextError } from '../tasks/text.ts'
import { chooseCommand, type Command, commandHelp, parseArguments, UsageError } from './arguments.ts'
import { doctor } from './doctor.ts'
import { FileError } from './files.ts'
import { generateText } from './generate.ts'
import { doctorCommand, generateCommand, openDevice, recipeOf, trainCommand } from './options.ts'
import { say } from './terminal.ts'
import { train } from './train.ts'

const program = {
  name: 'fastweights',
  version: JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version as string,
  summary: 'fast-weight sequence models: train them, sample from them, check them',
  commands: [trainCommand, generateCommand, doctorCommand] as readonly Command[],
}

/** Each command's way from the words after its name to an exit code. */
const actions: Record<string, (words: readonly string[]) => Promise<number>> = {
  train: async (words) => {
    const { values: v, given } = parseArguments(trainCommand, words)
    const { model, training } = recipeOf(v)
    const { preset, text, out, resume, seed } = v
    const device = await openDevice(v)
    return train(
      { description: '', model, training, preset, text, out, resume, seed, evalEvery: v['eval-every'], saveEvery: v['save-every'], sampleLength: v['sample-length'], given },
      device,
    )
  },
  generate: async (words) => {
    const { values: v } = parseArguments(generateCommand, words)
    await openDevice(v)
    return generateText({ ...v, topK: v['top-k'] })
  },
  doctor: async (words) => doctor(await openDevice(parseArguments(doctorCommand, words).values)),
}

async function main(words: readonly string[]): Promise<number> {
  const chosen = chooseCommand(program, words)
  if ('print' in chosen) {
    say(chosen.print)
    return 0
  }
  const { command, rest } = chosen
  if (parseArguments(command, rest).help) {
    say(commandHelp(program.name, command))
    return 0
  }
  return actions[command.name](rest)
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0) // the reader (head, less) has left
  throw error
})

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const expected = error instanceof Error && [UsageError, FileError, TextError, SafetensorsError].some((kind) => error instanceof kind)
  const message = error instanceof Error ? error.message : String(error)
  // What isn't expected still gets one line; its place in the code only for those who ask.
  process.stderr.write(`fastweights: ${message}\n`)
  if (!expected && process.env.FASTWEIGHTS_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  process.exitCode = error instanceof UsageError ? 2 : 1
}
