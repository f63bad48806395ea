/**
 * Compiles kernels-wasm/ with AssemblyScript, once a target of asconfig.json (`simd`, `relaxed`), and embeds each binary in
 * kernels-wasm/generated/TARGET.ts, which bytes.ts loads when it is asked for, so that Node, bundlers and pages all load them the same way, with shared memory or without.
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

/** The parameters of each function that the binary exports, a letter each: the bytes of their types (0x7f i32, 0x7d f32). */
function signaturesOf(binary) {
  let at = 8
  const number = () => {
    for (let value = 0, shift = 0; ; shift += 7) {
      const byte = binary[at++]
      value |= (byte & 127) << shift
      if (byte < 128) return value
    }
  }
  const list = (read) => Array.from({ length: number() }, read)
  const name = () => Buffer.from(list(() => binary[at++])).toString()
  const letters = { 127: 'i', 125: 'f' }
  let types
  const functions = []
  while (at < binary.length) {
    const section = binary[at++]
    const end = number() + at
    if (section === 1) types = list(() => [at++, list(() => letters[binary[at++]]), list(() => binary[at++])][1])
    if (section === 2) {
      list(() => {
        name()
        name()
        const kind = binary[at++]
        if (kind === 0) functions.push(number())
        else if (kind === 2) {
          at++ // the memory: flags, and two limits
          number()
          number()
        } else if (kind === 3)
          at += 2 // a number: its type, and whether it changes
        else throw new Error(`kernels-wasm: an import of kind ${kind}`)
      })
    }
    if (section === 3) functions.push(...list(number))
    if (section === 7) {
      const exported = list(() => [name(), binary[at++], number()])
      return Object.fromEntries(
        exported.filter(([, kind]) => kind === 0).map(([name, , index]) => [name, types[functions[index]].join('')]),
      )
    }
    at = end
  }
}

const written = '// Written by kernels-wasm/build.mjs.'
const files = []
const lines = [
  written,
  `function decode(text: string, flags: number, shared: boolean): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length / 2)
  const digit = (i: number): number => text.charCodeAt(i) - (text.charCodeAt(i) < 58 ? 48 : 87)
  for (let i = 0; i < bytes.length; i++) bytes[i] = 16 * digit(2 * i) + digit(2 * i + 1)
  if (!shared) bytes[flags] = 1
  return bytes
}`,
]
const sizes = []
let signatures
for (const target of Object.keys(JSON.parse(readFileSync(config, 'utf8')).targets)) {
  const binary = await compile(target)
  const flags = Buffer.from(binary).indexOf(memoryImport, 'latin1') + memoryImport.length
  if (binary[flags] !== 3) throw new Error(`kernels-wasm: target ${target} imports no shared memory`)
  // Two hexadecimal digits a byte: longer than base64, but bytes that are the same look the same, and so a quarter less once packed.
  files.push([target, [written, `export const text: string = '${Buffer.from(binary).toString('hex')}'`]])
  lines.push(
    `export const ${target} = async (shared: boolean): Promise<Uint8Array<ArrayBuffer>> => decode((await import("./${target}.ts")).text, ${flags}, shared)`,
  )
  signatures ??= JSON.stringify(signaturesOf(binary))
  if (JSON.stringify(signaturesOf(binary)) !== signatures) throw new Error(`kernels-wasm: target ${target} has other signatures`)
  sizes.push(`${target} ${(binary.length / 1024).toFixed(1)} kB`)
}
lines.push(
  '/** The parameters of each kernel: i for i32, f for f32. */',
  `export const signatures: Readonly<Record<string, string>> = ${signatures}`,
)
files.push(['bytes', lines]) // last, as its time counts
mkdirSync(dirname(output), { recursive: true })
for (const [name, lines] of files) {
  const file = join(dirname(output), `${name}.ts`)
  // Written whole or not at all, even when two builds run at once.
  const temporary = `${file}.${process.pid}`
  writeFileSync(temporary, `${lines.join('\n')}\n`)
  renameSync(temporary, file)
}
console.log(`kernels-wasm: ${sizes.join(', ')}`)
