/** The site's own pages of the sources, for links to a line; none where SOURCE_URL names the address of the repository. */
import { escaped } from '../layout/html.mjs'
import { chapters } from './chapters/index.mjs'
import { codeLines, linesOf, shown } from './source.mjs'

const tests = chapters.flatMap(({ sections }) => sections.flatMap(({ equations = [] }) => equations.flatMap(({ test }) => test?.[0] ?? [])))

export const data = {
  files: process.env.SOURCE_URL ? [] : [...shown, ...new Set(tests)],
  pagination: { data: 'files', size: 1, alias: 'file' },
  permalink: ({ file }) => `source/${file}/`,
  styles: ['study'],
  wide: true,
  eleventyComputed: {
    title: ({ file }) => file,
    description: ({ file }) => `The source of ${file}, as it was when the site was built.`,
  },
}

export default function ({ file, page }) {
  // Eleventy gives a template the page of its first use alone.
  this.page = page
  const count = linesOf(file).length
  return `<p class="crumb"><a href="${this.to('study/')}">Study</a>, sources</p>
<h1 class="path">${escaped(file)}</h1>
<pre class="code whole">${codeLines(file, 1, count, { href: (line) => `#L${line}`, ids: true })}</pre>`
}
