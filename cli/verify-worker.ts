/**
 * The process that checks claims: it loads them (a claim is code, and can't be sent), says what there is, and then does what it is told. The
 * command watches its pulse, and ends it if a case doesn't end. It isn't a thread, because a thread that ends with a GPU open takes the
 * whole command with it.
 */
import { caseLine, check, NoSuchCase, type Verdict } from '../claims/check.ts'
import { boundsOf, type Claim, checkNames } from '../claims/claim.ts'
import { Devices, type Kind } from '../claims/context.ts'
import { claims as ownClaims } from '../claims/list.ts'
import { loadFile, resolveOwnNames } from '../claims/load.ts'
import { messageOf } from '../claims/message.ts'
import { type DeviceValues, wasmSettings } from './options.ts'
import { beat } from './pulse.ts'

export interface WorkerSettings {
  readonly files: readonly string[]
  readonly threads: number
  readonly relaxed: boolean
  readonly simd: DeviceValues['simd']
  /** Whether an adapter that computes on the CPU will do for webgpu. */
  readonly software: boolean
}

export type Job = { readonly claim: string; readonly device: Kind; readonly runs: number; readonly seed: number; readonly path?: string }

/** A claim without its functions. */
export type ClaimText = Pick<
  Claim,
  'name' | 'section' | 'statement' | 'equation' | 'source' | 'relation' | 'bounds' | 'holds' | 'confidence'
>

export type Report =
  | { readonly claims: readonly ClaimText[]; readonly problems: readonly string[] }
  | { readonly verdict: Verdict }
  | { readonly noCase: string }
  | { readonly failure: string; readonly tooLong?: true }

const { files, threads, relaxed, simd, software } = JSON.parse(process.argv[2]) as WorkerSettings
const send = (report: Report, then = () => {}): void => void process.send!(report, then)
const end = (): void => void process.kill(process.pid, 'SIGKILL')
process.on('disconnect', end)
process.on('SIGINT', () => {}) // Ctrl-C is for the command, which ends this process.
process.on('uncaughtException', (error) => send({ failure: messageOf(error, files) }, end))
Error.stackTraceLimit = 50 // An error of the engine still shows the line of the file that called it.

async function load(): Promise<{ claims: readonly Claim[]; problems: string[] }> {
  if (files.length === 0) return { claims: ownClaims, problems: [] }
  resolveOwnNames()
  const claims: Claim[] = []
  const problems: string[] = []
  for (const file of files) {
    beat(file, 0)
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
    return { name, section, statement, equation, source, relation, holds, confidence, bounds: boundsOf(claim) }
  }),
})

const opened = new Map<Kind, Devices>()
process.on('message', async ({ claim: name, device: kind, ...options }: Job) => {
  try {
    const devices = opened.get(kind) ?? (await Devices.open(kind, { ...(await wasmSettings({ threads, relaxed, simd })), software }))
    opened.set(kind, devices)
    const claim = claims.find((claim) => claim.name === name)!
    send({
      verdict: await check(claim, devices, {
        ...options,
        explain: (error) => messageOf(error, files),
        onCase: (c, runs) => beat(caseLine(c), runs),
      }),
    })
  } catch (error) {
    send(error instanceof NoSuchCase ? { noCase: error.message } : { failure: messageOf(error, files) })
  }
})
