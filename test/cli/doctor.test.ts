import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { composed, roundedError, takenByAuto } from '../../cli/doctor.ts'
import { gpuSpeed, productRate } from '../../cli/speed.ts'
import { reasonAgainst } from '../../engine/devices/open.ts'
import { presets } from '../../tasks/index.ts'
import { gpuIsSoftware, halfGpus, reference, webgpu } from '../helpers.ts'
import { Workplace, withoutDriver, withoutPackage } from './command.ts'

describe('fastweights doctor', () => {
  const place = new Workplace()
  after(place.remove)

  const allWell = (stdout: string): void => {
    for (const name of [...Object.keys(presets).filter((name) => !composed.has(name)), ...Object.keys(reference.kernels)])
      assert.match(stdout, new RegExp(`^ {4}${name} +ok: `, 'm'), name)
    assert.match(stdout, new RegExp(`^ {4}not checked +${composed.size} others, made of the same kernels$`, 'm'))
    assert.match(stdout, /^all well$/m)
  }
  const planned = /^ {4}train +[\d.]+ ms a step of the default preset, 8 x 256 characters; \d+ MB in use, \d+ MB taken from the system$/m

  for (const options of ['', ' --device reference'])
    it(`finds every kernel right, and the gradients of the presets that it checks:${options ? `${options} @long` : ' defaults'}`, async () => {
      const stdout = await place.succeed(`doctor${options}`)
      allWell(stdout)
      if (options !== '') return
      assert.match(stdout, planned)
      for (const device of ['wasm', 'webgpu']) assert.match(stdout, new RegExp(`^Device ${device}$`, 'm'))
    })

  it('finds every kernel and these presets right on webgpu, and says what the adapter has @long', async function () {
    await webgpu(this)
    const stdout = await place.succeed('doctor --device webgpu')
    allWell(stdout)
    assert.match(stdout, /^ {2}adapter +\S/m)
    assert.match(stdout, /^ {4}limits +\d.* in a buffer; \d+ buffers, \d+ threads, \d+ kB a workgroup; 65535 workgroups a dimension$/m)
    assert.match(stdout, /^ {4}features +\S+, /m)
    if (gpuIsSoftware) assert.match(stdout, /^ {4}--device auto +takes wasm: this adapter computes on the CPU$/m)
  })

  it('says of auto what that does: it leaves a GPU for what its kernels do, and for no preset', () => {
    const [kernel, description] = ['matmul', 'webgpu (Voodoo 2)'] as const
    const found = { kernel, cases: 1, error: 0, bound: 0, ok: true }
    const device = { ...reference, description }
    assert.match(takenByAuto(false, reasonAgainst(device, found)), /^takes this GPU, /)
    assert.equal(
      takenByAuto(false, reasonAgainst(device, { ...found, ok: false })),
      'takes wasm, because of webgpu (Voodoo 2): its matmul is wrong',
    )
    assert.equal(
      takenByAuto(false, reasonAgainst(device, { ...found, ok: false, message: 'webgpu: it is lost' })),
      'takes wasm, because of webgpu: it is lost',
    )
  })

  it('measures memory, dispatches and products of a GPU, which it does where that is a real one', async function () {
    const device = await webgpu(this)
    const before = device.bytesInUse()
    const { bandwidth, host, all } = await gpuSpeed(device, { floats: 2 ** 18, calls: 200 })
    const products = await productRate(device, 64)
    assert.ok(bandwidth > 0 && host > 0 && all > 0 && products > 0, `${bandwidth} ${host} ${all} ${products}`)
    assert.equal(device.bytesInUse(), before)
  })

  it('in precision f16 finds every kernel and these presets right where a GPU has that', async function () {
    if ((await halfGpus(this)).length > 0) {
      const stdout = await place.succeed('doctor --device webgpu --precision f16')
      allWell(stdout)
      assert.match(stdout, /^ {2}matrix units +(used: products of integers came out exactly|not used: \S.*)$/m)
    } else
      assert.match(
        (await place.run('doctor --device webgpu --precision f16')).stdout,
        /^ {4}float16 +no: [\s\S]*^ {2}FAILED +webgpu: .* lacks shader-f16/m,
      )
  })

  it('in precision f16 checks wasm, too @long', async function () {
    await webgpu(this)
    const stdout = await place.succeed('doctor --precision f16 --threads 2')
    assert.match(stdout, /^ {2}description +wasm \(.*, operands of products in float16\)$/m)
    assert.match(stdout, /^ {2}Kernels, against float64 with products of float16$/m)
    if (gpuIsSoftware) assert.match(stdout, /^ {2}not checked +webgpu: the only adapter computes on the CPU .*$/m)
    assert.match(stdout, /^all well$/m)
  })

  it('in precision f16 forgives a row of a gradient, and no gradient that is left out, turned round or not a number', () => {
    const bound = 2 ** -5
    const expected = new Map([
      ['large', Array.from({ length: 1000 }, (_, i) => Math.sin(i))],
      ['small', [1e-4, -2e-4]],
    ])
    const error = (name: string, change: (x: number, i: number) => number): number =>
      roundedError(new Map([...expected].map(([key, values]) => [key, key === name ? values.map(change) : values])), expected)
    assert.equal(
      error('', (x) => x),
      0,
    )
    assert.ok(error('large', (x, i) => (i < 2 ? x + 0.3 : x)) < bound)
    for (const change of [() => 0, (x: number) => -x, (x: number, i: number) => (i === 0 ? Number.NaN : x)])
      for (const name of expected.keys()) assert.ok(error(name, change) > bound, `${name}, ${change}`)
  })

  it('says what is missing for a GPU and how to get it; that is a failure only where a GPU is asked for', async function () {
    if (process.platform !== 'linux') return this.skip()
    const missing = /^ {2}none +no adapter: missing: .*a Vulkan driver .*apt install .*dnf install .*$/m
    const quiet = await place.succeed('doctor --no-relaxed --threads 1', withoutDriver)
    assert.match(quiet, missing)
    assert.match(quiet, /^ {2}not checked +webgpu: no adapter: missing: /m)
    allWell(quiet)
    assert.match(quiet, planned)
    const { code, stdout, stderr } = await place.run('doctor --device webgpu', withoutDriver)
    assert.deepEqual([code, stderr], [1, ''])
    assert.match(stdout, missing)
    assert.match(stdout, /^ {2}FAILED +webgpu: no adapter: missing: /m)
    assert.match(stdout, /^the device webgpu can't be used here$/m)
  })

  it('fails where a GPU is listed that cannot be opened; takes the package webgpu from the folder that it runs in', async () => {
    mkdirSync(place.path('node_modules/webgpu'), { recursive: true })
    place.write('node_modules/webgpu/package.json', '{"name":"webgpu","type":"module","main":"index.js"}')
    place.write(
      'node_modules/webgpu/index.js',
      `const info = { vendor: '3dfx', architecture: '', device: '', description: 'Voodoo 2' }
const limits = { maxStorageBufferBindingSize: 1e8, maxBufferSize: 1e8, maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 1e4, maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupsPerDimension: 65535 }
const requestDevice = async () => { throw new Error('too old') }
export const create = () => ({ requestAdapter: async () => ({ info, limits, features: new Set(), requestDevice }) })`,
    )
    const { code, stdout } = await place.run('doctor', withoutPackage)
    assert.equal(code, 1)
    assert.match(stdout, /^ {2}adapter +3dfx Voodoo 2$/m)
    assert.match(stdout, /^ {2}FAILED +webgpu: 3dfx Voodoo 2 can't be opened: too old$/m)
    assert.match(stdout, /^the device webgpu can't be used here$/m)
    assert.doesNotMatch(stdout, /all well/)
  })

  it('helps with every command in 80 columns', async () => {
    await place.together(async (run) => {
      for (const words of ['', 'help', 'train --help', 'help train', 'generate -h', 'doctor --help']) {
        const { code, stdout } = await run(words)
        assert.equal(code, 0, words)
        assert.match(stdout, /^Usage: fastweights /m)
        for (const line of stdout.split('\n')) assert.ok(line.length <= 80 && line === line.trimEnd(), line)
      }
    })
    assert.match(await place.succeed('--version'), /^fastweights \d+\.\d+\.\d+\n$/)
  })
})
