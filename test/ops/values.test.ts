/** What the ops compute, against numbers worked out by hand: the reference is the oracle of all other tests, and this is its own. */
import assert from 'node:assert/strict'
import * as engine from '../../engine/index.ts'
import { type Nested, scope, type Tensor, tensor, type UnaryOp } from '../../engine/index.ts'
import { assertClose, reference } from '../helpers.ts'

const t = (data: Nested): Tensor => tensor(data, { device: reference })
const int = (data: Nested): Tensor => tensor(data, { device: reference, dtype: 'int32' })

/** At 0.5 and at -2, to 12 digits (NaN where there is none). */
const unaryValues: Record<UnaryOp, [number, number]> = {
  neg: [-0.5, 2],
  abs: [0.5, 2],
  exp: [1.6487212707, 0.135335283237],
  log: [-Math.LN2, NaN],
  sqrt: [Math.SQRT1_2, NaN],
  square: [0.25, 4],
  reciprocal: [2, -0.5],
  sin: [0.479425538604, -0.909297426826],
  cos: [0.87758256189, -0.416146836547],
  sigmoid: [0.622459331202, 0.119202922022],
  tanh: [0.46211715726, -0.964027580076],
  relu: [0.5, 0],
  elu: [0.5, -0.864664716763],
  silu: [0.311229665601, -0.238405844044],
  gelu: [0.345714009825, -0.045402305912],
  softplus: [0.97407698418, 0.126928011043],
}

const third = 1 / 3
const x23 = [
  [1, 2, 3],
  [4, 5, 6],
]

/** A call and the values it must give, in row-major order. */
const table: [title: string, call: () => Tensor, expected: number[]][] = [
  ['add broadcasts', () => engine.add(t(x23), t([[10], [20]])), [11, 12, 13, 24, 25, 26]],
  ['sub from the right', () => engine.sub(t(x23), t([1, 1, 2])), [0, 1, 1, 3, 4, 4]],
  ['mul', () => engine.mul(t([2, 3]), t([4, 5])), [8, 15]],
  ['div by a constant', () => engine.div(t([2, 3]), 4), [0.5, 0.75]],
  ['maximum, minimum', () => engine.concat([engine.maximum(t([1, 5]), t([3, 2])), engine.minimum(t([1, 5]), 3)], 0), [3, 5, 1, 3]],
  ['equal, greater', () => engine.concat([engine.equal(t([1, 2]), 2), engine.greater(t([1, 3]), t([1, 2]))], 0), [0, 1, 0, 1]],
  ['affine', () => engine.affine(t([1, 2]), 3, -1), [2, 5]],
  ['expand', () => engine.expand(t([[1], [2]]), [2, 2]), [1, 1, 2, 2]],
  ['sum of an axis', () => engine.sum(t(x23), { axis: 0 }), [5, 7, 9]],
  ['sum of all', () => engine.sum(t(x23)), [21]],
  ['mean, max', () => engine.concat([engine.mean(t(x23), { axis: 1 }), engine.max(t(x23), { axis: 1 })], 0), [2, 5, 3, 6]],
  ['cumsum', () => engine.cumsum(t(x23), 1), [1, 3, 6, 4, 9, 15]],
  ['cumsum from the end', () => engine.cumsum(t(x23), 1, true), [6, 5, 3, 15, 11, 6]],
  ['permute', () => engine.permute(t(x23), [1, 0]), [1, 4, 2, 5, 3, 6]],
  [
    'permute of three axes',
    () =>
      engine.permute(
        t([
          [
            [1, 2],
            [3, 4],
          ],
          [
            [5, 6],
            [7, 8],
          ],
        ]),
        [2, 0, 1],
      ),
    [1, 3, 5, 7, 2, 4, 6, 8],
  ],
  ['slice', () => engine.slice(t(x23), 1, 1, 3), [2, 3, 5, 6]],
  ['concat of columns', () => engine.concat([t(x23), t([[7], [8]])], 1), [1, 2, 3, 7, 4, 5, 6, 8]],
  ['roll: y[j] = x[j - shift]', () => engine.roll(t([1, 2, 3, 4]), 0, 1), [4, 1, 2, 3]],
  ['gather', () => engine.gather(t(x23), int([1, 0, 1])), [4, 5, 6, 1, 2, 3, 4, 5, 6]],
  [
    'matmul',
    () =>
      engine.matmul(
        t(x23),
        t([
          [1, 0],
          [0, 1],
          [1, 1],
        ]),
      ),
    [4, 5, 10, 11],
  ],
  [
    'matmul, second transposed',
    () =>
      engine.matmul(
        t(x23),
        t([
          [1, 0, 1],
          [0, 1, 1],
        ]),
        { transposeB: true },
      ),
    [4, 5, 10, 11],
  ],
  [
    'matmul, first transposed',
    () =>
      engine.matmul(
        t([
          [1, 4],
          [2, 5],
          [3, 6],
        ]),
        t([
          [1, 0],
          [0, 1],
          [1, 1],
        ]),
        { transposeA: true },
      ),
    [4, 5, 10, 11],
  ],
  [
    'matmul fused: relu(a b + bias + residual)',
    () =>
      engine.matmul(
        t([[1, 2]]),
        t([
          [1, -1],
          [1, -1],
        ]),
        { bias: t([10, 1]), accumulate: t([[100, 1]]), activation: 'relu' },
      ),
    [113, 0],
  ],
  ['layerNorm', () => engine.layerNorm(t([1, 3]), t([2, 2]), t([0, 1]), 0), [-2, 3]],
  ['rmsNorm', () => engine.rmsNorm(t([3, 4]), t([1, 2]), 0), [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)]],
  ['l2Norm', () => engine.l2Norm(t([3, 4]), 0), [0.6, 0.8]],
  ['l2Norm: eps inside the root', () => engine.l2Norm(t([3, 4]), 11), [0.5, 4 / 6]],
  ['sumNorm: eps beside the sum', () => engine.sumNorm(t([1, 2]), 1), [0.25, 0.5]],
  ['softmax', () => engine.softmax(t([0, Math.log(3)])), [0.25, 0.75]],
  ['softmax without overflow', () => engine.softmax(t([1000, 1000 + Math.log(3)])), [0.25, 0.75]],
  [
    'softmax, causal, the last T of n keys',
    () =>
      engine.softmax(
        t([
          [0, 0, 9],
          [0, 0, 0],
        ]),
        { causal: true },
      ),
    [0.5, 0.5, 0, third, third, third],
  ],
  ['logSoftmax', () => engine.logSoftmax(t([0, Math.log(3)])), [Math.log(0.25), Math.log(0.75)]],
  [
    'crossEntropy, mean of the targets that count',
    () =>
      engine.crossEntropy(
        t([
          [0, 0],
          [0, Math.log(3)],
          [5, 5],
        ]),
        int([0, 1, -100]),
      ),
    [(Math.log(2) - Math.log(0.75)) / 2],
  ],
  [
    'crossEntropy, each',
    () =>
      engine.crossEntropy(
        t([
          [0, 0],
          [9, 1],
        ]),
        int([1, 0]),
        { ignore: 0, reduction: 'none' },
      ),
    [Math.log(2), 0],
  ],
  ['causalConv: the last tap is the present', () => engine.causalConv(t([[[1], [2], [3]]]), t([[10, 1]])).y, [1, 12, 23]],
  ['causalConv goes on from its state', () => engine.causalConv(t([[[1], [2]]]), t([[100, 10, 1]]), t([[[7], [8]]])).y, [781, 812]],
  ['causalConv: the state is the last W - 1 inputs', () => engine.causalConv(t([[[1]]]), t([[100, 10, 1]]), t([[[7], [8]]])).state, [8, 1]],
  // The sums are [1, 3], [12, 34]; silu(x) = x / (1 + e^-x); two channels over their length.
  [
    'causalConv goes on with silu',
    () =>
      engine.causalConv(
        t([
          [
            [1, 3],
            [2, 4],
          ],
        ]),
        t([
          [10, 1],
          [10, 1],
        ]),
        undefined,
        { silu: true },
      ).y,
    [1, 3, 12, 34].map((x) => x / (1 + Math.exp(-x))),
  ],
  [
    'causalConv goes on with the L2 norm of neighbours',
    () =>
      engine.causalConv(
        t([
          [
            [3, 4],
            [5, 12],
          ],
        ]),
        t([
          [0, 1],
          [0, 1],
        ]),
        undefined,
        { l2Width: 2, eps: 0 },
      ).y,
    [3 / 5, 4 / 5, 5 / 13, 12 / 13],
  ],
  [
    'softplusDecay',
    () => engine.softplusDecay(t([[[1], [-1]]]), t([[Math.log(2)], [0]]), t([[1], [2]])),
    [-2 * Math.log1p(Math.exp(2)), -Math.log1p(Math.exp(1))],
  ],
  // r = relu([1, -2, -1, 2]) = [1, 0, 0, 2]; roll 1: [2, 1, 0, 0]; roll 2: [0, 2, 1, 0].
  ['dpfp', () => engine.dpfp(t([1, -2]), 2), [2, 0, 0, 0, 0, 0, 0, 0]],
  ['dpfp of one sign', () => engine.dpfp(t([3, 5]), 1), [0, 15, 0, 0]],
  [
    'dpfpSum',
    () =>
      engine.dpfpSum(
        t([
          [3, 1, 2],
          [3, 1, 2],
        ]),
        1,
        1,
      ),
    [0, 3 / 6, 2 / 6, 0, 0, 0, 0, 3 / 6, 2 / 6, 0, 0, 0],
  ],
  ['gradNorm', () => engine.gradNorm([t([3]), t([0, 4])]), [5]],
  ['clipScale', () => engine.clipScale(t([4]), 1), [1 / (4 + 1e-6)]],
  ['clipScale leaves small ones', () => engine.clipScale(t([0.5]), 1), [1]],
]

const adam = { lr: 0.1, beta1: 0.5, beta2: 0.75, eps: 0, weightDecay: 0.5, decoupled: true, correction1: 0.5, correction2: 0.25 }

describe('values', () => {
  const check = async (call: () => Tensor | Tensor[], expected: number[]): Promise<void> => {
    const ys = [scope(call)].flat()
    const values: number[] = []
    for (const y of ys) {
      values.push(...(await y.read()))
      y.dispose()
    }
    assertClose(values, expected, 1e-11)
  }

  for (const [op, expected] of Object.entries(unaryValues))
    it(op, async () => {
      const kept = expected.filter((y) => !Number.isNaN(y))
      await check(() => engine.unary(op as UnaryOp, t([0.5, -2].slice(0, kept.length))), kept)
    })

  for (const [title, call, expected] of table) it(title, () => check(call, expected))

  // The first step: m = (1 - beta1) g, v = (1 - beta2) g^2, both corrected to g and g^2: a step of lr in the gradient's direction.
  it('adamStep, decoupled: p - lr (weightDecay p + sign)', () =>
    check(() => {
      const [p, g, m, v] = [t([2, -4]), t([3, -1]), t([0, 0]), t([0, 0])]
      engine.adamStep(p, g, m, v, adam)
      return [p, m, v]
    }, [2 - 0.1 * (1 + 1), -4 - 0.1 * (-2 - 1), 1.5, -0.5, 2.25, 0.25]))

  it('adamStep, coupled: weight decay is part of the gradient, which clipping scales before', () =>
    check(() => {
      const [p, g, m, v] = [t([2]), t([3]), t([0]), t([0])]
      engine.adamStep(p, g, m, v, { ...adam, decoupled: false }, t([0.5]))
      return [p, m, v]
    }, [2 - 0.1, 1.25, 0.25 * 2.5 ** 2]))

  // g = diag(3, -2) and m = 0: the direction keeps the signs and has singular values near 1 (Jordan's quintic leaves them within 0.68..1.13).
  it('muonStep: singular values of the direction are about 1', async () => {
    const [p, g, m] = [
      t([
        [0, 0],
        [0, 0],
      ]),
      t([
        [3, 0],
        [0, -2],
      ]),
      t([
        [0, 0],
        [0, 0],
      ]),
    ]
    engine.muonStep(p, g, m, { lr: 1, momentum: 0.5, weightDecay: 0 })
    const [a, b, c, d] = await p.read()
    assert.ok(-a > 0.68 && -a < 1.13 && d > 0.68 && d < 1.13, `${[a, b, c, d]}`)
    assert.deepEqual([b, c].map(Math.abs), [0, 0])
    assert.deepEqual([...(await m.read())], [3, 0, 0, -2])
  })

  it('sumRule with a normaliser, from a state', () =>
    // S = 4, z = 1; then k v = 2 * 3 and k = 2: S = 10, z = 3; q = 2: 20 / (6 + 1).
    check(() => {
      const one = (x: number): Tensor => t([[[[x]]]])
      const { y, state } = engine.sumRule(one(2), one(2), one(3), { S: one(4), z: t([[[1]]]) }, { normalise: true, eps: 1 })
      return [y, state.S, state.z!]
    }, [20 / 7, 10, 3]))

  it('deltaRule: S + beta k (v - S k)', () =>
    check(() => {
      const one = (x: number): Tensor => t([[[[x]]]])
      const { y, state } = engine.deltaRule(one(3), one(2), one(7), t([[[0.25]]]), { S: one(1) }, { scale: 10 })
      return [y, state.S]
    }, [10 * 3 * 3.5, 1 + 0.25 * 2 * (7 - 2)]))
})
