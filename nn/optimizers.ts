/** Adam and AdamW, and the learning-rate schedules. */
import { adamStep, clipScale, gradNorm } from '../engine/ops/optimizer.ts'
import { keep, scope } from '../engine/scope.ts'
import { type Tensor, zeros } from '../engine/tensor.ts'
import type { StateDict } from './module.ts'

export interface AdamConfig {
  lr: number
  betas?: readonly [number, number]
  eps?: number
  /** Coupled (added to the gradient) in Adam, decoupled in AdamW. */
  weightDecay?: number
  /** Which parameters decay; by default those with two or more axes. */
  decays?: (name: string, p: Tensor) => boolean
}

export interface StepOptions {
  /** Instead of the configured learning rate. */
  lr?: number
  /** Scale all gradients together so that their norm is at most this (torch's clip_grad_norm_). */
  clipNorm?: number
}

interface Slot {
  p: Tensor
  m: Tensor
  v: Tensor
  weightDecay: number
}

/** Kingma & Ba 2015, as torch.optim.Adam: betas (0.9, 0.999), eps 1e-8 outside the root, no weight decay. */
export class Adam {
  /** Steps taken. */
  steps = 0
  private slots = new Map<string, Slot>()
  private config: Required<Omit<AdamConfig, 'decays'>>
  private decoupled: boolean

  constructor(parameters: ReadonlyMap<string, Tensor>, config: AdamConfig, decoupled = false) {
    const { lr, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, decays = (_, p) => p.shape.length >= 2 } = config
    for (const [name, value, ok] of [
      ['lr', lr, lr >= 0],
      ['beta1', betas[0], betas[0] >= 0 && betas[0] < 1],
      ['beta2', betas[1], betas[1] >= 0 && betas[1] < 1],
      ['eps', eps, eps >= 0],
      ['weightDecay', weightDecay, weightDecay >= 0],
    ] as const)
      if (!ok) throw new Error(`Adam: ${name} can't be ${value}`)
    this.config = { lr, betas, eps, weightDecay }
    this.decoupled = decoupled
    for (const [name, p] of parameters) {
      const moment = (): Tensor => keep(zeros(p.shape, p.device))
      this.slots.set(name, { p, m: moment(), v: moment(), weightDecay: decays(name, p) ? weightDecay : 0 })
    }
  }

  /** Updates every parameter that has a gradient, and returns the norm of all gradients before clipping. Gradients stay: see zeroGrad. */
  step(options: StepOptions = {}): Tensor {
    const slots = [...this.slots.values()].filter((s) => s.p.grad)
    const norm = gradNorm(slots.map((s) => s.p.grad as Tensor))
    const {
      betas: [beta1, beta2],
      eps,
      lr,
    } = this.config
    this.steps++
    const shared = {
      lr: options.lr ?? lr,
      beta1,
      beta2,
      eps,
      decoupled: this.decoupled,
      correction1: 1 - beta1 ** this.steps,
      correction2: 1 - beta2 ** this.steps,
    }
    scope(() => {
      const scale = options.clipNorm === undefined ? undefined : clipScale(norm, options.clipNorm)
      for (const { p, m, v, weightDecay } of slots) adamStep(p, p.grad as Tensor, m, v, { ...shared, weightDecay }, scale)
    })
    return norm
  }

  zeroGrad(): void {
    for (const { p } of this.slots.values()) {
      p.grad?.dispose()
      p.grad = null
    }
  }

  /** The moments, by parameter name: `m.NAME` and `v.NAME`. With `steps`, all that resuming needs. */
  moments(): Map<string, Tensor> {
    return new Map(
      [...this.slots].flatMap(
        ([name, { m, v }]) =>
          [
            [`m.${name}`, m],
            [`v.${name}`, v],
          ] as [string, Tensor][],
      ),
    )
  }

  loadMoments(dict: StateDict, steps: number): void {
    if (!(Number.isInteger(steps) && steps >= 0)) throw new Error(`Adam: steps must be an integer, 0 or more, not ${steps}`)
    for (const [name, t] of this.moments()) {
      const entry = dict.get(name)
      if (!entry || entry.data.length !== t.size)
        throw new Error(`Adam: the saved state ${entry ? 'has the wrong size for' : 'lacks'} ${name}`)
    }
    for (const [name, t] of this.moments()) t.write(dict.get(name)!.data as ArrayLike<number>)
    this.steps = steps
  }

  dispose(): void {
    this.zeroGrad()
    for (const { m, v } of this.slots.values()) {
      m.dispose()
      v.dispose()
    }
  }
}

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019): p -= lr * weightDecay * p, 0.01 by default as in torch. */
export class AdamW extends Adam {
  constructor(parameters: ReadonlyMap<string, Tensor>, config: AdamConfig) {
    super(parameters, { weightDecay: 0.01, ...config }, true)
  }
}

/** Learning rate for step t, counted from 1. */
export type Schedule = (t: number) => number

export const constant =
  (lr: number): Schedule =>
  () =>
    lr

/** factor * dModel^-0.5 * min(t^-0.5, t * warmup^-1.5) (Vaswani 2017, section 5.3; labml's defaults). */
export const noam =
  (dModel: number, warmup = 2000, factor = 1): Schedule =>
  (t) =>
    factor * dModel ** -0.5 * Math.min(t ** -0.5, t * warmup ** -1.5)

/** Linear warm-up to `peak`, then half a cosine down to `floor` at step `total`. */
export function cosine(peak: number, warmup: number, total: number, floor = 0): Schedule {
  return (t) => {
    if (t < warmup) return (peak * t) / warmup
    const progress = Math.min(1, (t - warmup) / Math.max(1, total - warmup))
    return floor + 0.5 * (peak - floor) * (1 + Math.cos(Math.PI * progress))
  }
}
