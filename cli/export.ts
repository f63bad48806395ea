/** `fastweights export`: a run as files that other programs compute with. Tests: test/onnx/export.test.ts, test/cli/pretrained.test.ts. */
import { statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { PackageName } from '../nn/index.ts'
import { type ExportOptions, exportModel } from '../onnx/export.ts'
import { OnnxError } from '../onnx/proto.ts'
import { UsageError } from './arguments.ts'
import { checkWritable, FileError, writeAtomic } from './files.ts'
import { exportPretrained } from './pretrained.ts'
import { checkpointName, isImported, latestRun, openRun } from './runs.ts'
import { say } from './terminal.ts'

export interface ExportCommandOptions {
  run: string | undefined
  format: 'onnx' | PackageName | undefined
  domain: ExportOptions['domain']
  precision: 'f32' | 'f16'
  context: number
  out: string | undefined
  given: ReadonlySet<string>
}

/** Options of ONNX alone. */
const ofOnnx = ['domain', 'precision', 'context'] as const

export async function exportRun(options: ExportCommandOptions, version: string): Promise<number> {
  const { run: named, format: wanted, domain, precision, context, out, given } = options
  const run = named ?? latestRun()
  const imported = isImported(run)
  if (!imported && wanted !== undefined && wanted !== 'onnx')
    throw new FileError(
      `${run} holds no model of ${wanted} that was imported: only those are written as its files; leave --format out for ONNX`,
    )
  if (imported && wanted !== 'onnx') {
    const idle = ofOnnx.find((name) => given.has(name))
    if (idle !== undefined) throw new UsageError(`--${idle}: means nothing but with --format onnx`)
    return exportPretrained(run, wanted, out)
  }
  if (imported)
    throw new FileError(`${run} holds a model of another package, which isn't written as ONNX: leave --format out for its package's files`)
  const { checkpoint, vocabulary, preset, training } = openRun(run)
  const folder = statSync(run).isDirectory() ? run : dirname(run)
  const file = out ?? join(folder, 'model.onnx')
  checkWritable(file, folder === run ? join(run, checkpointName) : run)
  const { symbols } = vocabulary
  const metadata = { symbols: JSON.stringify(symbols), preset, prompt: training.prompt, fastweights: version }
  try {
    const { bytes, nodes } = exportModel(checkpoint, { domain, half: precision === 'f16', context, metadata })
    writeAtomic(file, bytes)
    const parts = Object.entries(nodes).map(([op, n]) => `${n} ${op}`)
    const size = bytes.length < 1e6 ? `${Math.round(bytes.length / 1e3)} kB` : `${(bytes.length / 1e6).toFixed(1)} MB`
    say(`${file}: ${size}, ${[...parts, parts.length > 0 ? 'the rest in elementary nodes' : 'in elementary nodes'].join(', ')}`)
  } catch (error) {
    throw error instanceof OnnxError ? new FileError(`${run}: ${error.message}`) : error
  }
  return 0
}
