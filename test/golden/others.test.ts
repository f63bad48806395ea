/**
 * Figures of other programs, folder by folder of ../shared/golden: the rules that flash-linear-attention has too, in every form, and the layers and
 * models of IDSIA's repositories and of the synthetic retrieval experiments. `npm run golden -- FOLDER` runs the same.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Device, setDevice } from '../../engine/index.ts'
import { builds, reference, wasm, webgpu } from '../helpers.ts'
import { figuresIn, type Kind, largest, readFigures, show, type Verdict } from './figures.ts'
import { flaOps } from './fla-ops.ts'
import { idsia } from './idsia.ts'
import { check } from './kinds.ts'

/** `few` stand for the others on a GPU that the CPU computes. */
const folders: readonly { name: string; kind: Kind; few: readonly string[] }[] = [
  {
    // Erased along another vector, two steps a token, a second memory, no fused gate.
    name: 'fla-ops',
    kind: flaOps,
    few: ['comba', 'gated_delta_product', 'precond_kda', 'rwkv6', 'delta_rule'],
  },
  {
    // One file of each net, of each rule in a shell, and of each update of the retrieval models.
    name: 'idsia',
    kind: idsia,
    few: [
      ...['rfwp_alg_rdn', 'rfwp_rl_delta_rnn', 'rfwp_lm_delta_lstm_v4_carry', 'srwm_stateful', 'srwm_smfwp', 'rfwp_lm_delta_mlp_paper'],
      ...['lm_deltanorm_dpfp', 'lm_quadratic_performer', 'retrieval_fwm_dpfp1', 'retrieval_sum_favor'],
    ],
  },
]
const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device>; few?: true }[] = [
  { name: 'reference', open: async () => reference },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(1, relaxed) })),
  { name: 'webgpu', open: webgpu, few: true },
]

for (const { name: folderName, kind, few } of folders) {
  const folder = fileURLToPath(new URL(`../../../../shared/golden/${folderName}/`, import.meta.url))
  const names = existsSync(folder) ? figuresIn(folder) : []
  const without = names.filter((name) => typeof kind.ways(readFigures(folder + name)) === 'string')
  for (const { name, open, few: some } of devices)
    describe(`figures of ${folderName} on ${name}`, () => {
      let device: Device
      const verdicts: Verdict[] = []
      if (names.length === 0) {
        it(`skipped: ../shared/golden/${folderName} is absent`, function () {
          this.skip()
        })
        return
      }
      before(async function () {
        device = await open(this)
      })
      after(() => {
        setDevice(reference)
        if (verdicts.length > 0) console.log(`      ${name}: the largest errors, of the largest entry: ${show(largest(verdicts))}`)
        if (name === 'reference' && without.length > 0)
          console.log(`      without a rule: ${without.map((file) => file.replace('.safetensors', '')).join(', ')}`)
      })
      for (const file of names.filter((file) => !without.includes(file) && (!some || few.includes(file.replace('.safetensors', '')))))
        it(file, async () => {
          const verdict = await check(folder, file, device)
          verdicts.push(verdict)
          assert.deepEqual(verdict.faults, [])
          assert.deepEqual(Object.keys(verdict.errors), kind.ways(readFigures(folder + file)))
        })
    })
}
