/** The plot of the benchmark of the rules: time against T on logarithmic axes, a panel a rule, drawn by Vega-Lite as SVG. */
import * as vega from 'vega'
import * as vegaLite from 'vega-lite'

/** Drawn where they were measured: a rule of each kind. */
const representative = ['sum', 'delta', 'gla', 'gated-delta', 'kda', 'dplr']
/** Okabe and Ito's colours, which the colour-blind tell apart, and a shape for each. */
const looks = {
  recurrent: { label: 'recurrent', color: '#d55e00', shape: 'square' },
  chunk: { label: 'chunk', color: '#0072b2', shape: 'circle' },
  parallel: { label: 'parallel', color: '#009e73', shape: 'triangle-up' },
  softmax: { label: 'softmax attention', color: '#4d4d4d', shape: 'diamond' },
}
const columns = 3

export async function rulesChart({ contenders, sizes, crossovers, subtitle }) {
  const measured = [...new Set(contenders.map(({ rule }) => rule))].filter((rule) => rule !== 'softmax')
  const chosen = representative.filter((rule) => measured.includes(rule))
  const panels = chosen.length ? chosen : measured.slice(0, 2 * columns)
  const values = panels.flatMap((rule) =>
    contenders
      .filter((c) => (c.rule === rule && looks[c.form]) || c.form === 'softmax')
      .flatMap(({ form, cells }) =>
        cells.map(({ T, both }) => ({ panel: rule, form: looks[form].label, dashed: form === 'softmax', T, ms: 1000 * both.median })),
      ),
  )
  const times = values.map(({ ms }) => ms)
  const decades = [Math.floor(Math.log10(Math.min(...times))), Math.ceil(Math.log10(Math.max(...times)))]
  const [bottom, top] = decades.map((power) => 10 ** power)
  const middle = Math.sqrt(sizes[0] * sizes.at(-1))
  // A crossing's label stands where no line goes: above short lengths, below long ones.
  const marks = panels.flatMap((rule) => {
    const c = crossovers[rule]?.softmax
    if (c?.kind !== 'from') return []
    const side = c.T < middle ? 'left' : 'right'
    return [{ panel: rule, T: c.T, ms: side === 'left' ? top : bottom, side, text: `T = ${c.T.toFixed(0)}` }]
  })
  const of = (key) => ({ domain: Object.values(looks).map(({ label }) => label), range: Object.values(looks).map((look) => look[key]) })
  const legend = { title: null, orient: 'top', symbolSize: 90, symbolStrokeWidth: 2, labelFontSize: 13, labelLimit: 0, columnPadding: 24 }
  const T = {
    field: 'T',
    type: 'quantitative',
    scale: { type: 'log', base: 2, domain: [sizes[0], sizes.at(-1)], nice: false },
    axis: {
      title: 'T, tokens',
      values: sizes,
      format: 'd',
      labelAngle: sizes.length > 6 ? -45 : 0,
      labelOverlap: false,
      labelFlush: false,
    },
  }
  const ms = {
    field: 'ms',
    type: 'quantitative',
    scale: { type: 'log', domain: [bottom, top] },
    axis: {
      title: 'milliseconds',
      values: Array.from({ length: decades[1] - decades[0] + 1 }, (_, i) => 10 ** (decades[0] + i)),
      format: ',~r',
    },
  }
  const color = { field: 'form', type: 'nominal', scale: of('color'), legend }
  const measuredOnly = [{ filter: 'isValid(datum.form)' }]
  const lines = (dashed) => ({
    transform: [...measuredOnly, { filter: `datum.dashed === ${dashed}` }],
    mark: { type: 'line', strokeWidth: 2, ...(dashed && { strokeDash: [5, 3] }) },
    encoding: { x: T, y: ms, color },
  })
  const points = {
    transform: measuredOnly,
    mark: { type: 'point', size: 45, filled: true, opacity: 1 },
    encoding: { x: T, y: ms, color, shape: { field: 'form', type: 'nominal', scale: of('shape'), legend } },
  }
  const label = (side, look) => ({
    transform: [{ filter: `datum.side === '${side}'` }],
    mark: { type: 'text', color: '#444', fontSize: 11, ...look },
    encoding: { x: T, y: ms, text: { field: 'text' } },
  })
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
      sort: panels,
      title: null,
      header: { labelFontSize: 14, labelFontWeight: 'bold' },
    },
    columns: Math.min(columns, panels.length),
    resolve: { axis: { x: 'independent', y: 'independent' } },
    spec: {
      width: 290,
      height: 230,
      layer: [
        {
          transform: [{ filter: 'isValid(datum.side)' }],
          mark: { type: 'rule', color: '#777', strokeDash: [2, 3], strokeWidth: 1.2 },
          encoding: { x: T },
        },
        label('left', { align: 'left', baseline: 'top', dx: 5, dy: 5 }),
        label('right', { align: 'right', baseline: 'bottom', dx: -5, dy: -5 }),
        lines(false),
        lines(true),
        points,
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
