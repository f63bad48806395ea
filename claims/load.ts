/** The claims of this package, and those that files bring: claims of their own, and what every rule must fulfil for rules of their own. */
import { existsSync, readFileSync } from 'node:fs'
import module from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { scope } from '../engine/index.ts'
import { encodingOf } from '../nn/foreign.ts'
import { type Case, type Claim, ClaimError, checkClaim } from './claim.ts'
import { Devices, Draws, withDevice } from './context.ts'
import { familyClaims } from './family.ts'
import { messageOf } from './message.ts'
import { checkRule, type FamilyRule, type OwnRule } from './rule.ts'
import { drawInputs, drawState, runner } from './sides.ts'

/** The entry points of this package, by the names that a file imports. */
const entries = {
  fastweights: '../engine/index.js',
  'fastweights/nn': '../nn/index.js',
  'fastweights/tasks': '../tasks/index.js',
  'fastweights/claims': './index.js',
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
    const encoding = error instanceof SyntaxError ? encodingOf(readFileSync(file)) : undefined
    if (encoding !== undefined) fail(`can't be loaded: it is in ${encoding.name}, not in UTF-8`)
    const kind = error instanceof Error && error.name !== 'Error' ? `${error.name}: ` : ''
    return fail(`can't be loaded: ${kind}${messageOf(error, [file])}`)
  }
  const inside = typeof exported.default === 'object' && exported.default !== null ? (exported.default as Record<string, unknown>) : {}
  const list = (name: 'claims' | 'rules'): unknown[] => {
    const found = exported[name] ?? inside[name]
    if (found === undefined) return []
    if (inside[name] !== undefined && inside[name] !== found)
      return fail(
        `exports two different '${name}', one by name and one within the default export: keep one, or the other would never be checked`,
      )
    const kind = found === null ? 'null' : typeof found === 'object' ? (found.constructor?.name ?? 'Object') : typeof found
    // Of a Map, a Set or a promise `Object.values` sees nothing.
    if (!Array.isArray(found) && kind !== 'Object') return fail(`'${name}' must be an array or an object, not ${kind}`)
    const values = Object.values(found as object)
    return values.length === 0 ? fail(`'${name}' is empty: there is nothing to check`) : values
  }
  const [claims, rules] = [list('claims'), list('rules')]
  if (claims.length + rules.length === 0) fail("exports neither 'claims' nor 'rules'")
  const ofRules: Claim[] = []
  for (const [i, rule] of rules.entries()) {
    const where = nameOf(file, 'rules', rule, i)
    const checked = checkRule(rule as OwnRule, where)
    await tryStep(checked, file, where)
    ofRules.push(...familyClaims(checked))
  }
  return [...ofRules, ...claims.map((claim, i) => checkClaim(claim as Claim, nameOf(file, 'claims', claim, i)))]
}

/** One token of small sizes, so that a step (or a map of inputs) that can't work is one message and not one a claim. */
async function tryStep(rule: FamilyRule, file: string, where: string): Promise<void> {
  const devices = await Devices.open('reference')
  const c = { B: 1, T: 1, H: 1, K: 2, V: 3, N: 2, look: 'normal', seed: 1, initial: true } as unknown as Case
  try {
    const context = new Draws(c, devices).context()
    withDevice(devices.device, () =>
      scope(() => {
        const inputs = drawInputs(rule, c, context)
        runner(rule, 'step')(inputs, drawState(rule, c, context))
        rule.equals?.inputs(inputs)
      }),
    )
  } catch (error) {
    throw error instanceof ClaimError ? error : new ClaimError(`${where}: step: ${messageOf(error, [file])}`)
  }
}

const nameOf = (file: string, what: string, value: unknown, i: number): string => {
  const name = (value as { name?: unknown } | null)?.name
  return `${file}: ${typeof name === 'string' ? `'${name}'` : `${what}[${i}]`}`
}
