/** The memory of one head, token by token: what was there, what is written, what is there then, and what is read. */
import type { Inspection, Layer } from '../../dist/cli/inspect/data.js'
import { bars, glyph, map, number, type Picture } from '../../dist/cli/inspect/draw.js'
import { type Scene, sources, story, told, views } from '../../dist/cli/inspect/views.js'
import { element, fill, make, tell } from './dom.ts'
import type { Memory, TraceRequest } from './messages.ts'
import { type Entry, Pictures } from './pictures.ts'

/** Of the command's pictures those that follow the matrices, in order. */
const shown = ['recall', 'retrieval', 'attention', 'similarity', 'gates']
/** Milliseconds between two looks at a model that trains. */
const refreshed = 3000

const norm = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, x) => sum + x * x, 0))
const largest = (values: ArrayLike<number>): number => {
  let most = 0
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]))
  return most
}

/** A matrix before a token, after it, and what the token has changed. */
function writes({ seen, part }: Memory, t: number) {
  const { shape, values } = seen.states[part!]
  const [, rows, columns] = shape
  const size = rows * columns
  const after = Float64Array.from({ length: size }, (_, i) => values[t * size + i])
  const before = Float64Array.from({ length: size }, (_, i) => (t === 0 ? 0 : values[(t - 1) * size + i]))
  return { rows, columns, before, after, change: after.map((x, i) => x - before[i]) }
}

/** S^T k: [V]. */
const retrieved = (S: Float64Array, key: ArrayLike<number>, columns: number): Float64Array =>
  Float64Array.from({ length: columns }, (_, c) => {
    let sum = 0
    for (let r = 0; r < key.length; r++) sum += S[r * columns + c] * key[r]
    return sum
  })

/** How like the keys of earlier tokens this one's is. */
function alike({ data: { tokens }, head: { similarity }, token, width }: Scene): Picture {
  const T = tokens.length
  const values = Array.from({ length: T }, (_, s) => (s < token ? similarity!.values[token * T + s] : 0))
  const nearest = values.indexOf(Math.max(...values.slice(0, token)))
  return bars({
    name: 'alike',
    title: 'This key beside all earlier ones',
    words:
      token === 0 ? 'It is the first.' : `It is most like that of ${told(tokens, nearest)}: a cosine of ${values[nearest].toFixed(2)}.`,
    width,
    values,
    columnNames: tokens,
    below: 'key',
    token,
  })
}

export class MemoryView {
  private memory: Memory | undefined
  private token = 0
  private waiting = false
  private asked = 0
  private seen = false
  private names: readonly string[] = []
  private characters: HTMLElement[] = []
  private readonly request: TraceRequest = { prompt: '', racer: 0, layer: 0, head: 0, rule: 'own' }
  private readonly slider = element<HTMLInputElement>('token')
  private readonly matrices = new Pictures(element('matrices'))
  private readonly others = new Pictures(element('views'))
  /** The largest number of all matrices, and of all changes. */
  private scales = { state: 1, change: 1 }

  constructor(
    private readonly send: (request: TraceRequest) => void,
    private readonly chosen: (layer: number, head: number) => void,
  ) {
    for (const name of ['racer', 'layer', 'head'] as const)
      element<HTMLSelectElement>(name).addEventListener('change', ({ currentTarget }) => {
        this.request[name] = Number((currentTarget as HTMLSelectElement).value)
        this.chosen(this.request.layer, this.request.head)
        this.look()
      })
    element<HTMLInputElement>('prompt').addEventListener('input', ({ currentTarget }) => {
      this.request.prompt = (currentTarget as HTMLInputElement).value
      this.look()
    })
    this.slider.addEventListener('input', () => this.go(Number(this.slider.value) - 1))
    const tokens = element('tokens')
    const over = ({ target }: Event): void => {
      const at = this.characters.indexOf(target as HTMLElement)
      if (at >= 0 && at !== this.token) this.go(at)
    }
    tokens.addEventListener('click', over)
    tokens.addEventListener('pointermove', (event) => {
      if (event.pointerType === 'mouse') over(event)
    })
    new IntersectionObserver(([{ isIntersecting }]) => {
      this.seen = isIntersecting
      if (this.seen) this.look()
    }).observe(document.querySelector('.memory')!)
    new ResizeObserver(() => this.draw()).observe(element('matrices'))
  }

  /** Where to look, from 0. */
  choose(layer: number, head: number): void {
    Object.assign(this.request, { layer, head })
  }

  /** New models. */
  configured(names: readonly string[], prompt: string): void {
    this.names = names
    Object.assign(this.request, { prompt: '', racer: Math.min(this.request.racer, names.length - 1), rule: 'own' })
    const field = element<HTMLInputElement>('prompt')
    field.value = prompt
    // A task has its own.
    element('prompted').hidden = prompt === ''
    this.waiting = false
    tell('memory-problem', '')
    if (this.seen) this.look()
  }

  /** The model has trained on. */
  stepped(): void {
    if (this.seen && !this.waiting && performance.now() - this.asked > refreshed) this.look()
  }

  private look(): void {
    this.waiting = true
    this.asked = performance.now()
    this.send({ ...this.request })
  }

  show(memory: Memory): void {
    const before = this.memory
    this.waiting = false
    this.memory = memory
    tell('memory-problem', '')
    const { layers, heads, next, tokens, rules, missing, left, seen, part } = memory
    fill(
      element('racer'),
      this.names.map((name, i) => [`${i}`, name] as const),
      `${memory.racer}`,
    )
    fill(
      element('layer'),
      layers.map((name, i) => [`${i}`, `${i + 1}: ${name}`] as const),
      `${memory.layer}`,
    )
    fill(
      element('head'),
      Array.from({ length: heads }, (_, i) => [`${i}`, `${i + 1}`] as const),
      `${memory.head}`,
    )
    this.showReadings(rules)
    const guesses = next.map(([symbol, probability]) => `“${symbol === ' ' ? ' ' : glyph(symbol)}” ${Math.round(100 * probability)} %`)
    element('next').textContent = guesses.length > 0 ? `After it the model expects ${guesses.join(', ')}.` : ''
    if (before?.tokens.join() !== tokens.join()) {
      this.characters = tokens.map((character) => make('span', {}, character === ' ' ? ' ' : glyph(character)))
      element('tokens').replaceChildren(...this.characters)
      this.slider.max = `${tokens.length}`
      this.token = tokens.length - 1
    }
    const reasons = [...new Set(Object.values(missing))]
    element('memory-missing').textContent = [left, ...reasons.map((why) => `${why}.`)].filter(Boolean).join(' ')
    if (part !== undefined) {
      const { shape, values } = seen.states[part]
      const size = shape[1] * shape[2]
      let change = 0
      for (let i = 0; i < values.length; i++) change = Math.max(change, Math.abs(values[i] - (i < size ? 0 : values[i - size])))
      this.scales = { state: largest(values), change }
    }
    // In a turn of its own, so that none is long.
    setTimeout(() => this.go(Math.min(this.token, tokens.length - 1)))
  }

  /** The rule that it has learnt with, and others that its weights can be read with. */
  private showReadings(rules: readonly string[]): void {
    const place = element('readings')
    const all = rules.length === 0 ? [] : ['own', ...rules]
    if (place.childElementCount !== all.length)
      place.replaceChildren(
        ...all.map((rule) => {
          const button = make(
            'button',
            { type: 'button', 'data-rule': rule },
            rule === 'own' ? 'as it was trained' : `${rule} rule, same weights`,
          )
          button.addEventListener('click', () => {
            this.request.rule = rule
            this.look()
          })
          return button
        }),
      )
    for (const button of place.querySelectorAll('button'))
      button.setAttribute('aria-pressed', `${button.dataset.rule === this.memory!.rule}`)
  }

  private scene(): Scene {
    const memory = this.memory!
    const { seen, layers, missing, tokens } = memory
    // The other heads of the layer aren't here: pictures show this one.
    const layer: Layer = { number: memory.layer + 1, name: '', mixer: layers[memory.layer], missing: { ...missing }, heads: [seen] }
    const data: Inspection = { version: '', run: '', preset: '', tokens: [...tokens], layers: [layer], every: 1, left: '' }
    const whole = element('views').clientWidth
    const columns = Math.max(1, Math.min(3, Math.floor((whole + 24) / 404)))
    return { data, layer, head: seen, token: this.token, width: Math.floor((whole - 24 * (columns - 1)) / columns) }
  }

  private go(token: number): void {
    this.token = token
    this.slider.value = `${token + 1}`
    if (!this.memory) return
    const { tokens, seen } = this.memory
    this.slider.setAttribute('aria-valuetext', `${token + 1} of ${tokens.length}: ${told(tokens, token)}`)
    const weights = new Map(seen.attention ? sources(seen.attention, token, tokens.length).map(({ token, weight }) => [token, weight]) : [])
    const most = Math.max(1e-9, ...[...weights.values()].map(Math.abs))
    this.characters.forEach((span, t) => {
      const weight = weights.get(t) ?? 0
      span.className = [t === token ? 'now' : t > token ? 'later' : '', weight < 0 ? 'taken' : ''].join(' ').trim()
      span.style.setProperty('--part', (Math.abs(weight) / most).toFixed(2))
    })
    this.draw()
  }

  private draw(): void {
    if (!this.memory || element('views').clientWidth === 0) return
    const scene = this.scene()
    element('story').textContent = [story(scene), this.size()].filter(Boolean).join(' ')
    this.matrices.show(this.memory.part === undefined ? [] : this.matrixPictures(scene.data.tokens))
    const own = shown
      .map((name) => views.find((view) => view.name === name)!)
      .filter(({ needs }) => scene.layer.missing[needs] === undefined)
    this.others.show(
      own.flatMap((view): Entry[] => {
        if (view.name === 'gates')
          return Object.keys(scene.head.gates).map((_, i) => ({ name: `gates-${i}`, draw: () => view.draw(scene)[i] }))
        const entry = { name: view.name, draw: () => view.draw(scene)[0] }
        return view.name === 'similarity' ? [{ name: 'alike', draw: () => alike(scene) }, entry] : [entry]
      }),
    )
  }

  /** How large the write is, in words. */
  private size(): string {
    const memory = this.memory!
    if (memory.part === undefined) return ''
    const { change, columns } = writes(memory, this.token)
    const size = norm(change)
    if (!memory.keys || size === 0) return `The change has size ${number(size)}.`
    const { key, vector } = this.outer(change, columns)
    const rest = norm(change.map((x, i) => x - key[Math.floor(i / columns)] * vector[i % columns]))
    return rest / size < 0.02
      ? `What is written has size ${number(size)}: it is the outer product of the key, of length ${number(norm(key))}, and a vector of length ${number(norm(vector))}.`
      : `The change has size ${number(size)}; ${number(rest)} of it isn’t the outer product with the key, but what the rule lets go or writes beside.`
  }

  /** The key, and the vector whose outer product with it comes nearest to a change. */
  private outer(change: Float64Array, columns: number): { key: number[]; vector: Float64Array } {
    const { keys } = this.memory!
    const K = keys!.shape[1]
    const key = Array.from({ length: K }, (_, i) => keys!.values[this.token * K + i])
    const square = norm(key) ** 2 || 1
    return { key, vector: retrieved(change, key, columns).map((x) => x / square) }
  }

  private matrixPictures(tokens: readonly string[]): Entry[] {
    const memory = this.memory!
    const t = this.token
    const { part, keys, values } = memory
    const { rows, columns, before, after, change } = writes(memory, t)
    const whole = element('matrices').clientWidth
    const across = whole > 1240 ? 4 : whole > 900 ? 3 : whole > 560 ? 2 : 1
    const width = Math.min(420, Math.floor((whole - 24 * (across - 1)) / across))
    const matrix = (name: string, title: string, from: Float64Array, words: string): Picture =>
      map({
        name,
        title,
        words,
        width,
        rows,
        columns,
        at: (r, c) => from[r * columns + c],
        scale: this.scales.state,
        cell: 18,
        most: 300,
        below: part === 'S' ? 'channel of the value' : 'column',
        beside: part === 'S' ? 'channel of the key' : 'row',
        changing: true,
      })
    const list = [
      {
        name: 'before',
        draw: () =>
          matrix(
            'before',
            'The matrix before',
            before,
            `${part}, ${rows} by ${columns}, before ${told(tokens, t)}: norm ${number(norm(before))}.`,
          ),
      },
      { name: 'written', draw: () => this.written(change, rows, columns, width, tokens) },
      {
        name: 'after',
        draw: () => matrix('after', 'The matrix after', after, `Norm ${number(norm(after))}. Blue is above 0, orange below.`),
      },
    ]
    if (!keys || !values || keys.shape[1] !== rows || values.shape[1] !== columns) return list
    const key = Array.from({ length: rows }, (_, i) => keys.values[t * rows + i])
    const value = Float64Array.from({ length: columns }, (_, i) => values.values[t * columns + i])
    const lines = [value, retrieved(before, key, columns), retrieved(after, key, columns)]
    const scale = Math.max(...lines.map(largest)) || 1
    list.push({
      name: 'retrieved',
      draw: () =>
        map({
          name: 'retrieved',
          title: 'What the key retrieves',
          words: 'v is the value of this token; b what its key retrieves before the write, a after it.',
          width,
          rows: 3,
          columns,
          at: (r, c) => lines[r][c],
          scale,
          cell: 18,
          rowNames: ['v', 'b', 'a'],
          below: 'channel of the value',
          beside: '',
          changing: true,
        }),
    })
    return list
  }

  /** The change, with the key to its left and what it is multiplied by above it, where there is a key. */
  private written(change: Float64Array, rows: number, columns: number, width: number, tokens: readonly string[]): Picture {
    const { keys } = this.memory!
    const { change: scale } = this.scales
    const framed = keys !== undefined && keys.shape[1] === rows
    const { key, vector } = framed ? this.outer(change, columns) : { key: [], vector: new Float64Array(0) }
    const [keyMost, vectorMost] = [largest(key) || 1, largest(vector) || 1]
    const edge = framed ? 2 : 0
    const at = (r: number, c: number): number => {
      if (r >= edge && c >= edge) return change[(r - edge) * columns + c - edge]
      if (r === 0 && c >= edge) return (vector[c - edge] / vectorMost) * scale
      return c === 0 && r >= edge ? (key[r - edge] / keyMost) * scale : 0
    }
    return map({
      name: 'written',
      title: 'What is written',
      words: framed
        ? `The write of ${told(tokens, this.token)}, of size ${number(norm(change))}: the key, at the left, times the vector above.`
        : `The change at ${told(tokens, this.token)}, of size ${number(norm(change))}.`,
      width,
      rows: rows + edge,
      columns: columns + edge,
      at,
      scale,
      cell: 18,
      most: 300,
      // Without numbers: the first places are the key's and the vector's.
      ...(framed && { rowNames: Array(rows + edge).fill(''), columnNames: Array(columns + edge).fill('') }),
      below: 'channel of the value',
      beside: 'channel of the key',
      changing: true,
    })
  }
}
