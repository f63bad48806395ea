/**
 * Whether a model from other files computes what its package computed: its logits, loss, gradients, states and caches beside a file of figures
 * (`expected.safetensors`: input_ids, logits, loss, grad.NAME, state.N, conv.N, ...).
 */

import { crossEntropy } from '../../engine/ops/norm.ts'
import { noGrad } from '../../engine/recording.ts'
import { keep, scope } from '../../engine/scope.ts'
import { sameShape, show } from '../../engine/shape.ts'
import type { Tensor } from '../../engine/tensor.ts'
import { backward, tensor } from '../../engine/tensor.ts'
import { generate } from '../generate.ts'
import { ignoredTarget } from '../model.ts'
import { isFloat } from '../module.ts'
import { decode, readSafetensors, type SafetensorsEntry } from '../safetensors.ts'
import { PretrainedError, putTogether, type StateName } from './architecture.ts'
import { type Pretrained, planOfSource } from './open.ts'
import { type Arranged, arrangements } from './states.ts'

/** How one array of a run here compares with what the other package has recorded. */
export interface ComparedTensor {
  name: string
  shape: readonly number[]
  /** Null where there is nothing that can be compared: `problem` says why. */
  error: number | null
  /** Whether the error is the largest difference, or that over the largest entry of what is expected; of a state over 1 at least. */
  measure: 'absolute' | 'relative'
  /** What the error may be at most. */
  tolerance: number
  ok: boolean
  /** One line: why there is nothing to compare, or what else is wrong. */
  problem?: string
}
/** How a run of another package's model compares here with what that package has recorded. */
export interface Comparison {
  model: string
  package: string
  device: string
  /** Whether every array is as it should be. */
  ok: boolean
  tensors: ComparedTensor[]
  /** Recorded arrays that have nothing here to be compared with, and why. */
  notCompared: { name: string; reason: string }[]
}

/** The largest difference, over the larger of `least` and the largest entry of what is expected where the measure is relative. */
interface Bound {
  measure: 'absolute' | 'relative'
  tolerance: number
  least: number
}
export const logitsTolerance = (device: string): number => (device === 'reference' ? 2e-5 : 1e-4)
const bounds = {
  loss: { measure: 'absolute', tolerance: 1e-5, least: 0 },
  gradient: { measure: 'relative', tolerance: 1e-3, least: 0 },
  state: { measure: 'relative', tolerance: 1e-4, least: 1 },
  tokens: { measure: 'absolute', tolerance: 0, least: 0 },
} as const satisfies Record<string, Bound>

interface Found extends Arranged {
  bound: Bound
}

/**
 * `expected`: a safetensors file; for RWKV's own files the logits after the text `"in`, as float32 numbers and nothing else. Throws a PretrainedError, or a
 * SafetensorsError, where that can't be used.
 */
export async function comparePretrained({ model, source }: Pretrained, expected: Uint8Array): Promise<Comparison> {
  const tensors = source.package === 'rwkv' ? rawLogits(expected, model.config.symbols) : readSafetensors(expected).tensors
  const { row, reader, entries } = planOfSource(model, source)
  const { device } = model.embedding.weight
  const ids = tokensOf(tensors.get('input_ids'), model.config.symbols)
  const [B, T] = ids.shape
  const found = new Map<string, Found>()

  const targets = Int32Array.from({ length: B * T }, (_, i) => (i % T === T - 1 ? ignoredTarget : ids.data[i + 1]))
  const result = scope(() =>
    noGrad(() => {
      const { logits, state } = model.eval().forward(tensor(ids.data, { shape: [B, T], device }))
      const loss = T > 1 ? crossEntropy(logits, tensor(targets, { shape: [B, T], device }), { ignore: ignoredTarget }) : null
      return { logits: keep(logits), loss: loss && keep(loss), parts: row.states(reader).flatMap((name) => statesOf(name, state.layers)) }
    }),
  )
  const logits = await result.logits.read()
  found.set('logits', {
    ...(source.package === 'rwkv'
      ? { shape: [logits.length / T], data: logits.slice(-logits.length / T) }
      : { shape: result.logits.shape, data: logits }),
    bound: { measure: 'absolute', tolerance: logitsTolerance(device.name), least: 0 },
  })
  for (const { file, axes, parts } of result.parts) {
    const held = await Promise.all(parts.map(async (part) => ({ shape: part.shape, data: await part.read() })))
    found.set(file, { ...arrangements[axes](held), bound: bounds.state })
    for (const part of parts) part.dispose()
  }
  result.logits.dispose()

  if (result.loss) {
    found.set('loss', { shape: [], data: await result.loss.read(), bound: bounds.loss })
    result.loss.dispose()
  }
  const continued = tensors.get('generated')?.shape[0]
  if (continued !== undefined) {
    const tokens: number[] = []
    for await (const token of generate(model, ids.data.slice(0, T), { length: continued, temperature: 0 })) tokens.push(token)
    found.set('generated', { shape: [continued], data: tokens, bound: bounds.tokens })
  }

  if (T > 1 && [...tensors.keys()].some((name) => name.startsWith('grad.'))) {
    scope(() => backward(model.train().loss({ tokens: ids.data, targets, B, T })))
    const parameters = model.namedParameters()
    for (const entry of entries) {
      const wanted = entry.files.map(({ name }) => `grad.${source.renamed[name] ?? name}`)
      if (!wanted.some((name) => tensors.has(name))) continue
      const gradients = new Map<string, ArrayLike<number>>()
      for (const name of entry.own) {
        const parameter = parameters.get(name)!
        gradients.set(name, (await parameter.grad?.read()) ?? new Float64Array(parameter.size))
      }
      const pieces = putTogether(entry, (name) => gradients.get(name)!)
      for (const [i, { shape }] of entry.files.entries()) found.set(wanted[i], { shape, data: pieces[i], bound: bounds.gradient })
    }
    for (const parameter of model.parameters()) {
      parameter.grad?.dispose()
      parameter.grad = null
    }
    model.eval()
  }

  const notCompared = Object.entries(row.notCompared ?? {}).flatMap(([name, reason]) => (tensors.has(name) ? [{ name, reason }] : []))
  const compared = [...tensors]
    .filter(([name]) => name !== 'input_ids' && !notCompared.some((other) => other.name === name))
    .map(([name, entry]) => compareOne(name, entry, found.get(name)))
  return {
    model: row.modelType,
    package: row.package,
    device: device.name,
    ok: compared.length > 0 && compared.every(({ ok }) => ok),
    tensors: compared,
    notCompared,
  }
}

/** The bytes of `"in`, which are tokens of their own. */
const rwkvText = Int32Array.from('"in', (letter) => letter.charCodeAt(0))

function rawLogits(bytes: Uint8Array, symbols: number): Map<string, SafetensorsEntry> {
  if (bytes.length !== 4 * symbols)
    throw new PretrainedError(`the expected logits have ${bytes.length} bytes, where ${symbols} float32 numbers have ${4 * symbols}`)
  return new Map<string, SafetensorsEntry>([
    ['input_ids', { dtype: 'I32', shape: [1, rwkvText.length], data: rwkvText }],
    ['logits', { dtype: 'F32', shape: [symbols], data: decode('F32', bytes.slice()) as Float32Array<ArrayBuffer> }],
  ])
}

function tokensOf(entry: SafetensorsEntry | undefined, symbols: number): { shape: readonly number[]; data: Int32Array } {
  if (entry === undefined) throw new PretrainedError('the expected figures lack input_ids: there is nothing to run the model on')
  const { shape } = entry
  if (!(entry.dtype === 'I32' || entry.dtype === 'I64') || shape.length !== 2 || shape.includes(0))
    throw new PretrainedError(`the expected figures' input_ids must be int32 or int64 [B,T], not ${entry.dtype} ${show(shape)}`)
  const tokens = Array.from(entry.data as ArrayLike<number>, Number)
  const bad = tokens.find((token) => !(token >= 0 && token < symbols))
  if (bad !== undefined) throw new PretrainedError(`the expected figures' input_ids hold ${bad}; the model has ${symbols} symbols`)
  return { shape, data: Int32Array.from(tokens) }
}

/** The parts of every layer that has them, under their name in the file. */
function statesOf({ file, from, axes }: StateName, layers: readonly { parts: readonly object[] }[]) {
  return layers.flatMap(({ parts }, layer) => {
    const found = from.map(([part, name]) => (parts[part] as Record<string, Tensor> | undefined)?.[name])
    return found.every((part) => part !== undefined) ? [{ file: file.replace('#', `${layer}`), axes, parts: found.map(keep) }] : []
  })
}

function compareOne(name: string, entry: SafetensorsEntry, found: Found | undefined): ComparedTensor {
  const { measure, tolerance, least } = found?.bound ?? bounds.state
  const not = (problem: string): ComparedTensor => ({ name, shape: entry.shape, error: null, measure, tolerance, ok: false, problem })
  if (!found) return not('the model has nothing of this name')
  if (!sameShape(entry.shape, found.shape)) return not(`the model's has shape ${show(found.shape)}`)
  if (entry.shape.includes(0)) return not('it holds no numbers')
  if (!isFloat(entry) && entry.dtype !== 'I32' && entry.dtype !== 'I64') return not(`it is ${entry.dtype}, not numbers that are compared`)
  const expected = found.expected?.(entry.data as ArrayLike<number>) ?? (entry.data as ArrayLike<number>)
  let [largest, difference] = [least, 0]
  for (let i = 0; i < expected.length; i++) {
    if (found.free !== undefined && i % found.free === 0) continue
    const [a, b] = [found.data[i], Number(expected[i])]
    largest = Math.max(largest, Math.abs(b))
    // Two that are infinite, or none, alike; NaN on one side or on both is none that agrees.
    difference = Math.max(difference, a === b ? 0 : Number.isFinite(a) && Number.isFinite(b) ? Math.abs(a - b) : Infinity)
  }
  const error = measure === 'absolute' || difference === 0 ? difference : difference / largest
  return { name, shape: entry.shape, error: Number.isFinite(error) ? error : null, measure, tolerance, ok: error <= tolerance }
}
