/**
 * Runs mocha with the environment that the WebGPU tests need, which must be there before the process starts: on Linux, unless
 * FASTWEIGHTS_GPU=system asks for the machine's own drivers, the Vulkan loader and SwiftShader. node test/run.mjs [options of mocha] files
 */
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { swiftShader } from './unpack.mjs'

const env = { ...process.env }
const folder = env.FASTWEIGHTS_GPU === 'system' ? undefined : await swiftShader()
if (folder) {
  env.LD_LIBRARY_PATH = [folder, env.LD_LIBRARY_PATH].filter(Boolean).join(':')
  env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json')
}
const mocha = join(dirname(createRequire(import.meta.url).resolve('mocha/package.json')), 'bin/mocha.js')
const { status, signal, error } = spawnSync(process.execPath, [mocha, ...process.argv.slice(2)], { env, stdio: 'inherit' })
if (error) throw error
if (signal) console.error(`mocha was ended by ${signal}`)
process.exit(status ?? 1)
