/** npm run bench -- [benchmark ...] [options] */
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { enableSimd } from './child.mjs'
import { uncountable } from './instructions.mjs'
import { machine, printMachine, save, UsageError } from './report.mjs'

const help = `Speed of fastweights, beside its peers where they do the same work.

usage: npm run bench -- [benchmark ...] [options]

benchmarks (all of them when none is named)
  matmul    n x n x n float32 products: fastweights, tfjs, jax-js, onnxruntime-web and the SIMD limit, in interleaved rounds
  train     one training step of the labml setting and of a small one: seconds, tokens/s, memory
  torch     that step beside PyTorch's, where python3 has it: a loop over tokens and a chunkwise form, eager and compiled
  pretrained  a random Qwen3.5 of 160 million parameters in bfloat16: memory, a prompt and its continuation, beside transformers where python3
            has it
  kernels   the hot kernels one by one on 1 and 2 threads, beside the plain reference
  rules     every rule in its forms (recurrent, chunk, parallel) and softmax attention: time and memory, forward and backward, over
            the length T; where chunks win; a plot
  scale     the linear forms of the rules at one number of tokens a step, in sequences of 128 to 65,536: time and memory; a plot
  aft       the attention free transformer's forms over the length T, AFT-local beside AFT-full and its composition of matrix products
  nets      every recurrent net beside the delta rule token by token, at the same sizes
  onnx      exported models in onnxruntime (node and web) beside ours: a prompt at once, and a token after it
  browser   products in headless Chromium beside jax-js, on one thread and on all, a training step, and generated text
  webgpu    on the machine's own GPU (FASTWEIGHTS_GPU=system): products, recurrences, training steps and text, beside PyTorch and fla on
            the same card where python3 has them; there or on SwiftShader: the WGSL kernels beside plain WGSL that does the same; and a
            roofline of every kernel and of a training step on named GPUs, on paper

options
  --sizes 64,128,...   matmul, browser: the sizes n (default 64,128,256,512,1024); rules, scale, aft: the lengths T (default 64,128,...,8192;
                       128,256,...,65536; 256,512,...,16384); nets: one length T (default 128); onnx: of the prompt (default 256)
  --rounds R           samples of each contender (default 15; pretrained: 3; train, torch, kernels, nets, onnx, browser, webgpu: default 5; rules, aft: at most, default
                       5; scale: at most, default 3)
  --only TEXT          kernels, nets, onnx, webgpu: those whose name contains TEXT (webgpu: or whose table's does), without the roofline;
                       train, torch, browser: settings whose name does (torch, browser: default small)
  --python PATH        torch, pretrained, webgpu: the Python to run (default: the one that the variable PYTHON names, or python3)
  --roofline           webgpu: the roofline alone
  --counts             webgpu: what a training step dispatches, moves and writes, alone, on paper
  --rules A,B          rules, scale: only these
  --seconds S          rules, scale, aft, nets: time for the samples of a rule in one form at one T (default 0.5; scale: 1); a cell of which one
                       run lasts longer is sampled once, in rules and aft one of which it would last 10 times as long is left out
  --threads N          rules, scale, aft, nets, onnx: threads of the wasm device and its peers (default 1); torch, pretrained, browser: of it and of ours (default one a core)
  --device NAME        train, rules, scale, aft, nets: wasm, webgpu, auto (a GPU that works, else wasm), or reference, which is plain, slow and
                       for small sizes only (default wasm); of nets webgpu is SwiftShader, as of the benchmark webgpu
  --batch B --heads H --key K --value V
                       rules: the other sizes (default 1, 8, 64, 64), scale: all but the batch (default 2, 64, 64); the batch is aft's and
                       nets', too, heads are nets' (default 2, 4)
  --width D --window S aft: channels, and how far biases reach (default 128, 32); nets: channels of a head (default 32)
  --tokens N           scale: tokens a step (default 65536)
  --quick              scale: four rules at four lengths, in less than two minutes; webgpu: the tables of a card alone, with fewer rows,
                       or at small sizes on SwiftShader
  --instructions       train, scale: count instructions, too, where Linux's perf can
  --json FILE          all results as JSON in one file, too; - for standard output, and what else is printed goes to standard error
  --node PATH          run the benchmarks on this Node
  --simd 128           not matmul, which has both: vectors of 128 bits where there are 256
  --clock processor    rules, nets: processor time of each process, which other programs disturb less; with one thread
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

const benchmarkNames = ['matmul', 'train', 'torch', 'pretrained', 'kernels', 'rules', 'scale', 'aft', 'nets', 'onnx', 'browser', 'webgpu']
/** Each option: the benchmarks that take it, and what its text means. */
const options = {
  sizes: {
    of: ['matmul', 'rules', 'scale', 'aft', 'nets', 'onnx', 'browser'],
    read: (text) => list(text).map((size) => whole(size, '--sizes', 1, 65536)),
  },
  rounds: { of: benchmarkNames, read: (text) => whole(text, '--rounds', 1, 1000) },
  only: { of: ['train', 'torch', 'kernels', 'nets', 'onnx', 'browser', 'webgpu'], read: (text) => text },
  python: { of: ['torch', 'pretrained', 'webgpu'], read: (text) => text },
  roofline: { of: ['webgpu'], type: 'boolean', read: (given) => given },
  counts: { of: ['webgpu'], type: 'boolean', read: (given) => given },
  rules: { of: ['rules', 'scale'], read: list },
  seconds: { of: ['rules', 'scale', 'aft', 'nets'], read: (text) => positive(text, '--seconds') },
  threads: {
    of: ['torch', 'pretrained', 'rules', 'scale', 'aft', 'nets', 'onnx', 'browser'],
    read: (text) => whole(text, '--threads', 1, 64),
  },
  device: {
    of: ['train', 'rules', 'scale', 'aft', 'nets'],
    read: (text) => oneOf(text, '--device', ['auto', 'wasm', 'webgpu', 'reference']),
  },
  batch: { of: ['rules', 'aft', 'nets'], read: (text) => whole(text, '--batch', 1, 1024) },
  heads: { of: ['rules', 'scale', 'nets'], read: (text) => whole(text, '--heads', 1, 1024) },
  key: { of: ['rules', 'scale'], read: (text) => whole(text, '--key', 1, 1024) },
  value: { of: ['rules', 'scale'], read: (text) => whole(text, '--value', 1, 1024) },
  tokens: { of: ['scale'], read: (text) => whole(text, '--tokens', 1, 2 ** 22) },
  quick: { of: ['scale', 'webgpu'], type: 'boolean', read: (given) => given },
  instructions: { of: ['train', 'scale'], type: 'boolean', read: (given) => given },
  simd: {
    of: ['train', 'torch', 'kernels', 'rules', 'scale', 'aft', 'nets', 'onnx'],
    read: (text) => oneOf(text, '--simd', ['auto', '128']),
  },
  clock: { of: ['rules', 'nets'], read: (text) => oneOf(text, '--clock', ['wall', 'processor']) },
  json: { of: benchmarkNames, read: (text) => text },
  node: { of: benchmarkNames, read: (text) => text },
  width: { of: ['aft', 'nets'], read: (text) => whole(text, '--width', 1, 65536) },
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

/** Runs this program on another Node, and gives its exit code. */
function runOn(node, argv) {
  const { status, error, signal } = spawnSync(node, [fileURLToPath(import.meta.url), ...argv], { stdio: 'inherit' })
  if (error) throw new UsageError(`--node: ${node} can't be run: ${error.message}`)
  if (signal) throw new Error(`${node} was ended by ${signal}`)
  return status
}

async function main(argv) {
  const { help: wanted, benchmarks, options: chosen } = parse(argv)
  if (wanted) return console.log(help)
  const { node, json, simd, clock = 'wall', ...rest } = chosen
  if (node !== undefined) {
    // parse has seen it, as one word or as two.
    const at = argv.findIndex((word) => word === '--node' || word.startsWith('--node='))
    process.exitCode = runOn(node, argv.toSpliced(at, argv[at] === '--node' ? 2 : 1))
    return
  }
  // Threads that wait for each other take processor time, too.
  if (clock === 'processor' && rest.threads > 1) throw new UsageError(`--clock processor: with one thread, not ${rest.threads}`)
  if (json === '-') console.log = console.error
  else if (json !== undefined && !existsSync(dirname(json))) throw new UsageError(`--json: there is no folder ${dirname(json)}`)
  printMachine()
  process.env.BENCH_SIMD = simd ?? 'auto' // children read both
  process.env.BENCH_CLOCK = clock
  if (clock === 'processor') console.log('Times are of the processor.')
  const { wide, why } = await enableSimd()
  console.log(`vectors of ${wide ? 256 : 128} bits: ${why}`)
  if (rest.instructions) {
    const reason = uncountable()
    if (reason !== undefined) console.log(`No instructions are counted: ${reason}`)
    rest.instructions = reason === undefined
  }
  const all = []
  for (const name of benchmarks) {
    const { svg, ...result } = await (await import(`./${name}.mjs`)).run(rest)
    save(name, { svg, ...result })
    all.push({ benchmark: name, ...result })
  }
  if (json === undefined) return
  const text = `${JSON.stringify({ machine: machine(), benchmarks: all }, null, 2)}\n`
  if (json === '-') process.stdout.write(text)
  else writeFileSync(json, text)
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  console.error(error instanceof UsageError ? `bench: ${error.message}; see --help` : `bench: ${error.message}`)
  process.exitCode = error instanceof UsageError ? 2 : 1
}
