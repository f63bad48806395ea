/** The process of all contenders at one length T of the benchmark of the attention free transformer. */
import { aft, div, exp, matmul, mul, noGrad, openDevice, scope, setDevice, tensor } from '../dist/engine/index.js'
import { enableSimd, serve } from './child.mjs'
import { numbers, repeatable } from './contending.mjs'
import { calibrate, time } from './timing.mjs'
import { watched } from './watched.mjs'

let device
let memory
let sizes
const plans = new Map()

/** Biases for places up to the sequence's length, of which AFT-local looks at a band; beyond 2,048 of them the last row counts. */
const side = (T) => Math.min(T, 2048)

/**
 * What each does with keys, values and its biases. `products` is how the equation is usually composed, labml's too: exponentials of all biases and
 * keys, and two products of matrices; it overflows where a later key is much larger.
 */
const contenders = {
  simple: { bias: () => null, run: (k, v) => aft(k, v).y },
  local: {
    bias: ({ T }) => numbers([side(T), side(T)], 3),
    run: (k, v, w, { s }) => aft(k, v, { table: w, extended: true }, undefined, { window: s }).y,
  },
  conv: { bias: ({ s }) => numbers([1, s], 3), run: (k, v, w) => aft(k, v, { taps: w }).y },
  full: { bias: ({ T }) => numbers([T, T], 3), run: (k, v, w) => aft(k, v, { table: w }).y },
  products: {
    bias({ T }) {
      const lower = Float32Array.from({ length: T * T }, (_, i) => Number(i % T <= Math.floor(i / T)))
      mask = tensor(lower, { shape: [T, T] })
      return numbers([T, T], 3)
    },
    run(k, v, w) {
      const seen = mul(exp(w), mask)
      const e = exp(k)
      return div(matmul(seen, mul(e, v)), matmul(seen, e))
    },
  },
}

let mask

function contend(name) {
  const { bias, run } = contenders[name]
  const { B, T, D } = sizes
  const leaves = [numbers([B, T, D], 1), numbers([B, T, D], 2), bias(sizes)].filter(Boolean)
  const forward = () => run(...leaves, ...(leaves.length < 3 ? [null] : []), sizes)
  return {
    y: async () => {
      const y = scope(() => noGrad(forward))
      const values = await y.read()
      y.dispose()
      return values
    },
    ...repeatable(forward, leaves, [B, T, D]),
    own: leaves.reduce((sum, x) => sum + (device.double ? 8 : 4) * x.size, 0),
  }
}

serve({
  async open({ device: choice, threads, relaxed, ...rest }) {
    await enableSimd()
    device = await openDevice(choice, { wasm: { threads, relaxed } })
    memory = watched(device)
    setDevice(device)
    sizes = rest
    return { description: device.description }
  },
  /** Compares AFT-full with the products, where both are there; plans samples of `target` seconds or one repetition. */
  async prepare({ name, target }) {
    const contender = contend(name)
    const y = await contender.y()
    if (!y.every(Number.isFinite)) throw new Error(`${name}: the result isn't finite`)
    if (name === 'products' && plans.has('full')) {
      const full = await plans.get('full').y()
      const error = y.reduce((most, x, i) => Math.max(most, Math.abs(x - full[i])), 0)
      if (!(error < 1e-4)) throw new Error(`the products differ from AFT-full by ${error}`)
    }
    plans.set(name, contender)
    const before = device.bytesInUse()
    memory.restart()
    const plan = {}
    for (const part of ['both', 'forward']) {
      const once = await time(contender[part], 1)
      if (part === 'both') plan.memory = contender.own + memory.most() - before
      const repeats = once > target ? 1 : await calibrate(contender[part], target, target)
      contender[`${part}Repeats`] = repeats
      plan[part] = { seconds: once, repeats }
    }
    return plan
  },
  sample({ name, part }) {
    const contender = plans.get(name)
    return time(contender[part], contender[`${part}Repeats`])
  },
})
