/** What the memory of one head does with a prompt, for the page. Runs in the worker. */
import { noGrad, rules, scope, tensor } from 'fastweights'
import { Transformer } from 'fastweights/nn'
import type { Grid, HostTrace } from '../../dist/cli/inspect/data.js'
import { kindsOf, tracedLayers } from '../../dist/cli/inspect/layers.js'
import type { Learner, Lesson } from './learner.ts'
import type { Memory, TraceRequest } from './messages.ts'

/** Tokens of a prompt at most, and numbers of all states of a head. */
const mostTokens = 160
const mostNumbers = 1_000_000
/** Symbols that are likeliest to come next. */
const mostNext = 4

/** Rules that the weights of a delta rule can be read with. */
const readings = ['sum', 'delta'] as const

/** The same weights with another rule; undefined where that needs some that aren't there. */
async function read(model: Transformer, rule: string): Promise<Transformer | undefined> {
  if (!Object.hasOwn(rules, rule) || model.config.mixer !== undefined) return undefined
  const other = new Transformer({ ...model.config, rule: rule as never })
  const [own, needed] = [await model.stateDict(), other.namedParameters()]
  const shared = new Map([...own].filter(([name]) => needed.has(name)))
  if (shared.size === needed.size) {
    other.loadStateDict(shared)
    return other
  }
  other.dispose()
  return undefined
}

async function readable({ config }: Transformer, model: Transformer): Promise<string[]> {
  const found: string[] = []
  for (const rule of readings) {
    if (rule === config.rule) continue
    const other = await read(model, rule).catch(() => undefined)
    if (other) found.push(rule)
    other?.dispose()
  }
  return found
}

/** [1,T,H,W] of a head: [T,W]. */
function ofHead(grid: Grid | undefined, head: number): Grid | undefined {
  if (grid?.shape.length !== 4) return undefined
  const [, T, H, W] = grid.shape
  const h = Math.min(head, H - 1)
  const values = new Float32Array(T * W)
  for (let t = 0; t < T; t++) for (let i = 0; i < W; i++) values[t * W + i] = grid.values[(t * H + h) * W + i]
  return { shape: [T, W], values }
}

/** What the model takes to come after these tokens, likeliest first, each with its probability. */
async function likeliest(
  model: Transformer,
  tokens: Int32Array,
  symbols: readonly string[],
): Promise<[symbol: string, probability: number][]> {
  const wasTraining = model.training
  model.eval()
  const logits = scope(() => noGrad(() => model.forward(tensor(tokens, { shape: [1, tokens.length] })).logits))
  model.train(wasTraining)
  const values = Array.from(await logits.read().finally(() => logits.dispose())).slice(-symbols.length)
  const most = Math.max(...values)
  const weights = values.map((value) => Math.exp(value - most))
  const total = weights.reduce((a, b) => a + b)
  return symbols
    .map((symbol, i): [string, number] => [symbol, weights[i] / total])
    .sort(([, a], [, b]) => b - a)
    .slice(0, mostNext)
}

export async function traced({ model }: Learner, lesson: Lesson, request: TraceRequest): Promise<Memory> {
  const { vocabulary, task } = lesson
  const { dModel, heads, layers: count } = model.config
  const fits = Math.max(2, Math.floor(mostNumbers / (dModel / heads) ** 2))
  let tokens: Int32Array
  let shown: string[]
  let left = ''
  if (task) {
    tokens = task.tests[0].inputs
    shown = Array.from(tokens, (token) => `${token},`)
  } else {
    const prompt = request.prompt === '' ? lesson.prompt : request.prompt
    tokens = vocabulary!.encode(prompt)
    shown = [...prompt]
  }
  const most = Math.min(mostTokens, fits)
  if (tokens.length > most) {
    left = `The first ${most} of ${tokens.length} tokens are shown.`
    tokens = tokens.slice(0, most)
    shown = shown.slice(0, most)
  }
  const layer = Math.min(request.layer, count - 1)
  const names = await readable(model, model)
  const other = request.rule !== 'own' && names.includes(request.rule) ? await read(model, request.rule) : undefined
  try {
    const shows = other ?? model
    const [{ layer: own, traced }] = await tracedLayers(shows, tokens, layer + 1)
    const head = Math.min(request.head, own.heads.length - 1)
    const seen = own.heads[head]
    const part = 'S' in seen.states ? 'S' : Object.keys(seen.states)[0]
    const { inputs }: HostTrace = traced
    return {
      ...request,
      layer,
      head,
      rule: other ? request.rule : 'own',
      tokens: shown,
      left,
      layers: [...kindsOf(shows).values()].map(({ name }) => name),
      heads: own.heads.length,
      next: vocabulary && !task ? await likeliest(shows, tokens, vocabulary.symbols) : [],
      missing: own.missing,
      rules: names,
      seen,
      ...(part !== undefined && { part }),
      keys: ofHead(inputs.k, head),
      values: ofHead(inputs.v, head),
    }
  } finally {
    other?.dispose()
  }
}
