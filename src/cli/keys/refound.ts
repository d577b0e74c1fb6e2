/**
 * The verb refound: a new mesh with the hosts, people and resources of one whose root keys are lost or contested. Takes
 * nobody's word: all is read from a node and proven by its signatures. Changes no node; tells how each host is moved.
 */

import { join, relative } from 'node:path'
import { createKeyFile } from '../../adapters/identity.ts'
import { isHex, type Envelope, type GrantBody } from '../../core/envelope.ts'
import { parseResourcePath } from '../../core/names.ts'
import { estateOf, refoundMesh, type Estate } from '../../core/refounding.ts'
import { canonical } from '../../core/canonical.ts'
import { toWire } from '../../core/codec.ts'
import { MeshError } from '../../errors.ts'
import { usage, type Args, type Cli, type Verb } from '../cli.ts'
import { scopeWords } from '../grants/grant-scope.ts'
import { createRootKeys, INIT_FILES, makeDirectory, nameOption, quorumOf, rememberAll, writeGenesis } from './keys.ts'
import { plain, short } from '../terminal.ts'
import { download, notAsSaid, recompute } from '../observing/verify.ts'

export const refoundVerb: Verb = {
  name: 'refound',
  summary: 'found a new mesh with the hosts, people and resources of this one',
  usage: ['refound [--dir mesh-2] [--name NAME] [--roots N --threshold M] [--with KEYS] [--without KEYS] [--dry-run]'],
  details: [
    'For a mesh whose root keys are lost with the next ones, or stolen so that two successors are signed. Reads everything from one',
    'node that is in sync, checks every signature, and writes genesis.json with new keys into a new directory, as init does.',
    'Who had a role still has it, but for owners: the new owner is the only one, and grants others. Whom the roots made something else',
    'stays behind with all that those granted, unless --with names them: a thief of the root keys may have made them. Every resource',
    'is an edit of the new owner. What no node had in force stays behind, and the history does. Secrets stay sealed for whom they were.',
  ].join('\n'),
  options: {
    dir: { type: 'string', value: 'DIR', description: 'where to write (default mesh-2)' },
    name: { type: 'string', value: 'NAME', description: 'name of the new mesh (default: that of the old one)' },
    'owner-name': { type: 'string', value: 'NAME', description: 'name of the owner in lists (default owner)' },
    roots: { type: 'string', value: 'N', description: 'how many recovery keys (default 1)' },
    threshold: { type: 'string', value: 'M', description: 'how many of them it takes (default 1)' },
    with: {
      type: 'string',
      multiple: true,
      value: 'KEYS',
      description: 'public keys that roots granted something, and that keep it',
    },
    without: {
      type: 'string',
      multiple: true,
      value: 'KEYS',
      description: 'public keys that get no role in the new mesh',
    },
    'dry-run': { type: 'boolean', description: 'show what would be taken over, and write nothing' },
  },
  examples: [
    'meshctl --api unix:/var/lib/nxmesh/api.sock refound --dry-run',
    'meshctl --api unix:/var/lib/nxmesh/api.sock refound --name prod --roots 3 --threshold 2',
  ],
  async run(cli, args) {
    args.expect()
    const without = keysOf(args, 'without')
    const trusted = keysOf(args, 'with')
    const quorum = quorumOf(args)
    const ownerName = nameOption(args, 'owner-name', 'owner')
    const { wires } = await download(await cli.client())
    const { state, faults } = recompute(wires, cli.mesh)
    if (faults.length > 0) throw notAsSaid(faults)
    const { genesis } = state.history
    if (genesis === undefined) throw new MeshError('not_found', 'the node has no mesh')
    const estate = estateOf(state, without, trusted)
    tell(cli, estate)
    if (args.flag('dry-run')) {
      cli.note('dry run: nothing was written')
      return undefined
    }
    const name = nameOption(args, 'name', genesis.body.name)
    await found(cli, args, estate, { name, ownerName, old: genesis.id, ...quorum })
    return undefined
  },
}

function keysOf(args: Args, option: 'with' | 'without'): Set<string> {
  const keys = args.items(option)
  const isKey = (key: string): boolean => isHex(key, 64)
  const wrong = keys.find((key) => !isKey(key))
  if (wrong !== undefined) throw usage(`--${option} takes public keys of 64 hex digits, not ${wrong.slice(0, 80)}`)
  return new Set(keys)
}

interface Plan {
  readonly name: string
  readonly ownerName: string
  /** Id of the old mesh. */
  readonly old: string
  readonly count: number
  readonly threshold: number
}

async function found(cli: Cli, args: Args, estate: Estate, plan: Plan): Promise<void> {
  const directory = cli.path(args.text('dir') ?? 'mesh-2')
  await makeDirectory(directory)
  const roots = await createRootKeys(directory, INIT_FILES.recovery, plan.count)
  const nextRoots = (await createRootKeys(directory, INIT_FILES.nextRecovery, plan.count)).map(
    ({ key }) => key.publicKey,
  )
  const ownerFile = join(directory, INIT_FILES.owner)
  const owner = await createKeyFile(ownerFile)
  const keys = roots.map(({ key }) => key)
  const { name, ownerName, threshold, old } = plan
  const founding = { name, ownerName, threshold, roots: keys, nextRoots, owner, at: cli.host.clock.now() }
  const envelopes = refoundMesh(founding, estate, `refounded from mesh ${old}`)
  check(envelopes, estate)
  for (const { file, key } of roots) await rememberAll(cli, file, key.publicKey, envelopes.slice(0, 2))
  await rememberAll(cli, ownerFile, owner.publicKey, [envelopes[0] as Envelope, ...lastOfEach(envelopes)])
  // It holds what an export holds.
  await writeGenesis(directory, envelopes, 0o600)
  const [{ id }] = envelopes as [Envelope]
  cli.out(`${id}\n`)
  cli.note(instructions(relative(cli.host.cwd, directory) || '.', plan, id))
}

/** That the new mesh is what the old one was, by the rules that nodes follow. */
function check(envelopes: readonly Envelope[], { grants, resources }: Estate): void {
  const { state, faults } = recompute(envelopes.map(toWire), undefined)
  const lost = resources.find(({ path, fields }) => {
    const resource = state.resource(path)
    return resource?.exists !== true || canonical([...resource.fields]) !== canonical([...fields])
  })
  const missing = grants.find(({ subject }) => state.policy.activeGrants(subject).length === 0)
  const fault = faults[0] ?? lost?.path ?? missing?.subject
  if (fault !== undefined) throw new MeshError('internal', `the new mesh does not hold what the old one did: ${fault}`)
}

/** The end of each chain: where the next edit by the owner goes on. */
function lastOfEach(envelopes: readonly Envelope[]): Envelope[] {
  return [...new Map(envelopes.slice(2).map((envelope) => [(envelope.body as GrantBody).ws, envelope])).values()]
}

// ---------------------------------------------------------------------------------------------- telling

function tell(cli: Cli, { grants, owners, byRoots, resources, left }: Estate): void {
  // Also the owner who granted it may be one whom a thief made.
  const names = new Map([...grants, ...owners].map(({ subject, name }) => [subject, name]))
  const signer = ({ by }: GrantBody): string => `granted by ${plain(names.get(by) ?? 'key')} (${short(by)})`
  for (const grant of grants) cli.note(`takes over: ${plain(scopeWords(grant))}; ${signer(grant)}`)
  const secrets = resources.filter(({ path }) => parseResourcePath(path)?.kind === 'secret')
  cli.note(`takes over: ${resources.length} resources, ${secrets.length} of them secrets`)
  for (const owner of owners) cli.note(`left behind: ${plain(scopeWords(owner))}; ${signer(owner)}`)
  for (const grant of byRoots) {
    const words = `left behind: ${plain(scopeWords(grant))}; ${signer(grant)}`
    cli.note(`${words}: by roots, or under what they granted; to take it over: --with ${grant.subject}`)
  }
  for (const [path, why] of left) cli.note(`left behind: ${plain(path)}: ${plain(why)}`)
}

function instructions(directory: string, { name, old, count }: Plan, id: string): string {
  const recovery = count === 1 ? 'recovery.key' : 'recovery-*.key'
  return `
Founded the mesh ${name} (its id is above) in ${directory}/, in the place of ${old}.
  owner.key, ${recovery} and next-${recovery} are as those of meshctl init: move the latter two offline, apart from each other.
  genesis.json holds all of it, secrets sealed, and is to be kept like an export.

Host by host, nginx serving on what it has all the while:
  1. Copy ${directory}/genesis.json to the host. In its configuration set mesh.id: ${id}
     and mesh.genesis_file to the copy.
  2. systemctl stop mesh-node
  3. mv /var/lib/nxmesh/store /var/lib/nxmesh/store-old (data_dir/store)
  4. systemctl start mesh-node
Hosts find each other as before, by nodes[]. Until the second one is moved, the first applies nothing new, and says so.
Make no edits in the old mesh meanwhile: they stay behind.

Then:
  meshctl -k ${directory}/owner.key status
  secrets: you cannot open them until somebody for whom they are sealed runs: meshctl secret reseal --all
  what somebody may have read who had the old keys: meshctl -k ${directory}/owner.key secret rotate NAME -f FILE`
}
