/**
 * Curves over the steps of a run, for the terminal (braille dots) and as a standalone SVG. Values that aren't finite leave a gap.
 * Tests: test/cli/chart.test.ts.
 */

export interface Series {
  name: string
  points: readonly (readonly [step: number, value: number])[]
  /** A mark at each point: for a series of few points. */
  marked?: boolean
  /** In the picture: dashed, in the colour of this one, by its number, and not named itself. */
  beside?: number
}

export interface Chart {
  title: string
  /** What the values are: 'nats a character'. */
  unit: string
  /** What they are over; steps, if nothing else. */
  over?: string
  /** In the picture: the names of the places 0, 1, ... that they are over. */
  places?: readonly string[]
  series: readonly Series[]
}

type Point = readonly [number, number]

// --- Terminal -------------------------------------------------------------------------------------------------------------------------

const brailleBits = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
]
const terminalColors = ['\x1b[36m', '\x1b[33m', '\x1b[35m', '\x1b[32m']
const faint = '\x1b[2m'
const plain = '\x1b[0m'

/** Colours suit a terminal whose user did not ask for none (no-color.org). */
export function wantsColor(isTTY: boolean | undefined = process.stdout.isTTY, environment: NodeJS.ProcessEnv = process.env): boolean {
  return isTTY === true && !environment.NO_COLOR && environment.TERM !== 'dumb'
}

export function terminalChart({ title, unit, over = 'step', series }: Chart, width = 80, height = 18, color = wantsColor()): string {
  const paint = (text: string, code: string) => (color && text !== '' ? `${code}${text}${plain}` : text)
  const scale = scaleOf(series, Math.max(2, Math.floor(width / 12)), Math.max(2, Math.floor(height / 3)))
  if (scale === null) return `${title}: no finite values to draw`
  const rows = Math.max(3, height - 4)
  const margin = Math.max(...scale.y.ticks.map((tick) => scale.y.format(tick).length)) + 1
  const columns = Math.max(8, width - margin - 4)

  // Dots lie on a grid of 2 columns and 4 rows a cell.
  const x = (step: number) => Math.round(position(scale.x, step) * (2 * columns - 1))
  const y = (value: number) => Math.round((1 - position(scale.y, value)) * (4 * rows - 1))
  const cells = Array.from({ length: rows }, () => new Array<{ dots: number; mark: boolean; owner: number }>(columns))
  const touch = (column: number, row: number, owner: number) => {
    const cell = (cells[row >> 2][column >> 1] ??= { dots: 0, mark: false, owner })
    cell.owner = owner
    return cell
  }
  for (const [owner, { points, marked }] of series.entries()) {
    for (const run of finiteRuns(points)) {
      const dots = run.map(([step, value]) => [x(step), y(value)] as const)
      if (marked) for (const [column, row] of dots) touch(column, row, owner).mark = true
      else
        dots.forEach((dot, i) => {
          for (const [column, row] of segment(dots[Math.max(0, i - 1)], dot)) {
            touch(column, row, owner).dots |= brailleBits[row & 3][column & 1]
          }
        })
    }
  }

  const labels = new Map<number, string>()
  for (const tick of scale.y.ticks) labels.set(y(tick) >> 2, scale.y.format(tick))
  const lines = cells.map((row, index) => {
    const label = labels.get(index)
    const axis = `${(label ?? '').padStart(margin)} ${label === undefined ? '│' : '┤'}`
    const drawn = Array.from(row, (cell) =>
      cell === undefined
        ? ' '
        : paint(cell.mark ? '●' : String.fromCodePoint(0x2800 + cell.dots), terminalColors[cell.owner % terminalColors.length]),
    )
    return `${paint(axis, faint)}${drawn.join('')}`.trimEnd()
  })
  const legend = series.map(({ name, points, marked }, index) => {
    const last = finiteRuns(points).at(-1)?.at(-1)
    const swatch = paint(marked ? '●' : '⠒⠒', terminalColors[index % terminalColors.length])
    return `${swatch} ${name}${last === undefined ? ' (no finite values)' : ` ${valueText(last[1])}`}`
  })
  const heading = [`${title} (${unit})`, `${' '.repeat(margin + 2)}${legend.join('   ')}`]
  return [...heading, ...lines, ...stepAxis(scale.x, over, columns, margin, paint)].join('\n')
}

/** The axis with its ticks, and below it their numbers where they have room. */
function stepAxis(axis: Axis, over: string, columns: number, margin: number, paint: (text: string, code: string) => string): string[] {
  const line = new Array<string>(columns).fill('─')
  const numbers = [...over.padEnd(columns + margin + 4)]
  let free = over.length + 1
  for (const tick of axis.ticks) {
    const column = Math.round(position(axis, tick) * (2 * columns - 1)) >> 1
    line[column] = '┬'
    const text = axis.format(tick)
    const start = margin + 2 + column - (text.length >> 1)
    if (start < free || start + text.length > numbers.length) continue
    numbers.splice(start, text.length, ...text)
    free = start + text.length + 1
  }
  return [paint(`${' '.repeat(margin + 1)}└${line.join('')}`, faint), paint(numbers.join('').trimEnd(), faint)]
}

/** The dots of a straight line, ends included. */
function* segment([x0, y0]: Point, [x1, y1]: Point): Generator<Point> {
  const length = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1)
  for (let i = 0; i <= length; i++) yield [Math.round(x0 + ((x1 - x0) * i) / length), Math.round(y0 + ((y1 - y0) * i) / length)]
}

// --- SVG ------------------------------------------------------------------------------------------------------------------------------

export const svgColors = [
  { light: '#2563c9', dark: '#7fb0ff' },
  { light: '#c2410c', dark: '#ffa15c' },
  { light: '#7c3aed', dark: '#c4a5ff' },
  { light: '#15803d', dark: '#6fdc95' },
  { light: '#b4236a', dark: '#ff8fc0' },
  { light: '#0e7490', dark: '#67d5e8' },
  { light: '#a16207', dark: '#e8c15a' },
  { light: '#57606a', dark: '#aab4be' },
]

/** The class of a mark: hollow, or full where its colour has come before. */
const markClass = (index: number): string => `${index < svgColors.length ? 'mark' : `f${index}`} s${index}`

export function svgChart({ title, unit, over = 'step', places: names, series }: Chart, width = 800, height = 440): string {
  // Names that don't fit beside the title stand in lines of their own.
  const named = [...series.entries()].filter(([, { beside }]) => beside === undefined)
  const lengths = named.map(([, { name }]) => 52 + 7 * name.length)
  const own = 24 + 10 * title.length + lengths.reduce((n, length) => n + length, 0) > width - 72
  const [left, right] = [56, width - 72]
  let [place, line] = [left + 30, 34]
  const places = lengths.map((length) => {
    if (place + length > width) [place, line] = [left + 30, line + 20]
    place += length
    return [place - length, line + 56] as const
  })
  const [top, bottom] = [own ? line + 82 : 88, (own ? line + 48 : 0) + height - 52]
  height = bottom + 52
  const scale = scaleOf(series, Math.max(2, Math.floor(width / 100)), Math.max(2, Math.floor((bottom - top) / 56)))
  const x = (step: number) => left + position(scale!.x, step) * (right - left)
  const y = (value: number) => bottom - position(scale!.y, value) * (bottom - top)
  const parts: string[] = []
  const text = (px: number, py: number, style: string, content: string) =>
    parts.push(`<text x="${fixed(px)}" y="${fixed(py)}" class="${style}">${escapeXml(content)}</text>`)

  text(24, 34, 'title', title)
  text(24, 68, 'label', unit)
  place = right
  for (const [n, [index, { name, marked }]] of [...named.entries()].reverse()) {
    place -= 7 * name.length
    const [px, py] = own ? places[n] : [place, 34]
    text(px, py, 'name', name)
    parts.push(`<path class="line s${index}" d="M${px - 30} ${py - 4}h22"/>`)
    if (marked) parts.push(`<circle class="${markClass(index)}" cx="${px - 19}" cy="${py - 4}" r="3.5"/>`)
    place -= 52
  }

  if (scale === null) text((left + right) / 2, (top + bottom) / 2, 'label middle', 'no finite values to draw')
  else {
    for (const tick of scale.y.ticks) {
      parts.push(`<path class="grid" d="M${left} ${fixed(y(tick))}H${right}"/>`)
      text(left - 10, y(tick) + 4, 'label end', scale.y.format(tick))
    }
    for (const tick of scale.x.ticks) {
      parts.push(`<path class="axis" d="M${fixed(x(tick))} ${bottom}v5"/>`)
      text(x(tick), bottom + 20, 'label middle', names?.[tick] ?? scale.x.format(tick))
    }
    parts.push(`<path class="axis" d="M${left} ${bottom}H${right}"/>`)
    text((left + right) / 2, bottom + 40, 'label middle', over)
    series.forEach(({ points, marked, beside }, index) => {
      const runs = finiteRuns(points).map((run) => thinned(run.map(([step, value]) => [x(step), y(value)])))
      const lines = runs.filter((run) => run.length > 1)
      const style = beside === undefined ? '' : ' dashed'
      if (lines.length > 0)
        parts.push(`<path class="line${style} s${index}" d="${lines.map((run) => `M${run.map(at).join('L')}`).join('')}"/>`)
      const circle = (style: string, radius: number, [px, py]: Point) =>
        parts.push(`<circle class="${style}" cx="${fixed(px)}" cy="${fixed(py)}" r="${radius}"/>`)
      for (const run of runs) {
        if (marked) for (const point of run) circle(markClass(index), 3.5, point)
        else if (run.length === 1) circle(`f${index}`, 2, run[0])
      }
    })
    for (const { index, value, height: py } of lastValues(series, y, bottom)) text(right + 10, py + 4, `value f${index}`, valueText(value))
  }

  const colors = (tone: 'light' | 'dark') =>
    series
      .map(({ beside }, index) => [index, svgColors[(beside ?? index) % svgColors.length][tone]] as const)
      .map(([index, hex]) => `.s${index}{stroke:${hex}}.f${index}{fill:${hex}}`)
      .join('')
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>${escapeXml(title)}</title>
<desc>${escapeXml(series.map((one) => described(one, over)).join('; '))}</desc>
<style>
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:12px}
.paper{fill:#fff}.title{font-size:17px;font-weight:600;fill:#1c2024}.name{font-size:13px;fill:#1c2024}.label{fill:#636b74}
.middle{text-anchor:middle}.end{text-anchor:end}.value{font-weight:600}
.grid{stroke:#e9ecef}.axis{stroke:#adb5bd}.line{fill:none;stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round}.dashed{stroke-dasharray:2 4}
.mark{fill:#fff;stroke-width:1.75}
${colors('light')}
@media (prefers-color-scheme:dark){
.paper,.mark{fill:#16191d}.title,.name{fill:#eceef0}.label{fill:#9ba3ab}.grid{stroke:#2a2f35}.axis{stroke:#59616a}
${colors('dark')}
}
</style>
<rect class="paper" width="${width}" height="${height}" rx="8"/>
${parts.join('\n')}
</svg>
`
}

/** The last value of each series, and where its label stands: at the line's end, or as near as the labels above leave room. */
function lastValues(
  series: readonly Series[],
  y: (value: number) => number,
  bottom: number,
): { index: number; value: number; height: number }[] {
  const labels = series
    .flatMap(({ points, beside }, index) => {
      const last = finiteRuns(points).at(-1)?.at(-1)
      return last === undefined || beside !== undefined ? [] : [{ index, value: last[1], height: y(last[1]) }]
    })
    .sort((a, b) => a.height - b.height)
  labels.forEach((label, i) => {
    if (i > 0) label.height = Math.max(label.height, labels[i - 1].height + 15)
  })
  // What would stand below the axis moves up, and what is there with it.
  labels.reduceRight((most, label) => {
    label.height = Math.min(label.height, most)
    return label.height - 15
  }, bottom)
  return labels
}

/** At most a low and a high a half pixel: a long run draws the same and stays a small file. */
function thinned(points: readonly Point[]): readonly Point[] {
  const columns = new Map<number, Point[]>()
  for (const point of points) {
    const key = Math.round(2 * point[0])
    const column = columns.get(key)
    if (column === undefined) columns.set(key, [point])
    else column.push(point)
  }
  return [...columns.values()].flatMap((column) => {
    if (column.length <= 2) return column
    const low = column.reduce((a, b) => (b[1] < a[1] ? b : a))
    const high = column.reduce((a, b) => (b[1] > a[1] ? b : a))
    return low === high ? [low] : column.indexOf(low) < column.indexOf(high) ? [low, high] : [high, low]
  })
}

function described({ name, points }: Series, over: string): string {
  const finite = finiteRuns(points).flat()
  if (finite.length === 0) return `${name}: no finite values`
  const [[firstStep, first], [lastStep, last]] = [finite[0], finite[finite.length - 1]]
  return `${name}: ${valueText(first)} at ${over} ${firstStep}, ${valueText(last)} at ${over} ${lastStep}`
}

export const fixed = (pixels: number) => String(Math.round(pixels * 10) / 10)
const at = ([px, py]: Point) => `${fixed(px)} ${fixed(py)}`

/** For text of XML 1.0, which has no control characters. */
export function escapeXml(text: string): string {
  return text
    .replace(/[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, '�')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}

// --- Scales ---------------------------------------------------------------------------------------------------------------------------

export interface Axis {
  low: number
  high: number
  ticks: number[]
  format(tick: number): string
}

/** Null if there is nothing to draw. */
function scaleOf(series: readonly Series[], xTicks: number, yTicks: number): { x: Axis; y: Axis } | null {
  const points = series.flatMap(({ points }) => finiteRuns(points).flat())
  if (points.length === 0) return null
  const range = (values: number[]) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity])
  const [firstStep, lastStep] = range(points.map(([step]) => step))
  const [lowest, highest] = range(points.map(([, value]) => value))
  // The ticks of the steps are whole numbers; the values have some room above and below.
  const room = lowest === highest ? Math.max(Math.abs(lowest) * 0.1, 0.1) : highest * 0.03 - lowest * 0.03
  return {
    x: firstStep < lastStep ? axisOf(firstStep, lastStep, xTicks, 1) : axisOf(firstStep - 0.5, firstStep + 0.5, xTicks, 1),
    y: axisOf(Math.max(lowest - room, -Number.MAX_VALUE), Math.min(highest + room, Number.MAX_VALUE), yTicks, 0),
  }
}

/** About `count` ticks at multiples of 1, 2 or 5 times a power of ten. */
export function axisOf(low: number, high: number, count: number, leastStep: number): Axis {
  const rough = Math.max(high / count - low / count, Number.MIN_VALUE)
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = Math.max(leastStep, [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= 0.7 * rough) ?? rough)
  const first = Math.ceil(low / step - 1e-9)
  const last = Math.floor(high / step + 1e-9)
  const ticks = Array.from({ length: Math.max(1, last - first + 1) }, (_, i) => (first + i) * step)
  const decimals = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)))
  const isPlain = Math.max(Math.abs(low), Math.abs(high)) < 1e6 && step > 1e-6
  return { low, high, ticks, format: (tick) => (isPlain ? (tick === 0 ? 0 : tick).toFixed(decimals) : tick.toPrecision(3)) }
}

export const position = ({ low, high }: Axis, value: number) => (value / 2 - low / 2) / (high / 2 - low / 2)

export function valueText(value: number): string {
  const size = Math.abs(value)
  return size === 0 || (size >= 1e-3 && size < 1e6) ? value.toFixed(3) : value.toPrecision(3)
}

/** The stretches without a gap. */
export function finiteRuns(points: readonly Point[]): Point[][] {
  const runs: Point[][] = [[]]
  for (const point of points) {
    if (Number.isFinite(point[0]) && Number.isFinite(point[1])) runs[runs.length - 1].push(point)
    else runs.push([])
  }
  return runs.filter((run) => run.length > 0)
}
