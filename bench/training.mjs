/** The training step of the benchmark, in a process or in a page. */
import { crossEntropy, scope, setDevice, tensor } from '../dist/engine/index.js'
import { Adam, Transformer } from '../dist/nn/index.js'

/** A model of a setting with random weights, and one step of its training: forward, backward, clip, Adam; its loss once all is done. */
export function training({ d, heads, layers, dff, nu, symbols, batch, length }, device) {
  setDevice(device)
  const model = new Transformer({ symbols, dModel: d, heads, layers, dFf: dff, nu })
  const optimizer = new Adam(model.namedParameters(), { lr: 1e-4 })
  // Any text will do: time doesn't depend on it.
  const text = (shift) =>
    tensor(
      Int32Array.from({ length: batch * length }, (_, i) => ((i + shift) * 7919) % symbols),
      { dtype: 'int32', shape: [batch, length] },
    )
  const tokens = text(0)
  const targets = text(1)
  const step = async () => {
    const loss = scope(() => {
      const { logits } = model.forward(tokens)
      const loss = crossEntropy(logits, targets)
      loss.backward(undefined, { release: true })
      optimizer.step({ clipNorm: 1 })
      optimizer.zeroGrad()
      return loss
    })
    const value = await loss.item()
    loss.dispose()
    if (!Number.isFinite(value)) throw new Error(`the loss is ${value}`)
    return value
  }
  return { model, step }
}
