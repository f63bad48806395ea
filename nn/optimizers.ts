/** Adam, AdamW and Muon, and the learning-rate schedules. */
import { checkDivisor, checkList, checkNumber, checkOptions, fits, type NumberRange } from '../engine/arguments.ts'
import type { Device } from '../engine/devices/device.ts'
import { affine, equal, greater, maximum, minimum, mul, sub } from '../engine/ops/elementwise.ts'
import { concat, reshape, slice } from '../engine/ops/movement.ts'
import { type AdamTensors, adamSteps, clipScale, gradNorm, type MuonTensors, muonSteps } from '../engine/ops/optimizer.ts'
import { overwrite } from '../engine/ops/overwrite.ts'
import { span } from '../engine/profile.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { askedOnce, counted, gatherMemory, gradientPlaces, type Tensor, tensor, zerosTogether } from '../engine/tensor.ts'
import { withDefaults } from './fields.ts'
import { type StateDict, writeAll } from './module.ts'

/** Settings of `Adam` and `AdamW`. */
export interface AdamConfig {
  /** Learning rate. */
  lr: number
  /** Decays of the means of gradients and of their squares; [0.9, 0.999] by default. */
  betas?: readonly [number, number]
  /** Added to the root of the latter; 1e-8 by default. */
  eps?: number
  /** Coupled (added to the gradient) in Adam, decoupled in AdamW. */
  weightDecay?: number
  /** Which parameters decay; by default all, as in torch. */
  decays?: (name: string, p: Tensor) => boolean
}

/** Options of one step of an optimiser. */
export interface StepOptions {
  /** Instead of the configured learning rate; a function of it in a step that is captured, which asks once whenever it is replayed. */
  lr?: number | (() => number)
  /** Scale all gradients together so that their norm is at most this (torch's clip_grad_norm_). */
  clipNorm?: number
}

/** What each number of an optimiser may be. */
const hyper = {
  lr: '0 or more',
  matrixLr: '0 or more',
  weightDecay: '0 or more',
  eps: '0 or more',
  beta1: 'in [0, 1)',
  beta2: 'in [0, 1)',
  momentum: 'in [0, 1)',
} as const satisfies Record<string, NumberRange>

function checkHyper(optimizer: string, values: { [name in keyof typeof hyper]?: unknown }): void {
  for (const [name, value] of Object.entries(values)) {
    const what = `${optimizer}: ${name}`
    const range = hyper[name as keyof typeof hyper]
    if (typeof value === 'number' && !fits(value, range)) throw new Error(`${what} can't be ${value}`)
    checkNumber(what, value, range)
  }
}

/** Of all of them: settings for one may be given to another. */
const known = ['lr', 'betas', 'eps', 'weightDecay', 'decays', 'matrixLr', 'momentum', 'matrices']

/** As in torch.amp.GradScaler. */
const firstScale = 2 ** 16
const growAfter = 2000
/** With one below 1 it isn't the scale that overflows; and the inverse of this is the smallest float32 that no device takes for 0. */
const [leastScale, mostScale] = [1, 2 ** 126]

/**
 * Loss scaling (Micikevicius et al. 2018, section 3.2): float16 loses gradients below 6e-8. So a power of two multiplies the loss, and its inverse the
 * gradients. Where one isn't finite, the step is left out and the scale halved, down to 1; after `growAfter` good steps on end it's doubled. All on the device: a step
 * neither waits for the one before nor is captured differently. Tests: test/nn/precision.test.ts.
 */
class LossScale {
  /** The scale, its inverse, and good steps since it has changed: [3]. */
  readonly state: Tensor
  /** Its only row. */
  private readonly row: Tensor

  constructor(device: Device) {
    this.state = tensor([firstScale, 1 / firstScale, 0], { device })
    this.row = tensor([0], { dtype: 'int32', device })
  }

  private part = (i: number): Tensor => slice(this.state, 0, i, i + 1)
  /** [1]; and its inverse. */
  scale = (): Tensor => this.part(0)
  inverse = (): Tensor => this.part(1)

  /** After a step whose gradients, still scaled, have this norm. */
  update(norm: Tensor): void {
    noGrad(() =>
      scope(() => {
        // NaN for NaN and infinities, which equals nothing.
        const difference = reshape(sub(norm, norm), [1])
        const good = equal(difference, difference)
        const steps = mul(affine(this.part(2), 1, 1), good)
        const grows = greater(steps, growAfter - 0.5)
        const factor = mul(affine(good, 0.5, 0.5), affine(grows, 1, 1))
        const inverse = mul(affine(good, -1, 2), affine(grows, -0.5, 1))
        const within = (x: Tensor, least: number, most: number): Tensor => maximum(minimum(x, most), least)
        const next = [
          within(mul(this.scale(), factor), leastScale, mostScale),
          within(mul(this.inverse(), inverse), 1 / mostScale, 1 / leastScale),
          mul(steps, affine(grows, -1, 1)),
        ]
        overwrite(this.state, concat(next, 0), this.row)
      }),
    )
  }

  /** As a text, exactly; of the moment of the call. */
  async saved(): Promise<string> {
    const [scale, , steps] = await this.state.read()
    return `${scale} ${steps}`
  }

  /** Takes up what `saved` gave. */
  restore(text: string): void {
    checkLossScale(text, (problem) => {
      throw new Error(problem)
    })
    const [scale, steps] = text.split(' ').map(Number)
    this.state.write([scale, 1 / scale, steps])
  }

  dispose(): void {
    this.state.dispose()
    this.row.dispose()
  }
}

/** Of what `LossScale.saved` gives. */
export function checkLossScale(text: string, fail: (problem: string) => never): void {
  const [scale, steps] = text.split(' ').map(Number)
  const ok = scale >= leastScale && scale <= mostScale && Number.isInteger(Math.log2(scale)) && steps < growAfter
  if (!(ok && /^\S+ \d+$/.test(text)))
    fail(
      `the loss scale must be a power of two from 1 to 2^126 and a number of steps below ${growAfter}, not ${JSON.stringify(text.slice(0, 80))}`,
    )
}

/** Clips nothing but a norm that isn't finite. */
const largest = 3e38

interface Slot {
  p: Tensor
  m: Tensor
  /** Absent where the update is Muon's. */
  v: Tensor | null
  weightDecay: number
}

/** What Adam's relatives change about it. */
interface Variant {
  decoupled?: boolean
  /** Which parameters take Muon's step instead, with this much of the learning rate and this momentum. */
  muon?: { takes: (name: string, p: Tensor) => boolean; lrRatio: number; momentum: number }
}

/**
 * What Adam, AdamW and Muon share. The bias corrections count the optimiser's steps; torch counts each parameter's, which is the same
 * where every parameter has a gradient at every step.
 */
export abstract class Optimizer {
  /** Steps taken. */
  steps = 0
  /** Where operands of products are rounded to float16; else null. */
  readonly lossScale: LossScale | null = null
  /** Whether gradients began with `seed`. */
  private scaling = false
  private slots = new Map<string, Slot>()
  /** Parameters whose gradients have places beside each other. */
  private placed: Tensor[]
  private config: Required<Omit<AdamConfig, 'decays'>>
  private variant: Variant

  protected constructor(parameters: ReadonlyMap<string, Tensor>, config: AdamConfig, variant: Variant) {
    const own = new.target.name
    if (!(parameters instanceof Map))
      throw new Error(`${own}: parameters must be a Map from names to tensors; pass model.namedParameters()`)
    checkOptions(own, config, known)
    const { lr, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, decays = () => true } = config
    checkList(`${own}: betas`, betas, '[0.9, 0.999]')
    const [beta1, beta2] = betas
    checkHyper(own, { lr, beta1, beta2, eps, weightDecay })
    checkDivisor(`${own}: eps`, eps, 'a parameter whose gradient is 0 would move by 0 / 0')
    this.config = { lr, betas, eps, weightDecay }
    this.variant = variant
    const names = new Map<Tensor, string>()
    // A parameter that two modules share has two names and takes one step.
    for (const [name, p] of parameters) if (!names.has(p)) names.set(p, name)
    const taken = [...names].map(([p, name]) => ({
      ...{ name, p, weightDecay: decays(name, p) ? weightDecay : 0 },
      moments: variant.muon?.takes(name, p) ? 1 : 2,
    }))
    gatherMemory(taken.map(({ p }) => p))
    this.placed = gradientPlaces(taken.map(({ p }) => p))
    const moments = zerosTogether(taken.flatMap(({ p, moments }) => new Array<Tensor>(moments).fill(p))).values()
    for (const { name, p, weightDecay, moments: count } of taken) {
      const m = moments.next().value!
      this.slots.set(name, { p, m, v: count === 2 ? moments.next().value! : null, weightDecay })
    }
    if (taken[0]?.p.device.precision === 'f16') this.lossScale = new LossScale(taken[0].p.device)
  }

  /**
   * What to pass to `backward` of a loss of one number: on a device of precision f16 a power of two, which gradients need there and `step` takes out again
   * (where one isn't finite it leaves parameters and moments as they are, and the power is halved, down to 1); elsewhere undefined, which is 1.
   * For a loss that one optimiser learns from: another would take its gradients with the power still in them.
   */
  seed(loss: Tensor): Tensor | undefined {
    if (!this.lossScale) return undefined
    this.scaling = true
    return reshape(this.lossScale.scale(), loss.shape)
  }

  /** Updates every parameter that has a gradient, and returns the norm of all gradients before clipping. Gradients stay: see zeroGrad. */
  step(options: StepOptions = {}): Tensor {
    checkOptions('step', options, ['lr', 'clipNorm'])
    const lr = askedOnce(() => {
      const given = typeof options.lr === 'function' ? options.lr() : options.lr
      if (given !== undefined) checkHyper(this.constructor.name, { lr: given })
      return given ?? this.config.lr
    })
    if (options.clipNorm !== undefined) checkNumber('step: clipNorm', options.clipNorm, 'positive')
    return span('optimizer', () => this.update(lr, options.clipNorm))
  }

  private update(lr: () => number, clipNorm: number | undefined): Tensor {
    const slots = [...this.slots.values()].filter((s) => s.p.grad)
    const measured = gradNorm(slots.map((s) => s.p.grad as Tensor))
    const scaling = this.scaling ? this.lossScale : null
    const norm = scaling ? noGrad(() => scope(() => keep(reshape(mul(measured, scaling.inverse()), [])))) : measured
    const { betas, eps } = this.config
    const { decoupled = false, muon } = this.variant
    const [beta1, beta2] = betas
    const before = counted(this, 'steps')
    const corrections = () => {
      const step = before() + 1
      return { correction1: 1 - beta1 ** step, correction2: 1 - beta2 ** step }
    }
    scope(() => {
      const clip = clipNorm === undefined && !scaling ? undefined : clipScale(norm, clipNorm ?? largest)
      const scale = scaling && clip ? noGrad(() => mul(clip, scaling.inverse())) : clip
      const guarded = scaling !== null
      for (const weightDecay of new Set(slots.map((s) => s.weightDecay))) {
        const alike = slots.filter((s) => s.weightDecay === weightDecay)
        const [adam, matrices]: [AdamTensors[], MuonTensors[]] = [[], []]
        for (const { p, m, v } of alike) {
          const g = p.grad as Tensor
          if (v) adam.push({ p, g, m, v })
          else matrices.push({ p, g, m })
        }
        adamSteps(adam, () => ({ lr: lr(), beta1, beta2, eps, decoupled, weightDecay, guarded, ...corrections() }), scale)
        if (muon) muonSteps(matrices, () => ({ lr: lr() * muon.lrRatio, momentum: muon.momentum, weightDecay, guarded }), scale)
      }
      scaling?.update(measured)
    })
    if (norm !== measured) measured.dispose()
    return norm
  }

  /** Frees the gradients of all its parameters. */
  zeroGrad(): void {
    this.scaling = false
    for (const { p } of this.slots.values()) {
      p.grad?.dispose()
      p.grad = null
    }
  }

  /** All that a step overwrites. */
  changes(): Tensor[] {
    const changed = [...this.slots.values()].flatMap(({ p, m, v }) => (v ? [p, m, v] : [p, m]))
    return this.lossScale ? [...changed, this.lossScale.state] : changed
  }

  /** The moments, by parameter name: `m.NAME` and `v.NAME`. With `steps`, all that resuming needs. */
  moments(): Map<string, Tensor> {
    const moments = new Map<string, Tensor>()
    for (const [name, { m, v }] of this.slots) {
      moments.set(`m.${name}`, m)
      if (v) moments.set(`v.${name}`, v)
    }
    return moments
  }

  /** Nothing is changed unless all names, shapes and kinds of numbers match. */
  loadMoments(dict: StateDict, steps: number): void {
    if (!(Number.isInteger(steps) && steps >= 0))
      throw new Error(`${this.constructor.name}: steps must be an integer, 0 or more, not ${steps}`)
    const words = { where: 'loadMoments', saved: 'the saved state', owner: `this ${this.constructor.name}`, part: 'moment' }
    writeAll(this.moments(), dict, words)
    this.steps = steps
  }

  /** Frees gradients and moments; parameters stay. */
  dispose(): void {
    this.zeroGrad()
    for (const p of this.placed.splice(0)) p.leavePlace()
    for (const moment of this.moments().values()) moment.dispose()
    this.lossScale?.dispose()
  }
}

/** Kingma & Ba 2015, as torch.optim.Adam: betas (0.9, 0.999), eps 1e-8 outside the root, no weight decay. */
export class Adam extends Optimizer {
  constructor(parameters: ReadonlyMap<string, Tensor>, config: AdamConfig) {
    super(parameters, config, {})
  }
}

/** Of AdamW and Muon, as in torch. */
const decay = { weightDecay: 0.01 }

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019): p -= lr * weightDecay * p, 0.01 by default as in torch. */
export class AdamW extends Optimizer {
  constructor(parameters: ReadonlyMap<string, Tensor>, config: AdamConfig) {
    super(parameters, withDefaults(decay, config), { decoupled: true })
  }
}

/** Settings of `Muon`: its own for matrices, Adam's for all else. */
export interface MuonConfig extends AdamConfig {
  /** Learning rate of the matrices; `lr`, and a schedule, speak of the others, and the ratio of the two is kept. 0.02 by default. */
  matrixLr?: number
  /** Decay of the matrices' momentum; 0.95 by default. */
  momentum?: number
  /** Which parameters are matrices to orthogonalise; by default those of the layers with two axes, both of at least 16. */
  matrices?: (name: string, p: Tensor) => boolean
}

/** A table of biases is no map from one space to another, and neither is an embedding. */
const layerMatrices = (name: string, p: Tensor): boolean =>
  p.shape.length === 2 &&
  Math.min(...p.shape) >= 16 &&
  !/(^|\.)(src_embed|tgt_embed|generator|embedding|head)\.|\.(pos_bias|taps)$/.test(name)

/**
 * Muon (Jordan 2024): the matrices inside the layers move along their orthogonalised momentum, everything else takes AdamW steps.
 */
export class Muon extends Optimizer {
  constructor(parameters: ReadonlyMap<string, Tensor>, config: MuonConfig) {
    checkOptions('Muon', config, known)
    const { matrixLr = 0.02, momentum = 0.95, matrices = layerMatrices, ...adam } = config
    checkHyper('Muon', { lr: adam.lr, matrixLr, momentum })
    // The matrices' rate is a multiple of it.
    if (adam.lr === 0) throw new Error("Muon: lr can't be 0")
    const muon = { takes: matrices, lrRatio: matrixLr / adam.lr, momentum }
    super(parameters, withDefaults(decay, adam), { decoupled: true, muon })
  }
}

/** Learning rate for step t, counted from 1. */
export type Schedule = (t: number) => number

/** The same rate at every step. */
export function constant(lr: number): Schedule {
  checkNumber('constant: lr', lr, '0 or more')
  return () => lr
}

/** factor * dModel^-0.5 * min(t^-0.5, t * warmup^-1.5) (Vaswani 2017, section 5.3; labml's defaults). */
export function noam(dModel: number, warmup = 2000, factor = 1): Schedule {
  checkNumber('noam: dModel', dModel, 'a positive integer')
  checkNumber('noam: warmup', warmup, '0 or more')
  checkNumber('noam: factor', factor, '0 or more')
  return (t) => factor * dModel ** -0.5 * Math.min(t ** -0.5, t * warmup ** -1.5)
}

/** Linear warm-up to `peak`, then half a cosine down to `floor` at step `total`. */
export function cosine(peak: number, warmup: number, total: number, floor = 0): Schedule {
  for (const [name, value] of Object.entries({ peak, warmup, total, floor })) checkNumber(`cosine: ${name}`, value, '0 or more')
  return (t) => {
    if (t < warmup) return (peak * t) / warmup
    const progress = Math.min(1, (t - warmup) / Math.max(1, total - warmup))
    return floor + 0.5 * (peak - floor) * (1 + Math.cos(Math.PI * progress))
  }
}
