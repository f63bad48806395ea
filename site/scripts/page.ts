/** What every page does: the theme's button, the way past the navigation, and keeping the site for reading offline. */
import { keepOffline } from './offline.ts'
import { storedTheme, storeTheme, themes } from './themes.ts'

const root = document.documentElement
const button = document.querySelector<HTMLButtonElement>('#theme')!
let theme = storedTheme()

function show(): void {
  if (theme === 'system') delete root.dataset.theme
  else root.dataset.theme = theme
  button.textContent = `Theme: ${theme}`
}

button.hidden = false
show()
button.addEventListener('click', () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length]
  storeTheme(theme)
  show()
})

// The address stays as it is: parts of the site hold their state there.
document.querySelector('.skip')!.addEventListener('click', (event) => {
  event.preventDefault()
  document.querySelector<HTMLElement>('#main')!.focus()
})

if (root.dataset.offline === undefined) addEventListener('load', () => void keepOffline())
