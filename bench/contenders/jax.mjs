/**
 * jax-js, wasm backend: the product under `jit`, the fastest of its ways here (without it every call builds and looks up its
 * kernel anew). The inputs are realised before the clock starts; `blockUntilReady` makes it compute, and nothing is copied out. In a process
 * with relaxed SIMD its code generator emits relaxed_madd by itself. Its threads need a global `Worker`, which Node does not have.
 */
export async function open() {
  const jax = await import('@jax-js/jax')
  const { numpy: np } = jax
  await jax.init('wasm')
  jax.defaultDevice('wasm')
  const product = jax.jit((a, b) => np.matmul(a, b))
  let held = []
  return {
    threads: 1,
    async prepare(n, dataA, dataB) {
      for (const array of held) array.dispose()
      const a = np.array(dataA).reshape([n, n])
      const b = np.array(dataB).reshape([n, n])
      await jax.blockUntilReady([a, b])
      held = [a, b]
      return {
        flops: 2 * n ** 3,
        product: () => product(a.ref, b.ref).dataSync(),
        work: async (repeats) => {
          for (let i = 0; i < repeats; i++) {
            const c = product(a.ref, b.ref)
            await c.blockUntilReady()
            c.dispose()
          }
        },
      }
    },
  }
}
