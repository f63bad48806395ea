/**
 * Layers, blocks and small models of IDSIA's repositories and of the synthetic retrieval experiments, loaded by their names: `param.*`, `x`, `y`, a
 * cotangent `dy` and gradients, states before, between and after segments; or keys, values, a query, losses and two steps of Adam. What a file holds is
 * in its metadata.
 */
import {
  add,
  affine,
  concat,
  type Device,
  detach,
  gather,
  mul,
  ones,
  permute,
  scope,
  slice,
  square,
  sub,
  sum,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import { Adam, loadOutside, type Module, type OutsideModule, type StateDict, type StateDictEntry } from '../../nn/index.ts'
import type { Compared, Kind, Quantity, Safetensors } from './figures.ts'

type Tensors = Record<string, Tensor>

const repositories = ['IDSIA/recurrent-fwp', 'IDSIA/lmtool-fwp', 'IDSIA/modern-srwm', 'ischlag/fast-weight-transformers'] as const
type Repository = (typeof repositories)[number]

const repositoryOf = ({ metadata }: Safetensors): Repository | undefined =>
  repositories.find((name) => metadata.repository?.replace(/^https:\/\/github\.com\//, '').split(' ')[0] === name)

/** What options say of the figures and not of the class. */
const ofFigures = new Set(['batch', 'length', 'first_segment', 'mean_of_w_b_here', 'replace'])

const under = (entries: StateDict, prefix: string): Map<string, StateDictEntry> =>
  new Map([...entries].flatMap(([name, entry]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), entry]] : [])))

const optionsOf = ({ metadata }: Safetensors): Record<string, any> =>
  Object.fromEntries(
    Object.entries(JSON.parse(metadata.options) as Record<string, unknown>).filter(
      ([name, value]) => value !== null && !ofFigures.has(name),
    ),
  )

/** What a file is of: modules, each of which reads what the one before gives, and the prefix of their parameters. */
interface Part {
  prefix: string
  module: OutsideModule
}

function partsOf(file: Safetensors): Part[] {
  const { metadata, tensors } = file
  const repository = repositoryOf(file)!
  const options = optionsOf(file)
  const entries = under(tensors, 'param.')
  for (const name of ['proj_matrix', 'omega']) {
    const entry = tensors.get(name)
    if (entry) entries.set(name, entry)
  }
  const load = (name: string, given: object, prefix = ''): Part => ({
    prefix,
    module: loadOutside({ repository, class: name, options: given }, under(entries, prefix)) as OutsideModule,
  })
  const { num_head, dim_head, use_ln, use_input_softmax } = options
  switch (metadata.kind) {
    case 'lm':
      return [load('DecoderLayer', { ...options, attn_type: Number(metadata.attn_type) })]
    case 'srwm_supervised':
    case 'srwm_stateful':
      return [
        load('SRWMlayer', { num_head, dim_head, use_ln, use_input_softmax }, 'srwm.'),
        load('TransformerFFlayers', { ff_dim: options.dim_ff }, 'ff.'),
      ]
    case 'srwm_rl':
      return [load('SRNetLayer', options)]
    case 'srwm_smfwp':
      return [load('SMFWPNetLayer', options)]
    case 'retrieval': {
      const { rule, feature_map, arg } = metadata
      if (rule === 'softmax') return [load('SoftmaxAttentionModel', options)]
      return [load('PrefixSumLinearAttentionModel', { ...options, update_rule: rule, attention_type: feature_map, arg: Number(arg) })]
    }
  }
  return [load((metadata.file.startsWith('reinforcement') ? 'torchbeast.' : '') + metadata.class, options)]
}

const quantityOf = (name: string): Quantity | undefined => {
  if (/^(y|y_attn|y_srwm|adam\.param\..*)$/.test(name)) return 'output'
  if (/^(loss|adam\.loss)$/.test(name)) return 'loss'
  if (/^state\.(mid|out)\./.test(name)) return 'state'
  return /^(dx|grad\..*|dstate\..*)$/.test(name) ? 'gradient' : undefined
}

/** Everything that was computed, by the figures' names, and what should be none beside it. */
function compute(file: Safetensors, device: Device): Tensors {
  return file.metadata.kind === 'retrieval' ? computeRetrieval(file, device) : computeLayer(file, device)
}

const parametersOf = (parts: readonly Part[]): [string, Tensor][] =>
  parts.flatMap(({ prefix, module }) => [...module.namedParameters()].map(([name, p]): [string, Tensor] => [prefix + name, p]))

function withGradients(file: Safetensors, parts: readonly Part[], results: Tensors): Tensors {
  const none: string[] = JSON.parse(file.metadata.no_gradient ?? '[]')
  for (const [name, p] of parametersOf(parts)) {
    if (p.grad && none.includes(name)) throw new Error(`${name} has a gradient here, and none there`)
    if (p.grad) results[`grad.${name}`] = p.grad
  }
  return results
}

function computeLayer(file: Safetensors, device: Device): Tensors {
  const { metadata, tensors } = file
  const leaf = (entry: StateDictEntry): Tensor =>
    tensor(Float64Array.from(entry.data, Number), { shape: [...entry.shape], device, requiresGrad: true })
  const batchFirst = metadata.layout.includes('batch first')
  const turn = (t: Tensor): Tensor => (batchFirst ? t : permute(t, [1, 0, 2]))
  const parts = partsOf(file)
  const [first, ...rest] = parts
  const given = tensors.get('x')!
  const tokens = given.shape.length === 2
  const x = tokens ? tensor(Int32Array.from(given.data, Number), { shape: [...given.shape], device }) : leaf(given)
  const begin = under(tensors, 'state.in.')
  const before = begin.size > 0 ? first.module.stateFrom(begin) : undefined
  for (const t of Object.values(before ?? {})) t.requiresGrad = true

  const results: Tensors = {}
  const segments: number[] = metadata.segments ? JSON.parse(metadata.segments) : [given.shape[batchFirst ? 1 : 0]]
  const flows = metadata.kind === 'srwm_stateful'
  const inner = (tokens ? undefined : innerOf(first.module)) ?? first.module
  const [ys, inside]: [Tensor[], Tensor[]] = [[], []]
  let state = before
  let at = 0
  segments.forEach((length, i) => {
    const piece = segments.length === 1 ? (tokens ? x : turn(x)) : slice(turn(x), 1, at, at + length)
    at += length
    const read = inner.forward(piece, state && { state })
    const after = inner === first.module ? read.y : first.module.forward(piece, state && { state }).y
    ys.push(rest.reduce((y, { module }) => module.forward(y).y, after))
    inside.push(read.y)
    const name = i < segments.length - 1 ? 'state.mid.' : 'state.out.'
    for (const [part, t] of Object.entries(first.module.stateTo(read.state as Tensors))) results[name + part] = t
    state = flows ? (read.state as Tensors) : Object.fromEntries(Object.entries(read.state).map(([part, t]) => [part, detach(t)]))
  })
  const whole = (pieces: Tensor[]): Tensor => turn(pieces.length === 1 ? pieces[0] : concat(pieces, 1))
  results.y = whole(ys)
  results.y_attn = whole(inside)
  results.y_srwm = results.y_attn
  sum(mul(results.y, leaf(tensors.get('dy')!))).backward()
  if (x.grad) results.dx = x.grad
  const starts = Object.entries(before ?? {}).filter(([, t]) => t.grad)
  if (starts.length > 0) {
    const gradients = first.module.stateTo(Object.fromEntries(Object.entries(before!).map(([name, t]) => [name, t.grad ?? t])))
    for (const [name, t] of Object.entries(gradients)) results[`dstate.in.${name}`] = t
  }
  return withGradients(file, parts, results)
}

/** The part of a decoder layer before its feed-forward one. */
const innerOf = (module: Module): OutsideModule | undefined => (module as { dec_attn?: OutsideModule }).dec_attn

function computeRetrieval(file: Safetensors, device: Device): Tensors {
  const { metadata, tensors } = file
  const int = (name: string): Tensor => {
    const { shape, data } = tensors.get(name)!
    return tensor(Int32Array.from(data, Number), { shape: [...shape], device })
  }
  const parts = partsOf(file)
  const model = parts[0].module as unknown as OutsideModule<Record<string, Tensor>>
  const input = { keys: int('keys'), values: int('values'), query: int('query') }
  const [B] = input.keys.shape
  const S: number = JSON.parse(metadata.options).n_values
  const wanted = Int32Array.from(int('target').indices!, (id) => (id >= S ? id - S : id))
  const identity = tensor(
    Float64Array.from({ length: S * S }, (_, i) => Number(i % (S + 1) === 0)),
    { shape: [S, S], device },
  )
  const target = gather(identity, tensor(wanted, { shape: [B], device }))
  const run = (): { y: Tensor; loss: Tensor } => {
    const { y } = model.forward(input)
    return { y, loss: affine(sum(square(sub(y, target))), 0.5 / B) }
  }
  const { y, loss } = run()
  loss.backward()
  const results = withGradients(file, parts, { y, loss })
  for (const [name, t] of Object.entries(results)) if (name.startsWith('grad.')) results[name] = affine(t, 1)
  const losses = [loss]
  const optimizer = new Adam(model.namedParameters(), { lr: 1e-3 })
  for (let step = 0; step < 2; step++) {
    optimizer.step()
    optimizer.zeroGrad()
    const again = run()
    losses.push(again.loss)
    again.loss.backward()
  }
  results['adam.loss'] = concat(
    losses.map((t) => add(affine(ones([1], device), 0), t)),
    0,
  )
  for (const [name, p] of model.namedParameters()) results[`adam.param.${name}`] = p
  return results
}

export const idsia: Kind = {
  name: "IDSIA's layers",
  recognises: (file) => repositoryOf(file) !== undefined,
  ways: () => ['layer'],
  async run(file, _, device) {
    const made = scope(() => compute(file, device))
    const read = Object.fromEntries(await Promise.all(Object.entries(made).map(async ([name, t]) => [name, await t.read()] as const)))
    const compared: Compared[] = []
    for (const [name, { data }] of file.tensors) {
      const quantity = quantityOf(name)
      if (quantity === undefined) continue
      if (!(name in read)) throw new Error(`nothing here gives ${name}`)
      compared.push({ quantity, name, actual: read[name], expected: data as ArrayLike<number> })
    }
    // A gradient that is 0 but for rounding, as of softmax attention's key bias, has the size of the others.
    const most = (x: ArrayLike<number | bigint>): number => Array.from(x, (e) => Math.abs(Number(e))).reduce((a, b) => Math.max(a, b), 0)
    const gradients = compared.filter(({ quantity }) => quantity === 'gradient')
    const largest = Math.max(...gradients.map(({ expected }) => most(expected)))
    for (const each of gradients) if (most(each.expected) < 1e-7 * largest) each.size = largest
    if (compared.length === 0) throw new Error('there is nothing to compare')
    return compared
  },
  bound(quantity, device, file) {
    const exact = device.name === 'reference'
    if (quantity !== 'gradient') return exact ? 1e-6 : 2e-5
    // Of the un-normalised sum net: up to 1,900.
    if (!exact && file.metadata.class === 'LinearAttentionlayer') return 1e-3
    return exact ? 1e-5 : 1e-4
  },
}
