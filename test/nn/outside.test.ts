/** Layers and models of other repositories: their state dicts, made here by their names, give what plain loops over their numbers do. */
import assert from 'node:assert/strict'
import {
  add,
  concat,
  generator,
  matmul,
  noGrad,
  reshape,
  runNet,
  scope,
  selfReferential,
  setDevice,
  slice,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import {
  type AftConfig,
  loadOutside,
  type OutsideLayout,
  type OutsideModule,
  outside,
  outsideParameters,
  RecurrentNet,
  type StateDictEntry,
} from '../../nn/index.ts'
import { assertClose, assertRms, reference, uniforms } from '../helpers.ts'
import { aftByHand, linear } from './formulas.ts'
import { rowsOf } from './layers.ts'

type Dict = Map<string, StateDictEntry & { data: Float32Array | Uint8Array }>

const sizes = { symbols: 7, D: 8, F: 12, N: 10, s: 3, layers: 2 }

const mask = (N: number, s: number) => ({
  shape: [N, N],
  data: Uint8Array.from({ length: N * N }, (_, i) => Number(Math.abs(Math.floor(i / N) - (i % N)) < s)),
})
const encodings = (length: number, D: number) => ({
  shape: [length, 1, D],
  data: Float32Array.from({ length: length * D }, (_, i) => {
    const angle = Math.floor(i / D) * Math.exp(2 * Math.floor((i % D) / 2) * -(Math.log(10000) / D))
    return i % 2 === 0 ? Math.sin(angle) : Math.cos(angle)
  }),
})

/** A state dict of labml's experiment with the attention free transformer. */
function dictOf({ symbols, D, F, N, s, layers } = sizes): Dict {
  const dict: Dict = new Map()
  const put = (name: string, ...shape: number[]) =>
    dict.set(name, {
      shape,
      data: uniforms(
        dict.size + 1,
        shape.reduce((n, d) => n * d, 1),
      ),
    })
  const both = (name: string, outputs: number, inputs: number): void => {
    put(`${name}.weight`, outputs, inputs)
    put(`${name}.bias`, outputs)
  }
  const norm = (name: string): void => {
    put(`${name}.weight`, D)
    put(`${name}.bias`, D)
  }
  put('src_embed.linear.weight', symbols, D)
  dict.set('src_embed.positional_encodings', encodings(50, D))
  for (let l = 0; l < layers; l++) {
    const layer = `encoder.layers.${l}`
    put(`${layer}.self_attn.pos_bias`, N, N)
    dict.set(`${layer}.self_attn.local_mask`, mask(N, s))
    for (const name of ['query', 'key', 'value', 'output']) both(`${layer}.self_attn.${name}`, D, D)
    both(`${layer}.feed_forward.layer1`, F, D)
    both(`${layer}.feed_forward.layer2`, D, F)
    norm(`${layer}.norm_self_attn`)
    norm(`${layer}.norm_ff`)
  }
  norm('encoder.norm')
  both('generator.projection', symbols, D)
  return dict
}

/** labml's forward pass on one sequence, by the names of its state dict. */
function byHand(dict: Dict, tokens: number[]): number[][] {
  const { D, N, s, layers } = sizes
  const get = (name: string): number[] => Array.from(dict.get(name)!.data)
  const norm = (name: string, x: number[]): number[] => {
    const mean = x.reduce((a, b) => a + b, 0) / D
    const deviation = Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / D + 1e-5)
    return x.map((a, i) => ((a - mean) / deviation) * get(`${name}.weight`)[i] + get(`${name}.bias`)[i])
  }
  const affine = (name: string, x: number[]): number[] => linear(x, get(`${name}.weight`), get(`${name}.bias`))
  const add = (a: number[], b: number[]): number[] => a.map((x, i) => x + b[i])
  const config = { dModel: D, form: 'local', tableLength: N, window: s, heads: 1, causal: true } as AftConfig
  let x = tokens.map((token, t) =>
    add(
      get('src_embed.linear.weight')
        .slice(token * D, (token + 1) * D)
        .map((e) => e * Math.sqrt(D)),
      get('src_embed.positional_encodings').slice(t * D, (t + 1) * D),
    ),
  )
  for (let l = 0; l < layers; l++) {
    const layer = `encoder.layers.${l}`
    const prefix = `${layer}.self_attn.`
    const own = Object.fromEntries(
      [...dict.keys()].filter((name) => name.startsWith(prefix)).map((name) => [name.slice(prefix.length), get(name)]),
    )
    const read = aftByHand(
      config,
      own,
      x.map((row) => norm(`${layer}.norm_self_attn`, row)),
    )
    x = x.map((row, t) => add(row, read[t]))
    const hidden = (row: number[]): number[] =>
      affine(`${layer}.feed_forward.layer1`, norm(`${layer}.norm_ff`, row)).map((h) => Math.max(h, 0))
    x = x.map((row) => add(row, affine(`${layer}.feed_forward.layer2`, hidden(row))))
  }
  return x.map((row) => affine('generator.projection', norm('encoder.norm', row)))
}

describe('modules of other repositories', () => {
  afterEach(() => setDevice(reference))
  const layout = { repository: 'labml', class: 'AutoregressiveTransformer' } as const

  it("load by their names: labml's attention free transformer is its formula", async () => {
    const dict = dictOf()
    const model = loadOutside(layout, dict)
    const tokens = [3, 0, 6, 6, 1, 2, 5, 4, 0]
    const { logits } = scope(() => noGrad(() => model.forward(tensor(tokens, { shape: [1, tokens.length], dtype: 'int32' }))))
    assertClose(await logits.read(), byHand(dict, tokens).flat(), 1e-6) // the positions above are rounded to float32
    const names = [...dict.keys()].filter((name) => !/positional_encodings|local_mask/.test(name))
    const parameters = outsideParameters(layout, model)
    assert.deepEqual([...parameters.keys()].sort(), names.sort())
    for (const [name, p] of parameters) assert.deepEqual(Array.from(await p.read()), Array.from(dict.get(name)!.data), name)
    model.dispose()
  })

  it('take a generator that is a Linear by itself, and do without buffers where an option says what they would', () => {
    const bare = new Map(
      [...dictOf()]
        .filter(([name]) => !/positional_encodings|local_mask/.test(name))
        .map(([name, entry]) => [name.replace('generator.projection.', 'generator.'), entry]),
    )
    const model = loadOutside({ ...layout, options: { local_window_size: 3, n_layers: 2 } }, bare)
    assert.deepEqual(model.config.mixer, { kind: 'aft-local', tableLength: 10, window: 3, projectionBias: true })
    model.dispose()
    assert.throws(() => loadOutside(layout, bare), {
      message:
        "loadOutside: labml's AutoregressiveTransformer needs local_window_size (tokens less than so many places apart have a bias), " +
        "which its tensors don't say: options: { local_window_size: ... }",
    })
  })

  it('are refused, without taking memory, where names, shapes, options or buffers contradict', () => {
    const before = reference.bytesInUse()
    const refused = (message: string | RegExp, change: (dict: Dict) => void, given: object = layout) => {
      const dict = dictOf()
      change(dict)
      assert.throws(() => loadOutside(given as OutsideLayout, dict), { message })
    }
    const none = (): void => {}
    refused(/^unknown repository 'lucidrains' \(labml, IDSIA\/recurrent-fwp, /, none, { repository: 'lucidrains', class: 'AFT' })
    refused(/^unknown class of labml 'AFT' \(FastWeightsAttention, /, none, { repository: 'labml', class: 'AFT' })
    refused(/^unknown option 'window' \(n_tokens, d_model, /, none, { ...layout, options: { window: 3 } })
    refused('loadOutside: d_model is 9, and the tensors say 8', none, { ...layout, options: { d_model: 9 } })
    refused('loadOutside: local_window_size is 4, and the tensors say 3', none, { ...layout, options: { local_window_size: 4 } })
    refused("loadOutside: the state dict lacks src_embed.linear.weight, which labml's AutoregressiveTransformer has", (dict) =>
      dict.delete('src_embed.linear.weight'),
    )
    refused(/^loadStateDict: the state dict lacks transformer\.layers\.1\.norm_ff\.bias/, (dict) =>
      dict.delete('encoder.layers.1.norm_ff.bias'),
    )
    refused(/^loadStateDict: the model has no parameter transformer\.extra$/, (dict) =>
      dict.set('encoder.extra', { shape: [1], data: Uint8Array.of(1) }),
    )
    refused(/^loadStateDict: transformer\.layers\.1\.attn\.local_mask isn't that of the window 3: it has 1 at \[0,3\]$/, (dict) =>
      dict.set('encoder.layers.1.self_attn.local_mask', mask(10, 4)),
    )
    refused(
      /^loadOutside: src_embed\.positional_encodings \[50,1,8\] isn't the table of sines and cosines .*; learnt positions aren't read$/,
      (dict) => dict.set('src_embed.positional_encodings', { shape: [50, 1, 8], data: new Float32Array(400) }),
    )
    assert.throws(() => loadOutside(layout, {} as never), { message: /^loadOutside: needs a Map from names / })
    assert.equal(reference.bytesInUse(), before)
  })

  it('have a source, and a line for each of their options', () => {
    for (const [repository, classes] of Object.entries(outside))
      for (const [name, { source, options }] of Object.entries(classes)) {
        assert.ok(source.length > 5, `${repository} ${name}`)
        for (const [option, { description }] of Object.entries<{ description: string }>(options))
          assert.ok(description.length > 3, `${repository} ${name}: ${option}`)
      }
  })
})

/** A state dict with random values, of the shapes that a module of that layout has. */
function dictFor(shapes: Record<string, number[]>, seed = 1): Map<string, StateDictEntry> {
  return new Map(
    Object.entries(shapes).map(([name, shape], i) => [
      name,
      {
        shape,
        data: uniforms(
          100 * seed + i,
          shape.reduce((n, d) => n * d, 1),
          -0.4,
          0.4,
        ),
      },
    ]),
  )
}

describe("IDSIA's layers", () => {
  const [B, D, H, d] = [2, 6, 2, 3]
  const norm = { 'layer_norm.weight': [D], 'layer_norm.bias': [D] }
  const language = (projection: string, rows: number, more: Record<string, number[]> = {}) => ({
    ...norm,
    [`${projection}.weight`]: [rows, D],
    'o_net.weight': [D, H * d],
    ...more,
  })
  const R = { R_q: [1, H, d, d], R_k: [1, H, d, d], R_v: [1, H, d, d], r_b: [1, H, 1, d] }
  const srwm = (at: string) => ({
    ...Object.fromEntries(['W_y', 'W_q', 'W_k'].map((name) => [at + name, [1, H, d, d]])),
    [`${at}w_b`]: [1, H, d, 4],
    [`${at}layer_norm.weight`]: [H * d],
    [`${at}layer_norm.bias`]: [H * d],
    [`${at}out_linear.weight`]: [H * d, H * d],
  })
  const withoutNorm = (shapes: Record<string, number[]>) =>
    Object.fromEntries(Object.entries(shapes).filter(([name]) => !name.startsWith('layer_norm')))
  const ff = (at: string, width: number) => ({
    [`${at}layer_norm.weight`]: [width],
    [`${at}layer_norm.bias`]: [width],
    [`${at}ff_layers.0.weight`]: [5, width],
    [`${at}ff_layers.0.bias`]: [5],
    [`${at}ff_layers.3.weight`]: [width, 5],
    [`${at}ff_layers.3.bias`]: [width],
  })
  const slow = H * (3 * d + 1)
  const fwp = 'IDSIA/recurrent-fwp'
  const options = { n_head: H, d_head: d }
  /** Layouts with a state, and the shapes of one row's parts there. */
  const stateful: readonly [OutsideLayout, Record<string, number[]>, Record<string, number[]>][] = [
    [
      { repository: fwp, class: 'CudaFastRNNv2Layer', options: { ...options, skip_attn_normalization: false, pre_lnorm: true } },
      language('qkvb_net', H * (5 * d + 2)),
      { fast_weights: [1, H, d, d], rec_fast_weights: [1, H, d, d], h: [1, H, 1, d], key_sum: [1, H, 1, d] },
    ],
    [
      { repository: fwp, class: 'CudaFastWeightRecUpdateTanhLayer', options },
      language('slow_net', slow, R),
      { fast_weights: [1, H, d, d], h: [1, H, 1, d] },
    ],
    [
      { repository: fwp, class: 'CudaFastWeightSlowRNNLayer', options },
      {
        ...norm,
        'o_net.weight': [D, H * d],
        'slow_net.weight_ih_l0': [4 * slow, D],
        'slow_net.weight_hh_l0': [4 * slow, slow],
        'slow_net.bias_ih_l0': [4 * slow],
        'slow_net.bias_hh_l0': [4 * slow],
      },
      { fast_weights: [1, H, d, d], slow_h: [1, 1, slow], slow_c: [1, 1, slow] },
    ],
    [
      { repository: fwp, class: 'CudaDeepFastNetLayer', options },
      language('qkv_net', D + 60 * D + 6 * H, {
        ...Object.fromEntries([0, 1, 2].flatMap((i) => ['weight', 'bias'].map((part) => [`fast_net_layer_norms.${i}.${part}`, [d]]))),
      }),
      Object.fromEntries(Array.from({ length: 6 }, (_, n) => [`fast_weights_${n}`, n % 2 === 0 ? [1, H, d, 4 * d] : [1, H, 4 * d, d]])),
    ],
    [
      { repository: fwp, class: 'CudaDeltaDeltaLayer', options },
      language('slow_net', H * (5 * d + 2), { fast_net_slow_weights: [H, d, 3 * d + 1] }),
      { fast_weights_slow: [1, H, d, 3 * d + 1], fast_weights: [1, H, d, d] },
    ],
    [
      { repository: 'IDSIA/lmtool-fwp', class: 'CudaNormFastWeightDPFPTransformerLayer', options: { ...options, n_roll: 3 } },
      language('qkvb_net', slow),
      { W: [1, H, 6 * d, d], z: [1, H, 1, 6 * d] },
    ],
    [
      { repository: 'IDSIA/modern-srwm', class: 'SRNetLayer' },
      {
        'input_proj.weight': [H * d, D],
        'input_proj.bias': [H * d],
        ...srwm('fwm_layers.0.'),
        ...ff('ff_layers.0.', H * d),
        ...srwm('fwm_layers.1.'),
        ...ff('ff_layers.1.', H * d),
      },
      Object.fromEntries(
        [0, 1].flatMap((l) => [
          ...['W_y', 'W_q', 'W_k'].map((name): [string, number[]] => [`${l}.${name}`, [1, H, d, d]]),
          [`${l}.w_b`, [1, H, d, 4]] as [string, number[]],
        ]),
      ),
    ],
  ]

  for (const [layout, shapes, parts] of stateful)
    it(`go on where their state says, which converts both ways: ${layout.class}`, async () => {
      const module = loadOutside(layout, dictFor(shapes)) as OutsideModule
      const T = 7
      const x = tensor(uniforms(9, B * T * D), { shape: [B, T, D] })
      const whole = noGrad(() => module.forward(x))
      let state: Record<string, Tensor> | undefined
      const ys: Tensor[] = []
      for (const [from, to] of [
        [0, 1],
        [1, 4],
        [4, T],
      ]) {
        const valuesOf = (parts: Record<string, Tensor> = {}) => Promise.all(Object.values(parts).map((t) => t.read()))
        const given = await valuesOf(state)
        const next = noGrad(() => module.forward(slice(x, 1, from, to), state && { state }))
        assert.deepEqual(await valuesOf(state), given) // the published kernels overwrite it
        ys.push(next.y)
        // Through their names and shapes, as a file would hold them.
        const there = module.stateTo(next.state)
        const entries = await Promise.all(
          Object.entries(there).map(async ([name, t]) => [name, { shape: t.shape, data: await t.read() }] as const),
        )
        assert.deepEqual(
          Object.fromEntries(entries.map(([name, { shape }]) => [name, [...shape]])),
          Object.fromEntries(Object.entries(parts).map(([name, shape]) => [name, shape.map((n, i) => (i === batchAxis(name) ? B : n))])),
        )
        state = module.stateFrom(new Map(entries))
      }
      assertClose(await concat(ys, 1).read(), Array.from(await whole.y.read()), 1e-12)
      for (const [name, t] of Object.entries(whole.state)) assertClose(await state![name].read(), Array.from(await t.read()), 1e-12)
      assert.deepEqual(new Set(Object.keys(module.stateParts(B))), new Set(Object.keys(whole.state)))
      assert.throws(() => module.forward(x, { state: {} }), {
        message: /^forward: the state lacks .*; stateFrom makes one of parts by their names there$/,
      })
      assert.throws(() => module.forward(slice(x, 2, 0, 2)), { message: /^forward: x has shape \[2,7,2\], expected \[B=2,T=7,6\]/ })
      const [first] = Object.keys(parts)
      assert.throws(() => module.stateFrom(new Map([['other', { shape: [1], data: [1] }]])), { message: /no part 'other'/ })
      assert.throws(() => module.stateFrom(new Map([[first, { shape: [1, 2], data: [1, 2] }]])), { message: /for one row it is|lacks/ })
      module.dispose()
    })

  // They are right up to 420 tokens of this width.
  it('are the plain step over 450 tokens, where the published kernels fail: SRWM', async () => {
    const T = 450
    const module = loadOutside(
      { repository: 'IDSIA/modern-srwm', class: 'SRWMlayer', options: { use_ln: false } },
      dictFor(withoutNorm(srwm(''))),
    )
    const given = uniforms(3, T * D)
    const x = tensor(given, { shape: [1, T, D], requiresGrad: true })
    module.forward(x).y.backward(tensor(uniforms(4, T * D), { shape: [1, T, D] }))
    const actual = outsideParameters({ repository: 'IDSIA/modern-srwm', class: 'SRWMlayer' }, module)
    // By hand: the net's steps, with the same parameters.
    const names: Record<string, string> = { Wy: 'W_y', Wq: 'W_q', Wk: 'W_k', wb: 'w_b' }
    const leaf = async (name: string): Promise<Tensor> => {
      const p = actual.get(name)!
      return tensor(await p.read(), { shape: p.shape, requiresGrad: true })
    }
    const own = Object.fromEntries(await Promise.all(Object.values(names).map(async (name) => [name, await leaf(name)] as const)))
    const out = await leaf('out_linear.weight')
    const x2 = tensor(given, { shape: [1, T, D], requiresGrad: true })
    const parameters = Object.fromEntries(
      Object.entries(names).map(([here, there]) => [here, reshape(own[there], own[there].shape.slice(1))]),
    )
    const net = selfReferential({ D: d })
    const { y } = runNet(net, reshape(x2, [1, T, H, d]), { parameters, form: 'step' })
    add(x2, matmul(reshape(y, [1, T, H * d]), out, { transposeB: true })).backward(tensor(uniforms(4, T * D), { shape: [1, T, D] }))
    const rms = async (a: Tensor, b: Tensor, what: string) => assertRms(await a.read(), await b.read(), 1e-9, what)
    await rms(x.grad!, x2.grad!, 'x')
    for (const there of Object.values(names)) await rms(actual.get(there)!.grad!, own[there].grad!, there)
    module.dispose()
  })

  it('have a gradient of a first matrix that is a parameter, which the published kernel leaves out: Delta-Delta', async () => {
    const layout = { repository: fwp, class: 'CudaDeltaDeltaLayer', options: { ...options, pre_lnorm: true } } as const
    const given = language('slow_net', H * (5 * d + 2), { fast_net_slow_weights: [H, d, 3 * d + 1] })
    const module = loadOutside(layout, dictFor(given)) as OutsideModule
    const x = tensor(uniforms(9, B * 4 * D), { shape: [B, 4, D] })
    const dy = uniforms(10, B * 4 * D)
    module.forward(x).y.backward(tensor(dy, { shape: [B, 4, D] }))
    const W = outsideParameters(layout, module).get('fast_net_slow_weights')!
    const [values, gradient] = [Array.from(await W.read()), Array.from(await W.grad!.read())]
    const direction = uniforms(11, values.length)
    const at = async (step: number): Promise<number> => {
      W.write(values.map((w, i) => w + step * direction[i]))
      const y = Array.from(await noGrad(() => module.forward(x)).y.read())
      return y.reduce((total, value, i) => total + value * dy[i], 0)
    }
    const slope = ((await at(1e-5)) - (await at(-1e-5))) / 2e-5
    assertClose([gradient.reduce((total, g, i) => total + g * direction[i], 0)], [slope], 1e-7)
    module.dispose()
  })

  it('have rows that matter to nothing, which ours do without: Delta MLP', async () => {
    const layout = { repository: fwp, class: 'CudaDeepFastNetLayer', options } as const
    const norms = { 'fast_net_layer_norms.0.weight': [d], 'fast_net_layer_norms.0.bias': [d] }
    const module = loadOutside(layout, dictFor(language('qkv_net', 21 * D + 2 * H, norms))) as OutsideModule
    const own = new RecurrentNet({ dModel: D, heads: H, net: 'delta-mlp' }, generator(1))
    /** Rows [outputs,D] of a projection whose gradient is 0. */
    const idle = async (layer: OutsideModule | RecurrentNet, projection: Tensor): Promise<number> => {
      layer.forward(tensor(uniforms(9, B * 4 * D), { shape: [B, 4, D] })).y.backward(tensor(uniforms(10, B * 4 * D), { shape: [B, 4, D] }))
      return rowsOf(await projection.grad!.read(), D).filter((row) => row.every((g) => g === 0)).length
    }
    assert.equal(await idle(module, outsideParameters(layout, module).get('qkv_net.weight')!), 10 * D)
    assert.equal(await idle(own, own.projection!.weight), 0)
    assert.equal(own.projection!.weight.shape[0], 11 * D + 2 * H)
    for (const layer of [module, own]) layer.dispose()
  })

  it('are refused where an option or a tensor contradicts, in a line that says which', () => {
    const before = reference.bytesInUse()
    const shapes = language('qkvb_net', slow)
    const refused = (message: string | RegExp, name: string, more: object, dict: Record<string, number[]> = shapes) =>
      assert.throws(() => loadOutside({ repository: fwp, class: name, options: { ...options, ...more } }, dictFor(dict)), { message })
    const delta = 'CudaFastWeightLinearTransformerLayer'
    refused(/^unknown class of IDSIA\/recurrent-fwp 'FastFF' \(Attentionlayer, /, 'FastFF', {})
    refused(/^unknown option 'heads' \(n_head, /, delta, { heads: 2 })
    refused(/^loadOutside: qkvb_net\.weight has shape \[20,6\]; with these options it is \[30,6\]$/, delta, { n_head: 3 })
    refused("n_head must be a number, not the text '2'", delta, { n_head: '2' })
    refused('n_head must be a positive integer, not 0', delta, { n_head: 0 })
    refused('pre_lnorm must be true or false, not 1', delta, { pre_lnorm: 1 })
    refused('skip_attn_normalization must be true or false, not 1', delta, { skip_attn_normalization: 1 })
    refused(/^loadOutside: IDSIA\/recurrent-fwp's .* needs n_head \(heads\), which its tensors don't say/, delta, { n_head: undefined })
    refused(
      /^CudaFastWeightPerformerLayer has random features, .* add them to the state dict as proj_matrix \[d,m\]$/,
      'CudaFastWeightPerformerLayer',
      {},
    )
    refused("skip_attn_normalization = false isn't implemented here: it must be true", 'CudaFastLSTMv4Layer', {
      skip_attn_normalization: false,
    })
    refused("skip_attn_normalization = false isn't implemented here: it must be true", 'CudaFastWeightRecUpdateTanhLayer', {
      skip_attn_normalization: false,
    })
    refused("use_sum_norm = false isn't implemented here: it must be true", 'CudaFastRNNv2Layer', { use_sum_norm: false })
    refused(/^unknown option 'use_res' \(/, delta, { use_res: false })
    refused('dropout must be in [0, 1), not 1.5', delta, { dropout: 1.5 })
    refused(/^loadOutside: qkvb_net\.weight has shape \[20,6\]; with these options it is \[2000000000,6\]$/, delta, { n_head: 2e8 })
    refused(
      /^there is no attn_type 36 \(2, 4, 5, 6, 24, /,
      'DecoderLayer',
      { attn_type: 36 },
      {
        ...Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [`dec_attn.${name}`, shape])),
        'pos_ff.CoreNet.0.weight': [5, D],
      },
    )
    assert.equal(reference.bytesInUse(), before)
  })
})

/** Where the rows are: an LSTM's states have the layer first. */
const batchAxis = (name: string): number => (name.startsWith('slow_') ? 1 : 0)
