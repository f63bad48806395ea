#!/usr/bin/env node
/** The `fastweights` command: chooses a command, and turns what goes wrong for known reasons into one line and an exit code. */
import { readFileSync } from 'node:fs'
import { SafetensorsError } from '../nn/index.ts'
import { TextError } from '../tasks/text.ts'
import { type Command, chooseCommand, commandHelp, parseArguments, UsageError, type Values } from './arguments.ts'
import { doctor } from './doctor.ts'
import { FileError } from './files.ts'
import { generateText } from './generate.ts'
import {
  arithmeticOf,
  doctorCommand,
  enableRelaxed,
  generateCommand,
  openDevice,
  recipeOf,
  trainCommand,
  verifyCommand,
} from './options.ts'
import { oneLine, say, watchOutput } from './terminal.ts'
import { train } from './train.ts'

interface Entry {
  command: Command
  /** From the words after the command's name to an exit code. */
  run(words: readonly string[]): Promise<number>
}

function entry<const C extends Command>(
  command: C,
  run: (values: Values<C>, given: ReadonlySet<string>, operands: readonly string[]) => Promise<number>,
): Entry {
  return {
    command,
    run: async (words) => {
      const { help, values, given, operands } = parseArguments(command, words)
      if (!help) return run(values, given, operands)
      say(commandHelp(program.name, command))
      return 0
    },
  }
}

const version = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version as string

const entries = [
  entry(trainCommand, async (v, given) => {
    const { preset, text, out, resume, seed } = v
    const device = await openDevice(v)
    const { 'eval-every': evalEvery, 'save-every': saveEvery, 'sample-length': sampleLength } = v
    return train(
      { ...recipeOf(v), preset, text, out, resume, seed, evalEvery, saveEvery, sampleLength, arithmetic: arithmeticOf(v), given },
      device,
    )
  }),
  entry(generateCommand, async (v) => {
    await openDevice(v)
    return generateText({ ...v, topK: v['top-k'] })
  }),
  entry(verifyCommand, async (v, given, operands) => {
    const { 'case-limit': caseLimit } = v
    const { verify } = await import('./verify.ts')
    return verify({ ...v, caseLimit, operands, given, relaxed: enableRelaxed(v.relaxed) }, version)
  }),
  entry(doctorCommand, async (v) => doctor(await openDevice(v))),
]

const program = {
  name: 'fastweights',
  version,
  summary: 'fast-weight sequence models: train them, sample from them, check them',
  commands: entries.map(({ command }) => command),
}

async function main(words: readonly string[]): Promise<number> {
  const chosen = chooseCommand(program, words)
  if ('print' in chosen) {
    say(chosen.print)
    return 0
  }
  return entries.find(({ command }) => command === chosen.command)!.run(chosen.rest)
}

watchOutput()

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const expected = error instanceof Error && [UsageError, FileError, TextError, SafetensorsError].some((kind) => error instanceof kind)
  const message = error instanceof Error ? error.message : String(error)
  // What isn't expected still gets one line; its place in the code only for those who ask.
  process.stderr.write(`fastweights: ${oneLine(message)}\n`)
  if (!expected && process.env.FASTWEIGHTS_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  process.exitCode = error instanceof UsageError ? 2 : 1
}
