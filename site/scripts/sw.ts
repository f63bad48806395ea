/**
 * The service worker. It keeps the files of one version of the site together, answers from them, and adds the headers that let a page share
 * memory between threads. A new version is kept beside the old one, and answers once no page of the old one is open. Pages of api/ and source/
 * come from the newest deployment until they have been read once.
 */
declare const FILES: readonly string[]
declare const VERSION: string

interface Lasting extends Event {
  waitUntil(what: Promise<unknown>): void
}
interface Fetch extends Lasting {
  readonly request: Request
  respondWith(response: Promise<Response>): void
}
const scope = self as unknown as {
  registration: { scope: string }
  addEventListener(name: 'install' | 'activate', listener: (event: Lasting) => void): void
  addEventListener(name: 'fetch', listener: (event: Fetch) => void): void
}

/** Of this place: other sites may share its origin. */
const prefix = `fastweights ${scope.registration.scope} `
const kept = prefix + VERSION
const home = scope.registration.scope
const missing = new URL('404.html', home).href

const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
}

function isolated(response: Response): Response {
  // A redirect, which the browser follows itself.
  if (response.status === 0) return response
  const { body, status, statusText } = response
  const copy = new Response(status === 204 || status === 304 ? null : body, { status, statusText, headers: response.headers })
  for (const [header, value] of Object.entries(headers)) copy.headers.set(header, value)
  return copy
}

async function answer(event: Fetch): Promise<Response> {
  const { request } = event
  const cache = await caches.open(kept)
  const own = await cache.match(request, { ignoreSearch: true, ignoreVary: true })
  if (own) return isolated(own)
  let response: Response
  try {
    response = await fetch(request)
  } catch (error) {
    if (request.mode !== 'navigate') throw error
    // Servers lead from a folder's name to its page; offline nobody else does.
    const { origin, pathname } = new URL(request.url)
    if (await cache.match(`${origin}${pathname}/`)) return Response.redirect(`${origin}${pathname}/`)
    const page = await cache.match(missing)
    if (!page) throw error
    return isolated(new Response(page.body, { status: 404, headers: page.headers }))
  }
  // A part of a file can't be kept. Nor can anything where there is no room left, and the answer is good all the same.
  if (response.status === 200 && !response.redirected) event.waitUntil(cache.put(request, response.clone()).catch(() => {}))
  return isolated(response)
}

async function install(): Promise<void> {
  const cache = await caches.open(kept)
  // All of this version, past what the browser holds of an older one.
  await cache.addAll(FILES.map((path) => new Request(new URL(path, home), { cache: 'reload' })))
}

async function activate(): Promise<void> {
  for (const other of await caches.keys()) if (other.startsWith(prefix) && other !== kept) await caches.delete(other)
}

scope.addEventListener('install', (event) => event.waitUntil(install()))
scope.addEventListener('activate', (event) => event.waitUntil(activate()))
scope.addEventListener('fetch', (event) => {
  const { method, url } = event.request
  if (method === 'GET' && url.startsWith(home)) event.respondWith(answer(event))
})
