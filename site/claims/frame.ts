/**
 * The sandboxed frame's only script: starts the worker, and passes on what it says, as long as that is no flood. The frame's page is made by
 * frame.11ty.mjs; the one around it is the only one it listens to.
 */

/** Of what the worker says in a second. */
const most = { messages: 20_000, characters: 20_000_000 }

addEventListener('message', function begin({ source, data, ports: [port] }: MessageEvent) {
  if (source !== parent || !port) return
  removeEventListener('message', begin)
  // Chromium starts no module from a text in a frame of no origin.
  const worker = new Worker(URL.createObjectURL(new Blob([data.library], { type: 'text/javascript' })))
  const fail = (message: string): void => {
    worker.terminate()
    port.postMessage(JSON.stringify({ kind: 'failure', message }))
  }
  let since = 0
  let said = { messages: 0, characters: 0 }
  worker.onmessage = ({ data: text }) => {
    if (typeof text !== 'string') return
    const now = performance.now()
    if (now - since > 1000) {
      since = now
      said = { messages: 0, characters: 0 }
    }
    said.messages++
    said.characters += text.length
    if (said.messages > most.messages || said.characters > most.characters) fail('the code says more than a page can take, and was ended')
    else port.postMessage(text)
  }
  worker.onerror = (event) => {
    event.preventDefault()
    fail(event.message || "the worker didn't start")
  }
  port.onmessage = ({ data }) => worker.postMessage(data)
})
