/**
 * Vectors of 256 bits. WebAssembly has 128; V8 can merge neighbouring operations in pairs (its flag --experimental-wasm-revectorize, in Node
 * from 23.5, x64 alone), and kernels-wasm/ is written so that it does. Results are the same bits. Tested in test/ops/wide.test.ts.
 */
import { inNode } from '../../platform.ts'
import { matmulKernels } from './matmul.ts'
import { createPool, type Pool, setWide } from './pool.ts'

/** Whether wasm devices opened from now on compute with vectors of 256 bits. */
export interface WideSimd {
  /** Whether they do. */
  wide: boolean
  /** Why, or why not, in a line. */
  why: string
}

const flag = 'experimental-wasm-revectorize'
/** Size of the product that is tried, the milliseconds of processor time it may take, and how many times faster it has to be. */
const n = 96,
  patience = 50,
  worthwhile = 1.2

let asked: Promise<WideSimd> | undefined

/**
 * Has V8 merge pairs of 128-bit vectors, once for the whole process, and says whether that helps: devices opened by wasmDevice afterwards
 * use it, unless told `wide: false`. It sets a flag of V8, which no library should do unasked, and tries a product at both widths (some 0.1
 * s): it stays at 128 bits where that isn't faster (unless `insist`), or not the same to the bit. Never throws. The first call decides.
 */
export function enableWideSimd({ insist = false }: { insist?: boolean } = {}): Promise<WideSimd> {
  asked ??= enable(insist).catch((error: Error) => ({ wide: false, why: `the trial failed: ${error.message}` }))
  return asked
}

async function enable(insist: boolean): Promise<WideSimd> {
  const not = (why: string): WideSimd => ({ wide: false, why })
  if (!inNode) return not("a page can't set the flags of V8")
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 23 || (major === 23 && minor < 5)) return not(`V8 merges vectors from Node 23.5 on, and this is ${process.version}`)
  if (process.arch !== 'x64') return not(`V8 merges vectors on x64 alone, and this is ${process.arch}`)
  const { setFlagsFromString } = await import('node:v8')
  const narrow = await Trial.open(false)
  try {
    await narrow.repeat(patience / 5)
    setFlagsFromString(`--${flag}`)
    const wide = await Trial.open(true)
    let decided = false
    try {
      // Only optimised code is merged, and that takes a while to appear.
      let ratio = 0
      const begin = process.cpuUsage()
      const spent = (): number => {
        const { user, system } = process.cpuUsage(begin)
        return (user + system) / 1000
      }
      for (const end = performance.now() + 20 * patience; ratio < worthwhile && spent() < patience && performance.now() < end; ) {
        await wide.repeat(1)
        await narrow.repeat(1)
        ratio = narrow.fastest / wide.fastest
      }
      const times = `a product ${ratio.toFixed(1)} times as fast as with 128`
      if (!wide.result().every((x, i) => Object.is(x, narrow.result()[i]))) return not('a product came out with other bits')
      if (ratio < worthwhile && !insist) return not(times)
      decided = true
      setWide()
      return { wide: true, why: times }
    } finally {
      if (!decided) setFlagsFromString(`--no-${flag}`)
      wide.close()
    }
  } finally {
    narrow.close()
  }
}

/** A product of two n x n matrices on a device of its own. */
class Trial {
  fastest = Infinity
  private constructor(
    private pool: Pool,
    private blocks = [0, 1, 2].map(() => pool.memory.allocate(4 * n * n)),
    private matmul = matmulKernels(pool).matmul,
  ) {
    const values = Float32Array.from({ length: n * n }, (_, i) => Math.sin(i))
    for (const block of blocks) pool.memory.float32(block, n * n).set(values)
  }

  static async open(wide: boolean): Promise<Trial> {
    return new Trial(await createPool({ threads: 1, wide, trial: true, maximumPages: 64 }))
  }

  /** For so long, and as long again for the threads that optimise. */
  async repeat(milliseconds: number): Promise<void> {
    const [a, b, c] = this.blocks
    const sizes = {
      batch: 1,
      strideA: 0,
      strideB: 0,
      M: n,
      N: n,
      K: n,
      transposeA: false,
      transposeB: false,
      sparse: false,
      accumulate: false,
    }
    for (const end = performance.now() + milliseconds; performance.now() < end; ) {
      const start = performance.now()
      for (let i = 0; i < 4; i++) this.matmul(a, b, null, c, { ...sizes, activation: null })
      this.fastest = Math.min(this.fastest, performance.now() - start)
    }
    await new Promise((resolve) => setTimeout(resolve, milliseconds))
  }

  result(): Float32Array {
    return this.pool.memory.float32(this.blocks[2], n * n)
  }

  close(): void {
    this.pool.close()
  }
}
