/**
 * Which hosts could not do what resources ask of nginx, before anything is written: by the needs of the resources, and what
 * each node says of its nginx. Pure; called by `meshctl plan`.
 */

import type { NodeReceipt } from '../../api/schemas.ts'
import { parseResourcePath, type ResourceName } from '../../core/names.ts'
import { KINDS, readFields } from '../../core/resources/index.ts'
import type { Kind } from '../../core/resources/kind.ts'
import { isPlacedFor } from '../../core/slice.ts'
import { firstUnmet, needsOf, unsupported } from '../../nginx/rendering/needs.ts'
import type { Wanted } from '../resources/documents.ts'
import { nameOf } from '../resources/wait.ts'

/** One line for each host and resource: `edge-3 cannot default/*\/stream/dns: the kind Stream needs ...`. */
export function lackingLines(wanted: readonly Wanted[], nodes: readonly NodeReceipt[]): string[] {
  return wanted.flatMap(({ path, fields }) => {
    const name = parseResourcePath(path) as ResourceName
    const read = readFields(KINDS.get(name.kind) as Kind, fields)
    if ('field' in read) return []
    const needs = needsOf(name.kind, read.spec)
    return nodes.flatMap((node) => {
      const { version, modules } = node.receipt?.nginx ?? { version: null, modules: [] }
      // Without a version it has not told yet, or runs no nginx.
      if (version === null || !isPlacedFor(name, node.places)) return []
      const capabilities = { version, modules, dynamic: {} }
      const unmet = firstUnmet(needs, capabilities)
      if (unmet === undefined) return []
      const { message, hint } = unsupported(path, unmet, capabilities)
      return [`${nameOf(node)} cannot ${path}: ${message}; ${hint}`]
    })
  })
}
