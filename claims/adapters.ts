/** Where implementations by others come from: a module of JavaScript, a program over its pipes, or what is built in. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Rule, rules as ruleTable } from '../engine/index.ts'
import { readSafetensors, type SafetensorsEntry, writeSafetensors } from '../nn/safetensors.ts'
import {
  type Adapter,
  type Arrays,
  Broken,
  type CallOptions,
  checkAdapter,
  type FloatType,
  NotOffered,
  type Numbers,
} from './implementation.ts'
import { messageOf } from './message.ts'
import { onnxruntime } from './onnxruntime.ts'

export const builtIn: Readonly<Record<string, () => Promise<Adapter>>> = { onnxruntime }

/** A command may end in such a name, too, after a space. */
const isModule = (text: string): boolean => /\.[cm]?js$/.test(text) && (!/\s/.test(text) || existsSync(text))

export interface ProgramOptions {
  /** Seconds in which a program has to answer, and in which it has to begin to. */
  readonly limit: number
  readonly firstLimit: number
  /** Called while an answer is waited for. */
  alive?(): void
}

/** The adapter of a name, a file or a command line; throws where there is none. */
export async function openAdapter(what: string, options: ProgramOptions): Promise<Adapter> {
  if (Object.hasOwn(builtIn, what)) return builtIn[what]()
  if (!isModule(what)) return openProgram(what, options)
  if (!existsSync(what)) throw new Error(`${what}: no such file`)
  let exported: { default?: unknown }
  try {
    exported = await import(pathToFileURL(resolve(what)).href)
  } catch (error) {
    throw new Error(`${what}: can't be loaded: ${messageOf(error, [what])}`)
  }
  if (!('default' in exported))
    throw new Error(`${what}: it has no default export, which must be the adapter: export default { name, ... }`)
  return checked(exported.default as Adapter, `${what}: its default export`)
}

function checked(adapter: Adapter, where: string): Adapter {
  try {
    return checkAdapter(adapter)
  } catch (error) {
    throw new Error(`${where}: ${messageOf(error)}`)
  }
}

// --- Programs -------------------------------------------------------------------------------------------------------------------------

/** An answer of more bytes than this is taken for something else. */
const longest = 2 ** 30
/** So much of standard error is shown. */
const shownErrors = 600

const entryTypes = { float64: 'F64', float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const satisfies Record<FloatType, string>

/** Arrays as entries of a safetensors file: flags are I32, other numbers of the dtype. */
export const entriesOf = (arrays: Arrays, dtype: FloatType): [string, SafetensorsEntry][] =>
  Object.entries(arrays).map(([name, { shape, data }]) => {
    const flags = data instanceof Int32Array
    const numbers = flags ? data : dtype === 'float64' ? Float64Array.from(data) : Float32Array.from(data)
    return [name, { dtype: flags ? 'I32' : entryTypes[dtype], shape: [...shape], data: numbers } as SafetensorsEntry]
  })

/** The program of a command line: a message is 8 bytes of its length, little-endian, and a safetensors file. docs/conformance.md has the rest. */
async function openProgram(command: string, options: ProgramOptions): Promise<Adapter> {
  let program = new Program(command, options)
  const { name = '', dtype, rules } = (await program.ask([], { ask: 'offer' }, options.firstLimit)).metadata
  const call =
    (ask: 'forward' | 'backward') =>
    async (rule: string, inputs: Arrays, { form, ...settings }: CallOptions) => {
      if (program.ended) {
        program = new Program(command, options)
        await program.ask([], { ask: 'offer' }, options.firstLimit)
      }
      const entries = entriesOf(inputs, adapter.dtype ?? 'float32')
      const cotangents = ['y', ...Object.keys((ruleTable as Record<string, Rule>)[rule].state)]
        .map((output) => `d${output}`)
        .filter((name) => name in inputs)
      const asked = {
        ask,
        rule,
        form,
        options: JSON.stringify(settings),
        ...(ask === 'backward' && { cotangents: JSON.stringify(cotangents) }),
      }
      const { tensors, metadata } = await program.ask(entries, asked, options.limit)
      if (metadata['not offered'] !== undefined) throw new NotOffered(metadata['not offered'])
      if (metadata.error !== undefined) throw new Error(`${name} says: ${metadata.error}`)
      return Object.fromEntries([...tensors].map(([output, entry]) => [output, numbersOf(name, output, entry)]))
    }
  const where = `${command}: its first answer`
  let offered: Adapter['rules']
  try {
    offered = JSON.parse(rules)
  } catch {
    throw new Error(`${where}: 'rules' in __metadata__ must be a text of JSON: ${rules === undefined ? 'there is none' : `'${rules}'`}`)
  }
  const adapter = checked({ name, dtype: dtype as FloatType, rules: offered, forward: call('forward'), backward: call('backward') }, where)
  return adapter
}

function numbersOf(program: string, output: string, { dtype, shape, data }: SafetensorsEntry): Numbers {
  const known: readonly string[] = Object.values(entryTypes)
  if (!known.includes(dtype)) throw new Error(`${program} answers ${output} as ${dtype}, not as one of ${known.join(', ')}`)
  return { shape, data: data as Float32Array }
}

class Program {
  ended = false
  private readonly child: ChildProcess
  private readonly options: ProgramOptions
  private readonly command: string
  /** Of the answer that comes: what is there. */
  private parts: Buffer[] = []
  private received = 0
  private errors = ''
  private end: ((why: string) => void) | undefined
  private come: (() => void) | undefined

  constructor(command: string, options: ProgramOptions) {
    this.command = command
    this.options = options
    this.child = spawn(command, { shell: true, stdio: ['pipe', 'pipe', 'pipe'] })
    this.child.stdout!.on('data', (part: Buffer) => {
      this.parts.push(part)
      this.received += part.length
      this.come?.()
    })
    this.child.stderr!.on('data', (part: Buffer) => {
      this.errors = (this.errors + part.toString()).slice(-shownErrors)
    })
    // What it doesn't read isn't missed: its end is told.
    this.child.stdin!.on('error', () => {})
    const ended = (why: string): void => {
      this.ended = true
      this.end?.(why)
    }
    this.child.on('error', (error) => ended(`can't be started: ${error.message}`))
    this.child.on('close', (code, signal) => ended(`ended (${signal ?? `exit code ${code}`})`))
  }

  /** Sends a message and reads the answer. A program that doesn't answer as it should is ended. */
  async ask(entries: [string, SafetensorsEntry][], metadata: Record<string, string>, limit: number) {
    this.parts = []
    this.received = 0
    this.errors = ''
    const message = writeSafetensors(entries, metadata)
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(message.length))
    const beats = setInterval(() => this.options.alive?.(), 100 * Math.min(1, limit))
    let late: NodeJS.Timeout | undefined
    try {
      const bytes = await new Promise<Buffer>((answered, failed) => {
        this.end = (why) => failed(this.broken(why))
        this.come = () => {
          const all = Buffer.concat(this.parts)
          this.parts = [all]
          if (all.length < 8) return
          const promised = all.readBigUInt64LE()
          if (promised > longest)
            return failed(
              this.broken(
                `answers what is no message: '${all.toString('latin1', 0, 8)}' can't be its length (does it print to standard output?)`,
              ),
            )
          if (all.length > 8 + Number(promised))
            return failed(this.broken(`sent ${all.length - 8 - Number(promised)} bytes more than its answer's ${promised}`))
          if (all.length === 8 + Number(promised)) answered(all.subarray(8))
        }
        late = setTimeout(() => failed(this.broken(`didn't answer in ${limit} s`, true)), limit * 1000)
        if (this.ended) return this.end('has ended')
        this.child.stdin!.write(length)
        this.child.stdin!.write(message)
      })
      return readSafetensors(new Uint8Array(bytes))
    } catch (error) {
      this.child.kill('SIGKILL')
      this.ended = true
      throw error instanceof Broken ? error : this.broken(`answers what can't be read: ${messageOf(error)}`)
    } finally {
      clearInterval(beats)
      clearTimeout(late)
      this.end = undefined
      this.come = undefined
    }
  }

  private broken(why: string, late = false): Broken {
    const begun = this.received > 0 && !why.startsWith('answers') && !why.startsWith('sent')
    const promised = begun && this.received >= 8 ? ` of ${Buffer.concat(this.parts).readBigUInt64LE()}` : ''
    const part = begun ? `, with ${Math.max(0, this.received - 8)}${promised} bytes of an answer` : ''
    const errors = this.errors.trim()
    return new Broken(`${this.command}: ${why}${part}${errors === '' ? '' : `; on standard error: ${errors}`}`, late)
  }
}
