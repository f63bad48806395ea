/**
 * Fast weights that program themselves (Irie 2022, "A modern self-referential weight matrix that learns to modify itself", after Schmidhuber
 * 1992), as the authors' code has them (github.com/IDSIA/modern-srwm). Every matrix starts as a parameter; what is carried is its shift from
 * there. Rows of the table: index.ts.
 */
import { defineNet, type Matrix, type Net, type NetBuilder, type Vector } from './program.ts'

/** The matrices that say how all of them change, themselves among them: what they read for x, before anything is written. */
function programmers(net: NetBuilder, x: Vector): { change: (M: Matrix, rate: 'y' | 'q' | 'k' | 'b') => void; finish: () => void } {
  const D = x.width
  const Wq = net.matrix('Wq', D, D, { base: true })
  const Wk = net.matrix('Wk', D, D, { base: true })
  const wb = net.matrix('wb', D, 4, { base: true })
  const k = net.softmax(net.read(Wk, x))
  const difference = net.sub(net.softmax(net.read(Wq, x)), k)
  const rates = net.split(net.sigmoid(net.read(wb, x)), { y: 1, q: 1, k: 1, b: 1 })
  // q M - k M by one read.
  const change = (M: Matrix, rate: keyof typeof rates): void => net.write(M, k, net.times(net.read(M, difference), rates[rate]))
  return {
    change,
    finish() {
      change(Wq, 'q')
      change(Wk, 'k')
      change(wb, 'b')
    },
  }
}

/** Options of `selfReferential` and `selfModifyingProgrammer`. */
export interface SelfReferentialOptions {
  /** Width of inputs and outputs. */
  D: number
  /** The input passes a softmax first. */
  inputSoftmax?: boolean
}

/**
 * Self-referential weight matrix (SRWM). All right sides with the old weights:
 *
 *     y = x W_y,  q = softmax(x W_q),  k = softmax(x W_k),  beta = sigmoid(x w_b);  W_. += beta_. k (q W_. - k W_.)  for . in y, q, k, b
 */
export function selfReferential({ D, inputSoftmax = false }: SelfReferentialOptions): Net {
  return defineNet('SRWM', (net) => {
    const given = net.inputs({ x: D }).x
    const x = inputSoftmax ? net.softmax(given) : given
    const Wy = net.matrix('Wy', D, D, { base: true })
    const { change, finish } = programmers(net, x)
    net.output(net.read(Wy, x))
    change(Wy, 'y')
    finish()
  })
}

/**
 * Self-modifying fast weight programmer (SMFWP): the output of an SRWM is the query, key, value and rate of a delta net.
 *
 *     [q', k', v', beta'] = x W_y;  F_t = F_{t-1} + k' beta' (v' - k' F_{t-1}),  y = q' F_t,  with q', k' softmax, beta' sigmoid
 */
export function selfModifyingProgrammer({ D, inputSoftmax = false }: SelfReferentialOptions): Net {
  return defineNet('SMFWP', (net) => {
    const given = net.inputs({ x: D }).x
    const x = inputSoftmax ? net.softmax(given) : given
    const Wy = net.matrix('Wy', D, 3 * D + 1, { base: true })
    const { change, finish } = programmers(net, x)
    const F = net.matrix('F', D, D)
    const { q, k, v, beta } = net.split(net.read(Wy, x), { q: D, k: D, v: D, beta: 1 })
    net.delta(F, net.softmax(k), v, net.sigmoid(beta))
    net.output(net.read(F, net.softmax(q)))
    change(Wy, 'y')
    finish()
  })
}
