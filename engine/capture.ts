/**
 * A step noted once and replayed: the kernels of a function, without the function. Shapes, checks and the graph are JavaScript's work, which takes
 * longer than the arithmetic where tensors are small, as they are when one token is generated. So `capture` runs the step without computing
 * anything, notes which kernels it asks for on which memory, and `replay` has the device do the same again.
 *
 *     const token = tensor([0], { dtype: 'int32' })
 *     const captured = await capture([token], { tensors: [S], counts: [] }, ({ tensors: [S] }) => step(token, S))
 *     token.write([5])
 *     captured.replay()                       // state and outputs are those after token 5
 *     await captured.outputs[0].read()
 *
 * What else changes from step to step: tensors that the step overwrites in place, which have to be named (`changes`), as an optimiser's parameters
 * and moments; what it counts (`counted`), such as the streams of its random numbers, which go on as if the step ran; what it gives as a function,
 * such as a learning rate, or as the values of a tensor (`varying`).
 *
 * The step is noted twice, the second time from the state that the first one leaves to the memory that it came from: two sets of tensors, which
 * take turns in holding the state, and nothing is copied. (A device may have both lie in one place, where nothing reads the state once the next one is
 * written.) Where the second time isn't like the first, the step depends on something that isn't
 * in its inputs, and capture throws. Tests: test/ops/capture.test.ts.
 */
import { told } from './arguments.ts'
import type { Capture } from './devices/capture.ts'
import { noGrad } from './recording.ts'
import { checkSynchronous, enrollBeside, keep, scope } from './scope.ts'
import { sameShape, show } from './shape.ts'
import { empty, refuseCapture, Tensor, watched } from './tensor.ts'

/** Memory of tensors, how many of them there are, and how often it was overwritten. */
interface Memory {
  readonly storage: unknown
  readonly owners: number
  readonly version: number
  readonly place?: boolean
}

/** What a step counts, where it has begun, and by how much it moves that on. */
interface Count {
  readonly counter: Record<string, number>
  readonly key: string
  readonly begin: number
  by: number
}

/** What one step leaves to the next: float32 tensors, and counts on the host that grow by the same numbers in each step, such as positions. */
export interface CarriedState {
  tensors: readonly Tensor[]
  /** Counts on the host, such as positions: each grows by the same number in every step. */
  counts: readonly Int32Array[]
}

export interface CaptureResult extends CarriedState {
  /** What the step gives, beside the state. */
  outputs: readonly Tensor[]
}

/** A step that `capture` has noted, and that is replayed without running its function. */
export interface CapturedStep {
  /** What the step has computed, the same tensors each time. */
  readonly outputs: readonly Tensor[]
  /** The state after the last replay; the next one may overwrite its tensors. */
  state(): CarriedState
  /**
   * One step: reads the inputs and the state, and overwrites outputs and state. Allocates nothing on the device. Where a kernel fails in the midst of it, the
   * state is lost, and the step with it.
   */
  replay(): void
  /** Frees the outputs, the state and everything in between; the inputs stay. */
  dispose(): void
}

/**
 * Captures `step`, a function of the inputs (tensors made before, of any shapes, which `write` fills anew before each replay), a state, and tensors
 * that stay, such as parameters, but for those that it `changes` in place. The tensors of the state belong to the captured step from now on. `step`
 * must not read values, or look at an input's on the host, and must do the same each time; it isn't run when it's replayed. It isn't recorded, but
 * for what it does in `withGrad`, such as a loss whose backward pass it takes, and it must leave no gradient behind. Its outputs must be tensors that
 * it has made. Tensors, counts and outputs that are left out are none. Throws, with the reason, where it can't be captured; the state is freed then, too.
 */
export async function capture(
  inputs: readonly Tensor[],
  state: Partial<CarriedState>,
  step: (state: CarriedState) => Partial<CaptureResult>,
  changes: readonly Tensor[] = [],
): Promise<CapturedStep> {
  if (!Array.isArray(inputs)) throw new Error(`capture: the inputs must be an array of tensors, not ${told(inputs)}`)
  const { tensors: given, counts: begun } = stateOf('state', state)
  if (typeof step !== 'function') throw new Error(`capture: the step must be a function of the state, not ${told(step)}`)
  if (!Array.isArray(changes)) throw new Error(`capture: what changes must be an array of tensors, not ${told(changes)}`)
  const known = [...inputs, ...given, ...changes]
  for (const t of known) if (!(t instanceof Tensor)) throw new Error(`capture: needs tensors, not ${told(t)}`)
  if (known.length === 0) throw new Error('capture: needs an input, a state, or something that changes')
  const { device } = known[0]
  const other = known.find((t) => t.device !== device)
  if (other) throw new Error(`capture: tensors are on different devices (${device.description} and ${other.device.description})`)
  if (!device.capture) throw new Error(`capture: ${device.name} has no captured steps; run the step itself`)
  const note = device.capture

  // Memory of their own, since it is overwritten.
  const begin = scope(() => given.map((t, i) => keep(t.exclusive && given.indexOf(t) === i ? t : copied(t))))
  for (const t of given) if (!begin.includes(t)) t.dispose()
  const counts = begun.map((c) => Int32Array.from(c))
  for (const t of inputs) t.becomeInput()

  /** Places of gradients that come and go within the step (`gradientPlaces`). */
  const places = new Set<Memory>()
  /** Memory from outside that is read, and its version; where the host's numbers go. */
  const outside = new Map<Memory, number>()
  const writes = new Map<unknown, { t: Tensor; values: () => ArrayLike<number> }>()
  /** Has what is asked once a step asked anew. */
  const forget: (() => void)[] = []
  const mine = new Set(changes.map((t) => t.storage))
  const changing = new Set([...[...inputs, ...begin].map((t) => t.storage), ...mine])
  let moved: Count[] | undefined
  const captures: Capture[] = []
  const dispose = (): void => {
    for (const t of begin) t.dispose()
    for (const taken of captures.splice(0)) taken.free()
  }

  const stepped = (tensors: readonly Tensor[]): CaptureResult => {
    const result = step({ tensors, counts })
    checkSynchronous('capture', result)
    const { outputs = [] } = { ...result }
    if (!Array.isArray(outputs)) throw new Error(`capture: the outputs of the step must be an array of tensors, not ${told(outputs)}`)
    const after = { outputs, ...stateOf("step's result", result) }
    for (const t of [...outputs, ...after.tensors])
      if (!(t instanceof Tensor)) throw new Error(`capture: the step must return tensors, not ${told(t)}`)
    return after
  }

  /**
   * Frees the gradients that a step has left behind, before their memory is the capture's to free; gives the tensors that they are of, which have
   * again what others saw of their gradients before.
   */
  const leftBehind = (before: ReadonlyMap<Tensor, Tensor | null>, seen: Map<Tensor, Tensor>): Tensor[] => {
    const left = [...before].flatMap(([x, grad]) => (x.grad && x.grad !== grad && !x.grad.disposed ? [x] : []))
    for (const x of left) {
      x.grad!.dispose()
      x.grad = seen.get(x) ?? null
      if (x.grad) enrollBeside(x.grad, x)
      seen.delete(x)
    }
    for (const view of seen.values()) view.dispose()
    return left
  }

  const once = async (from: readonly Tensor[], instead: ReadonlyMap<unknown, unknown>): Promise<CaptureResult> => {
    let result: CaptureResult | undefined
    const seen = new Set<Memory>()
    const overwritten = new Set<Memory>()
    const counts: Count[] = []
    /** What has got a gradient, with what it had before. */
    const learnt = new Map<Tensor, Tensor | null>()
    /** Views of gradients that others see, too: what is added to is a copy, and the gradient itself is freed. */
    const shared = new Map<Tensor, Tensor>()
    const onlooker = {
      uses: (block: Memory) => void seen.add(block),
      changes: (block: Memory) => void overwritten.add(block),
      varies: (t: Tensor, values: () => ArrayLike<number>) => void writes.set(t.storage, { t, values }),
      learns(x: Tensor): void {
        if (learnt.has(x)) return
        learnt.set(x, x.grad)
        if (x.grad && !x.grad.disposed && !x.grad.exclusive) shared.set(x, keep(x.grad.view(x.shape)))
      },
      asks<R>(question: () => R): () => R {
        let answer: { is: R } | null = null
        forget.push(() => (answer = null))
        return () => (answer ??= { is: question() }).is
      },
      counts(counter: Record<string, number>, key: string, value: number): () => number {
        let count = counts.find((one) => one.counter === counter && one.key === key)
        if (!count) counts.push((count = { counter, key, begin: value, by: 0 }))
        const since = value - count.begin
        return () => counter[key] + since
      },
    }
    const body = (): void => {
      let left: Tensor[] = []
      try {
        watched(onlooker, () => scope(() => noGrad(() => void (result = settled(stepped(from), from)))))
      } finally {
        left = leftBehind(learnt, shared)
      }
      if (left.length > 0)
        throw new Error(
          `capture: the step leaves a gradient of ${left.map((x) => show(x.shape)).join(', ')} behind; have it clear that (zeroGrad of the optimiser)`,
        )
    }
    const [first] = captures
    let noting: Promise<Capture>
    try {
      const becomes = () => new Map(from.slice(0, result!.tensors.length).map((t, i) => [t.storage, result!.tensors[i].storage]))
      noting = note.call(device, body, { changing, becomes, again: first && { first, instead } })
    } finally {
      // The counts go on when it's replayed.
      for (const count of counts) {
        count.by = count.counter[count.key] - count.begin
        count.counter[count.key] = count.begin
      }
    }
    const taken = await noting
    captures.push(taken)
    moved ??= counts
    if (
      moved.length !== counts.length ||
      moved.some(({ counter, key, by }, i) => counter !== counts[i].counter || key !== counts[i].key || by !== counts[i].by)
    )
      throw new Error('capture: the step counts something else the second time, such as the streams of a generator that it has made itself')
    const own = new Set([...captures.flatMap(({ blocks }) => blocks), ...begin.map((t) => t.storage)])
    // A gradient from outside would still be there.
    for (const block of seen) if (block.place && block.owners === 0) places.add(block)
    for (const block of overwritten)
      if (!own.has(block.storage) && !mine.has(block.storage) && !places.has(block))
        throw new Error('capture: the step overwrites a tensor from outside of it; name it in `changes`')
    for (const block of seen)
      if (!own.has(block.storage) && !changing.has(block.storage) && !places.has(block) && !outside.has(block))
        outside.set(block, block.version)
    for (const t of [...result!.outputs, ...result!.tensors])
      if (!own.has(t.storage)) throw new Error(`capture: the step returns ${t}, which it hasn't made`)
    return result!
  }

  /** The result's tensors, kept, each with memory of its own. */
  const settled = ({ outputs, tensors, counts }: CaptureResult, from: readonly Tensor[]): CaptureResult => {
    const taken = new Set<unknown>([...inputs, ...from].map((t) => t.storage))
    const own = (t: Tensor): Tensor => {
      const alone = keep(taken.has(t.storage) ? copied(t) : t)
      taken.add(alone.storage)
      return alone
    }
    return { outputs: outputs.map(own), tensors: tensors.map(own), counts }
  }

  try {
    const even = await once(begin, new Map())
    for (const [i, t] of even.tensors.entries())
      if (!(begin[i] && sameShape(t.shape, begin[i].shape)))
        throw new Error(`capture: the step makes a state ${show(t.shape)} of one that is ${begin[i] ? show(begin[i].shape) : 'absent'}`)
    if (even.tensors.length !== begin.length || even.counts.length !== counts.length)
      throw new Error(
        `capture: the step gives ${even.tensors.length} tensors and ${even.counts.length} counts for a state of ${begin.length} and ${counts.length}`,
      )
    const growth = even.counts.map((after, i) => after.map((x, j) => x - counts[i][j]))
    const advance = (times: number): void => {
      for (const [i, c] of counts.entries()) for (const [j, d] of growth[i].entries()) c[j] += times * d
    }
    advance(1)
    const odd = await once(even.tensors, new Map(even.tensors.map((t, i) => [t.storage, begin[i].storage])))
    if (odd.counts.some((after, i) => after.some((x, j) => x - counts[i][j] !== growth[i][j])))
      throw new Error("capture: the state's counts don't grow by the same in each step")
    advance(-1)
    // Without a state the second time is the first.
    if (begin.length === 0) captures.pop()!.free()
    const states = begin.length === 0 ? [begin] : [begin, even.tensors]
    let turn = 0
    /** Why a replay failed that has perhaps overwritten a part of the state. */
    let lost: string | undefined
    const refuseLost = (): void => {
      if (lost !== undefined) throw new Error(`replay: the captured step failed, and its state is lost; capture it anew (${lost})`)
    }
    return {
      outputs: even.outputs,
      state() {
        refuseLost()
        return { tensors: states[turn], counts }
      },
      replay() {
        refuseCapture('replays another')
        refuseLost()
        for (const t of inputs) if (t.disposed) throw new Error(`replay: the input ${show(t.shape)} was freed`)
        if (changes.some((t) => t.disposed)) throw new Error('replay: a tensor that the captured step overwrites was freed')
        if (captures.length === 0) throw new Error('replay: the captured step was disposed')
        for (const { place, owners } of places) {
          if (!place) throw new Error('replay: the optimiser beside whose parameters the captured step puts their gradients was disposed')
          if (owners > 0)
            throw new Error('replay: a gradient lies where the captured step puts its own; free it (zeroGrad of the optimiser)')
        }
        let stale = false
        for (const [block, version] of outside) {
          if (block.owners === 0) throw new Error('replay: a tensor that the captured step reads was freed')
          if (block.version === version) continue
          outside.set(block, block.version)
          stale = true
        }
        if (stale) captures[0].prepare()
        for (const again of forget) again()
        // Some follow from others; nothing is written unless all are right.
        const fresh = [...writes].map(([storage, { t, values }]) => {
          const numbers = values()
          t.accept(numbers, 'varying')
          return { storage, numbers }
        })
        for (const { storage, numbers } of fresh) device.write(storage, numbers)
        try {
          captures[turn].replay()
        } catch (error) {
          if (begin.length > 0) lost = (error as Error).message
          throw error
        }
        for (const t of changes) t.changed()
        for (const { counter, key, by } of moved!) counter[key] += by
        turn = (turn + 1) % states.length
        advance(1)
      },
      dispose() {
        for (const t of [...even.outputs, ...even.tensors]) t.dispose()
        dispose()
      },
    }
  } catch (error) {
    dispose()
    throw error
  }
}

/** A state, of which nothing is left out. */
function stateOf(what: string, state: unknown): CarriedState {
  if (typeof state !== 'object' || state === null || Array.isArray(state))
    throw new Error(`capture: the ${what} must be an object such as { tensors: [S], counts: [] }, not ${told(state)}`)
  const { tensors = [], counts = [] } = state as Partial<CarriedState>
  if (!Array.isArray(tensors)) throw new Error(`capture: the ${what}'s tensors must be an array of them, not ${told(tensors)}`)
  if (!Array.isArray(counts)) throw new Error(`capture: the ${what}'s counts must be an array of Int32Arrays, not ${told(counts)}`)
  for (const c of counts)
    if (!(c instanceof Int32Array)) throw new Error(`capture: the ${what}'s counts must be Int32Arrays, not ${told(c)}`)
  return { tensors, counts }
}

/** The same values in memory of their own. */
function copied(t: Tensor): Tensor {
  const y = empty(t.shape, t.device)
  t.device.kernels.copy(t.storage, y.storage, [t.size], [1], 0, [1], 0)
  return y
}
