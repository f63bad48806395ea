/** What is said of an error in a file of the user. */
import { homedir } from 'node:os'
import { resolve, sep } from 'node:path'
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
  return `${relative(error.message)}${places.length === 0 ? '' : ` (${places[0]})`}`
}

/** Paths from here or from the home folder: what is said may stand in a report, which goes elsewhere. */
function relative(text: string): string {
  const short = [
    [`${pathToFileURL(resolve()).href}/`, ''],
    [resolve() + sep, ''],
    [homedir() + sep, `~${sep}`],
  ]
  return short.reduce((result, [path, instead]) => result.replaceAll(path, instead), text)
}
