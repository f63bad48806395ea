/** Every op of the table against central differences, in float64; and the table against what the engine exports. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import * as engine from '../../engine/index.ts'
import { reference } from '../helpers.ts'
import { cases, make, tiny } from './cases.ts'

/** Exports that aren't ops: how tensors are made, recorded, freed and checked. engine.test.ts has them. */
const notOps = [
  // Composed of ops; their own tests check gradients.
  'linearCrossEntropy',
  'recompute',
  'scan',
  'capture',
  'enableWideSimd',
  'varying',
  'ba2016',
  'binaryOps',
  'customOp',
  'defineNet',
  'deltaLstm',
  'deltaRnn',
  'empty',
  'forms',
  'full',
  'deviceChoices',
  'precisions',
  'fastWeightMemory',
  'GateError',
  'generator',
  'getDevice',
  'gradCheck',
  'gru',
  'halfTensor',
  'halfTypes',
  'initialState',
  'keep',
  'lightningDecays',
  'like',
  'lstm',
  'nets',
  'noGrad',
  'ones',
  'openDevice',
  'parameter',
  'profile',
  'programmer',
  'record',
  'recordMany',
  'recurrentDeltaNet',
  'recurrentProgrammer',
  'referenceDevice',
  'relaxedAvailable',
  'threadsAvailable',
  'rules',
  'runSteps',
  'scope',
  'selfCheck',
  'selfModifyingProgrammer',
  'selfReferential',
  'setDevice',
  'span',
  'Tensor',
  'tensor',
  'unaryOps',
  'vanillaRnn',
  'wasmDevice',
  'webgpuAdapters',
  'webgpuDevice',
  'withGrad',
  'zeros',
]

describe('gradients', () => {
  it('every export of the engine is in the table of cases', () => {
    const covered = new Set([...cases.map((c) => c.name.split(' ')[0]), ...notOps])
    assert.deepEqual(
      Object.keys(engine).filter((name) => !covered.has(name)),
      [],
    )
  })

  for (const c of cases) {
    it(`${c.name}: backward agrees with differences`, async () => {
      await fc.assert(
        fc.asyncProperty(c.options(tiny), fc.nat(), async (o, seed) => {
          const inputs = c.inputs(o).map((input, i) => make(input, seed + i, reference))
          const moving = inputs.filter((x) => x.requiresGrad)
          if (moving.length > 0) {
            const f = (...given: engine.Tensor[]): engine.Tensor[] =>
              [
                c.run(
                  o,
                  inputs.map((x) => given[moving.indexOf(x)] ?? x),
                  reference,
                ),
              ].flat()
            // Differences with a step of 1e-6 are good to about 1e-9 here; 1e-7 leaves room for functions that bend.
            await engine.gradCheck(f, moving, { tolerance: 1e-7 })
          }
          for (const x of inputs) x.dispose()
        }),
        { numRuns: 20 },
      )
    })
  }
})
