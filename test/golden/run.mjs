/** Runs dist/test/golden/main.js in the environment that WebGPU needs; the build, which npm run golden makes first, stays out of what it prints. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { gpuEnvironment } from '../gpu-environment.mjs'

const main = fileURLToPath(new URL('../../dist/test/golden/main.js', import.meta.url))
const { status, error } = spawnSync(process.execPath, [main, ...process.argv.slice(2)], { env: await gpuEnvironment(), stdio: 'inherit' })
if (error) throw error
process.exit(status ?? 1)
