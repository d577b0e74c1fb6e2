/**
 * meshctl and mesh-node as people run them, as processes of their own: a mesh founded by hand on three hosts, then the daily
 * work of an operator. The tests tell one story, in order.
 */

import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { NodeReceipt } from '../../src/api/schemas.ts'
import { command, type CommandOptions, type Ended } from '../support/commands.ts'
import { endNginx, freePorts, Member, REPOSITORY } from '../support/fleet.ts'
import { all, answers, converged, eventually, health, hostOf, siteYaml } from '../support/use-fleet.ts'

const ZONES = { 'edge-a': 'eu.west', 'edge-b': 'eu.west', 'edge-c': 'us' } as const
const NAMES = Object.keys(ZONES) as (keyof typeof ZONES)[]

let directory: string
const members = new Map<string, Member>()
const keys = new Map<string, string>()

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nxmesh-cli-'))
  // nginx's workers may be another user, and have to get at their files.
  await chmod(directory, 0o711)
  const ports = await freePorts(NAMES.length * 3)
  for (const [index, name] of NAMES.entries()) {
    await mkdir(join(directory, name))
    const own = ports.slice(index * 3, index * 3 + 3) as [number, number, number]
    members.set(name, new Member(name, join(directory, name), own))
  }
})

beforeEach(({ onTestFailed }) => {
  onTestFailed(async () => {
    // vitest shows it beside the failure
    console.error((await Promise.all([...members.values()].map((member) => member.logs()))).join('\n'))
  })
})

afterAll(async () => {
  await Promise.all([...members.values()].map((member) => member.stop('SIGKILL')))
  await Promise.all([...members.values()].map((member) => endNginx(member.nginxDirectory)))
  await rm(directory, { recursive: true, force: true, maxRetries: 5 })
})

const member = (name: keyof typeof ZONES): Member => members.get(name) as Member
const everyone = (): Member[] => [...members.values()]

/** meshctl in a process of its own, in the operator's folder, with the owner's key and the API of edge-a. */
function meshctl(argv: readonly string[], options: Partial<CommandOptions> = {}): Promise<Ended> {
  const env = { NXMESH_API: member('edge-a').api, NXMESH_KEY: 'mesh/owner.key', ...options.env }
  return command(join(REPOSITORY, 'scripts/meshctl'), argv, { cwd: directory, ...options, env })
}

/** The same, for what must succeed; what it prints. */
async function tell(argv: readonly string[], options: Partial<CommandOptions> = {}): Promise<string> {
  const { code, out, err } = await meshctl(argv, options)
  expect(code, `meshctl ${argv.join(' ')}: ${err}`).toBe(0)
  return out
}

async function configure(
  name: keyof typeof ZONES,
  mesh: Record<string, unknown>,
  nodes: readonly unknown[],
): Promise<void> {
  const { meshPort, apiPort, httpPort, dataDirectory, configFile, keyFile } = member(name)
  const config = {
    private_key_path: keyFile,
    data_dir: dataDirectory,
    bind_address: '127.0.0.1',
    bind_port: meshPort,
    http_bind_port: apiPort,
    mesh,
    nodes,
    nginx: { default_http_port: httpPort, worker_processes: 1 },
  }
  await writeFile(configFile, stringify(config))
}

test('a mesh is founded by hand, and three hosts join it one by one', async () => {
  for (const name of NAMES) {
    keys.set(name, (await tell(['key', 'new', '-k', member(name).keyFile])).trim())
    expect((await stat(member(name).keyFile)).mode & 0o777).toBe(0o600)
  }
  const meshId = (await tell(['init', '--name', 'prod'])).trim()
  expect(meshId).toMatch(/^[0-9a-f]{64}$/)
  expect((await readdir(join(directory, 'mesh'))).filter((file) => !file.endsWith('.chain.json')).toSorted()).toEqual([
    'genesis.json',
    'next-recovery.key',
    'owner.key',
    'recovery.key',
  ])
  const again = await meshctl(['init', '--name', 'prod'])
  expect(again).toMatchObject({ code: 6, err: expect.stringContaining('a mesh is founded once') })

  const genesisFile = join(directory, 'mesh', 'genesis.json')
  await configure('edge-a', { id: meshId, genesis_file: genesisFile }, [])
  const peer = { public_key: keys.get('edge-a'), endpoints: [`127.0.0.1:${member('edge-a').meshPort}`] }
  for (const name of ['edge-b', 'edge-c'] as const) await configure(name, { id: meshId }, [peer])

  await member('edge-a').start()
  const shown = (await tell(['key', 'show', '-k', member('edge-a').keyFile, '-o', 'wide'])).trim()
  await eventually(() => health(member('edge-a'))).toContain(`meshctl grant node ${shown} --zone ZONE --name NAME`)
  for (const name of NAMES) {
    const { code, err } = await meshctl([
      'grant',
      'node',
      keys.get(name) as string,
      '--zone',
      ZONES[name],
      '--name',
      name,
    ])
    expect(code, err).toBe(0)
    expect(err).toContain(`is node of zones ${ZONES[name]} in all workspaces`)
  }
  await Promise.all([member('edge-b').start(), member('edge-c').start()])
  await converged(everyone())
  await eventually(() => tell(['status'])).toMatch(/3 nodes: 3 ready, 3 applied/)
  const status = await tell(['status'])
  for (const name of NAMES) expect(status).toMatch(new RegExp(`^${name}.*${ZONES[name]}.*Ready.*Running.*applied`, 'm'))
  expect(await tell(['peers'])).toContain('edge-c')
})

test('apply --wait ends when every nginx of the zone serves it', async () => {
  // With one site everywhere, every nginx listens.
  await tell(['apply', '-f', '-'], { stdin: siteYaml({ name: 'welcome' }) })
  await eventually(() => answers(everyone(), 'welcome')).toEqual(all(everyone(), 'welcome'))
  await writeFile(join(directory, 'hello.yaml'), siteYaml({ name: 'hello', zone: 'eu', body: 'from eu' }))
  expect(await tell(['apply', '-f', 'hello.yaml', '--dry-run'])).toContain('1 to create')
  expect((await meshctl(['get', 'site', 'hello'])).code).toBe(5)
  const { code, out, err } = await meshctl(['apply', '-f', 'hello.yaml', '--wait', '--timeout', '60s'])
  expect(code, err).toBe(0)
  expect(out).toContain('+ create default/eu/site/hello')
  for (const name of ['edge-a', 'edge-b']) expect(err).toContain(`${name}: applied`)
  expect(err, 'us is not waited for').not.toContain('edge-c')
  expect(await answers(everyone(), 'hello')).toEqual({ 'edge-a': 'from eu', 'edge-b': 'from eu', 'edge-c': '404' })
  expect(await tell(['apply', '-f', 'hello.yaml'])).toBe('1 unchanged\n')
})

test('get shows resources as a table, and as YAML that can be applied again', async () => {
  const table = await tell(['get', 'sites'])
  expect(table).toMatch(/^KIND\s+NAME\s+WORKSPACE\s+ZONE/)
  expect(table).toMatch(new RegExp(`^site\\s+hello\\s+default\\s+eu\\s.*${hostOf('hello')}`, 'm'))
  const yaml = await tell(['get', 'site', 'hello', '-o', 'yaml'])
  expect(yaml).toMatch(/^apiVersion: nxmesh\/v1\nkind: Site\n/)
  expect(await tell(['apply', '-f', '-'], { stdin: yaml })).toBe('1 unchanged\n')
  expect(JSON.parse(await tell(['get', 'site', 'hello', '-o', 'json']))).toMatchObject({ metadata: { zone: 'eu' } })
})

test('edit opens the editor until the resource is right, and changes what the person changed', async () => {
  // An editor that is wrong at first, and right when it is shown what was wrong.
  const editor = join(directory, 'editor.sh')
  const script = `if grep -q colour "$1"; then cp "$1" complained.yaml; sed -i '/colour/d' "$1"; sed -i 's/from eu/edited/' "$1"
else echo '  colour: red' >> "$1"; fi
`
  await writeFile(editor, script)
  const env = { EDITOR: `sh ${editor}` }
  const { code, out, err } = await meshctl(['edit', 'site', 'hello', '--wait', '--timeout', '60s'], { env })
  expect(code, err).toBe(0)
  expect(out).toContain('"edited"')
  expect(await readFile(join(directory, 'complained.yaml'), 'utf8')).toMatch(/^#.*spec\.colour/m)
  expect(await answers(everyone(), 'hello')).toEqual({ 'edge-a': 'edited', 'edge-b': 'edited', 'edge-c': '404' })
  expect(await meshctl(['edit', 'site', 'hello'], { env: { EDITOR: 'true' } })).toMatchObject({
    code: 0,
    err: expect.stringContaining('nothing was changed'),
  })
  expect((await meshctl(['edit', 'site', 'hello'], { env: { EDITOR: 'false' } })).code).toBe(3)
})

test('what nginx refuses is told in its own words, and what was served is served on', async () => {
  const spec = { privileged: { serverSnippet: 'gzip_static_files on;\n' } }
  const stdin = siteYaml({ name: 'hello', zone: 'eu', body: 'broken', spec })
  const { code, err } = await meshctl(['apply', '-f', '-', '--wait', '--timeout', '60s'], { stdin })
  expect(code, err).toBe(8)
  expect(err).toContain('unknown directive "gzip_static_files"')
  for (const name of ['edge-a', 'edge-b']) expect(err).toContain(`${name}: not applied`)
  expect(await answers([member('edge-a'), member('edge-b')], 'hello')).toEqual({
    'edge-a': 'edited',
    'edge-b': 'edited',
  })
  const status = await meshctl(['status'])
  expect(`${status.out}${status.err}`).toContain('unknown directive "gzip_static_files"')
  // Any node tells of all.
  const { data } = await member('edge-c').get<{ data: NodeReceipt[] }>('/v1/receipts')
  expect(data.find(({ name }) => name === 'edge-b')?.receipt?.isolated[0]?.reason).toContain('gzip_static_files')
  expect((await meshctl(['apply', '-f', 'hello.yaml', '--wait', '--timeout', '60s'])).code).toBe(0)
  expect(await answers([member('edge-a'), member('edge-b')], 'hello')).toEqual({
    'edge-a': 'from eu',
    'edge-b': 'from eu',
  })
})

test('what is wrong in a document is told before anything is sent', async () => {
  const good = siteYaml({ name: 'good' })
  const bad = siteYaml({ name: 'bad', spec: { hosts: ['No Such Host; }'], colour: 'red' } })
  const { code, err } = await meshctl(['apply', '-f', '-'], { stdin: `${good}\n---\n${bad}` })
  expect(code, err).toBe(3)
  expect(err).toContain('stdin:2')
  expect(err).toMatch(/spec\.(hosts|colour)/)
  expect((await meshctl(['get', 'site', 'good'])).code).toBe(5)
})

test('grant lets another key edit in its zone and nowhere else, until revoke', async () => {
  const ana = (await tell(['key', 'new', '-k', 'ana.key'])).trim()
  await tell(['grant', 'editor', ana, '--zone', 'us', '--name', 'ana'])
  const env = { NXMESH_API: member('edge-c').api, NXMESH_KEY: 'ana.key' }
  await eventually(
    async () => (await meshctl(['apply', '-f', '-'], { env, stdin: siteYaml({ name: 'hers', zone: 'us' }) })).code,
  ).toBe(0)
  await eventually(() => answers(everyone(), 'hers')).toEqual({ 'edge-a': '404', 'edge-b': '404', 'edge-c': 'hers' })
  const beyond = await meshctl(['apply', '-f', '-'], { env, stdin: siteYaml({ name: 'hers', zone: 'eu' }) })
  expect(beyond.code).toBe(4)
  expect(beyond.err).toContain('zones us, not eu')

  expect(await meshctl(['revoke', ana, '--dry-run'])).toMatchObject({
    code: 0,
    err: expect.stringContaining('nothing was changed'),
  })
  await tell(['revoke', ana])
  await eventually(async () => {
    const stdin = siteYaml({ name: 'hers', zone: 'us', body: 'again' })
    return (await meshctl(['apply', '-f', '-'], { env, stdin })).code
  }).toBe(4)
  // What she did stays.
  expect(await answers([member('edge-c')], 'hers')).toEqual({ 'edge-c': 'hers' })
  const log = await tell(['log'])
  expect(log).toMatch(/revoke key\/[0-9a-f]+/)
})

test('delete --wait ends when no nginx serves it any more', async () => {
  const { code, err } = await meshctl(['delete', 'site', 'hello', '--wait', '--timeout', '60s'])
  expect(code, err).toBe(0)
  expect(await answers(everyone(), 'hello')).toEqual(all(everyone(), '404'))
  expect((await meshctl(['get', 'site', 'hello'])).code).toBe(5)
  await converged(everyone())
})

test('each mistake has its exit code and its way out', async () => {
  const nowhere = { NXMESH_API: `http://127.0.0.1:${(await freePorts(1))[0]}` }
  const mistakes: [argv: readonly string[], code: number, words: RegExp, env?: Record<string, string>][] = [
    [['aply', '-f', 'x'], 2, /Did you mean apply\?/],
    [['get', 'stes'], 2, /Did you mean sites?\?/],
    [['apply', '--wiat'], 2, /Did you mean --wait\?/],
    [['apply', '-f', 'no-such.yaml'], 3, /no-such\.yaml/],
    [['get', 'sites'], 7, /127\.0\.0\.1/, nowhere],
    [['delete', 'site', 'nothing'], 5, /there is no site nothing/],
    [['apply', '-f', 'hello.yaml'], 3, /no-such\.key/, { NXMESH_KEY: 'no-such.key' }],
  ]
  for (const [argv, code, words, env = {}] of mistakes) {
    const ended = await meshctl(argv, { env })
    expect.soft(ended.code, `${argv.join(' ')}: ${ended.err}`).toBe(code)
    expect.soft(ended.err, argv.join(' ')).toMatch(words)
    expect.soft(ended.err, argv.join(' ')).not.toMatch(/\n\s+at /)
  }
  for (const verb of ['apply', 'get', 'status', 'grant', 'init'])
    expect(await tell(['help', verb])).toMatch(/meshctl.*\n/)
})
