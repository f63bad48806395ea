/**
 * `fastweights compare`: runs what somebody else has made on inputs that come with it, and sets what comes out beside what came out there. A kind of
 * model is a row of `kinds`. Tests: test/onnx/compare.test.ts.
 */
import { readFileSync, realpathSync, statSync } from 'node:fs'
import { dirname, isAbsolute, relative, resolve } from 'node:path'
import type { Device } from '../engine/index.ts'
import { show } from '../engine/shape.ts'
import { printable } from '../nn/foreign.ts'
import { PackedEntry, readSafetensors, type Safetensors } from '../nn/safetensors.ts'
import { type ReadBeside, runGraph, tensorOf, type Value } from '../onnx/graph.ts'
import { type DataType, readModel } from '../onnx/proto.ts'
import { reason } from '../tasks/download.ts'
import { UsageError } from './arguments.ts'
import { FileError } from './files.ts'

export interface ComparedTensor {
  name: string
  shape: readonly number[]
  /** The largest difference; relative: of the largest entry expected. Null where there is none: another shape, NaN on one side. */
  error: number | null
  measure: 'absolute' | 'relative'
  tolerance: number
  ok: boolean
  /** Why there is no error. */
  reason?: string
}

export interface Comparison {
  model: string
  package: string
  device: string
  ok: boolean
  tensors: ComparedTensor[]
  notCompared: { name: string; reason: string }[]
}

/** Of the largest entry of each output, by its type. bfloat16 has three bits less than float16. */
const tolerances: Partial<Record<string, number>> = { F32: 2e-6, F16: 2e-3, BF16: 1.6e-2 }

/** `unknown`: the case has tensors that the model knows nothing of. */
type Compared = Pick<Comparison, 'tensors' | 'notCompared'> & { unknown: boolean }

interface Kind {
  package: string
  takes: string
  is(path: string): boolean
  run(path: string, given: Safetensors): Promise<Compared>
}

const kinds: readonly Kind[] = [
  {
    package: 'onnx',
    takes: 'CASE.onnx CASE.safetensors',
    is: (path) => path.toLowerCase().endsWith('.onnx'),
    run: (path, { tensors }) => compareGraph(readBytes(path), tensors, besides(path)),
  },
]

/** Returns the exit code: 0 all hold, 1 one falls short. What can't be run at all is a UsageError. */
export async function compare(operands: readonly string[], json: boolean, device: Device): Promise<number> {
  const takes = `it takes ${kinds.map(({ takes }) => takes).join(' or ')}`
  const [model, expected] = operands
  if (model === undefined || expected === undefined) throw new UsageError(`compare: ${takes}`)
  const kind = kinds.find(({ is }) => is(model))
  if (isFolder(model)) throw new UsageError(`${model} is a folder: ${takes}`)
  if (kind === undefined) throw new UsageError(`${model} doesn't end in .onnx: ${takes}`)
  const result = await within(expected, () => readSafetensors(readBytes(expected)))
  const { tensors, notCompared, unknown } = await within(model, () => kind.run(model, result))
  const ok = tensors.length > 0 && !unknown && tensors.every(({ ok }) => ok)
  const comparison: Comparison = { model, package: kind.package, device: device.name, ok, tensors, notCompared }
  process.stdout.write(json ? `${JSON.stringify(comparison)}\n` : told(comparison))
  return ok ? 0 : 1
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory()
  } catch (error) {
    throw new FileError(`can't read ${path}: ${reason(error)}`)
  }
}

function readBytes(path: string): Uint8Array {
  try {
    return readFileSync(path)
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

function told({ model, device, ok, tensors, notCompared }: Comparison): string {
  const lines = tensors.map(({ name, shape, error, measure, tolerance, ok, reason }) => {
    const found = error === null ? reason! : `${error.toExponential(1)}${measure === 'relative' ? ' of the largest entry' : ''}`
    return [name, show(shape), `${found} (at most ${tolerance.toExponential(0)})`, ok ? 'holds' : 'FALLS SHORT']
  })
  const widths = [0, 1, 2].map((i) => Math.max(0, ...lines.map((line) => line[i].length)))
  const rows = lines.map((line) => `  ${line.map((word, i) => word.padEnd(widths[i] ?? 0)).join('  ')}`.trimEnd())
  const rest = notCompared.map(({ name, reason }) => `  ${name}: not compared: ${reason}`)
  const verdict = ok ? 'all hold' : tensors.length === 0 ? 'nothing to compare' : 'not all hold'
  return [`${model} on ${device}: ${verdict}`, ...rows, ...rest, ''].map(printable).join('\n')
}

/** How far an array is from what was expected. */
export function measure(
  name: string,
  { shape, data }: { shape: readonly number[]; data: ArrayLike<number> },
  expected: { shape: readonly number[]; data: ArrayLike<number> },
  tolerance: number,
): ComparedTensor {
  const result = (error: number | null, measure: 'absolute' | 'relative', reason?: string): ComparedTensor => ({
    ...{ name, shape: expected.shape, error, measure, tolerance, ok: error !== null && error <= tolerance },
    ...(reason !== undefined && { reason }),
  })
  if (show(shape) !== show(expected.shape)) return result(null, 'relative', `it has shape ${show(shape)} here`)
  let [largest, difference] = [0, 0]
  for (let i = 0; i < data.length; i++) {
    const [a, b] = [data[i], expected.data[i]]
    if (Object.is(a, b) || a === b) {
      if (Number.isFinite(b)) largest = Math.max(largest, Math.abs(b))
      continue
    }
    if (!(Number.isFinite(a) && Number.isFinite(b))) return result(null, 'relative', `entry ${i} is ${a} here, ${b} expected`)
    largest = Math.max(largest, Math.abs(b))
    difference = Math.max(difference, Math.abs(a - b))
  }
  return largest === 0 ? result(difference, 'absolute') : result(difference / largest, 'relative')
}

// --- ONNX -----------------------------------------------------------------------------------------------------------------------------

/** A graph on the tensors `in.NAME`; `out.NAME` is what its output of that name should be. */
export async function compareGraph(bytes: Uint8Array, given: Safetensors['tensors'], readBeside: ReadBeside): Promise<Compared> {
  const model = readModel(bytes)
  const inputs = new Map<string, Value>()
  const wanted = new Map<string, { shape: readonly number[]; data: ArrayLike<number>; dtype: string }>()
  const notCompared: Comparison['notCompared'] = []
  const skip = (name: string, reason: string): void => void notCompared.push({ name, reason })
  const names = (list: readonly { name: string }[]): Set<string> => new Set(list.map(({ name }) => name))
  const [graphInputs, graphOutputs] = [names(model.graph.input), names(model.graph.output)]
  for (const [full, entry] of given) {
    const [, side, name] = /^(in|out)\.(.*)$/s.exec(full) ?? []
    const here = side === 'in' ? graphInputs : graphOutputs
    if (side === undefined) skip(full, 'its name begins with neither in. nor out.')
    else if (!here.has(name)) skip(full, `the graph has no ${side}put of that name (it has ${[...here].join(', ')})`)
    else if (entry instanceof PackedEntry || !(entry.dtype in tolerances || (side === 'in' && entry.dtype === 'I32')))
      throw new FileError(`${full} is ${entry.dtype}, expected F32, F16, BF16${side === 'in' ? ' or I32' : ''}`)
    else if (side === 'in')
      inputs.set(name, {
        type: entry.dtype as DataType,
        tensor: tensorOf(entry.dtype as DataType, entry.data as Float32Array, entry.shape),
      })
    else wanted.set(name, { shape: entry.shape, data: entry.data as Float32Array, dtype: entry.dtype })
  }
  const unknown = notCompared.length > 0
  try {
    const made = runGraph(model, inputs, readBeside)
    const tensors: ComparedTensor[] = []
    for (const [name, { tensor, type }] of made) {
      const full = `out.${name}`
      const expected = wanted.get(name)
      const values = { shape: tensor.shape, data: await tensor.read() }
      tensor.dispose()
      if (expected === undefined) skip(full, 'the case has no such tensor')
      else {
        const compared = measure(full, values, expected, tolerances[type]!)
        const another = { ...compared, error: null, ok: false, reason: `it is ${type} here, ${expected.dtype} expected` }
        tensors.push(expected.dtype === type ? compared : another)
      }
    }
    return { tensors, notCompared, unknown }
  } finally {
    for (const { tensor } of inputs.values()) tensor.dispose()
  }
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
