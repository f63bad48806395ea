#!/usr/bin/env node
/** The `fastweights` command. */
import { runCommand } from './program.ts'
import { watchOutput } from './terminal.ts'

watchOutput()
process.exitCode = await runCommand(process.argv.slice(2))
