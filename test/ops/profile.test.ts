/** Profiles count calls exactly, name them by span and kind, and their times are those that passed. */
import assert from 'node:assert/strict'
import {
  add,
  type Device,
  matmul,
  noGrad,
  type ProfileEntry,
  profile,
  relu,
  scope,
  span,
  tensor,
  webgpuDevice,
} from '../../engine/index.ts'
import { assertSameBits, reference, uniforms, wasm, webgpu } from '../helpers.ts'

/** Three products, of two sizes, two activations and a backward pass. */
async function program(device: Device): Promise<{ y: ArrayLike<number>; milliseconds: number }> {
  const start = performance.now()
  const make = (seed: number, shape: number[]) => tensor(uniforms(seed, shape[0] * shape[1]), { shape, device, requiresGrad: true })
  const [a, b] = [make(1, [40, 40]), make(2, [40, 24])]
  const y = scope(() => {
    const square = span('outer', () => {
      const product = matmul(a, a)
      return span('inner', () => matmul(product, product))
    })
    const y = relu(matmul(square, b))
    noGrad(() => relu(y))
    y.backward(add(y, y))
    return y
  })
  const values = await y.read()
  for (const x of [y, a.grad, b.grad, a, b]) x?.dispose()
  return { y: values, milliseconds: performance.now() - start }
}

const named = ({ spans, kernel, detail, calls }: ProfileEntry): string =>
  [...spans, kernel, detail, calls].filter((x) => x !== '').join(' ')
const total = (entries: readonly ProfileEntry[]): number => entries.reduce((sum, { milliseconds }) => sum + milliseconds, 0)

const expected = [
  'outer matmul 40×40×40 1',
  'outer inner matmul 40×40×40 1',
  'matmul 40×24×40 1',
  'unary relu 2',
  'binary add 1',
  'backward unaryBackward relu 1',
  'backward matmul 40×40×24 1',
  'backward matmul 40×24×40 1',
  // Of the two products of squares, each side.
  'backward matmul 40×40×40 4',
]

describe('profile', () => {
  for (const [name, open] of [
    ['reference', async () => reference],
    ['wasm', () => wasm(2)],
    ['webgpu', webgpu],
  ] as const)
    it(`counts every call by span, kernel and kind, and changes no result: ${name}`, async function () {
      const device = await open(this as never)
      const { device: measured, measure, entries, stop } = profile(device)
      assert.equal(measure, name === 'webgpu' ? 'timestamps' : 'clock')
      const before = device.bytesInUse()
      const { y, milliseconds } = await program(measured)
      const found = await entries()
      const names = found.map(named)
      for (const entry of expected) assert.ok(names.includes(entry), `${entry} isn't among\n${names.join('\n')}`)
      assert.ok(found.every(({ spans }) => spans.every((span) => ['outer', 'inner', 'backward'].includes(span))))
      assert.ok(total(found) > 0 && total(found) <= milliseconds, `${total(found)} ms in kernels of ${milliseconds}`)
      assert.ok(found.every((entry) => entry.milliseconds >= 0))
      assert.equal(device.bytesInUse(), before)
      assertSameBits(Float64Array.from(y), Float64Array.from((await program(device)).y))
      // What runs on the device itself isn't counted, and its time isn't charged to anybody.
      assert.deepEqual(await entries(), found)

      for (const profiled of [device, measured, { ...device }])
        assert.throws(() => profile(profiled), /^Error: profile: .+ is being profiled already: stop\(\) that first$/)
      assert.throws(
        () => profile(Promise.resolve(device) as never),
        /^Error: profile: the device must be one that openDevice gave \(await it\), not a Promise$/,
      )
      stop()
      stop()
      assertSameBits(Float64Array.from(y), Float64Array.from((await program(measured)).y))
      assert.deepEqual(await entries(), found)
      // Spans are open only while somebody measures.
      const next = span('before', () => {
        const next = profile(device)
        const block = next.device.allocate('float32', 4)
        span('after', () => next.device.kernels.fill(block, 4, 1))
        next.device.free(block)
        return next
      })
      next.stop()
      assert.deepEqual((await next.entries()).map(named), ['after fill 1'])
      assert.equal(device.bytesInUse(), before)
    })

  it('measures the time that a kernel takes', async () => {
    const { fill } = reference.kernels
    const slow: Device = {
      ...reference,
      kernels: {
        ...reference.kernels,
        fill(...args) {
          for (const end = performance.now() + 5; performance.now() < end; );
          fill(...args)
        },
      },
    }
    const { device, entries, stop } = profile(slow)
    const y = device.allocate('float32', 4)
    const start = performance.now()
    for (let i = 0; i < 6; i++) device.kernels.fill(y, 4, i)
    const wall = performance.now() - start
    device.kernels.affine(y, y, 4, 2, 0)
    const [filled, scaled] = await entries()
    assert.deepEqual([filled, scaled].map(named), ['fill 6', 'affine 1'])
    assert.ok(filled.milliseconds >= 30 && filled.milliseconds <= wall, `${filled.milliseconds} of ${wall}`)
    device.free(y)
    stop()
  })

  it('times every dispatch on webgpu, over several batches', async function () {
    const { device, entries, stop } = profile(await webgpu(this))
    const n = 1 << 18
    const [x, y] = [device.allocate('float32', n), device.allocate('float32', n)]
    for (let i = 0; i < 600; i++) device.kernels.fill(x, 16, 1)
    device.kernels.fill(x, n, 1)
    for (let i = 0; i < 20; i++) device.kernels.unary('exp', x, y, n)
    await device.read(y, 1)
    const [fill, exp] = await entries()
    assert.deepEqual([fill, exp].map(named), ['fill 601', 'unary exp 20'])
    // Thousands of times the work in each.
    assert.ok(exp.milliseconds / exp.calls > (3 * fill.milliseconds) / fill.calls, `${exp.milliseconds} ms, ${fill.milliseconds} ms`)
    for (const block of [x, y]) device.free(block)
    stop()
  })

  it('times submissions where the adapter has no timestamps, and says so', async function () {
    await webgpu(this)
    const { device, measure, entries } = profile(await webgpuDevice({ minimal: true }))
    assert.equal(measure, 'submissions')
    const { milliseconds } = await program(device)
    await program(device)
    const found = await entries()
    assert.deepEqual(found.map(named), ['submission 2'])
    assert.ok(found[0].milliseconds > 0)
    assert.ok(milliseconds > 0)
    device.close()
  })
})
