/**
 * Baselines without fast weights: their recurrent part, with slow weights of each head. x is what the input gives, biases included. Gates stand
 * in PyTorch's order. Rows of the table: index.ts.
 */
import type { UnaryOp } from '../devices/kernels.ts'
import { defineNet, type Net } from './program.ts'

/** Options of `vanillaRnn`, `lstm` and `gru`. */
export interface RecurrentOptions {
  /** Width of the state. */
  D: number
}

/** h_t = f(x_t + h_{t-1} R): with tanh (Elman 1990), or with relu the IRNN, whose R begins as the identity (Le 2015). */
export function vanillaRnn({ D, activation = 'tanh' }: RecurrentOptions & { activation?: UnaryOp }): Net {
  return defineNet(activation === 'relu' ? 'IRNN' : 'RNN', (net) => {
    const h0 = net.vector('h', D)
    const { x } = net.inputs({ x: D })
    const h = net.unary(activation, net.add(x, net.read(net.slowMatrix('R', D, D), h0)))
    net.next('h', h)
    net.output(h)
  })
}

/** [i f g o] = x_t + h_{t-1} R, c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c) (Hochreiter & Schmidhuber 1997; Gers 2000). */
export function lstm({ D }: RecurrentOptions): Net {
  return defineNet('LSTM', (net) => {
    const h0 = net.vector('h', D)
    const c0 = net.vector('c', D)
    const { x } = net.inputs({ x: 4 * D })
    const { i, f, g, o } = net.split(net.add(x, net.read(net.slowMatrix('R', D, 4 * D), h0)), { i: D, f: D, g: D, o: D })
    const c = net.add(net.mul(net.sigmoid(f), c0), net.mul(net.sigmoid(i), net.tanh(g)))
    const h = net.mul(net.sigmoid(o), net.tanh(c))
    net.next('c', c)
    net.next('h', h)
    net.output(h)
  })
}

/** [r z n] = x_t, [r' z' n'] = h_{t-1} R + b: n = tanh(n + sigmoid(r + r') n'), h = n + sigmoid(z + z') (h_{t-1} - n) (Cho 2014, as PyTorch has it). */
export function gru({ D }: RecurrentOptions): Net {
  return defineNet('GRU', (net) => {
    const h0 = net.vector('h', D)
    const x = net.split(net.inputs({ x: 3 * D }).x, { r: D, z: D, n: D })
    const fed = net.split(net.add(net.read(net.slowMatrix('R', D, 3 * D), h0), net.slowVector('b', 3 * D)), { r: D, z: D, n: D })
    const n = net.tanh(net.add(x.n, net.mul(net.sigmoid(net.add(x.r, fed.r)), fed.n)))
    const h = net.add(n, net.mul(net.sigmoid(net.add(x.z, fed.z)), net.sub(h0, n)))
    net.next('h', h)
    net.output(h)
  })
}
