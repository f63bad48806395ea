/** The page's side of the sandbox: a frame of an origin of its own, without storage, network or the page around it, and a worker in it. */
import { type Place, Stopped } from './checker.ts'
import type { Pieces } from './entries.ts'
import { type ClaimText, type Job, type Message, messageIn } from './protocol.ts'

/** The library, as text: the frame can't fetch it. */
let library: Promise<string> | undefined
const libraryText = (): Promise<string> =>
  (library ??= fetch(new URL('./claims-sandbox.js', import.meta.url)).then((response) => {
    if (!response.ok) throw new Error(`the library can't be loaded: ${response.status}`)
    return response.text()
  }))

export class Sandbox implements Place {
  hear: (message: Message) => void = () => {}
  closed = false
  private readonly frame: HTMLIFrameElement
  private readonly port: MessagePort

  private constructor(frame: HTMLIFrameElement, port: MessagePort) {
    this.frame = frame
    this.port = port
    port.onmessage = ({ data }) => {
      const message = messageIn(data)
      if (message) this.hear(message)
    }
  }

  /** `place`: where the frame goes in the page, and where the text of its page is; nobody sees it. */
  static async open(place: HTMLElement): Promise<Sandbox> {
    const text = await libraryText()
    const frame = document.createElement('iframe')
    frame.setAttribute('sandbox', 'allow-scripts')
    frame.title = 'Sandbox'
    frame.hidden = true
    frame.srcdoc = place.dataset.frame!
    const loaded = new Promise((resolve) => frame.addEventListener('load', resolve, { once: true }))
    place.append(frame)
    await loaded
    const { port1, port2 } = new MessageChannel()
    // Its origin has no name that could stand here; what is sent is no secret.
    frame.contentWindow!.postMessage({ library: text }, '*', [port2])
    return new Sandbox(frame, port1)
  }

  /** The claims that the code exports; rejects where it can't be loaded, takes longer than `limit` milliseconds, or, with Stopped, where `signal` says so. */
  load(pieces: Pieces, limit: number, signal: AbortSignal): Promise<readonly ClaimText[]> {
    return new Promise((resolve, reject) => {
      const end = (error: Error): void => {
        clearTimeout(timer)
        this.close()
        reject(error)
      }
      const timer = setTimeout(() => end(new Error(`the code took longer than ${limit / 1000} s to load, and was ended`)), limit)
      // It may have said so while the frame was opened.
      const stop = (): void => end(new Stopped('stopped'))
      if (signal.aborted) return stop()
      signal.addEventListener('abort', stop, { once: true })
      this.hear = (message) => {
        if (message.kind === 'failure') end(new Error(message.message))
        if (message.kind !== 'claims') return
        clearTimeout(timer)
        resolve(message.claims)
      }
      this.port.postMessage({ pieces })
    })
  }

  send = (job: Job): void => this.port.postMessage({ job })
  close(): void {
    this.closed = true
    this.port.close()
    this.frame.remove()
  }
}
