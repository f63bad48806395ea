/** What becomes of the sums of a product, for every kernel that makes one. Pinned by test/ops/wasm.test.ts and test/ops/capture.test.ts. */
import { applyUnary, vunary } from './math'

/** Its index in `unaryOps`. */
const RELU = 11

/** rows x columns of a tile, which may stand in C already: c = activation((first ? 0 : c) + tile + bias). */
export function finish(tile: usize, ldt: usize, c: usize, ldc: usize, rows: i32, columns: i32, first: bool, bias: usize, activation: i32): void {
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
        v128.store(c + at, x)
        v128.store(c + at, y, 16)
      }
    }
    for (; n + 4 <= columns; n += 4) {
      let x = v128.load(tile + (n << 2))
      if (!first) x = f32x4.add(v128.load(c + (n << 2)), x)
      if (bias) x = f32x4.add(x, v128.load(bias + (n << 2)))
      v128.store(c + (n << 2), activation < 0 ? x : vunary(activation, x))
    }
    for (; n < columns; n++) {
      let x = load<f32>(tile + (n << 2))
      if (!first) x = load<f32>(c + (n << 2)) + x
      if (bias) x += load<f32>(bias + (n << 2))
      store<f32>(c + (n << 2), activation < 0 ? x : f32x4.extract_lane(vunary(activation, f32x4.splat(x)), 0))
    }
    tile += ldt
    c += ldc
  }
}
