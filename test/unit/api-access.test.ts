/** Who may ask an API that has no tokens yet: the decision alone, without a network. */

import { describe, expect, test } from 'vitest'
import { checkAccess, isAllowedHost, isLoopback, type Origin } from '../../src/api/access.ts'

const BIND_ADDRESS = '10.0.0.5'
const REQUEST = { path: '/v1/node', host: '10.0.0.5:3000', isForwarded: false }
const tcp = (address: string | undefined): Origin => ({ transport: 'tcp', address })

test.each([
  ['127.0.0.1', true],
  ['127.200.3.4', true],
  ['::1', true],
  ['::ffff:127.0.0.1', true],
  ['10.0.0.1', false],
  ['::ffff:10.0.0.1', false],
  ['128.0.0.1', false],
  ['fe80::1', false],
  ['', false],
  [undefined, false],
])('%s is loopback: %s', (address, expected) => {
  expect(isLoopback(address)).toBe(expected)
})

test.each([
  ['10.0.0.5:3000', true],
  ['localhost', true],
  ['LOCALHOST:1', true],
  ['[2001:db8::1]:3000', true],
  ['node.internal', false],
  ['localhost.evil.example', false],
  ['1.2.3.4.evil.example', false],
  ['', false],
  [undefined, false],
])('a Host of %s is allowed: %s', (host, expected) => {
  expect(isAllowedHost(host, '10.0.0.5')).toBe(expected)
})

test('a node that is bound to a name may be called by that name', () => {
  expect(isAllowedHost('edge-1.internal:3000', 'edge-1.internal')).toBe(true)
})

describe('a caller from another host', () => {
  const ask = (request = REQUEST): void => checkAccess(request, tcp('10.0.0.77'), BIND_ADDRESS)

  test('gets health and metrics under any name, and nothing else', () => {
    for (const path of ['/health', '/metrics'])
      expect(() => ask({ ...REQUEST, path, host: 'lb.example' })).not.toThrow()
    expect(() => ask()).toThrow(
      expect.objectContaining({ code: 'denied', details: { hint: expect.stringMatching(/api\.sock.*ssh -L/) } }),
    )
  })
})

test('a proxy on the host does not make its callers local', () => {
  expect(() => checkAccess({ ...REQUEST, isForwarded: true }, tcp('127.0.0.1'), BIND_ADDRESS)).toThrow(
    /through a proxy/,
  )
  expect(() => checkAccess(REQUEST, tcp('127.0.0.1'), BIND_ADDRESS)).not.toThrow()
})

test('the unix socket answers whoever may open it', () => {
  const anything = { path: '/v1/edits', host: undefined, isForwarded: true }
  expect(() => checkAccess(anything, { transport: 'unix' }, BIND_ADDRESS)).not.toThrow()
})
