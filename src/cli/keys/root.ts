/**
 * The verbs of the keys above all others: root shows and replaces the root set, cosign adds the signature of another root to
 * an act that takes several. A co-signer sees what the bytes say, not what a node says of them; files need no node.
 */

import { access, rename, rm } from 'node:fs/promises'
import { isIdPrefix } from '../../api/ids.ts'
import type { EditView, RootSetView } from '../../api/schemas.ts'
import { toWire } from '../../core/codec.ts'
import {
  isHex,
  LIMITS,
  parseBody,
  parseEnvelope,
  rootSetHash,
  signingInput,
  type Body,
  type Envelope,
  type KeyPair,
  type WireEnvelope,
} from '../../core/envelope.ts'
import { MeshError } from '../../errors.ts'
import { keptBy, showVoided, voidedBy } from '../grants/authority.ts'
import { usage, type Args, type Cli, type Verb } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { headsOf, historyOf, tellMissing, tracesIn } from '../grants/held.ts'
import { resolveId } from '../asking/ids.ts'
import { noteOf } from '../resources/resources.ts'
import { writeNewFile } from '../new-file.ts'
import { readEnvelopes } from '../signing/push.ts'
import { plain, short, toJson, toYaml } from '../terminal.ts'

// ---------------------------------------------------------------------------------------------- root

export const rootVerb: Verb = {
  name: 'root',
  summary: 'show the root keys, or replace them by the next ones',
  usage: [
    'root show',
    'root rotate --next-keys KEYS [--next-threshold M] [--roots KEYS --threshold M] [--since TIME|EDIT] [--dry-run] -k next-recovery.key',
  ],
  details: [
    'rotate is signed by the next root keys, to which the present set committed, and names those that may follow them.',
    'KEYS are public keys with commas between. Of several next roots --roots names all, and --threshold how many must sign; the others then cosign.',
    'What the replaced keys did so far stays, as far as this node knows it; with --since (stolen keys) what came in from then on is void.',
    'A root key reads from any node; a next one is unknown to them, so ask over the socket of a host: --api unix:/var/lib/nxmesh/api.sock',
  ].join('\n'),
  options: {
    'next-keys': {
      type: 'string',
      multiple: true,
      value: 'KEYS',
      description: 'public keys of the set that alone may follow the new one',
    },
    'next-threshold': {
      type: 'string',
      value: 'M',
      description: 'how many of these must sign (default: of one key 1, else --threshold)',
    },
    roots: {
      type: 'string',
      multiple: true,
      value: 'KEYS',
      description: 'all public keys of the new set (default: that of -k)',
    },
    threshold: { type: 'string', value: 'M', description: 'how many of the new keys must sign (default: as now)' },
    since: {
      type: 'string',
      value: 'TIME|EDIT',
      description: 'void what the replaced keys did from then on: 2026-03-01T12:00Z, or an edit’s id',
    },
    note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' },
    'dry-run': { type: 'boolean', description: 'list what becomes void, and do nothing' },
  },
  examples: [
    'meshctl root show',
    'meshctl root rotate -k next-recovery.key --next-keys "$(meshctl key show -k third-recovery.key)"',
  ],
  async run(cli, args) {
    const [action] = args.expect('show|rotate')
    if (action === 'show') await show(cli)
    else if (action === 'rotate') await rotate(cli, args)
    else throw usage(`root takes show or rotate, not ${action}`)
    return undefined
  },
}

async function show(cli: Cli): Promise<void> {
  const client = await cli.client()
  const set = await client.roots()
  if (cli.format === 'json') return cli.out(toJson(set))
  if (cli.format === 'yaml') return cli.out(toYaml(set))
  const quorum = `${set.threshold} of ${set.roots.length}`
  const lines = [
    `root set ${set.id}${set.isGenesis ? ' (the first)' : ''}: ${quorum} must sign`,
    ...set.roots.map((key) => `  ${key}`),
    set.next === '' ? 'no next set was prepared: these keys cannot be replaced' : `next set prepared: ${set.next}`,
  ]
  for (const { id, signers } of set.pending) {
    const stored = await client.edit(id)
    const act = stored === undefined ? '' : actWords(parseBody(stored.envelope.bytes))
    lines.push(`lacks signatures: ${short(id)}, signed by ${signers.map(short).join(', ')}`, ...indented(act))
  }
  cli.out(`${lines.map(plain).join('\n')}\n`)
}

async function rotate(cli: Cli, args: Args): Promise<void> {
  const client = await cli.client()
  const current = await client.roots()
  const own = (await cli.key()).publicKey
  const given = keysOption(args, 'roots')
  const roots = given.length === 0 ? [own] : given
  const threshold = numberOption(args, 'threshold') ?? Math.min(current.threshold, roots.length)
  const nextKeys = keysOption(args, 'next-keys')
  if (nextKeys.length === 0) {
    throw usage(
      '--next-keys is missing',
      'Make the keys that may replace the new ones: meshctl key new -k third-recovery.key',
    )
  }
  const nextThreshold = numberOption(args, 'next-threshold') ?? Math.min(threshold, nextKeys.length)
  const reused = nextKeys.find((key) => roots.includes(key) || current.roots.includes(key))
  if (reused !== undefined)
    throw usage(`--next-keys ${short(reused)} is a root already`, 'Who steals it would hold both sets.')
  if (!roots.includes(own))
    throw usage('-k is none of --roots', 'Sign with one of the next root keys: -k next-recovery.key')
  if (current.next !== rootSetHash(roots, threshold)) throw notCommitted(current, roots, threshold)
  const { keep, voided } = await keptOf(client, current, args.text('since'))
  showVoided(cli, voided)
  if (args.flag('dry-run')) return cli.note('dry run: nothing was changed')
  const next = rootSetHash(nextKeys, nextThreshold)
  const sent = await cli.withAuthor((author) =>
    author.send({ type: 'rootset', ws: '*', note: noteOf(args), roots: roots.toSorted(), threshold, next, keep }),
  )
  cli.out(`${sent.id}\n`)
  if (!tellMissing(cli, sent))
    cli.note(`the root set ${short(current.id)} is replaced; its keys are worth nothing any more`)
}

function notCommitted({ id, next, threshold }: RootSetView, roots: readonly string[], given: number): MeshError {
  if (next === '') {
    return new MeshError('denied', `the root set ${short(id)} prepared no next one, so nothing can replace it`)
  }
  return new MeshError(
    'denied',
    `the root set ${short(id)} did not name ${roots.length === 1 ? 'this key' : 'these keys'} with threshold ${given} as the next`,
    {
      hint: `Sign with next-recovery.key; of several, name all with --roots, and --threshold ${threshold} unless it was to change.`,
    },
  )
}

/** What of the replaced keys' acts stays, and what becomes void. */
async function keptOf(
  client: ApiClient,
  { id, roots }: RootSetView,
  since: string | undefined,
): Promise<{ keep: string[]; voided: EditView[] }> {
  const keep: string[] = []
  const voided: EditView[] = []
  let isMet = since === undefined || !isIdPrefix(since)
  const traces = await tracesIn(client)
  for (const root of roots) {
    const history = await historyOf(client, { key: root, ws: '*' }, traces)
    // The act of one key ends nothing of the others'.
    const isElsewhere = since !== undefined && isIdPrefix(since) && !history.some((edit) => edit.id.startsWith(since))
    const kept = keptBy(history, isElsewhere ? undefined : since)
    isMet ||= !isElsewhere
    keep.push(...headsOf(kept))
    voided.push(...(await voidedBy(client, history, new Set([id]), new Set(kept.map((edit) => edit.id)))))
  }
  if (!isMet) throw new MeshError('not_found', `the root keys made no edit ${since}`, { field: '--since' })
  if (keep.length > LIMITS.rootKeep) {
    throw new MeshError(
      'too_large',
      `the replaced keys have ${keep.length} heads, and at most ${LIMITS.rootKeep} are kept`,
    )
  }
  return { keep: keep.toSorted(), voided }
}

function keysOption(args: Args, option: string): string[] {
  const keys = args.items(option)
  const isKey = (key: string): boolean => isHex(key, 64)
  const wrong = keys.find((key) => !isKey(key))
  if (wrong !== undefined) throw usage(`--${option} takes public keys of 64 hex digits, not ${wrong.slice(0, 80)}`)
  if (keys.length > LIMITS.roots) throw usage(`--${option} takes at most ${LIMITS.roots} keys`)
  return keys
}

function numberOption(args: Args, option: string): number | undefined {
  const text = args.text(option)
  if (text === undefined) return undefined
  const value = /^\d{1,2}$/.test(text) ? Number(text) : 0
  if (value < 1 || value > LIMITS.roots)
    throw usage(`--${option} takes a number from 1 to ${LIMITS.roots}, not ${text}`)
  return value
}

// ---------------------------------------------------------------------------------------------- cosign

export const cosignVerb: Verb = {
  name: 'cosign',
  summary: 'add a root’s signature to an act that takes several',
  usage: ['cosign EDIT-ID|FILE -k KEY [--dry-run]', 'cosign EDIT-ID --save FILE'],
  details: [
    'Shows what is to be signed, signs it and hands it over; meshctl root show lists what lacks signatures. It counts when enough have signed.',
    'Signs with all 64 digits only: of the first ones, a node could say what they stand for, and show something else.',
    'For a key that is where no node is: save the act into a file, cosign the file there, and push it from here.',
  ].join('\n'),
  options: {
    save: { type: 'string', value: 'FILE', description: 'sign nothing, and write the act to a new file' },
    'dry-run': { type: 'boolean', description: 'show what would be signed, and sign nothing' },
  },
  examples: [
    'meshctl cosign 0f54d935c02f --dry-run',
    'meshctl cosign 0f54d935c02f8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df6 -k recovery-2.key',
    'meshctl cosign 0f54d935c02f --save act.json && meshctl cosign act.json -k recovery-3.key && meshctl push act.json',
  ],
  async run(cli, args) {
    const [text] = args.expect('EDIT-ID|FILE') as [string]
    const path = cli.path(text)
    const isFile = await access(path).then(
      () => true,
      () => false,
    )
    if (isFile) await cosignFile(cli, args, path, text)
    else await cosignStored(cli, args, text)
    return undefined
  },
}

async function cosignStored(cli: Cli, args: Args, text: string): Promise<void> {
  const client = await cli.client()
  const id = await resolveId(cli, text, {
    field: 'EDIT-ID',
    what: 'no file and no act of roots',
    accepts: ({ type }) => type === 'grant' || type === 'revoke' || type === 'rootset',
    hint: 'See what lacks signatures: meshctl root show',
  })
  const stored = await client.edit(id)
  if (stored === undefined) throw new MeshError('not_found', `this node has no envelope ${id}`)
  const act = actIn(cli, stored.envelope)
  // A node that shows something else than what was asked for is not believed.
  if (act.id !== id) throw new MeshError('denied', `the node gave another envelope than ${id}`)
  tellAct(cli, act)
  const save = args.text('save')
  if (save !== undefined) {
    return await writeNewFile({ path: cli.path(save), name: save, field: '--save', mode: 0o644 }, actsText([act]))
  }
  if (args.flag('dry-run')) return cli.note('dry run: nothing was signed')
  if (text !== id) {
    throw usage(
      `only this node says what ${text} is, and it may be wrong or lie: nothing was signed`,
      `Compare what is above with those who made it. If it is what you mean: meshctl cosign ${id}`,
    )
  }
  await cli.confirmMesh(act.body.mesh)
  const set = await client.roots()
  const signed = sign(act, await cli.key(), act.body.type === 'rootset' ? act.body.roots : set.roots)
  if (signed === undefined) return cli.note('this key has signed it before')
  await client.submit([toWire(signed)])
  const accepted = (await client.edit(id))?.verdict
  cli.note(
    accepted?.accepted === true
      ? 'signed; it counts now'
      : `signed; ${plain(accepted?.message ?? 'it does not count yet')}`,
  )
}

async function cosignFile(cli: Cli, args: Args, path: string, name: string): Promise<void> {
  const acts = (await readEnvelopes(path, name)).envelopes.map((wire) => actIn(cli, wire))
  for (const act of acts) tellAct(cli, act)
  if (args.flag('dry-run')) return cli.note('dry run: nothing was signed')
  const key = await cli.key()
  // Which keys are the roots cannot be known without a node; one that takes it will tell.
  const signed = acts.map((act) => sign(act, key, act.body.type === 'rootset' ? act.body.roots : undefined) ?? act)
  await replaceActs(path, name, signed)
  cli.note(`signed; hand it over with: meshctl push ${name}`)
}

type Act = Envelope<Exclude<Body, { type: 'genesis' | 'edit' }>>

/** @throws MeshError when a signature is not right, or it is nothing that roots sign together. */
function actIn(cli: Cli, wire: WireEnvelope): Act {
  const body = parseBody(wire.bytes)
  if (body.type === 'genesis' || body.type === 'edit') {
    throw new MeshError('input_invalid', `a ${body.type} takes one signature`, {
      hint: 'Only grants, revocations and root sets are cosigned.',
    })
  }
  if (cli.mesh !== undefined && cli.mesh !== body.mesh)
    throw new MeshError('denied', `this belongs to mesh ${body.mesh}, not to ${cli.mesh}`)
  return parseEnvelope(wire, body.mesh) as Act
}

/** Undefined when the key has signed already. */
function sign(act: Act, key: KeyPair, roots: readonly string[] | undefined): Act | undefined {
  if (roots !== undefined && !roots.includes(key.publicKey)) {
    throw new MeshError('denied', `${key.publicKey} is none of the root keys that sign this`, {
      hint: 'See them: meshctl root show',
    })
  }
  if (Object.hasOwn(act.sigs, key.publicKey)) return undefined
  const signature = key.sign(signingInput(act.body.mesh, act.id))
  return { ...act, sigs: { ...act.sigs, [key.publicKey]: signature } }
}

/** With the own signature, in the place of the file. */
async function replaceActs(path: string, name: string, acts: readonly Act[]): Promise<void> {
  await rm(`${path}.new`, { force: true })
  await writeNewFile({ path: `${path}.new`, name, field: 'FILE', mode: 0o644 }, actsText(acts))
  await rename(`${path}.new`, path)
}

function actsText(acts: readonly Act[]): string {
  return toJson({ envelopes: acts.map(toWire) })
}

function tellAct(cli: Cli, { id, body, sigs }: Act): void {
  const signers = Object.keys(sigs).map(short).join(', ')
  cli.note([`${body.type} ${id}`, ...indented(actWords(body)), `  signed by ${signers}`].map(plain).join('\n'))
}

function indented(text: string): string[] {
  return text === '' ? [] : text.split('\n').map((line) => `  ${line}`)
}

/** What an act says, with every key whole: it is read by who has to answer for it. */
function actWords(body: Body): string {
  switch (body.type) {
    case 'grant': {
      const { subject, role, name, zones, kinds, ws, note } = body
      const who = `${subject}${name === undefined ? '' : ` (${name})`}`
      return `makes ${who}\n${role} of zones ${zones.join(', ')}, kinds ${kinds.join(', ')}, workspace ${ws}${because(note)}`
    }
    case 'revoke':
      return `takes away ${body.target}\nkeeps what it did up to ${body.keep.join(', ') || 'nothing'}${because(body.note)}`
    case 'rootset':
      return `replaces root set ${body.grant}\nby ${body.threshold} of ${body.roots.join(', ')}\nnext ${body.next || 'none'}${because(body.note)}`
    default:
      return body.type
  }
}

function because(note: string): string {
  return note === '' ? '' : `\nnote: ${note}`
}
