/** States carried from piece to piece: truncated back-propagation through time. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { crossEntropy, type Device, noGrad, rules, scope, setDevice, Tensor, tensor } from '../../engine/index.ts'
import {
  detachState,
  disposeState,
  initialState,
  loadState,
  readSafetensors,
  resetRows,
  type SafetensorsEntry,
  saveState,
  stateGrowth,
  stateSize,
  Transformer,
  type TransformerConfig,
  type TransformerState,
  writeSafetensors,
} from '../../nn/index.ts'
import { freshOf } from '../../nn/parts.ts'
import { assertRms, assertSameBits, gpus, readAndFree, reference, wasm } from '../helpers.ts'
import { architectures, few, randomTokens, stateful } from './models.ts'

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
    devices = [[reference, 1e-10], [await wasm(), 1e-5], ...(await gpus()).map((device): [Device, number] => [device, 1e-5])]
  })
  afterEach(() => setDevice(reference))
  const devicesFor = (name: string) => devices.filter(([device]) => device.name !== 'webgpu' || few.has(name))

  for (const [name, config] of Object.entries(stateful))
    it(`carry a sequence over pieces, without their history or their memory: ${name}`, async () => {
      for (const [device, bound] of devicesFor(name)) {
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
          assert.deepEqual(Array.from(state.position), new Array(B).fill((piece + 1) * T))
          logits.push(result.values)
          used.push(device.bytesInUse())
        }
        disposeState(state)
        disposeState(undefined)
        if (stateGrowth(model) > 0) assert.equal(used[2] - used[1], used[1] - used[0])
        else assert.deepEqual(used, [used[0], used[0], used[0]])

        const tokens = rows.flatMap((row) => Array.from(row.subarray(0, pieces * T)))
        const flags = (values: readonly number[]) => tensor(values, { shape: [B, pieces * T], dtype: 'int32' })
        const whole = scope(() => model.forward(flags(tokens)).logits)
        const size = T * config.symbols
        const expected = Array.from(await whole.read())
        const joined = Array.from({ length: B }, (_, b) => logits.flatMap((values) => values.slice(b * size, (b + 1) * size))).flat()
        assertRms(joined, expected, bound)
        // The last row alone, and where it is padding.
        const mask = tokens.map((_, i) => Number(i !== pieces * T - 1))
        const run = async (masked: boolean, last: boolean): Promise<number[]> => {
          const forward = () => model.forward(flags(tokens), undefined, { last, ...(masked && { mask: flags(mask) }) }).logits
          return Array.from(await readAndFree(scope(forward)))
        }
        const rowEnd = pieces * size
        for (const masked of [false, true]) {
          const all = await run(masked, false)
          const ends = Array.from({ length: B }, (_, b) => all.slice((b + 1) * rowEnd - config.symbols, (b + 1) * rowEnd)).flat()
          assertRms(await run(masked, true), ends, bound)
        }
        whole.dispose()
        model.dispose()
        assert.equal(device.bytesInUse(), empty)
      }
    })

  for (const [name, config] of Object.entries(stateful)) {
    it(`begin empty, come back from a file exactly, and forget the rows that they should: ${name}`, async () => {
      for (const [device, bound] of devicesFor(name)) {
        setDevice(device)
        const empty = device.bytesInUse()
        const model = new Transformer(config)
        const full = device.bytesInUse()
        const tokens = (seed: number) => tensor(randomTokens(seed, 3 * T), { shape: [3, T], dtype: 'int32' })
        const forward = async (seed: number, before?: TransformerState) => {
          const { logits, state } = scope(() => noGrad(() => model.forward(tokens(seed), before)))
          return { logits: Array.from(await readAndFree(logits)), state }
        }
        const none = await forward(1)
        const zero = initialState(model, 3)
        const first = await forward(1, zero)
        assertRms(first.logits, none.logits, bound, 'from zeros')
        const expected = await forward(2, none.state)

        const file = await saveState(none.state)
        const loaded = loadState(file, model)
        assert.deepEqual(await saveState(loaded), file)
        const again = await forward(2, loaded)
        assert.deepEqual(again.logits, expected.logits)

        const reset = resetRows(none.state, [false, true, false])
        const partly = await forward(2, reset)
        const fresh = await forward(2)
        const row = (values: number[], b: number): number[] => values.slice((b * values.length) / 3, ((b + 1) * values.length) / 3)
        for (const b of [0, 2]) assertRms(row(partly.logits, b), row(expected.logits, b), bound, `row ${b}`)
        assertRms(row(partly.logits, 1), row(fresh.logits, 1), bound, 'the row that was reset')
        const [before, after] = await Promise.all([none.state, reset].map(async (s) => readSafetensors(await saveState(s)).tensors))
        for (const [part, { data }] of before) {
          const values = after.get(part)!.data
          data.forEach((value: number | bigint, i: number) => {
            const b = Math.floor((i * 3) / data.length)
            const kept = part.endsWith('keys') || part.endsWith('values') // of softmax attention: hidden instead
            if (!(b === 1 && kept)) assert.ok(Object.is(values[i], b === 1 ? freshOf(part) : value), `${part}, ${i}`)
          })
        }
        for (const s of [none, first, expected, again, partly, fresh]) disposeState(s.state)
        for (const s of [zero, loaded, reset]) disposeState(s)
        assert.equal(device.bytesInUse(), full)
        model.dispose()
        assert.equal(device.bytesInUse(), empty)
      }
    })

    it(`of one bad row leave the others alone, and are good again once it is forgotten: ${name}`, async () => {
      const tokens = (seed: number, length = T) => tensor(randomTokens(seed, 3 * length), { shape: [3, length], dtype: 'int32' })
      for (const [device] of devicesFor(name)) {
        setDevice(device)
        const model = new Transformer(config)
        const width = (values: number[], b: number): number[] => values.slice((b * values.length) / 3, ((b + 1) * values.length) / 3)
        const same = (a: number[], b: number[], rows: number[], what: string): void => {
          for (const row of rows)
            assertSameBits(Float64Array.from(width(a, row)), Float64Array.from(width(b, row)), `${device.name}: ${what}, row ${row}`)
        }
        const forward = async (given: Tensor, before: TransformerState, reset?: Tensor) => {
          const { logits, state } = scope(() => noGrad(() => model.forward(given, before, reset && { reset })))
          return { logits: Array.from(await readAndFree(logits)), state }
        }
        const good = scope(() => noGrad(() => model.forward(tokens(1)).state))
        const layers = good.layers.map(async (layer) => {
          const parts = Object.entries(layer).map(async ([part, t]) => {
            if (!(t instanceof Tensor)) return [part, t]
            const third = t.size / 3
            const values = Array.from(await t.read(), (x, i) => (Math.floor(i / third) === 1 ? [NaN, Infinity, -Infinity][i % 3] : x))
            return [part, tensor(values, { shape: t.shape })]
          })
          return Object.fromEntries(await Promise.all(parts))
        })
        const bad: TransformerState = { position: good.position, layers: await Promise.all(layers) }
        // It comes back from a file as it is.
        const loaded = loadState(await saveState(bad), model)
        assert.deepEqual(await saveState(loaded), await saveState(bad))

        // With gates of numbers that are none a call is refused, for all rows: there the row has to be forgotten before.
        const gated = 'gate' in rules[config.rule].inputs
        const next = gated ? null : [await forward(tokens(2), good), await forward(tokens(2), bad)]
        if (next) {
          const [clean, spoilt] = next
          same(spoilt.logits, clean.logits, [0, 2], 'the others')
          assert.ok(width(spoilt.logits, 1).some(Number.isNaN))
        }
        const [from, fromBad] = next ? next.map(({ state }) => state) : [good, bad]
        // Forgotten between two calls, and at a token of a call: after all that, token by token.
        const [goodReset, badReset] = [from, fromBad].map((state) => resetRows(state, [0, 1, 0]))
        const first = await forward(tokens(3), badReset)
        const second = await forward(tokens(3), goodReset)
        same(first.logits, second.logits, [0, 1, 2], 'resetRows')
        const begins = tensor([0, 1, 0], { shape: [3, 1], dtype: 'int32' })
        let [a, b] = [await forward(tokens(4, 1), fromBad, begins), await forward(tokens(4, 1), from, begins)]
        for (let t = 0; ; t++) {
          same(a.logits, b.logits, [0, 1, 2], `reset, ${t} tokens later`)
          disposeState(t === 3 ? a.state : undefined)
          disposeState(t === 3 ? b.state : undefined)
          if (t === 3) break
          const [c, d] = [await forward(tokens(5 + t, 1), a.state), await forward(tokens(5 + t, 1), b.state)]
          disposeState(a.state)
          disposeState(b.state)
          ;[a, b] = [c, d]
        }
        for (const state of [good, bad, loaded, ...(next ?? []).map((n) => n.state), badReset, goodReset, first.state, second.state])
          disposeState(state)
        begins.dispose()
        model.dispose()
      }
    })

    it(`gives padding no part in the gradients, even where its embedding is no number: ${name}`, async () => {
      const mask = [0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0]
      for (const [device] of devicesFor(name)) {
        setDevice(device)
        const model = new Transformer(config)
        const learnt = async (padding: number): Promise<number[][]> => {
          const { weight } = model.src_embed
          const values = Array.from(await weight.read(), (x, i) => (i < config.dModel! ? padding : x))
          weight.write(values)
          scope(() => {
            const ids = randomTokens(3, 12).map((id, i) => (mask[i] ? Math.max(id, 1) : 0))
            const ints = (given: ArrayLike<number>) => tensor(Int32Array.from(given), { shape: [2, 6] })
            const { logits } = model.forward(ints(ids), undefined, { mask: ints(mask) })
            crossEntropy(logits, ints(ids.map((id, i) => (mask[i] ? id : -1))), { ignore: -1 }).backward()
          })
          return Promise.all(
            model.parameters().map(async (p) => {
              if (!p.grad) return []
              const g = await readAndFree(p.grad)
              p.grad = null
              return g
            }),
          )
        }
        const clean = await learnt(0)
        for (const bad of [NaN, Infinity]) {
          const spoilt = await learnt(bad)
          assert.deepEqual(
            spoilt.map((g) => g.length),
            clean.map((g) => g.length),
          )
          assertSameBits(Float64Array.from(spoilt.flat()), Float64Array.from(clean.flat()), `${device.name}, ${bad}`)
        }
        assert.ok(clean.flat().every(Number.isFinite))
        model.dispose()
      }
    })

    it(`know padding and the beginnings of sequences: ${name}`, async () => {
      // Rows of 3 and 4 tokens, padded on the left, inside and on the right; then sequences of 2, 3 and 1 in one row of three.
      const rows = [
        { mask: [0, 1, 1, 0, 0, 1, 0], reset: [0, 0, 0, 0, 0, 0, 0], sequences: [[1, 2, 5]] },
        { mask: [1, 0, 0, 1, 1, 1, 0], reset: [0, 0, 0, 0, 0, 0, 0], sequences: [[0, 3, 4, 5]] },
        { mask: [1, 1, 1, 1, 1, 0, 1], reset: [0, 0, 1, 0, 0, 0, 1], sequences: [[0, 1], [2, 3, 4], [6]] },
      ]
      const ids = randomTokens(3, 21)
      for (const [device, bound] of devicesFor(name)) {
        setDevice(device)
        const model = new Transformer(config)
        const ints = (values: ArrayLike<number>, shape: number[]) => tensor(values, { shape, dtype: 'int32' })
        const flags = (key: 'mask' | 'reset') =>
          ints(
            rows.flatMap((row) => row[key]),
            [3, 7],
          )
        const logits = (given: Tensor, options = {}) => scope(() => noGrad(() => model.forward(given, undefined, options).logits))
        const packed = await readAndFree(logits(ints(ids, [3, 7]), { mask: flags('mask'), reset: flags('reset') }))
        const at = (b: number, t: number): number[] => packed.slice((b * 7 + t) * config.symbols, (b * 7 + t + 1) * config.symbols)
        for (const [b, { sequences }] of rows.entries())
          for (const places of sequences) {
            const alone = await readAndFree(
              logits(
                ints(
                  places.map((t) => ids[b * 7 + t]),
                  [1, places.length],
                ),
              ),
            )
            assertRms(
              places.flatMap((t) => at(b, t)),
              alone,
              bound,
              `row ${b}, tokens ${places}`,
            )
          }
        model.dispose()
      }
    })
  }

  it('are refused, with a SafetensorsError and without taking memory, unless they are of that model', async () => {
    const model = new Transformer(architectures.retnet)
    const other = new Transformer({ ...architectures.retnet, layers: 1 })
    const softmax = new Transformer(architectures.softmax)
    const file = await saveState(initialState(model, 2))
    const { tensors, metadata } = readSafetensors(file)
    const before = reference.bytesInUse()
    const refused = (bytes: Uint8Array, message: RegExp, owner = model) =>
      assert.throws(() => loadState(bytes, owner), { name: 'SafetensorsError', message })
    const changed = (name: string, entry: SafetensorsEntry | null, more = {}) =>
      writeSafetensors(
        [...tensors].flatMap(([n, old]) => (n !== name ? [[n, old] as const] : entry ? [[n, entry] as const] : [])),
        { ...metadata, ...more },
      )
    refused(file, /^safetensors: state: "layers\.1\.S" is no part of it$/, other)
    refused(file, /^safetensors: state: it lacks layers\.0\.keys$/, softmax)
    refused(changed('layers.1.S', null), /it lacks layers\.1\.S$/)
    refused(changed('', null, { rows: '3' }), /position has shape \[2\], expected \[3\]$/)
    refused(changed('', null, { rows: '0' }), /its metadata doesn't say how many rows it has$/)
    assert.deepEqual([metadata.format, metadata.fastweights], ['pt', 'state 2'])
    const { fastweights, ...rest } = metadata
    const older = (format: string) => writeSafetensors(tensors, { ...rest, format })
    const asBefore = loadState(older('fastweights-state-1'), model)
    assert.deepEqual(await saveState(asBefore), file)
    disposeState(asBefore)
    refused(older('pt'), /the file isn't a state \(its metadata says format "pt" and nothing of fastweights\)$/)
    refused(changed('', null, { fastweights: 'checkpoint 3' }), /the file isn't a state \(its metadata says "checkpoint 3"\)$/)
    refused(changed('', null, { format: 'x' }), /the file isn't a state \(its metadata says format "x"\)$/)
    refused(changed('position', { dtype: 'F32', shape: [2], data: new Float32Array(2) }), /position is F32, not int32$/)
    refused(changed('position', { dtype: 'I32', shape: [2], data: Int32Array.of(1, -1) }), /position holds a number below 0$/)
    refused(changed('layers.0.S', { dtype: 'I32', shape: [2, 2, 6, 6], data: new Int32Array(144) }), /layers\.0\.S is I32, not float32$/)
    refused(
      changed('layers.0.S', { dtype: 'F32', shape: [2, 2, 6, 5], data: new Float32Array(120) }),
      /layers\.0\.S has shape \[2,2,6,5\], expected \[2,2,6,6\]$/,
    )
    fc.assert(
      fc.property(fc.nat(file.length - 1), (length) => refused(file.subarray(0, length), /./)),
      { numRuns: 50 },
    )
    assert.equal(reference.bytesInUse(), before)
    assert.throws(() => initialState(model, 0), /^Error: initialState: the number of rows must be a positive integer, not 0$/)
    assert.throws(() => resetRows(initialState(model, 2), [true]), /^Error: resetRows: .* rows, the flags are for 1$/)
    assert.throws(
      () => model.forward(tensor([1, 2], { shape: [1, 2], dtype: 'int32' }), initialState(model, 2)),
      /^Error: forward: the state has 2 rows, the tokens 1$/,
    )
    const tokens = tensor([1, 2], { shape: [1, 2], dtype: 'int32' })
    const shorter = { ...initialState(model, 1), layers: [] }
    assert.throws(() => model.forward(tokens, shorter), /^Error: forward: the state has 0 layers, the model \d+$/)
    assert.throws(
      () => model.forward(tokens, undefined, { masks: tokens } as never),
      /^Error: unknown option 'masks' \(mask, reset, last\)$/,
    )
    assert.throws(() => model.forward(tokens, undefined, { last: 1 } as never), /^Error: last must be true or false, not 1$/)
  })

  it('have the sizes of the formulas', () => {
    const sizes = { symbols: 5, dModel: 12, heads: 3, layers: 2, dFf: 4 }
    const size = (change: Partial<TransformerConfig>) => stateSize(new Transformer({ ...sizes, ...change }))
    // Position of the row; in each layer H K' V fast weights, and W - 1 inputs of each convolution.
    assert.equal(size({ nu: 2 }), 1 + 2 * 3 * 16 * 4)
    assert.equal(
      size({ rule: 'linear-attention', featureMap: 'elu1', featureNorm: 'none', conv: 4 }),
      1 + 2 * (3 * 4 * 4 + 3 * 4 + 3 * 3 * 12),
    )
    assert.equal(size({ positions: 'rotary' }), 1 + 2 * (3 * 8 * 4 + 1))
    assert.equal(size({ attention: 'softmax' }), 1)
    assert.equal(stateGrowth(new Transformer({ ...sizes, attention: 'softmax' })), 2 * 2 * 12)
    // Keys and values of s tokens, or one for them, and their place.
    assert.equal(size({ mixer: { kind: 'aft-local', window: 5 } }), 1 + 2 * (2 * 5 * 12 + 1))
    assert.equal(size({ mixer: 'aft-simple' }), 1 + 2 * (2 * 12 + 1))
    assert.equal(stateGrowth(new Transformer({ ...sizes, mixer: 'aft-full' })), 0)
  })
})

/** Tensors of the same values that no op has made. */
async function constantsOf(state: TransformerState): Promise<TransformerState> {
  const copy = async (t: unknown) => (t instanceof Tensor ? tensor(await t.read(), { shape: t.shape }) : t)
  const layers = state.layers.map(async (layer) =>
    Object.fromEntries(await Promise.all(Object.entries(layer).map(async ([name, t]) => [name, await copy(t)]))),
  )
  return { position: state.position, layers: await Promise.all(layers) }
}
