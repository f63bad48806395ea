/**
 * Maps, lines and bars as SVG, the same in a page and in files. Colours come from classes, so that a dark page has its own. A picture has two
 * layers: what stays while the token changes, and what doesn't.
 */
import { axisOf, escapeXml, finiteRuns, fixed, position } from '../chart.ts'

export interface Picture {
  /** Of its file, and of its element in the page. */
  name: string
  title: string
  /** What it shows, for who can't see it; it changes with the token. */
  words: string
  width: number
  height: number
  base: string
  now: string
}

/** Where a picture's axes end: inside these margins. */
const margins = { left: 46, right: 14, top: 30, bottom: 34 }
/** A token's width at most. */
const widest = 9.5
const text = (x: number, y: number, style: string, content: string): string =>
  `<text x="${fixed(x)}" y="${fixed(y)}" class="${style}">${escapeXml(content)}</text>`

/** A character as one that can be seen. What stands for a token without a text, as '12 ' does, is seen already. */
export const glyph = (character: string): string =>
  character === ' ' ? '·' : character === '\n' ? '↵' : /^[\p{Cc}\p{Bidi_C}\p{Zs}]$/u.test(character) ? '�' : character

/** Numbers as people read them. */
export const number = (x: number): string =>
  Number.isFinite(x) ? String(Number(x.toPrecision(Math.abs(x) < 1 ? 2 : 3))).replace('-', '−') : 'not a number'

// --- Axes -----------------------------------------------------------------------------------------------------------------------------

/** Characters beside an axis where each has this much room. */
const roomy = 7

/** Whether names have room in a cell: characters do, or none at all, numbers of tokens don't. */
const haveRoom = (names: readonly string[] | undefined, cell: number): names is readonly string[] =>
  names !== undefined && cell >= roomy && names.every((name) => [...name].length <= 1)

/** Below cells of this width: their characters, or their numbers from 1 now and then. */
function below(names: readonly string[] | undefined, count: number, cell: number, left: number, y: number, label: string): string {
  const middle = left + (count * cell) / 2
  return [
    haveRoom(names, cell)
      ? each(
          names,
          (i) => left + (i + 0.5) * cell,
          () => y + 12,
        )
      : ticksOf(count, (count * cell) / 50)
          .map((n) => text(left + (n - 0.5) * cell, y + 13, 'label middle', String(n)))
          .join(''),
    text(middle, y + 29, 'label middle', label),
  ].join('')
}

function beside(names: readonly string[] | undefined, count: number, cell: number, left: number, top: number): string {
  if (haveRoom(names, cell))
    return each(
      names,
      () => left - 9,
      (i) => top + (i + 0.5) * cell + 3,
    )
  return ticksOf(count, (count * cell) / 30)
    .map((n) => text(left - 6, top + (n - 0.5) * cell + 4, 'label end', String(n)))
    .join('')
}

/** One element for all characters. Those of two code units take two places. */
function each(names: readonly string[], x: (i: number) => number, y: (i: number) => number): string {
  const units = names.flatMap((name, i) => [...glyph(name).split('')].map(() => i))
  const list = (of: (i: number) => number): string => units.map((i) => fixed(of(i))).join(' ')
  return `<text class="chars" x="${list(x)}" y="${list(y)}">${escapeXml(names.map(glyph).join(''))}</text>`
}

const ticksOf = (count: number, ticks: number): number[] =>
  count === 1 ? [1] : axisOf(1, count, Math.max(2, Math.floor(ticks)), 1).ticks.filter((n) => n >= 1)

// --- Maps -----------------------------------------------------------------------------------------------------------------------------

/** Shades of a colour. */
const shades = 12

export interface Map {
  name: string
  title: string
  words: string
  /** The picture's. */
  width: number
  rows: number
  columns: number
  at(row: number, column: number): number
  /** What has the strongest colour. */
  scale: number
  /** The width of a cell at most; the height of the map at most. */
  cell?: number
  most?: number
  rowNames?: readonly string[]
  columnNames?: readonly string[]
  below: string
  beside: string
  /** What is marked: rows and columns, by their numbers. */
  marked?: { rows?: readonly number[]; columns?: readonly number[] }
  /** Whether what is left of the diagonal came before the pair was written, and is shown pale. */
  veiled?: boolean
  /** Whether the map itself changes with the token. */
  changing?: boolean
  /** The paths of an unchanging map are kept by this. */
  key?: object
}

export function map(m: Map): Picture {
  const { left, right, top, bottom } = margins
  const { rows, columns, width } = m
  const cell = Math.min((width - left - right) / columns, m.cell ?? widest)
  const high = Math.min(cell, (m.most ?? 560) / rows)
  const [w, h] = [cell * columns, high * rows]
  const paths = (m.key && kept.get(m.key)) ?? cells(m)
  if (m.key) kept.set(m.key, paths)
  const drawn = `<g class="cells" transform="translate(${left} ${fixed(top + high / 2)}) scale(${cell.toPrecision(5)} ${high.toPrecision(5)})" shape-rendering="crispEdges">${paths}</g>`
  const frame = [
    m.veiled ? `<path class="veil" d="M${left} ${top}V${fixed(top + h)}H${fixed(left + w)}Z"/>` : '',
    `<rect class="frame" x="${left}" y="${top}" width="${fixed(w)}" height="${fixed(h)}"/>`,
    beside(m.rowNames, rows, high, left, top),
    below(m.columnNames, columns, cell, left, top + h, m.below),
    `<text class="label middle" transform="translate(12 ${fixed(top + h / 2)}) rotate(-90)">${escapeXml(m.beside)}</text>`,
    legend(left, m.scale),
  ].join('')
  const marks = [
    ...(m.marked?.rows ?? []).map((r) => mark(left, top + r * high, w, high)),
    ...(m.marked?.columns ?? []).map((c) => mark(left + c * cell, top, cell, h)),
  ].join('')
  const [base, now] = m.changing ? [frame, drawn + marks] : [drawn + frame, marks]
  return { name: m.name, title: m.title, words: m.words, width, height: top + h + bottom, base, now }
}

/** Maps of a page that don't change are drawn once. */
const kept = new WeakMap<object, string>()

const mark = (x: number, y: number, w: number, h: number): string =>
  `<rect class="cursor" x="${fixed(x)}" y="${fixed(y)}" width="${fixed(w)}" height="${fixed(h)}"/>`

/** One path for each shade, with a line as high as a cell for each run of equal ones: a few elements, whatever the number of cells. */
function cells({ rows, columns, at, scale }: Map): string {
  const paths = new globalThis.Map<number, string[]>()
  const shadeOf = (x: number): number => (Number.isFinite(x) ? (scale === 0 ? 0 : Math.round((x / scale) * shades)) : Number.NaN)
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; ) {
      const shade = shadeOf(at(r, c))
      const begin = c
      do c++
      while (c < columns && Object.is(shadeOf(at(r, c)), shade))
      if (shade === 0) continue
      const path = paths.get(shade) ?? []
      paths.set(shade, path)
      path.push(`M${begin} ${r}h${c - begin}`)
    }
  return [...paths]
    .map(([shade, path]) => {
      const style = Number.isNaN(shade)
        ? 'class="none"'
        : `class="${shade < 0 ? 'minus' : 'plus'}" stroke-opacity="${opacity(Math.abs(shade) / shades)}"`
      return `<path ${style} d="${path.join('')}"/>`
    })
    .join('')
}

/** Weak ones can still be seen. */
const opacity = (part: number): string => Math.min(1, part ** 0.65).toFixed(2)

function legend(left: number, scale: number): string {
  const [w, n] = [5, 2 * shades + 1]
  const strip = Array.from({ length: n }, (_, i) => i - shades).map((shade) => {
    const x = left + 44 + (shade + shades) * w
    return `<rect class="${shade < 0 ? 'minus' : 'plus'}" fill-opacity="${opacity(Math.abs(shade) / shades)}" x="${x}" y="10" width="${w}" height="9"/>`
  })
  const end = left + 44 + n * w
  return [
    ...strip,
    `<rect class="frame" x="${left + 44}" y="10" width="${n * w}" height="9"/>`,
    text(left + 39, 18, 'label end', number(-scale)),
    text(end + 5, 18, 'label', number(scale)),
  ].join('')
}

// --- Lines ----------------------------------------------------------------------------------------------------------------------------

export interface Line {
  name: string
  values: readonly number[]
  /** Of the others, thin and grey. */
  faint?: boolean
}

export interface Lines {
  name: string
  title: string
  words: string
  width: number
  lines: readonly Line[]
  low?: number
  high?: number
  columnNames?: readonly string[]
  below: string
  token: number
  /** From 1: the x of the last point is its number, at the right end. */
  counted?: boolean
}

export function lines({ name, title, words, width, lines, columnNames, token, ...more }: Lines): Picture {
  const { left, right, top, bottom } = margins
  const height = 190
  const count = lines[0].values.length
  const values = lines.flatMap(({ values }) => values).filter(Number.isFinite)
  const [least, most] = values.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [more.low ?? Infinity, more.high ?? -Infinity])
  const [low, high] = !(least <= most) ? [0, 1] : least === most ? [least - 0.1, most + 0.1] : [least, most]
  const axis = axisOf(low, high, 4, 0)
  const cell = Math.min((width - left - right) / count, widest)
  const x = (i: number): number => left + (i + 0.5) * cell
  const y = (value: number): number => height - bottom - position(axis, value) * (height - top - bottom)
  const end = left + count * cell
  const shown = [...lines].sort((a, b) => Number(b.faint ?? false) - Number(a.faint ?? false))
  const styles = new globalThis.Map(lines.filter(({ faint }) => !faint).map((line, i) => [line, `s${i % 4}${i >= 4 ? ' dashed' : ''}`]))
  const style = (line: Line): string => styles.get(line) ?? 'faint'
  let place = left
  const names = [...styles].map(([line, style]) => {
    const at = place
    place += 34 + 6.6 * line.name.length
    return `<path class="line ${style}" d="M${fixed(at)} 14h18"/>${text(at + 23, 18, 'label', line.name)}`
  })
  const others = lines.some(({ faint }) => faint)
    ? `<path class="line faint" d="M${fixed(place)} 14h18"/>${text(place + 23, 18, 'label', 'other heads')}`
    : ''
  const base = [
    ...axis.ticks.map(
      (tick) =>
        `<path class="grid" d="M${left} ${fixed(y(tick))}H${fixed(end)}"/>${text(left - 6, y(tick) + 4, 'label end', axis.format(tick).replace('-', '−'))}`,
    ),
    below(columnNames, count, cell, left, height - bottom, more.below),
    ...names,
    others,
    ...shown.flatMap((line) =>
      finiteRuns(line.values.map((value, i) => [i, value])).map((run) =>
        run.length === 1
          ? `<circle class="dot ${style(line)}" cx="${fixed(x(run[0][0]))}" cy="${fixed(y(run[0][1]))}" r="2"/>`
          : `<path class="line ${style(line)}" d="M${run.map(([i, value]) => `${fixed(x(i))} ${fixed(y(value))}`).join('L')}"/>`,
      ),
    ),
  ].join('')
  const dots = shown
    .filter((line) => !line.faint && Number.isFinite(line.values[token]))
    .map((line) => `<circle class="dot ${style(line)}" cx="${fixed(x(token))}" cy="${fixed(y(line.values[token]))}" r="3.5"/>`)
  const now = `<path class="cursor" d="M${fixed(x(token))} ${top}V${height - bottom}"/>${dots.join('')}`
  return { name, title, words, width, height, base, now }
}

// --- Bars -----------------------------------------------------------------------------------------------------------------------------

export interface Bars {
  name: string
  title: string
  words: string
  width: number
  values: readonly number[]
  columnNames: readonly string[]
  below: string
  token: number
}

/** All of them change with the token. */
export function bars({ name, title, words, width, values, columnNames, token, ...more }: Bars): Picture {
  const { left, right, top, bottom } = margins
  const height = 170
  const count = values.length
  const finite = values.filter(Number.isFinite)
  const axis = axisOf(Math.min(0, ...finite), Math.max(1e-9, ...finite), 3, 0)
  const cell = Math.min((width - left - right) / count, widest)
  const y = (value: number): number => height - bottom - position(axis, value) * (height - top - bottom)
  const drawn = values.map((value, i) =>
    !Number.isFinite(value) || value === 0
      ? ''
      : `<rect class="${value < 0 ? 'minus' : 'plus'}" x="${fixed(left + i * cell + cell * 0.1)}" y="${fixed(Math.min(y(value), y(0)))}" width="${fixed(cell * 0.8)}" height="${fixed(Math.abs(y(value) - y(0)))}"/>`,
  )
  const now = [
    ...axis.ticks.map(
      (tick) =>
        `<path class="grid" d="M${left} ${fixed(y(tick))}H${fixed(left + count * cell)}"/>${text(left - 6, y(tick) + 4, 'label end', axis.format(tick).replace('-', '−'))}`,
    ),
    ...drawn,
    mark(left + token * cell, top, cell, height - top - bottom),
  ].join('')
  return { name, title, words, width, height, base: below(columnNames, count, cell, left, height - bottom, more.below), now }
}

// --- Files ----------------------------------------------------------------------------------------------------------------------------

const light = {
  paper: '#fff',
  ink: '#1c2024',
  soft: '#5d656e',
  rule: '#e3e6e9',
  plus: '#0a58c9',
  minus: '#c4500a',
  others: '#b4bac1',
  lines: ['#0a58c9', '#c4500a', '#7c3aed', '#15803d'],
}
const dark: typeof light = {
  paper: '#16191d',
  ink: '#eceef0',
  soft: '#a2aab2',
  rule: '#2d3238',
  plus: '#6fb0ff',
  minus: '#ff9f57',
  others: '#565e67',
  lines: ['#6fb0ff', '#ff9f57', '#c4a5ff', '#6fdc95'],
}

/** Without variables, which programs that show files don't know. */
const tones = ({ paper, ink, soft, rule, plus, minus, others, lines }: typeof light, within: string): string => `
${within}.paper,${within}.veil{fill:${paper}}${within}.label{fill:${soft}}${within}.title,${within}.chars{fill:${ink}}
${within}.plus{fill:${plus};stroke:${plus}}${within}.minus{fill:${minus};stroke:${minus}}${within}.none{stroke:${ink}}
${within}.grid{stroke:${rule}}${within}.frame{stroke:${soft}}${within}.cursor{stroke:${ink}}${within}.line.faint{stroke:${others}}
${lines.map((line, i) => `${within}.line.s${i}{stroke:${line}}${within}.dot.s${i}{fill:${line}}`).join('')}`

/** The looks of pictures; `within`: a selector of what they lie in, and a space. */
export const looks = (within = ''): string => `
${within}text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
${within}text.title{font-size:15px;font-weight:600}${within}text.chars{font:10px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;text-anchor:middle;white-space:pre}
${within}.middle{text-anchor:middle}${within}.end{text-anchor:end}
${within}rect.plus,${within}rect.minus{stroke:none}${within}.cells path{fill:none;stroke-width:1}${within}.veil{fill-opacity:.72}${within}.frame{fill:none;stroke-opacity:.45}${within}.cursor{fill:none;stroke-width:1.25}
${within}.line{fill:none;stroke-width:1.75;stroke-linejoin:round}${within}.line.faint{stroke-width:1}${within}.dashed{stroke-dasharray:5 3}
${tones(light, within)}
@media(prefers-color-scheme:dark){${tones(dark, within)}}`

/** A file of its own: the pictures one below the other, each with its title. */
export function svgFile(title: string, pictures: readonly Picture[]): string {
  const width = Math.max(...pictures.map((p) => p.width)) + 24
  let y = 16
  const body = pictures.map((p) => {
    const at = y
    y += p.height + 44
    return `<g transform="translate(12 ${at})">${text(0, 16, 'title', p.title)}<g transform="translate(0 24)">${p.base}${p.now}</g></g>`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${Math.ceil(y)}" viewBox="0 0 ${width} ${Math.ceil(y)}" role="img">
<title>${escapeXml(title)}</title>
<desc>${escapeXml(pictures.map((p) => `${p.title}: ${p.words}`).join(' '))}</desc>
<style>${looks()}</style>
<rect class="paper" width="${width}" height="${Math.ceil(y)}" rx="8"/>
${body.join('\n')}
</svg>
`
}
