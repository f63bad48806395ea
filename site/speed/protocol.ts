/** What the speed page and its worker say to each other, and what a link holds. */
import { LinkError, pack, unpack } from '../scripts/packed.ts'

export const subjects = ['wasm', 'wasm threads', 'webgpu', 'reference'] as const
export type Subject = (typeof subjects)[number]

export const measureNames = ['product', 'forward', 'backward', 'step', 'decode'] as const
export type Measure = (typeof measureNames)[number]

export type FromWorker =
  | { kind: 'opened'; description: string }
  | { kind: 'measured'; measure: Measure; value: number }
  | { kind: 'done' }
  /** The device isn't there, or one of its measures failed. */
  | { kind: 'failed'; message: string }

export interface Row {
  readonly subject: Subject
  readonly description: string
  /** By measure; what is missing wasn't measured. */
  readonly values: Readonly<Partial<Record<Measure, number>>>
}

export interface Result {
  /** The browser and the machine, as the browser says. */
  readonly machine: string
  readonly rows: readonly Row[]
}

const version = '1'
const most = { characters: 4000, bytes: 8000 }

export const resultHash = async (result: Result): Promise<string> => `#result=${version}.${await pack(result, most)}`

/** Undefined where there is none in the address. */
export async function resultIn(hash: string): Promise<Result | undefined> {
  if (!hash.startsWith('#result=')) return
  const [, found, packed] = /^#result=(\d{1,9})\.(.*)$/s.exec(hash) ?? []
  if (found !== undefined && found !== version)
    throw new LinkError(`This link is of version ${found}, and the page reads version ${version}.`)
  const given = (await unpack(packed ?? '', most)) as Partial<Result> | null
  if (!isText(given?.machine) || !Array.isArray(given?.rows) || given.rows.length > subjects.length || !given.rows.every(isRow))
    throw new LinkError('This link holds no result of this page.')
  return { machine: given.machine, rows: given.rows }
}

const isText = (x: unknown): x is string => typeof x === 'string' && x.length <= 300
const isRow = (row: any): row is Row =>
  typeof row === 'object' &&
  row !== null &&
  subjects.includes(row.subject) &&
  isText(row.description) &&
  typeof row.values === 'object' &&
  row.values !== null &&
  Object.entries(row.values).every(
    ([name, value]) => measureNames.includes(name as Measure) && typeof value === 'number' && value > 0 && value < 1e15,
  )
