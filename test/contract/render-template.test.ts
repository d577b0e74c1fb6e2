import { afterAll, beforeAll, expect, test } from 'vitest'
import { GuardedHost } from '../support/guarded-host.ts'

let host: GuardedHost

beforeAll(async () => {
  host = await GuardedHost.start(({ backend }) => yaml(backend))
})
afterAll(() => host?.stop())

test('sites of one template are served as it says, each with its own values and words', async () => {
  const first = await host.get('first', '/')
  expect(first).toMatchObject({ status: 200, headers: { 'x-served-by': 'first of the mesh' } })
  expect(first.body).toContain('from the backend')
  expect(await host.get('first', '/teapot')).toMatchObject({ status: 418, body: 'short and stout' })
  const second = await host.get('second', '/')
  expect(second).toMatchObject({ headers: { 'x-served-by': 'second', 'x-own': 'too' } })
  expect(await host.get('second', '/teapot')).toMatchObject({ status: 200, body: 'coffee' })
})

test('a value is text wherever it stands, whatever it looks like', async () => {
  expect(await host.get('odd', '/teapot')).toMatchObject({ status: 200, body: '"; } return 500; # $host {{name}}' })
})

function yaml(port: number): string {
  const resource = (kind: string, name: string, spec: object) =>
    JSON.stringify({ apiVersion: 'nxmesh/v1', kind, metadata: { name }, spec })
  const site = (name: string, values: object, spec: object = {}) =>
    resource('Site', name, { hosts: [`${name}.example`], template: { name: 'web', values }, ...spec })
  const said = (body: string) => ({ responseHeaders: { set: { 'X-Own': 'too' } }, routes: teapot(200, body) })
  const teapot = (status: number | string, body: string) => ({ tea: { path: '/teapot', return: { status, body } } })
  return [
    resource('Template', 'web', {
      parameters: {
        name: {},
        of: { default: '' },
        status: { default: 418 },
        body: { default: 'short and stout' },
      },
      site: {
        responseHeaders: { set: { 'X-Served-By': '{{name}}{{of}}' } },
        routes: { all: { path: '/', proxy: { upstream: 'app-{{name}}' } }, ...teapot('{{status}}', '{{body}}') },
      },
    }),
    resource('Template', 'local', {
      parameters: { port: {} },
      upstream: { endpoints: { '127.0.0.1:{{port}}': {} } },
    }),
    ...['first', 'second', 'odd'].map((name) =>
      resource('Upstream', `app-${name}`, { template: { name: 'local', values: { port } } }),
    ),
    site('first', { name: 'first', of: ' of the mesh' }),
    site('second', { name: 'second' }, said('coffee')),
    site('odd', { name: 'odd', status: 200, body: '"; } return 500; # $host {{name}}' }),
  ].join('\n---\n')
}
