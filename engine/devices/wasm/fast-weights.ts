/**
 * The fast-weight recurrences: a task of kernels-wasm/fast-weights.ts is one head of one sequence, so B H tasks. Sum and delta rule share
 * their kernels; the sum rule has no beta.
 */
import type { FastWeightSizes, Form, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

const up8 = (n: number) => Math.ceil(n / 8) * 8
const pointer = (block: Block | null) => block?.pointer ?? 0

/** Multiplications and additions that are worth a hand-over to another thread. */
const worthSharing = 1 << 18

/** Bytes of scratch memory that kernels-wasm/fast-weights.ts takes; 512 floats cover the gaps between its blocks. */
function scratchBytes(form: Form, backward: boolean, { T, K, V, C }: FastWeightSizes): number {
  const K8 = up8(K),
    W8 = up8(V + 1),
    n = up8(Math.min(C, T))
  const state = K8 * W8
  if (form === 'chunk') return 4 * (n * (7 * K8 + 8 * W8 + 5 * n + 1) + 4 * state + 512)
  return 4 * ((backward ? n * (2 * K8 + 3 * W8 + state) : 0) + 2 * K8 + 2 * W8 + 2 * state + 512)
}

export function fastWeightKernels(pool: Pool): Pick<Kernels<Block>, 'sumRule' | 'sumRuleBackward' | 'deltaRule' | 'deltaRuleBackward'> {
  function run(kernel: 'fastWeights' | 'fastWeightsBackward', form: Form, sizes: FastWeightSizes, blocks: (Block | null)[], eps: number[]) {
    const { B, T, H, K, V, C, scale } = sizes
    const backward = kernel === 'fastWeightsBackward'
    const perHead = (backward ? 16 : 6) * T * K * V
    const args = [Number(form === 'chunk'), ...blocks.map(pointer), T, H, K, V, C, scale, ...eps]
    pool.run(kernel, B * H, Math.max(1, Math.floor(worthSharing / perHead)), args, scratchBytes(form, backward, sizes))
  }
  return {
    sumRule: (form, q, k, v, s0, z0, y, sT, zT, den, states, zs, eps, sizes) =>
      run('fastWeights', form, sizes, [q, k, v, null, s0, z0, y, sT, zT, den, states, zs], [eps]),
    sumRuleBackward: (form, q, k, v, y, den, states, zs, dy, dsT, dzT, dq, dk, dv, ds0, dz0, sizes) =>
      run('fastWeightsBackward', form, sizes, [q, k, v, null, y, den, states, zs, dy, dsT, dzT, dq, dk, dv, null, ds0, dz0], []),
    deltaRule: (form, q, k, v, beta, s0, y, sT, states, sizes) =>
      run('fastWeights', form, sizes, [q, k, v, beta, s0, null, y, sT, null, null, states, null], [0]),
    deltaRuleBackward: (form, q, k, v, beta, states, dy, dsT, dq, dk, dv, dbeta, ds0, sizes) =>
      run('fastWeightsBackward', form, sizes, [q, k, v, beta, null, null, states, null, dy, dsT, null, dq, dk, dv, dbeta, ds0, null], []),
  }
}
