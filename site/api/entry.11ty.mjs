/** A page for each entry point. */
import { apiPage } from './api.mjs'
import { entries } from './reflection.mjs'

export const data = {
  entries,
  pagination: { data: 'entries', size: 1, alias: 'entry' },
  permalink: ({ entry }) => entry.path,
  styles: ['study'],
  eleventyComputed: {
    title: ({ entry }) => entry.name,
    description: ({ entry }) =>
      `Every public name of ${entry.name}: signatures, shapes, units and errors, from the comments in the sources.`,
  },
}

export default function ({ entry, page }) {
  // Eleventy gives a template the page of its first use alone.
  this.page = page
  return apiPage(entry, { to: (path) => this.to(path), source: (file, line) => this.source(file, line) })
}
