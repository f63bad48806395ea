/**
 * Compares every model of other packages in a folder of figures on every device, by the command. node test/compare-all.mjs SHARED [DEVICE ...]
 * It prints as mocha counts: N passing, N failing.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gpuEnvironment } from './gpu-environment.mjs'

const [shared, ...chosen] = process.argv.slice(2)
const devices = chosen.length > 0 ? chosen : ['reference', 'wasm', 'webgpu']
const main = fileURLToPath(new URL('../dist/node/cli/main.js', import.meta.url))
const env = await gpuEnvironment()

const folders = ['fla', 'transformers'].flatMap((name) => {
  const under = join(shared, 'golden/interop', name)
  return readdirSync(under).map((folder) => join(under, folder))
})
const rwkv = join(shared, 'data/rwkv')
const cases = [
  ...folders.filter((folder) => existsSync(join(folder, 'config.json'))).map((folder) => [folder]),
  ...['4v0-660K', '5v2-730K', '7v0-834K'].map((version) => [
    join(rwkv, `tiny-rwkv-${version}-FP32.bin`),
    join(rwkv, `expected-logits-${version}.bin`),
  ]),
]
let failing = 0
for (const device of devices)
  for (const words of cases) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [main, 'compare', ...words, '--device', device], {
      env,
      encoding: 'utf8',
    })
    if (status === 0) continue
    failing++
    console.log(`compare ${words.join(' ')} --device ${device}: ${status}\n${stdout}${stderr}`)
  }
console.log(`  ${devices.length * cases.length - failing} passing\n  ${failing} failing`)
process.exitCode = failing === 0 ? 0 : 1
