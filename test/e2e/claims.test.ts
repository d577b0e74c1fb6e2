/** Sites that want the same port in two ways, on a real nginx: what serves goes on serving. */

import { expect, test } from 'vitest'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { renderYaml } from '../support/resources.ts'

function site(name: string, listener: string, route = 'return: { status: 200 }'): string {
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, zone: eu }
spec: { hosts: [${name}.test], listeners: { l: ${listener} }, routes: { r: { path: /, ${route} } } }
`
}

test.each([
  ['one that cannot be rendered', 'proxy: { upstream: none }'],
  ['a sound one', 'return: { status: 200 }'],
])('a wildcard site, %s and older, takes no address from others', async (_, route) => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const apply = async (...yamls: string[]) => {
    const { units, problems } = renderYaml(yamls.join('---'), { host: host.layout })
    return await applier.apply({ ...host.request([...units]), problems })
  }
  const served = ['a', 'b'].map((name) => site(name, `{ port: ${port}, address: 127.0.0.1 }`))
  expect(await apply(...served)).toMatchObject({ outcome: 'applied' })
  expect(await apply(site('evil', `{ port: ${port} }`, route), ...served)).toMatchObject({ isolated: [] })
  for (const name of ['a', 'b']) expect((await host.get(port, `${name}.test`)).status).toBe(200)
})
