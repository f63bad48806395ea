/** Sequences that the authors' generators printed, in ../shared/data/tasks: every one is right by our rules, and wrong with a target changed. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import {
  type AnyTask,
  type Example,
  faultOf,
  ignoredTarget,
  readTaskFile,
  settingsOf,
  splits,
  type TaskFile,
  tasks,
  writeTaskFile,
} from '../../tasks/index.ts'

const folder = new URL('../../../../shared/data/tasks/', import.meta.url)

/** Of the sequences with one target changed, one more set, or one left out, those that are accepted: their places. */
function accepted(row: AnyTask, file: TaskFile): { split: string; row: number; place: number; what: string; example: Example }[] {
  const symbols = row.symbols(file.settings)
  return file.sets.flatMap(({ split, examples }) =>
    examples.flatMap((example, r) => {
      const { inputs, targets } = example
      const places = [...targets.keys()]
      const scored = places.filter((place) => targets[place] !== ignoredTarget)
      const free = places.filter((place) => targets[place] === ignoredTarget)
      // Other places in other sequences, the last among them.
      const pick = (list: readonly number[]): number => (r % 3 === 0 ? list[list.length - 1] : list[(r * 7919) % list.length])
      const place = pick(scored)
      const variants = [
        { what: 'changed', place, target: (targets[place] + 1 + (r % (symbols - 1))) % symbols },
        { what: 'left out', place, target: ignoredTarget },
        ...(free.length === 0 ? [] : [{ what: 'extra', place: pick(free), target: r % symbols }]),
        { what: 'behind', place: inputs.length, target: r % symbols },
      ]
      return variants.flatMap(({ what, place, target }) => {
        // A place behind the end is one of padding that is scored.
        const length = Math.max(inputs.length, place + 1)
        const wrong = { inputs: new Int32Array(length).fill(row.pad(file.settings)), targets: new Int32Array(length).fill(ignoredTarget) }
        wrong.inputs.set(inputs)
        wrong.targets.set(targets)
        wrong.targets[place] = target
        return faultOf(row, file.settings, wrong, split, file.tables) === undefined ? [{ split, row: r, place, what, example }] : []
      })
    }),
  )
}

describe('sequences of the authors', () => {
  if (!existsSync(folder)) {
    it('skipped: ../shared/data/tasks is absent', function () {
      this.skip()
    })
    return
  }
  for (const [name, row] of Object.entries<AnyTask>(tasks)) {
    const url = new URL(`${name}.safetensors.gz`, folder)
    if (!existsSync(url)) {
      it(`skipped: ../shared/data/tasks/${name}.safetensors.gz is absent`, function () {
        this.skip()
      })
      continue
    }
    it(`of ${name} are right, and none with another target`, () => {
      const file = readTaskFile(name, row, gunzipSync(readFileSync(url)))
      for (const { split, examples } of file.sets)
        for (const [i, example] of examples.entries())
          assert.equal(faultOf(row, file.settings, example, split, file.tables), undefined, `${split} ${i}`)
      // Nobody can tell the last token of a value that was never shown.
      const left = accepted(row, file).filter(({ split, place, what, example }) => {
        const unknown = row.published?.unanswerable && row.wrong({ ...file.settings, unanswerable: false }, example, split as 'test')
        return !(unknown && what === 'changed' && place === example.inputs.length - 1)
      })
      assert.deepEqual(left, [])
    })

    it(`of ${name} come back from a file of ours`, () => {
      const file = readTaskFile(name, row, gunzipSync(readFileSync(url)))
      // One set a split, as wide as its longest sequence; and a map that the settings don't make stays theirs.
      const sets = splits.flatMap((split) => file.sets.filter((set) => set.split === split).slice(0, 1))
      const settings = settingsOf(row, file.settings)
      const again = readTaskFile(name, row, writeTaskFile(name, row, settings, sets, 0))
      assert.deepEqual(again.settings, file.settings)
      assert.deepEqual(
        again.sets.map(({ split, examples }) => ({ split, examples })),
        sets.map(({ split, examples }) => ({ split, examples })),
      )
    })
  }

  it('show what ours leaves out: questions without an answer, and nested brackets alone', () => {
    const read = (name: 'mad-fuzzy-recall' | 'shuffle-2', given: object): [AnyTask, TaskFile] => [
      tasks[name],
      readTaskFile(name, tasks[name], gunzipSync(readFileSync(new URL(`${name}.safetensors.gz`, folder))), given),
    ]
    const faults = ([row, file]: [AnyTask, TaskFile]): string[] =>
      file.sets.flatMap(({ split, examples }) => examples.flatMap((example) => faultOf(row, file.settings, example, split) ?? []))
    const unanswerable = faults(read('mad-fuzzy-recall', { unanswerable: false }))
    assert.ok(unanswerable.length > 0 && unanswerable.length < 15, `${unanswerable.length}`)
    for (const fault of unanswerable) assert.match(fault, /was never shown$/)
    assert.deepEqual(faults(read('shuffle-2', { nested: true })), [])
  })
})
