/** Reads what a request asks for: paging, numbers, ids. Every fault is a problem that names the parameter. */

import { isHex } from '../core/envelope.ts'
import { isResourcePath, resourcePath, type ResourceName } from '../core/names.ts'
import { nearestName } from '../core/nearest-name.ts'
import { MeshError } from '../errors.ts'
import type { ApiContext, Route } from './route.ts'
import type { Paging } from './views.ts'

/** Items of one page: at most, and unless asked for. */
export const PAGE_LIMITS = { most: 1000, default: 100 } as const

/** @throws MeshError `input_invalid` for a query parameter that the route does not have. */
export function checkQuery(route: Route, search: Readonly<Record<string, string>>): void {
  const known = route.parameters.filter((parameter) => parameter.in === 'query').map(({ name }) => name)
  const unknown = Object.keys(search).find((name) => !known.includes(name))
  if (unknown === undefined) return
  const close = nearestName(unknown, known)
  const hint = close === undefined ? `Known: ${known.join(', ') || 'none'}.` : `Did you mean ${close}?`
  throw new MeshError('input_invalid', `${unknown} is not a parameter of ${route.path}`, { field: unknown, hint })
}

export function paging(c: ApiContext): Paging {
  return { page: integer(c, 'page', 1, 1_000_000), perPage: integer(c, 'per_page', PAGE_LIMITS.default) }
}

/** A whole number from 1 to `max`. */
export function integer(c: ApiContext, name: string, otherwise: number, max: number = PAGE_LIMITS.most): number {
  const text = c.req.query(name)
  if (text === undefined) return otherwise
  const number = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (number < 1 || number > max) throw invalid(name, text, `must be a whole number from 1 to ${max}`)
  return number
}

/** The resource that the path of the route names. */
export function resourceIn(c: ApiContext): string {
  const path = resourcePath(c.req.param() as Record<keyof ResourceName, string>)
  if (!isResourcePath(path)) throw invalid('path', path, 'is not workspace/zone/kind/name')
  return path
}

export function hex(value: string, field: string): string {
  if (!isHex(value, 64)) throw invalid(field, value, 'must be 64 lower-case hex digits')
  return value
}

export function invalid(field: string, value: string, message: string): MeshError {
  return new MeshError('input_invalid', `${field} ${message}`, { field, value: value.slice(0, 100) })
}

export function notFound(message: string, hint?: string): MeshError {
  return new MeshError('not_found', message, hint === undefined ? {} : { hint })
}
