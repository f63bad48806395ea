import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { cacheFolder, defaultText, invalidUtf8, readText, type TextSource, untar } from '../../tasks/download.ts'
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
          const batches = [...evaluationBatches(counting(n), T, B)]
          assert.deepEqual(
            batches.flatMap(targetsOf),
            Array.from({ length: n - 1 }, (_, i) => i + 1),
          )
          assert(batches.every((batch) => batch.B <= B && batch.T === T && batch.count > 0))
        }),
      )
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
      await rejectsText(readText(path), `${path} isn't valid UTF-8: byte 0x20 at offset 7`)
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
