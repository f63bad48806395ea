/** What is said between a page and who checks its claims: a worker of the page, or one in the sandbox. */
import type { Status, Verdict } from 'fastweights/claims'

export const kinds = ['wasm', 'reference', 'webgpu'] as const
export type Kind = (typeof kinds)[number]

export interface Settings {
  readonly device: Kind
  readonly runs: number
  readonly seed: number
}

export interface Job extends Settings {
  readonly claim: string
  readonly path?: string
}

/** A claim without its functions. */
export interface ClaimText {
  readonly name: string
  readonly statement: string
  /** TeX. */
  readonly equation: string
  readonly source: string
  /** False: it should be refuted. */
  readonly holds: boolean
  readonly sameBits: boolean
  readonly float32: number
  readonly float64: number
  readonly reason: string
}

/** What a page shows of a verdict. Errors are texts, since messages are JSON, which has no NaN. */
export type Shown = Pick<Verdict, 'ok' | 'runs' | 'bound' | 'milliseconds' | 'refutedBy' | 'message'> & {
  readonly status: Status
  readonly error: string
  /** Of a counterexample. */
  readonly lines?: readonly string[]
  readonly path?: string
}

export type Message =
  /** A case begins; `runs` have been before it. */
  | { readonly kind: 'case'; readonly case: string; readonly runs: number }
  /** A larger error than before, within the bound. */
  | { readonly kind: 'largest'; readonly error: string }
  /** A counterexample, the first or a smaller one. */
  | { readonly kind: 'against'; readonly case: string; readonly error: string }
  | { readonly kind: 'verdict'; readonly verdict: Shown }
  /** The code has been loaded. */
  | { readonly kind: 'claims'; readonly claims: readonly ClaimText[] }
  | { readonly kind: 'failure'; readonly message: string }

// --- What comes from the sandbox ------------------------------------------------------------------------------------------------------

const statuses = ['holds', 'refuted', 'skipped', 'fails', 'not refuted', 'throws', 'unsteady', 'leaks', 'stuck']
const most = { text: 4000, lines: 200, claims: 500 }

const text = (x: unknown): x is string => typeof x === 'string'
const short = (x: string): string => (x.length > most.text ? `${x.slice(0, most.text)}…` : x)
const finite = (x: unknown): number => (typeof x === 'number' && Number.isFinite(x) ? x : 0)

/** The message in a text that may be anything, cut to what a page can show; undefined where it is none. */
export function messageIn(json: unknown): Message | undefined {
  let given: any
  try {
    given = JSON.parse(json as string)
  } catch {
    return
  }
  if (typeof given !== 'object' || given === null) return
  const { kind } = given
  if (kind === 'case' && text(given.case)) return { kind, case: short(given.case), runs: finite(given.runs) }
  if (kind === 'largest' && text(given.error)) return { kind, error: short(given.error) }
  if (kind === 'against' && text(given.case) && text(given.error)) return { kind, case: short(given.case), error: short(given.error) }
  if (kind === 'failure' && text(given.message)) return { kind, message: short(given.message) }
  if (kind === 'claims' && Array.isArray(given.claims) && given.claims.length <= most.claims && given.claims.every(isClaim))
    return { kind, claims: given.claims.map(claimIn) }
  const found = given.verdict
  if (kind !== 'verdict' || typeof found !== 'object' || found === null || !statuses.includes(found.status) || !text(found.error)) return
  const verdict: Shown = {
    status: found.status,
    ok: ['holds', 'refuted', 'skipped'].includes(found.status),
    runs: finite(found.runs),
    error: short(found.error),
    bound: finite(found.bound),
    milliseconds: finite(found.milliseconds),
    ...(typeof found.refutedBy === 'number' && { refutedBy: finite(found.refutedBy) }),
    ...(text(found.message) && { message: short(found.message) }),
    ...(text(found.path) && { path: short(found.path) }),
    ...(Array.isArray(found.lines) && { lines: found.lines.filter(text).slice(0, most.lines).map(short) }),
  }
  return { kind, verdict }
}

const isClaim = (x: any): boolean =>
  typeof x === 'object' && x !== null && ['name', 'statement', 'equation', 'source', 'reason'].every((key) => text(x[key]))
const claimIn = ({ name, statement, equation, source, reason, holds, sameBits, float32, float64 }: ClaimText): ClaimText => ({
  name: short(name),
  statement: short(statement),
  equation: short(equation),
  source: short(source),
  reason: short(reason),
  holds: holds !== false,
  sameBits: sameBits === true,
  float32: finite(float32),
  float64: finite(float64),
})
