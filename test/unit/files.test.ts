/**
 * Who gets at nginx's files: what the store makes is closed to other users of the host, whatever the umask and whoever made
 * it before; log files are put aside and made anew; and who may pass through a directory.
 */

import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { builtInGroups } from '../../src/nginx/applying/capabilities.ts'
import { disk, type Disk } from '../../src/nginx/applying/disk.ts'
import { GenerationStore } from '../../src/nginx/applying/generation.ts'
import { prepareLogs, putAside } from '../../src/nginx/applying/logs.ts'
import { ANYBODY, closedDirectories, mayPass } from '../../src/nginx/applying/reach.ts'
import { filePath, unitFile } from '../../src/nginx/rendering/unit-files.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { NginxHost } from '../support/nginx-host.ts'
import { waitFor } from '../support/wait.ts'

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

/** Every file is settled by it. */
const LATER = { now: () => systemClock.now() + 60_000 }

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

describe('of thousands of units', () => {
  test('those that did not change are neither serialised nor written again', async () => {
    const host = new NginxHost(directory)
    const written: string[] = []
    const counting: Disk = {
      ...disk,
      write: (path, text, group) => {
        written.push(path)
        return disk.write(path, text, group)
      },
    }
    const store = new GenerationStore(host.layout, systemClock, counting)
    await store.open()
    let serialised = 0
    const counted = (unit: Unit): Unit =>
      Object.defineProperty({ ...unit }, 'needs', {
        get: () => {
          serialised += 1
          return unit.needs
        },
      })
    const [a, b, c] = ['a', 'b', 'c'].map((name) => counted(host.site(name, { port: 80 }))) as [Unit, Unit, Unit]
    const stage = async (units: readonly Unit[]) => {
      const generation = { ...host.assemble(units), units }
      serialised = 0
      written.length = 0
      await store.stage(generation)
      return [serialised, written.filter((path) => path.includes('/objects/')).length]
    }
    expect(await stage([a, b])).toEqual([2, 2])
    expect(await stage([a, b, c])).toEqual([1, 1])
    expect(await stage([a, c])).toEqual([0, 0])
    const whole = { ...host.assemble([a, c]), units: [a, c] }
    expect(await store.load(whole.digest)).toEqual({ ...whole, units: [a, c] })
  })
})

describe('files of units', () => {
  const withFile = (host: NginxHost, text: string, readers: 'master' | 'workers') => {
    const file = unitFile(text, 'txt', readers)
    const site = host.site('a', { port: 80, body: `auth_basic_user_file ${filePath(host.layout, file)};` })
    const units = [{ ...site, files: [file] }]
    return { ...host.assemble(units), units }
  }
  const objects = async () => (await readdir(join(directory, 'objects'))).filter((name) => name.endsWith('.txt'))
  const newStore = async (host: NginxHost, group?: number) => {
    const store = new GenerationStore(host.layout, LATER, disk, () => Promise.resolve(group))
    await store.open()
    return store
  }

  test('are written for their readers, come back, are missed and mended, and go with their generation', async () => {
    const host = new NginxHost(directory)
    const store = await newStore(host, process.getgid?.())
    const first = withFile(host, 'one\n', 'master')
    await store.stage(first)
    await store.activate(first.digest)
    expect(await modesOf(['objects', `objects/${first.files[0]?.name}`])).toEqual({
      objects: '700',
      [`objects/${first.files[0]?.name}`]: '600',
    })
    const manifest = join(directory, 'generations', first.digest, 'manifest.json')
    expect(await readFile(manifest, 'utf8')).not.toContain('one')
    expect(await (await newStore(host)).load(first.digest)).toEqual(first)

    const path = join(directory, 'objects', first.files[0]?.name ?? '')
    await writeFile(path, 'two\n')
    expect(await (await newStore(host)).load(first.digest)).toBeUndefined()
    const damage = await store.damage(first)
    expect(damage).toEqual([{ path, reason: 'changed' }])
    await store.repair(first, damage)
    expect(await readFile(path, 'utf8')).toBe('one\n')
    await rm(path)
    expect(await store.damage(first)).toEqual([{ path, reason: 'missing' }])
    await store.repair(first, await store.damage(first))
    expect(await store.damage(first)).toEqual([])

    const before = await stat(path, { bigint: true })
    await waitFor(
      async () => {
        await writeFile(path, 'two\n')
        await utimes(path, Number(before.atimeMs) / 1000, Number(before.mtimeMs) / 1000)
        return (await stat(path, { bigint: true })).ctimeNs !== before.ctimeNs
      },
      { what: 'the clock of the file system' },
    )
    expect(await store.damage(first), 'as long and as old as it was').toEqual([{ path, reason: 'changed' }])
    await store.repair(first, await store.damage(first))

    const second = withFile(host, 'two\n', 'workers')
    expect(second.digest).not.toBe(first.digest)
    await store.stage(second)
    await store.activate(second.digest)
    await store.prune()
    expect(await objects()).toEqual([second.files[0]?.name])
    // Only its group beyond this user, and nobody who is in neither.
    expect(await modesOf(['objects', `objects/${second.files[0]?.name}`])).toEqual({
      objects: '710',
      [`objects/${second.files[0]?.name}`]: '640',
    })
  })

  test('a cache that no kept generation has goes; one that the current has not is emptied, and no other', async () => {
    const host = new NginxHost(directory)
    const store = await newStore(host)
    const [now, before, lost] = ['0123456789abcdef', '89abcdef01234567', 'fedcba9876543210'] as const
    for (const version of [before, now]) {
      const { units } = withFile(host, version, 'master')
      const policy = { ...(units[0] as Unit), path: `default/*/policy/pages#${version}`, kind: 'policy' } as const
      const generation = { ...host.assemble([policy]), units: [policy] }
      await store.stage(generation)
      await store.activate(generation.digest)
      await store.recordProven(generation.digest)
    }
    const caches = [now, before, lost].map((version) => `cache_nxmesh_${version}`)
    for (const name of [...caches, 'proxy']) await mkdir(join(directory, 'temp', name, 'a'), { recursive: true })
    for (let round = 0; round < 2; round += 1) {
      await store.prune()
      expect((await readdir(join(directory, 'temp'))).toSorted()).toEqual([...caches.slice(0, 2), 'proxy'])
      expect(await readdir(join(directory, 'temp', caches[0] as string))).toEqual(['a'])
      expect(await readdir(join(directory, 'temp', caches[1] as string))).toEqual([])
    }
  })

  test('for workers stay this user’s alone where workers are the same', async () => {
    const host = new NginxHost(directory)
    const store = await newStore(host)
    const generation = withFile(host, 'one\n', 'workers')
    await store.stage(generation)
    const [name = ''] = await objects()
    expect(await modesOf(['objects', `objects/${name}`])).toEqual({ objects: '700', [`objects/${name}`]: '600' })
  })

  test('for workers are written anew by a new daemon, whose workers may be of another group', async () => {
    const host = new NginxHost(directory)
    const generation = withFile(host, 'one\n', 'workers')
    await (await newStore(host)).stage(generation)
    const store = await newStore(host, process.getgid?.())
    expect(await store.load(generation.digest)).toEqual(generation)
    await store.stage(generation)
    expect(await modeOf(join(directory, 'objects', (await objects())[0] ?? ''))).toBe('640')
  })

  test('that one unit has for the master and another for workers are for workers', () => {
    const host = new NginxHost(directory)
    const [a, b] = [host.site('a', { port: 80 }), host.site('b', { port: 80 })]
    const [master, workers] = [unitFile('x', 'txt', 'master'), unitFile('x', 'txt', 'workers')]
    const units = [
      { ...a, files: [workers] },
      { ...b, files: [master] },
    ]
    expect(host.assemble(units).files).toEqual([workers])
  })

  test('their group is the one that nginx gives its workers', () => {
    expect(builtInGroups('configure arguments: --user=nginx --group=web')).toEqual(['web'])
    expect(builtInGroups('configure arguments: --user=nginx --with-x')).toEqual(['nginx'])
    expect(builtInGroups('configure arguments: --with-x')).toEqual(['nogroup', 'nobody'])
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
