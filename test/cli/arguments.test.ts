import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import {
  type Command,
  chooseCommand,
  commandHelp,
  type Option,
  type Program,
  parseArguments,
  programHelp,
  UsageError,
} from '../../cli/arguments.ts'
import { inOptions } from '../../cli/options.ts'

const train = {
  name: 'train',
  summary: 'train a model on a text',
  options: [
    { name: 'text', type: 'string', placeholder: 'FILE', group: 'Data', otherwise: 'Tiny Shakespeare', description: 'the training text' },
    { name: 'preset', type: 'string', choices: ['small', 'labml'], default: 'small', description: 'a set of defaults' },
    { name: 'steps', type: 'integer', min: 1, default: 600, group: 'Training', description: 'how many steps to train' },
    { name: 'learning-rate', type: 'number', above: 0, default: 3e-3, group: 'Training', description: 'the rate at its highest' },
    { name: 'dropout', type: 'number', min: 0, below: 1, default: 0, group: 'Training', description: 'share of activations dropped' },
    { name: 'heads', type: 'integer', min: 1, max: 64, group: 'Training', description: 'heads of a layer' },
    { name: 'color', type: 'boolean', default: true, description: 'print without colours' },
    { name: 'overwrite', type: 'boolean', description: 'replace an earlier run' },
    { name: 'norm', type: 'boolean', otherwise: 'by preset', description: 'normalise heads' },
    { name: 'layers', type: 'list', choices: ['delta', 'sum', 'softmax'], description: 'the sequence layer of each block' },
  ],
  presets: { option: 'preset', values: { small: {}, labml: { heads: 8, steps: 12544, layers: ['sum'] } } },
  examples: [['fastweights train --steps 100', 'A short run:']],
} as const satisfies Command

const program: Program = {
  name: 'fastweights',
  version: '0.1.0',
  summary: 'fast-weight sequence models',
  commands: [train, { name: 'generate', summary: 'continue a prompt with a trained model', options: [] }],
}

const throwsUsage = (action: () => unknown, message: string) => assert.throws(action, { name: 'UsageError', message })
const refuses = (words: string | string[], message: string) =>
  throwsUsage(() => parseArguments(train, typeof words === 'string' ? words.split(' ') : words), message)

describe('arguments', () => {
  it('take flags in either spelling, switches and lists', () => {
    const { values, given, help } = parseArguments(train, [
      '--text',
      'a b.txt',
      '--steps=1e3',
      '--learning-rate',
      '.5',
      '--no-color',
      '--overwrite',
      '--layers',
      'delta,sum',
      '--layers=softmax',
    ])
    assert.deepEqual(values, {
      text: 'a b.txt',
      preset: 'small',
      steps: 1000,
      'learning-rate': 0.5,
      dropout: 0,
      heads: undefined,
      color: false,
      overwrite: true,
      norm: false,
      layers: ['delta', 'sum', 'softmax'],
    })
    assert.deepEqual([...given].sort(), ['color', 'layers', 'learning-rate', 'overwrite', 'steps', 'text'])
    assert.equal(help, false)
    // The types follow the table: these lines would not compile otherwise.
    const typed: { preset: 'small' | 'labml'; steps: number; heads: number | undefined; overwrite: boolean } = values
    assert.equal(typed.steps, 1000)
  })

  it('take an option whose value may be left out', () => {
    const command = {
      name: 'run',
      summary: '',
      options: [
        { name: 'profile', type: 'string', bare: 'a.svg', placeholder: 'FILE', description: 'draw' },
        { name: 'fast', type: 'boolean', description: '' },
      ],
    } as const satisfies Command
    const profileOf = (words: string) => parseArguments(command, words.split(' ')).values.profile
    assert.deepEqual(['--fast', '--profile', '--profile --fast', '--profile b.svg', '--profile=c.svg --fast'].map(profileOf), [
      undefined,
      'a.svg',
      'a.svg',
      'b.svg',
      'c.svg',
    ])
    assert.match(commandHelp('it', command), /^ {2}--profile \[FILE\] +draw$/m)
  })

  it('have defaults, which a preset replaces and a flag replaces again', () => {
    const { values, given } = parseArguments(train, [])
    assert.deepEqual([values.steps, values.heads, values.color, values.overwrite, values.layers], [600, undefined, true, false, []])
    assert.equal(given.size, 0)
    const labml = parseArguments(train, ['--preset', 'labml', '--steps', '5']).values
    assert.deepEqual([labml.preset, labml.steps, labml.heads, labml.layers], ['labml', 5, 8, ['sum']])
  })

  it('name an unknown option and the nearest known one', () => {
    refuses('--lerning-rate 1', 'unknown option --lerning-rate: did you mean --learning-rate?')
    refuses('--learning_rate 1', 'unknown option --learning_rate: did you mean --learning-rate?')
    refuses('--learn 1', 'unknown option --learn: did you mean --learning-rate?')
    refuses('--setps 1', 'unknown option --setps: did you mean --steps?')
    refuses('--Steps=1', 'unknown option --Steps: did you mean --steps?')
    refuses('--no-colour', 'unknown option --no-colour: did you mean --no-color?')
    refuses('--no-steps', 'unknown option --no-steps (see train --help)')
    refuses('--frobnicate', 'unknown option --frobnicate (see train --help)')
    refuses('--__proto__ 1', 'unknown option --__proto__ (see train --help)')
    refuses('-s 1', 'unknown option -s')
    refuses('steps', 'unexpected argument "steps"')
  })

  it('name the option and what it takes', () => {
    refuses('--steps NaN', '--steps: expected an integer, 1 or more, got "NaN"')
    refuses('--steps -3', '--steps: expected an integer, 1 or more, got "-3"')
    refuses('--steps 1.5', '--steps: expected an integer, 1 or more, got "1.5"')
    refuses('--steps 0x10', '--steps: expected an integer, 1 or more, got "0x10"')
    refuses('--steps Infinity', '--steps: expected an integer, 1 or more, got "Infinity"')
    refuses('--steps 1e300', '--steps: expected an integer, 1 or more, got "1e300"')
    refuses('--steps=', '--steps: expected an integer, 1 or more, got ""')
    refuses('--heads 65', '--heads: expected an integer from 1 to 64, got "65"')
    refuses('--learning-rate 0', '--learning-rate: expected a number above 0, got "0"')
    refuses('--learning-rate 1e999', '--learning-rate: expected a number above 0, got "1e999"')
    refuses('--dropout 1', '--dropout: expected a number from 0 to below 1, got "1"')
    refuses('--preset large', '--preset: expected one of small, labml, got "large"')
    refuses('--preset constructor', '--preset: expected one of small, labml, got "constructor"')
    refuses('--layers sum,,delta', '--layers: expected a list of delta, sum, softmax, got "sum,,delta"')
    refuses('--text=', '--text: expected a file, got ""')
    refuses('--text', '--text: a file is missing')
    refuses(['--text', '--\n'], '--text: a file is missing (if "--\\n" is meant, write --text=--\\n)')
    refuses('--text --steps', '--text: a file is missing (if "--steps" is meant, write --text=--steps)')
    refuses('--overwrite=yes', '--overwrite: a switch takes no value, got "yes"')
    refuses('--steps 1 --steps 2', '--steps is given twice')
  })

  it('never throw anything but a UsageError of one line', () => {
    const word = fc.oneof(
      fc.constantFrom('--text', '--steps', '--no-color', '--no-', '--', '-', '--=', '-h', '--config', '--layers', '1', '-1', 'NaN'),
      fc.string({ unit: 'binary' }),
      fc.string({ unit: 'binary' }).map((text) => `--${text}`),
    )
    fc.assert(
      fc.property(fc.array(word, { maxLength: 5 }), (words) => {
        try {
          parseArguments(train, words)
        } catch (error) {
          assert(error instanceof UsageError, String(error))
          assert(!error.message.includes('\n'), error.message)
        }
      }),
      { numRuns: 1000 },
    )
  })

  describe('from a config file', () => {
    let folder: string
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'fastweights-config-'))
    })
    afterEach(() => rmSync(folder, { recursive: true, force: true }))
    const config = (content: string) => {
      const file = join(folder, 'run.json')
      writeFileSync(file, content)
      return file
    }
    const refusesConfig = (content: string, message: (file: string) => string) => {
      const file = config(content)
      throwsUsage(() => parseArguments(train, ['--config', file]), message(file))
    }

    it('count like flags, which win over them', () => {
      const file = config('\ufeff{ "preset": "labml", "steps": 7, "heads": 4, "overwrite": true, "layers": ["delta"] }')
      const { values, given } = parseArguments(train, ['--heads', '2', '--config', file, '--no-overwrite'])
      assert.deepEqual([values.preset, values.steps, values.heads, values.overwrite, values.layers], ['labml', 7, 2, false, ['delta']])
      assert.deepEqual([...given].sort(), ['heads', 'layers', 'overwrite', 'preset', 'steps'])
    })

    it('name the key and what it takes', () => {
      refusesConfig('{"step": 1}', (file) => `${file}: unknown option "step": did you mean "steps"?`)
      refusesConfig('{"learningRate": 1}', (file) => `${file}: unknown option "learningRate": did you mean "learning-rate"?`)
      refusesConfig('{"__proto__": 1}', (file) => `${file}: unknown option "__proto__"`)
      refusesConfig('{"config": "x"}', (file) => `${file}: unknown option "config"`)
      refusesConfig('{"steps": "7"}', (file) => `${file}: "steps": expected an integer, 1 or more, got "7"`)
      refusesConfig('{"steps": null}', (file) => `${file}: "steps": expected an integer, 1 or more, got null`)
      refusesConfig('{"steps": 0}', (file) => `${file}: "steps": expected an integer, 1 or more, got 0`)
      refusesConfig('{"color": "yes"}', (file) => `${file}: "color": expected true or false, got "yes"`)
      refusesConfig('{"layers": "sum"}', (file) => `${file}: "layers": expected a list of delta, sum, softmax, got "sum"`)
      refusesConfig('{"text": 3}', (file) => `${file}: "text": expected a file, got 3`)
    })

    it('say what is wrong with the file', () => {
      refusesConfig('[1]', (file) => `--config: ${file} isn't a JSON object of options`)
      refusesConfig('null', (file) => `--config: ${file} isn't a JSON object of options`)
      const file = config('{ "steps": 7,\n }')
      assert.throws(
        () => parseArguments(train, ['--config', file]),
        (error) => {
          assert(error instanceof UsageError)
          assert(error.message.startsWith(`--config: ${file} isn't valid JSON: `) && !error.message.includes('\n'))
          return true
        },
      )
      const missing = join(folder, 'none.json')
      throwsUsage(() => parseArguments(train, ['--config', missing]), `--config: can't read ${missing}: no such file or folder`)
      throwsUsage(() => parseArguments(train, ['--config', folder]), `--config: can't read ${folder}: it is a folder`)
    })
  })

  it('take the last of several values where an option allows that', () => {
    const options = [{ name: 'minutes', type: 'number', above: 0, lastCounts: true, description: '' }] as const
    const command = { name: 'start', summary: '', options } as const satisfies Command
    assert.equal(parseArguments(command, ['--minutes', '3', '--minutes=10']).values.minutes, 10)
    throwsUsage(() => parseArguments(command, ['--minutes', '0', '--minutes', '3']), '--minutes: expected a number above 0, got "0"')
    refuses('--steps 1 --steps 2', '--steps is given twice')
  })

  it('are named as options in what the library says of them', () => {
    const options = ['d-model', 'lr', 'matrix-lr', 'gate', 'nu', 'feature-eps', 'favor-features', 'beta2', 'heads'].map(
      (name): Option => ({ name, type: 'number', description: '' }),
    )
    const all = [...options, { name: 'head-norm', type: 'boolean', description: '' } as const]
    for (const [message, expected] of [
      ["3 heads don't divide dModel = 16", "3 heads don't divide --d-model 16"],
      ['favorFeatures must be 0 or more, not -1', '--favor-features must be 0 or more, not -1'],
      [
        'gate = logsigmoid means nothing here: it belongs to rules with a gate',
        '--gate logsigmoid means nothing here: it belongs to rules with a gate',
      ],
      ['nu must be an integer from 1 to 15, not 1e9', '--nu must be an integer from 1 to 15, not 1e9'],
      ['headNorm = true means nothing here', '--head-norm means nothing here'],
      ['headNorm = false means nothing here', '--no-head-norm means nothing here'],
      ["Muon: matrixLr can't be -1", "Muon: --matrix-lr can't be -1"],
      ['look at featureEps, dModel and favorFeatures', 'look at --feature-eps, --d-model and --favor-features'],
      // Words of the language, and names that only begin or end like a setting.
      ['fastWeights: the gate must be a tensor', 'fastWeights: the gate must be a tensor'],
      ['heads are many', 'heads are many'],
      ["'dModel' and x.dModel, dModels and thedModel", "'dModel' and x.dModel, dModels and thedModel"],
    ])
      assert.equal(inOptions(message, all), expected)
    // Of a command without an option of several words.
    assert.equal(inOptions('steps = 0 is too few', [{ name: 'steps', type: 'integer', description: '' }]), '--steps 0 is too few')
  })

  it('choose a command, or the help or the version', () => {
    assert.deepEqual(chooseCommand(program, ['train', '--steps', '1']), { command: train, rest: ['--steps', '1'] })
    assert.deepEqual(chooseCommand(program, ['--version']), { print: 'fastweights 0.1.0' })
    for (const words of [[], ['--help'], ['-h'], ['help']]) assert.deepEqual(chooseCommand(program, words), { print: programHelp(program) })
    throwsUsage(() => chooseCommand(program, ['trian']), 'unknown command "trian": did you mean train?')
    throwsUsage(() => chooseCommand(program, ['x']), 'unknown command "x": the commands are train, generate')
    throwsUsage(() => chooseCommand(program, ['--steps', '1']), 'the command must come before --steps: the commands are train, generate')
  })

  it('show their help within the width', () => {
    for (const words of [['-h'], ['--steps', '1', '--help']]) assert.equal(parseArguments(train, words).help, true)
    for (const width of [80, 100]) {
      for (const text of [commandHelp('fastweights', train, width), programHelp(program, width)]) {
        for (const line of text.split('\n')) assert(line.length <= width && line === line.trimEnd(), line)
      }
    }
    assert.equal(
      commandHelp('fastweights', train, 80),
      `\
fastweights train: train a model on a text

Usage: fastweights train [options]

Data
  --text FILE        the training text (default: Tiny Shakespeare)

Options
  --preset NAME      a set of defaults (small, labml; default: small)
  --no-color         print without colours
  --overwrite        replace an earlier run
  --[no-]norm        normalise heads (default: by preset)
  --layers A,B,...   the sequence layer of each block (delta, sum, softmax)

Training
  --steps N          how many steps to train (default: 600)
  --learning-rate X  the rate at its highest (default: 0.003)
  --dropout X        share of activations dropped (default: 0)
  --heads N          heads of a layer

General
  --config FILE      a JSON object of options; flags win over it
  -h, --help         show this help

Presets (--preset); any option still wins over them
  small  the defaults above
  labml  heads 8, steps 12544, layers sum

Examples
  A short run:
    fastweights train --steps 100`,
    )
  })

  it('take words without a flag where a command has operands, in any place, and nowhere else', () => {
    const command = { ...train, operands: { placeholder: 'WORD', description: 'what it is about' } } as const satisfies Command
    const { operands, values } = parseArguments(command, ['a', '--steps', '5', 'b c', '--overwrite', 'd'])
    assert.deepEqual(operands, ['a', 'b c', 'd'])
    assert.equal(values.steps, 5)
    assert.deepEqual(parseArguments(command, []).operands, [])
    throwsUsage(() => parseArguments(command, ['-x']), 'unknown option -x')
    throwsUsage(() => parseArguments(command, ['']), 'unexpected argument ""')
    refuses('a', 'unexpected argument "a"')
    assert.match(commandHelp('fastweights', command, 80), /^Usage: fastweights train \[WORD \.\.\.\] \[options\]\n\nwhat it is about\n/m)
  })
})
