/** All examples on one page. */
import { escaped } from '../layout/html.mjs'
import { snippet } from '../study/source.mjs'
import { examples } from './examples.mjs'
import { placeByName } from './reflection.mjs'

export const data = {
  title: 'Examples',
  description: 'The programs of the documents of fastweights; the tests compile and run each of them.',
  permalink: 'api/examples/',
  styles: ['study'],
}

export default function () {
  const link = (identifier) => {
    const place = placeByName.get(identifier)
    return place && `${this.to(place.path)}#${place.anchor}`
  }
  return `<p class="crumb"><a href="${this.to('api/')}">API</a></p>
<h1>Examples</h1>
<p>The programs of the documents. The tests compile each strictly, and run it. Names lead to their entries.</p>
${examples
  .map(
    ({ id, title, page, line, text }) => `<section id="${id}"><h2>${escaped(title)}</h2>
<p class="where"><a href="${this.source(page, line)}">${escaped(page)}</a></p>
<pre class="code">${snippet(text, link)}</pre></section>`,
  )
  .join('\n')}`
}
