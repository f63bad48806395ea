/** A series of kernel calls that stay the same, as one function. */

/** A call of `run` of the pool: `kernel` for the tasks [0, n), `grain` at a time. */
export interface Launch {
  kernel: string
  n: number
  grain: number
  args: readonly number[]
  scratchBytes: number
}

type Kernel = (begin: number, end: number, ...args: number[]) => void

/** Runs the launches in order: those that are `shared` by `share`, the others by a call of their kernel. */
export async function compileLaunches(
  launches: readonly Launch[],
  kernelOf: (name: string) => Kernel,
  shared: (launch: Launch) => boolean,
  share: (launch: Launch) => void,
): Promise<() => void> {
  const calls = launches.map((launch) => {
    const { kernel, n, args } = launch
    const f = kernelOf(kernel)
    return shared(launch) ? () => share(launch) : () => f(0, n, ...args)
  })
  return () => {
    for (const call of calls) call()
  }
}
