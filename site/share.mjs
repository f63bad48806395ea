/** Takes the picture that stands beside shared links, style/share.png, of the built site: node share.mjs. The next build copies it. */
import { fileURLToPath } from 'node:url'
import { launch } from '../dist/test/browser/launch.js'
import { open, visit, ways } from './test/harness.mjs'

const site = await open(ways[0])
const chromium = await launch()
const { page } = await visit(chromium, site.url, { viewport: { width: 1200, height: 630 }, colorScheme: 'light' })
await page.waitForFunction(() => Number(document.querySelector('#fact-step').textContent.replaceAll(',', '')) > 400, null, {
  timeout: 120_000,
})
await page.getByRole('button', { name: 'Pause' }).click()
await page.locator('.memory').scrollIntoViewIfNeeded()
await page.locator('#picture-after').waitFor()
await page.locator('#prompted').evaluate((element) => {
  element.hidden = true
})
await page.locator('.memory').evaluate((element) => element.scrollIntoView())
await page.waitForTimeout(1000)
await page.screenshot({ path: fileURLToPath(new URL('style/share.png', import.meta.url)) })
await chromium.close()
site.close()
