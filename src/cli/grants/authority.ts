/** The verbs that change who may do what, one key at a time: grant and revoke; and what a revocation makes void. */

import { isForCallers } from '../../core/caller.ts'
import { isHex, ROLES, type GrantBody, type Role } from '../../core/envelope.ts'
import { isFieldPath, isName, isZone } from '../../core/names.ts'
import { isRegistrar } from '../../core/policy.ts'
import { nearestName } from '../../core/nearest-name.ts'
import { KINDS, kindOf } from '../../core/resources/index.ts'
import { MeshError } from '../../errors.ts'
import { isIdPrefix } from '../../api/ids.ts'
import type { EditView, GrantView } from '../../api/schemas.ts'
import { usage, type Args, type Cli, type Verb } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { commonWorkspace, HISTORY_MAX, historyOf, signRevocation, tellMissing, tracesIn } from './held.ts'
import { ambiguous, resolveId } from '../asking/ids.ts'
import { keyWithEnc } from '../keys/keys.ts'
import { timeText, whatOf } from '../observing/observe.ts'
import { noteOf } from '../resources/resources.ts'
import { tellExposed } from '../resources/secret.ts'
import { plain, short, table } from '../terminal.ts'

const NOTE = { note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' } } as const

export const grantVerb: Verb = {
  name: 'grant',
  summary: 'give a key a role',
  usage: ['grant node|viewer|robot|editor|admin|owner KEY[:ENC] --zone ZONE... [--name NAME] [--kinds site,upstream]'],
  details: [
    'KEY is a public key, always whole: what a name or the first digits stand for, only a node could say, and nodes may lie.',
    'KEY:ENC, as meshctl key show -o wide prints it, lets the key receive secrets.',
    'A node applies the resources of its zones; editors edit them; admins also write privileged fields, and grant; owners do everything.',
    'A robot with --kinds node is a registrar: it lets hosts into its zones by itself (meshctl approve --all), and edits nothing.',
    'An editor or robot with caller among its kinds (--kinds "*,caller") is for the http_edit_key of a node: its edits name for whom it signed them.',
    'Granting takes a higher role than the one that is given. The workspace is -w; for nodes and owners all, unless -w says otherwise.',
  ].join('\n'),
  options: {
    ...NOTE,
    name: { type: 'string', value: 'NAME', description: 'what people call the key: edge-1, ana' },
    kinds: { type: 'string', multiple: true, value: 'KINDS', description: 'only these kinds (default all)' },
    fields: {
      type: 'string',
      multiple: true,
      value: 'FIELDS',
      description: 'only these fields, or prefixes ending in /; for an editor: privileged fields to add',
    },
    hosts: {
      type: 'string',
      multiple: true,
      value: 'HOSTS',
      description: 'host names, or *.suffix, that edits by this key may claim (default all)',
    },
    quota: {
      type: 'string',
      multiple: true,
      value: 'LIMITS',
      description: 'what resources made under it may amount to: resources=10,fields=200,bytes=65536 (default no limit)',
    },
    enc: {
      type: 'string',
      value: 'HEX',
      description: 'the X25519 key that secrets are sealed to; KEY:ENC says the same',
    },
  },
  examples: [
    'meshctl -k owner.key grant node 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29 --zone eu.west --name edge-1',
    'meshctl -k owner.key grant editor 8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394 --zone eu --kinds site --name ana',
  ],
  async run(cli, args) {
    const [roleName, keyText] = args.expect('ROLE', 'KEY') as [string, string]
    const role = roleOf(roleName)
    const zones = grantedZones(args, role)
    const kinds = kindsOf(args, role)
    const fields = args.items('fields')
    const wrongField = fields.find((field) => !isFieldPath(field.replace(/\/$/, '')))
    if (wrongField !== undefined)
      throw usage(
        `--fields ${wrongField} is not a field path`,
        'Write it like routes/root/path, or routes/ for all below.',
      )
    const hosts = args.items('hosts')
    const quota = quotaOf(args)
    const name = args.text('name')
    if (name !== undefined && !isName(name)) throw usage(`--name takes lower-case letters, digits and -, not ${name}`)
    const whole = keyText.includes(':') ? keyWithEnc(keyText, 'KEY') : { key: keyText, enc: undefined }
    const enc = args.text('enc') ?? whole.enc
    if (enc !== undefined && !isHex(enc, 64)) throw usage('--enc takes 64 hex digits')
    const subject = whole.key
    const isWhole: boolean = isHex(subject, 64)
    if (!isWhole) {
      throw usage(
        `KEY takes all 64 lower-case hex digits of a public key, not ${subject.slice(0, 80)}`,
        'Whoever has the key sees them with: meshctl key show -k FILE',
      )
    }
    const ws = cli.workspace ?? (role === 'node' || role === 'owner' ? '*' : 'default')
    const sent = await cli.withAuthor((author) =>
      author.send({
        type: 'grant',
        ws,
        note: noteOf(args),
        subject,
        role,
        zones,
        kinds,
        ...(fields.length === 0 ? {} : { fields }),
        ...(hosts.length === 0 ? {} : { hosts }),
        ...(quota === undefined ? {} : { quota }),
        ...(enc === undefined ? {} : { enc }),
        ...(name === undefined ? {} : { name }),
      }),
    )
    cli.out(`${sent.id}\n`)
    const who = name === undefined ? short(subject) : `${name} (${short(subject)})`
    if (tellMissing(cli, sent)) return undefined
    cli.note(
      `granted: ${who} is ${role} of zones ${zones.join(', ')} in ${ws === '*' ? 'all workspaces' : `workspace ${ws}`}`,
    )
    return undefined
  },
}

function roleOf(text: string): Role {
  const role = ROLES.find((known) => known === text)
  if (role !== undefined) return role
  const close = nearestName(text, ROLES)
  throw usage(
    `there is no role ${text}`,
    close === undefined ? `Roles: ${ROLES.join(', ')}.` : `Did you mean ${close}?`,
  )
}

function grantedZones(args: Args, role: Role): string[] {
  const zones = zonesOf(args)
  if (zones.length === 0 && role === 'owner') return ['*']
  if (zones.length === 0) throw usage('--zone is missing', 'Name zones such as eu.west, or --zone "*" for all.')
  return zones
}

/** Of `--zone`, none when it is not given. @throws MeshError `usage` for what is no zone. */
export function zonesOf(args: Args): string[] {
  const zones = args.items('zone')
  const wrong = zones.find((zone) => !isZone(zone))
  if (wrong !== undefined) throw usage(`--zone ${wrong} is not a zone`, 'Write it like eu.west, or * for all.')
  return zones
}

const QUOTAS = ['resources', 'fields', 'bytes'] as const

function quotaOf(args: Args): GrantBody['quota'] {
  const limits = args.items('quota').map((item) => {
    const [, name, value] = /^([a-z]+)=(\d{1,15})$/.exec(item) ?? []
    const quota = QUOTAS.find((known) => known === name)
    if (quota === undefined || value === undefined)
      throw usage(`--quota ${item} is no limit`, `Write it like resources=10; there are ${QUOTAS.join(', ')}.`)
    return [quota, Number(value)] as const
  })
  return limits.length === 0 ? undefined : Object.fromEntries(limits)
}

function kindsOf(args: Args, role: Role): string[] {
  const names = args.items('kinds')
  const kinds = names.map((name) => {
    const isWord = name === '*' || isRegistrar({ role, kinds: [name] }) || isForCallers({ role, kinds: [name] })
    const kind = isWord ? name : kindOf(name)?.path
    if (kind === undefined) throw usage(`there is no kind ${name}`, `Kinds: ${[...KINDS.keys()].join(', ')}.`)
    return kind
  })
  return kinds.length === 0 ? ['*'] : [...new Set(kinds)].toSorted()
}

// ---------------------------------------------------------------------------------------------- revoke

export const revokeVerb: Verb = {
  name: 'revoke',
  summary: 'take a grant, or all grants of a key, away',
  usage: ['revoke KEY|GRANT-ID [--since TIME|EDIT] [--dry-run]'],
  details: [
    'Signs with all 64 digits only. Of a name, or of 8 digits or more, it prints what this node says that they stand for, and the',
    'command with all digits: repeat that if it is what you mean. With --dry-run they will do.',
    'What the key did so far stays, as far as this node knows it. With --since (a stolen key), what this node took in from that',
    'edit or claimed time on becomes void. --dry-run lists what that is and changes nothing.',
  ].join('\n'),
  options: {
    ...NOTE,
    since: {
      type: 'string',
      value: 'TIME|EDIT',
      description: 'void what came in from then on: 2026-03-01T12:00Z, or an edit’s id',
    },
    'dry-run': { type: 'boolean', description: 'list what becomes void, and do nothing' },
  },
  examples: [
    'meshctl -k owner.key revoke ana --dry-run',
    'meshctl -k owner.key revoke 8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394 --since 2026-03-01T12:00Z',
  ],
  async run(cli, args) {
    const [text] = args.expect('KEY|GRANT-ID') as [string]
    const client = await cli.client()
    const id = await resolveId(cli, text, {
      field: 'KEY|GRANT-ID',
      what: 'no key and no grant in force',
      accepts: ({ type, active }) => active && (type === 'key' || type === 'grant'),
      hint: 'See what happened to it: meshctl log',
    })
    const { target, subject, grants } = await targetOf(client, id)
    if (text !== id) {
      for (const grant of grants) cli.note(`  ${plain(grantWords(grant))}`)
      if (!args.flag('dry-run')) throw notTyped('revoke', text, id, args)
    }
    const ws = cli.workspace ?? commonWorkspace(grants)
    const history = await historyOf(client, { key: subject, ws }, await tracesIn(client))
    const kept = keptBy(history, args.text('since'))
    const voided = await voidedBy(
      client,
      history,
      new Set(grants.map((grant) => grant.id)),
      new Set(kept.map((edit) => edit.id)),
    )
    showVoided(cli, voided)
    await tellExposed(cli, grants)
    if (args.flag('dry-run')) {
      cli.note('dry run: nothing was changed')
      return undefined
    }
    const sent = await cli.withAuthor((author) =>
      signRevocation(author, { target, ws, of: grants, note: noteOf(args) }, kept),
    )
    cli.out(`${sent.id}\n`)
    if (tellMissing(cli, sent)) return undefined
    cli.note(
      `revoked ${grants.length} ${grants.length === 1 ? 'grant' : 'grants'} of ${short(subject)}; ${voided.length} edits became void`,
    )
    return undefined
  },
}

async function targetOf(
  client: ApiClient,
  id: string,
): Promise<{ target: string; subject: string; grants: GrantView[] }> {
  const own = await client.grants(id)
  if (own.length > 0) return { target: `key/${id}`, subject: id, grants: own }
  const grant = (await client.grants()).find((each) => each.id === id)
  if (grant !== undefined) return { target: `grant/${id}`, subject: grant.subject, grants: [grant] }
  throw new MeshError('not_found', `${id} is neither a key with a grant in force nor such a grant`, {
    hint: 'See what happened to it: meshctl log',
  })
}

function grantWords({ id, role, zones, workspace }: GrantView): string {
  const scope = workspace === '*' ? 'all workspaces' : `workspace ${workspace}`
  return `${role} of zones ${zones.join(', ')} in ${scope} (grant ${short(id)})`
}

/** The node chose these digits: they are signed only when the person has seen and repeated them. */
export function notTyped(verb: string, text: string, id: string, args: Args): MeshError {
  return usage(
    `only this node says what ${text} is, and it may be wrong or lie: nothing was signed`,
    `Compare all digits with your own records. If it is what you mean: ${commandOf(verb, [id], args)}`,
  )
}

/** A command to repeat, with the options of this one. */
export function commandOf(verb: string, words: readonly string[], args: Args): string {
  const options = ['api', 'key', 'workspace', 'since', 'note'].flatMap((name) =>
    args.list(name).flatMap((value) => [`--${name}`, shellWord(value)]),
  )
  return [`meshctl ${verb}`, ...words, ...options].join(' ')
}

/** A word that a shell reads as it is. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`
}

/** What stays accepted of a key's history, which is in the order in which this node took it in. */
export function keptBy(history: readonly EditView[], since: string | undefined): readonly EditView[] {
  if (since === undefined) return history
  if (isIdPrefix(since)) {
    const meant = history.filter(({ id }) => id.startsWith(since))
    const [edit, ...others] = meant
    if (edit === undefined) throw new MeshError('not_found', `the key made no edit ${since}`, { field: '--since' })
    if (others.length > 0) {
      throw ambiguous(
        since,
        meant.map(({ type, id }) => `${type} ${id}`),
      )
    }
    return history.slice(0, history.indexOf(edit))
  }
  const time = Date.parse(since)
  if (Number.isNaN(time)) {
    throw usage(`--since takes a time such as 2026-03-01T12:00Z or an edit's id, not ${since.slice(0, 80)}`)
  }
  const first = history.findIndex(({ at }) => at >= time)
  return first === -1 ? history : history.slice(0, first)
}

/** Accepted envelopes that rest on the given grants and are not kept, and all that was done under grants among them. */
export async function voidedBy(
  client: ApiClient,
  history: readonly EditView[],
  grants: ReadonlySet<string>,
  kept: ReadonlySet<string>,
): Promise<EditView[]> {
  const voided = history.filter((edit) => edit.verdict.accepted && !kept.has(edit.id) && grants.has(edit.grant ?? ''))
  const below: EditView[] = []
  for (const { id, type, about } of voided) {
    if (type !== 'grant' || about === null) continue
    below.push(
      ...(await voidedBy(client, await client.edits({ author: about }, HISTORY_MAX), new Set([id]), new Set())),
    )
  }
  return [...voided, ...below]
}

export function showVoided(cli: Cli, voided: readonly EditView[]): void {
  if (voided.length === 0) {
    cli.note('no edit becomes void')
    return
  }
  const rows = voided.map((edit) => [timeText(edit.at), short(edit.id), short(edit.by ?? ''), whatOf(edit), edit.note])
  cli.host.stderr.write(`becomes void:\n${table(['CLAIMED TIME', 'EDIT', 'BY', 'WHAT', 'NOTE'], rows)}`)
}
