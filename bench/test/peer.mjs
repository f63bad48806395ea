#!/usr/bin/env node
/** Stands in for a Python that has PyTorch, and fails as PEER says; its times are made up. Of the forward rows alone, so that those after them show what is left. */
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

if (process.argv[2] === '-c') process.exit() // Every package is there.
const fla = { version: null, lacks: 'it stands in' }
const fails = {}
const functions = {
  about() {
    if (process.env.PEER === 'knows nothing') throw new Error('RuntimeError: no driver')
    return { version: '0', lacks: null, name: 'nothing', cuda: null, fla }
  },
  prepare({ label, form, backward }) {
    fails[label] = form === 'loop' && !backward
    return {}
  },
  async sample({ label }) {
    await sleep(20)
    if (fails[label] && process.env.PEER === 'dies') {
      console.error('Fatal error\nSegmentation fault')
      process.exit(3)
    }
    if (fails[label] && process.env.PEER === 'loses the card')
      throw new Error('RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered')
    return { seconds: 0.02 }
  },
  drop: () => ({}),
}

let idle
for await (const line of createInterface({ input: process.stdin })) {
  clearTimeout(idle)
  const { name, argument } = JSON.parse(line)
  let answer
  try {
    answer = { result: await functions[name](argument) }
  } catch ({ message }) {
    answer = { error: message }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
  if (name === 'sample' && fails[argument.label] && process.env.PEER === 'dies unasked') idle = setTimeout(() => process.exit(3), 50)
}
