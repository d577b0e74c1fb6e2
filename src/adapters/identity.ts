/**
 * The node's (or an operator's) key: reads a key file or PRIVATE_KEY, makes new key files, derives keys from the
 * seed. Recognises what people mistake for a key file and says how to convert it; never shows key material.
 * Called by the entries before anything starts.
 */

import { createPrivateKey, hkdfSync, randomBytes } from 'node:crypto'
import { mkdir, open, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { keyPairFromSeed, type KeyPair } from '../core/envelope.ts'
import { asMeshError, MeshError } from '../errors.ts'

export interface KeySource {
  /** Path of a file with 32 bytes in hex, with or without a newline, readable for its owner alone. */
  readonly file?: string | undefined
  /** The environment; its PRIVATE_KEY (32 bytes in hex) beats the file. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Public keys that are known, 64 hex digits: one of them in place of the private key is recognised. */
  readonly publicKeys?: readonly string[]
}

const SEED_BYTES = 32
/** Longer than any form of an Ed25519 key; of a larger file only this much is looked at. */
const FILE_BYTES_MAX = 8 * 1024
const PKCS8_HEX = '302e020100300506032b657004220420'
const SPKI_HEX = '302a300506032b6570032100'
const PRINTABLE = /^[\t\n\r\x20-\x7e]*$/
const NEW_EDIT_KEY = 'Make a key of its own with: meshctl key new -k edit.key'
const NEW_KEY = 'Make a key with: meshctl key new -k node.key'

/** @throws MeshError `key_invalid`, with what to do. */
export async function loadKey(source: KeySource): Promise<KeyPair> {
  const inline = source.env['PRIVATE_KEY']
  if (inline !== undefined && inline !== '') return parseKey(Buffer.from(inline), 'PRIVATE_KEY', source.publicKeys)
  const { file } = source
  if (file === undefined || file === '') {
    throw invalid('no private key was given', 'Set private_key_path (or -k FILE), or PRIVATE_KEY to 32 bytes in hex.')
  }
  const { content, mode } = await readKeyFile(file)
  const key = parseKey(content, file, source.publicKeys)
  if ((mode & 0o077) !== 0) {
    const octal = (mode & 0o777).toString(8).padStart(4, '0')
    throw invalid(`${file} may be read by others than its owner (mode ${octal})`, `Run: chmod 600 ${shellQuote(file)}`)
  }
  return key
}

/**
 * The key of `http_edit_key`; undefined when none is named.
 * @param own the node's, which must be another: nodes relay, and their keys edit nothing.
 * @throws MeshError `key_invalid`, with what to do.
 */
export async function loadEditKey(file: string, own: KeyPair): Promise<KeyPair | undefined> {
  if (file === '') return undefined
  const field = 'http_edit_key'
  const key = await loadKey({ file, env: {} }).catch((error: unknown) => {
    const { code, message, details } = asMeshError(error)
    throw new MeshError(code, message, { ...details, field }, error)
  })
  if (key.publicKey !== own.publicKey) return key
  throw new MeshError('key_invalid', `${file} holds the key of the node itself`, { field, hint: NEW_EDIT_KEY })
}

/**
 * Makes a new key and writes it to a new file of mode 0600, durably; makes the directory if there is none.
 * @throws MeshError `conflict` when the file exists, `key_invalid` when it cannot be written.
 */
export async function createKeyFile(path: string): Promise<KeyPair> {
  const seed = randomBytes(SEED_BYTES)
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    const file = await open(path, 'wx', 0o600)
    try {
      await file.writeFile(seed.toString('hex'))
      await file.sync()
    } catch (error) {
      await unlink(path).catch(() => undefined)
      throw error
    } finally {
      await file.close()
    }
    const directory = await open(dirname(path), 'r')
    await directory.sync()
    await directory.close()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') {
      const hint = 'Choose another name, or move the file away if nobody needs that key any more.'
      throw new MeshError('conflict', `${path} exists and is not overwritten`, { field: 'file', hint }, error)
    }
    throw invalid(
      `cannot write ${path}: ${(error as Error).message}`,
      'Choose a directory that you may write to.',
      error,
    )
  }
  return keyPairFromSeed(seed)
}

/** 32 bytes for the store's seal, which only the holder of the seed can derive (HKDF-SHA-256). */
export function sealKeyFromSeed(seed: Uint8Array): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', seed, '', 'nxmesh/v1/store-seal', 32))
}

async function readKeyFile(file: string): Promise<{ content: Buffer; mode: number }> {
  try {
    const handle = await open(file, 'r')
    try {
      const { mode } = await handle.stat()
      const buffer = Buffer.alloc(FILE_BYTES_MAX)
      let length = 0
      for (;;) {
        const { bytesRead } = await handle.read(buffer, length, buffer.length - length)
        length += bytesRead
        if (bytesRead === 0 || length === buffer.length) return { content: buffer.subarray(0, length), mode }
      }
    } finally {
      await handle.close()
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const make = `make one with: meshctl key new -k ${shellQuote(file)}`
    if (code === 'ENOENT') throw invalid(`there is no key file ${file}`, `Check the path, or ${make}`, error)
    if (code === 'EISDIR') throw invalid(`${file} is a directory`, `Name a file in it, or ${make}/node.key`, error)
    if (code === 'EACCES') {
      throw invalid(`${file} may not be read by this user`, `Run: chown "$(id -un)" ${shellQuote(file)}`, error)
    }
    throw invalid(`cannot read ${file}: ${message}`, `Check the path, or ${make}`, error)
  }
}

function parseKey(content: Buffer, source: string, publicKeys: readonly string[] = []): KeyPair {
  const text = content.toString('latin1').trim()
  const problem = mistake(content, text, source, publicKeys)
  if (problem !== undefined) throw problem
  return keyPairFromSeed(Buffer.from(text, 'hex'))
}

/** What is wrong with the content of a key file, most telling first; undefined when it is 64 hex digits. */
function mistake(content: Buffer, text: string, source: string, publicKeys: readonly string[]): MeshError | undefined {
  const isFile = source !== 'PRIVATE_KEY'
  const name = isFile ? shellQuote(source) : 'FILE'
  const target = isFile ? shellQuote(`${source}.hex`) : 'FILE.hex'
  const hex = text.toLowerCase()
  const isPublic = (what: string): MeshError =>
    invalid(`${source} holds ${what}, and the private key is needed`, `Give the private key of that pair. ${NEW_KEY}`)

  if (/-----BEGIN PUBLIC KEY-----|^ssh-ed25519 /.test(text)) return isPublic('a public key')
  if (/-----BEGIN PRIVATE KEY-----/.test(text)) {
    const type = pemKeyType(text)
    if (type !== 'ed25519') return invalid(`${source} holds a key of type ${type}; Ed25519 is needed`, NEW_KEY)
    const hint = `Convert it: (umask 077; openssl pkey -in ${name} -outform der | tail -c 32 | xxd -plain -cols 32 > ${target})`
    return invalid(`${source} is in PEM form; 32 bytes in hex are expected`, hint)
  }
  if (text.includes('-----BEGIN ')) {
    return invalid(`${source} is in a PEM form that is not supported`, NEW_KEY)
  }
  if (text === '') return invalid(`${source} is empty`, NEW_KEY)

  const binary = content.toString('hex')
  if (binary.startsWith(SPKI_HEX) || hex.startsWith(SPKI_HEX)) return isPublic('a public key in DER form')
  if (hex.startsWith(PKCS8_HEX)) {
    return invalid(
      `${source} holds a whole DER structure in hex; 32 bytes are expected`,
      'Keep the last 64 digits only.',
    )
  }
  if (binary.startsWith(PKCS8_HEX) || (!PRINTABLE.test(text) && content.length === SEED_BYTES)) {
    const hint = `Convert it: (umask 077; xxd -plain -cols 32 -s -32 ${name} > ${target})`
    return invalid(`${source} is a binary key; 32 bytes in hex are expected`, hint)
  }
  if (!PRINTABLE.test(text)) return invalid(`${source} is binary; 32 bytes in hex are expected`, NEW_KEY)
  if (!/^[0-9a-f]*$/.test(hex)) {
    return invalid(`${source} holds more than hex digits; 32 bytes in hex are expected`, hexHint(hex))
  }
  if (hex.length !== 2 * SEED_BYTES) {
    return invalid(`${source} has ${hex.length} hex digits; an Ed25519 private key has 64 (32 bytes)`, hexHint(hex))
  }
  if (publicKeys.includes(hex)) return isPublic('a public key that the configuration lists')
  return undefined
}

function pemKeyType(pem: string): string {
  try {
    return createPrivateKey(pem).asymmetricKeyType ?? 'unknown'
  } catch {
    return 'unknown'
  }
}

function hexHint(hex: string): string {
  if (/^[0-9a-f]+\s+[0-9a-f]+$/.test(hex)) return 'Put it on one line: xxd needs -cols 32.'
  if (hex.length === 128) return 'If it is a private key followed by its public key, keep the first 64 digits only.'
  return NEW_KEY
}

function shellQuote(path: string): string {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`
}

function invalid(message: string, hint: string, cause?: unknown): MeshError {
  return new MeshError('key_invalid', message, { field: 'private_key_path', hint }, cause)
}
