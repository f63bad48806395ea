/** Runs the real command in processes of their own, in a folder that holds a text and the settings of a tiny model. */
import assert from 'node:assert/strict'
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { random } from '../helpers.ts'

export const main = fileURLToPath(new URL('../../node/cli/main.js', import.meta.url))
/** What runs the command: V8's option of test/run.mjs, if there is one, and its file. */
const command = [...process.execArgv.filter((option) => option.startsWith('--interrupt-budget')), main]

/** For `run`: on Linux, a machine without a GPU's driver, whatever this one has. */
export const withoutDriver = { shell: 'VK_DRIVER_FILES=/none.json VK_ICD_FILENAMES=/none.json exec "$0" "$@"' }

/** For `run`: the package `webgpu` isn't found from fastweights itself; it may be in the node_modules of the folder. */
export const withoutPackage = { shell: 'exec "$0" --import ./without.mjs "$@"' }
const withoutModule = `import module from 'node:module'
const resolve = (name, context, next) => {
  if (name !== 'webgpu' || !context.parentURL?.includes('/dist/node/')) return next(name, context)
  throw Object.assign(new Error('none'), { code: 'ERR_MODULE_NOT_FOUND' })
}
if (module.registerHooks) module.registerHooks({ resolve })
else module.register('data:text/javascript,' + encodeURIComponent('export const resolve = ' + resolve))`

export interface Result {
  code: number | null
  stdout: string
  stderr: string
}

/** Less what Dawn says by itself of a driver whose limits it lowers, such as a lavapipe's, whatever runs on it. */
const ours = (said: string): string => said.replace(/^Warning: max\w+ artificially reduced from .*\n/gm, '')

/** What a process has said, and its end. */
export async function ended(child: ChildProcess): Promise<Result> {
  const result: Result = { code: null, stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (piece: string) => {
      result[name] += piece
    })
  result.code = await new Promise((resolve) => child.once('close', resolve))
  return { ...result, stderr: ours(result.stderr) }
}

/** Resolves once standard output has shown `text`, or has ended. */
export function shown(child: ChildProcess, text: string): Promise<void> {
  let seen = ''
  return new Promise((resolve) => {
    child.stdout!.on('data', (piece) => {
      seen += piece
      if (seen.includes(text)) resolve()
    })
    child.stdout!.once('close', resolve)
  })
}

const server = fileURLToPath(new URL('./server.js', import.meta.url))
/** A command line whose arguments have no spaces, or a list. */
const list = (words: string | readonly string[]): readonly string[] =>
  typeof words === 'string' ? words.split(' ').filter(Boolean) : words

function succeeded(words: string | readonly string[], { code, stdout, stderr }: Result): string {
  assert.equal(code, 0, `${words}: ${stderr}`)
  return stdout
}

const trainTiny = (words: string): string => `train --text text.txt --config tiny.json ${words}`

export class Workplace {
  readonly folder = mkdtempSync(join(tmpdir(), 'fastweights-cli-'))
  readonly env = { ...process.env, FASTWEIGHTS_CACHE: join(this.folder, 'cache') }

  constructor() {
    const next = random(3)
    const words = ['It is ', 'so ', 'the way, ', 'and ', 'a bird ', 'sings.\n', 'Why ', 'not? ']
    let text = ''
    while (text.length < 3000) text += words[Math.floor(next() * words.length)]
    this.write('text.txt', text)
    this.write('tiny.json', JSON.stringify(tiny))
    this.write('without.mjs', withoutModule)
  }

  path = (name: string): string => join(this.folder, name)
  read = (name: string): Buffer => readFileSync(this.path(name))
  write = (name: string, content: string | Uint8Array): void => writeFileSync(this.path(name), content)
  private readonly ends: (() => Promise<void>)[] = []

  /** Ends the servers, which are in the folder, and removes it. */
  remove = async (): Promise<void> => {
    await Promise.all(this.ends.map((end) => end()))
    rmSync(this.folder, { recursive: true, force: true })
  }

  start(words: string | readonly string[], options: { stdin?: 'ignore'; shell?: string } = {}): ChildProcess {
    const [program, parameters] =
      options.shell === undefined
        ? [process.execPath, [...command, ...list(words)]]
        : ['sh', ['-c', options.shell, process.execPath, ...command, ...list(words)]]
    return spawn(program, parameters, { cwd: this.folder, env: this.env, stdio: ['ignore', 'pipe', 'pipe'] })
  }

  /** `shell`: a script for sh in which "$0" "$@" stands for the command. */
  run(words: string | readonly string[], options: { shell?: string } = {}): Promise<Result> {
    return ended(this.start(words, options))
  }

  /**
   * A process that runs one command after the other, as they come: for many that end soon, since most of their time is a process's start. It ends
   * with the folder, or before by `end`.
   */
  server(): Pick<Workplace, 'run' | 'succeed' | 'train'> & { end(): Promise<void> } {
    const child = fork(server, { cwd: this.folder, env: this.env, silent: true })
    /** What its own processes say, which may go on saying it when the command has ended: then it is the next one's. */
    const said = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'] as const)
      child[name]!.setEncoding('utf8').on('data', (piece: string) => {
        said[name] += piece
      })
    let last: Promise<unknown> = Promise.resolve()
    const now = (words: string | readonly string[]): Promise<Result> =>
      new Promise((resolve, reject) => {
        const ended = (code: number | null): void => reject(new Error(`${words}: ended its process, with ${code}`))
        child.once('exit', ended)
        child.once('message', (result) => {
          child.off('exit', ended)
          const { code, stdout, stderr } = result as Result
          resolve({ code, stdout: stdout + said.stdout, stderr: ours(stderr + said.stderr) })
          said.stdout = said.stderr = ''
        })
        child.send(list(words))
      })
    const run = (words: string | readonly string[]): Promise<Result> => {
      const result = last.then(() => now(words))
      last = result.catch(() => {})
      return result
    }
    const succeed = (words: string | readonly string[]): Promise<string> => run(words).then((result) => succeeded(words, result))
    const end = async (): Promise<void> => {
      if (!child.connected) return
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    }
    this.ends.push(end)
    return { run, succeed, train: (words) => succeed(trainTiny(words)), end }
  }

  /** What `body` runs goes through one `server`. */
  async together(body: (run: (words: string | readonly string[]) => Promise<Result>) => Promise<void>): Promise<void> {
    const { run, end } = this.server()
    try {
      await body(run)
    } finally {
      await end()
    }
  }

  /** As `run`, but it must succeed. */
  async succeed(words: string | readonly string[], options: { shell?: string } = {}): Promise<string> {
    return succeeded(words, await this.run(words, options))
  }

  train = (words: string): Promise<string> => this.succeed(trainTiny(words))

  /** Every file and its content, to see whether anything has changed. */
  snapshot(): Record<string, string> {
    const names = readdirSync(this.folder, { recursive: true }) as string[]
    return Object.fromEntries(
      names.sort().map((name) => [name, statSync(this.path(name)).isFile() ? this.read(name).toString('base64') : '']),
    )
  }

  /** The metrics of a run without the times, which no two runs share. */
  metrics(run: string): Record<string, unknown>[] {
    return this.read(`${run}/metrics.jsonl`)
      .toString()
      .trim()
      .split('\n')
      .map((line) => ({ ...JSON.parse(line), seconds: undefined }))
  }
}

const tiny = {
  'd-model': 16,
  heads: 2,
  layers: 1,
  'd-ff': 32,
  'seq-len': 16,
  batch: 2,
  steps: 5,
  schedule: 'constant',
  lr: 0.01,
  'sample-length': 20,
}
