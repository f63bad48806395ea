/** `fastweights export`: what graphs consist of and declare, and the command. That they compute what the model does is bench/test/onnx-export.test.mjs's. */
import assert from 'node:assert/strict'
import { labml, readCheckpoint, Transformer, type TransformerConfig, writeCheckpoint } from '../../nn/index.ts'
import { type ExportOptions, exportModel } from '../../onnx/export.ts'
import { OnnxError, type Proto, readModel } from '../../onnx/proto.ts'
import { formula, pointsOf, type Varying } from '../../onnx/trace.ts'
import { Workplace } from '../cli/command.ts'

const symbols = 7
const small = { ...labml, dModel: 8, heads: 2, layers: 2, dFf: 12, norm: 'rms', attentionNorm: true } as const
/** Keys of length 1. */
const unit = { featureMap: 'silu', featureNorm: 'l2' } as const

async function exported(config: Partial<TransformerConfig>, options: Partial<ExportOptions> = {}) {
  const checkpoint = readCheckpoint(await writeCheckpoint(new Transformer({ ...small, symbols, ...config }), null))
  const { bytes, nodes } = exportModel(checkpoint, { domain: 'com.microsoft', half: false, context: 16, metadata: {}, ...options })
  return { bytes, nodes, model: readModel(bytes) }
}

const shapesOf = (infos: readonly Proto<'ValueInfoProto'>[]): Record<string, string> =>
  Object.fromEntries(
    infos.map(({ name, type }) => [name, type!.tensorType!.shape!.dim.map(({ dimParam, dimValue }) => dimParam || `${dimValue}`).join()]),
  )

/** Every operator in a graph, with those of graphs in it. */
const operatorsOf = ({ node }: Proto<'GraphProto'>): string[] =>
  node.flatMap(({ domain, opType, attribute }) => [
    domain === '' ? opType : `${domain} ${opType}`,
    ...attribute.flatMap(({ g }) => (g ? operatorsOf(g) : [])),
  ])

/** Of each mixer, how many nodes of which kinds two layers are. */
const systems: Record<string, [config: Partial<TransformerConfig>, nodes: Record<string, number>]> = {
  sum: [{ rule: 'sum', ...unit, conv: 0 }, { LinearAttention: 2 }],
  'linear-attention': [{ rule: 'linear-attention', conv: 0, featureMap: 'elu1', featureNorm: 'none' }, { LinearAttention: 4 }],
  'DPFP over its sum': [{ rule: 'sum', conv: 0, featureMap: 'dpfp', nu: 2, featureNorm: 'sum' }, { LinearAttention: 2 }],
  mamba2: [{ rule: 'mamba2', ...unit, conv: 0 }, { LinearAttention: 2 }],
  delta: [
    { rule: 'delta', ...unit, conv: 4 },
    { LinearAttention: 2, CausalConvWithState: 6 },
  ],
  'gated-delta': [
    { rule: 'gated-delta', ...unit, conv: 4 },
    { LinearAttention: 2, CausalConvWithState: 6 },
  ],
  kda: [
    { rule: 'kda', ...unit, conv: 4 },
    { LinearAttention: 2, CausalConvWithState: 6 },
  ],
  comba: [
    { rule: 'comba', ...unit, conv: 4 },
    { Scan: 2, CausalConvWithState: 6 },
  ],
  'a hybrid': [{ mixer: ['kda', 'softmax'], ...unit, positions: 'rotary', conv: 0 }, { LinearAttention: 1 }],
  // What it reads, and what it keeps.
  'aft-local': [{ mixer: { kind: 'aft-local', tableLength: 6, window: 3 } }, { Scan: 4 }],
  'delta-rnn': [{ mixer: 'delta-rnn' }, { Scan: 2 }],
  'a loop over tokens': [
    { mixer: ['delta-momentum', 'delta'], ...unit, conv: 0 },
    { Scan: 1, LinearAttention: 1 },
  ],
}

describe('onnx: exported graphs', () => {
  for (const [name, [config, nodes]] of Object.entries(systems))
    it(`${name}: in nodes of both domains`, async () => {
      for (const [domain, prefix, opset] of [
        ['com.microsoft', 'com.microsoft ', 21],
        ['ai.onnx', '', 27],
      ] as const) {
        const { model, nodes: found } = await exported(config, { domain })
        assert.deepEqual(found, nodes)
        const operators = new Set(operatorsOf(model.graph))
        for (const op of ['LinearAttention', 'CausalConvWithState']) assert.equal(operators.has(prefix + op), op in nodes, op)
        assert.equal([...operators].filter((op) => op.includes(' ') && domain === 'ai.onnx').length, 0)
        assert.equal(Number(model.opsetImport.find(({ domain }) => domain === '')!.version), opset)
        // Nothing is there that nothing reads.
        const names = JSON.stringify(model.graph.node, (_, x) => (typeof x === 'bigint' || x instanceof Uint8Array ? '' : x))
        for (const { name } of model.graph.initializer) assert.ok(names.includes(JSON.stringify(name)), name)
      }
    })

  it('states go in and out by their names, with sizes of batch, tokens and past', async () => {
    const { model } = await exported({ mixer: ['kda', 'softmax'], ...unit, positions: 'rotary', conv: 3 })
    const [inputs, outputs] = [shapesOf(model.graph.input), shapesOf(model.graph.output)]
    assert.deepEqual(inputs, {
      tokens: 'batch,tokens',
      'past.layers.0.S': 'batch,2,4,4',
      'past.layers.0.query': 'batch,2,8',
      'past.layers.0.key': 'batch,2,8',
      'past.layers.0.value': 'batch,2,8',
      'past.layers.1.keys': 'batch,2,past,4',
      'past.layers.1.values': 'batch,2,past,4',
      'past.position': 'batch',
    })
    assert.equal(outputs.logits, `batch,tokens,${symbols}`)
    const states = Object.keys(inputs).filter((name) => name.startsWith('past.'))
    assert.deepEqual(Object.keys(outputs).sort(), ['logits', ...states.map((name) => name.replace('past.', 'present.'))].sort())
    assert.equal(outputs['present.layers.1.keys'], 'batch,2,total,4')
  })

  it('what a state begins with, where that is not 0, is in the metadata', async () => {
    const { model } = await exported({ mixer: 'rwkv4' }, { metadata: { symbols: '["a"]' } })
    const said = Object.fromEntries(model.metadataProps.map(({ key, value }) => [key, value]))
    assert.equal(said.symbols, '["a"]')
    assert.deepEqual(JSON.parse(said.fresh), { 'past.layers.0.lse': '-Infinity', 'past.layers.1.lse': '-Infinity' })
  })

  it('what the host counts is refused, with the layer and its rule', async () => {
    const config = { mixer: ['delta', { kind: 'fast-weights', rule: 'ttt', minibatch: 4 }], ...unit }
    await assert.rejects(exported(config as never), (error: Error) => {
      assert.ok(error instanceof OnnxError)
      assert.match(error.message, /^layer 1 \(ttt\) can't be said in ONNX: .* minibatch = 1$/)
      return true
    })
  })

  it('numbers as formulas of sizes', () => {
    const varying: Varying = { B: [2, 3, 5], T: [7, 11, 13], P: [1, 4, 9] }
    const points = pointsOf(varying)
    const terms = (f: (p: Record<string, number>) => number) => Object.fromEntries(formula(points.map(f), varying))
    assert.deepEqual(
      terms(({ B, T, P }) => B * (T + P) * 6 + 4),
      { '': 4, BT: 6, BP: 6 },
    )
    assert.deepEqual(
      terms(() => 0),
      {},
    )
    assert.throws(() => terms(({ T }) => T * T), OnnxError)
    assert.throws(() => terms(({ T }) => T / 2), OnnxError)
  })
})

describe('onnx: the command export', () => {
  const place = new Workplace()
  after(() => place.remove())

  it('writes a model with its vocabulary; half as large with --precision f16', async () => {
    await place.train('--out run --steps 1')
    assert.match(
      await place.succeed('export run'),
      /^run\/model\.onnx: \d+ kB, 3 CausalConvWithState, 1 Scan, the rest in elementary nodes\n$/,
    )
    const full = place.read('run/model.onnx')
    const said = Object.fromEntries(readModel(full).metadataProps.map(({ key, value }) => [key, value]))
    assert.ok(JSON.parse(said.symbols).includes('I'), said.symbols)
    await place.succeed('export run/checkpoint.safetensors --precision f16 --domain ai.onnx --out half.onnx')
    const { graph } = readModel(place.read('half.onnx'))
    const types = graph.initializer.filter(({ dims }) => dims.length === 2).map(({ dataType }) => dataType)
    assert.ok(types.length > 0 && types.every((type) => type === 10), types.join())
  })

  it('what is wrong is one line, and nothing is written', async () => {
    for (const [words, message] of [
      ['export nothing', /can't read the checkpoint nothing: no such file or folder/],
      ['export run --out none/model.onnx', /can't write none\/model\.onnx/],
      ['export run --format pickle', /--format: expected one of onnx/],
      ['export run --format fla', /run holds no model of fla: .*; leave --format out for ONNX/],
      ['export run --out run/checkpoint.safetensors', /can't write run\/checkpoint.safetensors: it is the file that is read/],
      ['inspect run --json run/checkpoint.safetensors', /can't write run\/checkpoint.safetensors: it is the file that is read/],
    ] as const) {
      const { code, stdout, stderr } = await place.run(words)
      assert.ok(code !== 0 && stdout === '', words)
      assert.match(stderr, message)
      assert.equal(stderr.trim().split('\n').length, 1)
    }
  })
})
