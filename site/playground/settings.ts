/**
 * The playground's settings, and how an address holds them. An address is `#1;rule=delta;width=64`: a version, then what isn't as it is by
 * default. What an old link says is brought up to date by `migrations`; what can't be used is told, and the rest counts.
 */

/** What a setting may be, by its name: the first is the default. `rule` is a list: the first trains, the others race against it. */
export type Choices = Readonly<Record<string, readonly string[]>>
export type Settings = Readonly<Record<string, string>>

/** Racers side by side at most: each has a colour of its own. */
export const mostRacers = 4
/** Characters of an address at most. */
const longest = 2000

type Values = Record<string, string>
/** What links of version i + 1 have to become for version i + 2. */
export const migrations: readonly ((values: Values) => Values)[] = []

export const defaults = (choices: Choices): Settings => Object.fromEntries(Object.entries(choices).map(([name, [first]]) => [name, first]))

export const racersOf = ({ rule }: Settings): string[] => rule.split(',')

/** What is wrong with a value; undefined where nothing is. */
function fault(name: string, value: string, choices: Choices): string | undefined {
  if (!Object.hasOwn(choices, name)) return `there is no setting ${quote(name)}`
  const values = name === 'rule' ? value.split(',') : [value]
  const unknown = values.find((one) => !choices[name].includes(one))
  if (unknown !== undefined) return `${name} can't be ${quote(unknown)}`
  if (values.length > mostRacers) return `${values.length} rules can't race: at most ${mostRacers}`
  if (new Set(values).size < values.length) return `${name} says the same twice`
  return undefined
}

const quote = (text: string): string => `“${text.length > 40 ? `${text.slice(0, 40)}…` : text}”`

export function encode(settings: Settings, choices: Choices, steps = migrations): string {
  const own = Object.entries(settings).filter(([name, value]) => value !== choices[name][0])
  return [`#${steps.length + 1}`, ...own.map(([name, value]) => `${name}=${value}`)].join(';')
}

/** The settings of an address, and what of it can't be used. An empty one means the defaults. */
export function decode(hash: string, choices: Choices, steps = migrations): { settings: Settings; problems: string[] } {
  const settings: Values = { ...defaults(choices) }
  if (hash === '' || hash === '#') return { settings, problems: [] }
  if (hash.length > longest) return { settings, problems: [`The link is longer than ${longest} characters, so it is none of this page’s.`] }
  const current = steps.length + 1
  const [head, ...pairs] = hash.slice(1).split(';')
  const version = /^\d{1,6}$/.test(head) ? Number(head) : 0
  if (version < 1) return { settings, problems: ['The link is none of this page’s: it doesn’t begin with a version.'] }
  if (version > current)
    return { settings, problems: [`The link is of version ${version} of this page, which knows ${current}: load the page anew.`] }
  const problems: string[] = []
  // Without a prototype, so that no name means anything else.
  let values: Values = Object.create(null)
  for (const pair of pairs) {
    const at = pair.indexOf('=')
    let text: string | undefined
    try {
      text = decodeURIComponent(pair)
    } catch {
      // Cut in the middle of a character.
    }
    if (at < 1 || text === undefined) problems.push(`${quote(pair)} is no setting`)
    else values[text.slice(0, text.indexOf('='))] = text.slice(text.indexOf('=') + 1)
  }
  for (const step of steps.slice(version - 1)) values = step(values)
  for (const [name, value] of Object.entries(values)) {
    const problem = fault(name, value, choices)
    if (problem === undefined) settings[name] = value
    else problems.push(problem)
  }
  return { settings, problems }
}
