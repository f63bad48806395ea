/** Imports, those of types too, run in no circle and, between folders, one way: see CONTRIBUTING.md. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('../../../', import.meta.url))

/** A folder imports from itself and from what stands in an earlier row. */
const layers = [['kernels-wasm', 'kernels-wgsl'], ['engine'], ['nn'], ['onnx'], ['claims', 'tasks'], ['cli'], ['test'], ['site'], ['bench']]

type Graph = ReadonlyMap<string, readonly string[]>

/** Each source file, from the root, with the files that it imports. A compiled one (bench/ has them) stands for its source. */
function imports(): Graph {
  const graph = new Map<string, string[]>()
  const visit = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isDirectory() && entry.name !== 'node_modules') visit(path)
      else if (/\.(ts|mjs)$/.test(entry.name)) {
        const file = relative(root, path).replaceAll('\\', '/')
        const found = readFileSync(path, 'utf8').matchAll(
          /^\s*(?:(?:import|export|\}).*?\bfrom |import )'(\.[^']+)'|\bimport\('(\.[^']+)'\)/gm,
        )
        graph.set(
          file,
          [...found].map(([, fixed, later]) => resolve(file, fixed ?? later)),
        )
      }
    }
  }
  for (const folder of layers.flat()) visit(join(root, folder))
  return graph
}

/** AssemblyScript's imports have no ending. */
function resolve(file: string, name: string): string {
  const path = posix.join(posix.dirname(file), name).replace(/^dist\/(.*)\.js$/, '$1.ts')
  const found = [path, `${path}.ts`].find((path) => existsSync(join(root, path)))
  assert.ok(found, `${file}: imports ${name}, which isn't there`)
  return found
}

/** The circles that a walk from the first file to the last comes upon, each from its first file back to it. */
function circles(graph: Graph): string[] {
  const found: string[] = []
  const done = new Set<string>()
  const walk = (file: string, path: readonly string[]): void => {
    const begin = path.indexOf(file)
    if (begin >= 0) found.push([...path.slice(begin), file].join(' → '))
    else if (!done.has(file)) for (const next of graph.get(file) ?? []) walk(next, [...path, file])
    done.add(file)
  }
  for (const file of graph.keys()) walk(file, [])
  return found
}

/** The imports that a folder may not have. */
const strays = (graph: Graph): string[] => {
  const layer = (file: string): number => layers.findIndex((folders) => folders.includes(file.split('/')[0]))
  const may = (from: string, to: string): boolean => dirname(from).split('/')[0] === dirname(to).split('/')[0] || layer(to) < layer(from)
  return [...graph].flatMap(([file, others]) => others.filter((other) => !may(file, other)).map((other) => `${file} → ${other}`))
}

describe('imports', () => {
  it('are found in every folder', () => {
    const graph = imports()
    for (const folder of layers.flat().filter((folder) => folder !== 'kernels-wgsl'))
      assert.ok(
        [...graph].some(([file, others]) => file.startsWith(`${folder}/`) && others.length > 0),
        folder,
      )
    assert.ok(graph.get('kernels-wasm/norm.ts')?.includes('kernels-wasm/lanes.ts'), 'an import of AssemblyScript')
    assert.ok(graph.get('nn/state.ts')?.includes('nn/parts.ts'), 'an import of types')
    assert.ok(graph.get('cli/verify.ts')?.includes('cli/report.ts'), 'an import at run time')
  })

  // No compiler looks at these scripts.
  it('of the benchmarks name what is there', async () => {
    let names = 0
    for (const script of readdirSync(join(root, 'bench')).filter((name) => name.endsWith('.mjs')))
      for (const [, list, path] of readFileSync(join(root, 'bench', script), 'utf8').matchAll(
        /^import \{([^}]*)\} from '\.\.\/(dist\/[^']*)'/gm,
      )) {
        const module = await import(pathToFileURL(join(root, path)).href)
        for (const name of list
          .split(',')
          .map((one) => one.trim().split(' as ')[0])
          .filter(Boolean)) {
          assert.ok(name in module, `bench/${script}: ${path} has no ${name}`)
          names++
        }
      }
    assert.ok(names > 20, `${names} names`)
  })

  it('run in no circle', () => {
    const three: Graph = new Map(Object.entries({ 'a.ts': ['b.ts'], 'b.ts': ['c.ts'], 'c.ts': ['d.ts', 'b.ts'], 'd.ts': [] }))
    assert.deepEqual(circles(three), ['b.ts → c.ts → b.ts'])
    assert.deepEqual(circles(imports()), [])
  })

  it('run one way between folders', () => {
    const two: Graph = new Map([
      ['engine/a.ts', ['kernels-wasm/b.ts', 'nn/c.ts']],
      ['claims/d.ts', ['tasks/e.ts', 'nn/c.ts']],
    ])
    assert.deepEqual(strays(two), ['engine/a.ts → nn/c.ts', 'claims/d.ts → tasks/e.ts'])
    assert.deepEqual(strays(imports()), [])
  })
})
