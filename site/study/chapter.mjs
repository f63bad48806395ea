/** A chapter of the path, from its data (chapters/) to HTML. Whatever it names, a line of code, a claim, a test or a check, has to exist. */
import { escaped } from '../layout/html.mjs'
import { chapters } from './chapters/index.mjs'
import { checkNames } from './checked.mjs'
import { claimOf, claimPath } from './claims.mjs'
import { formula, inline, math, prose } from './markup.mjs'
import { codeLines, excerpt, indentOf, lineOf } from './source.mjs'

/** From symbols of formulas, and from identifiers of code, to names. */
const marksOf = (names) => new Map(Object.entries(names).flatMap(([name, { math }]) => (math ? [[math, name]] : [])))
function identifiersOf({ title, names }) {
  const found = new Map()
  for (const [name, { code = [] }] of Object.entries(names))
    for (const identifier of code) {
      if (found.has(identifier))
        throw new Error(`site: in '${title}' the identifier '${identifier}' has two names: ${found.get(identifier)}, ${name}`)
      found.set(identifier, name)
    }
  return found
}

/** Numbers of a chapter's equations, by id. */
function numbersOf(chapter, place) {
  const equations = chapter.sections.flatMap(({ equations = [] }) => equations)
  const numbers = new Map(equations.map(({ id }, i) => [id, `${place}.${i + 1}`]))
  if (numbers.size < equations.length) throw new Error(`site: two equations of '${chapter.title}' have the same id`)
  return numbers
}

/** `to`, `source`: see build.mjs. */
export function chapterPage(chapter, { to, source }) {
  const place = chapters.indexOf(chapter) + 1
  const numbers = numbersOf(chapter, place)
  const marks = marksOf(chapter.names)
  const identifiers = identifiersOf(chapter)

  const link = (target) => {
    if (target.startsWith('page:')) return to(target.slice('page:'.length))
    const [, file, text] = target.match(/^source:([^#]+)#(.+)$/) ?? []
    if (file) return source(file, lineOf(file, text))
    throw new Error(`site: '${chapter.title}' has a link to '${target}', which is neither page: nor source:`)
  }
  const reference = (id) => {
    if (!numbers.has(id)) throw new Error(`site: '${chapter.title}' refers to the equation '${id}', which it hasn't`)
    return `<a class="ref" href="#eq-${id}">(${numbers.get(id)})</a>`
  }
  const context = { link, names: identifiers, marks, equation: reference }

  const equation = ({ id, tex, claim, test, check }) => {
    if (!claim === !test) throw new Error(`site: equation '${id}' of '${chapter.title}' must name a claim or a test`)
    if (check !== undefined && !checkNames.has(check)) throw new Error(`site: there is no check '${check}'`)
    const proof = claim
      ? `Claim: <a href="${escaped(to(claimPath(claimOf(claim).name)))}">${escaped(claim)}</a>`
      : `Test: <a href="${escaped(source(test[0], lineOf(test[0], test[1])))}">${escaped(test[1])}</a>, <span class="file">${escaped(test[0])}</span>`
    const live =
      check === undefined
        ? ''
        : `<button type="button" class="needs-scripts" data-check="${escaped(check)}">Check it on numbers</button><div class="outcome" aria-live="polite"></div>`
    return `<div class="equation" id="eq-${id}">
${formula(tex ?? claimOf(claim).equation, `Equation ${numbers.get(id)}`, marks)}
<a class="number" href="#eq-${id}" aria-label="Link to equation ${numbers.get(id)}">(${numbers.get(id)})</a>
<p class="proof">${proof}</p>
${live}
</div>`
  }

  const code = ({ file, begin, end }, indent = indentOf(file, begin, end)) =>
    `<pre class="code">${codeLines(file, begin, end, { href: (line) => source(file, line), names: identifiers, indent })}</pre>`
  const where = (file, begin, end) =>
    `<p class="where"><a href="${source(file, begin)}">${escaped(file)}</a>, ${begin === end ? `line ${begin}` : `lines ${begin} to ${end}`}</p>`

  /** Notes on the left, each beside the lines that it is about. */
  const annotated = (block) => {
    const { file, begin, end } = excerpt(block)
    const indent = indentOf(file, begin, end)
    const notes = (block.notes ?? []).map(([text, note]) => ({ line: lineOf(file, text, begin, end), note }))
    if (notes.some(({ line }, i) => i > 0 && line <= notes[i - 1].line))
      throw new Error(`site: the notes on ${file} in '${chapter.title}' aren't in the order of the lines`)
    const note = ({ line, note }) =>
      `<p class="note"><a href="${source(file, line)}" aria-label="Line ${line}">${line}</a> ${inline(note, context)}</p>`
    const rows = [{ line: begin, left: where(file, begin, end) }, ...notes.map((each) => ({ line: each.line, left: note(each) }))]
    // A note on the first line stands below where the code is from.
    if (notes[0]?.line === begin) rows.splice(0, 2, { line: begin, left: rows[0].left + rows[1].left })
    return rows
      .map(({ line, left }, i) => {
        const last = (rows[i + 1]?.line ?? end + 1) - 1
        return `<div class="pair"><div class="notes">${left}</div>${code({ file, begin: line, end: last }, indent)}</div>`
      })
      .join('\n')
  }

  const columns = (blocks) =>
    `<div class="columns">${blocks
      .map((block) => {
        const { file, begin, end } = excerpt(block)
        return `<div class="column"><h3>${escaped(block.title)}</h3>${where(file, begin, end)}${code({ file, begin, end })}</div>`
      })
      .join('\n')}</div>`

  const section = ({ title, text, equations = [], code, columns: blocks }) => {
    const words = `<div class="text">${prose(text, context)}</div>`
    const before = equations.length === 0 ? words : `<div class="pair">${words}<div>${equations.map(equation).join('\n')}</div></div>`
    const id = title.toLowerCase().replace(/\W+/g, '-').replace(/^-|-$/g, '')
    return `<section id="${id}"><h2>${escaped(title)}</h2>\n${before}\n${code ? annotated(code) : columns(blocks)}</section>`
  }

  const legend = Object.entries(chapter.names)
    .map(
      ([name, { math: symbol, code = [], means }]) =>
        `<li><button type="button" data-name="${name}" data-means="${escaped(means)}" aria-label="${escaped(`${name}: ${means}`)}" aria-pressed="false">${symbol ? math(symbol) : `<code>${escaped(code[0])}</code>`}</button><span>${escaped(means)}</span></li>`,
    )
    .join('\n')
  const [before, after] = [chapters[place - 2], chapters[place]]
  const step = (other, label, rel) =>
    other ? `<a rel="${rel}" href="${to(`study/${other.slug}/`)}">${label}: ${escaped(other.title)}</a>` : ''
  return `<p class="crumb"><a href="${to('study/')}">Study</a>, ${place} of ${chapters.length}</p>
<h1>${escaped(chapter.title)}</h1>
<div class="lead">${prose(chapter.lead, context)}</div>
<div class="legend"><h2>Names</h2>
<p class="soft small needs-scripts">A name lights up wherever it stands, in code and in formulas: point at it, press it here, or tap it.</p>
<ul>${legend}</ul>
<p class="needs-scripts"><button type="button" id="check-all">Check all equations of this page</button> <span id="checked" role="status"></span></p></div>
${chapter.sections.map(section).join('\n')}
<nav class="steps" aria-label="Chapters">${step(before, 'Before', 'prev')}${step(after, 'Next', 'next')}</nav>
<p id="tip" role="status" hidden></p>`
}
