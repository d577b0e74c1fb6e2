/**
 * Each benchmark runs to its end with tiny sizes and prints one JSON object of the promised shape. Speed is not judged here:
 * the machine of a test run is shared. That an edit sets off no storm of status records is, because it is no matter of speed.
 */

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const ENTRY = fileURLToPath(new URL('../bench/main.ts', import.meta.url))

interface Printed {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

function bench(...args: readonly string[]): Promise<Printed> {
  return new Promise((resolve) => {
    execFile(process.execPath, [ENTRY, ...args], { timeout: 110_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr })
    })
  })
}

async function result(
  ...args: readonly string[]
): Promise<{ rows: Record<string, never>[]; aims: { name: string }[] }> {
  const { code, stdout, stderr } = await bench(...args, '--json')
  expect(code, stderr).toBe(0)
  const found = JSON.parse(stdout) as { rows: Record<string, never>[]; aims: { name: string }[] }
  expect(found).toMatchObject({
    bench: args[0],
    machine: { cores: expect.any(Number), node: process.version },
    notes: expect.any(Array),
    options: expect.any(Object),
    tookSeconds: expect.any(Number),
  })
  return found
}

const FIGURES = { count: expect.any(Number), p50: expect.any(Number), p99: expect.any(Number), max: expect.any(Number) }

test('propagation compares the ways of spreading, and edits set off no status records', async () => {
  const args = ['--nodes', '3', '--edits', '6', '--burst', '6', '--settle-ms', '200', '--pause-ms', '5', '--peers', '2']
  const { rows, aims } = await result('propagation', ...args)
  expect(rows.map(({ way }) => way)).toEqual(['push', 'gossipsub', 'bare-gossipsub'])
  for (const row of rows) {
    const shape = { nodes: 3, late: 0, deliveryMs: { ...FIGURES, count: 12 }, toAllMs: { ...FIGURES, count: 6 } }
    expect(row).toMatchObject({ ...shape, cpuMsPerDelivery: expect.any(Number) })
  }
  for (const row of rows.slice(0, 2)) {
    expect(row).toMatchObject({ burst: { edits: 6, toAllMs: expect.any(Number) } })
    expect(row['statusRecordsPerEdit']).toBeLessThan(2)
  }
  expect(aims).toEqual([expect.objectContaining({ name: 'cpu_per_delivery_3_nodes_ms' })])
})

test('join reaches the same state fresh, resumed and after a small difference, in few bytes', async () => {
  const args = ['--edits', '60', '--resources', '20', '--missing', '5', '--rounds', '1']
  const { rows, aims } = await result('join', ...args)
  expect(rows.map(({ join, lacked }) => [join, lacked])).toEqual([
    ['fresh', 67],
    ['resumed', expect.any(Number)],
    ['small difference', 5],
  ])
  for (const row of rows) {
    expect(row).toMatchObject({ storedMs: expect.any(Number), materialisedMs: expect.any(Number) })
    expect(row['receivedBytes']).toBeGreaterThan(row['editBytes'] as never)
  }
  expect(aims).toHaveLength(2)
})

test('memory measures idle daemons and one with resources', async () => {
  const { rows, aims } = await result('memory', '--resources', '20', '--settle-ms', '100')
  expect(rows).toHaveLength(4)
  for (const row of rows) expect(row).toMatchObject({ rssMB: expect.any(Number), pssMB: expect.any(Number) })
  expect(aims).toHaveLength(2)
})

test('apply measures nginx beside the product', async () => {
  const { rows, aims } = await result('apply', '--sites', '3', '--rounds', '1', '--pause-ms', '400')
  const figures = {
    totalMs: FIGURES,
    nginxTestMs: FIGURES,
    nginxReloadMs: FIGURES,
    overheadMs: FIGURES,
    ownMs: FIGURES,
  }
  expect(rows).toEqual([
    expect.objectContaining({
      sites: 3,
      ...figures,
      waits: { drainMs: { ...FIGURES, max: 0 }, bakeMs: FIGURES, coalescingAtMostMs: FIGURES },
    }),
  ])
  expect(aims).toEqual([expect.objectContaining({ name: 'overhead_3_sites_ms' })])
})

test('endpoints reach every worker without a reload, and the balancer is measured beside nginx’s own', async () => {
  const sizes = ['--upstreams', '3', '--rounds', '4', '--load-seconds', '1', '--connections', '4']
  const { rows, aims } = await result('endpoints', ...sizes)
  const figures = { provenMs: FIGURES, answeredMs: FIGURES, cpuMs: FIGURES }
  const both = { static: expect.any(Number), live: expect.any(Number) }
  expect(rows).toEqual([
    { upstreams: 3, rounds: 4, ...figures, reloads: 0 },
    expect.objectContaining({ perSecond: both, cpuUsPerRequest: both }),
  ])
  expect(aims.map(({ name }) => name)).toEqual(['proven_p99_3_upstreams_ms', 'reloads_3_upstreams'])
})

test('what cannot be run is an error that says what can', async () => {
  expect(await bench('speed')).toMatchObject({
    code: 2,
    stdout: '',
    stderr: expect.stringContaining('propagation, join'),
  })
  expect(await bench('join', '--edits', 'many')).toMatchObject({ code: 2, stdout: '' })
  expect(await bench('join', '--edit', '3')).toMatchObject({ code: 2, stdout: '' })
  expect(await bench('--help')).toMatchObject({ code: 0, stdout: expect.stringContaining('npm run -s bench -- join') })
})

test('trust says what admission, a revocation and grants cost', async () => {
  const args = ['--edits', '200', '--resources', '40', '--voided', '12', '--grants', '10']
  const { rows, aims } = await result('trust', ...args)
  expect(rows.map(({ what }) => what)).toEqual(['admission', 'materialised', 'revocation', 'grants'])
  expect(rows[2]).toMatchObject({ voided: 12, resourcesChanged: expect.any(Number), cpuMs: expect.any(Number) })
  expect(aims.map(({ name }) => name)).toEqual(['admission_per_edit_cpu_ms', 'revocation_cpu_ms'])
})

const ZERO_DROP = ['--requests', '2000', '--applies', '5', '--reloads', '5', '--groups', '8x0,16x20,16x200'] as const

// Before nginx 1.27.1 an old worker may cut long answers of HTTP/2 short, on a busy machine: docs/nginx.md, Reloads.
test.each([
  ['http1', '256', { failed: expect.toSatisfy((count) => count > 0) }],
  // It says which streams it has not touched, so that they can be sent again.
  ['http2', '0', { failed: 0, refused: expect.toSatisfy((count) => count > 0) }],
])('zero-drop over %s loses nothing through applies, and sees what plain reloads do', async (name, long, control) => {
  const args = [...ZERO_DROP, '--protocols', name, '--long-every', long, '--websockets', '2', '--lua', 'off']
  const { rows, aims } = await result('zero-drop', ...args)
  expect(rows.map(({ variant }) => variant)).toEqual([name])
  expect(rows[0], JSON.stringify(rows)).toMatchObject({
    failed: 0,
    failures: {},
    websockets: { lost: 0, wrong: 0 },
    perSecond: expect.any(Number),
    latencyMs: expect.any(Object),
    applyMs: FIGURES,
    control,
  })
  expect(aims.filter((one) => !('met' in one && one.met))).toEqual([])
})

test('websockets: old workers stay within the limit of the gate, and the node says that it waits for them', async () => {
  const args = ['--applies', '4', '--opened', '3', '--long-lived', '2', '--sites', '5']
  const { rows, aims } = await result('websockets', ...args, '--max-draining', '2', '--shutdown-seconds', '5')
  expect(rows).toHaveLength(1)
  expect(rows[0], JSON.stringify(rows)).toMatchObject({
    applies: 4,
    wrongEchoes: 0,
    gateSeen: {
      inReceipt: expect.toSatisfy((samples) => samples > 0),
      inHealth: expect.toSatisfy((samples) => samples > 0),
      example: expect.stringMatching(/^Degraded: \d+ old workers are still draining, over the limit of 2$/),
    },
  })
  expect(aims.map(({ name }) => name)).toEqual(['draining_workers', 'master_mb', 'total_mb', 'wrong_echoes'])
  expect(aims.filter((one) => !('met' in one && one.met))).toEqual([])
})
