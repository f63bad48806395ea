/**
 * Recurrent nets as programs. A net with fast weights computes, for every token and head, some vectors from what the slow net gives, from its
 * state and from what it wrote into its fast matrices. It is written down once, as a list of instructions on vectors and matrices:
 *
 *     const deltaNet = defineNet('delta net', (net) => {
 *       const W = net.matrix('W', K, V)
 *       const { q, k, v, beta } = net.inputs({ q: K, k: K, v: V, beta: 1 })
 *       net.delta(W, net.softmax(k), v, net.sigmoid(beta))
 *       net.output(net.read(W, net.softmax(q)))
 *     })
 *
 * `runNet` (run.ts) runs it: token by token in composed ops, which is its specification, or by one fused kernel of the device, whatever the net.
 *
 * The order counts: a read after a matrix's write sees the new matrix. A vector of the state is what the token before left, until the end of
 * the token. Matrices are [in, out]: reading is row times matrix, a M, and a write adds k u^T.
 */
import {
  type NetInstruction as Instruction,
  type NetOp,
  type NetSizes,
  type NormKind,
  netOps,
  netWords,
  normKinds,
  partWords,
  type UnaryOp,
  unaryOps,
} from '../devices/kernels.ts'
import { sizeOf } from '../shape.ts'

/** A register of the program. */
export interface Vector {
  /** How many numbers it holds. */
  readonly width: number
  /** Where it begins among the registers, in numbers. */
  readonly at: number
}

/** A fast matrix, or a slow one (a parameter). */
export interface Matrix {
  readonly name: string
  readonly rows: number
  readonly columns: number
  readonly at: number
  /** Whether it is a parameter, which a program reads and doesn't write. */
  readonly slow: boolean
}

/** A part of the state, or a parameter: its shape for each head, and where it begins in packed arrays and in a kernel's memory. */
export interface Part {
  readonly shape: readonly number[]
  readonly at: number
  readonly place: number
}

/**
 * A recurrent net, compiled: its inputs, state and slow weights, and the program that computes a token. `defineNet` makes it, `runNet`
 * runs it.
 */
export interface Net {
  readonly name: string
  /** In their order in x [B,T,H,I]: widths by name. */
  readonly inputs: Readonly<Record<string, number>>
  /** Width of the input x [B,T,H,I]: the sum of the widths of `inputs`. */
  readonly I: number
  /** Width of the output y [B,T,H,O]. */
  readonly O: number
  /** Numbers of a state, for each head. */
  readonly S: number
  /** Numbers of the slow parameters, for each head. */
  readonly P: number
  /** Parts of the state by name. */
  readonly state: Readonly<Record<string, Part>>
  /** Those whose fresh value is a parameter of the same name; they are carried as the shift from it. */
  readonly based: readonly string[]
  /** What the program itself uses as parameters, by name. */
  readonly slow: Readonly<Record<string, Part>>
  /** All parameters: shapes for each head. */
  readonly parameters: Readonly<Record<string, readonly number[]>>
  /** The program, an instruction after the other. */
  readonly instructions: readonly Instruction[]
  /** Floats of the registers in a kernel's memory. */
  readonly registers: number
  /** Floats of a state in a kernel's memory. */
  readonly stateFloats: number
  /** Floats of the slow parameters there. */
  readonly slowFloats: number
  /** The program as the kernels take it. */
  readonly code: Int32Array
}

const up4 = (n: number): number => Math.ceil(n / 4) * 4
const floatsOf = (shape: readonly number[]): number => (shape.length === 1 ? up4(shape[0]) : up4(shape[0]) * up4(shape[1]))
const show = ({ rows, columns }: Matrix): string => `[${rows},${columns}]`

/** Packs parts one after the other. */
class Parts {
  readonly all: Record<string, Part> = {}
  size = 0
  floats = 0

  add(name: string, shape: readonly number[]): Part {
    const part = { shape, at: this.size, place: this.floats }
    this.size += sizeOf(shape)
    this.floats += floatsOf(shape)
    this.all[name] = part
    return part
  }
}

/** How a part of a net's state begins. */
export interface StateOptions {
  /**
   * A sequence begins with the parameter of this name, [H, ...], and not with zeros; the state that is handed on is the shift from it, so
   * that a state of zeros is the fresh net.
   */
  base?: boolean
}

/** What `defineNet` hands to the function that writes a program. */
export class NetBuilder {
  private readonly vectors = new Set<Vector>()
  private readonly matrices = new Set<Matrix>()
  private readonly inputWidths: Record<string, number> = {}
  private readonly state = new Parts()
  private readonly slow = new Parts()
  private readonly based: string[] = []
  private readonly parameters: Record<string, readonly number[]> = {}
  private readonly instructions: Instruction[] = []
  private readonly settled = new Set<string>()
  private registers = 0
  private I = 0
  private O = 0

  constructor(private readonly name: string) {}

  // ---- what comes in -------------------------------------------------------------------------------------------------------------------

  /** Inputs of every token by name and width, in their order in x. */
  inputs<Name extends string>(widths: Readonly<Record<Name, number>>): Record<Name, Vector> {
    const entries = Object.entries(widths) as [Name, number][]
    return Object.fromEntries(
      entries.map(([name, width]) => {
        this.checkNew('inputs', name, this.inputWidths)
        this.checkWidth('inputs', name, width)
        this.inputWidths[name] = width
        const a = this.I
        this.I += width
        return [name, this.emit('input', width, { a })]
      }),
    ) as Record<Name, Vector>
  }

  /** A vector of the state, as the token before left it; `next` says what it will be. */
  vector(name: string, width: number, options: StateOptions = {}): Vector {
    this.checkWidth('vector', name, width)
    return this.emit('state', width, { a: this.addState('vector', name, [width], options).place })
  }

  /** A fast matrix [rows, columns], a part of the state. */
  matrix(name: string, rows: number, columns: number, options: StateOptions = {}): Matrix {
    this.checkWidth('matrix', name, rows, columns)
    return this.addMatrix({ name, rows, columns, at: this.addState('matrix', name, [rows, columns], options).place, slow: false })
  }

  /** A slow matrix, one a head: it's read, and never written. */
  slowMatrix(name: string, rows: number, columns: number): Matrix {
    this.checkWidth('slowMatrix', name, rows, columns)
    return this.addMatrix({ name, rows, columns, at: this.addSlow('slowMatrix', name, [rows, columns]).place, slow: true })
  }

  /** A vector of slow parameters, one a head: a bias or a gain. */
  slowVector(name: string, width: number): Vector {
    this.checkWidth('slowVector', name, width)
    return this.emit('parameter', width, { a: this.addSlow('slowVector', name, [width]).place })
  }

  // ---- fast and slow matrices ------------------------------------------------------------------------------------------------------------

  /** a M. */
  read(M: Matrix, a: Vector): Vector {
    this.checkMatrix('read', M)
    this.check('read', a)
    if (a.width !== M.rows) this.fail('read', `a vector of ${a.width} numbers can't read ${M.name} ${show(M)}, which takes ${M.rows}`)
    const written = Number(this.settled.has(M.name) && !M.slow)
    return this.emit('read', M.columns, { a: a.at, b: M.at, c: M.rows, d: Number(M.slow), e: written })
  }

  /** M becomes f(decay M + k u^T): decay is a constant or a register of one number, 1 by default; f is the identity by default. Once a token. */
  write(M: Matrix, k: Vector, u: Vector, options: { decay?: number | Vector; activation?: UnaryOp } = {}): void {
    const { decay = 1, activation } = options
    this.checkMatrix('write', M)
    this.check('write', k, u)
    if (M.slow) this.fail('write', `${M.name} is a parameter, which a program doesn't change`)
    if (k.width !== M.rows || u.width !== M.columns)
      this.fail('write', `a key of ${k.width} and a value of ${u.width} numbers don't fit ${M.name} ${show(M)}`)
    if (typeof decay !== 'number') this.checkNumber('write', 'the decay', decay)
    else if (!Number.isFinite(decay)) this.fail('write', `the decay must be a finite number, not ${decay}`)
    const e = activation === undefined ? -1 : unaryOps.indexOf(activation)
    if (activation !== undefined && e < 0) this.fail('write', `unknown activation '${activation}' (${unaryOps.join(', ')})`)
    this.settle('write', M.name)
    const place = { to: M.at, n: M.columns, a: k.at, b: u.at, c: M.rows, e }
    this.push({ op: 'write', ...place, ...(typeof decay === 'number' ? { d: -1, x: decay } : { d: decay.at }) })
  }

  /** The delta rule: M becomes M + k beta (v - k M)^T (Schlag 2021, eq. 24). */
  delta(M: Matrix, k: Vector, v: Vector, beta: Vector): void {
    this.write(M, k, this.times(this.sub(v, this.read(M, k)), beta))
  }

  // ---- vectors -----------------------------------------------------------------------------------------------------------------------

  /** a + b, element by element. */
  add = (a: Vector, b: Vector): Vector => this.pair('add', a, b)
  /** a - b, element by element. */
  sub = (a: Vector, b: Vector): Vector => this.pair('sub', a, b)
  /** a b, element by element. */
  mul = (a: Vector, b: Vector): Vector => this.pair('mul', a, b)

  /** scale a + shift, with constants. */
  affine(a: Vector, scale: number, shift = 0): Vector {
    this.check('affine', a)
    if (!(Number.isFinite(scale) && Number.isFinite(shift)))
      this.fail('affine', `scale and shift must be finite, not ${scale} and ${shift}`)
    return this.emit('affine', a.width, { a: a.at, x: scale, z: shift })
  }

  /** A vector times a register of one number. */
  times(a: Vector, number: Vector): Vector {
    this.check('times', a)
    this.checkNumber('times', 'the factor', number)
    return this.emit('times', a.width, { a: a.at, b: number.at })
  }

  /** a . b, one number. */
  dot(a: Vector, b: Vector): Vector {
    this.checkPair('dot', a, b)
    return this.emit('dot', 1, { a: a.at, b: b.at, c: a.width })
  }

  /** op(a), element by element. */
  unary(op: UnaryOp, a: Vector): Vector {
    this.check(op, a)
    const b = unaryOps.indexOf(op)
    if (b < 0) this.fail('unary', `unknown function '${op}' (${unaryOps.join(', ')})`)
    return this.emit('unary', a.width, { a: a.at, b })
  }

  /** 1 / (1 + e^-a), element by element. */
  sigmoid = (a: Vector): Vector => this.unary('sigmoid', a)
  /** tanh(a), element by element. */
  tanh = (a: Vector): Vector => this.unary('tanh', a)
  /** elu(a) + 1, positive (Katharopoulos 2020). */
  elu1 = (a: Vector): Vector => this.affine(this.unary('elu', a), 1, 1)

  /** e^(a - max a) / (sum of that + eps). The gradient takes the maximum for a constant, which with eps it isn't quite: off by a relative eps. */
  softmax(a: Vector, eps = 0): Vector {
    this.check('softmax', a)
    this.checkEps('softmax', eps)
    return this.emit('softmax', a.width, { a: a.at, x: eps })
  }

  /** Normalised as `normKinds` says. */
  norm(kind: NormKind, a: Vector, eps: number): Vector {
    this.check('norm', a)
    const b = normKinds.indexOf(kind)
    if (b < 0) this.fail('norm', `unknown kind '${kind}' (${normKinds.join(', ')})`)
    this.checkEps('norm', eps)
    return this.emit('norm', a.width, { a: a.at, b, x: eps })
  }

  /** n numbers of a from `begin` on. */
  slice(a: Vector, begin: number, n: number): Vector {
    this.check('slice', a)
    if (!(Number.isInteger(begin) && Number.isInteger(n) && begin >= 0 && n >= 1 && begin + n <= a.width))
      this.fail('slice', `${n} numbers from ${begin} on aren't within a vector of ${a.width}`)
    return this.emit('slice', n, { a: a.at, b: begin })
  }

  /** Cuts a vector into pieces by name and width, which must add up to its own. */
  split<Name extends string>(a: Vector, widths: Readonly<Record<Name, number>>): Record<Name, Vector> {
    const entries = Object.entries(widths) as [Name, number][]
    const total = entries.reduce((n, [, width]) => n + width, 0)
    if (total !== a.width) this.fail('split', `widths ${entries.map(([, width]) => width).join(' + ')} don't add up to ${a.width}`)
    let begin = 0
    return Object.fromEntries(
      entries.map(([name, width]) => {
        begin += width
        return [name, this.slice(a, begin - width, width)]
      }),
    ) as Record<Name, Vector>
  }

  /** The vectors one after the other. */
  concat(...vectors: readonly Vector[]): Vector {
    if (vectors.length === 0) this.fail('concat', 'needs at least one vector')
    this.check('concat', ...vectors)
    return vectors.reduce((a, b) => this.emit('concat', a.width + b.width, { a: a.at, b: b.at, c: a.width }))
  }

  // ---- what goes out -------------------------------------------------------------------------------------------------------------------

  /** What a vector of the state will be for the next token. */
  next(name: string, a: Vector): void {
    this.check('next', a)
    const part = this.state.all[name]
    if (part?.shape.length !== 1) this.fail('next', `there's no vector '${name}' in the state`)
    if (part.shape[0] !== a.width) this.fail('next', `'${name}' has ${part.shape[0]} numbers, what it should become ${a.width}`)
    this.settle('next', name)
    this.push({ op: 'next', to: part.place, n: a.width, a: a.at })
  }

  /** y_t. */
  output(a: Vector): void {
    this.check('output', a)
    if (this.O > 0) this.fail('output', 'there is one already (concat puts several together)')
    this.O = a.width
    this.push({ op: 'output', to: 0, n: a.width, a: a.at })
  }

  /** @internal */
  finish(): Net {
    if (this.I === 0) this.fail('inputs', 'the net has none')
    if (this.O === 0) this.fail('output', 'the net has none')
    const parts = Object.entries(this.state.all)
    if (parts.length === 0) this.fail('vector, matrix', 'the net has no state')
    for (const [name, { shape }] of parts)
      if (!this.settled.has(name))
        this.fail(shape.length === 1 ? 'next' : 'write', `'${name}' of the state never changes (a slow parameter doesn't)`)
    const instructions = latestWrites(equalTogether(this.instructions))
    return {
      name: this.name,
      inputs: this.inputWidths,
      I: this.I,
      O: this.O,
      S: this.state.size,
      P: this.slow.size,
      state: this.state.all,
      based: this.based,
      slow: this.slow.all,
      parameters: this.parameters,
      instructions,
      registers: this.registers,
      stateFloats: this.state.floats,
      slowFloats: this.slow.floats,
      code: encode([...Object.values(this.state.all), ...Object.values(this.slow.all)], instructions),
    }
  }

  // ---- checks and bookkeeping ----------------------------------------------------------------------------------------------------------

  private fail(instruction: string, what: string): never {
    throw new Error(`net '${this.name}': ${instruction}: ${what}`)
  }

  private checkWidth(instruction: string, name: string, ...widths: number[]): void {
    for (const width of widths)
      if (!(Number.isInteger(width) && width >= 1))
        this.fail(instruction, `the width of '${name}' must be a positive integer, not ${width}`)
  }

  private checkNew(instruction: string, name: string, taken: object): void {
    if (Object.hasOwn(taken, name)) this.fail(instruction, `there are two called '${name}'`)
  }

  private check(instruction: string, ...vectors: Vector[]): void {
    for (const v of vectors) if (!this.vectors.has(v)) this.fail(instruction, "takes vectors of this net's own program")
  }

  private checkMatrix(instruction: string, M: Matrix): void {
    if (!this.matrices.has(M)) this.fail(instruction, "takes a matrix of this net's own program")
  }

  private checkNumber(instruction: string, what: string, a: Vector): void {
    this.check(instruction, a)
    if (a.width !== 1) this.fail(instruction, `${what} must be one number, not a vector of ${a.width}`)
  }

  private checkEps(instruction: string, eps: number): void {
    if (!(eps >= 0 && eps < Number.POSITIVE_INFINITY)) this.fail(instruction, `eps must be 0 or more, not ${eps}`)
  }

  private checkPair(op: string, a: Vector, b: Vector): void {
    this.check(op, a, b)
    if (a.width !== b.width) this.fail(op, `vectors of ${a.width} and ${b.width} numbers`)
  }

  private pair(op: 'add' | 'sub' | 'mul', a: Vector, b: Vector): Vector {
    this.checkPair(op, a, b)
    return this.emit(op, a.width, { a: a.at, b: b.at })
  }

  private addState(instruction: string, name: string, shape: readonly number[], { base = false }: StateOptions): Part {
    this.checkNew(instruction, name, this.state.all)
    if (base) {
      this.checkNew(instruction, name, this.parameters)
      this.based.push(name)
      this.parameters[name] = shape
    }
    return this.state.add(name, shape)
  }

  private addSlow(instruction: string, name: string, shape: readonly number[]): Part {
    this.checkNew(instruction, name, this.parameters)
    this.parameters[name] = shape
    return this.slow.add(name, shape)
  }

  private addMatrix(M: Matrix): Matrix {
    this.matrices.add(M)
    return M
  }

  /** Each part of the state changes once a token. */
  private settle(instruction: string, name: string): void {
    if (this.settled.has(name)) this.fail(instruction, `'${name}' changes twice in a token`)
    this.settled.add(name)
  }

  /** Constants are rounded to what kernels in float32 take, so that every device computes with the same. */
  private push(given: Pick<Instruction, 'op' | 'to' | 'n'> & Partial<Instruction>): void {
    const { x = 0, z = 0 } = given
    this.instructions.push({ a: 0, b: 0, c: 0, d: 0, e: 0, ...given, x: Math.fround(x), z: Math.fround(z) })
  }

  private emit(op: NetOp, width: number, rest: Partial<Instruction>): Vector {
    const vector = { width, at: this.registers }
    this.registers += up4(width)
    this.vectors.add(vector)
    this.push({ op, to: vector.at, n: width, ...rest })
    return vector
  }
}

/** The registers that an instruction takes. */
function taken({ op, a, b, d }: Instruction): readonly number[] {
  if (op === 'input' || op === 'state' || op === 'parameter') return []
  if (op === 'write') return d >= 0 ? [a, b, d] : [a, b]
  return ['add', 'sub', 'mul', 'times', 'dot', 'concat'].includes(op) ? [a, b] : [a]
}

/**
 * Each instruction as early as it can be, and equal ones one after the other: a processor guesses better what comes next. What is read or taken of the
 * state comes before what changes it; inputs come first.
 */
function equalTogether(instructions: readonly Instruction[]): readonly Instruction[] {
  // When each register is set, each matrix was last read as it is at the beginning, and is written.
  const [set, read, written] = [new Map<number, number>(), new Map<number, number>(), new Map<number, number>()]
  const turns = instructions.map((instruction) => {
    const { op, to, b, d, e } = instruction
    const isFast = op === 'read' && !d
    const after = taken(instruction).map((register) => set.get(register)!)
    if (op === 'write') after.push(read.get(to) ?? -1)
    if (isFast && e) after.push(written.get(b)!)
    const turn = 1 + Math.max(-1, ...after)
    if (op === 'write') written.set(to, turn)
    else if (op !== 'next' && op !== 'output') set.set(to, turn)
    if (isFast && !e) read.set(b, Math.max(turn, read.get(b) ?? -1))
    return turn
  })
  const kind = ({ op, b }: Instruction): number => netOps.indexOf(op) * unaryOps.length + (op === 'unary' ? b : 0)
  const order = instructions.map((instruction, i) => ({ instruction, turn: turns[i] }))
  order.sort((i, j) => i.turn - j.turn || kind(i.instruction) - kind(j.instruction))
  return order.map(({ instruction }) => instruction)
}

/** Each matrix is written right before it is read again, where it is: kernels do both at once. */
function latestWrites(instructions: readonly Instruction[]): readonly Instruction[] {
  const writeOf = (read: Instruction, i: number): Instruction | undefined => {
    const isFirst =
      read.op === 'read' && read.e && !instructions.slice(0, i).some(({ op, b, e, d }) => op === 'read' && b === read.b && e && !d)
    return isFirst ? instructions.find(({ op, to }) => op === 'write' && to === read.b) : undefined
  }
  const writes = instructions.map(writeOf)
  return instructions.flatMap((instruction, i) =>
    writes.includes(instruction) ? [] : writes[i] ? [writes[i], instruction] : [instruction],
  )
}

function encode(parts: readonly Part[], instructions: readonly Instruction[]): Int32Array {
  const code = new Int32Array(parts.length * partWords + instructions.length * netWords)
  for (const [i, { shape, at, place }] of parts.entries())
    code.set(shape.length === 1 ? [at, 1, shape[0], place] : [at, shape[0], shape[1], place], i * partWords)
  const floats = new Float32Array(code.buffer)
  for (const [i, { op, to, n, a, b, c, d, e, x, z }] of instructions.entries()) {
    const word = parts.length * partWords + i * netWords
    code.set([netOps.indexOf(op), to, n, a, b, c, d, e], word)
    floats.set([x, z], word + 8)
  }
  return code
}

/** What kernels have to know of a net beside its code. */
export function netSizes(net: Net, call: { B: number; T: number; H: number; C: number }): NetSizes {
  const { I, O, S, P, registers, stateFloats, slowFloats } = net
  const [stateParts, slowParts] = [net.state, net.slow].map((parts) => Object.keys(parts).length)
  return { ...call, I, O, S, P, stateParts, slowParts, instructions: net.instructions, registers, stateFloats, slowFloats }
}

/** A net from the function that writes its program (see the head of this file). Errors name the net and the instruction. */
export function defineNet(name: string, write: (net: NetBuilder) => void): Net {
  const builder = new NetBuilder(name)
  write(builder)
  return builder.finish()
}
