import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import {
  type Dtype,
  PackedEntry,
  readSafetensors,
  type SafetensorsEntry,
  SafetensorsError,
  writeSafetensors,
} from '../../nn/safetensors.ts'

const widths: Record<Dtype, number> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
}

/** A file with this header, as it is written there. */
function file(header: string | Uint8Array, dataBytes = 0, declared?: bigint): Uint8Array {
  const json = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const bytes = new Uint8Array(8 + json.length + dataBytes)
  new DataView(bytes.buffer).setBigUint64(0, declared ?? BigInt(json.length), true)
  bytes.set(json, 8)
  return bytes
}

/** The bytes of a file whose only tensor 'x' holds `data`: any dtype, any bits. */
function raw(dtype: Dtype, data: Uint8Array): Uint8Array {
  const bytes = file(`{"x":{"dtype":"${dtype}","shape":[${data.length / widths[dtype]}],"data_offsets":[0,${data.length}]}}`, data.length)
  bytes.set(data, bytes.length - data.length)
  return bytes
}

function bitsOf({ data }: SafetensorsEntry): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

function dataOf(bytes: Uint8Array): Uint8Array {
  return bytes.subarray(8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true)))
}

function halves(...values: number[]): Uint8Array {
  return new Uint8Array(Uint16Array.from(values).buffer)
}

const names = fc.oneof(
  fc.constantFrom('__proto__', 'constructor', 'toString', '', 'a.b.weight', '"quoted"', 'line\nbreak', 'é💡'),
  fc.string({ unit: 'binary', maxLength: 20 }).filter((name) => name !== '__metadata__'),
)
const entries: fc.Arbitrary<[string, SafetensorsEntry][]> = fc.uniqueArray(
  fc
    .tuple(names, fc.constantFrom(...(Object.keys(widths) as Dtype[])), fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }))
    .chain(([name, dtype, shape]) => {
      const size = shape.reduce((a, b) => a * b, 1) * widths[dtype]
      return fc.uint8Array({ minLength: size, maxLength: size }).map((data): [string, SafetensorsEntry] => {
        const entry = readSafetensors(raw(dtype, data)).tensors.get('x')!
        entry.shape = shape
        return [name, entry]
      })
    }),
  { selector: ([name]) => name, maxLength: 6 },
)
const metadata = fc.dictionary(names, fc.string({ unit: 'binary', maxLength: 20 }), { maxKeys: 4 })

describe('safetensors', () => {
  it('writes and reads any tensors and metadata, bit for bit', () => {
    fc.assert(
      fc.property(entries, metadata, fc.integer({ min: 0, max: 8 }), (tensors, meta, shift) => {
        const written = writeSafetensors(tensors, meta)
        const moved = Buffer.alloc(written.length + shift) // any alignment of the file in memory; a Buffer's slice() is no copy
        moved.set(written, shift)
        const read = readSafetensors(moved.subarray(shift))
        assert.deepEqual(Object.entries(read.metadata).sort(), Object.entries(meta).sort())
        assert.equal(read.tensors.size, tensors.length)
        for (const [name, entry] of tensors) {
          const back = read.tensors.get(name)!
          assert.equal(back.dtype, entry.dtype)
          assert.deepEqual(back.shape, entry.shape)
          assert.deepEqual(bitsOf(back), bitsOf(entry))
        }
      }),
    )
  })

  it('writes the same bytes whatever the order, padded and aligned', () => {
    fc.assert(
      fc.property(entries, metadata, (tensors, meta) => {
        const written = writeSafetensors(tensors, meta)
        const reversed = Object.fromEntries(Object.entries(meta).reverse())
        assert.deepEqual(writeSafetensors(new Map([...tensors].reverse()), reversed), written)
        assert.equal((written.length - dataOf(written).length) % 8, 0)
      }),
    )
  })

  it('keeps scalars and empty tensors apart', () => {
    const { tensors } = readSafetensors(
      writeSafetensors([
        ['scalar', { dtype: 'F32', shape: [], data: Float32Array.of(1.5) }],
        ['empty', { dtype: 'I64', shape: [3, 0], data: new BigInt64Array(0) }],
      ]),
    )
    assert.deepEqual(tensors.get('scalar'), { dtype: 'F32', shape: [], data: Float32Array.of(1.5) })
    assert.deepEqual(tensors.get('empty'), { dtype: 'I64', shape: [3, 0], data: new BigInt64Array(0) })
    assert.equal(readSafetensors(writeSafetensors([])).tensors.size, 0)
  })

  it('reads every float16 and bfloat16 and writes it back unchanged', () => {
    const all = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer)
    for (const dtype of ['F16', 'BF16'] as const) {
      const { tensors } = readSafetensors(raw(dtype, all))
      assert.deepEqual(dataOf(writeSafetensors(tensors)), all)
    }
    const some = halves(0x3c00, 0xc000, 0x0001, 0x03ff, 0x0400, 0x7bff, 0xfc00)
    const f16 = readSafetensors(raw('F16', some)).tensors.get('x')!
    assert.deepEqual([...f16.data], [1, -2, 2 ** -24, 1023 * 2 ** -24, 2 ** -14, 65504, -Infinity])
    const bf16 = readSafetensors(raw('BF16', halves(0x3f80, 0xc049, 0x7f80))).tensors.get('x')!
    assert.deepEqual([...bf16.data], [1, -3.140625, Infinity])
  })

  it('rounds float32 to the nearest 16-bit float, ties to even', () => {
    const written = (dtype: 'F16' | 'BF16', ...values: number[]) => {
      const entry: SafetensorsEntry = { dtype, shape: [values.length], data: Float32Array.from(values) }
      return [...readSafetensors(writeSafetensors([['x', entry]])).tensors.get('x')!.data]
    }
    assert.deepEqual(written('F16', 1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519, 65520, -1e9), [1, 1 + 2 ** -9, 65504, Infinity, -Infinity])
    const small = [2 ** -25, 1.5 * 2 ** -25, 2.5 * 2 ** -24, 2 ** -14 - 2 ** -26, 2 ** -40]
    assert.deepEqual(written('F16', ...small), [0, 2 ** -24, 2 ** -23, 2 ** -14, 0])
    assert.deepEqual(written('BF16', 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38, NaN), [1, 1 + 2 ** -6, Infinity, NaN])
  })

  const f32 = (shape: string, offsets: string) => `{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}`
  const two = (a: string, b: string, bytes: number) => file(`{"a":${f32('[1]', a)},"b":${f32('[1]', b)}}`, bytes)
  const refused: [string, Uint8Array, string][] = [
    ['no bytes', new Uint8Array(0), 'a file of 0 bytes is too short'],
    ['half a length', new Uint8Array(7), 'a file of 7 bytes is too short'],
    ['a huge header', file('{}', 0, 2n ** 63n), "a header of 9223372036854775808 bytes is over the format's limit of 100000000"],
    ['a header past the end', file('{}', 0, 3n), "a header of 3 bytes doesn't fit in a file of 10 bytes (truncated?)"],
    ['an empty header', file(''), "the header doesn't begin with {"],
    ['a space before the header', file(' {}'), "the header doesn't begin with {"],
    ['a byte order mark', file('\ufeff{}'), "the header doesn't begin with {"],
    ['bad UTF-8', file(Uint8Array.of(0x7b, 0xff, 0x7d)), "the header isn't valid UTF-8"],
    ['no end', file('{'), "header: key: expected a string, got the header's end"],
    ['more after the header', file('{}x'), "header: expected its end, got 'x' (header, character 2)"],
    ['a trailing comma', file('{"__metadata__":{},}'), "header: key: expected a string, got '}'"],
    ['a string with a line break', file('{"a\nb":1}'), "header: key: not a JSON string: 'a\\nb'"],
    ['an open string', file('{"a\\"'), "header: key: a string that doesn't end"],
    ['half a surrogate pair', file('{"\\ud800":1}'), "header: key: '\\ud800' isn't valid Unicode"],
    ['not an object', file('{"a":[]}'), "tensor 'a': expected {, got '['"],
    ['no dtype', file('{"a":{}}'), "tensor 'a': dtype is missing"],
    ['no shape', file('{"a":{"dtype":"F32"}}'), "tensor 'a': shape is missing"],
    ['no offsets', file('{"a":{"dtype":"F32","shape":[]}}'), "tensor 'a': data_offsets is missing"],
    ['an unknown field', file('{"a":{"strides":[]}}'), "tensor 'a': unknown field 'strides'"],
    ['an unknown dtype', file('{"a":{"dtype":"toString","shape":[],"data_offsets":[0,0]}}'), "'a': unknown dtype 'toString' (known: F64,"],
    ['a dtype that is no string', file('{"a":{"dtype":1}}'), "tensor 'a': dtype: expected a string, got '1'"],
    ['a negative size', file(`{"a":${f32('[-1]', '[0,4]')}}`), "tensor 'a': shape: expected integers from 0 to 2^53 - 1, got -1"],
    ['a fraction', file(`{"a":${f32('[1.5]', '[0,4]')}}`), "tensor 'a': shape: expected integers from 0 to 2^53 - 1, got 1.5"],
    ['an exponent', file(`{"a":${f32('[1e3]', '[0,4]')}}`), "tensor 'a': shape: expected integers from 0 to 2^53 - 1, got 1e3"],
    ['2^53', file(`{"a":${f32('[9007199254740992]', '[0,4]')}}`), 'got 9007199254740992'],
    ['a size that is a string', file(`{"a":${f32('["3"]', '[0,4]')}}`), "'a': shape: expected integers from 0 to 2^53 - 1, got '\\\"'"],
    ['a product that overflows', file(`{"a":${f32('[4294967296,4294967296,0]', '[0,0]')}}`), "[4294967296, 4294967296, 0] isn't of sizes"],
    ['one offset', file(`{"a":${f32('[1]', '[0]')}}`, 4), "tensor 'a': data_offsets [0] aren't [begin, end)"],
    ['reversed offsets', file(`{"a":${f32('[1]', '[4,0]')}}`, 4), "tensor 'a': data_offsets [4, 0] aren't [begin, end)"],
    ['another size', file(`{"a.b":${f32('[3,5]', '[0,80]')}}`, 80), "tensor 'a.b': offsets [0, 80) don't match F32 [3, 5] (60 bytes)"],
    ['missing data', file(`{"a":${f32('[2]', '[0,8]')}}`, 7), "tensor 'a': offsets [0, 8) end past the 7 bytes of data (truncated?)"],
    ['data of no tensor', file(`{"a":${f32('[2]', '[0,8]')}}`, 10), 'no tensor has the last 2 of 10 bytes of data'],
    ['a gap', two('[0,4]', '[8,12]', 12), "tensor 'b': offsets [8, 12) leave a gap: no tensor has the bytes [4, 8)"],
    ['an overlap', two('[0,4]', '[2,6]', 6), "tensor 'b': offsets [2, 6) overlap tensor 'a', which ends at 4"],
    ['one range twice', two('[0,4]', '[0,4]', 4), "tensor 'b': offsets [0, 4) overlap tensor 'a'"],
    ['one name twice', file(`{"a":${f32('[1]', '[0,4]')},"\\u0061":${f32('[1]', '[4,8]')}}`, 8), "header: 'a' is there twice"],
    ['one field twice', file('{"a":{"dtype":"F32","dtype":"F32"}}'), "tensor 'a': 'dtype' is there twice"],
    ['metadata twice', file('{"__metadata__":{},"__metadata__":{}}'), "header: '__metadata__' is there twice"],
    ['a metadata key twice', file('{"__metadata__":{"k":"1","k":"2"}}'), "__metadata__: 'k' is there twice"],
    ['a metadata number', file('{"__metadata__":{"k":1}}'), "__metadata__: 'k': expected a string, got '1'"],
    ['nested metadata', file('{"__metadata__":{"k":{}}}'), "__metadata__: 'k': expected a string, got '{'"],
    ['deep nesting', file('{"a":'.repeat(100_000)), "tensor 'a': unknown field 'a'"],
    ['a terminal escape in a name', file('{"\\u001b[2J\u009b":1}'), "tensor '\\u001b[2J\\u009b': expected {"],
    ['a name of a megabyte', file(`{"${'n'.repeat(1 << 20)}":1}`), "nnn…': expected {, got '1'"],
  ]
  for (const [what, bytes, message] of refused) {
    it(`refuses ${what}`, () => {
      assert.throws(
        () => readSafetensors(bytes),
        (error) => {
          assert(error instanceof SafetensorsError)
          assert(error.message.startsWith('safetensors: ') && error.message.includes(message), error.message)
          assert(!error.message.includes('\n') && error.message.length < 300)
          return true
        },
      )
    })
  }

  const ascii = (text: string) => new TextEncoder().encode(text)
  const latin1 = (text: string, more = 64) => new Uint8Array([...Buffer.from(text, 'latin1'), ...new Uint8Array(more).fill(7)])
  const member = (name: string) => latin1(`PK\x03\x04${'\0'.repeat(22)}${String.fromCharCode(name.length)}\0\0\0${name}`)
  const fromTorch =
    "convert it in Python: import torch; from safetensors.torch import save_file; save_file(torch.load('model.pt', 'cpu', weights_only=True), 'model.safetensors')"
  const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${'4d7a'.repeat(16)}\nsize 12345\n`
  const foreign: [string, Uint8Array, string][] = [
    ['a Git LFS pointer', ascii(pointer), 'a Git LFS pointer, not a safetensors file: fetch the file itself with git lfs pull'],
    ['an HTML page', ascii('\n<!DOCTYPE html>\n<html lang="en">'), 'an HTML page, not a safetensors file: download the file itself'],
    ['an error of a host', ascii('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), 'an XML document, not'],
    ['plain text', ascii('Entry not found\u001b[31m'), "plain text that begins 'Entry not found\\u001b[31m', not"],
    ['text in another script', ascii('Привет, мир'), "plain text that begins 'Привет, мир', not"],
    ['text whose ninth byte is a brace', ascii('12345678{}'), "plain text that begins '12345678{}', not"],
    ['JSON', ascii('{"model_type":"llama"}'), `JSON that begins '{"model_type":"llama"}', not`],
    ['JSON whose ninth byte is a brace', ascii('{"abc": {}}'), `JSON that begins '{"abc": {}}', not`],
    [
      'an index',
      ascii('{"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors"}}'),
      'the index of a model in several files',
    ],
    ['UTF-16', new Uint8Array(Buffer.from('Entry not found', 'utf16le')), 'a text in UTF-16 (little-endian), not'],
    ['a zip archive', latin1('PK\x03\x04'), `a zip archive, not a safetensors file: PyTorch's .pt and .bin files are such; ${fromTorch}`],
    ['a PyTorch file', member('archive/data.pkl'), `a PyTorch file, a zip archive, not a safetensors file: ${fromTorch}`],
    ['an npz', member('weight.npy'), "from safetensors.numpy import save_file; save_file(dict(numpy.load('model.npz'))"],
    [
      'an old pickle',
      latin1('\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'),
      `a Python pickle, not a safetensors file: old PyTorch files are such; ${fromTorch}`,
    ],
    // Its first 8 bytes could be a header's length.
    ['a pickle of zeros', new Uint8Array([0x80, 4, ...new Uint8Array(2000)]), 'a Python pickle'],
    ['GGUF', latin1('GGUF\x03\0\0\0'), 'a GGUF file, of llama.cpp, not'],
    ['an npy', latin1('\x93NUMPY\x01\0'), "save_file({'NAME': numpy.load('model.npy')}, 'model.safetensors')"],
    ['HDF5', latin1('\x89HDF\r\n\x1a\n'), 'an HDF5 file, as those of Keras are, not'],
    ['gzip', latin1('\x1f\x8b\x08\0\0\0\0\0\0\x03', 1 << 20), 'compressed with gzip, not a safetensors file: unpack it first (gunzip)'],
    ['zstd', latin1('\x28\xb5\x2f\xfd'), 'compressed with zstd'],
    ['a tar archive', new Uint8Array([...latin1('model/', 251), ...Buffer.from('ustar\0')]), 'a tar archive, not'],
    ['a PDF', latin1('%PDF-1.7\n'), 'a PDF, not'],
    ['zeros', new Uint8Array(4096), 'nothing but zeros, not a safetensors file: a download that was broken off?'],
    [
      'what nobody knows',
      latin1('\xfe\xed\xfa\xce'),
      "the file isn't a safetensors file: it begins with the bytes fe ed fa ce 07 07 07 07",
    ],
    ['an empty file', new Uint8Array(0), 'it is empty'],
    [
      'a download cut in its header',
      file('{"a":{"dtype"', 0, 900n),
      "a header of 900 bytes doesn't fit in a file of 21 bytes (truncated?)",
    ],
  ]
  for (const [what, bytes, message] of foreign)
    it(`says what a file is: ${what}`, () => {
      assert.throws(
        () => readSafetensors(bytes),
        (error) => {
          assert(error instanceof SafetensorsError)
          assert(error.message.includes(message), error.message)
          assert.doesNotMatch(error.message, /[\p{Cc}]/u)
          if (!what.includes('cut')) assert.doesNotMatch(error.message, /a header of/)
          return true
        },
      )
    })

  it('a file that begins like another, and is a safetensors file, is read', () => {
    // Headers of 0x280 and 0x8b1f bytes: the marks of a pickle and of gzip.
    for (const size of [0x280, 0x8b1f]) assert.equal(readSafetensors(file(`{}${' '.repeat(size - 2)}`)).tensors.size, 0)
  })

  const packed: [string, number[], number][] = [
    ['C64', [3], 24],
    ['F8_E4M3', [2, 3], 6],
    ['F8_E5M2', [2, 3], 6],
    ['F8_E8M0', [5], 5],
    ['F8_E4M3FNUZ', [1], 1],
    ['F8_E5M2FNUZ', [1], 1],
    ['F6_E2M3', [2, 4], 6],
    ['F6_E3M2', [4], 3],
    ['F4', [3, 2], 3],
    ['F4', [], 0.5],
    ['F4', [3], 1.5],
    ['F6_E2M3', [3], 2.25],
  ]
  for (const [dtype, shape, size] of packed) {
    const header = (bytes: number) =>
      `{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[4,${4 + bytes}]}}`
    it(`reads a file in which ${dtype} [${shape}] is, but for its numbers`, () => {
      for (const bytes of [Math.floor(size), Math.ceil(size)]) {
        if (bytes === size) continue
        assert.throws(() => readSafetensors(file(header(bytes), 4 + bytes)), {
          message: `safetensors: tensor 'x': offsets [4, ${4 + bytes}) don't match ${dtype} [${shape.join(', ')}] (${size} bytes)`,
        })
      }
      assert.throws(() => readSafetensors(file(header(Math.floor(size) + 1), 5 + Math.floor(size))), /tensor 'x': offsets/)
      if (!Number.isInteger(size)) return
      assert.throws(() => readSafetensors(file(header(size), 3 + size)), /tensor '.': offsets .* end past the/)
      const bytes = file(header(size), 4 + size)
      bytes.set(
        Uint8Array.from({ length: size }, (_, i) => 201 * i + 1),
        bytes.length - size,
      )
      const { tensors } = readSafetensors(bytes)
      assert.deepEqual(tensors.get('w'), { dtype: 'F32', shape: [1], data: Float32Array.of(0) })
      const x = tensors.get('x')!
      assert.deepEqual([x.dtype, x.shape], [dtype, shape])
      assert.throws(() => x.data, {
        name: 'SafetensorsError',
        message: /^safetensors: tensor 'x': \w+ isn't read as numbers: convert it to F32/,
      })
      assert(x instanceof PackedEntry)
      assert.deepEqual(x.bytes, bytes.subarray(bytes.length - size))
      const again = readSafetensors(writeSafetensors(tensors)).tensors.get('x')
      assert(again instanceof PackedEntry)
      assert.deepEqual([again.dtype, again.shape, again.bytes], [dtype, shape, x.bytes])
      x.shape = [...shape, 2]
      assert.throws(() => writeSafetensors(tensors), { message: /^safetensors: tensor 'x': \d+ bytes of \w+ don't fill the shape/ })
    })
  }

  it('reads metadata that is null as none, and no other null', () => {
    const { metadata, tensors } = readSafetensors(file(`{"__metadata__": null ,"a":${f32('[1]', '[0,4]')}}`, 4))
    assert.deepEqual([Object.keys(metadata), [...tensors.keys()]], [[], ['a']])
    assert.equal(readSafetensors(file('{"__metadata__":null}')).tensors.size, 0)
    for (const header of [
      '{"__metadata__":nul}',
      '{"__metadata__":{"k":null}}',
      '{"a":null}',
      '{"__metadata__":nullx}',
      '{"__metadata__":null',
    ])
      assert.throws(() => readSafetensors(file(header)), SafetensorsError)
  })

  it("writes format 'pt', which Hugging Face's loaders ask for, unless it is told otherwise", () => {
    assert.deepEqual({ ...readSafetensors(writeSafetensors([])).metadata }, { format: 'pt' })
    assert.deepEqual({ ...readSafetensors(writeSafetensors([], { note: 'x' })).metadata }, { note: 'x' })
  })

  it('refuses to write what it could not read', () => {
    const data = Float32Array.of(1, 2)
    const write =
      (name: string, entry: object, meta = {}) =>
      () =>
        writeSafetensors([[name, entry as SafetensorsEntry]], meta)
    assert.throws(write('a', { dtype: 'F32', shape: [3], data }), /tensor 'a': 2 values don't fill the shape \[3\]/)
    assert.throws(write('a', { dtype: 'F32', shape: [0.5, 4], data }), SafetensorsError)
    assert.throws(write('a', { dtype: 'I32', shape: [2], data }), /tensor 'a': I32 is written from a Int32Array/)
    assert.throws(write('__metadata__', { dtype: 'F32', shape: [2], data }), /taken by the format/)
    assert.throws(write('\ud800', { dtype: 'F32', shape: [2], data }), /valid Unicode/)
    assert.throws(write('a', { dtype: 'F32', shape: [2], data }, { step: 3 }), /__metadata__: 'step': expected a string, got number/)
    const entry: SafetensorsEntry = { dtype: 'F32', shape: [2], data }
    assert.throws(
      () =>
        writeSafetensors([
          ['a', entry],
          ['a', entry],
        ]),
      /tensor 'a': given twice/,
    )
  })

  it('reads a damaged file consistently or refuses it with its own error', () => {
    const valid = writeSafetensors(
      [
        ['layers.0.weight', { dtype: 'F32', shape: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6) }],
        ['layers.0.bias', { dtype: 'F16', shape: [2], data: Float32Array.of(0.5, -1) }],
        ['steps', { dtype: 'I64', shape: [], data: BigInt64Array.of(7n) }],
        ['empty', { dtype: 'U8', shape: [0], data: new Uint8Array(0) }],
      ],
      { format: 'pt', note: 'a "quoted" note' },
    )
    const header = valid.length - dataOf(valid).length
    const structural = [...'{}[]",:0123456789-.e\\ '].map((c) => c.charCodeAt(0))
    const edit = fc.record({
      kind: fc.constantFrom('set', 'insert', 'remove'),
      at: fc.oneof(fc.nat(header - 1), fc.nat(valid.length - 1)),
      byte: fc.oneof(fc.constantFrom(...structural), fc.integer({ min: 0, max: 255 })),
    })
    let accepted = 0
    const edits = fc.array(edit, { minLength: 1, maxLength: 4 })
    const cuts = fc.option(fc.nat(valid.length), { freq: 1 })
    fc.assert(
      fc.property(edits, cuts, fc.boolean(), (edits, cut, repair) => {
        const mutated = [...valid]
        for (const { kind, at, byte } of edits) {
          if (kind === 'set') mutated[at] = byte
          else if (kind === 'insert') mutated.splice(at, 0, byte)
          else mutated.splice(at, 1)
        }
        const bytes = Uint8Array.from(cut === null ? mutated : mutated.slice(0, cut))
        // A right header length lets more of the damage reach the parser.
        if (repair && bytes.length >= 8) {
          new DataView(bytes.buffer).setBigUint64(0, BigInt(Math.min(bytes.length - 8, header - 8 + bytes.length - valid.length)), true)
        }
        let read: ReturnType<typeof readSafetensors>
        try {
          read = readSafetensors(bytes)
        } catch (error) {
          assert(error instanceof SafetensorsError, String(error))
          return
        }
        accepted++
        let total = 0
        for (const entry of read.tensors.values()) {
          const size = entry.shape.reduce((a, b) => a * b, 1)
          if (entry instanceof PackedEntry) total += entry.bytes.length
          else {
            assert.equal(entry.data.length, size)
            total += size * widths[entry.dtype]
          }
        }
        assert.equal(total, dataOf(bytes).length)
        for (const value of Object.values(read.metadata)) assert.equal(typeof value, 'string')
        const again = readSafetensors(writeSafetensors(read.tensors, read.metadata))
        assert.deepEqual([...again.tensors.keys()].sort(), [...read.tensors.keys()].sort())
      }),
      { numRuns: 5000 },
    )
    assert(accepted > 50, `only ${accepted} of the damaged files were readable: the fuzz is too crude`)
  })

  it("reads the golden files, whose header says their tensors' sizes", function () {
    const folder = new URL('../../../../shared/golden/', import.meta.url)
    let files: string[]
    try {
      files = readdirSync(folder).filter((name) => name.endsWith('.safetensors'))
    } catch {
      console.log('        skipped: ../shared/golden is absent')
      return this.skip()
    }
    for (const name of files) {
      const { tensors, metadata } = readSafetensors(readFileSync(new URL(name, folder)))
      assert(tensors.size > 0 && Object.keys(metadata).length > 0, name)
    }
  })
})
