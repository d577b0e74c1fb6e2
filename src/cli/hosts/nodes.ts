/** The verb for hosts that are in the mesh: node ls, node rm. */

import type { GrantView } from '../../api/schemas.ts'
import { isHex } from '../../core/envelope.ts'
import { MeshError } from '../../errors.ts'
import type { Author } from '../signing/author.ts'
import { Args, usage, type Cli, type Verb } from '../cli.ts'
import { commonWorkspace, heldGrants, takeAway, tellMissing, tracesIn } from '../grants/held.ts'
import { ambiguous } from '../asking/ids.ts'
import { peersVerb } from '../observing/observe.ts'
import { noteOf } from '../resources/resources.ts'
import { tellExposed } from '../resources/secret.ts'
import { plain, short } from '../terminal.ts'

export const nodeVerb: Verb = {
  name: 'node',
  summary: 'list the hosts of the mesh, or take one out',
  usage: ['node ls', 'node rm NAME|KEY'],
  details: [
    'rm revokes all that made the key a node, at any node of the mesh, whether the host can be reached or not. It is cut off,',
    'or kept out when it comes back, and told why; it serves what it last served. What else the key did stays.',
    'The secrets that were sealed for it are listed: it may have read them.',
  ].join('\n'),
  options: { note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' } },
  examples: ['meshctl node ls', "meshctl -k owner.key node rm edge-4 --note 'stolen'"],
  async run(cli, args) {
    const [action, ...rest] = args.positionals
    if (action === 'ls' && rest.length === 0) return await peersVerb.run(cli, new Args([], {}))
    if (action !== 'rm' || rest.length !== 1) throw usage('node takes ls, or rm with the name or key of a host')
    return await remove(cli, rest[0] as string, noteOf(args))
  },
}

async function remove(cli: Cli, text: string, note: string): Promise<undefined> {
  const key = isHex(text, 64) ? text : await keyNamed(cli, text)
  const grants = (await heldGrants(cli, ({ subject }) => subject === key)).map(({ view }) => view)
  const nodes = grants.filter(({ role }) => role === 'node')
  if (nodes.length === 0) {
    throw new MeshError('not_found', `${short(key)} is no node of this mesh`, {
      hint: 'See who there is: meshctl node ls',
    })
  }
  // Of a key that is a node and nothing else, grants that this node has not heard of go too.
  const revoked: Taking[] =
    nodes.length === grants.length
      ? [{ target: `key/${key}`, of: nodes, ws: commonWorkspace(nodes) }]
      : nodes.map((grant) => ({ target: `grant/${grant.id}`, of: [grant], ws: grant.workspace }))
  await tellExposed(cli, nodes)
  const traces = await tracesIn(await cli.client())
  let counts = true
  await cli.withAuthor(async (author) => {
    for (const taking of revoked) {
      const sent = await takeAway(cli, author, { ...taking, ws: widest(author, taking, note), note }, traces)
      cli.out(`${sent.id}\n`)
      counts = !tellMissing(cli, sent) && counts
    }
  })
  if (!counts) return undefined
  const name = nodes.find((grant) => grant.name !== null)?.name ?? short(key)
  cli.note(`removed: ${plain(name)} is no node any more, wherever this is known`)
  return undefined
}

interface Taking {
  readonly target: string
  readonly of: readonly GrantView[]
  readonly ws: string
}

/** All workspaces, where the own grant reaches so far: in another one, somebody could let the key in again. */
function widest(author: Author, { target, of, ws }: Taking, note: string): string {
  const everywhere = { type: 'revoke', ws: '*', note, target, keep: [] } as const
  return target.startsWith('key/') && author.refusal(everywhere, of) === undefined ? '*' : ws
}

/** The node that signed grants call so: the asked node cannot give the name to another one. */
async function keyNamed(cli: Cli, text: string): Promise<string> {
  const held = await heldGrants(cli, ({ role, name }) => role === 'node' && name === text)
  const [key, ...others] = new Set(held.map(({ view }) => view.subject))
  if (key !== undefined && others.length === 0) return key
  if (key !== undefined) throw ambiguous(text, [key, ...others])
  throw new MeshError('not_found', `no node is called ${text.slice(0, 80)}`, {
    hint: 'Give its name, or its key with all digits: meshctl node ls -o wide',
  })
}
