/**
 * Lets a person change one resource as YAML in an editor, again and again until it is right, and finds what they changed.
 * Reads and writes a draft of its own; asks no node. Called by the verb edit of resources.ts.
 */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Value } from '../../core/envelope.ts'
import { parseResourcePath, type ResourceName } from '../../core/names.ts'
import { planFields, planOps, type Change, type Current } from '../../core/plan.ts'
import { diffFields } from '../../core/resources/flat.ts'
import { documentOf } from '../../core/resources/index.ts'
import { MeshError } from '../../errors.ts'
import type { Cli } from '../cli.ts'
import { parseSources } from './documents.ts'
import { plain, toYaml } from '../terminal.ts'

interface Edited {
  readonly fields: ReadonlyMap<string, Value>
  /** The file with the edited text. */
  readonly draft: string
  discard(): Promise<void>
}

/** Lets a person edit the resource until it is valid; undefined when nothing is different. */
export async function editFields(cli: Cli, path: string, before: Current): Promise<Edited | undefined> {
  const original = toYaml(documentOf(parseResourcePath(path) as ResourceName, before.fields))
  const directory = await mkdtemp(join(cli.host.env['TMPDIR'] ?? tmpdir(), 'meshctl-'))
  const draft = join(directory, `${path.replaceAll('/', '_').replaceAll('*', 'all')}.yaml`)
  const discard = (): Promise<void> => rm(directory, { recursive: true, force: true })
  const command = cli.host.env['VISUAL'] || cli.host.env['EDITOR'] || 'vi'
  let text = original
  for (let complaint = ''; ;) {
    const shown = `${complaint}${text}`
    await writeFile(draft, shown, { mode: 0o600 })
    const code = await cli.host.runEditor(command, draft)
    if (code !== 0)
      throw new MeshError('input_invalid', `the editor ${command} ended with ${code}; nothing was changed`, {
        hint: `Your text is in ${draft}.`,
      })
    const saved = await readFile(draft, 'utf8')
    text = withoutComplaint(saved)
    if (text === original || text.trim() === '') {
      await discard()
      return undefined
    }
    try {
      const fields = editedFields(path, text)
      if (diffFields(before.fields, fields).length > 0 || before.conflicts.length > 0) return { fields, draft, discard }
      await discard()
      return undefined
    } catch (error) {
      const isUnchanged = saved === shown && complaint !== ''
      if (isUnchanged)
        throw new MeshError('resource_invalid', (error as Error).message, { hint: `Your text is in ${draft}.` }, error)
      complaint = complaintOf(error as Error)
    }
  }
}

function editedFields(path: string, text: string): ReadonlyMap<string, Value> {
  const [wanted, ...others] = parseSources([{ name: 'edit', text }])
  if (wanted === undefined || others.length > 0)
    throw new MeshError('resource_invalid', 'there must be exactly one document')
  if (wanted.path !== path) {
    throw new MeshError(
      'resource_invalid',
      `kind, name, workspace and zone cannot be edited: this would be ${wanted.path}`,
      {
        field: 'metadata',
        hint: 'Apply it as a new resource, and delete the old one.',
      },
    )
  }
  return wanted.fields
}

const COMPLAINT = '#! '

function complaintOf({ message }: Error): string {
  const lines = ['This cannot be accepted. Correct it, or save it unchanged to give up:', ...message.split('\n')]
  return lines.map((line) => `${COMPLAINT}${plain(line)}\n`).join('')
}

function withoutComplaint(text: string): string {
  return text.replaceAll(/^#! .*\n/gm, '')
}

/** What a person changed, on top of what the resource is now. @throws MeshError `conflict` when both changed one field. */
export function planEdit(
  path: string,
  before: Current,
  edited: ReadonlyMap<string, Value>,
  now: Current,
  draft: string,
): Change {
  const ops = [...planFields(path, before, edited).ops]
  const meanwhile = new Set(diffFields(before.fields, now.fields).map(([, field]) => field))
  const clashes = ops.map(([, field]) => field).filter((field) => meanwhile.has(field))
  if (!now.exists || clashes.length > 0) {
    const what = now.exists ? `changed ${clashes.join(', ')}` : 'deleted it'
    throw new MeshError('conflict', `somebody else ${what} while you were editing ${path}; nothing was sent`, {
      hint: `Your text is in ${draft}. Look at the present state with meshctl get, and edit again.`,
    })
  }
  return planOps(path, now, ops)
}
