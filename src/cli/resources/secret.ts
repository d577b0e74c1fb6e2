/**
 * The verb secret: seals texts for whom grants say, opens them with the caller's key, seals for newcomers, and tells who can
 * open what. A text enters by file, standard input or a hidden prompt, and leaves by `get` alone.
 */

import { randomBytes } from 'node:crypto'
import type { GrantView, ResourceView } from '../../api/schemas.ts'
import { parseBody, type Op, type Value } from '../../core/envelope.ts'
import { isName, isZone, resourcePath } from '../../core/names.ts'
import { depsOf, type Change, type Current } from '../../core/plan.ts'
import { recipientsOf, sealingKeys, type Recipient, type RecipientGrant } from '../../core/recipients.ts'
import {
  encryptionKey,
  everSealedFor,
  keyFieldsIn,
  KEYS_PREFIX,
  open,
  recipientsIn,
  rewrap,
  seal,
  SEALED_FIELD,
  versionIn,
  type EncryptionKey,
} from '../../core/secrets.ts'
import { MeshError } from '../../errors.ts'
import { usage, type Args, type Cli, type Verb } from '../cli.ts'
import { patiently, provenGrants, recipientGrant } from '../grants/granted.ts'
import { findPath, readCurrents, write } from './resources.ts'
import { put, randomText, readText, withText } from './secret-text.ts'
import { plain, short, table, toJson, toYaml } from '../terminal.ts'

type Fields = ReadonlyMap<string, Value>

const random = (bytes: number): Uint8Array => randomBytes(bytes)

const ACTIONS: Readonly<Record<string, (cli: Cli, args: Args, name: string | undefined) => Promise<void>>> = {
  set: setSecret,
  get: getSecret,
  rotate: rotateSecret,
  reseal,
  ls: listSecrets,
}

export const secretVerb: Verb = {
  name: 'secret',
  summary: 'seal texts for the hosts of a zone, open them, and tell who can',
  usage: [
    'secret set NAME -z ZONE [-f FILE|-]',
    'secret get NAME [-f FILE]',
    'secret rotate NAME [-f FILE|- | --random BYTES]',
    'secret reseal NAME|--all',
    'secret ls',
  ],
  details: [
    'set seals a text for the nodes of the zone and for owners, admins, editors and robots whose grants cover it, as far as their',
    'grants tell an enc key. The text comes from FILE, byte by byte, from standard input, or from a prompt that does not show it.',
    'get prints it, with the key of -k; a node’s key will do on its host. rotate puts another text in its place: after a host is lost.',
    'reseal lets those open it who came later, and lets go of those who may not any more; who could read it still knows it.',
    'What seals names for whom, and who is new. All but ls must know the mesh for sure: by --mesh, or since the key has signed in it.',
  ].join('\n'),
  options: {
    filename: {
      type: 'string',
      short: 'f',
      value: 'FILE',
      description: 'where the text is, or - for standard input; for get: where it goes',
    },
    random: { type: 'string', value: 'BYTES', description: 'rotate: so many random bytes, as base64url' },
    all: { type: 'boolean', description: 'reseal: every secret, or those of -w and -z' },
    note: { type: 'string', value: 'TEXT', description: 'why; kept in the history, readable for all nodes' },
  },
  examples: [
    'meshctl secret set shop-key -z eu.west -f shop.key',
    'meshctl -k node.key --mesh "$NXMESH_MESH_ID" --api unix:/var/lib/nxmesh/api.sock secret get shop-key',
    'meshctl secret reseal --all',
    'meshctl secret rotate api-token --random 32',
  ],
  async run(cli, args) {
    const [action = '', name, ...rest] = args.positionals
    const run = Object.hasOwn(ACTIONS, action) ? ACTIONS[action] : undefined
    // What else stands there may be the text itself, so it is not repeated.
    if (run === undefined) throw usage(`secret takes ${Object.keys(ACTIONS).join(', ')}`, 'See: meshctl help secret')
    if (rest.length > 0) {
      throw usage(
        `secret ${action} takes one name and no text`,
        'Give the text with -f FILE, or -f - for standard input.',
      )
    }
    await run(cli, args, name)
    return undefined
  },
}

// ---------------------------------------------------------------------------------------------- the actions

async function setSecret(cli: Cli, args: Args, name: string | undefined): Promise<void> {
  const path = cli.zone === undefined ? await existing(cli, name) : await newPath(cli, name)
  await withText(await readText(cli, args), (text) => writeSealed(cli, args, path, text))
}

async function getSecret(cli: Cli, args: Args, name: string | undefined): Promise<void> {
  const path = await existing(cli, name)
  const [current] = await currentsOf(cli, [path])
  const own = await ownKey(cli)
  await withText(open((current as Current).fields, path, own), (text) => put(cli, text, args.text('filename')))
}

async function rotateSecret(cli: Cli, args: Args, name: string | undefined): Promise<void> {
  const path = await existing(cli, name)
  await withText(randomText(args) ?? (await readText(cli, args)), async (text) => {
    const [current] = (await currentsOf(cli, [path])) as [Current]
    if (opened(current.fields, path, await ownKey(cli))?.equals(text) === true) {
      throw new MeshError('input_invalid', `the new text of ${path} is the old one`, {
        hint: 'Whoever could read it still knows it: get a new password, key or token, and give that.',
      })
    }
    await writeSealed(cli, args, path, text)
  })
}

async function reseal(cli: Cli, args: Args, name: string | undefined): Promise<void> {
  const isAll = args.flag('all')
  if (isAll === (name !== undefined)) throw usage('secret reseal takes a NAME, or --all')
  await cli.confirmMeshSurely()
  const paths = isAll ? (await secretsOf(cli)).map(({ path }) => path) : [await existing(cli, name)]
  const own = await ownKey(cli)
  const recipients = await provenRecipients(cli, paths)
  const closed = new Set<string>()
  const newcomers = new Map<string, ProvenRecipient[]>()
  await write(cli, args, async () => {
    const currents = await currentsOf(cli, paths)
    return paths.map((path, index) => {
      const current = currents[index] as Current
      const those = recipients.get(path) as ProvenRecipient[]
      const change = planReseal(path, current, sealingKeys(those), own)
      if (change === undefined) {
        closed.add(path)
        return { path, action: 'keep', ops: [], deps: [], before: current.fields }
      }
      newcomers.set(path, those.filter(isNewTo(current.fields)))
      return change
    })
  })
  for (const [path, some] of newcomers) if (some.length > 0) tellRecipients(cli, path, some, () => true)
  if (closed.size > 0) {
    throw new MeshError(
      'denied',
      `not sealed for the key of -k, so it can let nobody else in: ${[...closed].join(', ')}`,
      {
        hint: 'See who can: meshctl secret ls',
      },
    )
  }
}

async function listSecrets(cli: Cli, _: Args, name: string | undefined): Promise<void> {
  const views = (await secretsOf(cli)).filter((view) => name === undefined || view.name === name)
  const grants = (await (await cli.client()).grants()).map(recipientGrant)
  const rows = views.map((view) => access(view, grants))
  if (cli.format === 'json') return cli.out(toJson(rows))
  if (cli.format === 'yaml') return cli.out(toYaml(rows))
  if (rows.length === 0) return cli.out('no secrets\n')
  const { paint } = cli
  const cells = rows.map((row) => [
    row.path,
    short(row.version ?? '-'),
    row.opens.map(nameOf).join(' ') || '-',
    { text: row.cannotYet.map((one) => `${nameOf(one)} (${one.why})`).join(', ') || '-', colour: paint.yellow },
    { text: row.noMore.map(nameOf).join(' ') || '-', colour: paint.yellow },
  ])
  cli.out(table(['SECRET', 'VERSION', 'OPENS FOR', 'NOT YET FOR', 'STILL FOR'], cells))
}

interface Named {
  readonly name: string | null
  readonly key: string
}

function nameOf({ name, key }: Named): string {
  return name ?? short(key)
}

/** Who can open a secret, who of those it is for cannot, and who can although it is not for them any more. */
function access(view: ResourceView, grants: readonly ReturnType<typeof recipientGrant>[]) {
  const fields = fieldsOf(view)
  const wanted = recipientsOf(view.path, grants)
  const sealedFor = new Set(recipientsIn(fields))
  const named = ({ subject, name, role }: Recipient) => ({ name: name ?? null, key: subject, role })
  const known = new Map(grants.map(({ enc, subject, name }) => [enc, { name: name ?? null, key: subject }]))
  const wantedKeys = new Set(sealingKeys(wanted))
  return {
    path: view.path,
    version: versionIn(fields) ?? null,
    opens: wanted.filter(({ enc = '' }) => sealedFor.has(enc)).map(named),
    cannotYet: wanted
      .filter(({ enc = '' }) => !sealedFor.has(enc))
      .map((one) => ({ ...named(one), why: one.enc === undefined ? 'its grant tells no enc key' : 'reseal' })),
    noMore: [...sealedFor]
      .filter((enc) => !wantedKeys.has(enc))
      .map((enc) => known.get(enc) ?? { name: null, key: enc }),
  }
}

// ---------------------------------------------------------------------------------------------- after a host is lost

/** Of one secret; one with more is taken for readable. */
const HISTORY_MAX = 10_000
const HISTORY_PAGE = 200

/**
 * Tells what keys that are revoked could ever read, with the commands that make it worthless. Nothing for those that received
 * none.
 * @param grants those that are taken away
 */
export async function tellExposed(cli: Cli, grants: readonly Pick<GrantView, 'enc'>[]): Promise<void> {
  const keys = new Set(grants.flatMap(({ enc }) => enc ?? []))
  if (keys.size === 0) return
  const secrets = await (await cli.client()).resources({ kind: 'secret' })
  const exposed: ResourceView[] = []
  for (const view of secrets) if (await wasSealedFor(cli, view, keys)) exposed.push(view)
  if (exposed.length === 0) return
  cli.note('this key could read these secrets, and whoever has it knows them; rotate each:')
  for (const { workspace, zone, name } of exposed) {
    cli.note(`  meshctl secret rotate ${name} -w ${workspace} -z '${zone}' -f FILE`)
  }
}

/**
 * Whether any version was ever sealed for one of the keys. Resealing takes a key off the secret, and not what it opens out of
 * its holder's hands; that an older version had another text, nothing says.
 */
async function wasSealedFor(cli: Cli, view: ResourceView, keys: ReadonlySet<string>): Promise<boolean> {
  const isAmong = (fields: Fields): boolean => everSealedFor(fields).some((key) => keys.has(key))
  if (recipientsIn(fieldsOf(view)).some((key) => keys.has(key))) return true
  const client = await cli.client()
  let after: string | undefined
  for (let seen = 0; seen < HISTORY_MAX; seen += HISTORY_PAGE) {
    const page = { resource: view.path, bytes: '1', limit: String(HISTORY_PAGE), after }
    const { data, next } = await patiently(cli, () => client.editsPage(page))
    if (data.some(({ envelope }) => envelope !== undefined && isAmong(fieldsSetIn(envelope.bytes, view.path))))
      return true
    if (next === null) return false
    after = next
  }
  return true
}

function fieldsSetIn(bytes: string, path: string): Fields {
  const body = parseBody(bytes)
  const edits = body.type === 'edit' ? body.edits.filter(([each]) => each === path) : []
  const sets = edits.flatMap(([, , ops]) => ops).filter((op) => op[0] === 'set')
  return new Map(sets.map(([, field, value]) => [field, value]))
}

// ---------------------------------------------------------------------------------------------- sealing

async function writeSealed(cli: Cli, args: Args, path: string, text: Uint8Array): Promise<void> {
  const recipients = (await provenRecipients(cli, [path])).get(path) as ProvenRecipient[]
  const keys = sealingKeys(recipients)
  if (keys.length === 0) {
    throw new MeshError('denied', `nobody could open ${path}: no grant that covers it tells an enc key`, {
      hint: 'Grant it again with one: meshctl grant ROLE KEY --enc ENC; ENC is in meshctl key show -o json',
    })
  }
  const sealed = seal(text, { path, recipients: keys, random })
  let isNew: (recipient: Recipient) => boolean = () => false
  await write(cli, args, async () => {
    const [current] = (await currentsOf(cli, [path])) as [Current]
    if (versionIn(current.fields) !== undefined) isNew = isNewTo(current.fields)
    return [planSealing(path, current, sealed)]
  })
  const sealedFor = recipients.filter(({ enc }) => enc !== undefined)
  tellRecipients(cli, path, sealedFor, isNew)
  const without = recipients.filter(({ enc }) => enc === undefined)
  for (const { name, subject, role } of without) {
    cli.note(`${role} ${plain(name ?? short(subject))} cannot open it: its grant tells no enc key`)
  }
  if (!keys.includes((await ownKey(cli)).publicKey))
    cli.note('you cannot open it yourself: your grant tells no enc key')
}

/**
 * A new version in the place of all older ones. Where that is more than one edit holds, no edit between leaves the nodes
 * without a version that opens: the new keys come before what they open, the old ones go after it.
 */
function planSealing(path: string, current: Current, sealed: Fields): Change {
  const sets = [...sealed].map(([field, value]): Op => ['set', field, value])
  const isText = ([, field]: Op): boolean => field === SEALED_FIELD
  const text = sets.filter(isText)
  const keys = sets.filter((op) => !isText(op))
  const dels = keyFieldsIn(current.fields).map((field): Op => ['del', field])
  const ops = current.exists ? [...keys, ...text, ...dels] : [['set', '$', true] as const, ...text, ...keys]
  return changeOf(path, current, ops)
}

/** Undefined when somebody should be let in, and this key cannot do it. */
function planReseal(path: string, current: Current, keys: readonly string[], own: EncryptionKey): Change | undefined {
  const { fields } = current
  const present = recipientsIn(fields)
  const missing = keys.filter((key) => !present.includes(key))
  if (versionIn(fields) === undefined || (missing.length > 0 && !present.includes(own.publicKey))) return undefined
  const added = missing.length === 0 ? new Map<string, Value>() : rewrapped(fields, own, path, missing)
  if (added === undefined) return undefined
  const valid = new Set(keys.map((key) => `${KEYS_PREFIX}${versionIn(fields)}/${key}`))
  const gone = keyFieldsIn(fields).filter((field) => !valid.has(field))
  const ops = [
    ...[...added].map(([field, value]): Op => ['set', field, value]),
    ...gone.map((field): Op => ['del', field]),
  ]
  return changeOf(path, current, ops)
}

/** Undefined for what somebody sealed wrongly: one such secret keeps nobody from the others. */
function rewrapped(
  fields: Fields,
  own: EncryptionKey,
  path: string,
  recipients: readonly string[],
): Fields | undefined {
  try {
    return rewrap(fields, own, { path, recipients, random })
  } catch {
    return undefined
  }
}

function changeOf(path: string, current: Current, ops: readonly Op[]): Change {
  const action = !current.exists ? 'create' : ops.length === 0 ? 'keep' : 'update'
  return { path, action, ops, deps: depsOf(current), before: current.fields }
}

interface ProvenRecipient extends Recipient {
  /** Of its grants that cover the secret and tell this key. */
  readonly zones: readonly string[]
  /** How many keys grants say are this subject's. */
  readonly keys: number
}

async function provenRecipients(cli: Cli, paths: readonly string[]): Promise<Map<string, ProvenRecipient[]>> {
  const client = await cli.client()
  const views = await client.grants()
  const isFor = (path: string, grant: RecipientGrant): boolean => recipientsOf(path, [grant]).length > 0
  // Only what is sealed for has to be proven.
  const relevant = views.filter((view) => paths.some((path) => isFor(path, recipientGrant(view))))
  const grants = (await provenGrants(cli, relevant)).map(({ body }) => body)
  const zonesFor = (path: string, { subject, enc }: Recipient): string[] =>
    grants
      .filter((grant) => grant.subject === subject && grant.enc === enc && isFor(path, grant))
      .flatMap(({ zones }) => zones)
  return new Map(
    paths.map((path) => [
      path,
      recipientsOf(path, grants).map((one, _, all) => ({
        ...one,
        zones: [...new Set(zonesFor(path, one))],
        keys: all.filter(({ subject }) => subject === one.subject).length,
      })),
    ]),
  )
}

/** Whether the present version is closed to somebody. */
function isNewTo(fields: Fields): (recipient: Recipient) => boolean {
  const present = new Set(recipientsIn(fields))
  return ({ enc }) => enc !== undefined && !present.has(enc)
}

/** For whom it is now sealed: a node that hides a revocation cannot hide the name that should not be there. */
function tellRecipients(
  cli: Cli,
  path: string,
  recipients: readonly ProvenRecipient[],
  isNew: (recipient: Recipient) => boolean,
): void {
  cli.note(`${path} is sealed for:`)
  for (const one of recipients) {
    const { subject, name, role, zones, keys, enc = '' } = one
    const who = name === undefined ? short(subject) : `${name} (${short(subject)})`
    // Whoever may grant nodes could give somebody a key that is not theirs.
    const which = keys === 1 ? '' : `, by ${short(enc)}: one of ${keys} keys that grants say are theirs`
    cli.note(plain(`  ${isNew(one) ? 'new: ' : ''}${who}, ${role} of ${zones.join(', ')}${which}`))
  }
}

async function ownKey(cli: Cli): Promise<EncryptionKey> {
  return encryptionKey((await cli.key()).seed)
}

function opened(fields: Fields, path: string, own: EncryptionKey): Buffer | undefined {
  try {
    return open(fields, path, own)
  } catch {
    return undefined
  }
}

// ---------------------------------------------------------------------------------------------- finding

async function existing(cli: Cli, name: string | undefined): Promise<string> {
  if (name === undefined) throw usage('the NAME of the secret is missing', 'See what there is: meshctl secret ls')
  await cli.confirmMeshSurely()
  return await findPath(cli, 'secret', name)
}

async function newPath(cli: Cli, name: string | undefined): Promise<string> {
  const { workspace = 'default', zone = '' } = cli
  if (name === undefined) throw usage('the NAME of the secret is missing')
  if (!isName(name))
    throw usage('a secret is called by lower-case letters, digits and -', 'Give the text with -f FILE.')
  if (!isName(workspace)) throw usage(`-w ${workspace} is not a workspace`)
  if (!isZone(zone)) throw usage(`-z ${zone} is not a zone`, 'Write it like eu.west, or * for all.')
  await cli.confirmMeshSurely()
  return resourcePath({ workspace, zone, kind: 'secret', name })
}

async function secretsOf(cli: Cli): Promise<ResourceView[]> {
  return await (await cli.client()).resources({ workspace: cli.workspace, zone: cli.zone, kind: 'secret' })
}

async function currentsOf(cli: Cli, paths: readonly string[]): Promise<Current[]> {
  return await readCurrents(await cli.client(), paths)
}

function fieldsOf({ fields }: ResourceView): Map<string, Value> {
  return new Map(Object.entries(fields) as [string, Value][])
}
