/** Runs checks and examples beside the page. */

import { type CheckName, runCheck } from './checks.ts'
import { runExample } from './examples.ts'

export type Question = { id: number } & ({ check: CheckName; seed: number } | { example: string; seed: number })

addEventListener('message', async ({ data }: MessageEvent<Question>) => {
  try {
    postMessage({
      id: data.id,
      answer: 'check' in data ? await runCheck(data.check, data.seed) : await runExample(data.example, data.seed),
    })
  } catch (error) {
    postMessage({ id: data.id, error: error instanceof Error ? error.message : String(error) })
  }
})
