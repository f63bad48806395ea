/**
 * Runs mocha with the environment that the WebGPU tests need, which must be there before the process starts. FASTWEIGHTS_GPU says on what:
 * `swiftshader`, a GPU computed on the CPU that npm brings (on Linux, the default), with its Vulkan loader; `lavapipe`, Mesa's, from the
 * system; `system`, whatever the machine has. node test/run.mjs [options of mocha] files
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { swiftShader } from './unpack.mjs'

/** The manifest of Mesa's driver that computes on the CPU. */
function lavapipe() {
  for (const folder of ['/etc/vulkan/icd.d', '/usr/local/share/vulkan/icd.d', '/usr/share/vulkan/icd.d']) {
    const file = existsSync(folder) && readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name))
    if (file) return join(folder, file)
  }
  console.error(
    'FASTWEIGHTS_GPU=lavapipe: there is no lvp_icd*.json in /usr/share/vulkan/icd.d; apt install mesa-vulkan-drivers (25 or later)',
  )
  process.exit(1)
}

const env = { ...process.env }
const { FASTWEIGHTS_GPU: gpu = 'swiftshader' } = env
if (gpu === 'swiftshader') {
  const folder = await swiftShader()
  if (folder) {
    env.LD_LIBRARY_PATH = [folder, env.LD_LIBRARY_PATH].filter(Boolean).join(':')
    env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json')
  }
} else if (gpu === 'lavapipe') env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = lavapipe()
else if (gpu !== 'system') {
  console.error(`FASTWEIGHTS_GPU=${gpu}: must be swiftshader, lavapipe or system`)
  process.exit(1)
}
const mocha = join(dirname(createRequire(import.meta.url).resolve('mocha/package.json')), 'bin/mocha.js')
const { status, signal, error } = spawnSync(process.execPath, [mocha, ...process.argv.slice(2)], { env, stdio: 'inherit' })
if (error) throw error
if (signal) console.error(`mocha was ended by ${signal}`)
process.exit(status ?? 1)
