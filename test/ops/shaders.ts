/** Every shader as it is compiled. That of nets lacks a program: it gets one with every instruction, and one with every function. */
import assert from 'node:assert/strict'
import { sourceOfNet } from '../../engine/devices/webgpu/net-source.ts'
import type { Shader } from '../../engine/devices/webgpu/runtime.ts'
import { defineNet, type Net, unaryOps, type Vector } from '../../engine/index.ts'
import { everyInstruction } from '../../engine/selfcheck.ts'
import * as kernels from '../../kernels-wgsl/generated/wgsl.ts'

const everyFunction = defineNet('every function', (net) => {
  const M = net.matrix('M', 2, 2)
  const { x } = net.inputs({ x: 2 })
  net.write(
    M,
    x,
    unaryOps.reduce<Vector>((a, op) => net.unary(op, a), x),
  )
  net.output(net.read(M, x))
})

/** What is generated for a net. */
export const sourceOf = (net: Net): string =>
  sourceOfNet(net.instructions, Object.keys(net.state).length + Object.keys(net.slow).length).source

const { netProgram, matmulUnits, ...others } = kernels

/**
 * What stands in for matrix units: each thread holds the whole of an operand, row after row, four numbers together; of sums the two fours that are the
 * thread's in its subgroup.
 */
const units = `
struct Matrix { at: array<vec4<f32>, 64> }

fn loadRows(slice: ptr<workgroup, array<vec4<Half>, 256>>, offset: u32, stride: u32) -> Matrix {
  var m = Matrix();
  for (var i = 0u; i < 64u; i++) { m.at[i] = vec4<f32>((*slice)[offset + i / 4u * stride + i % 4u]); }
  return m;
}

fn loadColumns(slice: ptr<workgroup, array<vec4<Half>, 256>>, offset: u32, stride: u32) -> Matrix {
  var m = Matrix();
  for (var i = 0u; i < 256u; i++) { m.at[i / 4u][i % 4u] = f32((*slice)[offset + i % 16u * stride + i / 64u][i / 16u % 4u]); }
  return m;
}

fn accumulated(left: Matrix, right: Matrix, sums: Matrix, thread: u32) -> Matrix {
  var a = left;
  var b = right;
  var c = sums;
  for (var i = thread % 32u; i < 64u; i += 32u) {
    for (var k = 0u; k < 16u; k++) { c.at[i] += a.at[i / 4u * 4u + k / 4u][k % 4u] * b.at[k * 4u + i % 4u]; }
  }
  return c;
}

`
/** Into an array of vectors, or of numbers. */
const storeRows = (type: string, store: string): string => `
fn storeRows(to: ptr<workgroup, array<${type}>>, offset: u32, m: Matrix, stride: u32, thread: u32) {
  var c = m;
  for (var i = thread % 32u; i < 64u; i += 32u) { ${store} }
}
`
type StandIn = readonly [what: RegExp, by: string, times: number]
const standIns = (thread: string): readonly StandIn[] => [
  [/subgroup_matrix_(left|right|result)<f(16|32), 16, 16>/g, 'Matrix', 3],
  [/subgroupMatrixLoad<Left, col_major>/g, 'loadColumns', 1],
  [/subgroupMatrixLoad<Right, row_major>/g, 'loadRows', 2],
  [/subgroupMatrixMultiplyAccumulate\((.*)\);/g, `accumulated($1, ${thread});`, 2],
  [/subgroupMatrixStore<row_major>\((.*)\);/g, `storeRows($1, ${thread});`, 2],
]
/** What there is in a file for matrix units, after what stores its sums. */
const inFile: Record<string, readonly [stores: string, ...standIns: StandIn[]]> = {
  'matmul-units': [
    storeRows('vec4<f32>, 512', '(*to)[offset + i / 4u * stride + i % 4u] = c.at[i];'),
    ...standIns('g.thread'),
    [/, @builtin\(subgroup_id\) subgroup: u32\) \{/g, ') {\nlet subgroup = g.thread / 32u;', 1],
  ],
  'fast-weights-units': [
    storeRows('f32, PAIRS', 'for (var j = 0u; j < 4u; j++) { (*to)[offset + i / 4u * stride + i % 4u * 4u + j] = c.at[i][j]; }'),
    ...standIns('thread'),
    [/@diagnostic\(off, chromium\.subgroup_matrix_uniformity\)/g, '', 1],
    [/subgroupBroadcastFirst\(thread\)/g, 'thread', 1],
  ],
}
/** A shader for matrix units with WGSL in the place of these, which no adapter of the tests has: all but that is what a GPU gets. */
export const emulated = (shader: Shader): Shader => ({
  ...shader,
  name: `${shader.name}, emulated`,
  files: (shader.unitFiles ?? shader.files).map(({ name, source }) => {
    if (!inFile[name]) return { name, source }
    const [stores, ...all] = inFile[name]
    const replaced = all.reduce((text, [what, by, times]) => {
      assert.equal(text.match(what)?.length, times, `${what}`)
      return text.replace(what, by)
    }, source)
    return { name, source: replaced + units + stores }
  }),
  unitFiles: undefined,
})
/** Those that multiply on matrix units. */
export const multiplying: readonly Shader[] = [kernels.fastWeightsProducts, kernels.fastWeightsChunk, kernels.fastWeightsChunkBackward]

export const shaders: readonly Shader[] = [
  ...Object.values(others),
  ...[matmulUnits, ...multiplying].map(emulated),
  ...[everyInstruction, everyFunction].map((net) => ({
    ...netProgram,
    name: `${netProgram.name}, ${net.name}`,
    files: [...netProgram.files, { name: net.name, source: sourceOf(net) }],
  })),
]
