import { describe, expect, test } from 'vitest'
import { recipientsOf, sealingKeys, type RecipientGrant } from '../../src/core/recipients.ts'
import { encryptionKey } from '../../src/core/secrets.ts'

const PATH = 'shop/eu.west/secret/tls'
const ENC = encryptionKey(Buffer.alloc(32, 5)).publicKey

function isFor(grant: Partial<RecipientGrant>, path = PATH): boolean {
  const whole = {
    subject: 'a'.repeat(64),
    role: 'node',
    ws: '*',
    zones: ['*'],
    kinds: ['*'],
    enc: ENC,
    ...grant,
  } as const
  return recipientsOf(path, [whole]).length === 1
}

describe('a secret is for', () => {
  test.each<[string, Partial<RecipientGrant>, boolean]>([
    ['a node of its zone', { zones: ['eu.west'] }, true],
    ['a node below its zone', { zones: ['eu.west.paris'] }, true],
    ['a node of another zone beside it', { zones: ['cdn', 'eu.west'] }, true],
    ['no node above its zone', { zones: ['eu'] }, false],
    ['no node whose zone only begins alike', { zones: ['eu.western'] }, false],
    ['a node of its workspace', { zones: ['eu.west'], ws: 'shop' }, true],
    ['no node of another workspace', { zones: ['eu.west'], ws: 'blog' }, false],
    ['an owner', { role: 'owner' }, true],
    ['an admin above its zone', { role: 'admin', zones: ['eu'] }, true],
    ['no editor below its zone', { role: 'editor', zones: ['eu.west.paris'] }, false],
    ['an editor of secrets', { role: 'editor', kinds: ['secret', 'site'] }, true],
    ['no editor of sites', { role: 'editor', kinds: ['site'] }, false],
    ['no editor of another workspace', { role: 'editor', ws: 'blog' }, false],
    ['a robot', { role: 'robot' }, true],
    ['a robot that may wrap keys', { role: 'robot', fields: ['keys/'] }, true],
    ['no robot that may write other fields only', { role: 'robot', fields: ['endpoints/'] }, false],
    ['no viewer', { role: 'viewer' }, false],
  ])('%s', (_, grant, expected) => {
    expect(isFor(grant)).toBe(expected)
  })

  test('all nodes of its workspace when its zone is *', () => {
    expect(isFor({ zones: ['us'] }, 'shop/*/secret/tls')).toBe(true)
    expect(isFor({ zones: ['us'], ws: 'blog' }, 'shop/*/secret/tls')).toBe(false)
  })
})

test('no grant replaces the key that another tells, in whatever order they come', () => {
  const evil = encryptionKey(Buffer.alloc(32, 6)).publicKey
  const subject = 'b'.repeat(64)
  const owner = { subject, role: 'owner', ws: '*', zones: ['*'], kinds: ['*'], enc: ENC, name: 'ana' } as const
  const node = { subject, role: 'node', ws: '*', zones: ['eu.west'], kinds: ['*'], enc: evil, name: 'eve' } as const
  const found = recipientsOf(PATH, [node, owner])
  expect(found).toEqual(recipientsOf(PATH, [owner, node]))
  expect(found).toEqual([
    { subject, role: 'owner', name: 'ana', enc: ENC },
    { subject, role: 'node', name: 'ana', enc: evil },
  ])
  expect(sealingKeys(found)).toEqual([ENC, evil].toSorted())
})

test('several grants of one key are one recipient, with the key that one of them tells', () => {
  const grant = { subject: 'b'.repeat(64), role: 'node', ws: '*', zones: ['eu.west'], kinds: ['*'] } as const
  const found = recipientsOf(PATH, [
    { ...grant, name: 'edge' },
    { ...grant, enc: ENC },
  ])
  expect(found).toEqual([{ subject: grant.subject, role: 'node', name: 'edge', enc: ENC }])
  expect(sealingKeys(found)).toEqual([ENC])
})

test('an enc key of small order is none: it would open the secret for everybody, or keep it from being sealed', () => {
  const grant = { subject: 'c'.repeat(64), role: 'node', ws: '*', zones: ['eu.west'], kinds: ['*'] } as const
  expect(sealingKeys(recipientsOf(PATH, [{ ...grant, enc: '00'.repeat(32) }]))).toEqual([])
})
