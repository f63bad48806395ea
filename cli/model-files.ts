/** The files of a model of another package. Tests: test/cli/pretrained.test.ts. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { PretrainedError } from '../nn/index.ts'
import { configName, generationName, indexName, weightFiles } from '../nn/pretrained/open.ts'
import { isRwkvFile } from '../nn/pretrained/rwkv.ts'
import { reason } from '../tasks/reason.ts'
import { FileBytes, FileError } from './files.ts'
import { isRun } from './runs.ts'
import { quoted } from './terminal.ts'

/** The files of a model: those of a folder that are needed for it, or a file of weights with the config.json beside it. They are read as they are needed. */
export function readModelFiles(path: string): Map<string, FileBytes> {
  const beside = [configName, generationName]
  let [folder, names] = [path, [] as string[]]
  try {
    const whole = statSync(path).isDirectory()
    folder = whole ? path : dirname(path)
    if (!whole && isRwkvFile(new FileBytes(path))) return new Map([[basename(path), new FileBytes(path)]])
    names = whole ? readdirSync(path) : [basename(path), ...readdirSync(folder).filter((name) => beside.includes(name))]
  } catch (error) {
    throw error instanceof FileError ? error : new FileError(`can't read ${path}: ${reason(error)}`)
  }
  const open = (name: string): FileBytes => new FileBytes(join(folder, name))
  const own = names.find((name) => name.endsWith('.bin') && statSync(join(folder, name)).isFile() && isRwkvFile(open(name)))
  if (own !== undefined && !names.includes(configName))
    throw new FileError(`${path} holds RWKV's own files: name one of them, such as ${join(folder, own)}`)
  const index = names.includes(indexName) ? open(indexName) : undefined
  if (isRun(path) && (folder !== path || !names.includes(configName)))
    throw new FileError(
      `${path} is a run of fastweights already: go on with fastweights generate ${quoted(path)}, or write its files with fastweights export ${quoted(path)}`,
    )
  if (folder !== path && !/\.(safetensors|bin|pt|pth|ckpt|gguf)$/i.test(path))
    throw new FileError(`${path} is no file of weights: name a safetensors file, one of RWKV's own, or the folder of a model`)
  const weights = named(path, () => weightFiles(names, index)).filter((name) => existsSync(join(folder, name)))
  return new Map(
    [...beside.filter((name) => names.includes(name)), ...(index ? [indexName] : []), ...weights].map((name) => [name, open(name)]),
  )
}

/** What is wrong with a model's files, with the path that was given. */
function named<R>(path: string, body: () => R): R {
  try {
    return body()
  } catch (error) {
    throw error instanceof PretrainedError ? new FileError(`${path}: ${error.message}`) : error
  }
}
