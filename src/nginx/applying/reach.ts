/**
 * Whether a process gets through to a directory, by the mode bits of all directories above it: nginx's workers may be
 * another user than the daemon, and must reach the drain file and their temporary files. Looks, changes nothing.
 */

import { realpath, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Credentials } from './proc.ts'

/** A user who owns nothing and is in no group. */
export const ANYBODY: Credentials = { uid: -1, groups: [] }

interface Ownership {
  readonly uid: number
  readonly gid: number
  readonly mode: number
}

/** Whether the owner's, the group's or the others' bit lets it through a directory. */
export function mayPass({ uid, groups }: Credentials, directory: Ownership): boolean {
  if (uid === 0) return true
  const bit = uid === directory.uid ? 0o100 : groups.includes(directory.gid) ? 0o010 : 0o001
  return (directory.mode & bit) !== 0
}

/** Directories that keep it from `path`, itself included, from the top; none where that cannot be told. */
export async function closedDirectories(path: string, who: Credentials): Promise<readonly string[]> {
  const real = await realpath(path).catch(() => path)
  const closed = new Map<string, string>()
  for (const directory of [...upTo(path), ...upTo(real)]) {
    const stats = await stat(directory).catch(() => undefined)
    if (stats === undefined || mayPass(who, stats)) continue
    // A symbolic link and what it points to are one.
    const key = `${stats.dev} ${stats.ino}`
    if (!closed.has(key)) closed.set(key, directory)
  }
  return [...closed.values()]
}

/** A path with all directories above it, from the top. */
function upTo(path: string): readonly string[] {
  return path === dirname(path) ? [path] : [...upTo(dirname(path)), path]
}
