/**
 * The kinds of resources, and the way between a YAML document and fields. A new kind joins by one file and one line
 * in the list. Pure. Called by the CLI and API for documents, by the slice for stored resources.
 */

import { z } from 'zod'
import { MeshError } from '../../errors.ts'
import type { Value } from '../envelope.ts'
import { isName, isZone, resourcePath, type ResourceName } from '../names.ts'
import { nearestName } from '../nearest-name.ts'
import { labels, text } from './fields.ts'
import { flatten, unflatten } from './flat.ts'
import { isTree, type Kind, type Tree } from './kind.ts'
import { policyKind } from './policy.ts'
import { secretKind } from './secret.ts'
import { certificateKind } from './certificate.ts'
import { siteKind } from './site.ts'
import { streamKind } from './stream.ts'
import { make, templateKind, type TemplateSpec } from './template.ts'
import type { TemplateUse } from './template-use.ts'
import { upstreamKind } from './upstream.ts'
import { check, DEPTH_MAX, isTooDeep, type FieldFault } from './validate.ts'
import { zoneSettingsKind } from './zone-settings.ts'

export const API_VERSION = 'nxmesh/v1'

/** Every kind by its word in resource paths. */
export const KINDS: ReadonlyMap<string, Kind> = new Map(
  [siteKind, upstreamKind, streamKind, policyKind, certificateKind, secretKind, templateKind, zoneSettingsKind].map(
    (kind): [string, Kind] => [kind.path, kind],
  ),
)

/** The kind of any of its names (`Site`, `site`, `sites`), whatever their case. */
export function kindOf(name: string): Kind | undefined {
  const lower = name.toLowerCase()
  return KINDS.get(lower) ?? [...KINDS.values()].find((kind) => kind.plural === lower)
}

/** A resource as a person writes it. Its spec is as authored: without defaults, sets sorted, empty maps left out. */
export interface Resource {
  readonly apiVersion: typeof API_VERSION
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly workspace: string
    readonly zone: string
    readonly labels?: Readonly<Record<string, string>>
  }
  readonly spec: Tree
}

const nameText = text((value) =>
  isName(value) ? undefined : { message: 'is not a name', hint: 'lower-case letters, digits and -, at most 63' },
)
const zoneText = text((value) =>
  isZone(value) ? undefined : { message: 'is not a zone', hint: 'write it like eu.west, or * for all' },
)

function documentSchema(kind: Kind) {
  return z.strictObject({
    apiVersion: z.literal(API_VERSION),
    kind: z.literal(kind.kind),
    metadata: z.strictObject({
      name: kind.onlyName === undefined ? nameText : z.literal(kind.onlyName),
      workspace: nameText.default('default'),
      zone: zoneText.default('*'),
      labels: labels.default({}),
    }),
    spec: kind.schema,
  })
}
/** Of the whole document, by kind. */
export const DOCUMENT_SCHEMAS = new Map([...KINDS.values()].map((kind) => [kind.kind, documentSchema(kind)]))

/**
 * The resource that a YAML document describes.
 * @throws MeshError `resource_invalid`, naming the field as `spec.routes.root.path` and what to write instead;
 * `input_invalid` for what is nested deeper than any document.
 */
export function parseDocument(document: unknown): Resource {
  if (isTooDeep(document)) {
    const what = `the document is nested over ${DEPTH_MAX} levels deep`
    throw new MeshError('input_invalid', what, {
      field: 'document',
      hint: 'begin with apiVersion, kind, metadata and spec',
    })
  }
  if (!isTree(document)) {
    throw invalid({
      field: 'document',
      message: 'is not a map',
      hint: 'begin with apiVersion, kind, metadata and spec',
    })
  }
  const kind = documentKind(document['kind'])
  const written = { ...document, spec: document['spec'] ?? {} }
  const completed = isTree(written.spec) && kind.complete !== undefined ? kind.complete(written.spec) : written.spec
  const schema = DOCUMENT_SCHEMAS.get(kind.kind) as ReturnType<typeof documentSchema>
  const result = check(schema, { ...written, spec: completed }, [])
  if (!result.ok) throw invalid(result.fault)
  const { name, workspace, zone, labels: labelMap } = result.value.metadata
  return documentOf(
    { workspace, zone, kind: kind.path, name },
    flatten(kind, { labels: labelMap, spec: completed as Tree }),
  )
}

function documentKind(name: unknown): Kind {
  const kind = [...KINDS.values()].find((known) => known.kind === name)
  if (kind !== undefined) return kind
  const known = [...KINDS.values()].map((each) => each.kind)
  const close = typeof name === 'string' ? nearestName(name, known) : undefined
  const hint = close === undefined ? `known: ${known.join(', ')}` : `did you mean ${close}?`
  throw invalid({
    field: 'kind',
    message: name === undefined ? 'is required' : 'is not a known kind',
    hint,
    value: JSON.stringify(name),
  })
}

/** The document of stored fields, as `meshctl get -o yaml` shows it. Does not check them. */
export function documentOf(name: ResourceName, fields: ReadonlyMap<string, Value>): Resource {
  const kind = KINDS.get(name.kind)
  const content = unflatten(kind ?? { sets: [], items: [] }, fields)
  const hasLabels = Object.keys(content.labels).length > 0
  return {
    apiVersion: API_VERSION,
    kind: kind?.kind ?? name.kind,
    metadata: {
      name: name.name,
      workspace: name.workspace,
      zone: name.zone,
      ...(hasLabels ? { labels: content.labels as Record<string, string> } : {}),
    },
    spec: content.spec,
  }
}

/** Where a parsed document's resource lies. */
export function pathOf(resource: Resource): string {
  const { workspace, zone, name } = resource.metadata
  return resourcePath({ workspace, zone, kind: knownKind(resource).path, name })
}

/** The flat fields of a parsed document, sorted. */
export function fieldsOf(resource: Resource): Map<string, Value> {
  return flatten(knownKind(resource), { labels: resource.metadata.labels ?? {}, spec: resource.spec })
}

function knownKind(resource: Resource): Kind {
  const kind = kindOf(resource.kind)
  if (kind === undefined) throw new TypeError(`${resource.kind} did not come from parseDocument`)
  return kind
}

export interface ReadFields {
  readonly labels: Readonly<Record<string, string>>
  /** The kind's spec with defaults. */
  readonly spec: unknown
}

/** What stored fields of a kind mean, or why they mean nothing. */
export function readFields(kind: Kind, fields: ReadonlyMap<string, Value>): ReadFields | FieldFault {
  const content = unflatten(kind, fields)
  const labelMap = check(labels, content.labels, ['metadata', 'labels'])
  if (!labelMap.ok) return labelMap.fault
  const spec = check(kind.schema, content.spec, ['spec'])
  return spec.ok ? { labels: labelMap.value, spec: spec.value } : spec.fault
}

/** What they mean with what a template says where they say nothing, or why that means nothing. */
export function readWith(
  kind: Kind,
  fields: ReadonlyMap<string, Value>,
  use: TemplateUse,
  template: TemplateSpec,
): { readonly spec: unknown } | FieldFault {
  const made = make(kind.path, unflatten(kind, fields).spec, use, template)
  if ('field' in made) return { field: made.field, ...made.fault }
  const checked = check(kind.schema, made.spec, ['spec'])
  return checked.ok ? { spec: checked.value } : checked.fault
}

function invalid({ field, message, hint, value }: FieldFault): MeshError {
  const details = { field, ...(value === undefined ? {} : { value }), ...(hint === undefined ? {} : { hint }) }
  return new MeshError('resource_invalid', `${field} ${message}`, details)
}
