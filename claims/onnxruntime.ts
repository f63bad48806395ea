/**
 * onnxruntime-node's operator LinearAttention (domain com.microsoft) as an implementation of rules: a graph of one node for each way it is
 * called. Heads are packed in the last axis, which is how [B,T,H,K] lies in memory; gates are logarithms, as ours.
 */
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { declared, float, int, text } from '../onnx/nodes.ts'
import { writeModel } from '../onnx/proto.ts'
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
  const attributes = {
    ...{ q_num_heads: int(queryHeads), kv_num_heads: int(heads) },
    ...{ update_rule: text(operatorRules[rule]), scale: float(scale) },
  }
  const node = {
    ...{ opType: 'LinearAttention', domain: 'com.microsoft', input: used, output: outputs },
    attribute: Object.entries(attributes).map(([name, value]) => ({ name, ...value })),
  }
  const values = (names: readonly string[]) => names.map((name) => declared(name, 'F32'))
  return writeModel({
    irVersion: 8n,
    graph: { name: 'graph', node: [node], input: values(used.filter((slot) => slot !== '')), output: values(outputs) },
    opsetImport: [
      { domain: '', version: 17n },
      { domain: 'com.microsoft', version: 1n },
    ],
  })
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
