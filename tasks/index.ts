export * from './mersenne.ts'
export * from './presets.ts'
export * from './task.ts'
export * from './text.ts'
