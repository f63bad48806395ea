/** Checks the claims of the package for the page that lists them. */
import { claims } from 'fastweights/claims'
import { run } from './run.ts'

addEventListener('message', ({ data }) => void run(claims, data, (message) => postMessage(message)))
