/** Claims about recurrent nets: that the fused kernels are the program, and what nets have in common with rules, with attention and with each other. */

import { normKinds } from '../engine/devices/kernels.ts'
import {
  add,
  affine,
  ba2016,
  concat,
  deltaRnn,
  deltaRule,
  elu,
  layerNorm,
  mul,
  type Net,
  type NetOptions,
  type NetRow,
  type NetState,
  nets,
  programmer,
  readOut,
  recurrentDeltaNet,
  reshape,
  runNet,
  selfReferential,
  sigmoid,
  slice,
  softmax,
  split,
  sub,
  sum,
  sumNorm,
  sumRule,
  type Tensor,
  tanh,
  tensor,
  zeros,
} from '../engine/index.ts'
import { type Case, type Claim, defineClaim, type Side } from './claim.ts'
import { type Context, stream } from './context.ts'
import { flag, int } from './fields.ts'
import { token } from './parts.ts'
import { refuted } from './refuted.ts'
import { withGradients } from './sides.ts'

const section = 'Recurrent nets'

type NetCase = Case & { B: number; T: number; H: number; D: number } & Record<string, any>
type Tensors = Record<string, Tensor>

const sizes = { B: int(1, 2), T: int(1, 8), H: int(1, 2), D: int(1, 5) }
const common = { ...sizes, initial: flag, C: int(1, 6) }

/** What a net is given, drawn: matrices so short that products stay about 1. */
interface Given {
  x: Tensor
  parameters: Tensors
  state: Tensors
}

function draw(net: Net, { B, T, H, initial }: NetCase, context: Context): Given {
  // Where numbers are nearly equal, layer normalisation multiplies rounding errors by up to 1 / sqrt(eps): a slope keeps them apart.
  const slope = layerNormalises(net) ? 2 : 0
  const part = (name: string, lead: number[], shape: readonly number[]): Tensor => {
    const scale = shape.length === 2 ? 1 / Math.sqrt(shape[0]) : 1
    const values = context.values(name, [...lead, ...shape])
    return context.from(
      values.map((v) => v * scale),
      [...lead, ...shape],
    )
  }
  return {
    x: context.from(
      context.values('x', [B, T, H, net.I]).map((v, i) => v + slope * (i % net.I)),
      [B, T, H, net.I],
    ),
    parameters: Object.fromEntries(Object.entries(net.parameters).map(([name, shape]) => [name, part(name, [H], shape)])),
    state: initial ? Object.fromEntries(Object.entries(net.state).map(([name, { shape }]) => [name, part(`${name}0`, [B, H], shape)])) : {},
  }
}

const layerNormalises = (net: Net): boolean => net.instructions.some(({ op, b }) => op === 'norm' && normKinds[b] === 'layer')

type Run = (given: Given) => { y: Tensor; state?: NetState }

/** y, the state, and the gradients of all that is given from drawn cotangents of both. */
function everything(given: Given, context: Context, run: Run): Side {
  const initial = Object.fromEntries(Object.entries(given.state).map(([name, t]) => [`${name}0`, t]))
  return withGradients({ x: given.x, ...given.parameters, ...initial }, context, () => {
    const { y, state = {} } = run(given)
    return { y, ...state }
  })
}

const options = ({ parameters, state }: Given, more: NetOptions = {}): NetOptions => ({
  ...more,
  parameters,
  ...(Object.keys(state).length > 0 && { state }),
})
const fused =
  (net: Net, c: NetCase, more: NetOptions = {}): Run =>
  (given) =>
    runNet(net, given.x, options(given, { chunk: c.C, ...more }))

/** 0 or 1 for each token, mostly `usual`. */
const flags = ({ B, T }: NetCase, context: Context, name: string, usual: number): Tensor =>
  tensor(
    Int32Array.from(context.values(name, [B, T], 'rate'), (v) => (v > 0.7 ? 1 - usual : usual)),
    { shape: [B, T], device: context.device },
  )

const families = Object.entries(nets as Record<string, NetRow>).flatMap(([name, { title, source, equation, build }]): Claim[] => {
  // Its gradient is what is left of larger terms.
  const layered = layerNormalises(build(2))
  const fields = layered ? { ...common, D: int(4, 6) } : common
  const floor = layered ? 1 : 0.1
  return [
    defineClaim({
      name: `${name}: fused = step`,
      section,
      statement: `${title}: the fused kernel gives what the program gives token by token in composed ops, outputs, states and every gradient; with padding and beginnings, too.`,
      equation,
      source,
      fields: { ...fields, padded: flag },
      floor,
      left: (c, x) => {
        const more = c.padded ? { mask: flags(c, x, 'mask', 1), reset: flags(c, x, 'reset', 0) } : {}
        return everything(draw(build(c.D), c, x), x, fused(build(c.D), c, more))
      },
      right: (c, x) => {
        const more: NetOptions = c.padded ? { mask: flags(c, x, 'mask', 1), reset: flags(c, x, 'reset', 0) } : {}
        return everything(draw(build(c.D), c, x), x, fused(build(c.D), c, { ...more, form: 'step', chunk: undefined }))
      },
    }),
    defineClaim({
      name: `${name}: state carried over a cut`,
      section,
      statement: `${title}: a sequence may be cut anywhere, forward and backward; the second piece goes on from the state that the first left.`,
      equation: 'f(x_{1..T}, s_0) = f\\bigl(x_{t+1..T},\\, f(x_{1..t}, s_0)\\bigr)',
      source,
      fields: { ...fields, cut: int(0, 7) },
      floor,
      left: (c, x) =>
        everything(draw(build(c.D), c, x), x, (given) => {
          const net = build(c.D)
          const t = c.T === 1 ? 1 : 1 + (c.cut % (c.T - 1))
          const first = fused(net, c)({ ...given, x: slice(given.x, 1, 0, t) })
          if (t === c.T) return first
          const second = fused(net, c)({ ...given, x: slice(given.x, 1, t, c.T), state: first.state! })
          return { y: concat([first.y, second.y], 1), state: second.state! }
        }),
      right: (c, x) => everything(draw(build(c.D), c, x), x, fused(build(c.D), c)),
    }),
    defineClaim({
      name: `${name}: threads change nothing`,
      section,
      statement: `${title}: one thread and several give the same bits: outputs, states and every gradient.`,
      equation: 'f_{1\\,\\mathrm{thread}}(x) = f_{N\\,\\mathrm{threads}}(x)',
      source,
      relation: 'same bits',
      needs: ['threads'],
      fields: { ...common, T: int(1, 24), H: int(1, 3), D: int(1, 20) },
      left: (c, x) => everything(draw(build(c.D), c, x), x, fused(build(c.D), c)),
      right: (c, x) => x.on('threads', (x) => everything(draw(build(c.D), c, x), x, fused(build(c.D), c))),
    }),
  ]
})

// ---- reductions -------------------------------------------------------------------------------------------------------------------------

/** The inputs of a net by name, [B,T,H,n] each. */
const inputsOf = (net: Net, x: Tensor): Tensors => {
  const names = Object.keys(net.inputs)
  return Object.fromEntries(split(x, -1, Object.values(net.inputs)).map((t, i) => [names[i], t]))
}
/** x of a net from its inputs; some of them replaced. */
const withInputs = (net: Net, x: Tensor, replaced: Tensors): Tensor => concat(Object.values({ ...inputsOf(net, x), ...replaced }), -1)
const scalar = (t: Tensor): Tensor => reshape(t, t.shape.slice(0, 3))
const features = (t: Tensor): Tensor => sumNorm(add(elu(t), 1), 0)
const blank = (t: Tensor): Tensor => zeros(t.shape, t.device)

/** sum over the tokens of the past, tau < t, of decay^(t-1-tau) rate h_tau (h_tau . h): what A_t holds for h. */
function attend(past: readonly Tensor[], h: Tensor, decay: number, rate: number): Tensor {
  const terms = past.map((key, i) => {
    const score = sum(mul(key, h), { axis: -1, keepDim: true })
    return mul(key, affine(score, rate * decay ** (past.length - 1 - i)))
  })
  return terms.length === 0 ? blank(h) : terms.reduce((a, b) => add(a, b))
}

const ba = (c: NetCase): Net => ba2016({ D: c.D, steps: c.steps, norm: c.norm, decay: 0.75, rate: 0.25, activation: 'tanh', eps: 0.125 })

const reductions: Claim[] = [
  defineClaim({
    name: 'nets: a Delta RNN without feedback is the delta net',
    section,
    statement: 'With R = 0 the Delta RNN is the delta rule with keys and queries elu(x) + 1, divided by their sums.',
    equation: 'R_0 = 0,\\; \\bar v_t = 0 \\;\\Rightarrow\\; h_t = q_t W_t',
    source: 'Irie 2021, section 3.2',
    fields: { ...common },
    left: (c, x) => {
      const net = deltaRnn({ K: c.D, V: c.D })
      return everything({ ...draw(net, { ...c, initial: false }, x), ...seed(c, x) }, x, (given) => {
        const { rv } = inputsOf(net, given.x)
        const W = given.state.S
        const state = W && { h: zeros([c.B, c.H, c.D], x.device), W, R: blank(W) }
        const { y, state: last } = runNet(net, withInputs(net, given.x, { rv: blank(rv) }), { chunk: c.C, ...(state && { state }) })
        return { y, state: { S: last.W } }
      })
    },
    right: (c, x) => {
      const net = deltaRnn({ K: c.D, V: c.D })
      return everything({ ...draw(net, { ...c, initial: false }, x), ...seed(c, x) }, x, (given) => {
        const { q, k, v, beta } = inputsOf(net, given.x)
        const { y, state } = deltaRule(features(q), features(k), v, sigmoid(scalar(beta)), given.state.S && { S: given.state.S })
        return { y, state: { S: state.S } }
      })
    },
  }),
  defineClaim({
    name: 'nets: an RDN without feedback is the delta net',
    section,
    statement: 'With R = 0 the recurrent delta net is the delta rule, its queries and keys softmaxes.',
    equation: 'R_q = R_k = R_v = 0,\\; r_\\beta = 0 \\;\\Rightarrow\\; y_t = q_t W_t',
    source: 'Irie 2021, section 3.3',
    fields: { ...common },
    left: (c, x) => {
      const net = recurrentDeltaNet({ K: c.D, V: c.D })
      const none = Object.fromEntries(Object.entries(net.parameters).map(([name, shape]) => [name, zeros([c.H, ...shape], x.device)]))
      return everything({ x: x.tensor('x', [c.B, c.T, c.H, net.I]), parameters: {}, ...seed(c, x) }, x, (given) => {
        const W = given.state.S
        const state = W && { h: zeros([c.B, c.H, c.D], x.device), W }
        const { y, state: last } = runNet(net, given.x, { chunk: c.C, parameters: none, ...(state && { state }) })
        return { y, state: { S: last.W } }
      })
    },
    right: (c, x) => {
      const net = recurrentDeltaNet({ K: c.D, V: c.D })
      return everything({ x: x.tensor('x', [c.B, c.T, c.H, net.I]), parameters: {}, ...seed(c, x) }, x, (given) => {
        const { q, k, v, beta } = inputsOf(net, given.x)
        const { y, state } = deltaRule(softmax(q), softmax(k), v, sigmoid(scalar(beta)), given.state.S && { S: given.state.S })
        return { y, state: { S: state.S } }
      })
    },
  }),
  defineClaim({
    name: 'nets: an SRWM of which only W_y changes is the delta rule',
    section,
    statement:
      'An SRWM whose other matrices change at rate 0 is the delta rule at the rate beta_y, with the key softmax(x W_k) and for value what W_y holds for softmax(x W_q); x is read before the write.',
    equation: '\\beta_q = \\beta_k = \\beta_b = 0 \\;\\Rightarrow\\; W_y \\leftarrow W_y + \\beta_y k (v - k W_y),\\; v = q W_y',
    source: 'Irie 2022, eq. 5-8',
    fields: { ...sizes, C: int(1, 6), D: int(2, 5) },
    left: (c, x) =>
      everything(shut(c, x), x, (given) => {
        const { y, state } = runNet(selfReferential({ D: c.D }), given.x, { chunk: c.C, parameters: given.parameters })
        return { y, state: { Wy: state.Wy } }
      }),
    right: (c, x) =>
      everything(shut(c, x), x, ({ x: given, parameters: { Wy, Wq, Wk, wb } }) => {
        const one = (M: Tensor): Tensor => reshape(M, [1, ...M.shape])
        const base = add(zeros([c.B, ...Wy.shape], x.device), Wy)
        let S = base
        const ys: Tensor[] = []
        for (let t = 0; t < c.T; t++) {
          const now = token(given, t)
          const [q, k] = [Wq, Wk].map((M) => softmax(readOut(one(M), now)))
          const beta = slice(sigmoid(readOut(one(wb), now)), -1, 0, 1)
          const of = (v: Tensor): Tensor => reshape(v, [v.shape[0], 1, ...v.shape.slice(1)])
          ys.push(of(readOut(S, now)))
          S = deltaRule(of(q), of(k), of(readOut(S, q)), reshape(beta, [c.B, 1, c.H]), { S }).state.S
        }
        return { y: concat(ys, 1), state: { Wy: sub(S, base) } }
      }),
  }),
  defineClaim({
    name: "nets: Ba's fast weights are attention to the past",
    section,
    statement:
      'The fast weights of Ba 2016 as a matrix, or as attention to the hidden states so far: the same, with any number of inner steps, with layer norm and without.',
    equation: 'A_t h = \\eta \\sum_{\\tau \\le t} \\lambda^{t - \\tau} h_\\tau (h_\\tau^\\top h)',
    source: 'Ba 2016, eq. 3-4',
    fields: { ...sizes, D: int(2, 5), C: int(1, 6), steps: int(1, 4), norm: flag },
    // The gradient of a layer normalisation is what is left of larger terms.
    floor: 1,
    left: (c, x) => everything(draw(ba(c), c, x), x, (given) => ({ y: fused(ba(c), c)(given).y })),
    right: (c, x) =>
      everything(draw(ba(c), c, x), x, ({ x: given, parameters: { W, gain, bias } }) => {
        const past: Tensor[] = []
        for (let t = 0; t < c.T; t++) {
          const last = past.at(-1) ?? zeros([c.B, c.H, c.D], x.device)
          const boundary = add(readOut(reshape(W, [1, ...W.shape]), last), token(given, t))
          let h = tanh(boundary)
          for (let s = 0; s < c.steps; s++) {
            const total = add(boundary, attend(past, h, 0.75, 0.25))
            h = tanh(c.norm ? add(mul(layerNorm(total, null, null, 0.125), gain), bias) : total)
          }
          past.push(h)
        }
        return {
          y: concat(
            past.map((h) => reshape(h, [c.B, 1, c.H, c.D])),
            1,
          ),
        }
      }),
  }),
  defineClaim({
    name: 'nets: a fast weight programmer without activation is the sum rule',
    section,
    statement: 'Without the activation on its fast weights, the fast weight programmer of 1991 is linear attention without normaliser.',
    equation: '\\sigma = \\mathrm{id} \\;\\Rightarrow\\; W_t = W_{t-1} + a_t b_t^\\top',
    source: 'Schmidhuber 1991; Schlag 2021, section 3',
    fields: { ...common },
    left: (c, x) => programmers(c, x, (net, given) => runNet(net, given.x, options(given, { chunk: c.C }))),
    right: (c, x) => programmers(c, x, asSum),
  }),
]

function programmers(c: NetCase, x: Context, run: (net: Net, given: Given) => { y: Tensor; state: NetState }): Side {
  const net = programmer({ K: c.D, V: c.D, activation: null })
  return everything(draw(net, c, x), x, (given) => run(net, given))
}

const asSum = (net: Net, { x, state }: Given): { y: Tensor; state: NetState } => {
  const inputs = inputsOf(net, x)
  const { y, state: last } = sumRule(inputs.x, inputs.a, inputs.b, state.W && { S: state.W })
  return { y, state: { W: last.S } }
}

/** Fast weights S0 to begin with, where the case has any. */
const seed = (c: NetCase, x: Context): Pick<Given, 'state'> => ({
  state: c.initial ? { S: x.tensor('S0', [c.B, c.H, c.D, c.D]) } : ({} as Tensors),
})

/** An SRWM in which all rates but the first are 0: the last number of x is 1, and weighs 200 against them. */
function shut(c: NetCase, x: Context): Given {
  const net = selfReferential({ D: c.D })
  const given = draw(net, { ...c, initial: false }, x)
  const values = x.values('x', [c.B, c.T, c.H, c.D]).map((v, i) => (i % c.D === c.D - 1 ? 1 : v))
  const rates = x.values('wb', [c.H, c.D, 4]).map((v, i) => (i % 4 > 0 ? (Math.floor(i / 4) % c.D === c.D - 1 ? -200 : 0) : v))
  return { ...given, x: x.from(values, [c.B, c.T, c.H, c.D]), parameters: { ...given.parameters, wb: x.from(rates, [c.H, c.D, 4]) } }
}

export const netClaims: readonly Claim[] = [...families, ...reductions]

// ---- false ones -------------------------------------------------------------------------------------------------------------------------

const small = { ...common, B: int(1, 1), H: int(1, 1) }

/** The last output and state of a Delta RNN, its tokens in order, or all but the last shuffled. */
function lastOf(c: NetCase, x: Context, shuffled: boolean): Side {
  const net = deltaRnn({ K: c.D, V: c.D })
  const given = draw(net, c, x)
  const next = stream(c.seed, 'order')
  const order = Array.from({ length: c.T - 1 }, (_, t) => ({ t, at: next() }))
  if (shuffled) order.sort((a, b) => a.at - b.at)
  const arranged = concat(
    [...order.map(({ t }) => t), c.T - 1].map((t) => slice(given.x, 1, t, t + 1)),
    1,
  )
  const { y, state } = runNet(net, arranged, options(given, { chunk: c.C }))
  return { y: token(y, c.T - 1), ...state }
}

export const falseNetClaims: readonly Claim[] = [
  refuted({
    name: 'false: a Delta RNN ignores order',
    statement: 'What a Delta RNN has stored and gives last does not depend on the order of the tokens before.',
    equation: 'h_T(x_{\\pi(1)}, \\dots, x_{\\pi(T-1)}, x_T) = h_T(x_1, \\dots, x_T)',
    source: 'true of the sum rule; corrections and feedback depend on what came before',
    fields: small,
    left: (c, x) => lastOf(c, x, true),
    right: (c, x) => lastOf(c, x, false),
  }),
  refuted({
    name: 'false: the activation on the fast weights does not matter',
    statement: 'The fast weight programmer of 1991 gives the same with its activation on the fast weights and without.',
    equation: '\\sigma(W_{t-1} + a_t b_t^\\top) = W_{t-1} + a_t b_t^\\top',
    source: 'true of the identity',
    fields: small,
    left: (c, x) => {
      const net = programmer({ K: c.D, V: c.D })
      return { y: fused(net, c)(draw(net, c, x)).y }
    },
    right: (c, x) => {
      const net = programmer({ K: c.D, V: c.D })
      return { y: asSum(net, draw(net, c, x)).y }
    },
  }),
  refuted({
    name: 'false: an SRWM may read after it writes',
    statement: 'Reading the output after the write changes nothing.',
    equation: 'x_t W_{t-1} = x_t W_t',
    source: 'Irie 2022, eq. 5: the output is read with the weights before the write',
    fields: { ...small, T: int(2, 8) },
    left: (c, x) => {
      const net = selfReferential({ D: c.D })
      return { y: fused(net, c)(draw(net, c, x)).y }
    },
    right: (c, x) => {
      const net = selfReferential({ D: c.D })
      const given = draw(net, c, x)
      const after = Array.from({ length: c.T }, (_, t) => {
        const { state } = fused(net, c)({ ...given, x: slice(given.x, 1, 0, t + 1) })
        return reshape(readOut(add(state!.Wy, given.parameters.Wy), token(given.x, t)), [c.B, 1, c.H, c.D])
      })
      return { y: concat(after, 1) }
    },
  }),
]
