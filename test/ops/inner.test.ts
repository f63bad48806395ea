/** Titans' memory beside that of TTT, whose gradients claims compare with automatic differentiation; and minibatches that aren't full. */
import assert from 'node:assert/strict'
import {
  affine,
  concat,
  type FastWeightState,
  ones,
  type RuleResult,
  setDevice,
  slice,
  type Tensor,
  tensor,
  titansRule,
  tttRule,
  zeros,
} from '../../engine/index.ts'
import { assertClose, reference, sizeOf, uniforms } from '../helpers.ts'

const [B, T, H, V] = [1, 3, 2, 4]
const draw = (seed: number, shape: number[], low = -1): Tensor => tensor(uniforms(seed, sizeOf(shape), low), { shape })

describe('memories that learn', () => {
  before(() => setDevice(reference))
  const given = () => {
    const [q, k, v, S] = [1, 2, 3, 4].map((seed) => draw(seed, seed < 4 ? [B, T, H, V] : [B, H, V, V]))
    const [theta, alpha, eta] = [5, 6, 7].map((seed) => draw(seed, [B, T, H], 0))
    const [w, b] = [8, 9].map((seed) => draw(seed, [H, V], 0.5))
    return { q, k, v, S, theta, alpha, eta, w, b }
  }

  it('take one step: without momentum and forgetting Titans keeps what TTT at twice the rate does', async () => {
    const { q, k, v, S, w, b } = given()
    const none = zeros([B, T, H])
    const rate = affine(ones([B, T, H]), 0.15)
    const titans = titansRule(q, k, v, rate, none, none, w, b, { S, M: zeros(S.shape) }, { minibatch: T }).state
    const ttt = tttRule(q, k, v, affine(rate, 2), w, b, { S, c: zeros([B, H, V]) }, { minibatch: T }).state
    assertClose(await titans.S.read(), Array.from(await ttt.S.read()), 1e-12)
  })

  it('leave of a minibatch that is not full what its tokens say, and nothing of those that are missing', async () => {
    const { q, k, v, S, theta, alpha, eta, w, b } = given()
    const [M, c] = [draw(10, [B, H, V, V]), draw(11, [B, H, V])]
    for (const run of [
      (minibatch: number) => titansRule(q, k, v, theta, alpha, eta, w, b, { S, M }, { minibatch }),
      (minibatch: number) => tttRule(q, k, v, theta, w, b, { S, c }, { minibatch }),
    ]) {
      const [full, open] = [run(T), run(16)].map(({ y, state }) => ({ y, ...state }) as unknown as Record<string, Tensor>)
      for (const [name, t] of Object.entries(open)) assert.deepEqual(await t.read(), await full[name].read(), name)
    }
  })

  it('learn from a last minibatch as from one of its own', async () => {
    const { q, k, v, S, theta, alpha, eta, w, b } = given()
    const run = (from: number, to: number, before: FastWeightState): RuleResult => {
      const [at, of] = [
        [q, k, v],
        [theta, alpha, eta],
      ].map((xs) => xs.map((x) => slice(x, 1, from, to)))
      return titansRule(at[0], at[1], at[2], of[0], of[1], of[2], w, b, before, { minibatch: 2, eps: 0 })
    }
    const before = { S, M: draw(10, [B, H, V, V]) }
    const [all, first] = [run(0, T, before), run(0, 2, before)]
    const last = run(2, T, first.state)
    assertClose(await all.y.read(), Array.from(await concat([first.y, last.y], 1).read()), 1e-12)
    for (const part of ['S', 'M'] as const) assertClose(await all.state[part]!.read(), Array.from(await last.state[part]!.read()), 1e-12)
  })
})
