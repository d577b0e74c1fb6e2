/** The configuration: defaults, precedence, and that each mistake is named with its place and the way out. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { describeConfig } from '../../src/config/config-schema.ts'
import { loadConfig, type Config } from '../../src/config/config.ts'
import { MeshError } from '../../src/errors.ts'

const EXAMPLE = join(import.meta.dirname, '../../config.example.yaml')
const KEY = 'ab'.repeat(32)
const root = mkdtempSync(join(tmpdir(), 'nxmesh-config-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let files = 0
function yaml(text: string): string {
  files += 1
  const path = join(root, `config-${files}.yaml`)
  writeFileSync(path, text)
  return path
}

function load(text: string, env: Record<string, string> = {}, flags: Record<string, string> = {}): Config {
  return loadConfig({ file: yaml(text), env, flags })
}

function failure(...args: Parameters<typeof load>): MeshError {
  try {
    load(...args)
  } catch (error) {
    expect(error).toBeInstanceOf(MeshError)
    expect((error as MeshError).code).toBe('config_invalid')
    return error as MeshError
  }
  return expect.fail(`was taken: ${JSON.stringify(args)}`)
}

describe('config.example.yaml', () => {
  test('equals the defaults', () => {
    expect(loadConfig({ file: EXAMPLE, env: {} })).toEqual(loadConfig({ env: {} }))
  })

  test('mentions every setting, and nothing else', () => {
    const names = (tree: unknown, prefix: string): string[] =>
      typeof tree === 'object' && tree !== null && !Array.isArray(tree) && Object.keys(tree).length > 0
        ? Object.entries(tree).flatMap(([key, value]) => names(value, prefix === '' ? key : `${prefix}.${key}`))
        : [prefix]
    const example = names(parse(readFileSync(EXAMPLE, 'utf8')), '')
    expect(example.toSorted()).toEqual(
      describeConfig()
        .map(({ name }) => name)
        .toSorted(),
    )
  })
})

describe('the settings', () => {
  test('all have a default, a variable of their own and a description', () => {
    const settings = describeConfig()
    expect(settings.length).toBeGreaterThan(30)
    expect(new Set(settings.map(({ env }) => env)).size).toBe(settings.length)
    for (const { name, type, description, ...setting } of settings) {
      expect(description, name).toMatch(/^\S.{15,}\.$/s)
      expect(type, name).not.toBe('')
      expect(() => JSON.parse(setting.default) as unknown, name).not.toThrow()
    }
  })

  test('have the defaults that were promised', () => {
    expect(loadConfig({ env: {} })).toMatchObject({
      bindPort: 9102,
      httpBindAddress: '127.0.0.1',
      httpBindPort: 3000,
      httpOpenMetrics: true,
      httpTls: { identity: false, cert: '', key: '' },
      networkId: 'default',
      dataDir: './data',
      logLevel: 'INFO',
      nodes: [],
      mesh: { id: '', genesisFile: '', zones: [], labels: {}, advertise: [] },
      nginx: {
        mode: 'own',
        defaultHttpPort: 8080,
        directory: 'data/nginx',
        pidFile: 'data/nginx/nginx.pid',
        stopOnExit: false,
      },
    })
  })

  test('are frozen, all the way down', () => {
    const config = load(`nodes: [{ public_key: ${KEY}, endpoints: ['a:1'] }]`)
    expect(() => Object.assign(config.nginx, { mode: 'off' })).toThrow(TypeError)
    expect(() => Object.assign(config.nodes[0] as object, { publicKey: '' })).toThrow(TypeError)
  })

  test('come from YAML, then the environment, then flags', () => {
    const text =
      'bind_port: 1\nhttp_bind_port: 2\nlog_level: WARN\nnginx: { test_timeout_seconds: 1, max_draining_workers: 2 }'
    const env = {
      NXMESH_HTTP_BIND_PORT: '3',
      NXMESH_LOG_LEVEL: 'DEBUG',
      NXMESH_NGINX_MAX_DRAINING_WORKERS: '4',
      PATH: '/bin',
      PRIVATE_KEY: 'x',
    }
    const config = load(text, env, { log_level: 'TRACE', 'nginx.mode': 'off' })
    expect(config).toMatchObject({
      bindPort: 1,
      httpBindPort: 3,
      logLevel: 'TRACE',
      nginx: { testTimeoutSeconds: 1, maxDrainingWorkers: 4, mode: 'off' },
    })
  })

  test('can all be given in the environment', () => {
    const endpoint = 'edge-1.example.com:9102'
    const config = loadConfig({
      env: {
        NXMESH_MESH_ZONES: 'eu.west, cdn',
        NXMESH_MESH_LABELS: 'disk=ssd,note=a=b,empty=',
        NXMESH_MESH_ADVERTISE: `${endpoint},[2001:db8::1]:9102`,
        NXMESH_NODES: `${KEY}@${endpoint}+10.0.0.1:1,${'cd'.repeat(32)}@b:2`,
        NXMESH_GOSSIP: 'false',
        NXMESH_SYNC_INTERVAL_SECONDS: '0.5',
        NXMESH_NGINX_WORKER_PROCESSES: '4',
        NXMESH_NETWORK_ID: '',
        NXMESH_API: 'http://127.0.0.1:3000',
        NXMESH_KEY: 'keys/ana.key',
        NXMESH_PIN: KEY,
        NXMESH_SETUP: 'off',
        NXMESH_PORT: 'tcp://10.0.0.1:9102',
        NXMESH_PORT_9102_TCP_ADDR: '10.0.0.1',
        NXMESH_SERVICE_HOST: '10.0.0.1',
      },
    })
    expect(config.mesh).toEqual({
      id: '',
      genesisFile: '',
      zones: ['eu.west', 'cdn'],
      labels: { disk: 'ssd', note: 'a=b', empty: '' },
      advertise: [endpoint, '[2001:db8::1]:9102'],
    })
    expect(config.nodes).toEqual([
      { publicKey: KEY, endpoints: [endpoint, '10.0.0.1:1'] },
      { publicKey: 'cd'.repeat(32), endpoints: ['b:2'] },
    ])
    expect(config).toMatchObject({
      gossip: false,
      syncIntervalSeconds: 0.5,
      networkId: 'default',
      nginx: { workerProcesses: 4 },
    })
    expect(loadConfig({ env: { NXMESH_NGINX_WORKER_PROCESSES: 'auto' } }).nginx.workerProcesses).toBe('auto')
  })

  test('take an empty file and empty sections as nothing said', () => {
    for (const text of ['', '# nothing\n', 'nginx:\nmesh:\n  zone:\nnodes:\n'])
      expect(load(text)).toEqual(loadConfig({ env: {} }))
  })

  test('keep the names of labels as they are', () => {
    expect(load('mesh: { zone: eu, labels: { disk-type: ssd } }').mesh).toMatchObject({
      zones: ['eu'],
      labels: { 'disk-type': 'ssd' },
    })
  })
})

describe('an unknown setting', () => {
  test.each([
    ['bind_prot: 1', 'bind_prot', 'bind_port'],
    ['nginx: { mod: off }', 'nginx.mod', 'nginx.mode'],
    ['nginx: { worker_shutdown_timeout: 1 }', 'nginx.worker_shutdown_timeout', 'nginx.worker_shutdown_timeout_seconds'],
    ['zone: eu', 'zone', 'mesh.zone'],
    ['bindPort: 1', 'bindPort', 'bind_port'],
    [`nodes: [{ publickey: ${KEY}, endpoints: ['a:1'] }]`, 'nodes.0.publickey', 'nodes.0.public_key'],
    ['private_key: abc', 'private_key', 'private_key_path'],
  ])('%s', (text, field, meant) => {
    const error = failure(text)
    const shown = JSON.stringify([error.message, error.details])
    expect(shown).toContain(`${field} (`)
    expect(shown).toContain('is not a setting')
    expect(shown).toContain(`Did you mean ${meant}?`)
    expect(shown).toContain('.yaml')
  })

  test('in the environment or on the command line', () => {
    expect(failure('', { NXMESH_BIND_PROT: '1' })).toMatchObject({
      details: { field: 'NXMESH_BIND_PROT', hint: 'Did you mean NXMESH_BIND_PORT?' },
    })
    expect(failure('', { NXMESH_PRIVATE_KEY: KEY })).toMatchObject({ details: { hint: 'Did you mean PRIVATE_KEY?' } })
    expect(failure('', {}, { 'nginx.moed': 'off' })).toMatchObject({
      details: { field: 'nginx.moed', hint: 'Did you mean nginx.mode?' },
    })
    expect(failure('__proto__: { bind_port: 1 }').message).toContain('__proto__')
  })
})

describe('a wrong value is named with its place and what is expected', () => {
  test.each([
    ['bind_port: http', 'bind_port', 'expected integer 0..65535, got "http"'],
    ['bind_port: 70000', 'bind_port', 'expected integer 0..65535, got 70000'],
    ['bind_port: 9102.5', 'bind_port', 'expected integer 0..65535, got 9102.5'],
    ['network_id: 12', 'network_id', 'expected text (put a number in quotes), got 12'],
    ['network_id: a b', 'network_id', 'expected letters, digits, dots, dashes and underscores, got "a b"'],
    ['gossip: maybe', 'gossip', 'expected true | false, got "maybe"'],
    ['nginx: off', 'nginx', 'expected a section, got "off"'],
    ['nginx: { mode: on }', 'nginx.mode', 'expected own | attach | off, got "on"'],
    ['nginx: { worker_processes: many }', 'nginx.worker_processes', 'expected auto | integer 1..512, got "many"'],
    [
      'nginx: { directory: "/srv/a b" }',
      'nginx.directory',
      'expected a path without spaces, quotes, $ ; { }, got "/srv/a b"',
    ],
    ['nginx: { user: "www; }" }', 'nginx.user', 'expected a user name, got "www; }"'],
    ['log_level: LOUD', 'log_level', 'expected LEVEL, =LEVEL or target=LEVEL'],
    ['mesh: { zone: EU }', 'mesh.zone', 'expected a dotted zone'],
    ['mesh: { zone: "*" }', 'mesh.zone', 'expected a dotted zone'],
    ['mesh: { zones: [eu, "eu..west"] }', 'mesh.zones.1', 'expected a dotted zone'],
    ['mesh: { zones: eu }', 'mesh.zones', 'expected a list, got "eu"'],
    ['mesh: { id: abc }', 'mesh.id', 'expected a mesh id: 64 lower-case hex digits, got "abc"'],
    ['mesh: { labels: { Disk: ssd } }', 'mesh.labels.Disk', 'expected a label name'],
    ['mesh: { labels: { disk: 1 } }', 'mesh.labels.disk', 'expected text (put a number in quotes), got 1'],
    ['mesh: { advertise: [example.com] }', 'mesh.advertise.0', 'expected host:port'],
    [`nodes: [{ public_key: ${KEY}, endpoints: [10.0.0.300:1] }]`, 'nodes.0.endpoints.0', 'expected host:port'],
    [`nodes: [{ public_key: ${KEY}, endpoints: ['2001:db8::1:9102'] }]`, 'nodes.0.endpoints.0', 'expected host:port'],
    [`nodes: [{ public_key: ${KEY}, endpoints: ['a:70000'] }]`, 'nodes.0.endpoints.0', 'expected host:port'],
    [`nodes: [{ public_key: ${KEY}, endpoints: [] }]`, 'nodes.0.endpoints', 'expected something, not nothing'],
    [`nodes: [{ public_key: ${KEY} }]`, 'nodes.0.endpoints', 'expected a list, and it is missing'],
    ['nodes: [{ public_key: AB, endpoints: [a:1] }]', 'nodes.0.public_key', 'expected a public key'],
  ])('%s', (text, field, message) => {
    const error = failure(text)
    expect(error.message).toContain(`${field} (`)
    expect(error.message).toContain(message)
    expect(error.message).toContain('.yaml')
    expect(error.details.field).toBe(field)
  })

  test('in the environment, which the error names', () => {
    expect(failure('bind_port: 1', { NXMESH_BIND_PORT: '0x10' }).message).toBe(
      'bind_port (NXMESH_BIND_PORT): expected integer 0..65535, got "0x10"',
    )
    expect(failure('', { NXMESH_NODES: KEY }).message).toContain('nodes.0.endpoints (NXMESH_NODES): expected something')
    expect(failure('', {}, { bind_port: 'x' }).message).toContain('bind_port (the command line)')
  })

  test('and a key in place of its path is not shown', () => {
    for (const error of [
      failure(`private_key_path: ${KEY}`),
      failure('', { NXMESH_PRIVATE_KEY: KEY }),
      failure(`http_edit_key: ${KEY}`),
      failure('', { NXMESH_HTTP_EDIT_KEY: KEY }),
      failure(`private_key: ${KEY}`),
    ]) {
      expect(JSON.stringify([error.message, error.details])).not.toContain(KEY)
    }
  })
})

describe('settings that contradict each other', () => {
  test.each([
    ['mesh: { zone: eu, zones: [us] }', 'mesh.zone and mesh.zones are both set'],
    ['http_tls: { cert: api.crt }', 'http_tls needs both cert and key'],
    ['http_tls: { identity: true, cert: a.crt, key: a.pem }', 'http_tls has both identity and a certificate'],
    ['http_bind_port: 9102', 'http_bind_port and bind_port are both 9102'],
    ['http_bind_port: 8080', 'nginx.default_http_port and http_bind_port are both 8080'],
    [`nodes: [{ public_key: ${KEY}, endpoints: ['a:1'] }, { public_key: ${KEY}, endpoints: ['b:1'] }]`, 'twice'],
    ['nginx: { static_roots: [/] }', 'nginx.static_roots has /, which is all of the host'],
    ['nginx: { static_roots: [/srv/../.] }', 'which is all of the host'],
    ['nginx: { static_roots: [/srv, //proc/] }', 'nginx.static_roots has //proc/, which holds no files'],
    ['nginx: { static_roots: [/proc/self/root] }', 'which holds no files, but what the kernel tells'],
    ['nginx: { static_roots: [/sys] }', 'which holds no files'],
    ['nginx: { static_roots: [/dev/shm] }', 'which holds no files'],
    ['data_dir: /var/lib/mesh\nnginx: { static_roots: [/var/] }', 'nginx.static_roots has /var/, which holds data_dir'],
    ['data_dir: /srv/mesh', 'nginx.static_roots has /srv, which holds data_dir'],
    ['data_dir: /a/b\nnginx: { static_roots: [/a/b/] }', 'which holds data_dir'],
    ['data_dir: /a/b\nnginx: { static_roots: [/a/b/c] }', 'which is in data_dir'],
    ['private_key_path: /etc/nxmesh/key\nnginx: { static_roots: [/etc] }', 'which holds private_key_path'],
    ['http_tls: { cert: a, key: /k/b }\nnginx: { static_roots: [/k] }', 'which holds http_tls.key'],
  ])('%s', (text, message) => {
    expect(failure(text).message).toContain(message)
  })

  test('not: roots of files beside what is the node’s own, or of nginx that is off', () => {
    const roots = (text: string) => load(text).nginx.staticRoots
    expect(roots('data_dir: /srv/mesh\nnginx: { static_roots: [/srv/mes, /process, /srv/mesh-files] }')).toHaveLength(3)
    expect(roots('nginx: { mode: off, static_roots: [/] }')).toEqual(['/'])
  })

  test('not: several ports of 0, or a port of nginx that is off', () => {
    expect(load('bind_port: 0\nhttp_bind_port: 0').bindPort).toBe(0)
    expect(load('http_bind_port: 8080\nnginx: { mode: off }').httpBindPort).toBe(8080)
  })
})

test('all problems are told at once', () => {
  const error = failure('bind_prot: 1\nnetwork_id: 7\nnginx: { mode: on, mod: 1 }', { NXMESH_BIND: '1' })
  expect(error.message).toMatch(/^5 problems in the configuration:\n/)
  expect(error.details['problems']).toHaveLength(5)
})

test('a file that is missing or no YAML says so, with the line', () => {
  const missing = (): unknown => loadConfig({ file: join(root, 'none.yaml'), env: {} })
  expect(missing).toThrow(/there is no configuration file .*none\.yaml/)
  expect(failure('bind_port: 1\nnginx: {\n').message).toMatch(/is not YAML.* line [23]/s)
  expect(failure('bind_port: 1\nbind_port: 2\n').message).toMatch(/unique.*line 2/s)
  expect(failure('- a').message).toContain('holds no settings')
  expect(() => loadConfig({ file: root, env: {} })).toThrow(/cannot read/)
  expect(
    failure(`a: &a [x,x,x,x,x,x,x,x,x]\n${Array.from({ length: 20 }, (_, n) => `k${n}: *a`).join('\n')}`).code,
  ).toBe('config_invalid')
})
