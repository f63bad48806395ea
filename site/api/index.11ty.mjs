/** The first page of the API. */
import { escaped } from '../layout/html.mjs'
import { examples } from './examples.mjs'
import { entries, names } from './reflection.mjs'

export const data = {
  title: 'API',
  description: 'Every public name of fastweights, from the comments in the sources: shapes, units, errors; searched in the page.',
  permalink: 'api/',
  styles: ['study'],
  scripts: ['search'],
}

export default function () {
  const count = [...names.values()].reduce((n, { length }) => n + length, 0)
  return `<h1>API</h1>
<p>All ${count} public names of the four entry points. Shapes stand in brackets, by letters: B batch, H heads, T time, D model width, K key width, V value width, C chunk, N classes, R rows.
Whatever is given wrongly throws an error whose message names the function, the shapes and what to do; an entry lists the messages of its own.</p>
<form class="search needs-scripts" role="search"><label for="search">Search the study and the API</label> <input type="search" id="search" autocomplete="off"><ul id="found"></ul><p id="searched" role="status" class="soft small"></p></form>
${entries
  .map(
    ({ name, path, words }) => `<h2><a href="${this.to(path)}"><code>${name}</code></a></h2>
<p>${escaped(words)}</p>
<p class="small all">${names
      .get(name)
      .map((declaration) => declaration.name)
      .sort((a, b) => a.localeCompare(b, 'en'))
      .map((each) => `<a href="${this.to(path)}#${each}">${escaped(each)}</a>`)
      .join(' ')}</p>`,
  )
  .join('\n')}
<h2><a href="${this.to('api/examples/')}">Examples</a></h2>
<p>${examples.length} programs from the documents. The tests compile and run each of them.</p>`
}
