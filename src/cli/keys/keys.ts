/** The verbs that make keys and meshes: key, init. They reach no node. */

import { mkdir } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { createKeyFile } from '../../adapters/identity.ts'
import { toWire } from '../../core/codec.ts'
import { isHex, LIMITS, type Envelope, type KeyPair } from '../../core/envelope.ts'
import { foundMesh, type FoundingNode } from '../../core/founding.ts'
import { isName, isZone } from '../../core/names.ts'
import { encryptionKey } from '../../core/secrets.ts'
import { MeshError } from '../../errors.ts'
import { ChainFile } from '../signing/chain-file.ts'
import { usage, type Args, type Verb } from '../cli.ts'
import type { CliHost } from '../host.ts'
import { writeNewFile } from '../new-file.ts'
import { toJson, toYaml } from '../terminal.ts'

export const keyVerb: Verb = {
  name: 'key',
  summary: 'make a key, or show the public key of one',
  usage: ['key new -k FILE', 'key show [-k FILE]'],
  details: [
    'A key file holds 32 bytes in hex, readable for its owner alone. The public key is what grants name.',
    'With -o wide it is KEY:ENC, where ENC is what secrets are sealed to; grant and init take it so.',
  ].join('\n'),
  options: {},
  examples: ['meshctl key new -k node.key', 'meshctl key show -k node.key'],
  async run(cli, args) {
    const [action] = args.expect('new|show')
    if (action !== 'new' && action !== 'show') throw usage(`key takes new or show, not ${action}`)
    const file = args.text('key')
    if (action === 'new' && file === undefined)
      throw usage('-k FILE is missing', 'Say where the new key goes: meshctl key new -k node.key')
    const key = action === 'new' ? await createKeyFile(cli.path(file as string)) : await cli.key()
    const { publicKey } = key
    const enc = encryptionKey(key.seed).publicKey
    const shown = { publicKey, enc }
    const line = cli.format === 'wide' ? `${publicKey}:${enc}` : publicKey
    cli.out(cli.format === 'json' ? toJson(shown) : cli.format === 'yaml' ? toYaml(shown) : `${line}\n`)
    if (action === 'new') cli.note(`made ${file}; keep it secret. Above is its public key.`)
    return undefined
  },
}

/** What `init` leaves in its directory. Of several roots each file has a number: `recovery-1.key`. */
export const INIT_FILES = {
  genesis: 'genesis.json',
  owner: 'owner.key',
  recovery: 'recovery.key',
  nextRecovery: 'next-recovery.key',
} as const

export const initVerb: Verb = {
  name: 'init',
  summary: 'found a new mesh: its genesis, an owner’s key and recovery keys',
  usage: [
    'init [--dir mesh] [--name NAME] [--owner-name NAME] [--roots N --threshold M] [--node KEY[:ENC][=NAME]]... [-z ZONE]...',
  ],
  details: [
    'Writes genesis.json, owner.key, recovery.key and next-recovery.key into a new directory. Reaches no node.',
    'The recovery key is the root: it made the owner, and alone can make another if the owner’s key is lost or stolen.',
    'With --roots 3 --threshold 2 there are three recovery keys, and it takes two to do what a root does (meshctl help cosign).',
  ].join('\n'),
  options: {
    dir: { type: 'string', value: 'DIR', description: 'where to write (default mesh)' },
    name: { type: 'string', value: 'NAME', description: 'name of the mesh (default mesh)' },
    'owner-name': { type: 'string', value: 'NAME', description: 'name of the owner in lists (default owner)' },
    roots: { type: 'string', value: 'N', description: 'how many recovery keys (default 1)' },
    threshold: { type: 'string', value: 'M', description: 'how many of them it takes (default 1)' },
    node: {
      type: 'string',
      multiple: true,
      value: 'KEY[:ENC][=NAME]',
      description: 'grant this node at once, in the zones of -z; with ENC it can open secrets',
    },
  },
  examples: [
    'meshctl init --name prod',
    'meshctl init --name prod --node "$(meshctl key show -k node.key -o wide)=edge-1" -z eu.west',
    'meshctl init --name prod --roots 3 --threshold 2',
  ],
  async run(cli, args) {
    args.expect()
    const name = nameOption(args, 'name', 'mesh')
    const ownerName = nameOption(args, 'owner-name', 'owner')
    const nodes = nodesOf(args)
    const { count, threshold } = quorumOf(args)
    const directory = cli.path(args.text('dir') ?? 'mesh')
    await makeDirectory(directory)
    const roots = await createRootKeys(directory, INIT_FILES.recovery, count)
    const nextRoots = await createRootKeys(directory, INIT_FILES.nextRecovery, count)
    const owner = await createKeyFile(join(directory, INIT_FILES.owner))
    const at = cli.host.clock.now()
    const next = nextRoots.map(({ key }) => key.publicKey)
    const keys = roots.map(({ key }) => key)
    const envelopes = foundMesh({ name, roots: keys, nextRoots: next, threshold, owner, ownerName, nodes, at })
    for (const { file, key } of roots) await rememberAll(cli, file, key.publicKey, envelopes)
    await rememberAll(cli, join(directory, INIT_FILES.owner), owner.publicKey, envelopes)
    await writeGenesis(directory, envelopes)
    const meshId = (envelopes[0] as Envelope).id
    cli.out(`${meshId}\n`)
    cli.note(instructions(relative(cli.host.cwd, directory) || '.', name, meshId, threshold, next))
    return undefined
  },
}

export function nameOption(args: Args, option: string, otherwise: string): string {
  const name = args.text(option) ?? otherwise
  if (!isName(name)) throw usage(`--${option} takes lower-case letters, digits and -, not ${name}`)
  return name
}

export function quorumOf(args: Args): { count: number; threshold: number } {
  const number = (name: string): number => {
    const text = args.text(name) ?? '1'
    const value = /^\d{1,2}$/.test(text) ? Number(text) : 0
    if (value < 1 || value > LIMITS.roots)
      throw usage(`--${name} takes a number from 1 to ${LIMITS.roots}, not ${text}`)
    return value
  }
  const [count, threshold] = [number('roots'), number('threshold')]
  if (threshold > count) throw usage(`--threshold ${threshold} is over the number of roots (--roots ${count})`)
  return { count, threshold }
}

/** `recovery.key`, or of several `recovery-1.key` and so on. */
export async function createRootKeys(
  directory: string,
  name: string,
  count: number,
): Promise<{ file: string; key: KeyPair }[]> {
  const made: { file: string; key: KeyPair }[] = []
  for (let index = 1; index <= count; index += 1) {
    const file = join(directory, count === 1 ? name : name.replace('.key', `-${index}.key`))
    made.push({ file, key: await createKeyFile(file) })
  }
  return made
}

/** `KEY` or `KEY:ENC`, as `key show` and `key show -o wide` print it. @throws MeshError `usage` */
export function keyWithEnc(text: string, field: string): { key: string; enc: string | undefined } {
  const [key = '', enc] = text.split(':')
  const isKey: boolean = isHex(key, 64) && (enc === undefined || isHex(enc, 64))
  if (isKey) return { key, enc }
  throw usage(`${field} takes a public key of 64 hex digits, not ${text}`, 'See it with: meshctl key show -k node.key')
}

function nodesOf(args: Args): FoundingNode[] {
  const zones = args.items('zone')
  const wrong = zones.find((zone) => !isZone(zone))
  if (wrong !== undefined) throw usage(`-z ${wrong} is not a zone`, 'Write it like eu.west, or * for all.')
  return args.list('node').map((text, index) => {
    const [keys = '', name = `node-${index + 1}`] = text.split('=')
    const { key, enc } = keyWithEnc(keys, '--node')
    if (!isName(name)) throw usage(`--node KEY=NAME takes lower-case letters, digits and -, not ${name}`)
    return { key, enc, name, zones: zones.length === 0 ? ['*'] : zones }
  })
}

export async function makeDirectory(directory: string): Promise<void> {
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

/** Without this the key would work in whatever mesh it is shown first, and its first edit, sent to a node that lags, could take a place that is taken. */
export async function rememberAll(
  { host }: { readonly host: Pick<CliHost, 'clock' | 'signal'> },
  keyFile: string,
  publicKey: string,
  envelopes: readonly Envelope[],
): Promise<void> {
  const chain = await ChainFile.open(`${keyFile}.chain.json`, host.clock, host.signal)
  try {
    const mesh = (envelopes[0] as Envelope).id
    await chain.enter(mesh)
    for (const envelope of envelopes) {
      const { body } = envelope
      if (body.type !== 'genesis' && body.by === publicKey) await chain.remember(mesh, body.ws, toWire(envelope))
    }
  } finally {
    chain.close()
  }
}

export async function writeGenesis(directory: string, envelopes: readonly Envelope[], mode = 0o644): Promise<void> {
  const path = join(directory, INIT_FILES.genesis)
  await writeNewFile({ path, name: path, field: '--dir', mode }, toJson({ envelopes: envelopes.map(toWire) }))
}

function instructions(
  directory: string,
  name: string,
  meshId: string,
  threshold: number,
  next: readonly string[],
): string {
  const isOne = next.length === 1
  const recovery = isOne ? 'recovery.key' : 'recovery-*.key'
  const column = (name: string): string => name.padEnd(19)
  const quorum = isOne
    ? ''
    : `
Any ${threshold} of the ${next.length} recovery keys act as the root: give each to another person. They will need to know the public keys
of the next ones, which are no secret:
  ${next.join('\n  ')}
`
  return `
Founded the mesh ${name} (its id is above) in ${directory}/:
  ${column('owner.key')} grants, revokes and edits. Keep it on your machine; give it with -k.
  ${column(recovery)} can replace a lost or stolen owner. Move it offline now: a printed page, a safe.
  ${column(`next-${recovery}`)} will alone be able to replace ${recovery}. Keep it in another place than that one.
  ${column('genesis.json')} holds no secret. The first node needs it; others get it from their peers.
${quorum}
Next:
  1. On the first host, either set mesh.genesis_file: genesis.json in its configuration,
     or give it to the running node: meshctl push ${directory}/genesis.json
  2. In every host's configuration, pin the mesh: mesh.id: ${meshId}
  3. Grant each host: meshctl -k ${directory}/owner.key grant node KEY:ENC --zone eu.west --name edge-1
     where KEY:ENC is what this prints on the host: meshctl key show -k node.key -o wide`
}
