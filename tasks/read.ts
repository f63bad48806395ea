/** Reading what a user names. */
import { readFileSync, statSync } from 'node:fs'

/** All bytes of a file or a pipe, but none of a device such as /dev/zero, which may have no end. Throws as the system does. */
export function readWhole(path: string): Buffer<ArrayBuffer> {
  if (statSync(path).isCharacterDevice()) throw new Error('it is a device, which may have no end')
  return readFileSync(path)
}
