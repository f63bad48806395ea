import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { decodeText, invalidUtf8 } from '../../tasks/decode.ts'
import { cacheFolder, defaultText, readText, type TextSource, untar } from '../../tasks/download.ts'
import {
  type Batch,
  charVocabulary,
  evaluationBatches,
  ignoredTarget,
  randomBatches,
  sequentialBatches,
  splitText,
  vocabularyOf,
} from '../../tasks/text.ts'
import { streamBatches } from '../../tasks/words.ts'

const throwsText = (action: () => unknown, message: string) => assert.throws(action, { name: 'TextError', message })
const rejectsText = (action: Promise<unknown>, message: string | RegExp) => assert.rejects(action, { name: 'TextError', message })
const counting = (n: number) => Int32Array.from({ length: n }, (_, i) => i)

/** The position in `counting` text of every target that counts; each must follow its token. */
function targetsOf({ tokens, targets, B, T, count }: Batch): number[] {
  assert.equal(tokens.length, B * T)
  assert.equal(targets.length, B * T)
  const counted: number[] = []
  for (let i = 0; i < B * T; i++) {
    if (targets[i] === ignoredTarget) continue
    assert.equal(targets[i], tokens[i] + 1)
    counted.push(targets[i])
  }
  assert.equal(counted.length, count)
  return counted
}

describe('text', () => {
  describe('vocabulary', () => {
    it('sorts by code point and brings any text back', () => {
      assert.deepEqual(charVocabulary('ba\uffee💡a\n').symbols, ['\n', 'a', 'b', '\uffee', '💡'])
      fc.assert(
        fc.property(fc.string({ unit: 'binary', minLength: 1 }), (text) => {
          const vocabulary = charVocabulary(text)
          const tokens = vocabulary.encode(text)
          assert.equal(tokens.length, [...text].length)
          assert.equal(vocabulary.decode(tokens), text)
          assert.deepEqual(vocabularyOf(vocabulary.symbols).encode(text), tokens)
        }),
      )
    })

    it('names the character it lacks, where it is, and what it has instead', () => {
      const { encode } = charVocabulary("abcABCe-' ")
      throwsText(() => encode('abcé'), 'character "é" (U+00E9) at 3 isn\'t in the vocabulary of 10 symbols (it has "e")')
      throwsText(() => encode('💡'), 'character "💡" (U+1F4A1) at 0 isn\'t in the vocabulary of 10 symbols')
      throwsText(() => encode('a’'), 'character "’" (U+2019) at 1 isn\'t in the vocabulary of 10 symbols (it has "\'")')
      throwsText(() => encode('E'), 'character "E" (U+0045) at 0 isn\'t in the vocabulary of 10 symbols (it has "e")')
      throwsText(() => encode('a\n'), 'character "\\n" (U+000A) at 1 isn\'t in the vocabulary of 10 symbols')
    })

    it('refuses an empty text, a token out of range and stored symbols that are none', () => {
      throwsText(() => charVocabulary(''), 'the text is empty')
      throwsText(() => charVocabulary('ab').decode([0, 2]), "token 2 at 1 isn't in the vocabulary of 2 symbols")
      throwsText(() => vocabularyOf(['a', 'a']), 'the vocabulary has a symbol twice')
      throwsText(() => vocabularyOf(['ab']), 'the vocabulary\'s symbol "ab" isn\'t one character')
    })
  })

  describe('split', () => {
    it('cuts at floor(fraction n) characters, not code units', () => {
      assert.deepEqual(splitText('0123456789abcdefghij'), { train: '0123456789abcdefgh', valid: 'ij' })
      assert.deepEqual(splitText('💡b💡d', 0.5), { train: '💡b', valid: '💡d' })
      fc.assert(
        fc.property(fc.string({ unit: 'binary', minLength: 4 }), fc.double({ min: 0.5, max: 0.6, noNaN: true }), (text, fraction) => {
          const { train, valid } = splitText(text, fraction)
          assert.equal(train + valid, text)
          assert.equal([...train].length, Math.floor(fraction * [...text].length))
        }),
      )
    })

    it('says what a text that is too short would need', () => {
      throwsText(() => splitText(''), 'the text is empty')
      throwsText(
        () => splitText('a'.repeat(100), 0.9, 128),
        'the text is too short: of its 100 characters, 90 would train (129 needed for sequences of 128) and 10 validate (2 needed)',
      )
      throwsText(() => splitText('abc', 1), "a text can't be split at 1: give a fraction between 0 and 1")
      throwsText(() => splitText('abc', NaN), "a text can't be split at NaN: give a fraction between 0 and 1")
    })
  })

  describe('batches', () => {
    const sizes = fc
      .record({ n: fc.integer({ min: 2, max: 300 }), T: fc.integer({ min: 1, max: 40 }), B: fc.integer({ min: 1, max: 5 }) })
      .filter(({ n, T }) => n > T)

    it('are a function of seed and step alone', () => {
      for (const batches of [randomBatches, sequentialBatches]) {
        const options = { B: 4, T: 8, seed: 7 }
        const tokens = counting(1000)
        const early = batches(tokens, options)
        const forward = Array.from({ length: 100 }, (_, step) => early.batch(step))
        const late = batches(tokens, options)
        for (const step of [99, 3, 64, 0, 31, 32]) assert.deepEqual(late.batch(step), forward[step])
        assert.notDeepEqual(batches(tokens, { ...options, seed: 8 }).batch(0), forward[0])
        assert.notDeepEqual(forward[1], forward[0])
      }
    })

    it('refuse sizes that are none, of which some would never end', () => {
      const tokens = counting(20)
      const refused = (call: () => unknown, message: string) => assert.throws(call, { message })
      for (const batches of [randomBatches, sequentialBatches]) {
        const { name } = batches
        for (const size of [0, 1.5, undefined] as number[]) {
          const not = size === undefined ? 'a number, not undefined' : `a positive integer, not ${size}`
          refused(() => batches(tokens, { B: 2, T: size }), `${name}: T must be ${not}`)
          refused(() => batches(tokens, { B: size, T: 2 }), `${name}: B must be ${not}`)
        }
        refused(() => batches(tokens, { B: 2, T: 2, seed: Number.NaN }), `${name}: seed must be an integer, not NaN`)
        refused(() => batches(tokens, { B: 2, T: 2, Seed: 3 } as never), `${name}: unknown option 'Seed' (B, T, seed)`)
        refused(() => batches([1, 2, 3] as never, { B: 2, T: 2 }), `${name}: the text must be an Int32Array of tokens, not an array of 3`)
      }
      for (const batches of [evaluationBatches, streamBatches]) {
        refused(() => batches(tokens, 0, 2).next(), `${batches.name}: T must be a positive integer, not 0`)
        refused(() => batches(tokens, 2, 0).next(), `${batches.name}: B must be a positive integer, not 0`)
      }
    })

    it('random: rows start anywhere, evenly', () => {
      const sampler = randomBatches(counting(20), { B: 100, T: 10, seed: 1 })
      const hits = new Array(10).fill(0)
      for (let step = 0; step < 100; step++) {
        const { tokens } = sampler.batch(step)
        for (let row = 0; row < 100; row++) hits[tokens[row * 10]]++
      }
      // 10,000 draws of 10: 1,000 each, standard deviation 30.
      for (const hit of hits) assert(Math.abs(hit - 1000) < 150, `${hits}`)
    })

    it('random: full rows of consecutive characters', () => {
      fc.assert(
        fc.property(sizes, fc.integer(), fc.nat(), ({ n, T, B }, seed, step) => {
          assert.equal(targetsOf(randomBatches(counting(n), { B, T, seed }).batch(step)).length, B * T)
        }),
      )
    })

    it('sequential: an epoch takes each item once, at an offset below T, in an order of its own', () => {
      fc.assert(
        fc.property(sizes, fc.integer(), fc.nat(3), ({ n, T, B }, seed, epoch) => {
          const sampler = sequentialBatches(counting(n), { B, T, seed })
          const items = Math.floor((n - 1) / T)
          assert.equal(sampler.stepsPerEpoch, Math.ceil(items / B))
          const starts: number[] = []
          for (let step = 0; step < sampler.stepsPerEpoch; step++) {
            const batch = sampler.batch(epoch * sampler.stepsPerEpoch + step)
            assert.equal(targetsOf(batch).length, batch.B * T)
            for (let row = 0; row < batch.B; row++) starts.push(batch.tokens[row * T])
          }
          starts.sort((a, b) => a - b)
          assert.deepEqual(
            starts.map((start, i) => start >= i * T && start < (i + 1) * T),
            new Array(items).fill(true),
          )
        }),
      )
    })

    it('sequential: epochs differ in order and offsets', () => {
      const sampler = sequentialBatches(counting(1001), { B: 10, T: 10 })
      const starts = [0, 1].map((epoch) =>
        Array.from({ length: 10 }, (_, step) => [...sampler.batch(epoch * 10 + step).tokens].filter((_, i) => i % 10 === 0)).flat(),
      )
      const items = starts.map((epoch) => epoch.map((start) => Math.floor(start / 10)))
      assert.notDeepEqual(items[0], items[1])
      assert.equal(new Set(starts.flat().map((start) => start % 10)).size, 10)
    })

    it('evaluation: every character but the first is a target exactly once', () => {
      fc.assert(
        fc.property(sizes, ({ n, T, B }) => {
          for (const stride of [T, 1 + (n % T)]) {
            const batches = [...evaluationBatches(counting(n), T, B, stride)]
            assert.deepEqual(
              batches.flatMap(targetsOf),
              Array.from({ length: n - 1 }, (_, i) => i + 1),
            )
            assert(batches.every((batch) => batch.B <= B && batch.T === T && batch.count > 0))
          }
        }),
      )
      assert.throws(() => [...evaluationBatches(counting(9), 4, 1, 5)], {
        message: 'evaluationBatches: stride must be at most T, 4, not 5: what lies between would be left out',
      })
    })

    it('need one sequence and its last target', () => {
      for (const batches of [randomBatches, sequentialBatches]) {
        throwsText(() => batches(counting(8), { B: 1, T: 8 }), 'the text is too short: sequences of 8 need 9 characters, it has 8')
        assert.deepEqual(batches(counting(9), { B: 1, T: 8 }).batch(0).tokens, counting(8))
      }
    })
  })

  describe('files', () => {
    let folder: string
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'fastweights-text-'))
    })
    afterEach(() => rmSync(folder, { recursive: true, force: true }))
    const write = (bytes: string | Uint8Array) => {
      const path = join(folder, 'text.txt')
      writeFileSync(path, bytes)
      return path
    }

    it('reads UTF-8, with or without a byte order mark', async () => {
      assert.equal(await readText(write('naïve 💡\r\n')), 'naïve 💡\r\n')
      assert.equal(await readText(write('\ufeffnaïve')), 'naïve')
    })

    it('says what is wrong with a file', async () => {
      const missing = join(folder, 'none.txt')
      await rejectsText(readText(missing), `can't read ${missing}: no such file or folder`)
      await rejectsText(readText(folder), `can't read ${folder}: it is a folder`)
      const path = write('')
      await rejectsText(readText(path), `${path} is empty`)
      await rejectsText(readText(join(path, 'x')), `can't read ${join(path, 'x')}: a part of the path is a file, not a folder`)
      write(Uint8Array.of(0xef, 0xbb, 0xbf))
      await rejectsText(readText(path), `${path} is empty`)
      write(Buffer.concat([Buffer.from('naïve'), Uint8Array.of(0xe9, 0x20)]))
      await rejectsText(
        readText(path),
        /text\.txt isn't valid UTF-8: byte 0xe9 at offset 6; if it is in Latin-1 or Windows-1252, convert it with /,
      )
    })

    const scripts = {
      English: 'It is so, and a bird sings.\r\nWhy not?\r\n',
      short: 'hi',
      Russian: 'Привет, мир. Как дела?\n',
      Greek: 'Μῆνιν ἄειδε, θεά\n',
      Hebrew: 'בראשית ברא אלהים\n',
      Thai: 'กาลครั้งหนึ่งนานมาแล้วมีเจ้าหญิงองค์หนึ่งอาศัยอยู่ในปราสาท\n',
      Chinese: '道可道，非常道。名可名，非常名。一二三开最工\n',
      Japanese: '吾輩は猫である。名前はまだ無い。\n',
      Korean: '나랏말싸미 듕귁에 달아\n',
      emoji: 'a 💡 b 💡💡\n',
    }
    const utf16 = (text: string) => Buffer.from(text, 'utf16le')
    const utf32 = (text: string) => Buffer.concat([...text].map((c) => Buffer.from(Uint32Array.of(c.codePointAt(0)!).buffer)))
    const wide: [name: string, encode: (text: string) => Buffer, iconv: string, powershell: string][] = [
      ['UTF-16 (little-endian)', utf16, 'UTF-16LE', 'Unicode'],
      ['UTF-16 (big-endian)', (text) => utf16(text).swap16(), 'UTF-16BE', 'BigEndianUnicode'],
      ['UTF-32 (little-endian)', utf32, 'UTF-32LE', 'UTF32'],
      ['UTF-32 (big-endian)', (text) => utf32(text).swap32(), 'UTF-32BE', 'BigEndianUTF32'],
    ]
    for (const [name, encode, iconv, powershell] of wide)
      it(`names ${name}, with or without a byte order mark, and says how to convert it`, () => {
        for (const [script, text] of Object.entries(scripts))
          for (const mark of ['', '\ufeff'])
            for (const times of [1, 40]) {
              const bytes = encode(mark + text.repeat(times))
              assert.throws(
                () => decodeText(bytes, 'my text.txt'),
                ({ message }: Error) => {
                  assert.ok(message.startsWith(`my text.txt is in ${name}, not in UTF-8: `), `${script}: ${message}`)
                  assert.ok(message.includes(`iconv -f ${iconv} -t UTF-8 'my text.txt' > 'my text-utf8.txt'`), message)
                  const cmdlets = `Get-Content 'my text.txt' -Encoding ${powershell} | Set-Content 'my text-utf8.txt' -Encoding utf8`
                  assert.ok(message.includes(cmdlets), message)
                  return true
                },
              )
            }
      })

    it('takes no UTF-8 for anything else', () => {
      const plain = fc.string({ unit: 'binary', minLength: 1 }).map((text) => text.replace(/\p{Cc}/gu, '\n'))
      fc.assert(
        fc.property(plain, fc.nat(40), (text, times) => {
          const whole = text.repeat(times + 1)
          assert.equal(decodeText(Buffer.from(whole), 'x'), whole.replace(/^\ufeff/, ''))
        }),
        { numRuns: 1000 },
      )
      for (const text of Object.values(scripts)) assert.equal(decodeText(Buffer.from(text.repeat(99)), 'x'), text.repeat(99))
      // A zero now and then, and words that begin as other files do.
      for (const text of [
        'a word\0another\0and a third\0',
        'GGUF is a format',
        'PK',
        'BZh is bzip2',
        '<html>',
        '{"a": 1}',
        'PAR1 and TFL3',
      ])
        assert.equal(decodeText(Buffer.from(text), 'x'), text)
    })

    it('says what is no text', () => {
      const is = (start: string, message: string) =>
        throwsText(() => decodeText(Buffer.concat([Buffer.from(start, 'latin1'), Buffer.alloc(300, 0x9c)]), 'x'), `x is ${message}`)
      is('\x1f\x8b\x08', 'compressed with gzip, not plain text: unpack it first (gunzip)')
      is('%PDF-1.7\n', 'a PDF, not plain text: take its text out first (pdftotext)')
      is('PK\x03\x04', 'a zip archive, not plain text: take the text out of it (.docx, .odt and .epub files are zip archives, too)')
      is('version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer, not plain text: fetch the file itself with git lfs pull')
      is('\x40\0\0\0\0\0\0\0{"a":', 'a safetensors file, not plain text: give a text file')
      is('\x80\x04\x95', 'a Python pickle, not plain text: give a text file')
      throwsText(
        () => decodeText(Buffer.alloc(100), 'x'),
        'x is nothing but zeros, not plain text: a download that was broken off? Fetch it again',
      )
      const noise = Uint8Array.of(1, 2, 3, 0xff, 0xfe)
      throwsText(() => decodeText(noise, 'x'), "x isn't valid UTF-8: byte 0xff at offset 3; it seems to be no text")
    })

    it('names the byte that begins what is wrong', () => {
      const begins = (bytes: number[], byte: string, offset: number) =>
        assert.throws(() => decodeText(Uint8Array.from(bytes), 'x'), { message: new RegExp(`byte ${byte} at offset ${offset};`) })
      begins([0x61, 0xe9, 0x20], '0xe9', 1)
      begins([0xc3, 0xa9, 0xe9], '0xe9', 2)
      begins([0xe2, 0x82, 0x20], '0xe2', 0)
      begins([0xf0, 0x9f, 0x92, 0x41], '0xf0', 0)
      begins([0xc3, 0xa9, 0xa9], '0xa9', 2)
      begins([0xed, 0xa0, 0x80], '0xed', 0)
    })

    it('finds the first wrong byte of UTF-8 where a decoder finds one', () => {
      const bytes = fc
        .array(
          fc.oneof(
            fc.uint8Array({ maxLength: 3 }),
            fc.string({ unit: 'binary', maxLength: 3 }).map((s) => Buffer.from(s)),
          ),
        )
        .map((parts) => Buffer.concat(parts))
      fc.assert(
        fc.property(bytes, (data) => {
          const valid = (part: Uint8Array) => {
            try {
              new TextDecoder('utf-8', { fatal: true }).decode(part)
              return true
            } catch {
              return false
            }
          }
          const offset = invalidUtf8(data)
          assert.equal(offset === -1, valid(data))
          // What is before it is valid, but for a sequence that it breaks off.
          if (offset >= 0) assert([0, 1, 2, 3].some((back) => offset >= back && valid(data.subarray(0, offset - back))))
        }),
        { numRuns: 2000 },
      )
      assert.equal(invalidUtf8(Buffer.from([0x61, 0xe2, 0x82])), 1)
      assert.equal(invalidUtf8(Buffer.from([0xed, 0xa0, 0x80])), 1)
      assert.equal(invalidUtf8(Buffer.from([0xc0, 0xaf])), 0)
    })

    it('reads one file of a tar archive', () => {
      const entry = (name: string, prefix: string, size: string, content: string) => {
        const block = Buffer.alloc(512 + Math.ceil(content.length / 512) * 512)
        block.write(name, 0)
        block.write(size, 124)
        block.write(prefix, 345)
        block.write(content, 512)
        return block
      }
      const archive = Buffer.concat([
        entry('package/a.txt', '', '00000001000', 'a'.repeat(512)),
        entry('b.txt', 'package/data', '00000000003 ', 'bcd'),
        Buffer.alloc(1024),
      ])
      assert.equal(Buffer.from(untar(archive, 'package/data/b.txt')).toString(), 'bcd')
      assert.equal(untar(archive, 'package/a.txt').length, 512)
      assert.throws(() => untar(archive, 'package/c.txt'), { message: 'the package has no package/c.txt' })
      assert.throws(() => untar(archive.subarray(0, 700), 'package/c.txt'), { message: 'the package is damaged' })
      assert.throws(() => untar(entry('x', '', 'nonsense', ''), 'y'), { message: 'the package is damaged' })
    })
  })

  describe('default text', () => {
    let cache: string
    beforeEach(() => {
      cache = join(mkdtempSync(join(tmpdir(), 'fastweights-cache-')), 'new')
    })
    afterEach(() => rmSync(join(cache, '..'), { recursive: true, force: true }))

    function source(name: string, content: string, arrives: string | Error = content): TextSource & { fetches: number } {
      return {
        name,
        file: `${name}.txt`,
        sha256: createHash('sha256').update(content).digest('hex'),
        fetches: 0,
        async fetch() {
          this.fetches++
          if (arrives instanceof Error) throw arrives
          return Buffer.from(arrives)
        },
      }
    }

    it('is fetched once and then read from the cache', async () => {
      const first = source('first', 'text one')
      const second = source('second', 'text two')
      const expected = { name: 'first', path: join(cache, 'first.txt'), text: 'text one' }
      assert.deepEqual(await defaultText({ cache, sources: [first, second] }), expected)
      assert.deepEqual(await defaultText({ cache, sources: [first, second] }), expected)
      assert.deepEqual([first.fetches, second.fetches], [1, 0])
      assert.deepEqual(readdirSync(cache), ['first.txt'])
    })

    it('is the one of a name, where a name is given', async () => {
      const sources = [source('first', 'text one'), source('second', 'text two')]
      assert.equal((await defaultText({ cache, sources, name: 'second' })).text, 'text two')
      await rejectsText(defaultText({ cache, sources, name: 'third' }), /^no text to train on/)
    })

    it('falls back to the next source, and then stays with it', async () => {
      const sources = [source('first', 'text one', new Error('no network')), source('second', 'text two')]
      const lines: string[] = []
      assert.equal((await defaultText({ cache, sources, log: (line) => lines.push(line) })).text, 'text two')
      assert.deepEqual(lines, [
        'fetching first',
        'could not fetch first: no network',
        'fetching second',
        `kept in ${join(cache, 'second.txt')}`,
      ])
      assert.equal((await defaultText({ cache, sources: [source('first', 'text one'), sources[1]] })).name, 'second')
    })

    it('fetches a damaged cache again and refuses what has another checksum', async () => {
      const first = source('first', 'text one')
      await defaultText({ cache, sources: [first] })
      writeFileSync(join(cache, 'first.txt'), 'text on')
      assert.equal((await defaultText({ cache, sources: [first] })).text, 'text one')
      assert.equal(first.fetches, 2)
      assert.equal(readFileSync(join(cache, 'first.txt'), 'utf8'), 'text one')
      await rejectsText(
        defaultText({ cache, sources: [source('other', 'right', 'wrong')] }),
        'no text to train on (other: what arrived has another checksum): give one with --text FILE',
      )
      assert(!existsSync(join(cache, 'other.txt')))
    })

    it('does without a cache that it cannot write', async () => {
      writeFileSync(join(cache, '..', 'file'), '')
      const lines: string[] = []
      const options = { cache: join(cache, '..', 'file'), sources: [source('first', 'text one')], log: (line: string) => lines.push(line) }
      assert.deepEqual(await defaultText(options), { name: 'first', path: null, text: 'text one' })
      assert.match(lines[1], /^could not keep it in .*first.txt: /)
    })

    it('has a cache folder on every system', () => {
      assert.equal(cacheFolder({ FASTWEIGHTS_CACHE: '/c', XDG_CACHE_HOME: '/x' }, 'linux'), '/c')
      assert.equal(cacheFolder({ XDG_CACHE_HOME: '/x' }, 'linux'), join('/x', 'fastweights'))
      assert.match(cacheFolder({}, 'linux'), /\.cache.fastweights$/)
      assert.match(cacheFolder({}, 'darwin'), /Library.Caches.fastweights$/)
      assert.equal(cacheFolder({ LOCALAPPDATA: '/l' }, 'win32'), join('/l', 'fastweights'))
    })
  })

  it('Tiny Shakespeare: 65 symbols, 1,003,854 characters train', async function () {
    const path = fileURLToPath(new URL('../../../../shared/data/tinyshakespeare.txt', import.meta.url))
    if (!existsSync(path)) {
      console.log('        skipped: ../shared/data/tinyshakespeare.txt is absent')
      return this.skip()
    }
    const text = await readText(path)
    const { train, valid } = splitText(text)
    assert.deepEqual([charVocabulary(text).size, train.length, valid.length], [65, 1_003_854, 111_540])
  })
})
