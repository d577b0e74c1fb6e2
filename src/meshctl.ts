#!/usr/bin/env node
/** The entry of meshctl: hands the process to `run` as a value, and its result to the shell. Nothing else touches `process`. */

import { spawn } from 'node:child_process'
import { systemClock } from './adapters/clock.ts'
import { run } from './cli/run.ts'

const interruption = new AbortController()
let isEditing = false
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

process.exitCode = await run({
  argv: process.argv.slice(2),
  env: process.env,
  cwd: process.cwd(),
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  clock: systemClock,
  signal: interruption.signal,
  runEditor,
})
