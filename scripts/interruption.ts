/**
 * What ends a script early: a signal, or that nobody reads its output any more. It is aborted and not ended, since there
 * are daemons to stop first. Called by chaos.ts and demo.ts.
 */

import { constants } from 'node:os'

/** Aborts at SIGHUP, SIGINT and SIGTERM, with the exit code that a shell expects, and when stdout is closed (`| head`). */
export function abortWhenInterrupted(): AbortController {
  const stopping = new AbortController()
  for (const name of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      process.exitCode = 128 + constants.signals[name]
      stopping.abort(new Error(`stopped by ${name}`))
    })
  }
  process.stdout.on('error', () => stopping.abort(new Error('nobody reads the output')))
  return stopping
}
