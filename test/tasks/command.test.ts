/** `fastweights task` in processes of its own. */
import assert from 'node:assert/strict'
import { gunzipSync, gzipSync } from 'node:zlib'
import { readCheckpoint, readSafetensors, writeSafetensors } from '../../nn/index.ts'
import { type AnyTask, readTaskFile, tasks } from '../../tasks/index.ts'
import { ended, shown, Workplace } from '../cli/command.ts'

describe('the command task', function () {
  this.timeout(60_000)
  const place = new Workplace()
  after(place.remove)

  it('names and describes all tasks, or one', async () => {
    const [list, one] = await Promise.all([place.succeed('task --list'), place.succeed('task mqar --list')])
    for (const name of Object.keys(tasks)) assert.match(list, new RegExp(`^${name}: `, 'm'))
    assert.ok(list.includes(one.trim()))
    assert.equal(
      one,
      [
        'mqar: recall of several keys among empty fillers',
        '  Arora et al. 2023; HazyResearch/zoology',
        '  counts share of each sequence; 0.25 where nothing is learnt',
        '  vocabulary 8192, length 64, pairs 4, power 0.01, random-fillers false\n',
      ].join('\n'),
    )
  })

  it('writes what it accepts, by the same settings, the same each time', async () => {
    const words = 'task mqar --pairs 8 --length 32 --random-fillers --examples 20 --split test,train --seed 3'
    assert.equal(await place.succeed(`${words} --write a.safetensors`), 'wrote a.safetensors: 20 test, 20 train\n')
    await place.succeed(`${words} --write b.safetensors.gz`)
    assert.deepEqual(gunzipSync(place.read('b.safetensors.gz')), place.read('a.safetensors'))
    assert.equal(await place.succeed('task mqar --check b.safetensors.gz'), 'mqar: 20 test and 20 train: every sequence is right\n')
    const file = readTaskFile('mqar', tasks.mqar as AnyTask, place.read('a.safetensors'))
    assert.deepEqual(file.settings, { vocabulary: 8192, length: 32, pairs: 8, power: 0.01, randomFillers: true })
    // Settings that are given count for more than those of the file.
    const { code, stdout } = await place.run('task mqar --check a.safetensors --no-random-fillers')
    assert.equal(code, 1)
    assert.match(
      stdout,
      /^inputs row 0, place \d+: the filler is \d+ instead of 0\n(inputs row \d, .*\n){4}and 35 more\nmqar: 40 of 40 sequences wrong\n$/,
    )
    assert.equal(
      await place.succeed('task aa-star --split valid --write few.safetensors'),
      'wrote few.safetensors: 25 valid: there are no more\n',
    )
  })

  it('says which sequence is wrong, and where', async () => {
    await place.succeed('task retrieval-2 --keys 6 --examples 10 --split train,valid --write right.safetensors')
    const { tensors, metadata } = readSafetensors(place.read('right.safetensors'))
    const targets = tensors.get('valid_targets')!.data as Int32Array
    const [right, wrong] = [targets[7], targets[7] === 6 ? 7 : 6]
    targets[7] = wrong
    place.write('wrong.safetensors', writeSafetensors(tensors, { ...metadata }))
    assert.deepEqual(await place.run('task retrieval-2 --check wrong.safetensors'), {
      code: 1,
      stdout: `valid_inputs row 7, the target at 12 is ${wrong}, not ${right}\nretrieval-2: 1 of 20 sequences wrong\n`,
      stderr: '',
    })
  })

  it('trains a model on a task, examines it, and keeps it where that is asked for', async () => {
    const words = 'task mad-memorization --vocabulary 16 --length 16 --d-model 32 --layers 1 --d-ff 32 --batch 32 --examples 50'
    const stdout = await place.succeed(`${words} --steps 80 --eval-every 40 --out learnt`)
    assert.match(stdout, /^mad-memorization: .*; counts classes, 0\.125 where nothing is learnt$/m)
    assert.match(stdout, /^step 80\/80 {2}loss 0\.\d+ {2}valid [01]\.\d{3} {2}ETA 0 s$/m)
    const score = Number(/^80 steps in .*; test ([\d.]+) \(50 sequences; chance 0\.125\)$/m.exec(stdout)![1])
    assert.ok(score > 0.9, `${score}`)
    const { config, extra } = readCheckpoint(place.read('learnt/checkpoint.safetensors'))
    assert.equal(config.symbols, 16)
    assert.equal(JSON.parse(extra.task).settings.length, 16)
    const diverging = await place.run(`${words} --steps 50 --optimizer adam --schedule constant --lr 1e30 --warmup 0`)
    assert.match(diverging.stderr, /^fastweights: training diverged at step \d+: /)
    assert.equal(diverging.code, 1)
  })

  it('keeps what a model has learnt where it is stopped, without an exam', async () => {
    const words = 'task mad-memorization --vocabulary 16 --length 16 --d-model 32 --layers 1 --d-ff 32 --batch 32 --examples 100000'
    for (const every of [1, 1000]) {
      const out = `stopped-${every}`
      const child = place.start(`${words} --steps 2 --eval-every ${every} --out ${out}`)
      const result = ended(child)
      await shown(child, 'sequences\n')
      child.kill('SIGTERM')
      const { code, stdout, stderr } = await result
      assert.equal(code, 130, stderr)
      assert.match(stdout, /^\d steps? in .*; stopped before it was tested$/m)
      assert.ok(readCheckpoint(place.read(`${out}/checkpoint.safetensors`)).steps <= 2)
    }
  })

  it('refuses what makes no sense, in one line, and writes nothing then', async () => {
    place.write('zeros.gz', gzipSync(Buffer.alloc(100)))
    place.write('cut.gz', gzipSync(Buffer.alloc(100_000, 'abc')).subarray(0, 40))
    const before = place.snapshot()
    const cases: readonly (readonly [words: string, code: number, message: string | RegExp])[] = [
      ['task', 2, /^which task\? Its name comes first/],
      ['task mqar --split test', 2, '--split: means nothing without --write'],
      ['task mqar --check x --steps 2', 2, '--steps: means nothing with --check'],
      ['task mqar --write x --layers 2', 2, '--layers: means nothing with --write'],
      ['task copy --pairs 3', 2, '--pairs: copy has no such setting (see fastweights task copy --list)'],
      ['task copy --mixer kda --rule sum', 2, '--rule: --mixer names rules already'],
      ['task mqra --list', 2, 'unknown task mqra: did you mean mqar?'],
      ['task __proto__ --list', 2, /^unknown task __proto__ \(see fastweights task --list\)$/],
      ['task mqar parity --list', 2, 'unexpected argument "parity"'],
      ['task mqar --list --check x', 2, '--list and --check exclude each other'],
      ['task mqar --check x --seed 2', 2, '--seed: means nothing with --check'],
      ['task mqar --list --pairs 2', 2, '--pairs: means nothing with --list'],
      ['task mqar --nested --write x', 2, '--nested: mqar has no such setting (see fastweights task mqar --list)'],
      ['task mqar --split tests --write x', 2, '--split: expected a list of train, valid, test, got "tests"'],
      ['task mqar --split test,test --write x', 2, '--split: test is given twice'],
      ['task mqar --pairs 17 --write x', 1, '--pairs must be at most 16, a quarter of the length, not 17'],
      ['task mqar --examples 0 --write x', 2, '--examples: expected an integer from 1 to 10000000, got "0"'],
      ['task mqar --write none/x', 1, /^can't write none\/x: /],
      ['task mqar --check none', 1, /^can't read none: /],
      ['task mqar --check text.txt', 1, /^text.txt: safetensors: the file is plain text that begins/],
      ['task mqar --check zeros.gz', 1, /^zeros.gz: (safetensors|the metadata)/],
      ['task mqar --check cut.gz', 1, "cut.gz: can't be unpacked: unexpected end of file"],
      ['task parity --check right.safetensors', 1, "right.safetensors: the file is of the task 'retrieval-2', not of 'parity'"],
    ]
    await place.together(async (run) => {
      for (const [words, code, message] of cases) {
        const result = await run(words)
        assert.match(result.stderr, /^fastweights: [^\n]+\n$/, words)
        const line = result.stderr.slice('fastweights: '.length, -1)
        if (typeof message === 'string') assert.equal(line, message)
        else assert.match(line, message)
        assert.equal(result.code, code, words)
      }
    })
    assert.deepEqual(place.snapshot(), before)
  })
})
