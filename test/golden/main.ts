/** npm run golden -- FOLDER: every file of figures in a folder, through the public API. See figures.ts. */
import { parseArgs } from 'node:util'
import { openDevice, referenceDevice, wasmDevice, webgpuDevice } from '../../engine/index.ts'
import { figuresIn, largest, show, type Verdict } from './figures.ts'
import { check } from './kinds.ts'

const usage = `npm run golden -- FOLDER [--device reference|wasm|webgpu|auto] [--json]
Runs every .safetensors file of figures in the folder and prints the largest errors of its outputs, losses, states and gradients, relative to the
largest entry. Exit 1 where one is over its bound, or a file is of no kind that is known. --json: one object, on one line, the last one.`

function fail(message: string): never {
  console.error(`${message}\n\n${usage}`)
  process.exit(2)
}

const devices = {
  reference: async () => referenceDevice(),
  wasm: () => wasmDevice({ threads: 1 }),
  webgpu: () => webgpuDevice(),
  auto: () => openDevice('auto'),
}

function parse() {
  try {
    const options = { device: { type: 'string', default: 'reference' }, json: { type: 'boolean', default: false } } as const
    return parseArgs({ options, allowPositionals: true })
  } catch (error) {
    return fail((error as Error).message)
  }
}
const { values, positionals } = parse()
if (positionals.length !== 1) fail(`one folder is needed, not ${positionals.length}`)
const [folder] = positionals
if (!Object.hasOwn(devices, values.device)) fail(`there is no device '${values.device}'`)
const names = (() => {
  try {
    return figuresIn(folder)
  } catch (error) {
    return fail(`${folder} can't be read: ${(error as Error).message}`)
  }
})()
if (names.length === 0) fail(`${folder} has no .safetensors file`)

const device = await devices[values.device as keyof typeof devices]()
const verdicts: Verdict[] = []
for (const name of names) {
  const verdict = await check(folder, name, device)
  verdicts.push(verdict)
  if (values.json) continue
  const { file, errors, faults, skipped } = verdict
  if (skipped !== undefined) console.log(`none   ${file}: ${skipped}`)
  else {
    console.log(`${faults.length > 0 ? 'WRONG' : 'ok   '}  ${file}`)
    for (const [way, each] of Object.entries(errors)) console.log(`         ${way.padEnd(10)} ${show(each)}`)
    for (const fault of faults) console.log(`         ${fault}`)
  }
}
const wrong = verdicts.filter(({ faults }) => faults.length > 0).length
const skipped = verdicts.filter(({ skipped }) => skipped !== undefined).length
const all = largest(verdicts)
if (values.json) console.log(JSON.stringify({ folder, device: device.name, files: verdicts, largest: all, wrong, skipped }))
else
  console.log(
    `\n${names.length} files on ${device.name}: ${names.length - wrong - skipped} agree, ${wrong} don't, for ${skipped} there is nothing to run; largest: ${show(all)}`,
  )
device.close()
process.exitCode = wrong > 0 ? 1 : 0
