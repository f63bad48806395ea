/** What the two sides of a claim compute with: devices, and tensors drawn from the seed of the case. */
import { type Device, getDevice, referenceDevice, type Shape, setDevice, type Tensor, tensor, wasmDevice } from '../engine/index.ts'
import { sizeOf } from '../engine/shape.ts'
import type { Case, Look } from './claim.ts'

/** The devices there are to check claims on, by the name of the option. */
export const kinds = ['reference', 'wasm'] as const
export type Kind = (typeof kinds)[number]

/**
 * What a drawn tensor holds. `any`: signed values of size 1; `key`: vectors of length 1 along the last axis; `feature`: from 0;
 * `unit`: between 0 and 1; `log`: logarithms of a decay between 0 and 1.
 */
export type Values = 'any' | 'key' | 'feature' | 'unit' | 'log'

/** Further devices that a claim can compare with: the reference; the device under test with more threads, or of one of two builds. */
export type Other = 'reference' | 'threads' | 'plain' | 'relaxed'

export interface Context {
  /** Tensors are made here by default: the device under test, or the one named to `on`. */
  readonly device: Device
  /** Numbers drawn for this case under this name: the same whenever and wherever they are asked for, on every device. */
  values(name: string, shape: Shape, values?: Values): Float64Array
  /** The same as a tensor. */
  tensor(name: string, shape: Shape, values?: Values): Tensor
  /** A tensor from numbers that the claim has made itself. */
  from(values: ArrayLike<number>, shape: Shape): Tensor
  /** Runs `body` with a context, and the default device, of another kind. */
  on<R>(other: Other, body: (context: Context) => R): R
}

/** The device under test and, once opened, the others. */
export class Devices {
  readonly kind: Kind
  readonly device: Device
  private readonly opened = new Map<Other, Device>()

  private constructor(kind: Kind, device: Device) {
    this.kind = kind
    this.device = device
    this.opened.set('reference', kind === 'reference' ? device : referenceDevice())
  }

  /** `relaxed` also says whether the relaxed build can be opened at all. */
  static async open(kind: Kind, { threads = 1, relaxed = false }: { threads?: number; relaxed?: boolean } = {}): Promise<Devices> {
    if (kind === 'reference') return new Devices(kind, referenceDevice())
    const devices = new Devices(kind, await wasmDevice({ threads, relaxed }))
    devices.opened.set('threads', await wasmDevice({ threads: threads === 1 ? 3 : 1, relaxed }))
    devices.opened.set('plain', relaxed ? await wasmDevice({ threads: 1, relaxed: false }) : devices.device)
    if (relaxed) devices.opened.set('relaxed', devices.device)
    return devices
  }

  get(other: Other): Device {
    const device = this.opened.get(other)
    if (!device) throw new Error(`${this.kind} has no device '${other}' to compare with`)
    return device
  }

  has = (other: Other): boolean => this.opened.has(other)
  bytesInUse = (): number => [...new Set([this.device, ...this.opened.values()])].reduce((n, device) => n + device.bytesInUse(), 0)
  close(): void {
    for (const device of [this.device, ...this.opened.values()]) device.close()
  }
}

export interface Drawn {
  readonly shape: Shape
  readonly values: Float64Array
}

/** The draws of one case, kept so that a counterexample can show them. */
export class Draws {
  readonly drawn = new Map<string, Drawn>()
  private readonly c: Case
  private readonly devices: Devices

  constructor(c: Case, devices: Devices) {
    this.c = c
    this.devices = devices
  }

  context(device = this.devices.device): Context {
    const draw = (name: string, shape: Shape, kind: Values = 'any'): Float64Array => {
      const before = this.drawn.get(name)
      if (before?.shape.join() === shape.join()) return before.values
      if (before) throw new Error(`'${name}' is drawn with two shapes, [${before.shape}] and [${shape}]`)
      // Where the device under test has float32, every device gets float32 numbers.
      const exact = drawValues(kind, this.c.look, stream(this.c.seed, name), shape)
      const values = this.devices.device.double ? exact : Float64Array.from(exact, Math.fround)
      this.drawn.set(name, { shape: [...shape], values })
      return values
    }
    return {
      device,
      values: draw,
      tensor: (name, shape, kind) => tensor(draw(name, shape, kind), { shape, device }),
      from: (values, shape) => tensor(values, { shape, device }),
      on: (other, body) => withDevice(this.devices.get(other), () => body(this.context(this.devices.get(other)))),
    }
  }
}

export function withDevice<R>(device: Device, body: () => R): R {
  const before = getDevice()
  setDevice(device)
  try {
    return body()
  } finally {
    setDevice(before)
  }
}

/** Numbers in [0, 1) from a seed and a name (FNV-1a of the name, then xorshift32). */
export function stream(seed: number, name: string): () => number {
  let x = 0x811c9dc5 ^ Math.imul(seed + 1, 0x9e3779b1)
  for (let i = 0; i < name.length; i++) x = Math.imul(x ^ name.charCodeAt(i), 0x01000193)
  x = Math.imul(x ^ (x >>> 15), 0x85ebca6b) | 1
  const next = (): number => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) / 2 ** 32
  }
  for (let i = 0; i < 4; i++) next()
  return next
}

/** Standard normal, by Box-Muller. */
export const gaussian = (next: () => number): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())

function drawValues(kind: Values, look: Look, next: () => number, shape: Shape): Float64Array {
  const size = sizeOf(shape)
  const below = (n: number): number => Math.floor(n * next())
  const one: Record<Values, Record<Look, () => number>> = {
    any: { ones: () => 1, integers: () => below(5) - 2, normal: () => gaussian(next) },
    key: { ones: () => 1, integers: () => 1, normal: () => gaussian(next) },
    feature: { ones: () => 1, integers: () => below(3), normal: () => Math.abs(gaussian(next)) },
    unit: { ones: () => 1, integers: () => below(3) / 2, normal: next },
    // Decays from 0.05 to 1, with a tenth that forget nothing.
    log: { ones: () => 0, integers: () => -Math.LN2 * below(3), normal: () => (next() < 0.1 ? 0 : Math.log(0.05 + 0.95 * next())) },
  }
  const values = Float64Array.from({ length: size }, one[kind][look])
  if (kind !== 'key' || size === 0) return values
  const K = shape[shape.length - 1]
  for (let row = 0; row < size; row += K) {
    const key = values.subarray(row, row + K)
    if (look === 'normal') {
      const length = Math.hypot(...key) || 1
      for (let j = 0; j < K; j++) key[j] /= length
    } else {
      // Unit vectors: the first, or any with either sign.
      const at = look === 'ones' ? 0 : below(K)
      const sign = look === 'ones' || next() < 0.5 ? 1 : -1
      key.fill(0)
      key[at] = sign
    }
  }
  return values
}
