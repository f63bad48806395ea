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

/** What stands in for matrix units: each thread holds the whole of a matrix, row after row, and the first of a subgroup stores it. */
const units = `
struct Matrix { at: array<f32, 256> }

fn loadRows(source: ptr<workgroup, array<vec4<Half>, 256>>, offset: u32, stride: u32) -> Matrix {
  var m = Matrix();
  for (var i = 0u; i < 256u; i++) { m.at[i] = f32((*source)[offset + i / 16u * stride + i % 16u / 4u][i % 4u]); }
  return m;
}

fn loadColumns(source: ptr<workgroup, array<vec4<Half>, 256>>, offset: u32, stride: u32) -> Matrix {
  var m = Matrix();
  for (var i = 0u; i < 256u; i++) { m.at[i % 16u * 16u + i / 16u] = f32((*source)[offset + i / 16u * stride + i % 16u / 4u][i % 4u]); }
  return m;
}

fn accumulated(left: Matrix, right: Matrix, sums: Matrix) -> Matrix {
  var a = left;
  var b = right;
  var c = sums;
  for (var i = 0u; i < 256u; i++) {
    for (var k = 0u; k < 16u; k++) { c.at[i] += a.at[i / 16u * 16u + k] * b.at[k * 16u + i % 16u]; }
  }
  return c;
}

fn storeRows(to: ptr<workgroup, array<vec4<f32>, 512>>, offset: u32, m: Matrix, stride: u32, thread: u32) {
  var own = m;
  if (thread % 32u != 0u) { return; }
  for (var i = 0u; i < 256u; i++) { (*to)[offset + i / 16u * stride + i % 16u / 4u][i % 4u] = own.at[i]; }
}
`
const standIns: readonly [what: RegExp, by: string, times: number][] = [
  [/subgroup_matrix_(left|right|result)<f(16|32), 16, 16>/g, 'Matrix', 3],
  [/subgroupMatrixLoad<Left, col_major>/g, 'loadColumns', 1],
  [/subgroupMatrixLoad<Right, row_major>/g, 'loadRows', 2],
  [/subgroupMatrixMultiplyAccumulate/g, 'accumulated', 2],
  [/subgroupMatrixStore<row_major>\((.*)\);/g, 'storeRows($1, g.thread);', 2],
  [/, @builtin\(subgroup_id\) subgroup: u32\) \{/g, ') {\nlet subgroup = g.thread / 32u;', 1],
]
/** kernels-wgsl/matmul-units.wgsl with WGSL in the place of matrix units, which no adapter of the tests has: all but these is what a GPU gets. */
export const emulatedUnits = {
  ...matmulUnits,
  name: 'matmul-units, emulated',
  files: matmulUnits.files.map(({ name, source }) => ({
    name,
    source:
      name !== matmulUnits.name
        ? source
        : standIns.reduce((text, [what, by, times]) => {
            assert.equal(text.match(what)?.length, times, `${what}`)
            return text.replace(what, by)
          }, source) + units,
  })),
}

export const shaders: readonly Shader[] = [
  ...Object.values(others),
  emulatedUnits,
  ...[everyInstruction, everyFunction].map((net) => ({
    ...netProgram,
    name: `${netProgram.name}, ${net.name}`,
    files: [...netProgram.files, { name: net.name, source: sourceOf(net) }],
  })),
]
