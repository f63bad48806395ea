/** `fastweights compare`: ONNX cases of others, options that those lack by hand, and files of strangers. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { besides } from '../../cli/compare.ts'
import { type Device, setDevice } from '../../engine/index.ts'
import { readSafetensors, type SafetensorsEntry, writeSafetensors } from '../../nn/safetensors.ts'
import { compareGraph } from '../../onnx/compare.ts'
import { runGraph, tensorOf } from '../../onnx/graph.ts'
import { OnnxError, type ProtoInit, readModel, writeModel } from '../../onnx/proto.ts'
import { main } from '../cli/command.ts'
import { random, reference, sizeOf, uniforms, wasm, webgpu } from '../helpers.ts'

const folder = fileURLToPath(new URL('../../../../shared/golden/interop/onnx/', import.meta.url))
const cases = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.onnx')) : []
const noFiles = (): never => assert.fail('nothing stands outside')

type Tensors = Map<string, SafetensorsEntry>
const compared = (bytes: Uint8Array, tensors: Tensors) => compareGraph(bytes, tensors, noFiles)

for (const [name, open] of [
  ['reference', async () => reference],
  ['wasm', () => wasm()],
  ['webgpu', webgpu],
] as const)
  describe(`onnx: cases of others on ${name}`, () => {
    if (cases.length === 0) {
      it('skipped: ../shared/golden/interop/onnx is absent', function () {
        this.skip()
      })
      return
    }
    before(async function () {
      setDevice(await (open as (test: Mocha.Context) => Promise<Device>)(this))
    })
    after(() => setDevice(reference))
    for (const file of cases)
      it(file, async () => {
        const { tensors } = readSafetensors(readFileSync(folder + file.replace('.onnx', '.safetensors')))
        const result = await compared(readFileSync(folder + file), tensors)
        assert.deepEqual(
          [result.tensors.filter(({ ok }) => !ok), result.notCompared, result.ok],
          [[], [], true],
          JSON.stringify(result.tensors),
        )
        assert.equal(result.tensors.length, [...tensors.keys()].filter((name) => name.startsWith('out.')).length)
      })
  })

// ---- graphs by hand -----------------------------------------------------------------------------------------------------------------

const f32 = (shape: number[], seed: number, low = -1, high = 1): SafetensorsEntry => ({
  dtype: 'F32',
  shape,
  data: uniforms(seed, sizeOf(shape), low, high),
})

interface ByHand {
  op?: string
  domain?: string
  opset?: number
  attributes?: Record<string, number | string>
  inputs: Record<string, SafetensorsEntry>
  slots: readonly string[]
  outputs: readonly string[]
}

const elemTypes: Record<string, number> = { F32: 1, F16: 10, BF16: 16, I32: 6 }
const attribute = (name: string, value: number | string): ProtoInit<'AttributeProto'> => {
  if (typeof value === 'string') return { name, s: new TextEncoder().encode(value), type: 3 }
  return name === 'scale' ? { name, f: value, type: 1 } : { name, i: BigInt(value), type: 2 }
}
const declared = (name: string, { dtype, shape }: SafetensorsEntry): ProtoInit<'ValueInfoProto'> => ({
  name,
  type: { tensorType: { elemType: elemTypes[dtype], shape: { dim: shape.map((d) => ({ dimValue: BigInt(d) })) } } },
})

/** A model of one node, as a file has it. */
const modelOf = ({
  op = 'LinearAttention',
  domain = '',
  opset = domain === '' ? 27 : 1,
  attributes = {},
  inputs,
  slots,
  outputs,
}: ByHand) =>
  ({
    irVersion: 13n,
    opsetImport: [{ domain, version: BigInt(opset) }],
    graph: {
      name: 'case',
      input: Object.entries(inputs).map(([name, entry]) => declared(name, entry)),
      output: outputs.filter((name) => name !== '').map((name) => ({ name })),
      node: [
        {
          name: 'the node',
          domain,
          opType: op,
          input: slots,
          output: outputs,
          attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
        },
      ],
    },
  }) satisfies ProtoInit<'ModelProto'>

const run = (given: ByHand, expected: Record<string, SafetensorsEntry> = {}) =>
  compared(
    writeModel(modelOf(given)),
    new Map([
      ...Object.entries(given.inputs).map(([name, entry]) => [`in.${name}`, entry] as const),
      ...Object.entries(expected).map(([name, entry]) => [`out.${name}`, entry] as const),
    ]),
  )

/** A case of the gated delta rule; sizes are small and uneven. */
const attention = (more: Partial<ByHand> = {}): ByHand => ({
  attributes: { q_num_heads: 4, kv_num_heads: 2 },
  inputs: {
    query: f32([2, 3, 20], 1),
    key: f32([2, 3, 10], 2, -0.5, 0.5),
    value: f32([2, 3, 6], 3),
    decay: f32([2, 3, 2], 4, -1, 0),
    beta: f32([2, 3, 1], 5, 0, 1),
  },
  slots: ['query', 'key', 'value', '', 'decay', 'beta'],
  outputs: ['output', 'present_state'],
  ...more,
})

describe('onnx: graphs by hand', () => {
  before(() => setDevice(reference))

  it('a convolution with dilation in both layouts, and its state', async () => {
    // Taps 1, 10, 100 two places apart, on 1, 2, ...: y_t = 100 x_t + 10 x_{t-2} + x_{t-4}.
    const weight: SafetensorsEntry = { dtype: 'F32', shape: [2, 1, 3], data: Float32Array.of(1, 10, 100, 1, 10, 100) }
    const rows = [
      [1, 2, 3, 4, 5, 6],
      [2, 4, 6, 8, 10, 12],
    ]
    const entry = (shape: number[], data: number[]): SafetensorsEntry => ({ dtype: 'F32', shape, data: Float32Array.from(data) })
    const y = rows.map((x) => x.map((_, t) => 100 * x[t] + 10 * (x[t - 2] ?? 0) + (x[t - 4] ?? 0)))
    const last = rows.map((x) => x.slice(2))
    const turned = (m: number[][]): number[] => m[0].flatMap((_, t) => m.map((row) => row[t]))
    const given = { op: 'CausalConvWithState', domain: 'com.microsoft', slots: ['input', 'weight'], outputs: ['output', 'present_state'] }
    const first = await run(
      { ...given, attributes: { dilation: 2 }, inputs: { input: entry([1, 2, 6], rows.flat()), weight } },
      { output: entry([1, 2, 6], y.flat()), present_state: entry([1, 2, 4], last.flat()) },
    )
    assert.deepEqual(
      first.tensors.map(({ error, ok }) => [error, ok]),
      [
        [0, true],
        [0, true],
      ],
    )
    const second = await run(
      { ...given, attributes: { dilation: 2, channels_last: 1 }, inputs: { input: entry([1, 6, 1, 2], turned(rows)), weight } },
      { output: entry([1, 6, 1, 2], turned(y)), present_state: entry([1, 4, 1, 2], turned(last)) },
    )
    assert.deepEqual(
      second.tensors.map(({ error, ok }) => [error, ok]),
      [
        [0, true],
        [0, true],
      ],
    )
  })

  it('no tokens: an empty output, and the state as it was', async () => {
    const past_state = f32([2, 2, 5, 3], 6)
    const given = attention({ slots: ['query', 'key', 'value', 'past_state', 'decay', 'beta'] })
    const none = Object.fromEntries(Object.entries(given.inputs).map(([name, { shape }]) => [name, f32([2, 0, shape[2]], 1)]))
    const { tensors } = await run({ ...given, inputs: { ...none, past_state } }, { output: f32([2, 0, 12], 1), present_state: past_state })
    assert.deepEqual(
      tensors.map(({ error, ok }) => [error, ok]),
      [
        [0, true],
        [0, true],
      ],
    )
  })

  it('GatedDeltaNet on requests of different lengths is each by itself', async () => {
    const inputs = {
      query: f32([5, 2, 4], 1),
      key: f32([5, 2, 4], 2),
      value: f32([5, 4, 3], 3),
      cu_seqlens: { dtype: 'I32', shape: [3], data: Int32Array.of(0, 2, 5) } as SafetensorsEntry,
      decay: f32([5, 4], 4, -1, 0),
      beta: f32([5, 4], 5, 0, 1),
    }
    const given = { op: 'GatedDeltaNet', domain: 'com.microsoft', attributes: { qk_l2_norm: 1 }, outputs: ['output', 'final_state'] }
    const all = await outputs({ ...given, inputs, slots: Object.keys(inputs) })
    const { cu_seqlens: _, ...rest } = inputs
    for (const [b, begin, end] of [
      [0, 0, 2],
      [1, 2, 5],
    ]) {
      const some = Object.fromEntries(
        Object.entries(rest).map(([name, { shape, data }]) => {
          const row = sizeOf(shape.slice(1))
          return [
            name,
            { dtype: 'F32', shape: [end - begin, ...shape.slice(1)], data: (data as Float32Array).slice(begin * row, end * row) },
          ]
        }),
      ) as Record<string, SafetensorsEntry>
      const state = { dtype: 'F32', shape: [1, 4, 3, 4], data: new Float32Array(48) } as SafetensorsEntry
      const one = await outputs({
        ...given,
        inputs: { ...some, state },
        slots: ['query', 'key', 'value', '', 'decay', 'beta', 'state'],
      })
      assert.deepEqual(one[0], all[0].slice(begin * 12, end * 12))
      assert.deepEqual(one[1], all[1].slice(b * 48, b * 48 + 48))
    }
  })

  it('what a case says wrongly falls short, and is named', async () => {
    const given = attention()
    const [output, state] = (await outputs(given)).map((data) => Float32Array.from(data))
    const right = { output: entryOf([2, 3, 12], output), present_state: entryOf([2, 2, 5, 3], state) }
    assert.ok((await run(given, right)).tensors.every(({ ok }) => ok))
    const largest = Math.max(...output.map(Math.abs))
    const moved = Float32Array.from(output, (x, i) => (i === 7 ? x + 2e-5 * largest : x))
    const broken = Float32Array.from(output, (x, i) => (i === 7 ? Number.NaN : x))
    const f16 = { dtype: 'F16', shape: [2, 3, 12], data: output } as SafetensorsEntry
    for (const [bad, reason] of [
      [entryOf([2, 3, 12], moved), undefined],
      [entryOf([2, 3, 12], broken), /^entry 7 is .* here, NaN expected$/],
      [entryOf([2, 12, 3], output), /^it has shape \[2,3,12\] here$/],
      [f16, /^it is F32 here, F16 expected$/],
    ] as const) {
      const { tensors } = await run(given, { ...right, output: bad })
      assert.deepEqual(
        tensors.map(({ ok }) => ok),
        [false, true],
      )
      if (reason) assert.match(tensors[0].problem!, reason)
      else assert.ok(Math.abs(tensors[0].error! - 2e-5) < 1e-7)
    }
    const { ok, notCompared } = await run(given, { ...right, other: right.output })
    assert.equal(ok, false)
    assert.match(notCompared[0].reason, /no output of that name \(it has output, present_state\)/)
  })

  it('what a schema forbids is an error that names the node', async () => {
    const { inputs } = attention()
    const beyond: [Partial<ByHand>, RegExp][] = [
      [{ attributes: { q_num_heads: 4 } }, /attribute kv_num_heads is missing/],
      [{ attributes: { q_num_heads: 4, kv_num_heads: 3 } }, /q_num_heads = 4 must be a multiple of kv_num_heads = 3/],
      [{ attributes: { q_num_heads: 2, kv_num_heads: 4 } }, /must be a multiple/],
      [{ attributes: { q_num_heads: 4, kv_num_heads: 2, update_rule: 'oja' } }, /is 'oja', expected linear, gated, delta, gated_delta/],
      [{ attributes: { q_num_heads: 4, kv_num_heads: 2, update_rule: 'gated' } }, /update_rule gated takes no beta/],
      [{ attributes: { q_num_heads: 4, kv_num_heads: 2, dilation: 2 } }, /has no attribute 'dilation'/],
      [{ attributes: { q_num_heads: 4, kv_num_heads: 2, chunk_size: 'x' } }, /chunk_size isn't of the type int/],
      [{ slots: ['query', 'key', 'value', '', 'decay'] }, /needs beta/],
      [{ slots: ['query', 'key', ''] }, /its input value is left out/],
      [{ slots: ['query', 'key', 'value', '', 'decay', 'beta', 'beta'] }, /7 inputs, 6 at most/],
      [{ outputs: ['output'] }, /its output present_state is left out/],
      [{ opset: 26 }, /since opset 27, the model imports 26/],
      [{ op: 'Attention' }, /'ai.onnx' has no such operator here: there are LinearAttention/],
      [{ op: 'LinearAttentionGate' }, /no such operator/],
      [{ inputs: { ...inputs, value: f32([2, 3, 7], 3) } }, /value is 7 wide, which isn't a multiple of kv_num_heads = 2/],
      [{ inputs: { ...inputs, decay: f32([2, 3, 4], 3, -1, 0) } }, /decay has shape \[2,3,4\], expected \[2,3,2\] or \[2,3,10\]/],
      [{ inputs: { ...inputs, decay: f32([2, 3, 2], 3, 0.5, 1) } }, /the gate holds .* at most 0/],
      [{ inputs: { ...inputs, beta: { ...f32([2, 3, 2], 3), dtype: 'F16' } as SafetensorsEntry } }, /beta is F16, expected F32/],
      [{ slots: ['query', 'key', 'nothing'] }, /'nothing' is no input, initialiser or output of a node/],
    ]
    for (const [more, message] of beyond)
      await assert.rejects(run(attention(more)), (error: Error) => {
        assert.ok(error instanceof OnnxError, error.stack)
        assert.match(error.message, message)
        assert.match(error.message, /^node 'the node' \(/)
        return true
      })
    // com.microsoft's own: what a rule has no use for is ignored.
    const ignored = attention({ domain: 'com.microsoft', attributes: { q_num_heads: 4, kv_num_heads: 2, update_rule: 'gated' } })
    assert.ok((await run(ignored)).tensors.length === 0)
  })

  it('what the schema of GatedDeltaNet or of a convolution of com.microsoft forbids, too', async () => {
    const inputs = { q: f32([4, 2, 4], 1), v: f32([4, 2, 3], 2), decay: f32([4, 2], 3, -1, 0), beta: f32([4, 2], 4, 0, 1), a: f32([2], 5) }
    const S: Record<string, SafetensorsEntry> = { S: f32([1, 2, 3, 4], 6) }
    const half = { ...f32([4, 2], 3, -1, 0), dtype: 'F16' } as SafetensorsEntry
    const net = (more: Partial<ByHand>): ByHand => ({
      ...{ op: 'GatedDeltaNet', domain: 'com.microsoft', inputs: { ...inputs, ...S }, outputs: ['output'] },
      ...{ slots: ['q', 'q', 'v', '', 'decay', 'beta', 'S'], ...more },
    })
    const conv = { input: f32([1, 1, 2], 1), weight: f32([1, 1, 1], 2) }
    for (const [given, message] of [
      [net({ attributes: { update_rule: 'linear' } }), /update_rule linear takes no decay/],
      [net({ slots: ['q', 'q', 'v', '', 'decay', 'beta', 'S', 'a', 'a'] }), /a_log and dt_bias go with a gate_activation/],
      [net({ attributes: { qk_l2_norm: 2 } }), /qk_l2_norm is 2, expected 0 to 1/],
      [net({ inputs: { ...inputs, ...S, beta: half } }), /beta is F16, expected F32/],
      [
        {
          ...{ op: 'CausalConvWithState', domain: 'com.microsoft', attributes: { channels_last: 2 }, inputs: conv },
          ...{ slots: ['input', 'weight'], outputs: ['output', 'present_state'] },
        },
        /channels_last is 2, expected 0 to 1/,
      ],
    ] as const)
      await assert.rejects(run(given), message)
  })

  // onnxruntime 1.32: a key of length s is divided by sqrt(s^2 + 1e-6) beside the gate of KDA, and by sqrt(s^2 + 1e-12) else.
  it('GatedDeltaNet divides short keys, and those that are 0, as onnxruntime does', async () => {
    for (const [gate_activation, eps] of [
      ['none', 1e-12],
      ['sigmoid', 1e-6],
    ] as const) {
      const gated = gate_activation !== 'none'
      const key = [0, 3e-4, 0, 4e-4]
      const inputs = {
        query: entryOf([1, 1, 4], Float32Array.of(1, 2, 3, 4)),
        key: entryOf([1, 1, 4], Float32Array.from(key)),
        value: entryOf([1, 1, 1], Float32Array.of(1)),
        decay: entryOf([1, 1], Float32Array.of(0)),
        beta: entryOf([1, 1], Float32Array.of(1)),
        S: entryOf([1, 1, 1, 4], new Float32Array(4)),
        a: entryOf([1], Float32Array.of(0)),
      }
      const slots = ['query', 'key', 'value', '', 'decay', 'beta', 'S', ...(gated ? ['a', 'a'] : [])]
      const given = (used: typeof inputs): ByHand => ({
        ...{ op: 'GatedDeltaNet', domain: 'com.microsoft', attributes: { qk_l2_norm: 1, scale: 1, gate_activation }, slots },
        ...{ inputs: gated ? used : (({ a: _, ...rest }) => rest)(used), outputs: ['output', 'final_state'] },
      })
      const [, state] = await outputs(given(inputs))
      for (const [i, x] of key.entries()) assert.ok(Math.abs(state[i] - x / Math.sqrt(25e-8 + eps)) < 1e-6, `${gate_activation}: ${state}`)
      const [y, none] = await outputs(given({ ...inputs, key: entryOf([1, 1, 4], new Float32Array(4)) }))
      assert.deepEqual([...y, ...none], [0, 0, 0, 0, 0])
    }
  })

  it('graphs with initialisers, nodes out of order, and data in other files', async () => {
    const { model, tensors } = twoNodes()
    assert.equal((await compared(writeModel(model), tensors)).tensors.length, 0)
    const graph = model.graph
    const turned = { ...model, graph: { ...graph, node: [...graph.node].reverse() } }
    await assert.rejects(compared(writeModel(turned), tensors), /node 'second' .*'middle' comes from node 'first'.* \(a cycle\?\)/)
    const lacks = { ...model, graph: { ...graph, initializer: [] } }
    await assert.rejects(compared(writeModel(lacks), tensors), /node 'first' .*'weight' is no input, initialiser/)
    const few = { ...graph.initializer[0], dims: [2n, 1n, 2n ** 40n] }
    await assert.rejects(
      compared(writeModel({ ...model, graph: { ...graph, initializer: [few] } }), tensors),
      /initialiser 'weight': it holds 8/,
    )

    const here = mkdtempSync(join(tmpdir(), 'onnx-'))
    try {
      const inner = join(here, 'inner')
      mkdirSync(inner)
      for (const place of [here, inner]) writeFileSync(join(place, 'weights.bin'), graph.initializer[0].rawData)
      symlinkSync(join(here, 'weights.bin'), join(inner, 'link.bin'))
      const at = (location: string, offset = '0') => {
        const externalData = Object.entries({ location, offset }).map(([key, value]) => ({ key, value }))
        const { rawData: _, ...rest } = graph.initializer[0]
        const initializer = [{ ...rest, dataLocation: 1, externalData }]
        return compareGraph(writeModel({ ...model, graph: { ...graph, initializer } }), tensors, besides(join(inner, 'case.onnx')))
      }
      assert.equal((await at('weights.bin')).tensors.length, 0)
      for (const outside of ['../weights.bin', join(here, 'weights.bin'), 'link.bin', 'a/../../weights.bin', '.'])
        await assert.rejects(at(outside), /initialiser 'weight': .*(isn't in|leads out of) the model's folder/, outside)
      await assert.rejects(at('none.bin'), /initialiser 'weight': .*can't be read/)
      await assert.rejects(at('weights.bin', '9'), /aren't within 'weights.bin', which has 32/)
    } finally {
      rmSync(here, { recursive: true })
    }
  })

  it('1,000 mutated files: a clear error, or a result', async () => {
    const { model, tensors } = twoNodes()
    const bytes = writeModel(model)
    const held = reference.bytesInUse()
    const next = random(Number(process.env.SEED) || 1)
    const below = (n: number): number => Math.floor(next() * n)
    let refused = 0
    for (let i = 0; i < 1000; i++) {
      let file = Uint8Array.from(bytes)
      for (let times = 1 + below(3); times > 0; times--) {
        const at = below(file.length)
        const kind = below(4)
        if (kind === 0) file[at] = below(256)
        else if (kind === 1) file[at] ^= 1 << below(8)
        else if (kind === 2) file = file.slice(0, at)
        else
          file = Uint8Array.from([...file.slice(0, at), ...Array.from({ length: 1 + below(5) }, () => 128 + below(128)), ...file.slice(at)])
        if (file.length === 0) break
      }
      try {
        await compared(file, tensors)
      } catch (error) {
        refused++
        assert.ok(error instanceof OnnxError, `file ${i}: ${(error as Error).stack}`)
        assert.ok(error.message.length < 500 && !error.message.includes('\n'), error.message)
      }
    }
    assert.ok(refused > 500 && refused < 1000, `${refused} were refused`)
    assert.equal(reference.bytesInUse(), held)
  })

  it('two gigabytes promised, and files of other kinds', () => {
    const promised = Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0x07, 0x0a)
    assert.throws(() => readModel(promised), /OnnxError|isn't an ONNX model, or is broken/)
    assert.throws(() => readModel(new Uint8Array(0)), /the file is empty/)
    assert.throws(() => readModel(new TextEncoder().encode('{"a": 1}')), /the file is JSON/)
    assert.throws(() => readModel(Uint8Array.of(8, 13)), /it has no graph/)
  })
})

const entryOf = (shape: number[], data: Float32Array<ArrayBuffer>): SafetensorsEntry => ({ dtype: 'F32', shape, data })

/** What a graph gives. */
async function outputs(given: ByHand): Promise<number[][]> {
  const inputs = new Map(
    Object.entries(given.inputs).map(([name, { dtype, data, shape }]) => {
      const type = dtype as 'F32' | 'I32'
      return [name, { type, tensor: tensorOf(type, data as Float32Array, shape) }] as const
    }),
  )
  const made = runGraph(readModel(writeModel(modelOf(given))), inputs, noFiles)
  return Promise.all([...made.values()].map(async ({ tensor }) => Array.from(await tensor.read())))
}

/** A convolution with constant taps, and one of what it gives. */
function twoNodes() {
  const input = f32([1, 2, 5], 1)
  const raw = uniforms(2, 8)
  const weight = { name: 'weight', dataType: 1, dims: [2n, 1n, 4n], rawData: new Uint8Array(raw.buffer) }
  const node = (name: string, from: string, to: string) => ({
    name,
    opType: 'CausalConvWithState',
    input: [from, 'weight'],
    output: [to, `${name}_state`],
    attribute: [attribute('activation', 'silu')],
  })
  const model = {
    irVersion: 13n,
    opsetImport: [{ domain: '', version: 27n }],
    graph: {
      name: 'two',
      initializer: [weight],
      input: [declared('input', input)],
      output: [{ name: 'output' }, { name: 'first_state' }],
      node: [node('first', 'input', 'middle'), node('second', 'middle', 'output')],
    },
  }
  return { model, tensors: new Map([['in.input', input]]) }
}

const fastweights = (words: readonly string[]) => spawnSync(process.execPath, [main, ...words], { encoding: 'utf8' })

describe('onnx: the command', () => {
  it('prints a table or one object, and says by its exit status how it went', () => {
    const here = mkdtempSync(join(tmpdir(), 'onnx-'))
    const at = (name: string): string => join(here, name)
    try {
      const weight = { dtype: 'F32', shape: [1, 1, 1], data: Float32Array.of(2) } as SafetensorsEntry
      const given: ByHand = {
        op: 'CausalConvWithState',
        inputs: { input: entryOf([1, 1, 2], Float32Array.of(1, 3)), weight },
        slots: ['input', 'weight'],
        outputs: ['output', 'present_state'],
      }
      const tensors = (...values: number[]) =>
        writeSafetensors([
          ...Object.entries(given.inputs).map(([name, entry]) => [`in.${name}`, entry] as const),
          ['out.output', entryOf([1, 1, 2], Float32Array.from(values))],
        ])
      writeFileSync(at('case.onnx'), writeModel(modelOf(given)))
      writeFileSync(at('right.safetensors'), tensors(2, 6))
      writeFileSync(at('wrong.safetensors'), tensors(2, 6.1))
      const right = fastweights(['compare', at('case.onnx'), at('right.safetensors'), '--json'])
      assert.equal(right.status, 0, right.stderr)
      const object = JSON.parse(right.stdout)
      assert.deepEqual(object, {
        model: at('case.onnx'),
        package: 'onnx',
        device: 'wasm',
        ok: true,
        tensors: [{ name: 'out.output', shape: [1, 1, 2], error: 0, measure: 'relative', tolerance: 2e-6, ok: true }],
        notCompared: [{ name: 'out.present_state', reason: 'the case has no such tensor' }],
      })
      const wrong = fastweights(['compare', at('case.onnx'), at('wrong.safetensors'), '--device', 'reference'])
      assert.equal(wrong.status, 1)
      assert.match(
        wrong.stdout,
        /on reference: not all hold\n {2}out.output {2}\[1,1,2\] {2}1.6e-2 of the largest entry \(at most 2e-6\) {2}FALLS SHORT/,
      )
      for (const [words, message] of [
        [[here], /2 files of weights/],
        [[at('case.onnx')], /case.onnx needs a case, a safetensors file/],
        [[at('none.onnx'), at('right.safetensors')], /can't read .*none.onnx: no such file/],
        [[at('case.onnx'), at('case.onnx')], /case.onnx can't be used: safetensors: /],
        [[at('right.safetensors'), at('right.safetensors')], /config.json/],
      ] as const) {
        const { status, stderr, stdout } = fastweights(['compare', ...words, '--json'])
        assert.deepEqual([status, stdout], [2, ''], stderr)
        assert.match(stderr, message)
        assert.equal(stderr.trim().split('\n').length, 1)
      }
    } finally {
      rmSync(here, { recursive: true })
    }
  })
})
