/** What meshctl needs from the process it runs in, so that tests can run it in theirs. meshctl.ts supplies the real one. */

import type { Clock } from '../ports.ts'

export interface Output {
  write(text: string): unknown
  readonly isTTY?: boolean
}

export interface CliHost {
  /** Arguments after the program's name. */
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  readonly stdin: AsyncIterable<Uint8Array>
  readonly stdout: Output
  readonly stderr: Output
  readonly clock: Clock
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal
  /** Asks a person on the terminal for a text that is not shown; only when standard input is one. */
  readonly promptHidden?: (prompt: string) => Promise<Uint8Array>
  /** Runs an editor on a file in the foreground; its exit code. */
  runEditor(command: string, file: string): Promise<number>
}
