/** The runtime of the WebGPU device: shaders and their errors, buffers, limits, loss, the end of the process. */
import assert from 'node:assert/strict'
import { openAdapter, requestGranted } from '../../engine/devices/webgpu/adapter.ts'
import { type Block, classSize, createMemory, type Pooled } from '../../engine/devices/webgpu/memory.ts'
import { createGpu, type Gpu, type Shader, sourceOf } from '../../engine/devices/webgpu/runtime.ts'
import {
  adamStep,
  add,
  capture,
  crossEntropy,
  type Device,
  full,
  gather,
  generator,
  keep,
  matmul,
  mul,
  normal,
  type Precision,
  parameter,
  precisions,
  scope,
  sum,
  type Tensor,
  tensor,
  webgpuDevice,
  withGrad,
  zeros,
} from '../../engine/index.ts'
import { gatherMemory } from '../../engine/tensor.ts'
import { elementwise } from '../../kernels-wgsl/generated/wgsl.ts'
import { AdamW } from '../../nn/index.ts'
import { program, readAndFree, webgpu } from '../helpers.ts'
import { shaders } from './shaders.ts'

/** The device on which everything is checked and nothing computed: needs no driver. */
async function withNull(body: (gpu: Gpu) => Promise<void>, precision: Precision = 'f32'): Promise<void> {
  const gpu = createGpu(await openAdapter({ backend: 'null', minimal: true, precision }))
  try {
    await body(gpu)
  } finally {
    gpu.close()
  }
}

describe('WGSL', () => {
  const wrong = async ({ device }: Gpu, shader: Shader, entry: string, precision: Precision): Promise<string> => {
    device.pushErrorScope('validation')
    const module = device.createShaderModule({ code: sourceOf(shader, precision) })
    device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: entry } })
    return (await device.popErrorScope())?.message ?? ''
  }
  /** Those that only run where an adapter binds so many, of which the null device's binds eight: nothing else is wrong with them. */
  const wide: Readonly<Record<string, number>> = {
    'fast-weights-heads-forward-fading headsForward': 9,
    'fast-weights-heads-backward headsBackward': 10,
    'fast-weights-heads-backward-fading headsBackward': 10,
    'fast-weights-heads-forward-channels headsForward': 10,
    'fast-weights-heads-backward-channels headsBackward': 10,
  }
  for (const shader of shaders)
    it(`${shader.name}.wgsl: every kernel compiles, with 8 storage buffers at most, in either precision`, () =>
      withNull(async (gpu) => {
        for (const precision of precisions)
          for (const entry of shader.entries) {
            const arrays = wide[`${shader.name} ${entry}`]
            const expected = arrays === undefined ? /^$/ : new RegExp(`^The number of storage buffers \\(${arrays}\\) .* limit \\(8\\)`)
            assert.match(await wrong(gpu, shader, entry, precision), expected, `${entry}, ${precision}`)
          }
      }, 'f16'))

  const broken: Shader = {
    name: 'broken',
    files: [
      ...elementwise.files.slice(0, 2),
      { name: 'broken', source: '// one line\n@compute @workgroup_size(1) fn half() {\n  let x: f32 = 1u;\n}\n' },
    ],
    entries: ['half'],
    params: {},
    paramBytes: 16,
    bindings: {},
  }

  it('says where it is wrong, by file, line and column', () =>
    withNull(async (gpu) => {
      gpu.run(broken, 'half', {}, {}, 1)
      const block = gpu.allocate(4)
      await assert.rejects(
        gpu.read(block, 1),
        /^Error: webgpu: broken\.wgsl:3:7: cannot initialize 'let' of type 'f32' with value of type 'u32'$/,
      )
      assert.throws(() => gpu.allocate(4), /^Error: webgpu: broken\.wgsl:3:7: /)
    }))

  it('keeps so many pipelines, whatever the number of shaders', () =>
    withNull(async (gpu) => {
      let compiled = 0
      const create = gpu.device.createComputePipeline.bind(gpu.device)
      gpu.device.createComputePipeline = (descriptor) => {
        compiled++
        return create(descriptor)
      }
      const source = '@compute @workgroup_size(1) fn half() {}'
      const run = (i: number): void =>
        gpu.run({ ...broken, name: `${i}`, files: [{ name: `${i}`, source }], paramBytes: 16 }, 'half', {}, {}, 1)
      for (let i = 0; i < 1024; i++) run(i)
      run(0)
      assert.equal(compiled, 1024)
      run(1024)
      run(0)
      assert.equal(compiled, 1026)
    }))

  it('a descriptor that the standard refuses at once leaves no error scope behind', () =>
    withNull(async (gpu) => {
      const wrong: Shader = { ...broken, bindings: { x: { binding: -1, write: false } } }
      assert.throws(() => gpu.run(wrong, 'half', { x: null }, {}, 1))
      await assert.rejects(gpu.device.popErrorScope())
    }))

  it('a batch that is refused is an error of the read that submits it', () =>
    withNull(async (gpu) => {
      const [x, y] = [gpu.allocate(4), gpu.allocate(4000)]
      gpu.run(elementwise, 'fill', { y }, { n: 1 }, 1)
      y.memory.buffer.destroy()
      await assert.rejects(gpu.read(x, 1), /^Error: webgpu: a batch was refused: .*destroyed/)
    }))
})

describe('webgpu buffers', () => {
  it('come in classes that waste an eighth at most', () => {
    for (let bytes = 0; bytes < 1e6; bytes += 977) {
      const size = classSize(bytes, 2 ** 27)
      assert.ok(size >= bytes && size % 256 === 0 && (size <= Math.max(256, 1.125 * bytes) || size - bytes < 256), `${bytes}: ${size}`)
    }
    // None is larger than the limit, and none smaller than what was asked for.
    for (const limit of [2 ** 27, 2 ** 27 - 4, 2 ** 32 - 4])
      for (let bytes = limit - 64; bytes <= limit; bytes += 4) {
        const size = classSize(bytes, limit)
        assert.ok(size >= bytes && size <= limit, `${bytes} of ${limit}: ${size}`)
      }
  })

  it('are used again, and make room for others: what waits never makes the pool larger than what was in use', () => {
    const destroyed: number[] = []
    const memory = createMemory({
      limit: 2 ** 30,
      create: (bytes) => ({ destroy: () => destroyed.push(bytes) }) as unknown as GPUBuffer,
      beforeDestroy: (_: Pooled) => {},
    })
    const first = memory.allocate(1000)
    memory.free(first)
    assert.throws(() => memory.free(first), /freed twice/)
    assert.equal(memory.allocate(900).memory, first.memory)
    assert.equal(memory.bytesReserved(), 1024)
    const large = [1, 2, 3].map(() => memory.allocate(2 ** 28))
    assert.equal(memory.bytesInUse(), 900 + 3 * 2 ** 28)
    for (const block of large) memory.free(block)
    // A step of the same sizes creates nothing.
    for (const block of [1, 2, 3].map(() => memory.allocate(2 ** 28))) memory.free(block)
    assert.deepEqual(destroyed, [])
    // Other sizes take the place of what waits, and no more of it than they need.
    const other = memory.allocate(2 ** 29)
    assert.deepEqual(destroyed, [2 ** 28, 2 ** 28])
    assert.equal(memory.bytesReserved(), 1024 + 3 * 2 ** 28)
    memory.free(other)
    memory.allocate(2 ** 27)
    // The class that has waited longest goes first.
    assert.deepEqual(destroyed.slice(2), [2 ** 28])
    assert.equal(memory.release(), 2 ** 29)
    assert.equal(memory.bytesReserved(), 1024 + 2 ** 27)
    memory.destroy()
    assert.equal(memory.bytesReserved(), 0)
    assert.throws(() => memory.allocate(2 ** 31), /webgpu: out of memory: asked for 2 GB in one block, this adapter binds at most 1 GB/)
  })

  it('side by side: one that would be alone needs no more than itself, and what fails takes nothing', () => {
    const created: number[] = []
    const memory = createMemory({
      limit: 1000,
      create(bytes) {
        if (created.length === 2) throw new Error('full')
        created.push(bytes)
        return { destroy() {} } as unknown as GPUBuffer
      },
      beforeDestroy: (_: Pooled) => {},
    })
    const blocks = memory.allocateTogether([1000, 300, 100])
    assert.deepEqual(created, [1000, 768])
    assert.deepEqual(
      blocks.map(({ offset, bytes, memory: { shared } }) => [offset, bytes, shared?.blocks]),
      [
        [0, 1000, undefined],
        [0, 300, 2],
        [512, 100, 2],
      ],
    )
    memory.free(blocks[1])
    // What is free in a buffer that another block lies in can't be had.
    assert.deepEqual([memory.bytesInUse(), memory.bytesReserved()], [1100, 1768])
    memory.free(blocks[0])
    assert.throws(() => memory.allocateTogether([900, 300, 300]), /full/)
    assert.equal(memory.bytesInUse(), 100)
    memory.free(blocks[2])
    assert.equal(memory.release(), memory.bytesReserved() + 1768)
  })

  it('that the system refuses are an error of one line, then and later', async () => {
    // The null backend has 512 MB.
    const device = await webgpuDevice({ backend: 'null', minimal: true })
    const blocks = Array.from({ length: 7 }, () => device.allocate('float32', 2e7))
    const refused =
      /^Error: webgpu: out of memory: asked for 80 MB with 534\.1 MB in use and 0 kB waiting for use .*\(run each step inside scope\(\), or use a smaller batch\)$/
    await assert.rejects(device.read(blocks[6], 1), refused)
    assert.throws(() => device.allocate('float32', 1), refused)
    device.close()
  })
})

/** Steps of training of a small network, on any device. */
function training(device: Device): { step: () => Tensor; end: () => void } {
  const g = generator(1)
  const parameters = [
    [7, 16],
    [16, 24],
    [24, 7],
  ].map((shape) => parameter(normal(g, shape, 0, 0.3, device)))
  const moments = parameters.map((p) => [0, 1].map(() => keep(zeros(p.shape, device))))
  const [table, hidden, out] = parameters
  let t = 0
  return {
    step() {
      t++
      return scope(() => {
        const tokens = Int32Array.from({ length: 12 }, (_, i) => (i * t) % 7)
        const logits = matmul(matmul(gather(table, tensor(tokens, { device })), hidden, { activation: 'relu' }), out)
        const loss = crossEntropy(logits, tensor(tokens, { device }))
        loss.backward()
        parameters.forEach((p, i) => {
          const options = { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, decoupled: true }
          adamStep(p, p.grad!, moments[i][0], moments[i][1], { ...options, correction1: 1 - 0.9 ** t, correction2: 1 - 0.99 ** t })
          p.grad!.dispose()
          p.grad = null
        })
        return loss
      })
    },
    end() {
      for (const x of [...parameters, ...moments.flat()]) x.dispose()
    },
  }
}

describe('blocks side by side', () => {
  it('hold what they held, are written, read and freed one by one, and stay where a captured step uses them', async function () {
    const device = await webgpu(this)
    const before = device.bytesInUse()
    const made = [[1, 2, 3], Array.from({ length: 100 }, (_, i) => i), [7]].map((values) => keep(tensor(values, { device })))
    const views = made.map((t) => keep(t.view([t.size, 1])))
    const inUse = device.bytesInUse()
    gatherMemory(made)
    const blocks = made.map((t) => t.storage as Block)
    assert.equal(new Set(blocks.map(({ memory }) => memory)).size, 1)
    assert.deepEqual(
      blocks.map(({ offset }) => offset),
      [0, 256, 768],
    )
    assert.equal(device.bytesInUse(), inUse)
    made[1].write(new Float32Array(100).fill(5))
    const sums = scope(() => made.map((t) => keep(add(t, t))))
    assert.deepEqual(await Promise.all(sums.map(async (t) => [...(await t.read())])), [[2, 4, 6], new Array(100).fill(10), [14]])
    // A view is of the same memory.
    assert.deepEqual(
      await Promise.all(views.map(async (t) => [...(await t.read())])),
      await Promise.all(made.map(async (t) => [...(await t.read())])),
    )
    const captured = await capture([tensor([1], { device })], {}, () => ({ outputs: [scope(() => add(made[2], 1))] }))
    gatherMemory(made)
    assert.deepEqual(
      made.map((t) => t.storage),
      blocks,
    )
    captured.replay()
    assert.deepEqual([...(await captured.outputs[0].read())], [8])
    captured.dispose()
    made[0].dispose()
    views[0].dispose()
    assert.deepEqual([...(await made[2].read())], [7])
    for (const t of [...made, ...views, ...sums]) t.dispose()
    assert.ok(device.bytesInUse() <= before + 4)
  })
})

describe('gradients side by side', () => {
  it('lie in one buffer, where the last ones were, but for one that somebody holds; what an optimiser took is free again', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    const [first, second] = [1, 2].map((scale) =>
      parameter(
        tensor(
          [1, 2, 3, 4].map((x) => scale * x),
          { shape: [2, 2], device },
        ),
      ),
    )
    const optimizer = new AdamW(
      new Map([
        ['first', first],
        ['second', second],
      ]),
      { lr: 0.1 },
    )
    const backward = (): void =>
      scope(() => {
        const x = tensor([1, -1], { shape: [1, 2], device })
        sum(matmul(matmul(x, first, { transposeB: true }), second, { transposeB: true })).backward()
      })
    const values = async (): Promise<number[][]> => Promise.all([first, second].map(async ({ grad }) => [...(await grad!.read())]))
    const places = (): Block[] => [first, second].map(({ grad }) => grad!.storage as Block)
    const expected = [
      [8, -8, 12, -12],
      [-1, -1, -1, -1],
    ]
    backward()
    const before = places()
    assert.equal(before[0].memory, before[1].memory)
    assert.deepEqual(await values(), expected)
    backward()
    assert.deepEqual(places(), before)
    assert.deepEqual(
      await values(),
      expected.map((row) => row.map((x) => 2 * x)),
    )
    const held = keep(first.grad!.view([4]))
    optimizer.zeroGrad()
    backward()
    assert.notEqual(places()[0].memory, before[0].memory)
    assert.equal(places()[1], before[1])
    assert.deepEqual(await values(), expected)
    assert.deepEqual(
      [...(await held.read())],
      expected[0].map((x) => 2 * x),
    )
    held.dispose()
    optimizer.zeroGrad()
    backward()
    assert.deepEqual(places(), before)
    // One that is left is freed with its last tensor.
    const last = keep(second.grad!.view([4]))
    for (const one of [optimizer, first, second]) one.dispose()
    assert.equal(device.bytesInUse(), 16)
    last.dispose()
    assert.equal(device.bytesInUse(), 0)
    device.close()
  })

  it('are those of a captured step only while nobody else has one there, and it sees gradients from outside as such', async function () {
    const device = await webgpu(this)
    const [p, b] = [[1, 2, 3, 4], [1]].map((values) => parameter(tensor([values], { device })))
    const optimizer = new AdamW(new Map(Object.entries({ p, b })), { lr: 0.1 })
    const x = keep(tensor([[1, 2, 3, 4]], { device }))
    const backward = (scale: number): void => scope(() => sum(matmul(mul(x, scale), p, { transposeB: true })).backward())
    backward(10)
    const outside = p.grad!
    assert.ok((outside.storage as Block).memory.shared)
    const more = capture([x], {}, () => {
      withGrad(() => backward(1))
      return { outputs: [mul(x, 1)] }
    })
    await assert.rejects(more, /overwrites a tensor from outside/)
    const read = await capture([x], {}, () => ({ outputs: [mul(outside, 1)] }))
    optimizer.zeroGrad()
    assert.throws(() => read.replay(), /a tensor that the captured step reads was freed/)

    const gradient = await capture([x], {}, () =>
      withGrad(() => {
        backward(1)
        const outputs = [mul(p.grad!, 1)]
        optimizer.zeroGrad()
        return { outputs }
      }),
    )
    gradient.replay()
    assert.deepEqual([...(await gradient.outputs[0].read())], [1, 2, 3, 4])
    backward(10)
    assert.throws(() => gradient.replay(), /a gradient lies where the captured step puts its own/)
    assert.deepEqual([...(await p.grad!.read())], [10, 20, 30, 40])
    optimizer.zeroGrad()
    gradient.replay()
    optimizer.dispose()
    // Its place is others' memory now.
    assert.throws(() => gradient.replay(), /the optimiser .* was disposed/)
    for (const one of [read, gradient, x, p, b]) one.dispose()
  })
})

describe('webgpu runtime', () => {
  it('reserves for an optimiser what was in use when it moved the parameters, and once what gradients and moments take', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    const bytes = 2 ** 22
    const before = device.bytesReserved()
    const [a, b] = [0, 1].map(() => parameter(zeros([bytes / 8], device)))
    const optimizer = new AdamW(new Map(Object.entries({ a, b })), { lr: 0.1 })
    assert.equal(device.bytesInUse(), 4 * bytes)
    assert.ok(device.bytesReserved() - before <= 5 * bytes, `${device.bytesReserved() - before}`)
    optimizer.dispose()
    // A frozen parameter gets no gradient.
    b.requiresGrad = false
    const other = new AdamW(new Map(Object.entries({ a, b })), { lr: 0.1 })
    assert.equal(device.bytesInUse(), 3.5 * bytes)
    for (const one of [other, a, b]) one.dispose()
    assert.equal(device.bytesInUse(), 0)
    device.close()
  })

  it('takes no more memory from step to step, and learns', async function () {
    const device = await webgpu(this)
    const before = device.bytesInUse()
    const { step, end } = training(device)
    const bytes: [number, number][] = []
    const losses: number[] = []
    for (let i = 0; i < 100; i++) {
      // Most steps are only recorded.
      const loss = step()
      if (i % 20 === 19) losses.push(await loss.item())
      loss.dispose()
      bytes.push([device.bytesInUse(), device.bytesReserved()])
    }
    // The first read takes memory of its own.
    assert.deepEqual(bytes[99], bytes[20])
    assert.ok(losses[4] < 0.5 * losses[0], losses.join(' '))
    end()
    assert.equal(device.bytesInUse(), before)
  })

  it('keeps the order of writes, kernels and reads', async function () {
    const device = await webgpu(this)
    const x = tensor([1, 2, 3], { device })
    const first = add(x, 1)
    x.write([10, 20, 30])
    const second = add(x, 1)
    const early = first.read()
    const third = add(first, second)
    x.write([100, 200, 300])
    assert.deepEqual(await Promise.all([early, second.read(), third.read(), x.read()].map(async (values) => [...(await values)])), [
      [2, 3, 4],
      [11, 21, 31],
      [13, 24, 35],
      [100, 200, 300],
    ])
    for (const t of [x, first, second, third]) t.dispose()
  })

  it('takes empty tensors, and more workgroups than a dimension holds', async function () {
    const device = await webgpu(this)
    const empty = tensor([], { device })
    assert.deepEqual(await readAndFree(add(empty, 1)), [])
    empty.dispose()
    const n = 65536 * 256 + 5
    const x = device.allocate('float32', n)
    device.kernels.fill(x, n, 3)
    device.kernels.affine(x, x, n, 2, 1)
    const total = device.allocate('float32', 1)
    device.kernels.reduce('max', x, total, 1, n, 1)
    assert.deepEqual([...(await device.read(total, 1))], [7])
    device.kernels.reduce('sum', x, total, 1, n, 1)
    assert.equal((await device.read(total, 1))[0], 7 * (n - 5) + 35 - 3)
    device.free(x)
    device.free(total)
  })

  it('works within the limits that every adapter has', async function () {
    await webgpu(this)
    const device = await webgpuDevice({ minimal: true })
    assert.deepEqual(
      { ...device.capabilities, adapter: '', software: true, f16: false },
      { adapter: '', software: true, timestamps: false, f16: false, bindingBytes: 2 ** 27 },
    )
    const { step, end } = training(device)
    const loss = step()
    assert.ok(Number.isFinite(await loss.item()))
    loss.dispose()
    end()
    assert.throws(() => device.allocate('float32', 2 ** 26), /asked for 256 MB in one block, this adapter binds at most 128 MB/)
    device.close()
  })

  it('reports a lost device in one line, whatever is called', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    const { step } = training(device)
    const good = step()
    assert.ok(Number.isFinite(await good.item()))
    device.gpu.destroy()
    const gone = /^Error: webgpu: the device was lost \(destroyed: .*\); open another one and go on from the last checkpoint$/
    await assert.rejects(step().item(), gone)
    assert.throws(step, gone)
    assert.throws(() => tensor([1], { device }), gone)
    await assert.rejects(good.read(), gone)
    good.dispose()
    device.close()
  })

  it('reads more than one buffer brings over, and keeps no large one', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    const n = 2 ** 24 + 1000
    const x = device.allocate('float32', n)
    device.write(
      x,
      Float32Array.from({ length: n }, (_, i) => i % 1009),
    )
    const reserved = device.bytesReserved()
    const reading = device.read(x, n)
    assert.ok(device.bytesReserved() >= reserved + 4 * n, 'not counted')
    const values = await reading
    assert.equal(values.length, n)
    assert.equal(
      values.findIndex((value, i) => value !== i % 1009),
      -1,
    )
    assert.ok(device.bytesReserved() <= reserved + 2 ** 20, 'kept')
    device.close()
  })

  it('closed with a read under way, lets the process end at once', async function () {
    await webgpu(this)
    const source = `
      import { tensor, webgpuDevice } from 'ROOT/engine/index.js'
      const device = await webgpuDevice()
      const reading = tensor([1, 2], { device }).read()
      device.close()
      const start = performance.now()
      process.on('exit', () => console.log(Math.round(performance.now() - start)))
      await reading.catch(({ message }) => console.log(message))`
    const [message, milliseconds] = program(source).split('\n')
    assert.equal(message, 'webgpu: the device has been closed')
    assert.ok(Number(milliseconds) < 500, `${milliseconds} ms`)
  })

  it('is closed for good', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    const x = tensor([1, 2], { device })
    const reading = x.read()
    device.close()
    device.close()
    await assert.rejects(reading, /webgpu: the device has been closed/)
    assert.throws(() => add(x, 1), /webgpu: the device has been closed/)
    x.dispose()
    assert.equal(device.bytesInUse(), 0)
    assert.equal(device.bytesReserved(), 0)
  })

  it('opens and closes 200 devices, some left to the collector, and the process ends by itself @long', async function () {
    await webgpu(this)
    const source = `
      import { add, tensor, webgpuDevice } from 'ROOT/engine/index.js'
      for (let i = 0; i < 200; i++) {
        const device = await webgpuDevice()
        const y = add(tensor([1, 2], { device }), tensor([3, i], { device }))
        const [, value] = await y.read()
        if (value !== i + 2) throw new Error('wrong value')
        if (i % 20 !== 19) device.close()
        if (i % 5 === 0) gc()
      }
      gc()
      console.log('done')`
    assert.equal(program(source, ['--expose-gc']), 'done\n')
  })

  it('an adapter that gives no device is an error of one line', async function () {
    await webgpu(this)
    const { globals } = await import('webgpu')
    const { prototype } = (globals as { GPUAdapter: { prototype: GPUAdapter } }).GPUAdapter
    const { requestDevice } = prototype
    prototype.requestDevice = () => Promise.reject(new Error('no room\nfor a device'))
    try {
      await assert.rejects(webgpuDevice(), { message: /^webgpu: .+ can't be opened: no room$/ })
    } finally {
      prototype.requestDevice = requestDevice
    }
  })

  /** Runs `body` where no device is given with any of `refused`, and each adapter gives one answer, as the standard allows; returns what was asked for. */
  async function refusing(refused: readonly string[], body: () => Promise<void>): Promise<string[][]> {
    const { globals } = await import('webgpu')
    const { prototype } = (globals as { GPUAdapter: { prototype: GPUAdapter } }).GPUAdapter
    const { requestDevice } = prototype
    const requests: string[][] = []
    const used = new WeakSet<GPUAdapter>()
    prototype.requestDevice = function (wanted) {
      if (used.has(this)) return Promise.reject(new Error('the adapter has been used'))
      used.add(this)
      const large = Object.keys(wanted?.requiredLimits ?? {}).length > 0
      const asked = [...(wanted?.requiredFeatures ?? []), ...(large ? ['large buffers'] : [])]
      requests.push(asked)
      const no = asked.find((name) => refused.includes(name))
      return no ? Promise.reject(new Error(`no ${no}\nhere`)) : requestDevice.call(this, wanted)
    }
    try {
      await body()
    } finally {
      prototype.requestDevice = requestDevice
    }
    return requests
  }

  it('an adapter that refuses what it lists gives a device without that alone, and says so; float16 that was asked for stays an error', async function () {
    const { capabilities } = await webgpu(this)
    assert.ok(capabilities.timestamps, 'the adapter of the tests lists timestamps')
    const large = capabilities.bindingBytes > 2 ** 27
    // What there is no need to ask for can't be refused: some lavapipe has no more than the least.
    assert.ok(large || process.env.FASTWEIGHTS_GPU === 'lavapipe', 'the adapter of the tests lists large buffers')
    const refusals = [
      [[], 1],
      [['timestamp-query'], 3],
      ...(large
        ? ([
            [['large buffers'], 3],
            [['large buffers', 'timestamp-query'], 4],
          ] as const)
        : []),
    ] as const
    for (const [refused, requests] of refusals) {
      const all = await refusing(refused, async () => {
        const device = await webgpuDevice()
        const said = refused.map((name) => `; without ${name}, refused though listed: no ${name}`).join('')
        assert.equal(device.description, `webgpu (${capabilities.adapter}${said})`)
        assert.equal(device.capabilities.timestamps, !(refused as readonly string[]).includes('timestamp-query'))
        assert.equal(device.capabilities.bindingBytes > 2 ** 27, large && !(refused as readonly string[]).includes('large buffers'))
        assert.deepEqual(await readAndFree(scope(() => matmul(full([1, 2], 1, device), full([2, 1], 3, device)))), [6])
        device.close()
      })
      assert.equal(all.length, requests, refused.join())
    }
    await refusing(['shader-f16'], () =>
      assert.rejects(webgpuDevice({ precision: 'f16' }), {
        message: capabilities.f16 ? /^webgpu: .+ can't be opened: no shader-f16$/ : /^webgpu: .+ lacks shader-f16, /,
      }),
    )
  })

  it('where one of what matrix units need is refused, a device has none, and says why', async () => {
    const { globals } = await import('webgpu')
    const { prototype } = (globals as { GPU: { prototype: GPU } }).GPU
    const { requestAdapter } = prototype
    const units = ['subgroups', 'chromium-experimental-subgroup-matrix']
    const sizes = { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 16, K: 16 }
    for (const refused of [[units[0]], [units[1]], units, [...units, 'timestamp-query', 'large buffers']]) {
      const granted: string[][] = []
      // An adapter that has them, without which the device underneath does.
      prototype.requestAdapter = async function (options) {
        const adapter = (await requestAdapter.call(this, options))!
        const info = { ...adapter.info, description: 'wrapped', subgroupMinSize: 32, subgroupMaxSize: 32, subgroupMatrixConfigs: [sizes] }
        const features = new Set(['shader-f16', 'timestamp-query', ...units])
        const requestDevice = (wanted: GPUDeviceDescriptor): Promise<GPUDevice> => {
          const asked = [...wanted.requiredFeatures!] as string[]
          const large = Object.keys(wanted.requiredLimits!).length > 0
          const no = [...asked, ...(large ? ['large buffers'] : [])].find((name) => refused.includes(name))
          if (no) return Promise.reject(new Error(`no ${no}`))
          granted.push(asked)
          return adapter.requestDevice({ ...wanted, requiredFeatures: asked.filter((name) => !units.includes(name)) as GPUFeatureName[] })
        }
        return { info, features, limits: adapter.limits, requestDevice } as unknown as GPUAdapter
      }
      try {
        const { device, capabilities } = await openAdapter({ backend: 'null', precision: 'f16' })
        const said = (names: readonly string[]): string =>
          names
            .filter((name) => refused.includes(name))
            .map((name) => `without ${name}, refused though listed: no ${name}`)
            .join('; ')
        assert.equal(capabilities.noMatrixUnits, said(units))
        assert.equal(capabilities.refused, said(['large buffers', 'timestamp-query', ...units]))
        assert.deepEqual(
          granted.at(-1),
          ['shader-f16', 'timestamp-query', ...units].filter((name) => !refused.includes(name)),
        )
        device.destroy()
      } finally {
        prototype.requestAdapter = requestAdapter
      }
    }
  })

  it('of what is refused nothing else is lost, in n + 2 requests at most, one device at a time', async () => {
    const optional = ['a', 'b', 'c', 'd']
    for (let refused = 0; refused < 16; refused++)
      for (const together of [false, true]) {
        let open = 0
        let requests = 0
        const bad = optional.filter((_, i) => (refused >> i) & 1)
        // Each of them by itself, or only all of them at once.
        const refuses = (asked: readonly string[]): boolean =>
          together ? bad.length > 0 && bad.every((name) => asked.includes(name)) : bad.some((name) => asked.includes(name))
        const { device, refusals } = await requestGranted(async (asked) => {
          requests++
          assert.equal(open, 0)
          if (refuses(asked)) throw new Error(`no ${asked.join()}\nof these`)
          open++
          return { asked, destroy: () => void open-- }
        }, optional)
        const lost = together ? bad.slice(-1) : bad
        assert.deepEqual([device.asked, refusals.map(([name]) => name)], [optional.filter((name) => !lost.includes(name)), lost])
        for (const [name, why] of refusals) assert.match(why, new RegExp(`^no .*${name}.*$`))
        assert.ok(open === 1 && requests <= optional.length + 2 && (bad.length > 0 || requests === 1), `${requests}`)
      }
    await assert.rejects(
      requestGranted(() => Promise.reject(new Error('no device')), optional),
      /^Error: no device$/,
    )
  })

  it('without a driver, or the adapter asked for, says what is missing', async function () {
    await webgpu(this)
    await assert.rejects(
      webgpuDevice({ adapter: 'Voodoo 2' }),
      /^Error: webgpu: no adapter: none whose name has "Voodoo 2" in it; there are: /,
    )
    if (process.platform !== 'linux') return
    const source =
      "import { webgpuDevice } from 'ROOT/engine/index.js'; await webgpuDevice().then(() => console.log('found one'), (error) => console.log(error.message))"
    const nowhere = { VK_DRIVER_FILES: '/nowhere.json', VK_ICD_FILENAMES: '/nowhere.json' }
    const { LD_LIBRARY_PATH, ...env } = process.env
    // With the loader of the tests, and without it.
    for (const left of [
      { ...process.env, ...nowhere },
      { ...env, ...nowhere },
    ])
      assert.match(program(source, [], left), /^webgpu: no adapter: .*apt install .*dnf install .*\n$/)
  })
})
