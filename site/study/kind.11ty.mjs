/** A page for each rule, net and mixer. */
import { kinds } from './kinds.mjs'

export const data = {
  kinds,
  pagination: { data: 'kinds', size: 1, alias: 'kind' },
  permalink: ({ kind }) => kind.path,
  styles: ['study'],
  scripts: ['study'],
  eleventyComputed: {
    title: ({ kind }) => kind.title,
    description: ({ kind }) =>
      `${kind.title} (${kind.source}): formula, code, forms, speed, claims, and a small example that runs in the page.`,
  },
}

export default function ({ kind, page }) {
  // Eleventy gives a template the page of its first use alone.
  this.page = page
  return kind.content({ to: (path) => this.to(path), source: (file, line) => this.source(file, line) })
}
