/** What stands under the wasm device: its allocator, its threads, and that the matrix product is the same on any number of them. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import fc from 'fast-check'
import type { MatmulSizes } from '../../engine/devices/kernels.ts'
import { fastWeightKernels } from '../../engine/devices/wasm/fast-weights.ts'
import { matmulKernels } from '../../engine/devices/wasm/matmul.ts'
import { type Block, createMemory } from '../../engine/devices/wasm/memory.ts'
import { place, type Stay } from '../../engine/devices/wasm/plan.ts'
import { createPool, type Pool, relaxedAvailable } from '../../engine/devices/wasm/pool.ts'
import { program, random, uniforms, withoutSharedMemory } from '../helpers.ts'

describe('wasm memory', () => {
  it('hands out aligned blocks that never overlap, and counts what was asked for', () => {
    const action = fc.oneof(fc.nat({ max: 300 }), fc.nat({ max: 200_000 }))
    fc.assert(
      fc.property(fc.array(fc.tuple(action, fc.boolean(), fc.nat()), { maxLength: 120 }), (actions) => {
        const memory = createMemory(256)
        const live: Block[] = []
        for (const [bytes, release, which] of actions) {
          if (release && live.length > 0) memory.free(live.splice(which % live.length, 1)[0])
          else live.push(memory.allocate(bytes))
          const sorted = [...live].sort((x, y) => x.pointer - y.pointer)
          for (const [i, { pointer, bytes }] of sorted.entries()) {
            assert.ok(pointer >= 65536 && pointer % 64 === 0)
            assert.ok(pointer + bytes <= (sorted[i + 1]?.pointer ?? memory.bytesReserved()))
          }
          assert.equal(
            memory.bytesInUse(),
            live.reduce((sum, block) => sum + block.bytes, 0),
          )
        }
      }),
    )
  })

  it('reuses what was freed, in any size', () => {
    const memory = createMemory(512)
    const round = (bytes: number, count: number) => {
      const blocks = Array.from({ length: count }, () => memory.allocate(bytes))
      for (const block of blocks) memory.free(block)
    }
    round(10_000, 2000)
    const reserved = memory.bytesReserved()
    for (let i = 0; i < 100; i++) round(10_000, 2000)
    assert.equal(memory.bytesReserved(), reserved)
    round(30_000_000, 1)
    round(64, 100_000)
    round(30_000_000, 1)
    assert.equal(memory.bytesInUse(), 0)
  })

  it('says what is in use when there is no more, and goes on', () => {
    const memory = createMemory(64)
    memory.allocate(1000)
    const block = memory.allocate(2 ** 21)
    const message =
      'wasm: out of memory: asked for 3 MB, 2 MB of 4 MB in use in 2 blocks (run each step inside scope(), or use a smaller batch)'
    assert.throws(() => memory.allocate(3 * 2 ** 20), { message })
    memory.free(block)
    memory.free(memory.allocate(3 * 2 ** 20))
  })

  it('says where what is free is in pieces, and takes a piece whole that a size class would not fit', () => {
    const memory = createMemory(64)
    const mega = 2 ** 20
    const [low, middle, high] = [1, 0.25, 2].map((n) => memory.allocate(n * mega))
    memory.free(low)
    memory.free(high)
    const message =
      'wasm: out of memory: asked for 3 MB, 256 kB of 4 MB in use in 1 block; 3.7 MB are free, but the largest free piece has 2.7 MB: blocks in use lie between the free pieces, which is fragmentation (make what is large before what stays, run each step inside scope(), or use a smaller batch)'
    assert.throws(() => memory.allocate(3 * mega), { message })
    // 2.6875 MB are free at the end, which is in the class of 2.75.
    const rest = 64 * 65536 - 65536 - 1.25 * mega
    const whole = memory.allocate(rest)
    const again = memory.allocate(mega)
    assert.deepEqual([again.pointer, whole.pointer], [low.pointer, high.pointer])
    for (const block of [middle, whole, again]) memory.free(block)
    memory.free(memory.allocate(3 * mega))
    assert.equal(memory.bytesInUse(), 0)
  })

  it('joins free neighbours before it gives up', () => {
    const memory = createMemory(64)
    const blocks = Array.from({ length: 63 }, () => memory.allocate(65536))
    for (const [i, block] of blocks.entries()) if (i % 2 === 0) memory.free(block)
    assert.throws(() => memory.allocate(65537), /in use in 31 blocks; 2 MB are free, but the largest free piece has 64 kB: /)
    for (const [i, block] of blocks.entries()) if (i % 2 === 1 && i > 1) memory.free(block)
    const large = memory.allocate(61 * 65536)
    assert.equal(large.pointer, blocks[2].pointer)
    assert.deepEqual([memory.bytesInUse(), memory.bytesReserved()], [62 * 65536, 64 * 65536])
  })

  it('refuses to free a block twice, or one of another memory', () => {
    const memory = createMemory(64)
    const block = memory.allocate(100)
    memory.free(block)
    assert.throws(() => memory.free(block), /freed twice/)
    const other = createMemory(64).allocate(100)
    memory.allocate(100)
    assert.throws(() => memory.free(other), /not of this device/)
    assert.throws(() => createMemory(0), /maximumPages/)
  })

  it('places what is needed at different times over each other, in what is free, and nothing else', () => {
    const times = fc.tuple(fc.nat({ max: 20 }), fc.nat({ max: 12 }), fc.integer({ min: 1, max: 5000 }))
    fc.assert(
      fc.property(fc.array(times, { minLength: 1, maxLength: 40 }), fc.array(fc.nat({ max: 60 }), { maxLength: 6 }), (lives, others) => {
        const memory = createMemory(256)
        const kept = others.map((n) => [memory.allocate(64 * n), memory.allocate(5000 * n)])
        for (const [, gap] of kept) memory.free(gap)
        const stays = lives.map(([from, length, n]) => ({ from, to: from + length + 1, size: 64 * n, at: 0, end: 0 }))
        place(stays, memory.taken())
        const held = memory.claim(stays.map(({ at, end }) => [at, end]))
        const blocks = [...kept.map(([block]) => block), ...held]
        for (const [i, a] of stays.entries()) {
          assert.ok(a.at >= 65536 && a.at % 64 === 0 && a.end === a.at + a.size && a.end <= memory.bytesReserved())
          assert.ok(held.some(({ pointer, bytes }) => pointer <= a.at && a.end <= pointer + bytes))
          for (const b of stays.slice(i + 1)) assert.ok(a.to <= b.from || b.to <= a.from || a.end <= b.at || b.end <= a.at)
          for (const [{ pointer, extent }] of kept) assert.ok(a.end <= pointer || pointer + extent <= a.at)
        }
        // What is still free is handed out, and no byte of it twice.
        assert.throws(() => {
          for (;;) blocks.push(memory.allocate(4096))
        }, /out of memory/)
        blocks.sort((a, b) => a.pointer - b.pointer)
        for (const [i, { pointer, extent }] of blocks.entries())
          assert.ok(pointer + extent <= (blocks[i + 1]?.pointer ?? memory.bytesReserved()))
        for (const block of blocks) memory.free(block)
        assert.equal(memory.bytesInUse(), 0)
        memory.free(memory.allocate(12 * 2 ** 20))
      }),
    )
  })

  it('places each, the largest first, at the lowest address that is free in all of its time', () => {
    const plain = (stays: readonly (Stay & { size: number })[], taken: readonly [number, number][]): void => {
      const there: Stay[] = taken.map(([at, end]) => ({ at, end, from: 0, to: Infinity }))
      for (const stay of [...stays].sort((a, b) => b.size - a.size)) {
        let at = 0
        for (const { at: begin, end } of there.filter(({ from, to }) => from < stay.to && stay.from < to).sort((a, b) => a.at - b.at)) {
          if (begin - at >= stay.size) break
          at = Math.max(at, end)
        }
        there.push(Object.assign(stay, { at, end: at + stay.size }))
      }
    }
    // Sizes that recur and that don't, some for all time.
    const lives = fc.record({
      from: fc.nat({ max: 50 }),
      length: fc.nat({ max: 30 }),
      n: fc.integer({ min: 1, max: 40 }),
      lasts: fc.nat({ max: 9 }),
    })
    fc.assert(
      fc.property(fc.array(lives, { maxLength: 80 }), fc.array(fc.nat({ max: 40 }), { maxLength: 6 }), (all, edges) => {
        const made = () =>
          all.map(({ from, length, n, lasts }) => ({ size: 64 * n, at: 0, end: 0, from, to: lasts === 0 ? Infinity : from + length + 1 }))
        const sorted = [...new Set(edges)].sort((a, b) => a - b).map((edge) => 64 * edge)
        const taken = sorted.slice(1).flatMap((end, i): [number, number][] => (i % 2 === 0 ? [[sorted[i], end]] : []))
        const [actual, expected] = [made(), made()]
        place(actual, taken)
        plain(expected, taken)
        assert.deepEqual(actual, expected)
      }),
    )
  })

  it('keeps views and contents through growth', () => {
    const memory = createMemory(1024)
    const block = memory.allocate(16)
    const before = memory.float32(block, 4)
    before.set([1, 2, 3, 4])
    memory.allocate(40_000_000)
    before[0] = 5
    assert.deepEqual([...memory.float32(block, 4)], [5, 2, 3, 4])
  })
})

/** A product of seeded numbers on the pool; `change` sees both sides before. */
function product(
  pool: Pool,
  sizes: Partial<MatmulSizes> & Pick<MatmulSizes, 'M' | 'N' | 'K'>,
  withBias = false,
  change: (a: Float32Array, b: Float32Array) => void = () => {},
): Float32Array {
  const { M, N, K, batch = 1 } = sizes
  const full: MatmulSizes = {
    ...{ batch, strideA: M * K, strideB: K * N, transposeA: false, transposeB: false, sparse: false, accumulate: false, activation: null },
    ...sizes,
  }
  const { memory } = pool
  const fill = (size: number, seed: number) => {
    const block = memory.allocate(4 * size)
    memory.float32(block, size).set(uniforms(seed, size))
    return block
  }
  const blocks = [fill(batch * M * K, 1), fill(batch * K * N, 2), fill(N, 3), fill(batch * M * N, 4)]
  const [a, b, bias, c] = blocks
  change(memory.float32(a, batch * M * K), memory.float32(b, batch * K * N))
  matmulKernels(pool).matmul(a, b, withBias ? bias : null, c, full)
  const result = memory.float32(c, batch * M * N).slice()
  for (const block of blocks) memory.free(block)
  return result
}

for (const relaxed of relaxedAvailable() ? [false, true] : [false])
  describe(`wasm threads${relaxed ? ', relaxed' : ''}`, () => {
    const pools: Pool[] = []
    before(async () => {
      for (const threads of [1, 2, 5]) pools.push(await createPool({ threads, relaxed }))
    })
    after(() => {
      for (const pool of pools) pool.close()
    })

    it('any number of threads gives the same bits', () => {
      const size = fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(128, 200, 300))
      fc.assert(
        fc.property(
          fc.tuple(size, size, size, fc.integer({ min: 1, max: 4 })),
          fc.tuple(fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean()),
          ([M, N, K, batch], [transposeA, transposeB, accumulate, bias]) => {
            const sizes = { M, N, K, batch, transposeA, transposeB, accumulate, activation: accumulate ? null : ('silu' as const) }
            const [one, ...more] = pools.map((pool) => product(pool, sizes, bias))
            for (const other of more) assert.deepEqual(other, one)
          },
        ),
        { numRuns: 60 },
      )
    })

    it('a row of a product has the same bits alone and among others', () => {
      const [N, K] = [77, 700]
      for (const transposeB of [false, true]) {
        const many = product(pools[0], { M: 40, N, K, transposeB, strideB: 0 })
        for (const M of [1, 2, 3, 4, 7, 13]) assert.deepEqual(product(pools[0], { M, N, K, transposeB }), many.subarray(0, M * N))
      }
    })

    it('sides stored as they are or transposed, packed by each task or beforehand: the same bits', () => {
      const turn = (x: Float32Array, rows: number, columns: number): void => {
        const from = x.slice()
        for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) x[j * rows + i] = from[i * columns + j]
      }
      // About the 4 rows or k that are turned at once, 128 rows, four panels of 16 columns, the 256 columns and 512 k of a block.
      const [rows, columns] = [
        [5, 127, 130, 259],
        [15, 63, 64, 65, 129, 272, 335],
      ]
      for (const [i, M] of rows.entries())
        for (const N of columns)
          for (const K of i % 2 ? [37] : [6, 515]) {
            const expected = product(pools[0], { M, N, K })
            for (const pool of pools)
              for (const transposeA of [false, true])
                for (const transposeB of [false, true]) {
                  const result = product(pool, { M, N, K, transposeA, transposeB }, false, (a, b) => {
                    if (transposeA) turn(a, M, K)
                    if (transposeB) turn(b, K, N)
                  })
                  assert.deepEqual(result, expected, JSON.stringify({ M, N, K, transposeA, transposeB, threads: pool.threads }))
                }
          }
    })

    it('any number of rows, of an A with zeros or without, in place or transposed: the same bits', () => {
      for (const K of [1, 5, 600])
        for (const transposeA of [false, true])
          for (let M = 1; M <= 30; M++) {
            const sizes = { M, N: 40, K, transposeA }
            assert.deepEqual(product(pools[0], { ...sizes, sparse: true }), product(pools[0], sizes), JSON.stringify(sizes))
          }
    })

    it('zeros that rows begin and end with take nothing from what stands beside them, and change no bit of the rest', () => {
      const N = 40
      for (const K of [1, 7, 30, 600])
        for (const transposeA of [false, true])
          for (let M = 1; M <= 20; M++) {
            const next = random(100 * M + K)
            const bands = Array.from({ length: M }, () => [next(), next()].map((u) => Math.floor(u * (K + 1))).sort((x, y) => x - y))
            const within = (m: number, k: number): boolean => bands[m][0] <= k && k < bands[m][1]
            const k0 = Math.floor(next() * K)
            const run = (sparse: boolean, beside: number): Float32Array =>
              product(pools[0], { M, N, K, transposeA, sparse }, false, (a, b) => {
                for (let m = 0; m < M; m++) for (let k = 0; k < K; k++) if (!within(m, k)) a[transposeA ? k * M + m : m * K + k] = 0
                // Of the panels of 16 columns only the second.
                b[k0 * N + 20] = beside
              })
            const what = JSON.stringify({ M, K, transposeA, k0, bands })
            const dense = run(false, 0.5)
            assert.deepEqual(run(true, 0.5), dense, what)
            for (const beside of [Number.NaN, Number.POSITIVE_INFINITY]) {
              const sparse = run(true, beside)
              const none = run(false, 0)
              for (const [at, x] of sparse.entries())
                if (at % N !== 20) assert.equal(x, dense[at], what)
                else if (within(Math.floor(at / N), k0)) assert.ok(!Number.isFinite(x), what)
                else assert.equal(x, none[at], what)
            }
          }
    })

    it('a transposed A gives the bits of one in place, and no product writes past the scratch that it asks for', async () => {
      const pool = await createPool({ threads: 1, relaxed })
      const place = pool.memory.allocate(2 ** 20)
      const scratch = pool.memory.float32(place, 2 ** 18)
      pool.memory.free(place)
      // The pool's scratch takes the place that is free, and is never less from then on.
      pool.run('matmulPack', 1, 1, [0, 0, 0, 16, 0, 0, 0], 2 ** 20)
      let fullest = 0
      const watched: Pool = {
        ...pool,
        run(kernel, n, grain, args, asked = 0) {
          // What is copied lies between -1 and 1, and sums of products of such numbers hardly come to 7.
          scratch.fill(7)
          pool.run(kernel, n, grain, args, asked)
          const used = 4 * (1 + scratch.findLastIndex((x) => x !== 7))
          assert.ok(used <= asked, `${kernel} ${args}: ${used} bytes of scratch, asked for ${asked}`)
          fullest = Math.max(fullest, used / asked)
        },
      }
      for (const M of [6, 17, 79])
        for (const N of [16, 40, 300])
          for (const K of [1, 3, 16, 63, 240, 496, 511, 512, 603]) {
            const sizes = { M, N, K }
            const turned = product(watched, { ...sizes, transposeA: true })
            const inPlace = product(watched, sizes, false, (a) => a.set(a.map((_, i) => a[(i % K) * M + Math.floor(i / K)])))
            assert.deepEqual(turned, inPlace, JSON.stringify(sizes))
          }
      assert.ok(fullest > 0.99, `the scratch was looked at: ${fullest}`)
      pool.close()
    })

    it('a failing kernel throws in the caller, and the pool works on', () => {
      const expected = product(pools[0], { M: 100, N: 100, K: 100 })
      for (const pool of pools) {
        for (let i = 0; i < 20; i++) {
          const past = pool.memory.bytesReserved()
          assert.throws(() => pool.run('matmulPack', 100, 1, [past, past, 0, 800, 8, 0]), /kernel matmulPack failed: .*out of bounds/)
        }
        assert.deepEqual(product(pool, { M: 100, N: 100, K: 100 }), expected)
      }
      assert.throws(() => pools[0].run('nosuch', 1, 1, []), /no kernel named nosuch/)
    })

    it('what a kernel refuses is said to the caller as it is, by every thread alike', () => {
      const sizes = { B: 2, T: 64, H: 8, K: 16, V: 16, C: 16, scale: 1, gateWidth: 1, eps: 0, transposed: false }
      const rows = 2 * 64 * 8
      const expected = product(pools[0], { M: 100, N: 100, K: 100 })
      for (const pool of pools) {
        const { memory } = pool
        const blocks = [16 * rows, 16 * rows, 16 * rows, rows, 16 * rows, 16 * 16 * 16].map((size) => memory.allocate(4 * size))
        const [q, k, v, gate, y, sT] = blocks
        for (const x of [q, k, v]) memory.float32(x, 16 * rows).fill(0)
        const inputs = { q, k, v, beta: null, gate, erase: null, along: null, tokens: null, s0: null, z0: null }
        // Wherever it is, whoever has the task.
        for (const at of [0, 5, rows - 1])
          for (const form of ['recurrent', 'chunk'] as const) {
            memory.float32(gate, rows).fill(-1)[at] = 0.1
            const run = () =>
              fastWeightKernels(pool).fastWeights(form, inputs, { y, sT, zT: null, den: null, states: null, zs: null }, sizes)
            const message = 'fastWeights: the gate holds 0.1; gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)'
            assert.throws(run, { name: 'GateError', message, value: 0.1 })
            assert.deepEqual(product(pool, { M: 100, N: 100, K: 100 }), expected)
          }
        for (const block of blocks) memory.free(block)
      }
    })

    it('fast weights touch nothing behind what they are given, which may end where the memory does', async () => {
      const pool = await createPool({ threads: 1, relaxed, maximumPages: 8 })
      const { memory } = pool
      memory.free(memory.allocate(8))
      const end = memory.bytesReserved()
      const [B, H] = [4, 4]
      for (const T of [1, 3])
        for (const K of [1, 4, 8, 12])
          for (const V of [4, 8, 12])
            for (const rule of [{}, { beta: 1 }, { erase: K }])
              for (const gate of [0, 1, K]) {
                const rows = B * T * H
                const widths = { q: K, k: K, v: V, ...rule, gate, y: V }
                const floats = Object.entries(widths).map(([name, width]): [string, number] => [name, rows * width])
                floats.push(['s0', B * H * K * V], ['sT', B * H * K * V])
                for (const [last] of floats) {
                  const blocks: Record<string, Block> = {}
                  for (const [name, size] of floats) {
                    const bytes = 4 * size
                    blocks[name] = name === last ? { pointer: end - bytes, bytes, extent: bytes } : memory.allocate(bytes)
                    memory.float32(blocks[name], size).fill(0)
                  }
                  const { q, k, v, beta = null, erase = null, s0, y, sT } = blocks
                  const inputs = { q, k, v, beta, gate: gate ? blocks.gate : null, erase, along: null, tokens: null, s0, z0: null }
                  const outputs = { y, sT, zT: null, den: null, states: null, zs: null }
                  const sizes = { B, T, H, K, V, C: 16, scale: 1, gateWidth: gate, eps: 0, transposed: false }
                  fastWeightKernels(pool).fastWeights('recurrent', inputs, outputs, sizes)
                  for (const [name, block] of Object.entries(blocks)) if (name !== last) memory.free(block)
                }
              }
      pool.close()
    })

    it('works above 2 GiB', async () => {
      const pool = await createPool({ threads: 2, relaxed })
      const low = pool.memory.allocate(2 ** 31)
      const high = pool.memory.allocate(4)
      assert.ok(high.pointer > 2 ** 31)
      assert.deepEqual(product(pool, { M: 150, N: 150, K: 150 }), product(pools[0], { M: 150, N: 150, K: 150 }))
      pool.memory.free(low)
      pool.close()
    })
  })

describe('wasm pool', () => {
  it('opens and closes over and over', async () => {
    for (let i = 0; i < 25; i++) {
      const pool = await createPool({ threads: 2 })
      product(pool, { M: 64, N: 64, K: 64 })
      pool.close()
      pool.close()
      assert.throws(() => pool.run('matmulPack', 1, 1, []), /closed/)
    }
  })

  it('refuses a bad number of threads, and relaxed SIMD where there is none', async () => {
    for (const threads of [0, 65, 1.5, Number.NaN]) await assert.rejects(createPool({ threads }), /threads must be an integer from 1 to 64/)
    if (!relaxedAvailable()) await assert.rejects(createPool({ relaxed: true }), /relaxed SIMD is not available/)
  })

  it('without shared memory has one thread, and the same bits', async () => {
    for (const relaxed of relaxedAvailable() ? [false, true] : [false]) {
      const [shared, unshared] = [await createPool({ threads: 1, relaxed }), await withoutSharedMemory(() => createPool({ relaxed }))]
      assert.equal(unshared.threads, 1)
      assert.ok(unshared.memory.wasm.buffer instanceof ArrayBuffer)
      const sizes = { M: 400, N: 1000, K: 900, transposeA: true }
      assert.deepEqual(product(unshared, sizes, true), product(shared, sizes, true))
      for (const pool of [shared, unshared]) pool.close()
    }
    await assert.rejects(
      withoutSharedMemory(() => createPool({ threads: 2 })),
      /^Error: wasm: 2 threads need a cross-origin isolated page /,
    )
  })

  it('where a thread does not begin, stops those that did; takes one thread, and says why, only where none were asked for', () => {
    const output = program(`
      import { once } from 'node:events'
      import { createRequire, syncBuiltinESMExports } from 'node:module'
      import { wasmDevice } from 'ROOT/engine/index.js'
      const threads = createRequire('/')('node:worker_threads')
      const os = createRequire('/')('node:os')
      os.availableParallelism = () => 4
      let begun = []
      threads.Worker = class extends threads.Worker {
        constructor(...given) {
          if (begun.length === 2) throw new Error('no more of them')
          super(...given)
          begun.push(this)
        }
      }
      syncBuiltinESMExports()
      const ended = () => Promise.all(begun.map((worker) => once(worker, 'exit', { signal: AbortSignal.timeout(10_000) })))
      await wasmDevice({ threads: 4, relaxed: false }).catch(({ message }) => console.log(message))
      await ended()
      begun = []
      const device = await wasmDevice({ relaxed: false })
      await ended()
      console.log(device.description)`)
    assert.equal(
      output,
      'wasm: thread 3 did not start: no more of them\nwasm (SIMD, 1 thread, because thread 3 did not start: no more of them)\n',
    )
  })

  it('can be opened after its kernels did not compile once', () => {
    const output = program(`
      import { wasmDevice } from 'ROOT/engine/index.js'
      const { compile } = WebAssembly
      WebAssembly.compile = () => Promise.reject(new Error('not now'))
      await wasmDevice({ threads: 1 }).catch(({ message }) => console.log(message))
      WebAssembly.compile = compile
      console.log((await wasmDevice({ threads: 1 })).name)`)
    assert.match(output, /^wasm: the kernels don't compile: not now .*\nwasm\n$/)
  })

  it('says why bytes of its kernels do not come, and nothing of SIMD', () => {
    const output = program(`
      import { wasmDevice } from 'ROOT/engine/index.js'
      const { charCodeAt } = String.prototype // what digits become bytes by
      String.prototype.charCodeAt = () => { throw new Error('no bytes today') }
      const told = await wasmDevice({ threads: 1 }).catch(({ message }) => message)
      String.prototype.charCodeAt = charCodeAt
      console.log(told)`)
    assert.equal(output, 'no bytes today\n')
  })

  it('does not keep the process alive', () => {
    const pool = new URL('../../engine/devices/wasm/pool.js', import.meta.url).href
    const script = `const { createPool } = await import(${JSON.stringify(pool)}); console.log((await createPool({ threads: 3 })).threads)`
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 20_000 })
    assert.equal(child.status, 0, child.stderr)
    assert.equal(child.stdout, '3\n')
  })
})
