/** What authors' generators printed, where ../shared has it. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { ignoredTarget, readSafetensors } from '../../nn/index.ts'
import { type Mersenne, mersenne } from '../../tasks/mersenne.ts'
import { type Example, settingsOf, type Task } from '../../tasks/task.ts'

/** A file of ../shared/data, unpacked; the test is skipped, and says so, where it is absent. */
export function published(test: Mocha.Context, path: string): Buffer {
  const url = new URL(`../../../../shared/data/${path}`, import.meta.url)
  if (!existsSync(url)) {
    console.log(`        skipped: ../shared/data/${path} is absent`)
    test.skip()
  }
  const bytes = readFileSync(url)
  return path.endsWith('.gz') ? gunzipSync(bytes) : bytes
}

export const publishedText = (test: Mocha.Context, path: string): string => published(test, path).toString()

/** The sequences of a sample, without their padding, and its options by the authors' names. */
export function sample(test: Mocha.Context, name: string, pad?: number): { examples: Example[]; options: Record<string, number> } {
  const { tensors, metadata } = readSafetensors(published(test, `tasks/${name}.safetensors.gz`))
  const [inputs, targets] = ['inputs', 'targets'].map((part) => tensors.get(part)!)
  const [N, T] = inputs.shape
  const examples = Array.from({ length: N }, (_, n) => {
    const row = (data: ArrayLike<unknown>): number[] => Array.from({ length: T }, (_, t) => Number(data[n * T + t]))
    const tokens = row(inputs.data)
    const length = pad === undefined ? T : tokens.findLastIndex((token) => token !== pad) + 1
    return {
      inputs: Int32Array.from(tokens.slice(0, length)),
      targets: Int32Array.from(row(targets.data).slice(0, length), (target) => (target === -100 ? ignoredTarget : target)),
    }
  })
  return { examples, options: JSON.parse(metadata.options) }
}

/** The settings that a sample's options are. */
export const settingsFrom = <S extends object>(row: Task<S>, options: Record<string, number>): S =>
  settingsOf(
    row,
    Object.fromEntries(
      Object.entries(options).flatMap(([name, value]) => (name in row.options ? [[row.options[name], value]] : [])),
    ) as Partial<S>,
  )

/** The rule accepts the sequences, and none with a target changed, left out, or set where nothing is asked. */
export function judges<S extends object>(row: Task<S>, settings: S, examples: readonly Example[], random: Mersenne = mersenne([1])): void {
  assert.ok(examples.length > 0)
  const symbols = row.symbols(settings)
  for (const { inputs, targets } of examples) {
    assert.equal(row.wrong(settings, { inputs, targets }, 'test'), undefined)
    assert.ok(inputs.every((token) => token >= 0 && token < symbols) && targets.every((target) => target < symbols))
    const asked = Array.from(targets.keys()).filter((t) => targets[t] !== ignoredTarget)
    const silent = Array.from(targets.keys()).filter((t) => targets[t] === ignoredTarget)
    const changed = (t: number, target: number): Example => ({ inputs, targets: targets.with(t, target) })
    const t = random.choice(asked)
    const cases = [changed(t, (targets[t] + 1 + random.below(symbols - 1)) % symbols), changed(t, ignoredTarget)]
    if (silent.length > 0) cases.push(changed(random.choice(silent), random.below(symbols)))
    for (const wrong of cases) assert.match(row.wrong(settings, wrong, 'test') ?? '', /target/)
    assert.match(row.wrong(settings, { inputs, targets: targets.slice(1) }, 'test') ?? '', /^there are \d+ targets for \d+ symbols$/)
    assert.notEqual(row.wrong(settings, { inputs: inputs.slice(0, -1), targets: targets.slice(0, -1) }, 'test'), undefined)
  }
}

/** Examples drawn from one stream. */
export function drawn<S extends object>(row: Task<S>, settings: S, n: number, seed = 1): Example[] {
  const random = mersenne([seed])
  return Array.from({ length: n }, () => row.draw(settings, 'train', random))
}

export const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length

/** Whether a text is the published one, by its size and SHA-256 in regenerated.json. */
export function samePublished(
  regenerated: Record<string, { bytes: number; sha256: string }>,
  { name, text }: { name: string; text: string },
): void {
  assert.ok(Object.hasOwn(regenerated, name), name)
  const { bytes, sha256 } = regenerated[name]
  assert.deepEqual([text.length, createHash('sha256').update(text).digest('hex')], [bytes, sha256], name)
}
