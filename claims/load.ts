/** The claims of this package, and those that files bring: claims of their own, and what every rule must fulfil for rules of their own. */
import { existsSync } from 'node:fs'
import module from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Claim, ClaimError, checkClaim } from './claim.ts'
import { familyClaims } from './family.ts'
import { checkRule, type OwnRule } from './rule.ts'

/** The entry points of this package, by the names that a file imports. */
const entries = {
  fastweights: '../engine/index.js',
  'fastweights/nn': '../nn/index.js',
  'fastweights/tasks': '../tasks/index.js',
  'fastweights/claims': './index.js',
}

/**
 * From now on these names mean this very copy of the package, wherever a file that imports them lies: its tensors must be ours.
 * (Module hooks run on a thread of their own, so they come as a module.)
 */
export function resolveOwnNames(): void {
  const own = Object.fromEntries(Object.entries(entries).map(([name, path]) => [name, new URL(path, import.meta.url).href]))
  const hooks = `let own
export const initialize = (data) => { own = data }
export const resolve = (name, context, next) => (Object.hasOwn(own, name) ? { url: own[name], shortCircuit: true } : next(name, context))`
  module.register(`data:text/javascript,${encodeURIComponent(hooks)}`, { data: own })
}

/** The claims of a module: `claims` and `rules`, each an array or an object of them, exported by name or within the default export. */
export async function loadFile(file: string): Promise<Claim[]> {
  const fail = (what: string): never => {
    throw new ClaimError(`${file}: ${what}`)
  }
  if (!existsSync(file)) fail('no such file')
  let exported: Record<string, unknown> & { default?: unknown }
  try {
    exported = await import(pathToFileURL(resolve(file)).href)
  } catch (error) {
    return fail(
      `can't be loaded: ${error instanceof Error ? `${error.name === 'Error' ? '' : `${error.name}: `}${error.message}` : String(error)}`,
    )
  }
  const inside = typeof exported.default === 'object' && exported.default !== null ? (exported.default as Record<string, unknown>) : {}
  const list = (name: 'claims' | 'rules'): unknown[] => {
    const found = exported[name] ?? inside[name]
    if (found === undefined) return []
    if (typeof found !== 'object' || found === null)
      return fail(`'${name}' must be an array or an object, not ${found === null ? 'null' : typeof found}`)
    return Object.values(found)
  }
  const [claims, rules] = [list('claims'), list('rules')]
  if (claims.length + rules.length === 0) fail("exports neither 'claims' nor 'rules'")
  return [
    ...rules.flatMap((rule, i) => familyClaims(checkRule(rule as OwnRule, nameOf(file, 'rules', rule, i)))),
    ...claims.map((claim, i) => checkClaim(claim as Claim, nameOf(file, 'claims', claim, i))),
  ]
}

const nameOf = (file: string, what: string, value: unknown, i: number): string => {
  const name = (value as { name?: unknown } | null)?.name
  return `${file}: ${typeof name === 'string' ? `'${name}'` : `${what}[${i}]`}`
}
