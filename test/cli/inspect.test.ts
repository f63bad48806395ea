/** What `fastweights inspect` writes of tiny runs, against `trace`; what it says where a layer lacks something; what it refuses. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { inflateRawSync } from 'node:zlib'
import type { Grid, Head, Inspection } from '../../cli/inspect/data.ts'
import { overwritings } from '../../cli/inspect/data.ts'
import { glyph, map } from '../../cli/inspect/draw.ts'
import { unpack } from '../../cli/inspect/pack.ts'
import { inspectionPage, pageLimit } from '../../cli/inspect/page.ts'
import { views } from '../../cli/inspect/views.ts'
import { openRun } from '../../cli/runs.ts'
import { scope, setDevice, type Tensor, tensor } from '../../engine/index.ts'
import { type LayerTrace, modelOf, type Transformer, trace } from '../../nn/index.ts'
import { random, reference, wasm } from '../helpers.ts'
import { Workplace } from './command.ts'

const prompt = 'Why not? a bird sings.\nWhy so, and'

/** The numbers of a page, as its script reads them. */
function numbersOf(page: string): Inspection {
  const part = (id: string): string => new RegExp(`id="${id}">([^<]*)</script>`).exec(page)![1]
  return unpack(part('numbers'), new Uint8Array(inflateRawSync(Buffer.from(part('grids'), 'base64'))))
}

/** Numbers of a tensor [1,...] by their places, without the first. */
async function at(x: Tensor): Promise<(...place: number[]) => number> {
  const values = await x.read()
  const shape = x.shape.slice(1)
  return (...place) => values[place.reduce((index, i, axis) => index * shape[axis] + i, 0)]
}

describe('fastweights inspect', function () {
  this.timeout(20_000)
  const place = new Workplace()
  const T = prompt.length
  let layers: LayerTrace[]
  before(async () => {
    await Promise.all([
      place.train('--out runs/tiny --layers 2'),
      place.train('--out mixed --layers 4 --mixer softmax,aft-simple,delta-rnn,delta-product --positions sinusoidal'),
    ])
    setDevice(await wasm())
    const { checkpoint, vocabulary } = openRun(place.path('runs/tiny'))
    const model = modelOf(checkpoint) as Transformer
    layers = scope(() => trace(model, () => model.forward(tensor(vocabulary.encode(prompt), { shape: [1, T] }))))
  })
  after(() => {
    setDevice(reference)
    return place.remove()
  })

  /** Every number of an inspection is the trace's, `within` its largest. */
  async function assertTraced(data: Inspection, within: number): Promise<void> {
    assert.deepEqual(data.tokens, [...prompt])
    assert.deepEqual(
      data.layers.map(({ number, name, mixer, heads }) => [number, name, mixer, heads.length]),
      [
        [1, 'transformer.layers.0.attn', 'comba', 2],
        [2, 'transformer.layers.1.attn', 'comba', 2],
      ],
    )
    for (const [i, { heads }] of data.layers.entries()) {
      const { states, norms, ranks, inputs, similarity, recall, attention, before, after } = layers[i]
      const [S, norm, rank, beta, gate, v] = await Promise.all([states.S, norms.S, ranks.S, inputs.beta, inputs.gate, inputs.v].map(at))
      const [alike, held, weight, first, then] = await Promise.all([similarity!, recall!, attention!, before!, after!].map(at))
      for (const [h, head] of heads.entries()) {
        const close = (found: number, expected: number, what: string, size = 1): void =>
          assert.ok(Math.abs(found - expected) <= within * size + 1e-5, `${what} of head ${h + 1}: ${found}, not ${expected}`)
        const { shape, values } = head.states.S
        const [, K, V] = shape
        assert.deepEqual(shape, [T, ...states.S.shape.slice(3)])
        const cosine = (of: typeof first, t: number): number => {
          const [a, b] = [of, v].map((x) => Array.from({ length: V }, (_, c) => x(t, h, c)))
          return a.reduce((sum, x, c) => sum + x * b[c], 0) / (Math.hypot(...a) * Math.hypot(...b) || 1)
        }
        let scale = 0
        for (let n = 0; n < values.length; n++) scale = Math.max(scale, Math.abs(values[n]))
        for (let t = 0; t < T; t++) {
          for (let n = 0; n < K * V; n++) close(values[t * K * V + n], S(t, h, Math.floor(n / V), n % V), `S after ${t}`, scale)
          close(head.norms.S[t], norm(t, h), 'norm', norm(t, h))
          close(head.ranks.S[t], rank(t, h), 'rank', rank(t, h))
          close(head.gates.beta[t], beta(t, h), 'beta')
          close(head.gates['exp(gate)'][t], Math.exp(gate(t, h)), 'gate')
          // Where nothing is retrieved a cosine is what rounding makes it.
          if (t > 0) close(head.before![t], cosine(first, t), 'before')
          close(head.after![t], cosine(then, t), 'after')
          let sum = 0
          for (let s = 0; s < T; s++) {
            close((head.similarity as Grid).values[t * T + s], alike(h, t, s), 'similarity')
            close((head.recall as Grid).values[t * T + s], held(h, t, s), 'recall')
            close((head.attention as Grid).values[t * T + s], weight(h, t, s), 'attention')
            if (s <= t) sum += held(h, t, s)
          }
          close(head.capacity![t], sum / (t + 1), 'capacity')
        }
      }
    }
  }

  it("writes a page that works offline, with every part and the trace's numbers", async () => {
    const said = await place.succeed(['inspect', 'runs/tiny', '--prompt', prompt])
    assert.match(
      said,
      /^2 layers, 4 heads, 34 characters of runs\/tiny\nwrote runs\/tiny\/inspect\.html \(\d+ kB\): open it in a browser\n$/,
    )
    const page = place.read('runs/tiny/inspect.html').toString()
    assert.ok(page.length < 150_000)
    assert.match(page, /<meta http-equiv="Content-Security-Policy" content="default-src 'none'; /)
    assert.doesNotMatch(page.replaceAll('http://www.w3.org/2000/svg', ''), /https?:|<link|@import| src=/)
    for (const id of ['token', 'layer', 'head', 'story', 'view-overwritten', 'view-pairs', ...views.map(({ name }) => `view-${name}`)])
      assert.equal(page.split(`id="${id}"`).length, 2, id)
    await assertTraced(numbersOf(page), 1 / 200)
    // The latest run, and a text that its vocabulary has.
    assert.match(
      await place.succeed('inspect --out own.html --layer 2 --head 1 --token 3'),
      /^1 layer, 1 head, 5 characters of runs\/tiny\nwrote own\.html /,
    )
    const own = numbersOf(place.read('own.html').toString())
    assert.deepEqual(
      [own.tokens.join(''), own.layers.map(({ number, heads }) => [number, heads.map((head) => head.number)])],
      ['It is', [[2, [1]]]],
    )
  })

  it('writes the same as JSON', async () => {
    const text = await place.succeed(['inspect', 'runs/tiny', '--prompt', prompt, '--json', '-'])
    assert.deepEqual([existsSync(place.path('inspect.html')), text.endsWith('}\n')], [false, true])
    const flat = (lists: any): Grid => {
      const shape: number[] = []
      for (let part = lists; Array.isArray(part); part = part[0]) shape.push(part.length)
      return { shape, values: lists.flat(9) }
    }
    const { layers: found, ...rest } = JSON.parse(text)
    for (const { heads } of found)
      for (const head of heads) {
        head.states.S = flat(head.states.S)
        for (const map of ['similarity', 'recall', 'attention']) head[map] = flat(head[map])
      }
    assert.deepEqual(Object.keys(rest), ['version', 'run', 'preset', 'tokens'])
    await assertTraced({ ...rest, layers: found }, 1e-3)
  })

  it('draws pictures: a file for each, or one with all', async () => {
    await place.succeed(['inspect', 'runs/tiny', '--prompt', prompt, '--svg', 'pictures', '--layer', '1', '--head', '2', '--token', '20'])
    const names = ['attention', 'capacity', 'gates-beta', 'gates-exp-gate', 'norm', 'rank', 'recall', 'retrieval', 'similarity', 'state-S']
    assert.deepEqual(
      readdirSync(place.path('pictures')).sort(),
      names.map((name) => `${name}.svg`),
    )
    await place.succeed(['inspect', 'runs/tiny', '--prompt', prompt, '--svg', 'all.svg'])
    for (const file of [...names.map((name) => `pictures/${name}.svg`), 'all.svg']) {
      const svg = place.read(file).toString()
      assert.match(
        svg,
        /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" [^>]*role="img">\n<title>fastweights inspect: runs\/tiny, layer \d, head \d, token (20|34) of 34/,
      )
      assert.doesNotMatch(svg, /NaN|undefined|Infinity/)
      const open: string[] = []
      for (const [, end, name, alone] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g))
        if (end) assert.equal(open.pop(), name, file)
        else if (!alone) open.push(name)
      assert.deepEqual(open, [])
    }
    assert.match(
      place.read('pictures/state-S.svg').toString(),
      /S, \d+ by \d+, after token 20 \(“g” in “bird·sing”\): from −[\d.]+ to [\d.]+; norm [\d.]+, effective rank [\d.]+\./,
    )
  })

  it('shows what other layers have, and says why the rest is missing', async () => {
    await place.succeed(['inspect', 'mixed', '--prompt', 'Why not?'])
    const data = numbersOf(place.read('mixed/inspect.html').toString())
    const drawn = data.layers.map((layer) =>
      views.flatMap((view) =>
        layer.missing[view.needs] !== undefined
          ? []
          : view.draw({ data, layer, head: layer.heads[0], token: 7, width: 600 }).map(({ name, base, now, words }) => {
              assert.doesNotMatch(base + now + words, /NaN|undefined/)
              return name
            }),
      ),
    )
    assert.deepEqual(drawn, [
      ['attention', 'similarity'],
      ['attention'],
      ['state-W', 'state-R', 'vector-h', 'norm', 'rank'],
      ['state-S', 'gates-beta', 'gates-exp-gate', 'norm', 'rank'],
    ])
    assert.deepEqual(
      data.layers.map(({ missing }) => Object.keys(missing).join()),
      ['states,gates,recall', 'states,gates,similarity,recall', 'gates,similarity,recall,attention', 'similarity,recall,attention'],
    )
    const [softmax, , net, product] = data.layers.map(({ missing }) => missing)
    assert.equal(softmax.states, 'softmax attention keeps the keys and values of all tokens, and no matrix of a fixed size')
    assert.equal(net.recall, "delta-rnn is a recurrent net: it isn't written with a key and a value from outside")
    assert.match(product.attention, /^what delta-product reads is not linear in the values/)
  })

  it('leaves out of a page what would be too much, and says so', () => {
    const next = random(7)
    const noise = (...shape: number[]): Grid => ({
      shape,
      values: Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => next() - 0.5),
    })
    const inspection = (T: number, n: number, states: Record<string, Grid>): Inspection => {
      const head = (_: unknown, h: number): Head => ({
        number: h + 1,
        states,
        norms: {},
        ranks: {},
        vectors: {},
        gates: {},
        recall: noise(T, T),
      })
      const layers = [{ number: 1, name: 'one', mixer: 'delta', missing: {}, heads: Array.from({ length: n }, head) }]
      return { version: '1', run: '</script>', preset: 'none', tokens: Array<string>(T).fill('<'), layers, every: 1, left: '' }
    }
    const open = { layer: 0, head: 0, token: 0 }
    const data = inspection(64, 3, { S: noise(64, 64, 64) })
    const page = inspectionPage(data, open)!
    assert.ok(page.length > pageLimit / 3 && page.length <= pageLimit)
    const { left, every, run, layers } = numbersOf(page)
    assert.match(left, /^To stay small, numbers in maps have \d+ levels(, and matrices are kept after every (second|\dth) token)?\.$/)
    assert.ok(page.includes(left))
    assert.equal(run, '</script>')
    const { shape, values } = layers[0].heads[2].states.S
    assert.deepEqual(shape, [Math.ceil(64 / every), 64, 64])
    for (const i of [0, 4095])
      assert.ok(
        Math.abs(values[4096 * (shape[0] - 1) + i] - data.layers[0].heads[2].states.S.values[4096 * every * (shape[0] - 1) + i]) < 0.05,
      )
    assert.equal(inspectionPage(inspection(512, 10, {}), open), null)
  })

  it('shows tokens that are numbers as they are, and their places along an axis', () => {
    assert.deepEqual(['12 ', '7 ', 'a', ' ', '\n', '\u202e'].map(glyph), ['12 ', '7 ', 'a', '·', '↵', '�'])
    const cells = { name: 'x', title: '', words: '', width: 200, rows: 1, columns: 3, at: () => 1, scale: 1, below: '', beside: '' }
    assert.match(map({ ...cells, columnNames: ['a', 'b', 'c'] }).base, /<text class="chars"[^>]*>abc</)
    assert.doesNotMatch(map({ ...cells, columnNames: ['12 ', '7 ', '3 '] }).base, /chars/)
  })

  it('finds the pairs that are overwritten', () => {
    const T = 10
    const grid = (of: (t: number, s: number) => number): Grid => ({
      shape: [T, T],
      values: Array.from({ length: T * T }, (_, i) => of(Math.floor(i / T), i % T)),
    })
    // The first pair is held until token 8, whose key is the same; the second one is lost to a key that is another.
    const recall = grid((t, s) => (s > t ? 0 : s === 0 ? (t < 8 ? 0.9 : 0.1) : s === 1 && t === 9 ? 0 : 1))
    const similarity = grid((t, s) => (t === s || (t === 8 && s === 0) ? 1 : 0))
    const head: Head = { number: 1, states: {}, norms: {}, ranks: {}, vectors: {}, gates: {}, recall, similarity }
    assert.deepEqual(overwritings(head), [{ pair: 0, by: 8, from: 0.9, to: 0.1 }])
  })

  it('refuses in one line, and writes nothing', async () => {
    place.write('file', 'a file')
    const before = place.snapshot()
    await place.together(async (run) => {
      for (const [words, message] of [
        [['none'], /^can't read the checkpoint none: no such file or folder$/],
        [['runs/tiny', '--layer', '3'], /^--layer 3: the model has 2 layers$/],
        [['runs/tiny', '--head', '3'], /^--head 3: layer 1 has 2 heads$/],
        [['runs/tiny', '--token', '6'], /^--token 6: the prompt has 5 characters$/],
        [['runs/tiny', '--prompt', 'Why §'], /^character "§" \(U\+00A7\) at 4 isn't in the vocabulary/],
        [['runs/tiny', '--prompt', 'a'.repeat(513)], /^the prompt has 513 characters; 512 can be shown: give a shorter --prompt$/],
        [['runs/tiny', '--out', 'none/page.html'], /^can't write none\/page\.html: no such file or folder$/],
        [['runs/tiny', '--json', 'runs'], /^can't write runs: it is a folder$/],
        [['runs/tiny', '--svg', 'file'], /^can't write to the folder file: it is a file/],
        [['runs/tiny', 'more'], /^unexpected argument "more"$/],
      ] as const) {
        const { code, stdout, stderr } = await run(['inspect', ...words])
        assert.match(stderr, /^fastweights: [^\n]+\n$/)
        assert.match(stderr.slice('fastweights: '.length, -1), message)
        assert.deepEqual([stdout, code !== 0], ['', true])
      }
    })
    assert.deepEqual(place.snapshot(), before)
  })
})
