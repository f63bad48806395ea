/** npm run bench -- [matmul] [train] [kernels] [options] */
import { parseArgs } from 'node:util'
import { printMachine, save, UsageError } from './report.mjs'

const help = `Speed of fastweights, beside its peers where they do the same work.

usage: npm run bench -- [benchmark ...] [options]

benchmarks (all three when none is named)
  matmul    n x n x n float32 products: fastweights, tfjs, jax-js, onnxruntime-web and the SIMD limit, in interleaved rounds
  train     one training step of the labml setting and of a small one: seconds, tokens/s, memory
  kernels   the hot kernels one by one on 1 and 2 threads, beside the plain reference

options
  --sizes 64,128,...   matmul: the sizes n (default 64,128,256,512,1024)
  --rounds R           samples of each contender (default 15; train: steps, default 5; kernels: default 5)
  --only TEXT          kernels: those whose name contains TEXT; train: settings whose name does
  --help               this text

Results are also written as JSON to bench/results/.`

const whole = (text, option, min, max) => {
  if (!/^\d+$/.test(text) || Number(text) < min || Number(text) > max) {
    throw new UsageError(`${option}: '${text}' is not a whole number from ${min} to ${max}`)
  }
  return Number(text)
}

function parse(argv) {
  let values
  let positionals
  try {
    ;({ values, positionals } = parseArgs({
      args: argv,
      allowPositionals: true,
      options: { sizes: { type: 'string' }, rounds: { type: 'string' }, only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    }))
  } catch (error) {
    throw new UsageError(error.message.split(/\.\s/)[0])
  }
  const names = ['matmul', 'train', 'kernels']
  const unknown = positionals.find((name) => !names.includes(name))
  if (unknown !== undefined) throw new UsageError(`no benchmark '${unknown}' (there are ${names.join(', ')})`)
  return {
    help: values.help,
    benchmarks: positionals.length ? positionals : names,
    options: {
      ...(values.sizes !== undefined && { sizes: values.sizes.split(',').map((size) => whole(size, '--sizes', 1, 8192)) }),
      ...(values.rounds !== undefined && { rounds: whole(values.rounds, '--rounds', 1, 1000) }),
      ...(values.only !== undefined && { only: values.only }),
    },
  }
}

try {
  const { help: wanted, benchmarks, options } = parse(process.argv.slice(2))
  if (wanted) {
    console.log(help)
  } else {
    printMachine()
    for (const name of benchmarks) save(name, await (await import(`./${name}.mjs`)).run(options))
  }
} catch (error) {
  console.error(error instanceof UsageError ? `bench: ${error.message}; see --help` : `bench: ${error.message}`)
  process.exitCode = error instanceof UsageError ? 2 : 1
}
