/** `train --dry-run`: what it says beside what a run reports. Times are not compared: they depend on what else the machine does. */
import assert from 'node:assert/strict'
import { millisecondsOf, type Pace } from '../../cli/pace.ts'
import { Workplace } from './command.ts'

describe('fastweights train --dry-run', () => {
  const place = new Workplace()
  after(place.remove)

  const scales: Record<string, number> = { kB: 1e3, MB: 1e6, GB: 1e9 }
  /** The numbers of bytes in the last line that begins so and has some. */
  function bytesIn(stdout: string, name: string): number[] {
    const lines = stdout.split('\n').filter((line) => line.startsWith(name))
    const found = lines.map((line) => [...line.matchAll(/([\d.]+) ([kMG]B)/g)]).findLast((all) => all.length > 0)
    assert.ok(found, `no line '${name}' with bytes in ${stdout}`)
    return found.map(([, n, unit]) => Number(n) * scales[unit])
  }

  for (const [device, options] of [
    ['wasm', '--d-model 96 --heads 4 --layers 3 --d-ff 200 --seq-len 96 --batch 8 --steps 6'],
    ['wasm', '--preset softmax --seq-len 300 --batch 6 --steps 3 --optimizer adamw --threads 1'],
    ['wasm', '--minutes 0.001 --d-model 64 --mixer aft-conv,fast-weights --layers 2 --batch 7 --seq-len 50'],
    ['wasm', '--d-model 128 --heads 4 --layers 4 --d-ff 512 --seq-len 96 --batch 6 --steps 1'],
    ['reference', '--steps 2'],
  ])
    it(`foretells the memory of a run to 10 %, and writes nothing: ${device}, ${options}`, async () => {
      const files = place.snapshot()
      const planned = await place.train(`--device ${device} ${options} --dry-run`)
      assert.deepEqual(place.snapshot(), files)
      const run = await place.train(`--device ${device} ${options} --out run-${options.length}`)
      const [inUse, reserved] = bytesIn(planned, '  memory')
      const [measured] = bytesIn(run, 'step ')
      assert.ok(inUse > 0)
      // The reference takes no memory ahead: what it reports is what it has in use between two steps.
      if (device === 'reference') assert.ok(reserved >= measured)
      else assert.ok(Math.abs(reserved / measured - 1) <= 0.1, `planned ${reserved}, measured ${measured}`)
      const [parameters] = bytesIn(planned, '  parameters')
      const count = Number(/^([\d,]+) parameters/m.exec(planned)![1].replaceAll(',', ''))
      const width = device === 'reference' ? 8 : 4
      assert.ok(Math.abs(parameters / (width * count) - 1) <= 0.05, `${parameters} bytes of ${count} parameters`)
      for (const name of ['optimizer', 'activations', 'states']) assert.ok(bytesIn(planned, `  ${name}`)[0] > 0)
      assert.match(planned, /^ {2}a step {9}[\d.]+ ms, \d+ x \d+ characters: [\d,]+ a second$/m)
      assert.match(planned, /^ {2}the whole run {2}\d.*: steps 0 to \d+, evaluations, a sample of 20 characters$/m)
    })

  it('plans what is left of a run, beside a run that goes on', async () => {
    await place.train('--out begun --steps 3')
    place.write('begun/.lock', `${process.pid}`)
    const files = place.snapshot()
    const planned = await place.succeed('train --resume begun --steps 9 --dry-run')
    assert.deepEqual(place.snapshot(), files)
    assert.match(planned, /: steps 3 to 9, /)
  })

  it('refuses a picture, which it would have to write, and a folder that holds a run', async () => {
    const picture = await place.run('train --text text.txt --config tiny.json --dry-run --profile')
    assert.deepEqual([picture.code, picture.stderr], [2, 'fastweights: --profile: --dry-run writes nothing, and no picture\n'])
    const { code, stderr } = await place.run('train --text text.txt --config tiny.json --dry-run --out begun')
    assert.equal(code, 1)
    assert.match(stderr, /^fastweights: begun holds a run already/)
  })

  it('adds up a time: the first steps as they were, the others at the pace, evaluations and a sample', () => {
    const pace: Pace = { step: 100, evaluate: 0.5, sample: 7 }
    assert.equal(millisecondsOf({ steps: 5, evaluated: 1000, sample: 10 }, pace, [300, 200]), 300 + 200 + 3 * 100 + 500 + 70)
    assert.equal(millisecondsOf({ steps: 1, evaluated: 0, sample: 0 }, pace, [300, 200]), 300)
    assert.equal(millisecondsOf({ steps: 0, evaluated: 0, sample: 0 }, pace, [300]), 0)
  })
})
