/**
 * A trained model as an ONNX graph that decodes: tokens and states in, logits and states out, of any number of rows and tokens. The model's own
 * forward pass is run on a device that notes what it is asked for (trace.ts), and each kernel is said in nodes (kernels.ts): LinearAttention and
 * CausalConvWithState where a layer is that, Scan over a step where it isn't, the rest in standard nodes. A model whose forward pass is a loop of the
 * host over tokens is one Scan over its step of one token. Tests: test/onnx/export.test.ts, bench/test/export.test.mjs.
 */
import { type Device, setDevice, type Tensor } from '../engine/index.ts'
import { noGrad } from '../engine/recording.ts'
import { empty, getDevice, tensor } from '../engine/tensor.ts'
import { type Checkpoint, modelOf } from '../nn/checkpoint.ts'
import { freshOf } from '../nn/parts.ts'
import { initialState, mapState } from '../nn/state.ts'
import type { Transformer, TransformerState } from '../nn/transformer.ts'
import { emit } from './kernels.ts'
import { type Domain, type Known, Memory } from './memory.ts'
import { type Common, declared, Graph, int, needed, type Value } from './nodes.ts'
import { OnnxError, type ProtoInit, writeModel } from './proto.ts'
import {
  Block,
  type Blocks,
  type Call,
  DependsError,
  isConstant,
  merge,
  mergeCalls,
  type Num,
  num,
  pointsOf,
  type Recorder,
  recorder,
  same,
  type Varying,
} from './trace.ts'

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
  /** Parts of the state by path, before and after, without counts. */
  before: Map<string, { block: Block; dims: number[] }>
  after: Map<string, { block: Block; dims: number[] }>
}

const blockOf = (t: Tensor): Block => t.storage as Block

/** The forward pass of B rows of T tokens, with P keys and values before them where these are kept. Row b has had b tokens, so that rows can be told apart. */
function traced(model: Transformer, rec: Recorder, { B, T = 1, P = 0 }: Record<string, number>): Trace {
  const before: Trace['before'] = new Map()
  const after: Trace['after'] = new Map()
  const parts = (state: unknown, into: Trace['after']): void =>
    void mapState(state, (t, name) => into.set(name, { block: blockOf(t), dims: [...t.shape] }))
  const { calls, result } = rec.record(() =>
    noGrad(() => {
      const tokens = tensor(new Int32Array(B * T), { shape: [B, T], device: rec.device })
      const state = mapState(
        initialState(model as never, B),
        (t) => empty(t.shape.map((d) => (d === 0 ? P : d)), rec.device),
        (held, name) => {
          // What is visible of keys: all.
          return name.endsWith('visible') ? new Int32Array(B * P).fill(1) : Int32Array.from(held, (_, b) => b)
        },
      ) as TransformerState
      parts(state, before)
      const { logits, state: next } = model.forward(tokens, state)
      parts(next, after)
      return { tokens: blockOf(tokens), logits: { block: blockOf(logits), dims: [...logits.shape] } }
    }),
  )
  return { calls, ...result, before, after }
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

/** Sizes of a state's parts and the like, in every trace. */
interface Found {
  block: Blocks
  dims: Num[]
}

const growing = (model: Transformer): boolean => /-\d/.test(JSON.stringify(model.stateParts(1)))

function graphOf(model: Transformer, rec: Recorder, options: ExportOptions): ProtoInit<'ModelProto'> {
  const sizes: Varying = { B: [2, 3, 5], ...(growing(model) && { P: [7, 11, 17] as const }) }
  try {
    // Far from each other: loops that double are as different as others.
    return built(model, rec, { ...sizes, T: [131, 137, 601] }, options)
  } catch (error) {
    if (!(error instanceof DependsError)) throw error
    if (growing(model)) throw new OnnxError(`${error.message}, and a Scan over tokens can't carry the keys of softmax attention, which grow`)
    return built(model, rec, sizes, options)
  }
}

/** A model from traces of these sizes; without T, a Scan over its step of one token. */
function built(model: Transformer, rec: Recorder, varying: Varying, options: ExportOptions): ProtoInit<'ModelProto'> {
  const points = pointsOf(varying)
  const traces = points.map((point) => traced(model, rec, point))
  const calls = mergeCalls(traces.map(({ calls }) => calls))
  const all = <X>(f: (trace: Trace) => unknown): X => merge(traces.map(f)) as X
  const parts = (f: (trace: Trace) => Trace['before']): [string, Found][] =>
    Object.entries(all<Record<string, Found>>((trace) => Object.fromEntries(f(trace))))
  const [before, after] = [parts(({ before }) => before), parts(({ after }) => after)]
  const logits = all<Found>(({ logits }) => logits)
  const tokens = all<Blocks>(({ tokens }) => tokens)
  const letter = (name: string): Num => points.map((point) => point[name] ?? 1)
  const [B, T, P] = ['B', 'T', 'P'].map(letter)
  const scanned = !('T' in varying)

  const isPast = (n: Num): boolean => 'P' in varying && same(n, P)
  const shapeOf = (name: string, axis: number) => (g: Graph) => g.op('Shape', [name], { start: int(axis), end: int(axis + 1) })
  const grown = before.find(([, { dims }]) => dims.some(isPast))
  const common: Common = {
    ...{ varying, half: options.half, initializers: [], arrays: [], known: new Map(), count: 0, main: undefined as never },
    sizes: {
      ...{ B: shapeOf('tokens', 0), T: shapeOf('tokens', 1) },
      ...(grown && { P: shapeOf(past(grown[0]), grown[1].dims.findIndex(isPast)) }),
    },
  }
  const main = new Graph(common)
  common.main = main
  const state = before.map(([name, { dims }]): Value => ({ name: past(name), dims }))
  let counts = false

  /** The pass in a graph that has these values: logits, the state after them, and where the rows go on. */
  const pass = (g: Graph, ids: Value, held: readonly Value[], position: string): { logits: Value; state: Value[]; position: () => string } => {
    const known: Known = {
      ...{ domain: options.domain, B, T },
      position() {
        counts = true
        return position
      },
      inputs: new Map([[tokens.id, ids], ...before.map(([, { block }], i) => [block.id, held[i]] as const)]),
      parameters: new Map([...model.namedParameters()].map(([name, t]) => [blockOf(t).id, { name, dims: [...t.shape] }])),
      table: (block, g) => table(block, g, known),
      placed: (block) => placed(block, B, T),
    }
    const memory = new Memory(g, known)
    emit(memory, calls)
    return {
      logits: memory.as(logits.block, logits.dims),
      state: after.map(([, { block, dims }]) => memory.as(block, dims)),
      position: () => g.op('Add', [position, g.size(T)]),
    }
  }
  const table = tables(model, rec, scanned ? { B: options.context, T: 1 } : { ...points[0], T: options.context }, options.context)
  const ids: Value = { name: 'tokens', dims: [B, T] }
  const outputs: [name: string, value: Value][] = []
  const finish = (logits: Value, state: readonly Value[], position?: string): void => {
    outputs.push(['logits', logits], ...after.map(([name], i): [string, Value] => [present(name), state[i]]))
    if (position !== undefined) outputs.push([present('position'), { name: position, dims: [B] }])
  }
  if (!scanned) {
    const made = pass(main, ids, state, past('position'))
    finish(made.logits, made.state, counts ? made.position() : undefined)
  } else {
    const position = { value: { name: past('position'), dims: [B] }, type: 'I64' } as const
    const made = main.scan([...state.map((value) => ({ value })), position], [{ value: ids, type: 'I64' }], (g, held, [token]) => {
      const { logits, state, position } = pass(g, g.reshape(token, [B, T]), held.slice(0, -1), held.at(-1)!.name)
      const next = { name: position(), dims: [B] }
      return { states: [...state, next], outputs: [g.reshape(logits, [B, logits.dims[2]])] }
    })
    counts = true
    finish(made.outputs[0], made.states.slice(0, -1), made.states.at(-1)!.name)
  }
  for (const [name, value] of outputs) main.nodes.push({ name: main.fresh('node'), opType: 'Identity', input: [value.name], output: [name] })

  const size = (n: Num): number | string => {
    if (isConstant(n)) return n[0]
    return same(n, B) ? 'batch' : same(n, T) ? 'tokens' : isPast(n) ? 'past' : 'total'
  }
  const stateInfo = (named: (name: string) => string, parts: readonly [string, Found][]) => [
    ...parts.map(([name, { dims }]) => declared(named(name), 'F32', dims.map(size))),
    ...(counts ? [declared(named('position'), 'I64', ['batch'])] : []),
  ]
  const fresh = before.flatMap(([name]) => (freshOf(name) === 0 ? [] : [[past(name), `${freshOf(name)}`]]))
  const metadata = { ...options.metadata, ...(fresh.length > 0 && { fresh: JSON.stringify(Object.fromEntries(fresh)) }) }
  const { ir, imports } = opsets[options.domain]
  return {
    irVersion: ir,
    producerName: 'fastweights',
    opsetImport: Object.entries(imports).map(([domain, version]) => ({ domain, version: BigInt(version) })),
    metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
    graph: {
      name: 'model',
      ...needed(
        main.nodes,
        common.initializers,
        outputs.map(([name]) => name),
      ),
      input: [declared('tokens', 'I64', ['batch', 'tokens']), ...stateInfo(past, before)],
      output: [declared('logits', 'F32', ['batch', 'tokens', model.config.symbols]), ...stateInfo(present, after)],
    },
  }
}

const past = (name: string): string => `past.${name}`
const present = (name: string): string => `present.${name}`

/**
 * Tables of positions: numbers that the host computes for each token from its place alone. Their rows, for `context` places, come from a trace of so many
 * tokens, or of so many rows of one, in the precision of the host: angles in float32 would be off by 1e-4 at 1,000 tokens.
 */
function tables(model: Transformer, rec: Recorder, long: Record<string, number>, context: number) {
  let blocks: Map<number, Block> | undefined
  const found = (): Map<number, Block> => {
    const all = new Map<number, Block>()
    const visit = (x: unknown): void => {
      if (x instanceof Block) all.set(x.id, x)
      else if (Array.isArray(x)) x.forEach(visit)
      else if (typeof x === 'object' && x !== null) Object.values(x).forEach(visit)
    }
    visit(traced(model, rec, long).calls.map(({ args }) => args))
    return all
  }
  return ({ id, size, data }: Blocks, g: Graph, { B, T, position }: Known): Value | undefined => {
    const width = size[0] / (B[0] * T[0])
    const rows: (readonly [trace: number, at: number])[] = []
    for (let i = 0; i < size.length; i++) {
      if (size[i] !== B[i] * T[i] * width || data[i] === null) return undefined
      for (let at = 0; at < B[i] * T[i]; at++) {
        const place = Math.floor(at / T[i]) + (at % T[i])
        const [trace, row] = (rows[place] ??= [i, at])
        for (let j = 0; j < width; j++) if (data[i]![at * width + j] !== data[trace]![row * width + j]) return undefined
      }
    }
    blocks ??= found()
    const values = g.array([context, width], Array.from(blocks.get(id)!.data!).slice(0, context * width))
    const range = g.op('Range', [g.integer(0), g.sizeNumber(T), g.integer(1)])
    const at = g.op('Add', [g.op('Unsqueeze', [position(), g.integers([1])]), range])
    return { name: g.op('Gather', [values, at]), dims: [B, T, num(width, B)] }
  }
}

/** What places of `aft` these are, for rows b that have had b tokens: see engine/ops/aft.ts. */
function placed({ size, data }: Blocks, B: Num, T: Num): 'all' | 'older' | undefined {
  const holds = (place: (i: number, b: number, at: number, n: number) => number): boolean =>
    data.every((values, i) => {
      const n = size[i] / B[i]
      return values !== null && Array.from(values).every((x, j) => x === place(i, Math.floor(j / n), j % n, n))
    })
  if (holds((i, b, at, n) => b - (n - T[i]) + at)) return 'all'
  const older = (i: number, b: number, at: number, n: number): number => {
    const held = n - 1 - T[i]
    const place = b - held + at
    return at === n - 1 ? b + T[i] : place >= 0 && place < b + T[i] - (held - 1) ? place : -1
  }
  return holds(older) ? 'older' : undefined
}
