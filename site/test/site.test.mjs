/** The frame of every page, and how the site is served: below a path, offline, with threads by way of the service worker. */
import assert from 'node:assert/strict'
import { eachWay } from './harness.mjs'

eachWay('the site', (site) => {
  it('has a frame that keyboards can use, and themes that stay', async () => {
    const { page, complaints, close } = await site.visit('')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main')
    assert.equal(await page.getByRole('navigation').getByRole('link', { name: 'Playground' }).getAttribute('aria-current'), 'page')
    const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor)
    const before = await paper()
    await page.getByRole('button', { name: 'Theme: system' }).click()
    await page.getByRole('button', { name: 'Theme: light' }).click()
    assert.notEqual(await paper(), before)
    await page.reload()
    assert.equal(await page.locator('#theme').textContent(), 'Theme: dark')
    assert.deepEqual(complaints, [])
    await close()
  })

  it('has a page for wrong addresses, whose links work at any depth', async () => {
    const { page, close } = await site.visit('no/such/page')
    const link = page.getByRole('link', { name: 'Playground' })
    await page.waitForFunction((url) => document.querySelector('[data-to]').href === url, site.url)
    await link.click()
    assert.equal(page.url(), site.url)
    for (let click = 0; click < 2; click++) await page.getByRole('button', { name: /^Theme: / }).click()
    await page.goto(`${site.url}no/such/page`)
    await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark')
    await close()
  })
})
