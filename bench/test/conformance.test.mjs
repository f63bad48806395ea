/** `fastweights verify --implementation` of what others wrote: onnxruntime's operator, and fla's naive operators where Python has them. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const path = (name) => fileURLToPath(new URL(`../../${name}`, import.meta.url))
const python = process.env.PYTHON ?? 'python3'

/** In bench/, where the peers are installed. */
function verify(...words) {
  const options = { cwd: path('bench'), encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }
  const { status, stdout, stderr } = spawnSync(process.execPath, [path('dist/node/cli/main.js'), 'verify', ...words], options)
  assert.equal(status, 0, stdout + stderr)
  return stdout
}

describe('claims of implementations by others', () => {
  it('onnxruntime: every claim for which it has the options holds', () => {
    const printed = verify('--implementation', 'onnxruntime', '--runs', '25')
    assert.match(printed, /^onnxruntime-node \S+: sum, mamba2, gla, delta, gated-delta, kda; float32, bound 1\.0e-5$/m)
    assert.match(printed, /^155 claims, 25 cases each: 96 hold, 59 not offered; largest error \S+; /m)
    // It has no backward pass, one form, and no flags.
    for (const [, name, why] of printed.matchAll(/^not offered +(\S+: .*?) {2,}(.*)$/gm))
      assert.match(why, /a backward pass|the form (parallel|chunk)|a chunk length|a mask|resets|gates of -Infinity/, name)
  })

  const { status } = spawnSync(python, ['-c', 'import torch, fla.ops.delta_rule.naive'], { encoding: 'utf8' })
  if (status === 0)
    it("fla's naive operators: every claim for which they have the options holds", () => {
      const program = `${python} ${path('examples/conformance/fla_naive.py')}`
      const printed = verify('delta', 'kda', 'reductions', '--implementation', program, '--runs', '2', '--case-limit', '60')
      assert.match(printed, /^fla's naive operators: sum, mamba2, gla, delta, gated-delta, kda, gdn2; float32, bound 1\.0e-5$/m)
      assert.match(printed, /^\d+ claims, 2 cases each: \d+ hold, \d+ not offered; largest error \S+; /m)
      assert.match(printed, /^ok +kda: gradients of chunk = autograd of step /m)
    })
  else after(() => console.log(`      not tried: fla's naive operators, for which ${python} must have torch and fla`))
})
