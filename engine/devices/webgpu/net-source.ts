/**
 * The shader of a recurrent net: what its program does to a token, forward and backward, as WGSL (`forward` and `backward` of kernels-wgsl/net-program.wgsl).
 *
 * Each instruction is cut into pieces, loops over the numbers of a vector, or the columns or rows of a matrix, of which thread j has those at
 * j, j + threads, ... A piece says which memory it touches: as a thread's own, where nobody else looks, or anybody's. Pieces go into stages, each
 * as early as it can, so that barriers stand between stages only; those of one stage and length share a loop, in which what a thread makes for itself
 * goes from one piece to the next in a variable. What no other loop looks at is never in memory.
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
  sweep(sweep: Sweep): void
  line(text: string): void
}

/**
 * A loop over the rows of a matrix, whose element in this thread's column is m in `each`, `at` numbers from where the column begins. One behind the
 * other on the same numbers share a loop, so that these are read once.
 */
interface Sweep {
  numbers: string
  rows: number
  width: number
  /** Lines before the loop. */
  head: readonly string[]
  /** What m is at first. */
  element: string
  each: readonly string[]
}

type Write = (writer: Writer) => void

/** A loop over n elements, j in its text. */
interface Piece {
  n: number
  write: Write
  touches: Touch[]
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

/** A norm (a - mean) scale, with h what it makes and g its cotangent: a's is scale (g - shift - h along). Without a mean it's 0, and so on. */
interface Norm {
  mean?: (a: string, n: string) => string
  scale: (a: string, n: string, eps: string, mean: string) => string
  shift?: (g: string, h: string, n: string) => string
  along?: (g: string, h: string, n: string) => string
}

const norms: Record<NormKind, Norm> = {
  layer: {
    mean: (a, n) => `sumOf(${a}, ${n}) / f32(${n})`,
    scale: (a, n, eps, mean) => `1.0 / sqrtOf(squaresOf(${a}, ${n}, ${mean}) / f32(${n}) + ${eps})`,
    shift: (g, _, n) => `sumOf(${g}, ${n}) / f32(${n})`,
    along: (g, h, n) => `dotOf(${g}, ${h}, ${n}) / f32(${n})`,
  },
  rms: {
    scale: (a, n, eps) => `1.0 / sqrtOf(squaresOf(${a}, ${n}, 0.0) / f32(${n}) + ${eps})`,
    along: (g, h, n) => `dotOf(${g}, ${h}, ${n}) / f32(${n})`,
  },
  l2: {
    scale: (a, n, eps) => `1.0 / sqrtOf(squaresOf(${a}, ${n}, 0.0) + ${eps})`,
    along: (g, h, n) => `dotOf(${g}, ${h}, ${n})`,
  },
  sum: {
    scale: (a, n, eps) => `1.0 / (sumOf(${a}, ${n}) + ${eps})`,
    shift: (g, h, n) => `dotOf(${g}, ${h}, ${n})`,
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
      touches.push({ space: 'dr', begin, end: begin + n, by, writes, vector })
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
      sweep: () => {},
      line: () => {},
    })
    to.push({ n, write, touches, stage: 0 })
  }
  const forward: Piece[] = []
  const backward: Piece[] = []

  const matrixSpace = ({ d, e }: Entry): string => (d ? 't.slow' : e ? 't.after' : 't.before')
  const matrixOf = (e: Entry): string => `${matrixSpace(e)} + ${word(e.i, 'b')}`
  const each = ({ i, n }: Entry): number => length(n, word(i, 'n'))
  const rows = ({ i, c }: Entry): number => length(c, word(i, 'c'))
  /** What a whole vector comes to, one thread finds. */
  const one = length(1, '1')
  /** Where the scale of a norm is, by instruction. */
  const statistics = new Map<number, number>()
  /** Between the rows of a matrix n wide. */
  const step = (n: number): string => nameOf(n).replace('n', 'w')
  const sizeOf = ({ c, n }: Entry): number => c * up4(n)
  /** l M, where l isn't 1. */
  const decayed = ({ d, x }: Entry): boolean => d >= 0 || x !== 1
  const decay = ({ d, i }: Entry, w: Writer): string => (d >= 0 ? w.one(d) : number(i, 'x'))

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
        const [from, sum] = [`m${e.i}`, `s${e.i}`]
        w.sweep({
          numbers: `${matrixSpace(e)} ${e.b}`,
          rows: rows(e),
          width: e.n,
          head: [`let ${from} = ${matrixOf(e)} + j;`, `let k${e.i} = ${w.all(e.a)};`, `var ${sum} = 0.0;`],
          element: `work[${from} + at]`,
          each: [`${sum} += work[k${e.i} + q] * m;`],
        })
        w.set(e.to, sum)
      }),
    write: (e) =>
      piece(forward, each(e), (w) => {
        w.touch('state', e.to, sizeOf(e), 'column', true)
        const [u, place] = [w.own(e.b), `m${e.i}`]
        const [l, times] = decayed(e) ? [[`let l${e.i} = ${decay(e, w)};`], `l${e.i} * `] : [[], '']
        const written = `${times}work[t.before + ${place} + at] + work[k${e.i} + q] * ${u}`
        w.sweep({
          numbers: `t.after ${e.to}`,
          rows: rows(e),
          width: e.n,
          head: [`let ${place} = ${word(e.i, 'to')} + j;`, `let k${e.i} = ${w.all(e.a)};`, ...l],
          element: e.e < 0 ? written : `unary${e.e}(${written})`,
          each: [`work[t.after + ${place} + at] = m;`],
        })
      }),
    add: (e) => piece(forward, each(e), (w) => w.set(e.to, `${w.own(e.a)} + ${w.own(e.b)}`)),
    sub: (e) => piece(forward, each(e), (w) => w.set(e.to, `${w.own(e.a)} - ${w.own(e.b)}`)),
    mul: (e) => piece(forward, each(e), (w) => w.set(e.to, `${w.own(e.a)} * ${w.own(e.b)}`)),
    affine: (e) => piece(forward, each(e), (w) => w.set(e.to, `${number(e.i, 'x')} * ${w.own(e.a)} + ${number(e.i, 'z')}`)),
    times: (e) => piece(forward, each(e), (w) => w.set(e.to, `${e.n === 1 ? w.own(e.b) : w.one(e.b)} * ${w.own(e.a)}`)),
    dot: (e) => piece(forward, each(e), (w) => w.set(e.to, `dotOf(${w.all(e.a)}, ${w.all(e.b)}, ${nameOf(rows(e))})`)),
    unary: (e) => piece(forward, each(e), (w) => w.set(e.to, `unary${e.b}(${w.own(e.a)})`)),
    softmax(e) {
      const [largest, total] = [temporary(1), temporary(1)]
      piece(forward, one, (w) => {
        w.set(largest, `largestOf(${w.all(e.a)}, ${nameOf(e.n)})`)
        w.set(total, `powersOf(${w.all(e.a)}, ${nameOf(e.n)}, ${w.own(largest)}) + ${number(e.i, 'x')}`)
      })
      piece(forward, each(e), (w) => w.set(e.to, `expOf(${w.own(e.a)} - ${w.one(largest)}) / ${w.one(total)}`))
    },
    norm(e) {
      const { mean, scale } = norms[normKinds[e.b]]
      const at = { mean: mean ? temporary(1) : undefined, scale: temporary(1) }
      statistics.set(e.i, at.scale)
      const n = nameOf(each(e))
      piece(forward, one, (w) => {
        if (mean) w.set(at.mean!, mean(w.all(e.a), n))
        w.set(at.scale, scale(w.all(e.a), n, number(e.i, 'x'), mean ? w.own(at.mean!) : '0.0'))
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
        const [space, place, g] = [e.d ? 'd.slow' : 'd.state', `m${e.i}`, w.gradient(e.to)]
        w.sweep({
          numbers: `${space} ${e.b}`,
          rows: rows(e),
          width: e.n,
          head: [`let ${place} = ${space} + ${word(e.i, 'b')} + j;`, `let k${e.i} = ${w.all(e.a)};`],
          element: `work[${place} + at]`,
          each: [`m += work[k${e.i} + q] * ${g};`, `work[${place} + at] = m;`],
        })
      })
      piece(backward, rows(e), (w) => w.add(e.a, `dotOf(${matrixOf(e)} + j * ${step(e.n)}, ${w.gradientAll(e.to)}, ${nameOf(e.n)})`))
    },
    write(e) {
      const dM = `d.state + ${word(e.i, 'to')}`
      if (e.e >= 0)
        piece(backward, each(e), (w) => {
          w.touch('dstate', e.to, sizeOf(e), 'column', true)
          w.line(`{ let u = ${w.own(e.b)};`)
          w.line(`let k = ${w.all(e.a)};`)
          if (decayed(e)) w.line(`let l = ${decay(e, w)};`)
          w.line(`for (var q = 0; q < ${nameOf(rows(e))}; q++) {`)
          w.line(`let at = ${word(e.i, 'to')} + j + q * ${step(e.n)};`)
          w.line(`let m = ${decayed(e) ? 'l * ' : ''}work[t.before + at] + work[k + q] * u;`)
          w.line(`work[d.state + at] = unaryBackward${e.e}(m, work[t.after + at], work[d.state + at]); } }`)
        })
      piece(backward, each(e), (w) => {
        w.touch('dstate', e.to, sizeOf(e), 'column', false)
        const [from, sum] = [`m${e.i}`, `s${e.i}`]
        w.sweep({
          numbers: `d.state ${e.to}`,
          rows: rows(e),
          width: e.n,
          head: [`let ${from} = ${dM} + j;`, `let k${e.i} = ${w.all(e.a)};`, `var ${sum} = 0.0;`],
          element: `work[${from} + at]`,
          each: [`${sum} += work[k${e.i} + q] * m;`],
        })
        w.add(e.b, sum)
      })
      piece(backward, rows(e), (w) => {
        w.touch('dstate', e.to, sizeOf(e), 'row', false)
        w.add(e.a, `dotOf(${dM} + j * ${step(e.n)}, ${w.all(e.b)}, ${nameOf(each(e))})`)
      })
      if (!decayed(e)) return
      const sums = e.d >= 0 ? temporary(e.n) : -1
      piece(backward, each(e), (w) => {
        w.touch('dstate', e.to, sizeOf(e), 'column', true)
        const place = `${word(e.i, 'to')} + j`
        const decayBackward = `decayColumn(d.state + ${place}, t.before + ${place}, ${decay(e, w)}, ${nameOf(rows(e))}, ${step(e.n)})`
        if (e.d >= 0) w.add(sums, decayBackward)
        else w.line(`_ = ${decayBackward};`)
      })
      if (e.d >= 0) piece(backward, one, (w) => w.add(e.d, `sumOf(${w.gradientAll(sums)}, ${nameOf(e.n)})`))
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
      piece(backward, one, (w) => w.add(e.b, `dotOf(${w.all(e.a)}, ${w.gradientAll(e.to)}, ${nameOf(e.n)})`))
    },
    dot: (e) =>
      piece(backward, rows(e), (w) => {
        w.add(e.a, `${w.gradientOne(e.to)} * ${w.own(e.b)}`)
        w.add(e.b, `${w.gradientOne(e.to)} * ${w.own(e.a)}`)
      }),
    unary: (e) => piece(backward, each(e), (w) => w.add(e.a, `unaryBackward${e.b}(${w.own(e.a)}, ${w.own(e.to)}, ${w.gradient(e.to)})`)),
    softmax(e) {
      const along = temporary(1)
      piece(backward, one, (w) => w.add(along, `dotOf(${w.gradientAll(e.to)}, ${w.all(e.to)}, ${nameOf(e.n)})`))
      piece(backward, each(e), (w) => w.add(e.a, `${w.own(e.to)} * (${w.gradient(e.to)} - ${w.gradientOne(along)})`))
    },
    norm(e) {
      const { shift, along } = norms[normKinds[e.b]]
      const at = { shift: shift && temporary(1), along: along && temporary(1) }
      piece(backward, one, (w) => {
        for (const [name, text] of Object.entries({ shift, along }))
          if (text) w.add(at[name as 'shift' | 'along']!, text(w.gradientAll(e.to), w.all(e.to), nameOf(e.n)))
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
      const changed = new Map<string, string>()
      /** The sweep that was written last: where its loop begins, and where the next line was. */
      let swept: { numbers: string; loop: number; end: number } | undefined
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
        all: place,
        set(at, value) {
          const v = name('v', at)
          const { index } = vectorOf(at)
          if (!known.has(v)) lines.push(`let ${v} = ${value};`)
          known.add(v)
          if (values.has(index)) lines.push(`work[${place(at)} + j] = ${v};`)
        },
        gradient,
        gradientOne: (at) => `work[${dPlace(at)}]`,
        gradientAll: dPlace,
        add(at, value) {
          lines.push(`${gradient(at)} += ${value};`)
          if (cotangents.has(vectorOf(at).index)) changed.set(gradient(at), dPlace(at))
        },
        touch: () => {},
        sweep({ numbers, rows, width, head, element, each }) {
          if (swept?.numbers === numbers && swept.end === lines.length) {
            lines.splice(-1, 0, ...each)
            lines.splice(swept.loop, 0, ...head)
            swept.loop += head.length
          } else {
            lines.push(...head)
            swept = { numbers, loop: lines.length, end: 0 }
            lines.push(`for (var q = 0; q < ${nameOf(rows)}; q++) {`, `let at = q * ${step(width)};`, `var m = ${element};`, ...each, '}')
          }
          swept.end = lines.length
        },
        line: (text) => void lines.push(text),
      }
      for (const { write } of loop) write(writer)
      for (const [g, at] of changed) lines.push(`work[${at} + j] = ${g};`)
      return [...lines, '}']
    }
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

/** Each piece's stage, at the earliest: that of an earlier one which touches the same, where a thread has it from itself, and else the next. */
function stage(pieces: readonly Piece[]): void {
  pieces.forEach((piece, k) => {
    for (const other of pieces.slice(0, k))
      for (const a of other.touches)
        for (const b of piece.touches) {
          if (a.space !== b.space || a.end <= b.begin || b.end <= a.begin || !(a.writes || b.writes)) continue
          const own = a.by === b.by && a.by !== 'all' && a.begin === b.begin && a.end === b.end
          piece.stage = Math.max(piece.stage, other.stage + Number(!own))
        }
  })
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
