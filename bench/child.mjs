/**
 * Every contender runs in a process of its own: its own V8 flags (relaxed SIMD is a flag on Node 20), its own heap and threads,
 * and nobody else's compiled code, garbage or spinning workers in its time. The parent asks, one call at a time.
 */
import { fork } from 'node:child_process'
import { enableWideSimd } from '../dist/engine/devices/wasm/index.js'
import { countInstructions } from './instructions.mjs'

/** f32x4.relaxed_madd of the arguments: whether it compiles tells whether this process has relaxed SIMD. */
const relaxedProbe = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11,
])
export const hasRelaxed = () => WebAssembly.validate(relaxedProbe)

/** Node 20 needs the flag; later versions have relaxed SIMD always and may not know the flag any more. */
const relaxedFlags = hasRelaxed() ? [] : ['--experimental-wasm-relaxed-simd']

/**
 * Starts `file` and returns a proxy: `await child.call('name', argument)` runs the function of that name which the file passed to `serve`.
 * @param {{ relaxed?: boolean, wide?: boolean, env?: NodeJS.ProcessEnv }} options wide: V8 merges vectors to 256 bits from the start
 */
export function start(file, options = {}) {
  const child = fork(new URL(file, import.meta.url), [], {
    execArgv: [...(options.relaxed ? relaxedFlags : []), ...(options.wide ? ['--experimental-wasm-revectorize'] : [])],
    env: options.env ?? process.env,
    serialization: 'advanced',
    // What peers print while loading must not land in the tables.
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  let log = ''
  child.stderr.on('data', (text) => {
    log = (log + text).slice(-4000)
  })
  let waiting = null
  child.on('message', ({ result, error }) => {
    const { resolve, reject } = waiting
    waiting = null
    if (error) reject(new Error(error))
    else resolve(result)
  })
  child.on('exit', (code, signal) => {
    waiting?.reject(new Error(`the process ended (${signal ?? code})${log && `: ${log.trim()}`}`))
    waiting = null
  })
  const call = (name, argument) =>
    new Promise((resolve, reject) => {
      if (!child.connected) return reject(new Error(`the process has ended${log && `: ${log.trim()}`}`))
      waiting = { resolve, reject }
      child.send({ name, argument })
    })
  return {
    call,
    /** The instructions of a call, the messages included. */
    count: (name, argument) => countInstructions(child.pid, () => call(name, argument)),
    stop: () => child.kill('SIGKILL'),
  }
}

/** In a child that opens our device: vectors of 256 bits where they help, unless --simd 128 has set this variable. */
export const enableSimd = () => (process.env.BENCH_SIMD === '128' ? { wide: false, why: 'as --simd asks' } : enableWideSimd())

/** In the child: answers the parent's calls with `functions`. */
export function serve(functions) {
  process.on('disconnect', () => process.exit())
  process.on('message', async ({ name, argument }) => {
    try {
      process.send({ result: await functions[name](argument) })
    } catch (error) {
      process.send({ error: error?.message ?? String(error) })
    }
  })
}
