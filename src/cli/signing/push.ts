/**
 * The verb push, which hands over signed envelopes, and the files that hold them. Checks their form alone: what they are worth
 * nodes decide. The files are read by verify.ts and root.ts too.
 */

import { readFile } from 'node:fs/promises'
import { wireFromJson } from '../../core/codec.ts'
import type { WireEnvelope } from '../../core/envelope.ts'
import { MeshError } from '../../errors.ts'
import type { Verb } from '../cli.ts'
import { plain, short } from '../terminal.ts'

export const pushVerb: Verb = {
  name: 'push',
  summary: 'hand signed envelopes to a node, such as the genesis of init',
  usage: ['push FILE'],
  details: 'FILE holds {"envelopes": [...]}, as meshctl init writes it. Signatures make it safe to push to any node.',
  options: {},
  examples: ['meshctl push mesh/genesis.json'],
  async run(cli, args) {
    const [file] = args.expect('FILE') as [string]
    const client = await cli.client()
    const counts = new Map<string, number>()
    for (const some of portions((await readEnvelopes(cli.path(file), file)).envelopes)) {
      const outcomes = await client.submit(some)
      for (const { outcome } of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1)
      const refused = outcomes.find(({ outcome }) => outcome === 'refused')
      if (refused !== undefined) {
        throw new MeshError(
          'denied',
          `refused ${short(refused.id ?? '(unreadable)')}: ${plain(refused.reason ?? '')}`,
          {
            hint: 'What came before it in the file was taken.',
          },
        )
      }
    }
    cli.note([...counts].map(([outcome, n]) => `${n} ${outcome}`).join(', '))
    return undefined
  },
}

/** Envelopes in a file, and the state hash that it says they give. Checks their form alone. */
export async function readEnvelopes(
  path: string,
  name: string,
): Promise<{ envelopes: WireEnvelope[]; stateHash: string | undefined }> {
  let value: unknown
  try {
    value = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    throw new MeshError('input_invalid', `cannot read ${name}: ${(error as Error).message}`, { field: 'FILE' }, error)
  }
  const { envelopes, stateHash } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  if (!Array.isArray(envelopes) || envelopes.length === 0) {
    throw new MeshError('input_invalid', `${name} holds no envelopes`, {
      field: 'envelopes',
      hint: 'It must be {"envelopes": [...]}.',
    })
  }
  return {
    envelopes: envelopes.map((envelope, index) => wireFromJson(envelope, `envelopes[${index}]`)),
    stateHash: typeof stateHash === 'string' ? stateHash : undefined,
  }
}

/** What one request holds, with room for the JSON around it. */
const PORTION = { envelopes: 256, bytes: 768 * 1024 } as const

function portions(envelopes: readonly WireEnvelope[]): WireEnvelope[][] {
  const result: WireEnvelope[][] = []
  let bytes = 0
  for (const envelope of envelopes) {
    const size = Buffer.byteLength(JSON.stringify(envelope))
    const open = result.at(-1)
    if (open === undefined || open.length === PORTION.envelopes || bytes + size > PORTION.bytes) {
      result.push([envelope])
      bytes = 0
    } else open.push(envelope)
    bytes += size
  }
  return result
}
