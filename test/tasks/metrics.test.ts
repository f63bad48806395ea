import assert from 'node:assert/strict'
import fc from 'fast-check'
import { ignoredTarget, type MetricName, metrics } from '../../tasks/index.ts'

const _ = ignoredTarget

/** Two batches of two rows of three places. */
const batches = [
  { predictions: [1, 2, 3, 4, 4, 4], targets: [1, 2, _, _, _, 5] },
  { predictions: [7, 1, 1, 2, 9, 2], targets: [_, _, _, 2, 1, 2] },
]

describe('metrics', () => {
  // Rows have 2 of 2, 0 of 1, nothing, 2 of 3; classes 1: 1 of 2, 2: 3 of 3, 5: 0 of 1, and 4 and 9 are predicted only.
  for (const [name, value] of [
    ['places', 4 / 6],
    ['sequences', 1 / 3],
    ['share of each sequence', (1 + 0 + 2 / 3) / 3],
    ['classes', (1 / 2 + 1 + 0 + 0 + 0) / 5],
  ] as const)
    it(`${name}: over batches, without what isn't asked`, () => {
      const metric = metrics[name]()
      assert.ok(Number.isNaN(metric.value()))
      for (const { predictions, targets } of batches) metric.add(predictions, targets, 2)
      assert.ok(Math.abs(metric.value() - value) < 1e-12, `${metric.value()}, expected ${value}`)
    })

  it('are the same however the rows are batched, from 0 to 1, and 1 where all is right', () => {
    const row = fc.array(fc.tuple(fc.nat({ max: 3 }), fc.integer({ min: -1, max: 3 })), { minLength: 4, maxLength: 4 })
    fc.assert(
      fc.property(fc.array(row, { minLength: 1, maxLength: 6 }), fc.nat(), (rows, at) => {
        const [predictions, targets] = [0, 1].map((part) => rows.flat().map((pair) => pair[part]))
        const asked = targets.some((target) => target !== ignoredTarget)
        const cut = at % rows.length
        for (const name of Object.keys(metrics) as MetricName[]) {
          const [whole, parts, right] = [metrics[name](), metrics[name](), metrics[name]()]
          whole.add(predictions, targets, rows.length)
          if (cut > 0) parts.add(predictions.slice(0, 4 * cut), targets.slice(0, 4 * cut), cut)
          parts.add(predictions.slice(4 * cut), targets.slice(4 * cut), rows.length - cut)
          right.add(targets, targets, rows.length)
          if (!asked) for (const metric of [whole, parts, right]) assert.ok(Number.isNaN(metric.value()))
          else {
            assert.ok(Math.abs(whole.value() - parts.value()) < 1e-12)
            assert.ok(whole.value() >= 0 && whole.value() <= 1)
            assert.equal(right.value(), 1)
          }
        }
      }),
    )
  })

  it('refuse predictions and targets that aren’t of the same rows', () => {
    for (const name of Object.keys(metrics) as MetricName[])
      for (const [predictions, targets, B] of [
        [[1], [1, 2], 1],
        [[1, 2, 3], [1, 2, 3], 2],
      ] as const)
        assert.throws(() => metrics[name]().add(predictions, targets, B), {
          message: /^metric: \d predictions and \d targets aren't \d rows of both$/,
        })
  })
})
