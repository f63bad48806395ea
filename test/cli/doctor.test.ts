import assert from 'node:assert/strict'
import { presets } from '../../tasks/index.ts'
import { reference, webgpu } from '../helpers.ts'
import { Workplace, withoutDriver } from './command.ts'

describe('fastweights doctor', () => {
  const place = new Workplace()
  after(place.remove)

  const allWell = (stdout: string): void => {
    for (const name of [...Object.keys(presets), ...Object.keys(reference.kernels)])
      assert.match(stdout, new RegExp(`^ {4}${name} +ok: `, 'm'), name)
    assert.match(stdout, /^all well$/m)
  }

  for (const options of ['', ' --no-relaxed --threads 1', ' --device reference', ' --device auto'])
    it(`finds every kernel and every preset's gradients right:${options || ' defaults'}`, async () => {
      const stdout = await place.succeed(`doctor${options}`)
      allWell(stdout)
      if (options === '') for (const device of ['wasm', 'webgpu']) assert.match(stdout, new RegExp(`^Device ${device}$`, 'm'))
    })

  it('finds every kernel and every preset right on webgpu, and says what the adapter has', async function () {
    await webgpu(this)
    const stdout = await place.succeed('doctor --device webgpu')
    allWell(stdout)
    assert.match(stdout, /^ {2}adapter +\S/m)
    assert.match(stdout, /^ {4}limits +\d.* in a buffer; \d+ buffers, \d+ threads, \d+ kB a workgroup; 65535 workgroups a dimension$/m)
    assert.match(stdout, /^ {4}features +\S+, /m)
  })

  it('says what is missing for a GPU and how to get it; that is a failure only where a GPU is asked for', async function () {
    if (process.platform !== 'linux') return this.skip()
    const missing = /^ {2}none +no adapter: missing: .*a Vulkan driver .*apt install .*dnf install .*$/m
    const quiet = await place.succeed('doctor', withoutDriver)
    assert.match(quiet, missing)
    assert.match(quiet, /^ {2}not checked +webgpu: no adapter: missing: /m)
    assert.match(quiet, /^all well$/m)
    const { code, stdout, stderr } = await place.run('doctor --device webgpu', withoutDriver)
    assert.deepEqual([code, stderr], [1, ''])
    assert.match(stdout, missing)
    assert.match(stdout, /^ {2}FAILED +webgpu: no adapter: missing: /m)
    assert.match(stdout, /^the device webgpu can't be used here$/m)
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
