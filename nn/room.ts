/**
 * Keys and values with room for tokens to come. A state of softmax attention grows with every token, so that no two steps are alike; where there is
 * room, a token's keys and values are written in place, and only flags say how many there are. So the step of a token can be captured and replayed
 * (engine/capture.ts), as long as there is room. Tests: test/nn/room.test.ts.
 */
import { softmaxAttention } from '../engine/ops/attention.ts'
import { affine } from '../engine/ops/elementwise.ts'
import { concat, reshape, slice } from '../engine/ops/movement.ts'
import { overwrite } from '../engine/ops/overwrite.ts'
import { recording } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { sizeOf } from '../engine/shape.ts'
import { Tensor, varying, zeros } from '../engine/tensor.ts'
import type { Packing } from './packing.ts'
import { givenState, type Parts } from './parts.ts'
import { mapState, type State } from './state.ts'

/** What softmax attention carries: keys and values of every token so far. */
export interface KeyValueState {
  /** [B,H,t,K]: grows with every token, unlike fast weights. */
  keys: Tensor
  /** [B,H,t,V]. */
  values: Tensor
  /** [B,t]: 0 where a key is padding, or of a sequence that has ended. */
  visible: Int32Array
  /** With rotary positions, the next one of each row, [B]. */
  position?: Int32Array
  /**
   * [B], where keys and values have room for more tokens than they hold: how many they hold. `generate` makes such states. The next token is written in
   * place, so that a state goes on once, by one token a row; `loadState` takes none of them.
   */
  used?: Int32Array
}

type Memory = Pick<KeyValueState, 'keys' | 'values' | 'visible' | 'used'>

const smallest = 256
/** Of tokens to come, at least, since `capture` notes two steps. */
export const leastRoom = 2

/** For how many tokens there is room where there are so many: 256, 384, 512, 768, ..., so that less than a third stays empty for long, and a step is seldom captured anew. */
export function roomFor(tokens: number): number {
  let room = smallest
  while (room < tokens) room = room % 3 === 0 ? (4 * room) / 3 : (3 * room) / 2
  return room
}

/** The state of these parts that a layer is given for B rows, with room or without; undefined where it is given none. */
export function givenMemory(state: Partial<KeyValueState>, parts: Parts, B: number): KeyValueState | undefined {
  const all: Parts = state?.used === undefined ? parts : { ...parts, used: { dtype: 'int32', shape: [B] } }
  return givenState('attention', state, all, B) ? (state as KeyValueState) : undefined
}

const isMemory = (value: object): value is Memory =>
  'keys' in value && value.keys instanceof Tensor && 'visible' in value && value.visible instanceof Int32Array

/** A copy of the state, with f of each of its memories of keys and values. */
function mapMemories(value: unknown, f: (memory: Memory) => Memory): unknown {
  if (Array.isArray(value)) return value.map((inner) => mapMemories(inner, f))
  if (typeof value !== 'object' || value === null || value instanceof Tensor || value instanceof Int32Array) return value
  if (isMemory(value)) return f(value)
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, mapMemories(inner, f)]))
}

/** How many tokens the longest row of a memory holds. */
const tokensOf = ({ keys, used }: Memory): number => (used ? Math.max(...used) : keys.shape[2])

/** How many tokens the state's keys and values are of, in its longest row; 0 where it has none. */
export function tokensIn(state: State): number {
  let tokens = 0
  mapMemories(state, (memory) => {
    tokens = Math.max(tokens, tokensOf(memory))
    return memory
  })
  return tokens
}

/** How many numbers the state's keys and values have of a token. */
export function sizeOfToken(state: State): number {
  let size = 0
  mapMemories(state, (memory) => {
    for (const { shape } of [memory.keys, memory.values]) size += shape[1] * shape[3]
    return memory
  })
  return size
}

/** How many tokens more there is room for; Infinity where the state doesn't grow. */
export function roomIn(state: State): number {
  let room = Infinity
  mapMemories(state, (memory) => {
    room = Math.min(room, memory.used ? memory.keys.shape[2] - tokensOf(memory) : 0)
    return memory
  })
  return room
}

/**
 * The state, with room for tokens to come: where it lacks that its keys and values are copied to memory that has it, kept, and freed. States for which `tokens`,
 * the most that one of them holds, is the same have as much room, so that they can be joined.
 */
export function withRoom<S extends State>(state: S, tokens = tokensIn(state)): S {
  if (roomIn(state) > 0) return state
  const room = roomFor(tokens + leastRoom)
  return mapMemories(state, ({ keys, values, visible, used, ...rest }) => {
    const [B, , t] = keys.shape
    const roomy = (x: Tensor): Tensor => {
      const [, G, , width] = x.shape
      const copy = scope(() => keep(concat([x, zeros([B, G, room - t, width], x.device)], 2)))
      x.dispose()
      return copy
    }
    const held = used?.slice() ?? new Int32Array(B).fill(t)
    const flags = new Int32Array(B * room).fill(1)
    for (const [b, n] of held.entries()) flags.set(visible.subarray(b * t, b * t + n), b * room)
    // In the order of what a layer gives: captured counts are told apart by it.
    return { keys: roomy(keys), values: roomy(values), visible: flags, used: held, ...rest }
  }) as S
}

/** The keys and values that have room, and so are written in place, by their names in the state. */
export function writtenInPlace(state: State): Map<string, Tensor> {
  const counted = new Set<string>()
  mapState(
    state,
    (t) => t,
    (_, name) => void counted.add(name),
  )
  const found = new Map<string, Tensor>()
  mapState(state, (t, name) => {
    const [, path, part] = /^(.*?)([^.]*)$/.exec(name)!
    if ((part === 'keys' || part === 'values') && counted.has(`${path}used`)) found.set(name, t)
  })
  return found
}

/** Copies of what a state holds beside those, kept, and those themselves. */
export const apartFrom = <S extends State>(state: S, written: ReadonlyMap<string, Tensor>): S =>
  mapState(
    state,
    (t, name) => (written.has(name) ? t : keep(slice(t, 0, 0, t.shape[0]))),
    (counts) => counts.slice(),
  ) as S

/**
 * The read of one token of each row, of keys and values that have room: what `attend` gives, with sums over all the room, to which what isn't there adds 0. Its own key and
 * value are written in place; the state that is given is the same memory.
 */
export function attendInRoom(
  { q, k, v }: Record<'q' | 'k' | 'v', Tensor>,
  memory: Memory,
  { mask, reset }: Packing,
  window: number,
): { y: Tensor; state: Memory } {
  const { keys, values, visible, used } = memory as Required<Memory>
  const [B, T, H, K] = q.shape
  const [, G, room, V] = values.shape
  if (T !== 1 || mask || reset || recording())
    throw new Error('attention: keys and values with room take one token of each row at a time, without mask, reset and gradients')
  if (used.some((n) => n >= room)) throw new Error(`attention: there is no room after ${room} keys and values`)
  const counted = (shape: number[], values: (all: Int32Array) => Int32Array): Tensor =>
    varying(() => values(new Int32Array(sizeOf(shape))), { shape, dtype: 'int32', device: q.device })
  const here = counted([B, G], (all) => all.map((_, i) => i * room + used[Math.floor(i / G)]))
  overwrite(keys, k, here)
  overwrite(values, v, here)
  const sees = counted([B, 1, 1, room], (all) => {
    for (let b = 0; b < B; b++)
      for (let i = used[b], left = window || Infinity; i >= 0 && left > 0; i--)
        if (visible[b * room + i] !== 0) {
          all[b * room + i] = 1
          left--
        }
    return all
  })
  const y = softmaxAttention(affine(reshape(q, [B, G, H / G, K]), 1 / Math.sqrt(K)), keys, values, sees)
  return {
    y: reshape(y, [B, 1, H, V]),
    state: { keys: keys.view(keys.shape), values: values.view(values.shape), visible, used: used.map((n) => n + 1) },
  }
}
