/** Whatever is wrong with the input: one line on standard error, an exit code (2 for usage, else 1), and not a byte changed on the disk. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { readSafetensors, type Safetensors, writeSafetensors } from '../../nn/index.ts'
import { type Result, Workplace } from './command.ts'

type Case = readonly [words: string | readonly string[], message: string | RegExp]

const isWindows = process.platform === 'win32'

describe('bad input', () => {
  const place = new Workplace()
  /** As many as there are cores. */
  let servers: ReturnType<Workplace['server']>[] = []
  after(place.remove)
  before(async () => {
    servers = [place.server(), place.server()]
    place.write('empty.txt', '')
    place.write('short.txt', 'abc')
    place.write('latin1.txt', Buffer.from('caf\xe9 au lait', 'latin1'))
    place.write('windows.txt', Buffer.from('\ufeffIt is so.\r\n'.repeat(50), 'utf16le'))
    place.write('bare.txt', Buffer.from('It is so.\r\n'.repeat(50), 'utf16le').swap16())
    place.write('text.gz', gzipSync('It is so. '.repeat(50)))
    place.write('other.txt', 'It is another text. '.repeat(50))
    mkdirSync(place.path('folder'))
    mkdirSync(place.path('folder.svg'))
    mkdirSync(place.path('occupied'))
    place.write('occupied/metrics.jsonl', 'not ours\n')
    mkdirSync(place.path('damaged'))
    await place.train('--out run')
    place.write('damaged/checkpoint.safetensors', place.read('run/checkpoint.safetensors'))
    place.write('damaged/metrics.jsonl', '{"step":1}\nnonsense\n{"step":2}\n')
    for (const name of ['foreign', 'vacant']) mkdirSync(place.path(name))
    place.write('foreign/config.json', '{"model_type":"mamba"}')
    place.write('foreign/model.safetensors', writeSafetensors([], { format: 'pt' }))
    // As RWKV's own files begin.
    place.write('rwkv.bin', Buffer.from('fmgge\0\0\0'))
  })

  function assertRefused({ code, stderr }: Result, expected: number, message: string | RegExp, words: unknown): void {
    assert.match(stderr, /^fastweights: [^\n]+\n$/, `${words}`)
    const line = stderr.slice('fastweights: '.length, -1)
    if (typeof message === 'string') assert.equal(line, message)
    else assert.match(line, message)
    assert.equal(code, expected, `${words}: ${stderr}`)
  }

  /** Nothing that they do may be seen afterwards. */
  function refuses(what: string, code: number, cases: () => readonly Case[]): void {
    it(what, async () => {
      const left = [...cases()]
      const snapshot = place.snapshot()
      const work = async ({ run }: (typeof servers)[number]): Promise<void> => {
        for (let next = left.pop(); next; next = left.pop()) assertRefused(await run(next[0]), code, next[1], next[0])
      }
      await Promise.all(servers.map(work))
      assert.deepEqual(place.snapshot(), snapshot)
    })
  }

  const train = (rest: string): string => `train --text text.txt --config tiny.json --out new ${rest}`

  refuses('in a command line', 2, () => [
    ['trian', 'unknown command "trian": did you mean train?'],
    [
      '--steps 5',
      'the command must come before --steps: the commands are train, generate, import, export, compare, inspect, verify, reproduce, task, doctor',
    ],
    [train('--lerning-rate 1'), /^unknown option --lerning-rate/],
    [train('-x'), 'unknown option -x'],
    [
      train('--preset labmi'),
      /^--preset: expected one of default, delta, labml, labml-small, softmax, .*, transformers-rwkv, got "labmi"$/,
    ],
    [train('--rule hebb'), /^--rule: expected one of sum, linear-attention, .*, got "hebb"$/],
    [train('--preset __proto__'), /^--preset: expected one of/],
    [
      train('--mixer aft'),
      '--mixer: expected a list of fast-weights, softmax, aft-full, aft-local, aft-simple, aft-conv, recurrent-net, or what --rule and --net take, got "aft"',
    ],
    [train('--mixer softmax --attention softmax'), '--attention: means nothing beside --mixer'],
    [train('--mixer kda --rule delta'), '--rule: --mixer names rules already'],
    [train('--mixer gru --net lstm'), '--net: --mixer names nets already'],
    [train('--mixer aft-local --window -1'), '--window: expected an integer, 0 or more, got "-1"'],
    [train('--steps -5'), '--steps: expected an integer, 1 or more, got "-5"'],
    [train('--minutes 0'), '--minutes: expected a number above 0, up to 525600, got "0"'],
    [train('--minutes -3'), '--minutes: expected a number above 0, up to 525600, got "-3"'],
    [train('--minutes NaN'), '--minutes: expected a number above 0, up to 525600, got "NaN"'],
    [train('--minutes 1e9'), '--minutes: expected a number above 0, up to 525600, got "1e9"'],
    [train('--minutes'), '--minutes: a number above 0, up to 525600 is missing'],
    [train('--eval-limit -1'), '--eval-limit: expected an integer, 0 or more, got "-1"'],
    [train('--steps 0'), '--steps: expected an integer, 1 or more, got "0"'],
    [train('--d-model NaN'), '--d-model: expected an integer, 1 or more, got "NaN"'],
    [train('--batch 2.5'), '--batch: expected an integer, 1 or more, got "2.5"'],
    [train('--lr Infinity'), '--lr: expected a number above 0, got "Infinity"'],
    [train('--lr 1e999'), '--lr: expected a number above 0, got "1e999"'],
    [train('--dropout 1'), '--dropout: expected a number from 0 to below 1, got "1"'],
    [train('--threads 0'), '--threads: expected an integer from 1 to 64, got "0"'],
    [train('--seed 4294967296'), '--seed: expected an integer from 0 to 4294967295, got "4294967296"'],
    [train('--prompt'), '--prompt: a text is missing'],
    [[...train('--prompt').split(' '), ''], '--prompt: expected a text, got ""'],
    ['train --no-help', 'unknown option --no-help (see train --help)'],
    ['help trian', 'unknown command "trian": did you mean train?'],
    ['train text.txt', 'unexpected argument "text.txt"'],
    ['generate --temperature -1', '--temperature: expected a number, 0 or more, got "-1"'],
    ['generate --top-k 1.5', '--top-k: expected an integer, 0 or more, got "1.5"'],
    ['doctor --steps 1', /^unknown option --steps/],
    [train('--device gpu'), '--device: expected one of auto, wasm, webgpu, reference, got "gpu"'],
    [train('--device webgpu --threads 2'), '--threads: means nothing on the webgpu device; it belongs to wasm'],
    [train('--device reference --no-relaxed'), '--relaxed: means nothing on the reference device; it belongs to wasm'],
    ['generate --run run --device webgpu --relaxed', '--relaxed: means nothing on the webgpu device; it belongs to wasm'],
    [train('--profile text.txt'), '--profile: expected FILE.svg, got "text.txt"'],
    ['generate --run run --profile run/checkpoint.safetensors', '--profile: expected FILE.svg, got "run/checkpoint.safetensors"'],
    ['generate --run run --profile=', '--profile: expected FILE.svg, got ""'],
    ['doctor --device webgpu --threads 1', '--threads: means nothing on the webgpu device; it belongs to wasm'],
    [['train', 'two\nlines\u001b[31m'], /^unexpected argument/],
  ])

  refuses('in a config file', 2, () => {
    const config = (name: string, content: string | Uint8Array): string => {
      place.write(`${name}.json`, content)
      return `train --text text.txt --out new --config ${name}.json`
    }
    return [
      [config('broken', '{"steps": 5,'), /^--config: broken\.json isn't valid JSON: /],
      [config('array', '[5]'), "--config: array.json isn't a JSON object of options"],
      [config('key', '{"step": 5}'), 'key.json: unknown option "step": did you mean "steps"?'],
      [config('prototype', '{"__proto__": {"steps": 5}}'), 'prototype.json: unknown option "__proto__"'],
      [config('type', '{"steps": "5"}'), 'type.json: "steps": expected an integer, 1 or more, got "5"'],
      [config('null', '{"steps": null}'), 'null.json: "steps": expected an integer, 1 or more, got null'],
      [config('huge', '{"steps": 1e400}'), 'huge.json: "steps": expected an integer, 1 or more, got Infinity'],
      [config('low', '{"lr": -1e400}'), 'low.json: "lr": expected a number above 0, got -Infinity'],
      [config('nested', '{"lr": [1e400]}'), 'nested.json: "lr": expected a number above 0, got ["Infinity"]'],
      [config('fraction', '{"heads": 1.5}'), 'fraction.json: "heads": expected an integer, 1 or more, got 1.5'],
      [
        config('wide', Buffer.from('\ufeff{"steps": 5}', 'utf16le')),
        /^--config: wide\.json is in UTF-16 \(little-endian\), .* iconv -f UTF-16LE /,
      ],
      [
        config('bare', Buffer.from('{"steps": 5}', 'utf16le').swap16()),
        /^--config: bare\.json is in UTF-16 \(big-endian\), .* iconv -f UTF-16BE /,
      ],
      [
        config('latin', Buffer.from('{"prompt": "caf\xe9"}', 'latin1')),
        /^--config: latin\.json isn't valid UTF-8: byte 0xe9 at offset 15; /,
      ],
      [config('page', '<html>'), /^--config: page\.json isn't valid JSON: /],
      [config('escape', '{"steps": \u001b[31m5}'), /^--config: escape\.json isn't valid JSON: [^\p{Cc}]*\\u001b[^\p{Cc}]*$/u],
      ['train --config none.json', "--config: can't read none.json: no such file or folder"],
      ['train --config folder', "--config: can't read folder: it is a folder"],
    ]
  })

  refuses('in sizes that do not go together', 1, () => [
    [train('--heads 3'), "3 heads don't divide --d-model 16"],
    [
      train('--rule linear-attention'),
      /^the rule linear-attention divides by z \. q, which silu can make zero or negative; take a map that can't, such as --feature-map elu1 with --feature-norm none$/,
    ],
    [train('--rule hgrn --feature-map elu1'), /^--feature-map elu1 means nothing here: it belongs to rules with queries$/],
    [train('--feature-norm sum'), 'the feature norm sum divides by a sum that silu can make zero or negative; use l2 or none'],
    [train('--rule delta --gate logsigmoid'), '--gate logsigmoid means nothing here: it belongs to rules with a gate'],
    [train('--nu 2'), '--nu 2 means nothing here: it belongs to the feature map dpfp'],
    [train('--preset gla --beta-range 2'), /^--beta-range 2 means nothing here: it belongs to the rules delta, /],
    [train('--preset performer --positions rotary'), /^the rule linear-attention divides by z \. q, which rotary positions /],
    [train('--preset softmax --rule sum'), '--rule sum means nothing here: it belongs to fast-weights attention'],
    [train('--mixer delta --gate exp'), '--gate exp means nothing here: it belongs to rules with a gate'],
    [train('--mixer lstm --net-depth 2'), '--net-depth 2 means nothing here: it belongs to the net delta-mlp'],
    [train('--mixer aft-local --rule sum'), '--rule sum means nothing here: it belongs to fast-weights attention'],
    [train('--mixer softmax,aft-simple --layers 2 --window 3'), '--window 3 means nothing here: it belongs to aft-local, aft-conv'],
    [train('--preset aft-local --conv 3'), '--conv 3 means nothing here: it belongs to fast-weights attention'],
    [train('--mixer softmax,aft-simple'), /^mixer: a list of 2 for 1 layers: give from one to as many as there are layers$/],
    [train('--mixer aft-conv --heads 3'), "3 heads don't divide --d-model 16"],
    [train('--feature-map dpfp --nu 1000000000'), /^--nu must be an integer from 1 to 2 K - 1 = 15 for heads of width K, not 1000000000$/],
    [train('--feature-map relu --feature-norm sum --feature-eps 0'), /^--feature-eps must be above 0: /],
    [train('--preset performer --feature-map relu --normaliser-eps 0'), /^--normaliser-eps must be above 0: /],
    [train('--rule sum --steps-per-token 2'), '--steps-per-token 2 means nothing here: it belongs to the rule delta-product'],
    [train('--hedgehog-shared'), '--hedgehog-shared means nothing here: it belongs to the feature map hedgehog'],
    [train('--preset softmax --value-map silu'), '--value-map silu means nothing here: it belongs to fast-weights attention'],
    [train('--seq-len 5000'), /^the text is too short: of its \d+ characters, /],
    [train('--preset softmax --seq-len 2000 --batch 200').replace('new', 'folder'), /^wasm: out of memory: asked for 6 GB, /],
  ])

  refuses('in sizes that can never fit into memory, at once', 2, () => [
    [train('--batch 100000000'), /and --seq-len 16 need at least \d+ GB of memory, the wasm device has at most 4\.3 GB$/],
    [train('--batch 9007199254740991'), /the wasm device has at most 4\.3 GB$/],
    [train('--layers 100000000'), /the wasm device has at most 4\.3 GB$/],
    [train('--preset performer --favor-features 99999999'), /, --favor-features 99999999, .* the wasm device has at most 4\.3 GB$/],
    [train('--d-model 100000000'), /the wasm device has at most 4\.3 GB$/],
    [train('--d-ff 9007199254740991 --device reference'), /need at least \d+ GB of memory, the reference device has at most/],
  ])

  refuses('in a file to write', 1, () => [
    [train('--profile none/profile.svg'), "can't write none/profile.svg: no such file or folder"],
    [train('--profile folder.svg'), "can't write folder.svg: it is a folder"],
    ['generate --run run --profile text.txt/profile.svg', /^can't write text\.txt\/profile\.svg: /],
    ['verify delta --json text.txt/out.json', /^can't write text\.txt\/out\.json: /],
  ])

  refuses('in a text', 1, () => [
    [train('').replace('text.txt', 'none.txt'), "can't read none.txt: no such file or folder"],
    [train('').replace('text.txt', 'folder'), "can't read folder: it is a folder"],
    [train('').replace('text.txt', 'empty.txt'), 'empty.txt is empty'],
    [train('').replace('text.txt', 'short.txt'), /^the text is too short: of its 3 characters, 2 would train/],
    [
      train('').replace('text.txt', 'latin1.txt'),
      /^latin1\.txt isn't valid UTF-8: byte 0xe9 at offset 3; if it is in Latin-1 or Windows-1252, convert it with iconv -f WINDOWS-1252 -t UTF-8 latin1\.txt > latin1-utf8\.txt or in PowerShell 7 with Get-Content latin1\.txt -Encoding 1252 \| Set-Content latin1-utf8\.txt -Encoding utf8$/,
    ],
    [
      train('').replace('text.txt', 'windows.txt'),
      /^windows\.txt is in UTF-16 \(little-endian\), not in UTF-8: convert it with iconv -f UTF-16LE /,
    ],
    [train('').replace('text.txt', 'bare.txt'), /^bare\.txt is in UTF-16 \(big-endian\), not in UTF-8: convert it with iconv -f UTF-16BE /],
    [train('').replace('text.txt', 'text.gz'), 'text.gz is compressed with gzip, not plain text: unpack it first (gunzip)'],
    [
      train('').replace('text.txt', 'run/checkpoint.safetensors'),
      'run/checkpoint.safetensors is a safetensors file, not plain text: give a text file',
    ],
    [[...train('--prompt').trim().split(' '), 'It is ü'], /^character "ü" \(U\+00FC\) at 6 isn't in the vocabulary of \d+ symbols$/],
    [['generate', '--run', 'run', '--prompt', 'Why Q'], /^character "Q" \(U\+0051\) at 4 isn't in the vocabulary of \d+ symbols$/],
  ])

  refuses('in an output folder', 1, () => [
    [train('').replace('new', 'run'), 'run holds a run already: go on with --resume run, or name another --out'],
    [train('').replace('new', 'occupied'), 'occupied holds a file named metrics.jsonl already: name another --out'],
    [train('').replace('new', 'text.txt'), /^can't write to the output folder text\.txt: .*text\.txt is a file$/],
    [train('').replace('new', 'text.txt/below'), /^can't write to the output folder text\.txt\/below: .*text\.txt is a file$/],
    ...(process.platform === 'linux'
      ? ([[train('').replace('new', '/proc/new'), /^can't write to the output folder \/proc\/new: /]] as const)
      : []),
  ])

  refuses('of a resumed run, by what it fixed', 2, () => [
    ['train --resume run --heads 4', /^--heads: a resumed run keeps its settings \(only text, steps, /],
    ['train --resume run --out new', /^--out: a resumed run keeps its settings/],
    ['train --resume run --seed 1', /^--seed: a resumed run keeps its settings/],
    ['train --resume run --config tiny.json', /: a resumed run keeps its settings/],
    ['train --resume run --steps 4', '--steps: the run has taken 5 steps already'],
    ['train --resume run/checkpoint.safetensors', '--resume: run/checkpoint.safetensors is a file; give the folder of the run'],
  ])

  refuses('of a resumed run, by what it finds', 1, () => [
    ['train --resume run --text other.txt', "other.txt isn't the text that the run was trained on (text.txt): give that one with --text"],
    ['train --resume none', "can't read the checkpoint none: no such file or folder"],
    ['train --resume folder', "can't read the checkpoint folder/checkpoint.safetensors: no such file or folder"],
    ['train --resume damaged', "damaged/metrics.jsonl: line 2 isn't a JSON object"],
    ['generate --run none', "can't read the checkpoint none: no such file or folder"],
    ['generate', 'there is no run under runs/: train one with fastweights train, or name the folder of one'],
  ])

  const hostile: [name: string, change: (file: Safetensors) => void, message: RegExp][] = [
    ['another version', ({ metadata }) => delete metadata.fastweights, /its metadata says format "pt" and nothing of fastweights/],
    ['no configuration', ({ metadata }) => delete metadata.config, /the configuration in the metadata can't be used/],
    ['a configuration of another kind', ({ metadata }) => (metadata.config = '[1]'), /can't be used: it isn't an object$/],
    ['more layers than tensors', configure({ layers: 1e9 }), /it has 1000000000 layers, the file \d+ tensors$/],
    ['a huge width', configure({ dModel: 1e6 }), /src_embed\.weight has shape \[\d+,16\], its configuration says \[\d+,1000000\]$/],
    ['a huge convolution', configure({ conv: 1e9 }), /conv has shape \[16,\d\], its configuration says \[16,1000000000\]$/],
    ['a mixer that is none', configure({ mixer: 'elman' }), /unknown mixer 'elman'/],
    [
      'settings of another mixer',
      configure({ mixer: { kind: 'aft-full' } }),
      /can't be used: featureMap = silu means nothing here: it belongs to fast-weights attention$/,
    ],
    ['a name of the prototype', configure({ featureMap: 'constructor' }), /unknown feature map 'constructor'/],
    ['a number that is a text', configure({ dModel: '16' }), /dModel isn't a number$/],
    [
      'a number out of range',
      configure({ dropout: 7 }),
      /Dropout: the probability must be in \[0, 1\), not 7|"dropout": expected a number/,
    ],
    ['no seed', ({ metadata }) => delete metadata.seed, /seed in the metadata isn't a whole number: nothing$/],
    ['steps below 0', ({ metadata }) => (metadata.steps = '-1'), /steps in the metadata isn't a whole number: "-1"$/],
    [
      'what a task was learnt by',
      ({ metadata }) => Object.assign(metadata, { 'fastweights.model': 'autoencoder', task: '{}' }),
      /can't be used: it is of a model that has learnt a task, not a text$/,
    ],
    ['no record of the run', ({ metadata }) => delete metadata.run, /its metadata says nothing about a run$/],
    ['a record that is no JSON', ({ metadata }) => (metadata.run = '{'), /what its metadata says about the run isn't JSON$/],
    ['a record of another kind', ({ metadata }) => (metadata.run = 'null'), /what its metadata says about the run is incomplete$/],
    ['symbols that are no texts', record({ symbols: [1, 2] }), /what its metadata says about the run is incomplete$/],
    ['too few symbols', record({ symbols: ['a', 'b'] }), /it has 2 symbols, its model \d+$/],
    ['impossible settings', ({ metadata }) => training(metadata, { batch: -1 }), /"batch": expected an integer, 1 or more, got -1$/],
    ['a missing setting', ({ metadata }) => training(metadata, { clip: undefined }), /its settings lack clip$/],
    ['a missing tensor', ({ tensors }) => tensors.delete('generator.bias'), /it lacks generator\.bias$/],
    ['a tensor too many', ({ tensors }) => tensors.set('a\n\u001b[31m', entry('F32', [1])), /"a\\n\\u001b\[31m" is no part of its model$/],
    ['integers for a parameter', replace('I64'), /generator\.bias is I64, not floating-point numbers$/],
    ['bytes for a parameter', replace('U8'), /generator\.bias is U8, not floating-point numbers$/],
    [
      'another shape',
      ({ tensors }) => (tensors.get('generator.bias')!.shape = [1, tensors.get('generator.bias')!.data.length]),
      /has shape \[1,\d+\], its configuration says \[\d+\]$/,
    ],
  ]

  refuses('in folders and files of another kind: what they are, and what takes them', 1, () => [
    [
      'import run --out new',
      'run is a run of fastweights already: go on with fastweights generate run, or write its files with fastweights export run',
    ],
    ['import run/checkpoint.safetensors --out new', /^run\/checkpoint\.safetensors is a run of fastweights already: go on with/],
    ['import vacant --out new', 'vacant: there is no model.safetensors'],
    ['import short.txt --out new', "short.txt is no file of weights: name a safetensors file, one of RWKV's own, or the folder of a model"],
    ...['generate', 'inspect', 'export', 'export --format fla', 'export --format safetensors', 'train --resume'].map(
      (command): Case => [
        `${command} foreign`,
        "can't read the checkpoint foreign/checkpoint.safetensors: no such file or folder; it seems to be another package's model: make a run of it with fastweights import foreign",
      ],
    ),
    ...['generate', 'inspect', 'export', 'export --format fla'].flatMap((command): Case[] => [
      [
        `${command} foreign/model.safetensors`,
        /^foreign\/model\.safetensors can't be used: .* with fastweights import foreign\/model\.safetensors$/,
      ],
      [`${command} rwkv.bin`, /^rwkv\.bin can't be used: .*; it seems to be another package's model: .* fastweights import rwkv\.bin$/],
      [`${command} vacant`, "can't read the checkpoint vacant/checkpoint.safetensors: no such file or folder"],
      [`${command} none`, "can't read the checkpoint none: no such file or folder"],
    ]),
    ['export --format safetensors none', "can't read the checkpoint none: no such file or folder"],
    ['export --format safetensors short.txt/x', "can't read the checkpoint short.txt/x: a part of the path is a file, not a folder"],
    ['train --resume short.txt/x', "can't read the checkpoint short.txt/x: a part of the path is a file, not a folder"],
    ['task mqar --check run', "can't read run: it is a folder"],
    ['verify none.mjs', 'none.mjs: no such file'],
  ])

  refuses('where a comparison has nothing to compare, which is no shortfall', 2, () => [
    ['compare run', /^run is a run of fastweights already: /],
    ['compare vacant', 'vacant: there is no model.safetensors'],
    ['compare none', "can't read none: no such file or folder"],
  ])

  if (!isWindows)
    refuses('in devices without an end, which would be read for ever', 1, () => [
      [train('').replace('text.txt', '/dev/zero'), "can't read /dev/zero: it is a device, which may have no end"],
      ['task mqar --check /dev/zero', "can't read /dev/zero: it is a device, which may have no end"],
    ])

  refuses('in a checkpoint', 1, () => {
    const good = place.read('run/checkpoint.safetensors')
    const files: [name: string, bytes: Uint8Array, message: RegExp][] = [
      ['empty', new Uint8Array(0), /a file of 0 bytes is too short/],
      [
        'text',
        Buffer.from('It is so. '.repeat(50)),
        /safetensors: the file is plain text that begins 'It is so\. .*…', not a safetensors file: /,
      ],
      [
        'pointer',
        Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'),
        /: fetch the file itself with git lfs pull$/,
      ],
      [
        'pytorch',
        Buffer.from(`PK\x03\x04${'\0'.repeat(22)}\x10\0\0\0archive/data.pkl`),
        /: the file is a PyTorch file, .* save_file\(torch\.load\(/,
      ],
      ['cut', good.subarray(0, good.length - 100), /safetensors: /],
      ['header cut', good.subarray(0, 300), /safetensors: a header of \d+ bytes doesn't fit in a file of 300 bytes \(truncated\?\)$/],
      ['longer', Buffer.concat([good, Buffer.alloc(8)]), /safetensors: /],
      [
        'overlap',
        raw('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', 12),
        /safetensors: /,
      ],
      [
        'product',
        raw('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', 0),
        /shape \[4294967296, 4294967296\] isn't of sizes/,
      ],
      ...hostile.map(([name, change, message]) => {
        const file = readSafetensors(good)
        change(file)
        return [name, writeSafetensors(file.tensors, { ...file.metadata }), message] as [string, Uint8Array, RegExp]
      }),
    ]
    return files.map(([name, bytes, message]) => {
      const file = `${name.replaceAll(' ', '-')}.safetensors`
      place.write(file, bytes)
      return [`generate --run ${file}`, message]
    })
  })

  it('a checkpoint without moments generates, but is not resumed', async () => {
    const { tensors, metadata } = readSafetensors(place.read('run/checkpoint.safetensors'))
    mkdirSync(place.path('bare'))
    place.write(
      'bare/checkpoint.safetensors',
      writeSafetensors(
        [...tensors].filter(([name]) => !name.startsWith('optimizer.')),
        { ...metadata },
      ),
    )
    const snapshot = place.snapshot()
    await place.succeed('generate --run bare --length 5')
    assertRefused(await place.run('train --resume bare'), 1, /it holds no optimiser's state, so training can't go on from it$/, 'bare')
    assert.deepEqual(place.snapshot(), snapshot)
  })

  it('a checkpoint without one moment is not resumed', async () => {
    const { tensors, metadata } = readSafetensors(place.read('run/checkpoint.safetensors'))
    tensors.delete('optimizer.m.generator.bias')
    mkdirSync(place.path('less'))
    place.write('less/checkpoint.safetensors', writeSafetensors(tensors, { ...metadata }))
    const snapshot = place.snapshot()
    assertRefused(await place.run('train --resume less'), 1, /the saved state lacks m\.generator\.bias$/, 'less')
    assert.deepEqual(place.snapshot(), snapshot)
  })

  it('a disk that takes no more leaves the old checkpoint whole', async function () {
    if (isWindows) return this.skip()
    // The limit is in blocks of 512 or 1024 bytes: metrics fit, a checkpoint doesn't.
    const shell = 'ulimit -f 8; exec "$0" "$@"'
    const old = place.read('run/checkpoint.safetensors')
    assertRefused(
      await place.run('train --resume run --steps 8', { shell }),
      1,
      "can't write run/checkpoint.safetensors: the file is larger than the system allows",
      'resume',
    )
    assert.deepEqual(place.read('run/checkpoint.safetensors'), old)
    assertRefused(
      await place.run(train('').replace('new', 'full'), { shell }),
      1,
      "can't write full/checkpoint.safetensors: the file is larger than the system allows",
      'new',
    )
    assert.ok(!existsSync(place.path('full')))
    await place.succeed('train --resume run --steps 8')
  })

  it('standard output that takes nothing ends in one line', async function () {
    if (process.platform !== 'linux') return this.skip()
    for (const words of ['generate --run run', 'doctor', '--help'])
      assertRefused(
        await place.run(words, { shell: 'exec "$0" "$@" >/dev/full' }),
        1,
        "can't write to standard output: no space left on the device",
        words,
      )
  })

  for (const [name, settings, step] of [
    ['with the loss', '', 2],
    ['where every step is saved', '--optimizer adamw --save-every 1', 1],
    ['on the reference device', '--device reference --lr 1e300', 2],
  ] as const)
    it(`a run that diverges stops, says when, and keeps a state that generates: ${name}`, async () => {
      const out = `diverged-${step}-${settings.length}`
      const lr = settings.includes('--lr') ? '' : '--lr 1e30'
      const [training, generating] = servers
      const result = await training.run(`${train('').replace('new', out)} --clip 0 ${lr} ${settings}`)
      assertRefused(
        result,
        1,
        new RegExp(
          `^training diverged at step ${step}: the .* is (NaN|Infinity).*; the last good state is in ${out}/checkpoint\\.safetensors$`,
        ),
        out,
      )
      assert.equal((await generating.succeed(`generate --run ${out} --length 20`)).length, 'It is'.length + 21)
    })

  // With Adam at this rate the gate is NaN at the second step.
  const far = '--optimizer adam --schedule constant --warmup 0 --clip 0 --lr'
  for (const [name, settings] of [
    ['gated-deltanet', `--preset gated-deltanet ${far} 1000`],
    ['mamba2-like', `--preset mamba2-like ${far} 1000`],
    ['kda', `--preset kda ${far} 1000`],
    ['gla', `--preset gla ${far} 1e30`],
    ['mesa', `--preset delta --rule mesa ${far} 1000`],
    ['rwkv7', `--rule rwkv7 ${far} 1000`],
    ['peng', `--rule peng ${far} 1e30`],
    ['delta-product', `--rule delta-product ${far} 1e30`],
    ['on the reference device', `--preset gated-deltanet --device reference ${far} 1000`],
  ])
    it(`a gated rule that diverges says so, too: ${name}`, async () => {
      const out = `gated-${name.replaceAll(' ', '-')}`
      const result = await servers[0].run(`${train('').replace('new', out)} --steps 60 ${settings}`)
      const message = `^training diverged at step [2-9]: the (gate of a layer|loss|validation loss|gradient's norm) is .* \\(try a lower learning rate\\); the last good state is in ${out}/checkpoint\\.safetensors$`
      assertRefused(result, 1, new RegExp(message), name)
    })

  it('a model whose first loss is not finite is not said to have diverged, and leaves nothing', async () => {
    const snapshot = place.snapshot()
    for (const settings of ['--preset labml', '--preset mamba2-like', '--preset softmax --optimizer adam']) {
      const result = await servers[0].run(train(`${settings} --embedding-std 3e38`))
      const message =
        /^the initial validation loss is NaN: nothing has been learnt yet, .* \(look at --embedding-std, the feature map, --feature-norm and --feature-eps\)$/
      assertRefused(result, 1, message, settings)
    }
    assert.deepEqual(place.snapshot(), snapshot)
  })

  it('a checkpoint whose model gives no finite loss is not trained on', async () => {
    const { tensors, metadata } = readSafetensors(place.read('run/checkpoint.safetensors'))
    tensors.get('generator.bias')!.data.fill(Number.NaN as never)
    mkdirSync(place.path('spoilt'))
    place.write('spoilt/checkpoint.safetensors', writeSafetensors(tensors, { ...metadata }))
    const snapshot = place.snapshot()
    const message = "training can't go on from spoilt/checkpoint.safetensors: the loss of its model isn't finite"
    assertRefused(await place.run('train --resume spoilt --steps 20'), 1, message, 'spoilt')
    assertRefused(await place.run('generate --run spoilt'), 1, "generate: the model's output isn't finite", 'generate')
    assert.deepEqual(place.snapshot(), snapshot)
  })
})

type Metadata = Record<string, string>

function configure(fields: object): (file: Safetensors) => void {
  return ({ metadata }) => {
    metadata.config = JSON.stringify({ ...JSON.parse(metadata.config), ...fields })
  }
}

function record(fields: object): (file: Safetensors) => void {
  return ({ metadata }) => {
    metadata.run = JSON.stringify({ ...JSON.parse(metadata.run), ...fields })
  }
}

function training(metadata: Metadata, fields: object): void {
  const run = JSON.parse(metadata.run)
  metadata.run = JSON.stringify({ ...run, training: { ...run.training, ...fields } })
}

function entry(dtype: 'F32' | 'I64' | 'U8', shape: number[]) {
  const size = shape.reduce((a, b) => a * b, 1)
  if (dtype === 'F32') return { dtype, shape, data: new Float32Array(size) }
  return dtype === 'I64' ? { dtype, shape, data: new BigInt64Array(size) } : { dtype, shape, data: new Uint8Array(size) }
}

function replace(dtype: 'I64' | 'U8'): (file: Safetensors) => void {
  return ({ tensors }) => tensors.set('generator.bias', entry(dtype, tensors.get('generator.bias')!.shape))
}

/** A file with this header and so many bytes after it. */
function raw(header: string, bytes: number): Uint8Array {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, Buffer.from(header), Buffer.alloc(bytes)])
}
