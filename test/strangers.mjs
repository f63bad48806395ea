/**
 * A thousand files of other packages' models, damaged on purpose: each is a clear error of one line, or a model that is written again as it stands there. node
 * test/strangers.mjs [RUNS]. It prints as mocha counts: N passing, N failing. The suite has 150, of bytes alone.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setDevice, wasmDevice } from '../dist/engine/index.js'
import { fromPretrained, PretrainedError, readSafetensors, toPretrained, writeSafetensors } from '../dist/nn/index.js'
import { random } from '../dist/test/helpers.js'
import { choices, made } from '../dist/test/nn/pretrained.js'

const runs = Number(process.argv[2] ?? 1000)
const next = random(22)
const below = (n) => Math.floor(next() * n)
const pick = (list) => list[below(list.length)]
const encode = (value) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value))
const indexName = 'model.safetensors.index.json'
const [configName, weightsName] = ['config.json', 'model.safetensors']

const configOf = (files) => JSON.parse(new TextDecoder().decode(files.get(configName)))
const tensorsOf = (files) =>
  [...files].filter(([name]) => name.endsWith('.safetensors')).flatMap(([, bytes]) => [...readSafetensors(bytes).tensors])
/** The same in so many files. */
function sharded(files, n) {
  const tensors = tensorsOf(files)
  const shards = Array.from({ length: n }, () => [])
  for (const [i, tensor] of tensors.entries()) shards[i % n].push(tensor)
  const named = shards.map((shard, i) => [`model-0000${i + 1}-of-0000${n}.safetensors`, shard])
  const map = Object.fromEntries(named.flatMap(([file, shard]) => shard.map(([name]) => [name, file])))
  return new Map([
    [configName, files.get(configName)],
    [indexName, encode({ metadata: {}, weight_map: map })],
    ...named.map(([file, shard]) => [file, writeSafetensors(shard)]),
  ])
}
const withTensors = (files, change) => new Map([...files, [weightsName, writeSafetensors(change(tensorsOf(files)))]])
const withConfig = (files, change) => new Map([...files, [configName, encode(change(configOf(files)))]])
const withIndex = (files, change) => {
  const { weight_map } = JSON.parse(new TextDecoder().decode(files.get(indexName)))
  return new Map([...files, [indexName, encode({ weight_map: change({ ...weight_map }) })]])
}
const withBytes = (files, change) => {
  const name = pick([...files.keys()])
  return new Map([...files, [name, change(files.get(name).slice())]])
}

/** What befalls files; `shards`: those of several. */
const damage = {
  'bytes changed': (files) => withBytes(files, (bytes) => bytes.map((byte) => (next() < 0.003 ? below(256) : byte))),
  'cut off': (files) => withBytes(files, (bytes) => bytes.slice(0, below(bytes.length))),
  'made longer': (files) =>
    withBytes(files, (bytes) => Uint8Array.from([...bytes, ...Array.from({ length: 1 + below(9) }, () => below(256))])),
  'a huge header': (files) => {
    const bytes = files.get(weightsName).slice()
    new DataView(bytes.buffer).setBigUint64(0, pick([10n ** 10n, 2n ** 40n, 2n ** 63n, 100_000_001n, BigInt(bytes.length)]), true)
    return new Map([...files, [weightsName, bytes]])
  },
  'a pickle': (files) =>
    new Map([...files, [weightsName, Uint8Array.from([0x80, 2, 0x7d, 0x71, ...Array.from({ length: 40 }, () => below(256))])]]),
  'a pickle in a zip': (files) =>
    new Map([...files, [weightsName, Uint8Array.from([0x50, 0x4b, 3, 4, ...Array.from({ length: 60 }, () => below(256))])]]),
  'a tensor missing': (files) => withTensors(files, (all) => all.filter((_, i) => i !== below(all.length) && i > 0)),
  'a tensor left over': (files) => withTensors(files, (all) => [...all, [`${pick(all)[0]}.more`, pick(all)[1]]]),
  'a tensor misshapen': (files) =>
    withTensors(files, (all) => {
      const at = below(all.length)
      return all.map(([name, entry], i) => [name, i === at ? { ...entry, shape: [entry.data.length, 1, 1, 1] } : entry])
    }),
  'a tensor of integers': (files) =>
    withTensors(files, (all) => {
      const at = below(all.length)
      return all.map(([name, { shape, dtype, data }], i) => [
        name,
        i === at ? { dtype: 'I32', shape, data: Int32Array.from(data) } : { shape, dtype, data },
      ])
    }),
  'weights that are no numbers': (files) =>
    withTensors(files, (all) =>
      all.map(([name, entry]) => [name, { ...entry, data: entry.data.map((x) => (next() < 0.1 ? pick([Number.NaN, Infinity]) : x)) }]),
    ),
  'another size in config.json': (files) =>
    withConfig(files, (config) => {
      const key = pick(Object.keys(config).filter((name) => typeof config[name] === 'number'))
      return { ...config, [key]: pick([config[key] + 1, config[key] * 2, 0, -1, 1e9, 1.5, '7', null]) }
    }),
  'a key too many in config.json': (files) =>
    withConfig(files, (config) => ({ ...config, [pick(['num_head', 'strange', 'rope_scaling'])]: pick([3, { a: 1 }, 'yes']) })),
  'another model_type': (files) =>
    withConfig(files, (config) => ({ ...config, model_type: pick(['glaa', 'llama', 7, null, config.model_type.toUpperCase()]) })),
  'a shard missing': (_, shards) => new Map([...shards].filter(([name]) => !name.startsWith('model-00002'))),
  'a shard doubled': (_, shards) =>
    new Map([...shards, ['model-00002-of-00003.safetensors', shards.get('model-00001-of-00003.safetensors')]]),
  'a path out of the folder': (_, shards) =>
    withIndex(shards, (map) => ({
      ...map,
      [pick(Object.keys(map))]: pick(['../x.safetensors', '/etc/passwd', 'C:\\x', '..', 'a/b.safetensors']),
    })),
  'a name too many in the index': (_, shards) => withIndex(shards, (map) => ({ ...map, 'model.more': Object.values(map)[0] })),
  'a name missing in the index': (_, shards) => withIndex(shards, (map) => Object.fromEntries(Object.entries(map).slice(1))),
  'no index': (_, shards) => new Map([...shards].filter(([name]) => name !== indexName)),
}

/** Empty where all is well. */
async function problemOf(files) {
  let opened
  try {
    opened = fromPretrained(files)
  } catch (error) {
    if (!(error instanceof PretrainedError)) return `${error.stack}`
    return /\n/.test(error.message) || error.message.length < 20 ? `no clear error: ${error.message}` : ''
  }
  try {
    const back = readSafetensors((await toPretrained(opened.model, opened.source)).get(weightsName)).tensors
    for (const [name, entry] of tensorsOf(files)) {
      const own = back.get(name)
      if (own === undefined) continue // Left out, and said so.
      if (!entry.data.every((x, i) => Object.is(x, own.data[i]) || (Number.isNaN(x) && Number.isNaN(own.data[i]))))
        return `${name} isn't what the file holds`
    }
    return ''
  } finally {
    opened.model.dispose()
  }
}

setDevice(await wasmDevice({ threads: 1 }))
const bases = choices.map(([, type, given]) => made(type, given))
const kinds = Object.entries(damage)
let [passing, failing] = [0, 0]
const fail = (what, problem) => {
  failing++
  console.log(`  FAILED  ${what}: ${problem}`)
}
for (let run = 0; run < runs; run++) {
  const [kind, change] = kinds[run % kinds.length]
  const files = bases[below(bases.length)]
  const began = performance.now()
  const problem = await problemOf(change(files, sharded(files, 3)))
  if (problem !== '') fail(`${run}, ${kind}`, problem)
  else if (performance.now() - began > 20_000) fail(`${run}, ${kind}`, 'it took more than 20 seconds')
  else passing++
}

// By the command: a line, a status, and no folder.
const place = mkdtempSync(join(tmpdir(), 'fastweights-strangers-'))
const main = fileURLToPath(new URL('../dist/node/cli/main.js', import.meta.url))
try {
  for (const kind of ['cut off', 'a huge header', 'a pickle', 'a tensor missing', 'a shard missing', 'a path out of the folder']) {
    mkdirSync(join(place, kind))
    for (const [name, bytes] of damage[kind](bases[0], sharded(bases[0], 3))) writeFileSync(join(place, kind, name), bytes)
    const out = join(place, `${kind} run`)
    const { status, stderr } = spawnSync(process.execPath, [main, 'import', join(place, kind), '--out', out], { encoding: 'utf8' })
    if (status === 1 && /^fastweights: .+\n$/.test(stderr) && !existsSync(out)) passing++
    else fail(`import of ${kind}`, `${status} ${stderr}${existsSync(out) ? ' and a folder' : ''}`)
  }
} finally {
  rmSync(place, { recursive: true, force: true })
}
console.log(`  ${passing} passing\n  ${failing} failing`)
process.exit(failing === 0 ? 0 : 1)
