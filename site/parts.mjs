/**
 * The parts of the site, in the order of its navigation. A part is a folder: its pages are the `*.11ty.mjs` files in it, `scripts` and `styles`
 * are what the build makes of its files, as assets/NAME.js and assets/NAME.css; `whole` are scripts that share nothing with others: one file
 * each. `nav`: how the navigation calls it; a part without has no entry. `first`: its first page, from the site's root; `about`: what the front page
 * says of it.
 */
export const parts = [
  {
    nav: 'Playground',
    first: '',
    scripts: { 'playground-main': 'playground/main.ts', 'playground-worker': 'playground/worker.ts' },
    styles: { playground: 'playground/playground.css' },
  },
  {
    nav: 'Study',
    first: 'study/',
    about: 'is the code beside the equations, and every rule by itself',
    scripts: { study: 'study/page.ts', 'study-worker': 'study/worker.ts', search: 'study/search.ts' },
    styles: { study: 'study/study.css' },
  },
  {
    nav: 'Claims',
    first: 'claims/',
    about: 'are what papers state, checked in this page',
    scripts: { 'claims-main': 'claims/main.ts', 'claims-own': 'claims/own.ts', 'claims-worker': 'claims/worker.ts' },
    whole: { 'claims-sandbox': 'claims/sandbox.ts', 'claims-frame': 'claims/frame.ts' },
    styles: { claims: 'claims/claims.css' },
  },
  { nav: 'API', first: 'api/', about: 'has every name, with shapes, units and errors' },
  {
    nav: 'Speed',
    first: 'speed/',
    about: 'is what this machine makes of it',
    scripts: { 'speed-main': 'speed/main.ts', 'speed-worker': 'speed/worker.ts' },
    styles: { speed: 'speed/speed.css' },
  },
]
