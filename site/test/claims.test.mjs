/** The claims' pages as a reader uses them; and what a stranger's code can't do. */
import assert from 'node:assert/strict'
import { eachWay, kept, load, violations } from './harness.mjs'
import { elsewhere } from './hostile.mjs'

describe('links of claims', () => {
  let link
  before(async () => {
    link = await load('claims/link.ts')
  })

  it('name a claim, a device, the cases and a place among them', () => {
    const full = { claim: 'delta: chunk = step', device: 'reference', runs: 7, seed: 3, path: '1:0:2' }
    assert.deepEqual(link.claimIn(link.claimHash(full)), full)
    // As other pages of the site name one.
    assert.equal(link.claimIn(`#claim=${encodeURIComponent(full.claim)}`).claim, full.claim)
    for (const other of ['', '#delta-chunk-step', '#bound-1']) assert.equal(link.claimIn(other), undefined)
    const refused = {
      '#v=2&claim=x': /^This link is of version "2", and the page reads version 1\.$/,
      '#v=1&device=tpu': /^The device in this link must be one of wasm, reference, webgpu\.$/,
      '#v=1&runs=0': /^The runs in this link must be a whole number from 1 to 100000\.$/,
      '#v=1&runs=1e3': /^The runs /,
      '#v=1&seed=-1': /^The seed /,
      '#v=1&path=1,2': /^The path in this link isn't one of a counterexample\.$/,
      [`#v=1&claim=${'x'.repeat(40_000)}`]: /^This link is too long/,
    }
    for (const [hash, message] of Object.entries(refused)) assert.throws(() => link.claimIn(hash), { message })
  })

  it('hold code, of any characters, and refuse what is broken or too long', async () => {
    const full = { code: 'export const claims = [] // é 🙂\n', device: 'webgpu', runs: 5, seed: 0 }
    const hash = await link.codeHash(full)
    assert.deepEqual(await link.codeIn(hash), full)
    assert.equal(await link.codeIn('#v=1&claim=x'), undefined)
    const refuses = (hash, message) => assert.rejects(link.codeIn(hash), { message })
    for (const broken of [hash.slice(0, -9), '#code=1.', '#code=1.!!!', '#code=x', '#code='])
      await refuses(broken, /^This link is broken: a part of it is missing, or isn't as it was\.$/)
    await refuses(hash.replace('=1.', '=2.'), /^This link is of version 2, /)
    await refuses(`#code=1.${'A'.repeat(40_000)}`, /^This link is too long/)
    const { pack } = await load('scripts/packed.ts')
    const most = { bytes: 1e8, characters: 1e6 }
    // A few bytes that stand for very many.
    await refuses(`#code=1.${await pack({ code: ' '.repeat(5e6) }, most)}`, /^This link stands for more than the 100 kB that one can\.$/)
    for (const other of [null, 3, {}, { code: 5 }]) await refuses(`#code=1.${await pack(other, most)}`, /^This link holds no code\.$/)
    await refuses(`#code=1.${await pack({ code: '', runs: 'many' }, most)}`, /^The runs in this link must be/)
    const random = Array.from({ length: 60_000 }, (_, i) => String.fromCharCode(33 + ((i * i * 7919 + ((i * 31) ^ (i >> 3))) % 90))).join(
      '',
    )
    await assert.rejects(link.codeHash({ ...full, code: random + random }), { message: /^A link can hold 100 kB, and not 1\d\d kB\.$/ })
  })
})

describe('what comes from the sandbox', () => {
  it('is a message, cut to what a page can show, or nothing', async () => {
    const { messageIn } = await load('claims/protocol.ts')
    const read = (value) => messageIn(JSON.stringify(value))
    for (const other of [undefined, {}, 'x', '{', 'null', '3']) assert.equal(messageIn(other), undefined)
    for (const other of [
      null,
      [],
      { kind: 'case' },
      { kind: 'verdict', verdict: { status: 'won', error: '0' } },
      { kind: 'claims', claims: [{}] },
    ])
      assert.equal(read(other), undefined)
    assert.equal(read({ kind: 'failure', message: 'x'.repeat(1e6) }).message.length, 4001)
    const { verdict } = read({ kind: 'verdict', verdict: { status: 'fails', ok: true, error: 'NaN', runs: 'x', lines: ['a', 5] } })
    assert.deepEqual(verdict, { status: 'fails', ok: false, error: 'NaN', runs: 0, bound: 0, milliseconds: 0, lines: ['a'] })
  })

  it('has tensors in its lines', async () => {
    const { tensorIn, power } = await load('claims/words.ts')
    assert.deepEqual(tensorIn('q [1,1,2] = 1 -0.5'), { name: 'q', shape: [1, 1, 2], values: [1, -0.5] })
    assert.deepEqual(tensorIn('left y = NaN Infinity'), {
      name: 'left y',
      shape: undefined,
      values: [Number.NaN, Number.POSITIVE_INFINITY],
    })
    for (const line of ['B 1, T 2', 'q [1,40] = 40 values', 'error 1.0e+0']) assert.equal(tensorIn(line), undefined)
    assert.deepEqual([0, 1e-10, 2.14e-7, 0.5, Number.NaN].map(power), ['0', '10⁻¹⁰', '2.1 × 10⁻⁷', '0.5', 'not a number'])
  })

  it('gets code whose imports are cut out', async () => {
    const { cutImports } = await load('claims/imports.ts')
    assert.deepEqual(cutImports("import { add } from 'fastweights'\nexport * from \"fastweights/nn\"\nconst s = 'fastweights'"), [
      "import { add } from '",
      0,
      '\'\nexport * from "',
      1,
      "\"\nconst s = 'fastweights'",
    ])
    assert.deepEqual(cutImports("await import('fastweights/claims')"), ["await import('", 3, "')"])
    assert.deepEqual(cutImports("export default 'lodash'"), ["export default 'lodash'"])
    for (const module of ['lodash', './other.js', 'https://example.org/x.js', 'node:fs'])
      assert.throws(() => cutImports(`\nimport '${module}'`), {
        message: `line 2 imports "${module}"; here there are fastweights, fastweights/nn, fastweights/tasks, fastweights/claims`,
      })
  })
})

eachWay('the pages of claims', (site) => {
  /** Runs what is in the editor, to the end. */
  async function run(page, code, runs = 10) {
    await page.locator('html[data-ready]').waitFor()
    if (code !== undefined) await page.locator('.cm-content').fill(code)
    await page.locator('#runs').fill(`${runs}`)
    await page.getByRole('button', { name: 'Run' }).click()
    await ended(page)
  }
  const ended = (page) => page.locator('#stop:disabled').waitFor()
  const text = (page, what) => page.locator(what).textContent()

  it('lists, finds and checks claims, by keyboard', async () => {
    const { page, complaints, close } = await site.visit('claims/', { viewport: { width: 360, height: 740 } })
    const all = await page.locator('article.claim').count()
    assert.ok(all > 800)
    await page.getByLabel('Find').fill('gated-delta causal')
    assert.match(await text(page, '#summary'), /^\d+ claims? shown$/)
    assert.equal(await page.locator('article.claim:not([hidden])').first().getAttribute('data-name'), 'gated-delta: causal, to the bit')
    // Those, too, whose source stands above them alone.
    await page.getByLabel('Find').fill('schlag')
    assert.match(await text(page, '#summary'), /^\d\d+ claims shown$/)
    const found = page.locator('article.claim:not([hidden])')
    const sources = await found.locator('.source').allTextContents()
    assert.ok(sources.length >= 80 && (await found.locator('.source.again').count()) > 0)
    // What is left out stands in the claim directly above, which is there.
    const shown = await page.evaluate(() => {
      const articles = [...document.querySelectorAll('article.claim:not([hidden])')]
      const silent = articles.filter((article) => getComputedStyle(article.querySelector('.source')).display === 'none')
      return {
        silent: silent.length,
        all: articles.length,
        wrong: silent.filter(({ previousElementSibling: above }) => above?.hidden !== false).length,
      }
    })
    assert.ok(shown.silent > 0 && shown.silent < shown.all)
    assert.equal(shown.wrong, 0)
    await page.getByLabel('Find').fill('no such claim at all')
    assert.equal(await text(page, '#summary'), 'No claim has all of these words.')
    await page.getByLabel('Find').fill('delta is sum')
    await page.getByLabel('Cases').fill('0')
    await page.getByRole('button', { name: 'Check what is shown' }).press('Enter')
    assert.equal(await page.getByLabel('Cases').getAttribute('aria-invalid'), 'true')
    await page.getByLabel('Cases').fill('5')
    await page.getByRole('button', { name: 'Check what is shown' }).press('Enter')
    const refuted = page.locator('article[data-status=refuted]').first()
    await refuted.waitFor()
    await ended(page)
    assert.match(await text(page, '#summary'), /^(\d) of \1 claims?: \1 as stated; /)
    // Shrunk, with its tensors.
    assert.ok((await refuted.locator('table.tensor').count()) >= 3)
    assert.ok((await refuted.locator('.steps li').count()) >= 1)
    assert.match(await refuted.locator('.status').textContent(), /^refuted, as it should be on wasm, by case \d+, off by /)
    // Nothing is wider than the window.
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('a link leads to a claim with its settings; each device checks it', async () => {
    const { page, complaints, close } = await site.visit('claims/#v=1&claim=delta%3A+chunk+%3D+step&device=reference&runs=3&seed=2')
    const target = page.locator('article.target')
    assert.equal(await target.getAttribute('data-name'), 'delta: chunk = step')
    await target.getByRole('button').click()
    await target.getByText(/^holds on reference, 3 cases, largest error /).waitFor()
    assert.match(await target.locator('svg.axis').getAttribute('aria-label'), /^largest error .*, bound 10⁻¹⁰, on a logarithmic axis$/)
    await page.getByLabel('Device').selectOption('webgpu')
    await target.getByRole('button').click()
    await target.getByText(/^holds on webgpu, 3 cases, /).waitFor({ timeout: 40_000 })
    await target.getByRole('link', { name: 'Link to' }).click()
    assert.equal(new URL(page.url()).hash, '#v=1&claim=delta%3A+chunk+%3D+step&device=webgpu&runs=3&seed=2')
    // Another link: its claim is shown, even where the search has hidden it, and is the only target.
    await page.getByLabel('Find').fill('no such claim')
    await page.goto(`${site.url}claims/#claim=${encodeURIComponent('sum: chunk = step')}`)
    await page.locator('article.target[data-name="sum: chunk = step"]').waitFor()
    assert.equal(await target.count(), 1)
    for (const [hash, problem] of [
      ['#v=9&claim=x', /^This link is of version "9"/],
      ['#claim=nothing', /^There is no claim "nothing" on this page\.$/],
    ]) {
      await page.goto(`${site.url}claims/${hash}`)
      await page.locator('#problem', { hasText: problem }).waitFor()
    }
    await page.goto(`${site.url}claims/#delta-chunk-step`)
    await page.locator('#problem').waitFor({ state: 'hidden' })
    assert.deepEqual(complaints, [])
    await close()
  })

  it('a worker that did not start is not asked again', async () => {
    let refused = false
    const { page, close } = await site.visit(`claims/#claim=${encodeURIComponent('delta: chunk = step')}`, {
      serviceWorkers: 'block',
      prepare: (page) =>
        page.context().route('**/claims-worker.js', (route) => {
          if (refused) return route.continue()
          refused = true
          return route.abort()
        }),
    })
    const target = page.locator('article.target')
    await target.getByRole('button').click()
    await page.locator('#problem', { hasText: "wasm: the worker didn't start" }).waitFor()
    await target.getByRole('button').click()
    await target.getByText(/^holds on wasm, /).waitFor()
    await close()
  })

  it('a counterexample has a link that leads to it alone', async () => {
    const { page, complaints, close } = await site.visit(`claims/#claim=${encodeURIComponent('false: delta is sum for any keys')}`)
    const target = page.locator('article.target')
    const counterexample = async () => {
      await target.getByRole('button').click()
      await page.locator('article.target[data-status=refuted]').waitFor()
      return target.locator('.counterexample').textContent()
    }
    const found = await counterexample()
    await target.getByRole('link', { name: 'Link to' }).click()
    assert.match(page.url(), /&path=\d+(%3A\d+)*$/)
    const address = page.url()
    // It is none of other settings.
    await page.getByLabel('Seed').fill('77')
    await target.getByRole('link', { name: 'Link to' }).click()
    assert.match(page.url(), /&seed=77$/)
    await page.goto(address)
    await page.reload()
    assert.equal(await counterexample(), found)
    assert.match(await target.locator('.status').textContent(), /^refuted, as it should be on wasm, 1 case, off by /)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('threads are compared where there can be threads: with the headers at once, without from the second page on', async () => {
    const { page, close } = await site.visit('claims/#v=1&claim=delta%3A+threads+change+nothing&runs=3')
    const target = page.locator('article.target')
    const check = () => target.getByRole('button').click()
    if (!site.isolated) {
      await check()
      await target.getByText('skipped: this device has nothing to compare with here').waitFor()
      await kept(page)
      await page.reload()
    }
    await check()
    await target.getByText(/^holds on wasm, 3 cases, the same bits/).waitFor()
    await close()
  })

  it("the documents' example holds in the sandbox", async () => {
    const { page, complaints, close } = await site.visit('claims/own/')
    await run(page)
    assert.match(await text(page, '#summary'), /^9 claims checked: 9 as stated; largest error /)
    // What draws equations comes after the first of them.
    await page.locator('article math').nth(8).waitFor()
    // Nothing stays.
    assert.equal(await page.locator('iframe').count(), 0)
    assert.deepEqual(complaints, [])
    assert.deepEqual(await violations(page), [])
    await close()
  })

  it('Stop, Run and another link end what is still loading', async () => {
    const { page, complaints, close } = await site.visit('claims/own/')
    await page.locator('html[data-ready]').waitFor()
    await page.locator('#runs').fill('3')
    assert.deepEqual(await page.locator('#device option').evaluateAll((all) => all.map(({ value }) => value)), ['wasm', 'reference'])
    const press = (...ids) =>
      page.evaluate((ids) => {
        for (const id of ids) document.querySelector(`#${id}`).click()
      }, ids)
    await press('run', 'stop')
    await page.getByText('Stopped.', { exact: true }).waitFor()
    assert.equal(await page.locator('article, iframe').count(), 0)
    await press('run', 'run')
    await ended(page)
    assert.match(await text(page, '#summary'), /^9 claims checked: 9 as stated; /)
    assert.equal(await page.locator('article').count(), 9)
    assert.equal(await page.locator('iframe').count(), 0)
    const { codeHash } = await load('claims/link.ts')
    const hash = await codeHash({ code: '// another', device: 'webgpu', runs: 4, seed: 2 })
    await page.evaluate((hash) => {
      document.querySelector('#run').click()
      location.hash = hash
    }, hash)
    await page.getByRole('note').waitFor()
    await page.waitForFunction(() => document.querySelector('iframe') === null)
    assert.equal(await text(page, '.cm-content'), '// another')
    assert.equal(await page.locator('article').count(), 0)
    assert.deepEqual([await text(page, '#summary'), await text(page, '#problem')], ['', ''])
    assert.equal(await page.locator('#stop').isDisabled(), true)
    assert.equal(await page.getByLabel('Device').inputValue(), 'wasm')
    assert.deepEqual(complaints, [])
    await close()
  })

  it('the sandbox is there offline, and where the service worker isolates the page', async () => {
    const { page, complaints, close } = await site.visit('claims/own/')
    await kept(page)
    await page.context().setOffline(true)
    await page.reload()
    assert.equal(await page.evaluate(() => crossOriginIsolated), true)
    await run(page, undefined, 3)
    assert.match(await text(page, '#summary'), /^9 claims checked: 9 as stated; largest error /)
    assert.deepEqual(complaints, [])
    await close()
  })

  /** A claim with these sides. */
  const claim = (name, left, right = '() => ({ x: 1 })', more = '') => `defineClaim({
    name: 'mine: ${name}', section: 'mine', statement: '${name}', equation: '\\\\rule{9999em}{9999em}', source: 'me', fields: { n: int(1, 9) }, left: ${left}, right: ${right}, ${more} })`
  const module = (...claims) => `import { defineClaim, int } from 'fastweights/claims'\nexport const claims = [${claims}]`

  it('a claim that fails shrinks to its counterexample; one that throws, says nothing or never ends is told', async () => {
    const { page, complaints, close } = await site.visit('claims/own/')
    await page.clock.install()
    await page.locator('html[data-ready]').waitFor()
    await page
      .locator('.cm-content')
      .fill(
        module(
          claim('wrong', "(c, x) => ({ y: x.tensor('a', [c.n]) })", "(c, x) => ({ y: x.tensor('b', [c.n]) })"),
          claim('throws', "() => { throw new Error('no <b>luck</b>') }"),
          claim('hangs', '() => { for (;;); }'),
          claim('after', '() => ({ x: 1 })'),
        ),
      )
    await page.getByRole('button', { name: 'Run' }).click()
    const hangs = page.locator('article', { hasText: 'mine: hangs' })
    await hangs.waitFor()
    await page.waitForTimeout(300)
    await page.clock.fastForward(11_000)
    await hangs.getByText(/^never ends on wasm, 0 cases/).waitFor()
    await hangs.getByText(/^case 1 \(n \d, look .*\) took longer than 10 s, and was ended$/).waitFor()
    await page.clock.resume()
    await ended(page)
    assert.equal(await text(page, '#summary'), '4 claims checked: 1 as stated, 3 not; largest error 0')
    const wrong = page.locator('article', { hasText: 'mine: wrong' })
    assert.match(await wrong.locator('.status').textContent(), /^fails on wasm, /)
    assert.ok((await wrong.locator('table.tensor').count()) >= 4)
    assert.match(await wrong.locator('.counterexample').textContent(), /^n 1, look /)
    await page.locator('article', { hasText: 'mine: throws' }).getByText('no <b>luck</b>').waitFor()
    // An equation of any size is drawn in a smaller one.
    await wrong.locator('math').waitFor()
    assert.ok((await wrong.locator('math').boundingBox()).height < 1000)
    // Only the console says what a claim has thrown, if anything.
    assert.deepEqual(complaints, [])
    await close()
  })

  it('code that can’t be loaded is told with its line, and code that never ends is ended', async () => {
    const { page, close } = await site.visit('claims/own/')
    await run(page, 'export const claims = [')
    assert.match(await text(page, '#problem'), /^SyntaxError: /)
    await run(page, "const a = 1\nconst b = 2\nthrow new TypeError('oh')")
    assert.equal(await text(page, '#problem'), 'TypeError: oh (line 3)')
    await run(page, "import { x } from 'lodash'")
    assert.match(await text(page, '#problem'), /^line 1 imports "lodash"; here there are fastweights, /)
    await run(page, 'export const claims = 5')
    assert.match(await text(page, '#problem'), /^your code: 'claims' must be an array or an object, not number$/)
    await run(page, "for (let i = 0; i < 1000; i++) postMessage('x'.repeat(1000))\nfor (;;);")
    assert.match(await text(page, '#problem'), /^the code says more than it was asked, and was ended$/)
    await page.clock.install()
    await page.locator('.cm-content').fill('for (;;);')
    await page.getByRole('button', { name: 'Run' }).click()
    await page.locator('iframe').waitFor({ state: 'attached' })
    await page.waitForTimeout(500)
    await page.clock.fastForward(21_000)
    await page.clock.resume()
    await ended(page)
    assert.match(await text(page, '#problem'), /^the code took longer than 20 s to load, and was ended$/)
    assert.equal(await page.locator('iframe').count(), 0)
    await close()
  })

  it('code of a link is shown, runs after a press alone, and reaches neither storage nor network nor the page: all of which code elsewhere does', async () => {
    const there = await elsewhere()
    /** The page answers whoever speaks on its channel. */
    const listen = (page) =>
      page.evaluate(() => {
        globalThis.channel = new BroadcastChannel('here')
        globalThis.channel.onmessage = () => globalThis.channel.postMessage('!')
      })
    // Without the sandbox all of it succeeds.
    const free = await site.visit(there.url)
    await listen(free.page)
    const said = await free.page.evaluate(
      (code) =>
        new Promise((resolve) => {
          const address = (text) => URL.createObjectURL(new Blob([text], { type: 'text/javascript' }))
          const worker = new Worker(address(`import('${address(code)}').catch(({ message }) => postMessage(message))`))
          worker.onmessage = ({ data }) => typeof data === 'string' && resolve(data)
        }),
      there.code(there.url),
    )
    assert.equal(said, `reached all from ${there.url.slice(0, -1)}`)
    assert.ok(there.asked >= 10)
    await free.close()
    there.asked = 0
    const { codeHash } = await load('claims/link.ts')
    const hash = await codeHash({ code: there.code(site.url), device: 'wasm', runs: 5, seed: 1 })
    const { page, complaints, close } = await site.visit(`claims/own/${hash}`)
    await page.getByRole('note').getByText('This code came with the link.').waitFor()
    assert.match(await text(page, '.cm-content'), /const there = /)
    await listen(page)
    await page.waitForTimeout(300)
    assert.equal(await page.locator('iframe').count(), 0)
    await run(page)
    assert.equal(await text(page, '#problem'), 'reached nothing from null (line 20)')
    assert.equal(site.bytes.has('from-the-sandbox'), false)
    assert.equal(there.asked, 0)
    // What was refused is all that the browser complains about.
    for (const complaint of complaints)
      assert.match(complaint, /Content Security Policy|csp|ERR_BLOCKED_BY_CSP|localhost:\d+\/(worker|script|module)?(\.js)?/i)
    await close()
  })

  it('a link made here opens as it was, and a broken one leaves the example', async () => {
    const { page, close } = await site.visit('claims/own/')
    await page.locator('html[data-ready]').waitFor()
    await page.locator('.cm-content').fill('// mine')
    await page.getByLabel('Seed').fill('9')
    await page.getByRole('button', { name: 'Make a link' }).click()
    await page.waitForFunction(() => location.hash.startsWith('#code=1.'))
    const other = await site.visit(page.url())
    await other.page.getByRole('note').waitFor()
    assert.equal(await text(other.page, '.cm-content'), '// mine')
    assert.equal(await other.page.getByLabel('Seed').inputValue(), '9')
    await other.page.goto('about:blank')
    await other.page.goto(`${site.url}claims/own/#code=1.AAAA`)
    await other.page.locator('#problem', { hasText: /^This link is broken/ }).waitFor()
    assert.match(await text(other.page, '.cm-content'), /my-rule\.mjs/)
    assert.deepEqual(other.complaints, [])
    await other.close()
    await close()
  })
})
