/**
 * One suite for the Store port, run against the store on disk and the one in memory; then what only the one on disk
 * can do: damaged files, a full disk, a second opener.
 */

import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ClassicLevel } from 'classic-level'
import { afterAll, describe, expect, test } from 'vitest'
import { LevelStore } from '../../src/adapters/store.ts'
import { envelopeId, type WireEnvelope } from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'
import { MAX_MARK_BYTES, type CorruptRecord, type Store } from '../../src/ports.ts'
import { MemoryStore } from '../support/memory-store.ts'

const SEAL_KEY = randomBytes(32)
const root = mkdtempSync(join(tmpdir(), 'nxmesh-store-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let directories = 0
function newDirectory(): string {
  directories += 1
  return join(root, `store-${directories}`)
}

interface Item {
  readonly id: string
  readonly wire: WireEnvelope
}

function item(n: number, signature = '0'): Item {
  const bytes = JSON.stringify({ n, note: 'é"\\\n', pad: randomBytes(300).toString('base64') })
  return { id: envelopeId(bytes), wire: { bytes, sigs: { [n.toString(16).padStart(64, '0')]: signature.repeat(128) } } }
}

function items(count: number, from = 0): Item[] {
  return Array.from({ length: count }, (_, index) => item(from + index))
}

async function read(
  store: Store,
): Promise<{ ids: string[]; sealed: boolean[]; wires: WireEnvelope[]; corrupt: CorruptRecord[] }> {
  const result = {
    ids: [] as string[],
    sealed: [] as boolean[],
    wires: [] as WireEnvelope[],
    corrupt: [] as CorruptRecord[],
  }
  for await (const { id, sealed, wire } of store.envelopes((record) => result.corrupt.push(record))) {
    result.ids.push(id)
    result.sealed.push(sealed)
    result.wires.push(wire)
  }
  return result
}

const ids = (list: readonly Item[]): string[] => list.map(({ id }) => id)

interface Subject {
  readonly store: Store
  /** The same content, opened anew. */
  reopen(): Promise<Store>
  /** Changes a record while the store is stopped. */
  tamper(id: string, change: (wire: WireEnvelope) => WireEnvelope): Promise<void>
}

const subjects: Record<string, () => Subject> = {
  level: () => {
    const directory = newDirectory()
    const open = (): LevelStore => new LevelStore({ directory, sealKey: SEAL_KEY })
    return {
      store: open(),
      reopen: async () => open(),
      tamper: (id, change) =>
        rewrite(directory, id, (value) => {
          const { bytes, sigs, seal } = JSON.parse(value) as WireEnvelope & { seal: string }
          return JSON.stringify({ ...change({ bytes, sigs }), seal })
        }),
    }
  },
  memory: () => {
    const store = new MemoryStore()
    return { store, reopen: async () => store, tamper: async (id, change) => store.tamper(id, change) }
  },
}

async function withDatabase(directory: string, use: (database: ClassicLevel) => Promise<void>): Promise<void> {
  const database = new ClassicLevel(directory)
  await database.open()
  await use(database)
  await database.close()
}

async function rewrite(directory: string, id: string, change: (value: string) => string): Promise<void> {
  await withDatabase(directory, async (database) => {
    for await (const [key, value] of database.iterator()) if (key.endsWith(id)) await database.put(key, change(value))
  })
}

describe.each(Object.keys(subjects))('the store port on %s', (name) => {
  const create = (): Subject => (subjects[name] as () => Subject)()

  test('gives back what was appended, in order, sealed, over a restart', async () => {
    const { store, reopen } = create()
    const all = items(1200)
    await store.start()
    await store.append(all.slice(0, 700))
    for (const one of all.slice(700, 720)) await store.append([one])
    await store.append(all.slice(720))
    await store.append([])
    expect((await read(store)).ids).toEqual(ids(all))
    await store.stop()
    const again = await reopen()
    await again.start()
    const content = await read(again)
    expect(content.ids).toEqual(ids(all))
    expect(content.wires).toEqual(all.map(({ wire }) => wire))
    expect(new Set(content.sealed)).toEqual(new Set([true]))
    expect(content.corrupt).toEqual([])
    await again.append(items(1, 5000))
    expect((await read(again)).ids).toHaveLength(1201)
    await again.stop()
  })

  test('replaces the signatures of a known id at its place', async () => {
    const { store, reopen } = create()
    const all = items(3)
    const [first] = all as [Item]
    const cosigned = {
      id: first.id,
      wire: { bytes: first.wire.bytes, sigs: { ['a'.repeat(64)]: 'b'.repeat(128), ...first.wire.sigs } },
    }
    await store.start()
    await store.append(all)
    await store.append([cosigned, cosigned])
    await store.stop()
    const again = await reopen()
    await again.start()
    const content = await read(again)
    expect(content.ids).toEqual(ids(all))
    expect(content.wires[0]).toEqual(cosigned.wire)
    expect(content.sealed).toEqual([true, true, true])
    await again.stop()
  })

  test('keeps appends that run at once, each once', async () => {
    const { store } = create()
    const all = items(200)
    await store.start()
    await Promise.all(all.map((one) => store.append([one])))
    expect((await read(store)).ids.toSorted()).toEqual(ids(all).toSorted())
    await store.stop()
  })

  test('reports a record that does not match its id, and removes it', async () => {
    const { store, reopen, tamper } = create()
    const all = items(5)
    await store.start()
    await store.append(all)
    await store.stop()
    await tamper((all[2] as Item).id, (wire) => ({ ...wire, bytes: wire.bytes.replace('"n":2', '"n":3') }))
    const again = await reopen()
    await again.start()
    const content = await read(again)
    expect(content.ids).toEqual(ids(all.toSpliced(2, 1)))
    expect(content.corrupt).toEqual([
      { key: expect.any(String), reason: expect.stringContaining('the content has id') },
    ])
    await again.append([all[2] as Item])
    const healed = await read(again)
    expect(healed.corrupt).toEqual([])
    expect(healed.ids.toSorted()).toEqual(ids(all).toSorted())
    await again.stop()
    const third = await reopen()
    await third.start()
    expect((await read(third)).corrupt).toEqual([])
    await third.stop()
  })

  test('does not vouch for signatures that somebody else put there', async () => {
    const { store, reopen, tamper } = create()
    const all = items(2)
    await store.start()
    await store.append(all)
    await store.stop()
    await tamper((all[1] as Item).id, (wire) => ({ ...wire, sigs: { ['c'.repeat(64)]: 'd'.repeat(128) } }))
    const again = await reopen()
    await again.start()
    expect((await read(again)).sealed).toEqual([true, false])
    await again.append([all[1] as Item])
    expect((await read(again)).sealed).toEqual([true, true])
    await again.stop()
  })

  test('keeps marks over a restart, apart from envelopes', async () => {
    const { store, reopen } = create()
    await store.start()
    expect(await store.getMark('incarnation')).toBeUndefined()
    await store.setMark('incarnation', '1')
    await Promise.all([store.setMark('incarnation', '2'), store.setMark('a/b é\n', 'x\ny'), store.append(items(1))])
    expect(await store.getMark('incarnation')).toBe('2')
    await store.stop()
    const again = await reopen()
    await again.start()
    expect(await again.getMark('incarnation')).toBe('2')
    expect(await again.getMark('a/b é\n')).toBe('x\ny')
    expect((await read(again)).ids).toHaveLength(1)
    await again.stop()
  })

  test('refuses a mark that is too large, and keeps the one before', async () => {
    const { store } = create()
    await store.start()
    await store.setMark('peers', 'x'.repeat(MAX_MARK_BYTES))
    await expect(store.setMark('peers', 'é'.repeat(MAX_MARK_BYTES))).rejects.toMatchObject({ code: 'too_large' })
    expect(await store.getMark('peers')).toHaveLength(MAX_MARK_BYTES)
    await store.stop()
  })

  test('starts and stops any number of times, and refuses work in between', async () => {
    const { store } = create()
    await store.stop()
    await expect(store.append(items(1))).rejects.toMatchObject({ code: 'unavailable' })
    await Promise.all([store.start(), store.start()])
    await store.append(items(1))
    await Promise.all([store.stop(), store.stop()])
    await expect(store.setMark('a', 'b')).rejects.toMatchObject({ code: 'unavailable' })
    await expect(store.getMark('a')).rejects.toMatchObject({ code: 'unavailable' })
    await store.start()
    expect((await read(store)).ids).toHaveLength(1)
    await store.stop()
  })
})

describe('the store in memory', () => {
  test('fails the nth write as a full disk does, and the next one works', async () => {
    const store = new MemoryStore({ failsWrite: (n) => n === 2 })
    await store.start()
    await store.append(items(1))
    await expect(store.append(items(1, 1))).rejects.toMatchObject({ code: 'store_unwritable' })
    await store.append(items(1, 2))
    expect((await read(store)).ids).toHaveLength(2)
  })
})

describe('the store on disk', () => {
  /** A stopped store with `count` envelopes and a mark. Opened twice, so that it has tables besides a log. */
  async function filled(count: number): Promise<{ directory: string; all: Item[] }> {
    const directory = newDirectory()
    const all = items(count)
    for (const part of [all.slice(0, count / 2), all.slice(count / 2)]) {
      const store = new LevelStore({ directory, sealKey: SEAL_KEY })
      await store.start()
      for (let index = 0; index < part.length; index += 20) await store.append(part.slice(index, index + 20))
      await store.setMark('incarnation', '7')
      await store.stop()
    }
    return { directory, all }
  }

  const fileOf = (directory: string, pattern: RegExp): string =>
    join(
      directory,
      readdirSync(directory)
        .filter((file) => pattern.test(file))
        .toSorted()[0] as string,
    )

  test('makes its directory for its owner alone', async () => {
    const directory = join(newDirectory(), 'deeper')
    const store = new LevelStore({ directory, sealKey: SEAL_KEY })
    await store.start()
    await store.stop()
    expect(statSync(directory).mode & 0o777).toBe(0o700)
  })

  test('seals with its key: another node’s store is read, but not trusted', async () => {
    const { directory, all } = await filled(4)
    const store = new LevelStore({ directory, sealKey: randomBytes(32) })
    await store.start()
    const content = await read(store)
    expect(content.ids).toEqual(ids(all))
    expect(content.sealed).toEqual([false, false, false, false])
    await store.stop()
  })

  test.each([
    ['bad JSON', () => '{"bytes":', 'not JSON'],
    ['another shape', () => '[]', 'not an envelope'],
    ['a signature that is no signature', (value: string) => value.replace(/"0{128}"/, '"00"'), 'not an envelope'],
  ])('removes a record with %s', async (_, change, reason) => {
    const { directory, all } = await filled(4)
    await rewrite(directory, (all[1] as Item).id, change)
    const store = new LevelStore({ directory, sealKey: SEAL_KEY })
    await store.start()
    const content = await read(store)
    expect(content.ids).toEqual(ids(all.toSpliced(1, 1)))
    expect(content.corrupt).toMatchObject([{ reason: expect.stringContaining(reason) }])
    await store.stop()
  })

  test('reports foreign keys, second records of one id and damaged marks once', async () => {
    const { directory, all } = await filled(4)
    await withDatabase(directory, async (database) => {
      await database.put('e/nonsense', 'x')
      const [first] = await database.iterator({ gte: 'e/0' }).all()
      await database.put(
        (first as [string, string])[0].replace(/\d{12}/, '000000000009'),
        (first as [string, string])[1],
      )
      await database.put('m/incarnation', 'no checksum')
    })
    const store = new LevelStore({ directory, sealKey: SEAL_KEY })
    await store.start()
    const { ids: found, corrupt } = await read(store)
    expect(found).toEqual(ids(all))
    const reasons = corrupt.map(({ reason }) => reason).join('; ')
    for (const part of ['key is not', 'a second record', 'checksum', 'records are missing'])
      expect(reasons).toContain(part)
    expect(corrupt).toHaveLength(4)
    expect(await store.getMark('incarnation')).toBeUndefined()
    await store.stop()
    await store.start()
    expect((await read(store)).corrupt).toEqual([])
    await store.stop()
  })

  test('notices records that vanished from the middle', async () => {
    const { directory, all } = await filled(6)
    await withDatabase(directory, async (database) => {
      for await (const key of database.keys()) if (key.endsWith((all[2] as Item).id)) await database.del(key)
    })
    const store = new LevelStore({ directory, sealKey: SEAL_KEY })
    await store.start()
    expect((await read(store)).corrupt).toEqual([{ key: 'files', reason: '1 records are missing from the files' }])
    await store.stop()
    await store.start()
    expect((await read(store)).corrupt).toEqual([])
    await store.stop()
  })

  const truncateHalf = (file: string): void => truncateSync(file, statSync(file).size >> 1)
  const scramble = (file: string): void => {
    const bytes = readFileSync(file)
    bytes.fill(randomBytes(64), bytes.length >> 2, bytes.length >> 1)
    writeFileSync(file, bytes)
  }
  const remove = (file: string): void => rmSync(file)

  test.each([
    ['a table', /\.ldb$/, { truncateHalf, scramble, remove }],
    ['the log', /\.log$/, { scramble }],
    ['the manifest', /^MANIFEST/, { truncateHalf, scramble, remove }],
    ['CURRENT', /^CURRENT$/, { truncateHalf, scramble, remove }],
  ] as const)('repairs damage of %s, says so, and takes what was lost again', async (_, pattern, damages) => {
    const { directory, all } = await filled(2000)
    for (const [damage, inflict] of Object.entries(damages)) {
      const copy = newDirectory()
      cpSync(directory, copy, { recursive: true })
      inflict(fileOf(copy, pattern))
      const store = new LevelStore({ directory: copy, sealKey: SEAL_KEY })
      await store.start()
      const { ids: found, corrupt } = await read(store)
      expect(corrupt.length, `${damage}: said nothing`).toBeGreaterThan(0)
      expect(found, damage).toEqual(ids(all).filter((id) => found.includes(id)))
      if (!/ldb|log/.test(pattern.source)) expect(found, damage).toHaveLength(all.length)
      await store.append(all)
      await store.stop()
      await store.start()
      const healed = await read(store)
      expect(healed.ids.toSorted(), damage).toEqual(ids(all).toSorted())
      expect(healed.corrupt, damage).toEqual([])
      await store.stop()
    }
  })

  test('names the process that has the store open', async () => {
    const { directory } = await filled(2)
    const script = `
      const { ClassicLevel } = await import(${JSON.stringify(import.meta.resolve('classic-level'))})
      await new ClassicLevel(${JSON.stringify(directory)}).open()
      process.stdout.write('open')
      process.stdin.resume()`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] })
    await new Promise((resolve) => child.stdout.once('data', resolve))
    const store = new LevelStore({ directory, sealKey: SEAL_KEY })
    const error = await store.start().catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(MeshError)
    expect(error).toMatchObject({
      code: 'store_locked',
      details: { field: 'data_dir', hint: expect.stringContaining(`process ${child.pid}`) },
    })
    expect((error as MeshError).message).toContain(directory)
    child.kill('SIGKILL')
    await new Promise((resolve) => child.once('close', resolve))
    await store.start()
    expect((await read(store)).ids).toHaveLength(2)
    await store.stop()
  })

  test('says what to do about a directory that cannot be one', async () => {
    const file = newDirectory()
    writeFileSync(file, '')
    const store = new LevelStore({ directory: join(file, 'store'), sealKey: SEAL_KEY })
    await expect(store.start()).rejects.toMatchObject({
      code: 'store_unwritable',
      details: { hint: expect.stringContaining(file) },
    })
  })

  // Mounting needs root in the first user namespace; elsewhere the injected failures above stand in for the disk.
  const mounts = canMount()
  describe.runIf(mounts)('on a disk of one megabyte', () => {
    test('refuses what does not fit, appends nothing of it, and goes on when there is space again', async () => {
      const mount = join(root, 'small')
      mkdirSync(mount)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', mount])
      try {
        const directory = join(mount, 'store')
        const ballast = join(mount, 'ballast')
        writeFileSync(ballast, Buffer.alloc(500_000))
        const store = new LevelStore({ directory, sealKey: SEAL_KEY })
        await store.start()
        await store.setMark('incarnation', '1')
        const kept: string[] = []
        const refused: unknown[] = []
        for (let n = 0; refused.length < 6; n += 1) {
          const group = items(20, n * 20)
          await store.append(group).then(
            () => kept.push(...ids(group)),
            (error: unknown) => refused.push(error),
          )
        }
        for (const error of refused) {
          expect(error).toMatchObject({
            code: 'store_unwritable',
            details: { hint: expect.stringContaining('Free space') },
          })
        }
        await expect(store.setMark('incarnation', '2'.repeat(100_000))).rejects.toMatchObject({
          code: 'store_unwritable',
        })
        expect(await store.getMark('incarnation')).toBe('1')
        rmSync(ballast)
        const later = items(5, 100_000)
        await store.append(later)
        kept.push(...ids(later))
        expect((await read(store)).ids).toEqual(kept)
        await store.stop()
        await store.start()
        const content = await read(store)
        expect(content.ids).toEqual(kept)
        expect(content.corrupt).toEqual([])
        expect(await store.getMark('incarnation')).toBe('1')
        await store.stop()
        execFileSync('mount', ['-o', 'remount,ro', mount])
        await expect(store.start()).rejects.toMatchObject({
          code: 'store_unwritable',
          details: { hint: expect.stringContaining('mount options') },
        })
      } finally {
        execFileSync('umount', [mount])
      }
    })
  })

  function canMount(): boolean {
    const probe = join(root, 'probe')
    mkdirSync(probe)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', probe], { stdio: 'ignore' })
      execFileSync('umount', [probe])
      return true
    } catch {
      return false
    }
  }
})
