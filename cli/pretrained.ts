/** Models of other packages: what `import` reads and `export` writes. Tests: test/cli/pretrained.test.ts. */
import { existsSync, rmSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { checkpointPieces, openPretrained, type PackageName, toPretrained } from '../nn/index.ts'
import { TextError } from '../tasks/text.ts'
import { openTokenizer, tokenizerFiles, tokenizerName } from '../tasks/tokenizer.ts'
import { UsageError } from './arguments.ts'
import { claimFolder, FileError, writeAtomic } from './files.ts'
import { readModelFiles } from './model-files.ts'
import {
  checkMemory,
  checkpointName,
  checkVacant,
  claimFreeFolder,
  folderOfRun,
  isImported,
  openedModel,
  openImported,
  openRun,
  readTextFiles,
  sourceKey,
} from './runs.ts'
import { bytes, counted, progress, quoted, say } from './terminal.ts'

/** What takes longer says how far it has come. */
const quietMilliseconds = 1000

export interface ImportOptions {
  out: string | undefined
  package: PackageName | undefined
  operands: readonly string[]
}

/** Writes a run of a model that another package wrote. */
export async function importModel({ out, package: wanted, operands }: ImportOptions): Promise<number> {
  const [path] = operands
  if (path === undefined) throw new UsageError('import: name the folder of a model, or its file of weights')
  if (out !== undefined) checkVacant(out)
  const { config, parameters, entryOf, source, warnings } = openPretrained(readModelFiles(path), { package: wanted })
  const texts = source.package === 'rwkv' ? new Map<string, Uint8Array>() : readTextFiles(folderOfRun(path))
  for (const warning of [...warnings, ...(await textRemarks(texts))]) say(warning)
  const { size, pieces } = checkpointPieces(config, entryOf, { [sourceKey]: JSON.stringify(source) })
  const memory = (source.dtype === 'F16' || source.dtype === 'BF16' ? 2 : 4) * parameters
  checkMemory(path)(parameters, memory)
  const layers = counted(config.layers.length, 'layer')
  say(
    `${source.modelType} of ${source.package}: ${layers}, ${counted(parameters, 'parameter')}, ${counted(config.symbols, 'symbol')}; it takes about ${bytes(memory)} of memory`,
  )
  const { folder, release } = out === undefined ? claimFreeFolder(source.modelType) : { folder: out, release: claimFolder(out) }
  try {
    checkVacant(folder)
    // The checkpoint comes last: it makes a run of the folder.
    writeFiles(folder, [...texts, [checkpointName, shown(pieces, size)]])
  } finally {
    release()
  }
  const [what, how] = texts.has(tokenizerName) ? ['texts', `--prompt '...'`] : ['tokens', '--tokens 1,2,3']
  say(`wrote ${join(folder, checkpointName)}: continue ${what} with fastweights generate ${quoted(folder)} ${how}`)
  return 0
}

/** The pieces of a file, with a line that says how much of it is written where that takes long. */
function* shown(pieces: Iterable<Uint8Array>, size: number): Generator<Uint8Array> {
  const line = progress()
  const began = performance.now()
  let done = 0
  try {
    for (const piece of pieces) {
      yield piece
      done += piece.length
      if (performance.now() - began > quietMilliseconds) line.show(`${bytes(done)} of ${bytes(size)}`, false)
    }
  } finally {
    line.end()
  }
}

/** What is worth a word of a model's texts. */
async function textRemarks(files: ReadonlyMap<string, Uint8Array>): Promise<string[]> {
  if (!files.has(tokenizerName)) return []
  const remarks: string[] = []
  try {
    await openTokenizer(files)
  } catch (error) {
    if (!(error instanceof TextError)) throw error
    remarks.push(`${error.message}; it is kept, and generate takes --tokens`)
  }
  const chat = [...files].find(
    ([name, bytes]) => name.startsWith('chat_template') || new TextDecoder().decode(bytes).includes('"chat_template"'),
  )
  if (chat !== undefined) remarks.push(`${chat[0]}: its chat template isn't carried out here: a prompt goes in as it is`)
  return remarks
}

/** Writes all of them, or none; what is there already stays as it is. */
function writeFiles(folder: string, files: Iterable<readonly [string, Uint8Array | Iterable<Uint8Array>]>): void {
  const all = [...files]
  const present = all.find(([name]) => existsSync(join(folder, name)))
  if (present !== undefined) throw new FileError(`${folder} holds a file named ${present[0]} already: name another --out`)
  const written: string[] = []
  try {
    for (const [name, content] of all) {
      written.push(join(folder, name))
      writeAtomic(join(folder, name), content)
    }
  } catch (error) {
    for (const file of written) rmSync(file, { force: true })
    throw error
  }
}

/** Writes the folder that a run's model was imported from, or that its package would have written. */
export async function exportPretrained(run: string, wanted: PackageName | undefined, out: string | undefined): Promise<number> {
  const imported = openImported(run)
  const { source } = imported
  const format = wanted ?? source.package
  if (source.package !== format)
    throw new FileError(
      `${run} holds a ${source.modelType} of ${source.package}, of which ${format} has no counterpart here: give --format ${source.package}`,
    )
  const whole = folderOfRun(run)
  const folder = out ?? join(whole, '..', `${basename(resolve(whole))}-${format}`)
  // What was trained here has characters, and what was imported what came with it.
  const texts = isImported(run) ? readTextFiles(whole) : tokenizerFiles(openRun(run).vocabulary)
  const files = new Map([...(await toPretrained(openedModel(run, imported), source)), ...texts])
  const release = claimFolder(folder)
  try {
    writeFiles(folder, files)
  } finally {
    release()
  }
  for (const [name, content] of files) say(`wrote ${join(folder, name)} (${bytes(content.length)})`)
  return 0
}
