/** Notes as HTML: paragraphs with `code`, $formulas$, *stress* and [links](target); formulas as MathML with their names marked. */
import temml from 'temml'
import { pieces } from '../../dist/cli/report.js'
import { escaped } from '../layout/html.mjs'

/** TeX as MathML; `marks`: a Map from symbols (as they are in MathML) to names. */
export function math(tex, { display = false, marks = new Map() } = {}) {
  const html = temml.renderToString(tex, { displayMode: display, throwOnError: true, annotate: false })
  return html.replace(/<mi([^>]*)>([^<]+)<\/mi>/g, (whole, style, symbol) =>
    marks.has(symbol) ? `<mi${style} data-name="${marks.get(symbol)}">${symbol}</mi>` : whole,
  )
}

/** A formula for itself, in pieces that may stand below each other where there is little room. */
export const formula = (tex, label, marks) =>
  `<div class="formula" role="group" tabindex="0" aria-label="${label}">${pieces(tex)
    .map((piece) => math(piece, { display: true, marks }))
    .join('\n')}</div>`

/**
 * Text with its marks. `link(target)`: the address of a link's target; `names`: a Map from identifiers to names; `marks`: see `math`;
 * `equation(id)`: how an equation is referred to with [@id].
 */
export function inline(text, { link, names = new Map(), marks, equation }) {
  const parts = text.split(/(`[^`]+`|\$[^$]+\$|\[@[\w-]+\]|\[[^\]]+\]\([^)]+\)|\*[^*\s][^*]*\*)/)
  return parts
    .map((part, i) => {
      if (i % 2 === 0) return escaped(part)
      if (part.startsWith('`')) {
        const code = part.slice(1, -1)
        return names.has(code) ? `<code data-name="${names.get(code)}">${code}</code>` : `<code>${escaped(code)}</code>`
      }
      if (part.startsWith('$')) return math(part.slice(1, -1), { marks })
      if (part.startsWith('[@')) return equation(part.slice(2, -1))
      if (part.startsWith('*')) return `<em>${escaped(part.slice(1, -1))}</em>`
      const [, label, target] = part.match(/^\[([^\]]+)\]\(([^)]+)\)$/)
      return `<a href="${escaped(link(target))}">${inline(label, { link, names, marks, equation })}</a>`
    })
    .join('')
}

/** Paragraphs, which blank lines part. */
export const prose = (text, context) =>
  text
    .trim()
    .split(/\n\s*\n/)
    .map((paragraph) => `<p>${inline(paragraph.replace(/\s+/g, ' '), context)}</p>`)
    .join('\n')
