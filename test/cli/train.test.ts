import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { readCheckpoint } from '../../nn/index.ts'
import { type PresetName, presets } from '../../tasks/index.ts'
import { ended, shown, Workplace } from './command.ts'

describe('fastweights train', () => {
  const place = new Workplace()
  /** For what isn't about a process of its own. */
  let server: ReturnType<Workplace['server']>
  before(() => {
    server = place.server()
  })
  after(place.remove)

  it('writes a checkpoint, metrics, a curve and a sample, and says where', async () => {
    const stdout = await place.train('--out whole --eval-every 2')
    assert.deepEqual(readdirSync(place.path('whole')).sort(), ['checkpoint.safetensors', 'loss.svg', 'metrics.jsonl', 'sample.txt'])
    for (const name of readdirSync(place.path('whole'))) assert.match(stdout, new RegExp(`^wrote whole/${name}$`, 'm'))
    const { config, steps, extra } = readCheckpoint(place.read('whole/checkpoint.safetensors'))
    assert.deepEqual([config.dModel, config.heads, config.layers, config.dFf, steps], [16, 2, 1, 32, 5])
    assert.equal(JSON.parse(extra.run).text.name, 'text.txt')
    const metrics = place.metrics('whole')
    assert.deepEqual(
      metrics.map(({ step }) => step),
      [1, 2, 3, 4, 5],
    )
    assert.deepEqual(
      metrics.filter((record) => 'validLoss' in record).map(({ step }) => step),
      [2, 4, 5],
    )
    for (const { loss, gradNorm, lr } of metrics) for (const value of [loss, gradNorm, lr]) assert.ok((value as number) > 0)
    assert.match(place.read('whole/sample.txt').toString(), /^It is[\s\S]{20}\n$/)
    assert.match(place.read('whole/loss.svg').toString(), /^<svg[\s\S]*<\/svg>\s*$/)
    for (const line of stdout.split('\n')) if (!line.includes('characters')) assert.ok(line.length <= 80, line)
  })

  it('is the same for the same seed, byte for byte, whatever the number of threads', async () => {
    await Promise.all([place.train('--out one --threads 1 --dropout 0.1'), place.train('--out two --threads 2 --dropout 0.1')])
    await Promise.all([place.train('--out three --threads 3 --dropout 0.1'), place.train('--out other --seed 2 --dropout 0.1')])
    for (const run of ['two', 'three']) {
      assert.deepEqual(place.read(`${run}/checkpoint.safetensors`), place.read('one/checkpoint.safetensors'))
      assert.deepEqual(place.metrics(run), place.metrics('one'))
      assert.deepEqual(place.read(`${run}/sample.txt`), place.read('one/sample.txt'))
    }
    assert.notDeepEqual(place.metrics('other'), place.metrics('one'))
  })

  describe('presets', () => {
    for (const preset of Object.keys(presets) as PresetName[])
      it(`trains the preset ${preset}, which a flag and a config file change`, async () => {
        const words = `train --text text.txt --config tiny.json --out preset-${preset} --preset ${preset} --steps 2`
        const { code, stderr } = await server.run(words)
        assert.equal(code, 0, stderr)
        const { config, extra } = readCheckpoint(place.read(`preset-${preset}/checkpoint.safetensors`))
        const { training } = JSON.parse(extra.run)
        const { model, training: recipe } = presets[preset]
        assert.deepEqual({ ...config, symbols: 0 }, { ...model, dModel: 16, heads: 2, layers: 1, dFf: 32, symbols: 0 })
        assert.deepEqual(training, { ...recipe, seqLen: 16, batch: 2, steps: 2, schedule: 'constant', lr: 0.01 })
      })
  })

  it('takes mixers and their settings from flags and config files, in place of those of a preset', async () => {
    place.write('mixer.json', JSON.stringify({ mixer: ['aft-local', 'softmax'], window: 3, layers: 2 }))
    await server.train('--out chosen --mixer aft-conv,fast-weights --layers 3 --window 5 --rule kda --steps 1')
    await server.succeed(
      'train --text text.txt --config mixer.json --out from-file --d-model 8 --heads 2 --d-ff 8 --seq-len 16 --batch 2 --steps 1',
    )
    const [chosen, fromFile] = ['chosen', 'from-file'].map((name) => readCheckpoint(place.read(`${name}/checkpoint.safetensors`)).config)
    assert.deepEqual(chosen.mixer, [{ kind: 'aft-conv', window: 5, projectionBias: true }, { kind: 'fast-weights' }])
    assert.equal(chosen.rule, 'kda')
    assert.deepEqual(fromFile.mixer, [{ kind: 'aft-local', tableLength: 256, window: 3, projectionBias: true }, { kind: 'softmax' }])
    // By the names of rules and nets; what a preset or an option says for another one gives way.
    await server.train('--out named --mixer kda,delta,delta-mlp,gru --layers 4 --gate exp --net-depth 2 --steps 1')
    const { mixer: named, gate } = readCheckpoint(place.read('named/checkpoint.safetensors')).config
    assert.deepEqual(
      (named as { kind: string; rule?: string; net?: string; gate?: string; netDepth?: number }[]).map((m) => [
        m.rule ?? m.net,
        m.gate ?? gate,
        m.netDepth,
      ]),
      [
        ['kda', 'exp', undefined],
        ['delta', 'softplus', undefined],
        ['delta-mlp', 'exp', 2],
        ['gru', 'exp', 1],
      ],
    )
    await server.succeed('train --resume named --steps 2')
    const stdout = await server.train('--out blind --mixer softmax,aft-simple --layers 2 --steps 1')
    assert.match(stdout, /^note: no layer knows the order of the characters before; --positions sinusoidal tells it$/m)
    assert.match(stdout, /^state of a sequence: 33 numbers, and 32 numbers a character in all layers$/m)
  })

  it('names folders by preset, and takes the first that is free, one each for runs that begin together', async () => {
    await Promise.all([place.train('--steps 1'), place.train('--steps 1')])
    await place.train('--steps 1')
    assert.deepEqual(readdirSync(place.path('runs')).sort(), ['default-1', 'default-2', 'default-3'])
    for (const n of [1, 2, 3]) assert.equal(place.metrics(`runs/default-${n}`).length, 1)
  })

  it('--minutes takes the steps that it prints, as --steps would, and keeps them when resumed', async () => {
    const settings = '--schedule cosine --dropout 0.1'
    const stdout = await place.train(`--out timed --minutes 0.0001 --minutes 0.001 --steps 30 ${settings}`)
    const steps = Number(/^speed \S+ steps\/s: .*?(\d+) steps( of --steps)?( fit|, the least)/m.exec(stdout)?.[1])
    assert.ok(steps >= 10 && steps <= 30, stdout)
    assert.match(stdout, new RegExp(`; steps 0 to ${steps} of `))
    await server.train(`--out counted --steps ${steps} ${settings}`)
    assert.deepEqual(place.metrics('timed'), place.metrics('counted'))
    assert.deepEqual(place.read('timed/checkpoint.safetensors'), place.read('counted/checkpoint.safetensors'))
    const resumed = await server.succeed('train --resume timed --minutes 5 --sample-length 5')
    assert.match(resumed, /^note: --minutes changes nothing here: a resumed run keeps its number of steps$/m)
    assert.match(resumed, new RegExp(`; steps ${steps} to ${steps} of `))
    assert.doesNotMatch(resumed, /^speed /m)
  })

  it('shows control characters of a text as escapes, and writes them as they are to the file', async () => {
    place.write('codes.txt', 'It is \u001b[31m\u009b2J\u0007\u007f\u202e\u2066\r\n\tso. '.repeat(60))
    const stdout = await server.succeed('train --text codes.txt --config tiny.json --steps 40 --out codes --sample-length 100')
    const sample = place.read('codes/sample.txt').toString()
    for (const code of ['\u001b', '\u009b', '\r']) assert.ok(sample.includes(code), sample)
    assert.doesNotMatch(stdout, /[^\P{Cc}\n\t]|\p{Bidi_C}/u)
    const unescaped = stdout
      .replaceAll('\\r', '\r')
      .replace(/\\u([0-9a-f]{4})/g, (_, code) => String.fromCharCode(Number.parseInt(code, 16)))
    assert.ok(unescaped.includes(`\n\n${sample}\n`), stdout)
  })

  it('--eval-limit bounds the evaluation at the end, which says so', async () => {
    const loss = (stdout: string) => /validation loss (\S+) \((.*)\)$/m.exec(stdout)!.slice(1)
    const [whole, part, all] = await Promise.all(['', '--eval-limit 40', '--eval-limit 0'].map((limit) => server.train(limit))).then(
      (outputs) => outputs.map(loss),
    )
    assert.equal(whole[1], 'whole validation text')
    assert.deepEqual(all, whole)
    assert.match(part[1], /^the first 40 of the 30\d characters of the validation text; --eval-limit 0 reads all$/)
    assert.notEqual(part[0], whole[0])
  })

  it("continues a text's own first word where it lacks the preset's prompt", async () => {
    place.write('lower.txt', 'é no capitals here at all. '.repeat(20))
    const stdout = await server.succeed('train --text lower.txt --config tiny.json --out lower')
    assert.match(stdout, /^note: the text lacks a character of "It is"; the sample will continue "é"$/m)
    assert.match(place.read('lower/sample.txt').toString(), /^é/)
  })

  it('reads its config from a pipe', async () => {
    await place.succeed('train --text text.txt --out piped', { shell: 'cat tiny.json | "$0" "$@" --config /dev/stdin' })
    assert.equal(place.metrics('piped').length, 5)
  })

  it('works with its streams closed', async () => {
    await place.succeed('train --text text.txt --config tiny.json --out closed', { shell: 'exec "$0" "$@" <&- >&- 2>&-' })
    assert.ok(existsSync(place.path('closed/sample.txt')))
  })

  it('saves and stops when the reader of its output leaves', async () => {
    const child = place.start('train --text text.txt --config tiny.json --out left --steps 100000 --save-every 100000 --eval-every 10')
    const result = ended(child)
    await shown(child, 'step 1/')
    child.stdout!.destroy()
    assert.equal((await result).code, 130)
    assert.ok(readCheckpoint(place.read('left/checkpoint.safetensors')).steps > 0)
  })
})
