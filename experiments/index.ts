/** Every figure and table that is reproduced, by name. A new one is a file beside this one and a row here. */
import { baRetrieval } from './ba-retrieval.ts'
import { characters } from './characters.ts'
import { codeExecution } from './code-execution.ts'
import type { Figure } from './figure.ts'
import { formalLanguages } from './formal-languages.ts'
import { listops } from './listops.ts'
import { madTasks } from './mad.ts'
import { multiQuery } from './mqar.ts'
import { retrieval } from './retrieval.ts'
import { sequenceToSequence } from './sequence-to-sequence.ts'
import { stateTracking } from './state-tracking.ts'
import { wikitext } from './wikitext.ts'

export const figures: Readonly<Record<string, Figure>> = {
  ...retrieval,
  ...stateTracking,
  ...multiQuery,
  ...madTasks,
  ...baRetrieval,
  ...formalLanguages,
  ...listops,
  ...codeExecution,
  ...sequenceToSequence,
  ...characters,
  ...wikitext,
}
