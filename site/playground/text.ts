/**
 * The text that the playground learns when it opens: small stories of a town, drawn from sentences that were written for this page (MIT, as the
 * library). Who has what, and where, changes within a story, and its last sentences ask for it: what stands there has to be remembered.
 */

const people = ['Mara', 'Tom', 'Ida', 'Ben', 'Lena', 'Otto', 'Rosa', 'Emil', 'Nora', 'Hugo']
const things = ['lamp', 'rope', 'book', 'key', 'drum', 'bell', 'cup', 'coat', 'map', 'boot', 'clock', 'kite']
const places = ['tower', 'barn', 'mill', 'garden', 'cellar', 'boat', 'attic', 'shop', 'church', 'school']
const weathers = [
  'It rains over the town.',
  'The morning is cold and clear.',
  'Fog lies on the river.',
  'It is market day.',
  'The wind comes from the sea.',
  'Nobody is up yet.',
  'The evening is warm.',
  'Snow has fallen all night.',
]
const asides = [
  'A dog barks behind the wall.',
  'The bridge creaks.',
  'Somebody sings in the street.',
  'The baker opens the door.',
  'Two boys run down the hill.',
  'A cart rolls by.',
  'The old woman laughs.',
  'The river is high today.',
]
const keeping = [
  '$ keeps a # in the @.',
  '$ has left a # in the @.',
  'In the @, $ hides a #.',
  'There is a # in the @, and it belongs to $.',
]
const moving = ['$ takes the # to the @.', 'Then $ carries the # from there to the @.', 'Later the # of $ is found in the @.']
const asking = [
  'Where is the # of $? It is in the @.',
  'Who has the #? $ has it, in the @.',
  '"Where is my #?" says $. "In the @, of course."',
]

const length = 24_000

/** The same text on every machine. */
export function ownText(): string {
  let seed = 20_210_222
  const below = (n: number): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((seed / 2 ** 32) * n)
  }
  const one = <A>(from: readonly A[]): A => from[below(from.length)]
  const some = <A>(from: readonly A[], count: number): A[] => {
    const rest = [...from]
    return Array.from({ length: count }, () => rest.splice(below(rest.length), 1)[0])
  }
  const said = (sentence: string, { who, what, where }: { who: string; what: string; where: string }): string =>
    sentence.replace('$', who).replace('#', what).replace('@', where)
  let text = ''
  while (text.length < length) {
    const count = 2 + below(2)
    const [who, what, where] = [some(people, count), some(things, count), some(places, count + 1)]
    const facts = who.map((name, i) => ({ who: name, what: what[i], where: where[i] }))
    const story = [one(weathers), ...facts.map((fact) => said(one(keeping), fact))]
    if (below(2) === 0) story.push(one(asides))
    const moved = one(facts)
    if (below(2) === 0) {
      moved.where = where[count]
      story.push(said(one(moving), moved))
    }
    story.push(...some(facts, 2).map((fact) => said(one(asking), fact)))
    text += `${story.join(' ')}\n`
  }
  return text
}

/** What the memory is shown with: two things are somewhere, and one of them is asked for. */
export const ownPrompt = 'Mara keeps a lamp in the tower. Tom keeps a rope in the barn. Where is the lamp of Mara? It is in the '
