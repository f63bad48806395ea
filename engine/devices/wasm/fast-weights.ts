/** The fast-weight recurrence: a task of kernels-wasm/fast-weights.ts is one head of one sequence, so B H tasks. */
import type { FastWeightInputs, FastWeightSizes, KernelForm, Kernels } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

const up8 = (n: number) => Math.ceil(n / 8) * 8
const pointer = (block: Block | null) => block?.pointer ?? 0

/** Multiplications and additions that are worth a hand-over to another thread. */
const worthSharing = 1 << 18

/**
 * How many tokens the forward pass takes at once where states are kept every C tokens: half of the usual 32 is faster, by a tenth, and C itself counts
 * where it's more, up to all tokens.
 */
const tokensAtOnce = (C: number): number => (C > 32 ? C : Math.min(C, 16))

/**
 * How many heads of a sequence a thread brings forward, or back, together, span by span, since what they read of a token lies side by side in memory: as many as
 * have states that stay in the cache.
 */
const groupOf = (K: number, V: number): number => Math.max(1, Math.min(8, Math.floor((1 << 19) / (4 * up8(K) * up8(V)))))

/**
 * Bytes of scratch memory that kernels-wasm/fast-weights.ts takes for each thread; 1024 floats cover the gaps between its blocks.
 * With a gate the chunk form needs the recurrent one, too, where a decay is 0.
 */
export function scratchBytes(
  form: KernelForm,
  backward: boolean,
  { gate, erase, along }: Pick<FastWeightInputs<unknown>, 'gate' | 'erase' | 'along'>,
  { T, K, V, C, transposed }: FastWeightSizes,
): number {
  const K8 = up8(K),
    W8 = up8(V + 1),
    n = up8(Math.min(C, T))
  const floats = (keys: number, values: number, pairs: number, states: number): number =>
    keys * n * K8 + values * n * W8 + pairs * n * n + (states + 2) * K8 * W8
  const more = Number(along !== null)
  const recurrent = backward ? floats(4 + more, 3, 0, n) : floats(0, 0, 0, 0)
  const forward = transposed ? floats(6, 4, 5, 1) : floats(5 + 2 * more, 2 + more, 4 + 2 * more, 0)
  const values = transposed ? 7 : 6
  const chunk = !backward
    ? forward
    : (gate ?? erase) !== null
      ? floats(13 + 4 * more, values + 3 * more, 6 + 4 * more, 2)
      : floats(5, values, 4, 2)
  const states = (groupOf(K, V) - 1) * K8 * W8
  const vectors = 7 * K8 + 5 * W8 + 21 * n
  return 4 * ((form === 'recurrent' ? recurrent : gate !== null ? Math.max(chunk, recurrent) : chunk) + states + vectors + 1024)
}

export function fastWeightKernels(pool: Pool): Pick<Kernels<Block>, 'fastWeights' | 'fastWeightsBackward'> {
  const { unary } = elementwiseKernels(pool)
  function run(
    kernel: 'fastWeights' | 'fastWeightsBackward',
    form: KernelForm,
    sizes: FastWeightSizes,
    inputs: FastWeightInputs<Block>,
    blocks: (Block | null)[],
    eps: number[],
  ) {
    const { B, T, H, K, V, C, scale, gateWidth, transposed } = sizes
    const backward = kernel === 'fastWeightsBackward'
    const perHead = (backward ? 16 : 6) * T * K * V
    // States are rounded where chunks begin: where C says, in f16.
    const chunked = form === 'recurrent' ? 0 : backward ? 1 : pool.half ? C : tokensAtOnce(C)
    const group = groupOf(K, V)
    const args = [chunked, ...blocks.map(pointer), T, H, K, V, gateWidth, C, scale, Number(transposed), group, ...eps]
    // In f16 a product's operands are copied, blocks that have a place of their own, as they do.
    const scratch = scratchBytes(form, backward, inputs, sizes) * (pool.half ? 2 : 1)
    // As many heads at a time as a thread takes together, but the same for each thread.
    const share = (B * H) / pool.threads
    const together = Math.ceil(share / Math.ceil(share / group))
    const grain = Math.max(together, Math.floor(worthSharing / perHead))
    pool.run(kernel, B * H, grain, args, scratch)
  }
  /** Has the strengths made of the numbers whose sigmoids they are, where these are given. */
  function withStrengths(
    inputs: FastWeightInputs<Block>,
    { B, T, H, logits }: FastWeightSizes,
    body: (inputs: FastWeightInputs<Block>) => void,
  ) {
    if (!logits || !inputs.beta) {
      body(inputs)
      return
    }
    const beta = pool.memory.allocate(4 * B * T * H)
    try {
      unary('sigmoid', inputs.beta, beta, B * T * H)
      body({ ...inputs, beta })
    } finally {
      pool.memory.free(beta)
    }
  }
  return {
    fastWeights(form, given, { y, sT, zT, den, states, zs }, sizes) {
      withStrengths(given, sizes, (inputs) => {
        const { q, k, v, beta, gate, erase, along, tokens, s0, z0 } = inputs
        const blocks = [q, k, v, beta, gate, erase, along, tokens, s0, z0, y, sT, zT, den, states, zs]
        run('fastWeights', form, sizes, inputs, blocks, [sizes.eps])
      })
    },
    fastWeightsBackward(form, given, { y, den, states, zs }, { dy, dsT, dzT }, gradients, sizes) {
      const { dq, dk, dv, dbeta, dgate, derase, dalong, ds0, dz0 } = gradients
      withStrengths(given, sizes, (inputs) => {
        const { q, k, v, beta, gate, erase, along, tokens } = inputs
        const read = [q, k, v, beta, gate, erase, along, tokens, y, den, states, zs, dy, dsT, dzT]
        run('fastWeightsBackward', form, sizes, inputs, [...read, dq, dk, dv, dbeta, dgate, derase, dalong, ds0, dz0], [])
        const { B, T, H, logits } = sizes
        if (logits && dbeta)
          pool.run('strengthsBackward', B * T, Math.ceil(8192 / H), [given.beta!.pointer, tokens?.pointer ?? 0, dbeta.pointer, H])
      })
    },
  }
}
