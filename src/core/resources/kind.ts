/**
 * What a kind is: its names, its schema, and how its nested form lies in flat fields. One file per kind describes
 * one; src/core/resources/index.ts lists them. Nothing here knows of nginx.
 */

import type { z } from 'zod'

/** A nested value as YAML gives it: objects, lists, texts, whole numbers, booleans. */
export type Tree = { [key: string]: unknown }

/** A path in a nested spec; `*` stands for any key. */
export type TreePath = readonly string[]

export interface Kind<S = unknown> {
  /** As in YAML: `Site`. */
  readonly kind: string
  /** As in resource paths: `site`. */
  readonly path: string
  /** As in `meshctl get`: `sites`. */
  readonly plural: string
  /** Strict; checks a nested spec and fills in defaults. Its output never goes back into storage. */
  readonly schema: z.ZodType<S>
  /** Lists that people add to one by one: one flat field per item (`hosts/<item>` = true). */
  readonly sets: readonly TreePath[]
  /** Items of maps that exist even when they say nothing: `endpoints/<key>` = true stands for `{}`. */
  readonly items: readonly TreePath[]
  /** Fills in what a person may leave out but storage holds explicitly, such as a union's discriminator. */
  readonly complete?: (spec: Tree) => Tree
  /** The one name that a resource of this kind may have in a zone. */
  readonly onlyName?: string
}

export function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
