/**
 * What comes from elsewhere, for messages about it: what a file is that isn't what it should be, and how to show its text.
 * Tests: test/nn/safetensors.test.ts (weights), test/nn/text.test.ts (texts).
 */

/** Control characters, and those that break or reorder a line, as escapes: what tells of them stays one line and says no more than it shows. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_C}\u2028\u2029]/gu, (c) => {
    const short = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }[c]
    return short ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}

export function clip(text: string, limit = 80): string {
  return text.length <= limit ? text : `${text.slice(0, limit - 1)}…`
}

/** The known word that differs from this one in the fewest characters, if those are at most a third of it. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const [best] = known.map((name) => ({ name, distance: editDistance(word, name) })).sort((a, b) => a.distance - b.distance)
  return best !== undefined && best.distance <= Math.max(1, Math.floor(word.length / 3)) ? best.name : undefined
}

/** The least number of characters to insert, remove, replace or swap with the next. */
function editDistance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => Array.from({ length: b.length + 1 }, (_, j) => i || j))
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const replaced = rows[i - 1][j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)
      rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, replaced)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1)
    }
  }
  return rows[a.length][b.length]
}

export interface FileKind {
  /** 'a PDF'. */
  readonly what: string
  /** What to do for weights from it, or for a text; where a text may be of that kind, none. */
  readonly weights: string
  readonly text?: string
}

/** The kind of a file by its first bytes, if it is a known one. */
export function fileKind(bytes: Uint8Array): FileKind | undefined {
  const at = (offset: number, length: number): string => String.fromCharCode(...bytes.subarray(offset, offset + length))
  const found = signatures.find(([start, , offset = 0]) => at(offset, start.length) === start)?.[1]
  // The name of a zip archive's first file, whose length stands before it.
  if (found === zip) return zips.find(([member]) => member.test(at(30, bytes[26] ?? 0)))?.[1] ?? zip
  if (found !== undefined) return found
  if (bytes[0] === 0x80 && bytes[1] >= 2 && bytes[1] <= 5) return pickle // PROTO and its version
  if (at(8, 1) === '{' && bytes[3] < 5 && at(4, 4) === '\0\0\0\0') return safetensors // a header below 84 MB
  if (bytes.length > 8 && bytes.subarray(0, 1024).every((byte) => byte === 0)) return zeros
  const encoding = encodingOf(bytes)
  if (encoding !== undefined) return { what: `a text in ${encoding.name}`, weights: another }
  const start = textOf(bytes.subarray(0, 4096))?.trimStart()
  if (start === undefined) return undefined
  const document = documents.find(([begins]) => begins.test(start))?.[1]
  const what = start.startsWith('{') || start.startsWith('[') ? 'JSON' : 'plain text'
  return document ?? { what: `${what} that begins '${clip(printable(start), 40)}'`, weights: another }
}

/** The text that the bytes are the beginning of; undefined if they are none. */
function textOf(bytes: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true })
    return text === '' || isBinary(bytes) ? undefined : text
  } catch {
    return undefined
  }
}

/** Whether there are control codes that no text has, in any encoding of one byte a character. */
export function isBinary(bytes: Uint8Array): boolean {
  return bytes.subarray(0, 65536).some((byte) => byte < 9 || (byte > 13 && byte < 26))
}

// --- Kinds ----------------------------------------------------------------------------------------------------------------------------

const python = (from: string, what: string): string =>
  `convert it in Python: import ${from}; from safetensors.${from} import save_file; save_file(${what}, 'model.safetensors')`
const fromTorch = python('torch', "torch.load('model.pt', 'cpu', weights_only=True)")
const another = 'give a safetensors file'

const other = (what: string, weights = another, text = 'give a text file'): FileKind => ({ what, weights, text })
const either = (what: string, advice: string): FileKind => other(what, advice, advice)
const packed = (what: string, how: string): FileKind => either(what, `unpack it first (${how})`)

const zip = other(
  'a zip archive',
  `PyTorch's .pt and .bin files are such; ${fromTorch}`,
  'take the text out of it (.docx, .odt and .epub files are zip archives, too)',
)
const pickle = other('a Python pickle', `old PyTorch files are such; ${fromTorch}`)
const safetensors = other('a safetensors file')
const zeros = either('nothing but zeros', 'a download that was broken off? Fetch it again')
const pointer = either('a Git LFS pointer', 'fetch the file itself with git lfs pull')
const gguf = other('a GGUF file, of llama.cpp', "give the model's safetensors files, from which it was made")

/** What a file of the kind has at the offset (0 unless it is given), as Latin-1; enough of it that no text begins so by chance. */
const signatures: readonly (readonly [start: string, kind: FileKind, offset?: number])[] = [
  ['version https://git-lfs.github.com/spec/', pointer],
  ['version https://hawser.github.com/spec/', pointer],
  ['PK\x03\x04', zip],
  ['PK\x05\x06', zip],
  ['\x1f\x8b', packed('compressed with gzip', 'gunzip')],
  ['1AY&SY', packed('compressed with bzip2', 'bunzip2'), 4],
  ['\xfd7zXZ\0', packed('compressed with xz', 'unxz')],
  ['\x28\xb5\x2f\xfd', packed('compressed with zstd', 'unzstd')],
  ['7z\xbc\xaf\x27\x1c', packed('a 7-Zip archive', '7z x')],
  ['Rar!\x1a\x07', packed('a RAR archive', 'unrar x')],
  ['ustar\0', packed('a tar archive', 'tar -xf'), 257],
  ['ustar  \0', packed('a tar archive', 'tar -xf'), 257],
  ['GGUF\x01', gguf],
  ['GGUF\x02', gguf],
  ['GGUF\x03', gguf],
  ['\x93NUMPY', other('a NumPy array', python('numpy', "{'NAME': numpy.load('model.npy')}"))],
  ['\x89HDF\r\n\x1a\n', other('an HDF5 file, as those of Keras are', 'read it with h5py and write it with safetensors.numpy.save_file')],
  ['\0\0TFL3', other('a TensorFlow Lite model'), 2],
  ['PAR1\x15', other('a Parquet table', another, 'write its column of texts to a text file')],
  ['SQLite format 3\0', other('an SQLite database')],
  ['%PDF-', other('a PDF', another, 'take its text out first (pdftotext)')],
  ['{\\rtf', other('an RTF document', another, 'save it as plain text')],
  ['\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1', other('an old Office document', another, 'save it as plain text')],
  ['\x89PNG\r\n\x1a\n', other('a PNG picture')],
  ['\xff\xd8\xff', other('a JPEG picture')],
  ['\x7fELF', other('a program')],
]

const zips: readonly (readonly [member: RegExp, kind: FileKind])[] = [
  [/\.npy$/, other('a NumPy archive, as .npz files are', python('numpy', "dict(numpy.load('model.npz'))"))],
  [/data\.pkl$/, other('a PyTorch file, a zip archive', fromTorch)],
]

const documents: readonly (readonly [begins: RegExp, kind: FileKind])[] = [
  [
    /^<(!doctype html|!--|html|head|body|script|title)/i,
    { what: 'an HTML page', weights: 'download the file itself, not the page about it' },
  ],
  [/^<\?xml\b/i, { what: 'an XML document', weights: 'download the file itself, not what its host says about it' }],
  [
    /^\{.*"weight_map"/s,
    { what: 'the index of a model in several files', weights: 'give the safetensors files that it names, one by one' },
  ],
]

// --- Encodings ------------------------------------------------------------------------------------------------------------------------

export interface Encoding {
  readonly name: string
  /** As iconv and as Get-Content call it, in any PowerShell or in 7 only. */
  readonly iconv: string
  readonly powershell: string
  readonly seven?: true
}

type Wide = Encoding & { readonly mark: readonly number[]; readonly width: 2 | 4; readonly little: boolean }

/** In the order in which they are looked for: the mark of UTF-16LE begins that of UTF-32LE. */
const wide: readonly Wide[] = [
  { name: 'UTF-32 (little-endian)', iconv: 'UTF-32LE', powershell: 'UTF32', mark: [0xff, 0xfe, 0, 0], width: 4, little: true },
  {
    name: 'UTF-32 (big-endian)',
    iconv: 'UTF-32BE',
    powershell: 'BigEndianUTF32',
    seven: true,
    mark: [0, 0, 0xfe, 0xff],
    width: 4,
    little: false,
  },
  { name: 'UTF-16 (little-endian)', iconv: 'UTF-16LE', powershell: 'Unicode', mark: [0xff, 0xfe], width: 2, little: true },
  { name: 'UTF-16 (big-endian)', iconv: 'UTF-16BE', powershell: 'BigEndianUnicode', mark: [0xfe, 0xff], width: 2, little: false },
]

/** UTF-16 or UTF-32, by the byte order mark, or by the characters that a sample has. */
export function encodingOf(bytes: Uint8Array): Encoding | undefined {
  const marked = wide.find(({ mark }) => mark.every((byte, i) => bytes[i] === byte))
  if (marked !== undefined) return marked
  const sample = bytes.subarray(0, 65536)
  const letters = sample.filter((byte) => byte !== 0)
  if (letters.length > 0.75 * sample.length && textOf(letters) !== undefined) return undefined // UTF-8 in which a zero parts the words, say
  const shares = wide.map((encoding) => commonShare(sample, encoding))
  // What is common in one order of the bytes isn't in the other.
  return wide.find(({ width, little }, i) => {
    const opposite = wide.findIndex((encoding) => encoding.width === width && encoding.little !== little)
    return shares[i] > 0.005 && shares[i] > 4 * shares[opposite]
  })
}

/** The part of the code units that are ASCII or the commonest punctuation of Chinese and Japanese; 0 if many are in no text. */
function commonShare(bytes: Uint8Array, { width, little }: Wide): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const units = Math.floor(bytes.length / width)
  let common = 0
  let impossible = 0
  for (let i = 0; i < units; i++) {
    const unit = width === 2 ? view.getUint16(2 * i, little) : view.getUint32(4 * i, little)
    const control = unit < 9 || (unit > 13 && unit < 27) || (unit > 0x7e && unit < 0xa0)
    if (control || (unit >= 0xe000 && unit < 0xf900) || (unit >= 0xfff0 && unit <= 0xffff) || unit > 0x10ffff) impossible++
    else if ((unit >= 0x20 && unit <= 0x7e) || [0x09, 0x0a, 0x0d, 0x3001, 0x3002, 0xff0c].includes(unit)) common++
  }
  return units === 0 || impossible > units / 100 ? 0 : common / units
}
