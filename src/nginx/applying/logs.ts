/**
 * nginx's log files: that no other user of the host reads them, and that they do not grow for ever. nginx makes a missing
 * one for all to read, so each is made here first. apply.ts calls it, and tells nginx to open its logs anew.
 */

import { chmod, lstat, open, readdir, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { TRAFFIC_LOG } from '../rendering/traffic-log.ts'
import { writable } from './disk.ts'

/** What the main part of every generation writes to. */
export const LOGS = ['access.log', 'error.log', TRAFFIC_LOG] as const
/** Files put aside, of each log. */
const LOGS_KEPT = 3
const FILE_MODE = 0o600

/**
 * Makes the logs that are missing and closes those that an older version, or nginx, left open.
 * @throws MeshError `store_unwritable`
 */
export async function prepareLogs(directory: string): Promise<void> {
  const folder = join(directory, 'logs')
  for (const name of LOGS) await touch(join(folder, name))
  for (const name of await readdir(folder)) {
    const path = join(folder, name)
    const stats = await lstat(path)
    const isOpen = stats.isFile() && (stats.mode & 0o007) !== 0
    // Where that may not be done, the file is somebody else's, who decides.
    if (isOpen) await chmod(path, FILE_MODE).catch(() => undefined)
  }
}

/**
 * Puts a log that is larger than this aside and makes a new one. nginx goes on writing to the old one until it is told.
 * @returns whether it did
 */
export async function putAside(path: string, maxBytes: number): Promise<boolean> {
  const { size } = await stat(path).catch(() => ({ size: 0 }))
  if (size <= maxBytes) return false
  for (let age = LOGS_KEPT; age > 0; age -= 1) {
    const younger = age === 1 ? path : `${path}.${age - 1}`
    await rename(younger, `${path}.${age}`).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }
  // Without it nginx makes one.
  await touch(path).catch(() => undefined)
  return true
}

function touch(path: string): Promise<void> {
  return writable(path, async () => (await open(path, 'a', FILE_MODE)).close())
}
