/**
 * The kind Template: a part of a Site's or an Upstream's spec, with parameters. A resource that names it has what the
 * template says where it says nothing itself, and is then judged as if it had said all of it. Pure; called by the slice.
 */

import { z } from 'zod'
import { nearestName } from '../nearest-name.ts'
import type { Fault } from './fields.ts'
import { isTree, type Kind, type Tree, type TreePath } from './kind.ts'
import { siteKind } from './site.ts'
import { byParameter, parameterValue, type TemplateUse } from './template-use.ts'
import { upstreamKind } from './upstream.ts'
import { strangeIn } from './validate.ts'

const BODIES = { site: siteKind as Kind, upstream: upstreamKind as Kind } as const
const BODY_NAMES = ['site', 'upstream'] as const
type BodyName = (typeof BODY_NAMES)[number]

/** What only the resource itself may say: whoever writes these needs a right to them. */
const RESERVED: ReadonlyMap<string, string> = new Map([
  ['hosts', 'each site names its own hosts'],
  ['privileged', 'it takes a right to these fields of the resource itself'],
  ['template', 'templates do not use others'],
])

/** Of all keys and texts together, in characters; a hundredfold of what sites have. */
const MADE_MAX = 128 * 1024

const PLACEHOLDER = /\{\{([a-z][A-Za-z0-9]{0,31})\}\}/g

/** Judged as a whole below, and as part of a resource wherever it is used. */
const body = z.any().optional()

const schema = z
  .strictObject({
    /** What may differ from one use to the next; written `{{name}}` in texts and keys of maps. */
    parameters: byParameter(z.strictObject({ default: parameterValue.optional() })).default({}),
    site: body,
    upstream: body,
  })
  .superRefine((spec, context) => {
    const fault = (path: TreePath, { message, hint }: Fault): void =>
      context.addIssue({ code: 'custom', message, path: [...path], params: { hint } })
    const said = BODY_NAMES.filter((name) => spec[name] !== undefined)
    const [name] = said
    if (name === undefined || said.length > 1) {
      fault([], {
        message: name === undefined ? 'says nothing' : 'says both site and upstream',
        hint: 'give it one of them',
      })
      return
    }
    const part: unknown = spec[name]
    if (!isTree(part)) {
      fault([name], { message: 'is not a map' })
      return
    }
    for (const [key, hint] of RESERVED)
      if (Object.hasOwn(part, key)) fault([name, key], { message: 'does not stand in a template', hint })
    const strange = strangeIn(BODIES[name].schema, part)
    if (strange !== undefined) fault([name, ...strange.path.map(String)], strange.fault)
    for (const used of placeholdersIn(part)) {
      if (Object.hasOwn(spec.parameters, used)) continue
      const hint = hintAt(used, Object.keys(spec.parameters), 'list it in parameters')
      fault([name], { message: `uses {{${used}}}, which is no parameter`, hint })
    }
  })

export type TemplateSpec = z.output<typeof schema>

function hintAt(name: string, known: readonly string[], otherwise: string): string {
  const close = nearestName(name, known)
  return close === undefined ? otherwise : `did you mean ${close}?`
}

function placeholdersIn(value: unknown): ReadonlySet<string> {
  const found = new Set<string>()
  substitute(value, (text) => {
    for (const [, name = ''] of text.matchAll(PLACEHOLDER)) found.add(name)
    return text
  })
  return found
}

/** The value with every text in it, and every key, replaced. */
function substitute(value: unknown, replace: (text: string) => unknown): unknown {
  if (typeof value === 'string') return replace(value)
  if (Array.isArray(value)) return value.map((item) => substitute(item, replace))
  if (!isTree(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, child]) => [String(replace(key)), substitute(child, replace)]),
  )
}

export type Made = { readonly spec: Tree } | { readonly field: string; readonly fault: Fault }

/**
 * The nested spec of a resource over what its template says for it: maps are merged key by key, all else counts whole.
 * @param own as the resource is authored
 * @param kind of the resource, as in paths
 */
export function make(kind: string, own: Tree, { values }: TemplateUse, template: TemplateSpec): Made {
  const part = BODY_NAMES.includes(kind as BodyName) ? (template[kind as BodyName] as Tree | undefined) : undefined
  if (part === undefined) return { field: 'spec.template.name', fault: { message: `is a template of no ${kind}` } }
  const names = Object.keys(template.parameters)
  for (const name of Object.keys(values)) {
    if (names.includes(name)) continue
    const hint = hintAt(name, names, `known: ${names.toSorted().join(', ') || 'none'}`)
    return { field: `spec.template.values.${name}`, fault: { message: 'is no parameter of it', hint } }
  }
  const given = new Map(
    names.map((name) => [name, Object.hasOwn(values, name) ? values[name] : template.parameters[name]?.default]),
  )
  for (const [name, value] of given)
    if (value === undefined) return { field: `spec.template.values.${name}`, fault: { message: 'is required' } }
  let size = 0
  const filled = substitute(part, (text) => {
    if (size > MADE_MAX) return ''
    const [whole, alone] = /^\{\{([a-z][A-Za-z0-9]{0,31})\}\}$/.exec(text) ?? []
    // A number stays one where it stands alone.
    const made =
      whole === undefined
        ? text.replace(PLACEHOLDER, (_, name: string) => String(given.get(name)))
        : given.get(alone ?? '')
    size += String(made).length
    return made
  })
  const message = `makes over ${MADE_MAX} characters of it`
  if (size > MADE_MAX) return { field: 'spec.template', fault: { message, hint: 'give it shorter values' } }
  return { spec: merge(filled, own) as Tree }
}

function merge(outer: unknown, inner: unknown): unknown {
  if (!isTree(outer) || !isTree(inner)) return inner
  const merged = new Map(Object.entries(outer))
  for (const [key, value] of Object.entries(inner))
    merged.set(key, merged.has(key) ? merge(merged.get(key), value) : value)
  return Object.fromEntries(merged)
}

/** Completes the part as it would be in a resource. */
function complete(spec: Tree): Tree {
  const parts = BODY_NAMES.flatMap((name): [string, unknown][] => {
    const part = spec[name]
    const { complete: completePart } = BODIES[name]
    return isTree(part) && completePart !== undefined ? [[name, completePart(part)]] : []
  })
  return { ...spec, ...Object.fromEntries(parts) }
}

function below(paths: 'sets' | 'items'): TreePath[] {
  return BODY_NAMES.flatMap((name) => BODIES[name][paths].map((path) => [name, ...path]))
}

export const templateKind = {
  kind: 'Template',
  path: 'template',
  plural: 'templates',
  schema,
  sets: below('sets'),
  items: [['parameters', '*'], ...below('items')],
  complete,
} satisfies Kind<TemplateSpec>
