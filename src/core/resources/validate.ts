/**
 * Checks a value against a kind's schema and words the first fault so that a person can act on it: the full path of
 * the field, what is wrong, the nearest known name. Never throws. Called for documents on the way in and for every
 * stored resource at the slice.
 */

import { z } from 'zod'
import { isFieldPath, escapeSegment } from '../names.ts'
import { nearestName } from '../nearest-name.ts'
import type { Fault } from './fields.ts'
import { isTree } from './kind.ts'

type Schema = z.core.$ZodType
type Path = readonly (string | number)[]

/** A fault with its place: `spec.routes.root.path`. */
export interface FieldFault extends Fault {
  readonly field: string
  /** The offending value as JSON, shortened. */
  readonly value?: string | undefined
}

export type Checked<S> = { readonly ok: true; readonly value: S } | { readonly ok: false; readonly fault: FieldFault }

const MAX_LIST_ITEMS = 256

/** Levels of a document: over twice what any kind has. */
export const DEPTH_MAX = 32

/** Whether a value is nested deeper than documents are; to be asked before anything walks it. Ends for what holds itself, too. */
export function isTooDeep(value: unknown): boolean {
  let level = [value].filter(isNested)
  for (let depth = 0; depth < DEPTH_MAX; depth += 1) {
    level = [...new Set(level.flatMap((nested) => Object.values(nested).filter(isNested)))]
    if (level.length === 0) return false
  }
  return true
}

function isNested(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** The value as its schema gives it, with defaults; or the first fault. `prefix` begins the field's path. */
export function check<S>(schema: z.ZodType<S>, value: unknown, prefix: Path): Checked<S> {
  const strange = findStrange(alternatives(schema), value, [])
  if (strange !== undefined) return failed(strange.fault, strange.path, value, prefix)
  const result = parsed(schema, value)
  if (result instanceof Error)
    return failed({ message: `cannot be checked: ${result.message}`, hint: UNCHECKED }, [], value, prefix)
  if (result.success) return { ok: true, value: result.data }
  const issue = result.error.issues[0] as z.core.$ZodIssue
  return failed(wordIssue(issue, at(value, issue.path as Path)), issue.path as Path, value, prefix)
}

const UNCHECKED =
  'this is a fault of mesh-node, which leaves out this resource alone: write it otherwise, and report it'

/** A schema whose own rules throw must not keep all other resources from being read. */
function parsed<S>(schema: z.ZodType<S>, value: unknown): z.ZodSafeParseResult<S> | Error {
  try {
    return schema.safeParse(value)
  } catch (error) {
    return error as Error
  }
}

function failed(
  fault: Fault,
  path: Path,
  root: unknown,
  prefix: Path,
): { readonly ok: false; readonly fault: FieldFault } {
  return { ok: false, fault: { ...fault, field: fieldName([...prefix, ...path]), value: shorten(at(root, path)) } }
}

// ---------------------------------------------------------------------------------------------- walking schemas

/** The schemas that a value may meet here: optional, default and union taken away. */
export function alternatives(schema: Schema): readonly Schema[] {
  const { def } = schema._zod
  if ('innerType' in def) return alternatives(def.innerType as Schema)
  if ('options' in def) return (def.options as Schema[]).flatMap(alternatives)
  return [schema]
}

/** The schemas below the given ones at a key, and the keys that they name; undefined `known`: any key. */
export function below(
  schemas: readonly Schema[],
  key: string,
): { children: readonly Schema[]; known: readonly string[] | undefined } {
  const children: Schema[] = []
  const known: string[] = []
  let isOpen = false
  for (const { _zod } of schemas) {
    const def = _zod.def as { shape?: Record<string, Schema>; valueType?: Schema }
    if (def.shape !== undefined) {
      known.push(...Object.keys(def.shape))
      if (Object.hasOwn(def.shape, key)) children.push(...alternatives(def.shape[key] as Schema))
    } else if (def.valueType !== undefined) {
      isOpen = true
      children.push(...alternatives(def.valueType))
    }
  }
  return { children, known: isOpen ? undefined : known }
}

// ---------------------------------------------------------------------------------------------- what no field may hold

export interface Strange {
  readonly fault: Fault
  readonly path: Path
}

/** What of a part of a value no schema knows, or cannot be stored; what is missing is no fault here. */
export function strangeIn(schema: Schema, value: unknown): Strange | undefined {
  return findStrange(alternatives(schema), value, [])
}

/** Finds what cannot be stored or that no schema knows: unknown fields, nulls, fractions, lists of objects. */
function findStrange(schemas: readonly Schema[], value: unknown, path: Path): Strange | undefined {
  if (typeof value === 'string' || typeof value === 'boolean' || value === undefined) return undefined
  if (value === null) return { path, fault: { message: 'is empty', hint: 'give it a value or leave it out' } }
  if (typeof value === 'number') {
    if (Number.isSafeInteger(value)) return undefined
    return { path, fault: { message: 'is not a whole number', hint: 'resources hold whole numbers only' } }
  }
  if (Array.isArray(value)) {
    if (value.length > MAX_LIST_ITEMS) return { path, fault: { message: `has over ${MAX_LIST_ITEMS} items` } }
    const index = value.findIndex((item) => typeof item === 'object')
    return index === -1 ? undefined : { path: [...path, index], fault: { message: 'is not a single value' } }
  }
  if (!isTree(value)) return { path, fault: { message: `is a ${typeof value}` } }
  for (const [key, child] of Object.entries(value)) {
    const here = [...path, key]
    const { children, known } = below(schemas, key)
    if (key === '__proto__' || (known !== undefined && known.length > 0 && !known.includes(key))) {
      return { path: here, fault: unknownField(key, known ?? []) }
    }
    if (!isField(here)) {
      return { path: here, fault: { message: 'has an empty or too long key, or one with control characters' } }
    }
    const strange = findStrange(children, child, here)
    if (strange !== undefined) return strange
  }
  return undefined
}

function isField(path: Path): boolean {
  return isFieldPath(path.map((segment) => escapeSegment(String(segment))).join('/'))
}

function unknownField(key: string, known: readonly string[]): Fault {
  const close = nearestName(key, known)
  if (close !== undefined) return { message: 'is not a known field', hint: `did you mean ${close}?` }
  const all = [...new Set(known)].toSorted().join(', ')
  return { message: 'is not a known field', hint: all === '' ? undefined : `known: ${all}` }
}

// ---------------------------------------------------------------------------------------------- words

function wordIssue(issue: z.core.$ZodIssue, value: unknown): Fault {
  switch (issue.code) {
    case 'custom':
      return { message: issue.message, hint: issue.params?.['hint'] as string | undefined }
    case 'invalid_type':
      return {
        message: value === undefined ? 'is required' : `must be ${typeWord(issue.expected)}, not ${kindWord(value)}`,
      }
    case 'invalid_value':
      return {
        message: value === undefined ? 'is required' : 'is not one of the known values',
        hint: valuesHint(issue.values),
      }
    case 'invalid_union':
      return { message: value === undefined ? 'is required' : 'is not one of the known values', hint: unionHint(issue) }
    case 'invalid_key':
      return wordIssue(issue.issues[0] as z.core.$ZodIssue, '')
    case 'too_small':
      return { message: issue.origin === 'array' ? 'is empty' : `is below ${issue.minimum}` }
    case 'too_big':
      return { message: `is above ${issue.maximum}` }
    default:
      return { message: issue.message }
  }
}

function valuesHint(values: readonly unknown[]): string {
  return `one of ${values.join(', ')}`
}

function unionHint(issue: z.core.$ZodIssueInvalidUnion): string | undefined {
  const options = (issue as { options?: readonly unknown[] }).options
  return options === undefined ? undefined : valuesHint(options)
}

function typeWord(expected: string): string {
  const words: Record<string, string> = {
    string: 'a text',
    boolean: 'true or false',
    array: 'a list',
    record: 'a map',
    object: 'a map',
  }
  return words[expected] ?? 'a whole number'
}

function kindWord(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  const words: Record<string, string> = {
    string: 'a text',
    boolean: 'true or false',
    number: 'a number',
    object: 'a map',
  }
  return words[typeof value] ?? typeof value
}

/** `spec.endpoints["10.0.0.1:80"].weight`, `spec.hosts[0]` */
function fieldName(path: Path): string {
  return path
    .map((part, index) => {
      if (typeof part === 'number') return `[${part}]`
      if (!/^[\w$-]+$/.test(part)) return `[${JSON.stringify(part)}]`
      return index === 0 ? part : `.${part}`
    })
    .join('')
}

function at(root: unknown, path: Path): unknown {
  return path.reduce<unknown>((value, part) => {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined
    return (value as Record<string | number, unknown>)[part]
  }, root)
}

function shorten(value: unknown): string | undefined {
  const json = JSON.stringify(value)
  // Whoever pastes a key into a resource must not find it in a log.
  if (json === undefined || json.includes('PRIVATE KEY')) return undefined
  return json.length <= 100 ? json : `${json.slice(0, 97)}...`
}
