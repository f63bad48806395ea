/** Every figure and table that is reproduced, by name. A new one is a file beside this one and a row here. */
import type { Figure } from './figure.ts'
import { retrieval } from './retrieval.ts'

export const figures: Readonly<Record<string, Figure>> = { ...retrieval }
