/**
 * Bundles dist/ for pages, as dist/browser/NAME.js, and for Node, as dist/node: an entry point each and what they share in chunks, so that there is
 * one engine whoever imports it. For pages fast-check comes with the claims. In Node reading some two hundred files takes longer than most commands
 * do. node bundle.mjs, after tsc
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, transform } from 'esbuild'
import { classNames } from './class-names.mjs'

const root = dirname(fileURLToPath(import.meta.url))
const folder = join(root, 'dist/browser')
/**
 * The kernels are files of their own, which Node takes from there, too: so the package has them once. They are bundled from what they are compiled from, since
 * at the end those in dist/ become references to the bundles.
 */
const kernels = {
  kernels: 'kernels-wasm/generated/bytes',
  simd: 'kernels-wasm/generated/simd',
  relaxed: 'kernels-wasm/generated/relaxed',
  wgsl: 'kernels-wgsl/generated/wgsl',
}
const besides = (folder) => ({
  name: 'kernels',
  setup: ({ onResolve }) => {
    for (const [name, path] of Object.entries(kernels))
      onResolve({ filter: new RegExp(`${path}\\.js$`) }, () => ({
        ...{ path: `${folder}/${name}.js`, external: true, sideEffects: false },
      }))
  },
})
const options = {
  absWorkingDir: root,
  outdir: folder,
  bundle: true,
  format: 'esm',
  target: 'es2022',
  // With this, and so `inNode` (engine/platform.ts) false, ...
  define: { process: 'undefined' },
  external: ['node:*'],
  minifySyntax: true,
  metafile: true,
  write: false,
}
const entryPoints = {
  index: 'dist/engine/index.js',
  nn: 'dist/nn/index.js',
  tasks: 'dist/tasks/index.js',
  claims: 'dist/claims/index.js',
}
const bundles = [
  await build({ ...options, entryPoints, splitting: true, plugins: [besides('.'), classNames] }),
  await build({
    ...options,
    entryPoints: Object.fromEntries(Object.entries(kernels).map(([name, path]) => [name, `${path}.ts`])),
    splitting: true,
  }),
  // What pool.js starts: it looks for it beside itself. By itself, so that it is one file to copy where a bundler leaves it behind.
  await build({ ...options, plugins: [classNames], entryPoints: { worker: 'dist/engine/devices/wasm/worker.js' } }),
  // What `fastweights inspect` puts into its page.
  await build({ ...options, entryPoints: { inspect: 'dist/cli/inspect/script.js' }, format: 'iife' }),
]
const outputFiles = bundles.flatMap(({ outputFiles }) => outputFiles)
const outputs = Object.assign({}, ...bundles.map(({ metafile }) => metafile.outputs))

/** The licenses of the packages that a file holds code of. */
function licenses(file) {
  const packages = Object.keys(outputs[`dist/browser/${file}`].inputs).flatMap((path) => path.match(/^node_modules\/[^/]+/) ?? [])
  return [...new Set(packages)].map((path) => `/*! ${basename(path)}\n${readFileSync(join(root, path, 'LICENSE'), 'utf8')}*/\n`).join('')
}

// Node reads the package.json above a module for each one that it loads: this one is short, and has what a module in dist finds the package by, and the command its version.
const { name, version, type, sideEffects, exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
writeFileSync(join(root, 'dist/package.json'), JSON.stringify({ name, version, type, sideEffects, exports }).replaceAll('./dist/', './'))
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder)
for (const { path, text } of outputFiles) {
  // ... the branches for Node are dead, and fall away pass by pass: what only they used falls with the next.
  let [code, length] = [text, Infinity]
  while (code.length < length) {
    length = code.length
    code = (await transform(code, { minify: true, treeShaking: true, format: 'esm', target: 'es2022' })).code
  }
  writeFileSync(path, licenses(basename(path)) + code)
}
for (const [name, path] of Object.entries(kernels))
  writeFileSync(join(root, `dist/${path}.js`), `export * from '../../browser/${name}.js'\n`)

rmSync(join(root, 'dist/node'), { recursive: true, force: true })
// Names as they are, but for a number where two modules have the same one and an underscore in a class that speaks of itself, for those who read what an error
// says. Chunks lie beside the command: from
// there what is found by its place, such as worker.js, lies as it does from dist/cli.
await build({
  absWorkingDir: root,
  outdir: 'dist/node',
  bundle: true,
  splitting: true,
  format: 'esm',
  target: 'es2022',
  platform: 'node',
  packages: 'external',
  chunkNames: 'cli/[name]-[hash]',
  plugins: [besides('../../browser'), classNames],
  entryPoints: {
    'engine/index': 'dist/engine/index.js',
    'nn/index': 'dist/nn/index.js',
    'tasks/index': 'dist/tasks/index.js',
    'claims/index': 'dist/claims/index.js',
    'cli/main': 'dist/cli/main.js',
    'cli/program': 'dist/cli/program.js',
    'cli/verify-worker': 'dist/cli/verify-worker.js',
    'cli/worker': 'dist/engine/devices/wasm/worker.js',
  },
})
