/**
 * Targets for sources: the likeliest symbol each time, or a beam of the likeliest beginnings. Both are deterministic: of equals, the one with the
 * lower symbol, and of the earlier beginning, comes first. Tests: test/nn/encoder-decoder.test.ts.
 */
import { checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { reshape } from '../engine/ops/movement.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { type Stoppable, stopper } from '../engine/signal.ts'
import { type Tensor, tensor } from '../engine/tensor.ts'
import { EncoderDecoder, type EncoderDecoderState } from './encoder-decoder.ts'
import { disposeState, mapState, takeRows } from './state.ts'

/** Options of a search for a target's symbols. */
export interface SearchOptions extends Stoppable {
  /** The symbol that every target begins with. */
  begin: number
  /** The symbol that ends a target. */
  end: number
  /** The most symbols of a target, its end included. */
  length: number
  /** int32 [B,Ts]: 0 where the source has no token. */
  sourceMask?: Tensor
}

/** Options of `beamSearch`. */
export interface BeamOptions extends SearchOptions {
  /** How many beginnings go on at a time, for each source. */
  beams: number
  /** alpha of `lengthPenalty`; 0.6 by default, as in Vaswani 2017. 0 for none. */
  alpha?: number
}

/** A target that a search has found. */
export interface Hypothesis {
  /** Between begin and end. */
  tokens: number[]
  /** Of all its symbols, the end included: the sum of their logarithms, in nats. */
  logProbability: number
  /** Whether its end was found within `length`. */
  ended: boolean
}

/** A target that `beamSearch` has found, with the score that it ranks by. */
export interface ScoredHypothesis extends Hypothesis {
  /** logProbability / lengthPenalty(number of symbols, alpha), the end counted as one. */
  score: number
}

/** ((5 + n) / 6)^alpha, by which the logarithm of the probability of n symbols is divided (Wu 2016, eq. 14; no coverage penalty). */
export const lengthPenalty = (n: number, alpha: number): number => ((5 + n) / 6) ** alpha

/** What goes on: of which row of the step before, and with which symbol. */
interface Next {
  rows: number[]
  symbols: number[]
}

/** Takes the likeliest symbol each time. source: int32 [B,Ts]; one target for each row. */
export async function greedy(model: EncoderDecoder, source: Tensor, options: SearchOptions): Promise<Hypothesis[]> {
  checkSearch('greedy', model, options, [])
  const found: Hypothesis[] = []
  let live: Hypothesis[] = []
  const begin = (B: number): void => {
    for (let b = 0; b < B; b++) found.push({ tokens: [], logProbability: 0, ended: false })
    live = found
  }
  await search('greedy', model, source, options, begin, (logProbabilities) => {
    const next: Next = { rows: [], symbols: [] }
    live = live.filter((hypothesis, row) => {
      const [symbol] = largest(logProbabilities[row], 1)
      hypothesis.logProbability += logProbabilities[row][symbol]
      hypothesis.ended = symbol === options.end
      if (hypothesis.ended) return false
      hypothesis.tokens.push(symbol)
      next.rows.push(row)
      next.symbols.push(symbol)
      return true
    })
    return next
  })
  return found
}

/**
 * Keeps the W = `beams` likeliest beginnings of each source's target, and goes on with each symbol of each. An end among the W likeliest closes a
 * hypothesis; a source is done when W are closed, or at `length`, where those that are open count as they are. source: int32 [B,Ts] -> for each
 * row W hypotheses at most, that of the highest score first; none of probability 0. A beam of 1 is `greedy`; with W no less than there are targets it finds the best of all.
 */
export async function beamSearch(model: EncoderDecoder, source: Tensor, options: BeamOptions): Promise<ScoredHypothesis[][]> {
  checkSearch('beamSearch', model, options, ['beams', 'alpha'])
  const { beams: W, alpha = 0.6, end, length } = options
  checkNumber('beamSearch: beams', W, 'a positive integer')
  checkNumber('beamSearch: alpha', alpha, '0 or more')
  const closed: ScoredHypothesis[][] = []
  let live: { tokens: number[]; logProbability: number }[][] = []
  const begin = (B: number): void => {
    for (let b = 0; b < B; b++) closed.push([])
    live = closed.map(() => [{ tokens: [], logProbability: 0 }])
  }
  const close = (b: number, tokens: number[], logProbability: number, ended: boolean): void => {
    const n = tokens.length + (ended ? 1 : 0)
    closed[b].push({ tokens, logProbability, ended, score: logProbability / lengthPenalty(n, alpha) })
  }
  await search('beamSearch', model, source, options, begin, (logProbabilities, n) => {
    const next: Next = { rows: [], symbols: [] }
    let first = 0
    live = live.map((beginnings, b) => {
      // As many as W that aren't ends, and the ends among them: of W beginnings, W ends at most.
      const candidates = beginnings.flatMap(({ logProbability }, i) =>
        largest(logProbabilities[first + i], 2 * W)
          .map((symbol) => ({ i, symbol, logProbability: logProbability + logProbabilities[first + i][symbol] }))
          .filter((candidate) => candidate.logProbability > Number.NEGATIVE_INFINITY),
      )
      // Stable, so that equals stay in the order of beginnings and symbols.
      candidates.sort((x, y) => y.logProbability - x.logProbability)
      const open: typeof beginnings = []
      const from: number[] = []
      for (const [rank, { i, symbol, logProbability }] of candidates.slice(0, 2 * W).entries()) {
        if (symbol === end) {
          if (rank < W) close(b, beginnings[i].tokens, logProbability, true)
        } else if (open.length < W) {
          open.push({ tokens: [...beginnings[i].tokens, symbol], logProbability })
          from.push(first + i)
        }
      }
      first += beginnings.length
      if (closed[b].length >= W) return []
      if (n === length) for (const { tokens, logProbability } of open) close(b, tokens, logProbability, false)
      next.rows.push(...from)
      next.symbols.push(...open.map(({ tokens }) => tokens.at(-1)!))
      return open
    })
    return next
  })
  return closed.map((hypotheses) => hypotheses.sort((x, y) => y.score - x.score).slice(0, W))
}

function checkSearch(op: string, model: EncoderDecoder, options: SearchOptions, more: readonly string[]): void {
  if (!(model instanceof EncoderDecoder)) throw new Error(`${op}: needs an EncoderDecoder, not ${told(model)}`)
  checkOptions(op, options, ['begin', 'end', 'length', 'sourceMask', 'signal', ...more])
  checkNumber(`${op}: length`, options.length, 'a positive integer')
  const { symbols } = model.config
  for (const name of ['begin', 'end'] as const) {
    checkNumber(`${op}: ${name}`, options[name], 'an integer, 0 or more')
    if (options[name] >= symbols) throw new Error(`${op}: ${name} = ${options[name]} is no symbol of a model with ${symbols}`)
  }
}

/** Encodes the sources, and asks `advance` after each symbol how to go on, until nothing does or there are as many symbols as may be. */
async function search(
  op: string,
  model: EncoderDecoder,
  source: Tensor,
  { begin: first, length, sourceMask, signal }: SearchOptions,
  begin: (B: number) => void,
  advance: (logProbabilities: Float64Array[], n: number) => Next,
): Promise<void> {
  const mayGoOn = stopper(op, { signal })
  await mayGoOn()
  const { device } = model.generator.weight
  const wasTraining = model.training
  const run = <R>(body: () => R): R => {
    model.eval()
    try {
      return noGrad(() => scope(body))
    } finally {
      model.train(wasTraining)
    }
  }
  let state: EncoderDecoderState = run(() => kept(model.encode(source, { mask: sourceMask })))
  try {
    const B = state.position.length
    begin(B)
    /** Which source each row is of. */
    let owners = Array.from({ length: B }, (_, b) => b)
    let next: Next = { rows: owners, symbols: new Array<number>(B).fill(first) }
    for (let n = 1; n <= length && next.rows.length > 0; n++) {
      await mayGoOn()
      const { rows, symbols } = next
      const before = state
      const from = rows.map((row) => owners[row])
      const step = run(() => {
        const target = tensor(Int32Array.from(symbols), { shape: [rows.length, 1], device })
        const { source, ...own } = before
        const result = model.decode(target, {
          ...(same(rows, [...owners.keys()]) ? own : takeRows(own, rows)),
          // Beams of one source change places among themselves without it.
          source: same(from, owners) ? source : takeRows(source, rows),
        })
        return { logits: keep(reshape(result.logits, [rows.length, model.config.symbols])), state: kept(result.state) }
      })
      state = step.state
      owners = from
      disposeState(before)
      const logits = await step.logits.read().finally(() => step.logits.dispose())
      next = advance(logProbabilitiesOf(op, logits, rows.length), n)
    }
  } finally {
    disposeState(state)
  }
}

const same = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((x, i) => x === b[i])

const kept = <S extends object>(state: S): S => {
  mapState(state, keep)
  return state
}

/** log softmax of each of R rows, in float64. */
function logProbabilitiesOf(op: string, logits: ArrayLike<number>, R: number): Float64Array[] {
  const N = logits.length / R
  return Array.from({ length: R }, (_, r) => {
    const row = Float64Array.from({ length: N }, (_, i) => logits[r * N + i])
    const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
    if (!Number.isFinite(most)) throw new Error(`${op}: the model's output isn't finite`)
    const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x - most), 0)) + most
    return row.map((x) => x - total)
  })
}

/** The places of the n largest values, the largest first, of equals the earlier one. */
function largest(values: Float64Array, n: number): number[] {
  const best: number[] = []
  for (let i = 0; i < values.length; i++) {
    if (best.length === n && !(values[i] > values[best[n - 1]])) continue
    let at = best.length
    while (at > 0 && values[i] > values[best[at - 1]]) at--
    best.splice(at, 0, i)
    if (best.length > n) best.pop()
  }
  return best
}
