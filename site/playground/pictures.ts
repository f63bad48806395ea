/** Pictures of the command's inspect in a page: what stays while the token changes is drawn once, and each in a turn of its own. */
import type { Picture } from '../../dist/cli/inspect/draw.js'
import { make } from './dom.ts'

const svgName = 'http://www.w3.org/2000/svg'

interface Drawn {
  figure: HTMLElement
  svg: SVGElement
  base: string
}

/** A picture and the name of its place. */
export interface Entry {
  name: string
  draw: () => Picture
}

export class Pictures {
  private readonly drawn = new Map<string, Drawn>()
  private line: Entry[] = []
  private busy = false

  constructor(private readonly place: HTMLElement) {}

  /** These pictures, in this order, and no others; a newer call takes the place of one that isn't done. */
  show(pictures: readonly Entry[]): void {
    for (const [name, { figure }] of this.drawn)
      if (!pictures.some((picture) => picture.name === name)) {
        figure.remove()
        this.drawn.delete(name)
      }
    this.line = [...pictures]
    if (this.busy) return
    this.busy = true
    setTimeout(() => this.next())
  }

  private next(): void {
    const entry = this.line.shift()
    this.busy = entry !== undefined
    if (!entry) return
    this.put(entry.name, entry.draw())
    setTimeout(() => this.next())
  }

  private put(name: string, { title, words, width, height, base, now }: Picture): void {
    let there = this.drawn.get(name)
    if (!there) {
      const svg = document.createElementNS(svgName, 'svg')
      svg.setAttribute('class', 'picture')
      svg.setAttribute('role', 'img')
      svg.append(document.createElementNS(svgName, 'g'), document.createElementNS(svgName, 'g'))
      const figure = make(
        'figure',
        { id: `picture-${name}` },
        make('p', { class: 'picture-title' }),
        svg,
        make('figcaption', { class: 'how' }),
      )
      there = { figure, svg, base: '' }
      this.drawn.set(name, there)
      this.place.append(figure)
    }
    const { figure, svg } = there
    // Words below it are no wider than it is.
    figure.style.width = `${width}px`
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`)
    svg.setAttribute('width', `${width}`)
    svg.setAttribute('height', `${height}`)
    svg.setAttribute('aria-label', `${title}. ${words}`)
    if (base !== there.base) svg.children[0].innerHTML = base
    there.base = base
    svg.children[1].innerHTML = now
    figure.querySelector('.picture-title')!.textContent = title
    figure.querySelector('figcaption')!.textContent = words
  }
}
