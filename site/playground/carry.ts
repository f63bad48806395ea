/** What a page takes along when it is loaded again: the model, and a text of one's own. It lies in the browser for that moment. */
import type { Source } from './messages.ts'

export interface Carried {
  bytes: Uint8Array
  source: Source
  running: boolean
  /** The file that the model came from; '' where it is one of the settings. */
  file: string
}

const cacheName = 'fastweights carried'
const place = (name: string): string => new URL(`carried-${name}`, location.href.replace(/[#?].*/, '')).href

export async function carry({ bytes, source, running, file }: Carried): Promise<void> {
  const cache = await caches.open(cacheName)
  await cache.put(place('model'), new Response(bytes as Uint8Array<ArrayBuffer>))
  await cache.put(place('text'), new Response((source.own ?? '') as BodyInit))
  const kind = source.own === null ? 'page' : typeof source.own === 'string' ? 'text' : 'bytes'
  await cache.put(place('about'), new Response(JSON.stringify({ name: source.name, kind, running, file })))
}

/** What was left to be taken along, once. */
export async function carried(): Promise<Carried | undefined> {
  try {
    if (!(await caches.has(cacheName))) return undefined
    const cache = await caches.open(cacheName)
    const [model, text, about] = await Promise.all(['model', 'text', 'about'].map((name) => cache.match(place(name))))
    if (!model || !text || !about) return undefined
    await caches.delete(cacheName)
    const { name, kind, running, file } = (await about.json()) as { name: string; kind: string; running: boolean; file: string }
    const own = kind === 'page' ? null : kind === 'text' ? await text.text() : new Uint8Array(await text.arrayBuffer())
    return { bytes: new Uint8Array(await model.arrayBuffer()), source: { name, own }, running, file }
  } catch {
    return undefined
  }
}
