/** What templates share. */

/** Text as HTML, in content and in attributes. */
export const escaped = (text) =>
  String(text).replace(/[&<>"']/g, (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[character])

/** Everything comes from the site itself; wasm compiles; nothing is sent. */
const policies = {
  'default-src': "'none'",
  'script-src': "'self' 'wasm-unsafe-eval'",
  'worker-src': "'self'",
  'style-src': "'self' 'unsafe-inline'",
  'img-src': "'self' data: blob:",
  'font-src': "'self'",
  'connect-src': "'self'",
  'frame-src': "'self'",
  'base-uri': "'none'",
  'form-action': "'none'",
}

/** A Content-Security-Policy as a page's meta element has it; `more`: what a page needs beside, by directive. */
export const policyOf = (more = {}) =>
  Object.entries(policies)
    .map(([directive, sources]) => `${directive} ${sources}${more[directive] === undefined ? '' : ` ${more[directive]}`}`)
    .join('; ')
