/** The file of a counterexample, for the author of an implementation: docs/conformance.md says what is in it. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { entriesOf } from '../claims/adapters.ts'
import type { Counterexample, Verdict } from '../claims/check.ts'
import type { Arrays } from '../claims/implementation.ts'
import { type SafetensorsEntry, writeSafetensors } from '../nn/safetensors.ts'
import { reason } from '../tasks/reason.ts'
import { checkWritable, FileError, writeAtomic } from './files.ts'
import type { Implemented } from './verify-worker.ts'

/** Makes the folder; throws where no file can be written into it. */
export function openFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true })
  } catch (error) {
    throw new FileError(`can't make the folder ${folder}: ${reason(error)}`)
  }
  checkWritable(join(folder, 'counterexample.safetensors'))
}

/** Writes the evidence of a verdict into the folder, and gives the verdict with the file's path instead. `facts`: what else its author may want to know. */
export function keepEvidence(verdict: Verdict, folder: string, { dtype }: Implemented, facts: Record<string, string>): Verdict {
  const { claim, counterexample: { evidence, ...rest } = {} as Counterexample } = verdict
  if (!evidence) return verdict
  openFolder(folder)
  const file = join(folder, `${claim.replace(/[^\w.]+/g, '-').replace(/^-|-$/g, '')}.safetensors`)
  const { calls, drawn, left, right } = evidence
  const named = (prefix: string, arrays: Arrays, as: typeof dtype) =>
    entriesOf(arrays, as).map(([name, entry]): [string, SafetensorsEntry] => [`${prefix}.${name}`, entry])
  const entries = [
    ...named('drawn', drawn, 'float64'),
    ...named('left', left, 'float64'),
    ...named('right', right, 'float64'),
    ...calls.flatMap(({ inputs, answer, expected }, i) => [
      ...named(`call${i + 1}.in`, inputs, dtype),
      ...named(`call${i + 1}.out`, answer, dtype),
      ...named(`call${i + 1}.expected`, expected, 'float64'),
    ]),
  ]
  const asked = calls.map(({ ask, rule, options }, i) => [`call${i + 1}`, JSON.stringify({ ask, rule, ...options })])
  const { case: c, path, error } = rest
  const texts = { claim, case: JSON.stringify(c), path, error: String(error), ...facts, ...Object.fromEntries(asked) }
  writeAtomic(file, writeSafetensors(entries, { format: 'pt', ...texts }))
  return { ...verdict, counterexample: { ...rest, file } }
}
