/**
 * Builds the site into site/dist: scripts and styles (esbuild), pages (Eleventy), and the service worker, which holds the list of all files.
 * It reads dist/ of the root, so that comes first: `npm run site` at the root does both. Settings, from the environment:
 *
 *   SITE_URL    where the site is published, such as https://example.org/fastweights/; for links that others share
 *   SOURCE_URL  what a source file's path is put after, such as https://example.org/fastweights/blob/main/; without it links to a line go to the
 *               site's own pages of the sources
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, posix, relative, sep } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import Eleventy from '@11ty/eleventy'
import { build } from 'esbuild'
import { classNames } from '../class-names.mjs'
import { parts } from './parts.mjs'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'site')
export const output = join(folder, 'dist')

/** What scripts of pages are bundled with: the library is that of dist/, and what it has for Node alone falls away. */
export const bundling = {
  absWorkingDir: folder,
  bundle: true,
  format: 'esm',
  target: 'es2022',
  define: { process: 'undefined' },
  external: ['node:*'],
  alias: Object.fromEntries(
    [
      ['fastweights/nn', 'nn'],
      ['fastweights/tasks', 'tasks'],
      ['fastweights/claims', 'claims'],
      ['fastweights', 'engine'],
    ].map(([name, part]) => [name, join(root, 'dist', part, 'index.js')]),
  ),
  logLevel: 'warning',
}

/** An address of a setting, which ends where a path can be added; '' where it isn't set. */
function address(name) {
  const given = process.env[name] ?? ''
  if (given !== '' && !/^https?:\/\/.+\/$/.test(given)) throw new Error(`${name}: ${given} must be an address that ends with a slash`)
  return given
}

const settings = {
  site: address('SITE_URL'),
  source: address('SOURCE_URL'),
  version: JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version,
  parts,
}

const kernels = join(root, 'dist/kernels-wasm/generated/bytes.js')
const kernelNames = ['simd', 'relaxed']

/** The kernels as files, of which a page fetches the one that its browser runs: as text within scripts both are three times as large. */
const kernelFiles = {
  name: 'kernels as files',
  setup({ onLoad }) {
    onLoad({ filter: /kernels-wasm[\\/]generated[\\/]bytes\.js$/ }, async () => {
      const { signatures, ...builds } = await import(pathToFileURL(kernels))
      const line = async (name) => {
        const [shared, own] = await Promise.all([true, false].map((shared) => builds[name](shared)))
        const flags = shared.findIndex((byte, i) => byte !== own[i])
        return `export const ${name} = (shared) => load('${name}', ${flags}, shared)`
      }
      const lines = await Promise.all(kernelNames.map(line))
      return {
        contents: `async function load(name, flags, shared) {
  const { href } = new URL('./' + name + '.wasm', import.meta.url)
  const fail = (why) => {
    throw new Error(\`the kernels can't be fetched: \${why}, \${href}\`)
  }
  const response = await fetch(href).catch(({ message }) => fail(message))
  if (!response.ok) fail(response.status)
  const bytes = new Uint8Array(await response.arrayBuffer())
  if (!shared) bytes[flags] = 1
  return bytes
}
${lines.join('\n')}
export const signatures = ${JSON.stringify(signatures)}`,
      }
    })
  },
}

async function writeKernels(outdir) {
  const builds = await import(pathToFileURL(kernels))
  mkdirSync(outdir, { recursive: true })
  for (const name of kernelNames) writeFileSync(join(outdir, `${name}.wasm`), await builds[name](true))
}

async function scripts() {
  const all = Object.assign({ page: 'scripts/page.ts' }, ...parts.map(({ scripts }) => scripts))
  const outdir = join(output, 'assets')
  await Promise.all([
    // One folder for all: the threads of wasm start from the worker.js beside whatever file the engine is in.
    build({
      ...bundling,
      plugins: [kernelFiles, classNames],
      entryPoints: all,
      outdir,
      splitting: true,
      minify: true,
      chunkNames: 'chunk-[hash]',
    }),
    writeKernels(outdir),
    // What runs where there is no address, and can fetch nothing: classic scripts, since browsers start a worker from a text only as one.
    build({
      ...bundling,
      plugins: [classNames],
      define: { ...bundling.define, 'import.meta.url': '"about:blank"' },
      entryPoints: Object.assign({}, ...parts.map(({ whole }) => whole)),
      outdir,
      format: 'iife',
      minify: true,
    }),
    // Before the page is drawn, so not a module.
    build({ ...bundling, entryPoints: { theme: 'scripts/theme.ts' }, outdir, format: 'iife', minify: true }),
    build({
      ...bundling,
      entryPoints: Object.assign({ base: 'style/base.css' }, ...parts.map(({ styles }) => styles)),
      loader: { '.woff2': 'file' },
      assetNames: '[name]',
      outdir,
      minify: true,
    }),
  ])
  cpSync(join(root, 'dist/browser/worker.js'), join(outdir, 'worker.js'))
  // The licence of the font of formulas asks to be beside it.
  cpSync(
    join(dirname(createRequire(import.meta.url).resolve('@fontsource/stix-two-math/package.json')), 'LICENSE'),
    join(outdir, 'stix-two-math.txt'),
  )
  for (const file of ['icon.svg', 'share.png']) cpSync(join(folder, 'style', file), join(outdir, file))
}

/** How many folders a page is below the site's root, as what leads there. */
const up = (url) => '../'.repeat(url.split('/').length - 2) || './'

async function pages() {
  const eleventy = new Eleventy(folder, output, {
    quietMode: true,
    configPath: false,
    config(config) {
      config.setTemplateFormats(['11ty.js'])
      config.setIncludesDirectory('layout')
      config.addGlobalData('layout', 'page.11ty.mjs')
      config.addGlobalData('settings', settings)
      // `this.to('study/')`: an address on the site, relative to the page.
      config.addJavaScriptFunction('to', function (path) {
        return up(this.page.url) + path
      })
      // `this.source('nn/trace.ts', 12)`: where a reader finds that line.
      config.addJavaScriptFunction('source', function (path, line) {
        const place = settings.source ? settings.source + path : `${up(this.page.url)}source/${path}/`
        return line === undefined ? place : `${place}#L${line}`
      })
      return { dir: { includes: 'layout' } }
    },
  })
  await eleventy.write()
}

/** Files of the site, by their addresses from its root, in order. */
const files = () =>
  readdirSync(output, { recursive: true })
    .filter((path) => statSync(join(output, path)).isFile())
    .map((path) => path.split(sep).join(posix.sep))
    .sort()

/** The service worker keeps every file but the many pages of the API and of the sources, which it keeps once they are read. */
async function serviceWorker() {
  const all = files()
  const hash = createHash('sha256')
  for (const path of all) hash.update(path).update(readFileSync(join(output, path)))
  const kept = all.filter((path) => !/^(api|source)\//.test(path)).map((path) => path.replace(/(^|\/)index\.html$/, '$1') || './')
  await build({
    ...bundling,
    entryPoints: { sw: 'scripts/sw.ts' },
    outdir: output,
    format: 'iife',
    minify: true,
    define: { FILES: JSON.stringify(kept), VERSION: JSON.stringify(hash.digest('hex').slice(0, 16)) },
  })
}

async function main() {
  const began = performance.now()
  const typescript = join(dirname(createRequire(join(root, 'package.json')).resolve('typescript/package.json')), 'bin/tsc')
  execFileSync(process.execPath, [typescript, '-p', folder], { stdio: 'inherit' })
  rmSync(output, { recursive: true, force: true })
  await scripts()
  await pages()
  await serviceWorker()
  const size = files().reduce((n, path) => n + statSync(join(output, path)).size, 0)
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  console.log(`${relative(root, output)}: ${files().length} files, ${(size / 1e6).toFixed(1)} MB, in ${seconds} s`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
