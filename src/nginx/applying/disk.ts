/**
 * Durable file primitives: whole files by temporary file, fsync and rename; symlinks swapped by rename(2); directory
 * fsync. Never changes a live file in place. generation.ts writes through it; tests put a failing one in its place.
 */

import { chmod, chown, mkdir, open, rename, rm, stat, symlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { MeshError } from '../../errors.ts'

/** closed: no other user gets in. passable: others, such as nginx's workers, get to what they know the name of. */
export type Access = 'closed' | 'passable'

/** What generation.ts does to the disk. Every call throws MeshError `store_unwritable` when it cannot be done. */
export interface Disk {
  /**
   * Writes a whole file, for this user alone or for a group to read too, and fsyncs it; afterwards the path holds the old
   * content or the new.
   */
  write(path: string, text: string, group?: number): Promise<void>
  /** Points the symlink at target, in one step, and fsyncs its directory. */
  link(path: string, target: string): Promise<void>
  move(from: string, to: string): Promise<void>
  /** Makes a directory, or takes from other users what they may do beyond this with the one that is there. */
  makeDirectory(path: string, access: Access): Promise<void>
  /** Lets a group get to what it knows the name of in a directory of this user, and nobody else beyond who does. */
  admit(path: string, group: number): Promise<void>
  syncDirectory(path: string): Promise<void>
  /** Removes a file or a whole directory; what is not there counts as removed. */
  remove(path: string): Promise<void>
}

const DIRECTORY_MODES: Readonly<Record<Access, number>> = { closed: 0o700, passable: 0o711 }
const FILE_MODE = 0o600
const GROUP_FILE_MODE = 0o640
const GROUP_PASSES = 0o010
const OTHERS = 0o007

let temporaryFiles = 0
const temporary = (path: string) => `${path}.${(temporaryFiles += 1)}.tmp`

const syncDirectory = async (path: string) => {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** The real disk. */
export const disk: Disk = {
  write: (path, text, group) =>
    writable(path, async () => {
      const part = temporary(path)
      try {
        const handle = await open(part, 'w', FILE_MODE)
        try {
          if (group !== undefined) {
            // -1 leaves the owner as it is.
            await handle.chown(-1, group)
            await handle.chmod(GROUP_FILE_MODE)
          }
          await handle.writeFile(text)
          await handle.sync()
        } finally {
          await handle.close()
        }
        await rename(part, path)
      } catch (error) {
        await rm(part, { force: true })
        throw error
      }
    }),
  link: (path, target) =>
    writable(path, async () => {
      const part = temporary(path)
      await rm(part, { force: true })
      await symlink(target, part)
      try {
        await rename(part, path)
      } catch (error) {
        await rm(part, { force: true })
        throw error
      }
      await syncDirectory(dirname(path))
    }),
  move: (from, to) => writable(to, () => rename(from, to)),
  makeDirectory: (path, access) =>
    writable(path, async () => {
      const mode = DIRECTORY_MODES[access]
      const made = await mkdir(path, { recursive: true, mode })
      const found = await stat(path)
      // A umask closes a new one too far; one that is there may be of an older version, which left it open.
      const isWrong = made !== undefined || (found.mode & OTHERS & ~mode) !== 0
      // Some file systems have no modes. That must not keep nginx from serving.
      if (isWrong) await chmod(path, mode).catch(() => undefined)
    }),
  admit: (path, group) =>
    writable(path, async () => {
      const { uid, gid, mode } = await stat(path)
      if (gid !== group) await chown(path, uid, group)
      if ((mode & GROUP_PASSES) === 0) await chmod(path, (mode & 0o777) | GROUP_PASSES)
    }),
  syncDirectory: (path) => writable(path, () => syncDirectory(path)),
  remove: (path) => writable(path, () => rm(path, { recursive: true, force: true })),
}

const HINTS: Readonly<Record<string, string>> = {
  ENOSPC: 'free space on this file system; the apply is retried by itself',
  EDQUOT: 'raise the disk quota of this user; the apply is retried by itself',
  EACCES: 'make the directory writable for the user that mesh-node runs as',
  EPERM: 'make the directory writable for the user that mesh-node runs as',
  EROFS: 'the file system is read-only: remount it, or move data_dir',
}

/** Runs one operation; what the system refuses becomes `store_unwritable` with the path, the reason and the way out. */
export async function writable<T>(path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation()
  } catch (error) {
    const { code = 'unknown', message } = error as NodeJS.ErrnoException
    const hint = HINTS[code] ?? 'see the system error; the apply is retried by itself'
    throw new MeshError('store_unwritable', `cannot write ${path}: ${message}`, { path, errno: code, hint }, error)
  }
}
