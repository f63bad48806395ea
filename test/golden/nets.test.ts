/**
 * The authors' own recurrent nets, reproduced: layers, blocks and small models of IDSIA's repositories, made by their CUDA kernels in float64.
 * The figures are in ../shared/golden/idsia; what each file holds is in its metadata. Their layout is [T,B,...], ours [B,T,...].
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import {
  add,
  affine,
  concat,
  type Device,
  deltaLstm,
  deltaRnn,
  deltaRule,
  detach,
  elu,
  gather,
  layerNorm,
  lstm,
  matmul,
  mul,
  type Net,
  permute,
  recurrentDeltaNet,
  relu,
  reshape,
  runNet,
  scope,
  selfModifyingProgrammer,
  selfReferential,
  sigmoid,
  slice,
  split,
  sum,
  sumNorm,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import { readSafetensors, type StateDict } from '../../nn/index.ts'
import { builds, reference, wasm, webgpu } from '../helpers.ts'

const folder = new URL('../../../../shared/golden/idsia/', import.meta.url)
const files = existsSync(folder) ? readdirSync(folder).filter((name) => /rnn|lstm|rdn|srwm/.test(name)) : []

type Tensors = Record<string, Tensor>
type State = Tensors

/** A layer as the file has it: its parameters and options by their names. */
interface Layer {
  p: Tensors
  options: Record<string, any>
}

const under = (tensors: Tensors, prefix: string): Tensors =>
  Object.fromEntries(Object.entries(tensors).flatMap(([name, t]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), t]] : [])))

const linear = (x: Tensor, p: Tensors, name: string): Tensor =>
  matmul(x, p[`${name}.weight`], { transposeB: true, bias: p[`${name}.bias`] })
const norm = (x: Tensor, p: Tensors, name = 'layer_norm'): Tensor => layerNorm(x, p[`${name}.weight`], p[`${name}.bias`])
/** [B,T,H n] to [B,T,H,n], and back. */
const heads = (x: Tensor, H: number): Tensor => reshape(x, [...x.shape.slice(0, 2), H, x.shape[2] / H])
const merge = (x: Tensor): Tensor => reshape(x, [...x.shape.slice(0, 2), x.shape[2] * x.shape[3]])
const feedForward = (x: Tensor, p: Tensors, names: string): Tensor => linear(relu(linear(x, p, `${names}.0`)), p, `${names}.3`)

interface Result {
  y: Tensor
  state?: State
}

// ---- nets: from what a token's slow projection gives, head by head --------------------------------------------------------------------

/** The authors' names of the state's parts, and ours. */
const parts: Record<string, string> = { h: 'h', c: 'c', z: 'key_sum', W: 'fast_weights', R: 'rec_fast_weights', F: 'fast' }
const theirs = (name: string): string => {
  const [part, gate] = name.split('_')
  return (parts[part] ?? name) + (gate && parts[part] ? `_${gate}` : '')
}
const stateOf = (net: Net, state: State): State =>
  Object.fromEntries(
    Object.entries(net.state).map(([name, { shape }]) => {
      const t = state[theirs(name)]
      return [name, reshape(t, [...t.shape.slice(0, 2), ...shape])]
    }),
  )

function run(net: Net, x: Tensor, state: State | undefined, parameters: Tensors = {}): Result {
  const { y, state: last } = runNet(net, x, { parameters, ...(state && { state: stateOf(net, state) }) })
  return { y, state: Object.fromEntries(Object.entries(last).map(([name, t]) => [theirs(name), t])) }
}

const recurrentDelta = (x: Tensor, d: number, { p }: Layer, state?: State): Result => {
  const ofHeads = (t: Tensor): Tensor => reshape(t, t.shape[2] === 1 ? [t.shape[1], t.shape[3]] : t.shape.slice(1))
  const parameters = { R_q: ofHeads(p.R_q), R_k: ofHeads(p.R_k), R_v: ofHeads(p.R_v), r_beta: ofHeads(p.r_b) }
  return run(recurrentDeltaNet({ K: d, V: d }), x, state, parameters)
}

/** An LSTM in the place of the slow projection, a delta net behind it. */
function slowLstm(x: Tensor, H: number, d: number, { p }: Layer, state?: State): Result {
  const D = H * (3 * d + 1)
  const weights = under(p, 'slow_net.')
  const bias = add(weights.bias_ih_l0, weights.bias_hh_l0)
  const given = matmul(x, weights.weight_ih_l0, { transposeB: true, bias })
  const R = reshape(permute(weights.weight_hh_l0, [1, 0]), [1, D, 4 * D])
  const [B, T] = x.shape
  const slow = state && { h: reshape(state.slow_h, [B, 1, D]), c: reshape(state.slow_c, [B, 1, D]) }
  const { y, state: last } = runNet(lstm({ D }), reshape(given, [B, T, 1, 4 * D]), { parameters: { R }, ...(slow && { state: slow }) })
  const [q, k, v, beta] = split(reshape(y, [B, T, H, 3 * d + 1]), -1, [d, d, d, 1])
  const [query, key] = [q, k].map((t) => sumNorm(add(elu(t), 1), 0))
  const net = deltaRule(query, key, v, sigmoid(reshape(beta, [B, T, H])), state && { S: state.fast_weights })
  return { y: net.y, state: { fast_weights: net.state.S, slow_h: last.h, slow_c: last.c } }
}

/** Of the language model's types: net and whether its output is scaled by 1 / sqrt(d). */
const types: Record<number, (x: Tensor, H: number, d: number, layer: Layer, state?: State) => Result> = {
  124: (x, _, d, { options }, state) => run(deltaRnn({ K: d, V: d, version: 1, normalise: normaliser(options) }), x, state),
  134: (x, _, d, { options }, state) => run(deltaRnn({ K: d, V: d, normalise: normaliser(options) }), x, state),
  224: (x, _, d, __, state) => run(deltaLstm({ K: d, V: d, version: 1 }), x, state),
  234: (x, _, d, __, state) => run(deltaLstm({ K: d, V: d, version: 2 }), x, state),
  244: (x, _, d, __, state) => run(deltaLstm({ K: d, V: d, version: 3 }), x, state),
  254: (x, _, d, __, state) => run(deltaLstm({ K: d, V: d, version: 4 }), x, state),
  324: slowLstm,
  934: (x, _, d, layer, state) => recurrentDelta(x, d, layer, state),
}
/** Attention normalisation is on unless it's switched off. */
const normaliser = (options: Layer['options']): number | undefined => (options.skip_attn_normalization ? undefined : 1e-5)

const algorithmic: Record<string, (x: Tensor, H: number, d: number, layer: Layer, state?: State) => Result> = {
  FastRNN: (x, _, d, __, state) => run(deltaRnn({ K: d, V: d }), x, state),
  FastRNNSoftmax: (x, _, d, __, state) => run(deltaRnn({ K: d, V: d, features: 'softmax' }), x, state),
  RecUpdateTanh: (x, _, d, layer, state) => recurrentDelta(x, d, layer, state),
  FastFFslowRNN: slowLstm,
}

// ---- shells ---------------------------------------------------------------------------------------------------------------------------

/** y = x + out_linear(net(slow_net(LN(x)))). */
function algorithmicLayer(net: string, x: Tensor, layer: Layer, state?: State): Result {
  const { p, options } = layer
  const [H, d] = [options.num_head, options.dim_head]
  const h = norm(x, p)
  const given = net === 'FastFFslowRNN' ? h : heads(linear(h, p, 'slow_net'), H)
  const { y, state: last } = algorithmic[net](given, H, d, layer, state)
  return { y: add(x, linear(merge(y), p, 'out_linear')), state: last }
}

function algorithmicModel(net: string, tokens: Tensor, { p, options }: Layer): Tensor {
  let h = gather(p['embedding.weight'], tokens)
  for (let i = 0; i < options.num_layers; i++) {
    h = algorithmicLayer(net, h, { p: under(p, `layers.${2 * i}.`), options }).y
    const ff = under(p, `layers.${2 * i + 1}.`)
    h = add(h, feedForward(norm(h, ff), ff, 'ff_layers'))
  }
  return linear(h, p, 'out_layer')
}

/** Post-norm: LN(x + o_net(net(x))). pre_lnorm: the residual is the normalised x. */
function languageLayer(x: Tensor, layer: Layer, state?: State): Result {
  const { p, options } = layer
  const [H, d] = [options.n_head, options.d_head]
  const h = options.pre_lnorm ? norm(x, p) : x
  const projection = ['qkvb_net', 'qkv_net', 'slow_net'].find((name) => `${name}.weight` in p)
  const given = projection ? heads(linear(h, p, projection), H) : h
  const { y, state: last } = types[options.attn_type](given, H, d, layer, state)
  const read = merge(options.attn_type === 124 || options.attn_type === 224 ? y : affine(y, 1 / Math.sqrt(d)))
  const out = ['o_net', 'out_proj'].find((name) => `${name}.weight` in p)
  const sum = add(h, out ? linear(read, p, out) : read)
  return { y: options.pre_lnorm ? sum : norm(sum, p), state: last }
}

function languageBlock(x: Tensor, { p, options }: Layer): Tensor {
  const { y } = languageLayer(x, { p: under(p, 'dec_attn.'), options })
  const ff = under(p, 'pos_ff.')
  return options.pre_lnorm ? add(y, feedForward(norm(y, ff), ff, 'CoreNet')) : norm(add(y, feedForward(y, ff, 'CoreNet')), ff)
}

/** Self-referential weights of the heads of a layer. */
function selfReferentialLayer(x: Tensor, { p, options }: Layer, state: State | undefined, kind: string): Result {
  const [H, d] = [options.num_head, options.dim_head]
  const inputSoftmax = kind !== 'supervised' || options.use_input_softmax
  const net = (kind === 'smfwp' ? selfModifyingProgrammer : selfReferential)({ D: d, inputSoftmax })
  const ours: Record<string, string> = { Wy: 'W_y', Wq: 'W_q', Wk: 'W_k', wb: 'w_b', F: 'fast' }
  const parameters = Object.fromEntries(
    Object.keys(net.parameters).map((name) => [name, reshape(p[ours[name]], p[ours[name]].shape.slice(1))]),
  )
  const initial = state && Object.fromEntries(Object.keys(net.state).map((name) => [name, state[ours[name]]]))
  const { y, state: last } = runNet(net, heads(x, H), { parameters, ...(initial && { state: initial }) })
  const residual = kind === 'supervised' && options.use_ln ? norm(x, p) : x
  return {
    y: add(residual, linear(merge(y), p, 'out_linear')),
    state: Object.fromEntries(Object.entries(last).map(([name, t]) => [ours[name], t])),
  }
}

/** A file by its class: y, other results by name, and states. x is [B,T,D]. */
interface Outcome {
  y: Tensor
  others?: Tensors
  mid?: State
  out?: State
}

function reproduce(metadata: Record<string, string>, x: Tensor, p: Tensors, state: State | undefined): Outcome {
  const options = JSON.parse(metadata.options)
  const layer = { p, options }
  const name = metadata.class
  if (metadata.kind?.startsWith('srwm')) return selfReferentialNet(metadata.kind, x, layer, state)
  if (name === 'DecoderLayer') return { y: languageBlock(x, layer) }
  if (name.startsWith('Cuda')) {
    const { y, state: out } = languageLayer(x, layer, state)
    return { y, out }
  }
  const softmaxed = metadata.file.startsWith('reinforcement')
  const net = name.replace(/(FastFF|)(layer|Model)$/, '').replace('RecDeltaNet', 'RecUpdateTanh')
  if (name.endsWith('Model')) return { y: algorithmicModel(net, x, layer) }
  const kind = name === 'FastFFslowRNNlayer' ? 'FastFFslowRNN' : net === 'FastRNN' && softmaxed ? 'FastRNNSoftmax' : net
  const { y, state: out } = algorithmicLayer(kind, x, layer, state)
  return { y, out }
}

function selfReferentialNet(kind: string, x: Tensor, { p, options }: Layer, state: State | undefined): Outcome {
  const supervised = !('input_dim' in options)
  const at = supervised ? 'srwm.' : 'fwm_layers.0.'
  const ff = under(p, supervised ? 'ff.' : 'ff_layers.0.')
  const which = supervised ? 'supervised' : kind === 'srwm_smfwp' ? 'smfwp' : 'reinforcement'
  const h = supervised ? x : linear(x, p, 'input_proj')
  const T = x.shape[1]
  const cut = options.first_segment ?? T
  const pieces = [slice(h, 1, 0, cut), ...(cut < T ? [slice(h, 1, cut, T)] : [])]
  const states: State[] = []
  let carried = state
  const ys = pieces.map((piece) => {
    const { y, state: last } = selfReferentialLayer(piece, { p: under(p, at), options }, carried, which)
    states.push(last!)
    carried = supervised ? last : Object.fromEntries(Object.entries(last!).map(([name, t]) => [name, detach(t)]))
    return y
  })
  const y = concat(ys, 1)
  const all = add(y, feedForward(norm(y, ff), ff, 'ff_layers'))
  return { y: all, others: { y_srwm: y }, ...(state && { mid: states[0], out: states.at(-1) }) }
}

// ---- comparison -----------------------------------------------------------------------------------------------------------------------

type Values = Record<string, ArrayLike<number>>

/** Everything that a file has figures of, as computed here. */
async function compute(metadata: Record<string, string>, entries: StateDict, device: Device): Promise<Values> {
  const made = scope(() => {
    const leaf = (name: string): Tensor => {
      const { shape, data } = entries.get(name)!
      return tensor(Float64Array.from(data as Float32Array), { shape, device, requiresGrad: true })
    }
    const batchFirst = metadata.layout.includes('batch first')
    const turn = (t: Tensor): Tensor => (batchFirst ? t : permute(t, [1, 0, 2]))
    const named = (prefix: string): Tensors =>
      Object.fromEntries([...entries.keys()].flatMap((name) => (name.startsWith(prefix) ? [[name.slice(prefix.length), leaf(name)]] : [])))
    const given = entries.get('x')!
    const tokens = batchFirst && given.shape.length === 2
    const x = tokens ? tensor(Int32Array.from(given.data as never), { shape: given.shape, device }) : leaf('x')
    const p = named('param.')
    const state = named('state.in.')
    const carried = Object.keys(state).length > 0
    const { y, others = {}, mid = {}, out = {} } = reproduce(metadata, tokens ? x : turn(x), p, carried ? state : undefined)
    const result = turn(y)
    sum(mul(result, leaf('dy'))).backward()
    const all = (of: Tensors, prefix: string): Tensors => Object.fromEntries(Object.entries(of).map(([name, t]) => [prefix + name, t]))
    const gradients = (of: Tensors, prefix: string): Tensors =>
      Object.fromEntries(Object.entries(of).flatMap(([name, t]) => (t.grad ? [[prefix + name, t.grad]] : [])))
    const turned = Object.fromEntries(Object.entries(others).map(([name, t]) => [name, turn(t)]))
    return {
      y: result,
      ...turned,
      ...all(mid, 'state.mid.'),
      ...all(out, 'state.out.'),
      ...(x.grad && { dx: x.grad }),
      ...gradients(p, 'grad.'),
      ...gradients(state, 'dstate.in.'),
    }
  })
  const read = await Promise.all(Object.entries(made).map(async ([name, t]) => [name, await t.read()] as const))
  for (const t of Object.values(made)) t.dispose()
  return Object.fromEntries(read)
}

const isGradient = (name: string): boolean => /^(dx|grad\.|dstate\.)/.test(name)
const errorOf = (actual: ArrayLike<number>, expected: ArrayLike<number>): number => {
  assert.equal(actual.length, expected.length)
  let [error, most] = [0, 0]
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs(actual[i] - expected[i]))
    most = Math.max(most, Math.abs(expected[i]))
  }
  return error / most
}

/** Outputs and states, gradients: of the largest entry. The figures are rounded to float32. */
const devices: readonly {
  name: string
  open: (test: Mocha.Context) => Promise<Device>
  bounds: readonly [number, number]
  which: RegExp
}[] = [
  { name: 'reference', open: async () => reference, bounds: [1e-6, 1e-5], which: /./ },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(1, relaxed), bounds: [2e-5, 1e-4] as const, which: /./ })),
  // A GPU computed by the CPU: one file of each net.
  { name: 'webgpu', open: webgpu, bounds: [2e-5, 1e-4], which: /alg_rdn|rl_delta_rnn|lstm_v4_carry|srwm_(stateful|smfwp)/ },
]

if (files.length === 0)
  describe("IDSIA's recurrent nets", () => {
    it('skipped: ../shared/golden/idsia is absent', function () {
      this.skip()
    })
  })
else
  for (const { name, open, bounds, which } of devices)
    describe(`IDSIA's recurrent nets on ${name}`, () => {
      const worst = { output: 0, gradient: 0 }
      after(() => {
        const [output, gradient] = [worst.output, worst.gradient].map((error) => error.toExponential(1))
        console.log(`      ${name}: outputs and states differ by ${output} of the largest entry, gradients by ${gradient}`)
      })
      for (const file of files.filter((file) => which.test(file)))
        it(file, async function () {
          const device = await open(this)
          const { metadata, tensors } = readSafetensors(readFileSync(new URL(file, folder)))
          const actual = await compute(metadata, tensors, device)
          const expected = [...tensors].filter(([name]) => /^(y|dx$|grad\.|state\.(mid|out)|dstate)/.test(name))
          assert.ok(expected.length > 0, 'nothing to compare')
          for (const [name, { data }] of expected) {
            assert.ok(name in actual, `no ${name} here`)
            const error = errorOf(actual[name], data as Float32Array)
            const kind = isGradient(name) ? 'gradient' : 'output'
            worst[kind] = Math.max(worst[kind], error)
            const bound = bounds[Number(kind === 'gradient')]
            assert.ok(error <= bound, `${name} differs by ${error.toExponential(1)} of the largest entry, bound ${bound}`)
          }
        })
    })
