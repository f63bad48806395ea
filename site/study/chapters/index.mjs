/**
 * The path of an hour, in its order. A chapter: `slug`, `title`, `description`, `lead`; `names`, what lights up together, by a name each: `math` (the symbol
 * as MathML has it), `code` (identifiers), `means`; and `sections`: `title`, `text`, `equations` and either `code`, with `notes` of [a text of a line, the note],
 * or `columns`, parts of files side by side. An equation: `id`, `tex` (the claim's, if left out), the name of its `claim` or its `test` (file and title), and its `check`
 * (checks.ts). See `excerpt` (source.mjs) for what names a part of a file, chapter.mjs for the rest.
 */
import tensor from './1-tensor.mjs'
import op from './2-op.mjs'
import sum from './3-sum.mjs'
import dpfp from './4-dpfp.mjs'
import delta from './5-delta.mjs'
import chunks from './6-chunks.mjs'
import kernel from './7-kernel.mjs'
import training from './8-training.mjs'
import generation from './9-generation.mjs'

export const chapters = [tensor, op, sum, dpfp, delta, chunks, kernel, training, generation]
