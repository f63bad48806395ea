/** A device, noting the most bytes that were ever in use at once. */
export function watched(device) {
  const allocate = device.allocate
  let most = 0
  device.allocate = (dtype, size) => {
    const storage = allocate(dtype, size)
    most = Math.max(most, device.bytesInUse())
    return storage
  }
  return {
    most: () => most,
    /** From here on. */
    restart() {
      most = device.bytesInUse()
    },
  }
}
