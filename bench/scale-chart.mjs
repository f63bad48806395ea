/** The plot of the benchmark of scale: time a token and memory against T, a line for each rule, dashed for the recurrent form, by Vega-Lite as SVG. */
import * as vega from 'vega'
import * as vegaLite from 'vega-lite'
import { bytesOf } from './rules.mjs'

export async function scaleChart({ contenders, sizes, tokens, subtitle }) {
  const values = contenders.flatMap(({ rule, form, cells }) =>
    cells.map((cell) => ({ rule, form, T: cell.T, nanoseconds: (1e9 * cell.both.median) / tokens, megabytes: bytesOf(cell) / 1e6 })),
  )
  const x = {
    field: 'T',
    type: 'quantitative',
    scale: { type: 'log', base: 2, domain: [sizes[0], sizes.at(-1)], nice: false },
    axis: { title: 'T, tokens in a sequence', values: sizes, format: 'd', labelAngle: -45, labelOverlap: false },
  }
  const panel = (field, title) => ({
    width: 420,
    height: 320,
    mark: { type: 'line', point: { size: 30 }, strokeWidth: 2 },
    encoding: {
      x,
      y: { field, type: 'quantitative', scale: { type: 'log' }, axis: { title, format: ',~r' } },
      color: { field: 'rule', type: 'nominal', scale: { scheme: 'tableau20' }, legend: { title: null, symbolLimit: 0 } },
      strokeDash: {
        field: 'form',
        type: 'nominal',
        scale: {
          domain: ['chunk', 'recurrent'],
          range: [
            [1, 0],
            [5, 3],
          ],
        },
        legend: { title: null },
      },
    },
  })
  const spec = {
    background: 'white',
    padding: 16,
    title: {
      text: 'Linear forms at one number of tokens a step: forward and backward',
      subtitle,
      anchor: 'start',
      fontSize: 16,
      offset: 12,
    },
    data: { values },
    hconcat: [panel('nanoseconds', 'nanoseconds a token'), panel('megabytes', 'MB at most')],
    config: { font: 'Helvetica, Arial, DejaVu Sans, sans-serif', axis: { gridColor: '#e4e4e4' }, view: { stroke: '#ccc' } },
  }
  const view = new vega.View(vega.parse(vegaLite.compile(spec).spec), { renderer: 'none', logLevel: vega.Warn })
  return `${(await view.toSVG()).trim()}\n`
}
