/** Matrix products: batched, either side transposed, with bias, activation and addition fused into the product. */
import { checkOptions, told } from '../arguments.ts'
import { record, recordMany, records } from '../autograd.ts'
import type { MatmulSizes, Product, UnaryOp } from '../devices/kernels.ts'
import { noGrad } from '../recording.ts'
import { broadcast, type Shape, sameShape, show, sizeOf } from '../shape.ts'
import { empty, type Fresh, like, type Sofar, type Tensor } from '../tensor.ts'
import { sumTo } from './axes.ts'
import { checkFloat, checkUnary, checkWeights, sameDevice } from './check.ts'
import { expand, unary } from './elementwise.ts'

/** Options of `matmul`: what is done to the factors before, and to the product after it, in the same kernel. */
export interface MatmulOptions {
  /** Use the transpose of the last two axes, at no cost. */
  transposeA?: boolean
  /** The same of b. */
  transposeB?: boolean
  /** [N], added to every row. */
  bias?: Tensor
  /** A tensor of the result's shape that the product is added to (a residual connection, for instance). */
  accumulate?: Tensor
  /** Applied last. */
  activation?: UnaryOp
}

interface Plan {
  batch: number[]
  M: number
  N: number
  K: number
}

/** The gradient of these follows from the output alone (see `unaryBackward`), so the value before the activation needn't be kept. */
const fromOutput = new Set<UnaryOp>(['relu', 'exp', 'sqrt', 'neg'])

function plan(a: Tensor, b: Tensor, tA: boolean, tB: boolean): Plan {
  checkFloat('matmul', a)
  checkWeights('matmul', b)
  sameDevice('matmul', a, b)
  if (b.half !== undefined && !(tB && !tA && sizeOf(b.shape.slice(0, -2)) === 1))
    throw new Error(
      `matmul: a ${b.dtype} matrix is read as one of rows: a times its transpose, without a transpose of a, and no gradient passes`,
    )
  if (a.shape.length < 2 || b.shape.length < 2)
    throw new Error(`matmul: ${show(a.shape)} x ${show(b.shape)}: both sides need at least two axes`)
  const dims = (x: Tensor, t: boolean): number[] => (t ? [x.shape.at(-1)!, x.shape.at(-2)!] : [x.shape.at(-2)!, x.shape.at(-1)!])
  const [M, K] = dims(a, tA)
  const [K2, N] = dims(b, tB)
  if (K !== K2) {
    const hint = b.shape.at(tB ? -2 : -1) === K ? ` (${tB ? "don't transpose" : 'transpose'} the second?)` : ''
    throw new Error(
      `matmul: ${show(a.shape)}${tA ? '^T' : ''} x ${show(b.shape)}${tB ? '^T' : ''}: inner sizes ${K} and ${K2} differ${hint}`,
    )
  }
  return { batch: broadcast('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2)), M, N, K }
}

/** One kernel call. Operands must have the full batch, or none. y may be what the product is added to. */
function product(
  a: Tensor,
  b: Tensor,
  y: Tensor,
  p: Plan,
  tA: boolean,
  tB: boolean,
  bias: Tensor | undefined,
  accumulate: Tensor | undefined,
  activation: UnaryOp | undefined,
): void {
  const batch = sizeOf(p.batch)
  const { M, N, K } = p
  // One matrix on the right for all: the batch is just more rows.
  const flat = batch > 1 && !tA && b.size === K * N && a.size === batch * M * K
  const sizes: MatmulSizes = {
    batch: flat ? 1 : batch,
    strideA: flat || a.size === M * K ? 0 : M * K,
    strideB: b.size === K * N ? 0 : K * N,
    M: flat ? M * batch : M,
    N,
    K,
    transposeA: tA,
    transposeB: tB,
    sparse: false,
    accumulate: accumulate !== undefined,
    activation: activation ?? null,
    ...(b.half !== undefined && { halfB: b.half }),
  }
  y.device.kernels.matmul(a.storage, b.storage, bias?.storage ?? null, y.storage, sizes, accumulate === y ? undefined : accumulate?.storage)
}

/** Stretches a batch that's partly broadcast; none and full batches need no copy. */
function withBatch(x: Tensor, batch: Shape): Tensor {
  const own = x.shape.slice(0, -2)
  return sizeOf(own) === 1 || sameShape(own, batch) ? x : expand(x, [...batch, ...x.shape.slice(-2)])
}

/** a [..., M, K] times b [..., K, N]; the leading axes broadcast. y = activation(accumulate + a b + bias). b may be one of 16-bit numbers: see `halfTensor`. */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  checkOptions('matmul', options, ['transposeA', 'transposeB', 'bias', 'accumulate', 'activation'])
  const { transposeA: tA = false, transposeB: tB = false, bias, accumulate, activation } = options
  if (activation) checkUnary('matmul', activation)
  const p = plan(a, b, tA, tB)
  const { batch, N } = p
  const shape = [...batch, p.M, N]
  checkFloat('matmul', a, bias, accumulate)
  sameDevice('matmul', a, bias, accumulate)
  if (bias && !sameShape(bias.shape, [N])) throw new Error(`matmul: the bias has shape ${show(bias.shape)}, expected [${N}]`)
  if (accumulate && !sameShape(accumulate.shape, shape))
    throw new Error(`matmul: the tensor to accumulate to has shape ${show(accumulate.shape)}, the product ${show(shape)}`)
  const inputs = [a, b, ...(bias ? [bias] : []), ...(accumulate ? [accumulate] : [])]
  if (activation && !fromOutput.has(activation) && inputs.some((x) => x.requiresGrad))
    return unary(activation, matmul(a, b, { ...options, activation: undefined }))

  const A = withBatch(a, batch)
  const B = withBatch(b, batch)
  const y = empty(shape, a.device)
  product(A, B, y, p, tA, tB, bias, accumulate, activation)

  return record('matmul', inputs, y, (dy, sofar, fresh) => {
    let dz = dy
    if (activation) {
      dz = like(y)
      y.device.kernels.unaryBackward(activation, y.storage, y.storage, dy.storage, dz.storage, y.size)
    }
    if (b.shape.length === 2 && b.half === undefined && tB && !tA) {
      const gradients = linearGradients(a, [{ weight: b, bias, dz }], sofar, fresh)
      return [...gradients, ...(accumulate ? [dz] : [])]
    }
    // y = A B: dA = dy B^T, dB = A^T dy, each transposed again if its operand was.
    const da = !a.requiresGrad
      ? null
      : tA
        ? gradient(b, dz, { transposeA: tB, transposeB: true }, a.shape, sofar(0), () => fresh(0))
        : gradient(dz, b, { transposeB: !tB }, a.shape, sofar(0), () => fresh(0))
    const db = !b.requiresGrad
      ? null
      : tB
        ? gradient(dz, a, { transposeA: true, transposeB: tA }, b.shape, sofar(1), () => fresh(1))
        : gradient(a, dz, { transposeA: !tA }, b.shape, sofar(1), () => fresh(1))
    const dbias = bias?.requiresGrad ? fresh(2) : null
    if (dbias) y.device.kernels.reduce('sum', dz.storage, dbias.storage, 1, sizeOf(shape.slice(0, -1)), N)
    return [da, db, ...(bias ? [dbias] : []), ...(accumulate ? [dz] : [])]
  })
}

/**
 * A product whose batch is summed down to a gradient's shape; where one matrix served the whole batch, by one tall product instead of many. It's added
 * to what there is of the gradient, or written where that belongs, where it needs no sum.
 */
function gradient(
  a: Tensor,
  b: Tensor,
  options: { transposeA?: boolean; transposeB?: boolean },
  shape: Shape,
  sofar: Tensor | null,
  fresh: () => Tensor,
): Tensor {
  const rows = (x: Tensor): Tensor => x.view([sizeOf(x.shape.slice(0, -1)), x.shape.at(-1)!])
  const summed = shape.length === 2 && a.shape.length > 2 && sameShape(a.shape.slice(0, -1), b.shape.slice(0, -1))
  if (summed && options.transposeA && !options.transposeB) return gradient(rows(a), rows(b), options, shape, sofar, fresh)
  const { transposeA: tA = false, transposeB: tB = false } = options
  const p = plan(a, b, tA, tB)
  if (!sameShape([...p.batch, p.M, p.N], shape)) return sumTo(matmul(a, b, options), shape)
  const to = sofar ?? fresh()
  product(withBatch(a, p.batch), withBatch(b, p.batch), to, p, tA, tB, undefined, sofar ?? undefined, undefined)
  return to
}

/** A linear map of `linears`: weight [N,K], bias [N]. */
export interface LinearMap {
  weight: Tensor
  bias?: Tensor
  /** Applied last. */
  activation?: UnaryOp
}

const linear = (x: Tensor, { weight, bias, activation }: LinearMap, accumulate?: Tensor): Tensor =>
  matmul(x, weight, { transposeB: true, bias, activation, accumulate })

/**
 * Several linear maps of one x [..., K]: activation(x weight^T + bias), [..., N], of each, as `matmul` has it. They share a kernel call, and so do their
 * backward passes.
 */
export function linears(x: Tensor, maps: readonly LinearMap[]): Tensor[] {
  if (!Array.isArray(maps)) throw new Error(`linears: needs an array of weights with their biases, not ${told(maps)}`)
  if (maps.length < 2 || maps.some(({ weight }) => weight.half !== undefined || weight.shape.length !== 2))
    return maps.map((map) => linear(x, map))
  const inputs = [x, ...maps.flatMap(({ weight, bias }) => (bias ? [weight, bias] : [weight]))]
  const recorded = inputs.some((t) => t.requiresGrad)
  /** Those whose gradient needs what the activation is of: it's an op of its own. */
  const apart = ({ activation }: LinearMap): boolean => activation !== undefined && recorded && !fromOutput.has(activation)
  if (maps.some(apart)) {
    const plain = linears(
      x,
      maps.map((map) => (apart(map) ? { ...map, activation: undefined } : map)),
    )
    return plain.map((z, i) => (apart(maps[i]) ? unary(maps[i].activation!, z) : z))
  }
  const rows = sizeOf(x.shape.slice(0, -1))
  const ys = maps.map(({ weight, bias, activation }) => {
    if (activation) checkUnary('linears', activation)
    const { N, batch, M } = plan(x, weight, false, true)
    checkFloat('linears', x, bias)
    sameDevice('linears', x, bias)
    if (bias && !sameShape(bias.shape, [N])) throw new Error(`linears: the bias has shape ${show(bias.shape)}, expected [${N}]`)
    return empty([...batch, M, N], x.device)
  })
  const K = x.shape.at(-1)!
  x.device.kernels.products(
    maps.map(({ weight, bias, activation }, i) => ({
      c: ys[i].storage,
      M: rows,
      N: weight.shape[0],
      terms: [{ a: x.storage, b: weight.storage, K, transposeA: false, transposeB: true }],
      bias: bias?.storage ?? null,
      activation: activation ?? null,
    })),
  )
  recordMany('linears', inputs, ys, (dys, sofar, fresh) => {
    const known = maps.map(({ weight, bias, activation }, i) => {
      const dy = dys[i]
      if (!dy || !activation) return { weight, bias, dz: dy }
      const dz = like(dy)
      x.device.kernels.unaryBackward(activation, ys[i].storage, ys[i].storage, dy.storage, dz.storage, dz.size)
      return { weight, bias, dz }
    })
    return linearGradients(x, known, sofar, fresh)
  })
  return ys
}

/**
 * Of x, and of each weight and bias, in the order of `linears`, from the cotangents dz of x weight^T + bias: dx = sum of dz weight, dweight = dz^T x,
 * and dbias the sum of dz's rows. Where x is what `gate` gives, one of those that need no more for it, dx is of what that is of.
 */
function linearGradients(
  x: Tensor,
  maps: readonly { weight: Tensor; bias?: Tensor; dz: Tensor | null }[],
  sofar: Sofar,
  fresh: Fresh,
  gate: UnaryOp | null = null,
): (Tensor | null)[] {
  const K = x.shape.at(-1)!
  const rows = sizeOf(x.shape.slice(0, -1))
  const list: Product<unknown>[] = []
  const target = (input: number): { to: Tensor; accumulate: boolean } => {
    const before = sofar(input)
    // One tensor may be several of the inputs: products of one kernel call don't add to the same memory.
    const accumulate = before !== null && !list.some(({ c }) => c === before.storage)
    return { to: accumulate ? before : fresh(input), accumulate }
  }
  let input = 1
  const ofMaps = maps.flatMap(({ weight, bias, dz }) => {
    const [own, ownBias] = [input++, bias ? input++ : 0]
    const N = weight.shape[0]
    const dbias = dz && bias?.requiresGrad ? fresh(ownBias) : null
    let dweight: Tensor | null = null
    if (dz && weight.requiresGrad) {
      const { to, accumulate } = target(own)
      dweight = to
      const term = { a: dz.storage, b: x.storage, K: rows, transposeA: true, transposeB: false }
      list.push({ c: to.storage, M: N, N: K, terms: [term], accumulate, sums: dbias?.storage ?? null })
    } else if (dbias) dz!.device.kernels.reduce('sum', dz!.storage, dbias.storage, 1, rows, N)
    return bias ? [dweight, dbias] : [dweight]
  })
  const terms = maps.flatMap(({ weight, dz }) =>
    dz ? [{ a: dz.storage, b: weight.storage, K: weight.shape[0], transposeA: false, transposeB: false }] : [],
  )
  let dx: Tensor | null = null
  if (x.requiresGrad && terms.length > 0) {
    const { to, accumulate } = target(0)
    dx = to
    list.push({ c: to.storage, M: rows, N: K, terms, accumulate, gate: gate && { op: gate, y: x.storage } })
  }
  if (list.length > 0) x.device.kernels.products(list)
  return [dx, ...ofMaps]
}

/**
 * Two linear maps, one after the other, as in feed-forward layers: activation(x weight^T + bias) and of that [+ accumulate] the second, which has no
 * activation. The first one's activation goes back within the product that leads to it.
 */
export function twoLinears(x: Tensor, first: LinearMap, second: LinearMap, accumulate?: Tensor): Tensor {
  const { activation } = first
  const inputs = [
    x,
    ...[first, second].flatMap(({ weight, bias }) => (bias ? [weight, bias] : [weight])),
    ...(accumulate ? [accumulate] : []),
  ]
  const plain = [first, second].every(({ weight }) => weight.half === undefined && weight.shape.length === 2)
  if (!plain || !activation || !fromOutput.has(activation) || !records(inputs)) return linear(linear(x, first), second, accumulate)
  const [h, y] = noGrad(() => {
    const h = linear(x, first)
    return [h, linear(h, second, accumulate)]
  })
  const ofSecond = first.bias ? 3 : 2
  return record('twoLinears', inputs, y, (dy, sofar, fresh) => {
    h.requiresGrad = [x, first.weight, first.bias].some((t) => t?.requiresGrad)
    const [dz, ...gradients] = linearGradients(
      h,
      [{ ...second, dz: dy }],
      (i) => (i === 0 ? null : sofar(i - 1 + ofSecond)),
      (i) => (i === 0 ? like(h) : fresh(i - 1 + ofSecond)),
      activation,
    )
    return [...linearGradients(x, [{ ...first, dz }], sofar, fresh), ...gradients, ...(accumulate ? [dy] : [])]
  })
}
