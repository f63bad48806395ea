/** The kernels of the engine as nodes of ONNX: a table with a row for each that a model's forward pass asks for. */
import type { BinaryOp, NormKind, UnaryOp } from '../engine/devices/kernels.ts'
import { binaryNodes, normNodes, unaryNodes } from './functions.ts'
import type { Memory } from './memory.ts'
import { float, type Graph, int, text, type Value } from './nodes.ts'
import { OnnxError } from './proto.ts'
import { aft, net, recurrence, solve } from './scans.ts'
import { type Blocks, type Call, is, minus, type Num, num, quotient, times } from './trace.ts'

type Row = (m: Memory, ...args: any[]) => void

/** x with an axis of T in the middle, [..., T, n], masked so that query t sees the first n - T + t + 1. */
function causalMask(g: Graph, x: string, T: Num, n: Num): string {
  const range = (size: Num): string => g.op('Range', [g.integer(0), g.sizeNumber(size), g.integer(1)])
  const queries = g.op('Add', [g.op('Unsqueeze', [range(T), g.integers([1])]), g.sizeNumber(minus(n, T))])
  const seen = g.op('LessOrEqual', [g.op('Unsqueeze', [range(n), g.integers([0])]), queries])
  return g.op('Where', [seen, x, g.scalar(Number.NEGATIVE_INFINITY)])
}

/** The features of DPFP, [..., 2 D nu]. */
function dpfpFeatures(m: Memory, x: Blocks, D: Num, nu: number): Value {
  const { g } = m
  const { name, dims } = m.rows(x, D)
  const width = times(D, num(2, D))
  const last = dims.length - 1
  const both = g.op('Relu', [g.op('Concat', [name, g.op('Neg', [name])], { axis: int(-1) })])
  const r: Value = { name: both, dims: [...dims.slice(0, -1), width] }
  const parts = Array.from({ length: nu }, (_, i): Value => {
    const shift = num(i + 1, D)
    const back = g.slice(r, [{ axis: last, begin: minus(width, shift), count: shift }])
    const front = g.slice(r, [{ axis: last, begin: num(0, D), count: minus(width, shift) }])
    return { name: g.op('Mul', [both, g.concat([back, front], last).name]), dims: r.dims }
  })
  return g.concat(parts, last)
}

const kernelNodes: Partial<Record<Call['name'], Row>> = {
  fill: (m, y: Blocks, _n: Num, value: Num) => m.fill(y, value[0]),
  affine(m, x: Blocks, y: Blocks, _n: Num, [scale]: Num, [shift]: Num) {
    const number = m.filling(x)
    if (number !== undefined) return m.fill(y, scale * number + shift)
    const { name, dims } = m.any(x)
    const scaled = scale === 1 ? name : m.g.op('Mul', [name, m.g.scalar(scale)])
    m.set(y, { name: shift === 0 ? scaled : m.g.op('Add', [scaled, m.g.scalar(shift)]), dims })
  },
  accumulate(m, x: Blocks, y: Blocks) {
    const to = m.any(y)
    m.set(y, { name: m.g.op('Add', [to.name, m.as(x, to.dims).name]), dims: to.dims })
  },
  unary(m, op: UnaryOp, x: Blocks, y: Blocks) {
    const { name, dims } = m.any(x)
    m.set(y, { name: unaryNodes[op](m.g, name), dims })
  },
  binary(m, op: BinaryOp, a: Blocks, b: Blocks, y: Blocks, shape: Num[], stridesA: Num[], stridesB: Num[]) {
    const zero = num(0, y.size)
    const [x, z] = [m.strided(a, shape, stridesA, zero), m.strided(b, shape, stridesB, zero)]
    const dims = shape.map((_, i) => (is(x.dims[i], 1) ? z.dims[i] : x.dims[i]))
    m.set(y, m.g.expand({ name: binaryNodes[op](m.g, x.name, z.name), dims }, shape))
  },
  copy(m, x: Blocks, y: Blocks, shape: Num[], stridesX: Num[], offsetX: Num, stridesY: Num[], offsetY: Num) {
    if (shape.some((d) => is(d, 0))) return
    m.write(y, m.stretched(x, shape, stridesX, offsetX), stridesY, offsetY)
  },
  copyWhere(m, condition: Blocks, x: Blocks, y: Blocks, shape: Num[], stridesC: Num[], stridesX: Num[]) {
    const { g } = m
    const zero = num(0, y.size)
    const chosen = g.op('Cast', [m.strided(condition, shape, stridesC, zero).name], { to: int(9) })
    m.set(y, { name: g.op('Where', [chosen, m.strided(x, shape, stridesX, zero).name, m.as(y, shape).name]), dims: shape })
  },
  gather(m, table: Blocks, index: Blocks, y: Blocks, _R: Num, N: Num, D: Num) {
    const rows = m.index(index)
    m.set(y, { name: m.g.op('Gather', [m.as(table, [N, D]).name, rows.name]), dims: [...rows.dims, D] })
  },
  reduce(m, op: 'sum' | 'max', x: Blocks, y: Blocks, outer: Num, n: Num, inner: Num) {
    const { value, axis } = m.middle(x, outer, n, inner)
    const name = m.g.op(op === 'sum' ? 'ReduceSum' : 'ReduceMax', [value.name, m.g.integers([axis])], { keepdims: int(0) })
    m.set(y, { name, dims: value.dims.filter((_, i) => i !== axis) })
  },
  cumsum(m, x: Blocks, y: Blocks, outer: Num, n: Num, inner: Num, reverse: boolean) {
    const { value, axis } = m.middle(x, outer, n, inner)
    m.set(y, { name: m.g.op('CumSum', [value.name, m.g.integer(axis)], { reverse: int(Number(reverse)) }), dims: value.dims })
  },
  matmul(m, a: Blocks, b: Blocks, bias: Blocks | null, c: Blocks, s: any, start?: Blocks) {
    const { g } = m
    const { batch, M, N, K, transposeA, transposeB, accumulate, activation } = s
    const matrix = (x: Blocks, stride: Num, rows: Num, columns: Num, turned: boolean): Value => {
      const lead = is(batch, 1) || is(stride, 0) ? [] : [batch]
      if (!turned) return m.as(x, [...lead, rows, columns])
      const order = lead.length === 0 ? [1, 0] : [0, 2, 1]
      return g.transpose(m.as(x, [...lead, columns, rows]), order)
    }
    // Rows of one product may have any axes before the last.
    const left = is(batch, 1) && !transposeA ? m.rows(a, K) : matrix(a, s.strideA, M, K, transposeA)
    const right = matrix(b, s.strideB, K, N, transposeB)
    const dims = is(batch, 1) ? [...left.dims.slice(0, -1), N] : [batch, M, N]
    let name = g.op('MatMul', [left.name, right.name])
    if (accumulate) name = g.op('Add', [name, m.as(start ?? c, dims).name])
    if (bias) name = g.op('Add', [name, m.as(bias, [N]).name])
    m.set(c, { name: activation ? unaryNodes[activation as UnaryOp](g, name) : name, dims })
  },
  products(m, list: any[]) {
    // A forward pass has one term a product, in rows.
    for (const { c, M, N, terms, bias, activation } of list) {
      const [{ a, b, K, transposeA, transposeB }] = terms
      const one = num(1, K)
      const sizes = { batch: one, M, N, K, transposeA, transposeB, accumulate: false, activation: activation ?? null }
      kernelNodes.matmul!(m, a, b, bias ?? null, c, sizes)
    }
  },
  norm(m, kind: NormKind, x: Blocks, gain: Blocks | null, bias: Blocks | null, y: Blocks, _stats: Blocks, _R: Num, n: Num, [eps]: Num) {
    const { name, dims } = m.rows(x, n)
    let normed = normNodes(m.g, kind, name, n[0], eps)
    if (gain) normed = m.g.op('Mul', [normed, m.as(gain, [n]).name])
    if (bias) normed = m.g.op('Add', [normed, m.as(bias, [n]).name])
    m.set(y, { name: normed, dims })
  },
  softmax(m, x: Blocks, y: Blocks, R: Num, n: Num, log: boolean, causal: Num) {
    const { g } = m
    const op = log ? 'LogSoftmax' : 'Softmax'
    if (is(causal, 0)) {
      const { name, dims } = m.rows(x, n)
      m.set(y, { name: g.op(op, [name], { axis: int(-1) }), dims })
      return
    }
    const { name, dims } = m.as(x, [quotient(R, causal), causal, n])
    m.set(y, { name: g.op(op, [causalMask(g, name, causal, n)], { axis: int(-1) }), dims })
  },
  conv(m, x: Blocks, w: Blocks, state: Blocks | null, { y, next }: Record<string, Blocks>, { silu, ...sizes }: any) {
    const { g } = m
    const { B, T, D, W, width, eps } = sizes as Record<string, Num>
    const one = num(1, W)
    const before = minus(W, one)
    const turned = (block: Blocks, rows: Num): Value => g.transpose(m.as(block, [B, rows, D]), [0, 2, 1])
    const inputs = [turned(x, T).name, m.as(w, [D, one, W]).name, '', state ? turned(state, before).name : '']
    const [out, last] = g.ops('CausalConvWithState', inputs, 2, {}, domainOf(m))
    m.set(next, g.transpose({ name: last, dims: [B, D, before] }, [0, 2, 1]))
    const sums = g.transpose({ name: out, dims: [B, D, T] }, [0, 2, 1])
    const value = silu ? { ...sums, name: unaryNodes.silu(g, sums.name) } : sums
    if (is(width, 0)) return m.set(y, value)
    const heads = g.reshape(value, [B, T, quotient(D, width), width])
    m.set(y, { ...heads, name: normNodes(g, 'l2', heads.name, width[0], eps[0]) })
  },
  decay(m, a: Blocks, rate: Blocks, shift: Blocks, y: Blocks, _R: Num, n: Num, width: Num) {
    const { g } = m
    const { name, dims } = m.rows(a, n)
    const H = quotient(n, width)
    const one = num(1, n)
    const heads = g.reshape({ name: g.op('Add', [name, m.as(shift, [n]).name]), dims }, [...dims.slice(0, -1), H, width])
    const factor = g.op('Neg', [g.op('Exp', [m.as(rate, [H, one]).name])])
    m.set(y, { ...heads, name: g.op('Mul', [unaryNodes.softplus(g, heads.name), factor]) })
  },
  dpfp(m, x: Blocks, y: Blocks, _R: Num, D: Num, [nu]: Num) {
    m.set(y, dpfpFeatures(m, x, D, nu))
  },
  dpfpSum(m, list: { x: Blocks; y: Blocks }[], _R: Num, D: Num, [nu]: Num, [eps]: Num) {
    for (const { x, y } of list) {
      const { name, dims } = dpfpFeatures(m, x, D, nu)
      m.set(y, { name: normNodes(m.g, 'sum', name, 2 * D[0] * nu, eps), dims })
    }
  },
  fastWeights(m, _form: string, inputs: any, outputs: any, sizes: any) {
    if (inputs.tokens) throw new OnnxError('padding')
    const said = inputs.erase || sizes.transposed ? recurrence : attention
    said(m, inputs, outputs, sizes)
  },
  net,
  solveSpd: solve,
  aft: aft as Row,
  mixer(m, [layer]: Num, x: Blocks, accumulate: Blocks | null, before: Record<string, Blocks>, y: Blocks, after: Record<string, Blocks>) {
    const { y: read, ...state } = m.known.mixer(m, layer, x, before)
    m.set(y, accumulate ? { name: m.g.op('Add', [read.name, m.as(accumulate, read.dims).name]), dims: read.dims } : read)
    for (const [name, value] of Object.entries(state)) m.set(after[name], value)
  },
}

const domainOf = (m: Memory): string => (m.known.domain === 'ai.onnx' ? '' : m.known.domain)

/** The rules that LinearAttention is. A normaliser is a second one with values of 1. */
function attention(m: Memory, inputs: any, outputs: any, sizes: any): void {
  const { g } = m
  const { B, T, H, K, V, gateWidth } = sizes as Record<string, Num>
  const packed = (block: Blocks | null, width: Num): string => (block ? m.as(block, [B, T, times(H, width)]).name : '')
  const rule = inputs.beta ? (inputs.gate ? 'gated_delta' : 'delta') : inputs.gate ? 'gated' : 'linear'
  const run = (values: string, past: string, scale: number): string[] =>
    g.ops(
      'LinearAttention',
      [packed(inputs.q, K), packed(inputs.k, K), values, past, packed(inputs.gate, gateWidth), packed(inputs.beta, num(1, B))],
      2,
      { q_num_heads: int(H[0]), kv_num_heads: int(H[0]), update_rule: text(rule), scale: float(scale) },
      domainOf(m),
    )
  const [y, S] = run(packed(inputs.v, V), inputs.s0 ? m.as(inputs.s0, [B, H, K, V]).name : '', sizes.scale[0])
  m.set(outputs.sT, { name: S, dims: [B, H, K, V] })
  if (!outputs.zT) {
    m.set(outputs.y, { name: y, dims: [B, T, times(H, V)] })
    return
  }
  const one = num(1, B)
  const z0 = inputs.z0 ? m.as(inputs.z0, [B, H, K, one]).name : ''
  const [total, z] = run(g.filled(1, [B, T, H]).name, z0, 1)
  m.set(outputs.zT, { name: z, dims: [B, H, K, one] })
  const den = { name: g.op('Add', [total, g.scalar(sizes.eps[0])]), dims: [B, T, H] }
  m.set(outputs.den, den)
  const read = g.reshape({ name: y, dims: [B, T, times(H, V)] }, [B, T, H, V])
  m.set(outputs.y, { name: g.op('Div', [read.name, g.reshape(den, [B, T, H, one]).name]), dims: [B, T, H, V] })
}

/** The nodes of a model's calls. */
export function emit(m: Memory, calls: readonly Call[]): void {
  for (const { name, args } of calls) {
    const row = kernelNodes[name]
    if (row === undefined) throw new OnnxError(`its kernel ${name} has no nodes`)
    row(m, ...args)
  }
}
