/** The search of the study and the API: an index that the build writes, loaded when the field is first used. */
import MiniSearch, { type SearchResult } from 'minisearch'

interface Entry {
  title: string
  words: string
  kind: string
  path: string
}

const home = new URL('../', import.meta.url)
/** So many are shown. */
const most = 12

const field = document.querySelector<HTMLInputElement>('#search')!
const found = document.querySelector<HTMLElement>('#found')!
const status = document.querySelector<HTMLElement>('#searched')!

let index: Promise<MiniSearch<Entry>> | undefined

async function load(): Promise<MiniSearch<Entry>> {
  const answer = await fetch(new URL('assets/search.json', home))
  if (!answer.ok) throw new Error(`the index could not be loaded (${answer.status})`)
  const entries: Entry[] = await answer.json()
  const search = new MiniSearch<Entry>({
    fields: ['title', 'parts', 'words'],
    storeFields: ['title', 'words', 'kind', 'path'],
    // deltaRule is found by rule, too.
    extractField: (entry, name) =>
      name === 'parts' ? entry.title.replace(/([a-z0-9])([A-Z])/g, '$1 $2') : String(entry[name as keyof Entry] ?? ''),
    searchOptions: { boost: { title: 4, parts: 2 }, prefix: true, fuzzy: 0.2 },
  })
  await search.addAllAsync(entries.map((entry, id) => ({ ...entry, id })))
  return search
}

function show(results: SearchResult[], query: string): void {
  found.replaceChildren(
    ...results.slice(0, most).map(({ title, kind, path, words }) => {
      const item = document.createElement('li')
      const link = document.createElement('a')
      link.href = new URL(path, home).href
      link.textContent = title
      const about = document.createElement('span')
      about.className = 'soft small'
      about.textContent = ` ${kind}${words ? `: ${words.slice(0, 120)}${words.length > 120 ? ' ...' : ''}` : ''}`
      item.append(link, about)
      return item
    }),
  )
  status.textContent = query === '' ? '' : results.length === 0 ? `Nothing is called '${query}' or says it.` : `${results.length} found.`
}

async function search(): Promise<void> {
  const query = field.value.trim()
  try {
    index ??= load()
    const results = query === '' ? [] : (await index).search(query)
    if (query === field.value.trim()) show(results, query)
  } catch (error) {
    index = undefined
    status.textContent = `The search doesn't work: ${(error as Error).message}.`
  }
}

field.addEventListener('focus', () => void search(), { once: true })
field.addEventListener('input', () => void search())
field.closest('form')!.addEventListener('submit', (event) => {
  event.preventDefault()
  const first = found.querySelector<HTMLAnchorElement>('a')
  if (first) location.href = first.href
})
