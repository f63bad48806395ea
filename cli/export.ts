/** `fastweights export`: a run as a file that other programs compute with. Tests: test/onnx/export.test.ts. */
import { statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type ExportOptions, exportModel } from '../onnx/export.ts'
import { OnnxError } from '../onnx/proto.ts'
import { checkWritable, FileError, writeAtomic } from './files.ts'
import { latestRun, openRun } from './runs.ts'
import { say } from './terminal.ts'

export interface ExportCommandOptions {
  run: string | undefined
  domain: ExportOptions['domain']
  precision: 'f32' | 'f16'
  context: number
  out: string | undefined
}

export async function exportRun({ run: given, domain, precision, context, out }: ExportCommandOptions, version: string): Promise<number> {
  const run = given ?? latestRun()
  const { checkpoint, vocabulary, preset, training } = openRun(run)
  const file = out ?? join(statSync(run).isDirectory() ? run : dirname(run), 'model.onnx')
  checkWritable(file)
  const { symbols } = vocabulary
  const metadata = { symbols: JSON.stringify(symbols), preset, prompt: training.prompt, fastweights: version }
  try {
    const { bytes, nodes } = exportModel(checkpoint, { domain, half: precision === 'f16', context, metadata })
    writeAtomic(file, bytes)
    const parts = Object.entries(nodes).map(([op, n]) => `${n} ${op}`)
    const size = bytes.length < 1e6 ? `${Math.round(bytes.length / 1e3)} kB` : `${(bytes.length / 1e6).toFixed(1)} MB`
    say(`${file}: ${size}, ${[...parts, 'the rest in elementary nodes'].join(', ')}`)
  } catch (error) {
    throw error instanceof OnnxError ? new FileError(`${run}: ${error.message}`) : error
  }
  return 0
}
