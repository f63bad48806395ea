/** On Linux x64 the browser is the headless Chromium of @sparticuz/chromium with WebGPU on SwiftShader; elsewhere Chrome, if there. */
import { tmpdir } from 'node:os'
import { type Browser, chromium } from 'playwright-core'

/** Where there is none, the tests are skipped and say why; with REQUIRE_GPU=1 they fail. */
export async function browserFor(test: Mocha.Context): Promise<Browser> {
  try {
    return await launch()
  } catch (error) {
    if (process.env.REQUIRE_GPU === '1') throw error
    console.warn(`  tests in a browser are skipped: ${(error as Error).message.split('\n')[0]}`)
    return test.skip()
  }
}

export async function launch(): Promise<Browser> {
  const { chromium: packaged } = await import(new URL('../../../test/unpack.mjs', import.meta.url).href)
  const found: { executable: string; libraries: string } | undefined = await packaged()
  const args = [
    '--enable-unsafe-webgpu',
    '--use-webgpu-adapter=swiftshader',
    '--enable-unsafe-swiftshader',
    // As in Node: what clears workgroup memory takes SwiftShader seconds to compile, and no kernel may need it.
    '--enable-dawn-features=disable_workgroup_init',
  ]
  if (!found) return chromium.launch({ channel: 'chrome', args, timeout: 20_000 })
  const env = { LD_LIBRARY_PATH: found.libraries, HOME: tmpdir() }
  return chromium.launch({ executablePath: found.executable, env, args, chromiumSandbox: false, timeout: 20_000 })
}
