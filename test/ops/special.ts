/** What every device does with huge, infinite and NaN values in rows. */
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
