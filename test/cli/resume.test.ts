/** A run that was stopped, by its end, by Ctrl-C or by force, and resumed, leaves the same bytes as one that wasn't. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { basename, join } from 'node:path'
import { readCheckpoint, readSafetensors, writeSafetensors } from '../../nn/index.ts'
import { webgpu } from '../helpers.ts'
import { ended, shown, Workplace } from './command.ts'

describe('fastweights train --resume', () => {
  const place = new Workplace()
  /** Where one is resumed, nothing is left of the process that began it, nor of the one that did it in one go. What ends by itself runs in these. */
  let unbroken: ReturnType<Workplace['server']>, begun: typeof unbroken, resumed: typeof unbroken
  before(() => {
    unbroken = place.server()
    begun = place.server()
    resumed = place.server()
  })
  after(place.remove)

  function assertSameRun(actual: string, expected: string): void {
    assert.deepEqual(place.metrics(actual), place.metrics(expected))
    assert.ok(place.read(`${actual}/checkpoint.safetensors`).equals(place.read(`${expected}/checkpoint.safetensors`)), 'checkpoints differ')
    assert.equal(place.read(`${actual}/sample.txt`).toString(), place.read(`${expected}/sample.txt`).toString())
  }

  for (const [name, settings] of [
    ['wasm', ''],
    ['wasm, plain, labml', '--no-relaxed --preset labml --clip 0.5'],
    ['wasm, softmax, noam', '--preset softmax --schedule noam'],
    ["wasm, labml's attention free transformer", '--preset labml-aft --window 3 --table-length 9'],
    ['wasm, a hybrid', '--mixer fast-weights,aft-conv,softmax --layers 3'],
    ['wasm, muon', '--optimizer muon'],
    ['reference', '--device reference'],
    // Of fewer shaders than the default has, which goes on on webgpu in devices.test.ts: three processes compile them.
    ['webgpu', '--device webgpu --preset softmax'],
    ['features redrawn at each step', '--preset performer --favor-redraw step'],
    ['features redrawn after each epoch, of three steps', '--preset performer --favor-redraw epoch --batch 60'],
  ])
    it(`3 steps and 3 more are 6: ${name}, with dropout${name === 'webgpu' ? ' @long' : ''}`, async function () {
      if (name === 'webgpu') await webgpu(this)
      const id = name.replace(/\W+/g, '-')
      const device = settings.match(/--(device \w+|no-relaxed)/)?.[0] ?? ''
      const common = `${settings} --dropout 0.2 --eval-every 3`
      await Promise.all([unbroken.train(`--out ${id}-whole --steps 6 ${common}`), begun.train(`--out ${id} --steps 3 ${common}`)])
      await resumed.succeed(`train --resume ${id} --steps 6 --eval-every 3 --sample-length 20 ${device}`.trim())
      assertSameRun(id, `${id}-whole`)
    })

  it('after Ctrl-C', async () => {
    const settings = '--dropout 0.2 --eval-every 10 --save-every 1000000 --steps'
    const child = place.start(`train --text text.txt --config tiny.json --out interrupted ${settings} 1000000`)
    const result = ended(child)
    await shown(child, 'step 10/')
    child.kill('SIGINT')
    const { code, stdout, stderr } = await result
    assert.equal(code, 130)
    assert.equal(stderr, '\nstopping soon (once more to stop at once)\n')
    const stopped = Number(stdout.match(/^stopped at step (\d+); go on with --resume interrupted$/m)?.[1])
    assert.equal(readCheckpoint(place.read('interrupted/checkpoint.safetensors')).steps, stopped)
    const steps = stopped + 7
    await Promise.all([
      resumed.succeed(`train --resume interrupted --steps ${steps} --eval-every 10 --sample-length 20`),
      unbroken.train(`--out uninterrupted ${settings} ${steps}`),
    ])
    assertSameRun('interrupted', 'uninterrupted')
  })

  /** What neither signal stops: trained once, by the first that is asked for it. */
  let notCut: Promise<string> | undefined
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    it(`after ${signal} in the evaluation at the end, which it doesn't wait for${signal === 'SIGTERM' ? ' @long' : ''}`, async () => {
      // A batch of 8 characters at a time: seconds, and minutes on a busy machine.
      place.write('long.txt', place.read('text.txt').toString().repeat(1400))
      const id = `cut-${signal}`
      const settings = `--text long.txt --config tiny.json --batch 1 --seq-len 8 --eval-every 2 --steps 4`
      const child = place.start(`train ${settings} --out ${id}`)
      const result = ended(child)
      await shown(child, 'evaluating  ')
      child.kill(signal)
      const { code, stdout } = await result
      assert.equal(code, 130)
      assert.match(stdout, /^evaluating {2}[\d,]+\/42\d,\d{3} characters {2}ETA /m)
      assert.match(stdout, new RegExp(`^stopped at step 4; go on with --resume ${id}$`, 'm'))
      assert.equal(readCheckpoint(place.read(`${id}/checkpoint.safetensors`)).steps, 4)
      assert.deepEqual(
        place.metrics(id).map((record) => 'validLoss' in record),
        [false, true, false, false],
      )
      const rest = '--eval-every 2 --eval-limit 500 --sample-length 20'
      notCut ??= unbroken.succeed(`train ${settings} --eval-limit 500 --out cut-not`)
      await Promise.all([resumed.succeed(`train --resume ${id} ${rest}`), notCut])
      // On the way 1,024 characters are read, and here 500 of them.
      const last = (run: string) => place.metrics(run).at(-1)
      assert.deepEqual(last(id), last('cut-not'))
      assert.ok(place.read(`${id}/checkpoint.safetensors`).equals(place.read('cut-not/checkpoint.safetensors')))
    })

  it('after kill -9 at any moment: what was saved opens, and the end is the same @long', async () => {
    const settings = '--eval-every 50 --dropout 0.2 --steps 150'
    await unbroken.train(`--out unbroken ${settings}`)
    let saved = 0
    for (const delay of [0, 3, 9, 20, 33, 47, 64, 85, 110]) {
      const words =
        saved === 0
          ? `train --text text.txt --config tiny.json --out killed --save-every 1 ${settings}`
          : 'train --resume killed --save-every 1 --eval-every 50'
      const child = place.start(words)
      const result = ended(child)
      await shown(child, 'step ')
      await new Promise((resolve) => setTimeout(resolve, delay))
      child.kill('SIGKILL')
      await result
      const { steps } = readCheckpoint(place.read('killed/checkpoint.safetensors'))
      assert.ok(steps >= saved, `from step ${saved} back to ${steps}`)
      saved = Math.max(steps, 1)
    }
    await resumed.succeed('train --resume killed --eval-every 50 --sample-length 20')
    assertSameRun('killed', 'unbroken')
    assert.ok(!Object.keys(place.snapshot()).some((name) => name.includes('.tmp')))
  })

  it('says when it computes otherwise than before, or the schedule has changed', async () => {
    await begun.train('--out changed --schedule cosine')
    const stdout = await resumed.succeed('train --resume changed --steps 6 --device reference')
    assert.match(stdout, /^note: the run was trained in float32.* and goes on in float64, so it won't repeat an unbroken run exactly$/m)
    assert.match(stdout, /^note: the learning rate falls until step 6 from now on; so far it fell until step 5$/m)
    assert.equal(JSON.parse(readCheckpoint(place.read('changed/checkpoint.safetensors')).extra.run).arithmetic, 'float64')
  })

  it('a run that another process trains is not resumed', async () => {
    const settings = '--out busy --steps 1000000 --eval-every 10'
    const child = place.start(`train --text text.txt --config tiny.json ${settings}`)
    const result = ended(child)
    await shown(child, 'step 10/')
    const { code, stderr } = await resumed.run('train --resume busy')
    assert.equal(stderr, `fastweights: busy is in use by process ${child.pid} (if it isn't, remove ${join('busy', '.lock')})\n`)
    assert.equal(code, 1)
    child.kill('SIGINT')
    assert.equal((await result).code, 130)
    assert.ok(!Object.keys(place.snapshot()).some((name) => name.includes('.lock')))
  })

  it('finds its text from another folder, and says which option names a text that has moved', async () => {
    place.write('away.txt', place.read('text.txt'))
    await begun.succeed('train --text away.txt --config tiny.json --out far')
    mkdirSync(place.path('elsewhere'))
    await place.succeed(`train --resume ${join('..', 'far')} --steps 6`, { shell: 'cd elsewhere && exec "$0" "$@"' })
    renameSync(place.path('away.txt'), place.path('gone.txt'))
    const { code, stderr } = await resumed.run('train --resume far --steps 7')
    assert.match(stderr, /^fastweights: can't read away\.txt: no such file or folder; .* give its new place with --text\n$/)
    assert.equal(code, 1)
    await resumed.succeed('train --resume far --steps 7 --text gone.txt')
  })

  it('keeps of its text the name and the checksum, and no path', async () => {
    mkdirSync(place.path('books'))
    place.write('books/book.txt', place.read('text.txt'))
    await begun.succeed(['train', '--text', place.path('books/book.txt'), '--config', 'tiny.json', '--out', place.path('private')])
    for (const name of readdirSync(place.path('private'))) {
      const content = place.read(`private/${name}`).toString('latin1')
      for (const secret of [place.folder, basename(place.folder), 'books', homedir()])
        assert.ok(!content.includes(secret), `${name}: ${secret}`)
    }
    const { text } = JSON.parse(readCheckpoint(place.read('private/checkpoint.safetensors')).extra.run)
    assert.deepEqual(text, { name: 'book.txt', hash: createHash('sha256').update(place.read('text.txt')).digest('hex') })
  })

  it('looks for its text by name: with the run, here, in the cache; what only has its name is not it', async () => {
    const line = async (words: string): Promise<string> => {
      const { code, stderr } = await resumed.run(words)
      assert.equal(code, 1)
      return stderr
    }
    mkdirSync(place.path('hidden'))
    mkdirSync(place.path('cache'), { recursive: true })
    mkdirSync(place.path('a/b'), { recursive: true })
    place.write('hidden/story.txt', place.read('text.txt'))
    await begun.succeed('train --text hidden/story.txt --config tiny.json --out a/b/run')
    const missing = /^fastweights: can't read story\.txt: no such file or folder; .*: give its new place with --text\n$/
    assert.match(await line('train --resume a/b/run --steps 6'), missing)
    let steps = 6
    for (const [there, from] of [
      ['a/b/run/story.txt', '.'],
      ['a/b/story.txt', '.'],
      ['a/story.txt', 'hidden'],
      ['story.txt', '.'],
      ['cache/story.txt', '.'],
    ]) {
      place.write(there, place.read('text.txt'))
      if (from === 'hidden') {
        rmSync(place.path('hidden/story.txt'))
        await place.succeed(`train --resume ../a/b/run --steps ${steps++}`, { shell: 'cd hidden && exec "$0" "$@"' })
      } else await resumed.succeed(`train --resume a/b/run --steps ${steps++}`)
      rmSync(place.path(there))
      assert.match(await line(`train --resume a/b/run --steps ${steps}`), missing)
    }
    place.write('story.txt', 'Another story.\n'.repeat(99))
    const another = `fastweights: ${place.path('story.txt')} isn't the text that the run was trained on (story.txt): give that one with --text\n`
    assert.equal(await line(`train --resume a/b/run --steps ${steps}`), another)
    // One that is the text is found behind one that isn't.
    place.write('cache/story.txt', place.read('text.txt'))
    await resumed.succeed(`train --resume a/b/run --steps ${steps}`)
  })

  it('when it is stopped, says how to go on, with the text where it would not be found', async () => {
    mkdirSync(place.path('shelf'))
    place.write('shelf/novel.txt', place.read('text.txt'))
    const child = place.start('train --text shelf/novel.txt --config tiny.json --out told --steps 1000000')
    const result = ended(child)
    await shown(child, 'step ')
    child.kill('SIGINT')
    const advice = (await result).stdout.match(/^stopped at step \d+; go on with (--resume told --text shelf\/novel\.txt)$/m)?.[1]
    const { steps } = readCheckpoint(place.read('told/checkpoint.safetensors'))
    await resumed.succeed(`train ${advice} --steps ${steps + 1}`)
  })

  it('a checkpoint of before opens: with the path of its text, and its version under format', async () => {
    mkdirSync(place.path('old-place'))
    place.write('old-place/tale.txt', place.read('text.txt'))
    await begun.succeed('train --text old-place/tale.txt --config tiny.json --out before')
    const { tensors, metadata } = readSafetensors(place.read('before/checkpoint.safetensors'))
    const { fastweights, ...rest } = metadata
    const run = JSON.parse(metadata.run)
    run.text.path = place.path('old-place/tale.txt')
    const old = writeSafetensors(tensors, { ...rest, format: 'fastweights-2', run: JSON.stringify(run) })
    place.write('before/checkpoint.safetensors', old)
    await resumed.succeed('generate --run before --length 5')
    await resumed.succeed('train --resume before --steps 6')
    const now = readSafetensors(place.read('before/checkpoint.safetensors')).metadata
    assert.deepEqual([now.format, now.fastweights], ['pt', 'checkpoint 3'])
    assert.deepEqual(JSON.parse(now.run).text, { name: 'tale.txt', hash: run.text.hash })
    // Where its path leads nowhere, it is looked for by its name.
    place.write('before/checkpoint.safetensors', old)
    place.write('before/metrics.jsonl', '')
    renameSync(place.path('old-place/tale.txt'), place.path('tale.txt'))
    await resumed.succeed('train --resume before --steps 6')
  })

  it('finds the same text under another name, and a run that is complete stays as it is', async () => {
    await begun.train('--out moved')
    const before = place.read('moved/checkpoint.safetensors')
    place.write('renamed.txt', place.read('text.txt'))
    assert.match(await resumed.succeed('train --resume moved --text renamed.txt'), /^trained 0 steps/m)
    assert.deepEqual(place.read('moved/checkpoint.safetensors'), before)
  })
})
