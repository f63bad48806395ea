/**
 * What the memories of a model do with a sequence: what is written to them, what they hold after each token, and what is read from where.
 * Tests: test/nn/trace.test.ts.
 */
import { told } from '../engine/arguments.ts'
import type { Device } from '../engine/devices/device.ts'
import { add, div, expand, mul, sqrt, square } from '../engine/ops/elementwise.ts'
import { matmul } from '../engine/ops/matmul.ts'
import { concat, reshape, slice } from '../engine/ops/movement.ts'
import { mean, sum } from '../engine/ops/reduce.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { type Tensor, tensor, zeros } from '../engine/tensor.ts'
import { timeInside } from './heads.ts'
import type { LayerState, Look, SequenceLayer } from './mixer.ts'
import { Module, walk } from './module.ts'
import { isPart, type Part } from './parts.ts'
import type { RwkvOptions } from './rwkv.ts'

/** Of one layer; tensors are on the model's device and the caller's to free (`disposeTrace`). s counts writes, t <= T reads. */
export interface LayerTrace {
  /** Its place in the model: 'transformer.layers.0.attn'. */
  name: string
  layer: SequenceLayer
  /** What it was given, [B,T,D]. */
  x: Tensor
  /** What its memory is written and read with (`Look`); empty for nets that have no keys and values. */
  inputs: Readonly<Record<string, Tensor>>
  /** The parts of its state after each token, [B,T,...]; not those that grow with the tokens. */
  states: Readonly<Record<string, Tensor>>
  /** Of each part that is a matrix a head: its Frobenius norm, [B,T,H]. */
  norms: Readonly<Record<string, Tensor>>
  /**
   * ... and over how many directions it is spread, [B,T,H]: (sum of s^2)^2 / sum of s^4 over its singular values s, from 1 to its smaller side; 0
   * for a matrix of zeros.
   */
  ranks: Readonly<Record<string, Tensor>>
  /** Cosines of keys, [B,H,T,T]. */
  similarity?: Tensor
  /**
   * Cosines of what key s retrieves after token t, S_t^T k_s, with its value v_s, [B,H,T,T] as [t,s]: 1 where the pair is held, 0 where nothing is.
   * For s > t the key's own write is yet to come. Of layers with fast weights S [K,V] that keys of width K write.
   */
  recall?: Tensor
  /** What key t retrieves before its own write, [B,T,H,V], where there is a `recall`. */
  before?: Tensor
  /** The same after its write. */
  after?: Tensor
  /**
   * The weight of value s in what token t reads, [B,H,T,T] as [t,s] and 0 for s > t: of softmax attention its weights; of a linear memory q_t^T
   * (product of the transitions from s + 1 to t) k_s, over the normaliser where there is one; of aft the mean over the channels, H = 1. Absent where what is
   * read isn't linear in the values.
   */
  attention?: Tensor
}

/**
 * Runs `run`, which takes `model` through sequences from their beginning, and traces every layer that it comes through:
 * `trace(model, () => model.forward(tokens))`, without gradients, in evaluation mode. It takes a forward pass, and one more of each layer token by token, and memory for
 * all states: T times those of the layers.
 */
export function trace(model: Module, run: () => unknown): LayerTrace[] {
  if (!(model instanceof Module)) throw new Error(`trace: needs a model, not ${told(model)}`)
  if (typeof run !== 'function') throw new Error(`trace: the second argument must run the model, such as () => model.forward(tokens)`)
  const wasTraining = model.training
  model.eval()
  try {
    return scope(() => noGrad(() => watched(model, run).map((seen) => ofLayer(seen))))
  } finally {
    model.train(wasTraining)
  }
}

/** Frees the tensors of a trace. */
export function disposeTrace(traces: readonly LayerTrace[]): void {
  for (const { name: _, layer: __, inputs, states, norms, ranks, ...rest } of traces)
    for (const part of [inputs, states, norms, ranks, rest]) for (const t of Object.values<Tensor | undefined>(part)) t?.dispose()
}

/** Not models, which have a `loss`, nor layers that read what another sequence has written. */
const isSequenceLayer = (value: unknown): value is SequenceLayer =>
  value instanceof Module && 'forward' in value && 'stateParts' in value && !('loss' in value || 'read' in value)

/** A layer that a run has come through, with what it was given; `first`: see `RwkvOptions`. */
interface Seen {
  name: string
  layer: SequenceLayer
  x: Tensor
  first?: Tensor
}

/** The layers that `run` comes through, in the model's order. */
function watched(model: Module, run: () => unknown): Seen[] {
  const names = new Map<SequenceLayer, string>()
  walk(model, '', (path, value) => {
    if (isSequenceLayer(value) && !names.has(value)) names.set(value, path)
  })
  const given = new Map<SequenceLayer, { x: Tensor; first?: Tensor }>()
  const kept = (x: Tensor): Tensor => keep(add(x, 0)) // the model's own goes with the scope that it's in
  /** What a layer has as a field of its own is put back. */
  const fields = [...names.keys()].filter((layer) => Object.hasOwn(layer, 'forward')).map((layer) => [layer, layer.forward] as const)
  for (const layer of names.keys()) {
    const { forward } = layer
    layer.forward = (x, state, options: RwkvOptions = {}) => {
      const { mask, reset, first } = options
      if (Object.keys(state ?? {}).length > 0 || mask || reset)
        throw new Error("trace: sequences must begin with the call, without a state, and aren't masked or packed")
      if (given.has(layer)) throw new Error('trace: the model must be run once')
      given.set(layer, { x: kept(x), ...(first && { first: kept(first) }) })
      return forward.call(layer, x, state, options)
    }
  }
  try {
    if (run() instanceof Promise) throw new Error('trace: run must not be asynchronous')
    if (given.size === 0) throw new Error("trace: run hasn't come through any layer of the model")
    // Under the same memory, in the scope that is open here.
    const own = (x: Tensor): Tensor => reshape(x, x.shape)
    return [...names].flatMap(([layer, name]): Seen[] => {
      const found = given.get(layer)
      return found ? [{ name, layer, x: own(found.x), ...(found.first && { first: own(found.first) }) }] : []
    })
  } finally {
    for (const layer of names.keys()) delete (layer as Partial<SequenceLayer>).forward
    for (const [layer, forward] of fields) layer.forward = forward
    for (const tensors of given.values()) for (const t of Object.values<Tensor>(tensors)) t.dispose()
  }
}

function ofLayer({ name, layer, x, first }: Seen): LayerTrace {
  const states = statesOf(layer, x, first)
  const matrices = Object.entries(states).filter(([, { shape }]) => shape.length === 5)
  const { inputs, pairs, read }: Look = layer.look?.(x, first) ?? { inputs: {} }
  const { k, v } = inputs
  const [hasKeys, perHead] = [k?.shape.length === 4, v?.shape.length === 4]
  const { S } = states
  return {
    name,
    layer,
    x,
    // Under the same memory: some are the model's own parameters, which a caller who frees the trace must not free.
    inputs: Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, reshape(t, t.shape)])),
    states,
    norms: Object.fromEntries(matrices.map(([part, m]) => [part, normOf(m)])),
    ranks: Object.fromEntries(matrices.map(([part, m]) => [part, rankOf(m)])),
    ...(hasKeys && { similarity: similarityOf(k) }),
    ...(pairs && hasKeys && perHead && retrieved(S, k, v)),
    ...(read && { attention: perHead ? attentionOf(read, v) : channelAttentionOf(read, v) }),
  }
}

/** The parts that keep their size, after each token. */
function statesOf(layer: SequenceLayer, x: Tensor, first: Tensor | undefined): Record<string, Tensor> {
  const [B, T] = x.shape
  const parts = Object.entries(layer.stateParts(B)).filter(
    (entry): entry is [string, Part] => isPart(entry[1]) && entry[1].dtype === 'float32' && entry[1].shape.every((d) => d >= 0),
  )
  if (parts.length === 0) return {}
  const after: Record<string, Tensor[]> = Object.fromEntries(parts.map(([name]) => [name, []]))
  let state: LayerState = {}
  for (let t = 0; t < T; t++) {
    const at = (y: Tensor): Tensor => slice(y, 1, t, t + 1)
    const options: RwkvOptions = first ? { first: at(first) } : {}
    const next = scope(() => layer.forward(at(x), state, options).state)
    state = next
    for (const [name, held] of Object.entries(after)) {
      const part = (state as Record<string, Tensor>)[name]
      held.push(reshape(part, [B, 1, ...part.shape.slice(1)]))
    }
  }
  return Object.fromEntries(parts.map(([name]) => [name, concat(after[name], 1)]))
}

/** x over its length along the last axis; a vector of zeros stays one. (`l2Norm` adds 1e-6, which would tell of small vectors.) */
const unit = (x: Tensor): Tensor => div(x, add(sqrt(sum(square(x), { axis: -1, keepDim: true })), 1e-30))

const normOf = (m: Tensor): Tensor => scope(() => sqrt(sum(square(m), { axis: [3, 4] })))

/** |S|^4 / |S^T S|^2 in the Frobenius norm: the sums of the singular values' squares and fourth powers. S over its norm, so that nothing overflows. */
function rankOf(m: Tensor): Tensor {
  return scope(() => {
    const [B, T, H, K, V] = m.shape
    const S = reshape(unit(reshape(m, [B * T * H, K * V])), [B * T * H, K, V])
    const gram = K < V ? matmul(S, S, { transposeB: true }) : matmul(S, S, { transposeA: true })
    const second = sum(square(S), { axis: [1, 2] })
    return reshape(div(square(second), add(sum(square(gram), { axis: [1, 2] }), 1e-30)), [B, T, H])
  })
}

const similarityOf = (k: Tensor): Tensor =>
  scope(() => {
    const keys = unit(timeInside(k))
    return matmul(keys, keys, { transposeB: true })
  })

/** S: [B,T,H,K,V], k: [B,T,H,K], v: [B,T,H,V]. */
function retrieved(S: Tensor, k: Tensor, v: Tensor): Required<Pick<LayerTrace, 'recall' | 'before' | 'after'>> {
  const [B, T, H, K, V] = S.shape
  return scope(() => {
    const own = (states: Tensor): Tensor => reshape(matmul(reshape(k, [B, T, H, 1, K]), states), [B, T, H, V])
    const earlier = concat([zeros([B, 1, H, K, V], S.device), slice(S, 1, 0, T - 1)], 1)
    const [keys, values] = [timeInside(k), unit(timeInside(v))]
    const rows = Array.from({ length: T }, (_, t) =>
      scope(() => {
        const read = matmul(keys, reshape(slice(S, 1, t, t + 1), [B, H, K, V]))
        return reshape(sum(mul(unit(read), values), { axis: -1 }), [B, H, 1, T])
      }),
    )
    return { recall: concat(rows, 2), before: own(earlier), after: own(S) }
  })
}

/** By reading with the T unit vectors as values: v [B,T,H,V] -> [B,H,T,T]. */
function attentionOf(read: NonNullable<Look['read']>, v: Tensor): Tensor {
  const [B, T, H] = v.shape
  return scope(() => timeInside(read(expand(identity(T, v.device, [1, T, 1, T]), [B, T, H, T]))))
}

/** By reading with one token's values at a time: v [B,T,D] -> [B,1,T,T]. */
function channelAttentionOf(read: NonNullable<Look['read']>, v: Tensor): Tensor {
  const [B, T, D] = v.shape
  return scope(() => {
    const one = identity(T, v.device, [T, T])
    const columns = Array.from({ length: T }, (_, s) =>
      scope(() => reshape(mean(read(expand(reshape(slice(one, 0, s, s + 1), [1, T, 1]), [B, T, D])), { axis: -1 }), [B, 1, T, 1])),
    )
    return concat(columns, 3)
  })
}

function identity(n: number, device: Device, shape: number[]): Tensor {
  const values = new Float32Array(n * n)
  for (let i = 0; i < n; i++) values[i * n + i] = 1
  return tensor(values, { shape, device })
}
