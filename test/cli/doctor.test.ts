import assert from 'node:assert/strict'
import { presets } from '../../tasks/index.ts'
import { Workplace } from './command.ts'

describe('fastweights doctor', () => {
  const place = new Workplace()
  after(place.remove)

  for (const options of ['', ' --no-relaxed --threads 1', ' --device reference'])
    it(`finds every preset's gradients right:${options || ' defaults'}`, async () => {
      const stdout = await place.succeed(`doctor${options}`)
      for (const preset of Object.keys(presets)) assert.match(stdout, new RegExp(`^ {2}${preset} +ok: `, 'm'))
      assert.match(stdout, /^all well$/m)
    })

  it('helps with every command in 80 columns', async () => {
    for (const words of ['', 'help', 'train --help', 'help train', 'generate -h', 'doctor --help']) {
      const stdout = await place.succeed(words.split(' ').filter(Boolean))
      assert.match(stdout, /^Usage: fastweights /m)
      for (const line of stdout.split('\n')) assert.ok(line.length <= 80 && line === line.trimEnd(), line)
    }
    assert.match(await place.succeed('--version'), /^fastweights \d+\.\d+\.\d+\n$/)
  })
})
