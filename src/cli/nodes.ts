/** The verb for hosts that are in the mesh: node ls, node rm. */

import type { GrantView } from '../api/schemas.ts'
import { MeshError } from '../errors.ts'
import { headsOf, HISTORY_MAX, tellMissing } from './authority.ts'
import { Args, usage, type Cli, type Verb } from './cli.ts'
import { resolveId } from './ids.ts'
import { peersVerb } from './observe.ts'
import { noteOf } from './resources.ts'
import { tellExposed } from './secret.ts'
import { plain, short } from './terminal.ts'

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
  const client = await cli.client()
  const key = await resolveId(cli, text, {
    field: 'NAME|KEY',
    what: 'no key',
    accepts: ({ type, active }) => type === 'key' && active,
    hint: 'See who there is: meshctl node ls',
  })
  const grants = await client.grants(key)
  const nodes = grants.filter(({ role }) => role === 'node')
  if (nodes.length === 0) {
    throw new MeshError('not_found', `${short(key)} is no node of this mesh`, {
      hint: 'See who there is: meshctl node ls',
    })
  }
  // Of a key that is a node and nothing else, grants that this node has not heard of go too.
  const revoked: { target: string; of: GrantView[]; ws: string }[] =
    nodes.length === grants.length
      ? [{ target: `key/${key}`, of: nodes, ws: workspaceOf(nodes) }]
      : nodes.map((grant) => ({ target: `grant/${grant.id}`, of: [grant], ws: grant.workspace }))
  const history = await client.edits({ author: key }, HISTORY_MAX)
  await tellExposed(cli, nodes)
  let counts = true
  await cli.withAuthor(async (author) => {
    for (const { target, of, ws } of revoked) {
      const keep = headsOf(history.filter(({ workspace }) => ws === '*' || workspace === ws))
      const sent = await author.send({ type: 'revoke', ws, note, target, keep }, of)
      cli.out(`${sent.id}\n`)
      counts = !tellMissing(cli, sent) && counts
    }
  })
  if (!counts) return undefined
  const name = nodes.find((grant) => grant.name !== null)?.name ?? short(key)
  cli.note(`removed: ${plain(name)} is no node any more, wherever this is known`)
  return undefined
}

function workspaceOf(grants: readonly GrantView[]): string {
  const workspaces = [...new Set(grants.map(({ workspace }) => workspace))]
  return workspaces.length === 1 ? (workspaces[0] as string) : '*'
}
