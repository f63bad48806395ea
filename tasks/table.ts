/** Every task by its name. One line a row. */
import { ba } from './ba.ts'
import { codeExecutionTasks } from './code-execution.ts'
import { copyTasks } from './copy.ts'
import { aaStar, ababStar, counter2, counter3, dyck1, parity, resetDyck1, shuffle2 } from './languages.ts'
import { listopsTasks } from './listops.ts'
import { madCompression, madCopy, madFuzzyRecall, madInContextRecall, madMemorization, madNoisyRecall, madSelectiveCopy } from './mad.ts'
import { mqar, mqarRandom } from './mqar.ts'
import { retrieval1, retrieval2 } from './retrieval.ts'
import { modularArithmetic, modularArithmeticBrackets, parityFinal } from './state-tracking.ts'
import type { AnyTask } from './task.ts'

/** The tasks by name. */
export const tasks = {
  'retrieval-1': retrieval1,
  'retrieval-2': retrieval2,
  'ba-retrieval': ba,
  mqar,
  'mqar-random': mqarRandom,
  'mad-in-context-recall': madInContextRecall,
  'mad-noisy-recall': madNoisyRecall,
  'mad-fuzzy-recall': madFuzzyRecall,
  'mad-memorization': madMemorization,
  'mad-compression': madCompression,
  'mad-selective-copy': madSelectiveCopy,
  'mad-copy': madCopy,
  parity,
  'aa-star': aaStar,
  'abab-star': ababStar,
  'dyck-1': dyck1,
  'reset-dyck-1': resetDyck1,
  'shuffle-2': shuffle2,
  'counter-2': counter2,
  'counter-3': counter3,
  'parity-final': parityFinal,
  'modular-arithmetic': modularArithmetic,
  'modular-arithmetic-brackets': modularArithmeticBrackets,
  ...listopsTasks,
  ...codeExecutionTasks,
  ...copyTasks,
} satisfies Record<string, AnyTask>

/** The name of a task: a key of `tasks`. */
export type TaskName = keyof typeof tasks
