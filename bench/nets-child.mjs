/** The process of all nets of the benchmark of recurrent nets. */
import { add, deltaRule, nets, noGrad, ones, openDevice, runNet, scope, setDevice, tensor } from '../dist/engine/index.js'
import { enableSimd, serve } from './child.mjs'
import { calibrate, time } from './timing.mjs'

let sizes
const plans = new Map()

/** So small that nothing saturates or grows. */
const numbers = (shape, seed) => {
  let x = seed
  const values = Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => {
    x = (Math.imul(x, 1664525) + 1013904223) | 0
    return x / 2 ** 33
  })
  return tensor(values, { shape, requiresGrad: true })
}

function contend(name, rule) {
  const { B, T, H, D } = sizes
  let leaves
  let forward
  if (rule) {
    leaves = [D, D, D, 1].map((width, i) => numbers(i < 3 ? [B, T, H, width] : [B, T, H], i + 1))
    const [q, k, v, beta] = leaves
    forward = () => deltaRule(q, k, v, beta, undefined, { form: 'recurrent' }).y
  } else {
    const net = nets[name].build(D)
    const x = numbers([B, T, H, net.I], 1)
    const parameters = Object.fromEntries(Object.entries(net.parameters).map(([name, shape], i) => [name, numbers([H, ...shape], i + 2)]))
    leaves = [x, ...Object.values(parameters)]
    forward = () => runNet(net, x, { parameters }).y
  }
  const seed = ones(scope(() => noGrad(forward)).shape)
  const repeated = (work) => async (count) => {
    for (let i = 0; i < count; i++) {
      scope(work)
      for (const x of leaves) {
        x.grad?.dispose()
        x.grad = null
      }
    }
    const y = scope(() => noGrad(() => add(seed, seed)))
    await y.read()
    y.dispose()
  }
  return { forward: repeated(() => void noGrad(forward)), both: repeated(() => forward().backward(seed)) }
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
