/**
 * The repository's sources as pages show them: read when the site is built, found by a text that stands there exactly once, highlighted. What isn't
 * found, or not once, fails the build.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createCssVariablesTheme, createHighlighter } from 'shiki'
import { escaped } from '../layout/html.mjs'

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const languages = { ts: 'typescript', wgsl: 'wgsl', md: 'markdown' }
const theme = createCssVariablesTheme({ variablePrefix: '--code-' })
const highlighter = await createHighlighter({ themes: [theme], langs: ['typescript', 'wgsl', 'markdown'] })

const texts = new Map()

/** The lines of a file of the repository. */
export function linesOf(file) {
  let lines = texts.get(file)
  if (!lines) {
    if (!existsSync(join(root, file))) throw new Error(`site: there is no file ${file}`)
    lines = readFileSync(join(root, file), 'utf8').replace(/\n$/, '').split('\n')
    texts.set(file, lines)
  }
  return lines
}

/** The number, from 1, of the only line of a file that has this text; from `begin` to `end` where they are given. */
export function lineOf(file, text, begin = 1, end = linesOf(file).length) {
  const found = []
  linesOf(file).forEach((line, i) => {
    if (i + 1 >= begin && i + 1 <= end && line.includes(text)) found.push(i + 1)
  })
  if (found.length === 1) return found[0]
  const where = begin === 1 && end === linesOf(file).length ? file : `${file}, lines ${begin} to ${end},`
  throw new Error(`site: ${where} has '${text}' ${found.length === 0 ? 'nowhere' : `${found.length} times (lines ${found.join(', ')})`}`)
}

const depth = (line) => line.length - line.trimStart().length

/** The last line of what begins with a line: what is indented more deeply, and what closes it. */
function endOf(lines, first) {
  let last = first
  for (let i = first + 1; i < lines.length; i++) {
    if (lines[i].trim() === '') continue
    if (depth(lines[i]) < depth(lines[first])) break
    if (depth(lines[i]) === depth(lines[first]) && !/^[)\]}]/.test(lines[i].trim())) break
    last = i
  }
  return last
}

/** Where the comment above a line begins. */
function docOf(lines, first) {
  let i = first
  if (i > 0 && lines[i - 1].trim().endsWith('*/')) {
    i--
    while (i > 0 && !lines[i].trim().startsWith('/**')) i--
  } else while (i > 0 && /^\s*\/\//.test(lines[i - 1])) i--
  return i
}

/** What begins at a line of a file, to its end. */
export const spanOf = (file, line) => ({ begin: line, end: endOf(linesOf(file), line - 1) + 1 })

/**
 * A part of a file: from the only line with the text `from` to the end of what begins there, or `through` the end of what begins at another text, or `to` the
 * line with a text; with the comment above it, unless `doc` is false. Lines are counted from 1.
 */
export function excerpt({ file, from, through = from, to, doc = true }) {
  const lines = linesOf(file)
  const anchor = lineOf(file, from)
  const end = to === undefined ? endOf(lines, lineOf(file, through, anchor) - 1) + 1 : lineOf(file, to, anchor)
  return { file, begin: doc ? docOf(lines, anchor - 1) + 1 : anchor, end }
}

/** The text of the comment above the only line of a file with a text; '' where there is none. */
export function docText(file, text) {
  const lines = linesOf(file)
  const at = lineOf(file, text) - 1
  return lines
    .slice(docOf(lines, at), at)
    .map((line) => line.replace(/^\s*(\/\*\*|\*\/|\*|\/\/+)?\s?/, '').replace(/\s*\*\/$/, ''))
    .join('\n')
    .trim()
}

/** Which of the theme's colours a token has, as a class; '' for the text's own. */
const kindOf = (color) => color?.match(/--code-token-([\w-]+)\)/)?.[1] ?? ''

const highlights = new Map()

/** The lines of a file as [text, kind] pairs. */
function tokensOf(file) {
  let lines = highlights.get(file)
  if (!lines) {
    const lang = languages[file.match(/\.(\w+)$/)?.[1]]
    if (!lang) throw new Error(`site: ${file} is in no language that is highlighted`)
    const { tokens } = highlighter.codeToTokens(linesOf(file).join('\n'), { lang, theme: 'css-variables' })
    lines = tokens.map((line) => line.map(({ content, color }) => [content, kindOf(color)]))
    highlights.set(file, lines)
  }
  return lines
}

/** Text of code with the identifiers of `names` (a Map from identifiers to names) marked. */
function marked(text, names) {
  if (names.size === 0) return escaped(text)
  return text
    .split(/([A-Za-z_$][\w$]*)/)
    .map((part, i) => (i % 2 === 1 && names.has(part) ? `<span data-name="${names.get(part)}">${part}</span>` : escaped(part)))
    .join('')
}

/** What all lines of a part are indented by. */
export const indentOf = (file, begin, end) =>
  Math.min(
    ...linesOf(file)
      .slice(begin - 1, end)
      .filter((line) => line.trim() !== '')
      .map(depth),
  )

/**
 * The lines `begin` to `end` of a file as HTML, each with its number as a link. `href(line)`: where a line is shown; `names`: see `marked`; `ids`: whether
 * lines can be linked to; `indent`: what all lines are indented by less.
 */
export function codeLines(file, begin, end, { href, names = new Map(), ids = false, indent = ids ? 0 : indentOf(file, begin, end) }) {
  return tokensOf(file)
    .slice(begin - 1, end)
    .map((tokens, i) => {
      const number = begin + i
      const text = linesOf(file)[number - 1]
      let left = indent
      const html = tokens.map(([content, kind]) => {
        const cut = content.slice(Math.min(left, content.length))
        left -= content.length - cut.length
        const inner = marked(cut, kind === 'comment' || kind === 'string-expression' ? new Map() : names)
        return kind && cut.trim() ? `<span class="${kind}">${inner}</span>` : inner
      })
      const hang = Math.max(0, depth(text) - indent) + 2
      return `<span class="line"${ids ? ` id="L${number}"` : ''} style="--hang:${hang}ch"><a class="number" tabindex="-1" aria-hidden="true" href="${href(number)}">${number}</a>${html.join('') || ' '}</span>`
    })
    .join('\n')
}

/** Which files have a page of their own on the site: sources of what is explained, and whatever else is linked to. */
export const shown = [
  ...['engine', 'nn', 'tasks', 'claims', 'kernels-wasm', 'kernels-wgsl'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .map((path) => `${folder}/${path.split(sep).join('/')}`)
      .filter((path) => /\.(ts|wgsl)$/.test(path) && !path.includes('/generated/')),
  ),
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
  'README.md',
].sort()

/** A program as HTML; identifiers that `link(identifier)` gives an address for lead there. */
export function snippet(text, link) {
  const { tokens } = highlighter.codeToTokens(text, { lang: 'typescript', theme: 'css-variables' })
  const html = (content) =>
    content
      .split(/([A-Za-z_$][\w$]*)/)
      .map((part, i) => (i % 2 === 1 && link(part) ? `<a href="${link(part)}">${part}</a>` : escaped(part)))
      .join('')
  return tokens
    .map((line) =>
      line
        .map(({ content, color }) => {
          const kind = kindOf(color)
          const inner = kind === 'comment' || kind === 'string-expression' ? escaped(content) : html(content)
          return kind && content.trim() ? `<span class="${kind}">${inner}</span>` : inner
        })
        .join(''),
    )
    .map((line) => `<span class="line">${line || ' '}</span>`)
    .join('\n')
}
