/**
 * Who frees what. Device memory isn't garbage-collected, so a step runs inside `scope(() => ...)`: on the way out every tensor
 * made inside is freed, except the ones returned (they pass to the enclosing scope) and the ones kept (parameters, optimiser
 * state). The gradient of a parameter lives as long as no scope would free the parameter itself. A tensor made outside any scope lives until `dispose()`.
 */

export interface Scoped {
  kept: boolean
  dispose(): void
  /** Called before it outlives what it may have been going to be computed from. */
  settle?(): void
}

const scopes: Set<Scoped>[] = []

/** Puts a new object into the innermost scope, if there is one. */
export function enroll(object: Scoped): void {
  scopes.at(-1)?.add(object)
}

/** What the innermost scope is going to free. */
export const innermost = (): Iterable<Scoped> => scopes.at(-1) ?? []

/** Puts an object where another one is: into its scope, so that both are freed together; into none if that is in none. */
export function enrollBeside(object: Scoped, other: Scoped): void {
  const home = other.kept ? undefined : scopes.findLast((scope) => scope.has(other))
  object.kept = !home
  home?.add(object)
}

/** Exempts a tensor from every scope: from now on only `dispose()` frees it. */
export function keep<T extends Scoped>(object: T): T {
  object.kept = true
  object.settle?.()
  return object
}

/**
 * Runs `body` and frees the tensors it made, except those reachable in its result through arrays, Maps and plain objects.
 * `body` must not be asynchronous: return tensors and `await tensor.read()` outside. Ops that are composed of others leave their
 * temporaries to the enclosing scope, so inference belongs into one too: `scope(() => noGrad(() => ...))`.
 */
export function scope<R>(body: () => R): R {
  const own = new Set<Scoped>()
  scopes.push(own)
  let left = new Set<Scoped>()
  try {
    const result = body()
    checkSynchronous('scope', result)
    left = reachable(result, own)
    for (const object of left) object.settle?.()
    return result
  } finally {
    scopes.pop()
    const outer = scopes.at(-1)
    for (const object of left) {
      own.delete(object)
      outer?.add(object)
    }
    for (const object of own) if (!object.kept) object.dispose()
  }
}

/** A body that is asynchronous would go on after what surrounds it has ended. */
export function checkSynchronous(op: string, result: unknown): void {
  if (!(result instanceof Promise)) return
  result.catch(() => {})
  throw new Error(`${op}: the body is asynchronous; return the tensors and await read() outside`)
}

/** Those of `own` to which arrays, Maps and plain objects in `value` lead, in that order. */
export function reachable<T extends Scoped>(value: unknown, own: ReadonlySet<T>, found = new Set<T>(), seen = new Set<object>()): Set<T> {
  if (typeof value !== 'object' || value === null || seen.has(value)) return found
  seen.add(value)
  if (own.has(value as unknown as T)) found.add(value as unknown as T)
  else if (Array.isArray(value) || value instanceof Set) for (const v of value) reachable(v, own, found, seen)
  else if (value instanceof Map) for (const v of value.values()) reachable(v, own, found, seen)
  else if (Object.getPrototypeOf(value) === Object.prototype) for (const v of Object.values(value)) reachable(v, own, found, seen)
  return found
}
