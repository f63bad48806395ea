/** What stands around a core in IDSIA's layers: projections, feed-forward layers, stacks. */
import { add, affine } from '../../engine/ops/elementwise.ts'
import { type Generator, generator } from '../../engine/random.ts'
import type { Tensor } from '../../engine/tensor.ts'
import type { Tensors } from '../cores.ts'
import { Dropout, LayerNorm, Linear } from '../layers.ts'
import { layersIn, type Options, type OutsideClass, type OutsideOption } from './class.ts'
import { OutsideModule } from './layer.ts'
import { heads, merge, type Slot } from './slots.ts'

export interface Shell {
  /** Width of x. */
  D: number
  /** Names of the projection and of the output layer; null: there is none. */
  projection: string | null
  output: string | null
  /** What the read-out is multiplied by. */
  scale?: number
  dropout: number
  /** Whether what is read is dropped from before the output layer, too. */
  dropRead?: boolean
}

/** Initial values are overwritten; dropout draws from this. */
export const random = (): Generator => generator(1)

/** Projection, core and output layer, [B,T,D] to [B,T,D]. */
export function inside(
  { core, parts, take, arrange, projected, project }: Slot,
  { D, projection, output, scale = 1, dropout, dropRead = false }: Shell,
) {
  const slow = projection === null || project ? null : new Linear(D, projected ?? core.width * core.heads, random(), { bias: false })
  const out = output === null ? null : new Linear(core.outputs * core.heads, D, random(), { bias: false })
  const drop = new Dropout(dropout, random())
  return {
    parts: { ...(slow && { [projection!]: slow }), ...project?.parts, ...parts, ...(out && { [output!]: out }), drop },
    run(x: Tensor, state: Tensors | undefined) {
      const given = project ? project.run(x) : slow ? slow.forward(x) : x
      const { y, state: after } = core.run(arrange ? arrange(given) : heads(given, core.heads), take?.() ?? {}, state, {})
      const read = scale === 1 ? merge(y) : affine(merge(y), scale)
      const kept = out && dropRead ? drop.forward(read) : read
      return { y: drop.forward(out ? out.forward(kept) : kept), state: after }
    },
  }
}

/**
 * x + W2 relu(W1 LN(x)), or, `post`, LN(x + W2 relu(W1 x)), or, without `norm`, x + W2 relu(W1 x); the two are the first and fourth of a torch
 * Sequential called `list`.
 */
export function feedForward(
  D: number,
  inner: number,
  { list, dropout, post = false, norm = true }: { list: string; dropout: number; post?: boolean; norm?: boolean },
): OutsideModule {
  const layer_norm = norm ? new LayerNorm(D) : null
  const [first, last] = [new Linear(D, inner, random()), new Linear(inner, D, random())]
  const drop = new Dropout(dropout, random())
  const core = new OutsideModule({ 0: first, 3: last, drop }, (x) => {
    const hidden = drop.forward(first.forward(x, { activation: 'relu' }))
    return { y: drop.forward(last.forward(hidden)), state: {} }
  })
  const normed = (x: Tensor): Tensor => layer_norm?.forward(x) ?? x
  const forward = (x: Tensor) => {
    const y = post ? normed(add(x, core.forward(x).y)) : add(x, core.forward(normed(x)).y)
    return { y, state: {} }
  }
  return new OutsideModule({ ...(layer_norm && { layer_norm }), [list]: core }, forward, {}, D)
}

export const dropout: OutsideOption = { description: 'probability of dropping an activation', default: 0, below: 1 }
export const numHead: OutsideOption = { description: 'heads' }
export const dimHead: OutsideOption = { description: 'width of a head' }
export const width: OutsideOption = { description: 'width of the model' }
export const inner: OutsideOption = { description: 'inner width of the feed-forward layer' }

/** How a layer of a stack is made for the width D. */
type LayerOf = (o: Options, D: number) => OutsideModule

/**
 * input_proj, then layers and feed-forward layers in turn (the torchbeast models of both repositories). With several layers a state's parts have the
 * layer's number before their names.
 */
export function stackRow(source: string, layerOf: LayerOf, read: OutsideClass['read'] = () => ({})): OutsideClass<OutsideModule> {
  return {
    source,
    options: {
      num_head: numHead,
      dim_head: dimHead,
      input_dim: { description: 'width of the input' },
      hidden_size: width,
      dim_ff: inner,
      num_layers: { description: 'layers' },
      dropout,
    },
    read: (shapeOf, dict) => ({
      input_dim: shapeOf('input_proj.weight')[1],
      hidden_size: shapeOf('input_proj.weight')[0],
      dim_ff: shapeOf('ff_layers.0.ff_layers.0.weight')[0],
      num_layers: layersIn(dict, 'fwm_layers.'),
      ...read(shapeOf, dict),
    }),
    make(o) {
      const D = o.hidden_size
      const input_proj = new Linear(o.input_dim, D, random())
      const each = <M>(f: () => M): M[] => Array.from({ length: o.num_layers }, f)
      const fwm_layers = each(() => layerOf(o, D))
      const ff_layers = each(() => feedForward(D, o.dim_ff, { list: 'ff_layers', dropout: o.dropout }))
      const named = (l: number, name: string): string => (o.num_layers > 1 ? `${l}.${name}` : name)
      const parts = fwm_layers.flatMap((layer, l) =>
        Object.entries(layer.states).map(([name, part]) => [named(l, name), { ...part, there: named(l, part.there) }] as const),
      )
      const run = (x: Tensor, before?: Tensors) => {
        const after: [string, Tensor][] = []
        let h = input_proj.forward(x)
        fwm_layers.forEach((layer, l) => {
          const own = before && Object.fromEntries(Object.keys(layer.states).map((name) => [name, before[named(l, name)]]))
          const { y, state } = layer.forward(h, own && { state: own })
          after.push(...Object.entries(state).map(([name, t]) => [named(l, name), t] as [string, Tensor]))
          h = ff_layers[l].forward(y).y
        })
        return { y: h, state: Object.fromEntries(after) }
      }
      return new OutsideModule({ input_proj, fwm_layers, ff_layers }, run, Object.fromEntries(parts), o.input_dim)
    },
  }
}
