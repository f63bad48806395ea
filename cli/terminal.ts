/** What the commands show while they run. */

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

export const say = (text: string): void => void process.stdout.write(`${text}\n`)

/** One line that is rewritten in place on a terminal; elsewhere (a log) a line now and then, and always for what matters. */
export function progress(out: NodeJS.WriteStream = process.stdout, every = 5000): { show(text: string, matters: boolean): void; end(): void } {
  let shown = Number.NEGATIVE_INFINITY
  let open = false
  return {
    show(text, matters) {
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

/** The first Ctrl-C (or termination) asks to stop after the step under way; a second one stops at once. */
export function onInterrupt(): { asked(): boolean; stop(): void } {
  let count = 0
  const handler = (): void => {
    if (++count > 1) process.exit(130)
    process.stderr.write('\nstopping after this step (once more to stop at once)\n')
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, handler)
  return {
    asked: () => count > 0,
    stop() {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, handler)
    },
  }
}
