/** Autograd, scopes, tensors and the errors that ops give. */
import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import * as engine from '../../engine/index.ts'
import { type Device, scope, type Tensor, tensor } from '../../engine/index.ts'
import { sigmoidLater } from '../../engine/ops/later.ts'
import { assertClose, builds, readAndFree, reference, uniforms, wasm, webgpu } from '../helpers.ts'

const devices: readonly { name: string; open: (test: Mocha.Context) => Promise<Device> }[] = [
  { name: 'reference', open: async () => reference },
  ...builds.map(({ name, relaxed }) => ({ name: `wasm ${name}`, open: () => wasm(2, relaxed) })),
  { name: 'webgpu', open: webgpu },
]

for (const { name, open } of devices)
  describe(`engine, ${name}`, () => {
    let device: Device
    let inUse = 0
    before(async function () {
      device = await open(this)
      inUse = device.bytesInUse()
    })
    afterEach(() => assert.equal(device.bytesInUse(), inUse, 'bytes left over'))

    const leaf = (data: engine.Nested): Tensor => tensor(data, { device, requiresGrad: true })
    /** Gradients of the loss that `body` returns, with respect to leaves of these values. */
    async function gradients(values: engine.Nested[], body: (...leaves: Tensor[]) => Tensor): Promise<(number[] | null)[]> {
      const grads = scope(() => {
        const leaves = values.map(leaf)
        body(...leaves).backward()
        return leaves.map((x) => x.grad)
      })
      return Promise.all(grads.map((g) => g && readAndFree(g)))
    }

    describe('autograd', () => {
      it('adds to a gradient once in a kernel call, where a tensor is several of its operands', async () => {
        const { products } = device.kernels
        const written: unknown[][] = []
        device.kernels.products = (list) => {
          written.push(list.map(({ c }) => c))
          products(list)
        }
        try {
          // X X^T, and W of two maps: once, and once more added to that.
          const grads = scope(() => {
            const [X, W, seed, x] = [
              leaf([
                [1, 2],
                [3, 4],
              ]),
              leaf([[1, 2]]),
              tensor(
                [
                  [1, 2],
                  [3, 4],
                ],
                { device },
              ),
              tensor([[5, 6]], { device }),
            ]
            for (let i = 0; i < 2; i++) {
              engine.matmul(X, X, { transposeB: true }).backward(seed)
              const [first, second] = engine.linears(x, [{ weight: W }, { weight: W }])
              engine.add(first, engine.mul(second, 2)).backward(tensor([[1]], { device }))
            }
            return [X.grad!, W.grad!]
          })
          // (seed + seed^T) X, and 3 x; twice.
          assert.deepEqual(await Promise.all(grads.map(readAndFree)), [
            [34, 48, 58, 84],
            [30, 36],
          ])
        } finally {
          device.kernels.products = products
        }
        assert.ok(written.length >= 4)
        for (const blocks of written) assert.equal(new Set(blocks).size, blocks.length)
      })

      it('has as many linear maps of one input as one likes', async () => {
        // The gradient of x is a sum over more arrays than a kernel call of WebGPU reads.
        const maps = 9
        const [dx, ...dW] = await gradients([Array.from({ length: maps + 1 }, () => Array(16).fill(2))], (all) => {
          const rows = Array.from({ length: maps + 1 }, (_, i) => engine.reshape(engine.slice(all, 0, i, i + 1), [4, 4]))
          const ys = engine.linears(
            rows[0],
            rows.slice(1).map((weight) => ({ weight })),
          )
          return engine.sum(ys.reduce((sum, y) => engine.add(sum, y)))
        }).then(([d]) => Array.from({ length: maps + 1 }, (_, i) => d!.slice(16 * i, 16 * (i + 1))))
        assert.deepEqual(dx, Array(16).fill(maps * 4 * 2))
        for (const d of dW) assert.deepEqual(d, Array(16).fill(4 * 2))
      })

      it('adds up what a tensor used many times receives', async () => {
        // x + x + x x + x (x + x): 2 + 2x + 4x
        const [dx] = await gradients([[1, -2, 3]], (x) =>
          engine.sum(engine.add(engine.add(x, x), engine.add(engine.mul(x, x), engine.mul(x, engine.add(x, x))))),
        )
        assert.deepEqual(dx, [8, -10, 20])
      })

      it('goes through diamonds once a node', async () => {
        // Each level doubles: 2^20 paths, 20 nodes.
        const [dx] = await gradients([1], (x) => {
          let y = x
          for (let i = 0; i < 20; i++) y = engine.add(y, y)
          return y
        })
        assert.deepEqual(dx, [2 ** 20])
      })

      it('keeps a shared intermediate right when its users are of different depth', async () => {
        // s = a b; loss = s + s^2 + (s + s^2) s at a = 2, b = 3: dl/ds = 1 + 2s + 2s + 3s^2 = 133
        const grads = await gradients([2, 3], (a, b) => {
          const s = engine.mul(a, b)
          const t = engine.add(s, engine.square(s))
          return engine.add(t, engine.mul(t, s))
        })
        assert.deepEqual(grads, [[399], [266]])
      })

      it('adds to grad over several backward passes, also of one graph', async () => {
        const x = leaf([1, 2])
        scope(() => engine.sum(engine.square(x)).backward())
        scope(() => {
          const y = engine.sum(engine.mul(x, 10))
          y.backward()
          y.backward()
        })
        assert.deepEqual(await readAndFree(x.grad!), [22, 24])
        x.dispose()
      })

      it('does not mix up gradients that one op hands to two inputs', async () => {
        // add gives dy itself to a and to b; adding to a's gradient must not change b's.
        const a = leaf([1, 1])
        const b = leaf([2, 2])
        scope(() => engine.sum(engine.add(a, b)).backward())
        scope(() => engine.sum(engine.mul(a, 5)).backward())
        assert.deepEqual(
          [await readAndFree(a.grad!), await readAndFree(b.grad!)],
          [
            [6, 6],
            [1, 1],
          ],
        )
        for (const x of [a, b]) x.dispose()

        const [da, db] = await gradients(
          [
            [1, 1],
            [2, 2],
          ],
          (a, b) => {
            const s = engine.add(a, b)
            return engine.sum(engine.add(engine.add(s, engine.mul(a, 3)), engine.add(engine.reshape(s, [2]), engine.mul(b, 7))))
          },
        )
        assert.deepEqual(
          [da, db],
          [
            [5, 5],
            [9, 9],
          ],
        )
      })

      it('leaves the seed alone', async () => {
        const x = leaf([1, 2])
        const seed = tensor([3, 4], { device })
        scope(() => {
          const y = engine.reshape(x, [2])
          y.backward(seed)
          y.backward(seed)
        })
        assert.deepEqual(
          [await readAndFree(seed), await readAndFree(x.grad!)],
          [
            [3, 4],
            [6, 8],
          ],
        )
        x.dispose()
      })

      it('refuses to go back through what was overwritten since', () => {
        const overwritten = (op: string, what: string) => ({
          message: `${op}: ${what} was overwritten between forward and backward (a state carried over steps has to be cut off from them: detach(state))`,
        })
        scope(() => {
          const x = leaf([1, 2])
          const y = engine.square(x)
          const loss = engine.sum(y)
          loss.backward()
          engine.detach(x).write([3, 4])
          assert.throws(() => loss.backward(), overwritten('square', 'an input [2]'))
          const z = engine.exp(x)
          z.write([5, 6])
          assert.throws(() => z.backward(engine.ones([2], device)), overwritten('exp', 'the result [2]'))
        })
        scope(() => {
          const [p, g, m, v] = [1, 2, 3, 4].map((value) => engine.full([2, 2], value, device))
          const steps = {
            adam: [p, m, v],
            muon: [p, m],
          }
          for (const [step, changed] of Object.entries(steps))
            for (const x of changed) {
              x.requiresGrad = true
              const loss = engine.sum(engine.mul(x, g))
              if (step === 'adam') {
                const rates = { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, correction1: 1, correction2: 1 }
                engine.adamStep(p, g, m, v, { ...rates, decoupled: true })
              } else engine.muonStep(p, g, m, { lr: 0.1, momentum: 0.9, weightDecay: 0 })
              assert.throws(() => loss.backward(), overwritten('mul', 'an input [2,2]'))
              x.requiresGrad = false
            }
        })
      })

      it('names the op whose tensors were freed, and the way out', () => {
        const w = leaf([2])
        // The state leaves the scope of its step, what its backward needs doesn't.
        const state = scope(() => engine.exp(engine.mul(engine.ones([1], device), w)))
        const next = scope(() => engine.mul(state, w))
        assert.throws(
          () => scope(() => next.backward()),
          /^Error: exp: backward needs what was freed: tensor \[1\] was freed; .* \(a state carried over steps .*: detach\(state\)\)$/,
        )
        w.grad!.dispose()
        w.grad = null
        scope(() => engine.mul(engine.detach(state), w).backward())
        for (const x of [state, next, w.grad!, w]) x.dispose()
      })

      it('gives each leaf a gradient in memory of its own', async () => {
        const [a, b] = [leaf([1, 2]), leaf([3, 4])]
        const seed = tensor([5, 6], { device })
        scope(() => engine.add(engine.reshape(a, [2]), b).backward(seed))
        assert.deepEqual([a.grad!.exclusive, b.grad!.exclusive, seed.exclusive], [true, true, true])
        a.grad!.write([0, 0])
        seed.write([0, 0])
        assert.deepEqual(await readAndFree(b.grad!), [5, 6])
        for (const x of [a.grad!, a, b, seed]) x.dispose()
      })

      it('lets a gradient live as long as its leaf', () => {
        let grad: Tensor | undefined
        scope(() => {
          const x = leaf([1, 2])
          scope(() => x.backward(engine.ones([2], device)))
          scope(() => engine.sum(engine.square(x)).backward())
          grad = x.grad!
          assert.equal(grad.disposed, false)
        })
        assert.equal(grad!.disposed, true)
        // A leaf that leaves its scope without its gradient has none.
        const x = scope(() => {
          const x = leaf([1])
          engine.mul(x, x).backward()
          return x
        })
        scope(() => engine.mul(x, 3).backward())
        assert.equal(x.grad!.disposed, false)
        for (const t of [x.grad!, x]) t.dispose()
      })

      it('goes through products with an empty axis', async () => {
        for (const shape of [
          [2, 3, 0, 4],
          [2, 3, 4, 0],
        ]) {
          const [B, M, K, N] = shape
          const grads = scope(() => {
            const a = tensor(uniforms(1, B * M * K), { shape: [B, M, K], device, requiresGrad: true })
            const b = tensor(uniforms(2, K * N), { shape: [K, N], device, requiresGrad: true })
            engine.sum(engine.matmul(a, b)).backward()
            return [a.grad!, b.grad!]
          })
          assert.deepEqual(
            grads.map((g) => g.shape),
            [
              [B, M, K],
              [K, N],
            ],
          )
          for (const g of grads) assert.ok((await readAndFree(g)).every((d) => d === 0))
        }
      })

      it('handles a backward from a leaf', async () => {
        assert.deepEqual(await gradients([5], (x) => x), [[1]])
      })

      it('records nothing under noGrad, nor without a parameter', () => {
        scope(() => {
          const x = leaf([1, 2])
          assert.equal(engine.noGrad(() => engine.exp(x)).requiresGrad, false)
          assert.equal(engine.exp(tensor([1], { device })).node, null)
          assert.throws(
            () =>
              engine.noGrad(() => {
                throw new Error('inside')
              }),
            /inside/,
          )
          assert.equal(engine.exp(x).requiresGrad, true)
        })
      })

      it('stops at detach', async () => {
        const [dx] = await gradients([[3, 4]], (x) => engine.sum(engine.mul(x, engine.detach(x))))
        assert.deepEqual(dx, [3, 4])
      })

      it('gives nothing to tensors that did not ask, nor to those that do not count', async () => {
        const other = leaf([1])
        const [dx] = await gradients([[1, 2]], (x) => {
          const constant = tensor([5, 6], { device })
          const y = engine.sum(engine.mul(x, constant))
          assert.equal(constant.grad, null)
          return y
        })
        assert.deepEqual(dx, [5, 6])
        assert.equal(other.grad, null)
        other.dispose()
      })

      it('zeroes what an unused output of a node would have brought', async () => {
        const [dx] = await gradients([[1, 2, 3, 4]], (x) => engine.sum(engine.square(engine.split(x, 0, [1, 2, 1])[1])))
        assert.deepEqual(dx, [0, 4, 6, 0])
        const [dv] = await gradients([[[[[2]], [[3]]]]], (v) => {
          const one = engine.ones([1, 2, 1, 1], device)
          return engine.sum(engine.sumRule(one, one, v).state.S)
        })
        assert.deepEqual(dv, [1, 1])
      })

      it('survives a graph of tens of thousands of nodes', async function () {
        this.timeout(60_000)
        // The host walks it, on every device alike; a GPU that the CPU imitates takes its time for each node.
        const nodes = device.name === 'webgpu' ? 15_000 : 50_000
        const [dx] = await gradients([1], (x) => {
          let y = x
          for (let i = 0; i < nodes; i++) y = engine.affine(y, 1, 1e-6)
          return y
        })
        assert.deepEqual(dx, [1])
      })

      it('shares the gradient of a tie', async () => {
        assert.deepEqual(
          await gradients(
            [
              [1, 2, 5],
              [2, 2, 3],
            ],
            (a, b) => engine.sum(engine.maximum(a, b)),
          ),
          [
            [0, 0.5, 1],
            [1, 0.5, 0],
          ],
        )
        assert.deepEqual(
          await gradients(
            [
              [1, 2, 5],
              [2, 2, 3],
            ],
            (a, b) => engine.sum(engine.minimum(a, b)),
          ),
          [
            [1, 0.5, 0],
            [0, 0.5, 1],
          ],
        )
        assert.deepEqual(
          await gradients(
            [
              [
                [1, 4],
                [4, 2],
              ],
            ],
            (x) => engine.max(x),
          ),
          [[0, 0.5, 0.5, 0]],
        )
        assert.deepEqual(await gradients([[0, -0, 1, -1]], (x) => engine.sum(engine.relu(x))), [[0, 0, 1, 0]])
      })

      it('where looks at nothing that is not chosen, forward and backward', async () => {
        const bad = [NaN, Infinity, -Infinity]
        const condition = tensor(Int32Array.of(1, 0, -3, 0), { device })
        const [a, b] = [leaf([1, NaN, 2, -Infinity]), leaf([Infinity, 3, NaN, 4])]
        const y = scope(() => {
          const y = engine.where(condition, a, b)
          y.backward(tensor([10, NaN, 20, Infinity], { device }))
          return y
        })
        assert.deepEqual(await readAndFree(y), [1, 3, 2, 4])
        assert.deepEqual(await readAndFree(a.grad!), [10, 0, 20, 0])
        assert.deepEqual(await readAndFree(b.grad!), [0, NaN, 0, Infinity])
        for (const t of [a, b, condition]) t.dispose()

        // A number on either side, a condition for each row of a longer tensor, and one that is stretched.
        const rows = tensor(Int32Array.of(0, 1), { shape: [2, 1], device })
        const x = leaf([
          [...bad, 1, -0],
          [5, 6, 7, 8, 9],
        ])
        const [first, second] = scope(() => {
          const first = engine.where(rows, x, 0)
          first.backward(
            tensor(
              [
                [...bad, 1, 1],
                [1, 2, 3, 4, 5],
              ],
              { device },
            ),
          )
          return [first, engine.where(rows, -1, x)]
        })
        assert.deepEqual(await readAndFree(first), [0, 0, 0, 0, 0, 5, 6, 7, 8, 9])
        assert.deepEqual(await readAndFree(x.grad!), [0, 0, 0, 0, 0, 1, 2, 3, 4, 5])
        assert.deepEqual(await readAndFree(second), [...bad, 1, -0, -1, -1, -1, -1, -1])
        for (const t of [x, rows]) t.dispose()

        // One tensor on both sides, and a stretched one, whose gradient is a sum over where it was chosen.
        const flags = tensor(Int32Array.of(1, 0, 1), { device })
        const [both, stretched] = [leaf([1, 2, 3]), leaf([7])]
        scope(() => {
          engine.where(flags, both, both).backward(tensor([1, 2, 4], { device }))
          engine.where(flags, stretched, both).backward(tensor([1, NaN, 4], { device }))
        })
        assert.deepEqual(await readAndFree(both.grad!), [1, NaN, 4])
        assert.deepEqual(await readAndFree(stretched.grad!), [5])
        for (const t of [both, stretched, flags]) t.dispose()
      })

      for (const [name, T, earlier, visible, K = 3, V = 5] of [
        ['causal', 9, 0, undefined],
        // On WebGPU the products of more than 256 elements are another kernel's.
        ['causal, wide', 9, 0, undefined, 29, 33],
        ['causal, after earlier keys', 5, 4, undefined],
        // Three sequences of 4, 3 and 2 tokens, of which the second token of the first is padding.
        ['packed', 9, 0, [[0], null, [0, 2], [0, 2, 3], [4], [4, 5], [4, 5, 6], [7], [7, 8]]],
      ] as [string, number, number, (number[] | null)[] | undefined, number?, number?][])
        it(`softmax attention: what a query does not see never reaches it, forward or backward: ${name}`, async () => {
          const n = T + earlier
          const sees = (t: number, s: number): boolean => (visible ? (visible[t]?.includes(s) ?? false) : s <= earlier + t)
          const seen = Int32Array.from({ length: T * n }, (_, i) => Number(sees(Math.floor(i / n), i % n)))
          const values = [T * K, n * K, n * V, T * V].map((size, i) => uniforms(i, size))
          /** y and dq, dk, dv by rows, with what makes some rows bad. */
          const run = async (q: Float32Array, k: Float32Array, v: Float32Array, dy: Float32Array): Promise<number[][][]> => {
            const rows = (x: number[], width: number): number[][] =>
              Array.from({ length: x.length / width }, (_, i) => x.slice(i * width, (i + 1) * width))
            const [y, ...grads] = scope(() => {
              const inputs = [q, k, v].map((x, i) => tensor(x, { shape: [1, i === 0 ? T : n, i < 2 ? K : V], device, requiresGrad: true }))
              const y = engine.softmaxAttention(inputs[0], inputs[1], inputs[2], visible && tensor(seen, { shape: [T, n], device }))
              y.backward(tensor(dy, { shape: [1, T, V], device }))
              return [y, ...inputs.map((x) => x.grad!)]
            })
            const [a, b, c, d] = [
              await readAndFree(y),
              await readAndFree(grads[0]),
              await readAndFree(grads[1]),
              await readAndFree(grads[2]),
            ]
            return [rows(a, V), rows(b, K), rows(c, K), rows(d, V)]
          }
          const [q, k, v, dy] = values
          const good = await run(q, k, v, dy)
          const spoilt = (x: Float32Array, width: number, row: number, bad: number): Float32Array =>
            x.map((value, i) => (Math.floor(i / width) === row ? bad : value))
          for (const bad of [NaN, Infinity, -Infinity])
            for (let row = 0; row < n; row++) {
              // A key and its value, and the query of the same token and what comes back to it.
              const own = row - earlier
              const at = own < 0 ? T : own
              const [y, dq, dk, dv] = await run(
                spoilt(q, K, at, bad),
                spoilt(k, K, row, bad),
                spoilt(v, V, row, bad),
                spoilt(dy, V, at, bad),
              )
              for (let t = 0; t < T; t++)
                if (t !== at && !sees(t, row)) assert.deepEqual([y[t], dq[t]], [good[0][t], good[1][t]], `${bad} at ${row}: query ${t}`)
              for (let s = 0; s < n; s++) {
                const touched = Array.from({ length: T }, (_, t) => t).some((t) => sees(t, s) && (t === at || sees(t, row)))
                if (!touched) assert.deepEqual([dk[s], dv[s]], [good[2][s], good[3][s]], `${bad} at ${row}: key ${s}`)
              }
            }
          // Padding sees nothing and gives nothing, whatever dy holds there.
          if (visible) {
            const [y, dq, dk, dv] = await run(q, k, v, spoilt(dy, V, 1, NaN))
            assert.deepEqual(
              [y[1], dq[1]],
              [
                [0, 0, 0, 0, 0],
                [0, 0, 0],
              ],
            )
            assert.deepEqual([dk, dv], [good[2], good[3]])
          }
        })

      it('cross-entropy looks at nothing of a row whose target is ignored', async () => {
        for (const bad of [NaN, Infinity, -Infinity]) {
          const logits = leaf([
            [1, 2],
            [bad, 3],
            [bad, bad],
          ])
          const losses = scope(() => {
            const targets = tensor(Int32Array.of(0, -1, -1), { device })
            const losses = engine.crossEntropy(logits, targets, { ignore: -1, reduction: 'none' })
            losses.backward(tensor([1, NaN, Infinity], { device }))
            return [losses, engine.crossEntropy(logits, targets, { ignore: -1 })]
          })
          const [each, mean] = [await readAndFree(losses[0]), await readAndFree(losses[1])]
          assert.ok(Math.abs(each[0] - Math.log1p(Math.E)) < 1e-6)
          assert.deepEqual([each.slice(1), mean], [[0, 0], [each[0]]])
          const p = 1 / (1 + Math.E)
          const gradient = await readAndFree(logits.grad!)
          assertClose(gradient.slice(0, 2), [p - 1, 1 - p], 1e-6)
          assert.deepEqual(gradient.slice(2), [0, 0, 0, 0])
          logits.dispose()
        }
      })

      it('asks norms, matmul and concat only for the gradients that are wanted', async () => {
        const fixed = (data: engine.Nested): Tensor => tensor(data, { device })
        const [dgain] = await gradients([[1, 1]], (gain) =>
          engine.sum(
            engine.rmsNorm(
              fixed([
                [3, 3],
                [1, 1],
              ]),
              gain,
              0,
            ),
          ),
        )
        assertClose(dgain!, [2, 2], 1e-6)
        const [db] = await gradients([[[1], [1]]], (b) => engine.sum(engine.matmul(fixed([[1, 2]]), b)))
        assert.deepEqual(db, [1, 2])
        const [bias] = await gradients([[0]], (bias) =>
          engine.sum(
            engine.matmul(
              fixed([
                [1, 2],
                [3, 4],
              ]),
              fixed([[1], [1]]),
              { bias },
            ),
          ),
        )
        assert.deepEqual(bias, [2])
        const [part] = await gradients([[7]], (x) => engine.sum(engine.square(engine.concat([fixed([1]), x], 0))))
        assert.deepEqual(part, [14])
      })

      it('backward only frees gradients nobody can see, so the graph stays usable', async () => {
        const x = leaf([2])
        const y = scope(() => engine.mul(engine.mul(x, x), x))
        y.dispose()
        assert.throws(() => y.backward(), /backward: the tensor was freed/)
        x.dispose()
      })
    })

    describe('customOp', () => {
      it('uses its own backward', async () => {
        const [dx] = await gradients([[1, 2]], (x) =>
          engine.sum(
            engine.customOp(
              'clamp',
              [x],
              () => engine.minimum(x, 1.5),
              (dy, y) => [engine.mul(dy, engine.add(y, 10))],
            ),
          ),
        )
        assert.deepEqual(dx, [11, 11.5])
      })

      it('may give no gradient', async () => {
        const [a, b] = await gradients([[1], [2]], (a, b) =>
          engine.sum(
            engine.customOp(
              'first',
              [a, b],
              () => engine.add(a, b),
              (dy) => [dy, null],
            ),
          ),
        )
        assert.deepEqual([a, b], [[1], null])
      })

      it('refuses a gradient that is no float32 tensor of the device', async () => {
        const other = device.double ? await wasm() : reference
        scope(() => {
          const x = leaf([1, 2])
          for (const wrong of [tensor(Int32Array.of(1, 2), { device }), engine.ones([2], other)]) {
            const y = engine.customOp(
              'odd',
              [x],
              () => engine.exp(x),
              () => [wrong],
            )
            assert.throws(
              () => engine.sum(y).backward(),
              /odd: backward gave Tensor.* for Tensor.*, not a float32 gradient on the same device/,
            )
          }
        })
      })

      it('refuses what is not a new float32 tensor', () => {
        scope(() => {
          const x = leaf([1])
          const recorded = engine.exp(x)
          for (const wrong of [recorded, leaf([2]), tensor(Int32Array.of(1), { device }), undefined as never])
            assert.throws(
              () =>
                engine.customOp(
                  'odd',
                  [x],
                  () => wrong,
                  () => [null],
                ),
              { message: `odd: forward must return a new float32 tensor, not ${wrong}` },
            )
        })
      })

      it('refuses inputs that are no tensors, and what is no gradient', () => {
        scope(() => {
          const x = leaf([1, 2])
          const odd = (inputs: unknown, gradient: unknown): Tensor =>
            engine.customOp(
              'odd',
              inputs as Tensor[],
              () => engine.exp(x),
              () => [gradient] as Tensor[],
            )
          assert.throws(() => odd(x, null), { message: 'odd: the inputs must be an array of tensors, not a Tensor' })
          for (const wrong of [2, null])
            assert.throws(() => odd([x, wrong], null), { message: `odd: the inputs must be tensors, not ${wrong}` })
          for (const wrong of [2, undefined])
            assert.throws(() => engine.sum(odd([x], wrong)).backward(), {
              message: `odd: backward gave ${wrong} for a gradient, not a tensor (null where there is none)`,
            })
          for (const wrong of [undefined, null]) {
            const y = engine.customOp(
              'odd',
              [x],
              () => engine.exp(x),
              () => wrong as never,
            )
            assert.throws(() => engine.sum(y).backward(), {
              message: `odd: backward must return an array with a gradient for each input, not ${wrong}`,
            })
          }
        })
      })

      it('refuses a wrong shape, and one of its inputs as the result', () => {
        scope(() => {
          const x = leaf([1, 2])
          const y = engine.sum(
            engine.customOp(
              'odd',
              [x],
              () => engine.exp(x),
              () => [engine.ones([3], device)],
            ),
          )
          assert.throws(() => y.backward(), /odd: backward gave a gradient of shape \[3\] for an input of shape \[2\]/)
          assert.throws(
            () =>
              engine.customOp(
                'same',
                [x],
                () => x,
                () => [null],
              ),
            /same: forward must return a new float32 tensor, not one of its inputs/,
          )
        })
      })
    })

    describe('scope', () => {
      it('has the values of what leaves it that would have been computed later', async () => {
        const x = leaf([0, 0, 0])
        const left = scope(() => sigmoidLater(engine.affine(x, 2)))
        let kept: Tensor
        scope(() => {
          kept = engine.keep(sigmoidLater(engine.affine(x, 2)))
        })
        for (const y of [left, kept!]) assert.deepEqual(await readAndFree(y), [0.5, 0.5, 0.5])
        x.dispose()
      })

      it('frees all but what is returned, through arrays, maps and objects', async () => {
        const before = device.bytesInUse()
        const result = scope(() => {
          const x = tensor([1, 2], { device })
          engine.exp(x)
          return { list: [engine.mul(x, 2)], map: new Map([['a', engine.mul(x, 3)]]), number: 4 }
        })
        assert.equal(device.bytesInUse() - before, 4 * (device.double ? 8 : 4))
        assert.deepEqual(await readAndFree(result.list[0]), [2, 4])
        assert.deepEqual(await readAndFree(result.map.get('a')!), [3, 6])
      })

      it('hands what an inner scope returns to the outer one', () => {
        let inner: Tensor | undefined
        scope(() => {
          inner = scope(() => engine.ones([3], device))
          assert.equal(inner.disposed, false)
        })
        assert.equal(inner!.disposed, true)
      })

      it('frees everything when the body throws', () => {
        let inside: Tensor | undefined
        assert.throws(
          () =>
            scope(() => {
              inside = engine.ones([3], device)
              scope(() => engine.ones([4], device))
              throw new Error('stop')
            }),
          /stop/,
        )
        assert.equal(inside!.disposed, true)
        // And the scope is closed: what is made now belongs to nobody.
        const after = engine.ones([1], device)
        assert.equal(after.disposed, false)
        after.dispose()
      })

      it('refuses an asynchronous body', () => {
        assert.throws(() => scope(async () => engine.ones([1], device)), /scope: the body is asynchronous; return the tensors/)
        assert.throws(() => engine.noGrad(async () => 1), /noGrad: the body is asynchronous; return the tensors/)
      })

      it('leaves what is kept, parameters among them', () => {
        const [kept, p] = scope(() => {
          const kept = engine.keep(engine.ones([1], device))
          const p = engine.parameter(engine.ones([1], device))
          engine.sum(engine.mul(p, 2)).backward()
          engine.ones([1], device)
          return [[kept], [p]].map(
            ([x]) =>
              () =>
                x,
          )
        }).map((get) => get())
        assert.deepEqual([kept.disposed, p.disposed, p.grad!.disposed, p.requiresGrad], [false, false, false, true])
        for (const x of [kept, p, p.grad!]) x.dispose()
      })

      it('keeps memory alive for views until the last of them is freed', async () => {
        const x = tensor([1, 2], { device })
        const y = engine.reshape(x, [2, 1])
        assert.equal(x.exclusive, false)
        x.dispose()
        x.dispose()
        assert.equal(y.exclusive, true)
        assert.deepEqual(await readAndFree(y), [1, 2])
      })

      it('is not needed for single ops: they leave nothing but their results', () => {
        const inputs = scope(() => {
          const x = tensor(uniforms(1, 12), { shape: [3, 4], device })
          const targets = tensor(Int32Array.of(0, 3, 1), { device })
          const flags = tensor(Int32Array.of(0, 1, 0, 1), { device })
          return { x, targets, flags, q: engine.reshape(x, [1, 3, 1, 4]), beta: engine.ones([1, 3, 1], device) }
        })
        const { x, targets, flags, q, beta } = inputs
        const calls: Record<string, () => Tensor | Tensor[]> = {
          sum: () => engine.sum(x, { axis: 0 }),
          mean: () => engine.mean(x),
          max: () => engine.max(x, { axis: [0, 1] }),
          div: () => engine.div(x, 3),
          maximum: () => engine.maximum(x, 0),
          greater: () => engine.greater(x, 0),
          where: () => engine.where(flags, 0, x),
          rmsNorm: () => engine.rmsNorm(x),
          crossEntropy: () => engine.crossEntropy(x, targets),
          split: () => engine.split(x, 1, [1, 3]),
          deltaRule: () => [engine.deltaRule(q, q, q, beta)].flatMap(({ y, state }) => [y, state.S]),
          sumRule: () => [engine.sumRule(q, q, q, undefined, { normalise: true })].flatMap(({ y, state }) => [y, state.S, state.z!]),
        }
        const used = device.bytesInUse()
        for (const [name, call] of Object.entries(calls)) {
          const results = [call()].flat()
          for (const y of results) y.dispose()
          assert.equal(device.bytesInUse(), used, name)
        }
        for (const t of Object.values(inputs)) t.dispose()
      })

      it('bytes in use stay flat over training steps', () => {
        const w = engine.parameter(tensor(uniforms(1, 20), { shape: [4, 5], device }))
        const [m, v] = [w, w].map(() => engine.keep(engine.zeros(w.shape, device)))
        const used = new Set<number>()
        for (let step = 1; step <= 30; step++) {
          scope(() => {
            const x = tensor(uniforms(step, 12), { shape: [3, 4], device })
            const targets = tensor(Int32Array.of(0, 4, 2), { device })
            engine.crossEntropy(engine.gelu(engine.matmul(x, w)), targets).backward()
            const scale = engine.clipScale(engine.gradNorm([w.grad!]), 1)
            const options = {
              lr: 0.1,
              beta1: 0.9,
              beta2: 0.99,
              eps: 1e-8,
              weightDecay: 0,
              decoupled: true,
              correction1: 1 - 0.9 ** step,
              correction2: 1 - 0.99 ** step,
            }
            engine.adamStep(w, w.grad!, m, v, options, scale)
            w.grad!.dispose()
            w.grad = null
          })
          used.add(device.bytesInUse())
        }
        assert.equal(used.size, 1)
        for (const x of [w, m, v]) x.dispose()
      })

      it('frees the gradients under way when a backward throws', () => {
        scope(() => {
          const x = leaf([1, 2])
          const bad = engine.customOp(
            'bad',
            [engine.exp(x)],
            () => engine.ones([2], device),
            () => {
              throw new Error('broken')
            },
          )
          assert.throws(() => engine.sum(engine.add(bad, engine.exp(x))).backward(), /broken/)
          x.grad?.dispose()
        })
      })
    })

    describe('tensors', () => {
      it('come from numbers, nested arrays, flat and typed arrays', async () => {
        const shapes = scope(() =>
          [
            tensor(5, { device }),
            tensor(
              [
                [1, 2, 3],
                [4, 5, 6],
              ],
              { device },
            ),
            tensor([1, 2, 3, 4], { shape: [2, 2], device }),
            tensor(Float64Array.of(1, 2), { device }),
            tensor(Int32Array.of(1, 2), { device }),
            tensor([[], []], { device }),
          ].map((x) => ({ shape: x.shape, dtype: x.dtype })),
        )
        assert.deepEqual(
          shapes.map((x) => x.shape),
          [[], [2, 3], [2, 2], [2], [2], [2, 0]],
        )
        assert.deepEqual(
          shapes.map((x) => x.dtype),
          ['float32', 'float32', 'float32', 'float32', 'int32', 'float32'],
        )
        assert.deepEqual(await readAndFree(engine.full([2, 2], 7, device)), [7, 7, 7, 7])
        assert.deepEqual(
          await readAndFree(
            tensor(
              [
                [1, 2],
                [3, 4],
              ],
              { dtype: 'int32', device },
            ),
          ),
          [1, 2, 3, 4],
        )
      })

      it('are made where setDevice says', () => {
        const before = engine.getDevice()
        engine.setDevice(device)
        try {
          scope(() => assert.equal(engine.zeros([1]).device, device))
        } finally {
          engine.setDevice(before)
        }
      })

      it('read as their device stores them', async () => {
        const [f, i] = [tensor([1.5], { device }), tensor(Int32Array.of(7), { device })]
        assert.ok((await f.read()) instanceof (device.double ? Float64Array : Float32Array))
        assert.ok((await i.read()) instanceof Int32Array)
        assert.equal(await f.item(), 1.5)
        for (const x of [f, i]) x.dispose()
      })

      it('a read is a copy, taken after what was called before', async () => {
        const x = tensor([1, 2], { device })
        const pending = x.read()
        const copy = await pending
        x.write([3, 4])
        assert.deepEqual([...copy], [1, 2])
        assert.deepEqual(await readAndFree(x), [3, 4])
      })

      it('may be empty', async () => {
        const results = scope(() => {
          const x = leaf([[], []])
          const y = engine.sum(engine.exp(engine.add(x, 1)), { axis: 1 })
          y.backward(engine.ones([2], device))
          const joined = engine.concat([x, engine.ones([2, 1], device)], 1)
          const product = engine.matmul(x, engine.ones([0, 3], device))
          return [y, x.grad!, joined, product, engine.cumsum(x, 1), engine.permute(x, [1, 0]), engine.softmax(engine.zeros([0, 3], device))]
        })
        assert.deepEqual(await Promise.all(results.map(readAndFree)), [[0, 0], [], [1, 1], [0, 0, 0, 0, 0, 0], [], [], []])
      })

      it('divide by a number exactly', async () => {
        const values = [1, 5, 7, 11]
        const [y, dx] = scope(() => {
          const x = leaf(values)
          const y = engine.div(x, 49)
          engine.sum(y).backward()
          return [y, x.grad!]
        })
        const round = device.double ? (v: number) => v : Math.fround
        assert.deepEqual(
          await readAndFree(y),
          values.map((v) => round(v / 49)),
        )
        assert.deepEqual(await readAndFree(dx), Array(4).fill(round(1 / 49)))
      })

      it('axes may be counted from the end', async () => {
        const results = scope(() => {
          const x = tensor(
            [
              [1, 2],
              [3, 4],
            ],
            { device },
          )
          return [
            engine.sum(x, { axis: -1 }),
            engine.max(x, { axis: -2 }),
            engine.cumsum(x, -1),
            engine.roll(x, -1, 1),
            engine.slice(x, -1, 1, 2),
            engine.concat([x, x], -1),
            ...engine.split(x, -1, [1, 1]),
          ]
        })
        const read = await Promise.all(results.map(readAndFree))
        assert.deepEqual(read, [
          [3, 7],
          [3, 4],
          [1, 3, 3, 7],
          [2, 1, 4, 3],
          [2, 4],
          [1, 2, 1, 2, 3, 4, 3, 4],
          [1, 3],
          [2, 4],
        ])
      })
    })

    describe('errors say what is wrong in one line', () => {
      const bad: [title: string, call: (f: (shape: number[]) => Tensor, i: (values: number[]) => Tensor) => unknown, message: string][] = [
        ['ragged arrays', () => tensor([[1, 2], [3]], { device }), 'tensor: the nested arrays are ragged (expected 2 entries at depth 1)'],
        [
          'a number among arrays',
          () => tensor([[1], 2], { device }),
          'tensor: the nested arrays are ragged (expected 1 entries at depth 1)',
        ],
        ['text', () => tensor(['a'] as never, { device }), 'tensor: found string where a number was expected'],
        ['too few values', () => tensor([1, 2, 3], { shape: [2, 2], device }), "tensor: 3 values don't fill the shape [2,2]"],
        ['a negative size', () => engine.zeros([2, -1], device), "full: shape [2,-1] has a size that isn't a non-negative integer"],
        ['a size beyond integers', () => engine.zeros([2 ** 30, 2 ** 30], device), 'full: shape [1073741824,1073741824] is too large'],
        [
          'a size that is no number',
          () => engine.empty([2, NaN], device),
          "empty: shape [2,NaN] has a size that isn't a non-negative integer",
        ],
        ['a view of another size', (f) => f([2, 3]).view([4]), "view: [2,3] doesn't fit into [4]"],
        ['a fraction as index', () => tensor([1, 2.5], { dtype: 'int32', device }), "tensor: value 2.5 at 1 isn't an int32"],
        ['NaN as index', () => tensor([NaN], { dtype: 'int32', device }), "tensor: value NaN at 0 isn't an int32"],
        [
          'a gradient for indices',
          () => tensor([1], { dtype: 'int32', device, requiresGrad: true }),
          'tensor: int32 tensors have no gradient',
        ],
        ['writing indices', (_, i) => i([1]).write([2]), 'write: int32 tensors are made once; make a new one'],
        ['writing too much', (f) => f([2]).write([1, 2, 3]), 'write: 3 values for a tensor of shape [2]'],
        [
          'the result of an op as parameter',
          (f) => engine.parameter(engine.exp(f([1]))),
          'parameter: the tensor is the result of an op; make it inside noGrad()',
        ],

        [
          'backward without a parameter',
          () => engine.ones([1], device).backward(),
          'backward: the tensor depends on no tensor with requiresGrad',
        ],
        [
          'backward without a seed',
          (f) => engine.exp(f([2, 3])).backward(),
          'backward: the tensor has shape [2,3], not one element; pass a seed of that shape',
        ],
        ['a seed of another shape', (f) => engine.exp(f([2])).backward(f([3])), 'backward: the seed has shape [3], the tensor [2]'],

        [
          'shapes that do not broadcast',
          (f) => engine.add(f([2, 3]), f([4, 3])),
          "add: shapes [2,3] and [4,3] don't broadcast (sizes 2 and 4 differ and neither is 1)",
        ],
        ['indices where floats are needed', (_, i) => engine.exp(i([1])), 'exp: needs a float32 tensor, not int32'],
        ['indices in a sum', (_, i) => engine.mul(i([1]), i([1])), 'mul: needs a float32 tensor, not int32'],
        [
          'floats where indices are needed',
          (f) => engine.gather(f([2, 3]), f([1])),
          "gather: needs int32 indices (tensor(..., { dtype: 'int32' })), not float32",
        ],
        [
          'floats as a condition',
          (f) => engine.where(f([2]), f([2]), 0),
          "where: the condition must be an int32 tensor (tensor(..., { dtype: 'int32' })), not float32",
        ],
        [
          'a choice of shapes that do not broadcast',
          (f, i) => engine.where(i([1, 0]), f([3]), 0),
          "where: shapes [2] and [3] don't broadcast (sizes 2 and 3 differ and neither is 1)",
        ],
        ['an index too large', (f, i) => engine.gather(f([2, 3]), i([0, 2])), 'gather: index 2 at 1 is outside 0..1'],
        ['a negative index', (f, i) => engine.gather(f([2, 3]), i([-1])), 'gather: index -1 at 0 is outside 0..1'],
        ['a table of one axis', (f, i) => engine.gather(f([2]), i([0])), 'gather: the table has shape [2], expected [N,D]'],
        ['an axis too far', (f) => engine.sum(f([2, 3]), { axis: 2 }), "sum: there's no axis 2 in a tensor of rank 2"],
        ['an axis too far back', (f) => engine.cumsum(f([2, 3]), -3), "cumsum: there's no axis -3 in a tensor of rank 2"],
        [
          'the max of nothing',
          () => engine.max(tensor([[], []], { device }), { axis: 1 }),
          `max: Tensor([2,0] float32 on ${name.split(' ')[0]}) has nothing along the axis`,
        ],

        ['a reshape that does not fit', (f) => engine.reshape(f([2, 3]), [4, -1]), "reshape: [2,3] doesn't fit into [4,-1]"],
        ['two open sizes', (f) => engine.reshape(f([4]), [-1, -1]), "reshape: [4] doesn't fit into [-1,-1]"],
        ['an order with an axis twice', (f) => engine.permute(f([2, 3]), [0, 0]), "permute: [0,0] isn't an order of the 2 axes of [2,3]"],
        ['a slice beyond the end', (f) => engine.slice(f([2, 3]), 1, 2, 4), "slice: [2, 4) isn't within axis 1 of [2,3]"],
        ['pieces that do not add up', (f) => engine.split(f([2, 3]), 1, [1, 1]), "split: sizes [1,1] don't add up to axis 1 of [2,3]"],
        ['parts that do not match', (f) => engine.concat([f([2, 3]), f([3, 3])], 1), 'concat: [3,3] and [2,3] differ outside axis 1'],
        ['nothing to concatenate', () => engine.concat([], 0), 'concat: needs at least one tensor'],
        [
          'an expansion that shrinks',
          (f) => engine.expand(f([2, 3]), [2, 1]),
          `expand: Tensor([2,3] float32 on ${name.split(' ')[0]}) can't be stretched to [2,1]`,
        ],
        ['a shift that is no integer', (f) => engine.roll(f([2]), 0, 0.5), 'roll: the shift must be an integer, not 0.5'],

        [
          'inner sizes that differ',
          (f) => engine.matmul(f([4, 8]), f([4, 8])),
          'matmul: [4,8] x [4,8]: inner sizes 8 and 4 differ (transpose the second?)',
        ],
        ['a vector in matmul', (f) => engine.matmul(f([4]), f([4, 8])), 'matmul: [4] x [4,8]: both sides need at least two axes'],
        [
          'a bias of another width',
          (f) => engine.matmul(f([2, 3]), f([3, 4]), { bias: f([3]) }),
          'matmul: the bias has shape [3], expected [4]',
        ],
        [
          'a residual of another shape',
          (f) => engine.matmul(f([2, 3]), f([3, 4]), { accumulate: f([4, 2]) }),
          'matmul: the tensor to accumulate to has shape [4,2], the product [2,4]',
        ],

        ['a gain of another width', (f) => engine.layerNorm(f([2, 3]), f([2])), 'layerNorm: the gain has shape [2], expected [3]'],
        ['a negative eps', (f) => engine.l2Norm(f([2]), -1), 'l2Norm: eps must be 0 or more, not -1'],
        ['a softmax of a scalar', (f) => engine.softmax(f([])), 'softmax: [] has no last axis to work on'],
        [
          'a causal softmax with more queries than keys',
          (f) => engine.softmax(f([3, 2]), { causal: true }),
          'softmax: causal needs [..., T, n] with T <= n, not [3,2]',
        ],
        [
          'targets of another shape',
          (f, i) => engine.crossEntropy(f([2, 3]), i([0, 1, 2])),
          'crossEntropy: targets have shape [3], logits [2,3]',
        ],
        [
          'a target outside the classes',
          (f, i) => engine.crossEntropy(f([1, 3]), i([3])),
          "crossEntropy: index 3 at 0 is outside 0..2 (if it marks what doesn't count, say { ignore: 3 })",
        ],
        [
          'a target of -1',
          (f, i) => engine.crossEntropy(f([2, 3]), i([0, -1])),
          "crossEntropy: index -1 at 1 is outside 0..2 (if it marks what doesn't count, say { ignore: -1 })",
        ],
        [
          'a target other than the ignored one',
          (f, i) => engine.crossEntropy(f([2, 3]), i([-1, -2]), { ignore: -1 }),
          "crossEntropy: index -2 at 1 is outside 0..2 (if it marks what doesn't count, say { ignore: -2 })",
        ],
        [
          'no target that counts',
          (f, i) => engine.crossEntropy(f([1, 3]), i([-100])),
          'crossEntropy: every target is ignored, so there is no mean',
        ],

        ['taps for another width', (f) => engine.causalConv(f([1, 4, 3]), f([2, 4])), 'causalConv: w has shape [2,4], expected [D=3,W]'],
        [
          'a width that divides no channels',
          (f) => engine.causalConv(f([1, 4, 3]), f([3, 2]), undefined, { l2Width: 2 }),
          'causalConv: l2Width must be a divisor of D = 3, not 2',
        ],
        [
          'rates for another number of heads',
          (f) => engine.softplusDecay(f([1, 4, 3]), f([2]), f([3])),
          'softplusDecay: a [1,4,3], rate [2] and shift [3] must be [...,H], [H], [H] or [...,H,W], [H,1], [H,W]',
        ],
        ['a nu too large', (f) => engine.dpfp(f([1, 2]), 4), 'dpfp: nu must be an integer from 1 to 2 D - 1 = 3, not 4'],
        ['a probability of 1', (f) => engine.dropout(f([1]), 1, engine.generator(0)), 'dropout: the probability must be in [0, 1), not 1'],
        ['a seed that is no uint32', () => engine.generator(-1), 'generator: the seed must be an integer from 0 to 4294967295, not -1'],
        [
          'keys of another width',
          (f) => engine.deltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 4]), f([1, 2, 1, 3]), f([1, 2, 1])),
          'deltaRule: k has shape [1,2,1,4], expected [B=1,T=2,H=1,K=3]',
        ],
        [
          'a beta of another shape',
          (f) => engine.deltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2])),
          'deltaRule: beta has shape [1,2], expected [B=1,T=2,H=1]',
        ],
        [
          'a state of another shape',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 5]), { S: f([1, 1, 3, 3]) }),
          'sumRule: S has shape [1,1,3,3], expected [1,1,3,5]',
        ],
        [
          'a bare tensor as state',
          (f) => engine.deltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), f([1, 1, 3, 3]) as never),
          'deltaRule: the state must be { S }, as the rule returns it; the options come after it',
        ],
        [
          'options as state',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), { normalise: true } as never),
          'sumRule: the state must be { S }, as the rule returns it; the options come after it',
        ],
        [
          'a normaliser for the delta rule',
          (f) => engine.deltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), { S: f([1, 1, 3, 3]), z: f([1, 1, 3]) }),
          'deltaRule: the state has a z, which this rule lacks',
        ],
        [
          'indices as state',
          (f, i) => scope(() => engine.deltaRule(f([1, 1, 1, 1]), f([1, 1, 1, 1]), f([1, 1, 1, 1]), f([1, 1, 1]), { S: i([1]) })),
          'deltaRule: needs a float32 tensor, not int32',
        ],
        ['indices as gain', (f, i) => engine.rmsNorm(f([1, 2]), i([1, 2])), 'rmsNorm: needs a float32 tensor, not int32'],
        ['indices as bias', (f, i) => engine.matmul(f([1, 2]), f([2, 1]), { bias: i([1]) }), 'matmul: needs a float32 tensor, not int32'],
        ['indices among gradients', (f, i) => engine.gradNorm([f([1]), i([1])]), 'gradNorm: needs a float32 tensor, not int32'],
        [
          'a gradient of another shape',
          (f) => engine.muonStep(f([2, 3]), f([3, 2]), f([2, 3]), { lr: 1, momentum: 0, weightDecay: 0 }),
          'muonStep: the parameter has shape [2,3], its gradient or moment [3,2]',
        ],
        [
          'a vector for Muon',
          (f) => engine.muonStep(f([3]), f([3]), f([3]), { lr: 1, momentum: 0, weightDecay: 0 }),
          'muonStep: the parameter has shape [3], not that of a matrix',
        ],
        [
          'a normaliser that is missing',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), { S: f([1, 1, 3, 3]) }, { normalise: true }),
          'sumRule: the state lacks z [1,1,3], the normaliser',
        ],
        [
          'a chunk of 0',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined, { chunk: 0 }),
          'sumRule: the chunk length must be a positive integer, not 0',
        ],
        [
          'an unknown form',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined, { form: 'fast' as never }),
          "sumRule: unknown form 'fast' (recurrent, parallel, chunk)",
        ],
        [
          'an option that means nothing',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined, { eps: 1 }),
          "sumRule: eps is the normaliser's, and normalise is off",
        ],
        [
          'an option that is none',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined, { chunks: 4 } as never),
          "sumRule: unknown option 'chunks' (form, chunk, scale, mask, reset, normalise, eps)",
        ],
        [
          'a gate for neither heads nor channels',
          (f) => engine.gatedSumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 5]), f([1, 2, 1, 5])),
          'gatedSumRule: gate has shape [1,2,1,5], expected [1,2,1,3]',
        ],
        [
          'a mask that is no mask',
          (f, i) =>
            engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined, { mask: engine.reshape(i([1, 2]), [1, 2]) }),
          'sumRule: mask holds 2 at 1, not 0 or 1',
        ],
        [
          'resets as numbers',
          (f) => engine.sumRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined, { reset: f([1, 2]) }),
          "sumRule: reset must be an int32 tensor of zeros and ones (dtype: 'int32')",
        ],
        [
          'beta and erase together',
          (f) => engine.fastWeights(f([1, 1, 1, 1]), f([1, 1, 1, 1]), f([1, 1, 1, 1]), { beta: f([1, 1, 1]), erase: f([1, 1, 1, 1]) }),
          'fastWeights: beta and erase exclude each other',
        ],
        [
          'a normaliser where values are corrected',
          (f) =>
            engine.fastWeights(f([1, 1, 1, 1]), f([1, 1, 1, 1]), f([1, 1, 1, 1]), { beta: f([1, 1, 1]) }, undefined, { normalise: true }),
          'fastWeights: the normaliser belongs to rules that only add, without beta and erase',
        ],
        [
          'along without erase',
          (f) => engine.fastWeights(f([1, 1, 1, 1]), f([1, 1, 1, 1]), f([1, 1, 1, 1]), { along: f([1, 1, 1, 1]) }),
          'fastWeights: along goes with erase, and not with a transposed read',
        ],
        [
          'a transposed read with a normaliser',
          (f) =>
            engine.fastWeights(f([1, 1, 1, 1]), f([1, 1, 1, 1]), f([1, 1, 1, 1]), {}, undefined, { normalise: true, transposed: true }),
          'fastWeights: a transposed read has no normaliser',
        ],
        [
          "a transposed read with queries of the keys' width",
          (f) => engine.fastWeights(f([1, 1, 1, 2]), f([1, 1, 1, 2]), f([1, 1, 1, 3]), {}, undefined, { transposed: true }),
          'fastWeights: v has shape [1,1,1,3], expected [B=1,T=1,H=1,V=2]',
        ],
        [
          'Mesa in chunks',
          (f) =>
            engine.mesaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), null, f([1, 3]), undefined, { form: 'chunk' }),
          "mesaRule: has only the recurrent form, not 'chunk'",
        ],
        [
          'a minibatch and a mask',
          (f, i) => {
            const [x, w] = [f([1, 2, 1, 3]), f([1, 3])]
            return engine.tttRule(x, x, x, f([1, 2, 1]), w, w, undefined, { mask: engine.reshape(i([1, 1]), [1, 2]) })
          },
          'tttRule: mask and reset need a minibatch of 1, not 16',
        ],
        [
          'half a norm',
          (f) => engine.tttRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), f([1, 3]), null),
          'tttRule: w and b are given together, or both null for no norm',
        ],
        [
          'too few levels',
          (f) => engine.logLinearAttention(f([1, 5, 1, 3]), f([1, 5, 1, 3]), f([1, 5, 1, 3]), f([1, 5, 1]), f([1, 5, 1, 3])),
          'logLinearAttention: 5 tokens have 4 levels, and there are weights for 3',
        ],
        [
          'heads that no whole number of others can share',
          (f) => engine.spreadHeads(f([1, 2, 2, 3]), 3),
          "spreadHeads: 3 heads can't share what [1,2,2,3] has for 2; the former must be a multiple of the latter",
        ],
        ['a layer that there is not', () => engine.lightningDecays(2, 9, 8), 'lightningDecays: there is no layer 9 of 8 with 2 heads'],
        [
          'a base below 1',
          (f) => {
            const [x, head] = [f([1, 2, 1, 3]), f([1, 2, 1])]
            return engine.preconditionedDeltaRule(x, x, x, head, head, head, head, f([1]), undefined, { base: 0.5 })
          },
          'preconditionedDeltaRule: base must be 1 or more, not 0.5',
        ],
        [
          'a system without a solution for each matrix',
          (f) => engine.solveSpd(f([2, 3, 3]), f([3, 3])),
          'solveSpd: A has shape [2,3,3], expected [N0=3,K=3,K=3]',
        ],
        [
          'a forgotten beta',
          (f) => engine.deltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), undefined as never),
          'deltaRule: needs beta [B,T,H], a tensor',
        ],
        [
          'a forgotten gate',
          (f) => engine.gatedDeltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), undefined as never),
          'gatedDeltaRule: needs gate [B,T,H] or [B,T,H,3], a tensor of logarithms of decays',
        ],
        [
          'a state in the place of a gate',
          (f) => engine.ojaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), { S: f([1, 1, 3, 3]) } as never),
          'ojaRule: the gate must be a tensor, or null for none',
        ],
        [
          'a normaliser for Mesa',
          (f) =>
            engine.mesaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), null, f([1, 3]), undefined, {
              normalise: true,
            } as never),
          "mesaRule: unknown option 'normalise' (form, chunk, scale, mask, reset)",
        ],
        [
          'a negative eps of attention normalisation',
          (f) => engine.attentionDeltaRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1]), undefined, { eps: -1 }),
          'attentionDeltaRule: eps must be 0 or more, not -1',
        ],
        [
          'a mask of another length, in a rule of several steps a token',
          (f, i) =>
            engine.dplrRule(f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), f([1, 2, 1, 3]), null, undefined, {
              mask: engine.reshape(i([1, 1, 1]), [1, 3]),
            }),
          'dplrRule: mask has shape [1,3], expected [1,2]',
        ],
        [
          'no token at all',
          (f) => engine.deltaRule(f([1, 0, 1, 3]), f([1, 0, 1, 3]), f([1, 0, 1, 3]), f([1, 0, 1])),
          'deltaRule: T is 0 in q [1,0,1,3], k [1,0,1,3], v [1,0,1,3], beta [1,0,1]',
        ],
        [
          'a state of another shape for a rule by its steps',
          (f) => engine.runSteps(engine.rules.sum, { q: f([1, 2, 1, 3]), k: f([1, 2, 1, 3]), v: f([1, 2, 1, 3]) }, { S: f([3]) }),
          'runSteps: S has shape [3], expected [1,1,3,3]',
        ],
        [
          'an input that a rule by its steps lacks',
          (f) => engine.runSteps(engine.rules.delta, { q: f([1, 2, 1, 3]), k: f([1, 2, 1, 3]), v: f([1, 2, 1, 3]) }),
          'runSteps: needs beta [B,T,H], a tensor',
        ],
        ['no gradients to clip', () => engine.gradNorm([]), 'gradNorm: there are no gradients (call backward first)'],
        ['a limit of 0', (f) => engine.clipScale(f([]), 0), 'clipScale: the limit must be positive, not 0'],
      ]

      for (const [title, call, message] of bad)
        it(title, () => {
          assert.throws(
            () =>
              scope(() =>
                call(
                  (shape) =>
                    tensor(
                      uniforms(
                        1,
                        shape.reduce((n, d) => n * d, 1),
                      ),
                      { shape, device, requiresGrad: true },
                    ),
                  (values) => tensor(values, { dtype: 'int32', device }),
                ),
              ),
            { message },
          )
        })

      // Arguments of no use at all, as plain JavaScript lets them through: `nothing` says what each of them is called in the error.
      const nothing: [value: unknown, name: string][] = [
        ['2', "the text '2'"],
        [null, 'null'],
        [2n, 'the BigInt 2n'],
        [new Set([2]), 'a Set'],
        [{ 0: 2, length: 1 }, 'an object'],
        [true, 'true'],
      ]
      type Nonsense = [
        title: string,
        call: (x: never, t: Tensor) => unknown,
        expected: (name: string) => string,
        more?: [unknown, string][],
      ]
      const shapes: [unknown, string][] = [
        [3, '3'],
        [undefined, 'undefined'],
        [['2'], "an array with the text '2'"],
        [Int32Array.of(2), 'an Int32Array'],
      ]
      const sizes = (name: string) => `must be an array of numbers, such as [2, 3], not ${name}`
      const numbers: [unknown, string][] = [[[1], 'an array of 1']]
      const nonsense: Nonsense[] = [
        ['zeros', (x) => engine.zeros(x, device), (name) => `zeros: the shape ${sizes(name)}`, shapes],
        ['ones', (x) => engine.ones(x, device), (name) => `ones: the shape ${sizes(name)}`, shapes],
        ['full', (x) => engine.full(x, 1, device), (name) => `full: the shape ${sizes(name)}`, shapes],
        ['empty', (x) => engine.empty(x, device), (name) => `empty: the shape ${sizes(name)}`, shapes],
        ['uniform', (x) => engine.uniform(engine.generator(1), x, 0, 1, device), (name) => `uniform: the shape ${sizes(name)}`, shapes],
        ['normal', (x) => engine.normal(engine.generator(1), x, 0, 1, device), (name) => `normal: the shape ${sizes(name)}`, shapes],
        ['reshape', (x, t) => engine.reshape(t, x), (name) => `reshape: the shape ${sizes(name)}`, shapes],
        ['expand', (x, t) => engine.expand(t, x), (name) => `expand: the shape ${sizes(name)}`, shapes],
        [
          'permute',
          (x, t) => engine.permute(t, x),
          (name) => `permute: the order must be an array of numbers, such as [1, 0], not ${name}`,
          shapes,
        ],
        [
          'split',
          (x, t) => engine.split(t, 0, x),
          (name) => `split: the sizes must be an array of numbers, such as [1, 2], not ${name}`,
          shapes,
        ],
        [
          'tensor',
          (x) => tensor(x, { device }),
          (name) => `tensor: needs numbers, as a number, nested arrays, or a typed array such as Float32Array, not ${name}`,
          [
            [undefined, 'undefined'],
            [new Map([[0, 1]]), 'a Map'],
            [BigInt64Array.of(1n), 'a BigInt64Array'],
            [new ArrayBuffer(4), 'an ArrayBuffer'],
            [new DataView(new ArrayBuffer(4)), 'a DataView'],
          ],
        ],
        [
          "write's values",
          (x, t) => t.write(x),
          (name) => `write: the values must be an array of numbers, such as [0.5, 1], not ${name}`,
          [[['1'], "an array with the text '1'"]],
        ],
        ["full's value", (x) => engine.full([2], x, device), (name) => `full: the value must be a number, not ${name}`, numbers],
        ["slice's axis", (x, t) => engine.slice(t, x, 0, 1), (name) => `slice: the axis must be a number, not ${name}`, numbers],
        ["affine's scale", (x, t) => engine.affine(t, x), (name) => `affine: the scale must be a number, not ${name}`, numbers],
        ['the other side of mul', (x, t) => engine.mul(t, x), (name) => `mul: needs a float32 tensor, not ${name}`, numbers],
        [
          'the first side of add',
          (x, t) => engine.add(x, t),
          (name) => `add: needs a float32 tensor, not ${name}`,
          [
            [2, '2'],
            [undefined, 'undefined'],
          ],
        ],
        [
          'exp',
          (x) => engine.exp(x),
          (name) => `exp: needs a float32 tensor, not ${name}`,
          [
            [2, '2'],
            [undefined, 'undefined'],
          ],
        ],
        ['the second side of matmul', (x, t) => engine.matmul(t, x), (name) => `matmul: needs a float32 tensor, not ${name}`, [[2, '2']]],
        ['concat', (x) => engine.concat(x, 0), (name) => `concat: needs an array of tensors, such as [a, b], not ${name}`, [[2, '2']]],
        [
          'indices',
          (x, t) => engine.gather(t, x),
          (name) => `gather: needs int32 indices (tensor(..., { dtype: 'int32' })), not ${name}`,
          [[2, '2']],
        ],
        [
          'a generator',
          (x) => engine.uniform(x, [2], 0, 1, device),
          (name) => `uniform: needs a generator, such as generator(1), not ${name}`,
          [[2, '2']],
        ],
        ['an eps', (x, t) => engine.l2Norm(t, x), (name) => `l2Norm: eps must be a number, not ${name}`, numbers],
        ['a limit', (x, t) => engine.clipScale(t, x), (name) => `clipScale: the limit must be a number, not ${name}`, numbers],
        [
          'a device',
          (x) => engine.setDevice(x),
          (name) => `setDevice: the device must be one that openDevice gave (await it), not ${name}`,
          [
            [Promise.resolve(), 'a Promise'],
            [undefined, 'undefined'],
          ],
        ],
        ['a function of one number', (x, t) => engine.unary(x, t), (name) => `unary: there's no function ${name} (neg, abs, `],
        ['an activation', (x, t) => engine.matmul(t, t, { activation: x }), (name) => `matmul: there's no function ${name} (neg, abs, `],
        [
          'a reduction',
          (x, t) => engine.crossEntropy(t, tensor([0], { dtype: 'int32', device }), { reduction: x }),
          (name) => `crossEntropy: the reduction must be mean, sum or none, not ${name}`,
          numbers,
        ],
      ]
      for (const [title, call, expected, more = []] of nonsense)
        it(`what is no use: ${title}`, () => {
          scope(() => {
            const t = engine.ones([1, 1], device)
            for (const [value, name] of [...nothing, ...more]) {
              if (title === 'an activation' && value === null) continue // none
              assert.throws(
                () => call(value as never, t),
                (error: Error) => error.message.startsWith(expected(name)) || assert.fail(`${error.message}, expected ${expected(name)}`),
              )
            }
          })
        })

      it('options that nobody reads, and what is no object of options', () => {
        scope(() => {
          const t = engine.ones([2, 2], device)
          const refused = (call: () => unknown, message: string) => assert.throws(call, { message })
          refused(() => engine.sum(t, 0 as never), 'sum: the options must be an object such as { axis: ... }, not 0')
          refused(() => engine.mean(t, { dim: 0 } as never), "sum: unknown option 'dim' (axis, keepDim)")
          refused(() => engine.max(t, [0] as never), 'max: the options must be an object such as { axis: ... }, not an array of 1')
          refused(
            () => engine.matmul(t, t, { transB: true } as never),
            "matmul: unknown option 'transB' (transposeA, transposeB, bias, accumulate, activation)",
          )
          refused(
            () => engine.recompute([t], engine.exp, { params: [] } as never),
            "recompute: unknown option 'params' (parameters, generator)",
          )
          refused(() => engine.softmax(t, 1 as never), 'softmax: the options must be an object such as { causal: ... }, not 1')
          refused(() => tensor([1], [1] as never), 'tensor: the options must be an object such as { shape: ... }, not an array of 1')
          refused(
            () => tensor([1], { dtype: 'float64' as never, device }),
            "tensor: the dtype must be float32 or int32, not the text 'float64'",
          )
          refused(() => tensor([1, [2]] as never, { device }), 'tensor: found object where a number was expected')
          refused(() => tensor([1n] as never, { device }), 'tensor: found bigint where a number was expected')
        })
      })

      // What a device learns only by computing it says at the next read, and not of which rule.
      const gates = 'gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)'
      type Late = (q: Tensor, k: Tensor, v: Tensor, of: (value: number) => Tensor) => { y: Tensor }
      const late: [title: string, call: Late, message: string, late: string][] = [
        [
          'a gate above 0',
          (q, k, v, of) => engine.gatedSumRule(q, k, v, of(0.25)),
          `fastWeights: the gate holds 0.25; ${gates}`,
          `fastWeights: the gate holds 0.25; ${gates}`,
        ],
        [
          "a rate above 1 in Peng's rule",
          (q, k, v, of) => engine.pengRule(q, k, v, of(1.5)),
          'pengRule: beta must lie in [0, 1], and it is above 1',
          `fastWeights: the gate holds ${2 ** 100}; ${gates}`,
        ],
      ]
      for (const [title, call, early, atRead] of late)
        it(title, async () => {
          const attempt = async (): Promise<void> => {
            const y = scope(() => {
              const [q, k, v] = [1, 2, 3].map((seed) => tensor(uniforms(seed, 6), { shape: [1, 2, 1, 3], device }))
              return call(q, k, v, (value) => engine.full([1, 2, 1], value, device)).y
            })
            await y.read().finally(() => y.dispose())
          }
          await assert.rejects(attempt, { message: device.name === 'webgpu' ? atRead : early })
        })

      it('tensors on two devices', async () => {
        const other = device.double ? await wasm() : reference
        scope(() => {
          const [a, b] = [device, other].map((d) => engine.ones([2, 2], d))
          const calls: [string, () => unknown][] = [
            ['add', () => engine.add(a, b)],
            ['matmul', () => engine.matmul(a, b)],
            ['matmul', () => engine.matmul(a, a, { bias: engine.ones([2], other) })],
            ['concat', () => engine.concat([a, b], 0)],
            ['layerNorm', () => engine.layerNorm(a, engine.ones([2], other))],
            ['gradNorm', () => engine.gradNorm([a, b])],
            ['muonStep', () => engine.muonStep(a, b, a, { lr: 1, momentum: 0, weightDecay: 0 })],
            ['gather', () => engine.gather(a, tensor(Int32Array.of(0), { device: other }))],
          ]
          for (const [op, call] of calls)
            assert.throws(call, { message: `${op}: tensors are on different devices (${device.description} and ${other.description})` })
        })
      })

      it('a tensor that was freed', async () => {
        let x = engine.ones([2, 3], device)
        x.dispose()
        scope(() => {
          x = engine.ones([2, 3], device)
        })
        const message = 'tensor [2,3] was freed; it was disposed, or its scope ended (return it from the scope, or keep() it)'
        assert.throws(() => scope(() => engine.exp(x)), { message })
        await assert.rejects(() => x.read(), { message })
        assert.throws(() => x.write([1]), /write: 1 values for a tensor of shape \[2,3\]/)
        assert.equal(String(x), `Tensor([2,3] float32 on ${device.name}, disposed)`)
        assert.equal(inspect({ x }), `{ x: ${x} }`)
      })

      it('item of more than one element', async () => {
        const x = engine.ones([2], device)
        await assert.rejects(() => x.item(), { message: 'item: the tensor has shape [2], not one element' })
        x.dispose()
      })
    })
  })

describe('gradCheck', () => {
  it('tells a wrong backward, and where', async () => {
    const x = tensor([1, 2], { device: reference })
    const wrong = (x: Tensor): Tensor =>
      engine.customOp(
        'wrong',
        [x],
        () => engine.square(x),
        (dy) => [engine.mul(dy, x)],
      )
    await assert.rejects(() => engine.gradCheck(wrong, [x]), /gradCheck: input 0, element 0: backward gives .* differences give/)
    assert.ok((await engine.gradCheck((x) => engine.square(x), [x])).error < 1e-8)
    x.dispose()
  })

  it('tells a wrong backward of small scale', async () => {
    const x = tensor([1, 2], { device: reference })
    const wrong = (x: Tensor): Tensor =>
      engine.customOp(
        'wrong',
        [x],
        () => engine.affine(x, 1e-5),
        (dy) => [engine.affine(dy, 1.01e-5)],
      )
    await assert.rejects(() => engine.gradCheck(wrong, [x]), /gradCheck: input 0, element 0: backward gives .* differences give/)
    assert.ok((await engine.gradCheck((x) => engine.affine(x, 1e-5), [x])).error < 1e-6)
    x.dispose()
  })

  it('passes over outputs that need no gradient, but not over all', async () => {
    const x = tensor([1, 2], { device: reference })
    await engine.gradCheck((x) => [engine.detach(x), engine.exp(x)], [x])
    await assert.rejects(() => engine.gradCheck((x) => engine.detach(x), [x]), /gradCheck: no output depends on the inputs/)
    x.dispose()
  })

  it('wants float64', async () => {
    const device = await wasm()
    const x = tensor([1], { device })
    await assert.rejects(() => engine.gradCheck((x) => engine.exp(x), [x]), /gradCheck: needs a device that computes in float64/)
    x.dispose()
  })
})

it('reference: freed memory is used again as if it were new, up to 16 MB of it', () => {
  const device = engine.referenceDevice()
  const make = (size: number): { data: Float64Array } => device.allocate('float32', size) as { data: Float64Array }
  const first = make(100)
  first.data.fill(Number.NaN)
  device.free(first)
  assert.deepEqual([device.bytesInUse(), device.bytesReserved()], [0, 0])
  const second = make(100)
  assert.equal(second.data, first.data)
  assert.ok(second.data.every((x) => Object.is(x, 0)))
  assert.deepEqual([device.bytesInUse(), device.bytesReserved()], [800, 800])
  const third = make(100)
  assert.notEqual(third.data, second.data)
  assert.throws(() => device.free(first), /a block was freed twice/)
  const large = make(2 ** 21)
  device.free(large)
  device.free(second)
  assert.notEqual(make(100).data, second.data)
  assert.equal(make(2 ** 21).data, large.data)
  device.free(third)
  assert.equal(make(100).data, third.data)
  device.close()
})

describe('a closed device', () => {
  const devices: Record<string, (test: Mocha.Context) => Promise<Device>> = {
    reference: async () => engine.referenceDevice(),
    wasm: () => engine.wasmDevice({ threads: 1, relaxed: false }),
    webgpu: async (test) => {
      await webgpu(test)
      return engine.webgpuDevice()
    },
  }
  for (const [name, open] of Object.entries(devices))
    it(`${name}: works no more, but lets go of its tensors`, async function () {
      const device = await open(this)
      const x = engine.ones([2], device)
      const half = (): engine.Tensor => engine.halfTensor(Uint16Array.of(1, 2), { shape: [1, 2], dtype: 'float16', device })
      const h = half()
      device.close()
      const message = `${name}: the device has been closed`
      for (const call of [() => engine.ones([1], device), half, () => x.write([1, 2]), () => device.kernels.fill(x.storage, 2, 1)])
        assert.throws(call, { message })
      for (const read of [() => x.read(), () => h.readHalves()]) await assert.rejects(read, { message })
      for (const t of [x, h]) t.dispose()
      device.close()
    })
})
