/** The harness itself: what is wrong is found, made small, and found again. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { caseLine } from '../../claims/check.ts'
import {
  type Claim,
  ClaimError,
  type Context,
  check,
  Devices,
  defineClaim,
  defineRule,
  familyClaims,
  int,
  type Verdict,
} from '../../claims/index.ts'
import { checkRule, type FamilyRule } from '../../claims/rule.ts'
import { stateNumbers } from '../../claims/sides.ts'
import {
  add,
  affine,
  deltaRule,
  gatedDeltaRule,
  matmul,
  mul,
  readOut,
  reshape,
  sum,
  sumRule,
  type Tensor,
  tensor,
} from '../../engine/index.ts'

const text = { section: 'tests', statement: 'a statement', equation: 'x', source: 'this test' }

describe('check', () => {
  let reference: Devices
  let wasm: Devices
  before(async () => {
    reference = await Devices.open('reference')
    wasm = await Devices.open('wasm')
  })
  after(() => wasm.close())

  it('in precision f16 has a bound for operands of float16, and leaves out what that does not hold', async () => {
    const half = await Devices.open('reference', { precision: 'f16' })
    const product = (scale: number, name: string, factor = 1): Claim =>
      defineClaim({
        ...text,
        name: `test: ${name}`,
        fields: { T: int(1, 9) },
        left: (c, x) => {
          const a = affine(x.tensor('a', [c.T, 4]), scale)
          return { y: matmul(a, x.tensor('b', [4, 3])) }
        },
        right: (c, x) => x.on('reference', (x) => ({ y: matmul(affine(x.tensor('a', [c.T, 4]), scale * factor), x.tensor('b', [4, 3])) })),
      })
    const { status, bound, error } = await check(product(1, 'rounded'), half, { runs: 20 })
    assert.deepEqual([status, bound], ['holds', 8 * 2 * 2 ** -11])
    assert.ok(error > 1e-5, `${error}`)
    // Many of these overflow, and the others hold; none of them excuses what is wrong.
    assert.equal((await check(product(30_000, 'large'), half, { runs: 20 })).status, 'holds')
    assert.equal((await check(product(30_000, 'wrong', 1.05), half, { runs: 20 })).status, 'fails')
    half.close()
  })

  /** The sum rule for the delta rule at full strength: wrong as soon as a key comes twice. */
  const wrong = defineClaim({
    ...text,
    name: 'test: delta is sum',
    fields: { T: int(1, 20), K: int(1, 8), V: int(1, 8) },
    left: (c, x) => {
      const [k, v] = [x.tensor('k', [1, c.T, 1, c.K], 'unit key'), x.tensor('v', [1, c.T, 1, c.V])]
      return { S: deltaRule(k, k, v, x.from(new Float64Array(c.T).fill(1), [1, c.T, 1])).state.S }
    },
    right: (c, x) => {
      const [k, v] = [x.tensor('k', [1, c.T, 1, c.K], 'unit key'), x.tensor('v', [1, c.T, 1, c.V])]
      return { S: sumRule(k, k, v).state.S }
    },
  })

  it('shows a case as it is, numbers that JSON lacks included', () => {
    const c = { gate: -Infinity, T: 3, form: 'chunk', cuts: [1, Number.NaN, Infinity], mask: null }
    assert.equal(caseLine(c as never), 'gate -Infinity, T 3, form chunk, cuts [1,"NaN","Infinity"], mask null')
  })

  it('finds a wrong claim and shrinks it to the smallest sizes', async () => {
    for (const devices of [reference, wasm]) {
      const verdict = await check(wrong, devices)
      assert.equal(verdict.status, 'fails')
      assert.equal(verdict.ok, false)
      assert.deepEqual(verdict.counterexample!.case, { T: 2, K: 1, V: 1, look: 'ones', seed: 0 })
      assert.deepEqual(verdict.counterexample!.lines, [
        'T 2, K 1, V 1, look ones, seed 0',
        'k [1,2,1,1] = 1 1',
        'v [1,2,1,1] = 1 1',
        'left S = 1',
        'right S = 2',
        'error 4.55e-1',
      ])
      assert.match(verdict.message!, /^S differs \(error 4\.5e-1, bound 1e-\d+\), most at S: 1 on the left, 2 on the right$/)
    }
  })

  it('runs the same case again from its seed and path, and no other', async () => {
    for (const seed of [1, 2, 77]) {
      const found = await check(wrong, reference, { seed })
      const again = await check(wrong, reference, { seed, path: found.counterexample!.path })
      assert.deepEqual(again.counterexample!.case, found.counterexample!.case)
      assert.equal(again.counterexample!.error, found.counterexample!.error)
      assert.equal(again.runs, 1)
    }
  })

  it('says that a replayed case refutes nothing, and where there is no such case', async () => {
    const isFalse = simple({ holds: false, left: (c) => ({ x: Math.min(c.n, 4) }) })
    const { counterexample } = await check(isFalse, reference)
    assert.equal((await check(isFalse, reference, { path: counterexample!.path })).status, 'refuted')
    const holding = await check({ ...isFalse, left: isFalse.right }, reference, { path: counterexample!.path })
    assert.deepEqual([holding.status, holding.ok, holding.runs], ['not refuted', false, 1])
    await assert.rejects(check(isFalse, reference, { path: '0:999' }), { name: 'NoSuchCase', message: 'no such case: 0:999' })
  })

  it('gives the same verdict for the same seed, and other cases for another', async () => {
    const cases = async (seed: number): Promise<string[]> => {
      const seen: string[] = []
      await check({ ...wrong, right: wrong.left }, reference, { runs: 30, seed, onCase: (c) => seen.push(JSON.stringify(c)) })
      return seen
    }
    assert.deepEqual(await cases(5), await cases(5))
    assert.notDeepEqual(await cases(5), await cases(6))
    assert.equal(new Set(await cases(5)).size > 20, true)
  })

  it('tells each error as it is measured, down to the smallest counterexample', async () => {
    const seen: [number, number, boolean][] = []
    const onMeasured = (c: object, error: number, within: boolean) => void seen.push([(c as { n: number }).n, error, within])
    // Too large from 4 on: a counterexample shrinks to it.
    const claim = { ...simple({ left: (c) => ({ x: c.n > 3 ? 2 * c.n : c.n }) }), bounds: { float32: 0.5, float64: 0.5, reason: 'none' } }
    const { counterexample } = await check(claim, reference, { onMeasured })
    const against = seen.filter(([, , within]) => !within)
    assert.ok(against.length > 0 && against.every(([n, error]) => n > 3 && error > 0.5))
    assert.deepEqual(against.at(-1)!.slice(0, 2), [4, counterexample!.error])
    assert.ok(seen.every(([n, error, within]) => within === n <= 3 && (error === 0) === within))
  })

  it('draws the same numbers for a name on every device, float32 where the device has float32', async () => {
    for (const devices of [reference, wasm]) {
      const numbers: Record<string, number[]> = {}
      const claim = defineClaim({
        ...text,
        name: 'test: draws',
        fields: { K: int(2, 5) },
        left: (c, x) => {
          numbers.here = Array.from(x.values('a', [3, c.K], 'key'))
          return { a: x.tensor('a', [3, c.K], 'key') }
        },
        right: (c, x) => x.on('reference', (x) => ({ a: x.tensor('a', [3, c.K], 'key') })),
        relation: 'same bits',
      })
      assert.equal((await check(claim, devices)).status, 'holds')
      if (devices === wasm) assert.deepEqual(numbers.here, numbers.here.map(Math.fround))
    }
  })

  const simple = (rest: Partial<Claim<{ n: fc.Arbitrary<number> }>>): Claim =>
    defineClaim({ ...text, name: 'test: simple', fields: { n: int(1, 9) }, left: (c) => ({ x: c.n }), right: (c) => ({ x: c.n }), ...rest })
  const statusOf = async (rest: Parameters<typeof simple>[0], options = {}): Promise<Verdict> => check(simple(rest), reference, options)

  it('tells a false claim that holds after all', async () => {
    assert.equal((await statusOf({})).status, 'holds')
    const verdict = await statusOf({ holds: false })
    assert.equal(verdict.status, 'not refuted')
    assert.equal(verdict.ok, false)
    assert.equal((await statusOf({ holds: false, left: (c) => ({ x: c.n + 1 }) })).status, 'refuted')
  })

  it('goes on with a false claim until it is refuted, whatever the runs, and says by which case', async () => {
    // Contradicted by a case among some 30.
    const rare = simple({ holds: false, fields: { n: int(1, 30) }, left: (c) => ({ x: c.n === 17 ? 2 : 1 }), right: () => ({ x: 1 }) })
    const by: number[] = []
    for (const seed of [1, 2, 3, 4, 5]) {
      const cases: number[] = []
      const verdict = await check(rare, reference, { runs: 1, seed, onCase: (c) => cases.push((c as Record<string, any>).n) })
      assert.equal(verdict.status, 'refuted')
      assert.equal(cases.indexOf(17) + 1, verdict.refutedBy)
      by.push(verdict.refutedBy!)
      const { path } = verdict.counterexample!
      assert.equal((await check(rare, reference, { seed, path })).status, 'refuted')
      assert.equal((await check(rare, reference, { runs: 5000, seed })).refutedBy, verdict.refutedBy)
    }
    assert.ok(Math.max(...by) > 5, `${by}`)
    for (const [runs, cases] of [
      [1, 1000],
      [1200, 1200],
    ]) {
      const verdict = await statusOf({ holds: false }, { runs })
      assert.deepEqual([verdict.status, verdict.runs], ['not refuted', cases])
      assert.equal(verdict.message, `no counterexample among ${cases} cases, but the claim should be false`)
    }
    assert.equal((await statusOf({}, { runs: 7 })).runs, 7)
  })

  it('does not take an exception for a refutation', async () => {
    const verdict = await statusOf({
      holds: false,
      left: (c) => {
        if (c.n > 3) throw new Error('no more than three')
        return { x: c.n }
      },
    })
    assert.equal(verdict.status, 'throws')
    assert.equal(verdict.message, 'no more than three')
  })

  it('shrinks an exception, too', async () => {
    const verdict = await statusOf({
      left: (c) => {
        if (c.n > 3) throw new Error('no more than three')
        return { x: c.n }
      },
    })
    assert.equal(verdict.status, 'throws')
    assert.equal(verdict.counterexample!.case.n, 4)
  })

  it('notices what depends on more than the case', async () => {
    let calls = 0
    assert.equal((await statusOf({ left: () => ({ x: Math.random() }) })).status, 'unsteady')
    // Right at first, and wrong once: the counterexample does not come again.
    const verdict = await statusOf({ left: (c) => ({ x: ++calls === 20 ? -1 : c.n }) })
    assert.equal(verdict.status, 'unsteady')
    assert.match(verdict.message!, /^non-deterministic/)
  })

  it('measures: equal by root mean squares, same bits to the sign of zero, at most from one side', async () => {
    const error = async (relation: Claim['relation'], left: number[], right: number[], floor?: number): Promise<number> =>
      (await statusOf({ relation, floor, left: () => ({ x: left }), right: () => ({ x: right }) }, { runs: 1 })).error
    assert.ok(Math.abs((await error('equal', [1, 2], [1, 1], 0)) - Math.SQRT1_2) < 1e-15)
    assert.ok(Math.abs((await error('equal', [0.2], [0.1], 0.1)) - 0.5) < 1e-15)
    assert.equal(await error('same bits', [0, 1, 2, 3], [-0, 1, 2, 3]), 0.25)
    assert.ok(Number.isNaN(await error('same bits', [Number.NaN], [Number.NaN])))
    assert.equal(await error('at most', [-5, 1], [1, 1]), 0)
    assert.ok(Math.abs((await error('at most', [0, 1.2], [1, 1], 0)) - 0.2) < 1e-15)
    assert.ok(Number.isNaN(await error('equal', [Number.NaN, 1], [1, 1])))
    assert.ok(Number.isNaN(await error('at most', [Number.NaN, 1], [1, 1])))
  })

  it('does not let a large result hide an error in a small one', async () => {
    const error = async (right: Record<string, number>, wrong: string): Promise<number> => {
      const side = (x: Context, change: number) => {
        for (const name of ['q', 'k']) x.values(name, [1])
        return { ...right, [wrong]: right[wrong] + change }
      }
      return (await statusOf({ left: (_, x) => side(x, 1), right: (_, x) => side(x, 0) }, { runs: 1 })).error
    }
    const near = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-12, `${a}, expected ${b}`)
    // The floor grows with the size of the others of its kind, and no further than from 0.1 to 1.
    near(await error({ y: 1, S: 4 }, 'y'), 1 / 1.4)
    near(await error({ y: 1, S: 1e6 }, 'y'), 1 / 2)
    // Gradients are those of what is drawn; 'delta' is a result like any other.
    near(await error({ y: 1, dq: 4 }, 'y'), 1 / 1.1)
    near(await error({ dk: 1, dq: 4, y: 9 }, 'dk'), 1 / 1.4)
    near(await error({ y: 1, delta: 4 }, 'y'), 1 / 1.4)
  })

  it('takes a NaN for a counterexample, but not for a refutation', async () => {
    const two = await statusOf({ left: () => ({ x: Number.NaN, y: 1 }), right: () => ({ x: 1, y: 1 }) })
    assert.equal(two.status, 'fails')
    for (const relation of ['equal', 'same bits', 'at most'] as const) {
      const lost = (c: { n: number }): { x: number } => ({ x: c.n === 7 ? Number.NaN : c.n })
      assert.equal((await statusOf({ relation, left: lost })).status, 'fails')
      assert.equal((await statusOf({ relation: 'same bits', left: lost, right: lost })).status, 'fails')
      const refuted = await statusOf({ relation, left: lost, holds: false })
      assert.equal(refuted.status, 'not refuted')
      assert.match(refuted.message!, /^x can't be compared: NaN on the left, 7 on the right \(case: n 7, .*\), which refutes nothing$/)
    }
  })

  it('takes one tensor under two names', async () => {
    const before = wasm.bytesInUse()
    const twice = (_: object, x: Context) => {
      const t = x.tensor('a', [3])
      return { y: t, S: t }
    }
    assert.equal((await check(simple({ left: twice, right: twice }), wasm)).status, 'holds')
    assert.equal(wasm.bytesInUse(), before)
  })

  it('says what a side should have returned', async () => {
    const message = async (left: unknown): Promise<string> => (await statusOf({ left: (() => left) as never })).message!
    assert.match(await message(undefined), /^left must return \{ name: tensor, \.\.\. \}, not undefined$/)
    assert.match(await message({ x: 'one' }), /^left gives string for 'x', not a tensor or numbers$/)
    assert.match(await message({ y: 1 }), /^the sides differ in what 'y' is: left has 1 values, right none$/)
    assert.match(await message({ x: [1, 2] }), /left has 2 values, right 1 values$/)
    assert.match(await message(Promise.resolve({ x: 1 })), /asynchronous/)
    assert.match((await statusOf({ left: () => ({}), right: () => ({}) })).message!, /no results/)
  })

  it('compares shapes and dtypes, and not values alone', async () => {
    const of = (left: unknown, right: unknown) => statusOf({ left: () => left as never, right: () => right as never })
    const on = (devices: Devices, left: (x: Context) => unknown, right: (x: Context) => unknown) =>
      check(simple({ left: (_, x) => ({ x: left(x) as never }), right: (_, x) => ({ x: right(x) as never }) }), devices)
    const differ = (verdict: Verdict, how: string): void => {
      assert.deepEqual([verdict.status, verdict.ok, verdict.message], ['throws', false, `the sides differ in what 'x' is: ${how}`])
    }
    for (const devices of [reference, wasm]) {
      const [three, int32] = [new Float64Array(3), { dtype: 'int32', device: devices.device } as const]
      const from = (shape: number[]) => (x: Context) => x.from(three, shape)
      const integers = (shape: number[]) => () => tensor(new Int32Array(3), { ...int32, shape })
      differ(await on(devices, from([3, 1]), from([3])), 'left is float32 [3,1], right float32 [3]')
      differ(await on(devices, from([3]), from([1, 3])), 'left is float32 [3], right float32 [1,3]')
      differ(await on(devices, integers([3]), from([3])), 'left is int32 [3], right float32 [3]')
      differ(await on(devices, from([3, 1]), () => [0, 0, 0]), 'left is float32 [3,1], right a list of 3')
      differ(
        await on(
          devices,
          (x) => x.from([1], [1]),
          () => 1,
        ),
        'left is float32 [1], right a number',
      )
      differ(await on(devices, from([3]), (x) => x.from([0, 0], [2])), 'left has 3 values, float32 [3], right 2 values, float32 [2]')
      for (const fits of [from([3]), integers([3]), () => [0, 0, 0], () => new Float32Array(3)])
        assert.equal((await on(devices, fits, () => [0, 0, 0])).status, 'holds')
      assert.equal(
        (
          await on(
            devices,
            (x) => sum(x.from(three, [3])),
            () => 0,
          )
        ).status,
        'holds',
      )
    }
    differ(await of({ x: 1 }, { x: [1] }), 'left is a number, right a list of 1')
    differ(await of({ x: [1, 2] }, {}), 'left has 2 values, right none')
    // A false claim isn't refuted by it, either.
    const refuted = await statusOf({ holds: false, left: () => ({ x: [1] }), right: () => ({ x: 2 }) })
    assert.deepEqual([refuted.status, refuted.ok], ['throws', false])
  })

  it('fails where nothing is compared, and says why', async () => {
    const fails = async (rest: Parameters<typeof simple>[0], message: RegExp, options = {}): Promise<void> => {
      for (const holds of [true, false]) {
        const verdict = await statusOf({ ...rest, holds }, options)
        assert.deepEqual([verdict.status, verdict.ok], ['throws', false], JSON.stringify(verdict))
        assert.match(verdict.message!, message)
      }
    }
    const both = (side: unknown) => ({ left: () => side as never, right: () => side as never })
    const empty = (_: object, x: Context) => ({ x: x.from([], [0, 3]) })
    await fails(both({}), /^the sides have no results/)
    await fails(both({ x: [] }), /^'x' is empty on both sides: nothing is compared \(case: n \d, /)
    await fails({ left: empty, right: empty }, /^'x' is empty on both sides/)
    await fails(both({ y: 1, x: [] }), /^'x' is empty on both sides/)
    await fails(both({ x: undefined }), /^left gives undefined for 'x'/)
    await fails({ left: (c) => ({ x: c.n }), right: (c) => ({ x: c.n, y: 1 }) }, /'y' is: left has none, right 1 values$/)
    await fails(
      { left: (c) => ({ x: c.n, ['__proto__']: 1 }), right: (c) => ({ x: c.n }) },
      /'__proto__' is: left has 1 values, right none$/,
    )
    await fails({ left: (c) => ({ x: c.n, constructor: 1 }) as never }, /'constructor' is: left has 1 values, right none$/)
    await fails(both({ x: [[1], [2]] }), /^left gives a list with lists in it for 'x', not numbers$/)
    await fails(both({ x: [1, null] }), /^left gives a list with null in it for 'x', not numbers$/)
    await fails(both({ x: [1, undefined] }), /^left gives a list with undefined in it for 'x', not numbers$/)
    // Every case is skipped, or all but a few.
    const skipped = (most: number) => ({
      left: (c: { n: number }) => {
        fc.pre(c.n > most)
        return { x: c.n }
      },
    })
    await fails(skipped(9), /^only 0 of \d+ cases were compared: \d+ were skipped by a precondition$/, { runs: 3 })
    const some = await statusOf(skipped(5), { runs: 500 })
    assert.deepEqual([some.status, some.runs], ['holds', 500])
    for (const runs of [0, -1, 1.5, Number.NaN, Infinity])
      await assert.rejects(statusOf({}, { runs }), /^RangeError: runs must be an integer/)
  })

  it('takes no NaN, and no infinity that hides a number, for agreement', async () => {
    const { NaN: nan } = Number
    for (const relation of ['equal', 'same bits', 'at most'] as const)
      for (const [left, right] of [
        [[nan], [nan]],
        [
          [1, nan],
          [1, nan],
        ],
        [[nan], [1]],
        [[1], [nan]],
      ])
        assert.equal((await statusOf({ relation, left: () => ({ x: left }), right: () => ({ x: right }) })).status, 'fails', relation)
    const { status } = await statusOf({ left: () => ({ x: [Infinity, 1] }), right: () => ({ x: [Infinity, 2] }) })
    assert.equal(status, 'fails')
    // Squares of the right side overflow.
    const large = await statusOf({ left: () => ({ x: 0.9e155 }), right: () => ({ x: 1e155 }) })
    assert.equal(large.status, 'fails')
    assert.ok(Math.abs(large.error - 0.1) < 1e-12)
  })

  it('keeps memory flat, and says when a claim does not', async () => {
    const before = wasm.bytesInUse()
    await check(wrong, wasm)
    assert.equal(wasm.bytesInUse(), before)
    const kept: Tensor[] = []
    const leaky = simple({
      left: (_, x) => {
        const t = x.from([1, 2, 3], [3])
        t.kept = true
        kept.push(t)
        return { x: sum(t) }
      },
      right: () => ({ x: 6 }),
    })
    const verdict = await check(leaky, wasm)
    assert.equal(verdict.status, 'leaks')
    assert.match(verdict.message!, /^\d+ bytes of device memory were kept/)
    for (const t of kept) t.dispose()
  })

  it('skips what needs a device that is not there', async () => {
    const claim = simple({ needs: ['threads'] })
    assert.equal((await check(claim, reference)).status, 'skipped')
    assert.equal((await check(claim, wasm)).status, 'holds')
  })

  it('refuses a malformed claim in one line', () => {
    const refused = (change: object, message: RegExp): void => {
      assert.throws(
        () => simple(change),
        (error: Error) => error instanceof ClaimError && message.test(error.message) && !error.message.includes('\n'),
      )
    }
    refused({ name: '' }, /'name' must be a text/)
    refused({ left: 3 }, /^claim 'test: simple': 'left' must be a function/)
    refused({ relation: 'almost' }, /'relation' must be one of equal, same bits, at most/)
    refused({ bounds: { float32: 1 } }, /'bounds' must be/)
    const limits = { float32: 1, float64: 1, reason: 'none' }
    for (const bad of [Infinity, Number.NaN, -1, '1'])
      for (const kind of ['float32', 'float64'])
        refused({ bounds: { ...limits, [kind]: bad } }, /'bounds' must be \{ float32, float64, reason \}: two finite numbers from 0/)
    refused({ floor: Infinity }, /'floor' must be a finite number from 0, not Infinity/)
    refused({ floor: Number.NaN }, /'floor' must be a finite number from 0, not NaN/)
    refused({ bound: 3 }, /unknown property 'bound'/)
    refused({ fields: { n: 3 } }, /field 'n' isn't a fast-check arbitrary/)
    refused({ fields: { seed: int(1, 2) } }, /a field can't be called 'seed'/)
    refused({ floor: -1 }, /'floor' must be a finite number from 0, not -1/)
    refused({ needs: 'reference' }, /'needs' must be a list out of reference, threads, plain, relaxed/)
    refused({ needs: ['thread'] }, /'needs' must be a list/)
    refused({ holds: 'no' }, /'holds' must be true or false/)
    refused({ confidence: 0.99 }, /'confidence' must be a text/)
  })
})

describe("rules of one's own", () => {
  const qkv = {
    q: { shape: ['B', 'T', 'H', 'K'], values: 'any' },
    k: { shape: ['B', 'T', 'H', 'K'], values: 'key' },
    v: { shape: ['B', 'T', 'H', 'V'], values: 'any' },
  } as const
  const good = defineRule({
    name: 'leaky-sum',
    inputs: qkv,
    state: { S: ['B', 'H', 'K', 'V'] },
    step: ({ S }, { q, k, v }) => {
      const written = mul(tensorOuter(k, v), 0.5)
      const next = add(affine(S, 0.9), written)
      return { y: readOut(next, q), state: { S: next } }
    },
  })
  const tensorOuter = (k: Tensor, v: Tensor): Tensor => sumRule(row(k), row(k), row(v)).state.S
  const row = (x: Tensor): Tensor => x.view([x.shape[0], 1, ...x.shape.slice(1)])
  const run = async (rule: Parameters<typeof checkRule>[0]): Promise<Verdict[]> => {
    const devices = await Devices.open('reference')
    const verdicts: Verdict[] = []
    for (const claim of familyClaims(checkRule(rule, 'test'))) verdicts.push(await check(claim, devices, { runs: 30 }))
    return verdicts
  }
  const failing = (verdicts: readonly Verdict[]): string[] => verdicts.filter(({ ok }) => !ok).map(({ claim }) => claim)

  it('are caught where a step cuts its gradient', async () => {
    // `view` passes no gradient: the step above is wrong as a specification, though its values are right.
    assert.deepEqual(failing(await run(good)), ['leaky-sum: gradients of step = differences'])
  })

  it('hold when they are right, with their faster form, and equal what they say', async () => {
    const rule = defineRule({
      name: 'my-gated-delta',
      inputs: { ...qkv, beta: { shape: ['B', 'T', 'H'], values: 'rate' }, gate: { shape: ['B', 'T', 'H'], values: 'gate' } },
      state: { S: ['B', 'H', 'K', 'V'] },
      step: ({ S }, { q, k, v, beta, gate }) => {
        const { state } = gatedDeltaRule(reshapeToken(q), reshapeToken(k), reshapeToken(v), reshapeToken(beta), reshapeToken(gate), { S })
        return { y: readOut(state.S, q), state: { S: state.S } }
      },
      run: ({ q, k, v, beta, gate }, state, options) => gatedDeltaRule(q, k, v, beta, gate, state, options),
      forms: ['recurrent', 'chunk'],
      linear: 'v',
      equals: 'gated-delta',
    })
    const verdicts = await run(rule)
    assert.deepEqual(failing(verdicts), [])
    const names = verdicts.map(({ claim }) => claim)
    for (const what of ['chunk = step', 'state carried over a cut', 'linear in v', '= gated-delta, parallel'])
      assert.ok(names.includes(`my-gated-delta: ${what}`), what)
  })

  it('must give all inputs of the rule that they equal', async () => {
    const sum = {
      ...good,
      name: 'my-sum',
      step: ({ S }: Record<string, Tensor>, { q, k, v }: Record<string, Tensor>) => {
        const { state } = sumRule(reshapeToken(q), reshapeToken(k), reshapeToken(v), { S })
        return { y: readOut(state.S, q), state: { S: state.S } }
      },
    }
    assert.throws(
      () => defineRule({ ...sum, equals: 'delta' }),
      /^ClaimError: rule 'my-sum': 'equals' gives delta the inputs q, k, v, and it has q, k, v, beta$/,
    )
    assert.deepEqual(failing(await run({ ...sum, equals: 'sum' })), [])
    const verdicts = await run({ ...sum, equals: { rule: 'delta', inputs: (inputs) => inputs } })
    const compared = verdicts.filter(({ claim }) => claim.includes('= delta'))
    assert.deepEqual(new Set(compared.map(({ status }) => status)), new Set(['throws']))
    assert.match(compared[0].message!, /'equals' gives delta the inputs q, k, v, and it has q, k, v, beta/)
  })

  it('draw a state by what they declare, whatever its name', async () => {
    const named = (values: object) => checkRule({ ...good, state: { A: ['B', 'H', 'K', 'V'], z: ['B', 'H', 'K', 'K'] }, ...values }, 'test')
    const drawn = async (rule: FamilyRule): Promise<Record<string, Float64Array>> => {
      const numbers: Record<string, Float64Array> = {}
      const sizes = { B: 2, H: 2, K: 4, V: 3, initial: true }
      const left = (c: object, x: Context) => {
        for (const [name, { values }] of Object.entries(stateNumbers(rule, { ...c, ...sizes } as never, x)!)) numbers[name] = values
        return { x: 1 }
      }
      const claim = defineClaim({ ...text, name: 'test: draws', fields: {}, left, right: () => ({ x: 1 }) })
      await check(claim, await Devices.open('reference'), { runs: 20 })
      return numbers
    }
    const plain = await drawn(named({}))
    assert.ok(plain.A.some((x) => x < 0) && plain.z.some((x) => x < 0))
    const declared = await drawn(named({ stateValues: { z: 'matrix', A: 'feature' } }))
    assert.ok(declared.A.every((x) => x > 0))
    for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) assert.equal(declared.z[4 * i + j], declared.z[4 * j + i])
  })

  it('are caught when the faster form forgets the state, sees the future, or mixes sequences', async () => {
    const base = {
      name: 'my-sum',
      inputs: qkv,
      state: { S: ['B', 'H', 'K', 'V'] },
      step: ({ S }: Record<string, Tensor>, { q, k, v }: Record<string, Tensor>) => {
        const { state } = sumRule(reshapeToken(q), reshapeToken(k), reshapeToken(v), { S })
        return { y: readOut(state.S, q), state: { S: state.S } }
      },
    } as const
    const forgetful = await run({ ...base, run: ({ q, k, v }) => sumRule(q, k, v) })
    assert.ok(failing(forgetful).includes('my-sum: state carried over a cut'))
    const peeking = await run({
      ...base,
      run: ({ q, k, v }, state, options) => {
        const { y, state: last } = sumRule(q, k, v, state, options)
        return { y: add(y, affine(sum(v, { axis: 1, keepDim: true }), 0.1)), state: last }
      },
    })
    assert.ok(failing(peeking).includes('my-sum: causal, to the bit'))
    assert.ok(failing(peeking).includes('my-sum: no gradient from the future'))
    const mixing = await run({
      ...base,
      run: ({ q, k, v }, state, options) => {
        const { y, state: last } = sumRule(q, k, v, state, options)
        return { y: add(y, affine(sum(y, { axis: 0, keepDim: true }), 0.1)), state: last }
      },
    })
    assert.ok(failing(mixing).includes('my-sum: sequences of a batch are independent'))
  })

  it('are refused in one line when they are malformed', () => {
    const refused = (change: object, message: RegExp): void => {
      assert.throws(
        () => defineRule({ ...good, ...change } as never),
        (error: Error) => error instanceof ClaimError && message.test(error.message) && !error.message.includes('\n'),
      )
    }
    refused({ name: 'two words' }, /'name' must be a word/)
    refused({ name: 'delta' }, /'delta' is taken/)
    refused({ step: undefined }, /'step' must be a function/)
    refused({ inputs: { q: { shape: ['T', 'B'], values: 'any' } } }, /'q' has axes \[T,B\]: B comes first, T second/)
    refused({ inputs: { q: { shape: ['B', 'T', 'X'], values: 'any' } } }, /must be a list of axes out of B T H K V N/)
    refused({ inputs: { q: { shape: ['B', 'T'], values: 'some' } } }, /the values of input 'q' must be one of any, key/)
    refused({ state: { S: ['H', 'K'] } }, /'S' in the state has axes \[H,K\]/)
    refused({ forms: ['chunk'] }, /has 'forms' but no 'run'/)
    refused({ forms: [], run: () => {} }, /'forms' is empty: 'run' would never be checked/)
    refused({ equals: 'gama' }, /'equals' names 'gama'; the rules are sum/)
    refused({ linear: 'w' }, /'linear' names 'w'/)
    refused({ stat: {} }, /unknown property 'stat'/)
    refused({ stateValues: { z: 'feature' } }, /'stateValues' names 'z', which 'state' doesn't list/)
    refused({ stateValues: { S: 'some' } }, /the values of 'S' in the state must be one of any, key/)
    refused({ stateValues: { S: 'matrix' } }, /'S' in the state holds matrices and has axes \[B,H,K,V\]: the last two must be the same/)
    refused({ inputs: { ...qkv, M: { shape: ['B', 'T', 'K'], values: 'matrix' } } }, /input 'M' holds matrices and has axes \[B,T,K\]/)
  })
})

/** A token as a sequence of one. */
const reshapeToken = (x: Tensor): Tensor => reshape(x, [x.shape[0], 1, ...x.shape.slice(1)])
