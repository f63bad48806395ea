/** The commands' tables of options, and the way from their values to recipes and devices. */
import v8 from 'node:v8'
import {
  type Device,
  type DeviceChoice,
  deviceChoices,
  enableWideSimd,
  openDevice,
  type Precision,
  precisions,
  relaxedAvailable,
  setDevice,
  unaryOps,
  type WasmOptions,
} from '../engine/index.ts'
import type { AnyField } from '../nn/fields.ts'
import { layerMixers } from '../nn/index.ts'
import {
  completeMixer,
  type MixerChoice,
  type MixerConfig,
  type MixerName,
  meaningless,
  mixerChoices,
  mixerNames,
  mixersWith,
  reads,
  rowOf,
  says,
  shared,
} from '../nn/mixers.ts'
import {
  isPackagePreset,
  type PackagePresetName,
  type PresetName,
  packagePresets,
  presets,
  type Recipe,
  type TrainingConfig,
} from '../tasks/presets.ts'
import { tasks } from '../tasks/table.ts'
import { type AnyTask, type Split, splits } from '../tasks/task.ts'
import { type Command, checkValues, type Option, UsageError, type Value } from './arguments.ts'
import { checkWritable } from './files.ts'
import { profiled } from './profile.ts'

const deviceOption = {
  name: 'device',
  type: 'string',
  choices: deviceChoices,
  group: 'Device',
  description: 'where the model runs: auto is a GPU if there is one that works, else wasm; reference is the slow float64 oracle',
} as const satisfies Option

const wasmOptions = [
  {
    name: 'threads',
    type: 'integer',
    min: 1,
    max: 64,
    group: 'Device',
    otherwise: 'one a core',
    description: 'threads of the wasm device; they never change a result',
  },
  {
    name: 'relaxed',
    type: 'boolean',
    default: true,
    group: 'Device',
    description: "don't use fused multiply-add on wasm where there is one (results differ by rounding)",
  },
  {
    name: 'simd',
    type: 'string',
    choices: ['auto', '128', '256'],
    default: 'auto',
    group: 'Device',
    description: 'bits of the vectors on wasm; auto: 256 where this Node and processor have them and they help; they never change a result',
  },
] as const satisfies Option[]

const precisionOption = {
  name: 'precision',
  type: 'string',
  choices: precisions,
  default: 'f32',
  group: 'Device',
  description:
    'what operands of products are rounded to: f16, float16, on webgpu where the adapter has that; on wasm and reference to see what it does, slower; sums stay float32',
} as const satisfies Option

const profileOption = {
  name: 'profile',
  type: 'string',
  placeholder: 'FILE.svg',
  pattern: /\.svg$/i,
  bare: 'profile.svg',
  group: 'Device',
  description: 'show the time of each kernel as a table, and in this picture (profile.svg if not named)',
} as const satisfies Option

/** wasm unless a device is asked for: the same results on every machine. */
const deviceOptions = [{ ...deviceOption, default: 'wasm' }, precisionOption, ...wasmOptions, profileOption] as const

export interface DeviceValues {
  device: DeviceChoice
  precision: Precision
  threads: number | undefined
  relaxed: boolean
  simd: 'auto' | '128' | '256'
}

/** What the wasm device is opened with. */
export async function wasmSettings({ threads, relaxed, simd }: Omit<DeviceValues, 'device' | 'precision'>): Promise<WasmOptions> {
  const settings = { threads, relaxed: enableRelaxed(relaxed) }
  if (simd === '128') return { ...settings, wide: false }
  const { wide, why } = await enableWideSimd({ insist: simd === '256' })
  if (simd === '256' && !wide) throw new UsageError(`--simd 256: not to be had here: ${why}`)
  return { ...settings, wide }
}

/**
 * Opens the device of these options, makes it the default one, and closes it after `body`, which is profiled if that is asked for. `log` is
 * told what `auto` picks, and the profile.
 */
export async function withDevice<R>(
  { device: choice, precision, profile, ...wasm }: DeviceValues & { profile: string | undefined },
  given: ReadonlySet<string>,
  log: (text: string) => void,
  title: string,
  body: (device: Device) => Promise<R>,
): Promise<R> {
  checkDeviceOptions(choice, given)
  if (profile !== undefined) checkWritable(profile)
  const onWasm = choice === 'wasm' || choice === 'auto'
  const opened = await openDevice(choice, { wasm: onWasm ? await wasmSettings(wasm) : undefined, precision, log })
  try {
    return await profiled(opened, profile, title, log, (device) => {
      setDevice(device)
      return body(device)
    })
  } finally {
    opened.close()
  }
}

export function checkDeviceOptions(choice: DeviceChoice | 'all', given: ReadonlySet<string>): void {
  if (choice !== 'webgpu' && choice !== 'reference') return
  for (const { name } of wasmOptions)
    if (given.has(name)) throw new UsageError(`--${name}: means nothing on the ${choice} device; it belongs to wasm`)
}

/** Whether the build with fused multiply-add is wanted and there. */
export function enableRelaxed(wanted: boolean): boolean {
  if (wanted && !relaxedAvailable()) v8.setFlagsFromString('--experimental-wasm-relaxed-simd') // Node 20 has it behind a flag.
  return wanted && relaxedAvailable()
}

/** How the device rounds: what two runs must share to be equal bit for bit. */
export function arithmeticOf(device: Device, relaxed: boolean): string {
  if (device.name === 'webgpu') return `float32 on ${device.description}`
  const numbers = device.double ? 'float64' : relaxed && relaxedAvailable() ? 'float32 with fused multiply-add' : 'float32'
  return device.precision === 'f16' ? `${numbers}, products of float16` : numbers
}

const camel = (name: string): string => name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())
const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** One row for every field of a recipe that isn't a mixer's. */
const modelOptions = [
  { name: 'd-model', type: 'integer', min: 1, description: 'model width D' },
  { name: 'layers', type: 'integer', min: 1, description: 'layers' },
  { name: 'd-ff', type: 'integer', min: 1, description: 'inner width of the feed-forward layers' },
  {
    name: 'mixer',
    type: 'list',
    choices: mixerChoices,
    told: `${mixerNames.join(', ')}, or what --rule and --net take`,
    description: 'what the layers do over time: one for all, or several, which are repeated',
  },
  { name: 'attention', type: 'string', choices: ['fast-weights', 'softmax'], description: 'short for a --mixer of that name' },
  { name: 'activation', type: 'string', choices: unaryOps, description: 'of the feed-forward layers' },
  { name: 'norm', type: 'string', choices: ['layer', 'rms'], description: 'normalisation of the residual stream' },
  { name: 'attention-norm', type: 'boolean', description: 'normalise what attention reads (pre-norm)' },
  { name: 'positions', type: 'string', choices: ['none', 'sinusoidal', 'rotary'], description: 'position encoding' },
  { name: 'dropout', type: 'number', min: 0, below: 1, description: 'probability of dropping an activation' },
  { name: 'embedding-std', type: 'number', above: 0, description: 'standard deviation of the initial embedding' },
  { name: 'embedding-scale', type: 'string', choices: ['none', 'sqrt'], description: 'embeddings as they are or times sqrt(D)' },
  { name: 'tie', type: 'boolean', description: 'the embedding gives the logits, too' },
  { name: 'recompute', type: 'boolean', description: 'compute activations once more in the backward pass instead of keeping them' },
] as const satisfies Option[]

/** One row for every setting of a mixer, but for the positions, which are the model's. Mixers that have a setting of the same name share it. */
const mixerSettings = new Map<string, AnyField>(
  mixerNames.flatMap((kind) => Object.entries(rowOf(kind).fields).filter(([name]) => name !== 'positions')),
)
const mixerOptions: readonly Option[] = [...mixerSettings].map(([setting, field]) => {
  const { type, default: initial } = field
  return {
    name: kebab(setting),
    type,
    default: initial,
    description: initial === true ? `no ${field.description}` : field.description,
    ...(type === 'string' && { choices: field.choices }),
    ...((type === 'integer' || type === 'number') && { min: field.min, max: field.max ?? field.sensible }),
    group: `Of the mixers ${mixersWith(setting).join(', ')}`,
  }
})

const trainingOptions = [
  { name: 'seq-len', type: 'integer', min: 1, description: 'characters T in a sequence' },
  { name: 'batch', type: 'integer', min: 1, description: 'sequences B in a batch' },
  { name: 'steps', type: 'integer', min: 1, description: 'optimiser steps in all' },
  { name: 'optimizer', type: 'string', choices: ['adam', 'adamw', 'muon'], description: 'optimiser' },
  { name: 'schedule', type: 'string', choices: ['cosine', 'noam', 'constant'], description: 'learning-rate schedule' },
  { name: 'lr', type: 'number', above: 0, description: 'peak learning rate; the factor of noam' },
  { name: 'matrix-lr', type: 'number', above: 0, description: "muon's peak rate for the matrices inside the layers" },
  { name: 'warmup', type: 'integer', min: 0, description: 'steps of warm-up' },
  { name: 'lr-floor', type: 'number', min: 0, max: 1, description: 'where the cosine ends, as a part of the peak' },
  { name: 'beta2', type: 'number', min: 0, below: 1, description: "Adam's second decay" },
  { name: 'weight-decay', type: 'number', min: 0, description: 'decay of weight matrices' },
  { name: 'clip', type: 'number', min: 0, description: "bound on the gradient's norm; 0 for none" },
  {
    name: 'sampling',
    type: 'string',
    choices: ['random', 'epoch'],
    description: 'sequences start anywhere, or go through the text by epochs',
  },
  { name: 'prompt', type: 'string', description: 'what the sample at the end continues' },
] as const satisfies Option[]

/** A recipe as values of options: mixers by their names, and their settings beside them. What says nothing of any of them is left out. */
function flat({ model: { mixer, ...model }, training }: Omit<Recipe, 'description'>): Record<string, Value> {
  const own = mixer === undefined ? [] : [completeMixer(mixer)].flat()
  const kinds = own.length > 0 ? own.map(({ kind }) => kind) : [model.attention]
  const all = Object.assign({ ...model, ...training }, ...own.map(({ kind: _, ...settings }) => settings))
  return Object.fromEntries([
    ...(own.length > 0 ? [['mixer', own.map((entry) => ('rule' in entry && entry.rule) || entry.kind)]] : []),
    ...Object.entries(all).flatMap(([name, value]) => (says(kinds, name, value) ? [[kebab(name), value]] : [])),
  ])
}

/**
 * A message of the library in the words of a command: the settings that it names are options there. Names of several words are found anywhere;
 * one of a single word, which the text may use otherwise, where it begins the message and is said to be or to have to be something.
 */
export function inOptions(message: string, options: readonly Option[]): string {
  const names = new Map(options.map((option) => [camel(option.name), option]))
  const [single, several] = [/^[a-z0-9]+$/, /[A-Z]/].map((kind) => [...names.keys()].filter((name) => kind.test(name)).join('|') || '(?!)')
  const found = new RegExp(`(?:^(${single})(?= = | must | can't )|(?<![\\w."'])(${several})(?![\\w"']))(?: = (\\w[\\w.+-]*))?`, 'g')
  return message.replace(found, (_, one?: string, other?: string, value?: string) => {
    const { name, type } = names.get((one ?? other)!)!
    if (type !== 'boolean') return `--${name}${value === undefined ? '' : ` ${value}`}`
    return value === 'false' ? `--no-${name}` : `--${name}`
  })
}

const inGroup =
  (group: string) =>
  (option: Option): Option => ({ ...option, group })

const ownPresets = {
  option: 'preset',
  values: Object.fromEntries(Object.entries(presets).map(([name, recipe]) => [name, flat(recipe)])),
  descriptions: Object.fromEntries(Object.entries(presets).map(([name, { description }]) => [name, description])),
}

export const trainCommand = {
  name: 'train',
  summary: 'train a model on a text, character by character',
  options: [
    {
      name: 'text',
      type: 'string',
      placeholder: 'FILE',
      group: 'Data',
      otherwise: 'Tiny Shakespeare, fetched once; else Moby Dick',
      description: 'UTF-8 text; the first 90 % trains',
    },
    {
      name: 'out',
      type: 'string',
      placeholder: 'FOLDER',
      group: 'Data',
      otherwise: 'runs/PRESET-N',
      description: 'where checkpoint, metrics, curve and sample go',
    },
    {
      name: 'resume',
      type: 'string',
      placeholder: 'FOLDER',
      group: 'Data',
      description: 'go on with the run in this folder, exactly as if it had not stopped',
    },
    {
      name: 'preset',
      type: 'string',
      choices: [...Object.keys(presets), ...Object.keys(packagePresets)] as (PresetName | PackagePresetName)[],
      default: 'default',
      group: 'Model',
      description: 'model and training settings to start from',
    },
    ...deviceOptions,
    {
      name: 'seed',
      type: 'integer',
      min: 0,
      max: 0xffffffff,
      default: 1,
      group: 'Training',
      description: 'of initial values, batches and dropout',
    },
    {
      name: 'minutes',
      type: 'number',
      above: 0,
      max: 525_600,
      lastCounts: true,
      group: 'Training',
      description:
        'train for about so long: as many steps as fit on this machine, measured once before the first; --steps is then the most. The run is the one that this number of --steps makes; resumed, it keeps it',
    },
    {
      name: 'dry-run',
      type: 'boolean',
      default: false,
      group: 'Training',
      description: 'say how much memory and time the run would take, from a trial of some seconds; write nothing',
    },
    { name: 'eval-every', type: 'integer', min: 1, default: 100, group: 'Training', description: 'steps between evaluations' },
    {
      name: 'eval-limit',
      type: 'integer',
      min: 0,
      default: 500_000,
      group: 'Training',
      description: 'characters of the validation text, from its start, that an evaluation reads at most; 0 for all',
    },
    { name: 'save-every', type: 'integer', min: 1, default: 100, group: 'Training', description: 'steps between checkpoints' },
    { name: 'sample-length', type: 'integer', min: 0, default: 400, group: 'Training', description: 'characters of the sample at the end' },
    ...(modelOptions.map(inGroup('Model')) as unknown as typeof modelOptions),
    ...(mixerOptions as readonly (Option & { name: `of a mixer: ${string}` })[]),
    ...(trainingOptions.map(inGroup('Training')) as unknown as typeof trainingOptions),
  ],
  presets: {
    option: 'preset',
    values: {
      ...ownPresets.values,
      // The model is the package's; these are settings that none of it has.
      ...Object.fromEntries(
        Object.entries(packagePresets).map(([name, { training }]) => [name, flat({ model: presets.default.model, training })]),
      ),
    },
    descriptions: Object.fromEntries(
      Object.entries({ ...presets, ...packagePresets }).map(([name, { description }]) => [name, description]),
    ),
  },
  examples: [
    ['fastweights train', 'The default: 600 steps, 2 min 13 s on two cores of an AMD EPYC.'],
    ['fastweights train --minutes 3', 'As many steps as fit into three minutes.'],
    ['fastweights train --preset labml --dry-run', 'The memory and the time that it would take.'],
    ['fastweights train --text book.txt --preset labml --steps 500', "labml's model and optimiser on a text of your own."],
    ['fastweights train --resume runs/default-1', 'Go on after an interruption.'],
  ],
} as const satisfies Command

const tokensOption = { name: 'tokens', type: 'list', placeholder: '1,2,3' } as const

export const generateCommand = {
  name: 'generate',
  summary: 'continue a prompt with a trained model',
  operands: {
    placeholder: 'RUN',
    most: 1,
    description: 'RUN is the folder of a run, or its checkpoint file; the latest run under runs/ if it is left out.',
  },
  options: [
    { name: 'run', type: 'string', placeholder: 'RUN', otherwise: 'the latest run under runs/', description: 'the same as RUN' },
    { name: 'prompt', type: 'string', otherwise: "the run's own", description: 'text to continue' },
    { ...tokensOption, description: 'tokens to continue, in place of a prompt, with an imported model' },
    { name: 'prompts', type: 'string', placeholder: 'FILE', description: 'continue each line of a file; the texts come as lines of JSON' },
    {
      name: 'batch',
      type: 'integer',
      min: 1,
      max: 65536,
      otherwise: '32 with --prompts',
      description: 'texts to make side by side, with the seeds S, S + 1, ...: of --prompts so many at a time, else all of the one prompt',
    },
    {
      name: 'length',
      type: 'integer',
      min: 0,
      default: 500,
      description: 'characters to add; tokens, with an imported model, of which the one that ends a text is the last',
    },
    { name: 'temperature', type: 'number', min: 0, default: 0.8, description: '0 takes the likeliest character every time' },
    { name: 'top-k', type: 'integer', min: 0, default: 0, description: 'choose among the k likeliest; 0 for all' },
    {
      name: 'top-p',
      type: 'number',
      min: 0,
      max: 1,
      default: 1,
      description: 'of these, choose among the likeliest whose probabilities together reach p; 1 for all',
    },
    { name: 'seed', type: 'integer', min: 0, max: 0xffffffff, default: 1, description: 'of the choices' },
    {
      name: 'raw',
      type: 'boolean',
      description: 'write control characters as they are, for a file or a pipe (else as escapes such as \\u001b, on a terminal or not)',
    },
    ...deviceOptions,
  ],
  examples: [
    ['fastweights generate --prompt "ROMEO:" --temperature 0.7', 'Continue from the latest run.'],
    ['fastweights generate --prompts lines.txt --batch 64 > texts.jsonl', 'Continue every line of a file, 64 at a time.'],
  ],
} as const satisfies Command

const packages = ['fla', 'transformers'] as const
const packageOption = {
  name: 'package',
  type: 'string',
  choices: packages,
  otherwise: 'as config.json says',
  description: 'whose model it is, where two packages have the same',
} as const

export const importCommand = {
  name: 'import',
  summary: "make a run of another package's model: fla's, transformers', RWKV's",
  operands: {
    placeholder: 'FOLDER|FILE',
    most: 1,
    description:
      'FOLDER holds config.json and safetensors files, as save_pretrained writes them; FILE is one of weights, with config.json beside it.',
  },
  options: [
    { name: 'out', type: 'string', placeholder: 'RUN', otherwise: 'runs/MODEL-N', description: 'folder of the run' },
    packageOption,
    ...deviceOptions,
  ],
  examples: [['fastweights import model/', 'Then continue tokens with it: fastweights generate --tokens 1,2,3.']],
} as const satisfies Command

export const inspectCommand = {
  name: 'inspect',
  summary: 'show what the fast weights of a trained model do with a prompt, as a page',
  operands: {
    placeholder: 'RUN',
    most: 1,
    description:
      'RUN is the folder of a run, or its checkpoint file; the latest run under runs/ if it is left out. Layers, heads and tokens are counted from 1.',
  },
  options: [
    {
      name: 'prompt',
      type: 'string',
      otherwise: "two speakers in turn, or the run's own where characters lack",
      description: 'text to go through, 512 characters at most',
    },
    { ...tokensOption, description: 'tokens to go through, in place of a prompt, with an imported model' },
    { name: 'layer', type: 'integer', min: 1, otherwise: 'all', description: 'only this layer' },
    { name: 'head', type: 'integer', min: 1, otherwise: 'all', description: 'only this head of each layer' },
    {
      name: 'token',
      type: 'integer',
      min: 1,
      otherwise: 'where a pair is overwritten; of pictures the last',
      description: 'where the page opens, and what pictures show',
    },
    {
      name: 'out',
      type: 'string',
      placeholder: 'FILE.html',
      otherwise: "inspect.html in the run's folder, where neither --json nor --svg is given",
      description: 'write the page',
    },
    { name: 'json', type: 'string', placeholder: 'FILE', description: 'write the numbers as JSON; - for standard output' },
    {
      name: 'svg',
      type: 'string',
      placeholder: 'FOLDER|FILE.svg',
      description: 'write the pictures of a head at a token: a file for each in a folder, or one file with all of them',
    },
    ...deviceOptions,
  ],
  examples: [
    ['fastweights inspect', 'The latest run, as a page to open in a browser.'],
    ['fastweights inspect runs/book --prompt "It is so." --layer 2 --json -', 'The numbers of a layer.'],
  ],
} as const satisfies Command

export const exportCommand = {
  name: 'export',
  summary:
    'write a trained model as an ONNX graph for other programs to run, its parameters, or an imported one as the files of its package',
  operands: {
    placeholder: 'RUN',
    most: 1,
    description:
      'RUN is the folder of a run, or its checkpoint file; the latest run under runs/ if it is left out. Into a graph go tokens and states, out of it logits and states, of any number of rows and tokens.',
  },
  options: [
    {
      name: 'format',
      type: 'string',
      choices: ['onnx', 'safetensors', ...packages],
      otherwise: 'onnx; of an imported model its package',
      description: "what is written; safetensors: the parameters alone, under this package's names",
    },
    {
      name: 'domain',
      type: 'string',
      choices: ['ai.onnx', 'com.microsoft'],
      default: 'com.microsoft',
      description:
        'whose LinearAttention and CausalConvWithState: com.microsoft runs in onnxruntime from 1.30 on; ai.onnx, the standard of opset 27, from 1.32 on',
    },
    {
      name: 'precision',
      type: 'string',
      choices: ['f32', 'f16'],
      default: 'f32',
      description: 'of the parameters in the file; computed with in float32',
    },
    {
      name: 'context',
      type: 'integer',
      min: 1,
      max: 65_536,
      default: 4096,
      description: 'tokens that sinusoidal or rotary positions reach',
    },
    {
      name: 'out',
      type: 'string',
      placeholder: 'FILE|FOLDER',
      otherwise: "model.onnx or model.safetensors in the run's folder; RUN-FORMAT for files of a package",
      description: 'where it goes',
    },
  ],
  examples: [
    ['fastweights export runs/gla-1 --out model', 'The same names, shapes and bits as those that it was imported from.'],
    ['fastweights export runs/default-1', 'For onnxruntime in Node, in a page or in Python.'],
    ['fastweights export runs/default-1 --domain ai.onnx --precision f16 --out small.onnx', "The standard's operators, half the size."],
  ],
} as const satisfies Command

export const compareCommand = {
  name: 'compare',
  summary: "check that another package's model, or an ONNX case, computes here what was computed there",
  operands: {
    placeholder: 'FOLDER|FILE [EXPECTED]',
    most: 2,
    description:
      "FOLDER, or a FILE of weights, is one that import reads; EXPECTED holds its package's input_ids, logits, loss, gradients and states, by default expected.safetensors beside it. Or FILE is CASE.onnx, with nodes LinearAttention and CausalConvWithState, of com.microsoft also LinearAttentionGate and GatedDeltaNet; then EXPECTED has its inputs in.NAME and outputs out.NAME. Exit status: 0 all hold, 1 one falls short, 2 something can't be used.",
  },
  options: [
    packageOption,
    { name: 'json', type: 'boolean', description: 'print one object of JSON, and nothing else, on standard output' },
    { ...deviceOption, default: 'wasm' },
    precisionOption,
    ...wasmOptions,
  ],
  examples: [
    ['fastweights compare model/ figures.safetensors --device reference', 'In float64.'],
    ['fastweights compare case.onnx case.safetensors --device webgpu', 'One ONNX case, on a GPU.'],
  ],
} as const satisfies Command

export const doctorCommand = {
  name: 'doctor',
  summary: 'say what this machine offers, and check the kernels against the reference',
  options: [{ ...deviceOption, otherwise: 'wasm, and webgpu on a GPU', description: 'what to check' }, precisionOption, ...wasmOptions],
} as const satisfies Command

const [, relaxedOption, simdOption] = wasmOptions

export const verifyCommand = {
  name: 'verify',
  summary: 'check the equivalences that tie the rules together, with generated cases, on this machine',
  operands: {
    placeholder: 'PATTERN|FILE.mjs',
    description:
      'PATTERN chooses claims by name: a whole name, a part of one, or a glob with * and ?. FILE.mjs exports claims or rules of your own, which are then checked in place of those of this package; patterns choose among them.',
  },
  options: [
    {
      name: 'device',
      type: 'string',
      choices: ['all', ...deviceChoices],
      default: 'all',
      group: 'Device',
      description: 'where the claims are checked; all: reference, wasm and, on a GPU, webgpu',
    },
    precisionOption,
    {
      name: 'threads',
      type: 'integer',
      min: 1,
      max: 64,
      default: 1,
      group: 'Device',
      description: 'threads of the wasm device; with few, more claims are checked at a time',
    },
    relaxedOption,
    simdOption,
    {
      name: 'runs',
      type: 'integer',
      min: 1,
      max: 1_000_000,
      default: 100,
      group: 'Cases',
      description: 'cases for each claim; a false one goes on until it is refuted, to 1,000 at least',
    },
    { name: 'seed', type: 'integer', min: 0, max: 0x7fffffff, default: 1, group: 'Cases', description: 'of the cases' },
    {
      name: 'path',
      type: 'string',
      placeholder: 'N:N:...',
      pattern: /^\d+(:\d+)*$/,
      group: 'Cases',
      description: 'run one case again: as a counterexample names it, with its seed',
    },
    {
      name: 'case-limit',
      type: 'number',
      above: 0,
      default: 10,
      group: 'Cases',
      description: 'seconds after which a case counts as one that never ends',
    },
    {
      name: 'implementation',
      type: 'string',
      placeholder: 'NAME|FILE.mjs|COMMAND',
      group: 'Implementation',
      description:
        "check somebody else's implementation of rules in place of ours: onnxruntime, a module that exports an adapter, or a program that answers over its pipes (docs/conformance.md)",
    },
    {
      name: 'tolerance',
      type: 'number',
      above: 0,
      group: 'Implementation',
      otherwise: "from the implementation's dtype",
      description: 'the bound of every claim',
    },
    {
      name: 'counterexamples',
      type: 'string',
      placeholder: 'FOLDER',
      default: 'counterexamples',
      group: 'Implementation',
      description: 'where the tensors of a claim that fails go, a safetensors file each',
    },
    { name: 'list', type: 'boolean', group: 'Results', description: 'name the claims, and check none' },
    {
      name: 'json',
      type: 'string',
      placeholder: 'FILE',
      group: 'Results',
      description: 'write all results as JSON; - for standard output',
    },
    { name: 'report', type: 'string', placeholder: 'FILE.html', group: 'Results', description: 'write a page that shows every claim' },
  ],
  examples: [
    ['fastweights verify --runs 1000 --report claims.html', 'Everything, thoroughly, with a page to read.'],
    ["fastweights verify gated-delta 'kda: *'", 'Some claims: a part of the names, or a glob.'],
    ['fastweights verify ./my-rule.mjs', 'A rule of your own.'],
    ['fastweights verify delta --implementation "python3 adapter.py"', 'A program that has the delta rule.'],
  ],
} as const satisfies Command

export const reproduceCommand = {
  name: 'reproduce',
  summary: "train the cells of a paper's figure or table, and set what comes out beside the published values",
  operands: {
    placeholder: 'NAME',
    description: 'NAME is a figure or table; without one they are listed, each with how long it takes here.',
    most: 1,
  },
  options: [
    {
      name: 'out',
      type: 'string',
      placeholder: 'FOLDER',
      group: 'Results',
      otherwise: 'reproduced/NAME',
      description: 'where results go; what is there is kept, and only what is missing is trained',
    },
    {
      name: 'report',
      type: 'boolean',
      group: 'Results',
      description: 'train nothing: make tables and picture of the results that are there',
    },
    { name: 'seeds', type: 'integer', min: 1, max: 1000, default: 3, group: 'Cells', description: 'runs of each place in the table' },
    { name: 'only', type: 'string', placeholder: 'TEXT', group: 'Cells', description: 'cells with this in their names' },
    { name: 'list', type: 'boolean', group: 'Cells', description: 'name the cells, and train none' },
    { name: 'cell', type: 'string', placeholder: 'NAME', group: 'Cells', description: 'one cell, in this process' },
    {
      name: 'shard',
      type: 'string',
      placeholder: 'I/N',
      pattern: /^\d+\/[1-9]\d*$/,
      group: 'Cells',
      description: 'every N-th cell from the I-th on, for one of N machines',
    },
    {
      name: 'train',
      type: 'string',
      placeholder: 'FILE',
      group: 'Files',
      description: 'tiny-shakespeare, wikitext-2: text to learn from',
    },
    { name: 'valid', type: 'string', placeholder: 'FILE', group: 'Files', description: 'wikitext-2: text to be measured on' },
    { name: 'jobs', type: 'integer', min: 1, max: 256, otherwise: 'one a core', group: 'Device', description: 'cells at a time' },
    relaxedOption,
    simdOption,
  ],
  examples: [
    ['fastweights reproduce retrieval-capacity', 'All of it; the same command goes on after an interruption.'],
    ['fastweights reproduce retrieval-capacity --only DPFP-1_S40', 'Three short runs.'],
    ['fastweights reproduce retrieval-capacity --shard 2/8', 'The second of eight machines; --report, where their files are together.'],
  ],
} as const satisfies Command

/** One row for every setting of a task. Tasks that have a setting of the same name share it: it takes what any of them does. */
const taskSettings = new Map<string, { task: string; field: AnyField }[]>()
for (const [task, { fields }] of Object.entries<AnyTask>(tasks))
  for (const [name, field] of Object.entries<AnyField>(fields)) taskSettings.set(name, [...(taskSettings.get(name) ?? []), { task, field }])

const taskOptions: readonly Option[] = [...taskSettings].map(([setting, users]) => {
  // The shortest description says least of a single task.
  const [{ field }] = [...users].sort((a, b) => a.field.description.length - b.field.description.length)
  const defaults = new Set(users.map(({ field }) => String(field.default)))
  const ranges = users.flatMap(({ field }) => (field.type === 'integer' || field.type === 'number' ? [field] : []))
  const ends = (end: (range: (typeof ranges)[number]) => number | undefined, of: (...ends: number[]) => number): number | undefined =>
    ranges.some((range) => end(range) === undefined) ? undefined : of(...ranges.map((range) => end(range)!))
  return {
    name: kebab(setting),
    type: field.type,
    otherwise: defaults.size === 1 ? [...defaults][0] : "the task's own",
    description: field.description,
    ...(field.type === 'string' && { choices: field.choices }),
    ...(ranges.length > 0 && {
      min: ends(({ min }) => min, Math.min),
      max: ends(({ max, sensible }) => max ?? sensible, Math.max),
    }),
    group: `Of ${users.map(({ task }) => task).join(', ')}`,
  }
})

/** What training on a task has of `train`. */
const learningOptions = [
  // Models of other packages learn texts alone.
  ...trainCommand.options.filter(({ name }) => name === 'preset').map((option) => ({ ...option, choices: Object.keys(presets) })),
  ...trainCommand.options.filter(({ name }) => name === 'eval-every'),
  ...modelOptions.map(inGroup('Model')),
  ...mixerOptions,
  ...trainingOptions.filter(({ name }) => !['seq-len', 'sampling', 'prompt'].includes(name)).map(inGroup('Training')),
] as unknown as (typeof trainCommand.options)[number][]
/** Their names, and those of the options that decide where it runs and what it writes. */
export const learningNames: readonly string[] = [
  'out',
  'examples',
  'seed',
  ...learningOptions.map(({ name }) => name),
  ...deviceOptions.map(({ name }) => name),
]

export const taskCommand = {
  name: 'task',
  summary: 'train a model on a task and examine it; check files of its sequences by the rule, write such files',
  operands: {
    placeholder: 'NAME',
    description: 'NAME is a task: --list names them all. Without --list, --check or --write a model is trained.',
    most: 1,
  },
  options: [
    { name: 'list', type: 'boolean', description: 'describe the task, or all tasks' },
    {
      name: 'check',
      type: 'string',
      placeholder: 'FILE',
      description: 'judge every sequence of this file by the rule; settings are those that the file says, and those given here',
    },
    {
      name: 'write',
      type: 'string',
      placeholder: 'FILE',
      description: 'write a file of sequences: safetensors, packed with gzip if its name ends in .gz',
    },
    {
      name: 'examples',
      type: 'integer',
      min: 1,
      max: 10_000_000,
      default: 1000,
      description: 'sequences to write of each split, or to test a model on',
    },
    {
      name: 'split',
      type: 'list',
      choices: splits as readonly Split[] as readonly string[],
      default: ['train'],
      description: 'the splits to write',
    },
    { name: 'seed', type: 'integer', min: 0, max: 0xffffffff, default: 1, description: 'of the sequences, and of the initial values' },
    {
      name: 'out',
      type: 'string',
      placeholder: 'FOLDER',
      otherwise: 'nothing is written',
      description: 'where the checkpoint of the trained model goes',
    },
    ...deviceOptions,
    ...learningOptions,
    ...(taskOptions as readonly (Option & { name: `of a task: ${string}` })[]),
  ],
  presets: ownPresets,
  examples: [
    ['fastweights task --list', 'All tasks.'],
    [
      'fastweights task parity-final --preset gated-deltanet --beta-range 2 --max-length 20 --steps 500',
      'Train, and examine on longer sequences.',
    ],
    ['fastweights task mqar --write mqar.safetensors.gz --pairs 8 --length 128 --split train,test', 'Write sequences of longer ones.'],
    ['fastweights task mqar --check mqar.safetensors.gz', 'Check every one.'],
  ],
} as const satisfies Command

/** The settings of a task that somebody has chosen, by the names of their fields. */
export const taskSettingsOf = (values: Readonly<Record<string, unknown>>, given: ReadonlySet<string>): Record<string, unknown> =>
  Object.fromEntries([...taskSettings.keys()].flatMap((name) => (given.has(kebab(name)) ? [[name, values[kebab(name)]]] : [])))

export const optionOfSetting = (setting: string): string => `--${kebab(setting)}`

/** Refuses what a model of another package can't be told: its sizes are those of the preset. */
export function checkPackagePreset(preset: string, given: ReadonlySet<string>): void {
  const option = isPackagePreset(preset) && [...modelOptions, ...mixerOptions].find(({ name }) => given.has(name))
  if (option)
    throw new UsageError(`--${option.name}: the preset ${preset} has the sizes of its config.json; it takes options of training alone`)
}

/**
 * The part of the values that makes up a recipe. `given`: those that somebody has chosen. Where that is so of the mixer or the rule, settings that a preset
 * has for another one give way.
 */
export function recipeOf(
  values: Readonly<Record<string, unknown>>,
  given: ReadonlySet<string>,
): { model: Recipe['model']; training: Recipe['training'] } {
  const pick = (options: readonly Option[]): Record<string, unknown> =>
    Object.fromEntries(options.map(({ name }) => [camel(name), values[name]]))
  if (given.has('mixer') && given.has('attention')) throw new UsageError('--attention: means nothing beside --mixer')
  const chosen = given.has('mixer') || given.has('attention')
  const { mixer, attention, ...model } = pick(modelOptions) as { mixer: (MixerChoice & string)[]; attention: Recipe['model']['attention'] }
  const own = given.has('attention') ? [] : mixer
  const named = own.map((choice) => completeMixer(choice) as MixerConfig)
  const kinds = own.length > 0 ? named.map(({ kind }) => kind) : [attention]
  const [common, settings]: Record<string, unknown>[] = [{}, {}]
  for (const [name, field] of mixerSettings) {
    const byHand = given.has(kebab(name))
    const read = reads(kinds, name)
    const value = read || byHand || !chosen ? values[kebab(name)] : field.default
    if (name in shared) common[name] = value
    else if (read) settings[name] = value
    else if (byHand && value !== field.default) throw meaningless(name, value)
  }
  for (const [setting, kind] of [
    ['rule', 'fast-weights'],
    ['net', 'recurrent-net'],
  ] as const)
    if (given.has('mixer') && given.has(setting) && kinds.includes(kind) && !own.includes(kind))
      throw new UsageError(`--${setting}: --mixer names ${setting}s already`)
  /** Settings of a kind that mean nothing beside these. */
  const idle = (kind: MixerName, all: object): string[] =>
    (rowOf(kind).meanings ?? []).flatMap(([name, , applies]) => (applies(all) ? [] : [name]))
  // So do those that a preset has for another rule.
  if (given.has('rule'))
    for (const name of idle('fast-weights', common)) if (!given.has(kebab(name))) common[name] = shared[name as keyof typeof shared]
  const entries = named.map(({ kind, ...complete }, i) => {
    const ofKind = Object.entries(settings).filter(([name]) => reads([kind], name))
    const byName = kind === own[i] ? {} : kind === 'fast-weights' ? { rule: own[i] } : { net: own[i] }
    const said = { ...Object.fromEntries(ofKind), ...byName }
    return { kind, said, idle: kind === own[i] ? [] : idle(kind, { ...complete, ...common, ...said }) }
  })
  // What a mixer that goes by the name of its rule or net has no use for gives way, unless it is given by hand and no other one has any.
  const layers = entries.map(({ kind, said, idle }) => {
    const used = (name: string): boolean => entries.some((other) => other.kind === kind && !other.idle.includes(name))
    const gone = idle.filter((name) => !given.has(kebab(name)) || used(name))
    return { kind, ...said, ...Object.fromEntries(gone.map((name) => [name, rowOf(kind).fields[name].default])) } as MixerConfig
  })
  const mixed = layers.length === 1 ? layers[0] : layers
  return {
    model: { ...model, ...common, ...(own.length > 0 ? { attention: 'fast-weights', mixer: mixed } : { attention }) } as Recipe['model'],
    training: pick(trainingOptions) as unknown as Recipe['training'],
  }
}

/** So must settings of training alone. */
export function checkTraining(training: TrainingConfig): void {
  const values = checkValues(
    trainingOptions,
    Object.fromEntries(Object.entries(training).map(([name, value]) => [kebab(name), value])),
    'its settings',
  )
  const missing = trainingOptions.find(({ name }) => !values.has(name))
  if (missing) throw new Error(`its settings lack ${missing.name}`)
}

/** A recipe that was read from a file must be one that the options could have made. */
export function checkRecipe(recipe: Omit<Recipe, 'description'>): void {
  const kinds = layerMixers({ symbols: 1, ...recipe.model }).map(({ kind }) => kind)
  const own = mixerOptions.filter(({ name }) => reads(kinds, camel(name)))
  const values = checkValues([...modelOptions, ...mixerOptions, ...trainingOptions], flat(recipe), 'its settings')
  const missing = [...modelOptions, ...own, ...trainingOptions].find(({ name }) => !values.has(name) && name !== 'mixer')
  if (missing) throw new Error(`its settings lack ${missing.name}`)
}
