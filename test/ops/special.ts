/** What every device does with huge, infinite and NaN values, and how exact its functions are over the whole range. */
import assert from 'node:assert/strict'
import {
  crossEntropy,
  cumsum,
  type Device,
  dpfp,
  layerNorm,
  logSoftmax,
  max,
  maximum,
  minimum,
  scope,
  softmax,
  sum,
  tensor,
  type UnaryOp,
  unary,
} from '../../engine/index.ts'
import { readAndFree, reference } from '../helpers.ts'

/** Rows come out as on the reference. */
export async function checkSpecialRows(device: Device): Promise<void> {
  const rows = [
    [1000, 999, -1000, 998, 0],
    [-1000, -1001, -999, -1000, -1000],
    [-Infinity, 0, 1, -Infinity, 2],
    [0, 1, 2, 3, NaN],
    [0, 1, 2, 3, Infinity],
    [1e15, -1e15, 1e15, 0, 1],
    [-Infinity, -Infinity, -Infinity, -Infinity, -Infinity],
  ]
  const targets = Int32Array.of(0, 1, 2, 0, 0, 0, 0)
  const results = async (device: Device): Promise<number[][]> => {
    const ys = scope(() => {
      const x = tensor(rows, { device })
      const t = tensor(targets, { device })
      const loss = crossEntropy(x, t, { reduction: 'none' })
      return [
        softmax(x),
        logSoftmax(x),
        loss,
        max(x, { axis: 1 }),
        max(x, { axis: 0 }),
        sum(x, { axis: 1 }),
        cumsum(x, 1),
        layerNorm(x),
        maximum(x, 0),
        minimum(x, 0),
        dpfp(x),
      ]
    })
    return Promise.all(ys.map(readAndFree))
  }
  const [actual, expected] = await Promise.all([device, reference].map(results))
  for (const [i, es] of expected.entries())
    for (const [j, e] of es.entries()) {
      const a = actual[i][j]
      assert.ok(
        Number.isFinite(e) ? Math.abs(a - e) <= 1e-6 * Math.max(1, Math.abs(e)) : Object.is(a, e),
        `result ${i}, element ${j}: ${a}, expected ${e}`,
      )
    }
}

/** Special values, and the relative error over the whole range; `least`: numbers nearer to 0, which a device may take for 0, are left out. */
export async function checkUnary(op: UnaryOp, device: Device, least = 0): Promise<void> {
  const magnitudes = [
    0,
    1e-40,
    1e-30,
    1e-10,
    1e-5,
    1e-3,
    0.01,
    0.1,
    0.3,
    0.7,
    1,
    1.5,
    3,
    7,
    9.5,
    16,
    30,
    60,
    80,
    87,
    95,
    110,
    1e3,
    1e5,
    1e10,
    1e30,
    Infinity,
  ]
  // Angles beyond 1e3 lose their meaning in float32.
  const angle = op === 'sin' || op === 'cos'
  const kept = magnitudes.filter((x) => (x === 0 || x >= least) && (!angle || x <= 1e3 || x === Infinity))
  const values = Float32Array.from([...kept.flatMap((x) => [x, -x]), NaN])
  const [actual, expected] = await Promise.all(
    [device, reference].map(async (d) => {
      const { y, dx } = scope(() => {
        const x = tensor(values, { device: d, requiresGrad: true })
        const y = unary(op, x)
        y.backward(
          tensor(
            values.map(() => 1),
            { device: d },
          ),
        )
        return { y, dx: x.grad! }
      })
      return { y: await readAndFree(y), dx: await readAndFree(dx) }
    }),
  )
  // A few roundings; for gelu also that of the exponent, of up to 87, which e^x makes a relative error. Angles: those of 1 at their zeros.
  const relative = op === 'gelu' ? 87 * 2 ** -24 : 1e-6
  // Below 2e-38 a result may be flushed to 0. Derivatives come from 1 - y, 1 - y^2 and the like: a rounding of 1 stays;
  // beyond 1e5 it may be multiplied by x. abs and
  // relu have a slope each side of 0, and NaN is on neither.
  const absolute = { y: angle ? 1e-6 : 2e-38, dx: 1e-6 }
  for (const name of ['y', 'dx'] as const)
    values.forEach((x, i) => {
      const a = actual[name][i]
      const e = Math.fround(expected[name][i])
      const ok = Number.isFinite(e) ? Math.abs(a - e) <= relative * Math.abs(e) + absolute[name] : Object.is(a, e)
      const free = Math.abs(x) > 1e5 || (Number.isNaN(x) && (op === 'abs' || op === 'relu'))
      assert.ok(ok || (name === 'dx' && free), `${op}, ${name} at ${x}: ${a}, expected ${e}`)
    })
}
