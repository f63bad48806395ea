/** Values in a link: JSON, deflated, in base64url. */

/** A link that can't be used; the message says why, in a sentence. */
export class LinkError extends Error {}

/** Of the JSON, in bytes; and of the packed text, in characters. */
export interface Most {
  readonly bytes: number
  readonly characters: number
}

const kilobytes = ({ bytes }: Most): string => `${bytes / 1000} kB`

/** Stops beyond `most` bytes: a few can stand for very many. */
async function through(bytes: Uint8Array, stream: CompressionStream | DecompressionStream, most: number): Promise<Uint8Array | undefined> {
  const packed = new Blob([bytes as BlobPart]).stream()
  const reader = packed.pipeThrough(stream as ReadableWritablePair<Uint8Array, Uint8Array>).getReader()
  const parts: Uint8Array[] = []
  let size = 0
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if ((size += part.value.length) > most) {
      void reader.cancel()
      return
    }
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

/** Throws a LinkError where the value is too large. */
export async function pack(value: unknown, most: Most): Promise<string> {
  const json = new TextEncoder().encode(JSON.stringify(value))
  if (json.length > most.bytes) throw new LinkError(`A link can hold ${kilobytes(most)}, and not ${Math.ceil(json.length / 1000)} kB.`)
  const packed = (await through(json, new CompressionStream('deflate-raw'), Number.POSITIVE_INFINITY))!
  const base64 = btoa(Array.from(packed, (byte) => String.fromCharCode(byte)).join(''))
  const text = base64.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
  if (text.length > most.characters)
    throw new LinkError(`A link can have ${most.characters} characters, and this would have ${text.length}.`)
  return text
}

/** The value; throws a LinkError where the text is none of `pack`, or stands for too much. */
export async function unpack(text: string, most: Most): Promise<unknown> {
  if (text.length > most.characters) throw new LinkError('This link is too long to be one of this page.')
  let json: Uint8Array | undefined
  try {
    const packed = Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (character) => character.charCodeAt(0))
    json = await through(packed, new DecompressionStream('deflate-raw'), most.bytes)
    if (json) return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json))
  } catch {
    throw new LinkError("This link is broken: a part of it is missing, or isn't as it was.")
  }
  throw new LinkError(`This link stands for more than the ${kilobytes(most)} that one can.`)
}
