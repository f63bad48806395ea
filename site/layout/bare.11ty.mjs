/** The frame of the page for wrong addresses: all of it in one file, because nothing relative to it can be found from any address. */

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { escaped } from './html.mjs'

const style = readFileSync(new URL('../style/base.css', import.meta.url), 'utf8')

/** The folder nearest to the address that has the site's smallest script is its root: the service worker has it offline, too. */
const script = `
for (const parts = location.pathname.split('/'); parts.length > 1; parts.pop()) {
  parts[parts.length - 1] = ''
  const home = parts.join('/')
  const there = await fetch(home + 'assets/theme.js').catch(() => null)
  if (!there || !there.ok) continue
  for (const link of document.querySelectorAll('[data-to]')) link.href = home + link.dataset.to
  // The theme that the reader has chosen.
  await import(home + 'assets/theme.js')
  break
}
`
const hash = createHash('sha256').update(script).digest('base64')

export default ({ title, description, content }) => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'sha256-${hash}'; connect-src 'self'; img-src data:">
<title>${escaped(title)} · fastweights</title>
<meta name="description" content="${escaped(description)}">
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<main id="main">${content}</main>
<script type="module">${script}</script>
</body>
</html>
`
