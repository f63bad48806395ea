/** What the parts of the playground's page share. */

export const element = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E

/** A new element with its attributes, and what is in it. */
export function make(name: string, attributes: Readonly<Record<string, string>> = {}, ...children: (Node | string)[]): HTMLElement {
  const made = document.createElement(name)
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value)
  made.append(...children)
  return made
}

/** Options, the one with this value chosen where it is there. */
export function fill(select: HTMLSelectElement, options: readonly (readonly [value: string, label: string])[], chosen: string): void {
  const same =
    select.options.length === options.length &&
    options.every(([value, label], i) => select.options[i].value === value && select.options[i].text === label)
  if (!same) select.replaceChildren(...options.map(([value, label]) => new Option(label, value)))
  if (options.some(([value]) => value === chosen)) select.value = chosen
}

/** Says what is wrong, or nothing. */
export function tell(id: string, text: string): void {
  const place = element(id)
  place.textContent = text
  place.hidden = text === ''
}

export const bytesText = (bytes: number): string => (bytes < 1e6 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`)
