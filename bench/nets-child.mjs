/** The process of all nets of the benchmark of recurrent nets. */
import { deltaRule, nets, openDevice, runNet, setDevice } from '../dist/engine/index.js'
import { enableSimd, serve } from './child.mjs'
import { numbers, repeatable } from './contending.mjs'
import { calibrate, time } from './timing.mjs'

let sizes
const plans = new Map()

/** So small that nothing saturates or grows. */
const limit = 1 / 4

function contend(name, rule) {
  const { B, T, H, D } = sizes
  if (rule) {
    const leaves = [D, D, D, 1].map((width, i) => numbers(i < 3 ? [B, T, H, width] : [B, T, H], i + 1, limit))
    const [q, k, v, beta] = leaves
    return repeatable(() => deltaRule(q, k, v, beta, undefined, { form: 'recurrent' }).y, leaves, v.shape)
  }
  const net = nets[name].build(D)
  const x = numbers([B, T, H, net.I], 1, limit)
  const parameters = Object.fromEntries(
    Object.entries(net.parameters).map(([name, shape], i) => [name, numbers([H, ...shape], i + 2, limit)]),
  )
  return repeatable(() => runNet(net, x, { parameters }).y, [x, ...Object.values(parameters)], [B, T, H, net.O])
}

serve({
  async open({ device: choice, threads, ...rest }) {
    await enableSimd()
    const device = await openDevice(choice, { wasm: { threads, relaxed: true }, webgpu: { software: choice === 'webgpu' } })
    setDevice(device)
    sizes = rest
    return { description: device.description, names: Object.keys(nets) }
  },
  async prepare({ name, rule, target }) {
    const contender = contend(name, rule)
    plans.set(name, contender)
    for (const part of ['both', 'forward']) {
      const once = await time(contender[part], 1)
      contender[`${part}Repeats`] = once > target ? 1 : await calibrate(contender[part], target, target)
    }
  },
  sample({ name, part }) {
    const contender = plans.get(name)
    return time(contender[part], contender[`${part}Repeats`])
  },
})
