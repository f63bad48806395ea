/**
 * The live examples of the pages a rule, a net and a mixer: a short sequence of drawn numbers, what the state holds after each token, and what claims say
 * about all of them, seen on this one. On the reference, in float64.
 */
import {
  add,
  div,
  exp,
  type FastWeightState,
  type Form,
  generator,
  initialState,
  l2Norm,
  log,
  mul,
  type NetName,
  type NetState,
  nets,
  normal,
  type Rule,
  type RuleName,
  reshape,
  rules,
  runNet,
  runSteps,
  type Shape,
  sigmoid,
  slice,
  sum,
  type Tensor,
  uniform,
  type ValueKind,
} from 'fastweights'
import { type MixerName, type SequenceLayer, Transformer } from 'fastweights/nn'
import { compare, type Grid } from './checks.ts'

/** Tokens, and the other letters of shapes. */
const T = 8
const sizes = { B: 1, T, H: 1, K: 4, V: 4, N: 2, M: 4 } as const
/** Of a mixer's model. */
const D = 8

export interface Example {
  tokens: number
  /** Parts of the state before the first token and after each, by name. */
  parts: Record<string, Grid[]>
  /** What is read, [T,V]; of a mixer, how far each output moves with each input, [T,T]. */
  y: Grid
  /** What two ways of computing y differ by, beside the largest number. */
  agreements: { what: string; error: number }[]
}

const drawn: Record<ValueKind, (g: ReturnType<typeof generator>, shape: Shape) => Tensor> = {
  any: normal,
  key: (g, shape) => l2Norm(normal(g, shape), 0),
  'unit key': (g, shape) => l2Norm(normal(g, shape), 0),
  feature: (g, shape) => {
    const x = add(uniform(g, shape), 0.1)
    return div(x, sum(x, { axis: -1, keepDim: true }))
  },
  rate: (g, shape) => sigmoid(normal(g, shape)),
  gate: (g, shape) => log(sigmoid(add(normal(g, shape), 2))),
  positive: (g, shape) => exp(normal(g, shape)),
}

/** As a matrix: the last axis in columns. */
const grid = async (x: Tensor): Promise<Grid> => {
  const columns = x.shape.at(-1) ?? 1
  return { shape: [x.size / columns, columns], values: Array.from(await x.read()) }
}

/** How far y is from the one that it should equal. */
const differ = (y: Grid, expected: Grid): number => compare(y, expected, 0).error

async function ruleExample(name: RuleName, seed: number): Promise<Example> {
  const rule: Rule = rules[name]
  const g = generator(seed)
  const inputs = Object.fromEntries(
    Object.entries(rule.inputs).map(([input, { shape, values }]) => [
      input,
      drawn[values](
        g,
        shape.map((letter) => sizes[letter]),
      ),
    ]),
  )
  const parts: Record<string, Grid[]> = Object.fromEntries(Object.keys(rule.state).map((part) => [part, []]))
  const note = async (state: FastWeightState): Promise<void> => {
    for (const [part, kept] of Object.entries(parts)) kept.push(await grid(state[part as 'S']!))
  }
  let state = initialState(rule, sizes)
  await note(state)
  for (let t = 0; t < T; t++) {
    const token = Object.fromEntries(
      Object.entries(inputs).map(([input, x]) => {
        const axis = rule.inputs[input].shape.indexOf('T')
        return [input, axis < 0 ? x : slice(x, axis, t, t + 1)]
      }),
    )
    state = runSteps(rule, token, state).state
    await note(state)
  }
  const steps = await grid(runSteps(rule, inputs).y)
  const agreements = []
  for (const form of rule.forms)
    agreements.push({
      what: `${form} = step`,
      error: differ(await grid(rule.run(inputs, undefined, { form: form as Form, chunk: 3 }).y), steps),
    })
  return { tokens: T, parts, y: steps, agreements }
}

async function netExample(name: NetName, seed: number): Promise<Example> {
  const net = nets[name].build(4)
  const g = generator(seed)
  const x = normal(g, [1, T, 1, net.I])
  const parameters = Object.fromEntries(Object.entries(net.parameters).map(([p, shape]) => [p, mul(normal(g, [1, ...shape]), 0.5)]))
  const parts: Record<string, Grid[]> = Object.fromEntries(Object.keys(net.state).map((part) => [part, []]))
  let state: NetState | undefined
  for (let t = 0; t < T; t++) {
    state = runNet(net, slice(x, 1, t, t + 1), { parameters, state, form: 'step' }).state
    for (const [part, kept] of Object.entries(parts)) kept.push(await grid(state[part]))
  }
  // A fresh state is zeros.
  for (const kept of Object.values(parts)) kept.unshift({ shape: kept[0].shape, values: kept[0].values.map(() => 0) })
  const steps = await grid(runNet(net, x, { parameters, form: 'step' }).y)
  const fused = await grid(runNet(net, x, { parameters }).y)
  return { tokens: T, parts, y: steps, agreements: [{ what: 'fused = step', error: differ(fused, steps) }] }
}

async function mixerExample(kind: MixerName, seed: number): Promise<Example> {
  const model = new Transformer({ symbols: 2, dModel: D, heads: 2, layers: 1, dFf: D, mixer: { kind } }, seed).eval() as Transformer
  const layer: SequenceLayer = model.transformer.layers[0].attn
  const x = normal(generator(seed), [1, T, D])
  x.requiresGrad = true
  const weights = normal(generator(seed + 1), [1, 1, D])
  const map: number[] = []
  for (let t = 0; t < T; t++) {
    x.grad?.dispose()
    x.grad = null
    sum(mul(slice(layer.forward(x).y, 1, t, t + 1), weights)).backward()
    const moved = await x.grad!.read()
    for (let s = 0; s < T; s++) map.push(Math.hypot(...moved.slice(s * D, (s + 1) * D)))
  }
  const whole = await grid(reshape(layer.forward(x).y, [T, D]))
  const first = layer.forward(slice(x, 1, 0, 3))
  const rest = layer.forward(slice(x, 1, 3, T), first.state)
  const pieces = [...(await grid(first.y)).values, ...(await grid(rest.y)).values]
  const later = Math.max(0, ...map.filter((_, i) => i % T > Math.floor(i / T)))
  return {
    tokens: T,
    parts: {},
    y: { shape: [T, T], values: map },
    agreements: [
      { what: 'in pieces = as a whole', error: differ({ ...whole, values: pieces }, whole) },
      { what: 'what a later token changes', error: later },
    ],
  }
}

/** 'rule delta', 'net srwm', 'mixer softmax'. */
export function runExample(name: string, seed: number): Promise<Example> {
  const [kind, which] = name.split(' ')
  if (kind === 'rule') return ruleExample(which as RuleName, seed)
  if (kind === 'net') return netExample(which as NetName, seed)
  return mixerExample(which as MixerName, seed)
}
