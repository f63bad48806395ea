/** What code in the sandbox can import. */
export const entries = ['fastweights', 'fastweights/nn', 'fastweights/tasks', 'fastweights/claims'] as const
export type Entry = (typeof entries)[number]

/** Text, and between two texts the number of the entry whose address stands there. */
export type Pieces = readonly (string | number)[]
