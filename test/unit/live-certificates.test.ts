/** Which certificates go to workers without a reload, and which stay in files; what of them stands where. */

import { X509Certificate } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { certificateKeysIn } from '../../src/nginx/rendering/certificate-program.ts'
import { fingerprintOf } from '../../src/nginx/rendering/certificates.ts'
import { servedKeys } from '../../src/nginx/rendering/live.ts'
import { renderLive } from '../../src/nginx/rendering/live-state.ts'
import {
  certificateYaml,
  makeCertificate,
  secretsOf,
  secretYaml,
  type TestCertificate,
} from '../support/certificates.ts'
import { DEBIAN_12, LAYOUT, renderYaml } from '../support/resources.ts'

const HOST = { ...LAYOUT, modules: ['/modules/ndk_http_module.so', '/modules/ngx_http_lua_module.so'] }
const authority = makeCertificate(['authority'])
const [first, second] = [1, 2].map(() => makeCertificate(['a.example'], authority)) as [
  TestCertificate,
  TestCertificate,
]

function site(tls: object, rest: object = {}, name = 'a', workspace = 'default'): string {
  const routes = { root: { path: '/', return: { status: 200, body: name } } }
  const spec = { hosts: [`${name}.example`], listeners: { https: { port: 443, tls } }, routes, ...rest }
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name, zone: '*', workspace }, spec })
}

function rendered(pair: TestCertificate, sites = site({ certificate: 'a' }), changes: object = {}) {
  const yaml = [certificateYaml('a', pair), certificateYaml('ca', authority, ''), secretYaml('a'), sites].join(
    '\n---\n',
  )
  return renderYaml(yaml, { host: HOST, secrets: secretsOf({ a: pair }), ...changes })
}

const siteOf = ({ units }: ReturnType<typeof rendered>) => {
  const [unit] = units.filter(({ kind }) => kind === 'site')
  if (unit === undefined) throw new Error('the site is not rendered')
  return unit
}
const entriesOf = ({ live }: ReturnType<typeof rendered>) =>
  [...(live ?? [])].filter(([key]) => key.includes(':certificate:'))

test('a renewed certificate leaves the generation equal, and its key stands in no part of it', () => {
  const [one, two] = [rendered(first), rendered(second)]
  expect(two.generation.digest).toBe(one.generation.digest)
  expect([one.generation.files, siteOf(one).files]).toEqual([[], []])
  expect(siteOf(one).modules).toContain('http_lua')
  expect(one.problems).toEqual([])
  for (const [pair, rendering] of [
    [first, one],
    [second, two],
  ] as const) {
    const [[key, line]] = entriesOf(rendering) as [[string, string]]
    expect(certificateKeysIn(siteOf(rendering).text)).toEqual([key])
    expect(fingerprintOf(line)).toBe(new X509Certificate(pair.certificate).fingerprint256)
    expect(line.split(' ')).toHaveLength(3)
  }
})

test('the live part alone holds the same', () => {
  const { live, input } = rendered(first)
  expect(renderLive(input)).toEqual(live)
})

test('a key of another certificate is a problem, and no entry', () => {
  const { live, problems } = rendered(first, undefined, { secrets: secretsOf({ a: second }) })
  expect(problems).toMatchObject([{ path: 'default/*/site/a', code: 'reference' }])
  expect([...(live ?? [])]).toEqual([])
})

describe('in files stays', () => {
  const weak = makeCertificate(['a.example'], undefined, ['rsa:512'])
  test.each<[string, () => ReturnType<typeof rendered>]>([
    ['what nginx might refuse', () => rendered(weak)],
    [
      'what stands beside clients’ certificates',
      () => rendered(first, site({ certificate: 'a', clientCertificate: { ca: 'ca' } })),
    ],
    [
      'what people wrote more of',
      () => rendered(first, site({ certificate: 'a' }, { privileged: { serverSnippet: 'ssl_stapling on;' } })),
    ],
    ['all, with the lane off', () => rendered(first, undefined, { host: { ...HOST, liveLane: false } })],
    ['all, without the module', () => rendered(first, undefined, { host: LAYOUT })],
    ['all, with an old nginx', () => rendered(first, undefined, { capabilities: { ...DEBIAN_12, version: '1.14.2' } })],
  ])('%s', (_, make) => {
    const rendering = make()
    expect(entriesOf(rendering)).toEqual([])
    expect(siteOf(rendering).text).toContain(`ssl_certificate ${LAYOUT.directory}/objects/`)
    expect(siteOf(rendering).text).not.toContain('nxmesh.certify')
    expect(siteOf(rendering).files?.length).toBeGreaterThan(1)
  })

  test('what is more than the lane holds, of the youngest', () => {
    const long = { certificate: `${first.certificate}${authority.certificate.repeat(15)}`, key: first.key }
    const sites = Array.from({ length: 400 }, (_, index) => site({ certificate: 'a' }, {}, `s${index}`))
    const rendering = rendered(long, sites.join('\n---\n'))
    const bytes = entriesOf(rendering).reduce((sum, [, line]) => sum + line.length, 0)
    expect(bytes).toBeGreaterThan(4_000_000)
    expect(bytes).toBeLessThanOrEqual(4 * 1024 * 1024)
    const [live, filed] = [true, false].map((isLive) =>
      rendering.units.filter(({ kind, text }) => kind === 'site' && text.includes('nxmesh.certify') === isLive),
    )
    expect(live).toHaveLength(entriesOf(rendering).length)
    expect((live?.length ?? 0) + (filed?.length ?? 0)).toBe(400)
    expect(filed?.every(({ files = [] }) => files.length === 2)).toBe(true)
  })
})

test('two listeners of one site have each the certificate that it names', () => {
  const listeners = {
    one: { port: 443, tls: { certificate: 'a' } },
    two: { port: 8443, tls: { certificate: 'b' } },
    three: { port: 9443, tls: { certificate: 'a' } },
  }
  const yaml = [
    certificateYaml('a', first),
    secretYaml('a'),
    certificateYaml('b', second),
    secretYaml('b'),
    site({}, { listeners }),
  ]
  const rendering = renderYaml(yaml.join('\n---\n'), { host: HOST, secrets: secretsOf({ a: first, b: second }) })
  const entries = new Map(entriesOf(rendering))
  const keys = certificateKeysIn(siteOf(rendering).text)
  expect(keys.map((key) => fingerprintOf(entries.get(key) ?? '')).toSorted()).toEqual(
    [first, second].map(({ certificate }) => new X509Certificate(certificate).fingerprint256).toSorted(),
  )
})

test('a key is served no longer than a text of its site names it', () => {
  const unit = siteOf(rendered(first))
  const [key] = certificateKeysIn(unit.text) as [string]
  expect(servedKeys([unit])(key)).toBe(true)
  expect(servedKeys([{ ...unit, text: 'server { }' }])(key)).toBe(false)
  expect(servedKeys([{ ...unit, path: 'default/*/site/b' }])(key)).toBe(false)
})
