/** The pictures of an inspection, each a row: its heading, how to read it, and what it is for a layer, a head and a token. */
import type { Grid, Head, Inspection, Layer } from './data.ts'
import { bars, glyph, lines, map, number, type Picture } from './draw.ts'

export interface Scene {
  data: Inspection
  layer: Layer
  head: Head
  /** From 0. */
  token: number
  /** Of a picture. */
  width: number
}

export interface View {
  name: string
  heading: string
  how: string
  /** What a layer must have for it, a key of `missing`. */
  needs: string
  draw(scene: Scene): Picture[]
}

// --- Words ----------------------------------------------------------------------------------------------------------------------------

/** A character in the middle of a sentence. */
export const quoted = (character: string): string =>
  character === '\n' ? 'line break' : character === ' ' ? 'space' : `“${glyph(character)}”`

/** A token and the characters before it, as one line. */
export const context = (tokens: readonly string[], t: number, count = 9): string =>
  tokens
    .slice(Math.max(0, t + 1 - count), t + 1)
    .map(glyph)
    .join('')

/** “T” in “↵↵JULIET” */
export const seen = (tokens: readonly string[], t: number): string => `${quoted(tokens[t])}${t > 0 ? ` in “${context(tokens, t)}”` : ''}`

/** token 32 (“T” in “↵↵JULIET”) */
export const told = (tokens: readonly string[], t: number): string => `token ${t + 1} (${seen(tokens, t)})`
const Told = (tokens: readonly string[], t: number): string => told(tokens, t).replace('t', 'T')

const cosine = (x: number): string => (Number.isFinite(x) ? x.toFixed(2).replace('-', '−') : 'not a number')
const at = ({ shape, values }: Grid, row: number, column: number): number => values[row * shape[1] + column]
const biggest = ({ values }: Grid): number => {
  let most = 0
  for (let i = 0; i < values.length; i++) if (Math.abs(values[i]) > most) most = Math.abs(values[i])
  return most
}
const scales = new WeakMap<Grid, number>()
const scaleOf = (grid: Grid): number => {
  if (!scales.has(grid)) scales.set(grid, biggest(grid))
  return scales.get(grid)!
}

/** How well the pairs written up to a token are held after it. */
const heldAt = (recall: Grid, t: number): number[] => Array.from({ length: t + 1 }, (_, s) => at(recall, t, s))

/** What the write of a token takes most from, of the pairs before it. */
export function loses(recall: Grid, t: number): { pair: number; from: number; to: number } | undefined {
  let most: { pair: number; from: number; to: number } | undefined
  for (let pair = 0; pair < t; pair++) {
    const [from, to] = [at(recall, t - 1, pair), at(recall, t, pair)]
    if (from - to > (most ? most.from - most.to : 0)) most = { pair, from, to }
  }
  return most
}

/** What happens at a token. */
export function story({ data: { tokens }, head, token: t }: Scene): string {
  const { recall, before, after, gates, norms } = head
  const strength = Object.entries(gates).map(([name, values]) => `${name} ${number(values[t])}`)
  const first = `${Told(tokens, t)}${strength.length > 0 ? `: ${strength.join(', ')}` : ''}.`
  if (!recall) {
    const sizes = Object.entries(norms).map(([part, values]) => `${part} ${number(values[t])}`)
    return sizes.length > 0 ? `${first} Norms: ${sizes.join(', ')}.` : first
  }
  const lost = loses(recall, t)
  return [
    first,
    `Before its write its key finds its value with a cosine of ${cosine(before![t])}, after it ${cosine(after![t])}.`,
    ...(lost && lost.from - lost.to >= 0.05
      ? [`The write takes most from the pair of ${told(tokens, lost.pair)}: ${cosine(lost.from)} → ${cosine(lost.to)}.`]
      : t > 0
        ? ['The write takes little from any pair.']
        : []),
  ].join(' ')
}

// --- Pictures -------------------------------------------------------------------------------------------------------------------------

/** A matrix on a page may be that of an earlier token. */
const keptAt = ({ every }: Inspection, t: number): number => Math.floor(t / every)

const matrices: View = {
  name: 'state',
  heading: 'The fast weights',
  how: 'What the memory is after this token. Blue is above 0, orange below; the strongest colour is the largest number of the whole course, so that colours can be compared between tokens.',
  needs: 'states',
  draw: ({ data, head, token, width }) =>
    Object.entries(head.states).map(([part, grid]) => {
      const [, rows, columns] = grid.shape
      const which = keptAt(data, token)
      const from = which * rows * columns
      let [low, high] = [Infinity, -Infinity]
      for (let i = from; i < from + rows * columns; i++) {
        low = Math.min(low, grid.values[i])
        high = Math.max(high, grid.values[i])
      }
      const when = which * data.every
      const facts = [
        `${part}, ${rows} by ${columns}, after ${told(data.tokens, when)}: from ${number(low)} to ${number(high)}`,
        ...(part in head.norms ? [`norm ${number(head.norms[part][when])}, effective rank ${number(head.ranks[part][when])}`] : []),
      ]
      return map({
        name: `state-${part}`,
        title: `${part} after token ${when + 1}`,
        words: `${facts.join('; ')}.`,
        width,
        rows,
        columns,
        at: (r, c) => grid.values[from + r * columns + c],
        scale: scaleOf(grid),
        cell: 18,
        most: 420,
        below: part === 'S' ? 'channel of the value' : 'column',
        beside: part === 'S' ? 'channel of the key' : 'row',
        changing: true,
      })
    }),
}

const vectors: View = {
  name: 'vector',
  heading: 'Vectors of the state',
  how: 'What is carried beside matrices: a column for each token, a row for each channel.',
  needs: 'states',
  draw: ({ data: { tokens }, head, token, width }) =>
    Object.entries(head.vectors).map(([part, grid]) => {
      const [T, size] = grid.shape
      const now = Array.from({ length: size }, (_, i) => at(grid, token, i))
      const norm = Math.hypot(...now)
      return map({
        name: `vector-${part}`,
        title: `${part} over the tokens`,
        words: `${part}, ${size} numbers, after ${told(tokens, token)}: from ${number(Math.min(...now))} to ${number(Math.max(...now))}, of length ${number(norm)}.`,
        width,
        rows: size,
        columns: T,
        at: (r, c) => at(grid, c, r),
        scale: scaleOf(grid),
        most: 200,
        columnNames: tokens,
        below: 'token',
        beside: 'channel',
        marked: { columns: [token] },
        key: grid,
      })
    }),
}

const recall: View = {
  name: 'recall',
  heading: 'How long pairs are held',
  how: 'A row is a pair of key and value, written where its row meets the diagonal. To the right of it: how well its key still finds its value after later tokens, as a cosine. A row that fades is forgotten; one that ends at once, in white or orange, is overwritten. Pale, to the left: what the key would have found before.',
  needs: 'recall',
  draw: ({ data: { tokens }, head: { recall }, token, width }) => {
    const T = tokens.length
    const held = heldAt(recall!, token)
    const count = (test: (x: number) => boolean): number => held.filter(test).length
    const lost = loses(recall!, token)
    return [
      map({
        name: 'recall',
        title: 'Cosine of what a key retrieves with its value',
        words: `After ${told(tokens, token)}, of ${held.length} pairs ${count((x) => x >= 0.8)} are held with a cosine of 0.8 or more, ${count((x) => x < 0.3)} with less than 0.3.${
          lost
            ? ` This token's write takes most from the pair of ${told(tokens, lost.pair)}: ${cosine(lost.from)} → ${cosine(lost.to)}.`
            : ''
        }`,
        width,
        rows: T,
        columns: T,
        at: (s, t) => at(recall!, t, s),
        scale: 1,
        rowNames: tokens,
        columnNames: tokens,
        below: 'after token',
        beside: 'pair',
        marked: { columns: [token], rows: lost && lost.from - lost.to >= 0.05 ? [lost.pair] : [] },
        veiled: true,
        key: recall,
      }),
    ]
  },
}

const retrieval: View = {
  name: 'retrieval',
  heading: 'Before and after its own write',
  how: 'The cosine of what a token’s key retrieves with the token’s value. Where “before” is high, the memory knew the pair; a write that corrects brings “after” to 1.',
  needs: 'recall',
  draw: ({ data: { tokens }, head: { before, after }, token, width }) => [
    lines({
      name: 'retrieval',
      title: 'What a key retrieves before and after its write',
      words: `${Told(tokens, token)}: ${cosine(before![token])} before its write, ${cosine(after![token])} after it.`,
      width,
      lines: [
        { name: 'after', values: after! },
        { name: 'before', values: before! },
      ],
      low: Math.min(0, ...before!),
      high: 1,
      columnNames: tokens,
      below: 'token',
      token,
    }),
  ],
}

const gates: View = {
  name: 'gates',
  heading: 'Write strengths and gates',
  how: 'What each token writes with: beta is how strongly, exp(gate) what remains of the memory before. Of gates with a number for each channel, the mean.',
  needs: 'gates',
  draw: ({ data: { tokens }, layer, head, token, width }) =>
    Object.entries(head.gates).map(([name, values]) =>
      lines({
        name: `gates-${name.replace(/\W+/g, '-').replace(/-$/, '')}`,
        title: `${name} over the tokens`,
        words: `${name} of ${told(tokens, token)}: ${layer.heads.map((other) => `${number(other.gates[name][token])} in head ${other.number}`).join(', ')}.`,
        width,
        lines: layer.heads.map((other) =>
          other === head ? { name: `${name}, head ${head.number}`, values } : { name, values: other.gates[name], faint: true },
        ),
        low: 0,
        high: 1,
        columnNames: tokens,
        below: 'token',
        token,
      }),
    ),
}

/** A line for each matrix of the state. */
const ofMatrices = (name: 'norm' | 'rank', heading: string, how: string, of: (head: Head) => Record<string, number[]>): View => ({
  name,
  heading,
  how,
  needs: 'states',
  draw: ({ data: { tokens }, head, token, width }) => {
    const parts = Object.entries(of(head))
    if (parts.length === 0) return []
    return [
      lines({
        name,
        title: heading,
        words: `After ${told(tokens, token)}: ${parts.map(([part, values]) => `${part} ${number(values[token])}`).join(', ')}.`,
        width,
        lines: parts.map(([part, values]) => ({ name: part, values })),
        low: 0,
        columnNames: tokens,
        below: 'token',
        token,
      }),
    ]
  },
})

const similarity: View = {
  name: 'similarity',
  heading: 'How alike keys are',
  how: 'Cosines between the keys of all tokens. A write reaches the pairs whose keys are like its own: blue off the diagonal is where pairs get in each other’s way.',
  needs: 'similarity',
  draw: ({ data: { tokens }, head: { similarity }, token, width }) => {
    const T = tokens.length
    const others = Array.from({ length: T }, (_, s) => s).filter((s) => s !== token)
    const [nearest] = others.sort((a, b) => at(similarity!, token, b) - at(similarity!, token, a))
    return [
      map({
        name: 'similarity',
        title: 'Cosines of keys',
        words:
          nearest === undefined
            ? 'There is one key.'
            : `The key of ${told(tokens, token)} is most like that of ${told(tokens, nearest)}: ${cosine(at(similarity!, token, nearest))}.`,
        width,
        rows: T,
        columns: T,
        at: (t, s) => at(similarity!, t, s),
        scale: 1,
        rowNames: tokens,
        columnNames: tokens,
        below: 'key',
        beside: 'key',
        marked: { rows: [token], columns: [token] },
        key: similarity,
      }),
    ]
  },
}

/** The tokens that weigh most in what token t reads. */
export function sources(attention: Grid, t: number, count: number): { token: number; weight: number }[] {
  return Array.from({ length: t + 1 }, (_, s) => ({ token: s, weight: at(attention, t, s) }))
    .filter(({ weight }) => weight !== 0)
    .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight))
    .slice(0, count)
}

const attention: View = {
  name: 'attention',
  heading: 'Where the read-out comes from',
  how: 'The weight of each earlier token’s value in what this token reads: of a linear memory its query, taken back through everything that was written since. Below 0 a value is taken away. The prompt above is shaded by the same numbers.',
  needs: 'attention',
  draw: ({ data: { tokens }, head: { attention }, token, width }) => {
    const most = sources(attention!, token, 3).map(({ token: s, weight }) => `${number(weight)} of ${told(tokens, s)}`)
    return [
      bars({
        name: 'attention',
        title: `Weights of values in what token ${token + 1} reads`,
        words: `${Told(tokens, token)} reads ${most.length > 0 ? `most: ${most.join(', ')}` : 'nothing'}.`,
        width,
        values: Array.from(tokens, (_, s) => at(attention!, token, s)),
        columnNames: tokens,
        below: 'token',
        token,
      }),
    ]
  },
}

const capacity: View = {
  name: 'capacity',
  heading: 'Capacity',
  how: 'The mean of all pairs written so far, against their number. A memory of K channels can hold K pairs exactly if their keys are orthogonal; what lies lower is lost to likeness of keys and to forgetting.',
  needs: 'recall',
  draw: ({ head: { capacity }, token, width }) => [
    lines({
      name: 'capacity',
      title: 'Mean cosine of the pairs written so far',
      words: `With ${token + 1} pair${token === 0 ? '' : 's'} written, their mean cosine is ${cosine(capacity![token])}.`,
      width,
      lines: [{ name: 'mean cosine', values: capacity! }],
      low: 0,
      high: 1,
      below: 'pairs written',
      token,
    }),
  ],
}

export const views: readonly View[] = [
  matrices,
  vectors,
  recall,
  retrieval,
  attention,
  similarity,
  gates,
  ofMatrices('norm', 'Norm of the state', 'The Frobenius norm of each matrix: how much is in the memory.', ({ norms }) => norms),
  ofMatrices(
    'rank',
    'Effective rank of the state',
    'Over how many directions a matrix is spread: (sum of s²)² / sum of s⁴ over its singular values s, from 1 to its smaller side.',
    ({ ranks }) => ranks,
  ),
  capacity,
]

export interface PairRow {
  /** From 0. */
  token: number
  /** Its cosine after its own write, and after the slider's token. */
  written: number
  now: number
  /** The token up to this one that took most of it. */
  by?: number
}

/** The pairs up to a token, and how well each is held after it. */
export function pairRows({ recall }: Head, t: number): PairRow[] {
  return Array.from({ length: t + 1 }, (_, s) => {
    const row: PairRow = { token: s, written: at(recall!, s, s), now: at(recall!, t, s) }
    let most = 0.1
    for (let later = s + 1; later <= t; later++) {
      const lost = at(recall!, later - 1, s) - at(recall!, later, s)
      if (lost > most) {
        most = lost
        row.by = later
      }
    }
    return row
  })
}
