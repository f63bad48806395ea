/** README.md and docs/: programs in them compile strictly and run, pages of a rule and of the picture show what happens, links lead somewhere. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { abilities } from '../../claims/implementation.ts'
import { claims } from '../../claims/index.ts'
import { type Rule, rules } from '../../engine/index.ts'
import { architectures, attentionPresets, outside, recurrentNetNames, Transformer, writeSafetensors } from '../../nn/index.ts'
import { tasks } from '../../tasks/index.ts'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const read = (page: string): string => readFileSync(join(root, page), 'utf8')
const pages = ['README.md', ...readdirSync(join(root, 'docs')).flatMap((name) => (name.endsWith('.md') ? [`docs/${name}`] : []))]
const main = join(root, 'dist/node/cli/main.js')

const blocks = (page: string, language: string): string[] =>
  [...read(page).matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, text]) => text)

describe('the documents', function () {
  this.timeout(60_000)
  // Within the package, so that its names are found, and its types.
  mkdirSync(join(root, 'dist/documents'), { recursive: true })
  const folder = mkdtempSync(join(root, 'dist/documents/'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  const node = (...parameters: string[]): string =>
    execFileSync(process.execPath, parameters, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

  describe('programs', () => {
    const programs = pages.flatMap((page) =>
      blocks(page, 'ts').map((source, i) => ({ name: `${page}, ${i + 1}`, file: `${page.replace(/\W/g, '-')}-${i + 1}`, source })),
    )

    before(async () => {
      for (const { file, source } of programs) writeFileSync(join(folder, `${file}.ts`), source)
      // What the page on models reads, as if PyTorch had written it.
      const model = new Transformer({ symbols: 65, dModel: 128, heads: 4, layers: 2, dFf: 512, nu: 1 })
      writeFileSync(join(folder, 'model.safetensors'), writeSafetensors(await model.stateDict()))
      const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc')
      const compilerOptions = { strict: true, module: 'nodenext', target: 'es2022', lib: ['es2023', 'dom'], types: ['node'] }
      writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }))
      const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', '.'], { cwd: folder, encoding: 'utf8' })
      assert.equal(status, 0, stdout)
    })

    it('are there', () => {
      const found = programs.map(({ name }) => name)
      for (const page of [
        'README.md',
        'docs/command.md',
        'docs/gpu.md',
        'docs/inspect.md',
        'docs/models.md',
        'docs/nets.md',
        'docs/outside.md',
        'docs/rules.md',
        'docs/state.md',
        'docs/tasks.md',
      ])
        assert.ok(found.includes(`${page}, 1`), page)
      // The page of docs/browser.md runs in test/browser.
      const others = pages.flatMap((page) => [...read(page).matchAll(/^```(.+)$/gm)].map(([, language]) => `${page}: ${language}`))
      assert.deepEqual(
        others.filter((other) => !other.endsWith(': ts')),
        ['docs/browser.md: html', 'docs/claims.md: js'],
      )
    })

    for (const { name, file, source } of programs)
      it(name, () => {
        const printed = node(`${file}.js`)
        const promised = [...source.matchAll(/console\.log\(.*\) \/\/ prints (.*)$/gm)].map(([, line]) => `${line}\n`)
        if (promised.length > 0) assert.equal(printed, promised.join(''))
        if (name !== 'README.md, 1') return
        const losses = [...printed.matchAll(/^\d+ (.*)$/gm)].map(([, loss]) => Number(loss))
        // From log 10 = 2.3, where nothing is known, to 0.12 to 0.38 in ten runs.
        assert.ok(losses.length === 3 && losses[2] < 1, printed)
      })
  })

  it('a rule of your own is checked as the page on claims shows', () => {
    const page = read('docs/claims.md')
    writeFileSync(join(folder, 'my-rule.mjs'), blocks('docs/claims.md', 'js')[0])
    const lines = (text: string): string[] => [...text.matchAll(/^ *ok +(.*?) +\d+ runs/gm)].map(([, claim]) => claim)
    const printed = node(main, 'verify', './my-rule.mjs', '--runs', '3')
    const shown = lines(page.slice(page.indexOf('verify ./my-rule.mjs')))
    assert.equal(shown.length, 9)
    assert.deepEqual(lines(printed).sort(), shown.sort()) // Claims are checked at the same time.
    assert.match(printed, /^9 claims, 3 cases each: 9 hold; /m)
  })

  it('count and name what there is', async () => {
    const wrong = claims.filter(({ holds }) => holds === false).length
    const { mutations } = (await import(new URL('../../../test/mutations/table.mjs', import.meta.url).href)) as { mutations: unknown[] }
    for (const [page, words] of [
      ['README.md', `${claims.length - wrong} equivalences`],
      ['README.md', `and ${wrong} false ones`],
      ['README.md', `${Object.keys(rules).length} ways to write`],
      ['docs/claims.md', `each of the ${Object.keys(rules).length} rules`],
      ['docs/claims.md', `the ${mutations.length} deliberate bugs`],
      ...Object.keys(rules).map((name) => ['docs/rules.md', `\`${name}\``]),
      ...recurrentNetNames.filter((name) => !/-v\d$/.test(name)).map((name) => ['docs/nets.md', `\`${name}\``]),
      ...Object.keys(outside).map((repository) => ['docs/outside.md', `${repository.split('/').at(-1)}`]),
      ...architectures.filter((row) => row.package !== 'rwkv').map(({ modelType }) => ['docs/interop.md', `\`${modelType}\``]),
      ...Object.keys(tasks).map((name) => ['docs/tasks.md', `\`${name}\``]),
      ...Object.keys(attentionPresets).map((name) => ['docs/models.md', `\`${name}\``]),
    ])
      assert.ok(read(page).replace(/\s+/g, ' ').includes(words), `${page}: ${words}`)
  })

  it('the page on conformance has the inputs and the state of every rule, and every option of an adapter', () => {
    const page = read('docs/conformance.md').replace(/ +\|/g, ' |')
    const named = (of: Record<string, readonly string[]>): string =>
      Object.entries(of)
        .map(([name, axes]) => `\`${name}\` [${axes}]`)
        .join(', ')
    for (const [name, { inputs, state }] of Object.entries<Rule>(rules)) {
      const shapes = Object.fromEntries(Object.entries(inputs).map(([input, { shape }]) => [input, shape]))
      assert.ok(page.includes(`| \`${name}\` | ${named(shapes)} | ${named(state)} |`), name)
    }
    for (const option of Object.keys(abilities)) assert.ok(page.includes(`| \`${option}\` | `), option)
  })

  it('name options that there are', () => {
    const help = ['train', 'generate', 'inspect', 'import', 'export', 'compare', 'verify', 'reproduce', 'task', 'doctor']
      .map((command) => node(main, command, '--help'))
      .join()
    const options = new Set(help.replaceAll('--[no-]', '--').match(/--[a-z][a-z-]*/g))
    // Of npm run bench, of sbatch, and of PyTorch's programs.
    const bench = ['--clock', '--counts', '--node', '--only', '--python', '--rounds', '--roofline', '--seconds', '--sizes']
    const elsewhere = ['--array', '--cpus-per-task', '--wrap', '--nnodes', '--nproc-per-node', '--rdzv-endpoint', '--model', '--checkpoint']
    const others = [...bench, ...elsewhere]
    for (const page of pages)
      for (const [name] of read(page).matchAll(/(?<![\w-])--[a-z][a-z-]*/g))
        assert.ok(options.has(name) || others.includes(name), `${page}: ${name}`)
  })

  it('the page on deviations names claims and tests that there are', () => {
    const rows = [...read('docs/deviations.md').matchAll(/^\| (.*) \|$/gm)].map(([, row]) => row.split(' | '))
    const shown = rows.filter(([first, , , last]) => !/^-+$/.test(first) && !/shown by *$/.test(last))
    assert.ok(shown.length > 60)
    for (const cells of shown) {
      assert.equal(cells.length, 4, cells[0])
      const items = cells[3].split('; ').filter((part) => part.includes('`'))
      assert.ok(items.length > 0, cells[0])
      for (const item of items) {
        const where = `${cells[0].trim()}: ${item}`
        const [, figure, name, title] = /^(figure )?`([^`]+)`(?:: (.*?))? *$/.exec(item) ?? assert.fail(where)
        if (figure) continue // Their files aren't here.
        const found = claims.filter((claim) => (name.startsWith('*') ? claim.name.endsWith(name.slice(1)) : claim.name === name))
        if (name.endsWith('.test.ts')) assert.ok(title && read(`test/${name}`).includes(title), where)
        else assert.ok(found.length > (name.startsWith('*') ? 10 : 0), where)
      }
    }
  })

  it('lead somewhere', () => {
    const anchor = (heading: string): string =>
      heading
        .toLowerCase()
        .replace(/[^\w\- ]/g, '')
        .replaceAll(' ', '-')
    for (const page of pages) {
      for (const [, link] of read(page).matchAll(/\]\((?!https:)([^)]+)\)/g)) {
        const [file, place] = link.split('#')
        const path = file === '' ? join(root, page) : join(root, dirname(page), file)
        assert.ok(existsSync(path), `${page}: ${link}`)
        if (place === undefined) continue
        const headings = [...readFileSync(path, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchor(heading))
        assert.ok(headings.includes(place), `${page}: ${link}`)
      }
      if (page !== 'README.md') assert.match(read(page), /\]\(\.\.\/README\.md\)/, `${page} leads back`)
      if (page !== 'README.md') assert.ok(read('README.md').includes(`](${page})`), `README.md leads to ${page}`)
    }
  })

  it('README.md is short, and its picture is what the library computes', () => {
    assert.ok(read('README.md').split('\n').length <= 180)
    assert.equal(node(join(root, 'docs/picture.mjs'), '-'), read('docs/fast-weights.svg'))
  })
})
