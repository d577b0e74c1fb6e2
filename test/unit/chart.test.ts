/**
 * What can be said about charts/nxmesh without helm: its schema is one, accepts the default values, knows each of them and
 * nothing else; templates and values name the same things. CONTRIBUTING.md says how to render it with the real helm.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { z } from 'zod'
import { loadConfig } from '../../src/config/config.ts'

const PROJECT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const CHART = join(PROJECT, 'charts/nxmesh')

interface Schema {
  readonly type?: string
  readonly properties?: Readonly<Record<string, Schema>>
  readonly additionalProperties?: unknown
  readonly required?: readonly string[]
}
type Values = Readonly<Record<string, unknown>>

const text = (file: string) => readFileSync(join(CHART, file), 'utf8')
const values = parse(text('values.yaml')) as Values
const schema = JSON.parse(text('values.schema.json')) as Schema
const templates = readdirSync(join(CHART, 'templates')).map((name) => text(join('templates', name)))

/** Sub-charts get `global` from their parents, so the schema must let it pass though no value is set here. */
const FROM_PARENTS = 'global'

function isObject(value: unknown): value is Values {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Dotted paths of every object and leaf in the values. */
function pathsOf(object: Values, prefix = ''): string[] {
  return Object.entries(object).flatMap(([key, value]) => {
    const path = `${prefix}${key}`
    return isObject(value) ? [path, ...pathsOf(value, `${path}.`)] : [path]
  })
}

/** Dotted paths of every property that the schema names. */
function pathsOfSchema({ properties = {} }: Schema, prefix = ''): string[] {
  return Object.entries(properties).flatMap(([key, property]) => [
    `${prefix}${key}`,
    ...pathsOfSchema(property, `${prefix}${key}.`),
  ])
}

test('the schema is a JSON schema that accepts the default values', () => {
  const result = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]).safeParse(values)
  expect(result.error?.issues).toBeUndefined()
})

test.each([
  ['an unknown value', { replica: 2 }],
  ['a wrong type', { replicas: 'two' }],
  ['a privileged port', { config: { ...(values['config'] as Values), bind_port: 80 } }],
])('the schema refuses %s', (_, change) => {
  const parsed = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]).safeParse({ ...values, ...change })
  expect(parsed.success).toBe(false)
})

test('the schema covers every value, and names none that has no default', () => {
  const named = pathsOfSchema(schema).filter((path) => path !== FROM_PARENTS)
  // Objects without properties of their own are Kubernetes' (a security context) or free maps (labels).
  const free = named.filter((path) => isObject(at(path)) && !named.some((other) => other.startsWith(`${path}.`)))
  const covered = pathsOf(values).filter((path) => !free.some((prefix) => path.startsWith(`${prefix}.`)))
  expect(named.toSorted()).toEqual(covered.toSorted())
  expect(schema.additionalProperties).toBe(false)
})

test('templates use only values that exist, and every value is used', () => {
  const used = new Set(
    templates.flatMap((template) => [...template.matchAll(/\.Values\.([\w.]+)/g)].map(([, path]) => path ?? '')),
  )
  const known = new Set(pathsOf(values))
  expect([...used].filter((path) => !known.has(path))).toEqual([])
  const unused = [...known].filter(
    (path) =>
      ![...used].some((other) => other === path || path.startsWith(`${other}.`) || other.startsWith(`${path}.`)),
  )
  expect(unused).toEqual([])
})

test('mesh-node accepts the default config', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nxmesh-chart-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'config.yaml')
  writeFileSync(file, stringify(values['config']))
  expect(loadConfig({ file, env: {} })).toMatchObject({
    bindPort: 9102,
    dataDir: '/var/lib/nxmesh',
    nginx: { stopOnExit: true },
  })
})

test('every template closes what it opens', () => {
  for (const template of templates) {
    const openers = [...template.matchAll(/\{\{-?\s*(if|with|range|define)\b/g)].length
    const ends = [...template.matchAll(/\{\{-?\s*end\b/g)].length
    expect(ends, template).toBe(openers)
  }
})

test('the chart is of the version of the package', () => {
  const chart = parse(text('Chart.yaml')) as Values
  const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { readonly version: string }
  expect(chart).toMatchObject({ apiVersion: 'v2', name: 'nxmesh', version, appVersion: version })
})

function at(path: string): unknown {
  return path.split('.').reduce<unknown>((value, key) => (isObject(value) ? value[key] : undefined), values)
}
