/** The front page: the playground. */
import { escaped } from '../layout/html.mjs'
import { settings } from './choices.mjs'

export const data = {
  title: 'Watch a memory learn',
  description: 'Fast-weight sequence models that train in your browser: watch a memory being written, token by token. Nothing to install.',
  permalink: 'index.html',
  styles: ['playground'],
  scripts: ['playground-main'],
  wide: true,
  offline: 'later',
}

const option = ({ value, label, how = '', takes }) =>
  `<option value="${escaped(value)}"${how ? ` data-how="${escaped(how)}"` : ''}${takes ? ` data-takes="${takes.join(' ')}"` : ''}>${escaped(label)}</option>`

const options = ({ rows, groups }) =>
  groups
    ? groups.map(({ label, rows }) => `<optgroup label="${escaped(label)}">${rows.map(option).join('')}</optgroup>`).join('')
    : rows.map(option).join('')

const control = (field) =>
  `<div class="control" id="control-${field.name}"${field.hidden ? ' hidden' : ''}>
<label for="set-${field.name}">${escaped(field.label)}</label>
<select id="set-${field.name}" name="${field.name}" autocomplete="off" aria-describedby="how-${field.name}">${options(field)}</select>
<p class="how" id="how-${field.name}" data-how="${escaped(field.how)}">${escaped(field.how)}</p>
</div>`

const keyMaps = settings.find(({ name }) => name === 'keyMap')

export default function ({ settings: site }) {
  const to = (path) => this.to(path)
  const others = site.parts.filter(({ nav, about }) => nav !== undefined && about !== undefined)
  return `<h1>Watch a memory learn</h1>
<p class="lead">A slow network writes keys and values into a small matrix, the fast weights, and reads them back. The one below trains in this page, from its first step, with nothing to install.${
    others.length > 0
      ? ` ${others.map(({ nav, first, about }) => `<a href="${to(first)}">${escaped(nav)}</a> ${escaped(about)}`).join('; ')}.`
      : ''
  }</p>
<noscript><p class="bad">The playground needs JavaScript, which is off here. The other pages can be read without.</p></noscript>
<div class="play needs-scripts">
<section class="learning" aria-labelledby="learning-title">
<h2 id="learning-title" class="visually-hidden">Training</h2>
<div class="row bar">
<button type="button" id="run" class="main">Pause</button>
<button type="button" id="step">Step</button>
<button type="button" id="restart">Restart</button>
${settings
  .filter(({ bar }) => bar)
  .map(
    ({ name, label, ...field }) => `<span class="row"><label class="inline" for="set-${name}">${escaped(label)}</label>
<select id="set-${name}" name="${name}" autocomplete="off">${options(field)}</select></span>`,
  )
  .join('')}
</div>
<p id="state" class="state" role="status">Loading.</p>
<dl class="facts">
<div><dt>Step</dt><dd id="fact-step">0</dd></div>
<div><dt>Loss</dt><dd id="fact-loss">–</dd></div>
<div class="two-wide"><dt>Speed</dt><dd id="fact-speed">–</dd></div>
<div><dt>Bytes in use</dt><dd id="fact-bytes">–</dd></div>
<div class="long"><dt>Device</dt><dd id="fact-device">–</dd></div>
</dl>
<button type="button" id="threads" hidden>Use more threads</button>
<figure id="curve" class="curve"></figure>
<div id="samples" class="samples"></div>
</section>
<form class="settings card" aria-labelledby="settings-title">
<p id="problems" class="bad" role="alert" hidden></p>
<p id="of-file" role="status" hidden></p>
<details id="fold" open><summary><h2 id="settings-title">Settings</h2></summary>
<div class="controls">
<p class="how">A change begins a new model. The address holds all of them: copy it to share what you see.</p>
${settings
  .filter(({ bar }) => !bar)
  .map(control)
  .join('\n')}
<fieldset class="control race"><legend>Race against</legend>
<p class="how">Other rules learn the same batches beside it, three at most.</p>
<ul id="racers" class="racers"></ul>
<label class="visually-hidden" for="add">Add a rule to the race</label>
<select id="add" autocomplete="off"><option value="">add a rule …</option>${options(settings.find(({ name }) => name === 'rule'))}</select>
</fieldset>
<div class="row"><button type="button" id="defaults">Back to the defaults</button><button type="button" id="link">Copy the link</button></div>
</div>
</details>
</form>
</div>
<div class="needs-scripts">
<section class="memory" aria-labelledby="memory-title">
<h2 id="memory-title">The memory</h2>
<p class="how">Go over the text with a mouse, a finger or the arrow keys. Each character is a token, and at each token one pair of a key and a value is written. The text is shaded by where the token’s read-out comes from: blue what adds to it, orange what is taken away.</p>
<div class="row bar">
<label class="inline" for="racer">Model</label><select id="racer" autocomplete="off"></select>
<label class="inline" for="layer">Layer</label><select id="layer" autocomplete="off"></select>
<label class="inline" for="head">Head</label><select id="head" autocomplete="off"></select>
<span class="row" role="group" aria-label="Rule that writes these weights" id="readings"></span>
</div>
<div id="prompted">
<label for="prompt">What it reads</label>
<input type="text" id="prompt" autocomplete="off" spellcheck="false" maxlength="400">
</div>
<p id="memory-problem" class="bad" role="alert" hidden></p>
<p id="tokens" class="tokens" aria-hidden="true"></p>
<input type="range" id="token" min="1" max="1" value="1" step="1" aria-label="Token">
<p id="next"></p>
<p id="story" class="story"></p>
<div id="matrices" class="pictures"></div>
<div id="views" class="pictures"></div>
<p id="memory-missing" class="how"></p>
</section>
<section class="capacity" aria-labelledby="capacity-title">
<h2 id="capacity-title">Capacity</h2>
<p class="how">Pairs of random values are written into an empty memory, with every write strength at 1, and then each key is put to it again. The feature map is put on the keys before they are written. Measured here, as you drag.</p>
<div class="row bar">
<label for="pairs">Pairs <output id="pairs-out" for="pairs"></output><input type="range" id="pairs" min="2" max="160" value="48" step="1"></label>
<label for="key-width">Width of keys <output id="key-width-out" for="key-width"></output><input type="range" id="key-width" min="4" max="64" value="16" step="4"></label>
<label for="key-map">Feature map <select id="key-map" autocomplete="off">${options(keyMaps)}</select></label>
<label for="key-kind">Keys <select id="key-kind" autocomplete="off"><option value="orthogonal">orthogonal, while there is room</option><option value="random">random</option></select></label>
</div>
<div id="capacity" class="pictures"></div>
</section>
<section class="own" aria-labelledby="own-title">
<h2 id="own-title">Your own text and models</h2>
<div class="two">
<div>
<label for="own">Paste or type a text, or drop a file anywhere on this page</label>
<textarea id="own" rows="5" spellcheck="false" autocomplete="off" placeholder="At least a few lines. It stays in this page: it isn’t in the link, and isn’t sent anywhere."></textarea>
<div class="row"><button type="button" id="use">Learn this text</button><button type="button" id="page-text">The page’s own text</button><label class="file">Open a file <input type="file" id="file"></label></div>
<p id="text-state" class="how" role="status"></p>
<p id="file-problem" class="bad" role="alert" hidden></p>
</div>
<div>
<p id="preview-title">What is learnt</p>
<pre id="preview" class="preview" tabindex="0" aria-labelledby="preview-title"></pre>
<div class="row"><button type="button" id="save">Save the model</button></div>
<p class="how">A safetensors file that <code>fastweights generate</code> and <code>fastweights inspect</code> read; it holds no text. A <code>checkpoint.safetensors</code> of <code>npm start</code> can be dropped here. The page’s text was written for it, and is MIT licensed like the library.</p>
</div>
</div>
</section>
</div>`
}
