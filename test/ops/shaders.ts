/** Every shader as it is compiled. That of nets lacks a program: it gets one with every op, and a write with a function and one without. */
import { netOps } from '../../engine/devices/kernels.ts'
import { sourceOfSteps } from '../../engine/devices/webgpu/net.ts'
import type { Shader } from '../../engine/devices/webgpu/runtime.ts'
import * as kernels from '../../kernels-wgsl/generated/wgsl.ts'

const steps = netOps.flatMap((op) => (op === 'write' ? [-1, 2] : [op === 'unary' ? 10 : -1]).map((unary) => ({ op, unary })))
const { netProgram, ...others } = kernels

export const shaders: readonly Shader[] = [
  ...Object.values(others),
  { ...netProgram, files: [...netProgram.files, { name: 'steps', source: sourceOfSteps(steps) }] },
]
