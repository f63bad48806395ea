/** The playground's page: it asks the worker for everything that is computed, and draws what comes back. */
import { keepOffline } from '../scripts/offline.ts'
import { CapacityView } from './capacity-view.ts'
import { type Carried, carried, carry } from './carry.ts'
import { Course, chart } from './curve.ts'
import { bytesText, element, make, tell } from './dom.ts'
import { MemoryView } from './memory-view.ts'
import type { CapacityRequest, FromWorker, Racer, Source, ToWorker } from './messages.ts'
import { type Choices, decode, defaults, encode, mostRacers, racersOf, type Settings } from './settings.ts'

const worker = new Worker(new URL('./playground-worker.js', import.meta.url), { type: 'module' })
const ask = (message: ToWorker, transfer: Transferable[] = []): void => worker.postMessage(message, transfer)

const selects = [...document.querySelectorAll<HTMLSelectElement>('.play select[name]')]
const choices: Choices = Object.fromEntries(selects.map(({ name, options }) => [name, [...options].map(({ value }) => value)]))

const pageText: Source = { name: 'the page’s own text', own: null }
/** A larger text isn't put into the text field, where every key would cost time. */
const comfortable = 20_000
/** Bytes of a text, and of a model's file, at most. */
const [mostText, mostFile] = [20e6, 500e6]

const memory = new MemoryView(
  (request) => ask({ kind: 'trace', request }),
  (layer, head) => adjust({ layer: `${layer + 1}`, head: `${head + 1}` }),
)
const capacity = new CapacityView(
  (request) => ask({ kind: 'capacity', request }),
  ({ width, map, keys, most }) => adjust({ keyWidth: `${width}`, keyMap: map, keys, pairs: `${most}` }),
)

// --- Settings -------------------------------------------------------------------------------------------------------------------------

let settings: Settings = defaults(choices)
let source = pageText
let racers: readonly Racer[] = []
/** The file that the model comes from; '' where it is one of the settings. */
let file = ''
let unit = ''

/** The controls as the settings are, with a line about what is chosen. */
function showSettings(): void {
  const [first, ...others] = racersOf(settings)
  for (const select of selects) {
    const value = select.name === 'rule' ? first : settings[select.name]
    select.value = value
    const chosen = select.selectedOptions[0]
    const how = element(`how-${select.name}`)
    if (how) how.textContent = chosen?.dataset.how ?? how.dataset.how!
  }
  const takes = element<HTMLSelectElement>('set-rule').selectedOptions[0]?.dataset.takes ?? ''
  for (const [name, what] of [
    ['map', 'map'],
    ['norm', 'map'],
    ['gate', 'gate'],
  ]) {
    const means = takes.split(' ').includes(what) || others.length > 0
    element<HTMLSelectElement>(`set-${name}`).disabled = !means
    if (!means) element(`how-${name}`).textContent = `${first} has none to choose.`
  }
  element('racers').replaceChildren(
    ...others.map((name) => {
      const button = make('button', { type: 'button', 'aria-label': `Take ${name} out of the race` }, '×')
      button.addEventListener('click', () =>
        change({
          rule: [
            first,
            ...racersOf(settings)
              .slice(1)
              .filter((other) => other !== name),
          ].join(),
        }),
      )
      return make('li', {}, name, ' ', button)
    }),
  )
  element<HTMLSelectElement>('add').disabled = others.length >= mostRacers - 1
}

let addressing: ReturnType<typeof setTimeout> | undefined
/** Browsers allow so many changes of the address only. */
function showAddress(): void {
  clearTimeout(addressing)
  addressing = setTimeout(() => {
    try {
      history.replaceState(null, '', `${location.pathname}${location.search}${encode(settings, choices)}`)
    } catch {
      // The next change tries again.
    }
  }, 250)
}

/** Where it is said that a request was refused: near what it was made with. */
type Place = 'problems' | 'file-problem'

let id = 0
/** What was asked for since, and what the model that is there has. */
const asking = new Map<number, { settings: Settings; source: Source; place: Place }>()
let inForce: { settings: Settings; source: Source } | undefined

function configure(next: Settings, given?: Source, place: Place = 'problems'): void {
  settings = next
  showSettings()
  showAddress()
  pursue()
  asking.set(++id, { settings, source, place })
  ask({ kind: 'configure', id, settings, ...(given && { source: given }) })
}

/** Settings of how it is looked at: the model stays. */
const looks = ['pace', 'layer', 'head', 'pairs', 'keyWidth', 'keyMap', 'keys']
function adjust(some: Readonly<Record<string, string>>): void {
  settings = { ...settings, ...some }
  showSettings()
  showAddress()
  pursue()
}

let pace = 'full'
function pursue(): void {
  // Only then: requests of a slider that is dragged follow each other directly, so that the last one is enough.
  if (settings.pace !== pace) ask({ kind: 'pace', pace: settings.pace === 'full' ? 0 : Number(settings.pace) })
  pace = settings.pace
  memory.choose(Number(settings.layer) - 1, Number(settings.head) - 1)
  const { keyWidth, keyMap, keys, pairs } = settings
  capacity.choose({ width: Number(keyWidth), map: keyMap, keys: keys as CapacityRequest['keys'], most: Number(pairs) })
}

/** A request was refused: the controls say again what the model has; where there is none yet, it gets what always works. */
function giveBack(refused: number | undefined, why: string): void {
  if (refused !== undefined) asking.delete(refused)
  if (refused !== id) return
  if (inForce) {
    source = inForce.source
    settings = { ...inForce.settings, ...Object.fromEntries(looks.map((name) => [name, settings[name]])) }
    showSettings()
    showAddress()
    return
  }
  const safe = { ...(settings.device === 'auto' ? defaults(choices) : settings), device: 'auto', text: settings.text }
  if (encode(safe, choices) !== encode(settings, choices)) configure(safe)
  else state(`There is no model: ${why} Load the page anew.`)
}

function change(some: Readonly<Record<string, string>>): void {
  tell('problems', '')
  const rule = some.rule?.split(',')[0]
  // A rule of the race that becomes the first is in it once.
  const list = rule === undefined ? undefined : [...new Set(some.rule.split(','))].join()
  configure({ ...settings, ...some, ...(list !== undefined && { rule: list }) })
}

for (const select of selects)
  select.addEventListener('change', () => {
    const { name, value } = select
    if (looks.includes(name)) adjust({ [name]: value })
    else change({ [name]: name === 'rule' ? [value, ...racersOf(settings).slice(1)].join() : value })
  })
element<HTMLSelectElement>('add').addEventListener('change', ({ currentTarget }) => {
  const select = currentTarget as HTMLSelectElement
  const { value } = select
  select.value = ''
  if (value !== '' && !racersOf(settings).includes(value)) change({ rule: `${settings.rule},${value}` })
})
element('defaults').addEventListener('click', () => {
  tell('problems', '')
  source = pageText
  configure(defaults(choices), source)
})
element('link').addEventListener('click', async () => {
  const link = new URL(encode(settings, choices), location.href).href
  const own = `${settings.text === 'own' ? ' Your text isn’t in it.' : ''}${file === '' ? '' : ` Nor is the model of ${file}: it has the settings.`}`
  try {
    await navigator.clipboard.writeText(link)
    state(`The link is copied.${own}`)
  } catch {
    state(`The link is in the address bar.${own}`)
  }
})

document.querySelector('.settings')!.addEventListener('submit', (event) => event.preventDefault())

// --- Running --------------------------------------------------------------------------------------------------------------------------

let running = true
const state = (text: string): void => {
  element('state').textContent = text
}

function run(next: boolean): void {
  running = next
  element('run').textContent = running ? 'Pause' : 'Go on'
  state(running ? 'It trains.' : 'It waits.')
  ask({ kind: 'run', running })
}
element('run').addEventListener('click', () => run(!running))
element('step').addEventListener('click', () => {
  if (running) run(false)
  ask({ kind: 'step' })
})
element('restart').addEventListener('click', () => {
  tell('problems', '')
  configure(settings)
  if (!running) run(true)
})
document.addEventListener('visibilitychange', () => ask({ kind: 'visible', visible: !document.hidden }))

// --- What comes back ------------------------------------------------------------------------------------------------------------------

let courses: Course[] = []
let step = 0
let drawing = false
/** Who wants no motion sees a sample when it is whole. */
const calm = matchMedia('(prefers-reduced-motion: reduce)')

/** Pictures follow the screen, a few times a second. */
function draw(): void {
  if (drawing) return
  drawing = true
  setTimeout(() => {
    drawing = false
    requestAnimationFrame(drawCurve)
  }, 200)
}

function drawCurve(): void {
  const place = element('curve')
  const width = Math.floor(place.clientWidth)
  if (width === 0) return
  const curves = courses.map(({ points }, i) => ({ name: racers[i]?.name ?? '', points, colour: i }))
  const words = `Loss, ${unit}, over ${step} steps: ${courses.map((course, i) => `${racers[i]?.name} ${course.recent.toFixed(2)}`).join(', ')}.`
  const height = Math.max(260, Math.floor(place.clientHeight))
  place.innerHTML = chart({ curves, width, height, below: 'step', beside: unit, low: 0, words })
}
new ResizeObserver(draw).observe(element('curve'))

/** A place for what each racer says. */
function showLanes(): void {
  element('samples').replaceChildren(
    ...racers.map(({ name, parameters, ignored }, i) =>
      make(
        'div',
        { class: 'lane' },
        make(
          'p',
          { class: 'lane-name' },
          make('span', { class: `swatch s${i}` }),
          make('b', {}, name),
          ` ${parameters.toLocaleString('en')} parameters${ignored.length > 0 ? `; has no ${ignored.join(', no ')} to choose` : ''}`,
        ),
        make('p', { class: 'sample', id: `sample-${i}` }),
      ),
    ),
  )
}

function showExam({ racer, share, chance, metric, places }: Extract<FromWorker, { kind: 'exam' }>): void {
  const place = element(`sample-${racer}`)
  if (!place) return
  const shown = places.flatMap(({ input, target, answer }) => {
    const right = target === answer
    const says = target === undefined ? [] : [make('b', { class: right ? 'right' : 'wrong' }, `→${answer}${right ? '' : ` (${target})`}`)]
    return [make('span', {}, input, ...says), ' ']
  })
  place.replaceChildren(
    make('strong', {}, `${Math.round(100 * share)} % right`),
    ` in sequences it hasn’t seen, counting ${metric}; by chance ${Math.round(100 * chance)} %. `,
    ...shown,
  )
}

let first = true

function configured(message: Extract<FromWorker, { kind: 'configured' }>): void {
  racers = message.racers
  file = message.file
  tell('of-file', file === '' ? '' : `The model comes from ${file}. These settings aren’t its own: they are those of the next one.`)
  inForce = asking.get(message.id) ?? inForce
  for (const old of asking.keys()) if (old < message.id) asking.delete(old)
  unit = message.unit
  courses = racers.map(() => new Course())
  step = 0
  showLanes()
  element('fact-device').textContent = message.device
  element('fact-step').textContent = '0'
  element('fact-loss').textContent = '–'
  element('preview').textContent = message.preview || message.source
  element('text-state').textContent = `It learns ${message.source}: ${message.symbols.toLocaleString('en')} symbols.`
  tell('file-problem', message.notes.join(' '))
  state(running ? 'It trains.' : 'It waits.')
  memory.configured(
    racers.map(({ name }) => name),
    message.prompt,
  )
  offerThreads(message.device)
  draw()
}

worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
  if (data.kind === 'configured') configured(data)
  else if (data.kind === 'progress') {
    step = data.step
    data.losses.forEach((some, i) => {
      for (const [x, y] of some) courses[i]?.add(x, y)
    })
    if (first && step > 0) firstStep()
    element('fact-step').textContent = step.toLocaleString('en')
    element('fact-loss').textContent = Number.isFinite(courses[0]?.recent) ? courses[0].recent.toFixed(3) : '–'
    element('fact-speed').textContent =
      data.stepsPerSecond > 0
        ? `${data.stepsPerSecond.toFixed(1)} steps/s, ${Math.round(data.tokensPerSecond).toLocaleString('en')} tokens/s`
        : '–'
    element('fact-bytes').textContent = bytesText(data.bytes)
    element('fact-bytes').dataset.bytes = `${data.bytes}`
    memory.stepped()
    draw()
  } else if (data.kind === 'sample') {
    const place = element(`sample-${data.racer}`)
    if (place && (data.done || !calm.matches)) place.textContent = data.text
  } else if (data.kind === 'exam') showExam(data)
  else if (data.kind === 'memory') memory.show(data.memory)
  else if (data.kind === 'capacity') capacity.show(data.capacity)
  else if (data.kind === 'device') {
    element('fact-device').textContent = data.device
    state(data.note)
  } else if (data.kind === 'saved') saved(data.bytes)
  else refused(data)
}
worker.onerror = ({ message }) =>
  state(`The part that computes doesn’t start here: ${message || 'its file can’t be loaded'}. Load the page anew.`)

/** All that the page needs is there: now the rest of the site may be kept. */
function firstStep(): void {
  first = false
  performance.mark('first-step')
  document.documentElement.dataset.learning = ''
  void keepOffline().then(() => offerThreads(element('fact-device').textContent ?? ''))
  capacity.begin()
}

function refused(data: Extract<FromWorker, { kind: 'refused' }>): void {
  const { what, message } = data
  const text = `${message.charAt(0).toUpperCase()}${message.slice(1)}.`
  if (what === 'trace') tell('memory-problem', text)
  else if (what === 'load' || what === 'save') {
    asked = 'download'
    tell('file-problem', text)
  } else if (what === 'train') {
    run(false)
    state(text)
  } else {
    tell(asking.get(data.id ?? 0)?.place ?? 'problems', `${text}${inForce ? ' What was there goes on.' : ''}`)
    giveBack(data.id, text)
  }
}

// --- Threads --------------------------------------------------------------------------------------------------------------------------

/** Where the service worker can add the headers that threads need, a page that is loaded again has them: the model comes along. */
function offerThreads(device: string): void {
  const more = !crossOriginIsolated && navigator.hardwareConcurrency > 1 && navigator.serviceWorker?.controller === null
  // One model comes along, so not in a race.
  element('threads').hidden = !(more && device.startsWith('wasm') && racers.length === 1)
}
element('threads').addEventListener('click', async () => {
  if (!(await keepOffline())) return state('This browser keeps no service worker for the page, so there is one thread.')
  asked = 'carry'
  ask({ kind: 'save' })
})

// --- Texts and files ------------------------------------------------------------------------------------------------------------------

/** What the next file that comes from the worker is for. */
let asked: 'download' | 'carry' = 'download'

async function saved(bytes: Uint8Array): Promise<void> {
  if (asked === 'carry') {
    asked = 'download'
    try {
      await carry({ bytes, source, running, file })
      location.reload()
    } catch (error) {
      state(`The model can’t be taken along: ${error instanceof Error ? error.message : error}. It goes on here.`)
    }
    return
  }
  const url = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]))
  const link = make('a', { href: url, download: 'checkpoint.safetensors' })
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
element('save').addEventListener('click', () => ask({ kind: 'save' }))

function useText(given: Source): void {
  tell('problems', '')
  tell('file-problem', '')
  const size = given.own?.length ?? 0
  if (size > mostText) tell('file-problem', `${given.name} has ${bytesText(size)}; a page learns ${bytesText(mostText)} at most.`)
  else if (size === 0 && given.own !== null) tell('file-problem', `${given.name} is empty.`)
  else learnText(given)
}

function learnText(given: Source): void {
  source = given
  configure({ ...settings, task: 'text', text: given.own === null ? 'page' : 'own' }, given, 'file-problem')
}

const own = element<HTMLTextAreaElement>('own')
own.addEventListener('paste', (event) => {
  const text = event.clipboardData?.getData('text/plain') ?? ''
  if (text.length < comfortable) return
  event.preventDefault()
  useText({ name: 'your text', own: text })
})
element('use').addEventListener('click', () => useText({ name: 'your text', own: own.value }))
element('page-text').addEventListener('click', () => useText(pageText))

async function take(file: File): Promise<void> {
  tell('file-problem', '')
  const isModel = /\.safetensors$/i.test(file.name)
  if (file.size > (isModel ? mostFile : mostText))
    return tell(
      'file-problem',
      `${file.name} has ${bytesText(file.size)}; a page opens ${bytesText(isModel ? mostFile : mostText)} at most.`,
    )
  let bytes: Uint8Array<ArrayBuffer>
  try {
    bytes = new Uint8Array(await file.arrayBuffer())
  } catch {
    return tell('file-problem', `${file.name} can’t be read: is it a folder?`)
  }
  if (isModel) ask({ kind: 'load', name: file.name, bytes, described: false }, [bytes.buffer])
  else useText({ name: file.name, own: bytes })
}
element<HTMLInputElement>('file').addEventListener('change', ({ currentTarget }) => {
  const input = currentTarget as HTMLInputElement
  const [file] = input.files ?? []
  input.value = ''
  if (file) void take(file)
})
/** A text that is dropped where one is typed stays there. */
const typed = ({ target, dataTransfer }: DragEvent): boolean =>
  target instanceof Element && target.matches('input[type=text], textarea') && !dataTransfer?.types.includes('Files')
document.addEventListener('dragover', (event) => {
  if (!typed(event)) event.preventDefault()
})
document.addEventListener('drop', (event) => {
  if (typed(event)) return
  event.preventDefault()
  const [file] = event.dataTransfer?.files ?? []
  const text = event.dataTransfer?.getData('text/plain')
  if (file) void take(file)
  else if (text) useText({ name: 'your text', own: text })
})

// --- Beginning ------------------------------------------------------------------------------------------------------------------------

// Where all is in one column, the settings would be between a model and its memory.
element<HTMLDetailsElement>('fold').open = !matchMedia('(max-width: 60rem)').matches

function begin(before: Carried | undefined): void {
  const { settings: wanted, problems } = decode(location.hash, choices)
  // A text of one's own that is open stays where a link says so.
  source = before?.source ?? (wanted.text === 'own' ? source : pageText)
  if (wanted.text === 'own' && source.own === null)
    problems.push('The link was made with a text of somebody’s own, which isn’t in it: paste it below. Until then it is the page’s own')
  tell('problems', problems.map((problem) => problem.replace(/\.?$/, '.')).join(' '))
  configure({ ...wanted, text: source.own === null ? 'page' : 'own' }, source)
  if (document.hidden) ask({ kind: 'visible', visible: false })
  if (before) ask({ kind: 'load', name: before.file || 'the model', bytes: before.bytes, described: before.file === '' })
  if (before && !before.running) run(false)
}
addEventListener('hashchange', () => begin(undefined))
void carried().then(begin)
