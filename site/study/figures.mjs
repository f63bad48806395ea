/** Rows of docs/figures.md about something: where its name stands in the first cell, as code. */
import { linesOf } from './source.mjs'

const cells = (line) =>
  line
    .slice(1, -1)
    .split('|')
    .map((cell) => cell.trim())

/** Each table: its heading, the line where it begins, its columns, and its rows. */
const tables = (() => {
  const found = []
  let heading = ''
  let open
  linesOf('docs/figures.md').forEach((line, i) => {
    if (line.startsWith('## ')) heading = line.slice(3)
    if (!line.startsWith('|')) open = undefined
    else if (!open) found.push((open = { heading, line: i + 1, columns: cells(line), rows: [] }))
    else if (!/^[-| ]*$/.test(line)) open.rows.push(cells(line))
  })
  return found
})()

/** Tables with only the rows whose first cell names one of these. */
export const figuresOf = (...names) =>
  tables
    .map((table) => ({ ...table, rows: table.rows.filter(([first]) => names.some((name) => first.includes(`\`${name}\``))) }))
    .filter(({ rows }) => rows.length > 0)
