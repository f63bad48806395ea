/**
 * A trained model as an ONNX graph that decodes: tokens and states in, logits and states out, of any number of rows and tokens. The model's own
 * forward pass is run on a device that notes what it is asked for (trace.ts), and each kernel is said in nodes (kernels.ts): LinearAttention and
 * CausalConvWithState where a layer is that, Scan over its step where it isn't, the rest in standard nodes. A mixer whose forward pass is a loop over
 * tokens is a Scan over its pass of one token. Tests: test/onnx/export.test.ts, bench/test/onnx-export.test.mjs.
 */
import { type Device, setDevice, type Tensor } from '../engine/index.ts'
import { noGrad } from '../engine/recording.ts'
import { empty, getDevice, tensor } from '../engine/tensor.ts'
import { type Checkpoint, modelOf } from '../nn/checkpoint.ts'
import type { SequenceLayer } from '../nn/mixer.ts'
import { freshOf, isPart, type Part, type Parts } from '../nn/parts.ts'
import { mapState } from '../nn/state.ts'
import { layerMixers, type Transformer, type TransformerState } from '../nn/transformer.ts'
import { emit } from './kernels.ts'
import { type Domain, type Known, Memory } from './memory.ts'
import { declared, Graph, int, needed, type Value } from './nodes.ts'
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

export interface Exported {
  bytes: Uint8Array
  /** How many nodes of the outermost graph are no elementary operators, by name: LinearAttention, CausalConvWithState, Scan. */
  nodes: Record<string, number>
}

/** Throws an OnnxError that says what can't be said in ONNX, and of which layer. */
export function exportModel(checkpoint: Checkpoint, options: ExportOptions): Exported {
  const rec = recorder()
  const device = getDevice()
  setDevice(rec.device as Device)
  try {
    const trained = modelOf(checkpoint).train(false)
    rec.settle()
    const model = graphOf(trained, rec, options)
    const count = (op: string): number => model.graph!.node!.filter(({ opType }) => opType === op).length
    const named = ['LinearAttention', 'CausalConvWithState', 'Scan'].map((op) => [op, count(op)] as const)
    return { bytes: writeModel(model), nodes: Object.fromEntries(named.filter(([, n]) => n > 0)) }
  } finally {
    setDevice(device)
  }
}

// ---- passes ---------------------------------------------------------------------------------------------------------------------------

/** Sizes of a trace: B rows of T tokens, with P keys and values before them where these are kept. Row b has had b tokens, so that rows can be told apart. */
type Point = Readonly<Record<string, number>>
type Place = { block: Block; dims: readonly number[] }
interface Trace {
  calls: Call[]
  /** By name: `tokens`, or a mixer's `x`, and the parts of the state by their paths; `logits` or `y`, and the parts after. Without counts. */
  inputs: Record<string, Place>
  outputs: Record<string, Place>
}
type Pass = (point: Point) => Trace

const placeOf = (t: Tensor): Place => ({ block: t.storage as Block, dims: [...t.shape] })

/** A state of these parts whose tensors are inputs. */
function stateAt(parts: Parts, { B, P = 0 }: Point, device: Device<Block>): Record<string, unknown> {
  const entries = Object.entries(parts).map(([name, part]): [string, unknown] => {
    if (!isPart(part)) return [name, part.map((inner) => stateAt(inner, { B, P }, device))]
    const shape = part.shape.map((d) => (d < 0 ? P : d))
    if (part.dtype === 'float32') return [name, empty(shape, device)]
    // All keys are visible.
    return [name, shape.length === 2 ? new Int32Array(B * P).fill(1) : Int32Array.from({ length: B }, (_, b) => b)]
  })
  return Object.fromEntries(entries)
}

function placesIn(state: unknown): Record<string, Place> {
  const found: Record<string, Place> = {}
  mapState(state, (t, name) => (found[name] = placeOf(t)))
  return found
}

/** A mixer by itself. */
const mixerPass =
  (attn: SequenceLayer, D: number, rec: Recorder): Pass =>
  (point) => {
    const { B, T = 1 } = point
    const { calls, result } = rec.record(() =>
      noGrad(() => {
        const x = empty([B, T, D], rec.device)
        const state = stateAt(attn.stateParts(B), point, rec.device)
        const inputs = { x: placeOf(x), ...placesIn(state) }
        const { y, state: next } = attn.forward(x, state)
        return { inputs, outputs: { y: placeOf(y), ...placesIn(next) } }
      }),
    )
    return { calls, ...result }
  }

/** The whole model, in which the mixers of layers that are `stepwise` are one call each. */
const modelPass =
  (model: Transformer, stepwise: ReadonlySet<number>, rec: Recorder): Pass =>
  (point) => {
    const { B, T } = point
    const layers = [...stepwise].map((i) => ({ i, attn: model.transformer.layers[i].attn as SequenceLayer }))
    for (const { i, attn } of layers)
      attn.forward = (x, state, options) => {
        const y = empty(x.shape, rec.device)
        const next = mapState(
          state,
          (t) => empty(t.shape, rec.device),
          (counts) => counts.map((count) => count + T),
        ) as object
        const places = (of: unknown) => Object.fromEntries(Object.entries(placesIn(of)).map(([name, { block }]) => [name, block]))
        rec.note('mixer', [i, x.storage, options?.accumulate?.storage ?? null, places(state), y.storage, places(next)])
        return { y, state: next }
      }
    try {
      const { calls, result } = rec.record(() =>
        noGrad(() => {
          const tokens = tensor(new Int32Array(B * T), { shape: [B, T], device: rec.device })
          const state = stateAt(model.stateParts(B), point, rec.device)
          const inputs = { tokens: placeOf(tokens), ...placesIn(state) }
          const { logits, state: next } = model.forward(tokens, state as unknown as TransformerState)
          return { inputs, outputs: { logits: placeOf(logits), ...placesIn(next) } }
        }),
      )
      return { calls, ...result }
    } finally {
      for (const { attn } of layers) Reflect.deleteProperty(attn, 'forward')
    }
  }

// ---- from traces to nodes ---------------------------------------------------------------------------------------------------------------

/** What every graph of a model has in common for its passes. */
interface World {
  points: readonly Point[]
  context: number
  known: Pick<Known, 'domain' | 'parameters' | 'mixer'>
}

interface Found {
  block: Blocks
  dims: Num[]
}

const sizeAt = (points: readonly Point[], letter: string): Num => points.map((point) => point[letter] ?? 1)

/** A pass in a graph that has these values for its inputs; its outputs by name. `position`: tokens of each row before, int64 [B]. */
function said(
  pass: Pass,
  { points, context, known: shared }: World,
  g: Graph,
  inputOf: (name: string, dims: readonly Num[]) => Value,
  position: () => string,
): Record<string, Value> {
  const traces = points.map(pass)
  const calls = mergeCalls(traces.map(({ calls }) => calls))
  const places = (side: 'inputs' | 'outputs') => Object.entries(merge(traces.map((trace) => trace[side])) as Record<string, Found>)
  const [B, T] = [sizeAt(points, 'B'), sizeAt(points, 'T')]
  const known: Known = {
    ...{ ...shared, B, T, position },
    inputs: new Map(places('inputs').map(([name, { block, dims }]) => [block.id, inputOf(name, dims)])),
    table: tables(pass, points[0], context),
    placed: (block) => placed(block, B, T),
  }
  const memory = new Memory(g, known)
  emit(memory, calls)
  return Object.fromEntries(places('outputs').map(([name, { block, dims }]) => [name, memory.as(block, dims)]))
}

/** A mixer as a Scan over its pass of one token. x: [B,T,D], state by parts, position: as in `said`. */
function stepped(
  pass: Pass,
  world: World,
  g: Graph,
  x: Value,
  state: Record<string, Value>,
  position: Value | undefined,
): Record<string, Value> {
  const points = world.points.map((point) => ({ ...point, T: 1 }))
  const names = Object.keys(state)
  const states = [...names.map((name) => ({ value: state[name] })), ...(position ? [{ value: position, type: 'I64' as const }] : [])]
  const [B, , D] = x.dims
  const one = num(1, B)
  const result = g.scan(states, [{ value: x }], (g, before, [token]) => {
    const at = position && before.at(-1)!
    const values: Record<string, Value> = { x: g.reshape(token, [B, one, D]) }
    for (const [i, name] of names.entries()) values[name] = before[i]
    const { y, ...after } = said(
      pass,
      { ...world, points },
      g,
      (name) => values[name],
      () => at!.name,
    )
    const next = at ? [{ name: g.op('Add', [at.name, g.integer(1)]), dims: at.dims }] : []
    return { states: [...names.map((name) => after[name]), ...next], outputs: [g.reshape(y, [B, D])] }
  })
  return { y: result.outputs[0], ...Object.fromEntries(names.map((name, i) => [name, result.states[i]])) }
}

const past = (name: string): string => `past.${name}`
const present = (name: string): string => `present.${name}`

function graphOf(model: Transformer, rec: Recorder, options: ExportOptions): ProtoInit<'ModelProto'> {
  const parts = model.stateParts(1)
  const layers = model.transformer.layers.map(({ attn }) => attn as SequenceLayer)
  // The third size of each is far from the others: a loop that doubles shows, too.
  const varying: Varying = { B: [2, 3, 5], T: [67, 71, 131], ...(/-\d/.test(JSON.stringify(parts)) && { P: [7, 11, 17] as const }) }
  const points = pointsOf(varying)
  const [B, T, P] = ['B', 'T', 'P'].map((letter) => sizeAt(points, letter))
  const passes = layers.map((attn) => mixerPass(attn, model.config.dModel, rec))
  const parameters: Known['parameters'] = new Map(
    [...model.namedParameters()].map(([name, t]) => [placeOf(t).block.id, { name, dims: t.shape }]),
  )

  /** A graph to fill, and what passes need to do so. */
  const begin = (context: number) => {
    const main = new Graph(varying, options.half)
    const { common } = main
    const sizeOf = (name: string, axis: number): void => {
      const letter = axis === 0 ? 'B' : name === 'tokens' ? 'T' : 'P'
      common.sizes[letter] ??= () => main.op('Shape', [name], { start: int(axis), end: int(axis + 1) })
    }
    sizeOf('tokens', 0)
    sizeOf('tokens', 1)
    const inputs = new Map<string, readonly Num[]>()
    const input = (name: string, dims: readonly Num[]): Value => {
      const full = name === 'tokens' || name === 'x' ? name : past(name)
      if (full !== name) inputs.set(name, dims)
      const axis = 'P' in varying ? dims.findIndex((d) => same(d, P)) : -1
      if (axis >= 0) sizeOf(full, axis)
      return { name: full, dims }
    }
    const counted = { value: false }
    const position = (): string => {
      counted.value = true
      return past('position')
    }
    const world: World = { points, context, known: { domain: options.domain, parameters, mixer } }
    function mixer(m: Memory, layer: number, x: Blocks, before: Readonly<Record<string, Blocks>>): Record<string, Value> {
      const state = Object.fromEntries(Object.entries(before).map(([name, block]) => [name, m.any(block)]))
      const at = 'position' in layers[layer].stateParts(1) ? { name: position(), dims: [B] } : undefined
      return stepped(passes[layer], world, m.g, m.as(x, [B, T, num(model.config.dModel, B)]), state, at)
    }
    return { common, main, inputs, input, position, counted, world }
  }

  const stepwise = new Set<number>()
  const mixers = layerMixers(model.config)
  for (const [i, pass] of passes.entries()) {
    const { kind, settings } = mixers[i]
    // Of tables only the first row: this graph is thrown away.
    const { main, input, position, world } = begin(1)
    const fail = (problem: string): never => {
      throw new OnnxError(`layer ${i} (${settings.rule ?? settings.net ?? kind}) can't be said in ONNX: ${problem}`)
    }
    const own = Object.values(layers[i].stateParts(1)) as Part[]
    if (own.some(({ below }) => below !== undefined))
      fail('its tokens wait for their minibatch, which the host counts: train it with minibatch = 1')
    try {
      said(pass, world, main, input, position)
    } catch (error) {
      if (!(error instanceof OnnxError)) throw error
      if (!(error instanceof DependsError)) fail(error.message)
      stepwise.add(i)
      try {
        const one = { ...world, points: points.map((point) => ({ ...point, T: 1 })) }
        said(pass, one, main, input, position)
      } catch (error) {
        throw error instanceof OnnxError ? fail(error.message) : error
      }
    }
  }

  const { common, main, inputs, input, position, counted, world } = begin(options.context)
  const { logits, ...state } = said(modelPass(model, stepwise, rec), world, main, input, position)
  const outputs: [name: string, value: Value][] = [
    ['logits', logits],
    ...Object.entries(state).map(([name, value]): [string, Value] => [present(name), value]),
    ...(counted.value ? [[present('position'), { name: main.op('Add', [position(), main.size(T)]), dims: [B] }] as [string, Value]] : []),
  ]
  for (const [name, value] of outputs)
    main.nodes.push({ name: main.fresh('node'), opType: 'Identity', input: [value.name], output: [name] })

  const size = (n: Num): number | string => {
    if (isConstant(n)) return n[0]
    return same(n, B) ? 'batch' : same(n, T) ? 'tokens' : same(n, P) ? 'past' : 'total'
  }
  const info = (name: string, dims: readonly Num[]) => declared(name, name.endsWith('.position') ? 'I64' : 'F32', dims.map(size))
  const names = [...inputs.keys()]
  const fresh = names.flatMap((name) => (freshOf(name) === 0 ? [] : [[past(name), `${freshOf(name)}`]]))
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
      input: [
        declared('tokens', 'I64', ['batch', 'tokens']),
        ...names.map((name) => info(past(name), inputs.get(name)!)),
        ...(counted.value ? [info(past('position'), [B])] : []),
      ],
      output: outputs.map(([name, { dims }]) => info(name, dims)),
    },
  }
}

/**
 * Tables of positions: numbers that the host computes for each token from its place alone. Their rows, for `context` places, come from a trace of so many
 * tokens, or of so many rows of one, in the precision of the host: angles in float32 would be off by 1e-4 at 1,000 tokens.
 */
function tables(pass: Pass, point: Point, context: number): Known['table'] {
  let blocks: Map<number, Block> | undefined
  const found = (): Map<number, Block> => {
    const all = new Map<number, Block>()
    const visit = (x: unknown): void => {
      if (x instanceof Block) all.set(x.id, x)
      else if (Array.isArray(x)) x.forEach(visit)
      else if (typeof x === 'object' && x !== null) Object.values(x).forEach(visit)
    }
    // No smaller than the others, or it might not be the same calls.
    const longer: Point = point.T === 1 ? { B: Math.max(context, point.B) } : { T: Math.max(context, point.T) }
    const { calls } = pass({ ...point, ...longer })
    // Blocks are known by their numbers, which count for as long as it is the same calls.
    mergeCalls([pass(point).calls, calls])
    visit(calls.map(({ args }) => args))
    return all
  }
  return ({ id, size, data }, g, { B, T, position }) => {
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
    const table = blocks.get(id)!.data!
    const values = g.array(
      [context, width],
      Float32Array.from({ length: context * width }, (_, i) => table[i]),
    )
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
