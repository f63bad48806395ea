/** Whether an ONNX graph of others computes on our kernels what it computed there. Tests: test/onnx/compare.test.ts. */
import { show } from '../engine/shape.ts'
import type { ComparedTensor, Comparison } from '../nn/pretrained/compare.ts'
import { PackedEntry, type Safetensors } from '../nn/safetensors.ts'
import { type ReadBeside, runGraph, tensorOf, type Value } from './graph.ts'
import { type DataType, OnnxError, readModel } from './proto.ts'

/** Of the largest entry of each output, by its type. bfloat16 has three bits less than float16; integers are equal. */
const tolerances: Partial<Record<string, number>> = { F32: 2e-6, F16: 2e-3, BF16: 1.6e-2, I32: 0 }

/** How far an array is from what was expected. */
function measure(
  name: string,
  { shape, data }: { shape: readonly number[]; data: ArrayLike<number> },
  expected: { shape: readonly number[]; data: ArrayLike<number> },
  tolerance: number,
): ComparedTensor {
  const result = (error: number | null, measure: 'absolute' | 'relative', problem?: string): ComparedTensor => ({
    ...{ name, shape: expected.shape, error, measure, tolerance, ok: error !== null && error <= tolerance },
    ...(problem !== undefined && { problem }),
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

/** A graph on the tensors `in.NAME`; `out.NAME` is what its output of that name should be. */
export async function compareGraph(
  bytes: Uint8Array,
  given: Safetensors['tensors'],
  readBeside: ReadBeside,
): Promise<Pick<Comparison, 'ok' | 'tensors' | 'notCompared'>> {
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
    else if (entry instanceof PackedEntry || !(entry.dtype in tolerances))
      throw new OnnxError(`${full} of the case is ${entry.dtype}, expected ${Object.keys(tolerances).join(', ')}`)
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
        const another = { ...compared, error: null, ok: false, problem: `it is ${type} here, ${expected.dtype} expected` }
        tensors.push(expected.dtype === type ? compared : another)
      }
    }
    return { ok: tensors.length > 0 && !unknown && tensors.every(({ ok }) => ok), tensors, notCompared }
  } finally {
    for (const { tensor } of inputs.values()) tensor.dispose()
  }
}
