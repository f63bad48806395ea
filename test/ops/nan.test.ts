/** What NaN does in every op, by value and gradient, on every device: the promise at the head of engine/devices/kernels.ts. */
import assert from 'node:assert/strict'
import * as engine from '../../engine/index.ts'
import { type Device, scope, type Tensor, tensor, type UnaryOp, unaryOps } from '../../engine/index.ts'
import { sigmoidLater } from '../../engine/ops/later.ts'
import { builds, gpus, random, readAndFree, reference, uniforms, wasm } from '../helpers.ts'

const devices = async (): Promise<Device[]> => [
  reference,
  ...(await Promise.all(builds.map(({ relaxed }) => wasm(1, relaxed)))),
  ...(await gpus()),
]

/** x as two tokens of three channels. */
const convolved = (x: Tensor, make: (data: engine.Nested) => Tensor, options: engine.ConvOptions = {}): Tensor =>
  engine.causalConv(
    engine.reshape(x, [1, 2, 3]),
    make([
      [1, 2],
      [3, 4],
      [5, 6],
    ]),
    undefined,
    options,
  ).y

/** x = [[1, NaN, 2], [3, 4, 5]]; where the value and the gradient of x are NaN, in row-major order: N, and . for a number. */
const cases: Record<string, [call: (x: Tensor, make: (data: engine.Nested) => Tensor) => Tensor, value: string, gradient: string | null]> =
  {
    ...Object.fromEntries(
      unaryOps.map((op: UnaryOp) => [op, [(x: Tensor) => engine.unary(op, x), '.N....', op === 'neg' ? '......' : '.N....']] as const),
    ),
    affine: [(x) => engine.affine(x, 2, 1), '.N....', '......'],
    'add, a row': [(x, make) => engine.add(x, make([1, 2, 3])), '.N....', '......'],
    'mul by itself': [(x) => engine.mul(x, x), '.N....', '.N....'],
    'div of 1': [(x, make) => engine.div(make([1]), x), '.N....', '.N....'],
    'maximum with a number': [(x) => engine.maximum(x, 4), '.N....', '.N....'],
    'maximum, second': [(x, make) => engine.maximum(make([4, 4, 4]), x), '.N....', '.N....'],
    'minimum with a number': [(x) => engine.minimum(x, 4), '.N....', '.N....'],
    'minimum, second': [(x, make) => engine.minimum(make([4, 4, 4]), x), '.N....', '.N....'],
    'equal to itself': [(x) => engine.equal(x, x), '......', null],
    greater: [(x) => engine.greater(x, 0), '......', null],
    'greater, second': [(x, make) => engine.greater(make([9]), x), '......', null],
    'sum of rows': [(x) => engine.sum(x, { axis: 1 }), 'N.', '......'],
    'sum of columns': [(x) => engine.sum(x, { axis: 0 }), '.N.', '......'],
    mean: [(x) => engine.mean(x), 'N', '......'],
    'max of rows': [(x) => engine.max(x, { axis: 1 }), 'N.', 'NNN...'],
    'max of columns': [(x) => engine.max(x, { axis: 0 }), '.N.', '.N..N.'],
    'max of all': [(x) => engine.max(x), 'N', 'NNNNNN'],
    cumsum: [(x) => engine.cumsum(x, 1), '.NN...', '......'],
    'cumsum of columns': [(x) => engine.cumsum(x, 0), '.N..N.', '......'],
    'cumsum from the end': [(x) => engine.cumsum(x, 1, true), 'NN....', '......'],
    softmax: [(x) => engine.softmax(x), 'NNN...', 'NNN...'],
    // Its first query sees the first two keys; a key that is hidden has no gradient.
    'softmax, causal': [(x) => engine.softmax(x, { causal: true }), 'NN....', 'NN....'],
    logSoftmax: [(x) => engine.logSoftmax(x), 'NNN...', 'NNN...'],
    crossEntropy: [(x) => engine.crossEntropy(x, targets(x, [0, 1]), { reduction: 'none' }), 'N.', 'NNN...'],
    'crossEntropy, ignored': [(x) => engine.crossEntropy(x, targets(x, [-1, 1]), { ignore: -1, reduction: 'none' }), '..', '......'],
    layerNorm: [(x) => engine.layerNorm(x), 'NNN...', 'NNN...'],
    rmsNorm: [(x) => engine.rmsNorm(x), 'NNN...', 'NNN...'],
    l2Norm: [(x) => engine.l2Norm(x), 'NNN...', 'NNN...'],
    sumNorm: [(x) => engine.sumNorm(x), 'NNN...', 'NNN...'],
    matmul: [(x, make) => engine.matmul(x, make([[1], [2], [3]])), 'N.', '......'],
    ...Object.fromEntries(
      unaryOps.map((op) => [
        `matmul and ${op}`,
        [
          (x: Tensor, make: (data: engine.Nested) => Tensor) => engine.matmul(x, make([[1], [1], [1]]), { activation: op }),
          'N.',
          null,
        ] as const,
      ]),
    ),
    causalConv: [(x, make) => convolved(x, make), '.N..N.', '......'],
    'causalConv and silu': [(x, make) => convolved(x, make, { silu: true }), '.N..N.', '.N..N.'],
    'causalConv, silu and the L2 norm': [(x, make) => convolved(x, make, { silu: true, l2Width: 3 }), 'NNNNNN', 'NNNNNN'],
    softplusDecay: [(x, make) => engine.softplusDecay(x, make([0, 1, 2]), make([1, 2, 3])), '.N....', '.N....'],
    'mul by a number a row': [(x, make) => engine.mul(x, make([[2], [3]])), '.N....', '......'],
    // relu([x, -x]) = [1, NaN, 2, 0, NaN, 0], each times the one before.
    dpfp: [(x) => engine.dpfp(x), '.NN.NN......', 'NNN...'],
    dpfpSum: [(x) => engine.dpfpSum(x), 'NNNNNN......', 'NNN...'],
    gather: [(x) => engine.gather(x, targets(x, [1, 0])), '....N.', '......'],
    permute: [(x) => engine.permute(x, [1, 0]), '..N...', '......'],
    solveSpd: [
      (_, make) =>
        engine.solveSpd(
          make([
            [4, 0],
            [Number.NaN, 4],
          ]),
          make([1, 1]),
        ),
      'NN',
      null,
    ],
    gradNorm: [(x) => engine.gradNorm([x]), 'N', null],
    clipScale: [(x) => engine.clipScale(engine.gradNorm([x]), 1), 'N', null],
  }

const targets = (x: Tensor, values: number[]): Tensor => tensor(values, { dtype: 'int32', device: x.device })

const pattern = (values: readonly number[]): string => values.map((y) => (Number.isNaN(y) ? 'N' : '.')).join('')

describe('NaN', () => {
  for (const [name, [call, value, gradient]] of Object.entries(cases))
    it(name, async () => {
      for (const device of await devices()) {
        const { y, dx } = scope(() => {
          const make = (data: engine.Nested): Tensor => tensor(data, { device })
          const data = [
            [1, Number.NaN, 2],
            [3, 4, 5],
          ]
          const x = tensor(data, { device, requiresGrad: true })
          if (gradient !== null) {
            const y = call(x, make)
            y.backward(tensor(new Float32Array(y.size).fill(1), { shape: y.shape, device }))
          }
          return { y: call(make(data), make), dx: x.grad ?? make([]) }
        })
        assert.equal(pattern(await readAndFree(y)), value, `${device.name}, value`)
        const dxs = pattern(await readAndFree(dx))
        if (gradient !== null) assert.equal(dxs, gradient, `${device.name}, gradient`)
      }
    })

  it('comes out wherever it lies in a long row', async () => {
    const [R, n] = [12, 300]
    const next = random(5)
    const data = Float32Array.from({ length: R * n }, () => next())
    // The last row has none.
    for (let r = 0; r < R - 1; r++) data[r * n + Math.floor(next() * n)] = Number.NaN
    const ops: Record<string, (x: Tensor) => Tensor> = {
      max: (x) => engine.max(x, { axis: 1 }),
      sum: (x) => engine.sum(x, { axis: 1 }),
      softmax: (x) => engine.softmax(x),
      logSoftmax: (x) => engine.logSoftmax(x),
      crossEntropy: (x) => engine.crossEntropy(x, targets(x, new Array(R).fill(7)), { reduction: 'none' }),
      layerNorm: (x) => engine.layerNorm(x),
      l2Norm: (x) => engine.l2Norm(x),
      sumNorm: (x) => engine.sumNorm(x),
    }
    for (const device of await devices())
      for (const [name, op] of Object.entries(ops)) {
        const y = await readAndFree(scope(() => op(tensor(data, { shape: [R, n], device }))))
        const width = y.length / R
        assert.equal(pattern(y), 'N'.repeat((R - 1) * width) + '.'.repeat(width), `${device.name}, ${name}`)
      }
  })

  it('at padding, in what write strengths are sigmoids of, stays out of their gradient', async () => {
    const [T, H, K] = [6, 2, 5]
    const mask = [1, 0, 1, 1, 0, 1]
    for (const device of await devices())
      for (const form of engine.forms) {
        const dx = scope(() => {
          const [q, k, v] = [1, 2, 3].map((seed) => tensor(uniforms(seed, T * H * K), { shape: [1, T, H, K], device }))
          const logits = uniforms(4, T * H).map((x, i) => (mask[Math.floor(i / H)] ? x : i % 2 ? Number.NaN : Number.POSITIVE_INFINITY))
          const x = tensor(logits, { shape: [1, T, H], device, requiresGrad: true })
          const packing = { mask: tensor(Int32Array.from(mask), { shape: [1, T], device }) }
          const { y } = engine.deltaRule(q, k, v, sigmoidLater(x), undefined, { form, ...packing })
          engine.sum(engine.square(y)).backward()
          return x.grad!
        })
        const found = [...(await readAndFree(dx))].map((g) => (Number.isNaN(g) ? 'N' : g === 0 ? '0' : '.'))
        assert.equal(found.join(''), '..00....00..', `${device.name}, ${form}`)
      }
  })

  it('in a gradient: a step of Adam passes it to the parameter and moments of that element alone', async () => {
    const options = { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, decoupled: true, correction1: 0.1, correction2: 0.01 }
    for (const device of await devices()) {
      const [p, g, m, v] = [
        [1, 2, 3],
        [1, Number.NaN, 1],
        [0, 0, 0],
        [0, 0, 0],
      ].map((data) => tensor(data, { device }))
      engine.adamStep(p, g, m, v, options)
      for (const t of [p, m, v]) assert.equal(pattern(await readAndFree(t)), '.N.', device.name)
      g.dispose()
    }
  })

  it('in a gradient: a step of Muon passes it to all of that matrix and to that element of its momentum, and to no other matrix', async () => {
    for (const device of await devices()) {
      const made = (data: number[]): Tensor => tensor(data, { shape: [2, 3], device })
      const slots = [Number.NaN, 1].map((x) => ({ p: made([1, 2, 3, 4, 5, 6]), g: made([1, x, 1, 2, 3, 5]), m: made([0, 0, 0, 0, 0, 0]) }))
      engine.muonSteps(slots, { lr: 0.1, momentum: 0.9, weightDecay: 0.1 })
      const patterns = await Promise.all(slots.flatMap(({ p, m }) => [p, m]).map(async (t) => pattern(await readAndFree(t))))
      assert.deepEqual(patterns, ['NNNNNN', '.N....', '......', '......'], device.name)
      for (const { g } of slots) g.dispose()
    }
  })

  it('compared is neither equal nor greater', async () => {
    for (const device of await devices()) {
      const data = [Number.NaN, 1, Number.NaN, 2]
      const ys = scope(() => {
        const [a, b] = [tensor(data, { device }), tensor([Number.NaN, Number.NaN, 1, 1], { device })]
        return [engine.equal(a, b), engine.greater(a, b), engine.greater(b, a)]
      })
      for (const [i, y] of ys.entries()) assert.deepEqual(await readAndFree(y), i === 1 ? [0, 0, 0, 1] : [0, 0, 0, 0], device.name)
    }
  })
})
