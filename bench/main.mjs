/** npm run bench -- [benchmark ...] [options] */
import { parseArgs } from 'node:util'
import { printMachine, save, UsageError } from './report.mjs'

const help = `Speed of fastweights, beside its peers where they do the same work.

usage: npm run bench -- [benchmark ...] [options]

benchmarks (all six when none is named)
  matmul    n x n x n float32 products: fastweights, tfjs, jax-js, onnxruntime-web and the SIMD limit, in interleaved rounds
  train     one training step of the labml setting and of a small one: seconds, tokens/s, memory
  torch     that step beside PyTorch's, where python3 has it: a loop over tokens and a chunkwise form, eager and compiled
  kernels   the hot kernels one by one on 1 and 2 threads, beside the plain reference
  rules     every rule in its forms (recurrent, chunk, parallel) and softmax attention: time and memory, forward and backward, over
            the length T; where chunks win; a plot
  aft       the attention free transformer's forms over the length T, AFT-local beside AFT-full and its composition of matrix products
  webgpu    the WGSL kernels beside plain WGSL that does the same, on SwiftShader (FASTWEIGHTS_GPU=system: on the machine's own GPU); and
            a roofline of every kernel and of a training step on named GPUs, on paper

options
  --sizes 64,128,...   matmul: the sizes n (default 64,128,256,512,1024); rules, aft: the lengths T (default 64,128,...,8192;
                       256,512,...,16384)
  --rounds R           samples of each contender (default 15; train: steps, default 5; kernels, webgpu: default 5; rules, aft: at
                       most, default 5)
  --only TEXT          kernels, webgpu: those whose name contains TEXT, without the roofline; train: settings whose name does
  --python PATH        torch: the Python to run (default python3)
  --roofline           webgpu: the roofline alone
  --rules A,B          rules: only these
  --seconds S          rules, aft: time for the samples of a rule in one form at one T (default 0.5); a cell of which one run lasts longer is
                       sampled once, one of which it would last 10 times as long is left out
  --threads N          rules, aft: threads of the wasm device (default 1)
  --device NAME        train, rules, aft: wasm, webgpu, auto (a GPU that works, else wasm), or reference, which is plain, slow and for small
                       sizes only (default wasm)
  --batch B --heads H --key K --value V
                       rules: the other sizes (default 1, 8, 64, 64); the batch is aft's, too
  --width D --window S aft: channels, and how far biases reach (default 128, 32)
  --help               this text

Results are also written as JSON, the plot as SVG, to bench/results/.`

const whole = (text, option, min, max) => {
  if (!/^\d+$/.test(text) || Number(text) < min || Number(text) > max) {
    throw new UsageError(`${option}: '${text}' is not a whole number from ${min} to ${max}`)
  }
  return Number(text)
}

const list = (text) => text.split(',')
const oneOf = (text, option, names) => {
  if (!names.includes(text)) throw new UsageError(`${option}: '${text}' is not one of ${names.join(', ')}`)
  return text
}
const positive = (text, option) => {
  if (!(Number(text) > 0 && Number(text) < Infinity)) throw new UsageError(`${option}: '${text}' is not a number above 0`)
  return Number(text)
}

const benchmarkNames = ['matmul', 'train', 'torch', 'kernels', 'rules', 'aft', 'webgpu']
/** Each option: the benchmarks that take it, and what its text means. */
const options = {
  sizes: { of: ['matmul', 'rules', 'aft'], read: (text) => list(text).map((size) => whole(size, '--sizes', 1, 65536)) },
  rounds: { of: benchmarkNames, read: (text) => whole(text, '--rounds', 1, 1000) },
  only: { of: ['train', 'torch', 'kernels', 'webgpu'], read: (text) => text },
  python: { of: ['torch'], read: (text) => text },
  roofline: { of: ['webgpu'], type: 'boolean', read: (given) => given },
  rules: { of: ['rules'], read: list },
  seconds: { of: ['rules', 'aft'], read: (text) => positive(text, '--seconds') },
  threads: { of: ['torch', 'rules', 'aft'], read: (text) => whole(text, '--threads', 1, 64) },
  device: { of: ['train', 'rules', 'aft'], read: (text) => oneOf(text, '--device', ['auto', 'wasm', 'webgpu', 'reference']) },
  batch: { of: ['rules', 'aft'], read: (text) => whole(text, '--batch', 1, 1024) },
  heads: { of: ['rules'], read: (text) => whole(text, '--heads', 1, 1024) },
  key: { of: ['rules'], read: (text) => whole(text, '--key', 1, 1024) },
  value: { of: ['rules'], read: (text) => whole(text, '--value', 1, 1024) },
  width: { of: ['aft'], read: (text) => whole(text, '--width', 1, 65536) },
  window: { of: ['aft'], read: (text) => whole(text, '--window', 1, 65536) },
}

function parse(argv) {
  let values
  let positionals
  try {
    ;({ values, positionals } = parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        ...Object.fromEntries(Object.entries(options).map(([name, { type = 'string' }]) => [name, { type }])),
        help: { type: 'boolean', short: 'h' },
      },
    }))
  } catch (error) {
    throw new UsageError(error.message.split(/\.\s/)[0])
  }
  const unknown = positionals.find((name) => !benchmarkNames.includes(name))
  if (unknown !== undefined) throw new UsageError(`no benchmark '${unknown}' (there are ${benchmarkNames.join(', ')})`)
  const benchmarks = positionals.length ? positionals : benchmarkNames
  const given = Object.entries(options).filter(([name]) => values[name] !== undefined)
  for (const [name, { of }] of given)
    if (!of.some((benchmark) => benchmarks.includes(benchmark)))
      throw new UsageError(`--${name} means nothing to ${benchmarks.join(', ')}, only to ${of.join(', ')}`)
  return { help: values.help, benchmarks, options: Object.fromEntries(given.map(([name, { read }]) => [name, read(values[name])])) }
}

try {
  const { help: wanted, benchmarks, options: chosen } = parse(process.argv.slice(2))
  if (wanted) {
    console.log(help)
  } else {
    printMachine()
    for (const name of benchmarks) save(name, await (await import(`./${name}.mjs`)).run(chosen))
  }
} catch (error) {
  console.error(error instanceof UsageError ? `bench: ${error.message}; see --help` : `bench: ${error.message}`)
  process.exitCode = error instanceof UsageError ? 2 : 1
}
