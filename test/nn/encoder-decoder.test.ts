/**
 * The encoder-decoder: gradients are those of finite differences, devices agree with the reference, padding leaves no trace, the target sees nothing of
 * what follows, token by token is all at once; searches find what they should; and it learns.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { concat, type Device, generator, noGrad, scope, setDevice, slice, type Tensor, tensor } from '../../engine/index.ts'
import {
  AdamW,
  beamSearch,
  CrossAttention,
  constant,
  crossRules,
  disposeState,
  EncoderDecoder,
  type EncoderDecoderConfig,
  type EncoderDecoderState,
  greedy,
  initialState,
  lengthPenalty,
  loadState,
  modelOf,
  type PairBatch,
  pairBatch,
  readCheckpoint,
  readSafetensors,
  restoreOptimizer,
  SoftmaxCrossAttention,
  saveState,
  scoreSource,
  stateGrowth,
  stateSize,
  Trainer,
  takeRows,
  writeCheckpoint,
  writeSafetensors,
  writeSource,
} from '../../nn/index.ts'
import { assertClose, assertRms, assertSameBits, gpus, random, readAndFree, reference, runsOn, uniforms, wasm } from '../helpers.ts'
import { checkGradients } from './layers.ts'

const small = { symbols: 7, dModel: 8, heads: 2, encoderLayers: 2, decoderLayers: 2, dFf: 12, chunk: 4 }
const linear = { rule: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' } as const

/** Every form of attention in each of the three places. */
const architectures: Record<string, Partial<EncoderDecoderConfig>> = {
  // Not DPFP: of heads so narrow, all of its features may be nearly 0, which the feature norm divides by.
  delta: { featureMap: 'elu1', scale: 'sqrt' },
  'linear attention': linear,
  sum: { rule: 'sum', featureMap: 'silu', featureNorm: 'l2', headNorm: true, norm: 'rms', positions: 'none', tie: 'output' },
  softmax: { mixer: 'softmax', tie: 'all', embeddingScale: 'sqrt', embeddingStd: 0.3 },
  mixed: {
    sourceSymbols: 5,
    encoder: { kind: 'fast-weights', ...linear },
    cross: 'softmax',
    decoder: [{ kind: 'fast-weights', rule: 'kda', conv: 3 }, 'softmax'],
  },
  'softmax below fast weights': {
    encoder: 'softmax',
    cross: { kind: 'fast-weights', ...linear, rule: 'attention-delta' },
    decoder: 'aft-simple',
  },
}

const make = (name: string, seed = 1, change: Partial<EncoderDecoderConfig> = {}): EncoderDecoder =>
  new EncoderDecoder({ ...small, ...architectures[name], ...change }, seed)

const tokens = (seed: number, B: number, T: number, below = 5): Int32Array => {
  const next = random(seed)
  return Int32Array.from({ length: B * T }, () => Math.floor(next() * below))
}
const ints = (values: ArrayLike<number>, B: number): Tensor => tensor(Int32Array.from(values), { shape: [B, values.length / B] })

/** The logits of a call whose tensors are freed. */
const logitsOf = (body: () => { logits: Tensor }): Promise<number[]> => readAndFree(scope(() => noGrad(() => body().logits)))

const masksOf = ({ sourceMask, targetMask }: { sourceMask: Tensor; targetMask: Tensor }) => ({ sourceMask, targetMask })

/** One row of rows of different lengths, with padding that a seed puts before, inside and after. */
function spread(row: ArrayLike<number>, T: number, seed: number): { values: number[]; mask: number[] } {
  const next = random(seed)
  const places = Array.from({ length: T }, (_, t) => ({ t, at: next() }))
  places.sort((a, b) => a.at - b.at)
  const chosen = new Set(places.slice(0, row.length).map(({ t }) => t))
  let i = 0
  // What stands at padding is a token like any other.
  const values = Array.from({ length: T }, (_, t) => (chosen.has(t) ? row[i++] : (t + seed) % 5))
  return { values, mask: values.map((_, t) => Number(chosen.has(t))) }
}

describe('encoder-decoder', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [[reference, 1e-12], [await wasm(), 1e-5], ...(await gpus()).map((device): [Device, number] => [device, 1e-5])]
  })
  afterEach(() => setDevice(reference))

  for (const name of Object.keys(architectures)) {
    it(`has the gradients of finite differences, of every parameter: ${name}`, async () => {
      const sizes = { symbols: 5, sourceSymbols: 5, dModel: 4, encoderLayers: 1, decoderLayers: 1, dFf: 3 }
      const decoder = name === 'mixed' ? { decoder: 'kda' as const } : {}
      const model = make(name, 3, { ...sizes, ...decoder })
      const batch = pairBatch(
        [
          [
            [1, 4, 2],
            [2, 0],
          ],
          [[3], [1]],
        ],
        { begin: 3, end: 4 },
      )
      await checkGradients(model, () => model.loss(batch))
    }).timeout(60_000)

    it(`computes on each device what the reference does, gradients included: ${name}`, async () => {
      const [B, Ts, Tt] = [3, 6, 5]
      const results: Map<string, number[]>[] = []
      for (const [device, bound] of devices) {
        setDevice(device)
        const model = make(name, 2)
        const before = device.bytesInUse()
        const batch = {
          source: ints(tokens(1, B, Ts), B),
          target: ints(tokens(2, B, Tt), B),
          targets: ints(tokens(3, B, Tt), B),
          sourceMask: ints([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1], B),
          targetMask: ints([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0], B),
        }
        const logits = await logitsOf(() => model.forward(batch.source, batch.target, masksOf(batch)))
        scope(() => model.loss(batch).backward())
        const found = new Map([['logits', logits]])
        for (const [path, p] of model.namedParameters()) if (p.grad) found.set(path, Array.from(await p.grad.read()))
        results.push(found)
        // The largest seen is 1.5e-5, of what passes the head norm of small sums.
        for (const [what, values] of found) assertRms(values, results[0].get(what)!, 4 * bound, `${device.name}: ${what}`, 1e-2)
        assert.equal(found.size, results[0].size)
        for (const t of Object.values(batch)) t.dispose()
        for (const p of model.parameters()) p.grad?.dispose()
        assert.equal(device.bytesInUse(), before, device.name)
        model.dispose()
      }
    })

    it(`passes over padding of source and target without a trace: ${name}`, async () => {
      for (const [device, bound] of devices) {
        setDevice(device)
        const model = make(name)
        const sizes = fc.array(fc.record({ source: fc.integer({ min: 1, max: 6 }), target: fc.integer({ min: 1, max: 6 }) }), {
          minLength: 1,
          maxLength: 3,
        })
        const property = fc.asyncProperty(sizes, fc.nat(1000), fc.nat(3), async (rows, seed, more) => {
          const B = rows.length
          const own = rows.map(({ source, target }, b) => ({
            source: tokens(seed + b, 1, source),
            target: tokens(seed + 9 + b, 1, target),
          }))
          const [Ts, Tt] = (['source', 'target'] as const).map((side) => more + Math.max(...rows.map((row) => row[side])))
          const sources = own.map(({ source }, b) => spread(source, Ts, seed + b))
          const targets = own.map(({ target }, b) => spread(target, Tt, seed + 5 + b))
          const all = (of: { values: number[]; mask: number[] }[], what: 'values' | 'mask'): Tensor =>
            ints(
              of.flatMap((row) => row[what]),
              B,
            )
          const padded = await logitsOf(() =>
            model.forward(all(sources, 'values'), all(targets, 'values'), {
              sourceMask: all(sources, 'mask'),
              targetMask: all(targets, 'mask'),
            }),
          )
          for (const [b, { source, target }] of own.entries()) {
            const alone = await logitsOf(() => model.forward(ints(source, 1), ints(target, 1)))
            const row = padded.slice(b * Tt * small.symbols, (b + 1) * Tt * small.symbols)
            const there = row.filter((_, i) => targets[b].mask[Math.floor(i / small.symbols)] === 1)
            // The largest of 300 cases is 1.7e-5, of what passes the head norm of small sums.
            assertRms(there, alone, 4 * bound, `${device.name}: row ${b} of ${B}`)
            assert.ok(row.every((x, i) => targets[b].mask[Math.floor(i / small.symbols)] === 1 || x === 0))
          }
        })
        await fc.assert(property, { numRuns: runsOn(device, 25) })
        model.dispose()
      }
    })

    it(`lets no token of the target see what follows, to the bit, and each the whole source: ${name}`, async () => {
      const [B, Ts, Tt] = [2, 5, 9]
      for (const [device] of devices) {
        setDevice(device)
        const model = make(name)
        const [source, target] = [tokens(1, B, Ts), tokens(2, B, Tt)]
        const run = async (from: Int32Array, to: Int32Array) =>
          Float64Array.from(await logitsOf(() => model.forward(ints(from, B), ints(to, B))))
        const expected = await run(source, target)
        const place = (i: number): number => Math.floor(i / small.symbols) % Tt
        for (const from of [1, 4, 8]) {
          const actual = await run(
            source,
            target.map((token, i) => (i % Tt >= from ? (token + 1) % 5 : token)),
          )
          const early = (values: Float64Array<ArrayBuffer>) => values.filter((_, i) => place(i) < from)
          assertSameBits(early(actual), early(expected), `${device.name}, another target from ${from}`)
        }
        for (let s = 0; s < Ts; s++) {
          const actual = await run(
            source.map((token, i) => (i % Ts === s ? (token + 1) % 5 : token)),
            target,
          )
          for (let t = 0; t < Tt; t++)
            assert.ok(
              actual.some((x, i) => place(i) === t && x !== expected[i]),
              `${device.name}: token ${s} of the source leaves no trace at ${t}`,
            )
        }
        model.dispose()
      }
    })

    it(`decodes token by token, over a saved state, as it decodes all at once: ${name}`, async () => {
      const [B, Ts, Tt] = [2, 5, 7]
      for (const [device, bound] of devices) {
        setDevice(device)
        const model = make(name)
        const before = device.bytesInUse()
        const [source, target] = [tokens(1, B, Ts), tokens(2, B, Tt)]
        const mask = [1, 1, 1, 1, 1, 1, 1, 0, 1, 0]
        const whole = await logitsOf(() => model.forward(ints(source, B), ints(target, B), { sourceMask: ints(mask, B) }))
        let state: EncoderDecoderState = scope(() => noGrad(() => model.encode(ints(source, B), { mask: ints(mask, B) })))
        for (let t = 0; t < Tt; t++) {
          const old = state
          const column = Int32Array.from({ length: B }, (_, b) => target[b * Tt + t])
          const next = scope(() => noGrad(() => model.decode(ints(column, B), old)))
          disposeState(old)
          state = next.state
          const expected = Array.from({ length: B }, (_, b) => whole.slice((b * Tt + t) * small.symbols, (b * Tt + t + 1) * small.symbols))
          assertRms(await readAndFree(next.logits), expected.flat(), 10 * bound, `${device.name}, token ${t}`)
          if (t !== 3 && t !== 0) continue
          const file = await saveState(state)
          disposeState(state)
          state = loadState(file, model)
        }
        assert.deepEqual([...state.position], [Tt, Tt])
        // The same as never having had a source with tokens.
        const empty = initialState(model, B)
        assert.ok((await logitsOf(() => model.decode(ints([0, 1], B), empty))).every(Number.isFinite))
        for (const one of [state, empty]) disposeState(one)
        assert.equal(device.bytesInUse(), before, device.name)
        model.dispose()
      }
    })
  }

  it('passes gradients on through its states: a target in pieces has those of the whole', async () => {
    for (const name of Object.keys(architectures)) {
      const model = make(name)
      const [source, mask] = [ints(tokens(1, 2, 4), 2), ints([1, 1, 0, 1, 1, 0, 1, 1], 2)]
      const target = tokens(2, 2, 5)
      const piece = (from: number, to: number): Tensor =>
        ints(
          [0, 5].flatMap((row) => [...target.subarray(row + from, row + to)]),
          2,
        )
      const weights = tensor(uniforms(3, 2 * 5 * small.symbols), { shape: [2, 5, small.symbols] })
      const gradients = async (logits: Tensor): Promise<number[]> => {
        logits.backward(weights)
        const grads = await Promise.all(model.parameters().flatMap(({ grad }) => (grad ? [grad.read()] : [])))
        for (const p of model.parameters()) p.grad = null
        return grads.flatMap((grad) => Array.from(grad))
      }
      const whole = await gradients(model.forward(source, piece(0, 5), { sourceMask: mask }).logits)
      const first = model.decode(piece(0, 2), model.encode(source, { mask }))
      const second = model.decode(piece(2, 5), first.state)
      assertClose(await gradients(concat([first.logits, second.logits], 1)), whole, 1e-12, 1, name)
    }
  })

  it('drops in training only, the same for the same seed', async () => {
    const run = (model: EncoderDecoder) => logitsOf(() => model.forward(ints([1, 2, 3], 1), ints([0, 1], 1)))
    for (const name of ['delta', 'softmax']) {
      const [model, twin] = [make(name, 1, { dropout: 0.3 }), make(name, 1, { dropout: 0.3 })]
      const first = await run(model)
      assert.deepEqual(await run(twin), first)
      assert.notDeepEqual(await run(model), first)
      const without = await run(model.eval())
      assert.deepEqual(await run(model), without)
      assert.deepEqual(await run(make(name, 1)), without)
      model.train()
      model.loss(pairBatch([[[1], [2]]], { begin: 0, end: 1 })).backward()
      assert.ok(model.parameters().every(({ grad }) => grad !== null))
    }
  })

  it('keeps a source in a constant size with fast weights, and in keys and values of each token with softmax', async () => {
    const [H, K, V] = [2, 8, 4] // dpfp with nu 1: features twice as wide as heads
    assert.equal(stateSize(new EncoderDecoder(small)), 2 * 2 * H * K * V + 1)
    const softmax = make('softmax')
    assert.deepEqual([stateSize(softmax), stateGrowth(softmax)], [1, 2 * 2 * small.dModel])
    const sizes = (Ts: number): Promise<number> => {
      const state = scope(() => noGrad(() => softmax.encode(ints(tokens(1, 1, Ts), 1))))
      return saveState(state).then((bytes) => [...readSafetensors(bytes).tensors.values()].reduce((n, { data }) => n + data.length, 0))
    }
    assert.equal((await sizes(9)) - (await sizes(8)), 2 * (2 * small.dModel + 1))
  })

  it('tells each layer of the decoder where it stands', async () => {
    const decoder = { kind: 'fast-weights', rule: 'retnet', headDecay: 'lightning', featureMap: 'identity', featureNorm: 'none' } as const
    const model = make('delta', 1, { decoder })
    const x = tensor(uniforms(1, 2 * 8), { shape: [1, 2, 8] })
    // The second of two heads keeps e^-4 of what it holds in the first of two layers, e^-2 in the second.
    for (const [i, kept] of [Math.exp(-4), Math.exp(-2)].entries()) {
      const { self_attn } = model.decoder.layers[i]
      const after = async (given: Tensor) => Array.from(await (self_attn.forward(given).state as { S: Tensor }).S.read()).slice(16)
      const [whole, first, second] = await Promise.all([x, slice(x, 1, 0, 1), slice(x, 1, 1, 2)].map(after))
      assertClose(
        whole.map((s, j) => s - second[j]),
        first.map((s) => s * kept),
        1e-12,
      )
    }
  })

  it('keeps its parameters in a safetensors file', async () => {
    for (const name of ['softmax', 'mixed']) {
      const [model, other] = [make(name, 1), make(name, 2)]
      const run = (m: EncoderDecoder) => logitsOf(() => m.forward(ints([1, 2, 3], 1), ints([0, 1], 1)))
      other.loadStateDict(readSafetensors(writeSafetensors(await model.stateDict())).tensors)
      assert.deepEqual(await run(other), await run(model))
    }
    const names = [...make('softmax').namedParameters().keys()]
    for (const name of ['src_embed.weight', 'tgt_embed.weight', 'generator.weight', 'decoder.layers.1.src_attn.query.linear.weight'])
      assert.ok(names.includes(name), name)
    assert.equal(make('softmax').parameters().length, names.length - 2)
  })

  it('draws new directions of FAVOR+ after an epoch, in all places', async () => {
    const model = new EncoderDecoder({ ...small, featureMap: 'favor', featureNorm: 'none', rule: 'linear-attention', favorRedraw: 'epoch' })
    const weights = [...model.namedParameters()].filter(([name]) => name.endsWith('features.weight'))
    assert.equal(weights.length, 6)
    const before = await Promise.all(weights.map(([, p]) => p.read().then((values) => values.join())))
    model.endEpoch()
    for (const [i, [name, p]] of weights.entries()) assert.notEqual((await p.read()).join(), before[i], name)
  })

  it('refuses in one line what makes no sense, before anything is made', () => {
    const before = reference.bytesInUse()
    const refused = (change: object, message: string | RegExp) =>
      assert.throws(() => new EncoderDecoder({ ...small, ...change } as never), { message })
    refused({ symbols: 0 }, 'symbols must be a positive integer, not 0')
    refused({ sourceSymbols: '9' }, "sourceSymbols must be a number, not the text '9'")
    refused({ decoderLayers: 0 }, 'decoderLayers must be a positive integer, not 0')
    refused({ heads: 3 }, "3 heads don't divide dModel = 8")
    refused({ layers: 2 }, /^unknown option 'layers' \(symbols, sourceSymbols, /)
    refused({ positions: 'rotary' }, "unknown positions 'rotary' (none, sinusoidal)")
    refused({ tie: true }, "unknown tie 'true' (none, output, all)")
    refused({ tie: 'all', sourceSymbols: 9 }, 'tie = all needs one vocabulary for both: there are 9 symbols in sources, 7 in targets')
    refused(
      { rule: 'kda' },
      /^encoder: a source can't be written by the rule kda \(sum, .*delta.* can\); the decoder's own layers may have it: give decoder: 'kda'$/,
    )
    refused({ encoder: 'delta', cross: 'kda' }, /^cross: a source can't be written by the rule kda /)
    refused({ rule: 'hebb' }, /^unknown rule 'hebb' /)
    refused(
      { ...linear, normaliserEps: 0, featureMap: 'favor' },
      'normaliserEps must be above 0: a source may have no token at all, and the rule linear-attention divides by z . q, which is 0 then',
    )
    refused({ cross: 'aft-simple' }, 'cross: aft-simple has no form that reads a whole source (fast-weights, softmax have)')
    refused({ encoder: 'elman' }, /^unknown mixer 'elman' /)
    refused({ mixer: ['delta', 'sum'] }, 'encoder: takes one choice for all of its layers, not an array of 2; a decoder takes a list')
    refused({ cross: { kind: 'fast-weights', conv: 4 } }, /^unknown option 'conv' \(heads, /)
    refused({ cross: { kind: 'softmax', positions: 'rotary' } }, "unknown option 'positions' (heads)")
    refused({ mixer: 'softmax', nu: 2 }, /^nu = 2 means nothing here: it belongs to fast-weights attention$/)
    refused(
      { rule: 'linear-attention', featureMap: 'silu', featureNorm: 'none' },
      /^the rule linear-attention divides by z \. q, which silu /,
    )
    refused({ normaliserEps: 1e-3 }, /^normaliserEps = 0\.001 means nothing here: /)
    refused({ featureMap: 'favor', featureNorm: 'none', favorRedraw: 'step' }, "unknown favorRedraw 'step' (never, epoch)")
    refused({ dropout: 1 }, 'Dropout: the probability must be in [0, 1), not 1')
    assert.throws(() => new EncoderDecoder(undefined as never), { message: /^EncoderDecoder: the options must be an object/ })
    assert.equal(reference.bytesInUse(), before)

    const model = make('delta')
    const [source, target] = [ints([1, 2], 1), ints([0], 1)]
    const wrong = (body: () => unknown, message: string | RegExp) => assert.throws(body, { message })
    wrong(() => model.forward(source, ints([0, 1], 2)), 'decode: the state has 1 rows, the target 2')
    wrong(() => model.forward(tensor([1]), target), /^encode: needs int32 indices/)
    wrong(() => model.forward(ints([], 1), target), 'encode: the source has shape [1,0], expected [B,T]')
    wrong(() => model.forward(source, target, { mask: source } as never), "unknown option 'mask' (sourceMask, targetMask)")
    wrong(() => model.forward(source, target, { sourceMask: target }), /^encode: mask has shape \[1,1\], expected \[1,2\]$/)
    wrong(() => model.decode(target, {} as never), 'decode: the state must be what encode or decode returned, not an object')
    wrong(
      () => model.decode(target, make('delta', 1, { decoderLayers: 1 }).encode(source)),
      'decode: the state has 1 layers, the decoder 2',
    )
    wrong(() => pairBatch([], { begin: 0, end: 1 }), /^pairBatch: needs pairs of a source and a target/)
    wrong(
      () => pairBatch([[1]] as never, { begin: 0, end: 1 }),
      /^pairBatch: a pair must be \[source, target\], two lists of tokens, not an /,
    )
    wrong(() => pairBatch([[[1], [2]]], { begin: 0 } as never), 'pairBatch: end must be a number, not undefined')
    wrong(
      () => pairBatch([[[1], [2]]], undefined as never),
      /^pairBatch: the options must be an object such as \{ begin: \.\.\. \}, not undefined$/,
    )
    wrong(() => pairBatch([[[1], [2]]], { begin: 0, end: 1, mask: 1 } as never), "pairBatch: unknown option 'mask' (begin, end, device)")
    const symbols = { begin: 0, end: 1 }
    wrong(
      () =>
        pairBatch(
          [
            [[1], [2]],
            [[1], null],
          ] as never,
          symbols,
        ),
      /^pairBatch: the target of pair 1 must be a list of tokens, such as .*, not null$/,
    )
    wrong(
      () => pairBatch([['12', [2]]] as never, symbols),
      /^pairBatch: the source of pair 0 must be a list of tokens, .* not the text '12'$/,
    )
    for (const [bad, said] of [
      [1.5, '1.5'],
      [Number.NaN, 'NaN'],
      [-1, '-1'],
      [2 ** 31, '2147483648'],
      ['3', "the text '3'"],
    ])
      wrong(
        () => pairBatch([[[1, 0, bad], [2]]] as never, symbols),
        `pairBatch: the source of pair 0 holds ${said} at 2; tokens are integers from 0, below 2^31`,
      )
    wrong(() => pairBatch([[[1], [2]]], { begin: 2 ** 31, end: 1 }), /^pairBatch: begin holds 2147483648 /)
    wrong(() => model.forward(ints([1, 9], 1), target), 'encode: the source holds 9 at [0,1], where its 7 symbols are 0 to 6')
    wrong(() => model.forward(source, ints([-1], 1)), 'decode: the target holds -1 at [0,0], where its 7 symbols are 0 to 6')
  })
})

describe('cross attention', () => {
  afterEach(() => setDevice(reference))

  it('reads through the memory what it reads by scores, for rules that only add; others say that they have none', async () => {
    const devices = [reference, await wasm(), ...(await gpus())]
    for (const device of devices) {
      setDevice(device)
      for (const settings of [{ rule: 'sum' }, { ...linear, nu: 1 }] as const) {
        const layer = new CrossAttention({ dModel: 6, heads: 2, headNorm: true, ...settings }, generator(1))
        const [x, source] = [tensor(uniforms(1, 2 * 3 * 6), { shape: [2, 3, 6] }), tensor(uniforms(2, 2 * 5 * 6), { shape: [2, 5, 6] })]
        const mask = ints([1, 1, 0, 1, 1, 0, 0, 1, 0, 0], 2)
        const run = (form: 'memory' | 'scores') => readAndFree(scope(() => noGrad(() => layer.forward(x, source, { mask, form }))))
        assertRms(await run('scores'), await run('memory'), device.double ? 1e-12 : 1e-5, `${device.name}: ${settings.rule}`)
      }
    }
    setDevice(reference)
    const layer = new CrossAttention({ dModel: 6, heads: 2 }, generator(1))
    const x = tensor(uniforms(1, 6), { shape: [1, 1, 6] })
    assert.throws(() => layer.forward(x, x, { form: 'scores' }), {
      message: 'scoreSource: what the rule delta writes depends on what it has written (sum and linear-attention only add)',
    })
  })

  it('looks at nothing that stands at padding, NaN included, in its gradients too', async () => {
    const layers = [
      ...crossRules.map((rule) => new CrossAttention({ dModel: 4, heads: 2, rule }, generator(1))),
      new SoftmaxCrossAttention({ dModel: 4, heads: 2 }, generator(1)),
    ]
    for (const layer of layers) {
      const results = []
      for (const bad of [0.5, Number.NaN]) {
        const values = uniforms(1, 4 * 4)
        const source = tensor(
          values.map((v, i) => (Math.floor(i / 4) === 2 ? bad : v)),
          { shape: [1, 4, 4], requiresGrad: true },
        )
        const x = tensor(
          uniforms(2, 2 * 4).map((v, i) => (i >= 4 ? bad : v)),
          { shape: [1, 2, 4], requiresGrad: true },
        )
        const y = layer.read(x, layer.write(source, { mask: ints([1, 1, 0, 1], 1) }), { mask: ints([1, 0], 1) })
        y.backward(tensor([1, 2, 3, 4, bad, bad, bad, bad], { shape: [1, 2, 4] }))
        const grads = [source, x, ...layer.parameters()].flatMap(({ grad }) => (grad ? [grad.read()] : []))
        results.push([...(await y.read()), ...(await Promise.all(grads)).flatMap((grad) => Array.from(grad))])
        for (const p of layer.parameters()) p.grad = null
      }
      assert.deepEqual(results[1], results[0])
      assert.ok(results[0].every(Number.isFinite))
    }
  })

  it('says what is missing', () => {
    const layer = new CrossAttention({ dModel: 4, heads: 2 }, generator(1))
    const x = tensor(uniforms(1, 4), { shape: [1, 1, 4] })
    assert.throws(() => layer.read(x, {}), { message: 'cross attention: there is nothing to read: write a source first' })
    const two = layer.write(tensor(uniforms(1, 8), { shape: [2, 1, 4] }))
    assert.throws(() => layer.read(x, two), { message: 'cross attention: the state has 2 rows of S, the input has 1' })
    assert.throws(() => layer.write(x, { reset: ints([0], 1) } as never), { message: "cross attention: unknown option 'reset' (mask)" })
  })

  it('is refused in forms that there are not, of sources that are not as many, and where it would divide by 0', () => {
    const layer = new CrossAttention({ dModel: 8, heads: 2, ...linear }, generator(1))
    const [x, source] = [tensor(uniforms(1, 2 * 3 * 8), { shape: [2, 3, 8] }), tensor(uniforms(2, 5 * 8), { shape: [1, 5, 8] })]
    assert.throws(() => layer.forward(x, source, { form: 'scores' }), { message: 'cross attention: x has 2 rows, the source 1' })
    assert.throws(() => layer.forward(x, source), { message: /^cross attention: the state has 1 rows of S, the input has 2$/ })
    assert.throws(() => layer.forward(x, x, { form: 'memoryy' as never }), {
      message: "unknown form of cross attention 'memoryy' (memory, scores)",
    })
    assert.throws(() => new CrossAttention({ dModel: 8, heads: 2, rule: 'kda' }, generator(1)), {
      message: /^a source can't be written by the rule kda \(sum, .* can\)$/,
    })
    // Features that are never 0 don't help where there is no token.
    for (const featureMap of ['favor', 'taylor2'] as const)
      assert.throws(() => new CrossAttention({ dModel: 8, heads: 2, ...linear, featureMap, normaliserEps: 0 }, generator(1)), {
        message: /^normaliserEps must be above 0: a source may have no token at all, /,
      })
  })

  it('writes what it is given to write, and nothing else', () => {
    const [k, v] = [1, 2].map((seed) => tensor(uniforms(seed, 2 * 3 * 2 * 4), { shape: [2, 3, 2, 4] }))
    const beta = tensor(uniforms(3, 2 * 3 * 2, 0, 1), { shape: [2, 3, 2] })
    const refused = (rule: string, given: object, mask: Tensor | undefined, message: string | RegExp) => {
      const forms = rule === 'sum' ? ([undefined, 'recurrent', 'chunk'] as const) : [undefined]
      for (const form of forms) assert.throws(() => writeSource(rule as never, { k, v, ...given }, { mask, form }), { message })
    }
    refused('sum', {}, ints([1, 1], 2), 'writeSource: mask has shape [2,1], expected [2,3]')
    refused('sum', {}, ints([1, 1, 1, 5, 1, 1], 2), 'writeSource: mask holds 5 at 3, not 0 or 1')
    refused('hebb', {}, undefined, /^writeSource: a source can't be written by the rule hebb \(sum, /)
    refused('kda', { beta }, undefined, /^writeSource: a source can't be written by the rule kda \(sum, /)
    refused('delta', {}, undefined, 'writeSource: the rule delta needs beta [B,T,H], how strongly each token writes')
    refused('sum', { v: beta }, undefined, /^writeSource: /)
    assert.throws(() => scoreSource('hebb' as never, k, { k, v }), { message: /^scoreSource: a source can't be written by the rule hebb / })
    assert.throws(() => scoreSource('sum', k, { k, v }, { mask: ints([1, 1], 2) }), {
      message: 'scoreSource: mask has shape [2,1], expected [2,3]',
    })
  })
})

describe('rows of a state', () => {
  it('are taken in any order, and several times', async () => {
    for (const name of Object.keys(architectures)) {
      const model = make(name)
      const run = (rows: number[]) => {
        const pick = (values: Int32Array, T: number) => rows.flatMap((b) => [...values.subarray(b * T, (b + 1) * T)])
        const sources = ints(pick(tokens(1, 3, 4), 4), rows.length)
        return model.decode(ints(pick(tokens(2, 3, 2), 2), rows.length), model.encode(sources)).state
      }
      const rows = [2, 0, 0, 2]
      const actual = readSafetensors(await saveState(takeRows(run([0, 1, 2]), rows))).tensors
      const expected = readSafetensors(await saveState(run(rows))).tensors
      assert.deepEqual([...actual.keys()], [...expected.keys()])
      for (const [part, { shape, data }] of expected) {
        assert.deepEqual(actual.get(part)!.shape, shape, part)
        assertClose(actual.get(part)!.data as Float64Array, data as Float64Array, 1e-12, 1, `${name}: ${part}`)
      }
    }
    const state = make('delta').encode(ints([1, 2], 2))
    const refused = (rows: unknown, message: string) => assert.throws(() => takeRows(state, rows as never), { message })
    for (const [row, said] of [
      [2, '2'],
      [-1, '-1'],
      [0.5, '0.5'],
      [undefined, 'undefined'],
      ['1', "the text '1'"],
    ])
      refused([0, row], `takeRows: rows[1] is ${said}, where it must be an integer from 0 to 1: the state has 2 rows`)
    for (const [rows, said] of [
      ['01', "the text '01'"],
      [undefined, 'undefined'],
      [{ length: 1 }, 'an object'],
    ])
      refused(rows, `takeRows: the rows must be an array of their places, such as [0, 0, 2], not ${said}`)
    disposeState(takeRows(state, Int32Array.of(1, 0) as never))
    disposeState(takeRows(state, []))
  })
})

describe('searches', () => {
  let devices: Device[]
  before(async () => {
    devices = [reference, await wasm(), ...(await gpus())]
  })
  afterEach(() => setDevice(reference))

  /** A model whose logits are large enough for targets to differ, and to end. */
  async function decided(name: string, seed: number, symbols = 5): Promise<EncoderDecoder> {
    const { tie = 'none' } = architectures[name]
    const model = make(name, seed, { symbols, sourceSymbols: 5, tie: symbols < 5 && tie === 'all' ? 'output' : tie, encoderLayers: 1 })
    const { weight } = model.generator
    weight.write((await weight.read()).map((x) => 6 * x))
    return model
  }

  /** The score of every target there is, each by one forward pass over all of it. */
  async function everyTarget(model: EncoderDecoder, source: Tensor, begin: number, end: number, length: number, alpha: number) {
    const N = model.config.symbols
    const found: { tokens: number[]; ended: boolean; logProbability: number; score: number }[] = []
    const visit = async (made: number[], logProbability: number): Promise<void> => {
      const logits = (await logitsOf(() => model.forward(source, ints([begin, ...made], 1)))).slice(-N)
      const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0))
      for (let symbol = 0; symbol < N; symbol++) {
        const p = logProbability + logits[symbol] - total
        const n = made.length + 1
        const ended = symbol === end
        if (ended || n === length)
          found.push({ tokens: ended ? made : [...made, symbol], ended, logProbability: p, score: p / lengthPenalty(n, alpha) })
        else await visit([...made, symbol], p)
      }
    }
    await visit([], 0)
    return found.sort((a, b) => b.score - a.score)
  }

  it('find the best of all targets when the beam is wide, and all of them in order', async () => {
    const differ = []
    for (const [seed, name] of Object.keys(architectures).entries())
      for (const alpha of [0, 0.6, 2]) {
        const model = await decided(name, seed + 1, 4)
        const source = ints([1, 3, 0, 4], 1)
        const [begin, end, length] = [2, 3, 4]
        const expected = await everyTarget(model, source, begin, end, length, alpha)
        assert.equal(expected.length, 1 + 3 + 9 + 27 * 4)
        const [hypotheses] = await beamSearch(model, source, { begin, end, length, beams: 4 ** length, alpha })
        assert.equal(hypotheses.length, expected.length)
        for (const [i, { tokens, ended, score, logProbability }] of hypotheses.entries()) {
          if (i === 0) assert.deepEqual({ tokens, ended }, { tokens: expected[0].tokens, ended: expected[0].ended }, name)
          assertClose([score, logProbability], [expected[i].score, score * lengthPenalty(tokens.length + Number(ended), alpha)], 1e-9)
        }
        const [first] = await greedy(model, source, { begin, end, length })
        differ.push(first.tokens.join() !== expected[0].tokens.join())
      }
    assert.ok(differ.includes(true), 'a case in which the likeliest symbol is the wrong one')
  }).timeout(60_000)

  it('are the same with a beam of one as taking the likeliest symbol, batched or alone, and twice the same', async () => {
    for (const device of devices) {
      setDevice(device)
      for (const [i, name] of Object.keys(architectures).entries()) {
        const slow = device.name === 'webgpu'
        if (slow && i !== 4) continue
        const model = await decided(name, 20 + i)
        const before = device.bytesInUse()
        const [B, Ts] = [4, 5]
        const values = tokens(7, B, Ts)
        const mask = Array.from({ length: B * Ts }, (_, j) => Number(j % Ts < 2 + Math.floor(j / Ts)))
        const source = ints(values, B)
        const sourceMask = ints(mask, B)
        const options = { begin: 0, end: 4, length: slow ? 4 : 7 }
        const found = await greedy(model, source, { ...options, sourceMask })
        const beams = await beamSearch(model, source, { ...options, sourceMask, beams: 1 })
        const plain = beams.map(([{ tokens, logProbability, ended }]) => ({ tokens, logProbability, ended }))
        assert.deepEqual(plain, found, `${device.name}: ${name}`)
        assert.ok(
          found.every(
            ({ tokens, ended }) => (ended ? tokens.length < options.length : tokens.length === options.length) && !tokens.includes(4),
          ),
        )
        for (const W of slow ? [2] : [2, 3]) {
          const many = await beamSearch(model, source, { ...options, sourceMask, beams: W })
          assert.deepEqual(await beamSearch(model, source, { ...options, sourceMask, beams: W }), many)
          for (let b = 0; b < B; b++) {
            const [row, there] = [ints(values.subarray(b * Ts, (b + 1) * Ts), 1), ints(mask.slice(b * Ts, (b + 1) * Ts), 1)]
            const [alone] = await beamSearch(model, row, { ...options, sourceMask: there, beams: W })
            assert.deepEqual(
              many[b].map(({ tokens }) => tokens),
              alone.map(({ tokens }) => tokens),
            )
            assert.ok(many[b].length > 0 && many[b].length <= W)
            for (const t of [row, there]) t.dispose()
          }
        }
        for (const t of [source, sourceMask]) t.dispose()
        assert.equal(device.bytesInUse(), before, `${device.name}: ${name}`)
        assert.equal(model.training, true)
        model.dispose()
      }
    }
  }).timeout(60_000)

  it('give no target that cannot be', async () => {
    const model = await decided('delta', 3)
    // Only two symbols and the end have a probability.
    model.generator.bias!.write([0, -Infinity, 0, -Infinity, 0])
    const [found] = await beamSearch(model, ints([1, 3], 1), { begin: 0, end: 4, length: 2, beams: 16 })
    assert.equal(found.length, 1 + 2 + 2 * 2)
    assert.ok(
      found.every(({ tokens, logProbability, score }) => Number.isFinite(logProbability + score) && tokens.every((t) => t % 2 === 0)),
    )
  })

  it('divide by the length penalty of Wu 2016', () => {
    assert.equal(lengthPenalty(1, 0.6), 1)
    assert.equal(lengthPenalty(7, 1), 2)
    assert.equal(lengthPenalty(9, 0), 1)
  })

  it('refuse what they cannot do, and leave the model as it was', async () => {
    const model = make('delta')
    const source = ints([1, 2], 1)
    const refused = (options: object, message: string | RegExp) =>
      assert.rejects(beamSearch(model, source, { begin: 0, end: 1, length: 3, beams: 2, ...options }), { message })
    await refused({ beams: 0 }, 'beamSearch: beams must be a positive integer, not 0')
    await refused({ alpha: -1 }, 'beamSearch: alpha must be 0 or more, not -1')
    await refused({ end: 7 }, 'beamSearch: end = 7 is no symbol of a model with 7')
    await refused({ width: 2 }, /^beamSearch: unknown option 'width' /)
    await assert.rejects(greedy({} as never, source, { begin: 0, end: 1, length: 3 }), {
      message: 'greedy: needs an EncoderDecoder, not an object',
    })
    await assert.rejects(greedy(model, source, { begin: 0, end: 1, length: 0 }), {
      message: 'greedy: length must be a positive integer, not 0',
    })
    await assert.rejects(greedy(model, source, { begin: 0, end: 1, length: 1, beams: 1 } as never), {
      message: /^greedy: unknown option 'beams' /,
    })
    const before = reference.bytesInUse()
    model.generator.bias!.write(new Float64Array(7).fill(Number.NaN))
    await assert.rejects(greedy(model, source, { begin: 0, end: 1, length: 3 }), { message: "greedy: the model's output isn't finite" })
    assert.equal(reference.bytesInUse(), before)
    assert.equal(model.training, true)
  })
})

describe('an encoder-decoder in a checkpoint', () => {
  const pairs = Array.from({ length: 6 }, (_, i): [number[], number[]] => [[...tokens(i, 1, 3)], [...tokens(i, 1, 3)].reverse()])
  const trainerOf = (model: EncoderDecoder) =>
    new Trainer(model, new AdamW(model.namedParameters(), { lr: 1e-3 }), { schedule: constant(1e-2), clipNorm: 1 })

  for (const name of ['delta', 'mixed'])
    it(`goes on to the bit: ${name}`, async () => {
      const batch = pairBatch(pairs, { begin: 5, end: 6 })
      const model = make(name, 3, { dropout: 0.1, symbols: 7, ...(name === 'mixed' && { sourceSymbols: 7 }) })
      const trainer = trainerOf(model)
      for (let i = 0; i < 3; i++) await trainer.step(batch)
      const bytes = await writeCheckpoint(model, trainer.optimizer, { note: 'halfway' })
      const checkpoint = readCheckpoint(bytes, 'encoder-decoder')
      assert.deepEqual([checkpoint.kind, checkpoint.steps, checkpoint.extra], ['encoder-decoder', 3, { note: 'halfway' }])
      const again = modelOf(checkpoint)
      const resumed = trainerOf(again)
      restoreOptimizer(resumed.optimizer, checkpoint)
      for (let i = 0; i < 2; i++) assert.deepEqual(await resumed.step(batch), await trainer.step(batch))
      const other = await again.stateDict()
      for (const [path, { data }] of await model.stateDict())
        assertSameBits(Float64Array.from(other.get(path)!.data), Float64Array.from(data))
      const evaluated = await resumed.evaluate([batch])
      assert.equal(evaluated, await trainer.evaluate([batch]))
      const loss = scope(() => noGrad(() => again.eval().loss(batch)))
      // An evaluation takes it times the number of targets, and divides the sum of all batches.
      assertClose([evaluated], [await loss.item()], 1e-15)
    })

  it('is refused where another kind is wanted, and where it is changed', async () => {
    const bytes = await writeCheckpoint(make('delta'), null)
    const { tensors, metadata } = readSafetensors(bytes)
    const refused = (message: RegExp, change: object, kind: 'transformer' | 'encoder-decoder' = 'encoder-decoder') => {
      const config = JSON.stringify({ ...JSON.parse(metadata.config), ...change })
      assert.throws(() => readCheckpoint(writeSafetensors(tensors, { ...metadata, config }), kind), { name: 'SafetensorsError', message })
    }
    refused(
      /the file holds a model of the kind "encoder-decoder", not "transformer": readCheckpoint\(bytes, 'encoder-decoder'\)$/,
      {},
      'transformer',
    )
    refused(/dFf isn't a number$/, { dFf: undefined })
    refused(/it has an unknown field "layers"$/, { layers: 3 })
    refused(/it has 100 layers, the file 49 tensors$|it has 100 layers, the file \d+ tensors$/, { decoderLayers: 100 })
    refused(/has shape .*, its configuration says/, { dFf: 13 })
    assert.throws(() => readCheckpoint(bytes, 'lstm' as never), {
      message: /^unknown kind of model 'lstm' \(transformer, autoencoder, encoder-decoder, blocks\)$/,
    })
    await assert.rejects(writeCheckpoint({} as never, null), {
      message: /^writeCheckpoint: needs a model of transformer, autoencoder, encoder-decoder, blocks, not /,
    })
  })
})

/** A step; the loss before it. */
const learn = (model: EncoderDecoder, optimizer: AdamW, batch: PairBatch): Tensor =>
  scope(() => {
    const loss = model.loss(batch)
    loss.backward()
    optimizer.step({ clipNorm: 1 })
    optimizer.zeroGrad()
    return loss
  })

describe('an encoder-decoder learns', () => {
  afterEach(() => setDevice(reference))

  it('on each device alike', async () => {
    const losses: number[][] = []
    for (const device of [reference, await wasm(), ...(await gpus())]) {
      setDevice(device)
      const model = make('mixed', 1, { dropout: 0.1 })
      const optimizer = new AdamW(model.namedParameters(), { lr: 1e-2 })
      const batch = pairBatch(
        [
          [
            [1, 2, 3],
            [3, 2, 1],
          ],
          [[4], [4]],
        ],
        { begin: 5, end: 6 },
      )
      const found: number[] = []
      for (let step = 0; step < 6; step++) {
        const loss = learn(model, optimizer, batch)
        found.push(...(await readAndFree(loss)))
      }
      losses.push(found)
      // Adam divides by the root of a square, which at first turns rounding errors of small gradients into steps.
      assertClose(found, losses[0], 1e-3, 0, device.name)
      assert.ok(found[5] < 0.7 * found[0], `${found}`)
    }
  })

  for (const [name, config] of [
    ['delta', { featureMap: 'silu', featureNorm: 'l2' }],
    ['linear attention', linear],
    ['softmax', { mixer: 'softmax' }],
  ] as [string, Partial<EncoderDecoderConfig>][]) {
    it(`to reverse five symbols: ${name}`, async () => {
      const device = await wasm()
      setDevice(device)
      const [begin, end] = [10, 11]
      const model = new EncoderDecoder({ symbols: 12, dModel: 32, heads: 4, encoderLayers: 1, decoderLayers: 1, dFf: 64, ...config })
      const optimizer = new AdamW(model.namedParameters(), { lr: 5e-3 })
      const next = random(1)
      const pairs = (n: number): [number[], number[]][] =>
        Array.from({ length: n }, () => {
          const digits = Array.from({ length: 5 }, () => Math.floor(next() * 10))
          return [digits, [...digits].reverse()]
        })
      /** Smoothed: a batch may be an easy one. */
      let last = Math.log(12)
      let steps = 0
      let used = 0
      while (steps < 400 && last > 0.02) {
        const batch = pairBatch(pairs(32), { begin, end })
        const loss = learn(model, optimizer, batch)
        last = 0.8 * last + 0.2 * (await loss.item())
        for (const t of [loss, ...Object.values(batch)]) t.dispose()
        if (++steps === 2) used = device.bytesInUse()
        if (steps > 2) assert.equal(device.bytesInUse(), used)
      }
      assert.ok(last < 0.05, `a loss of ${last} after ${steps} steps`)
      const fresh = pairs(50)
      const { source } = pairBatch(fresh, { begin, end })
      const found = await greedy(model, source, { begin, end, length: 8 })
      const beams = await beamSearch(model, source, { begin, end, length: 8, beams: 4 })
      const right = (tokens: number[], i: number): boolean => tokens.join() === fresh[i][1].join()
      for (const all of [found.map(({ tokens }) => tokens), beams.map(([{ tokens }]) => tokens)])
        assert.ok(all.filter(right).length >= 44, `${all.filter(right).length} of 50 right`)
      model.dispose()
    }).timeout(60_000)
  }
})
