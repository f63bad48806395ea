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
