/** Runs commands one after the other in one process, for many that end soon: a message is the words of one, the answer what it said and its exit code. */
import type { Result } from './command.ts'

/** Of what is installed. */
const program = new URL('../../node/cli/program.js', import.meta.url).href
const { runCommand } = (await import(program)) as typeof import('../../cli/program.ts')

process.on('message', async (words: readonly string[]) => {
  const result: Result = { code: null, stdout: '', stderr: '' }
  const listening = (['stdout', 'stderr'] as const).map((name) => {
    const { write } = process[name]
    process[name].write = (piece: string | Uint8Array): boolean => {
      result[name] += piece
      return true
    }
    return () => {
      process[name].write = write
    }
  })
  result.code = await runCommand(words)
  for (const stop of listening) stop()
  process.send!(result)
})
