/** The commands by name: what each takes, and what runs it. */
import { readFileSync } from 'node:fs'
import { PretrainedError, SafetensorsError } from '../nn/index.ts'
import { TextError } from '../tasks/text.ts'
import { type Command, chooseCommand, commandHelp, parseArguments, UsageError, type Values } from './arguments.ts'
import { doctor } from './doctor.ts'
import { FileError } from './files.ts'
import { generateText } from './generate.ts'
import { inspect } from './inspect/index.ts'
import { learnTask } from './learn.ts'
import {
  arithmeticOf,
  checkDeviceOptions,
  compareCommand,
  doctorCommand,
  enableRelaxed,
  exportCommand,
  generateCommand,
  importCommand,
  inOptions,
  inspectCommand,
  learningNames,
  optionOfSetting,
  recipeOf,
  reproduceCommand,
  taskCommand,
  taskSettingsOf,
  trainCommand,
  verifyCommand,
  withDevice,
} from './options.ts'
import { task } from './task.ts'
import { oneLine, say, visible } from './terminal.ts'
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
      if (help) {
        say(commandHelp(program.name, command))
        return 0
      }
      try {
        return await run(values, given, operands)
      } catch (error) {
        // Expected ones speak of options already, and of names in files.
        if (error instanceof Error && !isExpected(error)) error.message = inOptions(error.message, command.options)
        throw error
      }
    },
  }
}

const isExpected = (error: unknown): boolean =>
  [UsageError, FileError, TextError, SafetensorsError, PretrainedError].some((kind) => error instanceof kind)

const version = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version as string

/** Beside what a command prints on standard output. */
const remark = (text: string): void => void process.stderr.write(`${visible(text)}\n`)

const entries = [
  entry(trainCommand, (v, given) => {
    if (v['dry-run'] && v.profile !== undefined) throw new UsageError('--profile: --dry-run writes nothing, and no picture')
    return withDevice(v, given, say, 'fastweights train', (device) => {
      const { preset, text, out, resume, seed, minutes, 'dry-run': dryRun } = v
      const { 'eval-every': evalEvery, 'eval-limit': evalLimit, 'save-every': saveEvery, 'sample-length': sampleLength } = v
      const every = { evalEvery, evalLimit, saveEvery, sampleLength }
      const arithmetic = arithmeticOf(device, v.relaxed)
      return train({ ...recipeOf(v, given), ...every, preset, text, out, resume, seed, minutes, dryRun, arithmetic, given }, device)
    })
  }),
  entry(generateCommand, (v, given, [run]) => {
    if (run !== undefined && v.run !== undefined) throw new UsageError(`--run: a run is given already, ${run}: give one of them`)
    return withDevice(v, given, remark, 'fastweights generate', () =>
      generateText({ ...v, run: run ?? v.run, topK: v['top-k'], topP: v['top-p'], given }),
    )
  }),
  entry(importCommand, async (v, given, operands) => {
    const { importModel } = await import('./pretrained.ts')
    return withDevice(v, given, remark, 'fastweights import', () => importModel({ ...v, operands }))
  }),
  entry(exportCommand, async (v, given, [run]) => {
    const { exportRun } = await import('./export.ts')
    return exportRun({ ...v, run, given }, version)
  }),
  entry(compareCommand, async (v, given, operands) => {
    const { compare } = await import('./compare.ts')
    try {
      return await withDevice({ ...v, profile: undefined }, given, remark, 'fastweights compare', (device) =>
        compare({ ...v, operands }, device, remark),
      )
    } catch (error) {
      // 1 says that something falls short.
      throw new UsageError((error as Error).message, { cause: error })
    }
  }),
  entry(inspectCommand, (v, given, [run]) =>
    withDevice(v, given, remark, 'fastweights inspect', () =>
      inspect({ ...v, run }, version, v.json === '-' ? remark : say, (text) => void process.stdout.write(text)),
    ),
  ),
  entry(verifyCommand, async (v, given, operands) => {
    const { 'case-limit': caseLimit } = v
    checkDeviceOptions(v.device, given)
    const { verify } = await import('./verify.ts')
    return verify({ ...v, caseLimit, operands, given, relaxed: enableRelaxed(v.relaxed) }, version)
  }),
  entry(reproduceCommand, async (v, given, operands) => {
    const { reproduce } = await import('./reproduce.ts')
    return reproduce({ ...v, operands, given }, version)
  }),
  entry(taskCommand, (v, given, operands) => {
    const { 'eval-every': evalEvery, split: splits, ...rest } = v
    const options = {
      ...rest,
      splits,
      settings: taskSettingsOf(v, given),
      learning: learningNames,
      optionName: optionOfSetting,
      operands,
      given,
    }
    return task(options, (name, row) =>
      withDevice(v, given, say, `fastweights task ${name}`, (device) =>
        learnTask(name, row, { ...options, ...recipeOf(v, given), evalEvery }, device),
      ),
    )
  }),
  entry(doctorCommand, doctor),
]

const program = {
  name: 'fastweights',
  version,
  summary: 'fast-weight sequence models: train them, sample from them, check them',
  commands: entries.map(({ command }) => command),
}

async function chosen(words: readonly string[]): Promise<number> {
  const choice = chooseCommand(program, words)
  if ('print' in choice) {
    say(choice.print)
    return 0
  }
  return entries.find(({ command }) => command === choice.command)!.run(choice.rest)
}

/** From the words of a command line to an exit code. What goes wrong for known reasons is said in one line. */
export async function runCommand(words: readonly string[]): Promise<number> {
  try {
    return await chosen(words)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    // What isn't expected still gets one line; its place in the code only for those who ask.
    process.stderr.write(`fastweights: ${oneLine(message)}\n`)
    const cause = (error instanceof Error && error.cause) || error
    if (!isExpected(cause) && process.env.FASTWEIGHTS_DEBUG && cause instanceof Error) process.stderr.write(`${cause.stack}\n`)
    return error instanceof UsageError ? 2 : 1
  }
}
