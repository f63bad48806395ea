/** What `fastweights inspect` shows: the numbers of a trace, by layer and head. Its JSON is described in docs/inspect.md. */
import type { RuleInput } from '../../engine/index.ts'

/** Numbers in rows; [T,...] unless said otherwise. */
export interface Grid {
  readonly shape: readonly number[]
  readonly values: ArrayLike<number>
}

export interface Head {
  /** From 1. */
  number: number
  /** Of each part of the state that is a matrix: what it is after each token, [T,rows,columns]. */
  states: Record<string, Grid>
  /** ... its Frobenius norm, and over how many directions it is spread. */
  norms: Record<string, number[]>
  ranks: Record<string, number[]>
  /** Of each part that is a vector: what it is after each token, [T,width]. */
  vectors: Record<string, Grid>
  /** What each token writes with, beside its key and value; of inputs with several numbers a head their mean. */
  gates: Record<string, number[]>
  /** Cosines of keys, [T,T]. */
  similarity?: Grid
  /** [T,T] as [t,s]: the cosine of what key s retrieves after token t with its value. */
  recall?: Grid
  /** ... before and after its own write, and its mean over the pairs written so far. */
  before?: number[]
  after?: number[]
  capacity?: number[]
  /** [T,T] as [t,s]: the weight of value s in what token t reads. */
  attention?: Grid
}

export interface Layer {
  /** From 1. */
  number: number
  /** Its place in the model, and what it does over time. */
  name: string
  mixer: string
  /** Why it has no `states`, `gates`, `similarity`, `recall` or `attention`. */
  missing: Record<string, string>
  heads: Head[]
}

export interface Inspection {
  version: string
  run: string
  preset: string
  tokens: string[]
  layers: Layer[]
  /** A page has the matrices after tokens 1, 1 + every, ... alone, where all of them would be too much; and says what it leaves out. */
  every: number
  left: string
}

/** The trace of a layer, on the host. */
export interface HostTrace {
  name: string
  shape: readonly number[]
  inputs: Record<string, Grid>
  states: Record<string, Grid>
  norms: Record<string, Grid>
  ranks: Record<string, Grid>
  similarity?: Grid
  recall?: Grid
  attention?: Grid
}

/** What short convolutions, token shifts, aft and minibatches keep: inputs of the last tokens, which are no memory of pairs. */
const caches = ['query', 'key', 'value', 'taps', 'shift', 'waiting']

/** `kinds`: what the inputs of the layer's rule are like; `grows`: its state keeps something of every token. */
export function layerData(
  traced: HostTrace,
  number: number,
  mixer: string,
  kinds: Readonly<Record<string, RuleInput>>,
  grows: boolean,
): Layer {
  const { name, inputs, states, similarity, recall, attention } = traced
  const T = traced.shape[1]
  const matrices = Object.entries(states).filter(([, { shape }]) => shape.length > 4)
  const vectors = Object.entries(states).filter(([part, { shape }]) => shape.length === 4 && !caches.includes(part))
  const { v } = inputs
  const H = Math.max(...[...matrices, ...vectors].map(([, { shape }]) => shape[2]), v?.shape.length === 4 ? v.shape[2] : 1)
  const entries = <A, B>(from: readonly (readonly [string, A])[], of: (value: A, name: string) => B): Record<string, B> =>
    Object.fromEntries(from.map(([name, value]) => [name, of(value, name)]))
  // Numbers a token and head, and what is known to be a rate or gate; not what a rule has as parameters.
  const written = Object.entries(inputs).filter(
    ([name, { shape }]) =>
      name !== 'v' && ((shape.length === 3 && v?.shape.length === 4) || ['rate', 'gate'].includes(kinds[name]?.values)),
  )
  const heads = Array.from({ length: H }, (_, h): Head => {
    const own = (grid: Grid): Grid => ofHead(grid, Math.min(h, grid.shape[2] - 1))
    const map = (grid: Grid | undefined): Grid | undefined => {
      if (!grid) return undefined
      const at = Math.min(h, grid.shape[1] - 1) * T * T
      return { shape: [T, T], values: Array.from({ length: T * T }, (_, i) => grid.values[at + i]) }
    }
    const held = map(recall)
    return {
      number: h + 1,
      states: entries(matrices, (grid) => {
        const { shape, values } = own(grid)
        return { shape: [T, shape.slice(1, -1).reduce((n, d) => n * d, 1), shape.at(-1)!], values }
      }),
      norms: entries(Object.entries(traced.norms), (grid) => Array.from(own(grid).values)),
      ranks: entries(Object.entries(traced.ranks), (grid) => Array.from(own(grid).values)),
      vectors: entries(vectors, own),
      gates: Object.fromEntries(
        written.map(([name, grid]) => {
          const isGate = kinds[name]?.values === 'gate'
          return [isGate ? `exp(${name})` : name, overTokens(grid, T, h).map(isGate ? Math.exp : Number)]
        }),
      ),
      similarity: map(similarity),
      ...(held && { recall: held, ...overPairs(held.values, T) }),
      attention: map(attention),
    }
  })
  const missing: Record<string, string> = {}
  const without = (what: string, there: unknown, why: string): void => {
    if (!there) missing[what] = why
  }
  without(
    'states',
    matrices.length + vectors.length,
    grows
      ? `${mixer} keeps the keys and values of all tokens, and no matrix of a fixed size`
      : `${mixer} keeps sums for each channel, and no matrix`,
  )
  without('gates', written.length, v ? `${mixer} writes every pair alike: it has no write strengths or gates` : netWhy(mixer))
  without('similarity', similarity, v ? `${mixer} has no key of its own for each token and head` : netWhy(mixer))
  without(
    'recall',
    recall,
    !v
      ? netWhy(mixer)
      : matrices.length > 0
        ? `${mixer} has no matrix S that one key a token writes and reads by itself`
        : `${mixer} has no matrix that a key could be put to`,
  )
  without(
    'attention',
    attention,
    v ? `what ${mixer} reads is not linear in the values, so that no share of it is a token's` : netWhy(mixer),
  )
  return { number, name, mixer, missing, heads }
}

const netWhy = (mixer: string): string => `${mixer} is a recurrent net: it isn't written with a key and a value from outside`

/** [1,T,H,...] of a head: [T,...]. */
function ofHead({ shape: [, T, H, ...rest], values }: Grid, h: number): Grid {
  const size = rest.reduce((n, d) => n * d, 1)
  const own = new Float64Array(T * size)
  for (let t = 0; t < T; t++) for (let i = 0; i < size; i++) own[t * size + i] = values[(t * H + h) * size + i]
  return { shape: [T, ...rest], values: own }
}

/** One number a token: of [1,T,H] or of [1,T,H,...] the mean; of [H] or [H,...], which all tokens share, too. */
function overTokens({ shape, values }: Grid, T: number, h: number): number[] {
  const shared = shape.length < 3
  const own = ofHead(shared ? { shape: [1, 1, ...shape], values } : { shape, values }, h).values
  const size = own.length / (shared ? 1 : T)
  return Array.from({ length: T }, (_, t) => {
    let total = 0
    for (let i = 0; i < size; i++) total += own[(shared ? 0 : t * size) + i]
    return total / size
  })
}

function overPairs(recall: ArrayLike<number>, T: number): Required<Pick<Head, 'before' | 'after' | 'capacity'>> {
  const tokens = Array.from({ length: T }, (_, t) => t)
  return {
    before: tokens.map((t) => (t === 0 ? 0 : recall[(t - 1) * T + t])),
    after: tokens.map((t) => recall[t * T + t]),
    capacity: tokens.map((t) => tokens.slice(0, t + 1).reduce((sum, s) => sum + recall[t * T + s], 0) / (t + 1)),
  }
}

export interface Overwriting {
  /** The token that wrote the pair, and the one whose write loses it, from 0. */
  pair: number
  by: number
  from: number
  to: number
}

/** Tokens closer than this have keys that are alike for no other reason: short convolutions mix what stands side by side. */
const apart = 7
/** What counts as held, and as a key like another, as cosines. */
export const enough = 0.5

/** The pairs that were held until a later token with a key like theirs took the most of them; what is lost most stands first. */
export function overwritings({ recall, similarity }: Head): Overwriting[] {
  if (!recall || !similarity) return []
  const T = recall.shape[0]
  const found: Overwriting[] = []
  for (let pair = 0; pair < T; pair++) {
    const held = (t: number): number => recall.values[t * T + pair]
    let most: Overwriting | undefined
    for (let by = pair + 1; by < T && held(by - 1) >= enough; by++) {
      const lost = held(by - 1) - held(by)
      if (by - pair >= apart && similarity.values[by * T + pair] >= enough && lost > (most ? most.from - most.to : 0.1))
        most = { pair, by, from: held(by - 1), to: held(by) }
    }
    if (most) found.push(most)
  }
  return found.sort((a, b) => b.from - b.to - (a.from - a.to))
}

/** Where there is most to see: the layer, the head, and the token that overwrites a pair most; else the first ones, and the last token. */
export function opening({ layers, tokens }: Inspection): { layer: number; head: number; token: number } {
  let best = { layer: 0, head: 0, token: tokens.length - 1, lost: 0 }
  layers.forEach(({ heads }, layer) => {
    heads.forEach((each, head) => {
      const [first] = overwritings(each)
      if (first && first.from - first.to > best.lost) best = { layer, head, token: first.by, lost: first.from - first.to }
    })
  })
  return best
}
