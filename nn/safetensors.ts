/**
 * The safetensors file format, bytes to entries and back.
 *
 *   u64 little-endian n | n bytes of JSON, padded with spaces | the tensors' bytes, without gaps
 *   JSON: { "__metadata__": { string: string }, name: { "dtype", "shape", "data_offsets": [begin, end) } }
 *
 * Files come from strangers. The header is read by a parser of its own, because JSON.parse hides duplicate keys, and nothing is allocated
 * before its size has been checked against the file. Typed arrays have the machine's byte order: little-endian wherever WebAssembly runs.
 * Tests: test/nn/safetensors.test.ts.
 */
import { narrowed, widened } from '../engine/half.ts'
import { clip, fileKind, printable } from './foreign.ts'

/** A file isn't a safetensors file, or not one of what it should be. */
export class SafetensorsError extends Error {
  override name = 'SafetensorsError'

  constructor(problem: string) {
    super(`safetensors: ${problem}`)
  }
}

type NumberArray =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | BigUint64Array
  | Uint32Array
  | Uint16Array
  | Uint8Array

interface ArrayClass {
  new (length: number): NumberArray
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): NumberArray
}

/** Bits of an element in the file, and the array that holds it in memory; 16-bit floats become float32. */
const dtypes = {
  F64: { bits: 64, array: Float64Array },
  F32: { bits: 32, array: Float32Array },
  F16: { bits: 16, array: Float32Array },
  BF16: { bits: 16, array: Float32Array },
  I64: { bits: 64, array: BigInt64Array },
  I32: { bits: 32, array: Int32Array },
  I16: { bits: 16, array: Int16Array },
  I8: { bits: 8, array: Int8Array },
  U64: { bits: 64, array: BigUint64Array },
  U32: { bits: 32, array: Uint32Array },
  U16: { bits: 16, array: Uint16Array },
  U8: { bits: 8, array: Uint8Array },
  BOOL: { bits: 8, array: Uint8Array },
} as const satisfies Record<string, { bits: number; array: ArrayClass }>

/** The format's other dtypes, which no array of JavaScript holds; their bits an element, packed. */
const packedDtypes = {
  C64: 64,
  F8_E4M3: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2: 8,
  F8_E5M2FNUZ: 8,
  F8_E8M0: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
} as const

/** The dtypes that are read as numbers. */
export type Dtype = keyof typeof dtypes
/** The names of dtypes that aren't read as numbers, such as floats of 8 bits. */
export type PackedDtype = keyof typeof packedDtypes

/** A tensor of a dtype that isn't read as numbers: its bytes as they are in the file. It can be written again. */
export class PackedEntry {
  readonly dtype: PackedDtype
  shape: number[]
  /** Its bytes in the file, or a copy of them. */
  readonly bytes: Uint8Array
  private readonly name: string

  constructor(name: string, dtype: PackedDtype, shape: number[], bytes: Uint8Array) {
    this.name = name
    this.dtype = dtype
    this.shape = shape
    this.bytes = bytes
  }

  /** There is none: a SafetensorsError. */
  get data(): never {
    throw new SafetensorsError(
      `${tensor(this.name)}: ${this.dtype} isn't read as numbers: convert it to F32 or BF16 first, or take its bytes`,
    )
  }
}

/**
 * One dtype at a time, so that a test of `dtype` also tells the class of `data`. `bits`: of a tensor of 16-bit numbers that was read, what stands in the
 * file; what is written comes from `data`.
 */
export type SafetensorsEntry =
  | { [D in Dtype]: { dtype: D; shape: number[]; data: InstanceType<(typeof dtypes)[D]['array']>; readonly bits?: BitsOf } }[Dtype]
  | PackedEntry

/** The bits of the numbers from `begin` to `end`. They may be left in `into`, which has room for them, so that a large tensor can be read piece by piece. */
export type BitsOf = (begin: number, end: number, into?: Uint16Array) => Uint16Array

/** Bytes, or what gives some of them when they are asked for, such as a file: then an entry's `data` is read each time. `into`: see `BitsOf`. */
export interface Bytes {
  /** How many there are. */
  readonly length: number
  /** Those from `begin` up to `end`, which isn't among them; they may stand in `into`, if it is given and long enough. */
  subarray(begin: number, end: number, into?: Uint8Array): Uint8Array
}

const isRead = (dtype: string): dtype is Dtype => Object.hasOwn(dtypes, dtype)
const isPacked = (dtype: string): dtype is PackedDtype => Object.hasOwn(packedDtypes, dtype)
const bitsOf = (dtype: Dtype | PackedDtype): number => (isRead(dtype) ? dtypes[dtype].bits : packedDtypes[dtype])

/** What a safetensors file holds: arrays by name, and texts by name beside them. */
export interface Safetensors {
  /** Has no prototype, so that a key such as `constructor` is only there if the file has it. */
  metadata: Record<string, string>
  tensors: Map<string, SafetensorsEntry>
}

const metadataKey = '__metadata__'
const headerCap = 100_000_000

/**
 * The entries' data may share the memory of `bytes`. A tensor of a dtype that no array holds is there too, with its name, shape and bytes; an
 * error comes where its `data` is used.
 */
export function readSafetensors(bytes: Bytes): Safetensors {
  const headerBytes = headerLength(bytes)
  const { metadata, layouts } = readHeader(decodeHeader(bytes.subarray(8, 8 + headerBytes)))
  const dataStart = 8 + headerBytes
  checkCoverage(layouts, bytes.length - dataStart)
  const tensors = new Map<string, SafetensorsEntry>()
  for (const [name, { dtype, shape, begin, end }] of layouts) {
    const part = partOf(bytes, dataStart + begin, dataStart + end)
    tensors.set(
      name,
      isRead(dtype) ? entryOf(dtype, shape, part, bytes instanceof Uint8Array) : new PackedEntry(name, dtype, shape, part()),
    )
  }
  return { metadata, tensors }
}

/** All bytes of a tensor, or those from one to another. */
type Part = (from?: number, to?: number, into?: Uint8Array) => Uint8Array

/** The tensor's that lie from `begin` to `end` in these. */
export const partOf =
  (bytes: Bytes, begin: number, end: number): Part =>
  (from = 0, to = end - begin, into) =>
    bytes.subarray(begin + from, begin + to, into)

/** Of bytes that `part` gives. `held`: they are in memory, so that the numbers may be, too, once they have been asked for. */
export function entryOf(dtype: Dtype, shape: number[], part: Part, held: boolean): SafetensorsEntry {
  const isHalf = dtype === 'F16' || dtype === 'BF16'
  if (held && !isHalf) return { dtype, shape, data: decode(dtype, part()) } as SafetensorsEntry
  let known: NumberArray | undefined
  const entry = {
    dtype,
    shape,
    get data() {
      return known ?? (held ? (known = decode(dtype, part())) : decode(dtype, part()))
    },
    set data(values) {
      known = values
    },
  }
  const bits: BitsOf = (begin, end, into) =>
    viewed(part(2 * begin, 2 * end, into && new Uint8Array(into.buffer, into.byteOffset, into.byteLength)), Uint16Array, 2) as Uint16Array
  if (isHalf) Object.defineProperty(entry, 'bits', { value: bits })
  return entry as SafetensorsEntry
}

/** What a file's metadata says, its header alone being read. */
export const readMetadata = (bytes: Bytes): Safetensors['metadata'] =>
  readHeader(decodeHeader(bytes.subarray(8, 8 + headerLength(bytes)))).metadata

/**
 * The same entries give the same bytes whatever their order: widest dtype first, so that each tensor is aligned, then by name.
 * Hugging Face's loaders take a file whose metadata says format 'pt', 'tf', 'flax' or 'mlx', and no other.
 */
export function writeSafetensors(
  tensors: Iterable<readonly [string, SafetensorsEntry]>,
  metadata: Record<string, string> = { format: 'pt' },
): Uint8Array {
  const { size, pieces } = safetensorsPieces(tensors, metadata)
  const bytes = new Uint8Array(size)
  let position = 0
  for (const piece of pieces) {
    bytes.set(piece, position)
    position += piece.length
  }
  return bytes
}

/**
 * The same a piece at a time, for a file: the header, then the tensors in the order of `names`, each encoded when its turn comes. Its `data` isn't looked at
 * before.
 */
export function safetensorsPieces(
  tensors: Iterable<readonly [string, SafetensorsEntry]>,
  metadata: Record<string, string> = { format: 'pt' },
): { size: number; header: Uint8Array; names: string[]; pieces: Iterable<Uint8Array> } {
  const entries = [...tensors].sort(([a, x], [b, y]) => bitsOf(y.dtype) - bitsOf(x.dtype) || (a < b ? -1 : 1))
  const members: string[] = []
  const keys = Object.keys(metadata).sort()
  if (keys.length > 0) members.push(`"${metadataKey}":{${keys.map((key) => metadataMember(key, metadata[key])).join()}}`)
  const seen = new Set<string>()
  let end = 0
  for (const [name, entry] of entries) {
    const { dtype, shape } = entry
    if (name === metadataKey) throw new SafetensorsError(`${tensor(name)}: the name is taken by the format`)
    if (seen.has(name)) throw new SafetensorsError(`${tensor(name)}: given twice`)
    if (!isUnicode(name)) throw new SafetensorsError(`${tensor(name)}: the name isn't valid Unicode`)
    seen.add(name)
    const begin = end
    end += sizeIn(name, entry)
    members.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join()}],"data_offsets":[${begin},${end}]}`)
  }
  const header = new TextEncoder().encode(`{${members.join()}}`)
  const headerBytes = Math.ceil(header.length / 8) * 8
  if (headerBytes > headerCap) throw new SafetensorsError(`a header of ${headerBytes} bytes is over the format's limit of ${headerCap}`)
  const start = new Uint8Array(8 + headerBytes).fill(0x20, 8 + header.length)
  new DataView(start.buffer).setBigUint64(0, BigInt(headerBytes), true)
  start.set(header, 8)
  function* pieces(): Generator<Uint8Array> {
    yield start
    for (const [name, entry] of entries) yield encode(name, entry)
  }
  return { size: start.length + end, header: start, names: entries.map(([name]) => name), pieces: pieces() }
}

/** Bytes of a tensor that can be written. */
function sizeIn(name: string, { dtype, shape }: SafetensorsEntry): number {
  if (!isRead(dtype) && !isPacked(dtype))
    throw new SafetensorsError(`${tensor(name)}: a dtype ${quote(String(dtype))} can't be written from numbers`)
  return (countOf(name, shape) * bitsOf(dtype)) / 8
}

// --- Header ---------------------------------------------------------------------------------------------------------------------------

interface Layout {
  dtype: Dtype | PackedDtype
  shape: number[]
  begin: number
  end: number
}

function headerLength(given: Bytes): number {
  const bytes = given.subarray(0, Math.min(given.length, 65536))
  if (bytes.length < 8) {
    const empty = bytes.length === 0 ? ' (it is empty: a download that was broken off?)' : ''
    throw new SafetensorsError(`a file of ${bytes.length} bytes is too short: the header's length alone takes 8${empty}`)
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true)
  const begins = given.length === 8 || bytes[8] === 0x7b // {
  const kind = length > headerCap || !begins ? fileKind(bytes) : undefined
  if (kind !== undefined) throw new SafetensorsError(`the file is ${kind.what}, not a safetensors file: ${kind.weights}`)
  if (Number(length) <= Math.min(headerCap, given.length - 8)) return Number(length)
  // The size is worth telling only if it may be one.
  if (!begins) {
    const first = Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join(' ')
    throw new SafetensorsError(`the file isn't a safetensors file: it begins with the bytes ${first}`)
  }
  throw new SafetensorsError(
    length > headerCap
      ? `a header of ${length} bytes is over the format's limit of ${headerCap}`
      : `a header of ${length} bytes doesn't fit in a file of ${given.length} bytes (truncated?)`,
  )
}

function decodeHeader(bytes: Uint8Array): string {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new SafetensorsError("the header isn't valid UTF-8")
  }
  if (!text.startsWith('{')) throw new SafetensorsError("the header doesn't begin with {")
  return text
}

function readHeader(text: string): { metadata: Record<string, string>; layouts: Map<string, Layout> } {
  const json = new HeaderParser(text)
  const metadata: Record<string, string> = Object.create(null)
  const layouts = new Map<string, Layout>()
  json.object('header', (name) => {
    if (name === metadataKey)
      json.null() ||
        json.object(metadataKey, (key) => {
          metadata[key] = json.string(`${metadataKey}: ${quote(key)}`)
        })
    else layouts.set(name, readLayout(json, name))
  })
  json.finish()
  return { metadata, layouts }
}

function readLayout(json: HeaderParser, name: string): Layout {
  const where = tensor(name)
  let dtype: string | undefined
  let shape: number[] | undefined
  let offsets: number[] | undefined
  json.object(where, (key) => {
    if (key === 'dtype') dtype = json.string(`${where}: dtype`)
    else if (key === 'shape') shape = json.sizes(`${where}: shape`)
    else if (key === 'data_offsets') offsets = json.sizes(`${where}: data_offsets`)
    else throw new SafetensorsError(`${where}: unknown field ${quote(key)}`)
  })
  if (dtype === undefined) throw new SafetensorsError(`${where}: dtype is missing`)
  if (shape === undefined) throw new SafetensorsError(`${where}: shape is missing`)
  if (offsets === undefined) throw new SafetensorsError(`${where}: data_offsets is missing`)
  if (!isRead(dtype) && !isPacked(dtype)) {
    const known = Object.keys({ ...dtypes, ...packedDtypes }).join(', ')
    throw new SafetensorsError(`${where}: unknown dtype ${quote(dtype)} (known: ${known})`)
  }
  const [begin, end] = offsets
  if (offsets.length !== 2 || begin > end) {
    throw new SafetensorsError(`${where}: data_offsets [${clip(offsets.join(', '))}] aren't [begin, end)`)
  }
  const size = (countOf(name, shape) * bitsOf(dtype)) / 8
  if (end - begin !== size) {
    throw new SafetensorsError(`${where}: offsets [${begin}, ${end}) don't match ${dtype} [${clip(shape.join(', '))}] (${size} bytes)`)
  }
  return { dtype, shape, begin, end }
}

/** The tensors, in the order of their offsets, must cover the data exactly: no overlap, no gap, nothing before, nothing after. */
function checkCoverage(layouts: ReadonlyMap<string, Layout>, dataBytes: number): void {
  const sorted = [...layouts].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let previous: string | undefined
  let covered = 0
  for (const [name, { begin, end }] of sorted) {
    const range = `${tensor(name)}: offsets [${begin}, ${end})`
    if (end > dataBytes) throw new SafetensorsError(`${range} end past the ${dataBytes} bytes of data (truncated?)`)
    if (begin < covered) throw new SafetensorsError(`${range} overlap ${tensor(previous!)}, which ends at ${covered}`)
    if (begin > covered) throw new SafetensorsError(`${range} leave a gap: no tensor has the bytes [${covered}, ${begin})`)
    covered = end
    previous = name
  }
  if (covered < dataBytes) throw new SafetensorsError(`no tensor has the last ${dataBytes - covered} of ${dataBytes} bytes of data`)
}

/** JSON, as much of it as the header may use: objects with distinct keys, strings, lists of sizes. */
class HeaderParser {
  private position = 0
  private readonly text: string

  constructor(text: string) {
    this.text = text
  }

  /** Calls `member` at each value; it must read it. */
  object(where: string, member: (key: string) => void): void {
    const keys = new Set<string>()
    this.list(where, '{', '}', () => {
      const key = this.string(`${where}: key`)
      if (keys.has(key)) throw new SafetensorsError(`${where}: ${quote(key)} is there twice`)
      keys.add(key)
      this.expect(where, ':')
      member(key)
    })
  }

  sizes(where: string): number[] {
    const sizes: number[] = []
    this.list(where, '[', ']', () => {
      const start = this.skip()
      while (this.position < this.text.length && !' \t\n\r,:"[]{}'.includes(this.text[this.position])) this.position++
      const digits = this.text.slice(start, this.position)
      const size = Number(digits)
      if (!/^(0|[1-9]\d*)$/.test(digits) || !Number.isSafeInteger(size)) {
        throw new SafetensorsError(`${where}: expected integers from 0 to 2^53 - 1, got ${clip(digits || this.next())}`)
      }
      sizes.push(size)
    })
    return sizes
  }

  string(where: string): string {
    const start = this.skip()
    if (this.text[start] !== '"') throw new SafetensorsError(`${where}: expected a string, got ${this.next()}`)
    let end = start
    let escapes: number
    do {
      end = this.text.indexOf('"', end + 1)
      if (end < 0) throw new SafetensorsError(`${where}: a string that doesn't end`)
      escapes = 0
      while (this.text[end - 1 - escapes] === '\\') escapes++
    } while (escapes % 2 === 1)
    this.position = end + 1
    let value: string
    try {
      value = JSON.parse(this.text.slice(start, end + 1))
    } catch {
      throw new SafetensorsError(`${where}: not a JSON string: ${quote(this.text.slice(start + 1, end))}`)
    }
    if (!isUnicode(value)) throw new SafetensorsError(`${where}: ${quote(value)} isn't valid Unicode`)
    return value
  }

  /** Whether the next value is null, which is read then. */
  null(): boolean {
    const found = this.text.startsWith('null', this.skip())
    if (found) this.position += 4
    return found
  }

  finish(): void {
    if (this.skip() < this.text.length) throw new SafetensorsError(`header: expected its end, got ${this.next()}`)
  }

  private list(where: string, open: string, close: string, item: () => void): void {
    this.expect(where, open)
    if (this.text[this.skip()] === close) {
      this.position++
      return
    }
    item()
    while (this.text[this.skip()] === ',') {
      this.position++
      item()
    }
    this.expect(where, close)
  }

  private expect(where: string, character: string): void {
    if (this.text[this.skip()] !== character) throw new SafetensorsError(`${where}: expected ${character}, got ${this.next()}`)
    this.position++
  }

  private skip(): number {
    while (this.position < this.text.length && ' \t\n\r'.includes(this.text[this.position])) this.position++
    return this.position
  }

  private next(): string {
    return this.position < this.text.length ? `${quote(this.text[this.position])} (header, character ${this.position})` : "the header's end"
  }
}

// --- Data -----------------------------------------------------------------------------------------------------------------------------

/** The numbers of a file's bytes, which have been checked to be whole ones. */
export function decode(dtype: Dtype, bytes: Uint8Array): NumberArray {
  if (dtype === 'F16' || dtype === 'BF16') return widened(viewed(bytes, Uint16Array, 2) as Uint16Array, halves[dtype])
  const { bits, array } = dtypes[dtype]
  return viewed(bytes, array, bits / 8)
}

/** A view where the alignment allows one, else a copy. */
function viewed(bytes: Uint8Array, array: ArrayClass, width: number): NumberArray {
  const aligned = bytes.byteOffset % width === 0 ? bytes : new Uint8Array(bytes)
  return new array(aligned.buffer, aligned.byteOffset, aligned.length / width)
}

/** The engine's names of 16-bit numbers. */
export const halves = { F16: 'float16', BF16: 'bfloat16' } as const

/** Checks that the values, or the bytes, are those of the dtype and fill the shape. */
export function encode(name: string, entry: SafetensorsEntry): Uint8Array {
  const { dtype, shape } = entry
  const count = countOf(name, shape)
  if (entry instanceof PackedEntry) {
    const size = (count * bitsOf(dtype)) / 8
    if (entry.bytes.length === size) return entry.bytes
    throw new SafetensorsError(`${tensor(name)}: ${entry.bytes.length} bytes of ${dtype} don't fill the shape [${shape.join(', ')}]`)
  }
  if (!isRead(dtype)) throw new SafetensorsError(`${tensor(name)}: a dtype ${quote(String(dtype))} can't be written from numbers`)
  const { data } = entry
  const { array } = dtypes[dtype]
  if (!(data instanceof array)) throw new SafetensorsError(`${tensor(name)}: ${dtype} is written from a ${array.name}`)
  if (count !== data.length) {
    throw new SafetensorsError(`${tensor(name)}: ${data.length} values don't fill the shape [${shape.join(', ')}]`)
  }
  if (dtype === 'F16' || dtype === 'BF16') return new Uint8Array(narrowed(data as Float32Array, halves[dtype]).buffer)
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

/** The numbers as a tensor of this dtype keeps them. */
export const rounded = (data: Float32Array<ArrayBuffer>, dtype: 'F16' | 'BF16'): Float32Array =>
  decode(dtype, encode('', { dtype, shape: [data.length], data })) as Float32Array

// --- Words ----------------------------------------------------------------------------------------------------------------------------

function countOf(name: string, shape: readonly number[]): number {
  let count = 1
  for (const size of shape) {
    count *= size
    if (size < 0 || !Number.isSafeInteger(size) || !Number.isSafeInteger(count)) {
      throw new SafetensorsError(`${tensor(name)}: shape [${clip(shape.join(', '))}] isn't of sizes whose product is below 2^53`)
    }
  }
  return count
}

function metadataMember(key: string, value: unknown): string {
  if (typeof value !== 'string') throw new SafetensorsError(`${metadataKey}: ${quote(key)}: expected a string, got ${typeof value}`)
  if (!isUnicode(key + value)) throw new SafetensorsError(`${metadataKey}: ${quote(key)} isn't valid Unicode`)
  return `${JSON.stringify(key)}:${JSON.stringify(value)}`
}

function isUnicode(text: string): boolean {
  return !/\p{Surrogate}/u.test(text)
}

/** A name may hold anything: shown on one line, and not for pages. */
function quote(text: string): string {
  return `'${clip(printable(JSON.stringify(text.slice(0, 100)).slice(1, -1)))}'`
}

function tensor(name: string): string {
  return `tensor ${quote(name)}`
}
