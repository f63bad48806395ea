/** Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), one pass over p, g, m, v of all parameters. Pinned by test/ops/wasm.test.ts. */
import { addressOf, entryOf, firstOf, sizeOf } from './cuts'
import { vload, vstore } from './lanes'
import { madd, splat } from './math'

const PIECE = 4096

/**
 * g' = gradScale[0] g + l2 p, m = beta1 m + rest1 g', v = beta2 v + rest2 g'^2, p -= decay p + step m / (sqrt(v) root + eps), with
 * rest = 1 - beta, step = lr / correction1, root = 1 / sqrt(correction2), and weight decay in one of l2, decay. `guarded`: nothing, unless gradScale[0]
 * is above 0. A task is PIECE elements of a parameter; the table (cuts.ts) has the addresses of p, g, m, v.
 */
export function adam(
  begin: i32, end: i32, table: usize, gradScale: usize,
  beta1: f32, rest1: f32, beta2: f32, rest2: f32, step: f32, root: f32, eps: f32, l2: f32, decay: f32, guarded: i32,
): void {
  if (guarded && !(load<f32>(gradScale) > 0)) return
  const scale = splat(gradScale ? load<f32>(gradScale) : 1)
  let entry = table
  for (let task = begin; task < end; task++) {
    entry = entryOf(task, entry, 24)
    const p = addressOf(entry, 0), g = addressOf(entry, 1), m = addressOf(entry, 2), v = addressOf(entry, 3)
    const first = firstOf(task, entry, PIECE)
    const last = min(first + PIECE, sizeOf(entry))
    for (let i = first; i < last; i += 4) {
      const at = <usize>i << 2
      const left = last - i
      const vp = vload(p + at, left)
      const grad = madd(splat(l2), vp, f32x4.mul(vload(g + at, left), scale))
      const vm = madd(vload(m + at, left), splat(beta1), f32x4.mul(grad, splat(rest1)))
      const vv = madd(vload(v + at, left), splat(beta2), f32x4.mul(f32x4.mul(grad, grad), splat(rest2)))
      const denominator = madd(f32x4.sqrt(vv), splat(root), splat(eps))
      const update = madd(vp, splat(decay), f32x4.div(f32x4.mul(vm, splat(step)), denominator))
      vstore(m + at, vm, left)
      vstore(v + at, vv, left)
      vstore(p + at, f32x4.sub(vp, update), left)
    }
  }
}
