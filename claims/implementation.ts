/**
 * An implementation by others in the place of our rules: what it offers, what it is asked and how its answers become tensors with gradients.
 *
 * Sides of claims are synchronous, and an implementation may be a program elsewhere. So a side that needs an answer is given up, and computed
 * again from its start once the answer is there; as it is a function of the case alone, it asks the same again and gets it at once.
 */
import { type Device, type FastWeightState, type Form, forms, type Rule, recordMany, rules, type Tensor, tensor } from '../engine/index.ts'
import { show, sizeOf } from '../engine/shape.ts'
import { rounded } from '../nn/safetensors.ts'

/** What goes in and comes out: row-major. Numbers are float64 if the implementation's are, else float32; flags are int32. */
export interface Numbers {
  readonly shape: readonly number[]
  readonly data: ArrayLike<number>
}
/** Arrays by name, as they go to an implementation by others and come back. */
export type Arrays = Readonly<Record<string, Numbers>>

/**
 * What is allowed, by dtype: what our devices are where they have it. Numbers of 16 bits are rounded where they go in and come out, and on the way
 * from one call to the next: among a dozen cases of every claim and rule, with sums in float64, that makes up to 5 times half a unit of the last place,
 * which is 2^-11 in float16 and 2^-8 in bfloat16. `largest`: numbers beyond aren't asked for.
 */
const dtypes = {
  float64: { tolerance: 1e-10, largest: 1e300 },
  float32: { tolerance: 1e-5, largest: 1e37 },
  float16: { tolerance: 8 * 2 ** -11, largest: 3e4 },
  bfloat16: { tolerance: 8 * 2 ** -8, largest: 1e37 },
} as const
/** The types that an implementation by others may compute in. */
export type FloatType = keyof typeof dtypes

/** What an implementation may offer of a rule beside its outputs from an empty state, by the name in `options`; as a reader is told that it lacks. */
export const abilities = {
  initial: 'an initial state',
  final: 'a last state',
  backward: 'a backward pass',
  scale: 'a scale',
  chunk: 'a chunk length',
  eps: 'an eps',
  heads: 'fewer heads of queries and keys than of values',
  mask: 'a mask',
  reset: 'resets',
  forget: 'gates of -Infinity',
} as const
/** What an implementation may offer: a key of `abilities`. */
export type Ability = keyof typeof abilities

/** How a rule is called. */
export interface CallOptions {
  /** The form that is asked for. */
  readonly form: Form
  /** 1 unless `scale` is offered. */
  readonly scale: number
  /** Where it is offered and the case has one. */
  readonly chunk?: number
  /** Where it is offered and the rule has one. */
  readonly eps?: number
}

/**
 * A function from arrays to arrays. Names and shapes of a rule's inputs and of the parts of its state are those of `rules`; a part of the initial
 * state has a 0 after its name, a gradient and what it is given from a d before it.
 */
export interface Adapter {
  readonly name: string
  /** Of the numbers that go in and come out: float32 by default. */
  readonly dtype?: FloatType
  /** By the rule's name: its forms, by default `recurrent` alone, which stands for any there is; and what else it can. */
  readonly rules: Readonly<Record<string, { readonly forms?: readonly Form[]; readonly options?: readonly Ability[] }>>
  /** { q, k, v, ..., S0?, mask?, reset? } to { y, S, ... }. */
  forward(rule: string, inputs: Arrays, options: CallOptions): Arrays | Promise<Arrays>
  /** The same with dy and, where the last state is offered, dS, ... to { dq, dk, dv, ..., dS0? }. */
  backward?(rule: string, inputs: Arrays, options: CallOptions): Arrays | Promise<Arrays>
}

/** A call and its answer. */
export interface Call {
  readonly ask: 'forward' | 'backward'
  readonly rule: string
  readonly options: CallOptions
  readonly inputs: Arrays
  readonly answer: Arrays
}

/** The case asks for what the implementation doesn't offer; adapters may throw it, too. */
export class NotOffered extends Error {
  override name = 'NotOffered'
  /** All that this case would need. */
  readonly lacks: readonly string[]
  constructor(...lacks: string[]) {
    super(lacks.join(', '))
    this.lacks = lacks
  }
}

/** What is wrong isn't this case's: the implementation has died, or its answers can't be read any more. */
export class Broken extends Error {
  override name = 'Broken'
  /** Whether it didn't answer in time. */
  readonly late: boolean
  constructor(message: string, late = false) {
    super(message)
    this.late = late
  }
}

/** An answer isn't there yet. */
class Waiting extends Error {
  readonly answer: () => Promise<Call>
  constructor(answer: () => Promise<Call>) {
    super('an answer is waited for')
    this.answer = answer
  }
}

/** See `Claim.bounds`. */
interface Bounds {
  readonly float32: number
  readonly float64: number
  readonly reason: string
}

type Shapes = Readonly<Record<string, readonly number[]>>

interface Offer {
  readonly forms: readonly Form[]
  readonly options: readonly Ability[]
}

/** What an adapter has said of itself, checked: throws a TypeError that says what is wrong. */
export function checkAdapter(adapter: Adapter): Adapter {
  const fail = (what: string): never => {
    throw new TypeError(what)
  }
  const { name, dtype, rules: offered, forward, backward } = adapter ?? {}
  if (typeof name !== 'string' || !/^[^\p{Cc}]{1,100}$/u.test(name)) fail("'name' must be a text of one line")
  if (dtype !== undefined && !Object.hasOwn(dtypes, dtype)) fail(`'dtype' must be one of ${Object.keys(dtypes).join(', ')}, not '${dtype}'`)
  if (typeof forward !== 'function') fail("'forward' must be a function (rule, inputs, options) => { y, S, ... }")
  if (typeof offered !== 'object' || offered === null || Object.keys(offered).length === 0)
    fail("'rules' must be { name: { forms, options } }, of at least one rule")
  for (const [rule, offer] of Object.entries(offered)) {
    if (!Object.hasOwn(rules, rule)) fail(`'rules' names '${rule}'; the rules are ${Object.keys(rules).join(', ')}`)
    if (typeof offer !== 'object' || offer === null) fail(`'rules': '${rule}' must be { forms, options }, both lists that may be left out`)
    const lists = { forms, options: Object.keys(abilities) }
    for (const key of Object.keys(offer))
      if (!Object.hasOwn(lists, key)) fail(`'rules': '${rule}' has '${key}', which is neither 'forms' nor 'options'`)
    for (const [key, known] of Object.entries(lists)) {
      const list: unknown = offer[key as 'forms']
      if (list !== undefined && !(Array.isArray(list) && list.every((one) => (known as readonly unknown[]).includes(one))))
        fail(`'rules': the ${key} of '${rule}' must be a list out of ${known.join(', ')}`)
    }
    if (offer.forms?.length === 0) fail(`'rules': the forms of '${rule}' are empty`)
    if (offer.options?.includes('backward') && typeof backward !== 'function')
      fail(`'rules': '${rule}' has 'backward' among its options, and there is no function 'backward'`)
  }
  return adapter
}

/** Stands in for rules on a device of ours. */
const standIns = new WeakMap<Device, Implementation>()

/** What runs in place of `rule.run` where these inputs are, if anything does. */
export function standIn(rule: Rule, inputs: Readonly<Record<string, Tensor>>): Rule['run'] | undefined {
  const implementation = standIns.get(Object.values(inputs)[0].device)
  const name = implementation && nameOf(rule)
  return name !== undefined && implementation!.offers.has(name)
    ? (given, state, options) => implementation!.run(name, rule, given, state, options)
    : undefined
}

const nameOf = (rule: Rule & { readonly name?: string }): string | undefined =>
  rule.name ?? Object.entries<Rule>(rules).find(([, row]) => row === rule)?.[0]

/** Rules as somebody else computes them, behind an adapter, in the place of ours. */
export class Implementation {
  readonly name: string
  readonly dtype: FloatType
  /** What it offers of each rule, by the rule's name. */
  readonly offers: ReadonlyMap<string, Offer>
  /** The bound of claims, if they don't have a wider one. */
  readonly tolerance: number
  /** What was asked for, which is the bound of every claim. */
  private readonly given: number | undefined
  /** The check that has come last. */
  private last: Promise<unknown> = Promise.resolve()
  /** What the claims that were asked since this was emptied would have needed beside. */
  readonly lacks = new Set<string>()
  /** Whether the adapter itself has refused a case of these claims. */
  choosy = false
  /** Since this was emptied. */
  readonly calls: Call[] = []
  private readonly adapter: Adapter
  /** Of the side that is being computed: what has been answered, and how much of it has been asked for again. */
  private answers: Call[] = []
  private asked = 0

  constructor(adapter: Adapter, tolerance?: number) {
    this.adapter = checkAdapter(adapter)
    this.name = adapter.name
    this.dtype = adapter.dtype ?? 'float32'
    this.tolerance = tolerance ?? dtypes[this.dtype].tolerance
    this.given = tolerance
    this.offers = new Map(
      Object.entries(adapter.rules).map(([rule, { forms = ['recurrent'] as const, options = [] }]): [string, Offer] => [
        rule,
        { forms, options },
      ]),
    )
  }

  /** From now on claims that are computed on this device, a reference of ours, use the implementation's rules. */
  standOn = (device: Device): void => void standIns.set(device, this)

  /** Checks that share an implementation run one after the other, as what is noted here is one check's. */
  alone<R>(body: () => Promise<R>): Promise<R> {
    const turn = this.last.then(body)
    this.last = turn.catch(() => {})
    return turn
  }

  /** Whether all of these rules that are offered at all have this; what is missing is noted. */
  has(names: readonly string[], what: Ability): boolean {
    const all = names.every((name) => this.offers.get(name)?.options.includes(what) ?? true)
    if (!all) this.lacks.add(abilities[what])
    return all
  }

  /** The bounds of a claim for our devices, as they are for the implementation. */
  boundsOf({ float32, float64, reason }: Bounds): Bounds {
    const bound = this.given ?? Math.max(this.tolerance, this.dtype === 'float64' ? float64 : float32)
    const why =
      bound > this.tolerance
        ? reason
        : this.given === undefined
          ? `what ${this.dtype} keeps of numbers in a few calls`
          : 'as it was asked for'
    return { float32: bound, float64: bound, reason: why }
  }

  /** Whether any of these rules has the form. */
  hasForm = (names: readonly string[], form: Form): boolean => names.some((name) => this.offers.get(name)?.forms.includes(form))

  /** Why a claim isn't asked at all. */
  unasked({
    rules = [],
    holds,
    needs = [],
  }: {
    rules?: readonly string[]
    holds?: boolean
    needs?: readonly string[]
  }): string | undefined {
    if (rules.length === 0 || holds === false) return 'about no rule, or false'
    if (!rules.some((rule) => this.offers.has(rule))) return 'about rules that it lacks'
    return needs.some((other) => other !== 'reference') ? 'about builds of ours' : undefined
  }

  /** Refuses a case whose results aren't safely within what the dtype holds. */
  checkRange(results: Iterable<ArrayLike<number>>): void {
    const { largest } = dtypes[this.dtype]
    for (const values of results)
      if (Array.from(values).some((x) => Number.isFinite(x) && Math.abs(x) > largest))
        this.refuse(`numbers beyond ${largest.toExponential(0)}`)
  }

  /** Throws a NotOffered that names what it lacks. */
  refuse(...lacks: string[]): never {
    for (const what of lacks) this.lacks.add(what)
    throw new NotOffered(...lacks)
  }

  /** Numbers as the implementation's dtype holds them. */
  rounded(values: ArrayLike<number>): Float64Array | Float32Array {
    if (this.dtype === 'float64') return Float64Array.from(values)
    const single = Float32Array.from(values)
    return this.dtype === 'float32' ? single : rounded(single, this.dtype === 'float16' ? 'F16' : 'BF16')
  }

  /** What `side` returns once all that it asks has been answered. */
  async answered<R>(side: () => R): Promise<R> {
    this.answers = []
    for (;;) {
      this.asked = 0
      try {
        const result = side()
        this.calls.push(...this.answers)
        return result
      } catch (error) {
        if (!(error instanceof Waiting)) throw error
        this.answers.push(await error.answer())
      }
    }
  }

  /** `shapes`: of the arrays of the answer. */
  private ask(ask: Call['ask'], rule: string, options: CallOptions, inputs: Arrays, shapes: Shapes): Arrays {
    if (this.asked < this.answers.length) return this.answers[this.asked++].answer
    throw new Waiting(async () => {
      // It may write into what it is given.
      const given = Object.entries(inputs).map(([name, { shape, data }]) => [
        name,
        { shape: [...shape], data: (data as Float64Array).slice() },
      ])
      let answer: unknown
      try {
        answer = await this.adapter[ask]!(rule, Object.fromEntries(given), options)
      } catch (error) {
        if (error instanceof Error && error.name === 'NotOffered') {
          this.choosy = true
          this.refuse(error.message)
        }
        throw error
      }
      return { ask, rule, options, inputs, answer: this.kept(answer, shapes) }
    })
  }

  /** `rule.run` by the implementation, whose backward pass is asked for when the gradients are. */
  run(
    name: string,
    rule: Rule,
    given: Record<string, Tensor>,
    state: FastWeightState | undefined,
    settings: object,
  ): ReturnType<Rule['run']> {
    const { forms, options: can } = this.offers.get(name)!
    const {
      form = forms[0],
      scale = 1,
      chunk,
      eps,
      mask,
      reset,
      ...more
    } = settings as Partial<CallOptions & Record<'mask' | 'reset', Tensor>>
    const lacks: string[] = []
    const need = (what: Ability, when: boolean): boolean => {
      if (when && !can.includes(what)) lacks.push(abilities[what])
      return when
    }
    if (!forms.includes(form)) lacks.push(`the form ${form}`)
    for (const [other, value] of Object.entries(more)) if (value !== undefined) lacks.push(`the option ${other}`)
    const { device } = Object.values(given)[0]
    const sizes: Record<string, number> = {}
    const tensors: Record<string, Tensor> = {}
    for (const [input, { shape, values }] of Object.entries(rule.inputs)) {
      const x = given[input]
      shape.forEach((letter, i) => {
        // The last input with heads has the values' number of them.
        sizes[letter] = letter === 'H' ? Math.max(sizes.H ?? 0, x.shape[i]) : x.shape[i]
      })
      if (values === 'gate') need('forget', numbersOf(x).includes(Number.NEGATIVE_INFINITY))
      tensors[input] = x
    }
    need('heads', given.q !== undefined && given.q.shape[2] !== sizes.H)
    need('scale', scale !== 1)
    need('eps', eps !== undefined && eps !== rule.eps)
    const parts = Object.keys(rule.state) as (keyof FastWeightState)[]
    need('initial', state !== undefined)
    const flags: Record<string, Numbers> = {}
    for (const [flag, t] of Object.entries({ mask, reset }))
      if (need(flag as Ability, t !== undefined)) flags[flag] = { shape: t!.shape, data: t!.indices! }
    if (lacks.length > 0) this.refuse(...lacks)
    for (const part of state ? parts : []) tensors[`${part}0`] = state![part]!
    const options: CallOptions = {
      form,
      scale,
      ...(can.includes('chunk') && chunk !== undefined && { chunk }),
      ...(can.includes('eps') && rule.eps !== undefined && { eps: eps ?? rule.eps }),
    }
    const inputs = { ...this.arrays(tensors), ...flags }
    const final = can.includes('final')
    const shapes = { y: ['B', 'T', 'H', 'V'], ...(final && (rule.state as Record<string, readonly string[]>)) }
    const expected = Object.entries(shapes).map(([output, letters]) => [output, letters.map((letter) => sizes[letter])])
    const outputs = tensorsOf(this.ask('forward', name, options, inputs, Object.fromEntries(expected)), device)

    recordMany(name, Object.values(tensors), Object.values(outputs), (grads) => {
      if (!can.includes('backward')) this.refuse(abilities.backward)
      const cotangents = Object.keys(outputs).map((output, i): [string, Numbers] => {
        const { shape, size } = outputs[output]
        return [`d${output}`, { shape, data: this.rounded(grads[i] ? numbersOf(grads[i]) : new Float64Array(size)) }]
      })
      const names = Object.keys(tensors)
      const wanted = Object.fromEntries(names.map((input) => [`d${input}`, tensors[input].shape]))
      const found = tensorsOf(this.ask('backward', name, options, { ...inputs, ...Object.fromEntries(cotangents) }, wanted), device)
      return names.map((input) => found[`d${input}`])
    })

    const { y, ...last } = outputs
    if (final) return { y, state: last as unknown as FastWeightState }
    // Whoever looks for a part of the last state asks for what isn't offered.
    const none = {}
    for (const part of parts) Object.defineProperty(none, part, { get: () => this.refuse(abilities.final) })
    return { y, state: none as FastWeightState }
  }

  private arrays = (tensors: Readonly<Record<string, Tensor>>): Arrays =>
    Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, { shape: x.shape, data: this.rounded(numbersOf(x)) }]))

  /** A copy of an answer, which must have these names and shapes: the next one may be given in the same memory. */
  private kept(answer: unknown, shapes: Shapes): Arrays {
    const fail = (what: string): never => {
      throw new Error(`${this.name} ${what}`)
    }
    if (typeof answer !== 'object' || answer === null) return fail(`answers ${answer === null ? 'null' : typeof answer}, not { y, ... }`)
    const names = Object.keys(shapes)
    const other = Object.keys(answer).find((name) => !names.includes(name))
    if (other !== undefined) fail(`answers '${other}', which isn't asked for (${names.join(', ')})`)
    return Object.fromEntries(
      names.map((name) => {
        const { shape, data } = (answer as Partial<Arrays>)[name] ?? fail(`answers without ${name}`)
        if (typeof shape?.length !== 'number' || typeof data?.length !== 'number') fail(`answers ${name} that isn't { shape, data }`)
        const [found, wanted] = [Array.from(shape), shapes[name]]
        if (found.join() !== wanted.join()) fail(`answers ${name} ${show(found)}, expected ${show(wanted)}`)
        if (sizeOf(wanted) !== data.length) fail(`answers ${name} ${show(wanted)} with ${data.length} numbers`)
        const numbers: readonly unknown[] = Array.from(data)
        const other = numbers.findIndex((x) => typeof x !== 'number')
        if (other >= 0) fail(`answers ${name} of ${typeof numbers[other]}s, not of numbers`)
        return [name, { shape: wanted, data: Float64Array.from(data) }]
      }),
    )
  }
}

const tensorsOf = (arrays: Arrays, device: Device): Record<string, Tensor> =>
  Object.fromEntries(
    Object.entries(arrays).map(([name, { shape, data }]) => [name, tensor(data, { shape: [...shape], dtype: 'float32', device })]),
  )

/** The numbers of a tensor on a reference device. */
const numbersOf = (x: Tensor): Float64Array => (x.storage as { data: Float64Array }).data.subarray(0, x.size)
