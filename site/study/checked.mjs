/** The names of the checks that pages can run, from their source. */
import { linesOf } from './source.mjs'

const lines = linesOf('site/study/checks.ts')
const [begin, end] = [
  lines.indexOf('export const checks = {'),
  lines.findIndex((line) => line.startsWith('} as const satisfies Record<string, Check>')),
]

export const checkNames = new Set(
  lines.slice(begin + 1, end).flatMap(
    (line) =>
      line
        .match(/^ {2}(?:'([^']+)'|(\w+)): \{$/)
        ?.slice(1)
        .filter(Boolean) ?? [],
  ),
)
