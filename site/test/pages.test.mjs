/** All pages of the site, in both themes, at three widths: what axe-core and a look at their sizes find wrong. */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { sep } from 'node:path'
import { output } from '../build.mjs'
import { eachWay, violations } from './harness.mjs'

/** Whether all is tried that is on the site: without, of much of one kind some stands for all. */
const all = process.env.PAGES === 'all'
const templates = all ? [] : [/^source\/./, /^study\/(rules|nets|layers)\/./]
/** In a page: sections of claims, entries of the API. */
const many = { 'details.section': 2, 'article.entry': 30 }

/** Pages by address, one of each template. */
function addresses() {
  const found = readdirSync(output, { recursive: true })
    .map((path) => path.split(sep).join('/'))
    .filter((path) => path.endsWith('.html'))
    .map((path) => path.replace(/(^|\/)index\.html$/, '$1'))
    .sort()
  const seen = new Set()
  return found.filter((path) => {
    const template = templates.find((template) => template.test(path))
    const is = template?.source ?? path
    return !seen.has(is) && seen.add(is)
  })
}

eachWay('every page', function (site) {
  if (all) this.timeout(300_000)
  for (const address of addresses())
    it(`${address === '' ? 'the front page' : address} can be used by everybody, light and dark`, async () => {
      const { page, close } = await site.visit(address, {
        colorScheme: 'light',
        viewport: { width: 1440, height: 900 },
      })
      // All that is folded is there to be read, too.
      await page.evaluate(
        ([all, many]) => {
          for (const [kind, most] of all ? [] : Object.entries(many))
            for (const one of [...document.querySelectorAll(kind)].slice(most - 1, -1)) one.remove()
          for (const details of document.querySelectorAll('details')) details.open = true
        },
        [all, many],
      )
      assert.deepEqual(await violations(page), [], 'light')
      await page.emulateMedia({ colorScheme: 'dark' })
      assert.deepEqual(await violations(page, ['color-contrast']), [], 'dark')
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
