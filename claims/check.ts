/** Checks one claim on one device: generates cases, computes both sides, measures, and shrinks what contradicts. */
import fc from 'fast-check'
import { type Form, forms, type ReferenceDevice, type Shape, scope, Tensor } from '../engine/index.ts'
import { type Stoppable, stopper } from '../engine/signal.ts'
import {
  boundOn,
  boundsOf,
  type Case,
  type Claim,
  ClaimError,
  checkClaim,
  type Fields,
  type Relation,
  refutationRuns,
  type Side,
} from './claim.ts'
import { Devices, type Drawn, Draws, looks, type Subject, withDevice } from './context.ts'
import { type Arrays, Broken, type Call, type Implementation, NotOffered } from './implementation.ts'
import { adapterOf } from './own.ts'

/** Options of `check`. */
export interface CheckOptions extends Stoppable {
  /** Cases to generate, at least 1: 100 by default. A false claim goes on beyond them until it is refuted, or to `refutationRuns`. */
  runs?: number
  /** 1 by default. The same seed gives the same cases, on every device. */
  seed?: number
  /** Where a case lies among those of the seed, as a counterexample names it: runs this one alone. A NoSuchCase where there is none. */
  path?: string
  /** What is said of an error that a side throws: its message by default. */
  explain?(error: unknown): string
  /** Called as each case begins. */
  onCase?(c: Case, runs: number): void
  /** Called as a case has been measured, one of the shrinking, too; `within`: its error is within the bound. Not of a case in which a side throws. */
  onMeasured?(c: Case, error: number, within: boolean): void
}

/**
 * `holds`, and `refuted` for a claim that should be false, are as they should be. `fails`: there is a counterexample; `not refuted`: there
 * is none for a false claim (a NaN isn't one); `throws`: a side did, or what checks it; `unsteady`: the same case gave two results; `leaks`:
 * device memory grew from case to case; `stuck`: a case took longer than its limit; `skipped`: the claim needs a device that isn't there;
 * `not offered`: an implementation by others lacks what every case of the claim asks of it.
 */
export type Status = 'holds' | 'refuted' | 'skipped' | 'not offered' | 'fails' | 'not refuted' | 'throws' | 'unsteady' | 'leaks' | 'stuck'

/** A case in which a claim doesn't hold. */
export interface Counterexample {
  readonly case: Case
  /** Where it lies among the cases of its seed: `CheckOptions.path` runs it alone. */
  readonly path: string
  /** The measured error; NaN where a value isn't a number, null where a side threw. */
  readonly error: number | null
  /** What it is about, ready to print: the case, its tensors if they are small, both sides. */
  readonly lines: readonly string[]
  /** Of an implementation by others. */
  readonly evidence?: Evidence
  /** Where the evidence has been written. */
  readonly file?: string
}

/** A counterexample in numbers: what was drawn, what each side gave, and what the implementation was asked on the way. */
export interface Evidence {
  readonly drawn: Arrays
  readonly left: Arrays
  readonly right: Arrays
  /** `expected`: our float64 reference's answers. */
  readonly calls: readonly (Call & { readonly expected: Arrays })[]
}

/** What checking a claim has found. */
export interface Verdict {
  /** The claim's name. */
  readonly claim: string
  readonly device: Subject
  readonly status: Status
  /** Whether the claim is as stated: it holds, or it is false and refuted, or can't be checked here. */
  readonly ok: boolean
  /** Cases that were run, those of the shrinking included. */
  readonly runs: number
  /** Of a refutation: which case was the first counterexample, counted from 1. */
  readonly refutedBy?: number
  /** The largest error of the cases within the bound; of a failure or a refutation the counterexample's. */
  readonly error: number
  /** What the error may be at most. */
  readonly bound: number
  readonly milliseconds: number
  /** Of an implementation by others: what it would need for the cases, or the parts of them, that weren't asked. */
  readonly lacks?: readonly string[]
  /** One line about what went wrong. */
  readonly message?: string
  /** The smallest case found in which it doesn't hold. */
  readonly counterexample?: Counterexample
}

/** The path leads to no case of this claim and seed. */
export class NoSuchCase extends Error {
  override name = 'NoSuchCase'
}

/** After so many cases without a smaller one, a counterexample is small enough. */
const shrinkLimit = 300

/** Where none of so many cases could be asked of an implementation, the claim can't, as a rule: by what it offers, and where the adapter chooses sizes. */
const unasked = { offer: 50, adapter: 1000 }

/** Draws cases of a claim, computes both sides on the devices, and compares; a counterexample is made as small as it can be. */
export async function check(claim: Claim, devices: Devices, options: CheckOptions = {}): Promise<Verdict> {
  const { implementation } = devices
  return implementation ? implementation.alone(() => checkAlone(claim, devices, options)) : checkAlone(claim, devices, options)
}

async function checkAlone(claim: Claim, devices: Devices, options: CheckOptions): Promise<Verdict> {
  const { runs = 100, seed = 1, path, explain = messageOf, onCase, onMeasured } = options
  const mayGoOn = stopper('check', options)
  if (!(Number.isInteger(runs) && runs >= 1)) throw new RangeError(`runs must be an integer from 1, not ${runs}: no case would be compared`)
  checkClaim(claim)
  const numRuns = claim.holds === false ? Math.max(runs, refutationRuns) : runs
  const { implementation } = devices
  const bounds = implementation?.boundsOf(boundsOf(claim)) ?? boundsOf(claim)
  const bound = boundOn(devices.device, bounds)
  const began = performance.now()
  const counted = { runs: 0, largest: 0, sinceFailure: -1 }
  let bytes = -1
  /** Not a counterexample, and the end of the check all the same. */
  let broken: { status: Status; message: string } | undefined
  /** The implementation can't be asked any more. */
  let dead: Broken | undefined
  let refusals = 0
  /** What the case would need that would need least. */
  let least: readonly string[] | undefined

  const verdict = (status: Status, rest: Partial<Verdict> = {}): Verdict => ({
    claim: claim.name,
    device: devices.kind,
    status,
    ok: ['holds', 'refuted', 'skipped', 'not offered'].includes(status),
    runs: counted.runs,
    error: counted.largest,
    bound,
    milliseconds: performance.now() - began,
    ...(implementation && implementation.lacks.size > 0 && { lacks: [...implementation.lacks] }),
    ...rest,
  })
  if (implementation) {
    implementation.lacks.clear()
    implementation.choosy = false
    for (const rule of claim.rules ?? []) if (!implementation.offers.has(rule)) implementation.lacks.add(`the rule ${rule}`)
  }
  const notOffered = (): Verdict =>
    verdict('not offered', { message: [...(least ?? implementation?.lacks ?? [])].join(', ') || 'any of its rules' })
  if (claim.needs?.some((other) => !devices.has(other))) return verdict('skipped')
  if (implementation?.unasked(claim) !== undefined) return notOffered()

  const property = fc.asyncProperty(caseOf(claim, implementation), async (c: Case) => {
    if (broken || dead || counted.sinceFailure > shrinkLimit) return
    // A case that throws is the last one, but for the few that it shrinks to, which throw as well.
    await mayGoOn()
    onCase?.(c, counted.runs)
    let measured: Measured
    try {
      measured = await measure(claim, c, devices)
      // The first case once more: its bits tell whether a claim depends on anything but the case, the memory then what one case takes.
      if (counted.runs++ === 0) {
        if (!implementation && !sameSides(measured, await measure(claim, c, devices))) {
          broken = { status: 'unsteady', message: unsteady }
          return
        }
        bytes = devices.bytesInUse()
      }
    } catch (error) {
      // `fc.pre` in a side: this case is none, and another one takes its place.
      if (fc.PreconditionFailure.isFailure(error)) throw error
      if (error instanceof NotOffered) {
        if (error.lacks.length > 0 && !(least && least.length <= error.lacks.length)) least = error.lacks
        if (++refusals >= unasked[implementation!.choosy ? 'adapter' : 'offer'] && counted.runs === 0)
          broken = { status: 'not offered', message: '' }
        fc.pre(broken !== undefined)
        return
      }
      if (error instanceof Broken) {
        dead = error
        return
      }
      const message = error instanceof ClaimError ? error.message : explain(error)
      if (claim.holds === false || error instanceof ClaimError) broken ??= { status: 'throws', message }
      else if (counted.sinceFailure >= 0) counted.sinceFailure++
      else counted.sinceFailure = 0
      if (broken) return
      throw error
    }
    const within = measured.error <= bound
    if (!within && devices.device.precision === 'f16' && (await overflowing(claim, c))) fc.pre(false)
    onMeasured?.(c, measured.error, within)
    if (within) {
      counted.largest = Math.max(counted.largest, measured.error)
      if (counted.sinceFailure >= 0) counted.sinceFailure++
      return
    }
    if (claim.holds === false && Number.isNaN(measured.error)) {
      broken = { status: 'not refuted', message: `${notANumber(measured)} (case: ${caseLine(c)}), which refutes nothing` }
      return
    }
    counted.sinceFailure = 0
    throw new Violation(measured)
  })
  const maxSkipsPerRun = Math.max(100, Math.ceil(unasked.adapter / numRuns))
  // A path is one case, as it is: it isn't shrunk further.
  const replay = { numRuns: 1, seed, path, endOnFailure: true }
  const details = await (async () => fc.check(property, path === undefined ? { numRuns, seed, maxSkipsPerRun } : replay))().catch(
    (error: unknown) => {
      throw error instanceof Error && error.message.startsWith('Unable to replay') ? new NoSuchCase(`no such case: ${path}`) : error
    },
  )
  if (path !== undefined && details.numRuns + details.numSkips === 0) throw new NoSuchCase(`no such case: ${path}`)

  options.signal?.throwIfAborted()
  if (dead) throw dead
  if (broken && broken.status !== 'not offered') return verdict(broken.status, { message: broken.message })
  if (implementation && !details.failed && counted.runs === 0) return notOffered()
  const wanted = path === undefined ? numRuns : 1
  // Of an implementation as many as could be asked: the verdict says how many, and what it lacks for others.
  if (!implementation && details.counterexample === null && details.numRuns < wanted) {
    const why = details.interrupted ? 'the run was interrupted' : `${details.numSkips} were skipped by a precondition`
    return verdict('throws', { message: `only ${details.numRuns} of ${wanted} cases were compared: ${why}` })
  }
  if (details.failed) {
    const c = details.counterexample![0]
    const found = details.errorInstance
    const where = { case: c, path: details.counterexamplePath! }
    if (!(found instanceof Violation)) {
      const message = explain(found)
      return verdict('throws', { message, counterexample: { ...where, error: null, lines: [caseLine(c)] } })
    }
    const { measured } = found
    const again = await measure(claim, c, devices).catch(() => undefined)
    const evidence = implementation && again && (await evidenceOf(again, implementation.calls, devices))
    const counterexample = {
      ...where,
      error: measured.error,
      lines: [caseLine(c), ...describe(measured, evidence?.calls)],
      ...(evidence && { evidence }),
    }
    // Implementations by others may add in any order.
    const steady = again && (implementation ? !(again.error <= bound) : sameSides(measured, again))
    if (!steady) return verdict('unsteady', { message: unsteady, counterexample })
    if (claim.holds === false) {
      const refutedBy = path === undefined ? Number.parseInt(where.path, 10) + 1 : undefined
      return verdict('refuted', { error: measured.error, counterexample, refutedBy })
    }
    return verdict('fails', { error: measured.error, message: complaint(claim, measured, bound), counterexample })
  }
  if (devices.bytesInUse() > bytes) {
    return verdict('leaks', {
      message: `${devices.bytesInUse() - bytes} bytes of device memory were kept after ${counted.runs} cases (dispose of what isn't returned)`,
    })
  }
  if (claim.holds === false) {
    const among = path === undefined ? `no counterexample among ${counted.runs} cases` : 'this case is no counterexample'
    return verdict('not refuted', { message: `${among}, but the claim should be false` })
  }
  return verdict('holds')
}

const unsteady = 'non-deterministic: the same case gave two different results (random numbers, a clock, or state kept between cases?)'

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** The cases of a claim, in the order of `check` for the same seed; of those with forms the ones that an implementation has. */
export function caseOf(claim: Claim, implementation?: Implementation): fc.Arbitrary<Case> {
  const lacks = (value: unknown): boolean => forms.includes(value as Form) && !implementation!.hasForm(claim.rules ?? [], value as Form)
  const fields = Object.entries(claim.fields as Fields).map(([name, field]) => [
    name,
    implementation ? field.filter((value) => !lacks(value)) : field,
  ])
  // In the order in which they shrink: sizes first, then how the values look, then which they are.
  return fc.record({ ...Object.fromEntries(fields), look: fc.constantFrom(...looks), seed: fc.nat(0xffff) }) as fc.Arbitrary<Case>
}

// --- Measuring ------------------------------------------------------------------------------------------------------------------------

type Results = Record<string, Float64Array>

/** What a result is beside its values; plain numbers fit either dtype. */
interface Kept {
  /** As a message names it. */
  readonly what: string
  readonly shape: Shape
  readonly dtype: string | undefined
}

interface Measured {
  error: number
  /** The result with the largest error, and its worst element. */
  name: string
  element: number
  left: Results
  right: Results
  shapes: Record<string, Shape>
  drawn: ReadonlyMap<string, Drawn>
}

class Violation extends Error {
  readonly measured: Measured
  constructor(measured: Measured) {
    super('the claim is violated')
    this.measured = measured
  }
}

/** See `Claim.floor`. */
const largestScale = 10

/** Whether a case leaves what float16 holds, up to 65504: then it says nothing of a device. The reference tells, whose kernels aren't those under test. */
async function overflowing(claim: Claim, c: Case): Promise<boolean> {
  const oracle = await Devices.open('reference', { precision: 'f16' })
  try {
    await measure(claim, c, oracle)
    return (oracle.device as ReferenceDevice).overflows() > 0
  } finally {
    oracle.close()
  }
}

async function measure(claim: Claim, c: Case, devices: Devices): Promise<Measured> {
  const { implementation } = devices
  const draws = new Draws(c, devices, claim.rules)
  implementation?.calls.splice(0)
  // Without a prototype, so that any name is a key of its own.
  const evaluate = async (which: 'left' | 'right'): Promise<{ results: Results; kept: Record<string, Kept> }> => {
    const compute = (): Side => withDevice(devices.device, () => scope(() => claim[which](c, draws.context())))
    const side = implementation ? await implementation.answered(compute) : compute()
    const [results, kept]: [Results, Record<string, Kept>] = [Object.create(null), Object.create(null)]
    const values = Object.entries(checkSide(side, which))
    for (const [name, value] of values) {
      kept[name] = keptOf(value)
      results[name] =
        value instanceof Tensor ? new Float64Array(await value.read()) : Float64Array.from(typeof value === 'number' ? [value] : value)
    }
    // Two names may stand for one tensor.
    for (const value of new Set(values.map(([, value]) => value))) if (value instanceof Tensor) value.dispose()
    return { results, kept }
  }
  const [{ results: left, kept: ofLeft }, { results: right, kept: ofRight }] = [await evaluate('left'), await evaluate('right')]
  // Whatever both sides say, nothing was asked of it.
  if (implementation?.calls.length === 0) throw new NotOffered()
  implementation?.checkRange(Object.values(right))
  const shapes = Object.fromEntries(Object.entries(ofLeft).map(([name, { shape }]) => [name, shape]))
  const worst: Measured = { error: -1, name: '', element: 0, left, right, shapes, drawn: draws.drawn }
  const names = new Set([...Object.keys(left), ...Object.keys(right)])
  if (names.size === 0) throw new ClaimError('the sides have no results: return { name: tensor, ... }')
  const isGradient = (name: string): boolean => name.startsWith('d') && draws.drawn.has(name.slice(1))
  const floorOf = (group: (name: string) => boolean): number => {
    const sizes = Object.keys(right)
      .filter(group)
      .map((name) => rms(right[name]))
    return (claim.floor ?? 0.1) * Math.min(largestScale, Math.max(1, ...sizes.filter(Number.isFinite)))
  }
  const floors = { gradients: floorOf(isGradient), outputs: floorOf((name) => !isGradient(name)) }
  for (const name of names) {
    const difference = differ(left[name], ofLeft[name], right[name], ofRight[name])
    if (difference) throw new ClaimError(`the sides differ in what '${name}' is: ${difference}`)
    if (left[name].length === 0) throw new ClaimError(`'${name}' is empty on both sides: nothing is compared (case: ${caseLine(c)})`)
    const relation = claim.relation ?? 'equal'
    const { error, element } = compare(
      // Implementations by others may add in any order.
      implementation && relation === 'same bits' ? 'equal' : relation,
      left[name],
      right[name],
      floors[isGradient(name) ? 'gradients' : 'outputs'],
    )
    if (worse(error, worst.error)) Object.assign(worst, { error, name, element })
  }
  return worst
}

function checkSide(side: Side, which: string): Side {
  if (typeof side !== 'object' || side === null || side instanceof Tensor)
    throw new ClaimError(`${which} must return { name: tensor, ... }, not ${side instanceof Tensor ? 'a tensor' : String(side)}`)
  for (const [name, value] of Object.entries(side)) {
    if (value instanceof Tensor || typeof value === 'number') continue
    if (!(typeof value === 'object' && typeof value?.length === 'number'))
      throw new ClaimError(`${which} gives ${value === null ? 'null' : typeof value} for '${name}', not a tensor or numbers`)
    const other = Array.from(value).find((x) => typeof x !== 'number')
    if (Array.isArray(value) && (other !== undefined || value.includes(undefined as never)))
      throw new ClaimError(`${which} gives a list with ${Array.isArray(other) ? 'lists' : String(other)} in it for '${name}', not numbers`)
  }
  return side
}

const keptOf = (value: Side[string]): Kept => {
  if (value instanceof Tensor) return { what: `${value.dtype} [${value.shape}]`, shape: [...value.shape], dtype: value.dtype }
  if (typeof value === 'number') return { what: 'a number', shape: [], dtype: undefined }
  return { what: `a list of ${value.length}`, shape: [value.length], dtype: undefined }
}

/** How the kinds of two results differ, if they do. */
function differ(left: Float64Array | undefined, ofLeft: Kept, right: Float64Array | undefined, ofRight: Kept): string | undefined {
  if (left?.length !== right?.length) {
    const count = (values: Float64Array | undefined, kept: Kept): string =>
      values ? `${values.length} values${kept.dtype ? `, ${kept.what}` : ''}` : 'none'
    return `left has ${count(left, ofLeft)}, right ${count(right, ofRight)}`
  }
  const sameType = ofLeft.dtype === undefined || ofRight.dtype === undefined || ofLeft.dtype === ofRight.dtype
  if (sameType && ofLeft.shape.join() === ofRight.shape.join()) return
  return `left is ${ofLeft.what}, right ${ofRight.what}`
}

/** Scaled by the largest, so that squares neither overflow nor vanish. */
function rms(values: Float64Array): number {
  const largest = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  if (!(largest > 0 && largest < Infinity)) return largest
  return largest * Math.sqrt(values.reduce((total, x) => total + (x / largest) ** 2, 0) / values.length)
}

/** NaN is the worst error, and stays so. */
const worse = (error: number, than: number): boolean => !Number.isNaN(than) && !(error <= than)

const compare = (relation: Relation, left: Float64Array, right: Float64Array, floor: number): { error: number; element: number } =>
  measures[relation](left, right, floor)

const measures: Record<Relation, (left: Float64Array, right: Float64Array, floor: number) => { error: number; element: number }> = {
  equal(left, right, floor) {
    const difference = left.map((x, i) => x - right[i])
    const size = difference.map(Math.abs)
    const element = size.reduce((worst, x, i) => (worse(x, size[worst]) ? i : worst), 0)
    return { error: rms(difference) / (rms(right) + floor), element }
  },
  'same bits'(left, right) {
    const lost = left.findIndex((x, i) => Number.isNaN(x) || Number.isNaN(right[i]))
    if (lost >= 0) return { error: Number.NaN, element: lost }
    const differs = (_: number, i: number): boolean => !Object.is(left[i], right[i])
    const element = left.findIndex(differs)
    return { error: element < 0 ? 0 : left.filter(differs).length / left.length, element: Math.max(element, 0) }
  },
  'at most'(left, right, floor) {
    const worst = { error: 0, element: 0 }
    for (let element = 0; element < left.length; element++) {
      const error = (left[element] - right[element]) / (Math.abs(right[element]) + floor)
      if (worse(error, worst.error)) Object.assign(worst, { error, element })
    }
    return worst
  },
}

function sameSides(a: Measured, b: Measured): boolean {
  const same = (x: Results, y: Results): boolean =>
    Object.entries(x).every(([name, values]) => values.length === y[name]?.length && values.every((v, i) => Object.is(v, y[name][i])))
  return same(a.left, b.left) && same(a.right, b.right)
}

// --- Words ----------------------------------------------------------------------------------------------------------------------------

const number = (x: number): string => (Object.is(x, -0) ? '-0' : String(Number(x.toPrecision(9))))

const place = ({ name, element, left }: Measured): string => (left[name].length === 1 ? name : `${name}[${element}]`)

const notANumber = (measured: Measured): string => {
  const { name, element, left, right } = measured
  return `${place(measured)} can't be compared: ${left[name][element]} on the left, ${right[name][element]} on the right`
}

function complaint({ relation = 'equal' }: Claim, measured: Measured, bound: number): string {
  const { error, name, element, left, right } = measured
  if (Number.isNaN(error)) return notANumber(measured)
  const [l, r] = [left[name][element], right[name][element]]
  const at = place(measured)
  if (relation === 'same bits' && bound === 0) return `${at} is ${l} on the left and ${r} on the right: not the same bits`
  const size = `error ${error.toExponential(1)}, bound ${bound.toExponential(0)}`
  return relation !== 'at most'
    ? `${name} differs (${size}), most at ${at}: ${number(l)} on the left, ${number(r)} on the right`
    : `${at} is ${number(l)}, more than ${number(r)} (${size})`
}

async function evidenceOf({ left, right, shapes, drawn }: Measured, calls: readonly Call[], devices: Devices): Promise<Evidence> {
  const own = adapterOf(devices.get('reference'))
  const answered = calls.map(async (call) => ({ ...call, expected: await own[call.ask]!(call.rule, call.inputs, call.options) }))
  const shaped = (results: Results): Arrays =>
    Object.fromEntries(Object.entries(results).map(([name, data]) => [name, { shape: shapes[name], data }]))
  const inputs = Object.fromEntries([...drawn].map(([name, { shape, values }]) => [name, { shape, data: values }]))
  return { drawn: inputs, left: shaped(left), right: shaped(right), calls: await Promise.all(answered) }
}

/** Longer tensors aren't printed. */
const printable = 24

/** JSON has no Infinity and no NaN. */
const named = (_: string, value: unknown): unknown => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value)

export const caseLine = (c: Case): string =>
  Object.entries(c)
    .map(([name, value]) => `${name} ${['string', 'number'].includes(typeof value) ? value : JSON.stringify(value, named)}`)
    .join(', ')

/** `calls`: of an implementation by others, which may have been given something else than what was drawn. */
function describe({ drawn, left, right, name, error }: Measured, calls?: readonly Call[]): string[] {
  const show = (values: ArrayLike<number>): string =>
    values.length <= printable ? Array.from(values, number).join(' ') : `${values.length} values`
  const line = (input: string, shape: readonly number[], values: ArrayLike<number>): string =>
    `${input} [${shape.join(',')}] = ${show(values)}`
  const given = calls?.flatMap(({ ask, rule, inputs }, i) => [
    ...(calls.length > 1 ? [`call${i + 1}, ${ask} of ${rule}`] : []),
    ...Object.entries(inputs).map(([input, { shape, data }]) => line(input, shape, data)),
  ])
  return [
    ...(given ?? [...drawn].map(([input, { shape, values }]) => line(input, shape, values))),
    `left ${name} = ${show(left[name])}`,
    `right ${name} = ${show(right[name])}`,
    `error ${error.toExponential(2)}`,
  ]
}
