/** What a link to the claims says, behind its #: so it is never sent to a server. */
import { type Kind, kinds, type Settings } from './protocol.ts'

const version = '1'

/** A link that can't be used; the message says why, in a sentence. */
export class LinkError extends Error {}

export interface ClaimLink extends Partial<Settings> {
  readonly claim?: string
  readonly path?: string
}

export const limits = { runs: 100_000, seed: 2 ** 31 - 1, link: 32_000, code: 100_000 }

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
  if (hash.length > limits.link) throw new LinkError('This link is too long to be one of this page.')
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

async function through(bytes: Uint8Array, stream: GenericTransformStream, most: number): Promise<Uint8Array> {
  const reader = new Blob([bytes as BlobPart])
    .stream()
    .pipeThrough(stream as ReadableWritablePair<Uint8Array, Uint8Array>)
    .getReader()
  const parts: Uint8Array[] = []
  let size = 0
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length
    // A few bytes can stand for very many.
    if (size > most) throw new LinkError(`The code in this link is longer than ${most / 1000} kB.`)
    parts.push(part.value)
  }
  const all = new Uint8Array(size)
  let offset = 0
  for (const part of parts) {
    all.set(part, offset)
    offset += part.length
  }
  return all
}

/** Code and how to check it: `#code=1.` and JSON, deflated, in base64url. */
export async function codeHash({ code, device, runs, seed }: CodeLink): Promise<string> {
  const json = new TextEncoder().encode(JSON.stringify({ code, device, runs, seed }))
  if (json.length > limits.code) throw new LinkError(`The code is longer than the ${limits.code / 1000} kB that a link may have.`)
  const packed = await through(json, new CompressionStream('deflate-raw'), limits.code)
  const base64 = btoa(Array.from(packed, (byte) => String.fromCharCode(byte)).join(''))
  const hash = `#code=${version}.${base64.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')}`
  if (hash.length > limits.link)
    throw new LinkError(`The code is too long for a link: packed, it has ${hash.length} characters of at most ${limits.link}.`)
  return hash
}

/** Undefined where there is no code in the link. */
export async function codeIn(hash: string): Promise<CodeLink | undefined> {
  if (!hash.startsWith('#code=')) return
  if (hash.length > limits.link) throw new LinkError('This link is too long to be one of this page.')
  const [, found, base64] = /^#code=(\d{1,9})\.([\w-]*)$/.exec(hash) ?? []
  if (found !== undefined && found !== version)
    throw new LinkError(`This link is of version ${found}, and the page reads version ${version}.`)
  let given: any
  try {
    const packed = Uint8Array.from(atob(base64.replaceAll('-', '+').replaceAll('_', '/')), (character) => character.charCodeAt(0))
    const json = await through(packed, new DecompressionStream('deflate-raw'), limits.code)
    given = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json))
  } catch (error) {
    throw error instanceof LinkError ? error : new LinkError("This link is broken: a part of it is missing, or isn't as it was.")
  }
  if (typeof given?.code !== 'string') throw new LinkError('This link holds no code.')
  const { device = 'wasm', runs = 100, seed = 1 } = settingsIn((name) => (given[name] === undefined ? null : String(given[name])))
  return { code: given.code, device, runs, seed }
}
