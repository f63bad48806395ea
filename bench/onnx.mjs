/** Exported models in onnxruntime beside ours: a prompt at once, and a token after it, as generation has them. */
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError, version } from './report.mjs'
import { summary } from './timing.mjs'

/** LinearAttention, Scan over a step of the same rule's kin, Scan over a net's. */
const presets = ['delta', 'kda', 'default', 'delta-rnn']
const contenders = ['fastweights', 'onnxruntime-node', 'onnxruntime-web']
const parts = ['prompt', 'tokens']

export async function run({ sizes: [T, ...more] = [256], rounds = 5, threads = 1, only = '' }) {
  if (more.length > 0) throw new UsageError(`--sizes: onnx takes one length, not ${more.length + 1}`)
  const chosen = presets.filter((name) => name.includes(only))
  if (chosen.length === 0) throw new UsageError(`--only: no preset's name contains '${only}' (there are ${presets.join(', ')})`)
  const results = []
  let length
  for (const preset of chosen) {
    const running = contenders.map((name) => ({ name, child: start('./onnx-child.mjs', { relaxed: true }), prompt: [], tokens: [] }))
    try {
      for (const { name, child } of running) {
        progress(`${preset}: warm-up, ${name}`)
        length = (await child.call('open', { name, preset, threads, T })).length
      }
      for (let round = 0; round < rounds; round++)
        for (const row of running)
          for (const part of parts) {
            progress(`${preset}: round ${round + 1}/${rounds}, ${row.name}`)
            row[part].push(await row.child.call('sample', { part }))
          }
      for (const { name, prompt, tokens } of running) results.push({ preset, name, prompt: summary(prompt), tokens: summary(tokens) })
    } finally {
      for (const { child } of running) child.stop()
    }
    progress('')
  }
  const peers = contenders.slice(1).map((name) => `${name} ${version(name)}`)
  console.log(
    `\n${peers.join(', ')}; ${threads === 1 ? '1 thread' : `${threads} threads`}; a prompt of ${T} tokens, then ${length} one by one; medians of ${rounds} interleaved rounds\n`,
  )
  const ours = (preset, part) => results.find((row) => row.preset === preset && row.name === contenders[0])[part].median
  printTable(
    ['model', 'prompt, ms', 'of ours', 'a token, µs', 'of ours'],
    results.flatMap(({ preset, name, prompt, tokens }) => [
      ...(name === contenders[0] ? [null] : []),
      [
        `${preset}, ${name}`,
        digits(1e3 * prompt.median),
        digits(prompt.median / ours(preset, 'prompt')),
        digits((1e6 * tokens.median) / length),
        digits(tokens.median / ours(preset, 'tokens')),
      ],
    ]),
  )
  return { sizes: { T }, threads, rounds, results }
}
