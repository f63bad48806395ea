/** Every claim of the package, to be read and, with scripts, checked in the page. */
import temml from 'temml'
import { boundsOf } from '../../dist/claims/claim.js'
import { claims } from '../../dist/claims/index.js'
import { pieces } from '../../dist/cli/report.js'
import { escaped } from '../layout/html.mjs'
import { slug } from '../study/claims.mjs'
import { controls } from './controls.mjs'

export const data = {
  title: 'Claims',
  description: `${claims.length} equivalences and properties that papers state about fast weights, checked on this machine, in this page.`,
  permalink: 'claims/index.html',
  styles: ['claims'],
  scripts: ['claims-main'],
}

const math = (tex) =>
  pieces(tex)
    .map((piece) => temml.renderToString(piece, { displayMode: true, throwOnError: true }))
    .join(' ')

/** Bounds in the order in which claims name them; a note each. */
const notes = new Map()
const noteOf = ({ float32, float64, reason }) => {
  const key = `${float32} in float32, ${float64} in float64: ${reason}`
  if (!notes.has(key)) notes.set(key, notes.size + 1)
  return notes.get(key)
}

/** What stands directly above needn't be said again: it is there for the search, and for a claim that stands without the one above. */
function article(claim, before) {
  const { name, statement, equation, source, relation, holds, confidence } = claim
  const bounds = boundsOf(claim)
  const sameBits = relation === 'same bits'
  const again = (same) => (same ? ' again' : '')
  const note =
    holds === false
      ? 'must be refuted, by more than 1 %'
      : `<a href="#bound-${noteOf(bounds)}">bound</a> ${sameBits && bounds.float32 === 0 ? 'the same bits' : `${bounds.float32} in float32, ${bounds.float64} in float64`}`
  return `<article class="claim" id="${slug(name)}" data-name="${escaped(name)}" data-bounds="${bounds.float32} ${bounds.float64}"${sameBits ? ' data-bits' : ''}${holds === false ? ' data-false' : ''}>
<h3>${escaped(name)}</h3>
<p>${escaped(statement)}</p>
<div class="equation scroll${again(equation === before?.equation)}" tabindex="0" role="group" aria-label="Equation">${math(equation)}</div>
<p class="soft small"><span class="source${again(source === before?.source)}">${escaped(source)}; </span>${note}${confidence ? `; confidence: ${escaped(confidence)}` : ''}</p>
<div class="row needs-scripts"><button type="button" class="run">Check<span class="visually-hidden"> ${escaped(name)}</span></button><a class="link small" href="#${slug(name)}">Link<span class="visually-hidden"> to ${escaped(name)}</span></a></div>
<div class="result"></div>
</article>`
}

export default function () {
  const sections = [...new Set(claims.map(({ section }) => section))].map((title) => {
    const inside = claims.filter(({ section }) => section === title)
    const html = inside.map((claim, i) => article(claim, inside[i - 1])).join('\n')
    return `<details class="section" data-section="${escaped(title)}"><summary><h2>${escaped(title)}</h2> <span class="soft small count">${inside.length} claims</span></summary>
${html}
</details>`
  })
  const wrong = claims.filter(({ holds }) => holds === false).length
  return `<h1>Claims</h1>
<p>What papers state about fast weights and a machine can check: ${claims.length - wrong} equivalences and properties that must hold, and ${wrong} false ones that the check must refute.
A check draws cases, computes both sides on a device, and compares. A counterexample is made smaller until nothing can be left out. The command does the same: <code>npx fastweights verify</code>.</p>
<p><a href="${this.to('claims/own/')}">Write a claim or a rule of your own</a>.</p>
<section class="needs-scripts" aria-label="Check claims">
<div class="row tools">
<label>Find <input type="search" id="filter" placeholder="delta, causal, …"></label>
<label>Show <select id="which"><option value="">all</option><option value="true">that hold</option><option value="false">that are false</option><option value="bad">that failed here</option><option value="done">checked here</option></select></label>
${controls(true)}
</div>
<div class="row tools">
<button type="button" id="run" class="main">Check what is shown</button>
<button type="button" id="stop" disabled>Stop</button>
<output id="summary" class="small" aria-live="polite"></output>
</div>
<p id="problem" class="bad" role="alert" hidden></p>
</section>
<div id="claims">
${sections.join('\n')}
</div>
<section class="notes"><h2>Errors and bounds</h2>
<p>An error is rms(left − right) / (rms(right) + floor) of one result. The floor is a tenth of the largest rms among the case's outputs and states or, for a gradient, among its gradients, but from 0.1 to 1; it is ten times that
where terms cancel that are larger than any result. A claim of “at most” counts how far above its right side a value lies, over |right| + floor.</p>
<ol>
${[...notes].map(([text, n]) => `<li id="bound-${n}" value="${n}">${escaped(text)}.</li>`).join('\n')}
</ol></section>`
}
