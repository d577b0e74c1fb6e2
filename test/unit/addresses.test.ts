/**
 * Addresses of host names: the last known ones outlive a failing resolver and a restart, no name waits for another, and what
 * is kept on disk is small and checked.
 */

import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { MeshError } from '../../src/errors.ts'
import { addressFile } from '../../src/nginx/applying/address-file.ts'
import { Addresses } from '../../src/nginx/applying/addresses.ts'
import { disk } from '../../src/nginx/applying/disk.ts'
import { renderYaml } from '../support/resources.ts'
import { rememberingLog, silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'
import { waitFor } from '../support/wait.ts'

const never = () => new Promise<never>(() => undefined)
const fails = () => Promise.reject(new Error('SERVFAIL'))

test('the last known ones stay when the resolver fails, a silent one holds up nothing for long', async () => {
  const clock = new VirtualClock()
  const zone = new Map([['a.test', ['10.0.0.2', '10.0.0.1', '10.0.0.2']]])
  const addresses = new Addresses((name) => {
    if (name === 'silent.test') return never()
    const found = zone.get(name)
    return found === undefined ? Promise.reject(new Error('NXDOMAIN')) : Promise.resolve(found)
  }, clock)
  let changes = 0
  addresses.onChange(() => (changes += 1))
  const first = addresses.of(['a.test', 'b.test', 'silent.test'])
  await clock.advance(1_000)
  expect([...(await first)]).toEqual([['a.test', ['10.0.0.1', '10.0.0.2']]])
  expect(changes).toBe(0)
  zone.clear()
  zone.set('b.test', ['10.0.0.3'])
  addresses.refresh()
  await clock.advance(0)
  expect(changes).toBe(1)
  expect(await addresses.of(['a.test', 'b.test'])).toEqual(
    new Map([
      ['a.test', ['10.0.0.1', '10.0.0.2']],
      ['b.test', ['10.0.0.3']],
    ]),
  )
  addresses.refresh()
  await clock.advance(0)
  expect(changes).toBe(1)
})

describe('one family that fails', () => {
  /** Answers with what is set: addresses, or those of one family while the other fails or hangs. */
  function halves() {
    let next: { readonly told: readonly string[]; readonly rest: () => Promise<readonly string[]> }
    return {
      set: (told: readonly string[], rest: () => Promise<readonly string[]>) => void (next = { told, rest }),
      lookup: (_: string, onFamily: (addresses: readonly string[]) => void) => {
        if (next.told.length > 0) onFamily(next.told)
        return next.rest()
      },
    }
  }
  const both = ['10.0.0.1', '10.0.0.2', '2001:db8::1']
  const known = async (addresses: Addresses) => (await addresses.of(['a.test'])).get('a.test')

  test.each([
    ['IPv4', ['2001:db8::2'], ['10.0.0.1', '10.0.0.2', '2001:db8::2']],
    ['IPv6', ['10.0.0.3'], ['10.0.0.3', '2001:db8::1']],
    ['each', [], both],
  ])('keeps its last known addresses (%s)', async (_, told, kept) => {
    const clock = new VirtualClock()
    const { set, lookup } = halves()
    const addresses = new Addresses(lookup, clock)
    set([], () => Promise.resolve(both))
    expect(await known(addresses)).toEqual(both)
    for (const rest of [fails, never]) {
      set(told, rest)
      addresses.refresh()
      await clock.advance(1_000)
      expect(await known(addresses)).toEqual(kept)
    }
  })

  test('has none any more when the resolver says so', async () => {
    const clock = new VirtualClock()
    const { set, lookup } = halves()
    const addresses = new Addresses(lookup, clock)
    set([], () => Promise.resolve(both))
    await known(addresses)
    set(['10.0.0.1'], () => Promise.resolve(['10.0.0.1']))
    addresses.refresh()
    await clock.advance(0)
    expect(await known(addresses)).toEqual(['10.0.0.1'])
  })

  test.each([
    ['fails', fails, 0],
    ['is silent', never, 1_000],
  ])('leaves a new name to the other one when it %s', async (_, rest, patienceMs) => {
    const clock = new VirtualClock()
    const { set, lookup } = halves()
    set(['10.0.0.1'], rest)
    const first = known(new Addresses(lookup, clock))
    await clock.advance(patienceMs)
    expect(await first).toEqual(['10.0.0.1'])
  })
})

describe('names that hang', () => {
  /** Lookups that stay open until they are answered. */
  function openLookups() {
    const asked: string[] = []
    const open = new Map<string, (found: readonly string[]) => void>()
    const lookup = (name: string) => {
      asked.push(name)
      return name.startsWith('slow')
        ? new Promise<readonly string[]>((resolve) => open.set(name, resolve))
        : Promise.resolve(['10.0.0.1'])
    }
    return { asked, open, lookup }
  }
  const slow = Array.from({ length: 20 }, (_, index) => `slow-${index}.test`)

  test('keep no other name from being asked, and are not asked again while they hang', async () => {
    const clock = new VirtualClock()
    const { asked, lookup } = openLookups()
    const addresses = new Addresses(lookup, clock)
    const first = addresses.of([...slow, 'quick.test'])
    await clock.advance(0)
    expect(asked).toContain('quick.test')
    await clock.advance(1_000)
    expect([...(await first).keys()]).toEqual(['quick.test'])
    // Only a name without any address is waited for.
    const before = clock.monotonic()
    expect([...(await addresses.of([...slow, 'quick.test', 'new.test'])).keys()]).toEqual(['quick.test', 'new.test'])
    expect(clock.monotonic()).toBe(before)
    for (let round = 0; round < 3; round += 1) {
      addresses.refresh()
      await clock.advance(30_000)
    }
    expect(asked.filter((name) => name === slow[0])).toHaveLength(1)
    expect(asked.filter((name) => name === 'quick.test')).toHaveLength(4)
  })

  test('give up their places when there are more of them than places', async () => {
    const clock = new VirtualClock()
    const { asked, lookup } = openLookups()
    const many = Array.from({ length: 150 }, (_, index) => `slow-${index}.test`)
    const first = new Addresses(lookup, clock).of([...many, 'quick.test'])
    await clock.advance(1_000)
    expect([...(await first).keys()], 'an apply waits no longer for many').toEqual([])
    await clock.advance(2_000)
    expect(asked).toContain('quick.test')
  })

  test('are taken and told of when they answer at last', async () => {
    const clock = new VirtualClock()
    const { open, lookup } = openLookups()
    const addresses = new Addresses(lookup, clock)
    let changes = 0
    addresses.onChange(() => (changes += 1))
    const first = addresses.of(['slow.test', 'slow-2.test'])
    await clock.advance(1_000)
    expect(await first).toEqual(new Map())
    open.get('slow.test')?.(['10.0.0.9'])
    await clock.advance(0)
    expect(changes).toBe(1)
    expect(await addresses.of(['slow.test'])).toEqual(new Map([['slow.test', ['10.0.0.9']]]))
    // Nobody wants this one any more.
    open.get('slow-2.test')?.(['10.0.0.8'])
    await clock.advance(0)
    expect(changes).toBe(1)
  })
})

describe('over a restart', () => {
  let directory: string
  let file: string
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nxmesh-addresses-'))
    file = join(directory, 'addresses.json')
  })
  afterEach(() => rm(directory, { recursive: true }))

  const addresses = (lookup: (name: string) => Promise<readonly string[]>, log = silentLog()) =>
    new Addresses(lookup, new VirtualClock(), addressFile(file, log))
  const kept = async () => (JSON.parse(await readFile(file, 'utf8')) as { addresses: object }).addresses

  test('a name that does not resolve after it keeps its last known addresses, and the upstream its text', async () => {
    const yaml =
      '{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: pool }, spec: { endpoints: { "app.test:80": {} } } }'
    const rendered = async (all: Addresses) =>
      renderYaml(yaml, { addresses: await all.of(['app.test']) }).units.map(({ text }) => text)
    const before = await rendered(addresses(() => Promise.resolve(['10.0.0.1', '2001:db8::1'])))
    expect(before[0]).toContain('server 10.0.0.1:80;')
    expect(await rendered(addresses(fails))).toEqual(before)
    expect(await rendered(addresses(never)), 'without waiting for the resolver').toEqual(before)
  })

  test('what the resolver answers then is taken, told of and kept', async () => {
    await addresses(() => Promise.resolve(['10.0.0.1'])).of(['app.test', 'gone.test'])
    const { promise: answer, resolve } = Promise.withResolvers<readonly string[]>()
    const next = addresses(() => answer)
    const told = new Promise<void>((tell) => next.onChange(tell))
    expect(await next.of(['app.test'])).toEqual(new Map([['app.test', ['10.0.0.1']]]))
    resolve(['10.0.0.2'])
    await told
    expect(await next.of(['app.test'])).toEqual(new Map([['app.test', ['10.0.0.2']]]))
    expect(await kept(), 'a name that nothing uses is forgotten').toEqual({ 'app.test': ['10.0.0.2'] })
  })

  test.each([
    ['cut off', '{"v":1,"addresses":{"a.te'],
    ['empty', ''],
    ['of another version', '{"v":2,"addresses":{}}'],
    ['with a name that is none', '{"v":1,"addresses":{"a; return 200":["10.0.0.1"]}}'],
    ['with an address that is none', '{"v":1,"addresses":{"a.test":["10.0.0.1; down"]}}'],
    ['with an address of a zone', '{"v":1,"addresses":{"a.test":["fe80::1%eth0"]}}'],
    ['with too many addresses', JSON.stringify({ v: 1, addresses: { 'a.test': Array(65).fill('10.0.0.1') } })],
    ['too large', ' '.repeat(16 * 1024 * 1024 + 1)],
  ])('a file that is damaged (%s) counts as none, is said once, and is written anew', async (_, text) => {
    await writeFile(file, text)
    const { log, lines } = rememberingLog()
    const all = addresses(fails, log)
    for (let round = 0; round < 2; round += 1) expect(await all.of(['a.test'])).toEqual(new Map())
    expect(lines).toEqual([expect.stringContaining(`${file} is damaged`)])
    await addresses(() => Promise.resolve(['10.0.0.1'])).of(['a.test'])
    expect(await kept()).toEqual({ 'a.test': ['10.0.0.1'] })
  })

  test('no file is none known, and nothing to speak of', async () => {
    const { log, lines } = rememberingLog()
    expect(await addresses(fails, log).of(['a.test'])).toEqual(new Map())
    expect(lines).toEqual([])
  })

  test('a disk that is full costs a line in the log, not the addresses', async () => {
    const { log, lines } = rememberingLog()
    const write = () => Promise.reject(new MeshError('store_unwritable', 'ENOSPC'))
    let last = 0
    const answers = () => Promise.resolve([`10.0.0.${(last += 1)}`])
    const all = new Addresses(answers, new VirtualClock(), addressFile(file, log, { ...disk, write }))
    expect(await all.of(['a.test'])).toEqual(new Map([['a.test', ['10.0.0.1']]]))
    expect(await all.of(['a.test', 'b.test'])).toEqual(
      new Map([
        ['a.test', ['10.0.0.1']],
        ['b.test', ['10.0.0.2']],
      ]),
    )
    expect(lines).toEqual([expect.stringContaining('last known addresses')])
  })

  test('what a full disk did not take is written when there is room, without another change', async () => {
    const { log, lines } = rememberingLog()
    let isFull = true
    const write: typeof disk.write = (...given) =>
      isFull ? Promise.reject(new MeshError('store_unwritable', 'ENOSPC')) : disk.write(...given)
    const clock = new VirtualClock()
    const all = new Addresses(() => Promise.resolve(['10.0.0.1']), clock, addressFile(file, log, { ...disk, write }))
    await all.of(['a.test'])
    await expect(kept()).rejects.toMatchObject({ code: 'ENOENT' })
    isFull = false
    all.refresh()
    await waitFor(async () => (await readFile(file, 'utf8').catch(() => '')) !== '', { what: 'the file' })
    expect(await kept()).toEqual({ 'a.test': ['10.0.0.1'] })
    expect(lines).toHaveLength(1)
  })

  test('a file that cannot be read is not called damaged', async () => {
    await mkdir(file)
    const { log, lines } = rememberingLog()
    expect(await addresses(fails, log).of(['a.test'])).toEqual(new Map())
    expect(lines).toEqual([expect.stringContaining(`${file} cannot be read (EISDIR)`)])
  })

  test('a pipe in the place of the file holds up nothing', async () => {
    execFileSync('mkfifo', [file])
    const { log, lines } = rememberingLog()
    expect(await addressFile(file, log).read()).toEqual(new Map())
    expect(lines).toEqual([expect.stringContaining(`${file} is damaged`)])
  })

  test('an address that nginx would not take is left out', async () => {
    const all = addresses(() => Promise.resolve(['fe80::1%eth0', '10.0.0.1', 'printer']))
    expect(await all.of(['a.test'])).toEqual(new Map([['a.test', ['10.0.0.1']]]))
    expect(await kept()).toEqual({ 'a.test': ['10.0.0.1'] })
  })

  test('names known for longest are kept when there are too many', async () => {
    const all = addresses(() => Promise.resolve(['10.0.0.1']))
    await all.of(['www.test'])
    await all.of([...Array.from({ length: 4_100 }, (_, index) => `a${index}.test`), 'www.test'])
    expect(Object.keys(await kept())).toHaveLength(4_096)
    expect(await kept()).toHaveProperty(['www.test'])
  })

  test('names and addresses are bounded', async () => {
    const many = Array.from({ length: 100 }, (_, index) => `10.0.1.${index}`)
    const names = Array.from({ length: 4_100 }, (_, index) => `n${index}.test`)
    expect((await addresses(() => Promise.resolve(many)).of(['a.test'])).get('a.test')).toHaveLength(64)
    expect((await addresses(() => Promise.resolve(['10.0.0.1'])).of(names)).size).toBe(4_100)
    expect(Object.keys(await kept())).toHaveLength(4_096)
    expect((await addresses(fails).of(names)).size).toBe(4_096)
  })
})
