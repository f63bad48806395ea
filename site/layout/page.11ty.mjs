/**
 * The frame of every page. A page's data:
 *
 *   title, description  of the page; the site's name is added to the title
 *   styles, scripts     names of parts.mjs that it needs beside those of the frame
 *   wide                whether it takes the whole width of the window
 *   offline             'later': the page says itself when its files may be kept for reading offline
 *   policy              what its Content-Security-Policy says beside the frame's, by directive
 */
import { escaped, policyOf } from './html.mjs'

const name = 'fastweights'

export default function (data) {
  const { title, description, content, settings, page, styles = [], scripts = [], wide = false, offline = '', policy } = data
  // Eleventy gives a template the page of its first use alone, and the frame is one template for all.
  this.page = page
  const whole = title === undefined ? name : `${title} · ${name}`
  const shared = settings.site
    ? `<link rel="canonical" href="${escaped(settings.site + page.url.slice(1))}">
<meta property="og:url" content="${escaped(settings.site + page.url.slice(1))}">
<meta property="og:image" content="${escaped(`${settings.site}assets/share.png`)}">
<meta name="twitter:card" content="summary_large_image">
`
    : ''
  const nav = settings.parts
    .filter(({ nav }) => nav !== undefined)
    .map(({ nav, first }) => {
      const here = first === '' ? page.url === '/' : page.url.startsWith(`/${first}`)
      return `<li><a href="${this.to(first)}"${here ? ` aria-current="${page.url === `/${first}` ? 'page' : 'true'}"` : ''}>${escaped(nav)}</a></li>`
    })
    .join('')
  return `<!doctype html>
<html lang="en"${offline ? ` data-offline="${escaped(offline)}"` : ''}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${escaped(policyOf(policy))}">
<title>${escaped(whole)}</title>
<meta name="description" content="${escaped(description)}">
<meta property="og:title" content="${escaped(whole)}">
<meta property="og:description" content="${escaped(description)}">
<meta property="og:type" content="website">
${shared}<link rel="icon" href="${this.to('assets/icon.svg')}">
<script src="${this.to('assets/theme.js')}"></script>
${['base', ...styles].map((style) => `<link rel="stylesheet" href="${this.to(`assets/${style}.css`)}">`).join('\n')}
${['page', ...scripts].map((script) => `<script type="module" src="${this.to(`assets/${script}.js`)}"></script>`).join('\n')}
</head>
<body${wide ? ' class="wide"' : ''}>
<a class="skip" href="#main">To the content</a>
<header class="site">
<a class="name" href="${this.to('')}">${name}</a>
<nav aria-label="Parts of the site"><ul>${nav}</ul></nav>
<button type="button" id="theme" hidden>Theme: system</button>
</header>
<main id="main" tabindex="-1">
${content}
</main>
<footer class="site">
<p>${name} ${escaped(settings.version)}, fast-weight sequence models in TypeScript. MIT licensed. Nothing on this site is fetched from elsewhere, and nothing you do here is sent anywhere.</p>
</footer>
</body>
</html>
`
}
