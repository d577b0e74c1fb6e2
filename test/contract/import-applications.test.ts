/** What import makes of how well-known applications are put behind nginx answers as nginx did before. */

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { globSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { pathsOfNginx, proveImport } from '../../src/cli/importing/import-proof.ts'
import { readTree, type ConfigFile } from '../../src/nginx/importing/includes.ts'
import { meshctl } from '../support/cli.ts'
import { APPLICATIONS } from '../support/import-applications.ts'
import { TREES } from '../support/import-trees.ts'
import { close, listening } from '../support/served-documents.ts'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nxmesh-tree-'))
})
afterEach(() => rmSync(directory, { recursive: true }))

function write(files: Readonly<Record<string, string>>): ConfigFile {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true })
    writeFileSync(join(directory, name), text)
  }
  return read(join(directory, 'nginx.conf'))
}

function read(path: string): ConfigFile {
  return { path, text: readFileSync(path, 'utf8') }
}

const ALL = [
  ...APPLICATIONS.map(({ name, files }) => ({ name, files: () => files(directory) })),
  ...TREES.map(({ name, files }) => ({ name, files: () => files({ port: 80, backend: 8000, directory }) })),
]

test.each(ALL)('$name', async ({ files }) => {
  const tree = readTree(write(files()), (pattern) => globSync(pattern).toSorted().map(read))
  const readFile = (path: string): string | undefined => (existsSync(path) ? readFileSync(path, 'utf8') : undefined)
  const proof = await proveImport(tree, { workspace: 'default', zone: '*' }, { readFile })
  expect(proof).toMatchObject({ differences: [] })
  expect((proof as { asked: number }).asked).toBeGreaterThanOrEqual(20)
})

test('a port that something takes before nginx listens there is another one in the next try', async () => {
  const [binary, taken] = [join(directory, 'nginx-beside-others'), join(directory, 'taken')]
  const words = 'nginx: [emerg] bind() to 127.0.0.1:1 failed (98: Address already in use)'
  const script = `case " $* " in *" -t "*|*" -V "*) exec nginx "$@";; esac
[ -e ${taken} ] && exec nginx "$@"
touch ${taken}; echo '${words}' >&2; exit 1`
  writeFileSync(binary, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  const tree = readTree(
    write({
      'nginx.conf': 'events { } http { server { listen 80; server_name a.example; location / { return 200 "all"; } } }',
    }),
    () => [],
  )
  const proof = await proveImport(tree, { workspace: 'default', zone: '*' }, { binary })
  expect([proof, existsSync(taken)]).toMatchObject([{ differences: [] }, true])
})

test('the report of meshctl import names a request that is answered otherwise', async () => {
  const entries = Array.from({ length: 900 }, (_, index) => `key-${index} a;`).join(' ')
  write({
    'nginx.conf': `events { } http { map $host $part { default b; ${entries} }
      server { listen 80; server_name a.example; location / { return 200 "all"; } location /part { return 200 "$part"; } } }`,
  })
  const { code, out } = await meshctl(['import', '.', '--into', 'out'], { cwd: directory })
  expect(code).toBe(0)
  expect(out).toMatch(/^Not the same: [1-9]\d* of \d+ requests are answered otherwise than by the configuration:$/m)
  expect(out).toMatch(/^ {2}GET a\.example \/part: /m)
  const without = await meshctl(['import', '.', '--into', 'other', '--no-proof'], { cwd: directory })
  expect(without.out).toContain('Not proven: it was not asked for.')
})

test.each([
  [
    'runs programs',
    'http { server { listen 80; content_by_lua_block { os.exit() } } }',
    /nginx\.conf:1: content_by_lua_block may run programs/,
  ],
  [
    'writes what upstreams answer',
    'http { server { listen 80; location / { proxy_store /srv/mirror$uri; proxy_pass http://10.0.0.1; } } }',
    /nginx\.conf:1: proxy_store may run programs or write/,
  ],
  [
    'brings code of its own',
    'load_module /srv/tree/own.so; http { server { listen 80; } }',
    /nginx\.conf:1: a proof loads no module from outside of \//,
  ],
  [
    'nginx itself refuses',
    'http { server { listen 80; no_such thing; } }',
    /does not run in a sandbox: unknown directive "no_such"/,
  ],
])('one that %s is not proven, and says so', async (_, text, words) => {
  const tree = readTree(write({ 'nginx.conf': text }), () => [])
  expect(await proveImport(tree, { workspace: 'default', zone: '*' })).toMatch(words)
})

test('the proof of streams writes no log of theirs, and asks nobody whom a variable names', async () => {
  let asked = 0
  const server = createServer((socket) => {
    asked += 1
    socket.on('error', () => socket.destroy()).end()
  })
  const port = await listening(server)
  const log = join(directory, 'written')
  try {
    const tree = readTree(
      write({
        'nginx.conf': `load_module modules/ngx_stream_module.so;
          http { server { listen 80; server_name a.example; return 204; } }
          stream {
            log_format own "a line";
            map $remote_addr $up { default 127.0.0.1:${port}; }
            server { listen 90; access_log ${log} own; proxy_pass $up; }
          }`,
      }),
      () => [],
    )
    expect(await proveImport(tree, { workspace: 'default', zone: '*' })).toMatchObject({ differences: [] })
    expect([existsSync(log), asked]).toEqual([false, 0])
  } finally {
    close([server])
  }
})

test('without nginx an import is not proven, says which is not there, and leaves nothing behind', async () => {
  const tree = readTree(write({ 'nginx.conf': 'server { listen 80; server_name a.example; return 404; }' }), () => [])
  const binary = join(directory, 'gone')
  vi.stubEnv('TMPDIR', directory)
  try {
    const proof = await proveImport(tree, { workspace: 'default', zone: '*' }, { binary })
    expect(proof).toBe(`cannot run ${binary}: spawn ${binary} ENOENT`)
    expect(await pathsOfNginx(binary)).toBeUndefined()
  } finally {
    vi.unstubAllEnvs()
  }
  expect(readdirSync(directory)).toEqual(['nginx.conf'])
})

/** An nginx that was built for other places, and says so. */
function builtFor(words: string): string {
  const binary = join(directory, 'nginx-elsewhere')
  writeFileSync(
    binary,
    `#!/bin/sh\n[ "$1" = -V ] && { echo 'nginx version: nginx/1.22.1' >&2; echo 'configure arguments: ${words}' >&2; }\n`,
    { mode: 0o755 },
  )
  return binary
}

test.each([
  [
    '--prefix=/opt/web --conf-path=/etc/web/nginx.conf',
    { prefix: '/opt/web', config: '/etc/web/nginx.conf', modules: '/opt/web/modules' },
  ],
  [
    '--prefix=/opt/web/ --modules-path=/opt/lib/',
    { prefix: '/opt/web', config: '/opt/web/conf/nginx.conf', modules: '/opt/lib' },
  ],
  [
    '--with-debug',
    {
      prefix: '/usr/local/nginx',
      config: '/usr/local/nginx/conf/nginx.conf',
      modules: '/usr/local/nginx/modules',
    },
  ],
])('nginx says where it looks: %s', async (words, paths) => {
  expect(await pathsOfNginx(builtFor(words))).toEqual(paths)
})
