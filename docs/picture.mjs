/**
 * Draws fast-weights.svg: three pairs written by the delta rule and one read, with the numbers that the library computes.
 * node docs/picture.mjs, after npm run build
 */
import { writeFileSync } from 'node:fs'
import { deltaRule, sumRule, tensor } from 'fastweights'

/** Two keys of length 1 that are orthogonal. The first one comes twice, the second time with another value. */
const [a, b] = [
  [0.8, 0, 0, 0.6, 0],
  [0, 0.6, 0, 0, 0.8],
]
const keys = [a, b, a]
const values = [
  [1, -1, 0, 1, 0, -1],
  [0, 1, 1, -1, 0, 1],
  [-1, 0, 1, 0, 1, 1],
]
const [K, V] = [a.length, values[0].length]

/** The state, and what the last query reads, after the first n pairs. */
async function after(n, rule) {
  const given = (rows) => tensor(rows.slice(0, n).flat(), { shape: [1, n, 1, rows[0].length] })
  const beta = rule === deltaRule ? [tensor(Array(n).fill(1), { shape: [1, n, 1] })] : []
  const { y, state } = rule(given(keys), given(keys), given(values), ...beta)
  return { S: Array.from(await state.S.read()), y: Array.from(await y.read()).slice(-V) }
}

const cell = 20
const grey = '#6e7781' // at least 4 to 1 on white and on GitHub's dark background
const width = 860

/** Numbers as squares: blue above 0, orange below, the stronger the larger. */
const squares = (x, y, columns, numbers) =>
  numbers
    .map((number, i) => {
      const [left, top] = [x + (i % columns) * cell, y + Math.floor(i / columns) * cell]
      const strength = Math.min(Math.abs(number), 1).toFixed(2)
      return `<rect x="${left}" y="${top}" width="${cell}" height="${cell}" fill="${number < 0 ? '#f0883e' : '#388bfd'}" fill-opacity="${strength}" stroke="${grey}" stroke-opacity="0.6"/>`
    })
    .join('\n')
const text = (x, y, words, more = '') => `<text x="${x}" y="${y}" ${more}>${words}</text>`
const arrow = (x1, y1, x2, y2) => `<path d="M${x1} ${y1}L${x2} ${y2}" stroke="${grey}" stroke-width="1.5" marker-end="url(#head)"/>`
const bold = 'font-weight="600"'
const middle = 'text-anchor="middle"'

const index = ['₁', '₂', '₃']
const top = 120
const bottom = top + 36 + K * cell
const matrixAt = (i) => 62 + i * 212

/** The pair number i, and the fast weights after it. */
async function written(i) {
  const x = matrixAt(i)
  const { S } = await after(i + 1, deltaRule)
  return [
    arrow(x - 26, 62, x - 26, top + 24),
    arrow(x + (V * cell) / 2, 62, x + (V * cell) / 2, top - 20),
    text(x - 36, top + 12, `k${index[i]}`, 'text-anchor="end" font-style="italic"'),
    text(x + (V * cell) / 2 + 10, top - 20, `v${index[i]}`, 'font-style="italic"'),
    squares(x - 36, top + 36, 1, keys[i]),
    squares(x, top - 12, V, values[i]),
    squares(x, top + 36, V, S),
    text(x + (V * cell) / 2, bottom + 18, `S${index[i]}`, `${middle} font-style="italic"`),
  ].join('\n')
}

async function read() {
  const x = matrixAt(3)
  const delta = await after(3, deltaRule)
  const sum = await after(3, sumRule)
  return [
    arrow(x - 26, 62, x - 26, top + 24),
    text(x - 36, top + 12, 'q', 'text-anchor="end" font-style="italic"'),
    squares(x - 36, top + 36, 1, a),
    squares(x, top + 36, V, delta.S),
    arrow(x + (V * cell) / 2, bottom + 2, x + (V * cell) / 2, bottom + 20),
    squares(x, bottom + 26, V, delta.y),
    text(x - 8, bottom + 41, 'y = v₃', 'text-anchor="end" font-style="italic"'),
    squares(x, bottom + 76, V, sum.y),
    text(x + (V * cell) / 2, bottom + 114, 'the sum rule reads v₁ + v₃', `${middle} font-size="12"`),
  ].join('\n')
}

const captions = [
  ['A pair is written:', 'S = k vᵀ'],
  ['A second one, at another', 'key, leaves the first alone'],
  ['The first key again: its value', 'is replaced (the delta rule)'],
]

const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${bottom + 124}" viewBox="0 0 ${width} ${bottom + 124}" role="img" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="14" fill="${grey}">
<title>A slow network makes keys and values, which are written into a matrix of fast weights; a query reads it</title>
<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto"><path d="M0 0L8 4L0 8z" fill="${grey}"/></marker></defs>
<rect x="14" y="14" width="${width - 28}" height="48" rx="8" fill="none" stroke="${grey}" stroke-width="1.5"/>
${text(30, 43, `<tspan ${bold}>Slow network</tspan>: for each token it makes a key, a value and a query. Gradient descent trains it; then it stays.`)}
${(await Promise.all(keys.map((_, i) => written(i)))).join('\n')}
${await read()}
${captions.map((lines, i) => lines.map((line, j) => text(matrixAt(i) - 36, bottom + 44 + j * 18, line, 'font-size="13"')).join('\n')).join('\n')}
${text(26, bottom + 92, `<tspan ${bold}>Fast weights</tspan>: the matrix S, written anew by every sequence.`)}
${text(26, bottom + 112, 'Blue numbers are above 0, orange ones below.', 'font-size="12"')}
</svg>
`

if (process.argv[2] === '-') process.stdout.write(svg)
else writeFileSync(new URL('./fast-weights.svg', import.meta.url), svg)
