/** Training on WebGPU: the losses of wasm, flat memory, the least of adapters, and a device that is lost on the way. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { webgpuKernels } from '../../engine/devices/webgpu/index.ts'
import { type Device, scope, setDevice, webgpuDevice, zeros } from '../../engine/index.ts'
import { Adam, AdamW, constant, generate, Muon, readCheckpoint, type StepResult, Trainer, Transformer } from '../../nn/index.ts'
import { presets } from '../../tasks/index.ts'
import { program, reference, wasm, webgpu } from '../helpers.ts'
import { architectures, randomBatch } from './models.ts'

/** Steps of training of a model of one layer, on a device; `after` is called after each. */
async function train(device: Device, steps: number, after: (step: number) => void = () => {}, name = 'default'): Promise<StepResult[]> {
  setDevice(device)
  const model = new Transformer({ ...architectures[name], layers: 1, dropout: 0.1 })
  const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
  const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
  const results: StepResult[] = []
  for (let step = 1; step <= steps; step++) {
    results.push(await trainer.step(randomBatch(step % 5, 2, 6)))
    after(step)
  }
  trainer.dispose()
  optimizer.dispose()
  model.dispose()
  return results
}

/** The dispatches of a training step of 16 x 128 tokens, on a runtime that only counts them: bench/README.md says of which kernels. */
function dispatchesOf(preset: 'labml' | 'default'): number {
  let [made, count] = [0, 0]
  const block = (bytes: number, offset = 0, memory: object = { id: made++, shared: null }) => ({ bytes, offset, memory, integer: false })
  const gpu = {
    capabilities: { bindingBytes: 2 ** 30, software: false },
    device: { limits: { maxStorageBuffersPerShaderStage: 10 } },
    faults: block(64),
    fault: () => 0,
    scratch: (floats: number, body: (of: unknown) => unknown) => body(block(4 * floats)),
    run: (_shader: unknown, _entry: string, _bindings: unknown, _params: unknown, groups: number) => void (count += Number(groups > 0)),
  }
  /** As on the device, in one buffer. */
  const gather = (blocks: ReturnType<typeof block>[]) => {
    const whole = block(blocks.reduce((sum, { bytes }) => sum + bytes, 0))
    Object.assign(whole.memory, { shared: { blocks: blocks.length, whole } })
    let end = 0
    return blocks.map(({ bytes }) => block(bytes, (end += bytes) - bytes, whole.memory))
  }
  const kernels = webgpuKernels(gpu as never)
  const allocate = (_dtype: string, size: number) => block(4 * size)
  const device = { ...reference, name: 'webgpu', defers: true, kernels, allocate, gather, free() {}, write() {} } as unknown as Device
  setDevice(device)
  const { model: config, training } = presets[preset]
  const model = new Transformer({ ...config, symbols: 65 })
  const optimizer = new (training.optimizer === 'muon' ? Muon : Adam)(model.namedParameters(), { lr: 1e-3 })
  const [B, T] = [16, 128]
  const tokens = new Int32Array(B * T)
  count = 0
  scope(() => {
    model.loss({ tokens, targets: tokens, B, T }).backward()
    optimizer.step({ clipNorm: 1 })
    optimizer.zeroGrad()
  })
  return count
}

/** 1,000 take a minute or two. */
const steps = Number(process.env.STEPS ?? 100)

describe('training on webgpu', () => {
  afterEach(() => setDevice(reference))

  it('takes no more dispatches a step than it did', () => {
    assert.deepEqual([dispatchesOf('labml'), dispatchesOf('default')], [126, 300])
  })

  it('has the losses of wasm for 100 steps, and takes no more memory', async function () {
    this.timeout(1200 * steps)
    const gpu = await webgpu(this)
    const before = gpu.bytesInUse()
    const bytes: [number, number][] = []
    const actual = await train(gpu, steps, () => bytes.push([gpu.bytesInUse(), gpu.bytesReserved()]))
    for (const step of [10, 100, steps]) assert.deepEqual(bytes[step - 1], bytes[1], `bytes in use and reserved after step ${step}`)
    assert.equal(gpu.bytesInUse(), before)
    const expected = await train(await wasm(), 100)
    for (const [i, { loss }] of expected.entries()) {
      const error = Math.abs(actual[i].loss / loss - 1)
      // Roundings of 6e-8 grow with the steps; between the two builds of wasm they come to as much.
      const bound = i < 20 ? 1e-6 : 1e-4
      assert.ok(error <= bound, `loss of step ${i + 1}: ${actual[i].loss}, on wasm ${loss} (relative ${error}, bound ${bound})`)
    }
    assert.ok(expected[99].loss < expected[4].loss)
  })

  it('is the same, bit for bit, within the limits that every adapter has, and goes on after a request beyond them', async function () {
    // Not the rules that have a workgroup a head: within those limits these are computed by other kernels, which round otherwise.
    const none = (): void => {}
    const expected = await train(await webgpu(this), 3, none, 'sum, normalised')
    const device = await webgpuDevice({ minimal: true })
    assert.deepEqual(await train(device, 3, none, 'sum, normalised'), expected)
    for (const mixer of [undefined, 'kda'] as const) {
      const heads = await train(await webgpu(this), 3, none, mixer)
      for (const [i, { loss }] of (await train(device, 3, none, mixer)).entries())
        assert.ok(Math.abs(loss / heads[i].loss - 1) <= 1e-6, `${mixer}, step ${i}: ${loss}`)
    }
    assert.throws(() => zeros([2 ** 25 + 1], device), {
      message: 'webgpu: out of memory: asked for 128 MB in one block, this adapter binds at most 128 MB (use a smaller batch)',
    })
    assert.deepEqual(await train(device, 1, none, 'sum, normalised'), expected.slice(0, 1))
    device.close()
  })

  // Where a browser asks after an answer only now and then (Firefox every 100 ms), each of these waits is as long as that.
  it('waits for the GPU once a step, once a token, and for an update not at all', async function () {
    await webgpu(this)
    const device = await webgpuDevice()
    setDevice(device)
    const { gpu } = device
    const none = { mapAsync: 0, onSubmittedWorkDone: 0, submit: 0, popErrorScope: 0, createBindGroup: 0, beginComputePass: 0 }
    const calls = { ...none }
    const count = <O extends object>(object: O, name: keyof O & keyof typeof calls): void => {
      const original = (object[name] as (...rest: unknown[]) => unknown).bind(object)
      Object.defineProperty(object, name, {
        value: (...rest: unknown[]) => {
          calls[name]++
          return original(...rest)
        },
      })
    }
    count(gpu, 'popErrorScope')
    count(gpu, 'createBindGroup')
    count(gpu.queue, 'submit')
    count(gpu.queue, 'onSubmittedWorkDone')
    const createBuffer = gpu.createBuffer.bind(gpu)
    gpu.createBuffer = (descriptor) => {
      const buffer = createBuffer(descriptor)
      count(buffer, 'mapAsync')
      return buffer
    }
    const createCommandEncoder = gpu.createCommandEncoder.bind(gpu)
    gpu.createCommandEncoder = () => {
      const encoder = createCommandEncoder()
      count(encoder, 'beginComputePass')
      return encoder
    }
    const during = async (body: () => Promise<unknown>): Promise<typeof calls> => {
      Object.assign(calls, none)
      await body()
      return { ...calls }
    }
    const model = new Transformer({ ...architectures.default, layers: 1 })
    const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
    const step = () => trainer.step(randomBatch(1, 2, 6))
    // Pipelines, buffers and bind groups are made in the first steps, each with an error scope.
    for (let i = 0; i < 3; i++) await step()
    const ofStep = await during(step)
    // Captured: one submission of one pass, for which nothing is made, and whose error scope isn't waited for by itself.
    const replayed = { ...none, mapAsync: 1, submit: 1, popErrorScope: 1, beginComputePass: 1 }
    assert.deepEqual(ofStep, replayed)
    // As it is where nothing is captured.
    trainer.dispose()
    const { submit, popErrorScope, mapAsync: waits } = await during(() => trainer.step(randomBatch(1, 2, 5)))
    assert.deepEqual([waits, popErrorScope >= submit], [1, true])
    const tokens = generate(model, Int32Array.of(1, 2), { length: 6 })
    for (let i = 0; i < 5; i++) await tokens.next()
    const ofToken = await during(() => tokens.next())
    assert.deepEqual(ofToken, replayed)
    const { mapAsync, onSubmittedWorkDone } = await during(async () => {
      for (const [, p] of model.namedParameters()) p.grad = zeros(p.shape)
      optimizer.step({ clipNorm: 1 }).dispose()
      optimizer.zeroGrad()
    })
    assert.deepEqual([mapAsync, onSubmittedWorkDone], [0, 0])
    device.close()
  })

  it('lost on the way: one line, a checkpoint that opens, and from there the same as if nothing had happened @long', async function () {
    await webgpu(this)
    const folder = mkdtempSync(join(tmpdir(), 'fastweights-lost-'))
    try {
      writeFileSync(join(folder, 'text.txt'), 'It is the way of a value. '.repeat(60))
      const source = `
        import { readFileSync } from 'node:fs'
        import { setDevice, wasmDevice, webgpuDevice } from 'ROOT/engine/index.js'
        import { readCheckpoint } from 'ROOT/nn/index.js'
        import { presets } from 'ROOT/tasks/index.js'
        import { train } from 'ROOT/cli/train.js'
        process.chdir(${JSON.stringify(folder)})
        const { model, training } = presets.default
        const options = {
          model: { ...model, dModel: 16, heads: 2, layers: 1, dFf: 32, dropout: 0.1 },
          training: { ...training, seqLen: 8, batch: 2, steps: 8 },
          preset: 'default', text: 'text.txt', seed: 1, evalEvery: 100, saveEvery: 3, sampleLength: 5, arithmetic: 'webgpu', given: new Set(),
        }
        const run = async (device, change, limit) => {
          setDevice(device)
          const { capture } = device
          let replays = 0
          device.capture = async (...given) => {
            const captured = await capture(...given)
            const { replay } = captured
            captured.replay = () => {
              replay()
              if (++replays === limit) device.gpu.destroy()
            }
            return captured
          }
          await train({ ...options, ...change }, device)
          device.capture = capture
        }
        const device = await webgpuDevice()
        await run(device, { out: 'whole' })
        // In step 6: the first two are no replays, nor is the third, which is begun while the step is being captured.
        await run(await webgpuDevice(), { out: 'lost' }, 3).catch(({ message }) => console.log('failed: ' + message))
        console.log(readCheckpoint(readFileSync('lost/checkpoint.safetensors')).steps + ' steps saved')
        await run(device, { resume: 'lost' })
        // The first step is so large that the second finds no finite number, by which time the third is under way.
        for (const device of [await wasmDevice({ threads: 1 }), await webgpuDevice()]) {
          setDevice(device)
          const given = { ...options, training: { ...options.training, schedule: 'constant', optimizer: 'adam', lr: 1e9, clip: 0 }, saveEvery: 4, out: device.name }
          await train(given, device).catch(({ message }) => console.log('failed: ' + message))
          const saved = readCheckpoint(readFileSync(device.name + '/checkpoint.safetensors')).steps
          console.log(saved + ' saved, ' + (readFileSync(device.name + '/metrics.jsonl', 'utf8').trim().split('\\n').length) + ' noted')
        }`
      const output = program(source)
      assert.match(
        output,
        /^failed: webgpu: the device was lost \(destroyed: .*\); open another one and go on from the last checkpoint\n3 steps saved$/m,
      )
      const read = (name: string): Buffer => readFileSync(join(folder, name))
      assert.ok(read('lost/checkpoint.safetensors').equals(read('whole/checkpoint.safetensors')), 'checkpoints differ')
      assert.equal(readCheckpoint(read('lost/checkpoint.safetensors')).steps, 8)
      // Results that come while the next step is under way are of their own step.
      const burst = [...output.matchAll(/^failed: (training diverged .*)\n(.* saved, .* noted)$/gm)].map(([, failed, noted]) => [
        failed,
        noted,
      ])
      assert.equal(burst.length, 2)
      assert.deepEqual(
        burst[1].map((text) => text.replace('webgpu', 'wasm')),
        burst[0],
      )
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})
