/** The benchmark of a card, on a GPU that the CPU imitates, at small sizes; what it counts on paper. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { counted } from '../roofline.mjs'

const pathOf = (name) => fileURLToPath(new URL(name, import.meta.url))
const bench = (given, env = {}) =>
  promisify(execFile)(process.execPath, [pathOf('../main.mjs'), 'webgpu', ...given], {
    maxBuffer: 2 ** 24,
    env: { ...process.env, ...env },
    timeout: 100_000,
  })
const run = async (...given) => JSON.parse((await bench([...given, '--json', '-'])).stdout).benchmarks[0]

describe('bench -- webgpu', () => {
  it('counts what a product computes and moves', async () => {
    // Beside it what waits for it, one multiplication and addition.
    assert.deepEqual(await counted('product', { n: 32 }), { dispatches: 2, operations: 2 * 32 ** 3 + 2, bytes: 4 * (3 * 32 ** 2 + 2) })
  })

  it('--counts gives the dispatches of a step, the bytes that they move, and what a replay makes', async () => {
    const { totals, moved, replay } = (await run('--counts')).counts
    const sums = (rows) => rows[0].slice(1).map((_, i) => rows.slice(0, -1).reduce((sum, row) => sum + row[i + 1], 0))
    assert.deepEqual(totals.at(-1), ['the step', 126, 132, 300])
    assert.deepEqual(sums(totals), [126, 132, 300])
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

  for (const [how, why] of [
    ['dies', 'the process ended (3) Segmentation fault'],
    ['dies unasked', 'the process ended (3)'],
    ['loses the card', 'RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered'],
  ])
    it(`where PyTorch ${how}, says so in its place, and the next row begins anew`, async function () {
      this.timeout(100_000)
      const given = ['--quick', '--rounds', '1', '--only', 'recurrences: delta', '--python', pathOf('peer.mjs'), '--json', '-']
      const { stdout } = await bench(given, { PEER: how })
      const [forward, backward] = JSON.parse(stdout).benchmarks[0].card.results.map(({ entries }) => entries)
      assert.equal(forward[0].failed, undefined)
      // The other one's samples went with the process.
      const failures = forward.slice(1).map(({ failed }) => failed)
      assert.equal(failures.length, 2)
      for (const failed of failures) assert.ok(failed?.endsWith(why), failed)
      assert.equal(failures.filter((failed) => failed.startsWith('as PyTorch, ')).length, 1)
      assert.deepEqual(
        backward.map(({ samples, failed }) => [samples.length, failed]),
        [1, 1, 1].map((samples) => [samples, undefined]),
      )
    })

  it('ends where PyTorch cannot say what there is', async function () {
    this.timeout(100_000)
    await assert.rejects(bench(['--quick', '--only', 'products', '--python', pathOf('peer.mjs')], { PEER: 'knows nothing' }), {
      code: 1,
      killed: false,
      stderr: /bench: RuntimeError: no driver\n$/,
    })
  })

  it('refuses two of what stands alone, and what is nowhere', async () => {
    for (const [given, told] of [
      [['--counts', '--roofline'], '--counts, --roofline: each of them stands alone'],
      [['--quick', '--roofline'], '--quick, --roofline: each of them stands alone'],
      [['--quick', '--python', '/none'], '--python: /none has no PyTorch: spawnSync /none ENOENT'],
    ])
      await assert.rejects(bench(given), { code: 2, stderr: `bench: ${told}; see --help\n` })
  })
})
