/** Logs for tests: one that says nothing, one that remembers. */

import { createLog, type Log } from '../../src/log.ts'

export function silentLog(): Log {
  return createLog({ level: '=ERROR', format: 'json', stream: { write: () => undefined }, now: () => 0 })
}

/** A log of all levels whose lines can be looked at. */
export function rememberingLog(): { readonly log: Log; readonly lines: string[] } {
  const lines: string[] = []
  const log = createLog({
    level: '=TRACE',
    format: 'text',
    stream: { write: (line) => lines.push(line) },
    now: () => 0,
  })
  return { log, lines }
}
