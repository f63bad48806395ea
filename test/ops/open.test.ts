/** Devices by name: see test/cli/devices.test.ts for what the commands make of it. */
import assert from 'node:assert/strict'
import { working } from '../../engine/devices/open.ts'
import { type Device, type DeviceChoice, deviceChoices, openDevice, wasmDevice, webgpuDevice } from '../../engine/index.ts'
import { kernelNames } from '../../engine/selfcheck.ts'
import { gpuIsSoftware, halfGpus, reference, webgpu } from '../helpers.ts'

describe('openDevice', () => {
  for (const choice of ['reference', 'wasm', 'webgpu'] as const)
    it(`opens ${choice}, with its options`, async function () {
      if (choice === 'webgpu') await webgpu(this)
      const lines: string[] = []
      const device = await openDevice(choice, { wasm: { threads: 1 }, webgpu: { minimal: true }, log: (line) => lines.push(line) })
      assert.equal(device.name, choice)
      if (choice === 'wasm') assert.match(device.description, /1 thread\)$/)
      assert.deepEqual(lines, [])
      device.close()
    })

  it('auto never takes an adapter that computes on the CPU, and says in a line what it takes', async () => {
    const lines: string[] = []
    // Even if software is asked for.
    const device = await openDevice('auto', { wasm: { threads: 1 }, webgpu: { software: true }, log: (line) => lines.push(line) })
    assert.equal(lines.length, 1)
    assert.match(
      lines[0],
      device.name === 'wasm' ? /^auto: wasm \(.*1 thread\), because of webgpu: [^\n]+$/ : /^auto: webgpu \(.+\), a GPU that works$/,
    )
    if (gpuIsSoftware) assert.equal(device.name, 'wasm')
    if ('capabilities' in device) assert.equal((device.capabilities as { software: boolean }).software, false)
    device.close()
  })

  it("knows that the tests' adapter computes on the CPU", async function () {
    const { capabilities } = await webgpu(this)
    if (!gpuIsSoftware) return this.skip()
    assert.equal(capabilities.software, true)
    await assert.rejects(
      webgpuDevice({ software: false }),
      /^Error: webgpu: the only adapter computes on the CPU \(.+\); the wasm device is faster there$/,
    )
  })

  // Each check fails where its kernel does nothing, and all are made: test/ops/selfcheck.test.ts. Here, that none is passed over.
  it('auto takes no GPU of which any kernel is wrong @long', async () => {
    for (const kernel of [kernelNames[0], kernelNames[kernelNames.length >> 1], kernelNames.at(-1)!]) {
      let closed = 0
      const broken = { ...reference, kernels: { ...reference.kernels, [kernel]: () => {} }, close: () => void closed++ } as Device
      await assert.rejects(working(broken), { message: new RegExp(`: its ${kernel} is wrong$`) })
      assert.equal(closed, 1)
    }
    assert.equal(await working(reference), reference)
  })

  it('refuses what is no device', async () => {
    await assert.rejects(openDevice('wasm', { threads: 1 } as never), {
      message: "openDevice: unknown option 'threads' (wasm, webgpu, precision, log)",
    })
    await assert.rejects(wasmDevice({ thread: 1 } as never), {
      message: "wasm: unknown option 'thread' (threads, relaxed, wide, maximumPages, precision)",
    })
    await assert.rejects(wasmDevice({ threads: 1, trial: true } as never), {
      message: "wasm: unknown option 'trial' (threads, relaxed, wide, maximumPages, precision)",
    })
    await assert.rejects(openDevice('wasm', { wasm: null as never }), {
      message: 'wasm: the options must be an object such as { threads: ... }, not null',
    })
    await assert.rejects(webgpuDevice({ name: 'Voodoo 2' } as never), {
      message: "webgpu: unknown option 'name' (adapter, software, minimal, backend, precision)",
    })
    await assert.rejects(
      openDevice('cuda' as DeviceChoice),
      new RegExp(`there is no device 'cuda' \\(there are ${deviceChoices.join(', ')}\\)`),
    )
    await assert.rejects(openDevice('webgpu', { webgpu: { adapter: 'Voodoo 2' } }), /^Error: webgpu: [^\n]+$/)
  })

  it('has precision f16 on the reference and on wasm, and says where there is none', async function () {
    const device = await openDevice('reference', { precision: 'f16' })
    assert.deepEqual(
      [device.precision, device.description],
      ['f16', 'reference (plain TypeScript, float64, operands of products in float16)'],
    )
    assert.equal(reference.precision, 'f32')
    // Among what is for webgpu alone, too.
    assert.equal((await openDevice('reference', { webgpu: { precision: 'f16' } })).precision, 'f32')
    const gpu = openDevice('webgpu', { webgpu: { precision: 'f16' } })
    if ((await halfGpus(this)).length === 0) await assert.rejects(gpu, /^Error: webgpu: .* lacks shader-f16, [^\n]+$/)
    else {
      assert.equal((await gpu).precision, 'f16')
      ;(await gpu).close()
    }
    const wasm = { threads: 1 }
    for (const [choice, options] of [
      ['wasm', { wasm, precision: 'f16' }],
      ['wasm', { wasm: { ...wasm, precision: 'f16' } }],
      ...(gpuIsSoftware
        ? ([
            ['auto', { wasm, webgpu: { precision: 'f16' } }],
            ['auto', { wasm: { ...wasm, precision: 'f16' } }],
          ] as const)
        : []),
    ] as const) {
      const device = await openDevice(choice, options)
      assert.match(`${device.precision} ${device.description}`, /^f16 wasm \(.*, operands of products in float16\)$/)
      device.close()
    }
    const plain = await openDevice('wasm', { wasm: { ...wasm, precision: 'f16' }, precision: 'f32' })
    assert.equal(plain.precision, 'f32')
    plain.close()
    await assert.rejects(openDevice('wasm', { wasm: { precision: 'f64' as never } }), {
      message: "openDevice: precision must be f32 or f16, not the text 'f64'",
    })
    await assert.rejects(openDevice('reference', { precision: 'f64' as never }), {
      message: "openDevice: precision must be f32 or f16, not the text 'f64'",
    })
  })
})
