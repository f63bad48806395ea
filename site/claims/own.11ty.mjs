/** Claims and rules of a reader's own: an editor, and a sandbox that runs what it holds. */
import { readFileSync } from 'node:fs'
import { escaped } from '../layout/html.mjs'
import { controls } from './controls.mjs'
import { frame, policy } from './frame.mjs'

export const data = {
  title: 'A claim of your own',
  description:
    'Write a claim or a rule about fast weights, and check it in this page: cases, the largest error, and a counterexample that shrinks in view.',
  permalink: 'claims/own/index.html',
  styles: ['claims'],
  scripts: ['claims-own'],
  policy,
}

/** The example of docs/claims.md, which the tests run. */
const documented = readFileSync(new URL('../../docs/claims.md', import.meta.url), 'utf8')
const example = /```js\n(.*?)```/s.exec(documented)[1]

export default function () {
  return `<h1>A claim of your own</h1>
<p>A module that exports <code>claims</code>, <code>rules</code> or both. A rule's <code>step</code> is enough: any JavaScript over the engine's ops, and gradients come with them.
Every rule is held to what <a href="${this.to('claims/')}">all rules must fulfil</a>. The example is that of the documents; <code>npx fastweights verify ./my-rule.mjs</code> runs the same file.</p>
<div id="stranger" class="card" role="note" hidden><p><b>This code came with the link.</b> Somebody else wrote it: read it first. It runs when you press Run, and not before; in a sandbox without network and storage, ended when a case takes too long. What its
results say is what that code says.</p></div>
<p id="problem" class="bad" role="alert" hidden></p>
<div id="editor" class="needs-scripts"></div>
<pre id="example" class="code" tabindex="0" aria-label="The example">${escaped(example)}</pre>
<section class="needs-scripts" aria-label="Run the code">
<div class="row tools">
<button type="button" id="run" class="main">Run</button>
<button type="button" id="stop" disabled>Stop</button>
<button type="button" id="reset">The example again</button>
<button type="button" id="link">Make a link</button>
</div>
<div class="row tools">${controls(false)}</div>
<p class="soft small">Ctrl+Enter (⌘ Enter) runs; Escape, then Tab, leaves the editor.</p>
<output id="summary" class="small" aria-live="polite"></output>
<h2 class="visually-hidden">Results</h2>
<div id="claims"></div>
<div id="sandbox" data-frame="${escaped(frame)}"></div>
</section>`
}
