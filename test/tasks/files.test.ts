/** Files of sequences: what is written is read again, and what is wrong with one is said in a line. */
import assert from 'node:assert/strict'
import { readSafetensors, type SafetensorsEntry, writeSafetensors } from '../../nn/index.ts'
import { type AnyTask, examplesOf, faultOf, readTaskFile, settingsOf, type TaskName, tasks, writeTaskFile } from '../../tasks/index.ts'

const rows: Readonly<Record<string, AnyTask>> = tasks

/** A file of ours, its tensors and metadata changed. */
function changed(
  name: TaskName,
  change: (tensors: Map<string, SafetensorsEntry>, metadata: Record<string, string>) => void,
): () => unknown {
  const row = rows[name]
  const settings = settingsOf(row)
  const sets = [{ split: 'train' as const, examples: examplesOf(row, settings, 'train', 1, 3) }]
  const { tensors, metadata } = readSafetensors(writeTaskFile(name, row, settings, sets, 1))
  change(tensors, metadata)
  const bytes = writeSafetensors(tensors, { ...metadata })
  return () => readTaskFile(name, row, bytes)
}
const numbers = (shape: number[], value = 0): SafetensorsEntry => ({
  dtype: 'I32',
  shape,
  data: new Int32Array(shape.reduce((n, size) => n * size, 1)).fill(value),
})

describe('files of sequences', () => {
  for (const name of Object.keys(tasks) as TaskName[])
    it(`${name}: what is written is read again, with its splits and settings, and is right`, () => {
      const row = rows[name]
      const settings = settingsOf(row)
      const sets = (['test', 'train', 'valid'] as const).map((split) => ({ split, examples: examplesOf(row, settings, split, 2, 12) }))
      const bytes = writeTaskFile(name, row, settings, sets, 2)
      const file = readTaskFile(name, row, bytes)
      assert.deepEqual(file.settings, settings)
      assert.deepEqual(
        file.sets.map(({ prefix }) => prefix),
        ['', 'train_', 'valid_'],
      )
      assert.deepEqual(
        file.sets.map(({ split, examples }) => ({ split, examples })),
        sets.map(({ split, examples }) => ({ split, examples })),
      )
      for (const { split, examples } of file.sets)
        for (const example of examples) assert.equal(faultOf(row, file.settings, example, split, file.tables), undefined)
      assert.deepEqual(writeTaskFile(name, row, settings, sets, 2), bytes)
      const { metadata, tensors } = readSafetensors(bytes)
      assert.deepEqual(Object.keys(metadata).sort(), ['ignore', 'metric', 'options', 'seed', 'source', 'split', 'task', 'vocabulary'])
      const { inputs, targets, mask } = Object.fromEntries(tensors)
      assert.equal(inputs.shape[0], 12)
      assert.deepEqual(mask.shape, targets.shape)
    })

  it('settings come back by the names of the authors and by ours, and give way to those that are given', () => {
    const row = rows['shuffle-2']
    const settings = settingsOf(row, { maxLength: 20, nested: true })
    const bytes = writeTaskFile('shuffle-2', row, settings, [{ split: 'train', examples: examplesOf(row, settings, 'train', 1, 2) }], 1)
    assert.deepEqual(JSON.parse(readSafetensors(bytes).metadata.options), {
      lower_window: 2,
      upper_window: 20,
      testMin: 51,
      testMax: 100,
      nested: true,
    })
    assert.deepEqual(readTaskFile('shuffle-2', row, bytes).settings, settings)
    assert.deepEqual(readTaskFile('shuffle-2', row, bytes, { nested: false }).settings, { ...settings, nested: false })
  })

  it('take targets of the last place alone, and a row of padding as a sequence of nothing', () => {
    const file = changed('parity-final', (tensors) => {
      tensors.set('file_inputs', { dtype: 'I32', shape: [1, 3], data: Int32Array.of(1, 2, 2) })
      tensors.set('file_targets', { dtype: 'I32', shape: [1], data: Int32Array.of(1) })
      tensors.set('test_inputs', numbers([1, 3]))
      tensors.set('test_targets', numbers([1, 3], -100))
    })() as ReturnType<typeof readTaskFile>
    const [, empty, last] = file.sets
    assert.deepEqual([last.prefix, last.split], ['file_', 'test'])
    assert.deepEqual([...last.examples[0].targets], [-1, -1, 1])
    assert.equal(faultOf(rows['parity-final'], file.settings, empty.examples[0], 'test'), 'nothing but padding')
  })

  for (const [what, file, message] of [
    ['another task', changed('mqar', (_, metadata) => void (metadata.task = 'parity')), "the file is of the task 'parity', not of 'mqar'"],
    [
      'no task',
      changed('mqar', (_, metadata) => void delete metadata.task),
      "the metadata names no task: it isn't a file of a task's examples",
    ],
    ['no targets', changed('mqar', (tensors) => void tensors.delete('targets')), 'there is no targets'],
    ['no inputs', changed('mqar', (tensors) => void tensors.delete('inputs')), 'there is no inputs'],
    ['no map', changed('mad-memorization', (tensors) => void tensors.delete('kv_map')), 'there is no kv_map'],
    [
      'a map of one column',
      changed('mad-memorization', (tensors) => void tensors.set('kv_map', numbers([127]))),
      'kv_map must be [rows,2], not [127]',
    ],
    [
      'a strange tensor',
      changed('mqar', (tensors) => void tensors.set('labels', numbers([1]))),
      "nobody knows what 'labels' is: no such tensor belongs to mqar",
    ],
    ['a map of another task', changed('mqar', (tensors) => void tensors.set('kv_map', numbers([1, 2]))), /nobody knows what 'kv_map' is/],
    [
      'floats',
      changed('mqar', (tensors) => void tensors.set('inputs', { dtype: 'F32', shape: [1], data: new Float32Array(1) })),
      'inputs must be I32, not F32',
    ],
    [
      'other rows',
      changed('mqar', (tensors) => void tensors.set('inputs', numbers([2, 64]))),
      'inputs are [2,64] and targets [3,64]: [N,T] and [N,T], or [N], are known',
    ],
    [
      'no rows',
      changed(
        'mqar',
        (tensors) => ['inputs', 'targets'].forEach((name) => void tensors.set(name, numbers([0, 64]))) ?? void tensors.delete('mask'),
      ),
      'inputs hold no sequence',
    ],
    [
      'no places',
      changed(
        'mqar',
        (tensors) => ['inputs', 'targets'].forEach((name) => void tensors.set(name, numbers([3, 0]))) ?? void tensors.delete('mask'),
      ),
      'inputs have no place',
    ],
    [
      'a mask of another shape',
      changed('mqar', (tensors) => void tensors.set('mask', { dtype: 'U8', shape: [1], data: new Uint8Array(1) })),
      'mask is [1], and targets are [3,64]',
    ],
    [
      'a mask that says otherwise',
      changed('mad-compression', (tensors) => void ((tensors.get('mask')!.data as Uint8Array)[5] = 0)),
      /^mask is 0 at element 5, where the target is \d+$/,
    ],
    [
      'another ignored target',
      changed('mad-compression', (tensors) => void ((tensors.get('targets')!.data as Int32Array)[5] = -1)),
      'targets hold -1: neither a symbol nor -100, which stands where none counts',
    ],
    [
      'queries of other rows',
      changed('retrieval-1', (tensors) => void tensors.set('queries', numbers([2]))),
      'inputs are [3,2,20], queries [2] and targets [3]: [N,2,L] or [2,L], [N] and [N] are known',
    ],
    [
      'an unknown split',
      changed('mqar', (_, metadata) => void (metadata.split = 'bin0')),
      "the metadata's split 'bin0' is none of train, valid, test",
    ],
    [
      'options that are a list',
      changed('mqar', (_, metadata) => void (metadata.options = '[1]')),
      "the metadata's options aren't a JSON object: '[1]'",
    ],
    [
      'options that are no JSON',
      changed('mqar', (_, metadata) => void (metadata.options = 'a\nb')),
      "the metadata's options aren't a JSON object: 'a\\nb'",
    ],
    [
      'senseless options',
      changed('mqar', (_, metadata) => void (metadata.options = '{"num_kv_pairs": "four"}')),
      "the settings make no sense: pairs must be a number, not the text 'four'",
    ],
    [
      'too short a list',
      changed('parity-final', (_, metadata) => void (metadata.options = '{"validation lengths": [40]}')),
      "the metadata's option 'validation lengths' must be a list of 2",
    ],
  ] as const)
    it(`say what is wrong: ${what}`, () => assert.throws(file, { name: 'TaskFileError', message }))

  it('are written of sets that can be told apart', () => {
    const row = rows.mqar
    const settings = settingsOf(row)
    const examples = examplesOf(row, settings, 'train', 1, 1)
    const write =
      (...sets: { split: 'train' | 'test'; examples: typeof examples }[]) =>
      () =>
        writeTaskFile('mqar', row, settings, sets, 1)
    assert.throws(write(), { message: 'a file needs one set or more, each of another split, not none' })
    assert.throws(write({ split: 'train', examples }, { split: 'train', examples }), {
      message: /each of another split, not train, train$/,
    })
    assert.throws(write({ split: 'train', examples }, { split: 'test', examples: [] }), {
      message: 'a file needs an example or more of each split, and of test there is none',
    })
  })
})
