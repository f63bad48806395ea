/**
 * Layers of IDSIA's repositories: what they compute over time is a `Core`, and a slot is a core with the place where its parameters and its input come from
 * there. Their layouts are sequence first, ours [B,T,D]. Irie 2021 (recurrent-fwp 781e378), Schlag 2021 (lmtool-fwp 0159201), Irie 2022 (modern-srwm
 * 01e6cfd).
 */
import { recurrentDeltaNet } from '../../engine/nets/delta.ts'
import { lstm } from '../../engine/nets/recurrent.ts'
import { softmaxAttention } from '../../engine/ops/attention.ts'
import { add, affine, div, expand, sigmoid } from '../../engine/ops/elementwise.ts'
import { matmul } from '../../engine/ops/matmul.ts'
import { concat, permute, reshape, slice, split } from '../../engine/ops/movement.ts'
import { sumNorm } from '../../engine/ops/norm.ts'
import { attentionDeltaRule, deltaRule } from '../../engine/rules/delta.ts'
import { sumRule } from '../../engine/rules/sum.ts'
import { ones, type Tensor, zeros } from '../../engine/tensor.ts'
import { type Core, deltaDelta, deltaMlp, netCore, type Tensors } from '../cores.ts'
import { favor, featureMaps } from '../features.ts'
import { timeInside } from '../heads.ts'
import { LayerNorm } from '../layers.ts'
import type { Module } from '../module.ts'
import { OutsideModule, type StatePart, statePartsOf, unset } from './layer.ts'

export const heads = (x: Tensor, H: number): Tensor => reshape(x, [...x.shape.slice(0, -1), H, x.shape.at(-1)! / H])
export const merge = (x: Tensor): Tensor => reshape(x, [...x.shape.slice(0, -2), x.shape.at(-2)! * x.shape.at(-1)!])

// ---- cores: rules behind a fused projection -----------------------------------------------------------------------------------------------

export type Features = (x: Tensor) => Tensor

export const elu1: Features = featureMaps.elu1.map
/** x / sum(x), without an eps unless said. */
export const overSum =
  (phi: Features, eps = 0): Features =>
  (x) =>
    sumNorm(phi(x), eps)

/** lmtool-fwp's `prime`: FAVOR+ with 1e-4 beside each e, for R [d,m]. */
export const performer =
  (R: Tensor): Features =>
  (x) =>
    favor(x, permute(R, [1, 0]), 1e-4)

export interface LinearCore {
  rule: 'sum' | 'delta' | 'attention-delta'
  phi: Features
  /** Width of the features of heads d wide. */
  K: number
  /** Attention normalisation: the eps beside z . q by which what is read is divided; null for none. */
  normaliser: number | null
}

/** What of z_t . q_t, z_t the sum of the keys, a rule without it is divided by; and z. */
function seen(q: Tensor, k: Tensor, z: Tensor | undefined): { seen: Tensor; z: Tensor } {
  const [B, T, H, K] = k.shape
  const { y, state } = sumRule(q, k, ones([B, T, H, 1], q.device), z && { S: reshape(z, [B, H, K, 1]) })
  return { seen: y, z: reshape(state.S, [B, H, K]) }
}

/** A head's numbers: q, k, v, and beta where the rule has one. */
export function linearCore(H: number, d: number, { rule, phi, K, normaliser }: LinearCore): Core {
  const widths = rule === 'sum' ? [d, d, d] : [d, d, d, 1]
  const divides = normaliser !== null
  return {
    heads: H,
    width: 3 * d + (rule === 'sum' ? 0 : 1),
    outputs: d,
    parameters: {},
    state: { W: [H, K, d], ...(divides && { z: [H, K] }) },
    run(x, _, state) {
      const [B, T] = x.shape
      const [q0, k0, v, strength] = split(x, -1, widths)
      const [q, k] = [phi(q0), phi(k0)]
      const before = state && { S: state.W, ...(divides && { z: state.z }) }
      const beta = strength && sigmoid(reshape(strength, [B, T, H]))
      if (rule === 'sum') {
        const { y, state: after } = sumRule(q, k, v, before, divides ? { normalise: true, eps: normaliser } : {})
        return { y, state: { W: after.S, ...(divides && { z: after.z! }) } }
      }
      if (rule === 'attention-delta') {
        const { y, state: after } = attentionDeltaRule(q, k, v, beta, before, { eps: normaliser! })
        return { y, state: { W: after.S, z: after.z! } }
      }
      const { y, state: after } = deltaRule(q, k, v, beta, state && { S: state.W })
      if (!divides) return { y, state: { W: after.S } }
      const keys = seen(q, k, state?.z)
      return { y: div(y, affine(keys.seen, 1, normaliser)), state: { W: after.S, z: keys.z } }
    },
  }
}

/** Causal softmax attention, q, k and v [B,T,H,d]; without a state. */
export function attend(q: Tensor, k: Tensor, v: Tensor): Tensor {
  return timeInside(softmaxAttention(affine(timeInside(q), 1 / Math.sqrt(q.shape.at(-1)!)), timeInside(k), timeInside(v)))
}

export const softmaxCore = (H: number, d: number): Core => ({
  heads: H,
  width: 3 * d,
  outputs: d,
  parameters: {},
  state: {},
  run(x) {
    const [q, k, v] = split(x, -1, [d, d, d])
    return { y: attend(q, k, v), state: {} }
  },
})

/** An LSTM in the place of the slow projection, a delta net behind it; x [B,T,1,4 H (3 d + 1)]: what the input gives the gates. */
function slowLstmCore(H: number, d: number): Core {
  const D = H * (3 * d + 1)
  const slow = netCore(lstm({ D }), 1)
  const net = linearCore(H, d, { rule: 'delta', phi: overSum(elu1), K: d, normaliser: null })
  return {
    ...slow,
    outputs: H * d,
    state: { ...net.state, slow_h: [1, D], slow_c: [1, D] },
    run(x, parameters, state, packing) {
      const fed = slow.run(x, parameters, state && { h: state.slow_h, c: state.slow_c }, packing)
      const { y, state: after } = net.run(heads(reshape(fed.y, [...fed.y.shape.slice(0, 2), D]), H), {}, state && { W: state.W }, packing)
      return { y, state: { ...after, slow_h: fed.state.h, slow_c: fed.state.c } }
    },
  }
}

// ---- from their parameters to a core's ----------------------------------------------------------------------------------------------------

/** A core, and where its parameters and its input come from. */
export interface Slot {
  core: Core
  /** Parameters beside the projection, by their names there. */
  parts?: Readonly<Record<string, Tensor | readonly Module[]>>
  take?: () => Tensors
  /** From what the projection gives, [B,T,...], to what the core takes; else a head after the other. */
  arrange?: (x: Tensor) => Tensor
  /** How many numbers the projection gives, where not as many as the core takes. */
  projected?: number
  /** In place of the projection; absent: a Linear without bias. */
  project?: { parts: Readonly<Record<string, Module>>; run: (x: Tensor) => Tensor }
}

/** Names of a core's parameters there, whose shapes there have more axes of size 1. */
export function renamedSlot(core: Core, names: Readonly<Record<string, string>>, shapeThere: (shape: readonly number[]) => number[]): Slot {
  const entries = Object.entries(core.parameters).map(([name, { shape }]) => [name, shape, unset(...shapeThere(shape))] as const)
  return {
    core,
    parts: Object.fromEntries(entries.map(([name, , t]) => [names[name], t])),
    take: () => Object.fromEntries(entries.map(([name, shape, t]) => [name, reshape(t, [...shape])])),
  }
}

export const recurrentDelta = (H: number, d: number): Slot =>
  renamedSlot(netCore(recurrentDeltaNet({ K: d, V: d }), H), { R_q: 'R_q', R_k: 'R_k', R_v: 'R_v', r_beta: 'r_b' }, (shape) =>
    shape.length === 2 ? [1, shape[0], 1, shape[1]] : [1, ...shape],
  )

/** PyTorch's LSTM, of one layer; initial values are overwritten. */
class Lstm extends OutsideModule {
  constructor(inputs: number, D: number) {
    const parts = {
      weight_ih_l0: unset(4 * D, inputs),
      weight_hh_l0: unset(4 * D, D),
      bias_ih_l0: unset(4 * D),
      bias_hh_l0: unset(4 * D),
    }
    const given = (x: Tensor): Tensor => matmul(x, parts.weight_ih_l0, { transposeB: true, bias: add(parts.bias_ih_l0, parts.bias_hh_l0) })
    super(parts, (x) => ({ y: given(x), state: {} }))
    this.R = () => reshape(permute(parts.weight_hh_l0, [1, 0]), [1, D, 4 * D])
  }

  R: () => Tensor
}

export function slowLstm(H: number, d: number, D: number): Slot {
  const net = new Lstm(D, H * (3 * d + 1))
  return {
    core: slowLstmCore(H, d),
    take: () => ({ R: net.R() }),
    project: { parts: { slow_net: net }, run: (x) => net.forward(x).y },
    arrange: (x) => heads(x, 1),
  }
}

/**
 * Delta MLP's projection is not head by head: first all q (D), then keys and values of 4 K pieces a head each, of which the first 2 K are used,
 * then all write strengths.
 */
export function deltaMlpSlot(H: number, d: number, depth: number): Slot {
  const norms = Array.from({ length: depth }, () => new LayerNorm(d))
  const [D, n] = [H * d, 5 * depth * d]
  return {
    core: deltaMlp(H, d, depth),
    parts: { fast_net_layer_norms: norms },
    take: () => Object.fromEntries(norms.flatMap(({ weight, bias }, i) => [[`gain_${i}`, weight] as const, [`bias_${i}`, bias!] as const])),
    projected: D + 20 * depth * D + 2 * depth * H,
    arrange(x) {
      const [q, kv, beta] = split(x, -1, [D, 20 * depth * D, 2 * depth * H])
      const both = heads(kv, H)
      return concat([heads(q, H), slice(both, -1, 0, n), slice(both, -1, 2 * n, 3 * n), heads(beta, H)], -1)
    },
  }
}

/** `slow`: the first matrix begins with a parameter, [H,d,3 d + 1]; its gradient, which the published kernel leaves out, is there. */
export function deltaDeltaSlot(H: number, d: number, slow: boolean): Slot {
  const core = deltaDelta(H, d)
  if (!slow) return { core }
  const W = unset(H, d, 3 * d + 1)
  const begin = (B: number): Tensors => ({ W_slow: expand(W, [B, ...W.shape]), W: zeros([B, H, d, d], W.device) })
  const run: Core['run'] = (x, parameters, state, packing) => core.run(x, parameters, state ?? begin(x.shape[0]), packing)
  return { core: { ...core, run }, parts: { fast_net_slow_weights: W } }
}

// ---- states, by the names that the figures of these repositories have ------------------------------------------------------------------------

const recurrentNames: Readonly<Record<string, string>> = { W: 'fast_weights', R: 'rec_fast_weights', z: 'key_sum' }
/** recurrent-fwp: W_i is fast_weights_i. */
export const recurrentFwp = (name: string): string => {
  const [part, gate] = name.split('_')
  return part in recurrentNames ? recurrentNames[part] + (gate ? `_${gate}` : '') : name
}
export const sameName = (name: string): string => name

export function states(core: Core, names: (here: string) => string): Record<string, StatePart> {
  const parts = statePartsOf(core, names)
  // PyTorch's states of an LSTM have the layer first.
  for (const name of ['slow_h', 'slow_c'])
    if (name in parts) {
      const [, D] = core.state[name]
      parts[name].shapeThere = (B) => [1, B, D]
    }
  return parts
}
