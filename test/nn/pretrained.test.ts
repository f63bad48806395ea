/**
 * Models of other packages: what their files' figures say, files written back to the bit, the model whole and in pieces, and files of strangers.
 * The figures are in ../shared: without it those tests are skipped. `.ci/run` compares every folder on every device by the command.
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Device, generator, noGrad, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import {
  type BlockModel,
  type Comparison,
  comparePretrained,
  Experts,
  fromPretrained,
  generate,
  generationOf,
  initialState,
  modelOf,
  PackedEntry,
  PretrainedError,
  readCheckpoint,
  readSafetensors,
  type SafetensorsEntry,
  SoftmaxAttention,
  toPretrained,
  writeCheckpoint,
  writeSafetensors,
} from '../../nn/index.ts'
import { checkKeys } from '../../nn/pretrained/architecture.ts'
import { architectureOf, planOf } from '../../nn/pretrained/open.ts'
import { packagePresets } from '../../tasks/index.ts'
import { random, reference, uniforms, wasm, webgpu } from '../helpers.ts'
import { choices, filesFrom, made, written } from './pretrained.ts'

const shared = join(import.meta.dirname, '../../../../shared')
const figures = join(shared, 'golden/interop')
const rwkvFolder = join(shared, 'data/rwkv')
const folders = ['fla', 'transformers'].flatMap((name) =>
  existsSync(join(figures, name))
    ? readdirSync(join(figures, name))
        .map((folder) => join(figures, name, folder))
        .filter((folder) => existsSync(join(folder, 'config.json')))
    : [],
)
const bytesOf = (file: string): Uint8Array => new Uint8Array(readFileSync(file))
const filesOf = (folder: string): Map<string, Uint8Array> =>
  new Map(['config.json', 'model.safetensors'].map((name) => [name, bytesOf(join(folder, name))]))
const expectedOf = (folder: string): Uint8Array => bytesOf(join(folder, 'expected.safetensors'))
const shown = (folder: string): string => folder.slice(figures.length + 1)

/** The names that fall short. */
const short = ({ tensors }: Comparison): string[] => tensors.filter(({ ok }) => !ok).map(({ name }) => name)

/** All of them, in a row. */
async function logitsOf(model: BlockModel, run: () => Tensor): Promise<number[]> {
  const logits = scope(() => noGrad(run))
  const values = Array.from(await logits.read())
  logits.dispose()
  assert.ok(values.every(Number.isFinite), `${model.config.symbols} symbols`)
  return values
}

function assertNear(actual: readonly number[], expected: readonly number[], bound: number, what: string): void {
  const worst = actual.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i])), 0)
  assert.ok(actual.length === expected.length && worst <= bound, `${what}: ${worst} of ${bound}`)
}

describe('models of other packages', () => {
  afterEach(() => setDevice(reference))

  const compared = async (folder: string, device: Device): Promise<void> => {
    setDevice(device)
    const pretrained = fromPretrained(filesOf(folder))
    const result = await comparePretrained(pretrained, expectedOf(folder))
    pretrained.model.dispose()
    assert.deepEqual(short(result), [], shown(folder))
    assert.ok(result.ok && result.tensors.length > 3 && result.device === device.name)
  }

  it('compute what their packages computed: logits, loss, gradients, states, caches, greedy tokens', async function () {
    if (folders.length === 0) return this.skip()
    assert.equal(folders.length, 22)
    const device = await wasm()
    for (const folder of folders) await compared(folder, device)
  })

  for (const name of ['gated-deltanet', 'rwkv7'])
    it(`compute it in float64 to tighter bounds: ${name}`, async function () {
      const folder = folders.find((folder) => folder.endsWith(`/fla/${name}`))
      if (folder === undefined) return this.skip()
      await compared(folder, reference)
    })

  it('compute it on webgpu', async function () {
    const folder = folders.find((folder) => folder.endsWith('/transformers/qwen3_5'))
    if (folder === undefined) return this.skip()
    await compared(folder, await webgpu(this))
  })

  it("are RWKV's own files, too", async function () {
    if (!existsSync(rwkvFolder)) return this.skip()
    setDevice(await wasm())
    for (const version of ['4v0-660K', '5v2-730K', '7v0-834K']) {
      const name = `tiny-rwkv-${version}-FP32.bin`
      const pretrained = fromPretrained(new Map([[name, bytesOf(join(rwkvFolder, name))]]))
      const result = await comparePretrained(pretrained, bytesOf(join(rwkvFolder, `expected-logits-${version}.bin`)))
      pretrained.model.dispose()
      assert.deepEqual(short(result), [], version)
      assert.equal(result.tensors.length, 1)
    }
  })

  it('fall short where one entry of a kind is moved, and where there is nothing to compare', async function () {
    const folder = folders.find((folder) => folder.endsWith('/fla/gla'))
    if (folder === undefined) return this.skip()
    setDevice(await wasm())
    const pretrained = fromPretrained(filesOf(folder))
    const { tensors } = readSafetensors(expectedOf(folder))
    const judge = async (change: (tensors: Map<string, SafetensorsEntry>) => void): Promise<Comparison> => {
      const copy = new Map(
        [...tensors].map(([name, entry]) => [name, { ...entry, data: (entry as { data: Float32Array }).data.slice() } as SafetensorsEntry]),
      )
      change(copy)
      return comparePretrained(pretrained, writeSafetensors(copy))
    }
    const moved = { logits: 1e-3, loss: 1e-4, 'grad.model.embeddings.weight': 0, 'state.1': 0 }
    for (const [name, by] of Object.entries(moved)) {
      const result = await judge((copy) => {
        const { data } = copy.get(name) as { data: Float32Array }
        const largest = data.reduce((most, x) => Math.max(most, Math.abs(x)), name.startsWith('state') ? 1 : 0)
        data[0] += by || (name.startsWith('state') ? 1e-3 : 1e-2) * largest
      })
      assert.deepEqual(short(result), [name])
      assert.equal(result.ok, false)
    }
    const one = (shape: number[]): SafetensorsEntry =>
      ({ dtype: 'F32', shape, data: new Float32Array(shape.reduce((n, d) => n * d, 1)) }) as SafetensorsEntry
    assert.deepEqual(short(await judge((copy) => copy.set('state.7', one([2])))), ['state.7'])
    assert.deepEqual(short(await judge((copy) => copy.set('loss', one([2])))), ['loss'])
    assert.deepEqual(short(await judge((copy) => (copy.get('logits') as { data: Float32Array }).data.fill(Number.NaN, 5, 6))), ['logits'])
    const nothing = await judge((copy) => {
      for (const name of tensors.keys()) if (name !== 'input_ids') copy.delete(name)
    })
    assert.equal(nothing.ok, false)
    await assert.rejects(
      judge((copy) => copy.delete('input_ids')),
      /lack input_ids/,
    )
    pretrained.model.dispose()
  })

  it('are written back to the bit, in their dtypes, with their config.json', async () => {
    setDevice(await wasm())
    for (const [, modelType, given] of choices) {
      const files = made(modelType, given)
      const { model, source } = fromPretrained(files)
      const back = await toPretrained(model, source)
      for (const [name, bytes] of files) assert.deepEqual(back.get(name), bytes, `${modelType}: ${name}`)
      const opened = readCheckpoint(await writeCheckpoint(model, null), 'blocks')
      const again = modelOf(opened)
      assert.deepEqual(again.parameterCount(), model.parameterCount())
      again.dispose()
      model.dispose()
    }
  })

  it('are written back to the bit, those of the figures', async function () {
    if (folders.length === 0) return this.skip()
    setDevice(await wasm())
    for (const folder of folders) {
      const files = filesOf(folder)
      const { model, source } = fromPretrained(files)
      const back = await toPretrained(model, source)
      model.dispose()
      assert.deepEqual(back.get('config.json'), files.get('config.json'))
      const [ours, theirs] = [back, files].map((of) => readSafetensors(of.get('model.safetensors')!).tensors)
      assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort())
      for (const [name, entry] of theirs) {
        const constant = /slope_rate|_decay$/.test(name) && folder.endsWith('minimax')
        const [mine, other] = [ours.get(name)!.data as Float32Array, entry.data as Float32Array]
        if (constant) assertNear(Array.from(mine), Array.from(other), 1e-6, name)
        else assert.deepEqual(mine, other, name)
      }
    }
  })

  it('are the same whole, in pieces with the state carried, behind padding, and packed', async () => {
    setDevice(await wasm())
    const T = 9
    for (const [what, modelType, given] of choices) {
      const { model } = fromPretrained(made(modelType, given))
      model.eval()
      const tokens = Int32Array.from(uniforms(3, 2 * T, 0, 11))
      const ids = (row: number, from: number, to: number): Tensor =>
        tensor(tokens.slice(row * T + from, row * T + to), { shape: [1, to - from] })
      const name = `${modelType}, ${what}`
      const whole = await logitsOf(model, () => model.forward(ids(0, 0, T)).logits)
      const other = await logitsOf(model, () => model.forward(ids(1, 0, T)).logits)
      const pieces = await logitsOf(model, () => {
        let state = initialState(model, 1)
        for (const [from, to] of [
          [0, 1],
          [1, 5],
        ] as const)
          state = model.forward(ids(0, from, to), state).state
        return model.forward(ids(0, 5, T), state).logits
      })
      assertNear(pieces, whole.slice(5 * 11), 1e-4, `${name}: pieces`)
      const padded = await logitsOf(model, () => {
        const mask = tensor(
          Int32Array.from({ length: T + 3 }, (_, i) => Number(i >= 3)),
          { shape: [1, T + 3] },
        )
        return model.forward(tensor(Int32Array.from([7, 7, 7, ...tokens.slice(0, T)]), { shape: [1, T + 3] }), undefined, { mask }).logits
      })
      assertNear(padded.slice(3 * 11), whole, 1e-4, `${name}: padding`)
      const packed = await logitsOf(model, () => {
        const reset = tensor(
          Int32Array.from({ length: 2 * T }, (_, i) => Number(i === T)),
          { shape: [1, 2 * T] },
        )
        return model.forward(tensor(tokens, { shape: [1, 2 * T] }), undefined, { reset }).logits
      })
      assertNear(packed, [...whole, ...other], 1e-4, `${name}: packed`)
      model.dispose()
    }
  })

  it('have tensors of these names and shapes, by hand', () => {
    for (const [what, modelType, shapes] of written) {
      const [, , given] = choices.find(([name, type]) => name === what && type === modelType)!
      const { tensors } = readSafetensors(made(modelType, given).get('model.safetensors')!)
      const theirs = Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]))
      assert.deepEqual(theirs, shapes, `${modelType}, ${what}`)
    }
  })

  it('have gradients of all parameters that are finite, and continue tokens', async () => {
    setDevice(await wasm())
    for (const [what, modelType, given] of choices) {
      const { model } = fromPretrained(made(modelType, given))
      const tokens = Int32Array.from(uniforms(4, 12, 0, 11))
      const targets = Int32Array.from(uniforms(5, 12, 0, 11))
      scope(() => model.loss({ tokens, targets, B: 2, T: 6 }).backward())
      for (const [name, p] of model.namedParameters()) {
        if (!p.requiresGrad) continue
        assert.ok(p.grad, `${modelType}, ${what}: ${name} has no gradient`)
        const values = Array.from(await p.grad.read())
        assert.ok(values.every(Number.isFinite), `${modelType}, ${what}: ${name}`)
      }
      const next: number[] = []
      for await (const token of generate(model, tokens, { length: 3, temperature: 0 })) next.push(token)
      // Token by token, from the states, as the whole sequence says.
      const all = Int32Array.from([...tokens, ...next])
      const logits = await logitsOf(model, () => model.eval().forward(tensor(all, { shape: [1, all.length] })).logits)
      for (const [i, token] of next.entries()) {
        const row = logits.slice((tokens.length - 1 + i) * 11, (tokens.length + i) * 11)
        assert.ok(row[token] >= Math.max(...row) - 1e-4, `${modelType}, ${what}: token ${i}`)
      }
      model.dispose()
    }
  })
})

describe('models of which nothing is trained', () => {
  afterEach(() => setDevice(reference))

  /** In 16 bits, and read as a file would be. */
  const halved = (files: Map<string, Uint8Array>, dtype: 'F16' | 'BF16') => {
    const { tensors } = readSafetensors(files.get('model.safetensors')!)
    const bytes = writeSafetensors([...tensors].map(([name, { shape, data }]) => [name, { dtype, shape, data } as SafetensorsEntry]))
    return new Map([...files].map(([name, content]) => [name, name === 'config.json' ? content : bytes]))
  }
  const asFiles = (files: Map<string, Uint8Array>) =>
    new Map(
      [...files].map(([name, bytes]) => {
        const subarray = (a: number, b: number, into = new Uint8Array(b - a)): Uint8Array => {
          into.set(bytes.subarray(a, b))
          return into.subarray(0, b - a)
        }
        return [name, { length: bytes.length, subarray }]
      }),
    )

  it('keep weights of 16 bits, compute what their float32 gives, to the bit, and are written back', async () => {
    const device = await wasm()
    setDevice(device)
    // Its tensors, in another order than ours, are read in several parts.
    const wide = choices.flatMap(([what, modelType, given]): typeof choices =>
      modelType === 'qwen3_next' ? [[`${what}, wide`, modelType, { ...given, hidden_size: 1920 }]] : [],
    )
    assert.ok(wide.length > 0)
    for (const [i, [what, modelType, given]] of [...choices, ...wide].entries()) {
      const files = halved(made(modelType, given), i % 2 ? 'F16' : 'BF16')
      const tokens = Int32Array.from(uniforms(3, 9, 0, 11))
      const held: number[] = []
      let expected = Number.NaN
      const found: number[][] = []
      for (const frozen of [true, false]) {
        const before = device.bytesInUse()
        const { model, source } = fromPretrained(frozen ? asFiles(files) : files, { frozen })
        held.push(device.bytesInUse() - before)
        model.eval()
        const logits = await logitsOf(model, () => model.forward(tensor(tokens, { shape: [1, 9] })).logits)
        const next: number[] = []
        // By captured steps, where the model has such.
        if (i % 6 === 0) for await (const token of generate(model, tokens, { length: 3, temperature: 0 })) next.push(token)
        found.push([...logits, ...next])
        if (frozen) {
          const parameters = [...new Set(model.parameters())]
          assert.ok(parameters.every((p) => !p.requiresGrad))
          // Rows in panels of 32.
          const size = (p: Tensor): number => (p.half ? 64 * Math.ceil(p.shape[0] / 32) * p.shape[1] : 4 * p.size)
          expected = parameters.reduce((n, p) => n + size(p), 0)
          const sizes = (of: readonly Tensor[]): number => of.reduce((n, p) => n + p.size, 0)
          assert.ok(sizes(parameters.filter((p) => p.half)) > 0.3 * sizes(parameters), `${modelType}, ${what}`)
          const back = await toPretrained(model, source)
          assert.deepEqual(back.get('model.safetensors'), files.get('model.safetensors'), `${modelType}, ${what}`)
        }
        model.dispose()
      }
      assert.deepEqual(found[0], found[1], `${modelType}, ${what}`)
      assert.equal(held[0], expected, `${modelType}, ${what}`)
    }
  })

  it('tell their size before they are read, and how far they have come', async () => {
    setDevice(await wasm())
    const files = halved(made('gla', { num_heads: 2, intermediate_size: 8 }), 'BF16')
    const told: number[][] = []
    const { model } = fromPretrained(files, {
      frozen: true,
      before: (...numbers) => void told.push(numbers),
      progress: (...numbers) => void told.push(numbers),
    })
    const count = model.parameterCount()
    assert.equal(told[0][0], count)
    assert.ok(told[0][1] > 2 * count && told[0][1] < 4 * count)
    assert.deepEqual(told.at(-1), [count, count])
    const norm = await model.norm.weight.read()
    const others = new Map([...model.namedParameters()].map(([name, { shape, size }]) => [name, { shape, data: new Float32Array(size) }]))
    assert.throws(
      () => model.loadStateDict(others),
      /^Error: loadStateDict: embedding\.weight is a matrix of bfloat16, which is made once; open /,
    )
    assert.deepEqual(await model.norm.weight.read(), norm)
    model.dispose()
    const before = (): never => {
      throw new Error('too large')
    }
    assert.throws(() => fromPretrained(files, { frozen: true, before }), /too large/)
  })

  it('may begin here: every preset of another package is a configuration that its row knows', () => {
    for (const [name, { package: of, config }] of Object.entries(packagePresets)) {
      const given = { ...config, vocab_size: 65 }
      const row = architectureOf(given, of)
      assert.deepEqual(checkKeys(row, given), [], name)
      const { entries } = planOf(row, given, Number.POSITIVE_INFINITY)
      assert.ok(entries.length > 20, name)
    }
  })
})

describe('files of strangers', () => {
  before(async () => setDevice(await wasm()))
  after(() => setDevice(reference))

  const base = made('gla', { num_heads: 2, intermediate_size: 8 })
  const config = JSON.parse(new TextDecoder().decode(base.get('config.json')))
  const { tensors } = readSafetensors(base.get('model.safetensors')!)
  const refuse = (files: Map<string, Uint8Array>, expected: RegExp): void => {
    assert.throws(
      () => fromPretrained(files).model.dispose(),
      (error: Error) => {
        assert.ok(error instanceof PretrainedError, `${error.stack}`)
        assert.match(error.message, expected)
        assert.doesNotMatch(error.message, /\n/)
        return true
      },
    )
  }
  const withConfig = (more: object): Map<string, Uint8Array> => filesFrom({ ...config, ...more }, tensors)
  const without = (...names: string[]): Map<string, Uint8Array> =>
    filesFrom(
      config,
      [...tensors].filter(([name]) => !names.includes(name)),
    )
  const norm = 'model.norm.weight'

  it('are told from each other: what they lack, what is left over, and what has another shape', () => {
    refuse(new Map([['model.safetensors', base.get('model.safetensors')!]]), /no config\.json/)
    refuse(new Map([['config.json', base.get('config.json')!]]), /no model\.safetensors/)
    refuse(
      new Map([
        ['config.json', base.get('config.json')!],
        ['pytorch_model.bin', new Uint8Array(9)],
      ]),
      /"pytorch_model\.bin" may hold its weights as a Python pickle/,
    )
    refuse(
      new Map([...base, ['model.safetensors', Uint8Array.from([0x80, 2, 0x7d, 0x71, 0, 0, 0, 0, 0, 0, 0])]]),
      /model\.safetensors: .*pickle/,
    )
    refuse(new Map([...base, ['model.safetensors', base.get('model.safetensors')!.slice(0, -5)]]), /model\.safetensors: .*truncated/)
    refuse(without(norm), /lack the tensor model\.norm\.weight \[12\] of a gla/)
    refuse(
      filesFrom(config, [...tensors, ['model.extra', tensors.get(norm)!]]),
      /tensor "model\.extra" that a gla of this config\.json hasn't/,
    )
    refuse(withConfig({ hidden_size: 16 }), /tensor model\.embeddings\.weight has shape \[11,12\], where config\.json says \[11,16\]/)
    const bytes = { dtype: 'I8', shape: [12], data: new Int8Array(12) } as SafetensorsEntry
    refuse(
      filesFrom(
        config,
        [...tensors, [norm, bytes]].filter(([, entry], i, all) => i === all.length - 1 || entry !== tensors.get(norm)) as never,
      ),
      /model\.norm\.weight is I8.*quantised/,
    )
    refuse(
      filesFrom(
        config,
        [...tensors].map(([name, entry]) => [name, name === norm ? { ...entry, shape: [3, 4] } : entry] as never),
      ),
      /\[3,4\], where config\.json says \[12\]/,
    )
  })

  it('are told what is wrong with their config.json', () => {
    refuse(new Map([...base, ['config.json', new TextEncoder().encode('{"model_type": ')]]), /config\.json isn't JSON/)
    refuse(withConfig({ model_type: 'glaa' }), /"glaa" isn't known here: did you mean gla\?.*delta_net/)
    refuse(withConfig({ model_type: 7 }), /model_type must be one of .*, not 7/)
    refuse(withConfig({ num_head: 3 }), /num_head.*did you mean num_heads\?/)
    refuse(withConfig({ num_heads: 5 }), /hidden_size times expand_k over num_heads is 1\.2/)
    refuse(withConfig({ num_heads: 'two' }), /num_heads must be a positive integer, not the text 'two'/)
    refuse(withConfig({ feature_map: 'cube' }), /feature_map must be one of relu/)
    refuse(withConfig({ hidden_act: 'powlu' }), /hidden_act must be one of swish, silu/)
    refuse(withConfig({ attnres_block_size: 4 }), /attnres_block_size/)
    assert.throws(() => new Experts({ dModel: 2, experts: 1e9 }, generator(1)), /experts must be at most 4096, not 1000000000/)
    refuse(withConfig({ num_hidden_layers: 1e9 }), /num_hidden_layers is 1000000000, where the weights have \d+ tensors/)
    refuse(withConfig({ quantization_config: { quant_method: 'gptq' } }), /quantised by "gptq"/)
    const named = (name: string): Map<string, Uint8Array> => filesFrom(config, [...tensors, [name, tensors.get(norm)!]])
    refuse(named('model.layers.0.attn.q_proj.qweight'), /of weights quantised as GPTQ or AWQ, which aren't read/)
    refuse(named('model.layers.0.attn.q_proj.weight_scale_inv'), /of weights quantised as FP8/)
    const packed = new PackedEntry('x', 'F8_E4M3', [12], new Uint8Array(12))
    refuse(filesFrom(config, [...tensors, ['model.x', packed]]), /"model\.x" is of weights quantised as FP8_E4M3/)
    refuse(new Map([base.entries().next().value!, ['model.gguf', new Uint8Array(9)]]), /"model\.gguf" is a GGUF file/)
    refuse(withConfig({ attn: { layers: [0], num_heads: 2, rotation: true } }), /attn has a key rotation/)
    refuse(withConfig({ attn: { layers: [0], num_heads: 2, rope_theta: -5 } }), /attn has a rope_theta of -5/)
    refuse(withConfig({ 'odd\nkey': 5 }), /config\.json: odd\\nkey is 5/)
    const going = (json: string) => new Map([...base, ['generation_config.json', new TextEncoder().encode(json)]])
    refuse(going('{"do_sample": true, "temperature": 1e400}'), /temperature must be a finite number from 0 on, not Infinity/)
    refuse(going('{"do_sample": true, "top_k": "many"}'), /top_k must be a finite number from 0 on, not the text 'many'/)
    refuse(going('{"do_sample": true, "top_p": 2}'), /top_p must be from 0 to 1, not 2/)
    refuse(going('{"eos_token_id": "x"}'), /eos_token_id must be the number of a token, or a list of such, not \["x"\]/)
    fromPretrained(
      withConfig({ id2label: { 0: 'a' }, tokenizer_class: 'x', temperature: 0.7, attention_dropout: 0.1, pruned_heads: {} }),
    ).model.dispose()
    const of = (type: string, more: object): Map<string, Uint8Array> =>
      filesFrom({ model_type: type, vocab_size: 11, hidden_size: 12, num_hidden_layers: 2, ...more }, tensors)
    refuse(of('rwkv7', { head_dim: 6, attn: { layers: [0], num_heads: 2 } }), /attn names layer 0/)
    const turning = (partial: number): Map<string, Uint8Array> =>
      of('qwen3_next', { head_dim: 6, num_experts: 0, partial_rotary_factor: partial })
    refuse(turning(0.5), /3 of the 6 channels of a head/)
    refuse(turning(0.1), /lack the tensor model\.embed_tokens/)
    const many = new Map(
      Array.from(
        { length: 2000 },
        (_, i) => [`t${i}`, { dtype: 'F32', shape: [1], data: new Float32Array(1) }] as [string, SafetensorsEntry],
      ),
    )
    const crowd = { num_hidden_layers: 2000, num_experts: 2000, hidden_size: 12, vocab_size: 11 }
    for (const model_type of ['qwen3_5_moe_text', 'qwen3_next', 'kimi_linear'])
      refuse(filesFrom({ model_type, ...crowd }, many), /layers have \d+ experts together, where the weights have 2000 tensors/)
    const { warnings, model } = fromPretrained(withConfig({ use_something: false, _note: 'x' }))
    model.dispose()
    assert.equal(warnings.length, 2)
    const asked = '{"do_sample": true, "top_p": 0.9, "repetition_penalty": 1.1, "min_p": 0, "num_beams": null, "bad_words_ids": [[5]]}'
    const notDone = ['repetition_penalty 1.1', 'bad_words_ids [[5]]']
    const wishful = fromPretrained(going(asked))
    wishful.model.dispose()
    assert.deepEqual(
      wishful.warnings,
      notDone.map((what) => `generation_config.json: ${what} isn't carried out here: tokens are drawn without it`),
    )
    const { ends: _, ...said } = generationOf({ config, generation: asked })
    assert.deepEqual(said, { notDone, temperature: 1, topK: 0, topP: 0.9 })
    const mamba = (more: object, options = {}) => fromPretrained(filesFrom({ model_type: 'mamba2', ...more }, tensors), options)
    assert.throws(() => mamba({}), /an architecture of fla and transformers, and its keys don't say whose/)
    assert.throws(() => mamba({ norm_eps: 1, time_step_limit: 2 }), /don't say whose/)
    assert.throws(() => mamba({ norm_eps: 1e-5, num_hidden_layers: 2 }), /lack the tensor backbone/)
  })

  it('may be in several, with an index: each where it says, once, and in the same folder', () => {
    const names = [...tensors.keys()].sort()
    const [one, two] = [names.slice(0, 9), names.slice(9)].map((some) => writeSafetensors(some.map((name) => [name, tensors.get(name)!])))
    const map = Object.fromEntries(names.map((name, i) => [name, i < 9 ? 'a.safetensors' : 'b.safetensors']))
    const shards = (weight_map: unknown, ...files: [string, Uint8Array][]): Map<string, Uint8Array> =>
      new Map([
        ['config.json', base.get('config.json')!],
        ['model.safetensors.index.json', new TextEncoder().encode(JSON.stringify({ weight_map }))],
        ...files,
      ])
    const { model } = fromPretrained(shards(map, ['a.safetensors', one], ['b.safetensors', two]))
    const whole = fromPretrained(base).model
    assert.equal(model.parameterCount(), whole.parameterCount())
    for (const m of [model, whole]) m.dispose()
    refuse(shards(map, ['a.safetensors', one]), /names "b\.safetensors", which isn't there/)
    refuse(shards(map, ['a.safetensors', one], ['b.safetensors', one]), /is in a\.safetensors and in b\.safetensors/)
    refuse(
      shards({ ...map, 'model.more': 'a.safetensors' }, ['a.safetensors', one], ['b.safetensors', two]),
      /a\.safetensors lacks the tensor "model\.more"/,
    )
    const { [names[0]]: _, ...fewer } = map
    refuse(shards(fewer, ['a.safetensors', one], ['b.safetensors', two]), /says of the tensor .* nothing/)
    for (const path of ['../a.safetensors', '/etc/passwd', 'C:\\a', '..', 7])
      refuse(
        shards({ ...map, [names[0]]: path }, ['a.safetensors', one], ['b.safetensors', two]),
        /must be the name of a file in the same folder/,
      )
    refuse(shards([], ['a.safetensors', one]), /has no weight_map/)
  })

  it('may have 16 bits, under names that other versions had, with what is no part of the model', async () => {
    for (const dtype of ['BF16', 'F16'] as const) {
      const files = filesFrom(
        config,
        [...tensors].map(([name, entry]) => [name, { ...entry, dtype } as SafetensorsEntry]),
      )
      const { model, source } = fromPretrained(files)
      assert.deepEqual((await toPretrained(model, source)).get('model.safetensors'), files.get('model.safetensors'))
      model.dispose()
    }
    const olmo = made('olmo_hybrid', choices.find(([, type]) => type === 'olmo_hybrid')![2])
    const { tensors: own } = readSafetensors(olmo.get('model.safetensors')!)
    const old = 'model.layers.1.feedforward_layer_norm.weight'
    const renamed = [...own].map(
      ([name, entry]) => [name === old ? 'model.layers.1.post_attention_layernorm.weight' : name, entry] as const,
    )
    const files = new Map([...olmo, ['model.safetensors', writeSafetensors(renamed)]])
    const { model, source } = fromPretrained(files)
    assert.deepEqual((await toPretrained(model, source)).get('model.safetensors'), files.get('model.safetensors'))
    model.dispose()
    const cut = choices.find(([, type]) => type === 'olmo_hybrid')![2]
    const linear = (of: string): string => `model.layers.0.linear_attn.${of}_conv1d.weight`
    const whole = readSafetensors(made('olmo_hybrid', cut).get('model.safetensors')!).tensors
    const numbers = ['q', 'k', 'v'].flatMap((of) => Array.from((whole.get(linear(of)) as { data: Float32Array }).data))
    // The same 28 rows, in the widths of queries, keys and values.
    const widths = [
      ['q', 0, 8],
      ['k', 8, 16],
      ['v', 16, 28],
    ] as const
    for (const [of, from, to] of widths)
      whole.set(linear(of), { dtype: 'F32', shape: [to - from, 1, 4], data: Float32Array.from(numbers.slice(4 * from, 4 * to)) })
    const inWidths = filesFrom(JSON.parse(new TextDecoder().decode(olmo.get('config.json'))), whole)
    const [equal, own3] = [fromPretrained(olmo), fromPretrained(inWidths)]
    for (const [name, { data }] of await equal.model.stateDict())
      assert.deepEqual((await own3.model.stateDict()).get(name)!.data, data, name)
    assert.deepEqual((await toPretrained(own3.model, own3.source)).get('model.safetensors'), inWidths.get('model.safetensors'))
    for (const opened of [equal, own3]) opened.model.dispose()
    whole.set(linear('v'), { dtype: 'F32', shape: [11, 1, 4], data: new Float32Array(44) })
    refuse(filesFrom(JSON.parse(new TextDecoder().decode(olmo.get('config.json'))), whole), /q_conv1d\.weight has shape \[8,1,4\]/)
    const qwen = made('qwen3_next', choices.find(([, type]) => type === 'qwen3_next')![2])
    const mtp = [...readSafetensors(qwen.get('model.safetensors')!).tensors, ['mtp.fc.weight', tensors.get(norm)!] as const]
    const opened = fromPretrained(new Map([...qwen, ['model.safetensors', writeSafetensors(mtp)]]))
    assert.match(opened.warnings.join(), /"mtp\.fc\.weight"/)
    opened.model.dispose()
  })

  it('may be those of a MiniMax with constants in 16 bits', async () => {
    const minimax = made('minimax', choices.find(([, type]) => type === 'minimax')![2])
    const own = JSON.parse(new TextDecoder().decode(minimax.get('config.json')))
    const [H, block] = [own.num_attention_heads, own.block_size]
    // Layer 1 of 2.
    const slope = (h: number): number => 2 ** ((-8 * (h + 1)) / H) * (1 - 1 / (1 + 1e-5) + 1e-5)
    const decays = Float32Array.from({ length: H * block }, (_, n) => Math.exp(-slope(Math.floor(n / block)) * ((n % block) + 1)))
    const name = 'model.layers.1.self_attn.query_decay'
    const withDecays = (dtype: 'BF16' | 'F16', data: Float32Array<ArrayBuffer>): Map<string, Uint8Array> =>
      filesFrom(own, [...readSafetensors(minimax.get('model.safetensors')!).tensors, [name, { dtype, shape: [H, block, 1], data }]])
    for (const dtype of ['BF16', 'F16'] as const) {
      fromPretrained(withDecays(dtype, decays)).model.dispose()
      refuse(
        withDecays(
          dtype,
          decays.map((x) => x - 0.02),
        ),
        /constant model\.layers\.1\.self_attn\.query_decay holds/,
      )
    }
    own.block_size = 1e6
    fromPretrained(filesFrom(own, readSafetensors(minimax.get('model.safetensors')!).tensors)).model.dispose()
    refuse(withDecays('F16', decays), /where config\.json says \[2,1000000,1\]/)
  })

  it('may hold the matrix of a tied model twice, and the text part of a model that sees', () => {
    const embedding = tensors.get('model.embeddings.weight')!
    const tied = { ...config, tie_word_embeddings: true }
    const { model, warnings } = fromPretrained(filesFrom(tied, new Map([...tensors, ['lm_head.weight', embedding]])))
    model.dispose()
    assert.match(warnings.join(), /lm_head\.weight is the embedding once more/)
    refuse(filesFrom(tied, tensors), /lm_head\.weight isn't the embedding's/)
    const qwen = made('qwen3_5_text', {
      linear_num_key_heads: 1,
      linear_num_value_heads: 2,
      linear_key_head_dim: 4,
      linear_value_head_dim: 3,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 8,
      partial_rotary_factor: 0.1,
      full_attention_interval: 2,
      intermediate_size: 8,
    })
    const { tensors: text } = readSafetensors(qwen.get('model.safetensors')!)
    const inside = JSON.parse(new TextDecoder().decode(qwen.get('config.json')))
    const { model: seeing, warnings: said } = fromPretrained(
      filesFrom({ model_type: 'qwen3_5', text_config: inside, vision_config: {}, image_token_id: 5 }, [
        ...[...text].map(([name, entry]) => [name.replace(/^model\./, 'model.language_model.'), entry] as const),
        ['model.visual.pos_embed.weight', tensors.get(norm)!],
      ]),
    )
    const { model: alone } = fromPretrained(qwen)
    assert.equal(seeing.parameterCount(), alone.parameterCount())
    const [{ layer }] = alone.layers[1].parts
    assert.ok(layer instanceof SoftmaxAttention && layer.positions === 'none') // a tenth of 8 channels is none of them
    assert.match(said.join(), /model\.visual\.pos_embed/)
    for (const opened of [seeing, alone]) opened.dispose()
  })

  it('are written only with what a model came with', async () => {
    const { model, source } = fromPretrained(base)
    const wrong: [object, RegExp][] = [
      [{ config: null }, /config must be an object/],
      [{ others: null }, /others must be an object of dtypes/],
      [{ others: { a: 'I8' } }, /others must be an object of dtypes/],
      [{ renamed: null }, /renamed must be/],
      [{ text: 5 }, /text must be a text/],
      [{ cuts: { a: -1 } }, /cuts must be/],
      [{ dtype: 'I8' }, /dtype must be one of/],
      [{ constants: 1 }, /constants must be true or false/],
      [{ modelType: 'glaa' }, /no architecture "glaa"/],
      [{ config: { ...config, hidden_size: 24 } }, /embedding\.weight has shape \[11,12\], where .* \[11,24\]/],
      [{ config: { ...config, num_hidden_layers: 1 } }, /a parameter layers\.1\..* doesn't have/],
      [{ config: { ...config, num_hidden_layers: 1e9 } }, /num_hidden_layers is 1000000000/],
    ]
    for (const [change, expected] of wrong)
      await assert.rejects(toPretrained(model, { ...source, ...change } as never), (error: Error) => {
        assert.ok(error instanceof PretrainedError, `${error.stack}`)
        assert.match(error.message, expected)
        return true
      })
    model.dispose()
  })

  it('whose bytes are changed are an equal model or a clear error', async () => {
    const next = random(11)
    const original = [...base]
    for (let run = 0; run < 150; run++) {
      const files = new Map(original.map(([name, bytes]) => [name, bytes.slice()]))
      const [name, bytes] = [...files][Math.floor(next() * files.size)]
      const kind = Math.floor(next() * 4)
      const at = Math.floor(next() * Math.min(bytes.length, 2500))
      if (kind === 0) files.set(name, bytes.slice(0, at))
      else if (kind === 1) files.set(name, Uint8Array.from([...bytes.slice(0, at), 0x31, ...bytes.slice(at)]))
      else for (let i = 0; i <= kind; i++) bytes[Math.floor(next() * Math.min(bytes.length, 2500))] = Math.floor(next() * 256)
      try {
        fromPretrained(files).model.dispose()
      } catch (error) {
        assert.ok(error instanceof PretrainedError, `${run}: ${(error as Error).stack}`)
        assert.doesNotMatch(error.message, /\n/)
      }
    }
  })
})
