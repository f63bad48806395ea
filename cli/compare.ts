/**
 * `fastweights compare`: runs what somebody else has made on inputs that come with it, and sets what comes out beside what came out there. A kind of
 * model is a row of `kinds`. Tests: test/onnx/compare.test.ts, test/cli/pretrained.test.ts.
 */
import { realpathSync } from 'node:fs'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import type { Device } from '../engine/index.ts'
import { show } from '../engine/shape.ts'
import { printable } from '../nn/foreign.ts'
import { type Comparison, comparePretrained, fromPretrained, type PackageName } from '../nn/index.ts'
import { readSafetensors } from '../nn/safetensors.ts'
import { compareGraph } from '../onnx/compare.ts'
import type { ReadBeside } from '../onnx/graph.ts'
import { readWhole } from '../tasks/read.ts'
import { reason } from '../tasks/reason.ts'
import { UsageError } from './arguments.ts'
import { FileError, isFolder } from './files.ts'
import { readModelFiles } from './model-files.ts'
import { checkMemory } from './runs.ts'

export interface CompareOptions {
  operands: readonly string[]
  package: PackageName | undefined
  json: boolean
}

interface Kind {
  takes: string
  is(path: string): boolean
  run(model: string, expected: string | undefined, context: Context): Promise<Comparison>
}
interface Context {
  device: Device
  package: PackageName | undefined
  remark(text: string): void
}

/** The last takes whatever the others don't. */
const kinds: readonly Kind[] = [
  {
    takes: 'CASE.onnx CASE.safetensors',
    is: (path) => !isFolder(path) && path.toLowerCase().endsWith('.onnx'),
    async run(model, expected, { device }) {
      if (expected === undefined) throw new UsageError(`compare: ${model} needs a case, a safetensors file of its inputs and outputs`)
      const { tensors } = await within(expected, () => readSafetensors(readBytes(expected)))
      const compared = await within(model, () => compareGraph(readBytes(model), tensors, besides(model)))
      return { model, package: 'onnx', device: device.name, ...compared }
    },
  },
  {
    takes: 'the folder of a model, or its file of weights, with EXPECTED.safetensors',
    is: () => true,
    async run(path, given, { package: wanted, remark }) {
      const files = readModelFiles(path)
      const expected = readBytes(given ?? join(isFolder(path) ? path : dirname(path), 'expected.safetensors'))
      const pretrained = fromPretrained(files, { package: wanted, frozen: !hasGradients(expected), before: checkMemory(path) })
      for (const warning of pretrained.warnings) remark(warning)
      return comparePretrained(pretrained, expected)
    },
  },
]

/** Returns the exit code: 0 all hold, 1 one falls short. What can't be run at all is an error. */
export async function compare(
  { operands, package: wanted, json }: CompareOptions,
  device: Device,
  remark: (text: string) => void,
): Promise<number> {
  const [model, expected] = operands
  if (model === undefined) throw new UsageError(`compare: it takes ${kinds.map(({ takes }) => takes).join(', or ')}`)
  const kind = kinds.find(({ is }) => is(model))!
  const comparison = await kind.run(model, expected, { device, package: wanted, remark })
  process.stdout.write(json ? `${JSON.stringify(comparison)}\n` : told(comparison))
  return comparison.ok ? 0 : 1
}

/** Whether figures have gradients: without, nothing is trained. RWKV's are no safetensors file, and have none. */
function hasGradients(expected: Uint8Array): boolean {
  try {
    return [...readSafetensors(expected).tensors.keys()].some((name) => name.startsWith('grad.'))
  } catch {
    return false // compare says what is wrong with it
  }
}

function readBytes(path: string): Uint8Array {
  try {
    return new Uint8Array(readWhole(path))
  } catch (error) {
    throw new FileError(`can't read ${path}: ${reason(error)}`)
  }
}

/** What goes wrong with a file is told with its name. */
async function within<R>(path: string, body: () => R | Promise<R>): Promise<R> {
  try {
    return await body()
  } catch (error) {
    throw error instanceof FileError ? error : new FileError(`${path} can't be used: ${(error as Error).message}`)
  }
}

function told({ model, package: name, device, ok, tensors, notCompared }: Comparison): string {
  const lines = tensors.map(({ name, shape, error, measure, tolerance, ok, problem }) => {
    const found =
      error === null ? (problem ?? 'not finite') : `${error.toExponential(1)}${measure === 'relative' ? ' of the largest entry' : ''}`
    return [name, show(shape), `${found} (at most ${tolerance.toExponential(0)})`, ok ? 'holds' : 'FALLS SHORT']
  })
  const widths = [0, 1, 2].map((i) => Math.max(0, ...lines.map((line) => line[i].length)))
  const rows = lines.map((line) => `  ${line.map((word, i) => word.padEnd(widths[i] ?? 0)).join('  ')}`.trimEnd())
  const rest = notCompared.map(({ name, reason }) => `  ${name}: not compared: ${reason}`)
  const verdict = ok ? 'all hold' : tensors.length === 0 ? 'nothing to compare' : 'not all hold'
  return [`${model} of ${name} on ${device}: ${verdict}`, ...rows, ...rest, ''].map(printable).join('\n')
}

/** Reads files in the model's folder, and no others, wherever links lead. */
export const besides =
  (path: string): ReadBeside =>
  (location) => {
    const folder = realpathSync(dirname(resolve(path)))
    const fail = (why: string): never => {
      throw new Error(`its data are said to be in ${printable(location)}, which ${why}`)
    }
    if (location === '') throw new Error("its data are said to be in another file, which isn't named")
    const outside = (file: string): boolean => {
      const from = relative(folder, file)
      return from === '' || from.startsWith('..') || isAbsolute(from)
    }
    if (isAbsolute(location) || outside(resolve(folder, location))) fail("isn't in the model's folder: it isn't read")
    let file: string
    try {
      file = realpathSync(resolve(folder, location))
    } catch (error) {
      return fail(`can't be read: ${reason(error)}`)
    }
    if (outside(file)) fail("leads out of the model's folder: it isn't read")
    return readBytes(file)
  }
