/**
 * Private scratch memory of a thread: every thread has its own instance of this module, hence its own `scratch`.
 * The pool calls setScratch before a kernel that asked for scratchBytes; 64-byte aligned, contents undefined.
 */
export let scratch: usize = 0

export function setScratch(pointer: usize): void {
  scratch = pointer
}
