import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import {
  appendMetrics,
  checkWritable,
  claimFolder,
  FileBytes,
  readMetrics,
  replacement,
  truncateMetrics,
  writeAtomic,
} from '../../cli/files.ts'

const module = JSON.stringify(new URL('../../cli/files.js', import.meta.url).href)
const isRoot = process.getuid?.() === 0
const isWindows = process.platform === 'win32'

describe('files', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'fastweights-files-'))
  })
  afterEach(() => {
    chmodSync(folder, 0o700)
    rmSync(folder, { recursive: true, force: true })
  })
  const throwsFile = (action: () => unknown, message: string | RegExp) => assert.throws(action, { name: 'FileError', message })

  describe('writeAtomic', () => {
    it('creates and replaces, and leaves nothing else', () => {
      const path = join(folder, 'model.safetensors')
      writeAtomic(path, Uint8Array.of(1, 2, 3))
      assert.deepEqual([...readFileSync(path)], [1, 2, 3])
      writeAtomic(path, 'text')
      assert.equal(readFileSync(path, 'utf8'), 'text')
      assert.deepEqual(readdirSync(folder), ['model.safetensors'])
    })

    it('keeps what is written in parts beside the old file until it is to take its place, or is given up', () => {
      const path = join(folder, 'model.safetensors')
      writeAtomic(path, 'old')
      const [kept, given] = [replacement(path), replacement(path)]
      for (const file of [kept, given]) for (const part of ['n', 'ew']) file.write(part)
      assert.equal(readFileSync(path, 'utf8'), 'old')
      given.discard()
      kept.replace()
      assert.equal(readFileSync(path, 'utf8'), 'new')
      assert.deepEqual(readdirSync(folder), ['model.safetensors'])
      throwsFile(() => replacement(join(folder, 'none', 'file')), /^can't write .*none.file: /)
    })

    it('writes to the file that a link leads to, and to no device or pipe', () => {
      if (isWindows) return
      const [path, link] = [join(folder, 'there'), join(folder, 'link')]
      writeAtomic(path, 'old')
      symlinkSync('there', link)
      writeAtomic(link, 'new')
      assert.equal(readFileSync(path, 'utf8'), 'new')
      assert.ok(lstatSync(link).isSymbolicLink())
      throwsFile(() => checkWritable('/dev/null'), "can't write /dev/null: it is no file, but a device or a pipe")
      checkWritable(link)
    })

    it('reads bytes of files alone, as they are asked for', () => {
      const path = join(folder, 'bytes')
      writeAtomic(path, Uint8Array.of(1, 2, 3))
      assert.deepEqual(new FileBytes(path).subarray(1, 9), Uint8Array.of(2, 3))
      throwsFile(() => new FileBytes(folder), `can't read ${folder}: it is a folder`)
      throwsFile(() => new FileBytes(`${path}s`), `can't read ${path}s: no such file or folder`)
    })

    it('says in one line why it cannot', () => {
      const missing = join(folder, 'none', 'file')
      throwsFile(() => writeAtomic(missing, ''), `can't write ${missing}: no such file or folder`)
      const taken = join(folder, 'folder')
      mkdirSync(join(taken, 'child'), { recursive: true })
      throwsFile(() => writeAtomic(taken, ''), /^can't write .*folder: it is a folder$/)
      assert.deepEqual(readdirSync(folder), ['folder'])
    })

    it('keeps the old file and removes its own when the disk takes no more', function () {
      if (isWindows) return this.skip()
      // A limit on the size of files (in blocks of 512 or 1024 bytes) stops the write half way, as a full disk does.
      const path = join(folder, 'model')
      writeFileSync(path, 'old')
      const script = `import(${module}).then(({ writeAtomic }) => writeAtomic(${JSON.stringify(path)}, new Uint8Array(1 << 20)))
        .catch(error => { console.log(error.name + ': ' + error.message) })`
      const { stdout } = spawnSync('sh', ['-c', 'ulimit -f 64; exec "$0" -e "$1"', process.execPath, script], { encoding: 'utf8' })
      assert.equal(stdout, `FileError: can't write ${path}: the file is larger than the system allows\n`)
      assert.equal(readFileSync(path, 'utf8'), 'old')
      assert.deepEqual(readdirSync(folder), ['model'])
    })

    it('leaves the old file or the new one when it is killed', async () => {
      const path = join(folder, 'model')
      const size = 1 << 22
      const script = `import(${module}).then(({ writeAtomic }) => {
        for (let i = 0; ; i++) { writeAtomic(${JSON.stringify(path)}, new Uint8Array(${size}).fill(i)); if (i === 0) console.log('') }
      })`
      for (let round = 0; round < 5; round++) {
        const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
        await new Promise((resolve) => child.stdout.once('data', resolve))
        await new Promise((resolve) => setTimeout(resolve, 7 * round))
        child.kill('SIGKILL')
        await new Promise((resolve) => child.once('close', resolve))
        const bytes = readFileSync(path)
        assert.equal(bytes.length, size)
        assert(bytes.every((byte) => byte === bytes[0]))
      }
      claimFolder(folder)()
      assert.deepEqual(readdirSync(folder), ['model'])
    })
  })

  describe('claimFolder', () => {
    it('creates the folder, and removes it again only if nothing has come into it', () => {
      const path = join(folder, 'runs', 'first')
      claimFolder(path)()
      assert.deepEqual(readdirSync(folder), [])
      const release = claimFolder(path)
      assert.deepEqual(readdirSync(path), ['.lock'])
      writeFileSync(join(path, 'model'), '')
      release()
      assert.deepEqual(readdirSync(path), ['model'])
      rmSync(join(path, 'model'))
      claimFolder(path)()
      assert.deepEqual(readdirSync(path), [])
    })

    it('refuses a folder that another process has claimed, and takes over from a dead one', async () => {
      const script = `import(${module}).then(({ claimFolder }) => {
        claimFolder(${JSON.stringify(folder)}); console.log(''); setInterval(() => {}, 1000)
      })`
      const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
      await new Promise((resolve) => child.stdout.once('data', resolve))
      const lock = join(folder, '.lock')
      throwsFile(() => claimFolder(folder), `${folder} is in use by process ${child.pid} (if it isn't, remove ${lock})`)
      child.kill('SIGKILL')
      await new Promise((resolve) => child.once('close', resolve))
      assert.deepEqual(readdirSync(folder), ['.lock'])
      claimFolder(folder)()
      writeFileSync(lock, '')
      claimFolder(folder)()
      assert.deepEqual(readdirSync(folder), [])
    })

    it('removes the temporary files of dead processes alone', () => {
      const { pid } = spawnSync(process.execPath, ['-e', ''])
      const living = `.model.${process.pid}.tmp`
      for (const name of [`.model.${pid}.tmp`, living, 'model.tmp', '.hidden']) writeFileSync(join(folder, name), '')
      claimFolder(folder)()
      assert.deepEqual(readdirSync(folder).sort(), ['.hidden', living, 'model.tmp'].sort())
    })

    it('refuses a file, a path through a file, and a folder that is not ours to write', () => {
      const file = join(folder, 'file')
      writeFileSync(file, 'kept')
      throwsFile(() => claimFolder(file), `can't write to the output folder ${file}: ${file} is a file`)
      const below = join(file, 'below')
      throwsFile(() => claimFolder(below), `can't write to the output folder ${below}: ${file} is a file`)
      assert.equal(readFileSync(file, 'utf8'), 'kept')
      if (isRoot || isWindows) return
      chmodSync(folder, 0o500)
      throwsFile(() => claimFolder(folder), `can't write to the output folder ${folder}: permission denied`)
      throwsFile(() => writeAtomic(file, 'new'), `can't write ${file}: permission denied`)
      assert.equal(readFileSync(file, 'utf8'), 'kept')
    })
  })

  describe('metrics', () => {
    it('come back, up to the step of a resume', () => {
      fc.assert(
        fc.property(fc.array(fc.nat(20)), fc.nat(20), (steps, last) => {
          const path = join(folder, 'metrics.jsonl')
          rmSync(path, { force: true })
          const records = [{ preset: 'small' }, ...steps.sort((a, b) => a - b).map((step) => ({ step, loss: step / 3, text: 'a\nb' }))]
          for (const record of records) appendMetrics(path, record)
          assert.deepEqual(readMetrics(path), records)
          truncateMetrics(path, last)
          assert.deepEqual(
            readMetrics(path),
            records.filter((record) => !('step' in record) || record.step <= last),
          )
        }),
        { numRuns: 30 },
      )
    })

    it('lose a line that was cut off, and no other', () => {
      const path = join(folder, 'metrics.jsonl')
      writeFileSync(path, '{"step":1}\n{"step":2}\n{"st')
      assert.deepEqual(readMetrics(path), [{ step: 1 }, { step: 2 }])
      truncateMetrics(path, 5)
      assert.equal(readFileSync(path, 'utf8'), '{"step":1}\n{"step":2}\n')
      writeFileSync(path, '{"step":1}\nnonsense\n{"step":2}\n')
      throwsFile(() => truncateMetrics(path, 5), `${path}: line 2 isn't a JSON object`)
      assert.equal(readFileSync(path, 'utf8'), '{"step":1}\nnonsense\n{"step":2}\n')
      writeFileSync(path, '[1]\n')
      throwsFile(() => readMetrics(path), `${path}: line 1 isn't a JSON object`)
    })

    it('need no file to be read, and a folder to be written', () => {
      const path = join(folder, 'none', 'metrics.jsonl')
      assert.deepEqual(readMetrics(path), [])
      truncateMetrics(path, 0)
      assert(!existsSync(join(folder, 'none')))
      throwsFile(() => appendMetrics(path, { step: 1 }), `can't write ${path}: no such file or folder`)
    })
  })
})
