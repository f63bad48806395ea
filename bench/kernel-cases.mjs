/**
 * The hot kernels of a training step, unless told otherwise at the sizes of the labml setting: B sequences of T tokens, width D, H heads of
 * K = 2 D/H (DPFP, nu 1) by V = D/H, feed-forward width F, N symbols. A case makes its operands, and says what one call does: `elements` or
 * `flops` for the rate, and `floats`, the values read and written if each operand crosses the memory bus once. `operands` are those that a
 * plain kernel beside it needs.
 *
 * @typedef {{ float(size: number, from?: number): any, int(size: number, below: number): any, empty(size: number): any }} Memory
 * @typedef {{ B: number, T: number, D: number, H: number, F: number, N: number, W: number, V: number, K: number }} Sizes
 * @typedef {{ shape: string, run: () => void, elements?: number, flops?: number, floats: number, operands?: object }} Case
 */

/** @returns {Sizes} the sizes of a step of a model; K is DPFP's unless given. */
export const sizesOf = ({ B, T = 128, D = 512, H = 8, F = 2048, N = 65, W = 4, V = D / H, K = 2 * V }) => ({ B, T, D, H, F, N, W, V, K })

/** op(k, y): one call of an elementwise kernel over [B T, F], `operands` arrays in and out. */
const elementwise =
  (operands, make) =>
  (k, m, { B, T, F }) => {
    const n = B * T * F
    return { shape: `[${B * T}, ${F}]`, elements: n, floats: operands * n, run: make(k, m, n, F) }
  }

/** C[M,N] = A[M,K] B[K,N]; M, N, K are numbers, names of sizes, or 'R' = B T; `t` names the operands stored transposed. */
export const matmul =
  (t, M, N, K, extra = {}) =>
  (k, m, given) => {
    const [rows, cols, inner] = [M, N, K].map((x) => (x === 'R' ? given.B * given.T : (given[x] ?? x)))
    const a = m.float(rows * inner),
      b = m.float(inner * cols),
      c = m.float(rows * cols)
    const bias = extra.bias ? m.float(cols) : null
    const sizes = {
      batch: 1,
      strideA: 0,
      strideB: 0,
      M: rows,
      N: cols,
      K: inner,
      transposeA: t.includes('a'),
      transposeB: t.includes('b'),
      sparse: false,
      accumulate: extra.accumulate ?? false,
      activation: extra.activation ?? null,
    }
    return {
      shape: `${rows} x ${cols} x ${inner}`,
      flops: 2 * rows * cols * inner,
      floats: rows * inner + inner * cols + rows * cols,
      run: () => k.matmul(a, b, bias, c, sizes),
      operands: { a, b, c, sizes },
    }
  }

const norm =
  (kind, backward) =>
  (k, m, { B, T, D }) => {
    const R = B * T,
      n = R * D
    const x = m.float(n, kind === 'sum' ? 0 : -1),
      gain = m.float(D),
      bias = m.float(D),
      y = m.empty(n),
      stats = m.empty(2 * R),
      dy = m.float(n),
      dx = m.empty(n)
    const affine = kind === 'layer'
    k.norm(kind, x, affine ? gain : null, affine ? bias : null, y, stats, R, D, 1e-5)
    return {
      shape: `[${R}, ${D}]`,
      elements: n,
      floats: (backward ? 3 : 2) * n,
      run: backward
        ? () => k.normBackward(kind, x, affine ? gain : null, stats, dy, { dx }, R, D, false)
        : () => k.norm(kind, x, affine ? gain : null, affine ? bias : null, y, stats, R, D, 1e-5),
      operands: { x, gain, bias, y, stats, dy, dx, R, n: D },
    }
  }

const softmax =
  (backward) =>
  (k, m, { B, T, H }) => {
    const R = B * H * T,
      n = R * T
    const x = m.float(n),
      y = m.empty(n),
      dy = m.float(n),
      dx = m.empty(n)
    k.softmax(x, y, R, T, false, T)
    return {
      shape: `[${R}, ${T}]`,
      elements: n,
      floats: (backward ? 3 : 2) * n,
      run: backward ? () => k.softmaxBackward(y, dy, dx, R, T, false) : () => k.softmax(x, y, R, T, false, T),
      operands: { x, y, dy, dx, R, n: T },
    }
  }

const crossEntropy =
  (backward) =>
  (k, m, { B, T, N }) => {
    const R = B * T,
      n = R * N
    const logits = m.float(n),
      target = m.int(R, N),
      loss = m.empty(R),
      lse = m.empty(R),
      dloss = m.float(R),
      dlogits = m.empty(n)
    k.crossEntropy(logits, target, loss, lse, R, N, -1)
    return {
      shape: `[${R}, ${N}]`,
      elements: n,
      floats: (backward ? 2 : 1) * n,
      run: backward
        ? () => k.crossEntropyBackward(logits, target, lse, dloss, dlogits, R, N, -1)
        : () => k.crossEntropy(logits, target, loss, lse, R, N, -1),
      operands: { logits, target, loss, R, n: N },
    }
  }

const dpfpSum =
  (backward) =>
  (k, m, { B, T, H, V }) => {
    const R = B * T * H,
      K = 2 * V
    const x = m.float(R * V),
      y = m.empty(R * K),
      dy = m.float(R * K),
      dx = m.empty(R * V),
      stats = m.float(2 * R)
    return {
      shape: `[${R}, ${V}] -> ${K}`,
      elements: R * K,
      floats: R * (V + K) + (backward ? R * V : 0),
      run: backward ? () => k.dpfpSumBackward([{ x, stats, dy, dx }], R, V, 1) : () => k.dpfpSum([{ x, y, stats }], R, V, 1, 1e-6),
    }
  }

const conv =
  (backward) =>
  (k, m, { B, T, D, W }) => {
    const n = B * T * D
    const x = m.float(n),
      w = m.float(D * W),
      y = m.empty(n),
      dy = m.float(n),
      dx = m.empty(n),
      dw = m.empty(D * W)
    const sizes = { B, T, D, W, silu: false, width: 0, eps: 0 }
    const none = { sums: null, stats: null }
    return {
      shape: `[${B}, ${T}, ${D}], width ${W}`,
      elements: n,
      floats: (backward ? 3 : 2) * n,
      run: backward
        ? () => k.convBackward(x, w, null, { y, ...none }, dy, { dx, dw, dstate: null }, sizes)
        : () => k.conv(x, w, null, { y, next: null, ...none }, sizes),
    }
  }

/**
 * The recurrence of all heads, with what `programmed` names beside keys and values, and a gate of `gates` values (a number, or 'K') a token
 * and head. The operations counted are those of the token-by-token form, in both forms, and each matrix-vector product of the backward pass
 * once, so that a chunk form that does more arithmetic in less time shows the higher rate.
 */
export const fastWeights =
  (programmed, gates, form, backward) =>
  (k, m, { B, T, H, K, V }) => {
    const width = gates === 'K' ? K : gates
    const C = programmed === 'erase' || width ? 16 : 32
    const R = B * T * H,
      S = B * H * K * V,
      snapshots = S * Math.ceil(T / C)
    const sizes = { B, T, H, K, V, C, scale: 1, gateWidth: width || 1, eps: 1e-6 }
    // Unit keys with beta in (0, 1), as models have: the state stays bounded. Erased with the key itself, as a delta rule of beta 1 does.
    const key = m.empty(R * K)
    k.norm('l2', m.float(R * K, 0), null, null, key, m.empty(2 * R), R, K, 1e-6)
    const gate = width ? m.float(R * width, 0) : null
    if (gate) k.affine(gate, gate, R * width, -0.1, 0)
    const inputs = {
      q: m.float(R * K, 0),
      k: key,
      v: m.float(R * V),
      beta: programmed === 'beta' ? m.float(R, 0) : null,
      gate,
      erase: programmed === 'erase' ? key : null,
      tokens: null,
      s0: null,
      z0: null,
    }
    const outputs = { y: m.empty(R * V), sT: m.empty(S), zT: null, den: null, states: m.empty(snapshots), zs: null }
    const forward = () => k.fastWeights(form, inputs, outputs, sizes)
    forward()
    const saved = { y: null, den: null, states: outputs.states, zs: null }
    const cotangents = { dy: m.float(R * V), dsT: null, dzT: null }
    const gradients = {
      dq: m.empty(R * K),
      dk: m.empty(R * K),
      dv: m.empty(R * V),
      dbeta: inputs.beta && m.empty(R),
      dgate: gate && m.empty(R * width),
      derase: inputs.erase && m.empty(R * K),
      ds0: null,
      dz0: null,
    }
    const products = (programmed ? 3 : 2) * (backward ? 2 : 1)
    return {
      shape: `B ${B}, T ${T}, H ${H}, K ${K}, V ${V}, C ${C}`,
      flops: products * 2 * R * K * V,
      floats: R * (2 * K + 2 * V + width + (programmed === 'erase' ? K : 0)) * (backward ? 2 : 1) + snapshots,
      run: backward ? () => k.fastWeightsBackward(form, inputs, saved, cotangents, gradients, sizes) : forward,
      operands: { forward, inputs, outputs, cotangents, gradients, sizes, gateWidth: width },
    }
  }

/** Each with what the kernel gets: beta, erase or neither, and the gate's width. */
const recurrences = {
  'sum rule': [null, 0],
  'scalar-gated sum rule': [null, 1],
  'vector-gated sum rule': [null, 'K'],
  'delta rule': ['beta', 0],
  'scalar-gated delta rule': ['beta', 1],
  'vector-gated delta rule': ['beta', 'K'],
  'erasing rule': ['erase', 0],
  'vector-gated erasing rule': ['erase', 'K'],
}

export const cases = {
  'matmul x W^T': matmul('b', 'R', 'F', 'D'),
  'matmul x W^T + bias, relu': matmul('b', 'R', 'F', 'D', { bias: true, activation: 'relu' }),
  'matmul dy W': matmul('', 'R', 'D', 'F'),
  'matmul dW += dy^T x': matmul('a', 'F', 'D', 'R', { accumulate: true }),
  add: elementwise(3, (k, m, n) => {
    const a = m.float(n),
      b = m.float(n),
      y = m.empty(n)
    return () => k.binary('add', a, b, y, [n], [1], [1])
  }),
  'mul by a row': elementwise(2, (k, m, n, F) => {
    const a = m.float(n),
      b = m.float(F),
      y = m.empty(n)
    return () => k.binary('mul', a, b, y, [n / F, F], [F, 1], [0, 1])
  }),
  'accumulate y += x': elementwise(3, (k, m, n) => {
    const x = m.float(n),
      y = m.float(n)
    return () => k.accumulate(x, y, n)
  }),
  ...Object.fromEntries(
    ['relu', 'gelu', 'silu', 'exp'].map((op) => [
      op,
      elementwise(2, (k, m, n) => {
        const x = m.float(n),
          y = m.empty(n)
        return () => k.unary(op, x, y, n)
      }),
    ]),
  ),
  ...Object.fromEntries(
    ['relu', 'gelu', 'silu'].map((op) => [
      `${op} backward`,
      elementwise(4, (k, m, n) => {
        const x = m.float(n),
          y = m.empty(n),
          dy = m.float(n),
          dx = m.empty(n)
        k.unary(op, x, y, n)
        return () => k.unaryBackward(op, x, y, dy, dx, n)
      }),
    ]),
  ),
  dropout: elementwise(2, (k, m, n) => {
    const x = m.float(n),
      y = m.empty(n)
    return () => k.dropout(x, y, n, 0.1, 1, () => 2)
  }),
  'normal random': elementwise(1, (k, m, n) => {
    const y = m.empty(n)
    return () => k.random('normal', y, n, 1, () => 2, 0, 1)
  }),
  'permute [B,T,H,V] -> [B,H,T,V]': (k, m, { B, T, H, D, V }) => {
    const n = B * T * D
    const x = m.float(n),
      y = m.empty(n)
    return {
      shape: `[${B}, ${T}, ${H}, ${V}]`,
      elements: n,
      floats: 2 * n,
      run: () => k.copy(x, y, [B, H, T, V], [T * D, V, D, 1], 0, [T * D, T * V, V, 1], 0),
    }
  },
  'embedding gather': (k, m, { B, T, N, D }) => {
    const R = B * T
    const table = m.float(N * D),
      index = m.int(R, N),
      y = m.empty(R * D)
    return { shape: `[${N}, ${D}] -> [${R}, ${D}]`, elements: R * D, floats: 2 * R * D, run: () => k.gather(table, index, y, R, N, D) }
  },
  'embedding backward': (k, m, { B, T, N, D }) => {
    const R = B * T
    const dy = m.float(R * D),
      index = m.int(R, N),
      dtable = m.empty(N * D)
    return {
      shape: `[${R}, ${D}] -> [${N}, ${D}]`,
      elements: R * D,
      floats: R * D + N * D,
      run: () => k.gatherBackward(dy, index, dtable, R, N, D),
      operands: { dy, index, dtable, R, N, D },
    }
  },
  'sum over rows (bias gradient)': (k, m, { B, T, F }) => {
    const n = B * T * F
    const x = m.float(n),
      y = m.empty(F)
    return {
      shape: `[${B * T}, ${F}] -> [${F}]`,
      elements: n,
      floats: n,
      run: () => k.reduce('sum', x, y, 1, B * T, F),
      operands: { x, y, R: B * T, n: F },
    }
  },
  'sum over columns': (k, m, { B, T, F }) => {
    const n = B * T * F
    const x = m.float(n),
      y = m.empty(B * T)
    return {
      shape: `[${B * T}, ${F}] -> [${B * T}]`,
      elements: n,
      floats: n,
      run: () => k.reduce('sum', x, y, B * T, F, 1),
      operands: { x, y, R: B * T, n: F },
    }
  },
  'norm (clipping)': elementwise(1, (k, m, n) => {
    const x = m.float(n),
      y = m.empty(1)
    return () => k.gradNorm([{ x, n }], y)
  }),
  'layer norm': norm('layer', false),
  'layer norm backward': norm('layer', true),
  'layer norm gain, bias backward': (k, m, { B, T, D }) => {
    const R = B * T,
      n = R * D
    const x = m.float(n),
      stats = m.float(2 * R),
      dy = m.float(n),
      dgain = m.empty(D),
      dbias = m.empty(D)
    return {
      shape: `[${R}, ${D}]`,
      elements: n,
      floats: 2 * n,
      run: () => k.normBackward('layer', x, null, stats, dy, { dx: null, dgain, dbias }, R, D, false),
      operands: { x, stats, dy, dgain, dbias, R, n: D },
    }
  },
  'rms norm': norm('rms', false),
  'l2 norm': norm('l2', false),
  'sum norm': norm('sum', false),
  'sum norm backward': norm('sum', true),
  'causal softmax': softmax(false),
  'softmax backward': softmax(true),
  'cross-entropy': crossEntropy(false),
  'cross-entropy backward': crossEntropy(true),
  dpfpSum: dpfpSum(false),
  'dpfpSum backward': dpfpSum(true),
  conv: conv(false),
  'conv backward': conv(true),
  adam: (k, m, { B, D, F }) => {
    const n = (B * D * F) / 4
    const p = m.float(n),
      g = m.float(n),
      first = m.float(n),
      second = m.float(n, 0),
      scale = m.float(1)
    const options = {
      lr: 1e-3,
      beta1: 0.9,
      beta2: 0.999,
      eps: 1e-8,
      weightDecay: 0.01,
      decoupled: true,
      correction1: 0.1,
      correction2: 0.001,
    }
    return { shape: `[${n}]`, elements: n, floats: 7 * n, run: () => k.adam([{ p, g, m: first, v: second, n }], scale, () => options) }
  },
  ...Object.fromEntries(
    Object.entries(recurrences).flatMap(([name, [programmed, width]]) =>
      [false, true].flatMap((backward) =>
        ['recurrent', 'chunk'].map((form) => [
          `${name}${backward ? ' backward' : ''}, ${form}`,
          fastWeights(programmed, width, form, backward),
        ]),
      ),
    ),
  ),
}
