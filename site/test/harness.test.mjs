/** What the tests of pages rely on: which requests that failed are complaints of a page. */
import assert from 'node:assert/strict'
import { eachWay } from './harness.mjs'

eachWay('complaints of a page', (site) => {
  it('are requests that are cut off while it is there, not those that it is left in', async () => {
    const { page, complaints, close } = await site.visit('study/', { serviceWorkers: 'block' })
    const ofRequests = () => complaints.filter((complaint) => complaint.includes('net::'))
    await page.route('**/never', () => {})
    await page.route('**/cut', (route) => route.abort('aborted'))
    const failed = (name) => page.waitForEvent('requestfailed', { predicate: (request) => request.url().endsWith(name), timeout: 10_000 })
    const fetched = async (name, left = async () => {}) => {
      const [sent, gone] = [page.waitForRequest(`**/${name}`), failed(name)]
      await page.evaluate((name) => void fetch(name).catch(() => {}), name)
      await sent
      await left()
      assert.equal((await gone).failure().errorText, 'net::ERR_ABORTED')
    }
    await fetched('never', () => page.reload())
    assert.deepEqual(ofRequests(), [])
    await fetched('cut')
    assert.deepEqual(ofRequests(), [`${site.url}study/cut: net::ERR_ABORTED`])
    await close()
  })
})
