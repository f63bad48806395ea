/** Matrices of 16-bit numbers: what is computed from them is what float32 of the same values give, to the bit. */
import assert from 'node:assert/strict'
import { narrowed, widened } from '../../engine/half.ts'
import {
  capture,
  type Device,
  gather,
  type HalfType,
  halfTensor,
  halfTypes,
  linears,
  matmul,
  noGrad,
  reshape,
  scope,
  setDevice,
  silu,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import { assertSameBits, gpus, reference, uniforms, wasm } from '../helpers.ts'

/** A matrix, and its float32. */
function pair(seed: number, shape: [number, number], dtype: HalfType): [half: Tensor, whole: Tensor] {
  const bits = narrowed(uniforms(seed, shape[0] * shape[1]), dtype)
  return [halfTensor(bits, { shape, dtype }), tensor(widened(bits, dtype), { shape })]
}

describe('numbers of 16 bits', () => {
  let devices: Device[]
  before(async () => {
    devices = [reference, await wasm(), await wasm(2, true), ...(await gpus())]
  })
  afterEach(() => setDevice(reference))

  it('are the right side of products: any rows, columns and depths, with bias, addition and activation', async () => {
    for (const device of devices) {
      setDevice(device)
      for (const dtype of halfTypes)
        for (const [M, N, K] of [
          [1, 37, 21],
          [3, 36, 520],
          [7, 20, 515],
          [130, 36, 9],
        ]) {
          if (device.name !== 'wasm' && M * N * K > 1e5) continue
          const [half, whole] = pair(M, [N, K], dtype)
          const x = tensor(uniforms(2, M * K), { shape: [M, K] })
          const bias = tensor(uniforms(3, N))
          const accumulate = tensor(uniforms(4, M * N), { shape: [M, N] })
          const [a, b] = scope(() => [half, whole].map((w) => matmul(x, w, { transposeB: true, bias, accumulate, activation: 'silu' })))
          assertSameBits(await a.read(), await b.read(), `${device.description}: ${dtype} ${M} ${N} ${K}`)
          for (const t of [half, whole, x, bias, accumulate, a, b]) t.dispose()
        }
    }
  })

  it('are rows of a table, every number as it is', async () => {
    for (const device of devices) {
      setDevice(device)
      for (const dtype of halfTypes) {
        const bits = Uint16Array.from({ length: 65536 }, (_, i) => i)
        const table = halfTensor(bits, { shape: [256, 256], dtype })
        const rows = gather(table, tensor(Int32Array.from({ length: 256 }, (_, i) => 255 - i)))
        const values = Float32Array.from(await rows.read())
        const expected = widened(bits, dtype)
        for (let i = 0; i < 65536; i++) {
          const [actual, wanted] = [values[(255 - (i >> 8)) * 256 + (i & 255)], expected[i]]
          // A GPU may read a denormal float32 as 0.
          const tiny = device.name === 'webgpu' && Math.abs(wanted) < 2 ** -126 && actual === 0
          if (!(Object.is(actual, wanted) || tiny)) assert.fail(`${device.name} ${dtype} ${i.toString(16)}: ${actual}, not ${wanted}`)
        }
        assert.deepEqual(await table.readHalves(), bits)
        assert.deepEqual(Float32Array.from(await table.read()), expected)
        const odd = halfTensor(bits.subarray(3, 8), { shape: [1, 5], dtype })
        assert.deepEqual(await odd.readHalves(), bits.slice(3, 8))
        assert.equal(device.bytesInUse() > 0, true)
        // More than are written at a time, and an odd number of them.
        const many = Uint16Array.from({ length: 4099 * 33 }, (_, i) => i * 40503)
        const large = halfTensor(many, { shape: [4099, 33], dtype })
        assert.deepEqual(await large.readHalves(), many)
        for (const t of [table, rows, odd, large]) t.dispose()
      }
    }
  })

  it('stay packed in a captured step', async () => {
    for (const device of devices.filter(({ capture }) => capture !== undefined)) {
      setDevice(device)
      for (const dtype of halfTypes)
        for (const M of device.name === 'wasm' ? [1, 2, 5, 9] : [1]) {
          const [half, whole] = pair(7, [45, 530], dtype)
          const x = tensor(uniforms(8, M * 530), { shape: [M, 530] })
          const of = (w: Tensor) => capture([x], {}, () => ({ outputs: [silu(matmul(x, w, { transposeB: true }))] }))
          const [a, b] = [await of(half), await of(whole)]
          for (const captured of [a, b]) captured.replay()
          assertSameBits(await a.outputs[0].read(), await b.outputs[0].read(), `${device.description}: ${dtype}, ${M} rows`)
          for (const each of [a, b, half, whole, x]) each.dispose()
        }
    }
  })

  it('made in a captured step, more than are written at a time, are there when it is replayed; on wasm they are refused', async () => {
    const bits = narrowed(uniforms(9, 4099 * 33), 'float16')
    for (const device of devices.filter(({ capture }) => capture !== undefined)) {
      setDevice(device)
      const x = tensor(uniforms(10, 33), { shape: [1, 33] })
      const step = (): { outputs: Tensor[] } => {
        const made = halfTensor(bits, { shape: [4099, 33], dtype: 'float16' })
        return { outputs: [matmul(x, made, { transposeB: true })] }
      }
      if (device.name === 'wasm') await assert.rejects(() => capture([x], {}, step), /makes a tensor of 16-bit numbers; make it before/)
      else {
        const [captured, once] = [await capture([x], {}, step), scope(() => step().outputs[0])]
        captured.replay()
        assertSameBits(await captured.outputs[0].read(), await once.read(), device.description)
        for (const each of [captured, once]) each.dispose()
      }
      x.dispose()
    }
  })

  it('are linear maps beside others, and one alone is as a product', async () => {
    for (const device of devices) {
      setDevice(device)
      for (const dtype of halfTypes) {
        const x = tensor(uniforms(1, 5 * 21), { shape: [5, 21] })
        const [[half, whole], [other, otherWhole]] = [pair(2, [37, 21], dtype), pair(3, [8, 21], dtype)]
        const bias = tensor(uniforms(4, 8))
        const activation = 'silu'
        const given = [
          ...linears(x, [
            { weight: half, activation },
            { weight: other, bias },
          ]),
          ...linears(x, [{ weight: half }]),
        ]
        const expected = [
          matmul(x, whole, { transposeB: true, activation }),
          matmul(x, otherWhole, { transposeB: true, bias }),
          matmul(x, whole, { transposeB: true }),
        ]
        for (const [i, y] of given.entries())
          assertSameBits(await y.read(), await expected[i].read(), `${device.description} ${dtype} ${i}`)
      }
    }
  })

  it('are refused where they mean nothing, in one line', () => {
    const bits = new Uint16Array(6)
    const half = halfTensor(bits, { shape: [2, 3], dtype: 'float16' })
    const x = tensor([[1, 2]], { requiresGrad: true })
    const refused: [() => unknown, RegExp][] = [
      [() => halfTensor([1] as never, { shape: [1], dtype: 'float16' }), /halfTensor: needs the bits as a Uint16Array/],
      [() => halfTensor(bits, { shape: [2, 2], dtype: 'float16' }), /6 values don't fill the shape \[2,2\]/],
      [() => halfTensor(bits, { shape: [6], dtype: 'float32' as never }), /must be float16 or bfloat16, not the text 'float32'/],
      [() => matmul(x, half), /matmul: a float16 matrix is read as one of rows/],
      [() => matmul(half, half, { transposeB: true }), /matmul: needs a float32 tensor, not float16/],
      [() => silu(half), /silu: needs a float32 tensor, not float16|needs a float32 tensor, not float16/],
      [() => reshape(half, [3, 2]), /the rows of a float16 tensor \[2,3\] stay as they are/],
      [() => half.write([1, 2, 3, 4, 5, 6]), /write: float16 tensors are made once/],
      [
        () => scope(() => matmul(tensor([[1, 2, 3]], { requiresGrad: true }), half, { transposeB: true }).backward(tensor([[1, 1]]))),
        /read as one of rows/,
      ],
    ]
    for (const [run, expected] of refused) assert.throws(run, expected)
    assert.match(String(half), /float16 on reference/)
    noGrad(() => half.dispose())
  })
})
