/** The controls of how claims are checked: controls.mjs has their HTML. */
import { limits, whole } from './link.ts'
import type { Kind, Settings } from './protocol.ts'

const get = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!
const controls = { device: get<HTMLSelectElement>('device'), runs: get<HTMLInputElement>('runs'), seed: get<HTMLInputElement>('seed') }

// Whether there is a GPU shows when it is opened; without this there is none.
const option = controls.device.querySelector<HTMLOptionElement>('option[value=webgpu]')
if (option && !('gpu' in navigator)) {
  option.disabled = true
  option.textContent = 'WebGPU: not in this browser'
}

export function put(settings: Partial<Settings>): void {
  for (const [name, control] of Object.entries(controls)) {
    const value = settings[name as keyof Settings]
    if (value !== undefined) control.value = String(value)
  }
}

/** Null, with the field in focus, where one isn't a number that it may be. */
export function taken(): Settings | null {
  const number = (name: 'runs' | 'seed', least: number): number => {
    const n = whole(controls[name].value, least, limits[name])
    controls[name].setAttribute('aria-invalid', String(n === undefined))
    return n ?? -1
  }
  const [runs, seed] = [number('runs', 1), number('seed', 0)]
  const wrong = runs < 0 ? controls.runs : seed < 0 ? controls.seed : undefined
  wrong?.focus()
  return wrong ? null : { device: controls.device.value as Kind, runs, seed }
}

/** Shows a problem, or none. */
export function problem(text = ''): void {
  const shown = get('problem')
  shown.textContent = text
  shown.hidden = text === ''
}
