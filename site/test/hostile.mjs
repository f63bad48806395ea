/** What a stranger's code may try: code that wants to get out, and a server elsewhere that counts who has come. */
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

/** Such a server. `asked`: how often it was; `code`: tries all there is, to reach it, the site and what the browser keeps, and throws what it has reached. */
export async function elsewhere() {
  const there = { asked: 0 }
  const server = createServer((request, response) => {
    there.asked++
    const events = request.headers.accept === 'text/event-stream'
    response.setHeader('Access-Control-Allow-Origin', '*')
    response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin')
    response.setHeader('Content-Type', events ? 'text/event-stream' : 'text/javascript')
    response.end(events ? 'data: 1\n\n' : 'postMessage(1)')
  })
  new WebSocketServer({ server }).on('connection', () => there.asked++)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  // However a test ends, the run of the tests must.
  server.unref()
  const url = `http://localhost:${server.address().port}/`
  const code = (site) => `
const there = '${url}', here = '${site}from-the-sandbox'
const opens = (make) => new Promise((resolve, reject) => { const it = make(); it.onopen = it.onsuccess = it.onload = it.onmessage = resolve; it.onerror = reject; setTimeout(reject, 1500, new Error('silence')) })
const tries = {
  fetch: () => fetch(there), 'fetch, without an answer': () => fetch(there, { mode: 'no-cors' }), 'fetch of the site': () => fetch(here),
  request: () => opens(() => { const r = new XMLHttpRequest(); r.open('GET', there); r.send(); return r }),
  socket: () => opens(() => new WebSocket(there.replace('http', 'ws'))),
  events: () => opens(() => new EventSource(there)),
  import: () => import(there + 'module.js'),
  script: () => importScripts(there + 'script.js'),
  worker: () => opens(() => new Worker(there + 'worker.js')),
  'a worker in it': () => opens(() => new Worker(URL.createObjectURL(new Blob(["fetch('" + there + "').then(() => postMessage(1), () => {})"])))),
  page: () => opens(() => { const channel = new BroadcastChannel('here'); channel.postMessage('?'); return channel }),
  database: () => opens(() => indexedDB.open('x')),
  caches: () => caches.open('x'),
  files: () => navigator.storage.getDirectory(),
}
const reached = []
for (const [name, attempt] of Object.entries(tries)) try { await attempt(); reached.push(name) } catch {}
throw new Error('reached ' + (reached.length === Object.keys(tries).length ? 'all' : reached.join(', ') || 'nothing') + ' from ' + origin + (crossOriginIsolated ? ', isolated' : ''))`
  return Object.assign(there, { url, code })
}
