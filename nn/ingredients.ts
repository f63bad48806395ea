/**
 * What a rule takes beside queries, keys and values, made from the input of a layer: for each name in the table of rules a row, which makes its
 * parameters and, for each call, its value. A rule that has something else by a name that others have too has rows of its own.
 *
 * Shapes as in engine/rules/rule.ts: x [B,T,D]; one number a head [B,T,H]; K is the width of the features, V = D / H, M slots or levels.
 * Tests: test/nn/attention.test.ts.
 */
import { add, affine, div, exp, log, maximum, minimum, mul, neg, sigmoid, softplus, square, sub, tanh } from '../engine/ops/elementwise.ts'
import { sigmoidLater } from '../engine/ops/later.ts'
import { reshape } from '../engine/ops/movement.ts'
import { l2Norm } from '../engine/ops/norm.ts'
import { type Generator, normal } from '../engine/random.ts'
import { type RuleName, rules } from '../engine/rules/index.ts'
import type { Rule } from '../engine/rules/rule.ts'
import { lightningDecays } from '../engine/rules/sum.ts'
import { full, ones, parameter, type Tensor, zeros } from '../engine/tensor.ts'
import { type Fields, type Meaning, namesOf } from './fields.ts'
import { drawn, type Gate, type GateName, gates, LowRank, logOf, ramp, retention } from './gates.ts'
import { HeadProjection } from './heads.ts'
import { Linear } from './layers.ts'
import type { Module } from './module.ts'

/** The settings that ingredients read. */
export interface IngredientConfig {
  dModel: number
  heads: number
  /** How fast weights are written and forget, one of `layerRules`; the engine's `rules` has the formulas. */
  rule: RuleName
  /** How a rule's gate is made from the input; see `gates`. */
  gate: GateName
  /** One gate a channel: by way of few numbers, 16 for `logsigmoid`, else the heads' width, or from all of the input. */
  gateRank: 'low' | 'full'
  /** What the gate `logsigmoid` is divided by. */
  gateDivisor: number
  /** Write strengths are betaRange times a sigmoid: 1, or 2, which lets a state turn round along a key (eigenvalues below 0). */
  betaRange: number
  /** delta-product: the number of steps a token. */
  stepsPerToken: number
  /** retnet: what heads keep, RetNet's 1 - 2^(-5-h), or lightning attention's, which grows towards the last layer. */
  headDecay: 'retention' | 'lightning'
  /** gsa, abc: M, the slots of a head's memory. */
  slots: number
  /** ttt, titans: inner rates are innerRate / V times a sigmoid; and how many tokens take their gradients from the same memory. */
  innerRate: number
  minibatch: number
  /** log-linear: M, the levels of a memory. Up to 2^(M-1) tokens of a sequence are kept apart by their age. */
  levels: number
}

/** Where a layer stands in its model, from 0. */
export interface Place {
  layer: number
  layers: number
}

/** What parameters are made from. */
export interface Making {
  c: IngredientConfig
  K: number
  g: Generator
}

/** What a value is made from: queries and keys after the feature map, keys before it, values, all [B,T,H,...]. */
export interface Using {
  c: IngredientConfig
  /** The layer, which has the parameters. */
  own: any
  place: Place
  x: Tensor
  q: Tensor
  k: Tensor
  rawKeys: Tensor
  v: Tensor
  /** Another input of the rule. */
  of(name: string): Tensor
}

interface Ingredient {
  /** Its parameters, by the property of the layer that they become. */
  make?(m: Making): Record<string, Module | Module[] | Tensor>
  value(u: Using): Tensor
}

const ruleOf = ({ rule }: { rule: RuleName }): Rule => rules[rule]

// ---- what rows are made of -----------------------------------------------------------------------------------------------------------

const perHead = ({ c, g }: Making, options = { bias: false }): Linear => new Linear(c.dModel, c.heads, g, options)
const perChannel = ({ c, g }: Making, width: number): LowRank => new LowRank(c.dModel, c.dModel / c.heads, c.heads * width, g)
const valueWidth = ({ c }: Making): number => c.dModel / c.heads

const inHeads = ({ c, x }: Using, y: Tensor): Tensor => reshape(y, [x.shape[0], x.shape[1], c.heads, y.shape[2] / c.heads])
/** [H] or [B,T,H] beside channels. */
const beside = (x: Tensor): Tensor => reshape(x, [...x.shape, 1])

/** A number in (0, 1) for each head. */
const rate = (name: string): Ingredient => ({ make: (m) => ({ [name]: perHead(m) }), value: ({ own, x }) => sigmoid(own[name].forward(x)) })

/** Inner learning rates (0, innerRate / V). */
const innerRate: Ingredient = {
  make: (m) => ({ inner_rate: perHead(m, { bias: true }) }),
  value: ({ c, own, x }) => affine(sigmoid(own.inner_rate.forward(x)), (c.innerRate * c.heads) / c.dModel),
}

/** One gate a head, or for each of a head's channels. */
const gateOf = ({ c, K, g }: Making, channels: string | undefined): Gate => {
  const widths: Record<string, number> = { K, V: c.dModel / c.heads, M: c.slots }
  const width = channels === undefined ? null : widths[channels]
  return new gates[c.gate]({ dModel: c.dModel, heads: c.heads, width, full: c.gateRank === 'full', divisor: c.gateDivisor }, g)
}

/** A rule whose strengths these are computes them itself. */
const inRange = (c: { betaRange: number }, x: Tensor): Tensor => (c.betaRange === 1 ? sigmoidLater(x) : affine(sigmoid(x), c.betaRange))
const strength = ({ c, own, x }: Using): Tensor => inRange(c, own.interpolation_weight[0].forward(x).y)
const strengthOf = ({ c, g }: Making): Record<string, Module[]> => ({
  interpolation_weight: [new HeadProjection(c.dModel, c.stepsPerToken * c.heads, 0, g)],
})

/** What a gate lets go. */
const letGo = (u: Using): Tensor => affine(exp(u.of('gate')), -1, 1)

/** q - D_h times a vector of the present token: reads less of what it writes. D: [H]. */
const corrected = (q: Tensor, D: Tensor, by: Tensor): Tensor => sub(q, mul(beside(D), by))

/** The momentum rule: of the angle between what the memory keeps and what it takes. */
const tangentSquared = ({ own, of }: Using): Tensor => square(mul(of('eta'), exp(own.turn_log)))
/** [H], the logarithm of numbers from U(0, to). */
const logUniform = ({ c, g }: Making, to: number): Tensor => drawn([c.heads], g, (u) => logOf(to * u))

/** -exp(w): logarithms of decays for each channel, of which the first ones keep longest. */
const channelDecay = (from: number, to: number, width: (m: Making) => number): Ingredient => ({
  make: (m) => ({ decay: ramp([m.c.heads, width(m)], from, to) }),
  value: ({ own }) => neg(exp(own.decay)),
})
const bonus = (initial: number, width: (m: Making) => number): Ingredient => ({
  make: (m) => ({ bonus: parameter(full([m.c.heads, width(m)], initial)) }),
  value: ({ own }) => own.bonus,
})

/** Mesa's lambda stays above this, and begins at 1 (von Oswald 2025). */
const lambdaFloor = 0.25

// ---- the table -----------------------------------------------------------------------------------------------------------------------

const common: Record<string, Ingredient> = {
  q: { value: ({ q }) => q },
  k: { value: ({ k }) => k },
  v: { value: ({ v }) => v },
  beta: { make: strengthOf, value: strength },
  /** One for each value channel. */
  betas: {
    make: (m) => ({ strength: perChannel(m, valueWidth(m)) }),
    value: (u) => inHeads(u, inRange(u.c, u.own.strength.forward(u.x))),
  },
  gate: { make: (m) => ({ gate: gateOf(m, ruleOf(m.c).inputs.gate.shape[3]) }), value: ({ own, x }) => own.gate.forward(x) },
  /** Fixed, [H]. */
  decay: {
    value: ({ c, place, x }) =>
      c.headDecay === 'lightning' ? lightningDecays(c.heads, place.layer, place.layers, x.device) : retention(c.heads, x),
  },
  /** RWKV-7: the normalised product of key and a parameter [H,K]. */
  kappa: {
    make: ({ c, K }) => ({ kappa: parameter(ones([c.heads, K])) }),
    value: ({ k, own }) => l2Norm(mul(k, own.kappa)),
  },
  rate: { make: (m) => ({ rate: perChannel(m, m.K) }), value: (u) => inHeads(u, sigmoid(u.own.rate.forward(u.x))) },
  /** Mesa: 1/4 + softplus of a parameter [H,K]. */
  lambda: {
    make: ({ c, K }) => ({ lambda: parameter(full([c.heads, K], Math.log(Math.expm1(1 - lambdaFloor)))) }),
    value: ({ own }) => affine(softplus(own.lambda), 1, lambdaFloor),
  },
  /** The general linear rule: erases along a key of its own, of length 1, as the delta rule would along the one that it writes. */
  a: {
    make: ({ c, K, g }) => ({ removal: new Linear(c.dModel, c.heads * K, g, { bias: false }), ...strengthOf({ c, K, g }) }),
    value: (u) => l2Norm(inHeads(u, u.own.removal.forward(u.x))),
  },
  b: { value: (u) => mul(u.of('a'), neg(beside(strength(u)))) },
  /** GDN-2: what is erased of each key channel, and written to each value channel. */
  erase: {
    make: (m) => ({ erase: perChannel(m, m.K) }),
    value: (u) => inHeads(u, affine(sigmoid(u.own.erase.forward(u.x)), u.c.betaRange)),
  },
  write: { make: (m) => ({ write: perChannel(m, valueWidth(m)) }), value: (u) => inHeads(u, sigmoid(u.own.write.forward(u.x))) },
  /** The second memory of the preconditioned rules. */
  betaA: rate('beta_a'),
  gateA: { make: (m) => ({ gate_a: gateOf(m, undefined) }), value: ({ own, x }) => own.gate_a.forward(x) },
  c: { make: ({ c }) => ({ level_a: parameter(full([c.heads], -0.2)) }), value: ({ own }) => own.level_a },
  /** ABC: what slots are written by, [B,T,H,M], from -32 to 32 as in flash-linear-attention. */
  s: {
    make: ({ c, g }) => ({ slot: new Linear(c.dModel, c.heads * c.slots, g, { bias: false }) }),
    value: (u) => minimum(maximum(inHeads(u, u.own.slot.forward(u.x)), -32), 32),
  },
  /** Log-linear attention: the weights of levels, [B,T,H,M]. */
  levels: {
    make: ({ c, g }) => ({ level: new Linear(c.dModel, c.heads * c.levels, g) }),
    value: (u) => inHeads(u, softplus(u.own.level.forward(u.x))),
  },
  /** The layer norm inside of TTT and Titans. */
  w: { make: (m) => ({ inner_gain: parameter(ones([m.c.heads, valueWidth(m)])) }), value: ({ own }) => own.inner_gain },
}
const innerBias: Ingredient = {
  make: (m) => ({ inner_bias: parameter(zeros([m.c.heads, valueWidth(m)])) }),
  value: ({ own }) => own.inner_bias,
}

/** Where a name means something else than in the other rules. */
const special: Partial<Record<RuleName, Record<string, Ingredient>>> = {
  /** p is the key, scaled by sigmoid(d_h) (Hu 2025). */
  comba: {
    p: {
      make: ({ c }) => ({ reading: parameter(ones([c.heads])) }),
      value: ({ k, own }) => mul(k, beside(sigmoid(own.reading))),
    },
    q: {
      make: ({ c }) => ({ correction: parameter(ones([c.heads])) }),
      value: ({ q, own, of }) => corrected(q, own.correction, of('p')),
    },
  },
  /**
   * As flash-linear-attention's layer: eta = 1 + tanh(x / sqrt(D)), and an angle atan(eta F_h) of which the cosine's square is what remains beside the gate and
   * the sine's the strength. The memory is read after it decays.
   */
  'delta-momentum': {
    eta: {
      make: (m) => ({ eta: perHead(m) }),
      value: ({ c, own, x }) => affine(tanh(affine(own.eta.forward(x), 1 / Math.sqrt(c.dModel))), 1, 1),
    },
    gate: {
      make: (m) => ({ gate: gateOf(m, undefined), turn_log: logUniform(m, 4) }),
      value: (u) => sub(u.own.gate.forward(u.x), log(affine(tangentSquared(u), 1, 1))),
    },
    beta: {
      make: strengthOf,
      value: (u) => {
        const t = tangentSquared(u)
        return mul(strength(u), div(t, affine(t, 1, 1)))
      },
    },
    gateM: {
      make: ({ c, g }) => ({ momentum: new gates.softplus({ dModel: c.dModel, heads: c.heads, width: null }, g) }),
      value: ({ own, x }) => maximum(own.momentum.forward(x), -2),
    },
    p: { value: ({ k, of }) => mul(k, beside(exp(of('gate')))) },
    q: {
      make: (m) => ({ correction_log: logUniform(m, 1) }),
      value: ({ q, k, own }) => corrected(q, exp(own.correction_log), k),
    },
  },
  'delta-product': {
    beta: {
      make: strengthOf,
      value: (u) => {
        const [B, T] = u.x.shape
        return reshape(strength(u), [B, T, u.c.stepsPerToken, u.c.heads])
      },
    },
  },
  hgrn: { x: { value: (u) => mul(u.v, letGo(u)) } },
  gsa: { write: { value: letGo } },
  lightnet: { k: { value: ({ rawKeys }) => rawKeys } },
  rwkv4: {
    k: { value: ({ rawKeys }) => rawKeys },
    decay: channelDecay(-5, 3, valueWidth),
    bonus: bonus(Math.log(0.3), valueWidth),
  },
  rwkv5: { decay: channelDecay(-6, -1, ({ K }) => K), bonus: bonus(0.5, ({ K }) => K) },
  rwkv6: { bonus: bonus(0.5, ({ K }) => K) },
  ttt: { eta: innerRate, b: innerBias },
  titans: {
    theta: innerRate,
    /** A memory of 50 tokens at first. */
    alpha: {
      make: (m) => ({ forgetting: perHead(m), forgetting_bias: parameter(full([m.c.heads], -4)) }),
      value: ({ own, x }) => sigmoid(add(own.forgetting.forward(x), own.forgetting_bias)),
    },
    eta: rate('momentum'),
    b: innerBias,
  },
}

/**
 * The standard deviation of the matrices that memories begin as: through a memory of zeros the layer norm of the inner loss divides by sqrt(eps), and the
 * first step is so large that nothing after it counts. TTT learns its first matrix as well.
 */
const starts: Partial<Record<RuleName, number>> = { ttt: 0.2, titans: 0.1 }

const rowsOf = (rule: RuleName): Record<string, Ingredient> => {
  const all: Record<string, Ingredient> = { ...common, ...special[rule] }
  return Object.fromEntries(Object.entries(all).filter(([name]) => name in (rules[rule] as Rule).inputs))
}

/** The rules that a layer can feed. */
export const layerRules = namesOf(rules).filter((rule) => Object.keys(rules[rule].inputs).every((name) => name in rowsOf(rule)))

/** The parameters of a rule's ingredients, by the property of the layer that they become, drawn in the order of the table. */
export function makeIngredients(m: Making): Record<string, Module | Module[] | Tensor> {
  const made: Record<string, Module | Module[] | Tensor> = {}
  for (const row of Object.values(rowsOf(m.c.rule))) adopt(made, row.make?.(m) ?? {})
  const std = starts[m.c.rule]
  const V = valueWidth(m)
  if (std !== undefined) adopt(made, { inner_start: parameter(normal(m.g, [m.c.heads, V, V], 0, std)) })
  return made
}

/** Takes these in as properties; throws rather than overwrite one, but for the `open` ones, which are there to be set. */
export function adopt(owner: object, properties: Readonly<Record<string, unknown>>, open: readonly string[] = []): void {
  for (const [name, value] of Object.entries(properties)) {
    if (name in owner && !open.includes(name)) throw new Error(`an ingredient can't be called ${name}: there is a property of that name`)
    Object.assign(owner, { [name]: value })
  }
}

/** Everything that the rule takes, by name. */
export function ingredientsOf(given: Omit<Using, 'of'>): Record<string, Tensor> {
  const rows = rowsOf(given.c.rule)
  const made: Record<string, Tensor> = {}
  const of = (name: string): Tensor => (made[name] ??= rows[name].value({ ...given, of }))
  return Object.fromEntries(Object.keys(ruleOf(given.c).inputs).map((name) => [name, of(name)]))
}

// ---- settings ------------------------------------------------------------------------------------------------------------------------

export const ingredientFields: Fields<Omit<IngredientConfig, 'dModel' | 'heads'>> = {
  rule: { type: 'string', choices: layerRules, default: 'delta', description: 'how fast weights are written and forget' },
  gate: { type: 'string', choices: namesOf(gates), default: 'softplus', description: "how a rule's gate comes from the input" },
  gateRank: { type: 'string', choices: ['low', 'full'], default: 'low', description: 'gates a channel by way of few numbers, or directly' },
  gateDivisor: { type: 'number', min: 1, default: 16, description: 'what the gate logsigmoid is divided by' },
  betaRange: {
    type: 'integer',
    min: 1,
    max: 2,
    expected: '1 or 2',
    default: 1,
    description: 'write strengths end here; 2: negative eigenvalues',
  },
  stepsPerToken: { type: 'integer', min: 1, default: 1, description: 'steps of the rule delta-product' },
  headDecay: {
    type: 'string',
    noun: 'head decay',
    choices: ['retention', 'lightning'],
    default: 'retention',
    description: "decays of the rule retnet: RetNet's, or lightning attention's",
  },
  slots: { type: 'integer', min: 1, sensible: 1024, default: 16, description: 'slots M of the rules gsa and abc' },
  levels: { type: 'integer', min: 1, max: 31, default: 12, description: 'levels M of the rule log-linear' },
  innerRate: { type: 'number', min: 0, default: 1, description: 'inner learning rates of ttt and titans end at this over V' },
  minibatch: {
    type: 'integer',
    min: 1,
    sensible: 1024,
    default: 16,
    description: 'tokens of ttt and titans that learn from the same memory',
  },
}

const inputsOf = (c: { rule: RuleName }): Rule['inputs'] => ruleOf(c).inputs
/** Rules whose states don't grow for beta |k|^2 up to 2. */
const corrects = new Set<RuleName>(['delta', 'gated-delta', 'kda', 'channel-delta', 'delta-product', 'gdn2', 'iplr', 'oja', 'gated-oja'])
const gated = (c: IngredientConfig): boolean => 'gate' in inputsOf(c)
const slotted = new Set<RuleName>(['gsa', 'abc'])
const inner = new Set<RuleName>(['ttt', 'titans'])
/** Whether a rule learns by minibatches. */
export const learns = ({ rule }: { rule: RuleName }): boolean => inner.has(rule)

export const ingredientMeanings: readonly Meaning<IngredientConfig>[] = [
  ['gate', 'rules with a gate', gated],
  ['gateRank', 'rules with a gate for each channel', (c) => gated(c) && inputsOf(c).gate.shape.length === 4],
  ['gateDivisor', 'rules with a gate, and the gate logsigmoid', (c) => gated(c) && c.gate === 'logsigmoid'],
  ['betaRange', `the rules ${[...corrects].join(', ')}`, (c) => corrects.has(c.rule)],
  ['stepsPerToken', 'the rule delta-product', (c) => c.rule === 'delta-product'],
  ['headDecay', 'the rule retnet', (c) => c.rule === 'retnet'],
  ['slots', `the rules ${[...slotted].join(', ')}`, (c) => slotted.has(c.rule)],
  ['levels', 'the rule log-linear', (c) => c.rule === 'log-linear'],
  ['innerRate', `the rules ${[...inner].join(', ')}`, learns],
  ['minibatch', `the rules ${[...inner].join(', ')}`, learns],
]
