/**
 * onnxruntime-node's operator LinearAttention (domain com.microsoft) as an implementation of rules: a graph of one node for each way it is
 * called. Heads are packed in the last axis, which is how [B,T,H,K] lies in memory; gates are logarithms, as ours.
 */
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Adapter, Numbers } from './implementation.ts'

/** As much of the package as is used. */
interface Runtime {
  Tensor: new (type: 'float32', data: Float32Array, shape: readonly number[]) => { data: Float32Array; dims: readonly number[] }
  InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> }
}
interface Session {
  run(feeds: object): Promise<Record<string, { data: Float32Array; dims: readonly number[] }>>
}

const name = 'onnxruntime-node'

/** The package, from the folder of the user or from where this one is; an error says how to install it. */
async function load(): Promise<{ runtime: Runtime; version: string }> {
  for (const from of [join(process.cwd(), 'here.js'), import.meta.url]) {
    const require = createRequire(from)
    let path: string
    try {
      path = require.resolve(name)
    } catch {
      continue
    }
    const { default: runtime } = (await import(pathToFileURL(path).href)) as { default: Runtime }
    return { runtime, version: (require(`${name}/package.json`) as { version: string }).version }
  }
  throw new Error(`onnxruntime: the package ${name} isn't installed here: npm install ${name}`)
}

// ---- a model of one node, as onnx.proto says. Wire types: 0 varint, 2 bytes, 5 four bytes

const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >>> 7)])
const int = (field: number, n: number): number[] => [...varint(field * 8), ...varint(n)]
const bytes = (field: number, data: readonly number[]): number[] => [...varint(field * 8 + 2), ...varint(data.length), ...data]
const text = (field: number, s: string): number[] => bytes(field, [...new TextEncoder().encode(s)])
const float = (field: number, x: number): number[] => [...varint(field * 8 + 5), ...new Uint8Array(Float32Array.of(x).buffer)]

/** An attribute with the number of its kind. */
const attribute = (name: string, kind: number, value: number[]): number[] => bytes(5, [...text(1, name), ...value, ...int(20, kind)])
/** A float32 input or output of any shape. */
const value = (field: number, name: string): number[] => bytes(field, [...text(1, name), ...bytes(2, bytes(1, int(1, 1)))])

/** The operator's rule, by the name of ours. */
export const operatorRules: Readonly<Record<string, string>> = {
  sum: 'linear',
  mamba2: 'gated',
  gla: 'gated',
  delta: 'delta',
  'gated-delta': 'gated_delta',
  kda: 'gated_delta',
}

/**
 * The bytes of a graph of one node, from inputs in the operator's order (queries, keys, values, state, decay, rate; '' where there is none) to y and S.
 * The scale can't be 0, which would mean 1 / sqrt(K).
 */
export function linearAttentionModel(
  rule: string,
  slots: readonly string[],
  { queryHeads, heads, scale }: { queryHeads: number; heads: number; scale: number },
): Uint8Array {
  if (scale === 0) throw new Error('LinearAttention: a scale of 0 would mean 1 / sqrt(K)')
  const outputs = ['y', 'S']
  const used = slots.slice(0, slots.findLastIndex((slot) => slot !== '') + 1)
  const node = [
    ...used.flatMap((slot) => text(1, slot)),
    ...outputs.flatMap((output) => text(2, output)),
    ...text(4, 'LinearAttention'),
    ...attribute('q_num_heads', 2, int(3, queryHeads)),
    ...attribute('kv_num_heads', 2, int(3, heads)),
    ...attribute('update_rule', 3, text(4, operatorRules[rule])),
    ...attribute('scale', 1, float(2, scale)),
    ...text(7, 'com.microsoft'),
  ]
  const graph = [
    ...bytes(1, node),
    ...text(2, 'graph'),
    ...used.filter((slot) => slot !== '').flatMap((slot) => value(11, slot)),
    ...outputs.flatMap((output) => value(12, output)),
  ]
  const opset = (domain: string, version: number): number[] => bytes(8, [...text(1, domain), ...int(2, version)])
  return Uint8Array.from([...int(1, 8), ...bytes(7, graph), ...opset('', 17), ...opset('com.microsoft', 1)])
}

// ---- the adapter

export async function onnxruntime(): Promise<Adapter> {
  const { runtime, version } = await load()
  const sessions = new Map<string, Promise<Session>>()
  return {
    name: `${name} ${version}`,
    dtype: 'float32',
    // It has one form, which goes token by token, and no backward pass; 0 times a NaN that a gate should forget is NaN.
    rules: Object.fromEntries(
      Object.keys(operatorRules).map((rule) => [rule, { options: ['initial', 'final', 'scale', 'heads'] as const }]),
    ),
    async forward(rule, { q, k, v, S0, gate, beta }, { scale }) {
      const [B, T, H, V] = v.shape
      const given: Record<string, Numbers | undefined> = { q, k, v, S0, gate, beta }
      const slots = Object.keys(given).map((slot) => (given[slot] ? slot : ''))
      const key = [rule, scale, q.shape[2], H, slots].join()
      if (!sessions.has(key)) {
        const model = linearAttentionModel(rule, slots, { queryHeads: q.shape[2], heads: H, scale })
        const options = { executionProviders: ['cpu'], intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 }
        sessions.set(key, runtime.InferenceSession.create(model, options))
      }
      const feed = (slot: string, { shape, data }: Numbers) => {
        const [B, T, heads, width = 1] = shape
        return new runtime.Tensor('float32', data as Float32Array, slot === 'S0' ? shape : [B, T, heads * width])
      }
      const session = await sessions.get(key)!
      const { y, S } = await session.run(
        Object.fromEntries(slots.filter((slot) => slot !== '').map((slot) => [slot, feed(slot, given[slot]!)])),
      )
      return { y: { shape: [B, T, H, V], data: y.data }, S: { shape: [...S.dims], data: S.data } }
    },
  }
}
