/** The table of deliberate bugs still fits the code: run.mjs would otherwise find out only after minutes. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { claims } from '../../claims/index.ts'

interface Mutation {
  bug: string
  file: string
  from: string
  to: string
  claim?: string
  test?: string
  it?: string
  device?: string
}

const root = new URL('../../../', import.meta.url)

describe('deliberate bugs', () => {
  it('each has one place in the code, and a claim or a test that must catch it', async () => {
    const { mutations } = (await import(new URL('test/mutations/table.mjs', root).href)) as { mutations: Mutation[] }
    const names = new Set(claims.map(({ name }) => name))
    assert.ok(mutations.length >= 20)
    for (const { bug, file, from, to, claim, test, it } of mutations) {
      assert.equal(readFileSync(new URL(file, root), 'utf8').split(from).length, 2, `${bug}: places in ${file}`)
      assert.notEqual(from, to, bug)
      if (claim !== undefined) assert.ok(names.has(claim), `${bug}: no claim '${claim}'`)
      else {
        const source = readFileSync(new URL(`test/${test}.test.ts`, root), 'utf8')
        const before = source.split(`${it}`).slice(0, -1)
        assert.ok(
          before.some((text) => /\bit\(\s*['`]$/.test(text)),
          `${bug}: no test '${it}' in ${test}`,
        )
      }
    }
  })
})
