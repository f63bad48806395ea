/** Curves over steps or counts, as SVG: drawn anew as they grow. */
import { axisOf, escapeXml, finiteRuns, fixed, position } from '../../dist/cli/chart.js'

export interface Curve {
  name: string
  points: readonly (readonly [x: number, y: number])[]
  dashed?: boolean
  /** Its colour, from 0. */
  colour: number
}

export interface Chart {
  curves: readonly Curve[]
  width: number
  height: number
  below: string
  beside: string
  low?: number
  high?: number
  /** Upright lines with a word. */
  marks?: readonly { at: number; word: string }[]
  words: string
}

const [left, right, bottom] = [52, 12, 38]
/** Of a line of names. */
const line = 16

export function chart({ curves, width, height, below, beside, low, high, marks = [], words }: Chart): string {
  const label = (px: number, py: number, style: string, text: string): string =>
    `<text x="${fixed(px)}" y="${fixed(py)}" class="label ${style}">${escapeXml(text)}</text>`
  let [place, base] = [left, 12]
  const names = curves.map(({ name, colour, dashed }) => {
    const long = 38 + 6.8 * name.length
    if (place > left && place + long > width) [place, base] = [left, base + line]
    const at = place
    place += long
    return `<path class="line s${colour}${dashed ? ' dashed' : ''}" d="M${fixed(at)} ${base}h18"/>${label(at + 23, base + 4, '', name)}`
  })
  const top = base + 14
  const points = curves.flatMap(({ points }) => points).filter(([, y]) => Number.isFinite(y))
  const over = (of: (point: readonly [x: number, y: number]) => number): [number, number] =>
    points.reduce<[number, number]>(([a, b], point) => [Math.min(a, of(point)), Math.max(b, of(point))], [Infinity, -Infinity])
  const [first, last] = points.length > 0 ? over(([x]) => x) : [0, 1]
  const [least, most] = points.length > 0 ? over(([, y]) => y) : [0, 1]
  const across = axisOf(Math.min(first, ...marks.map(({ at }) => at)), Math.max(last, first + 1), Math.max(2, Math.floor(width / 110)), 1)
  const up = axisOf(low ?? least, high ?? Math.max(most, least + 1e-3), 4, 0)
  const x = (value: number): number => left + position(across, value) * (width - left - right)
  const y = (value: number): number => height - bottom - position(up, Math.min(Math.max(value, up.low), up.high)) * (height - top - bottom)
  const lines = curves.flatMap(({ points, colour, dashed }) =>
    finiteRuns(points as [number, number][]).map((run) =>
      run.length === 1
        ? `<circle class="dot s${colour}" cx="${fixed(x(run[0][0]))}" cy="${fixed(y(run[0][1]))}" r="2.5"/>`
        : `<path class="line s${colour}${dashed ? ' dashed' : ''}" d="M${run.map(([px, py]) => `${fixed(x(px))} ${fixed(y(py))}`).join('L')}"/>`,
    ),
  )
  return `<svg class="picture" role="img" aria-label="${escapeXml(words)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${[
    ...up.ticks.map(
      (tick) =>
        `<path class="grid" d="M${left} ${fixed(y(tick))}H${width - right}"/>${label(left - 7, y(tick) + 4, 'end', up.format(tick))}`,
    ),
    ...across.ticks.map((tick) => label(x(tick), height - bottom + 15, 'middle', across.format(tick))),
    label((left + width - right) / 2, height - 6, 'middle', below),
    `<text class="label middle" transform="translate(12 ${fixed((top + height - bottom) / 2)}) rotate(-90)">${escapeXml(beside)}</text>`,
    ...marks.map(
      ({ at, word }) =>
        `<path class="cursor dashed" d="M${fixed(x(at))} ${top}V${height - bottom}"/>${label(x(at) + 5, height - bottom - 7, '', word)}`,
    ),
    ...names,
    ...lines,
  ].join('')}</svg>`
}

/** Points of a course without end: where there are too many, two neighbours become their mean. */
export class Course {
  points: [x: number, y: number][] = []
  private every = 1
  private waiting: [x: number, y: number][] = []

  constructor(private readonly most = 600) {}

  add(x: number, y: number): void {
    this.waiting.push([x, y])
    if (this.waiting.length < this.every) return
    this.points.push(mean(this.waiting))
    this.waiting = []
    if (this.points.length < this.most) return
    this.points = Array.from({ length: this.most / 2 }, (_, i) => mean(this.points.slice(2 * i, 2 * i + 2)))
    this.every *= 2
  }

  /** The mean of the last points. */
  get recent(): number {
    const last = [...this.points.slice(-8), ...this.waiting]
    return last.length === 0 ? Number.NaN : mean(last)[1]
  }
}

function mean(points: readonly (readonly [number, number])[]): [number, number] {
  const total = points.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0])
  return [total[0] / points.length, total[1] / points.length]
}
