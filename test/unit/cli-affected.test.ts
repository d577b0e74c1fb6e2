/** `meshctl plan`: which sites an edit of other resources changes, and which would be refused, before it is made. */

import { expect, test } from 'vitest'
import type { ResourceView } from '../../src/api/schemas.ts'
import { parseSources } from '../../src/cli/resources/documents.ts'
import { affectedLines } from '../../src/cli/resources/sites-affected.ts'

const parse = (yaml: string) => parseSources([{ name: 'test.yaml', text: yaml }])

/** What there is, as a node tells of it. */
const views = (yaml: string) =>
  parse(yaml).map(
    ({ path, fields }, index) =>
      ({
        path,
        fields: Object.fromEntries(fields),
        created: { at: index, edit: 'e'.repeat(64), by: 'b'.repeat(64) },
      }) as unknown as ResourceView,
  )

const document = (kind: string, place: string, spec: object) => {
  const [workspace, zone, name] = place.split('/')
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind, metadata: { workspace, zone, name }, spec })
}
const fixed = (body: string) => ({ root: { path: '/', return: { status: 200, body } } })
const site = (place: string, spec: object = {}) =>
  document('Site', place, { hosts: [`${place.replaceAll('/', '-')}.example`], routes: fixed('here'), ...spec })
const template = (body: string) =>
  document('Template', 'shop/*/page', { parameters: { size: {} }, site: { routes: { page: { path: body } } } }).replace(
    '"path":',
    '"return":{"status":200},"maxBodySize":"{{size}}","path":',
  )
const settings = (place: string, defaults: object) => document('ZoneSettings', `${place}/settings`, { defaults })
const yaml = (...documents: string[]) => documents.join('\n---\n')

test('a template: the sites that use it, and those that it would make invalid', () => {
  const there = views(
    yaml(
      template('/a'),
      site('shop/eu/uses', { template: { name: 'page', values: { size: '1m' } } }),
      site('shop/eu/clashes', {
        template: { name: 'page', values: { size: '1m' } },
        routes: { own: { path: '/b', return: { status: 200 } } },
      }),
      site('shop/eu/other'),
      site('mall/eu/uses'),
    ),
  )
  expect(affectedLines(parse(template('/a')), there)).toEqual([])
  expect(affectedLines(parse(template('/c')), there)).toEqual([
    'shop/eu/site/clashes would change',
    'shop/eu/site/uses would change',
  ])
  expect(affectedLines(parse(template('/b')), there)).toEqual([
    expect.stringMatching(
      /^shop\/eu\/site\/clashes would be refused: with its template shop\/\*\/template\/page: spec\.routes\.\w+\.path is the same as of route \w+; give one of them conditions: when$/,
    ),
    'shop/eu/site/uses would change',
  ])
})

test('defaults: the sites of the zone that say nothing themselves, and those that lack the policy that is named', () => {
  const there = views(
    yaml(
      site('shop/eu.west/plain'),
      site('shop/eu.west/own', { maxBodySize: '3m' }),
      site('shop/us/elsewhere'),
      site('mall/eu.west/neighbour'),
      document('Policy', 'shop/eu.west/office', { access: { deny: ['10.0.0.1'] } }),
      site('shop/eu/around'),
      site('shop/eu/without', { withoutPolicies: ['office'] }),
    ),
  )
  expect(affectedLines(parse(settings('shop/eu', { maxBodySize: '1m' })), there)).toEqual([
    'shop/eu/site/around would change',
    'shop/eu/site/without would change',
    'shop/eu.west/site/plain would change',
  ])
  expect(affectedLines(parse(settings('shop/eu', { policies: ['office'] })), there)).toEqual([
    'shop/eu/site/around would be refused: there is no policy office, which the defaults of its zones name; create a Policy office in workspace shop and zone eu or *',
    'shop/eu.west/site/own would change',
    'shop/eu.west/site/plain would change',
  ])
})

test('defaults of the workspace default reach the sites of every workspace', () => {
  const there = views(yaml(site('shop/eu/a'), site('mall/us/b')))
  const wanted = parse(settings('default/*', { responseHeaders: { set: { 'X-All': '1' } } }))
  expect(affectedLines(wanted, there)).toEqual(['shop/eu/site/a would change', 'mall/us/site/b would change'])
})

test('a site itself is told of when it would be refused, and no fault that it has already', () => {
  const broken = site('shop/eu/a', { routes: { root: { path: '/', proxy: { upstream: 'app' } } } })
  const line =
    'shop/eu/site/a would be refused: there is no upstream app; create an Upstream app in workspace shop and zone eu or *'
  expect(affectedLines(parse(broken), [])).toEqual([line])
  expect(affectedLines(parse(broken), views(broken))).toEqual([])
  const upstream = document('Upstream', 'shop/eu/app', { endpoints: { '10.0.0.1:80': {} } })
  expect(affectedLines(parse(yaml(broken, upstream)), [])).toEqual([])
  expect(affectedLines(parse(upstream), views(broken))).toEqual(['shop/eu/site/a would change'])
})

test('a policy: the sites that name it', () => {
  const limit = (rate: string) => document('Policy', 'shop/*/slow', { rateLimit: { limits: { all: { rate } } } })
  const there = views(yaml(limit('1r/s'), site('shop/eu/a', { policies: ['slow'] }), site('shop/eu/b')))
  expect(affectedLines(parse(limit('1r/s')), there)).toEqual([])
  expect(affectedLines(parse(limit('2r/s')), there)).toEqual(['shop/eu/site/a would change'])
})

test('what is sealed is not judged', () => {
  const tls = site('shop/eu/a', { listeners: { tls: { port: 443, tls: { certificate: 'shop' } } } })
  const secret = views(document('Policy', 'shop/eu/staff', { access: { deny: [] } })).map((view) => ({
    ...view,
    path: 'shop/eu/secret/staff',
    fields: { version: 1, sealed: 'x' },
  }))
  const staff = document('Policy', 'shop/eu/staff', { basicAuth: { secret: 'staff' } })
  const guarded = site('shop/eu/guarded', { policies: ['staff'] })
  expect(affectedLines(parse(yaml(staff, guarded)), secret)).toEqual([])
  expect(affectedLines(parse(yaml(staff, guarded)), [])).toEqual([
    expect.stringContaining(
      'shop/eu/site/guarded would be refused: its policy shop/eu/policy/staff is not in force here: there is no secret staff',
    ),
  ])
  expect(affectedLines(parse(settings('shop/eu', { maxBodySize: '1m' })), views(tls))).toEqual([
    'shop/eu/site/a would change',
  ])
})

test('so many sites are named, and the others counted', () => {
  const there = views(yaml(...Array.from({ length: 60 }, (_, index) => site(`shop/eu/s${index}`))))
  const lines = affectedLines(parse(settings('shop/eu', { maxBodySize: '1m' })), there)
  expect(lines).toHaveLength(51)
  expect(lines.at(-1)).toBe('10 more sites would change')
})
