/** What runs in the page of `fastweights inspect`; bundle.mjs makes it one file, dist/browser/inspect.js. Tests: test/browser/inspect.test.ts. */
import type { Inspection, Layer } from './data.ts'
import { overwritings } from './data.ts'
import { glyph, type Picture } from './draw.ts'
import { unpack } from './pack.ts'
import { context, pairRows, type Scene, seen, story, told, views } from './views.ts'

const element = <E extends Element = HTMLElement>(id: string): E => document.getElementById(id) as unknown as E
const content = (id: string): string => element(id).textContent!

async function inflated(base64: string): Promise<Uint8Array> {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

/** A new element with its attributes, and what is in it. */
function make(name: string, attributes: Record<string, string> = {}, ...children: (Node | string)[]): HTMLElement {
  const made = document.createElement(name)
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value)
  made.append(...children)
  return made
}

/** Several matrices share a line where there is room. */
function widthFor(pictures: number, whole: number): number {
  if (pictures < 2) return Math.min(whole, 660)
  const columns = Math.max(1, Math.floor((whole + 32) / (320 + 32)))
  return Math.floor((whole - 32 * (columns - 1)) / columns)
}

/** A token after the characters before it. */
const marked = (tokens: readonly string[], t: number): HTMLElement =>
  make('code', {}, make('small', {}, context(tokens, t - 1, t === 0 ? 0 : 8)), make('b', {}, glyph(tokens[t])))

/** What a layer has not, by why. */
function missing(layer: Layer): HTMLElement[] {
  const reasons = new Map<string, string[]>()
  const extra = [
    { heading: 'Overwritten', needs: 'recall' },
    { heading: 'Pairs written so far', needs: 'recall' },
  ]
  for (const { heading, needs } of [...views, ...extra]) {
    const why = layer.missing[needs]
    if (why !== undefined) reasons.set(why, [...(reasons.get(why) ?? []), heading])
  }
  return [...reasons].map(([why, headings]) => make('p', { class: 'how' }, make('b', {}, `${headings.join('; ')}: `), `${why}.`))
}

class Page {
  private token = 0
  private layer = 0
  private head = 0
  private playing: ReturnType<typeof setInterval> | undefined
  private readonly slider = element<HTMLInputElement>('token')
  private readonly selects = { layer: element<HTMLSelectElement>('layer'), head: element<HTMLSelectElement>('head') }
  private readonly characters: HTMLElement[]
  /** The layers of drawn pictures, by name. */
  private readonly drawn = new Map<string, { figure: HTMLElement; svg: SVGElement; base: string }>()

  constructor(
    private readonly data: Inspection,
    open: { layer: number; head: number; token: number },
  ) {
    const { layers, tokens } = data
    this.selects.layer.append(...layers.map(({ number, mixer }, i) => new Option(`${number}: ${mixer}`, `${i}`)))
    this.characters = tokens.map((character, t) => {
      const span = make('span', {}, character === ' ' ? ' ' : glyph(character))
      span.addEventListener('click', () => this.go(t))
      return span
    })
    element('prompt').append(...this.characters)
    this.layer = open.layer
    this.chooseLayer(open.head)
    this.selects.layer.addEventListener('change', () => {
      this.layer = Number(this.selects.layer.value)
      this.chooseLayer(this.head)
      this.show()
    })
    this.selects.head.addEventListener('change', () => {
      this.head = Number(this.selects.head.value)
      this.show()
    })
    this.slider.addEventListener('input', () => this.go(Number(this.slider.value) - 1))
    this.slider.addEventListener('keydown', () => this.stop())
    this.slider.addEventListener('pointerdown', () => this.stop())
    element('play').addEventListener('click', () => (this.playing === undefined ? this.play() : this.stop()))
    // Nothing moves by itself for who doesn't want it.
    const still = matchMedia('(prefers-reduced-motion: reduce)')
    const calm = (): void => {
      element('play').hidden = still.matches
      if (still.matches) this.stop()
    }
    still.addEventListener('change', calm)
    calm()
    let width = 0
    new ResizeObserver(() => {
      if (innerWidth === width) return
      width = innerWidth
      this.show()
    }).observe(document.documentElement)
    this.go(open.token)
  }

  private chooseLayer(head: number): void {
    const { heads } = this.data.layers[this.layer]
    this.head = Math.min(head, heads.length - 1)
    this.selects.layer.value = `${this.layer}`
    this.selects.head.replaceChildren(...heads.map(({ number }, i) => new Option(`${number}`, `${i}`)))
    this.selects.head.value = `${this.head}`
  }

  go(token: number): void {
    this.token = token
    this.slider.value = `${token + 1}`
    this.show()
  }

  private play(): void {
    const last = this.data.tokens.length - 1
    if (this.token === last) this.go(0)
    element('play').textContent = 'Pause'
    element('play').setAttribute('aria-pressed', 'true')
    this.playing = setInterval(() => (this.token < last ? this.go(this.token + 1) : this.stop()), 350)
  }

  private stop(): void {
    clearInterval(this.playing)
    this.playing = undefined
    element('play').textContent = 'Play'
    element('play').setAttribute('aria-pressed', 'false')
  }

  private show(): void {
    const { data, token } = this
    const { tokens } = data
    const layer = data.layers[this.layer]
    const head = layer.heads[this.head]
    const place = `${token + 1} of ${tokens.length}: ${seen(tokens, token)}`
    element('place').textContent = place
    this.slider.setAttribute('aria-valuetext', place)
    const scene = { data, layer, head, token }
    element('story').textContent = story({ ...scene, width: 0 })
    this.shade(scene)
    for (const view of views) {
      const section = element(`view-${view.name}`)
      const body = section.querySelector<HTMLElement>('.body')!
      const why = layer.missing[view.needs]
      const matrices = view.name === 'state' ? Object.keys(head.states).length : 1
      section.hidden = false
      section.classList.toggle('wide', matrices > 1)
      const pictures = why === undefined ? view.draw({ ...scene, width: widthFor(matrices, body.clientWidth) }) : []
      section.hidden = pictures.length === 0
      if (pictures.length > 0) this.draw(body, pictures)
    }
    const pairwise = head.recall !== undefined
    for (const name of ['overwritten', 'pairs']) element(`view-${name}`).hidden = !pairwise
    element('view-missing').hidden = Object.keys(layer.missing).length === 0
    element('view-missing')
      .querySelector('.body')!
      .replaceChildren(...missing(layer))
    if (!pairwise) return
    const body = (name: string): HTMLElement => element(`view-${name}`).querySelector<HTMLElement>('.body')!
    body('overwritten').replaceChildren(this.overwritten(scene))
    const scrolled = body('pairs').firstElementChild?.scrollTop ?? 0
    const pairs = this.pairs(scene)
    body('pairs').replaceChildren(pairs)
    pairs.scrollTop = scrolled
  }

  private draw(body: HTMLElement, pictures: readonly Picture[]): void {
    const names = pictures.map(({ name }) => name)
    const there = [...body.children].map((child) => (child as HTMLElement).dataset.name)
    if (names.join() !== there.join()) {
      body.replaceChildren(
        ...pictures.map(({ name }) => {
          const figure = make('figure', { 'data-name': name })
          figure.innerHTML = `<svg class="picture" id="picture-${name}" role="img"><g></g><g></g></svg><figcaption class="words"></figcaption>`
          this.drawn.set(name, { figure, svg: figure.querySelector('svg')!, base: '' })
          return figure
        }),
      )
    }
    for (const { name, title, words, width, height, base, now } of pictures) {
      const drawn = this.drawn.get(name)!
      const { svg, figure } = drawn
      svg.setAttribute('viewBox', `0 0 ${width} ${Math.ceil(height)}`)
      svg.setAttribute('width', `${width}`)
      svg.setAttribute('height', `${Math.ceil(height)}`)
      svg.setAttribute('aria-label', `${title}. ${words}`)
      if (drawn.base !== base) svg.children[0].innerHTML = drawn.base = base
      svg.children[1].innerHTML = now
      figure.querySelector('figcaption')!.textContent = words
    }
  }

  /** The prompt by what the token reads from, or without. */
  private shade({ head: { attention }, token }: Omit<Scene, 'width'>): void {
    const T = this.characters.length
    const weights = attention ? Array.from({ length: T }, (_, s) => attention.values[token * T + s]) : []
    const most = Math.max(1e-9, ...weights.map(Math.abs).filter(Number.isFinite))
    this.characters.forEach((span, s) => {
      span.className = s === token ? 'now' : s > token ? 'later' : ''
      span.style.setProperty('--part', `${Math.abs(weights[s] || 0) / most}`)
      span.style.setProperty('--tone', weights[s] < 0 ? 'var(--minus)' : 'var(--plus)')
    })
    // Where the prompt scrolls; nothing else does.
    const prompt = element('prompt')
    const at = this.characters[token].offsetTop - prompt.offsetTop
    if (at < prompt.scrollTop || at > prompt.scrollTop + prompt.clientHeight - 24) prompt.scrollTop = at - 24
  }

  private overwritten({ head }: Omit<Scene, 'width'>): HTMLElement {
    const { tokens } = this.data
    const found = overwritings(head).slice(0, 6)
    if (found.length === 0)
      return make(
        'p',
        { class: 'how' },
        'No pair of this head that was held is overwritten by a key like its own; another head may have one.',
      )
    const list = found.map(({ pair, by, from, to }) => {
      const place = (t: number): HTMLElement => marked(tokens, t)
      const button = make(
        'button',
        { type: 'button', 'aria-current': `${by === this.token}` },
        place(pair),
        ' by ',
        place(by),
        make('br'),
        make('small', {}, `token ${pair + 1} by ${by + 1}: ${from.toFixed(2)} → ${to.toFixed(2).replace('-', '−')}`),
      )
      button.setAttribute(
        'aria-label',
        `The pair of ${told(tokens, pair)} is overwritten by ${told(tokens, by)}: from ${from.toFixed(2)} to ${to.toFixed(2)}. Go there.`,
      )
      button.addEventListener('click', () => {
        this.stop()
        this.go(by)
        element('view-overwritten').querySelectorAll<HTMLElement>('button')[found.findIndex((each) => each.pair === pair)]?.focus()
      })
      return make('li', {}, button)
    })
    return make('ul', { class: 'events' }, ...list)
  }

  private pairs({ head, token }: Omit<Scene, 'width'>): HTMLElement {
    const { tokens } = this.data
    const cosine = (x: number): string => (Number.isFinite(x) ? x.toFixed(2).replace('-', '−') : '–')
    const rows = pairRows(head, token).map(({ token: s, written, now, by }) =>
      make(
        'tr',
        s === token ? { class: 'now' } : {},
        make('th', { scope: 'row' }, `${s + 1}`),
        make('td', {}, marked(tokens, s)),
        make('td', {}, cosine(written)),
        make(
          'td',
          { class: 'held', style: `--part:${Math.min(1, Math.abs(now) || 0)};--tone:var(--${now < 0 ? 'minus' : 'plus'})` },
          cosine(now),
        ),
        make('td', {}, ...(by === undefined ? ['–'] : [marked(tokens, by), ` (${by + 1})`])),
      ),
    )
    const heads = ['token', 'written by', 'then', `after token ${token + 1}`, 'lost most to'].map((name) =>
      make('th', { scope: 'col' }, name),
    )
    const scroll = make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Pairs written so far' })
    scroll.append(make('table', {}, make('thead', {}, make('tr', {}, ...heads)), make('tbody', {}, ...rows.reverse())))
    return scroll
  }
}

inflated(content('grids')).then((bytes) => new Page(unpack(content('numbers'), bytes), JSON.parse(content('open'))))
