/** The process of onnxruntime-node at one length T of the benchmark of the rules: forward alone, since its operator has no backward pass. */
import { rules } from '../dist/engine/index.js'
import { serve } from './child.mjs'
import { linearAttention } from './linear-attention.mjs'
import { version } from './report.mjs'
import { short, valuesOf } from './rules-inputs.mjs'
import { calibrate, time } from './timing.mjs'

let given
const contenders = new Map()

async function contend(name, T) {
  const { sizes, threads } = given
  const session = await linearAttention({ name, H: sizes.H, threads, state: false })
  const values = Object.entries(rules[name].inputs).map(([input, described]) => [input, valuesOf(input, described, { ...sizes, T })])
  const feeds = session.feeds(Object.fromEntries(values))
  return {
    y: async () => (await session.run(feeds)).y,
    async forward(count) {
      for (let i = 0; i < count; i++) await session.run(feeds)
    },
  }
}

serve({
  open(options) {
    given = options
    return { version: version('onnxruntime-node') }
  },
  /** What a rule gives at the short length. */
  short: async ({ name }) => (await contend(name, Math.min(given.T, short))).y(),
  async prepare({ name, target }) {
    const contender = await contend(name, given.T)
    contenders.set(name, contender)
    const seconds = await time(contender.forward, 1)
    contender.repeats = seconds > target ? 1 : await calibrate(contender.forward, target, target)
    return { forward: { seconds, repeats: contender.repeats } }
  },
  sample({ name }) {
    const { forward, repeats } = contenders.get(name)
    return time(forward, repeats)
  },
})
