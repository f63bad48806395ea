/** The process of all contenders at one length T of the benchmark of the rules. */
import { scratchBytes } from '../dist/engine/devices/wasm/fast-weights.js'
import {
  affine,
  softmaxAttention as attend,
  noGrad,
  ones,
  openDevice,
  permute,
  rules,
  scope,
  setDevice,
  tensor,
} from '../dist/engine/index.js'
import { enableSimd, serve } from './child.mjs'
import { short, valuesOf } from './rules-inputs.mjs'
import { calibrate, time } from './timing.mjs'
import { watched } from './watched.mjs'

let device
let memory
let sizes
let length
const inputs = new Map()
const contenders = new Map()

/** Causal softmax attention on inputs that are laid out as the rules', as nn's SoftmaxAttention computes it. */
const softmaxAttention = {
  inputs: rules.sum.inputs,
  run({ q, k, v }) {
    const split = (x) => permute(x, [0, 2, 1, 3])
    return { y: permute(attend(affine(split(q), 1 / Math.sqrt(sizes.K)), split(k), split(v)), [0, 2, 1, 3]) }
  },
}
const ruleOf = (name) => (name === 'softmax' ? softmaxAttention : rules[name])

/** The tensor for a rule's input at length T: rules whose inputs are alike share it. */
function inputOf(name, input, T) {
  const key = `${name} ${input.values} ${input.shape} ${T}`
  if (!inputs.has(key)) {
    const { values, shape } = valuesOf(name, input, { ...sizes, T })
    inputs.set(key, tensor(values, { shape, requiresGrad: true }))
  }
  return inputs.get(key)
}

function inputsOf(rule, T) {
  const tensors = Object.fromEntries(Object.entries(rule.inputs).map(([name, input]) => [name, inputOf(name, input, T)]))
  // What a finds must be taken away, not added along a random b, or the state of the general rule grows beyond all bounds.
  if (tensors.a && tensors.b) {
    const key = `b = -a/2 ${T}`
    if (!inputs.has(key))
      inputs.set(
        key,
        scope(() => noGrad(() => affine(tensors.a, -0.5))),
      )
    tensors.b = inputs.get(key)
    tensors.b.requiresGrad = true
  }
  return tensors
}

/** What is timed: the public op without recording, and with its backward pass for a cotangent of ones. */
function contend(name, form, T) {
  const rule = ruleOf(name)
  const given = inputsOf(rule, T)
  const seed = inputs.get(`ones ${T}`) ?? ones([sizes.B, T, sizes.H, sizes.V])
  inputs.set(`ones ${T}`, seed)
  const options = name === 'softmax' ? {} : { form }
  const forward = () => noGrad(() => rule.run(given, undefined, options).y)
  const leaves = Object.values(given)
  const forget = () => {
    for (const x of leaves) {
      x.grad?.dispose()
      x.grad = null
    }
  }
  let kept = 0
  const both = () => {
    try {
      scope(() => {
        const { y } = rule.run(given, undefined, options)
        kept = device.bytesInUse()
        y.backward(seed)
      })
    } catch (error) {
      forget()
      throw error
    }
  }
  /** A GPU works later: what it was given is done when something can be read. */
  const repeat = (work) => async (count) => {
    for (let i = 0; i < count; i++) work()
    if (device.name === 'webgpu') await device.read(leaves[0].storage, 1)
  }
  return {
    given,
    kept: () => kept,
    y: () => scope(forward).read(),
    async gradients() {
      both()
      const read = await Promise.all(leaves.map((x) => x.grad.read()))
      forget()
      return read
    },
    forward: repeat(() => void scope(() => void forward())),
    both: repeat(() => {
      both()
      forget()
    }),
  }
}

/** The most scratch memory of the recurrence's kernels since it was last set to 0, in bytes. */
let scratch = 0
function watchScratch(threads) {
  const { kernels } = device
  for (const [name, backward] of [
    ['fastWeights', false],
    ['fastWeightsBackward', true],
  ]) {
    const kernel = kernels[name]
    kernels[name] = (form, inputs, ...rest) => {
      scratch = Math.max(scratch, threads * scratchBytes(form, backward, inputs, rest.at(-1)))
      return kernel(form, inputs, ...rest)
    }
  }
}

const norm = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0))

serve({
  async open({ device: kind, threads, relaxed, sizes: given, T, rules: names, forms: wanted }) {
    await enableSimd()
    device = await openDevice(kind, { wasm: { threads, relaxed } })
    setDevice(device)
    memory = watched(device)
    // The reference is written to be read, and its scratch is the garbage collector's; WebGPU's counts as memory in use.
    if (device.name === 'wasm') watchScratch(threads)
    sizes = given
    length = T
    for (const name of names) {
      const forms = (ruleOf(name).forms ?? ['softmax']).filter((form) => wanted.includes(form))
      let expected
      for (const form of forms) {
        const contender = contend(name, form, Math.min(T, short))
        for (let i = 0; i < 4; i++) await contender.both(1)
        const found = [await contender.y(), ...(await contender.gradients())]
        expected ??= found
        const largest = Math.max(...expected.map(norm))
        for (const [i, x] of found.entries()) {
          const [error, size] = [norm(x.map((value, j) => value - expected[i][j])), norm(expected[i])]
          // float32 keeps 1e-6 or so; a form that computes something else is off by far more. Of one token a normalised sum has no gradient to its query:
          // 0, or what rounding leaves of terms that cancel.
          if (!(error <= 1e-3 * size + 1e-6 * largest))
            throw new Error(`${name}: the forms ${forms[0]} and ${form} differ by ${error} in ${size} of the ${i ? 'gradient' : 'result'}`)
        }
      }
    }
    return { name: device.name, description: device.description }
  },
  /** What a rule's first form gives at the short length, for a peer to be compared with. */
  short: ({ name }) => contend(name, ruleOf(name).forms[0], Math.min(length, short)).y(),
  /**
   * Runs a contender at the length T, and plans samples of `target` seconds or one repetition. Memory in bytes: its inputs and what is in use
   * beside them at the end of the forward pass, and at most; scratch of the kernels.
   */
  async prepare({ name, form, target }) {
    const contender = contend(name, form, length)
    contenders.set(`${name} ${form}`, contender)
    const begin = performance.now()
    const y = await contender.y()
    const first = { forward: (performance.now() - begin) / 1000 }
    if (!y.every(Number.isFinite)) throw new Error(`${name}, ${form}: the result isn't finite`)
    const own = Object.values(contender.given).reduce((sum, x) => sum + x.size * (device.double ? 8 : 4), 0)
    const before = device.bytesInUse()
    memory.restart()
    scratch = 0
    first.both = await time(contender.both, 1)
    const plan = { memory: { inputs: own, kept: own + contender.kept() - before, most: own + memory.most() - before, scratch } }
    for (const part of ['forward', 'both']) {
      const repeats = first[part] > target ? 1 : await calibrate(contender[part], target, target)
      contender[`${part}Repeats`] = repeats
      plan[part] = { seconds: first[part], repeats }
    }
    return plan
  },
  /** One sample of `part`, forward or both, in seconds. */
  sample({ name, form, part }) {
    const contender = contenders.get(`${name} ${form}`)
    return time(contender[part], contender[`${part}Repeats`])
  },
})
