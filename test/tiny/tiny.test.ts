/** Does it work at all? `npm run test:tiny`, in two seconds: a fast-weight memory learns to recall, on every device. */
import assert from 'node:assert/strict'
import {
  adamStep,
  crossEntropy,
  type Device,
  deltaRule,
  gather,
  generator,
  keep,
  l2Norm,
  matmul,
  normal,
  parameter,
  referenceDevice,
  reshape,
  scope,
  sigmoid,
  tensor,
  wasmDevice,
  zeros,
} from '../../engine/index.ts'
import { random } from '../helpers.ts'

const [N, D, T] = [8, 16, 16]

/** A cycle through all N symbols, another one each step, twice: in the second round a memory can know what comes next. */
function cycle(step: number): number[] {
  const next = random(step)
  const order = Array.from({ length: N }, (_, symbol) => ({ symbol, place: next() })).sort((a, b) => a.place - b.place)
  return Array.from({ length: T + 1 }, (_, t) => order[t % N].symbol)
}

/** Loss in the second round, step by step. Token t writes: after token t-1 comes token t. Then it asks: what comes after token t? */
async function train(device: Device, steps: number): Promise<number[]> {
  const g = generator(1)
  const parameters = [
    [N, D],
    [N, D],
    [N, 1],
    [D, N],
  ].map((shape) => parameter(normal(g, shape, 0, 0.5, device)))
  const moments = parameters.map((p) => [0, 1].map(() => keep(zeros(p.shape, device))))
  const [keys, values, rates, out] = parameters
  const losses: number[] = []
  for (let step = 1; step <= steps; step++) {
    const tokens = cycle(step)
    const now = tokens.slice(0, T)
    const before = [tokens[0], ...now.slice(0, -1)]
    const loss = scope(() => {
      const embed = (table: typeof keys, symbols: number[], shape: number[]) =>
        reshape(gather(table, tensor(symbols, { dtype: 'int32', device })), shape)
      const q = l2Norm(embed(keys, now, [1, T, 1, D]))
      const k = l2Norm(embed(keys, before, [1, T, 1, D]))
      const v = embed(values, now, [1, T, 1, D])
      const beta = sigmoid(embed(rates, before, [1, T, 1]))
      const logits = matmul(reshape(deltaRule(q, k, v, beta).y, [T, D]), out)
      const targets = tokens.slice(1).map((symbol, t) => (t < N ? -100 : symbol))
      const loss = crossEntropy(logits, tensor(targets, { dtype: 'int32', device }))
      loss.backward()
      return loss
    })
    parameters.forEach((p, i) => {
      const options = {
        lr: 0.05,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weightDecay: 0,
        decoupled: true,
        correction1: 1 - 0.9 ** step,
        correction2: 1 - 0.99 ** step,
      }
      adamStep(p, p.grad!, moments[i][0], moments[i][1], options)
      p.grad!.dispose()
      p.grad = null
    })
    losses.push(await loss.item())
    loss.dispose()
  }
  for (const x of [...parameters, ...moments.flat()]) x.dispose()
  return losses
}

describe('tiny', () => {
  it('a fast-weight memory learns to recall, on every device alike, and gives its memory back', async () => {
    const devices = [referenceDevice(), await wasmDevice({ threads: 1, relaxed: false }), await wasmDevice({ threads: 2, relaxed: false })]
    const runs: number[][] = []
    for (const device of devices) {
      const losses = await train(device, 60)
      assert.ok(losses[0] > 1.5, `${device.description}: begins at ${losses[0]}`)
      assert.ok(losses.at(-1)! < 0.2, `${device.description}: ends at ${losses.at(-1)}`)
      assert.equal(device.bytesInUse(), 0)
      device.close()
      runs.push(losses)
    }
    const [reference, one, two] = runs
    assert.deepEqual(two, one)
    for (const [i, loss] of one.slice(0, 20).entries())
      assert.ok(Math.abs(loss - reference[i]) < 1e-3 * reference[i], `step ${i + 1}: ${loss}, reference ${reference[i]}`)
  })
})
