/** Decays. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { Kernels } from '../kernels.ts'
import { unaryTable } from './elementwise.ts'
import type { RefStorage } from './storage.ts'

const { f, df } = unaryTable.softplus

export const decayKernels: Pick<Kernels<RefStorage>, 'decay' | 'decayBackward'> = {
  decay(a, rate, shift, y, R, n, width) {
    for (let i = 0; i < R * n; i++) y.data[i] = -Math.exp(rate.data[Math.floor((i % n) / width)]) * f(a.data[i] + shift.data[i % n])
  },
  decayBackward(a, rate, shift, dy, { da, drate, dshift }, R, n, width) {
    drate.data.fill(0, 0, n)
    dshift.data.fill(0, 0, n)
    for (let i = 0; i < R * n; i++) {
      const factor = -Math.exp(rate.data[Math.floor((i % n) / width)]) * dy.data[i]
      const x = a.data[i] + shift.data[i % n]
      da.data[i] = factor * df(x, 0)
      dshift.data[i % n] += da.data[i]
      drate.data[i % n] += factor * f(x)
    }
  },
}
