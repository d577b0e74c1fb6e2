/**
 * Keys and envelopes as people name them: by a name of a grant, or by the first digits that a list showed. The asked node
 * says what may be meant, and may lie: enough to read by, never to sign by. Where it is not one thing, nothing is chosen.
 * Used by revoke and log.
 */

import { ID_FORM, isIdText } from '../../api/ids.ts'
import type { IdView } from '../../api/schemas.ts'
import { isHex } from '../../core/envelope.ts'
import { MeshError } from '../../errors.ts'
import { usage, type Cli } from '../cli.ts'
import { plain } from '../terminal.ts'

/** What a verb takes. */
export interface Wanted {
  /** As usage calls it: `KEY`, `--author`. */
  readonly field: string
  /** For people, after "no". */
  readonly what: string
  readonly accepts: (candidate: IdView) => boolean
  /** The way out when there is none. */
  readonly hint: string
}

/** So many candidates are spelled out. */
const SHOWN_MAX = 20

/**
 * The 64 digits that a text stands for, as the asked node has it; they are told when the text is not these itself. Whoever
 * signs about them asks the person for all digits first: a node that is broken into may name any key.
 * @throws MeshError `usage` when it is no id text or may be several, `not_found` when the node knows none.
 */
export async function resolveId(cli: Cli, text: string, wanted: Wanted): Promise<string> {
  const isWhole: boolean = isHex(text, 64)
  if (isWhole) return text
  if (!isIdText(text)) {
    throw usage(
      `${wanted.field} takes ${ID_FORM}, not ${text.slice(0, 80)}`,
      'meshctl log and meshctl peers show them.',
    )
  }
  const found = (await (await cli.client()).ids(text)).filter(
    // An answer to another question is a fault of the node. Against a lie it does not help: a key with eight given digits is
    // soon made, and any key may be said to bear a name.
    (candidate) => wanted.accepts(candidate) && (candidate.id.startsWith(text) || candidate.name === text),
  )
  const [only, ...others] = found
  if (only === undefined) {
    throw new MeshError('not_found', `this node knows ${wanted.what} that begins with or is called ${text}`, {
      hint: wanted.hint,
    })
  }
  if (others.length > 0) throw ambiguous(text, found.map(describe))
  cli.note(`${text} is ${plain(describe(only))}`)
  return only.id
}

export function ambiguous(text: string, candidates: readonly string[]): MeshError {
  const lines = candidates.slice(0, SHOWN_MAX)
  const more = candidates.length > lines.length ? [`and ${candidates.length - lines.length} more`] : []
  return usage(
    [`${text} may be any of these:`, ...[...lines, ...more].map((line) => `  ${line}`)].join('\n'),
    'Give more digits of the one that you mean.',
  )
}

function describe({ id, type, name, about }: IdView): string {
  switch (type) {
    case 'key':
      return `key ${id}${name === null ? '' : ` (${name})`}`
    case 'grant':
      return `grant ${id} to ${about}`
    case 'revoke':
      return `revocation ${id} of ${about}`
    default:
      return `${type} ${id}`
  }
}
