/** What becomes of the sums of a product, for every kernel that makes one. Pinned by test/ops/wasm.test.ts and test/ops/capture.test.ts. */
import {
  unary_abs, unary_cos, unary_elu, unary_exp, unary_gelu, unary_log, unary_neg, unary_reciprocal, unary_relu, unary_sigmoid, unary_silu,
  unary_sin, unary_softplus, unary_sqrt, unary_square, unary_tanh,
} from './elementwise'

/** c = op(c), a row of n numbers; the index of an op in `unaryOps`, or less than 0 for none. Each has a loop of its own. */
function activateRow(op: i32, c: usize, n: i32): void {
  switch (op) {
    case 0: return unary_neg(0, n, c, c)
    case 1: return unary_abs(0, n, c, c)
    case 2: return unary_exp(0, n, c, c)
    case 3: return unary_log(0, n, c, c)
    case 4: return unary_sqrt(0, n, c, c)
    case 5: return unary_square(0, n, c, c)
    case 6: return unary_reciprocal(0, n, c, c)
    case 7: return unary_sin(0, n, c, c)
    case 8: return unary_cos(0, n, c, c)
    case 9: return unary_sigmoid(0, n, c, c)
    case 10: return unary_tanh(0, n, c, c)
    case 11: return unary_relu(0, n, c, c)
    case 12: return unary_elu(0, n, c, c)
    case 13: return unary_silu(0, n, c, c)
    case 14: return unary_gelu(0, n, c, c)
    case 15: return unary_softplus(0, n, c, c)
  }
}

/** c = activation(c): rows x columns. */
export function activate(activation: i32, c: usize, ldc: usize, rows: i32, columns: i32): void {
  if (activation < 0) return
  for (let r = 0; r < rows; r++) activateRow(activation, c + <usize>r * ldc, columns)
}

/** rows x columns of a tile, which may stand in C already: c = (first ? 0 : c) + tile + bias. */
export function finish(tile: usize, ldt: usize, c: usize, ldc: usize, rows: i32, columns: i32, first: bool, bias: usize): void {
  for (let r = 0; r < rows; r++) {
    let n = 0
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
      v128.store(c + at, y, 16)
      v128.store(c + at, x)
    }
    for (; n + 4 <= columns; n += 4) {
      let x = v128.load(tile + (n << 2))
      if (!first) x = f32x4.add(v128.load(c + (n << 2)), x)
      if (bias) x = f32x4.add(x, v128.load(bias + (n << 2)))
      v128.store(c + (n << 2), x)
    }
    for (; n < columns; n++) {
      let x = load<f32>(tile + (n << 2))
      if (!first) x = load<f32>(c + (n << 2)) + x
      if (bias) x += load<f32>(bias + (n << 2))
      store<f32>(c + (n << 2), x)
    }
    tile += ldt
    c += ldc
  }
}
