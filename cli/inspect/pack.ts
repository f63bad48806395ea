/**
 * The grids of an inspection as bytes for a page, and back. A number is one of `levels` steps between -scale and scale, the largest of its grid;
 * 0 stands for what isn't finite. A row, the first axis, is kept as its difference from the one before, which deflates well: a write changes a
 * matrix little.
 */
import type { Grid, Inspection, Layer } from './data.ts'

interface Packed {
  shape: readonly number[]
  scale: number
  /** Its first byte. */
  at: number
}

export const isGrid = (value: unknown): value is Grid =>
  typeof value === 'object' && value !== null && 'shape' in value && 'values' in value

/** With a packed grid in the place of each grid; lists of numbers to three digits. `levels`: odd, at most 255. */
export function pack({ layers, ...rest }: Inspection, levels: number): { json: string; bytes: Uint8Array } {
  const pieces: Uint8Array[] = []
  let at = 0
  const packed = (grid: Grid): Packed => {
    const { bytes, scale } = quantised(grid, (levels - 1) / 2)
    pieces.push(bytes)
    at += bytes.length
    return { shape: grid.shape, scale, at: at - bytes.length }
  }
  // The scale of a grid keeps its digits: all of its numbers are made from it.
  const json = JSON.stringify({ ...rest, levels, layers }, (name, value) =>
    isGrid(value) ? packed(value) : typeof value === 'number' && name !== 'scale' ? digits(value, 3) : value,
  )
  const bytes = new Uint8Array(at)
  let to = 0
  for (const piece of pieces) {
    bytes.set(piece, to)
    to += piece.length
  }
  return { json, bytes }
}

/** JSON has null for what isn't finite. */
export const digits = (x: number, count: number): number => (Number.isInteger(x) ? x : Number(x.toPrecision(count)))

function quantised({ shape, values }: Grid, steps: number): { bytes: Uint8Array; scale: number } {
  let scale = 0
  for (let i = 0; i < values.length; i++) if (Number.isFinite(values[i])) scale = Math.max(scale, Math.abs(values[i]))
  const row = values.length / shape[0]
  const bytes = new Uint8Array(values.length)
  const step = (i: number): number =>
    i < 0 || !Number.isFinite(values[i]) ? 0 : 1 + steps + (scale === 0 ? 0 : Math.round((values[i] / scale) * steps))
  for (let i = 0; i < values.length; i++) bytes[i] = step(i) - step(i - row)
  return { bytes, scale: Number(scale.toPrecision(6)) }
}

/** What `pack` was given, with the numbers rounded. */
export function unpack(json: string, bytes: Uint8Array): Inspection {
  const { levels, layers, ...rest }: Omit<Inspection, 'layers'> & { levels: number; layers: unknown } = JSON.parse(json)
  const steps = (levels - 1) / 2
  const restored = ({ shape, scale, at }: Packed): Grid => {
    const size = shape.reduce((n, d) => n * d, 1)
    const row = size / shape[0]
    const kept = new Uint8Array(size)
    const values = new Float32Array(size)
    for (let i = 0; i < size; i++) {
      kept[i] = bytes[at + i] + (i < row ? 0 : kept[i - row])
      values[i] = kept[i] === 0 ? Number.NaN : ((kept[i] - 1 - steps) / steps) * scale
    }
    return { shape, values }
  }
  const walk = (value: any): any => {
    if (typeof value !== 'object' || value === null) return value
    if (Array.isArray(value)) return value.map(walk)
    if ('shape' in value) return restored(value)
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, walk(part)]))
  }
  return { ...rest, layers: walk(layers) as Layer[] }
}

/** Only the matrices after tokens 1, 1 + every, ... */
export function thinned(inspection: Inspection, every: number): Inspection {
  const some = ({ shape: [T, ...rest], values }: Grid): Grid => {
    const row = values.length / T
    const kept = Math.ceil(T / every)
    return {
      shape: [kept, ...rest],
      values: Array.from({ length: kept * row }, (_, i) => values[Math.floor(i / row) * every * row + (i % row)]),
    }
  }
  const layers = inspection.layers.map((layer) => ({
    ...layer,
    heads: layer.heads.map((head) => ({
      ...head,
      states: Object.fromEntries(Object.entries(head.states).map(([name, grid]) => [name, some(grid)])),
    })),
  }))
  return { ...inspection, every, layers }
}
