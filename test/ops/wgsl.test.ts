/** What a GPU's driver may do to a NaN, the sources of its kernels must not leave to it: see kernels-wgsl/common.wgsl. */
import assert from 'node:assert/strict'
import { sourceOf } from '../../engine/devices/webgpu/runtime.ts'
import { webgpuDevice } from '../../engine/index.ts'
import { elementwise } from '../../kernels-wgsl/generated/wgsl.ts'
import { shaders } from './shaders.ts'

const [{ source: common }, { source: math }] = elementwise.files
/** Each shader's own files, without those that come before every other. */
const sources = shaders.map(({ name, files }) => ({
  name,
  source: files
    .slice(2)
    .map(({ source }) => source)
    .join('\n'),
}))

describe('NaN in WGSL', () => {
  // Declared for integers alone, these names hide the builtins, so that the compiler refuses any other use.
  const builtins = ['max', 'min', 'clamp', 'saturate', 'sign', 'step', 'smoothstep', 'subgroupMax', 'subgroupMin']
  const hidden = builtins
    .map((name) =>
      name === 'clamp' ? 'fn clamp(x: u32, a: u32, b: u32) -> u32 { return x; }' : `fn ${name}(a: u32, b: u32) -> u32 { return a; }`,
    )
    .join('\n')

  /** The lines that don't compile so. */
  async function refused(names: readonly { name: string; source: string }[]): Promise<string[]> {
    const device = await webgpuDevice({ backend: 'null', minimal: true })
    const all: string[] = []
    for (const { name, source } of names) {
      const files = [common, math, source, hidden].map((source) => ({ name, source }))
      const code = sourceOf({ files })
      device.gpu.pushErrorScope('validation')
      const { messages } = await device.gpu.createShaderModule({ code }).getCompilationInfo()
      await device.gpu.popErrorScope()
      for (const { type, lineNum, message } of messages)
        if (type === 'error') all.push(`${name}: ${code.split('\n')[lineNum - 1].trim()} (${message.split('\n')[0]})`)
    }
    device.close()
    return all
  }

  it('max, min and clamp are of integers: floats have maxOf and minOf', async () => assert.deepEqual(await refused(sources), []))

  it('of floats they would be found', async () => {
    for (const call of ['max(x, 0.0)', 'min(x, x)', 'clamp(x, -1.0, 1.0)', 'saturate(x)', 'max(vec4(x), vec4(x)).x'])
      assert.match(
        String(await refused([{ name: 'added', source: `fn added(x: f32) -> f32 { return ${call}; }` }])),
        /^added: fn added/,
        call,
      )
  })

  const number = String.raw`-?(?:\d+\.\d*|\d+e\d+)`
  /** Functions that compare with a floating-point number, one that stands there or a constant, before they call isNan. */
  const careless = (source: string): string[] => {
    const text = source.replace(/\/\/.*/g, '')
    const constants = [...`${common}\n${math}\n${source}`.matchAll(new RegExp(`const (\\w+) = ${number}`, 'g'))].map(([, name]) => name)
    const float = `(?:${[number, ...constants.map((name) => `-?\\b${name}\\b`)].join('|')})`
    const comparison = new RegExp(`(?:[<>]=?|[=!]=)\\s*${float}|${float}\\s*(?:[<>]=?|[=!]=)`)
    return text
      .split(/\bfn\s+/)
      .slice(1)
      .filter((body) => {
        const at = body.search(comparison)
        const looked = body.indexOf('isNan(')
        return at >= 0 && (looked < 0 || looked > at)
      })
      .map((body) => body.slice(0, body.indexOf('(')))
  }

  it('a function that compares floats looks for NaN before', () => {
    for (const { name, source } of [...sources, { name: 'common', source: common }, { name: 'math', source: math }])
      assert.deepEqual(careless(source), [], name)
    for (const bad of [
      'return select(x, 0.0, x <= 0.0);',
      'if (1.5 > x) { return x; }',
      'if (x < GATE_FAR || isNan(x)) { return x; }',
      'return f32(x == 5e4);',
    ])
      assert.deepEqual(careless(`fn bad(x: f32) -> f32 { ${bad} }`), ['bad'], bad)
    assert.deepEqual(careless('fn good(x: f32) -> f32 { if (isNan(x) || x > 1.0) { return x; } return 0.5 * x; }'), [])
  })
})

describe('vectors in workgroup memory', () => {
  /** Assignments to a part of one: where several threads make them, WGSL leaves open what the vector holds, since all of it may be written again. */
  const partial = (source: string): string[] => {
    const statements = source.split(/[;{}]/).map((statement) => statement.trim())
    return [...source.matchAll(/var<workgroup> (\w+): array<vec/g)].flatMap(([, name]) => {
      const part = new RegExp(String.raw`^${name}\[.*\](?:\.[xyzwrgba]+|\[[^=]*\])\s*(?:(?:[-+*/%&|^]|<<|>>)?=(?!=)|\+\+|--)`, 's')
      return statements.filter((statement) => part.test(statement))
    })
  }

  it('are written whole', () => {
    let found = 0
    for (const { name, source } of sources) {
      found += [...source.matchAll(/var<workgroup> \w+: array<vec/g)].length
      assert.deepEqual(partial(source), [], name)
      // Declared otherwise a vector would not be looked at.
      assert.doesNotMatch(source, /var<workgroup> \w+\s*:(?!\s*array<vec)[^;]*vec/, name)
    }
    assert.ok(found > 0)
  })

  it('parts that are written would be found', () => {
    const declared = 'var<workgroup> tile: array<vec4<f32>, 4>;'
    for (const part of ['tile[i].x = 1.0', 'tile[i + j[0]][r] += x', 'tile[e / 4u][e % 4u] = x[0][1]', 'tile[i].x++'])
      for (const where of [`${part};`, `if (i < n) { ${part}; }`, `x = 1.0; ${part};`])
        assert.deepEqual(partial(`${declared}\n  ${where}`), [part])
    for (const line of [
      'tile[i] = x[0][1];',
      'let y = tile[i][r];',
      'if (tile[i].x == y) { return; }',
      'tile[i] = select(x, y, z[0][1] == 2u);',
    ])
      assert.deepEqual(partial(`${declared}\n  ${line}`), [])
  })
})
