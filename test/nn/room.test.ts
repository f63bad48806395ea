/** Keys and values with room: a step in place, captured or not, is the step that makes them longer. */
import assert from 'node:assert/strict'
import {
  capture,
  type Device,
  generator,
  keep,
  noGrad,
  ones,
  scope,
  setDevice,
  type Tensor,
  tensor,
  varying,
  zeros,
} from '../../engine/index.ts'
import { overwrite } from '../../engine/ops/overwrite.ts'
import { type KeyValueState, LatentAttention, SoftmaxAttention } from '../../nn/index.ts'
import { apartFrom, roomFor, roomIn, tokensIn, withRoom, writtenInPlace } from '../../nn/room.ts'
import { mapState } from '../../nn/state.ts'
import { assertRms, assertSameBits, gpus, reference, uniforms, wasm } from '../helpers.ts'

/** T: so many tokens come before, that there is room for 4 more. */
const [B, T, D] = [2, 252, 24]
const layers: Record<string, () => SoftmaxAttention | LatentAttention> = {
  softmax: () => new SoftmaxAttention({ dModel: D, heads: 3 }, generator(1)),
  'shared keys, a window, positions': () =>
    new SoftmaxAttention({ dModel: D, heads: 6, keyHeads: 2, headWidth: 5, window: 7, positions: 'rotary', gate: true }, generator(2)),
  'keys from a few numbers': () =>
    new LatentAttention({ dModel: D, heads: 2, ownWidth: 4, sharedWidth: 6, valueWidth: 7, rank: 8, base: 100 }, generator(3)),
}

const randomInput = (seed: number, T: number): Tensor => tensor(uniforms(seed, B * T * D), { shape: [B, T, D] })
const numbers = async (t: Tensor): Promise<Float64Array<ArrayBuffer>> => Float64Array.from(await t.read())

describe('keys and values with room', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [
      [reference, 1e-10],
      [await wasm(), 1e-5],
      [await wasm(2), 1e-5],
      [await wasm(1, true), 1e-5],
      ...(await gpus()).map((device): [Device, number] => [device, 1e-5]),
    ]
  })
  afterEach(() => setDevice(reference))

  it('is for a token more, at most half as much again as there are, and never the same again when it is full', () => {
    assert.deepEqual([1, 256, 257, 384, 385, 513, 769, 4000].map(roomFor), [256, 256, 384, 384, 512, 768, 1024, 4096])
    for (let n = 256; n < 5000; n++) assert.ok(roomFor(n) >= n && roomFor(n) <= 1.5 * n)
  })

  for (const [name, make] of Object.entries(layers))
    it(`gives what a state that grows gives, captured to the bit what it gives itself, and goes on when it is full: ${name}`, async () => {
      for (const [device, bound] of devices) {
        setDevice(device)
        const layer = make()
        const before = device.bytesInUse()
        // The second row begins with padding, which no token sees.
        const mask = Int32Array.from({ length: B * T }, (_, i) => Number(i < T || i > T + 4))
        const begin = (): KeyValueState =>
          scope(() =>
            noGrad(() => {
              const { state } = layer.forward(randomInput(1, T), {}, { mask: tensor(mask, { shape: [B, T] }) })
              return mapState(state, keep) as KeyValueState
            }),
          )
        const x = randomInput(2, 1)
        let [growing, inPlace, held] = [begin(), begin(), begin()]
        const steps = Array.from({ length: 9 }, (_, i) => uniforms(3 + i, B * D))
        const forward = (state: KeyValueState) => {
          const { y, state: next } = scope(() => noGrad(() => layer.forward(x, state)))
          mapState(next, keep)
          mapState(state, (t) => t.dispose())
          return { y, next }
        }
        const captureFrom = async (from: KeyValueState) => {
          const state = noGrad(() => withRoom(from))
          const written = writtenInPlace(state)
          const { keys, values, visible } = state
          assert.deepEqual(
            [...written],
            [
              ['keys', keys],
              ['values', values],
            ],
          )
          const counts = [visible, state.used!, ...(state.position ? [state.position] : [])]
          const step = ({ counts: [visible, used, position] }: { counts: readonly Int32Array[] }) => {
            const now = { keys, values, visible, used, ...(position && { position }) }
            const { y, state: after } = layer.forward(x, now)
            return { outputs: [y], counts: [after.visible, after.used!, ...(position ? [after.position!] : [])] }
          }
          const captured = await capture([x], { counts }, step, [keys, values])
          const now = (): KeyValueState => {
            const [visible, used, position] = captured.state().counts
            return { keys, values, visible, used, ...(position && { position }) }
          }
          return { captured, now, room: roomIn(state) }
        }
        let replayed = await captureFrom(held)
        assert.equal(replayed.room, 4)
        for (const [i, values] of steps.entries()) {
          x.write(values)
          const what = `${device.description}, step ${i}`
          const long = forward(growing)
          growing = long.next
          const some = forward(noGrad(() => withRoom(inPlace)))
          inPlace = some.next
          if (replayed.room === 0) {
            held = noGrad(() => scope(() => apartFrom(replayed.now(), writtenInPlace(replayed.now()))))
            replayed.captured.dispose()
            replayed = await captureFrom(held)
            assert.equal(replayed.room, 128)
          }
          const used = device.bytesInUse()
          replayed.captured.replay()
          replayed.room--
          assert.equal(device.bytesInUse(), used)
          assertRms(await some.y.read(), await long.y.read(), bound, what)
          assertSameBits(await numbers(replayed.captured.outputs[0]), await numbers(some.y), what)
          for (const { y } of [long, some]) y.dispose()
          assert.deepEqual([tokensIn(growing), tokensIn(inPlace), tokensIn(replayed.now())], [T + 1 + i, T + 1 + i, T + 1 + i])
        }
        const { keys, values } = replayed.now()
        replayed.captured.dispose()
        for (const t of [keys, values, x]) t.dispose()
        for (const state of [growing, inPlace]) mapState(state, (t) => t.dispose())
        assert.equal(device.bytesInUse(), before)
        layer.dispose()
      }
    })

  it('overwrites rows, or none, and none outside of its memory, in a replay neither', async () => {
    for (const [device] of devices) {
      setDevice(device)
      const before = device.bytesInUse()
      const rows = (...at: number[]) => tensor(at, { dtype: 'int32' })
      const [y, x] = [zeros([2, 2, 5]), tensor(uniforms(1, 5), { shape: [1, 5] })]
      const [empty, none] = [ones([2, 0]), ones([0, 5])]
      scope(() => {
        overwrite(y, none, rows())
        overwrite(empty, ones([1, 0]), rows(1))
        for (const at of [-1, 2])
          assert.throws(() => overwrite(empty, ones([1, 0]), rows(at)), /overwrite: index -?\d at 0 is outside 0\.\.1/)
        for (const at of [-1, 4]) assert.throws(() => overwrite(y, x, rows(at)), /overwrite: index -?\d at 0 is outside 0\.\.3/)
      })
      let at = 2
      const step = () => {
        overwrite(
          y,
          x,
          varying(() => [at], { shape: [1], dtype: 'int32' }),
        )
        return {}
      }
      const captured = await capture([x], {}, step, [y])
      captured.replay()
      const expected = [...new Float32Array(10), ...uniforms(1, 5), ...new Float32Array(5)]
      assert.deepEqual([...(await y.read())], expected)
      for (at of [4, -1, 2 ** 30]) assert.throws(() => captured.replay(), /index -?\d+ at 0 is outside 0\.\.3/)
      assert.deepEqual([...(await y.read())], expected)
      captured.dispose()
      for (const t of [y, x, empty, none]) t.dispose()
      assert.equal(device.bytesInUse(), before)
    }
  })

  it('refuses what it has no place for', () => {
    const layer = new SoftmaxAttention({ dModel: D, heads: 3 }, generator(1))
    const { state } = scope(() => noGrad(() => layer.forward(randomInput(1, T))))
    const roomy = noGrad(() => withRoom(state))
    assert.equal(withRoom(roomy), roomy)
    const rows = (...at: number[]) => tensor(at, { dtype: 'int32' })
    assert.throws(() => overwrite(ones([2, 3]), ones([4, 2, 3]), rows(1)), /overwrite: rows \[4,2,3\] for 1 indices don't fit into \[2,3\]/)
    assert.throws(() => overwrite(ones([2, 3]), ones([1, 3]), rows(2)), /overwrite: index 2 at 0 is outside 0\.\.1/)
    const only = /attention: keys and values with room take one token of each row at a time, without mask, reset and gradients/
    assert.throws(() => noGrad(() => layer.forward(randomInput(1, 2), roomy)), only)
    assert.throws(() => layer.forward(randomInput(1, 1), roomy), only)
    const mask = tensor([1, 0], { dtype: 'int32', shape: [B, 1] })
    assert.throws(() => noGrad(() => layer.forward(randomInput(1, 1), roomy, { mask })), only)
    const full = { ...roomy, used: new Int32Array(B).fill(256) }
    assert.throws(() => noGrad(() => layer.forward(randomInput(1, 1), full)), /attention: there is no room after 256 keys and values/)
    const wider = new SoftmaxAttention({ dModel: D, heads: 3, headWidth: 5 }, generator(1))
    assert.throws(
      () => noGrad(() => wider.forward(ones([B, 1, D]), roomy)),
      /overwrite: rows \[2,1,3,5\] for 6 indices don't fit into \[2,3,256,8\]/,
    )
    const less = { ...roomy, used: new Int32Array(B - 1) }
    assert.throws(() => noGrad(() => layer.forward(ones([B, 1, D]), less)), /attention: the state has 1 rows of used, the input has 2/)
  })
})
