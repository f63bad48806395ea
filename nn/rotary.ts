/** Rotary positions (Su 2021): the inner product of two rotated vectors knows how far apart they are, and nothing else of where they are. */
import { checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { checkFloat, match } from '../engine/ops/check.ts'
import { add, mul, sub } from '../engine/ops/elementwise.ts'
import { concat, permute, reshape, slice } from '../engine/ops/movement.ts'
import type { Tensor } from '../engine/tensor.ts'
import { positionTable } from './packing.ts'

/** Options of `rotary`. */
export interface RotaryOptions {
  /** Of the angles, 10000 by default. */
  base?: number
  /** How many of a head's channels turn, the first ones; by default all. */
  width?: number
  /** Channels 2 i and 2 i + 1 turn together, in place of i and i + floor(n/2). */
  paired?: boolean
}

/**
 * x: [B,T,H,K], `at`: positions [B,T], or what gives them (see `varying`). Of the n channels that turn, i and i + floor(n/2) do so together, by the angle
 * at base^(-i / floor(n/2)); the last one of an odd n stays.
 */
export function rotary(x: Tensor, at: Int32Array | (() => Int32Array), options: RotaryOptions = {}): Tensor {
  checkFloat('rotary', x)
  checkOptions('rotary', options, ['base', 'width', 'paired'])
  const { B, T, K } = match('rotary', { x: ['B', 'T', 'H', 'K'] }, { x: x.shape })
  const { base = 10000, width = K, paired = false } = options
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
  const rest = K > 2 * half ? [slice(x, 3, 2 * half, K)] : []
  const [, , H] = x.shape
  // Pairs that stand side by side are [half,2]; as [2,half] they are like the others.
  const swap = (y: Tensor, from: number[]): Tensor => reshape(permute(reshape(y, [B, T, H, ...from]), [0, 1, 2, 4, 3]), [B, T, H, 2 * half])
  const turning = paired ? swap(slice(x, 3, 0, 2 * half), [half, 2]) : x
  const [a, b] = [slice(turning, 3, 0, half), slice(turning, 3, half, 2 * half)]
  const turned = [sub(mul(a, c), mul(b, s)), add(mul(a, s), mul(b, c))]
  return paired ? concat([swap(concat(turned, 3), [2, half]), ...rest], 3) : concat([...turned, ...rest], 3)
}
