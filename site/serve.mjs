/**
 * Serves site/dist with the headers that threads need: node serve.mjs [--port 8080] [--path /a/b/] [--plain]. `--path`: as a part of another
 * site; `--plain`: without those headers, as most static servers do.
 */
import { readFile, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import { dirname, extname, join, normalize, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { gzipSync } from 'node:zlib'

const site = join(dirname(fileURLToPath(import.meta.url)), 'dist')

const types = {
  '.css': 'text/css',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.woff2': 'font/woff2',
  '.wasm': 'application/wasm',
}

const isolation = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
}

/** The file of an address; null where there is none, and the address with a slash where that is a folder's. */
async function found(folder, path) {
  const file = normalize(join(folder, path))
  if (file !== folder && !file.startsWith(folder + sep)) return null
  const what = await stat(file).catch(() => null)
  if (what?.isDirectory()) return path.endsWith('/') || path === '' ? found(folder, join(path, 'index.html')) : { redirect: true }
  return what ? { file } : null
}

/** Resolves to the server of a folder, once it listens; port 0 takes any that is free. `served` is told of each file with its bytes as they are sent. */
export async function serve({ folder = site, port = 0, path = '/', isolated = true, served = () => {} } = {}) {
  const server = createServer(async (request, response) => {
    if (isolated) for (const [name, value] of Object.entries(isolation)) response.setHeader(name, value)
    let [pathname, there] = [request.url, null]
    try {
      ;({ pathname } = new URL(request.url, 'http://localhost'))
      there = pathname.startsWith(path) ? await found(folder, decodeURIComponent(pathname.slice(path.length))) : null
    } catch {
      // An address that can't be read or decoded is a wrong one.
    }
    if (there?.redirect) return response.writeHead(301, { Location: `${pathname}/` }).end()
    const file = there?.file ?? join(folder, '404.html')
    const content = await readFile(file).catch(() => Buffer.from('not found; build the site first: npm run site'))
    const packed = /\bgzip\b/.test(request.headers['accept-encoding'] ?? '') && extname(file) !== '.png'
    const body = packed ? gzipSync(content) : content
    if (packed) response.setHeader('Content-Encoding', 'gzip')
    served(pathname.slice(path.length), body.length)
    response.writeHead(there ? 200 : 404, {
      'Content-Type': types[extname(file)] ?? 'application/octet-stream',
      'Content-Length': body.length,
      'Cache-Control': 'no-cache',
    })
    response.end(request.method === 'HEAD' ? undefined : body)
  })
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve))
  return server
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const options = {
    port: { type: 'string', default: '8080' },
    path: { type: 'string', default: '/' },
    plain: { type: 'boolean', default: false },
  }
  try {
    const { port, path, plain } = parseArgs({ options }).values
    if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) throw new Error(`--port must be a whole number from 0 to 65535, not ${port}`)
    if (!/^\/(.*\/)?$/.test(path)) throw new Error(`--path must begin and end with a slash, as /a/b/ does, not ${path}`)
    const server = await serve({ port: Number(port), path, isolated: !plain })
    console.log(`http://localhost:${server.address().port}${path}`)
  } catch (error) {
    console.error(error.message)
    process.exitCode = 1
  }
}
