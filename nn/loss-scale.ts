/**
 * Loss scaling (Micikevicius et al. 2018, section 3.2): where operands of products are rounded to float16, a gradient below 6e-8 would become 0, and one
 * below 6.1e-5 lose digits. So the loss is multiplied by a power of two before the backward pass, and gradients by its inverse after. Where a gradient
 * isn't finite, the step is left out and the scale halved; after `growAfter` good steps on end it's doubled.
 *
 * All of it happens on the device, so that a step neither waits for the one before nor is captured differently. Tests: test/nn/precision.test.ts.
 */
import type { Device } from '../engine/devices/device.ts'
import { affine, equal, greater, mul, sub } from '../engine/ops/elementwise.ts'
import { concat, reshape, slice } from '../engine/ops/movement.ts'
import { overwrite } from '../engine/ops/overwrite.ts'
import { noGrad } from '../engine/recording.ts'
import { scope } from '../engine/scope.ts'
import { type Tensor, tensor } from '../engine/tensor.ts'

/** As torch.amp.GradScaler begins, and how long that waits. */
const firstScale = 2 ** 16
const growAfter = 2000

export class LossScale {
  /** The scale, its inverse, and good steps since it has changed: [3]. A step overwrites them. */
  readonly state: Tensor
  private readonly everywhere: Tensor

  constructor(device: Device) {
    this.state = tensor([firstScale, 1 / firstScale, 0], { device })
    this.everywhere = tensor([1], { dtype: 'int32', device })
  }

  private part = (i: number): Tensor => reshape(slice(this.state, 0, i, i + 1), [])
  /** What a loss is multiplied by, and gradients then: []. */
  scale = (): Tensor => this.part(0)
  inverse = (): Tensor => this.part(1)

  /** After a step whose gradients, still scaled, have this norm. */
  update(norm: Tensor): void {
    noGrad(() =>
      scope(() => {
        // Of NaN and infinities this is NaN, which equals nothing.
        const difference = sub(norm, norm)
        const good = equal(difference, difference)
        const steps = mul(affine(this.part(2), 1, 1), good)
        const grows = greater(steps, growAfter - 0.5)
        const factor = mul(affine(good, 0.5, 0.5), affine(grows, 1, 1))
        const inverse = mul(affine(good, -1, 2), affine(grows, -0.5, 1))
        const parts = [mul(this.scale(), factor), mul(this.inverse(), inverse), mul(steps, affine(grows, -1, 1))]
        const next = concat(
          parts.map((x) => reshape(x, [1])),
          0,
        )
        overwrite(this.state, next, this.everywhere)
      }),
    )
  }

  /** As a text, exactly; of the moment of the call. */
  async saved(): Promise<string> {
    const [scale, , steps] = await this.state.read()
    return `${scale} ${steps}`
  }

  /** Takes up what `saved` gave. */
  restore(text: string): void {
    const [scale, steps] = text.split(' ').map(Number)
    if (!(/^\S+ \d+$/.test(text) && scale > 0 && Number.isInteger(Math.log2(scale)) && steps < growAfter))
      throw new Error(
        `a loss scale must be a power of two and a number of steps below ${growAfter}, not ${JSON.stringify(text.slice(0, 80))}`,
      )
    this.state.write([scale, 1 / scale, steps])
  }

  dispose(): void {
    this.state.dispose()
    this.everywhere.dispose()
  }
}
