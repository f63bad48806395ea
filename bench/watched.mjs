/** A device, noting the most bytes that were ever in use at once. */
export function watched(device) {
  const allocate = device.allocate
  let most = 0
  device.allocate = (...given) => {
    const storage = allocate(...given)
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
