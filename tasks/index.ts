export * from './presets.ts'
export * from './text.ts'
