/** What `--profile` shows: the time of each kernel as a table, and a picture in which a bar's width is its time. Tests: test/cli/profile.test.ts. */
import { type Device, type Profile, type ProfileEntry, profile } from '../engine/index.ts'
import { escapeXml } from './chart.ts'
import { writeAtomic } from './files.ts'

/** Runs `body` on a device that measures, then shows the table and writes the picture; where no file is given, just runs it. */
export async function profiled<R>(
  device: Device,
  file: string | undefined,
  title: string,
  say: (text: string) => void,
  body: (device: Device) => Promise<R>,
): Promise<R> {
  if (file === undefined) return body(device)
  const profiling = profile(device)
  try {
    const start = performance.now()
    const result = await body(profiling.device)
    const wall = performance.now() - start
    const entries = await profiling.entries()
    say(`\n${table(entries, profiling.measure, wall)}`)
    writeAtomic(file, picture(entries, `${title}, ${device.description}`))
    say(`wrote ${file}`)
    return result
  } finally {
    profiling.stop()
  }
}

interface Sum {
  calls: number
  milliseconds: number
}

/** Adds entries up by what `key` gives, the longest first. */
function sums(entries: readonly ProfileEntry[], key: (entry: ProfileEntry) => string): [name: string, sum: Sum][] {
  const found = new Map<string, Sum>()
  for (const entry of entries) {
    const sum = found.get(key(entry)) ?? { calls: 0, milliseconds: 0 }
    sum.calls += entry.calls
    sum.milliseconds += entry.milliseconds
    found.set(key(entry), sum)
  }
  return [...found].sort(([, a], [, b]) => b.milliseconds - a.milliseconds)
}

const total = (entries: readonly ProfileEntry[]): number => entries.reduce((sum, { milliseconds }) => sum + milliseconds, 0)

const measures: Record<Profile['measure'], string> = {
  clock: 'by a clock around each call',
  timestamps: "by the GPU's timestamps",
  submissions: 'this adapter has no timestamps, so that only whole submissions can be timed, waiting for each other included',
}

/** `wall`: milliseconds from begin to end, in which the kernels ran. */
export function table(entries: readonly ProfileEntry[], measure: Profile['measure'], wall: number): string {
  const all = total(entries)
  const percent = (part: number): string => `${((100 * part) / Math.max(all, Number.MIN_VALUE)).toFixed(1)} %`
  const line = (name: string, calls: string, ms: string, share: string, mean: string): string =>
    `  ${name.padEnd(22)}${calls.padStart(10)}${ms.padStart(12)}${share.padStart(10)}${mean.padStart(12)}`
  const row = ([name, { calls, milliseconds }]: [string, Sum]): string =>
    line(name, calls.toLocaleString('en'), milliseconds.toFixed(1), percent(milliseconds), mean(milliseconds, calls))
  const phases = sums(entries, ({ spans }) => spans.join(' > ') || 'elsewhere')
  return [
    `Time per kernel, ${measures[measure]}`,
    line('kernel', 'calls', 'total ms', 'share', 'mean µs'),
    ...sums(entries, ({ kernel }) => kernel).map(row),
    ...(measure === 'submissions' ? [] : ['', line('phase', 'calls', 'total ms', 'share', 'mean µs'), ...phases.map(row)]),
    '',
    `  ${(all / 1000).toFixed(2)} s in kernels, of ${(wall / 1000).toFixed(2)} s in all`,
  ].join('\n')
}

const mean = (milliseconds: number, calls: number): string => ((1000 * milliseconds) / Math.max(calls, 1)).toFixed(1)

// --- The picture ----------------------------------------------------------------------------------------------------------------------

interface Frame extends Sum {
  readonly name: string
  readonly children: Map<string, Frame>
}

function treeOf(entries: readonly ProfileEntry[]): Frame {
  const root: Frame = { name: 'all kernels', calls: 0, milliseconds: 0, children: new Map() }
  for (const { spans, kernel, detail, calls, milliseconds } of entries) {
    let frame = root
    const path = [...(spans.length > 0 ? spans : ['elsewhere']), kernel, ...(detail === '' ? [] : [detail])]
    for (const name of [null, ...path]) {
      if (name !== null) {
        const child = frame.children.get(name) ?? { name, calls: 0, milliseconds: 0, children: new Map() }
        frame.children.set(name, child)
        frame = child
      }
      frame.calls += calls
      frame.milliseconds += milliseconds
    }
  }
  return root
}

const rowHeight = 26
/** Of the letters, in pixels, about. */
const letterWidth = 6.6
/** Hues far from each other, given to the kernels as they come. */
const hues = [212, 28, 150, 330, 265, 190, 55, 0, 100, 295]

/** Phases over kernels over what they were asked for, each above what it consists of; the tooltips hold the figures. */
export function picture(entries: readonly ProfileEntry[], title: string, width = 1200): string {
  const root = treeOf(entries)
  const [left, top] = [16, 64]
  const scale = (width - 2 * left) / Math.max(root.milliseconds, Number.MIN_VALUE)
  const kernels = sums(entries, ({ kernel }) => kernel).map(([name]) => name)
  const share = (ms: number): string => `${((100 * ms) / Math.max(root.milliseconds, Number.MIN_VALUE)).toFixed(1)} %`
  const parts: string[] = []
  let depth = 0
  const draw = (frame: Frame, x: number, level: number, kernel: string | null): void => {
    const size = frame.milliseconds * scale
    // Half a pixel shows nothing.
    if (size < 0.5) return
    depth = Math.max(depth, level + 1)
    const its = kernel ?? (kernels.includes(frame.name) ? frame.name : null)
    const style = its === null ? 'p' : `k${kernels.indexOf(its) % hues.length}${kernel === null ? '' : ' d'}`
    const y = top + level * rowHeight
    const room = Math.floor((size - 10) / letterWidth)
    const label = `${frame.name} ${share(frame.milliseconds)}`
    const text =
      label.length <= room ? label : frame.name.length <= room ? frame.name : room >= 4 ? `${frame.name.slice(0, room - 1)}…` : ''
    const figures = `${frame.name}: ${frame.milliseconds.toFixed(1)} ms, ${share(frame.milliseconds)}, ${frame.calls.toLocaleString('en')} calls, ${mean(frame.milliseconds, frame.calls)} µs each`
    parts.push(
      `<g><title>${escapeXml(figures)}</title><rect class="${style}" x="${x.toFixed(1)}" y="${y}" width="${Math.max(0.5, size - 1).toFixed(1)}" height="${rowHeight - 2}" rx="2"/>${
        text === '' ? '' : `<text x="${(x + 5).toFixed(1)}" y="${y + 16}">${escapeXml(text)}</text>`
      }</g>`,
    )
    for (const child of [...frame.children.values()].sort((a, b) => b.milliseconds - a.milliseconds)) {
      draw(child, x, level + 1, its)
      x += child.milliseconds * scale
    }
  }
  draw(root, left, 0, null)
  const height = top + depth * rowHeight + 14
  const colors = (dark: boolean): string =>
    hues
      .map((hue, i) =>
        dark
          ? `.k${i}{fill:hsl(${hue} 45% 36%)}.k${i}.d{fill:hsl(${hue} 35% 28%)}`
          : `.k${i}{fill:hsl(${hue} 65% 74%)}.k${i}.d{fill:hsl(${hue} 60% 86%)}`,
      )
      .join('')
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>${escapeXml(title)}</title>
<style>
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:12px;fill:#1c2024}
.paper{fill:#fff}.title{font-size:16px;font-weight:600}.label{fill:#636b74}.p{fill:#e3e6ea}
${colors(false)}
@media (prefers-color-scheme:dark){
text{fill:#eceef0}.paper{fill:#16191d}.label{fill:#9ba3ab}.p{fill:#333a42}
${colors(true)}
}
</style>
<rect class="paper" width="${width}" height="${height}" rx="8"/>
<text class="title" x="${left}" y="28">${escapeXml(title)}</text>
<text class="label" x="${left}" y="50">${escapeXml(`${(root.milliseconds / 1000).toFixed(2)} s in ${root.calls.toLocaleString('en')} calls: phases, their kernels, and what those were asked for; a width is a time`)}</text>
${parts.join('\n')}
</svg>
`
}
