/**
 * What the benchmark of a card does on our side, on the default device: on a card, where it's timed, and on the runtime of roofline.mjs, where it's counted.
 * A work's `run(count)` does it so many times, one after the other, and waits for the last; it gives the milliseconds after which all had been asked for, or
 * null where the host has something to do for each result.
 */
import { writeFileSync } from 'node:fs'
import { affine, generator, l2Norm, matmul, noGrad, normal, ones, rules, scope, sigmoid, tensor } from '../dist/engine/index.js'
import { Adam, constant, generate, Trainer, Transformer } from '../dist/nn/index.js'
import { optimizerOf, presets } from '../dist/tasks/presets.js'

const symbols = 65

/** Many calls of what only asks for kernels. */
async function asked(body, count) {
  const start = performance.now()
  for (let i = 0; i < count; i++) scope(body)
  const last = scope(() => affine(tensor([1]), 1, 1))
  const host = performance.now() - start
  await last.read()
  last.dispose()
  return host
}

/** n x n x n. */
function product({ n }) {
  const [a, b] = [1, 2].map((seed) => normal(generator(seed), [n, n]))
  return { run: (count) => asked(() => void matmul(a, b), count) }
}

/** What a rule takes, made on the device of normal numbers: strengths in (0, 1), logarithms of decays in (-0.1, 0), queries and keys of length 1. */
const made = {
  rate: (x) => sigmoid(x),
  gate: (x) => affine(sigmoid(x), -0.1),
}

/** A rule's pass in chunks, forward alone or with the gradients of all inputs. */
function recurrence({ rule, sizes, backward }) {
  const { inputs, run } = rules[rule]
  const given = Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, values }], i) => {
      const axes = shape.map((letter) => sizes[letter])
      const x = scope(() => (made[values] ?? (name === 'v' ? (x) => x : l2Norm))(normal(generator(i + 1), axes)))
      x.requiresGrad = true
      return [name, x]
    }),
  )
  const { B, T, H, V } = sizes
  const seed = ones([B, T, H, V])
  const pass = () => run(given, undefined, { form: 'chunk' }).y
  return {
    run: (count) =>
      asked(() => {
        if (!backward) return void noGrad(pass)
        pass().backward(seed)
        for (const x of Object.values(given)) {
          x.grad.dispose()
          x.grad = null
        }
      }, count),
  }
}

/** The models whose steps are timed, or counted: those of bench/train.mjs, and presets with their optimiser. */
const models = {
  labml: { dModel: 512, heads: 8, layers: 6, dFf: 2048, nu: 1 },
  small: { dModel: 128, heads: 4, layers: 4, dFf: 512, nu: 1 },
  default: presets.default,
  'gated-deltanet, 2 heads': {
    ...presets['gated-deltanet'],
    model: { ...presets['gated-deltanet'].model, heads: 2, betaRange: 2 },
  },
  tiny: { dModel: 32, heads: 2, layers: 1, dFf: 64, nu: 1 },
}

/** A model of that name and its optimiser: one of this class, else its preset's, else Adam. */
export function modelOf(name, Optimizer) {
  const { model: config, training } = models[name].model ? models[name] : { model: models[name] }
  const model = new Transformer({ ...config, symbols }, 1)
  const preset = training && Optimizer === undefined
  return { model, optimizer: preset ? optimizerOf(model, training) : new (Optimizer ?? Adam)(model.namedParameters(), { lr: 1e-4 }) }
}

/**
 * Steps as `train` takes them: captured, and none waited for. `weights`: where to write what the model begins with, for another program, names and shapes in
 * FILE.json and float32 values in FILE.bin; the losses of two steps are given then.
 */
function step({ name, batch: B, length: T, weights, Optimizer }) {
  const { model, optimizer } = modelOf(name, Optimizer)
  const trainer = new Trainer(model, optimizer, { schedule: constant(1e-4), clipNorm: 1 })
  // Any text will do: time doesn't depend on it.
  const text = (shift) => Int32Array.from({ length: B * T }, (_, i) => ((i + shift) * 7919) % symbols)
  const batch = { tokens: text(0), targets: text(1), B, T }
  return {
    parameters: model.parameterCount(),
    async begin() {
      if (!weights) return {}
      const named = [...model.namedParameters()]
      writeFileSync(`${weights}.json`, JSON.stringify(named.map(([name, { shape }]) => [name, shape])))
      const values = await Promise.all(named.map(([, p]) => p.read()))
      writeFileSync(`${weights}.bin`, Buffer.concat(values.map((x) => Buffer.from(Float32Array.from(x).buffer))))
      const losses = []
      for (let i = 0; i < 2; i++) losses.push((await trainer.step(batch)).loss)
      return { losses }
    },
    async run(count) {
      const start = performance.now()
      const results = []
      for (let i = 0; i < count; i++) results.push(trainer.step(batch))
      const host = performance.now() - start
      for (const { loss } of await Promise.all(results)) if (!Number.isFinite(loss)) throw new Error(`the loss is ${loss}`)
      return host
    },
  }
}

/** Characters of one text, each drawn on the host before the next is computed. */
function generation({ name }) {
  const { model } = modelOf(name)
  const text = generate(model, Int32Array.of(1, 2, 3, 4, 5), { length: 1e6 })
  return {
    parameters: model.parameterCount(),
    // The prompt, and the step that is captured.
    async begin() {
      for (let i = 0; i < 3; i++) await text.next()
      return {}
    },
    async run(count) {
      for (let i = 0; i < count; i++) await text.next()
      return null
    },
  }
}

/** By `what`: how a work is made from what a row gives. */
export const works = { product, recurrence, step, generation }
