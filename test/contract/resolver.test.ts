/**
 * The host's resolver: its real hosts file; and on files and a DNS server of the test the order of sources, search domains as
 * the C library applies them, and that silent names delay no others.
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { hostResolver } from '../../src/adapters/resolver.ts'
import { dnsServer } from '../support/dns-server.ts'
import { waitFor } from '../support/wait.ts'

const unknown = (name: string): Promise<readonly string[]> =>
  Promise.reject(new Error(`the C library does not know ${name}`))

describe('the real host', () => {
  test('localhost is loopback, each address once', async () => {
    const addresses = await hostResolver()('localhost')
    expect(addresses.some((address) => address === '127.0.0.1' || address === '::1')).toBe(true)
    expect(new Set(addresses).size).toBe(addresses.length)
  })

  test('the names of the hosts file are what the C library says they are', async () => {
    const { lookup } = await import('node:dns/promises')
    for (const name of ['localhost', hostname()]) {
      const said = await lookup(name, { all: true }).catch(() => [])
      const found = await hostResolver()(name).catch(() => [])
      expect(new Set(found)).toEqual(new Set(said.map(({ address }) => address)))
    }
  })
})

describe('files and a server of its own', () => {
  let directory: string
  let hostsFile: string
  let resolvFile: string
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nxmesh-resolver-'))
    hostsFile = join(directory, 'hosts')
    resolvFile = join(directory, 'resolv.conf')
    await writeFile(hostsFile, '')
    await writeFile(resolvFile, 'search .\n')
  })
  afterEach(() => rm(directory, { recursive: true }))

  const resolver = (server: { address: string }, libraryLookup = unknown) =>
    hostResolver({ hostsFile, resolvFile, servers: [server.address], libraryLookup })

  test('all addresses of both families', async () => {
    await using server = await dnsServer(new Map([['app.test', ['10.0.0.1', '10.0.0.2', '2001:db8::1']]]))
    expect((await resolver(server)('app.test')).toSorted()).toEqual(['10.0.0.1', '10.0.0.2', '2001:db8::1'])
  })

  test('the hosts file goes before DNS, and is read anew each time', async () => {
    await using server = await dnsServer(new Map([['app.test', ['10.0.0.1']]]))
    const lookup = resolver(server)
    expect(await lookup('app.test')).toEqual(['10.0.0.1'])
    await writeFile(
      hostsFile,
      '# app.test 10.9.9.9\n127.0.0.1\tlocalhost\n10.1.1.1  other APP.test # app\n2001:db8::2 app.test\nbroken app.test\n',
    )
    expect(await lookup('app.test')).toEqual(['10.1.1.1', '2001:db8::2'])
    expect(await lookup('localhost')).toEqual(['127.0.0.1'])
  })

  test.each([
    ['a short name is searched for first', 'search one.test two.test', 'app', ['app.one.test', 'app.two.test']],
    ['a dotted name is asked for as it is first', 'search one.test', 'app.two', ['app.two', 'app.two.one.test']],
    [
      'ndots decides what is dotted',
      'nameserver 127.0.0.1\nsearch old.test\nsearch one.test\noptions timeout:1 ndots:2',
      'app.svc',
      ['app.svc.one.test'],
    ],
    ['domain is a search of one', '; comment\ndomain one.test', 'app', ['app.one.test']],
    ['without search domains it is asked for alone', 'search .', 'app', ['app']],
  ])('%s', async (_, text, name, names) => {
    await writeFile(resolvFile, `${text}\n`)
    await using server = await dnsServer(new Map([[names.at(-1) as string, ['10.0.0.1']]]))
    expect(await resolver(server)(name)).toEqual(['10.0.0.1'])
    expect([...new Set(server.asked)]).toEqual(names)
  })

  test('a search domain whose server fails does not hide the others; one that fails alone is a failure', async () => {
    await writeFile(resolvFile, 'search broken.test one.test\n')
    await using server = await dnsServer(
      new Map<string, readonly string[] | 'failure'>([
        ['app.broken.test', 'failure'],
        ['app.one.test', ['10.0.0.1']],
        ['db.broken.test', 'failure'],
      ]),
    )
    expect(await resolver(server)('app')).toEqual(['10.0.0.1'])
    await expect(resolver(server)('db')).rejects.toMatchObject({ code: 'ESERVFAIL' })
  })

  describe('one family of addresses whose answer fails', () => {
    const four = ['10.0.0.1', '10.0.0.2']
    const six = ['2001:db8::1']
    test.each([
      ['AAAA', { a: four, aaaa: 'failure' }, four],
      ['A', { a: 'failure', aaaa: six }, six],
    ] as const)('fails the whole, after the other one was told (%s)', async (_, said, told) => {
      // The next search domain is not this name.
      await writeFile(resolvFile, 'search one.test two.test\n')
      await using server = await dnsServer(
        new Map<string, typeof said | string[]>([
          ['app.one.test', said],
          ['app.two.test', ['10.9.9.9']],
        ]),
      )
      const families: (readonly string[])[] = []
      const answer = resolver(server)('app', (family) => families.push(family))
      await expect(answer).rejects.toMatchObject({ code: 'ESERVFAIL' })
      expect(families.map((family) => family.toSorted())).toEqual([told])
    })

    test('is none when there is none of it', async () => {
      await using server = await dnsServer(new Map([['app.test', { a: four, aaaa: [] }]]))
      expect((await resolver(server)('app.test')).toSorted()).toEqual(four)
    })

    test('does not hold up the other one while it is silent', async () => {
      await using server = await dnsServer(new Map([['app.test', { a: four, aaaa: 'silence' as const }]]))
      const { promise: told, resolve: onFamily } = Promise.withResolvers<readonly string[]>()
      let hasEnded = false
      const end = (): void => void (hasEnded = true)
      void resolver(server)('app.test', onFamily).then(end, end)
      expect((await told).toSorted()).toEqual(four)
      // The silence takes seconds to be one.
      expect(hasEnded).toBe(false)
    })
  })

  test('what neither knows is asked of the C library, one name after the other', async () => {
    await using server = await dnsServer(new Map())
    const asked: string[] = []
    const { promise: silence, resolve } = Promise.withResolvers<readonly string[]>()
    const lookup = resolver(server, (name) => {
      asked.push(name)
      return name === 'hangs.local' ? silence : Promise.resolve(['10.0.0.7'])
    })
    const first = lookup('hangs.local')
    await waitFor(() => asked.length === 1, { what: 'the C library to be asked' })
    const both = [first, lookup('printer.local')]
    await waitFor(() => server.asked.filter((name) => name === 'printer.local').length === 2, {
      what: 'DNS to be asked',
    })
    expect(asked).toEqual(['hangs.local'])
    resolve(['10.0.0.6'])
    expect(await Promise.all(both)).toEqual([['10.0.0.6'], ['10.0.0.7']])
    await expect(resolver(server)('nothing.invalid')).rejects.toThrow('does not know nothing.invalid')
  })

  test('names that no server answers for delay no other name', async () => {
    const silent = Array.from({ length: 20 }, (_, index) => `silent-${index}.test`)
    const zone = new Map<string, readonly string[] | 'silence'>(silent.map((name) => [name, 'silence']))
    await using server = await dnsServer(zone.set('app.test', ['10.0.0.1']))
    const lookup = resolver(server)
    let ended = 0
    for (const name of silent) {
      const end = () => {
        ended += 1
      }
      void lookup(name).then(end, end)
    }
    // Each of them waits for seconds.
    expect(await lookup('app.test')).toEqual(['10.0.0.1'])
    expect(ended).toBe(0)
    expect(server.asked.filter((name) => name.startsWith('silent')).length).toBeGreaterThanOrEqual(20)
  })
})
