/** The benchmark of a card, on a GPU that the CPU imitates, at small sizes; what it counts on paper. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { counted } from '../roofline.mjs'

const run = async (...given) => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [fileURLToPath(new URL('../main.mjs', import.meta.url)), 'webgpu', ...given, '--json', '-'],
    { maxBuffer: 2 ** 24 },
  )
  return JSON.parse(stdout).benchmarks[0]
}

describe('bench -- webgpu', () => {
  it('counts what a product computes and moves', async () => {
    // Beside it what waits for it, one multiplication and addition.
    assert.deepEqual(await counted('product', { n: 32 }), { dispatches: 2, operations: 2 * 32 ** 3 + 2, bytes: 4 * (3 * 32 ** 2 + 2) })
  })

  it('--counts gives the dispatches of a step, the bytes that they move, and what a replay makes', async () => {
    const { totals, moved, replay } = (await run('--counts')).counts
    const sums = (rows) => rows[0].slice(1).map((_, i) => rows.slice(0, -1).reduce((sum, row) => sum + row[i + 1], 0))
    assert.deepEqual(totals.at(-1), ['the step', 126, 132, 332])
    assert.deepEqual(sums(totals), [126, 132, 332])
    for (const [i, sum] of sums(moved).entries()) assert.ok(sum > 100 && Math.abs(sum - moved.at(-1)[i + 1]) <= 2, `${sum}`)
    const of = Object.fromEntries(replay.map(([name, ...values]) => [name, values]))
    assert.deepEqual(of['a replay: bind groups made'], [0, 0, 0])
    assert.deepEqual(of['a replay: passes'], [1, 1, 1])
  })

  it('measures products, recurrences, a step and a text, against what the adapter does at most', async function () {
    this.timeout(300_000)
    const { card } = await run('--quick', '--rounds', '1')
    assert.deepEqual([...new Set(card.results.map(({ group }) => group))], ['products', 'recurrences', 'training steps', 'text'])
    for (const { name, amount, counts, entries } of card.results) {
      const [ours] = entries
      assert.equal(ours.failed, undefined, name)
      assert.ok(amount > 0 && counts.operations > 0 && counts.bytes > 0 && ours.seconds.median > 0, name)
      assert.equal(ours.host > 0, name !== 'one text')
    }
    for (const peak of ['operations', 'bandwidth', 'dispatch', 'host']) assert.ok(card.peaks[peak] > 0, peak)
    // Where there is no PyTorch it says so.
    for (const { entries } of card.results) for (const { failed, label } of entries) assert.equal(failed, undefined, label)
    assert.equal(typeof (card.peers.missing ?? card.peers.version), 'string')
  })
})
