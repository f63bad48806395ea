/**
 * Fast weights: the specification, in float64.
 *
 *     S_t = diag(w_t) S_{t-1} + k_t u_t^T,  w_t = exp(gate_t)                 Katharopoulos 2020, eq. 16-20; Schmidhuber 1991
 *     z_t = diag(w_t) z_{t-1} + k_t,  y_t = scale S_t^T q_t [ / (z_t . q_t + eps) ]
 *     u_t = v_t  |  beta_t (v_t - S_{t-1}^T diag(w_t) k_t)  |  v_t - S_{t-1}^T erase_t     sum; delta (Schlag 2021, eq. 24-25; gated: Yang 2024); erase
 *
 * Every rule is the sum rule on pseudo-values u, so everything below is written once, for u. With a_t the vector that the state is read with
 * before it decays (diag(w_t) k_t or erase_t; null: nothing is read) and beta_t = 1 where there is none, u_t = beta_t (v_t - S_{t-1}^T a_t).
 * With along, what is read isn't written with v: S_t = diag(w_t) S_{t-1} + k_t v_t^T + along_t u_t^T, u_t = -S_{t-1}^T a_t.
 * A form (recurrent, chunk) is a function over a span of n tokens: from the incoming state (S, z), which it updates, and the tokens' rows
 * it gives the reads O_t = S_t^T q_t (transposed: S_t q_t) and N_t = z_t . q_t. Its backward takes the cotangents G of O and g of N, and those of the outgoing
 * state (dS, dz), which it turns into those of the incoming one. A head's T tokens are cut into spans of C, and those into stretches
 * (`stretchesOf`), each a piece of one sequence.
 *
 * Shapes: kernels.ts. Pinned by test/ops/fast-weights.test.ts: the two forms agree to 1e-10, gradients agree with central differences.
 */
import { type FastWeightInputs, type FastWeightSizes, GateError, type Kernels, tokenBits } from '../kernels.ts'
import { sigmoid } from './elementwise.ts'
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
  beta: Vector
  /** The decays w, 1 without a gate. */
  W: Matrix
  /** a: what the state is read with before it decays. */
  A: Matrix | null
  /** What u is written along, and v then along k; null: u along k. */
  along: Matrix | null
  /** Reads are S q: rows of Q are as wide as V, those of O as K. */
  transposed: boolean
  /** What the operands of products of the chunk form are rounded to: float16, or nothing. */
  round: Rounding
  /** The same of what pairs of tokens are multiplied by: it isn't rounded where a decay may lie between them. */
  roundPairs: Rounding
}
type Rounding = (m: Matrix) => Matrix
const exactly: Rounding = (m) => m
const roundedVector = (v: Vector, round: Rounding): Vector => round(column(v)).data

interface Cotangents {
  G: Matrix
  g: Vector
}
interface Gradients {
  dQ: Matrix
  dK: Matrix
  dV: Matrix
  dbeta: Vector
  /** d/d log w. */
  dW: Matrix
  dA: Matrix
  dAlong: Matrix
}

const noGradients = ({ Q, K, V }: Tokens): Gradients => ({
  dQ: zeros(Q.rows, Q.cols),
  dK: zeros(K.rows, K.cols),
  dV: zeros(V.rows, V.cols),
  dbeta: new Float64Array(K.rows),
  dW: zeros(K.rows, K.cols),
  dA: zeros(K.rows, K.cols),
  dAlong: zeros(K.rows, K.cols),
})

// ---- recurrent form: one token at a time ------------------------------------------------------------------------------

/** (S_t, z_t) from (S_{t-1}, z_{t-1}), in place: the whole rule. A channel whose decay is 0 is cleared, not multiplied. e is what the memory got wrong about v (with along: about 0), u what is written. */
function step(S: Matrix, z: Vector, { K, V, beta, W, A, along }: Tokens, t: number): { e: Vector; u: Vector } {
  const [k, w, a] = [row(K, t), row(W, t), A && row(A, t)]
  const e = along ? new Float64Array(V.cols) : V.data.slice(t * V.cols, (t + 1) * V.cols)
  clearUnread(S, w, a)
  if (a) addTo(e, read(S, a), -1)
  const u = new Float64Array(e.length)
  for (let j = 0; j < u.length; j++) u[j] = beta[t] * e[j]
  scaleBy(S, w)
  for (let i = 0; i < z.length; i++) z[i] = faded(w[i], z[i]) + k[i]
  addOuter(S, along ? row(along, t) : k, u, 1)
  if (along) addOuter(S, k, row(V, t), 1)
  return { e, u }
}

function recurrent(S: Matrix, z: Vector, tokens: Tokens): { O: Matrix; N: Vector } {
  const { Q, K, V, transposed } = tokens
  const O = zeros(V.rows, transposed ? K.cols : V.cols)
  const N = new Float64Array(V.rows)
  for (let t = 0; t < V.rows; t++) {
    step(S, z, tokens, t)
    const q = row(Q, t)
    O.data.set(transposed ? apply(S, q) : read(S, q), t * O.cols)
    N[t] = dot(z, q)
  }
  return { O, N }
}

/** States are recomputed from the span's first one and kept: going back through the update would divide by what a rule may forget. */
function recurrentBackward(S: Matrix, z: Vector, dS: Matrix, dz: Vector, tokens: Tokens, { G, g }: Cotangents): Gradients {
  const { Q, K, V, beta, W, A, along } = tokens
  const gradients = noGradients(tokens)
  const { dQ, dK, dV, dbeta, dW, dA, dAlong } = gradients
  const before: { S: Matrix; z: Vector }[] = [],
    written: { e: Vector; u: Vector }[] = []
  for (let t = 0; t < V.rows; t++) {
    before[t] = { S: clone(S), z: z.slice() }
    written[t] = step(S, z, tokens, t)
    row(dQ, t).set(apply(S, row(G, t)))
    addTo(row(dQ, t), z, g[t])
  }
  for (let t = V.rows - 1; t >= 0; t--) {
    const w = row(W, t),
      q = row(Q, t),
      { e, u } = written[t],
      last = before[t]
    addOuter(dS, q, row(G, t), 1)
    addTo(dz, q, g[t])
    const dk = apply(dS, along ? row(V, t) : u)
    addTo(dk, dz)
    dK.data.set(dk, t * K.cols)
    if (along) row(dAlong, t).set(apply(dS, u))
    const du = read(dS, row(along ?? K, t))
    const de = new Float64Array(du.length)
    for (let j = 0; j < de.length; j++) de[j] = beta[t] * du[j]
    row(dV, t).set(along ? read(dS, row(K, t)) : de)
    dbeta[t] = dot(du, e)
    for (let i = 0; i < w.length; i++) dW.data[t * w.length + i] = faded(w[i], dotRows(dS, i, last.S, i) + dz[i] * last.z[i])
    scaleBy(dS, w)
    dz.set(fade(w, dz))
    if (A === null) continue
    const a = row(A, t)
    addTo(row(dA, t), apply(last.S, de), -1)
    addOuter(dS, a, de, -1)
    clearUnread(dS, w, a)
  }
  return gradients
}

// ---- chunk form: small matrix products ----------------------------------------------------------------------------------

/**
 * Decays inside a chunk, as running products: each factor lies in [0, 1], so that nothing overflows, a decay of 0 is exact, and no
 * precision is lost to differences of large logarithms. With D_ij = w_{j+1} * ... * w_i (per channel; D_ii = 1) and
 * Gamma_i = w_1 * ... * w_i:
 */
interface Faded {
  /** P_ij = q_i . (D_ij * k_j) for j <= i: how token i's query meets what token j wrote. */
  P: Matrix
  /** M_ij = a_i . (D_{i-1,j} * k_j) for j < i. */
  M: Matrix
  /** Gamma_i * q_i, Gamma_{i-1} * a_i, D_nj * k_j: they meet the incoming state, or make the outgoing one. */
  Qs: Matrix
  As: Matrix
  Ks: Matrix
  /** Gamma_n. */
  all: Vector
}

/** Key j as the state holds it after token i, in row i >= j of kd: D_ij * k_j. Earlier rows stay as they are. */
function fadingKey({ K, W }: Tokens, j: number, kd: Matrix): void {
  row(kd, j).set(row(K, j))
  for (let i = (j + 1) * K.cols; i < kd.data.length; i++) kd.data[i] = kd.data[i - K.cols] * W.data[i]
}

/** The same with queries and keys as pairs of them are multiplied: all else that is made of them is an operand, too. */
const withPairs = (tokens: Tokens): Tokens => {
  const { Q, K, A, roundPairs } = tokens
  return { ...tokens, Q: roundPairs(Q), K: roundPairs(K), A: A && roundPairs(A) }
}

function fadedTokens(given: Tokens): Faded {
  const tokens = withPairs(given)
  const { K, W, A } = tokens
  const n = K.rows
  // A transposed read meets no key.
  const Q = tokens.transposed ? zeros(n, K.cols) : tokens.Q
  const P = zeros(n, n),
    M = zeros(n, n)
  const Qs = zeros(n, K.cols),
    As = zeros(n, K.cols),
    Ks = zeros(n, K.cols)
  let gamma: Vector = new Float64Array(K.cols).fill(1)
  for (let i = 0; i < n; i++) {
    if (A) As.data.set(times(gamma, row(A, i)), i * K.cols)
    gamma = times(gamma, row(W, i))
    Qs.data.set(times(gamma, row(Q, i)), i * K.cols)
  }
  const kd = zeros(n, K.cols)
  for (let j = 0; j < n; j++) {
    fadingKey(tokens, j, kd)
    for (let i = j; i < n; i++) {
      P.data[i * n + j] = dotRows(Q, i, kd, i)
      if (A && i > j) M.data[i * n + j] = dotRows(A, i, kd, i - 1)
    }
    row(Ks, j).set(row(kd, n - 1))
  }
  return { P, M, Qs, As, Ks, all: gamma }
}

/**
 * Row by row, u_i = beta_i (v_i - S^T a~_i - sum_{j<i} M_ij u_j), that is (I + diag(beta) M) U = diag(beta) (V - A~ S): the WY form of
 * Yang 2024, solved for U directly. E holds the errors e_i, U = diag(beta) E. With along, M is that of the tokens whose keys it is, and what was
 * written along keys is read with theirs: -M^k V takes the place of V.
 */
function pseudoValues(S: Matrix, tokens: Tokens, { M, As }: Faded): { E: Matrix; U: Matrix } {
  const { V, beta, along, round } = tokens
  const read = mul(As, S, round)
  const R = along ? sub(zeros(V.rows, V.cols), add(read, mulLower(fadedTokens(tokens).M, V, round))) : sub(V, read)
  const U = solveUnitLower(scaleRows(beta, M), scaleRows(beta, R))
  return { E: sub(R, mulLower(M, U, exactly)), U }
}

/** O_i = Gamma_i * (S q_i) + sum_{j<=i} (q_i . u_j) D_ij * k_j. */
function transposedReads(S: Matrix, tokens: Tokens, U: Matrix): Matrix {
  const { round, roundPairs } = tokens
  const { K, W } = withPairs(tokens)
  const [Q, before, written] = [tokens.Q, S, U].map(round)
  const P = roundPairs(build(K.rows, K.rows, (i, j) => (j <= i ? dotRows(Q, i, written, j) : 0)))
  const O = zeros(K.rows, K.cols)
  let gamma: Vector = new Float64Array(K.cols).fill(1)
  for (let i = 0; i < K.rows; i++) {
    gamma = times(gamma, row(W, i))
    row(O, i).set(times(gamma, apply(before, row(Q, i))))
  }
  const kd = zeros(K.rows, K.cols)
  for (let j = 0; j < K.rows; j++) {
    fadingKey({ ...tokens, K }, j, kd)
    for (let i = j; i < K.rows; i++) addRow(O, i, kd, i, P.data[i * K.rows + j])
  }
  return O
}

/** What is as a key to u: along, where there is one. */
const writing = (tokens: Tokens): Tokens => ({ ...tokens, K: tokens.along ?? tokens.K })

/**
 * O = Q~ S + P U (or a transposed read), N = Q~ z + rowsum P; S <- Gamma_n * S + K~^T U, z <- Gamma_n * z + K~^T 1. With along, whose P and K~ these are:
 * O += P^k V, S += K~^kT V.
 */
function chunk(S: Matrix, z: Vector, tokens: Tokens): { O: Matrix; N: Vector } {
  const faded = fadedTokens(writing(tokens))
  const { P, Qs, Ks, all } = faded
  const { round } = tokens
  const U = tokens.A ? pseudoValues(S, tokens, faded).U : tokens.V
  const O = tokens.transposed ? transposedReads(S, tokens, U) : add(mul(Qs, S, round), mulLower(P, U, round))
  const weights = round(P)
  const N = apply(round(Qs), roundedVector(z, round)).map((x, i) => x + sum(row(weights, i)))
  scaleBy(S, all)
  addTo(S.data, mul(transpose(Ks), U, round).data)
  if (tokens.along) {
    const keys = fadedTokens(tokens)
    addTo(O.data, mulLower(keys.P, tokens.V, round).data)
    addTo(S.data, mul(transpose(keys.Ks), tokens.V, round).data)
  }
  z.set(times(all, z))
  const written = round(Ks)
  for (let t = 0; t < Ks.rows; t++) addTo(z, row(written, t))
  return { O, N }
}

/**
 * dU = P^T G + K~ dS;  dP = tril(G U^T + g 1^T);  dQ~ = G S^T + g z^T;  dK~ = U dS^T + 1 dz^T;  X = (I + diag(beta) M)^-T dU;
 * dV = diag(beta) X;  dbeta = rowsum(X * E);  dA~ = -dV S^T;  dM = -tril(dV U^T, -1);
 * dS <- Gamma_n * dS + Q~^T G - A~^T dV, dz <- Gamma_n * dz + Q~^T g. Where nothing is read, dV = dU. With along, whose P, M and K~ these are, diag(beta) X
 * is what the errors get, and dV = P^kT G + K~^k dS - M^kT diag(beta) X;  dP^k = tril(G V^T);  dM^k = -tril(diag(beta) X V^T, -1);  dK~^k = V dS^T.
 */
function chunkBackward(S: Matrix, z: Vector, dS: Matrix, dz: Vector, tokens: Tokens, { G, g }: Cotangents): Gradients {
  const { beta, A, along, V, round } = tokens
  const faded = fadedTokens(writing(tokens))
  const { P, M, Qs, As, Ks, all } = faded
  const { E, U } = A ? pseudoValues(S, tokens, faded) : { E: tokens.V, U: tokens.V }
  const dU = add(mul(transpose(P), G, round), mul(Ks, dS, round))
  const X = A ? solveUnitLowerTransposed(scaleRows(beta, M), dU) : dU
  const dR = A ? scaleRows(beta, X) : dU
  const dQs = mul(G, transpose(S), round)
  const dKs = mul(U, transpose(dS), round)
  // The normaliser is one more column of values.
  const [z16, dz16, g16] = [z, dz, g].map((x) => roundedVector(x, round))
  for (let t = 0; t < G.rows; t++) {
    addTo(row(dQs, t), z16, g16[t])
    addTo(row(dKs, t), dz16)
  }
  const dAs = scaleRows(new Float64Array(G.rows).fill(-1), mul(dR, transpose(S), round))
  const dPairs = (values: Matrix): { dP: Matrix; dM: Matrix } => {
    const dP = tril(addColumn(mul(G, transpose(values), round), g16), 0)
    return {
      dP,
      dM: { ...dP, data: A ? tril(mul(dR, transpose(values), round), -1).data.map((x) => -x) : new Float64Array(dP.data.length) },
    }
  }
  const { dP, dM } = dPairs(U)
  const keys = along && fadedTokens(tokens)
  const dV = keys ? sub(add(mul(transpose(keys.P), G, round), mul(keys.Ks, dS, round)), mul(transpose(keys.M), dR, round)) : dR
  const dKsOfV = mul(V, transpose(dS), round)
  const dAll = all.map((x, i) => x * (dot(row(S, i), row(dS, i)) + z[i] * dz[i]))
  scaleBy(dS, all)
  addTo(dS.data, mul(transpose(Qs), G, round).data)
  // Zeros times Infinity are NaN.
  if (A) addTo(dS.data, mul(transpose(As), dR, round).data, -1)
  dz.set(times(all, dz))
  const queries = round(Qs)
  for (let t = 0; t < G.rows; t++) addTo(dz, row(queries, t), g16[t])
  const gradients = fadeBackward(writing(tokens), dP, dM, dQs, dAs, dKs, dAll)
  if (along) {
    const { dP, dM } = dPairs(V)
    const none = zeros(along.rows, along.cols)
    const ofKeys = fadeBackward(tokens, dP, dM, none, none, dKsOfV, new Float64Array(along.cols))
    gradients.dAlong = gradients.dK
    gradients.dK = ofKeys.dK
    for (const name of ['dQ', 'dW', 'dA'] as const) addTo(gradients[name].data, ofKeys[name].data)
  }
  return { ...gradients, dV, dbeta: gradients.dbeta.map((_, t) => dot(row(X, t), row(E, t))) }
}

/**
 * From the cotangents of what `fadedTokens` gives to those of q, k, a and log w. Each product D_ij is taken apart at the decays it is made of: row j of dK
 * is the cotangent of key j as it stands after token i, gathered from the last token back.
 */
function fadeBackward(given: Tokens, ofP: Matrix, ofM: Matrix, dQs: Matrix, dAs: Matrix, dKs: Matrix, dAll: Vector): Gradients {
  const tokens = withPairs(given)
  const { Q, K, W, A } = tokens
  const [dP, dM] = [ofP, ofM].map(given.roundPairs)
  const n = K.rows
  const gradients = noGradients(tokens)
  const { dQ, dK, dW, dA } = gradients
  const kd = zeros(n, K.cols)
  for (let j = 0; j < n; j++) {
    fadingKey(tokens, j, kd)
    row(dK, j).set(row(dKs, j))
    for (let i = n - 1; i >= j; i--) {
      addRow(dK, j, Q, i, dP.data[i * n + j])
      addRow(dQ, i, kd, i, dP.data[i * n + j])
      if (i === j) break
      for (let l = 0; l < K.cols; l++) {
        const [h, at] = [j * K.cols + l, i * K.cols + l]
        dW.data[at] += dK.data[h] * kd.data[at]
        dK.data[h] *= W.data[at]
      }
      if (!A) continue
      addRow(dK, j, A, i, dM.data[i * n + j])
      addRow(dA, i, kd, i - 1, dM.data[i * n + j])
    }
  }
  const gammas: Vector[] = [new Float64Array(K.cols).fill(1)]
  for (let i = 0; i < n; i++) gammas.push(times(gammas[i], row(W, i)))
  // What the decays of tokens 1 to i are jointly answerable for.
  const joint = dAll.slice()
  for (let i = n - 1; i >= 0; i--) {
    const dq = times(gammas[i + 1], row(dQs, i))
    addTo(row(dQ, i), dq)
    addTo(joint, times(dq, row(Q, i)))
    addTo(row(dW, i), joint)
    if (!A) continue
    const da = times(gammas[i], row(dAs, i))
    addTo(row(dA, i), da)
    addTo(joint, times(da, row(A, i)))
  }
  return gradients
}

// ---- a head at a time, a span of C tokens at a time -----------------------------------------------------------------------

type FastWeightKernels = Pick<Kernels<RefStorage>, 'fastWeights' | 'fastWeightsBackward'>

const forward =
  (round: Rounding): FastWeightKernels['fastWeights'] =>
  (form, inputs, { y, sT, zT, den, states, zs }, sizes) => {
    const { K, V, scale, eps, transposed } = sizes
    checkGate(inputs, sizes)
    const run = form === 'chunk' ? chunked : recurrent
    for (const head of heads(sizes)) {
      const S = inputs.s0 ? block(inputs.s0, head.index, K, V) : zeros(K, V)
      const z = inputs.z0 ? block(inputs.z0, head.index, 1, K).data : new Float64Array(K)
      for (const span of head.spans) {
        states?.data.set(S.data, span.index * K * V)
        zs?.data.set(z, span.index * K)
        clear(y, span.rows, transposed ? K : V)
        if (den) clear(den, span.rows, 1)
        for (const stretch of stretchesOf(inputs, span, sizes, round)) {
          if (stretch.fresh) for (const x of [S.data, z]) x.fill(0)
          const { O, N } = run(S, z, stretch.tokens)
          const d = N.map((x) => (zT ? x + eps : 1))
          const factor = d.map((x) => scale / x)
          scatter(y, stretch.rows, scaleRows(factor, O))
          if (den) scatter(den, stretch.rows, column(d))
        }
      }
      sT.data.set(S.data, head.index * K * V)
      zT?.data.set(z, head.index * K)
    }
  }

const forgets = ({ W }: Tokens): boolean => W.data.includes(0)

/**
 * A chunk multiplies with a decay of 0 what it forgets, and that may be infinite. From the first such token on the recurrent form takes over: not
 * before, since what comes must not count for a bit of what was.
 */
function chunked(S: Matrix, z: Vector, tokens: Tokens): { O: Matrix; N: Vector } {
  if (!forgets(tokens)) return chunk(S, z, tokens)
  const first = Math.floor(tokens.W.data.indexOf(0) / tokens.W.cols)
  const [before, after] = [chunk(S, z, rowsOf(tokens, 0, first)), recurrent(S, z, rowsOf(tokens, first, tokens.K.rows))]
  return {
    O: { ...before.O, rows: tokens.V.rows, data: Float64Array.of(...before.O.data, ...after.O.data) },
    N: Float64Array.of(...before.N, ...after.N),
  }
}

function rowsOf(tokens: Tokens, from: number, to: number): Tokens {
  const part = (a: Matrix): Matrix => ({ rows: to - from, cols: a.cols, data: a.data.slice(from * a.cols, to * a.cols) })
  const { Q, K, V, beta, W, A, along } = tokens
  const vectors = { Q: part(Q), K: part(K), V: part(V), W: part(W), A: A && part(A), along: along && part(along) }
  return { ...tokens, ...vectors, beta: beta.slice(from, to) }
}

/** With a normaliser y = scale O / den, so G = scale dy / den and g = -(dy . y) / den: dropping g is the classic mistake. */
const backward =
  (round: Rounding): FastWeightKernels['fastWeightsBackward'] =>
  (form, inputs, saved, { dy, dsT, dzT }, gradients, sizes) => {
    const { K, V, scale, gateWidth, transposed } = sizes
    const { dq, dk, dv, dbeta, dgate, derase, dalong } = gradients
    const run = form === 'chunk' ? chunkBackward : recurrentBackward
    for (const head of heads(sizes)) {
      const dS = dsT ? block(dsT, head.index, K, V) : zeros(K, V)
      const dz = dzT ? block(dzT, head.index, 1, K).data : new Float64Array(K)
      for (const span of head.spans.reverse()) {
        for (const [x, width] of [
          [dq, transposed ? V : K],
          [dk, K],
          [dv, V],
          [dbeta, 1],
          [dgate, gateWidth],
          [derase, K],
          [dalong, K],
        ] as const)
          if (x) clear(x, span.rows, width)
        for (const { rows, fresh, tokens } of stretchesOf(inputs, span, sizes, round).reverse()) {
          const S = fresh ? zeros(K, V) : block(saved.states, span.index, K, V)
          const z = fresh || !saved.zs ? new Float64Array(K) : block(saved.zs, span.index, 1, K).data
          const dY = gather(dy, rows, transposed ? K : V)
          const Y = saved.y && gather(saved.y, rows, V)
          const d = saved.den ? gather(saved.den, rows, 1).data : new Float64Array(rows.length).fill(1)
          const factor = d.map((x) => scale / x)
          const g = d.map((x, t) => (Y ? -dot(row(dY, t), row(Y, t)) / x : 0))
          const back = forgets(tokens) ? recurrentBackward : run
          const cotangents = { G: scaleRows(factor, dY), g }
          // sum_t G_t . S_t q_t is sum_t q_t . S_t^T G_t: the cotangents of a transposed read are queries of a plain one, and the queries its cotangents.
          const plain = transposed ? { ...tokens, Q: cotangents.G, transposed: false } : tokens
          const dQs = transposed ? (form === 'chunk' ? chunked : recurrent)(clone(S), z.slice(), plain).O : null
          const gradientsOf = back(S, z, dS, dz, plain, transposed ? { G: tokens.Q, g } : cotangents)
          const { dQ, dK, dV, dbeta: db, dW, dA, dAlong } = { ...gradientsOf, ...(dQs && { dQ: dQs }) }
          if (inputs.beta) {
            // a = diag(w) k
            addTo(dK.data, fade(tokens.W.data, dA.data))
            addTo(
              dW.data,
              dA.data.map((x, i) => (tokens.W.data[i] === 0 ? 0 : tokens.A!.data[i] * x)),
            )
            const slopes = sizes.logits && gather(inputs.beta, rows, 1).data.map((x) => sigmoid(x) * sigmoid(-x))
            scatter(dbeta!, rows, column(slopes ? times(db, slopes) : db))
          }
          if (fresh) for (const x of [dS.data, dz, row(dW, 0)]) x.fill(0)
          scatter(dq, rows, dQ)
          scatter(dk, rows, dK)
          scatter(dv, rows, dV)
          if (derase) scatter(derase, rows, dA)
          if (dalong) scatter(dalong, rows, dAlong)
          if (dgate) scatter(dgate, rows, gateWidth === K ? dW : column(db.map((_, t) => sum(row(dW, t)))))
        }
      }
      gradients.ds0?.data.set(dS.data, head.index * K * V)
      gradients.dz0?.data.set(dz, head.index * K)
    }
  }

/**
 * `round`: what operands of the products of the chunk form are rounded by, if by anything; the recurrent form, systems of equations and states aren't.
 */
export function fastWeightKernels(round?: (x: number) => number): FastWeightKernels {
  const rounding: Rounding = round ? (m) => ({ ...m, data: m.data.map((x) => round(x)) }) : exactly
  return { fastWeights: forward(rounding), fastWeightsBackward: backward(rounding) }
}

function checkGate({ gate, tokens }: FastWeightInputs<RefStorage>, { B, T, H, gateWidth }: FastWeightSizes): void {
  for (let i = 0; gate && i < B * T * H * gateWidth; i++)
    if (gate.data[i] > 0 && bitsOf(tokens, Math.floor(i / gateWidth), H) === tokenBits.token) throw new GateError(gate.data[i])
}

/** Of the token that a row of an array [B,T,H,*] belongs to. */
const bitsOf = (tokens: RefStorage | null, row: number, H: number): number => tokens?.data[Math.floor(row / H)] ?? tokenBits.token

// ---- where a head's rows and snapshots lie ------------------------------------------------------------------------------

/** C tokens of one head, fewer at the end: their rows in an array [B,T,H,*]. index counts snapshots over [B,H,ceil(T/C)]. */
interface Span {
  rows: number[]
  index: number
}

function heads({ B, T, H, C }: FastWeightSizes): { index: number; spans: Span[] }[] {
  const count = Math.ceil(T / C)
  return Array.from({ length: B * H }, (_, index) => ({
    index,
    spans: Array.from({ length: count }, (_, c) => ({
      rows: Array.from({ length: Math.min(C, T - c * C) }, (_, t) => (Math.floor(index / H) * T + c * C + t) * H + (index % H)),
      index: index * count + c,
    })),
  }))
}

/** Tokens of a span, without padding. All but the first of a span are fresh, so what is kept of the states at a span's start is enough. */
interface Stretch {
  rows: number[]
  /** A sequence begins: the state before it is 0, whatever it was. */
  fresh: boolean
  tokens: Tokens
}

/** A span cut where sequences begin; the last stretch may have no rows. */
function stretchesOf(inputs: FastWeightInputs<RefStorage>, span: Span, sizes: FastWeightSizes, round: Rounding): Stretch[] {
  const { H, K, V, gateWidth, transposed, logits } = sizes
  const { q, k, v, beta, gate, erase, along, tokens } = inputs
  const pieces: Pick<Stretch, 'rows' | 'fresh'>[] = [{ rows: [], fresh: false }]
  for (const at of span.rows) {
    const bits = bitsOf(tokens, at, H)
    if (bits & tokenBits.begins) pieces.push({ rows: [], fresh: true })
    if (bits & tokenBits.token) pieces.at(-1)!.rows.push(at)
  }
  return pieces.map(({ rows, fresh }) => {
    const keys = gather(k, rows, K)
    const decays = gate && gather(gate, rows, gateWidth)
    const W = { rows: rows.length, cols: K, data: new Float64Array(rows.length * K).fill(1) }
    for (let t = 0; decays && t < rows.length; t++) {
      if (bitsOf(tokens, rows[t], H) & tokenBits.begins) continue
      for (let i = 0; i < K; i++) W.data[t * K + i] = Math.exp(decays.data[gateWidth === 1 ? t : t * K + i])
    }
    const A = erase ? gather(erase, rows, K) : beta ? { ...keys, data: fade(W.data, keys.data) } : null
    const given = beta ? gather(beta, rows, 1).data : new Float64Array(rows.length).fill(1)
    const betas = beta && logits ? given.map(sigmoid) : given
    const Q = gather(q, rows, transposed ? V : K)
    const vectors = { Q, K: keys, V: gather(v, rows, V), W, A, along: along && gather(along, rows, K) }
    return { rows, fresh, tokens: { ...vectors, beta: betas, transposed, round, roundPairs: gate || tokens ? exactly : round } }
  })
}

function gather(x: RefStorage, rows: readonly number[], cols: number): Matrix {
  const m = zeros(rows.length, cols)
  for (let t = 0; t < rows.length; t++) {
    for (let i = 0; i < cols; i++) m.data[t * cols + i] = x.data[rows[t] * cols + i]
  }
  return m
}

function scatter(x: RefStorage, rows: readonly number[], { cols, data }: Matrix): void {
  for (let t = 0; t < rows.length; t++) {
    for (let i = 0; i < cols; i++) x.data[rows[t] * cols + i] = data[t * cols + i]
  }
}

function clear(x: RefStorage, rows: readonly number[], cols: number): void {
  for (const at of rows) x.data.fill(0, at * cols, (at + 1) * cols)
}

const block = (x: RefStorage, index: number, rows: number, cols: number): Matrix => ({
  rows,
  cols,
  data: new Float64Array(x.data.subarray(index * rows * cols, (index + 1) * rows * cols)),
})

// ---- small row-major matrices -------------------------------------------------------------------------------------------

const zeros = (rows: number, cols: number): Matrix => ({ rows, cols, data: new Float64Array(rows * cols) })
const column = (data: Vector): Matrix => ({ rows: data.length, cols: 1, data })
const clone = (a: Matrix): Matrix => ({ ...a, data: a.data.slice() })
const row = (a: Matrix, i: number): Vector => a.data.subarray(i * a.cols, (i + 1) * a.cols)

// Views cost more than what is done with short rows, so the innermost loops go without.

/** dot(row(a, i), row(b, j)). */
function dotRows(a: Matrix, i: number, b: Matrix, j: number): number {
  const { cols, data: x } = a
  const y = b.data
  const ofX = i * cols
  const ofY = j * b.cols
  let total = 0
  for (let l = 0; l < cols; l++) total += x[ofX + l] * y[ofY + l]
  return total
}

/** addTo(row(y, i), row(x, j), a). */
function addRow(y: Matrix, i: number, x: Matrix, j: number, a: number): void {
  const { cols, data: to } = y
  const from = x.data
  const ofY = i * cols
  const ofX = j * x.cols
  for (let l = 0; l < cols; l++) to[ofY + l] += a * from[ofX + l]
}

function build(rows: number, cols: number, at: (i: number, j: number) => number): Matrix {
  const m = zeros(rows, cols)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) m.data[i * cols + j] = at(i, j)
  }
  return m
}

function sum(a: Vector): number {
  let total = 0
  for (let i = 0; i < a.length; i++) total += a[i]
  return total
}

function dot(a: Vector, b: Vector): number {
  let total = 0
  for (let i = 0; i < a.length; i++) total += a[i] * b[i]
  return total
}

/** y += a x. */
function addTo(y: Vector, x: Vector, a = 1): void {
  for (let i = 0; i < y.length; i++) y[i] += a * x[i]
}

function times(a: Vector, b: Vector): Vector {
  const c = new Float64Array(a.length)
  for (let i = 0; i < a.length; i++) c[i] = a[i] * b[i]
  return c
}

/** w x, of which a decay of 0 leaves nothing, be x infinite. */
const faded = (w: number, x: number): number => (w === 0 ? 0 : w * x)
function fade(w: Vector, x: Vector): Vector {
  const y = new Float64Array(x.length)
  for (let i = 0; i < x.length; i++) y[i] = faded(w[i], x[i])
  return y
}

/** S <- diag(w) S. */
function scaleBy({ rows, cols, data }: Matrix, w: Vector): void {
  for (let i = 0, at = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++, at++) data[at] = faded(w[i], data[at])
  }
}

/** Clears the channels that forget what they hold and aren't read before. */
function clearUnread({ rows, cols, data }: Matrix, w: Vector, a: Vector | null): void {
  for (let i = 0; i < rows; i++) if (w[i] === 0 && (a === null || a[i] === 0)) data.fill(0, i * cols, (i + 1) * cols)
}

/** S^T q. */
function read({ rows, cols, data }: Matrix, q: Vector): Vector {
  const y = new Float64Array(cols)
  for (let i = 0, at = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++, at++) y[j] += q[i] * data[at]
  }
  return y
}

/** S g. */
function apply({ rows, cols, data }: Matrix, g: Vector): Vector {
  const y = new Float64Array(rows)
  for (let i = 0, at = 0; i < rows; i++) {
    let total = 0
    for (let j = 0; j < cols; j++, at++) total += data[at] * g[j]
    y[i] = total
  }
  return y
}

/** S += a k v^T. */
function addOuter({ rows, cols, data }: Matrix, k: Vector, v: Vector, a: number): void {
  for (let i = 0, at = 0; i < rows; i++) {
    const x = a * k[i]
    for (let j = 0; j < cols; j++, at++) data[at] += x * v[j]
  }
}

function transpose({ rows, cols, data }: Matrix): Matrix {
  const m = zeros(cols, rows)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) m.data[j * rows + i] = data[i * cols + j]
  }
  return m
}

/** x + a y, of which a is 1 or -1. */
function combined(x: Matrix, y: Matrix, a: number): Matrix {
  const m = clone(x)
  addTo(m.data, y.data, a)
  return m
}
const add = (a: Matrix, b: Matrix): Matrix => combined(a, b, 1)
const sub = (a: Matrix, b: Matrix): Matrix => combined(a, b, -1)

function scaleRows(d: Vector, a: Matrix): Matrix {
  const m = zeros(a.rows, a.cols)
  for (let i = 0, at = 0; i < a.rows; i++) {
    for (let j = 0; j < a.cols; j++, at++) m.data[at] = d[i] * a.data[at]
  }
  return m
}
const addColumn = (a: Matrix, g: Vector): Matrix => build(a.rows, a.cols, (i, j) => a.data[i * a.cols + j] + g[i])
/** Keeps entries (i, j) with j <= i + diagonal. */
const tril = (a: Matrix, diagonal: number): Matrix => build(a.rows, a.cols, (i, j) => (j <= i + diagonal ? a.data[i * a.cols + j] : 0))

/** A B of operands rounded so. */
function mul(left: Matrix, right: Matrix, round: Rounding): Matrix {
  const [a, b] = [round(left), round(right)]
  const c = zeros(a.rows, b.cols)
  for (let i = 0; i < a.rows; i++) {
    for (let l = 0; l < a.cols; l++) addRow(c, i, b, l, a.data[i * a.cols + l])
  }
  return c
}

/** P U for a lower triangular P: token i never touches the rows after it, so that not even a NaN there reaches it. */
function mulLower(lower: Matrix, right: Matrix, round: Rounding): Matrix {
  const [P, U] = [round(lower), round(right)]
  const c = zeros(P.rows, U.cols)
  for (let i = 0; i < P.rows; i++) {
    for (let l = 0; l <= i; l++) addRow(c, i, U, l, P.data[i * P.cols + l])
  }
  return c
}

/** X with (I + L) X = R, L strictly lower. */
function solveUnitLower(L: Matrix, R: Matrix): Matrix {
  const X = clone(R)
  for (let i = 0; i < X.rows; i++) {
    for (let j = 0; j < i; j++) addRow(X, i, X, j, -L.data[i * L.cols + j])
  }
  return X
}

/** X with (I + L)^T X = R, L strictly lower. */
function solveUnitLowerTransposed(L: Matrix, R: Matrix): Matrix {
  const X = clone(R)
  for (let j = X.rows - 1; j >= 0; j--) {
    for (let i = j + 1; i < X.rows; i++) addRow(X, j, X, i, -L.data[i * L.cols + j])
  }
  return X
}
