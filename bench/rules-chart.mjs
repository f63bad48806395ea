/** The plot of the benchmark of the rules: time against T on logarithmic axes, a panel a rule, drawn by Vega-Lite as SVG. */
import * as vega from 'vega'
import * as vegaLite from 'vega-lite'

/** Drawn where they were measured: a rule of each kind. */
const representative = ['sum', 'delta', 'gla', 'gated-delta', 'kda', 'dplr']
/** Okabe and Ito's colours, which the colour-blind tell apart, and a shape and dash for each. */
const looks = {
  recurrent: { label: 'recurrent', color: '#d55e00', shape: 'square', dash: [1, 0] },
  chunk: { label: 'chunk', color: '#0072b2', shape: 'circle', dash: [1, 0] },
  parallel: { label: 'parallel', color: '#009e73', shape: 'triangle-up', dash: [1, 0] },
  softmax: { label: 'softmax attention', color: '#4d4d4d', shape: 'diamond', dash: [5, 3] },
}
const columns = 3

export async function rulesChart({ contenders, sizes, crossovers, titles, subtitle }) {
  const measured = [...new Set(contenders.map(({ rule }) => rule))].filter((rule) => rule !== 'softmax')
  const chosen = representative.filter((rule) => measured.includes(rule))
  const panels = chosen.length ? chosen : measured.slice(0, 2 * columns)
  const title = (rule) => titles[rule]
  const values = panels.flatMap((rule) =>
    contenders
      .filter((c) => c.rule === rule || c.form === 'softmax')
      .flatMap(({ form, cells }) =>
        cells.map(({ T, both }) => ({ panel: title(rule), form: looks[form].label, T, ms: 1000 * both.median })),
      ),
  )
  const largest = Math.max(...values.map(({ ms }) => ms))
  const marks = panels.flatMap((rule) => {
    const c = crossovers[rule]?.softmax
    return c?.kind === 'from' ? [{ panel: title(rule), T: c.T, ms: largest, text: `T = ${c.T.toFixed(0)}` }] : []
  })
  const of = (key) => ({ domain: Object.values(looks).map(({ label }) => label), range: Object.values(looks).map((look) => look[key]) })
  const legend = { title: null, orient: 'top', symbolSize: 90, symbolStrokeWidth: 2, labelFontSize: 13, columnPadding: 24 }
  const T = {
    field: 'T',
    type: 'quantitative',
    scale: { type: 'log', base: 2, domain: [sizes[0], sizes.at(-1)], nice: false },
    axis: { title: 'T, tokens', values: sizes, format: 'd', labelAngle: sizes.length > 6 ? -45 : 0, labelOverlap: false },
  }
  const ms = { field: 'ms', type: 'quantitative', scale: { type: 'log' }, axis: { title: 'milliseconds', tickCount: 6, format: '~r' } }
  const line = {
    mark: { type: 'line', strokeWidth: 2, point: { size: 45, filled: true } },
    transform: [{ filter: 'datum.form !== null && isValid(datum.form)' }],
    encoding: {
      x: T,
      y: ms,
      color: { field: 'form', type: 'nominal', scale: of('color'), legend },
      shape: { field: 'form', type: 'nominal', scale: of('shape'), legend },
      strokeDash: { field: 'form', type: 'nominal', scale: of('dash'), legend: null },
    },
  }
  const crossing = { filter: 'isValid(datum.text)' }
  const spec = {
    background: 'white',
    padding: 16,
    title: {
      text: 'Fast weights in three forms beside softmax attention: forward and backward',
      subtitle: [subtitle, 'Dotted: the length from which chunks are faster than softmax attention.'],
      anchor: 'start',
      fontSize: 18,
      subtitleFontSize: 13,
      subtitleColor: '#444',
      subtitlePadding: 6,
      offset: 14,
    },
    data: { values: [...values, ...marks] },
    facet: {
      field: 'panel',
      type: 'nominal',
      sort: panels.map(title),
      title: null,
      header: { labelFontSize: 14, labelFontWeight: 'bold' },
    },
    columns: Math.min(columns, panels.length),
    spec: {
      width: 290,
      height: 230,
      layer: [
        {
          transform: [crossing],
          mark: { type: 'rule', color: '#777', strokeDash: [2, 3], strokeWidth: 1.2 },
          encoding: { x: T },
        },
        {
          transform: [crossing],
          mark: { type: 'text', align: 'right', baseline: 'top', dx: -4, color: '#444', fontSize: 11 },
          encoding: { x: T, y: ms, text: { field: 'text' } },
        },
        line,
      ],
    },
    config: {
      font: 'Helvetica, Arial, DejaVu Sans, sans-serif',
      axis: {
        labelFontSize: 11,
        titleFontSize: 12,
        titleFontWeight: 'normal',
        gridColor: '#e4e4e4',
        domainColor: '#888',
        tickColor: '#888',
      },
      view: { stroke: '#ccc' },
      facet: { spacing: 26 },
    },
  }
  const view = new vega.View(vega.parse(vegaLite.compile(spec).spec), { renderer: 'none', logLevel: vega.Warn })
  return `${(await view.toSVG()).trim()}\n`
}
