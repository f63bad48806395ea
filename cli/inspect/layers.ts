/** The layers of a model as `inspect` shows them, from a trace. Tests: test/cli/inspect.test.ts. */
import { type RuleInput, rules, scope, type Tensor, tensor } from '../../engine/index.ts'
import { type BlockModel, disposeTrace, type LayerTrace, layerMixers, mixers, Transformer, trace } from '../../nn/index.ts'
import { type Grid, type HostTrace, type Layer, layerData } from './data.ts'

/** What a layer does over time, and the rule that it has. */
interface LayerKind {
  name: string
  rule?: keyof typeof rules
}

/** Of each layer of the trace, in order, by its name there. */
export function kindsOf(model: Transformer | BlockModel): Map<string, LayerKind> {
  if (model instanceof Transformer)
    return new Map(
      layerMixers(model.config).map(({ kind, settings }, i) => [
        `transformer.layers.${i}.attn`,
        { name: settings.rule ?? settings.net ?? mixers[kind].title, rule: settings.rule },
      ]),
    )
  return new Map(
    model.config.layers.map(([first], i) => {
      const rule = first.kind === 'memory' ? first.rule : first.kind === 'rwkv' ? (`rwkv${first.version}` as const) : undefined
      return [`layers.${i}.parts.0.layer`, { name: rule ?? first.kind, rule }]
    }),
  )
}

/** A layer as it is shown, and the trace that this is of. */
export interface TracedLayer {
  layer: Layer
  traced: HostTrace
}

/** What the layers of a model do with a sequence; all of them, or one, counted from 1. Of a block's parts it's the first. */
export async function tracedLayers(model: Transformer | BlockModel, tokens: Int32Array, only?: number): Promise<TracedLayer[]> {
  const kinds = kindsOf(model)
  const all = scope(() => trace(model, () => model.forward(tensor(tokens, { shape: [1, tokens.length] }))))
  try {
    const layers: TracedLayer[] = []
    for (const [i, one] of all.filter(({ name }) => kinds.has(name)).entries()) {
      if (only !== undefined && only !== i + 1) continue
      const { name, rule } = kinds.get(one.name)!
      const inputs: Readonly<Record<string, RuleInput>> = rule === undefined ? {} : rules[rule].inputs
      const grows = Object.values(one.layer.stateParts(1)).some((part) => 'shape' in part && part.shape.includes(-1))
      const traced = await onHost(one)
      layers.push({ layer: layerData(traced, i + 1, name, inputs, grows), traced })
    }
    return layers
  } finally {
    disposeTrace(all)
  }
}

export const layersOf = async (model: Transformer | BlockModel, tokens: Int32Array, only?: number): Promise<Layer[]> =>
  (await tracedLayers(model, tokens, only)).map(({ layer }) => layer)

async function onHost({ name, x, inputs, states, norms, ranks, similarity, recall, attention }: LayerTrace): Promise<HostTrace> {
  const grid = async (t: Tensor): Promise<Grid> => ({ shape: t.shape, values: await t.read() })
  const all = async (tensors: Readonly<Record<string, Tensor>>): Promise<Record<string, Grid>> =>
    Object.fromEntries(await Promise.all(Object.entries(tensors).map(async ([part, t]) => [part, await grid(t)] as const)))
  return {
    name,
    shape: x.shape,
    inputs: await all(inputs),
    states: await all(states),
    norms: await all(norms),
    ranks: await all(ranks),
    ...(await all(
      Object.fromEntries(
        Object.entries({ similarity, recall, attention }).filter((entry): entry is [string, Tensor] => entry[1] !== undefined),
      ),
    )),
  }
}
