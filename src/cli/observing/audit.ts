/**
 * The verbs that ask who may do what and what became of it: who-can, conflicts, orphans, and adopt, which signs an orphan
 * anew. They judge by what one node says; verify.ts takes nobody's word.
 */

import type { EditView, GrantView, ResourceView } from '../../api/schemas.ts'
import { envelopeId, parseBody, type EditBody, type Op, type Value } from '../../core/envelope.ts'
import { isFieldPath, parseResourcePath, type ResourceName } from '../../core/names.ts'
import { planOps, type Change, type Current } from '../../core/plan.ts'
import { denial } from '../../core/policy.ts'
import { recipientsIn } from '../../core/secrets.ts'
import { MeshError } from '../../errors.ts'
import { notTyped } from '../grants/authority.ts'
import { grantBody } from '../signing/author.ts'
import { usage, type Verb } from '../cli.ts'
import { HISTORY_MAX } from '../grants/held.ts'
import { resolveId } from '../asking/ids.ts'
import { authorNames, structured, timeText, whatOf } from './observe.ts'
import { readCurrents, showPlan, write } from '../resources/resources.ts'
import { plain, short, table } from '../terminal.ts'

// ---------------------------------------------------------------------------------------------- who-can

export const whoCanVerb: Verb = {
  name: 'who-can',
  summary: 'tell which keys may edit or read a resource, and through which grants',
  usage: ['who-can edit|read PATH [--field FIELD]'],
  details: [
    'PATH is workspace/zone/kind/name, of a resource that there is or of one that there is not. Without --field, edit asks who may create it.',
    'read tells who can read it through the API; of a secret, who can open it. Nodes hold everything, secrets sealed.',
  ].join('\n'),
  options: { field: { type: 'string', value: 'FIELD', description: 'edit: this field, such as routes/root/path' } },
  examples: [
    'meshctl who-can edit default/eu.west/site/web',
    'meshctl who-can edit default/eu.west/site/web --field privileged/serverSnippet',
  ],
  async run(cli, args) {
    const [verb, path] = args.expect('edit|read', 'PATH') as [string, string]
    const field = args.text('field') ?? '$'
    if (verb !== 'edit' && verb !== 'read') throw usage(`who-can takes edit or read, not ${verb}`)
    const name = parseResourcePath(path)
    if (name === undefined) throw usage(`${path} is no path of a resource`, 'Write it like default/eu.west/site/web.')
    if (!isFieldPath(field)) throw usage(`--field ${field} is not a field path`, 'Write it like routes/root/path.')
    const client = await cli.client()
    const grants = await client.grants()
    const isSecret = verb === 'read' && name.kind === 'secret'
    const secret = isSecret ? await client.resource(path) : undefined
    const opens = isSecret ? openersOf(secret) : undefined
    const found = grants.filter((grant) => {
      if (verb === 'edit') return mayEdit(grant, path, field)
      return opens === undefined ? covers(grant.workspace, name.workspace) : opens.has(grant.enc ?? '')
    })
    const rows = found.map((grant) => [
      grant.name ?? '-',
      short(grant.subject),
      grant.role,
      short(grant.id),
      grant.workspace,
      grant.zones.join(','),
      grant.kinds.join(','),
      grant.fields?.join(',') ?? '*',
      grant.hosts?.join(',') ?? '*',
      quotaText(grant.quota),
    ])
    const heads = ['WHO', 'KEY', 'ROLE', 'GRANT', 'WORKSPACE', 'ZONES', 'KINDS', 'FIELDS', 'HOSTS', 'QUOTA']
    const isAbsent = isSecret && secret?.exists !== true
    const none = isAbsent ? `there is no secret ${plain(path)}\n` : 'nobody\n'
    cli.out(structured(cli, found) ?? (rows.length === 0 ? none : table(heads, rows)))
    return undefined
  },
}

function quotaText(quota: GrantView['quota']): string {
  const limits = Object.entries(quota ?? {}).map(([what, most]) => `${what}=${most}`)
  return limits.length === 0 ? '-' : limits.join(',')
}

/** By the rule of the nodes themselves. */
function mayEdit(grant: GrantView, path: string, field: string): boolean {
  const body = grantBody(grant, grant.id)
  const { workspace } = parseResourcePath(path) as ResourceName
  const op: Op = field === '$' ? ['set', '$', true] : ['set', field, '']
  const edit: EditBody = { ...body, type: 'edit', ws: workspace, by: grant.subject, edits: [[path, [], [op]]] }
  return denial(edit, [grant.subject], body) === undefined
}

function covers(granted: string, workspace: string): boolean {
  return granted === '*' || granted === workspace
}

function openersOf(view: ResourceView | undefined): ReadonlySet<string> {
  if (view === undefined) return new Set()
  return new Set(recipientsIn(new Map(Object.entries(view.fields) as [string, Value][])))
}

// ---------------------------------------------------------------------------------------------- conflicts

export const conflictsVerb: Verb = {
  name: 'conflicts',
  summary: 'list fields that were given several values at the same time, and writes that a delete hides',
  usage: ['conflicts [-w NAME] [-z ZONE]'],
  details:
    'The first value counts until somebody edits the field again: apply what you want, and the conflict is settled.',
  options: {},
  examples: ['meshctl conflicts', 'meshctl get site web -o yaml > web.yaml && meshctl apply -f web.yaml'],
  async run(cli, args) {
    args.expect()
    const client = await cli.client()
    const views = await client.resources({ workspace: cli.workspace, zone: cli.zone })
    const names = await authorNames(client)
    const found = views.flatMap((view) => [
      ...Object.entries(view.conflicts).flatMap(([field, writes]) =>
        writes.map((write, index) => ({
          path: view.path,
          ...write,
          field,
          state: index === 0 ? 'counts' : 'concurrent',
        })),
      ),
      ...view.lost.map((write) => ({ path: view.path, ...write, state: 'lost' })),
    ])
    const rows = found.map(({ path, field, value, by, edit, state }) => {
      const isSecret = parseResourcePath(path)?.kind === 'secret'
      const text = isSecret ? '(sealed)' : JSON.stringify(value)
      return [path, field, text, names.get(by) ?? short(by), short(edit), state]
    })
    cli.out(
      structured(cli, found) ??
        (found.length === 0 ? 'no conflicts\n' : table(['RESOURCE', 'FIELD', 'VALUE', 'BY', 'EDIT', 'STATE'], rows)),
    )
    return undefined
  },
}

// ---------------------------------------------------------------------------------------------- orphans and adopt

/** How an edit that adopts another says so, for `orphans` to see. */
const ADOPTS = 'adopts '

export const orphansVerb: Verb = {
  name: 'orphans',
  summary: 'list edits that are void since a grant above their author’s became void',
  usage: ['orphans'],
  details: [
    'Their authors did nothing wrong: whoever let them in was revoked with all that came after a theft. Look at each, and adopt what is good.',
    'Those that somebody adopted come last, with who did it in which edit: look at that too, as any editor of the resource may say so.',
    'With -o wide the ids are whole, as adopt takes them.',
  ].join('\n'),
  options: {},
  examples: ['meshctl orphans'],
  async run(cli, args) {
    args.expect()
    const client = await cli.client()
    const isOrphan = ({ verdict }: EditView): boolean => verdict.code === 'grant_void'
    const isAdoption = ({ note, verdict }: EditView): boolean => verdict.accepted && note.startsWith(ADOPTS)
    const some = await client.edits(
      { order: 'desc' },
      HISTORY_MAX,
      (edit) => edit.type === 'edit' && (isOrphan(edit) || isAdoption(edit)),
    )
    const adoptions = some.filter(isAdoption)
    const orphans = some
      .filter(isOrphan)
      .map((edit) => ({ ...edit, adopted: adoptions.find((other) => isAdoptionOf(other, edit)) ?? null }))
      .toSorted((a, b) => Number(a.adopted !== null) - Number(b.adopted !== null))
      .map(({ adopted, ...edit }) => ({ ...edit, adopted: adopted && { by: adopted.by, edit: adopted.id } }))
    const names = await authorNames(client, some)
    const who = (key: string | null): string => (key === null ? '-' : (names.get(key) ?? short(key)))
    const rows = orphans.map((edit) => [
      timeText(edit.at),
      cli.format === 'wide' ? edit.id : short(edit.id),
      who(edit.by),
      whatOf(edit),
      edit.adopted === null
        ? (edit.verdict.message ?? '')
        : `adopted by ${who(edit.adopted.by)} in ${short(edit.adopted.edit)}`,
    ])
    cli.out(
      structured(cli, orphans) ??
        (orphans.length === 0 ? 'no orphans\n' : table(['CLAIMED TIME', 'EDIT', 'BY', 'WHAT', 'REASON'], rows)),
    )
    return undefined
  },
}

/** Whether it says so, and changed what the orphan did and nothing else. It may have left out what was so already. */
function isAdoptionOf({ note, resources }: EditView, orphan: EditView): boolean {
  const isNamed = note.slice(ADOPTS.length, ADOPTS.length + 64) === orphan.id
  return isNamed && resources.length > 0 && resources.every((path) => orphan.resources.includes(path))
}

export const adoptVerb: Verb = {
  name: 'adopt',
  summary: 'sign a void edit again, with your own key',
  usage: ['adopt EDIT [--dry-run]'],
  details: [
    'Shows what it changes in the resources as they are now, and makes that an edit of yours. Your grant has to cover it.',
    'EDIT is an id with all 64 digits (meshctl orphans -o wide); of a shortened one it shows what this node says that it is.',
  ].join('\n'),
  options: { 'dry-run': { type: 'boolean', description: 'show the changes and make none' } },
  examples: [
    'meshctl adopt 0f54d935c02f --dry-run',
    'meshctl -k owner.key adopt 0f54d935c02f1c5e7bd0e5a9b0d3c8a4f6172839405a6b7c8d9eaf0112233445',
  ],
  async run(cli, args) {
    const [text] = args.expect('EDIT') as [string]
    const client = await cli.client()
    const id = await resolveId(cli, text, {
      field: 'EDIT',
      what: 'no void edit',
      accepts: ({ type, active }) => type === 'edit' && !active,
      hint: 'See what there is: meshctl orphans',
    })
    const stored = await client.edit(id)
    if (stored === undefined)
      throw new MeshError('not_found', `this node has no envelope ${id}`, { hint: 'See: meshctl orphans' })
    const body = parseBody(stored.envelope.bytes)
    // What is signed anew is what was asked for, and nothing that the node put in its place.
    if (envelopeId(stored.envelope.bytes) !== id)
      throw new MeshError('denied', `the node gave another envelope than ${id}`, {
        hint: 'Ask another node with --api; this one may be broken into.',
      })
    if (body.type !== 'edit' || stored.verdict.accepted) {
      throw new MeshError('input_invalid', `${short(id)} is no void edit`, {
        hint: 'See what there is: meshctl orphans',
      })
    }
    const paths = body.edits.map(([path]) => path)
    const plan = async (): Promise<Change[]> => {
      const currents = await readCurrents(client, paths)
      return body.edits.map(([path, , ops], index) => planAdoption(path, currents[index] as Current, ops))
    }
    if (args.flag('dry-run')) return showPlan(cli, await plan(), 'dry run: nothing was changed')
    if (text !== id) {
      showPlan(cli, await plan(), '')
      throw notTyped('adopt', text, id, args)
    }
    await write(cli, args, plan, `${ADOPTS}${id}`)
    return undefined
  },
}

/** Those of the operations that change something now. */
function planAdoption(path: string, current: Current, ops: readonly Op[]): Change {
  const isDelete = ops.some(([action, field]) => action === 'del' && field === '$')
  if (!current.exists) {
    if (isDelete) return { path, action: 'keep', ops: [], deps: [], before: current.fields }
    if (ops.some(([, field]) => field === '$')) return planOps(path, current, ops)
    throw new MeshError('not_found', `${plain(path)} does not exist any more, and this edit only changed it`, {
      hint: 'Adopt the edit that made it first: meshctl orphans',
    })
  }
  if (isDelete) return { ...planOps(path, current, ops), action: 'delete' }
  const changing = ops.filter(([action, field, value]) => {
    if (field === '$') return false
    return action === 'del'
      ? current.fields.has(field)
      : JSON.stringify(current.fields.get(field)) !== JSON.stringify(value)
  })
  return planOps(path, current, changing)
}
