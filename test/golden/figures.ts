/**
 * Figures that other programs have computed, in safetensors files: what kinds there are, and how far the public API is from them. `npm run golden -- FOLDER`
 * runs every file of a folder (main.ts); the tests beside this file run those they know.
 *
 * A kind is a row: how its files are recognised, and what they are compared with. To add one: a module with a `Kind`, and its place in kinds.ts.
 */
import { readdirSync, readFileSync } from 'node:fs'
import type { Device } from '../../engine/index.ts'
import { readSafetensors } from '../../nn/index.ts'

export type Safetensors = ReturnType<typeof readSafetensors>
export type Quantity = 'output' | 'loss' | 'state' | 'gradient'

/** A result beside what it should be. */
export interface Compared {
  quantity: Quantity
  name: string
  actual: ArrayLike<number>
  expected: ArrayLike<number | bigint>
  /** What the error is relative to, where that isn't the largest entry expected. */
  size?: number
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

/** The largest error of each quantity, relative to the largest entry of what it's an error of; NaN is the largest of all. */
export type Errors = Partial<Record<Quantity, number>>

export interface Verdict {
  file: string
  kind: string | null
  errors: Record<string, Errors>
  /** Each result that is over its bound; or what went wrong. */
  faults: string[]
  /** Why nothing was run. */
  skipped?: string
}

export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number | bigint>, scale?: number): number {
  if (actual.length !== expected.length) return Number.NaN
  let [error, size] = [0, 0]
  for (let i = 0; i < actual.length; i++) {
    const distance = Math.abs(actual[i] - Number(expected[i]))
    if (Number.isNaN(distance)) return Number.NaN
    error = Math.max(error, distance)
    size = Math.max(size, Math.abs(Number(expected[i])))
  }
  return error === 0 ? 0 : error / (scale ?? size)
}

export const worse = (a: number | undefined, b: number): number => (a === undefined || Number.isNaN(b) || b > a ? b : a)

export const readFigures = (path: string): Safetensors => readSafetensors(readFileSync(path))
export const figuresIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .sort()

export function largest(verdicts: readonly Verdict[]): Errors {
  const all: Errors = {}
  for (const { errors } of verdicts)
    for (const each of Object.values(errors))
      for (const [quantity, error] of Object.entries(each) as [Quantity, number][]) all[quantity] = worse(all[quantity], error)
  return all
}

export const show = (errors: Errors): string =>
  Object.entries(errors)
    .map(([quantity, error]) => `${quantity === 'loss' ? 'losses' : `${quantity}s`} ${error.toExponential(1)}`)
    .join(', ')
