/**
 * What the package @sparticuz/chromium holds for Linux on x64, unpacked once into node_modules/.cache: SwiftShader (a GPU computed on the
 * CPU) with a Vulkan loader, and headless Chromium.
 */
import { createReadStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { createBrotliDecompress } from 'node:zlib'

const modules = join(dirname(dirname(fileURLToPath(import.meta.url))), 'node_modules')
const source = join(modules, '@sparticuz/chromium')

/** The regular files of a tar archive: 512 bytes of header (name at 0, size in octal at 124, type at 156), then the contents, padded. */
function* untar(archive) {
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const text = (from, to) => archive.toString('utf8', at + from, at + to).split('\0')[0]
    const size = Number.parseInt(text(124, 136), 8)
    if (text(156, 157) === '0' || text(156, 157) === '') yield [text(0, 100), archive.subarray(at + 512, at + 512 + size)]
    at += 512 + Math.ceil(size / 512) * 512
  }
}

/** The folder with the contents of these archives, unpacked if need be; undefined where they are of no use or the package isn't installed. */
async function unpacked(name, archives) {
  if (process.platform !== 'linux' || process.arch !== 'x64' || !existsSync(source)) return undefined
  const { version } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8'))
  const folder = join(modules, '.cache/fastweights', `${name}-${version}`)
  if (existsSync(folder)) return folder
  const temporary = `${folder}.${process.pid}`
  for (const archive of archives) {
    const contents = await buffer(createReadStream(join(source, 'bin', archive)).pipe(createBrotliDecompress()))
    const files = archive.endsWith('.tar.br') ? untar(contents) : [[archive.replace(/\.br$/, ''), contents]]
    for (const [path, data] of files) {
      mkdirSync(dirname(join(temporary, path)), { recursive: true })
      writeFileSync(join(temporary, path), data, { mode: 0o755 })
    }
  }
  try {
    renameSync(temporary, folder)
  } catch (error) {
    // Another run was first.
    rmSync(temporary, { recursive: true })
    if (!existsSync(folder)) throw error
  }
  return folder
}

export const swiftShader = () => unpacked('swiftshader', ['swiftshader.tar.br'])

/** The program, and the folder of the libraries that it needs and a machine may lack. */
export async function chromium() {
  const folder = await unpacked('chromium', ['chromium.br', 'swiftshader.tar.br', 'al2023.tar.br'])
  return folder && { executable: join(folder, 'chromium'), libraries: join(folder, 'lib') }
}
