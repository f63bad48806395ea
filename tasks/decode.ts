/** Bytes to text, wherever they come from. Tests: test/nn/text.test.ts. */
import { type Encoding, encodingOf, fileKind, isBinary } from '../nn/foreign.ts'
import { TextError } from './text.ts'

/** The text of a file, UTF-8 with or without a byte order mark; what is anything else is a TextError that says what it is and what to do. */
export function decodeText(bytes: Uint8Array, name: string): string {
  const kind = fileKind(bytes)
  if (kind?.text !== undefined) throw new TextError(`${name} is ${kind.what}, not plain text: ${kind.text}`)
  const encoding = encodingOf(bytes)
  if (encoding !== undefined) throw new TextError(`${name} is in ${encoding.name}, not in UTF-8: ${conversion(name, encoding)}`)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    const offset = invalidUtf8(bytes)
    if (offset < 0) throw new TextError(`${name} is too large to be one string (${bytes.length} bytes)`)
    const start = sequenceStart(bytes, offset)
    const byte = bytes[start].toString(16).padStart(2, '0')
    const hint = isBinary(bytes) ? 'it seems to be no text' : `if it is in Latin-1 or Windows-1252, ${conversion(name, windows1252)}`
    throw new TextError(`${name} isn't valid UTF-8: byte 0x${byte} at offset ${start}; ${hint}`)
  }
}

const windows1252: Encoding = { name: 'Windows-1252', iconv: 'WINDOWS-1252', powershell: '1252', seven: true }

/** Command lines that make UTF-8 of it. */
function conversion(name: string, { iconv, powershell, seven }: Encoding): string {
  const [from, to] = [name, name.replace(/(\.[^./\\]*)?$/, '-utf8$1')]
  const word = (text: string, quote: string): string => (/^[\w./\\:=-]+$/.test(text) ? text : `'${text.replaceAll("'", quote)}'`)
  const [a, b] = [from, to].map((text) => word(text, "'\\''"))
  const [c, d] = [from, to].map((text) => word(text, "''"))
  return `convert it with iconv -f ${iconv} -t UTF-8 ${a} > ${b} or in PowerShell${seven ? ' 7' : ''} with Get-Content ${c} -Encoding ${powershell} | Set-Content ${d} -Encoding utf8`
}

/** Where the sequence begins that the invalid byte at the offset breaks off. */
function sequenceStart(bytes: Uint8Array, offset: number): number {
  for (let back = 1; back <= Math.min(3, offset); back++) {
    const byte = bytes[offset - back]
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? offset - back : offset
    if (byte < 0x80) break
  }
  return offset
}

/** By first byte: its range, the length of the sequence, and the range of the second byte (the Unicode standard's table 3-7). */
const utf8Sequences = [
  [0x00, 0x7f, 1, 0x00, 0x00],
  [0xc2, 0xdf, 2, 0x80, 0xbf],
  [0xe0, 0xe0, 3, 0xa0, 0xbf],
  [0xe1, 0xec, 3, 0x80, 0xbf],
  [0xed, 0xed, 3, 0x80, 0x9f],
  [0xee, 0xef, 3, 0x80, 0xbf],
  [0xf0, 0xf0, 4, 0x90, 0xbf],
  [0xf1, 0xf3, 4, 0x80, 0xbf],
  [0xf4, 0xf4, 4, 0x80, 0x8f],
] as const

/** The offset of the first byte that no valid text could have there (for a sequence that the file cuts off, its first byte), or -1. */
export function invalidUtf8(bytes: Uint8Array): number {
  let i = 0
  while (i < bytes.length) {
    const sequence = utf8Sequences.find(([first, last]) => bytes[i] >= first && bytes[i] <= last)
    if (sequence === undefined) return i
    const [, , length, low, high] = sequence
    for (let j = 1; j < length; j++) {
      if (i + j === bytes.length) return i
      const byte = bytes[i + j]
      if (j === 1 ? byte < low || byte > high : byte < 0x80 || byte > 0xbf) return i + j
    }
    i += length
  }
  return -1
}
