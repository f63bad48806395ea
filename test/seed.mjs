/**
 * The cases that properties are tested on: the same in every run, so that what fails is due to a change. SEED=n takes others,
 * SEED=random others each time; what fails prints the seed.
 */
import fc from 'fast-check'

const asked = process.env.SEED ?? '1'
if (asked !== 'random' && !/^-?\d+$/.test(asked)) throw new Error(`SEED=${asked}: give a whole number, or random`)
if (asked !== 'random') fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(asked) })
