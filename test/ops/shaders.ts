/** Every shader as it is compiled. That of nets lacks a program: it gets one with every instruction, and one with every function. */
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

const { netProgram, ...others } = kernels

export const shaders: readonly Shader[] = [
  ...Object.values(others),
  ...[everyInstruction, everyFunction].map((net) => ({
    ...netProgram,
    name: `${netProgram.name}, ${net.name}`,
    files: [...netProgram.files, { name: net.name, source: sourceOf(net) }],
  })),
]
