/** The speed page: what it measures, and links with results. How fast anything is depends on the clock, and isn't asked. */
import assert from 'node:assert/strict'
import { measures } from '../speed/measures.mjs'
import { eachWay, load } from './harness.mjs'

describe('links of the speed page', () => {
  it('hold a result, and refuse what is none', async () => {
    const { measureNames, resultHash, resultIn } = await load('speed/protocol.ts')
    assert.deepEqual(
      measures.map(({ name }) => name),
      measureNames,
    )
    const result = { machine: 'a browser', rows: [{ subject: 'wasm', description: 'wasm (SIMD)', values: { product: 12.5, step: 3e4 } }] }
    const hash = await resultHash(result)
    assert.deepEqual(await resultIn(hash), result)
    assert.equal(await resultIn('#main'), undefined)
    const refuses = (hash, message) => assert.rejects(resultIn(hash), { message })
    await refuses(hash.replace('=1.', '=7.'), /^This link is of version 7, and the page reads version 1\.$/)
    await refuses(hash.slice(0, -5), /^This link is broken/)
    const { pack } = await load('scripts/packed.ts')
    const [row] = result.rows
    const wrong = [
      null,
      { ...result, machine: 5 },
      { ...result, rows: {} },
      { ...result, rows: Array(9).fill(row) },
      { ...result, rows: [{ ...row, subject: 'tpu' }] },
      { ...result, rows: [{ ...row, values: { product: '<b>' } }] },
      { ...result, rows: [{ ...row, values: { other: 1 } }] },
    ]
    for (const given of wrong)
      await refuses(`#result=1.${await pack(given, { bytes: 1e6, characters: 1e6 })}`, /^This link holds no result of this page\.$/)
  })
})

eachWay('the speed page', (site) => {
  it('measures a device after the other, can be stopped, and makes a link', async () => {
    const { page, complaints, close } = await site.visit('speed/')
    await page.locator('html[data-ready]').waitFor()
    await page.getByRole('button', { name: 'Measure' }).click()
    // One device, whole; then the next has begun.
    const header = page.locator('#own thead th')
    await header.nth(1).waitFor({ timeout: 50_000 })
    assert.match(await header.first().textContent(), /^wasm, one threadwasm \((relaxed )?SIMD, 1 thread\)$/)
    assert.match(await header.nth(1).textContent(), site.isolated ? /^wasm, all threadswasm \(.*, \d+ threads\)$/ : /^WebGPUwebgpu \(/)
    await page.getByRole('button', { name: 'Stop' }).click()
    await page.locator('#stop:disabled').waitFor()
    assert.match(await page.locator('#status').textContent(), /^Stopped\./)
    const numbers = await page.locator('#own tbody td:nth-child(2)').allTextContents()
    assert.equal(numbers.length, measures.length)
    for (const text of numbers) assert.ok(Number(text.replaceAll(',', '')) > 0, text)
    await page.getByRole('button', { name: 'Make a link' }).click()
    await page.waitForFunction(() => location.hash.startsWith('#result=1.'))
    const other = await site.visit(page.url())
    await other.page.locator('#linked table').waitFor()
    assert.deepEqual(await other.page.locator('#linked tbody td:nth-child(2)').allTextContents(), numbers)
    await other.page.goto('about:blank')
    await other.page.goto(`${site.url}speed/#result=1.AAAA`)
    await other.page.locator('#problem', { hasText: /^This link is broken/ }).waitFor()
    await other.page.evaluate(() => {
      location.hash = ''
    })
    await other.page.locator('#problem').waitFor({ state: 'hidden' })
    assert.deepEqual([...complaints, ...other.complaints], [])
    await other.close()
    await close()
  })
})
