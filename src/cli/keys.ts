/** The verbs that make keys and meshes: key, init. They reach no node. */

import { mkdir, open } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { createKeyFile } from '../adapters/identity.ts'
import { toWire } from '../core/codec.ts'
import { isHex, type Envelope } from '../core/envelope.ts'
import { foundMesh } from '../core/founding.ts'
import { isName, isZone } from '../core/names.ts'
import { encryptionKey } from '../core/secrets.ts'
import { MeshError } from '../errors.ts'
import { ChainFile } from './chain-file.ts'
import { usage, type Args, type Cli, type Verb } from './cli.ts'
import { toJson, toYaml } from './terminal.ts'

export const keyVerb: Verb = {
  name: 'key',
  summary: 'make a key, or show the public key of one',
  usage: ['key new -k FILE', 'key show [-k FILE]'],
  details: 'A key file holds 32 bytes in hex, readable for its owner alone. The public key is what grants name.',
  options: {},
  examples: ['meshctl key new -k node.key', 'meshctl key show -k node.key'],
  async run(cli, args) {
    const [action] = args.expect('new|show')
    if (action !== 'new' && action !== 'show') throw usage(`key takes new or show, not ${action}`)
    const file = args.text('key')
    if (action === 'new' && file === undefined)
      throw usage('-k FILE is missing', 'Say where the new key goes: meshctl key new -k node.key')
    const key = action === 'new' ? await createKeyFile(cli.path(file as string)) : await cli.key()
    const shown = { publicKey: key.publicKey, enc: encryptionKey(key.seed).publicKey }
    cli.out(cli.format === 'json' ? toJson(shown) : cli.format === 'yaml' ? toYaml(shown) : `${key.publicKey}\n`)
    if (action === 'new') cli.note(`made ${file}; keep it secret. Above is its public key.`)
    return undefined
  },
}

/** What `init` leaves in its directory. */
export const INIT_FILES = {
  genesis: 'genesis.json',
  owner: 'owner.key',
  recovery: 'recovery.key',
  nextRecovery: 'next-recovery.key',
} as const

export const initVerb: Verb = {
  name: 'init',
  summary: 'found a new mesh: its genesis, an owner’s key and recovery keys',
  usage: ['init [--dir mesh] [--name NAME] [--owner-name NAME] [--node KEY[=NAME]]... [-z ZONE]...'],
  details: [
    'Writes genesis.json, owner.key, recovery.key and next-recovery.key into a new directory. Reaches no node.',
    'The recovery key is the root: it made the owner, and alone can make another if the owner’s key is lost or stolen.',
    'One root: a mesh whose root acts need the signatures of several cannot be founded with this version.',
  ].join('\n'),
  options: {
    dir: { type: 'string', value: 'DIR', description: 'where to write (default mesh)' },
    name: { type: 'string', value: 'NAME', description: 'name of the mesh (default mesh)' },
    'owner-name': { type: 'string', value: 'NAME', description: 'name of the owner in lists (default owner)' },
    node: {
      type: 'string',
      multiple: true,
      value: 'KEY[=NAME]',
      description: 'grant this node at once, in the zones of -z',
    },
  },
  examples: [
    'meshctl init --name prod',
    'meshctl init --name prod --node "$(meshctl key show -k node.key)=edge-1" -z eu.west',
  ],
  async run(cli, args) {
    args.expect()
    const name = nameOption(args, 'name', 'mesh')
    const ownerName = nameOption(args, 'owner-name', 'owner')
    const nodes = nodesOf(args)
    const directory = cli.path(args.text('dir') ?? 'mesh')
    await makeDirectory(directory)
    const root = await createKeyFile(join(directory, INIT_FILES.recovery))
    const next = await createKeyFile(join(directory, INIT_FILES.nextRecovery))
    const owner = await createKeyFile(join(directory, INIT_FILES.owner))
    const at = cli.host.clock.now()
    const envelopes = foundMesh({ name, root, nextRoot: next.publicKey, owner, ownerName, nodes, at })
    await rememberAll(cli, join(directory, INIT_FILES.recovery), root.publicKey, envelopes)
    await rememberAll(cli, join(directory, INIT_FILES.owner), owner.publicKey, envelopes)
    await writeGenesis(join(directory, INIT_FILES.genesis), envelopes)
    const meshId = (envelopes[0] as Envelope).id
    cli.out(`${meshId}\n`)
    cli.note(instructions(relative(cli.host.cwd, directory) || '.', name, meshId))
    return undefined
  },
}

function nameOption(args: Args, option: string, otherwise: string): string {
  const name = args.text(option) ?? otherwise
  if (!isName(name)) throw usage(`--${option} takes lower-case letters, digits and -, not ${name}`)
  return name
}

function nodesOf(args: Args): { key: string; name: string; zones: string[] }[] {
  const zones = args.items('zone')
  const wrong = zones.find((zone) => !isZone(zone))
  if (wrong !== undefined) throw usage(`-z ${wrong} is not a zone`, 'Write it like eu.west, or * for all.')
  return args.list('node').map((text, index) => {
    const [key = '', name = `node-${index + 1}`] = text.split('=')
    const isKey: boolean = isHex(key, 64)
    if (!isKey)
      throw usage(`--node takes a public key of 64 hex digits, not ${key}`, 'See it with: meshctl key show -k node.key')
    if (!isName(name)) throw usage(`--node KEY=NAME takes lower-case letters, digits and -, not ${name}`)
    return { key, name, zones: zones.length === 0 ? ['*'] : zones }
  })
}

async function makeDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { mode: 0o700 })
  } catch (error) {
    const isThere = (error as NodeJS.ErrnoException).code === 'EEXIST'
    throw isThere
      ? new MeshError(
          'conflict',
          `${directory} exists`,
          { field: '--dir', hint: 'Name a new directory: a mesh is founded once.' },
          error,
        )
      : new MeshError(
          'input_invalid',
          `cannot make ${directory}: ${(error as Error).message}`,
          { field: '--dir' },
          error,
        )
  }
}

/** Without this the first edit by the key, sent to a node that lags, could take a place that is taken. */
async function rememberAll(
  cli: Cli,
  keyFile: string,
  publicKey: string,
  envelopes: readonly Envelope[],
): Promise<void> {
  const chain = await ChainFile.open(`${keyFile}.chain.json`, cli.host.clock, cli.host.signal)
  try {
    const mesh = (envelopes[0] as Envelope).id
    for (const envelope of envelopes) {
      const { body } = envelope
      if (body.type !== 'genesis' && body.by === publicKey) await chain.remember(mesh, body.ws, toWire(envelope))
    }
  } finally {
    chain.close()
  }
}

async function writeGenesis(path: string, envelopes: readonly Envelope[]): Promise<void> {
  const file = await open(path, 'wx', 0o644)
  try {
    await file.writeFile(toJson({ envelopes: envelopes.map(toWire) }))
    await file.sync()
  } finally {
    await file.close()
  }
}

function instructions(directory: string, name: string, meshId: string): string {
  return `
Founded the mesh ${name} (its id is above) in ${directory}/:
  owner.key          grants, revokes and edits. Keep it on your machine; give it with -k.
  recovery.key       can replace a lost or stolen owner. Move it offline now: a printed page, a safe.
  next-recovery.key  will alone be able to replace recovery.key. Keep it in another place than that one.
  genesis.json       holds no secret. The first node needs it; others get it from their peers.

Next:
  1. On the first host, either set mesh.genesis_file: genesis.json in its configuration,
     or give it to the running node: meshctl push ${directory}/genesis.json
  2. In every host's configuration, pin the mesh: mesh.id: ${meshId}
  3. Grant each host: meshctl -k ${directory}/owner.key grant node KEY --zone eu.west --name edge-1`
}
