/**
 * Figures that other programs have computed, in safetensors files: what kinds there are, and how far the public API is from them. `npm run golden -- FOLDER`
 * runs every file of a folder (main.ts); the tests beside this file run those they know.
 *
 * A kind is a row: how its files are recognised, and what they are compared with. To add one: a module with a `Kind`, and its place in `kinds`.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Device, setDevice } from '../../engine/index.ts'
import { readSafetensors } from '../../nn/index.ts'
import { flaOps } from './fla-ops.ts'
import type { Kind, Quantity, Safetensors } from './kind.ts'

export const kinds: readonly Kind[] = [flaOps]

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

export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number | bigint>): number {
  if (actual.length !== expected.length) return Number.NaN
  let [error, size] = [0, 0]
  for (let i = 0; i < actual.length; i++) {
    const distance = Math.abs(actual[i] - Number(expected[i]))
    if (Number.isNaN(distance)) return Number.NaN
    error = Math.max(error, distance)
    size = Math.max(size, Math.abs(Number(expected[i])))
  }
  return error === 0 ? 0 : error / size
}

const worse = (a: number | undefined, b: number): number => (a === undefined || Number.isNaN(b) || b > a ? b : a)

export const readFigures = (path: string): Safetensors => readSafetensors(readFileSync(path))
export const figuresIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .sort()

/** Runs one file in every way that its kind has. */
export async function check(folder: string, name: string, device: Device): Promise<Verdict> {
  const verdict: Verdict = { file: name, kind: null, errors: {}, faults: [] }
  try {
    const file = readFigures(join(folder, name))
    const kind = kinds.find((kind) => kind.recognises(file))
    if (!kind) return { ...verdict, faults: [`is of no kind that is known (${kinds.map(({ name }) => name).join(', ')})`] }
    verdict.kind = kind.name
    const ways = kind.ways(file)
    if (typeof ways === 'string') return { ...verdict, skipped: ways }
    setDevice(device)
    for (const way of ways) {
      const errors: Errors = {}
      verdict.errors[way] = errors
      for (const { quantity, name: result, actual, expected } of await kind.run(file, way, device)) {
        const error = largestError(actual, expected)
        const bound = kind.bound(quantity, device, file)
        if (!(error <= bound))
          verdict.faults.push(`${way}: ${quantity} ${result}: ${error.toExponential(1)}, bound ${bound.toExponential(0)}`)
        errors[quantity] = worse(errors[quantity], error)
      }
    }
  } catch (error) {
    verdict.faults.push(error instanceof Error ? error.message : String(error))
  }
  return verdict
}

export function largest(verdicts: readonly Verdict[]): Errors {
  const all: Errors = {}
  for (const { errors } of verdicts)
    for (const each of Object.values(errors))
      for (const [quantity, error] of Object.entries(each) as [Quantity, number][]) all[quantity] = worse(all[quantity], error)
  return all
}

export const show = (errors: Errors): string =>
  Object.entries(errors)
    .map(([quantity, error]) => `${quantity}s ${error.toExponential(1)}`)
    .join(', ')
