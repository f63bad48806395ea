import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { ended, shown, Workplace } from './command.ts'

describe('fastweights generate', () => {
  const place = new Workplace()
  /** Most commands here run in one process, one after the other. */
  let server: ReturnType<Workplace['server']>
  before(async () => {
    server = place.server()
    await Promise.all([server.train('--out runs/float32'), server.train('--out double --device reference')])
  })
  after(place.remove)
  const generate = (words: string): Promise<string> => server.succeed(`generate --run runs/float32 ${words}`)

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
    assert.equal(await server.succeed(`${words} --run runs/float32/checkpoint.safetensors`), expected)
    const double = await server.succeed(`${words} --run double --device reference`)
    assert.equal(await server.succeed(`${words} --run double`), double)
  })

  it('writes control characters as escapes, and with --raw as they are', async () => {
    place.write('codes.txt', 'It is \u001b[31m\u009b2J\u202e so.\n\t'.repeat(80))
    await server.succeed('train --text codes.txt --config tiny.json --steps 40 --out codes')
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

  it('makes several texts side by side, a line of JSON each: those that it makes one by one', async () => {
    place.write('prompts.txt', 'Why \nIt is so\r\na\nnot? a bird\n')
    const records = (text: string): { prompt: string; seed: number; text: string }[] =>
      text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line))
    const [all, three, one] = await Promise.all([
      generate('--prompts prompts.txt --length 30 --seed 7'),
      generate('--prompts prompts.txt --length 30 --seed 7 --batch 3 --threads 2'),
      generate('--prompt Why --length 30 --batch 2'),
    ])
    assert.equal(three, all)
    const found = records(all)
    assert.deepEqual(
      found.map(({ prompt, seed }) => [prompt, seed]),
      [
        ['Why ', 7],
        ['It is so', 8],
        ['a', 9],
        ['not? a bird', 10],
      ],
    )
    const alone = found.map(({ prompt, seed }) =>
      server.succeed(['generate', 'runs/float32', '--prompt', prompt, '--length', '30', '--seed', `${seed}`]),
    )
    assert.deepEqual(
      found.map(({ prompt, text }) => `${prompt}${text}\n`),
      await Promise.all(alone),
    )
    const twice = records(one)
    assert.deepEqual(
      twice.map(({ prompt, seed }) => [prompt, seed]),
      [
        ['Why', 1],
        ['Why', 2],
      ],
    )
    assert.notEqual(twice[0].text, twice[1].text)
  })

  it('refuses in one line prompts without a text, before it writes anything', async () => {
    place.write('strange.txt', 'Why\nWhy §\n')
    place.write('gap.txt', 'Why\n\nso\n')
    place.write('nothing.txt', '')
    await place.together(async (run) => {
      for (const [words, message] of [
        ['--prompts strange.txt', /^fastweights: strange\.txt: line 2: .*§/],
        ['--prompts gap.txt', /^fastweights: gap\.txt: line 2 is empty: each line is a prompt\n$/],
        ['--prompts nothing.txt', /^fastweights: nothing\.txt is empty\n$/],
        ['--prompts none.txt', /^fastweights: can't read none\.txt: no such file or folder\n$/],
        ['runs/float32', /^fastweights: --run: a run is given already, runs\/float32: give one of them\n$/],
        ['--prompts gap.txt --prompt Why', /^fastweights: --prompt and --prompts exclude each other: give one of them\n$/],
        ['--batch 0', /^fastweights: .*--batch.*\n$/],
      ] as const) {
        const { code, stdout, stderr } = await run(`generate --run runs/float32 ${words}`)
        assert.equal(stdout, '')
        assert.notEqual(code, 0)
        assert.match(stderr, message)
        assert.equal(stderr.trimEnd().split('\n').length, 1)
      }
    })
  })

  it('ends when its reader leaves', async () => {
    const child = place.start('generate --run runs/float32 --length 100000000')
    const result = ended(child)
    await shown(child, 'It is')
    child.stdout!.destroy()
    assert.deepEqual({ ...(await result), stdout: '' }, { code: 0, stdout: '', stderr: '' })
  })
})
