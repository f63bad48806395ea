/** The module: every kernel of every family. */
export * from './elementwise'
export * from './fast-weights'
export * from './gemm'
export * from './movement'
export { setScratch } from './scratch'
