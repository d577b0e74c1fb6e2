/**
 * Certificates for tests, made by openssl in a temporary directory: authorities, and what they sign. Elliptic keys, since
 * they are made in no time.
 */

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface TestCertificate {
  /** PEM. */
  readonly certificate: string
  readonly key: string
}

const P256 = ['ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']

/** @param issuer signs it; else it is its own authority. @param algorithm as openssl wants to be told */
export function makeCertificate(
  hosts: readonly string[],
  issuer?: TestCertificate,
  algorithm: readonly string[] = P256,
): TestCertificate {
  const directory = mkdtempSync(join(tmpdir(), 'nxmesh-certificate-'))
  try {
    const [key, certificate] = [join(directory, 'key.pem'), join(directory, 'certificate.pem')]
    const names = `subjectAltName=${hosts.map((host) => `DNS:${host}`).join()}`
    const signing: string[] = []
    if (issuer !== undefined) {
      const [caKey, ca] = [join(directory, 'ca.key'), join(directory, 'ca.pem')]
      writeFileSync(caKey, issuer.key, { mode: 0o600 })
      writeFileSync(ca, issuer.certificate)
      signing.push('-CA', ca, '-CAkey', caKey, '-addext', 'basicConstraints=critical,CA:FALSE')
    }
    const what = ['req', '-x509', '-newkey', ...algorithm, '-nodes', '-days', '2']
    const files = ['-keyout', key, '-out', certificate]
    execFileSync('openssl', [...what, ...files, '-subj', `/CN=${hosts[0]}`, '-addext', names, ...signing], {
      stdio: 'ignore',
    })
    return { certificate: readFileSync(certificate, 'utf8'), key: readFileSync(key, 'utf8') }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** The YAML of a Certificate of zone `*` whose key is the secret of the same name. */
export function certificateYaml(
  name: string,
  { certificate }: Pick<TestCertificate, 'certificate'>,
  key = name,
): string {
  return JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Certificate',
    metadata: { name, zone: '*' },
    spec: { certificate, ...(key === '' ? {} : { key: { secret: key } }) },
  })
}

/** The YAML of a Secret of zone `*` that nobody can open: tests give its text themselves. */
export function secretYaml(name: string): string {
  const spec = { sealed: ['0'.repeat(32), 'AAAA'] }
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Secret', metadata: { name, zone: '*' }, spec })
}

/** What `RenderInput.secrets` holds for keys by name. */
export function secretsOf(keys: Readonly<Record<string, TestCertificate>>): ReadonlyMap<string, string> {
  return new Map(Object.entries(keys).map(([name, { key }]) => [`default/*/secret/${name}`, key]))
}
