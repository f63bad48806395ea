/** Implementations by others in place of our rules: right ones, faults planted in one, what isn't offered, and what answers badly. */
import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { check, type Status, type Verdict } from '../../claims/check.ts'
import type { Claim } from '../../claims/claim.ts'
import { conformanceClaims } from '../../claims/conformance.ts'
import { Devices } from '../../claims/context.ts'
import { type Ability, type Adapter, type Arrays, abilities, Implementation, type Numbers } from '../../claims/implementation.ts'
import { claims } from '../../claims/list.ts'
import { adapterOf } from '../../claims/own.ts'
import { referenceDevice, rules } from '../../engine/index.ts'
import { readSafetensors, rounded } from '../../nn/safetensors.ts'
import { type Result, Workplace } from '../cli/command.ts'

const examples = fileURLToPath(new URL('../../../examples/conformance/', import.meta.url))
const example = async (file: string): Promise<Adapter> => (await import(new URL(file, `file://${examples}`).href)).default

const named = (name: string): Claim => claims.find((claim) => claim.name === name)!
const ask = (adapter: Adapter, claim: Claim, runs = 100): Promise<Verdict> =>
  check(claim, Devices.around(new Implementation(adapter)), { runs })

/** What can be planted in the gated delta rule. */
type Fault = 'decay after the write' | 'beta twice' | 'state transposed' | 'scale missing' | 'last token lost' | 'float16 inside'

/** The gated delta rule, by heads and tokens, with a fault or none. */
function gatedDelta(fault?: Fault): Adapter {
  const kept = (x: number): number => (fault === 'float16 inside' ? rounded(Float32Array.of(x), 'F16')[0] : x)
  return {
    name: 'planted',
    rules: { 'gated-delta': { options: ['initial', 'final', 'scale'] } },
    forward(_, { q, k, v, beta, gate, S0 }, { scale }) {
      const [[B, T, H, K], V] = [q.shape, v.shape[3]]
      const y = new Float64Array(B * T * H * V)
      const S = Float64Array.from(S0?.data ?? new Float64Array(B * H * K * V), kept)
      for (let head = 0; head < B * H; head++)
        for (let t = 0; t < (fault === 'last token lost' ? T - 1 : T); t++) {
          const at = (Math.floor(head / H) * T + t) * H + (head % H)
          const [decay, rate] = [Math.exp(gate.data[at]), beta.data[at] * (fault === 'beta twice' ? beta.data[at] : 1)]
          const [before, after] = fault === 'decay after the write' ? [1, decay] : [decay, 1]
          for (let j = 0; j < V; j++) {
            const cell = (i: number): number => (head * K + i) * V + j
            const over = (f: (i: number) => number): number => Array.from({ length: K }, (_, i) => f(i)).reduce((a, b) => a + b)
            const held = over((i) => before * S[cell(i)] * k.data[at * K + i])
            for (let i = 0; i < K; i++)
              S[cell(i)] = kept(after * (before * S[cell(i)] + rate * k.data[at * K + i] * (v.data[at * V + j] - held)))
            y[at * V + j] = (fault === 'scale missing' ? 1 : scale) * over((i) => S[cell(i)] * q.data[at * K + i])
          }
        }
      const turned = S.map((_, at) => S[at - (at % (K * V)) + (at % V) * K + Math.floor((at % (K * V)) / V)])
      return {
        y: { shape: v.shape, data: y },
        S: { shape: [B, H, K, V], data: fault === 'state transposed' && K === V ? turned : S },
      }
    },
  }
}

/** Some rules of a right implementation, which has everything. */
const right = (...names: string[]): Adapter => {
  const own = adapterOf(referenceDevice())
  return { ...own, name: 'right', rules: Object.fromEntries(names.map((name) => [name, own.rules[name]])) }
}

const allOf = (adapter: Adapter): Claim[] => {
  const implementation = new Implementation(adapter)
  return [...claims, ...conformanceClaims(implementation)].filter((claim) => implementation.unasked(claim) === undefined)
}

describe('an implementation by others', () => {
  it('that is right and has everything holds to all claims of its rules', async () => {
    const adapter = right('gated-delta', 'linear-attention')
    for (const claim of allOf(adapter)) {
      const { status, message, error, lacks } = await ask(adapter, claim, 2)
      assert.equal(status, 'holds', `${claim.name}: ${message}`)
      assert.ok(error <= 1e-10)
      // Where a claim ties it to another rule, that one is ours.
      for (const lack of lacks ?? []) assert.match(lack, /^the rule /)
    }
  })

  it('in twenty lines of JavaScript, as the example has it, holds to what it offers', async () => {
    const adapter = await example('delta.mjs')
    const count = new Map<Status, number>()
    for (const claim of allOf(adapter)) {
      const { status, message } = await ask(adapter, claim, 4)
      assert.ok(status === 'holds' || status === 'not offered', `${claim.name}: ${status} ${message}`)
      count.set(status, (count.get(status) ?? 0) + 1)
      // It has one form, and neither gradients nor flags.
      if (/gradients of|gradient from|parallel|chunk|padding|packed|Infinity/.test(claim.name))
        assert.equal(status, 'not offered', claim.name)
    }
    assert.deepEqual(Object.fromEntries(count), { holds: 42, 'not offered': 20 })
  })

  it('may write into what it is given, and give the same memory again', async () => {
    const good = gatedDelta()
    const memory = new Map<string, Float64Array>()
    const careless: Adapter = {
      ...good,
      async forward(...call) {
        const answer = await good.forward(...call)
        for (const { data } of Object.values(call[1])) (data as Float64Array).fill(NaN)
        return Object.fromEntries(
          Object.entries(answer).map(([name, { shape, data }]) => {
            const kept = memory.get(`${name} ${data.length}`) ?? new Float64Array(data.length)
            memory.set(`${name} ${data.length}`, kept)
            kept.set(data)
            return [name, { shape, data: kept }]
          }),
        )
      },
    }
    for (const name of ['sequences of a batch are independent', 'state carried over a cut'])
      assert.equal((await ask(careless, named(`gated-delta: ${name}`), 20)).status, 'holds')
  })

  it('may answer in shared memory, large or small, and by instances of its own classes', async () => {
    const good = gatedDelta()
    class Own {
      private readonly numbers: Numbers
      constructor(numbers: Numbers) {
        this.numbers = numbers
      }
      get shape(): readonly number[] {
        return Int32Array.from(this.numbers.shape) as unknown as readonly number[]
      }
      get data(): ArrayLike<number> {
        return this.numbers.data
      }
      read = (): void => {}
    }
    const memory = new Float64Array(new SharedArrayBuffer(2 ** 29), 0, 1000)
    const shared: Adapter = {
      ...good,
      async forward(...call) {
        let at = 0
        const answer = Object.entries(await good.forward(...call)).map(([name, { shape, data }]) => {
          memory.set(data, at)
          at += data.length
          return [name, new Own({ shape, data: memory.subarray(at - data.length, at) })]
        })
        return Object.fromEntries(answer)
      },
    }
    for (const name of ['sequences of a batch are independent', 'state carried over a cut'])
      assert.equal((await ask(shared, named(`gated-delta: ${name}`), 20)).status, 'holds')
  })

  it('is asked by one claim after the other', async () => {
    const devices = Devices.around(new Implementation(gatedDelta()))
    const chosen = ['recurrent = step', 'causal, to the bit', 'padding is skipped', 'state carried over a cut']
    const found = await Promise.all(chosen.map((name) => check(named(`gated-delta: ${name}`), devices, { runs: 5 })))
    assert.deepEqual(
      found.map(({ status, message }) => [status, message]),
      [
        ['holds', undefined],
        ['holds', undefined],
        ['not offered', 'a mask'],
        ['holds', undefined],
      ],
    )
  })

  it('may choose its sizes: as many cases are compared as there are', async () => {
    const good = gatedDelta()
    const choosing = (takes: (K: number, V: number) => boolean): Adapter => ({
      ...good,
      forward(rule, inputs, options) {
        const [K, V] = [inputs.q.shape[3], inputs.v.shape[3]]
        if (!takes(K, V)) throw Object.assign(new Error('other widths'), { name: 'NotOffered' })
        return good.forward(rule, inputs, options)
      },
    })
    const claim = named('gated-delta: recurrent = step')
    // One case in 36 and fewer, of which 100 are skipped for each that is asked for.
    const seeds = await Promise.all(
      [1, 2, 3].map((seed) => check(claim, Devices.around(new Implementation(choosing((K, V) => K === 6 && V === 6))), { runs: 2, seed })),
    )
    for (const { status, runs, lacks } of seeds) assert.deepEqual([status, runs > 0, lacks], ['holds', true, ['other widths']])
    const { status, message, runs } = await ask(
      choosing((K) => K % 16 === 0),
      claim,
      2,
    )
    assert.deepEqual([status, message, runs], ['not offered', 'other widths', 0])
    let calls = 0
    const { status: rest, runs: some } = await ask(
      choosing(() => calls++ < 3),
      claim,
      2,
    )
    assert.ok(rest === 'holds' && some >= 1, `${rest}, ${some}`)
  })

  it('is shown what it was given, where a claim changes what it draws', async () => {
    const good = gatedDelta()
    const clamping: Adapter = {
      ...good,
      rules: { 'gated-delta': { options: ['initial', 'final', 'scale', 'forget'] } },
      forward: (rule, { gate, ...inputs }, options) =>
        good.forward(rule, { ...inputs, gate: { ...gate, data: Float64Array.from(gate.data, (x) => Math.max(x, -2)) } }, options),
    }
    const { status, counterexample } = await ask(clamping, named('gated-delta: a gate of -Infinity is exact'))
    assert.equal(status, 'fails')
    assert.match(counterexample!.lines.join('\n'), /^gate \[[\d,]+\] = .*-Infinity/m)
  })

  const faults: Fault[] = ['decay after the write', 'beta twice', 'state transposed', 'scale missing', 'last token lost', 'float16 inside']
  for (const fault of [undefined, ...faults])
    it(fault === undefined ? 'without a planted fault holds' : `with a fault is caught in at most 4 tokens: ${fault}`, async () => {
      const { status, error, counterexample } = await ask(gatedDelta(fault), named('gated-delta: recurrent = step'))
      if (fault === undefined) return assert.equal(status, 'holds')
      assert.equal(status, 'fails')
      assert.ok(error > 1e-5 && (counterexample!.case as unknown as { T: number }).T <= 4, JSON.stringify(counterexample!.case))
      const { calls, left, right } = counterexample!.evidence!
      assert.equal(calls.length, 1)
      assert.deepEqual(calls[0].answer, left)
      // What it should have answered is what the other side has.
      for (const [name, { shape, data }] of Object.entries(calls[0].expected)) {
        assert.deepEqual(shape, right[name].shape)
        Array.from(data).forEach((x, i) => void assert.ok(Math.abs(x - right[name].data[i]) < 1e-6))
      }
    })

  it('with a wrong gradient is caught, and with one from the future', async () => {
    const own = right('delta')
    const wrong = (change: (answer: Record<string, Numbers>) => void): Adapter => ({
      ...own,
      async backward(...call) {
        const answer = { ...(await own.backward!(...call)) }
        change(answer)
        return answer
      },
    })
    const claim = named('delta: gradients of chunk = autograd of step')
    const halved = wrong((answer) => {
      answer.dbeta = { shape: answer.dbeta.shape, data: Float64Array.from(answer.dbeta.data, (x) => x / 2) }
    })
    assert.equal((await ask(halved, claim)).status, 'fails')
    const leaking = wrong((answer) => {
      answer.dv = { shape: answer.dv.shape, data: Float64Array.from(answer.dv.data, (x) => x + 1e-3) }
    })
    assert.equal((await ask(leaking, named('delta: no gradient from the future'))).status, 'fails')
  })

  it("isn't believed to have what it doesn't offer", async () => {
    const own = right('gated-delta')
    const without = (...options: Ability[]): Adapter => ({
      ...own,
      async forward(...call) {
        const { y, S } = await own.forward(...call)
        return (options.includes('final') ? { y } : { y, S }) as Arrays
      },
      rules: {
        'gated-delta': {
          forms: ['recurrent', 'chunk'],
          options: (Object.keys(abilities) as Ability[]).filter((o) => !options.includes(o)),
        },
      },
    })
    const expect = async (lacking: Ability[], name: string, status: Status, lacks: string[]): Promise<void> => {
      const verdict = await ask(without(...lacking), named(`gated-delta: ${name}`), 5)
      assert.equal(verdict.status, status, `${name}: ${verdict.message}`)
      assert.deepEqual([...(verdict.lacks ?? [])].sort(), lacks)
    }
    await expect([], 'parallel = step', 'not offered', ['the form parallel'])
    await expect(['initial'], 'recurrent = step', 'holds', ['an initial state'])
    // The second piece may be ours.
    await expect(['initial', 'scale'], 'state carried over a cut', 'holds', ['a scale', 'an initial state'])
    await expect(['final'], 'device = reference', 'holds', ['a last state'])
    await expect(['final'], 'sequences of a batch are independent', 'holds', ['a last state'])
    await expect(['final'], 'heads are independent', 'holds', ['a last state'])
    await expect(['final', 'initial'], 'state carried over a cut', 'not offered', ['a last state', 'an initial state'])
    await expect(['backward'], 'gradients of chunk = autograd of step', 'not offered', ['a backward pass'])
    await expect(['backward'], 'device = reference', 'holds', ['a backward pass'])
    await expect(['chunk'], 'any chunk length', 'not offered', ['a chunk length'])
    await expect(['mask'], 'padding is skipped', 'not offered', ['a mask'])
    await expect(['reset'], 'packed sequences stay apart', 'not offered', ['resets'])
    await expect(['forget'], 'a gate of -Infinity is exact', 'not offered', ['gates of -Infinity'])
    assert.ok(allOf(without()).some(({ name }) => name.includes('value heads')))
    assert.ok(!allOf(without('heads')).some(({ name }) => name.includes('value heads')))
    const refusing: Adapter = { ...own, forward: () => Promise.reject(Object.assign(new Error('odd sizes'), { name: 'NotOffered' })) }
    const { status, message } = await ask(refusing, named('gated-delta: chunk = step'))
    assert.deepEqual([status, message], ['not offered', 'odd sizes'])
  })

  it('has the tolerance of its dtype, in which it is asked', async () => {
    const own = right('delta')
    const halves = (values: ArrayLike<number>): Float32Array => rounded(Float32Array.from(values), 'F16')
    const half: Adapter = {
      ...own,
      dtype: 'float16',
      async forward(rule, inputs, options) {
        for (const { data } of Object.values(inputs)) assert.deepEqual(Float32Array.from(data), halves(data))
        const answer: Arrays = await own.forward(rule, inputs, options)
        return Object.fromEntries(Object.entries(answer).map(([name, { shape, data }]) => [name, { shape, data: halves(data) }]))
      },
    }
    const claim = named('delta: recurrent = step')
    const { status, error, bound } = await ask(half, claim, 20)
    assert.deepEqual([status, bound], ['holds', 2 ** -8])
    assert.ok(error > 1e-5)
    const strict = await check(claim, Devices.around(new Implementation(half, 1e-6)), { runs: 20 })
    assert.deepEqual([strict.status, strict.bound], ['fails', 1e-6])
  })

  it('is told what is wrong with what it says of itself, and with its answers', async () => {
    const good = gatedDelta()
    const saying =
      (change: object): (() => Implementation) =>
      () =>
        new Implementation({ ...good, ...change } as Adapter)
    assert.throws(saying({ name: 'a\nb' }), /'name' must be a text of one line/)
    assert.throws(saying({ dtype: 'float8' }), /'dtype' must be one of float64, float32, float16, bfloat16, not 'float8'/)
    assert.throws(saying({ forward: 1 }), /'forward' must be a function/)
    assert.throws(saying({ rules: {} }), /of at least one rule/)
    assert.throws(saying({ rules: { dleta: {} } }), /'rules' names 'dleta'; the rules are sum, /)
    assert.throws(
      saying({ rules: { delta: { forms: ['fast'] } } }),
      /the forms of 'delta' must be a list out of recurrent, parallel, chunk/,
    )
    assert.throws(saying({ rules: { delta: { forms: [] } } }), /the forms of 'delta' are empty/)
    assert.throws(saying({ rules: { delta: { option: ['final'] } } }), /'delta' has 'option', which is neither 'forms' nor 'options'/)
    assert.throws(saying({ rules: { delta: { options: ['backward'] } } }), /there is no function 'backward'/)

    const wrong = await ask(good, { ...named('gated-delta: recurrent = step'), right: () => ({}) } as Claim)
    assert.deepEqual([wrong.status, wrong.message?.slice(0, 16)], ['throws', 'the sides differ'])

    const answering = async (change: (answer: Record<string, Numbers>) => unknown): Promise<string> => {
      const forward: Adapter['forward'] = async (...call) => change({ ...(await good.forward(...call)) }) as Arrays
      const { status, message } = await ask({ ...good, forward }, named('gated-delta: recurrent = step'))
      assert.equal(status, 'throws')
      return message!
    }
    assert.equal(await answering(() => null), 'planted answers null, not { y, ... }')
    assert.equal(await answering(({ y }) => ({ y })), 'planted answers without S')
    assert.equal(await answering((all) => ({ ...all, z: all.y })), "planted answers 'z', which isn't asked for (y, S)")
    assert.equal(await answering(({ S }) => ({ y: [1], S })), "planted answers y that isn't { shape, data }")
    assert.equal(await answering(({ y, S }) => ({ y: { ...y, shape: [1] }, S })), 'planted answers y [1], expected [1,1,1,1]')
    assert.equal(await answering(({ y, S }) => ({ y: { ...y, data: [1, 2] }, S })), 'planted answers y [1,1,1,1] with 2 numbers')
    assert.equal(await answering(({ y, S }) => ({ y: { ...y, data: ['1'] }, S })), 'planted answers y of strings, not of numbers')
    assert.equal(await answering(({ y, S }) => ({ y: { ...y, data: new Array(1) }, S })), 'planted answers y of undefineds, not of numbers')
  })

  it('is asked by the sides of a claim for no rules but those that the claim names', async () => {
    const implementation = new Implementation({ ...adapterOf(referenceDevice()), name: 'all' })
    const devices = Devices.around(implementation)
    const family = new Set(Object.values(rules).map(({ title }) => title))
    for (const claim of claims.filter((claim) => implementation.unasked(claim) === undefined && !family.has(claim.section as never))) {
      const { status, message } = await check(claim, devices, { runs: 1 })
      if (status === 'not offered') assert.match(message!, /minibatch/)
      else assert.equal(status, 'holds', `${claim.name}: ${message}`)
      for (const { rule } of implementation.calls) assert.ok(claim.rules!.includes(rule), `${claim.name}: ${rule}`)
    }
    // One that names none asks nothing.
    const all = Object.keys(rules) as Claim['rules']
    const silent = ({ name, rules = [], holds }: Claim): boolean =>
      rules.length === 0 && holds !== false && /^(memory|reductions|learning|attention|features):/.test(name)
    for (const claim of claims.filter(silent)) {
      const { status } = await check({ ...claim, rules: all }, devices, { path: '0' })
      assert.equal(status, 'not offered', claim.name)
    }
  })
})

/** Answers right about one rule, and about each of the others in a way of its own badly. */
const program = `import { readSync, writeSync } from 'node:fs'
import { referenceDevice } from '${new URL('../../engine/index.js', import.meta.url)}'
import { adapterOf } from '${new URL('../../claims/index.js', import.meta.url)}'
import { entriesOf } from '${new URL('../../claims/adapters.js', import.meta.url)}'
import { readSafetensors, writeSafetensors } from '${new URL('../../nn/index.js', import.meta.url)}'

const own = adapterOf(referenceDevice())
const read = (n) => {
  const bytes = new Uint8Array(n)
  for (let at = 0; at < n; ) {
    const more = readSync(0, bytes, at, n - at)
    if (more === 0) process.exit()
    at += more
  }
  return bytes
}
const write = (message, part = message.length) => {
  const length = new DataView(new ArrayBuffer(8))
  length.setBigUint64(0, BigInt(message.length), true)
  writeSync(1, Buffer.concat([new Uint8Array(length.buffer), message.subarray(0, part)]))
}
const names = { sum: 'dies', mamba2: 'hangs', gla: 'answers NaN', delta: 'another shape', retnet: 'half a message', peng: 'prints', kda: 'is right' }
const rules = Object.fromEntries(Object.keys(names).map((rule) => [rule, { options: ['initial', 'final', 'scale'] }]))
for (;;) {
  const { tensors, metadata } = readSafetensors(read(Number(new DataView(read(8).buffer).getBigUint64(0, true))))
  const { ask, rule, form, options } = metadata
  if (ask === 'offer') {
    write(writeSafetensors([], { name: 'bad', dtype: 'float64', rules: JSON.stringify(rules) }))
    continue
  }
  const inputs = Object.fromEntries([...tensors].map(([name, { shape, data }]) => [name, { shape, data }]))
  const answer = { ...(await own[ask](rule, inputs, { form, ...JSON.parse(options) })) }
  if (names[rule] === 'answers NaN') answer.y = { shape: answer.y.shape, data: new Float64Array(answer.y.data.length).fill(NaN) }
  if (names[rule] === 'another shape') answer.y.shape = [...answer.y.shape].reverse()
  const message = writeSafetensors(entriesOf(answer, 'float64'), {})
  if (names[rule] === 'dies') {
    writeSync(2, 'out of luck\\n')
    process.exit(3)
  }
  if (names[rule] === 'hangs') await new Promise((go) => setTimeout(go, 1e6))
  if (names[rule] === 'prints') writeSync(1, 'Hello, world!\\n')
  if (names[rule] === 'half a message') {
    write(message, 100)
    process.exit(0)
  }
  write(message)
}
`

describe('fastweights verify --implementation', () => {
  const place = new Workplace()
  after(() => place.remove())
  before(() => place.write('bad.mjs', program))
  const bad = '"$0" "$@" --implementation "node bad.mjs"'

  it('says of each claim in a line what went wrong, and goes on with a fresh process', async () => {
    const words = ['verify', '* recurrent = step', '--runs', '5', '--case-limit', '2', '--json', 'results.json']
    const { code, stdout, stderr } = await place.run(words, { shell: `exec ${bad}` })
    assert.deepEqual([code, stderr], [1, ''])
    assert.match(
      stdout,
      /^bad: sum, mamba2, gla, delta, retnet, peng, kda; float64, bound 1\.0e-10\nnot asked: \d+ about rules that it lacks\n/,
    )
    const said = (status: string, name: string, message: string): void => {
      const [, after] = stdout.split(new RegExp(`^${status} +${name}: recurrent = step .*\n`, 'm'))
      assert.ok(after?.startsWith(`  implementation: ${message}`), `${name}: ${after}\n${stdout}`)
    }
    said('THROWS', 'sum', 'node bad.mjs: ended (exit code 3); on standard error: out of luck (case: ')
    said('STUCK', 'mamba2', "node bad.mjs: didn't answer in 2 s (case: ")
    said('FAILS', 'gla', "y can't be compared: NaN on the left, ")
    said('THROWS', 'delta', 'bad answers y [')
    said('THROWS', 'retnet', 'node bad.mjs: ended (exit code 0), with 100 of ')
    said(
      'THROWS',
      'peng',
      "node bad.mjs: answers what is no message: 'Hello, w' can't be its length (does it print to standard output?) (case: ",
    )
    assert.match(stdout, /^ok +kda: recurrent = step +5 runs +error 0 \/ 1\.0e-10 +\S+ s$/m)
    assert.match(stdout, /^7 claims, 5 cases each: 1 hold, 6 FAILED; largest error 0; \d+ s$/m)

    // The counterexample as a file, and once more.
    const [, file] = /^ {2}in numbers: (\S+)$/m.exec(stdout)!
    assert.equal(file, 'counterexamples/gla-recurrent-step.safetensors')
    const { tensors, metadata } = readSafetensors(place.read(file))
    assert.deepEqual(JSON.parse(metadata.call1), { ask: 'forward', rule: 'gla', form: 'recurrent', scale: 1 })
    assert.deepEqual(tensors.get('call1.out.y')!.data, Float64Array.of(NaN))
    assert.deepEqual(tensors.get('call1.expected.y')!.data, tensors.get('right.y')!.data)
    for (const name of ['call1.in.q', 'drawn.q', 'left.y', 'call1.out.S']) assert.ok(tensors.has(name), name)
    const { implementation, claims: found } = JSON.parse(place.read('results.json').toString())
    assert.deepEqual([implementation.name, implementation.dtype, implementation.rules.length], ['bad', 'float64', 7])
    const { counterexample } = found.find(({ name }: Claim) => name.startsWith('gla')).verdicts[0]
    assert.deepEqual([counterexample.file, counterexample.evidence], [file, undefined])
    assert.equal(metadata.again, /^ {2}again: (.*gla.*)$/m.exec(stdout)![1])
    const again: Result = await place.run([], { shell: metadata.again.replace('fastweights', 'exec "$0" "$@"') })
    assert.equal(again.code, 1)
    assert.match(again.stdout, /^FAILS +gla: recurrent = step +1 runs/m)
  })

  it('refuses what is no implementation, in one line', async () => {
    place.write('none.mjs', 'export const adapter = 1')
    place.write('a b.mjs', 'export default 1')
    place.write('text.mjs', 'export default { name: "x", forward() {}, rules: { dleta: {} } }')
    await place.together(async (run) => {
      const refused = async (what: string, message: RegExp, code = 1, more: readonly string[] = []): Promise<void> => {
        const result = await run(['verify', 'delta', '--implementation', what, ...more])
        assert.match(result.stderr, message)
        assert.deepEqual([result.code, result.stderr.trimEnd().split('\n').length], [code, 1], result.stderr)
      }
      await refused(
        'onnxruntime',
        /^fastweights: onnxruntime: the package onnxruntime-node isn't installed here: npm install onnxruntime-node\n$/,
      )
      await refused('absent.mjs', /^fastweights: absent\.mjs: no such file\n$/)
      await refused('text.mjs', /^fastweights: text\.mjs: its default export: 'rules' names 'dleta'; the rules are /)
      await refused('none.mjs', /^fastweights: none\.mjs: it has no default export, which must be the adapter: /)
      await refused('a b.mjs', /^fastweights: a b\.mjs: its default export: 'name' must be a text of one line\n$/)
      await refused('exit 7', /^fastweights: exit 7: ended \(exit code 7\)\n$/)
      await refused('x.mjs', /^fastweights: --device: means nothing for an implementation by others\n$/, 2, ['--device', 'wasm'])
      await refused('x.mjs', /^fastweights: --implementation: it has rules of this package, and \.\/mine\.mjs brings others/, 2, [
        './mine.mjs',
      ])
      await refused('x.mjs', /^fastweights: can't make the folder text\.txt\/x: /, 1, ['--counterexamples', 'text.txt/x'])
    })
  })
})
