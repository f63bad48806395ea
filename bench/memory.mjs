/** Storages for the cases of kernel-cases.mjs, with contents that depend on their sizes alone: floats uniform in [from, 1). */
export function casesMemory(device) {
  let held = []
  const allocate = (dtype, size) => {
    const storage = device.allocate(dtype, size)
    held.push(storage)
    return storage
  }
  return {
    float(size, from = -1) {
      const storage = allocate('float32', size)
      let s = size | 0
      device.write(
        storage,
        Float32Array.from({ length: size }, () => {
          s = (Math.imul(s, 1664525) + 1013904223) | 0
          return from + ((1 - from) * (s >>> 8)) / 2 ** 24
        }),
      )
      return storage
    },
    int(size, below) {
      const storage = allocate('int32', size)
      device.write(
        storage,
        Int32Array.from({ length: size }, (_, i) => (i * 7919) % below),
      )
      return storage
    },
    empty: (size) => allocate('float32', size),
    freeAll() {
      for (const storage of held) device.free(storage)
      held = []
    },
  }
}
