/**
 * The verbs that take nobody's word: export writes all envelopes of a node into a file; verify computes verdicts and state
 * from them with src/core, and compares with what the node says, or with what the file says. A file needs no node.
 */

import type { EditView } from '../../api/schemas.ts'
import { admit } from '../../core/admission.ts'
import { parseEnvelope, type Envelope, type WireEnvelope } from '../../core/envelope.ts'
import type { ResourceState } from '../../core/document.ts'
import { MeshState } from '../../core/state.ts'
import { asMeshError, MeshError } from '../../errors.ts'
import { usage, type Cli, type Verb } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { writeNewFile } from '../new-file.ts'
import { readEnvelopes } from '../signing/push.ts'
import { plain, toJson, toYaml } from '../terminal.ts'

/** Envelopes asked for at once: of the largest, 13 MB. */
const PAGE = 200
/** A busy node takes edits while it is read; then it is read again. */
const TRIES = 5
/** Faults that are spelled out; the others are counted. */
const FAULTS_SHOWN = 20

type Wanted = Pick<EditView, 'id' | 'verdict'>

interface Downloaded {
  readonly wires: readonly WireEnvelope[]
  readonly says: readonly Wanted[]
  /** As the node says. */
  readonly stateHash: string
}

export const exportVerb: Verb = {
  name: 'export',
  summary: 'write every envelope of a node into a file that anyone can verify',
  usage: ['export FILE', 'export --resource PATH FILE'],
  details: [
    'FILE is new, and holds {"envelopes": [...]} in causal order, with all signatures: meshctl verify FILE needs nothing else.',
    'It holds what the node holds, secrets sealed, and is written for its owner alone.',
    'With --resource, the file is the Automerge document of that resource, with its history, for tools that read Automerge.',
  ].join('\n'),
  options: {
    resource: { type: 'string', value: 'PATH', description: 'of one resource: workspace/zone/kind/name' },
  },
  examples: ['meshctl export mesh-2026-03-01.json', 'meshctl export --resource default/eu/site/web web.automerge'],
  async run(cli, args) {
    const [name] = args.expect('FILE') as [string]
    const file = { path: cli.path(name), name, field: 'FILE' }
    const path = args.text('resource')
    const { wires, stateHash } = await download(await cli.client())
    if (path !== undefined) {
      const { state, faults } = recompute(wires, cli.mesh)
      if (faults.length > 0) throw notAsSaid(faults)
      if (state.resource(path) === undefined) {
        throw new MeshError('not_found', `this node knows no resource ${path}`, {
          field: '--resource',
          hint: 'Write workspace/zone/kind/name; see: meshctl get',
        })
      }
      const { automergeFile } = await automerge()
      await writeNewFile(file, automergeFile(state.changesOf(path)))
      return undefined
    }
    await writeNewFile(file, toJson({ stateHash, envelopes: wires }))
    cli.note(`wrote ${wires.length} envelopes to ${name}`)
    return undefined
  },
}

export const verifyVerb: Verb = {
  name: 'verify',
  summary: 'check every signature and verdict anew, of a node or of an exported file',
  usage: ['verify --full', 'verify FILE'],
  details: [
    '--full downloads all envelopes of the node, computes verdicts and state from them, and compares with what the node says;',
    'and has Automerge compute every resource from the same edits, which must come to the same.',
    'With FILE, as export writes it, no node is asked. --mesh says which mesh it must be: the id that init printed.',
    'What a node holds back cannot be seen so: compare the state hashes of two nodes. Exit 9 when something is not as it is said to be.',
  ].join('\n'),
  options: { full: { type: 'boolean', description: 'everything that the node has' } },
  examples: ['meshctl verify --full', 'meshctl verify mesh-2026-03-01.json'],
  async run(cli, args) {
    const [name, ...others] = args.positionals
    if ((name === undefined) !== args.flag('full') || others.length > 0) throw usage('verify takes --full, or one FILE')
    const { wires, says, stateHash } =
      name === undefined ? await download(await cli.client()) : await readExport(cli.path(name), name)
    const { state, faults } = recompute(wires, cli.mesh)
    for (const { id, verdict } of says) {
      const envelope = state.history.get(id)
      if (envelope !== undefined && wordsOf(state, envelope) !== said(verdict)) {
        faults.push(`${id}: the node says ${said(verdict)}, and its envelopes say ${wordsOf(state, envelope)}`)
      }
    }
    const hash = state.hash()
    if (stateHash !== undefined && stateHash !== hash) {
      faults.push(`the state hash is said to be ${stateHash}, and the envelopes give ${hash}`)
    }
    const { disagreements } = await automerge()
    for (const path of state.history.resourcePaths()) {
      const fields = disagreements(state.changesOf(path), state.resource(path) as ResourceState)
      if (fields.length > 0) faults.push(`${path}: Automerge has other values of ${fields.join(', ')}`)
    }
    report(cli, state, wires.length, hash)
    if (faults.length > 0) throw notAsSaid(faults)
    return undefined
  },
}

/** These verbs alone need Automerge, which takes 30 ms to load. */
async function automerge() {
  return await import('../../core/automerge.ts')
}

/** All of it, at one moment. */
export async function download(client: ApiClient): Promise<Downloaded> {
  for (let tries = 1; ; tries += 1) {
    const before = await client.node()
    const edits: EditView[] = []
    for (let after: string | undefined; ;) {
      const page = await client.editsPage({ after, limit: String(PAGE), bytes: '1' })
      edits.push(...page.data)
      if (page.next === null) break
      after = page.next
    }
    const { envelopes, stateHash } = await client.node()
    const isStill = envelopes === before.envelopes && stateHash === before.stateHash
    if (isStill && edits.length !== envelopes) {
      throw new MeshError('denied', `the node has ${envelopes} envelopes, and shows ${edits.length} to the key of -k`, {
        hint: 'Read with a key of all workspaces, or over the socket of the host.',
      })
    }
    if (isStill) return { wires: edits.map(wireOf), says: edits, stateHash }
    if (tries === TRIES) {
      throw new MeshError('unavailable', 'the node takes edits faster than it can be read', {
        hint: 'Try again when it is quieter.',
      })
    }
  }
}

function wireOf({ id, envelope }: EditView): WireEnvelope {
  if (envelope === undefined) throw new MeshError('internal', `the node did not give the bytes of ${id}`)
  return envelope
}

async function readExport(path: string, name: string) {
  const { envelopes, stateHash } = await readEnvelopes(path, name)
  return { wires: envelopes, says: [], stateHash }
}

/** The state of the envelopes that pass every check, and what is wrong with the others. */
export function recompute(
  wires: readonly WireEnvelope[],
  pinned: string | undefined,
): { state: MeshState; faults: string[] } {
  const state = new MeshState()
  const faults: string[] = []
  for (const [index, wire] of wires.entries()) {
    try {
      const envelope = parseEnvelope(wire, state.meshId ?? pinned)
      const admission = admit(envelope, state.history)
      if (admission.outcome === 'ready') state.add(envelope)
      else if (admission.outcome === 'refused') faults.push(`${envelope.id}: ${admission.reason}`)
      else faults.push(`${envelope.id}: rests on ${admission.missing.join(', ')}, which is not there`)
    } catch (error) {
      faults.push(`envelope ${index + 1}: ${asMeshError(error).message}`)
    }
  }
  return { state, faults }
}

function wordsOf(state: MeshState, envelope: Envelope): string {
  const verdict = state.verdict(envelope)
  return verdict.accepted ? 'accepted' : `void: ${verdict.denial.message}`
}

function said({ accepted, message }: EditView['verdict']): string {
  return accepted ? 'accepted' : `void: ${message ?? ''}`
}

function report(cli: Cli, state: MeshState, count: number, stateHash: string): void {
  const { history, meshId = null } = state
  const voided = history.order.filter((id) => !state.verdict(history.get(id) as Envelope).accepted).length
  const forks = [...history.chains()].reduce((sum, chain) => sum + chain.forks, 0)
  const result = { meshId, meshName: history.genesis?.body.name ?? null, envelopes: count, voided, forks, stateHash }
  if (cli.format === 'json') return cli.out(toJson(result))
  if (cli.format === 'yaml') return cli.out(toYaml(result))
  cli.out(
    [
      `mesh ${result.meshName ?? '-'} ${meshId ?? '-'}`,
      `${count} envelopes, of which ${voided} are void; ${forks} ${forks === 1 ? 'fork' : 'forks'}`,
      `state hash ${stateHash}`,
      '',
    ].join('\n'),
  )
}

export function notAsSaid(faults: readonly string[]): MeshError {
  const shown = faults.slice(0, FAULTS_SHOWN).map((fault) => `  ${plain(fault)}`)
  const more = faults.length > shown.length ? [`  and ${faults.length - shown.length} more`] : []
  return new MeshError('store_corrupt', ['not as it is said to be:', ...shown, ...more].join('\n'), {
    hint: 'Compare with another node. What a node made up counts nowhere else; what it withholds, its peers have.',
  })
}
