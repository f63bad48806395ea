/**
 * How fast text is generated, by the default model with random weights, whose speed is that of trained ones. From the repository's root, after
 * `npm run build`:
 *
 *     node bench/decode.mjs [--threads 1] [--length 2000] [--batch 32] [--rounds 7] [--against FOLDER]
 *
 * Rounds are interleaved: a step that is run each time (on a profiled device, which captures none, but whose profile is stopped), the captured one,
 * a batch, and one read of as many bytes as the model has weights, by a sum. `--against`: another checkout, built, for its `generate` in place of the first.
 * Prints medians of wall time, and of the process's processor time, which other programs on the machine disturb less.
 */
import { cpus } from 'node:os'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import v8 from 'node:v8'

if (process.versions.node.startsWith('20.')) v8.setFlagsFromString('--experimental-wasm-relaxed-simd')

const option = (text) => ({ type: 'string', default: text })
const { values } = parseArgs({
  options: { threads: option('1'), length: option('2000'), batch: option('32'), rounds: option('7'), against: option('') },
})
const [threads, length, batch, rounds] = ['threads', 'length', 'batch', 'rounds'].map((name) => Number(values[name]))

const load = async (root) => {
  const part = (name) => import(new URL(`dist/${name}/index.js`, root).href)
  const [engine, nn, tasks] = await Promise.all(['engine', 'nn', 'tasks'].map(part))
  await engine.enableWideSimd?.() // an older checkout has none
  const device = await engine.wasmDevice({ threads })
  const modelOn = (device) => {
    engine.setDevice(device)
    return new nn.Transformer({ ...tasks.presets.default.model, symbols: 65 }, 1)
  }
  return { engine, nn, device, modelOn }
}
const here = await load(new URL('../', import.meta.url))
const prompt = Int32Array.of(1, 2, 3, 4, 5)

async function plain() {
  if (values.against) {
    const { nn, device, modelOn } = await load(pathToFileURL(`${resolve(values.against)}/`))
    return [nn, modelOn(device)]
  }
  const profiling = here.engine.profile(here.device)
  profiling.stop()
  return [here.nn, here.modelOn(profiling.device)]
}

const [other, old] = await plain()
const model = here.modelOn(here.device)
const weights = model.parameters().reduce((n, p) => n + p.size, 0)
const row = here.engine.zeros([Math.ceil(weights / 256), 256])

const run = async (generator) => {
  for await (const _ of generator);
}
const contenders = {
  'before, or without capture': [length / 4, () => run(other.generate(old, prompt, { length: length / 4 }))],
  captured: [length, () => run(here.nn.generate(model, prompt, { length }))],
  [`batch of ${batch}`]: [
    (batch * length) / 8,
    () =>
      run(
        here.nn.generateBatch(
          model,
          Array.from({ length: batch }, () => prompt),
          { length: length / 8 },
        ),
      ),
  ],
  'a read of the weights': [
    length,
    async () => {
      for (let i = 0; i < length; i++) here.engine.sum(row, { axis: 1 }).dispose()
    },
  ],
}

const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1]
const samples = Object.fromEntries(Object.keys(contenders).map((name) => [name, { wall: [], cpu: [] }]))
for (let round = -1; round < rounds; round++)
  for (const [name, [tokens, body]] of Object.entries(contenders)) {
    const [start, before] = [performance.now(), process.cpuUsage()]
    await body()
    const { user, system } = process.cpuUsage(before)
    if (round < 0) continue // V8 has yet to optimise
    samples[name].wall.push((1000 * (performance.now() - start)) / tokens)
    samples[name].cpu.push((user + system) / tokens)
  }
console.log(
  `${cpus()[0].model}, Node ${process.versions.node}, ${here.device.description}; microseconds a character (median of ${rounds}):`,
)
for (const [name, { wall, cpu }] of Object.entries(samples)) {
  const [w, c] = [median(wall), median(cpu)]
  console.log(
    `${name.padEnd(28)} wall ${w.toFixed(1).padStart(8)}   processor ${c.toFixed(1).padStart(8)}   ${Math.round(1e6 / w)} a second`,
  )
}
here.device.close()
process.exit(0)
