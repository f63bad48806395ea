/** The process of one row of the benchmark of a card that is ours. */
import { gpuSpeed, productRate, productSizes } from '../dist/cli/speed.js'
import { setDevice, webgpuDevice } from '../dist/engine/index.js'
import { works } from './card-work.mjs'
import { serve } from './child.mjs'

let device
let work

serve({
  async open() {
    device = await webgpuDevice()
    setDevice(device)
    return { description: device.description, software: device.capabilities.software }
  },
  /** What `fastweights doctor` measures: bytes and operations a second, the products each and the fastest, and seconds of a small dispatch. */
  async peaks() {
    const products = []
    for (const n of productSizes(device)) products.push({ n, rate: await productRate(device, n) })
    const { bandwidth, host, all } = await gpuSpeed(device)
    return { products, operations: Math.max(...products.map(({ rate }) => rate)), bandwidth, dispatch: all / 1e6, host: host / 1e6 }
  },
  async prepare({ what, given }) {
    work = works[what](given)
    return { parameters: work.parameters, ...(await work.begin?.()) }
  },
  /** Seconds of one of so many, in all and for the host. */
  async sample({ count }) {
    const start = performance.now()
    const host = await work.run(count)
    const seconds = (performance.now() - start) / 1000 / count
    return { seconds, host: host === null ? null : host / 1000 / count }
  },
})
