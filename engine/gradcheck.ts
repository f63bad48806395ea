import { checkNumber, checkOptions } from './arguments.ts'
import { noGrad } from './recording.ts'
import { scope } from './scope.ts'
import { type Tensor, tensor } from './tensor.ts'

/** Options of `gradCheck`. */
export interface GradCheckOptions {
  /** Step of the central difference. 1e-6 leaves an error of about 1e-9 in float64. */
  step?: number
  /** Bound on the error. */
  tolerance?: number
}

/** What `gradCheck` has found: the largest error of a gradient, and where it is. */
export interface GradCheck {
  /**
   * max |analytic - numeric| / max |numeric| of an input, the largest over all inputs. Gradients so small that the tolerance lies below
   * the differences' own noise are held to the noise instead.
   */
  error: number
  /** Where it is: which input, and which of its elements. */
  input: number
  /** Its place in that input, counted along the memory. */
  element: number
}

/**
 * Compares the gradients of `f` with central differences, for every element of every input, on the inputs' device (which should
 * be the float64 reference). A result that isn't one element is contracted with fixed pseudo-random weights, so that every
 * output counts; outputs that need no gradient don't. Throws where the error is above the tolerance (default 1e-6), else returns the largest one.
 */
export async function gradCheck(
  f: (...inputs: Tensor[]) => Tensor | Tensor[],
  inputs: readonly Tensor[],
  options: GradCheckOptions = {},
): Promise<GradCheck> {
  checkOptions('gradCheck', options, ['step', 'tolerance'])
  const { step = 1e-6, tolerance = 1e-6 } = options
  checkNumber('gradCheck: the step', step, 'above 0')
  checkNumber('gradCheck: the tolerance', tolerance, '0 or more')
  const values = await Promise.all(inputs.map(async (x) => Float64Array.from(await x.read())))
  const device = inputs[0].device
  if (!device.double)
    throw new Error(
      `gradCheck: needs a device that computes in float64, not ${device.description} (make the inputs with { device: referenceDevice() })`,
    )

  const weights = (size: number): Float64Array => Float64Array.from({ length: size }, (_, i) => Math.sin(1 + 1.7 * i) + 0.1)
  let counts: boolean[] = []
  /** The largest sum of |weights * outputs| met: what the evaluations were rounded at. */
  let magnitude = 0
  /** sum of weights * outputs, on the host. */
  const evaluate = async (): Promise<number> => {
    const ys = noGrad(() => scope(() => [f(...make(false))].flat()))
    let total = 0
    let absolute = 0
    for (const [output, y] of ys.entries()) {
      const w = weights(y.size)
      const read = await y.read()
      for (let i = 0; counts[output] && i < y.size; i++) {
        total += w[i] * read[i]
        absolute += Math.abs(w[i] * read[i])
      }
      y.dispose()
    }
    magnitude = Math.max(magnitude, absolute)
    return total
  }
  const make = (requiresGrad: boolean): Tensor[] => inputs.map((x, i) => tensor(values[i], { shape: x.shape, device, requiresGrad }))

  const analytic = await Promise.all(
    scope(() => {
      const leaves = make(true)
      const ys = [f(...leaves)].flat()
      counts = ys.map((y) => y.requiresGrad)
      if (!counts.includes(true)) throw new Error('gradCheck: no output depends on the inputs')
      for (const y of ys.filter((y) => y.requiresGrad)) y.backward(tensor(weights(y.size), { shape: y.shape, device }))
      return leaves.map((x) => x.grad)
    }).map(async (grad, i) => {
      const result = grad ? Float64Array.from(await grad.read()) : new Float64Array(inputs[i].size)
      grad?.dispose()
      return result
    }),
  )

  const worst: GradCheck = { error: 0, input: 0, element: 0 }
  for (let i = 0; i < inputs.length; i++) {
    const numeric = new Float64Array(inputs[i].size)
    for (let e = 0; e < numeric.length; e++) {
      const x = values[i][e]
      values[i][e] = x + step
      const above = await evaluate()
      values[i][e] = x - step
      const below = await evaluate()
      values[i][e] = x
      numeric[e] = (above - below) / (2 * step)
    }
    // A value of size m is rounded by m 2^-53, and f's value at both ends by a few of these, intermediate values of about 1 included.
    const noise = (4 * Number.EPSILON * Math.max(1, magnitude)) / step
    const largest = Math.max(noise / tolerance, ...numeric.map(Math.abs))
    numeric.forEach((value, element) => {
      const error = Math.abs(analytic[i][element] - value) / largest
      if (!(error <= worst.error)) Object.assign(worst, { error, input: i, element })
      if (!(error <= tolerance))
        throw new Error(
          `gradCheck: input ${i}, element ${element}: backward gives ${analytic[i][element]}, differences give ${value} (error ${error.toExponential(1)}, bound ${tolerance})`,
        )
    })
  }
  return worst
}
