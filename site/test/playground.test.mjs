/** The playground, as somebody uses it. What is measured in time is in docs/site.md; here is what doesn't depend on the clock. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { settings as fields } from '../playground/choices.mjs'
import { cut, eachWay, kept, load, open, threads, violations } from './harness.mjs'

const root = fileURLToPath(new URL('../../', import.meta.url))
const choices = Object.fromEntries(fields.map(({ name, rows }) => [name, rows.map(({ value }) => value)]))

/** Bytes, packed, before the first step. */
const budget = 350_000

describe('settings and addresses', () => {
  let module
  before(async () => {
    module = await load('playground/settings.ts')
  })

  it('come back from an address, and only what differs is in it', () => {
    const { decode, defaults, encode } = module
    const own = { ...defaults(choices), rule: 'gated-delta,softmax', width: '32', task: 'copy' }
    assert.equal(encode(defaults(choices), choices), '#1')
    assert.equal(encode(own, choices), '#1;task=copy;rule=gated-delta,softmax;width=32')
    assert.deepEqual(decode(encode(own, choices), choices), { settings: own, problems: [] })
    assert.deepEqual(decode('', choices), { settings: defaults(choices), problems: [] })
  })

  it('of an address that is broken, what can be used counts, and the rest is told', () => {
    const { decode, defaults } = module
    const wrong = {
      '#1;width=32;width': ['“width” is no setting'],
      '#1;width=32;heads=3': ["heads can't be “3”"],
      '#1;width=32;rule=delta,delta': ['rule says the same twice'],
      '#1;width=32;rule=sum,delta,kda,gla,oja': ["5 rules can't race: at most 4"],
      '#1;width=32;%E0%A4%A': ['“%E0%A4%A” is no setting'],
      '#1;width=32;__proto__=1': ['there is no setting “__proto__”'],
      '#1;width=32;constructor=1': ['there is no setting “constructor”'],
    }
    for (const [hash, problems] of Object.entries(wrong))
      assert.deepEqual(decode(hash, choices), { settings: { ...defaults(choices), width: '32' }, problems }, hash)
    for (const [hash, problem] of [
      [`#1;${'width=32;'.repeat(300)}`, /longer than 2000 characters/],
      ['#9;width=32', /version 9 of this page, which knows 1/],
      ['#width=32', /doesn’t begin with a version/],
      ['#0;width=32', /doesn’t begin with a version/],
    ]) {
      const { settings, problems } = decode(hash, choices)
      assert.deepEqual(settings, defaults(choices))
      assert.match(problems.join(), problem)
    }
  })

  it('of an older version are brought up to date', () => {
    const { decode } = module
    const steps = [({ size, ...rest }) => ({ ...rest, width: size }), ({ width, ...rest }) => ({ ...rest, width: `${2 * width}` })]
    for (const [hash, width] of [
      ['#1;size=16', '32'],
      ['#2;width=16', '32'],
      ['#3;width=16', '16'],
    ])
      assert.equal(decode(hash, choices, steps).settings.width, width)
    assert.match(decode('#4', choices, steps).problems[0], /version 4 of this page, which knows 3/)
  })

  it('make a model of every rule, which learns, and whose memory is shown; what means nothing to it is told', async () => {
    const { learn } = await load('test/every-rule.ts')
    const { defaults } = module
    const base = { ...defaults(choices), width: '16', heads: '2', layers: '1' }
    const ignored = {}
    for (const rule of choices.rule) {
      const { losses, racer } = await learn({ ...base, rule, map: 'auto', gate: 'logsigmoid' }, 2)
      assert.ok(
        losses.every((loss) => loss > 0 && loss < 6),
        `${rule}: ${losses}`,
      )
      ignored[rule] = racer.ignored.join()
    }
    assert.equal(ignored.delta, 'gate')
    assert.equal(ignored.gla, '')
  }).timeout(60_000)
})

eachWay('the playground', (site) => {
  const folder = mkdtempSync(join(tmpdir(), 'fastweights-site-'))
  after(() => rmSync(folder, { recursive: true, force: true }))

  const learning = (page) => page.waitForFunction(() => performance.getEntriesByName('first-step').length > 0)
  /** The page, once it learns. */
  async function play(hash = '', options = {}) {
    const visited = await site.visit(hash, options)
    await learning(visited.page)
    return visited
  }
  const text = (page, id) => page.locator(`#${id}`).textContent()
  const step = async (page) => Number((await text(page, 'fact-step')).replaceAll(',', ''))
  const until = (page, n) =>
    page.waitForFunction((n) => Number(document.querySelector('#fact-step').textContent.replaceAll(',', '')) >= n, n)
  const shows = (page, id, words) => page.locator(`#${id}`).filter({ hasText: words }).waitFor()
  /** Once the service worker answers, more threads are offered where the page hasn't got them yet. */
  const offered = async (page) => {
    await kept(page)
    if (!site.isolated) await page.getByRole('button', { name: 'Use more threads' }).waitFor()
    assert.equal(await page.locator('#threads').isVisible(), !site.isolated)
  }
  const paused = async (page) => {
    await page.getByRole('button', { name: 'Pause' }).click()
    // What was on its way is through once the worker has answered.
    const before = await step(page)
    await page.getByRole('button', { name: 'Step' }).click()
    await until(page, before + 1)
    await page.waitForTimeout(150)
    return step(page)
  }

  it('opens learning, with less than 350 kB and nothing computed on the page itself', async () => {
    // Nothing has been sent of this one.
    const fresh = await open(site)
    const { page, complaints, close } = await site.visit(fresh.url)
    await learning(page)
    const sent = [...fresh.bytes.values()].reduce((sum, size) => sum + size, 0)
    assert.ok(sent <= budget, `${sent} bytes before the first step`)
    assert.match(await text(page, 'fact-device'), /^wasm \(relaxed SIMD, /)
    assert.match(await text(page, 'fact-device'), threads(site))
    // The document's own scripts have no kernels, nor has what they import: they are the worker's.
    const own = new Map()
    const follow = async (address) => {
      if (own.has(address)) return
      own.set(address, '')
      own.set(address, await (await fetch(address)).text())
      for (const [, path] of own.get(address).matchAll(/(?:from|import)\s*"(\.\/[^"]+)"/g)) await follow(new URL(path, address).href)
    }
    const named = await page.locator('script[src]').evaluateAll((scripts) => scripts.map(({ src }) => src))
    for (const address of named) await follow(address)
    assert.ok(own.size > named.length, 'no import has been followed')
    for (const [address, script] of own) assert.doesNotMatch(script, /WebAssembly|requestAdapter/, address)
    await until(page, 30)
    const early = Number(await text(page, 'fact-loss'))
    await page.locator('#sample-0').filter({ hasText: /\S{3}/ }).waitFor()
    await until(page, 120)
    assert.ok(Number(await text(page, 'fact-loss')) < early)
    assert.match(await page.locator('#curve svg').getAttribute('aria-label'), /^Loss, nats a character, over \d+ steps: delta \d\.\d+\.$/)
    assert.deepEqual(complaints, [])
    await close()
    fresh.close()
  })

  it('pauses, steps, begins anew, goes slowly, and stops while nobody sees it', async () => {
    const { page, complaints, close } = await play('#1;width=16;layers=1')
    await until(page, 5)
    const at = await paused(page)
    await page.getByRole('button', { name: 'Step' }).click()
    await until(page, at + 1)
    assert.equal(await step(page), at + 1)
    // Slowly, so that the first steps are there to be seen.
    await page.locator('#set-pace').selectOption({ value: '1' })
    await page.getByRole('button', { name: 'Restart' }).click()
    await page.waitForFunction(() => Number(document.querySelector('#fact-step').textContent) <= 3)
    const slow = await step(page)
    await page.waitForTimeout(2500)
    assert.ok((await step(page)) - slow <= 4, 'more than a step a second')
    await page.locator('#set-pace').selectOption({ value: 'full' })
    const hide = (hidden) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true })
        document.dispatchEvent(new Event('visibilitychange'))
      }, hidden)
    await until(page, 5)
    await hide(true)
    await page.waitForTimeout(400)
    const hidden = await step(page)
    await page.waitForTimeout(500)
    assert.equal(await step(page), hidden)
    await hide(false)
    await until(page, hidden + 1)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('keeps its model where a reader goes to the content, and offers threads where there can be more, but not to a race, which can’t be taken along', async () => {
    const { page, complaints, close } = await play('#1;width=16;layers=1')
    await offered(page)
    await until(page, 5)
    const at = await paused(page)
    const address = page.url()
    await page.locator('.skip').focus()
    await page.keyboard.press('Enter')
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main')
    await page.waitForTimeout(400)
    assert.equal(await step(page), at)
    assert.equal(page.url(), address)
    assert.equal(await page.locator('#set-width').inputValue(), '16')
    await page.locator('#add').selectOption('sum')
    await page.locator('#samples .lane').nth(1).waitFor()
    assert.equal(await page.locator('#threads').isVisible(), false)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('leaves a text where it is dropped to be edited, and learns one that is dropped elsewhere', async () => {
    const { page, close } = await play('#1;width=16;layers=1')
    const dropped = (id) =>
      page.evaluate((id) => {
        const dataTransfer = new DataTransfer()
        dataTransfer.setData('text/plain', 'A text from elsewhere. '.repeat(20))
        const events = ['dragover', 'drop'].map((type) => new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }))
        return events.map((event) => document.querySelector(`#${id}`).dispatchEvent(event))
      }, id)
    for (const id of ['own', 'prompt']) assert.deepEqual(await dropped(id), [true, true], id)
    await page.waitForTimeout(300)
    assert.match(await text(page, 'text-state'), /^It learns the page’s own text/)
    assert.deepEqual(await dropped('samples'), [false, false])
    await shows(page, 'text-state', 'It learns your text')
    await close()
  })

  it('has its settings in the address, and says what of one it can’t use', async () => {
    const { page, complaints, close } = await play()
    await page.locator('#set-width').selectOption('32')
    await page.locator('#add').selectOption('softmax')
    await page.waitForURL('**/#1;rule=delta,softmax;width=32')
    await page.locator('#samples .lane').nth(1).waitFor()
    const link = page.url()
    await page.getByRole('button', { name: 'Take softmax out of the race' }).click()
    await page.waitForURL('**/#1;width=32')
    await page.goto('about:blank')
    await page.goto(link)
    await learning(page)
    assert.equal(await page.locator('#set-width').inputValue(), '32')
    assert.match(await page.locator('#racers').textContent(), /^softmax/)
    await page.evaluate(() => {
      location.hash = '#1;width=77;layers=1;text=own'
    })
    await shows(page, 'problems', /width can't be “77”\. The link was made with a text of somebody’s own/)
    assert.equal(await page.locator('#set-layers').inputValue(), '1')
    // What makes no sense together is refused in words, and the model that was there goes on.
    await page.locator('#set-rule').selectOption('linear-attention')
    await shows(page, 'samples', 'linear-attention')
    await page.locator('#set-map').selectOption('identity')
    await shows(page, 'problems', /What was there goes on\.$/)
    assert.equal(await page.locator('#set-map').inputValue(), 'auto')
    const at = await step(page)
    await until(page, at + 3)
    // Nor does a link that asks for it leave a page without a model.
    await page.goto('about:blank')
    await page.goto(`${site.url}#1;rule=linear-attention;map=identity`)
    await learning(page)
    assert.match(await text(page, 'problems'), /^The rule linear-attention divides by/)
    assert.equal(await page.locator('#set-rule').inputValue(), 'delta')
    assert.deepEqual(complaints, [])
    await close()
  })

  it('frees what it no longer needs: bytes in use are the same after 200 changes', async () => {
    const { page, close } = await play('#1;width=16;layers=1')
    const bytes = async () => {
      await paused(page)
      return page.locator('#fact-bytes').getAttribute('data-bytes')
    }
    const before = await bytes()
    await page.getByRole('button', { name: 'Go on' }).click()
    await page.evaluate(async () => {
      const choose = (name, value) => {
        const select = document.querySelector(`#set-${name}`)
        select.value = value
        select.dispatchEvent(new Event('change'))
      }
      for (let i = 0; i < 200; i++) {
        choose('width', i % 2 === 0 ? '32' : '16')
        if (i % 20 === 0) choose('task', ['copy', 'text', 'parity', 'text', 'retrieval'][(i / 20) % 5])
        // Some of them train.
        await new Promise((done) => setTimeout(done, i % 10 === 0 ? 150 : 10))
      }
      choose('task', 'text')
      choose('width', '16')
    })
    await page.waitForTimeout(300)
    await until(page, 3)
    assert.equal(await bytes(), before)
    await close()
  })

  it('learns the tasks, and says how much is right', async () => {
    const { page, complaints, close } = await play('#1;task=copy;width=32')
    for (const task of ['copy', 'parity', 'retrieval']) {
      await page.locator('#set-task').selectOption(task)
      await shows(
        page,
        'sample-0',
        /^\d+ % right in sequences it hasn’t seen, counting (places|sequences|share of each sequence|classes); by chance \d+ %/,
      )
    }
    assert.deepEqual(complaints, [])
    await close()
  })

  it('learns texts of one’s own, whatever is in them', async () => {
    const { page, complaints, close } = await play('#1;width=16;layers=1')
    const own = page.getByRole('textbox', { name: /^Paste or type/ })
    const learn = async (what) => {
      await own.fill(what)
      await page.getByRole('button', { name: 'Learn this text' }).click()
    }
    await learn('abc')
    await shows(page, 'file-problem', /^The text is too short.* What was there goes on\.$/)
    await learn(`\ufeff${'🙂 says hello to 🙃. '.repeat(30)}`)
    await shows(page, 'text-state', 'It learns your text: 12 symbols.')
    await page.waitForURL('**text=own')
    await learn('<img src=x onerror="document.title=1"></script><script>document.title=2</script>\u202e\u0000\u0007 '.repeat(20))
    await shows(page, 'preview', '<img src=x onerror=')
    await until(page, 3)
    assert.equal(await page.title(), 'Watch a memory learn · fastweights')
    assert.equal(await page.locator('#preview img, #tokens img, .sample img').count(), 0)
    // A file: five million bytes, with a mark of byte order and line ends of Windows.
    const large = `\ufeff${'All work and no play makes Jack a dull boy.\r\n'.repeat(110_000)}`
    const file = page.locator('#file')
    await file.setInputFiles({ name: 'jack.txt', mimeType: 'text/plain', buffer: Buffer.from(large) })
    await shows(page, 'text-state', /It learns jack\.txt: \d+ symbols\./)
    await until(page, 3)
    for (const [name, buffer, words] of [
      ['latin.txt', Buffer.from('déjà vu '.repeat(50), 'latin1'), /^Latin\.txt isn't valid UTF-8: byte 0xe9 at offset 1;/],
      ['empty.txt', Buffer.alloc(0), 'empty.txt is empty.'],
      ['picture.png', Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex'), /^Picture\.png is a PNG/],
    ]) {
      await file.setInputFiles({ name, mimeType: 'text/plain', buffer })
      await shows(page, 'file-problem', words)
    }
    const at = await step(page)
    await until(page, at + 3)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('saves what the command reads, and opens what the command has trained', async () => {
    const { page, complaints, close } = await play('#1;width=16;layers=1;heads=2')
    const command = (...words) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'dist/node/cli/main.js'), ...words], {
        cwd: folder,
        encoding: 'utf8',
      })
      assert.equal(status, 0, stderr)
      return stdout
    }
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save the model' }).click()])
    assert.equal(download.suggestedFilename(), 'checkpoint.safetensors')
    const saved = join(folder, 'checkpoint.safetensors')
    await download.saveAs(saved)
    assert.match(command('generate', '--run', saved, '--prompt', 'Mara ', '--length', '5'), /^Mara .{5}/s)
    command('inspect', saved, '--prompt', 'Mara keeps', '--json', join(folder, 'inspect.json'))
    assert.equal(JSON.parse(readFileSync(join(folder, 'inspect.json'), 'utf8')).tokens.length, 10)

    writeFileSync(join(folder, 'own.txt'), 'Mara has a lamp. Tom has a key.\n'.repeat(200))
    command(
      'train',
      '--text',
      'own.txt',
      '--steps',
      '3',
      '--out',
      'run',
      '--d-model',
      '16',
      '--heads',
      '2',
      '--layers',
      '2',
      '--d-ff',
      '32',
      '--seq-len',
      '32',
      '--prompt',
      'Mara',
    )
    const trained = readFileSync(join(folder, 'run/checkpoint.safetensors'))
    const file = page.locator('#file')
    const drop = (name, buffer) => file.setInputFiles({ name, mimeType: 'application/octet-stream', buffer })
    await drop('run.safetensors', trained)
    await shows(page, 'samples', /comba of run\.safetensors/)
    await shows(page, 'of-file', /^The model comes from run\.safetensors\./)
    await page.getByRole('button', { name: 'Copy the link' }).click()
    await shows(page, 'state', /Nor is the model of run\.safetensors/)
    // Its characters aren't those of the page's text: it reads and writes, and says why it doesn't learn.
    await shows(page, 'file-problem', /can’t learn from the text that is open/)
    await page.locator('.memory').scrollIntoViewIfNeeded()
    await page.locator('#prompt').fill('Mara has a lamp.')
    await page.locator('#picture-after').waitFor()
    // Beside its own text it goes on.
    await page.locator('#own').fill(readFileSync(join(folder, 'own.txt'), 'utf8'))
    await page.getByRole('button', { name: 'Learn this text' }).click()
    await shows(page, 'text-state', /It learns your text/)
    assert.equal(await page.locator('#of-file').isVisible(), false)
    await drop('run.safetensors', trained)
    await shows(page, 'samples', /comba of run\.safetensors/)
    await until(page, 6)
    const broken = Buffer.from(trained)
    broken.fill(0x7b, 8, 60)
    for (const [name, buffer, words] of [
      ['cut.safetensors', trained.subarray(0, 4000), /^Cut\.safetensors can’t be used: /],
      ['broken.safetensors', broken, /^Broken\.safetensors can’t be used: /],
      ['other.safetensors', Buffer.from('not a model at all, but long enough to look at'), /^Other\.safetensors can’t be used: /],
    ]) {
      await drop(name, buffer)
      await shows(page, 'file-problem', words)
    }
    const at = await step(page)
    await until(page, at + 3)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('shows a memory character by character, by keyboard, mouse and finger', async () => {
    const { page, complaints, close } = await play('', { hasTouch: true })
    await until(page, 40)
    await page.getByRole('button', { name: 'Pause' }).click()
    await page.locator('.memory').scrollIntoViewIfNeeded()
    await page.locator('#prompt').fill('Mara keeps a lamp. Tom keeps a rope.')
    const slider = page.getByRole('slider', { name: 'Token' })
    await page.waitForFunction(() => document.querySelector('#token').max === '36')
    const words = async () => {
      await page.waitForTimeout(120)
      return Promise.all(['before', 'written', 'after'].map((name) => page.locator(`#picture-${name} svg`).getAttribute('aria-label')))
    }
    await slider.focus()
    await page.keyboard.press('Home')
    assert.match(await slider.getAttribute('aria-valuetext'), /^1 of 36: token 1 \(“M”\)$/)
    assert.match((await words())[0], /norm 0\.$/)
    await page.keyboard.press('ArrowRight')
    const [before, written] = await words()
    assert.match(before, /^The matrix before\. S, 16 by 16, before token 2 \(“a” in “Ma”\): norm [\d.]+\.$/)
    assert.match(written, /of size [\d.]+: the key, at the left, times the vector above\.$/)
    assert.match(await text(page, 'story'), /beta [\d.]+.*What is written has size [\d.]+: it is the outer product of the key/)
    await page.locator('#tokens > span').nth(9).hover()
    assert.equal(await slider.inputValue(), '10')
    await page.locator('#tokens > span').nth(20).tap()
    assert.equal(await slider.inputValue(), '21')
    const shades = () => page.locator('#tokens > span').evaluateAll((spans) => spans.map((span) => span.style.getPropertyValue('--part')))
    assert.ok((await shades()).some((part) => Number(part) === 1))
    // The delta rule corrects, the sum adds: on the same weights pairs get in each other's way.
    const held = async () => Number(/after it (−?[\d.]+)\./.exec(await text(page, 'story'))[1].replace('−', '-'))
    await page.keyboard.press('End')
    await slider.focus()
    await page.keyboard.press('End')
    const delta = await held()
    await page.getByRole('button', { name: 'sum rule, same weights' }).click()
    await page.locator('#readings [data-rule=sum][aria-pressed=true]').waitFor()
    assert.ok((await held()) < delta, 'the sum rule keeps the last pair no better')
    const expected = [...(await text(page, 'next')).matchAll(/“.” (\d+) %/g)].map(([, percent]) => Number(percent))
    assert.equal(expected.length, 4)
    assert.deepEqual(
      expected,
      expected.toSorted((a, b) => b - a),
    )
    for (const picture of ['recall', 'alike', 'similarity', 'attention', 'retrieval', 'retrieved'])
      await page.locator(`#picture-${picture}`).waitFor()
    await page.locator('#layer').selectOption('1')
    await page.locator('#head').selectOption({ value: '2' })
    await page.waitForTimeout(300)
    assert.equal(await page.locator('#head').inputValue(), '2')
    await page.waitForURL('**/#1;layer=2;head=3')
    await page.locator('#prompt').fill('Mara ¿')
    await shows(page, 'memory-problem', /character "¿"/i)
    // Where it was looked at is in the address.
    await page.reload()
    await learning(page)
    await page.locator('.memory').scrollIntoViewIfNeeded()
    await page.waitForFunction(() => document.querySelector('#layer').value === '1' && document.querySelector('#head').value === '2')
    assert.deepEqual(complaints, [])
    await close()
  })

  it('can be used by keyboard alone: every control is reached, seen and left', async () => {
    const { page, complaints, close } = await play('#1;width=16;layers=1')
    await until(page, 5)
    // The memory is there once it has been in view.
    await page.locator('.memory').scrollIntoViewIfNeeded()
    await page.locator('#picture-gates-0').waitFor()
    await page.evaluate(() => scrollTo(0, 0))
    const focused = () =>
      page.evaluate(() => {
        const { activeElement: e } = document
        const { outlineStyle, outlineWidth } = getComputedStyle(e)
        // Behind the last control is the browser's own.
        return {
          id: e.id || e.textContent.trim().slice(0, 40),
          seen: e === document.body || (outlineStyle !== 'none' && outlineWidth !== '0px'),
        }
      })
    /** Goes on by Tab to the control, past others, of which each shows that it has the focus. */
    const reached = async (id) => {
      for (let presses = 0; presses < 80; presses++) {
        await page.keyboard.press('Tab')
        const found = await focused()
        assert.ok(found.seen, `${found.id} doesn't show that it has the focus`)
        if (found.id === id) return
      }
      assert.fail(`${id} isn't reached`)
    }
    await reached('run')
    await page.keyboard.press('Enter')
    await page.getByRole('button', { name: 'Go on' }).waitFor()
    await reached('set-width')
    await page.keyboard.press('3')
    await page.waitForURL('**/#1;width=32;layers=1')
    await reached('token')
    await page.keyboard.press('Home')
    assert.match(await page.locator('#token').getAttribute('aria-valuetext'), /^1 of /)
    await page.keyboard.press('ArrowRight')
    assert.match(await page.locator('#token').getAttribute('aria-valuetext'), /^2 of /)
    await reached('pairs')
    const pairs = Number(await page.locator('#pairs').inputValue())
    await page.keyboard.press('ArrowRight')
    assert.equal(Number(await page.locator('#pairs').inputValue()), pairs + 1)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('can be used by touch, on a phone', async () => {
    const { page, complaints, close } = await play('#1;width=16;layers=1', {
      viewport: { width: 360, height: 740 },
      hasTouch: true,
      isMobile: true,
    })
    await until(page, 5)
    await page.getByRole('button', { name: 'Pause' }).tap()
    await page.getByRole('button', { name: 'Go on' }).waitFor()
    await page.locator('#fold > summary').tap()
    await page.locator('#set-width').tap()
    await page.locator('#set-width').selectOption('32')
    await page.waitForURL('**/#1;width=32;layers=1')
    await page.locator('.memory').scrollIntoViewIfNeeded()
    await page.locator('#tokens > span').nth(4).tap()
    assert.match(await page.locator('#token').getAttribute('aria-valuetext'), /^5 of /)
    const toggle = page.getByRole('button', { name: 'sum rule, same weights' })
    await toggle.tap()
    await page.locator('#readings [data-rule=sum][aria-pressed=true]').waitFor()
    // Fingers need room: no control is less than 24 pixels high.
    const small = await page
      .locator('button:visible, select:visible, input:visible:not([type=file])')
      .evaluateAll((all) => all.filter((e) => e.getBoundingClientRect().height < 24).map((e) => e.id || e.textContent))
    assert.deepEqual(small, [])
    assert.deepEqual(complaints, [])
    await close()
  })

  for (const reducedMotion of ['reduce', 'no-preference'])
    it(`shows a sample ${reducedMotion === 'reduce' ? 'once it is whole to who wants no motion' : 'as it is written'}`, async () => {
      // For its worker, which shows what it has after 40 ms, each look at the clock takes that long.
      const slow = 'const now = performance.now.bind(performance); let looks = 0; performance.now = () => now() + 40 * looks++;'
      const { page, close } = await patched('#1;width=16;layers=1', slow, { reducedMotion })
      const texts = await page.evaluate(
        () =>
          new Promise((done) => {
            const place = document.querySelector('#sample-0')
            const texts = [place.textContent]
            new MutationObserver(() => texts.push(place.textContent) > 5 && done(texts)).observe(place, {
              childList: true,
              characterData: true,
              subtree: true,
            })
          }),
      )
      const grows = texts.some(
        (text, i) => i > 0 && text.length > texts[i - 1].length && texts[i - 1] !== '' && text.startsWith(texts[i - 1]),
      )
      assert.equal(grows, reducedMotion !== 'reduce', texts.join('\n'))
      await close()
    })

  it('measures capacity as it is dragged: it breaks where the features end', async () => {
    const { page, close } = await play('#1;width=16;layers=1')
    await page.locator('.capacity').scrollIntoViewIfNeeded()
    const found = async (pairs, width, map) => {
      await page.locator('#key-map').selectOption(map)
      await page.locator('#key-width').fill(`${width}`)
      await page.locator('#pairs').fill(`${pairs}`)
      const figure = page.locator('#capacity svg').first()
      await page.waitForFunction(
        (words) => document.querySelector('#capacity svg')?.getAttribute('aria-label').includes(words),
        `after ${pairs} pairs`,
      )
      return figure.getAttribute('aria-label')
    }
    assert.match(await found(16, 16, 'identity'), /sum 1\.00, delta 1\.00; 16 features/)
    assert.match(await found(80, 16, 'identity'), /sum 0\.\d+, delta 0\.\d+; 16 features/)
    const crowded = /sum (0\.\d+), delta (0\.\d+);/.exec(await page.locator('#capacity svg').nth(1).getAttribute('aria-label'))
    assert.ok(Number(crowded[1]) > Number(crowded[2]), 'delta, which overwrites, keeps less than sum')
    await shows(page, 'capacity-words', /room for 16 pairs\. .*the delta rule overwrites/)
    assert.match(await found(32, 32, 'identity'), /sum 1\.00, delta 1\.00; 32 features/)
    const lost = /delta (0\.\d+); 128 features/.exec(await found(100, 32, 'dpfp-2'))
    assert.ok(Number(lost[1]) < 1)
    assert.match(await text(page, 'capacity-words'), /^128 features\. The keys are orthogonal before the feature map and not after it/)
    assert.match(await found(33, 32, 'dpfp-2'), /; 128 features/)
    await page.waitForURL('**/#1;width=16;layers=1;pairs=33;keyWidth=32;keyMap=dpfp-2')
    await page.reload()
    await page.waitForFunction(() => document.querySelector('#capacity svg')?.getAttribute('aria-label').includes('after 33 pairs'))
    assert.equal(await page.locator('#key-map').inputValue(), 'dpfp-2')
    await close()
  })

  it('has threads with the headers, and else takes its model along to them; and keeps itself for offline', async () => {
    const { page, complaints, close } = await play('#1;width=32')
    assert.match(await text(page, 'fact-device'), threads(site))
    await offered(page)
    if (!site.isolated) {
      await until(page, 50)
      await page.locator('#threads').click()
      await page.waitForFunction(() => crossOriginIsolated)
      await shows(page, 'samples', 'delta of the model')
      await until(page, 51)
      assert.match(await text(page, 'fact-device'), threads({ isolated: true }))
      assert.equal(await page.locator('#threads').isVisible(), false)
    }
    await page.context().setOffline(true)
    await page.reload()
    await learning(page)
    await page.getByRole('link', { name: 'fastweights' }).click()
    await learning(page)
    assert.deepEqual(complaints, [])
    await page.goto(`${site.url}study`)
    assert.equal(page.url(), `${site.url}study/`)
    await page.goto(`${site.url}no/such/page`)
    assert.match(await page.locator('h1').textContent(), /no page at this address/)
    await page.waitForFunction((url) => document.querySelector('[data-to]').href === url, site.url)
    await close()
  })

  /** A page whose worker finds this before its own script. */
  async function patched(hash, code, options = {}) {
    const prepare = (page) =>
      page.route('**/playground-worker.js', async (route) => {
        const response = await route.fetch()
        await route.fulfill({ response, body: code + (await response.text()) })
      })
    return play(hash, { ...options, prepare })
  }

  it('trains without relaxed SIMD', async () => {
    const { page, complaints, close } = await patched('', 'WebAssembly.validate = () => false;')
    assert.match(await text(page, 'fact-device'), /^wasm \(SIMD, /)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('says where there is no WebGPU, and goes on with what there is', async () => {
    const { page, complaints, close } = await patched('#1;device=webgpu', "Object.defineProperty(navigator, 'gpu', { value: undefined });")
    assert.match(await text(page, 'fact-device'), /^wasm/)
    assert.match(await text(page, 'problems'), /no WebGPU here/)
    await page.locator('#set-device').selectOption('webgpu')
    await shows(page, 'problems', /no WebGPU here.*What was there goes on\.$/)
    assert.deepEqual(complaints, [])
    await close()
  })

  it('trains on WebGPU, and when that is lost goes on with wasm from where it was', async () => {
    const lend =
      'const { requestDevice } = GPUAdapter.prototype; GPUAdapter.prototype.requestDevice = async function (...all) { return (globalThis.lent = await requestDevice.apply(this, all)) };'
    const { page, close } = await patched('#1;device=webgpu;width=16;layers=1;heads=1;task=copy', lend)
    assert.match(await text(page, 'fact-device'), /^webgpu/)
    await until(page, 4)
    const [worker] = page.workers()
    await worker.evaluate(() => globalThis.lent.destroy())
    await shows(page, 'state', /^The GPU is lost .*Training goes on with wasm from step \d+\.$/)
    assert.ok(Number(/from step (\d+)/.exec(await text(page, 'state'))[1]) >= 1)
    assert.match(await text(page, 'fact-device'), /^wasm/)
    const at = await step(page)
    await until(page, at + 3)
    await close()
  }).timeout(120_000)

  for (const [width, colorScheme] of [
    [360, 'dark'],
    [768, 'light'],
    [1440, 'dark'],
  ])
    it(`fits ${width} pixels, ${colorScheme}, and everybody can use it`, async () => {
      const { page, complaints, close } = await play('#1;rule=delta,sum', {
        viewport: { width, height: 800 },
        colorScheme,
        reducedMotion: 'reduce',
      })
      await page.locator('.memory').scrollIntoViewIfNeeded()
      await page.locator('#picture-gates-0').waitFor()
      await page.getByRole('button', { name: 'Pause' }).click()
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width)
      assert.deepEqual(await cut(page), [])
      // axe-core doesn't look at these: they have the colour of what it looks at.
      const [hint, soft] = await page.evaluate(() => [
        getComputedStyle(document.querySelector('textarea'), '::placeholder').color,
        getComputedStyle(document.querySelector('footer.site')).color,
      ])
      assert.equal(hint, soft)
      assert.deepEqual(await violations(page), [])
      assert.deepEqual(complaints, [])
      await close()
    })
})
