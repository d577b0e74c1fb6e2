/** Configurations that somebody broke, or made to break the importer: a message with file and line, and no folder of half an import. */

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { MeshError } from '../../src/errors.ts'
import { importConfig } from '../../src/nginx/importing/import.ts'
import { readTree } from '../../src/nginx/importing/includes.ts'
import { parse, toText } from '../../src/nginx/importing/parse.ts'
import { meshctl } from '../support/cli.ts'

let cwd: string
beforeEach(() => {
  cwd = mkdtempSync(join(tmpdir(), 'nxmesh-damaged-'))
})
afterEach(() => rmSync(cwd, { recursive: true }))

function write(files: Readonly<Record<string, string | Uint8Array>>): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(cwd, 'etc', name)), { recursive: true })
    writeFileSync(join(cwd, 'etc', name), content)
  }
}

const SITE = 'server { listen 80; server_name a.example; return 404; }\n'
const doImport = () => meshctl(['import', 'etc', '--no-proof'], { cwd })

test.each<[string, Readonly<Record<string, string | Uint8Array>>, RegExp]>([
  [
    'includes itself',
    { 'nginx.conf': '\ninclude a;', a: 'include nginx.conf;' },
    /etc\/a:1: \S+nginx\.conf includes itself/,
  ],
  [
    'names a file that is not there',
    { 'nginx.conf': `${SITE}include gone;` },
    /nginx\.conf:2: there is no file gone to include/,
  ],
  ['includes a directory', { 'nginx.conf': 'include sites;', 'sites/a': SITE }, /nginx\.conf:1: \S+sites is no file/],
  ['begins with a byte order mark', { 'nginx.conf': `\uFEFF${SITE}` }, /nginx\.conf:1: begins with a byte order mark/],
  [
    'is an archive',
    { 'nginx.conf': 'include *.gz;', 'a.gz': Buffer.from('1f8b0800\n00', 'hex') },
    /a\.gz:1: has a byte of zero/,
  ],
  [
    'is an image',
    { 'nginx.conf': Buffer.from('\xff\xd8\xff\xe0;', 'latin1') },
    /nginx\.conf:1: \S+ has bytes that are no UTF-8/,
  ],
  [
    'is in another encoding',
    { 'nginx.conf': Buffer.from(`# \xe9\n${SITE}return 200 "\xe9";`, 'latin1') },
    /nginx\.conf:3: \S+ has bytes that are no UTF-8/,
  ],
  [
    'has one endless word',
    { 'nginx.conf': 'a'.repeat(5_000_000) },
    /nginx\.conf:1: a{40}\.\.\. is longer than the 4096 bytes/,
  ],
  [
    'has a quote that swallows it',
    { 'nginx.conf': `return 200 "${SITE.repeat(1000)}` },
    /nginx\.conf:\d+: "server .*is longer than the 4096 bytes/,
  ],
  [
    'has 40 blocks in each other',
    { 'nginx.conf': 'a {'.repeat(40) },
    /nginx\.conf:1: blocks are nested over 32 levels deep/,
  ],
  [
    'has Lua without an end',
    { 'nginx.conf': 'server {\ncontent_by_lua_block { [==[ }' },
    /nginx\.conf:2: a block of Lua is not closed/,
  ],
  ['lacks a brace', { 'nginx.conf': `${SITE}server { listen 80;\n` }, /nginx\.conf:\d: a } is missing/],
  [
    'includes ever more',
    {
      'nginx.conf': 'include a;',
      ...Object.fromEntries(
        'abcdefghijklmnopqrst'.split('').map((name, index) => [name, `include ${'abcdefghijklmnopqrstu'[index + 1]};`]),
      ),
      u: SITE,
    },
    /is one include too many: at most 16 within each other/,
  ],
])('one that %s is refused with its place, and nothing is written', async (_, files, words) => {
  write(files)
  const { code, err } = await doImport()
  expect(err).toMatch(words)
  expect(err).not.toMatch(/\n\s+at /)
  expect(code).toBe(3)
  expect(existsSync(join(cwd, 'imported'))).toBe(false)
})

test('links: a folder of sites works, one to nothing and one to itself are told', async () => {
  write({ 'nginx.conf': 'include enabled/*;', 'available/a': SITE })
  symlinkSync('available', join(cwd, 'etc', 'enabled'))
  expect(await doImport()).toMatchObject({ code: 0, out: expect.stringContaining('1 sites') as string })
  rmSync(join(cwd, 'imported'), { recursive: true })
  for (const target of ['gone', 'b']) {
    symlinkSync(target, join(cwd, 'etc', 'available', 'b'))
    const { code, err } = await doImport()
    expect(err).toMatch(/nginx\.conf:1: cannot read \S+enabled\/b: E(?:NOENT|LOOP)/)
    expect(code).toBe(3)
    rmSync(join(cwd, 'etc', 'available', 'b'))
  }
})

test('a pipe in place of the main file is not waited for', async () => {
  mkdirSync(join(cwd, 'etc'))
  execFileSync('mkfifo', [join(cwd, 'etc', 'nginx.conf')])
  expect(await doImport()).toMatchObject({ code: 3, err: expect.stringContaining('is no file') as string })
})

test('globs without a match, line ends of Windows and relative includes are no faults', async () => {
  write({
    'nginx.conf': 'events { }\r\nhttp {\r\n  include none/*.conf;\r\n  include sites/*;\r\n}\r\n',
    'sites/a': 'server {\r\n  listen 80;\r\n  server_name a.example;\r\n  include parts/b;\r\n}\r\n',
    'parts/b': 'location / {\r\n  return 200 "two\r\nlines";\r\n}\r\n',
  })
  const { code, out } = await doImport()
  expect(code).toBe(0)
  // A carriage return may stand in no resource.
  expect(out).toMatch(/Not carried:[^]*parts\/b:2 {2}return 200 .*\n.*control character U\+000D/)
})

test('a definition that no resource can hold does not end the import', async () => {
  write({ 'nginx.conf': `map $host $x { default "\u0001"; }\n${SITE}` })
  const { code, out } = await doImport()
  expect(code).toBe(0)
  expect(out).toContain('nginx.conf:1  map $host $x {}')
})

test('into a folder with something in it nothing is written', async () => {
  write({ 'nginx.conf': SITE })
  mkdirSync(join(cwd, 'imported'))
  writeFileSync(join(cwd, 'imported', 'site-z.yaml'), 'mine')
  const { code, err } = await doImport()
  expect(err).toContain('imported is not empty: it has site-z.yaml')
  expect(code).toBe(6)
  expect(readdirSync(join(cwd, 'imported'))).toEqual(['site-z.yaml'])
  rmSync(join(cwd, 'imported'), { recursive: true })
  writeFileSync(join(cwd, 'imported'), 'a file')
  expect(await doImport()).toMatchObject({
    code: 3,
    err: expect.stringContaining('cannot write to imported') as string,
  })
})

test('thousands of servers take seconds, and are all there', () => {
  const servers = Array.from(
    { length: 500 },
    (_, index) =>
      `server { listen 80; server_name s${index}.example; access_log /var/log/${index}; deny all; gzip on; location / { proxy_pass http://10.0.0.1:${index + 1}; } }`,
  )
  const tree = readTree({ path: '/n/nginx.conf', text: servers.join('\n') }, () => [])
  const { resources, findings } = importConfig(tree, { workspace: 'default', zone: '*' })
  expect(resources.filter(({ kind }) => kind === 'Site')).toHaveLength(500)
  expect(findings.lost).toHaveLength(500)
})

test('whatever is changed in a text is read, or refused with a place', () => {
  const text = `user x; http { map $a $b { default "x y"; ~^/(\\d{2}) 'z'; } server { listen 80; if ($c ~ "d;") { return 403; } location ~ "^/a{2}$" { content_by_lua_block { x = "}" } } } } # end\n`
  const piece = fc.constantFrom(
    '{',
    '}',
    ';',
    '"',
    "'",
    '\\',
    '$',
    '${',
    '#',
    '\n',
    '\r',
    '\0',
    ' ',
    '[[',
    ']]',
    '_by_lua_block {',
    '\uFEFF',
    'é',
    '\uD800',
  )
  const change = fc.record({ at: fc.nat(text.length), drop: fc.nat(8), put: piece })
  fc.assert(
    fc.property(fc.array(change, { maxLength: 6 }), (changes) => {
      const changed = changes.reduce((all, { at, drop, put }) => all.slice(0, at) + put + all.slice(at + drop), text)
      try {
        const first = parse(changed, 'f')
        expect(toText(parse(toText(first), 'f'))).toBe(toText(first))
        importConfig(first, { workspace: 'default', zone: '*' })
      } catch (error) {
        expect(error).toBeInstanceOf(MeshError)
        expect((error as MeshError).message).toMatch(/^f:\d+: /)
      }
    }),
    { numRuns: 2000 },
  )
})
