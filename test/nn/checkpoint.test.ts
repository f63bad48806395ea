/** A model and its optimiser come back from a checkpoint bit for bit; a file that isn't one is refused before it takes memory. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { setDevice } from '../../engine/index.ts'
import {
  AdamW,
  type BlockModel,
  checkpointParts,
  constant,
  type DivergenceError,
  Muon,
  modelOf,
  newPretrained,
  PackedEntry,
  readCheckpoint,
  readSafetensors,
  restoreOptimizer,
  type SafetensorsEntry,
  SafetensorsError,
  Trainer,
  Transformer,
  writeCheckpoint,
  writeSafetensors,
} from '../../nn/index.ts'
import { optimizerOf, packagePresets, scheduleOf } from '../../tasks/index.ts'
import { gpus, reference, wasm } from '../helpers.ts'
import { architectures, few, randomBatch } from './models.ts'

describe('checkpoints', () => {
  afterEach(() => setDevice(reference))

  const trainerOf = (model: Transformer): Trainer =>
    new Trainer(model, new AdamW(model.namedParameters(), { lr: 1e-3 }), { schedule: constant(1e-3), clipNorm: 1 })
  const release = (trainer: Trainer): void => {
    for (const one of [trainer, trainer.optimizer, trainer.model]) one.dispose()
  }

  const inParts = async (...about: Parameters<typeof checkpointParts>): Promise<Uint8Array> => {
    const parts: Uint8Array[] = []
    for await (const part of checkpointParts(...about)) {
      assert.equal(part.length, part.buffer.byteLength)
      parts.push(part)
    }
    return new Uint8Array(Buffer.concat(parts))
  }

  for (const [name, config] of Object.entries(architectures))
    it(`continue exactly, with dropout: ${name}`, async () => {
      for (const device of [reference, await wasm(), await wasm(2), ...(few.has(name) ? await gpus() : [])]) {
        setDevice(device)
        const before = device.bytesInUse()
        const whole = trainerOf(new Transformer({ ...config, dropout: 0.3 }, 7))
        for (let step = 0; step < 3; step++) await whole.step(randomBatch(step))
        const bytes = await writeCheckpoint(whole.model, whole.optimizer, { note: 'é\n"' })
        assert.deepEqual(await inParts(whole.model, whole.optimizer, { note: 'é\n"' }), bytes)
        const checkpoint = readCheckpoint(bytes)
        assert.deepEqual([checkpoint.steps, checkpoint.seed, checkpoint.extra.note], [3, 7, 'é\n"'])
        const model = modelOf(checkpoint)
        const resumed = trainerOf(model)
        restoreOptimizer(resumed.optimizer, checkpoint)
        assert.deepEqual(await writeCheckpoint(model, resumed.optimizer, { note: 'é\n"' }), bytes)
        for (let step = 3; step < 6; step++) assert.deepEqual(await resumed.step(randomBatch(step)), await whole.step(randomBatch(step)))
        assert.deepEqual(await writeCheckpoint(model, resumed.optimizer), await writeCheckpoint(whole.model, whole.optimizer))
        release(whole)
        release(resumed)
        assert.equal(device.bytesInUse(), before)
      }
    })

  for (const [name, { package: of, config, training }] of Object.entries(packagePresets))
    it(`continue exactly, a preset of another package: ${name}`, async () => {
      const device = await wasm()
      setDevice(device)
      const before = device.bytesInUse()
      const started = (model: BlockModel): Trainer<BlockModel> =>
        new Trainer(model, optimizerOf(model, training), { schedule: scheduleOf(training, model.config.dModel), clipNorm: training.clip })
      const whole = started(newPretrained({ ...config, vocab_size: 13 }, of, 7).model)
      const saved = await writeCheckpoint(whole.model, whole.optimizer)
      for (let step = 0; step < 2; step++) await whole.step(randomBatch(step))
      const bytes = await writeCheckpoint(whole.model, whole.optimizer)
      assert.notDeepEqual(bytes, saved)
      assert.deepEqual(await inParts(whole.model, whole.optimizer), bytes)
      const checkpoint = readCheckpoint(bytes, 'blocks')
      const resumed = started(modelOf(checkpoint))
      restoreOptimizer(resumed.optimizer, checkpoint)
      for (let step = 2; step < 4; step++) assert.deepEqual(await resumed.step(randomBatch(step)), await whole.step(randomBatch(step)))
      assert.deepEqual(await writeCheckpoint(resumed.model, resumed.optimizer), await writeCheckpoint(whole.model, whole.optimizer))
      for (const one of [whole, resumed]) for (const part of [one, one.optimizer, one.model]) part.dispose()
      assert.equal(device.bytesInUse(), before)
    })

  it('hold one moment of a training that goes on while they are written', async () => {
    for (const device of [reference, await wasm()]) {
      setDevice(device)
      const trainer = trainerOf(new Transformer({ ...architectures.default, dropout: 0.3 }))
      await trainer.step(randomBatch(1))
      const quiet = await writeCheckpoint(trainer.model, trainer.optimizer)
      const writing = writeCheckpoint(trainer.model, trainer.optimizer)
      await trainer.step(randomBatch(2))
      assert.deepEqual(await writing, quiet)
      release(trainer)
    }
  })

  it('are restored by an optimiser that keeps the same moments, and by no other', async () => {
    const trainer = trainerOf(new Transformer({ ...architectures.default, dModel: 16, dFf: 32 }))
    await trainer.step(randomBatch(1))
    const muon = new Muon(trainer.model.namedParameters(), { lr: 1e-3 })
    const checkpoint = readCheckpoint(await writeCheckpoint(trainer.model, trainer.optimizer))
    assert.throws(() => restoreOptimizer(muon, checkpoint), /^Error: loadMoments: this Muon has no moment v\.transformer\./)
    assert.equal(muon.steps, 0)
    const other = readCheckpoint(await writeCheckpoint(trainer.model, muon))
    assert.throws(() => restoreOptimizer(trainer.optimizer, other), /^Error: loadMoments: the saved state lacks v\.transformer\./)

    const { optimizer } = trainer
    const before = await writeCheckpoint(trainer.model, optimizer)
    const names = [...optimizer.moments().keys()]
    const wrong = (entry: object, message: RegExp): void => {
      const zero = [...optimizer.moments()].map(([name, { shape, size }]) => [name, { shape, data: new Float32Array(size) }] as const)
      assert.throws(() => optimizer.loadMoments(new Map([...zero, [names.at(-1)!, entry as never]]), 0), { message })
    }
    wrong({ shape: [1, 13], data: new Float32Array(13) }, /^loadMoments: v\.generator\.bias has shape \[1,13\], this AdamW expects \[13\]$/)
    wrong({ shape: [13], data: new Float32Array(12) }, /v\.generator\.bias has 12 values for shape \[13\]$/)
    wrong({ shape: [13], data: new BigInt64Array(13) }, /v\.generator\.bias is a BigInt64Array, not floating-point numbers$/)
    assert.deepEqual(await writeCheckpoint(trainer.model, optimizer), before)
    muon.dispose()
    release(trainer)
  })

  it('say pt where other loaders look for it, and open as they were written before', async () => {
    const model = new Transformer({ ...architectures.default, layers: 1 })
    const bytes = await writeCheckpoint(model, null, { note: 'x' })
    const { tensors, metadata } = readSafetensors(bytes)
    assert.deepEqual([metadata.format, metadata.fastweights], ['pt', 'checkpoint 3'])
    const changed = (change: Record<string, string | undefined>) => {
      const meta = Object.entries({ ...metadata, ...change }).filter((pair): pair is [string, string] => pair[1] !== undefined)
      return readCheckpoint(writeSafetensors(tensors, Object.fromEntries(meta)))
    }
    const old = changed({ format: 'fastweights-2', fastweights: undefined })
    assert.deepEqual(old, readCheckpoint(bytes))
    assert.deepEqual(old.extra, { note: 'x' })
    // Settings that came later.
    const later = ['keyHeads', 'gateRank', 'gateDivisor', 'headDecay', 'slots', 'levels', 'innerRate', 'minibatch', 'tie', 'recompute']
    const said = Object.entries(JSON.parse(metadata.config)).filter(([name]) => !later.includes(name))
    assert.equal(said.length, Object.keys(model.config).length - later.length)
    assert.deepEqual(changed({ config: JSON.stringify(Object.fromEntries(said)) }), readCheckpoint(bytes))
    assert.deepEqual(await writeCheckpoint(modelOf(old), null, { note: 'x' }), bytes)
    const refused = (change: Record<string, string | undefined>, says: string) =>
      assert.throws(() => changed(change), {
        name: 'SafetensorsError',
        message: `safetensors: checkpoint: the file isn't a checkpoint of this version of fastweights (its metadata says ${says}, not "checkpoint 3")`,
      })
    refused({ fastweights: undefined }, 'format "pt" and nothing of fastweights')
    refused({ fastweights: 'checkpoint 4\u001b\u009b' }, '"checkpoint 4\\u001b\\u009b"')
    refused({ fastweights: 'state 2' }, '"state 2"')
    refused({ format: 'fastweights-1', fastweights: undefined }, 'format "fastweights-1"')
    refused({ format: undefined, fastweights: undefined }, 'no format')
    model.dispose()
  })

  it('are refused with the prefix that their names have, or the dtype that is not read', async () => {
    const trainer = trainerOf(new Transformer({ ...architectures.default, layers: 1 }))
    await trainer.step(randomBatch(1))
    const { tensors, metadata } = readSafetensors(await writeCheckpoint(trainer.model, trainer.optimizer))
    release(trainer)
    const prefixed = [...tensors].map(([name, entry]) => [`_orig_mod.${name}`, entry] as const)
    assert.throws(() => readCheckpoint(writeSafetensors(prefixed, { ...metadata })), {
      message: 'safetensors: checkpoint: it lacks src_embed.weight; its names have "_orig_mod." before them',
    })
    const { shape } = tensors.get('generator.bias')!
    tensors.set('generator.bias', new PackedEntry('generator.bias', 'F8_E5M2', shape, new Uint8Array(shape[0])))
    assert.throws(() => readCheckpoint(writeSafetensors(tensors, { ...metadata })), {
      message: "safetensors: checkpoint: generator.bias is F8_E5M2, which isn't read as numbers",
    })
  })

  it('hold a plain state dict beside the moments', async () => {
    const trainer = trainerOf(new Transformer(architectures.labml))
    const { tensors } = readSafetensors(await writeCheckpoint(trainer.model, trainer.optimizer))
    const names = [...trainer.model.namedParameters().keys()]
    assert.deepEqual([...tensors.keys()].sort(), names.flatMap((name) => [name, `optimizer.m.${name}`, `optimizer.v.${name}`]).sort())
    const without = readCheckpoint(await writeCheckpoint(trainer.model, null))
    assert.deepEqual([...without.tensors.keys()].sort(), names.sort())
    assert.throws(() => restoreOptimizer(trainer.optimizer, without), /it holds no optimiser's state/)
    release(trainer)
  })

  it('are refused, with a SafetensorsError and without taking memory, when any of their bytes are missing or of their header changed', async () => {
    const device = await wasm()
    setDevice(device)
    const trainer = trainerOf(new Transformer({ ...architectures.default, layers: 1 }))
    const bytes = await writeCheckpoint(trainer.model, trainer.optimizer)
    release(trainer)
    const before = device.bytesInUse()
    const headerBytes = new DataView(bytes.buffer).getUint32(0, true)
    const read = (file: Uint8Array): void => {
      try {
        readCheckpoint(file)
      } catch (error) {
        assert.ok(error instanceof SafetensorsError, `${(error as DivergenceError).stack}`)
      }
    }
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), (length) => assert.throws(() => readCheckpoint(bytes.subarray(0, length)), SafetensorsError)),
      { numRuns: 100 },
    )
    fc.assert(
      fc.property(fc.nat(headerBytes + 7), fc.integer({ min: 0, max: 255 }), (position, value) => {
        const changed = bytes.slice()
        changed[position] = value
        read(changed)
      }),
      { numRuns: 1000 },
    )
    assert.equal(device.bytesInUse(), before)
  })

  it('are refused for any configuration that is not that of their tensors', async () => {
    const device = await wasm()
    setDevice(device)
    const trainer = trainerOf(new Transformer({ ...architectures.default, layers: 1 }))
    const { tensors, metadata } = readSafetensors(await writeCheckpoint(trainer.model, trainer.optimizer))
    release(trainer)
    const before = device.bytesInUse()
    const config = JSON.parse(metadata.config)
    const withConfig = (change: object) => writeSafetensors(tensors, { ...metadata, config: JSON.stringify({ ...config, ...change }) })
    const shaping = ['symbols', 'dModel', 'layers', 'dFf', 'conv', 'headNorm', 'attention', 'rule', 'norm']
    const value = fc.oneof(
      fc.constantFrom(0, -1, 1.5, 1e9, 1e300, 2 ** 53, 'constructor', '__proto__', null, true, [], {}, 'sum', 'layer', 'softmax'),
      fc.integer(),
    )
    fc.assert(
      fc.property(fc.constantFrom(...shaping), value, (name, wrong) => {
        if (wrong === config[name]) return
        assert.throws(() => readCheckpoint(withConfig({ [name]: wrong })), SafetensorsError)
      }),
      { numRuns: 300 },
    )
    assert.throws(() => readCheckpoint(withConfig({ novelty: 1 })), /it has an unknown field "novelty"$/)
    const replaced = (entry: SafetensorsEntry) =>
      writeSafetensors(
        [...tensors].map(([name, old]) => [name, name === 'generator.bias' ? entry : old]),
        { ...metadata },
      )
    assert.throws(
      () => readCheckpoint(replaced({ dtype: 'I64', shape: [13], data: new BigInt64Array(13) })),
      /generator\.bias is I64, not floating-point numbers$/,
    )
    assert.throws(() => readCheckpoint(replaced({ dtype: 'U8', shape: [13], data: new Uint8Array(13) })), /generator\.bias is U8/)
    assert.throws(
      () => readCheckpoint(replaced({ dtype: 'F32', shape: [13, 1], data: new Float32Array(13) })),
      /generator\.bias has shape \[13,1\]/,
    )
    assert.equal(device.bytesInUse(), before)
  })
})
