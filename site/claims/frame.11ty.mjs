/** The page of the sandboxed frame: one script, and a policy that lets it and its worker fetch nothing and start nothing but what they are handed. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

export const data = { permalink: 'claims/frame.html', layout: false }

export default function () {
  const script = readFileSync(new URL('../dist/assets/claims-frame.js', import.meta.url), 'utf8').trim()
  if (script.includes('</script')) throw new Error('site: the script of the frame ends its own element')
  const hash = createHash('sha256').update(script).digest('base64')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-${hash}' blob: 'wasm-unsafe-eval'; worker-src blob:; connect-src 'none'; base-uri 'none'; form-action 'none'">
<title>Sandbox</title>
</head>
<body><script>${script}</script></body>
</html>
`
}
