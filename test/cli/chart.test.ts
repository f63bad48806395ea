import assert from 'node:assert/strict'
import { stripVTControlCharacters } from 'node:util'
import fc from 'fast-check'
import { type Chart, svgChart, terminalChart, wantsColor } from '../../cli/chart.ts'

const falling: Chart = {
  title: 'Loss',
  unit: 'nats a character',
  series: [
    { name: 'train', points: Array.from({ length: 101 }, (_, step) => [step, 4 - step / 50] as const) },
    {
      name: 'validation',
      points: [
        [50, 3.2],
        [100, 2.1],
      ],
      marked: true,
    },
  ],
}
const one = (points: readonly (readonly [number, number])[]): Chart => ({ title: 'T', unit: 'nats', series: [{ name: 's', points }] })

describe('chart', () => {
  describe('terminal', () => {
    it('draws a line, marks, axes and the last values', () => {
      assert.equal(
        terminalChart(falling, 44, 12, false),
        `\
Loss (nats a character)
      ⠒⠒ train 2.000   ● validation 2.100
 4.0 ┤⠒⠤⣄⡀
     │   ⠉⠙⠲⠤⣀⡀
 3.5 ┤        ⠉⠑⠲⢤⣀⡀
 3.0 ┤             ⠉⠓⠲⢤⣀●
     │                  ⠉⠓⠦⢤⣀
 2.5 ┤                      ⠈⠉⠓⠦⢄⣀
     │                           ⠈⠉⠒⠦⣄⣀
 2.0 ┤                                ⠈⠙⠒●
     └┬─────────────────┬────────────────┬
step  0                50               100`,
      )
    })

    it('stays within its size and finite, whatever the values', () => {
      const value = fc.oneof(fc.double(), fc.constantFrom(NaN, Infinity, -Infinity, 0, 1.5, 1.5, 1e-300, -1e308, 1e308))
      const points = fc.array(fc.tuple(fc.oneof(fc.nat(), fc.nat(5)), value), { maxLength: 30 })
      const series = fc.record({ name: fc.constantFrom('train', 'v'), points, marked: fc.boolean() })
      fc.assert(
        fc.property(fc.array(series, { maxLength: 3 }), fc.integer({ min: 40, max: 100 }), (all, width) => {
          const chart = { title: 'Loss', unit: 'nats', series: all }
          const lines = terminalChart(chart, width, 12, false).split('\n')
          for (const line of lines.filter((_, i) => i !== 1)) assert([...line].length <= width && !/NaN|undefined/.test(line), line)
          assert(lines.length === 1 || lines.length === 12)
          const svg = svgChart(chart)
          for (const [, shape] of svg.matchAll(/ (?:d|x|y|cx|cy)="([^"]*)"/g)) {
            for (const number of shape.split(/[^\w.+-]|[MLHvh]/).filter((part) => part !== ''))
              assert(Math.abs(Number(number)) < 1000, shape)
          }
        }),
      )
    })

    it('shows one point, a constant and nothing', () => {
      assert.match(terminalChart(one([[7, 2]]), 40, 10, false), /2\.0 ┤ +[⠁-⣿]\n/)
      assert.match(
        terminalChart(
          one([
            [1, 2],
            [9, 2],
          ]),
          40,
          10,
          false,
        ),
        /2\.0 ┤[⠁-⣿]{32}\n/,
      )
      assert.equal(terminalChart(one([[1, NaN]]), 40, 10, false), 'T: no finite values to draw')
      assert.equal(terminalChart(one([]), 40, 10, false), 'T: no finite values to draw')
    })

    it('has colours only where they are welcome', () => {
      assert.equal(wantsColor(true, {}), true)
      assert.equal(wantsColor(true, { NO_COLOR: '1' }), false)
      assert.equal(wantsColor(true, { TERM: 'dumb' }), false)
      assert.equal(wantsColor(false, {}), false)
      assert.equal(wantsColor(undefined, {}), false)
      const colored = terminalChart(falling, 60, 12, true)
      assert(colored.includes('\x1b[36m'))
      assert.equal(stripVTControlCharacters(colored), terminalChart(falling, 60, 12, false))
    })
  })

  describe('SVG', () => {
    it('is standalone, named and described, for light and dark', () => {
      const svg = svgChart(falling)
      assert(svg.startsWith('<svg xmlns="http://www.w3.org/2000/svg"') && svg.endsWith('</svg>\n'))
      assert(svg.includes('<title>Loss</title>'))
      assert(svg.includes('<desc>train: 4.000 at step 0, 2.000 at step 100; validation: 3.200 at step 50, 2.100 at step 100</desc>'))
      assert(svg.includes('@media (prefers-color-scheme:dark)'))
      assert.doesNotMatch(svg, /href|url\(|@import|<script|NaN|undefined/)
      assert.deepEqual(
        [...svg.matchAll(/class="label end">([^<]+)</g)].map((match) => match[1]),
        ['2.0', '2.5', '3.0', '3.5', '4.0'],
      )
      assert.equal(svgChart(falling), svg)
    })

    it('escapes what it is given', () => {
      const svg = svgChart({ title: '</title><script>"&\x00', unit: '<b>', series: [{ name: 'a&b', points: [[1, 1]] }] })
      for (const part of ['<title>&lt;/title&gt;&lt;script&gt;&quot;&amp;�</title>', '>a&amp;b<', '>&lt;b&gt;<'])
        assert(svg.includes(part), part)
    })

    it('leaves a gap where a value is not finite', () => {
      const shapes = (values: number[]) => {
        const svg = svgChart(one(values.map((value, i) => [i, value])))
        const line = /<path class="line s0" d="(M[^"]*L[^"]*)"/.exec(svg)?.[1] ?? ''
        return { lines: line.split('M').length - 1, dots: svg.split('<circle class="f0"').length - 1 }
      }
      assert.deepEqual(shapes([1, 2, 3]), { lines: 1, dots: 0 })
      assert.deepEqual(shapes([1, 2, NaN, 3, Infinity, 1, 2]), { lines: 2, dots: 1 })
      assert.deepEqual(shapes([1, NaN, 2]), { lines: 0, dots: 2 })
      assert(svgChart(one([[1, NaN]])).includes('no finite values to draw'))
    })

    it('stays small for a long run, and keeps its peaks', () => {
      const points = Array.from({ length: 200_000 }, (_, step) => [step, step === 77_777 ? 9 : 1 + (step % 7) / 7] as const)
      const svg = svgChart(one(points))
      assert(svg.length < 60_000, `${svg.length} bytes`)
      const heights = [...svg.matchAll(/L[\d.]+ ([\d.]+)/g)].map((match) => Number(match[1]))
      assert.equal(heights.filter((height) => height < 110).length, 1)
    })

    it('tells series apart by full marks where there are more than colours', () => {
      const series = Array.from({ length: 10 }, (_, i) => ({
        name: `${i}`,
        marked: true,
        points: [
          [0, i],
          [1, i],
        ] as const,
      }))
      const svg = svgChart({ title: 'T', unit: 'nats', series })
      const looks = series.map((_, i) => {
        const [, style] = svg.match(new RegExp(`<circle class="(\\w+) s${i}"`))!
        const [, color] = svg.match(new RegExp(`\\.s${i}{stroke:(#\\w+)}`))!
        return `${color} ${style === 'mark'}`
      })
      assert.equal(new Set(looks).size, 10)
    })

    it('keeps the labels of the last values apart', () => {
      const series: Chart['series'] = [1, 1.001, 1.002].map((value, i) => ({
        name: `s${i}`,
        points: [
          [0, 3],
          [9, value],
        ],
      }))
      const svg = svgChart({ title: 'T', unit: 'nats', series })
      const heights = [...svg.matchAll(/y="([\d.]+)" class="value/g)].map((match) => Number(match[1]))
      assert.equal(heights.length, 3)
      assert(heights[1] - heights[0] >= 14.9 && heights[2] - heights[1] >= 14.9)
    })
  })
})
