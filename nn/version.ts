/**
 * What our own files say of themselves in safetensors' metadata: `fastweights: 'checkpoint 3'`, beside `format: 'pt'`, since Hugging Face's
 * loaders refuse any format but pt, tf, flax and mlx. Before there was that key, the version stood under `format`.
 */
import { printable } from './foreign.ts'

export interface Version {
  readonly fastweights: string
  /** The `format` of a file of before. */
  readonly before: string
}

export const versionMetadata = ({ fastweights }: Version): Record<string, string> => ({ format: 'pt', fastweights })

/** Undefined for the metadata of a file of this version; else what it says instead. */
export function otherVersion(metadata: Record<string, string>, { fastweights, before }: Version): string | undefined {
  const quote = (text: string): string => printable(JSON.stringify(text.slice(0, 80)))
  const { format, fastweights: found } = metadata
  if (format === 'pt' ? found === fastweights : format === before && found === undefined) return undefined
  if (format === 'pt' && found !== undefined) return quote(found)
  return format === undefined ? 'no format' : `format ${quote(format)}${format === 'pt' ? ' and nothing of fastweights' : ''}`
}
