/** The fast weight programmers of 1991 and 1993, and the fast weights of Ba 2016. Rows of the table: index.ts. */
import type { UnaryOp } from '../devices/kernels.ts'
import { defineNet, type Net, type Vector } from './program.ts'

/** Options of `programmer`. */
export interface ProgrammerOptions {
  /** Width of x and a, the rows of W. */
  K: number
  /** Width of b and y, the columns of W. */
  V: number
  /** sigma, on the fast weights: `sigmoid` by default, null for none (the sum rule of linear transformers). */
  activation?: UnaryOp | null
}

/**
 * The fast weight programmer (Schmidhuber 1991, "Learning to control fast-weight memories"): the slow net says from where to where.
 *
 *     W_t = sigma(W_{t-1} + a_t b_t^T),  y_t = x_t W_t
 */
export function programmer({ K, V, activation = 'sigmoid' }: ProgrammerOptions): Net {
  return defineNet('fast weight programmer', (net) => {
    const W = net.matrix('W', K, V)
    const { x, a, b } = net.inputs({ x: K, a: K, b: V })
    net.write(W, a, b, activation ? { activation } : {})
    net.output(net.read(W, x))
  })
}

/** Options of `recurrentProgrammer`. */
export interface RecurrentProgrammerOptions {
  /** Width of the input. */
  X: number
  /** Units that aren't inputs. */
  D: number
  /** What g and h are multiplied with; 1 by default. */
  rate?: number
  /** sigma, which limits the weights: `tanh` by default, null for none. */
  activation?: UnaryOp | null
}

/**
 * The recurrent programmer (Schmidhuber 1993, "Reducing the ratio between learning complexity and number of time varying variables in fully
 * recurrent nets", eq. 3-4): a net whose units strengthen or weaken the weights between them as they are active one after the other. With
 * l_t = [x_t, y_t] all units:
 *
 *     y_{t+1} = sigmoid(l_t W_t),  W_{t+1} = sigma(W_t + g(l_t) h(y_{t+1})^T)
 *
 * The paper leaves g and h open: monotonic, and close to 0 for most arguments but those near 0 and 1. Here both are
 * rate tanh((2 a - 1)^3).
 */
export function recurrentProgrammer({ X, D, rate = 1, activation = 'tanh' }: RecurrentProgrammerOptions): Net {
  return defineNet('recurrent programmer', (net) => {
    const sum0 = net.vector('net', D)
    const W = net.matrix('W', X + D, D, { base: true })
    const { x } = net.inputs({ x: X })
    const threshold = (a: Vector): Vector => {
      const u = net.affine(a, 2, -1)
      return net.affine(net.tanh(net.mul(net.mul(u, u), u)), rate)
    }
    const units = net.concat(x, net.sigmoid(sum0))
    const sum = net.read(W, units)
    const y = net.sigmoid(sum)
    net.write(W, threshold(units), threshold(y), activation ? { activation } : {})
    net.next('net', sum)
    net.output(y)
  })
}

/** Options of `ba2016`. */
export interface BaOptions {
  /** Width of the hidden state. */
  D: number
  /** S, steps of the inner loop; 1 by default. */
  steps?: number
  /** lambda, 0.95 by default. */
  decay?: number
  /** eta, 0.5 by default. */
  rate?: number
  /** f: `relu` by default. */
  activation?: UnaryOp
  /** Layer normalisation in the inner loop, with a gain and a bias: on by default. */
  norm?: boolean
  /** Its eps, 1e-5 by default. */
  eps?: number
}

/**
 * Fast weights that attend to the recent past (Ba 2016). x holds C x_t, and a bias perhaps; A is symmetric.
 *
 *     h_0 = f(h W + x_t),  h_{s+1} = f(LN(h W + x_t + h_s A)),  h = h_S,  A <- lambda A + eta h h^T
 */
export function ba2016({ D, steps = 1, decay = 0.95, rate = 0.5, activation = 'relu', norm = true, eps = 1e-5 }: BaOptions): Net {
  if (!(Number.isInteger(steps) && steps >= 0)) throw new Error(`ba2016: the inner loop takes 0 steps or more, not ${steps}`)
  return defineNet('Ba 2016', (net) => {
    const h0 = net.vector('h', D)
    const A = net.matrix('A', D, D)
    const { x } = net.inputs({ x: D })
    const boundary = net.add(net.read(net.slowMatrix('W', D, D), h0), x)
    const affine = norm && steps > 0 ? { gain: net.slowVector('gain', D), bias: net.slowVector('bias', D) } : undefined
    let h = net.unary(activation, boundary)
    for (let s = 0; s < steps; s++) {
      const sum = net.add(boundary, net.read(A, h))
      h = net.unary(activation, affine ? net.add(net.mul(net.norm('layer', sum, eps), affine.gain), affine.bias) : sum)
    }
    net.write(A, h, net.affine(h, rate), { decay })
    net.next('h', h)
    net.output(h)
  })
}
