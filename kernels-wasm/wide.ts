/**
 * Whether V8 merges pairs of neighbouring vectors into one of 256 bits (engine/devices/wasm/wide.ts): 1 or 0. Kernels choose by it how many
 * sums a tile holds, never in which order numbers are added.
 */
// @ts-ignore: decorators of AssemblyScript
@external('env', 'wide')
export declare const wide: i32

/** 1 on a device of precision f16, else 0: whether products of the chunk form round their operands to float16. */
// @ts-ignore: decorators of AssemblyScript
@external('env', 'half')
export declare const half: i32
