/** The experiment on capacity: sliders, and what the worker measures. */
import { chart } from './curve.ts'
import { element, make } from './dom.ts'
import type { Capacity, CapacityRequest } from './messages.ts'

/** What is true of orthogonal keys as they are; undefined of others, which aren't orthogonal when they are written. */
const roomOf = ({ map, keys, features, most }: Capacity): string | undefined => {
  if (map !== 'identity' || keys !== 'orthogonal') return undefined
  const room = `The keys are orthogonal, so there is room for ${features} pairs.`
  return most > features
    ? `${room} Later keys lie in the space of the first: with a write strength of 1 the delta rule overwrites what was there, and keeps less of it than the sum does.`
    : room
}

/** Why values are lost before the features end. */
const lostOf = ({ keys }: Capacity): string =>
  keys === 'random'
    ? 'Random keys aren’t orthogonal, so values may be lost before there are as many pairs.'
    : 'The keys are orthogonal before the feature map and not after it, so values may be lost before there are as many pairs.'

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
    const fits = roomOf(capacity)
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
        marks: fits !== undefined && features <= most ? [{ at: features, word: `d_dot = ${features}` }] : [],
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
        `${features} features. ${fits ?? lostOf(capacity)} ${pairs.length} memories of each rule, in ${Math.round(milliseconds)} ms.`,
      ),
    )
  }
}
