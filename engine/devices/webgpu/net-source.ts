/**
 * The shader of a recurrent net: what its program does to a token, forward and backward, as WGSL (`forward` and `backward` of kernels-wgsl/net-program.wgsl).
 *
 * Each instruction is cut into pieces, loops over the numbers of a vector, or the columns or rows of a matrix, of which thread j has those at
 * j, j + threads, ... A piece says which memory it touches: as a thread's own, where nobody else looks, or anybody's. Pieces go into stages, each
 * as early as it can, so that barriers stand between stages only; those of one stage and length share a loop, in which what a thread makes for itself
 * goes from one piece to the next in a variable. What no other loop looks at is never in memory. Loops inside (sweeps), down a column or along a row
 * or a vector, are shared by all pieces that don't wait for each other, such as those of equal gates, which then look up a number once for all.
 *
 * Sizes and places come from the program at run time, so nets that differ by them alone have one shader.
 */
import { netProgram } from '../../../kernels-wgsl/generated/wgsl.ts'
import { type NetInstruction, type NetOp, type NormKind, netWords, normKinds, partWords } from '../kernels.ts'

/** Values and their cotangents; the state and its; cotangents of slow parameters. What nothing changes isn't named. */
type Space = 'r' | 'dr' | 'state' | 'dstate' | 'dslow'

/** Numbers of a space that a piece looks at, or changes; by whom: each thread has its own, one of a vector, a column or a row; or all of them. */
interface Touch {
  space: Space
  begin: number
  end: number
  by: 'own' | 'column' | 'row' | 'all'
  writes: boolean
  /** It's a sum that the piece adds to, in whichever order. */
  adds?: boolean
  vector?: Vector
}

/** A register, or a part of one. */
interface Vector {
  /** The instruction that sets it, and where it begins in that one's register. */
  index: number
  begin: number
  n: number
  /** That, as text to add to where the register is. */
  shift: string
}

/** What a piece is written with, once to see what it touches, and once for its text. */
interface Writer {
  /** A value's number of this thread's; its first number, and where it begins in `work`, where others have made it. */
  own(at: number): string
  one(at: number): string
  all(at: number): string
  set(at: number, value: string): void
  /** The cotangent of a value, in the same ways. */
  gradient(at: number): string
  gradientOne(at: number): string
  gradientAll(at: number): string
  add(at: number, value: string): void
  touch(space: Space, begin: number, size: number, by: Touch['by'], writes: boolean): void
  line(text: string): void
  /** A name for what stays the same in the stage, such as a place in memory. */
  named(text: string): string
  /** One a piece. What is written after it comes after the loop. */
  sweep(sweep: Sweep): void
  /** The sum of a term, by a sweep. */
  sum(turns: number, term: (turn: Turn) => string, column?: Column): string
}

/** A loop inside a piece's, whose counter is q. */
interface Sweep {
  turns: number
  column?: Column
  each: (turn: Turn) => readonly string[]
}

/** A column of a matrix: sweeps down the same one, by its name, find its numbers once. */
interface Column {
  name: string
  width: number
  place: string
  /** What a number of it is at first: that in memory, if nothing is said. */
  element?: (turn: Omit<Turn, 'm'>) => string
}

/** What a turn has: the column's number, and where it is; where the row begins; the number of a vector that is in memory. */
interface Turn {
  m: string
  at: string
  row: string
  of(vector: string): string
}

type Write = (writer: Writer) => void

/** A loop over n elements, j in its text. */
interface Piece {
  n: number
  write: Write
  touches: Touch[]
  sweeps: boolean
  stage: number
}

export interface NetSource {
  source: string
  /** Numbers of a slot, and slots, of the values and of the cotangents, that a token takes in memory. */
  slot: number
  values: number
  cotangents: number
}

type Entry = NetInstruction & { i: number }

/** How a register's numbers are found: in their place outside the registers, in another register, or where an instruction has put them. */
interface Source {
  from: 'input' | 'state' | 'parameter' | 'slice' | 'made'
  to: number
  n: number
}
const isFetched = (op: NetOp): op is Exclude<Source['from'], 'made'> => ['input', 'state', 'parameter', 'slice'].includes(op)

const fields = ['op', 'to', 'n', 'a', 'b', 'c', 'd', 'e', 'x', 'z'] as const
const up4 = (n: number): number => Math.ceil(n / 4) * 4

/** The line of a function in the table of math.wgsl: a call of the whole table would be compiled whole. */
const math = netProgram.files.find(({ name }) => name === 'math')!.source
const tableLine = (table: string, op: number): string => {
  const body = math.slice(math.indexOf(`fn ${table}(`))
  return body.match(new RegExp(`case ${op}u: \\{ return (.*); \\}`))![1]
}
const functions = (op: number): string => `fn unary${op}(x: f32) -> f32 { return ${tableLine('applyUnary', op)}; }
fn unaryBackward${op}(x: f32, y: f32, dy: f32) -> f32 { return ${tableLine('applyUnaryBackward', op)}; }`

/** A norm (a - mean) scale, with h what it makes and g its cotangent: a's is scale (g - shift - h along). What isn't there is 0. */
interface Norm {
  mean?: Statistic
  scale: Statistic
  shift?: Statistic
  along?: Statistic
}
/** What follows from the sum of a term: of a number of a, and the mean; of numbers of g and h. */
interface Statistic {
  term: (a: string, b: string) => string
  of: (sum: string, n: string, eps: string) => string
}

const product = (a: string, b: string): string => `${a} * ${b}`
const mean = (sum: string, n: string): string => `${sum} / f32(${n})`
const whole = (sum: string): string => sum
const norms: Record<NormKind, Norm> = {
  layer: {
    mean: { term: whole, of: mean },
    scale: { term: (a, m) => `(${a} - ${m}) * (${a} - ${m})`, of: (sum, n, eps) => `1.0 / sqrtOf(${mean(sum, n)} + ${eps})` },
    shift: { term: whole, of: mean },
    along: { term: product, of: mean },
  },
  rms: {
    scale: { term: (a) => product(a, a), of: (sum, n, eps) => `1.0 / sqrtOf(${mean(sum, n)} + ${eps})` },
    along: { term: product, of: mean },
  },
  l2: {
    scale: { term: (a) => product(a, a), of: (sum, _, eps) => `1.0 / sqrtOf(${sum} + ${eps})` },
    along: { term: product, of: whole },
  },
  sum: {
    scale: { term: whole, of: (sum, _, eps) => `1.0 / (${sum} + ${eps})` },
    shift: { term: product, of: whole },
  },
}

/** What net-program.wgsl lacks for a program. `parts`: those in the program, before its instructions. */
export function sourceOfNet(given: readonly NetInstruction[], parts: number): NetSource {
  const word = (i: number, field: (typeof fields)[number]): string => `program[${parts * partWords + i * netWords + fields.indexOf(field)}]`
  const number = (i: number, field: 'x' | 'z'): string => `bitcast<f32>(${word(i, field)})`
  const entries = given.map((instruction, i): Entry => ({ ...instruction, i }))
  // What the next token takes comes last: until then the state is what the token before left.
  const order = [...entries.filter(({ op }) => op !== 'next'), ...entries.filter(({ op }) => op === 'next')]

  // ---- vectors -----------------------------------------------------------------------------------------------------------------------
  const sources: Source[] = entries.map(({ op, to, n }) => ({ from: isFetched(op) ? op : 'made', to, n }))
  const setBy = new Map(entries.filter(({ op }) => !['write', 'next', 'output'].includes(op)).map(({ to, i }) => [to, i]))
  let end = Math.max(...entries.map(({ to, n }) => to + up4(n)))
  /** A vector that no instruction names. */
  function temporary(n: number): number {
    const at = end
    end += up4(n)
    setBy.set(at, sources.length)
    sources.push({ from: 'made', to: at, n })
    return at
  }
  function vectorOf(at: number): Vector {
    const index = setBy.get(at)!
    const { from, n } = sources[index]
    if (from !== 'slice') return { index, begin: at, n, shift: '' }
    const whole = vectorOf(entries[index].a)
    return { ...whole, begin: whole.begin + entries[index].b, n, shift: `${whole.shift} + ${word(index, 'b')}` }
  }
  // A state's vector that another one becomes has to be there when it itself has changed.
  for (const { op, a } of entries) {
    const { index } = op === 'next' ? vectorOf(a) : { index: -1 }
    if (sources[index]?.from === 'state') sources[index].from = 'made'
  }
  /** Names of the lengths of loops: equal ones have one. */
  const lengths = new Map<number, string>()
  const length = (n: number, text: string): number => {
    if (!lengths.has(n)) lengths.set(n, text)
    return n
  }
  const nameOf = (n: number): string => `n${[...lengths.keys()].indexOf(n)}`

  // ---- pieces ------------------------------------------------------------------------------------------------------------------------
  // Of instructions, by index: inputs of which threads look at others' numbers, what backward looks at, what has a cotangent, one in parts.
  const copied = new Set<number>()
  const kept = new Set<number>()
  const asked = new Set<number>()
  const cut = new Set<number>()

  function piece(to: Piece[], n: number, write: Write): void {
    const touches: Touch[] = []
    let sweeps = false
    const value = (at: number, by: Touch['by'], writes = false): string => {
      const vector = vectorOf(at)
      const { index, begin, n } = vector
      const { from } = sources[index]
      if (from === 'input' && by === 'all') copied.add(index)
      if (to === backward) kept.add(index)
      else if (from === 'state') {
        const place = entries[index].a + begin - sources[index].to
        touches.push({ space: 'state', begin: place, end: place + n, by, writes })
      } else if (from !== 'parameter' && (from !== 'input' || by === 'all' || writes))
        touches.push({ space: 'r', begin, end: begin + n, by, writes, vector })
      return ''
    }
    const gradient = (at: number, by: Touch['by'], writes: boolean): string => {
      const vector = vectorOf(at)
      const { index, begin, n } = vector
      if (writes) asked.add(index)
      if (n !== sources[index].n) cut.add(index)
      touches.push({ space: 'dr', begin, end: begin + n, by, writes, adds: writes, vector })
      return ''
    }
    write({
      own: (at) => value(at, 'own'),
      one: (at) => (sources[vectorOf(at).index].from === 'input' ? '' : value(at, 'all')),
      all: (at) => value(at, 'all'),
      set: (at) => void value(at, 'own', true),
      gradient: (at) => gradient(at, 'own', false),
      gradientOne: (at) => gradient(at, 'all', false),
      gradientAll: (at) => gradient(at, 'all', false),
      add: (at) => void gradient(at, 'own', true),
      touch: (space, begin, size, by, writes) => void touches.push({ space, begin, end: begin + size, by, writes }),
      line: () => {},
      named: () => '',
      sweep() {
        sweeps = true
      },
      sum() {
        sweeps = true
        return ''
      },
    })
    to.push({ n, write, touches, sweeps, stage: 0 })
  }
  const forward: Piece[] = []
  const backward: Piece[] = []

  const matrixSpace = ({ d, e }: Entry): string => (d ? 't.slow' : e ? 't.after' : 't.before')
  const each = ({ i, n }: Entry): number => length(n, word(i, 'n'))
  const rows = ({ i, c }: Entry): number => length(c, word(i, 'c'))
  /** What a whole vector comes to, one thread finds. */
  const one = length(1, '1')
  /** Where the scale of a norm is, by instruction. */
  const statistics = new Map<number, number>()
  /** Between the rows of a matrix n wide. */
  const step = (n: number): string => nameOf(n).replace('n', 'w')
  /** This thread's column of an instruction's matrix, and where its row begins. */
  const columnOf = (space: string, e: Entry, w: Writer): Column => {
    const at = e.op === 'read' ? 'b' : 'to'
    return { name: `${space} ${e[at]}`, width: e.n, place: w.named(`${space} + ${word(e.i, at)} + j`) }
  }
  const rowOf = (space: string, e: Entry, w: Writer): string =>
    w.named(`${space} + ${word(e.i, e.op === 'read' ? 'b' : 'to')} + j * ${step(e.n)}`)
  /** Of two vectors, or rows, in memory. */
  const dotOf = (a: string, b: string, n: number, w: Writer): string => w.sum(n, ({ of }) => product(of(a), of(b)))
  const sizeOf = ({ c, n }: Entry): number => c * up4(n)
  /** l M, where l isn't 1. */
  const decayed = ({ d, x }: Entry): boolean => d >= 0 || x !== 1
  const decay = ({ d, i }: Entry, w: Writer): string => w.named(d >= 0 ? w.one(d) : number(i, 'x'))
  /** What is written, before the activation. */
  function writtenOf(e: Entry, w: Writer): (turn: Omit<Turn, 'm'>) => string {
    const [k, u, last] = [w.all(e.a), w.own(e.b), columnOf('t.before', e, w).place]
    const l = decayed(e) ? `${decay(e, w)} * ` : ''
    return ({ row, of }) => `${l}work[${last} + ${row}] + ${of(k)} * ${u}`
  }

  const stepForward: Record<NetOp, (e: Entry) => void> = {
    input: () => {},
    state(e) {
      if (sources[e.i].from === 'state') return
      piece(forward, each(e), (w) => {
        w.touch('state', e.a, e.n, 'own', false)
        w.set(e.to, `work[t.before + ${word(e.i, 'a')} + j]`)
      })
    },
    parameter: () => {},
    slice: () => {},
    read: (e) =>
      piece(forward, each(e), (w) => {
        if (!e.d) w.touch('state', e.b, sizeOf(e), 'column', false)
        const k = w.all(e.a)
        w.set(
          e.to,
          w.sum(rows(e), ({ m, of }) => product(of(k), m), columnOf(matrixSpace(e), e, w)),
        )
      }),
    write: (e) =>
      piece(forward, each(e), (w) => {
        w.touch('state', e.to, sizeOf(e), 'column', true)
        const written = writtenOf(e, w)
        const element: Column['element'] = (turn) => (e.e < 0 ? written(turn) : `unary${e.e}(${written(turn)})`)
        w.sweep({ turns: rows(e), column: { ...columnOf('t.after', e, w), element }, each: ({ m, at }) => [`work[${at}] = ${m};`] })
      }),
    add: (e) => piece(forward, each(e), (w) => w.set(e.to, `${w.own(e.a)} + ${w.own(e.b)}`)),
    sub: (e) => piece(forward, each(e), (w) => w.set(e.to, `${w.own(e.a)} - ${w.own(e.b)}`)),
    mul: (e) => piece(forward, each(e), (w) => w.set(e.to, `${w.own(e.a)} * ${w.own(e.b)}`)),
    affine: (e) => piece(forward, each(e), (w) => w.set(e.to, `${number(e.i, 'x')} * ${w.own(e.a)} + ${number(e.i, 'z')}`)),
    times: (e) => piece(forward, each(e), (w) => w.set(e.to, `${e.n === 1 ? w.own(e.b) : w.one(e.b)} * ${w.own(e.a)}`)),
    dot: (e) => piece(forward, each(e), (w) => w.set(e.to, dotOf(w.all(e.a), w.all(e.b), rows(e), w))),
    unary: (e) => piece(forward, each(e), (w) => w.set(e.to, `unary${e.b}(${w.own(e.a)})`)),
    softmax(e) {
      const [largest, total] = [temporary(1), temporary(1)]
      piece(forward, one, (w) => {
        const [a, most] = [w.all(e.a), `largest${e.i}`]
        w.line(`var ${most} = -infinity();`)
        w.sweep({ turns: each(e), each: ({ of }) => [`${most} = maxOf(${most}, ${of(a)});`] })
        w.set(largest, most)
      })
      piece(forward, one, (w) => {
        const [a, most] = [w.all(e.a), w.own(largest)]
        w.set(total, `${w.sum(e.n, ({ of }) => `expOf(${of(a)} - ${most})`)} + ${number(e.i, 'x')}`)
      })
      piece(forward, each(e), (w) => w.set(e.to, `expOf(${w.own(e.a)} - ${w.one(largest)}) / ${w.one(total)}`))
    },
    norm(e) {
      const { mean, scale } = norms[normKinds[e.b]]
      const at = { mean: mean ? temporary(1) : undefined, scale: temporary(1) }
      statistics.set(e.i, at.scale)
      for (const [to, statistic] of [
        [at.mean, mean],
        [at.scale, scale],
      ] as const)
        if (to !== undefined && statistic)
          piece(forward, one, (w) => {
            const [a, m] = [w.all(e.a), statistic === scale && mean ? w.own(at.mean!) : '']
            const sum = w.sum(each(e), ({ of }) => statistic.term(of(a), m))
            w.set(to, statistic.of(sum, nameOf(e.n), number(e.i, 'x')))
          })
      piece(forward, each(e), (w) => w.set(e.to, `(${w.own(e.a)}${mean ? ` - ${w.one(at.mean!)}` : ''}) * ${w.one(at.scale)}`))
    },
    concat: (e) =>
      piece(forward, each(e), (w) => {
        const [a, b] = [w.all(e.a), w.all(e.b)]
        w.set(e.to, `work[select(${b} + j - ${word(e.i, 'c')}, ${a} + j, j < ${word(e.i, 'c')})]`)
      }),
    next: (e) =>
      piece(forward, each(e), (w) => {
        w.touch('state', e.to, e.n, 'own', true)
        w.line(`work[t.after + ${word(e.i, 'to')} + j] = ${w.own(e.a)};`)
      }),
    output: (e) =>
      piece(forward, each(e), (w) => {
        w.line(`if (p.kept == 0) { y[t.row * p.O + j] = ${w.own(e.a)}; }`)
      }),
  }

  const stepBackward: Record<NetOp, (e: Entry) => void> = {
    input: (e) =>
      piece(backward, each(e), (w) => w.line(`dx[t.row * p.I + ${word(e.i, 'a')} + j] = ${asked.has(e.i) ? w.gradient(e.to) : '0.0'};`)),
    state: (e) =>
      piece(backward, each(e), (w) => {
        w.touch('dstate', e.a, e.n, 'own', true)
        w.line(`work[d.state + ${word(e.i, 'a')} + j] += ${w.gradient(e.to)};`)
      }),
    parameter: (e) =>
      piece(backward, each(e), (w) => {
        w.touch('dslow', e.a, e.n, 'own', true)
        w.line(`work[d.slow + ${word(e.i, 'a')} + j] += ${w.gradient(e.to)};`)
      }),
    slice: () => {},
    read(e) {
      piece(backward, each(e), (w) => {
        w.touch(e.d ? 'dslow' : 'dstate', e.b, sizeOf(e), 'column', true)
        const [k, g] = [w.all(e.a), w.gradient(e.to)]
        w.sweep({
          turns: rows(e),
          column: columnOf(e.d ? 'd.slow' : 'd.state', e, w),
          each: ({ m, at, of }) => [`${m} += ${of(k)} * ${g};`, `work[${at}] = ${m};`],
        })
      })
      piece(backward, rows(e), (w) => w.add(e.a, dotOf(rowOf(matrixSpace(e), e, w), w.gradientAll(e.to), e.n, w)))
    },
    write(e) {
      if (e.e >= 0)
        piece(backward, each(e), (w) => {
          w.touch('dstate', e.to, sizeOf(e), 'column', true)
          const [written, made] = [writtenOf(e, w), columnOf('t.after', e, w).place]
          w.sweep({
            turns: rows(e),
            column: columnOf('d.state', e, w),
            each: (turn) => {
              const { m, at, row } = turn
              return [`${m} = unaryBackward${e.e}(${written(turn)}, work[${made} + ${row}], ${m});`, `work[${at}] = ${m};`]
            },
          })
        })
      piece(backward, each(e), (w) => {
        w.touch('dstate', e.to, sizeOf(e), 'column', false)
        const k = w.all(e.a)
        w.add(
          e.b,
          w.sum(rows(e), ({ m, of }) => product(of(k), m), columnOf('d.state', e, w)),
        )
      })
      piece(backward, rows(e), (w) => {
        w.touch('dstate', e.to, sizeOf(e), 'row', false)
        w.add(e.a, dotOf(rowOf('d.state', e, w), w.all(e.b), each(e), w))
      })
      if (!decayed(e)) return
      const sums = e.d >= 0 ? temporary(e.n) : -1
      piece(backward, each(e), (w) => {
        w.touch('dstate', e.to, sizeOf(e), 'column', true)
        const [l, last, s] = [decay(e, w), columnOf('t.before', e, w).place, `along${e.i}`]
        if (e.d >= 0) w.line(`var ${s} = 0.0;`)
        w.sweep({
          turns: rows(e),
          column: columnOf('d.state', e, w),
          each: ({ m, at, row }) => [
            ...(e.d >= 0 ? [`${s} += ${m} * work[${last} + ${row}];`] : []),
            `${m} *= ${l};`,
            `work[${at}] = ${m};`,
          ],
        })
        if (e.d >= 0) w.add(sums, s)
      })
      if (e.d >= 0)
        piece(backward, one, (w) => {
          const g = w.gradientAll(sums)
          w.add(
            e.d,
            w.sum(e.n, ({ of }) => of(g)),
          )
        })
    },
    add: (e) =>
      piece(backward, each(e), (w) => {
        w.add(e.a, w.gradient(e.to))
        w.add(e.b, w.gradient(e.to))
      }),
    sub: (e) =>
      piece(backward, each(e), (w) => {
        w.add(e.a, w.gradient(e.to))
        w.add(e.b, `-${w.gradient(e.to)}`)
      }),
    mul: (e) =>
      piece(backward, each(e), (w) => {
        w.add(e.a, `${w.gradient(e.to)} * ${w.own(e.b)}`)
        w.add(e.b, `${w.gradient(e.to)} * ${w.own(e.a)}`)
      }),
    affine: (e) => piece(backward, each(e), (w) => w.add(e.a, `${number(e.i, 'x')} * ${w.gradient(e.to)}`)),
    times(e) {
      if (e.n === 1) return stepBackward.mul(e)
      piece(backward, each(e), (w) => w.add(e.a, `${w.one(e.b)} * ${w.gradient(e.to)}`))
      piece(backward, one, (w) => w.add(e.b, dotOf(w.all(e.a), w.gradientAll(e.to), e.n, w)))
    },
    dot: (e) =>
      piece(backward, rows(e), (w) => {
        w.add(e.a, `${w.gradientOne(e.to)} * ${w.own(e.b)}`)
        w.add(e.b, `${w.gradientOne(e.to)} * ${w.own(e.a)}`)
      }),
    unary: (e) => piece(backward, each(e), (w) => w.add(e.a, `unaryBackward${e.b}(${w.own(e.a)}, ${w.own(e.to)}, ${w.gradient(e.to)})`)),
    softmax(e) {
      const along = temporary(1)
      piece(backward, one, (w) => w.add(along, dotOf(w.gradientAll(e.to), w.all(e.to), e.n, w)))
      piece(backward, each(e), (w) => w.add(e.a, `${w.own(e.to)} * (${w.gradient(e.to)} - ${w.gradientOne(along)})`))
    },
    norm(e) {
      const { shift, along } = norms[normKinds[e.b]]
      const at = { shift: shift && temporary(1), along: along && temporary(1) }
      for (const [to, statistic] of [
        [at.shift, shift],
        [at.along, along],
      ] as const)
        if (to !== undefined && statistic)
          piece(backward, one, (w) => {
            const [g, h] = [w.gradientAll(e.to), w.all(e.to)]
            w.add(
              to,
              statistic.of(
                w.sum(e.n, ({ of }) => statistic.term(of(g), of(h))),
                nameOf(e.n),
                '',
              ),
            )
          })
      piece(backward, each(e), (w) => {
        const terms = [at.shift && w.gradientOne(at.shift), at.along && `${w.own(e.to)} * ${w.gradientOne(at.along)}`]
        w.add(e.a, `${w.one(statistics.get(e.i)!)} * (${[w.gradient(e.to), ...terms.filter(Boolean)].join(' - ')})`)
      })
    },
    concat(e) {
      piece(backward, rows(e), (w) => w.add(e.a, `work[${w.gradientAll(e.to)} + j]`))
      piece(backward, length(e.n - e.c, `${word(e.i, 'n')} - ${word(e.i, 'c')}`), (w) =>
        w.add(e.b, `work[${w.gradientAll(e.to)} + ${word(e.i, 'c')} + j]`),
      )
    },
    next: (e) =>
      piece(backward, each(e), (w) => {
        w.touch('dstate', e.to, e.n, 'own', true)
        const at = `work[d.state + ${word(e.i, 'to')} + j]`
        w.add(e.a, at)
        w.line(`${at} = 0.0;`)
      }),
    output: (e) => piece(backward, each(e), (w) => w.add(e.a, 'dy[t.row * p.O + j]')),
  }

  for (const e of order) stepForward[e.op](e)
  for (const e of [...order].reverse())
    if (['next', 'output', 'write', 'input'].includes(e.op) || asked.has(vectorOf(e.to).index)) stepBackward[e.op](e)
  // First of all, inputs are copied, and cotangents that come in parts are 0.
  const before = (list: Piece[], pieces: () => void): void => {
    const rest = list.splice(0)
    pieces()
    list.push(...rest)
  }
  before(forward, () => {
    for (const i of copied) piece(forward, each(entries[i]), (w) => w.set(entries[i].to, w.own(entries[i].to)))
  })
  before(backward, () => {
    for (const i of cut) piece(backward, each(entries[i]), (w) => w.add(entries[i].to, '0.0'))
  })
  return write()

  // ---- stages, and their text ----------------------------------------------------------------------------------------------------------
  function write(): NetSource {
    stage(forward)
    stage(backward)
    const [values, cotangents] = [
      slotsOf(forward, 'r', (i) => kept.has(i) && sources[i].from !== 'input'),
      slotsOf(backward, 'dr', (i) => cut.has(i)),
    ]
    for (const i of copied) if (!values.has(i)) values.set(i, values.size)
    const ranges = new Map<string, number>()
    const forwardText = textOf(forward)
    const backwardText = textOf(backward)
    const unaries = new Set(entries.flatMap(({ op, b, e }) => (op === 'unary' ? [b] : op === 'write' && e >= 0 ? [e] : [])))
    const names = [...lengths].map(([n, text]) => `let ${nameOf(n)} = ${text};\nlet ${step(n)} = up4(${nameOf(n)});`).join('\n')
    // What a thread does for all matrices, column by column and row by row: by twice as many threads, unless most of them would mostly wait.
    const turns = (threads: number): number =>
      entries
        .filter(({ op }) => op === 'read' || op === 'write')
        .reduce((sum, { c, n }) => sum + c * Math.ceil(n / threads) + n * Math.ceil(c / threads), 0)
    const threads = turns(64) < 0.8 * turns(32) ? 64 : 32
    const slot = up4(Math.max(1, ...[...values.keys(), ...cotangents.keys()].map((i) => sources[i].n)))
    const source = [
      `const threads = ${threads};`,
      ...[...unaries].sort((a, b) => a - b).map(functions),
      `fn forward(t: Token, thread: i32) {\n${names}\n${forwardText}\n}`,
      `fn backward(t: Token, d: Cotangents, thread: i32) {\n${names}\n${backwardText}\n}`,
    ].join('\n')
    return { source, slot, values: values.size, cotangents: cotangents.size }

    function textOf(pieces: readonly Piece[]): string {
      const stages = loopsOf(pieces)
      const first = new Map<number, readonly Piece[]>()
      const lines: string[] = []
      stages.forEach((loops, s) => {
        if (s > 0) lines.push('storageBarrier();')
        for (const loop of loops) lines.push(...textOfLoop(loop, first))
      })
      return lines.join('\n')
    }

    function textOfLoop(loop: readonly Piece[], first: Map<number, readonly Piece[]>): string[] {
      const lines = [`for (var j = thread; j < ${nameOf(loop[0].n)}; j += threads) {`]
      const known = new Set<string>()
      const named = new Map<string, string>()
      const changed = new Map<string, string>()
      /** Of the pieces that share loops: these, and what comes after. */
      let sweeps: Sweep[] = []
      let after: string[] = []
      let sums = 0
      /** Where a piece writes: before its sweep to `lines`, after it to `after`. What is looked up in memory is so before. */
      let statements = lines
      const place = (at: number): string => {
        const { index, shift } = vectorOf(at)
        const { from } = sources[index]
        if (from === 'state' || from === 'parameter') return `${from === 'state' ? 't.before' : 't.slow'} + ${word(index, 'a')}${shift}`
        return `t.r + ${values.get(index)} * p.slot${shift}`
      }
      const dPlace = (at: number): string => {
        const { index, shift } = vectorOf(at)
        return `d.r + ${cotangents.get(index)} * p.slot${shift}`
      }
      const name = (letter: string, at: number): string => {
        const { begin, n } = vectorOf(at)
        const range = `${begin} ${n}`
        if (!ranges.has(range)) ranges.set(range, ranges.size)
        return `${letter}${ranges.get(range)}`
      }
      const inX = (at: number): string | undefined => {
        const { index, shift } = vectorOf(at)
        return sources[index].from === 'input' ? `t.row * p.I + ${word(index, 'a')}${shift}` : undefined
      }
      const own = (at: number): string => {
        const v = name('v', at)
        if (!known.has(v)) lines.push(`let ${v} = ${inX(at) ? `x[${inX(at)} + j]` : `work[${place(at)} + j]`};`)
        known.add(v)
        return v
      }
      const gradient = (at: number): string => {
        const g = name('g', at)
        const { index } = vectorOf(at)
        if (!known.has(g)) {
          if (!first.has(index)) first.set(index, loop)
          lines.push(`var ${g} = ${first.get(index) === loop ? '0.0' : `work[${dPlace(at)} + j]`};`)
        }
        known.add(g)
        return g
      }
      const writer: Writer = {
        own,
        one: (at) => (inX(at) ? `x[${inX(at)}]` : `work[${place(at)}]`),
        all: (at) => writer.named(place(at)),
        set(at, value) {
          const v = name('v', at)
          const { index } = vectorOf(at)
          if (!known.has(v)) statements.push(`let ${v} = ${value};`)
          known.add(v)
          if (values.has(index)) statements.push(`work[${place(at)} + j] = ${v};`)
        },
        gradient,
        gradientOne: (at) => `work[${dPlace(at)}]`,
        gradientAll: (at) => writer.named(dPlace(at)),
        add(at, value) {
          statements.push(`${gradient(at)} += ${value};`)
          if (cotangents.has(vectorOf(at).index)) changed.set(gradient(at), dPlace(at))
        },
        touch: () => {},
        line: (text) => void statements.push(text),
        named(text) {
          if (!named.has(text)) {
            named.set(text, `c${named.size}`)
            lines.push(`let ${named.get(text)} = ${text};`)
          }
          return named.get(text)!
        },
        sweep(sweep) {
          sweeps.push(sweep)
          statements = after
        },
        sum(turns, term, column) {
          const s = `s${sums++}`
          statements.push(`var ${s} = 0.0;`)
          writer.sweep({ turns, column, each: (turn) => [`${s} += ${term(turn)};`] })
          return s
        },
      }
      for (const pieces of turnsOf(loop)) {
        for (const { write } of pieces) {
          statements = lines
          write(writer)
        }
        lines.push(...textOfSweeps(sweeps), ...after)
        sweeps = []
        after = []
      }
      for (const [g, at] of changed) lines.push(`work[${at} + j] = ${g};`)
      return [...lines, '}']
    }
  }

  function textOfSweeps(sweeps: readonly Sweep[]): string[] {
    return [...new Set(sweeps.map(({ turns }) => turns))].flatMap((turns) => {
      const lines: string[] = []
      const numbers = new Map<string, string>()
      const number = (name: string, letter: string, value: () => string, keyword = 'let'): string => {
        if (!numbers.has(name)) {
          const text = value()
          numbers.set(name, `${letter}${numbers.size}`)
          lines.push(`${keyword} ${numbers.get(name)} = ${text};`)
        }
        return numbers.get(name)!
      }
      const of = (vector: string): string => number(vector, 'a', () => `work[${vector} + q]`)
      for (const { turns: own, column, each } of sweeps) {
        if (own !== turns) continue
        if (!column) {
          lines.push(...each({ m: '', at: '', row: '', of }))
          continue
        }
        const { name, width, place, element } = column
        const row = number(step(width), 'row', () => `q * ${step(width)}`)
        const at = `${place} + ${row}`
        const m = number(name, 'm', () => element?.({ at, row, of }) ?? `work[${at}]`, 'var')
        lines.push(...each({ m, at, row, of }))
      }
      return [`for (var q = 0; q < ${nameOf(turns)}; q++) {`, ...lines, '}']
    })
  }

  /** Slots of those vectors that have to be in memory: others look at them, or another loop does. */
  function slotsOf(pieces: readonly Piece[], space: Space, always: (index: number) => boolean): Map<number, number> {
    const loops = new Map<number, Piece[]>()
    const slots = new Map<number, number>()
    for (const loop of loopsOf(pieces).flat())
      for (const { touches } of loop)
        for (const { vector, by, space: where } of touches) {
          if (where !== space || !vector) continue
          const { index } = vector
          if (!loops.has(index)) loops.set(index, loop)
          if ((by === 'all' || always(index) || loops.get(index) !== loop) && !slots.has(index)) slots.set(index, slots.size)
        }
    return slots
  }
}

/** Whether it makes a difference which of two comes first. */
const meet = (a: Touch, b: Touch): boolean => a.space === b.space && a.end > b.begin && b.end > a.begin && (a.writes || b.writes)
/** Whether each thread has the same of both. */
const isOwn = (a: Touch, b: Touch): boolean => a.by === b.by && a.by !== 'all' && a.begin === b.begin && a.end === b.end

/**
 * Each piece's stage, at the earliest: that of an earlier one which touches the same, where a thread has it from itself, and else the next. What goes
 * down a column then waits for what looks at it, if only at the end: so that two reads of a matrix, or what they ask of it, can be one sweep.
 */
function stage(pieces: readonly Piece[]): void {
  /** How many stages later than `a` b has to be; nothing where it doesn't matter. */
  const distances = (a: Piece, b: Piece): number[] =>
    a.touches.flatMap((x) => b.touches.filter((y) => meet(x, y)).map((y) => Number(!isOwn(x, y))))
  pieces.forEach((piece, k) => {
    for (const other of pieces.slice(0, k)) for (const n of distances(other, piece)) piece.stage = Math.max(piece.stage, other.stage + n)
  })
  const last = Math.max(0, ...pieces.map(({ stage }) => stage))
  for (let k = pieces.length - 1; k >= 0; k--) {
    const piece = pieces[k]
    if (!piece.touches.some(({ by }) => by === 'column')) continue
    const limits = pieces.slice(k + 1).flatMap((other) => distances(piece, other).map((n) => other.stage - n))
    piece.stage = Math.min(last, ...limits)
  }
}

/**
 * The pieces of a loop, in an order: those whose sweeps are one loop together, and before these what has none. One that waits for another's sweep
 * comes after it, unless both go down the same column, number by number.
 */
function turnsOf(loop: readonly Piece[]): Piece[][] {
  const turns = new Map<Piece, number>()
  loop.forEach((piece, k) => {
    const waits = loop.slice(0, k).map((other) => {
      const met = other.touches.flatMap((a) => piece.touches.filter((b) => meet(a, b) && !(a.adds && b.adds)).map((b) => [a, b]))
      if (met.length === 0) return 0
      const together = piece.sweeps && met.every(([a, b]) => a.by === 'column' && isOwn(a, b))
      return turns.get(other)! + Number(other.sweeps && !together)
    })
    turns.set(piece, Math.max(0, ...waits))
  })
  const all = Array.from({ length: Math.max(...turns.values()) + 1 }, (_, turn) => loop.filter((piece) => turns.get(piece) === turn))
  return all.map((pieces) => [...pieces.filter(({ sweeps }) => !sweeps), ...pieces.filter(({ sweeps }) => sweeps)])
}

/** The loops of each stage. */
function loopsOf(pieces: readonly Piece[]): Piece[][][] {
  const stages: Map<number, Piece[]>[] = []
  for (const piece of pieces) {
    stages[piece.stage] ??= new Map()
    const loop = stages[piece.stage].get(piece.n)
    if (loop) loop.push(piece)
    else stages[piece.stage].set(piece.n, [piece])
  }
  return stages.map((loops) => [...loops.values()])
}
