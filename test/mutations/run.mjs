/**
 * npm run test:mutations [-- TEXT]: does anything notice? Copies the project to a temporary folder, injects the bugs of table.mjs one at a time
 * (those whose description contains TEXT), builds, and checks the claim, or runs the test, that must fail. First that all of these hold without a bug.
 * Caught is a bug that gives wrong numbers there, or makes the test fail.
 * Ends with exit code 1 if a bug survives.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mutations } from './table.mjs'

const root = fileURLToPath(new URL('../../', import.meta.url))
const text = process.argv[2] ?? ''
const chosen = mutations.filter(({ bug }) => bug.includes(text))
if (chosen.length === 0) {
  console.error(`mutations: no bug's description contains '${text}'`)
  process.exit(2)
}

const copy = mkdtempSync(join(tmpdir(), 'fastweights-mutations-'))
process.on('exit', () => rmSync(copy, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))
const files = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root, encoding: 'utf8' })
for (const file of files.split('\0').filter(Boolean)) cpSync(join(root, file), join(copy, file))
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))

const build = () => {
  const { status, stdout, stderr } = spawnSync('npm', ['run', 'build'], { cwd: copy, encoding: 'utf8' })
  if (status !== 0) throw new Error(`it doesn't compile: ${`${stdout}${stderr}`.trim().split('\n').slice(-3).join(' ')}`)
}

/** The verdicts of some claims on a device, by name. */
const verify = (claims, device) => {
  const out = join(copy, 'verdicts.json')
  const command = ['dist/node/cli/main.js', 'verify', ...claims, '--device', device, '--runs', '60', '--json', out]
  const { status, stderr } = spawnSync(process.execPath, command, { cwd: copy, encoding: 'utf8' })
  if (status !== 0 && status !== 1) throw new Error(`verify: ${stderr.trim()}`)
  const { claims: checked } = JSON.parse(readFileSync(out, 'utf8'))
  return new Map(checked.map(({ name, verdicts }) => [name, verdicts[0]]))
}

/** Whether a test passes: undefined if there is none of this title. */
const passes = ({ test, it }) => {
  const command = ['test/run.mjs', '--reporter', 'json', '--fgrep', it, `dist/test/${test}.test.js`]
  const { stdout } = spawnSync(process.execPath, command, { cwd: copy, encoding: 'utf8', maxBuffer: 2 ** 28 })
  const { stats } = JSON.parse(stdout.slice(stdout.indexOf('{\n  "stats"')))
  return stats.tests === 0 ? undefined : stats.failures === 0
}

const say = (verdict, bug, more) => console.log(`${verdict.padEnd(10)}${bug}\n          ${more}`)

build()
let bad = 0
for (const device of ['reference', 'wasm']) {
  const claims = [...new Set(chosen.filter((m) => m.claim && (m.device ?? 'reference') === device).map(({ claim }) => claim))]
  if (claims.length === 0) continue
  const verdicts = verify(claims, device)
  for (const claim of claims)
    if (!verdicts.get(claim)?.ok) {
      bad++
      say('BROKEN', claim, 'fails without a bug, so that it proves nothing')
    }
}
for (const one of chosen.filter(({ test }) => test))
  if (!passes(one)) {
    bad++
    say('BROKEN', one.it, 'fails without a bug, or is no test, so that it proves nothing')
  }
for (const one of chosen) {
  const { bug, file, from, to, claim, test, it, device = 'reference' } = one
  const path = join(copy, file)
  const source = readFileSync(path, 'utf8')
  const start = Date.now()
  writeFileSync(
    path,
    source.replace(from, () => to),
  )
  try {
    build()
    const verdict = claim && verify([claim], device).get(claim)
    // Wrong numbers, and not an error or a case that never ends.
    const caught = test ? passes(one) === false : verdict?.status === 'fails'
    if (!caught) bad++
    const seconds = ((Date.now() - start) / 1000).toFixed(0)
    const by = test ? `'${it}' of ${test}` : `'${claim}' on ${device}: ${verdict?.message ?? verdict?.status}`
    say(caught ? 'caught' : 'SURVIVES', bug, `by ${by} (${seconds} s)`)
  } catch (error) {
    bad++
    say('FAILED', bug, error.message)
  } finally {
    writeFileSync(path, source)
  }
}
console.log(`\n${chosen.length} bugs, ${chosen.length - Math.min(bad, chosen.length)} caught${bad ? `, ${bad} PROBLEMS` : ''}`)
process.exitCode = bad ? 1 : 0
