/** What can be searched for: chapters and their sections, rules, nets, layers, and every public name. */
import { summaryOf } from '../api/api.mjs'
import { entries, names } from '../api/reflection.mjs'
import { chapters } from './chapters/index.mjs'
import { kinds } from './kinds.mjs'

export const data = { permalink: 'assets/search.json', layout: false }

/** Text without its marks. */
const plain = (text) =>
  text
    .replace(/\$[^$]*\$|\[@[\w-]+\]/g, '')
    .replace(/\[([^\]]+)\]\([^)]+\)/g, '$1')
    .replace(/[`*]/g, '')
    .replace(/\s+/g, ' ')
    .trim()

export default () =>
  JSON.stringify([
    ...chapters.map(({ slug, title, description, lead, sections }) => ({
      title,
      words: `${description} ${plain(lead)} ${sections.map(({ title, text }) => `${title} ${plain(text)}`).join(' ')}`,
      kind: 'chapter',
      path: `study/${slug}/`,
    })),
    ...kinds.map(({ kind, name, title, source, path }) => ({
      title: name,
      words: `${title} ${source}`,
      kind: { rules: 'rule', nets: 'net', layers: 'layer' }[kind],
      path,
    })),
    ...entries.flatMap(({ name: entry, path }) =>
      names.get(entry).map((declaration) => ({
        title: declaration.name,
        words: plain(summaryOf(declaration)),
        kind: entry,
        path: `${path}#${declaration.name}`,
      })),
    ),
  ])
