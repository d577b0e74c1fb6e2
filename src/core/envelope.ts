/**
 * Envelopes: what is signed, stored and gossiped. Parses bytes into typed envelopes under exact limits, computes
 * ids, makes and checks signatures. Knows nothing of policy, history or a kind's schema. DESIGN: edits and trust.
 */

import {
  createHash,
  createPrivateKey,
  createPublicKey,
  sign as cryptoSign,
  verify as cryptoVerify,
  type KeyObject,
} from 'node:crypto'
import * as noble from '@noble/ed25519'
import { MeshError } from '../errors.ts'
import { canonical, sha256, type Json } from './canonical.ts'
import { isFieldPath, isName, isResourcePath, isWorkspace, isZone, workspaceOf } from './names.ts'

export type Scalar = string | number | boolean
export type Value = Scalar | readonly Scalar[]
/** One change of one flat field. `$` is the field of existence: set creates, del deletes the resource. */
export type Op = readonly ['set', field: string, value: Value] | readonly ['del', field: string]
/** What one edit does to one resource: its path, the resource's heads that the author saw, the operations. */
export type ResourceEdit = readonly [resource: string, deps: readonly string[], ops: readonly Op[]]

export const ROLES = ['viewer', 'node', 'robot', 'editor', 'admin', 'owner'] as const
export type Role = (typeof ROLES)[number]

interface Common {
  readonly v: 1
  /** Mesh id: the genesis id. */
  readonly mesh: string
  /** Workspace whose chain this continues; `*` is mesh-wide (grants and revocations only). */
  readonly ws: string
  /** Author's Ed25519 public key, 64 hex digits. */
  readonly by: string
  /** Id of the grant that is exercised; when root keys act, the id of their root set: the genesis (the mesh id) or a rootset. */
  readonly grant: string
  /** Position in the author's chain of this workspace: 1 + the highest n of prev. */
  readonly n: number
  readonly prev: readonly string[]
  /** Claimed time, ms since the epoch; advisory. */
  readonly at: number
  readonly note: string
}

export interface EditBody extends Common {
  readonly type: 'edit'
  readonly edits: readonly ResourceEdit[]
}
export interface GrantBody extends Common {
  readonly type: 'grant'
  readonly subject: string
  readonly role: Role
  readonly zones: readonly string[]
  readonly kinds: readonly string[]
  /** Field paths, or prefixes ending in `/`, that the grant is narrowed to, or privileged fields it adds. */
  readonly fields?: readonly string[]
  /** Host names (or `*.suffix`) that the subject's sites may claim; enforced at the slice. */
  readonly hosts?: readonly string[]
  readonly quota?: { readonly bytes?: number; readonly fields?: number; readonly resources?: number }
  /** X25519 public key of a node, for sealing secrets, 64 hex digits. */
  readonly enc?: string
  /** Name of the subject for people (`edge-1`, `ana`). */
  readonly name?: string
}
export interface RevokeBody extends Common {
  readonly type: 'revoke'
  /** `grant/<id>`, or `key/<public key>` for all of its grants that the revoker outranks and covers. */
  readonly target: string
  /** Heads of the target's chains that stay accepted, with everything before them. */
  readonly keep: readonly string[]
}
/** Replaces the root set that it exercises, which committed to it, and is signed by the new keys. */
export interface RootsetBody extends Common {
  readonly type: 'rootset'
  readonly roots: readonly string[]
  readonly threshold: number
  /** As in the genesis. */
  readonly next: string
  /** Heads of the replaced keys' chains that stay accepted, with everything before them. */
  readonly keep: readonly string[]
}
export interface GenesisBody {
  readonly v: 1
  readonly type: 'genesis'
  readonly name: string
  readonly roots: readonly string[]
  readonly threshold: number
  /** `rootSetHash` of the next root set, which alone can replace this one. Empty: none was prepared. */
  readonly next: string
  readonly at: number
}
export type Body = EditBody | GrantBody | RevokeBody | RootsetBody | GenesisBody
/** What an envelope may exercise. */
export type Authorising = GrantBody | RootsetBody | GenesisBody

/** Signatures by public key, hex. */
export type Signatures = Readonly<Record<string, string>>

/** An envelope as it travels and is stored: canonical JSON text and the signatures beside it. */
export interface WireEnvelope {
  readonly bytes: string
  readonly sigs: Signatures
}
/** A parsed envelope whose form, id and signatures were checked. */
export interface Envelope<B extends Body = Body> extends WireEnvelope {
  readonly id: string
  readonly body: B
  /** Size of bytes in UTF-8. */
  readonly size: number
}

/** What one envelope may hold. Beyond a limit it is refused as malformed, everywhere alike. */
export const LIMITS = {
  bodyBytes: 64 * 1024,
  resources: 32,
  ops: 256,
  deps: 16,
  keep: 16,
  /** Of a rootset: each replaced root key has a chain in each workspace. */
  rootKeep: 64,
  prev: 4,
  stringBytes: 8 * 1024,
  arrayItems: 64,
  noteBytes: 512,
  scopeItems: 64,
  signatures: 16,
  roots: 16,
} as const

/** Why a second signature is refused on what only its author signs: it is somebody's ballast. */
export const FOREIGN_SIGNATURES = 'has signatures of others than the author'

const ID_DOMAIN = 'nxmesh/v1/id\0'
const SIG_DOMAIN = 'nxmesh/v1/sig\0'

export function envelopeId(bytes: string): string {
  return createHash('sha256').update(ID_DOMAIN).update(bytes).digest('hex')
}

/** The bytes that a signature of envelope `id` in mesh `mesh` covers. */
export function signingInput(mesh: string, id: string): Uint8Array {
  return Buffer.concat([Buffer.from(SIG_DOMAIN), Buffer.from(mesh, 'hex'), Buffer.from([0]), Buffer.from(id, 'hex')])
}

/** What a root set commits to as its successor: SHA-256 over the successor's keys and threshold. */
export function rootSetHash(roots: readonly string[], threshold: number): string {
  return sha256(`nxmesh/v1/roots\0${canonical({ roots: roots.toSorted(), threshold })}`)
}

// ---------------------------------------------------------------------------------------------- signatures

const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')

/** An Ed25519 key pair held as the 32-byte seed. Equal seeds are equal identities. */
export interface KeyPair {
  readonly publicKey: string
  readonly seed: Uint8Array
  sign(message: Uint8Array): string
}

/** The key pair of a 32-byte seed. */
export function keyPairFromSeed(seed: Uint8Array): KeyPair {
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, seed]), format: 'der', type: 'pkcs8' })
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' })
  return {
    publicKey: spki.subarray(SPKI_PREFIX.length).toString('hex'),
    seed: Uint8Array.from(seed),
    sign: (message) => cryptoSign(null, message, key).toString('hex'),
  }
}

// noble brings no hash of its own for its synchronous calls, and throws without one.
noble.hashes.sha512 = (message) => Uint8Array.from(createHash('sha512').update(message).digest())

const PUBLIC_KEY_CACHE_MAX = 4096
const publicKeys = new Map<string, KeyObject | undefined>()

function publicKeyObject(publicKey: string): KeyObject | undefined {
  if (publicKeys.has(publicKey)) return publicKeys.get(publicKey)
  let key: KeyObject | undefined
  try {
    key = createPublicKey({
      key: Buffer.concat([SPKI_PREFIX, Buffer.from(publicKey, 'hex')]),
      format: 'der',
      type: 'spki',
    })
  } catch {
    key = undefined
  }
  // Keys come from outside: at the limit the oldest entry goes, and a later use parses it again.
  if (publicKeys.size >= PUBLIC_KEY_CACHE_MAX) publicKeys.delete(publicKeys.keys().next().value as string)
  publicKeys.set(publicKey, key)
  return key
}

/**
 * Whether a signature is valid under the mesh's one rule: noble's ZIP-215 answer. What OpenSSL accepts ZIP-215
 * accepts too, so the fast check decides alone when it says yes.
 */
export function verifySignature(publicKey: string, message: Uint8Array, signature: string): boolean {
  if (!isHex(publicKey, 64) || !isHex(signature, 128)) return false
  const key = publicKeyObject(publicKey)
  const raw = Buffer.from(signature, 'hex')
  if (key !== undefined && cryptoVerify(null, message, key, raw)) return true
  try {
    return noble.verify(raw, message, Buffer.from(publicKey, 'hex'), { zip215: true })
  } catch {
    return false
  }
}

/** Whether a key is of small order, so that it signs nothing in particular; such keys are never granted. */
export function isSmallOrderKey(publicKey: string): boolean {
  try {
    return noble.Point.fromBytes(Buffer.from(publicKey, 'hex'), true).isSmallOrder()
  } catch {
    return true
  }
}

/** Signs a body. The result passes `parseEnvelope`. */
export function signEnvelope<B extends Body>(body: B, keys: readonly KeyPair[]): Envelope<B> {
  const bytes = canonical(body as unknown as Json)
  const id = envelopeId(bytes)
  const mesh = body.type === 'genesis' ? id : body.mesh
  const message = signingInput(mesh, id)
  const sigs = Object.fromEntries(keys.map((key) => [key.publicKey, key.sign(message)]))
  return { id, bytes, body, sigs, size: Buffer.byteLength(bytes) }
}

// ---------------------------------------------------------------------------------------------- parsing

const HEX = /^[0-9a-f]+$/
const QUOTED_MAX = 200

export function isHex(value: unknown, length: number): value is string {
  return typeof value === 'string' && value.length === length && HEX.test(value)
}

/**
 * Parses and checks one envelope: size, canonical form, exact schema, limits, mesh and every signature.
 * @param mesh the mesh id to belong to; undefined accepts a genesis only.
 * @param options.signaturesAreChecked skips the verification of signatures that this node itself once did.
 * @throws MeshError `too_large` or `envelope_invalid`, naming the field.
 */
export function parseEnvelope(
  wire: unknown,
  mesh: string | undefined,
  options: { readonly signaturesAreChecked?: boolean } = {},
): Envelope {
  if (!isObject(wire) || typeof wire['bytes'] !== 'string' || !isObject(wire['sigs'])) {
    throw invalid('envelope', 'must be {"bytes": string, "sigs": {public key: signature}}')
  }
  const { bytes } = wire
  const size = Buffer.byteLength(bytes)
  if (size > LIMITS.bodyBytes) {
    throw new MeshError('too_large', `an envelope of ${size} bytes is over the limit of ${LIMITS.bodyBytes}`, {
      field: 'bytes',
      hint: 'Split the edit into several smaller ones.',
    })
  }
  const body = parseBody(bytes)
  const id = envelopeId(bytes)
  if (body.type === 'genesis') {
    if (mesh !== undefined && id !== mesh) throw invalid('mesh', 'a genesis of another mesh')
  } else if (body.mesh !== mesh) {
    throw invalid('mesh', `belongs to mesh ${body.mesh}, and this is ${mesh ?? 'a node without a mesh yet'}`)
  }
  const verify = options.signaturesAreChecked === true ? undefined : signingInput(mesh ?? id, id)
  const sigs = parseSignatures(wire['sigs'], body, verify)
  return { id, bytes, body, sigs, size }
}

/** The mesh-independent part: canonical form and exact schema of a body. */
export function parseBody(bytes: string): Body {
  let value: unknown
  let again: string
  try {
    value = JSON.parse(bytes)
    again = canonical(value as Json)
  } catch (error) {
    throw new MeshError(
      'envelope_invalid',
      `the body is not canonical JSON: ${(error as Error).message}`,
      { field: 'bytes' },
      error,
    )
  }
  if (again !== bytes) throw invalid('bytes', 'the body is JSON, but not in its canonical form (RFC 8785)')
  if (!isObject(value)) throw invalid('bytes', 'the body must be an object')
  if (value['v'] !== 1) throw invalid('v', `version ${JSON.stringify(value['v'])} is unknown here; upgrade this node`)
  const type = value['type']
  if (typeof type !== 'string' || !Object.hasOwn(BODY_SHAPES, type))
    throw invalid('type', `${JSON.stringify(type)} is not a known type`)
  const shape = BODY_SHAPES[type as Body['type']]
  for (const key of Object.keys(value)) {
    if (!Object.hasOwn(shape, key)) throw invalid(key, `is not a field of ${type}`)
  }
  for (const [key, field] of Object.entries(shape)) {
    if (value[key] === undefined) {
      if (!field.optional) throw invalid(key, `is missing from ${type}`)
    } else {
      field.check(value[key], key)
    }
  }
  const body = value as unknown as Body
  if (body.type !== 'genesis') checkCommon(body)
  if (body.type === 'edit') checkEdits(body)
  if ('threshold' in body && body.threshold > body.roots.length)
    throw invalid('threshold', 'is over the number of roots')
  return body
}

interface Field {
  readonly optional?: true
  check(value: unknown, field: string): void
}
type Shape<B> = { readonly [K in keyof B]-?: Field }

const integer = (min: number, max: number = Number.MAX_SAFE_INTEGER): Field => ({
  check(value, field) {
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      throw invalid(field, `must be an integer from ${min} to ${max}`)
    }
  },
})
const text = (maxBytes: number): Field => ({
  check(value, field) {
    if (typeof value !== 'string' || Buffer.byteLength(value) > maxBytes)
      throw invalid(field, `must be a string of at most ${maxBytes} bytes`)
  },
})
const where = (test: (value: string) => boolean, what: string): Field => ({
  check(value, field) {
    if (typeof value !== 'string' || !test(value)) throw invalid(field, `must be ${what}`)
  },
})
/** A sorted list without duplicates, so that equal scopes have equal bytes. */
const sorted = (item: Field, min: number, max: number): Field => ({
  check(value, field) {
    if (!Array.isArray(value) || value.length < min || value.length > max)
      throw invalid(field, `must be a list of ${min} to ${max} items`)
    for (const [index, entry] of value.entries()) {
      item.check(entry, `${field}[${index}]`)
      if (index > 0 && value[index - 1] >= entry) throw invalid(field, 'must be sorted and without duplicates')
    }
  },
})
const optional = (field: Field): Field => ({ ...field, optional: true })
const hash = where((value) => isHex(value, 64), '64 lower-case hex digits')
const anything: Field = { check: () => undefined }

const COMMON: Shape<Common> = {
  v: anything,
  mesh: hash,
  ws: where((value) => value === '*' || isWorkspace(value), 'a workspace name or *'),
  by: hash,
  grant: hash,
  n: integer(1),
  prev: sorted(hash, 0, LIMITS.prev),
  at: integer(0),
  note: text(LIMITS.noteBytes),
}

const quotaField: Field = {
  check(value, field) {
    if (!isObject(value)) throw invalid(field, 'must be an object')
    for (const [key, limit] of Object.entries(value)) {
      if (!['bytes', 'fields', 'resources'].includes(key)) throw invalid(`${field}.${key}`, 'is not a quota')
      integer(0).check(limit, `${field}.${key}`)
    }
  },
}

const ROOT_SET: Shape<Pick<GenesisBody, 'roots' | 'threshold' | 'next'>> = {
  roots: sorted(
    where((value) => isHex(value, 64) && !isSmallOrderKey(value), 'an Ed25519 public key in hex, not of small order'),
    1,
    LIMITS.roots,
  ),
  threshold: integer(1, LIMITS.roots),
  next: where((value) => value === '' || isHex(value, 64), 'empty or 64 hex digits'),
}

const BODY_SHAPES: { readonly [T in Body['type']]: Shape<Extract<Body, { type: T }>> } = {
  edit: { ...COMMON, type: anything, edits: anything },
  grant: {
    ...COMMON,
    type: anything,
    subject: where(
      (value) => isHex(value, 64) && !isSmallOrderKey(value),
      'an Ed25519 public key in hex, not of small order',
    ),
    role: where((value) => (ROLES as readonly string[]).includes(value), `one of ${ROLES.join(', ')}`),
    zones: sorted(where(isZone, 'a zone'), 1, LIMITS.scopeItems),
    kinds: sorted(
      where((value) => value === '*' || isName(value), 'a kind or *'),
      1,
      LIMITS.scopeItems,
    ),
    fields: optional(
      sorted(
        where((value) => isFieldPath(value.replace(/\/$/, '')), 'a field path'),
        1,
        LIMITS.scopeItems,
      ),
    ),
    hosts: optional(sorted(text(255), 1, LIMITS.scopeItems)),
    quota: optional(quotaField),
    enc: optional(hash),
    name: optional(where(isName, 'a name')),
  },
  revoke: {
    ...COMMON,
    type: anything,
    target: where(isTarget, '`grant/<id>` or `key/<public key>`'),
    keep: sorted(hash, 0, LIMITS.keep),
  },
  rootset: { ...COMMON, type: anything, ...ROOT_SET, keep: sorted(hash, 0, LIMITS.rootKeep) },
  genesis: {
    v: anything,
    type: anything,
    name: where(isName, 'a name'),
    ...ROOT_SET,
    at: integer(0),
  },
}

function checkCommon(body: Exclude<Body, GenesisBody>): void {
  if (body.type === 'edit' && body.ws === '*') throw invalid('ws', 'an edit belongs to one workspace')
  if (body.type === 'rootset' && body.ws !== '*') throw invalid('ws', 'a root set belongs to all workspaces: *')
  if ((body.n === 1) !== (body.prev.length === 0)) throw invalid('n', 'must be 1 exactly when prev is empty')
}

function checkEdits(body: EditBody): void {
  const edits: unknown = body.edits
  if (!Array.isArray(edits) || edits.length === 0 || edits.length > LIMITS.resources) {
    throw invalid('edits', `must be a list of 1 to ${LIMITS.resources} resource edits`)
  }
  let opCount = 0
  let last = ''
  for (const [index, entry] of edits.entries()) {
    const at = `edits[${index}]`
    if (!Array.isArray(entry) || entry.length !== 3) throw invalid(at, 'must be [resource, deps, ops]')
    const [resource, deps, ops] = entry as unknown[]
    if (typeof resource !== 'string' || !isResourcePath(resource))
      throw invalid(`${at}[0]`, 'must be workspace/zone/kind/name')
    if (workspaceOf(resource) !== body.ws) throw invalid(`${at}[0]`, `is outside workspace ${body.ws}`)
    if (resource <= last) throw invalid('edits', 'must be sorted by resource, each once')
    last = resource
    sorted(hash, 0, LIMITS.deps).check(deps, `${at}[1]`)
    if (!Array.isArray(ops) || ops.length === 0) throw invalid(`${at}[2]`, 'must be a list of operations')
    opCount += ops.length
    if (opCount > LIMITS.ops) throw invalid('edits', `has over ${LIMITS.ops} operations`)
    checkOps(ops, `${at}[2]`)
  }
}

function checkOps(ops: readonly unknown[], at: string): void {
  let last = ''
  for (const [index, op] of ops.entries()) {
    if (!Array.isArray(op) || typeof op[1] !== 'string' || !isFieldPath(op[1]))
      throw invalid(`${at}[${index}]`, 'must name a field')
    if (op[1] <= last) throw invalid(at, 'must be sorted by field, each once')
    last = op[1]
    const isSet = op[0] === 'set' && op.length === 3 && isValue(op[2])
    const isDel = op[0] === 'del' && op.length === 2
    if (!isSet && !isDel) throw invalid(`${at}[${index}]`, 'must be ["set", field, value] or ["del", field]')
    if (op[1] === '$' && isSet && op[2] !== true) throw invalid(`${at}[${index}]`, 'sets $ to anything but true')
    if (op[1] === '$' && isDel && ops.length > 1) throw invalid(at, 'deletes the resource and does something else too')
  }
}

function isValue(value: unknown): value is Value {
  if (!Array.isArray(value)) return isScalar(value)
  return value.length <= LIMITS.arrayItems && value.every(isScalar)
}

function isScalar(value: unknown): value is Scalar {
  // Canonical form already excluded fractions, unsafe integers and lone surrogates.
  if (typeof value === 'string') return Buffer.byteLength(value) <= LIMITS.stringBytes
  return typeof value === 'number' || typeof value === 'boolean'
}

function parseSignatures(sigs: Record<string, unknown>, body: Body, message: Uint8Array | undefined): Signatures {
  const entries = Object.entries(sigs)
  if (entries.length === 0 || entries.length > LIMITS.signatures)
    throw invalid('sigs', `must hold 1 to ${LIMITS.signatures} signatures`)
  // Only a root operation has co-signers, and roots make no edits; admission.ts knows what else is none.
  const mayCosign = body.type !== 'edit'
  if (body.type !== 'genesis' && !Object.hasOwn(sigs, body.by)) throw invalid('sigs', 'lacks the author’s signature')
  if (!mayCosign && entries.length > 1) throw invalid('sigs', FOREIGN_SIGNATURES)
  const checked: Record<string, string> = {}
  for (const [key, signature] of entries.toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    if ('roots' in body && !body.roots.includes(key))
      throw invalid('sigs', 'has a signature of a key that is not a root')
    if (message !== undefined && !verifySignature(key, message, signature as string))
      throw invalid('sigs', `the signature of ${key} is not valid`)
    checked[key] = signature as string
  }
  return checked
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(field: string, message: string): MeshError {
  return new MeshError('envelope_invalid', clip(`${field}: ${message}`), { field: clip(field) })
}

/** What a stranger wrote is quoted in errors, but not at any length. */
function clip(text: string): string {
  return text.length <= QUOTED_MAX ? text : `${text.slice(0, QUOTED_MAX)}…`
}

function isTarget(value: string): boolean {
  const [form, hex, rest] = value.split('/')
  return (form === 'grant' || form === 'key') && rest === undefined && isHex(hex, 64)
}
