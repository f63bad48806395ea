/** Programs that the tests of recurrent nets run: those of the table, and random ones. */
import { defineNet, type Matrix, type Net, nets, unaryOps, type Vector } from '../../engine/index.ts'
import { NetBuilder } from '../../engine/nets/program.ts'
import { random } from '../helpers.ts'

export const randomNet = (seed: number): Net => defineNet(`random ${seed}`, randomProgram(seed))

/** The same, its instructions in the order in which they were written. */
export function randomNetAsWritten(seed: number): Net {
  const builder = new NetBuilder(`random ${seed}, as written`)
  randomProgram(seed)(builder)
  const { instructions } = builder as unknown as Pick<Net, 'instructions'>
  return { ...builder.finish(), instructions }
}

/** Random instructions on vectors of a few widths; every fast matrix is written, every vector of the state fed back. */
function randomProgram(seed: number): (net: NetBuilder) => void {
  const next = random(seed)
  const pick = <X>(from: readonly X[]): X => from[Math.floor(next() * from.length)]
  const widths = [1, 3, 4, 6]
  return (net) => {
    const pool: Vector[] = []
    const states = Array.from({ length: 1 + Math.floor(2 * next()) }, (_, i) => ({ name: `h${i}`, width: pick(widths) }))
    for (const { name, width } of states) pool.push(net.vector(name, width, { base: next() < 0.3 }))
    pool.push(...Object.values(net.inputs({ a: pick(widths), b: 1, c: pick(widths), d: pick(widths) })))
    const matrices = Array.from({ length: 1 + Math.floor(2 * next()) }, (_, i) =>
      net.matrix(`M${i}`, pick(widths), pick(widths), { base: next() < 0.3 }),
    )
    const slow = Array.from({ length: Math.floor(3 * next()) }, (_, i) => net.slowMatrix(`P${i}`, pick(widths), pick(widths)))
    if (next() < 0.5) pool.push(net.slowVector('p', pick(widths)))
    /** A vector of that width, by one of several ways. */
    const of = (width: number): Vector => {
      const fitting = pool.filter((v) => v.width === width)
      if (fitting.length > 0 && next() < 0.8) return pick(fitting)
      const any = pick(pool)
      if (any.width > width) return net.slice(any, Math.floor(next() * (any.width - width + 1)), width)
      let v = any
      while (v.width < width) v = net.concat(v, pick(pool))
      return v.width === width ? v : net.slice(v, v.width - width, width)
    }
    const small = (v: Vector): Vector => net.tanh(v)
    const step = (): void => {
      const a = pick(pool)
      const pair = (): Vector => of(a.width)
      const made = pick<() => Vector>([
        () => net.add(a, pair()),
        () => net.sub(a, pair()),
        () => net.mul(a, small(pair())),
        () => net.affine(a, 0.7, 0.2),
        () => net.times(a, small(of(1))),
        () => net.dot(small(a), small(pair())),
        () =>
          net.unary(pick(unaryOps.filter((op) => ['sigmoid', 'tanh', 'silu', 'softplus', 'exp', 'cos', 'gelu'].includes(op))), small(a)),
        () => net.softmax(a),
        () => net.norm(pick(['layer', 'rms', 'l2'] as const), a, 0.3),
        () => net.norm('sum', net.elu1(a), 0.1),
        () => {
          const M = pick<Matrix>([...matrices, ...slow])
          return net.read(M, small(of(M.rows)))
        },
      ])()
      pool.push(made)
    }
    const steps = (): void => {
      for (let i = 0; i < 4; i++) step()
    }
    steps()
    for (const [i, M] of matrices.entries()) {
      const [k, u] = [small(of(M.rows)), small(of(M.columns))]
      const decay = pick([undefined, 0.8, net.sigmoid(of(1))])
      net.write(M, k, net.affine(u, 0.5), {
        ...(decay !== undefined && { decay }),
        ...((i + seed) % 3 === 0 && { activation: pick(['sigmoid', 'tanh'] as const) }),
      })
      steps()
      pool.push(net.read(M, small(of(M.rows))))
    }
    for (const { name, width } of states) net.next(name, small(of(width)))
    net.output(net.concat(pick(pool), pick(pool)))
  }
}

export const table = Object.entries(nets).map(([name, { build }]) => ({ name, build: build as (D: number) => Net }))
