/**
 * Fast weights: the specification, in float64.
 *
 *     sum rule    S_t = S_{t-1} + k_t v_t^T                                  Katharopoulos 2020, eq. 16-20; Schmidhuber 1991
 *     delta rule  S_t = S_{t-1} + k_t u_t^T,  u_t = beta_t (v_t - S_{t-1}^T k_t)   Schlag 2021, eq. 24-25
 *     both        z_t = z_{t-1} + k_t,  y_t = scale S_t^T q_t [ / (z_t . q_t + eps) ]
 *
 * The delta rule is the sum rule on the pseudo-values u, so everything below is written once, for u; beta = null means u = v.
 * A form (recurrent, chunk) is a function over a span of n tokens: from the incoming state (S, z), which it updates, and the rows Q, K, V
 * it gives the reads O_t = S_t^T q_t and N_t = z_t . q_t. Its backward takes the cotangents G of O and g of N, and those of the outgoing
 * state (dS, dz), which it turns into those of the incoming one. `forward` and `backward` cut a head's T tokens into spans of C.
 *
 * Shapes: q, k [B,T,H,K]; v, y [B,T,H,V]; beta, den [B,T,H]; states [B,H,K,V]; z [B,H,K]; snapshots [B,H,ceil(T/C),K,V].
 * Pinned by test/ops/fast-weights.test.ts: the two forms agree to 1e-10, gradients agree with central differences.
 */
import type { FastWeightSizes, Form, Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

type Vector = Float64Array
interface Matrix {
  rows: number
  cols: number
  data: Float64Array
}
interface Tokens {
  Q: Matrix
  K: Matrix
  V: Matrix
  beta: Vector | null
}
interface Cotangents {
  G: Matrix
  g: Vector
}
interface Gradients {
  dQ: Matrix
  dK: Matrix
  dV: Matrix
  dbeta: Vector
}

// ---- recurrent form: one token at a time ------------------------------------------------------------------------------

/** S_t from S_{t-1}, in place: the whole rule. e is what the memory got wrong about v, u what is written. */
function step(S: Matrix, k: Vector, v: Vector, beta: number | undefined): { e: Vector; u: Vector } {
  const seen = read(S, k)
  const e = v.map((x, j) => x - seen[j])
  const u = beta === undefined ? v : e.map((x) => beta * x)
  addOuter(S, k, u, 1)
  return { e, u }
}

function recurrent(S: Matrix, z: Vector, { Q, K, V, beta }: Tokens): { O: Matrix; N: Vector } {
  const O = zeros(V.rows, V.cols)
  const N = new Float64Array(V.rows)
  for (let t = 0; t < V.rows; t++) {
    step(S, row(K, t), row(V, t), beta?.[t])
    addTo(z, row(K, t))
    row(O, t).set(read(S, row(Q, t)))
    N[t] = dot(z, row(Q, t))
  }
  return { O, N }
}

/** States are recomputed from the span's first one and kept: going back through the update would divide by what a rule may forget. */
function recurrentBackward(S: Matrix, z: Vector, dS: Matrix, dz: Vector, { Q, K, V, beta }: Tokens, { G, g }: Cotangents): Gradients {
  const n = V.rows
  const dQ = zeros(n, K.cols),
    dK = zeros(n, K.cols),
    dV = zeros(n, V.cols),
    dbeta = new Float64Array(n)
  const before: Matrix[] = [],
    written: { e: Vector; u: Vector }[] = []
  for (let t = 0; t < n; t++) {
    before[t] = clone(S)
    written[t] = step(S, row(K, t), row(V, t), beta?.[t])
    addTo(z, row(K, t))
    row(dQ, t).set(apply(S, row(G, t)))
    addTo(row(dQ, t), z, g[t])
  }
  for (let t = n - 1; t >= 0; t--) {
    const k = row(K, t),
      q = row(Q, t),
      { e, u } = written[t]
    addOuter(dS, q, row(G, t), 1)
    addTo(dz, q, g[t])
    const du = read(dS, k)
    row(dK, t).set(apply(dS, u))
    addTo(row(dK, t), dz)
    if (beta === null) {
      row(dV, t).set(du)
      continue
    }
    const dv = du.map((x) => beta[t] * x)
    row(dV, t).set(dv)
    dbeta[t] = dot(du, e)
    addTo(row(dK, t), apply(before[t], dv), -1)
    addOuter(dS, k, dv, -1)
  }
  return { dQ, dK, dV, dbeta }
}

// ---- chunk form: small matrix products ----------------------------------------------------------------------------------

/**
 * Row by row, u_i = beta_i (v_i - S^T k_i - sum_{j<i} (k_i . k_j) u_j), that is (I + L) U = diag(beta) (V - K S) with
 * L = tril(diag(beta) K K^T, -1): the WY form of Yang 2024, solved for U directly. E holds the errors e_i, U = diag(beta) E.
 */
function pseudoValues(S: Matrix, { K, V }: Tokens, beta: Vector): { E: Matrix; U: Matrix; L: Matrix } {
  const KK = tril(mul(K, transpose(K)), -1)
  const R = sub(V, mul(K, S))
  const L = scaleRows(beta, KK)
  const U = solveUnitLower(L, scaleRows(beta, R))
  return { E: sub(R, mul(KK, U)), U, L }
}

/** O = Q S + tril(Q K^T) U, N = Q z + rowsum tril(Q K^T); S += K^T U, z += K^T 1. */
function chunk(S: Matrix, z: Vector, tokens: Tokens): { O: Matrix; N: Vector } {
  const { Q, K, V, beta } = tokens
  const U = beta === null ? V : pseudoValues(S, tokens, beta).U
  const P = tril(mul(Q, transpose(K)), 0)
  const O = add(mul(Q, S), mulLower(P, U))
  const N = apply(Q, z).map((x, i) => x + sum(row(P, i)))
  addTo(S.data, mul(transpose(K), U).data)
  for (let t = 0; t < V.rows; t++) addTo(z, row(K, t))
  return { O, N }
}

/**
 * dU = P^T G + K dS;  dP = tril(G U^T + g 1^T);  dQ = G S^T + g z^T + dP K;  dK = dP^T Q + U dS^T + 1 dz^T;  dS += Q^T G, dz += Q^T g.
 * sum rule: dV = dU. delta rule: X = (I + L)^-T dU, D = diag(beta) X, M = tril(D U^T, -1);
 * dV = D;  dbeta = rowsum(X * E);  dK -= D S^T + (M + M^T) K;  dS -= K^T D.
 */
function chunkBackward(S: Matrix, z: Vector, dS: Matrix, dz: Vector, tokens: Tokens, { G, g }: Cotangents): Gradients {
  const { Q, K, V, beta } = tokens
  const n = V.rows
  const delta = beta && pseudoValues(S, tokens, beta)
  const U = delta ? delta.U : V
  const P = tril(mul(Q, transpose(K)), 0)
  const dP = tril(addColumn(mul(G, transpose(U)), g), 0)
  const dU = add(mul(transpose(P), G), mul(K, dS))
  const dQ = add(mul(G, transpose(S)), mul(dP, K))
  const dK = add(mul(transpose(dP), Q), mul(U, transpose(dS)))
  for (let t = 0; t < n; t++) {
    addTo(row(dQ, t), z, g[t])
    addTo(row(dK, t), dz)
  }
  addTo(dS.data, mul(transpose(Q), G).data)
  for (let t = 0; t < n; t++) addTo(dz, row(Q, t), g[t])
  if (beta === null || delta === null) return { dQ, dK, dV: dU, dbeta: new Float64Array(n) }
  const X = solveUnitLowerTransposed(delta.L, dU)
  const D = scaleRows(beta, X)
  const M = tril(mul(D, transpose(U)), -1)
  addTo(dK.data, add(mul(D, transpose(S)), mul(add(M, transpose(M)), K)).data, -1)
  addTo(dS.data, mul(transpose(K), D).data, -1)
  return { dQ, dK, dV: D, dbeta: beta.map((_, t) => dot(row(X, t), row(delta.E, t))) }
}

// ---- a head at a time, a span of C tokens at a time -----------------------------------------------------------------------

interface Normaliser {
  zT: RefStorage
  den: RefStorage | null
  zs: RefStorage | null
  eps: number
}

function forward(
  form: Form,
  q: RefStorage,
  k: RefStorage,
  v: RefStorage,
  beta: RefStorage | null,
  s0: RefStorage | null,
  z0: RefStorage | null,
  y: RefStorage,
  sT: RefStorage,
  states: RefStorage | null,
  norm: Normaliser | null,
  sizes: FastWeightSizes,
): void {
  const { H, K, V, scale } = sizes
  const run = form === 'chunk' ? chunk : recurrent
  for (const head of heads(sizes)) {
    const S = s0 ? block(s0, head.index, K, V) : zeros(K, V)
    const z = z0 ? block(z0, head.index, 1, K).data : new Float64Array(K)
    for (const span of head.spans) {
      states?.data.set(S.data, span.index * K * V)
      norm?.zs?.data.set(z, span.index * K)
      const { O, N } = run(S, z, tokensOf(q, k, v, beta, span, sizes))
      const den = N.map((x) => (norm ? x + norm.eps : 1))
      scatter(
        y,
        span,
        scaleRows(
          den.map((x) => scale / x),
          O,
        ),
        H,
      )
      if (norm?.den) scatter(norm.den, span, column(den), H)
    }
    sT.data.set(S.data, head.index * K * V)
    norm?.zT.data.set(z, head.index * K)
  }
}

/** With a normaliser y = scale O / den, so G = scale dy / den and g = -(dy . y) / den: dropping g is the classic mistake. */
function backward(
  form: Form,
  q: RefStorage,
  k: RefStorage,
  v: RefStorage,
  beta: RefStorage | null,
  states: RefStorage,
  zs: RefStorage | null,
  y: RefStorage | null,
  den: RefStorage | null,
  dy: RefStorage,
  dsT: RefStorage | null,
  dzT: RefStorage | null,
  dq: RefStorage,
  dk: RefStorage,
  dv: RefStorage,
  dbeta: RefStorage | null,
  ds0: RefStorage | null,
  dz0: RefStorage | null,
  sizes: FastWeightSizes,
): void {
  const { H, K, V, scale } = sizes
  const run = form === 'chunk' ? chunkBackward : recurrentBackward
  for (const head of heads(sizes)) {
    const dS = dsT ? block(dsT, head.index, K, V) : zeros(K, V)
    const dz = dzT ? block(dzT, head.index, 1, K).data : new Float64Array(K)
    for (const span of head.spans.reverse()) {
      const S = block(states, span.index, K, V)
      const z = zs ? block(zs, span.index, 1, K).data : new Float64Array(K)
      const dY = gather(dy, span, V, H)
      const Y = y && den ? gather(y, span, V, H) : null
      const d = den ? gather(den, span, 1, H).data : new Float64Array(span.n).fill(1)
      const G = scaleRows(
        d.map((x) => scale / x),
        dY,
      )
      const g = d.map((x, t) => (Y ? -dot(row(dY, t), row(Y, t)) / x : 0))
      const { dQ, dK, dV, dbeta: db } = run(S, z, dS, dz, tokensOf(q, k, v, beta, span, sizes), { G, g })
      scatter(dq, span, dQ, H)
      scatter(dk, span, dK, H)
      scatter(dv, span, dV, H)
      if (dbeta) scatter(dbeta, span, column(db), H)
    }
    ds0?.data.set(dS.data, head.index * K * V)
    dz0?.data.set(dz, head.index * K)
  }
}

export const fastWeightKernels: Pick<Kernels<RefStorage>, 'sumRule' | 'sumRuleBackward' | 'deltaRule' | 'deltaRuleBackward'> = {
  sumRule: (form, q, k, v, s0, z0, y, sT, zT, den, states, zs, eps, sizes) =>
    forward(form, q, k, v, null, s0, z0, y, sT, states, zT && { zT, den, zs, eps }, sizes),
  sumRuleBackward: (form, q, k, v, y, den, states, zs, dy, dsT, dzT, dq, dk, dv, ds0, dz0, sizes) =>
    backward(form, q, k, v, null, states, zs, y, den, dy, dsT, dzT, dq, dk, dv, null, ds0, dz0, sizes),
  deltaRule: (form, q, k, v, beta, s0, y, sT, states, sizes) => forward(form, q, k, v, beta, s0, null, y, sT, states, null, sizes),
  deltaRuleBackward: (form, q, k, v, beta, states, dy, dsT, dq, dk, dv, dbeta, ds0, sizes) =>
    backward(form, q, k, v, beta, states, null, null, null, dy, dsT, null, dq, dk, dv, dbeta, ds0, null, sizes),
}

// ---- where a head's rows and snapshots lie ------------------------------------------------------------------------------

/** Tokens of one head: n rows first, first + H, first + 2 H, ... of an array [B,T,H,*]; index counts snapshots over [B,H,ceil(T/C)]. */
interface Span {
  first: number
  n: number
  index: number
}

function heads({ B, T, H, C }: FastWeightSizes): { index: number; spans: Span[] }[] {
  const count = Math.ceil(T / C)
  return Array.from({ length: B * H }, (_, index) => ({
    index,
    spans: Array.from({ length: count }, (_, c) => ({
      first: (Math.floor(index / H) * T + c * C) * H + (index % H),
      n: Math.min(C, T - c * C),
      index: index * count + c,
    })),
  }))
}

function tokensOf(q: RefStorage, k: RefStorage, v: RefStorage, beta: RefStorage | null, span: Span, { H, K, V }: FastWeightSizes): Tokens {
  return { Q: gather(q, span, K, H), K: gather(k, span, K, H), V: gather(v, span, V, H), beta: beta && gather(beta, span, 1, H).data }
}

function gather(x: RefStorage, { first, n }: Span, cols: number, H: number): Matrix {
  const m = zeros(n, cols)
  for (let t = 0; t < n; t++) row(m, t).set(x.data.subarray((first + t * H) * cols, (first + t * H + 1) * cols))
  return m
}

function scatter(x: RefStorage, { first, n }: Span, m: Matrix, H: number): void {
  for (let t = 0; t < n; t++) x.data.set(row(m, t), (first + t * H) * m.cols)
}

const block = (x: RefStorage, index: number, rows: number, cols: number): Matrix => ({
  rows,
  cols,
  data: Float64Array.from(x.data.subarray(index * rows * cols, (index + 1) * rows * cols)),
})

// ---- small row-major matrices -------------------------------------------------------------------------------------------

const zeros = (rows: number, cols: number): Matrix => ({ rows, cols, data: new Float64Array(rows * cols) })
const column = (data: Vector): Matrix => ({ rows: data.length, cols: 1, data })
const clone = (a: Matrix): Matrix => ({ ...a, data: a.data.slice() })
const row = (a: Matrix, i: number): Vector => a.data.subarray(i * a.cols, (i + 1) * a.cols)

function build(rows: number, cols: number, at: (i: number, j: number) => number): Matrix {
  const m = zeros(rows, cols)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) m.data[i * cols + j] = at(i, j)
  }
  return m
}

const sum = (a: Vector): number => a.reduce((total, x) => total + x, 0)

function dot(a: Vector, b: Vector): number {
  let total = 0
  for (let i = 0; i < a.length; i++) total += a[i] * b[i]
  return total
}

/** y += a x. */
function addTo(y: Vector, x: Vector, a = 1): void {
  for (let i = 0; i < y.length; i++) y[i] += a * x[i]
}

/** S^T q. */
function read(S: Matrix, q: Vector): Vector {
  const y = new Float64Array(S.cols)
  for (let i = 0; i < S.rows; i++) addTo(y, row(S, i), q[i])
  return y
}

/** S g. */
function apply(S: Matrix, g: Vector): Vector {
  return new Float64Array(S.rows).map((_, i) => dot(row(S, i), g))
}

/** S += a k v^T. */
function addOuter(S: Matrix, k: Vector, v: Vector, a: number): void {
  for (let i = 0; i < S.rows; i++) addTo(row(S, i), v, a * k[i])
}

const transpose = (a: Matrix): Matrix => build(a.cols, a.rows, (i, j) => a.data[j * a.cols + i])
const add = (a: Matrix, b: Matrix): Matrix => ({ ...a, data: a.data.map((x, i) => x + b.data[i]) })
const sub = (a: Matrix, b: Matrix): Matrix => ({ ...a, data: a.data.map((x, i) => x - b.data[i]) })
const scaleRows = (d: Vector, a: Matrix): Matrix => build(a.rows, a.cols, (i, j) => d[i] * a.data[i * a.cols + j])
const addColumn = (a: Matrix, g: Vector): Matrix => build(a.rows, a.cols, (i, j) => a.data[i * a.cols + j] + g[i])
/** Keeps entries (i, j) with j <= i + diagonal. */
const tril = (a: Matrix, diagonal: number): Matrix => build(a.rows, a.cols, (i, j) => (j <= i + diagonal ? a.data[i * a.cols + j] : 0))

function mul(a: Matrix, b: Matrix): Matrix {
  const c = zeros(a.rows, b.cols)
  for (let i = 0; i < a.rows; i++) {
    for (let l = 0; l < a.cols; l++) addTo(row(c, i), row(b, l), a.data[i * a.cols + l])
  }
  return c
}

/** P U for a lower triangular P: token i never touches the rows after it, so that not even a NaN there reaches it. */
function mulLower(P: Matrix, U: Matrix): Matrix {
  const c = zeros(P.rows, U.cols)
  for (let i = 0; i < P.rows; i++) {
    for (let l = 0; l <= i; l++) addTo(row(c, i), row(U, l), P.data[i * P.cols + l])
  }
  return c
}

/** X with (I + L) X = R, L strictly lower. */
function solveUnitLower(L: Matrix, R: Matrix): Matrix {
  const X = clone(R)
  for (let i = 0; i < X.rows; i++) {
    for (let j = 0; j < i; j++) addTo(row(X, i), row(X, j), -L.data[i * L.cols + j])
  }
  return X
}

/** X with (I + L)^T X = R, L strictly lower. */
function solveUnitLowerTransposed(L: Matrix, R: Matrix): Matrix {
  const X = clone(R)
  for (let j = X.rows - 1; j >= 0; j--) {
    for (let i = j + 1; i < X.rows; i++) addTo(row(X, j), row(X, i), -L.data[i * L.cols + j])
  }
  return X
}
