/** `fastweights compare FOLDER`: whether an imported model computes what its package computed. Tests: test/cli/pretrained.test.ts. */
import { readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type ComparedTensor, type Comparison, comparePretrained, fromPretrained, type PackageName } from '../nn/index.ts'
import { reason } from '../tasks/download.ts'
import { UsageError } from './arguments.ts'
import { FileError } from './files.ts'
import { readModelFiles } from './pretrained.ts'

export interface CompareFolderOptions {
  package: PackageName | undefined
  json: boolean
  operands: readonly string[]
}

/** What is beside a model where nothing else is named. */
const expectedName = 'expected.safetensors'

/** 0: everything holds; 1: something falls short. `print` gets what belongs on standard output. */
export async function compareFolder(
  { package: wanted, json, operands }: CompareFolderOptions,
  remark: (text: string) => void,
  print: (text: string) => void,
): Promise<number> {
  const [path, given] = operands
  if (path === undefined)
    throw new UsageError('compare: name the folder of a model, and, where it has no expected.safetensors, a file of figures')
  const files = readModelFiles(path)
  const expected = readExpected(given ?? join(statSync(path).isDirectory() ? path : dirname(path), expectedName))
  const pretrained = fromPretrained(files, { package: wanted })
  for (const warning of pretrained.warnings) remark(warning)
  const result = await comparePretrained(pretrained, expected)
  if (json) print(`${JSON.stringify(result)}\n`)
  else print(table(result))
  return result.ok ? 0 : 1
}

function readExpected(file: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(file))
  } catch (error) {
    throw new FileError(`can't read the expected figures ${file}: ${reason(error)}`)
  }
}

function table({ model, package: name, device, ok, tensors, notCompared }: Comparison): string {
  const width = Math.max(...tensors.map((t) => t.name.length), 0)
  const line = (t: ComparedTensor): string =>
    `  ${t.name.padEnd(width)}  ${(t.error === null ? (t.problem ?? 'not finite') : t.error.toExponential(1)).padStart(8)}  ${t.measure}, at most ${t.tolerance}${t.ok ? '' : '  FALLS SHORT'}`
  const short = tensors.filter((t) => !t.ok).length
  const summary = tensors.length === 0 ? 'nothing to compare' : ok ? 'all hold' : `${short} of ${tensors.length} fall short`
  return [
    `${model} of ${name} on ${device}: ${summary}`,
    ...tensors.map(line),
    ...notCompared.map(({ name, reason }) => `  ${name}: not compared: ${reason}`),
    '',
  ].join('\n')
}
