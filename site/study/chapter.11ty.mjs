/** The chapters of the path. */
import { chapterPage } from './chapter.mjs'
import { chapters } from './chapters/index.mjs'

export const data = {
  chapters,
  pagination: { data: 'chapters', size: 1, alias: 'chapter' },
  permalink: ({ chapter }) => `study/${chapter.slug}/`,
  styles: ['study'],
  scripts: ['study'],
  wide: true,
  eleventyComputed: {
    title: ({ chapter }) => chapter.title,
    description: ({ chapter }) => chapter.description,
  },
}

export default function ({ chapter, page }) {
  // Eleventy gives a template the page of its first use alone.
  this.page = page
  return chapterPage(chapter, { to: (path) => this.to(path), source: (file, line) => this.source(file, line) })
}
