import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { ended, shown, Workplace } from './command.ts'

describe('fastweights generate', () => {
  const place = new Workplace()
  before(() => Promise.all([place.train('--out runs/float32'), place.train('--out double --device reference')]))
  after(place.remove)
  const generate = (words: string): Promise<string> => place.succeed(`generate --run runs/float32 ${words}`)

  it('continues the prompt by so many characters, the same for the same seed', async () => {
    const text = await generate('--prompt Why --length 50')
    assert.match(text, /^Why[\s\S]{50}\n$/)
    const [again, one, other] = await Promise.all(
      ['2', '1', '1 --seed 2'].map((rest) => generate(`--prompt Why --length 50 --threads ${rest}`)),
    )
    assert.equal(again, text)
    assert.equal(one, text)
    assert.notEqual(other, text)
    assert.equal(await generate('--prompt Why --length 0'), 'Why\n')
  })

  it('takes the likeliest at temperature 0 and with one candidate, whatever the seed', async () => {
    const [a, b, c] = await Promise.all(
      ['--temperature 0', '--temperature 0 --seed 9', '--top-k 1 --seed 5 --temperature 3'].map((rest) => generate(`--length 60 ${rest}`)),
    )
    assert.match(a, /^It is/)
    assert.equal(b, a)
    assert.equal(c, a)
  })

  it('takes the folder, the file, or the latest run, and any precision', async () => {
    const words = 'generate --length 10 --temperature 0'
    const expected = await generate('--length 10 --temperature 0')
    place.write('runs/stray', 'a file among the runs')
    mkdirSync(place.path('runs/empty'))
    assert.equal(await place.succeed(words), expected)
    assert.equal(await place.succeed(`${words} --run runs/float32/checkpoint.safetensors`), expected)
    const double = await place.succeed(`${words} --run double --device reference`)
    assert.equal(await place.succeed(`${words} --run double`), double)
  })

  it('writes control characters as escapes, and with --raw as they are', async () => {
    place.write('codes.txt', 'It is \u001b[31m\u009b2J\u202e so.\n\t'.repeat(80))
    await place.succeed('train --text codes.txt --config tiny.json --steps 40 --out codes')
    const words = ['generate', '--run', 'codes', '--length', '80', '--prompt', 'It\u001b\u009b\t']
    const [shown, raw] = await Promise.all([place.succeed(words), place.succeed([...words, '--raw'])])
    assert.ok(raw.startsWith('It\u001b\u009b\t') && raw.length === 5 + 80 + 1)
    assert.match(shown, /^It\\u001b\\u009b\t/)
    assert.doesNotMatch(shown, /[^\P{Cc}\n\t]|\p{Bidi_C}/u)
    assert.equal(
      shown.replace(/\\u([0-9a-f]{4})/g, (_, code) => String.fromCharCode(Number.parseInt(code, 16))),
      raw,
    )
  })

  it('ends when its reader leaves', async () => {
    const child = place.start('generate --run runs/float32 --length 100000000')
    const result = ended(child)
    await shown(child, 'It is')
    child.stdout!.destroy()
    assert.deepEqual({ ...(await result), stdout: '' }, { code: 0, stdout: '', stderr: '' })
  })
})
