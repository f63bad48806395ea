/** An exported model (`fastweights export`) in onnxruntime, its states carried from call to call. */
/** A function that decodes: it takes the tokens [rows,T] that come next, flat, and gives their logits. `ort`: onnxruntime-node or -web; `options`: a session's. */
export async function decoder(ort, bytes, rows, options) {
  const session = await ort.InferenceSession.create(bytes, options)
  const array = { float32: Float32Array, int64: BigInt64Array }
  const sizes = { batch: rows, past: 0 }
  let state = Object.fromEntries(
    session.inputMetadata
      .filter(({ name }) => name.startsWith('past.'))
      .map(({ name, type, shape }) => {
        const dims = shape.map((d) => sizes[d] ?? d)
        const size = dims.reduce((n, d) => n * d, 1)
        const values = new array[type](size)
        return [name, new ort.Tensor(type, name.endsWith('.lse') ? values.fill(-Infinity) : values, dims)]
      }),
  )
  return async (ids) => {
    const length = ids.length / rows
    const tokens = new ort.Tensor('int64', BigInt64Array.from(ids, BigInt), [rows, length])
    const { logits, ...after } = await session.run({ tokens, ...state })
    state = Object.fromEntries(Object.entries(after).map(([name, value]) => [name.replace('present.', 'past.'), value]))
    return logits.data
  }
}

/**
 * Logits [B,T,N] of tokens [B,T], flat: of all tokens at once, and of a piece of three and single ones after it.
 * @returns {Promise<{ whole: number[], pieces: number[] }>}
 */
export async function decoded(ort, bytes, ids, [B, T]) {
  const whole = Array.from(await (await decoder(ort, bytes, B))(ids))
  const step = await decoder(ort, bytes, B)
  const N = whole.length / (B * T)
  const pieces = new Array(whole.length)
  for (let t = 0; t < T; ) {
    const n = t === 0 ? 3 : 1
    const rows = Array.from({ length: B }, (_, b) => b)
    const logits = await step(rows.flatMap((b) => ids.slice(b * T + t, b * T + t + n)))
    logits.forEach((x, i) => {
      pieces[(Math.floor(i / (n * N)) * T + t) * N + (i % (n * N))] = x
    })
    t += n
  }
  return { whole, pieces }
}
