/** `npm run demo` as a person runs it: five real daemons with five real nginx, from start to end and nothing left behind. */

import { execFile } from 'node:child_process'
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { allPids, titleOf } from '../../src/nginx/applying/proc.ts'
import { waitFor } from '../support/wait.ts'

const TIMEOUT_MS = 12 * 60_000
let directory: string

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nxmesh-demo-'))
  // nginx's workers may be another user, and a node whose workers are kept out is not healthy.
  await chmod(directory, 0o711)
})

afterEach(() => rm(directory, { recursive: true, force: true }))

/** Live processes whose command line names the folder that the demo was given. */
async function leftBehind(): Promise<string[]> {
  return (await allPids()).map(titleOf).filter((title) => title.includes(directory))
}

function demo() {
  const env = { ...process.env, TMPDIR: directory }
  return promisify(execFile)(process.execPath, ['scripts/demo.ts'], { env, timeout: TIMEOUT_MS })
}

it(
  'tells the whole story, holds every check, and cleans up',
  async () => {
    const { stdout } = await demo().catch((error: { stdout: string; stderr: string }) => {
      throw new Error(`the demo failed:\n${error.stdout}\n${error.stderr}`)
    })
    const passed = stdout.split('\n').filter((line) => line.startsWith('  ✓ ')).length
    expect(stdout).toContain(`${passed} checks passed`)
    expect(passed).toBeGreaterThanOrEqual(30)
    expect(stdout).not.toContain('\u001b[')
    expect(await readdir(directory)).toEqual([])
    expect(await leftBehind()).toEqual([])
  },
  TIMEOUT_MS,
)

it(
  'cleans up when it is interrupted',
  async () => {
    const running = demo()
    let shown = ''
    running.child.stdout?.on('data', (text: string) => (shown += text))
    let hasEnded = false
    running.child.on('exit', () => (hasEnded = true))
    await waitFor(() => hasEnded || shown.includes('2. '), { timeoutMs: TIMEOUT_MS, what: 'the second step' })
    expect(hasEnded, shown).toBe(false)
    running.child.kill('SIGINT')
    await expect(running).rejects.toMatchObject({ code: 130 })
    expect(await readdir(directory)).toEqual([])
    expect(await leftBehind()).toEqual([])
  },
  TIMEOUT_MS,
)
