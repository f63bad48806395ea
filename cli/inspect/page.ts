/** The page that `fastweights inspect` writes: its frame, its looks and its numbers; cli/inspect/script.ts brings it to life. */
import { readFileSync } from 'node:fs'
import { deflateRawSync } from 'node:zlib'
import { escapeXml } from '../chart.ts'
import { counted } from '../terminal.ts'
import { enough, type Inspection } from './data.ts'
import { looks } from './draw.ts'
import { pack, thinned } from './pack.ts'
import { views } from './views.ts'

/** What a page may have, in bytes. */
export const pageLimit = 1_000_000

/** How much of the grids a page keeps: the first that fits. */
const precisions: readonly { levels: number; every: number }[] = [
  { levels: 255, every: 1 },
  { levels: 127, every: 1 },
  { levels: 63, every: 1 },
  { levels: 31, every: 1 },
  { levels: 31, every: 2 },
  { levels: 31, every: 4 },
  { levels: 25, every: 8 },
  { levels: 15, every: 16 },
  { levels: 15, every: 64 },
]

/** Null where the numbers don't fit. `open`: what it shows first, from 0. */
export function inspectionPage(data: Inspection, open: { layer: number; head: number; token: number }): string | null {
  // Each is smaller than the one before: a few tries find the first that fits.
  let [from, to] = [0, precisions.length]
  let found: string | null = null
  while (from < to) {
    const middle = (from + to) >> 1
    const page = atPrecision(data, open, precisions[middle])
    if (Buffer.byteLength(page) <= pageLimit) [found, to] = [page, middle]
    else from = middle + 1
  }
  return found
}

function atPrecision(data: Inspection, open: object, { levels, every }: (typeof precisions)[number]): string {
  const left = [
    ...(levels < 255 ? [`numbers in maps have ${levels} levels`] : []),
    ...(every > 1 ? [`matrices are kept after every ${every === 2 ? 'second' : `${every}th`} token`] : []),
  ]
  const some = { ...(every > 1 ? thinned(data, every) : data), left: left.length > 0 ? `To stay small, ${left.join(', and ')}.` : '' }
  const { json, bytes } = pack(some, levels)
  return framed(some, open, json, deflateRawSync(bytes).toString('base64'))
}

/** For a script element: no text in it ends the element. */
const inScript = (json: string): string => json.replaceAll('<', '\\u003c')

const script = (): string => readFileSync(new URL('../../browser/inspect.js', import.meta.url), 'utf8').replaceAll('</script', '<\\/script')

function framed({ run, preset, tokens, layers, version, left }: Inspection, open: object, json: string, grids: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>fastweights inspect: ${escapeXml(run)}</title>
<style>${style}${looks('.picture ')}</style>
<header>
<p class="tool">fastweights ${escapeXml(version)} inspect</p>
<h1>What the memories of ${escapeXml(run)} do</h1>
<p class="facts">Preset ${escapeXml(preset)}; a prompt of ${counted(tokens.length, 'character')} through ${counted(layers.length, 'layer')} (${escapeXml([...new Set(layers.map(({ mixer }) => mixer))].join(', '))}).${left === '' ? '' : ` <span id="left">${escapeXml(left)}</span>`}</p>
<noscript><p class="problem">This page draws with JavaScript, which is off here.</p></noscript>
</header>
<form class="controls" aria-label="What is shown" onsubmit="return false">
<div class="choices">
<label>Layer <select id="layer"></select></label>
<label>Head <select id="head"></select></label>
<button type="button" id="play" aria-pressed="false">Play</button>
</div>
<label class="slide" for="token">Token <output id="place" for="token"></output></label>
<input type="range" id="token" min="1" max="${tokens.length}" step="1" value="1">
<p id="prompt" class="prompt" aria-hidden="true"></p>
</form>
<main>
<p id="story" class="story"></p>
<section id="view-overwritten" class="wide"><h2>Overwritten</h2>
<p class="how">Pairs that were held, with a cosine of ${enough} or more, until a later token with a key like theirs (as much) wrote another value in their place.</p><div class="body"></div></section>
${views.map(({ name, heading, how }) => `<section id="view-${name}"><h2>${escapeXml(heading)}</h2>\n<p class="how">${escapeXml(how)}</p><div class="body"></div></section>`).join('\n')}
<section id="view-pairs" class="wide"><h2>Pairs written so far</h2>
<p class="how">Each token writes a pair. How well it was held after its own write, how well it is held now, and the token that took most of it.</p><div class="body"></div></section>
<section id="view-missing" class="wide"><h2>What this layer has not</h2><div class="body"></div></section>
</main>
<script type="application/json" id="numbers">${inScript(json)}</script>
<script type="application/json" id="open">${inScript(JSON.stringify(open))}</script>
<script type="text/plain" id="grids">${grids}</script>
<script>${script()}</script>
</html>
`
}

const style = `
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #1d1f21; --soft: #5d6166; --rule: #e2dfd8; --plus: #0a58c9; --minus: #c4500a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1c1f23; --ink: #e7e6e2; --soft: #a2a6ab; --rule: #33373c; --plus: #6fb0ff; --minus: #ff9f57; --bad: #ff8a80; } }
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; -webkit-text-size-adjust: 100%; }
body { margin: 0; }
header, main, .controls { max-width: 84rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
.tool { margin: 0; color: var(--soft); font-size: .875rem; }
h1 { margin: .1rem 0 .6rem; font-size: clamp(1.4rem, 3.5vw, 2rem); line-height: 1.2; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .25rem; font-size: 1.1rem; line-height: 1.3; }
.facts, .how, .words { color: var(--soft); font-size: .875rem; margin: 0; max-width: 46rem; }
.problem { color: var(--bad); }
.controls { position: sticky; top: 0; z-index: 1; background: var(--paper); border-bottom: 1px solid var(--rule); padding-top: .75rem; padding-bottom: .6rem; margin-top: 1rem; }
.choices { display: flex; flex-wrap: wrap; gap: .4rem .8rem; font-size: .9rem; align-items: center; margin-bottom: .4rem; }
select, button { font: inherit; font-size: .9rem; color: var(--ink); background: var(--card); border: 1px solid var(--soft); border-radius: 5px; padding: .2rem .5rem; min-height: 2rem; }
button { cursor: pointer; }
:focus-visible { outline: 3px solid var(--plus); outline-offset: 2px; }
.slide { display: block; font-size: .9rem; }
input[type=range] { width: 100%; margin: .15rem 0; height: 1.75rem; accent-color: var(--plus); }
.prompt { margin: 0; font: .95rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 6.4em; overflow-y: auto; }
.prompt span { border-radius: 2px; cursor: pointer; padding: .08em 0; background: color-mix(in srgb, var(--tone, var(--plus)) calc(var(--part, 0) * 75%), transparent); }
.prompt span.later { color: var(--soft); }
.prompt span.now { outline: 2px solid var(--ink); }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 2rem 2.5rem; padding-top: 1rem; padding-bottom: 3rem; align-items: start; }
.story { grid-column: 1 / -1; margin: 0; font-size: 1rem; min-height: 3em; max-width: 62rem; }
.wide { grid-column: 1 / -1; }
section { min-width: 0; }
.body { margin-top: .5rem; }
.wide > .body { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem; }
#view-overwritten > .body, #view-pairs > .body, #view-missing > .body { display: block; }
figure { margin: 0 0 .75rem; min-width: 0; }
.picture { display: block; max-width: 100%; height: auto; }
figcaption.words { margin-top: .2rem; }
.events { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .5rem; }
.events button { text-align: left; padding: .35rem .6rem; line-height: 1.35; }
.events button[aria-current=true] { border-color: var(--plus); box-shadow: inset 0 0 0 1px var(--plus); }
.events small, td small { color: var(--soft); }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.scroll { max-height: 26rem; overflow: auto; border: 1px solid var(--rule); border-radius: 5px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; font-weight: 400; padding: .2rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--card); color: var(--soft); }
td.held { background: linear-gradient(to right, color-mix(in srgb, var(--tone, var(--plus)) 28%, transparent) calc(var(--part) * 100%), transparent 0); }
tr.now th { font-weight: 700; }
@media (max-width: 40rem) { header, main, .controls { padding-left: .8rem; padding-right: .8rem; } .prompt { max-height: 4.7em; font-size: .85rem; } th, td { padding: .2rem .35rem; } }
@media (max-height: 34rem) { .controls { position: static; } }
@media print { .controls { position: static; } .scroll { max-height: none; } }
`
