/**
 * Models of other packages there and back, by the command: trained here, exported, opened by their package, whose figures are compared here; with transformers
 * trained 20 steps more by the Hugging Face trainer, and compared here once more. node test/round-trip.mjs [PRESET ... | all]: some are usual, and all
 * takes minutes.
 *
 * PYTHON (python3) is asked for transformers and accelerate, and PYTHON_FLA (PYTHON) for fla; where they lack them, this says so. It prints as mocha counts:
 * N passing, N failing.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packagePresets } from '../dist/tasks/presets.js'

const main = fileURLToPath(new URL('../dist/node/cli/main.js', import.meta.url))
const script = fileURLToPath(new URL('round-trip.py', import.meta.url))
const python = process.env.PYTHON ?? 'python3'
const pythons = { transformers: python, fla: process.env.PYTHON_FLA ?? python }
const usual = ['qwen3.5', 'mamba2', 'fla-gated-deltanet']
const all = Object.keys(packagePresets)
const given = process.argv.slice(2)
const chosen = given.length === 0 ? usual : given.includes('all') ? all : given
const unknown = chosen.find((preset) => !all.includes(preset))
if (unknown !== undefined) {
  console.error(`round-trip: ${unknown} is no preset of another package: they are ${all.join(', ')}; all takes them all`)
  process.exit(2)
}

const place = mkdtempSync(join(tmpdir(), 'fastweights-round-trip-'))
const text = join(place, 'text.txt')
const lines = [
  'It is so, and the way of it is this:\n',
  'why not a bird that sings?\n',
  'The bird sings; nobody asks it why.\n',
  'So it goes.\n\n',
]
writeFileSync(text, Array.from({ length: 300 }, (_, i) => lines[(i * i + (i >> 2)) % lines.length]).join(''))

/** Of logits: the package computes in float32, as wasm does. Kernels that Triton interprets sum otherwise. */
const bounds = { transformers: 5e-5, fla: 2e-4 }

let [passing, failing] = [0, 0]
function check(what, ok, found) {
  if (ok) passing++
  else failing++
  console.log(`  ${ok ? 'ok' : 'FAILED'}  ${what}${found ? `: ${found}` : ''}`)
}
function run(command, words) {
  const { status, stdout, stderr, error } = spawnSync(command, words, { encoding: 'utf8' })
  return { status, stdout, stderr: stderr?.slice(-2000) ?? '', missing: error?.code === 'ENOENT' }
}
const fastweights = (...words) => run(process.execPath, [main, ...words])

function trained(preset, steps, out, more = []) {
  const sizes = ['--batch', '2', '--seq-len', '32', '--eval-every', '1000', '--eval-limit', '200', '--sample-length', '8']
  return fastweights('train', '--preset', preset, '--text', text, '--out', out, '--steps', `${steps}`, ...sizes, ...more)
}

/** What `compare` says of a folder whose package has written its figures. */
function compared(folder, what, bound) {
  const { status, stdout, stderr } = fastweights('compare', folder, '--json')
  if (status === 2) return check(what, false, stderr)
  const { tensors } = JSON.parse(stdout)
  const short = tensors.filter(({ name, error }) => !(error !== null && error <= (name === 'logits' ? bound : 0)))
  check(what, short.length === 0, tensors.map(({ name, error }) => `${name} ${error}`).join(', '))
}

try {
  // A run that goes on is the one that didn't stop.
  for (const preset of chosen.slice(0, 1)) {
    const [whole, part] = ['whole', 'part'].map((name) => join(place, name))
    trained(preset, 6, whole)
    trained(preset, 3, part)
    fastweights('train', '--resume', part, '--steps', '6', '--eval-every', '1000', '--eval-limit', '200', '--sample-length', '8')
    const [a, b] = [whole, part].map((folder) => readFileSync(join(folder, 'checkpoint.safetensors')))
    check(`${preset}: 3 steps and 3 more are 6`, a.equals(b))
  }
  for (const package_ of Object.keys(pythons)) {
    const own = chosen.filter((preset) => packagePresets[preset].package === package_)
    if (own.length === 0) continue
    const probe = run(pythons[package_], [script, package_, text])
    if (probe.status === 3 || probe.missing) {
      console.log(`round trips through ${package_} didn't run: ${probe.missing ? `no ${pythons[package_]} here` : probe.stderr.trim()}`)
      continue
    }
    const folders = own.map((preset) => join(place, `${preset}-files`))
    for (const [i, preset] of own.entries()) {
      const { status, stderr } = trained(preset, package_ === 'fla' ? 30 : 200, join(place, preset))
      const written = fastweights('export', join(place, preset), '--out', folders[i])
      check(`${preset}: trained and exported`, status === 0 && written.status === 0, stderr + written.stderr)
    }
    const { status, stdout, stderr } = run(pythons[package_], [script, package_, text, ...folders])
    if (status !== 0) check(`${package_} opens what was exported`, false, stderr)
    for (const line of stdout.split('\n').filter((each) => each.startsWith('{"folder"'))) {
      const { folder, class: name, before, after } = JSON.parse(line)
      const preset = own[folders.indexOf(folder)]
      compared(folder, `${preset}: what ${name} computes`, bounds[package_])
      if (package_ !== 'transformers') continue
      check(`${preset}: 20 steps of its trainer, on one batch`, after < before / 2, `loss ${before.toFixed(4)}, then ${after.toFixed(4)}`)
      compared(`${folder}-more`, `${preset}: the same again here`, bounds[package_])
    }
  }
} finally {
  rmSync(place, { recursive: true, force: true })
}
console.log(`  ${passing} passing\n  ${failing} failing`)
process.exitCode = failing === 0 ? 0 : 1
