/** Key files: the exact openssl and xxd commands, every mistake that is recognised, and that no error shows a key. */

import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { createKeyFile, loadEditKey, loadKey, sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { keyPairFromSeed, verifySignature } from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'

const root = mkdtempSync(join(tmpdir(), 'nxmesh-identity-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

// RFC 8032, section 7.1, test 1.
const SEED = '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60'
const PUBLIC = 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a'

let files = 0
function keyFile(content: string | Uint8Array, mode = 0o600): string {
  files += 1
  const path = join(root, `key-${files}`)
  writeFileSync(path, content)
  chmodSync(path, mode)
  return path
}

function sh(script: string, cwd: string): string {
  return execFileSync('sh', ['-ec', script], { cwd, encoding: 'utf8' })
}

async function failure(source: Parameters<typeof loadKey>[0]): Promise<MeshError> {
  const error: unknown = await loadKey(source).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(MeshError)
  return error as MeshError
}

describe('the openssl and xxd commands', () => {
  test.each(['sh', 'bash'])(
    'make a key file that loads, with the public key that openssl prints (%s)',
    async (shell) => {
      const cwd = mkdtempSync(join(root, 'openssl-'))
      const commands = `umask 022
      openssl genpkey -algorithm ed25519 -outform der -out private-key.hex
      cp private-key.hex ../reference.der
      echo -n $(xxd -plain -cols 32 -s -32 private-key.hex) > private-key.hex`
      execFileSync(shell, ['-ec', commands], { cwd })
      const key = await loadKey({ file: join(cwd, 'private-key.hex'), env: {} })
      const printed = sh(
        'openssl pkey -inform der -in ../reference.der -pubout -outform der | tail -c 32 | xxd -plain -cols 32',
        cwd,
      )
      expect(key.publicKey).toBe(printed.trim())
      expect(readFileSync(join(cwd, 'private-key.hex'))).toHaveLength(64)
    },
  )

  test('in a hint about a PEM file work when pasted', async () => {
    const cwd = mkdtempSync(join(root, 'pem-'))
    sh('openssl genpkey -algorithm ed25519 -out "it\'s a key.pem"', cwd)
    const pem = join(cwd, "it's a key.pem")
    const { details } = await failure({ file: pem, env: {} })
    sh(details.hint?.replace('Convert it: ', '') as string, cwd)
    const key = await loadKey({ file: `${pem}.hex`, env: {} })
    expect(key.publicKey).toBe(
      sh('openssl pkey -in it*.pem -pubout -outform der | tail -c 32 | xxd -plain -cols 32', cwd).trim(),
    )
  })

  test('in a hint about a DER file work when pasted', async () => {
    const cwd = mkdtempSync(join(root, 'der-'))
    sh('openssl genpkey -algorithm ed25519 -outform der -out key.der', cwd)
    const { message, details } = await failure({ file: join(cwd, 'key.der'), env: {} })
    expect(message).toContain('is a binary key')
    sh(details.hint?.replace('Convert it: ', '') as string, cwd)
    await loadKey({ file: join(cwd, 'key.der.hex'), env: {} })
  })
})

describe('loadKey', () => {
  test.each([
    ['64 digits', SEED],
    ['a newline', `${SEED}\n`],
    ['a newline of another system', `${SEED}\r\n`],
    ['upper case', SEED.toUpperCase()],
  ])('takes %s', async (_, content) => {
    const key = await loadKey({ file: keyFile(content), env: {} })
    expect(key.publicKey).toBe(PUBLIC)
    const message = Buffer.from('hello')
    expect(verifySignature(PUBLIC, message, key.sign(message))).toBe(true)
  })

  test('prefers PRIVATE_KEY to the file', async () => {
    const file = keyFile('1'.repeat(64))
    expect((await loadKey({ file, env: { PRIVATE_KEY: SEED } })).publicKey).toBe(PUBLIC)
    expect((await loadKey({ file: '/nowhere', env: { PRIVATE_KEY: `${SEED}\n` } })).publicKey).toBe(PUBLIC)
    expect((await loadKey({ file, env: { PRIVATE_KEY: '' } })).publicKey).not.toBe(PUBLIC)
  })

  const pair = generateKeyPairSync('ed25519')
  const der = pair.privateKey.export({ format: 'der', type: 'pkcs8' })
  const spki = pair.publicKey.export({ format: 'der', type: 'spki' })
  const mistakes: Record<string, { content: string | Uint8Array; mode?: number; says: RegExp; hints: RegExp }> = {
    'a short key': { content: SEED.slice(2), says: /62 hex digits.*64/, hints: /meshctl key new/ },
    'key and public key': { content: SEED + PUBLIC, says: /128 hex digits/, hints: /first 64 digits/ },
    'xxd without -cols': {
      content: `${SEED.slice(0, 60)}\n${SEED.slice(60)}\n`,
      says: /more than hex/,
      hints: /-cols 32/,
    },
    'an empty file': { content: '\n', says: /is empty/, hints: /meshctl key new/ },
    'a PEM': {
      content: pair.privateKey.export({ format: 'pem', type: 'pkcs8' }),
      says: /PEM/,
      hints: /openssl pkey -in .*xxd/,
    },
    'a PEM of another type': {
      content: generateKeyPairSync('x25519').privateKey.export({ format: 'pem', type: 'pkcs8' }),
      says: /type x25519/,
      hints: /meshctl key new/,
    },
    'a PEM that was cut': {
      content: '-----BEGIN PRIVATE KEY-----\nMC4C',
      says: /type unknown/,
      hints: /meshctl key new/,
    },
    'other bytes': { content: Buffer.from([0, 1, 2, 255]), says: /is binary/, hints: /meshctl key new/ },
    'an encrypted PEM': {
      content: '-----BEGIN ENCRYPTED PRIVATE KEY-----\n',
      says: /not supported/,
      hints: /meshctl key new/,
    },
    'a key of ssh': {
      content: '-----BEGIN OPENSSH PRIVATE KEY-----\n',
      says: /not supported/,
      hints: /meshctl key new/,
    },
    'a DER': { content: der, says: /binary key/, hints: /xxd -plain -cols 32 -s -32/ },
    'raw bytes': { content: Buffer.from(SEED, 'hex'), says: /binary key/, hints: /xxd/ },
    'a DER in hex': { content: der.toString('hex'), says: /whole DER/, hints: /last 64 digits/ },
    'a public PEM': {
      content: pair.publicKey.export({ format: 'pem', type: 'spki' }),
      says: /a public key/,
      hints: /private key/,
    },
    'a public DER': { content: spki, says: /public key in DER/, hints: /private key/ },
    'a public DER in hex': { content: spki.toString('hex'), says: /public key in DER/, hints: /private key/ },
    'a public key of ssh': { content: 'ssh-ed25519 AAAAC3Nz ana', says: /a public key/, hints: /private key/ },
    'a listed public key': { content: PUBLIC, says: /configuration lists/, hints: /private key/ },
    'something else': { content: 'bind_port: 9102\n', says: /more than hex/, hints: /meshctl key new/ },
    'a large file': { content: Buffer.alloc(100_000, 'a'), says: /8192 hex digits/, hints: /meshctl key new/ },
    'a file for the world': { content: SEED, mode: 0o644, says: /mode 0644/, hints: /^Run: chmod 600 / },
    'a file for the group': { content: SEED, mode: 0o640, says: /mode 0640/, hints: /^Run: chmod 600 / },
  }
  test.each(Object.entries(mistakes))('says what to do about %s', async (_, { content, mode, says, hints }) => {
    const file = keyFile(content, mode)
    const error = await failure({ file, env: {}, publicKeys: [PUBLIC] })
    expect(error.code).toBe('key_invalid')
    expect(error.message).toContain(file)
    expect(error.message).toMatch(says)
    expect(error.details.hint).toMatch(hints)
    const shown = JSON.stringify([error.message, error.details, error.stack])
    for (const secret of [SEED.slice(0, 16), der.toString('hex').slice(40, 56), der.toString('base64').slice(24, 40)]) {
      expect(shown).not.toContain(secret)
    }
  })

  test('says what to do about a missing file, a directory, a wrong PRIVATE_KEY and nothing at all', async () => {
    const missing = await failure({ file: join(root, 'none'), env: {} })
    expect(missing.details.hint).toContain(`meshctl key new -k ${join(root, 'none')}`)
    const directory = join(root, 'directory')
    mkdirSync(directory)
    expect((await failure({ file: directory, env: {} })).message).toContain('is a directory')
    const wrong = await failure({ env: { PRIVATE_KEY: SEED.slice(1) } })
    expect(wrong.message).toBe('PRIVATE_KEY has 63 hex digits; an Ed25519 private key has 64 (32 bytes)')
    expect((await failure({ env: {} })).details.hint).toContain('private_key_path')
  })
})

describe('loadEditKey', () => {
  const node = keyPairFromSeed(Buffer.alloc(32, 7))

  test('reads a key file, and nothing when none is named', async () => {
    expect(await loadEditKey('', node)).toBeUndefined()
    expect((await loadEditKey(keyFile(SEED), node))?.publicKey).toBe(PUBLIC)
  })

  test.each<[what: string, file: () => string, message: RegExp]>([
    ['is not there', () => join(root, 'none'), /there is no key file/],
    ['others may read', () => keyFile(SEED, 0o640), /may be read by others than its owner \(mode 0640\)/],
    ['is no key', () => keyFile('nonsense'), /holds more than hex digits/],
    ['is the key of the node', () => keyFile('07'.repeat(32)), /holds the key of the node itself/],
  ])('one that %s is named with its setting', async (_, file, message) => {
    const error: unknown = await loadEditKey(file(), node).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'key_invalid', message: expect.stringMatching(message) })
    expect((error as MeshError).details).toMatchObject({ field: 'http_edit_key', hint: expect.any(String) })
    expect((error as MeshError).details.hint).not.toContain('private_key_path')
  })
})

describe('createKeyFile', () => {
  test('writes 64 digits for the owner alone, makes the directory, and the file loads', async () => {
    const path = join(root, 'made', 'node.key')
    const key = await createKeyFile(path)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(readFileSync(path, 'utf8')).toMatch(/^[0-9a-f]{64}$/)
    expect((await loadKey({ file: path, env: {} })).publicKey).toBe(key.publicKey)
  })

  test('overwrites nothing', async () => {
    const path = keyFile(SEED)
    await expect(createKeyFile(path)).rejects.toMatchObject({ code: 'conflict' })
    expect(readFileSync(path, 'utf8')).toBe(SEED)
    await expect(createKeyFile(join(path, 'below'))).rejects.toBeInstanceOf(MeshError)
  })
})

test('derived keys depend on the seed alone, and differ from each other and from it', () => {
  const { seed } = keyPairFromSeed(Buffer.from(SEED, 'hex'))
  expect(sealKeyFromSeed(seed)).toEqual(sealKeyFromSeed(Buffer.from(SEED, 'hex')))
  expect(sealKeyFromSeed(seed)).not.toEqual(sealKeyFromSeed(Buffer.alloc(32)))
  expect(encryptionKey(seed).publicKey).toMatch(/^[0-9a-f]{64}$/)
  expect(
    new Set([SEED, PUBLIC, Buffer.from(sealKeyFromSeed(seed)).toString('hex'), encryptionKey(seed).publicKey]).size,
  ).toBe(4)
})
