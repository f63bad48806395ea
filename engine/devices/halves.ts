/**
 * Matrices of numbers of 16 bits on a device. One of them may keep those in an order of its own, which its kernels know: then it has `Device.halves`. Elsewhere they lie as
 * they come, row by row, two in the place of an int32. Tests: test/ops/half.test.ts.
 */
import type { Device, HalfMatrices } from './device.ts'

/** See `HalfMatrices.write`. */
export const rowsTogether = 32

export const halfMatrices = <S>(device: Device<S>): HalfMatrices<S> =>
  device.halves ?? {
    allocate: (rows, columns) => device.allocate('int32', Math.ceil((rows * columns) / 2), true),
    write(storage, _rows, columns, first, bits) {
      const even = bits.length % 2 === 0 && bits.byteOffset % 4 === 0
      const pairs = even ? bits : new Uint16Array(2 * Math.ceil(bits.length / 2))
      if (!even) pairs.set(bits)
      device.write(storage, new Int32Array(pairs.buffer, pairs.byteOffset, pairs.length / 2), (first * columns) / 2)
    },
    async read(storage, rows, columns) {
      const pairs = await device.read(storage, Math.ceil((rows * columns) / 2))
      return new Uint16Array(pairs.buffer, 0, rows * columns)
    },
  }
