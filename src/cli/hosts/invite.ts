/** The verbs that bring a new host in: invite, pending, approve, deny. */

import { randomBytes } from 'node:crypto'
import type { GrantView, PeerItem, PendingView } from '../../api/schemas.ts'
import { parseBody, type GenesisBody, type Role } from '../../core/envelope.ts'
import { isName, zoneCovers } from '../../core/names.ts'
import { mayGrantNodes } from '../../core/policy.ts'
import {
  isAskedBy,
  parseTicket,
  signTicket,
  ticketFault,
  TICKET_LIMITS,
  type TicketContent,
} from '../../core/ticket.ts'
import { asMeshError, MeshError } from '../../errors.ts'
import { signRejection } from '../../joining/join.ts'
import { fingerprint } from '../../joining/joiner.ts'
import { tellMissing } from '../grants/held.ts'
import { zonesOf } from '../grants/authority.ts'
import { durationMs, usage, type Args, type Cli, type Verb } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { provenGrants } from '../grants/granted.ts'
import { ambiguous } from '../asking/ids.ts'
import { noteOf } from '../resources/resources.ts'
import { plain, span, table, toJson, toYaml } from '../terminal.ts'

const DEFAULT_TTL = '1h'
/** Beside the asked node. */
const OTHERS_MAX = TICKET_LIMITS.nodes - 1
const LOOPBACK = /^(127\.|\[::1\]|localhost:)/
const ADDRESS = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$/
/** How often approve --watch looks: a new host waits this long at most. */
const WATCH_MS = 5_000

export const inviteVerb: Verb = {
  name: 'invite',
  summary: 'print a ticket with which a new host finds this mesh',
  usage: ['invite --zone ZONE... [--name NAME] [--ttl 1h]'],
  details: [
    'The ticket says where the mesh is and which keys to trust; it lets nobody in. On the host: mesh-node join TICKET.',
    'The host then waits until somebody approves it: meshctl pending, meshctl approve FINGERPRINT.',
    'It may be used by several hosts until it expires; whoever reads it learns addresses and can ask to join, no more.',
  ].join('\n'),
  options: {
    name: { type: 'string', value: 'NAME', description: 'what the host is to be called: edge-1' },
    ttl: {
      type: 'string',
      value: 'TIME',
      description: `how long it may be used (default ${DEFAULT_TTL}, at most 720h)`,
    },
  },
  examples: [
    'meshctl -k owner.key invite --zone eu.west --name edge-4',
    'meshctl -k owner.key invite --zone eu --ttl 8h',
  ],
  async run(cli, args) {
    args.expect()
    const zones = zonesOf(args)
    if (zones.length === 0) throw usage('--zone is missing', 'Name zones such as eu.west, or --zone "*" for all.')
    const name = nameOf(args)
    const ttlMs = durationMs(args.text('ttl') ?? DEFAULT_TTL, '--ttl')
    if (ttlMs > TICKET_LIMITS.lifetimeMs) throw usage('--ttl is at most 720h, which is 30 days')
    const key = await cli.key()
    const client = await cli.client()
    const { meshId, networkId } = await client.node()
    if (meshId === null)
      throw new MeshError('unavailable', 'this node has no mesh yet', { hint: 'Ask another with --api.' })
    await cli.confirmMesh(meshId)
    await checkInviter(client, key.publicKey, zones)
    const expires = cli.host.clock.now() + ttlMs
    const nodes = nodesIn(await client.peers())
    const ticket = signTicket(
      {
        mesh: meshId,
        network: networkId,
        nodes,
        zones,
        ...(name === undefined ? {} : { name }),
        expires,
        nonce: randomBytes(16).toString('hex'),
      },
      key,
    )
    cli.out(`${ticket}\n`)
    cli.note(
      `a ticket for zones ${zones.join(', ')}, until ${new Date(expires).toISOString()}; on the new host: mesh-node join TICKET`,
    )
    if (nodes.every(({ addresses }) => addresses.every((address) => LOOPBACK.test(address)))) {
      cli.note(
        'this ticket names only loopback addresses: a host elsewhere cannot use it; set mesh.advertise on the nodes',
      )
    }
    return undefined
  },
}

/** Nodes refuse tickets of others, so such a ticket would only disappoint. */
async function checkInviter(client: ApiClient, key: string, zones: readonly string[]): Promise<void> {
  const grants = await client.grants(key)
  if (grants.some((grant) => mayLetIn(grant, zones))) return
  const { envelope } = await client.genesis()
  if ((parseBody(envelope.bytes) as GenesisBody).roots.includes(key)) return
  const scope = zones.join(', ')
  throw new MeshError('denied', `a ticket of this key would be refused: it may not grant nodes of zones ${scope}`, {
    hint: 'Use the key of an admin, an owner or a registrar with -k.',
  })
}

function mayLetIn({ role, kinds, zones: granted }: GrantView, zones: readonly string[]): boolean {
  return mayGrantNodes({ role: role as Role, kinds, zones: granted }, zones)
}

/** The asked node first, then those that it hears from. */
function nodesIn(peers: readonly PeerItem[]): TicketContent['nodes'] {
  const nodes = peers
    .filter(({ self, state }) => self || state === 'Ready')
    .toSorted((a, b) => Number(b.self) - Number(a.self))
    .map(({ key, addresses }) => ({ key, addresses: addresses.filter((address) => ADDRESS.test(address)).slice(0, 2) }))
    .filter(({ addresses }) => addresses.length > 0)
  if (nodes.length === 0) {
    throw new MeshError('unavailable', 'no node says where it can be dialled', {
      hint: 'Set mesh.advertise on a node that new hosts can reach.',
    })
  }
  return nodes.slice(0, 1 + OTHERS_MAX)
}

// ---------------------------------------------------------------------------------------------- who waits

export const pendingVerb: Verb = {
  name: 'pending',
  summary: 'list the hosts that ask to join and wait',
  usage: ['pending [-o table|wide|yaml|json]'],
  details: 'Shows those that asked the node which answers; a host asks every node of its ticket.',
  options: {},
  examples: ['meshctl pending'],
  async run(cli, args) {
    args.expect()
    const client = await cli.client()
    const requests = await client.pending()
    if (cli.format === 'json' || cli.format === 'yaml') {
      cli.out(cli.format === 'json' ? toJson(requests) : toYaml(requests))
      return undefined
    }
    if (requests.length === 0) {
      cli.note('no host waits at this node')
      return undefined
    }
    const names = await inviterNames(client)
    const rows = requests.map((request) => [
      cli.format === 'wide' ? request.key : fingerprint(request.key),
      request.ticket.name ?? '-',
      request.ticket.zones.join(','),
      request.address,
      names.get(request.ticket.by) ?? fingerprint(request.ticket.by),
      request.version,
      `${span(request.ageMs)} ago`,
    ])
    cli.out(table(['FINGERPRINT', 'NAME', 'ZONES', 'FROM', 'INVITED BY', 'VERSION', 'ASKED'], rows))
    return undefined
  },
}

async function inviterNames(client: ApiClient): Promise<ReadonlyMap<string, string>> {
  const grants = await client.grants()
  return new Map(grants.flatMap(({ subject, name }): [string, string][] => (name === null ? [] : [[subject, name]])))
}

const FINGERPRINT_HINT = 'The waiting host prints it; compare it with: meshctl pending'

/** @throws MeshError `usage` when it is too short or fits several, `not_found`. */
async function waiting(cli: Cli, args: Args): Promise<PendingView> {
  const [text] = args.expect('FINGERPRINT') as [string]
  if (!/^[0-9a-f]{16,64}$/.test(text)) {
    throw usage(
      `FINGERPRINT takes the first 16 digits of the host's key or more, not ${text.slice(0, 80)}`,
      FINGERPRINT_HINT,
    )
  }
  const found = (await (await cli.client()).pending()).filter(({ key }) => key.startsWith(text))
  const [only, ...others] = found
  if (only === undefined) {
    throw new MeshError('not_found', `no host with the fingerprint ${text} waits at this node`, {
      hint: FINGERPRINT_HINT,
    })
  }
  if (others.length > 0)
    throw ambiguous(
      text,
      found.map(({ key }) => `key ${key}`),
    )
  return only
}

// ---------------------------------------------------------------------------------------------- yes and no

export const approveVerb: Verb = {
  name: 'approve',
  summary: 'let a waiting host in, as a node of its zones',
  usage: ['approve FINGERPRINT [--zone ZONE...] [--name NAME]', 'approve --all [--watch]'],
  details: [
    'Signs the grant of a node. Compare the fingerprint with the one that the host prints: its encryption key and its ticket',
    'are checked against that, whatever the asked node says. Zones and name are those of the ticket, unless you give others.',
    'With --all, every waiting host is let in whose ticket your own key signed: whoever holds such a ticket gets in, until it',
    'expires. --watch goes on until Ctrl-C. For machines that come and go, give this to a registrar: a robot granted for nodes',
    'alone, in few zones (meshctl grant robot KEY --kinds node --zone eu.auto -w "*"), asking a node that you trust.',
  ].join('\n'),
  options: {
    name: { type: 'string', value: 'NAME', description: 'what the host is called (default: as in the ticket)' },
    note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' },
    all: { type: 'boolean', description: 'every host that waits with a ticket of your own key' },
    watch: { type: 'boolean', description: 'with --all: go on, also with those that come later' },
  },
  examples: [
    'meshctl -k owner.key approve 3b6a27bcceb6a42d --zone eu.west --name edge-4',
    'meshctl --api unix:/var/lib/nxmesh/api.sock -k registrar.key approve --all --watch',
  ],
  async run(cli, args) {
    if (args.flag('all')) return await approveAll(cli, args)
    if (args.flag('watch')) throw usage('--watch goes with --all')
    const request = await waiting(cli, args)
    const given = zonesOf(args)
    const ticket = parseTicket(request.ticket.text)
    checkAsking(request)
    const fault = ticketFault(ticket, await hereOf(cli))
    if (fault !== undefined) throw new MeshError('denied', fault, { hint: 'Make a new one: meshctl invite.' })
    const inviter = await inviterOf(cli, ticket)
    if (given.length === 0 && inviter === undefined) throw unknownInviter(ticket)
    cli.note(plain(`invited  ${fingerprint(ticket.by)} (${inviter ?? 'unknown'})`))
    const zones = given.length > 0 ? given : ticket.zones
    const name = nameOf(args) ?? ticket.name
    const namesake = await namesakeOf(cli, request, name)
    if (namesake !== undefined) {
      throw new MeshError('conflict', `${name} is the name of another key, ${namesake}`, {
        field: '--name',
        hint: 'Give this host another name with --name.',
      })
    }
    await letIn(cli, args, request, { zones, name })
    return undefined
  },
}

async function namesakeOf(cli: Cli, { key }: PendingView, name: string | undefined): Promise<string | undefined> {
  if (name === undefined) return undefined
  const grants = await (await cli.client()).grants()
  return grants.find((grant) => grant.name === name && grant.subject !== key)?.subject
}

/** @throws MeshError `denied` when the host did not ask for this: the asked node may make up or change what it shows. */
function checkAsking({ key, enc, name, zones, sig, ticket }: PendingView): void {
  if (isAskedBy(key, { ticket: ticket.text, enc, name, zones }, sig)) return
  throw new MeshError(
    'denied',
    `the request of ${fingerprint(key)} is not signed by that key: the asked node changed it`,
    {
      hint: 'Ask another node of the ticket with --api; this one may be broken into.',
    },
  )
}

/** What the ticket has to be for. */
async function hereOf(cli: Cli) {
  const { meshId, networkId } = await (await cli.client()).node()
  return { mesh: cli.mesh ?? meshId ?? undefined, network: networkId, now: cli.host.clock.now() }
}

/** Name or role of the signer of a ticket that it could have let in by itself; undefined when no proven grant says so. */
async function inviterOf(cli: Cli, { by, zones }: TicketContent): Promise<string | undefined> {
  const views = (await (await cli.client()).grants(by)).filter((view) => mayLetIn(view, zones))
  const proven = (await provenGrants(cli, views)).find(({ body }) => body.subject === by && mayGrantNodes(body, zones))
  return proven && (proven.body.name ?? proven.body.role)
}

function unknownInviter({ by, zones }: TicketContent): MeshError {
  const scope = zones.join(', ')
  return new MeshError(
    'denied',
    `the ticket is by ${fingerprint(by)}, which cannot be shown to be able to grant nodes of zones ${scope}`,
    { hint: 'If the host is the right one, name its zones yourself: --zone ZONE' },
  )
}

interface Wish {
  readonly zones: readonly string[]
  readonly name: string | undefined
}

async function letIn(cli: Cli, args: Args, request: PendingView, { zones: asked, name }: Wish): Promise<void> {
  const zones = asked.toSorted()
  const beyond = request.zones.filter((zone) => !zones.some((outer) => zoneCovers(outer, zone)))
  if (beyond.length > 0)
    cli.note(plain(`its configuration names zones ${beyond.join(', ')}, which this does not grant`))
  cli.note(`key      ${request.key}\nfrom     ${plain(request.address)}\nenc      ${request.enc}`)
  const sent = await cli.withAuthor((author) =>
    author.send({
      type: 'grant',
      ws: cli.workspace ?? '*',
      note: noteOf(args),
      subject: request.key,
      role: 'node',
      zones,
      kinds: ['*'],
      enc: request.enc,
      ...(name === undefined ? {} : { name }),
    }),
  )
  cli.out(`${sent.id}\n`)
  if (tellMissing(cli, sent)) return
  cli.note(`approved: ${name ?? fingerprint(request.key)} is node of zones ${zones.join(', ')}`)
}

/** Lets in who shows a ticket of the own key. A host that may not be let in is told once, and does not stop the others. */
async function approveAll(cli: Cli, args: Args): Promise<undefined> {
  args.expect()
  if (zonesOf(args).length > 0 || nameOf(args) !== undefined)
    throw usage('--all takes zones and names from the tickets', 'Leave out --zone and --name.')
  const { signal, clock } = cli.host
  let failed = await approveWaiting(cli, args, [])
  while (args.flag('watch')) {
    await clock.sleep(WATCH_MS, signal).catch(() => undefined)
    if (signal.aborted) return undefined
    try {
      failed = await approveWaiting(cli, args, failed)
    } catch (error) {
      cli.note(plain(`${asMeshError(error).message}; trying again`))
    }
  }
  if (failed.length > 0)
    throw new MeshError(
      'denied',
      failed.length === 1 ? 'a waiting host was not let in' : `${failed.length} waiting hosts were not let in`,
    )
  return undefined
}

/**
 * @param failed ids of requests that are not tried again.
 * @returns those that still wait and cannot be let in.
 */
async function approveWaiting(cli: Cli, args: Args, failed: readonly string[]): Promise<string[]> {
  const client = await cli.client()
  const here = await hereOf(cli)
  const { publicKey } = await cli.key()
  const waiting = await client.pending()
  const stillFailed = waiting.map(({ id }) => id).filter((id) => failed.includes(id))
  for (const request of waiting) {
    const ticket = checkedTicket(request)
    if (stillFailed.includes(request.id) || ticket?.by !== publicKey || ticketFault(ticket, here) !== undefined)
      continue
    try {
      checkAsking(request)
      // Many hosts may come with one ticket.
      const isTaken = (await namesakeOf(cli, request, ticket.name)) !== undefined
      const name = isTaken ? `${ticket.name}-${request.key.slice(0, 8)}` : ticket.name
      await letIn(cli, args, request, { zones: ticket.zones, name })
    } catch (error) {
      if (!(error instanceof MeshError) || error.code === 'unavailable') throw error
      stillFailed.push(request.id)
      cli.note(`${fingerprint(request.key)} was not let in: ${error.message.split('\n').map(plain).join('\n')}`)
    }
  }
  return stillFailed
}

/** The asked node may lie about who invited; the ticket cannot. */
function checkedTicket({ ticket: { text } }: PendingView): TicketContent | undefined {
  try {
    return parseTicket(text)
  } catch {
    return undefined
  }
}

export const denyVerb: Verb = {
  name: 'deny',
  summary: 'turn a waiting host away',
  usage: ['deny FINGERPRINT'],
  details:
    'The host is told, and ends. The asked node alone remembers it: whoever approves the host elsewhere lets it in, and another ticket is another try.',
  options: {},
  examples: ['meshctl -k owner.key deny 3b6a27bcceb6a42d'],
  async run(cli, args) {
    const request = await waiting(cli, args)
    const client = await cli.client()
    const { meshId } = await client.node()
    if (meshId !== null) await cli.confirmMesh(meshId)
    await client.reject(signRejection(meshId ?? '', request.id, await cli.key()))
    cli.note(`denied: ${fingerprint(request.key)}`)
    return undefined
  },
}

function nameOf(args: Args): string | undefined {
  const name = args.text('name')
  if (name !== undefined && !isName(name)) throw usage(`--name takes lower-case letters, digits and -, not ${name}`)
  return name
}
