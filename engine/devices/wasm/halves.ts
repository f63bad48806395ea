/**
 * Matrices of 16-bit numbers, packed once, as they come: panels of kernels-wasm/halves.ts, which products of one row or of many and look-ups of rows read as they are.
 * So there is one copy of them.
 */
import type { HalfMatrices } from '../device.ts'
import { rowsTogether } from '../halves.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

const panelsOf = (rows: number): number => Math.ceil(rows / rowsTogether)

/** `use` throws where the device has been closed. */
export function wasmHalves({ memory, run, notes }: Pool, use: () => void): HalfMatrices<Block> {
  return {
    allocate(rows, columns) {
      use()
      return memory.allocate(2 * rowsTogether * panelsOf(rows) * columns, true)
    },
    write(block, _rows, columns, first, bits) {
      use()
      if (notes.on()) throw new Error('capture: the step makes a tensor of 16-bit numbers; make it before')
      if (bits.length === 0) return
      const given = memory.allocate(bits.byteLength)
      new Uint16Array(memory.wasm.buffer, given.pointer, bits.length).set(bits)
      const rows = bits.length / columns
      run('packHalves', panelsOf(rows), 1, [given.pointer, block.pointer + 2 * first * columns, rows, columns])
      memory.free(given)
    },
    async read(block, rows, columns) {
      use()
      notes.read()
      const halves = new Uint16Array(memory.wasm.buffer, block.pointer)
      const bits = new Uint16Array(rows * columns)
      for (let row = 0, to = 0; row < rows; row++) {
        const r = row % rowsTogether
        // Where kernels-wasm/halves.ts has a panel's row.
        const place = (row - r) * columns + ((r >> 3) << 3) + ((r & 3) << 1) + ((r >> 2) & 1)
        for (let k = 0; k < columns; k++) bits[to++] = halves[place + k * rowsTogether]
      }
      return bits
    },
  }
}
