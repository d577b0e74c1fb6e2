/** The verb that prints a token, for curl and for programs that read the API. meshctl itself signs its own, in client.ts. */

import { isHex } from '../../core/envelope.ts'
import { signToken, TOKEN_LIMITS } from '../../core/token.ts'
import { MeshError } from '../../errors.ts'
import { durationMs, usage, type Verb } from '../cli.ts'
import { toJson, toYaml } from '../terminal.ts'

const DEFAULT_TTL = '10m'

export const tokenVerb: Verb = {
  name: 'token',
  summary: 'print a token with which curl reads the API over TCP',
  usage: ['token [--ttl 10m] [--edit NODE_KEY] [--mesh ID] [-k FILE]'],
  details: [
    'A JSON Web Token (EdDSA) signed with the key of -k. It opens what the grants of that key open, on every node of the mesh,',
    'until it ends: it cannot be taken back, except by revoking the key. Without --mesh it is for the mesh that the key works in.',
    'It is for reading. With --edit the one node of that key may also sign plain edits (PUT, DELETE) for you, with its http_edit_key.',
  ].join('\n'),
  options: {
    ttl: { type: 'string', value: 'TIME', description: `how long it counts: ${DEFAULT_TTL}, at most 1h` },
    edit: {
      type: 'string',
      value: 'NODE_KEY',
      description: 'public key of a node that may sign edits for you: all 64 digits',
    },
  },
  examples: [
    'meshctl token -k ana.key',
    'curl -H "Authorization: Bearer $(meshctl token -k ana.key)" http://127.0.0.1:3000/v1/peers',
  ],
  async run(cli, args) {
    args.expect()
    const ttl = args.text('ttl') ?? DEFAULT_TTL
    const seconds = Math.floor(durationMs(ttl, '--ttl') / 1000)
    if (seconds < 1 || seconds > TOKEN_LIMITS.lifetime) throw usage(`--ttl takes a time from 1s to 1h, not ${ttl}`)
    const edit = args.text('edit')
    const isWhole: boolean = edit === undefined || isHex(edit, 64)
    if (!isWhole) {
      throw usage(
        `--edit takes all 64 lower-case hex digits of a node’s key, not ${edit?.slice(0, 80)}`,
        'mesh-node check -c FILE prints it on the host, meshctl peers -o wide lists what the asked node says.',
      )
    }
    const key = await cli.key()
    const mesh = cli.mesh ?? (await (await cli.client()).mesh())
    if (mesh === null) {
      throw new MeshError('unavailable', 'the node has no mesh yet, so no token counts there', {
        hint: 'Name the mesh: --mesh ID',
      })
    }
    await cli.confirmMesh(mesh)
    const now = cli.host.clock.now()
    const token = signToken(key, mesh, now, seconds, edit)
    const shown = { token, key: key.publicKey, mesh, expires: new Date(now + seconds * 1000).toISOString() }
    cli.out(cli.format === 'json' ? toJson(shown) : cli.format === 'yaml' ? toYaml(shown) : `${token}\n`)
    return undefined
  },
}
