/** `fastweights inspect`: what the memories of a trained model do with a prompt, as a page, JSON and pictures. Tests: test/cli/inspect.test.ts. */
import { existsSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type BlockModel, modelOf, stateSize, Transformer } from '../../nn/index.ts'
import { reason } from '../../tasks/reason.ts'
import { TextError } from '../../tasks/text.ts'
import { UsageError } from '../arguments.ts'
import { checkWritable, createFolder, FileError, writeAtomic } from '../files.ts'
import { checkpointName, codecOf, isImported, latestRun, openedModel, openImported, openRun, tokenNumbers, tokensIn } from '../runs.ts'
import { bytes, counted } from '../terminal.ts'
import { type Grid, type Inspection, opening } from './data.ts'
import { type Picture, svgFile } from './draw.ts'
import { layersOf } from './layers.ts'
import { digits, isGrid } from './pack.ts'
import { inspectionPage, pageLimit } from './page.ts'
import { views } from './views.ts'

export interface InspectOptions {
  run: string | undefined
  prompt: string | undefined
  /** In place of a prompt, for runs without a vocabulary. */
  tokens: readonly string[]
  layer: number | undefined
  head: number | undefined
  token: number | undefined
  out: string | undefined
  json: string | undefined
  svg: string | undefined
}

/** Two speakers in turn, and the name of the first once more: what "name is" is bound to changes. */
const speakers = 'ROMEO:\nMy name is Romeo.\n\nJULIET:\nMy name is Juliet.\n\nROMEO:\n'

/** Maps have a cell for each pair of characters. */
const mostCharacters = 512
/** Numbers of all states: what is computed from them takes several times as much. */
const mostNumbers = 100_000_000
/** What a text in memory may have, with room. */
const mostJson = 400_000_000

/** `remark` is told what is written; `print` gets the JSON of `--json -`. */
export async function inspect(
  options: InspectOptions,
  version: string,
  remark: (text: string) => void,
  print: (text: string) => void,
): Promise<number> {
  const folder = options.run ?? latestRun()
  const { model, tokens, shown, preset } = isImported(folder) ? await importedSubject(folder, options) : ownSubject(folder, options)
  const T = tokens.length
  const unit = isImported(folder) ? 'token' : 'character'
  if (T > mostCharacters) throw new TextError(`the prompt has ${counted(T, unit)}; ${mostCharacters} can be shown: give a shorter --prompt`)
  const count = model instanceof Transformer ? model.config.layers : model.layers.length
  if ((options.layer ?? 1) > count) throw new UsageError(`--layer ${options.layer}: the model has ${counted(count, 'layer')}`)
  if ((options.token ?? 1) > T) throw new UsageError(`--token ${options.token}: the prompt has ${counted(T, unit)}`)
  const numbers = T * stateSize(model)
  if (numbers > mostNumbers)
    throw new TextError(
      `the states after each of ${T} characters have ${counted(numbers, 'number')}, of ${mostNumbers.toLocaleString('en')} that can be held: give a shorter --prompt`,
    )
  const files = checkFiles(options, folder)

  const layers = await layersOf(model, tokens, options.layer)
  if (options.head !== undefined)
    for (const layer of layers) {
      const own = layer.heads.filter(({ number }) => number === options.head)
      if (own.length === 0) throw new UsageError(`--head ${options.head}: layer ${layer.number} has ${counted(layer.heads.length, 'head')}`)
      layer.heads = own
    }

  const data: Inspection = { version, run: folder, preset, tokens: shown, layers, every: 1, left: '' }
  const open = opening(data)
  if (options.token !== undefined) open.token = options.token - 1
  // All of it is made before any of it is written.
  const page = files.page === undefined ? undefined : inspectionPage(data, open)
  if (page === null)
    throw new TextError(
      `a page of ${counted(T, unit)}, ${counted(layers.length, 'layer')} and ${counted(heads(data), 'head')} would have more than ${bytes(pageLimit)}: ${
        heads(data) > 1 ? 'choose one with --layer and --head, or ' : ''
      }give a shorter --prompt`,
    )
  const json = files.json === undefined ? undefined : inspectionJson(data)
  const drawn = files.svg === undefined ? [] : pictures(data, { ...open, token: (options.token ?? T) - 1 })
  if (page !== undefined) writeAtomic(files.page!, page)
  if (files.json === '-') print(json!)
  else if (json !== undefined) writeAtomic(files.json!, json)
  const title = `fastweights inspect: ${folder}, layer ${layers[open.layer].number}, head ${layers[open.layer].heads[open.head].number}, token ${options.token ?? T} of ${T}`
  const pages = files.svg === undefined ? [] : svgFiles(files.svg, title, drawn)
  for (const { file, text } of pages) writeAtomic(file, text)

  remark(`${counted(layers.length, 'layer')}, ${counted(heads(data), 'head')}, ${counted(T, unit)} of ${folder}`)
  if (page !== undefined) remark(`wrote ${files.page} (${bytes(Buffer.byteLength(page))}): open it in a browser`)
  if (json !== undefined && files.json !== '-') remark(`wrote ${files.json} (${bytes(Buffer.byteLength(json))})`)
  for (const { file } of pages) remark(`wrote ${file}`)
  return 0
}

/** A model and what it is to go through. */
interface Subject {
  model: Transformer | BlockModel
  tokens: Int32Array
  /** A text for each token. */
  shown: string[]
  preset: string
}

function ownSubject(folder: string, options: InspectOptions): Subject {
  if (options.tokens.length > 0) throw new UsageError(`--tokens: ${folder} has characters of its own: give a --prompt`)
  const { checkpoint, vocabulary, training, preset } = openRun(folder)
  const prompt = options.prompt ?? ([...speakers].every((c) => vocabulary.symbols.includes(c)) ? speakers : training.prompt)
  const model = modelOf<'transformer' | 'blocks'>(checkpoint)
  return { model, tokens: vocabulary.encode(prompt), shown: [...prompt], preset }
}

async function importedSubject(folder: string, { prompt, tokens }: InspectOptions): Promise<Subject> {
  const imported = openImported(folder)
  const { symbols } = imported.checkpoint.config
  const codec = prompt === undefined ? undefined : await codecOf(folder)
  if (prompt !== undefined && codec === undefined)
    throw new UsageError(`--prompt: ${folder} has no tokenizer: give --tokens, such as --tokens 1,2,3`)
  if (codec !== undefined && tokens.length > 0) throw new UsageError('--tokens: a prompt is given already: give one of them')
  const ids = codec === undefined ? tokenNumbers(folder, tokens, symbols) : tokensIn(codec, prompt!, symbols)
  const { source } = imported
  return {
    model: openedModel(folder, imported),
    tokens: ids,
    // A special token has no text, and one of some bytes of a character none of its own.
    shown: Array.from(ids, (id) => (codec?.decode([id]) || `${id} `).replaceAll('\ufffd', '·')),
    preset: `${source.modelType} of ${source.package}`,
  }
}

const heads = ({ layers }: Inspection): number => layers.reduce((n, layer) => n + layer.heads.length, 0)

/** Where things go, each a place that can be written: the page where nothing else is asked for, too. */
function checkFiles({ out, json, svg }: InspectOptions, run: string): { page?: string; json?: string; svg?: string } {
  const folder = statSync(run).isDirectory() ? run : dirname(run)
  const checkpoint = folder === run ? join(run, checkpointName) : run
  const page = out ?? (json === undefined && svg === undefined ? join(folder, 'inspect.html') : undefined)
  const single = [page, json === '-' ? undefined : json, svg !== undefined && isFile(svg) ? svg : undefined].filter(
    (file) => file !== undefined,
  )
  for (const file of single) checkWritable(file, checkpoint)
  const twice = single.find((file, i) => single.some((other, j) => j > i && resolve(other) === resolve(file)))
  if (twice !== undefined) throw new UsageError(`two outputs are one file, ${twice}`)
  const inside =
    svg !== undefined && !isFile(svg) ? single.find((file) => resolve(dirname(file)) === resolve(svg) && isFile(file)) : undefined
  if (inside !== undefined) throw new UsageError(`${inside} is among the pictures of --svg ${svg}; give it another folder`)
  if (svg !== undefined && !isFile(svg)) {
    if (existsSync(svg) && !statSync(svg).isDirectory())
      throw new FileError(`can't write to the folder ${svg}: it is a file (a picture's name ends in .svg)`)
    checkWritable(existsSync(svg) ? join(svg, 'state.svg') : svg)
  }
  return { page, json, svg }
}

const isFile = (svg: string): boolean => /\.svg$/i.test(svg)

/** One file, or a folder with one for each picture. */
function svgFiles(place: string, title: string, drawn: readonly Picture[]): { file: string; text: string }[] {
  if (isFile(place)) return [{ file: place, text: svgFile(title, drawn) }]
  try {
    createFolder(resolve(place))
  } catch (error) {
    throw new FileError(`can't write to the folder ${place}: ${reason(error)}`)
  }
  return drawn.map((picture) => ({ file: join(place, `${picture.name}.svg`), text: svgFile(`${title}: ${picture.title}`, [picture]) }))
}

/** Every picture of a head that there is. */
function pictures(data: Inspection, { layer, head, token }: { layer: number; head: number; token: number }): Picture[] {
  const own = data.layers[layer]
  const scene = { data, layer: own, head: own.heads[head], token, width: 660 }
  return views.flatMap((view) => (own.missing[view.needs] === undefined ? view.draw(scene) : []))
}

// --- JSON -----------------------------------------------------------------------------------------------------------------------------

/** Grids as nested lists, numbers to four digits. */
function inspectionJson({ every: _, left: __, ...data }: Inspection): string {
  let size = 0
  for (const { heads } of data.layers)
    for (const head of heads)
      for (const grid of [...Object.values(head.states), ...Object.values(head.vectors), head.similarity, head.recall, head.attention])
        size += 8 * (grid?.values.length ?? 0)
  if (size > mostJson)
    throw new TextError(
      `the JSON would have about ${bytes(size)}, of ${bytes(mostJson)} that it may: choose one with --layer and --head, or give a shorter --prompt`,
    )
  return `${JSON.stringify(data, (_, value) => (typeof value === 'number' ? digits(value, 4) : isGrid(value) ? nested(value) : value))}\n`
}

function nested({ shape, values }: Grid): unknown {
  let at = 0
  const level = (axis: number): unknown =>
    axis === shape.length ? values[at++] : Array.from({ length: shape[axis] }, () => level(axis + 1))
  return level(0)
}
