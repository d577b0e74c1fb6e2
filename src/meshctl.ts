#!/usr/bin/env node
/** The entry of meshctl: hands the process to `run` as a value, and its result to the shell. Nothing else touches `process`. */

import { spawn } from 'node:child_process'
import { systemClock } from './adapters/clock.ts'
import { run } from './cli/run.ts'

const interruption = new AbortController()
let isEditing = false
const KEYS = { ctrlC: 3, ctrlD: 4, backspace: 8, lineFeed: 10, enter: 13, delete: 127 } as const
// In an editor Ctrl-C belongs to the editor.
process.on('SIGINT', () => isEditing || interruption.abort())
process.on('SIGTERM', () => interruption.abort())
// Whoever reads the output has had enough of it (`meshctl log | head`).
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))

async function runEditor(command: string, file: string): Promise<number> {
  isEditing = true
  // Through the shell, since EDITOR may hold arguments; the file name is one of its own.
  const editor = spawn('/bin/sh', ['-c', `${command} "$1"`, 'sh', file], { stdio: 'inherit' })
  return await new Promise<number>((resolve, reject) => {
    editor.once('error', reject)
    editor.once('exit', (code) => resolve(code ?? 1))
  }).finally(() => {
    isEditing = false
  })
}

/** Reads a line from the terminal, which in raw mode shows nothing of it and handles no key by itself. */
async function promptHidden(prompt: string): Promise<Uint8Array> {
  const { stdin, stderr } = process
  const bytes: number[] = []
  // Before the prompt: who answers it at once must not be shown either.
  stdin.setRawMode(true)
  stderr.write(prompt)
  try {
    return await new Promise<Uint8Array>((resolve, reject) => {
      const stop = (): void => reject(new Error('interrupted'))
      interruption.signal.addEventListener('abort', stop)
      stdin.on('end', stop)
      stdin.on('data', (chunk: Uint8Array) => {
        for (const byte of chunk) {
          if (byte === KEYS.ctrlC) interruption.abort()
          else if (byte === KEYS.enter || byte === KEYS.lineFeed || byte === KEYS.ctrlD) resolve(Uint8Array.from(bytes))
          else if (byte === KEYS.backspace || byte === KEYS.delete) bytes.splice(startOfLastCharacter(bytes))
          else bytes.push(byte)
        }
      })
    })
  } finally {
    stdin.removeAllListeners('data')
    stdin.setRawMode(false)
    stdin.pause()
    stderr.write('\n')
  }
}

/** Index of the first byte of the last character in UTF-8. */
function startOfLastCharacter(bytes: readonly number[]): number {
  return Math.max(
    0,
    bytes.findLastIndex((byte) => (byte & 0xc0) !== 0x80),
  )
}

process.exitCode = await run({
  argv: process.argv.slice(2),
  env: process.env,
  cwd: process.cwd(),
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  clock: systemClock,
  signal: interruption.signal,
  ...(process.stdin.isTTY ? { promptHidden } : {}),
  runEditor,
})
