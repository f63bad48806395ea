/**
 * The page of the sandboxed frame: one script, and a policy that lets it and its worker fetch nothing and start nothing but what they are handed. It has
 * no address of its own, since a service worker, which keeps the site offline, answers no frame without an origin; so it has its parent's policy, too.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

const script = readFileSync(new URL('../dist/assets/claims-frame.js', import.meta.url), 'utf8').trim()
if (script.includes('</script')) throw new Error('site: the script of the frame ends its own element')
const sources = `blob: 'sha256-${createHash('sha256').update(script).digest('base64')}'`

/** What the page around the frame has to allow for it. */
export const policy = { 'script-src': sources, 'worker-src': 'blob:' }

export const frame = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src ${sources} 'wasm-unsafe-eval'; worker-src blob:; connect-src 'none'; base-uri 'none'; form-action 'none'">
<title>Sandbox</title>
</head>
<body><script>${script}</script></body>
</html>
`
