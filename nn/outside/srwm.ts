/** modern-srwm's layers and stacks: self-referential weights, supervised and in torchbeast. */
import { selfModifyingProgrammer, selfReferential } from '../../engine/nets/self-referential.ts'
import { add } from '../../engine/ops/elementwise.ts'
import { show } from '../../engine/shape.ts'
import type { Tensor } from '../../engine/tensor.ts'
import { netCore, type Tensors } from '../cores.ts'
import { LayerNorm } from '../layers.ts'
import { feedForwardRow } from './algorithmic.ts'
import type { Options, OutsideClass } from './class.ts'
import { OutsideModule } from './layer.ts'
import { dimHead, dropout, inside, numHead, stackRow } from './shells.ts'
import { renamedSlot, states } from './slots.ts'

const srwmNames: Readonly<Record<string, string>> = { Wy: 'W_y', Wq: 'W_q', Wk: 'W_k', wb: 'w_b', F: 'fast' }

type Build = typeof selfReferential | typeof selfModifyingProgrammer

/** residual + out_linear(net(x)): the residual is LN(x) with `use_ln`, else x. `holdsNorm`: the layer norm is there, used or not. */
function selfReferentialLayer(build: Build, holdsNorm: boolean, o: Options): OutsideModule {
  const { num_head: H, dim_head: d, use_ln, use_input_softmax: inputSoftmax, dropout } = o
  const D = H * d
  const slot = renamedSlot(netCore(build({ D: d, inputSoftmax }), H), srwmNames, (shape) => [1, ...shape])
  const { parts, run } = inside(slot, { D, projection: null, output: 'out_linear', dropout })
  const layer_norm = holdsNorm ? new LayerNorm(D) : null
  const forward = (x: Tensor, before?: Tensors) => {
    const { y, state } = run(x, before)
    return { y: add(use_ln && layer_norm ? layer_norm.forward(x) : x, y), state }
  }
  return new OutsideModule(
    { ...(layer_norm && { layer_norm }), ...parts },
    forward,
    states(slot.core, (name) => srwmNames[name]),
    D,
  )
}

const headsOf = (shape: readonly number[]): Options => {
  if (shape.length !== 4 || shape[0] !== 1 || shape[2] !== shape[3])
    throw new Error(`loadOutside: W_q has shape ${show(shape)}; it must be [1, heads, d, d]`)
  return { num_head: shape[1], dim_head: shape[2] }
}

const supervised: OutsideClass<OutsideModule> = {
  source: 'modern-srwm, supervised_learning/layer.py',
  options: {
    num_head: numHead,
    dim_head: dimHead,
    dropout,
    use_ln: { description: 'whether the residual is normalised', default: true },
    use_input_softmax: { description: 'whether the input passes a softmax', default: false },
  },
  read: (shapeOf, dict) => ({ ...headsOf(shapeOf('W_q')), use_ln: dict.has('layer_norm.weight') }),
  make: (o) => selfReferentialLayer(selfReferential, o.use_ln, o),
}

/** Their layer norm is there, and never used. */
const reinforcementLayer = (build: Build, o: Options): OutsideModule =>
  selfReferentialLayer(build, true, { ...o, use_ln: false, use_input_softmax: true })
const reinforcementFile = 'modern-srwm, reinforcement_learning/torchbeast/layer.py'
const reinforcement = (build: Build): OutsideClass<OutsideModule> => ({
  source: reinforcementFile,
  options: { num_head: numHead, dim_head: dimHead, dropout },
  read: (shapeOf) => headsOf(shapeOf('W_q')),
  make: (o) => reinforcementLayer(build, o),
})
const reinforcementStack = (build: Build): OutsideClass<OutsideModule> =>
  stackRow(
    reinforcementFile,
    (o) => reinforcementLayer(build, o),
    (shapeOf) => headsOf(shapeOf('fwm_layers.0.W_q')),
  )

export const srwmRows: Record<string, OutsideClass<OutsideModule>> = {
  SRWMlayer: supervised,
  SRlayer: reinforcement(selfReferential),
  SMFWPlayer: reinforcement(selfModifyingProgrammer),
  TransformerFFlayers: feedForwardRow('modern-srwm, supervised_learning/layer.py'),
  SRNetLayer: reinforcementStack(selfReferential),
  SMFWPNetLayer: reinforcementStack(selfModifyingProgrammer),
}
