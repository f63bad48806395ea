/**
 * The process that checks claims: it loads them (a claim is code, and can't be sent), says what there is, and then does what it is told. The
 * command watches its pulse, and ends it if a case doesn't end. It isn't a thread, because a thread that ends with a GPU open takes the
 * whole command with it.
 */
import { openAdapter } from '../claims/adapters.ts'
import { caseLine, check, NoSuchCase, type Verdict } from '../claims/check.ts'
import { boundsOf, type Claim, checkNames } from '../claims/claim.ts'
import { conformanceClaims } from '../claims/conformance.ts'
import { Devices, type Subject } from '../claims/context.ts'
import { Broken, type FloatType, Implementation } from '../claims/implementation.ts'
import { claims as ownClaims } from '../claims/list.ts'
import { loadFile, resolveOwnNames } from '../claims/load.ts'
import { messageOf } from '../claims/message.ts'
import { type DeviceValues, wasmSettings } from './options.ts'
import { beat, endGroup } from './pulse.ts'

export interface WorkerSettings {
  readonly files: readonly string[]
  readonly threads: number
  readonly relaxed: boolean
  readonly simd: DeviceValues['simd']
  readonly precision: DeviceValues['precision']
  /** Whether an adapter that computes on the CPU will do for webgpu. */
  readonly software: boolean
  /** What stands in for our rules; `limit`: seconds in which a program has to answer. */
  readonly implementation?: { readonly what: string; readonly tolerance?: number; readonly limit: number }
}

export type Job = { readonly claim: string; readonly device: Subject; readonly runs: number; readonly seed: number; readonly path?: string }

/** A claim without its functions. `unasked`: why an implementation isn't asked. */
export type ClaimText = Pick<
  Claim,
  'name' | 'section' | 'statement' | 'equation' | 'source' | 'relation' | 'bounds' | 'holds' | 'confidence'
> & { readonly unasked?: string }

/** An implementation by others. */
export interface Implemented {
  readonly name: string
  readonly dtype: FloatType
  readonly tolerance: number
  readonly rules: readonly string[]
}

export interface Loaded {
  readonly claims: readonly ClaimText[]
  readonly problems: readonly string[]
  readonly implementation?: Implemented
}

export type Report =
  | Loaded
  | { readonly verdict: Verdict }
  | { readonly noCase: string }
  /** `at`: what had begun last, and the runs before it: the pulse itself may come after this. */
  | { readonly failure: string; readonly tooLong?: true; readonly at?: readonly [what: string, runs: number] }

const { files, threads, relaxed, simd, precision, software, implementation: chosen } = JSON.parse(process.argv[2]) as WorkerSettings
/** Whose lines errors name. */
const sources = chosen ? [chosen.what] : files
const send = (report: Report, then = () => {}): void => void process.send!(report, then)
const end = (): void => endGroup(process.pid)
/** What is being done. */
let pulse: Parameters<typeof beat> = ['', 0]
const beats = (...what: typeof pulse): void => beat(...(pulse = what))
process.on('disconnect', end)
process.on('SIGINT', () => {}) // Ctrl-C is for the command, which ends this process.
process.on('uncaughtException', (error) => send({ failure: messageOf(error, sources), at: pulse }, end))
Error.stackTraceLimit = 50 // An error of the engine still shows the line of the file that called it.

/** Seconds: a program may load much before its first answer. */
const firstLimit = 60
let implementation: Implementation | undefined

async function load(): Promise<{ claims: readonly Claim[]; problems: string[] }> {
  if (chosen) {
    resolveOwnNames()
    beats(chosen.what, 0)
    const { what, tolerance, limit } = chosen
    try {
      const adapter = await openAdapter(what, { limit, firstLimit: Math.max(limit, firstLimit), alive: () => beat(...pulse) })
      implementation = new Implementation(adapter, tolerance)
      return { claims: [...ownClaims, ...conformanceClaims(implementation)], problems: [] }
    } catch (error) {
      implementation = undefined
      return { claims: [], problems: [messageOf(error)] }
    }
  }
  if (files.length === 0) return { claims: ownClaims, problems: [] }
  resolveOwnNames()
  const claims: Claim[] = []
  const problems: string[] = []
  for (const file of files) {
    beats(file, 0)
    try {
      const found = await loadFile(file)
      checkNames([...claims, ...found])
      claims.push(...found)
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  return { claims, problems }
}

const { claims, problems } = await load()
send({
  problems,
  claims: claims.map((claim) => {
    const { name, section, statement, equation, source, relation, holds, confidence } = claim
    const bounds = implementation?.boundsOf(boundsOf(claim)) ?? boundsOf(claim)
    return { name, section, statement, equation, source, relation, holds, confidence, bounds, unasked: implementation?.unasked(claim) }
  }),
  ...(implementation && {
    implementation: {
      name: implementation.name,
      dtype: implementation.dtype,
      tolerance: implementation.tolerance,
      rules: [...implementation.offers.keys()],
    },
  }),
})

const opened = new Map<Subject, Devices>()
process.on('message', async ({ claim: name, device: kind, ...options }: Job) => {
  pulse = ['', 0]
  try {
    const open = async (): Promise<Devices> =>
      kind === 'implementation'
        ? Devices.around(implementation!)
        : Devices.open(kind, { ...(await wasmSettings({ threads, relaxed, simd })), software, precision })
    const devices = opened.get(kind) ?? (await open())
    opened.set(kind, devices)
    const claim = claims.find((claim) => claim.name === name)!
    send({
      verdict: await check(claim, devices, {
        ...options,
        explain: (error) => messageOf(error, sources),
        onCase: (c, runs) => beats(caseLine(c), runs),
      }),
    })
  } catch (error) {
    if (error instanceof NoSuchCase) send({ noCase: error.message })
    else send({ failure: messageOf(error, sources), at: pulse, ...(error instanceof Broken && error.late && { tooLong: true }) })
  }
})
