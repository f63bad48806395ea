/** Digits: IDX files become sequences of grey levels; whatever else a file is, the error says so. */
import assert from 'node:assert/strict'
import { gzipSync } from 'node:zlib'
import { ignoredTarget } from '../../nn/index.ts'
import { digitBatches, digitEvaluation, readDigits, readIdx } from '../../tasks/digits.ts'

/** An IDX file. */
function idx(shape: number[], data: ArrayLike<number>, kind = 8): Uint8Array {
  const header = new DataView(new ArrayBuffer(4 + 4 * shape.length))
  header.setUint32(0, 256 * kind + shape.length)
  for (const [i, length] of shape.entries()) header.setUint32(4 + 4 * i, length)
  return Uint8Array.from([...new Uint8Array(header.buffer), ...Array.from(data)])
}
const pixels = Uint8Array.from({ length: 5 * 28 * 28 }, (_, i) => (i * 7) % 256)
const images = idx([5, 28, 28], pixels)
const labels = idx([5], [3, 9, 0, 1, 3])

describe('digits', () => {
  it('are sequences of pixels with the label at the last', () => {
    const digits = readDigits(images, labels)
    assert.deepEqual([digits.count, digits.T, digits.symbols, digits.label(1)], [5, 784, 16, 9])
    const { inputs, targets } = digits.example(1)
    assert.deepEqual(
      Array.from(inputs),
      Array.from(pixels.subarray(784, 1568), (p) => Math.floor(p / 16)),
    )
    assert.ok(targets.length === 784 && targets[783] === 9 && targets.subarray(0, 783).every((target) => target === ignoredTarget))
    assert.deepEqual(Array.from(readDigits(images, labels, { levels: 256 }).example(4).inputs), Array.from(pixels.subarray(4 * 784)))
    const two = readDigits(images, labels, { levels: 2 })
    assert.equal(two.symbols, 10)
    assert.deepEqual(
      Array.from(two.example(0).inputs),
      Array.from(pixels.subarray(0, 784), (p) => Number(p > 127)),
    )
  })

  it('come in batches', () => {
    const digits = readDigits(images, labels, { levels: 4 })
    const sampler = digitBatches(digits, { B: 2 })
    assert.equal(sampler.stepsPerEpoch, 3)
    const lasts = [0, 1, 2].flatMap((step) => {
      const { B, T, targets, count } = sampler.batch(step)
      assert.ok(T === 784 && count === B)
      return Array.from({ length: B }, (_, b) => targets[(b + 1) * T - 1])
    })
    assert.deepEqual(lasts.sort(), [0, 1, 3, 3, 9])
    assert.throws(() => digitBatches(digits, { B: 2, sead: 3 } as never), { message: "digitBatches: unknown option 'sead' (B, seed)" })
    assert.throws(() => digitBatches(digits, { B: 2, seed: Number.NaN }), { message: 'seed must be an integer, not NaN' })
    assert.throws(() => digitEvaluation(digits, 0).next(), { message: 'digitEvaluation: B must be a positive integer, not 0' })
    const all = [...digitEvaluation(digits, 3)]
    assert.deepEqual(
      all.map(({ B }) => B),
      [3, 2],
    )
    assert.deepEqual(Array.from(all[1].tokens.subarray(0, 784)), Array.from(digits.example(3).inputs))
  })

  it('share no offset with the memory they are in', () => {
    const within = new Uint8Array(images.length + 3)
    within.set(images, 3)
    assert.deepEqual(readIdx(within.subarray(3), 'x', 3), readIdx(images, 'x', 3))
  })

  it('say what is wrong with a file', () => {
    const bad = (images: unknown, labels: unknown, message: string, options = {}): void =>
      assert.throws(() => readDigits(images as Uint8Array, labels as Uint8Array, options), { message })
    const magic = "isn't an IDX file of bytes with"
    bad('a', labels, "the images: must be the file's bytes, a Uint8Array, not the text 'a'")
    bad(gzipSync(images), labels, 'the images: is compressed with gzip: unpack it first, with gunzip')
    bad(labels, images, `the images: ${magic} 3 axes: its first four bytes are 0x00000801, not 0x00000803, which is that of labels`)
    bad(images, images, `the labels: ${magic} 1 axis: its first four bytes are 0x00000803, not 0x00000801, which is that of images`)
    bad(idx([5, 28, 28], pixels, 13), labels, `the images: ${magic} 3 axes: its first four bytes are 0x00000d03, not 0x00000803`)
    bad(
      new TextEncoder().encode('%PDF-1.7'),
      labels,
      `the images: ${magic} 3 axes: its first four bytes are 0x25504446, not 0x00000803: it is a PDF`,
    )
    bad(new Uint8Array(2), labels, 'the images: is no IDX file: it has 2 bytes')
    bad(images.subarray(0, 15), labels, 'the images: ends within its header, after 15 bytes')
    bad(images.subarray(0, 1000), labels, 'the images: has 984 bytes of data, where its header says 5 x 28 x 28 = 3920')
    bad(images, idx([4], [1, 2, 3, 4]), 'there are 5 images, and 4 labels')
    bad(images, idx([5], [1, 2, 10, 4, 5]), 'the labels: label 2 is 10, where digits are 0 to 9')
    bad(idx([0, 28, 28], []), idx([0], []), 'there are no pixels in 0 images of 28 x 28')
    bad(images, labels, 'readDigits: levels must be from 2 to 256, not 1', { levels: 1 })
    bad(images, labels, "readDigits: unknown option 'level' (levels)", { level: 1 })
  })
})
