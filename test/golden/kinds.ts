/** The kinds of figures there are, and how a file of any is checked. */
import { join } from 'node:path'
import { type Device, setDevice } from '../../engine/index.ts'
import { type Errors, type Kind, largestError, readFigures, type Verdict, worse } from './figures.ts'
import { flaOps } from './fla-ops.ts'
import { idsia } from './idsia.ts'

export const kinds: readonly Kind[] = [flaOps, idsia]

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
      for (const { quantity, name: result, actual, expected, size } of await kind.run(file, way, device)) {
        const error = largestError(actual, expected, size)
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
