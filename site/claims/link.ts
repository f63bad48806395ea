/** What a link to the claims says, behind its #: so it is never sent to a server. */
import { LinkError, pack, unpack } from '../scripts/packed.ts'
import { type Kind, kinds, type Settings } from './protocol.ts'

const version = '1'

export interface ClaimLink extends Partial<Settings> {
  readonly claim?: string
  readonly path?: string
}

export const limits = { runs: 100_000, seed: 2 ** 31 - 1 }

/** Of a link, packed and unpacked. */
const most = { characters: 32_000, bytes: 100_000 }

/** A whole number from `min` to `max`, or undefined. */
export function whole(text: string | null, min: number, max: number): number | undefined {
  const n = Number(text)
  return text !== null && /^\d{1,15}$/.test(text) && n >= min && n <= max ? n : undefined
}

/** Of the list: a claim, and how to check it. */
export function claimHash({ claim, device, runs, seed, path }: ClaimLink): string {
  const given = Object.entries({ v: version, claim, device, runs, seed, path }).filter(([, value]) => value !== undefined)
  return `#${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`
}

/** Undefined where there is no link, or one to a place of the page. */
export function claimIn(hash: string): ClaimLink | undefined {
  if (!/^#(v|claim)=/.test(hash)) return
  if (hash.length > most.characters) throw new LinkError('This link is too long to be one of this page.')
  const given = new URLSearchParams(hash.slice(1))
  // Pages of the site name a claim alone.
  const found = given.get('v') ?? version
  if (found !== version)
    throw new LinkError(`This link is of version ${JSON.stringify(found.slice(0, 20))}, and the page reads version ${version}.`)
  const settings = settingsIn((name) => given.get(name))
  const path = given.get('path') ?? undefined
  if (path !== undefined && !/^\d+(:\d+)*$/.test(path)) throw new LinkError("The path in this link isn't one of a counterexample.")
  return { ...settings, claim: given.get('claim') ?? undefined, path }
}

function settingsIn(of: (name: string) => string | null): Partial<Settings> {
  const device = of('device') ?? undefined
  if (device !== undefined && !kinds.includes(device as Kind))
    throw new LinkError(`The device in this link must be one of ${kinds.join(', ')}.`)
  const number = (name: 'runs' | 'seed', least: number): number | undefined => {
    if (of(name) === null) return
    const n = whole(of(name), least, limits[name])
    if (n === undefined) throw new LinkError(`The ${name} in this link must be a whole number from ${least} to ${limits[name]}.`)
    return n
  }
  return { device: device as Kind | undefined, runs: number('runs', 1), seed: number('seed', 0) }
}

// --- Code -----------------------------------------------------------------------------------------------------------------------------

export interface CodeLink extends Settings {
  readonly code: string
}

/** Code and how to check it. Throws a LinkError where it is too long for one. */
export const codeHash = async ({ code, device, runs, seed }: CodeLink): Promise<string> =>
  `#code=${version}.${await pack({ code, device, runs, seed }, most)}`

/** Undefined where there is no code in the link. */
export async function codeIn(hash: string): Promise<CodeLink | undefined> {
  if (!hash.startsWith('#code=')) return
  const [, found, packed] = /^#code=(\d{1,9})\.(.*)$/s.exec(hash) ?? []
  if (found !== undefined && found !== version)
    throw new LinkError(`This link is of version ${found}, and the page reads version ${version}.`)
  const given = (await unpack(packed ?? '', most)) as Record<string, unknown> | null
  if (typeof given?.code !== 'string') throw new LinkError('This link holds no code.')
  const { device = 'wasm', runs = 100, seed = 1 } = settingsIn((name) => (given[name] === undefined ? null : String(given[name])))
  return { code: given.code, device, runs, seed }
}
