import { checkDevice, checkFlag, checkList, checkNumber, checkOptions, told } from './arguments.ts'
import type { Device, DType, HostArray } from './devices/device.ts'
import { halfMatrices, rowsTogether } from './devices/halves.ts'
import { referenceDevice } from './devices/reference/index.ts'
import { type HalfType, halfTypes, widened } from './half.ts'
import { span } from './profile.ts'
import { noGrad } from './recording.ts'
import { enroll, enrollBeside, innermost, keep, type Scoped, scope } from './scope.ts'
import { checkShape, checkSizes, type Shape, sameShape, show, sizeOf } from './shape.ts'

let defaultDevice: Device = referenceDevice()

let nodes = 0
/** The id of a new node. */
export const nextNode = (): number => nodes++

/** The device on which tensors are made when none is named: the float64 reference, until `setDevice` says otherwise. */
export const getDevice = (): Device => defaultDevice
/** Tensors are made on this device from now on, where none is named. */
export function setDevice(device: Device): void {
  checkDevice('setDevice', device)
  defaultDevice = device
}

/** A piece of device memory, shared by the views of one tensor and freed with the last of them. */
interface Block {
  storage: unknown
  owners: number
  /** Grows whenever the contents are overwritten, so that a backward can tell that what it needs is gone. */
  version: number
  /** A place that is kept for one gradient after another, beside others (`gradientPlaces`): not freed with the last tensor. */
  place?: boolean
}

/** The numbers of an int32 tensor on the host. */
interface Indices {
  values: Int32Array
  /**
   * Of an input of a captured step: its values change from one time to the next, so that none may be looked at. For each use of them as indices, what
   * they must be below, and the other one that is allowed.
   */
  input: { below: number; other: number | undefined }[] | null
}

/** What looks on while a step is captured: it is told of all memory that kernels are called on, and of tensors whose values change. */
export interface Onlooker {
  uses(block: Readonly<Block>): void
  changes(block: Readonly<Block>): void
  varies(t: Tensor, values: () => ArrayLike<number>): void
  /** A leaf is about to get a gradient, or more of it. */
  learns(x: Tensor): void
  /** What is to be asked for once whenever the step is replayed. */
  asks<R>(question: () => R): () => R
  /** A count that the step moves on from `value`. Gives what it is in the step that is replayed. */
  counts<K extends string>(counter: Record<K, number>, key: K, value: number): () => number
}
let onlooker: Onlooker | null = null

/** Runs `body` with somebody looking on. */
export function watched<R>(by: Onlooker, body: () => R): R {
  const before = onlooker
  onlooker = by
  try {
    return body()
  } finally {
    onlooker = before
  }
}

/**
 * Moves a count of the host's on by 1, such as the streams that a generator has given or the steps of an optimiser. Gives what it was: in a step that is
 * captured, which moves it on whenever it is replayed, what it was before that.
 */
export function counted<K extends string>(counter: Record<K, number>, key: K): () => number {
  const value = counter[key]++
  return onlooker?.counts(counter, key, value) ?? (() => value)
}

/**
 * An answer that is the same during a step, such as a learning rate: asked for at once, and in a step that is captured once whenever it is replayed,
 * however many kernels take it.
 */
export function askedOnce<R>(question: () => R): () => R {
  const answer = question()
  return onlooker?.asks(question) ?? (() => answer)
}

/** Throws where a step is being captured. */
export function refuseCapture(what: string): void {
  if (onlooker) throw new Error(`capture: the step ${what}, so it can't be replayed`)
}

/** What using a freed tensor throws; `backward` says more about it. */
export class FreedError extends Error {}

/**
 * Given d(loss)/d(output) for each output (null where nothing depends on it), returns d(loss)/d(input) for each input (null: none). Where input i has
 * a gradient from elsewhere already, `sofar(i)` is that, in memory of its own: an op may add to it, and return it in place of a new one. `fresh(i)` is a
 * tensor like input i to write its gradient to, in the place that is kept for that, if there is one.
 */
export type Backward = (grads: readonly (Tensor | null)[], sofar: Sofar, fresh: Fresh) => readonly (Tensor | null)[]
/** The gradient that an input has from what came later, to be added to in place; null where there is none yet. */
export type Sofar = (input: number) => Tensor | null
/** A new tensor for the gradient of an input, with undefined contents. */
export type Fresh = (input: number) => Tensor

export interface Node {
  /** Grows with every node: a node's inputs were made before it. */
  id: number
  op: string
  inputs: readonly Tensor[]
  outputs: readonly Tensor[]
  /** The versions of the inputs, then of the outputs, when the op ran. */
  versions: readonly (number | null)[]
  backward: Backward
  /** Writes the values of the outputs once more, where that takes hardly more than a pass over memory. */
  again?: () => void
}

/**
 * A dense row-major array on a device. float32 (float64 on the reference device), or int32 for indices, which are only ever
 * made from host data: `indices` keeps that data, so that ops can check ranges without waiting for the device; or float16 or bfloat16: see `halfTensor`.
 */
export class Tensor implements Scoped {
  /** The sizes of its axes; [] for a single number. */
  readonly shape: Shape
  /** How many numbers it holds. */
  readonly size: number
  readonly dtype: DType | HalfType
  readonly device: Device
  /** Set on parameters by hand, on results by the op that made them. */
  requiresGrad = false
  /** Made by `parameter`: what a Module trains and saves, frozen (requiresGrad = false) or not. */
  isParameter = false
  /** d(loss)/d(this), for tensors made with requiresGrad; sums over backward passes until it's cleared. */
  grad: Tensor | null = null
  /** The op that made this tensor. */
  node: Node | null = null
  /** Which of its node's outputs it is, from 0. */
  output = 0
  /** Whether it outlives the scope that it was made in; see `keep`. */
  kept = false
  /** The id of the node recorded next when this tensor was made: no node before it can know the tensor. */
  readonly born = nodes
  private block: Block | null
  /** Where its gradients are written: see `gradientPlaces`. */
  private place: Block | null = null
  private evicted = false
  /** Set by an op whose backward doesn't read this output, such as a last state; until something reads it. @internal */
  unread = false
  private readonly host: Indices | null

  constructor(shape: Shape, dtype: DType | HalfType, device: Device, block: Block | null, host: Indices | null = null) {
    this.shape = shape
    this.size = sizeOf(shape)
    this.dtype = dtype
    this.device = device
    this.host = host
    this.block = block ?? { storage: device.allocate(dtype as DType, this.size), owners: 0, version: 0 }
    this.block.owners++
    enroll(this)
  }

  /** The device's handle to the memory, for kernels. */
  get storage(): unknown {
    const block = this.live()
    this.unread = false
    onlooker?.uses(block)
    return block.storage
  }

  /** The values of an int32 tensor, as they were given; null for float32. */
  get indices(): Int32Array | null {
    if (this.host?.input) refuseCapture(`looks at the values of the input ${show(this.shape)} on the host`)
    return this.host?.values ?? null
  }

  /** For an int32 tensor that is to be the input of a captured step: `write` may overwrite it from now on. @internal */
  becomeInput(): void {
    if (this.host) this.host.input ??= []
  }

  /** Says that the values of such an input must be below a number, or this other one, and gives those that it has; null for any other tensor. @internal */
  limitInput(below: number, other?: number): Int32Array | null {
    if (!onlooker || !this.host?.input) return null
    const { input, values } = this.host
    if (!input.some((use) => use.below === below && use.other === other)) input.push({ below, other })
    return values
  }

  /** Whether this is an input of a step that is being captured. @internal */
  get isInput(): boolean {
    return onlooker !== null && this.host?.input != null
  }

  /** The values of an int32 tensor as they are whenever that is asked, for what is asked for anew when a captured step is replayed. @internal */
  now(): Int32Array {
    return this.host!.values
  }

  /** Whether its memory was freed. */
  get disposed(): boolean {
    return this.block === null && !this.evicted
  }

  /** True when no other tensor shares the memory, so that it may be changed in place. */
  get exclusive(): boolean {
    return this.live().owners === 1
  }

  /** How often the memory was overwritten; null once the tensor is freed. */
  get version(): number | null {
    return this.block?.version ?? (this.evicted ? 0 : null)
  }

  /** To be called by whatever overwrites the memory of a tensor that others may have seen. */
  changed(): void {
    const block = this.live()
    onlooker?.changes(block)
    block.version++
  }

  /**
   * Another tensor over the same memory; the memory lives until both are freed. No gradient passes: see `reshape` and `detach`.
   * @internal
   */
  view(shape: Shape): Tensor {
    if (sizeOf(shape) !== this.size) throw new Error(`view: ${show(this.shape)} doesn't fit into ${show(shape)}`)
    if (this.half !== undefined && shape.at(-1) !== this.shape.at(-1))
      throw new Error(`view: the rows of a ${this.dtype} tensor ${show(this.shape)} stay as they are: ${show(shape)} has others`)
    return new Tensor(shape, this.dtype, this.device, this.live(), this.host)
  }

  /** float16 or bfloat16, if it holds such numbers. */
  get half(): HalfType | undefined {
    return halfTypes.find((type) => type === this.dtype)
  }

  /** The values, once every op called before has run; those of 16 bits as float32. */
  read(): Promise<HostArray> {
    const { half } = this
    if (half !== undefined) return this.readHalves().then((halves) => widened(halves, half))
    return answered(async () => this.device.read(this.live().storage, this.size))
  }

  /** The bits of a tensor of 16-bit numbers. */
  readHalves(): Promise<Uint16Array<ArrayBuffer>> {
    return answered(async () => {
      if (this.half === undefined) throw new Error(`readHalves: the tensor is ${this.dtype}, not ${halfTypes.join(' or ')}`)
      return halfMatrices(this.device).read(this.live().storage, ...matrixOf(this.shape))
    })
  }

  /** The single value of a tensor of size 1. */
  item(): Promise<number> {
    return answered(async () => {
      if (this.size !== 1) throw new Error(`item: the tensor has shape ${show(this.shape)}, not one element`)
      return (await this.read())[0]
    })
  }

  /** Overwrites the values in place (parameters, optimiser state, inputs of a captured step). */
  write(values: ArrayLike<number>): void {
    if (this.half !== undefined) throw new Error(`write: ${this.dtype} tensors are made once; make a new one`)
    this.accept(values)
    this.device.write(this.storage, values)
    this.changed()
  }

  /** Checks what the tensor is to hold; an int32 input of a captured step keeps it on the host. `op`: who says so. @internal */
  accept(values: ArrayLike<number>, op = 'write'): void {
    if (!ArrayBuffer.isView(values)) checkList(`${op}: the values`, values, '[0.5, 1]')
    if (values.length !== this.size) throw new Error(`${op}: ${values.length} values for a tensor of shape ${show(this.shape)}`)
    if (this.host) this.overwriteIndices(op, values, this.host)
  }

  private overwriteIndices(op: string, values: ArrayLike<number>, { values: held, input }: Indices): void {
    if (!input) throw new Error(`${op}: int32 tensors are made once; make a new one`)
    for (let i = 0; i < values.length; i++) {
      const value = values[i]
      if ((value | 0) !== value) throw new Error(`${op}: value ${value} at ${i} isn't an int32`)
      for (const { below, other } of input)
        if (!(value >= 0 && value < below) && value !== other) throw new Error(`${op}: index ${value} at ${i} is outside 0..${below - 1}`)
    }
    held.set(values)
  }

  /**
   * Gradients of this tensor with respect to every parameter it depends on, added to their `grad`. `seed`: d(loss)/d(this), by default 1 for a
   * tensor of size 1. See `BackwardOptions`.
   */
  backward(seed?: Tensor, options?: BackwardOptions): void {
    backward(this, seed, options)
  }

  /** Frees the memory now. Using the tensor afterwards throws; disposing it twice doesn't. */
  dispose(): void {
    this.evicted = false
    const block = this.block
    this.block = null
    if (block && --block.owners === 0 && !block.place) this.device.free(block.storage)
  }

  /** Keeps a place for its gradients from now on, until `leavePlace`. False where it has one. @internal */
  takePlace(storage: unknown): boolean {
    if (this.place) return false
    this.place = { storage, owners: 0, version: 0, place: true }
    return true
  }

  /** The place is free again, once no gradient is there. @internal */
  leavePlace(): void {
    const { place } = this
    this.place = null
    if (!place) return
    place.place = false
    if (place.owners === 0) this.device.free(place.storage)
  }

  /** A tensor for its next gradient, with undefined contents. @internal */
  freshGradient(): Tensor {
    const free = this.place?.owners === 0 ? this.place : null
    return new Tensor(this.shape, 'float32', this.device, free)
  }

  /**
   * Frees the memory until the values are needed, by a backward pass or whoever: they are computed once more then, from the op's inputs. Only for
   * recorded results that cost little, of norms, of dpfp and `sigmoidLater`, and that no view shares; others stay as they are. For what a layer makes and hands to nobody.
   * @internal
   */
  evict(): void {
    if (!this.node?.again || !this.block || this.block.owners > 1 || this.block.version > 0) return
    this.dispose()
    this.evicted = true
  }

  /** See `Scoped`. @internal */
  settle(): void {
    if (this.evicted) this.live()
  }

  /** What it is `op` of, where it's the result of that and its values aren't there (see `evict`); null: no such one. @internal */
  unmade(op: string): Tensor | null {
    return this.evicted && this.node?.op === op ? this.node.inputs[0] : null
  }

  /** Has the values in other memory, which holds them already. @internal */
  move(storage: unknown): void {
    const block = this.live()
    const before = block.storage
    block.storage = storage
    this.device.free(before)
  }

  toString(): string {
    return `Tensor(${show(this.shape)} ${this.dtype} on ${this.device.name}${this.disposed ? ', disposed' : ''})`
  }

  private live(): Block {
    if (this.evicted) {
      // All of an op's results are written at once.
      for (const y of this.node!.outputs)
        if (y.evicted) {
          y.evicted = false
          y.block = { storage: y.device.allocate(y.dtype as DType, y.size), owners: 1, version: 0 }
        }
      this.node!.again!()
    }
    if (!this.block)
      throw new FreedError(
        `tensor ${show(this.shape)} was freed; it was disposed, or its scope ended (return it from the scope, or keep() it)`,
      )
    return this.block
  }
}

// What console.log prints in Node, instead of all that the device is. Not in the class, whose type would have an index of symbols then.
Object.defineProperty(Tensor.prototype, Symbol.for('nodejs.util.inspect.custom'), {
  value(this: Tensor): string {
    return this.toString()
  },
})

/** What `read` asks. In a step that is being captured it fails, which `capture` says: nobody has to listen here. */
function answered<R>(read: () => Promise<R>): Promise<R> {
  const answer = read()
  if (onlooker) answer.catch(() => {})
  return answer
}

/** Numbers in arrays, and arrays of those; all of a level are of the same length. */
export type Nested = number | readonly Nested[]

/** Options of `tensor`. */
export interface TensorOptions {
  /** Needed for flat data that isn't one-dimensional. */
  shape?: Shape
  /** float32 if not given, and int32 for data in an Int32Array. */
  dtype?: DType
  /** Where it is; the device of `setDevice` if not given. */
  device?: Device
  /** Whether backward passes leave a gradient in `grad`; false if not given. */
  requiresGrad?: boolean
}

/** A tensor from numbers, nested arrays, or a flat (typed) array with `shape`. Int32Array data makes an int32 tensor. */
export function tensor(data: Nested | ArrayLike<number>, options: TensorOptions = {}): Tensor {
  checkOptions('tensor', options, ['shape', 'dtype', 'device', 'requiresGrad'])
  const { values, shape: found } = flatten(data)
  const dtype = options.dtype ?? (data instanceof Int32Array ? 'int32' : 'float32')
  if (dtype !== 'float32' && dtype !== 'int32') throw new Error(`tensor: the dtype must be float32 or int32, not ${told(dtype)}`)
  if (options.device) checkDevice('tensor', options.device)
  checkShape('tensor', options.shape ?? found)
  const shape = [...(options.shape ?? found)]
  if (values.length !== sizeOf(shape)) throw new Error(`tensor: ${values.length} values don't fill the shape ${show(shape)}`)
  let indices: Int32Array | null = null
  if (dtype === 'int32') {
    indices = Int32Array.from(values)
    for (let i = 0; i < values.length; i++)
      if (indices[i] !== values[i]) throw new Error(`tensor: value ${values[i]} at ${i} isn't an int32`)
    if (options.requiresGrad) throw new Error('tensor: int32 tensors have no gradient')
  }
  const t = fromHost(shape, dtype, options.device ?? defaultDevice, indices)
  t.device.write(t.storage, values)
  t.requiresGrad = options.requiresGrad ?? false
  return t
}

/**
 * A tensor of numbers of 16 bits, from their bits: for weights that aren't trained. It is the right side of `matmul`, transposed, and the table of `gather`; they compute
 * in float32 (float64 on the reference device), as if its numbers were such, to the bit. Nothing else takes it, and it has no gradient.
 */
export function halfTensor(bits: Uint16Array, options: { shape: Shape; dtype: HalfType; device?: Device }): Tensor {
  checkOptions('halfTensor', options, ['shape', 'dtype', 'device'])
  if (!(bits instanceof Uint16Array)) throw new Error(`halfTensor: needs the bits as a Uint16Array, not ${told(bits)}`)
  checkShape('halfTensor', options.shape)
  if (bits.length !== sizeOf(options.shape))
    throw new Error(`halfTensor: ${bits.length} values don't fill the shape ${show(options.shape)}`)
  return halfTensorFrom((begin, end) => bits.subarray(begin, end), options)
}

/** Numbers that are read at a time. */
const pieceSize = 2 ** 17
let piece = new Uint16Array(0)

/**
 * A `halfTensor` of bits that are asked for a piece at a time, those from `begin` to `end`, so that they needn't be in memory all at once; they may be left in the array
 * `into`, which is overwritten the next time.
 */
export function halfTensorFrom(
  bitsOf: (begin: number, end: number, into: Uint16Array) => Uint16Array,
  { shape, dtype, device = defaultDevice }: { shape: Shape; dtype: HalfType; device?: Device },
): Tensor {
  if (!halfTypes.includes(dtype)) throw new Error(`halfTensor: the dtype must be ${halfTypes.join(' or ')}, not ${told(dtype)}`)
  checkDevice('halfTensor', device)
  const [rows, columns] = matrixOf(shape)
  const matrices = halfMatrices(device)
  const t = new Tensor([...shape], dtype, device, { storage: matrices.allocate(rows, columns), owners: 0, version: 0 })
  try {
    const some = rowsTogether * Math.max(1, Math.floor(pieceSize / (rowsTogether * columns)))
    for (let first = 0; first < rows; first += some) {
      const [begin, end] = [first * columns, Math.min(rows, first + some) * columns]
      if (piece.length < end - begin) piece = new Uint16Array(end - begin)
      matrices.write(t.storage, rows, columns, first, bitsOf(begin, end, piece.subarray(0, end - begin)))
    }
    return t
  } catch (error) {
    t.dispose()
    throw error
  }
}

/** Rows and columns of a tensor as one matrix. */
const matrixOf = (shape: Shape): [rows: number, columns: number] => [sizeOf(shape.slice(0, -1)), shape.at(-1) ?? 1]

/** A tensor that the host is going to write. */
function fromHost(shape: Shape, dtype: DType, device: Device, indices: Int32Array | null): Tensor {
  const block = { storage: device.allocate(dtype, sizeOf(shape), true), owners: 0, version: 0 }
  return new Tensor(shape, dtype, device, block, indices && { values: indices, input: null })
}

/**
 * A tensor of numbers that follow from what the host counts, such as a token's position: in a step that is captured (engine/capture.ts) they are
 * asked for anew each time it is replayed.
 */
export function varying(values: () => ArrayLike<number>, options: Omit<TensorOptions, 'requiresGrad'> & { shape: Shape }): Tensor {
  if (!onlooker) return tensor(values(), options)
  const { shape, dtype = 'float32', device = defaultDevice } = options
  checkShape('varying', shape)
  const t = fromHost([...shape], dtype, device, dtype === 'int32' ? new Int32Array(sizeOf(shape)) : null)
  t.becomeInput()
  t.accept(values(), 'varying')
  onlooker.varies(t, values)
  return t
}

/** A float32 tensor with undefined contents: for ops, which overwrite it. */
export function empty(shape: Shape, device: Device = defaultDevice): Tensor {
  checkShape('empty', shape)
  checkDevice('empty', device)
  return new Tensor(shape, 'float32', device, null)
}

/**
 * Moves tensors side by side, where the device can then reach many of them in one kernel call. For what lives long and is used together, such as parameters
 * and moments.
 */
export function gatherMemory(tensors: readonly Tensor[]): void {
  for (const device of new Set(tensors.map((t) => t.device))) {
    // Once each block of memory: views of one move together.
    const its = [...new Map(tensors.filter((t) => t.device === device && t.dtype === 'float32').map((t) => [t.storage, t])).values()]
    const places = device.gather?.(its.map((t) => t.storage))
    for (const [i, to] of (places ?? []).entries()) {
      device.kernels.copy(its[i].storage, to, [its[i].size], [1], 0, [1], 0)
      its[i].move(to)
    }
  }
}

/**
 * Places side by side for the gradients of these parameters, where the device can then reach many of them in one kernel call. Gives the parameters that
 * have got one: `leavePlace` of each ends it.
 */
export function gradientPlaces(parameters: readonly Tensor[]): Tensor[] {
  const placed: Tensor[] = []
  for (const device of new Set(parameters.map((t) => t.device))) {
    const its = parameters.filter((t) => t.device === device && t.dtype === 'float32' && t.requiresGrad)
    const places = device.gather?.(its.map((t) => t.storage)) ?? []
    for (const [i, storage] of places.entries()) {
      if (its[i].takePlace(storage)) placed.push(its[i])
      else device.free(storage)
    }
  }
  return placed
}

/** Tensors of zeros, kept, of the shapes and on the devices of these float32 ones, side by side as `gatherMemory` has them. */
export function zerosTogether(beside: readonly Tensor[]): Tensor[] {
  const storages = new Map<number, unknown>()
  for (const device of new Set(beside.map((t) => t.device))) {
    const its = [...beside.keys()].filter((i) => beside[i].device === device && beside[i].dtype === 'float32')
    const places = device.gather?.(its.map((i) => beside[i].storage))
    for (const [j, storage] of (places ?? []).entries()) storages.set(its[j], storage)
  }
  return beside.map(({ shape, size, device }, i) => {
    const block = storages.has(i) ? { storage: storages.get(i), owners: 0, version: 0 } : null
    const t = keep(new Tensor(shape, 'float32', device, block))
    device.kernels.fill(t.storage, size, 0)
    return t
  })
}

/** An `empty` one of the shape and on the device of x. */
export const like = (x: Tensor): Tensor => empty(x.shape, x.device)

/** A float32 tensor of one value. */
export function full(shape: Shape, value: number, device: Device = defaultDevice): Tensor {
  checkShape('full', shape)
  checkNumber('full: the value', value, 'a number')
  const y = empty([...shape], device)
  device.kernels.fill(y.storage, y.size, value)
  return y
}

/** A float32 tensor of zeros. */
export const zeros = (shape: Shape, device?: Device): Tensor => filled('zeros', shape, 0, device)
/** A float32 tensor of ones. */
export const ones = (shape: Shape, device?: Device): Tensor => filled('ones', shape, 1, device)

function filled(op: string, shape: Shape, value: number, device?: Device): Tensor {
  checkSizes(op, shape)
  return full(shape, value, device)
}

/** Makes `x` a parameter: it receives gradients, and no scope frees it. */
export function parameter(x: Tensor): Tensor {
  if (!(x instanceof Tensor)) throw new Error(`parameter: needs a tensor, not ${told(x)}`)
  if (x.node) throw new Error('parameter: the tensor is the result of an op; make it inside noGrad()')
  x.requiresGrad = true
  x.isParameter = true
  return keep(x)
}

function flatten(data: Nested | ArrayLike<number>): { values: ArrayLike<number>; shape: number[] } {
  if (typeof data === 'number') return { values: [data], shape: [] }
  if (ArrayBuffer.isView(data) && !(data instanceof DataView || data instanceof BigInt64Array || data instanceof BigUint64Array)) {
    const values = data as ArrayLike<number>
    return { values, shape: [values.length] }
  }
  if (!Array.isArray(data))
    throw new Error(`tensor: needs numbers, as a number, nested arrays, or a typed array such as Float32Array, not ${told(data)}`)
  const shape: number[] = []
  for (let level: unknown = data; Array.isArray(level); level = level[0]) shape.push(level.length)
  const values: number[] = []
  const walk = (level: unknown, depth: number): void => {
    if (depth === shape.length) {
      if (typeof level !== 'number') throw new Error(`tensor: found ${typeof level} where a number was expected`)
      values.push(level)
    } else if (!Array.isArray(level) || level.length !== shape[depth]) {
      throw new Error(`tensor: the nested arrays are ragged (expected ${shape[depth]} entries at depth ${depth})`)
    } else for (const inner of level) walk(inner, depth + 1)
  }
  walk(data, 0)
  return { values, shape }
}

/** Options of `backward`. */
export interface BackwardOptions {
  /**
   * Frees the tensors of the innermost scope on the way, each as soon as no node is left that may need it, so that activations make room for
   * gradients. What is there can't be used afterwards, but for `root`, `seed`, what is kept, and leaves with a gradient of their own.
   */
  release?: boolean
}

/**
 * Reverse-mode differentiation: walks the recorded nodes that `root` depends on once, newest first. Backward passes are themselves not
 * recorded: first derivatives only.
 */
export function backward(root: Tensor, seed?: Tensor, options: BackwardOptions = {}): void {
  checkOptions('backward', options, ['release'])
  const { release = false } = options
  checkFlag('backward: release', release)
  if (!root.requiresGrad) throw new Error('backward: the tensor depends on no tensor with requiresGrad')
  if (root.disposed) throw new Error('backward: the tensor was freed')
  if (!seed && root.size !== 1)
    throw new Error(`backward: the tensor has shape ${show(root.shape)}, not one element; pass a seed of that shape`)
  if (seed && seed.device !== root.device)
    throw new Error(`backward: the seed is on ${seed.device.description}, the tensor on ${root.device.description}`)
  if (seed && !sameShape(seed.shape, root.shape))
    throw new Error(`backward: the seed has shape ${show(seed.shape)}, the tensor ${show(root.shape)}`)

  const held = release ? releasable([root, seed]) : []
  span('backward', () => walk(() => [[root, seed ?? full(root.shape, 1, root.device)]], held))
}

/** Walks back from several tensors at once, each with its seed, and frees what is `held` (see `releasable`) on the way. */
export function walk(roots: () => readonly (readonly [x: Tensor, seed: Tensor])[], held: Tensor[]): void {
  // Gradients that wait for their node, by output. Each is a view of its own, so that a gradient which an op hands on
  // unchanged to two inputs is shared in memory and still freed once.
  const waiting = new Map<Node, (Tensor | null)[]>()
  const leaves = new Set<Tensor>()
  const put = (x: Tensor, gradient: Tensor, op: string): void => {
    if (!x.requiresGrad) return
    if (!(gradient instanceof Tensor))
      throw new Error(`${op}: backward gave ${told(gradient)} for a gradient, not a tensor (null where there is none)`)
    if (!sameShape(x.shape, gradient.shape))
      throw new Error(`${op}: backward gave a gradient of shape ${show(gradient.shape)} for an input of shape ${show(x.shape)}`)
    if (gradient.dtype !== 'float32' || gradient.device !== x.device)
      throw new Error(`${op}: backward gave ${gradient} for ${x}, not a float32 gradient on the same device`)
    if (x.node) {
      let slots = waiting.get(x.node)
      if (!slots) waiting.set(x.node, (slots = new Array(x.node.outputs.length).fill(null)))
      slots[x.output] = sum(slots[x.output], gradient)
    } else {
      onlooker?.learns(x)
      x.grad = sum(x.grad?.disposed ? null : x.grad, gradient)
      leaves.add(x)
    }
  }
  const sofar = (x: Tensor): Tensor | null => {
    if (!x.requiresGrad) return null
    if (!x.node) {
      if (!x.grad || x.grad.disposed) return null
      onlooker?.learns(x)
      return (x.grad = alone(x.grad))
    }
    const slots = waiting.get(x.node)
    const total = slots?.[x.output]
    return total ? (slots[x.output] = alone(total)) : null
  }

  noGrad(() => {
    try {
      const begun: Tensor[] = []
      scope(() => {
        for (const [x, seed] of roots()) {
          put(x, seed, 'backward')
          begun.push(x)
        }
      })
      const nodes = newestFirst(begun)
      const mine = new Set(held)
      for (const y of nodes.flatMap(({ outputs }) => outputs)) if (y.unread && mine.has(y)) y.dispose()
      for (const node of nodes) {
        const grads = waiting.get(node)
        if (!grads) continue
        scope(() => {
          const gradients = gradientsOf(node, grads, sofar)
          if (!Array.isArray(gradients))
            throw new Error(`${node.op}: backward must return an array with a gradient for each input, not ${told(gradients)}`)
          if (gradients.length !== node.inputs.length)
            throw new Error(
              `${node.op}: backward gave ${gradients.length} gradients for ${node.inputs.length} inputs (null where there is none)`,
            )
          for (const [i, gradient] of gradients.entries()) if (gradient !== null) put(node.inputs[i], gradient, node.op)
        })
        waiting.delete(node)
        for (const g of grads) g?.dispose()
        while (held.length > 0 && held.at(-1)!.born >= node.id) held.pop()!.dispose()
      }
    } finally {
      for (const grads of waiting.values()) for (const g of grads) g?.dispose()
      for (const x of leaves) settle(x)
    }
  })
}

/** What the innermost scope holds, without these, what is kept, and leaves that get a gradient: those last that were made last. */
export const releasable = (but: readonly unknown[] = []): Tensor[] =>
  [...innermost()]
    .filter((t) => t instanceof Tensor)
    .filter((t) => !but.includes(t) && !t.kept && (t.node || !t.requiresGrad))
    .sort((a, b) => a.born - b.born)

/** Calls the node's backward, which must find its tensors as the forward left them. */
function gradientsOf(node: Node, grads: readonly (Tensor | null)[], sofar: (x: Tensor) => Tensor | null): readonly (Tensor | null)[] {
  const hint = 'a state carried over steps has to be cut off from them: detach(state)'
  for (const [i, x] of [...node.inputs, ...node.outputs].entries())
    if (!x.disposed && x.version !== node.versions[i]) {
      const what = i < node.inputs.length ? 'an input' : 'the result'
      throw new Error(`${node.op}: ${what} ${show(x.shape)} was overwritten between forward and backward (${hint})`)
    }
  try {
    return node.backward(
      grads,
      (i) => sofar(node.inputs[i]),
      (i) => node.inputs[i].freshGradient(),
    )
  } catch (error) {
    if (!(error instanceof FreedError)) throw error
    throw new Error(`${node.op}: backward needs what was freed: ${error.message} (${hint})`, { cause: error })
  }
}

/** Gives a leaf's gradient memory of its own, and the lifetime of the leaf. */
function settle(x: Tensor): void {
  if (!x.grad!.exclusive) scope(() => void (x.grad = own(x.grad!)))
  enrollBeside(x.grad!, x)
}

/** total + gradient, as a kept tensor; in place where nobody else sees the memory. An op may have added to the total itself. */
function sum(total: Tensor | null, gradient: Tensor): Tensor {
  if (gradient === total) {
    total.changed()
    return total
  }
  if (!total) return keep(gradient.view(gradient.shape))
  const result = alone(total)
  result.device.kernels.accumulate(gradient.storage, result.storage, result.size)
  result.changed()
  return keep(result)
}

/** What nobody else sees the memory of: itself, or a copy in its place. */
const alone = (x: Tensor): Tensor => (x.exclusive ? x : own(x))

/** A copy in place of a view, kept. */
function own(view: Tensor): Tensor {
  const copy = keep(full(view.shape, 0, view.device))
  copy.device.kernels.accumulate(view.storage, copy.storage, copy.size)
  view.dispose()
  return copy
}

/** The nodes that these depend on, each after every node that uses it. Iterative: graphs of long recurrences are deep. */
function newestFirst(roots: readonly Tensor[]): Node[] {
  const found = new Set<Node>()
  const stack = [...roots]
  while (stack.length > 0) {
    const node = stack.pop()?.node
    if (!node || found.has(node)) continue
    found.add(node)
    for (const x of node.inputs) if (x.requiresGrad) stack.push(x)
  }
  return [...found].sort((a, b) => b.id - a.id)
}
