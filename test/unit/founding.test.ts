import { expect, test } from 'vitest'
import { toWire } from '../../src/core/codec.ts'
import { parseEnvelope, rootSetHash } from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { MeshState } from '../../src/core/state.ts'
import { admit } from '../../src/core/admission.ts'
import { keyOf } from '../support/authors.ts'

const [root, next, owner, node] = ['root', 'next', 'owner', 'node'].map(keyOf)

function found() {
  return foundMesh({
    name: 'shop',
    roots: [root!],
    nextRoots: [next!.publicKey],
    threshold: 1,
    owner: owner!,
    ownerName: 'ana',
    nodes: [
      { key: node!.publicKey, name: 'edge-1', zones: ['us', 'eu.west'] },
      { key: keyOf('other').publicKey, name: 'edge-2', zones: ['*'] },
    ],
    at: 1000,
  })
}

test('the founding envelopes are admitted in their order, and grant what they say', () => {
  const state = new MeshState()
  const [genesis] = found()
  for (const envelope of found()) {
    const parsed = parseEnvelope(toWire(envelope), genesis!.id)
    expect(admit(parsed, state.history)).toEqual({ outcome: 'ready' })
    state.add(parsed)
  }
  expect(state.meshId).toBe(genesis!.id)
  expect(state.policy.activeGrants(owner!.publicKey).map(({ body }) => [body.role, body.name])).toEqual([
    ['owner', 'ana'],
  ])
  expect(state.policy.activeGrants(node!.publicKey).map(({ body }) => [body.role, body.zones])).toEqual([
    ['node', ['eu.west', 'us']],
  ])
})

test('the same founding is the same mesh', () => {
  expect(found().map(({ id }) => id)).toEqual(found().map(({ id }) => id))
})

test('a root set’s hash is of its keys, in whatever order, and its threshold', () => {
  expect(rootSetHash(['b', 'a'], 1)).toBe(rootSetHash(['a', 'b'], 1))
  expect(rootSetHash(['a', 'b'], 1)).not.toBe(rootSetHash(['a', 'b'], 2))
})
