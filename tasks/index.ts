export * from './text.ts'
export * from './presets.ts'
