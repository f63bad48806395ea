/** What optimisers do to parameters, in place: a kernel for all of them, or all of a shape, and no read-back. */
import { checkNumber, told } from '../arguments.ts'
import type { AdamOptions, MuonOptions, MuonSlot, Now } from '../devices/kernels.ts'
import { noGrad } from '../recording.ts'
import { scope } from '../scope.ts'
import { sameShape, show } from '../shape.ts'
import { empty, type Tensor } from '../tensor.ts'
import { checkFloat, sameDevice } from './check.ts'
import { affine, minimum, reciprocal } from './elementwise.ts'

export type { MuonOptions } from '../devices/kernels.ts'

/** Euclidean norm of all gradients together, as a tensor of one element; Infinity from 1.8e19 on where its square leaves float32. */
export function gradNorm(grads: readonly Tensor[]): Tensor {
  if (!Array.isArray(grads)) throw new Error(`gradNorm: needs an array of gradients, not ${told(grads)}`)
  if (grads.length === 0) throw new Error('gradNorm: there are no gradients (call backward first)')
  for (const g of grads) checkFloat('gradNorm', g)
  sameDevice('gradNorm', ...grads)
  const norm = empty([], grads[0].device)
  norm.device.kernels.gradNorm(
    grads.map((g) => ({ x: g.storage, n: g.size })),
    norm.storage,
  )
  return norm
}

/** min(1, limit / (norm + 1e-6)): the factor that clips gradients to a norm (torch's clip_grad_norm_). */
export function clipScale(norm: Tensor, limit: number): Tensor {
  checkFloat('clipScale', norm)
  checkNumber('clipScale: the limit', limit, 'positive')
  return noGrad(() => scope(() => minimum(affine(reciprocal(affine(norm, 1, 1e-6)), limit), 1)))
}

/** A matrix with its gradient and its momentum, all of one shape. */
export interface MuonTensors {
  /** The parameter; written. */
  p: Tensor
  /** Its gradient; read. */
  g: Tensor
  /** Its momentum, or first moment; written. */
  m: Tensor
}

/** A parameter with its gradient and its moments, all of one shape. */
export interface AdamTensors extends MuonTensors {
  /** Its second moment; written. */
  v: Tensor
}

/** What a step works on: float tensors on one device, each slot's of one shape; the factor has one element. */
function checkStep(op: string, slots: readonly { p: Tensor }[], gradScale?: Tensor): void {
  if (!Array.isArray(slots)) throw new Error(`${op}: needs an array of parameters with gradients and moments, not ${told(slots)}`)
  for (const { p, ...others } of slots) {
    const tensors = Object.values(others) as Tensor[]
    for (const t of [p, ...tensors]) checkFloat(op, t, gradScale)
    sameDevice(op, slots[0].p, p, ...tensors, gradScale)
    for (const t of tensors)
      if (!sameShape(t.shape, p.shape))
        throw new Error(`${op}: the parameter has shape ${show(p.shape)}, its gradient or moment ${show(t.shape)}`)
  }
  if (gradScale && gradScale.size !== 1) throw new Error(`${op}: the gradient's scale has shape ${show(gradScale.shape)}, not one element`)
}

/** Slots in groups, of which none has a parameter's memory twice: a kernel takes the slots of a call at once, and parameters may be views of one another. */
function apart<S extends { p: Tensor }>(slots: readonly S[]): S[][] {
  const groups: S[][] = []
  const times = new Map<unknown, number>()
  for (const slot of slots) {
    const before = times.get(slot.p.storage) ?? 0
    times.set(slot.p.storage, before + 1)
    ;(groups[before] ??= []).push(slot)
  }
  return groups
}

function checkAdam(options: AdamOptions): AdamOptions {
  checkNumber('adamStep: lr', options.lr, 'a finite number')
  for (const name of ['beta1', 'beta2'] as const) checkNumber(`adamStep: ${name}`, options[name], 'in [0, 1)')
  for (const name of ['eps', 'weightDecay'] as const) checkNumber(`adamStep: ${name}`, options[name], '0 or more')
  for (const name of ['correction1', 'correction2'] as const) checkNumber(`adamStep: ${name}`, options[name], 'above 0')
  return options
}

/**
 * One Adam or AdamW step on each p with its moments m and v, in one kernel call; gradients are first multiplied by `gradScale` where given. With
 * eps = 0 an element that never had a gradient becomes 0 / 0 = NaN: the optimisers don't take that. Options that a function gives are asked for
 * anew whenever a captured step is replayed.
 */
export function adamSteps(slots: readonly AdamTensors[], options: AdamOptions | Now<AdamOptions>, gradScale?: Tensor): void {
  checkStep('adamStep', slots, gradScale)
  const now = (): AdamOptions => checkAdam(typeof options === 'function' ? options() : options)
  now()
  if (slots.length === 0) return
  for (const some of apart(slots))
    slots[0].p.device.kernels.adam(
      some.map(({ p, g, m, v }) => ({ p: p.storage, g: g.storage, m: m.storage, v: v.storage, n: p.size })),
      gradScale?.storage ?? null,
      now,
    )
  for (const { p, m, v } of slots) for (const t of [p, m, v]) t.changed()
}

/** `adamSteps` on a single parameter. */
export function adamStep(p: Tensor, g: Tensor, m: Tensor, v: Tensor, options: AdamOptions | Now<AdamOptions>, gradScale?: Tensor): void {
  adamSteps([{ p, g, m, v }], options, gradScale)
}

/** Elements of the matrices that are orthogonalised together, unless one has more: it takes four times as many for what lies between. */
const togetherElements = 2 ** 21

function checkMuon(options: MuonOptions): MuonOptions {
  checkNumber('muonStep: lr', options.lr, 'a finite number')
  checkNumber('muonStep: momentum', options.momentum, 'in [0, 1)')
  checkNumber('muonStep: weightDecay', options.weightDecay, '0 or more')
  return options
}

/**
 * One Muon step on each matrix p with its momentum m (Jordan 2024): m = momentum m + g, and p moves along the orthogonalised Nesterov
 * gradient g + momentum m, times sqrt(max(1, rows / columns)). Matrices of one shape, or its transpose, share a kernel call.
 */
export function muonSteps(slots: readonly MuonTensors[], options: MuonOptions | Now<MuonOptions>, gradScale?: Tensor): void {
  checkStep('muonStep', slots, gradScale)
  const now = (): MuonOptions => checkMuon(typeof options === 'function' ? options() : options)
  now()
  for (const { p } of slots)
    if (p.shape.length !== 2) throw new Error(`muonStep: the parameter has shape ${show(p.shape)}, not that of a matrix`)
  const groups = new Map<string, { R: number; C: number; slots: MuonSlot<unknown>[] }>()
  for (const [turn, some] of apart(slots).entries())
    for (const { p, g, m } of some) {
      const [R, C] = [Math.min(...p.shape), Math.max(...p.shape)]
      const key = `${turn} ${R} ${C}`
      const group = groups.get(key) ?? { R, C, slots: [] }
      groups.set(key, group)
      group.slots.push({ p: p.storage, g: g.storage, m: m.storage, tall: p.shape[0] > p.shape[1] })
    }
  for (const { R, C, slots: all } of groups.values()) {
    const count = Math.max(1, Math.floor(togetherElements / Math.max(1, R * C)))
    const { kernels } = slots[0].p.device
    for (let i = 0; i < all.length; i += count) kernels.muon(all.slice(i, i + count), R, C, gradScale?.storage ?? null, now)
  }
  for (const { p, m } of slots) for (const t of [p, m]) t.changed()
}

/** `muonSteps` on a single matrix. */
export function muonStep(p: Tensor, g: Tensor, m: Tensor, options: MuonOptions | Now<MuonOptions>, gradScale?: Tensor): void {
  muonSteps([{ p, g, m }], options, gradScale)
}
