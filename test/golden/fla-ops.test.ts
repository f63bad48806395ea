/** Every rule that flash-linear-attention has too, against its figures (../shared/golden/fla-ops): outputs, last states and gradients, in every form. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Device, setDevice } from '../../engine/index.ts'
import { builds, reference, wasm, webgpu } from '../helpers.ts'
import { figuresIn, largest, readFigures, show, type Verdict } from './figures.ts'
import { flaOps } from './fla-ops.ts'
import { check } from './kinds.ts'

const folder = fileURLToPath(new URL('../../../../shared/golden/fla-ops/', import.meta.url))
const names = existsSync(folder) ? figuresIn(folder) : []
const without = names.filter((name) => typeof flaOps.ways(readFigures(folder + name)) === 'string')

/** On a GPU that the CPU computes, these stand for the others: erased along another vector, two steps a token, a second memory, no fused gate. */
const few = ['comba', 'gated_delta_product', 'precond_kda', 'rwkv6', 'delta_rule'].map((name) => `${name}.safetensors`)
const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device>; few?: true }[] = [
  { name: 'reference', open: async () => reference },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(1, relaxed) })),
  { name: 'webgpu', open: webgpu, few: true },
]

for (const { name, open, few: some } of devices)
  describe(`figures of flash-linear-attention on ${name}`, () => {
    let device: Device
    const verdicts: Verdict[] = []
    before(async function () {
      if (names.length === 0) {
        console.log('      skipped: ../shared/golden/fla-ops is absent')
        this.skip()
      }
      device = await open(this)
    })
    after(() => {
      setDevice(reference)
      if (verdicts.length > 0) console.log(`      ${name}: the largest errors, of the largest entry: ${show(largest(verdicts))}`)
      if (name === 'reference') console.log(`      without a rule: ${without.map((file) => file.replace('.safetensors', '')).join(', ')}`)
    })
    for (const file of names.filter((file) => !without.includes(file) && (!some || few.includes(file))))
      it(file, async () => {
        const verdict = await check(folder, file, device)
        verdicts.push(verdict)
        assert.deepEqual(verdict.faults, [])
        const { metadata } = readFigures(folder + file)
        assert.deepEqual(Object.keys(verdict.errors), flaOps.ways({ metadata } as never))
      })
  })
