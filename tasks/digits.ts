/**
 * Digits pixel by pixel: images and labels of IDX files, as MNIST has them, row after row as sequences of grey levels, the label asked for at the
 * last pixel (sequential MNIST: Le 2015, A simple way to initialize recurrent networks of rectified linear units). Tests: test/tasks/digits.test.ts.
 */
import { checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { fileKind } from '../nn/foreign.ts'
import { shuffledRows } from './epochs.ts'
import { lastTarget } from './targets.ts'
import { batchOf, type Example } from './task.ts'
import { type Batch, type Sampler, TextError } from './text.ts'

/** Unsigned bytes of any number of axes. The data share the memory of the file's bytes. */
export interface Idx {
  shape: number[]
  data: Uint8Array
}

/**
 * An IDX file, unpacked: two zero bytes, the kind of number (8: unsigned bytes), the number of axes, the length of each as a big-endian uint32, the
 * numbers. Throws unless it has so many axes.
 */
export function readIdx(bytes: Uint8Array, name: string, axes: number): Idx {
  const bad = (what: string): TextError => new TextError(`${name}: ${what}`)
  if (!(bytes instanceof Uint8Array)) throw bad(`must be the file's bytes, a Uint8Array, not ${told(bytes)}`)
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) throw bad('is compressed with gzip: unpack it first, with gunzip')
  if (bytes.length < 4) throw bad(`is no IDX file: it has ${bytes.length} bytes`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const [magic, expected] = [view.getUint32(0), 0x800 + axes]
  if (magic !== expected) {
    const kind = magic >>> 16 === 0 ? undefined : fileKind(bytes)
    const other = { 2049: ', which is that of labels', 2051: ', which is that of images' }[magic] ?? (kind ? `: it is ${kind.what}` : '')
    throw bad(
      `isn't an IDX file of bytes with ${axes} ${axes === 1 ? 'axis' : 'axes'}: its first four bytes are ${hex(magic)}, not ${hex(expected)}${other}`,
    )
  }
  const begin = 4 + 4 * axes
  if (bytes.length < begin) throw bad(`ends within its header, after ${bytes.length} bytes`)
  const shape = Array.from({ length: axes }, (_, i) => view.getUint32(4 + 4 * i))
  const size = shape.reduce((a, b) => a * b, 1)
  if (bytes.length - begin !== size)
    throw bad(`has ${bytes.length - begin} bytes of data, where its header says ${shape.join(' x ')} = ${size}`)
  return { shape, data: bytes.subarray(begin) }
}

const hex = (n: number): string => `0x${n.toString(16).padStart(8, '0')}`

/** Images of handwritten digits, read pixel by pixel. */
export interface Digits {
  /** How many images there are. */
  readonly count: number
  /** Pixels of an image. */
  readonly T: number
  /** Grey levels, and classes. */
  readonly symbols: number
  /** The class of image i. */
  label(i: number): number
  /** Pixels [T], the first row first; the label is asked for at the last. */
  example(i: number): Example
}

const classes = 10

/** Images and their labels, 0 to 9. `levels`: of grey, 2 to 256; a pixel p of 0 to 255 is level floor(p levels / 256). */
export function readDigits(images: Uint8Array, labels: Uint8Array, options: { levels?: number } = {}): Digits {
  checkOptions('readDigits', options, ['levels'])
  const { levels = 16 } = options
  checkNumber('readDigits: levels', levels, 'a positive integer')
  if (levels < 2 || levels > 256) throw new Error(`readDigits: levels must be from 2 to 256, not ${levels}`)
  const pixels = readIdx(images, 'the images', 3)
  const answers = readIdx(labels, 'the labels', 1)
  const [count, height, width] = pixels.shape
  if (answers.shape[0] !== count) throw new TextError(`there are ${count} images, and ${answers.shape[0]} labels`)
  const T = height * width
  if (count === 0 || T === 0) throw new TextError(`there are no pixels in ${count} images of ${height} x ${width}`)
  const wrong = answers.data.findIndex((label) => label >= classes)
  if (wrong >= 0) throw new TextError(`the labels: label ${wrong} is ${answers.data[wrong]}, where digits are 0 to ${classes - 1}`)
  return {
    count,
    T,
    symbols: Math.max(levels, classes),
    label: (i) => answers.data[i],
    example: (i) => ({
      inputs: Int32Array.from(pixels.data.subarray(i * T, (i + 1) * T), (pixel) => (pixel * levels) >> 8),
      targets: lastTarget(T, answers.data[i]),
    }),
  }
}

/** Each image once an epoch, B at a time, in an order of the epoch's own. */
export function digitBatches(digits: Digits, options: { B: number; seed?: number }): Sampler {
  checkOptions('digitBatches', options, ['B', 'seed'])
  const { stepsPerEpoch, rows } = shuffledRows(digits.count, options)
  return { stepsPerEpoch, batch: (step) => batchOf(rows(step).map(digits.example), 0) }
}

/** Each image once, in order, B at a time. */
export function* digitEvaluation(digits: Digits, B: number): Generator<Batch> {
  checkNumber('digitEvaluation: B', B, 'a positive integer')
  for (let first = 0; first < digits.count; first += B)
    yield batchOf(
      Array.from({ length: Math.min(B, digits.count - first) }, (_, i) => digits.example(first + i)),
      0,
    )
}
