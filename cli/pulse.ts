/** How a thread that may be caught in a loop is watched: it says what it begins in shared memory, and the watcher sees whether that moves. */
export class Pulse {
  static readonly bytes = 4096
  private readonly numbers: Int32Array
  private readonly text: Uint8Array
  private readonly encoder = new TextEncoder()

  constructor(memory: SharedArrayBuffer) {
    this.numbers = new Int32Array(memory, 0, 3)
    this.text = new Uint8Array(memory, 12)
  }

  /** In the watched thread: something begins. `runs`: how far it has come. */
  beat(what: string, runs: number): void {
    const { written } = this.encoder.encodeInto(what, this.text)
    Atomics.store(this.numbers, 1, written)
    Atomics.store(this.numbers, 2, runs)
    Atomics.add(this.numbers, 0, 1)
  }

  beats = (): number => Atomics.load(this.numbers, 0)
  runs = (): number => Atomics.load(this.numbers, 2)
  what = (): string => new TextDecoder().decode(this.text.slice(0, Atomics.load(this.numbers, 1)))
}
