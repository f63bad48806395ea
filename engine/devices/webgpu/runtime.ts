/**
 * Records kernels and submits them in batches. A call of `run` costs no round trip: its parameters go to a host array that is uploaded with
 * the batch, its dispatch to the open encoder. A batch is submitted when it is full, before a read, before a buffer that it uses is written to or
 * destroyed, and when timing begins or is waited for. Only `read` waits.
 *
 * What goes wrong on a GPU is heard of later: a shader that doesn't compile, memory that isn't there, a device that is lost. The first such
 * failure is kept, and every later call throws it in one line.
 *
 * What waits: `read`, once for all of what it reads, and for the answers to the error scopes with it, which were asked for before. So a training
 * step waits once, a generated token once, an update never (test/nn/webgpu.test.ts). Less can't be: a number has to come over. A browser that asks
 * after the GPU now and then, as Firefox does every 100 ms, makes ten steps or tokens a second at most; reads called together wait together.
 */
import { type Capture, type CaptureOptions, createNotes } from '../capture.ts'
import type { DispatchTiming, HostArray, Precision } from '../device.ts'
import type { Opened } from './adapter.ts'
import { type Block, createMemory, type Memory, show } from './memory.ts'
import { patiently } from './patience.ts'
import { createTiming, type Timing } from './timing.ts'

interface File {
  readonly name: string
  readonly source: string
}

/** A file of kernels-wgsl, as kernels-wgsl/build.mjs describes it. */
export interface Shader {
  readonly name: string
  /** What is compiled: these, one after the other. */
  readonly files: readonly File[]
  /** The same on matrix units, where that is something else. */
  readonly unitFiles?: readonly File[]
  readonly entries: readonly string[]
  readonly params: { readonly [name: string]: { readonly offset: number; readonly type: string; readonly words: number } }
  readonly paramBytes: number
  readonly bindings: { readonly [name: string]: { readonly binding: number; readonly write: boolean } }
}

/** Threads of a workgroup, and elements of it where a kernel goes over elements: THREADS and PER_GROUP of kernels-wgsl/common.wgsl. */
export const threads = 64
export const perGroup = 256

type Values<S extends Shader> = { [K in keyof S['params']]?: number | readonly number[] }
type Storages<S extends Shader> = { [K in keyof S['bindings']]?: Block | null }

export interface Gpu extends Omit<Memory, 'allocate' | 'allocateTogether' | 'release' | 'destroy'> {
  /** `lasting`: see `Device.allocate`. */
  allocate(bytes: number, integer?: boolean, lasting?: boolean): Block
  /** See Device. */
  gather(blocks: readonly Block[]): Block[] | null
  readonly device: GPUDevice
  readonly capabilities: Opened['capabilities']
  /** Where Half is f16: the same with f32. */
  readonly exact?: Gpu
  /** The same for shaders on matrix units, where there are such. */
  readonly units?: Gpu
  /**
   * Runs an entry of a shader on `groups` workgroups (nothing if there are none). Bindings that the entry uses are named; null binds an
   * empty buffer. Parameters that aren't named are 0; a function gives those that may be others each time.
   */
  run<S extends Shader>(
    shader: S,
    entry: S['entries'][number],
    bindings: Storages<S>,
    params: Values<S> | (() => Values<S>),
    groups: number,
  ): void
  /** Memory for the length of `body`. */
  scratch<R>(floats: number, body: (block: Block) => R): R
  /** Words that kernels set to report bad input: `error` of what the word holds is thrown by the next read. Gives the index of the word in `faults`. */
  fault(error: (word: number) => Error): number
  /**
   * The words, for a kernel to bind: 4, and as many for each read whose answer is out. Where one isn't 0, what is computed may mean nothing, of
   * which nobody has heard yet.
   */
  readonly faults: Block
  write(block: Block, data: ArrayLike<number>, begin?: number): void
  read(block: Block, size: number): Promise<HostArray>
  /** See Device. */
  timeDispatches<M>(mark: () => M | undefined, report: (milliseconds: number, mark: M | undefined) => void): DispatchTiming
  /** See Device. A replay encodes what was noted into one pass; bind groups and parameters are made once, here. */
  capture(body: () => void, options: CaptureOptions<Block>): Promise<Capture<Block>>
  close(): void
}

interface Pipeline {
  id: number
  pipeline: GPUComputePipeline
  layout: GPUBindGroupLayout
}

/** A call of `run`: the parameters are packed as the shader has them, or to be packed anew each time. */
interface Launch {
  shader: Shader
  pipeline: Pipeline
  names: readonly string[]
  blocks: readonly Block[]
  params: Int32Array | (() => Int32Array)
  groups: number
}

const packed = ({ params }: Launch): Int32Array => (typeof params === 'function' ? params() : params)

/** Whether two launches are the same but for blocks in the place of others. */
const sameLaunch = (first: Launch, second: Launch, instead: ReadonlyMap<Block, Block>): boolean =>
  first.pipeline === second.pipeline &&
  first.groups === second.groups &&
  // What is asked for anew each time needn't be compared.
  (typeof first.params === 'function' ? typeof second.params === 'function' : `${first.params}` === `${second.params}`) &&
  first.blocks.every(
    (block, i) => second.blocks[i] === block || instead.get(block) === second.blocks[i] || instead.get(second.blocks[i]) === block,
  )

/** What of a buffer a binding is for: all of it, unless others share it. Sizes are multiples of 16, for arrays of vectors. */
const bindingOf = ({ memory: { buffer, shared }, offset, bytes }: Block): GPUBufferBinding =>
  shared ? { buffer, offset, size: Math.max(16, Math.ceil(bytes / 16) * 16) } : { buffer }

const placeOf = ({ memory: { id, shared }, offset, bytes }: Block): string => (shared ? `${id}/${offset}/${bytes}` : `${id}`)

/** The standard's numbers: the names are globals in browsers only. */
const usage = { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, UNIFORM: 64, STORAGE: 128 }
const mapRead = 1
const computeStage = 4

/** Dispatches in a batch. */
const batchLimit = 256
const groupsLimit = 65535
const bindGroupsLimit = 4096
/** Several times those that there are, but where somebody makes programs of nets without end. */
const pipelinesLimit = 1024
/** A vec4 of WGSL. */
const faultWords = 4
/** Reads whose faults are kept until they are heard of: `Faults` of kernels-wgsl/common.wgsl has them and one. With more reads, several hear of the same. */
const faultReads = 3
/** The most that is read through one buffer, whatever the largest buffer is, and the largest of these buffers that is kept for the next read. */
const stagingLimit = 2 ** 26
const stagingKept = 2 ** 20

export function createGpu({ device, capabilities, precision }: Opened): Gpu {
  const { queue } = device
  const align = device.limits.minUniformBufferOffsetAlignment
  let failure: Error | null = null
  let closed = false
  /** Error scopes whose answer is still out. */
  const open = new Set<Promise<void>>()

  function fail(message: string): void {
    failure ??= new Error(`webgpu: ${message}`)
  }
  function check(): void {
    if (closed) throw new Error('webgpu: the device has been closed')
    if (failure) throw new Error(failure.message)
  }
  const oneLine = (text: string): string => text.trim().split('\n')[0]

  const lost = device.lost.then(({ reason, message }) => {
    if (!closed)
      fail(
        `the device was lost (${[reason, oneLine(message)].filter(Boolean).join(': ')}); open another one and go on from the last checkpoint`,
      )
  })
  device.onuncapturederror = (event) => {
    event.preventDefault()
    const message = oneLine((event as GPUUncapturedErrorEvent).error.message)
    // Often the consequence of an error that a scope has caught, whose answer is on its way and says more.
    void Promise.all(open).then(() => fail(message))
  }

  /** Runs `make` inside error scopes; `explain` gets the message of what they caught. */
  function guarded<R>(kinds: readonly GPUErrorFilter[], make: () => R, explain: (message: string) => string): R {
    for (const kind of kinds) device.pushErrorScope(kind)
    try {
      return make()
    } finally {
      for (const _ of kinds) {
        const answer: Promise<void> = device
          .popErrorScope()
          .then(
            (error) => {
              if (error) fail(explain(error.message))
            },
            () => {},
          )
          .finally(() => open.delete(answer))
        open.add(answer)
      }
    }
  }

  function createBuffer(bytes: number, usage: number): GPUBuffer {
    return guarded(
      ['validation', 'out-of-memory'],
      () => device.createBuffer({ size: bytes, usage }),
      (message) => {
        const inUse = show(memory.bytesInUse())
        const waiting = show(memory.release())
        return `out of memory: asked for ${show(bytes)} with ${inUse} in use and ${waiting} waiting for use (${oneLine(message)}) (run each step inside scope(), or use a smaller batch)`
      },
    )
  }

  const memory = createMemory({
    limit: capabilities.bindingBytes,
    create: (bytes) => createBuffer(bytes, usage.STORAGE | usage.COPY_SRC | usage.COPY_DST),
    beforeDestroy(pooled) {
      if (pooled.submission === submission) submit()
      bindGroups.clear()
    },
  })

  // ---- recording -----------------------------------------------------------------------------------------------------------
  let encoder: GPUCommandEncoder | null = null
  let pass: GPUComputePassEncoder | null = null
  let timing: Timing | null = null
  /** The number of the submission being recorded. */
  let submission = 1
  let dispatches = 0
  const uniformBytes = batchLimit * Math.max(align, 512)
  const uniforms = device.createBuffer({ size: uniformBytes, usage: usage.UNIFORM | usage.COPY_DST })
  const uniformData = new Int32Array(uniformBytes / 4)
  let uniformEnd = 0

  function endPass(): GPUCommandEncoder {
    pass?.end()
    pass = null
    encoder ??= device.createCommandEncoder()
    return encoder
  }

  function submit(): void {
    if (!encoder) return
    const recorded = endPass()
    timing?.finish(recorded)
    if (uniformEnd > 0) queue.writeBuffer(uniforms, 0, uniformData, 0, uniformEnd / 4)
    guarded(
      ['validation'],
      () => queue.submit([recorded.finish()]),
      (message) => `a batch was refused: ${oneLine(message)}`,
    )
    timing?.submitted()
    encoder = null
    submission++
    dispatches = uniformEnd = 0
  }

  // ---- pipelines and bind groups -----------------------------------------------------------------------------------------------
  const pipelines = new Map<string, Pipeline>()
  let pipelinesMade = 0
  const bindGroups = new Map<string, GPUBindGroup>()

  function pipelineOf(shader: Shader, entry: string, names: readonly string[], precision: Arithmetic): Pipeline {
    const key = `${shader.name} ${precision} ${entry} ${names}`
    const known = pipelines.get(key)
    if (known) return known
    const explain = (message: string): string => {
      const [, line, column, text] = message.match(/:(\d+):(\d+) (?:error: )?(.*)/) ?? []
      if (!line) return `${shader.name}.wgsl, ${entry}: ${oneLine(message)}`
      return `${place(Number(line), shader, precision)}:${column}: ${text}`
    }
    const made = guarded(
      ['validation'],
      () => {
        const module = device.createShaderModule({ label: shader.name, code: sourceOf(shader, precision) })
        const layout = device.createBindGroupLayout({
          entries: [
            {
              binding: 0,
              visibility: computeStage,
              buffer: { type: 'uniform', hasDynamicOffset: true, minBindingSize: shader.paramBytes },
            },
            ...names.map(
              (name): GPUBindGroupLayoutEntry => ({
                binding: shader.bindings[name].binding,
                visibility: computeStage,
                buffer: { type: shader.bindings[name].write ? 'storage' : 'read-only-storage' },
              }),
            ),
          ],
        })
        const pipeline = device.createComputePipeline({
          label: `${shader.name} ${entry}`,
          layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module, entryPoint: entry },
        })
        return { id: pipelinesMade++, pipeline, layout }
      },
      explain,
    )
    if (pipelines.size >= pipelinesLimit) {
      pipelines.clear()
      bindGroups.clear()
    }
    pipelines.set(key, made)
    return made
  }

  /** For what a call leaves out; one for each binding, because two writable bindings may not share a buffer. */
  const empties = new Map<number, Block>()
  function emptyAt(binding: number): Block {
    let empty = empties.get(binding)
    if (!empty) {
      empty = own(0)
      empties.set(binding, empty)
    }
    return empty
  }

  /** The bind group of a launch whose parameters are in `uniforms`: one of `groups`, or made and put there. */
  function bind(groups: Map<string, GPUBindGroup>, uniforms: GPUBuffer, { shader, pipeline, names, blocks }: Launch): GPUBindGroup {
    const key = `${pipeline.id} ${blocks.map(placeOf)}`
    let group = groups.get(key)
    if (!group) {
      const entries = [
        { binding: 0, resource: { buffer: uniforms, size: shader.paramBytes } },
        ...names.map((name, i) => ({ binding: shader.bindings[name].binding, resource: bindingOf(blocks[i]) })),
      ]
      // In no error scope, of which each has to be answered: one that isn't valid is what the batch is refused for.
      group = device.createBindGroup({ label: `${shader.name}.wgsl`, layout: pipeline.layout, entries })
      groups.set(key, group)
    }
    return group
  }

  /** What parameters take up among others. */
  const room = (shader: Shader): number => Math.ceil(shader.paramBytes / align) * align

  function pack(shader: Shader, params: { readonly [name: string]: number | readonly number[] | undefined }): Int32Array {
    const integers = new Int32Array(shader.paramBytes / 4)
    const floats = new Float32Array(integers.buffer)
    for (const name in params) {
      const value = params[name]
      if (value === undefined) continue
      const { offset, type, words } = shader.params[name]
      const target = type === 'f32' ? floats : integers
      const at = offset / 4
      if (typeof value === 'number') target[at] = value
      else if (value.length > words) throw new Error(`webgpu: ${shader.name}: ${value.length} values for ${name}, which holds ${words}`)
      else target.set(value, at)
    }
    return integers
  }

  /** Memory that the device keeps for itself until it's closed doesn't count as in use. */
  let ownBytes = 0
  function own(floats: number, integer = false): Block {
    ownBytes += 4 * floats
    return memory.allocate(4 * floats, integer)
  }

  const faults = own(faultWords * (1 + faultReads), true)
  const passing = own(faultWords, true)
  /** Where a read may keep its words, as offsets in bytes. */
  const freeFaults = Array.from({ length: faultReads }, (_, i) => (i + 1) * faultWords * 4)
  const faultErrors: ((word: number) => Error)[] = []
  /** What reads have found and none has thrown yet. */
  const faultsFound = new Int32Array(faultWords)

  const runIn =
    (precision: Arithmetic): Gpu['run'] =>
    (shader, entry, bindings, params, groups) => {
      check()
      if (groups <= 0) return
      if (groups > groupsLimit * groupsLimit)
        throw new Error(`webgpu: ${shader.name}, ${entry}: ${groups} workgroups are more than a dispatch holds`)
      const names = Object.keys(bindings)
      const pipeline = pipelineOf(shader, entry, names, precision)
      const blocks = names.map((name) => bindings[name] ?? emptyAt(shader.bindings[name].binding))
      const now = typeof params === 'function' ? () => pack(shader, params()) : pack(shader, params)
      const launch = { shader, pipeline, names, blocks, params: now, groups }
      if (notes.on()) {
        notes.note(launch)
        return
      }
      if (dispatches >= batchLimit || uniformEnd + room(shader) > uniformBytes) submit()
      const offset = uniformEnd
      uniformEnd += room(shader)
      uniformData.set(packed(launch), offset / 4)
      if (bindGroups.size >= bindGroupsLimit) bindGroups.clear()
      encode(launch, bind(bindGroups, uniforms, launch), offset)
      for (const { memory } of blocks) memory.submission = submission
    }

  function encode({ pipeline, groups }: Launch, group: GPUBindGroup, offset: number): void {
    if (timing?.each) endPass()
    if (!pass) {
      encoder ??= device.createCommandEncoder()
      pass = encoder.beginComputePass(timing?.pass())
    }
    pass.setPipeline(pipeline.pipeline)
    pass.setBindGroup(0, group, [offset])
    const y = Math.ceil(groups / groupsLimit)
    pass.dispatchWorkgroups(Math.ceil(groups / y), y)
    dispatches++
  }

  // ---- captured steps ------------------------------------------------------------------------------------------------------
  const notes = createNotes<Block, Launch>(sameLaunch, (block) => {
    if (!closed) memory.free(block)
  })
  /** What the host has written while a step was captured, and from which element on. */
  const held = new WeakMap<Block, Map<number, Float32Array | Int32Array>>()
  /** Bytes of the parameters of all captured steps. */
  let capturedBytes = 0

  const capture: Gpu['capture'] = async (body, options) => {
    check()
    const { launches, free, blocks, tables } = notes.capture(body, options)
    const bytes = launches.reduce((sum, { shader }) => sum + room(shader), 0)
    const params = createBuffer(Math.max(bytes, align), usage.UNIFORM | usage.COPY_DST)
    capturedBytes += params.size
    const groups = new Map<string, GPUBindGroup>()
    const data = new Int32Array(params.size / 4)
    let end = 0
    const offsets = new Map<Launch, number>()
    const placed = (launch: Launch): number => {
      offsets.set(launch, end)
      end += room(launch.shader)
      return offsets.get(launch)!
    }
    // Those that may be others each time come first, so that they are written at once.
    const changing = launches.filter((launch) => typeof launch.params === 'function').map((launch) => ({ launch, at: placed(launch) / 4 }))
    const changingEnd = end / 4
    for (const launch of launches) if (typeof launch.params !== 'function') data.set(launch.params, placed(launch) / 4)
    queue.writeBuffer(params, 0, data)
    const encoded = launches.map((launch) => ({ launch, group: bind(groups, params, launch), offset: offsets.get(launch)! }))
    const used = new Set(launches.flatMap((launch) => launch.blocks.map((block) => block.memory)))
    for (const memory of used) memory.captures++
    /** The last submission that has replayed it. */
    let last = 0
    const taken: Capture<Block> = {
      launches,
      blocks,
      tables,
      replay() {
        check()
        if (dispatches >= batchLimit || (last === submission && changing.length > 0)) submit()
        for (const { launch, at } of changing) data.set(packed(launch), at)
        if (changing.length > 0) queue.writeBuffer(params, 0, data, 0, changingEnd)
        for (const { launch, group, offset } of encoded) {
          // Only so many dispatches of a submission can be timed.
          if (timing?.each && dispatches >= batchLimit) submit()
          encode(launch, group, offset)
        }
        last = submission
        for (const memory of used) memory.submission = submission
      },
      prepare() {},
      free() {
        for (const memory of used) memory.captures--
        used.clear()
        free()
        if (last === submission) submit()
        capturedBytes -= params.size
        params.destroy()
      },
    }
    // What the GPU refuses, memory or a shader, is heard of by now.
    await Promise.all(open)
    try {
      check()
    } catch (error) {
      taken.free()
      throw error
    }
    return taken
  }

  const allocate = (bytes: number, integer = false, lasting = false): Block =>
    notes.on() ? notes.take(`${bytes} ${integer}`, lasting, () => memory.allocate(bytes, integer)) : memory.allocate(bytes, integer)

  function freed(block: Block): void {
    if (notes.freed(block) && !closed) memory.free(block)
  }

  // ---- host and device -----------------------------------------------------------------------------------------------------
  /** Those that wait, by size: powers of two, so that they are found again. */
  const stagings = new Map<number, GPUBuffer[]>()
  let stagingBytes = 0
  function takeStaging(least: number): GPUBuffer {
    const bytes = 2 ** Math.ceil(Math.log2(least))
    const waiting = stagings.get(bytes)?.pop()
    if (waiting) return waiting
    stagingBytes += bytes
    return createBuffer(bytes, usage.MAP_READ | usage.COPY_DST)
  }
  function endStaging(staging: GPUBuffer, keep: boolean): void {
    if (keep && staging.size <= stagingKept) {
      const list = stagings.get(staging.size)
      if (list) list.push(staging)
      else stagings.set(staging.size, [staging])
    } else {
      stagingBytes -= staging.size
      staging.destroy()
    }
  }

  async function read(block: Block, size: number): Promise<HostArray> {
    check()
    notes.read()
    const words = new Int32Array(faultWords)
    const result = block.integer ? new Int32Array(size) : new Float32Array(size)
    // The words of the faults and the data, one after the other, cut into parts.
    const [head, bytes] = [words.byteLength, result.byteLength]
    const parts: { staging: GPUBuffer; to: Uint8Array[] }[] = []
    const kept = freeFaults.pop()
    const encoder = endPass()
    for (let start = 0; start < head + bytes; start += stagingLimit) {
      const from = Math.max(0, start - head)
      const to = [
        ...(start === 0 ? [new Uint8Array(words.buffer)] : []),
        new Uint8Array(result.buffer, from, Math.min(start + stagingLimit - head, bytes) - from),
      ]
      const staging = takeStaging(Math.min(stagingLimit, head + bytes - start))
      if (start === 0) {
        const { buffer } = faults.memory
        encoder.copyBufferToBuffer(buffer, 0, staging, 0, head)
        // Here, not once the answer is in: what kernels find in the meantime is for the next read.
        if (kept !== undefined) {
          // By way of another: a buffer can't be copied within.
          encoder.copyBufferToBuffer(buffer, 0, passing.memory.buffer, 0, head)
          encoder.copyBufferToBuffer(passing.memory.buffer, 0, buffer, kept, head)
          encoder.clearBuffer(buffer, 0, head)
        }
      }
      const data = to[to.length - 1].length
      if (data > 0) encoder.copyBufferToBuffer(block.memory.buffer, block.offset + from, staging, start === 0 ? head : 0, data)
      parts.push({ staging, to })
    }
    submit()
    try {
      await patiently(Promise.all(parts.map(({ staging }) => staging.mapAsync(mapRead))))
      check()
    } catch (error) {
      for (const { staging } of parts) endStaging(staging, false)
      await Promise.all(open)
      check()
      // The reason is told elsewhere, perhaps a moment later.
      let timer: ReturnType<typeof setTimeout> | undefined
      await Promise.race([
        lost,
        new Promise((resolve) => {
          timer = setTimeout(resolve, 1000)
        }),
      ])
      clearTimeout(timer)
      check()
      throw new Error(`webgpu: reading failed: ${oneLine(String((error as Error).message))}`)
    }
    for (const { staging, to } of parts) {
      const mapped = staging.getMappedRange()
      let at = 0
      for (const target of to) {
        target.set(new Uint8Array(mapped, at, target.length))
        at += target.length
      }
      staging.unmap()
      endStaging(staging, true)
    }
    await Promise.all(open)
    check()
    words.forEach((word, i) => {
      if (word !== 0) faultsFound[i] = word
    })
    if (kept !== undefined) {
      if (words.some((word) => word !== 0)) endPass().clearBuffer(faults.memory.buffer, kept, head)
      freeFaults.push(kept)
    }
    const broken = faultsFound.findIndex((word) => word !== 0)
    if (broken >= 0) {
      const word = faultsFound[broken]
      faultsFound[broken] = 0
      throw faultErrors[broken](word)
    }
    return result
  }

  const gpu: Gpu = {
    device,
    capabilities,
    faults,
    run: runIn(precision),
    scratch(floats, body) {
      const block = allocate(4 * floats)
      try {
        return body(block)
      } finally {
        freed(block)
      }
    },
    fault(error) {
      const known = faultErrors.indexOf(error)
      if (known >= 0) return known
      if (faultErrors.length === faultWords) throw new Error('webgpu: more kinds of faults than there are words for them')
      return faultErrors.push(error) - 1
    },
    allocate(bytes, integer, lasting) {
      check()
      return allocate(bytes, integer, lasting)
    },
    free: freed,
    gather(blocks) {
      check()
      if (notes.on() || blocks.some(({ memory }) => memory.captures > 0)) return null
      return memory.allocateTogether(blocks.map(({ bytes }) => bytes))
    },
    write(block, data, begin = 0) {
      check()
      if (data.length === 0) return
      const typed = block.integer ? Int32Array.from(data) : data instanceof Float32Array ? data : Float32Array.from(data)
      const before = held.get(block)?.get(begin)
      if (!notes.written(block, () => before?.length !== typed.length || typed.some((x, i) => !Object.is(x, before[i])))) return
      if (notes.on()) held.set(block, (held.get(block) ?? new Map()).set(begin, typed.slice()))
      if (block.memory.submission === submission) submit()
      queue.writeBuffer(block.memory.buffer, block.offset + 4 * begin, typed as Float32Array<ArrayBuffer>)
    },
    read,
    capture,
    timeDispatches(mark, report) {
      check()
      if (timing) throw new Error('webgpu: this device is being timed already')
      submit()
      const created = createTiming(device, capabilities.timestamps, batchLimit, mark, report)
      timing = created
      return {
        each: created.each,
        async settled() {
          if (timing === created) submit()
          await created.settled()
          check()
        },
        stop() {
          if (timing !== created) return
          submit()
          created.close()
          timing = null
        },
      }
    },
    bytesInUse: () => (closed ? 0 : memory.bytesInUse() - ownBytes),
    bytesReserved: () => (closed ? 0 : memory.bytesReserved() + stagingBytes + capturedBytes),
    close() {
      if (closed) return
      closed = true
      pass = encoder = null
      memory.destroy()
      for (const staging of [...stagings.values()].flat()) staging.destroy()
      uniforms.destroy()
      timing?.close()
      pipelines.clear()
      bindGroups.clear()
      device.destroy()
    },
  }
  if (precision === 'f32') return gpu
  return {
    ...gpu,
    exact: { ...gpu, run: runIn('f32') },
    ...(capabilities.noMatrixUnits === null && { units: { ...gpu, run: runIn('units') } }),
  }
}

/** What a shader is compiled for: a precision, or f16 on matrix units. */
export type Arithmetic = Precision | 'units'

const f16 = 'enable f16;\nalias Half = f16;\nconst HALF = true;'
/** What comes before every shader. */
const preludes: Record<Arithmetic, File> = {
  f32: { name: 'precision f32', source: 'alias Half = f32;\nconst HALF = false;' },
  f16: { name: 'precision f16', source: f16 },
  units: { name: 'matrix units', source: `enable subgroups;\nenable chromium_experimental_subgroup_matrix;\n${f16}` },
}
type Files = Pick<Shader, 'files' | 'unitFiles'>
const filesOf = ({ files, unitFiles = files }: Files, precision: Arithmetic) => [
  preludes[precision],
  ...(precision === 'units' ? unitFiles : files),
]

export const sourceOf = (shader: Files, precision: Arithmetic = 'f32'): string =>
  filesOf(shader, precision)
    .map(({ source }) => source)
    .join('\n')

/** Which file a line of the whole source is in, and its number there. */
function place(line: number, shader: Shader, precision: Arithmetic): string {
  let rest = line
  for (const { name, source } of filesOf(shader, precision)) {
    const lines = source.split('\n').length
    if (rest <= lines) return `${name}.wgsl:${rest}`
    rest -= lines
  }
  return `${shader.name}.wgsl:${line}`
}
