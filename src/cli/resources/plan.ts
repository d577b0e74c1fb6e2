/** Shows a person what a plan of core/plan.ts changes: resource by resource, field by field, in sum. Pure. apply, diff, edit and delete call it. */

import type { Value } from '../../core/envelope.ts'
import { parseResourcePath } from '../../core/names.ts'
import type { Change } from '../../core/plan.ts'
import { KEYS_PREFIX, recipientsIn, SEALED_FIELD, versionIn } from '../../core/secrets.ts'
import type { Paint } from '../terminal.ts'
import { plain } from '../terminal.ts'

const SIGNS = { create: '+', update: '~', delete: '-', keep: '=' } as const

/** A change as lines: the resource, then each field with its value before and after. */
export function showChange(change: Change, { green, red, yellow, dim, bold }: Paint): string {
  const colours = { create: green, update: yellow, delete: red, keep: dim } as const
  const word = { create: 'create', update: 'change', delete: 'delete', keep: 'unchanged' }[change.action]
  const head = `${colours[change.action](`${SIGNS[change.action]} ${word}`)} ${bold(plain(change.path))}\n`
  const isSealing = parseResourcePath(change.path)?.kind === 'secret'
  const sealing = isSealing ? sealingLine(change, { green, red, yellow }) : ''
  const lines = change.ops
    .filter(([, field]) => field !== '$' && !(isSealing && isSealed(field)))
    .map((op) => {
      const before = change.before.get(op[1])
      const was = before === undefined ? '' : red(show(before))
      const will = op[0] === 'set' ? green(show(op[2])) : ''
      if (op[0] === 'del') return `    ${red('-')} ${plain(op[1])}: ${was}\n`
      if (before === undefined) return `    ${green('+')} ${plain(op[1])}: ${will}\n`
      const isSame = show(before) === show(op[2])
      return `    ${yellow('~')} ${plain(op[1])}: ${isSame ? `${will} (settles a conflict)` : `${was} -> ${will}`}\n`
    })
  return head + sealing + lines.join('')
}

/** Ciphertext and wrapped keys tell a person nothing but how many can open them. */
function sealingLine({ before, ops }: Change, { green, red, yellow }: Pick<Paint, 'green' | 'red' | 'yellow'>): string {
  if (!ops.some(([, field]) => isSealed(field))) return ''
  const after = new Map(before)
  for (const op of ops) {
    if (op[0] === 'set') after.set(op[1], op[2])
    else after.delete(op[1])
  }
  const was = before.has(SEALED_FIELD) ? red(sealedWords(before)) : ''
  if (!after.has(SEALED_FIELD)) return `    ${red('-')} ${was}\n`
  const isAnew = ops.some(([, field]) => field === SEALED_FIELD)
  const will = green(`${sealedWords(after)}${was !== '' && isAnew ? ', anew' : ''}`)
  return was === '' ? `    ${green('+')} ${will}\n` : `    ${yellow('~')} ${was} -> ${will}\n`
}

function isSealed(field: string): boolean {
  return field === SEALED_FIELD || field.startsWith(KEYS_PREFIX)
}

/** `sealed, 3 recipients` */
export function sealedWords(fields: ReadonlyMap<string, Value>): string {
  if (versionIn(fields) === undefined) return 'not sealed as it should be'
  const count = recipientsIn(fields).length
  return `sealed, ${count} ${count === 1 ? 'recipient' : 'recipients'}`
}

/** `2 to create, 1 to change, 5 unchanged` */
export function summary(changes: readonly Change[]): string {
  const count = (action: Change['action']): number => changes.filter((change) => change.action === action).length
  const parts = [
    [count('create'), 'to create'],
    [count('update'), 'to change'],
    [count('delete'), 'to delete'],
    [count('keep'), 'unchanged'],
  ] as const
  return (
    parts
      .filter(([n]) => n > 0)
      .map(([n, words]) => `${n} ${words}`)
      .join(', ') || 'nothing'
  )
}

function show(value: Value): string {
  return plain(JSON.stringify(value))
}
