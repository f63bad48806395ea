/** The list of all rules, nets and layers. */
import { escaped } from '../layout/html.mjs'
import { kinds } from './kinds.mjs'

export const data = {
  title: 'Rules, nets and layers',
  description: 'Every rule that writes fast weights, every recurrent net and every kind of layer, with its source; each has a page.',
  permalink: 'study/rules/',
  styles: ['study'],
}

const groups = [
  ['rules', 'Rules', 'How fast weights are written and read. Each is a function, a step and a row of a table.'],
  ['nets', 'Recurrent nets', 'Nets whose output or fast weights feed back: each a short program, which one fused kernel runs.'],
  ['layers', 'Kinds of layers', 'What a layer of a model does over time.'],
]

export default function () {
  const list = (kind) =>
    kinds
      .filter((page) => page.kind === kind)
      .map(
        ({ name, title, source, path }) =>
          `<tr><td><a href="${this.to(path)}"><code>${name}</code></a></td><td>${escaped(title)}</td><td class="soft">${escaped(source)}</td></tr>`,
      )
      .join('\n')
  return `<p class="crumb"><a href="${this.to('study/')}">Study</a></p>
<h1>Rules, nets and layers</h1>
${groups
  .map(
    ([kind, title, words]) => `<h2>${title}</h2>
<p>${words}</p>
<div class="scroll" role="group" tabindex="0" aria-label="${title}"><table><thead><tr><th scope="col">name</th><th scope="col">what it is</th><th scope="col">source</th></tr></thead><tbody>${list(kind)}</tbody></table></div>`,
  )
  .join('\n')}`
}
