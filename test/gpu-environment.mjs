import { join } from 'node:path'
import { swiftShader } from './unpack.mjs'

/**
 * The environment of a process that opens a GPU, which must be there before it starts: on Linux, unless FASTWEIGHTS_GPU=system asks for the
 * machine's own drivers, the Vulkan loader and SwiftShader.
 */
export async function gpuEnvironment() {
  const env = { ...process.env }
  const folder = env.FASTWEIGHTS_GPU === 'system' ? undefined : await swiftShader()
  if (folder) {
    env.LD_LIBRARY_PATH = [folder, env.LD_LIBRARY_PATH].filter(Boolean).join(':')
    env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json')
  }
  return env
}
