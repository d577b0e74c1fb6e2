import { X509Certificate } from 'node:crypto'
import { expect, test } from 'vitest'
import type { Log } from '../../src/log.ts'
import { ServedCertificates } from '../../src/served-certificates.ts'
import { certificateYaml, makeCertificate } from '../support/certificates.ts'
import { sliceOf, statesOf } from '../support/resources.ts'
import { silentLog } from '../support/silent-log.ts'

const pair = makeCertificate(['a.example', '*.a.example'])
const end = Date.parse(new X509Certificate(pair.certificate).validTo)
const DAY = 24 * 3600 * 1000

function site(name: string, hosts: readonly string[], certificate = 'a'): string {
  const listeners = { https: { port: 443, tls: { certificate } } }
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name }, spec: { hosts, listeners } })
}
const sliceWith = (...sites: string[]) => sliceOf(statesOf([certificateYaml('a', pair), ...sites].join('\n---\n')))

/** A log that keeps what it is warned of. */
function keptLog(): { log: Log; warnings: { message: string; fields: unknown }[] } {
  const warnings: { message: string; fields: unknown }[] = []
  const log: Log = {
    ...silentLog(),
    warn: (message: string, fields?: unknown) => void warnings.push({ message, fields }),
  }
  return { log, warnings }
}

test('what sites serve is told from 14 days before it expires, and what none serves is not', () => {
  const served = new ServedCertificates(silentLog())
  served.take(sliceWith())
  expect(served.facts(end)).toEqual({ expired: 0, expiring: 0, misnamed: 0, firstExpiry: undefined })
  served.take(sliceWith(site('s', ['a.example']), site('t', ['b.a.example'])))
  const at = (time: number) => served.facts(time)
  expect(at(end - 15 * DAY)).toEqual({ expired: 0, expiring: 0, misnamed: 0, firstExpiry: end })
  expect(at(end - 13 * DAY)).toMatchObject({ expired: 0, expiring: 1 })
  expect(at(end)).toMatchObject({ expired: 1, expiring: 0 })
})

test('certificates of streams are told as those of sites are', () => {
  const stream = (name: string, hosts?: readonly string[]) => {
    const spec = { upstream: 'u', listeners: { m: { port: 1, tls: { certificate: 'a' } } }, ...(hosts && { hosts }) }
    return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Stream', metadata: { name }, spec })
  }
  const served = new ServedCertificates(silentLog())
  served.take(sliceWith(stream('whole'), stream('named', ['a.example']), stream('other', ['b.example'])))
  expect(served.facts(end - DAY)).toEqual({ expired: 0, expiring: 1, misnamed: 1, firstExpiry: end })
})

test('hosts that a certificate does not name are told by site', () => {
  const served = new ServedCertificates(silentLog())
  const slice = sliceWith(
    site('named', ['a.example', 'x.a.example', '*.a.example']),
    site('whatever', ['*']),
    site('other', ['a.example', 'b.example']),
    site('deep', ['x.y.a.example']),
    site('nowhere', ['b.example'], 'none'),
  )
  served.take(slice)
  expect(served.facts(0).misnamed).toBe(2)
})

test('the log names them once, and again when that changes', () => {
  const { log, warnings } = keptLog()
  const served = new ServedCertificates(log)
  const slice = sliceWith(site('s', ['b.example']))
  const look = (taken: typeof slice) => {
    served.take(taken)
    served.facts(end - DAY)
  }
  look(slice)
  look(slice)
  const date = new Date(end).toISOString().slice(0, 10)
  expect(warnings).toEqual([
    {
      message: 'certificates of sites expire',
      fields: { certificates: [`default/*/certificate/a on ${date}`], count: 1 },
    },
    {
      message: 'sites have hosts that their certificates do not name',
      fields: { sites: ['default/*/site/s by default/*/certificate/a'], count: 1 },
    },
  ])
  look(sliceWith(site('s', ['a.example'])))
  expect(warnings).toHaveLength(3)
})
