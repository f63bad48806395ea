/** The programs in README.md and docs/, which test/package/docs.test.ts compiles and runs. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { linesOf, root } from '../study/source.mjs'

const pages = ['README.md', ...readdirSync(join(root, 'docs')).flatMap((name) => (name.endsWith('.md') ? [`docs/${name}`] : []))]

/** Each with the page and the heading that it stands under, its text, and the identifiers in it. */
export const examples = pages.flatMap((page) => {
  const found = []
  let heading = ''
  let begin = -1
  const lines = linesOf(page)
  lines.forEach((line, i) => {
    if (begin < 0 && /^#+ /.test(line)) heading = line.replace(/^#+ /, '')
    if (line === '```ts') begin = i + 1
    else if (line === '```' && begin >= 0) {
      const text = lines.slice(begin, i).join('\n')
      const title = `${page.replace(/^docs\/|\.md$/g, '')}: ${heading}`
      found.push({
        page,
        line: begin + 1,
        heading,
        title,
        text,
        id: `${page}-${found.length + 1}`.replace(/\W+/g, '-'),
        identifiers: new Set(text.match(/[A-Za-z_$][\w$]*/g)),
      })
      begin = -1
    }
  })
  return found
})
