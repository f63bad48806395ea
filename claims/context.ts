/** What the two sides of a claim compute with: devices, and tensors drawn from the seed of the case. */
import {
  type Device,
  getDevice,
  type Precision,
  referenceDevice,
  type Shape,
  setDevice,
  type Tensor,
  tensor,
  threadsAvailable,
  wasmDevice,
  webgpuDevice,
} from '../engine/index.ts'
import { sizeOf } from '../engine/shape.ts'
import { type Ability, abilities, type Implementation } from './implementation.ts'

/** The devices there are to check claims on, by the name of the option. */
export const kinds = ['reference', 'wasm', 'webgpu'] as const
/** A device that claims are checked on. */
export type Kind = (typeof kinds)[number]
/** What a claim is checked on: one of our devices, or an implementation by others. */
export type Subject = Kind | 'implementation'

/** What a drawn tensor holds: see `ValueKind` of the rules; `matrix`: symmetric, positive definite [..., K, K]. */
export const valueKinds = ['any', 'key', 'unit key', 'feature', 'rate', 'gate', 'positive', 'matrix'] as const
/** What a drawn tensor holds: one of `valueKinds`. */
export type Values = (typeof valueKinds)[number]

/**
 * What drawn tensors look like, simplest first: a counterexample shrinks towards the left. `ones`: constants; `integers`: a few small
 * round values; `normal`: what the claim is really about.
 */
export const looks = ['ones', 'integers', 'normal'] as const
/** How drawn tensors look: one of `looks`. */
export type Look = (typeof looks)[number]

/** Further devices that a claim can compare with: the reference; the device under test with more threads, or of one of two builds. */
export const others = ['reference', 'threads', 'plain', 'relaxed'] as const
/** A further device: one of `others`. */
export type Other = (typeof others)[number]

/** What a claim's sides draw their tensors from, for one case on one device. */
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
  /** Whether the rules of the claim, where an implementation by others stands in for them, have this; ours have everything. */
  has(what: Ability): boolean
  /** The same, but without it this case can't be asked. */
  need(what: Ability): void
}

/** The device under test and, once opened, the others. */
export class Devices {
  readonly kind: Subject
  readonly device: Device
  readonly implementation: Implementation | undefined
  private readonly opened = new Map<Other, Device>()

  private constructor(kind: Subject, device: Device, implementation?: Implementation) {
    this.kind = kind
    this.device = device
    this.implementation = implementation
    this.opened.set('reference', kind === 'reference' && device.precision === 'f32' ? device : referenceDevice())
  }

  /** A reference of ours on which an implementation stands in for the rules that it offers. */
  static around(implementation: Implementation): Devices {
    const devices = new Devices('implementation', referenceDevice(), implementation)
    implementation.standOn(devices.device)
    return devices
  }

  /** On a WebGPU device that others use, too. @internal */
  static on(device: Device): Devices {
    return new Devices('webgpu', device)
  }

  /**
   * `threads`, `relaxed` and `wide` are wasm's; `relaxed` also says whether the relaxed build can be opened at all. `software`: whether an adapter
   * that computes on the CPU will do for webgpu. `precision`: of the device under test; the reference beside it rounds nothing.
   */
  static async open(
    kind: Kind,
    {
      threads = 1,
      relaxed = false,
      wide,
      software = true,
      precision = 'f32',
    }: { threads?: number; relaxed?: boolean; wide?: boolean; software?: boolean; precision?: Precision } = {},
  ): Promise<Devices> {
    if (kind === 'reference') return new Devices(kind, referenceDevice({ precision }))
    if (kind === 'webgpu') return new Devices(kind, await webgpuDevice({ software, precision }))
    const devices = new Devices(kind, await wasmDevice({ threads, relaxed, wide, precision }))
    if (threadsAvailable()) devices.opened.set('threads', await wasmDevice({ threads: threads === 1 ? 3 : 1, relaxed, wide, precision }))
    devices.opened.set('plain', relaxed ? await wasmDevice({ threads: 1, relaxed: false, wide, precision }) : devices.device)
    if (relaxed) devices.opened.set('relaxed', devices.device)
    return devices
  }

  /** The device of this name. Throws where it isn't there: see `has`. */
  get(other: Other): Device {
    const device = this.opened.get(other)
    if (!device) throw new Error(`${this.kind} has no device '${other}' to compare with`)
    return device
  }

  /** Whether there is such a device, and it isn't the one under test. */
  has = (other: Other): boolean => this.opened.has(other) && (other !== 'reference' || this.get(other) !== this.device)
  /** Bytes in use of all of its devices together. */
  bytesInUse = (): number => [...new Set([this.device, ...this.opened.values()])].reduce((n, device) => n + device.bytesInUse(), 0)
  /** Closes all of its devices. */
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
  private readonly c: { readonly look: Look; readonly seed: number }
  private readonly devices: Devices
  private readonly rules: readonly string[]

  /** `rules`: those that the claim runs. */
  constructor(c: { readonly look: Look; readonly seed: number }, devices: Devices, rules: readonly string[] = []) {
    this.c = c
    this.devices = devices
    this.rules = rules
  }

  context(device = this.devices.device): Context {
    const { implementation, device: tested } = this.devices
    const has = (what: Ability): boolean => implementation?.has(this.rules, what) ?? true
    const draw = (name: string, shape: Shape, kind: Values = 'any'): Float64Array => {
      const before = this.drawn.get(name)
      if (before?.shape.join() === shape.join()) return before.values
      if (before) throw new Error(`'${name}' is drawn with two shapes, [${before.shape}] and [${shape}]`)
      // Where the device under test has float32, every device gets float32 numbers.
      const exact = drawValues(kind, this.c.look, stream(this.c.seed, name), shape)
      const values = implementation ? Float64Array.from(implementation.rounded(exact)) : tested.double ? exact : exact.map(Math.fround)
      this.drawn.set(name, { shape: [...shape], values })
      return values
    }
    return {
      device,
      values: draw,
      tensor: (name, shape, kind) => tensor(draw(name, shape, kind), { shape, device }),
      from: (values, shape) => tensor(values, { shape, device }),
      on: (other, body) => withDevice(this.devices.get(other), () => body(this.context(this.devices.get(other)))),
      has,
      need: (what) => void (has(what) || implementation!.refuse(abilities[what])),
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

/** How an element is drawn. 'key' and 'matrix' are made from these afterwards. */
const elements: Record<Exclude<Values, 'key' | 'unit key' | 'matrix'>, Record<Look, (next: () => number) => number>> = {
  any: { ones: () => 1, integers: (next) => below(5, next) - 2, normal: gaussian },
  // Not near 0: their products are divided by. Normal ones are scaled to vectors of length about 1.
  feature: { ones: () => 1, integers: (next) => 1 + below(2, next), normal: (next) => 0.5 + Math.abs(gaussian(next)) },
  rate: { ones: () => 1, integers: (next) => below(3, next) / 2, normal: (next) => next() },
  // Decays from 0.05 to 1; a tenth forgets nothing.
  gate: {
    ones: () => 0,
    integers: (next) => -Math.LN2 * below(3, next),
    normal: (next) => (next() < 0.1 ? 0 : Math.log(0.05 + 0.95 * next())),
  },
  positive: { ones: () => 1, integers: (next) => 1 + below(2, next), normal: (next) => 0.5 + next() },
}

const below = (n: number, next: () => number): number => Math.floor(n * next())

function drawValues(kind: Values, look: Look, next: () => number, shape: Shape): Float64Array {
  const size = sizeOf(shape)
  const K = shape[shape.length - 1] ?? 1
  const fill = (of: keyof typeof elements): Float64Array => new Float64Array(size).map(() => elements[of][look](next))
  if (kind === 'matrix') return matrices(fill('any'), K)
  if (kind === 'feature' && look === 'normal') return fill(kind).map((x) => x / Math.sqrt(K))
  if (kind !== 'key' && kind !== 'unit key') return fill(kind)
  const keys = fill('any')
  for (let row = 0; row < size; row += K) {
    const key = keys.subarray(row, row + K)
    if (look === 'normal') {
      const length = kind === 'key' ? 0.5 + next() / 2 : 1
      const scale = length / (Math.hypot(...key) || 1)
      for (let j = 0; j < K; j++) key[j] *= scale
    } else {
      // One of the axes: the first, or any in either direction.
      const at = look === 'ones' ? 0 : below(K, next)
      key.fill(0)
      key[at] = look === 'ones' || next() < 0.5 ? 1 : -1
    }
  }
  return keys
}

/** X X^T / K + 1, for each K x K block X. */
function matrices(values: Float64Array, K: number): Float64Array {
  const result = new Float64Array(values.length)
  for (let block = 0; block < values.length; block += K * K)
    for (let i = 0; i < K; i++)
      for (let j = 0; j < K; j++) {
        let dot = i === j ? K : 0
        for (let l = 0; l < K; l++) dot += values[block + i * K + l] * values[block + j * K + l]
        result[block + i * K + j] = dot / K
      }
  return result
}
