/** The self-check passes where kernels are right, and each of its cases can fail. */
import assert from 'node:assert/strict'
import type { Kernels } from '../../engine/devices/kernels.ts'
import type { RefStorage } from '../../engine/devices/reference/storage.ts'
import { deviceOn, webgpuKernels } from '../../engine/devices/webgpu/index.ts'
import type { Block } from '../../engine/devices/webgpu/memory.ts'
import { createGpu, type Gpu } from '../../engine/devices/webgpu/runtime.ts'
import { type Device, type HostArray, type KernelCheck, type KernelName, selfCheck } from '../../engine/index.ts'
import { matmul, products } from '../../kernels-wgsl/generated/wgsl.ts'
import { builds, noted, reference, wasm, webgpu } from '../helpers.ts'

async function checks(device: Device, names?: readonly KernelName[]): Promise<KernelCheck[]> {
  const all: KernelCheck[] = []
  for await (const check of selfCheck(device, names)) all.push(check)
  return all
}

const kernelNames = Object.keys(reference.kernels) as KernelName[]

describe('self-check', () => {
  const passes = async (device: Device): Promise<void> => {
    const before = device.bytesInUse()
    const all = await checks(device)
    assert.deepEqual(all.map(({ kernel }) => kernel).sort(), [...kernelNames].sort())
    assert.deepEqual(
      all.filter(({ ok }) => !ok),
      [],
    )
    assert.equal(device.bytesInUse(), before)
  }

  for (const { name, relaxed } of builds) it(`passes on wasm, ${name} build`, async () => passes(await wasm(2, relaxed)))
  // Where no test before it has, it compiles every shader: a minute on a slow processor, more with other work.
  it('passes on webgpu', async function () {
    this.timeout(300_000)
    await passes(await webgpu(this))
  })
  // With more workgroups than an axis of a dispatch holds, the last ones are beyond those that were asked for.
  it('passes on webgpu, in every form of products, with workgroups that nobody asked for, which write nothing beyond the arrays either @long', async function () {
    this.timeout(300_000)
    const device = await webgpu(this)
    // On the device of the tests, for which most shaders have been compiled: closing leaves it open.
    const { gpu: opened, capabilities } = device
    const own: Record<PropertyKey, unknown> = { destroy() {} }
    const kept = new Proxy(opened, {
      get(target, key) {
        const value = own[key] ?? Reflect.get(target, key, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
      set: (_, key, value) => Reflect.set(own, key, value),
    })
    const gpu = createGpu({ device: kept, capabilities, precision: 'f32' })
    const [beyond, mark] = [64, 7]
    const run: Gpu['run'] = (shader, entry, bindings, params, groups) => gpu.run(shader, entry, bindings, params, groups && groups + 3)
    const allocate = (dtype: string, size: number) => {
      const block = gpu.allocate(4 * (size + beyond), dtype === 'int32')
      gpu.write(block, new Array(size + beyond).fill(mark))
      return block
    }
    const read = async (block: Block, size: number): Promise<HostArray> => {
      const values = await gpu.read(block, size + beyond)
      for (const x of values.subarray(size)) if (x !== mark) throw new Error('written beyond its end')
      return values.subarray(0, size)
    }
    try {
      const { free, write } = gpu
      // The forms are those that a card takes.
      const [watched, ran] = noted({ ...gpu, run, capabilities: { ...gpu.capabilities, software: false } })
      const kernels = webgpuKernels(watched)
      const all = await checks({ ...device, kernels, allocate, free, write, read, gather: undefined } as unknown as Device)
      assert.deepEqual(
        all.filter(({ ok }) => !ok),
        [],
      )
      // What the largest list writes lies in one buffer where the device puts it there.
      assert.ok((await checks({ ...deviceOn(gpu), kernels }, ['products']))[0].ok)
      for (const entry of [...matmul.entries, ...products.entries]) assert.ok(ran.includes(entry), entry)
    } finally {
      gpu.close()
    }
  })
  it('finds no error in the reference', async () => {
    for (const { kernel, error } of await checks(reference)) assert.equal(error, 0, kernel)
  })

  it('says what is no device', async () => {
    await assert.rejects(checks(Promise.resolve(reference) as never), {
      message: 'selfCheck: the device must be one that openDevice gave (await it), not a Promise',
    })
  })

  const withKernel = (name: KernelName, kernel: (...args: never[]) => void): Device => ({
    ...reference,
    kernels: { ...reference.kernels, [name]: kernel },
  })
  for (const name of kernelNames)
    it(`fails where ${name} does nothing, or throws`, async () => {
      const [idle] = await checks(
        withKernel(name, () => {}),
        [name],
      )
      assert.ok(!idle.ok && idle.error > 0.01)
      const throws = (): void => {
        throw new Error('no such thing')
      }
      const [{ ok, error, message }] = await checks(withKernel(name, throws), [name])
      assert.deepEqual({ ok, error, message }, { ok: false, error: Infinity, message: 'no such thing' })
    })

  it('fails where a driver loses NaN, or the sine of a large number', async () => {
    const { reduce, unary, binary, softmax } = reference.kernels
    const losing = (x: RefStorage, n: number): RefStorage => ({ data: x.data.map((v, i) => (i < n && Number.isNaN(v) ? 0 : v)) })
    const bad: { [Name in KernelName]?: Kernels<RefStorage>[Name] } = {
      reduce: (op, x, ...rest) => reduce(op, op === 'max' ? losing(x, x.data.length) : x, ...rest),
      unary: (op, x, y, n) => unary(op, op === 'relu' ? losing(x, n) : x, y, n),
      binary: (op, a, ...rest) => binary(op, op === 'min' ? losing(a, a.data.length) : a, ...rest),
      softmax: (x, ...rest) => softmax(losing(x, x.data.length), ...rest),
    }
    for (const [name, kernel] of Object.entries(bad)) {
      const [{ ok, error }] = await checks(withKernel(name as KernelName, kernel), [name as KernelName])
      assert.deepEqual({ ok, error }, { ok: false, error: Infinity }, name)
    }
    const short: Kernels<RefStorage>['unary'] = (op, x, y, n) =>
      unary(op, op === 'sin' ? { data: x.data.map((v) => (Math.abs(v) > 1e9 ? Math.sign(v) * 1e9 : v)) } : x, y, n)
    const [{ ok }] = await checks(withKernel('unary', short), ['unary'])
    assert.ok(!ok)
  })

  it('measures errors in parts of the largest entry', async () => {
    const { affine } = reference.kernels
    const device = withKernel('affine', (...[x, y, n, scale, shift]: Parameters<typeof affine>) => affine(x, y, n, scale, shift + 0.002))
    const [{ ok, error }] = await checks(device, ['affine'])
    // 0.3 - 0.7 x reaches almost 1: 0.002 / (1 + 1).
    assert.ok(!ok && Math.abs(error - 0.001) < 2e-5, `${error}`)
  })
})
