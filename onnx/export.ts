/**
 * A trained model as an ONNX graph that decodes: tokens and states in, logits and states out, of any number of rows and tokens. The model's own
 * forward pass is run on a device that notes what it is asked for (trace.ts), and each kernel is said in nodes (kernels.ts): LinearAttention and
 * CausalConvWithState where a layer is that, Scan over a step where it isn't, the rest in standard nodes. A model whose forward pass is a loop of the
 * host over tokens is one Scan over its step of one token. Tests: test/onnx/export.test.ts, bench/test/export.test.mjs.
 */
import { noGrad } from '../engine/recording.ts'
import { type Device, setDevice, type Tensor } from '../engine/index.ts'
import { empty, getDevice, tensor } from '../engine/tensor.ts'
import { type Checkpoint, modelOf } from '../nn/checkpoint.ts'
import { freshOf } from '../nn/parts.ts'
import { initialState, mapState } from '../nn/state.ts'
import type { Transformer, TransformerState } from '../nn/transformer.ts'
import { emit } from './kernels.ts'
import { type Domain, type Known, Memory } from './memory.ts'
import { type Common, declared, Graph, int, type Value } from './nodes.ts'
import { OnnxError, type ProtoInit, writeModel } from './proto.ts'
import { Block, type Blocks, type Call, isConstant, merge, mergeCalls, num, type Num, pointsOf, product, type Recorder, recorder, type Varying } from './trace.ts'

export const domains = ['ai.onnx', 'com.microsoft'] as const satisfies readonly Domain[]

export interface ExportOptions {
  domain: Domain
  /** Parameters in float16; what is computed, and states, stay float32. */
  half: boolean
  /** Tokens that tables of positions reach. */
  context: number
  /** What the file's metadata holds beside what a state begins with. */
  metadata: Record<string, string>
}

/** The opsets of each choice, and the version of the format that they came with. */
const opsets: Record<Domain, { ir: bigint; imports: Record<string, number> }> = {
  'ai.onnx': { ir: 13n, imports: { '': 27 } },
  'com.microsoft': { ir: 10n, imports: { '': 21, 'com.microsoft': 1 } },
}

interface Trace {
  calls: Call[]
  tokens: Block
  logits: { block: Block; dims: number[] }
  /** Parts of the state by path, before and after; counts are left out. */
  before: Map<string, { block: Block; dims: number[] }>
  after: Map<string, { block: Block; dims: number[] }>
  counts: string[]
}

const blockOf = (t: Tensor): Block => t.storage as Block

/** The forward pass of B rows of T tokens, P of them before. Row b has had P + b tokens, so that rows can be told apart. */
function traced(model: Transformer, rec: Recorder, { B, T, P = 3 }: Record<string, number>): Trace {
  const before: Trace['before'] = new Map()
  const after: Trace['after'] = new Map()
  const counts: string[] = []
  const parts = (state: unknown, into: Trace['after']): void =>
    void mapState(state, (t, name) => into.set(name, { block: blockOf(t), dims: [...t.shape] }))
  const { calls, result } = rec.record(() =>
    noGrad(() => {
      const tokens = tensor(new Int32Array(B * T), { shape: [B, T], device: rec.device })
      const state = mapState(
        initialState(model as never, B),
        (t) => empty(t.shape.map((d) => (d === 0 ? P : d)), rec.device),
        (held, name) => {
          counts.push(name)
          // What is visible of keys: all.
          return name.endsWith('visible') ? new Int32Array(B * P).fill(1) : Int32Array.from(held, (_, b) => b)
        },
      ) as TransformerState
      parts(state, before)
      // Filling what is replaced by inputs is no part of the pass.
      const { logits, state: next } = model.forward(tokens, state)
      parts(next, after)
      return { tokens: blockOf(tokens), logits: { block: blockOf(logits), dims: [...logits.shape] } }
    }),
  )
  return { calls, ...result, before, after, counts }
}

/** The bytes of an ONNX model. Throws an OnnxError that says what can't be said. */
export function exportModel(checkpoint: Checkpoint, options: ExportOptions): Uint8Array {
  const rec = recorder()
  const device = getDevice()
  setDevice(rec.device as Device)
  try {
    const model = modelOf(checkpoint)
    model.train(false)
    rec.settle()
    return writeModel(graphOf(model, rec, options))
  } finally {
    setDevice(device)
  }
}

const dimensions: Record<string, string> = { B: 'batch', T: 'tokens', P: 'past' }

function graphOf(model: Transformer, rec: Recorder, { domain, half, context, metadata }: ExportOptions): ProtoInit<'ModelProto'> {
  const grows = [...new Set(JSON.stringify(model.stateParts(1)).match(/-\d+/g) ?? [])]
  const varying: Varying = { B: [2, 3, 5], T: [131, 137, 149], ...(grows.length > 0 && { P: [7, 11, 17] }) }
  const points = pointsOf(varying)
  const traces = points.map((point) => traced(model, rec, point))
  const calls = mergeCalls(traces.map(({ calls }) => calls))
  const like = num(0, points.map(() => 0))
  const all = <X>(f: (trace: Trace) => X): X => merge(traces.map(f)) as X
  type Found = { block: Blocks; dims: Num[] }
  const mergeParts = (f: (trace: Trace) => Map<string, unknown>): Map<string, Found> =>
    new Map(Object.entries(all((trace) => Object.fromEntries(f(trace))) as Record<string, Found>))
  const before = mergeParts(({ before }) => before)
  const after = mergeParts(({ after }) => after)
  const logits = all(({ logits }) => logits) as unknown as Found
  const tokens = all(({ tokens }) => tokens) as unknown as Blocks

  const letter = (name: string, axis: number) => (g: Graph) => g.op('Shape', [name], { start: int(axis), end: int(axis + 1) })
  const grown = [...before].find(([, { dims }]) => dims.some((d) => 'P' in varying && isPast(d)))
  const common: Common = {
    ...{ varying, half, initializers: [], known: new Map(), count: 0, main: undefined as never },
    sizes: {
      B: letter('tokens', 0),
      T: letter('tokens', 1),
      ...(grown && { P: letter(`past.${grown[0]}`, grown[1].dims.findIndex(isPast)) }),
    },
  }
  const main = new Graph(common)
  common.main = main
  const { B, T } = Object.fromEntries(Object.keys(varying).map((name) => [name, points.map((point) => point[name])])) as Record<string, Num>
  const usesPosition = { value: false }
  const position = (): string => {
    usesPosition.value = true
    return 'past.position'
  }
  const known: Known = {
    domain,
    position,
    inputs: new Map<number, Value>([
      [tokens.id, { name: 'tokens', dims: [B, T] }],
      ...[...before].map(([name, { block, dims }]): [number, Value] => [block.id, { name: `past.${name}`, dims }]),
    ]),
    parameters: new Map(
      [...model.namedParameters()].map(([name, t]) => [blockOf(t).id, { name, dims: [...t.shape] }]),
    ),
    table: tableOf(model, rec, { B, T, context, position, points }),
    places: () => undefined,
  }
  const memory = new Memory(main, known)
  emit(memory, calls)
  const rename = (value: Value, name: string): void => {
    main.nodes.push({ name: main.fresh('node'), opType: 'Identity', input: [value.name], output: [name] })
  }
  rename(memory.as(logits.block, logits.dims), 'logits')
  for (const [name, { block, dims }] of after) rename(memory.as(block, dims), `present.${name}`)
  if (usesPosition.value) rename({ name: main.op('Add', ['past.position', main.size(T)]), dims: [B] }, 'present.position')
  const size = (n: Num): number | string => {
    if (isConstant(n)) return n[0]
    const found = Object.entries({ B, T }).find(([, m]) => m.every((x, i) => x === n[i]))
    return found ? dimensions[found[0]] : isPast(n) ? 'past' : 'total'
  }
  function isPast(n: Num): boolean {
    return n.every((x, i) => x === points[i].P)
  }
  const state = (side: string, parts: ReadonlyMap<string, Found>) => [
    ...[...parts].map(([name, { dims }]) => declared(`${side}.${name}`, 'F32', dims.map(size))),
    ...(usesPosition.value ? [declared(`${side}.position`, 'I64', ['batch'])] : []),
  ]
  const { ir, imports } = opsets[domain]
  const fresh = Object.fromEntries([...before.keys()].flatMap((name) => (freshOf(name) === 0 ? [] : [[`past.${name}`, `${freshOf(name)}`]])))
  void [product, like]
  return {
    irVersion: ir,
    producerName: 'fastweights',
    opsetImport: Object.entries(imports).map(([domain, version]) => ({ domain, version: BigInt(version) })),
    metadataProps: Object.entries({ ...metadata, ...(Object.keys(fresh).length > 0 && { fresh: JSON.stringify(fresh) }) }).map(([key, value]) => ({
      key,
      value,
    })),
    graph: {
      name: 'model',
      node: main.nodes,
      initializer: common.initializers,
      input: [declared('tokens', 'I64', ['batch', 'tokens']), ...state('past', before)],
      output: [declared('logits', 'F32', logits.dims.map(size)), ...state('present', after)],
    },
  }
}

/**
 * Tables of positions: numbers that the host computes for each token from its place alone. Their rows, for `context` places, come from a trace of so many
 * tokens, in the precision of the host: angles in float32 would be off by 1e-4 at 1,000 tokens.
 */
function tableOf(
  model: Transformer,
  rec: Recorder,
  { B, T, context, position, points }: { B: Num; T: Num; context: number; position: () => string; points: Record<string, number>[] },
): Known['table'] {
  let long: Map<number, Block> | undefined
  const found = (): Map<number, Block> => {
    const blocks = new Map<number, Block>()
    const visit = (x: unknown): void => {
      if (x instanceof Block) blocks.set(x.id, x)
      else if (Array.isArray(x)) x.forEach(visit)
      else if (typeof x === 'object' && x !== null) Object.values(x).forEach(visit)
    }
    visit(traced(model, rec, { ...points[0], T: context }).calls.map(({ args }) => args))
    return blocks
  }
  return ({ id, size, data }, g) => {
    const width = size[0] / (B[0] * T[0])
    const row = (i: number, at: number): number[] => Array.from(data[i]!).slice(at * width, (at + 1) * width)
    const rows = new Map<number, string>()
    for (let i = 0; i < size.length; i++) {
      if (size[i] !== B[i] * T[i] * width) return undefined
      for (let at = 0; at < B[i] * T[i]; at++) {
        const place = Math.floor(at / T[i]) + (at % T[i])
        const said = row(i, at).join()
        if ((rows.get(place) ?? said) !== said) return undefined
        rows.set(place, said)
      }
    }
    long ??= found()
    const table = Array.from(long.get(id)!.data!).slice(0, context * width)
    const known = g.common.known
    if (!known.has('places')) {
      const { main } = g.common
      const range = main.op('Range', [main.integer(0), main.sizeNumber(T), main.integer(1)])
      known.set('places', main.op('Add', [main.op('Unsqueeze', [position(), main.integers([1])]), range]))
    }
    const name = g.op('Gather', [g.array([context, width], table), known.get('places')!])
    return { name, dims: [B, T, num(width, B)] }
  }
}

void OnnxError
