/** What the commands show while they run. */
import { printable } from '../nn/foreign.ts'
import { reason } from '../tasks/reason.ts'

/** 1.2 GB, 340 MB, 12 kB. */
export function bytes(n: number): string {
  const [scale, unit] = n >= 1e9 ? [1e9, 'GB'] : n >= 1e6 ? [1e6, 'MB'] : [1e3, 'kB']
  return `${(n / scale).toFixed(n / scale < 10 ? 1 : 0)} ${unit}`
}

/** 8 s, 2 min 5 s, 1 h 20 min. */
export function duration(milliseconds: number): string {
  const s = Math.round(milliseconds / 1000)
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
}

/** A word as a shell takes it. */
export const quoted = (word: string): string => (/^[\w./:=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)

/** 1 claim, 1,000 claims. */
export const counted = (n: number, what: string): string => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`

/**
 * A text from elsewhere as a terminal may have it: what would command the terminal, or turn the order of what follows, is written as an
 * escape; line breaks and tabs stay.
 */
export const visible = (text: string): string => text.replace(/[^\n\t]+/g, printable)

export const say = (text: string): void => void process.stdout.write(`${visible(text)}\n`)

/** Names and messages from elsewhere may hold line breaks and control codes; what tells of them stays one line, and not for pages. */
export const oneLine = (text: string): string => text.replace(/[\p{Cc}\p{Bidi_C}\u2028\u2029]+/gu, ' ').slice(0, 1000)

/** One line that is rewritten in place on a terminal; elsewhere (a log) a line now and then, and always for what matters. */
export function progress(
  out: NodeJS.WriteStream = process.stdout,
  every = 5000,
): { show(line: string, matters: boolean): void; end(): void } {
  let shown = Number.NEGATIVE_INFINITY
  let open = false
  return {
    show(line, matters) {
      const text = visible(line)
      const now = performance.now()
      if (!matters && now - shown < (out.isTTY ? 100 : every)) return
      shown = now
      if (!out.isTTY) return void out.write(`${text}\n`)
      open = true
      out.write(`\r\x1b[K${text.slice(0, Math.max(20, (out.columns ?? 100) - 1))}`)
    },
    end() {
      if (open) out.write('\n')
      open = false
    },
  }
}

let outputLost = false
/** Of a command that has something to save. */
let saving: AbortController | undefined

/**
 * Ends the program when its output can't be written, quietly if the reader (head, less) has left. A command that called `onInterrupt`
 * has something to save, and ends by itself.
 */
export function watchOutput(): void {
  process.stderr.on('error', () => {}) // there is nobody to tell
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (outputLost) return
    outputLost = true
    const left = error.code === 'EPIPE'
    if (!left) process.stderr.write(`fastweights: can't write to standard output: ${reason(error)}\n`)
    if (saving) saving.abort()
    else process.exit(left ? 0 : 1)
  })
}

/** npm hands on the Ctrl-C that the terminal has sent to everybody: signals this close together, in milliseconds, are one wish. */
const sameWish = 300

/** The first Ctrl-C (or termination, or loss of the output) aborts the signal, to stop after the step under way; a second Ctrl-C stops at once. */
export function onInterrupt(): { signal: AbortSignal; stop(): void } {
  let first = Number.POSITIVE_INFINITY
  const controller = new AbortController()
  saving = controller
  const handler = (): void => {
    const now = performance.now()
    if (now - first > sameWish) process.exit(130)
    if (now > first) return
    first = now
    process.stderr.write('\nstopping soon (once more to stop at once)\n')
    controller.abort()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, handler)
  return {
    signal: controller.signal,
    stop() {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, handler)
    },
  }
}
