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
 * What stands in for matrix units: an operand is where it lies in its tile, which stays as it is until it has been multiplied; of sums a thread has the two fours
 * that are its own in its subgroup. (Whole operands in each thread, and loops whose bounds are
 * constants, take a driver on a CPU a minute to compile.)
 */
const units = (type: string, store: string, positive: string): string => `
struct Place { offset: u32, stride: u32 }
struct Held { at: array<vec4<f32>, 2> }

fn accumulated(left: Place, right: Place, sums: Held, thread: u32) -> Held {
  var c = sums;
  for (var h = 0u; h < min(2u, 2u * p.${positive}); h++) {
    let i = thread % 32u + 32u * h;
    for (var k = 0u; k < min(16u, 16u * p.${positive}); k++) {
      let x = f32(tileA[left.offset + k * left.stride + i / 16u][i / 4u % 4u]);
      c.at[h] += x * vec4<f32>(tileB[right.offset + k * right.stride + i % 4u]);
    }
  }
  return c;
}

fn storeRows(to: ptr<workgroup, array<${type}>>, offset: u32, sums: Held, stride: u32, thread: u32) {
  var c = sums;
  for (var h = 0u; h < min(2u, 2u * p.${positive}); h++) {
    let i = thread % 32u + 32u * h;
    ${store}
  }
}
`
type StandIn = readonly [what: RegExp, by: string, times: number]
const standIns = (thread: string): readonly StandIn[] => [
  [/subgroup_matrix_(left|right)<f16, 16, 16>/g, 'Place', 2],
  [/subgroup_matrix_result<f32, 16, 16>/g, 'Held', 1],
  [/subgroupMatrixLoad<Left, col_major>\(&tileA, /g, 'Place(', 1],
  [/subgroupMatrixLoad<Right, row_major>\(&tileB, /g, 'Place(', 2],
  [/subgroupMatrixMultiplyAccumulate\((.*)\);/g, `accumulated($1, ${thread});`, 2],
  [/subgroupMatrixStore<row_major>\((.*)\);/g, `storeRows($1, ${thread});`, 2],
]
/** What there is in a file for matrix units, after what it calls instead. */
const inFile: Record<string, readonly [called: string, ...standIns: StandIn[]]> = {
  'matmul-units': [
    units('vec4<f32>, 512', '(*to)[offset + i / 4u * stride + i % 4u] = c.at[h];', 'M'),
    ...standIns('g.thread'),
    [/, @builtin\(subgroup_id\) subgroup: u32\) \{/g, ') {\nlet subgroup = g.thread / 32u;', 1],
  ],
  'fast-weights-units': [
    units('f32, PAIRS', 'for (var j = 0u; j < 4u; j++) { (*to)[offset + i / 4u * stride + i % 4u * 4u + j] = c.at[h][j]; }', 'rows'),
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
    const [called, ...all] = inFile[name]
    const replaced = all.reduce((text, [what, by, times]) => {
      assert.equal(text.match(what)?.length, times, `${what}`)
      return text.replace(what, by)
    }, source)
    return { name, source: replaced + called }
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
