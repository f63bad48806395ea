/** A kind of files with figures of other programs: see figures.ts. */
import type { Device } from '../../engine/index.ts'
import type { readSafetensors } from '../../nn/index.ts'

export type Safetensors = ReturnType<typeof readSafetensors>
export type Quantity = 'output' | 'loss' | 'state' | 'gradient'

/** A result beside what it should be. */
export interface Compared {
  quantity: Quantity
  name: string
  actual: ArrayLike<number>
  expected: ArrayLike<number | bigint>
}

export interface Kind {
  name: string
  recognises(file: Safetensors): boolean
  /** What is run of a file: its forms, or the word for the one way there is. A string: why nothing is, though the file is what it should be. */
  ways(file: Safetensors): readonly string[] | string
  run(file: Safetensors, way: string, device: Device): Promise<Compared[]>
  /** The largest error that is right, relative to the largest entry. */
  bound(quantity: Quantity, device: Device, file: Safetensors): number
}
