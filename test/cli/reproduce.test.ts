import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { figures } from '../../experiments/index.ts'
import { ended, shown, Workplace } from './command.ts'

describe('fastweights reproduce', () => {
  const place = new Workplace()
  after(place.remove)
  const capacity = 'reproduce retrieval-capacity'
  const lines = (text: string): string[] => text.trim().split('\n')
  const csv = (folder: string): string => place.read(`${folder}/table.csv`).toString()

  it('lists what there is, and how long it takes', async () => {
    const stdout = await place.succeed('reproduce')
    assert.match(stdout, /^retrieval-capacity +Setting 1: how many associations a memory holds: 180 cells, about .+ here$/m)
  })

  it('names cells; the shards of machines are all of them, each once', async () => {
    const all = lines(await place.succeed(`${capacity} --list --seeds 2`))
    assert.equal(all.length, 120)
    const shards = await Promise.all([1, 2, 3].map(async (i) => lines(await place.succeed(`${capacity} --list --seeds 2 --shard ${i}/3`))))
    assert.deepEqual(shards.flat().sort(), [...all].sort())
    for (const shard of shards) assert.equal(shard.length, 40)
    const some = lines(await place.succeed(`${capacity} --list --only DPFP-1_S40`))
    assert.deepEqual(some, ['DPFP-1_S40_seed1', 'DPFP-1_S40_seed2', 'DPFP-1_S40_seed3'])
  })

  it('trains what is missing, in processes of their own, and reports; results merge as files', async () => {
    const first = await place.succeed(`${capacity} --only DPFP-1_S20_ --seeds 1 --jobs 2 --out here`)
    assert.match(first, /^1 cell, 0 of them done; S to 200/m)
    assert.match(first, /^1\/1 cells .* DPFP-1_S20_seed1 done$/m)
    assert.match(first, /^\| DPFP-1 \| 20 +\| 0\.000783 \| 0\.000\d+ /m)
    for (const file of ['table.md', 'table.csv', 'results.json', 'figure.svg']) assert.ok(existsSync(place.path(`here/${file}`)), file)
    // By itself, somewhere else: the same numbers.
    for (const cell of ['softmax_S20_seed1', 'DPFP-1_S20_seed1']) await place.succeed(`${capacity} --cell ${cell} --out there`)
    const numbers = (folder: string): unknown => {
      const { seconds: _, processor: __, ...rest } = JSON.parse(place.read(`${folder}/cells/DPFP-1_S20_seed1.json`).toString())
      return rest
    }
    assert.deepEqual(numbers('there'), numbers('here'))
    assert.match(await place.succeed(`${capacity} --cell softmax_S20_seed1 --out there`), /^softmax_S20_seed1 is done: /)
    cpSync(place.path('there/cells'), place.path('here/cells'), { recursive: true })
    const merged = await place.succeed(`${capacity} --report --out here`)
    assert.match(merged, /^2 runs in float32 with fused multiply-add, /m)
    assert.match(csv('here'), /^softmax,20,1,[\d.e-]+,0\.000634,\d+,solved,[\d.]+,[\d.]+$/m)
    assert.match(csv('here'), /^DPFP-1,20,1,/m)
    const { results } = JSON.parse(place.read('here/results.json').toString())
    assert.deepEqual(
      results.map(({ cell, columns, values }: { cell: string; columns: number[]; values: number[] }) => [cell, columns, values.length]),
      [
        ['DPFP-1_S20_seed1', [20], 1],
        ['softmax_S20_seed1', [20], 1],
      ],
    )
    // Once more, with one that is done: nothing is trained twice.
    const again = await place.succeed(`${capacity} --only _S20_ --seeds 1 --shard 1/6 --out here`)
    assert.match(again, /^1 cell, 1 of them done; /m)
  })

  it('is stopped and goes on', async () => {
    const child = place.start(`${capacity} --only _S20_seed1 --jobs 1 --out stopped`)
    const end = ended(child)
    await shown(child, 'softmax_S20_seed1 done')
    child.kill('SIGINT')
    const { code, stdout } = await end
    assert.equal(code, 130)
    assert.match(stdout, /^stopped; the same command goes on$/m)
    assert.deepEqual(readdirSync(place.path('stopped/cells')), ['softmax_S20_seed1.json'])
    assert.match(await place.succeed(`${capacity} --only softmax_S20_seed1 --out stopped`), /^1 cell, 1 of them done/m)
  })

  it('stopped before anything is done, or with nothing to do, says so', async () => {
    const child = place.start(`${capacity} --only FAVORplus-64_S40_seed1 --jobs 1 --out none`)
    const end = ended(child)
    await shown(child, '0/1 cells')
    child.kill('SIGINT')
    const { code, stdout } = await end
    assert.equal(code, 130)
    assert.match(stdout, /^stopped; the same command goes on$/m)
    assert.match(await place.succeed(`${capacity} --only softmax_S20_ --seeds 1 --shard 2/8`), /^no cell falls to this part$/m)
  })

  it('names the cells that fail, and why', async () => {
    const { code, stderr } = await place.run(`${capacity} --only softmax_S40_ --seeds 1 --out failed --jobs 1 --simd 128`, {
      shell:
        'mkdir -p failed/cells/.softmax_S40_seed1.json && ln -s .softmax_S40_seed1.json failed/cells/softmax_S40_seed1.json && exec "$0" "$@"',
    })
    assert.equal(code, 1)
    assert.match(stderr, /softmax_S40_seed1/)
  })

  it('says what is wrong', async () => {
    const wrong: [words: string, message: RegExp][] = [
      ['reproduce figure-7', /there is no figure 'figure-7' \(retrieval-capacity, /],
      ['reproduce retrieval-updat', /there is no figure 'retrieval-updat': did you mean retrieval-update\?/],
      ['reproduce retrieval-capacity parity-lengths', /unexpected argument "parity-lengths"/],
      ['reproduce --jobs 2', /--jobs: means nothing without a name/],
      [`${capacity} --report --only DPFP`, /--only: means nothing with --report/],
      [`${capacity} --list --out x`, /--out: means nothing with --list/],
      [`${capacity} --cell S20`, /--cell: there is no cell 'S20' \(--list names them\)/],
      [`${capacity} --cell softmax_S20_seed1 --shard 1/2`, /--shard: means nothing with --cell/],
      [`${capacity} --only nothing`, /--only: no cell's name has 'nothing' in it/],
      [`${capacity} --shard 3/2`, /--shard: 3\/2 is no part of a whole/],
      [`${capacity} --shard half`, /--shard: expected I\/N, got "half"/],
      [`${capacity} --report --out empty`, /empty has no results of retrieval-capacity yet/],
      [`${capacity} --only softmax_S20 --out text.txt`, /can't write to the output folder text\.txt/],
      [`${capacity} --train text.txt`, /--train: retrieval-capacity needs no such file/],
      ['reproduce wikitext-2 --list --train text.txt', /--train: means nothing with --list/],
      ['reproduce wikitext-2 --train text.txt', /wikitext-2 needs --valid FILE: text to be measured on/],
      ['reproduce wikitext-2 --train text.txt --valid missing.txt', /missing\.txt/],
      ['reproduce wikitext-2 --train text.txt --valid text.txt --out words', /softmax_in-segments_seed1\.json is of another --train file/],
      [
        'reproduce wikitext-2 --cell delta_in-segments_seed1 --train text.txt --valid text.txt --out words',
        /softmax_in-segments_seed1\.json is of another --train file/,
      ],
      [
        'reproduce wikitext-2 --report --out old',
        /softmax_in-segments_seed1\.json was made with other settings, by another version; take it out/,
      ],
      [
        'reproduce wikitext-2 --report --out mixed',
        /softmax_in-segments_seed1\.json and mixed.cells.softmax_in-segments_seed2\.json are of different --valid files; take one of them out/,
      ],
    ]
    const of = { figure: 'wikitext-2', cell: 'softmax_in-segments_seed1', row: 'softmax', columns: ['in segments'], values: [1] }
    const times = { steps: 1, seconds: 1, processor: 1 }
    const { scaled } = figures['wikitext-2']
    const told = { seed: 1, ...times, end: 'step limit', arithmetic: 'wasm', scaled, files: { train: 'a', valid: 'b' } }
    mkdirSync(place.path('words/cells'), { recursive: true })
    place.write(`words/cells/${of.cell}.json`, JSON.stringify({ ...of, ...told }))
    mkdirSync(place.path('old/cells'), { recursive: true })
    place.write(`old/cells/${of.cell}.json`, JSON.stringify({ ...of, ...told, scaled: 'smaller' }))
    mkdirSync(place.path('mixed/cells'), { recursive: true })
    place.write(`mixed/cells/${of.cell}.json`, JSON.stringify({ ...of, ...told }))
    const other = { cell: 'softmax_in-segments_seed2', seed: 2, files: { train: 'a', valid: 'c' } }
    place.write(`mixed/cells/${other.cell}.json`, JSON.stringify({ ...of, ...told, ...other }))
    await place.together(async (run) => {
      for (const [words, message] of wrong) {
        const { code, stderr } = await run(words)
        assert.ok(code !== 0, words)
        assert.match(stderr, message)
        assert.equal(lines(stderr).length, 1, stderr)
      }
    })
    place.write('here/cells/other.json', '{"figure":"retrieval-capacity"}')
    assert.match(
      (await place.run(`${capacity} --report --out here`)).stderr,
      /other\.json isn't a result of retrieval-capacity; take it out/,
    )
    place.write('here/cells/other.json', '{')
    assert.match((await place.run(`${capacity} --report --out here`)).stderr, /can't read .*other\.json: /)
    rmSync(place.path('here/cells/other.json'))
  })
})
