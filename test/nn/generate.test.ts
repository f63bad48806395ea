/** Token by token and all at once are the same function of the same weights. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type Device, noGrad, ones, profile, scope, setDevice, type Tensor, tensor, uniform } from '../../engine/index.ts'
import {
  type GenerateOptions,
  generate,
  generateBatch,
  Module,
  sample,
  stateGrowth,
  Transformer,
  type TransformerState,
} from '../../nn/index.ts'
import { roomFor } from '../../nn/room.ts'
import { assertRms, gpus, reference, runsOn, wasm } from '../helpers.ts'
import { architectures, few, randomTokens, stateful } from './models.ts'

/** The logits of a sequence that runs in pieces of these lengths, each from the state that the one before left. */
async function logitsInPieces(model: Transformer, tokens: Int32Array, lengths: readonly number[]): Promise<number[]> {
  const pieces = scope(() =>
    noGrad(() => {
      let state: TransformerState | undefined
      let position = 0
      return lengths.map((length) => {
        const result = model.forward(tensor(tokens.slice(position, (position += length)), { shape: [1, length] }), state)
        state = result.state
        return result.logits
      })
    }),
  )
  const values = await Promise.all(pieces.map((piece) => piece.read()))
  for (const piece of pieces) piece.dispose()
  return values.flatMap((piece) => Array.from(piece))
}

async function collect(model: Transformer, prompt: Int32Array, options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = []
  for await (const token of generate(model, prompt, options)) tokens.push(token)
  return tokens
}

describe('generation', () => {
  let devices: [Device, number][]
  before(async () => {
    devices = [
      [reference, 1e-10],
      [await wasm(), 1e-5],
      [await wasm(2), 1e-5],
      ...(await gpus()).map((device): [Device, number] => [device, 1e-5]),
    ]
  })
  afterEach(() => setDevice(reference))
  const devicesFor = (name: string) => devices.filter(([device]) => device.name !== 'webgpu' || few.has(name))

  for (const [name, config] of Object.entries(architectures)) {
    it(`has the same logits token by token, in any pieces, and at once: ${name}`, async () => {
      for (const [device, bound] of devicesFor(name)) {
        setDevice(device)
        const model = new Transformer(config).eval()
        const before = device.bytesInUse()
        const T = 24
        const property = fc.asyncProperty(
          fc.nat(1000),
          fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 }),
          async (seed, cuts) => {
            const tokens = randomTokens(seed, T)
            const lengths: number[] = []
            for (let left = T; left > 0; left -= lengths.at(-1)!) lengths.push(Math.min(left, cuts[lengths.length % cuts.length]))
            assertRms(
              await logitsInPieces(model, tokens, lengths),
              await logitsInPieces(model, tokens, [T]),
              bound,
              `${device.description}, ${lengths}`,
            )
          },
        )
        await fc.assert(property, {
          numRuns: runsOn(device, device.double ? 8 : 15),
          examples: [
            [1, [1]],
            [2, [T]],
          ],
        })
        assert.equal(device.bytesInUse(), before)
        model.dispose()
      }
    })

    const grows = stateGrowth(new Transformer(config)) > 0
    // More than any table is long; every token is looked at.
    const steps = grows ? 400 : 700
    it(`${grows ? 'grows only for its keys and values, and seldom' : 'keeps its memory'} over ${steps} tokens: ${name}`, async () => {
      const [, [device]] = devices
      setDevice(device)
      const model = new Transformer(config)
      const before = device.bytesInUse()
      const used: number[] = []
      for await (const _ of generate(model, randomTokens(1, 5), { length: steps })) used.push(device.bytesInUse() - before)
      const perToken = 4 * stateGrowth(model)
      const room = (i: number): number => (grows ? roomFor(5 + Math.max(i, 1)) : 0)
      for (const [i, bytes] of used.entries()) {
        // The step is captured for the second token.
        if (i === 0) continue
        // What it needs for each key beside it is less than that.
        const [more, asked] = [bytes - used[1], perToken * (room(i) - room(1))]
        assert.ok(more >= asked && more <= 2 * asked, `after token ${i + 1}: ${more} bytes more, for keys and values ${asked}`)
        if (i > 1 && room(i) === room(i - 1)) assert.equal(bytes, used[i - 1], `after token ${i + 1}`)
      }
      assert.ok(used[0] > 0)
      assert.equal(device.bytesInUse(), before)
      assert.equal(model.training, true)
      model.dispose()
    })
  }

  it('has the same tokens from a step that is captured and from the step itself, alone and side by side', async () => {
    const prompts = [5, 1, 9, 2].map((length, i) => randomTokens(i, length))
    prompts.push(prompts[2])
    const captured: string[] = []
    for (const device of [reference, await wasm(), await wasm(2), await wasm(1, true), ...(await gpus())]) {
      // A profiled device captures nothing.
      const profiling = profile(device)
      for (const [name, config] of Object.entries(stateful)) {
        if (device.name === 'webgpu' && name !== 'kda') continue
        const length = device.name === 'webgpu' ? 4 : device.double ? 6 : 12
        const models = [profiling.device, device].map((d) => {
          setDevice(d)
          return new Transformer(config)
        })
        const [plain, model] = models
        const before = device.bytesInUse()
        const expected = await Promise.all(
          prompts.map((prompt, i) => collect(plain, prompt, { length, seed: 2 ** 32 - 2 + i - (i > 1 ? 2 ** 32 : 0) })),
        )
        assert.deepEqual(await collect(model, prompts[0], { length, seed: 2 ** 32 - 2 }), expected[0], `${name}, ${device.description}`)
        const rows: number[][] = prompts.map(() => [])
        for await (const tokens of generateBatch(model, prompts, { length, seed: 2 ** 32 - 2 }))
          for (const [i, token] of tokens.entries()) rows[i].push(token)
        assert.deepEqual(rows, expected, `${name}, ${device.description}, side by side`)
        assert.equal(device.bytesInUse(), before)
        if (model.replayable && device === reference) captured.push(name)
        for (const m of models) m.dispose()
      }
      profiling.stop()
    }
    const others = Object.keys(stateful).filter((name) => !captured.includes(name))
    assert.deepEqual(others, ['ttt-linear'])
  })

  it('has the same tokens when keys and values have moved to more room', async () => {
    for (const device of [await wasm(), await wasm(2)]) {
      const profiling = profile(device)
      for (const name of ['softmax, rotary', 'hybrid']) {
        const [plain, model] = [profiling.device, device].map((d) => {
          setDevice(d)
          return new Transformer(architectures[name])
        })
        // The second one has to move at once: a step that is captured is noted twice.
        const prompts = [250, 255, 3].map((length, i) => randomTokens(i, length))
        const length = 140
        const expected: number[][] = []
        for (const [i, prompt] of prompts.entries()) expected.push(await collect(plain, prompt, { length, seed: 5 + i }))
        assert.deepEqual(await collect(model, prompts[0], { length, seed: 5 }), expected[0], `${name}, ${device.description}`)
        const rows: number[][] = prompts.map(() => [])
        for await (const tokens of generateBatch(model, prompts, { length, seed: 5 }))
          for (const [i, token] of tokens.entries()) rows[i].push(token)
        assert.deepEqual(rows, expected, `${name}, ${device.description}, side by side`)
        for (const m of [plain, model]) m.dispose()
      }
      profiling.stop()
    }
  })

  it('captures a step after as many tokens as there is room for, less some, and one for all lengths', async () => {
    const device = await wasm()
    setDevice(device)
    const model = new Transformer(architectures['softmax, rotary'])
    const used = async (lengths: readonly number[]) => {
      const before = device.bytesInUse()
      let bytes = 0
      const prompts = lengths.map((length, i) => randomTokens(i, length))
      for await (const _ of generateBatch(model, prompts, { length: 3 })) bytes = device.bytesInUse() - before
      assert.equal(device.bytesInUse(), before)
      return bytes
    }
    for (const length of [254, 255, 256, 383]) await used([length])
    // Each captured step has a copy of the weights of its products; the tables of positions are of each row here.
    assert.ok((await used([4, 5, 6, 7])) < 1.01 * (await used([7, 7, 7, 7])))
    model.dispose()
  })

  it('gives short prompts beside a long one room of their own where that is more than the weights', async () => {
    const device = await wasm()
    setDevice(device)
    const model = new Transformer(architectures['softmax, rotary'])
    const [long, ...short] = [700, 9, 4, 9, 6].map((length, i) => randomTokens(i, length))
    const bytesFor = async (model: Transformer, prompts: readonly Int32Array[]) => {
      const before = device.bytesInUse()
      const rows: number[][] = prompts.map(() => [])
      let bytes = 0
      for await (const tokens of generateBatch(model, prompts, { length: 5, seed: 3 })) {
        for (const [i, token] of tokens.entries()) rows[i].push(token)
        bytes = device.bytesInUse() - before
      }
      assert.equal(device.bytesInUse(), before)
      assert.deepEqual(rows, await Promise.all(prompts.map((prompt, i) => collect(model, prompt, { length: 5, seed: 3 + i }))))
      return bytes
    }
    // What a captured step holds is placed where there is room, so that it differs by what fits into gaps; the room of one more sequence, or the weights, are far more.
    const same = (bytes: number, others: number) => assert.ok(Math.abs(bytes - others) < 20_000, `${bytes}, ${others}`)
    const apart = (await bytesFor(model, [long])) + (await bytesFor(model, short))
    same(await bytesFor(model, [short[0], long, ...short.slice(1)]), apart)
    // All the room counts that isn't needed: of two short ones beside the third it is more than the weights, of either it isn't.
    const some = new Transformer({ ...architectures['softmax, rotary'], dFf: 270 })
    const prompts = [450, 4, 300].map((length) => long.subarray(0, length))
    same(await bytesFor(some, prompts), (await bytesFor(some, prompts.slice(1))) + (await bytesFor(some, prompts.slice(0, 1))))
    // With far more weights, one step does for all.
    const wide = new Transformer({ ...architectures['softmax, rotary'], dFf: 20_000 })
    same(await bytesFor(wide, [short[0], long]), await bytesFor(wide, [long.subarray(1), long]))
    for (const m of [model, some, wide]) m.dispose()
  })

  it('has the same tokens after a prompt with padding, where positions are less than the keys that there are', async () => {
    class Padded extends Transformer {
      override forward(...[tokens, state, options]: Parameters<Transformer['forward']>): ReturnType<Transformer['forward']> {
        const flags = Int32Array.from({ length: tokens.size }, (_, i) => Number(i > 1))
        return super.forward(tokens, state, { ...options, mask: state ? undefined : tensor(flags, { shape: tokens.shape }) })
      }
    }
    const device = await wasm()
    setDevice(device)
    const [padded, model] = [Padded, Transformer].map((Model) => new Model(architectures['softmax, rotary']))
    const options = { length: 12, seed: 3 }
    const prompt = randomTokens(1, 7)
    assert.deepEqual(await collect(padded, prompt, options), await collect(model, prompt.slice(2), options))
    for (const m of [padded, model]) m.dispose()
  })

  it('sees weights that change, and fails where they go', async () => {
    const device = await wasm()
    setDevice(device)
    const [model, other] = [1, 2].map((seed) => new Transformer(architectures.default, seed))
    const texts: number[][] = [[], []]
    const profiling = profile(device)
    setDevice(profiling.device)
    const plain = new Transformer(architectures.default, 1)
    const values = await Promise.all(other.parameters().map((p) => p.read()))
    for (const [i, one] of [model, plain].entries())
      for await (const token of generate(one, randomTokens(1, 4), { length: 30 })) {
        texts[i].push(token)
        if (texts[i].length === 9) for (const [j, p] of one.parameters().entries()) p.write(values[j])
      }
    assert.deepEqual(texts[0], texts[1])
    const generator = generate(model, randomTokens(1, 4), { length: 30 })
    // The step is captured for the second token.
    for (let i = 0; i < 2; i++) await generator.next()
    model.generator.weight.dispose()
    await assert.rejects(generator.next(), /replay: a tensor that the captured step reads was freed/)
    profiling.stop()
    for (const m of [model, other, plain]) m.dispose()
  })

  it('keeps its memory over 20,000 tokens', async () => {
    const device = await wasm()
    setDevice(device)
    const model = new Transformer({ ...architectures.default, layers: 1 })
    const used: number[] = []
    let count = 0
    for await (const _ of generate(model, randomTokens(1, 5), { length: 20_000 })) {
      if (++count % 5000 === 0) used.push(device.bytesInUse())
    }
    assert.deepEqual(used, Array(4).fill(used[0]))
    model.dispose()
  })

  it('is a function of seed, temperature and candidates', async () => {
    for (const [device] of devices) {
      setDevice(device)
      const model = new Transformer(architectures.default)
      const prompt = randomTokens(7, 4)
      const text = (options: Omit<GenerateOptions, 'length'>) =>
        collect(model, prompt, { length: device.name === 'webgpu' ? 8 : 40, ...options })
      const greedy = await text({ temperature: 0 })
      assert.deepEqual(await text({ temperature: 0, seed: 2 }), greedy)
      assert.deepEqual(await text({ topK: 1, temperature: 5, seed: 3 }), greedy)
      assert.deepEqual(await text({ temperature: 1e-9 }), greedy)
      assert.deepEqual(await text({ seed: 4 }), await text({ seed: 4 }))
      assert.notDeepEqual(await text({ seed: 4 }), await text({ seed: 5 }))
      // Greedy by hand: the likeliest token after the prompt and what was generated.
      const logits = await logitsInPieces(model.eval(), Int32Array.of(...prompt, ...greedy.slice(0, 5)), [9])
      const likeliest = (t: number) => logits.slice(13 * t, 13 * t + 13).reduce((best, x, i, row) => (x > row[best] ? i : best), 0)
      assert.deepEqual([3, 4, 5, 6, 7, 8].map(likeliest), greedy.slice(0, 6))
      model.dispose()
    }
  })

  it('draws other numbers than a generator or a model of the same seed', async () => {
    const model = new Transformer(architectures.default, 3)
    for (const p of [model.generator.weight, model.generator.bias!]) p.write(new Float32Array(p.size))
    // Every token is as likely as the others, so what was sampled shows the numbers.
    const sampled = await collect(model, Int32Array.of(1), { length: 40, temperature: 1, seed: 3 })
    for (const stream of [0, 1, 2, 2 ** 20, 2 ** 20 + 1]) {
      const numbers = uniform({ seed: 3, stream }, [40])
      assert.notDeepEqual(
        sampled,
        Array.from(await numbers.read(), (u) => Math.floor(13 * u)),
      )
      numbers.dispose()
    }
    model.dispose()
  })

  it('samples in proportion to the probabilities, from the k likeliest', () => {
    const logits = [Math.log(1), Math.log(4), Math.log(3), Math.log(2)]
    const counts = (temperature: number, topK: number) => {
      const found = [0, 0, 0, 0]
      for (let i = 0; i < 1000; i++) found[sample(logits, temperature, topK, (i + 0.5) / 1000)]++
      return found
    }
    assert.deepEqual(counts(1, 0), [100, 400, 300, 200])
    assert.deepEqual(counts(1, 2), [0, 571, 429, 0])
    assert.deepEqual(counts(0, 0), [0, 1000, 0, 0])
    assert.deepEqual(counts(1, 99), counts(1, 0))
    assert.deepEqual(counts(0.5, 0), [33, 533, 300, 134])
    const within = (topK: number, topP: number) => {
      const found = [0, 0, 0, 0]
      for (let i = 0; i < 1000; i++) found[sample(logits, 1, topK, (i + 0.5) / 1000, topP)]++
      return found
    }
    // 4, 3, 2 and 1 of 10; of the 3 likeliest, 4, 3 and 2 of 9.
    assert.deepEqual(within(0, 0), [0, 1000, 0, 0])
    assert.deepEqual(within(0, 0.39), [0, 1000, 0, 0])
    assert.deepEqual(within(0, 0.41), [0, 571, 429, 0])
    assert.deepEqual(within(0, 0.71), [0, 444, 334, 222])
    assert.deepEqual(within(3, 0.75), [0, 571, 429, 0])
    assert.deepEqual(within(3, 0.79), [0, 444, 334, 222])
    assert.deepEqual(within(0, 0.91), counts(1, 0))
    for (const topP of [-0.1, 1.1, NaN]) assert.throws(() => sample(logits, 1, 0, 0.5, topP), /topP must be in \[0, 1\]/)
    for (const value of [NaN, Infinity]) assert.throws(() => sample([0, value], 1, 0, 0.5), /isn't finite/)
    assert.throws(() => sample([-Infinity, -Infinity], 1, 0, 0.5), /isn't finite/)
  })

  it('draws where the sum of sorted probabilities passes u, of few and of many logits', () => {
    const plain = (logits: readonly number[], temperature: number, topK: number, topP: number, u: number): number => {
      const order = [...logits.keys()]
        .sort((i, j) => (logits[i] === logits[j] ? i - j : logits[j] - logits[i]))
        .slice(0, topK || logits.length)
      const weights = order.map((i) => Math.exp((logits[i] - logits[order[0]]) / temperature))
      const reach = topP * weights.reduce((a, b) => a + b)
      let most = topP < 1 ? 1 : order.length
      for (let sum = weights[0]; most < order.length && sum < reach; most++) sum += weights[most]
      weights.length = most
      let left = u * weights.reduce((a, b) => a + b)
      return order[weights.findIndex((weight) => (left -= weight) < 0)] ?? order[0]
    }
    const noise = Float64Array.from({ length: 4096 }, (_, i) => Math.sin(i * i))
    // Fewer after more; equal ones; ones that can't be; a temperature at which most are as good as impossible.
    for (const [size, scale, step] of [
      [4096, 9, 0],
      [300, 3, 0.5],
      [7, 2, 0],
      [300, 200, 0],
    ])
      for (const temperature of [0.05, 1, 3])
        for (const topK of [0, 1, 20, 299, 5000]) {
          const logits = Array.from(noise.subarray(0, size), (x) => (step ? Math.round((scale * x) / step) * step : scale * x))
          logits[3] = Number.NEGATIVE_INFINITY
          for (const topP of [1, 0.95, 0.3, 1e-9])
            for (const u of [0, 0.1234, 0.5003, 0.9871, 1 - 2 ** -32])
              assert.equal(
                sample(logits, temperature, topK, u, topP),
                plain(logits, temperature, topK, topP, u),
                `${size}, ${temperature}, ${topK}, ${topP}, ${u}`,
              )
        }
  })

  it('refuses what makes no sense, and frees its memory when it is abandoned', async () => {
    const device = await wasm()
    setDevice(device)
    const model = new Transformer(architectures.default)
    const before = device.bytesInUse()
    const refused = (prompt: number[], options: GenerateOptions, message: RegExp) =>
      assert.rejects(collect(model, Int32Array.from(prompt), options), message)
    await refused([], { length: 1 }, /the prompt is empty/)
    await refused([13], { length: 1 }, /index 13 at 0 is outside 0\.\.12/)
    await refused([-1], { length: 1 }, /index -1 at 0/)
    for (const length of [-1, 1.5, NaN]) await refused([1], { length }, /length must be an integer/)
    for (const temperature of [-1, NaN, Infinity]) await refused([1], { length: 1, temperature }, /temperature must be/)
    for (const topP of [-1, 1.5, NaN]) await refused([1], { length: 1, topP }, /topP must be in \[0, 1\]/)
    for (const topK of [-1, 0.5]) await refused([1], { length: 1, topK }, /topK must be/)
    await refused(
      [1],
      { length: 1, top_k: 5 } as never,
      /^Error: generate: unknown option 'top_k' \(length, temperature, topK, topP, seed, signal\)$/,
    )
    assert.deepEqual(await collect(model, Int32Array.of(1), { length: 0 }), [])
    const batch = (prompts: unknown) => generateBatch(model, prompts as Int32Array[], { length: 3 }).next()
    await assert.rejects(batch(Int32Array.of(1)), /the prompts must be an array of Int32Arrays, not/)
    await assert.rejects(batch([Int32Array.of(1), [2]]), /prompt 1 must be an Int32Array of tokens, not an array/)
    await assert.rejects(batch([Int32Array.of(1), new Int32Array()]), /prompt 1 is empty/)
    await assert.rejects(batch([Int32Array.of(1), Int32Array.of(13)]), /index 13 at 0 is outside/)
    assert.deepEqual(await batch([]), { value: undefined, done: true })
    class Own extends Module {
      constructor(readonly forward: (tokens: Tensor) => never) {
        super()
      }
    }
    const own = (forward: (tokens: Tensor) => unknown) =>
      generate(new Own(forward as never), Int32Array.of(1), { length: 1, temperature: 0 }).next()
    await assert.rejects(
      own((tokens) => ones([1, tokens.shape[1], 3])),
      { message: "generate: the model's forward must return { logits, state }, not a Tensor" },
    )
    await assert.rejects(
      own((tokens) => ({ logits: ones([tokens.shape[1], 3]), state: {} })),
      { message: "generate: the model's forward must return { logits, state }, logits [B,T,symbols], not [1,3]" },
    )
    await assert.rejects(
      own((tokens) => ({ logits: ones([1, tokens.shape[1], 3]) })),
      { message: "generate: the model's forward must return { logits, state }, a state that may be {}, not undefined" },
    )
    // A model without parameters is one, too.
    assert.deepEqual(await own((tokens) => ({ logits: ones([1, tokens.shape[1], 3]), state: {} })), { value: 0, done: false })
    for await (const _ of generate(model, Int32Array.of(1), { length: 9 })) break
    model.generator.bias!.write(new Float32Array(13).fill(NaN))
    await refused([1], { length: 1 }, /the model's output isn't finite/)
    assert.equal(device.bytesInUse(), before)
    assert.equal(model.training, true)
    model.dispose()
  })
})
