/**
 * The worker in the sandbox: the library, and code that may be a stranger's. Its frame has an origin of its own that nothing belongs to, and a policy
 * that lets it fetch nothing; whoever shows what this worker says must take it for what the code says.
 */
import * as engine from 'fastweights'
import * as claims from 'fastweights/claims'
import * as nn from 'fastweights/nn'
import * as tasks from 'fastweights/tasks'
import { checkNames } from '../../dist/claims/claim.js'
import { claimsOf } from '../../dist/claims/exported.js'
import { entries, type Pieces } from './entries.ts'
import type { Job, Message } from './protocol.ts'
import { messageOf, run, textOf } from './run.ts'

// Some browsers isolate the frame as its page is, but there is no file here to start a thread from.
Reflect.deleteProperty(globalThis, 'SharedArrayBuffer')

const send = postMessage.bind(globalThis)
const say = (message: Message): void => send(JSON.stringify(message))

const name = 'your code'
/** What stacks call its file: some browsers don't say the address of a module of no origin. */
const file = 'your-code'
let found: readonly claims.Claim[] = []

const address = (code: string): string => URL.createObjectURL(new Blob([code], { type: 'text/javascript' }))

/** A module for each entry of the package, whose names are those of the library above. */
function shims(): string[] {
  const modules: Record<string, object> = {
    fastweights: engine,
    'fastweights/nn': nn,
    'fastweights/tasks': tasks,
    'fastweights/claims': claims,
  }
  Object.defineProperty(globalThis, 'fastweights', { value: modules })
  return entries.map((entry) =>
    address(`export const { ${Object.keys(modules[entry]).join(', ')} } = fastweights[${JSON.stringify(entry)}]`),
  )
}

async function load(pieces: Pieces): Promise<void> {
  const addresses = shims()
  const code = pieces.map((piece) => (typeof piece === 'number' ? addresses[piece] : piece)).join('')
  /** With the line of the code, where it is known. */
  const explain = (error: unknown): string => {
    const line = error instanceof Error ? error.stack?.match(`${file}:(\\d+)`)?.[1] : undefined
    const kind = error instanceof Error && error.name !== 'Error' && error.name !== 'ClaimError' ? `${error.name}: ` : ''
    return `${kind}${messageOf(error)}${line === undefined ? '' : ` (line ${line})`}`
  }
  try {
    const exported = await import(address(`${code}\n//# sourceURL=${file}`))
    found = checkNames(await claimsOf(exported, name, explain))
    say({ kind: 'claims', claims: found.map(textOf) })
  } catch (error) {
    say({ kind: 'failure', message: explain(error) })
  }
}

addEventListener('message', ({ data }: { data: { pieces: Pieces } | { job: Job } }) => {
  if ('pieces' in data) void load(data.pieces)
  else void run(found, data.job, say)
})
