/** The module: every kernel of every family. */
export * from './gemm'
export { setScratch } from './scratch'
