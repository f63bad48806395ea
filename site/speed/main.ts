/** The speed page: a device after the other in a worker of its own, a table that fills, and a link. */
import { LinkError } from '../scripts/packed.ts'
import {
  type FromWorker,
  type Measure,
  measureNames,
  type Result,
  type Row,
  resultHash,
  resultIn,
  type Subject,
  subjects,
} from './protocol.ts'

const get = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!
const [runButton, stopButton, linkButton] = (['run', 'stop', 'link'] as const).map((id) => get<HTMLButtonElement>(id))
const [status, problem] = [get('status'), get('problem')]

/** What the page says of each measure itself. */
const labels = new Map([...document.querySelectorAll<HTMLElement>('dt[data-measure]')].map((dt) => [dt.dataset.measure, dt]))
const names: Record<Subject, string> = {
  wasm: 'wasm, one thread',
  'wasm threads': 'wasm, all threads',
  webgpu: 'WebGPU',
  reference: 'reference',
}

function complain(text = ''): void {
  problem.textContent = text
  problem.hidden = text === ''
}

// --- A table --------------------------------------------------------------------------------------------------------------------------

const rounded = (x: number): string => Number(x.toPrecision(3)).toLocaleString('en', { maximumSignificantDigits: 3 })

/** A row a measure, a column a device; a bar beside each number, as long as it is of the row's largest. */
function show(section: HTMLElement, { machine, rows }: Result): void {
  const make = (tag: string, text = ''): HTMLElement => {
    const made = document.createElement(tag)
    made.textContent = text
    return made
  }
  const table = make('table')
  const head = make('tr')
  head.append(make('td'))
  for (const { subject, description } of rows) {
    const th = make('th', names[subject])
    th.setAttribute('scope', 'col')
    th.append(make('small', description))
    head.append(th)
  }
  const body = make('tbody')
  for (const measure of measureNames) {
    const label = labels.get(measure)!
    const row = make('tr')
    const th = make('th', label.textContent!)
    th.setAttribute('scope', 'row')
    th.append(make('small', label.dataset.unit))
    row.append(th)
    const largest = Math.max(...rows.map(({ values }) => values[measure] ?? 0))
    for (const { values } of rows) {
      const value = values[measure]
      const cell = make('td', value === undefined ? '' : rounded(value))
      if (value !== undefined) {
        const bar = make('span')
        bar.className = 'bar'
        bar.style.width = `${Math.max(1, (100 * value) / largest)}%`
        cell.append(bar)
      }
      row.append(cell)
    }
    body.append(row)
  }
  const thead = make('thead')
  thead.append(head)
  table.append(thead, body)
  section.querySelector('.machine')!.textContent = machine
  section.querySelector('.scroll')!.replaceChildren(table)
  section.hidden = false
}

// --- Measuring ------------------------------------------------------------------------------------------------------------------------

/** Of silence: a GPU that a processor imitates compiles for long. */
const limit = 120_000

let stop: (() => void) | undefined
let result: Result | undefined

/** The browser's own words for itself, without what sites are told about their readers beyond that. */
function machineOf(): string {
  const brands = (navigator as { userAgentData?: { brands: { brand: string; version: string }[]; platform: string } }).userAgentData
  const real = brands?.brands.filter(({ brand }) => !/not.?a.?brand/i.test(brand)).at(-1)
  const browser = real
    ? `${real.brand} ${real.version}`
    : (/(Firefox|Version|Chrome)\/\d+/.exec(navigator.userAgent)?.[0].replace('/', ' ') ?? 'a browser')
  const system = brands?.platform || (/\(([^;)]*)/.exec(navigator.userAgent)?.[1] ?? '')
  return `${[browser, system].filter(Boolean).join(', ')}, ${navigator.hardwareConcurrency} cores, ${crossOriginIsolated ? 'isolated: threads' : 'not isolated: one thread'}`
}

/** A device's row as it grows; resolves to why it ended before its end, if it did. */
function measure(subject: Subject, grown: (row: Row) => void): Promise<string | undefined> {
  return new Promise((resolve) => {
    const worker = new Worker(new URL('./speed-worker.js', import.meta.url), { type: 'module' })
    let row: Row = { subject, description: '', values: {} }
    const end = (why?: string): void => {
      clearTimeout(timer)
      worker.terminate()
      resolve(why)
    }
    let timer = setTimeout(end, limit, 'it took too long')
    stop = () => end('stopped')
    worker.onerror = ({ message }) => end(message || "the worker didn't start")
    worker.onmessage = ({ data }: { data: FromWorker }) => {
      clearTimeout(timer)
      timer = setTimeout(end, limit, 'it took too long')
      if (data.kind === 'failed') return end(data.message)
      if (data.kind === 'done') return end()
      row =
        data.kind === 'opened'
          ? { ...row, description: data.description }
          : { ...row, values: { ...row.values, [data.measure]: data.value } }
      grown(row)
      const next = measureNames[Object.keys(row.values).length] as Measure | undefined
      status.textContent = `${names[subject]}: ${next === undefined ? 'done' : labels.get(next)!.textContent!.toLowerCase()}…`
    }
    worker.postMessage(subject)
  })
}

async function run(): Promise<void> {
  complain()
  runButton.disabled = true
  stopButton.disabled = false
  linkButton.disabled = true
  const rows = new Map<Subject, Row>()
  const failures: string[] = []
  let end = 'Done.'
  const there: Record<Subject, boolean> = { wasm: true, 'wasm threads': crossOriginIsolated, webgpu: 'gpu' in navigator, reference: true }
  for (const subject of subjects.filter((subject) => there[subject])) {
    status.textContent = `${names[subject]}: opening…`
    const why = await measure(subject, (row) => {
      rows.set(subject, row)
      result = { machine: machineOf(), rows: [...rows.values()] }
      show(get('own'), result)
    })
    if (why === 'stopped') {
      end = 'Stopped.'
      break
    }
    if (why !== undefined) failures.push(`${names[subject]}: ${why}`)
  }
  status.textContent = [end, ...failures].join(' ')
  runButton.disabled = false
  stopButton.disabled = true
  linkButton.disabled = result === undefined
}

runButton.addEventListener('click', () => void run())
stopButton.addEventListener('click', () => stop?.())
linkButton.addEventListener('click', async () => {
  try {
    history.replaceState(null, '', await resultHash(result!))
    status.textContent = 'The address of this page now holds the result: it is a link.'
    await navigator.clipboard?.writeText(location.href).catch(() => {})
  } catch (error) {
    if (!(error instanceof LinkError)) throw error
    complain(error.message)
  }
})

async function follow(): Promise<void> {
  complain()
  get('linked').hidden = true
  try {
    const found = await resultIn(location.hash)
    if (found) show(get('linked'), found)
  } catch (error) {
    if (!(error instanceof LinkError)) throw error
    complain(error.message)
  }
}
addEventListener('hashchange', () => void follow())
await follow()
document.documentElement.dataset.ready = ''
