/** The list of claims: finds, checks one or all that are shown, on as many workers as the machine has cores to spare. */

import { LinkError } from '../scripts/packed.ts'
import { checked, type Place, Stopped } from './checker.ts'
import { claimHash, claimIn } from './link.ts'
import type { Message, Settings } from './protocol.ts'
import { problem, put, taken } from './settings.ts'
import { ClaimView } from './view.ts'
import { counted, power } from './words.ts'

const get = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!
const [filter, which] = [get<HTMLInputElement>('filter'), get<HTMLSelectElement>('which')]
const [runButton, stopButton, summary] = [get<HTMLButtonElement>('run'), get<HTMLButtonElement>('stop'), get('summary')]
const articles = [...document.querySelectorAll<HTMLElement>('article.claim')]
const sections = [...document.querySelectorAll<HTMLDetailsElement>('details.section')]

// --- Finding --------------------------------------------------------------------------------------------------------------------------

const texts = new Map(
  articles.map((article) => [article, `${article.closest('details')!.dataset.section} ${article.textContent}`.toLowerCase()]),
)

const kinds: Record<string, (article: HTMLElement) => boolean> = {
  '': () => true,
  true: ({ dataset }) => dataset.false === undefined,
  false: ({ dataset }) => dataset.false !== undefined,
  bad: ({ dataset }) => dataset.status === 'bad',
  done: ({ dataset }) => dataset.status !== undefined,
}

function show(): void {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean)
  for (const article of articles)
    article.hidden = !(words.every((word) => texts.get(article)!.includes(word)) && kinds[which.value](article))
  for (const section of sections) {
    const inside = [...section.querySelectorAll<HTMLElement>('article.claim')]
    const found = inside.filter(({ hidden }) => !hidden).length
    section.hidden = found === 0
    section.querySelector('.count')!.textContent =
      found === inside.length ? counted(found, 'claim') : `${found} of ${counted(inside.length, 'claim')}`
    if (words.length > 0 || which.value !== '') section.open = found > 0
  }
  const found = articles.filter(({ hidden }) => !hidden).length
  if (!controller) summary.textContent = found === 0 ? 'No claim has all of these words.' : `${counted(found, 'claim')} shown`
  runButton.disabled = found === 0
}

// --- Checking -------------------------------------------------------------------------------------------------------------------------

/** Of silence; a GPU that a CPU imitates compiles for long. */
const limit = 60_000

let controller: AbortController | undefined

class Crew implements Place {
  hear: (message: Message) => void = () => {}
  private readonly worker = new Worker(new URL('./claims-worker.js', import.meta.url), { type: 'module' })
  closed = false

  constructor() {
    this.worker.onmessage = ({ data }) => this.hear(data)
    this.worker.onerror = ({ message }) => {
      // It isn't used again.
      this.close()
      this.hear({ kind: 'failure', message: message || "the worker didn't start" })
    }
  }
  send = (job: object): void => this.worker.postMessage(job)
  close(): void {
    this.closed = true
    this.worker.terminate()
  }
}

/** Workers wait for the next check: the library is loaded, and kernels are compiled, once. */
const idle: Crew[] = []

async function check(queue: HTMLElement[], settings: Settings, path?: string): Promise<void> {
  controller?.abort()
  const mine = (controller = new AbortController())
  problem()
  stopButton.disabled = false
  const totals = { done: 0, ok: 0, largest: 0, all: queue.length }
  const say = (end = ''): void => {
    const bad = totals.done - totals.ok
    summary.textContent = `${totals.done} of ${counted(totals.all, 'claim')}: ${totals.ok} as stated${bad > 0 ? `, ${bad} not` : ''}; largest error ${power(totals.largest)}${end}`
  }
  say()
  const work = async (): Promise<void> => {
    let crew: Crew | undefined
    for (let article = queue.shift(); article && !mine.signal.aborted; article = queue.shift()) {
      crew = crew && !crew.closed ? crew : (idle.pop() ?? new Crew())
      const { name, bounds, bits } = article.dataset
      const view = new ClaimView(article, bounds!.split(' ').map(Number) as [number, number], bits !== undefined, settings)
      try {
        const verdict = await checked(crew, { ...settings, claim: name!, path }, limit, mine.signal, (message) => view.hear(message))
        view.end(verdict)
        // With the place of a counterexample, where there is one.
        article.dataset.link = claimHash({ claim: name, ...settings, path: verdict.path })
        totals.done++
        if (verdict.ok) totals.ok++
        if (verdict.status === 'holds') totals.largest = Math.max(totals.largest, Number(verdict.error) || 0)
        say()
      } catch (error) {
        view.stop((error as Error).message)
        if (error instanceof Stopped) break
        // What one claim can't be checked on, the others can't.
        queue.length = 0
        mine.abort()
        problem(`${settings.device}: ${(error as Error).message}`)
      }
    }
    if (crew && !crew.closed) idle.push(crew)
  }
  // One for the page itself; who has a GPU has one.
  const most = settings.device === 'webgpu' ? 1 : Math.min(4, Math.max(1, navigator.hardwareConcurrency - 1))
  await Promise.all(Array.from({ length: Math.min(most, queue.length) }, work))
  if (controller !== mine) return
  controller = undefined
  stopButton.disabled = true
  say(mine.signal.aborted ? '; stopped' : '')
}

// --- What is used ---------------------------------------------------------------------------------------------------------------------

filter.addEventListener('input', show)
which.addEventListener('change', show)
runButton.addEventListener('click', () => {
  const settings = taken()
  if (settings)
    void check(
      articles.filter(({ hidden }) => !hidden),
      settings,
    )
})
stopButton.addEventListener('click', () => controller?.abort())

/** Of a link: the place of a counterexample among the cases of that claim, which the next check of it takes alone. */
let linked: { name: string; path: string } | undefined

document.querySelector('#claims')!.addEventListener('click', (event) => {
  const article = (event.target as Element).closest<HTMLElement>('article.claim')
  if (!article) return
  if ((event.target as Element).closest('button.run')) {
    const settings = taken()
    const { name } = article.dataset
    const path = linked?.name === name ? linked?.path : undefined
    linked = undefined
    if (settings) void check([article], settings, path)
  }
  if ((event.target as Element).closest('a.link')) {
    const settings = taken()
    if (!settings) return
    event.preventDefault()
    const plain = claimHash({ claim: article.dataset.name, ...settings })
    // The place of a counterexample is one among the cases of these settings alone.
    const { link } = article.dataset
    history.replaceState(null, '', link?.startsWith(`${plain}&`) ? link : plain)
    void navigator.clipboard?.writeText(location.href).catch(() => {})
    summary.textContent = 'The address of this page is now a link to that claim.'
  }
})

/** Shows what the address names. */
function follow(): void {
  problem()
  for (const former of document.querySelectorAll('article.target')) former.classList.remove('target')
  try {
    const link = claimIn(location.hash)
    const id = location.hash.slice(1)
    const article = link ? articles.find(({ dataset }) => dataset.name === link.claim) : articles.find((one) => one.id === id)
    if (link?.claim !== undefined && !article)
      throw new LinkError(`There is no claim ${JSON.stringify(link.claim.slice(0, 100))} on this page.`)
    if (link) put(link)
    linked = link?.claim !== undefined && link.path !== undefined ? { name: link.claim, path: link.path } : undefined
    if (!article) return
    if (article.hidden) {
      filter.value = which.value = ''
      show()
    }
    article.closest('details')!.open = true
    article.scrollIntoView()
    article.classList.add('target')
    article.querySelector<HTMLElement>('button.run')!.focus({ preventScroll: true })
  } catch (error) {
    if (!(error instanceof LinkError)) throw error
    problem(error.message)
  }
}
addEventListener('hashchange', follow)
show()
follow()
