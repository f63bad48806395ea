/** The service worker keeps the site's files for reading offline, and adds the headers that threads need. */

/** The site's root, seen from the scripts, which all lie in assets/. */
const home = new URL('../', import.meta.url)

/**
 * Starts the service worker, once a page has what it needs itself. True once it answers for this site's pages, so that the next one that is
 * opened may have threads; false where there can be none: a page without https, or a browser that forbids it.
 */
export async function keepOffline(): Promise<boolean> {
  if (!('serviceWorker' in navigator)) return false
  try {
    const registration = await navigator.serviceWorker.register(new URL('sw.js', home), { scope: home.pathname })
    const coming = registration.installing ?? registration.waiting
    if (registration.active || !coming) return registration.active !== null
    return await new Promise((resolve) => {
      coming.addEventListener('statechange', () => {
        if (coming.state === 'activated') resolve(true)
        if (coming.state === 'redundant') resolve(false)
      })
    })
  } catch {
    return false
  }
}
