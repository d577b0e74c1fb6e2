/**
 * From a reference to a Certificate to the files that nginx reads. Finds what nginx would refuse, and say of no site in
 * particular: a key that is none, or that belongs to another certificate. Pure; called by render.ts for listeners, and
 * for what proxies verify and show.
 */

import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import { sha256 } from '../../core/canonical.ts'
import { Memo } from '../../core/memo.ts'
import { resourcePath } from '../../core/names.ts'
import type { CertificateSpec } from '../../core/resources/certificate.ts'
import { isCertificate, isSecret, type Problem, type Slice, type SliceResource } from '../../core/slice.ts'
import { missing, nearest } from '../../core/references.ts'
import { secretText } from './secret-text.ts'
import { unitFile } from './unit-files.ts'
import type { UnitFile } from './unit.ts'

export interface KeyPairFiles {
  readonly certificate: UnitFile
  readonly key: UnitFile
}

type Certificate = SliceResource<CertificateSpec>
type Referrer = Pick<SliceResource, 'path' | 'name'>

/** Ending of the files of chains, by which a probe finds what should be served. */
export const CHAIN_EXTENSION = 'crt'

/** Checking a pair takes a quarter of a millisecond. Holds what is wrong as words. */
const checked = new Memo<{ readonly fault?: string; readonly hint?: string }>()

/** As workers are told them; nothing for those that nginx may refuse. */
const told = new Memo<string>()

/** What common distributions take, whatever the policy; see livePair. */
const STRONG_CURVES: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1'])
const STRONG_RSA_BITS = 2048
const STRONG_SIGNATURE = /^(?:sha(?:256|384|512)WithRSAEncryption|ecdsa-with-SHA(?:256|384|512))$/

/** What certificates and secrets there were in the last round, and its number. */
let before: { readonly parts: readonly string[]; readonly round: number } = { parts: [], round: 0 }

/** The same number as before when no certificate and no secret has changed; only speed depends on it. */
function roundOf({ resources, problems }: Slice, secrets: ReadonlyMap<string, string>): number {
  const parts = [
    ...resources.filter((each) => isCertificate(each) || isSecret(each)).flatMap(({ path, hash }) => [path, hash]),
    ...problems.map(({ path }) => path),
    ...[...secrets].flat(),
  ]
  const isSame = parts.length === before.parts.length && parts.every((part, index) => part === before.parts[index])
  if (!isSame) {
    before = { parts, round: before.round + 1 }
    checked.turn()
    told.turn()
  }
  return before.round
}

/** The certificates of one slice, with the texts of secrets. */
export class Certificates {
  /** Another one whenever any certificate or secret is another. */
  readonly round: number
  readonly #known: ReadonlySet<string>
  readonly #certificates: ReadonlyMap<string, Certificate>
  readonly #secrets: ReadonlyMap<string, string>

  constructor(slice: Slice, secrets: ReadonlyMap<string, string>) {
    const { resources, problems } = slice
    this.round = roundOf(slice, secrets)
    this.#known = new Set([...resources, ...problems].map(({ path }) => path))
    this.#certificates = new Map(resources.filter(isCertificate).map((each) => [each.path, each]))
    this.#secrets = secrets
  }

  /** What a listener serves, or a proxy shows: chain and key, which belong together. */
  keyPair(referrer: Referrer, name: string): KeyPairFiles | Problem {
    const certificate = this.#find(referrer, name)
    if ('code' in certificate) return certificate
    const { key: reference, certificate: chain } = certificate.spec
    const refused = (message: string, hint: string): Problem => ({
      path: referrer.path,
      code: 'reference',
      message,
      hint,
    })
    if (reference === undefined)
      return refused(
        `the certificate ${name} has no key`,
        'seal the key with meshctl secret set, and name it in key.secret',
      )
    const text = secretText(certificate, reference.secret, this.#known, this.#secrets)
    if (typeof text !== 'string') return { ...text, path: referrer.path }
    const { fault, hint = '' } = checked.get(`${certificate.hash} ${sha256(text)}`, () => checkPair(chain, text))
    if (fault !== undefined) return refused(`the secret ${reference.secret} ${fault} ${name}`, hint)
    return { certificate: chainFile(certificate), key: unitFile(text, 'key', 'master') }
  }

  /**
   * The same as one line for workers: `<version> <chain> <key>`, both PEM in base64. Undefined where there is none, or where
   * nginx might not take it: then it has to be asked.
   */
  livePair(referrer: Referrer, name: string): string | undefined {
    const pair = this.keyPair(referrer, name)
    if ('code' in pair) return undefined
    const version = sha256(`${pair.certificate.name} ${pair.key.name}`).slice(0, 32)
    return told.get(version, () => lineOf(version, pair, this.#find(referrer, name))) || undefined
  }

  /** Authorities to verify by. */
  authorities(referrer: Referrer, name: string): UnitFile | Problem {
    const certificate = this.#find(referrer, name)
    return 'code' in certificate ? certificate : chainFile(certificate)
  }

  #find(referrer: Referrer, name: string): Certificate | Problem {
    const found = nearest(referrer, 'certificate', name, this.#known)
    if (found === undefined) return missing(referrer, 'Certificate', name)
    const certificate = this.#certificates.get(resourcePath(found))
    if (certificate !== undefined) return certificate
    const message = `the certificate ${name} of zone ${found.zone} has a problem of its own`
    return { path: referrer.path, code: 'reference', message, hint: 'correct it: its problem says how' }
  }
}

function chainFile({ spec }: Certificate): UnitFile {
  return unitFile(spec.certificate.map((text) => `${text.trim()}\n`).join(''), CHAIN_EXTENSION, 'master')
}

function lineOf(version: string, { certificate, key }: KeyPairFiles, found: Certificate | Problem): string {
  if ('code' in found || !found.spec.certificate.every(isStrong)) return ''
  const pem = createPrivateKey(key.text).export({ type: 'pkcs8', format: 'pem' })
  return [version, ...[certificate.text, pem].map((text) => Buffer.from(text).toString('base64'))].join(' ')
}

function isStrong(pem: string): boolean {
  const { publicKey, signatureAlgorithm } = new X509Certificate(pem)
  const { asymmetricKeyType: type, asymmetricKeyDetails: { modulusLength = 0, namedCurve = '' } = {} } = publicKey
  const isStrongKey =
    (type === 'rsa' && modulusLength >= STRONG_RSA_BITS) || (type === 'ec' && STRONG_CURVES.has(namedCurve))
  // Runtimes that do not tell have everything in files.
  return isStrongKey && STRONG_SIGNATURE.test(signatureAlgorithm ?? '')
}

/** Of the host's own certificate in such a line. */
export function fingerprintOf(line: string): string {
  return new X509Certificate(Buffer.from(line.split(' ')[1] ?? '', 'base64')).fingerprint256
}

function checkPair(chain: readonly string[], text: string): { readonly fault?: string; readonly hint?: string } {
  const key = privateKey(text)
  if (key === undefined) {
    const hint = 'seal the key in PEM form, without a passphrase: meshctl secret rotate'
    return { fault: 'holds no private key in PEM form for the certificate', hint }
  }
  const index = chain.findIndex((each) => new X509Certificate(each).checkPrivateKey(key))
  if (index === 0) return {}
  const hint =
    index > 0
      ? `it belongs to number ${index + 1} of the chain: the host's own certificate stands first`
      : 'put the key that the certificate was made for into the secret: meshctl secret rotate'
  return { fault: 'holds a private key that does not belong to the certificate', hint }
}

function privateKey(text: string): KeyObject | undefined {
  try {
    return createPrivateKey(text)
  } catch {
    return undefined
  }
}
