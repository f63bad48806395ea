/** The study and the API: what pages show is what the repository has; equations hold on numbers; names light up; the search finds. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chapterPage } from '../study/chapter.mjs'
import { chapters } from '../study/chapters/index.mjs'
import { checkNames } from '../study/checked.mjs'
import { claimOf } from '../study/claims.mjs'
import { excerpt, lineOf, linesOf } from '../study/source.mjs'
import { cut, eachWay, load, violations } from './harness.mjs'

const dist = fileURLToPath(new URL('../dist/', import.meta.url))
const pages = readdirSync(dist, { recursive: true }).filter((path) => /(^|\/)index\.html$/.test(path))
const read = (path) => readFileSync(join(dist, path), 'utf8')
const plain = (html) =>
  html
    .replace(/<[^>]+>/g, '')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&amp;', '&')

describe('what the study says', function () {
  this.timeout(120_000)

  it('every equation holds on numbers, and every check is of one', async () => {
    const { checks, runCheck } = await load('study/checks.ts')
    assert.deepEqual(Object.keys(checks), [...checkNames])
    const used = chapters.flatMap(({ sections }) => sections.flatMap(({ equations = [] }) => equations.flatMap(({ check }) => check ?? [])))
    assert.deepEqual([...new Set(used)].sort(), [...checkNames].sort())
    for (const name of checkNames)
      for (const seed of [1, 2, 3]) {
        const { holds, error, left } = await runCheck(name, seed)
        assert.ok(holds && left.values.length > 0, `${name}, seed ${seed}: ${error}`)
      }
  })

  it('a check fails where the sides differ, in a number, a shape, or by what is none', async () => {
    const { compare } = await load('study/checks.ts')
    const grid = (values, shape = [1, values.length]) => ({ shape, values })
    assert.ok(compare(grid([1, 2]), grid([1, 2 + 1e-13]), 1e-12).holds)
    for (const [left, right] of [
      [grid([1, 2]), grid([1, 2.1])],
      [grid([1, 2]), grid([1, 2], [2, 1])],
      [grid([1, Number.NaN]), grid([1, Number.NaN])],
      [grid([Number.NaN, 1]), grid([1, 1])],
    ])
      assert.ok(!compare(left, right, 1e-12).holds)
  })

  it('every rule, net and layer has an example that runs, and whose forms agree', async () => {
    const { runExample } = await load('study/examples.ts')
    const { kinds } = await import('../study/kinds.mjs')
    assert.ok(kinds.length > 50)
    for (const { kind, name } of kinds) {
      const { agreements, y, parts } = await runExample(`${{ rules: 'rule', nets: 'net', layers: 'mixer' }[kind]} ${name}`, 2)
      for (const { what, error } of agreements) assert.ok(error < 1e-12, `${name}: ${what}: ${error}`)
      assert.ok(agreements.length > 0 && y.values.every(Number.isFinite), name)
      for (const grids of Object.values(parts)) assert.equal(grids.length, 9, name)
    }
  })

  it('a reference that is broken, or not of one place, fails', () => {
    assert.throws(() => lineOf('engine/rules/delta.ts', 'no such text'), /has 'no such text' nowhere/)
    assert.throws(() => lineOf('engine/rules/delta.ts', 'export function'), /has 'export function' \d+ times/)
    assert.throws(() => linesOf('engine/rules/nothing.ts'), /there is no file/)
    assert.throws(() => claimOf('delta: nothing'), /there is no claim 'delta: nothing'/)
    const twice = { ...chapters[0], names: { a: { code: ['x'], means: 'one' }, b: { code: ['x'], means: 'the other' } } }
    assert.throws(() => chapterPage(twice, { to: String, source: String }), /the identifier 'x' has two names: a, b$/)
    assert.deepEqual(
      excerpt({ file: 'engine/rules/rule.ts', from: 'export const outer =', doc: false }).begin,
      lineOf('engine/rules/rule.ts', 'export const outer ='),
    )
  })

  it('the code of every page is that of the repository, line by line', () => {
    let compared = 0
    for (const page of pages.filter((path) => path.startsWith('study/'))) {
      const blocks = [...read(page).matchAll(/<pre class="code">(.*?)<\/pre>/gs)]
      for (const [, block] of blocks)
        for (const [, file, number, code] of block.matchAll(/href="[./]*source\/([^"]+)\/#L(\d+)">\d+<\/a>(.*)<\/span>$/gm)) {
          assert.equal(plain(code).trim(), linesOf(file)[number - 1].trim(), `${page}: ${file}, line ${number}`)
          compared++
        }
    }
    assert.ok(compared > 1500, `${compared} lines`)
  })

  it('all links lead somewhere', () => {
    const ids = new Map()
    const idsOf = (path) => {
      if (!ids.has(path)) ids.set(path, new Set([...read(path).matchAll(/\bid="([^"]+)"/g)].map(([, id]) => id)))
      return ids.get(path)
    }
    const broken = new Set()
    for (const page of pages)
      for (const [, href] of read(page).matchAll(/\bhref="([^"]*)"/g)) {
        if (/^[a-z]+:/.test(href)) continue
        const { pathname, hash } = new URL(plain(href), `http://site/${page.replace(/index\.html$/, '')}`)
        const path = decodeURIComponent(pathname.slice(1)).replace(/(^|\/)$/, '$1index.html')
        const id = decodeURIComponent(hash.slice(1))
        if (!existsSync(join(dist, path)) || (id !== '' && path.endsWith('.html') && !idsOf(path).has(id))) broken.add(`${pathname}${hash}`)
      }
    assert.deepEqual([...broken], [])
  })

  it('every public name is in the API', async () => {
    for (const [entry, folder] of Object.entries({ fastweights: 'engine', nn: 'nn', tasks: 'tasks', claims: 'claims' })) {
      const page = read(`api/${entry}/index.html`)
      const exported = Object.keys(await import(`../../dist/${folder}/index.js`))
      // One that an entry point hands on from another is explained there.
      const missing = exported.filter((name) => !page.includes(`<article class="entry" id="${name}">`))
      assert.deepEqual(missing, { tasks: ['ignoredTarget'] }[entry] ?? [])
    }
  })

  it('every public name is explained', () => {
    for (const entry of ['fastweights', 'nn', 'tasks', 'claims']) {
      const articles = read(`api/${entry}/index.html`).split('<article class="entry" id="').slice(1)
      assert.ok(articles.length > 0)
      // Behind its signature, or one of them, is what its comment says.
      const silent = articles.filter((article) => !/<pre class="signature">.*?<\/pre><(p|pre class="lines")>\S/s.test(article))
      assert.deepEqual(
        silent.map((article) => article.slice(0, article.indexOf('"'))),
        [],
      )
    }
  })

  it('the API says what functions refuse, in the words of their errors', () => {
    const page = plain(read('api/fastweights/index.html'))
    assert.match(page, /dpfp: nu must be an integer from 1 to 2 D - 1 = \.\.\., not \.\.\./)
    assert.match(page, /gradCheck: the tolerance must be 0 or more, not \.\.\./)
  })
})

eachWay('what a reader of the study does', (site) => {
  it('checks all equations of a page', async () => {
    const { page, complaints, close } = await site.visit('study/chunks/')
    await page.getByRole('button', { name: 'Check all equations of this page' }).click()
    await page.waitForFunction(() => document.querySelector('#checked').textContent !== '', null, { timeout: 30_000 })
    const { equations } = await page.evaluate(() => ({ equations: document.querySelectorAll('.equation').length }))
    assert.equal(await page.locator('#checked').textContent(), `All ${equations} hold.`)
    const first = page.locator('.equation').first()
    const shown = await first.locator('.matrix').first().textContent()
    await first.getByRole('button', { name: 'On other numbers' }).click()
    await page.waitForFunction((before) => document.querySelector('.equation .matrix').textContent !== before, shown)
    assert.equal(await first.locator('.outcome').getAttribute('data-holds'), 'true')
    assert.deepEqual(await violations(page), [])
    assert.deepEqual(complaints, [])
    await close()
  })

  it('starts another worker where one did not start', async () => {
    let refused = false
    const { page, close } = await site.visit('study/chunks/', {
      serviceWorkers: 'block',
      prepare: (page) =>
        page.context().route('**/study-worker.js', (route) => {
          if (refused) return route.continue()
          refused = true
          return route.abort()
        }),
    })
    const all = page.getByRole('button', { name: 'Check all equations of this page' })
    await all.click()
    await page.locator('#checked', { hasText: /^(\d+) of \1 do not hold\.$/ }).waitFor()
    await all.click()
    await page.locator('#checked', { hasText: /^All \d+ hold\.$/ }).waitFor({ timeout: 30_000 })
    await close()
  })

  it('sees a name light up in code and formulas: by mouse, keyboard and touch', async () => {
    const lit = (page) =>
      page.evaluate(() => {
        const found = [...document.querySelectorAll('.lit')]
        return {
          names: [...new Set(found.map((e) => e.dataset.name))],
          code: found.some((e) => e.closest('pre')),
          formula: found.some((e) => e.closest('.formula')),
        }
      })
    const beta = { names: ['beta'], code: true, formula: true }
    const dark = { names: [], code: false, formula: false }
    const { page, complaints, close } = await site.visit('study/delta/')
    await page.locator('pre [data-name="beta"]').first().hover()
    assert.deepEqual(await lit(page), beta)
    assert.match(await page.locator('#tip').textContent(), /the write strength/)
    await page.locator('h1').hover()
    assert.deepEqual(await lit(page), dark)
    await page.locator('.legend button[data-name="beta"]').focus()
    assert.deepEqual(await lit(page), beta)
    await page.keyboard.press('Enter')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Escape')
    assert.deepEqual(await lit(page), dark)
    assert.deepEqual(complaints, [])
    await close()
    const phone = await site.visit('study/delta/', {
      viewport: { width: 360, height: 740 },
      hasTouch: true,
      isMobile: true,
    })
    await phone.page.locator('.formula [data-name="beta"]').first().tap()
    assert.deepEqual(await lit(phone.page), beta)
    await phone.page.locator('h1').tap()
    assert.deepEqual(await lit(phone.page), dark)
    await phone.close()
  })

  it('moves through the tokens of an example by keyboard', async () => {
    const { page, complaints, close } = await site.visit('study/rules/gated-delta/')
    await page.locator('.said', { hasText: 'chunk = step' }).waitFor()
    await page.getByRole('slider', { name: 'Token' }).focus()
    const label = () => page.locator('.example .picture').first().getAttribute('aria-label')
    const last = await label()
    await page.keyboard.press('Home')
    assert.match(await label(), /^S, before the first token: 0, 0, /)
    await page.keyboard.press('End')
    assert.equal(await label(), last)
    await page.getByRole('button', { name: 'Other numbers' }).click()
    await page.waitForFunction(() => document.querySelector('[data-example]').dataset.done === '2')
    assert.notEqual(await label(), last)
    assert.deepEqual(await cut(page), [])
    assert.deepEqual(await violations(page), [])
    assert.deepEqual(complaints, [])
    await close()
  })

  it('finds names, and what is said of them', async () => {
    const { page, complaints, close } = await site.visit('api/')
    await page.getByLabel('Search the study and the API').fill('deltaRul')
    await page.locator('#found a', { hasText: /^deltaRule$/ }).waitFor()
    await page.keyboard.press('Enter')
    await page.waitForURL(`${site.url}api/fastweights/#deltaRule`)
    await page.goto(`${site.url}study/`)
    await page.getByLabel('Search the study and the API').fill('xyzzyx')
    await page.locator('#searched', { hasText: 'Nothing is called' }).waitFor()
    assert.deepEqual(complaints, [])
    await close()
  })

  it('reads without scripts', async () => {
    const { page, close } = await site.visit('study/sum/', { javaScriptEnabled: false })
    assert.equal(await page.locator('.equation math').first().isVisible(), true)
    assert.equal(await page.locator('[data-check]').first().isVisible(), false)
    await close()
  })
})
