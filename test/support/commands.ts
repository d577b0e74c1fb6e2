/** Commands as a person types them: separate processes, with what they print and how they end. */

import { execFile } from 'node:child_process'

export interface Ended {
  readonly code: number
  readonly out: string
  readonly err: string
}

export interface CommandOptions {
  readonly cwd: string
  /** Laid over the environment of the tests. */
  readonly env?: Readonly<Record<string, string>>
  readonly stdin?: string
}

const TIMEOUT_MS = 90_000

/** Runs a program to its end. A program that a signal ended has code -1. */
export async function command(file: string, argv: readonly string[], options: CommandOptions): Promise<Ended> {
  const { cwd, env = {}, stdin = '' } = options
  return await new Promise((resolve) => {
    const settings = { cwd, env: { ...process.env, ...env }, timeout: TIMEOUT_MS, killSignal: 'SIGKILL' } as const
    const child = execFile(file, argv, settings, (error, out, err) => {
      resolve({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, out, err })
    })
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(stdin)
  })
}

/** Runs a line of shell. */
export async function shell(line: string, options: CommandOptions): Promise<Ended> {
  return await command('/bin/sh', ['-c', line], options)
}
