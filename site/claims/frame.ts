/**
 * The sandboxed frame's only script: starts the worker, and passes on what it says, as long as that is no flood. The frame's page is made by
 * frame.mjs; the one around it is the only one it listens to.
 */

/** What is asked of the worker may have so many messages for an answer: a few to load, some for each case of a claim (a false one may have 1,000). */
const budget = (asked: { job?: { runs: number } }): number => (asked.job ? 3 * Math.max(asked.job.runs, 1000) + 1000 : 10)
/** And each so many characters. */
const longest = 1_000_000

addEventListener('message', function begin({ source, data, ports: [port] }: MessageEvent) {
  if (source !== parent || !port) return
  removeEventListener('message', begin)
  // Chromium starts no module from a text in a frame of no origin.
  const worker = new Worker(URL.createObjectURL(new Blob([data.library], { type: 'text/javascript' })))
  let left = 0
  const fail = (message: string): void => {
    worker.onmessage = null
    worker.terminate()
    port.postMessage(JSON.stringify({ kind: 'failure', message }))
  }
  worker.onmessage = ({ data: text }) => {
    if (typeof text !== 'string') return
    if (left-- <= 0 || text.length > longest) fail('the code says more than it was asked, and was ended')
    else port.postMessage(text)
  }
  worker.onerror = (event) => {
    event.preventDefault()
    fail(event.message || "the worker didn't start")
  }
  port.onmessage = ({ data }) => {
    left = budget(data)
    worker.postMessage(data)
  }
})
