/** What TypeDoc reads of the package: every public name of the four entry points, with its types and comments. */
import { join } from 'node:path'
import { Application, TSConfigReader } from 'typedoc'
import { root } from '../study/source.mjs'

/** The entry points, as a program imports them. */
export const entries = [
  { name: 'fastweights', folder: 'engine', path: 'api/fastweights/', words: 'Tensors, ops, devices, rules and recurrent nets.' },
  { name: 'fastweights/nn', folder: 'nn', path: 'api/nn/', words: 'Modules, layers, models, optimisers, the trainer, generation, files.' },
  { name: 'fastweights/tasks', folder: 'tasks', path: 'api/tasks/', words: 'Texts, batches, synthetic tasks, presets, metrics.' },
  {
    name: 'fastweights/claims',
    folder: 'claims',
    path: 'api/claims/',
    words: 'What is claimed of rules and devices, and how it is checked.',
  },
]

async function read() {
  const app = await Application.bootstrap(
    {
      entryPoints: entries.map(({ folder }) => join(root, folder, 'index.ts')),
      tsconfig: join(root, 'site/api/tsconfig.json'),
      basePath: root,
      // The compiler of the package checks them; this one only reads.
      skipErrorChecking: true,
      excludeInternal: true,
      excludePrivate: true,
      excludeProtected: true,
      disableGit: true,
      sourceLinkTemplate: '{path}',
      readme: 'none',
      sort: ['source-order'],
      // [B,T]: in a comment is a shape, not the address of a link, which is what TypeDoc warns about.
      logLevel: 'Error',
    },
    [new TSConfigReader()],
  )
  const project = await app.convert()
  if (!project) throw new Error('site: TypeDoc could not read the package')
  return app.serializer.projectToObject(project, root)
}

const project = await read()

/** TypeDoc's numbers of kinds. */
export const Kind = {
  Variable: 32,
  Function: 64,
  Class: 128,
  Interface: 256,
  Constructor: 512,
  Property: 1024,
  Method: 2048,
  Accessor: 262144,
  TypeAlias: 2097152,
}

const moduleOf = (folder) => {
  const module = project.children.find(({ name }) => name === folder || name === `${folder}/index`)
  if (!module) throw new Error(`site: TypeDoc has no module ${folder} (${project.children.map(({ name }) => name).join(', ')})`)
  return module
}

/** The public names of each entry point, in the order of the sources. What one hands on from another is left out there. */
export const names = new Map(
  entries.map(({ name, folder }) => [name, moduleOf(folder).children.filter(({ variant }) => variant === 'declaration')]),
)

/** Where a declaration is explained: its entry point's page and its name, by TypeDoc's id. */
export const places = new Map(
  entries.flatMap(({ name, path }) => names.get(name).map((declaration) => [declaration.id, { path, anchor: declaration.name }])),
)
/** The same by name, for examples; the first entry point that has it. */
export const placeByName = new Map([...places.values()].reverse().map((place) => [place.anchor, place]))
