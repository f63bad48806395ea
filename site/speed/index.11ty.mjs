/** How fast the reader's machine is. */
import { escaped } from '../layout/html.mjs'
import { measures } from './measures.mjs'

export const data = {
  title: 'How fast is this machine?',
  description: 'Products, recurrences, training steps and generation, measured in this page on every device that it has.',
  permalink: 'speed/index.html',
  styles: ['speed'],
  scripts: ['speed-main'],
}

export default function () {
  return `<h1>How fast is this machine?</h1>
<p>The same work on each device that this page can open: the reference in plain TypeScript, WebAssembly on one thread and on all, and WebGPU. It takes about a quarter of a minute a device, and leaves this page free.</p>
<p class="needs-scripts row"><button type="button" id="run" class="main">Measure</button><button type="button" id="stop" disabled>Stop</button><button type="button" id="link" disabled>Make a link</button></p>
<noscript><p>Measuring needs scripts.</p></noscript>
<p id="problem" class="bad" role="alert" hidden></p>
<output id="status" class="small" aria-live="polite"></output>
<section id="own" hidden><h2>This machine</h2><p class="machine small soft"></p><div class="scroll" tabindex="0" role="group" aria-label="Results of this machine"></div></section>
<section id="linked" hidden><h2>From the link</h2><p class="small soft">What somebody's page measured, as the link says.</p><p class="machine small soft"></p><div class="scroll" tabindex="0" role="group" aria-label="Results from the link"></div></section>
<section><h2>What is measured</h2>
<dl class="text">
${measures.map(({ name, label, unit, how }) => `<dt data-measure="${name}" data-unit="${escaped(unit)}">${escaped(label)}</dt><dd>${escaped(how)} In ${escaped(unit)}.</dd>`).join('\n')}
</dl>
<p class="text">Each runs for 150 ms three times, after once that doesn't count; the fastest counts. A number of each result is read, so nothing is left waiting. Other programs and other pages slow it down, and so does a battery.
The devices compute the same: see <a href="${this.to('claims/')}">the claims</a>. Threads need a page that is isolated from others; this site's service worker sees to that on a second visit, where a server doesn't.</p></section>`
}
