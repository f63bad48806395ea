/**
 * The parts of the site, in the order of its navigation. A part is a folder: its pages are the `*.11ty.mjs` files in it, `scripts` and `styles`
 * are what the build makes of its files, as assets/NAME.js and assets/NAME.css. `nav`: how the navigation calls it; a part without has no
 * entry. `first`: its first page, from the site's root.
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
    scripts: { study: 'study/page.ts', 'study-worker': 'study/worker.ts', search: 'study/search.ts' },
    styles: { study: 'study/study.css' },
  },
  { nav: 'API', first: 'api/' },
]
