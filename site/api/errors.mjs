/** What a declaration says is wrong, from the messages in its source; of those it calls, only the check of a number. */
import { linesOf, spanOf } from '../study/source.mjs'

/** A text in quotes of one kind, or a template whose expressions have no templates within. */
const literal = String.raw`'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|${'`'}((?:[^${'`'}\\$]|\\.|\$(?!\{)|\$\{(?:[^{}${'`'}]|\{[^{}${'`'}]*\})*\})*)${'`'}`
const thrown = new RegExp(String.raw`throw new (\w*Error)\(\s*(?:${literal})`, 'g')
const number = new RegExp(String.raw`checkNumber\(\s*(?:${literal}),[^,()]+,\s*'([^']+)'`, 'g')

const readable = (text) =>
  text
    .replace(/\\(.)/g, '$1')
    .replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, '...')
    .replace(/\s+/g, ' ')
    .trim()

/** The messages, each with the class of the error; what varies is three dots. */
export function errorsOf({ fileName, line }) {
  const { begin, end } = spanOf(fileName, line)
  const text = linesOf(fileName)
    .slice(begin - 1, end)
    .join('\n')
  const found = [
    ...[...text.matchAll(thrown)].map(([, kind, ...texts]) => ({ kind, message: readable(texts.find((t) => t !== undefined)) })),
    ...[...text.matchAll(number)].map(([, ...texts]) => ({
      kind: 'Error',
      message: `${readable(texts.slice(0, 3).find((t) => t !== undefined))} must be ${texts[3]}, not ...`,
    })),
  ]
  return found.filter(({ kind, message }, i) => message !== '' && found.findIndex((e) => e.kind === kind && e.message === message) === i)
}
