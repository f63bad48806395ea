/** The experiment on capacity: sliders, and what the worker measures. */
import { chart } from './curve.ts'
import { element, make } from './dom.ts'
import type { Capacity, CapacityRequest } from './messages.ts'

export class CapacityView {
  private readonly pairs = element<HTMLInputElement>('pairs')
  private readonly width = element<HTMLInputElement>('key-width')
  private readonly map = element<HTMLSelectElement>('key-map')
  private readonly kind = element<HTMLSelectElement>('key-kind')
  private last: Capacity | undefined

  constructor(
    private readonly ask: (request: CapacityRequest) => void,
    private readonly chosen: (request: CapacityRequest) => void,
  ) {
    for (const control of [this.pairs, this.width, this.map, this.kind])
      control.addEventListener('input', () => {
        this.begin()
        this.chosen(this.request())
      })
    new ResizeObserver(() => this.last && this.show(this.last)).observe(element('capacity'))
    this.say()
  }

  private say(): void {
    element('pairs-out').textContent = this.pairs.value
    element('key-width-out').textContent = this.width.value
  }

  choose({ width, map, keys, most }: CapacityRequest): void {
    const before = JSON.stringify(this.request())
    this.width.value = `${width}`
    this.map.value = map
    this.kind.value = keys
    this.pairs.value = `${most}`
    if (JSON.stringify(this.request()) === before) return
    this.say()
    if (this.last) this.begin()
  }

  private request(): CapacityRequest {
    return {
      width: Number(this.width.value),
      map: this.map.value,
      keys: this.kind.value as CapacityRequest['keys'],
      most: Number(this.pairs.value),
    }
  }

  begin(): void {
    this.say()
    this.ask(this.request())
  }

  show(capacity: Capacity): void {
    this.last = capacity
    const { pairs, found, cosine, features, most, milliseconds } = capacity
    const place = element('capacity')
    const whole = Math.floor(place.clientWidth)
    if (whole === 0) return
    const width = whole > 760 ? Math.floor((whole - 32) / 2) : whole
    const rules = Object.keys(found)
    const picture = (title: string, values: Capacity['found'], beside: string): HTMLElement => {
      const told = rules.map((rule) => `${rule} ${values[rule].at(-1)!.toFixed(2)}`).join(', ')
      const figure = make('figure')
      figure.innerHTML = chart({
        curves: rules.map((rule, i) => ({
          name: rule,
          points: pairs.map((n, j) => [n, values[rule][j]] as const),
          colour: i === 0 ? 1 : 0,
          dashed: i === 0,
        })),
        width,
        height: 240,
        below: 'pairs written',
        beside,
        low: 0,
        high: 1,
        marks: features <= most ? [{ at: features, word: `d_dot = ${features}` }] : [],
        words: `${title} after ${most} pairs: ${told}; ${features} features.`,
      })
      figure.append(make('figcaption', { class: 'how' }, `${title} after ${most} pairs: ${told}.`))
      return figure
    }
    place.replaceChildren(
      picture('Values found again', found, 'share'),
      picture('Cosine of what is read with the value', cosine, 'cosine'),
      make(
        'p',
        { class: 'how', id: 'capacity-words' },
        `${features} features, so room for ${features} pairs with orthogonal keys. ${pairs.length} memories of each rule, in ${Math.round(milliseconds)} ms.`,
      ),
    )
  }
}
