/** The page of a claim of one's own: editor, link, sandbox. */
import { javascript } from '@codemirror/lang-javascript'
import { syntaxHighlighting } from '@codemirror/language'
import { EditorView, keymap } from '@codemirror/view'
import { classHighlighter } from '@lezer/highlight'
import { minimalSetup } from 'codemirror'
import { LinkError } from '../scripts/packed.ts'
import { checked, Stopped } from './checker.ts'
import { cutImports } from './imports.ts'
import { codeHash, codeIn } from './link.ts'
import type { ClaimText, Settings } from './protocol.ts'
import { Sandbox } from './sandboxed.ts'
import { problem, put, taken } from './settings.ts'
import { ClaimView, element } from './view.ts'
import { counted, power } from './words.ts'

const get = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!
const [runButton, stopButton] = [get<HTMLButtonElement>('run'), get<HTMLButtonElement>('stop')]
const [summary, list, stranger, written] = [get('summary'), get('claims'), get('stranger'), get('example')]
const example = written.textContent!
written.hidden = true

// --- The editor -----------------------------------------------------------------------------------------------------------------------

const editor = new EditorView({
  doc: example,
  parent: get('editor'),
  extensions: [
    keymap.of([{ key: 'Mod-Enter', run: begin }]),
    minimalSetup,
    javascript(),
    syntaxHighlighting(classHighlighter),
    EditorView.contentAttributes.of({ 'aria-label': 'Code', tabindex: '0' }),
  ],
})
const code = (): string => editor.state.doc.toString()
const setCode = (text: string): void => editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: text } })

// --- Running --------------------------------------------------------------------------------------------------------------------------

/** As a command of the editor. */
function begin(): boolean {
  void run()
  return true
}

/** Of silence, in milliseconds: to load, and of a case. */
const limits = { load: 20_000, case: 10_000 }

let controller: AbortController | undefined

function articleOf({ name, statement, source, equation, holds, sameBits, float32, float64 }: ClaimText): HTMLElement {
  const bounds = holds
    ? sameBits && float32 === 0
      ? 'the same bits'
      : `bound ${float32} in float32, ${float64} in float64`
    : 'must be refuted'
  const math = element('div', { class: 'equation scroll', tabindex: '0', role: 'group', 'aria-label': 'Equation' }, [
    element('code', {}, [equation]),
  ])
  // Equations are drawn once what draws them is there; where one can't be, it stays as it was written.
  void import('temml').then(({ default: temml }) => {
    try {
      const drawn = element('span')
      // Whoever wrote it may have asked for any size.
      temml.render(equation, drawn, { displayMode: true, throwOnError: true, trust: false, maxSize: [20, 20] })
      math.replaceChildren(drawn)
    } catch {
      math.classList.add('tex')
    }
  })
  return element('article', { class: 'claim' }, [
    element('h3', {}, [name]),
    element('p', {}, [statement]),
    math,
    element('p', { class: 'soft small' }, [`${source}; ${bounds}`]),
    element('div', { class: 'result' }),
  ])
}

/** Ends the run, if there is one, and clears what it has shown. Nothing that it still says is shown. */
function clear(): void {
  controller?.abort()
  controller = undefined
  stopButton.disabled = true
  list.replaceChildren()
  summary.textContent = ''
  problem()
}

async function run(): Promise<void> {
  const settings = taken()
  if (!settings) return
  clear()
  const mine = (controller = new AbortController())
  stopButton.disabled = false
  summary.textContent = 'Loading the code into the sandbox…'
  let [said, wrong] = ['', '']
  try {
    said = await checkAll(settings, mine.signal)
  } catch (error) {
    if (error instanceof Stopped) said = 'Stopped.'
    else wrong = (error as Error).message
  }
  if (controller !== mine) return
  summary.textContent = said
  problem(wrong)
  controller = undefined
  stopButton.disabled = true
}

/** Resolves to what there is to say of all. */
async function checkAll(settings: Settings, signal: AbortSignal): Promise<string> {
  const pieces = cutImports(code())
  const open = async (): Promise<[Sandbox, readonly ClaimText[]]> => {
    const sandbox = await Sandbox.open(get('sandbox'))
    return [sandbox, await sandbox.load(pieces, limits.load, signal)]
  }
  let [sandbox, claims] = await open()
  const totals = { done: 0, ok: 0, largest: 0 }
  try {
    for (const claim of claims) {
      // What was ended, for a case without an end, begins anew.
      if (sandbox.closed) [sandbox] = await open()
      summary.textContent = `${totals.done} of ${counted(claims.length, 'claim')}`
      const article = articleOf(claim)
      list.append(article)
      const view = new ClaimView(article, [claim.float32, claim.float64], claim.sameBits, settings)
      try {
        const verdict = await checked(sandbox, { ...settings, claim: claim.name }, limits.case, signal, (message) => view.hear(message))
        view.end(verdict)
        totals.done++
        if (verdict.ok) totals.ok++
        if (verdict.status === 'holds') totals.largest = Math.max(totals.largest, Number(verdict.error) || 0)
      } catch (error) {
        view.stop((error as Error).message)
        if (error instanceof Stopped) break
        throw error
      }
    }
  } finally {
    sandbox.close()
  }
  const bad = totals.done - totals.ok
  return `${counted(totals.done, 'claim')} checked: ${totals.ok} as stated${bad > 0 ? `, ${bad} not` : ''}; largest error ${power(totals.largest)}${signal.aborted ? '; stopped' : ''}`
}

// --- What is used ---------------------------------------------------------------------------------------------------------------------

runButton.addEventListener('click', begin)
stopButton.addEventListener('click', () => controller?.abort())
get('reset').addEventListener('click', () => {
  setCode(example)
  stranger.hidden = true
})
get('link').addEventListener('click', async () => {
  const settings = taken()
  if (!settings) return
  try {
    history.replaceState(null, '', await codeHash({ code: code(), ...settings }))
    problem()
    summary.textContent = 'The address of this page now holds the code: it is a link.'
    await navigator.clipboard?.writeText(location.href).catch(() => {})
  } catch (error) {
    if (!(error instanceof LinkError)) throw error
    problem(error.message)
  }
})

/** The code of the address is shown, and nothing else happens to it. */
async function follow(): Promise<void> {
  try {
    const link = await codeIn(location.hash)
    if (!link) return
    clear()
    // As a link of the list may say; the sandbox has no WebGPU.
    put({ ...link, device: link.device === 'webgpu' ? 'wasm' : link.device })
    setCode(link.code)
    stranger.hidden = false
  } catch (error) {
    if (!(error instanceof LinkError)) throw error
    problem(error.message)
  }
}
addEventListener('hashchange', () => void follow())
await follow()
document.documentElement.dataset.ready = ''
