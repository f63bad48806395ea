/** What is said of an error in a file of the user. */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

/** The message of an error; with the line of one of these files that it arose in, where there is one. */
export function messageOf(error: unknown, files: readonly string[] = []): string {
  if (!(error instanceof Error)) return String(error)
  const places = (error.stack ?? '').split('\n').flatMap((line) =>
    files.flatMap((file) => {
      const [, number] = line.split(pathToFileURL(resolve(file)).href)[1]?.match(/^:(\d+)/) ?? []
      return number === undefined ? [] : [`${file}:${number}`]
    }),
  )
  return `${error.message}${places.length === 0 ? '' : ` (${places[0]})`}`
}
