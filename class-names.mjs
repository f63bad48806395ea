/**
 * For esbuild, which shortens names: classes of dist/ keep theirs as a field, since errors say them ("must be a Tensor, not a Parameter").
 */
import { readFile } from 'node:fs/promises'

export const classNames = {
  name: 'class names',
  setup: ({ onLoad }) =>
    onLoad({ filter: /[\\/]dist[\\/](engine|nn|tasks|claims|onnx|experiments|cli)[\\/].*\.js$/ }, async ({ path }) => {
      const text = await readFile(path, 'utf8')
      return {
        contents: text.replace(/^(?:export )?(?:default )?class (\w+)[^{\n]*\{$/gm, (line, name) => `${line} static name = '${name}';`),
      }
    }),
}
