/** Rotary positions (Su 2021): the inner product of two rotated vectors knows how far apart they are, and nothing else of where they are. */
import { told } from '../engine/arguments.ts'
import { checkFloat, match } from '../engine/ops/check.ts'
import { add, mul, sub } from '../engine/ops/elementwise.ts'
import { concat, reshape, slice } from '../engine/ops/movement.ts'
import type { Tensor } from '../engine/tensor.ts'
import { positionTable } from './packing.ts'

/**
 * x: [B,T,H,K], `at`: positions [B,T], or what gives them (see `varying`). Channels i and i + floor(K/2) turn together, by the angle at 10000^(-i / floor(K/2)); the last
 * channel of an odd K stays.
 */
export function rotary(x: Tensor, at: Int32Array | (() => Int32Array)): Tensor {
  checkFloat('rotary', x)
  const { B, T, K } = match('rotary', { x: ['B', 'T', 'H', 'K'] }, { x: x.shape })
  const positions = typeof at === 'function' ? at : () => at
  const given = positions()
  if (!(given instanceof Int32Array && given.length === B * T))
    throw new Error(
      `rotary: the positions must be an Int32Array of ${B} x ${T}, not ${given instanceof Int32Array ? given.length : told(at)}`,
    )
  const half = Math.floor(K / 2)
  if (half === 0) return x
  const table = (f: (angle: number) => number): Tensor => {
    const t = positionTable(positions, B, half, (position, i) => f(position * 10000 ** (-i / half)), x)
    return reshape(t, [...t.shape.slice(0, -1), 1, half])
  }
  const [c, s] = [table(Math.cos), table(Math.sin)]
  const [a, b] = [slice(x, 3, 0, half), slice(x, 3, half, 2 * half)]
  const rest = K > 2 * half ? [slice(x, 3, 2 * half, K)] : []
  return concat([sub(mul(a, c), mul(b, s)), add(mul(a, s), mul(b, c)), ...rest], 3)
}
