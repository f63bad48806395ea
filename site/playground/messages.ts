/** What the page and its worker say to each other. */
import type { Grid, Head } from '../../dist/cli/inspect/data.js'
import type { Settings } from './settings.ts'

/** A text to learn; `own` is null for the page's. */
export interface Source {
  name: string
  own: string | Uint8Array | null
}

export type ToWorker =
  /** A new model, or several, of these settings. */
  | { kind: 'configure'; id: number; settings: Settings; source?: Source }
  | { kind: 'run'; running: boolean }
  | { kind: 'step' }
  /** Steps a second at most; 0 for as many as there can be. */
  | { kind: 'pace'; pace: number }
  /** Nothing is computed while nobody can see it. */
  | { kind: 'visible'; visible: boolean }
  | { kind: 'trace'; request: TraceRequest }
  | { kind: 'save' }
  /** `described`: the settings are those of its model. */
  | { kind: 'load'; name: string; bytes: Uint8Array; described: boolean }
  | { kind: 'capacity'; request: CapacityRequest }

export interface TraceRequest {
  prompt: string
  /** Which racer, layer and head, from 0. */
  racer: number
  layer: number
  head: number
  /** `own`, or another rule that writes the same weights. */
  rule: string
}

export interface CapacityRequest {
  /** Of keys before the feature map, and of values. */
  width: number
  map: string
  keys: 'orthogonal' | 'random'
  /** Pairs that are written at most. */
  most: number
}

/** What a racer is. */
export interface Racer {
  name: string
  parameters: number
  /** Settings that mean nothing to it. */
  ignored: readonly string[]
}

export interface Memory extends TraceRequest {
  tokens: readonly string[]
  /** What of the prompt was left out, and why; '' for nothing. */
  left: string
  /** What each layer does over time. */
  layers: readonly string[]
  /** Heads of this one. */
  heads: number
  /** What the model takes to come next, likeliest first, each with its probability; none of a task. */
  next: readonly (readonly [symbol: string, probability: number])[]
  missing: Readonly<Record<string, string>>
  /** Rules that the weights can be read with instead of their own. */
  rules: readonly string[]
  /** As the command's inspect has it. */
  seen: Head
  /** The matrix that is shown, a name of `seen.states`; absent where there is none. */
  part?: string
  /** What is written, [T,K] and [T,V]; absent where it isn't pairs. */
  keys?: Grid
  values?: Grid
}

export interface Capacity extends CapacityRequest {
  /** Width of the features that are written with. */
  features: number
  /** The numbers of pairs that were tried, and for each rule the share of values found again and their mean cosine. */
  pairs: readonly number[]
  found: Readonly<Record<string, readonly number[]>>
  cosine: Readonly<Record<string, readonly number[]>>
  milliseconds: number
}

export type FromWorker =
  | {
      kind: 'configured'
      /** Of the request that it answers; the same again where a file was opened. */
      id: number
      racers: readonly Racer[]
      /** The file that the model comes from; '' where it is one of the settings. */
      file: string
      source: string
      symbols: number
      preview: string
      device: string
      notes: readonly string[]
      unit: string
      prompt: string
    }
  | {
      kind: 'progress'
      step: number
      losses: readonly (readonly [step: number, loss: number])[][]
      stepsPerSecond: number
      tokensPerSecond: number
      bytes: number
    }
  | { kind: 'device'; device: string; note: string }
  | { kind: 'sample'; racer: number; text: string; done: boolean }
  | { kind: 'exam'; racer: number; share: number; chance: number; metric: string; places: readonly Place[] }
  | { kind: 'memory'; memory: Memory }
  | { kind: 'capacity'; capacity: Capacity }
  | { kind: 'saved'; bytes: Uint8Array }
  /** What was asked for can't be done; what was there goes on. */
  | { kind: 'refused'; what: ToWorker['kind'] | 'train'; message: string; id?: number }

/** A place of an example: what stands there, what is asked for, and what the model says. */
export interface Place {
  input: string
  target?: string
  answer?: string
}
