/**
 * The environment that WebGPU needs, which must be there before a process starts. FASTWEIGHTS_GPU says on what it runs: `swiftshader`, a GPU
 * computed on the CPU that npm brings (on Linux, the default), with its Vulkan loader; `lavapipe`, Mesa's, from the system; `system`, whatever
 * the machine has.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { swiftShader } from './unpack.mjs'

/** The manifest of Mesa's driver that computes on the CPU. */
function lavapipe() {
  for (const folder of ['/etc/vulkan/icd.d', '/usr/local/share/vulkan/icd.d', '/usr/share/vulkan/icd.d']) {
    const file = existsSync(folder) && readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name))
    if (file) return join(folder, file)
  }
  throw new Error(
    'FASTWEIGHTS_GPU=lavapipe: there is no lvp_icd*.json in /usr/share/vulkan/icd.d; apt install mesa-vulkan-drivers (25 or later)',
  )
}

/** That of this process, with what is needed. */
export async function gpuEnvironment() {
  const env = { ...process.env }
  const { FASTWEIGHTS_GPU: gpu = 'swiftshader' } = env
  if (gpu === 'swiftshader') {
    const folder = await swiftShader()
    if (folder) {
      env.LD_LIBRARY_PATH = [folder, env.LD_LIBRARY_PATH].filter(Boolean).join(':')
      env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json')
    }
  } else if (gpu === 'lavapipe') env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = lavapipe()
  else if (gpu !== 'system') throw new Error(`FASTWEIGHTS_GPU=${gpu}: must be swiftshader, lavapipe or system`)
  return env
}
