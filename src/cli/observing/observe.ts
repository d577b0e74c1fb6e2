/** The verbs that look and change nothing: status, peers, watch, log. */

import { ownNote } from '../../core/caller.ts'
import { RECEIPT, type ChainView, type EditView, type NodeReceipt } from '../../api/schemas.ts'
import { isRepeated } from '../../status/forks.ts'
import { usage, type Cli, type Verb } from '../cli.ts'
import type { ApiClient, ServerEvent } from '../asking/client.ts'
import { resolveId, type Wanted } from '../asking/ids.ts'
import { plain, quoted, short, span, table, toJson, toYaml, type Cell, type Paint } from '../terminal.ts'
import { nameOf, progressOf, type Progress } from '../resources/wait.ts'

/** A machine-readable form when one was asked for. */
export function structured(cli: Cli, value: unknown): string | undefined {
  if (cli.format === 'json') return toJson(value)
  return cli.format === 'yaml' ? toYaml(value) : undefined
}

export const statusVerb: Verb = {
  name: 'status',
  summary: 'show what every node desires and applies',
  usage: ['status [-z ZONE]'],
  details: 'Errors are in nginx’s own words. The last line sums up.',
  options: {},
  examples: ['meshctl status', 'meshctl --api unix:/var/lib/nxmesh/api.sock status'],
  async run(cli, args) {
    args.expect()
    const all = await (await cli.client()).receipts()
    const nodes = cli.zone === undefined ? all : all.filter(({ zones }) => zones.includes(cli.zone as string))
    cli.out(structured(cli, nodes) ?? statusText(nodes, cli.paint))
    return undefined
  },
}

const HEADERS = ['NODE', 'ZONES', 'STATE', 'HEALTH', 'DESIRED', 'APPLIED', 'HEARD', 'PROGRESS'] as const

/** The table, what is wrong in whose words, and the summary. */
export function statusText(nodes: readonly NodeReceipt[], paint: Paint): string {
  const progress = new Map(nodes.map((node) => [node.key, progressOf(node)]))
  const rows = nodes.map((node) => statusRow(node, progress.get(node.key) as Progress, paint))
  const words = nodes.map((node) => troubles(node, progress.get(node.key) as Progress, paint)).join('')
  return `${table(HEADERS, rows)}${words}${statusSummary(nodes, [...progress.values()])}\n`
}

function statusRow(node: NodeReceipt, progress: Progress, { green, yellow, red, dim }: Paint): Cell[] {
  const health = node.health?.status ?? '-'
  const { receipt } = node
  const colours = { applied: green, pending: yellow, failed: red, silent: dim } as const
  const word =
    progress.state === 'pending'
      ? `pending: ${progress.phase}`
      : { applied: appliedWord(progress), failed: 'failed', silent: '-' }[progress.state]
  return [
    nameOf(node) + (node.self ? ' (here)' : ''),
    node.zones.join(',') || '-',
    { text: node.state, colour: node.state === 'Ready' ? green : node.state === 'Unavailable' ? red : yellow },
    { text: health, colour: health === 'Running' ? green : health === 'Error' ? red : yellow },
    generation(receipt?.desired),
    generation(receipt?.applied),
    node.ageMs === null ? 'never' : `${span(node.ageMs)} ago`,
    { text: word, colour: colours[progress.state] },
  ]
}

function appliedWord(progress: Progress): string {
  const leftOut = progress.state === 'applied' ? progress.leftOut : 0
  return leftOut === 0 ? 'applied' : `applied, ${leftOut} left out`
}

function generation(digest: string | null | undefined): string {
  return digest === null || digest === undefined ? '-' : digest.slice(0, 8)
}

function troubles(node: NodeReceipt, progress: Progress, { red, yellow }: Paint): string {
  const reasons = 'reasons' in progress ? progress.reasons.map((reason) => quoted(reason)).join('') : ''
  const health = (node.health?.reasons ?? [])
    // The reader is at it.
    .map((reason) => reason.replace(/; see meshctl status$/, ''))
    .filter((reason) => !reasons.includes(plain(reason)))
  const claims = node.ungrantedZones.join(', ')
  const others = [
    ...health,
    ...(claims === '' ? [] : [`claims zones ${claims} beyond its grant; they do not count`]),
    ...(node.receipt?.observed ?? []).map(unwell),
  ]
  if (reasons === '' && others.length === 0) return ''
  const colour = progress.state === 'failed' ? red : yellow
  return `${colour(plain(nameOf(node)))}:\n${reasons}${others.map((reason) => quoted(reason)).join('')}`
}

/** What a node sees of an upstream that is not well. */
function unwell({
  path,
  circuit,
  endpoints,
  ailing,
  ejected,
}: NonNullable<NodeReceipt['receipt']>['observed'][0]): string {
  const words = [
    ...(circuit === 'closed' ? [] : [`its circuit is ${circuit === 'open' ? 'open' : 'half open'}`]),
    ...(ejected.length > 0 ? [`of ${endpoints} endpoints these take no requests: ${ejected.join(', ')}`] : []),
    ...(ejected.length === 0 && ailing.length > 0
      ? [`of ${endpoints} endpoints these are not well, and are used for want of others: ${ailing.join(', ')}`]
      : []),
  ]
  return `${path}: ${words.join('; ')}`
}

function statusSummary(nodes: readonly NodeReceipt[], progress: readonly Progress[]): string {
  const count = (state: Progress['state']): number => progress.filter((each) => each.state === state).length
  const ready = nodes.filter(({ state }) => state === 'Ready').length
  const parts = [`${ready} ready`, `${count('applied')} applied`]
  if (count('pending') > 0) parts.push(`${count('pending')} pending`)
  if (count('failed') > 0) parts.push(`${count('failed')} failed`)
  if (count('silent') > 0) parts.push(`${count('silent')} without nginx or silent`)
  return `${nodes.length} ${nodes.length === 1 ? 'node' : 'nodes'}: ${parts.join(', ')}`
}

export const peersVerb: Verb = {
  name: 'peers',
  summary: 'list the nodes that this one knows',
  usage: ['peers [-o table|wide|yaml|json]'],
  options: {},
  examples: ['meshctl peers'],
  async run(cli, args) {
    args.expect()
    const peers = await (await cli.client()).peers()
    const isWide = cli.format === 'wide'
    const headers = [
      'NODE',
      'KEY',
      'STATE',
      'CONNECTED',
      'HEARD',
      'VERSION',
      'ZONES',
      'ADDRESSES',
      ...(isWide ? ['LABELS', 'DIGEST'] : []),
    ]
    const rows = peers.map((peer) => [
      (peer.name ?? '-') + (peer.self ? ' (here)' : ''),
      isWide ? peer.key : short(peer.key),
      peer.state,
      peer.self ? '-' : peer.connected ? 'yes' : 'no',
      peer.ageMs === null ? 'never' : `${span(peer.ageMs)} ago`,
      peer.version ?? '-',
      peer.zones.join(',') || '-',
      peer.addresses.join(' ') || '-',
      ...(isWide
        ? [
            Object.entries(peer.labels)
              .map(([key, value]) => `${key}=${value}`)
              .join(' '),
            short(peer.digest ?? '-'),
          ]
        : []),
    ])
    cli.out(structured(cli, peers) ?? table(headers, rows))
    return undefined
  },
}

const RECONNECT_MS = 1000

export const watchVerb: Verb = {
  name: 'watch',
  summary: 'print what happens as it happens',
  usage: ['watch [-o table|json]'],
  details: 'Ends with Ctrl-C. Connects again when the node goes away; what happened meanwhile is not shown.',
  options: {},
  examples: ['meshctl watch', 'meshctl watch -o json | jq .'],
  async run(cli, args) {
    args.expect()
    const client = await cli.client()
    const { signal, clock } = cli.host
    for (let hasConnected = false; ;) {
      const news = newsOnly(cli)
      try {
        for await (const event of client.events()) {
          hasConnected = true
          cli.out(news(event))
        }
      } catch (error) {
        if (signal.aborted) return undefined
        if (!hasConnected) throw error
      }
      if (signal.aborted) return undefined
      cli.note('the connection ended; trying again')
      await clock.sleep(RECONNECT_MS, signal).catch(() => undefined)
    }
  },
}

/** The line of an event; none for one that says what the last of its kind, and of its node, said. JSON has them all. */
function newsOnly(cli: Cli): (event: ServerEvent) => string {
  const last = new Map<string, string>()
  return ({ event, data }) => {
    if (cli.format === 'json') return toJson({ event, data }).replaceAll(/\n\s*/g, '').concat('\n')
    const words = eventWords(event, data)
    const subject = event === 'peer' ? `peer ${words.slice(0, words.indexOf(' '))}` : event
    if (words === '' || last.get(subject) === words) return ''
    last.set(subject, words)
    const time = new Date(cli.host.clock.now()).toISOString().slice(11, 19)
    return `${cli.paint.dim(time)} ${plain(event).padEnd(8)} ${plain(words)}\n`
  }
}

function eventWords(event: string, data: unknown): string {
  const fields = (typeof data === 'object' && data !== null ? data : {}) as Readonly<Record<string, unknown>>
  const text = (name: string): string => (typeof fields[name] === 'string' ? fields[name] : '')
  const list = (name: string): string => (Array.isArray(fields[name]) ? fields[name].join(' ') : '')
  switch (event) {
    case 'hello':
      return `node ${text('name') || short(text('key'))} of mesh ${text('meshName') || '-'}`
    case 'edit':
      return `${short(text('id'))} ${text('type')} by ${short(text('by'))} ${list('resources')} ${text('note')}`.trimEnd()
    case 'resource':
      return `${text('path')} ${fields['exists'] === true ? short(text('hash')) : 'deleted'}`
    case 'policy':
      // Beside the edit that caused it, which has its own line.
      return ''
    case 'peer': {
      const leaving = fields['leaving'] === true ? ' leaving' : ''
      return `${short(text('key'))} ${list('zones')} ${statusOf(fields['health'])}${leaving}${troubleOf(fields['receipt'])}`
    }
    case 'health':
      return `${text('status')}: ${text('msg')}`
    case 'receipt':
      return `${text('outcome') || '-'} ${text('phase')}, applied ${generation(text('applied') || null)}${troubleOf(data)}`
    default:
      return JSON.stringify(data)
  }
}

const TROUBLE = RECEIPT.pick({ error: true, isolated: true })

/** The first line of what stands in the way: the error, else the first resource that is not served as written. */
function troubleOf(receipt: unknown): string {
  const { data } = TROUBLE.safeParse(receipt)
  const [isolated] = data?.isolated ?? []
  const text = data?.error?.message ?? (isolated === undefined ? '' : `${isolated.path}: ${isolated.reason}`)
  return text === '' ? '' : `: ${text.split('\n')[0]}`
}

function statusOf(health: unknown): string {
  const { status } = (typeof health === 'object' && health !== null ? health : {}) as { status?: unknown }
  return typeof status === 'string' ? status : ''
}

const LOG_MAX = 100_000
/** Chains with forks that are named: a thief may make thousands. */
const FORKED_MAX = 20
const AUTHOR: Wanted = {
  field: '--author',
  what: 'no key',
  accepts: ({ type }) => type === 'key',
  hint: 'See who there is: meshctl log',
}

export const logVerb: Verb = {
  name: 'log',
  summary: 'list edits, grants and revocations, newest first, with verdicts',
  usage: ['log [--limit 20] [--author KEY] [--resource PATH] [--void] [--since TIME] [--json]'],
  details: [
    'Who, what, when as the author claims, and whether it counts: a void edit comes with the reason, which is the same on every node.',
    'Grants, revocations and root sets are in it. BY tells whose signature it is; edit-1 for ana is an edit that a node signed for ana, on the word of edit-1.',
    'Keys in force that signed twice for one place of their chain are named under the table.',
  ].join('\n'),
  options: {
    limit: { type: 'string', value: 'N', description: 'how many (default 20)' },
    author: {
      type: 'string',
      value: 'KEY',
      description: 'only by this public key: whole, its first 8 digits or more, or a name',
    },
    resource: { type: 'string', value: 'PATH', description: 'only of this resource: workspace/zone/kind/name' },
    void: { type: 'boolean', description: 'only what does not count' },
    since: {
      type: 'string',
      value: 'TIME',
      description: 'only what claims this time or a later one: 2026-03-01T12:00Z',
    },
    json: { type: 'boolean', description: 'the same as -o json' },
  },
  examples: [
    'meshctl log --limit 50',
    'meshctl log --resource default/eu.west/site/web',
    'meshctl log --author ana --void --since 2026-03-01T12:00Z --json',
  ],
  async run(cli, args) {
    args.expect()
    const text = args.text('limit') ?? '20'
    const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0
    if (limit < 1 || limit > LOG_MAX) throw usage(`--limit takes a number from 1 to ${LOG_MAX}, not ${text}`)
    const client = await cli.client()
    const author = args.text('author')
    const filter = {
      order: 'desc',
      author: author === undefined ? undefined : await resolveId(cli, author, AUTHOR),
      resource: args.text('resource'),
    }
    const isVoid = args.flag('void')
    const since = sinceOf(args.text('since'))
    const isWanted = ({ at, verdict }: EditView): boolean => (!isVoid || !verdict.accepted) && at >= since
    const edits = await client.edits(filter, limit, isVoid || since > 0 ? isWanted : undefined)
    if (args.flag('json')) {
      cli.out(toJson(edits))
      return undefined
    }
    const names = await authorNames(client, edits)
    cli.out(
      structured(cli, edits) ??
        (edits.length === 0
          ? 'no such edits\n'
          : table(
              LOG_HEADERS,
              edits.map((edit) => logRow(edit, names, cli.paint)),
            )),
    )
    if (cli.format !== 'table') return undefined
    const forked = await client.forkedChains(filter.author)
    const worst = forked.toSorted((a, b) => b.forks - a.forks).slice(0, FORKED_MAX)
    for (const chain of worst) cli.note(forkNote(chain, names))
    return undefined
  },
}

/** What a fork means, and what to do. */
function forkNote({ author, workspace, forks }: ChainView, names: ReadonlyMap<string, string>): string {
  const who = `${plain(names.get(author) ?? 'a key without a name')} (${author})`
  const where = `in workspace ${workspace}`
  return isRepeated({ forks })
    ? `${who} signed ${forks} edits ${where} in places of its chain that were taken: if the key was stolen, revoke it with --since; if it signs on several machines, give each its own`
    : `${who} signed two edits ${where} for one place of its chain: after a restored chain file no harm, else somebody has the key`
}

/** Claimed time, ms; 0 when none is given. @throws MeshError `usage` */
function sinceOf(text: string | undefined): number {
  if (text === undefined) return 0
  const time = Date.parse(text)
  if (Number.isNaN(time)) throw usage(`--since takes a time such as 2026-03-01T12:00Z, not ${text.slice(0, 80)}`)
  return time
}

const LOG_HEADERS = ['CLAIMED TIME', 'EDIT', 'BY', 'N', 'WHAT', 'VERDICT', 'NOTE'] as const

/** Keys of a list whose grants are not in force any more, and which are asked for by one request each. */
const FORMER_MAX = 100

/** What grants call keys: those in force, and of these authors former ones too. */
export async function authorNames(
  client: ApiClient,
  edits: readonly Pick<EditView, 'by' | 'caller'>[] = [],
): Promise<ReadonlyMap<string, string>> {
  const grants = await client.grants()
  const names = new Map(
    grants.flatMap(({ subject, name }): [string, string][] => (name === null ? [] : [[subject, name]])),
  )
  const granted = new Set(grants.map(({ subject }) => subject))
  const former = new Set(
    edits.flatMap(({ by, caller }) => [by, caller].filter((key) => key !== null && !granted.has(key)) as string[]),
  )
  for (const key of [...former].slice(0, FORMER_MAX)) {
    const name = (await client.ids(key)).find(({ id }) => id === key)?.name
    if (name !== undefined && name !== null) names.set(key, name)
  }
  return names
}

function logRow(edit: EditView, names: ReadonlyMap<string, string>, { green, red }: Paint): Cell[] {
  const { accepted, message } = edit.verdict
  return [
    timeText(edit.at),
    short(edit.id),
    signerOf(edit, names),
    String(edit.n ?? '-'),
    whatOf(edit, names),
    accepted ? { text: 'accepted', colour: green } : { text: `void: ${message ?? ''}`, colour: red },
    edit.caller === null ? edit.note : ownNote(edit.note),
  ]
}

/** Whose signature it is; and for whom, where that key signs for callers. */
function signerOf({ by, caller }: EditView, names: ReadonlyMap<string, string>): string {
  const nameOfKey = (key: string): string => names.get(key) ?? short(key)
  const signer = by === null ? '-' : nameOfKey(by)
  return caller === null ? signer : `${signer} for ${nameOfKey(caller)}`
}

/** A claimed time may be anything, even one that no calendar has. */
export function timeText(ms: number): string {
  const date = new Date(ms)
  return Number.isNaN(date.getTime()) ? String(ms) : date.toISOString().replace('T', ' ').slice(0, 19)
}

export function whatOf(edit: EditView, names: ReadonlyMap<string, string> = new Map()): string {
  const about = edit.about ?? ''
  switch (edit.type) {
    case 'genesis':
      return 'genesis'
    case 'rootset':
      return 'root set'
    case 'grant':
      return `grant ${edit.role} to ${names.get(about) ?? short(about)}`
    case 'revoke':
      return `revoke ${about.slice(0, about.indexOf('/') + 13)}`
    case 'edit': {
      const [first = '', ...others] = edit.resources
      return others.length === 0 ? first : `${first} +${others.length}`
    }
  }
}
