/** The imports of code that is run where bare names mean nothing: found by CodeMirror's own parser. */
import { javascriptLanguage } from '@codemirror/lang-javascript'
import { type Entry, entries, type Pieces } from './entries.ts'

/** The code with the names of modules cut out. Throws an Error that says the line where one isn't a part of the package. */
export function cutImports(code: string): Pieces {
  const pieces: (string | number)[] = []
  let end = 0
  javascriptLanguage.parser.parse(code).iterate({
    enter(node) {
      const { name, from, to } = node
      const place = node.node.parent?.name ?? ''
      if (name !== 'String' || !['ImportDeclaration', 'ExportDeclaration', 'DynamicImport'].includes(place)) return
      // A text may be what is exported.
      if (place === 'ExportDeclaration' && node.node.prevSibling?.name !== 'from') return
      const module = code.slice(from + 1, to - 1)
      const entry = entries.indexOf(module as Entry)
      if (entry < 0) {
        const line = code.slice(0, from).split('\n').length
        throw new Error(`line ${line} imports ${JSON.stringify(module)}; here there are ${entries.join(', ')}`)
      }
      pieces.push(code.slice(end, from + 1), entry)
      end = to - 1
    },
  })
  return [...pieces, code.slice(end)]
}
