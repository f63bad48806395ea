/**
 * Random numbers by counting: element i of stream s of seed r is a pure function of (r, s, i) (threefry2x32, Salmon et al. 2011),
 * so it's the same on every device, with any number of threads, and a generator's whole state is two numbers.
 */

import { checkNumber, told } from './arguments.ts'
import { record } from './autograd.ts'
import type { Device } from './devices/device.ts'
import { randomKernels } from './devices/reference/random.ts'
import { checkFloat } from './ops/check.ts'
import { checkShape, type Shape } from './shape.ts'
import { counted, empty, getDevice, like, type Tensor } from './tensor.ts'

/** Where random numbers come from: a seed, and how many streams of it are used up. Every draw takes a stream of its own. */
export interface Generator {
  /** Stays as it is: a step that was captured goes on with it. For another, make another generator. */
  readonly seed: number
  /** How many streams were taken so far. */
  stream: number
}

/** A generator of the seed, an integer from 0 to 2^32 - 1: the same numbers on every device. */
export function generator(seed: number): Generator {
  checkSeed('generator: the seed', seed)
  return { seed, stream: 0 }
}

export function checkSeed(what: string, seed: unknown): void {
  if (!(Number.isInteger(seed) && (seed as number) >= 0 && (seed as number) <= 0xffffffff))
    throw new Error(`${what} must be an integer from 0 to 4294967295, not ${told(seed)}`)
}

export function checkGenerator(op: string, g: Generator): void {
  if (!(Number.isInteger(g?.seed) && Number.isInteger(g.stream)))
    throw new Error(`${op}: needs a generator, such as generator(1), not ${told(g)}`)
}

/** Uniform in [low, high] (high itself only through rounding). */
export const uniform = (g: Generator, shape: Shape, low = 0, high = 1, device?: Device): Tensor =>
  draw('uniform', g, shape, low, high, device)

/** Normal, by Box-Muller. */
export const normal = (g: Generator, shape: Shape, mean = 0, std = 1, device?: Device): Tensor =>
  draw('normal', g, shape, mean, std, device)

function draw(kind: 'uniform' | 'normal', g: Generator, shape: Shape, a: number, b: number, device: Device = getDevice()): Tensor {
  checkGenerator(kind, g)
  checkShape(kind, shape)
  checkNumber(`${kind}: ${kind === 'uniform' ? 'low' : 'the mean'}`, a, 'a finite number')
  checkNumber(`${kind}: ${kind === 'uniform' ? 'high' : 'the standard deviation'}`, b, 'a finite number')
  const y = empty([...shape], device)
  device.kernels.random(kind, y.storage, y.size, g.seed, counted(g, 'stream'), a, b)
  return y
}

/** The first n numbers of a stream on the host, in float64: uniform in [0, 1), or standard normal. */
export function hostNumbers(kind: 'uniform' | 'normal', seed: number, stream: number, n: number): Float64Array<ArrayBuffer> {
  const data = new Float64Array(n)
  randomKernels.random(kind, { data }, n, seed, () => stream, 0, 1)
  return data
}

/** Zeroes each element with probability p and scales the others by 1/(1-p). The mask is drawn again in the backward instead of being stored. */
export function dropout(x: Tensor, p: number, g: Generator): Tensor {
  checkNumber('dropout: the probability', p, 'in [0, 1)')
  checkFloat('dropout', x)
  checkGenerator('dropout', g)
  if (p === 0) return record('dropout', [x], x.view(x.shape), (dy) => [dy])
  const { kernels } = x.device
  const y = like(x)
  const { seed } = g
  const stream = counted(g, 'stream')
  kernels.dropout(x.storage, y.storage, x.size, p, seed, stream)
  return record('dropout', [x], y, (dy) => {
    const dx = like(x)
    kernels.dropout(dy.storage, dx.storage, x.size, p, seed, stream)
    return [dx]
  })
}
