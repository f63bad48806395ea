/** Rotary positions (Su 2021): the inner product of two rotated vectors knows how far apart they are, and nothing else of where they are. */
import { checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { checkFloat, match } from '../engine/ops/check.ts'
import { add, mul, sub } from '../engine/ops/elementwise.ts'
import { concat, reshape, slice } from '../engine/ops/movement.ts'
import type { Tensor } from '../engine/tensor.ts'
import { positionTable } from './packing.ts'

export interface RotaryOptions {
  /** Of the angles, 10000 by default. */
  base?: number
  /** How many of a head's channels turn, the first ones; by default all. */
  width?: number
}

/**
 * x: [B,T,H,K], `at`: positions [B,T], or what gives them (see `varying`). Of the n channels that turn, i and i + floor(n/2) do so together, by the angle
 * at base^(-i / floor(n/2)); the last one of an odd n stays.
 */
export function rotary(x: Tensor, at: Int32Array | (() => Int32Array), options: RotaryOptions = {}): Tensor {
  checkFloat('rotary', x)
  checkOptions('rotary', options, ['base', 'width'])
  const { B, T, K } = match('rotary', { x: ['B', 'T', 'H', 'K'] }, { x: x.shape })
  const { base = 10000, width = K } = options
  if (!(base > 0 && Number.isFinite(base))) throw new Error(`rotary: the base must be above 0, not ${base}`)
  checkNumber('rotary: the width', width, 'an integer, 0 or more')
  if (width > K) throw new Error(`rotary: ${width} channels can't turn in heads of width ${K}`)
  const positions = typeof at === 'function' ? at : () => at
  const given = positions()
  if (!(given instanceof Int32Array && given.length === B * T))
    throw new Error(
      `rotary: the positions must be an Int32Array of ${B} x ${T}, not ${given instanceof Int32Array ? given.length : told(at)}`,
    )
  const half = Math.floor(width / 2)
  if (half === 0) return x
  const table = (f: (angle: number) => number): Tensor => {
    const t = positionTable(positions, B, half, (position, i) => f(position * base ** (-i / half)), x)
    return reshape(t, [...t.shape.slice(0, -1), 1, half])
  }
  const [c, s] = [table(Math.cos), table(Math.sin)]
  const [a, b] = [slice(x, 3, 0, half), slice(x, 3, half, 2 * half)]
  const rest = K > 2 * half ? [slice(x, 3, 2 * half, K)] : []
  return concat([sub(mul(a, c), mul(b, s)), add(mul(a, s), mul(b, c)), ...rest], 3)
}
