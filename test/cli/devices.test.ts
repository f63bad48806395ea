/** --device: every command on WebGPU, what auto picks, changing the device of a run, and what can't be had. */
import assert from 'node:assert/strict'
import { gpuIsSoftware, halfGpus, webgpu } from '../helpers.ts'
import { Workplace, withoutDriver, withoutPackage } from './command.ts'

const isLinux = process.platform === 'linux'

describe('--device', () => {
  const place = new Workplace()
  after(place.remove)
  const losses = (run: string): number[] => place.metrics(run).map(({ loss }) => loss as number)

  before(() => Promise.all([place.train('--out wasm --steps 20'), place.train('--out half --steps 10')]))

  // Adam's first steps are of full size in the direction of a gradient's sign, however small it is: rounding grows where it is near 0.
  const assertLike = (run: string): void => {
    const expected = losses('wasm')
    for (const [i, loss] of losses(run).entries()) assert.ok(Math.abs(loss - expected[i]) < 1e-4, `step ${i + 1}: ${loss}, ${expected[i]}`)
  }

  const withoutTime = ({ seconds: _, validLoss: __, ...record }: Record<string, unknown>): unknown => record
  it('webgpu trains as wasm does, and generates from what it has trained', async function () {
    await webgpu(this)
    const stdout = await place.train('--out gpu --steps 10 --device webgpu')
    assert.match(stdout, /^webgpu \(.+\); steps 0 to 10 /m)
    assert.equal(losses('gpu').length, 10)
    assertLike('gpu')
    const generate = 'generate --length 20 --temperature 0 --run gpu'
    assert.equal(await place.succeed(`${generate} --device webgpu`), await place.succeed(generate))
  })

  it('may change when a run goes on, which the run says', async function () {
    await webgpu(this)
    for (const [run, device] of [
      ['gpu', 'wasm'],
      ['half', 'webgpu'],
    ]) {
      const stdout = await place.succeed(`train --resume ${run} --steps 20 --device ${device} --sample-length 20`)
      assert.match(
        stdout,
        /^note: the run was trained in float32 .* and goes on in float32 .*, so it won't repeat an unbroken run exactly$/m,
      )
      assert.equal(losses(run).length, 20)
      assertLike(run)
    }
  })

  it('auto takes wasm where there is no GPU but the CPU, says so, and the results are those of wasm', async () => {
    const results = [await place.run('generate --run wasm --length 20 --device auto', isLinux ? withoutDriver : {})]
    // With the driver of the tests, which computes on the CPU.
    if (isLinux && process.env.FASTWEIGHTS_GPU !== 'system') results.push(await place.run('generate --run wasm --length 20 --device auto'))
    const expected = await place.succeed('generate --run wasm --length 20')
    for (const { code, stdout, stderr } of results) {
      assert.equal(code, 0)
      // Dawn may warn of something before.
      assert.match(
        stderr.replaceAll(/^Warning: .*\n/gm, ''),
        /^auto: (wasm \(.*\), because of webgpu: .*|webgpu \(.*\), a GPU that works)\n$/,
      )
      if (gpuIsSoftware) assert.match(stderr, /^auto: wasm /m)
      if (/^auto: wasm/m.test(stderr)) assert.equal(stdout, expected)
    }
    if (isLinux) assert.match(results[0].stderr, /^auto: wasm .* missing: a Vulkan driver .*apt install .*dnf install/m)
  })

  it('--precision f16 rounds on the reference, on wasm and on a GPU that has it, resumes to the bit, and is a line where there is none', async function () {
    const half = (await halfGpus(this)).length > 0
    const devices = ['reference', 'wasm', ...(half ? ['webgpu'] : [])]
    for (const device of devices) {
      const how = `--device ${device} --precision f16`
      assert.match(
        await place.train(`--out ${device}-16 --steps 6 ${how}`),
        /operands of products in float16\); steps 0 to 6 [\s\S]*loss scale \d/,
      )
      // Before anything is learnt, nothing but rounding is different; then a step of so few tokens may be left out.
      const difference = Math.abs(losses(`${device}-16`)[0] - losses('wasm')[0])
      assert.ok(difference > 1e-6 && difference < 0.01, `${difference}`)
      await place.train(`--out ${device}-cut --steps 3 ${how}`)
      const note = await place.succeed(`train --resume ${device}-cut --steps 6 --sample-length 20 --device reference --dry-run`)
      assert.match(note, /^note: the run was trained in .*float16.* and goes on in float64, so it won't repeat an unbroken run exactly$/m)
      await place.succeed(`train --resume ${device}-cut --steps 6 --sample-length 20 ${how}`)
      assert.deepEqual(place.metrics(`${device}-cut`).map(withoutTime), place.metrics(`${device}-16`).map(withoutTime))
      const checked = await place.succeed(`verify oja:*chunk?=* --runs 3 ${how} --report page.html`)
      assert.match(checked, new RegExp(`^ok .*${device} [\\d.e-]+ / 7\\.8e-3 `, 'm'))
      assert.match(
        String(place.read('page.html')),
        /in precision f16: operands of products are rounded to float16, and no bound but 0 is below 7\.8\W/,
      )
    }
    if (half) return
    const result = await place.run('generate --run wasm --precision f16 --device webgpu')
    assert.deepEqual([result.code, result.stdout], [1, ''])
    // Dawn may have warned of something before.
    assert.match(result.stderr, /^fastweights: webgpu: .* lacks shader-f16, which precision f16 needs; .*$/m)
  })

  for (const words of ['train --text text.txt --config tiny.json --out none --device webgpu', 'generate --run wasm --device webgpu']) {
    it(`${words.split(' ')[0]} says in a line that the driver is missing, and changes nothing`, async function () {
      if (!isLinux) return this.skip()
      const before = place.snapshot()
      const { code, stdout, stderr } = await place.run(words, withoutDriver)
      assert.deepEqual([code, stdout], [1, ''])
      assert.match(stderr, /^fastweights: webgpu: no adapter: missing: .*a Vulkan driver .*\n$/)
      assert.deepEqual(place.snapshot(), before)
    })

    it(`${words.split(' ')[0]} says in a line that the package is missing, and auto does without`, async () => {
      const message =
        'webgpu: the package `webgpu` is not installed; it is what gives Node a GPU: npm install webgpu (where fastweights is installed, or in the folder that you run it in)'
      assert.deepEqual(await place.run(words, withoutPackage), { code: 1, stdout: '', stderr: `fastweights: ${message}\n` })
      if (!words.startsWith('generate')) return
      const { code, stderr } = await place.run(words.replace('webgpu', 'auto'), withoutPackage)
      assert.deepEqual([code, stderr.replace(/\(.*?\)/, '()')], [0, `auto: wasm (), because of ${message}\n`])
    })
  }
})
