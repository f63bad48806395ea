/** The fast-weight recurrence: a task of kernels-wasm/fast-weights.ts is one head of one sequence, so B H tasks. */
import type { FastWeightSizes, KernelForm, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

const up8 = (n: number) => Math.ceil(n / 8) * 8
const pointer = (block: Block | null) => block?.pointer ?? 0

/** Multiplications and additions that are worth a hand-over to another thread. */
const worthSharing = 1 << 18

/** Bytes of scratch memory that kernels-wasm/fast-weights.ts takes for each thread; 1024 floats cover the gaps between its blocks. */
export function scratchBytes(form: KernelForm, backward: boolean, decayed: boolean, { T, K, V, C }: FastWeightSizes): number {
  const K8 = up8(K),
    W8 = up8(V + 1),
    n = up8(Math.min(C, T))
  const state = K8 * W8
  const [keys, values, pairs, states] =
    form === 'recurrent'
      ? [backward ? 4 * n : 0, backward ? 3 * n : 0, 0, backward ? n : 0]
      : !backward
        ? [8 * n, 2 * n, 5 * n, 0]
        : decayed
          ? [16 * n, 8 * n, 7 * n, 2]
          : [7 * n, 8 * n, 6 * n, 2]
  const vectors = 6 * K8 + 3 * W8 + 17 * n
  return 4 * (keys * K8 + values * W8 + pairs * n + (states + 2) * state + vectors + 1024)
}

export function fastWeightKernels(pool: Pool): Pick<Kernels<Block>, 'fastWeights' | 'fastWeightsBackward'> {
  function run(
    kernel: 'fastWeights' | 'fastWeightsBackward',
    form: KernelForm,
    sizes: FastWeightSizes,
    decayed: boolean,
    blocks: (Block | null)[],
    eps: number[],
  ) {
    const { B, T, H, K, V, C, scale, gateWidth } = sizes
    const backward = kernel === 'fastWeightsBackward'
    const perHead = (backward ? 16 : 6) * T * K * V
    const args = [Number(form === 'chunk'), ...blocks.map(pointer), T, H, K, V, gateWidth, C, scale, ...eps]
    pool.run(kernel, B * H, Math.max(1, Math.floor(worthSharing / perHead)), args, scratchBytes(form, backward, decayed, sizes))
  }
  return {
    fastWeights(form, { q, k, v, beta, gate, erase, s0, z0 }, { y, sT, zT, den, states, zs }, sizes) {
      const blocks = [q, k, v, beta, gate, erase, s0, z0, y, sT, zT, den, states, zs]
      run('fastWeights', form, sizes, (gate ?? erase) !== null, blocks, [sizes.eps])
    },
    fastWeightsBackward(form, { q, k, v, beta, gate, erase }, { y, den, states, zs }, { dy, dsT, dzT }, gradients, sizes) {
      const { dq, dk, dv, dbeta, dgate, derase, ds0, dz0 } = gradients
      const blocks = [q, k, v, beta, gate, erase, y, den, states, zs, dy, dsT, dzT, dq, dk, dv, dbeta, dgate, derase, ds0, dz0]
      run('fastWeightsBackward', form, sizes, (gate ?? erase) !== null, blocks, [])
    },
  }
}
