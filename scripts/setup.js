/**
 * Set-up: brings a checkout to the state in which its npm scripts can run. Installs the npm packages (Node 24 among them)
 * and the system packages that are missing. Called first by every npm script, so it costs nothing when nothing is to do.
 * Plain JavaScript for Node 20 without dependencies, since nothing else is there yet. Writes to stderr only.
 */

import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const USAGE = `usage: node scripts/setup.js [--test] [--no-system]
  --test        also install what the tests need
  --no-system   npm packages only; no system packages
NXMESH_SETUP=off skips the set-up, NXMESH_SETUP=no-system is --no-system for every npm script.`

const NODE_MAJOR = 24
const NODE_PACKAGE = `node-${process.platform}-${process.arch}`
const NODE_LINK = 'node_modules/.bin/node'
const NPM_RECORD = 'node_modules/.package-lock.json'
const STAMP = 'node_modules/.nxmesh-setup'
const LOCK = '.setup.lock'
const LOCK_POLL_MS = 100
const SBIN = ['usr/local/sbin', 'usr/sbin', 'sbin']
const SIGNALS = /** @type {const} */ ({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 })

/**
 * What is needed outside npm: commands, found in PATH, and files, found below the root. A node cannot do without the `required`
 * ones, the tests without any. Named as Debian's packages.
 * @type {readonly { name: string, command?: string, file?: string, required: boolean, testsOnly: boolean }[]}
 */
const TOOLS = [
  { name: 'nginx', command: 'nginx', required: true, testsOnly: false },
  { name: 'openssl', command: 'openssl', required: false, testsOnly: false },
  { name: 'xxd', command: 'xxd', required: false, testsOnly: false },
  { name: 'iproute2', command: 'ip', required: false, testsOnly: true },
  nginxModule('libnginx-mod-http-lua', 'ngx_http_lua_module.so'),
  nginxModule('libnginx-mod-http-modsecurity', 'ngx_http_modsecurity_module.so'),
  nginxModule('libnginx-mod-stream', 'ngx_stream_module.so'),
  nginxModule('libnginx-mod-http-brotli-filter', 'ngx_http_brotli_filter_module.so'),
  nginxModule('libnginx-mod-http-cache-purge', 'ngx_http_cache_purge_module.so'),
  {
    name: 'modsecurity-crs',
    file: 'usr/share/modsecurity-crs/rules/REQUEST-901-INITIALIZATION.conf',
    required: false,
    testsOnly: true,
  },
]

/** @param {string} name @param {string} file */
function nginxModule(name, file) {
  return { name, file: `usr/lib/nginx/modules/${file}`, required: false, testsOnly: true }
}

/**
 * What a set-up works on; tests pass a world of their own.
 * @typedef {object} World
 * @property {string} project the checkout
 * @property {string} root `/`
 * @property {number} uid
 * @property {NodeJS.ProcessEnv} env
 * @property {(line: string) => void} log
 * @property {AbortSignal} signal ends what runs, undoes what is temporary
 */

/** A set-up that cannot go on; the message says what to do. */
class SetupError extends Error {}

/**
 * Does what is missing.
 * @param {readonly string[]} flags
 * @param {World} world
 * @throws {SetupError}
 */
export async function setUp(flags, world) {
  const unknown = flags.find((flag) => flag !== '--test' && flag !== '--no-system')
  if (unknown !== undefined) throw new SetupError(`unknown option ${unknown}\n${USAGE}`)
  const mode = world.env.NXMESH_SETUP ?? ''
  if (mode === 'off') return
  if (mode !== '' && mode !== 'no-system') throw new SetupError(`NXMESH_SETUP=${mode} is neither off nor no-system`)

  const forTests = flags.includes('--test')
  const withSystem = mode !== 'no-system' && !flags.includes('--no-system')

  if (staleReason(world) !== undefined) {
    await withLock(world, async () => {
      // Another set-up may have done it while this one waited.
      const reason = staleReason(world)
      if (reason !== undefined) await installPackages(reason, world)
    })
  }
  if (withSystem) {
    removePolicyOfDeadSetup(world)
    if (missingTools(forTests, world).length > 0) await installTools(forTests, world)
  }
  checkRunningNode(world)
}

// ---------------------------------------------------------------------------------------------- npm packages

/** @param {World} world */
function stampFor({ project }) {
  const lockFile = fs.readFileSync(join(project, 'package-lock.json'))
  return createHash('sha256').update(lockFile).update(`\0${process.platform}-${process.arch}`).digest('hex')
}

/** Why the npm packages must be installed; undefined when they are. @param {World} world */
function staleReason(world) {
  if (!fs.existsSync(join(world.project, 'node_modules'))) return 'there is no node_modules'
  const stamp = stampFor(world)
  if (readIfThere(join(world.project, STAMP)) === stamp) return undefined
  if (!isInstalled(world)) return 'node_modules is not what package-lock.json says'
  try {
    finishInstallation(world, stamp)
  } catch {
    // Someone else's checkout: then this is found out anew each time, which takes a few milliseconds.
  }
  return undefined
}

/** Whether npm has installed it all without us (`npm ci`, `npm install x`): npm's last act is a lock file of what is there. */
function isInstalled(/** @type {World} */ { project }) {
  const there = readIfThere(join(project, NPM_RECORD))
  if (there === undefined) return false
  const wanted = packagesIn(fs.readFileSync(join(project, 'package-lock.json'), 'utf8'))
  const present = packagesIn(there)
  return Object.entries(wanted).every(([path, { version, integrity, optional }]) => {
    const found = present[path]
    if (path === '') return true
    if (found === undefined) return optional === true && path !== `node_modules/${NODE_PACKAGE}`
    return found.version === version && found.integrity === integrity
  })
}

/**
 * @param {string} lockFile
 * @returns {Record<string, { version?: string, integrity?: string, optional?: boolean }>}
 */
function packagesIn(lockFile) {
  return JSON.parse(lockFile).packages
}

/** @param {string} reason @param {World} world */
async function installPackages(reason, world) {
  const stamp = stampFor(world)
  world.log(`${reason}: installing the npm packages of package-lock.json, Node ${NODE_MAJOR} among them (npm ci)`)
  // npm must run on the Node outside node_modules, because it removes the one inside.
  const path = (world.env.PATH ?? '').split(delimiter).filter((entry) => !entry.includes('node_modules'))
  const env = { ...world.env, PATH: path.join(delimiter) }
  // No package's own script is needed. The other flags undo what the caller's npm may hand down (-s, NODE_ENV=production).
  const flags = [
    '--ignore-scripts',
    '--include=dev',
    '--include=optional',
    '--loglevel=error',
    '--no-audit',
    '--no-fund',
  ]
  const code = await run('npm', ['ci', ...flags], env, world)
  if (code !== 0)
    throw new SetupError(`npm ci failed (exit code ${code}); its own words are above. Put it right and try again.`)

  finishInstallation(world, stamp)
  const node = join(world.project, NODE_LINK)
  if (fs.existsSync(node) && (await run(node, ['--eval', ''], env, world)) !== 0) {
    // Without npm's record of it, the next run installs anew and says the same.
    for (const record of [STAMP, NPM_RECORD]) fs.rmSync(join(world.project, record), { force: true })
    throw new SetupError(`${node} does not run here: it needs a Linux with glibc (Debian, Ubuntu, Fedora; not Alpine)`)
  }
  world.log('the npm packages are installed')
}

/** npm 10 drops the link to the packaged Node together with the packages of the other platforms, which link the same name. */
function finishInstallation(/** @type {World} */ { project }, /** @type {string} */ stamp) {
  const link = join(project, NODE_LINK)
  if (!fs.existsSync(link) && fs.existsSync(join(project, 'node_modules', NODE_PACKAGE))) {
    const draft = `${link}.${process.pid}`
    fs.symlinkSync(`../${NODE_PACKAGE}/bin/node`, draft)
    fs.renameSync(draft, link)
  }
  fs.writeFileSync(join(project, STAMP), stamp)
}

/** The npm scripts find node_modules/.bin/node first; where there is none for the platform, the running one must do. */
function checkRunningNode(/** @type {World} */ { project }) {
  if (fs.existsSync(join(project, NODE_LINK))) return
  if (Number.parseInt(process.versions.node, 10) >= NODE_MAJOR) return
  throw new SetupError(
    `NxMesh needs Node ${NODE_MAJOR}. This is Node ${process.versions.node}, and npm brings none for ` +
      `${process.platform}-${process.arch}: install Node ${NODE_MAJOR} from https://nodejs.org/en/download and run the command again`,
  )
}

// ---------------------------------------------------------------------------------------------- system packages

/** The tools to install: none unless one that is needed is missing. @param {boolean} forTests @param {World} world */
function missingTools(forTests, world) {
  const missing = TOOLS.filter((tool) => forTests || !tool.testsOnly).filter((tool) => !isThere(tool, world))
  return missing.some((tool) => forTests || tool.required) ? missing : []
}

/** @param {{ command?: string, file?: string }} tool @param {World} world */
function isThere({ command, file }, world) {
  if (file !== undefined) return fs.existsSync(join(world.root, file))
  return systemPath(world)
    .split(delimiter)
    .some((folder) => fs.existsSync(join(folder, command ?? '')))
}

/** PATH with the folders of system commands, which many users' PATH lacks. @param {World} world */
function systemPath({ root, env }) {
  return [env.PATH ?? '', ...SBIN.map((folder) => join(root, folder))].join(delimiter)
}

/** @param {boolean} forTests @param {World} world */
async function installTools(forTests, world) {
  const { root, uid, log } = world
  const names = missingTools(forTests, world).map((tool) => tool.name)
  const sudo = uid === 0 ? '' : 'sudo '
  const byHand = `${sudo}apt-get update && ${sudo}apt-get install -y --no-install-recommends ${names.join(' ')}`
  if (!fs.existsSync(join(root, 'etc/debian_version'))) {
    const what = missingTools(forTests, world).map((tool) => tool.command ?? tool.file)
    throw new SetupError(`these commands and files are missing, install them: ${what.join(' ')}`)
  }
  if (uid !== 0) throw new SetupError(`system packages are missing; only root can install them. Run:\n  ${byHand}`)

  const env = { ...world.env, PATH: systemPath(world), DEBIAN_FRONTEND: 'noninteractive' }
  const apt = (/** @type {string[]} */ ...args) => run('apt-get', args, env, world)
  await withLock(world, async () => {
    const missing = missingTools(forTests, world).map((tool) => tool.name)
    if (missing.length === 0) return
    log(`installing the missing system packages ${missing.join(' ')} (apt-get); their services are not started`)
    const install = ['install', '-y', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120', ...missing]
    const code = await withoutServiceStarts(world, async () => {
      if (hasPackageLists(root) && (await apt(...install)) === 0) return 0
      // Without lists, or with lists so old that what they name is gone.
      await apt('update')
      return apt(...install)
    })
    if (missing.includes('nginx')) await disableUnit(env, world)
    if (code === 0 && missingTools(forTests, world).length === 0) return
    throw new SetupError(
      `apt-get could not install them (exit code ${code}); its own words are above. By hand:\n  ${byHand}`,
    )
  })
}

/**
 * Debian enables the services that it installs, so at the next boot its nginx would take port 80 from the one that a node runs.
 * @param {NodeJS.ProcessEnv} env @param {World} world
 */
async function disableUnit(env, world) {
  if (!isThere({ command: 'nginx' }, world) || !isThere({ command: 'systemctl' }, world)) return
  const code = await run('systemctl', ['disable', 'nginx'], env, world)
  world.log(
    code === 0
      ? 'the nginx.service that came with nginx does not start at boot: mesh-node starts its own nginx (undo: systemctl enable nginx)'
      : `systemctl disable nginx failed (exit code ${code}): at the next boot this nginx may take port 80`,
  )
}

/** @param {string} root */
function hasPackageLists(root) {
  const lists = join(root, 'var/lib/apt/lists')
  return fs.existsSync(lists) && fs.readdirSync(lists).some((name) => /_Packages|_InRelease/.test(name))
}

/**
 * Keeps Debian from starting the services that it installs, unless the host has a policy of its own on that.
 * @param {World} world @param {() => Promise<number>} action
 */
async function withoutServiceStarts({ root }, action) {
  const file = policyFile(root)
  const ours = `#!/bin/sh\n# NxMesh set-up ${ownIdentity()}\nexit 101\n`
  if (fs.existsSync(file)) return action()
  fs.writeFileSync(file, ours, { flag: 'wx', mode: 0o755 })
  try {
    return await action()
  } finally {
    fs.rmSync(file, { force: true })
  }
}

/** A set-up that was killed outright leaves its policy behind, which would keep services from starting for ever. */
function removePolicyOfDeadSetup(/** @type {World} */ { root, uid }) {
  if (uid !== 0) return
  const holder = /^# NxMesh set-up (.+)$/m.exec(readIfThere(policyFile(root)) ?? '')?.[1]
  if (holder !== undefined && !isRunning(holder)) fs.rmSync(policyFile(root), { force: true })
}

/** @param {string} root */
function policyFile(root) {
  return join(root, 'usr/sbin/policy-rc.d')
}

// ---------------------------------------------------------------------------------------------- processes

/**
 * Runs a command with all of its output on stderr and gives its exit code.
 * @param {string} command @param {readonly string[]} args @param {NodeJS.ProcessEnv} env @param {World} world
 * @returns {Promise<number>}
 */
async function run(command, args, env, { project, signal }) {
  const { spawn } = await import('node:child_process')
  signal.throwIfAborted()
  const child = spawn(command, args, { cwd: project, env, stdio: ['ignore', 2, 2] })
  const stop = () => child.kill(signal.reason)
  signal.addEventListener('abort', stop)
  try {
    return await new Promise((resolve, reject) => {
      child.once('error', (cause) => reject(new SetupError(`cannot run ${command}: ${cause.message}`, { cause })))
      child.once('exit', (code) => (signal.aborted ? reject(signal.reason) : resolve(code ?? 1)))
    })
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

/**
 * Runs the action while no other set-up of this checkout does. The lock is a symbolic link to its holder's identity:
 * made at once with its content, or not at all.
 * @param {World} world @param {() => Promise<void>} action
 */
async function withLock({ project, log, signal }, action) {
  const lock = join(project, LOCK)
  for (let waiting = false; !tryLock(lock); waiting = true) {
    const holder = holderOf(lock)
    if (holder !== undefined && !isRunning(holder)) removeStale(lock, holder)
    else {
      if (!waiting) log(`waiting for another set-up to end (process ${holder?.split(' ')[0]})`)
      await sleep(LOCK_POLL_MS, undefined, { signal })
    }
  }
  try {
    await action()
  } finally {
    fs.rmSync(lock, { force: true })
  }
}

/** @param {string} lock */
function tryLock(lock) {
  try {
    fs.symlinkSync(ownIdentity(), lock)
    return true
  } catch (error) {
    const code = codeOf(error)
    if (code === 'EEXIST') return false
    throw new SetupError(`cannot write to ${dirname(lock)} (${String(code)}): run this as the owner of that folder`, {
      cause: error,
    })
  }
}

/** @param {string} lock */
function holderOf(lock) {
  try {
    return fs.readlinkSync(lock)
  } catch {
    return undefined
  }
}

/** Renamed first, so that of two cleaners none removes the lock that the other has taken since. */
function removeStale(/** @type {string} */ lock, /** @type {string} */ holder) {
  const aside = `${lock}.${process.pid}`
  try {
    fs.renameSync(lock, aside)
  } catch {
    return
  }
  if (holderOf(aside) === holder) fs.rmSync(aside)
  else fs.renameSync(aside, lock)
}

/** A process as `pid start`, which no later process shares though it may get the same pid. */
function ownIdentity() {
  return `${process.pid} ${startOf(process.pid)}`
}

/** @param {string} identity */
function isRunning(identity) {
  const [pid, start] = identity.split(' ')
  return startOf(Number(pid)) === start
}

/** When a process started, in the kernel's ticks; `?` where the system does not tell; undefined when it has ended. */
function startOf(/** @type {number} */ pid) {
  if (process.platform === 'linux') {
    const stat = readIfThere(`/proc/${pid}/stat`)
    // The command name, in brackets, may hold anything; the fields after it are plain.
    const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields === undefined || fields[0] === 'Z' ? undefined : fields[19]
  }
  try {
    process.kill(pid, 0)
    return '?'
  } catch (error) {
    return codeOf(error) === 'EPERM' ? '?' : undefined
  }
}

/** @param {string} file */
function readIfThere(file) {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ESRCH') return undefined
    throw error
  }
}

/** @param {unknown} error */
function codeOf(error) {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

// ---------------------------------------------------------------------------------------------- entry

async function main() {
  const interruption = new AbortController()
  const names = /** @type {(keyof typeof SIGNALS)[]} */ (Object.keys(SIGNALS))
  for (const name of names) process.once(name, () => interruption.abort(name))
  const log = (/** @type {string} */ line) => void process.stderr.write(`setup: ${line}\n`)
  try {
    await setUp(process.argv.slice(2), {
      project: dirname(dirname(fileURLToPath(import.meta.url))),
      root: '/',
      uid: process.getuid?.() ?? -1,
      env: process.env,
      log,
      signal: interruption.signal,
    })
  } catch (error) {
    if (interruption.signal.aborted) {
      log(`interrupted by ${interruption.signal.reason}`)
      process.exitCode = 128 + SIGNALS[/** @type {keyof typeof SIGNALS} */ (interruption.signal.reason)]
    } else {
      log(error instanceof SetupError ? error.message : String(error instanceof Error ? error.stack : error))
      process.exitCode = 1
    }
  }
}

if (process.argv[1] !== undefined && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main()
