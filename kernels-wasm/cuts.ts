/**
 * Tables of arrays that are cut into tasks, so that one call goes over all of them: for each its first task, its number of elements and its
 * addresses; at the end the number of tasks. engine/devices/wasm/axes.ts writes them.
 */

/** The entry, `bytes` long, that a task is of: `entry` or a later one. */
@inline export function entryOf(task: i32, entry: usize, bytes: usize): usize {
  while (load<i32>(entry + bytes) <= task) entry += bytes
  return entry
}

/** The first element of a task, where each has `length` but the last. */
@inline export function firstOf(task: i32, entry: usize, length: i32): i32 {
  return (task - load<i32>(entry)) * length
}

@inline export function sizeOf(entry: usize): i32 {
  return load<i32>(entry, 4)
}

/** Address i of an entry. */
@inline export function addressOf(entry: usize, i: usize): usize {
  return load<usize>(entry + ((i + 2) << 2))
}
