/** A captured step does what the step does, to the bit, and nothing else. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  adamStep,
  add,
  affine,
  capture,
  causalConv,
  concat,
  crossEntropy,
  type Device,
  dropout,
  empty,
  exp,
  gatedDeltaRule,
  gather,
  generator,
  gradNorm,
  type HostArray,
  keep,
  linearCrossEntropy,
  matmul,
  mul,
  muonStep,
  noGrad,
  parameter,
  permute,
  profile,
  reshape,
  scope,
  setDevice,
  slice,
  softmax,
  sub,
  sum,
  type Tensor,
  tanh,
  tensor,
  uniform,
  varying,
  webgpuDevice,
  where,
  withGrad,
} from '../../engine/index.ts'
import { AdamW } from '../../nn/index.ts'
import { assertSameBits, gpus, reference, unheard, uniforms, wasm, webgpu } from '../helpers.ts'

const none = { tensors: [], counts: [] }
const random = (seed: number, shape: number[]): Tensor =>
  tensor(
    uniforms(
      seed,
      shape.reduce((n, d) => n * d, 1),
    ),
    { shape },
  )

describe('a captured step', () => {
  let devices: Device[]
  before(async () => {
    devices = [reference, await wasm(), await wasm(2), await wasm(1, true), ...(await gpus())]
  })
  afterEach(() => setDevice(reference))
  const onEach = (body: (device: Device) => Promise<void>) => async () => {
    for (const device of devices) {
      setDevice(device)
      const before = device.bytesInUse()
      await body(device)
      assert.equal(device.bytesInUse(), before, `${device.description}: memory isn't given back`)
    }
  }

  it(
    'gives the bits of the step, which it leaves alone, in memory that stays the same',
    onEach(async (device) => {
      const [table, W, V, b] = [random(1, [7, 20]), random(2, [20, 33]), random(3, [20, 33]), random(4, [33])].map(parameter)
      let runs = 0
      /** S [2,1,20] and a count [2]: what was seen, decayed, and how much. */
      const step = (token: Tensor, S: Tensor, count: Int32Array) => {
        runs++
        const x = gather(table, token)
        const place = varying(() => Float64Array.from(count, Math.cos), { shape: [2, 1, 1] })
        const next = add(affine(S, 0.5), mul(tanh(x), place))
        const h = matmul(next, W, { bias: b, activation: 'silu' })
        const y = softmax(matmul(h, V, { transposeB: true, accumulate: x }))
        return { outputs: [y, permute(h, [1, 0, 2])], tensors: [next], counts: [count.map((c) => c + 1)] }
      }
      const tokens = Array.from({ length: 7 }, (_, i) => Int32Array.of((3 * i) % 7, (i * i) % 7))
      const begin = (): { S: Tensor; count: Int32Array } => ({ S: random(5, [2, 1, 20]), count: Int32Array.of(4, 9) })

      const expected: Float64Array<ArrayBuffer>[][] = []
      let { S, count } = begin()
      for (const values of tokens) {
        const result = scope(() => noGrad(() => step(tensor(values, { shape: [2, 1] }), S, count)))
        S.dispose()
        S = result.tensors[0]
        count = result.counts[0]
        expected.push(await Promise.all([...result.outputs, S].map(async (t) => Float64Array.from(await t.read()))))
        for (const t of result.outputs) t.dispose()
      }

      runs = 0
      const token = tensor(Int32Array.of(0, 0), { shape: [2, 1] })
      const from = begin()
      const captured = await capture([token], { tensors: [from.S], counts: [from.count] }, ({ tensors, counts }) =>
        step(token, tensors[0], counts[0]),
      )
      const used = device.bytesInUse()
      for (const [i, values] of tokens.entries()) {
        token.write(values)
        captured.replay()
        const after = captured.state()
        for (const [j, t] of [...captured.outputs, ...after.tensors].entries())
          assertSameBits(Float64Array.from(await t.read()), expected[i][j], `${device.description}, step ${i}, result ${j}`)
        assert.deepEqual(after.counts, [Int32Array.of(5 + i, 10 + i)])
        assert.equal(device.bytesInUse(), used)
      }
      assert.equal(runs, 2)
      assert.deepEqual(from.count, Int32Array.of(4, 9))
      captured.dispose()
      captured.dispose()
      assert.throws(() => captured.replay(), /replay: the captured step was disposed/)
      assert.equal(token.disposed, false)
      for (const t of [token, S, table, W, V, b]) t.dispose()
    }),
  )

  for (const [M, N, K] of [
    [1, 1, 1],
    [1, 4, 130],
    [1, 33, 512],
    [1, 65, 513],
    [2, 17, 7],
    [3, 16, 1100],
    [5, 48, 64],
    [32, 31, 600],
  ])
    it(
      `has the products of few rows with what stays, to the bit: ${M} x ${N} x ${K}`,
      onEach(async (device) => {
        // Nothing is prepared on a GPU.
        if (device.name === 'webgpu' && K > 200) return
        for (const transposeB of [false, true]) {
          const B = parameter(random(1, transposeB ? [N, K] : [K, N]))
          const [a, bias, c] = [random(2, [M, K]), random(3, [N]), random(4, [M, N])]
          const step = () => [
            matmul(a, B, { transposeB }),
            matmul(a, B, { transposeB, bias, activation: 'gelu' }),
            matmul(a, B, { transposeB, bias, accumulate: c }),
            matmul(a, B, { transposeB, accumulate: c, activation: 'relu' }),
          ]
          const captured = await capture([a], none, () => ({ outputs: step(), ...none }))
          // What is prepared from a tensor follows it.
          for (const seed of [1, 9]) {
            B.write(uniforms(seed, N * K))
            a.write(uniforms(seed + 1, M * K))
            captured.replay()
            const expected = scope(() => noGrad(step))
            for (const [i, t] of expected.entries())
              assertSameBits(await captured.outputs[i].read(), await t.read(), `${device.description}, ${transposeB}, ${i}`)
            for (const t of expected) t.dispose()
          }
          captured.dispose()
          for (const t of [a, B, bias, c]) t.dispose()
        }
      }),
    )

  it(
    'carries a state that passes through, is returned twice, or is shared',
    onEach(async () => {
      const w = parameter(tensor([1, 2]))
      const captured = await capture(
        [],
        { tensors: [reshape(w, [2]), tensor([3, -0]), tensor([5, 6])], counts: [] },
        ({ tensors: [a, b] }) => {
          const next = add(a, b)
          return { outputs: [next], tensors: [next, b, reshape(next, [2])], counts: [] }
        },
      )
      const now = async () => Promise.all(captured.state().tensors.map(async (t) => Array.from(await t.read())))
      captured.replay()
      assert.deepEqual(await now(), [
        [4, 2],
        [3, -0],
        [4, 2],
      ])
      captured.replay()
      captured.replay()
      assert.deepEqual(await now(), [
        [10, 2],
        [3, -0],
        [10, 2],
      ])
      assert.deepEqual(Array.from(await w.read()), [1, 2])
      captured.dispose()
      w.dispose()
    }),
  )

  it(
    'carries a tensor that is there twice in the state',
    onEach(async () => {
      const x = tensor([1, 2])
      const captured = await capture([], { tensors: [x, x], counts: [] }, ({ tensors: [a, b] }) => ({
        outputs: [],
        tensors: [affine(a, 2), affine(b, 3)],
        counts: [],
      }))
      for (let i = 0; i < 3; i++) captured.replay()
      const values = await Promise.all(captured.state().tensors.map(async (t) => Array.from(await t.read())))
      assert.deepEqual(values, [
        [8, 16],
        [27, 54],
      ])
      const y = tensor([1])
      const replays = capture([y], none, () => {
        captured.replay()
        return { outputs: [exp(y)], ...none }
      })
      await assert.rejects(replays, /the step replays another, so it can't be replayed/)
      captured.dispose()
      y.dispose()
    }),
  )

  it(
    'writes a state over the one before where nobody reads that any more, and nowhere else',
    onEach(async (device) => {
      let taps!: Tensor
      const rule = ([q, k, v, beta, gate]: readonly Tensor[], S: Tensor) => {
        const { y, state } = gatedDeltaRule(q, k, v, beta, gate, { S })
        return { y, state: state.S }
      }
      /** Two rules and a convolution. */
      const all = ([q, k, v, ...rest]: readonly Tensor[], [S, R, c]: readonly Tensor[]) => [
        rule([q, k, v, ...rest], S),
        rule([k, q, v, ...rest], R),
        causalConv(reshape(v, [v.shape[0], 1, -1]), taps, c, { silu: true }),
      ]
      /** Of inputs and states, what is given out and the states after; and whether those lie where the ones before lay. */
      const steps: [name: string, inPlace: boolean, (inputs: readonly Tensor[], states: readonly Tensor[]) => [Tensor[], Tensor[]]][] = [
        [
          'not read afterwards',
          true,
          (inputs, states) => {
            const done = all(inputs, states)
            return [done.map(({ y }) => y), done.map(({ state }) => state)]
          },
        ],
        [
          'read afterwards',
          false,
          (inputs, states) => {
            const done = all(inputs, states)
            return [done.map(({ state }, i) => sub(states[i], state)), done.map(({ state }) => state)]
          },
        ],
        [
          'exchanged',
          false,
          (inputs, states) => {
            const [a, b, { y }] = all(inputs, states)
            return [
              [a.y, b.y, y],
              [b.state, a.state, affine(states[2], 0.5)],
            ]
          },
        ],
      ]
      for (const [B, H, K, V] of [
        [3, 2, 8, 16],
        [2, 1, 4, 8],
        [2, 3, 5, 7],
      ]) {
        taps = random(9, [H * V, 4])
        for (const [name, inPlace, step] of steps) {
          const inputs = [
            [B, 1, H, K],
            [B, 1, H, K],
            [B, 1, H, V],
            [B, 1, H],
            [B, 1, H],
          ].map((shape) => random(0, shape))
          const fill = (i: number): void => {
            for (const [j, t] of inputs.entries()) {
              const x = uniforms(50 * i + j, t.size)
              t.write(j < 3 ? x : x.map((u) => (j === 3 ? Math.abs(u) : -Math.abs(u))))
            }
          }
          const states = () => [random(1, [B, H, K, V]), random(2, [B, H, K, V]), random(3, [B, 3, H * V])]
          const values = (list: readonly Tensor[]) => Promise.all(list.map(async (t) => Float64Array.from(await t.read())))

          const expected: Float64Array<ArrayBuffer>[][] = []
          let from = states()
          for (let i = 0; i < 5; i++) {
            fill(i)
            const [outputs, next] = scope(() => noGrad(() => step(inputs, from).map((list) => list.map(keep))))
            expected.push(await values([...outputs, ...next]))
            for (const t of [...outputs, ...from]) t.dispose()
            from = next
          }
          for (const t of from) t.dispose()

          const captured = await capture(inputs, { tensors: states() }, ({ tensors }) => {
            const [outputs, next] = step(inputs, tensors)
            return { outputs, tensors: next }
          })
          const places = () => captured.state().tensors.map(({ storage }) => (storage as { pointer?: number }).pointer)
          const before = places()
          for (let i = 0; i < 5; i++) {
            fill(i)
            captured.replay()
            const found = await values([...captured.outputs, ...captured.state().tensors])
            for (const [j, x] of found.entries())
              assertSameBits(x, expected[i][j], `${device.description}: ${name} ${[B, H, K, V]}, ${i}, ${j}`)
            if (device.name === 'wasm')
              assert.deepEqual(
                places().map((place, j) => place === before[j]),
                before.map(() => inPlace || i % 2 === 1),
              )
          }
          captured.dispose()
          for (const t of inputs) t.dispose()
        }
        taps.dispose()
      }
    }),
  )

  it(
    'refuses what a replay would get wrong, and says why',
    onEach(async () => {
      const index = tensor([0, 1], { dtype: 'int32' })
      const x = tensor([1, 2])
      const one = parameter(tensor([[1], [2]]))
      let calls = 0
      const refused = async (message: RegExp, step: (S: Tensor, count: Int32Array) => unknown) => {
        calls = 0
        const state = { tensors: [tensor([1, 2])], counts: [Int32Array.of(0)] }
        const promise = capture([x, index], state, ({ tensors, counts }) => step(tensors[0], counts[0]) as never)
        await assert.rejects(promise, message)
      }
      const result = (S: Tensor, count: Int32Array, ...outputs: Tensor[]) => ({ outputs, tensors: [S], counts: [count] })
      const reads = refused.bind(null, /capture: the step reads values/, (S, c) => {
        void S.read()
        void S.item() // of two numbers, an error of its own
        return result(affine(S, 2), c)
      })
      assert.deepEqual(await unheard(reads), [])
      await refused(/the body is asynchronous/, async (S, c) => result(affine(S, 2), c))
      await refused(/counts something else the second time/, (S, c) => result(add(S, uniform(generator(1), [2])), c))
      await refused(/writes over what it has computed/, (S, c) => {
        const y = affine(S, 2)
        y.write([1, 2])
        return result(y, c)
      })
      await refused(/looks at the values of the input \[2\]/, (S, c) => result(affine(S, index.indices![0]), c))
      await refused(/does something else the second time/, (S, c) => result(affine(S, 2 + calls++), c))
      await refused(/does something else the second time/, (S, c) => result(calls++ ? exp(S) : tanh(S), c))
      await refused(/does something else the second time/, (S, c) => result(add(S, tensor([calls++, 0])), c))
      await refused(/does something else the second time/, (S, c) =>
        result(
          affine(S, c[0]),
          c.map((n) => n + 1),
        ),
      )
      await refused(/does something else the second time/, (S, c) => result(affine(S, 2), c, ...(calls++ ? [exp(S)] : [])))
      await refused(/counts don't grow by the same/, (S, c) =>
        result(
          affine(S, 2),
          c.map((n) => 2 * n + 1),
        ),
      )
      await refused(/makes a state \[4\] of one that is \[2\]/, (S, c) => result(concat([S, S], 0), c))
      await refused(/makes a state \[2\] of one that is absent/, (S, c) => ({ ...result(affine(S, 2), c), tensors: [S, S] }))
      await refused(/gives 0 tensors and 1 counts for a state of 1 and 1/, (_, c) => ({ outputs: [], tensors: [], counts: [c] }))
      await refused(/returns Tensor\(\[2,1\] float32 .*, which it hasn't made/, (S, c) => result(affine(S, 2), c, one))
      await refused(/writes a tensor from outside/, (S, c) => {
        x.write([3, 4])
        return result(affine(S, 2), c)
      })
      await refused(/matmul: \[2,1\] x \[2,1\]/, (S, c) => result(affine(S, 2), c, matmul(one, one)))
      let inner: Promise<unknown> = Promise.resolve()
      await refused(/does something else the second time/, (S, c) => {
        inner = assert.rejects(
          capture([x], none, () => ({ outputs: [], ...none })),
          /a step is being captured already/,
        )
        return result(affine(S, 2 + calls++), c)
      })
      await inner
      await assert.rejects(
        capture([], none, () => none as never),
        /capture: needs an input, a state, or something that changes/,
      )
      await assert.rejects(
        capture([[1]] as never, none, () => none as never),
        /capture: needs tensors, not/,
      )
      await assert.rejects(
        capture(x as never, none, () => none as never),
        /the inputs must be an array of tensors/,
      )
      for (const [given, message] of [
        [[[x]], /the state must be an object such as .*, not undefined$/],
        [[[x], [x], () => none], /the state must be an object such as .*, not an array of 1$/],
        [[[x], { tensors: x }, () => none], /the state's tensors must be an array of them, not a Tensor$/],
        [[[x], { counts: [[1]] }, () => none], /the state's counts must be Int32Arrays, not an array of 1$/],
        [[[x], none], /the step must be a function of the state, not undefined$/],
        [[[x], none, () => none, null], /what changes must be an array of tensors, not null$/],
        [[[x], none, () => undefined], /the step's result must be an object such as .*, not undefined$/],
        [[[x], none, () => ({ outputs: x })], /the outputs of the step must be an array of tensors, not a Tensor$/],
        [[[x], none, () => ({ outputs: [1] })], /the step must return tensors, not 1$/],
        [[[x], none, () => ({ counts: [1] })], /the step's result's counts must be Int32Arrays, not 1$/],
      ] as const)
        await assert.rejects(capture(...(given as unknown as Parameters<typeof capture>)), message)
      // Nothing is left over from all that.
      const twice = affine(x, 2)
      assert.deepEqual(Array.from(await twice.read()), [2, 4])
      for (const t of [x, twice, index, one]) t.dispose()
    }),
  )

  it(
    'checks what is written, and that all is still there',
    onEach(async () => {
      const table = parameter(random(1, [5, 3]))
      const token = tensor([0, 0], { dtype: 'int32' })
      const captured = await capture([token], none, () => ({ outputs: [sum(gather(table, reshape(token, [2])))], ...none }))
      assert.throws(() => token.write([1, 5]), /write: index 5 at 1 is outside 0\.\.4/)
      assert.throws(() => token.write([1, -1]), /write: index -1 at 1/)
      assert.throws(() => token.write([1, 0.5]), /write: value 0\.5 at 1 isn't an int32/)
      assert.throws(() => token.write([1]), /write: 1 values for a tensor of shape \[2\]/)
      token.write([1, 4])
      captured.replay()
      table.dispose()
      assert.throws(() => captured.replay(), /replay: a tensor that the captured step reads was freed/)
      token.dispose()
      assert.throws(() => captured.replay(), /replay: the input \[2\] was freed/)
      captured.dispose()
    }),
  )

  it(
    'has what is left out as none, and numbers that fit before anything runs',
    onEach(async () => {
      const x = tensor([1, 2])
      let first = [1, 2]
      let second = [3, 4]
      const captured = await capture([x], {}, () => {
        const [a, b] = [varying(() => first, { shape: [2] }), varying(() => second, { shape: [2], dtype: 'int32' })]
        return { outputs: [add(x, where(b, a, x))] }
      })
      const values = async (): Promise<number[]> => Array.from(await captured.outputs[0].read())
      captured.replay()
      assert.deepEqual(await values(), [2, 4])
      for (const [numbers, indices, message] of [
        [new Array(4000).fill(9), [0, 0], /^Error: varying: 4000 values for a tensor of shape \[2\]$/],
        [[9], [0, 0], /^Error: varying: 1 values for a tensor of shape \[2\]$/],
        [[9, 9], [0, 0, 0], /^Error: varying: 3 values for a tensor of shape \[2\]$/],
        [[9, 9], [0, 0.5], /^Error: varying: value 0\.5 at 1 isn't an int32$/],
        [undefined, [0, 0], /^Error: varying: the values must be an array of numbers, .* not undefined$/],
      ] as const) {
        first = numbers as number[]
        second = indices as never
        assert.throws(() => captured.replay(), message)
        assert.deepEqual(await values(), [2, 4])
        assert.deepEqual(Array.from(await x.read()), [1, 2])
      }
      first = [5, 6]
      second = [1, 0]
      captured.replay()
      assert.deepEqual(await values(), [6, 4])
      captured.dispose()
      x.dispose()
    }),
  )

  it(
    'takes for an input what all its uses as indices allow',
    onEach(async () => {
      const [table, x] = [random(1, [5, 3]), random(2, [2, 3])]
      const index = tensor([0, 1], { dtype: 'int32' })
      const captured = await capture([index], none, () => ({ outputs: [crossEntropy(x, index, { ignore: -1 }), gather(table, index)] }))
      // No class of three, no row of five.
      assert.throws(() => index.write([0, 4]), /write: index 4 at 1 is outside 0\.\.2/)
      assert.throws(() => index.write([-1, 1]), /write: index -1 at 0 is outside 0\.\.4/)
      index.write([2, 0])
      captured.dispose()
      for (const t of [table, x, index]) t.dispose()
    }),
  )

  it(
    'names the gradient that a step leaves behind, which is gone then',
    onEach(async () => {
      const [W, x] = [parameter(random(1, [3, 2])), random(2, [1, 3])]
      const step = () => {
        scope(() => withGrad(() => sum(matmul(x, W)).backward()))
        return { outputs: [affine(x, 2)] }
      }
      const failing = (): never => {
        step()
        throw new Error('failed')
      }
      for (const [body, message] of [
        [step, /^Error: capture: the step leaves a gradient of \[3,2\] behind; have it clear that \(zeroGrad of the optimiser\)$/],
        [failing, /^Error: failed$/],
      ] as const) {
        await assert.rejects(capture([x], none, body), message)
        assert.equal(W.grad, null)
      }
      // One that was there before is the caller's.
      step().outputs[0].dispose()
      await assert.rejects(capture([x], none, step), /overwrites a tensor from outside of it/)
      assert.equal(W.grad!.disposed, false)
      // Where the caller looks at it elsewhere, too, the step adds to a copy; W has the gradient itself afterwards.
      W.grad!.write([1, 2, 3, 4, 5, 6])
      const seen = keep(W.grad!.view([6]))
      await assert.rejects(capture([x], none, step), /leaves a gradient of \[3,2\] behind/)
      assert.equal(W.grad!.storage, seen.storage)
      assert.deepEqual([...(await W.grad!.read())], [1, 2, 3, 4, 5, 6])
      // matmul adds to the gradient itself; for this op the backward pass does.
      const plain = () => {
        scope(() => withGrad(() => sum(affine(W, 2)).backward()))
        return { outputs: [affine(x, 2)] }
      }
      await assert.rejects(capture([x], none, plain), /leaves a gradient of \[3,2\] behind/)
      assert.deepEqual([...(await W.grad!.read())], [1, 2, 3, 4, 5, 6])
      for (const t of [seen, W.grad!, W, x]) t.dispose()
    }),
  )

  it(
    'asks for a learning rate once a step, whatever takes it',
    onEach(async () => {
      const parameters = [2, 3].map((n, i) => parameter(random(i, [n])))
      // Two kernels: one of what decays, one of what doesn't.
      const named = new Map(parameters.map((p, i) => [`${i}`, p] as const))
      const optimizer = new AdamW(named, { lr: 0.1, decays: (name) => name === '0' })
      let asked = 0
      const step = () => {
        for (const p of parameters) sum(mul(p, p)).backward()
        optimizer.step({ lr: () => 0.1 / ++asked }).dispose()
        optimizer.zeroGrad()
        return {}
      }
      scope(step)
      assert.equal(asked, 1)
      const captured = await capture([], none, () => withGrad(step), optimizer.changes())
      for (let i = 1; i <= 3; i++) {
        asked = 0
        captured.replay()
        assert.equal(asked, 1)
      }
      captured.dispose()
      for (const one of [optimizer, ...parameters]) one.dispose()
    }),
  )

  it(
    'takes any numbers for a condition',
    onEach(async () => {
      const condition = tensor([0, 0], { dtype: 'int32' })
      const captured = await capture([condition], none, () => ({ outputs: [where(condition, 1, 2)], ...none }))
      condition.write([-7, 0])
      captured.replay()
      assert.deepEqual(Array.from(await captured.outputs[0].read()), [1, 2])
      captured.dispose()
      condition.dispose()
    }),
  )

  it(
    'sums a state that takes turns in two places, alone and beside others',
    onEach(async () => {
      const S = tensor([1, 2, 3, 4])
      const x = tensor([1, 1, 1, 1])
      const captured = await capture([x], { tensors: [S], counts: [] }, ({ tensors: [S] }) => ({
        outputs: [sum(S), gradNorm([S, x])],
        tensors: [add(S, x)],
        counts: [],
      }))
      for (let i = 0; i < 5; i++) {
        captured.replay()
        const values = [1, 2, 3, 4].map((v) => v + i)
        const norm = Math.fround(Math.hypot(...values, 1, 1, 1, 1))
        const [total, size] = await Promise.all(captured.outputs.map(async (t) => (await t.read())[0]))
        assert.equal(total, 10 + 4 * i)
        assert.ok(Math.abs(size - norm) < 1e-5, `${size}, not ${norm}`)
      }
      captured.dispose()
      x.dispose()
    }),
  )

  it(
    'checks the indices that an input has when it is captured, and those that follow from counts at each replay',
    onEach(async () => {
      const table = tensor([10, 20, 30], { shape: [3, 1] })
      const token = tensor([99], { dtype: 'int32' })
      await assert.rejects(
        capture([token], none, () => ({ ...none, outputs: [gather(table, token)] })),
        /^Error: gather: index 99 at 0 is outside 0\.\.2$/,
      )
      const x = tensor([1])
      const count = new Int32Array(1)
      const captured = await capture([x], { tensors: [], counts: [count] }, ({ counts: [n] }) => ({
        outputs: [
          mul(
            x,
            gather(
              table,
              varying(() => [n[0]], { shape: [1], dtype: 'int32' }),
            ),
          ),
        ],
        tensors: [],
        counts: [Int32Array.of(n[0] + 1)],
      }))
      for (const value of [10, 20, 30]) {
        captured.replay()
        assert.equal((await captured.outputs[0].read())[0], value)
      }
      assert.throws(() => captured.replay(), /index 3 at 0 is outside 0\.\.2/)
      captured.dispose()
      for (const t of [table, token, x]) t.dispose()
    }),
  )

  it(
    'goes on with random numbers, and overwrites what it may, by numbers that are asked for each time',
    onEach(async (device) => {
      const options = { beta1: 0.9, beta2: 0.99, eps: 1e-8, decoupled: true, weightDecay: 0.1 }
      const run = async (captured: boolean): Promise<number[]> => {
        const [p, m, v, matrix, momentum] = [[6], [6], [6], [4, 3], [4, 3]].map((shape, i) => parameter(random(i + 1, shape)))
        const [x, g] = [random(9, [6]), generator(5)]
        // @ts-expect-error: a captured step goes on with the seed that it was noted with.
        g.seed = 5
        let t = 1
        const step = (): { outputs: Tensor[]; tensors: []; counts: [] } => {
          const noise = dropout(add(x, uniform(g, [6])), 0.3, g)
          adamStep(p, noise, m, v, () => ({ ...options, lr: 0.1 / t, correction1: 1 - 0.9 ** t, correction2: 1 - 0.99 ** t }))
          const gradient = reshape(concat([noise, p], 0), [4, 3])
          muonStep(matrix, gradient, momentum, () => ({ lr: 0.1 * t, momentum: 0.9, weightDecay: 0.1 }))
          return { outputs: [affine(p, 2)], tensors: [], counts: [] }
        }
        const taken = captured ? await capture([], none, step, [p, m, v, matrix, momentum]) : undefined
        assert.equal(g.stream, 0)
        const values: number[] = []
        for (; t <= 4; t++) {
          const before = p.version!
          taken?.replay()
          const [y] = taken?.outputs ?? scope(step).outputs
          assert.ok(p.version! > before)
          assert.equal(g.stream, 2 * t)
          for (const one of [y, p, m, v, matrix, momentum]) values.push(...(await one.read()))
          if (!taken) y.dispose()
        }
        taken?.dispose()
        for (const one of [p, m, v, matrix, momentum, x]) one.dispose()
        return values
      }
      assertSameBits(Float64Array.from(await run(true)), Float64Array.from(await run(false)), device.description)
      // What is overwritten mustn't be gone.
      const p = tensor([1])
      const gone = await capture([], none, () => ({ ...none, outputs: [affine(p, 2)] }), [p])
      p.dispose()
      assert.throws(() => gone.replay(), /replay: a tensor that the captured step overwrites was freed/)
      gone.dispose()
    }),
  )

  it(
    'takes again what it has freed, but not what the host writes',
    onEach(async (device) => {
      // 64 bytes of float32, the least that wasm gives.
      const x = tensor(new Float32Array(16).fill(0.5))
      const before = device.bytesInUse()
      const captured = await capture([x], none, () => {
        let y = affine(x, 1)
        for (let i = 0; i < 20; i++) {
          const [factor, old] = [tensor(new Float32Array(16).fill(i)), y]
          y = scope(() => tanh(add(mul(exp(affine(old, 0.1)), factor), old)))
          for (const t of [factor, old]) t.dispose()
        }
        return { outputs: [y], ...none }
      })
      // Twenty that the host writes, and a few that take turns.
      assert.ok(device.bytesInUse() - before < (device.double ? 2 : 1) * 28 * 64, `${device.bytesInUse() - before}`)
      captured.replay()
      const first = await captured.outputs[0].read()
      captured.replay()
      assertSameBits(await captured.outputs[0].read(), first)
      captured.dispose()
      x.dispose()
    }),
  )

  it('needs no block longer than kernels touch it: random graphs, forward and backward, in memory that is spoilt between replays', async () => {
    /** An op for each number: some make larger tensors, some smaller ones. */
    const ops: ((x: Tensor, y: Tensor) => Tensor)[] = [
      (x) => tanh(x),
      (x) => affine(x, 0.5, 0.1),
      (x, y) => (String(x.shape) === String(y.shape) ? mul(x, y) : exp(affine(x, -0.5))),
      (x) => softmax(x),
      (x) => permute(x, [1, 0]),
      (x) => (x.size < 400 ? concat([x, tanh(x)], 0) : affine(x, 0.9)),
      (x) => slice(x, 0, 0, Math.ceil(x.shape[0] / 2)),
      (x) => tanh(matmul(x, x, { transposeB: true })),
      (x) => sub(x, sum(x, { axis: [1], keepDim: true })),
    ]
    const cases = fc.record({
      rows: fc.integer({ min: 1, max: 13 }),
      columns: fc.integer({ min: 1, max: 21 }),
      picks: fc.array(fc.tuple(fc.nat({ max: ops.length - 1 }), fc.nat(), fc.nat()), { minLength: 1, maxLength: 16 }),
      device: fc.nat({ max: devices.length - 1 }),
    })
    let shared = 0
    await fc.assert(
      fc.asyncProperty(cases, async ({ rows, columns, picks, device: which }) => {
        const device = devices[which]
        setDevice(device)
        const before = device.bytesInUse()
        const [x, w] = [random(1, [rows, columns]), parameter(random(2, [rows, columns]))]
        const S = random(3, [rows, columns])
        const step = (S: Tensor): { outputs: Tensor[]; tensors: Tensor[] } => {
          const made = [mul(x, w), add(S, w)]
          for (const [op, i, j] of picks) made.push(ops[op](made[i % made.length], made[j % made.length]))
          const loss = made.slice(1).reduce((total, t) => add(total, sum(mul(t, t))), sum(tanh(made[0])))
          loss.backward()
          const grad = w.grad!
          w.grad = null
          return { outputs: [affine(loss, 1), made.at(-1)!, grad], tensors: [tanh(add(S, affine(x, 0.1)))] }
        }
        const expected: HostArray[][] = []
        let state: Tensor = random(3, [rows, columns])
        for (let i = 0; i < 3; i++) {
          const { outputs, tensors } = scope(() => step(state))
          state.dispose()
          state = tensors[0]
          expected.push(await Promise.all([...outputs, state].map((t) => t.read())))
          for (const t of new Set(outputs)) t.dispose()
        }
        const taken: { blocks: readonly { pointer: number; extent: number }[] }[] = []
        const { capture: own } = device
        device.capture = async (...given) => {
          const one = await own!.apply(device, given)
          taken.push(one as never)
          return one
        }
        const captured = await capture([x], { tensors: [S] }, ({ tensors }) => withGrad(() => step(tensors[0]))).finally(() => {
          device.capture = own
        })
        for (const values of expected) {
          if (device.name === 'wasm')
            // What others lie in at other times holds nothing from step to step.
            for (const [i, a] of taken[0].blocks.entries()) {
              const meets = (b: typeof a) => a.pointer < b.pointer + b.extent && b.pointer < a.pointer + a.extent
              if (!taken[0].blocks.some((b, j) => i !== j && meets(b))) continue
              device.write(a, new Float32Array(a.extent / 4).fill(NaN))
              shared++
            }
          captured.replay()
          for (const [i, t] of [...captured.outputs, ...captured.state().tensors].entries())
            assertSameBits(await t.read(), values[i], `${device.description}, result ${i}`)
        }
        captured.dispose()
        for (const t of [x, w, state]) t.dispose()
        assert.equal(device.bytesInUse(), before)
      }),
      { numRuns: 60 },
    )
    assert.ok(shared > 1000, `${shared} blocks lay over others`)
  })

  it(
    'has the loss and the gradients of targets that change, of which some are ignored',
    onEach(async (device) => {
      const [x, W] = [random(1, [5, 4]), parameter(random(2, [3, 4]))]
      const targets = tensor(new Int32Array(5), { shape: [5] })
      const step = (ids: Tensor): Tensor[] => {
        const options = { ignore: -1 }
        const losses = [
          crossEntropy(matmul(x, W, { transposeB: true }), ids, options),
          linearCrossEntropy(x, W, null, ids, { ...options, rows: 2 }),
        ]
        return losses.flatMap((loss) => {
          loss.backward()
          const gradient = W.grad!
          W.grad = null
          return [affine(loss, 1), gradient]
        })
      }
      const captured = await capture([targets], none, () => ({ outputs: withGrad(() => step(targets)), ...none }))
      for (const ids of [
        [0, 2, 1, -1, 0],
        [2, -1, -1, -1, -1],
      ]) {
        targets.write(ids)
        captured.replay()
        const expected = scope(() => step(tensor(Int32Array.from(ids))))
        for (const [i, t] of expected.entries()) {
          assertSameBits(await captured.outputs[i].read(), await t.read(), `${device.description}, ${ids}, ${i}`)
          t.dispose()
        }
      }
      assert.throws(() => targets.write([0, 1, 2, 3, 0]), /index 3 at 3 is outside 0\.\.2/)
      targets.write(new Int32Array(5).fill(-1))
      assert.throws(() => captured.replay(), /every target is ignored, so there is no mean/)
      captured.dispose()
      for (const t of [x, W, targets]) t.dispose()
    }),
  )

  it(
    'refuses a step that overwrites what is not its own',
    onEach(async () => {
      const [x, p, m, v] = [tensor([1, 1], { shape: [1, 2] }), ...[1, 2, 3].map(() => tensor([1, 2, 3, 4], { shape: [2, 2] }))]
      await assert.rejects(
        capture([x], none, () => {
          const y = matmul(x, p)
          adamStep(p, p, m, v, {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.9,
            eps: 1e-8,
            decoupled: false,
            weightDecay: 0,
            correction1: 1,
            correction2: 1,
          })
          return { ...none, outputs: [y] }
        }),
        /^Error: capture: the step overwrites a tensor from outside of it; name it in `changes`$/,
      )
      for (const t of [x, p, m, v]) t.dispose()
    }),
  )

  it('fails like the step where a kernel refuses its input, and goes on', async () => {
    const device = await wasm()
    setDevice(device)
    const [q, k, v, beta] = [random(1, [1, 1, 1, 4]), random(2, [1, 1, 1, 4]), random(3, [1, 1, 1, 4]), random(4, [1, 1, 1])]
    const gate = tensor([-1], { shape: [1, 1, 1] })
    const captured = await capture([gate], none, () => ({ outputs: [gatedDeltaRule(q, k, v, beta, gate).y], ...none }))
    gate.write([1])
    assert.throws(() => captured.replay(), /the gate holds 1; gates are logarithms/)
    gate.write([-1])
    captured.replay()
    captured.dispose()
    // A state that was overwritten up to there is no state.
    const carried = await capture([gate], { tensors: [random(5, [1, 1, 4, 4])] }, ({ tensors: [S] }) => {
      const { y, state } = gatedDeltaRule(q, k, v, beta, gate, { S })
      return { outputs: [y], tensors: [state.S] }
    })
    carried.replay()
    gate.write([1])
    assert.throws(() => carried.replay(), /the gate holds 1; gates are logarithms/)
    gate.write([-1])
    const lost = /^Error: replay: the captured step failed, and its state is lost; capture it anew \(.*the gate holds 1/
    assert.throws(() => carried.replay(), lost)
    assert.throws(() => carried.state(), lost)
    carried.dispose()
    for (const t of [q, k, v, beta, gate]) t.dispose()
  })

  it('on a GPU fails like the step where a gate is bad, where memory runs out, and where the device is lost or closed', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    setDevice(device)
    const [q, k, v, beta] = [random(1, [1, 1, 1, 4]), random(2, [1, 1, 1, 4]), random(3, [1, 1, 1, 4]), random(4, [1, 1, 1])]
    const gate = tensor([-1], { shape: [1, 1, 1] })
    const captured = await capture([gate], none, () => ({ outputs: [gatedDeltaRule(q, k, v, beta, gate).y], ...none }))
    const plain = scope(() => noGrad(() => gatedDeltaRule(q, k, v, beta, gate).y))
    gate.write([1])
    captured.replay()
    await assert.rejects(captured.outputs[0].read(), /the gate holds 1; gates are logarithms/)
    gate.write([-1])
    captured.replay()
    assertSameBits(await captured.outputs[0].read(), await plain.read())
    const used = device.bytesInUse()
    // More than there is, and not before anything runs.
    const large = (): Promise<unknown> =>
      capture([gate], none, () => ({ outputs: Array.from({ length: 4 }, () => empty([2 ** 40])), ...none }))
    await assert.rejects(large(), /webgpu: out of memory: asked for/)
    assert.equal(device.bytesInUse(), used)
    // In the midst of what is recorded, more steps than a submission holds.
    const x = tensor([1])
    const count = await capture([], { tensors: [x], counts: [] }, ({ tensors: [x] }) => ({
      outputs: [],
      counts: [],
      tensors: [affine(x, 1, 1)],
    }))
    for (let i = 0; i < 600; i++) count.replay()
    assert.deepEqual(Array.from(await count.state().tensors[0].read()), [601])
    count.replay()
    count.dispose()
    assert.deepEqual(Array.from(await plain.read()), Array.from(await captured.outputs[0].read()))
    device.gpu.destroy()
    await assert.rejects(captured.outputs[0].read(), /webgpu: the device was lost/)
    assert.throws(() => captured.replay(), /^Error: webgpu: the device was lost \(destroyed: .*\); open another one/)
    device.close()
    assert.throws(() => captured.replay(), /webgpu: the device has been closed/)
    captured.dispose()
    assert.equal(device.bytesInUse(), 0)
    const nowhere = await webgpuDevice({ backend: 'null', minimal: true })
    // The null backend has 512 MB: what is refused is heard of before the step is there.
    const y = tensor([1], { device: nowhere })
    const outputs = (): Tensor[] => Array.from({ length: 7 }, () => empty([2e7], nowhere))
    await assert.rejects(
      capture([y], none, () => ({ outputs: outputs(), ...none })),
      /^Error: webgpu: out of memory: asked for 80 MB/,
    )
    nowhere.close()
  })

  it('is for devices that have it', async () => {
    const profiling = profile(await wasm())
    try {
      const x = tensor([1], { device: profiling.device })
      await assert.rejects(
        capture([x], none, () => ({ outputs: [exp(x)], ...none })),
        /capture: \w+ has no captured steps; run the step itself/,
      )
      x.dispose()
    } finally {
      profiling.stop()
    }
    const [a, b] = [tensor([1]), tensor([1], { device: await wasm() })]
    await assert.rejects(
      capture([a, b], none, () => none as never),
      /capture: tensors are on different devices/,
    )
    for (const t of [a, b]) t.dispose()
  })

  it('runs beside others and beside everything else', async () => {
    const device = await wasm(2)
    setDevice(device)
    const x = tensor(uniforms(1, 300), { shape: [1, 300] })
    const weights = [1, 2].map((seed) => parameter(random(seed, [300, 500])))
    const steps = await Promise.all(weights.map((W) => capture([x], none, () => ({ outputs: [matmul(x, W)], ...none }))))
    for (const step of steps) step.replay()
    for (const [i, W] of weights.entries()) {
      const plain = noGrad(() => matmul(x, W))
      assertSameBits(await steps[i].outputs[0].read(), await plain.read())
      plain.dispose()
    }
    steps[0].dispose()
    const kept = keep(slice(random(3, [4, 4]), 0, 0, 1))
    steps[1].replay()
    const other = noGrad(() => sub(matmul(x, weights[1]), steps[1].outputs[0]))
    assert.ok((await other.read()).every((d) => d === 0))
    steps[1].dispose()
    for (const t of [x, kept, other, ...weights]) t.dispose()
  })
})
