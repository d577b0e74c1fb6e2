/**
 * What trust costs, in one process and without disk or network: admitting edits, materialising them, a revocation that
 * voids some of many, a thousand grants. CPU time of the one thread that does it.
 */

import { admit } from '../../src/core/admission.ts'
import { toWire } from '../../src/core/codec.ts'
import { parseEnvelope, type Envelope, type WireEnvelope } from '../../src/core/envelope.ts'
import { MeshState } from '../../src/core/state.ts'
import { diceFrom, keyOf, Scribe, type Dice } from '../support/histories.ts'
import { aim, CpuMeter, progress, rounded, type BenchResult } from './measure.ts'

export interface TrustOptions {
  readonly edits: number
  readonly resources: number
  readonly authors: number
  /** Edits of one author that a revocation voids. */
  readonly voided: number
  readonly grants: number
}

const ADMISSION_AIM_MS = 0.15
const REVOCATION_AIM_MS = 100
const SEED = 1
const TEXT = 'a change of a site, '.repeat(50)

export function trust(options: TrustOptions): Promise<BenchResult> {
  const { scribe, ownerGrant, envelopes, thiefGrant } = sign(options)
  const wires = envelopes.map(toWire)
  progress(`admitting ${wires.length} envelopes`)
  const admission = new CpuMeter()
  const state = admitted(wires, scribe.mesh)
  const admissionMs = admission.ms

  progress('materialising')
  const materialising = new CpuMeter()
  state.hash()
  const materialisedMs = materialising.ms
  state.takeChanges()

  progress(`a revocation that voids ${options.voided}`)
  const revocation = scribe.revoke({ by: keyOf('owner'), grant: ownerGrant, ws: '*' }, `grant/${thiefGrant}`)
  const revoking = new CpuMeter()
  state.add(parseEnvelope(toWire(revocation), scribe.mesh))
  const changed = state.takeChanges()
  for (const path of changed) state.resource(path)
  const revocationMs = revoking.ms
  const voided = envelopes.filter((envelope) => !state.policy.verdict(envelope).accepted).length
  if (voided !== options.voided) throw new Error(`the revocation voided ${voided} edits, not ${options.voided}`)
  const hashing = new CpuMeter()
  state.hash()
  const hashMs = hashing.ms

  progress(`${options.grants} grants`)
  const grants = Array.from({ length: options.grants }, (_, index) =>
    toWire(
      scribe.grant({ by: keyOf('owner'), grant: ownerGrant, ws: '*' }, keyOf(`editor ${index}`).publicKey, 'editor', {
        zones: ['eu'],
        kinds: ['site'],
      }),
    ),
  )
  const granting = new CpuMeter()
  for (const wire of grants) add(state, wire, scribe.mesh)
  const active = grants.filter((_, index) => state.policy.activeGrants(keyOf(`editor ${index}`).publicKey).length === 1)
  const grantsMs = granting.ms
  if (active.length !== options.grants) throw new Error(`${active.length} of ${options.grants} grants are in force`)

  const perEdit = admissionMs / wires.length
  return Promise.resolve({
    bench: 'trust',
    options: { ...options },
    rows: [
      { what: 'admission', envelopes: wires.length, cpuMs: rounded(admissionMs), cpuMsPerEdit: rounded(perEdit) },
      { what: 'materialised', edits: options.edits, resources: options.resources, cpuMs: rounded(materialisedMs) },
      {
        what: 'revocation',
        voided,
        resourcesChanged: changed.size,
        cpuMs: rounded(revocationMs),
        stateHashCpuMs: rounded(hashMs),
      },
      { what: 'grants', grants: options.grants, cpuMs: rounded(grantsMs) },
    ],
    aims: [
      aim('admission_per_edit_cpu_ms', perEdit, ADMISSION_AIM_MS),
      aim('revocation_cpu_ms', revocationMs, REVOCATION_AIM_MS),
    ],
    notes: [
      'admission: form, signature, links and scope of each edit of 1 KB, and its place in the history; nothing is stored.',
      'revocation: from its bytes to every resource that it changed being materialised again; stateHash is that of the whole mesh.',
    ],
  })
}

/** A mesh whose edits some authors and one thief made, resource after resource at random. */
function sign({ edits, resources, authors, voided }: TrustOptions) {
  const dice: Dice = diceFrom(SEED)
  const scribe = new Scribe()
  const owner = keyOf('owner')
  const all = { zones: ['*'], kinds: ['*'] }
  const ownerGrant = scribe.grant({ by: keyOf('root'), grant: scribe.mesh, ws: '*' }, owner.publicKey, 'owner', all)
  const grantTo = (name: string) =>
    scribe.grant({ by: owner, grant: ownerGrant.id, ws: '*' }, keyOf(name).publicKey, 'editor', all)
  const names = Array.from({ length: authors }, (_, index) => `author ${index}`)
  const grants = new Map([...names, 'thief'].map((name) => [name, grantTo(name)]))
  const envelopes: Envelope[] = [scribe.genesis, ownerGrant, ...grants.values()]
  const heads = new Map<string, string>()
  const stolen = new Set(
    dice.shuffle(Array.from({ length: edits - resources }, (_, index) => resources + index)).slice(0, voided),
  )
  for (let index = 0; index < edits; index += 1) {
    const name = stolen.has(index) ? 'thief' : dice.pick(names)
    const site = index < resources ? index : dice.below(resources)
    const path = `default/eu/site/site-${site}`
    const head = heads.get(path)
    const ops = [
      ...(head === undefined ? [['set', '$', true] as const] : []),
      ['set', 'routes/root/return/body', `${index} ${TEXT}`.slice(0, 490)] as const,
    ]
    const edit = scribe.edit({ by: keyOf(name), grant: (grants.get(name) as Envelope).id, ws: 'default' }, [
      [path, head === undefined ? [] : [head], ops],
    ])
    heads.set(path, edit.id)
    envelopes.push(edit)
  }
  return { scribe, ownerGrant: ownerGrant.id, envelopes, thiefGrant: (grants.get('thief') as Envelope).id }
}

function admitted(wires: readonly WireEnvelope[], mesh: string): MeshState {
  const state = new MeshState()
  for (const wire of wires) add(state, wire, mesh)
  return state
}

function add(state: MeshState, wire: WireEnvelope, mesh: string): void {
  const envelope = parseEnvelope(wire, mesh)
  const admission = admit(envelope, state.history)
  if (admission.outcome !== 'ready') throw new Error(`not admitted: ${JSON.stringify(admission)}`)
  state.add(envelope)
}
