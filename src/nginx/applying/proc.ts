/**
 * What Linux tells about processes and sockets in /proc, read only. Answers are undefined or empty where the process is
 * gone or may not be looked at. The process adapter and the port pre-check ask; nothing here signals anything.
 */

import { readFileSync } from 'node:fs'
import { readdir, readFile, readlink } from 'node:fs/promises'

/** A process and when it began, in clock ticks since the boot: together they outlive a reuse of the pid. */
export interface ProcessIdentity {
  readonly pid: number
  readonly startTicks: number
}

/** Who a process is to the file system. */
export interface Credentials {
  readonly uid: number
  readonly groups: readonly number[]
}

/** Every pid of this pid namespace. */
export async function allPids(): Promise<readonly number[]> {
  return (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
}

/** The command line, arguments joined by spaces, as a process shows itself. Empty for a zombie or no process. */
export function titleOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return ''
  }
}

/** Parent and start time. */
export async function statOf(pid: number): Promise<{ parent: number; startTicks: number } | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
    // The second field is the name in parentheses, which may hold anything; the rest is plain.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { parent: Number(fields[1]), startTicks: Number(fields[19]) }
  } catch {
    return undefined
  }
}

export async function credentialsOf(pid: number): Promise<Credentials | undefined> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  const numbers = (name: string) =>
    (new RegExp(`^${name}:(.*)$`, 'm').exec(status)?.[1] ?? '').trim().split(/\s+/).map(Number)
  // Real, effective, saved, and that of the file system.
  const [uid, gid] = [numbers('Uid')[3], numbers('Gid')[3]]
  return uid === undefined || gid === undefined ? undefined : { uid, groups: [gid, ...numbers('Groups')] }
}

export async function childrenOf(parent: number): Promise<readonly number[]> {
  try {
    const children = await readFile(`/proc/${parent}/task/${parent}/children`, 'utf8')
    return children.split(' ').filter(Boolean).map(Number)
  } catch {
    // Kernels without CONFIG_PROC_CHILDREN.
    const pids = await allPids()
    const parents = await Promise.all(pids.map((pid) => statOf(pid)))
    return pids.filter((_, index) => parents[index]?.parent === parent)
  }
}

export async function workingDirectoryOf(pid: number): Promise<string | undefined> {
  return readlink(`/proc/${pid}/cwd`).catch(() => undefined)
}

/** Targets of the open file descriptors: paths, or `socket:[inode]`. */
export async function openFilesOf(pid: number): Promise<readonly string[]> {
  try {
    const names = await readdir(`/proc/${pid}/fd`)
    return await Promise.all(names.map((name) => readlink(`/proc/${pid}/fd/${name}`).catch(() => '')))
  } catch {
    return []
  }
}

/** Names, without directories, of the files mapped into its memory: libraries among them. */
export async function mappedFilesOf(pid: number): Promise<readonly string[]> {
  const maps = await readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '')
  return [...new Set(Array.from(maps.matchAll(/\/([^/\n]+)$/gm), ([, name]) => name as string))]
}

/** Changes at every boot: start times of another boot mean nothing. */
export async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')).trim()
}

/** The processes that listen on a port, as far as they may be looked at. */
export async function listenersOn(port: number, protocol: 'tcp' | 'udp' = 'tcp'): Promise<readonly number[]> {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0')
  const LISTEN = '0A'
  const sockets = new Set<string>()
  for (const table of [`/proc/net/${protocol}`, `/proc/net/${protocol}6`]) {
    for (const line of (await readFile(table, 'utf8').catch(() => '')).split('\n').slice(1)) {
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/)
      // What has a UDP port receives by it.
      if ((state === LISTEN || protocol === 'udp') && local?.endsWith(`:${wanted}`)) sockets.add(`socket:[${inode}]`)
    }
  }
  if (sockets.size === 0) return []
  const pids = await allPids()
  const owns = await Promise.all(pids.map(async (pid) => (await openFilesOf(pid)).some((file) => sockets.has(file))))
  return pids.filter((_, index) => owns[index])
}
