/**
 * The kind Certificate: a chain in PEM, and the Secret that holds its private key. A listener of a site serves it; without
 * a key it is a bundle of authorities that clients or upstreams are verified by. Whether key and certificate belong
 * together is found where the secret can be opened: src/nginx/rendering/certificates.ts.
 */

import { X509Certificate } from 'node:crypto'
import { z } from 'zod'
import { labels, reference, text, type Fault } from './fields.ts'
import { isTree, type Kind, type Tree } from './kind.ts'

/** Certificates of one chain or bundle. */
const CHAIN_MAX = 16
const BLOCK = /-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g
const PRIVATE_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----/

const pem = text(judgePem, { maxBytes: 8_192, lines: true })

const schema = z.strictObject({
  nodeSelector: labels.optional(),
  /** PEM, one certificate each: the host's own first, then those that lead to the root. */
  certificate: z.array(pem).min(1).max(CHAIN_MAX),
  key: z.strictObject({ secret: reference }).optional(),
})

export type CertificateSpec = z.output<typeof schema>

function judgePem(value: string): Fault | undefined {
  if (PRIVATE_KEY.test(value)) {
    const hint = 'resources are read by all nodes: seal the key with meshctl secret set, and name it in key.secret'
    return { message: 'holds a private key', hint }
  }
  const [block, ...more] = value.match(BLOCK) ?? []
  if (block === undefined || block.length !== value.trim().length || more.length > 0)
    return { message: 'is not a certificate in PEM form', hint: 'it begins with -----BEGIN CERTIFICATE-----' }
  try {
    return new X509Certificate(value).raw.length > 0 ? undefined : { message: 'is empty' }
  } catch (error) {
    return { message: `is not a certificate: ${(error as Error).message}`, hint: 'copy the whole file' }
  }
}

/** One text for each certificate, whether they were written as one text or as several. Comments between them go. */
function splitChain(spec: Tree): Tree {
  const { certificate } = spec
  const texts = Array.isArray(certificate) ? certificate : [certificate]
  const blocks = texts.flatMap((each: unknown) => {
    const found = typeof each === 'string' && !PRIVATE_KEY.test(each) ? each.match(BLOCK) : null
    return found === null ? [each] : found.map((block) => `${block.trim().replace(/\s*\n\s*/g, '\n')}\n`)
  })
  return certificate === undefined || isTree(certificate) ? spec : { ...spec, certificate: blocks }
}

export const certificateKind = {
  kind: 'Certificate',
  path: 'certificate',
  plural: 'certificates',
  schema,
  sets: [],
  items: [],
  complete: splitChain,
} as const satisfies Kind<CertificateSpec>
