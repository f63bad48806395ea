/** The first page of the study: the path, and what else there is to read. */
import { escaped } from '../layout/html.mjs'
import { chapters } from './chapters/index.mjs'
import { kinds } from './kinds.mjs'

export const data = {
  title: 'Study',
  description: 'Fast weights read from their code: nine chapters in an hour, a page for each rule, net and layer, and the API.',
  permalink: 'study/',
  styles: ['study'],
  scripts: ['search'],
}

const equations = chapters.reduce((n, { sections }) => n + sections.reduce((m, { equations = [] }) => m + equations.length, 0), 0)
const count = (kind) => kinds.filter((page) => page.kind === kind).length

export default function () {
  return `<h1>Study</h1>
<p>The code of this library is meant to be read. Here it stands beside what it means: notes next to the lines, the equations of the papers, and
for each of the ${equations} equations the claim or the test that holds the code to it. Most can be checked on small numbers, in the page. All code is taken from the
sources when the site is built.</p>
<form class="search needs-scripts" role="search"><label for="search">Search the study and the API</label> <input type="search" id="search" autocomplete="off"><ul id="found"></ul><p id="searched" role="status" class="soft small"></p></form>
<h2>The path of an hour</h2>
<ol class="path">${chapters.map(({ slug, title, description }) => `<li><a href="${this.to(`study/${slug}/`)}">${escaped(title)}</a><br><span class="soft">${escaped(description)}</span></li>`).join('\n')}</ol>
<h2>One by one</h2>
<p><a href="${this.to('study/rules/')}">A page for each</a> of ${count('rules')} rules, ${count('nets')} recurrent nets and ${count('layers')} kinds of layers: formula, code, forms, speed, claims, and an example that runs.</p>
<h2>Every name</h2>
<p><a href="${this.to('api/')}">The API</a>, from the comments in the sources: shapes, units, errors.</p>`
}
