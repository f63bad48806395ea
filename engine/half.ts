/**
 * Numbers of 16 bits: float16 (IEEE 754: 1 sign, 5 exponent, 10 fraction bits) and bfloat16, the upper half of a float32. They are converted bits to bits: as
 * JavaScript numbers, NaNs would lose their payload. Tests: test/nn/safetensors.test.ts, test/ops/half.test.ts.
 */

export const halfTypes = ['float16', 'bfloat16'] as const
/** A float type of 16 bits: one of `halfTypes`. */
export type HalfType = (typeof halfTypes)[number]
/** What stands for a type in kernels: 0 for float32, else its place, from 1 (kernels-wasm/halves.ts, halfOf of kernels-wgsl/common.wgsl). */
export const halfNumber = (type: HalfType | undefined): number => (type === undefined ? 0 : halfTypes.indexOf(type) + 1)

/** The bits of the float32 of the same value. */
export const widenBits: Readonly<Record<HalfType, (half: number) => number>> = {
  bfloat16: (half) => half << 16,
  float16(half) {
    const sign = (half & 0x8000) << 16
    const exponent = (half >>> 10) & 31
    const fraction = half & 1023
    if (exponent === 31) return sign | 0x7f800000 | (fraction << 13)
    if (exponent > 0) return sign | ((exponent + 112) << 23) | (fraction << 13)
    if (fraction === 0) return sign
    const shift = Math.clz32(fraction) - 21 // brings a subnormal's first bit to where the hidden bit is
    return sign | ((113 - shift) << 23) | (((fraction << shift) & 1023) << 13)
  },
}

/** From the bits of a float32, to nearest even; what is too large becomes infinity. */
export const narrowBits: Readonly<Record<HalfType, (bits: number) => number>> = {
  bfloat16(bits) {
    const notANumber = (bits & 0x7fffffff) > 0x7f800000
    return notANumber ? (bits >>> 16) | ((bits & 0x7f0000) === 0 ? 1 : 0) : roundedShift(bits, 16)
  },
  float16(bits) {
    const sign = (bits >>> 16) & 0x8000
    const magnitude = bits & 0x7fffffff
    if (magnitude > 0x7f800000) return sign | 0x7c00 | ((magnitude >>> 13) & 1023 || 1)
    if (magnitude >= 0x47800000) return sign | 0x7c00
    if (magnitude >= 0x38800000) return sign | roundedShift(magnitude - 0x38000000, 13)
    if (magnitude < 0x33000000) return sign
    return sign | roundedShift((magnitude & 0x7fffff) | 0x800000, 126 - (magnitude >>> 23))
  },
}

/** bits / 2^shift, to nearest even. */
function roundedShift(bits: number, shift: number): number {
  const half = 2 ** (shift - 1)
  const odd = (bits >>> shift) & 1
  return Math.floor(((bits >>> 0) + half - 1 + odd) / 2 ** shift)
}

/** The float16 nearest to a number, of two the even one; from 65520 on infinity. What is less than 0 is -0 at most, and -0 stays that. */
export function toFloat16(x: number): number {
  const size = Math.abs(x)
  if (!(size < 65520)) return x * Infinity
  // Float64 keeps of this sum what float16 keeps of x: 10 bits below the first one, and none below 2^-24.
  const large = 1.5 * 2 ** (42 + Math.max(Math.floor(Math.log2(size)), -14))
  const rounded = size + large - large
  return x < 0 || Object.is(x, -0) ? -rounded : rounded
}

/** As float32 numbers. */
export function widened(halves: Uint16Array, type: HalfType): Float32Array<ArrayBuffer> {
  const widen = widenBits[type]
  const bits = new Uint32Array(halves.length)
  for (let i = 0; i < bits.length; i++) bits[i] = widen(halves[i])
  return new Float32Array(bits.buffer)
}

export function narrowed(data: Float32Array, type: HalfType): Uint16Array<ArrayBuffer> {
  const narrow = narrowBits[type]
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
  const halves = new Uint16Array(bits.length)
  for (let i = 0; i < bits.length; i++) halves[i] = narrow(bits[i])
  return halves
}
