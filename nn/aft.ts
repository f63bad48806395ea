/**
 * The attention free transformer's layer (Zhai 2021), in its four forms: [B,T,D] -> [B,T,D]. Each channel is a softmax over time of its own, and
 * the query a gate on what it gives. Tests: test/nn/aft.test.ts, test/golden/golden.test.ts.
 */
import { checkFlag } from '../engine/arguments.ts'
import { type AftBias, type AftState, aft } from '../engine/ops/aft.ts'
import { mul } from '../engine/ops/elementwise.ts'
import type { Generator } from '../engine/random.ts'
import { sameShape, show } from '../engine/shape.ts'
import { parameter, type Tensor, zeros } from '../engine/tensor.ts'
import { checkChoice, checkFields, checkKnown, defaultsOf, type Fields, withDefaults } from './fields.ts'
import { type AttentionOptions, checkHeads, checkInput, headsField, projectionBiasField } from './heads.ts'
import { Linear } from './layers.ts'
import type { Look, Mixer } from './mixer.ts'
import { type BufferCheck, Module } from './module.ts'
import { atTokens, checkPacking } from './packing.ts'
import { givenState, type Parts } from './parts.ts'

/** What the forms know of places: a bias for every pair of tokens, for those near each other, none, or one for each distance. */
export type AftForm = 'full' | 'local' | 'simple' | 'conv'

/** Settings of an `Aft` layer. */
export interface AftConfig {
  dModel: number
  form: AftForm
  /** full, local: N, the tokens of a sequence that have biases of their own. Those after them have the last one's, by how far a key lies back. */
  tableLength: number
  /** local, conv: s. Tokens less than s places apart have a bias; conv needs 1 at least. */
  window: number
  /** conv: H, channels of a head share their biases. */
  heads: number
  /** Whether the projections to queries, keys and values have a bias, as labml's. */
  projectionBias: boolean
  /** Whether a token sees only itself and what came before. Without, there is no state, and no token may come after the table's last. */
  causal: boolean
}

const common = {
  tableLength: { type: 'integer', min: 1, default: 256, description: 'tokens that have biases of their own; later ones take the last' },
  window: { type: 'integer', min: 0, default: 32, description: 'tokens less than so many places apart have a bias' },
  heads: headsField,
  projectionBias: projectionBiasField,
} as const satisfies Partial<Fields<AftConfig>>
const { tableLength, window, heads, projectionBias } = common

/** The settings that each form has. */
const fields = {
  full: { tableLength, projectionBias },
  local: { tableLength, window, projectionBias },
  simple: { projectionBias },
  conv: { window, heads, projectionBias },
} as const

function checkAft({ dModel, form, causal, ...own }: Partial<AftConfig> & Pick<AftConfig, 'dModel' | 'form' | 'causal'>): void {
  checkChoice('form', form, fields)
  checkKnown(own, Object.keys(fields[form]))
  checkFields(own, fields[form] as never)
  if (form === 'conv' && own.window === 0) throw new Error('window must be a positive integer for the form conv, not 0')
  checkFlag('causal', causal)
  checkHeads(dModel, own.heads ?? 1)
}

type Settings<Form extends AftForm> = Pick<AftConfig, keyof (typeof fields)[Form] & keyof AftConfig>

/**
 * y = W_o (sigmoid(q) * aft(k, v, w)), with q, k and v projections of x, and `aft` the engine's op: a mean of the values, weighed by e^(k + w).
 * Form `local` is labml's AFTLocal, parameter names included: a state dict of it loads, `local_mask` and all.
 */
export class Aft extends Module {
  query: Linear
  key: Linear
  value: Linear
  /** full, local: w of a query's place and a key's, [N,N], at first 0. */
  pos_bias: Tensor | null
  /** conv: w by how far back the key lies, [H,s] (not causal: [H, 2 s - 1], from s - 1 places ahead on), at first 0. */
  taps: Tensor | null
  output: Linear
  config: AftConfig

  /** What a form doesn't have can't be given. */
  constructor(config: Partial<AftConfig> & Pick<AftConfig, 'dModel' | 'form'>, g: Generator) {
    super()
    const { dModel: D, form, causal = true } = config
    checkChoice('form', form, fields)
    const given = withDefaults({ causal, ...defaultsOf<object>(fields[form] as never) }, config)
    checkAft(given)
    const c = { ...defaultsOf<object>(common as never), ...given } as AftConfig
    this.config = c
    const options = { bias: c.projectionBias }
    this.query = new Linear(D, D, g, options)
    this.key = new Linear(D, D, g, options)
    this.value = new Linear(D, D, g, options)
    this.pos_bias = 'tableLength' in given ? parameter(zeros([c.tableLength, c.tableLength])) : null
    this.taps = form === 'conv' ? parameter(zeros([c.heads, causal ? c.window : 2 * c.window - 1])) : null
    this.output = new Linear(D, D, g)
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Partial<AftState> = {}, options: AttentionOptions = {}): { y: Tensor; state: Partial<AftState> } {
    const { dModel, causal } = this.config
    const { B, T } = checkInput(given, dModel, 'aft')
    const packing = checkPacking('aft', options, B, T, ['accumulate'])
    const before = givenState('aft', state, this.stateParts(B), B) ? (state as AftState) : undefined
    const x = atTokens(given, packing)
    const read = aft(this.key.forward(x), this.value.forward(x), this.bias(), before, { causal, window: this.reach(), ...packing })
    const gated = mul(this.query.forward(x, { activation: 'sigmoid' }), read.y)
    const y = atTokens(this.output.forward(gated, { accumulate: options.accumulate }), packing)
    return { y, state: read.state ?? {} }
  }

  /** See `Look`; q before its sigmoid. */
  look(x: Tensor): Look {
    const { dModel, causal } = this.config
    checkInput(x, dModel, 'aft')
    const inputs = { q: this.query.forward(x), k: this.key.forward(x), v: this.value.forward(x) }
    return { inputs, read: (v) => aft(inputs.k, v, this.bias(), undefined, { causal, window: this.reach() }).y }
  }

  private bias(): AftBias | undefined {
    if (this.pos_bias) return { table: this.pos_bias, extended: this.config.causal }
    return this.taps ? { taps: this.taps } : undefined
  }

  /** How many places apart tokens have a bias. */
  private reach(): number {
    const { form, window, tableLength } = this.config
    return { full: tableLength, local: Math.min(window, tableLength), conv: window, simple: 0 }[form]
  }

  /** See `Parts`, and the engine's `AftState`. */
  stateParts(B: number): Parts {
    if (!this.config.causal) return {}
    const held = { dtype: 'float32', shape: [B, Math.max(this.reach(), 1), this.config.dModel] } as const
    return { key: held, value: held, position: { dtype: 'int32', shape: [B] } }
  }

  /** labml's state dict has the window as a table of true and false. */
  override buffers(): Record<string, BufferCheck> {
    if (!this.pos_bias) return {}
    const N = this.config.tableLength
    const window = this.reach()
    return {
      local_mask: ({ shape, data }) => {
        if (!sameShape(shape, [N, N])) return `has shape ${show(shape)}, its table ${show([N, N])}`
        const at = Array.from(data).findIndex((x, i) => Number(x) !== Number(Math.abs(Math.floor(i / N) - (i % N)) < window))
        if (at >= 0) return `isn't that of the window ${window}: it has ${data[at]} at [${Math.floor(at / N)},${at % N}]`
      },
    }
  }
}

const source = 'Zhai 2021'

const row = <Form extends AftForm>(
  form: Form,
  about: Pick<Mixer<Settings<Form>>, 'title' | 'description' | 'source'>,
): Mixer<Settings<Form>, Aft> => ({
  ...about,
  fields: fields[form] as unknown as Fields<Settings<Form>>,
  check: (c) => checkAft({ ...c, form, causal: true }),
  make: (c, g) => new Aft({ ...c, form }, g),
  // Without a bias, or with one for the query's own key alone.
  blind: (c) => form === 'simple' || ('window' in c && c.window === (form === 'conv' ? 1 : 0)),
})

export const aftFull = row('full', { title: 'aft-full', description: 'a bias for every pair of tokens', source: `${source}, eq. 2` })
export const aftLocal = row('local', {
  title: 'aft-local',
  description: 'a bias for every pair of tokens that are near each other; the others count without',
  source: `${source}, section 3.2; labml.ai, transformers/aft`,
})
export const aftSimple = row('simple', { title: 'aft-simple', description: 'no biases: running means', source: `${source}, eq. 3` })
export const aftConv = row('conv', {
  title: 'aft-conv',
  description: 'a bias for each distance of near tokens, shared by the channels of a head',
  source: `${source}, section 3.3`,
})
