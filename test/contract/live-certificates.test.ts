/**
 * Certificates without reloads, on real nginx with two workers: renewed, broken, and after crashes of every kind. What counts
 * is what a handshake by SNI shows.
 */

import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Slice } from '../../src/core/slice.ts'
import { certificateFault } from '../../src/nginx/applying/certificate-proof.ts'
import { probe, probeTargets } from '../../src/nginx/applying/probe.ts'
import { certificateKeysIn } from '../../src/nginx/rendering/certificate-program.ts'
import { liveFile } from '../../src/nginx/rendering/live-program.ts'
import {
  certificateYaml,
  makeCertificate,
  secretsOf,
  secretYaml,
  type TestCertificate,
} from '../support/certificates.ts'
import { daemon } from '../support/lane-daemon.ts'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { luaModules } from '../support/real-nginx.ts'
import { renderYaml, sliceOf, statesOf } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

const authority = makeCertificate(['ca.example'])
const [first, second, third] = [1, 2, 3].map(() => makeCertificate(['a.example'])) as [
  TestCertificate,
  TestCertificate,
  TestCertificate,
]
const other = makeCertificate(['b.example'], authority, ['rsa:2048'])
const fingerprint = ({ certificate }: TestCertificate) => new X509Certificate(certificate).fingerprint256

interface Wish {
  readonly a: TestCertificate
  /** Of another certificate, in a test. */
  readonly key?: TestCertificate
  readonly says?: string
  /** Of the site c, beside a and b: who may come. */
  readonly clients?: boolean
}

function site(name: string, port: number, says: string, tls: object): string {
  const listeners = { https: { port, address: '127.0.0.1', tls } }
  const routes = { root: { path: '/', return: { status: 200, body: says } } }
  const spec = { hosts: [`${name}.example`], listeners, routes }
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name, zone: '*' }, spec })
}

function yamlFor(port: number, { a, says = 'hello', clients = false }: Wish): string {
  const settings = { reload: { bakeSeconds: 0, drainMs: 0, quietMs: 0 } }
  const yaml = [
    JSON.stringify({
      apiVersion: 'nxmesh/v1',
      kind: 'ZoneSettings',
      metadata: { name: 'settings', zone: '*' },
      spec: settings,
    }),
    certificateYaml('a', a),
    secretYaml('a'),
    certificateYaml('b', { certificate: `${other.certificate}${authority.certificate}` }),
    secretYaml('b'),
    site('a', port, says, { certificate: 'a' }),
    site('b', port, says, { certificate: 'b' }),
    ...(clients ? [site('c', port, says, { certificate: 'a', clientCertificate: { ca: 'b', mode: 'optional' } })] : []),
  ]
  return yaml.join('\n---\n')
}

function sliceFor(port: number, wish: Wish): Slice {
  return sliceOf(statesOf(yamlFor(port, wish)))
}

/** Chain and answer that a name gets, over a connection of its own. */
async function served(port: number, name: string): Promise<{ chain: readonly string[]; body: string }> {
  const socket = connect({ host: '127.0.0.1', port, servername: name, rejectUnauthorized: false })
  await once(socket, 'secureConnect')
  const chain: string[] = []
  for (let shown = socket.getPeerCertificate(true); shown !== undefined; shown = shown.issuerCertificate) {
    if (chain.includes(shown.fingerprint256)) break
    chain.push(shown.fingerprint256)
  }
  socket.write(`GET / HTTP/1.0\r\nHost: ${name}\r\n\r\n`)
  let text = ''
  for await (const part of socket.setEncoding('utf8')) text += part as string
  return { chain, body: text.slice(text.indexOf('\r\n\r\n') + 4) }
}

/** The certificates that so many handshakes show that both workers have some of them. */
async function shown(port: number, name = 'a.example'): Promise<Set<string | undefined>> {
  return new Set((await Promise.all(Array.from({ length: 24 }, () => served(port, name)))).map(({ chain }) => chain[0]))
}

const only = (certificate: TestCertificate) => new Set([fingerprint(certificate)])

/** A daemon whose wish can be changed: make() resolves when it is proven, attempt() when it is as far as it gets. */
async function setUp(host: NginxHost) {
  const port = await freePort()
  let wish: Wish = { a: first }
  let slice = sliceFor(port, wish)
  const node = await daemon(
    host,
    () => slice,
    () => secretsOf({ a: wish.key ?? wish.a, b: other }),
  )
  const want = (next: Wish) => {
    wish = next
    slice = sliceFor(port, wish)
  }
  await node.reached()
  return {
    port,
    node,
    make: (next: Wish) => (want(next), node.reached()),
    attempt: (next: Wish) => (want(next), node.tried()),
  }
}

describe('with the Lua module', () => {
  let host: NginxHost
  let port: number
  let node: Awaited<ReturnType<typeof daemon>>
  let make: (wish: Wish) => Promise<void>
  let attempt: (wish: Wish) => Promise<void>

  beforeAll(async () => {
    host = await NginxHost.create({ modules: await luaModules() })
    ;({ port, node, make, attempt } = await setUp(host))
  })
  afterAll(async () => {
    await node?.reconciler.stop()
    await host?.[Symbol.asyncDispose]()
  })

  const current = (name = 'nginx.conf') => join(host.layout.directory, 'current', name)
  const nextMaster = (master: number) =>
    waitFor(async () => (await host.nginx.master()) !== undefined && (await host.master()) !== master, {
      timeoutMs: 15_000,
      what: 'another master',
    })

  test('a renewed certificate is shown by every worker without a reload', async () => {
    const [workers, generation] = [await host.workers(), node.last()?.applied]
    expect(await shown(port)).toEqual(only(first))
    await make({ a: second })
    expect(await shown(port)).toEqual(only(second))
    await make({ a: third })
    expect(await shown(port)).toEqual(only(third))
    expect([await host.workers(), node.last()?.applied]).toEqual([workers, generation])
    expect(node.last()).toMatchObject({ outcome: 'unchanged', live: { lane: 'live', error: null } })
  })

  test('each name gets its own, with the whole chain, and a name that nobody claims gets none', async () => {
    await make({ a: first })
    expect(await served(port, 'a.example')).toEqual({ chain: [fingerprint(first)], body: 'hello' })
    const chain = [fingerprint(other), fingerprint(authority)]
    expect(await served(port, 'b.example')).toEqual({ chain, body: 'hello' })
    await expect(served(port, 'nobody.example')).rejects.toThrow('unrecognized name')
  })

  test('a worker that was killed is followed by one that shows it', async () => {
    await make({ a: second })
    const [worker] = await host.workers()
    process.kill(worker as number, 'SIGKILL')
    const following = async () => {
      const workers = await host.workers()
      return workers.length === 2 && !workers.includes(worker as number)
    }
    await waitFor(following, { what: 'another worker' })
    expect(await shown(port)).toEqual(only(second))
  })

  test('a reload keeps what was pushed before it, and one with a change of both has both', async () => {
    await make({ a: third })
    const workers = await host.workers()
    await make({ a: third, says: 'again' })
    expect(await host.workers()).not.toEqual(workers)
    expect(await shown(port)).toEqual(only(third))
    await make({ a: first, says: 'both' })
    expect(await shown(port)).toEqual(only(first))
    expect((await served(port, 'a.example')).body).toBe('both')
    expect(node.last()).toMatchObject({ outcome: 'applied', isolated: [] })
  })

  test('a key of another certificate leaves the last good pair in its place, also after a crash of the master', async () => {
    await make({ a: second })
    await attempt({ a: third, key: first })
    expect(node.last()?.problems).toMatchObject([
      {
        path: 'default/*/site/a',
        message: 'the secret a holds a private key that does not belong to the certificate a',
      },
    ])
    expect(await shown(port)).toEqual(only(second))
    const master = await host.master()
    process.kill(master, 'SIGKILL')
    await nextMaster(master)
    await node.tried()
    expect(await shown(port)).toEqual(only(second))
    await make({ a: third })
    expect(await shown(port)).toEqual(only(third))
  })

  test('a pair that nginx might refuse is read from files, and its words say why', async () => {
    await make({ a: second })
    await attempt({ a: makeCertificate(['a.example'], undefined, ['rsa:512']) })
    expect(node.last()?.isolated).toMatchObject([{ path: 'default/*/site/a', why: 'refused', serves: 'last_good' }])
    expect(await shown(port)).toEqual(only(second))
    expect(await shown(port, 'b.example')).toEqual(only(other))
  })

  test('a site that asks for clients’ certificates has its own in files', async () => {
    await make({ a: first, clients: true })
    expect(await shown(port, 'c.example')).toEqual(only(first))
    await make({ a: second, clients: true })
    for (const name of ['a.example', 'c.example']) expect(await shown(port, name)).toEqual(only(second))
  })

  test('keys lie where the master alone reads them, in no text of the generation and in no log', async () => {
    await make({ a: first })
    const file = liveFile(host.layout)
    expect(statSync(file).mode & 0o777).toBe(0o600)
    const line = readFileSync(file, 'utf8')
      .split('\n')
      .find((each) => each.includes(':certificate:')) as string
    const key = line.split(' ')[3] as string
    expect(Buffer.from(key, 'base64').toString()).toContain('PRIVATE KEY')
    for (const name of ['error.log', 'access.log']) {
      expect(readFileSync(join(host.layout.directory, 'logs', name), 'utf8')).not.toContain(key.slice(0, 80))
    }
    expect(readFileSync(current(), 'utf8')).not.toContain('PRIVATE KEY')
    expect(JSON.stringify(node.receipts)).not.toContain(key.slice(0, 80))
  })
})

test('a pair that workers cannot show is told; they go on with the one before, and a fresh one with none', async () => {
  await using host = await NginxHost.create({ modules: await luaModules(), workers: 1 })
  const { port, node } = await setUp(host)
  try {
    expect(await shown(port)).toEqual(only(first))
    const { units } = renderYaml(yamlFor(port, { a: first }), {
      host: host.layout,
      secrets: secretsOf({ a: first, b: other }),
    })
    const [key] = certificateKeysIn(units.find(({ path }) => path.endsWith('site/a'))?.text ?? '') as [string]
    expect(await certificateFault(units, [key], () => [fingerprint(first)])).toBeUndefined()
    expect(await certificateFault(units, [key], () => [fingerprint(second)])).toBe(
      `default/*/site/a (a.example:${port}): it shows another certificate`,
    )

    const stamp = (await node.endpoint.ask())?.stamp as number
    const nonsense = Buffer.from('nonsense').toString('base64')
    expect(await node.endpoint.push(`nxmesh-live ${stamp + 1} ${stamp}\n${key} v ${nonsense} ${nonsense}\n`)).toBe(true)
    expect(await shown(port)).toEqual(only(first))
    const [worker] = await host.workers()
    process.kill(worker as number, 'SIGKILL')
    const following = async () => (await host.workers()).some((pid) => pid !== worker)
    await waitFor(following, { what: 'another worker' })
    await expect(served(port, 'a.example')).rejects.toThrow('alert internal error')
    expect(await shown(port, 'b.example')).toEqual(only(other))
    expect(await certificateFault(units, [key], () => [fingerprint(first)])).toContain('(a.example:')
    const site = units.filter(({ path }) => path.endsWith('site/a'))
    const answers = await probe(probeTargets(site), 5_000, () => [fingerprint(first)])
    expect([...answers.values()]).toEqual([{ kind: 'no_certificate' }])

    const log = readFileSync(join(host.layout.directory, 'logs', 'error.log'), 'utf8')
    expect(log).toContain(`the certificate ${key} cannot be shown: `)
    expect(log).not.toContain(nonsense)
  } finally {
    await node.reconciler.stop()
  }
})

test('without the Lua module a renewed certificate goes through a reload', async () => {
  await using host = await NginxHost.create()
  const { port, node, make } = await setUp(host)
  try {
    const [workers, generation] = [await host.workers(), node.last()?.applied]
    expect(await shown(port)).toEqual(only(first))
    await make({ a: second })
    expect(await shown(port)).toEqual(only(second))
    expect(node.last()?.applied).not.toBe(generation)
    expect(await host.workers()).not.toEqual(workers)
  } finally {
    await node.reconciler.stop()
  }
})
