/** Recurrent nets by their programs: the fused kernels against the program in composed ops, and what every recurrence has to keep. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  ba2016,
  type Device,
  defineNet,
  deltaLstm,
  deltaRnn,
  fastWeightMemory,
  gradCheck,
  type HostArray,
  type Net,
  type NetOptions,
  nets,
  programmer,
  recurrentDeltaNet,
  runNet,
  scope,
  selfModifyingProgrammer,
  selfReferential,
  type Tensor,
  tensor,
  type Vector,
  zeros,
} from '../../engine/index.ts'
import { assertRms, assertSameBits, builds, uniforms as drawn, gpus, random, reference, sizeOf, wasm } from '../helpers.ts'
import { randomNet, randomNetAsWritten, table } from './programs.ts'
import { sourceOf } from './shaders.ts'

type Floats = Float32Array<ArrayBuffer>
const uniforms = (...args: Parameters<typeof drawn>): Floats => Float32Array.from(drawn(...args))

/** Values of everything that a net takes: x [B,T,H,I], parameters, a state. */
interface Values {
  net: Net
  B: number
  T: number
  H: number
  x: Floats
  parameters: Record<string, Floats>
  state: Record<string, Floats>
}

function draw(net: Net, [B, T, H]: readonly number[], seed: number): Values {
  const scaled = (i: number, lead: readonly number[], shape: readonly number[]): Floats => {
    const n = sizeOf([...lead, ...shape])
    return uniforms(seed + 31 * i, n).map((v) => v / Math.sqrt(shape.length === 2 ? shape[0] : 1))
  }
  return {
    net,
    B,
    T,
    H,
    x: uniforms(seed, B * T * H * net.I, -1.5, 1.5),
    parameters: Object.fromEntries(Object.entries(net.parameters).map(([name, shape], i) => [name, scaled(i + 1, [H], shape)])),
    state: Object.fromEntries(Object.entries(net.state).map(([name, { shape }], i) => [name, scaled(i + 100, [B, H], shape)])),
  }
}

/** Outputs and gradients by name: y, parts of the state; dx, d parameters, d state. */
type Results = Record<string, HostArray>

interface Call extends Pick<NetOptions, 'form' | 'chunk'> {
  device?: Device
  withState?: boolean
  mask?: Int32Array
  reset?: Int32Array
  /** Of y, by index; NaN where it must not be looked at. */
  dy?: Floats
  /** Without gradients from the last state. */
  yOnly?: boolean
}

async function evaluate(values: Values, call: Call = {}): Promise<Results> {
  const { net, B, T, H } = values
  const { device = reference, withState = true, form, chunk, yOnly = false } = call
  const made = scope(() => {
    const leaf = (data: Floats, shape: readonly number[]): Tensor => tensor(data, { shape, device, requiresGrad: true })
    const flags = (data?: Int32Array): Tensor | undefined => data && tensor(data, { shape: [B, T], device })
    const x = leaf(values.x, [B, T, H, net.I])
    const parameters = Object.fromEntries(
      Object.entries(values.parameters).map(([name, p]) => [name, leaf(p, [H, ...net.parameters[name]])]),
    )
    const state = Object.fromEntries(Object.entries(values.state).map(([name, s]) => [name, leaf(s, [B, H, ...net.state[name].shape])]))
    const options = { parameters, form, chunk, mask: flags(call.mask), reset: flags(call.reset), ...(withState && { state }) }
    const { y, state: last } = runNet(net, x, options)
    const results: Record<string, Tensor> = { y, ...last }
    Object.entries(results).forEach(([name, r], i) => {
      if ((yOnly && name !== 'y') || !r.requiresGrad) return
      const seed = name === 'y' && call.dy ? call.dy : uniforms(900 + i, r.size)
      r.backward(tensor(seed, { shape: r.shape, device }))
    })
    const gradients = { dx: gradient(x), ...dOf(parameters, 'parameter'), ...(withState && dOf(state, 'state')) }
    return { ...results, ...gradients }
  })
  const entries = await Promise.all(Object.entries(made).map(async ([name, t]) => [name, await t.read()] as const))
  for (const t of Object.values(made)) t.dispose()
  return Object.fromEntries(entries)
}

/** Zeros where nothing depends on x. */
const gradient = (x: Tensor): Tensor => x.grad ?? zeros(x.shape, x.device)

const dOf = (tensors: Record<string, Tensor>, what: string) =>
  Object.fromEntries(Object.entries(tensors).map(([name, t]) => [`d${name} (${what})`, gradient(t)]))

function assertAlike(actual: Results, expected: Results, bound: number, what = ''): void {
  assert.deepEqual(Object.keys(actual), Object.keys(expected), what)
  // The largest of its kind: what is much smaller is a difference of numbers of that size.
  for (const [name, e] of Object.entries(expected)) assertRms(actual[name], e, bound, `${what} ${name}`, 0.05)
}

const flagsOf = (seed: number, n: number, share: number, value: number): Int32Array => {
  const next = random(seed)
  return Int32Array.from({ length: n }, () => (next() < share ? value : 1 - value))
}

describe('recurrent nets, reference', () => {
  for (const { name, build } of table) {
    it(`${name}: the kernel is the program`, async () => {
      for (const [D, sizes, chunk] of [
        [5, [2, 7, 3], 3],
        [4, [1, 1, 1], 16],
        [1, [1, 5, 2], 1],
      ] as const)
        for (const withState of [true, false]) {
          const values = draw(build(D), sizes, 7)
          assertAlike(await evaluate(values, { chunk, withState }), await evaluate(values, { form: 'step', withState }), 1e-12, `D ${D}`)
        }
    })
    it(`${name}: padding and beginnings`, async () => {
      const [B, T, H] = [3, 9, 2]
      const values = draw(build(3), [B, T, H], 11)
      const [mask, reset] = [flagsOf(1, B * T, 0.3, 0), flagsOf(2, B * T, 0.3, 1)]
      mask.fill(0, 0, T)
      reset.fill(0, 0, T)
      const call = { mask, reset, chunk: 4 }
      assertAlike(await evaluate(values, call), await evaluate(values, { ...call, form: 'step' }), 1e-12)
    })
  }

  it('keys and values of different widths, and every option', async () => {
    const all = [
      ...[1, 2].flatMap((version) =>
        ['elu' as const, 'softmax' as const].map((features) => ({ K: 3, V: 5, version: version as 1 | 2, features })),
      ),
      { K: 5, V: 2, normalise: 0.01 },
    ].map((options) => deltaRnn(options))
    const others = [
      deltaLstm({ K: 2, V: 3 }),
      recurrentDeltaNet({ K: 5, V: 3 }),
      selfReferential({ D: 3, inputSoftmax: true }),
      selfModifyingProgrammer({ D: 2, inputSoftmax: true }),
      programmer({ K: 2, V: 5, activation: 'tanh' }),
      programmer({ K: 4, V: 3, activation: null }),
      ...[true, false].map((reads) => fastWeightMemory({ K: 3, V: 5, reads })),
      ...[0, 1, 2, 3].map((steps) => ba2016({ D: 4, steps, norm: steps > 1, decay: 0.9, rate: 0.3, activation: 'tanh' })),
    ]
    for (const net of [...all, ...others]) {
      const values = draw(net, [2, 5, 2], 13)
      assertAlike(await evaluate(values, { chunk: 2 }), await evaluate(values, { form: 'step' }), 1e-12, net.name)
    }
  })

  // The authors' backward kernel is right up to 184 tokens of this width, and at widths below 28.
  for (const [what, D, T] of [
    ['a long sequence', 8, 200],
    ['a wide head', 28, 3],
  ] as const)
    it(`${what} of a self-referential matrix`, async () => {
      const values = draw(nets.srwm.build(D), [1, T, 1], 17)
      assertAlike(await evaluate(values), await evaluate(values, { form: 'step' }), 1e-11)
      for (const device of await devices[1].open()) assertAlike(await evaluate(values, { device }), await evaluate(values), 1e-5)
    })

  it('heads so wide that loops take whole blocks of a row, and what is left of it', async () => {
    for (const { name, build } of table) {
      const values = draw(build(44), [1, 5, 1], 23)
      const whole = await evaluate(values)
      for (const device of await devices[1].open()) assertAlike(await evaluate(values, { device, chunk: 2 }), whole, 1e-5, name)
    }
  })

  // The wasm kernel lets three reads wait for a write, one where the matrix has an activation, and looks at 4 to 32 columns at a time.
  it('a matrix that is read many times before and after its write', async () => {
    for (const [K, V] of [
      [3, 44],
      [33, 1],
      [44, 33],
    ])
      for (const [activation, decay] of [
        [undefined, undefined],
        ['sigmoid', undefined],
        ['tanh', undefined],
        [undefined, 0.7],
        [undefined, 'of the token'],
        ['tanh', 'of the token'],
      ] as const)
        for (const [before, after] of [
          [0, 1],
          [1, 0],
          [1, 1],
          [2, 1],
          [5, 4],
        ]) {
          const net = defineNet('many reads', (net) => {
            const M = net.matrix('M', K, V)
            const { k, v, gate } = net.inputs({ k: K, v: V, gate: 1 })
            const key = net.softmax(k)
            const reads = (n: number, from: number): Vector[] =>
              Array.from({ length: n }, (_, i) => net.read(M, net.affine(key, 0.3 + 0.2 * i + from, 0.1 * i)))
            const all = [net.tanh(v), ...reads(before, 0)]
            const kept = decay === 'of the token' ? net.sigmoid(gate) : decay
            net.write(M, key, net.affine(all.reduce(net.add), 0.4), { activation, ...(kept !== undefined && { decay: kept }) })
            net.output([...all, ...reads(after, 0.1)].reduce(net.add))
          })
          const values = draw(net, [1, 7, 2], 29)
          const flags = { mask: Int32Array.of(1, 1, 1, 0, 1, 1, 1), reset: Int32Array.of(0, 0, 0, 0, 0, 1, 0) }
          const expected = await evaluate(values, flags)
          for (const device of await devices[1].open())
            for (const chunk of [1, 3])
              assertAlike(
                await evaluate(values, { ...flags, chunk, device }),
                expected,
                1e-5,
                `${[K, V, activation, decay, before, after, chunk]}`,
              )
        }
  })

  it('what a decay makes vanish is 0: it never gets to numbers that a processor is slow with', async () => {
    const [K, V, T] = [5, 37, 60]
    const net = defineNet('vanishing', (net) => {
      const M = net.matrix('M', K, V)
      const { k, v } = net.inputs({ k: K, v: V })
      const held = net.read(M, k)
      net.write(M, k, net.sub(v, held), { decay: 0.1 })
      net.output(net.read(M, k))
    })
    const values = draw(net, [1, T, 1], 61)
    // One write, and then a key that decays with what it found.
    values.x = values.x.map((x, i) => (i % net.I < K ? 0.3 : i < net.I ? x : 0))
    const dy = new Float32Array(T * V).map((_, i) => Number(i >= (T - 1) * V))
    const expected = await evaluate(values, { withState: false, yOnly: true, dy })
    for (const device of await devices[1].open()) {
      const { y, M, dx } = await evaluate(values, { withState: false, yOnly: true, dy, device })
      assertAlike({ y, M, dx }, expected, 1e-5)
      for (const [what, numbers] of Object.entries({ y, M, dx })) {
        const slow = numbers.findIndex((x) => x !== 0 && Math.abs(x) < 2 ** -126)
        assert.equal(slow, -1, `${what} has ${numbers[slow]} at ${slow}`)
      }
      assert.ok(M.every((x) => x === 0))
      assert.ok(expected.M.every((x) => x !== 0))
      assert.ok(dx.slice(0, net.I).every((x) => x === 0))
    }
  })

  it('what a decay leaves is as exact where all is small, and NaN stays', async () => {
    const [K, V, T] = [5, 37, 12]
    const net = defineNet('small', (net) => {
      const M = net.matrix('M', K, V)
      const { k, v, gate } = net.inputs({ k: K, v: V, gate: 1 })
      net.write(M, k, v, { decay: net.sigmoid(gate) })
      net.output(net.read(M, k))
    })
    const values = draw(net, [1, T, 1], 67)
    // Beside values, and cotangents, of the size of 1 all of this would be rounding.
    const tiny = 2 ** -40
    const small = {
      ...values,
      x: values.x.map((x, i) => (i % net.I >= K && i % net.I < K + V ? tiny * x : x)),
      state: { M: values.state.M.map((m) => tiny * m) },
    }
    const dy = uniforms(68, T * V)
    const larger = (results: Results): Results =>
      Object.fromEntries(Object.entries(results).map(([name, r]) => [name, r.map((x) => x / tiny)]))
    const ofValues = { yOnly: true, dy }
    const ofCotangents = { yOnly: true, dy: dy.map((d) => tiny * d) }
    const broken = { ...values, x: values.x.map((x, i) => (i === 4 * net.I + K + 3 ? Number.NaN : x)) }
    const notANumber = ({ y, M, dx }: Results): boolean[] => [y, M, dx].flatMap((r) => Array.from(r, Number.isNaN))
    for (const device of await devices[1].open()) {
      const forward = ({ y, M }: Results): Results => larger({ y, M })
      assertAlike(forward(await evaluate(small, { ...ofValues, device })), forward(await evaluate(small, ofValues)), 1e-5, 'values')
      assertAlike(
        larger(await evaluate(values, { ...ofCotangents, device })),
        larger(await evaluate(values, ofCotangents)),
        1e-5,
        'cotangents',
      )
      const expected = notANumber(await evaluate(broken, ofValues))
      assert.deepEqual(notANumber(await evaluate(broken, { ...ofValues, device })), expected)
      assert.ok(expected.includes(true) && expected.includes(false))
    }
  })

  it('vectors of the state that become one another', async () => {
    const net = defineNet('delays', (net) => {
      const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => net.vector(name, 3))
      const { x } = net.inputs({ x: 3 })
      net.next('a', x)
      net.next('b', a)
      net.next('c', d)
      net.next('d', net.slice(net.concat(c, b), 1, 3))
      net.output(net.mul(b, net.softmax(c)))
    })
    const values = draw(net, [2, 7, 2], 19)
    const expected = await evaluate(values, { form: 'step' })
    for (const { open, bound } of devices)
      for (const device of await open()) assertAlike(await evaluate(values, { device, chunk: 3 }), expected, bound)
  })

  it('random programs: the kernel is the program as it was written', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 5 }), async (seed, T, chunk) => {
        const values = draw(randomNet(seed), [2, T, 2], seed % 1000)
        const written = { ...values, net: randomNetAsWritten(seed) }
        const [mask, reset] = [flagsOf(seed, 2 * T, 0.2, 0), flagsOf(seed + 1, 2 * T, 0.2, 1)]
        for (const call of [{ withState: false }, { mask, reset }])
          assertAlike(await evaluate(values, { ...call, chunk }), await evaluate(written, { ...call, form: 'step' }), 1e-11)
      }),
      { numRuns: 40 },
    )
  })

  it('random programs: gradients agree with differences', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.boolean(), async (seed, withState) => {
        const { net, x, parameters, state } = draw(randomNet(seed), [1, 3, 1], seed % 1000)
        const names = Object.keys(parameters)
        const parts = withState ? Object.keys(state) : []
        const given = [
          tensor(x, { shape: [1, 3, 1, net.I] }),
          ...names.map((name) => tensor(parameters[name], { shape: [1, ...net.parameters[name]] })),
          ...parts.map((name) => tensor(state[name], { shape: [1, 1, ...net.state[name].shape] })),
        ]
        await gradCheck(
          (x, ...rest) => {
            const at = (keys: string[], from: number) => Object.fromEntries(keys.map((key, i) => [key, rest[from + i]]))
            const options = { parameters: at(names, 0), chunk: 2, ...(withState && { state: at(parts, names.length) }) }
            const { y, state } = runNet(net, x, options)
            return [y, ...Object.values(state)]
          },
          given,
          { tolerance: 1e-7 },
        )
      }),
      { numRuns: 25 },
    )
  })
})

/** Of everything, at the positions of tokens [from, to) of a call with one sequence. */
const part = <X extends HostArray>(x: X, T: number, from: number, to: number): X => x.slice((from * x.length) / T, (to * x.length) / T) as X

/** A GPU computed by the CPU takes its time for each instruction: three nets show it all. */
const devices: { name: string; open: () => Promise<Device[]>; bound: number; which?: readonly string[] }[] = [
  { name: 'reference', open: async () => [reference], bound: 1e-12 },
  { name: 'wasm', open: async () => Promise.all(builds.map(({ relaxed }) => wasm(2, relaxed))), bound: 1e-5 },
  { name: 'webgpu', open: async () => gpus(), bound: 1e-5, which: ['delta-rnn', 'srwm', 'gru'] },
]

for (const { name: device, open, bound, which } of devices)
  describe(`recurrent nets, ${device}`, () => {
    for (const { name, build } of table.filter(({ name }) => which?.includes(name) ?? true)) {
      it(`${name}: a state carried over a cut`, async () => {
        for (const at of await open()) {
          const [T, cut] = [6, 2]
          const values = draw(build(3), [1, T, 2], 21)
          const whole = await evaluate(values, { device: at, chunk: 4 })
          const piece = (from: number, to: number, state: Values['state']): Values => ({
            ...values,
            T: to - from,
            x: part(values.x, T, from, to),
            state,
          })
          const first = await evaluate(piece(0, cut, values.state), { device: at, chunk: 4 })
          const left = Object.fromEntries(Object.keys(values.state).map((part) => [part, Float32Array.from(first[part])]))
          const second = await evaluate(piece(cut, T, left), { device: at, chunk: 4 })
          // The state goes through float32, and the shift from a base through a subtraction.
          assertRms(Float64Array.from([...first.y, ...second.y]), whole.y, 1e-5, 'y')
          for (const part of Object.keys(values.state)) assertRms(second[part], whole[part], 1e-5, part)
        }
      })

      it(`${name}: causal to the bit`, async () => {
        for (const at of await open()) {
          const T = 6
          const values = draw(build(5), [1, T, 2], 31)
          const other = { ...values, x: values.x.map((x, i) => (i < (4 * values.x.length) / T ? x : Number.NaN)) }
          const [a, b] = [await evaluate(values, { device: at }), await evaluate(other, { device: at })]
          assertSameBits(part(b.y, T, 0, 4), part(a.y, T, 0, 4), 'outputs before the change')
        }
      })

      it(`${name}: what padding and beginnings hide leaves no trace`, async () => {
        for (const at of await open()) {
          // Two sequences in one row, padding before, between and after them; beside a row of padding alone.
          const T = 9
          const values = draw(build(3), [2, T, 2], 41)
          const { I, O } = values.net
          const mask = Int32Array.from([0, 1, 1, 0, 1, 1, 1, 0, 0, ...new Array<number>(T).fill(0)])
          const reset = Int32Array.from([0, 0, 0, 1, 0, 0, 0, 0, 0, ...new Array<number>(T).fill(0)])
          const hidden = (n: number, seed: number): Floats =>
            uniforms(seed, 2 * T * 2 * n).map((v, i) => (mask[Math.floor(i / (2 * n))] ? v : 0))
          const poisoned = (x: Floats, n: number): Floats =>
            x.map((v, i) => (mask[Math.floor(i / (2 * n))] ? v : [Number.NaN, Number.POSITIVE_INFINITY][i % 2]))
          const [x, dy] = [hidden(I, 1), hidden(O, 2)]
          const clean = await evaluate({ ...values, x }, { device: at, mask, reset, dy, chunk: 4 })
          const dirty = await evaluate({ ...values, x: poisoned(x, I) }, { device: at, mask, reset, dy: poisoned(dy, O), chunk: 4 })
          for (const [what, e] of Object.entries(clean)) assertSameBits(dirty[what], e, what)
          for (const part of Object.keys(values.state))
            assertSameBits(
              clean[part].slice(clean[part].length / 2),
              Float64Array.from(values.state[part].slice(values.state[part].length / 2)) as HostArray,
              part,
            )
          assert.ok(clean.dx.slice((clean.dx.length / 2) | 0).every((d) => d === 0))
        }
      })

      it(`${name}: a sequence begins anew after one that isn't finite`, async () => {
        for (const at of await open()) {
          const T = 5
          const values = draw(build(3), [1, T, 2], 51)
          const reset = Int32Array.from([0, 0, 1, 0, 0])
          const tail: Values = { ...values, T: 3, x: part(values.x, T, 2, T) }
          const alone = await evaluate(tail, { device: at, withState: false, yOnly: true, dy: uniforms(5, 3 * 2 * values.net.O) })
          const bad = {
            ...values,
            x: values.x.map((x, i) => (i < (2 * values.x.length) / T ? [Number.NaN, Number.POSITIVE_INFINITY][i % 2] : x)),
          }
          const dy = Float32Array.from([...new Float32Array(2 * 2 * values.net.O), ...uniforms(5, 3 * 2 * values.net.O)])
          const both = await evaluate(bad, { device: at, reset, dy, yOnly: true, chunk: 4 })
          assertSameBits(part(both.y, T, 2, T), alone.y, 'y')
          for (const name of Object.keys(values.state)) assertSameBits(both[name], alone[name], name)
          assertRms(part(both.dx, T, 2, T), alone.dx, bound, 'dx')
          // And the other way: a cotangent that isn't finite doesn't pass the beginning.
          const back = await evaluate(values, {
            device: at,
            reset,
            dy: dy.map((d, i) => (i < 2 * 2 * values.net.O ? d : Number.NaN)),
            yOnly: true,
            chunk: 4,
          })
          assert.ok(part(back.dx, T, 0, 2).every((d) => d === 0))
          for (const part of Object.keys(values.state)) assert.ok(back[`d${part} (state)`].every((d) => d === 0))
        }
      })
    }
  })

describe('programs', () => {
  it('that differ by their sizes alone have one shader', () => {
    for (const { name, build } of table) {
      const sources = [3, 5, 33, 64].map((D) => sourceOf(build(D)))
      assert.equal(new Set(sources.slice(0, 2)).size, 1, name)
      assert.equal(new Set(sources.slice(2)).size, 1, name)
    }
    assert.notEqual(sourceOf(nets.rnn.build(3)), sourceOf(nets.gru.build(3)))
  })

  const fails = (write: Parameters<typeof defineNet>[1], message: RegExp): void => {
    assert.throws(() => defineNet('n', write), message)
  }
  it('say what is wrong, with the widths', () => {
    fails(
      (net) => void net.read(net.matrix('M', 3, 2), net.inputs({ x: 4 }).x),
      /net 'n': read: a vector of 4 numbers can't read M \[3,2\], which takes 3/,
    )
    fails(
      (net) => void net.write(net.matrix('M', 3, 2), net.inputs({ x: 3 }).x, net.inputs({ u: 3 }).u),
      /write: a key of 3 and a value of 3 numbers don't fit M \[3,2\]/,
    )
    fails((net) => void net.add(net.inputs({ x: 3 }).x, net.inputs({ u: 2 }).u), /add: vectors of 3 and 2 numbers/)
    fails(
      (net) => void net.times(net.inputs({ x: 3 }).x, net.inputs({ u: 2 }).u),
      /times: the factor must be one number, not a vector of 2/,
    )
    fails((net) => void net.split(net.inputs({ x: 3 }).x, { a: 1, b: 1 }), /split: widths 1 \+ 1 don't add up to 3/)
    fails((net) => void net.slice(net.inputs({ x: 3 }).x, 2, 2), /slice: 2 numbers from 2 on aren't within a vector of 3/)
    fails((net) => void net.inputs({ x: 0 }), /inputs: the width of 'x' must be a positive integer, not 0/)
    fails((net) => void net.next('h', net.inputs({ x: 1 }).x), /next: there's no vector 'h' in the state/)
    fails((net) => net.output(net.inputs({ x: 1 }).x), /the net has no state/)
    fails((net) => {
      net.matrix('M', 1, 1)
      net.output(net.inputs({ x: 1 }).x)
    }, /write: 'M' of the state never changes/)
    fails((net) => {
      const { x } = net.inputs({ x: 1 })
      const M = net.matrix('M', 1, 1)
      net.write(M, x, x)
      net.write(M, x, x)
    }, /write: 'M' changes twice in a token/)
    let other: Vector | undefined
    defineNet('other', (net) => {
      const h = net.vector('h', 1)
      other = net.inputs({ x: 1 }).x
      net.next('h', net.add(h, other))
      net.output(h)
    })
    fails((net) => void net.tanh(other!), /tanh: takes vectors of this net's own program/)
  })

  it('calls that do not fit say so', () => {
    const net = nets.srwm.build(2)
    const x = tensor(new Float32Array(4), { shape: [1, 1, 2, 2] })
    assert.throws(() => runNet(net, x), /net 'SRWM': lacks the parameter 'Wy' \[2,2,2\]/)
    assert.throws(() => runNet(net, tensor([[1]])), /x has shape \[1,1\], expected \[B,T,H,2\]/)
    const rnn = nets['delta-rnn'].build(1)
    const y = tensor(new Float32Array(7), { shape: [1, 1, 1, 7] })
    assert.throws(() => runNet(rnn, y, { chunk: 0 }), /the chunk length must be a positive integer, not 0/)
    assert.throws(() => runNet(rnn, y, { form: 'chunk' as never }), /unknown form 'chunk' \(fused, step\)/)
    assert.throws(() => runNet(rnn, y, { state: { h: y } }), /h has shape \[1,1,1,7\], expected \[1,1,1\]/)
    assert.throws(() => runNet(rnn, y, { parameters: { R: y } }), /it has no parameter 'R' \(none at all\)/)
    assert.throws(() => runNet(rnn, y, { mask: tensor(Int32Array.of(2), { shape: [1, 1] }) }), /mask holds 2 at 0, not 0 or 1/)
  })
})
