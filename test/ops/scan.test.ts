/** A step of one's own over tokens: pieces that are computed twice give what a whole graph gives. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  add,
  type Device,
  type FastWeightState,
  full,
  generator,
  gradCheck,
  initialState,
  keep,
  matmul,
  normal,
  type Rule,
  type RuleOptions,
  rules,
  runSteps,
  scan,
  scope,
  type Tensor,
  tanh,
  tensor,
  zeros,
} from '../../engine/index.ts'
import { assertClose, assertSameBits, reference, uniforms, wasm } from '../helpers.ts'

type Values = Record<string, ArrayLike<number>>

/** y, the state, and all gradients, of a rule's steps with the state kept every `chunk` tokens, or all. */
async function steps(rule: Rule, device: Device, T: number, chunk: number | undefined, seed: number, flags: Record<string, Int32Array>) {
  const sizes = { B: 2, T, H: 2, K: 3, V: rule.inputs.k?.shape.includes('V') || !rule.inputs.q?.shape.includes('K') ? 3 : 2, N: 2, M: 3 }
  const results = scope(() => {
    const make = (shape: readonly number[], at: number, low = -1, high = 1): Tensor => {
      const x = tensor(
        uniforms(
          seed + at,
          shape.reduce((n, d) => n * d, 1),
          low,
          high,
        ),
        { shape, device, requiresGrad: true },
      )
      return x
    }
    const ranges = { gate: [-1, 0], rate: [0, 1], feature: [0.1, 1], positive: [0.5, 1.5] } as Record<string, [number, number]>
    const inputs = Object.fromEntries(
      Object.entries(rule.inputs).map(([name, { shape, values }], i) => [
        name,
        make(
          shape.map((letter) => sizes[letter]),
          i,
          ...(ranges[values] ?? [-0.6, 0.6]),
        ),
      ]),
    )
    const begin = initialState(rule, sizes, device)
    for (const part of Object.values(begin)) part.requiresGrad = true
    const given = Object.fromEntries(Object.entries(flags).map(([name, bits]) => [name, tensor(bits, { shape: [2, T], device })]))
    const { y, state } = runSteps(rule, inputs, begin, { ...given, chunk })
    const parts = Object.entries(state) as [keyof FastWeightState, Tensor][]
    for (const [i, x] of [y, ...parts.map(([, part]) => part)].entries())
      if (x.requiresGrad) x.backward(tensor(uniforms(seed + 50 + i, x.size), { shape: x.shape, device }))
    const leaves = [...Object.entries(inputs), ...Object.entries(begin).map(([name, x]) => [`${name}0`, x as Tensor] as const)]
    return Object.fromEntries([
      ['y', y],
      ...parts,
      ...leaves.flatMap(([name, x]) => (x.grad ? [[`d${name}`, x.grad] as const] : [])),
    ]) as Record<string, Tensor>
  })
  const read: Values = {}
  for (const [name, x] of Object.entries(results)) {
    read[name] = await x.read()
    x.dispose()
  }
  return read
}

describe('scan', () => {
  it('the steps of every rule in pieces: the same bits, with padding and beginnings; gradients of what is shared are sums in another order', async () => {
    const devices = [reference, await wasm()]
    for (const [name, rule] of Object.entries(rules) as [string, Rule][])
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 7 }),
          fc.integer({ min: 1, max: 7 }),
          fc.integer(),
          fc.boolean(),
          async (T, chunk, seed, flagged) => {
            const bits = (at: number, share: number): Int32Array =>
              Int32Array.from(uniforms(seed + at, 2 * T, 0, 1), (x) => Number(x < share))
            const flags: Record<string, Int32Array> = flagged ? { mask: bits(90, 0.8), reset: bits(91, 0.2) } : {}
            const device = devices[Math.abs(seed) % 2]
            const whole = await steps(rule, device, T, undefined, seed, flags)
            const pieces = await steps(rule, device, T, chunk, seed, flags)
            assert.deepEqual(Object.keys(pieces), Object.keys(whole), name)
            for (const part of Object.keys(whole)) {
              const shared = part.startsWith('d') && rule.inputs[part.slice(1)]?.shape.includes('T') === false
              if (shared) assertClose(pieces[part], whole[part], 1e-5, 1, `${name} ${part}`)
              else assertSameBits(pieces[part] as never, whole[part] as never, `${name} ${part}`)
            }
          },
        ),
        { numRuns: 3 },
      )
  }).timeout(60_000)

  it('gradients of inputs, state, what is shared and parameters agree with finite differences', async () => {
    const { error } = await gradCheck(
      (x, h, U, w) => {
        const { y, state } = scan(
          ({ h }, { x, U }) => {
            const next = tanh(add(x, matmul(matmul(h, U), w)))
            return { y: matmul(next, w), state: { h: next } }
          },
          { x },
          { h },
          { chunk: 3, shared: { U }, parameters: [w] },
        )
        return [y, state.h]
      },
      [
        [2, 7, 3],
        [2, 3],
        [3, 3],
        [3, 3],
      ].map((shape, i) => normal(generator(i), shape)),
    )
    assert.ok(error < 1e-6)
  })

  it('holds less, the state every C tokens and what those are made of', async () => {
    const device = await wasm()
    const held = (chunk: number): number =>
      scope(() => {
        const before = device.bytesInUse()
        const x = normal(generator(1), [2, 64, 32], 0, 1, device)
        x.requiresGrad = true
        const deep = (x: Tensor): Tensor => tanh(tanh(tanh(tanh(tanh(x)))))
        scan(({ h }, { x }) => ({ y: h, state: { h: deep(add(x, h)) } }), { x }, { h: zeros([2, 32], device) }, { chunk })
        return device.bytesInUse() - before
      })
    assert.ok(held(8) < 0.5 * held(64), `${held(8)} and ${held(64)} bytes`)
    // A chunk that is undefined is one that isn't given.
    const rule = rules['delta-momentum']
    const ofRule = (options: RuleOptions): number =>
      scope(() => {
        const before = device.bytesInUse()
        const inputs = Object.fromEntries(
          Object.entries(rule.inputs).map(([name, { shape }]) => {
            const x = full(
              shape.map((letter) => ({ B: 1, T: 64, H: 1 })[letter as 'B'] ?? 4),
              -0.1,
              device,
            )
            x.requiresGrad = true
            return [name, x]
          }),
        )
        rule.run(inputs as never, undefined, { form: 'recurrent', ...options })
        return device.bytesInUse() - before
      })
    assert.equal(ofRule({ chunk: undefined }), ofRule({}))
  })

  it('a part of a state that is undefined is absent', () => {
    const [q, k, v] = [1, 2, 3].map((seed) => normal(generator(seed), [1, 2, 1, 2]))
    const state = { S: zeros([1, 1, 2, 2]), z: undefined }
    const { state: after } = runSteps(rules.sum as Rule, { q, k, v }, state)
    assert.deepEqual(Object.keys(after), ['S'])
  })

  it('says what is wrong with a call, and with what a step returns', () => {
    const x = keep(normal(generator(1), [2, 3, 4]))
    const h = keep(zeros([2, 4]))
    const step = (state: { h: Tensor }, { x }: Record<string, Tensor>) => ({ y: x, state })
    const fails = (body: () => unknown, message: RegExp): void => assert.throws(body, message)
    fails(() => scan(3 as never, { x }, { h }), /scan: needs a step, a function of \(state, token, t\), not 3/)
    fails(() => scan(step, {}, { h }), /needs an input/)
    fails(() => scan(step, { x, h }, { h }), /x is \[2,3,4\] and h \[2,4\]/)
    fails(
      () => scan(step, { x, n: tensor([0, 1, 2, 3, 4, 5], { shape: [2, 3], dtype: 'int32' }) }, { h }),
      /inputs.n must be float32, not int32/,
    )
    fails(() => scan(step, { x: 1 as never }, { h }), /inputs.x must be a tensor, not 1/)
    fails(() => scan(step, { x }, null as never), /state must be tensors by name, not null/)
    fails(() => scan(step, { x }, { h }, { chunk: 0 }), /chunk must be a positive integer/)
    fails(() => scan(step, { x }, { h }, { shared: { x } }), /'x' is an input and shared/)
    fails(() => scan(step, { x }, { h }, { step: 1 } as never), /unknown option 'step'/)
    fails(() => scan(() => undefined as never, { x }, { h }), /the step's y must be a tensor \[2,...\], not undefined/)
    fails(() => scan(() => ({ y: h, state: { h: x } }), { x }, { h }), /next state must have 'h' \[2,4\], not \[2,3,4\]/)
    fails(() => scan(() => ({ y: h, state: { h, c: h } as never }), { x }, { h }), /has 'c', which the state before lacks/)
    fails(() => scan(step, { x: zeros([2, 0, 4]) }, { h }), /T is 0/)
  })
})
