/** `fastweights export`: a run as files that other programs compute with. Tests: test/onnx/export.test.ts, test/cli/pretrained.test.ts. */
import { join } from 'node:path'
import { type Checkpoint, modelOf, type PackageName, safetensorsPieces } from '../nn/index.ts'
import { type ExportOptions, exportModel } from '../onnx/export.ts'
import { OnnxError } from '../onnx/proto.ts'
import { packagePresets } from '../tasks/presets.ts'
import { UsageError } from './arguments.ts'
import { checkWritable, FileError, writeAtomic } from './files.ts'
import { exportPretrained } from './pretrained.ts'
import { checkpointName, folderOfRun, isOfPackage, latestRun, openedModel, openImported, openRun } from './runs.ts'
import { bytes, counted, say } from './terminal.ts'

export interface ExportCommandOptions {
  run: string | undefined
  format: 'onnx' | 'safetensors' | PackageName | undefined
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
  const ofPackage = isOfPackage(run)
  const idle = ofOnnx.find((name) => given.has(name))
  if (idle !== undefined && (ofPackage || wanted === 'safetensors')) throw new UsageError(`--${idle}: means nothing but with --format onnx`)
  if (wanted === 'safetensors') return exportWeights(run, out)
  if (!ofPackage && wanted !== undefined && wanted !== 'onnx') {
    openRun(run) // what is no run at all is told as such
    throw new FileError(
      `${run} holds no model of ${wanted}: those are written as its files that were imported, or trained with a preset such as ${Object.keys(packagePresets)[0]}; leave --format out for ONNX`,
    )
  }
  if (ofPackage && wanted !== 'onnx') return exportPretrained(run, wanted, out)
  if (ofPackage)
    throw new FileError(`${run} holds a model of another package, which isn't written as ONNX: leave --format out for its package's files`)
  const { checkpoint, vocabulary, preset, training } = openRun(run)
  const file = fileFor(run, out, 'model.onnx')
  const { symbols } = vocabulary
  const metadata = { symbols: JSON.stringify(symbols), preset, prompt: training.prompt, fastweights: version }
  try {
    const { bytes: content, nodes } = exportModel(checkpoint as Checkpoint, { domain, half: precision === 'f16', context, metadata })
    writeAtomic(file, content)
    const parts = Object.entries(nodes).map(([op, n]) => `${n} ${op}`)
    const size = content.length < 1e6 ? `${Math.round(content.length / 1e3)} kB` : `${(content.length / 1e6).toFixed(1)} MB`
    say(`${file}: ${size}, ${[...parts, parts.length > 0 ? 'the rest in elementary nodes' : 'in elementary nodes'].join(', ')}`)
  } catch (error) {
    throw error instanceof OnnxError ? new FileError(`${run}: ${error.message}`) : error
  }
  return 0
}

/** Where a file of a run goes: into its folder under this name, unless something else is said, and never over its checkpoint. */
function fileFor(run: string, out: string | undefined, name: string): string {
  const folder = folderOfRun(run)
  const file = out ?? join(folder, name)
  checkWritable(file, folder === run ? join(run, checkpointName) : run)
  return file
}

/** The parameters alone, under the names that they have here. */
async function exportWeights(run: string, out: string | undefined): Promise<number> {
  const imported = isOfPackage(run) ? openImported(run) : undefined
  const trained = imported ? undefined : openRun(run).checkpoint
  const file = fileFor(run, out, 'model.safetensors')
  const model = imported ? openedModel(run, imported) : modelOf<'transformer' | 'blocks'>(trained!)
  const { size, pieces } = safetensorsPieces(await model.stateDict())
  writeAtomic(file, pieces)
  say(`${file}: ${counted(model.parameterCount(), 'parameter')}, ${bytes(size)}`)
  return 0
}
