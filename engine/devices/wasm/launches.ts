/**
 * A series of kernel calls that are always the same, compiled into one WebAssembly function: a call from JavaScript with a dozen arguments takes
 * longer than many a kernel that has only one token to work on, one from WebAssembly with constants next to nothing.
 * The binary format: https://webassembly.github.io/spec/core/binary/. Tests: test/ops/capture.test.ts.
 */
import { signatures } from '../../../kernels-wasm/generated/bytes.ts'

/** A call of `run` of the pool: `kernel` for the tasks [0, n), `grain` at a time. */
export interface Launch {
  kernel: string
  n: number
  grain: number
  /** A function where they may be others each time. */
  args: readonly number[] | (() => readonly number[])
  scratchBytes: number
}

const types: Readonly<Record<string, number>> = { i: 0x7f, f: 0x7d }
const functionType = 0x60,
  functionKind = 0,
  i32Const = 0x41,
  f32Const = 0x43,
  call = 0x10,
  end = 0x0b

/** LEB128. */
function unsigned(value: number): number[] {
  const bytes: number[] = []
  for (; value > 127; value >>>= 7) bytes.push((value & 127) | 128)
  return [...bytes, value]
}

function signed(value: number): number[] {
  const bytes: number[] = []
  for (; value < -64 || value > 63; value >>= 7) bytes.push((value & 127) | 128)
  return [...bytes, value & 127]
}

const float = new DataView(new ArrayBuffer(4))
function constant(type: string, value: number): number[] {
  // An address may need all 32 bits: it wraps, as it does on a call from JavaScript.
  if (type === 'i') return [i32Const, ...signed(value | 0)]
  float.setFloat32(0, value, true)
  return [f32Const, ...new Uint8Array(float.buffer)]
}

const name = (text: string): number[] => [...unsigned(text.length), ...Array.from(text, (c) => c.charCodeAt(0))]
const list = (items: readonly (readonly number[])[]): number[] => [...unsigned(items.length), ...items.flat()]
const section = (id: number, bytes: readonly number[]): number[] => [id, ...unsigned(bytes.length), ...bytes]

/**
 * The launches in order, as one function. `kernels`: what the module of kernels exports. Those that are worth several threads, `shared`, go
 * through `share`, by their place among the launches, and so do those whose arguments aren't always the same.
 */
export async function compileLaunches(
  launches: readonly Launch[],
  kernels: Readonly<Record<string, unknown>>,
  shared: (launch: Launch) => boolean,
  share: (place: number) => void,
): Promise<() => void> {
  const imports = [...new Set(launches.map(({ kernel }) => kernel))]
  // The type of each import, after which come those of `share` and of the function itself.
  const parameters = [...imports.map((kernel) => signatures[kernel]), 'i', '']
  const body = launches.map((launch, place) => {
    const { kernel, n, args } = launch
    if (typeof args === 'function' || shared(launch)) return [...constant('i', place), call, ...unsigned(imports.length)]
    const given = [0, n, ...args].map((value, i) => constant(signatures[kernel][i], value))
    return [...given.flat(), call, ...unsigned(imports.indexOf(kernel))]
  })
  const code = [0, ...body.flat(), end]
  const bytes = Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, list(parameters.map((letters) => [functionType, ...list(Array.from(letters, (letter) => [types[letter]])), 0]))),
    ...section(2, list([...imports, 'share'].map((kernel, i) => [...name('from'), ...name(kernel), functionKind, ...unsigned(i)]))),
    ...section(3, list([unsigned(imports.length + 1)])),
    ...section(7, list([[...name('run'), functionKind, ...unsigned(imports.length + 1)]])),
    ...section(10, list([[...unsigned(code.length), ...code]])),
  ])
  const from = { ...Object.fromEntries(imports.map((kernel) => [kernel, kernels[kernel]])), share }
  const { instance } = (await WebAssembly.instantiate(bytes, { from } as WebAssembly.Imports)) as unknown as {
    instance: { exports: { run: () => void } }
  }
  return instance.exports.run
}
