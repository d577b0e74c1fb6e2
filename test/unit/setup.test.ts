/**
 * scripts/setup.js in a world of its own: an empty project and root folder, and a PATH that holds nothing but a recording
 * npm and apt-get. Nothing is installed and no network is used.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { waitFor } from '../support/wait.ts'

interface World {
  readonly project: string
  readonly root: string
  readonly uid: number
  readonly env: Record<string, string>
  readonly log: (line: string) => void
  readonly signal: AbortSignal
}
type SetUp = (flags: readonly string[], world: World) => Promise<void>

const PROJECT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const SCRIPT = join(PROJECT, 'scripts/setup.js')
// The specifier is no literal because the script is plain JavaScript: its type is stated here.
const { setUp } = (await import(SCRIPT)) as { readonly setUp: SetUp }

/** What a working npm leaves behind. */
const NPM_INSTALLS =
  'mkdir -p node_modules/.bin\nprintf "#!/bin/sh\\n" > node_modules/.bin/node\nchmod +x node_modules/.bin/node'
const LOCK = '.setup.lock'

let base: string
let lines: string[]

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'nxmesh-setup-'))
  lines = []
  for (const folder of ['project', 'bin', 'root/usr/sbin', 'root/etc', 'root/var/lib/apt/lists']) {
    mkdirSync(join(base, folder), { recursive: true })
  }
  writeLock({ '': {}, 'node_modules/a': { version: '1.0.0' }, 'node_modules/b': { version: '1.0.0', optional: true } })
  writeFileSync(join(base, 'root/etc/debian_version'), '12.0\n')
  writeFileSync(join(base, 'root/var/lib/apt/lists/mirror_bookworm_InRelease'), '')
  command('npm', NPM_INSTALLS)
  command('apt-get', `${installing('nginx', 'openssl', 'xxd', 'ip')}\n${installingFiles()}`)
})

afterEach(() => rmSync(base, { recursive: true, force: true }))

function world(changes: Partial<World> = {}): World {
  const { env, ...rest } = changes
  return {
    project: join(base, 'project'),
    root: join(base, 'root'),
    uid: 0,
    log: (line) => lines.push(line),
    signal: new AbortController().signal,
    ...rest,
    env: { PATH: join(base, 'bin'), ...env },
  }
}

/** Puts a command into PATH that records how it was called, then does what the script says. */
function command(name: string, script: string): void {
  const text = `#!/bin/sh\necho "${name} $*" >> ${base}/calls\nPATH=/usr/bin:/bin\n${script}\n`
  writeFileSync(join(base, 'bin', name), text, { mode: 0o755 })
}

function installing(...commands: readonly string[]): string {
  return `case "$*" in install*) for c in ${commands.join(' ')}; do printf "" > ${base}/bin/$c; done;; esac`
}

/** What the tests need of nginx's modules, by the packages of Debian. */
const MODULE_PACKAGES = {
  'libnginx-mod-http-lua': 'nginx/modules/ngx_http_lua_module.so',
  'libnginx-mod-http-modsecurity': 'nginx/modules/ngx_http_modsecurity_module.so',
  'libnginx-mod-stream': 'nginx/modules/ngx_stream_module.so',
  'libnginx-mod-http-brotli-filter': 'nginx/modules/ngx_http_brotli_filter_module.so',
  'libnginx-mod-http-cache-purge': 'nginx/modules/ngx_http_cache_purge_module.so',
}
const FOR_TESTS = `iproute2 ${Object.keys(MODULE_PACKAGES).join(' ')} modsecurity-crs`

/** Files of those packages that apt-get is asked for. */
function installingFiles(): string {
  const rules = 'share/modsecurity-crs/rules/REQUEST-901-INITIALIZATION.conf'
  const files = { ...MODULE_PACKAGES, 'modsecurity-crs': rules }
  const cases = Object.entries(files).map(([name, file]) => {
    const path = join(base, 'root/usr', file.startsWith('share/') ? file : `lib/${file}`)
    return `case "$*" in *${name}*) mkdir -p ${dirname(path)}; printf "" > ${path};; esac`
  })
  return cases.join('\n')
}

function writeLock(packages: object, file = 'package-lock.json'): void {
  writeFileSync(join(base, 'project', file), JSON.stringify({ packages }))
}

function calls(): string[] {
  const file = join(base, 'calls')
  return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : []
}

const APT_INSTALL = 'apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120'
const policyFile = () => join(base, 'root/usr/sbin/policy-rc.d')
const projectFiles = () => readdirSync(join(base, 'project')).toSorted()

test('a fresh machine gets npm packages and the missing system packages, once', async () => {
  await setUp([], world())
  expect(calls()).toEqual([expect.stringMatching(/^npm ci --ignore-scripts /), `${APT_INSTALL} nginx openssl xxd`])
  expect(lines).toContainEqual(expect.stringContaining('installing the missing system packages nginx openssl xxd'))

  lines = []
  await setUp([], world())
  expect(calls()).toHaveLength(2)
  expect(lines).toEqual([])
  expect(projectFiles()).toEqual(['node_modules', 'package-lock.json'])
})

test('a changed lock file installs again, and so does an installation that was cut short', async () => {
  await setUp(['--no-system'], world())
  writeLock({ '': {}, 'node_modules/a': { version: '2.0.0' } })
  await setUp(['--no-system'], world())
  rmSync(join(base, 'project/node_modules/.nxmesh-setup'))
  await setUp(['--no-system'], world())
  expect(calls()).toHaveLength(3)
  expect(lines).toContainEqual(expect.stringContaining('node_modules is not what package-lock.json says'))
})

test('what npm has installed by itself is taken as it is, when it is complete', async () => {
  mkdirSync(join(base, 'project/node_modules/.bin'), { recursive: true })
  writeFileSync(join(base, 'project/node_modules/.bin/node'), '')
  writeLock({ 'node_modules/a': { version: '1.0.0' } }, 'node_modules/.package-lock.json')
  await setUp(['--no-system'], world())
  expect(calls()).toEqual([])

  writeLock({ '': {}, 'node_modules/a': { version: '1.0.0' }, 'node_modules/c': { version: '1.0.0' } })
  await setUp(['--no-system'], world())
  expect(calls()).toHaveLength(1)
})

test('npm runs outside node_modules, since it removes what is in there', async () => {
  writeFileSync(join(base, 'bin/npm'), `#!/bin/sh\necho "$PATH" > ${base}/calls\n/bin/mkdir node_modules\n`, {
    mode: 0o755,
  })
  await setUp(['--no-system'], world({ env: { PATH: `/x/node_modules/.bin:${base}/bin` } }))
  expect(calls()).toEqual([`${base}/bin`])
})

test('a failing npm is an error that says so, and the next run tries again', async () => {
  command('npm', 'exit 7')
  await expect(setUp([], world())).rejects.toThrow('npm ci failed (exit code 7)')
  expect(projectFiles()).toEqual(['package-lock.json'])
  command('npm', NPM_INSTALLS)
  await setUp(['--no-system'], world())
})

test('a packaged Node that npm did not link is linked', async () => {
  const bin = `node_modules/node-${process.platform}-${process.arch}/bin`
  command('npm', `mkdir -p node_modules/.bin ${bin}\nprintf "#!/bin/sh\\n" > ${bin}/node\nchmod +x ${bin}/node`)
  await setUp(['--no-system'], world())
  const link = join(base, 'project/node_modules/.bin/node')
  expect(realpathSync(link)).toBe(realpathSync(join(base, 'project', bin, 'node')))
})

test('a packaged Node that cannot run here is named', async () => {
  command('npm', NPM_INSTALLS.replace('"#!/bin/sh\\n"', '"#!/bin/sh\\nexit 1\\n"'))
  await expect(setUp(['--no-system'], world())).rejects.toThrow('needs a Linux with glibc')
})

test('no npm at all is named', async () => {
  rmSync(join(base, 'bin/npm'))
  await expect(setUp(['--no-system'], world())).rejects.toThrow('cannot run npm')
})

test.each([
  [[], 'nginx openssl xxd'],
  [['--test'], `nginx openssl xxd ${FOR_TESTS}`],
])('with %j apt-get is asked for %s', async (flags, packages) => {
  await setUp(flags, world())
  expect(calls()).toContain(`${APT_INSTALL} ${packages}`)
})

test('a node needs nginx only: without the rest, nothing is installed and nothing is said', async () => {
  writeFileSync(join(base, 'root/usr/sbin/nginx'), '')
  await setUp([], world({ uid: 1000 }))
  expect(calls()).toHaveLength(1)
  await expect(setUp(['--test'], world({ uid: 1000 }))).rejects.toThrow(`openssl xxd ${FOR_TESTS}`)
})

test('package lists are fetched when there are none, and when the present ones are too old', async () => {
  rmSync(join(base, 'root/var/lib/apt/lists/mirror_bookworm_InRelease'))
  await setUp([], world())
  expect(calls().slice(1)).toEqual(['apt-get update', `${APT_INSTALL} nginx openssl xxd`])

  rmSync(join(base, 'bin/nginx'))
  writeFileSync(join(base, 'root/var/lib/apt/lists/mirror_bookworm_InRelease'), '')
  command(
    'apt-get',
    `[ "$1" = update ] && touch ${base}/fresh\n[ -e ${base}/fresh ] || exit 100\n${installing('nginx')}`,
  )
  await setUp([], world())
  expect(calls().slice(3)).toEqual([`${APT_INSTALL} nginx`, 'apt-get update', `${APT_INSTALL} nginx`])
})

test('a failing apt-get is an error with the command to run by hand, and leaves no policy behind', async () => {
  command('apt-get', 'exit 100')
  await expect(setUp([], world())).rejects.toThrow(
    'exit code 100); its own words are above. By hand:\n  apt-get update && apt-get install -y --no-install-recommends nginx openssl xxd',
  )
  expect(existsSync(policyFile())).toBe(false)
  expect(projectFiles()).toEqual(['node_modules', 'package-lock.json'])
})

test('services are kept from starting while apt-get runs, and only then', async () => {
  command('apt-get', `${policyFile()} nginx start; echo "policy $?" >> ${base}/calls\n${installing('nginx')}`)
  await setUp([], world())
  expect(calls()).toContain('policy 101')
  expect(existsSync(policyFile())).toBe(false)
})

test('a policy of the host is left alone', async () => {
  writeFileSync(policyFile(), '#!/bin/sh\nexit 104\n')
  await setUp([], world())
  expect(readFileSync(policyFile(), 'utf8')).toBe('#!/bin/sh\nexit 104\n')
})

test('the policy of a set-up that was killed is removed', async () => {
  await setUp([], world())
  writeFileSync(policyFile(), '#!/bin/sh\n# NxMesh set-up 1 123456\nexit 101\n')
  await setUp([], world())
  expect(existsSync(policyFile())).toBe(false)
})

test('an nginx that set-up installs does not start at the next boot either, and that is said', async () => {
  command('systemctl', '')
  await setUp([], world())
  expect(calls().at(-1)).toBe('systemctl disable nginx')
  expect(lines).toContainEqual(expect.stringContaining('systemctl enable nginx'))
})

test('the unit is disabled also when another package could not be installed', async () => {
  command('systemctl', '')
  command('apt-get', `${installing('nginx')}\nexit 100`)
  await expect(setUp(['--test'], world())).rejects.toThrow('exit code 100')
  expect(calls().filter((call) => call.startsWith('systemctl'))).toEqual(['systemctl disable nginx'])
})

test('a unit that cannot be disabled is named, and set-up goes on', async () => {
  command('systemctl', 'exit 1')
  await setUp([], world())
  expect(lines).toContainEqual(expect.stringContaining('systemctl disable nginx failed'))
})

test('an nginx that was there before keeps its unit as it is', async () => {
  command('systemctl', '')
  writeFileSync(join(base, 'root/usr/sbin/nginx'), '')
  await setUp(['--test'], world())
  expect(calls()).toContain(`${APT_INSTALL} openssl xxd ${FOR_TESTS}`)
  expect(calls().filter((call) => call.startsWith('systemctl'))).toEqual([])
})

test('who is not root is told the command, and apt-get does not run', async () => {
  await expect(setUp(['--test'], world({ uid: 1000 }))).rejects.toThrow(
    `Run:\n  sudo apt-get update && sudo apt-get install -y --no-install-recommends nginx openssl xxd ${FOR_TESTS}`,
  )
  expect(calls()).toEqual([expect.stringMatching(/^npm ci/)])
})

test('another system than Debian is told which commands it lacks', async () => {
  rmSync(join(base, 'root/etc/debian_version'))
  await expect(setUp([], world())).rejects.toThrow(
    'these commands and files are missing, install them: nginx openssl xxd',
  )
})

test('NXMESH_SETUP=off does nothing, no-system leaves the system alone, anything else is an error', async () => {
  await setUp(['--test'], world({ env: { NXMESH_SETUP: 'off' } }))
  expect(calls()).toEqual([])
  await setUp(['--test'], world({ env: { NXMESH_SETUP: 'no-system' } }))
  expect(calls()).toEqual([expect.stringMatching(/^npm ci/)])
  await expect(setUp([], world({ env: { NXMESH_SETUP: 'false' } }))).rejects.toThrow('neither off nor no-system')
  await expect(setUp(['--tests'], world())).rejects.toThrow('unknown option --tests')
})

test.each(['999999999 1', `${process.pid} 1`])(
  'the lock of a process that has ended (%s) is taken over',
  async (holder) => {
    symlinkSync(holder, join(base, 'project', LOCK))
    await setUp(['--no-system'], world())
    expect(calls()).toHaveLength(1)
    expect(projectFiles()).toEqual(['node_modules', 'package-lock.json'])
  },
)

test('two set-ups at once: one works, the other waits and finds all done', async () => {
  command('npm', `while [ ! -e ${base}/go ]; do sleep 0.02; done\n${NPM_INSTALLS}`)
  const both = [setUp(['--no-system'], world()), setUp(['--no-system'], world())]
  await waitFor(() => lines.some((line) => line.startsWith('waiting for another set-up')), { what: 'one waits' })
  writeFileSync(join(base, 'go'), '')
  await Promise.all(both)
  expect(calls()).toHaveLength(1)
})

test('a signal ends what runs, and undoes lock and policy', async () => {
  command('apt-get', `touch ${base}/running; exec sleep 60`)
  const path = [join(base, 'bin'), '/usr/bin', '/bin'].join(':')
  const options = { project: join(base, 'project'), root: join(base, 'root'), uid: 0, env: { PATH: path } }
  const runner = `
    import { setUp } from ${JSON.stringify(SCRIPT)}
    const controller = new AbortController()
    process.once('SIGTERM', () => controller.abort('SIGTERM'))
    const world = { ...${JSON.stringify(options)}, log: () => {}, signal: controller.signal }
    await setUp(['--test'], world).catch((reason) => console.log('ended by ' + reason))`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', runner], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  const exit = once(child, 'exit')
  await waitFor(() => existsSync(join(base, 'running')), { what: 'apt-get runs' })
  expect(lstatSync(join(base, 'project', LOCK)).isSymbolicLink()).toBe(true)
  expect(existsSync(policyFile())).toBe(true)

  child.kill('SIGTERM')
  expect(await exit).toEqual([0, null])
  expect(output).toBe('ended by SIGTERM\n')
  expect(existsSync(policyFile())).toBe(false)
  expect(projectFiles()).toEqual(['node_modules', 'package-lock.json'])
})

test('every npm script runs the set-up first, and looks its command up anew after it', () => {
  const { scripts } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as {
    readonly scripts: Readonly<Record<string, string>>
  }
  // Without `exec env`, the shell remembers where `node` was before the set-up brought another one.
  const form =
    /^node scripts\/setup\.js( --test| --no-system)? && exec (env (?:\w+=\S+ )*node (?:--\S+ )*\S+\.ts|(vitest run|oxfmt|oxlint|tsc|knip|scripts\/(?:mesh-node|meshctl))( |$))/
  expect(Object.entries(scripts).filter(([, script]) => !form.test(script))).toEqual([])
})
