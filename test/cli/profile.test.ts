import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { picture, table } from '../../cli/profile.ts'
import type { ProfileEntry } from '../../engine/index.ts'
import { webgpu } from '../helpers.ts'
import { Workplace } from './command.ts'

const entries: ProfileEntry[] = [
  { spans: ['forward'], kernel: 'matmul', detail: '8×8×8', calls: 3, milliseconds: 30 },
  { spans: ['backward'], kernel: 'matmul', detail: '8×8×8', calls: 5, milliseconds: 50 },
  { spans: ['backward'], kernel: 'matmul', detail: '<&">', calls: 1, milliseconds: 10 },
  { spans: [], kernel: 'fill', detail: '', calls: 1000, milliseconds: 10 },
]

/** The elements of a document, each with its attributes; throws where tags don't match or something isn't XML. */
function elements(xml: string): { name: string; attributes: Record<string, string> }[] {
  const open: string[] = []
  const found: { name: string; attributes: Record<string, string> }[] = []
  let end = 0
  for (const match of xml.matchAll(/<(\/?)([a-z]+)((?: [\w:-]+="[^"<]*")*)(\/?)>/g)) {
    const between = xml.slice(end, match.index)
    end = match.index + match[0].length
    assert.doesNotMatch(between, /[<>]|&(?!(amp|lt|gt|quot);)/)
    const [, closes, name, attributes, empty] = match
    if (closes) assert.equal(open.pop(), name)
    else found.push({ name, attributes: Object.fromEntries([...attributes.matchAll(/([\w:-]+)="([^"]*)"/g)].map(([, k, v]) => [k, v])) })
    if (!closes && !empty) open.push(name)
  }
  assert.deepEqual([open, xml.slice(end)], [[], '\n'])
  return found
}

describe('--profile', () => {
  const place = new Workplace()
  after(place.remove)

  it('adds up by kernel and by phase, the longest first', () => {
    const lines = table(entries, 'clock', 200)
      .split('\n')
      .map((line) => line.trim().split(/ {2,}/))
    assert.deepEqual(lines.slice(1), [
      ['kernel', 'calls', 'total ms', 'share', 'mean µs'],
      ['matmul', '9', '90.0', '90.0 %', '10000.0'],
      ['fill', '1,000', '10.0', '10.0 %', '10.0'],
      [''],
      ['phase', 'calls', 'total ms', 'share', 'mean µs'],
      ['backward', '6', '60.0', '60.0 %', '10000.0'],
      ['forward', '3', '30.0', '30.0 %', '10000.0'],
      ['elsewhere', '1,000', '10.0', '10.0 %', '10.0'],
      [''],
      ['0.10 s in kernels, of 0.20 s in all'],
    ])
  })

  it('says where only submissions are timed', () => {
    const text = table([{ spans: [], kernel: 'submission', detail: '', calls: 4, milliseconds: 8 }], 'submissions', 10)
    assert.match(text, /^Time per kernel, this adapter has no timestamps, so that only whole submissions can be timed/)
    assert.match(text, /^ {2}submission +4 +8\.0 +100\.0 % +2000\.0$/m)
    assert.doesNotMatch(text, /phase/)
  })

  it('draws bars as wide as their times, below what they are part of', () => {
    const bars = elements(picture(entries, 'a < b', 1032))
      .filter(({ name, attributes }) => name === 'rect' && attributes.class !== 'paper')
      .map(({ attributes: { x, y, width } }) => [Number(x), Number(y), Math.round(Number(width) + 1)])
    const [top, row] = [64, 26]
    assert.deepEqual(bars, [
      [16, top, 1000],
      [16, top + row, 600],
      [16, top + 2 * row, 600],
      [16, top + 3 * row, 500],
      [516, top + 3 * row, 100],
      [616, top + row, 300],
      [616, top + 2 * row, 300],
      [616, top + 3 * row, 300],
      [916, top + row, 100],
      [916, top + 2 * row, 100],
    ])
    elements(picture([], 'nothing'))
  })

  it('shows what a training run did, and changes nothing about it', async () => {
    mkdirSync(place.path('pictures'))
    const stdout = await place.train('--out measured --profile pictures/run.svg')
    await place.train('--out plain')
    assert.deepEqual(place.metrics('measured'), place.metrics('plain'))
    assert.ok(place.read('measured/checkpoint.safetensors').equals(place.read('plain/checkpoint.safetensors')))
    assert.match(stdout, /^Time per kernel, by a clock around each call$/m)
    // Five steps of one loss each.
    assert.match(stdout, /^ {2}crossEntropyBackward +5 /m)
    for (const phase of ['forward', 'backward', 'optimizer', 'evaluation', 'prompt', 'decoding'])
      assert.match(stdout, new RegExp(`^  ${phase} +\\d`, 'm'))
    assert.match(stdout, /^wrote pictures\/run\.svg$/m)
    elements(place.read('pictures/run.svg').toString())
  })

  it('leaves standard output to the text that is generated', async () => {
    await place.train('--out spoken')
    const expected = await place.succeed('generate --run spoken --length 30')
    const { code, stdout, stderr } = await place.run('generate --run spoken --length 30 --profile')
    assert.deepEqual([code, stdout], [0, expected])
    assert.match(stderr, /^ {2}decoding +\d/m)
    assert.match(stderr, /\nwrote profile\.svg\n$/)
    elements(place.read('profile.svg').toString())
  })

  it("has the GPU's own times on webgpu @long", async function () {
    await webgpu(this)
    const stdout = await place.train('--out gpu --steps 2 --device webgpu --profile gpu.svg')
    assert.match(stdout, /^Time per kernel, (by the GPU's timestamps|this adapter has no timestamps)/m)
    elements(place.read('gpu.svg').toString())
  })
})
