/** Layers and models of other repositories: their state dicts, made here by their names, give what plain loops over their numbers do. */
import assert from 'node:assert/strict'
import { noGrad, scope, setDevice, tensor } from '../../engine/index.ts'
import { type AftConfig, loadOutside, type OutsideLayout, outside, outsideParameters, type StateDictEntry } from '../../nn/index.ts'
import { assertClose, reference, uniforms } from '../helpers.ts'
import { aftByHand, linear } from './formulas.ts'

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
    refused("unknown repository 'lucidrains' (labml)", none, { repository: 'lucidrains', class: 'AFT' })
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
