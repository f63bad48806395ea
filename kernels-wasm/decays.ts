/**
 * Products of decays w_i in [0, 1] over the tokens of a chunk, on blocks of strips.ts. With D_ij = prod_{j<l<=i} w_l, D_ii = 1, for each
 * of K channels c, and Gamma_i = prod_{l<=i} w_l:
 *
 *     pairs    P_ij = sum_c q_ic D_ijc k_jc (j <= i),  M_ij = sum_c a_ic D_{i-1,jc} k_jc (j < i)
 *     rows     Gamma_i q_i,  Gamma_{i-1} a_i,  D_nj k_j,  and Gamma_n
 *
 * Every D is a running product. It is never the exponential of a difference of cumulated logarithms, nor a quotient: nothing overflows, a
 * decay of 0 is exact, and strong decay costs no digits; nor is a gradient of log w a difference of large sums. The price is that pairs take
 * n^2 K / 2 multiplications outside the matrix products; with one decay for all channels, n^2 / 2.
 *
 * Blocks of tokens are [n8, K8], their transposes [K8, n8], pairs [n8, n8]; rows of tokens that aren't there hold 0, their decays 1.
 * Of pairs only the triangle is written in a meaningful way. Pinned by test/ops/fast-weights.test.ts.
 */
import { sumLanes } from './lanes'
import { madd, splat } from './math'
import { at } from './strips'

/** All ones in the lanes of tokens j, ..., j + 3 that come before token i. */
@inline function earlier(j: i32, i: i32): v128 {
  return i32x4.lt_s(i32x4.add(i32x4.splat(j), i32x4(0, 1, 2, 3)), i32x4.splat(i))
}

// ---- a decay for each channel ---------------------------------------------------------------------------------------------------

const LEAST = memory.data<f32>([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])

/** Where it says, for the eight keys that begin d tokens before this one, how little they may decay by here: 0, or 1 of those that have yet to begin. */
@inline function leastDecay(d: i32): usize {
  return LEAST + (<usize>(8 - min(d, 8)) << 2)
}

/** Four rows at a time: enough sums to hide the time that an addition takes. */
@inline function pairs(corrects: bool, p: usize, m: usize, kT: usize, q: usize, a: usize, w: usize, n8: i32, K8: i32): void {
  const skip = <usize>(n8 - 1) << 5
  for (let j = 0; j < n8; j += 8) {
    for (let i = j; i < n8; i += 4) {
      const least0 = leastDecay(i - j), least1 = leastDecay(i - j + 1), least2 = leastDecay(i - j + 2), least3 = leastDecay(i - j + 3)
      const e00 = v128.load(least0), e01 = v128.load(least0, 16)
      const e10 = v128.load(least1), e11 = v128.load(least1, 16)
      const e20 = v128.load(least2), e21 = v128.load(least2, 16)
      const e30 = v128.load(least3), e31 = v128.load(least3, 16)
      let p00 = splat(0), p01 = splat(0), p10 = splat(0), p11 = splat(0), p20 = splat(0), p21 = splat(0), p30 = splat(0), p31 = splat(0)
      let m00 = splat(0), m01 = splat(0), m10 = splat(0), m11 = splat(0), m20 = splat(0), m21 = splat(0), m30 = splat(0), m31 = splat(0)
      let k = at(kT, K8, 0, j), qi = at(q, n8, i, 0), ai = at(a, n8, i, 0), wi = at(w, n8, i, 0)
      for (let c = 0; c < K8; c += 8, qi += skip, ai += skip, wi += skip) {
        for (let s = 0; s < 8; s++) {
          let k0 = v128.load(k), k1 = v128.load(k, 16), x: v128
          if (corrects) {
            x = v128.load32_splat(ai)
            m00 = madd(x, k0, m00)
            m01 = madd(x, k1, m01)
          }
          x = v128.load32_splat(wi)
          k0 = f32x4.mul(f32x4.pmax(x, e00), k0)
          k1 = f32x4.mul(f32x4.pmax(x, e01), k1)
          x = v128.load32_splat(qi)
          p00 = madd(x, k0, p00)
          p01 = madd(x, k1, p01)
          if (corrects) {
            x = v128.load32_splat(ai, 32)
            m10 = madd(x, k0, m10)
            m11 = madd(x, k1, m11)
          }
          x = v128.load32_splat(wi, 32)
          k0 = f32x4.mul(f32x4.pmax(x, e10), k0)
          k1 = f32x4.mul(f32x4.pmax(x, e11), k1)
          x = v128.load32_splat(qi, 32)
          p10 = madd(x, k0, p10)
          p11 = madd(x, k1, p11)
          if (corrects) {
            x = v128.load32_splat(ai, 64)
            m20 = madd(x, k0, m20)
            m21 = madd(x, k1, m21)
          }
          x = v128.load32_splat(wi, 64)
          k0 = f32x4.mul(f32x4.pmax(x, e20), k0)
          k1 = f32x4.mul(f32x4.pmax(x, e21), k1)
          x = v128.load32_splat(qi, 64)
          p20 = madd(x, k0, p20)
          p21 = madd(x, k1, p21)
          if (corrects) {
            x = v128.load32_splat(ai, 96)
            m30 = madd(x, k0, m30)
            m31 = madd(x, k1, m31)
          }
          x = v128.load32_splat(wi, 96)
          k0 = f32x4.mul(f32x4.pmax(x, e30), k0)
          k1 = f32x4.mul(f32x4.pmax(x, e31), k1)
          x = v128.load32_splat(qi, 96)
          p30 = madd(x, k0, p30)
          p31 = madd(x, k1, p31)
          v128.store(k, k1, 16)
          v128.store(k, k0)
          k += 32
          qi += 4
          ai += 4
          wi += 4
        }
      }
      const o = at(0, n8, i, j)
      v128.store(p + o, p01, 16)
      v128.store(p + o, p00)
      v128.store(p + o, p11, 48)
      v128.store(p + o, p10, 32)
      v128.store(p + o, p21, 80)
      v128.store(p + o, p20, 64)
      v128.store(p + o, p31, 112)
      v128.store(p + o, p30, 96)
      if (corrects) {
        v128.store(m + o, m01, 16)
        v128.store(m + o, m00)
        v128.store(m + o, m11, 48)
        v128.store(m + o, m10, 32)
        v128.store(m + o, m21, 80)
        v128.store(m + o, m20, 64)
        v128.store(m + o, m31, 112)
        v128.store(m + o, m30, 96)
      }
    }
  }
}

/** P and, if m isn't 0, M; q, a and w are [n8, K8]; kT [K8, n8] is used up. */
export function decayedPairs(p: usize, m: usize, kT: usize, q: usize, a: usize, w: usize, n8: i32, K8: i32): void {
  if (m) pairs(true, p, m, kT, q, a, w, n8, K8)
  else pairs(false, p, m, kT, q, q, w, n8, K8)
}

/**
 * O_i += sum_{j<=i} P_ij D_ij k_j for the n tokens there are, o, k, w [n8, K8]; what P [n8, n8] holds above its diagonal becomes 0.
 */
export function decayedReads(o: usize, p: usize, k: usize, w: usize, n: i32, n8: i32, K8: i32): void {
  for (let i = 0; i < n; i++) for (let j = i + 1; j < n8; j++) store<f32>(at(p, n8, i, j), 0)
  for (let c = 0; c < K8; c += 8) {
    const strip = at(0, n8, 0, c)
    for (let j = 0; j < n; j += 4) {
      // D_ij k_j, ..., D_i,j+3 k_j+3, 0 of those that haven't begun.
      let x0 = splat(0), x1 = x0, x2 = x0, x3 = x0, y0 = x0, y1 = x0, y2 = x0, y3 = x0
      for (let i = j; i < n; i++) {
        const r = strip + (<usize>i << 5), f = at(p, n8, i, j)
        const wx = v128.load(w + r), wy = v128.load(w + r, 16)
        x0 = f32x4.mul(wx, x0)
        y0 = f32x4.mul(wy, y0)
        x1 = f32x4.mul(wx, x1)
        y1 = f32x4.mul(wy, y1)
        x2 = f32x4.mul(wx, x2)
        y2 = f32x4.mul(wy, y2)
        x3 = f32x4.mul(wx, x3)
        y3 = f32x4.mul(wy, y3)
        if (i < j + 4) {
          const kx = v128.load(k + r), ky = v128.load(k + r, 16)
          if (i == j) {
            x0 = kx
            y0 = ky
          } else if (i == j + 1) {
            x1 = kx
            y1 = ky
          } else if (i == j + 2) {
            x2 = kx
            y2 = ky
          } else {
            x3 = kx
            y3 = ky
          }
        }
        let z = v128.load32_splat(f)
        let ox = madd(z, x0, v128.load(o + r)), oy = madd(z, y0, v128.load(o + r, 16))
        z = v128.load32_splat(f, 4)
        ox = madd(z, x1, ox)
        oy = madd(z, y1, oy)
        z = v128.load32_splat(f, 8)
        ox = madd(z, x2, ox)
        oy = madd(z, y2, oy)
        z = v128.load32_splat(f, 12)
        ox = madd(z, x3, ox)
        oy = madd(z, y3, oy)
        v128.store(o + r, oy, 16)
        v128.store(o + r, ox)
      }
    }
  }
}

/**
 * One (i, j), i > j, backwards, in four channels: h, the cotangent of D_ij k_j, becomes that of D_{i-1,j} k_j. r: the bytes to row i,
 * kr: where D_ij k_j lies.
 */
@inline function pairBackward(corrects: bool, h: v128, r: usize, kr: usize, p: usize, m: usize, q: usize, a: usize, w: usize, dq: usize,
  da: usize, dw: usize): v128 {
  const k = v128.load(kr), x = v128.load32_splat(p)
  h = madd(x, v128.load(q + r), h)
  v128.store(dq + r, madd(x, k, v128.load(dq + r)))
  v128.store(dw + r, madd(h, k, v128.load(dw + r)))
  h = f32x4.mul(h, v128.load(w + r))
  if (corrects) {
    const x = v128.load32_splat(m)
    h = madd(x, v128.load(a + r), h)
    v128.store(da + r, madd(x, v128.load(kr - 64), v128.load(da + r)))
  }
  return h
}

/** Of token j: the rows of its column from `last` down to (j, j) itself, which gives dk_j. kr: where D_jj k_j lies. */
@inline function columnBackward(corrects: bool, h: v128, j: i32, last: i32, n: i32, n8: i32, kr: usize, dp: usize, dm: usize, q: usize,
  a: usize, w: usize, dq: usize, da: usize, dk: usize, dw: usize): void {
  if (j >= n) return
  for (let i = min(n - 1, last); i > j; i--) {
    const o = at(0, n8, i, j)
    h = pairBackward(corrects, h, <usize>i << 5, kr + (<usize>(i - j) << 6), dp + o, dm + o, q, a, w, dq, da, dw)
  }
  const r = <usize>j << 5, x = v128.load32_splat(at(dp, n8, j, j))
  v128.store(dq + r, madd(x, v128.load(kr), v128.load(dq + r)))
  v128.store(dk + r, madd(x, v128.load(q + r), h))
}

@inline function pairsBackward(corrects: bool, dp: usize, dm: usize, q: usize, a: usize, k: usize, w: usize, dq: usize, da: usize,
  dk: usize, dw: usize, decayed: usize, n: i32, n8: i32): void {
  for (let j = 0; j < n; j += 4) {
    // Row i of `decayed`: D_ij k_j, ..., D_i,j+3 k_j+3, of those that have begun.
    let x0 = v128.load(k + (<usize>j << 5)), x1 = x0, x2 = x0, x3 = x0
    v128.store(decayed + (<usize>j << 6), x0)
    for (let i = j + 1; i < n; i++) {
      const x = v128.load(w + (<usize>i << 5)), o = decayed + (<usize>i << 6)
      x0 = f32x4.mul(x0, x)
      x1 = f32x4.mul(x1, x)
      x2 = f32x4.mul(x2, x)
      x3 = f32x4.mul(x3, x)
      if (i < j + 4) {
        const x = v128.load(k + (<usize>i << 5))
        if (i == j + 1) x1 = x
        else if (i == j + 2) x2 = x
        else x3 = x
      }
      v128.store(o, x1, 16)
      v128.store(o, x0)
      v128.store(o, x3, 48)
      v128.store(o, x2, 32)
    }
    const d = dk + (<usize>j << 5)
    let h0 = v128.load(d), h1 = v128.load(d, 32), h2 = v128.load(d, 64), h3 = v128.load(d, 96)
    for (let i = n - 1; i >= j + 4; i--) {
      const r = <usize>i << 5, kr = decayed + (<usize>i << 6), o = at(0, n8, i, j), p = dp + o
      const qi = v128.load(q + r)
      let dqi = v128.load(dq + r), dwi = v128.load(dw + r)
      let y = v128.load(kr), x = v128.load32_splat(p)
      h0 = madd(x, qi, h0)
      dqi = madd(x, y, dqi)
      dwi = madd(h0, y, dwi)
      y = v128.load(kr, 16)
      x = v128.load32_splat(p, 4)
      h1 = madd(x, qi, h1)
      dqi = madd(x, y, dqi)
      dwi = madd(h1, y, dwi)
      y = v128.load(kr, 32)
      x = v128.load32_splat(p, 8)
      h2 = madd(x, qi, h2)
      dqi = madd(x, y, dqi)
      dwi = madd(h2, y, dwi)
      y = v128.load(kr, 48)
      x = v128.load32_splat(p, 12)
      h3 = madd(x, qi, h3)
      dqi = madd(x, y, dqi)
      dwi = madd(h3, y, dwi)
      v128.store(dq + r, dqi)
      v128.store(dw + r, dwi)
      x = v128.load(w + r)
      h0 = f32x4.mul(h0, x)
      h1 = f32x4.mul(h1, x)
      h2 = f32x4.mul(h2, x)
      h3 = f32x4.mul(h3, x)
      if (corrects) {
        const m = dm + o, before = kr - 64, ai = v128.load(a + r)
        let dai = v128.load(da + r)
        x = v128.load32_splat(m)
        h0 = madd(x, ai, h0)
        dai = madd(x, v128.load(before), dai)
        x = v128.load32_splat(m, 4)
        h1 = madd(x, ai, h1)
        dai = madd(x, v128.load(before, 16), dai)
        x = v128.load32_splat(m, 8)
        h2 = madd(x, ai, h2)
        dai = madd(x, v128.load(before, 32), dai)
        x = v128.load32_splat(m, 12)
        h3 = madd(x, ai, h3)
        dai = madd(x, v128.load(before, 48), dai)
        v128.store(da + r, dai)
      }
    }
    const o = decayed + (<usize>j << 6)
    columnBackward(corrects, h0, j, j + 3, n, n8, o, dp, dm, q, a, w, dq, da, dk, dw)
    columnBackward(corrects, h1, j + 1, j + 3, n, n8, o + 64 + 16, dp, dm, q, a, w, dq, da, dk, dw)
    columnBackward(corrects, h2, j + 2, j + 3, n, n8, o + 128 + 32, dp, dm, q, a, w, dq, da, dk, dw)
    columnBackward(corrects, h3, j + 3, j + 3, n, n8, o + 192 + 48, dp, dm, q, a, w, dq, da, dk, dw)
  }
}

/**
 * From dP and dM (0: none), of which only the triangle counts: added to dq, da and dw = d log w. dk holds the cotangents of D_nj k_j on
 * entry, those of k_j then. scratch is 16 n8 floats.
 */
export function decayedPairsBackward(dp: usize, dm: usize, q: usize, a: usize, k: usize, w: usize, dq: usize, da: usize, dk: usize,
  dw: usize, scratch: usize, n: i32, n8: i32, K8: i32): void {
  for (let c = 0; c < K8; c += 4) {
    const o = at(0, n8, 0, c)
    if (dm) pairsBackward(true, dp, dm, q + o, a + o, k + o, w + o, dq + o, da + o, dk + o, dw + o, scratch, n, n8)
    else pairsBackward(false, dp, dp, q + o, q + o, k + o, w + o, dq + o, dq + o, dk + o, dw + o, scratch, n, n8)
  }
}

/**
 * qTo_i = Gamma_i q_i, aTo_i = Gamma_{i-1} a_i (a = 0: none; both in blocks with R rows), gammas_i = Gamma_i (0: not wanted), last [K8] = Gamma_n.
 * A target may be its source.
 */
export function decayRows(qTo: usize, aTo: usize, R: i32, gammas: usize, last: usize, q: usize, a: usize, w: usize, n8: i32,
  K8: i32): void {
  const end = <usize>n8 << 5
  for (let c = 0; c < K8; c += 8) {
    const o = at(0, n8, 0, c), t = at(0, R, 0, c)
    let g0 = splat(1), g1 = splat(1)
    for (let i: usize = 0; i < end; i += 32) {
      if (a) {
        const x0 = f32x4.mul(g0, v128.load(a + o + i)), x1 = f32x4.mul(g1, v128.load(a + o + i, 16))
        v128.store(aTo + t + i, x1, 16)
        v128.store(aTo + t + i, x0)
      }
      g0 = f32x4.mul(g0, v128.load(w + o + i))
      g1 = f32x4.mul(g1, v128.load(w + o + i, 16))
      const x0 = f32x4.mul(g0, v128.load(q + o + i)), x1 = f32x4.mul(g1, v128.load(q + o + i, 16))
      v128.store(qTo + t + i, x1, 16)
      v128.store(qTo + t + i, x0)
      if (gammas) {
        v128.store(gammas + o + i, g1, 16)
        v128.store(gammas + o + i, g0)
      }
    }
    v128.store(last + (<usize>c << 2), g1, 16)
    v128.store(last + (<usize>c << 2), g0)
  }
}

/** kTo_j = D_nj k_j; kTo may be k. w in a block with Rw rows; 0: 8 columns stand for all. */
export function decayKeys(kTo: usize, k: usize, w: usize, Rw: i32, n8: i32, K8: i32): void {
  const end = <usize>n8 << 5
  for (let c = 0; c < K8; c += 8) {
    const o = at(0, n8, 0, c), ow = at(w, Rw, 0, c)
    let g0 = splat(1), g1 = splat(1)
    for (let i = end - 32; i < end; i -= 32) {
      const x0 = f32x4.mul(g0, v128.load(k + o + i)), x1 = f32x4.mul(g1, v128.load(k + o + i, 16))
      v128.store(kTo + o + i, x1, 16)
      v128.store(kTo + o + i, x0)
      g0 = f32x4.mul(g0, v128.load(ow + i))
      g1 = f32x4.mul(g1, v128.load(ow + i, 16))
    }
  }
}

/**
 * dq and da hold the cotangents of Gamma_i q_i and Gamma_{i-1} a_i on entry, those of q_i and a_i then; dw is set to what of d log w comes
 * from them and from Gamma_n, whose part is dlast [K8].
 */
export function decayRowsBackward(dq: usize, da: usize, dw: usize, gammas: usize, dlast: usize, q: usize, a: usize, n: i32, n8: i32,
  K8: i32): void {
  for (let c = 0; c < K8; c += 4) {
    const o = at(0, n8, 0, c)
    let sum = v128.load(dlast + (<usize>c << 2))
    for (let i = n - 1; i >= 0; i--) {
      const r = o + (<usize>i << 5)
      const d = f32x4.mul(v128.load(gammas + r), v128.load(dq + r))
      v128.store(dq + r, d)
      sum = madd(v128.load(q + r), d, sum)
      v128.store(dw + r, sum)
      if (a) {
        const d = i ? f32x4.mul(v128.load(gammas + r - 32), v128.load(da + r)) : v128.load(da + r)
        v128.store(da + r, d)
        sum = madd(v128.load(a + r), d, sum)
      }
    }
  }
}

// ---- one decay for all channels: pairs are plain inner products, and D is a number ---------------------------------------------------

/**
 * P_ij = D_ij P_ij, M_ij = D_{i-1,j} M_ij (but M_ii stays as it is), or `after` the decay of token i D_ij M_ij (m = 0: none), and D [n8, n8] itself into d. w: the decays, 32 bytes
 * apart.
 */
export function decayPairs(p: usize, m: usize, after: bool, d: usize, w: usize, n8: i32): void {
  for (let i = 0; i < n8; i++) {
    const x = v128.load32_splat(w + (<usize>i << 5))
    for (let j = 0; j <= i; j += 4) {
      const o = at(0, n8, i, j)
      // Of token i - 1; where a vector of columns begins, nothing has decayed yet.
      const before = i == j ? splat(1) : v128.load(d + o - 32)
      const here = v128.bitselect(f32x4.mul(x, before), splat(1), earlier(j, i))
      if (m) v128.store(m + o, f32x4.mul(after ? here : before, v128.load(m + o)))
      v128.store(d + o, here)
      v128.store(p + o, f32x4.mul(here, v128.load(p + o)))
    }
  }
}

/**
 * q [n8, K8] = Gamma_i q_i and, unless as is 0, as [n8, K8] = Gamma_i a_i or, if `before`, Gamma_{i-1} a_i; as may be a. last [K8] = Gamma_n, in every channel. w: as
 * above.
 */
export function decayRowsAlike(q: usize, as: usize, a: usize, before: bool, last: usize, w: usize, n8: i32, K8: i32): void {
  let g: f32 = 1
  for (let i: usize = 0, end = <usize>n8 << 5; i < end; i += 32) {
    const earlier = g
    g *= load<f32>(w + i)
    scaleOne(q + i, q + i, g, n8, K8)
    if (as) scaleOne(as + i, a + i, before ? earlier : g, n8, K8)
  }
  for (let c: usize = 0; c < <usize>K8 << 2; c += 16) v128.store(last + c, f32x4.splat(g))
}

/** A row of K8 floats, y = g x, of blocks with R rows. */
function scaleOne(y: usize, x: usize, g: f32, R: i32, K8: i32): void {
  const f = f32x4.splat(g)
  for (let c = 0; c < K8; c += 8) {
    const o = at(0, R, 0, c), x0 = f32x4.mul(f, v128.load(x + o)), x1 = f32x4.mul(f, v128.load(x + o, 16))
    v128.store(y + o, x1, 16)
    v128.store(y + o, x0)
  }
}

/**
 * dP and dM, the cotangents of the decayed P and M (given as p, m), (dM = 0: none) become those of the plain ones.
 * What comes from them of d log w_i is added to the first channel of dw. sums is n8 floats.
 */
export function decayPairsBackward(dp: usize, dm: usize, p: usize, m: usize, d: usize, dw: usize, sums: usize, n: i32, n8: i32): void {
  memory.fill(sums, 0, <usize>n8 << 2)
  for (let i = n - 1; i >= 0; i--) {
    let total = splat(0)
    for (let j = 0; j <= i; j += 4) {
      const o = at(0, n8, i, j), s = sums + (<usize>j << 2), mask = earlier(j, i)
      // Column by column, the sum of dP_ij P_ij over the tokens from i on and of dM_ij M_ij over those after i: all that hold w_i.
      let sum = f32x4.add(v128.load(s), v128.and(mask, f32x4.mul(v128.load(dp + o), v128.load(p + o))))
      total = f32x4.add(total, v128.and(mask, sum))
      v128.store(dp + o, f32x4.mul(v128.load(d + o), v128.load(dp + o)))
      if (dm) {
        sum = f32x4.add(sum, v128.and(mask, f32x4.mul(v128.load(dm + o), v128.load(m + o))))
        v128.store(dm + o, f32x4.mul(v128.load(d + o - 32), v128.load(dm + o)))
      }
      v128.store(s, sum)
    }
    const r = dw + (<usize>i << 5)
    store<f32>(r, load<f32>(r) + sumLanes(total))
  }
}

/** dk holds the cotangents of D_nj k_j on entry, those of k_j then; their part of d log w is added to dw. */
export function decayKeysBackward(dk: usize, dw: usize, k: usize, w: usize, n: i32, n8: i32, K8: i32): void {
  for (let c = 0; c < K8; c += 4) {
    const o = at(0, n8, 0, c)
    let g = splat(1), sum = splat(0)
    for (let i = n - 1; i >= 0; i--) {
      const r = o + (<usize>i << 5)
      v128.store(dk + r, f32x4.mul(g, v128.load(dk + r)))
      g = f32x4.mul(g, v128.load(w + r))
    }
    for (let i = 0; i < n; i++) {
      const r = o + (<usize>i << 5)
      v128.store(dw + r, f32x4.add(v128.load(dw + r), sum))
      sum = madd(v128.load(k + r), v128.load(dk + r), sum)
    }
  }
}
