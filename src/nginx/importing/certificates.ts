/**
 * Certificates that servers name by path, as Certificate resources, and which keys have to be sealed for them: a private key is never read. Pure:
 * whoever calls says what a file holds. Called by import.ts and import-site.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import type { Findings } from './findings.ts'
import { Names } from './names.ts'
import type { Directive } from './parse.ts'
import type { SecretsToSeal } from './secrets-to-seal.ts'

export class Certificates {
  readonly #names = new Names('certificate')
  /** Resource names by the paths of certificate and key. */
  readonly #byPaths = new Map<string, string>()
  readonly #specs = new Map<string, Tree>()
  readonly #secrets: SecretsToSeal
  readonly #read: (path: string) => string | undefined
  readonly #findings: Findings

  constructor(findings: Findings, secrets: SecretsToSeal, read: (path: string) => string | undefined) {
    this.#findings = findings
    this.#secrets = secrets
    this.#read = read
  }

  /** Specs by resource name. */
  get specs(): ReadonlyMap<string, Tree> {
    return this.#specs
  }

  /** The `tls` of this server's listeners; undefined, and said why, where it has no certificate that can be carried. */
  tlsOf(directives: readonly Directive[], host: string): Tree | undefined {
    const first = (name: string): Directive | undefined => directives.find((each) => each.name === name)
    const certificate = first('ssl_certificate')
    const key = first('ssl_certificate_key')
    if (certificate === undefined || key === undefined) return undefined
    const name = this.#reference(certificate, key, host)
    if (name === undefined) return undefined
    const protocols = first('ssl_protocols')?.args ?? []
    const isNewest = protocols.length > 0 && protocols.every((protocol) => protocol === 'TLSv1.3')
    const http2 = directives.some(
      (each) =>
        (each.name === 'listen' && each.args.includes('http2')) || (each.name === 'http2' && each.args[0] === 'on'),
    )
    const client = this.#clientsOf(
      first('ssl_client_certificate'),
      first('ssl_verify_client'),
      first('ssl_verify_depth'),
    )
    return {
      certificate: name,
      ...(isNewest ? { minVersion: 'TLSv1.3' } : {}),
      ...(http2 ? {} : { http2: false }),
      ...(client === undefined ? {} : { clientCertificate: client }),
    }
  }

  #clientsOf(ca: Directive | undefined, verify: Directive | undefined, depth: Directive | undefined): Tree | undefined {
    const mode = verify?.args[0]
    if (ca === undefined || verify === undefined || mode === 'off') return undefined
    const name = mode === 'on' || mode === 'optional' ? this.#reference(ca, undefined, 'clients') : undefined
    if (name !== undefined)
      return {
        ca: name,
        ...(mode === 'optional' ? { mode } : {}),
        ...(depth === undefined ? {} : { depth: Number(depth.args[0]) }),
      }
    this.#findings.lose(verify, 'no listener has a field for it: WITHOUT IT EVERY CLIENT IS LET IN')
    return undefined
  }

  #reference(certificate: Directive, key: Directive | undefined, host: string): string | undefined {
    const [path = ''] = certificate.args
    const file = key?.args[0]
    const paths = `${path}\n${file ?? ''}`
    const known = this.#byPaths.get(paths)
    if (known !== undefined) return known
    const text = path.includes('$') || file?.includes('$') === true ? undefined : this.#read(path)
    if (text === undefined) {
      this.#findings.lose(certificate, 'the file cannot be read: make a Certificate of it, and name it in the listener')
      return undefined
    }
    const name = this.#names.take(host)
    this.#byPaths.set(paths, name)
    const sealed = file === undefined ? {} : { key: { secret: this.#secrets.of(file, `${name}-key`) } }
    this.#specs.set(name, { certificate: text, ...sealed })
    return name
  }
}
