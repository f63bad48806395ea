/**
 * The table of kernels: everything a device must be able to do, and nothing else.
 *
 * A device implements the whole table (`Kernels<ItsOwnStorage>`), so a kernel missing on one device does not compile.
 * Kernels know nothing of tensors or gradients: they take storages, sizes and strides (counted in elements), all arrays
 * are dense and row-major unless strides say otherwise, and every output is written completely (never read before) unless
 * the comment says that it accumulates. An output never overlaps an input unless the comment allows it.
 *
 * Letters: B batch, H heads, T time, D model width, K key width, V value width, C chunk, N classes, R rows.
 */
import type { HalfType } from '../half.ts'

/**
 * What is special, in every kernel and on every device:
 *
 * - NaN in, NaN out, in values and gradients: f(NaN) is NaN, and so is f'(NaN) dy where f' depends on x (of `neg`, `add` and other linear
 *   functions it doesn't), for relu, abs, max and min, too. A NaN makes the maximum of its row NaN, its softmax and its cross-entropy
 *   (unless the target is ignored), its norm, its sum, and a running sum from there on. Compared with a NaN nothing is equal or
 *   greater: 0. `adam` passes a NaN gradient on to p, m and v of that element, which then stay NaN. Only what isn't looked at gets lost:
 *   entries beyond a causal mask, rows of a table that no index names, what dropout drops.
 * - At -Infinity and Infinity value and gradient are the limits, where there are any: gelu(-Infinity) = 0, gelu'(Infinity) = 1;
 *   sin(Infinity) is NaN. log'(0), sqrt'(0) are Infinity. A row of softmax whose entries are all -Infinity is NaN.
 * - max(-0, 0) is 0, min(-0, 0) is -0; otherwise the sign of a zero isn't promised. It can't be on webgpu: WGSL lets a shader ignore it (15.7.2, differences
 *   from IEEE 754). Elsewhere, too, what adds up to 0 has the sign that the order of the terms gives it: of the recurrences that is another one in each form, as in
 *   v - S^T a from v = -0, of which a kernel takes away terms one by one, and the reference their sum.
 * - A float32 device may give 0 for what is nearer to 0 than 2^-125, and webgpu may read a denormal number (below 2^-126) as 0. In a net's matrix that
 *   decays, and in its cotangents, wasm may give 0 for what is nearer to 0 than 2^-56.
 */
export const unaryOps = [
  'neg',
  'abs',
  'exp',
  'log',
  'sqrt',
  'square',
  'reciprocal',
  'sin',
  'cos',
  'sigmoid',
  'tanh',
  'relu',
  'elu',
  'silu',
  'gelu',
  'softplus',
] as const
/** `elu` has alpha 1; `gelu` is the tanh approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); `softplus` has beta 1. */
export type UnaryOp = (typeof unaryOps)[number]

/** The elementwise ops of two arguments that a device has kernels for. */
export const binaryOps = ['add', 'sub', 'mul', 'div', 'max', 'min', 'equal', 'greater'] as const
/** `equal` and `greater` give 1 or 0; NaN is neither. */
export type BinaryOp = (typeof binaryOps)[number]

/** `sum` or `max` over the middle axis of [outer, n, inner]. */
export type ReduceOp = 'sum' | 'max'

/**
 * Row normalisations y = (x - mean) * scale over the last axis of [R, n]; `mean` is 0 except for `layer`.
 * scale: layer 1/sqrt(var + eps), rms 1/sqrt(mean(x^2) + eps), l2 1/sqrt(sum(x^2) + eps), sum 1/(sum(x) + eps).
 */
export const normKinds = ['layer', 'rms', 'l2', 'sum'] as const
export type NormKind = (typeof normKinds)[number]

/** Numbers that are asked for whenever a kernel runs: they may be others each time a captured step is replayed (engine/capture.ts). */
export type Now<T> = () => T

export interface MatmulSizes {
  /** Number of products; operand strides between them, in elements (0 repeats the same operand). */
  batch: number
  strideA: number
  strideB: number
  /** C[M,N] = A[M,K] B[K,N]. */
  M: number
  N: number
  K: number
  /** A is stored [K,M] instead of [M,K]; B is stored [N,K] instead of [K,N]. */
  transposeA: boolean
  transposeB: boolean
  /** An entry of A that is exactly 0 takes nothing from B, whatever that holds, NaN and Infinity included: the weights of what isn't seen. */
  sparse: boolean
  /** Add the product to what C holds instead of overwriting it. */
  accumulate: boolean
  /** Applied last: C = activation(product [+ C] [+ bias]). */
  activation: UnaryOp | null
  /** B holds numbers of 16 bits, as `halfMatrices` wrote them. Only one matrix (strideB 0), stored transposed, and not beside a sparse A. */
  halfB?: HalfType
}

/** A [M,K] B [K,N]; A is stored [K,M], B [N,K], where they are transposed. */
export interface Term<S> {
  a: S
  b: S
  K: number
  transposeA: boolean
  transposeB: boolean
}

/** C = activation(sum of the terms [+ C] [+ bias]), [M,N]; at least one term. */
export interface Product<S> {
  c: S
  M: number
  N: number
  terms: readonly Term<S>[]
  /** Add the terms to what C holds instead of overwriting it. */
  accumulate?: boolean
  /** [N], added to each row. */
  bias?: S | null
  activation?: UnaryOp | null
  /** [M], written: the sum of each row of the first term's A, which is stored transposed. */
  sums?: S | null
  /** The sum goes on times op'(x), y = op(x) being a [M,N] of which only y is known: see `unaryBackward`. Never with a bias or an activation. */
  gate?: { op: UnaryOp; y: S } | null
}

/** Of a causal convolution, and what the same kernel makes of it. */
export interface ConvSizes {
  B: number
  T: number
  D: number
  /** Taps. */
  W: number
  /** Whether silu comes next. */
  silu: boolean
  /** So many neighbours of a row together, a divisor of D, are then divided by the root of the sum of their squares + eps, as `norm` l2 does; 0: they aren't. */
  width: number
  eps: number
}

/** One step of Adam, as its kernel is asked for it. */
export interface AdamOptions {
  /** Learning rate. */
  lr: number
  /** Decay of the mean of gradients. */
  beta1: number
  /** Decay of the mean of their squares. */
  beta2: number
  /** Added to the root of that mean. */
  eps: number
  weightDecay: number
  /** true: AdamW (p -= lr * weightDecay * p); false: weight decay is added to the gradient. */
  decoupled: boolean
  /** Nothing changes where gradScale[0] isn't above 0, as where it is NaN: the step is left out. Only beside a gradScale. */
  guarded?: boolean
  /** 1 - beta1^t and 1 - beta2^t for the step t being taken, from 1. */
  correction1: number
  correction2: number
}

/** A parameter of n elements with its gradient and moments. */
export interface AdamSlot<S> {
  p: S
  g: S
  m: S
  v: S
  n: number
}

/** One step of Muon's momentum, decay and update, as its kernel is asked for it. */
export interface MuonOptions {
  /** Learning rate. */
  lr: number
  /** Decay of the momentum, in [0, 1). A captured step keeps the one that it began with. */
  momentum: number
  /** Decoupled: p -= lr * weightDecay * p. */
  weightDecay: number
  /** As in AdamOptions. */
  guarded?: boolean
}

/** A matrix with its gradient and momentum: [R,C], or stored transposed, [C,R], where `tall`. */
export interface MuonSlot<S> {
  p: S
  g: S
  m: S
  tall: boolean
}

/**
 * Of Muon (Jordan 2024): the coefficients of a x + b x^3 + c x^5, whose iteration drives singular values from (0, 1] to about 1; eps keeps the
 * norm that a matrix is divided by from 0.
 */
export const quintic = { a: 3.4445, b: -4.775, c: 2.0315, iterations: 5, eps: 1e-7 }

/** The recurrence is run token by token, or in chunks of C tokens as small matrix products. Same result up to rounding. */
export type KernelForm = 'recurrent' | 'chunk'

export interface FastWeightSizes {
  B: number
  T: number
  H: number
  K: number
  V: number
  /** Chunk length, 1 <= C. Snapshots of the state are stored every C tokens in both forms. */
  C: number
  /** y_t = scale * S_t^T q_t (then divided by the normaliser, where there is one). */
  scale: number
  /** Values of the gate for each token and head: 1, or K (one for each key channel). Means nothing without a gate. */
  gateWidth: number
  /** Added to the normaliser's denominator. */
  eps: number
  /** The read is the state's transpose's, y_t = scale * S_t q_t: q and dq are [B,T,H,V], y and dy [B,T,H,K]. Never with a normaliser. */
  transposed: boolean
  /** What is given as beta are numbers whose sigmoids it is, and dbeta is theirs. */
  logits?: boolean
}

/**
 * q, k, erase, along: [B,T,H,K]; v: [B,T,H,V]; beta: [B,T,H]; gate: [B,T,H,gateWidth], logarithms <= 0; s0: [B,H,K,V]; z0: [B,H,K]. s0, z0 null: zero.
 * along: only beside erase, without a normaliser and a transposed read.
 * tokens: int32 [B,T], what `tokenBits` say of each; null: all are tokens of one sequence.
 */
export interface FastWeightInputs<S> {
  q: S
  k: S
  v: S
  beta: S | null
  gate: S | null
  erase: S | null
  along: S | null
  tokens: S | null
  s0: S | null
  z0: S | null
}

/** `token`: it is one (clear: padding). `begins`: a new sequence begins there (also where that is padding). */
export const tokenBits = { token: 1, begins: 2 } as const

/**
 * y: [B,T,H,V]; sT: [B,H,K,V]; with a normaliser zT: [B,H,K] and den: [B,T,H], z_t . q_t + eps. Kept for the backward (null: inference):
 * states [B,H,ceil(T/C),K,V], the states at the start of each chunk, and zs [B,H,ceil(T/C),K] likewise.
 */
export interface FastWeightOutputs<S> {
  y: S
  sT: S
  zT: S | null
  den: S | null
  states: S | null
  zs: S | null
}

/** What the backward needs of the outputs; y, den and zs exactly where there is a normaliser. */
export interface FastWeightSaved<S> {
  y: S | null
  den: S | null
  states: S
  zs: S | null
}

/** Cotangents of y, sT, zT; null: zero. */
export interface FastWeightCotangents<S> {
  dy: S
  dsT: S | null
  dzT: S | null
}

/** Of each input; null where there is no such input. */
export interface FastWeightGradients<S> {
  dq: S
  dk: S
  dv: S
  dbeta: S | null
  dgate: S | null
  derase: S | null
  dalong: S | null
  ds0: S | null
  dz0: S | null
}

/** What `fastWeights` throws where a gate is above 0. */
export class GateError extends Error {
  override name = 'GateError'
  /** What the gate holds. */
  readonly value: number
  constructor(
    value: number,
    message = `fastWeights: the gate holds ${value}; gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)`,
  ) {
    super(message)
    this.value = value
  }
}

/** See `aft`. */
export interface AftSizes {
  B: number
  /** Rows of keys and values of each sequence. The last n - past of them are queries, too. */
  n: number
  past: number
  D: number
  /** s: a bias counts where the places of query and key are less than s apart. */
  window: number
  /** Whether a query sees only itself and the keys before it. */
  causal: boolean
  /** none; a table [N,N] of a query's and a key's place, both less by as much as the query's exceeds N - 1; or taps, [s,D] for keys 0, 1, ... places back, not causal [2 s - 1, D] from s - 1 places ahead on. */
  bias: 'none' | 'table' | 'taps'
  N: number
}

/**
 * What a recurrent net's program is made of; engine/nets/program.ts writes programs, and says what each is for. Registers hold what a token
 * computes. M is the matrix at `b`, of `c` rows: a slow one where d is 1, else a fast one, where e is 1 as the token has written it.
 *
 *     input      r = x_t[a ...]                      unary    r = unaryOps[b](a)
 *     state      r = the state at a                  softmax  r = e^(a - max a) / (sum of that + x), the maximum taken for a constant
 *     parameter  r = the slow parameters at a        norm     r = a normalised by normKinds[b], with x for eps
 *     read       r = a M (row times matrix)          slice    r = a[b ...]
 *     add, sub, mul  r = a + b, a - b, a * b         concat   r = a, c numbers, and after them b
 *     affine     r = x a + z                         next     the state at `to` will be a
 *     times      r = the number b times a            output   y_t[to ...] = a
 *     dot        r = a . b, over c numbers
 *     write      the fast matrix at `to`, of c rows: f(l M + a b^T), l = x, or the number in register d where that is not -1;
 *                f = unaryOps[e], the identity where e is -1
 */
export const netOps = [
  'input',
  'state',
  'parameter',
  'read',
  'write',
  'add',
  'sub',
  'mul',
  'affine',
  'times',
  'dot',
  'unary',
  'softmax',
  'norm',
  'slice',
  'concat',
  'next',
  'output',
] as const
export type NetOp = (typeof netOps)[number]

/** See `netOps`. */
export interface NetInstruction {
  readonly op: NetOp
  readonly to: number
  readonly n: number
  readonly a: number
  readonly b: number
  readonly c: number
  readonly d: number
  readonly e: number
  readonly x: number
  readonly z: number
}

/**
 * Words of an instruction: the index of its op, the register `to` that it sets, that one's width n, a to e, and the bits of the float32 x, z.
 * Registers count in floats, in a file where each begins at a multiple of 4.
 */
export const netWords = 10
/**
 * Words of a part: a vector (one row) or matrix of the state, or of the slow parameters: where it begins in arrays [.., S] or [.., P], rows,
 * columns, and where it begins in memory that has rows of a multiple of 4 floats, and four rows or a multiple to a matrix.
 */
export const partWords = 4

export interface NetSizes {
  B: number
  T: number
  H: number
  /** Numbers a token and head of x, of y; a head of the state, of the slow parameters. */
  I: number
  O: number
  S: number
  P: number
  /** Snapshots of the state are stored every C tokens. */
  C: number
  /** In the program: parts of the state, of the slow parameters. */
  stateParts: number
  slowParts: number
  /** The program's, in their order. */
  instructions: readonly NetInstruction[]
  /** Floats of the registers, and of a state and the slow parameters as `partWords` says. */
  registers: number
  stateFloats: number
  slowFloats: number
}

/**
 * program: int32, parts of the state, parts of the slow parameters, instructions. x: [B,T,H,I]; parameters: [H,P], null where P is 0;
 * fresh: [H,S], the state that a sequence begins with, null: zeros; s0: [B,H,S], null: fresh; tokens: as in FastWeightInputs.
 */
export interface NetInputs<S> {
  program: S
  x: S
  parameters: S | null
  fresh: S | null
  s0: S | null
  tokens: S | null
}

/**
 * What a device computes: every kernel reads and writes memory of type S, which the device lends. Sizes come beside it; that they fit
 * isn't checked here.
 */
export interface Kernels<S> {
  // ---- elementwise -------------------------------------------------------------------------------------------------
  /** y[0..n) = value. */
  fill(y: S, n: number, value: number): void
  /** y = scale * x + shift. y may be x. */
  affine(x: S, y: S, n: number, scale: number, shift: number): void
  /** y += x. */
  accumulate(x: S, y: S, n: number): void
  /** y = op(x), element by element. */
  unary(op: UnaryOp, x: S, y: S, n: number): void
  /** dx = dy * op'(x), where y = op(x). For neg, exp, sqrt and relu the caller may have y only, and give it for x too. dx may be dy. */
  unaryBackward(op: UnaryOp, x: S, y: S, dy: S, dx: S, n: number): void
  /** y[i] = a[i] op b[i] over `shape` (of any rank); y is dense, a stride of 0 broadcasts. */
  binary(op: BinaryOp, a: S, b: S, y: S, shape: readonly number[], stridesA: readonly number[], stridesB: readonly number[]): void

  /**
   * Of y[r,:] = s[r mod P] x[r,:], rows of [R,n], P a divisor of R: dx[r,:] = s[r mod P] dy[r,:] and ds[p], the sum of dy x over the rows r with
   * r mod P = p, each where asked for.
   */
  scaleBackward(x: S, s: S, dy: S, dx: S | null, ds: S | null, R: number, P: number, n: number): void

  // ---- movement ----------------------------------------------------------------------------------------------------
  /** y[offsetY + i . stridesY] = x[offsetX + i . stridesX] over `shape` (of any rank): permute, slice, concat, roll, expand. Strides may be negative or, on x, 0. */
  copy(
    x: S,
    y: S,
    shape: readonly number[],
    stridesX: readonly number[],
    offsetX: number,
    stridesY: readonly number[],
    offsetY: number,
  ): void
  /** y[i] = x[i] over `shape` (of any rank) where the int32 condition[i] isn't 0; elsewhere y keeps what it holds. y is dense, a stride of 0 broadcasts. */
  copyWhere(condition: S, x: S, y: S, shape: readonly number[], stridesC: readonly number[], stridesX: readonly number[]): void
  /** y[r, :] = table[index[r], :] for r in [0, R); table is [N, D], of numbers of 16 bits where `half` says so. The engine has checked the indices. */
  gather(table: S, index: S, y: S, R: number, N: number, D: number, half?: HalfType): void
  /** y[index[r], :] = x[r, :] for r in [0, R), rows of D; other rows of y keep what they hold. The engine has checked the indices, but that no two are alike, which is the caller's to see to. */
  scatter(x: S, index: S, y: S, R: number, D: number): void
  /** dtable[n, :] = sum of dy[r, :] over the rows with index[r] = n, added in the order of r (writes all of [N, D]). */
  gatherBackward(dy: S, index: S, dtable: S, R: number, N: number, D: number): void

  // ---- reductions --------------------------------------------------------------------------------------------------
  /** [outer, n, inner] -> [outer, inner]. */
  reduce(op: ReduceOp, x: S, y: S, outer: number, n: number, inner: number): void
  /** Inclusive running sum along the middle axis of [outer, n, inner]; from the end if `reverse`. */
  cumsum(x: S, y: S, outer: number, n: number, inner: number, reverse: boolean): void

  // ---- matmul ------------------------------------------------------------------------------------------------------
  /** bias: [N], added to each row. start, with `accumulate`: what the product is added to, like C, instead of what C holds. */
  matmul(a: S, b: S, bias: S | null, c: S, sizes: MatmulSizes, start?: S): void

  /** Products that don't need each other. No C, nor sums, is an operand of any. */
  products(list: readonly Product<S>[]): void

  // ---- normalisation and softmax ---------------------------------------------------------------------------------
  /** y = (x - mean) * scale [* gain] [+ bias] row by row over [R, n]; stats is [R, 2] = (mean, scale), kept for the backward. gain, bias: [n]. */
  norm(kind: NormKind, x: S, gain: S | null, bias: S | null, y: S, stats: S, R: number, n: number, eps: number): void
  /**
   * Of `norm`, what is asked for: dx, added to what it holds with `accumulate`; dgain[j] = sum_r dy[r,j] (x[r,j] - mean_r) scale_r;
   * dbias[j] = sum_r dy[r,j].
   */
  normBackward(
    kind: NormKind,
    x: S,
    gain: S | null,
    stats: S,
    dy: S,
    gradients: { dx: S | null; dgain?: S | null; dbias?: S | null },
    R: number,
    n: number,
    accumulate: boolean,
  ): void
  /**
   * Row softmax (or its logarithm, `log`) over [R, n]. causal = T > 0: row r is query r mod T of T and sees only the first
   * n - T + (r mod T) + 1 entries; the others get exactly 0 (not allowed with `log`). causal = 0: no mask.
   */
  softmax(x: S, y: S, R: number, n: number, log: boolean, causal: number): void
  /**
   * softmax: dx = y (dy - sum(dy y)), where an entry with y exactly 0 takes no part, whatever its dy: its dx is 0. log-softmax:
   * dx = dy - exp(y) sum(dy).
   */
  softmaxBackward(y: S, dy: S, dx: S, R: number, n: number, log: boolean): void
  /** loss[r] = lse[r] - logits[r, target[r]], lse = log sum exp; 0 where target[r] = ignore. */
  crossEntropy(logits: S, target: S, loss: S, lse: S, R: number, N: number, ignore: number): void
  /** dlogits[r, :] = (exp(logits[r, :] - lse[r]) - onehot(target[r])) * dloss[r]; 0 where target[r] = ignore. */
  crossEntropyBackward(logits: S, target: S, lse: S, dloss: S, dlogits: S, R: number, N: number, ignore: number): void

  // ---- sequence ----------------------------------------------------------------------------------------------------
  /**
   * Causal depthwise convolution: sum_{j<W} w[d,j] x[b, t-W+1+j, d], and what `sizes` says of it; what lies before t = 0 is state [B,W-1,D], or 0 if null.
   * x, y: [B,T,D]; w: [D,W]; next: [B,W-1,D], the last inputs, where asked for. Kept for the backward (null: inference), sums [B,T,D] where there is silu;
   * stats: [B T D / width, 2] as `norm` leaves them, null without a width.
   */
  conv(x: S, w: S, state: S | null, outputs: { y: S; next: S | null; sums: S | null; stats: S | null }, sizes: ConvSizes): void
  /** dx, dw (written, not accumulated) and, if state was given, dstate. saved: y and stats where there is a width, sums where there is silu. */
  convBackward(
    x: S,
    w: S,
    state: S | null,
    saved: { y: S; sums: S | null; stats: S | null },
    dy: S,
    gradients: { dx: S; dw: S; dstate: S | null },
    sizes: ConvSizes,
  ): void
  /** DPFP-nu without its normalisation: r = relu([x, -x]) (2D wide); y = concat_{i=1..nu} r * roll(r, i), roll(r, i)[j] = r[j - i]. x: [R,D]; y: [R, 2 D nu]. Schlag 2021, eq. 37. */
  dpfp(x: S, y: S, R: number, D: number, nu: number): void
  /** dx from dy, x: [R,D], dy: [R, 2 D nu]; written, not accumulated. */
  dpfpBackward(x: S, dy: S, dx: S, R: number, D: number, nu: number): void
  /** Of each: `dpfp`, and then `norm` of each row by its sum, which leaves stats [R, 2]. */
  dpfpSum(list: readonly { x: S; y: S; stats: S }[], R: number, D: number, nu: number, eps: number): void
  dpfpSumBackward(list: readonly { x: S; stats: S; dy: S; dx: S }[], R: number, D: number, nu: number): void

  // ---- decays ------------------------------------------------------------------------------------------------------
  /** y[r,j] = -e^rate[j / width] softplus(a[r,j] + shift[j]); a, y: [R,n]; rate: [n / width]; shift: [n]. */
  decay(a: S, rate: S, shift: S, y: S, R: number, n: number, width: number): void
  /** drate, of each channel, and dshift: [n]; the sums over the rows of dy y and of da. */
  decayBackward(a: S, rate: S, shift: S, dy: S, gradients: { da: S; drate: S; dshift: S }, R: number, n: number, width: number): void

  // ---- random ------------------------------------------------------------------------------------------------------
  /**
   * Element i of the stream (key0, key1): (x0, x1) = threefry2x32-20(key, counter (i, 0)).
   * uniform: a + (b - a) u, u = (x0 >>> 8) 2^-24 (exact in float32). normal: a + b sqrt(-2 ln u1) cos(2 pi u2), u1 = ((x0 >>> 8) + 1) 2^-24, u2 = (x1 >>> 8) 2^-24.
   */
  random(kind: 'uniform' | 'normal', y: S, n: number, key0: number, key1: Now<number>, a: number, b: number): void
  /** y[i] = u_i < p ? 0 : x[i] / (1 - p), with u_i the uniform above. Its own backward, with dy for x. */
  dropout(x: S, y: S, n: number, p: number, key0: number, key1: Now<number>): void

  // ---- optimiser ---------------------------------------------------------------------------------------------------
  /** y[0] = the root of the sum of the squares of the n elements of each x. */
  gradNorm(xs: readonly { x: S; n: number }[], y: S): void
  /** One Adam or AdamW step of each slot, in place; gradients are multiplied by gradScale[0] where given (clipping without a read-back). */
  adam(slots: readonly AdamSlot<S>[], gradScale: S | null, options: Now<AdamOptions>): void
  /**
   * One Muon step of each slot, in place (Jordan 2024), R <= C: with g' = gradScale[0] g, m = momentum m + g', X = g' + momentum m, then
   * Y = X / (|X| + eps), `iterations` times Y <- a Y + (b A + c A^2) Y with A = Y Y^T, the numbers of `quintic`, and
   * p = (1 - lr weightDecay) p - lr s Y; s is the root of C / R for a tall matrix, else 1. |X| is the Euclidean norm of all elements.
   */
  muon(slots: readonly MuonSlot<S>[], R: number, C: number, gradScale: S | null, options: Now<MuonOptions>): void

  // ---- fast weights ------------------------------------------------------------------------------------------------
  /**
   * S_t = diag(w_t) S_{t-1} + k_t u_t^T, y_t = scale S_t^T q_t; w_t = exp(gate_t), 1 without a gate; u_t is
   *
   *     v_t                                          without beta and erase (sum rule, linear attention: Katharopoulos 2020, eq. 16-20)
   *     beta_t (v_t - S_{t-1}^T diag(w_t) k_t)       with beta: what the decayed state holds for k_t is corrected (delta rule: Schlag 2021,
   *                                                  eq. 24-25; gated: Yang 2024; gateWidth K: Kimi 2025)
   *     v_t - S_{t-1}^T erase_t                      with erase: the state is read before it decays
   *
   * At most one of beta and erase is given. With zT, which goes with neither: z_t = diag(w_t) z_{t-1} + k_t, den_t = z_t . q_t + eps,
   * y_t = scale S_t^T q_t / den_t. A gate above 0 is a GateError; NaN makes NaN of what its channels hold until they forget. Where kernels run later
   * than they are called, the next read throws that error; by then what changes memory in place (`affine` where y is x, `accumulate`,
   * `adam`, `muon`) has done nothing, and what else was called has computed from what the gate held.
   *
   * Nothing gets past these, Infinity and NaN included, in either form and whatever C is; a cotangent doesn't get back past them:
   *
   *     padding      leaves S and z as they are, to the bit. What its inputs and its dy hold, its gate too, is never looked at. Its y and den
   *                  and the gradients of its inputs are 0.
   *     a beginning  S and z before it are 0, whatever they were, and so are their cotangents. Its gate is never looked at; dgate is 0.
   *     w = 0        (a gate of -Infinity, or one whose exp is 0 on this device) the channel is 0, whatever it held, and so is its
   *                  cotangent; dgate is 0. `erase` reads it before: nothing where erase is 0, else what is there. derase is -S_{t-1} dv_t
   *                  in any case.
   */
  fastWeights(form: KernelForm, inputs: FastWeightInputs<S>, outputs: FastWeightOutputs<S>, sizes: FastWeightSizes): void
  /** inputs, form and sizes as in the forward call. dgate: d/d log w_t. */
  fastWeightsBackward(
    form: KernelForm,
    inputs: FastWeightInputs<S>,
    saved: FastWeightSaved<S>,
    cotangents: FastWeightCotangents<S>,
    gradients: FastWeightGradients<S>,
    sizes: FastWeightSizes,
  ): void

  // ---- attention free transformer ------------------------------------------------------------------------------------
  /**
   * y_t = sum_j p_tj v_j, p_tj = exp(k_j + w_tj - lse_t), lse_t = log sum_j exp(k_j + w_tj), channel by channel, over the keys j of t's own sequence, with
   * causal those up to t; w is a bias within the window and 0 outside (Zhai 2021, eq. 2-4, without the query's sigmoid). k, v: [B,n,D]; y, lse: [B,n-past,D];
   * places: int32 [B,n], a row's place in its sequence; below 0: it isn't there (y is 0, lse has no meaning), 0: a sequence begins. Keys that a query
   * doesn't see never reach it, whatever they hold.
   */
  aft(k: S, v: S, w: S | null, places: S, y: S, lse: S, sizes: AftSizes): void
  /** dw is written, not accumulated; null where there is no w. dlse null: zero. */
  aftBackward(
    k: S,
    v: S,
    w: S | null,
    places: S,
    saved: { y: S; lse: S },
    cotangents: { dy: S; dlse: S | null },
    gradients: { dk: S; dv: S; dw: S | null },
    sizes: AftSizes,
  ): void

  // ---- recurrent nets --------------------------------------------------------------------------------------------------
  /**
   * Runs a net's program token by token. y: [B,T,H,O]; sT: [B,H,S]; states, for the backward (null: inference):
   * [B,H,ceil(T/C),stateFloats], the states before every C-th token. Padding leaves the state as it is, to the bit, nothing of it is looked at,
   * and its y is 0; a beginning finds the state `fresh`, whatever was there.
   */
  net(inputs: NetInputs<S>, outputs: { y: S; sT: S; states: S | null }, sizes: NetSizes): void
  /**
   * dparameters: [B,H,P], dfresh: [B,H,S]: of each sequence. dsT null: zero. States and registers are recomputed from the snapshots, C tokens at a
   * time. No cotangent passes a beginning, finite or not; dx of padding is 0, and its dy isn't looked at.
   */
  netBackward(
    inputs: NetInputs<S>,
    states: S,
    cotangents: { dy: S; dsT: S | null },
    gradients: { dx: S; dparameters: S | null; dfresh: S | null; ds0: S | null },
    sizes: NetSizes,
  ): void

  // ---- linear systems ------------------------------------------------------------------------------------------------
  /**
   * x[n] = A[n]^-1 b[n] for N symmetric positive definite matrices A [N,K,K], b, x [N,K], by Cholesky. Only the lower triangle of A is
   * read. A matrix that isn't positive definite gives NaN.
   */
  solveSpd(a: S, b: S, x: S, N: number, K: number): void
}

/** The name of a kernel: of every method that a device's `kernels` have. */
export type KernelName = keyof Kernels<unknown>
