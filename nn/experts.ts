/** Feed-forward layers of experts, of which each token uses a few (Shazeer 2017; Fedus 2021). */
import { checkNumber } from '../engine/arguments.ts'
import { add, affine, div, equal, greater, mul, sigmoid } from '../engine/ops/elementwise.ts'
import { reshape, slice } from '../engine/ops/movement.ts'
import { softmax } from '../engine/ops/norm.ts'
import { sum } from '../engine/ops/reduce.ts'
import type { Generator } from '../engine/random.ts'
import { noGrad } from '../engine/recording.ts'
import { parameter, type Tensor, tensor, zeros } from '../engine/tensor.ts'
import { checkKnown, withDefaults } from './fields.ts'
import { GatedFeedForward, Linear } from './layers.ts'
import { Module } from './module.ts'

/** Settings of an `Experts` layer. */
export interface ExpertsSettings {
  /** E, how many there are to choose from. */
  experts: number
  /** How many of them a token uses. */
  chosen: number
  /** Width within an expert. */
  inner: number
  /** Width within the expert that all tokens use beside them; 0 for none. */
  sharedInner: number
  /** That one's part is scaled by sigmoid(x w^T). */
  sharedGate: boolean
  /** Weights: softmax over all experts, or a sigmoid of each. */
  scores: 'softmax' | 'sigmoid'
  /** A number for each expert that is added to its score where experts are chosen, and nowhere else; it isn't learned from the loss. */
  correction: boolean
  /** Experts are chosen among those of the `chosenGroups` best of so many groups, a group's score being the sum of its two best. */
  groups: number
  /** How many groups' experts may be chosen. */
  chosenGroups: number
  /** Divide the weights of the chosen ones by their sum plus sumEps, and then multiply them by `scale`. */
  normalise: boolean
  /** Added to the sum that the weights are divided by. */
  sumEps: number
  /** What the weights are multiplied by last. */
  scale: number
}

/** The settings of an `Experts` layer of which nothing is said. */
export const expertsDefaults: ExpertsSettings = {
  experts: 8,
  chosen: 2,
  inner: 64,
  sharedInner: 0,
  sharedGate: false,
  scores: 'softmax',
  correction: false,
  groups: 1,
  chosenGroups: 1,
  normalise: true,
  sumEps: 0,
  scale: 1,
}

/** A configuration may come from a stranger's checkpoint: each expert is a module, before anything is compared with the file. */
const mostExperts = 4096

/**
 * y = sum over the chosen experts e of w_e expert_e(x), plus the shared one's. Every expert is computed for every token, and counts where it is chosen: right
 * for small models, and the price of experts that nobody waits for on the host.
 */
export class Experts extends Module {
  /** From a token to a score for each expert. */
  router: Linear
  experts: GatedFeedForward[]
  /** The expert that all tokens use. */
  shared: GatedFeedForward | null
  /** From a token to what scales that expert's part. */
  shared_gate: Linear | null
  /** [E], frozen. */
  correction: Tensor | null
  config: ExpertsSettings

  constructor(config: Partial<ExpertsSettings> & { dModel: number }, g: Generator) {
    super()
    const { dModel: D, ...given } = config
    const c = withDefaults(expertsDefaults, given)
    checkKnown(c, Object.keys(expertsDefaults))
    for (const name of ['experts', 'chosen', 'inner', 'groups', 'chosenGroups'] as const) checkNumber(name, c[name], 'a positive integer')
    if (c.experts > mostExperts) throw new Error(`experts must be at most ${mostExperts}, not ${c.experts}`)
    if (c.chosen > c.experts) throw new Error(`chosen must be at most the ${c.experts} experts, not ${c.chosen}`)
    if (c.experts % c.groups !== 0 || c.chosenGroups > c.groups)
      throw new Error(`${c.groups} groups, ${c.chosenGroups} of them chosen, don't go with ${c.experts} experts`)
    this.config = c
    this.router = new Linear(D, c.experts, g, { bias: false })
    this.experts = Array.from({ length: c.experts }, () => new GatedFeedForward(D, c.inner, g))
    this.shared = c.sharedInner > 0 ? new GatedFeedForward(D, c.sharedInner, g) : null
    this.shared_gate = c.sharedInner > 0 && c.sharedGate ? new Linear(D, 1, g, { bias: false }) : null
    this.correction = c.correction ? parameter(zeros([c.experts])) : null
    if (this.correction) this.correction.requiresGrad = false
  }

  /** x: [B,T,D]; `accumulate` is added to the result. */
  forward(x: Tensor, options: { accumulate?: Tensor } = {}): Tensor {
    const { scores, normalise, sumEps, scale } = this.config
    const logits = this.router.forward(x)
    const score = scores === 'softmax' ? softmax(logits) : sigmoid(logits)
    const kept = mul(
      score,
      noGrad(() => this.choice(score)),
    )
    const shares = normalise ? div(kept, affine(sum(kept, { axis: -1, keepDim: true }), 1, sumEps)) : kept
    const weights = scale === 1 ? shares : affine(shares, scale)
    let y = options.accumulate
    const take = (part: Tensor): void => {
      y = y ? add(y, part) : part
    }
    for (const [e, expert] of this.experts.entries()) take(mul(slice(weights, 2, e, e + 1), expert.forward(x)))
    if (this.shared) {
      const all = this.shared.forward(x)
      take(this.shared_gate ? mul(this.shared_gate.forward(x, { activation: 'sigmoid' }), all) : all)
    }
    return y!
  }

  /** 1 for the experts that a token uses, else 0, [B,T,E]. */
  private choice(score: Tensor): Tensor {
    const { experts: E, chosen, groups, chosenGroups } = this.config
    const ranked = this.correction ? add(score, this.correction) : score
    if (groups === 1 || chosenGroups === groups) return best(ranked, chosen)
    const [B, T] = score.shape
    const members = reshape(ranked, [B, T, groups, E / groups])
    const two = sum(mul(members, best(members, Math.min(2, E / groups))), { axis: -1 })
    const open = reshape(best(two, chosenGroups), [B, T, groups, 1])
    // Scores are from 0 to 1, and corrections small: what isn't open falls behind all that is.
    return best(reshape(add(members, affine(open, 1e4, -1e4)), [B, T, E]), chosen)
  }
}

/** 1 where an entry is among the n largest of its row, the first of equal ones before the others; else 0. */
function best(x: Tensor, n: number): Tensor {
  const E = x.shape.at(-1)!
  const lead = x.shape.slice(0, -1)
  const [mine, other] = [reshape(x, [...lead, E, 1]), reshape(x, [...lead, 1, E])]
  const earlier = tensor(
    Float32Array.from({ length: E * E }, (_, i) => Number(i % E < Math.floor(i / E))),
    { shape: [E, E], device: x.device },
  )
  const before = sum(add(greater(other, mine), mul(equal(other, mine), earlier)), { axis: -1 })
  return affine(greater(before, n - 0.5), -1, 1)
}
