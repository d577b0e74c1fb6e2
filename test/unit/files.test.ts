/**
 * Who gets at nginx's files: what the store makes is closed to other users of the host, whatever the umask and whoever made
 * it before; log files are put aside and made anew; and who may pass through a directory.
 */

import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { GenerationStore } from '../../src/nginx/applying/generation.ts'
import { prepareLogs, putAside } from '../../src/nginx/applying/logs.ts'
import { ANYBODY, closedDirectories, mayPass } from '../../src/nginx/applying/reach.ts'
import { NginxHost } from '../support/nginx-host.ts'

let base: string
let directory: string
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'nxmesh-files-'))
  directory = join(base, 'nginx')
})
afterEach(() => rm(base, { recursive: true }))

const modeOf = async (path: string) => ((await stat(path)).mode & 0o777).toString(8)
const modesOf = async (paths: readonly string[]) =>
  Object.fromEntries(await Promise.all(paths.map(async (path) => [path, await modeOf(join(directory, path))])))

const DIRECTORIES = ['.', 'objects', 'generations', 'private', 'drift', 'logs', 'temp']
/** Workers, which may be another user, stat the drain file, write temporary files, and open logs anew. */
const CLOSED = {
  '.': '711',
  objects: '700',
  generations: '700',
  private: '700',
  drift: '700',
  logs: '711',
  temp: '711',
}

describe('directories', () => {
  test.each([0o000, 0o022, 0o077, 0o777])(
    'are closed to others and passable for workers under any umask',
    async (mask) => {
      // This directory, and with it its own umask, is the test's.
      const before = process.umask(mask)
      try {
        await new GenerationStore({ directory }, systemClock).open()
      } finally {
        process.umask(before)
      }
      expect(await modesOf(DIRECTORIES)).toEqual(CLOSED)
    },
  )

  test('of an older version are closed at boot', async () => {
    for (const name of DIRECTORIES) {
      await mkdir(join(directory, name), { recursive: true })
      await chmod(join(directory, name), 0o755)
    }
    await new GenerationStore({ directory }, systemClock).open()
    expect(await modesOf(DIRECTORIES)).toEqual(CLOSED)
  })

  test('that somebody opened to a group, or closed altogether, stay so', async () => {
    for (const name of DIRECTORIES) await mkdir(join(directory, name), { recursive: true })
    await chmod(join(directory, 'logs'), 0o750)
    await chmod(join(directory, 'temp'), 0o700)
    await new GenerationStore({ directory }, systemClock).open()
    expect(await modesOf(['logs', 'temp'])).toEqual({ logs: '750', temp: '700' })
  })

  test('of a generation, and every file in it, are the daemon’s alone', async () => {
    const host = new NginxHost(directory)
    const store = new GenerationStore(host.layout, systemClock)
    await store.open()
    const units = [host.site('a', { port: 80 })]
    const generation = { ...host.assemble(units), units }
    await store.stage(generation)
    await store.recordProven(generation.digest)
    const files = (await readdir(directory, { recursive: true })).filter((path) => /\.(conf|json)$/.test(path))
    expect(files).toHaveLength(4)
    expect(new Set(Object.values(await modesOf(files)))).toEqual(new Set(['600']))
    expect(await modeOf(join(directory, 'generations', generation.digest))).toBe('700')
  })
})

describe('logs', () => {
  beforeEach(() => mkdir(join(directory, 'logs'), { recursive: true }))
  const log = (name: string) => join(directory, 'logs', name)

  test('are there before nginx would make them for all to read; older ones are closed', async () => {
    await writeFile(log('access.log'), 'kept\n', { mode: 0o644 })
    await writeFile(log('access.log.1'), 'older\n', { mode: 0o644 })
    await symlink(log('nowhere'), log('somebody.log'))
    await prepareLogs(directory)
    expect(await modesOf(['logs/access.log', 'logs/access.log.1', 'logs/error.log'])).toEqual({
      'logs/access.log': '600',
      'logs/access.log.1': '600',
      'logs/error.log': '600',
    })
    expect(await readFile(log('access.log'), 'utf8')).toBe('kept\n')
  })

  test('beyond their limit are put aside, three of them stay, and the new one is closed too', async () => {
    for (const content of ['a', 'b', 'c', 'd', 'e']) {
      await writeFile(log('access.log'), content.repeat(11))
      expect(await putAside(log('access.log'), 10)).toBe(true)
    }
    expect(await putAside(log('access.log'), 10)).toBe(false)
    expect(await putAside(log('none.log'), 10)).toBe(false)
    const contents = ['', '.1', '.2', '.3'].map((ending) => readFile(log(`access.log${ending}`), 'utf8'))
    expect(await Promise.all(contents)).toEqual(['', 'e'.repeat(11), 'd'.repeat(11), 'c'.repeat(11)])
    expect(await readdir(join(directory, 'logs'))).toHaveLength(4)
    expect(await modeOf(log('access.log'))).toBe('600')
  })
})

describe('passing through', () => {
  const who = { uid: 33, groups: [33, 4] }
  test.each([
    ['others may', { uid: 0, gid: 0, mode: 0o711 }, true],
    ['others may not', { uid: 0, gid: 0, mode: 0o710 }, false],
    ['others may only read', { uid: 0, gid: 0, mode: 0o704 }, false],
    ['a group of it may', { uid: 0, gid: 4, mode: 0o710 }, true],
    ['a group of it may not, though others may', { uid: 0, gid: 4, mode: 0o701 }, false],
    ['its owner may', { uid: 33, gid: 0, mode: 0o700 }, true],
    ['its owner may not, though its group may', { uid: 33, gid: 33, mode: 0o077 }, false],
  ])('%s', (_, stats, may) => {
    expect(mayPass(who, stats)).toBe(may)
    expect(mayPass({ uid: 0, groups: [0] }, stats), 'root may anything').toBe(true)
  })

  test('every closed directory on the way is named, from the top, behind symbolic links too', async () => {
    await chmod(base, 0o755)
    await mkdir(join(base, 'closed', 'open'), { recursive: true })
    await mkdir(join(base, 'real', 'nginx'), { recursive: true })
    await symlink(join(base, 'real', 'nginx'), join(base, 'closed', 'open', 'nginx'))
    const path = join(base, 'closed', 'open', 'nginx')
    expect(await closedDirectories(path, ANYBODY)).toEqual([])
    for (const part of ['closed', 'real', 'real/nginx']) await chmod(join(base, part), 0o700)
    expect(await closedDirectories(path, ANYBODY)).toEqual([join(base, 'closed'), path, join(base, 'real')])
    expect(await closedDirectories(path, { uid: 0, groups: [] })).toEqual([])
    expect(await closedDirectories(join(base, 'not-there'), ANYBODY)).toEqual([])
  })
})
