/** `fastweights verify` in processes of its own: choosing claims, files good and bad, results as text, JSON and a page. */
import assert from 'node:assert/strict'
import { claims } from '../../claims/index.ts'
import { ended, type Result, Workplace, withoutDriver } from '../cli/command.ts'
import { gpuIsSoftware, webgpu } from '../helpers.ts'

const claimFile = `import { defineClaim, int } from 'fastweights/claims'
const text = { section: 'mine', statement: 'A statement.', equation: 'x = y', source: 'me' }
const claim = (name, left, more) => defineClaim({ ...text, name, fields: { n: int(1, 9) }, left, right: (c) => ({ x: c.n }), ...more })
`

/** The gated delta rule, by its step in composed ops: a user's file as docs/claims.md shows it. */
const ruleFile = `import { add, exp, gatedDeltaRule, mul, outer, readOut, reshape, sub } from 'fastweights'
import { defineRule } from 'fastweights/claims'

const tokens = (...axes) => ['B', 'T', 'H', ...axes]
const spread = (x, axes) => reshape(x, [...x.shape, ...Array(axes).fill(1)])

export const rules = [
  defineRule({
    name: 'my-rule',
    inputs: {
      q: { shape: tokens('K'), values: 'any' },
      k: { shape: tokens('K'), values: 'key' },
      v: { shape: tokens('V'), values: 'any' },
      beta: { shape: tokens(), values: 'rate' },
      gate: { shape: tokens(), values: 'gate' },
    },
    state: { S: ['B', 'H', 'K', 'V'] },
    step({ S }, { q, k, v, beta, gate }) {
      const faded = mul(S, spread(exp(gate), 2))
      const next = add(faded, outer(k, mul(sub(v, readOut(faded, k)), spread(beta, 1))))
      return { y: readOut(next, q), state: { S: next } }
    },
    equals: 'gated-delta',
  }),
]
`

describe('fastweights verify', () => {
  const place = new Workplace()
  /** For what isn't about processes: it checks claims in processes of its own all the same. */
  let server: ReturnType<Workplace['server']>
  before(() => {
    server = place.server()
  })
  after(place.remove)
  /** Runs the command that a failure says shows it again, as a shell takes it. */
  const again = (stdout: string): Promise<Result> => {
    const [, words] = /^ {2}again: fastweights (.*)$/m.exec(stdout)!
    return place.run([], { shell: `exec "$0" "$@" ${words}` })
  }
  place.write(
    'mine.mjs',
    `${claimFile}
export const claims = [
  claim('mine: right', (c) => ({ x: c.n })),
  claim('mine: wrong', (c) => ({ x: Math.min(c.n, 4) })),
  claim('mine: false', (c) => ({ x: -c.n }), { holds: false }),
]`,
  )

  it('lists the claims', async () => {
    const out = await place.succeed('verify --list')
    assert.match(out, /^Delta rule\n {2}delta: recurrent = step$/m)
    assert.match(out, /false: delta is sum for any keys \(false\)/)
    const [, count] = /(\d+) claims\n$/.exec(out)!
    assert.ok(Number(count) > 300)
  })

  it('checks what a part of the name, a glob or a whole name chooses, on both devices', async () => {
    const out = await place.succeed(['verify', 'delta: any chunk', 'memory: the ?a*', 'false: delta ignores order', '--runs', '20'])
    assert.match(
      out,
      /^ok +delta: any chunk length +\d+ runs +reference \S+ \/ 1\.0e-10 +wasm \S+ \/ 1\.0e-5( +webgpu \S+ \/ 1\.0e-5)? +\S+ s$/m,
    )
    assert.match(out, /^ok +memory: the last write reads back/m)
    assert.match(out, /^ok +memory: the same key overwrites/m)
    assert.match(out, /^refuted +false: delta ignores order/m)
    assert.match(
      out,
      /^8 claims, 20 cases each: 7 hold, 1 false one refuted; largest error reference \S+, wasm \S+(, webgpu \S+)?; (\d+ min )?\d+ s$/m,
    )
  })

  it('refutes false claims whatever the runs, and says by how many cases', async () => {
    const wrong = claims.filter(({ holds }) => holds === false).length
    for (const runs of [1, 5]) {
      const out = await server.succeed(['verify', 'false: *', 'sum: chunk = step', '--runs', String(runs), '--seed', String(runs)])
      assert.match(out, new RegExp(`^${wrong + 1} claims, ${runs} cases? each: 1 hold, ${wrong} false ones refuted`, 'm'))
      assert.equal(out.match(/^refuted +false: .+ \d+ cases? +reference/gm)!.length, wrong)
    }
    place.write('holds.mjs', `${claimFile}export const claims = [claim('mine: not false', (c) => ({ x: c.n }), { holds: false })]`)
    const { code, stdout } = await server.run('verify holds.mjs --runs 5 --device reference')
    assert.equal(code, 1)
    assert.match(stdout, /^ {2}reference: no counterexample among 1000 cases, but the claim should be false$/m)
    assert.match(stdout, /^ {2}again: .* --seed 1 --runs 5$/m)
    assert.match((await server.succeed('verify --help')).replace(/\s+/g, ' '), /a false one goes on until it is refuted, to 1,000 at least/)
  })

  it('fails where nothing is compared', async () => {
    const { code, stdout, stderr } = await server.run(['verify', 'sum: threads*', '--device', 'reference'])
    assert.equal(code, 1)
    assert.match(stdout, /^skipped +sum: threads change nothing/m)
    assert.match(stderr, /^fastweights: nothing was compared: reference has nothing to compare with for what was chosen .*\n$/)
    place.write(
      'nothing.mjs',
      `${claimFile}
const both = (name, side) => claim(name, side, { right: side })
export const claims = [
  both('mine: shapes', (c, x) => ({ x: x.from([1], [1]) })),
  claim('mine: other shapes', (c, x) => ({ x: x.from([1, 2], [2, 1]) }), { right: (c, x) => ({ x: x.from([1, 2], [2]) }) }),
  both('mine: empty', (c, x) => ({ x: x.from([], [0]) })),
  both('mine: none', () => ({})),
  both('mine: NaN', () => ({ x: NaN })),
]`,
    )
    const { stdout: out, code: failed } = await server.run('verify nothing.mjs --device wasm --runs 3')
    assert.equal(failed, 1)
    assert.match(out, /^ok +mine: shapes/m)
    for (const line of [
      "wasm: the sides differ in what 'x' is: left is float32 [2,1], right float32 [2]",
      "wasm: 'x' is empty on both sides: nothing is compared (case: n ",
      'wasm: the sides have no results: return { name: tensor, ... }',
      "wasm: x can't be compared: NaN on the left, NaN on the right",
    ])
      assert.ok(out.includes(`\n  ${line}`), `${line}\n${out}`)
    assert.match(out, /^5 claims, 3 cases each: 1 hold, 4 FAILED/m)
  })

  it('checks on webgpu, where it is asked for, and skips what compares with builds for the CPU', async function () {
    await webgpu(this)
    const out = await place.succeed([
      'verify',
      'sum: device = reference',
      'sum: threads*',
      'false: delta ignores*',
      '--device',
      'webgpu',
      '--runs',
      '20',
      // A GPU computed by the CPU compiles for seconds in the first case, and on a busy machine for longer than a case may take.
      '--case-limit',
      '100',
    ])
    assert.match(out, /^ok +sum: device = reference +20 runs +webgpu \S+ \/ 1\.0e-5 +\S+ s$/m)
    assert.match(out, /^skipped +sum: threads change nothing/m)
    assert.match(out, /^refuted +false: delta ignores order/m)
    assert.match(out, /^3 claims, 20 cases each: 1 hold, 1 false one refuted, 1 skipped .*; largest error webgpu \S+; (\d+ min )?\d+ s$/m)
  })

  it('auto takes wasm where every adapter computes on the CPU, or there is none', async () => {
    const out = await place.succeed(['verify', 'delta: chunk = step', '--device', 'auto', '--runs', '5'])
    assert.match(out, gpuIsSoftware ? /^auto: wasm .*the only adapter computes on the CPU.*\n/ : /^auto: (wasm|webgpu) .+\n/)
    if (gpuIsSoftware) assert.match(out, /^1 claim, 5 cases: 1 hold; largest error wasm /m)
    if (process.platform !== 'linux') return
    const without = await place.succeed(['verify', 'delta: chunk = step', '--device', 'auto', '--runs', '5'], withoutDriver)
    assert.match(without, /^auto: wasm .*, because of webgpu: no adapter: missing: .*a Vulkan driver .*\n/)
    assert.match(without, /^1 claim, 5 cases: 1 hold; largest error wasm /m)
  })

  it('fails with the smallest counterexample and the command that shows it again', async () => {
    const { code, stdout } = await server.run('verify mine.mjs --device reference --runs 50 --seed 3')
    assert.equal(code, 1)
    assert.match(stdout, /^ok +mine: right/m)
    assert.match(stdout, /^refuted +mine: false/m)
    assert.match(stdout, /^FAILS +mine: wrong/m)
    assert.match(
      stdout,
      /^ {2}reference: x differs \(error \S+, bound 1e-10\), most at x: 4 on the left, 5 on the right\n {4}n 5, look ones, seed 0$/m,
    )
    const repeated = await again(stdout)
    assert.equal(repeated.code, 1)
    assert.match(repeated.stdout, /n 5, look ones, seed 0/)
    assert.match(repeated.stdout, /^1 claim, 1 case: 0 hold, 1 FAILED/m)
  })

  it('replays one case: a false claim that it does not refute fails, and there may be no such case', async () => {
    place.write(
      'replay.mjs',
      `${claimFile}export const claims = [claim('mine: really false', (c) => ({ x: Math.min(c.n, 4) }), { holds: false }),
  claim('mine: not false', (c) => ({ x: c.n }), { holds: false })]`,
    )
    const { stdout } = await server.run('verify replay.mjs --json - --device reference')
    const [really] = JSON.parse(stdout).claims
    const { path } = really.verdicts[0].counterexample
    assert.match(
      await server.succeed(['verify', 'replay.mjs', 'mine: really false', '--path', path]),
      /^1 claim, 1 case: 0 hold, 1 false one/m,
    )
    const { code, stdout: out } = await server.run(['verify', 'replay.mjs', 'mine: not false', '--path', path, '--device', 'reference'])
    assert.equal(code, 1)
    assert.match(out, /^ {2}reference: this case is no counterexample, but the claim should be false$/m)
    assert.match(
      out,
      new RegExp(`^ {2}again: fastweights verify replay.mjs 'mine: not false' --device reference --seed 1 --path ${path}$`, 'm'),
    )
    const none = await server.run(['verify', 'replay.mjs', 'mine: really false', '--path', '0:999'])
    assert.deepEqual([none.code, none.stderr], [2, 'fastweights: --path: no such case: 0:999\n'])
  })

  it('repeats the settings that were given', async () => {
    const { stdout } = await server.run('verify mine.mjs --device wasm --no-relaxed --threads 2 --runs 20')
    assert.match(
      stdout,
      /^ {2}again: fastweights verify mine\.mjs 'mine: wrong' --device wasm --threads 2 --no-relaxed --seed 1 --path \S+$/m,
    )
    assert.match((await again(stdout)).stdout, /^1 claim, 1 case: 0 hold, 1 FAILED/m)
  })

  it('repeats them only for the device that they belong to', async () => {
    const { stdout } = await server.run(['verify', 'mine.mjs', 'wrong', '--no-relaxed', '--threads', '2', '--runs', '20'])
    assert.match(stdout, /^ {2}again: fastweights verify mine\.mjs 'mine: wrong' --device reference --seed 1 --path \S+$/m)
    assert.match((await again(stdout)).stdout, /^1 claim, 1 case: 0 hold, 1 FAILED/m)
  })

  it('writes results as JSON and as a page that needs nothing else', async () => {
    const { stdout, stderr, code } = await place.run('verify mine.mjs --json - --report page.html --runs 20 --device wasm')
    assert.equal(code, 1)
    const { claims, seed, runs } = JSON.parse(stdout)
    assert.deepEqual([seed, runs, claims.length], [1, 20, 3])
    assert.deepEqual(
      claims.map((claim: { verdicts: { status: string }[] }) => claim.verdicts[0].status),
      ['holds', 'fails', 'refuted'],
    )
    assert.match(stderr, /wrote page\.html/)
    const page = place.read('page.html').toString()
    assert.match(page, /^<!doctype html>/)
    assert.match(page, /<math/)
    assert.match(page, /<svg class="bar/)
    assert.match(page, /1 claim failed/)
    assert.match(page, /n 5, look ones, seed 0/)
    // Nothing is fetched: the only address is that of SVG and MathML, which browsers know.
    assert.doesNotMatch(page, /(src|href)="?(https?:)?\/\/|@import|url\((?!data:)/)
    for (const [, id] of page.matchAll(/href="#([^"]+)"/g)) assert.ok(page.includes(`id="${id}"`), id)
  })

  it("checks a rule of one's own against the family, wherever its file lies", async () => {
    place.write('my-rule.mjs', ruleFile)
    const out = await place.succeed('verify ./my-rule.mjs --runs 20')
    for (const what of ['gradients of step = differences', 'state carried over a cut', '= gated-delta, chunk', 'device = reference'])
      assert.ok(out.includes(`my-rule: ${what}`), what)
    assert.match(out, /^11 claims, 20 cases each: 11 hold/m)
  })

  it('takes claims and rules from a default export, and an object of them', async () => {
    place.write('default.mjs', `${claimFile}export default { claims: { one: claim('mine: right', (c) => ({ x: c.n })) } }`)
    assert.match(await server.succeed('verify default.mjs --runs 5'), /^1 claim, 5 cases: 1 hold/m)
  })

  describe('bad input', () => {
    /** It is given up after 15 s, which pass beside the other tests; it waits, so as not to take a core from them. */
    let loading: Promise<Result>
    before(() => {
      place.write('loop.mjs', 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)')
      loading = place.run('verify loop.mjs --case-limit 0.5')
    })
    /** It fails with this code and one line to standard error. */
    const refused = async (words: string | string[], code: number, message: RegExp): Promise<void> => {
      const result = await server.run(words)
      assert.match(result.stderr, message)
      assert.equal(result.stderr.trimEnd().split('\n').length, 1, result.stderr)
      assert.equal(result.code, code)
    }
    const bad = async (name: string, content: string | Uint8Array, message: RegExp): Promise<void> => {
      place.write(name, content)
      await refused(`verify ./${name} --device reference`, 1, message)
    }

    it('a pattern that matches nothing', () =>
      refused('verify gated-dleta', 2, /^fastweights: no claim matches 'gated-dleta': did you mean 'gated-delta'\?\n$/))
    it('a path for more than one claim', () =>
      refused('verify delta --path 1:2', 2, /--path is a place among the cases of one claim, and \d+ claims/))
    it('a pattern that matches nothing, before any device is opened', async () => {
      const { code, stdout } = await server.run('verify gated-dleta --device auto')
      assert.deepEqual([code, stdout], [2, ''])
    })
    it('webgpu without a driver, in one line; the claims can be listed all the same', async function () {
      if (process.platform !== 'linux') return this.skip()
      assert.match((await place.run('verify --list --device webgpu', withoutDriver)).stdout, /\d+ claims\n$/)
      const { code, stdout, stderr } = await place.run('verify --device webgpu', withoutDriver)
      assert.deepEqual([code, stdout], [1, ''])
      assert.match(stderr, /^fastweights: webgpu: no adapter: missing: .*\n$/)
    })
    it("wasm's options for another device", () =>
      refused(
        'verify --device webgpu --threads 2',
        2,
        /^fastweights: --threads: means nothing on the webgpu device; it belongs to wasm\n$/,
      ))
    it('options outside their range', () => refused('verify --runs 0', 2, /--runs: expected an integer from 1/))
    it('a file that is not there', () => refused('verify nosuch.mjs', 1, /^fastweights: nosuch\.mjs: no such file\n$/))
    it('a path that is none', () =>
      refused(['verify', 'delta: any chunk length', '--path', 'x'], 2, /--path: expected N:N:\.\.\., got "x"/))
    it('results in a folder that is not there, before anything runs', () =>
      refused('verify --json none/out.json', 1, /^fastweights: can't write none\/out\.json: .+\n$/))
    it('one file for both results', () =>
      refused('verify --json out --report ./out', 2, /^fastweights: --json and --report would write the same file: out\n$/))
    it('a page on standard output', () => refused('verify --report -', 2, /^fastweights: --report: a page needs a file, and not -\n$/))
    it('a file that throws, with the line', () =>
      bad('throws.mjs', "\nthrow new Error('no,\\nreally')", /throws\.mjs: can't be loaded: no, really \(\.\/throws\.mjs:2\)\n$/))
    it('a file with an error of syntax', () => bad('syntax.mjs', 'export const claims = [', /syntax\.mjs: can't be loaded: SyntaxError/))
    it('a file that exports nothing usable', () =>
      bad('empty.mjs', 'export const x = 1', /empty\.mjs: exports neither 'claims' nor 'rules'/))
    it('a list of claims that is empty, or none that can be gone through, or one that hides another', async () => {
      await bad('none.mjs', 'export const claims = []', /none\.mjs: 'claims' is empty: there is nothing to check\n$/)
      await bad('map.mjs', 'export const claims = new Map([[1, 2]])', /map\.mjs: 'claims' must be an array or an object, not Map\n$/)
      await bad(
        'later.mjs',
        'export const rules = Promise.resolve([])',
        /later\.mjs: 'rules' must be an array or an object, not Promise\n$/,
      )
      await bad(
        'both.mjs',
        `${claimFile}export const claims = [claim('a: b', () => ({ x: 1 }))]
export default { claims: [claim('a: c', () => ({ x: 1 }))] }`,
        /both\.mjs: exports two different 'claims'/,
      )
    })
    it('a claim within an infinite bound', () =>
      bad(
        'infinite.mjs',
        `${claimFile}export const claims = [claim('a: b', () => ({ x: 1 }), { bounds: { float32: Infinity, float64: 1, reason: 'r' } })]`,
        /infinite\.mjs: can't be loaded: ClaimError: claim 'a: b': 'bounds' must be \{ float32, float64, reason \}: two finite numbers/,
      ))
    it('a file that imports what is not there', () =>
      bad('import.mjs', "import 'nosuch'", /import\.mjs: can't be loaded: Cannot find package 'nosuch' imported from import\.mjs\n$/))
    it('a file in UTF-16', () =>
      bad(
        'wide.mjs',
        Buffer.from('\ufeffexport const claims = []', 'utf16le'),
        /wide\.mjs: can't be loaded: it is in UTF-16 \(little-endian\), not in UTF-8\n$/,
      ))
    it('a malformed claim', () =>
      bad('malformed.mjs', "export const claims = [{ name: 'x' }]", /malformed\.mjs: 'x': 'section' must be a text/))
    it('a malformed rule', () => bad('rule.mjs', "export const rules = [{ name: 'x' }]", /rule\.mjs: 'x': 'step' must be a function/))
    it('two claims of one name', () =>
      bad(
        'twice.mjs',
        `${claimFile}export const claims = [1, 2].map(() => claim('a: b', (c) => ({ x: c.n })))`,
        /two claims are called 'a: b'/,
      ))
    it('a step whose results have other shapes', () =>
      bad(
        'shapes.mjs',
        ruleFile.replace('y: readOut(next, q)', 'y: next'),
        /shapes\.mjs: 'my-rule': step returns y \[1,1,2,3\], expected \[B=1,H=1,V=3\]/,
      ))
    it('a step that throws', () => bad('step.mjs', ruleFile.replace('exp(gate)', 'exp(k)'), /step\.mjs: 'my-rule': step: /))
    it('a file that is loading for ever', async () => {
      const { code, stderr } = await loading
      assert.match(stderr, /^fastweights: loop\.mjs: not done after \d+ s\n$/)
      assert.equal(code, 1)
    }).timeout(60_000)
    it('a file that ends the process', () => bad('exit.mjs', 'process.exit(0)', /exit\.mjs: ended the process that checks claims/))

    it('one bad file does not keep the others from being checked', async () => {
      place.write('good.mjs', `${claimFile}export const claims = [claim('mine: right', (c) => ({ x: c.n }))]`)
      const { code, stdout, stderr } = await server.run('verify empty.mjs good.mjs --runs 5 --report page.html')
      assert.equal(code, 1)
      assert.match(place.read('page.html').toString(), /<h1>1 file could not be used<\/h1>/)
      assert.match(stderr, /empty\.mjs: exports neither/)
      assert.match(stdout, /^ok +mine: right/m)
    })

    it('however many cores there are, at most two processes share the GPU', async function () {
      await webgpu(this)
      place.write('cores.mjs', "import os from 'node:os'\nos.availableParallelism = () => 6")
      const names = Array.from({ length: 8 }, (_, i) => `mine: slow ${i}`)
      place.write(
        'slow.mjs',
        `${claimFile}
const slow = (c) => {
  console.error('process ' + process.pid)
  for (const end = performance.now() + 100; performance.now() < end; );
  return { x: c.n }
}
export const claims = ${JSON.stringify(names)}.map((name) => claim(name, slow))`,
      )
      const shell = 'exec "$0" --import ./cores.mjs "$@"'
      const { stdout, stderr } = await place.run('verify slow.mjs --device webgpu --runs 3', { shell })
      assert.match(stdout, /^8 claims, 3 cases each: 8 hold/m)
      assert.ok(new Set(stderr.match(/process \d+/g)).size <= 2, stderr)
    })

    it('leaves no process behind that is caught in a loop', async function () {
      if (process.platform === 'win32') return this.skip()
      place.write('loops.mjs', `${claimFile}export const claims = [claim('mine: loops', () => { console.error(process.pid); for (;;); })]`)
      const child = place.start('verify loops.mjs --device reference --case-limit 1000')
      const pid = Number(await new Promise((resolve) => child.stderr!.once('data', resolve)))
      child.kill('SIGTERM')
      // Both have standard error, which is closed once both have ended.
      let left = false
      const late = setTimeout(() => {
        left = process.kill(pid, 'SIGKILL')
      }, 10_000)
      const { code } = await ended(child)
      clearTimeout(late)
      assert.deepEqual([code, left], [143, false])
    })

    // On webgpu, too, where a thread that ended would take everything with it.
    for (const device of ['reference', 'webgpu'])
      it(`a case that never ends, a claim that ends the process, one that is not deterministic: the others go on (${device})`, async function () {
        if (device === 'webgpu') await webgpu(this)
        place.write(
          'stuck.mjs',
          `${claimFile}
export const claims = [
  claim('mine: endless', (c) => { while (c.n === 3); return { x: c.n } }),
  claim('mine: exits', () => process.exit(0)),
  claim('mine: random', () => ({ x: Math.random() })),
  claim('mine: throws', (c) => {
    if (c.n > 3) throw new Error('no')
    return { x: c.n }
  }),
  claim('mine: prints', (c) => { console.log('noise'); return { x: c.n } }),
]`,
        )
        const { code, stdout } = await place.run(`verify stuck.mjs --device ${device} --case-limit 1 --runs 200`)
        assert.equal(code, 1)
        assert.match(stdout, new RegExp(String.raw`^STUCK +mine: endless.*\n {2}${device}: not done after 1 s \(case: n 3, `, 'm'))
        assert.match(stdout, new RegExp(String.raw`^THROWS +mine: exits.*\n {2}${device}: ended the process that checks claims`, 'm'))
        assert.match(stdout, new RegExp(String.raw`^UNSTEADY +mine: random.*\n {2}${device}: non-deterministic`, 'm'))
        assert.match(
          stdout,
          new RegExp(String.raw`^THROWS +mine: throws.*\n {2}${device}: no \(stuck\.mjs:\d+\)\n {4}n 4, look ones, seed 0`, 'm'),
        )
        assert.match(stdout, /^ok +mine: prints/m)
        assert.doesNotMatch(stdout, /noise/)
        assert.match(stdout, /^5 claims, 200 cases each: 1 hold, 4 FAILED/m)
      })
  })
})
