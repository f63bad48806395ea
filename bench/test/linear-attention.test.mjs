/** Our rules beside onnxruntime's LinearAttention, which others wrote: results and states, on every device of the CPU and in every form. */
import assert from 'node:assert/strict'
import { noGrad, referenceDevice, rules, scope, setDevice, tensor, wasmDevice } from '../../dist/engine/index.js'
import { linearAttention, peerRules } from '../linear-attention.mjs'

/** Of every length around a chunk, K and V unequal and not multiples of a vector of four. */
const cases = [
  { B: 1, T: 1, H: 1, K: 4, V: 4 },
  { B: 2, T: 1, H: 3, K: 5, V: 7 },
  { B: 3, T: 7, H: 2, K: 8, V: 3 },
  { B: 2, T: 63, H: 2, K: 24, V: 40 },
  { B: 1, T: 64, H: 4, K: 16, V: 16 },
  { B: 2, T: 65, H: 3, K: 33, V: 18 },
  { B: 1, T: 130, H: 2, K: 64, V: 48 },
  { B: 1, T: 257, H: 1, K: 32, V: 64 },
]
const ranges = { q: [-1, 1], k: [-1, 1], v: [-1, 1], beta: [0, 1], gate: [-0.5, 0], state: [-1, 1] }

/** What a rule is given: float32 numbers from a seed; keys of length 1, or a delta rule would grow beyond bounds. */
function draw(rule, sizes, initial) {
  let seed = 12345
  const shapes = { ...rule.inputs, ...(initial && { state: { shape: rule.state.S } }) }
  return Object.fromEntries(
    Object.entries(shapes).map(([name, { shape: letters }]) => {
      const shape = letters.map((letter) => sizes[letter])
      const [from, to] = ranges[name]
      const values = Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => {
        seed = (Math.imul(seed, 1664525) + 1013904223) | 0
        return from + ((to - from) * (seed >>> 8)) / 2 ** 24
      })
      if (name === 'k')
        for (let at = 0; at < values.length; at += sizes.K) {
          const row = values.subarray(at, at + sizes.K)
          const length = Math.hypot(...row)
          row.forEach((x, i) => {
            row[i] = x / length
          })
        }
      return [name, { values, shape }]
    }),
  )
}

async function ours(device, rule, form, given) {
  setDevice(device)
  const { y, state } = scope(() =>
    noGrad(() => {
      const { state: before, ...inputs } = Object.fromEntries(
        Object.entries(given).map(([name, { values, shape }]) => [name, tensor(values, { shape, dtype: 'float32' })]),
      )
      const { y, state } = rule.run(inputs, before && { S: before }, { form })
      return { y, state: state.S }
    }),
  )
  const read = { y: await y.read(), state: await state.read() }
  for (const x of [y, state]) x.dispose()
  return read
}

/** The largest difference, relative to 1, the size of what goes in, and the largest value: sums may cancel, and what they lose stays. */
const difference = (actual, expected) => {
  assert.equal(actual.length, expected.length)
  let [most, largest] = [0, 0]
  for (let i = 0; i < actual.length; i++) {
    assert.ok(Number.isFinite(actual[i]))
    most = Math.max(most, Math.abs(actual[i] - expected[i]))
    largest = Math.max(largest, Math.abs(expected[i]))
  }
  return most / (1 + largest)
}

describe('rules beside LinearAttention of onnxruntime-node', () => {
  let devices
  before(async () => {
    devices = [referenceDevice(), await wasmDevice({ threads: 1 }), await wasmDevice({ threads: 2 })]
  })
  after(() => {
    for (const device of devices) device.close()
  })
  for (const name of Object.keys(peerRules))
    for (const initial of [false, true])
      it(`${name}, ${initial ? 'from a state' : 'from zeros'}: results and states`, async () => {
        const rule = rules[name]
        for (const sizes of cases) {
          const given = draw(rule, sizes, initial)
          const peer = await linearAttention({ name, H: sizes.H, threads: 2, state: initial })
          const expected = await peer.run(peer.feeds(given))
          await peer.release()
          for (const device of devices)
            for (const form of rule.forms) {
              const found = await ours(device, rule, form, given)
              for (const what of ['y', 'state']) {
                const error = difference(found[what], expected[what])
                // float32 keeps 2^-24 of a number, and a state rounds T times, with errors of either sign. Against float64 the peer's sums alone are rounded, by how much
                // depends on its processor (less than 5e-7 on Intel Xeons with AVX-512, 5.5e-7 at T = 257 on an AMD EPYC without), else ours too.
                const bound = device.double ? 2 ** -24 * (8 + Math.sqrt(sizes.T) / 4) : 1e-6
                assert.ok(error <= bound, `${device.description}, ${form}, ${JSON.stringify(sizes)}: ${what} differs by ${error}`)
              }
            }
        }
      })
})
