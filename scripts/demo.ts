/**
 * `npm run demo`: five nodes in two zones, each with a real nginx, on loopback. Tells what the mesh is for by doing it: edits,
 * zones, a killed node, a partition, a bad edit. Each result line is a check of what nginx and the API answer; the first that
 * does not hold ends the demo with exit code 1. Leaves nothing behind, on Ctrl-C either.
 */

import { chmod, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { styleText } from 'node:util'
import { stringify } from 'yaml'
import type { z } from 'zod'
import * as schemas from '../src/api/schemas.ts'
import { ERROR_CODES } from '../src/errors.ts'
import { meshctl, type CliResult } from '../test/support/cli.ts'
import { Fleet, type Member } from '../test/support/fleet.ts'
import { askSite } from './ask-site.ts'
import { CheckFailed, Checks } from './checks.ts'
import { abortWhenInterrupted } from './interruption.ts'

/** Far beyond what the demo takes; what hangs for this long is broken. */
const DEMO_TIMEOUT_MS = 10 * 60_000
/** How long the daemons may take to stop before they are killed. */
const STOP_TIMEOUT_MS = 30_000

const EU = ['eu-1', 'eu-2', 'eu-3']
const US = ['us-1', 'us-2']
const ALL = [...EU, ...US]

const isColoured = process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === ''
const style = (format: 'bold' | 'dim' | 'green' | 'red') => (text: string) =>
  isColoured ? styleText(format, text) : text
const [bold, dim, green, red] = [style('bold'), style('dim'), style('green'), style('red')]

const stopping = abortWhenInterrupted()
const { signal } = stopping
const checks = new Checks({ write: (text) => process.stdout.write(text), colours: { good: green, bad: red }, signal })

// ---------------------------------------------------------------------------------------------- telling

let stepCount = 0

function step(title: string, ...sentences: readonly string[]): void {
  stepCount += 1
  process.stdout.write(
    `\n${bold(`${stepCount}. ${title}`)}\n${sentences.map((sentence) => `  ${sentence}\n`).join('')}`,
  )
}

function say(text: string): void {
  process.stdout.write(`  ${text}\n`)
}

/** A value for each of the named members. */
const each = <T>(names: readonly string[], value: T): Record<string, T> =>
  Object.fromEntries(names.map((name) => [name, value]))

interface SiteParts {
  readonly name: string
  readonly zone?: string
  readonly body: string
  /** Value of the response header X-Theme. */
  readonly theme?: string
  readonly snippet?: string
}

const hostOf = (site: string) => `${site}.example.com`

function siteYaml({ name, zone = '*', body, theme, snippet }: SiteParts): string {
  return stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Site',
    metadata: { name, zone },
    spec: {
      hosts: [hostOf(name)],
      routes: { root: { path: '/', return: { status: 200, body } } },
      ...(theme === undefined ? {} : { responseHeaders: { set: { 'X-Theme': theme } } }),
      ...(snippet === undefined ? {} : { privileged: { serverSnippet: snippet } }),
    },
  })
}

// ---------------------------------------------------------------------------------------------- the stage

class Stage {
  readonly fleet: Fleet

  constructor(fleet: Fleet) {
    this.fleet = fleet
  }

  /** Runs meshctl against one node and shows what a person would type and read there. */
  async meshctl(at: string, argv: readonly string[], options: { key?: string } = {}): Promise<CliResult> {
    const { key = 'owner.key' } = options
    const who = key === 'owner.key' ? '' : `${basename(key, '.key')}@`
    say(`${dim(`${who}${at}$`)} meshctl ${argv.map(shellWord).join(' ')}`)
    const result = await meshctl(argv, {
      cwd: this.fleet.directory,
      env: { NXMESH_API: this.fleet.member(at).api, NXMESH_KEY: key },
      signal,
    })
    signal.throwIfAborted()
    for (const line of `${result.out}${result.err}`.trimEnd().split('\n')) say(`  ${dim('│')} ${line}`)
    return result
  }

  /** Writes the site's YAML and applies it at one node. */
  async apply(at: string, site: SiteParts, options: { key?: string; wait?: boolean } = {}): Promise<number> {
    const file = `${site.name}.yaml`
    await writeFile(join(this.fleet.directory, file), siteYaml(site))
    const wait = options.wait === true ? ['--wait', '--timeout', '3m'] : []
    const { code } = await this.meshctl(at, ['apply', '-f', file, ...wait], options)
    return code
  }

  /** What the nginx of each named node answers for a site: status, body and theme. */
  async answers(names: readonly string[], site: string): Promise<Record<string, string>> {
    return await this.#ofEach(names, async ({ httpPort }) => {
      const { status, text, headers } = await askSite(httpPort, hostOf(site))
      return status === 200 ? answer(text, headers['x-theme'] as string | undefined) : String(status)
    })
  }

  /** One member of the parsed answer of each named node's API. */
  async asked<T, V>(
    names: readonly string[],
    path: string,
    schema: z.ZodType<T>,
    value: (body: T) => V,
  ): Promise<Record<string, V>> {
    return await this.#ofEach(names, async (member) => value(schema.parse(await member.get(path))))
  }

  /** How many different states of the desired configuration the named nodes hold. */
  async stateCount(names: readonly string[]): Promise<number> {
    return new Set(Object.values(await this.asked(names, '/v1/node', schemas.NODE, ({ stateHash }) => stateHash))).size
  }

  health(names: readonly string[]): Promise<Record<string, string>> {
    return this.asked(
      names,
      '/health',
      schemas.HEALTH_ANSWER,
      ({ status, converged }) => `${status}${converged ? '' : ', not converged'}`,
    )
  }

  async nginxMaster(name: string): Promise<number> {
    return Number(await readFile(join(this.fleet.member(name).dataDirectory, 'nginx', 'nginx.pid'), 'utf8'))
  }

  async #ofEach<V>(names: readonly string[], look: (member: Member) => Promise<V>): Promise<Record<string, V>> {
    const found = await Promise.all(names.map((name) => look(this.fleet.member(name))))
    return Object.fromEntries(names.map((name, index) => [name, found[index] as V]))
  }
}

/** How an answer of nginx with status 200 is written down. */
function answer(body: string, theme?: string): string {
  return theme === undefined ? body : `${body} [${theme}]`
}

function shellWord(word: string): string {
  return /^[\w./=:-]+$/.test(word) ? word : `'${word}'`
}

// ---------------------------------------------------------------------------------------------- the acts

async function start(stage: Stage): Promise<void> {
  step('Five nodes in two zones, and no master')
  for (const { name, api, httpPort } of stage.fleet.members)
    say(`${name}  zone ${name.slice(0, 2)}  API ${api}  nginx http://127.0.0.1:${httpPort}`)
  say(`Below, ${dim('eu-1$')} is a shell with NXMESH_API set to the API of eu-1, and NXMESH_KEY to the owner’s key.`)
  await Promise.race([stage.fleet.start(), aborted()])
  await checks.equals('all five run and are healthy', () => stage.health(ALL), each(ALL, 'Running'))
  const readyPeers = () =>
    stage.asked(ALL, '/v1/peers', schemas.PEERS, ({ data }) => data.filter(({ state }) => state === 'Ready').length)
  await checks.equals('each knows all five as Ready', readyPeers, each(ALL, 5))
}

async function editOnce(stage: Stage): Promise<void> {
  step('An edit at one node is seen at all')
  const code = await stage.apply('eu-1', { name: 'shop', body: 'Welcome' }, { wait: true })
  await checks.equals('meshctl says that every node has applied it', () => code, 0)
  await checks.equals(
    'all five nginx serve shop.example.com',
    () => stage.answers(ALL, 'shop'),
    each(ALL, answer('Welcome')),
  )
}

async function stayInZone(stage: Stage): Promise<void> {
  step('An edit of a zone stays in its zone', 'Any node takes it: this one is for us, and handed to a node in eu.')
  const code = await stage.apply('eu-2', { name: 'promo', zone: 'us', body: 'Only in the US' }, { wait: true })
  await checks.equals('meshctl says that every node of zone us has applied it', () => code, 0)
  await checks.equals('both nginx in us serve it', () => stage.answers(US, 'promo'), each(US, answer('Only in the US')))
  const holds = () => stage.asked(ALL, '/v1/resources/default/us/site/promo', schemas.RESOURCE, ({ exists }) => exists)
  await checks.equals('all five nodes hold it, to pass it on', holds, each(ALL, true))
  await checks.equals('no node in eu has anything left to apply', () => stage.health(EU), each(EU, 'Running'))
  await checks.equals('no nginx in eu serves it', () => stage.answers(EU, 'promo'), each(EU, '404'))
}

async function killOne(stage: Stage): Promise<void> {
  const killed = stage.fleet.member('eu-2')
  const others = ALL.filter((name) => name !== killed.name)
  step('A node is killed, and edits go on')
  const master = await stage.nginxMaster(killed.name)
  say(`${dim('eu-2$')} kill -9 ${killed.pid}`)
  await killed.stop('SIGKILL')
  await stage.apply('us-1', { name: 'shop', body: 'Welcome back' })
  const old = answer('Welcome')
  const now = answer('Welcome back')
  await checks.equals('the other four serve the edit', () => stage.answers(others, 'shop'), each(others, now))
  const dead = ['eu-2']
  await checks.equals('the nginx of eu-2 still serves what it had', () => stage.answers(dead, 'shop'), each(dead, old))
  say(`${dim('eu-2$')} mesh-node -c config.yaml`)
  await Promise.race([killed.start(), aborted()])
  await checks.equals('eu-2 comes back and catches up', () => stage.answers(dead, 'shop'), each(dead, now))
  await checks.equals('all five are healthy', () => stage.health(ALL), each(ALL, 'Running'))
  await checks.equals('its nginx was never restarted', () => stage.nginxMaster(killed.name), master)
}

async function partition(stage: Stage): Promise<void> {
  step(
    'The zones lose each other, and both go on',
    'Two editors will work on one site: ana on the eu side, ben on the us side.',
  )
  for (const name of ['ana', 'ben']) {
    const made = await stage.meshctl('eu-1', ['key', 'new', '-k', `${name}.key`])
    await stage.meshctl('eu-1', ['grant', 'editor', made.out.trim(), '--zone', '*', '--name', name])
  }
  const editors = () =>
    stage.asked(ALL, '/v1/grants', schemas.GRANTS, ({ data }) => {
      const names = data.flatMap(({ role, name }) => (role === 'editor' && name !== null ? [name] : []))
      return names.toSorted((a, b) => a.localeCompare(b)).join(' and ')
    })
  await checks.equals('all five nodes know ana and ben as editors', editors, each(ALL, 'ana and ben'))
  say('The links between eu and us are cut.')
  stage.fleet.partition(EU, US)
  const keys = new Map(stage.fleet.members.map(({ name, key }) => [key.publicKey, name]))
  const acrossFrom = (names: readonly string[]) =>
    stage.asked(names, '/v1/peers', schemas.PEERS, ({ data }) => {
      const connected = data.filter((peer) => peer.connected).map(({ key }) => keys.get(key) ?? '')
      return connected.filter((name) => !names.includes(name)).length
    })
  await checks.equals('no node of eu is connected with us', () => acrossFrom(EU), each(EU, 0))
  await stage.apply('eu-1', { name: 'shop', body: 'Welcome back', theme: 'winter' }, { key: 'ana.key' })
  await stage.apply('us-1', { name: 'shop', body: 'Winter sale' }, { key: 'ben.key' })
  const [ana, ben] = [answer('Welcome back', 'winter'), answer('Winter sale')]
  await checks.equals('eu serves the theme of ana', () => stage.answers(EU, 'shop'), each(EU, ana))
  await checks.equals('us serves the text of ben', () => stage.answers(US, 'shop'), each(US, ben))

  step('The links heal, and the edits merge field by field')
  stage.fleet.heal()
  const both = answer('Winter sale', 'winter')
  await checks.equals(
    'all five serve the text of ben with the theme of ana',
    () => stage.answers(ALL, 'shop'),
    each(ALL, both),
  )
  await checks.equals('all five hold the same state', () => stage.stateCount(ALL), 1)
  await checks.equals('all five are healthy', () => stage.health(ALL), each(ALL, 'Running'))
}

async function breakOne(stage: Stage): Promise<void> {
  step(
    'nginx refuses an edit, and nobody notices',
    'The schema cannot know what is wrong with a snippet of nginx text; the nginx of each node can, and is asked first.',
  )
  const shop = { name: 'shop', theme: 'winter' }
  const before = answer('Winter sale', 'winter')
  const code = await stage.apply('eu-3', { ...shop, body: 'Oops', snippet: 'gzip_static_files on;\n' }, { wait: true })
  await checks.equals('meshctl says that it is not applied', () => code, ERROR_CODES.not_applied.exit)
  const words = 'unknown directive "gzip_static_files"'
  const refusals = () =>
    stage.asked(ALL, '/v1/receipts', schemas.RECEIPTS, ({ data }) => {
      const refused = data.filter(({ receipt }) => receipt?.isolated.some(({ reason }) => reason.includes(words)))
      return refused.length
    })
  await checks.equals(`any node tells for all five, in nginx’s words: ${words}`, refusals, each(ALL, 5))
  await checks.equals('all five keep serving the last good site', () => stage.answers(ALL, 'shop'), each(ALL, before))
  await stage.apply('us-2', { name: 'blog', body: 'First post' })
  await checks.equals(
    'another site goes out as if nothing had happened',
    () => stage.answers(ALL, 'blog'),
    each(ALL, answer('First post')),
  )
  await checks.equals('all five still serve the last good shop', () => stage.answers(ALL, 'shop'), each(ALL, before))
  const fixed = await stage.apply('us-1', { ...shop, body: 'Spring sale' }, { wait: true })
  await checks.equals('the corrected edit is applied by every node', () => fixed, 0)
  const after = answer('Spring sale', 'winter')
  await checks.equals('all five serve it', () => stage.answers(ALL, 'shop'), each(ALL, after))
  await checks.equals('all five are healthy', () => stage.health(ALL), each(ALL, 'Running'))
  await checks.equals('all five hold the same state', () => stage.stateCount(ALL), 1)
  await stage.meshctl('us-2', ['status'])
}

// ---------------------------------------------------------------------------------------------- the evening

/** Never resolves; rejects when the demo is to end. */
async function aborted(): Promise<never> {
  return await new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason as Error)
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })
}

async function play(fleet: Fleet): Promise<void> {
  const stage = new Stage(fleet)
  for (const act of [start, editOnce, stayInZone, killOne, partition, breakOne]) {
    await act(stage)
  }
}

/** Ends the daemons and their nginx; a daemon that does not stop is killed. */
async function clear(fleet: Fleet): Promise<void> {
  const impatience = setTimeout(() => {
    for (const member of fleet.members) void member.stop('SIGKILL')
  }, STOP_TIMEOUT_MS)
  await fleet.stop()
  clearTimeout(impatience)
}

async function main(): Promise<number> {
  const startedAt = performance.now()
  process.stdout.write(`${bold('NxMesh')}: an nginx fleet without a master, on this machine and for a minute.\n`)
  const fleet = await Fleet.create({
    members: ALL.map((name) => ({ name, zones: [name.slice(0, 2)] })),
    nginx: true,
    links: true,
  })
  try {
    // nginx's workers may be another user, and have to get at their files.
    await chmod(fleet.directory, 0o711)
    await play(fleet)
    const seconds = Math.round((performance.now() - startedAt) / 1000)
    process.stdout.write(
      `\n${green(`${checks.passed} checks passed`)} in ${seconds} s. Next: npm start, and README.md.\n`,
    )
    return 0
  } catch (error) {
    if (signal.aborted) throw signal.reason
    const logs = fleet.members.map(({ name, stderr }) => `--- the last words of ${name}\n${stderr.slice(-2000)}`)
    process.stderr.write(`${logs.join('\n')}\n`)
    throw error
  } finally {
    process.stdout.write(dim('Stopping the five nodes and their nginx.\n'))
    await clear(fleet)
  }
}

const expiry = setTimeout(() => {
  stopping.abort(new Error(`the demo did not finish within ${DEMO_TIMEOUT_MS / 60_000} minutes`))
}, DEMO_TIMEOUT_MS)

try {
  process.exitCode = await main()
} catch (error) {
  process.exitCode ??= 1
  const { message, stack } = error as Error
  const isCheck = error instanceof CheckFailed
  process.stderr.write(
    `\n${red(isCheck ? 'this check failed' : 'the demo ended')}: ${isCheck || signal.aborted ? message : stack}\n`,
  )
}
clearTimeout(expiry)
process.exit()
