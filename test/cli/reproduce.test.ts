import assert from 'node:assert/strict'
import { cpSync, existsSync, readdirSync, rmSync } from 'node:fs'
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
    // The same, for itself, somewhere else: the same numbers.
    await place.succeed(`${capacity} --cell softmax_S20_seed1 --out there`)
    assert.match(await place.succeed(`${capacity} --cell softmax_S20_seed1 --out there`), /^softmax_S20_seed1 is done: /)
    cpSync(place.path('there/cells'), place.path('here/cells'), { recursive: true })
    const merged = await place.succeed(`${capacity} --report --out here`)
    assert.match(merged, /^2 runs, /m)
    assert.match(csv('here'), /^softmax,20,1,[\d.e-]+,0\.000634,\d+,solved,[\d.]+$/m)
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
    await shown(child, 'elu')
    child.kill('SIGINT')
    const { code, stdout } = await end
    assert.equal(code, 130)
    assert.match(stdout, /^stopped; the same command goes on$/m)
    assert.ok(readdirSync(place.path('stopped/cells')).every((file) => file.endsWith('.json')))
    const done = readdirSync(place.path('stopped/cells')).length
    assert.match(
      await place.succeed(`${capacity} --only softmax_S20_seed1 --out stopped`),
      new RegExp(`^1 cell, ${Math.min(done, 1)} of them done`, 'm'),
    )
  })

  it('says what is wrong', async () => {
    const wrong: [words: string, message: RegExp][] = [
      ['reproduce figure-7', /there is no figure 'figure-7' \(retrieval-capacity, /],
      ['reproduce retrieval-capacity parity-lengths', /one figure at a time: retrieval-capacity parity-lengths/],
      [`${capacity} --cell S20`, /--cell: there is no cell 'S20' \(--list names them\)/],
      [`${capacity} --cell softmax_S20_seed1 --shard 1/2`, /--shard: means nothing beside --cell/],
      [`${capacity} --only nothing`, /--only: no cell's name has 'nothing' in it/],
      [`${capacity} --shard 3/2`, /--shard: 3\/2 is no part of a whole/],
      [`${capacity} --shard half`, /--shard: expected I\/N, got "half"/],
      [`${capacity} --report --out empty`, /empty has no results of retrieval-capacity yet/],
      [`${capacity} --only softmax_S20 --out text.txt`, /can't write to the output folder text\.txt/],
    ]
    for (const [words, message] of wrong) {
      const { code, stderr } = await place.run(words)
      assert.ok(code !== 0, words)
      assert.match(stderr, message)
      assert.equal(lines(stderr).length, 1, stderr)
    }
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
