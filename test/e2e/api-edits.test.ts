/**
 * Plain edits on real daemons: a caller with a token and curl's means changes what nginx serves, the other node's history
 * names the caller, and the node lends nobody more than they have. The tests tell one story, in order.
 */

import { appendFile, chmod, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import type { Problem, WrittenView } from '../../src/api/schemas.ts'
import type { Member } from '../support/fleet.ts'
import { http, type HttpAnswer } from '../support/http.ts'
import { answers, converged, eventually, grantEditor, health, siteYaml, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'gate', zones: ['eu'], nginx: true },
    { name: 'inner', zones: ['eu'] },
  ],
  config: { sync_interval_seconds: 0.5 },
  started: false,
})

const member = (name: string): Member => fleet().member(name)
const file = (name: string): string => join(fleet().directory, name)
const path = '/v1/resources/default/eu/site/web'
const created = { 'if-none-match': '*' }

let anaKey: string
let editKey: string
const tokens = new Map<string, string>()

/** A request as curl makes one, with a token that meshctl printed. */
async function curl(key: string, method: string, headers: Record<string, string> = {}, body = ''): Promise<HttpAnswer> {
  const token =
    tokens.get(key) ??
    (
      await tell(fleet(), member('gate'), ['token', '--ttl', '1h', '--edit', member('gate').key.publicKey], { key })
    ).trim()
  tokens.set(key, token)
  const type = body === '' ? {} : { 'content-type': 'application/json' }
  return await http(member('gate').api, path, {
    method,
    headers: { authorization: `Bearer ${token}`, ...type, ...headers },
    body,
  })
}

const site = (body: string): string => siteYaml({ name: 'web', zone: 'eu', body })

beforeAll(async () => {
  editKey = (await tell(fleet(), member('gate'), ['key', 'new', '-k', 'edit.key'])).trim()
  await appendFile(member('gate').configFile, `http_edit_key: ${file('edit.key')}\n`)
})

test('a node does not start with an edit key that it cannot use, and says why', async () => {
  const start = async (): Promise<string> => {
    member('gate').spawn()
    expect(await member('gate').exited()).toBe(3)
    return member('gate').stderr
  }
  await chmod(file('edit.key'), 0o644)
  expect(await start()).toMatch(/edit\.key may be read by others.*http_edit_key.*\n.*chmod 600/)
  await chmod(file('edit.key'), 0o600)
  const { keyFile } = member('gate')
  member('gate').keyFile = file('edit.key')
  expect(await start()).toMatch(/holds the key of the node itself/)
  member('gate').keyFile = keyFile
  await fleet().start()
  await eventually(() => health(member('gate'))).toMatch(/^Degraded \(http_edit_key has no grant to edit for callers/)
})

test('once it is granted, what a caller puts is served, and every node knows for whom', async () => {
  anaKey = await grantEditor(fleet(), member('gate'), 'ana', 'eu')
  await tell(fleet(), member('gate'), [
    'grant',
    'editor',
    editKey,
    '--zone',
    'eu',
    '--kinds',
    '*,caller',
    '--name',
    'edit-gate',
  ])
  await converged([member('gate'), member('inner')])
  const answer = await curl(anaKey, 'PUT', created, site('by REST'))
  expect(answer.status, answer.text).toBe(201)
  await eventually(() => answers([member('gate')], 'web')).toEqual({ gate: 'by REST' })
  await converged([member('gate'), member('inner')])
  const log = await tell(fleet(), member('inner'), ['log', '--resource', 'default/eu/site/web'])
  expect(log).toContain('edit-gate for ana')
  const { outcome } = answer.json() as WrittenView
  expect(log).toContain(outcome?.id?.slice(0, 12))
})

test('a lost update is refused, and a restart changes nothing of that', async () => {
  const seen = String((await curl(anaKey, 'GET')).headers['etag'])
  expect((await curl('owner.key', 'PUT', { 'if-match': seen }, site('owner was faster'))).status).toBe(200)
  await member('gate').stop('SIGKILL')
  await member('gate').start()
  const lost = await curl(anaKey, 'PUT', { 'if-match': seen }, site('ana was slower'))
  expect((lost.json() as Problem).code).toBe('precondition_failed')
  expect((await curl(anaKey, 'PUT', {}, site('ana was careless'))).status).toBe(428)
  const now = String((await curl(anaKey, 'GET')).headers['etag'])
  expect((await curl(anaKey, 'PUT', { 'if-match': now }, site('ana has looked'))).status).toBe(200)
  await eventually(() => answers([member('gate')], 'web')).toEqual({ gate: 'ana has looked' })
  await eventually(() => member('inner').get(`/v1/chains/default/${editKey}`)).toMatchObject({ highestN: 3, forks: 0 })
})

test('a caller gets no further than their own grants, and nowhere once revoked', async () => {
  const bobKey = await grantEditor(fleet(), member('gate'), 'bob', 'us')
  await tell(fleet(), member('gate'), ['key', 'new', '-k', 'viewer.key'])
  const viewer = (await tell(fleet(), member('gate'), ['key', 'show', '-k', 'viewer.key'])).trim()
  await tell(fleet(), member('gate'), ['grant', 'viewer', viewer, '--zone', 'eu'])
  for (const [key, reason] of [
    [bobKey, /covers zones us, not eu/],
    ['viewer.key', /a viewer may not edit/],
  ] as const) {
    const answer = await curl(key, 'PUT', { 'if-match': '*' }, site('mine'))
    expect(answer.status, answer.text).toBe(403)
    expect((answer.json() as Problem).detail).toMatch(reason)
  }
  const ana = (await tell(fleet(), member('gate'), ['key', 'show', '-k', anaKey])).trim()
  await tell(fleet(), member('gate'), ['revoke', ana])
  for (const method of ['PUT', 'DELETE'])
    expect((await curl(anaKey, method, { 'if-match': '*' }, method === 'PUT' ? site('late') : '')).status).toBe(403)
  expect(await answers([member('gate')], 'web')).toEqual({ gate: 'ana has looked' })
})

test('without its grant the node signs nothing more, and its health says so', async () => {
  await tell(fleet(), member('gate'), ['revoke', editKey, '--note', 'host broken into'])
  await eventually(() => health(member('gate'))).toMatch(/^Degraded \(the key of http_edit_key was revoked/)
  expect((await curl('owner.key', 'PUT', { 'if-match': '*' }, site('late'))).status).toBe(403)
  await member('gate').stop()
  await rm(file('edit.key'))
  await writeFile(file('edit.key'), 'x', { mode: 0o600 })
  member('gate').spawn()
  expect(await member('gate').exited()).toBe(3)
})
