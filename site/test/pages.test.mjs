/** All pages of the site, in both themes, at three widths: what axe-core and a look at their sizes find wrong. */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { sep } from 'node:path'
import { output } from '../build.mjs'
import { browser, open, violations, visit } from './harness.mjs'

/** By address. Of pages that are many of one template (a rule, a source file) one stands for all; with PAGES=all each is tried. */
const templates = process.env.PAGES === 'all' ? [] : [/^source\/./, /^study\/(rules|nets|layers)\/./]
function addresses() {
  const all = readdirSync(output, { recursive: true })
    .map((path) => path.split(sep).join('/'))
    .filter((path) => path.endsWith('.html'))
    .map((path) => path.replace(/(^|\/)index\.html$/, '$1'))
    .sort()
  const seen = new Set()
  return all.filter((path) => {
    const template = templates.find((template) => template.test(path))
    const is = template?.source ?? path
    return !seen.has(is) && seen.add(is)
  })
}

describe('every page', function () {
  this.timeout(60_000)
  let chromium
  let site
  before(async () => {
    site = await open()
    chromium = await browser()
  })
  after(async () => {
    await chromium?.close()
    site?.close()
  })

  for (const address of addresses())
    it(`${address === '' ? 'the front page' : address} can be used by everybody, light and dark`, async () => {
      const { page, close } = await visit(chromium, site.url + address, { colorScheme: 'light', viewport: { width: 1440, height: 900 } })
      // All that is folded is there to be read, too. Of the claims, sections of one kind, the first and the last stand for the others.
      await page.evaluate(() => {
        for (const section of [...document.querySelectorAll('details.section')].slice(1, -1)) section.remove()
        for (const details of document.querySelectorAll('details')) details.open = true
      })
      for (const colorScheme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme })
        assert.deepEqual(await violations(page), [], colorScheme)
      }
      for (const width of [360, 768, 1440]) {
        await page.setViewportSize({ width, height: 800 })
        const [wide, lost] = await page.evaluate(() => [
          document.documentElement.scrollWidth,
          // What is wider than the window by itself.
          [...document.querySelectorAll('main *')]
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, math, svg, .cm-scroller'))
            .map((e) => e.tagName + '.' + e.className)
            .slice(0, 5),
        ])
        assert.ok(wide <= width, `${wide} wide at ${width}: ${lost}`)
      }
      const { title, description } = await page.evaluate(() => ({
        title: document.title,
        description: document.querySelector('meta[name=description]')?.getAttribute('content'),
      }))
      assert.ok(title.length > 0 && description?.length > 20, `${title}: ${description}`)
      await close()
    })
})
