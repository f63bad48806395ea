/**
 * Embeds kernels-wgsl/*.wgsl in kernels-wgsl/generated/wgsl.ts, so that Node, bundlers and pages all load them the same way, with what the
 * host needs to know of each file: its entry points, the members of `struct Params`, and its bindings. From anywhere: node kernels-wgsl/build.mjs
 *
 * common.wgsl and math.wgsl are put before every other file, and NAME.wgsl before NAME-PART.wgsl where that has no `struct Params` of its own: it
 * goes on with what NAME declares. Some files come in two kinds: `kinds`. Nothing is replaced, and nothing left out but comments, a quarter of all: each line stays
 * where it was, for messages of compilers.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = dirname(fileURLToPath(import.meta.url))
const output = join(folder, 'generated', 'wgsl.ts')
const shared = ['common', 'math']
/** What comes after a file wherever that does: the second, where there is one, in the place of the first on matrix units. */
const kinds = { 'fast-weights': ['fast-weights-tiles', 'fast-weights-units'], matmul: ['tiles'], products: ['tiles'] }
/** What comes between NAME.wgsl and these of NAME-PART.wgsl, each of which is three shaders: its own, NAME-PART-fading and NAME-PART-channels. */
const heads = {
  '': ['fast-weights-heads-plain', 'fast-weights-heads-even', 'fast-weights-heads'],
  '-fading': ['fast-weights-heads-fading', 'fast-weights-heads-even', 'fast-weights-heads'],
  '-channels': ['fast-weights-heads-fading', 'fast-weights-heads-channels', 'fast-weights-heads'],
}
const between = { 'fast-weights-heads-backward': heads, 'fast-weights-heads-forward': heads }

const names = readdirSync(folder)
  .filter((name) => name.endsWith('.wgsl'))
  .map((name) => name.slice(0, -5))
const time = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
// The folder's own time tells of files added or removed.
const inputs = [folder, join(folder, 'build.mjs'), ...names.map((name) => join(folder, `${name}.wgsl`))]
if (inputs.every((path) => time(path) < time(output))) process.exit(0)

const fail = (name, what) => {
  console.error(`kernels-wgsl: ${name}.wgsl: ${what}`)
  process.exit(1)
}

/** Size and alignment in bytes of what `Params` may hold. */
function layout(name, type) {
  const [, count] = type.match(/^array<vec4<[iuf]32>, (\d+)>$/) ?? []
  if (count) return [16 * Number(count), 16]
  if (/^[iuf]32$/.test(type)) return [4, 4]
  return fail(name, `Params may hold i32, u32, f32 and array<vec4<T>, N>, not ${type}`)
}

function params(name, body) {
  const members = {}
  let end = 0
  for (const [, member, type] of body.replace(/\/\/.*/g, '').matchAll(/(\w+)\s*:\s*(array<vec4<[iuf]32>, \d+>|[^,\n]+),/g)) {
    const [size, alignment] = layout(name, type.trim())
    const offset = Math.ceil(end / alignment) * alignment
    members[member] = { offset, type: type.match(/[iuf]32/)[0], words: size / 4 }
    end = offset + size
  }
  return { members, bytes: Math.ceil(end / 16) * 16 }
}

const sources = Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, `${name}.wgsl`), 'utf8')]))
const paramsOf = (name) => sources[name].match(/struct Params \{([^}]*)\}/)?.[1]

function describe(name, shader, parts) {
  const declared = paramsOf(name) ? [name] : [names.find((other) => paramsOf(other) && name.startsWith(`${other}-`)), ...parts, name]
  if (!declared[0]) fail(name, 'has no struct Params')
  const { members, bytes } = params(name, paramsOf(declared[0]))
  const bindings = {}
  const source = declared.map((part) => sources[part]).join('\n')
  for (const [, binding, access, variable] of source.matchAll(/@group\(0\) @binding\((\d+)\) var<storage, (read|read_write)> (\w+)/g))
    bindings[variable] = { binding: Number(binding), write: access === 'read_write' }
  const entries = [...sources[name].matchAll(/@compute @workgroup_size\([^)]*\)\s*fn (\w+)/g)].map(([, entry]) => entry)
  const description = { name: shader, entries, params: members, paramBytes: bytes, bindings }
  const files = (kind) =>
    [...shared, ...declared.flatMap((name) => [name, ...(kinds[name]?.slice(kind, kind + 1) ?? [])])].map(
      (name) => `files[${JSON.stringify(name)}]`,
    )
  const onUnits = declared.some((name) => kinds[name]?.length > 1) ? ` unitFiles: [${files(1)}],` : ''
  return `{ files: [${files(0)}],${onUnits} ${JSON.stringify(description).slice(1)} as const`
}

const lines = [
  '// Written by kernels-wgsl/build.mjs.',
  'const files: Readonly<Record<string, { readonly name: string; readonly source: string }>> = {',
  ...names.map((name) => `  ${JSON.stringify(name)}: ${JSON.stringify({ name, source: sources[name].replace(/ *\/\/.*/g, '') })},`),
  '}',
]
const parts = [...shared, ...Object.values(kinds).flat(), ...Object.values(heads).flat()]
for (const name of names.filter((name) => !parts.includes(name)))
  for (const [kind, others] of Object.entries(between[name] ?? { '': [] })) {
    const constant = `${name}${kind}`.replace(/-(\w)/g, (_, letter) => letter.toUpperCase())
    lines.push(`export const ${constant} = ${describe(name, `${name}${kind}`, others)}`)
  }
mkdirSync(dirname(output), { recursive: true })
// Written whole or not at all, even when two builds run at once.
const temporary = `${output}.${process.pid}`
writeFileSync(temporary, `${lines.join('\n')}\n`)
renameSync(temporary, output)
console.log(`kernels-wgsl: ${names.length} files`)
