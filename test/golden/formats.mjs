/**
 * Writes files of every format that this checkout writes, for the tests of later ones (test/nn/formats.test.ts), with what the models compute.
 * Older checkouts run it, too, as long as they have a Transformer and a Trainer. node test/golden/formats.mjs DIST FOLDER
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [dist, folder] = process.argv.slice(2).map((path) => resolve(path))
const load = (name) => import(pathToFileURL(join(dist, name, 'index.js')).href)
const [{ referenceDevice, setDevice, tensor }, nn] = [await load('engine'), await load('nn')]
setDevice(referenceDevice())
mkdirSync(folder, { recursive: true })

const tokens = Int32Array.from({ length: 18 }, (_, i) => (i * i * 3 + i) % 11)
const [prompt, source] = [tokens.slice(0, 9), tokens.slice(9)]
const row = (values) => tensor(values, { shape: [1, values.length], dtype: 'int32' })
const small = { symbols: 11, dModel: 8, heads: 2, dFf: 12, dropout: 0 }
const norm = { kind: 'rms', eps: 1e-5 }

/** Older checkouts have only the first. */
const models = {
  // Its settings are as old as there are checkpoints.
  transformer: () => new nn.Transformer({ ...small, layers: 1, attentionNorm: true, embeddingStd: 0.5 }, 7),
  mixers: () => new nn.Transformer({ ...small, layers: 2, attentionNorm: true, embeddingStd: 0.5, mixer: ['gated-delta', 'softmax'] }, 7),
  autoencoder: () => new nn.Autoencoder({ ...small, layers: 1, attentionNorm: true, embeddingStd: 0.5, mixer: 'delta' }, 7),
  'encoder-decoder': () => new nn.EncoderDecoder({ ...small, sourceSymbols: 11, encoderLayers: 1, decoderLayers: 1 }, 7),
  blocks: () =>
    new nn.BlockModel(
      {
        symbols: 11,
        dModel: 8,
        norm,
        tie: false,
        layers: [
          [
            { kind: 'softmax', heads: 2, norm },
            { kind: 'gated-feed-forward', inner: 12, norm },
          ],
        ],
      },
      7,
    ),
}

for (const [name, make] of Object.entries(models)) {
  if (name !== 'transformer' && !nn.EncoderDecoder) continue
  const model = make()
  const two = name === 'encoder-decoder'
  const optimizer = new nn.AdamW(model.namedParameters(), { lr: 0.01 })
  const trainer = new nn.Trainer(model, optimizer, { schedule: nn.constant(0.01), clipNorm: 1 })
  const targets = tokens.slice(1, 10)
  const batch = two
    ? { source: row(source), target: row(prompt), targets: row(targets) }
    : { tokens: prompt, targets, B: 1, T: prompt.length }
  for (let step = 0; step < 2; step++) await trainer.step(batch)
  model.training = false
  const result = two ? model.forward(row(source), row(prompt)) : model.forward(row(prompt))
  const digits = async (x) => JSON.stringify(Array.from(await x.read(), (value) => Number(value.toPrecision(9))))
  // Of the prompt, and of one token more from the state that it left.
  const extra = { tokens: JSON.stringify([...tokens]), logits: await digits(result.logits) }
  if (name === 'transformer') extra.next = await digits(model.forward(row(tokens.slice(9, 10)), result.state).logits)
  writeFileSync(join(folder, `${name}.safetensors`), await nn.writeCheckpoint(model, optimizer, extra))
  if (name === 'transformer' && nn.saveState) writeFileSync(join(folder, 'state.safetensors'), await nn.saveState(result.state))
}
