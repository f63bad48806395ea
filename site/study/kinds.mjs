/** The pages of rules, nets and mixers, from their tables and sources. */
import { readdirSync } from 'node:fs'
import { nets, rules } from '../../dist/engine/index.js'
import { mixers } from '../../dist/nn/index.js'
import { presets } from '../../dist/tasks/index.js'
import { escaped } from '../layout/html.mjs'
import { claimOf, claimPath, claims, claimsAbout } from './claims.mjs'
import { figuresOf } from './figures.mjs'
import { formula, inline } from './markup.mjs'
import { codeLines, docText, excerpt, linesOf, root } from './source.mjs'

// ---- what all pages share ------------------------------------------------------------------------------------------------------------

const files = (folder) => readdirSync(`${root}/${folder}`).flatMap((name) => (name.endsWith('.ts') ? [`${folder}/${name}`] : []))

/** The file of a folder that has a line which begins with a text. */
function fileWith(folder, text) {
  const found = files(folder).filter((file) => linesOf(file).some((line) => line.startsWith(text)))
  if (found.length !== 1) throw new Error(`site: '${text}' begins a line of ${found.length} files of ${folder}: ${found.join(', ')}`)
  return found[0]
}

/** A row of a table in a file, by its key. */
function rowIn(folder, key) {
  const text = /^\w+$/.test(key) ? `  ${key}: {` : `  '${key}': {`
  const file = fileWith(folder, text)
  return { file, from: linesOf(file).find((line) => line.startsWith(text)) }
}

const plain = { link: () => '', marks: new Map() }
const doc = (text) => inline(text.replace(/\s+/g, ' '), plain)

/** A part of a file, with where it is from; `names`: see `codeLines`. */
function block({ source }, part, names) {
  const { file, begin, end } = excerpt(part)
  return `<p class="where"><a href="${source(file, begin)}">${escaped(file)}</a>, ${begin === end ? `line ${begin}` : `lines ${begin} to ${end}`}</p>
<pre class="code">${codeLines(file, begin, end, { href: (line) => source(file, line), names })}</pre>`
}

const table = (head, rows) =>
  `<div class="scroll" role="group" tabindex="0" aria-label="${escaped(head.join(', '))}"><table><thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join('')}</tr></thead>
<tbody>${rows.map((cells) => `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`).join('\n')}</tbody></table></div>`

const code = (text) => `<code>${escaped(text)}</code>`

function speed({ source }, ...names) {
  const found = figuresOf(...names)
  if (found.length === 0) return '<p>No figure of it stands in <code>docs/figures.md</code>.</p>'
  return found
    .map(
      ({ heading, line, columns, rows }) =>
        `<h3>${escaped(heading)}</h3>
${table(
  columns.map((cell) => escaped(cell)),
  rows.map((cells) => cells.map((cell) => inline(cell, plain))),
)}
<p class="soft small">Machine and command: <a href="${source('docs/figures.md', line)}">docs/figures.md</a>.</p>`,
    )
    .join('\n')
}

/** What was said just above isn't said again. */
function claimList({ to }, found) {
  if (found.length === 0) return '<p>No claim is about it alone.</p>'
  const items = found.map((claim, i) => {
    const shown = claim.equation === found[i - 1]?.equation ? '' : formula(claim.equation, 'What is claimed')
    return `<li><a href="${escaped(to(claimPath(claim.name)))}">${escaped(claim.name)}</a>${claim.holds === false ? ' <strong>(false, and refuted)</strong>' : ''}<br>${escaped(claim.statement)}${shown}</li>`
  })
  return `<p>${found.length === 1 ? 'One claim' : `${found.length} claims`}, each checked on generated cases, and on <a href="${to('claims/')}">the page of claims</a> on your device.</p><ol class="claims">${items.join('\n')}</ol>`
}

const example = (name, tokens, words) => `<div class="example card" data-example="${name}">
<p>${words}</p>
<div class="needs-scripts row">${tokens ? `<label>Token <input type="range" min="0" max="${tokens}" value="${tokens}"></label> <output></output>` : ''}<button type="button">Other numbers</button></div>
<div class="pictures"></div>
<p class="said small" role="status"></p>
</div>`

const head = ({ to }, kind, { title, source }, name) =>
  `<p class="crumb"><a href="${to('study/')}">Study</a>, <a href="${to('study/rules/')}">${kind}</a></p>
<h1>${escaped(title)}</h1>
<p class="soft">${code(name)} · ${escaped(source)}</p>`

const section = (title, body) => `<section id="${title.toLowerCase().replace(/\W+/g, '-')}"><h2>${title}</h2>\n${body}</section>`

// ---- rules ---------------------------------------------------------------------------------------------------------------------------

const values = {
  any: 'any numbers',
  key: 'of a length about 1',
  'unit key': 'of length 1',
  feature: 'not negative',
  rate: 'from 0 to 1',
  gate: 'logarithms of decays, at most 0',
  positive: 'above 0',
}
const forms = {
  recurrent: 'token by token; for generation',
  parallel: 'all tokens at once, time and memory quadratic in their number',
  chunk: 'small matrix products; for training',
}
const letters = { B: 'batch', T: 'time', H: 'heads', K: 'width of keys', V: 'width of values', N: 'steps a token', M: 'slots or levels' }

/** Presets whose layers have this rule. */
const presetsOf = (rule) =>
  Object.entries(presets).flatMap(([name, { model }]) =>
    model.rule === rule && model.mixer === undefined && model.attention !== 'softmax' ? [name] : [],
  )

const shape = (axes) => code(`[${axes.join(',')}]`)

/** Symbols of formulas, by the names of inputs and parts of states. */
const symbols = { alpha: 'α', beta: 'β', decay: 'γ', eta: 'η', gate: 'α', kappa: 'κ', lambda: 'λ', theta: 'θ' }
/** What identifiers of steps are beside them. */
const also = { S: ['next'], z: ['total'] }

function rulePage(name, site) {
  const rule = rules[name]
  const row = rowIn('engine/rules', name)
  const op = String(rule.run).match(/=>\s*\{?\s*(?:return )?(\w+)\(/)?.[1]
  const opFile = fileWith('engine/rules', `export function ${op}(`)
  // A step that is written in the row goes on to one that isn't.
  const step = rule.step.name === 'step' ? String(rule.step).match(/(\w+Step)\(/)?.[1] : rule.step.name
  const stepPart = { file: fileWith('engine/rules', `const ${step}: Step =`), from: `const ${step}: Step =` }
  const used = Object.values(rule.inputs).flatMap(({ shape }) => shape)
  const named = [...Object.keys(rule.inputs), ...Object.keys(rule.state)]
  const marks = new Map(named.map((part) => [symbols[part] ?? part, part]))
  const identifiers = new Map(named.flatMap((part) => [part, ...(also[part] ?? [])].map((identifier) => [identifier, part])))
  const button = (part, means) =>
    `<button type="button" data-name="${part}" data-means="${escaped(means)}" aria-label="${escaped(`${part}: ${means}`)}" aria-pressed="false">${code(part)}</button>`
  return `${head(site, 'Rules', rule, name)}
${formula(rule.equation, 'The formula', marks)}
<p>${doc(docText(opFile, `export function ${op}(`))}</p>
<p>In a program: <a href="${site.to(`api/fastweights/#${op}`)}">${code(op)}</a>; in a layer: <code>rule: '${name}'</code>.</p>
${section('Seen live', example(`rule ${name}`, 8, 'Eight tokens of drawn numbers, one head, keys and values 4 wide: what the state holds, and what is read.'))}
${section('The step', `<p>One token in a few ops. This is the specification: every faster form is compared with it.</p>${block(site, stepPart, identifiers)}`)}
${section(
  'What goes in, and what is kept',
  `${table(
    ['input', 'shape', 'values'],
    Object.entries(rule.inputs).map(([input, { shape: axes, values: kind }]) => [
      button(input, `${values[kind]}, [${axes.join(',')}]`),
      shape(axes),
      values[kind],
    ]),
  )}
${table(
  ['state', 'shape', 'before the first token'],
  Object.entries(rule.state).map(([part, axes]) => [
    button(part, `a part of the state, [${axes.join(',')}]`),
    shape(axes),
    String(rule.empty?.[part] ?? 0).replace('-Infinity', '−∞'),
  ]),
)}
<p class="soft small">${Object.entries(letters)
    .filter(([letter]) => used.includes(letter))
    .map(([letter, what]) => `${letter} ${what}`)
    .join(', ')}. A step sees one token, without the axis T. A name that is pressed lights up in the formula and the code.</p>`,
)}
${section(
  'Forms',
  table(
    ['form', 'what it is for'],
    rule.forms.map((form) => [code(form), forms[form]]),
  ),
)}
${section('The row of the table', block(site, row, identifiers))}
${section('Speed', speed(site, name, ...presetsOf(name)))}
${section('Claims', claimList(site, claimsAbout(name)))}
<p id="tip" role="status" hidden></p>`
}

// ---- nets ----------------------------------------------------------------------------------------------------------------------------

const alsoClaims = {
  'delta-rnn': ['nets: a Delta RNN without feedback is the delta net'],
  'recurrent-delta': ['nets: an RDN without feedback is the delta net'],
  srwm: ['nets: an SRWM of which only W_y changes is the delta rule'],
  ba: ["nets: Ba's fast weights are attention to the past"],
  programmer: ['nets: a fast weight programmer without activation is the sum rule'],
}

function netPage(name, site) {
  const row = nets[name]
  const net = row.build(4)
  const builder = name.startsWith('delta-lstm') ? 'deltaLstm' : String(row.build).match(/=>\s*(\w+)\(/)?.[1]
  const part = { file: fileWith('engine/nets', `export function ${builder}(`), from: `export function ${builder}(` }
  const sizes = (parts) => Object.entries(parts).map(([part, { shape: axes }]) => [code(part), shape(axes)])
  const found = [...claimsAbout(name), ...(alsoClaims[name] ?? []).map(claimOf)]
  return `${head(site, 'Recurrent nets', row, name)}
${formula(row.equation, 'The formula')}
<p>${doc(docText(part.file, part.from))}</p>
<p>In a program: <code>runNet(nets['${name}'].build(D), x)</code>, with <a href="${site.to('api/fastweights/#runNet')}">${code('runNet')}</a>; in a layer: <code>mixer: '${name}'</code>, where it has one.</p>
${section('Seen live', example(`net ${name}`, 8, 'Eight tokens of drawn numbers, one head 4 wide: what the state holds, and what comes out.'))}
${section('The program', `<p>A list of ${net.instructions.length} instructions, which one fused kernel runs, and which composed ops run as its specification.</p>${block(site, part)}`)}
${section(
  'What goes in, and what is kept',
  `<p>For heads 4 wide:</p>${table(
    ['input', 'width'],
    Object.entries(net.inputs).map(([input, width]) => [code(input), String(width)]),
  )}
${table(['state', 'shape of a head'], sizes(net.state))}
${
  Object.keys(net.parameters).length === 0
    ? ''
    : table(
        ['parameter', 'shape of a head'],
        Object.entries(net.parameters).map(([part, axes]) => [code(part), shape(axes)]),
      )
}`,
)}
${section('Speed', speed(site, name))}
${section('Claims', claimList(site, found))}`
}

// ---- mixers --------------------------------------------------------------------------------------------------------------------------

const aft = (form) =>
  claims.filter(
    ({ name }) => name.startsWith('aft: ') && (!/\b(simple|local|conv|full)\b/.test(name) || new RegExp(`\\b${form}\\b`).test(name)),
  )

/** Where a mixer's row and its class stand, and what is claimed of it. */
const places = {
  'fast-weights': {
    file: 'nn/attention.ts',
    row: 'export const fastWeights: Mixer<',
    made: 'export class FastWeightsAttention',
    found: [],
  },
  softmax: {
    file: 'nn/softmax-attention.ts',
    row: 'export const softmax: Mixer<',
    made: 'export class SoftmaxAttention',
    found: [claimOf('attention: softmax attention is a memory that grows')],
  },
  'aft-full': { file: 'nn/aft.ts', row: 'export const aftFull = row(', made: 'export class Aft ', found: aft('full') },
  'aft-local': { file: 'nn/aft.ts', row: 'export const aftLocal = row(', made: 'export class Aft ', found: aft('local') },
  'aft-simple': { file: 'nn/aft.ts', row: 'export const aftSimple = row(', made: 'export class Aft ', found: aft('simple') },
  'aft-conv': { file: 'nn/aft.ts', row: 'export const aftConv = row(', made: 'export class Aft ', found: aft('conv') },
  'recurrent-net': { file: 'nn/recurrent-net.ts', row: 'export const recurrentNet: Mixer<', made: 'export class RecurrentNet ', found: [] },
}

const range = ({ type, choices, min, max, expected }) =>
  choices
    ? choices.map(code).join(', ')
    : (expected ?? [type, min !== undefined && `from ${min}`, max !== undefined && `to ${max}`].filter(Boolean).join(' '))

function mixerPage(name, site) {
  const mixer = mixers[name]
  const { file, row, made, found } = places[name]
  const text = docText(file, made)
  const more = {
    'fast-weights': `<p>Each of its rules <a href="${site.to('study/rules/')}">has a page</a>, with its claims.</p>`,
    'recurrent-net': `<p>Each of its nets <a href="${site.to('study/rules/')}">has a page</a>, with its claims.</p>`,
  }
  return `${head(site, 'Layers', { ...mixer, title: mixer.title[0].toUpperCase() + mixer.title.slice(1) }, name)}
<p>${escaped(mixer.description[0].toUpperCase() + mixer.description.slice(1))}.</p>
${text ? `<p>${doc(text)}</p>` : ''}
<p>In a model: <code>mixer: '${name}'</code>, or <code>{ kind: '${name}', ... }</code> with its settings.</p>
${section('Seen live', example(`mixer ${name}`, 0, 'One layer of drawn weights, eight tokens of width 8: how far each output moves with each input. Nothing lies above the diagonal, since no token sees a later one.'))}
${section(
  'Settings',
  table(
    ['setting', 'what it is', 'what it may be', 'by default'],
    Object.entries(mixer.fields).map(([field, spec]) => [code(field), escaped(spec.description), range(spec), code(String(spec.default))]),
  ),
)}
${section('The row of the table', block(site, { file, from: row }))}
${section('Speed', speed(site, name))}
${section('Claims', more[name] ?? claimList(site, found))}`
}

// ---- all -----------------------------------------------------------------------------------------------------------------------------

const pagesOf = (kind, rows, page) =>
  Object.entries(rows).map(([name, { title, source }]) => ({
    kind,
    name,
    title: title[0].toUpperCase() + title.slice(1),
    source,
    path: `study/${kind}/${name}/`,
    content: (site) => page(name, site),
  }))

export const kinds = [...pagesOf('rules', rules, rulePage), ...pagesOf('nets', nets, netPage), ...pagesOf('layers', mixers, mixerPage)]
