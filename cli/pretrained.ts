/** Models of other packages: what `import` reads and `export` writes. Tests: test/cli/pretrained.test.ts. */
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { fromPretrained, modelOf, type PackageName, toPretrained, writeCheckpoint } from '../nn/index.ts'
import { configName, generationName, indexName, weightFiles } from '../nn/pretrained/open.ts'
import { isRwkvFile } from '../nn/pretrained/rwkv.ts'
import { reason } from '../tasks/download.ts'
import { TextError } from '../tasks/text.ts'
import { openTokenizer, tokenizerName } from '../tasks/tokenizer.ts'
import { UsageError } from './arguments.ts'
import { claimFolder, FileError, writeAtomic } from './files.ts'
import { checkpointName, checkVacant, claimFreeFolder, folderOfRun, openImported, readTextFiles, sourceKey } from './runs.ts'
import { bytes, counted, say } from './terminal.ts'

/** What WebAssembly's memory holds. A file of float32 numbers may have as much; of 16 bits, half of it is too much, but that shows once they are read. */
const mostMemory = 4e9
/** Bytes that are read at a time: no call takes 2 GiB. */
const piece = 2 ** 30

/** The files of a model: those of a folder that are needed for it, or a file of weights with the config.json beside it. */
export function readModelFiles(path: string): Map<string, Uint8Array> {
  const read = (name: string, folder: string): Uint8Array => {
    const file = join(folder, name)
    try {
      return readWhole(file)
    } catch (error) {
      throw new FileError(`can't read ${file}: ${reason(error)}`)
    }
  }
  let [folder, names] = [path, [] as string[]]
  try {
    const whole = statSync(path).isDirectory()
    folder = whole ? path : dirname(path)
    if (!whole && isRwkvFile(readStart(path))) return new Map([[basename(path), read(basename(path), folder)]])
    names = whole
      ? readdirSync(path)
      : [basename(path), ...readdirSync(folder).filter((name) => [configName, generationName].includes(name))]
  } catch (error) {
    throw new FileError(`can't read ${path}: ${reason(error)}`)
  }
  const own = names.find(
    (name) => name.endsWith('.bin') && statSync(join(folder, name)).isFile() && isRwkvFile(readStart(join(folder, name))),
  )
  if (own !== undefined && !names.includes(configName))
    throw new FileError(`${path} holds RWKV's own files: name one of them, such as ${join(folder, own)}`)
  const index = names.includes(indexName) ? read(indexName, folder) : undefined
  const weights = weightFiles(names, index)
  const present = weights.filter((name) => existsSync(join(folder, name)))
  const size = present.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0)
  if (size > mostMemory)
    throw new FileError(`${path}: its weights take ${bytes(size)}, more than the ${bytes(mostMemory)} that a model may have here`)
  return new Map([
    ...[configName, generationName].flatMap((name) => (names.includes(name) ? [[name, read(name, folder)] as const] : [])),
    ...(index ? [[indexName, index] as const] : []),
    ...present.map((name) => [name, read(name, folder)] as const),
  ])
}

function readWhole(file: string): Uint8Array {
  const handle = openSync(file, 'r')
  try {
    const content = new Uint8Array(fstatSync(handle).size)
    for (let at = 0; at < content.length; ) {
      const read = readSync(handle, content, at, Math.min(piece, content.length - at), at)
      if (read === 0) throw new Error(`it ends after ${at} of ${content.length} bytes`)
      at += read
    }
    return content
  } finally {
    closeSync(handle)
  }
}

/** Its first bytes. */
function readStart(file: string): Uint8Array {
  const start = new Uint8Array(64)
  const handle = openSync(file, 'r')
  try {
    return start.subarray(0, readSync(handle, start))
  } finally {
    closeSync(handle)
  }
}

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
  const { model, source, warnings } = fromPretrained(readModelFiles(path), { package: wanted })
  const texts = source.package === 'rwkv' ? new Map<string, Uint8Array>() : readTextFiles(folderOfRun(path))
  for (const warning of [...warnings, ...(await textRemarks(texts))]) say(warning)
  const content = await writeCheckpoint(model, null, { [sourceKey]: JSON.stringify(source) })
  const { folder, release } = out === undefined ? claimFreeFolder(source.modelType) : { folder: out, release: claimFolder(out) }
  try {
    checkVacant(folder)
    // The checkpoint comes last: it makes a run of the folder.
    writeFiles(folder, [...texts, [checkpointName, content]])
  } finally {
    release()
  }
  const size = counted(model.parameterCount(), 'parameter')
  say(
    `${source.modelType} of ${source.package}: ${counted(model.layers.length, 'layer')}, ${size}, ${counted(model.config.symbols, 'symbol')}`,
  )
  const how = texts.has(tokenizerName) ? `--prompt '...'` : '--tokens 1,2,3'
  say(
    `wrote ${join(folder, checkpointName)}: continue ${texts.has(tokenizerName) ? 'texts' : 'tokens'} with fastweights generate --run ${folder} ${how}`,
  )
  return 0
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
function writeFiles(folder: string, files: Iterable<readonly [string, Uint8Array]>): void {
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

/** Writes the folder that a run's model was imported from. */
export async function exportPretrained(run: string, wanted: PackageName | undefined, out: string | undefined): Promise<number> {
  const { checkpoint, source } = openImported(run)
  const format = wanted ?? source.package
  if (source.package !== format)
    throw new FileError(
      `${run} holds a ${source.modelType} of ${source.package}, of which ${format} has no counterpart here: give --format ${source.package}`,
    )
  const whole = statSync(run).isDirectory() ? run : dirname(resolve(run))
  const folder = out ?? `${whole.replace(/[\\/]+$/, '')}-${format}`
  const files = new Map([...(await toPretrained(modelOf(checkpoint), source)), ...readTextFiles(whole)])
  const release = claimFolder(folder)
  try {
    writeFiles(folder, files)
  } finally {
    release()
  }
  for (const [name, content] of files) say(`wrote ${join(folder, name)} (${bytes(content.length)})`)
  return 0
}
