/**
 * What a reference to a Secret comes to on a node: the text, or a problem that says the way out; and that what did not
 * change is not opened again.
 */

import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { sha256 } from '../../src/core/canonical.ts'
import { parseResourcePath, type ResourceName } from '../../src/core/names.ts'
import { encryptionKey, seal } from '../../src/core/secrets.ts'
import { secretText } from '../../src/nginx/rendering/secret-text.ts'
import { OpenedSecrets } from '../../src/opened-secrets.ts'
import { sliceOf, stateOf } from '../support/resources.ts'

const keyOf = (name: string) => encryptionKey(Buffer.from(sha256(name), 'hex'))
const [own, other] = [keyOf('own'), keyOf('other')]

function secret(path: string, text: string | Buffer, recipient = own) {
  const sealing = { path, recipients: [recipient.publicKey], random: (bytes: number) => randomBytes(bytes) }
  return stateOf(path, seal(Buffer.from(text), sealing))
}

const site = (path: string) => ({ path, name: parseResourcePath(path) as ResourceName })

test('the nearest secret counts, from the zone outward, and one of another workspace never', () => {
  const states = [
    secret('default/*/secret/a', 'all'),
    secret('default/eu/secret/a', 'eu'),
    secret('default/us/secret/a', 'us'),
    secret('shop/*/secret/a', 'shop'),
  ]
  const slice = sliceOf(states)
  const known = new Set(slice.resources.map(({ path }) => path))
  const secrets = new OpenedSecrets(own).of(slice)
  const text = (path: string) => secretText(site(path), 'a', known, secrets)
  expect(text('default/eu/site/s')).toBe('eu')
  expect(text('default/eu.west/site/s')).toBe('eu')
  expect(text('default/ap/site/s')).toBe('all')
  expect(text('shop/eu/site/s')).toBe('shop')
})

test('one that is missing, sealed for others, or no text is a problem that names the way out', () => {
  const states = [
    secret('default/*/secret/theirs', 'x', other),
    secret('default/eu/secret/binary', Buffer.from([0xff, 0xfe])),
  ]
  const slice = sliceOf(states)
  const known = new Set(slice.resources.map(({ path }) => path))
  const secrets = new OpenedSecrets(own).of(slice)
  expect(secrets).toEqual(new Map())
  expect(secretText(site('default/eu/site/s'), 'none', known, secrets)).toEqual({
    path: 'default/eu/site/s',
    code: 'reference',
    message: 'there is no secret none',
    hint: 'seal one in workspace default and zone eu or *: meshctl secret set none -z eu',
  })
  expect(secretText(site('default/eu/site/s'), 'theirs', known, secrets)).toEqual({
    path: 'default/eu/site/s',
    code: 'reference',
    message: 'this node cannot open the secret theirs of zone *, or it holds no text',
    hint: 'whoever can open it runs: meshctl secret reseal theirs',
  })
  expect(secretText(site('default/eu/site/s'), 'binary', known, secrets)).toMatchObject({ code: 'reference' })
})

test('a new version is opened, and one that stays is not opened again', () => {
  const opened = new OpenedSecrets(own)
  const states = Array.from({ length: 200 }, (_, index) => secret(`default/*/secret/s${index}`, `text ${index}`))
  const first = opened.of(sliceOf(states))
  expect(first.size).toBe(200)
  const changed = [...states.slice(1), secret('default/*/secret/s0', 'another')]
  const second = opened.of(sliceOf(changed))
  expect(second.get('default/*/secret/s0')).toBe('another')
  const slice = sliceOf(changed)
  // Told apart by its hash alone, so that what lies in it is not looked at.
  const blank = { ...slice, resources: slice.resources.map((one) => ({ ...one, spec: { sealed: [], keys: {} } })) }
  expect(opened.of(blank)).toEqual(second)
  expect(new OpenedSecrets(own).of(blank)).toEqual(new Map())
})
