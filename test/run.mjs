/** Runs mocha in the environment that the WebGPU tests need. node test/run.mjs [options of mocha] files */
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { gpuEnvironment } from './gpu-environment.mjs'

const mocha = join(dirname(createRequire(import.meta.url).resolve('mocha/package.json')), 'bin/mocha.js')
const env = await gpuEnvironment().catch((error) => {
  console.error(error.message)
  process.exit(1)
})
// tsc alone leaves the bundles as they were, and tests of the command and of pages would run those.
const made = (name) => statSync(new URL(`../dist/${name}`, import.meta.url)).mtimeMs
if (made('node/cli/main.js') < made('cli/main.js')) {
  console.error('dist/node is older than what tsc has made: npm run build, or node bundle.mjs')
  process.exit(1)
}
// Short-lived arrays by the million: with more room for them they are collected less often. Mocha's own processes have it too, those of tests don't.
// The one optimising compiler of Node 20, which has no Maglev, costs code that runs for seconds more than it gives: it begins later. Commands have this, too.
const later = process.versions.node.startsWith('20.') ? ['--interrupt-budget=1000000'] : []
const options = ['--max-semi-space-size=64', ...later, mocha, ...process.argv.slice(2)]
const { status, signal, error } = spawnSync(process.execPath, options, { env, stdio: 'inherit' })
if (error) throw error
if (signal) console.error(`mocha was ended by ${signal}`)
process.exit(status ?? 1)
