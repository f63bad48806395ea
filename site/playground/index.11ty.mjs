/** The front page: the playground. */
export const data = {
  title: undefined,
  description: 'Fast-weight sequence models that train in your browser: watch a memory being written, token by token.',
  permalink: 'index.html',
  styles: ['playground'],
  scripts: ['playground-main'],
  wide: true,
  offline: 'later',
}

export default () => '<h1>Fast weights</h1>'
