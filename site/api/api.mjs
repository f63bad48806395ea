/** The pages of the API, from what TypeDoc reads (reflection.mjs). */
import { escaped } from '../layout/html.mjs'
import { linesOf } from '../study/source.mjs'
import { errorsOf } from './errors.mjs'
import { examples } from './examples.mjs'
import { Kind, names } from './reflection.mjs'
import { typeWriter } from './types.mjs'

/** A type that is longer than this is left to the source. */
const longest = 700

const kindName = {
  [Kind.Variable]: 'value',
  [Kind.Function]: 'function',
  [Kind.Class]: 'class',
  [Kind.Interface]: 'interface',
  [Kind.TypeAlias]: 'type',
}

const textOf = (parts = []) => parts.map(({ text, tag }) => (tag === '@link' ? `\`${text}\`` : text)).join('')
const commentOf = (reflection) =>
  reflection.comment ?? reflection.signatures?.find(({ comment }) => comment)?.comment ?? reflection.getSignature?.comment

/** The comment of a declaration in plain text; '' where it has none. */
export const summaryOf = (reflection) => textOf(commentOf(reflection)?.summary)

/** Comments are text with `code`; equations and lists keep their lines. */
function words(comment) {
  if (!comment) return ''
  const text = textOf(comment.summary)
  return text
    .split(/\n\s*\n/)
    .map((paragraph) =>
      paragraph.split('\n').every((line) => /^ {4}/.test(line))
        ? `<pre class="lines">${escaped(paragraph.replace(/^ {4}/gm, ''))}</pre>`
        : `<p>${marks(paragraph)}</p>`,
    )
    .join('\n')
}

/** Only `code` is a mark in comments: stars and dollars stand for themselves. */
const marks = (text) =>
  text
    .split(/`([^`]+)`/)
    .map((part, i) => (i % 2 === 1 ? `<code>${escaped(part)}</code>` : escaped(part)))
    .join('')

/** What the comment at the head of a file says all of it is about; '' where there is none, or it belongs to what comes next. */
function headOf(file) {
  const lines = linesOf(file)
  const end = lines.findIndex((line) => line.includes('*/'))
  if (!lines[0].startsWith('/**') || /^(export|const|function) /.test(lines[end + 1] ?? '')) return ''
  const text = lines
    .slice(0, end + 1)
    .map((line) => line.replace(/^\/\*\*\s?|^ \*\/|^ \* ?/g, '').replace(/\s*\*\/$/, ''))
    .join('\n')
    .trim()
  return words({ summary: [{ text }] })
}

/** The page of an entry point. */
export function apiPage({ name: entry, words: about }, { to, source }) {
  const types = typeWriter(to)
  const declarations = names.get(entry)
  const where = ({ sources: [{ fileName, line }] }) =>
    `<a class="file" href="${source(fileName, line)}">${escaped(fileName)}, line ${line}</a>`
  const signature = (text) => `<pre class="signature">${text}</pre>`

  /** Parameters and members that have something to be said about. */
  const table = (head, rows) =>
    rows.length === 0
      ? ''
      : `<div class="scroll" role="group" tabindex="0" aria-label="${head[0]}s"><table class="members"><thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join('')}</tr></thead><tbody>${rows
          .map((cells) => `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`)
          .join('\n')}</tbody></table></div>`

  const short = (html, { sources }) =>
    html.length > longest && sources ? `<a href="${source(sources[0].fileName, sources[0].line)}">see the source</a>` : html

  const memberRows = (members) =>
    members
      .filter(({ flags = {} }) => !flags.isExternal)
      .map((member) => {
        const { name, flags = {}, type, defaultValue, signatures, getSignature } = member
        const written = signatures ? signatures.map((s) => types.call(s)).join('<br>') : types.write(type ?? getSignature?.type)
        const value =
          defaultValue && defaultValue !== '...' && defaultValue.length < 40 ? ` <span class="soft">= ${escaped(defaultValue)}</span>` : ''
        return [
          `<code>${flags.isStatic ? 'static ' : ''}${escaped(name)}${flags.isOptional ? '?' : ''}</code>`,
          `<code>${short(written, member)}</code>${value}`,
          words(commentOf(member)),
        ]
      })

  const parameterRows = ({ parameters = [] }) =>
    parameters
      .filter(({ defaultValue, comment }) => comment || (defaultValue && defaultValue !== '{}' && defaultValue !== '...'))
      .map(({ name, defaultValue, comment }) => [
        `<code>${escaped(name)}</code>`,
        defaultValue && defaultValue !== '...' ? `<code>${escaped(defaultValue)}</code>` : '',
        words(comment),
      ])

  const bodies = {
    [Kind.Function]: ({ name, signatures }) =>
      signatures
        .map(
          (s) =>
            `${signature(`${escaped(name)}${types.call(s)}`)}${words(s.comment)}${table(['parameter', 'by default', 'what it is'], parameterRows(s))}`,
        )
        .join('\n'),
    [Kind.Variable]: (declaration) => {
      const { name, type, comment } = declaration
      const keys = type.type === 'reflection' && type.declaration.children?.map((child) => `<code>${escaped(child.name)}</code>`)
      const written = types.write(type)
      const long = written.length > longest
      return `${signature(`const ${escaped(name)}: ${long ? (keys ? '{ ... }' : '...') : written}`)}${words(comment)}${long && keys ? `<p>Has: ${keys.join(', ')}.</p>` : ''}`
    },
    [Kind.TypeAlias]: (declaration) => {
      const { name, type, comment } = declaration
      const members = type.type === 'reflection' && !type.declaration.signatures && type.declaration.children
      const written = members ? '{ ... }' : short(types.write(type), declaration)
      return `${signature(`type ${escaped(name)}${types.generics(declaration)} = ${written}`)}${words(comment)}${members ? table(['field', 'type', 'what it is'], memberRows(members)) : ''}`
    },
    [Kind.Interface]: (declaration) => {
      const { name, children = [], comment, extendedTypes, signatures, indexSignatures } = declaration
      const extended = extendedTypes ? ` extends ${extendedTypes.map(types.write).join(', ')}` : ''
      const calls = signatures ? `<p><code>${signatures.map((s) => types.call(s)).join('<br>')}</code></p>` : ''
      const indexed = indexSignatures
        ? `<p><code>${indexSignatures.map((s) => `[${s.parameters.map(types.parameter).join(', ')}]: ${types.write(s.type)}`).join('<br>')}</code></p>`
        : ''
      return `${signature(`interface ${escaped(name)}${types.generics(declaration)}${extended}`)}${words(comment)}${calls}${indexed}${table(['field', 'type', 'what it is'], memberRows(children))}`
    },
    [Kind.Class]: (declaration) => {
      const { name, children = [], comment, extendedTypes } = declaration
      const extended = extendedTypes ? ` extends ${extendedTypes.map(types.write).join(', ')}` : ''
      const own = children.filter(({ inheritedFrom }) => !inheritedFrom)
      const inherited = children.filter(({ inheritedFrom, flags = {} }) => inheritedFrom && !flags.isExternal)
      const made = own.filter(({ kind }) => kind === Kind.Constructor).flatMap(({ signatures }) => signatures)
      const more =
        inherited.length > 0
          ? `<p class="soft small">And what it inherits: ${inherited.map((child) => `<code>${escaped(child.name)}</code>`).join(', ')}.</p>`
          : ''
      return `${signature(`class ${escaped(name)}${types.generics(declaration)}${extended}${made.map((s) => `\nnew ${escaped(name)}(${(s.parameters ?? []).map(types.parameter).join(', ')})`).join('')}`)}${words(comment)}${made.map((s) => words(s.comment)).join('')}${table(['member', 'type', 'what it is'], memberRows(own.filter(({ kind }) => kind !== Kind.Constructor)))}${more}`
    },
  }

  const errors = ({ kind, sources }) => {
    const found = [Kind.Function, Kind.Class].includes(kind) ? errorsOf(sources[0]) : []
    const list = found.map(({ kind, message }) => `<li>${kind === 'Error' ? '' : `<code>${kind}</code>: `}${escaped(message)}</li>`)
    return list.length === 0
      ? ''
      : `<details class="errors"><summary>What is refused, and how it is said</summary><ul>${list.join('')}</ul></details>`
  }

  const used = (name) => {
    const found = examples.filter(({ identifiers }) => identifiers.has(name)).slice(0, 4)
    return found.length === 0
      ? ''
      : `<p class="small">Used in ${found.map(({ id, title }) => `<a href="${to(`api/examples/#${id}`)}">${escaped(title)}</a>`).join(', ')}.</p>`
  }

  const groups = new Map()
  for (const declaration of declarations) {
    const file = declaration.sources[0].fileName
    groups.set(file, [...(groups.get(file) ?? []), declaration])
  }
  const files = [...groups.keys()].sort()
  const idOf = (file) => `file-${file.replace(/\W+/g, '-')}`
  const contents = files
    .map(
      (file) =>
        `<li><a href="#${idOf(file)}">${escaped(file)}</a>: ${groups
          .get(file)
          .map(({ name }) => `<a href="#${name}">${escaped(name)}</a>`)
          .join(', ')}</li>`,
    )
    .join('\n')
  return `<p class="crumb"><a href="${to('api/')}">API</a></p>
<h1><code>${entry}</code></h1>
<p>${escaped(about)} ${declarations.length} public names.</p>
<details class="contents"><summary>All names by file</summary><ul>${contents}</ul></details>
${files
  .map(
    (file) => `<section id="${idOf(file)}"><h2><a href="${source(file, 1)}">${escaped(file)}</a></h2>
${headOf(file)}
${groups
  .get(file)
  .map(
    (
      declaration,
    ) => `<article class="entry" id="${declaration.name}"><h3><a href="#${declaration.name}">${escaped(declaration.name)}</a> <span class="kind">${kindName[declaration.kind]}</span></h3>
${bodies[declaration.kind](declaration)}
${errors(declaration)}
${used(declaration.name)}<p class="small">${where(declaration)}</p></article>`,
  )
  .join('\n')}</section>`,
  )
  .join('\n')}`
}
