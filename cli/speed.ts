/**
 * How fast a device is: what `doctor` prints, and what bench/ holds the figures of a card against. Tests: test/cli/doctor.test.ts.
 */
import { affine, type Device, matmul, scope, tensor, type WebgpuDevice } from '../engine/index.ts'

/** Of one of many calls that follow one another, in milliseconds: for the host, until all are asked for, and in all, until all are done. */
interface CallTime {
  host: number
  all: number
}

/** The least of some rounds, the first of which compiles; without what it takes to wait for a device. Of a slow call there are fewer rounds. */
async function callTime(device: Device, call: () => void, calls: number): Promise<CallTime> {
  const one = tensor([1], { device })
  const timed = async (count: number): Promise<CallTime> => {
    const start = performance.now()
    for (let i = 0; i < count; i++) call()
    const last = affine(one, 1, 1)
    const host = performance.now() - start
    await last.read()
    const all = performance.now() - start
    last.dispose()
    return { host, all }
  }
  let [host, all, waiting] = [Infinity, Infinity, Infinity]
  const end = performance.now() + 500
  for (let round = 0; round < 2 || (round < 5 && performance.now() < end); round++) {
    const [some, none] = [await timed(calls), await timed(0)]
    if (round === 0) continue
    host = Math.min(host, some.host)
    all = Math.min(all, some.all)
    waiting = Math.min(waiting, none.all)
  }
  one.dispose()
  return { host: host / calls, all: Math.max(all - waiting, 0) / calls }
}

/** As `callTime`, of as many calls as last some 50 ms. */
async function longCallTime(device: Device, call: () => void): Promise<CallTime> {
  const { all } = await callTime(device, call, 1)
  return callTime(device, call, Math.min(500, Math.max(1, Math.ceil(50 / Math.max(all, 0.1)))))
}

/** Bytes that a kernel reads and writes a second; microseconds of a small dispatch, for the host and in all, when many follow one another. */
export async function gpuSpeed(
  device: WebgpuDevice,
  { floats = Math.min(2 ** 25, device.capabilities.bindingBytes / 4), calls = 500 } = {},
): Promise<{ bandwidth: number; host: number; all: number }> {
  const [many, few] = [floats, 1024].map((n) => tensor(new Float32Array(n), { device }))
  const large = await longCallTime(device, () => affine(many, 1, 1).dispose())
  const small = await callTime(device, () => affine(few, 1, 1).dispose(), calls)
  for (const x of [many, few]) x.dispose()
  return { bandwidth: (8 * floats) / (large.all / 1e3), host: 1e3 * small.host, all: 1e3 * small.all }
}

/** The n of the products n x n x n that are timed: those that a GPU is made for take the CPU minutes. */
export const productSizes = (device: Device): readonly number[] =>
  (device as Partial<WebgpuDevice>).capabilities?.software === false ? [512, 1024, 2048, 4096] : [512]

/** Operations a second, a multiplication and an addition for two, of products n x n x n that follow one another. */
export async function productRate(device: Device, n: number): Promise<number> {
  const a = tensor(new Float32Array(n * n).fill(0.5), { shape: [n, n], device })
  const { all } = await longCallTime(device, () => scope(() => matmul(a, a)).dispose())
  a.dispose()
  return (2 * n ** 3) / (all / 1e3)
}
