/** For wrong addresses: it may be shown at any depth, so its script finds the site's root. */
export const data = {
  title: 'Nothing here',
  description: 'There is no page at this address.',
  permalink: '404.html',
  layout: 'bare.11ty.mjs',
}

export default function ({ settings }) {
  return `<h1>There is no page at this address</h1>
<p>The page may have another name now, or the address was cut when it was copied.</p>
<ul>${settings.parts
    .filter(({ nav }) => nav !== undefined)
    .map(({ nav, first }) => `<li><a data-to="${first}" href="${settings.site || './'}${first}">${nav}</a></li>`)
    .join('')}</ul>`
}
