/** A recurrence of one's own: a step in composed ops, run token by token. */
import { checkNumber, checkOptions, told } from './arguments.ts'
import { concat, reshape, split } from './ops/movement.ts'
import type { Generator } from './random.ts'
import { recompute } from './recompute.ts'
import { show } from './shape.ts'
import { Tensor } from './tensor.ts'

/** Options of `scan`. */
export interface ScanOptions {
  /**
   * C: for the backward pass only the state between pieces of C tokens is kept, and what a piece is made of is computed once more. So a graph holds
   * T / C states and the nodes of C tokens, not those of T; about the square root of T takes least. 16 by default. From T on everything is kept, and nothing
   * is computed twice. Results and gradients are the same to the bit, but gradients of what is shared and of parameters: sums over tokens, in another order.
   */
  chunk?: number
  /** Tensors by name that every token has beside its own inputs: slow weights, for example. */
  shared?: Readonly<Record<string, Tensor>>
  /** Parameters of modules that `step` calls. */
  parameters?: Iterable<Tensor>
  /** What `step` draws random numbers from. */
  generator?: Generator
}

type Tensors = Readonly<Record<string, Tensor>>

const known = ['chunk', 'shared', 'parameters', 'generator'] as const satisfies (keyof ScanOptions)[]

/**
 * Runs `step` over tokens: float32 inputs by name, [B,T,...]; a token has them as [B,...], and t is its place. `step` returns y [B,...] and the next state, of the same
 * names and shapes. It may run twice on a token, and must do the same both times. Returns y [B,T,...] and the last state. Gradients go to the inputs, to what
 * is shared, to `state` and the parameters, from y and the last state.
 */
export function scan<State extends Tensors>(
  step: (state: State, token: Record<string, Tensor>, t: number) => { y: Tensor; state: State },
  inputs: Tensors,
  state: State,
  options: ScanOptions = {},
): { y: Tensor; state: State } {
  if (typeof step !== 'function') throw new Error(`scan: needs a step, a function of (state, token, t), not ${told(step)}`)
  checkOptions('scan', options, known)
  const { chunk = 16, shared = {}, parameters, generator } = options
  checkNumber('scan: chunk', chunk, 'a positive integer')
  for (const [what, of] of Object.entries({ inputs, state, shared })) {
    if (typeof of !== 'object' || of === null) throw new Error(`scan: ${what} must be tensors by name, not ${told(of)}`)
    for (const [name, x] of Object.entries(of))
      if (!(x instanceof Tensor)) throw new Error(`scan: ${what}.${name} must be a tensor, not ${told(x)}`)
  }
  for (const [name, { dtype }] of Object.entries(inputs))
    if (dtype !== 'float32')
      throw new Error(`scan: inputs.${name} must be float32, not ${dtype}; what the step looks up by t needn't be an input`)
  const names = Object.keys(inputs)
  const beside = Object.keys(shared)
  const parts = Object.keys(state)
  const twice = beside.find((name) => name in inputs)
  if (twice !== undefined) throw new Error(`scan: '${twice}' is an input and shared; a token can have one of them`)
  if (names.length === 0) throw new Error('scan: needs an input [B,T,...] at least')
  const [B, T] = inputs[names[0]].shape
  for (const name of names) {
    const { shape } = inputs[name]
    if (shape.length < 2 || shape[0] !== B || shape[1] !== T)
      throw new Error(
        `scan: inputs are [B,T,...] of the same B and T, but ${names[0]} is ${show(inputs[names[0]].shape)} and ${name} ${show(shape)}`,
      )
  }
  if (!(T > 0)) throw new Error(`scan: T is 0 in ${names[0]} ${show(inputs[names[0]].shape)}`)
  const named = (of: readonly string[], tensors: readonly Tensor[]): Record<string, Tensor> =>
    Object.fromEntries(of.map((name, i) => [name, tensors[i]]))

  /** Tokens from `begin` on: their inputs [B,n,...], what is shared, and the parts of the state before them. */
  const piece = (begin: number, tensors: readonly Tensor[]): { y: Tensor; state: State } => {
    const seen = tensors.slice(0, names.length)
    const same = named(beside, tensors.slice(names.length))
    let current = named(parts, tensors.slice(names.length + beside.length)) as unknown as State
    const ys: Tensor[] = []
    const tokens = seen.map((x) => cut(x, 1))
    for (let t = 0; t < seen[0].shape[1]; t++) {
      const token = named(
        names,
        tokens.map((x) => reshape(x[t], [B, ...x[t].shape.slice(2)])),
      )
      const next = step(current, { ...token, ...same }, begin + t)
      checkNext(next, current, B)
      ys.push(reshape(next.y, [B, 1, ...next.y.shape.slice(1)]))
      current = next.state
    }
    return { y: concat(ys, 1), state: current }
  }

  let current = state
  const ys: Tensor[] = []
  const pieces = names.map((name) => cut(inputs[name], chunk))
  for (let i = 0; i * chunk < T; i++) {
    const begin = i * chunk
    const tensors = [...pieces.map((x) => x[i]), ...Object.values(shared), ...parts.map((name) => current[name])]
    const { y, state: next } =
      chunk >= T ? piece(begin, tensors) : recompute(tensors, (...given) => piece(begin, given), { parameters, generator })
    ys.push(y)
    current = next
  }
  return { y: ys.length === 1 ? ys[0] : concat(ys, 1), state: current }
}

/** x [B,T,...] in pieces of n tokens. */
function cut(x: Tensor, n: number): Tensor[] {
  const T = x.shape[1]
  const sizes = Array.from({ length: Math.ceil(T / n) }, (_, i) => Math.min(n, T - i * n))
  return sizes.length === 1 ? [x] : split(x, 1, sizes)
}

function checkNext(next: unknown, before: Tensors, B: number): void {
  const { y, state } = (next ?? {}) as Partial<{ y: Tensor; state: Record<string, Tensor> }>
  if (!(y instanceof Tensor) || y.shape[0] !== B)
    throw new Error(`scan: the step's y must be a tensor [${B},...], not ${y instanceof Tensor ? show(y.shape) : told(y)}`)
  for (const [name, { shape }] of Object.entries(before)) {
    const part = state?.[name]
    if (!(part instanceof Tensor) || show(part.shape) !== show(shape))
      throw new Error(
        `scan: the step's next state must have '${name}' ${show(shape)}, not ${part instanceof Tensor ? show(part.shape) : told(part)}`,
      )
  }
  const extra = Object.keys(state!).find((name) => !(name in before))
  if (extra !== undefined) throw new Error(`scan: the step's next state has '${extra}', which the state before lacks`)
}
