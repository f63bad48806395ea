/** The page of `fastweights inspect` in a real browser, from a file: what the keyboard, a narrow window and people's preferences do. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Browser, Page } from 'playwright-core'
import { layersOf } from '../../cli/inspect/layers.ts'
import { inspectionPage } from '../../cli/inspect/page.ts'
import { setDevice } from '../../engine/index.ts'
import { Transformer } from '../../nn/index.ts'
import { charVocabulary } from '../../tasks/text.ts'
import { reference, wasm } from '../helpers.ts'
import { browserFor } from './launch.ts'

describe('the page of inspect, in a browser', function () {
  this.timeout(30_000)
  const folder = mkdtempSync(join(tmpdir(), 'fastweights-inspect-'))
  const file = join(folder, 'inspect.html')
  const tokens = [...'ROMEO:\n<b> is']
  let browser: Browser | undefined
  const complaints: string[] = []

  before(async function () {
    browser = await browserFor(this)
    setDevice(await wasm())
    const vocabulary = charVocabulary(tokens.join(''))
    const model = new Transformer({ symbols: vocabulary.size, dModel: 16, heads: 2, layers: 2, dFf: 16, mixer: ['delta', 'lstm'] })
    const layers = await layersOf(model, vocabulary.encode(tokens.join('')))
    const data = { version: '1', run: 'a <run>', preset: 'none', tokens, layers, every: 1, left: '' }
    writeFileSync(file, inspectionPage(data, { layer: 0, head: 1, token: 3 })!)
  })
  after(async () => {
    await browser?.close()
    setDevice(reference)
    rmSync(folder, { recursive: true, force: true })
  })

  async function opened(options: Parameters<Browser['newPage']>[0]): Promise<Page> {
    const page = await browser!.newPage(options)
    page.on('pageerror', (error) => complaints.push(error.message))
    page.on('console', (message) => complaints.push(message.text()))
    page.on('request', (request) => request.url() === pathToFileURL(file).href || complaints.push(request.url()))
    await page.goto(pathToFileURL(file).href)
    await page.locator('#picture-state-S').waitFor()
    return page
  }

  it('moves through the tokens by keyboard, and its text alternatives with it', async () => {
    const page = await opened({})
    const slider = page.getByRole('slider', { name: 'Token' })
    const matrix = page.locator('#picture-state-S')
    assert.equal(await page.locator('#head').inputValue(), '1')
    await slider.focus()
    assert.notEqual(await slider.evaluate((element) => getComputedStyle(element).outlineStyle), 'none')
    const seen = new Set<string>()
    for (const [key, value] of [
      ['ArrowRight', '5 of 13: “O” in “ROMEO”'],
      ['ArrowLeft', '4 of 13: “E” in “ROME”'],
      ['Home', '1 of 13: “R”'],
      ['End', '13 of 13: “s” in “O:↵<b>·is”'],
    ]) {
      await page.keyboard.press(key)
      assert.equal(await slider.getAttribute('aria-valuetext'), value)
      const label = (await matrix.getAttribute('aria-label'))!
      assert.match(
        label,
        new RegExp(`^S after token ${Number.parseInt(value, 10)}\\. S, 16 by 8, after token .*; norm [\\d.]+, effective rank [\\d.]+\\.$`),
      )
      assert.equal(await matrix.getAttribute('role'), 'img')
      seen.add(await matrix.innerHTML())
    }
    assert.equal(seen.size, 4)
    assert.equal(await page.locator('#view-pairs tbody tr').count(), tokens.length)
    await page.locator('#prompt > span').nth(8).click()
    assert.equal(await slider.inputValue(), '9')
    // The other layer has no pairs, and says so.
    await page.locator('#layer').selectOption('1')
    assert.equal(await page.locator('#picture-vector-h').isVisible(), true)
    assert.equal(await page.locator('#view-recall').isVisible(), false)
    assert.match((await page.locator('#view-missing').textContent())!, /How long pairs are held.*lstm is a recurrent net/)
    await page.close()
  })

  it('fits a telephone, is dark where that is preferred, and still where motion is not', async () => {
    const calm = await opened({ viewport: { width: 360, height: 700 }, colorScheme: 'dark', reducedMotion: 'reduce' })
    assert.equal(await calm.evaluate('document.documentElement.scrollWidth'), 360)
    assert.equal(await calm.locator('#play').isVisible(), false)
    const paper = (page: Page): Promise<string> => page.evaluate('getComputedStyle(document.documentElement).backgroundColor')
    const bright = await opened({ colorScheme: 'light' })
    assert.notEqual(await paper(calm), await paper(bright))
    await bright.getByRole('slider').fill('11')
    await bright.locator('#play').click()
    await bright.locator('#place').filter({ hasText: '13 of 13' }).waitFor()
    await bright.getByRole('button', { name: 'Play' }).waitFor()
    assert.deepEqual(complaints, [])
  })
})
