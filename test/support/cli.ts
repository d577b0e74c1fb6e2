/** Runs meshctl in this process: arguments in, exit code and output out. */

import { systemClock } from '../../src/adapters/clock.ts'
import type { CliHost } from '../../src/cli/host.ts'
import { run } from '../../src/cli/run.ts'

export interface CliResult {
  readonly code: number
  readonly out: string
  readonly err: string
}

export interface CliOptions {
  readonly cwd: string
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly stdin?: string
  readonly tty?: boolean
  readonly signal?: AbortSignal
  readonly clock?: CliHost['clock']
  readonly editor?: (file: string) => Promise<number>
  /** Stands for a person at a terminal. */
  readonly promptHidden?: (prompt: string) => Promise<Uint8Array>
  /** Called with everything that is written, as it is. */
  readonly onOutput?: (text: string) => void
}

export async function meshctl(argv: readonly string[], options: CliOptions): Promise<CliResult> {
  let out = ''
  let err = ''
  const code = await run({
    argv,
    env: options.env ?? {},
    cwd: options.cwd,
    stdin: (async function* () {
      yield Buffer.from(options.stdin ?? '')
    })(),
    stdout: {
      isTTY: options.tty ?? false,
      write: (text) => {
        out += text
        options.onOutput?.(text)
      },
    },
    stderr: {
      write: (text) => {
        err += text
        options.onOutput?.(text)
      },
    },
    clock: options.clock ?? systemClock,
    signal: options.signal ?? new AbortController().signal,
    ...(options.promptHidden === undefined ? {} : { promptHidden: options.promptHidden }),
    runEditor: async (_, file) => (await options.editor?.(file)) ?? 1,
  })
  return { code, out, err }
}
