/**
 * Entry of the benchmarks: names and options in, one result out. With --json exactly one JSON object goes to stdout, else
 * readable tables; what happens meanwhile goes to stderr. An aim that is missed is said, and is no failure.
 * `npm run -s bench -- --help`
 */

import { parseArgs } from 'node:util'
import { apply } from './apply.ts'
import { endpoints } from './endpoints.ts'
import { join } from './join.ts'
import { machine, type BenchResult } from './measure.ts'
import { memory } from './memory.ts'
import { propagation, WAYS } from './propagation.ts'
import { trust } from './trust.ts'
import { websockets } from './websockets.ts'
import { parseGroups, zeroDrop, type ZeroDropOptions } from './zero-drop.ts'

const USAGE = `Benchmarks of NxMesh

  npm run -s bench -- propagation [--nodes 10,50] [--edits 100] [--burst 90] [--ways ${WAYS.join(',')}]
  npm run -s bench -- join        [--edits 10000] [--resources 1000] [--authors 3] [--missing 100] [--rounds 3]
  npm run -s bench -- memory      [--resources 10000] [--settle-ms 10000]
  npm run -s bench -- apply       [--sites 1000,5000] [--rounds 15] [--workers 2]
  npm run -s bench -- endpoints   [--upstreams 1,1000] [--rounds 200] [--workers 2] [--load-seconds 5] [--connections 64]
  npm run -s bench -- trust       [--edits 10000] [--resources 1000] [--authors 3] [--voided 250] [--grants 1000]
  npm run -s bench -- zero-drop   [--requests 1000000] [--applies 100] [--reloads 20] [--workers 2] [--groups 16x0,64x20,64x200]
                                  [--websockets 8] [--protocols http1,http2] [--lua off,on] [--drain-ms 500] [--long-every 256]
  npm run -s bench -- websockets  [--applies 200] [--opened 10] [--long-lived 10] [--sites 200] [--workers 2] [--max-draining 8]
                                  [--shutdown-seconds 5]

  --json       one JSON object on stdout, nothing else
  --pause-ms   rest between edits: propagation and endpoints 50, apply 700, zero-drop 100
  --settle-ms  rest before measuring: propagation 5000, memory 10000
  --peers      connections that a node of propagation keeps up; default 6
  -h, --help   this
docs/benchmarks.md has figures and what they mean.
`

/** What a person typed is wrong. */
class UsageError extends Error {}

type Options = Readonly<Record<string, string | undefined>>

const BENCHES: Readonly<Record<string, (options: Options) => Promise<BenchResult>>> = {
  propagation: (options) =>
    propagation({
      nodes: integers(options, 'nodes', [10, 50]),
      edits: integer(options, 'edits', 100),
      burst: integer(options, 'burst', 90),
      pauseMs: integer(options, 'pause-ms', 50),
      settleMs: integer(options, 'settle-ms', 5000),
      targetPeers: integer(options, 'peers', 6),
      ways: chosen(options, 'ways', WAYS),
    }),
  join: (options) =>
    join({
      edits: integer(options, 'edits', 10_000),
      resources: integer(options, 'resources', 1000),
      authors: integer(options, 'authors', 3),
      missing: integer(options, 'missing', 100),
      rounds: integer(options, 'rounds', 3),
    }),
  memory: (options) =>
    memory({
      resources: integer(options, 'resources', 10_000),
      settleMs: integer(options, 'settle-ms', 10_000),
    }),
  apply: (options) =>
    apply({
      sites: integers(options, 'sites', [1000, 5000]),
      rounds: integer(options, 'rounds', 15),
      workers: integer(options, 'workers', 2),
      pauseMs: integer(options, 'pause-ms', 700),
    }),
  endpoints: (options) =>
    endpoints({
      upstreams: integers(options, 'upstreams', [1, 1000]),
      rounds: integer(options, 'rounds', 200),
      workers: integer(options, 'workers', 2),
      pauseMs: integer(options, 'pause-ms', 50),
      loadSeconds: integer(options, 'load-seconds', 5),
      connections: integer(options, 'connections', 64),
    }),
  trust: (options) =>
    trust({
      edits: integer(options, 'edits', 10_000),
      resources: integer(options, 'resources', 1000),
      authors: integer(options, 'authors', 3),
      voided: integer(options, 'voided', 250),
      grants: integer(options, 'grants', 1000),
    }),
  'zero-drop': (options) =>
    zeroDrop({
      requests: integer(options, 'requests', 1_000_000),
      applies: integer(options, 'applies', 100),
      reloads: integer(options, 'reloads', 20),
      workers: integer(options, 'workers', 2),
      pauseMs: integer(options, 'pause-ms', 100),
      protocols: chosen(options, 'protocols', ['http1', 'http2']),
      lua: chosen(options, 'lua', ['off', 'on']).map((name) => name === 'on'),
      groups: groups(options),
      longEvery: integer(options, 'long-every', 256),
      drainMs: options['drain-ms'] === undefined ? undefined : integer(options, 'drain-ms', 0),
      websockets: integer(options, 'websockets', 8),
    }),
  websockets: (options) =>
    websockets({
      applies: integer(options, 'applies', 200),
      opened: integer(options, 'opened', 10),
      longLived: integer(options, 'long-lived', 10),
      sites: integer(options, 'sites', 200),
      workers: integer(options, 'workers', 2),
      maxDraining: integer(options, 'max-draining', 8),
      shutdownSeconds: integer(options, 'shutdown-seconds', 5),
    }),
}

function integer(options: Options, name: string, otherwise: number): number {
  return integers(options, name, [otherwise])[0] as number
}

function integers(options: Options, name: string, otherwise: readonly number[]): readonly number[] {
  const text = options[name]
  if (text === undefined) return otherwise
  const values = text.split(',').map(Number)
  if (!values.every((value) => Number.isSafeInteger(value) && value >= 0)) {
    throw new UsageError(`--${name} takes whole numbers, got ${text}`)
  }
  return values
}

function chosen<T extends string>(options: Options, name: string, known: readonly T[]): readonly T[] {
  const named = options[name]?.split(',') ?? known
  return named.map((one) => {
    const found = known.find((other) => other === one)
    if (found === undefined) throw new UsageError(`--${name} takes ${known.join(', ')}, got ${one}`)
    return found
  })
}

function groups(options: Options): ZeroDropOptions['groups'] {
  const named = options['groups'] ?? '16x0,64x20,64x200'
  const found = parseGroups(named)
  if (found === undefined) throw new UsageError(`--groups takes COUNTxPAUSE_MS,..., got ${named}`)
  return found
}

/** Rows as lines of `name value`, one block for each: they are too wide for columns. */
function table({ bench, rows, aims, notes }: BenchResult): string {
  const cell = (value: unknown): string =>
    typeof value === 'object' && value !== null
      ? Object.entries(value)
          .map(([name, inner]) => `${name} ${String(inner)}`)
          .join(', ')
      : String(value)
  const lines = rows.flatMap((row) => [
    '',
    ...Object.entries(row).map(([name, value]) => `  ${name.padEnd(28)} ${cell(value)}`),
  ])
  const judged = aims.map(({ name, value, limit, met }) => {
    return `  ${name.padEnd(36)} ${String(value).padStart(9)} of ${limit}  ${met ? 'met' : 'MISSED'}`
  })
  return [bench, ...lines, '', 'Aims', ...judged, '', ...notes, ''].join('\n')
}

async function main(): Promise<void> {
  const text = { type: 'string' } as const
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
      nodes: text,
      edits: text,
      burst: text,
      ways: text,
      resources: text,
      authors: text,
      missing: text,
      rounds: text,
      sites: text,
      upstreams: text,
      'load-seconds': text,
      connections: text,
      voided: text,
      grants: text,
      workers: text,
      peers: text,
      requests: text,
      applies: text,
      reloads: text,
      groups: text,
      'long-every': text,
      'drain-ms': text,
      opened: text,
      'long-lived': text,
      'max-draining': text,
      'shutdown-seconds': text,
      websockets: text,
      protocols: text,
      lua: text,
      'pause-ms': text,
      'settle-ms': text,
    },
  })
  if (values.help) return void process.stdout.write(USAGE)
  const [name, ...extra] = positionals
  const bench = name === undefined || !Object.hasOwn(BENCHES, name) ? undefined : BENCHES[name]
  if (bench === undefined || extra.length > 0) {
    throw new UsageError(
      `name one benchmark of ${Object.keys(BENCHES).join(', ')}; got ${positionals.join(' ') || 'none'}`,
    )
  }
  const { json, help: _, ...options } = values
  const before = machine()
  const began = performance.now()
  const found = await bench(options)
  const result = { ...found, machine: before, tookSeconds: Math.round((performance.now() - began) / 1000) }
  process.stdout.write(json ? `${JSON.stringify(result)}\n` : table(result))
}

try {
  await main()
  process.exit(0)
} catch (error) {
  const isUsage = error instanceof UsageError || (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS')
  process.stderr.write(
    isUsage ? `bench: ${(error as Error).message}\n\n${USAGE}` : `bench: ${(error as Error).stack}\n`,
  )
  process.exit(isUsage ? 2 : 1)
}
