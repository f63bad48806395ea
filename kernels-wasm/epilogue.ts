/** What becomes of the sums of a product, for every kernel that makes one. Pinned by test/ops/wasm.test.ts and test/ops/capture.test.ts. */
import { applyUnary, applyUnaryBackward, vunary } from './math'

/** Its index in `unaryOps`. */
const RELU = 11

@inline function gated(gate: usize, x: v128): v128 {
  return applyUnaryBackward(RELU, v128.load(gate), x, x)
}

/**
 * rows x columns of a tile, which may stand in C already: c = activation((first ? 0 : c) + tile + bias). Where there is a `gate`, rows like those of C, c is a
 * cotangent of relu's result, which that is, and goes on to what relu is of.
 */
export function finish(
  tile: usize, ldt: usize, c: usize, ldc: usize, rows: i32, columns: i32, first: bool, bias: usize, activation: i32, gate: usize = 0,
): void {
  for (let r = 0; r < rows; r++) {
    let n = 0
    // Without the switch over all activations.
    if (activation < 0 || activation == RELU) {
      for (; n + 8 <= columns; n += 8) {
        const at = <usize>n << 2
        let x = v128.load(tile + at), y = v128.load(tile + at, 16)
        if (!first) {
          x = f32x4.add(v128.load(c + at), x)
          y = f32x4.add(v128.load(c + at, 16), y)
        }
        if (bias) {
          x = f32x4.add(x, v128.load(bias + at))
          y = f32x4.add(y, v128.load(bias + at, 16))
        }
        if (activation == RELU) {
          x = applyUnary(RELU, x)
          y = applyUnary(RELU, y)
        }
        if (gate) {
          x = gated(gate + at, x)
          y = gated(gate + at + 16, y)
        }
        v128.store(c + at, x)
        v128.store(c + at, y, 16)
      }
    }
    for (; n + 4 <= columns; n += 4) {
      let x = v128.load(tile + (n << 2))
      if (!first) x = f32x4.add(v128.load(c + (n << 2)), x)
      if (bias) x = f32x4.add(x, v128.load(bias + (n << 2)))
      if (gate) x = gated(gate + (n << 2), x)
      v128.store(c + (n << 2), activation < 0 ? x : vunary(activation, x))
    }
    for (; n < columns; n++) {
      let x = load<f32>(tile + (n << 2))
      if (!first) x = load<f32>(c + (n << 2)) + x
      if (bias) x += load<f32>(bias + (n << 2))
      if (gate) x = f32x4.extract_lane(applyUnaryBackward(RELU, f32x4.splat(load<f32>(gate + (n << 2))), f32x4.splat(0), f32x4.splat(x)), 0)
      store<f32>(c + (n << 2), activation < 0 ? x : f32x4.extract_lane(vunary(activation, f32x4.splat(x)), 0))
    }
    tile += ldt
    c += ldc
    if (gate) gate += ldc
  }
}
