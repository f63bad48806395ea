/** Files that bring claims, as modules of Node. */
import { existsSync, readFileSync } from 'node:fs'
import module from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { encodingOf } from '../nn/foreign.ts'
import { type Claim, ClaimError } from './claim.ts'
import { claimsOf } from './exported.ts'
import { messageOf } from './message.ts'

/** The entry points of this package, by the names that a file imports; from a chunk of dist/node, too. */
const entries = {
  fastweights: '../engine/index.js',
  'fastweights/nn': '../nn/index.js',
  'fastweights/tasks': '../tasks/index.js',
  'fastweights/claims': '../claims/index.js',
}

type Resolve = (name: string, context: unknown, next: (name: string, context: unknown) => unknown) => unknown
/** Since Node 22.15 and 23.5, later than our types. */
const { registerHooks } = module as { registerHooks?: (hooks: { resolve: Resolve }) => unknown }

/** From now on these names mean this very copy of the package, wherever a file that imports them lies: its tensors must be ours. */
export function resolveOwnNames(): void {
  const own: Record<string, string> = Object.fromEntries(
    Object.entries(entries).map(([name, path]) => [name, new URL(path, import.meta.url).href]),
  )
  const resolve: Resolve = (name, context, next) =>
    Object.hasOwn(own, name) ? { url: own[name], shortCircuit: true } : next(name, context)
  if (registerHooks) {
    registerHooks({ resolve })
    return
  }
  // Older hooks run on a thread of their own, so they come as a module, made of the same function.
  const hooks = `const own = ${JSON.stringify(own)}\nexport const resolve = ${resolve}`
  module.register(`data:text/javascript,${encodeURIComponent(hooks)}`)
}

/** The claims of a file: see `claimsOf`. */
export async function loadFile(file: string): Promise<Claim[]> {
  const fail = (what: string): never => {
    throw new ClaimError(`${file}: ${what}`)
  }
  if (!existsSync(file)) fail('no such file')
  let exported: Record<string, unknown>
  try {
    exported = await import(pathToFileURL(resolve(file)).href)
  } catch (error) {
    const encoding = error instanceof SyntaxError ? encodingOf(readFileSync(file)) : undefined
    if (encoding !== undefined) fail(`can't be loaded: it is in ${encoding.name}, not in UTF-8`)
    const kind = error instanceof Error && error.name !== 'Error' ? `${error.name}: ` : ''
    return fail(`can't be loaded: ${kind}${messageOf(error, [file])}`)
  }
  return claimsOf(exported, file, (error) => messageOf(error, [file]))
}
