/** Runs the program of a net: by the device's fused kernel, or token by token in composed ops. */
import { checkNumber, checkOptions } from '../arguments.ts'
import { recordMany, records } from '../autograd.ts'
import { type NetInputs, type NetInstruction, type NetOp, normKinds, unaryOps } from '../devices/kernels.ts'
import { checkFloat, match, sameDevice } from '../ops/check.ts'
import { add, affine, div, exp, expand, mul, sub, unary, where } from '../ops/elementwise.ts'
import { tokenFlags, tokensOf } from '../ops/fast-weights.ts'
import { concat, detach, reshape, slice, split } from '../ops/movement.ts'
import { l2Norm, layerNorm, rmsNorm, sumNorm } from '../ops/norm.ts'
import { max, sum } from '../ops/reduce.ts'
import { dot, outer, readOut, stretch, unpadded } from '../rules/rule.ts'
import { sizeOf } from '../shape.ts'
import { empty, full, like, Tensor, tensor, zeros } from '../tensor.ts'
import { type Net, netSizes, type Part } from './program.ts'

const netForms = ['fused', 'step'] as const

/** Parts by name: [B,H,n] or [B,H,rows,columns]. */
export type NetState = Record<string, Tensor>

/** Options of `runNet`. */
export interface NetOptions {
  /** By name, [H,n] or [H,rows,columns]. */
  parameters?: Readonly<Record<string, Tensor>>
  /** What an earlier piece has left; a fresh one if not given. */
  state?: Readonly<NetState>
  /** int32 [B,T]: 0 where a token is padding. The state stays as it is, to the bit; what padding holds is never looked at, and its y and gradient are 0. */
  mask?: Tensor
  /** int32 [B,T]: 1 where a new sequence begins, on padding too: its state is fresh, whatever came before, and no gradient goes back past it. */
  reset?: Tensor
  /** `fused` by default. `step` goes token by token in composed ops: slow, and the specification. */
  form?: (typeof netForms)[number]
  /** C: the state is kept every C tokens for the backward, which computes the others once more. 16 by default. */
  chunk?: number
}

/**
 * x [B,T,H,I], the net's inputs side by side, in their order; y [B,T,H,O]. Gradients go to x, the parameters and the state, from y and from
 * the state that is handed on.
 */
export function runNet(net: Net, x: Tensor, options: NetOptions = {}): { y: Tensor; state: NetState } {
  const sizes = check(net, x, options)
  return (options.form ?? 'fused') === 'step' ? runSteps(net, x, options, sizes) : runFused(net, x, options, sizes)
}

interface Sizes {
  B: number
  T: number
  H: number
}

const known = ['parameters', 'state', 'mask', 'reset', 'form', 'chunk'] as const satisfies (keyof NetOptions)[]

function check(net: Net, x: Tensor, options: NetOptions): Sizes {
  const op = `net '${net.name}'`
  if (!(x instanceof Tensor)) throw new Error(`${op}: needs x [B,T,H,${net.I}], a tensor`)
  checkFloat(op, x)
  const { B, T, H } = match(op, { x: ['B', 'T', 'H', net.I] }, { x: x.shape })
  if (T < 1 || H < 1) throw new Error(`${op}: ${T < 1 ? 'T' : 'H'} is 0 in x [${x.shape.join(',')}]`)
  checkOptions(op, options, known)
  const { form = 'fused', chunk = 16, parameters = {}, state, mask, reset } = options
  if (!netForms.includes(form)) throw new Error(`${op}: unknown form '${form}' (${netForms.join(', ')})`)
  checkNumber(`${op}: the chunk length`, chunk, 'a positive integer')
  const shapes = (parts: Readonly<Record<string, Part>>) => Object.entries(parts).map(([name, { shape }]) => [name, shape] as const)
  checkParts(op, 'parameter', parameters, Object.entries(net.parameters), [H], x)
  if (state) checkParts(op, 'state', state, shapes(net.state), [B, H], x)
  for (const [name, flags] of Object.entries({ mask, reset })) if (flags) tokenFlags(op, name, flags, B, T)
  return { B, T, H }
}

function checkParts(
  op: string,
  what: string,
  given: Readonly<Record<string, Tensor>>,
  expected: readonly (readonly [string, readonly number[]])[],
  lead: readonly number[],
  beside: Tensor,
): void {
  const names = expected.map(([name]) => name)
  const extra = Object.keys(given).find((name) => !names.includes(name))
  if (extra !== undefined) throw new Error(`${op}: it has no ${what} '${extra}' (${names.join(', ') || 'none at all'})`)
  for (const [name, shape] of expected) {
    const t = given[name]
    if (!(t instanceof Tensor)) throw new Error(`${op}: lacks the ${what} '${name}' [${[...lead, ...shape].join(',')}]`)
    checkFloat(op, t)
    sameDevice(op, beside, t)
    match(op, { [name]: [...lead, ...shape] }, { [name]: t.shape })
  }
}

// ---- the fused kernel -------------------------------------------------------------------------------------------------------------------

/** Tensors [...lead, ...shape] side by side: [...lead, all numbers]. */
const pack = (tensors: readonly Tensor[], rank: number): Tensor => {
  const flat = tensors.map((t) => reshape(t, [...t.shape.slice(0, rank), sizeOf(t.shape.slice(rank))]))
  return flat.length === 1 ? flat[0] : concat(flat, rank)
}

function unpack(x: Tensor, parts: Readonly<Record<string, Part>>): NetState {
  const entries = Object.entries(parts)
  const lead = x.shape.slice(0, -1)
  const pieces =
    entries.length === 1
      ? [x]
      : split(
          x,
          -1,
          entries.map(([, { shape }]) => sizeOf(shape)),
        )
  return Object.fromEntries(entries.map(([name, { shape }], i) => [name, reshape(pieces[i], [...lead, ...shape])]))
}

function runFused(net: Net, x: Tensor, options: NetOptions, { B, T, H }: Sizes): { y: Tensor; state: NetState } {
  const { parameters = {}, state, chunk = 16 } = options
  const { device } = x
  const parts = Object.entries(net.state)
  const slowNames = Object.keys(net.slow)
  const isBased = (name: string): boolean => net.based.includes(name)
  const slow =
    slowNames.length > 0
      ? pack(
          slowNames.map((name) => parameters[name]),
          1,
        )
      : undefined
  const fresh =
    net.based.length > 0
      ? pack(
          parts.map(([name, { shape }]) => (isBased(name) ? parameters[name] : zeros([H, ...shape], device))),
          1,
        )
      : undefined
  const s0 =
    state &&
    pack(
      parts.map(([name]) => (isBased(name) ? add(state[name], parameters[name]) : state[name])),
      2,
    )
  const { y, sT } = kernelOp(net, x, slow, fresh, s0, tokensOf(`net '${net.name}'`, options, B, T, device), {
    B,
    T,
    H,
    C: Math.min(chunk, T),
  })
  const last = unpack(sT, net.state)
  return { y, state: Object.fromEntries(Object.entries(last).map(([name, t]) => [name, isBased(name) ? shift(name, t, options, T) : t])) }
}

/** How far t [B,...] has moved from its base; where a row has no token at all, what it was, to the bit. */
function shift(name: string, t: Tensor, { parameters, state, mask, reset }: NetOptions, T: number): Tensor {
  const moved = sub(t, parameters![name])
  const [B] = t.shape
  const any = (flags: Tensor | undefined, b: number): boolean | undefined => flags?.indices?.subarray(b * T, (b + 1) * T).includes(1)
  const touched = Int32Array.from({ length: B }, (_, b) => Number(any(mask, b) !== false || any(reset, b) === true))
  if (!touched.includes(0)) return moved
  return where(stretch(tensor(touched, { shape: [B], device: t.device }), t.shape.length), moved, state?.[name] ?? 0)
}

function kernelOp(
  net: Net,
  x: Tensor,
  parameters: Tensor | undefined,
  fresh: Tensor | undefined,
  s0: Tensor | undefined,
  tokens: Tensor | null,
  call: Sizes & { C: number },
): { y: Tensor; sT: Tensor } {
  const sizes = netSizes(net, call)
  const { B, T, H, O, S, P, C, stateFloats } = sizes
  const { device } = x
  const { kernels } = device
  const given = { x, parameters, fresh, s0 }
  const inputs = Object.values(given).filter((t) => t !== undefined)
  const program = tensor(net.code, { device })
  const at = (t: Tensor | null | undefined): unknown => t?.storage ?? null
  const storages = (): NetInputs<unknown> => ({
    program: at(program),
    x: at(x),
    parameters: at(parameters),
    fresh: at(fresh),
    s0: at(s0),
    tokens: at(tokens),
  })
  const y = empty([B, T, H, O], device)
  const sT = empty([B, H, S], device)
  const states = records(inputs) ? empty([B, H, Math.ceil(T / C), stateFloats], device) : null
  kernels.net(storages(), { y: at(y), sT: at(sT), states: at(states) }, sizes)
  recordMany(`net '${net.name}'`, inputs, [y, sT], ([dy, dsT]) => {
    const dx = like(x)
    const dparameters = parameters && empty([B, H, P], device)
    const dfresh = fresh && empty([B, H, S], device)
    const ds0 = s0 && like(s0)
    const cotangents = { dy: (dy ?? full(y.shape, 0, device)).storage, dsT: at(dsT) }
    const gradients = { dx: at(dx), dparameters: at(dparameters), dfresh: at(dfresh), ds0: at(ds0) }
    kernels.netBackward(storages(), states!.storage, cotangents, gradients, sizes)
    const all = { x: dx, parameters: dparameters && sum(dparameters, { axis: 0 }), fresh: dfresh && sum(dfresh, { axis: 0 }), s0: ds0 }
    return Object.entries(given).flatMap(([name, t]) => (t ? [all[name as keyof typeof all]!] : []))
  })
  if (!y.node) for (const t of [program, tokens]) t?.dispose()
  return { y, sT }
}

// ---- the specification: an op of the engine for each instruction --------------------------------------------------------------------------

/** What a token is computed from; registers by where they begin, parts of the state and parameters by where they do in a kernel's memory. */
interface Token {
  x: Tensor
  registers: Map<number, Tensor>
  before: Map<number, Tensor>
  after: Map<number, Tensor>
  slow: Map<number, Tensor>
  y?: Tensor
}

const norms = {
  layer: (x: Tensor, eps: number) => layerNorm(x, null, null, eps),
  rms: (x: Tensor, eps: number) => rmsNorm(x, null, eps),
  l2: l2Norm,
  sum: sumNorm,
}

/** The register that an instruction sets, [B,H,n]; undefined where it sets something else. */
const steps: Record<NetOp, (i: NetInstruction, token: Token) => Tensor | undefined> = {
  input: ({ a, n }, { x }) => slice(x, -1, a, a + n),
  state: ({ a }, { before }) => before.get(a)!,
  parameter: ({ a }, { slow }) => slow.get(a)!,
  read: ({ a, b, d, e }, { registers, before, after, slow }) => readOut((d ? slow : e ? after : before).get(b)!, registers.get(a)!),
  write: ({ to, a, b, d, e, x }, { registers, before, after }) => {
    const M = before.get(to)!
    const kept = d >= 0 ? mul(M, stretch(registers.get(d)!, 4)) : x === 1 ? M : affine(M, x)
    const written = add(kept, outer(registers.get(a)!, registers.get(b)!))
    after.set(to, e < 0 ? written : unary(unaryOps[e], written))
    return undefined
  },
  add: ({ a, b }, { registers }) => add(registers.get(a)!, registers.get(b)!),
  sub: ({ a, b }, { registers }) => sub(registers.get(a)!, registers.get(b)!),
  mul: ({ a, b }, { registers }) => mul(registers.get(a)!, registers.get(b)!),
  affine: ({ a, x, z }, { registers }) => affine(registers.get(a)!, x, z),
  times: ({ a, b }, { registers }) => mul(registers.get(a)!, registers.get(b)!),
  dot: ({ a, b }, { registers }) => dot(registers.get(a)!, registers.get(b)!),
  unary: ({ a, b }, { registers }) => unary(unaryOps[b], registers.get(a)!),
  softmax: ({ a, x }, { registers }) => {
    const r = registers.get(a)!
    const e = exp(sub(r, detach(max(r, { axis: -1, keepDim: true }))))
    return div(e, affine(sum(e, { axis: -1, keepDim: true }), 1, x))
  },
  norm: ({ a, b, x }, { registers }) => norms[normKinds[b]](registers.get(a)!, x),
  slice: ({ a, b, n }, { registers }) => slice(registers.get(a)!, -1, b, b + n),
  concat: ({ a, b }, { registers }) => concat([registers.get(a)!, registers.get(b)!], -1),
  next: ({ to, a }, { registers, after }) => {
    after.set(to, registers.get(a)!)
    return undefined
  },
  output: ({ a }, token) => {
    token.y = token.registers.get(a)!
    return undefined
  },
}

function runSteps(net: Net, x: Tensor, options: NetOptions, { B, T, H }: Sizes): { y: Tensor; state: NetState } {
  const { parameters = {}, state, mask, reset } = options
  const { device } = x
  const parts = Object.entries(net.state)
  const places = (of: Readonly<Record<string, Part>>, value: (name: string, part: Part) => Tensor): Map<number, Tensor> =>
    new Map(Object.entries(of).map(([name, part]) => [part.place, value(name, part)]))
  const slow = places(net.slow, (name, { shape }) => expand(reshape(parameters[name], [1, H, ...shape]), [B, H, ...shape]))
  const base = (name: string): Tensor | undefined => (net.based.includes(name) ? parameters[name] : undefined)
  const begin = places(net.state, (name, { shape }) => {
    const none = zeros([B, H, ...shape], device)
    return base(name) ? add(none, base(name)!) : none
  })
  let current = state ? places(net.state, (name) => (base(name) ? add(state[name], base(name)!) : state[name])) : begin
  const each = (of: Map<number, Tensor>, f: (t: Tensor, place: number) => Tensor): Map<number, Tensor> =>
    new Map([...of].map(([place, t]) => [place, f(t, place)]))
  /** The flags of token t, [B]; undefined where all are `usual`. */
  const flagsAt = (flags: Tensor | undefined, t: number, usual: number): Tensor | undefined => {
    const values = flags && Int32Array.from({ length: B }, (_, b) => flags.indices![b * T + t])
    return values?.some((value) => value !== usual) ? tensor(values, { shape: [B], device }) : undefined
  }
  const ys: Tensor[] = []
  for (let t = 0; t < T; t++) {
    const begins = flagsAt(reset, t, 0)
    if (begins) current = each(current, (s, place) => where(stretch(begins, s.shape.length), begin.get(place)!, s))
    // A step on padding is one on zeros, from a state of zeros.
    const real = flagsAt(mask, t, 1)
    const seen = unpadded(reshape(slice(x, 1, t, t + 1), [B, H, net.I]), real)
    const before = each(current, (s) => unpadded(s, real))
    const token: Token = { x: seen, registers: new Map(), before, after: new Map(), slow }
    for (const i of net.instructions) {
      const result = steps[i.op](i, token)
      if (result) token.registers.set(i.to, result)
    }
    current = real ? each(token.after, (s, place) => where(stretch(real, s.shape.length), s, current.get(place)!)) : token.after
    ys.push(reshape(unpadded(token.y!, real), [B, 1, H, net.O]))
  }
  const last = parts.map(([name, { place }]): [string, Tensor] => {
    const s = current.get(place)!
    return [name, base(name) ? shift(name, s, options, T) : s]
  })
  return { y: concat(ys, 1), state: Object.fromEntries(last) }
}
