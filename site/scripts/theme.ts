/** Runs before the page is drawn: the theme that the reader has chosen, and whether there are scripts. */
import { storedTheme } from './themes.ts'

const { dataset } = document.documentElement
dataset.scripts = ''
const theme = storedTheme()
if (theme !== 'system') dataset.theme = theme
