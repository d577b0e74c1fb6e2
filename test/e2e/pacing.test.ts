/**
 * A node with a real nginx under a stream of edits: reloads keep the pace of the zone's settings, and the last edit is served.
 */

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { ServedNode } from '../bench/served-node.ts'
import { freePorts } from '../support/fleet.ts'
import { fetchRoot } from '../support/nginx-host.ts'
import { waitFor } from '../support/wait.ts'

const EDITS = 60
const MAX_WAIT_MS = 1000

test('a stream of edits brings no more reloads than the zone’s pace allows, and the last edit is served', async () => {
  const [port] = (await freePorts(1)) as [number]
  const site = (number: number) => `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: busy }
spec:
  hosts: [busy.test]
  listeners: { main: { port: ${port}, address: 127.0.0.1 } }
  routes: { root: { path: /, return: { status: 200, body: 'edit ${number}' } } }
`
  const settings = `
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings }
spec: { reload: { quietMs: 60000, maxWaitMs: ${MAX_WAIT_MS} } }
`
  const flags = { 'nginx.worker_processes': '1' }
  const served = await ServedNode.start({ resources: `${site(0)}---\n${settings}`, flags })
  try {
    const log = join(served.nginxDirectory, 'logs', 'error.log')
    const reloads = async () => (await readFile(log, 'utf8')).split('signal 1 (SIGHUP) received').length - 1
    const before = await reloads()
    const began = performance.now()
    for (let number = 1; number <= EDITS; number += 1) {
      await served.submit(site(number))
      // Not a wait for anything: edits come in one by one.
      await sleep(50)
    }
    const isServed = async () => (await fetchRoot(port, 'busy.test')).body === `edit ${EDITS}`
    await waitFor(isServed, { what: 'the last edit', timeoutMs: 20_000, everyMs: 20 })
    const elapsed = performance.now() - began
    const count = (await reloads()) - before
    expect(count).toBeGreaterThanOrEqual(1)
    expect(count).toBeLessThanOrEqual(Math.ceil(elapsed / MAX_WAIT_MS))
  } finally {
    await served.stop()
  }
})
