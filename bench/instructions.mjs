/** How many instructions a process runs in user mode, counted by Linux's perf: a number that other work on the machine hardly changes. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'

const event = 'instructions:u'

/** Why nothing can be counted here; undefined if it can. */
export function uncountable() {
  const { error, status, stderr } = spawnSync('perf', ['stat', '-x,', '-e', event, process.execPath, '-e', '0'], { encoding: 'utf8' })
  if (error) return error.code === 'ENOENT' ? 'there is no perf (on Linux: linux-perf or linux-tools)' : error.message
  if (status !== 0) return stderr.trim().split('\n').at(-1)
  return Number.isNaN(parse(stderr))
    ? `perf can't read the processor's counter of instructions (${stderr.trim().split(',')[0]})`
    : undefined
}

/** `VALUE,UNIT,EVENT,...`; NaN for <not supported> and <not counted>. */
function parse(text) {
  const line = text.split('\n').find((line) => line.includes(event))
  return line === undefined ? Number.NaN : Number(line.split(',')[0])
}

/**
 * Counts what the process `pid`, with all its threads, runs while `work` runs: perf is told when to begin and to end, and says when it has.
 * @returns {Promise<number>} instructions
 */
export async function countInstructions(pid, work) {
  // Descriptors 3 and 4: commands and their acknowledgements. It begins disabled.
  const perf = spawn('perf', ['stat', '-x,', '-e', event, '-D', '-1', '--control', 'fd:3,4', '-p', `${pid}`], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
  })
  let text = ''
  perf.stderr.setEncoding('utf8').on('data', (piece) => {
    text += piece
  })
  const [, , , control, acknowledged] = perf.stdio
  control.on('error', () => {}) // perf has ended, which is told below.
  const ended = once(perf, 'close')
  const tell = async (command) => {
    control.write(`${command}\n`)
    await Promise.race([once(acknowledged, 'data'), ended])
  }
  await tell('enable')
  await work()
  await tell('disable')
  perf.kill('SIGINT')
  await ended
  const count = parse(text)
  if (Number.isNaN(count)) throw new Error(`perf counted nothing: ${text.trim()}`)
  return count
}
