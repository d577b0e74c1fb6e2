/**
 * What people and strangers get wrong, against real processes: configurations, taken ports, a data_dir in use, and bodies
 * that nobody should send. Each gets a clear error, the daemon goes on, and nothing is lost.
 */

import { execFile } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { createServer, type Server } from 'node:net'
import { expect, test } from 'vitest'
import type { NodeView, Problem } from '../../src/api/schemas.ts'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, LIMITS, signEnvelope, type EditBody, type Envelope } from '../../src/core/envelope.ts'
import { Author } from '../support/author.ts'
import { diceFrom } from '../support/histories.ts'
import { REPOSITORY, type Member } from '../support/fleet.ts'
import { http, rawHttp, type HttpAnswer } from '../support/http.ts'
import {
  answers,
  applySite,
  ask,
  converged,
  eventually,
  health,
  siteYaml,
  tell,
  useFleet,
} from '../support/use-fleet.ts'

const fleet = useFleet({ members: [{ name: 'solo' }], nginx: true })
const solo = (): Member => fleet().member('solo')

/** Another daemon of this fleet, with this laid over its configuration, until it has ended by itself. */
async function ends(name: string, config: Readonly<Record<string, unknown>>) {
  const member = await fleet().add({ name, config })
  member.spawn()
  const code = await member.exited()
  return { code, said: member.stderr }
}

/** mesh-node as a person starts it, until it ends. */
async function meshNode(...argv: readonly string[]): Promise<{ code: number; said: string }> {
  return await new Promise((resolve) => {
    execFile(process.execPath, ['src/mesh-node.ts', ...argv], { cwd: REPOSITORY }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, said: `${stdout}${stderr}` })
    })
  })
}

/** Holds a port until it is closed. */
async function occupy(port: number): Promise<Server> {
  const server = createServer().listen(port, '127.0.0.1')
  await new Promise<void>((resolve, reject) => server.once('listening', resolve).once('error', reject))
  return server
}

async function close(server: Server): Promise<void> {
  await new Promise<void>((resolve) => server.close(() => resolve()))
}

// ---------------------------------------------------------------------------------------------- starting

test.each([
  ['an unknown key', { bind_prot: 9102 }, /bind_prot/, /bind_port/],
  [
    'an unknown key of a section',
    { nginx: { mode: 'off', binray: 'nginx' } },
    /nginx\.binray/,
    /Did you mean (nginx\.)?binary/,
  ],
  ['a wrong type', { bind_port: 'ninety' }, /bind_port/, /integer/],
  ['a word that is none of those there are', { nginx: { mode: 'onw' } }, /nginx\.mode/, /own.*attach.*off/],
])('a configuration with %s is refused by name', async (what, config, key, wayOut) => {
  const { code, said } = await ends(`config-${what.replaceAll(' ', '-')}`, config)
  expect(code).toBe(3)
  expect(said).toMatch(/^mesh-node: /)
  expect(said).toMatch(key)
  expect(said).toMatch(wayOut)
  expect(said, 'a person is not shown a stack trace').not.toMatch(/\n\s+at /)
})

test('mesh-node check tells all that is wrong, and starts nothing', async () => {
  const wrong = await fleet().add({ name: 'checked', config: { bind_prot: 1, http_bind_port: 'x', log_level: 'LOUD' } })
  const { code, said } = await meshNode('check', '-c', wrong.configFile, '-k', wrong.keyFile)
  expect(code).toBe(3)
  for (const key of ['bind_prot', 'http_bind_port', 'log_level']) expect(said).toContain(key)
  expect(await meshNode('check', '-c', `${wrong.configFile}.none`)).toMatchObject({ code: 3 })
  expect(await meshNode('-c', solo().configFile, '--bind_prot=1')).toMatchObject({ code: 3 })
  const fine = await meshNode('check', '-c', solo().configFile, '-k', solo().keyFile)
  expect(fine).toEqual({
    code: 0,
    said: `${solo().configFile} is valid; this node’s public key is ${solo().key.publicKey}\n`,
  })
})

test.each([
  ['bind_port', (member: Member) => member.meshPort],
  ['http_bind_port', (member: Member) => member.apiPort],
])('a taken %s ends the start with words and a way out', async (setting, portOf) => {
  const member = await fleet().add({ name: `taken-${setting.replaceAll('_', '-')}` })
  const server = await occupy(portOf(member))
  try {
    member.spawn()
    expect(await member.exited()).toBe(10)
    expect(member.stderr).toContain(`127.0.0.1:${portOf(member)}`)
    expect(member.stderr).toContain(`(${setting})`)
    expect(member.stderr).toMatch(/ss -ltnp/)
  } finally {
    await close(server)
  }
  // It was nothing but the port.
  await member.start()
  await member.stop()
})

test('a second daemon on one data_dir is told who has it; the first goes on', async () => {
  await converged([solo()])
  const { code, said } = await ends('second', { data_dir: solo().dataDirectory })
  expect(code).toBe(9)
  expect(said).toContain(`is open in process ${solo().pid}`)
  expect(said).toMatch(/data_dir/)
  await applySite(fleet(), solo(), { name: 'after-second' })
  await eventually(() => answers([solo()], 'after-second')).toEqual({ solo: 'after-second' })
})

test('a site on a taken port is not applied, says who has the port, and is served once it is free', async () => {
  const member = solo()
  const other = await fleet().add({ name: 'port-only' })
  const server = await occupy(other.httpPort)
  const site = { name: 'late', spec: { listeners: { http: { port: other.httpPort, address: '127.0.0.1' } } } }
  try {
    const argv = ['apply', '-f', '-', '--wait', '--timeout', '60s']
    const { code, err } = await ask(fleet(), member, argv, { stdin: siteYaml(site) })
    expect(code, err).toBe(8)
    expect(err).toContain(String(other.httpPort))
    expect(err).toContain(`process ${process.pid}`)
    // The others are not its hostages.
    await applySite(fleet(), member, { name: 'beside' })
    await eventually(() => answers([member], 'beside')).toEqual({ solo: 'beside' })
    expect(await health(member)).toMatch(/^Degraded /)
  } finally {
    await close(server)
  }
  const visit = (): Promise<HttpAnswer> =>
    http(`http://127.0.0.1:${other.httpPort}`, '/', { headers: { host: 'late.test' } })
  await eventually(async () => (await visit()).text).toBe('late')
  await converged([member])
})

// ---------------------------------------------------------------------------------------------- bodies over HTTP

/** Where the node stands: nothing that is refused may change it. */
const standing = async (): Promise<Pick<NodeView, 'envelopes' | 'stateHash' | 'waiting'>> => {
  const { envelopes, stateHash, waiting } = await solo().get<NodeView>('/v1/node')
  return { envelopes, stateHash, waiting }
}

const post = (body: string): Promise<HttpAnswer> =>
  http(solo().socket, '/v1/edits', { method: 'POST', headers: { 'content-type': 'application/json' }, body })

function expectProblem(answer: HttpAnswer, status: number | readonly number[], what: string): void {
  expect([status].flat(), `${what}: ${answer.text.slice(0, 300)}`).toContain(answer.status)
  expect(answer.headers['content-type'], what).toBe('application/problem+json')
  expect(answer.json(), what).toMatchObject({
    status: answer.status,
    code: expect.any(String),
    detail: expect.any(String),
  })
}

const submission = (...envelopes: readonly Envelope[]): string => JSON.stringify({ envelopes: envelopes.map(toWire) })

/** Somebody who may edit, and has not yet. */
async function editor(name: string): Promise<Author> {
  const key = keyPairFromSeed(randomBytes(32))
  const grant = await tell(fleet(), solo(), ['grant', 'editor', key.publicKey, '--zone', '*', '--name', name])
  return new Author(fleet().meshId, key, grant.trim())
}

test('envelopes that are cut short or changed in one place are refused, one by one', async () => {
  const { bytes, sigs } = (await editor('mutant')).site('mutant')
  const before = await standing()
  const seed = randomInt(2 ** 31)
  const dice = diceFrom(seed)
  const at = (length: number): number => dice.below(length)
  const [[by, sig]] = Object.entries(sigs) as [[string, string]]
  const mutants: [what: string, text: string][] = []
  const push = (what: string, wire: unknown): void => void mutants.push([what, JSON.stringify({ envelopes: [wire] })])
  for (let count = 0; count < 40; count += 1) {
    const place = at(bytes.length)
    const char = String.fromCharCode(32 + at(95))
    const changed = bytes.slice(0, place) + char + bytes.slice(place + 1)
    if (changed !== bytes) push(`${char} in place of character ${place}`, { bytes: changed, sigs })
    push(`without character ${place}`, { bytes: bytes.slice(0, place) + bytes.slice(place + 1), sigs })
    push(`${char} more before character ${place}`, { bytes: bytes.slice(0, place) + char + bytes.slice(place), sigs })
    push(`only ${place} characters`, { bytes: bytes.slice(0, place), sigs })
  }
  for (const wrong of [
    {},
    { [by]: sig.slice(2) },
    { [by]: `${sig.slice(2)}00` },
    { [sig.slice(0, 64)]: sig },
    { [by]: 7 },
    [],
  ])
    push('wrong signatures', { bytes, sigs: wrong })
  for (const wrong of [null, 7, 'x', [], { bytes }, { sigs }, { bytes: 7, sigs }]) push('no envelope', wrong)
  const whole = JSON.stringify({ envelopes: [{ bytes, sigs }] })
  for (let length = 0; length < whole.length; length += 97)
    mutants.push([`the first ${length} bytes`, whole.slice(0, length)])
  for (const text of [
    '',
    'null',
    '7',
    '[]',
    '{}',
    '{"envelopes":{}}',
    '{"envelopes":[]}',
    '{"envelopes":[],"more":1}',
    '\u0000',
  ])
    mutants.push([text, text])

  for (const [what, text] of mutants) expectProblem(await post(text), [400, 403], `${what} (seed ${seed})`)
  expect(await standing()).toEqual(before)
  // None of them keeps the true one out.
  expect((await post(whole)).status).toBe(202)
  await eventually(() => answers([solo()], 'mutant')).toEqual({ solo: 'mutant' })
})

test('what is too large is refused at the byte', async () => {
  const before = await standing()
  const author = await editor('size')
  const shell = author.edit('default/*/site/large', [['set', '$', true]]).body
  const signed = (texts: readonly string[]): Envelope<EditBody> => {
    const labels = texts.map((text, index) => ['set', `labels/${index}`, text] as const)
    return signEnvelope({ ...shell, edits: [['default/*/site/large', [], [['set', '$', true], ...labels]]] }, [
      author.key,
    ])
  }
  const sized = (size: number): Envelope<EditBody> => {
    const room = size - signed(Array.from({ length: 8 }, () => '')).size
    const share = Math.floor(room / 8)
    return signed(Array.from({ length: 8 }, (_, index) => 'x'.repeat(index === 0 ? room - 7 * share : share)))
  }
  const [largest, over] = [sized(LIMITS.bodyBytes), sized(LIMITS.bodyBytes + 1)]
  expect([largest.size, over.size]).toEqual([65_536, 65_537])
  const answer = await post(submission(over))
  expectProblem(answer, 413, 'one byte too many')
  expect((answer.json() as Problem).detail).toContain('65537')
  expectProblem(await post(`{"envelopes":["${'x'.repeat(1024 * 1024)}"]}`), 413, 'a request over 1 MiB')
  expectProblem(await post(`{"envelopes":[${'0,'.repeat(256)}0]}`), 400, 'over 256 envelopes')
  expect(await standing()).toMatchObject({ ...before, envelopes: before.envelopes + 1 })

  const mixed = await post(submission(largest, over))
  expect(mixed.json()).toMatchObject({ outcomes: [{ outcome: 'stored' }, { outcome: 'refused', code: 'too_large' }] })
  expect(mixed.status).toBe(207)
  // It is an edit like any other, and no site: it bothers nobody else.
  await eventually(() => health(solo())).toMatch(/^Degraded \(not served as written: 1/)
  await tell(fleet(), solo(), ['delete', 'site', 'large'])
  await converged([solo()])
})

test('what is nested without end, or no HTTP at all, is refused', async () => {
  const before = await standing()
  const deep = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels)
  const { sigs } = (await editor('deep')).site('deep')
  for (const levels of [100, 10_000, 200_000]) {
    expectProblem(await post(deep(levels)), 400, `${levels} lists`)
    expectProblem(await post(`{"envelopes":${deep(levels)}}`), 400, `${levels} lists of envelopes`)
    expectProblem(await post('{"envelopes":'.repeat(levels).slice(0, 1_000_000)), 400, `${levels} objects`)
    const bytes = `{"a":${deep(levels)}}`.slice(0, LIMITS.bodyBytes)
    expectProblem(await post(JSON.stringify({ envelopes: [{ bytes, sigs }] })), 400, `an envelope of ${levels} lists`)
  }
  for (const text of ['GET\r\n\r\n', '\u0016\u0003\u0001\u0002\u0000\u0001', `GET / HTTP/1.1\r\n${'x'.repeat(65_536)}`])
    expect(await rawHttp(solo().apiPort, text), JSON.stringify(text.slice(0, 20))).toMatch(/^(HTTP\/1\.1 4\d\d |$)/)
  expect(await standing()).toMatchObject({ stateHash: before.stateHash })
})

test('after all that the daemon is the same process, and a new one finds everything', async () => {
  const { pid } = solo()
  const before = await standing()
  expect(solo().isRunning).toBe(true)
  await solo().stop('SIGKILL')
  await solo().start()
  expect(solo().pid).not.toBe(pid)
  expect(await standing()).toEqual(before)
  await converged([solo()])
})
