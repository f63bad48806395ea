/**
 * Runs mocha with the environment that the WebGPU tests need, which must be there before the process starts: on Linux, unless
 * FASTWEIGHTS_GPU=system asks for the machine's own drivers, the Vulkan loader and SwiftShader (a GPU computed on the CPU) that the
 * package @sparticuz/chromium holds, unpacked once into node_modules/.cache. node test/run.mjs [options of mocha] files
 */
import { spawnSync } from 'node:child_process'
import { createReadStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { createBrotliDecompress } from 'node:zlib'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** The regular files of a tar archive: 512 bytes of header (name at 0, size in octal at 124, type at 156), then the contents, padded. */
function* untar(archive) {
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const text = (from, to) => archive.toString('utf8', at + from, at + to).split('\0')[0]
    const size = Number.parseInt(text(124, 136), 8)
    if (text(156, 157) === '0' || text(156, 157) === '') yield [text(0, 100), archive.subarray(at + 512, at + 512 + size)]
    at += 512 + Math.ceil(size / 512) * 512
  }
}

/** The folder with SwiftShader, unpacked if need be; undefined where the package isn't installed. */
async function swiftShader() {
  const found = join(root, 'node_modules/@sparticuz/chromium')
  if (!existsSync(found)) return undefined
  const { version } = JSON.parse(readFileSync(join(found, 'package.json'), 'utf8'))
  const folder = join(root, 'node_modules/.cache/fastweights', `swiftshader-${version}`)
  if (!existsSync(folder)) {
    const temporary = `${folder}.${process.pid}`
    mkdirSync(temporary, { recursive: true })
    const archive = await buffer(createReadStream(join(found, 'bin/swiftshader.tar.br')).pipe(createBrotliDecompress()))
    for (const [name, contents] of untar(archive)) writeFileSync(join(temporary, name), contents, { mode: 0o755 })
    try {
      renameSync(temporary, folder)
    } catch (error) {
      // Another run was first.
      rmSync(temporary, { recursive: true })
      if (!existsSync(folder)) throw error
    }
  }
  return folder
}

const env = { ...process.env }
if (process.platform === 'linux' && process.arch === 'x64' && env.FASTWEIGHTS_GPU !== 'system') {
  const folder = await swiftShader()
  if (folder) {
    env.LD_LIBRARY_PATH = [folder, env.LD_LIBRARY_PATH].filter(Boolean).join(':')
    env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json')
  }
}
const mocha = join(dirname(createRequire(import.meta.url).resolve('mocha/package.json')), 'bin/mocha.js')
const { status, signal, error } = spawnSync(process.execPath, [mocha, ...process.argv.slice(2)], { env, stdio: 'inherit' })
if (error) throw error
if (signal) console.error(`mocha was ended by ${signal}`)
process.exit(status ?? 1)
