/** How a claim fares, drawn while it is checked: cases, the largest error on a logarithmic axis, and the way to a counterexample. */
import type { Message, Settings, Shown } from './protocol.ts'
import { counted, power, type Tensor, tensorIn } from './words.ts'

type Children = readonly (Node | string)[]
export function element(tag: string, attributes: Readonly<Record<string, string>> = {}, children: Children = []): HTMLElement {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}
function drawn(tag: string, attributes: Readonly<Record<string, string | number>>, text = ''): SVGElement {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value))
  made.textContent = text
  return made
}

// --- The axis -------------------------------------------------------------------------------------------------------------------------

/** From 1e-17 to 1 and a little more. */
const [least, most] = [-17, 1]
const width = 340
const at = (x: number): number =>
  x > 0 && !Number.isNaN(x) ? (Math.min(most, Math.max(least, Math.log10(x))) - least) * (width / (most - least)) : 0

/** An error on a logarithmic axis, beside its bound. */
class Axis {
  readonly svg: SVGElement
  private readonly bar = drawn('rect', { class: 'error', y: 5, height: 8, rx: 1, width: 0 })
  private readonly bound: number

  constructor(bound: number) {
    this.bound = bound
    this.svg = drawn('svg', { class: 'axis', viewBox: `-4 0 ${width + 8} 32`, role: 'img' })
    for (let exponent = least + 1; exponent <= most; exponent += 4)
      this.svg.append(
        drawn('path', { class: 'tick', d: `M${at(10 ** exponent)} 2v14` }),
        drawn('text', { x: at(10 ** exponent), y: 28 }, power(10 ** exponent)),
      )
    this.svg.append(this.bar)
    if (bound > 0) this.svg.append(drawn('path', { class: 'bound', d: `M${at(bound)} 1v16` }))
    this.show(0, false)
  }

  show(error: number, bad: boolean): void {
    this.bar.setAttribute('width', String(Number.isNaN(error) ? width : error > 0 ? Math.max(2, at(error)) : 0))
    this.bar.classList.toggle('over', bad)
    this.svg.setAttribute(
      'aria-label',
      `largest error ${power(error)}${this.bound > 0 ? `, bound ${power(this.bound)}` : ''}, on a logarithmic axis`,
    )
  }
}

// --- Tensors --------------------------------------------------------------------------------------------------------------------------

/** A line a row, a cell a number; the colour is its sign, the strength its size. */
function table({ name, shape, values }: Tensor): HTMLElement {
  const columns = shape?.at(-1) || values.length
  const largest = Math.max(...values.map(Math.abs).filter(Number.isFinite), 1e-300)
  const rows: HTMLElement[] = []
  for (let from = 0; from < values.length; from += columns)
    rows.push(
      element(
        'tr',
        {},
        values.slice(from, from + columns).map((value) => {
          const strength = Number.isFinite(value) ? Math.round((32 * Math.abs(value)) / largest) : 0
          const cell = element('td', {}, [String(value)])
          cell.style.background = `color-mix(in srgb, var(${value < 0 ? '--minus' : '--plus'}) ${strength}%, transparent)`
          return cell
        }),
      ),
    )
  const caption = element('caption', {}, [element('b', {}, [name]), shape ? ` [${shape.join(', ')}]` : ''])
  return element('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': name }, [
    element('table', { class: 'tensor' }, [caption, element('tbody', {}, rows)]),
  ])
}

/** The lines of a counterexample, tensors as tables. */
function counterexample(lines: readonly string[]): HTMLElement {
  const parts = lines.map((line) => {
    const tensor = tensorIn(line)
    return tensor ? table(tensor) : element('p', { class: 'line' }, [line])
  })
  return element('div', { class: 'counterexample' }, parts)
}

// --- A claim --------------------------------------------------------------------------------------------------------------------------

const words: Record<Shown['status'], string> = {
  holds: 'holds',
  refuted: 'refuted, as it should be',
  skipped: 'skipped: this device has nothing to compare with here',
  'not offered': 'not offered',
  fails: 'fails',
  'not refuted': 'not refuted, and should be',
  throws: 'throws',
  unsteady: 'unsteady',
  leaks: 'leaks',
  stuck: 'never ends',
}

/** Steps of the shrinking that are shown. */
const shown = 40

/** What an article shows below its claim. */
export class ClaimView {
  private readonly status = element('p', { class: 'status' })
  private readonly steps = element('ol', { class: 'steps' })
  private readonly shrinking = element('details', { class: 'shrinking' }, [element('summary', {}, ['How it shrank']), this.steps])
  private readonly axis: Axis
  private readonly result: HTMLElement
  private readonly article: HTMLElement
  private readonly sameBits: boolean
  private readonly settings: Settings
  private state = { runs: 0, largest: 0, against: 0, smallest: '' }
  private due = false
  private ended = false

  /** `bounds`: in float32 and float64. */
  constructor(article: HTMLElement, bounds: readonly [number, number], sameBits: boolean, settings: Settings) {
    this.article = article
    this.sameBits = sameBits
    this.settings = settings
    this.axis = new Axis(bounds[settings.device === 'reference' ? 1 : 0])
    this.result = article.querySelector<HTMLElement>('.result')!
    this.result.replaceChildren(this.status, this.axis.svg)
    article.dataset.status = 'running'
    this.draw()
  }

  hear(message: Message): void {
    if (message.kind === 'case') this.state.runs = message.runs
    if (message.kind === 'largest') this.state.largest = Number(message.error)
    if (message.kind === 'against') {
      if (this.state.against++ === 0) this.result.append(this.shrinking)
      this.shrinking.toggleAttribute('open', true)
      this.state.smallest = message.case
      if (this.state.against <= shown) this.steps.append(element('li', {}, [`${message.case}: error ${power(Number(message.error))}`]))
    }
    // At most once a frame, however fast the cases are.
    if (this.due) return
    this.due = true
    requestAnimationFrame(() => {
      this.due = false
      if (!this.ended) this.draw()
    })
  }

  private draw(): void {
    const { runs, largest, against, smallest } = this.state
    this.axis.show(largest, false)
    const found = against === 0 ? '' : `, ${counted(against, 'counterexample')}, the smallest so far ${smallest}`
    this.status.textContent = `${this.settings.device}: ${counted(runs, 'case')}, largest error ${power(largest)}${found}`
  }

  end(verdict: Shown): void {
    this.ended = true
    const { status, ok, runs, bound, milliseconds, refutedBy, message, lines } = verdict
    const error = Number(verdict.error)
    this.article.dataset.status = ok ? status : 'bad'
    const exact = this.sameBits && status === 'holds' && bound === 0
    const size = status === 'holds' ? (exact ? 'the same bits' : `largest error ${power(error)}, bound ${power(bound)}`) : ''
    const facts = [
      refutedBy === undefined ? (status === 'skipped' ? '' : counted(runs, 'case')) : `by case ${refutedBy}`,
      size,
      ['refuted', 'fails'].includes(status) ? `off by ${power(error)}` : '',
      status === 'skipped' ? '' : milliseconds < 100 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`,
    ]
    const { device } = this.settings
    this.status.replaceChildren(
      element('b', { class: ok ? 'good' : 'bad' }, [words[status]]),
      ` on ${device}${['', ...facts.filter(Boolean)].join(', ')}`,
    )
    if (exact || status === 'skipped' || status === 'stuck' || status === 'throws') this.axis.svg.remove()
    else this.axis.show(error, !ok || status === 'refuted')
    if (message !== undefined) this.result.append(element('p', { class: ok ? 'soft' : 'bad' }, [message]))
    if (lines && lines.length > 0) this.result.append(counterexample(lines))
    this.shrinking.toggleAttribute('open', false)
  }

  /** There is no verdict. */
  stop(why: string): void {
    this.ended = true
    this.article.dataset.status = why === 'stopped' ? 'stopped' : 'bad'
    this.status.textContent = why
  }
}
