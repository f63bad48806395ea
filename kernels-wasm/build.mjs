/**
 * Compiles kernels-wasm/ with AssemblyScript, once a target of asconfig.json (`simd`, `relaxed`), and embeds the binaries in
 * kernels-wasm/generated/bytes.ts, so that Node, bundlers and pages all load them the same way, with shared memory or without.
 * Does nothing when bytes.ts is newer than every source. From anywhere: node kernels-wasm/build.mjs
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = dirname(fileURLToPath(import.meta.url))
const root = dirname(folder)
const config = join(root, 'asconfig.json')
const output = join(folder, 'generated', 'bytes.ts')

const sources = readdirSync(folder)
  .filter((name) => /\.(ts|mjs|json)$/.test(name))
  .map((name) => join(folder, name))
const time = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
// The folder's own time tells of files added or removed.
if ([config, folder, ...sources].every((path) => time(path) < time(output))) process.exit(0)

const { main } = await import('assemblyscript/asc').catch(() => {
  console.error('kernels-wasm: assemblyscript is not installed (run npm install)')
  process.exit(1)
})

/** The binary of one target, kept in memory: the outFile of asconfig.json only names it. */
async function compile(target) {
  let binary
  // Warning 112: v128 in a signature; such functions are called between kernels only.
  const { error, stderr } = await main(['--config', config, '--baseDir', root, '--target', target, '--disableWarning', '112'], {
    writeFile(name, contents) {
      if (name.endsWith('.wasm')) binary = contents
    },
  })
  process.stderr.write(stderr.toString())
  if (error || !binary) {
    console.error(`kernels-wasm: target ${target} does not compile${error ? `: ${error.message}` : ''}`)
    process.exit(1)
  }
  return binary
}

/**
 * The import of the memory, and after it a byte of flags: 3, shared and with a maximum. With 1 in its place the module takes a memory that
 * isn't shared: kernels have no atomic instructions, so that this byte is all in which the two builds would differ.
 */
const memoryImport = '\x03env\x06memory\x02'

const lines = [
  '// Written by kernels-wasm/build.mjs.',
  `function decode(text: string, flags: number, shared: boolean): Uint8Array<ArrayBuffer> {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
  if (!shared) bytes[flags] = 1
  return bytes
}`,
]
const sizes = []
for (const target of Object.keys(JSON.parse(readFileSync(config, 'utf8')).targets)) {
  const binary = await compile(target)
  const flags = Buffer.from(binary).indexOf(memoryImport, 'latin1') + memoryImport.length
  if (binary[flags] !== 3) throw new Error(`kernels-wasm: target ${target} imports no shared memory`)
  const text = Buffer.from(binary).toString('base64')
  lines.push(`export const ${target} = (shared: boolean): Uint8Array<ArrayBuffer> => decode('${text}', ${flags}, shared)`)
  sizes.push(`${target} ${(binary.length / 1024).toFixed(1)} kB`)
}
mkdirSync(dirname(output), { recursive: true })
// Written whole or not at all, even when two builds run at once.
const temporary = `${output}.${process.pid}`
writeFileSync(temporary, `${lines.join('\n')}\n`)
renameSync(temporary, output)
console.log(`kernels-wasm: ${sizes.join(', ')}`)
