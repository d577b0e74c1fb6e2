/**
 * The configuration of a host that joins by ticket: written once, when there is none, and never changed. One that exists must
 * be for the mesh of the ticket. Called by mesh-node.
 */

import { mkdir, open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { parse, stringify } from 'yaml'
import type { Config } from '../config/config.ts'
import type { TicketContent } from '../core/ticket.ts'
import { MeshError } from '../errors.ts'

/**
 * Writes the configuration unless there is one; whether it was written.
 * @param flags settings of the command line, which are to hold for later starts too.
 * @throws MeshError `config_invalid` when it cannot be written.
 */
export async function writeJoinConfig(
  file: string,
  { mesh, network, nodes }: TicketContent,
  flags: Readonly<Record<string, string>>,
): Promise<boolean> {
  if (await stat(file).catch(() => undefined)) return false
  const settings: Tree = {
    network_id: network,
    mesh: { id: mesh },
    nodes: nodes.map(({ key, addresses }) => ({ public_key: key, endpoints: addresses })),
  }
  for (const [name, text] of Object.entries(flags)) setAt(settings, name.split('.'), valueOf(text))
  try {
    await mkdir(dirname(file), { recursive: true })
    const handle = await open(file, 'wx', 0o644)
    try {
      await handle.writeFile(
        `# Written by mesh-node join. config.example.yaml shows every setting.\n${stringify(settings)}`,
      )
      await handle.sync()
    } finally {
      await handle.close()
    }
    return true
  } catch (error) {
    const hint = 'Choose a file in a directory that you may write to, with -c FILE.'
    throw new MeshError(
      'config_invalid',
      `cannot write ${file}: ${(error as Error).message}`,
      { field: 'config', hint },
      error,
    )
  }
}

/** @throws MeshError `config_invalid` when the node would come up in another mesh, or find nobody. */
export function checkJoinConfig(file: string, config: Config, { mesh, network }: TicketContent): void {
  const wrong =
    config.mesh.id !== mesh
      ? `mesh.id must be ${mesh}`
      : config.networkId !== network
        ? `network_id must be ${network}`
        : config.nodes.length === 0
          ? 'nodes must list a node of the mesh'
          : undefined
  if (wrong === undefined) return
  throw new MeshError('config_invalid', `${file} is not for the mesh of the ticket: ${wrong}`, {
    field: 'config',
    hint: 'Correct it (join changes no configuration that exists), or name a new file with -c.',
  })
}

interface Tree {
  [key: string]: unknown
}

function setAt(tree: Tree, [key = '', ...rest]: readonly string[], value: unknown): void {
  if (rest.length === 0) tree[key] = value
  else setAt((tree[key] ??= {}) as Tree, rest, value)
}

/** A number or a switch as YAML has it; anything else is text. */
function valueOf(text: string): unknown {
  const value: unknown = /^(?:-?\d+(?:\.\d+)?|true|false)$/.test(text) ? parse(text) : text
  return value
}
