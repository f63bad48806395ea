/** States carried from piece to piece: truncated back-propagation through time. */
import assert from 'node:assert/strict'
import { crossEntropy, type Device, scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import { detachState, disposeState, Transformer, type TransformerState } from '../../nn/index.ts'
import { assertRms, assertSameBits, reference, wasm } from '../helpers.ts'
import { architectures, randomTokens } from './models.ts'

const [B, T, pieces] = [2, 8, 3]

/** The tokens [B,T] of a piece (counted from 0) and those that follow them. */
function pieceOf(rows: readonly Int32Array[], piece: number): { tokens: Tensor; targets: Tensor } {
  const [tokens, targets] = [0, 1].map((shift) =>
    tensor(
      rows.flatMap((row) => Array.from(row.subarray(piece * T + shift, piece * T + shift + T))),
      { shape: [B, T], dtype: 'int32' },
    ),
  )
  return { tokens, targets }
}

/** One piece forward and backward: its logits, the state after it, and the gradients, which the model has no more afterwards. */
async function learn(model: Transformer, rows: readonly Int32Array[], piece: number, before: TransformerState | undefined) {
  const { logits, state } = scope(() => {
    const { tokens, targets } = pieceOf(rows, piece)
    const result = model.forward(tokens, before)
    crossEntropy(result.logits, targets).backward()
    return { logits: result.logits, state: detachState(result.state) }
  })
  const values = Array.from(await logits.read())
  logits.dispose()
  const gradients = await Promise.all(model.parameters().map(async (p) => (await p.grad?.read()) ?? new Float64Array(p.size)))
  for (const p of model.parameters()) {
    p.grad?.dispose()
    p.grad = null
  }
  return { values, state, gradients }
}

describe('states', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [
      [reference, 1e-10],
      [await wasm(), 1e-5],
    ]
  })
  afterEach(() => setDevice(reference))

  for (const [name, config] of Object.entries(architectures))
    it(`carry a sequence over pieces, without their history or their memory: ${name}`, async () => {
      for (const [device, bound] of devices) {
        setDevice(device)
        const empty = device.bytesInUse()
        const model = new Transformer(config)
        const rows = [1, 2].map((seed) => randomTokens(seed, pieces * T + 1))
        const used: number[] = []
        let state: TransformerState | undefined
        const logits: number[][] = []
        for (let piece = 0; piece < pieces; piece++) {
          const result = await learn(model, rows, piece, state)
          // The gradients are those of a state that was never computed.
          if (state) {
            const constants = await constantsOf(state)
            const alone = await learn(model, rows, piece, constants)
            for (const [i, gradient] of alone.gradients.entries()) assertSameBits(result.gradients[i], gradient, `piece ${piece}`)
            disposeState(constants)
            disposeState(alone.state)
            disposeState(state)
          }
          state = result.state
          assert.equal(state.position, (piece + 1) * T)
          logits.push(result.values)
          used.push(device.bytesInUse())
        }
        disposeState(state)
        disposeState(undefined)
        if (config.attention === 'softmax') assert.equal(used[2] - used[1], used[1] - used[0])
        else assert.deepEqual(used, [used[0], used[0], used[0]])

        const tokens = rows.flatMap((row) => Array.from(row.subarray(0, pieces * T)))
        const whole = scope(() => model.forward(tensor(tokens, { shape: [B, pieces * T], dtype: 'int32' })).logits)
        const size = T * config.symbols
        const expected = Array.from(await whole.read())
        const joined = Array.from({ length: B }, (_, b) => logits.flatMap((values) => values.slice(b * size, (b + 1) * size))).flat()
        assertRms(joined, expected, bound)
        whole.dispose()
        model.dispose()
        assert.equal(device.bytesInUse(), empty)
      }
    })
})

/** Tensors of the same values that no op has made. */
async function constantsOf(state: TransformerState): Promise<TransformerState> {
  const copy = async (t: Tensor | undefined) => t && tensor(await t.read(), { shape: t.shape })
  const layers = state.layers.map(async (layer) =>
    Object.fromEntries(await Promise.all(Object.entries(layer).map(async ([name, t]) => [name, await copy(t)]))),
  )
  return { position: state.position, layers: await Promise.all(layers) }
}
