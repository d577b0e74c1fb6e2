/** Walks the registry and holds every metric to the naming rules; then what HTTP and stored envelopes count as. */

import { expect, test } from 'vitest'
import { toWire } from '../../src/core/codec.ts'
import { createMetrics, LABELS } from '../../src/metrics.ts'
import { Replica } from '../../src/replica.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { MemoryStore } from '../support/memory-store.ts'
import { silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const ROUTES = ['/health', '/v1/edits/:id']

test('every metric obeys the naming rules', async () => {
  const metrics = createMetrics({ routes: ROUTES })
  // A closed set is one that is written down: these, the routes, and what the process reports about itself.
  const known = new Set<string>([...Object.values(LABELS).flat(), ...ROUTES, 'other'])
  const own = (await metrics.registry.getMetricsAsJSON()).filter(({ name }) => !/^(process|nodejs)_/.test(name))
  expect(own.length).toBeGreaterThan(25)
  for (const { name, type, help, values } of own) {
    expect(name).toMatch(/^nxmesh_[a-z0-9_]+$/)
    expect(help, name).toMatch(/^[A-Z0-9].*\.$/)
    for (const { labels } of values) {
      for (const [label, value] of Object.entries(labels)) {
        if (label === 'le') continue
        expect(label, name).not.toMatch(/peer|node|key|path|author|workspace|zone|name/)
        expect(known.has(String(value)), `${name}{${label}="${value}"}`).toBe(true)
      }
    }
    // prom-client's type is the enum's text here.
    if (String(type) === 'histogram') expect(name).toMatch(/_(seconds|bytes)$/)
  }
})

test('counters alone end in _total, and units are base units, those of the process included', async () => {
  const metrics = createMetrics()
  for (const { name, type } of await metrics.registry.getMetricsAsJSON()) {
    expect(name.endsWith('_total'), `${name} is a ${type}`).toBe(String(type) === 'counter')
    expect(name).not.toMatch(/_(ms|millis|milliseconds|minutes|kb|mb|kilobytes|percent)(_|$)/)
  }
})

test('starts at zero for every combination, and nodes of one process do not share', async () => {
  const [one, two] = [createMetrics(), createMetrics()]
  one.edits.inc({ outcome: 'stored', source: 'gossip' })
  expect(await one.text()).toContain('nxmesh_edits_total{outcome="stored",source="gossip"} 1')
  expect(await two.text()).toContain('nxmesh_edits_total{outcome="stored",source="gossip"} 0')
  expect(await two.text()).toContain('nxmesh_apply_phase_seconds_count{phase="verify"} 0')
  expect(one.contentType).toContain('text/plain')
})

test('HTTP is counted by route pattern and status class, whatever is asked for', async () => {
  const metrics = createMetrics({ routes: ROUTES })
  metrics.observeHttp('/v1/edits/:id', 202, 0.01)
  metrics.observeHttp('/v1/edits/what-was-asked-for', 404, 0.01)
  metrics.observeHttp(undefined, 999, 0.01)
  const text = await metrics.text()
  expect(text).toContain('nxmesh_http_requests_total{route="/v1/edits/:id",status="2xx"} 1')
  expect(text).toContain('nxmesh_http_requests_total{route="other",status="4xx"} 1')
  expect(text).toContain('nxmesh_http_requests_total{route="other",status="5xx"} 1')
  expect(text).not.toContain('what-was-asked-for')
  expect(text).toContain('nxmesh_http_request_seconds_count{route="other"} 2')
})

test('what is stored counts by the verdict on it: a void edit that is kept is told from one that counts', async () => {
  const mesh = new TestMesh()
  const metrics = createMetrics()
  const clock = new VirtualClock()
  await using stack = new AsyncDisposableStack()
  const replica = new Replica({ store: new MemoryStore(), clock, log: silentLog(), metrics, meshId: mesh.id })
  stack.defer(() => replica.stop())
  await replica.start()
  const eve = keyOf('eve')
  const grant = mesh.grant(eve.publicKey, 'editor')
  const edit = (name: string) =>
    mesh.edit(`default/eu/site/${name}`, [['set', '$', true]], { by: eve, grant: grant.id })
  const kept = edit('kept')
  await replica.submit([...mesh.founding, grant, kept].map(toWire), 'sync')
  const stored = 'nxmesh_verdicts_total{verdict="accepted",source="sync"}'
  const count = mesh.founding.length + 2
  expect(await metrics.text()).toContain(`${stored} ${count}\n`)
  await replica.submit([mesh.revoke(`grant/${grant.id}`, [kept.id]), edit('void')].map(toWire), 'sync')
  // Known before, so not stored again.
  await replica.submit([toWire(kept)], 'gossip')
  const text = await metrics.text()
  expect(text).toContain(`${stored} ${count + 1}\n`)
  expect(text).toContain('nxmesh_verdicts_total{verdict="void",source="sync"} 1\n')
  expect(text).toContain('nxmesh_verdicts_total{verdict="accepted",source="gossip"} 0\n')
})
