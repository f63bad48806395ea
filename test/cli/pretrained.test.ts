import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { noGrad, setDevice, tensor } from '../../engine/index.ts'
import { fromPretrained, type SafetensorsEntry, writeSafetensors } from '../../nn/index.ts'
import { reference, uniforms } from '../helpers.ts'
import { choices, made } from '../nn/pretrained.ts'
import { byteLevel } from '../tasks/byte-level.ts'
import { Workplace } from './command.ts'

describe("fastweights with other packages' models", () => {
  const place = new Workplace()
  /** For what says only that it can't be, and for comparisons. */
  let server: ReturnType<Workplace['server']>
  after(place.remove)
  const [, type, given] = choices.find(([, type]) => type === 'qwen3_next')!
  const files = made(type, given)

  const write = (folder: string, more: Iterable<readonly [string, Uint8Array]> = []): void => {
    mkdirSync(place.path(folder), { recursive: true })
    for (const [name, content] of [...files, ...more]) place.write(`${folder}/${name}`, content)
  }
  before(async () => {
    server = place.server()
    setDevice(reference)
    const { model } = fromPretrained(files)
    const ids = Int32Array.from(uniforms(1, 14, 0, 11)) as Int32Array<ArrayBuffer>
    const logits = noGrad(() => model.eval().forward(tensor(ids, { shape: [2, 7] })).logits)
    const data = Float32Array.from(await logits.read())
    const figures = (data: Float32Array<ArrayBuffer>): Uint8Array =>
      writeSafetensors([
        ['input_ids', { dtype: 'I32', shape: [2, 7], data: ids }],
        ['logits', { dtype: 'F32', shape: [2, 7, 11], data }] as [string, SafetensorsEntry],
      ])
    write('model', [['expected.safetensors', figures(data)]])
    place.write('moved.safetensors', figures(data.map((x, i) => x + (i === 9 ? 1e-3 : 0))))
    // RWKV's magic number, and no config.json beside it.
    mkdirSync(place.path('rwkv'))
    place.write('rwkv/a.bin', Uint8Array.from([0x66, 0x6d, 0x67, 0x67, 0, 0, 0, 0]))
    write('broken', [['model.safetensors', files.get('model.safetensors')!.slice(0, 999)]])
  })

  it('imports, continues tokens, shows memories, and exports the same files', async () => {
    assert.match(await place.succeed('import model --out run'), /qwen3_next of transformers: 2 layers/)
    const text = await place.succeed('generate --run run --tokens 1,2,3 --length 4 --temperature 0')
    assert.match(text, /^1,2,3(,\d+){4}\n$/)
    const [records, { layers }] = await Promise.all([
      place.succeed('generate --run run --tokens 1,2,3 --length 4 --temperature 0 --batch 2'),
      place.succeed('inspect run --tokens 1,2,3 --json -').then((json) => JSON.parse(json)),
      place.succeed('export run --out back'),
    ])
    for (const [i, line] of records.trim().split('\n').entries())
      assert.deepEqual(JSON.parse(line), { prompt: [1, 2, 3], seed: i + 1, tokens: text.trim().split(',').slice(3).map(Number) })
    assert.deepEqual(
      layers.map(({ mixer }: { mixer: string }) => mixer),
      ['gated-delta', 'softmax'],
    )
    for (const [name, content] of files) assert.deepEqual(new Uint8Array(place.read(`back/${name}`)), content)
    await place.succeed('export run/checkpoint.safetensors')
    assert.ok(existsSync(place.path('run-transformers/config.json')))
    assert.match(
      (await server.run('export ./run/../run/')).stderr,
      /^fastweights: run-transformers holds a file named config\.json already/,
    )
  })

  it('takes texts with a tokenizer, ends them where the model says, and keeps the files of both', async () => {
    const text = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
    const more: [string, Uint8Array][] = [
      ['tokenizer.json', text(byteLevel)],
      ['tokenizer_config.json', text({ chat_template: '{{ messages }}' })],
      ['generation_config.json', text({ do_sample: true, top_p: 0, repetition_penalty: 1.2, eos_token_id: [7] })],
    ]
    write('texts', more)
    const said = await place.succeed(['import', 'texts', '--out', 'what is said'])
    assert.match(said, /tokenizer_config\.json: its chat template isn't carried out here/)
    assert.match(said, /generation_config\.json: repetition_penalty 1\.2 isn't carried out here/)
    assert.match(said, /generate 'what is said' --prompt/)
    // The likeliest tokens are 8, 8 and 7, and 7 is the end.
    const [records, json] = await Promise.all([
      place.succeed(['generate', 'what is said', '--prompt', 'ab ab', '--length', '6', '--batch', '2']),
      place.succeed(['inspect', 'what is said', '--prompt', 'ab<end> ab', '--json', '-']),
      place.succeed(['export', 'what is said', '--out', 'kept']),
    ])
    for (const record of records.trim().split('\n')) assert.equal(JSON.parse(record).text, ' b b')
    assert.deepEqual(JSON.parse(json).tokens, ['ab', '7 ', ' ab'])
    for (const [name, content] of more) assert.deepEqual(new Uint8Array(place.read(`kept/${name}`)), content)
  })

  it('compares: 0 where all hold, 1 where one falls short, 2 what cannot be used; --json is one object', async () => {
    const [whole, moved, none, stray, alone] = await Promise.all(
      ['model --json --device reference', 'model moved.safetensors --json', 'broken model/expected.safetensors --json', 'nowhere', ''].map(
        (words, i) => (i === 0 ? place : server).run(`compare ${words}`),
      ),
    )
    assert.deepEqual(
      [whole, moved, none, stray, alone].map(({ code }) => code),
      [0, 1, 2, 2, 2],
    )
    const result = JSON.parse(whole.stdout)
    assert.deepEqual(
      [result.model, result.package, result.device, result.ok, result.notCompared],
      ['qwen3_next', 'transformers', 'reference', true, []],
    )
    const [logits] = result.tensors
    assert.ok(logits.error < 1e-6)
    assert.deepEqual(
      { ...logits, error: 0 },
      { name: 'logits', shape: [2, 7, 11], error: 0, measure: 'absolute', tolerance: 2e-5, ok: true },
    )
    const fallen = JSON.parse(moved.stdout)
    assert.equal(fallen.ok, false)
    assert.equal(fallen.tensors[0].name, 'logits')
    for (const { stdout, stderr } of [none, stray, alone]) {
      assert.equal(stdout, '')
      assert.match(stderr, /^fastweights: .*\n$/)
    }
    assert.match(none.stderr, /model\.safetensors: .*truncated/)
  })

  it('leaves nothing of what it cannot read, and tells which options go with a run', async () => {
    const before = place.snapshot()
    const [broken, again, letters, far] = await Promise.all(
      ['import broken --out none', 'import model --out run', 'generate --run run --prompt It', 'generate --run run --tokens 3,11'].map(
        (words) => server.run(words),
      ),
    )
    assert.match(broken.stderr, /truncated/)
    assert.match(again.stderr, /holds a run already/)
    assert.match(letters.stderr, /--prompt: run has no tokenizer: give --tokens/)
    assert.match(far.stderr, /--tokens: 11 is no token: they are 0 to 10/)
    const [several, resumed] = await Promise.all(['import rwkv --out none', 'train --resume run'].map((words) => server.run(words)))
    assert.match(several.stderr, /RWKV's own files: name one of them, such as .*a\.bin/)
    assert.match(resumed.stderr, /holds a model of another package, which is run here and not trained/)
    assert.deepEqual(place.snapshot(), before)
    assert.ok(!existsSync(place.path('none')) && readdirSync(place.folder).length > 0)
  })
})
