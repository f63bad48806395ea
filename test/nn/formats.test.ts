/** Files that earlier checkouts wrote (test/golden/formats.mjs) open, and their models compute what they computed then: docs/versions.md promises it. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { setDevice, tensor } from '../../engine/index.ts'
import {
  AdamW,
  Autoencoder,
  BlockModel,
  EncoderDecoder,
  kindOfCheckpoint,
  loadState,
  type ModelKind,
  modelOf,
  readCheckpoint,
  restoreOptimizer,
  Transformer,
} from '../../nn/index.ts'
import { assertRms, reference } from '../helpers.ts'

const folder = fileURLToPath(new URL('../../../test/golden/formats/', import.meta.url))
const read = (path: string): Uint8Array => readFileSync(folder + path)
const row = (values: number[]) => tensor(values, { shape: [1, values.length], dtype: 'int32' })

/** They are the numbers' first nine digits. */
const digits = 1e-8

describe('files of earlier versions', () => {
  before(() => setDevice(reference))

  const classes = {
    transformer: Transformer,
    mixers: Transformer,
    autoencoder: Autoencoder,
    'encoder-decoder': EncoderDecoder,
    blocks: BlockModel,
  }
  const written = readdirSync(folder).filter((version) => version !== 'checkpoint-1')

  it('are there for each version', () => {
    assert.deepEqual(written, ['0.1.0', 'checkpoint-2', 'checkpoint-3'])
    assert.deepEqual(readdirSync(`${folder}0.1.0`), [...Object.keys(classes), 'state'].map((name) => `${name}.safetensors`).sort())
  })

  for (const version of written)
    for (const [name, kind] of Object.entries(classes).filter(([name]) => readdirSync(folder + version).includes(`${name}.safetensors`)))
      it(`${version}: ${name} opens, computes the same and trains on`, async () => {
        const bytes = read(`${version}/${name}.safetensors`)
        const checkpoint = readCheckpoint(bytes, kindOfCheckpoint(bytes) as ModelKind)
        const model = modelOf(checkpoint)
        assert.ok(model instanceof kind)
        const [tokens, logits]: number[][] = [checkpoint.extra.tokens, checkpoint.extra.logits].map((text) => JSON.parse(text))
        const [prompt, source] = [row(tokens.slice(0, 9)), row(tokens.slice(9))]
        model.training = false
        const result = model instanceof EncoderDecoder ? model.forward(source, prompt) : model.forward(prompt)
        assertRms(await result.logits.read(), logits, digits)
        const optimizer = new AdamW(model.namedParameters(), { lr: 0.01 })
        restoreOptimizer(optimizer, checkpoint)
        assert.deepEqual([optimizer.steps, checkpoint.seed], [2, 7])
        if (name !== 'transformer') return
        // The state that the prompt left goes on with the next token.
        const state = loadState(read(`${version}/state.safetensors`), model as Transformer)
        const next = (model as Transformer).forward(row(tokens.slice(9, 10)), state)
        assertRms(await next.logits.read(), JSON.parse(checkpoint.extra.next), digits)
      })

  it('of a week before there was a version are refused, and are told apart', () => {
    assert.throws(() => readCheckpoint(read('checkpoint-1/transformer.safetensors')), /\(its metadata says format "fastweights-1", not /)
  })
})
