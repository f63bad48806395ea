/** Vectors of 256 bits: where they are to be had, and what is said where they aren't. That they change no bit: test/ops/wasm.test.ts. */
import assert from 'node:assert/strict'
import { enableWideSimd } from '../../engine/index.ts'
import { program, wideSimd } from '../helpers.ts'

const [major] = process.versions.node.split('.').map(Number)

describe('vectors of 256 bits', () => {
  it('are had from Node 24 on where they help, and what decided is said', async () => {
    assert.equal(await enableWideSimd(), await enableWideSimd(), 'tried once')
    if (major < 24) assert.match(wideSimd.why, /^V8 merges vectors from Node 23\.5 on, and this is v\d+\.\d+\.\d+$/)
    else if (process.arch !== 'x64') assert.match(wideSimd.why, /^V8 merges vectors on x64 alone, and this is /)
    else assert.match(wideSimd.why, /^a product \d+\.\d times as fast as with 128$/)
  })

  it('are used by default once they are enabled, never before, and not where a device declines them', () => {
    const source = `
      import { enableWideSimd, wasmDevice } from 'ROOT/engine/index.js'
      const described = async (options) => { const device = await wasmDevice({ threads: 1, ...options }); device.close(); return device.description }
      const before = await described()
      const { wide } = await enableWideSimd()
      console.log(JSON.stringify({ before, wide, after: await described(), declined: await described({ wide: false }) }))`
    const { before, wide, after, declined } = JSON.parse(program(source))
    assert.doesNotMatch(before, /256/)
    assert.equal(/256 bits/.test(after), wide)
    assert.equal(declined, before)
  })

  it("leave nothing in the processor that slows down Node's own code", () => {
    const source = `
      import { isUtf8 } from 'node:buffer'
      import { capture, enableWideSimd, matmul, setDevice, wasmDevice, zeros } from 'ROOT/engine/index.js'
      await enableWideSimd({ insist: true })
      setDevice(await wasmDevice({ threads: 1 }))
      const a = zeros([64, 64])
      const captured = await capture([a], {}, () => ({ outputs: [matmul(a, a)] }))
      const some = new Uint8Array(64)
      const median = (before) => {
        const times = []
        for (let i = 0; i < 1000; i++) {
          before()
          const begin = performance.now()
          let sum = 0
          for (let j = 0; j < 500; j++) sum += Math.exp(j / 500)
          times.push(sum > 0 ? performance.now() - begin : NaN)
        }
        return times.sort((x, y) => x - y)[500]
      }
      const ways = [() => void isUtf8(some), () => matmul(a, a).dispose(), () => captured.replay()]
      for (const way of ways) median(way) // until V8 has optimised
      console.log(JSON.stringify(ways.map(median)))`
    const [clean, ...after] = JSON.parse(program(source)) as number[]
    for (const time of after) assert.ok(time < 4 * clean, `${time} ms in place of ${clean}`)
  })

  it('are refused, in a line, where they have not been enabled', () => {
    const source = `
      import { wasmDevice } from 'ROOT/engine/index.js'
      await wasmDevice({ threads: 1, wide: true }).catch((error) => console.log(error.message))`
    assert.equal(
      program(source).trim(),
      "wasm: vectors of 256 bits aren't to be had: call enableWideSimd first; it says whether they help, and why not",
    )
  })
})
