/** The page that `fastweights verify --report` writes: every claim with its equation, source, cases, and its largest error as a picture. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Verdict } from '../claims/check.ts'
import { type Bounds, float16Bound } from '../claims/claim.ts'
import type { Subject } from '../claims/context.ts'
import { counted, duration } from './terminal.ts'
import type { ClaimText, Implemented } from './verify-worker.ts'

/** Everything that a verification has found: what `--json` writes and the report shows. */
export interface Verification {
  readonly version: string
  readonly machine: string
  readonly runs: number
  readonly seed: number
  readonly devices: readonly Subject[]
  /** Of the devices, where operands of products are rounded. */
  readonly precision?: 'f16'
  readonly implementation?: Implemented & { readonly unasked: readonly { readonly name: string; readonly why: string }[] }
  readonly milliseconds: number
  readonly problems: readonly string[]
  readonly claims: readonly (ClaimText & { readonly verdicts: readonly Verdict[] })[]
}

type Entry = Verification['claims'][number]

export async function page(verification: Verification): Promise<string> {
  const { default: temml } = await import('temml')
  /** TeX as MathML, in pieces between which a line may break; where it can't be read, as it was written. */
  const math = (tex: string): string => {
    try {
      return pieces(tex)
        .map((piece) => temml.renderToString(piece, { displayMode: true, throwOnError: true }))
        .join(' ')
    } catch {
      return `<code>${html(tex)}</code>`
    }
  }
  // Primes, which few fonts have in a size that serves as a superscript.
  const font = readFileSync(fileURLToPath(import.meta.resolve('temml/dist/Temml.woff2'))).toString('base64')
  const { claims, devices, implementation, version, machine, runs, seed, milliseconds, problems, precision } = verification
  const sections = [...new Set(claims.map(({ section }) => section))].map((title, i) => ({
    title,
    id: `section-${i + 1}`,
    claims: claims.filter(({ section }) => section === title),
  }))
  const reasons: Bounds[] = []
  for (const { bounds } of claims) if (bounds && !reasons.some((known) => sameBounds(known, bounds))) reasons.push(bounds)
  const noteOf = (claim: Entry): number => reasons.findIndex((known) => claim.bounds && sameBounds(known, claim.bounds)) + 1

  const failed = claims.filter(isBad)
  const refuted = claims.filter((claim) => claim.holds === false && !isBad(claim))
  const skipped = claims.filter(isSkipped)
  const holding = claims.length - failed.length - refuted.length - skipped.length
  const headline = [
    ...(failed.length > 0 ? [`${counted(failed.length, 'claim')} failed`] : []),
    ...(problems.length > 0 ? [`${counted(problems.length, 'file')} could not be used`] : []),
  ].join(', ')
  const worst = devices.map((device) => ({ device, error: largest(claims, device) }))

  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fastweights verify: ${headline || `${counted(holding, 'claim')} hold${holding === 1 ? 's' : ''}`}</title>
<style>@font-face { font-family: Temml; src: url(data:font/woff2;base64,${font}) format('woff2'); }
${style}</style>
<header>
<p class="tool">fastweights ${html(version)} verify${implementation ? `: ${html(implementation.name)}` : ''}</p>
<h1>${headline || 'Every claim came out as stated'}</h1>
<dl class="totals">
${total(holding, 'hold', 'good')}
${refuted.length > 0 ? total(refuted.length, 'false, and refuted', 'false') : ''}
${failed.length > 0 ? total(failed.length, 'failed', 'bad') : ''}
${skipped.length > 0 ? total(skipped.length, implementation ? 'not offered' : 'skipped', 'mute') : ''}
${worst.map(({ device, error }) => `<div><dt>largest error, ${html(device)}</dt><dd>${power(error)}</dd></div>`).join('\n')}
</dl>
<p class="facts">${counted(runs, 'case')} for each claim and device (of false ones as many as refute them), seed ${seed}, in ${duration(milliseconds)}${precision ? `, in precision ${precision}: operands of products are rounded to float16, and no bound but 0 is below ${power(float16Bound)}` : ''}. ${html(machine)}.</p>
${problems.map((problem) => `<p class="problem">${html(problem)}</p>`).join('\n')}
</header>
<main>
<section class="overview" aria-label="Overview">
<h2>Overview</h2>
<p class="key">A bar is the largest error that any case showed: <span class="swatch"></span> on a logarithmic scale from 10<sup>−17</sup> to 1, with the claim's bound as a line.
In this table it is the largest of a section. An error is rms(left − right) / (rms(right) + floor) of one result. The floor is a tenth of the largest rms among the case's
outputs and states or, for a gradient, among its gradients, but from 0.1 to 1; it is ten times that where terms cancel that are larger than any result (normalisers, a decay or an input that
all tokens share, keys of any length, a gradient that should be zero). A claim of “at most” counts how far above its right side a value lies, over |right| + floor.</p>
<table>
<thead><tr><th scope="col">section</th><th scope="col" class="n">claims</th>${devices.map((device) => `<th scope="col">${html(device)}</th>`).join('')}</tr></thead>
<tbody>
${sections.map((section) => overviewRow(section, devices)).join('\n')}
</tbody>
</table>
</section>
${sections
  .map(
    ({ title, id, claims }) => `<section id="${id}">
<h2>${html(title)}</h2>
${claims
  .map((claim, i) => {
    // What stands directly above needn't be said again.
    const { equation, source } = claims[i - 1] ?? {}
    const shown = claim.equation === equation ? '' : `<div class="equation" tabindex="0">${math(claim.equation)}</div>`
    return article(claim, shown, claim.source === source ? '' : `<p class="source">${html(claim.source)}</p>`, noteOf(claim))
  })
  .join('\n')}
</section>`,
  )
  .join('\n')}
<section class="notes">
<h2>Bounds</h2>
<ol>
${reasons.map(({ float32, float64, reason }, i) => `<li id="bound-${i + 1}">${power(float32)} in float32, ${power(float64)} in float64: ${html(reason)}.</li>`).join('\n')}
</ol>
</section>
</main>
</html>
`
}

// --- Parts ----------------------------------------------------------------------------------------------------------------------------

const total = (n: number, what: string, kind: string): string => `<div class="${kind}"><dt>${what}</dt><dd>${n}</dd></div>`

function overviewRow({ title, id, claims }: { title: string; id: string; claims: readonly Entry[] }, devices: readonly string[]): string {
  const bad = claims.filter(isBad).length
  const isFalse = claims.every(({ holds }) => holds === false)
  const cells = devices.map((device) => {
    const verdicts = claims.flatMap(({ verdicts }) => verdicts).filter((v) => v.device === device && !isSilent(v))
    if (isFalse) return `<td>${verdicts.filter(({ ok }) => ok).length} refuted</td>`
    return `<td>${bar(largest(claims, device), null, bad > 0)}</td>`
  })
  const mark = bad > 0 ? ` <b class="bad">${bad} failed</b>` : ''
  return `<tr><th scope="row"><a href="#${id}">${html(title)}</a>${mark}</th><td class="n">${claims.length}</td>${cells.join('')}</tr>`
}

function article(claim: Entry, equation: string, source: string, note: number): string {
  const { name, statement, holds, confidence, verdicts } = claim
  const kind = isBad(claim) ? 'bad' : isSkipped(claim) ? 'mute' : holds === false ? 'false' : 'good'
  const word = { bad: verdicts.find(({ ok }) => !ok)?.status ?? '', mute: verdicts[0].status, false: 'refuted', good: 'holds' }[kind]
  const checked = verdicts.filter((verdict) => !isSilent(verdict))
  const shown = verdicts.filter(({ ok, counterexample }) => counterexample && (!ok || holds === false))
  // A false claim has one counterexample on all devices, as a rule.
  const examples = holds === false && !isBad(claim) ? shown.slice(0, 1) : shown
  return `<article class="${kind}">
<div class="what">
<h3>${html(name)} <span class="status">${html(word)}</span></h3>
<p>${html(statement)}</p>
${equation}
${confidence ? `<p class="source">Confidence: ${html(confidence)}.</p>` : ''}
${source}
</div>
<div class="measured">
${checked.map((verdict) => measured(verdict, claim)).join('\n')}
<p class="runs">${checked.length === 0 ? silence(verdicts[0]) : `${casesOf(checked)}, ${seconds(verdicts)}${without(verdicts[0])}`}${holds === false || checked.length === 0 ? '' : ` · <a href="#bound-${note}">bound ${note}</a>`}</p>
</div>
${examples.map((verdict) => counterexample(verdict, holds === false)).join('\n')}
</article>`
}

const silence = ({ status, message }: Verdict): string =>
  status === 'skipped' ? 'needs a device that is not there' : `it would take ${html(message!)}`
const without = ({ lacks }: Verdict): string => (lacks ? `, without ${html(lacks.join(', '))}` : '')

/** Of a refutation the cases up to the first counterexample. */
function casesOf(checked: readonly Verdict[]): string {
  const by = checked.flatMap(({ refutedBy }) => refutedBy ?? [])
  if (by.length > 0) return `refuted by case ${Math.max(...by).toLocaleString('en')}`
  return counted(Math.max(...checked.map(({ runs }) => runs)), 'case')
}

function measured({ device, status, error, bound }: Verdict, { relation, holds }: Entry): string {
  const name = `<span class="device">${html(device)}</span>`
  if (!['holds', 'refuted', 'fails'].includes(status)) return `<div class="row">${name}<span class="text">${html(status)}</span></div>`
  if (holds === false && status === 'refuted') return `<div class="row">${name}<span class="text">off by ${power(error)}</span></div>`
  if (relation === 'same bits' && status === 'holds' && bound === 0)
    return `<div class="row">${name}<span class="text">the same bits</span></div>`
  const text = error === 0 ? 'exact' : power(error)
  return `<div class="row">${name}${bar(error, bound, status === 'fails')}<span class="number">${text}</span></div>`
}

function counterexample({ device, counterexample: found, message }: Verdict, isFalse: boolean): string {
  const lines = found!.lines.map(html).join('\n')
  return `<details class="example"${isFalse ? '' : ' open'}><summary>counterexample${isFalse ? '' : `, ${html(device)}: ${html(message ?? '')}`}</summary><pre>${lines}</pre></details>`
}

/** From 1e-17 to 1. */
const decades = 17

/** A logarithmic bar for an error, with a line at its bound. */
function bar(error: number, bound: number | null, bad: boolean): string {
  const at = (x: number): number => Math.min(1, Math.max(0, (Math.log10(x) + decades) / decades)) * 170
  const width = error > 0 ? Math.max(2, at(error)) : Number.isNaN(error) ? 170 : 0
  const ticks = Array.from(
    { length: 5 },
    (_, i) => `<path class="tick" d="M${(i * 170) / 4 + (i === 0 ? 0.5 : i === 4 ? -0.5 : 0)} 0v12"/>`,
  ).join('')
  const line = bound ? `<path class="bound" d="M${at(bound).toFixed(1)} 0v12"/>` : ''
  const label = `largest error ${error === 0 ? 'zero' : short(error)}${bound ? `, bound ${short(bound)}` : ''}`
  return `<svg class="bar${bad ? ' over' : ''}" viewBox="0 0 170 12" preserveAspectRatio="none" role="img" aria-label="${label}">${ticks}<rect class="error" y="3" width="${width.toFixed(1)}" height="6" rx="1"/>${line}</svg>`
}

/** Cuts an equation where it has a comma or an arrow and wide space outside of braces. */
export function pieces(tex: string): string[] {
  const found = ['']
  let depth = 0
  for (const part of tex.split(/(\\left|\\right|[{}]|,?\\q?quad|,\\;|\\;\\Rightarrow\\;)/)) {
    if (part === '{' || part === '\\left') depth++
    if (part === '}' || part === '\\right') depth--
    if (depth === 0 && /Rightarrow/.test(part)) found.push('\\Rightarrow\\;')
    else if (depth === 0 && /quad|,\\;/.test(part)) {
      found[found.length - 1] += part.startsWith(',') ? ',' : ''
      found.push('')
    } else found[found.length - 1] += part
  }
  return found.filter((piece) => piece.trim() !== '')
}

// --- Words ----------------------------------------------------------------------------------------------------------------------------

const isBad = ({ verdicts }: Entry): boolean => verdicts.some(({ ok }) => !ok)
const isSilent = ({ status }: Verdict): boolean => status === 'skipped' || status === 'not offered'
const isSkipped = ({ verdicts }: Entry): boolean => verdicts.every(isSilent)

/** Of what is a number. */
const largest = (claims: readonly Entry[], device: string): number =>
  claims
    .flatMap(({ verdicts }) => verdicts)
    .filter((v) => v.device === device && (v.status === 'holds' || v.status === 'fails'))
    .reduce((most, { error }) => Math.max(most, Number.isNaN(error) ? 0 : error), 0)

const sameBounds = (a: Bounds, b: Bounds): boolean => a.float32 === b.float32 && a.float64 === b.float64 && a.reason === b.reason

const short = (x: number): string => x.toExponential(1)

/** 2.1 × 10⁻⁷ */
function power(x: number): string {
  if (x === 0) return '0'
  if (!Number.isFinite(x)) return String(x)
  if (x >= 0.01 && x < 1000) return String(Number(x.toPrecision(2)))
  const [digits, exponent] = x.toExponential(1).split('e')
  const sign = exponent.startsWith('-') ? '−' : ''
  const factor = digits === '1.0' ? '' : `${digits}\u202f×\u202f`
  return `${factor}10<sup>${sign}${exponent.slice(1)}</sup>`
}

const seconds = (verdicts: readonly Verdict[]): string => {
  const s = verdicts.reduce((total, { milliseconds }) => total + milliseconds, 0) / 1000
  return s < 0.1 ? `${(1000 * s).toFixed(0)} ms` : `${s.toFixed(1)} s`
}

const html = (text: string): string => text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!)

// --- Looks ----------------------------------------------------------------------------------------------------------------------------

const style = `
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #1d1f21; --soft: #5d6166; --rule: #e2dfd8; --good: #0b7a6f; --bad: #b3261e; --false: #8a5a00; --fill: #3aa79b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1c1f23; --ink: #e7e6e2; --soft: #a2a6ab; --rule: #33373c; --good: #5cc9bb; --bad: #ff8a80; --false: #e0b252; --fill: #35978b; } }
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; }
header, main { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
.tool { margin: 0; color: var(--soft); font-size: .875rem; }
h1 { margin: .1rem 0 1.25rem; font-size: clamp(1.6rem, 4vw, 2.4rem); line-height: 1.15; letter-spacing: -.015em; }
h2 { margin: 0 0 .75rem; font-size: 1.3rem; line-height: 1.25; letter-spacing: -.01em; }
h3 { margin: 0; font-size: 1rem; line-height: 1.35; overflow-wrap: anywhere; }
.totals { display: flex; flex-wrap: wrap; gap: 1rem 2.25rem; margin: 0 0 1rem; }
.totals div { display: flex; flex-direction: column-reverse; }
.totals dt { color: var(--soft); font-size: .85rem; }
.totals dd { margin: 0; font-size: 1.7rem; font-weight: 600; line-height: 1.2; font-variant-numeric: tabular-nums; }
.totals .good dd { color: var(--good); } .totals .bad dd, b.bad { color: var(--bad); } .totals .false dd { color: var(--false); } .totals .mute dd { color: var(--soft); }
.facts { margin: 0; color: var(--soft); font-size: .9rem; }
.problem { color: var(--bad); overflow-wrap: anywhere; }
section { margin: 2.75rem 0 0; scroll-margin-top: 1rem; }
.key { max-width: 46rem; color: var(--soft); font-size: .9rem; margin: 0 0 .75rem; }
.swatch { display: inline-block; width: 1.6em; height: .5em; border-radius: 1px; background: var(--fill); vertical-align: .1em; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; font-weight: 400; border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-size: .82rem; }
td:not(.n) { width: 22%; } .n { text-align: right; font-variant-numeric: tabular-nums; width: 4rem; }
a { color: inherit; text-decoration-color: var(--rule); text-underline-offset: .2em; } a:hover { text-decoration-color: currentColor; }
article { display: grid; grid-template-columns: minmax(0, 1fr) 19rem; gap: .25rem 2rem; padding: .9rem 0; border-top: 1px solid var(--rule); break-inside: avoid; }
article p { margin: .2rem 0; max-width: 42rem; }
.status { font-size: .78rem; font-weight: 600; margin-left: .4em; white-space: nowrap; }
.good .status { color: var(--good); } .bad .status { color: var(--bad); } .false .status { color: var(--false); } .mute .status { color: var(--soft); }
.bad.what, article.bad { box-shadow: -.75rem 0 0 -.5rem var(--bad); }
.equation { margin: .35rem 0; padding: .15rem 0; overflow-x: auto; overflow-y: hidden; scrollbar-width: thin; }
.equation { display: flex; flex-wrap: wrap; gap: .1rem 1.4em; align-items: baseline; }
.equation math { display: inline math !important; width: auto; margin: 0; font-size: 1.08rem; font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "Noto Sans Math", math; }
.tml-prime { font-family: Temml; }
.equation code { font-size: .85rem; }
.source, .runs { color: var(--soft); font-size: .82rem; }
.measured { padding-top: .2rem; }
.row { display: grid; grid-template-columns: 4.6rem 1fr 5.2rem; align-items: center; gap: .5rem; font-size: .85rem; min-height: 1.5rem; font-variant-numeric: tabular-nums; }
.row .device { color: var(--soft); } .row .number { text-align: right; white-space: nowrap; } .row .text { grid-column: 2 / 4; }
.runs { text-align: right; }
sup { line-height: 0; font-size: .75em; }
.bar { display: block; width: 100%; height: 12px; overflow: visible; }
.bar .tick { stroke: var(--rule); stroke-width: 1; vector-effect: non-scaling-stroke; }
.bar .error { fill: var(--fill); } .bar.over .error { fill: var(--bad); }
.bar .bound { stroke: var(--ink); stroke-width: 2; vector-effect: non-scaling-stroke; }
.example { grid-column: 1 / -1; font-size: .85rem; }
.example summary { color: var(--soft); cursor: pointer; overflow-wrap: anywhere; } article.bad .example summary { color: var(--bad); }
pre { margin: .4rem 0 0; padding: .6rem .8rem; background: var(--card); border: 1px solid var(--rule); border-radius: 4px; font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.notes { margin-bottom: 3rem; font-size: .92rem; } .notes ol { padding-left: 1.4rem; max-width: 46rem; } .notes li { margin: .3rem 0; }
@media (max-width: 46rem) { article { grid-template-columns: minmax(0, 1fr); } .runs { text-align: left; } td:not(.n) { width: 26%; } th, td { padding-right: .5rem; } }
@media print { :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #ccc; --good: #0b7a6f; --bad: #b3261e; --false: #8a5a00; --fill: #3aa79b; } html { font-size: 10.5pt; } section { margin-top: 1.5rem; } h2 { break-after: avoid; } .equation { overflow: visible; } .bar rect, .swatch { print-color-adjust: exact; -webkit-print-color-adjust: exact; } a { text-decoration: none; } }
`
