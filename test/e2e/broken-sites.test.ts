/**
 * Five hundred sites on a real nginx, all of them changed in each apply, one of them broken: in every way of a table the
 * 499 others serve the new generation, the broken one its last good text, and nginx's words say why.
 */

import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent } from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { sha256 } from '../../src/core/canonical.ts'
import type { Applier } from '../../src/nginx/applying/apply.ts'
import type { Isolated } from '../../src/nginx/applying/isolate.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { fetchRoot, freePort, NginxHost } from '../support/nginx-host.ts'
import { luaModules } from '../support/real-nginx.ts'
import { waitFor } from '../support/wait.ts'

const COUNT = 500
/** What tests have a site with: the one of a zone, of the options of their listener, of what others must not repeat. */
const OWNER = 0
const names = Array.from({ length: COUNT }, (_, index) => `s${String(index).padStart(3, '0')}`)

interface Text {
  /** What `/` does, beside answering. */
  readonly body?: string
  /** In http, before the server. */
  readonly http?: string
  readonly server?: string
  readonly listen?: string
  readonly port?: number
  readonly answer?: string
}

interface Place {
  readonly port: number
  /** Of another process. */
  readonly taken: number
  /** With a certificate a.crt, another one's key, and a pipe that nobody writes to. */
  readonly files: string
}

interface Way {
  readonly what: string
  /** Beside what it serves; each time, also where it is not broken. */
  readonly always?: Text
  readonly broken: (place: Place) => Text
  readonly words: RegExp
  readonly isFoundBy?: 'reload' | 'probe'
}

const WAYS: readonly Way[] = [
  {
    what: 'an unknown directive',
    broken: () => ({ server: 'no_such_directive on;' }),
    words: /unknown directive "no_such_directive" in /,
  },
  {
    what: 'a regular expression that PCRE alone refuses',
    broken: () => ({ server: 'location ~ "^/(a" { return 204; }' }),
    words: /pcre2?_compile\(\) failed: missing/,
  },
  {
    what: 'an unknown host',
    broken: () => ({ server: 'location /p { proxy_pass http://nxmesh-nowhere.invalid; }' }),
    words: /host not found in upstream "nxmesh-nowhere\.invalid"/,
  },
  {
    what: 'a file that is missing',
    broken: ({ files }) => ({ server: `include ${files}/none.conf;` }),
    words: /open\(\) "\S+\/none\.conf" failed \(2: No such file or directory\)/,
  },
  {
    what: 'a directory as a file',
    broken: ({ files }) => ({ server: `include ${files};` }),
    words: /read\(\) "\S+" failed \(21: Is a directory\)/,
  },
  {
    what: 'a log in a directory that is missing, which nginx opens last and names no file for',
    broken: () => ({ server: 'access_log /nxmesh/none/a.log;' }),
    words: /open\(\) "\/nxmesh\/none\/a\.log" failed/,
  },
  {
    what: 'a location twice',
    broken: () => ({ server: 'location / { return 204; }' }),
    words: /duplicate location "\/"/,
  },
  {
    what: 'a port that another process has',
    broken: ({ taken }) => ({ port: taken }),
    words: /port \d+ on 127\.0\.0\.1 is taken by process \d+/,
  },
  {
    what: 'options of a listener that contradict another site’s',
    broken: () => ({ listen: 'backlog=64' }),
    words: /duplicate listen options for 127\.0\.0\.1:\d+/,
  },
  {
    what: 'a certificate without its key',
    broken: ({ files }) => ({
      server: `listen unix:${files}/tls.sock ssl; ssl_certificate ${files}/a.crt; ssl_certificate_key ${files}/b.key;`,
    }),
    words: /SSL_CTX_use_PrivateKey\("\S+\/b\.key"\) failed .*key values mismatch/,
  },
  {
    what: 'a certificate that is missing',
    broken: ({ files }) => ({
      server: `listen unix:${files}/tls.sock ssl; ssl_certificate ${files}/none.crt; ssl_certificate_key ${files}/a.key;`,
    }),
    words: /cannot load certificate "\S+\/none\.crt"/,
  },
  {
    what: 'a variable that nobody sets',
    broken: () => ({ server: 'set $copy $nobody_sets_it;' }),
    words: /unknown "nobody_sets_it" variable/,
  },
  {
    what: 'a brace too many',
    broken: () => ({ server: '}' }),
    words: /directive is not allowed here/,
  },
  {
    what: 'a quote that does not end',
    broken: () => ({ server: 'add_header x "open;' }),
    words: /unexpected "\S" in/,
  },
  {
    what: 'a value that is too long',
    broken: () => ({ server: `set $long "${'a'.repeat(5000)}";` }),
    words: /too long parameter/,
  },
  {
    what: 'a zone that another site has',
    broken: () => ({ http: 'limit_req_zone $arg_b zone=owned:32k rate=1r/s;' }),
    words: /limit_req_zone "owned" is already bound to key "\$arg_a"/,
  },
  {
    what: 'an upstream that another site has',
    broken: () => ({ http: 'upstream owned { server 127.0.0.1:1; }' }),
    words: /duplicate upstream "owned"/,
  },
  {
    what: 'a scheme that is none',
    broken: () => ({ server: 'location /p { proxy_pass ftp://127.0.0.1; }' }),
    words: /invalid URL prefix/,
  },
  {
    what: 'a server of an upstream that is none',
    broken: () => ({ http: 'upstream none { server 127.0.0.1:99999; }' }),
    words: /invalid port in upstream "127\.0\.0\.1:99999"/,
  },
  {
    what: 'a directive where it may not be',
    broken: () => ({ server: 'worker_processes 4;' }),
    words: /"worker_processes" directive is not allowed here/,
  },
  {
    what: 'a file that keeps nginx -t waiting for ever',
    broken: ({ files }) => ({ server: `include ${files}/pipe;` }),
    words: /nginx did not finish within \d+ ms/,
  },
  {
    what: 'the key of its zone, which only the reload refuses',
    always: { http: 'limit_req_zone $arg_a zone=kept:32k rate=1r/s;' },
    broken: () => ({ http: 'limit_req_zone $arg_b zone=kept:32k rate=1r/s;' }),
    words: /limit_req "kept" uses the "\$arg_b" key while previously it used the "\$arg_a" key/,
    isFoundBy: 'reload',
  },
  {
    what: 'Lua that fails when nginx loads it, which only the reload runs',
    broken: () => ({ http: 'init_by_lua_block { error("boom") }' }),
    words: /init_by_lua error: .*boom/,
    isFoundBy: 'reload',
  },
  {
    what: 'workers that end as they start',
    broken: () => ({ http: 'init_worker_by_lua_block { os.exit(3) }' }),
    words: /\d+ workers ended as soon as they had started: worker process \d+ exited with code 3/,
    isFoundBy: 'reload',
  },
  {
    what: 'an answer of 500, which only a request shows',
    broken: () => ({ answer: 'return 500' }),
    words: /it answers 500; before it answered 200/,
    isFoundBy: 'probe',
  },
]

let host: NginxHost
let applier: Applier
let place: Place
const other = createServer()

beforeAll(async () => {
  host = await NginxHost.create({ modules: await luaModules(), liveLane: false })
  // The slow way costs one of these limits. Pauses are the shortest.
  applier = await host.booted({ settings: { testTimeoutMs: 3_000 }, random: () => 0 })
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const files = await mkdtemp(join(tmpdir(), 'nxmesh-broken-'))
  for (const name of ['a', 'b']) {
    const made = ['-keyout', join(files, `${name}.key`), '-out', join(files, `${name}.crt`)]
    const kind = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']
    execFileSync('openssl', [...kind, '-nodes', '-days', '1', '-subj', '/CN=a', ...made], { stdio: 'ignore' })
  }
  execFileSync('mkfifo', [join(files, 'pipe')])
  place = { port: await freePort(), taken: (other.address() as AddressInfo).port, files }
})

afterAll(async () => {
  await host[Symbol.asyncDispose]()
  await new Promise((resolve) => other.close(resolve))
  await rm(place.files, { recursive: true, force: true })
})

function site(name: string, version: string, text: Text = {}): Unit {
  const { body = '', http = '', server = '', listen, port = place.port } = text
  const { answer = `return 200 "${name} ${version}"` } = text
  const unit = host.site(name, { port, body: `${body} ${answer};` })
  const lines = unit.text
    .replace(/^server \{/, `${http}\nserver {\n${server}`)
    .replace(`:${port};`, `:${port}${listen === undefined ? '' : ` ${listen}`};`)
  return { ...unit, text: lines, digest: sha256(lines) }
}

/** What the owner has at all times, so that another one cannot. */
const OWNED: Text = {
  http: 'limit_req_zone $arg_a zone=owned:32k rate=1r/s;\nupstream owned { server 127.0.0.1:1; }',
  listen: 'backlog=511',
}

/** Who is broken in which way; another one each time. */
const victimOf = (index: number) => OWNER + 3 + 17 * index

function generation(version: string, broken?: { readonly index: number; readonly text: Text }): Unit[] {
  const always = new Map(WAYS.map(({ always: text }, index) => [victimOf(index), text]))
  return names.map((name, index) => {
    const usual = index === OWNER ? OWNED : always.get(index)
    return site(name, version, index === broken?.index ? { ...usual, ...broken.text } : usual)
  })
}

/** Applies until it is settled what is served. What is isolated then, and the outcomes on the way. */
async function settle(units: readonly Unit[]): Promise<{ isolated: readonly Isolated[]; outcomes: readonly string[] }> {
  const outcomes: string[] = []
  const isolated = await waitFor(
    async () => {
      const result = await applier.apply(host.request(units))
      outcomes.push(`${result.outcome}: ${result.error?.message ?? result.isolated.length}`)
      const isOver = result.outcome === 'applied' || result.outcome === 'unchanged'
      // Whom a busy machine has refused as too slow is tried again by itself.
      return isOver && result.isolated.length <= 1 && result.isolated.every(({ why }) => why === 'refused')
        ? result.isolated
        : undefined
    },
    { what: () => `all to settle: ${outcomes.join(', ')}`, timeoutMs: 100_000, everyMs: 100 },
  )
  return { isolated, outcomes }
}

/** What every site answers. */
async function answers(): Promise<ReadonlyMap<string, string>> {
  const agent = new Agent({ keepAlive: true, maxSockets: 8 })
  const bodies = await Promise.all(
    names.map(async (name) => [name, (await fetchRoot(place.port, `${name}.test`, agent)).body] as const),
  )
  agent.destroy()
  return new Map(bodies)
}

const expected = (version: string, victim?: string, itsVersion = version) =>
  new Map(names.map((name) => [name, `${name} ${name === victim ? itsVersion : version}`]))

test('all sites are served to begin with', async () => {
  expect((await settle(generation('v0'))).isolated).toEqual([])
  expect(await answers()).toEqual(expected('v0'))
})

test.each(WAYS.map((way, index) => ({ ...way, index })))(
  '499 of 500 sites serve what is new, one its last good text: $what',
  async ({ broken, words, isFoundBy, index }) => {
    const [before, after] = [`v${index}`, `v${index + 1}`]
    const victim = names[victimOf(index)] as string
    const { isolated, outcomes } = await settle(generation(after, { index: victimOf(index), text: broken(place) }))
    expect(isolated).toEqual([
      {
        path: `default/eu/site/${victim}`,
        why: 'refused',
        serves: 'last_good',
        reason: expect.stringMatching(words),
      },
    ])
    // The one that was broken before has been mended, and serves what is new as well.
    expect(await answers()).toEqual(expected(after, victim, before))
    expect(
      outcomes.some((outcome) => outcome.startsWith('rolled_back')),
      outcomes.join(),
    ).toBe(isFoundBy !== undefined)
  },
)

test('a broken site that is new is left out; it is tried when it changes', async () => {
  const version = `v${WAYS.length}`
  // All are mended.
  expect((await settle(generation(version))).isolated).toEqual([])
  expect(await answers()).toEqual(expected(version))
  const fresh = (text?: Text) => [...generation(version), site('s999', version, text)]
  const { isolated } = await settle(fresh({ server: 'no_such_directive on;' }))
  expect(isolated).toMatchObject([{ path: 'default/eu/site/s999', why: 'refused', serves: 'left_out' }])
  expect((await fetchRoot(place.port, 's999.test')).status).toBe(404)
  expect((await settle(fresh())).isolated).toEqual([])
  expect((await fetchRoot(place.port, 's999.test')).body).toBe(`s999 ${version}`)
})
