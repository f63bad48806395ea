/** The attention free transformer: kernels-wgsl/aft.wgsl. */
import { aft, elementwise } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { AftSizes, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup, threads } from './runtime.ts'

const kinds = { none: 0, table: 1, taps: 2 } as const

export function aftKernels(gpu: Gpu): Pick<Kernels<Block>, 'aft' | 'aftBackward'> {
  const groups = (n: number): number => Math.ceil(n / perGroup)
  const paramsOf = ({ B, n, past, D, window, causal, bias, N }: AftSizes) => ({
    ...{ B, rows: n, past, D, window, causal: Number(causal), bias: kinds[bias], N },
    taps: causal ? window : 2 * window - 1,
  })
  return {
    aft(k, v, w, places, y, lse, sizes) {
      const params = paramsOf(sizes)
      const { B, n, past, D } = sizes
      gpu.run(aft, 'outside', { k, v, places, y, lse }, params, Math.ceil((B * D) / threads))
      const elements = B * (n - past) * D
      gpu.run(aft, 'inside', { k, v, w, places, y, lse }, { ...params, n: elements }, groups(elements))
    },
    aftBackward(k, v, w, places, { y, lse }, { dy, dlse }, { dk, dv, dw }, sizes) {
      const { B, n, past, D, bias, N } = sizes
      const params = { ...paramsOf(sizes), cotangents: Number(dlse !== null) }
      const keys = B * n * D
      const queries = B * (n - past) * D
      gpu.scratch(3 * queries, (queriesIn) => {
        const run = (entry: (typeof aft.entries)[number], outputs: object, n: number, groups: number): void =>
          gpu.run(aft, entry, { k, v, w, places, queriesIn, ...outputs }, { ...params, n }, groups)
        gpu.run(aft, 'cotangents', { yIn: y, lseIn: lse, dy, dlse, queries: queriesIn }, { ...params, n: queries }, groups(queries))
        for (const zeros of [dk, dv]) gpu.run(elementwise, 'fill', { y: zeros }, { n: keys, shift: 0 }, groups(keys))
        run('outsideBackward', { dk, dv }, 0, Math.ceil((B * D) / threads))
        run('insideBackward', { dk, dv }, keys, groups(keys))
        if (bias === 'taps') run('tapsBackward', { dw }, params.taps * D, groups(params.taps * D))
        if (bias === 'table') {
          const pairs = B * (n - past) * params.taps
          gpu.scratch(pairs, (of) => {
            run('pairsBackward', { dw: of }, pairs, pairs)
            gpu.run(aft, 'tableBackward', { places, pairs: of, dw }, { ...params, n: N * N }, groups(N * N))
          })
        }
      })
    },
  }
}
