/**
 * What a command writes: files that are whole or absent, a folder that one process at a time writes to, and metrics as JSON lines.
 * Everything is synchronous: a step of training waits for its checkpoint anyway, and an interrupt can't come between.
 * Tests: test/cli/files.test.ts.
 */

import {
  appendFileSync,
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { reason } from '../tasks/reason.ts'

/** Its message is one line for the user. */
export class FileError extends Error {
  override name = 'FileError'
}

/** Another process writes to the folder. */
export class InUseError extends FileError {}

/** A file that is written beside the one it is to replace. */
export interface Replacement {
  write(piece: Uint8Array | string): void
  /** Whatever stops the process or the machine, the path names the old file or this one, whole. */
  replace(): void
  /** Leaves the old file as it was. */
  discard(): void
}

/** A temporary file in the same folder, which is forced to the disk and renamed in the end, and the folder forced to the disk. */
export function replacement(given: string): Replacement {
  const path = targetOf(given)
  // Processes of several machines may write to the same folder, and have the same number.
  const temporary = join(dirname(path), `.${basename(path)}.${Math.random().toString(36).slice(2)}.${process.pid}.tmp`)
  let file: number | undefined
  const close = (): void => {
    const open = file
    // Forgotten first: what can't be closed isn't closed again.
    file = undefined
    if (open !== undefined) closeSync(open)
  }
  const discard = (): void => {
    close()
    rmSync(temporary, { force: true })
  }
  const tried = (action: () => void): void => {
    try {
      action()
    } catch (error) {
      discard()
      throw new FileError(`can't write ${path}: ${reason(error)}`)
    }
  }
  tried(() => {
    file = openSync(temporary, 'w')
  })
  return {
    write: (piece) => tried(() => writeFileSync(file!, piece)),
    replace: () =>
      tried(() => {
        fsyncSync(file!)
        close()
        renameSync(temporary, path)
        syncFolder(dirname(path))
      }),
    discard,
  }
}

/** Frees the whole buffer of what has been written, which else waits for the garbage collector; Node 20 has no way to. */
export function freeBytes({ buffer }: Uint8Array): void {
  ;(buffer as ArrayBuffer & { transfer?(size: number): ArrayBuffer }).transfer?.(0)
}

/** Replaces the file by `content`, or leaves it as it was. */
export function writeAtomic(path: string, content: Uint8Array | string | Iterable<Uint8Array>): void {
  const file = replacement(path)
  try {
    for (const piece of typeof content === 'string' || content instanceof Uint8Array ? [content] : content) file.write(piece)
  } catch (error) {
    // What goes wrong with a piece is told by whoever makes it.
    file.discard()
    throw error
  }
  file.replace()
}

export function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory()
  } catch (error) {
    throw new FileError(`can't read ${path}: ${reason(error)}`)
  }
}

/** A file that is read as its bytes are asked for. */
export class FileBytes {
  readonly length: number
  private readonly file: string

  constructor(file: string) {
    this.file = file
    try {
      const found = statSync(file)
      if (!found.isFile()) throw new Error(found.isDirectory() ? 'it is a folder' : 'it is no file, but a device or a pipe')
      this.length = found.size
      this.subarray(0, 0)
    } catch (error) {
      throw new FileError(`can't read ${file}: ${reason(error)}`)
    }
  }

  subarray(begin: number, end: number, into?: Uint8Array): Uint8Array {
    const size = Math.max(0, Math.min(end, this.length) - begin)
    const content = into?.subarray(0, size) ?? new Uint8Array(size)
    const handle = openSync(this.file, 'r')
    try {
      for (let at = 0; at < content.length; ) {
        const read = readSync(handle, content, at, Math.min(2 ** 30, content.length - at), begin + at)
        if (read === 0) throw new FileError(`can't read ${this.file}: it ends after ${begin + at} of ${this.length} bytes`)
        at += read
      }
      return content
    } finally {
      closeSync(handle)
    }
  }
}

/** The file itself where the path is a link to one. */
const targetOf = (path: string): string => (existsSync(path) && lstatSync(path).isSymbolicLink() ? realpathSync(path) : path)

/**
 * Throws where `writeAtomic` could write no file of this name, so that nobody waits for a result that can't be kept, or where it would write over `read`.
 */
export function checkWritable(given: string, read?: string): void {
  const path = targetOf(given)
  const probe = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`)
  try {
    if (read !== undefined && existsSync(path) && realpathSync(path) === realpathSync(read)) throw new Error('it is the file that is read')
    if (existsSync(path) && !statSync(path).isFile())
      throw new Error(statSync(path).isDirectory() ? 'it is a folder' : 'it is no file, but a device or a pipe')
    writeFileSync(probe, '')
    rmSync(probe)
  } catch (error) {
    throw new FileError(`can't write ${path}: ${reason(error)}`)
  }
}

/**
 * Creates the folder where it isn't there, locks it against other processes, and writes a file in it to know that it can be written; removes
 * what a killed process left. Returns what unlocks it, and removes the folders it has created if they are still empty.
 */
export function claimFolder(path: string): () => void {
  const created: string[] = []
  let unlock = (): void => {}
  const release = (): void => {
    unlock()
    try {
      for (const folder of created.reverse()) rmdirSync(folder)
    } catch {
      // It isn't empty: the run has left something.
    }
  }
  try {
    createFolder(resolve(path), created)
    unlock = lockFolder(path)
    const probe = join(path, `.probe.${process.pid}.tmp`)
    try {
      writeFileSync(probe, 'a line to see whether there is room\n')
    } finally {
      rmSync(probe, { force: true })
    }
    for (const name of readdirSync(path)) {
      const writer = /^\..+\.(\d+)\.tmp$/.exec(name)?.[1]
      if (writer !== undefined && !isRunning(Number(writer))) rmSync(join(path, name), { force: true })
    }
    return release
  } catch (error) {
    release()
    throw error instanceof FileError ? error : new FileError(`can't write to the output folder ${path}: ${reason(error)}`)
  }
}

/** A file that holds the number of the process; one whose process is dead, or was another with our number, is worth nothing. */
function lockFolder(path: string): () => void {
  const lock = join(path, '.lock')
  for (;;) {
    try {
      writeFileSync(lock, `${process.pid}`, { flag: 'wx' })
      return () => rmSync(lock, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const owner = readLock(lock)
    if (owner !== null && owner !== process.pid && isRunning(owner))
      throw new InUseError(`${path} is in use by process ${owner} (if it isn't, remove ${lock})`)
    rmSync(lock, { force: true })
  }
}

/** Null if it's gone, or its process died before it wrote its number: it has half a second, since making and writing are two steps. */
function readLock(lock: string): number | null {
  for (let tries = 0; tries < 50; tries++) {
    try {
      const owner = Number(readFileSync(lock, 'utf8'))
      if (owner > 0) return owner
    } catch {
      return null
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
  }
  return null
}

// --- Metrics --------------------------------------------------------------------------------------------------------------------------

export type Metrics = Record<string, unknown>

/** Adds one line of JSON. */
export function appendMetrics(path: string, record: Metrics): void {
  try {
    appendFileSync(path, `${JSON.stringify(record)}\n`)
  } catch (error) {
    throw new FileError(`can't write ${path}: ${reason(error)}`)
  }
}

/** The records of a metrics file, none if there is no file. A last line that a killed process left unfinished isn't one. */
export function readMetrics(path: string): Metrics[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw new FileError(`can't read ${path}: ${reason(error)}`)
  }
  const lines = text.split('\n').slice(0, -1)
  return lines.map((line, index) => {
    let record: unknown
    try {
      record = JSON.parse(line)
    } catch {
      record = null
    }
    if (typeof record !== 'object' || record === null || Array.isArray(record)) {
      throw new FileError(`${path}: line ${index + 1} isn't a JSON object`)
    }
    return record as Metrics
  })
}

/** Drops the records after `step`, so that a resumed run writes its own; keeps those without a step. */
export function truncateMetrics(path: string, step: number): void {
  const records = readMetrics(path)
  const kept = records.filter((record) => typeof record.step !== 'number' || record.step <= step)
  if (kept.length === 0) rmSync(path, { force: true })
  else writeAtomic(path, kept.map((record) => `${JSON.stringify(record)}\n`).join(''))
}

// --- System ---------------------------------------------------------------------------------------------------------------------------

/** Creates a folder and those above it; `created` gets the new ones. Node's own recursive mkdir never returns where the system answers "no such folder" for a child of a folder that exists (/proc). */
export function createFolder(path: string, created: string[] = []): void {
  if (existsSync(path)) {
    if (!statSync(path).isDirectory()) throw new Error(`${path} is a file`)
    return
  }
  createFolder(dirname(path), created)
  try {
    mkdirSync(path)
    created.push(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error // Another process has just made it.
  }
}

/** Without it, a crash of the machine could undo a rename. Windows has no such call, and doesn't need it. */
function syncFolder(path: string): void {
  if (process.platform === 'win32') return
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
