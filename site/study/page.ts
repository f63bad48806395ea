/** What study pages do: names light up together, equations are checked on numbers, examples run. All that computes is in a worker. */
import { map, number } from '../../dist/cli/inspect/draw.js'
import type { Grid, Outcome } from './checks.ts'
import type { Example } from './examples.ts'
import type { Question } from './worker.ts'

const all = <E extends Element = HTMLElement>(selector: string, within: ParentNode = document): E[] => [
  ...within.querySelectorAll<E>(selector),
]

// ---- names -----------------------------------------------------------------------------------------------------------------------------

const tip = document.querySelector<HTMLElement>('#tip')
/** What was pressed, until something else is. */
let held: string | undefined

const buttons = all<HTMLButtonElement>('button[data-name]')

function light(name: string | undefined): void {
  for (const lit of all('[data-name].lit')) lit.classList.remove('lit')
  for (const found of name === undefined ? [] : all(`[data-name="${CSS.escape(name)}"]`)) found.classList.add('lit')
  for (const button of buttons) button.setAttribute('aria-pressed', String(button.dataset.name === held))
  if (!tip) return
  const means = buttons.find((button) => button.dataset.name === name)
  tip.hidden = means === undefined
  if (means) tip.replaceChildren(means.firstElementChild!.cloneNode(true), ` ${means.dataset.means}`)
}

const nameOf = (target: EventTarget | null): string | undefined =>
  (target instanceof Element ? target.closest('[data-name]') : null)?.getAttribute('data-name') ?? undefined

if (buttons.length > 0) {
  document.addEventListener('pointerover', ({ target, pointerType }) => pointerType === 'mouse' && light(nameOf(target) ?? held))
  document.addEventListener('focusin', ({ target }) => light(nameOf(target) ?? held))
  document.addEventListener('click', ({ target }) => {
    const name = nameOf(target)
    if (name === undefined && target instanceof Element && target.closest('a, button')) return
    held = name === held ? undefined : name
    light(held)
  })
  document.addEventListener('keydown', ({ key }) => {
    if (key !== 'Escape') return
    held = undefined
    light(undefined)
  })
}

// ---- the worker ------------------------------------------------------------------------------------------------------------------------

let worker: Worker | undefined
let asked = 0
const waiting = new Map<number, { resolve: (answer: never) => void; reject: (error: Error) => void }>()

/** Asks the worker, which starts with the first question. */
function ask<A>(question: { check: string; seed: number } | { example: string; seed: number }): Promise<A> {
  if (!worker) {
    worker = new Worker(new URL('./study-worker.js', import.meta.url), { type: 'module' })
    worker.addEventListener('message', ({ data: { id, answer, error } }) => {
      const { resolve, reject } = waiting.get(id)!
      waiting.delete(id)
      if (error === undefined) resolve(answer as never)
      else reject(new Error(error))
    })
    worker.addEventListener('error', ({ message }) => {
      // The next question starts another.
      worker?.terminate()
      worker = undefined
      for (const { reject } of waiting.values()) reject(new Error(message || 'the worker could not be loaded'))
      waiting.clear()
    })
  }
  const id = asked++
  return new Promise<A>((resolve, reject) => {
    waiting.set(id, { resolve, reject })
    worker!.postMessage({ id, ...question } as Question)
  })
}

// ---- checks ----------------------------------------------------------------------------------------------------------------------------

const element = (tag: string, text = '', style = ''): HTMLElement => {
  const made = document.createElement(tag)
  made.textContent = text
  if (style) made.className = style
  return made
}

/** A matrix of numbers, as a table in brackets. */
function matrix({ shape: [rows, columns], values }: Grid, label: string): HTMLElement {
  const table = element('table', '', 'matrix')
  const digits = values.every(Number.isInteger) ? 0 : 3
  table.setAttribute('aria-label', label)
  for (let i = 0; i < rows; i++) {
    const row = element('tr')
    for (let j = 0; j < columns; j++) row.append(element('td', values[i * columns + j].toFixed(digits).replace('-', '−')))
    table.append(row)
  }
  return table
}

const power = (x: number): string => (x === 0 ? '0' : x.toExponential(1).replace('-', '−'))

async function runCheck(button: HTMLButtonElement): Promise<boolean> {
  const place = button.nextElementSibling as HTMLElement
  const seed = Number(button.dataset.seed ?? 0) + 1
  button.dataset.seed = String(seed)
  try {
    const { left, right, error, bound, holds } = await ask<Outcome>({ check: button.dataset.check!, seed })
    const verdict = element('p', holds ? 'Holds' : 'Does not hold', holds ? 'verdict holds' : 'verdict fails')
    verdict.append(`: the largest difference is ${power(error)}, the bound ${power(bound)}. Numbers of seed ${seed}.`)
    const sides = element('div', '', 'sides')
    sides.append(matrix(left, 'the left side'), element('span', holds ? '=' : '≠'), matrix(right, 'the right side'))
    place.replaceChildren(sides, verdict)
    place.dataset.holds = String(holds)
    button.textContent = 'On other numbers'
    return holds
  } catch (error) {
    place.replaceChildren(element('p', `The check could not run: ${(error as Error).message}`, 'verdict fails'))
    place.dataset.holds = 'false'
    return false
  }
}

const checks = all<HTMLButtonElement>('button[data-check]')
for (const button of checks) button.addEventListener('click', () => void runCheck(button))

document.querySelector('#check-all')?.addEventListener('click', async () => {
  const status = document.querySelector('#checked')!
  const results = await Promise.all(checks.map(runCheck))
  const held = results.filter(Boolean).length
  status.textContent = held === results.length ? `All ${held} hold.` : `${results.length - held} of ${results.length} do not hold.`
})

// ---- examples --------------------------------------------------------------------------------------------------------------------------

const picture = (name: string, words: string, grid: Grid, scale: number, below: string, beside: string): string => {
  const [rows, columns] = grid.shape
  const drawn = map({
    name,
    title: name,
    words,
    // The legend above is wider than a few columns.
    width: Math.max(260, 62 + columns * 24),
    rows,
    columns,
    at: (i, j) => grid.values[i * columns + j],
    scale,
    cell: 24,
    most: 24 * rows,
    below,
    beside,
  })
  return `<figure><figcaption><code>${name}</code></figcaption><svg class="picture" role="img" aria-label="${words.replaceAll('"', '&quot;')}" width="${drawn.width}" height="${drawn.height}" viewBox="0 0 ${drawn.width} ${drawn.height}">${drawn.base}${drawn.now}</svg></figure>`
}

const largest = (grids: readonly Grid[]): number =>
  Math.max(1e-30, ...grids.flatMap(({ values }) => values.filter(Number.isFinite).map(Math.abs)))

function example(root: HTMLElement): void {
  const name = root.dataset.example!
  const [kind] = name.split(' ')
  const slider = root.querySelector<HTMLInputElement>('input')
  const [pictures, said] = [root.querySelector<HTMLElement>('.pictures')!, root.querySelector<HTMLElement>('.said')!]
  let shown: Example | undefined
  let seed = 1

  const draw = (): void => {
    if (!shown) return
    const t = slider ? Number(slider.value) : shown.tokens
    const when = t === 0 ? 'before the first token' : `after token ${t}`
    const parts = Object.entries(shown.parts).map(([part, grids]) =>
      picture(part, `${part}, ${when}: ${grids[t].values.map(number).join(', ')}`, grids[t], largest(grids), 'columns', 'rows'),
    )
    const whole =
      kind === 'mixer'
        ? picture(
            'how far an output moves',
            `how far output t, in rows, moves with input s, in columns; nothing above the diagonal`,
            shown.y,
            largest([shown.y]),
            'input s',
            'output t',
          )
        : picture(
            'y',
            'what is read at each token',
            { shape: shown.y.shape, values: shown.y.values.map((x, i) => (i < t * shown!.y.shape[1] ? x : 0)) },
            largest([shown.y]),
            'channel',
            'token',
          )
    pictures.innerHTML = [...parts, whole].join('')
    const label = root.querySelector('output')
    if (label) label.textContent = when
  }

  const run = async (): Promise<void> => {
    try {
      shown = await ask<Example>({ example: name, seed })
      draw()
      said.textContent = shown.agreements.map(({ what, error }) => `${what}: ${power(error)}`).join(' · ')
      root.dataset.done = String(seed)
    } catch (error) {
      said.textContent = `The example could not run: ${(error as Error).message}`
    }
  }
  slider?.addEventListener('input', draw)
  root.querySelector('button')!.addEventListener('click', () => {
    seed++
    void run()
  })
  // When it comes into view.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return
    observer.disconnect()
    void run()
  }).observe(root)
}

for (const root of all('[data-example]')) example(root)
